//! `pgkeep report`: what is stored, and whether it can be trusted. Reads only, and records no run.

mod backups;
mod expected;
mod overview;
mod runs;
mod show;

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use super::{Context, Copy, Outcome, Place, Reading, Repositories, Status};
use crate::error::{Error, Kind, Result};
use crate::repo::{
    Backup, BackupId, Entry, HeldCopy, Holding, InstanceName, Level, ProofName, Repository, SeenRun, told_once,
};

pub use backups::{Latest, Listed, State, latest, list};
pub use expected::Expected;
pub use overview::{Attempt, DatabaseReport, InstanceReport, Kept, overview};
pub use runs::{RunLine, runs};
pub use show::{ProofLine, Shown, ShownCopy, show};

/// What to report on.
#[derive(Clone, Debug)]
pub struct Options {
    pub repositories: Vec<Place>,
    pub instance: Option<InstanceName>,
    pub database: Option<String>,
    /// What the configuration wants of instances.
    pub expected: BTreeMap<InstanceName, Expected>,
}

/// A moment as documents have it: RFC 3339, UTC, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub DateTime<Utc>);

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One backup in numbers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub id: BackupId,
    /// The state of the data is that of this moment.
    pub started_at: Moment,
    pub finished_at: Moment,
    /// Since `started_at`: what would be lost.
    pub age_seconds: i64,
    pub duration_seconds: f64,
    /// The archive as `pg_dump` wrote it.
    pub plain_bytes: u64,
    /// All objects of one copy of the backup.
    pub stored_bytes: u64,
    /// Plain bytes per stored byte.
    pub ratio: f64,
    pub proven: Proven,
}

/// What speaks for a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proven {
    /// The stored archive was read and decoded to its end before the backup counted.
    pub read_back: bool,
    /// The deepest verification that passed, the newest of its depth.
    pub level: Option<Level>,
    pub at: Option<Moment>,
    /// Something is missing now, or a later verification failed: the rest is history.
    pub refuted: bool,
}

impl Proven {
    /// What speaks for any good copy speaks for the backup; where none is good, what speaks for the best of them.
    fn of(holding: &Holding) -> Self {
        let sources = || holding.sources().into_iter().map(|(_, backup)| backup);
        let good: Vec<&Backup> = sources().filter(|backup| backup.shortcoming().is_none()).collect();
        let copies = if good.is_empty() { sources().take(1).collect() } else { good };
        let best: Option<ProofName> =
            copies.iter().filter_map(|copy| copy.best_proof()).max_by_key(|proof| (proof.level, proof.at));
        Self {
            read_back: copies.iter().any(|copy| copy.manifest.checks.read_back),
            level: best.map(|proof| proof.level),
            at: best.map(|proof| Moment(proof.at.time())),
            refuted: matches!(State::of(holding), State::Damaged | State::Conflict),
        }
    }

    pub fn is_proven(&self) -> bool {
        !self.refuted && (self.read_back || self.level.is_some())
    }
}

impl std::fmt::Display for Proven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.level, self.at, self.read_back) {
            _ if self.refuted => f.write_str("no"),
            (Some(level), Some(at), _) => write!(f, "{} {at}", level.as_str()),
            (_, _, true) => f.write_str("read back"),
            (_, _, false) => f.write_str("no"),
        }
    }
}

impl Summary {
    /// `backup` is the copy that speaks for it.
    fn of(holding: &Holding, backup: &Backup, now: DateTime<Utc>) -> Self {
        let manifest = &backup.manifest;
        let (plain_bytes, stored_bytes) = (manifest.plain.size_bytes, manifest.stored_bytes());
        Self {
            id: manifest.id.clone(),
            started_at: Moment(manifest.started_at),
            finished_at: Moment(manifest.finished_at),
            age_seconds: (now - manifest.started_at).num_seconds(),
            duration_seconds: manifest.duration_seconds,
            plain_bytes,
            stored_bytes,
            ratio: (plain_bytes as f64 / stored_bytes.max(1) as f64 * 100.0).round() / 100.0,
            proven: Proven::of(holding),
        }
    }
}

/// A backup that is newer than the newest good one, and why it is not good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PassedOver {
    pub id: BackupId,
    pub reason: String,
}

impl From<(BackupId, String)> for PassedOver {
    fn from((id, reason): (BackupId, String)) -> Self {
        Self { id, reason }
    }
}

impl Copy {
    /// A copy as a report sees it. One that holds a part, and holds that, is as it should be.
    fn held(copy: &HeldCopy) -> Self {
        let name = copy.repository.name().to_owned();
        match &copy.entry {
            Entry::Backup(backup) => {
                let damage = backup.shortcoming().filter(|_| backup.is_damaged());
                Self {
                    name,
                    status: if damage.is_some() { Status::Failed } else { Status::Ok },
                    stored_bytes: Some(backup.manifest.stored_bytes()),
                    error: damage.map(|why| Error::new(Kind::Verification, why)),
                }
            }
            Entry::Unreadable(unreadable) => Self {
                name,
                status: match unreadable.error.kind {
                    Kind::Verification => Status::Failed,
                    _ => Status::NotVerified,
                },
                stored_bytes: None,
                error: Some(unreadable.error.repeated()),
            },
        }
    }
}

fn copies_of(holding: &Holding) -> Vec<Copy> {
    holding.copies().iter().map(Copy::held).collect()
}

/// What the repositories hold, within the instance that is asked for.
async fn read(context: &Context, options: &Options) -> Result<Reading> {
    Reading::of(context, &options.repositories, options.instance.as_ref()).await
}

/// Every recorded run, once, oldest first.
async fn seen_runs(context: &Context, options: &Options, repositories: &mut Repositories) -> Result<Vec<SeenRun>> {
    let (state, instance) = (&context.state, options.instance.as_ref());
    let runs = async |repository: &Repository| crate::repo::runs(repository, state, instance).await;
    let told = repositories.ask(context, runs).await?;
    let mut seen = told_once(told.into_iter().flat_map(|(_, runs)| runs));
    // Names tell seconds only, and of two runs of one second the later one must be last.
    let begun = |run: &SeenRun| run.record.as_ref().map_or(run.run.started_at().time(), |record| record.started_at);
    seen.sort_by_key(begun);
    Ok(seen)
}
