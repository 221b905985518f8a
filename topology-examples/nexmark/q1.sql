select auction, bidder, cast(price * 0.908 as decimal(23, 3)) as price, text("dateTime") as "dateTime", extra from bid;
