//! One backup on its way from the sources into the destination.

use std::sync::Arc;

use bytes::Bytes;

use super::destination::Destination;
use super::plan::{PlannedItem, compare};
use super::recode::Way;
use super::{Context, Stage};
use crate::command::stage::{At as _, Failed};
use crate::digest::{Fingerprint, Fingerprinter};
use crate::error::{Error, Kind, Result};
use crate::progress::{Task, Unit};
use crate::repo::archive::{expect, fingerprint};
use crate::repo::{
    Adoption, BackupWriter, Catalogue, DumpDetails, DumpManifest, Ending, Lineage, NewLineage, ObjectRole, Repository,
    StoredObject,
};
use crate::storage::{Fault, Key, ObjectReader, ObjectWriter, StorageError};

/// What a copy came to.
#[derive(Debug, Default)]
pub struct Sent {
    /// It was not there before this run.
    pub is_new: bool,
    pub sent_bytes: u64,
    pub kept_bytes: u64,
    pub sources: Vec<String>,
}

impl Sent {
    /// The destination has it already.
    pub fn nothing() -> Self {
        Self::default()
    }
}

/// Why a copy was not finished, and what becomes of what was stored of it.
pub struct Lost {
    stage: Stage,
    error: Error,
    left: Left,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Somebody could not be asked, or we were stopped: the next copy goes on with it.
    ForTheNext,
    /// No further try would change anything, or the room is needed.
    Removed,
}

impl Lost {
    pub fn at(stage: Stage, error: Error) -> Self {
        let left = match error.kind {
            Kind::Storage | Kind::Interrupted | Kind::Terminated => Left::ForTheNext,
            _ => Left::Removed,
        };
        Self { stage, error, left }
    }

    /// The destination did not take it.
    fn stored(error: StorageError) -> Self {
        let left = if error.fault == Fault::Unavailable { Left::ForTheNext } else { Left::Removed };
        Self { stage: Stage::Send, error: error.into(), left }
    }
}

/// On which side a stream broke.
pub enum Broken {
    Source(Error),
    Destination(Lost),
}

pub struct Transfer<'a> {
    context: &'a Context,
    destination: &'a Destination,
    planned: &'a PlannedItem,
    /// The one that is read from first; one that failed comes last from then on.
    pub sources: Vec<&'a Repository>,
    pub sent: Sent,
}

impl<'a> Transfer<'a> {
    pub fn new(context: &'a Context, destination: &'a Destination, planned: &'a PlannedItem) -> Self {
        let sources = planned.sources.iter().collect();
        Self { context, destination, planned, sources, sent: Sent { is_new: true, ..Sent::default() } }
    }

    pub async fn run(mut self, warnings: &mut Vec<String>) -> Result<Sent, Failed<Stage>> {
        let interrupt = &self.context.interrupt;
        let (body, manifest) = interrupt.guard(self.manifest()).await.at(Stage::Compare)?;
        let way = interrupt.guard(Way::of(&manifest, &self.destination.repository)).await.at(Stage::Compare)?;
        if way == Way::Recoded {
            interrupt.guard(self.can_be_opened(&manifest)).await.at(Stage::Compare)?;
        }
        let lineage = interrupt.guard(self.lineage(&manifest)).await.at(Stage::Lineage)?;
        let claim = BackupWriter::adopt(
            &self.destination.repository,
            &self.context.state,
            &self.destination.lock,
            self.planned.stem.clone(),
            &self.context.host,
            &*self.context.clock,
        );
        let (writer, resumed) = match interrupt.guard(claim).await.at(Stage::Claim)? {
            Adoption::New(writer) => (writer, false),
            Adoption::Resumed(writer) => (writer, true),
            Adoption::Backup => return self.there_by_now(&manifest).await.at(Stage::Claim),
        };
        let stored = async {
            Ok(match way {
                Way::AsItIs => self.store(&writer, &manifest, lineage, resumed, warnings).await.map(|()| None),
                Way::Recoded => self.store_recoded(&writer, &manifest, lineage, warnings).await.map(Some),
            })
        };
        let stored = interrupt.guard(stored).await.unwrap_or_else(|error| Err(Lost::at(Stage::Send, error)));
        match stored {
            Ok(None) => writer.commit_copy(body).await.at(Stage::Commit)?,
            Ok(Some(recoded)) => writer.commit(&recoded).await.at(Stage::Commit)?,
            Err(Lost { stage, error, left }) => {
                if left == Left::Removed {
                    abandon(&writer).await;
                }
                return Err(Failed { stage, error });
            }
        }
        tracing::info!("{} is a backup in {}", manifest.id, self.destination.repository.name());
        Ok(self.sent)
    }

