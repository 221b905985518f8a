//! The events of Nexmark, a benchmark of queries over an auction house: people who offer things, auctions, and bids on them.
//!
//! The rules are those of Apache Beam's and Flink's generators: of fifty events one is a person, three are auctions and the rest
//! bids; half of the bids go to a hot auction, three quarters come from a hot bidder, three quarters of the auctions belong to
//! a hot seller, and who is hot changes with every hundredth auction or person. An event is a function of the seed and of its
//! number, so that the same seed gives the same events everywhere, in whatever order they are made.

use std::fmt::Write as _;

/// Of [`EVENTS`] events.
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;
const EVENTS: u64 = PERSONS + AUCTIONS + BIDS;

/// The first person and the first auction.
const FIRST_ID: u64 = 1_000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;
/// People, and auctions, share a hot one so long.
const HOT_FOR: u64 = 100;
/// One in so many auctions is not a hot seller's.
const HOT_SELLERS: u64 = 4;
/// One in so many bids does not go to a hot auction.
const HOT_AUCTIONS: u64 = 2;
/// One in so many bids does not come from a hot bidder.
const HOT_BIDDERS: u64 = 4;
/// One in so many bids does not come over a hot channel.
const HOT_CHANNELS: u64 = 2;
/// People who bid and sell: the newest ones.
const ACTIVE_PEOPLE: u64 = 1_000;
/// Auctions that are open at once, on average.
const OPEN_AUCTIONS: u64 = 100;
/// People and auctions may be named so many before they are there.
const LEAD: u64 = 10;
/// Channels that are not hot.
const CHANNELS: u64 = 10_000;

const CITIES: [&str; 10] = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] =
    ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CHANNEL_NAMES: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// How far apart the events of a group are that follow each other. It is a prime, so that each event comes once in every group that
/// is no multiple of it.
pub const SHUFFLE: u64 = 953;

/// What may vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Other seeds, other events.
    pub seed: u64,
    /// The time of the first event, in milliseconds since 1970.
    pub start: u64,
    /// Microseconds from one event's time to the next one's.
    pub delay: u64,
    /// Events come in groups of so many, each group in an order of its own that looks random; 1: they come in the order of time.
    /// No multiple of [`SHUFFLE`].
    pub group: u64,
}

impl Default for Config {
    /// Ten thousand events a second, in order, from the beginning of 2026.
    fn default() -> Self {
        Config { seed: 42, start: 1_767_225_600_000, delay: 100, group: 1 }
    }
}

impl Config {
    fn time(&self, number: u64) -> u64 {
        self.start + number * self.delay / 1_000
    }

    /// The number of the event that comes at a position.
    fn number(&self, position: u64) -> u64 {
        let group = self.group.max(1);
        position / group * group + position * SHUFFLE % group
    }
}

/// Somebody who sells and bids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// From 1000, in the order of time.
    pub id: u64,
    /// First and last name.
    pub name: String,
    /// An address that looks like one.
    pub email_address: String,
    /// Four times four digits.
    pub credit_card: String,
    /// One of a few in the west of the United States.
    pub city: &'static str,
    /// One of six there; it need not be the city's.
    pub state: &'static str,
    /// When this person came, in milliseconds since 1970.
    pub date_time: u64,
    /// Makes the event as long as events of its kind are.
    pub extra: String,
}

/// Something that is for sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auction {
    /// From 1000, in the order of time.
    pub id: u64,
    /// What it is.
    pub item_name: String,
    /// More of that.
    pub description: String,
    /// In cents.
    pub initial_bid: u64,
    /// The least that it is sold for, in cents.
    pub reserve: u64,
    /// When it begins, in milliseconds since 1970.
    pub date_time: u64,
    /// When it ends, in milliseconds since 1970.
    pub expires: u64,
    /// The person who sells.
    pub seller: u64,
    /// From 10 to 14.
    pub category: u64,
    /// Makes the event as long as events of its kind are.
    pub extra: String,
}

/// What somebody would pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bid {
    /// For which auction.
    pub auction: u64,
    /// Which person.
    pub bidder: u64,
    /// In cents.
    pub price: u64,
    /// Where the bidder came from.
    pub channel: String,
    /// The page of that channel.
    pub url: String,
    /// When, in milliseconds since 1970.
    pub date_time: u64,
    /// Makes the event as long as events of its kind are.
    pub extra: String,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody new.
    Person(Person),
    /// A new auction.
    Auction(Auction),
    /// A new bid.
    Bid(Bid),
}

/// The topics of the events.
pub const TOPICS: [&str; 3] = ["person", "auction", "bid"];

