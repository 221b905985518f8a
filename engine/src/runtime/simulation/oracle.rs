//! The simulated brokers and disks as the oracle sees them, and whether it notices changes.

use std::collections::BTreeMap;

use millstream_operators::operator::StoreKind;
use millstream_operators::schema::Kind;

use super::brokers::{Data, Entry, Log, Outcome, World};
use super::disk::Image;
use crate::oracle::{self, Cluster, Disk, Partition, Written, are_same, recomputed};
use crate::plan::{Plan, PlanOutput};
use crate::record::Record;
use crate::testing::Random;
use crate::topology::SinkTopic;

/// The stream whose records count others.
const COUNTING: &str = "featured";

fn records<'a>(found: impl Iterator<Item = (i64, &'a Data)>) -> Vec<Record> {
    found.map(|(offset, data)| super::clients::record(offset, data)).collect()
}

impl Cluster for World {
    fn has_open_transaction(&self) -> bool {
        !self.no_transaction_is_open()
    }

    fn partition_count(&self, topic: &str) -> u32 {
        self.counts.get(topic).copied().unwrap_or(1)
    }

    fn committed_offset(&self, input: &Partition) -> i64 {
        self.offsets.get(input).map_or(0, |(offset, _)| *offset)
    }

    fn all_committed(&self, partition: &Partition) -> Vec<Record> {
        self.log(partition).map_or_else(Vec::new, |log| records(log.all_committed()))
    }

    fn committed_from(&self, partition: &Partition, offset: i64) -> Vec<Record> {
        self.log(partition).map_or_else(Vec::new, |log| records(log.committed(offset)))
    }

    fn order(&self, task: &str) -> Vec<oracle::Step> {
        oracle::order_of(task, &self.all_committed(&(super::ORDER.to_owned(), 0)))
    }
}

/// The disks of all processes, by process.
pub type Disks = [BTreeMap<String, Image>];

/// What is wrong, if anything is.
pub fn check(world: &World, plan: &Plan, counts: &[u32], disks: &Disks) -> Result<(), String> {
    let disks = disks.iter().enumerate().flat_map(|(process, images)| {
        images.iter().map(move |(task, image)| Disk {
            owner: format!("process {process}"),
            task: task.clone(),
            changelog_offsets: image.checkpoint.changelog_offsets.clone(),
            stores: image.stores.clone(),
        })
    });
    oracle::check(world, plan, counts, &disks.collect::<Vec<_>>())
}

/// What is missing, where records may be there more than once. What was counted twice is in the values of
/// tables, and of features.
pub fn check_at_least_once(world: &World, plan: &Plan, counts: &[u32]) -> Result<(), String> {
    let mut written = Written::new();
    for (sub, count) in plan.sub_topologies.iter().zip(counts) {
        for partition in 0..*count as i32 {
            recomputed(world, sub, partition, &mut written).map_err(|error| error.to_string())?;
        }
    }
    for (partition, expected) in written {
        let mut found = world.all_committed(&partition);
        for (kind, expected) in expected.iter().flatten() {
            let same = |found: &Record| match kind {
                Kind::Table => found.key == expected.key,
                Kind::Stream if partition.0 == COUNTING => {
                    (&found.key, found.timestamp) == (&expected.key, expected.timestamp)
                }
                Kind::Stream => are_same(found, expected),
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

/// Changes one thing after the other that [`check`] has approved of, and says which of the changes it does not notice.
pub fn unnoticed(
    world: &mut World,
    plan: &Plan,
    counts: &[u32],
    disks: &mut [BTreeMap<String, Image>],
    random: &mut Random,
) -> Vec<String> {
    let mut unnoticed = Vec::new();
    let topics: Vec<Partition> =
        world.logs.keys().filter(|(topic, _)| topic != super::ORDER).cloned().collect();
    let is_input = |topic: &str| {
        plan.sub_topologies.iter().any(|sub| sub.inputs.iter().any(|input| input.topic == topic))
    };
    let outputs = || plan.sub_topologies.iter().flat_map(|sub| &sub.outputs);
    let is_table = |topic: &str| {
        outputs().any(|output| {
            matches!(output, PlanOutput::Sink { sink, schema, .. }
                if schema.kind == Kind::Table && matches!(&sink.topic, SinkTopic::Fixed(fixed) if fixed == topic))
        })
    };
    let stores = || plan.sub_topologies.iter().flat_map(|sub| &sub.stores);
    for partition in topics {
        let (topic, _) = &partition;
        let is_table = is_table(topic);
        let store = stores().find(|store| *store.changelog == **topic);
        let is_changelog = store.is_some();
        // Expired entries of windows may be anything.
        if is_input(topic) || store.is_some_and(|store| matches!(store.kind, StoreKind::Window { .. })) {
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
        if committed.is_empty() {
            return false;
        }
        let drawn = committed[random.below(committed.len() as u64) as usize];
        let data = |at: usize| match &log.entries[at] {
            Entry::Record { data, .. } => Some(data),
            Entry::Marker => None,
        };
        // A delete may be one of what was never there.
        let is_value = |at: &usize| {
            let later = committed.iter().filter(|later| *later > at);
            let key = data(*at).map(|data| &data.key);
            data(*at).is_some_and(|data| data.value.is_some())
                && later.into_iter().all(|later| data(*later).map(|data| &data.key) != key)
        };
        let last = committed.iter().rev().copied().find(is_value);
        let chosen = if newest { last } else { Some(drawn) };
        let Some(at) = chosen else { return false };
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
