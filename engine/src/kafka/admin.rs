//! Administration: topics, offsets, what a cluster can do.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::client::{Client, Event, Kind, Properties, Queue, millis, written};
use super::error::{KafkaError, code, text};
use super::partition::{Committed, Entry, PartitionList, TopicPartition, c_string, committed, entries};
use super::settings::ClientSettings;
use super::sys;

/// A topic to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas; -1: the brokers' default.
    pub replication: i16,
    /// Its configuration, where it is not the brokers' default.
    pub config: Vec<(String, String)>,
}

/// A topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// How many partitions.
    pub partitions: usize,
    /// The id, which a topic of the same name that is made anew does not have.
    pub id: String,
    /// What the user may do with it.
    pub allowed: Vec<Operation>,
}

/// What ACLs allow to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To read its records.
    Read,
    /// To write records.
    Write,
    /// To delete it, or its first records.
    Delete,
    /// To read its configuration.
    DescribeConfigs,
}

impl Operation {
    /// As Kafka calls it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Read => "Read",
            Operation::Write => "Write",
            Operation::Delete => "Delete",
            Operation::DescribeConfigs => "DescribeConfigs",
        }
    }

    /// The one with this number in the protocol.
    fn from_number(number: c_int) -> Option<Self> {
        match number {
            3 => Some(Operation::Read),
            4 => Some(Operation::Write),
            6 => Some(Operation::Delete),
            10 => Some(Operation::DescribeConfigs),
            _ => None,
        }
    }
}

/// Which offset of a partition is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Of the first record that is still there.
    Earliest,
    /// After the last record, open transactions included (the high watermark).
    Latest,
    /// Of the first record with this time or a later one, in milliseconds since 1970; after the last record if there is
    /// none.
    AtTime(i64),
}

/// A cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// How many brokers it has now.
    pub brokers: usize,
}

/// Asks brokers and waits for the answer, up to a time that is set once.
pub struct Admin {
    client: Client,
    settings: ClientSettings,
    timeout: Duration,
}

impl Admin {
    /// Connects in the background. Every call fails when it takes longer than `timeout`.
    pub fn new(settings: &ClientSettings, timeout: Duration) -> Result<Self, KafkaError> {
        let mut properties =
            Properties::new(settings, Kind::Writer, &[], &[("allow.auto.create.topics", "false")])?;
        properties.events(sys::RD_KAFKA_EVENT_ERROR);
        Ok(Self { client: properties.client(Kind::Writer)?, settings: settings.clone(), timeout })
    }

    /// Whether the cluster answers and can do what exactly-once needs (Kafka 2.5 or newer), and the group's offsets may be
    /// read. An error says what keeps it: no connection, wrong password, an untrusted certificate, a missing permission.
    pub fn check(&self, group: &str) -> Result<Cluster, KafkaError> {
        let brokers = self.brokers()?;
        // Any partition will do: the question is whether the group may be asked, and how.
        let reader = GroupReader::new(&self.settings, group)?;
        reader.committed(&[TopicPartition::new("__consumer_offsets", 0)], self.timeout)?;
        if reader.version() < STABLE_OFFSET_FETCH {
            let message = "the brokers are too old for exactly-once: Kafka 2.5 or newer is needed";
            return Err(KafkaError::new(code::UNSUPPORTED_FEATURE, message));
        }
        Ok(Cluster { brokers })
    }

    fn brokers(&self) -> Result<usize, KafkaError> {
        let deadline = Instant::now() + self.timeout;
        let events = self.main();
        let mut cause = None;
        loop {
            let mut metadata = std::ptr::null();
            let left = deadline.saturating_duration_since(Instant::now());
            // In short steps: what will not get better is said at once.
            let step = millis(left.min(Duration::from_millis(200)));
            // SAFETY: the client is valid, the result has a place, and is destroyed once, after it was read.
            let result = unsafe {
                let result = sys::rd_kafka_metadata(
                    self.client.as_ptr(),
                    0,
                    std::ptr::null_mut(),
                    &mut metadata,
                    step,
                );
                if result == code::NONE {
                    let brokers = (*metadata).broker_cnt;
                    sys::rd_kafka_metadata_destroy(metadata);
                    return Ok(usize::try_from(brokers).unwrap_or(0));
                }
                result
            };
            cause = told_by(&events, cause);
            let hopeless = cause.as_ref().is_some_and(KafkaError::is_authentication);
            if hopeless || left.is_zero() {
                let error = cause.unwrap_or_else(|| self.client.error(result));
                return Err(error.during("cannot reach the brokers"));
            }
        }
    }

