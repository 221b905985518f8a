//! Brokers that end, are slow, or are late; and processes of one application that end meanwhile.

use std::time::{Duration, Instant};

use serde_json::json;

use super::application::{Application, Running, TOPOLOGY, feed, feed_at, payments, random};
use super::broker::{Broker, BrokerOptions};
use super::java;
use super::proxy::{END_TRANSACTION, PRODUCE, Proxy};

/// Several processes of one application, each with a name and a state directory of its own.
struct Processes<'a> {
    brokers: &'a Broker,
    application: &'a Application,
    running: Vec<Option<Running>>,
}

impl<'a> Processes<'a> {
    fn start(brokers: &'a Broker, application: &'a Application, count: usize) -> Self {
        let mut processes = Processes { brokers, application, running: Vec::new() };
        processes.running.resize_with(count, || None);
        (0..count).for_each(|number| processes.start_one(number));
        processes
    }

    fn start_one(&mut self, number: usize) {
        let state = format!("process-{number}");
        let more = ["--instance", &state, "--session-timeout", "3s", "--transaction-timeout", "4s"];
        self.running[number] = Some(self.application.start(self.brokers, &state, &more));
    }

    /// Takes one away, which has to be running.
    #[track_caller]
    fn take(&mut self, number: usize) -> Running {
        let mut running = self.running[number].take().unwrap();
        assert!(running.goes_on(), "process {number} has ended\n{}", self.application.log());
        running
    }

    /// Ends all of them in order.
    #[track_caller]
    fn end(mut self) {
        for number in 0..self.running.len() {
            assert_eq!(self.take(number).end(), Some(0), "{}", self.application.log());
        }
    }
}

/// Waits until every partition has all its replicas: then any broker may end.
#[track_caller]
fn await_in_sync(brokers: &Broker, application: &Application) {
    application.wait_until("replicas in sync", || {
        java::try_call(brokers, json!({ "do": "out-of-sync" }))["partitions"] == 0
    });
}

#[test]
fn brokers_that_restart_one_after_the_other_keep_nobody_from_working() {
    let brokers = Broker::three();
    let application = Application::partitioned(&brokers, "rolling", TOPOLOGY, 3);
    payments(200_000, &application);
    let mut feeding = feed(&brokers, &application, "0.5");
    let topic = application.topic("payments");
    application.wait_until("payments", || {
        java::call(&brokers, json!({ "do": "count", "topic": topic }))["records"] != 0
    });
    // One is away when the application starts.
    await_in_sync(&brokers, &application);
    brokers.tell(1, "kill");
    let processes = Processes::start(&brokers, &application, 3);
    application.await_progress(&brokers, 1_000);
    brokers.tell(1, "start");
    for (number, verb) in [(2, "stop"), (3, "kill")] {
        await_in_sync(&brokers, &application);
        brokers.tell(number, verb);
        assert!(feeding.goes_on());
        application.await_progress(&brokers, 500);
        brokers.tell(number, "start");
    }
    feeding.kill();
    application.await_end(&brokers);
    processes.end();
    application.check(&brokers);
}

/// What happens to a process or a broker.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A process is killed; now and then its disk is lost as well.
    KillProcess,
    /// A process stands still for longer than its session and its transaction may last.
    PauseProcess,
    /// A process is asked to end.
    EndProcess,
    /// A broker is killed, stopped in order, or stands still for a while.
    Broker(&'static str),
}

