//! `pgkeep dump --to-file`: an archive of one database as `pg_dump` makes it, in a file or in a pipe, and no repository.
//!
//! Nothing is recorded of it and nobody keeps it: it is what `restore dump --from-file` and `pg_restore` read. A file
//! has its name only when `pg_dump` has ended well, the archive was read to its end and lies on disk. A pipe cannot take
//! back what went through: its reader sees an archive without an end.

use std::fs::File;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde::Serialize;

use super::archive::{command, with_hint, with_words};
use super::source::Source;
use super::{Context, Options, Plan, PlannedItem, plan, standby};
use crate::command::replay::Pause;
use crate::command::{Outcome, Status};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::progress::Unit;
use crate::repo::Form;
use crate::repo::archive::ArchiveWatcher;
use crate::stream::relay;

/// Where the archive goes.
pub enum Output {
    /// A file that does not exist yet.
    Path(PathBuf),
    Stream(Box<dyn Write + Send>),
}

/// What became of the database.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileItem {
    pub database: String,
    /// `None` is standard output.
    pub file: Option<PathBuf>,
    pub status: Status,
    pub duration_seconds: f64,
    pub plain_bytes: Option<u64>,
    /// For how long replay stood still on the standby; `None` where it was not paused.
    pub replay_paused_seconds: Option<f64>,
    pub warnings: Vec<String>,
    pub error: Option<Error>,
}

impl crate::command::Item for FileItem {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        &self.database
    }
}

/// Dumps the one database that `options` name.
pub async fn to_file(context: &Context, options: &Options, output: Output) -> Result<Outcome<FileItem>> {
    let Plan { items, warnings } = plan(context, options).await?;
    let [planned] = <[PlannedItem; 1]>::try_from(items).map_err(|items| {
        Error::usage(format!("--to-file takes one database, and {} are named", items.len()))
            .hint("name one with -d, and call pgkeep for each")
    })?;
    let started = Instant::now();
    let file = match &output {
        Output::Path(path) => Some(path.clone()),
        Output::Stream(_) => None,
    };
    let mut item = FileItem {
        database: planned.name.clone(),
        file,
        status: Status::Ok,
        duration_seconds: 0.0,
        plain_bytes: None,
        replay_paused_seconds: None,
        warnings: Vec::new(),
        error: None,
    };
    let mut pause = Pause::new(&options.instance);
    let dumped = dump(context, options, &planned, output, &mut pause, &mut item.warnings);
    let done = AssertUnwindSafe(dumped).catch_unwind().await;
    item.warnings.extend(pause.end(context).await);
    item.replay_paused_seconds = pause.seconds();
    match done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Ok(size_bytes) => item.plain_bytes = Some(size_bytes),
        Err(error) => {
            item.status = Status::Failed;
            let kind = error.kind;
            item.error = Some(Error::new(kind, format!("dump database {:?}", item.database)).because(error));
        }
    }
    item.duration_seconds = started.elapsed().as_secs_f64();
    Ok(Outcome::of(vec![item], warnings))
}

async fn dump(
    context: &Context,
    options: &Options,
    planned: &PlannedItem,
    output: Output,
    pause: &mut Pause,
    warnings: &mut Vec<String>,
) -> Result<u64> {
    let mut unfinished = Unfinished::begin(output)?;
    let interrupt = &context.interrupt;
    let source = interrupt.guard(Source::connect(context, options, planned)).await?;
    warnings.extend(source.warnings.iter().cloned());
    warnings.extend(interrupt.guard(standby::begin(context, options, &source, pause)).await?);
    let snapshot = interrupt.guard(source.snapshot()).await?;
    let program = command(options, &source, &snapshot)?;
    tracing::info!("{}", program.command_line());
    let task = context.monitor.task(source.database(), Unit::Bytes, None);
    let (child, stdout) = program.spawn_piped()?;
    let watcher = ArchiveWatcher::new(Form::Custom, task.clone())?;
    let mut stream = relay(stdout, watcher, task)?;
    let pumped = async {
        while let Some(piece) = stream.next().await? {
            unfinished = unfinished.write(piece).await?;
        }
        Ok((stream.finish().await?, unfinished))
    };
    let (read, unfinished) = match interrupt.guard(pumped).await {
        Ok(pumped) => pumped,
        Err(error) => {
            let words = child.terminate().await;
            return Err(with_words(error, &words));
        }
    };
    // End of file is not success: a killed pg_dump closes its pipe, too.
    let exit = child.wait_unless(interrupt.stopped()).await?;
    let said = exit.check().map_err(|error| with_hint(error, source.database()))?;
    read.observer.finish().map_err(|error| with_words(error, &said))?;
    warnings.extend(said);
    unfinished.finish()?;
    Ok(read.plain.size_bytes)
}

/// An output that is being written.
enum Unfinished {
    /// Under a name of its own until it is whole.
    File {
        file: tempfile::NamedTempFile,
        path: PathBuf,
    },
    Stream(Box<dyn Write + Send>),
}

impl Unfinished {
    fn begin(output: Output) -> Result<Self> {
        let path = match output {
            Output::Stream(stream) => return Ok(Self::Stream(stream)),
            Output::Path(path) => path,
        };
        if path.symlink_metadata().is_ok() {
            return Err(exists(&path));
        }
        let made = tempfile::Builder::new().prefix(".pgkeep-").tempfile_in(directory_of(&path));
        let file = made.doing(Kind::Storage, || format!("write {}", path.display()));
        let file = file.map_err(|error| error.hint("name a file in a directory that exists and can be written"))?;
        Ok(Self::File { file, path })
    }

    /// On a thread that may wait: a pipe is as slow as its reader.
    async fn write(mut self, piece: Bytes) -> Result<Self> {
        let writing = tokio::task::spawn_blocking(move || {
            let written = match &mut self {
                Self::File { file, .. } => file.write_all(&piece),
                Self::Stream(stream) => stream.write_all(&piece),
            };
            written.map_err(|error| self.unwritten(error)).map(|()| self)
        });
        writing.await.doing(Kind::Unexpected, || "write the archive")?
    }

    fn unwritten(&self, error: std::io::Error) -> Error {
        let is_broken = error.kind() == std::io::ErrorKind::BrokenPipe;
        match self {
            Self::File { path, .. } => Error::new(Kind::Storage, format!("write {}", path.display()))
                .because(error)
                .hint("free some space, or name a file on another disk"),
            Self::Stream(_) => {
                let unwritten = Error::new(Kind::Storage, "write to standard output").because(error);
                match is_broken {
                    true => unwritten.hint("the program that reads it has ended: look at what it said"),
                    false => unwritten,
                }
            }
        }
    }

    /// On disk, and then under its name.
    fn finish(self) -> Result<()> {
        let (file, path) = match self {
            Self::Stream(mut stream) => {
                let flushed = stream.flush();
                return flushed.map_err(|error| Self::Stream(stream).unwritten(error));
            }
            Self::File { file, path } => (file, path),
        };
        let doing = || format!("write {}", path.display());
        file.as_file().sync_all().doing(Kind::Storage, doing)?;
        file.persist_noclobber(&path).map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(&path),
            _ => Error::new(Kind::Storage, doing()).because(error.error),
        })?;
        File::open(directory_of(&path)).and_then(|directory| directory.sync_all()).doing(Kind::Storage, doing)
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn exists(path: &Path) -> Error {
    Error::refused(format!("{} exists", path.display())).hint("name a file that does not exist yet")
}
