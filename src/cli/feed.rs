//! `feed`: files into the topics of a cluster.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::engine::feed::{Feed as File, FeedError, FeedOptions, Merge};
use crate::engine::kafka::{Admin, NewTopic, Producer, ProducerOptions, SendError, TopicHandle};
use crate::engine::partitioner::partition;
use crate::engine::record::Record;
use crate::engine::runtime::{clock, retention, set_retention};
use crate::engine::settings::{Flags, RunSettings};
use crate::engine::topology::Source;
use crate::operators::config::format_duration;
use crate::operators::diagnostic::listed;
use crate::operators::registry::Registry;

use super::arguments::Feed;
use super::failure::{Exit, Failure};
use super::files::{load, settings, sources_of};
use super::interrupt::{self, interrupted};
use super::numbers::{counted, grouped};
use super::progress::{Pace, Progress, REDRAW};
use super::table::{Align, aligned};

/// How long brokers may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a record may take, should brokers be away for a while.
const DELIVERY: Duration = Duration::from_secs(120);
/// How many records may pass between two looks at deliveries and the clock.
const LOOK_EVERY: u64 = 1_000;

pub fn feed(arguments: &Feed, registry: &Registry) -> Result<(), Failure> {
    let loaded = load(&arguments.file, registry)?;
    let fed = sources_of(&arguments.feeds, &loaded.topology)?;
    // Records are written as their files are read, with the ids of the registry.
    loaded.topology.connect_registry()?;
    let mut files = Vec::with_capacity(fed.len());
    let mut sources = Vec::with_capacity(fed.len());
    for (position, path) in &fed {
        let Some(source) = loaded.topology.sources.get(*position) else { continue };
        files.push(File::open(path, &source.layout, &FeedOptions { null: arguments.null.clone() })?);
        sources.push(source);
    }
    let flags = Flags { brokers: arguments.brokers.clone(), runtime: Vec::new() };
    let settings = settings(&arguments.file, &loaded.topology, &flags)?;
    interrupt::listen();
    let client = settings.client(&format!("{}-feed", loaded.topology.app.id));
    let admin = Admin::new(&client, ANSWER)?;
    let partitions = partitions(&admin, &sources, arguments.partitions, &settings)?;
    let options = ProducerOptions {
        transactional_id: None,
        transaction_timeout: DELIVERY,
        linger: Duration::from_millis(20),
        buffer_bytes: 64 << 20,
        batch_bytes: usize::MAX,
        compression: "lz4".to_owned(),
    };
    let producer = Producer::new(&client, &options)?;
    let mut targets = Vec::with_capacity(sources.len());
    for (source, partitions) in sources.iter().zip(partitions) {
        let topic = producer.topic(&source.topic)?;
        let retention = retention_by_event_time(&admin, &source.topic)?;
        targets.push(Target { name: source.topic.clone(), topic, partitions, retention, records: 0 });
    }
    let mut feeding = Feeding {
        producer,
        targets,
        progress: Progress::new(),
        pace: Pace::new(arguments.speed),
        records: 0,
        last_time: None,
    };
    let start = Instant::now();
    let outcome = feeding.all(Merge::new(files));
    feeding.progress.end();
    let took = start.elapsed().as_secs_f64();
    let rate = grouped((feeding.records as f64 / took.max(0.001)) as u64);
    let end = match (&outcome, interrupted()) {
        (Err(_), _) => "failed after",
        (Ok(()), true) => "interrupted after",
        (Ok(()), false) => "done:",
    };
    let mut stdout = io::stdout().lock();
    let records = grouped(feeding.records);
    writeln!(stdout, "{} {end} {records} records in {took:.1} s ({rate}/s)", loaded.topology.app.id)?;
    let heading = ["source", "topic", "partitions", "records"].map(str::to_owned).to_vec();
    let rows = sources.iter().zip(&feeding.targets).map(|(source, target)| {
        let numbers = [u64::from(target.partitions), target.records].map(grouped);
        [source.name.clone(), target.name.clone()].into_iter().chain(numbers).collect()
    });
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let align = [Align::Left, Align::Left, Align::Right, Align::Right];
    stdout.write_all(aligned(&rows, &align, 0).as_bytes())?;
    outcome
}

