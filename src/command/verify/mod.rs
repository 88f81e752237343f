//! `pgkeep verify`: proves that stored backups are what was written, and stores the proof.
//!
//! Damage is `failed`. A store that could not be asked is `not_verified`: it says nothing against the backup and nothing
//! for it. One backup that fails does not keep the others from being verified.

mod backup;

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Context, Copy, Outcome, Place, Status, only};
use crate::error::{Error, Kind, Result};
use crate::repo::{
    Backup, BackupId, Catalogue, Choice, Entry, InstanceName, Level, Lock, Proof, Repository, Run, RunItem, RunOutcome,
    RunStatus, Verb, Verdict, Which,
};

pub use backup::Finding;

/// What to verify, and how deep.
#[derive(Clone, Debug)]
pub struct Options {
    pub repositories: Vec<Place>,
    pub instance: Option<InstanceName>,
    pub database: Option<String>,
    pub wanted: Wanted,
    pub depth: Depth,
    /// Threads that decode.
    pub threads: NonZeroUsize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The latest of each database; where none is good, the newest, so that a failure can be refuted.
    LatestOfEach,
    One(Which),
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// L1: size and SHA-256 of every object, as the store delivers it.
    Stored,
    /// L2: and everything decoded and read to its end.
    Decoded,
}

impl Depth {
    pub fn level(self) -> Level {
        match self {
            Self::Stored => Level::L1,
            Self::Decoded => Level::L2,
        }
    }
}

/// One backup, verified or not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    pub id: BackupId,
    pub instance: InstanceName,
    pub database: String,
    pub level: Level,
    pub status: Status,
    /// Bytes of the store that were read.
    pub read_bytes: u64,
    pub duration_seconds: f64,
    pub findings: Vec<Finding>,
    /// The name of the stored proof; `None` where none was stored.
    pub proof: Option<String>,
    pub repositories: Vec<Copy>,
    pub error: Option<Error>,
}

impl super::Item for Item {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        self.id.as_str()
    }
}

/// Verifies what the options name, instance by instance. [`Kind::NotVerified`] if there is nothing to verify.
pub async fn run(context: &Context, options: &Options) -> Result<Outcome<Item>> {
    let repository = only(&options.repositories)?.open(context).await?;
    let catalogue = context.interrupt.guard(Catalogue::read(&repository, options.instance.as_ref())).await?;
    let mut warnings = Vec::new();
    let entries = choose(options, &catalogue, &mut warnings)?;
    if entries.is_empty() {
        return Err(nothing(options, &repository));
    }
    let verifier = Verifier { context, options, repository: &repository };
    let mut items = Vec::new();
    for of_instance in entries.chunk_by(|a, b| a.instance() == b.instance()) {
        items.extend(verifier.verify_instance(of_instance, &mut warnings).await);
    }
    Ok(Outcome::of(items, warnings))
}

/// The entries that are meant, by instance.
fn choose<'a>(options: &Options, catalogue: &'a Catalogue, warnings: &mut Vec<String>) -> Result<Vec<&'a Entry>> {
    let database = options.database.as_deref();
    match &options.wanted {
        Wanted::All => {
            let wanted = |entry: &&Entry| database.is_none_or(|database| entry.is_of_database(database));
            Ok(catalogue.entries.iter().filter(wanted).collect())
        }
        Wanted::One(which) => {
            let meant = |entry: &&Entry| *which != Which::Latest || database.is_none_or(|d| entry.is_of_database(d));
            if *which == Which::Latest && !catalogue.entries.iter().any(|entry| meant(&entry)) {
                return Ok(Vec::new());
            }
            let choice = Choice { which: which.clone(), instance: options.instance.as_ref(), database };
            match choice.among(catalogue) {
                Ok(chosen) => {
                    warnings.extend(passed_over(&chosen.passed_over));
                    Ok(entry_of(catalogue, chosen.backup).into_iter().collect())
                }
                // Named, and its manifest cannot be read: that is a result of this verification.
                Err(error) => unreadable(catalogue, which, database).map(|entry| vec![entry]).ok_or(error),
            }
        }
        Wanted::LatestOfEach => {
            let series = catalogue.series();
            let wanted = series.iter().filter(|series| database.is_none_or(|d| series.is_of_database(d)));
            Ok(wanted
                .filter_map(|series| match series.latest() {
                    Ok(chosen) => {
                        warnings.extend(passed_over(&chosen.passed_over));
                        entry_of(catalogue, chosen.backup)
                    }
                    Err(_) => series.newest(),
                })
                .collect())
        }
    }
}

