//! The queue of one partition: what was fetched, until a worker takes it.

use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard, TryLockError};

use super::client::{Client, Queue, lock};
use super::error::{KafkaError, code, text};
use super::message::Message;
use super::partition::TopicPartition;
use super::sys;

/// What is called when a queue gets its first record. librdkafka's thread holds the queue's lock meanwhile.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Stands between librdkafka and whoever waits for a partition. librdkafka keeps one pointer per partition, to the waker,
/// which lives as long as the client; so a queue that is dropped late can neither silence the one that came after it nor
/// leave a pointer to freed memory behind.
#[derive(Default)]
pub(super) struct Waker(Mutex<(u64, Option<Wake>)>);

impl Waker {
    /// From now on this one is woken. Returns the ticket to end it with.
    fn set(&self, wake: Wake) -> u64 {
        let mut state = lock(&self.0);
        *state = (state.0 + 1, Some(wake));
        state.0
    }

    /// Nobody is woken any more, unless somebody else took over.
    fn clear(&self, ticket: u64) {
        let mut state = lock(&self.0);
        if state.0 == ticket {
            state.1 = None;
        }
    }
}

/// Called by librdkafka's threads when a queue that was empty is so no more.
unsafe extern "C" fn on_records(_rk: *mut sys::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: `opaque` is a waker that the client's `Shared` owns, which outlives the client's threads.
    let waker = unsafe { &*opaque.cast_const().cast::<Waker>() };
    // Called under the lock: once a queue is dropped, its worker is woken no more.
    if let (_, Some(wake)) = &*lock(&waker.0) {
        wake();
    }
}

/// One assignment of a consumer. librdkafka gives every assignment of a partition the same queue: this tells whose it is.
#[derive(Clone, Default)]
pub(super) struct Assignment {
    number: u64,
    /// The number of the one in force. Held shared while records are taken, and alone while the assignment changes.
    current: Arc<RwLock<u64>>,
}

impl Assignment {
    /// The consumer's next assignment, which is in force from now on. As long as the guard is held no queue gives
    /// anything.
    pub fn next(current: &Arc<RwLock<u64>>) -> (Self, RwLockWriteGuard<'_, u64>) {
        let mut number = current.write().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        (Self { number: *number, current: current.clone() }, number)
    }

    /// Looks into a queue, if the assignment is in force; it does not change meanwhile.
    fn if_in_force<T>(&self, look: impl FnOnce() -> T) -> Option<T> {
        let current = match self.current.try_read() {
            Ok(current) => current,
            Err(TryLockError::Poisoned(current)) => current.into_inner(),
            // It is changing: the queues of the next one are only given out when it has changed.
            Err(TryLockError::WouldBlock) => return None,
        };
        (*current == self.number).then(look)
    }
}

/// The fetched records of one assigned partition, for one worker. When the partition is given up, or assigned anew, it gives
/// nothing any more.
///
/// Offsets are counted here: librdkafka's own position is wrong after batches that end in an error or the end of the
/// partition (2.12, fixed in 2.13.2), and it is never read. Back-pressure is not to take.
pub struct PartitionQueue {
    // Before the client: a queue has to go first.
    queue: Queue,
    client: Arc<Client>,
    assignment: Assignment,
    waker: Arc<Waker>,
    ticket: u64,
    partition: TopicPartition,
    topic: CString,
    next: i64,
    end: Option<i64>,
    failed: Option<KafkaError>,
    batch: Batch,
    /// Records taken so far, and the bytes of their keys and values.
    taken: (u64, u64),
}

