//! The producer, transactional or not.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use super::client::{Client, Kind, Properties, millis};
use super::error::{KafkaError, code, text};
use super::group::GroupMetadata;
use super::partition::{OffsetAndMetadata, PartitionList, c_string};
use super::settings::ClientSettings;
use super::sys;

/// How a producer behaves.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// Makes it transactional: of all producers with this id only the last one can commit.
    pub transactional_id: Option<String>,
    /// After this long without a sign of the producer the brokers abort its transaction. Without transactions: how long a
    /// record may take.
    pub transaction_timeout: Duration,
    /// How long a record waits for others of its batch. Flushing and committing end the wait.
    pub linger: Duration,
    /// Bytes of records that were not delivered yet: beyond it, sending is refused.
    pub buffer_bytes: usize,
    /// The largest batch that the topics take: one that is refused is not split. A larger record is sent alone.
    pub batch_bytes: usize,
    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
}

/// What a batch has at most, whatever the topics take: librdkafka's default of `message.max.bytes`.
const LARGEST_BATCH: usize = 1_000_000;

/// A topic that a producer writes to; good for that producer only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicHandle(u32);

#[cfg(test)]
impl TopicHandle {
    pub(crate) fn simulated(number: u32) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// Why a record was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The buffer is full: serve reports with [`Producer::poll`] and send the record again.
    #[error("the producer's buffer is full")]
    QueueFull,
    /// It cannot be sent: it is too large, the partition does not exist, no transaction is open, or the producer is at its
    /// end.
    #[error(transparent)]
    Failed(#[from] KafkaError),
}

/// A producer of one worker. It moves between threads but is not shared.
///
/// With a transactional id: [`init_transactions`](Self::init_transactions) once, then [`begin`](Self::begin),
/// [`send`](Self::send), [`flush`](Self::flush), [`send_offsets`](Self::send_offsets), [`commit`](Self::commit) or
/// [`abort`](Self::abort), and again, until it [is spent](Self::is_spent) or an error says otherwise.
pub struct Producer {
    // Before the client: topics have to go first.
    topics: RefCell<Topics>,
    client: Client,
    /// One thread at a time, since delivery reports are served on it: `Send` and not `Sync`.
    one_thread: PhantomData<std::cell::Cell<()>>,
}

#[derive(Default)]
struct Topics {
    handles: Vec<Topic>,
    by_name: HashMap<String, TopicHandle>,
}

struct Topic(NonNull<sys::rd_kafka_topic_t>);

// SAFETY: topics of librdkafka may be used by any thread.
unsafe impl Send for Topic {}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the topic is ours and is destroyed once.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) };
    }
}

/// What librdkafka has told of sent records.
#[derive(Default)]
pub(super) struct Reports {
    /// The failure that says most.
    failed: Option<Undelivered>,
    /// Bytes of keys and values whose delivery was not reported.
    waiting: usize,
    /// Offset of the last delivered record by topic handle and partition; -1: none.
    offsets: Vec<Vec<i64>>,
}

/// A record that was not delivered.
struct Undelivered {
    topic: u32,
    partition: i32,
    code: sys::Code,
    /// The broker's reason, if it gave one.
    reason: String,
    /// The record, in words.
    record: String,
    blame: usize,
}

/// How much a record has to do with the failure of its batch. Of a batch that is too large the largest record is told; one
/// that failed because of another tells nothing.
fn blame(error: sys::Code, bytes: usize) -> usize {
    match error {
        code::INVALID_DIFFERENT_RECORD | code::PURGE_QUEUE | code::PURGE_IN_FLIGHT => 0,
        code::MESSAGE_TOO_LARGE | code::BATCH_TOO_LARGE => bytes.saturating_add(1),
        _ => 1,
    }
}

/// A record in the words of errors.
fn described(key: Option<&[u8]>, bytes: usize) -> String {
    const SHOWN: usize = 80;
    let key = match key {
        None => "without a key".to_owned(),
        Some(key) if key.len() <= SHOWN => format!("with key `{}`", String::from_utf8_lossy(key)),
        Some(key) => format!("with a key of {} bytes", key.len()),
    };
    format!("a record {key}, of {bytes} bytes,")
}

