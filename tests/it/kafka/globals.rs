//! Global tables on a broker: each process holds all of them, and follows their topics.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::application::{Application, Running};
use super::broker::Broker;
use super::java;

/// Payments of any card look up their shop's town.
const TOPOLOGY: &str = r#"
[app]
id = "{app}"

[sources.payments]
topic = "{app}-payments"
key   = { card = "string" }
value = { shop = "string", number = "int64" }

[tables.shops]
topic = "{app}-shops"
key   = { shop = "string" }
value = { town = "string" }
scope = "global"

[steps.placed]
op      = "join"
from    = { node = "payments", as = "p" }
with    = { node = "shops", as = "s" }
on      = { shop = "p.shop" }
kind    = "left"
columns = { number = "p.number", town = "s.town" }

[sinks.placed_payments]
from  = "placed"
topic = "{app}-placed"
"#;

const SHOPS: usize = 40;
const PARTITIONS: usize = 4;

struct Shops<'b> {
    broker: &'b Broker,
    application: Application,
    payments: usize,
}

impl<'b> Shops<'b> {
    fn new(broker: &'b Broker, name: &str) -> Self {
        let topics = ["payments", "shops", "placed"];
        let application = Application::of_topics(broker, name, TOPOLOGY, &topics, PARTITIONS);
        Shops { broker, application, payments: 0 }
    }

    /// All shops are in this town, as the next records of their topic say.
    fn move_all(&self, town: &str) {
        self.tell(
            (0..SHOPS).map(|shop| (shop, Some(json!({ "town": format!("{town}-{shop}") }).to_string()))),
        );
    }

    fn tell(&self, shops: impl Iterator<Item = (usize, Option<String>)>) {
        let records = shops.map(|(shop, value)| json!({ "key": format!("shop-{shop}"), "value": value }));
        let records: Vec<Json> = records.collect();
        let topic = self.application.topic("shops");
        java::call(self.broker, json!({ "do": "produce", "topic": topic, "records": records }));
    }

    /// Pays once in each shop, with cards of all partitions, and gives what was written for it, by shop.
    fn pay(&mut self) -> BTreeMap<usize, Json> {
        let first = self.payments;
        self.payments += SHOPS;
        let records = (first..self.payments).map(|number| {
            let value = json!({ "shop": format!("shop-{}", number - first), "number": number }).to_string();
            json!({ "key": format!("card-{}", number % 7), "value": value })
        });
        let records: Vec<Json> = records.collect();
        let topic = self.application.topic("payments");
        java::call(self.broker, json!({ "do": "produce", "topic": topic, "records": records }));
        self.application.await_end(self.broker);
        let written = java::consume(self.broker, &self.application.topic("placed"));
        let rows = written
            .iter()
            .map(|record| -> Json { serde_json::from_slice(record.value.as_deref().unwrap()).unwrap() });
        let number = |row: &Json| row["number"].as_u64().unwrap() as usize;
        let rows: Vec<Json> = rows.filter(|row| number(row) >= first).collect();
        assert_eq!(rows.len(), SHOPS, "each payment once");
        rows.into_iter().map(|row| (number(&row) - first, row["town"].clone())).collect()
    }

    #[track_caller]
    fn check(&mut self, town: &str) {
        let expected: Vec<Json> = (0..SHOPS).map(|shop| json!(format!("{town}-{shop}"))).collect();
        let found: Vec<Json> = self.pay().into_values().collect();
        assert_eq!(found, expected, "{}", self.application.log());
    }

    /// Starts a process, and waits until it holds the tables; gives how many records it has read for that.
    fn start(&self, state: &str) -> (Running, usize) {
        let before = self.application.log().len();
        let running = self.application.start(self.broker, state, &[]);
        self.application.wait_until("the global tables", || self.restored(before).is_some());
        (running, self.restored(before).unwrap())
    }

    fn restored(&self, since: usize) -> Option<usize> {
        let log = self.application.log();
        let line = log[since..].lines().find(|line| line.contains("global tables restored"))?.to_owned();
        let (_, records) = line.split_once("records=")?;
        records.split_whitespace().next()?.parse().ok()
    }
}

