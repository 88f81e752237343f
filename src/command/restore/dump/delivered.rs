//! A stored dump, brought into a directory of this host and checked to its end, in the form that `pg_restore` or `psql`
//! reads.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::sources::{Output, Unread};
use super::{Context, Options, Selected, SourceCopy};
use crate::command::staging::Staging;
use crate::error::{Doing as _, Kind, Result};
use crate::pg::archive::{Archive, ArchiveCompression, Content};
use crate::progress::Unit;
use crate::repo::ArchiveFormat;
use crate::repo::archive::read_dump;
use crate::repo::directory::read_directory;

/// A dump at hand. Files have no name, so that nothing of them outlives us.
#[derive(Debug)]
pub enum Delivered {
    /// Complete with the places of its blocks.
    Custom {
        archive: Box<Archive>,
        file: File,
    },
    Tar {
        archive: Box<Archive>,
        file: File,
    },
    /// SQL, not compressed.
    Script {
        file: File,
    },
    Directory {
        archive: Box<Archive>,
        folder: Folder,
    },
}

/// The files of a directory, which go with this.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    _staging: Staging,
}

impl Delivered {
    /// Entries with data, where the format tells.
    pub fn entries_with_data(&self) -> Option<u64> {
        match self {
            Self::Custom { archive, .. } | Self::Tar { archive, .. } | Self::Directory { archive, .. } => {
                Some(archive.toc.entries().iter().filter(|entry| entry.has_data).count() as u64)
            }
            Self::Script { .. } => None,
        }
    }
}

/// Reads the dump from the first copy that delivers it.
pub async fn deliver(context: &Context, options: &Options, selected: &Selected) -> Result<Delivered> {
    if selected.manifest.archive_format == ArchiveFormat::Directory {
        let directory = async |copy: &SourceCopy| directory(context, options, selected, copy).await;
        return selected.sources.deliver("the archive", directory).await;
    }
    let stream = async |copy: &SourceCopy| stream(context, options, selected, copy).await;
    let (content, mut file) = selected.sources.deliver("the archive", stream).await?;
    rewind(&mut file)?;
    match content {
        Content::Archive(archive) if selected.manifest.archive_format == ArchiveFormat::Tar => {
            Ok(Delivered::Tar { archive, file })
        }
        Content::Archive(archive) => {
            // Only now: what was compared with the manifest is the archive as it was written.
            for (place, known) in archive.places() {
                file.write_all_at(&known, place).doing(Kind::Storage, || "complete the decoded archive")?;
            }
            Ok(Delivered::Custom { archive, file })
        }
        Content::Script(script) if script.compression == ArchiveCompression::None => Ok(Delivered::Script { file }),
        Content::Script(_) => Ok(Delivered::Script { file: inflated(file, &options.scratch)? }),
    }
}

async fn stream(
    context: &Context,
    options: &Options,
    selected: &Selected,
    copy: &SourceCopy,
) -> Result<(Content, File), Unread> {
    let scratch = &options.scratch;
    let file = nameless(scratch).map_err(Unread::ForGood)?;
    let kept = file.try_clone().doing(Kind::Storage, || format!("keep a file in {scratch:?}"));
    let kept = kept.map_err(Unread::ForGood)?;
    let task = context.monitor.task("read archive", Unit::Bytes, Some(copy.manifest.plain.size_bytes));
    let (output, stem) = (Output::new(file), &selected.stem);
    match read_dump(&copy.repository, stem, &copy.manifest, output.attempt(), options.threads, task).await {
        Ok((content, _)) => Ok((content, kept)),
        Err(error) => Err(output.abandon(error)),
    }
}

async fn directory(
    context: &Context,
    options: &Options,
    selected: &Selected,
    copy: &SourceCopy,
) -> Result<Delivered, Unread> {
    let manifest = &copy.manifest;
    let staging = Staging::create(&options.scratch, manifest.plain.size_bytes, "the decoded files");
    let staging = staging.map_err(Unread::ForGood)?;
    let folder = staging.folder("dump").map_err(Unread::ForGood)?;
    let task = context.monitor.task("read archive", Unit::Bytes, Some(manifest.plain.size_bytes));
    let into = Some(folder.as_path());
    let archive = read_directory(&copy.repository, &selected.stem, manifest, into, options.threads, task).await?;
    Ok(Delivered::Directory { archive: Box::new(archive), folder: Folder { path: folder, _staging: staging } })
}

fn nameless(scratch: &Path) -> Result<File> {
    tempfile::tempfile_in(scratch).doing(Kind::Storage, || format!("create a file in {scratch:?}"))
}

/// A script that was read to its end, for `psql`, which reads no gzip.
fn inflated(file: File, scratch: &Path) -> Result<File> {
    let mut decoder = flate2::write::GzDecoder::new(nameless(scratch)?);
    let mut input = std::io::BufReader::with_capacity(1 << 20, file);
    let inflate = || {
        std::io::copy(&mut input, &mut decoder)?;
        decoder.flush()?;
        decoder.finish()
    };
    let mut script = inflate().doing(Kind::Storage, || format!("decode the script into {scratch:?}"))?;
    rewind(&mut script)?;
    Ok(script)
}

fn rewind(file: &mut File) -> Result<()> {
    file.rewind().doing(Kind::Storage, || "rewind the decoded archive")
}