/// The one entry that an id means, if its manifest cannot be read.
fn unreadable<'a>(catalogue: &'a Catalogue, which: &Which, database: Option<&str>) -> Option<&'a Entry> {
    let Which::Id(id) = which else { return None };
    let meant = |entry: &&Entry| {
        entry.id().as_str().starts_with(id.as_str()) && database.is_none_or(|d| entry.is_of_database(d))
    };
    let mut entries = catalogue.entries.iter().filter(meant);
    match (entries.next(), entries.next()) {
        (Some(entry @ Entry::Unreadable(_)), None) => Some(entry),
        _ => None,
    }
}

fn entry_of<'a>(catalogue: &'a Catalogue, backup: &Backup) -> Option<&'a Entry> {
    let is_it = |entry: &&Entry| entry.stem() == &backup.stem && *entry.instance() == backup.manifest.instance;
    catalogue.entries.iter().find(is_it)
}

fn passed_over(bad: &[(BackupId, String)]) -> impl Iterator<Item = String> {
    bad.iter().map(|(id, why)| format!("{id} is newer and was not chosen: {why}"))
}

fn nothing(options: &Options, repository: &Repository) -> Error {
    let mut sentence = format!("there is nothing to verify in {}", repository.address());
    if let Some(instance) = &options.instance {
        sentence += &format!(", instance {instance}");
    }
    if let Some(database) = &options.database {
        sentence += &format!(", database {database:?}");
    }
    Error::new(Kind::NotVerified, sentence)
        .hint(format!("pgkeep report list --repo {} shows what there is", repository.address()))
}

struct Verifier<'a> {
    context: &'a Context,
    options: &'a Options,
    repository: &'a Repository,
}

