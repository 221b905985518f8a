with counts as (
    select auction, starts, count(*) as num
    from (select auction, "dateTime" // 2000 * 2000 - 2000 * unnest(range(5)) as starts from bid)
    group by auction, starts
)
select auction, text(starts) as starts, text(starts + 10000) as ends, num
from counts
where num = (select max(num) from counts as others where others.starts = counts.starts);
