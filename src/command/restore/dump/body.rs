//! The archive as it is handed to `pg_restore` or `psql`: checked to its end, in a form that they read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::command::staging::Staging;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::pg::archive::{Archive, ArchiveReader, Front, Toc};
use crate::repo::ArchiveFormat;

/// What `pg_dump` was asked to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Custom,
    Tar,
    Directory,
    Script,
}

impl From<ArchiveFormat> for Form {
    fn from(format: ArchiveFormat) -> Self {
        match format {
            ArchiveFormat::Custom => Self::Custom,
            ArchiveFormat::Directory => Self::Directory,
            ArchiveFormat::Plain => Self::Script,
            ArchiveFormat::Tar => Self::Tar,
        }
    }
}

impl Form {
    /// In a sentence.
    pub fn called(self) -> &'static str {
        match self {
            Self::Custom => "custom archive",
            Self::Tar => "tar archive",
            Self::Directory => "directory archive",
            Self::Script => "SQL script",
        }
    }

    /// As `pg_restore --format` is told it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "custom",
            Self::Tar => "tar",
            Self::Directory => "directory",
            Self::Script => "plain",
        }
    }
}

/// An archive at hand.
#[derive(Debug)]
pub enum Body {
    /// Read to its end; a file without a name, or one that lies elsewhere and is only read.
    Custom {
        archive: Box<Archive>,
        file: File,
    },
    Tar(File),
    Directory(Folder),
    Script(File),
}

/// A directory of `pg_dump -Fd`. One of ours goes with this.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub staging: Option<Staging>,
}

impl Body {
    pub fn form(&self) -> Form {
        match self {
            Self::Custom { .. } => Form::Custom,
            Self::Tar(_) => Form::Tar,
            Self::Directory(_) => Form::Directory,
            Self::Script(_) => Form::Script,
        }
    }

    /// Entries with data, where they were counted.
    pub fn blocks(&self) -> Option<u64> {
        match self {
            Self::Custom { archive, .. } => Some(archive.blocks.len() as u64),
            _ => None,
        }
    }

    /// What a program reads it from: its standard input, else the path.
    pub fn input(&self) -> Result<Input> {
        match self {
            Self::Custom { file, .. } | Self::Tar(file) | Self::Script(file) => {
                let again = || {
                    let mut file = file.try_clone()?;
                    file.rewind()?;
                    Ok::<_, std::io::Error>(file)
                };
                Ok(Input::File(again().doing(Kind::Storage, || "rewind the archive")?))
            }
            Self::Directory(folder) => Ok(Input::Directory(folder.path.clone())),
        }
    }
}

#[derive(Debug)]
pub enum Input {
    File(File),
    Directory(PathBuf),
}

/// A file without a name, twice: to write it, and to keep it.
pub fn scratch_file(scratch: &Path) -> Result<(File, File)> {
    let make = || {
        let file = tempfile::tempfile_in(scratch)?;
        Ok::<_, std::io::Error>((file.try_clone()?, file))
    };
    make().doing(Kind::Storage, || format!("create a file in {scratch:?}"))
}

/// A custom archive whose roles get other names on the way to `output`.
///
/// The front is kept until it is whole; then it is written anew, and everything behind it moves by the difference.
#[derive(Debug)]
pub struct Mapper<W> {
    output: W,
    map: BTreeMap<String, String>,
    collector: Collector,
    shift: Option<Shift>,
}

/// Where things are after the front was written anew.
#[derive(Debug)]
pub struct Shift {
    toc: Toc,
    by_bytes: i64,
}

impl<W: Write> Mapper<W> {
    /// With an empty map everything passes as it comes.
    pub fn new(output: W, map: BTreeMap<String, String>) -> Self {
        Self { output, map, collector: Collector::default(), shift: None }
    }

