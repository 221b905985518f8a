select auction, bidder, price, channel, split(url, '/')[4] as dir1, split(url, '/')[5] as dir2, split(url, '/')[6] as dir3
from bid;
