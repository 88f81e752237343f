//! The front of an archive, whole in memory: what [`super::ArchiveReader`] passes over, the SQL of each entry, is kept
//! here, and roles can be given other names in it.
//!
//! The custom format begins with it; in a directory and in a tar file it is `toc.dat`. All three have the same header
//! and entries; only what follows an entry differs: an offset, or the name of a file. (PostgreSQL sources: `WriteHead`,
//! `WriteToc` in `pg_backup_archiver.c`, `_WriteExtraToc` of each format.)

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::fields::decode_integer;
use super::head::{ArchiveCompression, ArchiveHeader, ArchiveVersion, created};
use super::roles;
use super::toc::{CatalogId, DumpId, Section, TocEntry};
use crate::error::{Error, Kind, Result};

/// A front larger than this is refused. A database of 100,000 tables has some hundred megabytes.
const LARGEST_BYTES: usize = 1 << 30;

/// The format of the archive that a front belongs to, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontFormat {
    Custom = 1,
    Tar = 3,
    Directory = 5,
}

impl FrontFormat {
    fn of(number: u8) -> Option<Self> {
        [Self::Custom, Self::Tar, Self::Directory].into_iter().find(|format| *format as u8 == number)
    }

    /// As `pg_restore --list` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Custom => "CUSTOM",
            Self::Tar => "TAR",
            Self::Directory => "DIRECTORY",
        }
    }
}

/// Header and table of contents with their bytes.
#[derive(Debug)]
pub struct Front {
    pub header: ArchiveHeader,
    pub format: FrontFormat,
    pub integer_bytes: usize,
    pub offset_bytes: usize,
    entries: Vec<FrontEntry>,
    bytes: Vec<u8>,
    /// How many of `bytes` are the front; data may follow.
    length: usize,
}

/// An entry, and where in the front its parts stand.
#[derive(Debug)]
pub struct FrontEntry {
    pub entry: TocEntry,
    whole: Range<usize>,
    definition: Text,
    drop_statement: Text,
    owner: Text,
}

/// A string and its length before it.
#[derive(Clone, Debug)]
struct Text {
    /// With the length.
    whole: Range<usize>,
    /// `None` is NULL.
    text: Option<Range<usize>>,
}

/// What roles are in an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleUses {
    pub owners: BTreeSet<String>,
    /// Those who were given rights, gave them, or have default rights.
    pub privileges: BTreeSet<String>,
    /// Of policies and user mappings.
    pub others: BTreeSet<String>,
}

impl Front {
    /// Reads the front at the beginning of `bytes`; they come back if more of them are needed.
    pub fn read(bytes: Vec<u8>) -> Result<std::result::Result<Self, Vec<u8>>> {
        let mut cursor = Cursor { bytes: &bytes, at: 0, integer_bytes: 4, offset_bytes: 8 };
        match cursor.front() {
            Ok((header, format, entries)) => {
                let (length, integer_bytes, offset_bytes) = (cursor.at, cursor.integer_bytes, cursor.offset_bytes);
                Ok(Ok(Self { header, format, integer_bytes, offset_bytes, entries, bytes, length }))
            }
            Err(Stop::NeedsMore) if bytes.len() < LARGEST_BYTES => Ok(Err(bytes)),
            Err(Stop::NeedsMore) => Err(damaged(cursor.at, "the table of contents does not end")),
            Err(Stop::Wrong(why)) => Err(damaged(cursor.at, why)),
        }
    }

    pub fn entries(&self) -> &[FrontEntry] {
        &self.entries
    }

