//! What must be there when everything that went wrong is over: the verifier of the simulation and of the tests on real brokers.
//!
//! Each task is computed again, by a [`Task`] in memory, from the committed records of its input partitions, which for a
//! repartition topic are what the application wrote itself. Streams must have been written record by record, tables in the
//! last value of each key; a changelog must give what the task's stores hold, and so must every disk with the rest of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_engine::plan::{Plan, SubTopology};
use millstream_engine::record::Record;
use millstream_engine::task::{GlobalStates, Task, TaskError};
use millstream_operators::operator::StoreKind;
use millstream_operators::schema::Kind;
use millstream_state::{StoreId, TaskState};

/// A topic and a partition.
pub type Partition = (String, i32);
/// What a store holds.
pub type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
/// Per topic and partition, the records of each task that writes there.
pub type Written = BTreeMap<Partition, Vec<Vec<(Kind, Record)>>>;

/// What a task has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has taken a record: number of the input, offset.
    Took(usize, i64),
    /// It has processed the rows that waited.
    Sent,
}

/// Brokers and what they have.
pub trait Cluster {
    fn has_open_transaction(&self) -> bool;
    fn partition_count(&self, topic: &str) -> u32;
    /// The next offset of an input that is committed.
    fn committed_offset(&self, input: &Partition) -> i64;
    /// All records that were ever committed, in the order of their offsets.
    fn all_committed(&self, partition: &Partition) -> Vec<Record>;
    /// Those from an offset on that compaction has left.
    fn committed_from(&self, partition: &Partition, offset: i64) -> Vec<Record>;
    /// In which order a task with several inputs has taken its records.
    fn order(&self, task: &str) -> Vec<Step>;
}

/// The database of a task.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Whose it is, for whoever reads an error.
    pub owner: String,
    pub task: String,
    pub changelog_offsets: Vec<i64>,
    pub stores: Vec<Entries>,
}

/// What [`Cluster::order`] is by the records that tasks have written of it.
pub fn order_of(task: &str, records: &[Record]) -> Vec<Step> {
    let own = records.iter().filter(|record| record.key.as_deref() == Some(task.as_bytes()));
    let texts = own.filter_map(|record| std::str::from_utf8(record.value.as_deref()?).ok());
    let step = |text: &str| match text.split_once(':') {
        Some((input, offset)) => Some(Step::Took(input.parse().ok()?, offset.parse().ok()?)),
        None => (text == "sent").then_some(Step::Sent),
    };
    texts.flat_map(|text| text.split_whitespace().filter_map(step)).collect()
}

/// What is wrong, if anything is.
pub fn check(cluster: &dyn Cluster, plan: &Plan, counts: &[u32], disks: &[Disk]) -> Result<(), String> {
    if cluster.has_open_transaction() {
        return Err("a transaction is open".to_owned());
    }
    let mut written = Written::new();
    for (sub, count) in plan.sub_topologies.iter().zip(counts) {
        for partition in 0..*count as i32 {
            let mut task =
                recomputed(cluster, sub, partition, &mut written).map_err(|error| error.to_string())?;
            check_stores(cluster, sub, partition, &mut task, disks)?;
        }
    }
    let topics: BTreeSet<String> = written.keys().map(|(topic, _)| topic.clone()).collect();
    for topic in topics {
        for partition in 0..cluster.partition_count(&topic) as i32 {
            let output = (topic.clone(), partition);
            let expected = written.remove(&output).unwrap_or_default();
            let found = cluster.all_committed(&output);
            check_output(&found, &expected).map_err(|what| format!("{topic}/{partition}: {what}"))?;
        }
    }
    Ok(())
}

/// Whether two records are the same, wherever they are.
pub fn are_same(one: &Record, other: &Record) -> bool {
    let Record { key, value, timestamp, headers, offset: _ } = one;
    (key, value, timestamp, headers) == (&other.key, &other.value, &other.timestamp, &other.headers)
}

/// The committed records of a task's inputs up to the committed offsets, in the order in which it has taken them; a new list begins
/// where it has sent what waited.
fn inputs(cluster: &dyn Cluster, sub: &SubTopology, partition: i32) -> Vec<Vec<(usize, Record)>> {
    let mut inputs: Vec<BTreeMap<i64, Record>> = Vec::new();
    for input in &sub.inputs {
        let from = (input.topic.clone(), partition);
        let until = cluster.committed_offset(&from);
        let records = cluster.all_committed(&from).into_iter().filter(|record| record.offset < until);
        inputs.push(records.map(|record| (record.offset, record)).collect());
    }
    if let [only] = inputs.as_mut_slice() {
        return vec![std::mem::take(only).into_values().map(|record| (0, record)).collect()];
    }
    let order = cluster.order(&format!("{}-{partition}", sub.name));
    let mut taken = vec![Vec::new()];
    for step in order {
        match step {
            Step::Sent => taken.push(Vec::new()),
            Step::Took(input, offset) => {
                let record = inputs[input].remove(&offset).map(|record| (input, record));
                taken.last_mut().unwrap().extend(record);
            }
        }
    }
    // A task that has not said so has not taken them: the results will show it.
    let left = inputs.into_iter().enumerate();
    let left = left.flat_map(|(input, left)| left.into_values().map(move |record| (input, record)));
    taken.last_mut().unwrap().extend(left);
    taken
}

