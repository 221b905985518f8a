//! Processes that are replaced one after the other under load, and processes that run for long.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::application::{Application, Running, TOPOLOGY, feed, payments, payments_of};
use super::broker::Broker;
use super::java;

const PARTITIONS: usize = 6;
const PROCESSES: [&str; 3] = ["zero", "one", "two"];

/// The committed offset of each partition of the payments.
fn offsets(broker: &Broker, application: &Application) -> Vec<i64> {
    let topic = application.topic("payments");
    let found = java::call(broker, json!({ "do": "committed", "group": application.id, "topic": topic }));
    found["offsets"].as_array().unwrap().iter().map(|offset| offset.as_i64().unwrap_or(0)).collect()
}

/// The longest time in which a partition that had records got no further.
fn longest_pause(broker: &Broker, application: &Application, over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last = [(0, Instant::now()); PARTITIONS];
    while !over.load(Ordering::Relaxed) {
        for ((before, since), offset) in last.iter_mut().zip(offsets(broker, application)) {
            if offset > *before {
                // What comes first is not waited for.
                if *before > 0 {
                    longest = longest.max(since.elapsed());
                }
                (*before, *since) = (offset, Instant::now());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    longest
}

#[test]
fn a_rolling_restart_under_load_loses_and_doubles_nothing() {
    let broker = Broker::shared();
    let application = Application::partitioned(broker, "rolling", TOPOLOGY, PARTITIONS);
    payments(60_000, &application);
    let start = |name: &str| application.start(broker, name, &["--instance", name]);
    let mut running: Vec<Running> = PROCESSES.iter().map(|name| start(name)).collect();
    let feeding = feed(broker, &application, "3");
    application.await_progress(broker, 1_000);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| longest_pause(broker, &application, &over));
        let mut slowest = Duration::ZERO;
        for (process, name) in running.iter_mut().zip(PROCESSES) {
            let asked = Instant::now();
            process.ask_to_end();
            assert_eq!(process.code(), Some(0), "{}", application.log());
            slowest = slowest.max(asked.elapsed());
            *process = start(name);
            application.await_progress(broker, 1_000);
        }
        application.await_all(broker, feeding);
        over.store(true, Ordering::Relaxed);
        let pause = watching.join().unwrap();
        println!("slowest end {slowest:?}, longest pause of a partition {pause:?}");
        assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    });
    for process in running {
        assert_eq!(process.end(), Some(0), "{}", application.log());
    }
    application.check(broker);
}

/// What a process takes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    minutes: f64,
    resident_mib: f64,
    files: f64,
    disk_mib: f64,
    lag: f64,
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

