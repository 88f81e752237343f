//! The plain archive as `pg_dump` wrote it, for `pg_restore` by hand.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::sources::{Output, Unread};
use super::{Context, Item, Outcome, Selected, Source, SourceCopy, Stage, folder, plan, recorded};
use crate::command::stage::{At as _, Failed};
use crate::error::{Doing, Error, Kind, Result};
use crate::progress::Unit;
use crate::repo::Form;
use crate::repo::archive::read_dump;

/// Writes the archive to a new file of mode 0600, checked to its end before it has its name.
pub async fn to_file(context: &Context, source: &Source, selected: &Selected, path: &Path) -> Result<Outcome<Item>> {
    recorded(context, selected, async |item: &mut Item| {
        item.file = Some(path.to_owned());
        write(context, source, selected, path).await.at(Stage::File)
    })
    .await
}

async fn write(context: &Context, source: &Source, selected: &Selected, path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    plan::room(directory, selected.manifest.plain.size_bytes, "the archive")?;
    if selected.manifest.form() == Form::Directory {
        return folder::write(context, source, selected, path, directory).await;
    }
    let doing = || format!("write {}", path.display());
    let attempt = async |copy: &SourceCopy| {
        let begin = || {
            let unfinished = tempfile::Builder::new().prefix(".pgkeep-").tempfile_in(directory)?;
            let file = unfinished.reopen()?;
            Ok::<_, std::io::Error>((unfinished, file))
        };
        let (unfinished, file) = begin().doing(Kind::Storage, doing).map_err(Unread::ForGood)?;
        let output = Output::new(file);
        match read(context, source, selected, copy, output.attempt()).await {
            Ok(()) => Ok(unfinished),
            Err(error) => Err(output.abandon(error)),
        }
    };
    let unfinished = context.interrupt.guard(selected.sources.deliver("the archive", attempt)).await?;
    unfinished.as_file().sync_all().doing(Kind::Storage, doing)?;
    unfinished.persist_noclobber(path).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(path),
        _ => Error::new(Kind::Storage, doing()).because(error.error),
    })?;
    File::open(directory).and_then(|directory| directory.sync_all()).doing(Kind::Storage, doing)
}

pub(super) fn exists(path: &Path) -> Error {
    Error::refused(format!("{} exists", path.display())).hint("name a file that does not exist yet")
}

/// Writes the archive to `output`. It is read twice: what reaches `output` cannot be taken back, so the first pass
/// checks it to its end.
pub async fn to_stream<W: Write + Send + 'static>(
    context: &Context,
    source: &Source,
    selected: &Selected,
    output: W,
) -> Result<Outcome<Item>> {
    if selected.manifest.form() == Form::Directory {
        return Err(Error::usage(format!("{} is a directory, which standard output cannot be", selected.manifest.id))
            .hint("name a directory that does not exist yet with --to-file"));
    }
    recorded(context, selected, async |_: &mut Item| {
        let sources = &selected.sources;
        let both = async {
            let check = async |copy: &SourceCopy| Ok(read(context, source, selected, copy, std::io::sink()).await?);
            sources.deliver("the archive", check).await?;
            let output = Output::new(output);
            let write = async |copy: &SourceCopy| {
                let done = read(context, source, selected, copy, output.attempt()).await;
                done.map_err(|error| output.give_up(error))
            };
            sources.deliver("the archive", write).await?;
            output.flush().doing(Kind::Storage, || "write to standard output")
        };
        context.interrupt.guard(both).await.map_err(|error| Failed { stage: Stage::File, error })
    })
    .await
}

async fn read<W: Write + Send + 'static>(
    context: &Context,
    source: &Source,
    selected: &Selected,
    copy: &SourceCopy,
    output: W,
) -> Result<()> {
    let SourceCopy { repository, manifest } = copy;
    let task = context.monitor.task("read archive", Unit::Bytes, Some(manifest.plain.size_bytes));
    read_dump(repository, &selected.stem, manifest, output, source.threads, task).await?;
    Ok(())
}