    /// The manifest as the first source that can tell has it.
    async fn manifest(&mut self) -> Result<(Bytes, DumpManifest)> {
        let PlannedItem { instance, stem, .. } = self.planned;
        let key = stem.object(Ending::Manifest).key(instance);
        let mut failures = Vec::new();
        for source in self.sources.clone() {
            match DumpManifest::fetch(source, instance, stem).await {
                Ok(read) => return Ok(read),
                Err(error) => failures.push((source.name(), error)),
            }
            self.sources.rotate_left(1);
        }
        Err(no_source(&key, failures))
    }

    /// The lineage that the destination has yet to hear of. Refuses a cluster that would be a stranger there.
    async fn lineage(&self, manifest: &DumpManifest) -> Result<Option<Lineage>> {
        let (instance, known) = (&self.planned.instance, &self.destination.lineages);
        let Some(system_identifier) = manifest.system_identifier else { return Ok(None) };
        if known.iter().any(|lineage| lineage.system_identifier == system_identifier) {
            return Ok(None);
        }
        let mut told = Vec::new();
        for source in &self.sources {
            match Lineage::all(source, instance).await {
                Ok(lineages) => told.extend(lineages),
                Err(error) => tracing::warn!("read the lineages of {}: {error}", source.name()),
            }
        }
        let lineage = told.iter().find(|lineage| lineage.system_identifier == system_identifier).cloned();
        let lineage = lineage.unwrap_or_else(|| Lineage::first_seen_in(manifest, system_identifier));
        // Whoever knows both has judged them before.
        let is_kin = known.iter().any(|ours| told.iter().any(|t| t.system_identifier == ours.system_identifier));
        if !is_kin && let Err(stranger) = lineage.judge(instance, known, NewLineage::Refused) {
            let to = self.destination.repository.name();
            return Err(Error::refused(format!("instance {instance} of {to} is another cluster's"))
                .because(stranger)
                .hint("copy into another repository"));
        }
        Ok(Some(lineage))
    }

    /// The manifest was stored since we looked.
    async fn there_by_now(&self, manifest: &DumpManifest) -> Result<Sent> {
        let repository = &self.destination.repository;
        let held = Catalogue::read(repository, Some(&self.planned.instance)).await?;
        let entry = held.entries.iter().find(|entry| *entry.stem() == self.planned.stem);
        let Some(entry) = entry else {
            let action = format!("{} was stored in {} and removed again", manifest.id, repository.name());
            return Err(Error::new(Kind::Storage, action).hint("copy again"));
        };
        let source = self.sources.first().map_or("the source", |source| source.name());
        compare(entry, manifest, source, repository.name()).map(|()| Sent::nothing())
    }

    /// Stores everything but the manifest, and reads it back.
    async fn store(
        &mut self,
        writer: &BackupWriter,
        manifest: &DumpManifest,
        lineage: Option<Lineage>,
        resumed: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), Lost> {
        let now = self.context.clock.now();
        Way::prepare(manifest, self.destination, now).await.map_err(|error| Lost::at(Stage::Claim, error))?;
        let task = self.task(manifest);
        let mut sent = Vec::new();
        for object in &manifest.objects {
            task.note(&object.name.to_string());
            if resumed && self.is_kept(object, &*task).await.map_err(|error| Lost::at(Stage::Claim, error))? {
                self.sent.kept_bytes += object.size_bytes;
                continue;
            }
            self.send(writer, object, &task, warnings).await?;
            sent.push(object);
        }
        drop(task);
        self.read_back(&sent).await.map_err(|error| Lost::at(Stage::ReadBack, error))?;
        self.begin_lineage(lineage).await
    }

