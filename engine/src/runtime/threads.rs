//! The threads of a process, and how they wait. Nothing in the runtime waits in another way, so that tests can run it with
//! threads and a time of their own (`simulation`).

use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select};

#[cfg(test)]
use super::simulation;

/// A thread that was started.
pub(super) struct Thread {
    handle: JoinHandle<()>,
    #[cfg(test)]
    simulated: Option<simulation::ThreadId>,
}

impl Thread {
    /// Starts a thread.
    pub fn start(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        #[cfg(test)]
        if let Some(simulated) = simulation::current() {
            let (handle, id) = simulated.start(name, body)?;
            return Ok(Thread { handle, simulated: Some(id) });
        }
        Ok(Thread {
            handle: Builder::new().name(name).spawn(body)?,
            #[cfg(test)]
            simulated: None,
        })
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        #[cfg(test)]
        if let (Some(simulated), Some(id)) = (simulation::current(), self.simulated) {
            return simulated.is_finished(id);
        }
        self.handle.is_finished()
    }

    /// Waits until it has ended, for so long at most; says whether it has. One that has not goes on.
    pub fn ends_within(self, patience: Duration) -> bool {
        #[cfg(test)]
        if let (Some(simulated), Some(id)) = (simulation::current(), self.simulated) {
            simulated.wait(Some(patience), Box::new(move |world| world.is_finished(id)));
            return simulated.is_finished(id);
        }
        let start = Instant::now();
        while !self.is_finished() && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.is_finished()
    }

    /// Waits until it has ended.
    pub fn join(self) {
        #[cfg(test)]
        if let (Some(simulated), Some(id)) = (simulation::current(), self.simulated) {
            simulated.wait(None, Box::new(move |world| world.is_finished(id)));
        }
        let _ = self.handle.join();
    }
}

/// Waits.
pub(super) fn sleep(time: Duration) {
    #[cfg(test)]
    if let Some(simulated) = simulation::current() {
        return simulated.sleep(time);
    }
    std::thread::sleep(time);
}

/// The next message, if one comes in time.
pub(super) fn receive<T: Send + 'static>(
    receiver: &Receiver<T>,
    patience: Duration,
) -> Result<T, RecvTimeoutError> {
    #[cfg(test)]
    if let Some(simulated) = simulation::current() {
        simulated.wait_for_message(receiver, Some(patience));
        return receiver.recv_timeout(Duration::ZERO);
    }
    receiver.recv_timeout(patience)
}

/// The next message; `None` when nobody can send one any more.
pub(super) fn next<T: Send + 'static>(receiver: &Receiver<T>) -> Option<T> {
    #[cfg(test)]
    if let Some(simulated) = simulation::current() {
        simulated.wait_for_message(receiver, None);
        return receiver.try_recv().ok();
    }
    receiver.recv().ok()
}

/// Waits until one of the two can be received from, or for so long.
pub(super) fn wait_for_either<A: Send + 'static, B: Send + 'static>(
    first: &Receiver<A>,
    second: &Receiver<B>,
    patience: Duration,
) {
    #[cfg(test)]
    if let Some(simulated) = simulation::current() {
        return simulated.wait_for_either(first, second, patience);
    }
    let mut select = Select::new();
    select.recv(first);
    select.recv(second);
    let _ = select.ready_timeout(patience);
}

/// Does `work` in a thread of its own, and `other` meanwhile, which may ask whether it still goes on.
pub(super) fn meanwhile<T: Send, U>(
    name: &str,
    work: impl FnOnce() -> T + Send,
    other: impl FnOnce(&dyn Fn() -> bool) -> U,
) -> io::Result<(T, U)> {
    #[cfg(test)]
    if let Some(simulated) = simulation::current() {
        return Ok(if simulated.coin() {
            let did = other(&|| true);
            (work(), did)
        } else {
            let worked = work();
            (worked, other(&|| false))
        });
    }
    std::thread::scope(|scope| {
        let working = Builder::new().name(name.to_owned()).spawn_scoped(scope, work)?;
        let did = other(&|| !working.is_finished());
        Ok((working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), did))
    })
}
