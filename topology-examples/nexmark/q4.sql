select category, avg(final) as average
from (
    select a.id, a.category, max(b.price) as final
    from auction as a join bid as b on a.id = b.auction and b."dateTime" between a."dateTime" and a.expires
    group by a.id, a.category
)
group by category;
