select auction, row_number() over prices as rank, bidder, price, channel, url, text("dateTime") as "dateTime", extra
from bid
window prices as (partition by auction order by price desc, "dateTime", line)
qualify rank <= 10;