impl Reports {
    fn clear(&mut self) {
        self.failed = None;
        self.offsets.iter_mut().flatten().for_each(|offset| *offset = -1);
    }

    /// Makes room for a partition, so that a report finds it.
    fn expect(&mut self, topic: u32, partition: i32) {
        let (Ok(topic), Ok(partition)) = (usize::try_from(topic), usize::try_from(partition)) else { return };
        if self.offsets.len() <= topic {
            self.offsets.resize_with(topic + 1, Vec::new);
        }
        if let Some(offsets) = self.offsets.get_mut(topic)
            && offsets.len() <= partition
        {
            offsets.resize(partition + 1, -1);
        }
    }

    fn offset(&mut self, topic: u32, partition: i32) -> Option<&mut i64> {
        self.offsets.get_mut(usize::try_from(topic).ok()?)?.get_mut(usize::try_from(partition).ok()?)
    }
}

/// Topic handle and partition, as what librdkafka keeps with a record and gives back in its report.
fn ticket(topic: u32, partition: i32) -> *mut c_void {
    std::ptr::without_provenance_mut((u64::from(topic) << 32 | u64::from(partition.cast_unsigned())) as usize)
}

fn from_ticket(ticket: *mut c_void) -> (u32, i32) {
    let ticket = ticket.addr() as u64;
    ((ticket >> 32) as u32, (ticket as u32).cast_signed())
}

// A ticket holds both numbers.
const _: () = assert!(size_of::<usize>() == size_of::<u64>());

/// Notes that a record was delivered, or not.
pub(super) unsafe extern "C" fn on_delivery(
    _rk: *mut sys::rd_kafka_t,
    message: *const sys::RawMessage,
    opaque: *mut c_void,
) {
    // SAFETY: the message is valid during the call. `opaque` is the client's `Shared`, and reports are served only by calls
    // of the producer's methods, on its one thread, none of which holds a reference to the reports meanwhile.
    let (message, reports) =
        unsafe { (&*message, (*opaque.cast_const().cast::<super::client::Shared>()).reports()) };
    let (topic, partition) = from_ticket(message.private);
    reports.waiting = reports.waiting.saturating_sub(message.key_len + message.len);
    if message.err != code::NONE {
        let blame = blame(message.err, message.key_len + message.len);
        if reports.failed.as_ref().is_none_or(|known| known.blame < blame) {
            // SAFETY: the message is valid during the call; key and reason are copied.
            let (key, reason) = unsafe {
                let key = (!message.key.is_null())
                    .then(|| std::slice::from_raw_parts(message.key.cast_const().cast(), message.key_len));
                (key, text(sys::rd_kafka_message_produce_errstr(std::ptr::from_ref(message).cast())))
            };
            let record = described(key, message.key_len + message.len);
            reports.failed = Some(Undelivered { topic, partition, code: message.err, reason, record, blame });
        }
    } else if let Some(offset) = reports.offset(topic, partition) {
        // Without an offset (a broker that had it already does not say where): what is known stays, and is too low at most.
        *offset = message.offset.max(*offset);
    }
}

impl Producer {
    /// A producer that connects in the background.
    pub fn new(settings: &ClientSettings, options: &ProducerOptions) -> Result<Self, KafkaError> {
        let timeout = millis(options.transaction_timeout).to_string();
        let linger = millis(options.linger).to_string();
        let batch = options.batch_bytes.clamp(1, LARGEST_BATCH).to_string();
        let mut defaults = vec![
            ("linger.ms", linger.as_str()),
            ("batch.size", &batch),
            ("batch.num.messages", "100000"),
            ("compression.type", &options.compression),
        ];
        let buffer = (options.buffer_bytes / 1024).clamp(1, 2_147_483_647).to_string();
        let mut owned = vec![
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("allow.auto.create.topics", "false"),
            // The limit is the bytes.
            ("queue.buffering.max.messages", "10000000"),
            ("queue.buffering.max.kbytes", &buffer),
            ("delivery.report.only.error", "false"),
        ];
        if let Some(id) = &options.transactional_id {
            owned.push(("transactional.id", id));
            defaults.push(("transaction.timeout.ms", &timeout));
        } else {
            owned.push(("message.timeout.ms", &timeout));
        }
        let mut properties = Properties::new(settings, Kind::Writer, &defaults, &owned)?;
        properties.report_deliveries();
        let client = properties.client(Kind::Writer)?;
        Ok(Self { topics: RefCell::default(), client, one_thread: PhantomData })
    }

