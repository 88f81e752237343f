//! Proofs: what verifications found. Never changed and never replaced; the newest of a level counts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::document::{self, FORMAT};
use super::layout::{BackupId, Folder, Level, ProofName, StoredName, Verdict};
use super::name::{InstanceName, Stamp};
use super::repository::Repository;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::storage::{Fault, ObjectMeta, Prefix};

/// `proofs/<id>/<UTC>-<level>-<verdict>.json`, format 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    pub format: u32,
    pub id: BackupId,
    pub instance: InstanceName,
    pub level: Level,
    pub verdict: Verdict,
    pub at: DateTime<Utc>,
    pub duration_seconds: f64,
    /// Where it was verified.
    pub host: String,
    /// Why it failed or could not be verified.
    pub reason: Option<String>,
    /// What was seen, one sentence each.
    pub findings: Vec<String>,
    /// Reason and findings, where the repository is encrypted: armored age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<String>,
    pub pgkeep_version: String,
}

impl Proof {
    pub const FORMAT: u32 = FORMAT;

    /// Stores the proof under a name of its own, which it returns.
    pub async fn store(&self, repository: &Repository) -> Result<ProofName> {
        let body = document::to_json(&self.sealed(repository).await?)?;
        let mut name = ProofName { at: Stamp::of(self.at), level: self.level, verdict: self.verdict };
        loop {
            let key = self.key(name);
            match repository.storage().create(&key, body.clone()).await {
                Ok(()) => return Ok(name),
                // Two hosts that verify in one second with one result; each proof is kept.
                Err(error) if error.fault == Fault::Exists => name.at = name.at.next_second(),
                Err(error) => {
                    return Err(Error::from(error)).doing(Kind::Storage, || format!("store the proof of {}", self.id));
                }
            }
        }
    }

    fn key(&self, proof: ProofName) -> crate::storage::Key {
        StoredName::Proof { instance: self.instance.clone(), id: self.id.clone(), proof }.key()
    }

    pub async fn read(
        repository: &Repository,
        instance: &InstanceName,
        id: &BackupId,
        proof: ProofName,
    ) -> Result<Self> {
        let key = StoredName::Proof { instance: instance.clone(), id: id.clone(), proof }.key();
        let proof: Self = document::read(repository.storage(), &key).await?;
        Ok(proof.opened(repository).await)
    }
}

/// The proofs of one backup, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proofs(Vec<ProofName>);

impl Proofs {
    pub fn all(&self) -> &[ProofName] {
        &self.0
    }

    pub fn newest_of(&self, level: Level) -> Option<ProofName> {
        self.0.iter().rev().find(|proof| proof.level == level).copied()
    }

    pub fn newest(&self) -> Option<ProofName> {
        self.0.last().copied()
    }

    /// The newest failure that nothing has refuted: neither a shallower proof that passed later nor one that could not
    /// be made says anything against it.
    pub fn standing_failure(&self) -> Option<ProofName> {
        let failed = self.0.iter().enumerate().rev().filter(|(_, proof)| proof.verdict == Verdict::Failed);
        let refuted = |at: usize, failed: &ProofName| {
            let later = &self.0[at + 1..];
            later.iter().any(|proof| proof.verdict == Verdict::Passed && proof.level >= failed.level)
        };
        failed.into_iter().find(|(at, proof)| !refuted(*at, proof)).map(|(_, proof)| *proof)
    }
}

impl FromIterator<ProofName> for Proofs {
    fn from_iter<I: IntoIterator<Item = ProofName>>(names: I) -> Self {
        let mut names: Vec<_> = names.into_iter().collect();
        // In one second the worse verdict comes last and stands.
        names.sort_by_key(|proof| (proof.at, proof.verdict == Verdict::Failed, *proof));
        Self(names)
    }
}

/// The proofs of every backup of one instance or of all; nothing is read but a listing.
pub async fn proofs(
    repository: &Repository,
    instance: Option<&InstanceName>,
) -> Result<BTreeMap<(InstanceName, BackupId), Proofs>> {
    let prefix = instance.map_or(Prefix::root(), |instance| Folder::Proofs.of(instance));
    Ok(proofs_in(&repository.storage().list(&prefix).await?))
}

pub(super) fn proofs_in(listed: &[ObjectMeta]) -> BTreeMap<(InstanceName, BackupId), Proofs> {
    let mut names: BTreeMap<_, Vec<ProofName>> = BTreeMap::new();
    for meta in listed {
        if let Some(StoredName::Proof { instance, id, proof }) = StoredName::parse(&meta.key) {
            names.entry((instance, id)).or_default().push(proof);
        }
    }
    names.into_iter().map(|(backup, names)| (backup, names.into_iter().collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proofs(names: &[&str]) -> Proofs {
        names.iter().map(|name| name.parse::<ProofName>().unwrap()).collect()
    }

    #[test]
    fn a_failure_stands_until_something_as_deep_passes() {
        let standing = |names: &[&str]| proofs(names).standing_failure().map(|proof| proof.to_string());
        assert_eq!(standing(&[]), None);
        assert_eq!(standing(&["20250102T000000Z-L1-passed", "20250101T000000Z-L1-failed"]), None);
        let failed = Some("20250101T000000Z-L2-failed".to_owned());
        assert_eq!(standing(&["20250101T000000Z-L2-failed", "20250102T000000Z-L1-passed"]), failed);
        assert_eq!(standing(&["20250101T000000Z-L2-failed", "20250102T000000Z-L3-not_verified"]), failed);
        assert_eq!(standing(&["20250101T000000Z-L2-failed", "20250102T000000Z-L3-passed"]), None);
        assert_eq!(standing(&["20250101T000000Z-L2-failed", "20250101T000000Z-L2-passed"]), failed);
        let two = ["20250101T000000Z-L3-failed", "20250102T000000Z-L1-failed", "20250103T000000Z-L1-passed"];
        assert_eq!(standing(&two), Some("20250101T000000Z-L3-failed".to_owned()));
    }

    #[test]
    fn the_newest_of_a_level_counts() {
        let proofs =
            proofs(&["20250103T000000Z-L1-failed", "20250101T000000Z-L2-passed", "20250102T000000Z-L1-passed"]);
        assert_eq!(proofs.newest_of(Level::L1).unwrap().verdict, Verdict::Failed);
        assert_eq!(proofs.newest_of(Level::L2).unwrap().verdict, Verdict::Passed);
        assert_eq!(proofs.newest_of(Level::L3), None);
    }
}
