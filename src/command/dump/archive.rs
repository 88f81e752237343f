//! `pg_dump` into the repository: one pass, no copy on this host.

use std::ffi::OsStr;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use super::copies::Copies;
use super::parts::Parts;
use super::source::{Snapshot, Source};
use super::{Compress, Context, Options, Stage, locks};
use crate::command::stage::{At as _, Failed};
use crate::digest::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::pg::archive::Content;
use crate::process::{Program, shell_word};
use crate::progress::{Task, Unit};
use crate::repo::archive::ArchiveWatcher;
use crate::repo::{Ending, Form};
use crate::stream::{Compressed, Compression, Compressor, Observer, compress, relay};

/// An archive that is stored under its final names; the manifest is still to come.
pub struct StoredArchive {
    pub content: Content,
    pub plain: Fingerprint,
    pub program: PathBuf,
    /// What `pg_dump` said on standard error while it succeeded.
    pub warnings: Vec<String>,
}

/// `pg_dump` to its standard output; a directory is still to be named.
pub fn command(options: &Options, source: &Source, snapshot: &Snapshot) -> Result<Program> {
    let program = source.client("pg_dump")?.arg(format!("--format={}", options.format.as_str()));
    let program = program.arg(format!("--compress={}", options.compress.word()));
    let program = match options.form() {
        // Its files are read and gone before a disk has them.
        Form::Directory => program.arg(format!("--jobs={}", options.jobs())).arg("--no-sync"),
        _ => program,
    };
    // Else that of the role or the server's configuration, which may lack characters that the database has.
    let program = program.arg(format!("--encoding={}", source.encoding()));
    // To PostgreSQL 0 means to wait for ever, and more than this is an error.
    let lock_wait_milliseconds = options.lock_wait.limit.as_millis().clamp(1, i32::MAX as u128);
    let program = program.arg(format!("--lock-wait-timeout={lock_wait_milliseconds}"));
    let program = program.args(options.filter.words());
    // What --verbose tells is no warning: it goes to the log and nowhere else.
    let program = if options.filter.is_verbose() { program.keeping(is_no_progress) } else { program };
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
    let form = options.form();
    let compressor = ArchiveWatcher::new(form, task.clone()).and_then(|watcher| packed(options, stdout, watcher, task));
    let stem = copies.stem().clone();
    let packing = options.compress.packing();
    let mut parts =
        Parts::open(copies, form, packing, options.split, expected_bytes(snapshot)).await.at(Stage::Archive)?;
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
        let content = compressed.observer.finish().map_err(|error| with_words(error, &warnings))?;
        Ok::<_, Error>((content, warnings))
    };
    let (content, warnings) = match finished.await {
        Ok(finished) => finished,
        Err(error) => {
            parts.abort().await;
            return Err(locks::explain(error, source).await).at(Stage::Archive);
        }
    };
    let (plain, stored) = (compressed.plain, compressed.stored);
    let count = parts.finish(stored).await?;
    let name = stem.object(Ending::whole(form, packing));
    tracing::info!("stored {name}: {} bytes of archive in {}, objects: {count}", plain.size_bytes, stored.size_bytes);
    Ok(StoredArchive { content, plain, program: path, warnings })
}

/// What is stored of `input`, as it comes out.
pub(super) fn packed<R, O>(options: &Options, input: R, observer: O, task: Arc<dyn Task>) -> Result<Compressor<O>>
where
    R: Read + Send + 'static,
    O: Observer + 'static,
{
    match options.compress {
        Compress::Zstd { level } => compress(input, Compression { level, threads: options.threads }, observer, task),
        Compress::ByPgDump { .. } | Compress::Lz4 { .. } => relay(input, observer, task),
    }
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

/// Whether a line of `pg_dump --verbose` is something else than its progress: "pg_dump: reading schemas".
fn is_no_progress(line: &str) -> bool {
    // Before 12 errors had a module in brackets: "pg_dump: [archiver (db)] query failed".
    const SERIOUS: [&str; 6] = ["warning:", "error:", "fatal:", "detail:", "hint:", "["];
    line.strip_prefix("pg_dump: ").is_none_or(|said| SERIOUS.iter().any(|word| said.starts_with(word)))
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
    WHERE l.mode = 'AccessExclusiveLock'; or wait longer (--lock-wait 10m), or more often (--lock-retry 10)";

const NO_MATCH: &str = "patterns are those of psql: letters outside double quotes are folded to lower case, and a table \
    outside the search path needs its schema, as in --table 'sales.orders' or --table 'sales.\"Orders\"'";

const CONFLICT: &str = "replay on the standby cancelled the dump: let pgkeep pause replay (GRANT EXECUTE ON FUNCTION \
    pg_catalog.pg_wal_replay_pause(), pg_catalog.pg_wal_replay_resume() TO the role of the dump, on the primary), or set \
    max_standby_streaming_delay = -1 on the standby";

/// The next step after the failures that a database in use and a mistyped name bring about.
pub(super) fn with_hint(error: Error, database: &str) -> Error {
    let words = error.to_string();
    if words.contains("no matching ") {
        return error.hint(NO_MATCH);
    }
    if words.contains("conflict with recovery") {
        return error.hint(CONFLICT);
    }
    if locks::is_locked_out(&error) {
        return error.hint(LOCKED);
    }
    if words.contains("does not support compression with") {
        return error.hint("leave --compress out: then pgkeep compresses with zstd, whatever pg_dump can");
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
pub(super) fn expected_bytes(snapshot: &Snapshot) -> u64 {
    let tables: u64 = snapshot.description.relations.iter().map(|relation| relation.size_bytes).sum();
    tables.max(1)
}