    /// The output, and how far what follows the front was moved.
    pub fn finish(mut self) -> Result<(W, Option<Shift>)> {
        if !self.map.is_empty() && self.shift.is_none() {
            self.take(true)?;
            if self.shift.is_none() {
                return Err(Error::new(Kind::Verification, "read the table of contents: it does not end"));
            }
        }
        Ok((self.output, self.shift))
    }

    fn take(&mut self, at_end: bool) -> Result<()> {
        let Some(front) = self.collector.front(at_end)? else { return Ok(()) };
        let mapped = front.with_roles(&self.map)?;
        let mut reader = ArchiveReader::new();
        reader.push(&mapped)?;
        let toc = reader.toc().cloned();
        let toc = toc.ok_or_else(|| Error::new(Kind::Unexpected, "write the table of contents anew"))?;
        let (old, behind) = front.split();
        let doing = || "write the decoded archive";
        self.output.write_all(&mapped).doing(Kind::Storage, doing)?;
        self.output.write_all(behind).doing(Kind::Storage, doing)?;
        self.shift = Some(Shift { toc, by_bytes: mapped.len() as i64 - old.len() as i64 });
        Ok(())
    }
}

impl<W: Write> Write for Mapper<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.map.is_empty() || self.shift.is_some() {
            return self.output.write(bytes);
        }
        self.collector.push(bytes);
        self.take(false).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}

/// Collects the front of an archive that passes by.
#[derive(Debug, Default)]
pub struct Collector {
    bytes: Vec<u8>,
    /// The next size at which it is looked at: each time twice as much, so that looking costs no more than arriving.
    next_look: usize,
    done: bool,
}

impl Collector {
    const FIRST_LOOK_BYTES: usize = 64 << 10;

    pub fn push(&mut self, bytes: &[u8]) {
        if !self.done {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The front once it is whole; only once.
    pub fn front(&mut self, at_end: bool) -> Result<Option<Front>> {
        if self.done || (!at_end && self.bytes.len() < self.next_look.max(Self::FIRST_LOOK_BYTES)) {
            return Ok(None);
        }
        self.next_look = self.bytes.len() * 2;
        match Front::read(std::mem::take(&mut self.bytes))? {
            Ok(front) => {
                self.done = true;
                Ok(Some(front))
            }
            Err(bytes) => {
                self.bytes = bytes;
                Ok(None)
            }
        }
    }
}

/// Writes into the archive where each block lies, which `pg_dump` cannot do in a pipe: without it every worker of a
/// parallel restore reads all that lies before its table.
pub fn complete(file: &File, archive: &Archive, shift: Option<&Shift>) -> Result<()> {
    let doing = || "complete the decoded archive";
    let Some(Shift { toc, by_bytes }) = shift else {
        for (place, known) in archive.places() {
            file.write_all_at(&known, place).doing(Kind::Storage, doing)?;
        }
        return Ok(());
    };
    for block in &archive.blocks {
        let Some(place) = toc.place(block.dump_id) else { continue };
        let known = Archive::known_place(block.offset.saturating_add_signed(*by_bytes));
        file.write_all_at(&known, place).doing(Kind::Storage, doing)?;
    }
    Ok(())
}

/// A directory with the same files and another table of contents.
pub fn mapped_directory(
    source: &Path,
    front: &Front,
    map: &BTreeMap<String, String>,
    scratch: &Path,
) -> Result<Folder> {
    let doing = || format!("make a directory in {scratch:?}");
    let source = source.canonicalize().doing(Kind::Storage, || format!("look at {source:?}"))?;
    let staging = Staging::create(scratch, 0, "the directory with other roles")?;
    let path = staging.folder("dump")?;
    let link = || {
        for entry in std::fs::read_dir(&source)? {
            let entry = entry?;
            if entry.file_name() != "toc.dat" {
                std::os::unix::fs::symlink(entry.path(), path.join(entry.file_name()))?;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    link().doing(Kind::Storage, doing)?;
    std::fs::write(path.join("toc.dat"), front.with_roles(map)?).doing(Kind::Storage, doing)?;
    Ok(Folder { path, staging: Some(staging) })
}
