//! `toc.dat`: the front of an archive whose data lie in files, by itself.

use super::fields::{Fields, Stop};
use super::head::{ArchiveHeader, Data, HeadReader};
use super::toc::{Toc, TocReader};
use super::{damaged, failed_before};
use crate::error::Result;

/// Reads a `toc.dat` that is pushed through it.
#[derive(Debug)]
pub struct TocFileReader {
    fields: Fields,
    head: HeadReader,
    header: Option<ArchiveHeader>,
    reader: Option<TocReader>,
    toc: Option<Toc>,
    failed: bool,
}

/// A `toc.dat` that is complete.
#[derive(Debug)]
pub struct TocFile {
    pub header: ArchiveHeader,
    pub toc: Toc,
}

impl Default for TocFileReader {
    fn default() -> Self {
        Self::new()
    }
}

impl TocFileReader {
    pub fn new() -> Self {
        Self {
            fields: Fields::new(),
            head: HeadReader::of(Data::InFiles),
            header: None,
            reader: None,
            toc: None,
            failed: false,
        }
    }

    /// Takes the next bytes. An error is final.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(failed_before());
        }
        self.fields.push(bytes);
        match self.read() {
            Ok(()) if self.toc.is_some() && !self.fields.rest().is_empty() => {
                self.failed = true;
                Err(damaged(self.fields.offset(), "something follows the table of contents"))
            }
            Ok(()) | Err(Stop::NeedsMore) => Ok(()),
            Err(Stop::Failed(error)) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    fn read(&mut self) -> Result<(), Stop> {
        if self.toc.is_some() {
            return Ok(());
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let header = self.head.read(&mut self.fields)?;
                let reader = TocReader::new(header.version, Data::InFiles);
                self.header = Some(header);
                self.reader.insert(reader)
            }
        };
        self.toc = Some(reader.read(&mut self.fields)?);
        Ok(())
    }

    /// Proves that it was complete.
    pub fn finish(self) -> Result<TocFile> {
        let end = self.fields.offset_of_end();
        match (self.header, self.toc, self.reader) {
            _ if self.failed => Err(failed_before()),
            (Some(header), Some(toc), _) => Ok(TocFile { header, toc }),
            (_, None, Some(reader)) => {
                let why = format!("toc.dat ends early, inside the table of contents: {}", reader.progress());
                Err(damaged(end, why))
            }
            _ => Err(damaged(end, "toc.dat ends early, inside its header")),
        }
    }
}
