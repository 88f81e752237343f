//! `pg_dump` in the directory format, several tables at the same time. It cannot write that to a pipe, so its files lie on
//! this host for as long as one is being written; each is taken as soon as it is closed, compressed, stored, and gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::archive::{self, StoredArchive};
use super::arrivals::Arrivals;
use super::copies::Copies;
use super::fan::Fan;
use super::source::{Snapshot, Source};
use super::{Context, Options, Stage, locks};
use crate::command::stage::{At as _, Failed};
use crate::command::staging::Staging;
use crate::digest::Fingerprint;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::pg::archive::{Content, Member};
use crate::process::Child;
use crate::progress::{Task, Unit};
use crate::repo::Ending;
use crate::repo::directory::{DirectoryWatcher, MemberWatcher};
use crate::stream::Compressed;

/// A manifest names every file. With more it would be larger than a manifest may be.
const MOST_MEMBERS: u64 = 9_000;

/// Files that are stored at the same time. Of large ones there is one, which has all the threads.
const AT_ONCE: usize = 4;
const LARGE_BYTES: u64 = 4 << 20;

/// As [`archive::store`], with an object for each file.
pub async fn store(
    context: &Context,
    options: &Options,
    source: &Source,
    snapshot: &Snapshot,
    copies: &mut Copies<'_>,
) -> Result<StoredArchive, Failed<Stage>> {
    refuse_what_cannot_be(options, source, snapshot).at(Stage::Archive)?;
    let needed_bytes = at_the_same_time(options, snapshot);
    let staging = Staging::create(&context.scratch(), needed_bytes, "the tables that are dumped at the same time");
    let staging = staging.at(Stage::Archive)?;
    let folder = staging.folder("dump").at(Stage::Archive)?;
    let program = archive::command(options, source, snapshot).at(Stage::Archive)?;
    let program = program.arg(format!("--file={}", folder.display()));
    tracing::info!("{}", program.command_line());
    let path = source.clients.program("pg_dump").at(Stage::Archive)?;
    let task = context.monitor.task(source.database(), Unit::Bytes, Some(archive::expected_bytes(snapshot)));

    let (send, queue) = unbounded_channel();
    let arrivals = Arrivals::of(&folder, send.clone());
    let child = program.spawn_quiet().at(Stage::Archive)?;
    let members = Storing::new(options, copies, &folder, task);
    let (ended, stored) =
        tokio::join!(follow(context, child, arrivals, &folder, send, &members.stop), members.store_all(queue));
    let lanes = members.lanes();
    let all_lost = lanes.iter().all(Result::is_err);
    if ended.is_ok() || all_lost {
        copies.keep(Stage::Archive, lanes).await?;
    }
    let (warnings, stored) = match (ended, stored) {
        // Files that could not be stored are why it was stopped.
        (_, Err(Some(error))) => return Err(error).at(Stage::Archive),
        (Err(error), _) => {
            let error = archive::with_hint(error, source.database());
            return Err(locks::explain(error, source).await).at(Stage::Archive);
        }
        (Ok(_), Err(None)) => {
            return Err(Error::new(Kind::Unexpected, "store the files of a directory")).at(Stage::Archive);
        }
        (Ok(warnings), Ok(stored)) => (warnings, stored),
    };
    let mut watcher = DirectoryWatcher::default();
    let count = stored.len();
    for (member, Compressed { plain, observer, .. }) in stored {
        watcher.took(member, observer, plain).at(Stage::Archive)?;
    }
    let (archive, plain) =
        watcher.finish().map_err(|error| archive::with_words(error, &warnings)).at(Stage::Archive)?;
    tracing::info!("stored {}: {} bytes in {} files", copies.stem(), plain.size_bytes, count);
    Ok(StoredArchive { content: Content::Archive(Box::new(archive)), plain, program: path, warnings })
}