    /// The handle of a topic, made at the first call.
    pub fn topic(&self, name: &str) -> Result<TopicHandle, KafkaError> {
        let mut topics = self.topics.borrow_mut();
        if let Some(handle) = topics.by_name.get(name) {
            return Ok(*handle);
        }
        let name_c = c_string(name)?;
        // SAFETY: the client is valid, the name is copied; the topic is ours.
        let topic =
            unsafe { sys::rd_kafka_topic_new(self.client.as_ptr(), name_c.as_ptr(), std::ptr::null_mut()) };
        let topic = NonNull::new(topic).ok_or_else(|| {
            // SAFETY: the function reads what the last call of this thread left.
            KafkaError::from_code(unsafe { sys::rd_kafka_last_error() }).during(format!("topic {name:?}"))
        })?;
        let index = u32::try_from(topics.handles.len())
            .map_err(|_| KafkaError::new(code::INVALID_ARGUMENT, "too many topics"));
        let topic = Topic(topic);
        let handle = TopicHandle(index?);
        topics.handles.push(topic);
        topics.by_name.insert(name.to_owned(), handle);
        Ok(handle)
    }

    /// Sends a record; what is given is copied. It is delivered in order within its partition.
    ///
    /// The timestamp is in milliseconds since 1970. librdkafka takes 0 for "now"; 1970-01-01T00:00:00Z is therefore written
    /// as one millisecond later.
    pub fn send<'h>(
        &self,
        topic: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Result<(), SendError> {
        let mut list = None;
        for (name, value) in headers {
            list.get_or_insert_with(HeaderList::new).add(name, value)?;
        }
        self.send_raw(topic, partition, key, value, timestamp, list)
    }

    fn send_raw(
        &self,
        handle: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: Option<HeaderList>,
    ) -> Result<(), SendError> {
        let topics = self.topics.borrow();
        let Some(topic) = usize::try_from(handle.0).ok().and_then(|index| topics.handles.get(index)) else {
            return Err(
                KafkaError::new(code::UNKNOWN_TOPIC, "the topic's handle is another producer's").into()
            );
        };
        if partition < 0 {
            let message = format!("{partition} is no partition");
            return Err(KafkaError::new(code::UNKNOWN_PARTITION, message).into());
        }
        // SAFETY: this is the producer's thread, and the reference is gone with the statement.
        unsafe { self.client.shared().reports().expect(handle.0, partition) };
        let (key_raw, key_size) = raw(key);
        let (value, value_size) = raw(value);
        let headers_raw = headers.as_ref().map_or(std::ptr::null_mut(), |headers| headers.0.as_ptr());
        use sys::rd_kafka_vtype_t as tag;
        // SAFETY: the client and the topic are valid. Every tag is followed by arguments of the types that the header gives
        // for it, and the last tag is the end. Key and value are copied before the call returns; headers are handed over
        // if it succeeds. The ticket is only given back.
        let result = unsafe {
            sys::rd_kafka_producev(
                self.client.as_ptr(),
                tag::RD_KAFKA_VTYPE_RKT as c_int,
                topic.0.as_ptr(),
                tag::RD_KAFKA_VTYPE_PARTITION as c_int,
                partition,
                tag::RD_KAFKA_VTYPE_MSGFLAGS as c_int,
                sys::RD_KAFKA_MSG_F_COPY as c_int,
                tag::RD_KAFKA_VTYPE_KEY as c_int,
                key_raw,
                key_size,
                tag::RD_KAFKA_VTYPE_VALUE as c_int,
                value,
                value_size,
                tag::RD_KAFKA_VTYPE_TIMESTAMP as c_int,
                if timestamp == 0 { 1_i64 } else { timestamp },
                tag::RD_KAFKA_VTYPE_OPAQUE as c_int,
                ticket(handle.0, partition),
                tag::RD_KAFKA_VTYPE_HEADERS as c_int,
                headers_raw,
                tag::RD_KAFKA_VTYPE_END as c_int,
            )
        };
        match result {
            code::NONE => {
                // The record has them now.
                std::mem::forget(headers);
                // SAFETY: this is the producer's thread, and the reference is gone with the statement.
                unsafe { self.client.shared().reports().waiting += key_size + value_size };
                Ok(())
            }
            code::QUEUE_FULL => Err(SendError::QueueFull),
            error => {
                // SAFETY: the topic is valid, its name lives as long as it and is copied.
                let name = unsafe { text(sys::rd_kafka_topic_name(topic.0.as_ptr())) };
                let record = described(key, key_size + value_size);
                let error = self.client.error(error);
                Err(error.during(format!("cannot send {record} to {name}[{partition}]")).into())
            }
        }
    }

