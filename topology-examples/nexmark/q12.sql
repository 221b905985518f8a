select bidder, text(received // 10000 * 10000) as window_start, text(received // 10000 * 10000 + 10000) as window_end,
    count(*) as bid_count
from bid
group by bidder, received // 10000;
