//! The files of a directory dump as `pg_dump` wrote them, for `pg_restore` by hand.

use std::fs::File;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::sources::Unread;
use super::{Context, Selected, Source, SourceCopy, file};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::progress::Unit;
use crate::repo::directory::read_directory;

/// Writes the files into a new directory of mode 0700, checked to their end before it has its name.
pub async fn write(context: &Context, source: &Source, selected: &Selected, path: &Path, parent: &Path) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let attempt = async |copy: &SourceCopy| -> Result<tempfile::TempDir, Unread> {
        let made = tempfile::Builder::new().prefix(".pgkeep-").tempdir_in(parent);
        let made = made.doing(Kind::Storage, doing).map_err(Unread::ForGood)?;
        let SourceCopy { repository, manifest } = copy;
        let task = context.monitor.task("read archive", Unit::Bytes, Some(manifest.plain.size_bytes));
        let into = Some(made.path());
        read_directory(repository, &selected.stem, manifest, into, source.threads, task).await?;
        Ok(made)
    };
    let made = context.interrupt.guard(selected.sources.deliver("the archive", attempt)).await?;
    sync(made.path()).doing(Kind::Storage, doing)?;
    match rustix::fs::renameat_with(CWD, made.path(), CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => drop(made.keep()),
        Err(Errno::EXIST) => return Err(file::exists(path)),
        Err(errno) => return Err(Error::new(Kind::Storage, doing()).because(errno)),
    }
    File::open(parent).and_then(|parent| parent.sync_all()).doing(Kind::Storage, doing)
}

fn sync(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}
