//! A repository with a past, writers that add to it and a prune that takes away.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use pgkeep::clock::{Clock as _, ManualClock};
use pgkeep::digest::Fingerprint;
use pgkeep::error::{Error, Kind, Result};
use pgkeep::interrupt::Interrupt;
use pgkeep::repo::{
    Adoption, ArchiveFormat, BackupId, BackupKind, BackupWriter, Checks, Client, Compression, Counts, DumpManifest,
    DumpStem, Ending, Folder, Form, Globals, GlobalsIncluded, InstanceName, Level, Lock, ObjectName, Packing, Proof,
    Repository, Run, RunName, RunOutcome, RunStatus, ServerVersion, Source, Stamp, StateDirectory, StoredName,
    StoredObject, Sweep, SweepPlan, Swept, Verb, Verdict, intents, judged_intents, liveness, runs,
};
use pgkeep::storage::{Key, MemoryStorage};
use tokio::runtime::Runtime;

use crate::explorer::{End, Execution, Process, World};
use crate::stepped::{Actor, Stepped};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// That of the prune: its locks are seen.
    Here,
    Elsewhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterOrder {
    Right,
    NoIntent,
    ManifestFirst,
    /// A copy that goes on with what another one, which died on its host, has stored.
    Resumes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneOrder {
    Right,
    ManifestsBeforeIntents,
    LockBeforeData,
}

#[derive(Clone, Copy, Debug)]
pub struct Writer {
    pub host: Host,
    pub order: WriterOrder,
    /// Also checksum, details, a refresh of the intent and a run record.
    pub complete: bool,
}

impl Writer {
    pub fn here() -> Self {
        Self { host: Host::Here, order: WriterOrder::Right, complete: true }
    }

    pub fn elsewhere() -> Self {
        Self { host: Host::Elsewhere, ..Self::here() }
    }

    pub fn resumes(self) -> Self {
        Self { order: WriterOrder::Resumes, ..self }
    }

    pub fn small(self) -> Self {
        Self { complete: false, ..self }
    }
}

pub struct House {
    writers: Vec<Writer>,
    prune: PruneOrder,
    deaths: usize,
    past: BTreeMap<Key, Bytes>,
    here: StateDirectory,
    elsewhere: StateDirectory,
    /// Replaced now and then, to be rid of the refreshers that executions left in it.
    runtime: RefCell<Arc<Runtime>>,
    begun: Cell<u32>,
    clock: RefCell<Arc<ManualClock>>,
    _directory: tempfile::TempDir,
}

fn new_runtime() -> Arc<Runtime> {
    Arc::new(tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap())
}

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_738_288_800, 0).unwrap()
}

fn main_instance() -> InstanceName {
    "main".parse().unwrap()
}

fn stem(database: &str) -> DumpStem {
    DumpStem::new(database, Stamp::of(start()), "db1")
}

/// Stored by a past run and to be removed; kept; left by a run that died.
const OLD: &str = "old";
const KEPT: &str = "kept";
const ORPHAN: &str = "orphan";

impl House {
    pub fn new(writers: &[Writer], prune: PruneOrder, deaths: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = |name: &str| StateDirectory::open(directory.path().join(name)).unwrap();
        let mut house = Self {
            writers: writers.to_vec(),
            prune,
            deaths,
            past: BTreeMap::new(),
            here: state("here"),
            elsewhere: state("elsewhere"),
            runtime: RefCell::new(new_runtime()),
            begun: Cell::new(0),
            clock: RefCell::new(Arc::new(ManualClock::at(start()))),
            _directory: directory,
        };
        house.past = house.make_past();
        house
    }

