select b.auction, b.bidder, b.price, b.channel, b.url, text(b."dateTime") as "bid_dateTime", b.extra as bid_extra,
    a."itemName", a.description, a."initialBid", a.reserve, text(a."dateTime") as "auction_dateTime", text(a.expires) as expires,
    a.seller, a.category, a.extra as auction_extra
from bid as b join auction as a on b.auction = a.id and abs(b."dateTime" - a."dateTime") <= 600000
where a.category = 10;
