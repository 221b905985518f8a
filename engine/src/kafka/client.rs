//! A client of librdkafka: made of properties, with its log and the callbacks that all kinds share, and destroyed once.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI16, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use super::error::{KafkaError, code, text};
use super::partition::{TopicPartition, c_string};
use super::producer::Reports;
use super::queue::Waker;
use super::settings::ClientSettings;
use super::{properties, sys, token};

/// How long the end of a client may keep its caller. What takes longer goes on in the background.
const DESTROY_PATIENCE: Duration = Duration::from_secs(3);

/// Size of the buffers for librdkafka's error texts.
const TEXT_SIZE: usize = 512;

/// What a client is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Reader,
    Writer,
}

/// Everything that a callback of a client may touch. It lives until librdkafka has ended all of the client's threads.
pub(super) struct Shared {
    /// Where OAUTHBEARER's token is read from.
    pub token_file: Option<PathBuf>,
    /// Who is told when a partition's queue has records.
    pub wakers: Mutex<HashMap<TopicPartition, Arc<Waker>>>,
    /// The configuration is the client's now, also if it cannot be made: see [`Properties::client`].
    begun: AtomicBool,
    /// Its end is not waited for: it has been waited for a request that gets no answer.
    pub given_up: AtomicBool,
    /// A call does not return: the client must not be destroyed under it.
    pub stuck: AtomicBool,
    /// A request of the transaction was not answered: the producer is spent.
    pub spent: AtomicBool,
    /// Version of the last answered TxnOffsetCommit; -1: none yet.
    pub txn_offset_commit: AtomicI16,
    /// Version of the last answered OffsetFetch; -1: none yet.
    pub offset_fetch: AtomicI16,
    /// What was delivered. Touched only by the thread that calls the producer: see [`Shared::reports`].
    reports: UnsafeCell<Reports>,
}

// SAFETY: all fields can be shared, except for `reports`. That is reached through `Shared::reports` only, whose callers
// promise to be alone.
unsafe impl Sync for Shared {}

impl Shared {
    fn new(token_file: Option<PathBuf>) -> Self {
        Self {
            token_file,
            wakers: Mutex::default(),
            begun: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            spent: AtomicBool::new(false),
            txn_offset_commit: AtomicI16::new(-1),
            offset_fetch: AtomicI16::new(-1),
            reports: UnsafeCell::new(Reports::default()),
        }
    }

    /// The delivery reports.
    ///
    /// # Safety
    /// The caller is the thread that uses the producer, which is not `Sync`, and holds no other reference to the reports;
    /// it calls nothing of librdkafka while it holds this one.
    #[expect(clippy::mut_from_ref, reason = "the cell's invariant is in the safety comment")]
    pub unsafe fn reports(&self) -> &mut Reports {
        // SAFETY: what the caller promises.
        unsafe { &mut *self.reports.get() }
    }
}

/// Properties of a client to be.
pub(super) struct Properties {
    conf: NonNull<sys::rd_kafka_conf_t>,
    token_file: Option<PathBuf>,
}