fn refuse_what_cannot_be(options: &Options, source: &Source, snapshot: &Snapshot) -> Result<()> {
    if source.clients.are_elsewhere() {
        return Err(Error::refused("--format directory needs a pg_dump that writes to this host")
            .hint("leave bin_prefix out for this dump, or use --format custom"));
    }
    // A choice may leave nearly all of them out.
    if options.filter.is_filtered() {
        return Ok(());
    }
    let description = &snapshot.description;
    let tables = description.relations.iter().filter(|relation| relation.kind == "table").count() as u64;
    match tables + description.large_objects {
        0..MOST_MEMBERS => Ok(()),
        count => Err(too_many(count)),
    }
}

fn too_many(count: u64) -> Error {
    Error::refused(format!("a directory dump has at most {MOST_MEMBERS} files, this one would have {count}"))
        .hint("use --format custom: it is one file, whatever it holds")
}

/// Bytes of the largest tables, of which so many are written at once. What is compressed slower than it is written takes
/// more.
fn at_the_same_time(options: &Options, snapshot: &Snapshot) -> u64 {
    if options.filter.is_filtered() {
        return 0;
    }
    let mut sizes: Vec<u64> = snapshot.description.relations.iter().map(|relation| relation.size_bytes).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.iter().take(options.jobs()).sum()
}

fn member_ending(options: &Options, member: Member) -> Ending {
    Ending::Member { member, packing: options.compress.packing() }
}