    /// What these topics are; `None` for one that does not exist. In the order asked for.
    pub fn topics(&self, names: &[&str]) -> Result<Vec<Option<TopicDescription>>, KafkaError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let names_c: Vec<_> = names.iter().map(|name| c_string(name)).collect::<Result<_, _>>()?;
        let mut pointers: Vec<_> = names_c.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: there are as many names as said, which are copied; the collection is destroyed once, after the request
        // has copied it.
        let event = unsafe {
            let topics = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            let event =
                self.ask(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, |options, queue| {
                    sys::rd_kafka_DescribeTopics(self.client.as_ptr(), topics, options, queue);
                });
            sys::rd_kafka_TopicCollection_destroy(topics);
            event?
        };
        let mut found = BTreeMap::new();
        // SAFETY: the event is the answer to this request; all it holds lives as long as it and is copied.
        unsafe {
            let result = sys::rd_kafka_event_DescribeTopics_result(event.as_ptr());
            let mut count = 0;
            let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
            for topic in slice(topics, count) {
                let name = text(sys::rd_kafka_TopicDescription_name(*topic));
                let error = sys::rd_kafka_TopicDescription_error(*topic);
                let error_code = if error.is_null() { code::NONE } else { sys::rd_kafka_error_code(error) };
                match error_code {
                    code::NONE => {
                        let mut partitions = 0;
                        sys::rd_kafka_TopicDescription_partitions(*topic, &mut partitions);
                        let id = sys::rd_kafka_TopicDescription_topic_id(*topic);
                        let id = text(sys::rd_kafka_Uuid_base64str(id));
                        let mut count = 0;
                        // Numbers: brokers may send some that the bindings' `enum` does not have.
                        let allowed =
                            sys::rd_kafka_TopicDescription_authorized_operations(*topic, &mut count)
                                .cast::<c_int>();
                        let allowed = slice(allowed, count).iter();
                        let allowed = allowed.filter_map(|number| Operation::from_number(*number)).collect();
                        found.insert(name, TopicDescription { partitions, id, allowed });
                    }
                    code::UNKNOWN_TOPIC_OR_PARTITION => {}
                    error => return Err(KafkaError::from_code(error).during(format!("topic {name:?}"))),
                }
            }
        }
        Ok(names.iter().map(|name| found.get(*name).cloned()).collect())
    }

    /// Makes topics and waits until they are seen. One that exists stays as it is.
    pub fn create_topics(&self, topics: &[NewTopic]) -> Result<(), KafkaError> {
        if topics.is_empty() {
            return Ok(());
        }
        let raw: Vec<_> = topics.iter().map(RawNewTopic::new).collect::<Result<_, _>>()?;
        let mut pointers: Vec<_> = raw.iter().map(|topic| topic.0.as_ptr()).collect();
        let event =
            self.ask(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS, |options, queue| {
                // SAFETY: the client, the topics, the options and the queue are valid; all is copied.
                unsafe {
                    sys::rd_kafka_CreateTopics(
                        self.client.as_ptr(),
                        pointers.as_mut_ptr(),
                        pointers.len(),
                        options,
                        queue,
                    );
                }
            })?;
        // SAFETY: the event is the answer to this request; all it holds lives as long as it and is copied.
        unsafe {
            let result = sys::rd_kafka_event_CreateTopics_result(event.as_ptr());
            let mut count = 0;
            let topics = sys::rd_kafka_CreateTopics_result_topics(result, &mut count);
            topic_results(topics, count, "cannot create", code::TOPIC_EXISTS)?;
        }
        // The controller has answered; the other brokers learn of it a little later.
        let names: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
        let deadline = Instant::now() + self.timeout;
        while self.topics(&names)?.contains(&None) {
            if Instant::now() > deadline {
                return Err(KafkaError::from_code(code::TIMED_OUT).during("the new topics are not seen"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Deletes topics. One that does not exist is fine.
    pub fn delete_topics(&self, names: &[&str]) -> Result<(), KafkaError> {
        if names.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = names.iter().map(|name| c_string(name)).collect::<Result<_, _>>()?;
        // SAFETY: the names are copied; the objects are destroyed once, after the request has copied them.
        let event = unsafe {
            let mut topics: Vec<_> =
                names.iter().map(|name| sys::rd_kafka_DeleteTopic_new(name.as_ptr())).collect();
            let event =
                self.ask(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETETOPICS, |options, queue| {
                    sys::rd_kafka_DeleteTopics(
                        self.client.as_ptr(),
                        topics.as_mut_ptr(),
                        topics.len(),
                        options,
                        queue,
                    );
                });
            sys::rd_kafka_DeleteTopic_destroy_array(topics.as_mut_ptr(), topics.len());
            event?
        };
        // SAFETY: the event is the answer to this request; all it holds lives as long as it and is copied.
        unsafe {
            let result = sys::rd_kafka_event_DeleteTopics_result(event.as_ptr());
            let mut count = 0;
            let topics = sys::rd_kafka_DeleteTopics_result_topics(result, &mut count);
            topic_results(topics, count, "cannot delete", code::UNKNOWN_TOPIC_OR_PARTITION)
        }
    }

    /// The whole configuration of a topic, defaults included.
    pub fn topic_config(&self, name: &str) -> Result<BTreeMap<String, String>, KafkaError> {
        let what = format!("cannot read the configuration of topic {name:?}");
        let name = c_string(name)?;
        // SAFETY: the name is copied; the object is destroyed once, after the request has copied it.
        let event = unsafe {
            let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
            let resource = sys::rd_kafka_ConfigResource_new(kind, name.as_ptr());
            let mut resources = [resource];
            let event =
                self.ask(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, |options, queue| {
                    sys::rd_kafka_DescribeConfigs(
                        self.client.as_ptr(),
                        resources.as_mut_ptr(),
                        resources.len(),
                        options,
                        queue,
                    );
                });
            sys::rd_kafka_ConfigResource_destroy(resource);
            event?
        };
        let mut config = BTreeMap::new();
        // SAFETY: the event is the answer to this request; all it holds lives as long as it and is copied.
        unsafe {
            let result = sys::rd_kafka_event_DescribeConfigs_result(event.as_ptr());
            let mut count = 0;
            let resources = sys::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
            for resource in slice(resources, count) {
                KafkaError::check(sys::rd_kafka_ConfigResource_error(*resource))
                    .map_err(|error| error.during(&what))?;
                let mut count = 0;
                let entries = sys::rd_kafka_ConfigResource_configs(*resource, &mut count);
                for entry in slice(entries, count) {
                    let value = sys::rd_kafka_ConfigEntry_value(*entry);
                    if !value.is_null() {
                        config.insert(text(sys::rd_kafka_ConfigEntry_name(*entry)), text(value));
                    }
                }
            }
        }
        Ok(config)
    }

    /// Offsets of partitions, in the order asked for.
    pub fn offsets(&self, partitions: &[TopicPartition], spec: OffsetSpec) -> Result<Vec<i64>, KafkaError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = match spec {
            OffsetSpec::Earliest => i64::from(sys::RD_KAFKA_OFFSET_BEGINNING),
            OffsetSpec::Latest => i64::from(sys::RD_KAFKA_OFFSET_END),
            OffsetSpec::AtTime(time) => time.max(0),
        };
        let asked: Vec<_> = partitions.iter().map(|partition| (partition.clone(), wanted)).collect();
        let list = PartitionList::at(&asked)?;
        // The default isolation is to read uncommitted.
        let event = self
            .ask(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, |options, queue| {
                // SAFETY: the client, the list, the options and the queue are valid; all is copied.
                unsafe { sys::rd_kafka_ListOffsets(self.client.as_ptr(), list.as_ptr(), options, queue) };
            })
            .map_err(|error| match error.code() {
                code::NO_ENTRY => {
                    let message = "a partition does not exist, or has no leader";
                    KafkaError::new(code::UNKNOWN_PARTITION, message)
                }
                _ => error,
            })
            .map_err(|error| {
                let topics: BTreeSet<_> = partitions.iter().map(|partition| &*partition.topic).collect();
                error.during(format!("cannot read offsets of {topics:?}"))
            })?;
        let mut found = BTreeMap::new();
        // SAFETY: the event is the answer to this request; all it holds lives as long as it and is copied.
        unsafe {
            let result = sys::rd_kafka_event_ListOffsets_result(event.as_ptr());
            let mut count = 0;
            let infos = sys::rd_kafka_ListOffsets_result_infos(result, &mut count);
            for info in slice(infos.cast_const().cast(), count) {
                let partition: *const sys::rd_kafka_topic_partition_t =
                    sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*info);
                let Entry { partition, offset, err, .. } = Entry::copy(partition.cast());
                KafkaError::check(err)
                    .map_err(|error| error.during(format!("cannot read an offset of {partition}")))?;
                found.insert(partition, offset);
            }
        }
        // No record is that young: the end, asked for in a second step.
        let young: Vec<_> =
            partitions.iter().filter(|partition| found.get(*partition) == Some(&-1)).cloned().collect();
        if !young.is_empty() && spec != OffsetSpec::Latest {
            let ends = self.offsets(&young, OffsetSpec::Latest)?;
            found.extend(young.into_iter().zip(ends));
        }
        let offset = |partition: &TopicPartition| {
            found.get(partition).copied().filter(|offset| *offset >= 0).ok_or_else(|| {
                KafkaError::new(
                    code::NO_OFFSET,
                    format!("the offset of {partition} is missing in the answer"),
                )
            })
        };
        partitions.iter().map(offset).collect()
    }

    /// Deletes the records before these offsets.
    pub fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        if before.is_empty() {
            return Ok(());
        }
        let list = PartitionList::at(before)?;
        // SAFETY: the list is copied; the object is destroyed once, after the request has copied it.
        let event = unsafe {
            let request = sys::rd_kafka_DeleteRecords_new(list.as_ptr());
            let mut requests = [request];
            let event =
                self.ask(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETERECORDS, |options, queue| {
                    sys::rd_kafka_DeleteRecords(
                        self.client.as_ptr(),
                        requests.as_mut_ptr(),
                        requests.len(),
                        options,
                        queue,
                    );
                });
            sys::rd_kafka_DeleteRecords_destroy(request);
            event?
        };
        // SAFETY: the event is the answer to this request; all it holds lives as long as it and is copied.
        let entries = unsafe {
            let result = sys::rd_kafka_event_DeleteRecords_result(event.as_ptr());
            entries(sys::rd_kafka_DeleteRecords_result_offsets(result))
        };
        entries.into_iter().try_for_each(|entry| {
            KafkaError::check(entry.err)
                .map_err(|error| error.during(format!("cannot delete records of {}", entry.partition)))
        })
    }

    /// What a group has committed, in the order asked for, whether or not it has members. Offsets that an open transaction
    /// may still change are waited for.
    pub fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Committed>, KafkaError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let entries = GroupReader::new(&self.settings, group)?.committed(partitions, self.timeout)?;
        committed(entries, partitions)
    }

    /// The client's main queue, where its errors arrive.
    fn main(&self) -> Queue {
        // SAFETY: the client is valid; the queue is ours, and dropped before the client, which `self` has.
        match unsafe { Queue::own(sys::rd_kafka_queue_get_main(self.client.as_ptr())) } {
            Some(queue) => queue,
            None => std::process::abort(),
        }
    }

    /// Sends a request and waits for the answer. `send` has to pass on the options and the queue that it is given.
    fn ask(
        &self,
        operation: sys::rd_kafka_admin_op_t,
        send: impl FnOnce(*const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
    ) -> Result<Event, KafkaError> {
        let options = Options::new(&self.client, operation, self.timeout)?;
        let queue = Queue::new(&self.client);
        send(options.0.as_ptr(), queue.as_ptr());
        // The request has the time-out; the wait is longer, so that its error arrives.
        let answer = queue.poll(self.timeout + Duration::from_secs(2));
        let error = match answer.as_ref().map(Event::error) {
            Some(None) => None,
            Some(Some(error)) => Some(error),
            None => Some(KafkaError::from_code(code::TIMED_OUT)),
        };
        match (answer, error) {
            (Some(answer), None) => Ok(answer),
            (_, error) => {
                let error = error.unwrap_or_else(|| KafkaError::from_code(code::TIMED_OUT));
                // That no answer came is the consequence; the cause is among the client's events.
                let cause = if error.is_retriable() { told_by(&self.main(), None) } else { None };
                Err(cause.unwrap_or(error))
            }
        }
    }
}

/// Reads a group's offsets without joining it. librdkafka has an administrative request for it, but a client that is no
/// member of any group dies of the answer "not coordinator" (2.12.1: `rd_kafka_handle_OffsetFetch` uses the group that it
/// does not have), which is the usual one while a cluster makes its first group.
struct GroupReader {
    // Before the client: a queue has to go first.
    main: Queue,
    client: Client,
    group: String,
}

impl GroupReader {
    fn new(settings: &ClientSettings, group: &str) -> Result<Self, KafkaError> {
        let mut owned = super::READ.to_vec();
        owned.extend([("group.id", group), ("group.protocol", "classic")]);
        let mut properties = Properties::new(settings, Kind::Reader, &[], &owned)?;
        properties.events(sys::RD_KAFKA_EVENT_ERROR);
        let client = properties.client(Kind::Reader)?;
        // SAFETY: the client is valid; the queue is ours and is dropped before it.
        let main = unsafe {
            KafkaError::check(sys::rd_kafka_poll_set_consumer(client.as_ptr()))?;
            Queue::own(sys::rd_kafka_queue_get_consumer(client.as_ptr()))
        };
        let main = main.ok_or_else(|| KafkaError::from_code(code::STATE))?;
        Ok(Self { main, client, group: group.to_owned() })
    }

    /// The partitions with what is committed for them, or their own errors.
    fn committed(&self, partitions: &[TopicPartition], timeout: Duration) -> Result<Vec<Entry>, KafkaError> {
        let deadline = Instant::now() + timeout;
        let mut cause = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let list = PartitionList::of(partitions)?;
            // In short steps: what will not get better is said at once.
            let step = millis(left.min(Duration::from_millis(500)));
            // SAFETY: the client and the list are valid. Stable offsets are asked for because the client reads committed
            // records only.
            let result = unsafe { sys::rd_kafka_committed(self.client.as_ptr(), list.as_ptr(), step) };
            if result == code::NONE {
                return Ok(list.entries());
            }
            cause = told_by(&self.main, cause);
            let error = self.client.error(result);
            let hopeless = |error: &KafkaError| error.is_authorization() || error.is_authentication();
            if !error.is_retriable() || cause.as_ref().is_some_and(hopeless) || left.is_zero() {
                let what = format!("cannot read the offsets of group {:?}", self.group);
                return Err(cause.unwrap_or(error).during(what));
            }
        }
    }

    /// The version of the last answered OffsetFetch.
    fn version(&self) -> i16 {
        self.client.shared().offset_fetch.load(Ordering::Relaxed)
    }
}

