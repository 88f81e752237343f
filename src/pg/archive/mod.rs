//! What `pg_dump` writes, read while it passes by: here the custom format (`-Fc`), beside it the others. [`TarReader`] and
//! [`Members`] are for archives of several files, [`ScriptReader`] is for SQL, [`StreamReader`] for whichever it is.
//!
//! [`ArchiveReader`] is fed with the bytes of an archive in slices of any size. It keeps the header and the table of
//! contents, counts the data, and at the end proves that the archive is complete: a table of contents lies at the
//! front, so a dump that lost its second half still lists every table.
//!
//! Layout (PostgreSQL sources: `pg_backup_archiver.c`, `pg_backup_custom.c`), archive versions 1.12 (PostgreSQL 9.0) to
//! 1.16 (17 and 18): header, number of entries, entries, then one block for each entry with data. Integers are a sign
//! byte and little-endian bytes; strings are a length and bytes, with length -1 for NULL. A block is a type byte, a
//! dump id and chunks that each begin with their length, ended by length 0; the block of large objects is a sequence of
//! object id and chunks, ended by id 0. Chunks are framed alike with every compression; with one, they hold compressed
//! bytes, which are decoded and thrown away to see that they can be (all but lz4).
//!
//! `pg_dump` goes back to fill in where each block lies, which a pipe does not allow. From version 16 on it opens its
//! standard output for appending: in an archive made with `pg_dump -Fc > file` that second table of contents stands
//! behind the data. `pg_restore` never looks there; here it must repeat the first one.
//!
//! An archive is untrusted input: nothing is allocated by a length that it names before the bytes have arrived, what is
//! kept is bounded, and no input makes this panic.

mod data;
mod fields;
mod front;
mod head;
mod inside;
mod member;
mod members;
mod roles;
mod script;
mod stream;
mod tar;
mod toc;
mod toc_file;

use data::Blocks;
use fields::{Fields, Stop};
use head::{Data, HeadReader};
use inside::Inside;
use toc::TocReader;

pub use data::DataBlock;
pub use front::{Front, FrontEntry, FrontFormat, RoleUses};
pub use head::{ArchiveCompression, ArchiveHeader, ArchiveVersion};
pub use member::{Member, NoMember};
pub use members::{LargeObjectList, Members};
pub use script::{Script, ScriptReader};
pub use stream::{Content, StreamReader};
pub use tar::TarReader;
pub use toc::{CatalogId, DumpId, Section, Toc, TocEntry};
pub use toc_file::{TocFile, TocFileReader};

use crate::error::{Error, Kind, Result};

/// Reads an archive that is pushed through it.
#[derive(Debug)]
pub struct ArchiveReader {
    state: State,
    header: Option<ArchiveHeader>,
    toc: Option<Toc>,
    size_bytes: u64,
}

/// An archive that is complete.
#[derive(Debug)]
pub struct Archive {
    pub header: ArchiveHeader,
    pub toc: Toc,
    /// In archive order, one for each entry with data; none where data lie in files.
    pub blocks: Vec<DataBlock>,
    /// Of the whole archive.
    pub size_bytes: u64,
}

impl Archive {
    /// What `pg_dump` would have written had it not written to a pipe, at which place of the archive: for each entry
    /// with data, where its block begins. Without it every worker of a parallel `pg_restore` reads all that lies before
    /// a table, row by row. (PostgreSQL sources: `WriteOffset` in `pg_backup_archiver.c`.)
    pub fn places(&self) -> impl Iterator<Item = (u64, [u8; 9])> {
        self.blocks.iter().filter_map(|block| Some((self.toc.place(block.dump_id)?, Self::known_place(block.offset))))
    }

    /// An offset as an entry has it.
    pub fn known_place(offset: u64) -> [u8; 9] {
        const KNOWN: u8 = 2;
        let mut known = [KNOWN; 9];
        known[1..].copy_from_slice(&offset.to_le_bytes());
        known
    }
}

#[derive(Debug)]
enum State {
    Head(Fields, HeadReader),
    Toc(Fields, TocReader),
    Data(Fields, Blocks),
    Repeated(Fields, TocReader, Blocks),
    Done(Blocks),
    Failed,
}

impl Default for ArchiveReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ArchiveReader {
    pub fn new() -> Self {
        Self { state: State::Head(Fields::new(), HeadReader::default()), header: None, toc: None, size_bytes: 0 }
    }

