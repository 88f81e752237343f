//! `pg_dump` into the repository: one pass, no copy on this host.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::copies::Copies;
use super::parts::Parts;
use super::source::{Snapshot, Source};
use super::{Compress, Context, Options, Stage};
use crate::command::stage::{At as _, Failed};
use crate::digest::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::pg::archive::Archive;
use crate::process::{Program, shell_word};
use crate::progress::Unit;
use crate::repo::archive::ArchiveWatcher;
use crate::repo::{Ending, StoredObject};
use crate::stream::{Compressed, Compression, Compressor, compress, relay};

/// An archive that is stored under its final names; the manifest is still to come.
pub struct StoredArchive {
    pub archive: Archive,
    pub plain: Fingerprint,
    /// One, or the parts in order.
    pub objects: Vec<StoredObject>,
    pub program: PathBuf,
    /// What `pg_dump` said on standard error while it succeeded.
    pub warnings: Vec<String>,
}

/// `pg_dump`, custom format, to its standard output.
pub fn command(options: &Options, source: &Source, snapshot: &Snapshot) -> Result<Program> {
    let level = match options.compress {
        Compress::Zstd { .. } => 0,
        Compress::ByPgDump { level } => level,
    };
    let program = source.client("pg_dump")?.arg("--format=custom").arg(format!("--compress={level}"));
    // Else that of the role or the server's configuration, which may lack characters that the database has.
    let program = program.arg(format!("--encoding={}", source.encoding()));
    // To PostgreSQL 0 means to wait for ever, and more than this is an error.
    let lock_wait_milliseconds = options.lock_wait.as_millis().clamp(1, i32::MAX as u128);
    let program = program.arg(format!("--lock-wait-timeout={lock_wait_milliseconds}"));
    let program = program.args(&options.extra_options.words);
    Ok(program.arg(format!("--snapshot={}", snapshot.name)).arg(format!("--dbname={}", source.dbname_argument())))
}

/// Stores the archive in every copy. A copy whose store fails is given up; on any other failure the child is ended, and
/// nothing stands under the archive's name anywhere, but for parts that are whole: they go with the backup.
pub async fn store(
    context: &Context,
    options: &Options,
    source: &Source,
    snapshot: &Snapshot,
    copies: &mut Copies<'_>,
) -> Result<StoredArchive, Failed<Stage>> {
    let program = command(options, source, snapshot).at(Stage::Archive)?;
    tracing::info!("{}", program.command_line());
    let task = context.monitor.task(source.database(), Unit::Bytes, Some(expected_bytes(snapshot)));
    let path = source.clients.program("pg_dump").at(Stage::Archive)?;
    let (child, stdout) = program.spawn_piped().at(Stage::Archive)?;
    let watcher = ArchiveWatcher::new(task.clone());
    let compressor = match options.compress {
        Compress::Zstd { level } => compress(stdout, Compression { level, threads: options.threads }, watcher, task),
        Compress::ByPgDump { .. } => relay(stdout, watcher, task),
    };
    let stem = copies.stem().clone();
    let packing = options.compress.packing();
    let mut parts = Parts::open(copies, packing, options.split, expected_bytes(snapshot)).await;
    let pumped = match compressor.at(Stage::Archive) {
        Ok(compressor) => pump(&context.interrupt, compressor, &mut parts).await,
        Err(failed) => Err(failed),
    };
    let compressed = match pumped {
        Ok(Some(compressed)) => compressed,
        Ok(None) => {
            child.terminate().await;
            return Err(parts.nobody_left().await);
        }
        Err(Failed { stage, error }) => {
            parts.abort().await;
            let words = child.terminate().await;
            return Err(Failed { stage, error: with_words(error, &words) });
        }
    };
    let finished = async {
        // End of file is not success: a killed pg_dump closes its pipe, too. Its exit status decides, and then the
        // archive itself.
        let exit = child.wait_unless(context.interrupt.stopped()).await?;
        let warnings = exit.check().map_err(|error| with_hint(error, source.database()))?;
        let archive = compressed.observer.finish().map_err(|error| with_words(error, &warnings))?;
        Ok::<_, Error>((archive, warnings))
    };
    let (archive, warnings) = match finished.await {
        Ok(finished) => finished,
        Err(error) => {
            parts.abort().await;
            return Err(error).at(Stage::Archive);
        }
    };
    let (plain, stored) = (compressed.plain, compressed.stored);
    let objects = parts.finish(stored).await?;
    let (name, count) = (stem.object(Ending::archive(packing)), objects.len());
    tracing::info!("stored {name}: {} bytes of archive in {}, objects: {count}", plain.size_bytes, stored.size_bytes);
    Ok(StoredArchive { archive, plain, objects, program: path, warnings })
}

/// Piece by piece to the end of the stream; `None` if nobody takes it any more.
async fn pump(
    interrupt: &Interrupt,
    mut compressor: Compressor<ArchiveWatcher>,
    parts: &mut Parts<'_, '_>,
) -> Result<Option<Compressed<ArchiveWatcher>>, Failed<Stage>> {
    while parts.is_open() {
        let Some(piece) = interrupt.guard(compressor.next()).await.at(Stage::Archive)? else {
            return interrupt.guard(compressor.finish()).await.at(Stage::Archive).map(Some);
        };
        // The outer error is that of an interruption.
        interrupt.guard(async { Ok(parts.write(piece).await) }).await.at(Stage::Archive)??;
    }
    Ok(None)
}

/// What pg_dump said explains an archive that makes no sense better than the archive does.
pub(super) fn with_words(error: Error, words: &[String]) -> Error {
    if words.is_empty() || error.kind != Kind::Verification {
        return error;
    }
    let kind = error.kind;
    Error::new(kind, error.to_string()).because(format!("pg_dump said: {}", words.join("; ")))
}

const LOCKED: &str = "another session has locked that table; to see which: SELECT a.pid, a.usename, a.state, \
    l.relation::regclass, a.query FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
    WHERE l.mode = 'AccessExclusiveLock'; or wait longer: --lock-wait 10m";

/// The next step after the two failures that a database in use brings about.
pub(super) fn with_hint(error: Error, database: &str) -> Error {
    let words = error.to_string();
    if words.contains("LOCK TABLE") && words.contains("statement timeout") {
        return error.hint(LOCKED);
    }
    if words.contains("permission denied") {
        let database = shell_word(OsStr::new(database));
        return error.hint(format!(
            "grant the role what it may not read (GRANT pg_read_all_data reads every table); \
             pgkeep check -d {database} names each"
        ));
    }
    error
}

/// An archive has no indexes and no dead rows; without better knowledge its size is that of the tables.
fn expected_bytes(snapshot: &Snapshot) -> u64 {
    let tables: u64 = snapshot.description.relations.iter().map(|relation| relation.size_bytes).sum();
    tables.max(1)
}
