//! The C functions and structures that this room uses.
//!
//! Brokers may answer with error codes that the generated bindings do not know, and a Rust `enum` of an unknown value is
//! undefined behaviour. Whatever takes, returns or holds an error code is therefore declared here once more, with
//! `c_int`; the rest is what bindgen made of the header.

use std::ffi::{c_char, c_int, c_void};

pub(super) use rdkafka::bindings::*;

/// An error code, whether or not this version of the library has a name for it.
pub(super) type Code = c_int;

/// `rd_kafka_message_t`.
#[repr(C)]
pub(super) struct RawMessage {
    pub err: Code,
    pub rkt: *mut rd_kafka_topic_t,
    pub partition: i32,
    pub payload: *mut c_void,
    pub len: usize,
    pub key: *mut c_void,
    pub key_len: usize,
    pub offset: i64,
    pub private: *mut c_void,
}

/// `rd_kafka_topic_partition_t`.
#[repr(C)]
pub(super) struct RawPartition {
    pub topic: *mut c_char,
    pub partition: i32,
    pub offset: i64,
    pub metadata: *mut c_void,
    pub metadata_size: usize,
    pub opaque: *mut c_void,
    pub err: Code,
    pub private: *mut c_void,
}

// The layouts are those of the header, or nothing here would be sound.
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Code>() == size_of::<rd_kafka_resp_err_t>());
    assert!(size_of::<RawMessage>() == size_of::<rd_kafka_message_t>());
    assert!(offset_of!(RawMessage, err) == offset_of!(rd_kafka_message_t, err));
    assert!(offset_of!(RawMessage, payload) == offset_of!(rd_kafka_message_t, payload));
    assert!(offset_of!(RawMessage, len) == offset_of!(rd_kafka_message_t, len));
    assert!(offset_of!(RawMessage, key) == offset_of!(rd_kafka_message_t, key));
    assert!(offset_of!(RawMessage, key_len) == offset_of!(rd_kafka_message_t, key_len));
    assert!(offset_of!(RawMessage, offset) == offset_of!(rd_kafka_message_t, offset));
    assert!(offset_of!(RawMessage, private) == offset_of!(rd_kafka_message_t, _private));
    assert!(size_of::<RawPartition>() == size_of::<rd_kafka_topic_partition_t>());
    assert!(offset_of!(RawPartition, topic) == offset_of!(rd_kafka_topic_partition_t, topic));
    assert!(offset_of!(RawPartition, partition) == offset_of!(rd_kafka_topic_partition_t, partition));
    assert!(offset_of!(RawPartition, offset) == offset_of!(rd_kafka_topic_partition_t, offset));
    assert!(offset_of!(RawPartition, metadata) == offset_of!(rd_kafka_topic_partition_t, metadata));
    assert!(offset_of!(RawPartition, metadata_size) == offset_of!(rd_kafka_topic_partition_t, metadata_size));
    assert!(offset_of!(RawPartition, err) == offset_of!(rd_kafka_topic_partition_t, err));
};

/// Called for every answer to a request, and for every request that got none.
pub(super) type OnResponse = unsafe extern "C" fn(
    rk: *mut rd_kafka_t,
    sockfd: c_int,
    broker: *const c_char,
    broker_id: i32,
    api_key: i16,
    api_version: i16,
    correlation: i32,
    size: usize,
    round_trip: i64,
    err: Code,
    opaque: *mut c_void,
) -> Code;

/// Called for every request that was sent.
#[cfg(debug_assertions)]
pub(super) type OnRequest = unsafe extern "C" fn(
    rk: *mut rd_kafka_t,
    sockfd: c_int,
    broker: *const c_char,
    broker_id: i32,
    api_key: i16,
    api_version: i16,
    correlation: i32,
    size: usize,
    opaque: *mut c_void,
) -> Code;

/// Called when a client is made, to add interceptors to it.
pub(super) type OnNew = unsafe extern "C" fn(
    rk: *mut rd_kafka_t,
    conf: *const rd_kafka_conf_t,
    opaque: *mut c_void,
    errstr: *mut c_char,
    errstr_size: usize,
) -> Code;

/// Called for every record that was delivered or failed.
pub(super) type OnDelivery =
    unsafe extern "C" fn(rk: *mut rd_kafka_t, message: *const RawMessage, opaque: *mut c_void);

