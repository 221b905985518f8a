//! One open database per task: a task that is still being closed is not opened again.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::assignment::TaskId;

/// How often a waiting thread asks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Taken {
    tasks: Mutex<HashSet<TaskId>>,
    changed: Condvar,
}

/// Which tasks are open in this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Taken>);

/// The right to have a task's database open; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    id: TaskId,
}

impl Places {
    /// Waits until nobody has the task open; `None` if `cancelled` says so meanwhile.
    pub fn take(&self, id: TaskId, cancelled: &dyn Fn() -> bool) -> Option<Place> {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while !tasks.insert(id) {
            if cancelled() {
                return None;
            }
            let waited = self.0.changed.wait_timeout(tasks, LOOK_EVERY);
            tasks = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Place { places: self.clone(), id })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.places.0.changed.notify_all();
    }
}
