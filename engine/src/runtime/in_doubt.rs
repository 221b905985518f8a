//! Commits whose answer was lost, until the committed offsets say what became of them.
//!
//! Nothing waits for it: the session ends, and the next one opens everything from what was committed, whatever that is.

use super::assignment::TaskId;
use super::commit_metadata::CommitId;
use crate::metrics::Outcome;

/// A commit of which nobody knows whether it succeeded.
pub(super) struct InDoubt {
    pub id: CommitId,
    /// Its tasks, each with the commit before.
    pub tasks: Vec<(TaskId, Option<CommitId>)>,
}

impl InDoubt {
    /// What became of it, where these are the last commits of the tasks that this process has now.
    pub fn outcome(&self, committed: &[(TaskId, Option<CommitId>)]) -> Outcome {
        let of = |task: &TaskId| committed.iter().find(|(found, _)| found == task).map(|(_, last)| *last);
        for (task, before) in &self.tasks {
            match of(task) {
                Some(last) if last == Some(self.id) => return Outcome::Committed,
                Some(last) if last == *before => return Outcome::Aborted,
                // Another process has it, or has committed since.
                _ => {}
            }
        }
        Outcome::Unresolved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_commits_of_its_tasks_say_what_became_of_it() {
        let task = |partition| TaskId { sub: 0, partition };
        let commit = |number| CommitId { producer: 7, number };
        let in_doubt = InDoubt { id: commit(2), tasks: vec![(task(0), Some(commit(1))), (task(1), None)] };
        let outcome = |committed: &[_]| in_doubt.outcome(committed);
        assert_eq!(outcome(&[(task(0), Some(commit(2)))]), Outcome::Committed);
        assert_eq!(outcome(&[(task(0), Some(commit(1)))]), Outcome::Aborted);
        assert_eq!(outcome(&[(task(1), None), (task(2), Some(commit(2)))]), Outcome::Aborted);
        let others = CommitId { producer: 8, number: 2 };
        assert_eq!(outcome(&[(task(0), Some(others)), (task(1), Some(commit(2)))]), Outcome::Committed);
        assert_eq!(outcome(&[(task(0), Some(others))]), Outcome::Unresolved);
        assert_eq!(outcome(&[]), Outcome::Unresolved);
    }
}