    /// As [`Self::store`], encrypted to the recipients of the destination: the manifest that says so.
    async fn store_recoded(
        &mut self,
        writer: &BackupWriter,
        manifest: &DumpManifest,
        lineage: Option<Lineage>,
        warnings: &mut Vec<String>,
    ) -> Result<DumpManifest, Lost> {
        let task = self.task(manifest);
        let recoded = self.recode(writer, manifest, &task, warnings).await?;
        drop(task);
        let stored: Vec<&StoredObject> = recoded.objects.iter().collect();
        self.read_back(&stored).await.map_err(|error| Lost::at(Stage::ReadBack, error))?;
        self.begin_lineage(lineage).await?;
        Ok(recoded)
    }

    fn task(&self, manifest: &DumpManifest) -> Arc<dyn Task> {
        self.context.monitor.task(manifest.id.as_str(), Unit::Bytes, Some(manifest.stored_bytes().max(1)))
    }

    /// Whether an identity opens the backup at all: a small object of it tells, before anything is stored.
    async fn can_be_opened(&self, manifest: &DumpManifest) -> Result<()> {
        let (Some(source), Some(details)) = (self.sources.first(), manifest.object(ObjectRole::Details)) else {
            return Ok(());
        };
        if manifest.encryption.is_none() {
            return Ok(());
        }
        source.identities(manifest).await?;
        let body = source.storage().get(&self.key(details), DumpDetails::LIMIT_BYTES).await?;
        if Fingerprint::of(&body) != details.fingerprint() {
            // It is told where it is sent from, and another source may have it.
            return Ok(());
        }
        source.decrypted(body, &details.name, manifest).await.map(drop)
    }

    async fn begin_lineage(&self, lineage: Option<Lineage>) -> Result<(), Lost> {
        if let Some(lineage) = lineage {
            // Before the manifest: a backup whose cluster is not among the lineages would be a stranger to the next one.
            let stored = lineage.store(&self.destination.repository, &self.planned.instance).await;
            stored.map_err(|error| Lost::at(Stage::Commit, error))?;
        }
        Ok(())
    }

    pub fn key(&self, object: &StoredObject) -> Key {
        object.key(&self.planned.instance)
    }

    /// Whether a copy that died has stored this object whole. One that is not whole is removed: it is ours.
    async fn is_kept(&self, object: &StoredObject, task: &dyn Task) -> Result<bool> {
        let (storage, key) = (self.destination.repository.storage(), self.key(object));
        match storage.head(&key).await {
            Err(error) if error.fault == Fault::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
            Ok(head) if head.size_bytes == object.size_bytes => {
                let found = fingerprint(storage.read(&key, None).await?, task).await?;
                if found == object.fingerprint() {
                    tracing::info!("{key} was stored by an earlier copy, and is whole");
                    return Ok(true);
                }
            }
            Ok(_) => {}
        }
        tracing::info!("{key} of an earlier copy is not whole: it is sent again");
        storage.delete(&key).await?;
        Ok(false)
    }