impl Sample {
    fn take(broker: &Broker, application: &Application, process: &Running, start: Instant) -> Self {
        let proc = Path::new("/proc").join(process.id().to_string());
        let status = std::fs::read_to_string(proc.join("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident: f64 = resident.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
        let ends = java::call(broker, json!({ "do": "ends", "topic": application.topic("payments") }));
        let end: i64 = ends["offsets"].as_array().unwrap().iter().filter_map(Json::as_i64).sum();
        Sample {
            minutes: start.elapsed().as_secs_f64() / 60.0,
            resident_mib: resident / 1024.0,
            files: std::fs::read_dir(proc.join("fd")).unwrap().count() as f64,
            disk_mib: size(Path::new(&application.folder.at("state"))) as f64 / f64::from(1 << 20),
            lag: (end - application.progress(broker)) as f64,
        }
    }
}

/// The slope of a figure, per minute (least squares).
fn slope(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (time, value) = (mean(&|sample| sample.minutes), mean(&figure));
    let product = mean(&|sample| (sample.minutes - time) * (figure(sample) - value));
    product / mean(&|sample| (sample.minutes - time).powi(2)).max(f64::MIN_POSITIVE)
}

/// What a process takes besides `runtime.memory`: its program (45 MiB of these), stacks, and what allocators keep.
const BESIDES_MIB: f64 = 144.0;

/// A bound of the kernel on the memory of a process.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// With a bound of so many bytes. `None` where nobody may make one.
    fn new(name: &str, bytes: u64) -> Option<Self> {
        let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        places.into_iter().find_map(|(parent, limit)| {
            let is_parent = Path::new(parent).join("cgroup.procs").exists();
            let group = MemoryGroup(Path::new(parent).join(name));
            (is_parent && std::fs::create_dir(&group.0).is_ok()).then_some(())?;
            std::fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }

    fn add(&self, process: &Running) {
        std::fs::write(self.0.join("cgroup.procs"), process.id().to_string()).unwrap();
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // It goes when its last process has gone.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A process with so much memory, which the kernel holds it to if it can, over state that takes 1.2 times as much.
struct Confined {
    application: Application,
    process: Running,
    memory_mib: f64,
    _group: Option<MemoryGroup>,
}

impl Confined {
    fn start(broker: &Broker, name: &str, memory_mib: u64, payments: i64) -> Self {
        const DIGITS: u64 = 200;
        let application = Application::new(broker, name, TOPOLOGY);
        // A card is a key and some 40 bytes in the store of the totals; the other stores add to that.
        let cards = memory_mib * 12 / 10 * (1 << 20) / (DIGITS + 40);
        payments_of(cards, DIGITS as usize, payments, &application);
        let memory = format!("{memory_mib}MiB");
        let group = MemoryGroup::new(&application.id, (memory_mib + BESIDES_MIB as u64) << 20);
        println!("bounded by the kernel: {}", group.is_some());
        let process = application.start(broker, "state", &["--memory", &memory]);
        group.iter().for_each(|group| group.add(&process));
        Confined { application, process, memory_mib: memory_mib as f64, _group: group }
    }

    /// Fails the test where it takes more than it may.
    fn check(&self, sample: &Sample) {
        let Sample { resident_mib, .. } = sample;
        let owners = || {
            let metrics = self.application.get("/metrics").unwrap_or_default();
            let owners = metrics.lines().filter(|line| line.starts_with("millstream_memory_bytes"));
            owners.collect::<Vec<_>>().join("\n")
        };
        let log = || self.application.log();
        assert!(*resident_mib < self.memory_mib + BESIDES_MIB, "{sample:?}\n{}\n{}", owners(), log());
    }
}

#[test]
fn a_process_stays_within_its_memory() {
    let broker = Broker::shared();
    let mut confined = Confined::start(broker, "confined", 32, 400_000);
    let mut feeding = feed(broker, &confined.application, "1000");
    let (start, mut largest) = (Instant::now(), 0.0_f64);
    loop {
        assert!(confined.process.goes_on(), "{}", confined.application.log());
        let is_fed = !feeding.goes_on();
        let sample = Sample::take(broker, &confined.application, &confined.process, start);
        confined.check(&sample);
        largest = largest.max(sample.resident_mib);
        if is_fed && sample.lag <= 0.0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("at most {largest:.0} MiB, {:?}", start.elapsed());
    let Confined { application, process, .. } = confined;
    assert_eq!(process.end(), Some(0), "{}", application.log());
}

/// `make soak`: a mixed topology under load, with a working set that does not fit into its memory.
#[test]
#[ignore = "it takes as long as it is told to"]
fn soak() {
    let minutes = std::env::var("MILLSTREAM_SOAK_MINUTES").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(60 * minutes.unwrap_or(5));
    let broker = Broker::shared();
    // Three thousand a second, and more than the time takes.
    let confined = Confined::start(broker, "soak", 64, time.as_secs() as i64 * 3000 + 60_000);
    let Confined { application, process, .. } = &confined;
    let _feeding = feed(broker, application, "3");
    application.await_progress(broker, 1_000);
    let (start, mut samples) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let sample = Sample::take(broker, application, process, start);
        println!("{sample:.1?}");
        confined.check(&sample);
        samples.push(sample);
        std::thread::sleep(Duration::from_secs(10));
    }
    // The beginning is not like the rest.
    let later = &samples[samples.len() / 3..];
    let slopes = [
        ("resident MiB", slope(later, |sample| sample.resident_mib)),
        ("file handles", slope(later, |sample| sample.files)),
        ("disk MiB", slope(later, |sample| sample.disk_mib)),
        ("lag", slope(later, |sample| sample.lag)),
    ];
    for (name, slope) in slopes {
        println!("{name}: {slope:+.2} a minute");
    }
    let Confined { application, process, .. } = confined;
    assert_eq!(process.end(), Some(0), "{}", application.log());
    let bound = later[0].resident_mib * 0.05;
    assert!(slopes[0].1 * (later.len() as f64 / 6.0) < bound.max(8.0), "memory grows: {slopes:?}");
    assert!(slopes[1].1 < 1.0, "file handles grow: {slopes:?}");
}