impl Event {
    /// Which of [`TOPICS`] it belongs to.
    pub fn topic(&self) -> &'static str {
        match self {
            Event::Person(_) => "person",
            Event::Auction(_) => "auction",
            Event::Bid(_) => "bid",
        }
    }

    /// When it was, in milliseconds since 1970.
    pub fn time(&self) -> u64 {
        match self {
            Event::Person(person) => person.date_time,
            Event::Auction(auction) => auction.date_time,
            Event::Bid(bid) => bid.date_time,
        }
    }

    /// The column that is the record's key, and its value: the person, the auction, and of a bid its auction.
    pub fn key(&self) -> (&'static str, u64) {
        match self {
            Event::Person(person) => ("id", person.id),
            Event::Auction(auction) => ("id", auction.id),
            Event::Bid(bid) => ("auction", bid.auction),
        }
    }

    /// The record's value, all columns as a JSON object. Times are milliseconds since 1970; no text in an event needs escaping.
    pub fn json(&self) -> String {
        match self {
            Event::Person(Person { id, name, email_address, credit_card, city, state, date_time, extra }) => {
                format!(
                    r#"{{"id":{id},"name":"{name}","emailAddress":"{email_address}","creditCard":"{credit_card}","city":"{city}","state":"{state}","dateTime":{date_time},"extra":"{extra}"}}"#
                )
            }
            Event::Auction(Auction {
                id,
                item_name,
                description,
                initial_bid,
                reserve,
                date_time,
                expires,
                seller,
                category,
                extra,
            }) => format!(
                r#"{{"id":{id},"itemName":"{item_name}","description":"{description}","initialBid":{initial_bid},"reserve":{reserve},"dateTime":{date_time},"expires":{expires},"seller":{seller},"category":{category},"extra":"{extra}"}}"#
            ),
            Event::Bid(Bid { auction, bidder, price, channel, url, date_time, extra }) => format!(
                r#"{{"auction":{auction},"bidder":{bidder},"price":{price},"channel":"{channel}","url":"{url}","dateTime":{date_time},"extra":"{extra}"}}"#
            ),
        }
    }

    /// A line as `millstream pipe`, `dev` and `feed` read it.
    pub fn line(&self) -> String {
        let (topic, time, (column, key), value) = (self.topic(), self.time(), self.key(), self.json());
        format!(r#"{{"topic":"{topic}","timestamp":{time},"key":{{"{column}":{key}}},"value":{value}}}"#)
    }
}

/// Gives the events, without end.
#[derive(Clone, Debug)]
pub struct Generator {
    config: Config,
    position: u64,
}

impl Generator {
    /// From the first event on.
    pub fn new(config: Config) -> Self {
        Generator { config, position: 0 }
    }
}

impl Iterator for Generator {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let number = self.config.number(self.position);
        self.position += 1;
        let random = Random::of(self.config.seed, number);
        Some(match number % EVENTS {
            kind if kind < PERSONS => Event::Person(person(&self.config, number, random)),
            kind if kind < PERSONS + AUCTIONS => Event::Auction(auction(&self.config, number, random)),
            _ => Event::Bid(bid(&self.config, number, random)),
        })
    }
}

fn person(config: &Config, number: u64, mut random: Random) -> Person {
    let name = format!("{} {}", random.one_of(&FIRST_NAMES), random.one_of(&LAST_NAMES));
    let email_address = format!("{}@{}.com", random.text(7, ' '), random.text(5, ' '));
    let credit_card = [(); 4].map(|()| format!("{:04}", random.below(10_000))).join(" ");
    let city = random.one_of(&CITIES);
    let state = random.one_of(&STATES);
    let length = 8 + name.len() + email_address.len() + credit_card.len() + city.len() + state.len();
    let extra = random.extra(200, length);
    let (id, date_time) = (FIRST_ID + newest_person(number), config.time(number));
    Person { id, name, email_address, credit_card, city, state, date_time, extra }
}

fn auction(config: &Config, number: u64, mut random: Random) -> Auction {
    let newest = newest_person(number);
    let seller =
        if random.below(HOT_SELLERS) > 0 { newest / HOT_FOR * HOT_FOR } else { random.person(newest) };
    let category = FIRST_CATEGORY + random.below(CATEGORIES);
    let initial_bid = random.price();
    let reserve = initial_bid + random.price();
    let date_time = config.time(number);
    // On average as long as it takes until as many others have begun as are to be open at once.
    let average = config.time(number + OPEN_AUCTIONS * EVENTS / AUCTIONS) - date_time;
    let expires = date_time + 1 + random.below((2 * average).max(1));
    let (item_name, description) = (random.text(20, ' '), random.text(100, ' '));
    let extra = random.extra(500, 48 + item_name.len() + description.len());
    Auction {
        id: FIRST_ID + newest_auction(number),
        item_name,
        description,
        initial_bid,
        reserve,
        date_time,
        expires,
        seller: FIRST_ID + seller,
        category,
        extra,
    }
}

