//! Joins by foreign key on a broker: rows that lie in other partitions, and in other processes, find each other.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::application::{Application, random};
use super::broker::Broker;
use super::java;

const DESCRIBED: &str = r#"
[app]
id = "{app}"

[tables.orders]
topic = "{app}-orders"
key   = { order = "string" }
value = { product = "string", pieces = "int64" }

[tables.products]
topic = "{app}-products"
key   = { product = "string" }
value = { price = "int64" }

[steps.described]
op          = "join"
from        = { node = "orders", as = "o" }
with        = { node = "products", as = "p" }
kind        = "left"
foreign-key = "o.product"
columns     = { product = "o.product", pieces = "o.pieces", price = "p.price" }

[sinks.out]
from  = "described"
topic = "{app}-described"
"#;

/// Changes of a table: new rows and deletes.
fn changes(
    random: &mut impl Iterator<Item = u64>,
    count: usize,
    row: impl Fn(u64) -> (String, Json),
    rows: &mut BTreeMap<String, Json>,
) -> Vec<Json> {
    let draws = (0..count).filter_map(|_| random.next()).map(|draw| draw >> 16);
    draws
        .map(|draw| {
            let (key, value) = row(draw);
            if draw.is_multiple_of(11) {
                rows.remove(&key);
                return json!({ "key": key, "value": null });
            }
            rows.insert(key.clone(), value.clone());
            json!({ "key": key, "value": value.to_string() })
        })
        .collect()
}

#[test]
fn foreign_keys_find_each_other_across_processes_that_are_killed() {
    let broker = Broker::shared();
    let application = Application::of_topics(broker, "foreign", DESCRIBED, &["orders", "described"], 3);
    java::create_topic(broker, &application.topic("products"), 2);
    let mut random = random(5);
    let (mut orders, mut products) = (BTreeMap::new(), BTreeMap::new());
    let steady = application.start(broker, "steady", &["--instance", "steady"]);
    let aborted = || {
        let topics = ["described", "described-subscription-repartition", "described-response-repartition"];
        topics.map(|topic| application.aborted(broker, topic)).iter().sum::<i64>()
    };
    // On a busy machine it may take some before one is hit at work.
    for round in 0.. {
        assert!(round < 60, "no kill has hit a transaction\n{}", application.log());
        let guest = application.start(broker, "guest", &["--instance", "guest"]);
        std::thread::sleep(Duration::from_millis(1000 + round * 131 % 600));
        let order = |draw: u64| {
            let value = json!({ "product": format!("p{}", draw / 200 % 30), "pieces": draw % 5 });
            (format!("o{}", draw % 200), value)
        };
        let product = |draw: u64| (format!("p{}", draw % 30), json!({ "price": draw / 30 % 1000 }));
        for (topic, records) in [
            ("orders", changes(&mut random, 300, order, &mut orders)),
            ("products", changes(&mut random, 40, product, &mut products)),
        ] {
            let topic = application.topic(topic);
            java::call(broker, json!({ "do": "produce", "topic": topic, "records": records }));
        }
        std::thread::sleep(Duration::from_millis(round * 37 % 150));
        guest.kill();
        if round >= 11 && aborted() > 0 {
            break;
        }
    }
    let expected: BTreeMap<String, Json> = orders
        .iter()
        .map(|(order, row)| {
            let price = row["product"].as_str().and_then(|product| products.get(product));
            let price = price.map_or(Json::Null, |product| product["price"].clone());
            let row = json!({ "product": row["product"], "pieces": row["pieces"], "price": price });
            (order.clone(), row)
        })
        .collect();
    let found = || {
        let mut rows = BTreeMap::new();
        for record in java::consume(broker, &application.topic("described")) {
            let key = String::from_utf8(record.key.unwrap()).unwrap();
            match record.value {
                Some(value) => rows.insert(key, serde_json::from_slice::<Json>(&value).unwrap()),
                None => rows.remove(&key),
            };
        }
        rows
    };
    application.wait_until("the results of the newest rows", || found() == expected);
    assert_eq!(steady.end(), Some(0), "{}", application.log());
    assert_eq!(found(), expected);
}
