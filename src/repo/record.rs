//! Runs: one record per attempt, stored as RUNNING at its start and replaced at its end.
//!
//! A run that is killed leaves RUNNING behind. Readers believe that only while the run can be seen to live; else they
//! read INTERRUPTED. A repository that refuses a record does not stop a restore or a verification: the record is then
//! kept in the state directory, and read from there.

use std::time::Instant;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::catalogue::DOCUMENTS_AT_ONCE;
use super::document::{self, FORMAT};
use super::filter::FilterDigest;
use super::intent::{LIMIT, Liveness, SeenIntent, judged_intents};
use super::layout::{BackupId, Folder, RunName, StoredName, Verb};
use super::lock::{Lock, LockState};
use super::name::InstanceName;
use super::repository::Repository;
use super::state::{HostId, StateDirectory};
use crate::error::{Error, Kind, Result};
use crate::storage::{Fault, Prefix};

/// `runs/<run>.json`, format 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRecord {
    pub format: u32,
    pub run: RunName,
    pub verb: Verb,
    pub instance: InstanceName,
    pub status: RunStatus,
    /// Which step it was in when it ended otherwise than well.
    pub stage: Option<String>,
    pub host_id: HostId,
    pub host: String,
    pub pid: u32,
    pub lock_token: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// By a clock that does not jump.
    pub duration_seconds: Option<f64>,
    pub exit_code: Option<u8>,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub items: Vec<RunItem>,
    pub pgkeep_version: String,
}

/// One database or one backup of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunItem {
    pub id: Option<BackupId>,
    pub database: Option<String>,
    pub status: RunStatus,
    pub stage: Option<String>,
    pub exit_code: u8,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub stored_bytes: Option<u64>,
    pub duration_seconds: f64,
    /// Which choice of the database it was, where it was not the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterDigest>,
    /// For how long replay stood still on the standby that was dumped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_paused_seconds: Option<f64>,
}

impl RunItem {
    /// An item that ended with `error`, or well; an error of kind `Partial` says that the rest of it is complete.
    /// `stage` is the step that it was in.
    pub fn of(id: Option<BackupId>, database: &str, stage: Option<&str>, error: Option<&Error>) -> Self {
        Self {
            id,
            database: Some(database.to_owned()),
            status: error.map_or(RunStatus::Succeeded, RunStatus::of_error),
            stage: stage.map(str::to_owned),
            exit_code: error.map_or(0, |error| error.kind.exit_code()),
            error: error.map(Error::to_string),
            hint: error.and_then(|error| error.next_step().map(str::to_owned)),
            stored_bytes: None,
            duration_seconds: 0.0,
            filter: None,
            replay_paused_seconds: None,
        }
    }

    pub fn stored(self, stored_bytes: Option<u64>) -> Self {
        Self { stored_bytes, ..self }
    }

    pub fn lasted(self, duration_seconds: f64) -> Self {
        Self { duration_seconds, ..self }
    }
}

/// INTERRUPTED is never stored: it is what a RUNNING that cannot be true reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunStatus {
    Running,
    Succeeded,
    Failed,
    Partial,
    Interrupted,
}

