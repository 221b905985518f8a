select seller, avg(final) as average
from (
    select a.id, a.seller, max(b.price) as final
    from auction as a join bid as b on a.id = b.auction and b."dateTime" between a."dateTime" and a.expires
    group by a.id, a.seller, a.expires
    qualify row_number() over (partition by a.seller order by a.expires desc, a.id) <= 10
)
group by seller;
