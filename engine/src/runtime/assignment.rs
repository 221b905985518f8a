//! From the partitions that the group gave this process to tasks.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::Plan;

/// A task: a sub-topology, by its position in the plan, and a partition number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The position of the sub-topology in the plan.
    pub sub: usize,
    /// The partition number.
    pub partition: i32,
}

impl TaskId {
    /// The task's name, which is also that of its folder in the state directory: `<sub-topology>-<partition>`.
    pub fn name(self, plan: &Plan) -> String {
        let name = plan.sub_topologies.get(self.sub).map_or("", |sub| sub.name.as_str());
        format!("{name}-{}", self.partition)
    }
}

/// An assignment that tasks cannot be made of.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// The partitions of a task went to different processes.
    #[error(
        "partition {partition} of `{missing}` went to another process than that of `{present}`, but their rows meet in \
         one task; all processes of the group must run the same topology"
    )]
    Torn {
        /// A topic of which this process has the partition.
        present: String,
        /// A topic of which it has not.
        missing: String,
        /// The partition number.
        partition: i32,
    },
    /// A topic has more partitions than when the process started.
    #[error(
        "`{topic}` has got a partition {partition}, but it had {planned} partitions when this process started; keys would \
         be found in other partitions than their state. Stop all processes; a topic with state behind it cannot grow"
    )]
    Grown {
        /// The topic.
        topic: String,
        /// The new partition.
        partition: i32,
        /// How many there were.
        planned: u32,
    },
}

/// The tasks that `partitions` are the inputs of, in the order of the plan and by partition. `counts` are the partition counts
/// of the sub-topologies.
///
/// # Errors
/// If a task would have only some of its partitions, or a topic has grown.
pub fn tasks_of(
    plan: &Plan,
    counts: &[u32],
    partitions: &[(String, i32)],
) -> Result<Vec<TaskId>, AssignmentError> {
    let mut assigned: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        assigned.entry(topic).or_default().insert(*partition);
    }
    let mut tasks = Vec::new();
    for ((position, sub), count) in plan.sub_topologies.iter().enumerate().zip(counts) {
        let numbers: BTreeSet<i32> = sub
            .inputs
            .iter()
            .filter_map(|input| assigned.get(input.topic.as_str()))
            .flatten()
            .copied()
            .collect();
        for partition in numbers {
            let has = |topic: &str| assigned.get(topic).is_some_and(|found| found.contains(&partition));
            let present = sub.inputs.iter().find(|input| has(&input.topic));
            let Some(present) = present.map(|input| input.topic.clone()) else { continue };
            if i64::from(partition) >= i64::from(*count) {
                return Err(AssignmentError::Grown { topic: present, partition, planned: *count });
            }
            if let Some(missing) = sub.inputs.iter().find(|input| !has(&input.topic)) {
                return Err(AssignmentError::Torn { present, missing: missing.topic.clone(), partition });
            }
            tasks.push(TaskId { sub: position, partition });
        }
    }
    Ok(tasks)
}