    /// A repository in which a backup was made, another that will go, with a proof, and one that died half-way.
    fn make_past(&self) -> BTreeMap<Key, Bytes> {
        let runtime = self.runtime.borrow().clone();
        let _entered = runtime.enter();
        let store = MemoryStorage::with_clock(self.clock.borrow().clone());
        let past = async {
            let repository = Repository::open_or_create(Arc::new(store.clone()), &self.here).await.unwrap();
            let lock = lock(&repository, &self.here, Verb::Dump).unwrap();
            for database in [OLD, KEPT] {
                let writer = claim(&repository, &lock, database).await.unwrap();
                let objects = store_data(&writer, true).await.unwrap();
                writer.commit(&manifest(database, objects)).await.unwrap();
            }
            proof(OLD).store(&repository).await.unwrap();
            // What a dump left is nobody's; what a copy left, the next one goes on with.
            let copier = self.writers.iter().find(|writer| writer.order == WriterOrder::Resumes);
            let state = copier.map_or(&self.here, |writer| self.state(writer.host));
            let verb = if copier.is_some() { Verb::Copy } else { Verb::Dump };
            drop(lock);
            let lock = super::world::lock(&repository, state, verb).unwrap();
            let dies = claim(&repository, &lock, ORPHAN).await.unwrap();
            store_data(&dies, false).await.unwrap();
        };
        past.now_or_never().expect("memory does not wait");
        store.contents()
    }

    fn state(&self, host: Host) -> &StateDirectory {
        match host {
            Host::Here => &self.here,
            Host::Elsewhere => &self.elsewhere,
        }
    }

    /// A process with a repository of its own, which `work` does its steps in.
    fn process<W, F>(&self, store: &MemoryStorage, host: Host, work: W) -> Process
    where
        W: FnOnce(Repository, StateDirectory, Arc<Actor>) -> F,
        F: Future<Output = Result<()>> + 'static,
    {
        let actor = Arc::new(Actor::default());
        actor.set_free(true);
        let storage = Arc::new(Stepped { inner: store.clone(), actor: Arc::clone(&actor) });
        let state = self.state(host).clone();
        let repository = Repository::open(storage, &state).now_or_never().expect("it is free").unwrap();
        actor.set_free(false);
        Process::new(Arc::clone(&actor), work(repository, state, actor))
    }
}

fn lock(repository: &Repository, state: &StateDirectory, verb: Verb) -> Result<Lock> {
    state.lock(repository.id(), &main_instance(), verb, start())
}

async fn claim(repository: &Repository, lock: &Lock, database: &str) -> Result<BackupWriter> {
    let clock = ManualClock::at(start());
    Ok(BackupWriter::claim(repository, lock, stem(database), "db1", &clock).await?.expect("the name is free"))
}

async fn store_data(writer: &BackupWriter, complete: bool) -> Result<Vec<StoredObject>> {
    let mut archive = writer.writer(Ending::archive(Packing::ZSTD), None).await?;
    archive.write(Bytes::from_static(b"archive")).await?;
    archive.finish().await?;
    let mut objects =
        vec![StoredObject::new(writer.stem(), Ending::archive(Packing::ZSTD), Fingerprint::of(b"archive"))];
    if complete {
        objects.push(writer.put(Ending::checksum(Form::Custom, Packing::ZSTD), Bytes::from_static(b"sum")).await?);
        writer.intent().refresh().await?;
        objects.push(writer.put(Ending::DETAILS, Bytes::from_static(b"details")).await?);
    }
    Ok(objects)
}

fn manifest(database: &str, objects: Vec<StoredObject>) -> DumpManifest {
    DumpManifest {
        format: DumpManifest::FORMAT,
        kind: BackupKind::Dump,
        id: (&stem(database)).into(),
        instance: main_instance(),
        database: database.to_owned(),
        system_identifier: None,
        server: ServerVersion { number: 150_008, text: "15.8".to_owned() },
        source: Source { host: "localhost".to_owned(), port: 5432 },
        backup_host: "db1".to_owned(),
        started_at: start(),
        finished_at: start(),
        duration_seconds: 0.0,
        client: Client { program: "pg_dump".to_owned(), version: "15.8".to_owned() },
        archive_format: ArchiveFormat::Custom,
        archive_version: Some("1.14".to_owned()),
        compression: Compression::zstd(3),
        encryption: None,
        plain: Fingerprint::of(b""),
        objects,
        globals: Globals { included: GlobalsIncluded::NotIncluded, reason: None },
        checks: Checks { decoded: true, read_back: false },
        filtered: false,
        filter: None,
        label: None,
        keep: None,
        counts: Counts::default(),
        database_size_bytes: None,
        pgkeep_version: "0.1.0".to_owned(),
    }
}

