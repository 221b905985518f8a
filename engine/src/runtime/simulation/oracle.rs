//! What must be there when everything that went wrong is over.
//!
//! Each task is computed again, by a [`Task`] in memory, from the committed records of its input partition, which for a
//! repartition topic is what the application wrote itself. Streams must have been written record by record, tables in the
//! last value of each key; a changelog must give what the task's stores hold, and so must every disk with the rest of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_operators::operator::StoreKind;
use millstream_operators::schema::Kind;
use millstream_state::{StoreId, TaskState};

use super::brokers::{Data, Entry, Log, Outcome, Partition, World};
use super::clients::record;
use super::disk::Image;
use crate::plan::{Plan, SubTopology};
use crate::task::{Task, TaskError};
use crate::testing::Random;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
/// Per topic and partition, the records of each task that writes there.
type Written = BTreeMap<Partition, Vec<Vec<(Kind, Data)>>>;

/// What is wrong, if anything is.
pub fn check(
    world: &World,
    plan: &Plan,
    counts: &[u32],
    disks: &[BTreeMap<String, Image>],
) -> Result<(), String> {
    if !world.no_transaction_is_open() {
        return Err("a transaction is open".to_owned());
    }
    let mut written = Written::new();
    for (sub, count) in plan.sub_topologies.iter().zip(counts) {
        for partition in 0..*count as i32 {
            let mut task =
                recomputed(world, sub, partition, &mut written).map_err(|error| error.to_string())?;
            check_stores(world, sub, partition, &mut task, disks)?;
        }
    }
    for ((topic, partition), log) in &world.logs {
        let is_output = written.keys().any(|(written, _)| written == topic);
        if is_output {
            let none = Vec::new();
            let expected = written.get(&(topic.clone(), *partition)).unwrap_or(&none);
            check_output(log, expected).map_err(|what| format!("{topic}/{partition}: {what}"))?;
        }
    }
    Ok(())
}

/// What is missing, where records may be there more than once.
pub fn check_at_least_once(world: &World, plan: &Plan, counts: &[u32]) -> Result<(), String> {
    let mut written = Written::new();
    for (sub, count) in plan.sub_topologies.iter().zip(counts) {
        for partition in 0..*count as i32 {
            recomputed(world, sub, partition, &mut written).map_err(|error| error.to_string())?;
        }
    }
    for (partition, expected) in written {
        let mut found: Vec<&Data> =
            world.log(&partition).into_iter().flat_map(Log::all_committed).map(|(_, data)| data).collect();
        for (kind, expected) in expected.iter().flatten() {
            // What was counted twice is in the values of tables and features.
            let same = |found: &&Data| match kind {
                Kind::Table => found.key == expected.key,
                Kind::Stream if partition.0 == "featured" => {
                    (&found.key, found.timestamp) == (&expected.key, expected.timestamp)
                }
                Kind::Stream => *found == expected,
            };
            match (found.iter().position(same), kind) {
                (None, _) => return Err(format!("{partition:?} lacks {expected:?}")),
                (Some(_), Kind::Table) => {}
                (Some(at), Kind::Stream) => drop(found.swap_remove(at)),
            }
        }
    }
    Ok(())
}

/// Runs a task over everything that is committed in its input, up to the committed offset.
fn recomputed(
    world: &World,
    sub: &Arc<SubTopology>,
    partition: i32,
    written: &mut Written,
) -> Result<Task, TaskError> {
    let state = TaskState::in_memory(&Task::store_specs(sub));
    let mut task = Task::open(sub.clone(), partition, state, vec![0; sub.inputs.len()], None, false)?;
    let [input] = sub.inputs.as_slice() else { panic!("the order of several inputs is not known") };
    let from = (input.topic.clone(), partition);
    let log = world.log(&from);
    let until = world.offsets.get(&from).map_or(0, |(offset, _)| *offset);
    // Records that were processed may be gone from the topic.
    let records = log.into_iter().flat_map(Log::all_committed).filter(|(offset, _)| *offset < until);
    let records: Vec<_> = records.map(|(offset, data)| (0, record(offset, data))).collect();
    let mut outputs = Vec::new();
    if !records.is_empty() {
        outputs = task.process(records, 0)?.outputs;
    }
    let mut own: BTreeMap<Partition, Vec<(Kind, Data)>> = BTreeMap::new();
    for output in outputs {
        let count = world.counts.get(&*output.topic).copied().unwrap_or(1);
        let target = output.hash.unwrap_or(partition.unsigned_abs()) % count;
        let record = output.record;
        let data = Data {
            key: record.key,
            value: record.value,
            timestamp: record.timestamp,
            headers: record.headers,
        };
        own.entry((output.topic.to_string(), target as i32)).or_default().push((output.kind, data));
    }
    for (partition, records) in own {
        written.entry(partition).or_default().push(records);
    }
    Ok(task)
}