    /// The bytes of the front, and what followed it.
    pub fn split(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.length)
    }

    /// The SQL that makes what the entry is.
    pub fn definition(&self, entry: &FrontEntry) -> Option<&str> {
        self.text(&entry.definition)
    }

    fn text(&self, text: &Text) -> Option<&str> {
        std::str::from_utf8(self.bytes.get(text.text.clone()?)?).ok()
    }

    /// The major version of the `pg_dump` that wrote it.
    pub fn client_major(&self) -> Option<u32> {
        major(&self.header.pg_dump_version)
    }

    pub fn server_major(&self) -> Option<u32> {
        major(&self.header.server_version)
    }

    /// The roles that the entries of `chosen` name.
    pub fn role_uses(&self, chosen: impl Fn(&TocEntry) -> bool) -> Result<RoleUses> {
        let mut uses = RoleUses::default();
        for front in self.entries.iter().filter(|front| chosen(&front.entry)) {
            let entry = &front.entry;
            uses.owners.extend(entry.owner.as_deref().filter(|owner| !owner.is_empty()).map(str::to_owned));
            let named = match roles::naming(&entry.desc) {
                None => continue,
                Some(roles::Naming::Privileges) => &mut uses.privileges,
                Some(roles::Naming::Other) => &mut uses.others,
            };
            let sql = self.statements(front, &front.definition)?;
            named.extend(roles::places(sql).map_err(|why| odd(entry, &why))?.into_iter().map(|place| place.name));
        }
        Ok(uses)
    }

    /// The front with other roles in the place of those that `map` names: as owners, as grantees and grantors, in
    /// default rights, policies and user mappings. What cannot be read is an error, never left as it was.
    pub fn with_roles(&self, map: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(self.length + 4096);
        let mut done = 0;
        for front in &self.entries {
            for text in [&front.definition, &front.drop_statement] {
                if roles::naming(&front.entry.desc).is_none() || text.text.is_none() {
                    continue;
                }
                let sql = self.statements(front, text)?;
                let mapped = roles::renamed(sql, map).map_err(|why| odd(&front.entry, &why))?;
                self.replace(&mut out, &mut done, text, &mapped);
            }
            if let Some(owner) = self.text(&front.owner).and_then(|owner| map.get(owner)) {
                self.replace(&mut out, &mut done, &front.owner, owner);
            }
            out.extend_from_slice(&self.bytes[done..front.whole.end]);
            done = front.whole.end;
        }
        out.extend_from_slice(&self.bytes[done..self.length]);
        Ok(out)
    }

    /// As [`Self::with_roles`], read again.
    pub fn mapped(&self, map: &BTreeMap<String, String>) -> Result<Self> {
        Self::read(self.with_roles(map)?)?
            .map_err(|bytes| damaged(bytes.len(), "the table of contents that was written anew does not end"))
    }

    fn replace(&self, out: &mut Vec<u8>, done: &mut usize, old: &Text, new: &str) {
        out.extend_from_slice(&self.bytes[*done..old.whole.start]);
        let mut length = vec![0];
        length.extend_from_slice(&(new.len() as u64).to_le_bytes()[..self.integer_bytes]);
        out.extend_from_slice(&length);
        out.extend_from_slice(new.as_bytes());
        *done = old.whole.end;
    }

    fn statements(&self, front: &FrontEntry, text: &Text) -> Result<&str> {
        if text.text.is_none() {
            return Ok("");
        }
        self.text(text).ok_or_else(|| odd(&front.entry, "it is not UTF-8"))
    }
}

/// The definition may hold a password of a user mapping.
fn odd(entry: &TocEntry, why: &str) -> Error {
    Error::new(Kind::NotVerified, format!("read the roles of {entry}")).because(why.to_owned()).hint(
        "pgkeep may be older than the pg_dump that wrote it; restore without --role-map, --no-owner and \
         --no-privileges, or with pg_restore by hand",
    )
}

fn damaged(offset: usize, why: impl Into<String>) -> Error {
    Error::new(Kind::Verification, format!("read the table of contents at byte {offset}")).because(why.into())
}

fn major(version: &str) -> Option<u32> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

enum Stop {
    NeedsMore,
    Wrong(String),
}

type Read<T> = std::result::Result<T, Stop>;

fn wrong<T>(why: impl Into<String>) -> Read<T> {
    Err(Stop::Wrong(why.into()))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    integer_bytes: usize,
    offset_bytes: usize,
}