    /// Stores one object, from the first source whose bytes are those of the manifest.
    async fn send(
        &mut self,
        writer: &BackupWriter,
        object: &StoredObject,
        task: &Arc<dyn Task>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Lost> {
        let mut failures = Vec::new();
        for source in self.sources.clone() {
            let mut streamed = self.stream(writer, source, object, task).await;
            if let Err(Broken::Source(error)) = &streamed
                && error.kind == Kind::Verification
            {
                // What a line changed on the way is not changed twice: only what lies there so is damage.
                tracing::warn!("{error}; it is read once more");
                streamed = self.stream(writer, source, object, task).await;
            }
            match streamed {
                Ok(()) => {
                    self.sent.sent_bytes += object.size_bytes;
                    self.came_from(source, failures, warnings);
                    return Ok(());
                }
                Err(Broken::Source(error)) => failures.push((source.name(), error)),
                Err(Broken::Destination(lost)) => return Err(lost),
            }
            self.sources.rotate_left(1);
        }
        Err(Lost::at(Stage::Send, no_source(&self.key(object), failures)))
    }

    /// An object was read from `source`, after others had failed.
    pub fn came_from(&mut self, source: &Repository, failures: Vec<(&str, Error)>, warnings: &mut Vec<String>) {
        if !self.sent.sources.iter().any(|name| name == source.name()) {
            self.sent.sources.push(source.name().to_owned());
        }
        warnings.extend(failures.iter().map(|(name, error)| format!("{name} was passed over: {error}")));
    }

    async fn stream(
        &self,
        writer: &BackupWriter,
        source: &Repository,
        object: &StoredObject,
        task: &Arc<dyn Task>,
    ) -> Result<(), Broken> {
        let key = self.key(object);
        let reader = source.storage().read(&key, None).await.map_err(|error| unread(&key, error))?;
        let sink = writer.writer(object.name.ending, Some(object.size_bytes)).await;
        let mut sink = sink.map_err(|error| Broken::Destination(Lost::at(Stage::Send, error)))?;
        let poured = pour(reader, &mut *sink, &key, object.size_bytes, &**task).await;
        // What is not the backup never becomes an object.
        let judged =
            poured.and_then(|found| expect(&key, "bytes", object.fingerprint(), found).map_err(Broken::Source));
        if let Err(broken) = judged {
            sink.abort().await;
            return Err(broken);
        }
        match sink.finish().await {
            Ok(_) => Ok(()),
            // The name is ours: an answer was lost, and what is there is read back.
            Err(error) if error.fault == Fault::Exists => Ok(()),
            Err(error) => Err(Broken::Destination(Lost::stored(error))),
        }
    }

    /// What the destination says that it holds.
    async fn read_back(&self, sent: &[&StoredObject]) -> Result<()> {
        let total: u64 = sent.iter().map(|object| object.size_bytes).sum();
        let task = self.context.monitor.task("read back", Unit::Bytes, Some(total.max(1)));
        for object in sent {
            if let Err(error) = self.compare_stored(object, &*task).await {
                if error.kind != Kind::Verification {
                    return Err(error);
                }
                tracing::warn!("{error}; it is read once more");
                self.compare_stored(object, &*task).await?;
            }
        }
        Ok(())
    }

    async fn compare_stored(&self, object: &StoredObject, task: &dyn Task) -> Result<()> {
        let key = self.key(object);
        let reader = self.destination.repository.storage().read(&key, None).await?;
        expect(&key, "stored bytes", object.fingerprint(), fingerprint(reader, task).await?)
    }
}

/// Every byte from the reader into the writer, hashed as it passes. One byte more than there should be is enough.
async fn pour(
    mut reader: Box<dyn ObjectReader>,
    writer: &mut dyn ObjectWriter,
    key: &Key,
    most_bytes: u64,
    task: &dyn Task,
) -> Result<Fingerprint, Broken> {
    let mut seen = Fingerprinter::new();
    while let Some(chunk) = reader.next().await.map_err(|error| unread(key, error))? {
        seen.update(&chunk);
        if seen.size_bytes() > most_bytes {
            break;
        }
        task.advance(chunk.len() as u64);
        writer.write(chunk).await.map_err(|error| Broken::Destination(Lost::stored(error)))?;
    }
    Ok(seen.finish())
}

/// A source that answers that it does not have an object which its manifest names is damaged.
pub fn unread(key: &Key, error: StorageError) -> Broken {
    Broken::Source(match error.fault {
        Fault::NotFound => Error::new(Kind::Verification, format!("{key} is missing in {}", error.address)),
        _ => error.into(),
    })
}

/// No source has it as it should be. If one could not be asked, it may be whole there.
pub fn no_source(key: &Key, failures: Vec<(&str, Error)>) -> Error {
    let kind = failures.iter().map(|(_, error)| error.kind).find(|kind| *kind != Kind::Verification);
    let kind = kind.unwrap_or(Kind::Verification);
    let mut failures = failures;
    if failures.len() == 1
        && let Some((_, only)) = failures.pop()
    {
        return only;
    }
    let told: Vec<String> = failures.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    let hint = failures.first().and_then(|(_, error)| error.next_step());
    Error::new(kind, format!("no source has {key} ({})", told.join("; "))).hinted(hint)
}

/// What cannot be removed is removed by the next copy, or by a prune.
async fn abandon(writer: &BackupWriter) {
    if let Err(left) = writer.abandon().await {
        tracing::warn!("objects of {} could not be removed; the next copy does it: {left}", writer.id());
    }
}
