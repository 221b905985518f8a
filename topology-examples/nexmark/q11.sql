with gaps as (
    select *, "dateTime" - lag("dateTime") over (partition by bidder order by "dateTime") as gap from bid
),
sessions as (
    select *, count(*) filter (where gap is null or gap > 10000) over (partition by bidder order by "dateTime") as session
    from gaps
)
select bidder, text(min("dateTime")) as window_start, text(max("dateTime")) as window_end, count(*) as bid_count,
    text(max("dateTime") + 10000) as endtime
from sessions
group by bidder, session;
