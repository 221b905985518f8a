//! What a session needs of its surroundings: the brokers and the disk. In production they are librdkafka and RocksDB; tests
//! put simulated ones in their place.

use std::sync::Arc;
use std::time::Duration;

use millstream_state::{StateDirectory, StateError, StateOptions, StoreSpec, TaskState};

use super::error::{RuntimeError, Trouble};
use super::inputs::RecordQueue;
use super::topics::Topics;
use crate::kafka::{
    ClientSettings, Committed, GroupConsumer, GroupEvent, GroupMetadata, GroupOptions, KafkaError, Message,
    OffsetAndMetadata, OffsetSpec, PartitionQueue, Producer, ProducerOptions, RestoreConsumer, SendError,
    TopicHandle, TopicPartition, Wake,
};
use crate::plan::Plan;
use crate::record::{Header, Record};
use crate::topology::TopicDefaults;

/// The brokers, and clients of them. Each call is that of the type of the room `kafka` whose name it has.
pub(super) trait Brokers: Send + Sync {
    fn producer(
        &self,
        purpose: &str,
        options: &ProducerOptions,
    ) -> Result<Box<dyn RecordProducer>, KafkaError>;
    fn member(&self, options: &GroupOptions, topics: &[&str]) -> Result<Arc<dyn GroupMember>, KafkaError>;
    fn changelogs(
        &self,
        purpose: &str,
        queued_bytes: usize,
        from: &[(TopicPartition, i64)],
    ) -> Result<Box<dyn ChangelogReader>, KafkaError>;
    /// How many partitions a topic has that is to be written.
    fn partitions(&self, topic: &str) -> Result<u32, Trouble>;
    /// The id that a topic had when it was seen first; empty where it is not known.
    fn topic_id(&self, topic: &str) -> String;
    fn offsets(&self, partitions: &[TopicPartition], spec: OffsetSpec) -> Result<Vec<i64>, KafkaError>;
    fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<(), KafkaError>;
    /// Whether all topics that were there when the run began still are.
    fn still_exist(&self, plan: &Plan, counts: &[u32], defaults: &TopicDefaults) -> Result<(), Trouble>;
    /// Forgets what may be outdated, before another session.
    fn renew(&self) -> Result<(), Trouble>;
}

/// A producer, transactional or not.
pub(super) trait RecordProducer: Send {
    fn topic(&self, name: &str) -> Result<TopicHandle, KafkaError>;
    fn send(
        &self,
        topic: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), SendError>;
    fn poll(&self, timeout: Duration);
    fn flush(&self, timeout: Duration) -> Result<(), KafkaError>;
    fn delivery_error(&self) -> Option<KafkaError>;
    fn transaction_error(&self) -> Option<KafkaError>;
    fn delivered(&self, topic: TopicHandle, partition: i32) -> Option<i64>;
    fn buffered_bytes(&self) -> usize;
    fn init_transactions(&self, timeout: Duration) -> Result<(), KafkaError>;
    fn begin(&self) -> Result<(), KafkaError>;
    fn send_offsets(
        &self,
        offsets: &[OffsetAndMetadata],
        group: &GroupMetadata,
        timeout: Duration,
    ) -> Result<(), KafkaError>;
    fn commit(&self, timeout: Duration) -> Result<(), KafkaError>;
    fn abort(&self, timeout: Duration) -> Result<(), KafkaError>;
    fn is_spent(&self) -> bool;
}

/// A member of the group.
pub(super) trait GroupMember: Send + Sync {
    fn poll(&self, timeout: Duration) -> Option<GroupEvent>;
    fn assign(
        self: Arc<Self>,
        partitions: &[(TopicPartition, i64)],
        wake: &dyn Fn(usize) -> Wake,
    ) -> Result<Vec<Box<dyn RecordQueue>>, KafkaError>;
    fn unassign(&self) -> Result<(), KafkaError>;
    fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Committed>, KafkaError>;
    fn commit(&self, offsets: &[OffsetAndMetadata], timeout: Duration) -> Result<(), KafkaError>;
    fn end_offset(&self, partition: &TopicPartition) -> Option<i64>;
    fn close(&self, timeout: Duration);
}

/// Is shown the index of a partition, and a record's key and value.
pub(super) type ShowRecord<'a> = dyn FnMut(usize, Option<&[u8]>, Option<&[u8]>) + 'a;

/// Is given the index of a partition, and a record.
pub(super) type GiveRecord<'a> = dyn FnMut(usize, Record) + 'a;

