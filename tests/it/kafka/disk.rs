//! What goes wrong on the disk of `millstream run`: what it had committed is in Kafka, and nothing it goes on with is wrong.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use millstream::engine::kafka::{ClientSettings, Producer, ProducerOptions, SendError};

use super::application::{Application, Running, STREAMS, TABLES, TOPOLOGY, feed, random};
use super::broker::Broker;

/// The application's folder in the state directory.
fn state(application: &Application) -> PathBuf {
    application.folder.path().join("state").join(&application.id)
}

/// The folder of its only task.
fn task(application: &Application) -> PathBuf {
    state(application).join("payments-0")
}

/// What is in a folder, if there is one.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// How often a task was moved away.
fn moved_away(application: &Application) -> usize {
    let files = files(&state(application));
    files.iter().filter(|file| file.to_str().unwrap().contains("payments-0.damaged-")).count()
}

/// Starts to write payments of many cards with long names: they take some room on disk. Each round is later than the one before.
fn pay(broker: &Broker, application: &Application, round: i64) -> Running {
    const PAYMENTS: i64 = 1_500;
    let mut text = String::from("card,at,amount\n");
    let numbers = round * PAYMENTS..(round + 1) * PAYMENTS;
    for (number, random) in numbers.zip(random(round.unsigned_abs() + 1)) {
        let (card, amount) = ((random >> 33) % 1000, (random >> 45) % 1000);
        text.push_str(&format!("{card:0200},{},{amount}\n", 1_767_225_600_000 + number));
    }
    application.folder.write("payments.csv", text);
    feed(broker, application, "20")
}

fn is(file: &Path, kind: &str) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    name.split('-').next() == Some(kind) || name.rsplit_once('.').is_some_and(|(_, ending)| ending == kind)
}

fn each(application: &Application, kind: &str, damage: impl Fn(&Path)) {
    let files = files(&task(application));
    let mut of_kind = files.iter().filter(|file| is(file, kind)).peekable();
    assert!(of_kind.peek().is_some(), "no {kind} in {files:?}");
    of_kind.for_each(|file| damage(file));
}

fn flip(file: &Path, place: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[!byte[0]], place).unwrap();
}

fn cut(file: &Path) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn a_damaged_database_is_moved_away_and_restored() {
    let broker = Broker::shared();
    let application = Application::new(broker, "damaged", TOPOLOGY);
    let work = |round| {
        let running = application.start(broker, "state", &[]);
        application.await_all(broker, pay(broker, &application, round));
        assert_eq!(running.end(), Some(0), "{}", application.log());
    };
    work(0);
    let remove = |file: &Path| fs::remove_file(file).unwrap();
    // What is damaged, whether that is noticed, and how it is done.
    let damages: [(&str, bool, &dyn Fn()); 8] = [
        ("a block that opening does not read", true, &|| {
            let length = |file: &PathBuf| fs::metadata(file).unwrap().len();
            let data = files(&task(&application)).into_iter().filter(|file| is(file, "sst"));
            flip(&data.max_by_key(length).unwrap(), 20);
        }),
        ("the ends of the data", true, &|| each(&application, "sst", cut)),
        ("all data", true, &|| each(&application, "sst", remove)),
        ("the list of files", true, &|| each(&application, "MANIFEST", |file| flip(file, 20))),
        ("the name of the list of files", true, &|| each(&application, "CURRENT", remove)),
        ("the task", false, &|| fs::remove_dir_all(task(&application)).unwrap()),
        ("what does not matter", false, &|| {
            ["OPTIONS", "IDENTITY", "LOCK"].iter().for_each(|kind| each(&application, kind, remove));
            for name in ["INSTANCE", "LOCK"] {
                fs::write(state(&application).join(name), b"\xff\0\n!\n").unwrap();
            }
        }),
        ("what does not belong there", false, &|| {
            for name in ["999999.sst", "999999.log", "MANIFEST-999999", "notes.txt"] {
                fs::write(task(&application).join(name), "something else").unwrap();
            }
        }),
    ];
    for (round, (what, noticed, damage)) in (1..).zip(damages) {
        let before = moved_away(&application);
        damage();
        work(round);
        let log = application.log();
        assert_eq!(moved_away(&application) - before, usize::from(noticed), "{what}\n{log}");
    }
    let log = application.log();
    let said = "everything is opened anew from what was committed";
    assert_eq!(log.matches(said).count(), 1, "{log}");
    application.check(broker);
}