/// The version of OffsetFetch from which on stable offsets can be asked for (KIP-447, Kafka 2.5).
const STABLE_OFFSET_FETCH: i16 = 7;

/// The most telling of the errors that wait in a queue, and of the one known already.
fn told_by(events: &Queue, known: Option<KafkaError>) -> Option<KafkaError> {
    let told = |error: &KafkaError| match error.code() {
        _ if error.is_authentication() || error.is_authorization() => 4,
        code::RESOLVE => 3,
        code::TRANSPORT => 2,
        _ => 1,
    };
    let waiting = std::iter::from_fn(|| events.poll(Duration::ZERO)).filter_map(|event| event.error());
    known.into_iter().chain(waiting).max_by_key(told)
}

/// Options of a request.
struct Options(NonNull<sys::rd_kafka_AdminOptions_t>);

impl Options {
    fn new(
        client: &Client,
        operation: sys::rd_kafka_admin_op_t,
        timeout: Duration,
    ) -> Result<Self, KafkaError> {
        use sys::rd_kafka_admin_op_t as op;
        // SAFETY: the client is valid; the options are ours.
        let options = unsafe { sys::rd_kafka_AdminOptions_new(client.as_ptr(), operation) };
        let Some(options) = NonNull::new(options) else {
            return Err(KafkaError::from_code(code::INVALID_ARGUMENT));
        };
        let this = Self(options);
        let timeout: c_int = millis(timeout).clamp(1, 3_600_000);
        let mut reason = [0; 256];
        // SAFETY: the options are ours, the buffer has the size given, the error is handed over.
        unsafe {
            let set = sys::rd_kafka_AdminOptions_set_request_timeout(
                options.as_ptr(),
                timeout,
                reason.as_mut_ptr(),
                reason.len(),
            );
            KafkaError::check(set).map_err(|error| error.during(written(&reason)))?;
            if operation == op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS {
                KafkaError::take(sys::rd_kafka_AdminOptions_set_include_authorized_operations(
                    options.as_ptr(),
                    1,
                ))?;
            }
            // How long brokers wait until what was done is known everywhere.
            let waits = [
                op::RD_KAFKA_ADMIN_OP_CREATETOPICS,
                op::RD_KAFKA_ADMIN_OP_DELETETOPICS,
                op::RD_KAFKA_ADMIN_OP_DELETERECORDS,
            ];
            if waits.contains(&operation) {
                let set = sys::rd_kafka_AdminOptions_set_operation_timeout(
                    options.as_ptr(),
                    timeout,
                    reason.as_mut_ptr(),
                    reason.len(),
                );
                KafkaError::check(set).map_err(|error| error.during(written(&reason)))?;
            }
        }
        Ok(this)
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the options are ours and are destroyed once.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0.as_ptr()) };
    }
}

