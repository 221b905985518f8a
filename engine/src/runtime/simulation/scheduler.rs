//! Threads of which one runs at a time, and a time that passes when none can. Which one is next is drawn from the seed, so
//! that a seed gives the same run each time.
//!
//! A thread gives the turn away where the runtime waits ([`super::super::threads`]) and where a simulated client or disk is
//! called. A process that crashes is unwound there: nothing that it does after that has an effect.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use super::Break;
use super::brokers::World;
use super::disk::Disks;
use crate::testing::Random;

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// True `times` times of `of`.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// A duration in milliseconds of this range.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1000 + self.below((to - from) * 1000 + 1))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(usize);

/// A process of the application, or the observer (0), who feeds and disturbs the others.
pub type ProcessId = usize;

/// Whether a wait is over.
type IsReady = Box<dyn FnMut(&State) -> bool + Send>;

enum Status {
    Running,
    Waiting { until: Option<Duration>, is_ready: IsReady },
    Ended,
}

struct Simulated {
    process: ProcessId,
    /// Which life of the process it belongs to.
    life: u64,
    name: String,
    status: Status,
    turn: Arc<Condvar>,
}

#[derive(Default)]
pub struct Process {
    pub life: u64,
    pub crashed: bool,
    pub paused_until: Duration,
    /// Asked to end.
    pub shutdown: bool,
    /// How far its wall clock is off, in milliseconds.
    pub clock_off: i64,
}

type Event = Box<dyn FnOnce(&mut State) + Send>;

/// Everything there is.
pub struct State {
    pub now: Duration,
    pub random: Random,
    pub processes: Vec<Process>,
    pub world: World,
    pub disks: Disks,
    /// Crashes that still may happen at any call, by chance.
    pub spontaneous_crashes: u64,
    /// What is done wrong on purpose.
    pub broken: Option<Break>,
    /// What happened, for whoever looks for the cause of a failure.
    pub trace: Option<Vec<String>>,
    /// Everything that was drawn and done, in one number.
    pub fingerprint: u64,
    threads: Vec<Simulated>,
    running: usize,
    events: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    /// What stopped the simulation.
    failure: Option<String>,
}

/// When a process begins: 2020-01-01T00:00:00Z in milliseconds.
pub const EPOCH: i64 = 1_577_836_800_000;

/// A simulated time that no run should need.
const TOO_LONG: Duration = Duration::from_secs(3600);

/// The payload of a panic that ends a thread of a crashed process.
struct Crash;

pub struct Simulation {
    state: Mutex<State>,
    base: Instant,
}

/// The simulation, seen from one of its threads.
#[derive(Clone)]
pub struct Handle {
    pub simulation: Arc<Simulation>,
    thread: usize,
    pub process: ProcessId,
    life: u64,
}

