//! The data blocks: framing is followed and counted, contents pass by, decoded on the way where they are compressed.

use std::collections::HashSet;

use super::damaged;
use super::fields::decode_integer;
use super::inside::Inside;
use super::toc::{DumpId, Toc, TocEntry};
use crate::error::Result;

/// Lengths are C ints.
const LONGEST_CHUNK_BYTES: u32 = i32::MAX as u32;

/// The data of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataBlock {
    pub dump_id: DumpId,
    /// Where in the archive the block begins.
    pub offset: u64,
    /// Without the framing, as the archive holds them: compressed if the archive is.
    pub size_bytes: u64,
    /// How many large objects the block holds; none for a table.
    pub large_objects: u64,
}

/// Follows the blocks of an archive.
#[derive(Debug)]
pub(super) struct Blocks {
    state: State,
    inside: Box<Inside>,
    /// The beginning of a number that lies across two slices; at most a sign and eight bytes.
    partial: [u8; 9],
    partial_bytes: usize,
    integer_bytes: usize,
    /// Where the block that began last begins.
    block_offset: u64,
    /// Of the next byte of the archive.
    offset: u64,
    open: Option<OpenBlock>,
    seen: HashSet<DumpId>,
    blocks: Vec<DataBlock>,
    expected: usize,
}