#[test]
fn every_process_holds_the_whole_table_and_follows_it() {
    let mut shops = Shops::new(Broker::shared(), "global");
    shops.move_all("oslo");
    let (one, restored) = shops.start("one");
    assert_eq!(restored, SHOPS);
    let (two, restored) = shops.start("two");
    assert_eq!(restored, SHOPS);
    // Whichever process has a card's partition knows every shop.
    shops.check("oslo");
    let tasks: BTreeSet<String> = java::consume(shops.broker, &shops.application.topic("placed"))
        .iter()
        .map(|record| record.partition.to_string())
        .collect();
    assert!(tasks.len() > 1, "payments of several tasks");

    // An update while they run is seen by both.
    shops.move_all("bergen");
    shops.application.wait_until("the second process to have read it", || {
        shops.application.metric(&format!(
            "millstream_global_table_records_total{{app=\"{}\",table=\"shops\"}}",
            shops.application.id
        )) == Some(2.0 * SHOPS as f64)
    });
    let all_in = |found: &BTreeMap<usize, Json>, town: &str| {
        found.iter().all(|(shop, found)| *found == json!(format!("{town}-{shop}")))
    };
    let mut found = shops.pay();
    for _ in 0..50 {
        if all_in(&found, "bergen") {
            break;
        }
        found = shops.pay();
    }
    assert!(all_in(&found, "bergen"), "{found:?}");

    // Both are killed. What happens meanwhile is read on from where they were, of a state that is lost everything.
    one.kill();
    two.kill();
    shops.tell([(3, None), (4, Some(json!({ "town": "nowhere" }).to_string()))].into_iter());
    let (one, restored) = shops.start("one");
    assert!((2..=SHOPS + 2).contains(&restored), "{restored} records of {}", 2 * SHOPS + 2);
    std::fs::remove_dir_all(shops.application.folder.at("two")).unwrap();
    let (two, restored) = shops.start("two");
    assert_eq!(restored, 2 * SHOPS + 2);
    let found = shops.pay();
    for (shop, town) in found {
        let expected = match shop {
            3 => Json::Null,
            4 => json!("nowhere"),
            _ => json!(format!("bergen-{shop}")),
        };
        assert_eq!(town, expected, "{shop}");
    }
    assert_eq!([one.end(), two.end()], [Some(0), Some(0)], "{}", shops.application.log());

    // After an orderly end there is nothing to read again.
    let (one, restored) = shops.start("one");
    assert_eq!(restored, 0);
    assert_eq!(one.end(), Some(0), "{}", shops.application.log());
}

#[test]
fn a_table_that_is_another_one_is_read_anew() {
    let mut shops = Shops::new(Broker::shared(), "global-anew");
    shops.move_all("oslo");
    let (one, _) = shops.start("one");
    shops.check("oslo");
    assert_eq!(one.end(), Some(0), "{}", shops.application.log());

    // As long as the former one, so that only its id tells them apart.
    let topic = shops.application.topic("shops");
    java::call(shops.broker, json!({ "do": "delete-topic", "topic": topic }));
    shops.application.wait_until("the topic to be gone", || {
        java::try_call(shops.broker, json!({ "do": "ends", "topic": topic })).get("error").is_some()
    });
    java::create_topic(shops.broker, &topic, PARTITIONS);
    shops.move_all("bergen");
    let (one, restored) = shops.start("one");
    assert_eq!(restored, SHOPS, "{}", shops.application.log());
    assert!(shops.application.log().contains("the topic was made anew"), "{}", shops.application.log());
    shops.check("bergen");
    assert_eq!(one.end(), Some(0), "{}", shops.application.log());

    // Damage is found when a row is read, or before; what is there is moved away and read anew.
    let folder = std::path::PathBuf::from(shops.application.folder.at("one"))
        .join(&shops.application.id)
        .join("global-shops");
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let (one, restored) = shops.start("one");
    assert_eq!(restored, SHOPS, "{}", shops.application.log());
    assert!(shops.application.log().contains("the state is damaged"), "{}", shops.application.log());
    shops.check("bergen");
    assert_eq!(one.end(), Some(0), "{}", shops.application.log());
}

#[test]
fn a_record_of_a_global_table_that_fails_ends_the_process() {
    let shops = Shops::new(Broker::shared(), "global-bad");
    shops.move_all("oslo");
    let (mut one, _) = shops.start("one");
    shops.tell([(1, Some("{".to_owned()))].into_iter());
    assert_eq!(one.code(), Some(1), "{}", shops.application.log());
    let said = format!("error[M0801]: `shops` stopped at record {}/", shops.application.topic("shops"));
    assert!(shops.application.log().contains(&said), "{}", shops.application.log());
}

#[test]
fn a_table_whose_topic_is_made_anew_under_a_running_process_is_read_anew() {
    let mut shops = Shops::new(Broker::shared(), "global-under");
    shops.move_all("oslo");
    let (one, _) = shops.start("one");
    shops.check("oslo");
    let before = shops.application.log().len();
    let topic = shops.application.topic("shops");
    java::call(shops.broker, json!({ "do": "delete-topic", "topic": topic }));
    shops.application.wait_until("the topic to be gone", || {
        java::try_call(shops.broker, json!({ "do": "ends", "topic": topic })).get("error").is_some()
    });
    java::create_topic(shops.broker, &topic, PARTITIONS);
    shops.move_all("bergen");
    shops.application.wait_until("the table to be read anew", || shops.restored(before) == Some(SHOPS));
    shops.check("bergen");
    assert_eq!(one.end(), Some(0), "{}", shops.application.log());
}
