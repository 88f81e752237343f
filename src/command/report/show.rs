//! `report show`: everything that is known of one backup.

use serde::Serialize;

use super::{Context, Holdings, Moment, Options, Outcome, State, Summary};
use crate::error::Result;
use crate::repo::{Backup, Choice, DumpDetails, DumpManifest, Ending, Level, Proof, Repository, Verdict, Which};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    #[serde(flatten)]
    pub summary: Summary,
    pub state: State,
    pub reason: Option<String>,
    /// The address of the repository, and the key of each object in it.
    pub repository: String,
    pub keys: Vec<String>,
    pub manifest: DumpManifest,
    /// `None` where they cannot be read; a warning says why.
    pub details: Option<DumpDetails>,
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
    let holdings = Holdings::read(context, options).await?;
    let choice = Choice { which, instance: options.instance.as_ref(), database: options.database.as_deref() };
    let chosen = choice.among(&holdings.catalogue)?;
    let over = chosen.passed_over.iter();
    let mut warnings: Vec<String> = over.map(|(id, why)| format!("{id} is newer and not good: {why}")).collect();
    let backup = chosen.backup;
    let repository = &holdings.repository;
    let details = match context.interrupt.guard(details(repository, backup)).await {
        Ok(details) => Some(details),
        Err(error) => {
            warnings.push(format!("the details cannot be shown: {error}"));
            None
        }
    };
    let manifest = backup.manifest.clone();
    let names = manifest.objects.iter().map(|object| object.name.clone()).chain([backup.stem.object(Ending::Manifest)]);
    let keys = names.map(|name| name.key(&manifest.instance).to_string()).collect();
    let shown = Shown {
        summary: Summary::of(backup, context.clock.now()),
        state: State::of(backup),
        reason: backup.shortcoming(),
        repository: repository.address().to_owned(),
        keys,
        proofs: proofs(repository, backup, &mut warnings).await,
        manifest,
        details,
    };
    Ok(Outcome { items: vec![shown], warnings, error: None })
}

async fn details(repository: &Repository, backup: &Backup) -> Result<DumpDetails> {
    let key = backup.stem.object(Ending::Details).key(&backup.manifest.instance);
    let body = repository.storage().get(&key, DumpDetails::LIMIT_BYTES).await?;
    DumpDetails::from_stored(&body, key.as_str())
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
