//! Each rule of each operator has a step that breaks it: what is said, and about which words.

use millstream_operators::diagnostic::Severity;

use super::read;

const NODES: &str = r#"[app]
id = "shop"

[sources.orders]
topic = "orders"
key   = { customer = "string" }
value = { amount = "float64", quantity = "int64", items = "list<string>", at = "timestamp", note = "string" }

[sources.returns]
topic = "returns"
key   = { customer = "string" }
value = { amount = "float64", quantity = "int64", at = "timestamp" }

[sources.logs]
topic = "logs"
value = { text = "string" }

[tables.customers]
topic = "customers"
key   = { customer = "string" }
value = { name = "string", credit = "float64" }

[tables.rates]
topic   = "rates"
key     = { customer = "string" }
value   = { rate = "float64" }
history = "1h"

[tables.places]
topic = "places"
key   = { place = "int64" }
value = { town = "string" }
"#;

/// A step `s`, or several of which it is the last; the code, the words that are pointed at, and the message.
#[rustfmt::skip]
const RULES: &[(&str, &str, &str, &str)] = &[
    (r#"op = "filter"
from = "orders""#, "M0103", "s", "step `s` has no `where`"),
    (r#"op = "filter"
from = "orders"
where = "amount""#, "M0405", "amount", "a condition has to be a bool, this is a float64"),
    (r#"op = "filter"
from = "orders"
where = "count(*) > 1""#, "M0410", "count(*)", "the aggregate `count` is not allowed: an expression sees one row"),
    (r#"op = "filter"
from = "orders"
where = "amont > 1""#, "M0402", "amont", "there is no column `amont`"),
    (r#"op = "filter"
from = "orders"
where = """#, "M0401", "", "the expression is empty"),
    (r#"op = "filter"
from = "orders"
where = "null""#, "M0415", "null", "the result is of type null, which no column has"),
    (r#"op = "filter"
from = ["orders"]
where = "amount > 1""#, "M0104", r#"["orders"]"#, "`from` is a list"),
    (r#"op = "filter"
from = "s"
where = "true""#, "M0304", "from", "the step `s` reads itself"),
    (r#"op = "filter"
where = "true""#, "M0103", "s", "step `s` has no `from`"),
    (r#"from = "orders""#, "M0103", "s", "step `s` has no `op`"),
    (r#"op = "filtre"
from = "orders""#, "M0303", r#""filtre""#, "there is no operator `filtre`"),
    (r#"op = "select"
from = "orders""#, "M0103", "s", "step `s` has no `columns`"),
    (r#"op = "select"
from = "orders"
columns = { a = "1" }
add = { b = "2" }"#, "M0110", "add", "`columns` and `add` exclude each other"),
    (r#"op = "select"
from = "orders"
columns = {}"#, "M0209", "columns", "`columns` is empty"),
    (r#"op = "select"
from = "orders"
columns = { customer = "'x'" }"#, "M0207", "customer", "`customer` is a key column of `orders`"),
    (r#"op = "select"
from = "orders"
add = { amount = "1" }"#, "M0207", "amount", "`orders` has a column `amount` already"),
    (r#"op = "select"
from = "orders"
drop = ["customer"]"#, "M0208", r#""customer""#, "`customer` is a key column and cannot be dropped"),
    (r#"op = "select"
from = "orders"
drop = ["amont"]"#, "M0208", r#""amont""#, "no column `amont` in `orders`"),
    (r#"op = "select"
from = "orders"
drop = ["amount", "amount"]"#, "M0207", r#""amount""#, "`amount` is there twice"),
    (r#"op = "select"
from = "orders"
add = { "" = "1" }"#, "M0106", r#""""#, "the name is empty"),
    (r#"op = "explode"
from = "customers"
column = "name""#, "M0305", r#""customers""#, "`customers` is a table, expected a stream"),
    (r#"op = "explode"
from = "orders"
column = "amount""#, "M0404", r#""amount""#, "`amount` is float64, expected a list"),
    (r#"op = "explode"
from = "orders"
column = "item""#, "M0208", r#""item""#, "no column `item` in `orders`"),
    (r#"op = "explode"
from = "orders"
column = "items"
as = "amount""#, "M0207", r#""amount""#, "`orders` has a column `amount` already"),
    (r#"op = "explode"
from = "orders""#, "M0103", "s", "step `s` has no `column`"),
    (r#"op = "rekey"
from = "orders""#, "M0103", "s", "step `s` has no `key`"),
    (r#"op = "rekey"
from = "orders"
key = []"#, "M0309", "[]", "`key` names no column"),
    (r#"op = "rekey"
from = "customers"
key = ["name"]"#, "M0305", r#""customers""#, "`customers` is a table, expected a stream"),
    (r#"op = "rekey"
from = "orders"
key = ["nam"]"#, "M0208", r#""nam""#, "no column `nam` in `orders`"),
    (r#"op = "rekey"
from = "orders"
key = ["note"]
partitions = 0"#, "M0109", "0", "`partitions` is out of range"),
    (r#"op = "rekey"
from = "orders"
key = ["note", "note"]"#, "M0207", r#""note""#, "`note` is there twice"),
    (r#"op = "rekey"
from = "orders"
key = "note""#, "M0104", r#""note""#, "`key` is a string"),
    (r#"op = "rekey"
from = "orders"
key = { n = "note + 1" }"#, "M0408", "note + 1", "`note` is a string and `1` a number (int64): they are not mixed"),
    (r#"op = "branch"
from = "orders""#, "M0103", "s", "step `s` has no `branches`"),
    (r#"op = "branch"
from = "orders"
branches = []"#, "M0104", "[]", "`branches` is a list"),
    (r#"op = "branch"
from = "orders"
branches = [{ name = "late", where = "true" }]"#, "M0106", r#""late""#, "`late` cannot name a branch"),
    (r#"op = "branch"
from = "customers"
branches = [{ name = "a", where = "true" }]"#, "M0305", r#""customers""#, "`customers` is a table, expected a stream"),
    (r#"op = "branch"
from = "orders"
branches = [{ name = "A b", where = "true" }]"#, "M0106", r#""A b""#, "`A b` cannot name a branch"),
    (r#"op = "branch"
from = "orders"
branches = [{ name = "a" }]"#, "M0103", r#"{ name = "a" }"#, "a branch has no `where`"),
    (r#"op = "branch"
from = "orders"
branches = [{ name = "a", where = "amount > 1" }]
otherwise = "a""#, "M0313", r#""a""#, "branch `a` is there twice"),
    (r#"op = "merge"
from = "orders""#, "M0104", r#""orders""#, "`from` is a string"),
    (r#"op = "merge"
from = []"#, "M0109", "[]", "`from` is empty"),
    (r#"op = "merge"
from = ["orders", "customers"]"#, "M0305", r#""customers""#, "`customers` is a table, expected a stream"),
    (r#"op = "merge"
from = ["orders", "orders"]"#, "M0312", r#""orders""#, "an input is named twice"),
    (r#"op = "aggregate"
from = "orders""#, "M0103", "s", "step `s` has no `columns`"),
    (r#"op = "aggregate"
from = "orders"
columns = {}"#, "M0209", "columns", "`columns` is empty"),
    (r#"op = "aggregate"
from = "orders"
columns = { a = "amount" }"#, "M0416", "amount", "`amount` stands outside of an aggregate, which has many rows to choose from"),
    (r#"op = "aggregate"
from = "orders"
columns = { customer = "count(*)" }"#, "M0207", "customer", "`customer` is a key column of the result"),
    (r#"op = "aggregate"
from = "orders"
window = { tumbling = "1m" }
columns = { window_start = "count(*)" }"#, "M0207", "window_start", "`window_start` is a key column of the result"),
    (r#"op = "aggregate"
from = "orders"
group-by = { window_start = "note" }
window = { tumbling = "1m" }
columns = { n = "count(*)" }"#, "M0207", "window", "the key has a column `window_start` already, which windows add to it"),
    (r#"op = "aggregate"
from = "logs"
columns = { n = "count(*)" }"#, "M0309", r#""logs""#, "`logs` has no key"),
    (r#"op = "aggregate"
from = "orders"
columns = { n = "approx_dist(note)" }"#, "M0403", "approx_dist", "there is no function `approx_dist`"),
    (r#"op = "aggregate"
from = "orders"
columns = { n = "count(distinct note)" }"#, "M0406", r#""count(distinct note)""#, "`count(distinct note)` without a window keeps every value for ever"),
    (r#"op = "aggregate"
from = "orders"
emit = "close"
columns = { n = "count(*)" }"#, "M0501", r#""close""#, r#"`emit = "close"` without a window"#),
    (r#"op = "aggregate"
from = "orders"
window = { tumbling = "1m" }
emit = "final"
columns = { n = "count(*)" }"#, "M0108", r#""final""#, "`final` is not a choice for `emit`"),
    (r#"op = "aggregate"
from = "orders"
grace = "1m"
columns = { n = "count(*)" }"#, "M0504", "grace", "`grace` without a window"),
    (r#"op = "aggregate"
from = "orders"
retain = "1m"
window = { tumbling = "1m" }
columns = { n = "count(*)" }"#, "M0503", "retain", "`retain` with a window"),
    (r#"op = "aggregate"
from = "orders"
window = { tumbling = "0s" }
columns = { n = "count(*)" }"#, "M0502", r#""0s""#, "a window of no length"),
    (r#"op = "aggregate"
from = "orders"
window = { tumbling = "-1m" }
columns = { n = "count(*)" }"#, "M0105", r#""-1m""#, "`-1m` is not a duration"),
    (r#"op = "aggregate"
from = "orders"
window = { tumbling = 60 }
columns = { n = "count(*)" }"#, "M0104", "60", "`tumbling` is an integer"),
    (r#"op = "aggregate"
from = "orders"
window = "1m"
columns = { n = "count(*)" }"#, "M0104", r#""1m""#, "`window` is a string"),
    (r#"op = "aggregate"
from = "orders"
window = { tumbling = "999999999999999d" }
columns = { n = "count(*)" }"#, "M0105", r#""999999999999999d""#, "`999999999999999d` is too long"),
    (r#"op = "aggregate"
from = "orders"
window = { tumbling = "1d" }
grace = "99999999999999999999s"
columns = { n = "count(*)" }"#, "M0105", r#""99999999999999999999s""#, "`99999999999999999999s` is too long"),
    (r#"op = "aggregate"
from = "orders"
window = { hopping = "1m", every = "2m" }
columns = { n = "count(*)" }"#, "M0502", r#""2m""#, "windows of 1m every 2m"),
    (r#"op = "aggregate"
from = "orders"
window = { hopping = "1m", every = "0s" }
columns = { n = "count(*)" }"#, "M0502", r#""0s""#, "windows of 1m every 0s"),
    (r#"op = "aggregate"
from = "orders"
window = { hopping = "365d", every = "1s" }
columns = { n = "count(*)" }"#, "M0502", r#""1s""#, "each row would be in 31536000 windows"),
    (r#"op = "aggregate"
from = "orders"
window = { hopping = "1m" }
columns = { n = "count(*)" }"#, "M0103", "window", "`window` has no `every`"),
    (r#"op = "aggregate"
from = "orders"
window = { sliding = "0s" }
columns = { n = "count(*)" }"#, "M0502", r#""0s""#, "a window of no length"),
    (r#"op = "aggregate"
from = "orders"
window = { session = "0s" }
columns = { n = "count(*)" }"#, "M0502", r#""0s""#, "sessions without a gap"),
    (r#"op = "aggregate"
from = "orders"
window = { session = "1m", tumbling = "1m" }
columns = { n = "count(*)" }"#, "M0502", "session", "a window that is both tumbling and session"),
    (r#"op = "aggregate"
from = "orders"
window = { session = "1m", every = "1m" }
columns = { n = "count(*)" }"#, "M0502", "every", "`every` of a session window"),
    (r#"op = "aggregate"
from = "orders"
window = {}
columns = { n = "count(*)" }"#, "M0103", "window", "`window` has no `tumbling`"),
    (r#"op = "aggregate"
from = "customers"
window = { tumbling = "1m" }
columns = { n = "count(*)" }"#, "M0502", "window", "`window` over a table: its rows do not happen at a time"),
    (r#"op = "aggregate"
from = "customers"
retain = "1m"
columns = { n = "count(*)" }"#, "M0503", "retain", "`retain` over a table: a group goes with its last row"),
    (r#"op = "aggregate"
from = "customers"
columns = { n = "first_value(name)" }"#, "M0406", "first_value(name)", "`first_value(name)` over a table: a row that is replaced cannot be taken back from it"),
    (r#"op = "aggregate"
from = "customers"
emit = "close"
columns = { n = "count(*)" }"#, "M0501", r#""close""#, r#"`emit = "close"` without a window"#),
    (r#"op = "aggregate"
from = "orders"
group-by = []
columns = { n = "count(*)" }"#, "M0309", "[]", "`group-by` names no column"),
    (r#"op = "aggregate"
from = "orders"
group-by = ["nope"]
columns = { n = "count(*)" }"#, "M0208", r#""nope""#, "no column `nope` in `orders`"),
    (r#"op = "aggregate"
from = "orders"
columns = { n = "sum(amount) / quantity" }"#, "M0416", "quantity", "`quantity` stands outside of an aggregate, which has many rows to choose from"),
    (r#"op = "aggregate"
from = "orders"
columns = { n = "sum(count(*))" }"#, "M0411", "count(*)", "the aggregate `count` stands inside of another aggregate"),
    (r#"op = "aggregate"
from = "orders"
columns = { n = "sum(amount) over ()" }"#, "M0406", "sum(amount)", "a window function is not allowed: an expression sees one row"),
    (r#"op = "aggregate"
from = "orders"
columns = { n = "sum(note)" }"#, "M0414", "sum(note)", "`sum` needs numbers, `note` is a string"),
    (r#"op = "aggregate"
from = "orders"
columns = { n = "min(items)" }"#, "M0414", "min(items)", "`min(items)`: a list<string> has no order"),
    (r#"op = "features"
from = "orders""#, "M0103", "s", "step `s` has no `columns`"),
    (r#"op = "features"
from = "orders"
columns = {}"#, "M0209", "columns", "`columns` is empty"),
    (r#"op = "features"
from = "orders"
columns.amount = { value = "count(*)", last = "1m" }"#, "M0207", "amount", "`orders` has a column `amount` already"),
    (r#"op = "features"
from = "orders"
columns.n = { value = "count(*)" }"#, "M0103", "n", "feature `n` has no `last`"),
    (r#"op = "features"
from = "orders"
columns.n = { value = "count(*)", last = "0s" }"#, "M0502", r#""0s""#, "a window of no length"),
    (r#"op = "features"
from = "orders"
columns.n = { value = "amount", last = "1m" }"#, "M0416", "amount", "`amount` stands outside of an aggregate, which has many rows to choose from"),
    (r#"op = "features"
from = "orders"
columns.n = { value = "count(*)", last = "1m", where = "count(*) > 1" }"#, "M0410", "count(*)", "the aggregate `count` is not allowed: an expression sees one row"),
    (r#"op = "features"
from = "customers"
columns.n = { value = "count(*)", last = "1m" }"#, "M0305", r#""customers""#, "`customers` is a table, expected a stream"),
    (r#"op = "features"
from = "logs"
columns.n = { value = "count(*)", last = "1m" }"#, "M0309", r#""logs""#, "`logs` has no key"),
    (r#"op = "features"
from = "orders"
columns.n = "count(*)""#, "M0104", r#""count(*)""#, "`n` is a string"),
    (r#"op = "features"
from = "orders"
columns.n = { value = "count(*)", last = "9999999999999999999d" }"#, "M0105", r#""9999999999999999999d""#, "`9999999999999999999d` is too long"),
    (r#"op = "features"
from = "orders"
columns.n = { value = "count(*)", last = "1m", when = "true" }"#, "M0102", "when", "unknown key `when` in feature `n`"),
    (r#"op = "features"
from = "orders"
include-current = "no"
columns.n = { value = "count(*)", last = "1m" }"#, "M0104", r#""no""#, "`include-current` is a string"),
    (r#"op = "join"
from = { node = "orders", as = "o" }
with = { node = "returns", as = "r" }
columns = { a = "o.amount" }"#, "M0505", "s", "a join of two streams without `within`"),
    (r#"op = "join"
from = "orders"
with = "returns"
within = "1m""#, "M0207", r#""returns""#, "`orders` and `returns` both have a column `amount`"),
    (r#"op = "join"
from = "orders"
with = "returns"
within = "1m"
columns = { customer = "1" }"#, "M0207", "customer", "`customer` is a key column of the result"),
    (r#"op = "join"
from = { node = "orders", as = "o" }
with = { node = "returns", as = "r" }
within = { before = "-1m", after = "1m" }
columns = { a = "o.amount" }"#, "M0105", r#""-1m""#, "`-1m` is not a duration"),
    (r#"op = "join"
from = { node = "orders", as = "o" }
with = { node = "returns", as = "r" }
within = { before = "1m" }
columns = { a = "o.amount" }"#, "M0103", "within", "`within` has no `after`"),
    (r#"op = "join"
from = { node = "orders", as = "o" }
with = { node = "returns", as = "r" }
within = "1m"
columns = { a = "amount" }"#, "M0402", "amount", "`amount` is a column of both `o` and `r`"),
    (r#"op = "join"
from = { node = "orders", as = "o" }
with = { node = "returns", as = "r" }
within = "1m"
max-matches = 0
columns = { a = "o.amount" }"#, "M0109", "0", "`max-matches` is out of range"),
    (r#"op = "join"
from = "orders""#, "M0103", "s", "step `s` has no `with`"),
    (r#"op = "join"
from = "customers"
with = "orders""#, "M0305", r#""orders""#, "`customers` is a table and `orders` a stream"),
    (r#"op = "join"
from = "orders"
with = "places""#, "M0317", r#""places""#, "the key of `orders` is (customer string), that of `places` is (place int64)"),
    (r#"op = "join"
from = "logs"
with = "customers""#, "M0309", r#""logs""#, "`logs` has no key"),
    (r#"op = "join"
from = "orders"
with = "customers"
within = "1m""#, "M0505", "within", "`within` of a join with a table"),
    (r#"op = "join"
from = "orders"
with = "customers"
kind = "outer""#, "M0108", r#""outer""#, "an outer join of a stream with a table"),
    (r#"op = "join"
from = "orders"
with = "customers"
kind = "full""#, "M0108", r#""full""#, "`full` is not a choice for `kind`"),
    (r#"op = "join"
from = "orders"
with = "customers"
grace = "1m""#, "M0505", "grace", "`grace` of a join with a table"),
    (r#"op = "join"
from = "orders"
with = "rates"
grace = "2h""#, "M0502", r#""2h""#, "rows wait for 2h, but the table keeps 1h of history"),
    (r#"op = "join"
from = "customers"
with = "customers""#, "M0312", r#""customers""#, "both inputs are called `customers`"),
    (r#"[steps.w]
op = "aggregate"
from = "orders"
window = { tumbling = "1m" }
columns = { n = "count(*)" }
[steps.s]
op = "join"
from = "w"
with = "customers""#, "M0317", r#""customers""#, "the key of `w` is (customer string, window_start timestamp, window_end timestamp), that of `customers` is (customer string)"),
    (r#"op = "join"
from = "orders"
with = "customers"
columns = {}"#, "M0209", "columns", "`columns` is empty"),
    (r#"op = "join"
from = "orders"
with = "custumers""#, "M0301", "custumers", "there is no source, table or step `custumers`"),
    (r#"[steps.a]
op = "rekey"
from = "orders"
key = ["note"]
partitions = 2
[steps.b]
op = "rekey"
from = "logs"
key = ["text"]
partitions = 3
[steps.s]
op = "join"
from = "a"
with = "b"
within = "1m""#, "M0311", "from", "rows from 2 and from 3 partitions meet in `s`"),
    (r#"op = "dedup"
from = "orders""#, "M0103", "s", "step `s` has no `within`"),
    (r#"op = "dedup"
from = "orders"
within = "0s""#, "M0502", r#""0s""#, "no two rows are nearer than that"),
    (r#"op = "dedup"
from = "customers"
within = "1m""#, "M0305", r#""customers""#, "`customers` is a table, expected a stream"),
    (r#"op = "dedup"
from = "logs"
within = "1m""#, "M0309", r#""logs""#, "`logs` has no key"),
    (r#"op = "dedup"
from = "orders"
within = "1m"
distinct-on = ["nope"]"#, "M0208", r#""nope""#, "no column `nope` in `orders`"),
    (r#"op = "dedup"
from = "orders"
within = "1m"
distinct-on = []"#, "M0209", "[]", "`distinct-on` names no column"),
    (r#"op = "dedup"
from = "orders"
within = "1m"
keep = "last""#, "M0108", r#""last""#, "`last` is not a choice for `keep`"),
    (r#"op = "top"
from = "orders"
order-by = "amount""#, "M0103", "s", "step `s` has no `n`"),
    (r#"op = "top"
from = "orders"
n = 3"#, "M0103", "s", "step `s` has no `order-by`"),
    (r#"op = "top"
from = "orders"
n = 0
order-by = "amount""#, "M0109", "0", "`n` is out of range"),
    (r#"op = "top"
from = "orders"
n = 1000000000
order-by = "amount""#, "M0109", "1000000000", "`n` is out of range"),
    (r#"op = "top"
from = "orders"
n = 3
order-by = """#, "M0401", "", "an expression of the order is empty"),
    (r#"op = "top"
from = "orders"
n = 3
order-by = "amount descending""#, "M0401", "descending", "expected an operator or the end, found `descending`"),
    (r#"op = "top"
from = "orders"
n = 3
order-by = "amount desc nulls first""#, "M0406", "nulls first", "where nulls are is not for the order to say"),
    (r#"op = "top"
from = "orders"
n = 3
order-by = "amount"
partition-by = ["nope"]"#, "M0208", r#""nope""#, "no column `nope` in `orders`"),
    (r#"op = "top"
from = "orders"
n = 3
order-by = "amount"
partition-by = ["note", "note"]"#, "M0207", r#""note""#, "`note` is there twice"),
    (r#"op = "top"
from = "orders"
n = 3
order-by = "count(*)""#, "M0410", "count(*)", "the aggregate `count` is not allowed: an expression sees one row"),
    (r#"[steps.r]
op = "select"
from = "orders"
columns = { rank = "amount" }
[steps.s]
op = "top"
from = "r"
n = 3
order-by = "rank""#, "M0207", r#""r""#, "`r` has a column `rank`, which is a key column of the result"),
    (r#"op = "suppress"
from = "customers""#, "M0103", "s", "step `s` has no `until`"),
    (r#"op = "suppress"
from = "orders"
for = "1m""#, "M0305", r#""orders""#, "`orders` is a stream, expected a table"),
    (r#"op = "suppress"
from = "customers"
for = "1m"
until = "window-close""#, "M0110", "for", "`until` and `for` exclude each other"),
    (r#"op = "suppress"
from = "customers"
until = "window-close""#, "M0510", r#""window-close""#, "the rows of `customers` have no windows that close"),
    (r#"op = "suppress"
from = "customers"
for = "1m"
when-full = "fail""#, "M0103", "s", "step `s` has no `max-rows`"),
    (r#"op = "suppress"
from = "customers"
for = "1m"
max-rows = 0"#, "M0109", "0", "`max-rows` is out of range"),
    (r#"op = "suppress"
from = "customers"
for = "1m"
max-bytes = "0B""#, "M0109", r#""0B""#, "`max-bytes` is out of range"),
    (r#"op = "suppress"
from = "customers"
for = "1m"
max-rows = 1
when-full = "fail"
on-error = "skip""#, "M0110", "on-error", "`on-error` and a buffer that fails when it is full exclude each other"),
    (r#"op = "predict"
from = "orders"
outputs = { a = { tensor = "x" } }"#, "M0103", "s", "step `s` has no `model`"),
    (r#"op = "predict"
from = "orders"
model = "fraud"
outputs = { a = { tensor = "x" } }"#, "M0601", r#""fraud""#, "no model `fraud`"),
    (r#"op = "join"
from = "orders"
with = "customers"
foreign-key = "note""#, "M0305", r#""orders""#, "`orders` is a stream, and `foreign-key` joins two tables"),
    (r#"op = "join"
from = "customers"
with = "places"
foreign-key = "name""#, "M0317", r#""name""#, "`place` is int64, but this is string"),
    (r#"op = "join"
from = "customers"
with = "places"
foreign-key = "nam""#, "M0402", "nam", "there is no column `nam`"),
    (r#"op = "join"
from = "customers"
with = "places"
foreign-key = 1"#, "M0104", "1", "`foreign-key` is an integer"),
    (r#"op = "join"
from = "customers"
with = "places"
foreign-key = { plaice = "cast(credit as bigint)" }"#, "M0317", "plaice", "`plaice` is no key column of `places`"),
    (r#"op = "join"
from = "customers"
with = "places"
foreign-key = {}"#, "M0317", "foreign-key", "`foreign-key` does not say `place` of `places`"),
    (r#"op = "join"
from = "customers"
with = "places"
kind = "outer"
foreign-key = "cast(credit as bigint)""#, "M0108", r#""outer""#, "an outer join by foreign key"),
    (r#"op = "join"
from = "customers"
with = "places"
within = "1m"
foreign-key = "cast(credit as bigint)""#, "M0505", "within", "`within` of a join with a table"),
    (r#"[steps.w]
op = "aggregate"
from = "orders"
window = { tumbling = "1m" }
columns = { n = "count(*)" }
[steps.s]
op = "join"
from = "w"
with = "places"
foreign-key = "n""#, "M0317", r#""w""#, "`w` lies in the partitions of a part of its key"),
    (r#"[steps.pairs]
op = "aggregate"
from = "orders"
group-by = ["customer", "note"]
columns = { n = "count(*)" }
[steps.s]
op = "join"
from = "customers"
with = "pairs"
foreign-key = "name""#, "M0317", "foreign-key", "`pairs` has a key of several columns"),
    (r#"op = "to-stream"
from = "orders""#, "M0305", r#""orders""#, "`orders` is a stream, expected a table"),
    (r#"op = "to-table"
from = "customers""#, "M0305", r#""customers""#, "`customers` is a table, expected a stream"),
    (r#"op = "to-table"
from = "logs""#, "M0309", r#""logs""#, "`logs` has no key"),
    (r#"[steps.w]
op = "aggregate"
from = "orders"
columns = { n = "count(*)" }
[steps.s]
op = "filter"
from = "w.late"
where = "true""#, "M0302", "late", "`w` has no output `late`"),
];

#[test]
fn every_rule_of_an_operator_is_checked_and_located() {
    let mut surprises = Vec::new();
    for (step, code, place, message) in RULES {
        let header = if step.starts_with('[') { "" } else { "[steps.s]\n" };
        let text = format!("{NODES}\n{header}{step}\n\n[sinks.out]\nfrom = \"s\"\n");
        let (_, found) = read(&text);
        let errors: Vec<_> = found.iter().filter(|found| found.severity == Severity::Error).collect();
        let [error] = errors.as_slice() else {
            surprises.push(format!("{step}\n{errors:#?}"));
            continue;
        };
        let found = (error.code.number(), &text[error.span.clone()], error.message.as_str());
        if found != (code, *place, *message) {
            surprises.push(format!("{step}\n{found:?}"));
        }
        // What is expected, or the likely fix; an unknown function can be any.
        if error.help.is_none() && error.label.is_empty() && *code != "M0403" {
            surprises.push(format!("{step}\nno help"));
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n\n"));
}
