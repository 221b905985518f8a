select auction, bidder, price, text("dateTime") as "dateTime", extra from bid;
