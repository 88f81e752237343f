//! The tar format of `pg_dump` (`-Ft`), read while it passes by.
//!
//! PostgreSQL sources: `pg_backup_tar.c`, `tar.c`. A ustar archive: `toc.dat` first, then a file for the rows of each
//! table, large objects and the lists of them, `restore.sql`, and two blocks of zeros, after which nothing comes. Nothing
//! is compressed. The table of contents gives a list of large objects the name of a table's file; the file itself is
//! called as in a directory.

use super::member::Member;
use super::members::{LargeObjectList, Members};
use super::toc::{DumpId, TocEntry};
use super::toc_file::{TocFile, TocFileReader};
use super::{Archive, damaged, failed_before};
use crate::error::{Error, Result};

const BLOCK_BYTES: usize = 512;

/// The script that restores with `psql`, which `pg_dump` puts behind everything else.
const SCRIPT: &str = "restore.sql";

/// Reads an archive that is pushed through it.
#[derive(Debug)]
pub struct TarReader {
    state: State,
    /// A header, or zeros, of which the first bytes have come.
    block: Vec<u8>,
    front: Front,
    members: Members,
    has_script: bool,
    offset: u64,
}

#[derive(Debug)]
enum State {
    Header,
    Content {
        file: File,
        left_bytes: u64,
        size_bytes: u64,
    },
    Padding {
        left_bytes: u64,
    },
    /// One block of zeros has come.
    Ending,
    Ended,
    Failed,
}

#[derive(Debug)]
enum Front {
    Reading(Box<TocFileReader>),
    Read(Box<TocFile>),
}

/// What a file of the archive is read as.
#[derive(Debug)]
enum File {
    Toc,
    List(Member, LargeObjectList),
    Passing(Member),
    Script,
}

impl Default for TarReader {
    fn default() -> Self {
        Self::new()
    }
}

impl TarReader {
    pub fn new() -> Self {
        Self {
            state: State::Header,
            block: Vec::with_capacity(BLOCK_BYTES),
            front: Front::Reading(Box::default()),
            members: Members::default(),
            has_script: false,
            offset: 0,
        }
    }

    /// Takes the next bytes. An error is final.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let before = bytes.len();
            self.state = match std::mem::replace(&mut self.state, State::Failed) {
                State::Header => self.header(&mut bytes)?,
                State::Content { file, left_bytes, size_bytes } => {
                    self.content(file, left_bytes, size_bytes, &mut bytes)?
                }
                State::Padding { left_bytes } => match left_bytes - take(&mut bytes, left_bytes).len() as u64 {
                    0 => State::Header,
                    left_bytes => State::Padding { left_bytes },
                },
                State::Ending => self.ending(&mut bytes)?,
                State::Ended => return Err(self.wrong("something follows the end of the archive")),
                State::Failed => return Err(failed_before()),
            };
            self.offset += (before - bytes.len()) as u64;
        }
        Ok(())
    }

    /// The entry whose data are passing by.
    pub fn current(&self) -> Option<&TocEntry> {
        match (&self.state, &self.front) {
            (State::Content { file: File::Passing(Member::Data(id)), .. }, Front::Read(front)) => {
                DumpId::new(i64::from(*id)).and_then(|id| front.toc.get(id))
            }
            _ => None,
        }
    }

    /// Proves that the archive was complete.
    pub fn finish(self) -> Result<Archive> {
        let early = |what: &str| damaged(self.offset, format!("the archive ends early, {what}"));
        match self.state {
            State::Ended => {}
            State::Failed => return Err(failed_before()),
            State::Content { file, .. } => return Err(early(&format!("inside {}", name(&file)))),
            State::Header if self.block.is_empty() => return Err(early("without its last blocks")),
            State::Header | State::Padding { .. } | State::Ending => return Err(early("inside a block")),
        }
        let Front::Read(front) = self.front else { return Err(early("before toc.dat")) };
        if !self.has_script {
            return Err(damaged(self.offset, format!("there is no {SCRIPT}")));
        }
        let front = with_names_of_lists(*front);
        Ok(Archive { size_bytes: self.offset, ..self.members.finish(front)? })
    }

    /// Collects a block; `None` until it is whole.
    fn whole_block(&mut self, bytes: &mut &[u8]) -> Option<[u8; BLOCK_BYTES]> {
        let missing = BLOCK_BYTES - self.block.len();
        self.block.extend_from_slice(take(bytes, missing as u64));
        let block = self.block.as_slice().try_into().ok()?;
        self.block.clear();
        Some(block)
    }

    fn header(&mut self, bytes: &mut &[u8]) -> Result<State> {
        let Some(block) = self.whole_block(bytes) else { return Ok(State::Header) };
        if block == [0; BLOCK_BYTES] {
            return Ok(State::Ending);
        }
        let (name, size_bytes) = parse(&block).map_err(|why| self.wrong(why))?;
        let file = self.file(name)?;
        if size_bytes == 0 {
            return self.end(file, 0);
        }
        Ok(State::Content { file, left_bytes: size_bytes, size_bytes })
    }

    fn file(&self, name: &str) -> Result<File> {
        match (&self.front, name.parse()) {
            (Front::Reading(_), Ok(Member::Toc)) => Ok(File::Toc),
            (Front::Reading(_), _) => Err(self.wrong(&format!("the first file is {name:?}, not toc.dat"))),
            _ if self.has_script => Err(self.wrong(&format!("{name:?} follows {SCRIPT}"))),
            (Front::Read(_), Ok(list @ Member::LargeObjects(_))) => Ok(File::List(list, LargeObjectList::default())),
            (Front::Read(_), Ok(member @ (Member::Data(_) | Member::LargeObject(_)))) => Ok(File::Passing(member)),
            (Front::Read(_), Err(_)) if name == SCRIPT => Ok(File::Script),
            _ => Err(self.wrong(&format!("a file {name:?}"))),
        }
    }

    fn content(&mut self, mut file: File, left_bytes: u64, size_bytes: u64, bytes: &mut &[u8]) -> Result<State> {
        let here = take(bytes, left_bytes);
        match (&mut file, &mut self.front) {
            (File::Toc, Front::Reading(reader)) => reader.push(here)?,
            (File::List(_, list), _) => list.push(here)?,
            _ => {}
        }
        match left_bytes - here.len() as u64 {
            0 => self.end(file, size_bytes),
            left_bytes => Ok(State::Content { file, left_bytes, size_bytes }),
        }
    }

    fn end(&mut self, file: File, size_bytes: u64) -> Result<State> {
        let member = match file {
            File::Toc => {
                if let Front::Reading(reader) = &mut self.front {
                    self.front = Front::Read(Box::new(std::mem::take(reader).finish()?));
                }
                Member::Toc
            }
            File::List(member, list) => {
                self.members.listed(list)?;
                member
            }
            File::Passing(member) => member,
            File::Script => {
                self.has_script = true;
                return Ok(padding(size_bytes));
            }
        };
        self.members.saw(member, size_bytes)?;
        Ok(padding(size_bytes))
    }

    fn ending(&mut self, bytes: &mut &[u8]) -> Result<State> {
        match self.whole_block(bytes) {
            None => Ok(State::Ending),
            Some(block) if block == [0; BLOCK_BYTES] => Ok(State::Ended),
            Some(_) => Err(self.wrong("a block of zeros is followed by something else")),
        }
    }

    fn wrong(&self, why: &str) -> Error {
        damaged(self.offset, why.to_owned())
    }
}

