use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn events(config: Config, count: usize) -> Vec<Event> {
    Generator::new(config).take(count).collect()
}

fn bids(events: &[Event]) -> Vec<&Bid> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Bid(bid) => Some(bid),
            _ => None,
        })
        .collect()
}

fn auctions(events: &[Event]) -> Vec<&Auction> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Auction(auction) => Some(auction),
            _ => None,
        })
        .collect()
}

#[track_caller]
fn is_near(part: usize, whole: usize, expected: f64) {
    let found = part as f64 / whole as f64;
    assert!((found - expected).abs() < 0.02, "{found} instead of {expected}");
}

#[test]
fn events_come_in_the_proportions_of_the_rules_with_ids_in_order() {
    let events = events(Config::default(), 50_000);
    let mut ids: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for event in &events {
        ids.entry(event.topic()).or_default().push(event.key().1);
    }
    assert_eq!(ids["person"], (1_000..2_000).collect::<Vec<_>>());
    assert_eq!(ids["auction"], (1_000..4_000).collect::<Vec<_>>());
    assert_eq!(ids["bid"].len(), 46_000);
    assert!(events.is_sorted_by_key(Event::time));
    let time = |event: &Event| event.time() - Config::default().start;
    assert_eq!((time(&events[0]), time(&events[49_999])), (0, 4_999), "ten in a millisecond");
}

#[test]
fn a_few_are_hot() {
    let events = events(Config::default(), 100_000);
    let (bids, auctions) = (bids(&events), auctions(&events));
    let count = |is_hot: fn(&&&Bid) -> bool| bids.iter().filter(is_hot).count();
    // One of a hundred others is hot, too, by chance.
    is_near(count(|bid| bid.auction % 100 == 0), bids.len(), 0.5);
    is_near(count(|bid| bid.bidder % 100 == 1), bids.len(), 0.75);
    is_near(count(|bid| CHANNEL_NAMES.contains(&&*bid.channel)), bids.len(), 0.5);
    is_near(auctions.iter().filter(|auction| auction.seller % 100 == 0).count(), auctions.len(), 0.75);
    is_near(auctions.iter().filter(|auction| auction.category == 10).count(), auctions.len(), 0.2);
    is_near(count(|bid| bid.price < 10_000), bids.len(), 1.0 / 3.0);
    is_near(count(|bid| bid.price >= 1_000_000), bids.len(), 1.0 / 3.0);
}

#[test]
fn bids_go_to_auctions_that_are_open_or_soon_will_be() {
    let events = events(Config::default(), 100_000);
    let (mut newest, mut newest_person, mut early) = (0, 0, 0);
    for event in &events {
        match event {
            Event::Person(person) => newest_person = person.id,
            Event::Auction(auction) => {
                newest = auction.id;
                assert!((1_000..=newest_person + 10).contains(&auction.seller));
                let length = auction.expires - auction.date_time;
                assert!((1..=2 * 167).contains(&length), "{length}");
                assert!(auction.reserve > auction.initial_bid);
            }
            Event::Bid(bid) => {
                assert!(bid.auction <= newest + 10 && bid.auction + 100 >= newest.min(1_100), "{bid:?}");
                assert!(bid.bidder <= newest_person + 10 && bid.bidder >= 1_000);
                early += usize::from(bid.auction > newest);
            }
        }
    }
    is_near(early, bids(&events).len(), 0.045);
    let lengths: Vec<u64> =
        auctions(&events).iter().map(|auction| auction.expires - auction.date_time).collect();
    let average = lengths.iter().sum::<u64>() as f64 / lengths.len() as f64;
    assert!((average - 167.0).abs() < 5.0, "{average}");
}

#[test]
fn channels_have_one_page_each_and_most_pages_name_them() {
    let events = events(Config::default(), 100_000);
    let mut urls: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for bid in bids(&events) {
        urls.entry(&bid.channel).or_default().insert(&bid.url);
    }
    assert!(urls.values().all(|urls| urls.len() == 1));
    let (hot, cold): (Vec<_>, Vec<_>) =
        urls.iter().partition(|(channel, _)| CHANNEL_NAMES.contains(*channel));
    assert_eq!(hot.len(), 4);
    let naming = |urls: &BTreeSet<&str>| urls.iter().any(|url| url.contains("&channel_id="));
    assert!(!hot.iter().any(|(_, urls)| naming(urls)));
    is_near(cold.iter().filter(|(_, urls)| naming(urls)).count(), cold.len(), 0.9);
    let url = hot[0].1.first().unwrap();
    assert_eq!(url.split('/').count(), 7, "{url}");
    assert!(url.starts_with("https://www.nexmark.com/") && url.ends_with("/item.htm?query=1"));
}

#[test]
fn events_are_as_long_as_the_rules_say() {
    let events = events(Config::default(), 50_000);
    let average = |lengths: Vec<usize>| lengths.iter().sum::<usize>() / lengths.len();
    let extra = average(bids(&events).iter().map(|bid| bid.extra.len()).collect());
    assert!((67..=69).contains(&extra), "{extra}");
    let text = |auction: &&Auction| 48 + auction.item_name.len() + auction.description.len();
    let whole =
        average(auctions(&events).iter().map(|auction| text(auction) + auction.extra.len()).collect());
    assert!((495..=505).contains(&whole), "{whole}");
}

#[test]
fn a_seed_gives_the_same_events_in_whatever_order() {
    let ordered = events(Config::default(), 10_000);
    assert_eq!(ordered, events(Config::default(), 10_000));
    assert_ne!(ordered, events(Config { seed: 43, ..Config::default() }, 10_000));
    let mut shuffled = events(Config { group: 1_000, ..Config::default() }, 10_000);
    assert_ne!(ordered, shuffled);
    for (position, event) in shuffled.iter().enumerate() {
        let other = &ordered[position];
        assert!(event.time().abs_diff(other.time()) < 100, "{position}: {event:?}");
    }
    shuffled.sort_by_key(|event| (event.time(), event.json()));
    let mut ordered = ordered;
    ordered.sort_by_key(|event| (event.time(), event.json()));
    assert_eq!(ordered, shuffled);
}

#[test]
fn a_line_is_json_with_key_and_value() {
    for event in events(Config::default(), 200) {
        let line: serde_json::Value = serde_json::from_str(&event.line()).unwrap();
        let (column, key) = event.key();
        assert_eq!(line["key"][column], key);
        assert_eq!(line["value"][column], key);
        assert_eq!(line["topic"], event.topic());
        assert_eq!(line["timestamp"], line["value"]["dateTime"]);
        let columns = line["value"].as_object().unwrap().len();
        assert_eq!(
            columns,
            match event.topic() {
                "person" => 8,
                "auction" => 10,
                _ => 7,
            }
        );
    }
}
