//! The consumer that reads changelogs and whole topics, without a group.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::{Client, Kind, Properties, lock, millis};
use super::error::{KafkaError, code};
use super::message::Message;
use super::partition::TopicPartition;
use super::queue::{Assignment, PartitionQueue};
use super::settings::ClientSettings;
use super::sys;

/// How long a broker may hold a fetch back that has nothing to return: how late an end is seen.
const WAIT: Duration = Duration::from_millis(20);

/// Reads committed records of the partitions that it is told to read, from given offsets, and knows how far it is. It
/// belongs to no group and commits nothing. For one thread.
pub struct RestoreConsumer {
    // In the order of dropping: queues and topics go before the client.
    queues: Vec<PartitionQueue>,
    started: Vec<Started>,
    client: Arc<Client>,
    signal: Arc<Signal>,
    /// Which queue is looked at first, so that each has its turn.
    turn: usize,
}

impl RestoreConsumer {
    /// A consumer of nothing yet. `queued_bytes_per_partition` is about what is fetched ahead for each partition.
    pub fn new(settings: &ClientSettings, queued_bytes_per_partition: usize) -> Result<Self, KafkaError> {
        let queued = (queued_bytes_per_partition / 1024).clamp(1, 2_097_151).to_string();
        let fetched = super::bytes_of_a_fetch(queued_bytes_per_partition).to_string();
        let mut defaults = super::FETCH.to_vec();
        defaults.push(("fetch.message.max.bytes", &fetched));
        let mut owned = super::READ.to_vec();
        let records = super::records_that_wait(queued_bytes_per_partition).to_string();
        let wait = millis(WAIT).to_string();
        owned.extend([
            ("queued.min.messages", records.as_str()),
            ("queued.max.messages.kbytes", &queued),
            ("fetch.wait.max.ms", &wait),
        ]);
        let properties = Properties::new(settings, Kind::Reader, &defaults, &owned)?;
        let client = Arc::new(properties.client(Kind::Reader)?);
        Ok(Self { queues: Vec::new(), started: Vec::new(), client, signal: Arc::default(), turn: 0 })
    }

    /// Begins to read these partitions at these offsets, in place of all others. Their place in the list is their index
    /// in the other calls.
    pub fn assign(&mut self, partitions: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        self.queues.clear();
        self.started.clear();
        for (partition, offset) in partitions {
            let signal = self.signal.clone();
            let wake = Arc::new(move || signal.raise());
            let queue = PartitionQueue::detach(
                &self.client,
                // Nobody else has the queues, and those before are gone.
                Assignment::default(),
                partition.clone(),
                *offset,
                wake,
            )?;
            self.queues.push(queue);
            self.started.push(Started::new(&self.client, partition, *offset)?);
        }
        Ok(())
    }

    /// Shows up to `max` records, each with the index of its partition, and returns how many. Waits up to `timeout` for the
    /// first one. The records of a partition come in order.
    pub fn take(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut dyn FnMut(usize, Message<'_>),
    ) -> Result<usize, KafkaError> {
        let deadline = Instant::now() + timeout;
        loop {
            self.signal.lower();
            let mut taken = 0;
            for turn in 0..self.queues.len() {
                let index = (self.turn + turn) % self.queues.len();
                if let Some(queue) = self.queues.get_mut(index) {
                    taken += queue.take(max - taken, &mut |message| each(index, message))?;
                }
                if taken == max {
                    self.turn = index + 1;
                    break;
                }
            }
            // SAFETY: the client is valid. Nothing here waits for what the call serves; it would only pile up.
            unsafe { sys::rd_kafka_poll(self.client.as_ptr(), 0) };
            if taken > 0 || !self.signal.wait(deadline) {
                return Ok(taken);
            }
        }
    }

    /// Bytes of memory that fetched records occupy which were not taken, about.
    pub fn queued_bytes(&self) -> usize {
        self.queues.iter().map(PartitionQueue::queued_bytes).sum()
    }

    /// How far a partition is read: every committed record before this offset was shown. It passes transaction markers
    /// and aborted records, and stops before the first open transaction. It follows what is shown by some ten
    /// milliseconds, since brokers say only when nothing more comes that there is no more.
    pub fn position(&self, index: usize) -> Option<i64> {
        self.queues.get(index).map(PartitionQueue::position)
    }
}

impl Drop for RestoreConsumer {
    fn drop(&mut self) {
        self.queues.clear();
        self.started.clear();
    }
}

/// A partition that is being fetched without a group.
struct Started {
    topic: NonNull<sys::rd_kafka_topic_t>,
    partition: i32,
}

// SAFETY: topics of librdkafka may be used by any thread.
unsafe impl Send for Started {}

impl Started {
    /// Has to be dropped before the client.
    fn new(client: &Client, partition: &TopicPartition, offset: i64) -> Result<Self, KafkaError> {
        let name: CString = partition.topic_c()?;
        // SAFETY: the client is valid, the name is copied; the topic is ours and is destroyed once, by `Topic` below or by
        // whoever has the result.
        let topic = unsafe { sys::rd_kafka_topic_new(client.as_ptr(), name.as_ptr(), std::ptr::null_mut()) };
        let Some(topic) = NonNull::new(topic) else {
            // SAFETY: the function reads what the last call of this thread left.
            return Err(KafkaError::from_code(unsafe { sys::rd_kafka_last_error() }).during(partition));
        };
        // SAFETY: the topic is valid.
        let started = unsafe { sys::rd_kafka_consume_start(topic.as_ptr(), partition.partition, offset) };
        if started != 0 {
            // SAFETY: as above; nothing else has the topic.
            let error = unsafe {
                let error = sys::rd_kafka_last_error();
                sys::rd_kafka_topic_destroy(topic.as_ptr());
                error
            };
            let error = if error == code::NONE { code::INVALID_ARGUMENT } else { error };
            return Err(KafkaError::from_code(error).during(partition));
        }
        Ok(Self { topic, partition: partition.partition })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: the topic is ours, was started once and is stopped and destroyed once.
        unsafe {
            sys::rd_kafka_consume_stop(self.topic.as_ptr(), self.partition);
            sys::rd_kafka_topic_destroy(self.topic.as_ptr());
        }
    }
}

/// Says that some queue has records.
#[derive(Default)]
struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn raise(&self) {
        *lock(&self.raised) = true;
        self.changed.notify_one();
    }

    fn lower(&self) {
        *lock(&self.raised) = false;
    }

    /// Whether it was raised before the deadline.
    fn wait(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let (raised, _) = self
            .changed
            .wait_timeout_while(lock(&self.raised), left, |raised| !*raised)
            .unwrap_or_else(PoisonError::into_inner);
        *raised
    }
}
