//! An archive in one stream, whichever format it has.

use std::collections::BTreeSet;

use super::head::ArchiveCompression;
use super::script::{GzipScriptReader, Script, ScriptReader};
use super::tar::TarReader;
use super::toc::{Toc, TocEntry};
use super::{Archive, ArchiveHeader, ArchiveReader};
use crate::error::Result;

/// Reads what is pushed through it.
#[derive(Debug)]
pub enum StreamReader {
    Custom(Box<ArchiveReader>),
    Tar(Box<TarReader>),
    Script(ScriptReader),
    GzipScript(Box<GzipScriptReader>),
}

impl StreamReader {
    pub fn custom() -> Self {
        Self::Custom(Box::default())
    }

    pub fn tar() -> Self {
        Self::Tar(Box::default())
    }

    pub fn script() -> Self {
        Self::Script(ScriptReader::default())
    }

    pub fn gzip_script() -> Self {
        Self::GzipScript(Box::default())
    }

    /// Takes the next bytes. An error is final.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Custom(reader) => reader.push(bytes),
            Self::Tar(reader) => reader.push(bytes),
            Self::Script(reader) => reader.push(bytes),
            Self::GzipScript(reader) => reader.push(bytes),
        }
    }

    /// The entry whose data are passing by, where the format tells.
    pub fn current(&self) -> Option<&TocEntry> {
        match self {
            Self::Custom(reader) => reader.current(),
            Self::Tar(reader) => reader.current(),
            Self::Script(_) | Self::GzipScript(_) => None,
        }
    }

    /// Proves that everything has come.
    pub fn finish(self) -> Result<Content> {
        match self {
            Self::Custom(reader) => reader.finish().map(|archive| Content::Archive(Box::new(archive))),
            Self::Tar(reader) => reader.finish().map(|archive| Content::Archive(Box::new(archive))),
            Self::Script(reader) => reader.finish().map(Content::Script),
            Self::GzipScript(reader) => reader.finish().map(Content::Script),
        }
    }
}

/// What a dump holds that was read to its end.
#[derive(Debug)]
pub enum Content {
    Archive(Box<Archive>),
    /// SQL without a table of contents.
    Script(Script),
}

impl Content {
    pub fn header(&self) -> Option<&ArchiveHeader> {
        match self {
            Self::Archive(archive) => Some(&archive.header),
            Self::Script(_) => None,
        }
    }

    pub fn toc(&self) -> Option<&Toc> {
        match self {
            Self::Archive(archive) => Some(&archive.toc),
            Self::Script(_) => None,
        }
    }

    /// As the server calls it.
    pub fn server_version(&self) -> &str {
        match self {
            Self::Archive(archive) => &archive.header.server_version,
            Self::Script(script) => &script.server_version,
        }
    }

    /// By `pg_dump`.
    pub fn compression(&self) -> ArchiveCompression {
        match self {
            Self::Archive(archive) => archive.header.compression,
            Self::Script(script) => script.compression,
        }
    }

    /// Every role that the table of contents says owns something.
    pub fn owners(&self) -> BTreeSet<&str> {
        self.toc().map(Toc::owners).unwrap_or_default()
    }
}
