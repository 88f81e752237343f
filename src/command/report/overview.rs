//! `report`: is everything protected? By instance and database, and at the end what is not.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::runs::reason;
use super::{Context, Holdings, Moment, Options, Outcome, PassedOver, State, Summary, seen_runs};
use crate::command::finding::{Finding, error_of};
use crate::error::Result;
use crate::process::shell_word;
use crate::repo::{Backup, Entry, InstanceName, RunItem, RunName, RunRecord, RunStatus, SeenRun, Series, Verb};

/// For how long a failed attempt at a database that never had a backup counts: a name that was mistyped once must not
/// be missed for ever, a job that fails every week must.
const NEVER_DUMPED_COUNTS: TimeDelta = TimeDelta::days(8);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceReport {
    pub instance: InstanceName,
    pub databases: Vec<DatabaseReport>,
    pub findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseReport {
    pub database: String,
    /// The newest good backup.
    pub newest: Option<Summary>,
    pub passed_over: Vec<PassedOver>,
    pub last_attempt: Option<Attempt>,
    pub backups: usize,
    pub stored_bytes: u64,
}

/// The last time that a dump of a database was tried.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub run: RunName,
    pub started_at: Moment,
    pub status: RunStatus,
    pub reason: Option<String>,
    pub hint: Option<String>,
}

/// The whole, by instance.
pub async fn overview(context: &Context, options: &Options) -> Result<Outcome<InstanceReport>> {
    let holdings = Holdings::read(context, options).await?;
    let runs = seen_runs(context, options, &holdings.repository).await?;
    let series = holdings.catalogue.series();
    let now = context.clock.now();
    let instances: BTreeSet<&InstanceName> =
        series.iter().map(|series| series.instance).chain(runs.iter().map(|run| &run.instance)).collect();
    let address = holdings.repository.address();
    let place = |instance| Place { address, instance };
    let items: Vec<InstanceReport> =
        instances.into_iter().map(|instance| instance_report(place(instance), &series, &runs, now)).collect();
    let error = error_of(items.iter().flat_map(|item| &item.findings));
    Ok(Outcome { items, warnings: Vec::new(), error })
}

/// Where a command has to look, so that the ones that are proposed can be pasted.
#[derive(Clone, Copy)]
struct Place<'a> {
    address: &'a str,
    instance: &'a InstanceName,
}

impl Place<'_> {
    fn command(&self, words: &[&str]) -> String {
        let place = ["--repo", self.address, "--instance", self.instance.as_str()];
        let words = ["pgkeep"].iter().chain(words).chain(&place);
        words.map(|word| shell_word(word.as_ref())).collect::<Vec<_>>().join(" ")
    }
}

fn instance_report(place: Place, series: &[Series], runs: &[SeenRun], now: DateTime<Utc>) -> InstanceReport {
    let instance = place.instance;
    let series: Vec<&Series> = series.iter().filter(|series| series.instance == instance).collect();
    let runs: Vec<&SeenRun> = runs.iter().filter(|run| run.instance == *instance).collect();
    let mut attempts = last_attempts(&runs);
    let mut findings = run_findings(instance, &runs);
    let mut databases = Vec::new();
    for series in series {
        let database = series.database().to_owned();
        let last_attempt = attempts.remove(&database);
        let report = database_report(series, last_attempt, now);
        findings.extend(database_findings(place, series, &report));
        databases.push(report);
    }
    let recent = |attempt: &Attempt| now - attempt.started_at.0 < NEVER_DUMPED_COUNTS;
    for (database, attempt) in attempts.into_iter().filter(|(_, a)| a.status != RunStatus::Succeeded && recent(a)) {
        let report = DatabaseReport {
            database,
            newest: None,
            passed_over: Vec::new(),
            last_attempt: Some(attempt),
            backups: 0,
            stored_bytes: 0,
        };
        findings.push(no_good_backup(place, &report, "there is no backup of it".to_owned()));
        findings.extend(failed_attempt(&report));
        databases.push(report);
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    InstanceReport { instance: instance.clone(), databases, findings }
}

fn database_report(series: &Series, last_attempt: Option<Attempt>, now: DateTime<Utc>) -> DatabaseReport {
    let (newest, passed_over) = match series.latest() {
        Ok(chosen) => (Some(Summary::of(chosen.backup, now)), chosen.passed_over),
        Err(_) => (None, Vec::new()),
    };
    DatabaseReport {
        database: series.database().to_owned(),
        newest,
        passed_over: passed_over.into_iter().map(PassedOver::from).collect(),
        last_attempt,
        backups: series.entries.len(),
        stored_bytes: series.backups().map(|backup| backup.manifest.stored_bytes()).sum(),
    }
}

/// The newest dump of each database that was tried and has ended.
fn last_attempts(runs: &[&SeenRun]) -> BTreeMap<String, Attempt> {
    let mut attempts = BTreeMap::new();
    // Oldest first: the newer one takes the place of the older.
    for record in dumps(runs) {
        for item in &record.items {
            if let Some(database) = &item.database {
                attempts.insert(database.clone(), attempt(record, item));
            }
        }
    }
    attempts
}

fn dumps<'a>(runs: &[&'a SeenRun]) -> impl DoubleEndedIterator<Item = &'a RunRecord> {
    let records: Vec<&RunRecord> = runs.iter().filter_map(|run| run.record.as_ref().ok()).collect();
    records.into_iter().filter(|record| record.verb == Verb::Dump)
}