/// Runs a task over everything that is committed in its inputs.
pub fn recomputed(
    cluster: &dyn Cluster,
    sub: &Arc<SubTopology>,
    partition: i32,
    written: &mut Written,
) -> Result<Task, TaskError> {
    let state = TaskState::in_memory(&Task::store_specs(sub));
    let mut task = Task::open(
        sub.clone(),
        partition,
        state,
        vec![0; sub.inputs.len()],
        &[],
        GlobalStates::default(),
        false,
    )?;
    let parts = inputs(cluster, sub, partition);
    if parts.len() > 1 {
        task.let_rows_wait()?;
    }
    let mut own: BTreeMap<Partition, Vec<(Kind, Record)>> = BTreeMap::new();
    let mut outputs = Vec::new();
    let last = parts.len() - 1;
    for (number, records) in parts.into_iter().enumerate() {
        if !records.is_empty() {
            outputs.extend(task.process(records, 0)?.outputs);
        }
        if number < last {
            outputs.extend(task.send_waiting()?.into_iter().flat_map(|epoch| epoch.outputs));
        }
    }
    for output in outputs {
        let count = cluster.partition_count(&output.topic).max(1);
        let target = output.hash.unwrap_or(partition.unsigned_abs()) % count;
        own.entry((output.topic.to_string(), target as i32)).or_default().push((output.kind, output.record));
    }
    for (partition, records) in own {
        written.entry(partition).or_default().push(records);
    }
    Ok(task)
}

fn check_output(found: &[Record], expected: &[Vec<(Kind, Record)>]) -> Result<(), String> {
    let is_table = expected.iter().flatten().any(|(kind, _)| *kind == Kind::Table);
    if is_table {
        let expected = newest(expected.iter().flatten().map(|(_, record)| record));
        let found = newest(found.iter());
        for (key, expected) in &expected {
            match found.get(key) {
                Some(found) if are_same(found, expected) => {}
                // A row that came and went within a transaction.
                Some(Record { value: None, .. }) | None if expected.value.is_none() => {}
                Some(found) => return Err(format!("{} instead of {}", shown(found), shown(expected))),
                None => return Err(format!("nothing instead of {}", shown(expected))),
            }
        }
        let is_known = |key: &&Option<Vec<u8>>| expected.contains_key(*key);
        return if found.keys().all(is_known) { Ok(()) } else { Err("keys that nobody wrote".to_owned()) };
    }
    let count: usize = expected.iter().map(Vec::len).sum();
    if let [expected] = expected {
        let differs = found.iter().zip(expected).find(|(found, (_, expected))| !are_same(found, expected));
        if let Some((found, (_, expected))) = differs {
            return Err(format!("{} instead of {}", shown(found), shown(expected)));
        }
    }
    // Several tasks write a repartition topic in any order, each in its own.
    for expected in expected {
        let mut left = found.iter();
        if !expected.iter().all(|(_, expected)| left.any(|found| are_same(found, expected))) {
            return Err("records of a task are missing, or in another order".to_owned());
        }
    }
    if found.len() == count { Ok(()) } else { Err(format!("{} records instead of {count}", found.len())) }
}

/// The last record of each key.
fn newest<'a>(records: impl Iterator<Item = &'a Record>) -> BTreeMap<&'a Option<Vec<u8>>, &'a Record> {
    records.map(|record| (&record.key, record)).collect()
}

fn shown(record: &Record) -> String {
    let text = |bytes: &Option<Vec<u8>>| {
        bytes.as_ref().map_or_else(|| "null".to_owned(), |bytes| bytes.escape_ascii().to_string())
    };
    format!(
        "offset {}: {} = {} at {}",
        record.offset,
        text(&record.key),
        text(&record.value),
        record.timestamp
    )
}

fn check_stores(
    cluster: &dyn Cluster,
    sub: &SubTopology,
    partition: i32,
    task: &mut Task,
    disks: &[Disk],
) -> Result<(), String> {
    for (number, store) in sub.stores.iter().enumerate() {
        let expected: Entries =
            task.store_content(StoreId(number)).map_err(|error| error.to_string())?.into_iter().collect();
        // What has expired is not deleted in the changelog.
        let expires = matches!(store.kind, StoreKind::Window { .. });
        let changelog = (store.changelog.to_string(), partition);
        let replayed = |mut entries: Entries, from: i64| {
            for Record { key, value, .. } in cluster.committed_from(&changelog, from) {
                match (key, value) {
                    (Some(key), Some(value)) => drop(entries.insert(key, value)),
                    (Some(key), None) => drop(entries.remove(&key)),
                    (None, _) => {}
                }
            }
            entries
        };
        let check = |what: &str, found: &Entries| {
            let differs = expected.iter().find(|(key, value)| found.get(*key) != Some(value));
            let more = if expires { None } else { found.keys().find(|key| !expected.contains_key(*key)) };
            match (differs, more) {
                (None, None) => Ok(()),
                (Some((key, value)), _) => Err(format!(
                    "{what} of store {}/{partition}: key {key:?} has {:?} instead of {value:?}",
                    store.spec.name,
                    found.get(key)
                )),
                (None, Some(key)) => {
                    Err(format!("{what} of store {}/{partition}: key {key:?} is too much", store.spec.name))
                }
            }
        };
        check("the changelog", &replayed(Entries::new(), 0))?;
        for disk in disks.iter().filter(|disk| disk.task == task.name()) {
            if let (Some(from), Some(entries)) = (disk.changelog_offsets.get(number), disk.stores.get(number))
            {
                let what = format!("the disk of {}, restored from {from},", disk.owner);
                check(&what, &replayed(entries.clone(), *from))?;
            }
        }
    }
    Ok(())
}
