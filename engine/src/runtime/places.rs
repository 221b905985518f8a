//! One open database per task: a task that is still being closed is not opened again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::assignment::TaskId;
use super::threads;

/// How often a waiting thread looks whether the task is closed, and whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Which tasks are open in this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<HashSet<TaskId>>>);

/// The right to have a task's database open; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    id: TaskId,
}

impl Places {
    /// Waits until nobody has the task open; `None` if `cancelled` says so meanwhile.
    pub fn take(&self, id: TaskId, cancelled: &dyn Fn() -> bool) -> Option<Place> {
        while !self.tasks().insert(id) {
            if cancelled() {
                return None;
            }
            threads::sleep(LOOK_EVERY);
        }
        Some(Place { places: self.clone(), id })
    }

    fn tasks(&self) -> MutexGuard<'_, HashSet<TaskId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.tasks().remove(&self.id);
    }
}