fn check_output(log: &Log, expected: &[Vec<(Kind, Data)>]) -> Result<(), String> {
    let found: Vec<&Data> = log.all_committed().map(|(_, data)| data).collect();
    let is_table = expected.iter().flatten().any(|(kind, _)| *kind == Kind::Table);
    if is_table {
        let newest = |records: &mut dyn Iterator<Item = Data>| -> BTreeMap<_, _> {
            records.map(|data| (data.key, (data.value, data.timestamp))).collect()
        };
        let expected = newest(&mut expected.iter().flatten().map(|(_, data)| data.clone()));
        let found = newest(&mut found.into_iter().cloned());
        let differs = expected.iter().find(|(key, value)| found.get(*key) != Some(value));
        if let Some((key, value)) = differs {
            return Err(format!("{} instead of {}", shown(found.get(key)), shown(Some(value))));
        }
        return if found.len() == expected.len() { Ok(()) } else { Err("keys that nobody wrote".to_owned()) };
    }
    let count: usize = expected.iter().map(Vec::len).sum();
    if let [expected] = expected {
        let differs = found.iter().zip(expected).position(|(found, (_, expected))| *found != expected);
        if let Some(number) = differs {
            return Err(format!("record {number}: {:?} instead of {:?}", found[number], expected[number]));
        }
    }
    // Several tasks write a repartition topic in any order, each in its own.
    for expected in expected {
        let mut left = found.iter();
        if !expected.iter().all(|(_, expected)| left.any(|found| *found == expected)) {
            return Err("records of a task are missing, or in another order".to_owned());
        }
    }
    if found.len() == count { Ok(()) } else { Err(format!("{} records instead of {count}", found.len())) }
}

fn shown(value: Option<&(Option<Vec<u8>>, i64)>) -> String {
    match value {
        Some((Some(value), time)) => format!("{} at {time}", String::from_utf8_lossy(value)),
        Some((None, time)) => format!("a delete at {time}"),
        None => "nothing".to_owned(),
    }
}