fn bid(config: &Config, number: u64, mut random: Random) -> Bid {
    let newest = newest_auction(number);
    let auction = if random.below(HOT_AUCTIONS) > 0 {
        newest / HOT_FOR * HOT_FOR
    } else {
        let oldest = newest.saturating_sub(OPEN_AUCTIONS);
        oldest + random.below(newest - oldest + 1 + LEAD)
    };
    let newest = newest_person(number);
    // The second one of those who share a hot seller, so that sellers and bidders are not the same.
    let bidder =
        if random.below(HOT_BIDDERS) > 0 { newest / HOT_FOR * HOT_FOR + 1 } else { random.person(newest) };
    let price = random.price();
    let (channel, url) = channel(config, &mut random);
    let extra = random.extra(100, 32);
    let (auction, bidder) = (FIRST_ID + auction, FIRST_ID + bidder);
    Bid { auction, bidder, price, channel, url, date_time: config.time(number), extra }
}

/// A channel and its page, which is always the same. The pages of hot channels do not name them, nor does every tenth other page.
fn channel(config: &Config, random: &mut Random) -> (String, String) {
    let is_hot = random.below(HOT_CHANNELS) > 0;
    let channel = random.below(if is_hot { CHANNEL_NAMES.len() as u64 } else { CHANNELS });
    let mut page = Random::of(!config.seed, 2 * channel + u64::from(is_hot));
    let [first, second, third] = [(); 3].map(|()| page.text(5, '_'));
    let mut url = format!("https://www.nexmark.com/{first}/{second}/{third}/item.htm?query=1");
    let names = page.below(10) > 0;
    if let (true, Some(name)) = (is_hot, CHANNEL_NAMES.get(channel as usize)) {
        return ((*name).to_owned(), url);
    }
    if names {
        // Far apart, with as many digits as ids have.
        let _ = write!(url, "&channel_id={}", (channel as i32).reverse_bits().unsigned_abs());
    }
    (format!("channel-{channel}"), url)
}

/// The newest person when an event comes, that event included, from 0: one begins each fifty events.
fn newest_person(number: u64) -> u64 {
    number / EVENTS
}

/// The newest auction when an auction or a bid comes, that event included, from 0.
fn newest_auction(number: u64) -> u64 {
    number / EVENTS * AUCTIONS + (number % EVENTS - PERSONS).min(AUCTIONS - 1)
}

/// Numbers that look random (splitmix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// Those of one event.
    fn of(seed: u64, number: u64) -> Self {
        let start = Random(seed).next();
        Random(start ^ Random(number).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is above 0.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn one_of(&mut self, words: &[&'static str]) -> &'static str {
        words.get(self.below(words.len() as u64) as usize).copied().unwrap_or_default()
    }

    /// From 1 to a million dollars, in cents: as many of each length.
    fn price(&mut self) -> u64 {
        let fraction = self.next() as f64 / u64::MAX as f64;
        (10_f64.powf(fraction * 6.0) * 100.0).round() as u64
    }

    /// One of the people who are active, or of a few who are yet to come, from 0.
    fn person(&mut self, newest: u64) -> u64 {
        let people = newest + 1;
        let active = people.min(ACTIVE_PEOPLE);
        people - active + self.below(active + LEAD)
    }

    fn letter(&mut self) -> char {
        char::from(b'a' + self.below(26) as u8)
    }

    /// Three letters or more, fewer than `end`, with gaps; none at its ends if they are spaces.
    fn text(&mut self, end: u64, gap: char) -> String {
        let length = 3 + self.below(end - 3);
        let letters = (0..length).map(|_| if self.below(13) == 0 { gap } else { self.letter() });
        letters.collect::<String>().trim().to_owned()
    }

    /// As many letters as an event of a length is short of its kind's average, a fifth more or less.
    fn extra(&mut self, average: usize, length: usize) -> String {
        let missing = average.saturating_sub(length) as u64;
        let spread = missing / 5;
        let letters = missing - spread + self.below(2 * spread + 1);
        (0..letters).map(|_| self.letter()).collect()
    }
}

#[cfg(test)]
mod tests;