impl Properties {
    /// The properties of a client of this kind: `defaults`, then the user's, then what the engine insists on.
    pub fn new(
        settings: &ClientSettings,
        kind: Kind,
        defaults: &[(&str, &str)],
        owned: &[(&str, &str)],
    ) -> Result<Self, KafkaError> {
        if let Some(problem) = settings.security.problems().first() {
            return Err(KafkaError::new(code::INVALID_ARGUMENT, format!("kafka.security: {problem}")));
        }
        if let Some((field, file, error)) = settings.security.unreadable() {
            let message = format!("kafka.security.{field}: {}: {error}", file.display());
            return Err(KafkaError::new(code::INVALID_ARGUMENT, message));
        }
        // SAFETY: the function only allocates; librdkafka ends the process when there is no memory.
        let conf = unsafe { sys::rd_kafka_conf_new() };
        let Some(conf) = NonNull::new(conf) else { std::process::abort() };
        let mut this = Self { conf, token_file: settings.security.token_file.clone() };

        this.set("socket.keepalive.enable", "true")?;
        for (name, value) in defaults {
            this.set(name, value)?;
        }
        for (name, value) in &settings.properties {
            let fits = match kind {
                Kind::Reader => properties::is_for_readers(name),
                Kind::Writer => properties::is_for_writers(name),
            };
            if fits {
                this.set(name, value)?;
            }
        }
        this.set("bootstrap.servers", &settings.brokers)?;
        this.set("client.id", &settings.client_id)?;
        // Nothing is to be waited for at the end of a client.
        this.set("enable.metrics.push", "false")?;
        for (name, value) in settings.security.properties() {
            this.set(name, &value)?;
        }
        for (name, value) in owned {
            this.set(name, value)?;
        }
        // SAFETY: the configuration is ours, the callbacks are of the types that the header wants.
        unsafe {
            sys::rd_kafka_conf_set_log_cb(conf.as_ptr(), Some(on_log));
            if this.token_file.is_some() {
                sys::rd_kafka_conf_enable_sasl_queue(conf.as_ptr(), 1);
                sys::rd_kafka_conf_set_oauthbearer_token_refresh_cb(conf.as_ptr(), Some(on_token));
            }
        }
        Ok(this)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), KafkaError> {
        let name_c = c_string(name)?;
        let value_c = CString::new(value).map_err(|_| {
            KafkaError::new(code::INVALID_ARGUMENT, format!("property `{name}`: its value holds a zero byte"))
        })?;
        let mut reason = [0; TEXT_SIZE];
        // SAFETY: the configuration is ours, the strings end with a zero byte and are copied, the buffer has the size given.
        let result = unsafe {
            sys::rd_kafka_conf_set(
                self.conf.as_ptr(),
                name_c.as_ptr(),
                value_c.as_ptr(),
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        if result == sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
            return Ok(());
        }
        // librdkafka's message repeats the value, which may be a secret.
        let secret = name.contains("password") || name.contains("secret") || name.contains("pem");
        let reason = if secret { "its value is not accepted".to_owned() } else { written(&reason) };
        Err(KafkaError::new(code::INVALID_ARGUMENT, format!("property `{name}`: {reason}")))
    }

    /// Events that are handed out by `rd_kafka_queue_poll` instead of being served by callbacks.
    pub fn events(&mut self, events: i32) {
        // SAFETY: the configuration is ours.
        unsafe { sys::rd_kafka_conf_set_events(self.conf.as_ptr(), events) };
    }

    /// Delivery reports go to the client's [`Reports`].
    pub fn report_deliveries(&mut self) {
        // SAFETY: the configuration is ours, the callback is of the type that the header wants.
        unsafe { sys::rd_kafka_conf_set_dr_msg_cb(self.conf.as_ptr(), Some(super::producer::on_delivery)) };
    }

    /// Makes the client.
    pub fn client(mut self, kind: Kind) -> Result<Client, KafkaError> {
        let shared = Arc::new(Shared::new(self.token_file.take()));
        let conf = self.conf;
        // From here on the configuration is freed below, or by librdkafka.
        std::mem::forget(self);
        let opaque = Arc::as_ptr(&shared).cast_mut().cast::<c_void>();
        let kind = match kind {
            Kind::Reader => sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
            Kind::Writer => sys::rd_kafka_type_t::RD_KAFKA_PRODUCER,
        };
        let mut reason: [c_char; TEXT_SIZE] = [0; TEXT_SIZE];
        // SAFETY: the configuration is ours, and from here on librdkafka's unless the call fails. What the callbacks get
        // as `opaque` is owned by the client, which frees it only when all of its threads have ended.
        let raw = unsafe {
            sys::rd_kafka_conf_set_opaque(conf.as_ptr(), opaque);
            let added = sys::rd_kafka_conf_interceptor_add_on_new(
                conf.as_ptr(),
                INTERCEPTOR.as_ptr(),
                Some(on_new),
                opaque,
            );
            if let Err(error) = KafkaError::check(added) {
                sys::rd_kafka_conf_destroy(conf.as_ptr());
                return Err(error);
            }
            sys::rd_kafka_new(kind, conf.as_ptr(), reason.as_mut_ptr(), reason.len())
        };
        let Some(raw) = NonNull::new(raw) else {
            // SAFETY: the function reads what the last call of this thread left. A call that failed early leaves the
            // configuration to us. One that failed late (interceptors were asked already) has freed the interceptors in it,
            // and freeing it would free them again: it stays where it is.
            let error = unsafe {
                let error = sys::rd_kafka_last_error();
                if !shared.begun.load(Ordering::Acquire) {
                    sys::rd_kafka_conf_destroy(conf.as_ptr());
                }
                error
            };
            let message = format!("cannot make a Kafka client: {}", written(&reason));
            return Err(KafkaError::new(error, message));
        };
        let client = Client { raw, shared: Some(shared) };
        if client.shared().token_file.is_some() {
            // SAFETY: the client is valid; the error is handed over.
            unsafe { KafkaError::take(sys::rd_kafka_sasl_background_callbacks_enable(client.as_ptr()))? };
        }
        Ok(client)
    }
}

impl Drop for Properties {
    fn drop(&mut self) {
        // SAFETY: the configuration is ours and is destroyed once: `client` forgets `self` before it
        // hands it on.
        unsafe { sys::rd_kafka_conf_destroy(self.conf.as_ptr()) };
    }
}

/// A client, and the memory that its callbacks use. Whoever holds queues, topics or messages of a client holds the client.
pub(super) struct Client {
    raw: NonNull<sys::rd_kafka_t>,
    /// `None` only while the client is being dropped.
    shared: Option<Arc<Shared>>,
}

// SAFETY: librdkafka's clients may be used and destroyed by any thread; `Shared` guards itself.
unsafe impl Send for Client {}
// SAFETY: as above: every function of librdkafka that takes a client locks what it needs.
unsafe impl Sync for Client {}

impl Client {
    pub fn as_ptr(&self) -> *mut sys::rd_kafka_t {
        self.raw.as_ptr()
    }