impl Cursor<'_> {
    fn front(&mut self) -> Read<(ArchiveHeader, FrontFormat, Vec<FrontEntry>)> {
        let (version, format) = self.fixed_part()?;
        let compression = self.compression(version)?;
        let time = (0..7).map(|_| self.integer()).collect::<Read<Vec<i64>>>()?;
        let header = ArchiveHeader {
            version,
            compression,
            created_local: created(&time),
            database: self.owned()?,
            server_version: self.owned()?,
            pg_dump_version: self.owned()?,
        };
        let count = self.integer()?;
        let count = usize::try_from(count).or_else(|_| wrong(format!("{count} entries")))?;
        let mut entries = Vec::new();
        let mut known: BTreeMap<String, Arc<str>> = BTreeMap::new();
        for _ in 0..count {
            entries.push(self.entry(version, format, &mut known)?);
        }
        Ok((header, format, entries))
    }

    fn fixed_part(&mut self) -> Read<(ArchiveVersion, FrontFormat)> {
        let magic = b"PGDMP";
        let arrived = &self.bytes[..self.bytes.len().min(magic.len())];
        if !magic.starts_with(arrived) {
            return wrong("this is not an archive of pg_dump");
        }
        let fixed = self.take(11)?.to_vec();
        let version = ArchiveVersion { minor: fixed[6], revision: fixed[7] };
        if fixed[5] != 1 || !version.is_known() {
            return wrong(format!("the archive has version {}.{}, which pgkeep does not know", fixed[5], fixed[6]));
        }
        let (integer_bytes, offset_bytes) = (usize::from(fixed[8]), usize::from(fixed[9]));
        if !(4..=8).contains(&integer_bytes) || !(1..=8).contains(&offset_bytes) {
            return wrong(format!("integers of {integer_bytes} bytes, offsets of {offset_bytes} bytes"));
        }
        (self.integer_bytes, self.offset_bytes) = (integer_bytes, offset_bytes);
        match FrontFormat::of(fixed[10]) {
            Some(format) => Ok((version, format)),
            None => wrong(format!("format {}", fixed[10])),
        }
    }

    fn compression(&mut self, version: ArchiveVersion) -> Read<ArchiveCompression> {
        if version.has_compression_algorithm() {
            return match self.take(1)?[0] {
                0 => Ok(ArchiveCompression::None),
                1 => Ok(ArchiveCompression::Gzip),
                2 => Ok(ArchiveCompression::Lz4),
                3 => Ok(ArchiveCompression::Zstd),
                other => wrong(format!("compression algorithm {other}")),
            };
        }
        Ok(if self.integer()? == 0 { ArchiveCompression::None } else { ArchiveCompression::Gzip })
    }

    fn entry(
        &mut self,
        version: ArchiveVersion,
        format: FrontFormat,
        known: &mut BTreeMap<String, Arc<str>>,
    ) -> Read<FrontEntry> {
        let start = self.at;
        let number = self.integer()?;
        let Some(dump_id) = DumpId::new(number) else { return wrong(format!("dump id {number}")) };
        let has_data = self.integer()? != 0;
        let catalog_id = CatalogId { table_oid: self.oid()?, oid: self.oid()? };
        let tag = self.owned()?.into();
        let mut shared = |name: String| known.entry(name).or_insert_with_key(|name| name.as_str().into()).clone();
        let desc = shared(self.owned()?);
        let section = match self.integer()? {
            1 => Section::None,
            2 => Section::PreData,
            3 => Section::Data,
            4 => Section::PostData,
            other => return wrong(format!("section {other}")),
        };
        let definition = self.text()?;
        let drop_statement = self.text()?;
        self.text()?;
        let namespace = self.text()?;
        let namespace = self.lossy(&namespace).map(&mut shared);
        let tablespace = self.text()?;
        let tablespace = self.lossy(&tablespace).map(&mut shared);
        let access_method = if version.has_access_method() { Some(self.owned()?).map(&mut shared) } else { None };
        let relation_kind = if version.has_relation_kind() { self.integer()? } else { 0 };
        let owner = self.text()?;
        let owner_name = self.lossy(&owner).map(&mut shared);
        self.text()?;
        let dependencies = self.dependencies()?;
        match format {
            FrontFormat::Custom => {
                self.take(1 + self.offset_bytes)?;
            }
            FrontFormat::Tar | FrontFormat::Directory => {
                self.text()?;
            }
        }
        let entry = TocEntry {
            dump_id,
            has_data,
            catalog_id,
            tag,
            desc,
            section,
            namespace,
            tablespace,
            access_method,
            relation_kind: u8::try_from(relation_kind).ok().filter(|kind| *kind != 0).map(char::from),
            owner: owner_name,
            dependencies,
        };
        Ok(FrontEntry { entry, whole: start..self.at, definition, drop_statement, owner })
    }

    fn dependencies(&mut self) -> Read<Box<[DumpId]>> {
        let mut found = Vec::new();
        loop {
            let text = self.text()?;
            let Some(number) = self.lossy(&text) else { return Ok(found.into()) };
            match number.parse().ok().and_then(DumpId::new) {
                Some(id) => found.push(id),
                None => return wrong(format!("dependency {number:?}")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Read<&[u8]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count)).ok_or(Stop::NeedsMore)?;
        self.at += count;
        Ok(taken)
    }

    fn integer(&mut self) -> Read<i64> {
        let bytes = self.take(1 + self.integer_bytes)?;
        decode_integer(bytes).map_or_else(|| wrong("this is not an integer"), Ok)
    }

    fn text(&mut self) -> Read<Text> {
        let start = self.at;
        let length = self.integer()?;
        if length < 0 {
            return Ok(Text { whole: start..self.at, text: None });
        }
        let from = self.at;
        self.take(usize::try_from(length).or_else(|_| wrong(format!("a string of {length} bytes")))?)?;
        Ok(Text { whole: start..self.at, text: Some(from..self.at) })
    }

    fn lossy(&self, text: &Text) -> Option<String> {
        Some(String::from_utf8_lossy(&self.bytes[text.text.clone()?]).into_owned())
    }

    fn owned(&mut self) -> Read<String> {
        let text = self.text()?;
        Ok(self.lossy(&text).unwrap_or_default())
    }

    fn oid(&mut self) -> Read<u32> {
        let text = self.owned()?;
        text.parse().or_else(|_| wrong(format!("object id {text:?}")))
    }
}
