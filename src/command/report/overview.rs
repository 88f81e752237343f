//! `report`: is everything protected? By instance and database, and at the end what is not.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::runs::reason;
use super::{
    Context, Copy, Expected, Moment, Options, Outcome, PassedOver, State, Summary, copies_of, read, seen_runs,
};
use crate::command::finding::{Finding, error_of};
use crate::command::{Reading, Unread, repo_flags};
use crate::error::Result;
use crate::process::shell_word;
use crate::repo::retention::is_dropped;
use crate::repo::{
    Backup, Entry, HeldCopy, Holding, InstanceName, RunItem, RunName, RunRecord, RunStatus, SeenRun, Series, Verb,
};

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
    /// Where copies of the newest good backup lie.
    pub copies: Vec<Copy>,
    pub passed_over: Vec<PassedOver>,
    pub last_attempt: Option<Attempt>,
    pub backups: usize,
    /// In all repositories.
    pub stored_bytes: u64,
    /// What each repository keeps.
    pub repositories: Vec<Kept>,
}

/// What one repository keeps of a database.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    pub name: String,
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
    let mut reading = read(context, options).await?;
    let runs = seen_runs(context, options, &mut reading.repositories).await?;
    let series = reading.union.series();
    let now = context.clock.now();
    let mut instances: BTreeSet<&InstanceName> =
        series.iter().map(|series| series.instance).chain(runs.iter().map(|run| &run.instance)).collect();
    // One that is to have backups is missed where it has none.
    let missed = options.expected.iter().filter(|(_, it)| it.max_age.is_some() && it.databases.is_some());
    instances.extend(missed.map(|(name, _)| name));
    let flags = repo_flags(&options.repositories);
    let place = |instance| Place { flags: &flags, instance, reading: &reading };
    let unexpected = Expected::default();
    let expected = |instance| options.expected.get(instance).unwrap_or(&unexpected);
    let items: Vec<InstanceReport> =
        instances.into_iter().map(|one| instance_report(place(one), expected(one), &series, &runs, now)).collect();
    // Where there is no instance that these could stand with, they are told all the same.
    let unread: Vec<Finding> = reading.repositories.unread.iter().map(unread_finding).collect();
    let error = error_of(unread.iter().chain(items.iter().flat_map(|item| &item.findings)));
    Ok(Outcome { items, warnings: reading.repositories.warnings(), error })
}

/// What is said of one instance comes from here.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Where a command has to look, so that the ones that are proposed can be pasted.
    flags: &'a str,
    pub instance: &'a InstanceName,
    reading: &'a Reading,
}

impl Place<'_> {
    /// Whether what is not seen is not there.
    pub fn sees_all(&self) -> bool {
        self.reading.repositories.unread.is_empty()
    }

    pub fn command(&self, words: &[&str]) -> String {
        let words = words.iter().map(|word| shell_word(word.as_ref())).collect::<Vec<_>>().join(" ");
        format!("pgkeep {words}{} --instance {}", self.flags, self.instance)
    }
}

/// Its copies cannot be seen; a newer backup, or the only good one, may lie there.
fn unread_finding(unread: &Unread) -> Finding {
    Finding::of_error("repository-unread", unread.name.as_str(), &unread.error)
}