    /// Serves reports of delivery; waits up to `timeout` for the first. To be called now and then: records count as not
    /// delivered until their reports are served.
    pub fn poll(&self, timeout: Duration) {
        // SAFETY: the client is valid; this is the producer's thread, which holds no reference to the reports.
        unsafe { sys::rd_kafka_poll(self.client.as_ptr(), millis(timeout)) };
    }

    /// Waits until every record was delivered. Fails if one was not, or not in time.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        // SAFETY: the client is valid; this is the producer's thread, which holds no reference to the reports.
        let result = unsafe { sys::rd_kafka_flush(self.client.as_ptr(), millis(timeout)) };
        self.delivery_error().map_or(Ok(()), Err)?;
        self.client.check(result).map_err(|error| error.during("cannot deliver all records"))
    }

    /// What kept a record since the last `begin` or `clear` from being delivered; of several the one that says most.
    pub fn delivery_error(&self) -> Option<KafkaError> {
        // SAFETY: this is the producer's thread, which serves no reports while the reference lives.
        let failed = unsafe { self.client.shared().reports() }.failed.as_ref()?;
        let topics = self.topics.borrow();
        let name = topics.by_name.iter().find(|(_, handle)| handle.0 == failed.topic);
        let name = name.map_or("", |(name, _)| name);
        let what = format!("cannot deliver {} to {name}[{}]", failed.record, failed.partition);
        let error = match failed.code {
            error if error == code::FATAL || failed.reason.is_empty() => self.client.error(error),
            error => KafkaError::new(error, failed.reason.clone()),
        };
        Some(error.during(what))
    }

    /// Why the open transaction can only be aborted: its records were [purged](KafkaError::is_purged), and it takes no more.
    pub fn transaction_error(&self) -> Option<KafkaError> {
        // A transaction that is open cannot be begun, and what keeps it from that is told.
        // SAFETY: the client is valid; the error is handed over.
        let begun = unsafe { KafkaError::take(sys::rd_kafka_begin_transaction(self.client.as_ptr())) };
        begun.err().filter(|error| error.requires_abort() || error.is_fatal())
    }

    /// The offset of the last record of this partition that was delivered since the last `begin` or `clear`. In rare cases
    /// (a request had to be sent again) a broker does not tell it; then it is too low, never too high.
    pub fn delivered(&self, topic: TopicHandle, partition: i32) -> Option<i64> {
        // SAFETY: this is the producer's thread, and the reference is gone with the statement.
        let offset = unsafe { self.client.shared().reports().offset(topic.0, partition).copied() };
        offset.filter(|offset| *offset >= 0)
    }

    /// Bytes of keys and values of records that were given to the producer and not yet taken by the brokers.
    pub fn buffered_bytes(&self) -> usize {
        // SAFETY: this is the producer's thread, and the reference is gone with the statement.
        unsafe { self.client.shared().reports().waiting }
    }

    /// Forgets what was delivered and what failed: for producers without transactions, between two commits.
    pub fn clear(&self) {
        // SAFETY: this is the producer's thread, and the reference is gone with the statement.
        unsafe { self.client.shared().reports().clear() };
    }

    /// Ends whatever a predecessor with the same transactional id left open, and fences it. May be called again after a
    /// retriable error.
    pub fn init_transactions(&self, timeout: Duration) -> Result<(), KafkaError> {
        // SAFETY: the client is valid; the error is handed over.
        unsafe {
            KafkaError::take(sys::rd_kafka_init_transactions(self.client.as_ptr(), millis(timeout)))
                .map_err(|error| error.during("cannot take the transactional id over"))
        }
    }

    /// Begins a transaction. A spent producer refuses.
    pub fn begin(&self) -> Result<(), KafkaError> {
        if self.is_spent() {
            let message = "a request of an earlier transaction got no answer; a new producer has to go on";
            return Err(KafkaError::new(code::STATE, message).fatal());
        }
        self.clear();
        // SAFETY: the client is valid; the error is handed over.
        unsafe { KafkaError::take(sys::rd_kafka_begin_transaction(self.client.as_ptr())) }
            .map_err(|error| error.during("cannot begin a transaction"))
    }

    /// Adds input offsets to the transaction, at least one, fenced by the assignment that they belong to.
    pub fn send_offsets(
        &self,
        offsets: &[OffsetAndMetadata],
        group: &GroupMetadata,
        timeout: Duration,
    ) -> Result<(), KafkaError> {
        let (client, list) = (self.client.as_ptr(), PartitionList::to_commit(offsets)?);
        self.client.shared().txn_offset_commit.store(-1, Ordering::Relaxed);
        let call = SendOffsets { client, list, group: group.clone(), timeout };
        let (answer, answered) = mpsc::sync_channel(1);
        let ask = move || {
            let _ = answer.send(call.run());
        };
        let trouble = |error: KafkaError| error.during("cannot add the input offsets to the transaction");
        let asked = std::thread::Builder::new().name("offsets".to_owned()).spawn(ask);
        asked.map_err(|error| trouble(KafkaError::new(code::STATE, error.to_string())))?;
        match answered.recv_timeout(timeout + GRACE) {
            Ok(result) => result.map_err(trouble)?,
            Err(_) => {
                self.client.shared().stuck.store(true, Ordering::Relaxed);
                self.client.shared().spent.store(true, Ordering::Release);
                return Err(trouble(KafkaError::from_code(code::TIMED_OUT)));
            }
        }
        // Below version 3 the request has no room for the member: the offsets would be committed unfenced.
        let version = self.client.shared().txn_offset_commit.load(Ordering::Relaxed);
        if version < FENCED_OFFSET_COMMIT {
            let message =
                "the brokers are too old to fence the offsets of a transaction: Kafka 2.5 or newer is needed";
            return Err(KafkaError::new(code::UNSUPPORTED_FEATURE, message));
        }
        Ok(())
    }

    /// Commits the transaction. After a retriable error the commit is under way: call again, never abort. If that does not
    /// end well either, the outcome is unknown, and only a new producer and the committed offsets can tell it. After a commit
    /// that was called again a new producer is better for the next transaction: it has been seen to refuse its records.
    pub fn commit(&self, timeout: Duration) -> Result<(), KafkaError> {
        // SAFETY: the client is valid; reports are served meanwhile, and this is the producer's thread, which holds no
        // reference to them. The error is handed over.
        unsafe { KafkaError::take(sys::rd_kafka_commit_transaction(self.client.as_ptr(), millis(timeout))) }
            .map_err(|error| error.during("cannot commit the transaction"))
    }

    /// Aborts the transaction: drops what was not sent, waits for what was, serving reports. May be called again after a
    /// retriable error.
    pub fn abort(&self, timeout: Duration) -> Result<(), KafkaError> {
        // SAFETY: as for `commit`.
        unsafe { KafkaError::take(sys::rd_kafka_abort_transaction(self.client.as_ptr(), millis(timeout))) }
            .map_err(|error| error.during("cannot abort the transaction"))
            .inspect_err(|_| self.client.shared().spent.store(true, Ordering::Release))
    }

    /// Whether a request of a transaction got no answer, which may still arrive and meet the next transaction; or whether a
    /// transaction could not be aborted, perhaps since the brokers have done it. A spent producer may end the one that is
    /// open, but not begin another.
    pub fn is_spent(&self) -> bool {
        self.client.shared().spent.load(Ordering::Acquire)
    }

    /// The error that ended the producer, if there was one.
    pub fn fatal_error(&self) -> Option<KafkaError> {
        self.client.fatal_error()
    }
}