    /// Takes the next bytes. An error is final: kind `Verification` where the archive is damaged, `NotVerified` where
    /// its version or format is not one that this program reads.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.size_bytes += bytes.len() as u64;
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Head(mut fields, head) => {
                fields.push(bytes);
                self.read_front(fields, head)
            }
            State::Toc(mut fields, toc) => {
                fields.push(bytes);
                self.read_toc(fields, toc)
            }
            State::Data(fields, blocks) => self.read_data(fields, blocks, bytes),
            State::Repeated(mut fields, reader, blocks) => {
                fields.push(bytes);
                self.read_repeated(fields, reader, blocks)
            }
            State::Done(blocks) if bytes.is_empty() => {
                self.state = State::Done(blocks);
                Ok(())
            }
            State::Done(blocks) => Err(surplus(&blocks)),
            State::Failed => Err(failed_before()),
        }
    }

    /// Once it was read.
    pub fn header(&self) -> Option<&ArchiveHeader> {
        self.header.as_ref()
    }

    /// Once it was read, which is before the first data.
    pub fn toc(&self) -> Option<&Toc> {
        self.toc.as_ref()
    }

    /// The entry whose data are passing by.
    pub fn current(&self) -> Option<&TocEntry> {
        match (&self.state, &self.toc) {
            (State::Data(_, blocks), Some(toc)) => blocks.current().and_then(|id| toc.get(id)),
            _ => None,
        }
    }

    /// Proves that the archive was complete: every entry with data had its block, the last one is closed, and nothing
    /// came after it. Otherwise an error of kind `Verification` that names what is missing.
    pub fn finish(self) -> Result<Archive> {
        match (self.state, self.header, self.toc) {
            (State::Data(_, blocks) | State::Done(blocks), Some(header), Some(toc)) => {
                let blocks = blocks.finish(&toc)?;
                Ok(Archive { header, toc, blocks, size_bytes: self.size_bytes })
            }
            (State::Repeated(_, _, blocks), ..) => Err(surplus(&blocks)),
            (State::Head(fields, _), ..) => {
                Err(damaged(fields.offset_of_end(), "the archive ends early, inside its header"))
            }
            (State::Toc(fields, toc), ..) => Err(damaged(
                fields.offset_of_end(),
                format!("the archive ends early, inside its table of contents: {}", toc.progress()),
            )),
            _ => Err(failed_before()),
        }
    }

    fn read_front(&mut self, mut fields: Fields, mut head: HeadReader) -> Result<()> {
        match head.read(&mut fields) {
            Ok(header) => {
                let toc = TocReader::new(header.version, Data::InBlocks);
                self.header = Some(header);
                self.read_toc(fields, toc)
            }
            Err(Stop::NeedsMore) => {
                self.state = State::Head(fields, head);
                Ok(())
            }
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn read_toc(&mut self, mut fields: Fields, mut reader: TocReader) -> Result<()> {
        match reader.read(&mut fields) {
            Ok(toc) => {
                let Some(header) = &self.header else { return Err(failed_before()) };
                let inside = Inside::new(header.compression)?;
                let blocks = Blocks::new(&toc, fields.integer_bytes(), fields.offset(), inside);
                self.toc = Some(toc);
                let rest = fields.take_rest();
                self.read_data(fields, blocks, &rest)
            }
            Err(Stop::NeedsMore) => {
                self.state = State::Toc(fields, reader);
                Ok(())
            }
            Err(Stop::Failed(error)) => Err(error),
        }
    }
    fn read_data(&mut self, fields: Fields, mut blocks: Blocks, bytes: &[u8]) -> Result<()> {
        let (Some(header), Some(toc)) = (&self.header, &self.toc) else { return Err(failed_before()) };
        let behind = blocks.push(toc, bytes)?;
        if behind.is_empty() {
            self.state = State::Data(fields, blocks);
            return Ok(());
        }
        if !header.version.may_repeat_toc() {
            return Err(surplus(&blocks));
        }
        let reader = TocReader::new(header.version, Data::InBlocks);
        let mut fields = fields.continued_at(blocks.offset());
        fields.push(behind);
        self.read_repeated(fields, reader, blocks)
    }

    fn read_repeated(&mut self, mut fields: Fields, mut reader: TocReader, blocks: Blocks) -> Result<()> {
        match reader.read(&mut fields) {
            Ok(repeated) if self.toc.as_ref() == Some(&repeated) && fields.rest().is_empty() => {
                self.state = State::Done(blocks);
                Ok(())
            }
            Err(Stop::NeedsMore) => {
                self.state = State::Repeated(fields, reader, blocks);
                Ok(())
            }
            Ok(_) | Err(Stop::Failed(_)) => Err(surplus(&blocks)),
        }
    }
}

/// The archive is not what `pg_dump` writes, seen at byte `offset` of it.
fn damaged(offset: u64, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Verification, format!("read the archive at byte {offset}"))
        .because(why)
        .hint("this archive cannot be restored whole: make a new dump, or use another copy")
}

/// Something that is not a repeated table of contents stands behind the data.
fn surplus(blocks: &Blocks) -> Error {
    damaged(blocks.offset(), "something follows the last block")
}

fn failed_before() -> Error {
    Error::new(Kind::Unexpected, "read the archive: an earlier part of it could not be read")
}
