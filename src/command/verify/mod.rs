//! `pgkeep verify`: proves that stored backups are what was written, and stores the proof.
//!
//! Damage is `failed`. A store that could not be asked is `not_verified`: it says nothing against the backup and nothing
//! for it. One backup that fails does not keep the others from being verified.
//!
//! Every copy of a backup is verified, each under the lock and in a run record of its own repository, and its proof is
//! stored beside it. A backup of which one copy passed and another did not is `partial`.

mod backup;
mod copies;

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Context, Copy, Outcome, Place, Reading, Status, repo_flags};
use crate::error::{Error, Kind, Result};
use crate::repo::{
    BackupId, Choice, Entry, HeldCopy, Holding, InstanceName, Level, Lock, Proof, Repository, Run, RunItem, RunName,
    RunOutcome, Stamp, Union, Verb, Verdict, Which,
};

pub use backup::Finding;
use copies::Verified;

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
    /// Bytes of the stores that were read, all copies together.
    pub read_bytes: u64,
    pub duration_seconds: f64,
    pub findings: Vec<Finding>,
    pub repositories: Vec<CopyItem>,
    pub error: Option<Error>,
}

/// One copy, verified or not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyItem {
    #[serde(flatten)]
    pub copy: Copy,
    /// The name of the stored proof; `None` where none was stored.
    pub proof: Option<String>,
}

impl super::Item for Item {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        self.id.as_str()
    }
}

/// Verifies what the options name, repository by repository. [`Kind::NotVerified`] if there is nothing to verify.
pub async fn run(context: &Context, options: &Options) -> Result<Outcome<Item>> {
    let reading = Reading::of(context, &options.repositories, options.instance.as_ref()).await?;
    let mut warnings = reading.repositories.warnings();
    let chosen = choose(options, &reading.union, &mut warnings)?;
    if chosen.is_empty() {
        return Err(nothing(options, &reading));
    }
    let name = RunName::new(Stamp::of(context.clock.now()), Verb::Verify);
    let mut verified: Vec<Vec<Verified>> = chosen.iter().map(|_| Vec::new()).collect();
    for repository in &reading.repositories.answering {
        let verifier = Verifier { context, options, repository, run: &name };
        for (at, copy) in verifier.verify_all(&chosen, &mut warnings).await {
            verified[at].push(copy);
        }
    }
    let unread = &reading.repositories.unread;
    let items = chosen.iter().zip(verified).map(|(holding, verified)| {
        let unasked = unread.iter().map(|unread| Verified::unread(holding, &unread.name, &unread.error));
        Item::of(options.depth.level(), holding, verified.into_iter().chain(unasked).collect())
    });
    Ok(Outcome::of(items.collect(), warnings))
}

/// The backups that are meant, by instance.
fn choose<'a>(options: &Options, union: &'a Union, warnings: &mut Vec<String>) -> Result<Vec<&'a Holding>> {
    let database = options.database.as_deref();
    let wanted = |holding: &&Holding| database.is_none_or(|database| holding.is_of_database(database));
    match &options.wanted {
        Wanted::All => Ok(union.holdings.iter().filter(wanted).collect()),
        Wanted::One(which) => {
            if *which == Which::Latest && !union.holdings.iter().any(|holding| wanted(&holding)) {
                return Ok(Vec::new());
            }
            let choice = Choice { which: which.clone(), instance: options.instance.as_ref(), database };
            match choice.among(union) {
                Ok(chosen) => {
                    warnings.extend(passed_over(&chosen.passed_over));
                    Ok(vec![chosen.holding])
                }
                // Named, and its manifest cannot be read: that is a result of this verification.
                Err(error) => unreadable(union, which, database).map(|holding| vec![holding]).ok_or(error),
            }
        }
        Wanted::LatestOfEach => {
            let series = union.series();
            let wanted = series.iter().filter(|series| database.is_none_or(|d| series.is_of_database(d)));
            Ok(wanted
                .filter_map(|series| match series.latest() {
                    Ok(chosen) => {
                        warnings.extend(passed_over(&chosen.passed_over));
                        Some(chosen.holding)
                    }
                    Err(_) => series.newest(),
                })
                .collect())
        }
    }
}

