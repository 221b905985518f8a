select a.id as auction, 1 as rank, a."itemName", a.description, a."initialBid", a.reserve, text(a."dateTime") as "dateTime",
    text(a.expires) as expires, a.seller, a.category, a.extra, b.bidder, b.price, text(b."dateTime") as "bid_dateTime",
    b.extra as bid_extra
from auction as a join bid as b on a.id = b.auction and b."dateTime" between a."dateTime" and a.expires
qualify row_number() over (partition by a.id order by b.price desc, b."dateTime", b.line) = 1;