/// Waits for the end of `pg_dump`, and tells of its files until then. What it said.
async fn follow(
    context: &Context,
    child: Child,
    arrivals: Arrivals,
    folder: &Path,
    names: UnboundedSender<String>,
    stop: &CancellationToken,
) -> Result<Vec<String>> {
    let stopped = async {
        tokio::select! {
            biased;
            error = context.interrupt.stopped() => error,
            () = stop.cancelled() => Error::new(Kind::Storage, "store the files of pg_dump"),
        }
    };
    let exit = child.wait_unless(stopped).await;
    drop(arrivals);
    let warnings = exit.and_then(|exit| exit.check()).inspect_err(|_| stop.cancel())?;
    // All that was not told, and what was told and not taken yet.
    let left = std::fs::read_dir(folder).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let left = left.doing(Kind::Storage, || format!("list {}", folder.display())).inspect_err(|_| stop.cancel())?;
    for entry in left {
        // Whoever stores them and is gone has told why.
        let _ = names.send(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(warnings)
}

/// A file that is stored.
type Stored = Compressed<MemberWatcher>;

/// The files of one dump on their way into every copy.
struct Storing<'a, 'd> {
    options: &'a Options,
    copies: &'a Copies<'d>,
    folder: &'a Path,
    task: Arc<dyn Task>,
    /// Ends what is under way: something failed.
    stop: CancellationToken,
    large: Semaphore,
    seen: Mutex<BTreeSet<Member>>,
    /// Why a copy takes no more, in the order of the copies.
    lost: Mutex<Vec<Option<Error>>>,
}

impl<'a, 'd> Storing<'a, 'd> {
    fn new(options: &'a Options, copies: &'a Copies<'d>, folder: &'a Path, task: Arc<dyn Task>) -> Self {
        let lost = copies.making().iter().map(|_| None).collect();
        Self {
            options,
            copies,
            folder,
            task,
            stop: CancellationToken::new(),
            large: Semaphore::new(1),
            seen: Mutex::default(),
            lost: Mutex::new(lost),
        }
    }

    /// Stores what is named until nothing more is; no error of its own where it was only stopped.
    async fn store_all(&self, queue: UnboundedReceiver<String>) -> Result<BTreeMap<Member, Stored>, Option<Error>> {
        let names = stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
        let mut storing = std::pin::pin!(names.map(|name| self.store(name)).buffer_unordered(AT_ONCE));
        let mut stored = BTreeMap::new();
        let mut failed: Option<Option<Error>> = None;
        while let Some(done) = storing.next().await {
            match done {
                Ok(Some((member, compressed))) => drop(stored.insert(member, compressed)),
                Ok(None) => {}
                Err(error) => {
                    self.stop.cancel();
                    failed = Some(failed.flatten().or(error));
                }
            }
        }
        failed.map_or(Ok(stored), Err)
    }

    async fn store(&self, name: String) -> Result<Option<(Member, Stored)>, Option<Error>> {
        if self.stop.is_cancelled() {
            return Err(None);
        }
        let Some((member, file)) = self.take(&name)? else { return Ok(None) };
        let size_bytes = file.metadata().doing(Kind::Storage, || format!("look at {name}"))?.len();
        let _turn = match size_bytes {
            0..LARGE_BYTES => None,
            _ => self.large.acquire().await.ok(),
        };
        self.task.note(&name);
        let watcher = MemberWatcher::new(member);
        let compressor = archive::packed(self.options, file, watcher, self.task.clone())?;
        let ending = member_ending(self.options, member);
        let is_lost = |at: usize| locked(&self.lost).get(at).is_some_and(Option::is_some);
        let mut fan = Fan::open_where(self.copies, ending, size_bytes, |at| !is_lost(at)).await;
        match self.pump(compressor, &mut fan).await {
            Ok(compressed) => {
                self.settle(fan, compressed.stored).await?;
                Ok(Some((member, compressed)))
            }
            Err(error) => {
                self.give_up(fan.abort().await);
                Err(error)
            }
        }
    }

    /// Opens a file and takes its name away: what is left of a killed run is what was being written. `None` if it was
    /// told twice.
    fn take(&self, name: &str) -> Result<Option<(Member, File)>> {
        let path = self.folder.join(name);
        let doing = || format!("take {}", path.display());
        let unknown =
            || Error::new(Kind::NotVerified, format!("pg_dump wrote a file {name:?}, which pgkeep does not know"));
        let member: Member =
            name.parse().map_err(|_| unknown().hint("pgkeep may be older than pg_dump: update pgkeep"))?;
        let mut seen = locked(&self.seen);
        let is_known = !seen.insert(member);
        if seen.len() as u64 > MOST_MEMBERS {
            return Err(too_many(seen.len() as u64));
        }
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && is_known => return Ok(None),
            opened => opened.doing(Kind::Storage, doing)?,
        };
        if is_known {
            return Err(Error::new(Kind::Tool, format!("pg_dump wrote {name} twice")));
        }
        std::fs::remove_file(&path).doing(Kind::Storage, doing)?;
        Ok(Some((member, file)))
    }

    async fn pump(
        &self,
        mut compressor: crate::stream::Compressor<MemberWatcher>,
        fan: &mut Fan,
    ) -> Result<Stored, Option<Error>> {
        while fan.is_open() {
            let piece = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(None),
                piece = compressor.next() => piece?,
            };
            match piece {
                Some(piece) => tokio::select! {
                    biased;
                    // A store may take its time, and whoever stops us is not to wait for it.
                    () = self.stop.cancelled() => return Err(None),
                    () = fan.write(&piece) => {}
                },
                None => return Ok(compressor.finish().await?),
            }
        }
        Err(None)
    }

    /// Ends a file in every copy; fails when none takes any more.
    async fn settle(&self, fan: Fan, stored: Fingerprint) -> Result<(), Option<Error>> {
        self.give_up(fan.finish(stored).await.into_iter().map(Result::err).collect());
        if locked(&self.lost).iter().all(Option::is_some) { Err(None) } else { Ok(()) }
    }

    /// The first error of a copy is the one that counts.
    fn give_up(&self, errors: Vec<Option<Error>>) {
        for (lost, error) in locked(&self.lost).iter_mut().zip(errors) {
            if lost.is_none() {
                *lost = error;
            }
        }
    }

    /// What became of every copy.
    fn lanes(self) -> Vec<Result<()>> {
        let lost = self.lost.into_inner().unwrap_or_else(PoisonError::into_inner);
        lost.into_iter().map(|error| error.map_or(Ok(()), Err)).collect()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