#[test]
fn damage_to_a_database_in_use_is_noticed_or_harmless() {
    let broker = Broker::shared();
    let application = Application::new(broker, "in-use", TOPOLOGY);
    let mut rounds = 0..;
    let mut work = || application.await_all(broker, pay(broker, &application, rounds.next().unwrap()));
    // Little memory: it has to read.
    let start = || application.start(broker, "state", &["--memory", "16MiB"]);
    let running = start();
    work();
    assert_eq!(running.end(), Some(0), "{}", application.log());
    let running = start();
    application.wait_until("the data", || files(&task(&application)).iter().any(|file| is(file, "sst")));
    each(&application, "sst", |file| {
        let file = OpenOptions::new().write(true).open(file).unwrap();
        let words = file.metadata().unwrap().len() as usize / 8;
        let noise: Vec<u8> = random(9).take(words).flat_map(u64::to_be_bytes).collect();
        file.write_all_at(&noise, 0).unwrap();
    });
    work();
    each(&application, "sst", cut);
    work();
    fs::remove_dir_all(task(&application)).unwrap();
    work();
    assert_eq!(running.end(), Some(0), "{}", application.log());
    let running = start();
    work();
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(broker);
}

#[test]
fn a_disk_that_fails_ends_the_process_and_nothing_is_lost() {
    let broker = Broker::shared();
    let application = Application::new(broker, "failing", TOPOLOGY);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/disk.c");
    let [library, fault] = ["disk.so", "fault"].map(|name| application.folder.at(name));
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o", &library, source, "-ldl"]).status().unwrap();
    assert!(compiled.success());
    let disk = task(&application).display().to_string();
    let environment = [("LD_PRELOAD", library.as_str()), ("DISK", &disk), ("DISK_FAULT", &fault)];
    // Little memory: what is committed comes to the disk soon.
    let start = || application.start_with(broker, "state", &["--memory", "16MiB"], &environment);
    let mut rounds = 0..;
    let mut round = || rounds.next().unwrap();
    for (kind, said) in [
        ("full", "No space left on device"),
        ("read-only", "Read-only file system"),
        ("broken", "Input/output error"),
    ] {
        let mut running = start();
        application.await_all(broker, pay(broker, &application, round()));
        application.folder.write("fault", kind);
        // It ends as often as it is started, and says why.
        for _ in 0..2 {
            let before = application.log().len();
            while running.goes_on() {
                let number = round();
                assert!(number < 60, "{kind}\n{}", application.log());
                assert_eq!(pay(broker, &application, number).code(), Some(0));
            }
            assert_eq!(running.code(), Some(1), "{kind}\n{}", application.log());
            assert!(application.log()[before..].contains(said), "{kind}\n{}", application.log());
            running = start();
        }
        drop(running);
        fs::remove_file(&fault).unwrap();
    }
    let running = start();
    application.await_all(broker, pay(broker, &application, round()));
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(broker);
    assert_eq!(moved_away(&application), 0, "{}", application.log());
}

/// Entries of a store that no payment asks for: so much that restoring them takes a while.
const FILLING: usize = 100 << 20;