/// How much longer than its time-out a call may take.
const GRACE: Duration = Duration::from_secs(2);

/// A call that somebody else waits for: while librdkafka (2.12.1) looks for the group's coordinator no time-out ends it, and
/// nothing at all if the broker that was asked is gone (`rd_kafka_coord_req_fsm` waits for another change of a connection).
struct SendOffsets {
    client: *mut sys::rd_kafka_t,
    list: PartitionList,
    group: GroupMetadata,
    timeout: Duration,
}

// SAFETY: librdkafka's clients may be used by any thread, and the list is this call's alone.
unsafe impl Send for SendOffsets {}

impl SendOffsets {
    fn run(self) -> Result<(), KafkaError> {
        // SAFETY: the client is valid: it is not destroyed before the call has returned. The list and the metadata are copied; the
        // error is handed over.
        unsafe {
            KafkaError::take(sys::rd_kafka_send_offsets_to_transaction(
                self.client,
                self.list.as_ptr(),
                self.group.as_ptr(),
                millis(self.timeout),
            ))
        }
    }
}

/// The version of TxnOffsetCommit from which on it names member and generation (KIP-447).
const FENCED_OFFSET_COMMIT: i16 = 3;

impl Drop for Producer {
    /// Drops what was not sent. An open transaction stays open until a successor with the same id, or its time, ends it.
    fn drop(&mut self) {
        // SAFETY: the client is valid; this is the producer's thread, which holds no reference to the reports.
        unsafe {
            let flags = sys::RD_KAFKA_PURGE_F_QUEUE
                | sys::RD_KAFKA_PURGE_F_INFLIGHT
                | sys::RD_KAFKA_PURGE_F_NON_BLOCKING;
            sys::rd_kafka_purge(self.client.as_ptr(), flags);
            sys::rd_kafka_poll(self.client.as_ptr(), 0);
        }
    }
}