#[derive(Clone, Copy, Debug)]
struct OpenBlock {
    block: DataBlock,
    kind: BlockKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockKind {
    Table,
    LargeObjects,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum State {
    BlockType,
    BlockId(BlockKind),
    LargeObject,
    ChunkLength,
    Chunk { left_bytes: u64 },
}

impl Blocks {
    pub(super) fn new(toc: &Toc, integer_bytes: usize, offset: u64, inside: Inside) -> Self {
        Self {
            state: State::BlockType,
            inside: Box::new(inside),
            partial: [0; 9],
            partial_bytes: 0,
            integer_bytes,
            block_offset: offset,
            offset,
            open: None,
            seen: HashSet::new(),
            blocks: Vec::new(),
            expected: toc.entries().iter().filter(|entry| entry.has_data).count(),
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn current(&self) -> Option<DumpId> {
        self.open.map(|open| open.block.dump_id)
    }

    /// Gives back what lies behind the last block.
    pub(super) fn push<'a>(&mut self, toc: &Toc, mut bytes: &'a [u8]) -> Result<&'a [u8]> {
        while !bytes.is_empty() {
            let before = bytes.len();
            match self.state {
                State::Chunk { left_bytes } => self.pass(toc, left_bytes, &mut bytes)?,
                State::BlockType if self.blocks.len() == self.expected => break,
                State::BlockType => self.block_type(&mut bytes)?,
                State::BlockId(kind) => {
                    if let Some(number) = self.integer(&mut bytes)? {
                        self.begin(toc, kind, number)?;
                    }
                }
                State::LargeObject => {
                    if let Some(oid) = self.integer(&mut bytes)? {
                        self.large_object(oid);
                    }
                }
                State::ChunkLength => {
                    self.whole_chunks(toc, &mut bytes)?;
                    if let Some(length) = self.integer(&mut bytes)? {
                        self.chunk(toc, length)?;
                    }
                }
            }
            self.offset += (before - bytes.len()) as u64;
        }
        Ok(bytes)
    }

    pub(super) fn finish(self, toc: &Toc) -> Result<Vec<DataBlock>> {
        let missing = toc.entries().iter().filter(|entry| entry.has_data && !self.seen.contains(&entry.dump_id));
        if let Some(entry) = self.open.and_then(|open| toc.get(open.block.dump_id)) {
            let why = format!("data of {entry} are cut off: the archive ends early{}", and_more(missing.count()));
            return Err(damaged(self.offset, why));
        }
        let missing: Vec<&TocEntry> = missing.collect();
        if let [entry, rest @ ..] = &missing[..] {
            let why = format!("data of {entry} are missing: the archive ends early{}", and_more(rest.len()));
            return Err(damaged(self.offset, why));
        }
        match self.state {
            State::BlockType => Ok(self.blocks),
            _ => Err(damaged(self.offset, "the archive ends early, inside the beginning of a block")),
        }
    }

    /// Chunks that lie in `bytes` whole: the way of nearly all data, one row of a table each.
    fn whole_chunks(&mut self, toc: &Toc, bytes: &mut &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if self.integer_bytes != 4 || self.partial_bytes != 0 {
            return Ok(());
        }
        let mut rest = *bytes;
        while let Some((&[0, a, b, c, d], after)) = rest.split_first_chunk::<5>() {
            let length = u32::from_le_bytes([a, b, c, d]);
            // Length 0 ends the data; what is split over two slices is for the careful way.
            let fits = (1..=LONGEST_CHUNK_BYTES).contains(&length);
            let Some((chunk, after)) = after.split_at_checked(length as usize).filter(|_| fits) else { break };
            if self.inside.decodes() {
                let offset = self.offset + (bytes.len() - rest.len()) as u64;
                self.inside.push(chunk).map_err(|why| broken(offset, toc, open.block.dump_id, &why))?;
            }
            open.block.size_bytes += u64::from(length);
            rest = after;
        }
        *bytes = rest;
        Ok(())
    }

    fn pass(&mut self, toc: &Toc, left_bytes: u64, bytes: &mut &[u8]) -> Result<()> {
        let here = left_bytes.min(bytes.len() as u64);
        let (passing, rest) = bytes.split_at(here as usize);
        *bytes = rest;
        if let Some(open) = &mut self.open {
            self.inside.push(passing).map_err(|why| broken(self.offset, toc, open.block.dump_id, &why))?;
            open.block.size_bytes += here;
        }
        self.state = match left_bytes - here {
            0 => State::ChunkLength,
            left_bytes => State::Chunk { left_bytes },
        };
        Ok(())
    }

    fn integer(&mut self, bytes: &mut &[u8]) -> Result<Option<i64>> {
        let wanted = self.integer_bytes + 1;
        while self.partial_bytes < wanted {
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(None) };
            self.partial[self.partial_bytes] = byte;
            self.partial_bytes += 1;
            *bytes = rest;
        }
        self.partial_bytes = 0;
        match decode_integer(&self.partial[..wanted]) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong("this is not an integer")),
        }
    }

    fn block_type(&mut self, bytes: &mut &[u8]) -> Result<()> {
        let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
        *bytes = rest;
        self.block_offset = self.offset;
        self.state = State::BlockId(match byte {
            1 => BlockKind::Table,
            3 => BlockKind::LargeObjects,
            other => return Err(self.wrong(&format!("a block of type {other}"))),
        });
        Ok(())
    }

    fn begin(&mut self, toc: &Toc, kind: BlockKind, number: i64) -> Result<()> {
        let entry = DumpId::new(number).and_then(|id| toc.get(id)).filter(|entry| entry.has_data);
        let Some(entry) = entry else {
            return Err(
                self.wrong(&format!("a block of dump id {number}, which the table of contents has no data for"))
            );
        };
        let named = if &*entry.desc == "BLOBS" { BlockKind::LargeObjects } else { BlockKind::Table };
        if kind != named {
            return Err(self.wrong(&format!("the block of {entry} is of the wrong type")));
        }
        if !self.seen.insert(entry.dump_id) {
            return Err(self.wrong(&format!("a second block of {entry}")));
        }
        let block = DataBlock { dump_id: entry.dump_id, offset: self.block_offset, size_bytes: 0, large_objects: 0 };
        self.open = Some(OpenBlock { block, kind });
        self.state = match kind {
            BlockKind::Table => State::ChunkLength,
            BlockKind::LargeObjects => State::LargeObject,
        };
        Ok(())
    }

    /// Object ids above 2^31 are written as negative numbers.
    fn large_object(&mut self, oid: i64) {
        if oid == 0 {
            return self.close();
        }
        if let Some(open) = &mut self.open {
            open.block.large_objects += 1;
        }
        self.state = State::ChunkLength;
    }

    fn chunk(&mut self, toc: &Toc, length: i64) -> Result<()> {
        if length == 0
            && let Some(open) = self.open
        {
            self.inside.end().map_err(|why| broken(self.offset, toc, open.block.dump_id, &why))?;
        }
        match (length, self.open.map(|open| open.kind)) {
            (0, Some(BlockKind::LargeObjects)) => self.state = State::LargeObject,
            (0, _) => self.close(),
            (1.., _) if length <= i64::from(LONGEST_CHUNK_BYTES) => {
                self.state = State::Chunk { left_bytes: length.unsigned_abs() }
            }
            _ => return Err(self.wrong(&format!("a chunk of {length} bytes"))),
        }
        Ok(())
    }

    fn close(&mut self) {
        self.blocks.extend(self.open.take().map(|open| open.block));
        self.state = State::BlockType;
    }

    /// `offset` is that of the slice's part in work: near enough to find the place.
    fn wrong(&self, why: &str) -> crate::error::Error {
        damaged(self.offset, why)
    }
}

/// The framing is right and what it frames is not.
fn broken(offset: u64, toc: &Toc, dump_id: DumpId, why: &str) -> crate::error::Error {
    let what = toc.get(dump_id).map(|entry| entry.to_string()).unwrap_or_default();
    damaged(offset, format!("data of {what}: {why}"))
}

fn and_more(others: usize) -> String {
    match others {
        0 => String::new(),
        others => format!(", and data of {others} more entries are missing"),
    }
}
