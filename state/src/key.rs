//! The encoding of keys: the order of the bytes is the order of the columns.
//!
//! A key is a version byte and its columns. A column is one byte for null (0) or not null (1), so that nulls come
//! first, and then:
//!
//! | type | bytes |
//! |---|---|
//! | bool | 0 or 1 |
//! | i32, i64, i128 | big-endian, sign bit flipped |
//! | f32, f64 | big-endian, sign bit flipped, and all other bits too if negative: IEEE 754's total order |
//! | bytes, str | the bytes, each 0 followed by 255, and 0 0 at the end: a shorter string comes before its extensions |
//!
//! Since no column is a prefix of another, keys compare column by column, and all keys that start with the same
//! columns are neighbours: [`prefix_end`] gives the end of their range. Dates and timestamps are integers, decimals
//! are i128 of one scale.

use std::borrow::Cow;

/// The version byte at the start of every key.
pub const KEY_VERSION: u8 = 1;

const NULL: u8 = 0;
const VALUE: u8 = 1;
const ZERO: u8 = 0;
const ESCAPED: u8 = 255;
const END: u8 = 0;

/// Why bytes are not the key that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key ends before its last column.
    #[error("the key ends within a column")]
    Truncated,
    /// The key goes on behind its last column.
    #[error("the key has {0} bytes behind its last column")]
    Trailing(usize),
    /// The key was written in a version that the reader does not know.
    #[error("the key has version {found}, known is version {KEY_VERSION}")]
    Version {
        /// The key's version.
        found: u8,
    },
    /// A byte that no writer writes.
    #[error("the key has the byte {found} where {expected} is expected")]
    Invalid {
        /// The byte.
        found: u8,
        /// What may stand there.
        expected: &'static str,
    },
    /// A text is not UTF-8.
    #[error("a text in the key is not UTF-8")]
    Utf8,
}

/// Writes the columns of a key into a buffer that is used again and again.
#[derive(Debug)]
pub struct KeyWriter<'a> {
    buffer: &'a mut Vec<u8>,
}

impl<'a> KeyWriter<'a> {
    /// Starts a key: empties the buffer and writes the version.
    #[inline]
    pub fn new(buffer: &'a mut Vec<u8>) -> Self {
        buffer.clear();
        buffer.push(KEY_VERSION);
        Self { buffer }
    }

    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Self {
        self.buffer.push(VALUE);
        self.buffer.extend_from_slice(&bytes);
        self
    }

    /// Writes a null column.
    #[inline]
    pub fn put_null(&mut self) -> &mut Self {
        self.buffer.push(NULL);
        self
    }

    /// Writes a truth value; false comes first.
    #[inline]
    pub fn put_bool(&mut self, column: bool) -> &mut Self {
        self.put([u8::from(column)])
    }

    /// Writes a 32-bit integer.
    #[inline]
    pub fn put_i32(&mut self, column: i32) -> &mut Self {
        self.put((column ^ i32::MIN).to_be_bytes())
    }

    /// Writes a 64-bit integer, or a time in milliseconds.
    #[inline]
    pub fn put_i64(&mut self, column: i64) -> &mut Self {
        self.put((column ^ i64::MIN).to_be_bytes())
    }

    /// Writes a 128-bit integer, or a decimal's unscaled value.
    #[inline]
    pub fn put_i128(&mut self, column: i128) -> &mut Self {
        self.put((column ^ i128::MIN).to_be_bytes())
    }

    /// Writes a 32-bit float in the order of [`f32::total_cmp`].
    #[inline]
    pub fn put_f32(&mut self, column: f32) -> &mut Self {
        let bits = column.to_bits();
        self.put((if column.is_sign_negative() { !bits } else { bits | 1 << 31 }).to_be_bytes())
    }

    /// Writes a 64-bit float in the order of [`f64::total_cmp`].
    #[inline]
    pub fn put_f64(&mut self, column: f64) -> &mut Self {
        let bits = column.to_bits();
        self.put((if column.is_sign_negative() { !bits } else { bits | 1 << 63 }).to_be_bytes())
    }

    /// Writes a byte string.
    #[inline]
    pub fn put_bytes(&mut self, column: &[u8]) -> &mut Self {
        self.buffer.push(VALUE);
        // Every piece but the last was followed by a zero.
        let mut pieces = column.split(|&byte| byte == ZERO);
        self.buffer.extend_from_slice(pieces.next().unwrap_or_default());
        for piece in pieces {
            self.buffer.extend_from_slice(&[ZERO, ESCAPED]);
            self.buffer.extend_from_slice(piece);
        }
        self.buffer.extend_from_slice(&[ZERO, END]);
        self
    }

    /// Writes a text, ordered by its bytes.
    #[inline]
    pub fn put_str(&mut self, column: &str) -> &mut Self {
        self.put_bytes(column.as_bytes())
    }

    /// Writes the columns of a whole key behind those written so far, as in `window start | key`.
    #[inline]
    pub fn put_key(&mut self, key: &[u8]) -> &mut Self {
        self.buffer.extend_from_slice(key.get(1..).unwrap_or_default());
        self
    }
}

/// Reads the columns of a key; `None` is null.
#[derive(Debug, Clone)]
pub struct KeyReader<'a> {
    rest: &'a [u8],
}