/// A slice as C wants it; an empty one is not null.
fn raw(bytes: Option<&[u8]>) -> (*const c_void, usize) {
    bytes.map_or((std::ptr::null(), 0), |bytes| (bytes.as_ptr().cast(), bytes.len()))
}

/// Headers that no record has yet.
struct HeaderList(NonNull<sys::rd_kafka_headers_t>);

impl HeaderList {
    fn new() -> Self {
        // SAFETY: the function only allocates; librdkafka ends the process when there is no memory.
        match NonNull::new(unsafe { sys::rd_kafka_headers_new(4) }) {
            Some(headers) => Self(headers),
            None => std::process::abort(),
        }
    }

    fn add(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), KafkaError> {
        let (value, size) = raw(value);
        // SAFETY: the headers are ours; name and value are copied, with the sizes given.
        KafkaError::check(unsafe {
            sys::rd_kafka_header_add(
                self.0.as_ptr(),
                name.as_ptr().cast(),
                name.len().cast_signed(),
                value,
                size.cast_signed(),
            )
        })
    }
}

impl Drop for HeaderList {
    fn drop(&mut self) {
        // SAFETY: the headers are ours, unless a record has them: then this is not called. They are destroyed once.
        unsafe { sys::rd_kafka_headers_destroy(self.0.as_ptr()) };
    }
}