fn take<'a>(bytes: &mut &'a [u8], most_bytes: u64) -> &'a [u8] {
    let (taken, rest) = bytes.split_at((bytes.len() as u64).min(most_bytes) as usize);
    *bytes = rest;
    taken
}

fn padding(size_bytes: u64) -> State {
    match size_bytes.next_multiple_of(BLOCK_BYTES as u64) - size_bytes {
        0 => State::Header,
        left_bytes => State::Padding { left_bytes },
    }
}

fn name(file: &File) -> String {
    match file {
        File::Toc => Member::Toc.to_string(),
        File::List(member, _) | File::Passing(member) => member.to_string(),
        File::Script => SCRIPT.to_owned(),
    }
}

fn with_names_of_lists(front: TocFile) -> TocFile {
    let TocFile { header, mut toc } = front;
    toc.name_lists(header.version.has_several_lists());
    TocFile { header, toc }
}

/// Name and size that a header says, once its checksum holds.
fn parse(block: &[u8; BLOCK_BYTES]) -> Result<(&str, u64), &'static str> {
    let sum: u64 =
        block.iter().enumerate().map(|(at, &byte)| u64::from(if is_checksum(at) { b' ' } else { byte })).sum();
    if number(&block[148..156]) != Some(sum) {
        return Err("the checksum of a header is wrong");
    }
    // pg_dump writes files and nothing else, and names that are short.
    if block[156] != b'0' || &block[257..262] != b"ustar" || block[345] != 0 {
        return Err("a header that pg_dump does not write");
    }
    let name = block[..100].split(|&byte| byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| "a name that is not text")?;
    // A sum of offsets must not overflow.
    let size_bytes =
        number(&block[124..136]).filter(|&size| size <= i64::MAX as u64).ok_or("a size that is no number")?;
    Ok((name, size_bytes))
}

fn is_checksum(at: usize) -> bool {
    (148..156).contains(&at)
}

/// Octal digits; above 8 GiB a bit and a number of base 256.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, digits @ ..] = field {
        return digits.iter().try_fold(0_u64, |number, &byte| Some(number.checked_mul(256)? | u64::from(byte)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(|c| c == ' ' || c == '\0');
    u64::from_str_radix(text, 8).ok().filter(|_| !text.starts_with('+'))
}
