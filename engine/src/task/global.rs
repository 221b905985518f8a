//! Global tables: every process holds all rows of such a topic, and all of its tasks look them up.
//!
//! Their states are shared by the tasks and by whoever keeps them up to date. A task sees each of them as it stands at one moment
//! for the whole of an epoch; an update waits for the epochs that run, and is seen whole or not at all.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use millstream_operators::batch::Batch;
use millstream_operators::operator::{Context, Operator, Wanted};
use millstream_state::{Changelog, StoreId, TaskState};

use super::{InputReader, NodeCounters, RecordError, TaskError};
use crate::plan::{Plan, PlanGlobal};
use crate::record::Record;
use crate::topology::OnError;

/// The only store of a global table.
const STORE: StoreId = StoreId(0);

/// The states of a process's global tables, in the order of [`Plan::globals`].
#[derive(Clone, Default)]
pub struct GlobalStates(Arc<[RwLock<TaskState>]>);

impl GlobalStates {
    /// Empty ones, in memory.
    pub fn new(plan: &Plan) -> Self {
        let empty = plan
            .globals
            .iter()
            .map(|table| RwLock::new(TaskState::in_memory(std::slice::from_ref(&table.store))));
        GlobalStates(empty.collect())
    }

    /// The state of a table, as it stays while it is read.
    pub(super) fn read(&self, table: usize) -> Option<RwLockReadGuard<'_, TaskState>> {
        Some(self.0.get(table)?.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The state of a table, unless somebody has it; another one, that is empty, is left in its place.
    pub(crate) fn take(&self, table: usize) -> Option<TaskState> {
        let mut state = self.0.get(table)?.try_write().ok()?;
        Some(std::mem::replace(&mut *state, TaskState::in_memory(&[])))
    }

    /// The state of a table, when nobody reads it.
    pub fn write(&self, table: usize) -> Option<RwLockWriteGuard<'_, TaskState>> {
        Some(self.0.get(table)?.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keeps a global table up to date.
pub struct GlobalTable {
    table: Arc<PlanGlobal>,
    reader: InputReader,
    operator: Box<dyn Operator>,
}

/// What some records did to a global table.
#[derive(Debug, Default)]
pub struct Updated {
    /// Records that were skipped.
    pub errors: Vec<RecordError>,
    /// The error before which the process must stop; the records before it are in the table.
    pub stopped: Option<RecordError>,
    /// What was counted.
    pub counters: NodeCounters,
    /// Changes of the store.
    pub changelog: Changelog,
}

impl GlobalTable {
    /// For a table of the plan.
    pub fn new(table: Arc<PlanGlobal>) -> Result<Self, TaskError> {
        let failed = |error| TaskError::Operator { node: table.source.name.clone(), error };
        let operator = table.definition.build(&Wanted { fold: true, before: false }).map_err(failed)?;
        Ok(GlobalTable { reader: InputReader::of_source(&table.source)?, operator, table })
    }

    /// Takes records of a partition into the state of the table, and with them how far the partition is read. `now` is the wall
    /// clock.
    pub fn update(
        &mut self,
        states: &GlobalStates,
        position: usize,
        partition: i32,
        records: &[Record],
        now: i64,
    ) -> Result<Updated, TaskError> {
        let source = self.table.source.clone();
        let all: Vec<&Record> = records.iter().collect();
        let seqs: Vec<u32> = (0..records.len() as u32).collect();
        let (mut batch, errors) = self.reader.read(&all, partition, &seqs, now)?;
        let mut errors = errors.into_iter().map(|(seq, code, message)| RecordError {
            node: source.name.clone(),
            code,
            message,
            topic: source.topic.clone(),
            partition,
            offset: records.get(seq as usize).map_or(-1, |record| record.offset),
            seq,
            on_error: source.on_error,
        });
        let mut updated = Updated::default();
        let mut next = records.last().map(|record| record.offset + 1);
        if source.on_error == OnError::Fail {
            updated.stopped = errors.min_by_key(|error| error.seq);
        } else {
            updated.errors = errors.by_ref().collect();
        }
        if let Some(stopped) = &updated.stopped {
            next = Some(stopped.offset);
            let before: Vec<usize> =
                (0..batch.len()).filter(|row| batch.seq.get(*row) < Some(&stopped.seq)).collect();
            batch = batch.take(&before)?;
        }
        let Some((next, mut state)) = next.zip(states.write(position)) else { return Ok(updated) };
        self.apply(batch, &mut state, &mut updated)?;
        updated.changelog = state.changelog();
        let mut checkpoint = state.checkpoint().clone();
        checkpoint.input_offsets.insert((source.topic.clone(), partition), next);
        state.promote(checkpoint)?;
        Ok(updated)
    }

    fn apply(&mut self, batch: Batch, state: &mut TaskState, updated: &mut Updated) -> Result<(), TaskError> {
        let counters = &mut updated.counters;
        counters.rows_in = batch.len() as u64;
        counters.errors = updated.errors.len() as u64;
        let mut context = Context::new(state, &[STORE]);
        let failed = |error| TaskError::Operator { node: self.table.source.name.clone(), error };
        let changes = self.operator.process(&[batch], &mut context).map_err(failed)?;
        counters.rows_out = changes.iter().map(|changes| changes.len() as u64).sum();
        counters.dropped = std::mem::take(&mut context.dropped);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::task::Task;
    use crate::topology::read;

    const TOPOLOGY: &str = r#"
        [app]
        id = "shop"
        [sources.orders]
        topic = "orders"
        key   = { order = "string" }
        value = { customer = "string", amount = "int64" }
        [tables.customers]
        topic = "customers"
        key   = { customer = "string" }
        value = { country = "string" }
        scope = "global"
        on-error = "skip"
        [steps.of_customers]
        op   = "rekey"
        from = "orders"
        key  = ["customer"]
        [steps.known]
        op      = "join"
        from    = "of_customers"
        with    = { node = "customers", as = "c" }
        on      = { customer = "customer" }
        columns = { country = "c.country" }
        [steps.twice]
        op      = "join"
        from    = "known"
        with    = { node = "customers", as = "c" }
        on      = { customer = "customer" }
        columns = { country = "known.country", again = "c.country" }
        [sinks.out]
        from  = "twice"
        topic = "out"
    "#;

    fn plan(text: &str) -> Plan {
        let (topology, findings) = read(text, Path::new("."), &|_| None);
        Plan::new(&topology.unwrap_or_else(|| panic!("{findings:?}"))).unwrap()
    }

    fn record(key: &str, value: Option<&str>, offset: i64) -> Record {
        let (key, value) = (Some(key.as_bytes().to_vec()), value.map(|value| value.as_bytes().to_vec()));
        Record { key, value, timestamp: 0, headers: Vec::new(), offset }
    }

    fn written(task: &mut Task, order: &str) -> Vec<String> {
        let epoch = task.process(vec![(0, record("o", Some(order), 0))], 0).unwrap();
        let values = epoch.outputs.into_iter().filter_map(|output| output.record.value);
        values.map(|value| String::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn a_join_needs_no_repartition_topic_unless_something_behind_it_does() {
        let topics = |plan: &Plan| plan.sub_topologies.iter().flat_map(|sub| &sub.inputs).count();
        assert_eq!(topics(&plan(TOPOLOGY)), 1);
        let counted = TOPOLOGY.replace("[sinks.out]\n        from  = \"twice\"", "[steps.counted]\nop = \"aggregate\"\nfrom = \"twice\"\ncolumns = { n = \"count(*)\" }\n[sinks.out]\nfrom = \"counted\"");
        assert_eq!(topics(&plan(&counted)), 2);
    }

    #[test]
    fn tasks_see_what_was_updated_and_records_that_fail_are_left_out() {
        let plan = plan(TOPOLOGY);
        let states = GlobalStates::new(&plan);
        let mut table = GlobalTable::new(plan.globals[0].clone()).unwrap();
        let sub = plan.sub_topologies[0].clone();
        let state = TaskState::in_memory(&Task::store_specs(&sub));
        let mut task = Task::open(sub, 0, state, vec![0], &[], states.clone(), true).unwrap();
        let order = r#"{"customer":"ann","amount":1}"#;
        assert!(written(&mut task, order).is_empty());
        let records = [
            record("ann", Some(r#"{"country":"NO"}"#), 7),
            record("bob", Some("{"), 8),
            record("ann", Some(r#"{"country":"DE"}"#), 9),
        ];
        let updated = table.update(&states, 0, 3, &records, 0).unwrap();
        assert_eq!((updated.errors.len(), updated.errors[0].offset, updated.stopped), (1, 8, None));
        assert_eq!(written(&mut task, order), [r#"{"country":"DE","again":"DE"}"#]);
        let offsets = states.write(0).unwrap().checkpoint().input_offsets.clone();
        assert_eq!(offsets.into_iter().collect::<Vec<_>>(), [(("customers".to_owned(), 3), 10)]);
        table.update(&states, 0, 3, &[record("ann", None, 10)], 0).unwrap();
        assert!(written(&mut task, order).is_empty());
    }

    #[test]
    fn a_record_that_must_stop_the_process_stops_it_there() {
        let plan = plan(&TOPOLOGY.replace("on-error = \"skip\"", ""));
        let states = GlobalStates::new(&plan);
        let mut table = GlobalTable::new(plan.globals[0].clone()).unwrap();
        let good = |key: &str, offset| record(key, Some(r#"{"country":"NO"}"#), offset);
        let records = [good("a", 0), good("b", 1), record("c", Some("{"), 2), good("d", 3)];
        let updated = table.update(&states, 0, 0, &records, 0).unwrap();
        assert_eq!(updated.stopped.map(|error| error.offset), Some(2));
        let mut state = states.write(0).unwrap();
        assert_eq!(state.checkpoint().input_offsets.values().collect::<Vec<_>>(), [&2]);
        assert_eq!(state.scan(STORE, &[], &[0xff; 64]).unwrap().count(), 2);
    }

    #[test]
    fn a_batch_sees_one_moment_of_a_table_that_changes_meanwhile() {
        let plan = plan(TOPOLOGY);
        let states = GlobalStates::new(&plan);
        let mut table = GlobalTable::new(plan.globals[0].clone()).unwrap();
        let sub = plan.sub_topologies[0].clone();
        let state = TaskState::in_memory(&Task::store_specs(&sub));
        let mut task = Task::open(sub, 0, state, vec![0], &[], states.clone(), true).unwrap();
        let mut update = |round: usize| {
            let value = format!("{{\"country\":\"{round}\"}}");
            let records = (0..50).map(|key| record(&format!("k{key}"), Some(&value), round as i64));
            table.update(&states, 0, 0, &records.collect::<Vec<_>>(), 0).unwrap();
        };
        update(0);
        let orders = || {
            let order = |key| record("o", Some(&format!("{{\"customer\":\"k{key}\",\"amount\":1}}")), 0);
            (0..50).map(|key| (0, order(key))).collect::<Vec<_>>()
        };
        let mut seen = std::collections::BTreeSet::new();
        std::thread::scope(|scope| {
            let updating = std::thread::Builder::new().name("updates".to_owned());
            let updating = updating.spawn_scoped(scope, move || (1..300).for_each(&mut update)).unwrap();
            while !updating.is_finished() {
                let epoch = task.process(orders(), 0).unwrap();
                let values: Vec<_> =
                    epoch.outputs.into_iter().filter_map(|output| output.record.value).collect();
                assert_eq!(values.len(), 50);
                let text = String::from_utf8(values[0].clone()).unwrap();
                let row: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(row["country"], row["again"], "the two joins");
                assert!(values.iter().all(|value| *value == values[0]), "the rows of a batch");
                seen.insert(text);
            }
        });
        assert!(seen.len() > 1, "{seen:?}");
    }
}