impl PartitionQueue {
    /// The queue of a partition that is about to be assigned at this offset: cut off from the client's main queue, for
    /// good, so that the limits on what is fetched ahead hold for each partition alone.
    pub(super) fn detach(
        client: &Arc<Client>,
        assignment: Assignment,
        partition: TopicPartition,
        offset: i64,
        wake: Wake,
    ) -> Result<Self, KafkaError> {
        if offset < 0 {
            let message = format!("{offset} is no offset to begin {partition} at");
            return Err(KafkaError::new(code::INVALID_ARGUMENT, message));
        }
        let topic = partition.topic_c()?;
        // SAFETY: the client is valid, the name is copied; the queue is ours and is dropped before the client.
        let queue = unsafe {
            let queue =
                sys::rd_kafka_queue_get_partition(client.as_ptr(), topic.as_ptr(), partition.partition);
            Queue::own(queue)
        };
        let queue = queue.ok_or_else(|| {
            KafkaError::from_code(code::UNKNOWN_PARTITION).during(format!("cannot read {partition}"))
        })?;
        let waker = lock(&client.shared().wakers).entry(partition.clone()).or_default().clone();
        let ticket = waker.set(wake);
        // SAFETY: the queue is valid. The waker is owned by the client's `Shared`, which no waker ever leaves, and which
        // is freed when the client's threads have ended.
        unsafe {
            sys::rd_kafka_queue_forward(queue.as_ptr(), std::ptr::null_mut());
            let opaque = Arc::as_ptr(&waker).cast_mut().cast::<c_void>();
            sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(on_records), opaque);
        }
        Ok(Self {
            queue,
            client: client.clone(),
            assignment,
            waker,
            ticket,
            partition,
            topic,
            next: offset,
            end: None,
            failed: None,
            batch: Batch::default(),
            taken: (0, 0),
        })
    }

    /// Whose records these are.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// Shows up to `max` records, in the order of their offsets, and returns how many. It never waits. Fewer than `max`
    /// means that the queue was empty: the next record that comes wakes. Take once after the assignment: what came
    /// before the queue was first found empty wakes nobody.
    ///
    /// Records before an error are shown. After an error nothing more is, and every later call returns it again: whatever
    /// came behind it would leave a gap. Errors that librdkafka answers by fetching again are only logged.
    pub fn take(&mut self, max: usize, each: &mut dyn FnMut(Message<'_>)) -> Result<usize, KafkaError> {
        self.take_up_to(max, usize::MAX, each)
    }

    /// As [`take`](Self::take), but ends with the record whose key and value reach `max_bytes` together with those before.
    pub fn take_up_to(
        &mut self,
        max: usize,
        max_bytes: usize,
        each: &mut dyn FnMut(Message<'_>),
    ) -> Result<usize, KafkaError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (mut taken, mut taken_bytes) = (0, 0);
        while taken < max
            && taken_bytes < max_bytes
            && self.assignment.if_in_force(|| self.batch.fill(&self.queue, max - taken)) == Some(true)
        {
            while taken < max
                && taken_bytes < max_bytes
                && let Some(message) = self.batch.next()
            {
                // SAFETY: the message is valid until it is dropped, at the end of this turn.
                let (err, offset) = unsafe { ((*message.0).err, (*message.0).offset) };
                match err {
                    code::NONE => {
                        // A record that came twice would be counted twice, one that is missing is the log's own gap.
                        if offset < self.next {
                            continue;
                        }
                        self.next = offset + 1;
                        taken += 1;
                        // SAFETY: as above; the closure cannot keep what it is shown.
                        let message = unsafe { Message::new(message.0) };
                        let bytes = message.key.map_or(0, <[u8]>::len) + message.value.map_or(0, <[u8]>::len);
                        taken_bytes += bytes;
                        self.taken = (self.taken.0 + 1, self.taken.1 + bytes as u64);
                        each(message);
                    }
                    code::PARTITION_EOF => self.end = Some(offset),
                    error => {
                        // SAFETY: an error's payload is its text, of the length that the message says.
                        let reason = unsafe { message.reason() };
                        let error = KafkaError::new(error, reason).during(&self.partition);
                        if is_repeated(&error) {
                            tracing::warn!(%error, "fetching again");
                        } else {
                            self.batch.clear();
                            self.failed = Some(error.clone());
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok(taken)
    }

    /// The offset after the last record taken; at first where the partition was assigned. Offsets of transaction markers
    /// and of aborted records that follow it are not passed: see [`position`](Self::position).
    pub fn next_offset(&self) -> i64 {
        self.next
    }

    /// The last stable offset at which the end of the partition was last seen: everything before it was taken, or is no
    /// record that may be read.
    pub fn end_seen(&self) -> Option<i64> {
        self.end
    }

    /// How far the partition is read: the offset after the last record taken or, beyond it, the end that was seen, which
    /// passes transaction markers and aborted records.
    pub fn position(&self) -> i64 {
        self.end.map_or(self.next, |end| end.max(self.next))
    }

    /// What fetched records that were not taken yet occupy, about: as many bytes as those taken so far had on average, and
    /// what librdkafka adds to each.
    pub fn queued_bytes(&self) -> usize {
        let Some(records) = self.assignment.if_in_force(|| {
            // SAFETY: the queue is valid.
            unsafe { sys::rd_kafka_queue_length(self.queue.as_ptr()) }
        }) else {
            return 0;
        };
        let records = records + self.batch.left();
        let (taken, bytes) = self.taken;
        let each = bytes.checked_div(taken).unwrap_or_default() as usize + RECORD_BYTES;
        records * each
    }

    /// The high watermark that the last fetch saw, open transactions included; `None` before the first. No network.
    pub fn end_offset(&self) -> Option<i64> {
        end_offset(&self.client, &self.topic, self.partition.partition)
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        self.waker.clear(self.ticket);
    }
}

/// Errors of a fetch that moved nothing: the same offset is fetched again.
fn is_repeated(error: &KafkaError) -> bool {
    matches!(
        error.code(),
        code::UNKNOWN
            | code::TRANSPORT
            | code::REQUEST_TIMED_OUT
            | code::NETWORK
            | code::STORAGE
            | code::THROTTLED
    )
}

/// The high watermark that a client knows from its last fetch.
pub(super) fn end_offset(client: &Client, topic: &std::ffi::CStr, partition: i32) -> Option<i64> {
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client and the name are valid, both results have a place.
    let result = unsafe {
        sys::rd_kafka_get_watermark_offsets(client.as_ptr(), topic.as_ptr(), partition, &mut low, &mut high)
    };
    (result == code::NONE && high >= 0).then_some(high)
}

/// A message, destroyed when dropped.
struct Owned(*mut sys::RawMessage);

impl Owned {
    /// The text of an error.
    ///
    /// # Safety
    /// The message carries an error.
    unsafe fn reason(&self) -> String {
        // SAFETY: an error's payload is null or its text, which ends with a zero byte.
        unsafe { text((*self.0).payload.cast_const().cast()) }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the message is ours and is destroyed once: whoever makes an `Owned` gives its pointer up.
        unsafe { sys::rd_kafka_message_destroy(self.0) };
    }
}

/// Messages that were taken out of a queue and not yet looked at.
#[derive(Default)]
struct Batch {
    messages: Vec<*mut sys::RawMessage>,
    at: usize,
}

// SAFETY: messages may be used and destroyed by any thread, one at a time.
unsafe impl Send for Batch {}

/// What librdkafka needs for a fetched record besides its key and value, about.
pub(super) const RECORD_BYTES: usize = 300;

/// Messages taken at a time, at most: enough to make the call cheap, few enough to stay in the cache.
const BATCH: usize = 512;

impl Batch {
    /// Takes the next messages, up to `max`, without waiting. False: the queue is empty.
    fn fill(&mut self, queue: &Queue, max: usize) -> bool {
        // What was left behind comes first.
        if self.left() > 0 {
            return true;
        }
        self.clear();
        let room = max.min(BATCH);
        self.messages.reserve(room);
        // SAFETY: the queue is valid and the buffer has room for that many pointers.
        let count =
            unsafe { sys::rd_kafka_consume_batch_queue(queue.as_ptr(), 0, self.messages.as_mut_ptr(), room) };
        let count = usize::try_from(count).unwrap_or(0).min(room);
        // SAFETY: so many pointers have been written.
        unsafe { self.messages.set_len(count) };
        count > 0
    }

    fn left(&self) -> usize {
        self.messages.len() - self.at
    }

    fn next(&mut self) -> Option<Owned> {
        let message = *self.messages.get(self.at)?;
        // Given up before it is used: if that panics, the message is destroyed by its owner alone.
        self.at += 1;
        Some(Owned(message))
    }

    fn clear(&mut self) {
        while self.next().is_some() {}
        self.messages.clear();
        self.at = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.clear();
    }
}