    pub fn shared(&self) -> &Shared {
        match &self.shared {
            Some(shared) => shared,
            // Only `drop` takes it.
            None => std::process::abort(),
        }
    }

    /// The error that ended the client, if there was one.
    pub fn fatal_error(&self) -> Option<KafkaError> {
        let mut reason: [c_char; TEXT_SIZE] = [0; TEXT_SIZE];
        // SAFETY: the client is valid, the buffer has the size given.
        let error = unsafe { sys::rd_kafka_fatal_error(self.as_ptr(), reason.as_mut_ptr(), reason.len()) };
        (error != code::NONE).then(|| KafkaError::new(error, written(&reason)).fatal())
    }

    /// The error with this code; a fatal one is told with its cause.
    pub fn error(&self, error: sys::Code) -> KafkaError {
        let fatal = (error == code::FATAL).then(|| self.fatal_error()).flatten();
        fatal.unwrap_or_else(|| KafkaError::from_code(error))
    }

    /// The error of a call that returned a code; `Ok` if it is none.
    pub fn check(&self, error: sys::Code) -> Result<(), KafkaError> {
        if error == code::NONE { Ok(()) } else { Err(self.error(error)) }
    }
}

impl Drop for Client {
    /// Ends the client's threads and connections, without leaving its group or delivering anything. That takes
    /// milliseconds, unless the operating system holds a thread up (resolving a name, for instance): then it goes on in
    /// the background.
    fn drop(&mut self) {
        struct Last(NonNull<sys::rd_kafka_t>, Option<Arc<Shared>>);
        // SAFETY: a client may be destroyed by any thread.
        unsafe impl Send for Last {}
        impl Drop for Last {
            fn drop(&mut self) {
                // SAFETY: nobody else has the client any more: it is destroyed once, here. The memory of its callbacks is
                // freed after that, by the field's own drop.
                unsafe {
                    sys::rd_kafka_destroy_flags(self.0.as_ptr(), sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
                }
                self.1.take();
            }
        }
        let given_up = self.shared().given_up.load(Ordering::Relaxed);
        let stuck = self.shared().stuck.load(Ordering::Relaxed);
        let last = Last(self.raw, self.shared.take());
        if stuck {
            std::mem::forget(last);
            return;
        }
        let (done, ended) = mpsc::sync_channel(1);
        let end = move || {
            drop(last);
            let _ = done.send(());
        };
        // If there is no thread to be had, the closure is dropped here and now, and the client with it.
        if std::thread::Builder::new().name("kafka-end".to_owned()).spawn(end).is_ok()
            && !given_up
            && ended.recv_timeout(DESTROY_PATIENCE).is_err()
        {
            tracing::warn!("a Kafka client takes long to end; it goes on in the background");
        }
    }
}

/// What librdkafka wrote into a buffer.
pub(super) fn written(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> =
        buffer.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A duration as librdkafka wants it: milliseconds, rounded up, so that a short wait is not none.
pub(super) fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

const INTERCEPTOR: &CStr = c"millstream";

/// Adds the interceptor of responses to a new client.
unsafe extern "C" fn on_new(
    rk: *mut sys::rd_kafka_t,
    _conf: *const sys::rd_kafka_conf_t,
    opaque: *mut c_void,
    _errstr: *mut c_char,
    _errstr_size: usize,
) -> sys::Code {
    // SAFETY: librdkafka gives the client that is being made and the `Shared` that it was made with; of that only what can
    // be shared is touched.
    unsafe {
        (*opaque.cast_const().cast::<Shared>()).begun.store(true, Ordering::Release);
        #[cfg(debug_assertions)]
        sys::rd_kafka_interceptor_add_on_request_sent(rk, INTERCEPTOR.as_ptr(), Some(on_request), opaque);
        sys::rd_kafka_interceptor_add_on_response_received(
            rk,
            INTERCEPTOR.as_ptr(),
            Some(on_response),
            opaque,
        )
    }
}

/// Requests of a transaction by their number in the protocol.
mod api {
    pub const PRODUCE: i16 = 0;
    pub const OFFSET_FETCH: i16 = 9;
    pub const ADD_PARTITIONS: i16 = 24;
    pub const ADD_OFFSETS: i16 = 25;
    pub const END_TRANSACTION: i16 = 26;
    pub const TXN_OFFSET_COMMIT: i16 = 28;
}

/// Sees every request that was sent.
#[cfg(debug_assertions)]
unsafe extern "C" fn on_request(
    _rk: *mut sys::rd_kafka_t,
    _sockfd: c_int,
    _broker: *const c_char,
    _broker_id: i32,
    api_key: i16,
    _api_version: i16,
    _correlation: i32,
    _size: usize,
    _opaque: *mut c_void,
) -> sys::Code {
    if api_key == api::END_TRANSACTION {
        millstream_state::fail_point("transaction-ending");
    }
    code::NONE
}

/// Sees every answer, and every request that got none.
///
/// librdkafka sends a request again that was not answered, but the first one may still be on its way: an EndTxn that
/// arrives late would end the next transaction. A producer to which that happened is spent.
unsafe extern "C" fn on_response(
    _rk: *mut sys::rd_kafka_t,
    _sockfd: c_int,
    _broker: *const c_char,
    _broker_id: i32,
    api_key: i16,
    api_version: i16,
    _correlation: i32,
    _size: usize,
    _round_trip: i64,
    err: sys::Code,
    opaque: *mut c_void,
) -> sys::Code {
    // SAFETY: `opaque` is the client's `Shared`, which outlives the client's threads; only what can be shared is touched.
    let shared = unsafe { &*opaque.cast_const().cast::<Shared>() };
    let answered = err == code::NONE;
    match api_key {
        api::OFFSET_FETCH if answered => shared.offset_fetch.store(api_version, Ordering::Relaxed),
        api::TXN_OFFSET_COMMIT if answered => {
            shared.txn_offset_commit.store(api_version, Ordering::Relaxed);
        }
        api::PRODUCE
        | api::ADD_PARTITIONS
        | api::ADD_OFFSETS
        | api::END_TRANSACTION
        | api::TXN_OFFSET_COMMIT => {
            let lost = matches!(
                err,
                code::TRANSPORT
                    | code::TIMED_OUT
                    | code::TIMED_OUT_QUEUE
                    | code::MESSAGE_TIMED_OUT
                    | code::REQUEST_TIMED_OUT
            );
            if lost {
                shared.spent.store(true, Ordering::Release);
            }
        }
        _ => {}
    }
    code::NONE
}

/// Reads OAUTHBEARER's token and hands it on, or says why there is none; librdkafka asks again after a while.
unsafe extern "C" fn on_token(rk: *mut sys::rd_kafka_t, _config: *const c_char, opaque: *mut c_void) {
    // SAFETY: `opaque` is the client's `Shared`, which outlives the client's threads; only what can be shared is touched.
    let shared = unsafe { &*opaque.cast_const().cast::<Shared>() };
    let Some(file) = &shared.token_file else { return };
    let given = token::read(file).and_then(|token| {
        let (value, principal) = (c_string(&token.value)?, c_string(&token.principal)?);
        let mut reason: [c_char; TEXT_SIZE] = [0; TEXT_SIZE];
        // SAFETY: librdkafka gives the client that asks; the strings are copied, there are no extensions, the buffer has
        // the size given.
        let given = unsafe {
            sys::rd_kafka_oauthbearer_set_token(
                rk,
                value.as_ptr(),
                token.expires_ms,
                principal.as_ptr(),
                std::ptr::null_mut(),
                0,
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        if given == code::NONE { Ok(()) } else { Err(KafkaError::new(given, written(&reason))) }
    });
    if let Err(error) = given {
        let message = format!("kafka.security.token-file {}: {}", file.display(), error.message());
        tracing::warn!(target: "librdkafka", "{message}");
        let message = CString::new(message).unwrap_or_default();
        // SAFETY: as above; the string is copied.
        unsafe { sys::rd_kafka_oauthbearer_set_token_failure(rk, message.as_ptr()) };
    }
}

/// Passes librdkafka's log on. What it calls an error is an attempt that it will repeat; what is an error for the
/// application comes as a [`KafkaError`] and is said there.
unsafe extern "C" fn on_log(
    rk: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    message: *const c_char,
) {
    // SAFETY: both strings are valid during the call; the client is valid or null, and its name lives as long as it.
    let (client, facility, message) = unsafe {
        let client = if rk.is_null() { String::new() } else { text(sys::rd_kafka_name(rk)) };
        (client, text(facility), text(message))
    };
    match level {
        0..=2 => tracing::error!(target: "librdkafka", client, facility, "{message}"),
        3 | 4 => tracing::warn!(target: "librdkafka", client, facility, "{message}"),
        5 => tracing::info!(target: "librdkafka", client, facility, "{message}"),
        6 => tracing::debug!(target: "librdkafka", client, facility, "{message}"),
        _ => tracing::trace!(target: "librdkafka", client, facility, "{message}"),
    }
}

/// Locks, also after a panic elsewhere: what these locks hold is whole at every moment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A queue of a client.
pub(super) struct Queue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: queues of librdkafka may be used by any thread; each locks itself.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Takes a queue over that a function of librdkafka returned.
    ///
    /// # Safety
    /// The pointer is null or a queue that nobody else destroys. The client has to outlive the queue: a structure that has
    /// both holds the queue first.
    pub unsafe fn own(queue: *mut sys::rd_kafka_queue_t) -> Option<Self> {
        NonNull::new(queue).map(Self)
    }

    /// A new queue, for the answers to a request. It has to be dropped before the client.
    pub fn new(client: &Client) -> Self {
        // SAFETY: the client is valid; the function only allocates.
        match unsafe { Self::own(sys::rd_kafka_queue_new(client.as_ptr())) } {
            Some(queue) => queue,
            None => std::process::abort(),
        }
    }

    pub fn as_ptr(&self) -> *mut sys::rd_kafka_queue_t {
        self.0.as_ptr()
    }

    /// The next event, if one comes in time.
    pub fn poll(&self, timeout: Duration) -> Option<Event> {
        // SAFETY: the queue is valid; an event is the caller's.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.as_ptr(), millis(timeout)) }).map(Event)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours and is destroyed once.
        unsafe { sys::rd_kafka_queue_destroy(self.as_ptr()) };
    }
}

/// An event of a queue.
pub(super) struct Event(NonNull<sys::rd_kafka_event_t>);

impl Event {
    pub fn as_ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.0.as_ptr()
    }

    pub fn kind(&self) -> i32 {
        // SAFETY: the event is valid.
        unsafe { sys::rd_kafka_event_type(self.as_ptr()) }
    }

    pub fn code(&self) -> sys::Code {
        // SAFETY: the event is valid.
        unsafe { sys::rd_kafka_event_error(self.as_ptr()) }
    }

    /// The error that the event carries.
    pub fn error(&self) -> Option<KafkaError> {
        let error = self.code();
        if error == code::NONE {
            return None;
        }
        // SAFETY: the event is valid; its text lives as long as it and is copied. Only errors know whether they are fatal:
        // of another event the function would read something else.
        let (message, fatal) = unsafe {
            let message = text(sys::rd_kafka_event_error_string(self.as_ptr()));
            let is_error = self.kind() == sys::RD_KAFKA_EVENT_ERROR;
            (message, is_error && sys::rd_kafka_event_error_is_fatal(self.as_ptr()) != 0)
        };
        let error =
            if message.is_empty() { KafkaError::from_code(error) } else { KafkaError::new(error, message) };
        Some(if fatal { error.fatal() } else { error })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is ours and is destroyed once.
        unsafe { sys::rd_kafka_event_destroy(self.as_ptr()) };
    }
}