fn fill(broker: &Broker, topic: &str) {
    let client = ClientSettings {
        brokers: broker.brokers().to_owned(),
        client_id: "filling".to_owned(),
        ..ClientSettings::default()
    };
    let options = ProducerOptions {
        transactional_id: None,
        transaction_timeout: Duration::from_secs(20),
        linger: Duration::from_millis(5),
        buffer_bytes: 32 << 20,
        batch_bytes: 1_000_000,
        compression: "none".to_owned(),
    };
    let producer = Producer::new(&client, &options).unwrap();
    let topic = producer.topic(topic).unwrap();
    const VALUE: usize = 500;
    let mut noise = random(13).flat_map(u64::to_be_bytes);
    for number in 0..FILLING / VALUE {
        let value: Vec<u8> = noise.by_ref().take(VALUE).collect();
        let key = format!("\u{7f}filling-{number}");
        while let Err(error) = producer.send(topic, 0, Some(key.as_bytes()), Some(&value), 1, []) {
            assert!(matches!(error, SendError::QueueFull), "{error}");
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

#[test]
fn a_restore_that_is_killed_goes_on_from_what_it_has_restored() {
    let broker = Broker::shared();
    let application = Application::new(broker, "restored", TOPOLOGY);
    let flags = ["--instance", "one", "--memory", "64MiB"];
    let start = || application.start(broker, "state", &flags);
    let running = start();
    application.await_all(broker, pay(broker, &application, 0));
    fill(broker, &application.topic("totals-changelog"));
    application.await_all(broker, pay(broker, &application, 1));
    assert_eq!(running.end(), Some(0), "{}", application.log());
    fs::remove_dir_all(application.folder.at("state")).unwrap();

    // Once where the disk has more than its offset says.
    let environment = [("MILLSTREAM_FAIL_POINT", "database-loaded:2")];
    let mut crashing = application.start_with(broker, "state", &flags, &environment);
    assert_eq!(crashing.code(), None, "{}", application.log());
    let running = start();
    // The last that was read is not on disk yet.
    application.wait_until("data on disk", || {
        let data = files(&task(&application)).into_iter().filter(|file| is(file, "sst"));
        data.filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum::<u64>() > 40 << 20
    });
    running.kill();
    let running = start();
    application.await_all(broker, pay(broker, &application, 2));
    let series = format!("millstream_restored_bytes_total{{app=\"{}\"}}", application.id);
    let bytes = application.metric(&series).unwrap();
    assert!(bytes > 0.0 && bytes < 0.92 * FILLING as f64, "{bytes}\n{}", application.log());
    assert_eq!(running.end(), Some(0), "{}", application.log());
    // Whoever filled the changelog has no part in the application, so that only the results can be right.
    application.check_streams(broker, &STREAMS);
    application.check_tables(broker, &TABLES);
}

#[test]
fn the_state_of_something_else_is_refused_and_left_alone() {
    let broker = Broker::shared();
    let application = Application::new(broker, "owner", TOPOLOGY);
    let work = |round| {
        let running = application.start(broker, "state", &[]);
        application.await_all(broker, pay(broker, &application, round));
        assert_eq!(running.end(), Some(0), "{}", application.log());
    };
    work(0);
    let content = || -> Vec<_> {
        files(&task(&application)).into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect()
    };
    let before = content();
    let refused = |said: &str| {
        assert_eq!(application.start(broker, "state", &[]).code(), Some(3), "{}", application.log());
        let log = application.log();
        assert!(log.contains(said), "{said}\n{log}");
    };
    let path = state(&application).join("FORMAT");
    let format = fs::read_to_string(&path).unwrap();
    fs::write(&path, format.replace("format 1", "format 0")).unwrap();
    refused("has format version 0, this program reads and writes version 1");
    fs::write(&path, format.replace(&application.id, "another")).unwrap();
    refused("holds the state of `another`, not of");
    fs::write(&path, &format).unwrap();

    let topology = application.folder.read("topology.toml");
    application.folder.write("topology.toml", topology.replace("sum(amount)\" }", "max(amount)\" }"));
    refused("store `totals` of task");
    application.folder.write("topology.toml", topology);

    assert!(content() == before);
    work(1);
    application.check(broker);
}