unsafe extern "C" {
    pub(super) fn rd_kafka_error_code(error: *const rd_kafka_error_t) -> Code;
    pub(super) fn rd_kafka_err2str(err: Code) -> *const c_char;
    pub(super) fn rd_kafka_err2name(err: Code) -> *const c_char;
    pub(super) fn rd_kafka_last_error() -> Code;
    pub(super) fn rd_kafka_fatal_error(rk: *mut rd_kafka_t, errstr: *mut c_char, size: usize) -> Code;
    pub(super) fn rd_kafka_event_error(event: *mut rd_kafka_event_t) -> Code;

    pub(super) fn rd_kafka_conf_interceptor_add_on_new(
        conf: *mut rd_kafka_conf_t,
        name: *const c_char,
        on_new: Option<OnNew>,
        opaque: *mut c_void,
    ) -> Code;
    #[cfg(debug_assertions)]
    pub(super) fn rd_kafka_interceptor_add_on_request_sent(
        rk: *mut rd_kafka_t,
        name: *const c_char,
        on_request: Option<OnRequest>,
        opaque: *mut c_void,
    ) -> Code;
    pub(super) fn rd_kafka_interceptor_add_on_response_received(
        rk: *mut rd_kafka_t,
        name: *const c_char,
        on_response: Option<OnResponse>,
        opaque: *mut c_void,
    ) -> Code;
    pub(super) fn rd_kafka_conf_set_dr_msg_cb(conf: *mut rd_kafka_conf_t, on_delivery: Option<OnDelivery>);
    pub(super) fn rd_kafka_oauthbearer_set_token(
        rk: *mut rd_kafka_t,
        token: *const c_char,
        expires_ms: i64,
        principal: *const c_char,
        extensions: *mut *const c_char,
        extension_size: usize,
        errstr: *mut c_char,
        errstr_size: usize,
    ) -> Code;
    pub(super) fn rd_kafka_oauthbearer_set_token_failure(rk: *mut rd_kafka_t, errstr: *const c_char) -> Code;

    pub(super) fn rd_kafka_poll_set_consumer(rk: *mut rd_kafka_t) -> Code;
    pub(super) fn rd_kafka_subscribe(
        rk: *mut rd_kafka_t,
        topics: *const rd_kafka_topic_partition_list_t,
    ) -> Code;
    pub(super) fn rd_kafka_assign(
        rk: *mut rd_kafka_t,
        partitions: *const rd_kafka_topic_partition_list_t,
    ) -> Code;
    pub(super) fn rd_kafka_committed(
        rk: *mut rd_kafka_t,
        partitions: *mut rd_kafka_topic_partition_list_t,
        timeout_ms: c_int,
    ) -> Code;
    pub(super) fn rd_kafka_commit_queue(
        rk: *mut rd_kafka_t,
        offsets: *const rd_kafka_topic_partition_list_t,
        queue: *mut rd_kafka_queue_t,
        callback: *const c_void,
        opaque: *mut c_void,
    ) -> Code;
    pub(super) fn rd_kafka_get_watermark_offsets(
        rk: *mut rd_kafka_t,
        topic: *const c_char,
        partition: i32,
        low: *mut i64,
        high: *mut i64,
    ) -> Code;

    pub(super) fn rd_kafka_consume_batch_queue(
        queue: *mut rd_kafka_queue_t,
        timeout_ms: c_int,
        messages: *mut *mut RawMessage,
        size: usize,
    ) -> isize;
    pub(super) fn rd_kafka_message_destroy(message: *mut RawMessage);
    pub(super) fn rd_kafka_message_timestamp(message: *const RawMessage, kind: *mut c_int) -> i64;
    pub(super) fn rd_kafka_message_headers(
        message: *const RawMessage,
        headers: *mut *mut rd_kafka_headers_t,
    ) -> Code;
    pub(super) fn rd_kafka_header_get_all(
        headers: *const rd_kafka_headers_t,
        index: usize,
        name: *mut *const c_char,
        value: *mut *const c_void,
        size: *mut usize,
    ) -> Code;
    pub(super) fn rd_kafka_header_add(
        headers: *mut rd_kafka_headers_t,
        name: *const c_char,
        name_size: isize,
        value: *const c_void,
        value_size: isize,
    ) -> Code;

    pub(super) fn rd_kafka_producev(rk: *mut rd_kafka_t, ...) -> Code;
    pub(super) fn rd_kafka_flush(rk: *mut rd_kafka_t, timeout_ms: c_int) -> Code;
    pub(super) fn rd_kafka_purge(rk: *mut rd_kafka_t, flags: c_int) -> Code;

    pub(super) fn rd_kafka_metadata(
        rk: *mut rd_kafka_t,
        all_topics: c_int,
        only: *mut rd_kafka_topic_t,
        metadata: *mut *const rd_kafka_metadata,
        timeout_ms: c_int,
    ) -> Code;
    pub(super) fn rd_kafka_topic_result_error(result: *const rd_kafka_topic_result_t) -> Code;
    pub(super) fn rd_kafka_topic_result_error_string(result: *const rd_kafka_topic_result_t)
    -> *const c_char;
    pub(super) fn rd_kafka_ConfigResource_error(resource: *const rd_kafka_ConfigResource_t) -> Code;
    pub(super) fn rd_kafka_AdminOptions_set_request_timeout(
        options: *mut rd_kafka_AdminOptions_t,
        timeout_ms: c_int,
        errstr: *mut c_char,
        errstr_size: usize,
    ) -> Code;
    pub(super) fn rd_kafka_AdminOptions_set_operation_timeout(
        options: *mut rd_kafka_AdminOptions_t,
        timeout_ms: c_int,
        errstr: *mut c_char,
        errstr_size: usize,
    ) -> Code;
    pub(super) fn rd_kafka_NewTopic_set_config(
        topic: *mut rd_kafka_NewTopic_t,
        name: *const c_char,
        value: *const c_char,
    ) -> Code;
}