thread_local! {
    static CURRENT: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// The simulation that the calling thread is a part of.
pub fn current() -> Option<Handle> {
    CURRENT.with_borrow(Clone::clone)
}

impl State {
    pub fn trace(&mut self, what: impl FnOnce() -> String) {
        if self.trace.is_some() {
            let now = self.now.as_secs_f64();
            let line = format!("{now:9.4} {}", what());
            if let Some(trace) = &mut self.trace {
                trace.push(line);
            }
        }
    }

    /// Does something later.
    pub fn schedule(&mut self, after: Duration, event: impl FnOnce(&mut State) + Send + 'static) {
        self.scheduled += 1;
        self.events.insert((self.now + after, self.scheduled), Box::new(event));
    }

    pub fn is_finished(&self, thread: ThreadId) -> bool {
        self.threads.get(thread.0).is_none_or(|thread| matches!(thread.status, Status::Ended))
    }

    /// Whether no thread of a process is left.
    pub fn is_gone(&self, process: ProcessId) -> bool {
        let mut threads = self.threads.iter().filter(|thread| thread.process == process);
        threads.all(|thread| matches!(thread.status, Status::Ended))
    }

    /// Ends a process as `kill -9` and a power cut do.
    pub fn crash(&mut self, process: ProcessId) {
        if !self.processes[process].crashed {
            self.trace(|| format!("process {process} crashes"));
            self.processes[process].crashed = true;
            self.processes[process].paused_until = Duration::ZERO;
            self.disks.crash(process, &mut self.random);
            self.watch_session(process);
        }
    }

    fn is_dead(&self, process: ProcessId, life: u64) -> bool {
        let process = &self.processes[process];
        process.crashed || process.life != life || self.failure.is_some()
    }

    /// Who runs next. Time passes until somebody can.
    fn choose(&mut self) -> usize {
        loop {
            let mut ready = Vec::new();
            for number in 0..self.threads.len() {
                let Simulated { process, life, .. } = self.threads[number];
                if matches!(self.threads[number].status, Status::Ended) {
                    continue;
                }
                if self.is_dead(process, life) {
                    ready.push(number);
                    continue;
                }
                if self.processes[process].paused_until > self.now {
                    continue;
                }
                let status = std::mem::replace(&mut self.threads[number].status, Status::Running);
                let Status::Waiting { until, mut is_ready } = status else {
                    ready.push(number);
                    continue;
                };
                if until.is_some_and(|until| until <= self.now) || is_ready(self) {
                    ready.push(number);
                }
                self.threads[number].status = Status::Waiting { until, is_ready };
            }
            if !ready.is_empty() {
                let drawn = self.random.below(ready.len() as u64) as usize;
                let chosen = ready[drawn];
                self.fingerprint = (self.fingerprint ^ chosen as u64 ^ self.now.as_nanos() as u64)
                    .wrapping_mul(0x0100_0000_01b3);
                return chosen;
            }
            let paused = |thread: &Simulated| self.processes[thread.process].paused_until;
            let wakes = self.threads.iter().filter_map(|thread| match thread.status {
                Status::Waiting { until: Some(until), .. } => Some(until.max(paused(thread))),
                Status::Waiting { until: None, .. } if paused(thread) > self.now => Some(paused(thread)),
                _ => None,
            });
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = wakes.chain(event).min() else {
                self.fail("nothing can go on".to_owned());
                continue;
            };
            self.now = self.now.max(next);
            if self.now > TOO_LONG {
                self.fail("it takes for ever".to_owned());
                continue;
            }
            while let Some(entry) = self.events.first_entry()
                && entry.key().0 <= self.now
            {
                entry.remove()(self);
            }
        }
    }

    fn fail(&mut self, why: String) {
        let waiting = self.threads.iter().filter(|thread| matches!(thread.status, Status::Waiting { .. }));
        let waiting: Vec<String> =
            waiting.map(|thread| format!("{}:{}", thread.process, thread.name)).collect();
        self.failure.get_or_insert(format!("{why} after {:?}; waiting: {}", self.now, waiting.join(" ")));
    }
}

impl Simulation {
    /// Runs `observe` as the first thread; it starts the others, and ends when they have ended.
    pub fn run<T>(
        seed: u64,
        broken: Option<Break>,
        traced: bool,
        processes: usize,
        observe: impl FnOnce(&Handle) -> T,
    ) -> T {
        let state = State {
            now: Duration::ZERO,
            random: Random::new(seed),
            processes: (0..=processes).map(|_| Process::default()).collect(),
            world: World::default(),
            disks: Disks::new(processes),
            spontaneous_crashes: 0,
            broken,
            trace: traced.then(Vec::new),
            fingerprint: 0,
            threads: vec![Simulated {
                process: 0,
                life: 0,
                name: "observer".to_owned(),
                status: Status::Running,
                turn: Arc::default(),
            }],
            running: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            failure: None,
        };
        let simulation = Arc::new(Simulation { state: Mutex::new(state), base: Instant::now() });
        let handle = Handle { simulation, thread: 0, process: 0, life: 0 };
        CURRENT.set(Some(handle.clone()));
        let observed = catch_unwind(AssertUnwindSafe(|| observe(&handle)));
        let failure = handle.state().failure.clone();
        CURRENT.set(None);
        match (observed, failure) {
            (Ok(result), None) => result,
            (Err(panic), None) => {
                handle.abandon();
                resume_unwind(panic)
            }
            (_, Some(failure)) => {
                handle.abandon();
                panic!("{failure}")
            }
        }
    }
}

impl Handle {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.simulation.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets all other threads unwind, without waiting for them.
    fn abandon(&self) {
        let mut state = self.state();
        state.fail("the observer has ended".to_owned());
        state.threads[self.thread].status = Status::Ended;
        if state.threads.iter().any(|thread| !matches!(thread.status, Status::Ended)) {
            self.pass_on(&mut state);
        }
    }

    fn pass_on(&self, state: &mut State) -> usize {
        let next = state.choose();
        state.running = next;
        state.threads[next].turn.notify_all();
        next
    }

    /// Gives the turn away until something is so, or some time has passed.
    pub fn wait(&self, patience: Option<Duration>, is_ready: IsReady) {
        if std::thread::panicking() {
            return;
        }
        let mut state = self.state();
        if !state.is_dead(self.process, self.life) {
            let until = patience.map(|patience| state.now + patience);
            state.threads[self.thread].status = Status::Waiting { until, is_ready };
            if self.pass_on(&mut state) != self.thread {
                let turn = state.threads[self.thread].turn.clone();
                while state.running != self.thread {
                    state = turn.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                }
            }
            state.threads[self.thread].status = Status::Running;
        }
        let dead = state.is_dead(self.process, self.life);
        drop(state);
        if dead {
            resume_unwind(Box::new(Crash));
        }
    }

    /// Others may come first, and the process may crash here.
    pub fn step(&self) {
        if std::thread::panicking() {
            return;
        }
        let mut state = self.state();
        if self.process != 0 && state.spontaneous_crashes > 0 && state.random.chance(1, 150) {
            state.spontaneous_crashes -= 1;
            state.crash(self.process);
        }
        drop(state);
        self.wait(Some(Duration::ZERO), Box::new(|_| false));
    }

    pub fn sleep(&self, time: Duration) {
        self.wait(Some(time), Box::new(|_| false));
    }

    pub fn wait_for_message<T: Send + 'static>(&self, receiver: &Receiver<T>, patience: Option<Duration>) {
        let receiver = receiver.clone();
        self.wait(patience, Box::new(move |_| can_receive(&receiver)));
    }

    pub fn wait_for_either<A: Send + 'static, B: Send + 'static>(
        &self,
        first: &Receiver<A>,
        second: &Receiver<B>,
        patience: Duration,
    ) {
        let (first, second) = (first.clone(), second.clone());
        self.wait(Some(patience), Box::new(move |_| can_receive(&first) || can_receive(&second)));
    }

    pub fn coin(&self) -> bool {
        self.state().random.chance(1, 2)
    }

    pub fn instant(&self) -> Instant {
        self.simulation.base + self.state().now
    }

    pub fn wall_clock(&self) -> i64 {
        let state = self.state();
        EPOCH + state.now.as_millis() as i64 + state.processes[self.process].clock_off
    }

    pub fn is_finished(&self, thread: ThreadId) -> bool {
        self.state().is_finished(thread)
    }

    /// Starts a thread of this process.
    pub fn start(
        &self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<(JoinHandle<()>, ThreadId)> {
        self.start_in(self.process, name, body)
    }

    /// Starts a thread of a process, in its present life.
    pub fn start_in(
        &self,
        process: ProcessId,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<(JoinHandle<()>, ThreadId)> {
        let mut state = self.state();
        let (thread, life) = (state.threads.len(), state.processes[process].life);
        let turn: Arc<Condvar> = Arc::default();
        state.threads.push(Simulated {
            process,
            life,
            name: name.clone(),
            status: Status::Waiting { until: Some(Duration::ZERO), is_ready: Box::new(|_| false) },
            turn: turn.clone(),
        });
        drop(state);
        let handle = Handle { simulation: self.simulation.clone(), thread, process, life };
        let body = move || {
            let mut state = handle.state();
            while state.running != thread {
                state = turn.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            state.threads[thread].status = Status::Running;
            let dead = state.is_dead(process, life);
            drop(state);
            CURRENT.set(Some(handle.clone()));
            if !dead {
                let _ = catch_unwind(AssertUnwindSafe(body));
            }
            CURRENT.set(None);
            let mut state = handle.state();
            state.threads[thread].status = Status::Ended;
            let left = state.threads.iter().any(|thread| !matches!(thread.status, Status::Ended));
            if left {
                handle.pass_on(&mut state);
            }
        };
        Ok((Builder::new().name(name).spawn(body)?, ThreadId(thread)))
    }
}

/// Whether there is a message, or nobody who could send one. Nobody else does anything meanwhile.
fn can_receive<T>(receiver: &Receiver<T>) -> bool {
    !receiver.is_empty() || matches!(receiver.try_recv(), Err(TryRecvError::Disconnected))
}