fn proof(database: &str) -> Proof {
    Proof {
        format: Proof::FORMAT,
        id: (&stem(database)).into(),
        instance: main_instance(),
        level: Level::L1,
        verdict: Verdict::Passed,
        at: start(),
        duration_seconds: 0.0,
        host: "db1".to_owned(),
        reason: None,
        findings: Vec::new(),
        pgkeep_version: "0.1.0".to_owned(),
    }
}

/// What `dump` does, in the order of the format.
async fn write(
    repository: Repository,
    state: StateDirectory,
    actor: Arc<Actor>,
    database: String,
    writer: Writer,
) -> Result<()> {
    actor.turn("lock").await;
    if writer.order == WriterOrder::Resumes {
        return resume(&repository, &state).await;
    }
    let lock = lock(&repository, &state, Verb::Dump)?;
    match writer.order {
        WriterOrder::Right => {}
        wrong => return write_wrongly(&repository, &database, wrong).await,
    }
    let name = RunName::new(Stamp::of(start()), Verb::Dump);
    let run = match writer.complete {
        true => Some(Run::begin(&repository, &state, &lock, "db1", name, start()).await?),
        false => None,
    };
    let backup = claim(&repository, &lock, &database).await?;
    let objects = store_data(&backup, writer.complete).await?;
    backup.commit(&manifest(&database, objects)).await?;
    if let Some(run) = run {
        run.finish(RunOutcome::succeeded(Vec::new()), start()).await?;
    }
    Ok(())
}

/// What `copy` does with a backup that a copy before it had begun.
async fn resume(repository: &Repository, state: &StateDirectory) -> Result<()> {
    let lock = lock(repository, state, Verb::Copy)?;
    let clock = ManualClock::at(start());
    let (writer, resumed) = match BackupWriter::adopt(repository, state, &lock, stem(ORPHAN), "db1", &clock).await? {
        Adoption::New(writer) => (writer, false),
        Adoption::Resumed(writer) => (writer, true),
        Adoption::Backup => return Ok(()),
    };
    let archive = StoredObject::new(writer.stem(), Ending::archive(Packing::ZSTD), Fingerprint::of(b"archive"));
    let is_there = async || repository.storage().head(&archive.key(&main_instance())).await.is_ok();
    if !(resumed && is_there().await) {
        store_data(&writer, false).await?;
    }
    writer.commit_copy(manifest(ORPHAN, vec![archive]).to_json()?).await
}

async fn write_wrongly(repository: &Repository, database: &str, order: WriterOrder) -> Result<()> {
    let stem = stem(database);
    let key = |ending| stem.object(ending).key(&main_instance());
    let archive = StoredObject::new(&stem, Ending::archive(Packing::ZSTD), Fingerprint::of(b"archive"));
    let data = (key(Ending::archive(Packing::ZSTD)), Bytes::from_static(b"archive"));
    let last = (key(Ending::Manifest), manifest(database, vec![archive]).to_json()?);
    let order = if order == WriterOrder::ManifestFirst { [last, data] } else { [data, last] };
    for (key, body) in order {
        repository.storage().create(&key, body).await?;
    }
    Ok(())
}

async fn prune(repository: Repository, state: StateDirectory, actor: Arc<Actor>, order: PruneOrder) -> Result<()> {
    actor.turn("lock").await;
    let lock = lock(&repository, &state, Verb::Prune)?;
    match order {
        PruneOrder::Right => {
            let plan = SweepPlan { remove: BTreeMap::from([(stem(OLD), Some(stem(KEPT)))]) };
            sweep(&plan, &repository, &state, &lock).await
        }
        wrong => prune_wrongly(&repository, &state, &actor, wrong).await,
    }
}

