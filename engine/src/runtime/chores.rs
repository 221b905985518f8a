//! What has to be done but not waited for.
//!
//! It has a thread of its own. Restorers wait until a task that they are to open is closed: were closing left to them, all of
//! them could be waiting for one that none of them comes to.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::{OpenTask, Shared, threads};
use crate::kafka::TopicPartition;

pub(super) enum Chore {
    /// To close a task that this process does not have any more.
    Close(Box<OpenTask>),
    /// To remove records of repartition topics before these offsets.
    Remove(Vec<(TopicPartition, i64)>),
}

/// Does what it is told until nobody tells it anything.
pub(super) fn do_all(shared: &Arc<Shared>, chores: &Receiver<Chore>) {
    while let Some(chore) = threads::next(chores) {
        match chore {
            Chore::Close(task) => task.close(),
            Chore::Remove(offsets) => {
                if let Err(error) = shared.brokers.delete_records(&offsets) {
                    tracing::debug!(%error, "records of repartition topics were not removed; they will be later");
                }
            }
        }
    }
}
