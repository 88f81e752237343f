//! `report show`: everything that is known of one backup.

use serde::Serialize;

use super::{Context, Copy, Moment, Options, Outcome, State, Summary, read};
use crate::error::Result;
use crate::repo::{
    Backup, Choice, DumpDetails, DumpManifest, Ending, HeldCopy, Holding, Level, Proof, Repository, Verdict, Which,
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    #[serde(flatten)]
    pub summary: Summary,
    pub state: State,
    pub reason: Option<String>,
    /// Each copy, in the order in which the repositories are named.
    pub repositories: Vec<ShownCopy>,
    /// That of the copy that would be read first.
    pub manifest: DumpManifest,
    /// `None` where no copy delivers them; a warning says why.
    pub details: Option<DumpDetails>,
}

/// One copy: where it lies, and what is known of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownCopy {
    #[serde(flatten)]
    pub copy: Copy,
    pub address: String,
    /// The stored archive was read and decoded to its end before this copy counted.
    pub read_back: bool,
    /// The key of each object.
    pub keys: Vec<String>,
    /// Newest first.
    pub proofs: Vec<ProofLine>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProofLine {
    pub at: Moment,
    pub level: Level,
    pub verdict: Verdict,
    pub host: Option<String>,
    pub findings: Vec<String>,
}

/// Shows the backup that is meant; damaged ones, too.
pub async fn show(context: &Context, options: &Options, which: Which) -> Result<Outcome<Shown>> {
    let reading = read(context, options).await?;
    let choice = Choice { which, instance: options.instance.as_ref(), database: options.database.as_deref() };
    let chosen = choice.among(&reading.union)?;
    let mut warnings = reading.repositories.warnings();
    warnings.extend(chosen.passed_over.iter().map(|(id, why)| format!("{id} is newer and not good: {why}")));
    let (holding, backup) = (chosen.holding, chosen.backup);
    let shown = Shown {
        summary: Summary::of(holding, backup, context.clock.now()),
        state: State::of(holding),
        reason: holding.shortcoming(),
        details: context.interrupt.guard(async { Ok(any_details(holding, &mut warnings).await) }).await?,
        repositories: context.interrupt.guard(async { Ok(copies(holding, &mut warnings).await) }).await?,
        manifest: backup.manifest.clone(),
    };
    Ok(Outcome { items: vec![shown], warnings, error: reading.repositories.partial() })
}

/// The details, from the first copy that delivers them.
async fn any_details(holding: &Holding, warnings: &mut Vec<String>) -> Option<DumpDetails> {
    let mut failures = Vec::new();
    for (repository, backup) in holding.sources() {
        match details(repository, backup).await {
            Ok(details) => return Some(details),
            Err(error) => failures.push(error.to_string()),
        }
    }
    warnings.push(format!("the details cannot be shown: {}", failures.join("; ")));
    None
}

async fn details(repository: &Repository, backup: &Backup) -> Result<DumpDetails> {
    let key = backup.stem.object(Ending::DETAILS).key(&backup.manifest.instance);
    let body = repository.storage().get(&key, DumpDetails::LIMIT_BYTES).await?;
    DumpDetails::from_stored(&body, key.as_str())
}

async fn copies(holding: &Holding, warnings: &mut Vec<String>) -> Vec<ShownCopy> {
    let mut shown = Vec::new();
    for copy in holding.copies() {
        shown.push(shown_copy(copy, warnings).await);
    }
    shown
}

async fn shown_copy(held: &HeldCopy, warnings: &mut Vec<String>) -> ShownCopy {
    let (copy, address) = (Copy::held(held), held.repository.address().to_owned());
    let Some(backup) = held.entry.backup() else {
        return ShownCopy { copy, address, read_back: false, keys: Vec::new(), proofs: Vec::new() };
    };
    let manifest = &backup.manifest;
    let names = manifest.objects.iter().map(|object| object.name.clone()).chain([backup.stem.object(Ending::Manifest)]);
    ShownCopy {
        copy,
        address,
        read_back: manifest.checks.read_back,
        keys: names.map(|name| name.key(&manifest.instance).to_string()).collect(),
        proofs: proofs(&held.repository, backup, warnings).await,
    }
}

async fn proofs(repository: &Repository, backup: &Backup, warnings: &mut Vec<String>) -> Vec<ProofLine> {
    let mut lines = Vec::new();
    for name in backup.proofs.all().iter().rev() {
        // The name says the verdict; the content only adds to it.
        let read = Proof::read(repository, &backup.manifest.instance, backup.id(), *name).await;
        let (host, findings) = match read {
            Ok(proof) => (Some(proof.host), proof.findings),
            Err(error) => {
                warnings.push(error.to_string());
                (None, Vec::new())
            }
        };
        lines.push(ProofLine { at: Moment(name.at.time()), level: name.level, verdict: name.verdict, host, findings });
    }
    lines
}
