//! A stored archive, checked to its end, in a form that `pg_restore` and `psql` read.
//!
//! One in a stream becomes a file without a name: nothing of it outlives us. A directory has to have a name; it is removed
//! at the end, and by the next run where pgkeep is killed.

use std::fs::File;
use std::io::Seek as _;

use super::body::{self, Body, Folder, Mapper};
use super::sources::{Output, Unread};
use super::{Context, Options, Selected, SourceCopy};
use crate::command::staging::Staging;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::pg::archive::{Content, Front};
use crate::progress::Unit;
use crate::repo::Form;
use crate::repo::archive::read_dump;
use crate::repo::directory::read_directory;

/// From one copy of the backup.
pub async fn decode(
    context: &Context,
    options: &Options,
    selected: &Selected,
    copy: &SourceCopy,
) -> Result<Body, Unread> {
    match copy.manifest.form() {
        Form::Directory => directory(context, options, selected, copy).await,
        form => stream(context, options, selected, copy, form).await,
    }
}

async fn stream(
    context: &Context,
    options: &Options,
    selected: &Selected,
    copy: &SourceCopy,
    form: Form,
) -> Result<Body, Unread> {
    let (file, kept) = body::scratch_file(&options.scratch).map_err(Unread::ForGood)?;
    let task = context.monitor.task("read archive", Unit::Bytes, Some(copy.manifest.plain.size_bytes));
    let output = Output::new(file);
    let mapper = Mapper::new(output.attempt(), options.role_map.clone());
    let read = read_dump(&copy.repository, &selected.stem, &copy.manifest, mapper, options.threads, task);
    let (content, mapper) = match read.await {
        Ok(read) => read,
        Err(error) => return Err(output.abandon(error)),
    };
    match (content, form) {
        (Content::Archive(_), Form::Tar) => Ok(Body::Tar(kept)),
        // Only now: what was compared with the manifest is the archive as it was written.
        (Content::Archive(archive), _) => {
            let (_, shift) = mapper.finish().map_err(Unread::ForGood)?;
            body::complete(&kept, &archive, shift.as_ref()).map_err(Unread::ForGood)?;
            Ok(Body::Custom { archive, file: kept })
        }
        (Content::Script(_), Form::GzipScript) => unzipped(options, kept).await.map_err(Unread::ForGood),
        (Content::Script(_), _) => Ok(Body::Script(kept)),
    }
}

/// `psql` reads no gzip.
async fn unzipped(options: &Options, mut packed: File) -> Result<Body> {
    let (mut file, kept) = body::scratch_file(&options.scratch)?;
    let unzip = move || {
        packed.rewind()?;
        std::io::copy(&mut flate2::read::MultiGzDecoder::new(packed), &mut file)
    };
    let unzipped = tokio::task::spawn_blocking(unzip).await.doing(Kind::Unexpected, || "decode the script")?;
    unzipped.doing(Kind::Storage, || "decode the script")?;
    Ok(Body::Script(kept))
}

async fn directory(
    context: &Context,
    options: &Options,
    selected: &Selected,
    copy: &SourceCopy,
) -> Result<Body, Unread> {
    let plain_bytes = copy.manifest.plain.size_bytes;
    let staging = Staging::create(&options.scratch, plain_bytes, "the decoded files").map_err(Unread::ForGood)?;
    let path = staging.folder("dump").map_err(Unread::ForGood)?;
    let task = context.monitor.task("read archive", Unit::Bytes, Some(plain_bytes));
    let into = Some(path.as_path());
    read_directory(&copy.repository, &selected.stem, &copy.manifest, into, options.threads, task).await?;
    if !options.role_map.is_empty() {
        map_directory(&path, options).map_err(Unread::ForGood)?;
    }
    Ok(Body::Directory(Folder { path, staging: Some(staging) }))
}

fn map_directory(path: &std::path::Path, options: &Options) -> Result<()> {
    let toc = path.join("toc.dat");
    let bytes = std::fs::read(&toc).doing(Kind::Storage, || format!("read {}", toc.display()))?;
    let front = Front::read(bytes)?
        .map_err(|_| Error::new(Kind::Verification, "read the table of contents: it does not end"))?;
    std::fs::write(&toc, front.with_roles(&options.role_map)?)
        .doing(Kind::Storage, || format!("write {}", toc.display()))
}