/// The one backup that an id means, if no manifest of it can be read.
fn unreadable<'a>(union: &'a Union, which: &Which, database: Option<&str>) -> Option<&'a Holding> {
    let Which::Id(id) = which else { return None };
    let meant = |holding: &&Holding| {
        holding.id().as_str().starts_with(id.as_str()) && database.is_none_or(|d| holding.is_of_database(d))
    };
    let mut meant = union.holdings.iter().filter(meant);
    match (meant.next(), meant.next()) {
        (Some(holding), None) if holding.backup().is_none() => Some(holding),
        _ => None,
    }
}

fn passed_over(bad: &[(BackupId, String)]) -> impl Iterator<Item = String> {
    bad.iter().map(|(id, why)| format!("{id} is newer and was not chosen: {why}"))
}

fn nothing(options: &Options, reading: &Reading) -> Error {
    let names: Vec<&str> = reading.repositories.answering.iter().map(Repository::name).collect();
    let mut sentence = format!("there is nothing to verify in {}", names.join(" and "));
    if let Some(instance) = &options.instance {
        sentence += &format!(", instance {instance}");
    }
    if let Some(database) = &options.database {
        sentence += &format!(", database {database:?}");
    }
    for unread in &reading.repositories.unread {
        sentence += &format!("; {} could not be read: {}", unread.name, unread.error.said_of(&unread.name));
    }
    Error::new(Kind::NotVerified, sentence)
        .hint(format!("pgkeep report list{} shows what there is", repo_flags(&options.repositories)))
}

/// Verifies copies in one repository.
struct Verifier<'a> {
    context: &'a Context,
    options: &'a Options,
    repository: &'a Repository,
    /// One name for the run in every repository.
    run: &'a RunName,
}

