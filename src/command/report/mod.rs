//! `pgkeep report`: what is stored, and whether it can be trusted. Reads only, and records no run.

mod backups;
mod overview;
mod runs;
mod show;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use super::{Context, Outcome, Place, only};
use crate::error::Result;
use crate::repo::{Backup, BackupId, Catalogue, InstanceName, Level, Repository, SeenRun};

pub use backups::{Latest, Listed, State, latest, list};
pub use overview::{Attempt, DatabaseReport, InstanceReport, overview};
pub use runs::{RunLine, runs};
pub use show::{ProofLine, Shown, show};

/// What to report on.
#[derive(Clone, Debug)]
pub struct Options {
    pub repositories: Vec<Place>,
    pub instance: Option<InstanceName>,
    pub database: Option<String>,
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
    /// All objects of the backup.
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
    fn of(backup: &Backup) -> Self {
        let best = backup.best_proof();
        Self {
            read_back: backup.manifest.checks.read_back,
            level: best.map(|proof| proof.level),
            at: best.map(|proof| Moment(proof.at.time())),
            refuted: State::of(backup) == State::Damaged,
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
    fn of(backup: &Backup, now: DateTime<Utc>) -> Self {
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
            proven: Proven::of(backup),
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

/// What the repository holds, within the instance that is asked for.
struct Holdings {
    repository: Repository,
    catalogue: Catalogue,
}

impl Holdings {
    async fn read(context: &Context, options: &Options) -> Result<Self> {
        let repository = only(&options.repositories)?.open(context).await?;
        let catalogue = context.interrupt.guard(Catalogue::read(&repository, options.instance.as_ref())).await?;
        Ok(Self { repository, catalogue })
    }
}

/// Every recorded run, oldest first.
async fn seen_runs(context: &Context, options: &Options, repository: &Repository) -> Result<Vec<SeenRun>> {
    let runs = crate::repo::runs(repository, &context.state, options.instance.as_ref());
    let mut seen = context.interrupt.guard(runs).await?;
    // Names tell seconds only, and of two runs of one second the later one must be last.
    let begun = |run: &SeenRun| run.record.as_ref().map_or(run.run.started_at().time(), |record| record.started_at);
    seen.sort_by_key(begun);
    Ok(seen)
}
