//! `report list` and `report latest`.

use serde::Serialize;

use super::{Context, Holdings, Moment, Options, Outcome, PassedOver, Proven, Summary};
use crate::error::{Error, Kind, Result};
use crate::repo::{Backup, BackupId, Entry, InstanceName, Series};

/// One line of the list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    pub id: BackupId,
    pub instance: InstanceName,
    pub database: String,
    pub state: State,
    /// Why the state is not good.
    pub reason: Option<String>,
    pub started_at: Moment,
    /// The rest is unknown where the manifest cannot be read.
    pub finished_at: Option<Moment>,
    pub duration_seconds: Option<f64>,
    pub plain_bytes: Option<u64>,
    pub stored_bytes: Option<u64>,
    pub proven: Option<Proven>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Good,
    /// Made with a choice of schemas or tables.
    Filtered,
    /// An object is missing or has another size, or a proof failed and nothing has refuted it.
    Damaged,
    /// The manifest could not be read, so nothing is known.
    Unreadable,
}

impl State {
    pub(super) fn of(backup: &Backup) -> Self {
        let is_damaged = !backup.defects.is_empty() || backup.proofs.standing_failure().is_some();
        match (is_damaged, backup.manifest.filtered) {
            (true, _) => Self::Damaged,
            (false, true) => Self::Filtered,
            (false, false) => Self::Good,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Filtered => "filtered",
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Every backup, newest first.
pub async fn list(context: &Context, options: &Options) -> Result<Outcome<Listed>> {
    let holdings = Holdings::read(context, options).await?;
    let wanted = |entry: &&Entry| options.database.as_deref().is_none_or(|database| entry.is_of_database(database));
    let mut entries: Vec<&Entry> = holdings.catalogue.entries.iter().filter(wanted).collect();
    // Names tell seconds only; of two that began in one second the one that ended later is the newer.
    let ended = |entry: &Entry| entry.backup().map(|backup| backup.manifest.finished_at);
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.stem().started_at(), ended(entry))));
    Ok(Outcome { items: entries.into_iter().map(listed).collect(), warnings: Vec::new(), error: None })
}

fn listed(entry: &Entry) -> Listed {
    let line = Listed {
        id: entry.id(),
        instance: entry.instance().clone(),
        database: entry.stem().encoded_database().to_owned(),
        state: State::Unreadable,
        reason: None,
        started_at: Moment(entry.stem().started_at().time()),
        finished_at: None,
        duration_seconds: None,
        plain_bytes: None,
        stored_bytes: None,
        proven: None,
    };
    match entry {
        Entry::Unreadable(unreadable) => Listed { reason: Some(unreadable.error.to_string()), ..line },
        Entry::Backup(backup) => Listed {
            database: backup.manifest.database.clone(),
            state: State::of(backup),
            reason: backup.shortcoming(),
            finished_at: Some(Moment(backup.manifest.finished_at)),
            duration_seconds: Some(backup.manifest.duration_seconds),
            plain_bytes: Some(backup.manifest.plain.size_bytes),
            stored_bytes: Some(backup.manifest.stored_bytes()),
            proven: Some(Proven::of(backup)),
            ..line
        },
    }
}

/// The newest good backup of one database, for monitoring.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latest {
    pub instance: InstanceName,
    pub database: String,
    /// `None` where there is no good one.
    #[serde(flatten)]
    pub newest: Option<Summary>,
    pub passed_over: Vec<PassedOver>,
    pub error: Option<Error>,
}

/// The newest good backup of each database. A database without one is a finding.
pub async fn latest(context: &Context, options: &Options) -> Result<Outcome<Latest>> {
    let holdings = Holdings::read(context, options).await?;
    let series = holdings.catalogue.series();
    let wanted = |series: &&Series| options.database.as_deref().is_none_or(|database| series.is_of_database(database));
    let items: Vec<Latest> = series.iter().filter(wanted).map(|series| latest_of(context, series)).collect();
    if let (true, Some(database)) = (items.is_empty(), &options.database) {
        return Err(Error::new(Kind::NoSuchBackup, format!("there is no backup of database {database:?}"))
            .hint(format!("pgkeep report list --repo {} shows what there is", holdings.repository.address())));
    }
    let bad: Vec<String> = items.iter().filter_map(|item| item.error.as_ref().map(Error::to_string)).collect();
    let error = (!bad.is_empty()).then(|| Error::new(Kind::Finding, bad.join("; ")));
    let error = error.map(|error| error.hint("make a new backup, then see pgkeep report"));
    let over = items.iter().flat_map(|item| &item.passed_over);
    let warnings = over.map(|over| format!("{} is newer and not good: {}", over.id, over.reason)).collect();
    Ok(Outcome { items, warnings, error })
}

fn latest_of(context: &Context, series: &Series) -> Latest {
    let (newest, passed_over, error) = match series.latest() {
        Ok(chosen) => (Some(Summary::of(chosen.backup, context.clock.now())), chosen.passed_over, None),
        Err(error) => (None, Vec::new(), Some(error)),
    };
    Latest {
        instance: series.instance.clone(),
        database: series.database().to_owned(),
        newest,
        passed_over: passed_over.into_iter().map(PassedOver::from).collect(),
        error,
    }
}