impl<'a> KeyReader<'a> {
    /// Starts to read a key.
    ///
    /// # Errors
    /// If the key is empty or has another version.
    #[inline]
    pub fn new(key: &'a [u8]) -> Result<Self, KeyError> {
        match key.split_first() {
            Some((&KEY_VERSION, rest)) => Ok(Self { rest }),
            Some((&found, _)) => Err(KeyError::Version { found }),
            None => Err(KeyError::Truncated),
        }
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], KeyError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(KeyError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    fn is_null(&mut self) -> Result<bool, KeyError> {
        match self.take()? {
            [NULL] => Ok(true),
            [VALUE] => Ok(false),
            [found] => Err(KeyError::Invalid { found, expected: "0 (null) or 1 (not null)" }),
        }
    }

    #[inline]
    fn get<const N: usize>(&mut self) -> Result<Option<[u8; N]>, KeyError> {
        if self.is_null()? { Ok(None) } else { self.take().map(Some) }
    }

    /// Reads a truth value.
    ///
    /// # Errors
    /// If the key ends before, or does not hold one here.
    #[inline]
    pub fn get_bool(&mut self) -> Result<Option<bool>, KeyError> {
        match self.get()? {
            None => Ok(None),
            Some([0]) => Ok(Some(false)),
            Some([1]) => Ok(Some(true)),
            Some([found]) => Err(KeyError::Invalid { found, expected: "0 (false) or 1 (true)" }),
        }
    }

    /// Reads a 32-bit integer.
    ///
    /// # Errors
    /// If the key ends before, or does not hold one here.
    #[inline]
    pub fn get_i32(&mut self) -> Result<Option<i32>, KeyError> {
        Ok(self.get()?.map(|bytes| i32::from_be_bytes(bytes) ^ i32::MIN))
    }

    /// Reads a 64-bit integer.
    ///
    /// # Errors
    /// If the key ends before, or does not hold one here.
    #[inline]
    pub fn get_i64(&mut self) -> Result<Option<i64>, KeyError> {
        Ok(self.get()?.map(|bytes| i64::from_be_bytes(bytes) ^ i64::MIN))
    }

    /// Reads a 128-bit integer.
    ///
    /// # Errors
    /// If the key ends before, or does not hold one here.
    #[inline]
    pub fn get_i128(&mut self) -> Result<Option<i128>, KeyError> {
        Ok(self.get()?.map(|bytes| i128::from_be_bytes(bytes) ^ i128::MIN))
    }

    /// Reads a 32-bit float.
    ///
    /// # Errors
    /// If the key ends before, or does not hold one here.
    #[inline]
    pub fn get_f32(&mut self) -> Result<Option<f32>, KeyError> {
        Ok(self.get()?.map(|bytes| {
            let bits = u32::from_be_bytes(bytes);
            f32::from_bits(if bits >> 31 == 0 { !bits } else { bits ^ 1 << 31 })
        }))
    }

    /// Reads a 64-bit float.
    ///
    /// # Errors
    /// If the key ends before, or does not hold one here.
    #[inline]
    pub fn get_f64(&mut self) -> Result<Option<f64>, KeyError> {
        Ok(self.get()?.map(|bytes| {
            let bits = u64::from_be_bytes(bytes);
            f64::from_bits(if bits >> 63 == 0 { !bits } else { bits ^ 1 << 63 })
        }))
    }

    /// Reads a byte string; it is borrowed unless it contains zeros.
    ///
    /// # Errors
    /// If the key ends before, or does not hold one here.
    pub fn get_bytes(&mut self) -> Result<Option<Cow<'a, [u8]>>, KeyError> {
        if self.is_null()? {
            return Ok(None);
        }
        let mut column = Cow::Borrowed([].as_slice());
        loop {
            let end = self.rest.iter().position(|&byte| byte == ZERO).ok_or(KeyError::Truncated)?;
            let (piece, rest) = self.rest.split_at(end);
            self.rest = rest;
            if column.is_empty() {
                column = Cow::Borrowed(piece);
            } else {
                column.to_mut().extend_from_slice(piece);
            }
            match self.take()? {
                [ZERO, END] => return Ok(Some(column)),
                [ZERO, ESCAPED] => column.to_mut().push(ZERO),
                [_, found] => {
                    return Err(KeyError::Invalid { found, expected: "0 (end) or 255 (zero byte)" });
                }
            }
        }
    }

    /// Reads a text.
    ///
    /// # Errors
    /// If the key ends before, or does not hold one here.
    pub fn get_str(&mut self) -> Result<Option<Cow<'a, str>>, KeyError> {
        match self.get_bytes()? {
            None => Ok(None),
            Some(Cow::Borrowed(bytes)) => {
                std::str::from_utf8(bytes).map(|text| Some(text.into())).map_err(|_| KeyError::Utf8)
            }
            Some(Cow::Owned(bytes)) => {
                String::from_utf8(bytes).map(|text| Some(text.into())).map_err(|_| KeyError::Utf8)
            }
        }
    }

    /// The encoded columns that were not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends reading.
    ///
    /// # Errors
    /// If there are more columns.
    #[inline]
    pub fn finish(self) -> Result<(), KeyError> {
        if self.rest.is_empty() { Ok(()) } else { Err(KeyError::Trailing(self.rest.len())) }
    }
}

/// Writes into `end` the first key that is behind every key with this prefix, so that `[prefix, end)` is all of
/// them. The prefix is a key, or its first columns; it is never all 255, since it starts with the version.
pub fn prefix_end(prefix: &[u8], end: &mut Vec<u8>) {
    end.clear();
    end.extend_from_slice(prefix);
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
}
