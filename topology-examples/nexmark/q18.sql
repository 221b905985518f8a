select auction, bidder, 1 as rank, price, channel, url, text("dateTime") as "dateTime", extra
from bid
qualify row_number() over (partition by auction, bidder order by "dateTime" desc, line) = 1;
