//! What `pg_dump` compressed inside an archive, decoded as it passes by and thrown away: proof that it can be.
//!
//! The data of each table and of each large object are a stream of their own: zlib for "gzip", one frame for zstd.
//! Which bytes of it lie in which chunk says nothing. Data of length zero may have no stream at all.

use std::fmt::Display;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, ResetDirective, get_error_name};

use super::head::ArchiveCompression;
use crate::error::{Error, Kind};

/// Plain bytes that are decoded at once.
const PIECE_BYTES: usize = 64 << 10;

/// Decodes one stream after the other.
pub(super) struct Inside {
    codec: Codec,
    state: State,
    piece: Vec<u8>,
}

enum Codec {
    /// Nothing to decode, or nothing that this program decodes.
    None,
    Gzip(Decompress),
    Zstd(DCtx<'static>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty,
    Open,
    Ended,
}

/// How much of the input was used, and whether the stream has ended.
struct Step {
    used: usize,
    written: usize,
    ended: bool,
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inside").field("decodes", &self.decodes()).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Inside {
    pub(super) fn new(compression: ArchiveCompression) -> Result<Self, Error> {
        let codec = match compression {
            ArchiveCompression::None | ArchiveCompression::Lz4 => Codec::None,
            ArchiveCompression::Gzip => Codec::Gzip(Decompress::new(true)),
            ArchiveCompression::Zstd => Codec::Zstd(DCtx::try_create().ok_or_else(no_memory)?),
        };
        let piece = if matches!(codec, Codec::None) { Vec::new() } else { vec![0; PIECE_BYTES] };
        Ok(Self { codec, state: State::Empty, piece })
    }

    pub(super) fn decodes(&self) -> bool {
        !matches!(self.codec, Codec::None)
    }

    /// Takes the next bytes of a stream. The error says what is wrong with them.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        if !self.decodes() {
            return Ok(());
        }
        while !bytes.is_empty() {
            if self.state == State::Ended {
                return Err(format!("{} bytes follow the end of the compressed data", bytes.len()));
            }
            self.state = State::Open;
            let step = self.step(bytes)?;
            bytes = bytes.get(step.used..).unwrap_or_default();
            if step.ended {
                self.state = State::Ended;
            } else if step.used == 0 && step.written == 0 {
                return Err("the compressed data do not decode".to_owned());
            }
        }
        Ok(())
    }

    /// The stream has ended here; the next one begins.
    pub(super) fn end(&mut self) -> Result<(), String> {
        // The decoder may have taken everything and not given everything: a piece has an end.
        while self.state == State::Open {
            let step = self.step(&[])?;
            if step.ended {
                self.state = State::Ended;
            } else if step.written == 0 {
                return Err("the compressed data end early".to_owned());
            }
        }
        self.state = State::Empty;
        match &mut self.codec {
            Codec::None => {}
            Codec::Gzip(decoder) => decoder.reset(true),
            Codec::Zstd(decoder) => {
                decoder.reset(ResetDirective::SessionOnly).map_err(|code| broken(get_error_name(code)))?;
            }
        }
        Ok(())
    }

    fn step(&mut self, bytes: &[u8]) -> Result<Step, String> {
        match &mut self.codec {
            Codec::None => Ok(Step { used: bytes.len(), written: 0, ended: false }),
            Codec::Gzip(decoder) => {
                let (used, written) = (decoder.total_in(), decoder.total_out());
                let status = decoder.decompress(bytes, &mut self.piece, FlushDecompress::None).map_err(broken)?;
                Ok(Step {
                    used: (decoder.total_in() - used) as usize,
                    written: (decoder.total_out() - written) as usize,
                    ended: status == Status::StreamEnd,
                })
            }
            Codec::Zstd(decoder) => {
                let mut input = InBuffer::around(bytes);
                let mut output = OutBuffer::around(&mut self.piece[..]);
                let hint = decoder.decompress_stream(&mut output, &mut input);
                let hint = hint.map_err(|code| broken(get_error_name(code)))?;
                Ok(Step { used: input.pos(), written: output.pos(), ended: hint == 0 })
            }
        }
    }
}

fn no_memory() -> Error {
    Error::new(Kind::Unexpected, "allocate a zstd context").hint("free some memory")
}

fn broken(why: impl Display) -> String {
    format!("the compressed data do not decode: {why}")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn text() -> Vec<u8> {
        (0..60_000_u32).flat_map(|n| format!("{}\t{n}\n", n.wrapping_mul(2_654_435_761)).into_bytes()).collect()
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(plain: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(inside: &mut Inside, stream: &[u8], chunk_bytes: usize) -> Result<(), String> {
        stream.chunks(chunk_bytes).try_for_each(|chunk| inside.push(chunk))?;
        inside.end()
    }

    #[test]
    fn streams_decode_one_after_the_other_however_they_are_cut() {
        let bomb = vec![b' '; 5 << 20];
        for (compression, pack) in
            [(ArchiveCompression::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (ArchiveCompression::Zstd, zstd)]
        {
            let mut inside = Inside::new(compression).unwrap();
            for chunk_bytes in [1, 7, 4096, usize::MAX] {
                for plain in [&text()[..if chunk_bytes == 1 { 20_000 } else { 600_000 }], b"", b"x", &bomb] {
                    decode(&mut inside, &pack(plain), chunk_bytes).unwrap();
                }
                // No stream at all: an empty table of PostgreSQL 16 and newer.
                inside.end().unwrap();
            }
        }
    }

    #[test]
    fn a_stream_that_is_cut_flipped_or_followed_by_something_is_refused() {
        for (compression, stream) in
            [(ArchiveCompression::Gzip, gzip(&text())), (ArchiveCompression::Zstd, zstd(&text()))]
        {
            let refused = |stream: &[u8]| decode(&mut Inside::new(compression).unwrap(), stream, 4096).unwrap_err();
            for cut in [1, 2, 100, stream.len() / 2, stream.len() - 4, stream.len() - 1] {
                assert_eq!(refused(&stream[..cut]), "the compressed data end early", "{compression:?} {cut}");
            }
            for at in [0, 1, stream.len() / 2, stream.len() - 4, stream.len() - 1] {
                let mut flipped = stream.clone();
                flipped[at] ^= 4;
                let why = refused(&flipped);
                assert!(why.starts_with("the compressed data do not decode"), "{compression:?} {at}: {why}");
            }
            let why = refused(&[&stream[..], b"xy"].concat());
            assert_eq!(why, "2 bytes follow the end of the compressed data");
        }
    }

    #[test]
    fn what_is_not_compressed_or_not_known_passes() {
        for compression in [ArchiveCompression::None, ArchiveCompression::Lz4] {
            let mut inside = Inside::new(compression).unwrap();
            assert!(!inside.decodes());
            decode(&mut inside, b"anything", 3).unwrap();
        }
    }
}