/// Reads changelogs, and the topics of global tables.
pub(super) trait ChangelogReader: Send {
    fn take(&mut self, max: usize, timeout: Duration, each: &mut ShowRecord<'_>)
    -> Result<usize, KafkaError>;
    fn take_records(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut GiveRecord<'_>,
    ) -> Result<usize, KafkaError>;
    fn position(&self, index: usize) -> Option<i64>;
    fn queued_bytes(&self) -> usize;
}

/// Where tasks keep their stores.
pub(super) trait Disk: Send + Sync {
    /// The state of a task; a damaged one is moved away.
    fn open(&self, task: &str, specs: &[StoreSpec]) -> Result<TaskState, StateError>;
    /// Removes the state of a task, which is closed.
    fn remove(&self, task: &str) -> Result<(), StateError>;
    fn block_cache_bytes(&self) -> usize;
    fn write_buffer_bytes(&self) -> usize;
}

/// Brokers through librdkafka.
pub(super) struct Kafka {
    client: ClientSettings,
    /// What the names of clients begin with.
    prefix: String,
    topics: Topics,
}

impl Kafka {
    pub fn new(client: ClientSettings, prefix: String, topics: Topics) -> Self {
        Kafka { client, prefix, topics }
    }

    fn client_of(&self, purpose: &str) -> ClientSettings {
        ClientSettings { client_id: format!("{}-{purpose}", self.prefix), ..self.client.clone() }
    }
}

impl Brokers for Kafka {
    fn producer(
        &self,
        purpose: &str,
        options: &ProducerOptions,
    ) -> Result<Box<dyn RecordProducer>, KafkaError> {
        Ok(Box::new(Producer::new(&self.client_of(purpose), options)?))
    }

    fn member(&self, options: &GroupOptions, topics: &[&str]) -> Result<Arc<dyn GroupMember>, KafkaError> {
        let consumer = GroupConsumer::new(&self.client_of("consumer"), options)?;
        consumer.subscribe(topics)?;
        Ok(Arc::new(consumer))
    }

    fn changelogs(
        &self,
        purpose: &str,
        queued_bytes: usize,
        from: &[(TopicPartition, i64)],
    ) -> Result<Box<dyn ChangelogReader>, KafkaError> {
        let mut consumer = RestoreConsumer::new(&self.client_of(purpose), queued_bytes)?;
        consumer.assign(from)?;
        Ok(Box::new(consumer))
    }

    fn partitions(&self, topic: &str) -> Result<u32, Trouble> {
        self.topics.partitions(topic)
    }

    fn offsets(&self, partitions: &[TopicPartition], spec: OffsetSpec) -> Result<Vec<i64>, KafkaError> {
        self.topics.admin().offsets(partitions, spec)
    }

    fn topic_id(&self, topic: &str) -> String {
        self.topics.id(topic)
    }

    fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        self.topics.admin().delete_records(before)
    }

    fn still_exist(&self, plan: &Plan, counts: &[u32], defaults: &TopicDefaults) -> Result<(), Trouble> {
        self.topics.still_exist(plan, counts, defaults)
    }

    fn renew(&self) -> Result<(), Trouble> {
        self.topics.renew(&self.client_of("admin"))
    }
}

impl RecordProducer for Producer {
    fn topic(&self, name: &str) -> Result<TopicHandle, KafkaError> {
        Producer::topic(self, name)
    }

    fn send(
        &self,
        topic: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), SendError> {
        Producer::send(self, topic, partition, key, value, timestamp, headers.iter().copied())
    }

    fn poll(&self, timeout: Duration) {
        Producer::poll(self, timeout);
    }

    fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        Producer::flush(self, timeout)
    }

    fn delivery_error(&self) -> Option<KafkaError> {
        Producer::delivery_error(self)
    }

    fn transaction_error(&self) -> Option<KafkaError> {
        Producer::transaction_error(self)
    }

    fn delivered(&self, topic: TopicHandle, partition: i32) -> Option<i64> {
        Producer::delivered(self, topic, partition)
    }

    fn buffered_bytes(&self) -> usize {
        Producer::buffered_bytes(self)
    }

    fn init_transactions(&self, timeout: Duration) -> Result<(), KafkaError> {
        Producer::init_transactions(self, timeout)
    }

    fn begin(&self) -> Result<(), KafkaError> {
        Producer::begin(self)
    }

    fn send_offsets(
        &self,
        offsets: &[OffsetAndMetadata],
        group: &GroupMetadata,
        timeout: Duration,
    ) -> Result<(), KafkaError> {
        Producer::send_offsets(self, offsets, group, timeout)
    }

    fn commit(&self, timeout: Duration) -> Result<(), KafkaError> {
        Producer::commit(self, timeout)
    }

    fn abort(&self, timeout: Duration) -> Result<(), KafkaError> {
        Producer::abort(self, timeout)
    }

    fn is_spent(&self) -> bool {
        Producer::is_spent(self)
    }
}

impl GroupMember for GroupConsumer {
    fn poll(&self, timeout: Duration) -> Option<GroupEvent> {
        GroupConsumer::poll(self, timeout)
    }

