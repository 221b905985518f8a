select text(starts) as starts, price, auction, bidder, text("dateTime") as "dateTime", extra
from (select *, "dateTime" // 10000 * 10000 as starts, max(price) over (partition by "dateTime" // 10000) as highest from bid)
where price = highest;