fn instance_report(
    place: Place,
    expected: &Expected,
    series: &[Series],
    runs: &[SeenRun],
    now: DateTime<Utc>,
) -> InstanceReport {
    let instance = place.instance;
    let series: Vec<&Series> = series.iter().filter(|series| series.instance == instance).collect();
    let runs: Vec<&SeenRun> = runs.iter().filter(|run| run.instance == *instance).collect();
    let mut attempts = last_attempts(&runs);
    let mut findings: Vec<Finding> = place.reading.repositories.unread.iter().map(unread_finding).collect();
    findings.extend(run_findings(instance, &runs));
    let newest =
        series.iter().flat_map(|series| &series.holdings).map(|holding| begun(holding)).filter(|at| *at <= now);
    let newest = newest.max();
    let mut databases = Vec::new();
    for series in series {
        let database = series.database().to_owned();
        let last_attempt = attempts.remove(&database);
        let report = database_report(place, series, last_attempt, now);
        findings.extend(database_findings(place, series, &report));
        findings.extend(newest.and_then(|newest| not_backed_up(place, series, &report, newest)));
        databases.push(report);
    }
    let recent = |attempt: &Attempt| now - attempt.started_at.0 < NEVER_DUMPED_COUNTS;
    for (database, attempt) in attempts.into_iter().filter(|(_, a)| a.status != RunStatus::Succeeded && recent(a)) {
        let report = DatabaseReport {
            database,
            newest: None,
            copies: Vec::new(),
            passed_over: Vec::new(),
            last_attempt: Some(attempt),
            backups: 0,
            stored_bytes: 0,
            repositories: Vec::new(),
        };
        findings.push(no_good_backup(place, &report, "there is no backup of it".to_owned()));
        findings.extend(failed_attempt(&report));
        databases.push(report);
    }
    findings.extend(expected.findings(place, &databases));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    InstanceReport { instance: instance.clone(), databases, findings }
}

fn database_report(place: Place, series: &Series, last_attempt: Option<Attempt>, now: DateTime<Utc>) -> DatabaseReport {
    let (newest, copies, passed_over) = match series.latest() {
        Ok(chosen) => {
            let summary = Summary::of(chosen.holding, chosen.backup, now);
            (Some(summary), copies_of(chosen.holding), chosen.passed_over)
        }
        Err(_) => (None, Vec::new(), Vec::new()),
    };
    let repositories: Vec<Kept> =
        place.reading.repositories.answering.iter().map(|repository| kept(series, repository.name())).collect();
    DatabaseReport {
        database: series.database().to_owned(),
        newest,
        copies,
        passed_over: passed_over.into_iter().map(PassedOver::from).collect(),
        last_attempt,
        backups: series.holdings.len(),
        stored_bytes: repositories.iter().map(|kept| kept.stored_bytes).sum(),
        repositories,
    }
}

fn kept(series: &Series, repository: &str) -> Kept {
    let copies = series.holdings.iter().filter_map(|holding| holding.copy_in(repository));
    let bytes = |copy: &HeldCopy| copy.entry.backup().map_or(0, |backup| backup.manifest.stored_bytes());
    let (backups, stored_bytes) = copies.fold((0, 0), |(count, sum), copy| (count + 1, sum + bytes(copy)));
    Kept { name: repository.to_owned(), backups, stored_bytes }
}

