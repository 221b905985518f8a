//! A record as it lies in librdkafka's memory.

use std::borrow::Cow;
use std::ffi::CStr;
use std::marker::PhantomData;

use super::error::code;
use super::sys;

/// A record of a topic, borrowed: it is gone when the call that showed it returns.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970; -1 if it has none.
    pub timestamp: i64,
    /// The key, if there is one.
    pub key: Option<&'a [u8]>,
    /// The value, if there is one.
    pub value: Option<&'a [u8]>,
    /// The headers, read when they are asked for.
    pub headers: Headers<'a>,
}

impl<'a> Message<'a> {
    /// Shows a record.
    ///
    /// # Safety
    /// The message is a record without error, valid and unchanged for `'a`, and nobody else uses it in that time.
    pub(super) unsafe fn new(raw: *const sys::RawMessage) -> Self {
        // SAFETY: what the caller promises; a payload or key that is not null has the length that the message says.
        unsafe {
            let mut kind = 0;
            let timestamp = sys::rd_kafka_message_timestamp(raw, &mut kind);
            Self {
                offset: (*raw).offset,
                timestamp: if kind == NO_TIMESTAMP { -1 } else { timestamp },
                key: bytes((*raw).key, (*raw).key_len),
                value: bytes((*raw).payload, (*raw).len),
                headers: Headers { raw, record: PhantomData },
            }
        }
    }
}

const NO_TIMESTAMP: i32 = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE as i32;

/// # Safety
/// The pointer is null or points to that many bytes, valid for `'a`.
unsafe fn bytes<'a>(start: *const std::ffi::c_void, size: usize) -> Option<&'a [u8]> {
    // SAFETY: what the caller promises.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) })
}

/// The headers of a record, in order: name and value. Each pass over them reads them from librdkafka.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    raw: *const sys::RawMessage,
    record: PhantomData<&'a [u8]>,
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = (Cow<'a, str>, Option<&'a [u8]>);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        let mut headers = std::ptr::null_mut();
        // SAFETY: the message is valid for `'a`; what is returned belongs to it. The parsing is done in place, which is
        // why a message is shown to one thread only (`Headers` is not `Send`).
        let result = unsafe { sys::rd_kafka_message_headers(self.raw, &mut headers) };
        match result {
            code::NONE => {}
            code::NO_ENTRY => headers = std::ptr::null_mut(),
            error => {
                // Brokers check what they are given, and the checksum was right: only a broken writer gets here.
                tracing::warn!(error, "the headers of a record cannot be read; it is taken as having none");
                headers = std::ptr::null_mut();
            }
        }
        HeadersIter { headers, next: 0, record: PhantomData }
    }
}

/// Goes through the headers of a record.
pub struct HeadersIter<'a> {
    headers: *const sys::rd_kafka_headers_t,
    next: usize,
    record: PhantomData<&'a [u8]>,
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (Cow<'a, str>, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.headers.is_null() {
            return None;
        }
        let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the headers belong to the message, which is valid for `'a`, and so do the name and the value.
        unsafe {
            let found =
                sys::rd_kafka_header_get_all(self.headers, self.next, &mut name, &mut value, &mut size);
            if found != code::NONE {
                return None;
            }
            self.next += 1;
            Some((CStr::from_ptr(name).to_string_lossy(), bytes(value, size)))
        }
    }
}
