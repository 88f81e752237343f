//! Bytes in motion: compression in blocks on several threads, each block proven by decoding it again.
//!
//! A compressed stream is a sequence of independent zstd frames, each with its plain size in the header and a checksum
//! at its end: `zstd -d` reads it, and several threads can decode it. Work runs on plain threads behind bounded
//! channels, so memory has a ceiling, whatever the length of the stream:
//!
//! ```text
//! input -> reader -> workers -> collector -> Compressor::next      (fingerprints before and after)
//! input -> reader -> Compressor::next                              (a stream that is stored as it comes)
//! Decompressor::push -> splitter -> workers -> writer -> output    (fingerprints before and after)
//!                    -> writer -> output                           (a stream that is not compressed)
//! Cipher::push -> cipher -> Cipher::push, rest                     (encryption after, decryption before; a fingerprint)
//! ```
//!
//! A stream that broke never looks like one that ended: the end is only ever reported together with the totals.

mod age_file;
mod codec;
mod compress;
mod decompress;
mod encrypt;
mod frame;
mod identities;
mod recipients;
mod split;
mod threads;

use std::num::NonZeroUsize;

pub use age_file::check as check_age_file;
pub use compress::{Compressed, Compressor, compress, relay};
pub use decompress::{Decompressed, Decompressor, decompress, pass};
pub use encrypt::{Cipher, decrypt, encrypt, room, seal, seal_text, unseal};
pub use identities::Identities;
pub use recipients::Recipients;

use crate::error::Result;

/// Plain bytes in one frame: twice the window of level 3. Rows of text and JSON take as little as in one endless frame;
/// very repetitive data take 3 % more, where frames of 2 MiB would cost 8 % and frames of 8 MiB still 1 %.
const BLOCK_BYTES: usize = 4 << 20;

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// As `zstd` counts them: 1 (fast) to 22 (small); above 19 every thread takes hundreds of megabytes.
    pub level: i32,
    /// Threads that compress and prove. Reading and sending have their own.
    pub threads: NonZeroUsize,
}

/// Sees every plain byte of a stream, in order, in slices of any size, before it is compressed.
pub trait Observer: Send {
    /// An error ends the stream.
    fn observe(&mut self, bytes: &[u8]) -> Result<()>;
}

/// Nobody looks.
impl Observer for () {
    fn observe(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }
}