struct RawNewTopic(NonNull<sys::rd_kafka_NewTopic_t>);

impl RawNewTopic {
    fn new(topic: &NewTopic) -> Result<Self, KafkaError> {
        let name = c_string(&topic.name)?;
        let mut reason = [0; 256];
        // SAFETY: the name is copied, the buffer has the size given; the topic is ours.
        let raw = unsafe {
            sys::rd_kafka_NewTopic_new(
                name.as_ptr(),
                topic.partitions,
                topic.replication.into(),
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| {
            KafkaError::new(code::INVALID_ARGUMENT, format!("topic {:?}: {}", topic.name, written(&reason)))
        })?;
        let this = Self(raw);
        for (name, value) in &topic.config {
            let (name, value) = (c_string(name)?, c_string(value)?);
            // SAFETY: the topic is ours, the strings are copied.
            KafkaError::check(unsafe {
                sys::rd_kafka_NewTopic_set_config(raw.as_ptr(), name.as_ptr(), value.as_ptr())
            })?;
        }
        Ok(this)
    }
}

impl Drop for RawNewTopic {
    fn drop(&mut self) {
        // SAFETY: the topic is ours and is destroyed once.
        unsafe { sys::rd_kafka_NewTopic_destroy(self.0.as_ptr()) };
    }
}

/// The first error of a request for several topics, except for the one that is fine.
///
/// # Safety
/// `topics` points to `count` results that are valid during the call.
unsafe fn topic_results(
    topics: *mut *const sys::rd_kafka_topic_result_t,
    count: usize,
    what: &str,
    fine: sys::Code,
) -> Result<(), KafkaError> {
    // SAFETY: what the caller promises; texts live as long as the results and are copied.
    unsafe {
        for topic in slice(topics, count) {
            let error = sys::rd_kafka_topic_result_error(*topic);
            if error == code::NONE || error == fine {
                continue;
            }
            let name = text(sys::rd_kafka_topic_result_name(*topic));
            let reason = text(sys::rd_kafka_topic_result_error_string(*topic));
            let error =
                if reason.is_empty() { KafkaError::from_code(error) } else { KafkaError::new(error, reason) };
            return Err(error.during(format!("{what} topic {name:?}")));
        }
    }
    Ok(())
}

/// # Safety
/// `first` points to `count` elements that are valid for `'a`, unless `count` is 0.
unsafe fn slice<'a, T>(first: *const T, count: usize) -> &'a [T] {
    // SAFETY: what the caller promises.
    if count == 0 || first.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(first, count) } }
}