    fn assign(
        self: Arc<Self>,
        partitions: &[(TopicPartition, i64)],
        wake: &dyn Fn(usize) -> Wake,
    ) -> Result<Vec<Box<dyn RecordQueue>>, KafkaError> {
        let queues = GroupConsumer::assign(&self, partitions, wake)?;
        let fetched = queues.into_iter().zip(partitions).map(|(queue, (partition, _))| {
            let (partition, consumer) = (partition.clone(), self.clone());
            Box::new(Fetched { queue, partition, consumer }) as Box<dyn RecordQueue>
        });
        Ok(fetched.collect())
    }

    fn unassign(&self) -> Result<(), KafkaError> {
        GroupConsumer::unassign(self)
    }

    fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Committed>, KafkaError> {
        GroupConsumer::committed(self, partitions, timeout)
    }

    fn commit(&self, offsets: &[OffsetAndMetadata], timeout: Duration) -> Result<(), KafkaError> {
        GroupConsumer::commit(self, offsets, timeout)
    }

    fn end_offset(&self, partition: &TopicPartition) -> Option<i64> {
        GroupConsumer::end_offset(self, partition)
    }

    fn close(&self, timeout: Duration) {
        GroupConsumer::close(self, timeout);
    }
}

/// A partition that the group assigned.
struct Fetched {
    queue: PartitionQueue,
    partition: TopicPartition,
    consumer: Arc<GroupConsumer>,
}

impl RecordQueue for Fetched {
    fn take(&mut self, max: usize, max_bytes: usize, records: &mut Vec<Record>) -> Result<(), Trouble> {
        let taken = self.queue.take_up_to(max, max_bytes, &mut |message| records.push(record(&message)));
        let TopicPartition { topic, partition } = &self.partition;
        match taken {
            Ok(_) => Ok(()),
            Err(error) if error.is_offset_out_of_range() => Err(RuntimeError::OffsetGone {
                topic: topic.to_string(),
                partition: *partition,
                offset: self.queue.next_offset(),
            }
            .into()),
            Err(error) => Err(Trouble::kafka(format!("read topic `{topic}` partition {partition}"), error)),
        }
    }

    fn has_lag(&self) -> bool {
        let next = self.queue.next_offset();
        // The end that a fetch has reached says more than the high watermark: markers and open transactions lie between.
        if self.queue.end_seen().is_some_and(|end| end >= next) {
            return false;
        }
        self.consumer.end_offset(&self.partition).is_none_or(|end| end > next)
    }

    fn queued_bytes(&self) -> usize {
        self.queue.queued_bytes()
    }
}

fn record(message: &Message<'_>) -> Record {
    Record {
        key: message.key.map(<[u8]>::to_vec),
        value: message.value.map(<[u8]>::to_vec),
        timestamp: message.timestamp,
        headers: message
            .headers
            .into_iter()
            .map(|(name, value)| Header { name: name.into_owned(), value: value.map(<[u8]>::to_vec) })
            .collect(),
        offset: message.offset,
    }
}

impl ChangelogReader for RestoreConsumer {
    fn take(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut ShowRecord<'_>,
    ) -> Result<usize, KafkaError> {
        RestoreConsumer::take(self, max, timeout, &mut |index, message| {
            each(index, message.key, message.value)
        })
    }

    fn take_records(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut GiveRecord<'_>,
    ) -> Result<usize, KafkaError> {
        RestoreConsumer::take(self, max, timeout, &mut |index, message| each(index, record(&message)))
    }

    fn position(&self, index: usize) -> Option<i64> {
        RestoreConsumer::position(self, index)
    }

    fn queued_bytes(&self) -> usize {
        RestoreConsumer::queued_bytes(self)
    }
}

/// RocksDB in a state directory.
pub(super) struct LocalDisk {
    directory: StateDirectory,
    options: StateOptions,
}

impl LocalDisk {
    /// State in this directory, within this many bytes of memory.
    pub fn new(directory: StateDirectory, memory: usize) -> Self {
        LocalDisk { directory, options: StateOptions::new(memory) }
    }
}

impl Disk for LocalDisk {
    fn open(&self, task: &str, specs: &[StoreSpec]) -> Result<TaskState, StateError> {
        let open = || TaskState::open(&self.directory, task, specs, &self.options);
        match open() {
            Err(error) if error.is_corruption() => {
                tracing::error!(task, %error, "the state is damaged: it is moved away and restored");
                self.directory.quarantine(task)?;
                open()
            }
            opened => opened,
        }
    }

    fn remove(&self, task: &str) -> Result<(), StateError> {
        let path = self.directory.task_path(task)?;
        std::fs::remove_dir_all(&path).map_err(|source| StateError::Io { action: "remove", path, source })
    }

    fn block_cache_bytes(&self) -> usize {
        self.options.block_cache_bytes()
    }

    fn write_buffer_bytes(&self) -> usize {
        self.options.write_buffer_bytes()
    }
}