fn check_stores(
    world: &World,
    sub: &SubTopology,
    partition: i32,
    task: &mut Task,
    disks: &[BTreeMap<String, Image>],
) -> Result<(), String> {
    for (number, store) in sub.stores.iter().enumerate() {
        let expected: Entries =
            task.store_content(StoreId(number)).map_err(|error| error.to_string())?.into_iter().collect();
        // What has expired is not deleted in the changelog.
        let expires = matches!(store.kind, StoreKind::Window { .. });
        let log = world.log(&(store.changelog.to_string(), partition));
        let replayed = |mut entries: Entries, from: i64| {
            for (_, data) in log.into_iter().flat_map(|log| log.committed(from)) {
                let Some(key) = data.key.clone() else { continue };
                match data.value.clone() {
                    Some(value) => drop(entries.insert(key, value)),
                    None => drop(entries.remove(&key)),
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
        for (process, disk) in disks.iter().enumerate() {
            if let Some(image) = disk.get(&task.name())
                && let Some(entries) = image.stores.get(number)
            {
                let from = image.checkpoint.changelog_offsets[number];
                check(
                    &format!("the disk of process {process}, restored from {from},"),
                    &replayed(entries.clone(), from),
                )?;
            }
        }
    }
    Ok(())
}

/// Changes one thing after the other that [`check`] has approved of, and says which of the changes it does not notice.
pub fn unnoticed(
    world: &mut World,
    plan: &Plan,
    counts: &[u32],
    disks: &mut [BTreeMap<String, Image>],
    random: &mut Random,
) -> Vec<String> {
    let mut unnoticed = Vec::new();
    let topics: Vec<Partition> = world.logs.keys().cloned().collect();
    let is_input = |topic: &str| {
        plan.sub_topologies.iter().any(|sub| sub.inputs.iter().any(|input| input.topic == topic))
    };
    let tables = ["totals", "minutes"];
    for partition in topics {
        let (topic, _) = &partition;
        let is_table = tables.contains(&topic.as_str());
        let is_changelog = topic.ends_with("-changelog");
        // Expired entries of windows may be anything.
        if is_input(topic) || (is_changelog && !topic.contains("totals")) {
            continue;
        }
        for change in [Change::Drop, Change::Double, Change::Swap, Change::Alter] {
            if (is_table || is_changelog) && matches!(change, Change::Double | Change::Swap) {
                continue;
            }
            let Some(log) = world.logs.get_mut(&partition) else { continue };
            let before = log.entries.clone();
            if !change.apply(log, is_table || is_changelog, random) {
                continue;
            }
            if check(world, plan, counts, disks).is_ok() {
                unnoticed.push(format!("{change:?} in {partition:?}"));
            }
            if let Some(log) = world.logs.get_mut(&partition) {
                log.entries = before;
            }
        }
    }
    for process in 0..disks.len() {
        for (task, image) in disks[process].clone() {
            let Some((store, key)) = untouched(world, plan, &task, &image) else { continue };
            for value in [None, Some(b"other".to_vec())] {
                let mut changed = image.clone();
                match &value {
                    None => drop(changed.stores[store].remove(&key)),
                    Some(value) => drop(changed.stores[store].insert(key.clone(), value.clone())),
                }
                disks[process].insert(task.clone(), changed);
                if check(world, plan, counts, disks).is_ok() {
                    unnoticed.push(format!("{value:?} for {key:?} of {task} on disk {process}"));
                }
            }
            disks[process].insert(task, image);
        }
    }
    unnoticed
}

/// An entry of a store without windows that a restore from the image's checkpoint does not write.
fn untouched(world: &World, plan: &Plan, task: &str, image: &Image) -> Option<(usize, Vec<u8>)> {
    let (sub, partition) = task.rsplit_once('-')?;
    let sub = plan.sub_topologies.iter().find(|known| known.name == sub)?;
    let stores = sub.stores.iter().enumerate();
    let mut plain = stores.filter(|(_, store)| !matches!(store.kind, StoreKind::Window { .. }));
    let (number, store) = plain.next()?;
    let log = world.log(&(store.changelog.to_string(), partition.parse().ok()?))?;
    let from = *image.checkpoint.changelog_offsets.get(number)?;
    let written: Vec<&Option<Vec<u8>>> = log.committed(from).map(|(_, data)| &data.key).collect();
    let key = image.stores.get(number)?.keys().find(|key| !written.contains(&&Some((*key).clone())))?;
    Some((number, key.clone()))
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Drop,
    Double,
    Swap,
    Alter,
}

impl Change {
    /// Changes a committed record, the newest one if the others do not count. Says whether there was something to change.
    fn apply(self, log: &mut Log, newest: bool, random: &mut Random) -> bool {
        let entries = log.entries.iter().enumerate();
        let committed: Vec<usize> = entries
            .filter(|(_, entry)| {
                matches!(entry, Entry::Record { outcome: Outcome::Committed, compacted: false, .. })
            })
            .map(|(number, _)| number)
            .collect();
        let Some(last) = committed.last().copied() else { return false };
        let drawn = committed[random.below(committed.len() as u64) as usize];
        let at = if newest { last } else { drawn };
        match self {
            Change::Drop => {
                if let Entry::Record { outcome, .. } = &mut log.entries[at] {
                    *outcome = Outcome::Aborted;
                }
            }
            Change::Double => {
                let copy = log.entries[at].clone();
                log.entries.push(copy);
            }
            Change::Swap => {
                let differ = |(first, second): (&usize, &usize)| {
                    let data = |at: usize| match &log.entries[at] {
                        Entry::Record { data, .. } => Some(data.clone()),
                        Entry::Marker => None,
                    };
                    (data(*first) != data(*second)).then_some((*first, *second))
                };
                let Some((first, second)) = committed.iter().zip(&committed[1..]).find_map(differ) else {
                    return false;
                };
                log.entries.swap(first, second);
            }
            Change::Alter => {
                if let Entry::Record { data, .. } = &mut log.entries[at] {
                    data.value = Some(b"{}".to_vec());
                }
            }
        }
        true
    }
}
