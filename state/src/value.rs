//! The encoding of values: compact, with a version byte first.
//!
//! Integers are variable-length (zigzag where signed), floats are their eight or four little-endian bytes, byte
//! strings have their length before them. A value says nothing of its own layout: the reader asks for the fields that
//! the writer wrote, in their order, and the version byte tells an old layout from a new one.
//!
//! The bytes are those of bincode 2 with its standard configuration, which is why they are pinned by tests. This
//! module is the only one that knows of it.

use bincode::{
    BorrowDecode, Encode,
    config::{self, Configuration},
    enc::{EncoderImpl, write::Writer},
    error::{DecodeError, EncodeError},
};

const CONFIG: Configuration = config::standard();

/// Why bytes are not the value that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The value ends before its last field.
    #[error("the value ends within a field")]
    Truncated,
    /// The value goes on behind its last field.
    #[error("the value has {0} bytes behind its last field")]
    Trailing(usize),
    /// The value was written in a version that the reader does not know.
    #[error("the value has version {found}, known is version {expected}")]
    Version {
        /// The value's version.
        found: u8,
        /// The version that was asked for.
        expected: u8,
    },
    /// A field holds what its type cannot.
    #[error("a field of the value is not valid: {0}")]
    Invalid(String),
}

/// Writes the fields of a value into a buffer that is used again and again.
#[derive(Debug)]
pub struct ValueWriter<'a> {
    buffer: &'a mut Vec<u8>,
}

struct VecWriter<'a>(&'a mut Vec<u8>);

impl Writer for VecWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

impl<'a> ValueWriter<'a> {
    /// Starts a value: empties the buffer and writes the version.
    #[inline]
    pub fn new(buffer: &'a mut Vec<u8>, version: u8) -> Self {
        buffer.clear();
        buffer.push(version);
        Self { buffer }
    }

    #[inline]
    fn put(&mut self, field: impl Encode) -> &mut Self {
        // Neither the writer nor the encoding of a number or a byte string can fail.
        let _: Result<(), EncodeError> = field.encode(&mut EncoderImpl::new(VecWriter(self.buffer), CONFIG));
        self
    }

    /// Writes one byte.
    #[inline]
    pub fn put_u8(&mut self, field: u8) -> &mut Self {
        self.put(field)
    }

    /// Writes a truth value.
    #[inline]
    pub fn put_bool(&mut self, field: bool) -> &mut Self {
        self.put(field)
    }

    /// Writes a 32-bit integer.
    #[inline]
    pub fn put_i32(&mut self, field: i32) -> &mut Self {
        self.put(field)
    }

    /// Writes a 64-bit integer.
    #[inline]
    pub fn put_i64(&mut self, field: i64) -> &mut Self {
        self.put(field)
    }

    /// Writes a 128-bit integer.
    #[inline]
    pub fn put_i128(&mut self, field: i128) -> &mut Self {
        self.put(field)
    }

    /// Writes an unsigned 64-bit integer.
    #[inline]
    pub fn put_u64(&mut self, field: u64) -> &mut Self {
        self.put(field)
    }

    /// Writes a 32-bit float, bit by bit.
    #[inline]
    pub fn put_f32(&mut self, field: f32) -> &mut Self {
        self.put(field)
    }

    /// Writes a 64-bit float, bit by bit.
    #[inline]
    pub fn put_f64(&mut self, field: f64) -> &mut Self {
        self.put(field)
    }

    /// Writes a byte string.
    #[inline]
    pub fn put_bytes(&mut self, field: &[u8]) -> &mut Self {
        self.put(field)
    }

    /// Writes a text.
    #[inline]
    pub fn put_str(&mut self, field: &str) -> &mut Self {
        self.put(field)
    }

    /// Writes whether an optional field follows.
    #[inline]
    pub fn put_option(&mut self, present: bool) -> &mut Self {
        self.put(present)
    }
}

/// Reads the fields of a value in the order they were written.
#[derive(Debug, Clone)]
pub struct ValueReader<'a> {
    rest: &'a [u8],
}

impl<'a> ValueReader<'a> {
    /// Starts to read a value of this version.
    ///
    /// # Errors
    /// If the value is empty or has another version.
    #[inline]
    pub fn new(value: &'a [u8], version: u8) -> Result<Self, ValueError> {
        match value.split_first() {
            Some((&found, rest)) if found == version => Ok(Self { rest }),
            Some((&found, _)) => Err(ValueError::Version { found, expected: version }),
            None => Err(ValueError::Truncated),
        }
    }

    #[inline]
    fn get<T: BorrowDecode<'a, ()>>(&mut self) -> Result<T, ValueError> {
        let (field, read) =
            bincode::borrow_decode_from_slice(self.rest, CONFIG).map_err(|error| match error {
                DecodeError::UnexpectedEnd { .. } => ValueError::Truncated,
                other => ValueError::Invalid(other.to_string()),
            })?;
        self.rest = self.rest.get(read..).unwrap_or_default();
        Ok(field)
    }

    /// Reads one byte.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_u8(&mut self) -> Result<u8, ValueError> {
        self.get()
    }

    /// Reads a truth value.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_bool(&mut self) -> Result<bool, ValueError> {
        self.get()
    }

    /// Reads a 32-bit integer.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_i32(&mut self) -> Result<i32, ValueError> {
        self.get()
    }

    /// Reads a 64-bit integer.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_i64(&mut self) -> Result<i64, ValueError> {
        self.get()
    }

    /// Reads a 128-bit integer.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_i128(&mut self) -> Result<i128, ValueError> {
        self.get()
    }

    /// Reads an unsigned 64-bit integer.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_u64(&mut self) -> Result<u64, ValueError> {
        self.get()
    }

    /// Reads a 32-bit float.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_f32(&mut self) -> Result<f32, ValueError> {
        self.get()
    }

    /// Reads a 64-bit float.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_f64(&mut self) -> Result<f64, ValueError> {
        self.get()
    }

    /// Reads a byte string.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_bytes(&mut self) -> Result<&'a [u8], ValueError> {
        self.get()
    }

    /// Reads a text.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_str(&mut self) -> Result<&'a str, ValueError> {
        self.get()
    }

    /// Reads whether an optional field follows.
    ///
    /// # Errors
    /// If the value ends before, or does not hold one here.
    #[inline]
    pub fn get_option(&mut self) -> Result<bool, ValueError> {
        self.get()
    }

    /// Whether every field was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Ends reading.
    ///
    /// # Errors
    /// If there is more than was read.
    #[inline]
    pub fn finish(self) -> Result<(), ValueError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ValueError::Trailing(self.rest.len())) }
    }
}
