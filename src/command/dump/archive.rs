//! `pg_dump` into the repository: one pass, no copy on this host.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::copies::Copies;
use super::fan::Fan;
use super::source::{Snapshot, Source};
use super::{Context, Options, Stage};
use crate::command::stage::{At as _, Failed};
use crate::digest::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::pg::archive::Archive;
use crate::process::{Program, shell_word};
use crate::progress::Unit;
use crate::repo::archive::ArchiveWatcher;
use crate::repo::{Ending, Packing};
use crate::storage::ObjectMeta;
use crate::stream::{Compressed, Compressor, compress};

/// An archive that is stored under its final name; the manifest is still to come.
pub struct StoredArchive {
    pub archive: Archive,
    pub plain: Fingerprint,
    pub stored: Fingerprint,
    pub program: PathBuf,
    /// What `pg_dump` said on standard error while it succeeded.
    pub warnings: Vec<String>,
}

/// `pg_dump`, uncompressed, custom format, to its standard output.
pub fn command(options: &Options, source: &Source, snapshot: &Snapshot) -> Result<Program> {
    let program = source.client("pg_dump")?.args(["--format=custom", "--compress=0"]);
    // Else that of the role or the server's configuration, which may lack characters that the database has.
    let program = program.arg(format!("--encoding={}", source.encoding()));
    // To PostgreSQL 0 means to wait for ever, and more than this is an error.
    let lock_wait_milliseconds = options.lock_wait.as_millis().clamp(1, i32::MAX as u128);
    let program = program.arg(format!("--lock-wait-timeout={lock_wait_milliseconds}"));
    Ok(program.arg(format!("--snapshot={}", snapshot.name)).arg(format!("--dbname={}", source.dbname_argument())))
}

/// Stores the archive in every copy. A copy whose store fails is given up; on any other failure the child is ended, and
/// nothing stands under the archive's name anywhere.
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
    let compressor = compress(stdout, options.compression, ArchiveWatcher::new(task.clone()), task);
    let mut fan = Fan::open(copies, Ending::archive(Packing::Zstd), expected_bytes(snapshot)).await;
    let compressed = match compressor {
        Ok(compressor) => pump(&context.interrupt, compressor, &mut fan).await,
        Err(error) => Err(error),
    };
    let compressed = match compressed {
        Ok(Some(compressed)) => compressed,
        Ok(None) => {
            child.terminate().await;
            let closed = fan.abort().await.into_iter().map(|error| error.map_or(Ok(()), Err)).collect();
            copies.keep(Stage::Archive, closed).await?;
            return Err(Error::new(Kind::Unexpected, "store an archive that nothing took")).at(Stage::Archive);
        }
        Err(error) => {
            fan.abort().await;
            let words = child.terminate().await;
            return Err(with_words(error, &words)).at(Stage::Archive);
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
            fan.abort().await;
            return Err(error).at(Stage::Archive);
        }
    };
    let (plain, stored) = (compressed.plain, compressed.stored);
    let confirmed = fan.finish().await.into_iter().map(|meta| confirm(&meta?, stored)).collect();
    copies.keep(Stage::Archive, confirmed).await?;
    let name = copies.stem().object(Ending::archive(Packing::Zstd));
    tracing::info!("stored {name}: {} bytes of archive in {}", plain.size_bytes, stored.size_bytes);
    Ok(StoredArchive { archive, plain, stored, program: path, warnings })
}

/// Frame by frame to the end of the stream; `None` if nobody takes it any more.
async fn pump(
    interrupt: &Interrupt,
    mut compressor: Compressor<ArchiveWatcher>,
    fan: &mut Fan,
) -> Result<Option<Compressed<ArchiveWatcher>>> {
    while fan.is_open() {
        let Some(frame) = interrupt.guard(compressor.next()).await? else {
            return interrupt.guard(compressor.finish()).await.map(Some);
        };
        let handed = async {
            fan.write(&frame).await;
            Ok(())
        };
        interrupt.guard(handed).await?;
    }
    Ok(None)
}

fn confirm(meta: &ObjectMeta, stored: Fingerprint) -> Result<()> {
    if meta.size_bytes == stored.size_bytes {
        return Ok(());
    }
    let cause = format!("{} bytes were sent, the store has {}", stored.size_bytes, meta.size_bytes);
    Err(Error::new(Kind::Verification, format!("confirm {}", meta.key)).because(cause))
}

/// What pg_dump said explains an archive that makes no sense better than the archive does.
fn with_words(error: Error, words: &[String]) -> Error {
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
fn with_hint(error: Error, database: &str) -> Error {
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