impl Verifier<'_> {
    /// Verifies the copies that this repository has of what is chosen, one run for each instance. Each comes back with
    /// the place of its backup among the chosen.
    async fn verify_all(&self, chosen: &[&Holding], warnings: &mut Vec<String>) -> Vec<(usize, Verified)> {
        let held = chosen.iter().enumerate().filter_map(|(at, holding)| {
            let copy = holding.copy_in(self.repository.name())?;
            Some((at, copy))
        });
        let held: Vec<(usize, &HeldCopy)> = held.collect();
        let mut verified = Vec::new();
        for of_instance in held.chunk_by(|(_, a), (_, b)| a.entry.instance() == b.entry.instance()) {
            let places = of_instance.iter().map(|(at, _)| *at);
            let entries: Vec<&Entry> = of_instance.iter().map(|(_, copy)| &copy.entry).collect();
            verified.extend(places.zip(self.verify_instance(&entries, warnings).await));
        }
        verified
    }

    /// One run of one instance: lock, record, the copies one after the other.
    async fn verify_instance(&self, entries: &[&Entry], warnings: &mut Vec<String>) -> Vec<Verified> {
        let Some(instance) = entries.first().map(|entry| entry.instance()) else { return Vec::new() };
        let (lock, run) = match self.begin(instance).await {
            Ok(begun) => begun,
            Err(error) => {
                let not_begun = |entry: &&Entry| self.verified(entry, Told::not_verified(&error), Duration::ZERO);
                return entries.iter().map(not_begun).collect();
            }
        };
        let mut verified = Vec::new();
        for entry in entries {
            verified.push(self.verify_entry(entry, warnings).await);
        }
        super::finish_run(self.context, run, record(&verified, self.options.depth.level()), warnings).await;
        drop(lock);
        verified
    }

    async fn begin(&self, instance: &InstanceName) -> Result<(Lock, Run)> {
        let now = self.context.clock.now();
        let lock = self.context.state.lock(self.repository.id(), instance, Verb::Verify, now)?;
        let (state, host, name) = (&self.context.state, &self.context.host, self.run.clone());
        let run = Run::begin(self.repository, state, &lock, host, name, now).await?;
        Ok((lock, run))
    }

    async fn verify_entry(&self, entry: &Entry, warnings: &mut Vec<String>) -> Verified {
        let started = Instant::now();
        let told = match entry {
            Entry::Unreadable(unreadable) => {
                let finding = Finding::manifest(&unreadable.stem, &unreadable.error);
                Told::of(vec![finding], unreadable.error.kind, None, 0)
            }
            Entry::Backup(backup) => {
                let verified = backup::verify(self.context, self.repository, backup, self.options);
                match self.context.interrupt.guard(async { Ok(verified.await) }).await {
                    Ok(seen) => {
                        let kind = seen.unasked.unwrap_or(Kind::Verification);
                        Told::of(seen.findings, kind, seen.hint.as_deref(), seen.read_bytes)
                    }
                    Err(stopped) => return self.verified(entry, Told::not_verified(&stopped), started.elapsed()),
                }
            }
        };
        let mut verified = self.verified(entry, told, started.elapsed());
        if verified.findings.iter().any(|finding| finding.id == backup::REMOVED) {
            // A proof of what is no backup any more would only lie about.
            return verified;
        }
        match self.proof(entry, &verified).store(self.repository).await {
            Ok(name) => verified.proof = Some(name.to_string()),
            Err(error) => warnings.push(format!(
                "the proof of {} could not be stored in {}, its result is in the record of this run: {error}",
                verified.id,
                self.repository.name()
            )),
        }
        verified
    }

    fn verified(&self, entry: &Entry, told: Told, duration: Duration) -> Verified {
        let repository = self.repository.name();
        Verified {
            id: entry.id(),
            database: entry.database().to_owned(),
            repository: repository.to_owned(),
            status: told.status,
            stored_bytes: entry.backup().map(|backup| backup.manifest.stored_bytes()),
            read_bytes: told.read_bytes,
            duration_seconds: duration.as_secs_f64(),
            findings: told.findings.into_iter().map(|finding| finding.in_repository(repository)).collect(),
            proof: None,
            error: told.error,
        }
    }

    fn proof(&self, entry: &Entry, verified: &Verified) -> Proof {
        Proof {
            format: Proof::FORMAT,
            id: verified.id.clone(),
            instance: entry.instance().clone(),
            level: self.options.depth.level(),
            verdict: match verified.status {
                Status::Ok => Verdict::Passed,
                Status::Failed | Status::Partial => Verdict::Failed,
                Status::NotVerified => Verdict::NotVerified,
            },
            at: self.context.clock.now(),
            duration_seconds: verified.duration_seconds,
            host: self.context.host.clone(),
            reason: verified.error.as_ref().map(Error::to_string),
            findings: verified.findings.iter().map(|finding| finding.message.clone()).collect(),
            encrypted: None,
            pgkeep_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What the verification of one copy comes to.
struct Told {
    status: Status,
    findings: Vec<Finding>,
    read_bytes: u64,
    error: Option<Error>,
}

impl Told {
    /// `kind` is what stood in the way: `Verification` is damage, anything else says nothing of the copy.
    /// `hint` takes the place of what usually helps.
    fn of(findings: Vec<Finding>, kind: Kind, hint: Option<&str>, read_bytes: u64) -> Self {
        let sentence = match findings.as_slice() {
            [] => return Self { status: Status::Ok, findings, read_bytes, error: None },
            [only] => only.message.clone(),
            [first, rest @ ..] => format!("{} (and {} more)", first.message, rest.len()),
        };
        let (status, usual) = match kind {
            Kind::Verification => (Status::Failed, "use another backup, and make a new one"),
            Kind::Usage => (Status::NotVerified, "use a newer pgkeep"),
            _ => (Status::NotVerified, "make the repository readable, and verify again"),
        };
        Self { status, findings, read_bytes, error: Some(Error::new(kind, sentence).hint(hint.unwrap_or(usual))) }
    }

    /// The verification did not take place, or was stopped.
    fn not_verified(error: &Error) -> Self {
        Self { status: Status::NotVerified, findings: Vec::new(), read_bytes: 0, error: Some(error.repeated()) }
    }
}

/// What the run record of one repository says.
fn record(verified: &[Verified], level: Level) -> RunOutcome {
    let items: Vec<RunItem> = verified.iter().map(|verified| verified.run_item(level)).collect();
    let Some(error) = super::overall(verified) else { return RunOutcome::succeeded(items) };
    RunOutcome::failed("verify", &error, items)
}
