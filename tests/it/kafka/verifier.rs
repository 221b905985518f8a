//! What an application on a real broker has to have written, by the oracle of the simulation.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use millstream::engine::plan::Plan;
use millstream::engine::record::Record;
use millstream::engine::task::Task;
use millstream::engine::topology;
use millstream::state::{StateDirectory, StateOptions, StoreId, TaskState};
use serde_json::{Value as Json, json};

use super::application::Application;
use super::broker::Broker;
use super::java;
use crate::oracle::{self, Cluster, Disk, Entries, Partition};

/// The name of the topic in which tasks with several inputs say in which order they take their records.
pub const ORDER: &str = "order";

struct Brokers<'a> {
    broker: &'a Broker,
    application: &'a Application,
    /// `app.id`, which the group and the internal topics have in their names.
    id: String,
    counts: HashMap<String, u32>,
    /// What was read, by topic.
    read: RefCell<HashMap<String, Vec<java::Record>>>,
}

impl Brokers<'_> {
    fn records(&self, (topic, partition): &Partition, from: i64) -> Vec<Record> {
        let mut read = self.read.borrow_mut();
        let records = read.entry(topic.clone()).or_insert_with(|| java::consume(self.broker, topic));
        let own = records
            .iter()
            .filter(|record| record.partition == i64::from(*partition) && record.offset >= from);
        own.map(java::Record::as_read).collect()
    }
}

impl Cluster for Brokers<'_> {
    fn has_open_transaction(&self) -> bool {
        let prefix = format!("{}-", self.id);
        let known = java::call(self.broker, json!({ "do": "transactions", "prefix": prefix }));
        let ended = |state: &str| ["Empty", "CompleteCommit", "CompleteAbort"].contains(&state);
        known["transactions"].as_array().unwrap().iter().any(|known| !ended(known["state"].as_str().unwrap()))
    }

    fn partition_count(&self, topic: &str) -> u32 {
        self.counts.get(topic).copied().unwrap_or(self.application.partitions() as u32)
    }

    fn committed_offset(&self, (topic, partition): &Partition) -> i64 {
        let asked = json!({ "do": "committed", "group": self.id, "topic": topic });
        let found = java::call(self.broker, asked);
        found["offsets"].get(*partition as usize).and_then(Json::as_i64).unwrap_or(0)
    }

    fn all_committed(&self, partition: &Partition) -> Vec<Record> {
        self.records(partition, 0)
    }

    fn committed_from(&self, partition: &Partition, offset: i64) -> Vec<Record> {
        self.records(partition, offset)
    }

    fn order(&self, task: &str) -> Vec<oracle::Step> {
        oracle::order_of(task, &self.records(&(self.application.topic(ORDER), 0), 0))
    }
}

/// The databases below the folder of an application, by the names that `--state-dir` had.
fn disks(application: &Application, id: &str, plan: &Plan) -> Vec<Disk> {
    let mut disks = Vec::new();
    for folder in std::fs::read_dir(application.folder.path()).unwrap() {
        let folder = folder.unwrap().path();
        for sub in &plan.sub_topologies {
            for partition in 0..application.partitions() {
                let task = format!("{}-{partition}", sub.name);
                if folder.join(id).join(&task).join("CURRENT").exists() {
                    let specs = Task::store_specs(sub);
                    let directory = StateDirectory::open(&folder, id).unwrap();
                    let options = StateOptions::new(16 << 20);
                    let mut state = TaskState::open(&directory, &task, &specs, &options).unwrap();
                    let stores = (0..specs.len()).map(|store| entries(&mut state, StoreId(store)));
                    disks.push(Disk {
                        owner: folder.file_name().unwrap().display().to_string(),
                        stores: stores.collect(),
                        changelog_offsets: state.checkpoint().changelog_offsets.clone(),
                        task,
                    });
                }
            }
        }
    }
    disks
}

fn entries(state: &mut TaskState, store: StoreId) -> Entries {
    let all = state.scan(store, &[], &[0xff; 64]).unwrap();
    all.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

/// What is wrong with what an application has written, if anything is. Its processes have ended, and ran too shortly to remove
/// what they had read from repartition topics.
pub fn verify(broker: &Broker, application: &Application) -> Result<(), String> {
    let text = application.folder.read("topology.toml");
    let (topology, findings) = topology::read(&text, Path::new("/"), &|_| None);
    let topology = topology.unwrap_or_else(|| panic!("{findings:?}"));
    let (id, plan) = (topology.app.id.clone(), Plan::new(&topology).unwrap());
    let counts = plan.partitions(|_| application.partitions() as u32).unwrap();
    let inputs = plan.sub_topologies.iter().zip(&counts);
    let inputs = inputs.flat_map(|(sub, count)| sub.inputs.iter().map(|input| (input.topic.clone(), *count)));
    let (counts_of_inputs, read) = (inputs.collect(), RefCell::new(HashMap::new()));
    let brokers = Brokers { broker, application, id: id.clone(), counts: counts_of_inputs, read };
    // Transactions of processes that were killed end when they have taken too long.
    application.wait_until("all transactions to end", || !brokers.has_open_transaction());
    let read = plan.sub_topologies.iter().zip(&counts).flat_map(|(sub, count)| {
        let partitions = 0..*count as i32;
        sub.inputs
            .iter()
            .flat_map(move |input| partitions.clone().map(|partition| (input.topic.clone(), partition)))
    });
    if read.into_iter().all(|input| brokers.committed_offset(&input) == 0) {
        return Err("nothing was processed".to_owned());
    }
    oracle::check(&brokers, &plan, &counts, &disks(application, &id, &plan))
}