/// The partition count of each source's topic; topics that are missing are made if `wanted` says with how many.
fn partitions(
    admin: &Admin,
    sources: &[&Source],
    wanted: Option<u32>,
    settings: &RunSettings,
) -> Result<Vec<u32>, Failure> {
    let topics: Vec<&str> = sources.iter().map(|source| source.topic.as_str()).collect();
    let found = admin.topics(&topics).map_err(|error| {
        let away = error.is_timeout().then(|| {
            format!("no broker answers at {} ({}): {error}", settings.brokers, settings.brokers_place())
        });
        away.map_or_else(|| error.into(), |message| Failure::new(Exit::Failed, message))
    })?;
    let missing: Vec<&Source> =
        sources.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(source, _)| *source).collect();
    let names = || listed(missing.iter().map(|source| source.topic.as_str()));
    if !missing.is_empty() {
        let Some(count) = wanted else {
            let message = format!(
                "the cluster has no topic {}; `--partitions N` makes topics that are missing",
                names()
            );
            return Err(Failure::new(Exit::Failed, message));
        };
        let topics: Vec<NewTopic> = missing
            .iter()
            .map(|source| NewTopic {
                name: source.topic.clone(),
                partitions: i32::try_from(count).unwrap_or(i32::MAX),
                replication: settings.topics.replication(),
                config: settings.topics.config().chain([source.kept()]).collect(),
            })
            .collect();
        admin.create_topics(&topics)?;
        let made = counted(count as usize, "partition");
        writeln!(io::stderr().lock(), "made {} with {made}", names())?;
    }
    let count = |found: &Option<crate::engine::kafka::TopicDescription>| match found {
        Some(topic) => u32::try_from(topic.partitions).unwrap_or(u32::MAX),
        None => wanted.unwrap_or(1),
    };
    Ok(found.iter().map(count).collect())
}

/// How long the brokers keep records of a topic after their events, in milliseconds, as far as that can be told.
fn retention_by_event_time(admin: &Admin, topic: &str) -> Result<Option<i64>, Failure> {
    let config = match admin.topic_config(topic) {
        Ok(config) => config,
        // To write it need not be allowed.
        Err(error) if error.is_authorization() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let appended = config.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime");
    Ok(retention(&config).filter(|_| !appended))
}

/// The topic of a source.
struct Target {
    name: String,
    topic: TopicHandle,
    partitions: u32,
    retention: Option<i64>,
    records: u64,
}

impl Target {
    /// The first record of a file is its oldest.
    fn warn_of_age(&self, first: &Record, retention: i64) -> Result<(), Failure> {
        let age = clock::now().saturating_sub(first.timestamp);
        if age > retention {
            let (kept, age) = (format_duration(retention), format_duration(age - age % 1_000));
            writeln!(
                io::stderr().lock(),
                "warning: topic `{}` keeps its records for {kept}, but the first one of its file is {age} old: the brokers \
                 remove such records at any time, read or not. Run: {}",
                self.name,
                set_retention(&self.name, -1),
            )?;
        }
        Ok(())
    }
}

/// What is written, and what is seen of it.
struct Feeding {
    producer: Producer,
    targets: Vec<Target>,
    progress: Progress,
    pace: Pace,
    records: u64,
    last_time: Option<i64>,
}

impl Feeding {
    /// Writes all records, up to the first failure or Ctrl-C; what was sent before is delivered.
    fn all(
        &mut self,
        records: impl Iterator<Item = Result<(usize, Record), FeedError>>,
    ) -> Result<(), Failure> {
        let read = self.each(records);
        let delivered = self.producer.flush(DELIVERY);
        read.and_then(|()| Ok(delivered?))
    }

    fn each(
        &mut self,
        records: impl Iterator<Item = Result<(usize, Record), FeedError>>,
    ) -> Result<(), Failure> {
        for next in records {
            let (file, record) = next?;
            self.wait_for(record.timestamp)?;
            if interrupted() {
                break;
            }
            self.send(file, &record)?;
            self.records += 1;
            self.last_time = Some(record.timestamp);
            if self.records.is_multiple_of(LOOK_EVERY) {
                self.look(Duration::ZERO)?;
            }
        }
        Ok(())
    }

    /// Serves deliveries, for so long, and shows progress if it is time to.
    fn look(&mut self, wait: Duration) -> Result<(), Failure> {
        self.producer.poll(wait);
        if let Some(error) = self.producer.delivery_error() {
            return Err(error.into());
        }
        self.progress.show(self.records, self.last_time);
        Ok(())
    }

    fn wait_for(&mut self, time: i64) -> Result<(), Failure> {
        loop {
            let left = self.pace.left(time);
            if left.is_zero() || interrupted() {
                return Ok(());
            }
            self.look(left.min(REDRAW))?;
        }
    }

    fn send(&mut self, file: usize, record: &Record) -> Result<(), Failure> {
        loop {
            let Some(target) = self.targets.get_mut(file) else { return Ok(()) };
            if let Some(retention) = target.retention.take() {
                target.warn_of_age(record, retention)?;
            }
            let partition = match &record.key {
                Some(key) => partition(key, target.partitions),
                None => u32::try_from(target.records % u64::from(target.partitions.max(1))).unwrap_or(0),
            };
            let headers = record.headers.iter().map(|header| (header.name.as_str(), header.value.as_deref()));
            let sent = self.producer.send(
                target.topic,
                i32::try_from(partition).unwrap_or(i32::MAX),
                record.key.as_deref(),
                record.value.as_deref(),
                // A time before 1970 is the topology's to judge, by the column that holds it.
                record.timestamp.max(0),
                headers,
            );
            match sent {
                Ok(()) => {
                    target.records += 1;
                    return Ok(());
                }
                Err(SendError::QueueFull) => self.look(Duration::from_millis(10))?,
                Err(SendError::Failed(error)) => return Err(error.into()),
            }
        }
    }
}
