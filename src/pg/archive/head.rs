//! The header: who wrote the archive, when, and of what.

use std::fmt;

use chrono::{NaiveDate, NaiveDateTime};

use super::fields::{Fields, Stop};
use crate::error::{Error, Kind};

/// Major is always 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchiveVersion {
    pub minor: u8,
    pub revision: u8,
}

impl fmt::Display for ArchiveVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}-{}", self.minor, self.revision)
    }
}

impl ArchiveVersion {
    const OLDEST_MINOR: u8 = 12;
    const NEWEST_MINOR: u8 = 16;

    pub(super) fn is_known(self) -> bool {
        (Self::OLDEST_MINOR..=Self::NEWEST_MINOR).contains(&self.minor)
    }

    pub(super) fn has_access_method(self) -> bool {
        self.minor >= 14
    }

    pub(super) fn has_compression_algorithm(self) -> bool {
        self.minor >= 15
    }

    /// PostgreSQL 16 and newer.
    pub(super) fn may_repeat_toc(self) -> bool {
        self.minor >= 15
    }

    /// PostgreSQL 17 and newer.
    pub(super) fn has_several_lists(self) -> bool {
        self.minor >= 16
    }

    pub(super) fn has_relation_kind(self) -> bool {
        self.minor >= 16
    }
}

/// How the data blocks are compressed inside the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveCompression {
    None,
    Gzip,
    Lz4,
    Zstd,
}

impl ArchiveCompression {
    /// Whether a reader decodes the data to their end. Of lz4 it follows the blocks and does not look inside.
    pub fn is_decoded(self) -> bool {
        self != Self::Lz4
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveHeader {
    pub version: ArchiveVersion,
    pub compression: ArchiveCompression,
    /// By the local clock of the host that ran `pg_dump`, whose time zone the archive does not tell.
    pub created_local: Option<NaiveDateTime>,
    pub database: String,
    /// As the server calls it: "15.20 (Debian 15.20-0+deb12u1)".
    pub server_version: String,
    pub pg_dump_version: String,
}

/// Where the data are that a table of contents is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Data {
    /// Behind it, in blocks: the custom format.
    #[default]
    InBlocks,
    /// In files of their own: the tar format, as which the head of a directory gives itself out, too.
    InFiles,
}

impl Data {
    /// The byte of the format.
    fn format(self) -> u8 {
        match self {
            Self::InBlocks => 1,
            Self::InFiles => 3,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::InBlocks => "custom",
            Self::InFiles => "directory or tar",
        }
    }
}

/// Collects the header field by field.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    data: Data,
    version: Option<ArchiveVersion>,
    compression: Option<ArchiveCompression>,
    time: Vec<i64>,
    names: Vec<String>,
}

impl HeadReader {
    pub(super) fn of(data: Data) -> Self {
        Self { data, ..Self::default() }
    }

    pub(super) fn read(&mut self, fields: &mut Fields) -> Result<ArchiveHeader, Stop> {
        let version = match self.version {
            Some(version) => version,
            None => *self.version.insert(fixed_part(self.data, fields)?),
        };
        let compression = match self.compression {
            Some(compression) => compression,
            None => *self.compression.insert(compression(version, fields)?),
        };
        // Seconds, minutes, hours, day, month, year, daylight saving: struct tm.
        while self.time.len() < 7 {
            self.time.push(fields.integer()?);
        }
        while self.names.len() < 3 {
            self.names.push(fields.text()?.unwrap_or_default());
        }
        let mut names = std::mem::take(&mut self.names).into_iter();
        let mut name = || names.next().unwrap_or_default();
        Ok(ArchiveHeader {
            version,
            compression,
            created_local: created(&self.time),
            database: name(),
            server_version: name(),
            pg_dump_version: name(),
        })
    }
}

fn fixed_part(data: Data, fields: &mut Fields) -> Result<ArchiveVersion, Stop> {
    let magic = b"PGDMP";
    let arrived = fields.rest();
    if !arrived.starts_with(&magic[..arrived.len().min(magic.len())]) {
        return Err(fields.fail(format!("this is not an archive of pg_dump in the {} format", data.name())));
    }
    let [_, _, _, _, _, major, minor, revision, integer_bytes, offset_bytes, format] = fields.array::<11>()?;
    let version = ArchiveVersion { minor, revision };
    if major != 1 || !version.is_known() {
        return Err(Stop::Failed(unknown_version(major, minor)));
    }
    if format != data.format() {
        let (name, number) = (data.name(), data.format());
        return Err(fields.fail(format!("the archive has format {format}, the {name} format is {number}")));
    }
    if !(4..=8).contains(&integer_bytes) || !(1..=8).contains(&offset_bytes) {
        return Err(fields.fail(format!("integers of {integer_bytes} bytes, offsets of {offset_bytes} bytes")));
    }
    fields.set_integer_bytes(usize::from(integer_bytes));
    fields.set_offset_bytes(usize::from(offset_bytes));
    Ok(version)
}

fn unknown_version(major: u8, minor: u8) -> Error {
    let (oldest, newest) = (ArchiveVersion::OLDEST_MINOR, ArchiveVersion::NEWEST_MINOR);
    Error::new(Kind::NotVerified, format!("read the archive: it has version {major}.{minor}"))
        .because(format!("versions 1.{oldest} to 1.{newest} (PostgreSQL 9.0 to 18) can be read"))
        .hint("pgkeep may be older than pg_dump: update pgkeep")
}

fn compression(version: ArchiveVersion, fields: &mut Fields) -> Result<ArchiveCompression, Stop> {
    if version.has_compression_algorithm() {
        return match fields.byte()? {
            0 => Ok(ArchiveCompression::None),
            1 => Ok(ArchiveCompression::Gzip),
            2 => Ok(ArchiveCompression::Lz4),
            3 => Ok(ArchiveCompression::Zstd),
            other => Err(fields.fail(format!("compression algorithm {other}"))),
        };
    }
    // A level of zlib; -1 is its default.
    match fields.integer()? {
        0 => Ok(ArchiveCompression::None),
        -1 | 1..=9 => Ok(ArchiveCompression::Gzip),
        other => Err(fields.fail(format!("compression level {other}"))),
    }
}

pub(super) fn created(time: &[i64]) -> Option<NaiveDateTime> {
    let field = |at: usize| time.get(at).and_then(|&value| u32::try_from(value).ok());
    let year = i32::try_from(time.get(5)?.checked_add(1900)?).ok()?;
    NaiveDate::from_ymd_opt(year, field(4)?.checked_add(1)?, field(3)?)?.and_hms_opt(field(2)?, field(1)?, field(0)?)
}
