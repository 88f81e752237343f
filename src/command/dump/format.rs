//! In which format a dump is made and who compresses it: what goes together, what `pg_dump` is told, what the manifest
//! says.

use std::num::NonZeroUsize;

use super::Options;
use crate::error::{Error, Kind, Result};
use crate::pg::archive::ArchiveCompression;
use crate::pg::tools::Tools;
use crate::repo::{ArchiveFormat, CompressionMethod, Form, Packing};

/// Who compresses the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compress {
    /// We do, around it: frames of zstd.
    Zstd { level: i32 },
    /// `pg_dump` does, inside it, with gzip; 0 is not at all. The archive is stored as it comes, and so are the globals.
    ByPgDump { level: u8 },
    /// As [`Compress::ByPgDump`], with lz4; without a level that of `pg_dump`.
    Lz4 { level: Option<u8> },
}

/// `pg_dump` of this version and newer knows methods of compression by name.
const NAMES_METHODS: u32 = 16;

impl Compress {
    /// How archive and globals are stored.
    pub fn packing(self) -> Packing {
        match self {
            Self::Zstd { .. } => Packing::ZSTD,
            Self::ByPgDump { .. } | Self::Lz4 { .. } => Packing::PLAIN,
        }
    }

    /// What `pg_dump --compress` is told.
    pub(super) fn word(self) -> String {
        match self {
            Self::Zstd { .. } => "0".to_owned(),
            Self::ByPgDump { level } => level.to_string(),
            Self::Lz4 { level: None } => "lz4".to_owned(),
            Self::Lz4 { level: Some(level) } => format!("lz4:{level}"),
        }
    }

    /// As the manifest has it, of an archive that says how it is compressed inside.
    pub(super) fn recorded(self, inside: ArchiveCompression) -> crate::repo::Compression {
        use crate::repo::Compression;
        match self {
            Self::Zstd { level } => Compression::zstd(level),
            Self::ByPgDump { level } => Compression::by_pg_dump(inside, Some(level.into())),
            Self::Lz4 { level } => Compression::by_pg_dump(inside, level.map(i32::from)),
        }
    }

    /// What `pg_dump` is to do inside the archive.
    fn inside(self) -> CompressionMethod {
        match self {
            Self::Zstd { .. } | Self::ByPgDump { level: 0 } => CompressionMethod::None,
            Self::ByPgDump { .. } => CompressionMethod::Gzip,
            Self::Lz4 { .. } => CompressionMethod::Lz4,
        }
    }

    /// Refuses what these clients cannot do, before anything is begun.
    pub(super) fn check_clients(self, clients: &Tools) -> Result<()> {
        let major = clients.version.major;
        if !matches!(self, Self::Lz4 { .. }) || major >= NAMES_METHODS {
            return Ok(());
        }
        let action = format!("pg_dump {major} cannot compress with lz4, which pg_dump {NAMES_METHODS} and newer can");
        let hint = format!("leave --compress out, or install postgresql-client-{NAMES_METHODS} or newer");
        Err(Error::new(Kind::MissingProgram, action).hint(hint))
    }
}

impl Options {
    /// How the archive is laid out.
    pub fn form(&self) -> Form {
        match self.format {
            ArchiveFormat::Custom => Form::Custom,
            ArchiveFormat::Tar => Form::Tar,
            ArchiveFormat::Plain if self.compress.inside() == CompressionMethod::None => Form::Script,
            ArchiveFormat::Plain => Form::GzipScript,
            ArchiveFormat::Directory => Form::Directory,
        }
    }

    /// How many tables are dumped at the same time.
    pub(super) fn jobs(&self) -> usize {
        self.jobs.map_or(1, NonZeroUsize::get)
    }

    /// Refuses what does not go together.
    pub(super) fn check_format(&self) -> Result<()> {
        let format = self.format.as_str();
        let inside = self.compress.inside();
        let has_create = self.filter.words().iter().any(|word| word == "--create");
        let compress = format!("--compress {}", inside.as_str());
        let objection = match self.format {
            ArchiveFormat::Directory if self.clients.prefix.is_some() => Some((
                "bin_prefix",
                "use --format custom: pg_dump writes a directory where it runs, which is elsewhere",
            )),
            ArchiveFormat::Directory if self.split.is_some() => {
                Some(("--split", "leave --split out: every table is a file of its own already"))
            }
            ArchiveFormat::Directory if inside != CompressionMethod::None => Some((
                compress.as_str(),
                "use --compress zstd or none: pgkeep compresses each file of a directory itself",
            )),
            ArchiveFormat::Tar if inside != CompressionMethod::None => {
                Some((compress.as_str(), "use --compress zstd or none: pg_dump does not compress a tar archive"))
            }
            ArchiveFormat::Plain if inside == CompressionMethod::Lz4 => Some((
                compress.as_str(),
                "use zstd, gzip or none: pgkeep could not see whether a script in lz4 is whole",
            )),
            ArchiveFormat::Plain if has_create => {
                Some(("--create", "leave --create out: such a script leaves the database it is restored into"))
            }
            ArchiveFormat::Custom | ArchiveFormat::Plain | ArchiveFormat::Tar if self.jobs() > 1 => {
                Some(("--jobs", "use --format directory: any other archive is one stream"))
            }
            _ => None,
        };
        match objection {
            None => Ok(()),
            Some((option, hint)) => {
                Err(Error::usage(format!("{option} and --format {format} do not go together")).hint(hint))
            }
        }
    }
}