/// The newest dump of each database that was tried and has ended; one of a part of it only where the whole was never
/// tried.
fn last_attempts(runs: &[&SeenRun]) -> BTreeMap<String, Attempt> {
    let mut attempts = BTreeMap::new();
    let items = || dumps(runs).flat_map(|record| record.items.iter().map(move |item| (record, item)));
    let (parts, wholes): (Vec<_>, Vec<_>) = items().partition(|(_, item)| item.filter.is_some());
    // Oldest first: the newer one takes the place of the older.
    for (record, item) in parts.into_iter().chain(wholes) {
        if let Some(database) = &item.database {
            attempts.insert(database.clone(), attempt(record, item));
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
    findings.extend(failed_prune(instance, runs));
    for run in runs {
        if let Err(error) = &run.record {
            findings.push(Finding::warn("run-unreadable", run.run.as_str(), error.to_string()));
        }
    }
    findings
}

/// Backups that should be gone take space, and nothing else is wrong with them.
fn failed_prune(instance: &InstanceName, runs: &[&SeenRun]) -> Option<Finding> {
    let records = runs.iter().filter_map(|run| run.record.as_ref().ok());
    let newest = records.filter(|record| record.verb == Verb::Prune).next_back()?;
    if matches!(newest.status, RunStatus::Succeeded | RunStatus::Running) {
        return None;
    }
    let why = newest.error.as_deref().unwrap_or("it ended without a word: killed, or the host went down");
    let evidence = format!("the last prune, begun {}, did not remove everything: {why}", Moment(newest.started_at));
    let fix = newest.hint.as_deref().unwrap_or("the next prune removes the rest");
    Some(Finding::warn("prune-failed", instance.as_str(), evidence).fix(fix))
}

fn database_findings(place: Place, series: &Series, report: &DatabaseReport) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        series.holdings.iter().flat_map(|holding| holding_findings(place, holding)).collect();
    match &report.newest {
        None => {
            let why = series.latest().err().map(|error| error.to_string()).unwrap_or_default();
            findings.insert(0, only_parts(series, report).unwrap_or_else(|| no_good_backup(place, report, why)));
        }
        Some(newest) if !newest.proven.is_proven() => {
            let evidence = "it was stored and never read again".to_owned();
            let fix = place.command(&["verify", newest.id.as_str(), "--deep"]);
            findings.push(Finding::warn("backup-unproven", newest.id.as_str(), evidence).fix(fix));
        }
        Some(_) => {}
    }
    let missing = missing_copies(place, series);
    // Where it can be seen that every repository has the newest, a copy has made up for a dump that did not reach one.
    let made_up = missing.is_empty() && place.reading.repositories.answering.len() > 1;
    findings.extend(missing);
    findings.extend(failed_attempt(report).filter(|attempt| attempt.id != PARTIAL || !made_up));
    findings.extend(content_findings(place, series));
    findings
}

fn begun(holding: &Holding) -> DateTime<Utc> {
    holding.stem().started_at().time()
}

/// Others of the instance are backed up, and this database is not: dropped, or forgotten.
fn not_backed_up(
    place: Place,
    series: &Series,
    report: &DatabaseReport,
    newest_of_instance: DateTime<Utc>,
) -> Option<Finding> {
    let tried = report.last_attempt.as_ref().map(|attempt| attempt.started_at.0);
    let newest = series.holdings.iter().map(|holding| begun(holding)).chain(tried).max()?;
    if !is_dropped(newest, newest_of_instance) {
        return None;
    }
    let evidence = format!(
        "it was not backed up since {}, others of its instance were, until {}",
        Moment(newest),
        Moment(newest_of_instance)
    );
    let remove = place.command(&["prune", "-d", &report.database, "--dropped"]);
    let fix = format!("dump it again; if it is gone for good, what there is of it stays until it is named: {remove}");
    Some(Finding::warn("not-backed-up", report.database.as_str(), evidence).fix(fix))
}

/// The newest good backup is worth having in every repository that is named.
fn missing_copies(place: Place, series: &Series) -> Vec<Finding> {
    let Ok(newest) = series.latest().map(|chosen| chosen.holding) else { return Vec::new() };
    let Some((from, _)) = newest.sources().first().copied() else { return Vec::new() };
    let id = newest.id();
    let lacks = |name: &&str| newest.copy_in(name).is_none();
    let names = place.reading.repositories.answering.iter().map(|repository| repository.name());
    let finding = |name: &str| {
        let (to, from) = (shell_word(name.as_ref()), shell_word(from.name().as_ref()));
        let fix = format!("pgkeep copy {id} --to {to} --repo {from} --instance {}", place.instance);
        Finding::warn("copy-missing", id.as_str(), format!("{name} has no copy of it")).fix(fix)
    };
    names.filter(lacks).map(finding).collect()
}

/// What the newest good backup holds less than the one before it, and what `pg_dump` had to say. A dump of an emptied
/// database is a good dump.
fn content_findings(place: Place, series: &Series) -> Vec<Finding> {
    let good = series.backups().filter(|(holding, _)| holding.shortcoming().is_none());
    let mut good: Vec<&Backup> = good.map(|(_, backup)| backup).collect();
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

/// What is wrong with a backup or with one of its copies. A choice of tables is no damage.
fn holding_findings(place: Place, holding: &Holding) -> Vec<Finding> {
    let id = holding.id();
    let why = || holding.shortcoming().unwrap_or_default();
    let look = || place.command(&["verify", id.as_str(), "--deep"]);
    match State::of(holding) {
        State::Good | State::Filtered => {
            holding.copies().iter().filter_map(|copy| copy_finding(place, holding, copy)).collect()
        }
        State::Unreadable => {
            let unreadable = holding.copies().iter().filter_map(|copy| copy.entry.unreadable());
            unreadable.map(|told| Finding::of_error("manifest-unreadable", id.as_str(), &told.error)).collect()
        }
        State::Damaged => {
            let fix = format!("make a new backup; what is wrong with this one: {}", look());
            vec![Finding::fail("backup-damaged", id.as_str(), why()).fix(fix)]
        }
        State::Conflict => {
            let fix = "find out which of them is right: pgkeep report show, with one --repo at a time";
            vec![Finding::fail("copies-differ", id.as_str(), why()).fix(fix)]
        }
    }
}

/// A copy that cannot be used, of a backup of which another one can.
fn copy_finding(place: Place, holding: &Holding, copy: &HeldCopy) -> Option<Finding> {
    let id = holding.id();
    let name = copy.repository.name();
    match &copy.entry {
        Entry::Unreadable(unreadable) => {
            let evidence = format!("its manifest in {name} cannot be read: {}", unreadable.error);
            let finding = Finding::fail("copy-unreadable", id.as_str(), evidence);
            Some(match unreadable.error.next_step() {
                Some(hint) => finding.fix(hint),
                None => finding.fix("another copy of it is good; see what is wrong with this one"),
            })
        }
        Entry::Backup(backup) if backup.is_damaged() => {
            let evidence = format!("its copy in {name} is damaged: {}", backup.shortcoming().unwrap_or_default());
            let look = place.command(&["verify", id.as_str(), "--deep"]);
            let fix = format!("another copy of it is good; what is wrong with this one: {look}");
            Some(Finding::fail("copy-damaged", id.as_str(), evidence).fix(fix))
        }
        Entry::Backup(_) => None,
    }
}

fn no_good_backup(place: Place, report: &DatabaseReport, why: String) -> Finding {
    let fix = place.command(&["dump", "-d", &report.database]);
    Finding::fail("no-good-backup", report.database.as_str(), why).fix(fix)
}

/// The newest backup is whole, and was meant to hold a part: somebody chose that, and should know what it means.
fn only_parts(series: &Series, report: &DatabaseReport) -> Option<Finding> {
    let newest = series.newest().filter(|newest| State::of(newest) == State::Filtered)?;
    let evidence = format!(
        "there is no backup of the whole: {} and its like leave out data, objects or rights, as their options say",
        newest.id()
    );
    let fix =
        "a part is restored by its id; for the whole, dump without such options (in an env file: PG_DUMP_EXTRA_OPTS)";
    Some(Finding::warn("only-parts", report.database.as_str(), evidence).fix(fix))
}

/// A dump that did not reach every repository.
const PARTIAL: &str = "run-partial";

fn failed_attempt(report: &DatabaseReport) -> Option<Finding> {
    let attempt = report.last_attempt.as_ref().filter(|attempt| attempt.status != RunStatus::Succeeded)?;
    let why = attempt.reason.as_deref().unwrap_or("no reason is recorded");
    let finding = if attempt.status == RunStatus::Partial {
        let evidence = format!("its last dump, begun {}, did not reach every repository: {why}", attempt.started_at);
        Finding::fail(PARTIAL, report.database.as_str(), evidence)
    } else {
        let evidence = format!("its last dump, begun {}, failed: {why}", attempt.started_at);
        Finding::fail("run-failed", report.database.as_str(), evidence)
    };
    Some(match &attempt.hint {
        Some(hint) => finding.fix(hint.clone()),
        None => finding.fix("mend the cause, then run the dump again"),
    })
}
