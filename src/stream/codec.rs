//! One block to one zstd frame and back, with contexts and buffers that are used again for every block.

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, ErrorCode, compress_bound, get_error_name};

use crate::error::{Error, Kind, Result};

/// Compresses blocks and proves each by decoding it again.
pub(super) struct ProvingEncoder {
    encoder: CCtx<'static>,
    decoder: DCtx<'static>,
    frame: Vec<u8>,
    decoded: Vec<u8>,
}

impl ProvingEncoder {
    pub(super) fn new(level: i32) -> Result<Self> {
        let mut encoder = CCtx::try_create().ok_or_else(no_memory)?;
        for parameter in
            [CParameter::CompressionLevel(level), CParameter::ChecksumFlag(true), CParameter::ContentSizeFlag(true)]
        {
            encoder
                .set_parameter(parameter)
                .map_err(|code| Error::usage(format!("compress with zstd level {level}")).because(reason(code)))?;
        }
        let decoder = DCtx::try_create().ok_or_else(no_memory)?;
        Ok(Self { encoder, decoder, frame: Vec::new(), decoded: Vec::new() })
    }

    /// One frame that was decoded and compared with `plain`, which starts at `offset` of the stream.
    pub(super) fn encode(&mut self, plain: &[u8], offset: u64) -> Result<Bytes> {
        self.frame.clear();
        self.frame.reserve(compress_bound(plain.len()));
        self.encoder.compress2(&mut self.frame, plain).map_err(|code| {
            Error::new(Kind::Unexpected, format!("compress the block at byte {offset}")).because(reason(code))
        })?;
        self.prove(plain, offset)?;
        // The frame is a fraction of its buffer: a copy of its own size keeps what waits downstream small.
        Ok(Bytes::copy_from_slice(&self.frame))
    }

    fn prove(&mut self, plain: &[u8], offset: u64) -> Result<()> {
        self.decoded.clear();
        self.decoded.reserve(plain.len());
        match self.decoder.decompress(&mut self.decoded, &self.frame) {
            Ok(_) if self.decoded == plain => Ok(()),
            Ok(_) => Err(not_proven(offset)),
            Err(code) => Err(not_proven(offset).because(reason(code))),
        }
    }
}

fn not_proven(offset: u64) -> Error {
    Error::new(
        Kind::Verification,
        format!("prove the block at byte {offset}: the compressed block does not decode to what was compressed"),
    )
    .hint("suspect the memory or the processor of this host: test them, and back up from another one meanwhile")
}

pub(super) fn no_memory() -> Error {
    Error::new(Kind::Unexpected, "allocate a zstd context").hint("free some memory, or use fewer threads")
}

/// What zstd says of an error code.
pub(super) fn reason(code: ErrorCode) -> &'static str {
    get_error_name(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_decodes_to_something_else_is_not_proven() {
        let mut encoder = ProvingEncoder::new(3).unwrap();
        let plain = b"row\n".repeat(1000);
        encoder.encode(&plain, 0).unwrap();
        // What a flipped bit in the plain block would look like: the frame is sound, the block is another one.
        let mut other = plain.clone();
        other[17] ^= 1;
        let error = encoder.prove(&other, 4096).unwrap_err();
        assert_eq!(error.kind, Kind::Verification);
        assert!(error.to_string().starts_with("prove the block at byte 4096:"), "{error}");
        // And one in the frame.
        let middle = encoder.frame.len() / 2;
        encoder.frame[middle] ^= 1;
        assert_eq!(encoder.prove(&plain, 0).unwrap_err().kind, Kind::Verification);
    }

    #[test]
    fn frames_are_independent_sized_and_checksummed() {
        let mut encoder = ProvingEncoder::new(3).unwrap();
        let first = encoder.encode(&b"abc".repeat(100), 0).unwrap();
        let second = encoder.encode(b"", 300).unwrap();
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&first).unwrap(), Some(300));
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&second).unwrap(), Some(0));
        assert_eq!(first[4] & 0b100, 0b100, "checksum flag");
        assert_eq!(zstd::decode_all(&second[..]).unwrap(), b"");
    }
}