impl RunStatus {
    /// An error of kind `Partial` says that the rest is complete, and so does the status.
    fn of_error(error: &Error) -> Self {
        if error.kind == Kind::Partial { Self::Partial } else { Self::Failed }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOutcome {
    pub status: RunStatus,
    pub stage: Option<String>,
    pub exit_code: u8,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub items: Vec<RunItem>,
}

impl RunOutcome {
    pub fn succeeded(items: Vec<RunItem>) -> Self {
        Self { status: RunStatus::Succeeded, stage: None, exit_code: 0, error: None, hint: None, items }
    }

    /// `stage` is the step that failed ("connect", "pg_dump", "store").
    pub fn failed(stage: impl Into<String>, error: &Error, items: Vec<RunItem>) -> Self {
        Self {
            status: RunStatus::of_error(error),
            stage: Some(stage.into()),
            exit_code: error.kind.exit_code(),
            error: Some(error.to_string()),
            hint: error.next_step().map(str::to_owned),
            items,
        }
    }
}

/// Where a record lies.
#[derive(Debug)]
pub enum RecordPlace {
    Repository,
    /// The repository refused it, and this is why.
    StateDirectory {
        because: Error,
    },
}

/// A run of this process, recorded as RUNNING.
#[derive(Debug)]
pub struct Run {
    repository: Repository,
    state: StateDirectory,
    record: RunRecord,
    place: RecordPlace,
    began: Instant,
}

impl Run {
    /// Records the start of a run that holds `lock`, under the name that it has in every repository it works in. Where
    /// the repository refuses, a restore or a verification goes on with its record in the state directory, and a prune
    /// where there is no room; anything else stops, since it could not store its work either.
    pub async fn begin(
        repository: &Repository,
        state: &StateDirectory,
        lock: &Lock,
        host: &str,
        name: RunName,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let holder = lock.holder();
        let record = RunRecord {
            format: FORMAT,
            run: name,
            verb: holder.verb,
            instance: lock.instance().clone(),
            status: RunStatus::Running,
            stage: None,
            host_id: lock.host_id().clone(),
            host: host.to_owned(),
            pid: holder.pid,
            lock_token: holder.token.clone(),
            started_at: now,
            finished_at: None,
            duration_seconds: None,
            exit_code: None,
            error: None,
            hint: None,
            items: Vec::new(),
            pgkeep_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let body = document::to_json(&record)?;
        let began = Instant::now();
        let place = match repository.storage().create(&key(&record), body.clone()).await {
            Ok(()) => RecordPlace::Repository,
            Err(error) if goes_on_unrecorded(holder.verb, error.fault) => {
                state.keep_run(repository.id(), &record.instance, &record.run, &body)?;
                RecordPlace::StateDirectory { because: error.into() }
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { repository: repository.clone(), state: state.clone(), record, place, began })
    }

    pub fn name(&self) -> &RunName {
        &self.record.run
    }

    pub fn place(&self) -> &RecordPlace {
        &self.place
    }

    /// Records the end. If the repository refuses that, the record is kept in the state directory: what was done is
    /// done, and the caller says where its record lies.
    pub async fn finish(mut self, outcome: RunOutcome, now: DateTime<Utc>) -> Result<RecordPlace> {
        let RunOutcome { status, stage, exit_code, error, hint, items } = outcome;
        self.record = RunRecord {
            status,
            stage,
            exit_code: Some(exit_code),
            error,
            hint,
            items,
            finished_at: Some(now),
            duration_seconds: Some(self.began.elapsed().as_secs_f64()),
            ..self.record
        };
        let body = document::to_json(&self.record)?;
        if let RecordPlace::Repository = self.place {
            let Err(error) = self.repository.storage().replace(&key(&self.record), body.clone()).await else {
                return Ok(self.place);
            };
            self.place = RecordPlace::StateDirectory { because: error.into() };
        }
        self.state.keep_run(self.repository.id(), &self.record.instance, &self.record.run, &body)?;
        Ok(self.place)
    }
}

/// What only reads needs no record there; and a prune is what makes room where there is none for its record.
fn goes_on_unrecorded(verb: Verb, fault: Fault) -> bool {
    match verb {
        Verb::Restore | Verb::Verify => true,
        Verb::Prune => fault == Fault::Full,
        Verb::Dump | Verb::Basebackup | Verb::Copy => false,
    }
}

fn key(record: &RunRecord) -> crate::storage::Key {
    StoredName::Run { instance: record.instance.clone(), run: record.run.clone() }.key()
}

/// A run as a reader sees it.
#[derive(Debug)]
pub struct SeenRun {
    pub instance: InstanceName,
    pub run: RunName,
    /// The names of the repositories that recorded it.
    pub repositories: Vec<String>,
    /// With INTERRUPTED in place of a RUNNING that cannot be true.
    pub record: Result<RunRecord>,
}

/// The runs of one instance or of all, oldest first.
pub async fn runs(
    repository: &Repository,
    state: &StateDirectory,
    instance: Option<&InstanceName>,
) -> Result<Vec<SeenRun>> {
    let mut seen = stored_runs(repository, instance).await?;
    let name = || vec![repository.name().to_owned()];
    for (kept_instance, run, body) in state.kept_runs(repository.id())? {
        if instance.is_some_and(|wanted| *wanted != kept_instance) {
            continue;
        }
        // A record kept here is the end of one that the repository may still have as RUNNING.
        seen.retain(|other| other.run != run);
        let record = read_record(&body, &kept_instance, &run);
        seen.push(SeenRun { instance: kept_instance, run, repositories: name(), record });
    }
    for run in &mut seen {
        judge_running(repository, state, run).await?;
    }
    seen.sort_by(|a, b| (&a.run, &a.instance).cmp(&(&b.run, &b.instance)));
    Ok(seen)
}

async fn stored_runs(repository: &Repository, instance: Option<&InstanceName>) -> Result<Vec<SeenRun>> {
    let prefix = instance.map_or(Prefix::root(), |instance| Folder::Runs.of(instance));
    let listed = repository.storage().list(&prefix).await?;
    let reads = listed.into_iter().filter_map(|meta| match StoredName::parse(&meta.key)? {
        StoredName::Run { instance, run } => Some(async move {
            let body = repository.storage().get(&meta.key, document::LIMIT_BYTES).await;
            let record = body.map_err(Error::from).and_then(|body| read_record(&body, &instance, &run));
            SeenRun { instance, run, repositories: vec![repository.name().to_owned()], record }
        }),
        _ => None,
    });
    Ok(stream::iter(reads).buffered(DOCUMENTS_AT_ONCE).collect().await)
}

fn read_record(body: &[u8], instance: &InstanceName, run: &RunName) -> Result<RunRecord> {
    let record: RunRecord = document::from_json(body, &format!("run {run}"))?;
    if record.run != *run || record.instance != *instance || record.verb != run.verb() {
        return Err(Error::new(crate::error::Kind::Verification, format!("read run {run}"))
            .because(format!("it is the record of {} in instance {}", record.run, record.instance)));
    }
    Ok(record)
}

async fn judge_running(repository: &Repository, state: &StateDirectory, run: &mut SeenRun) -> Result<()> {
    let Ok(record) = &mut run.record else { return Ok(()) };
    if record.status != RunStatus::Running {
        return Ok(());
    }
    let lock = state.lock_state_of(repository.id(), &run.instance, record.verb, &record.lock_token)?;
    let elsewhere = match record.host_id == *state.host_id() {
        true => None,
        // What cannot be asked (a mount that is read-only) cannot speak against the record either.
        false => Elsewhere::look(repository, state, &run.instance).await.ok(),
    };
    record.status = status_seen(record, state.host_id(), &lock, elsewhere.as_ref());
    if record.status == RunStatus::Interrupted {
        // It may have ended between our reading of its record and our look at its lock or intents.
        let key = StoredName::Run { instance: run.instance.clone(), run: run.run.clone() }.key();
        if let Some(fresh) = document::read_if_there::<RunRecord>(repository.storage(), &key).await?
            && fresh.status != RunStatus::Running
        {
            *record = fresh;
        }
    }
    Ok(())
}

/// What can be seen of the runs of other hosts.
#[derive(Debug)]
pub struct Elsewhere {
    pub intents: Vec<(SeenIntent, Liveness)>,
    /// The store's own clock.
    pub now: DateTime<Utc>,
}

impl Elsewhere {
    async fn look(repository: &Repository, state: &StateDirectory, instance: &InstanceName) -> Result<Self> {
        let intents = judged_intents(repository, state, instance).await?;
        Ok(Self { intents, now: repository.storage().now().await? })
    }
}

/// The status of a record for a reader on host `local`, who looked at `lock` after reading the record.
///
/// A run of this host lives while it holds its lock. One of another host lives while an intent of it does; restore,
/// verify and prune have no intent, and are believed for as long as an intent would be. Without a look `elsewhere` the
/// record is believed.
pub fn status_seen(record: &RunRecord, local: &HostId, lock: &LockState, elsewhere: Option<&Elsewhere>) -> RunStatus {
    if record.status != RunStatus::Running {
        return record.status;
    }
    let alive = match elsewhere {
        _ if record.host_id == *local => lock.is_held_by(&record.lock_token),
        None => true,
        Some(Elsewhere { intents, .. }) if record.verb.has_intents() => intents
            .iter()
            .any(|(intent, liveness)| intent.document.lock_token == record.lock_token && liveness.is_alive()),
        Some(Elsewhere { now, .. }) => *now - record.started_at < LIMIT,
    };
    if alive { RunStatus::Running } else { RunStatus::Interrupted }
}
