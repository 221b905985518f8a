-- What every query reads: the lines of the three files as tables, `line` being the order in which they came. Times are milliseconds
-- since 1970; `text` writes them as Millstream does.

create macro text(t) as strftime(make_timestamp(t * 1000), '%Y-%m-%dT%H:%M:%S.%gZ');
create macro day(t) as strftime(make_timestamp(t * 1000), '%Y-%m-%d');

create table person as select row_number() over () as line, unnest(value) from read_json('person.jsonl',
    format = 'newline_delimited', columns = {value: 'struct(id bigint, name varchar, "emailAddress" varchar, "creditCard" varchar,
    city varchar, state varchar, "dateTime" bigint, extra varchar)'});

create table auction as select row_number() over () as line, unnest(value) from read_json('auction.jsonl',
    format = 'newline_delimited', columns = {value: 'struct(id bigint, "itemName" varchar, description varchar,
    "initialBid" bigint, reserve bigint, "dateTime" bigint, expires bigint, seller bigint, category bigint, extra varchar)'});

create table bid as select row_number() over () as line, "timestamp" as received, unnest(value) from read_json('bid.jsonl',
    format = 'newline_delimited', columns = {"timestamp": 'bigint', value: 'struct(auction bigint, bidder bigint, price bigint,
    channel varchar, url varchar, "dateTime" bigint, extra varchar)'});