fn attempt(record: &RunRecord, item: &RunItem) -> Attempt {
    Attempt {
        run: record.run.clone(),
        started_at: Moment(record.started_at),
        status: item.status,
        reason: item.error.as_ref().map(|error| reason(item.stage.as_deref(), error)),
        hint: item.hint.clone(),
    }
}

/// What the runs say that no database does.
fn run_findings(instance: &InstanceName, runs: &[&SeenRun]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let newest = dumps(runs).next_back();
    let silent = |record: &&RunRecord| {
        record.items.is_empty() && matches!(record.status, RunStatus::Interrupted | RunStatus::Failed)
    };
    if let Some(record) = newest.filter(silent) {
        let why = record.error.as_deref().unwrap_or("it ended without a word: killed, or the host went down");
        let evidence = format!("the last dump, begun {}, did not end: {why}", Moment(record.started_at));
        findings.push(Finding::fail("run-interrupted", instance.as_str(), evidence).fix("run the dump again"));
    }
    for run in runs {
        if let Err(error) = &run.record {
            findings.push(Finding::warn("run-unreadable", run.run.as_str(), error.to_string()));
        }
    }
    findings
}

fn database_findings(place: Place, series: &Series, report: &DatabaseReport) -> Vec<Finding> {
    let entries = series.entries.iter();
    let mut findings: Vec<Finding> = entries.filter_map(|entry| entry_finding(place, entry)).collect();
    match &report.newest {
        None => {
            let why = series.latest().err().map(|error| error.to_string()).unwrap_or_default();
            findings.insert(0, no_good_backup(place, report, why));
        }
        Some(newest) if !newest.proven.is_proven() => {
            let evidence = "it was stored and never read again".to_owned();
            let fix = place.command(&["verify", newest.id.as_str(), "--deep"]);
            findings.push(Finding::warn("backup-unproven", newest.id.as_str(), evidence).fix(fix));
        }
        Some(_) => {}
    }
    findings.extend(failed_attempt(report));
    findings.extend(content_findings(place, series));
    findings
}

/// What the newest good backup holds less than the one before it, and what `pg_dump` had to say. A dump of an emptied
/// database is a good dump.
fn content_findings(place: Place, series: &Series) -> Vec<Finding> {
    let mut good: Vec<&Backup> = series.backups().filter(|backup| backup.shortcoming().is_none()).collect();
    good.sort_by_key(|backup| std::cmp::Reverse(backup.manifest.finished_at));
    let Some(newest) = good.first() else { return Vec::new() };
    let (id, manifest) = (newest.id().as_str(), &newest.manifest);
    let show = place.command(&["report", "show", id]);
    let mut findings = Vec::new();
    if manifest.counts.tables == 0 {
        findings.push(Finding::warn("database-empty", id, "it holds no table").fix("is this the right database?"));
    } else if let Some(before) =
        good.get(1).filter(|before| manifest.plain.size_bytes < before.manifest.plain.size_bytes / 2)
    {
        let evidence = format!(
            "its archive has {} bytes, that of {} had {}",
            manifest.plain.size_bytes,
            before.id(),
            before.manifest.plain.size_bytes
        );
        findings.push(Finding::warn("backup-shrank", id, evidence).fix(format!("was data removed? {show}")));
    }
    if manifest.counts.warnings > 0 {
        let evidence = format!("pg_dump wrote {} lines of warnings", manifest.counts.warnings);
        findings.push(Finding::warn("dump-warnings", id, evidence).fix(show));
    }
    findings
}

/// A backup that is not what its name promises. A choice of tables is no damage.
fn entry_finding(place: Place, entry: &Entry) -> Option<Finding> {
    let id = entry.id();
    match entry {
        Entry::Unreadable(unreadable) => Some(Finding::of_error("manifest-unreadable", id.as_str(), &unreadable.error)),
        Entry::Backup(backup) if State::of(backup) == State::Damaged => {
            let why = backup.shortcoming().unwrap_or_default();
            let look = place.command(&["verify", id.as_str(), "--deep"]);
            let fix = format!("make a new backup; what is wrong with this one: {look}");
            Some(Finding::fail("backup-damaged", id.as_str(), why).fix(fix))
        }
        Entry::Backup(_) => None,
    }
}

fn no_good_backup(place: Place, report: &DatabaseReport, why: String) -> Finding {
    let fix = place.command(&["dump", "-d", &report.database]);
    Finding::fail("no-good-backup", report.database.as_str(), why).fix(fix)
}

fn failed_attempt(report: &DatabaseReport) -> Option<Finding> {
    let attempt = report.last_attempt.as_ref().filter(|attempt| attempt.status != RunStatus::Succeeded)?;
    let why = attempt.reason.as_deref().unwrap_or("no reason is recorded");
    let evidence = format!("its last dump, begun {}, failed: {why}", attempt.started_at);
    let finding = Finding::fail("run-failed", report.database.as_str(), evidence);
    Some(match &attempt.hint {
        Some(hint) => finding.fix(hint.clone()),
        None => finding.fix("mend the cause, then run the dump again"),
    })
}
