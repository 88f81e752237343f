//! Cuts a compressed stream into frames: small ones for the workers, whole; large ones decoded here, piece by piece.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, ResetDirective};

use super::BLOCK_BYTES;
use super::codec::{no_memory, reason};
use super::frame::{FrameHeader, FrameWalk};
use crate::error::{Error, Kind, Result};

/// Frames with more plain bytes than this, or that do not say how many, are decoded as a stream.
const WHOLE_FRAME_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// Plain bytes handed on at once when decoding as a stream.
const PIECE_BYTES: usize = 1 << 20;

/// What a stretch of the compressed stream became.
#[derive(Debug)]
pub(super) enum Part {
    /// A frame for a worker.
    Frame { offset: u64, frame: Bytes, content_bytes: usize },
    /// Decoded bytes.
    Plain(Vec<u8>),
}

/// Push compressed bytes in, take parts out; memory is bounded by [`WHOLE_FRAME_BYTES`] and the window of zstd.
pub(super) struct Splitter {
    state: State,
    /// Bytes that arrived and belong to no part yet.
    pending: BytesMut,
    /// Where `pending` begins in the compressed stream.
    offset: u64,
    /// Where the current frame begins.
    frame_offset: u64,
    /// Plain bytes of all parts so far.
    plain_bytes: u64,
    limit_bytes: Option<u64>,
    decoder: DCtx<'static>,
    parts: VecDeque<Part>,
}

enum State {
    Header,
    Whole { walk: FrameWalk, content_bytes: usize },
    Stream { piece: Vec<u8> },
    Skip { left_bytes: u64 },
}

/// Whether bytes were used up, so that it is worth looking again.
#[derive(PartialEq)]
enum Step {
    Forward,
    NeedsMore,
}

impl Splitter {
    pub(super) fn new(limit_bytes: Option<u64>) -> Result<Self> {
        Ok(Self {
            state: State::Header,
            pending: BytesMut::new(),
            offset: 0,
            frame_offset: 0,
            plain_bytes: 0,
            limit_bytes,
            decoder: DCtx::try_create().ok_or_else(no_memory)?,
            parts: VecDeque::new(),
        })
    }

    /// Takes the next compressed bytes; then [`Splitter::next_part`] until it gives none.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    pub(super) fn next_part(&mut self) -> Result<Option<Part>> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Ok(Some(part));
            }
            if self.step()? == Step::NeedsMore {
                return Ok(None);
            }
        }
    }

    /// Proves that the stream ended between two frames.
    pub(super) fn finish(&self) -> Result<()> {
        let end = self.offset + self.pending.len() as u64;
        match self.state {
            State::Header if end == 0 => Err(damaged(0, "the stream is empty")),
            State::Header if self.pending.is_empty() => Ok(()),
            _ => {
                let at = self.frame_offset;
                Err(damaged(end, format!("the stream ends inside the frame that begins at byte {at}")))
            }
        }
    }

    fn step(&mut self) -> Result<Step> {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Header => self.header(),
            State::Whole { walk, content_bytes } => self.whole(walk, content_bytes),
            State::Stream { piece } => self.stream(piece),
            State::Skip { left_bytes } => Ok(self.skip(left_bytes)),
        }
    }

    fn header(&mut self) -> Result<Step> {
        self.frame_offset = self.offset;
        if self.pending.is_empty() {
            return Ok(Step::NeedsMore);
        }
        let header = FrameHeader::parse(&self.pending).map_err(|error| damaged(self.offset, error))?;
        self.state = match header {
            None => return Ok(Step::NeedsMore),
            Some(FrameHeader::Skippable { size_bytes }) => State::Skip { left_bytes: size_bytes },
            Some(FrameHeader::Data { header_bytes, content_bytes: Some(content), checksum_bytes })
                if content <= WHOLE_FRAME_BYTES =>
            {
                self.count(content)?;
                let walk = FrameWalk::after_header(header_bytes, checksum_bytes);
                State::Whole { walk, content_bytes: content as usize }
            }
            Some(FrameHeader::Data { .. }) => self.begin_stream()?,
        };
        Ok(Step::Forward)
    }

    fn whole(&mut self, mut walk: FrameWalk, content_bytes: usize) -> Result<Step> {
        match walk.size(&self.pending).map_err(|error| damaged(self.offset, error))? {
            Some(size) => {
                let frame = self.pending.split_to(size).freeze();
                self.parts.push_back(Part::Frame { offset: self.offset, frame, content_bytes });
                self.offset += size as u64;
                Ok(Step::Forward)
            }
            // No encoder needs more than this; it keeps a forged frame of endless empty blocks out of memory.
            None if self.pending.len() > 2 * content_bytes + PIECE_BYTES => {
                Err(damaged(self.offset, "the frame is larger than its content allows"))
            }
            None => {
                self.state = State::Whole { walk, content_bytes };
                Ok(Step::NeedsMore)
            }
        }
    }

    fn begin_stream(&mut self) -> Result<State> {
        // The window stays within the library's default of 128 MiB, as with `zstd -d`.
        self.decoder.reset(ResetDirective::SessionOnly).map_err(|code| damaged(self.offset, reason(code)))?;
        Ok(State::Stream { piece: Vec::new() })
    }

    fn stream(&mut self, mut piece: Vec<u8>) -> Result<Step> {
        piece.reserve_exact(PIECE_BYTES.saturating_sub(piece.len()));
        let mut input = InBuffer::around(&self.pending);
        let before = piece.len();
        let hint = self
            .decoder
            .decompress_stream(&mut OutBuffer::around_pos(&mut piece, before), &mut input)
            .map_err(|code| damaged(self.offset, reason(code)))?;
        let used = input.pos();
        let written = piece.len() - before;
        self.pending.advance(used);
        self.offset += used as u64;
        self.count(written as u64)?;
        let full = piece.len() == piece.capacity();
        let ended = hint == 0;
        if (full || ended) && !piece.is_empty() {
            self.parts.push_back(Part::Plain(std::mem::take(&mut piece)));
        }
        if !ended {
            self.state = State::Stream { piece };
        }
        // A full piece may hide more output of the same input.
        Ok(if ended || full || (used > 0 && !self.pending.is_empty()) { Step::Forward } else { Step::NeedsMore })
    }

    fn skip(&mut self, left_bytes: u64) -> Step {
        let used = left_bytes.min(self.pending.len() as u64);
        self.pending.advance(used as usize);
        self.offset += used;
        if used == left_bytes {
            return Step::Forward;
        }
        self.state = State::Skip { left_bytes: left_bytes - used };
        Step::NeedsMore
    }

    /// Counts plain bytes before they take memory or reach the output.
    fn count(&mut self, plain_bytes: u64) -> Result<()> {
        self.plain_bytes = self.plain_bytes.saturating_add(plain_bytes);
        match self.limit_bytes {
            Some(limit) if self.plain_bytes > limit => {
                let at = self.frame_offset;
                Err(damaged(at, format!("the stream decodes to more than the {limit} bytes that were expected")))
            }
            _ => Ok(()),
        }
    }
}

/// The compressed stream is not what was written, seen at byte `offset` of it.
pub(super) fn damaged(offset: u64, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Verification, format!("decode the compressed stream at byte {offset}"))
        .because(why)
        .hint("the stored bytes are damaged: use another copy, or an older backup")
}