/// As `prune` does it, on the host of all tests.
async fn sweep(plan: &SweepPlan, repository: &Repository, state: &StateDirectory, lock: &Lock) -> Result<()> {
    let (mut swept, interrupt) = (Swept::default(), Interrupt::default());
    plan.execute(Sweep { repository, state, lock, host: "db1", interrupt: &interrupt }, &mut swept).await?;
    swept.unremoved.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

async fn dumps(repository: &Repository) -> Result<Vec<(DumpStem, Ending, Key)>> {
    let listed = repository.storage().list(&Folder::Dumps.of(&main_instance())).await?;
    let parsed = listed.into_iter().filter_map(|meta| match StoredName::parse(&meta.key)? {
        StoredName::Dump { name, .. } => Some((name.stem, name.ending, meta.key)),
        _ => None,
    });
    Ok(parsed.collect())
}

async fn manifests(repository: &Repository) -> Result<Vec<BackupId>> {
    let dumps = dumps(repository).await?;
    Ok(dumps.iter().filter(|(_, ending, _)| *ending == Ending::Manifest).map(|(stem, ..)| stem.into()).collect())
}

async fn prune_wrongly(
    repository: &Repository,
    state: &StateDirectory,
    actor: &Actor,
    order: PruneOrder,
) -> Result<()> {
    let old = stem(OLD).object(Ending::Manifest).key(&main_instance());
    repository.storage().delete(&old).await?;
    actor.turn("look at locks").await;
    let lock = state.lock_state(repository.id(), &main_instance(), Verb::Dump)?;
    let data = dumps(repository).await?;
    let mut named: BTreeSet<BackupId> = BTreeSet::new();
    if order == PruneOrder::ManifestsBeforeIntents {
        named.extend(manifests(repository).await?);
        let judged = judged_intents(repository, state, &main_instance()).await?;
        named.extend(judged.into_iter().filter(|(_, l)| l.is_alive()).map(|(intent, _)| intent.document.id));
    } else {
        for intent in intents(repository, &main_instance()).await? {
            if liveness(&intent, start(), state.host_id(), &lock).is_alive() {
                named.insert(intent.document.id);
            }
        }
        named.extend(manifests(repository).await?);
    }
    for (stem, ending, key) in data {
        if ending != Ending::Manifest && !named.contains(&BackupId::from(&stem)) {
            repository.storage().delete(&key).await?;
        }
    }
    Ok(())
}

fn database_of(at: usize, writer: Writer) -> String {
    if writer.order == WriterOrder::Resumes { ORPHAN.to_owned() } else { format!("new{at}") }
}

/// A copy and a prune of one host keep out of each other's way, and what a prune that died has left of a backup without
/// its intent is not gone on with.
fn gave_way(error: &Error) -> bool {
    matches!(error.kind, Kind::Locked | Kind::Refused)
}

impl World for House {
    fn begin(&self) -> Execution {
        self.begun.set(self.begun.get() + 1);
        if self.begun.get().is_multiple_of(1000) {
            *self.runtime.borrow_mut() = new_runtime();
        }
        let runtime = self.runtime.borrow().clone();
        let clock = Arc::new(ManualClock::at(start()));
        *self.clock.borrow_mut() = Arc::clone(&clock);
        let store = MemoryStorage::with_clock(clock);
        store.restore(self.past.clone());
        let mut processes = Vec::new();
        for (at, writer) in self.writers.iter().copied().enumerate() {
            let work = move |repository, state, actor| write(repository, state, actor, database_of(at, writer), writer);
            processes.push(self.process(&store, writer.host, work));
        }
        let order = self.prune;
        processes.push(
            self.process(&store, Host::Here, move |repository, state, actor| prune(repository, state, actor, order)),
        );
        Execution { runtime, store, processes }
    }

    fn wrong_now(&self, execution: &Execution, contents: &BTreeMap<Key, Bytes>) -> Option<String> {
        for process in execution.processes.iter().filter(|process| process.work.is_some()) {
            if let Some(gone) = process.actor.owned().iter().find(|key| !contents.contains_key(key)) {
                return Some(format!("{gone} of a living run is gone"));
            }
        }
        incomplete(contents)
    }

    fn wrong_at_end(&self, execution: Execution) -> Option<String> {
        let Execution { store, processes, .. } = execution;
        // The hosts of the dead are silent; here their locks are free, elsewhere a day has to pass.
        if self.writers.iter().any(|writer| writer.host == Host::Elsewhere) {
            let clock = self.clock.borrow().clone();
            clock.set(clock.now() + TimeDelta::hours(25));
        }
        let statuses = self.prune_quietly(&store);
        let contents = store.contents();
        let mut there: BTreeSet<String> = BTreeSet::new();
        let mut loose = Vec::new();
        for key in contents.keys() {
            match StoredName::parse(key) {
                Some(StoredName::Dump { name: ObjectName { stem, ending: Ending::Manifest }, .. }) => {
                    there.insert(stem.encoded_database().to_owned());
                }
                Some(StoredName::Intent { .. }) => loose.push(key.clone()),
                _ => {}
            }
        }
        loose.extend(contents.keys().filter(|key| owner(key).is_some_and(|id| !there.contains(&id))).cloned());
        if !loose.is_empty() {
            return Some(format!("{loose:?} lie about"));
        }
        let mut expected = BTreeSet::from([KEPT.to_owned()]);
        let resumes = self.writers.iter().any(|writer| writer.order == WriterOrder::Resumes);
        for (at, process) in processes.iter().enumerate() {
            match (&process.end, at == self.writers.len()) {
                (Some(End::Done(Err(error))), _) if resumes && gave_way(error) => {}
                (Some(End::Done(Err(error))), _) => return Some(format!("process {at} failed: {error}")),
                (Some(End::Done(Ok(()))), true) if there.contains(OLD) => {
                    return Some("the old backup is still there".to_owned());
                }
                (Some(End::Done(Ok(()))), false) => {
                    expected.insert(database_of(at, self.writers[at]));
                }
                _ => {}
            }
        }
        let running = statuses.iter().find(|status| **status == RunStatus::Running);
        incomplete(&contents)
            .or_else(|| (!expected.is_subset(&there)).then(|| format!("{expected:?} should be in {there:?}")))
            .or_else(|| running.map(|_| "a run that ended reads RUNNING".to_owned()))
    }

    fn deaths(&self) -> usize {
        self.deaths
    }
}

impl House {
    /// Removes what is left; returns how the runs read then.
    fn prune_quietly(&self, store: &MemoryStorage) -> Vec<RunStatus> {
        let quiet = async {
            let repository = Repository::open(Arc::new(store.clone()), &self.here).await?;
            let lock = lock(&repository, &self.here, Verb::Prune)?;
            sweep(&SweepPlan::default(), &repository, &self.here, &lock).await?;
            let runs = runs(&repository, &self.here, None).await?;
            runs.into_iter().map(|run| Ok(run.record?.status)).collect::<Result<Vec<_>>>()
        };
        quiet.now_or_never().expect("memory does not wait").unwrap()
    }
}

/// The database whose backup owns a data object or proof.
fn owner(key: &Key) -> Option<String> {
    match StoredName::parse(key)? {
        StoredName::Dump { name, .. } => Some(name.stem.encoded_database().to_owned()),
        StoredName::Proof { id, .. } => Some(id.as_str().parse::<DumpStem>().unwrap().encoded_database().to_owned()),
        _ => None,
    }
}

/// A listed backup whose data are not all there.
fn incomplete(contents: &BTreeMap<Key, Bytes>) -> Option<String> {
    contents.iter().find_map(|(key, body)| {
        let Some(StoredName::Dump { instance, name: ObjectName { stem, ending: Ending::Manifest } }) =
            StoredName::parse(key)
        else {
            return None;
        };
        let manifest = DumpManifest::from_json(body, &instance, &stem).unwrap();
        manifest.objects.iter().find_map(|object| {
            let data = object.key(&instance);
            (!contents.contains_key(&data)).then(|| format!("listed backup {stem} lacks {data}"))
        })
    })
}