impl Verifier<'_> {
    /// One run of one instance: lock, record, the backups one after the other.
    async fn verify_instance(&self, entries: &[&Entry], warnings: &mut Vec<String>) -> Vec<Item> {
        let Some(instance) = entries.first().map(|entry| entry.instance()) else { return Vec::new() };
        let (lock, run) = match self.begin(instance).await {
            Ok(begun) => begun,
            Err(error) => {
                let not_begun =
                    |entry: &&Entry| self.item(entry, Told::not_verified(&error, Vec::new()), Duration::ZERO);
                return entries.iter().map(not_begun).collect();
            }
        };
        let mut items = Vec::new();
        for entry in entries {
            items.push(self.verify_entry(entry, warnings).await);
        }
        super::finish_run(self.context, run, record(&items), warnings).await;
        drop(lock);
        items
    }

    async fn begin(&self, instance: &InstanceName) -> Result<(Lock, Run)> {
        let now = self.context.clock.now();
        let lock = self.context.state.lock(self.repository.id(), instance, Verb::Verify, now)?;
        let run = Run::begin(self.repository, &self.context.state, &lock, &self.context.host, now).await?;
        Ok((lock, run))
    }

    async fn verify_entry(&self, entry: &Entry, warnings: &mut Vec<String>) -> Item {
        let started = Instant::now();
        let told = match entry {
            Entry::Unreadable(unreadable) => {
                let finding = Finding::manifest(&unreadable.stem, &unreadable.error);
                Told::of(vec![finding], unreadable.error.kind, 0)
            }
            Entry::Backup(backup) => {
                let verified = backup::verify(self.context, self.repository, backup, self.options);
                match self.context.interrupt.guard(async { Ok(verified.await) }).await {
                    Ok(seen) => Told::of(seen.findings, seen.unasked.unwrap_or(Kind::Verification), seen.read_bytes),
                    Err(interrupted) => return self.item(entry, Told::stopped(interrupted), started.elapsed()),
                }
            }
        };
        let mut item = self.item(entry, told, started.elapsed());
        if item.findings.iter().any(|finding| finding.id == backup::REMOVED) {
            // A proof of what is no backup any more would only lie about.
            return item;
        }
        match self.proof(&item).store(self.repository).await {
            Ok(name) => item.proof = Some(name.to_string()),
            Err(error) => warnings.push(format!(
                "the proof of {} could not be stored, its result is in the record of this run: {error}",
                item.id
            )),
        }
        item
    }

    fn item(&self, entry: &Entry, told: Told, duration: Duration) -> Item {
        let id = entry.id();
        let error = told.failure.map(Failure::error);
        let stored_bytes = entry.backup().map(|backup| backup.manifest.stored_bytes());
        let database = match entry {
            Entry::Backup(backup) => backup.manifest.database.clone(),
            Entry::Unreadable(unreadable) => unreadable.stem.encoded_database().to_owned(),
        };
        Item {
            id,
            instance: entry.instance().clone(),
            database,
            level: self.options.depth.level(),
            status: told.status,
            read_bytes: told.read_bytes,
            duration_seconds: duration.as_secs_f64(),
            findings: told.findings,
            proof: None,
            repositories: vec![Copy {
                name: self.repository.address().to_owned(),
                status: told.status,
                stored_bytes,
                error: None,
            }],
            error,
        }
    }

    fn proof(&self, item: &Item) -> Proof {
        Proof {
            format: Proof::FORMAT,
            id: item.id.clone(),
            instance: item.instance.clone(),
            level: item.level,
            verdict: match item.status {
                Status::Ok => Verdict::Passed,
                Status::Failed | Status::Partial => Verdict::Failed,
                Status::NotVerified => Verdict::NotVerified,
            },
            at: self.context.clock.now(),
            duration_seconds: item.duration_seconds,
            host: self.context.host.clone(),
            reason: item.error.as_ref().map(Error::to_string),
            findings: item.findings.iter().map(|finding| finding.message.clone()).collect(),
            pgkeep_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What a verification comes to.
struct Told {
    status: Status,
    findings: Vec<Finding>,
    read_bytes: u64,
    failure: Option<Failure>,
}

/// Why a backup did not pass.
enum Failure {
    /// The whole error: the verification did not take place.
    Whole(Error),
    Found {
        kind: Kind,
        sentence: String,
    },
}

impl Failure {
    fn error(self) -> Error {
        match self {
            Self::Whole(error) => error,
            Self::Found { kind, sentence } => {
                let hint = match kind {
                    Kind::Verification => "use another backup, and make a new one",
                    Kind::Usage => "use a newer pgkeep",
                    _ => "make the repository readable, and verify again",
                };
                Error::new(kind, sentence).hint(hint)
            }
        }
    }
}

impl Told {
    /// `kind` is what stood in the way: `Verification` is damage, anything else says nothing of the backup.
    fn of(findings: Vec<Finding>, kind: Kind, read_bytes: u64) -> Self {
        let sentence = match findings.as_slice() {
            [] => return Self { status: Status::Ok, findings, read_bytes, failure: None },
            [only] => only.message.clone(),
            [first, rest @ ..] => format!("{} (and {} more)", first.message, rest.len()),
        };
        let status = if kind == Kind::Verification { Status::Failed } else { Status::NotVerified };
        Self { status, findings, read_bytes, failure: Some(Failure::Found { kind, sentence }) }
    }

    fn not_verified(error: &Error, findings: Vec<Finding>) -> Self {
        let same = Error::new(error.kind, error.to_string());
        let same = match error.next_step() {
            Some(hint) => same.hint(hint),
            None => same,
        };
        Self { status: Status::NotVerified, findings, read_bytes: 0, failure: Some(Failure::Whole(same)) }
    }

    fn stopped(interrupted: Error) -> Self {
        Self::not_verified(&interrupted, Vec::new())
    }
}

/// What the run record says.
fn record(items: &[Item]) -> RunOutcome {
    let of_items: Vec<RunItem> = items.iter().map(run_item).collect();
    let Some(error) = super::overall(items) else { return RunOutcome::succeeded(of_items) };
    let failed = RunOutcome::failed("verify", &error, of_items);
    if error.kind == Kind::Partial { RunOutcome { status: RunStatus::Partial, ..failed } } else { failed }
}

fn run_item(item: &Item) -> RunItem {
    let error = item.error.as_ref();
    RunItem {
        id: Some(item.id.clone()),
        database: Some(item.database.clone()),
        status: if error.is_none() { RunStatus::Succeeded } else { RunStatus::Failed },
        stage: error.map(|_| item.level.as_str().to_owned()),
        exit_code: error.map_or(0, |error| error.kind.exit_code()),
        error: error.map(Error::to_string),
        hint: error.and_then(|error| error.next_step().map(str::to_owned)),
        stored_bytes: item.repositories.iter().find_map(|copy| copy.stored_bytes),
        duration_seconds: item.duration_seconds,
    }
}
