//! Integers and strings of the front of an archive, from bytes that arrive in slices of any size.

use super::damaged;
use crate::error::Error;

/// The longest string that is kept. Names have at most 63 bytes, but the tag of a function holds its argument types.
const LONGEST_TEXT_BYTES: usize = 1 << 20;

/// Why a field could not be read.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nothing was taken: ask again when more bytes have come.
    NeedsMore,
    Failed(Error),
}

/// Bytes in, fields out. Holds at most one slice and one kept string.
#[derive(Debug)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    /// How many of `bytes` were taken.
    taken: usize,
    /// Where `bytes` begins in the archive.
    base: u64,
    integer_bytes: usize,
    offset_bytes: usize,
    /// What is left of a string that is not kept.
    skipping: Option<u64>,
}

impl Fields {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), taken: 0, base: 0, integer_bytes: 4, offset_bytes: 8, skipping: None }
    }

    /// Of the same archive, further on.
    pub(super) fn continued_at(&self, offset: u64) -> Self {
        Self { base: offset, integer_bytes: self.integer_bytes, offset_bytes: self.offset_bytes, ..Self::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.base += self.taken as u64;
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn set_integer_bytes(&mut self, integer_bytes: usize) {
        self.integer_bytes = integer_bytes;
    }

    pub(super) fn offset_bytes(&self) -> usize {
        self.offset_bytes
    }

    pub(super) fn set_offset_bytes(&mut self, offset_bytes: usize) {
        self.offset_bytes = offset_bytes;
    }

    pub(super) fn integer_bytes(&self) -> usize {
        self.integer_bytes
    }

    /// Of the next byte to be taken.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.taken as u64
    }

    /// Of the end of what has arrived.
    pub(super) fn offset_of_end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// What was not taken.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// Frees the memory: what follows is not made of fields.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.rest().to_vec();
        self.base += self.bytes.len() as u64;
        self.bytes = Vec::new();
        self.taken = 0;
        rest
    }

    pub(super) fn fail(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Stop {
        Stop::Failed(damaged(self.offset(), why))
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], Stop> {
        let array = *self.rest().first_chunk().ok_or(Stop::NeedsMore)?;
        self.taken += COUNT;
        Ok(array)
    }

    pub(super) fn integer(&mut self) -> Result<i64, Stop> {
        let (number, bytes) = self.peek_integer()?;
        self.taken += bytes;
        Ok(number)
    }

    /// A string in the encoding of the database; what is not UTF-8 in it is replaced.
    pub(super) fn text(&mut self) -> Result<Option<String>, Stop> {
        let (length, head_bytes) = self.peek_integer()?;
        let Some(length) = self.length(length)? else {
            self.taken += head_bytes;
            return Ok(None);
        };
        if length > LONGEST_TEXT_BYTES as u64 {
            return Err(self.fail(format!("a name of {length} bytes")));
        }
        let text = self.rest().get(head_bytes..head_bytes + length as usize).ok_or(Stop::NeedsMore)?;
        let text = String::from_utf8_lossy(text).into_owned();
        self.taken += head_bytes + length as usize;
        Ok(Some(text))
    }

    /// Passes over a string of any length without keeping it.
    pub(super) fn skip_text(&mut self) -> Result<(), Stop> {
        let left = match self.skipping {
            Some(left) => left,
            None => {
                let length = self.integer()?;
                self.length(length)?.unwrap_or(0)
            }
        };
        let here = left.min(self.rest().len() as u64);
        self.taken += here as usize;
        self.skipping = (here < left).then_some(left - here);
        if self.skipping.is_some() { Err(Stop::NeedsMore) } else { Ok(()) }
    }

    /// The state of a data offset; the offset itself is unknown in an archive that went through a pipe.
    pub(super) fn offset_state(&mut self) -> Result<u8, Stop> {
        let bytes = self.rest().get(..=self.offset_bytes).ok_or(Stop::NeedsMore)?;
        let state = bytes[0];
        self.taken += bytes.len();
        Ok(state)
    }

    fn length(&self, length: i64) -> Result<Option<u64>, Stop> {
        match length {
            -1 => Ok(None),
            0..=0x7FFF_FFFF => Ok(Some(length as u64)),
            _ => Err(self.fail(format!("a string of {length} bytes"))),
        }
    }

    fn peek_integer(&self) -> Result<(i64, usize), Stop> {
        let bytes = self.rest().get(..=self.integer_bytes).ok_or(Stop::NeedsMore)?;
        let number = decode_integer(bytes).ok_or_else(|| self.fail("this is not an integer"))?;
        Ok((number, bytes.len()))
    }
}

/// A sign byte (1 is minus) and at most eight little-endian bytes. `None` for what `pg_dump` cannot have written.
pub(super) fn decode_integer(bytes: &[u8]) -> Option<i64> {
    let (&sign, digits) = bytes.split_first()?;
    let number = digits.iter().rev().try_fold(0_i64, |number, &byte| {
        // Values are C ints, whatever their width in the archive.
        (number <= 0xFF_FFFF).then(|| number << 8 | i64::from(byte))
    })?;
    match sign {
        0 => Some(number),
        1 => Some(-number),
        _ => None,
    }
}
