//! `report list` and `report latest`.

use serde::Serialize;

use super::{Context, Copy, Moment, Options, Outcome, PassedOver, Proven, Summary, copies_of, read};
use crate::command::repo_flags;
use crate::error::{Error, Kind, Result};
use crate::repo::{BackupId, FilterDigest, Holding, InstanceName, Keep, Series};

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
    /// What its user called it.
    pub label: Option<String>,
    /// Until when it is kept by its user's word.
    pub keep: Option<Keep>,
    /// Which choice of the database it holds; `None` is the whole.
    pub filter: Option<FilterDigest>,
    /// Where copies of it lie.
    pub repositories: Vec<Copy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Good,
    /// Made with a choice of schemas or tables.
    Filtered,
    /// In every copy an object is missing or has another size, or a proof failed and nothing has refuted it.
    Damaged,
    /// Its copies tell of different data.
    Conflict,
    /// No manifest of it could be read, so nothing is known.
    Unreadable,
}

impl State {
    pub(super) fn of(holding: &Holding) -> Self {
        let Some(backup) = holding.backup() else { return Self::Unreadable };
        match (holding.conflict(), backup.is_damaged(), backup.manifest.filtered) {
            (Some(_), _, _) => Self::Conflict,
            (None, true, _) => Self::Damaged,
            (None, false, true) => Self::Filtered,
            (None, false, false) => Self::Good,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Filtered => "filtered",
            Self::Damaged => "damaged",
            Self::Conflict => "conflict",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Every backup, newest first.
pub async fn list(context: &Context, options: &Options) -> Result<Outcome<Listed>> {
    let reading = read(context, options).await?;
    let wanted =
        |holding: &&Holding| options.database.as_deref().is_none_or(|database| holding.is_of_database(database));
    let mut holdings: Vec<&Holding> = reading.union.holdings.iter().filter(wanted).collect();
    // Names tell seconds only; of two that began in one second the one that ended later is the newer.
    let ended = |holding: &Holding| holding.backup().map(|backup| backup.manifest.finished_at);
    holdings.sort_by_key(|holding| std::cmp::Reverse((holding.stem().started_at(), ended(holding))));
    let items = holdings.into_iter().map(listed).collect();
    Ok(Outcome { items, warnings: reading.repositories.warnings(), error: reading.repositories.partial() })
}

fn listed(holding: &Holding) -> Listed {
    let backup = holding.backup();
    let manifest = backup.map(|backup| &backup.manifest);
    Listed {
        id: holding.id(),
        instance: holding.instance().clone(),
        database: holding.database().to_owned(),
        state: State::of(holding),
        reason: holding.shortcoming(),
        started_at: Moment(holding.stem().started_at().time()),
        finished_at: manifest.map(|manifest| Moment(manifest.finished_at)),
        duration_seconds: manifest.map(|manifest| manifest.duration_seconds),
        plain_bytes: manifest.map(|manifest| manifest.plain.size_bytes),
        stored_bytes: manifest.map(|manifest| manifest.stored_bytes()),
        proven: backup.map(|_| Proven::of(holding)),
        label: manifest.and_then(|manifest| manifest.label.clone()),
        keep: manifest.and_then(|manifest| manifest.keep),
        filter: manifest.and_then(|manifest| manifest.filter.clone()),
        repositories: copies_of(holding),
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
    /// Where copies of it lie.
    pub repositories: Vec<Copy>,
    pub passed_over: Vec<PassedOver>,
    pub error: Option<Error>,
}

/// The newest good backup of each database. A database without one is a finding.
pub async fn latest(context: &Context, options: &Options) -> Result<Outcome<Latest>> {
    let reading = read(context, options).await?;
    let series = reading.union.series();
    let wanted = |series: &&Series| options.database.as_deref().is_none_or(|database| series.is_of_database(database));
    let items: Vec<Latest> = series.iter().filter(wanted).map(|series| latest_of(context, series)).collect();
    if let (true, Some(database)) = (items.is_empty(), &options.database) {
        return Err(Error::new(Kind::NoSuchBackup, format!("there is no backup of database {database:?}"))
            .hint(format!("pgkeep report list{} shows what there is", repo_flags(&options.repositories))));
    }
    let bad: Vec<String> = items.iter().filter_map(|item| item.error.as_ref().map(Error::to_string)).collect();
    let error = (!bad.is_empty()).then(|| Error::new(Kind::Finding, bad.join("; ")));
    let error = error.map(|error| error.hint("make a new backup, then see pgkeep report"));
    let over = items.iter().flat_map(|item| &item.passed_over);
    let mut warnings = reading.repositories.warnings();
    warnings.extend(over.map(|over| format!("{} is newer and not good: {}", over.id, over.reason)));
    Ok(Outcome { items, warnings, error: error.or_else(|| reading.repositories.partial()) })
}

fn latest_of(context: &Context, series: &Series) -> Latest {
    let (newest, repositories, passed_over, error) = match series.latest() {
        Ok(chosen) => {
            let summary = Summary::of(chosen.holding, chosen.backup, context.clock.now());
            (Some(summary), copies_of(chosen.holding), chosen.passed_over, None)
        }
        Err(error) => (None, Vec::new(), Vec::new(), Some(error)),
    };
    Latest {
        instance: series.instance.clone(),
        database: series.database().to_owned(),
        newest,
        repositories,
        passed_over: passed_over.into_iter().map(PassedOver::from).collect(),
        error,
    }
}