/// `MILLSTREAM_CHAOS_SECONDS` says how long it lasts, `MILLSTREAM_CHAOS_SEED` what happens.
#[test]
fn whatever_ends_under_load_the_results_are_those_of_an_undisturbed_run() {
    const FAULTS: [Fault; 8] = [
        Fault::KillProcess,
        Fault::KillProcess,
        Fault::KillProcess,
        Fault::PauseProcess,
        Fault::EndProcess,
        Fault::Broker("kill"),
        Fault::Broker("stop"),
        Fault::Broker("pause"),
    ];
    let setting = |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let seconds = setting("MILLSTREAM_CHAOS_SECONDS", 25);
    let seed = setting("MILLSTREAM_CHAOS_SEED", 174);
    let brokers = Broker::three();
    let application = Application::partitioned(&brokers, "chaos", TOPOLOGY, 6);
    // All of it has to be read and compared in the end.
    let rate = (300_000 / seconds).min(1_000);
    payments((seconds * rate) as i64, &application);
    let mut processes = Processes::start(&brokers, &application, 3);
    let feeding = feed(&brokers, &application, &(rate as f64 / 1000.0).to_string());
    let mut numbers = random(seed).map(|number| number >> 33);
    let mut below = |limit: u64| numbers.next().unwrap() % limit;
    let mut faults = Vec::new();
    let start = Instant::now();
    let pause = |millis| std::thread::sleep(Duration::from_millis(millis));
    while start.elapsed() < Duration::from_secs(seconds) {
        pause(2_000 + below(8_000));
        let number = below(3) as usize;
        let fault = FAULTS[below(FAULTS.len() as u64) as usize];
        faults.push((fault, number));
        match fault {
            Fault::KillProcess => {
                processes.take(number).kill();
                if below(3) == 0 {
                    let _ = std::fs::remove_dir_all(application.folder.at(&format!("process-{number}")));
                }
                pause(below(4_000));
                processes.start_one(number);
            }
            Fault::PauseProcess => {
                let running = processes.take(number);
                running.pause();
                pause(6_000 + below(4_000));
                running.resume();
                processes.running[number] = Some(running);
            }
            Fault::EndProcess => {
                assert_eq!(processes.take(number).end(), Some(0), "{}", application.log());
                pause(below(4_000));
                processes.start_one(number);
            }
            Fault::Broker(verb) => {
                await_in_sync(&brokers, &application);
                brokers.tell(number + 1, verb);
                pause(below(6_000));
                brokers.tell(number + 1, if verb == "pause" { "resume" } else { "start" });
            }
        }
    }
    application.await_all(&brokers, feeding);
    processes.end();
    application.check(&brokers);
    let seconds = start.elapsed().as_secs();
    let (count, payments) = (faults.len(), application.progress(&brokers));
    println!("{payments} payments in {seconds} s with seed {seed}: {faults:?}");
    println!("faults: {count} injected, 0 lost, 0 doubled, 0 wrong");
}

/// The client gives such a request up and sends it again; the brokers get both.
#[test]
fn a_request_that_is_late_does_not_touch_the_next_transaction() {
    let proxy = Proxy::new();
    let broker = Broker::start(&BrokerOptions { proxy: Some(proxy.port()), ..BrokerOptions::default() });
    proxy.connect(broker.brokers());
    let impatient = "[kafka.properties]\nsocket.timeout.ms = \"1000\"\n\n[sources";
    let application = Application::new(&broker, "late", &TOPOLOGY.replacen("[sources", impatient, 1));
    payments(200_000, &application);
    let more = ["--brokers", &proxy.address(), "--instance", "one", "--commit-every", "200ms"];
    let running = application.start(&broker, "state", &more);
    // What it brings is not to be held.
    let feeding = feed_at(broker.internal(), &application, "1");
    let end = |isolation: &str| {
        let ends = json!({ "do": "ends", "topic": application.topic("featured"), "isolation": isolation });
        java::call(&broker, ends)["offsets"][0].as_i64().unwrap()
    };
    for api_key in [END_TRANSACTION, PRODUCE] {
        application.await_progress(&broker, 500);
        proxy.hold(api_key, 3);
        proxy.await_held();
        application.await_progress(&broker, 500);
        application
            .wait_until("records of an open transaction", || end("read_committed") < end("read_uncommitted"));
        proxy.release();
    }
    application.await_progress(&broker, 500);
    feeding.kill();
    application.await_end(&broker);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(&broker);
}
