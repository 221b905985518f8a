select distinct p.id, p.name, text(starts) as window_start, text(starts + 10000) as window_end
from (select *, "dateTime" // 10000 * 10000 as starts from person) as p
    join auction as a on a.seller = p.id and a."dateTime" // 10000 * 10000 = p.starts;
