select auction, bidder, cast(price * 0.908 as decimal(23, 3)) as price,
    case
        when "dateTime" // 3600000 % 24 between 8 and 18 then 'dayTime'
        when "dateTime" // 3600000 % 24 in (7, 19) then 'otherTime'
        else 'nightTime'
    end as "bidTimeType",
    text("dateTime") as "dateTime", extra, len(regexp_extract_all(extra, 'c')) as c_counts
from bid
where price * 0.908 > 1000000 and price * 0.908 < 50000000;
