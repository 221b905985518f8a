//! What Avro and Protobuf have in common: numbers of as many bytes as they need, seven bits in each, the lowest first.

use super::json_read::Fault;

/// A place in the bytes of a value.
pub(crate) struct Input<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
    /// What the bytes are, for whoever reads an error.
    of: &'static str,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8], of: &'static str) -> Self {
        Input { bytes, at: 0, of }
    }

    /// A part of the same value.
    pub(crate) fn part<'b>(&self, bytes: &'b [u8]) -> Input<'b> {
        Input::new(bytes, self.of)
    }

    #[cold]
    pub(crate) fn ended(&self) -> Fault {
        Fault::at(self.bytes.len(), format!("found the end of the bytes, expected more of the {}", self.of))
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.ended())?;
        self.at += count;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.ended())
    }

    /// A number of at most 64 bits.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Fault> {
        let mut number = 0u64;
        for shift in (0..70).step_by(7) {
            let Some(byte) = self.bytes.get(self.at) else { return Err(self.ended()) };
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Fault::at(self.at, "found a number of more than 64 bits"))
    }

    /// A number with a sign in its lowest bit.
    #[inline]
    pub(crate) fn zigzag(&mut self) -> Result<i64, Fault> {
        self.varint().map(|number| (number >> 1) as i64 ^ -((number & 1) as i64))
    }
}

#[inline]
pub(crate) fn write_varint(number: u64, out: &mut Vec<u8>) {
    let mut rest = number;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[inline]
pub(crate) fn write_zigzag(number: i64, out: &mut Vec<u8>) {
    write_varint(((number << 1) ^ (number >> 63)) as u64, out);
}
