//! One system identifier's history in an instance. A second cluster under the same name would mix two histories, so it
//! is refused unless it is plainly the first one upgraded, or accepted by name.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::document::{self, FORMAT};
use super::layout::{Folder, StoredName};
use super::name::{InstanceName, SystemIdentifier};
use super::repository::Repository;
use crate::error::{Error, Kind, Result};
use crate::storage::Fault;

/// `lineages/<system-id>.json`, format 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    pub format: u32,
    pub system_identifier: SystemIdentifier,
    /// `server_version_num` when it was first seen.
    pub server_version: u32,
    pub first_seen: DateTime<Utc>,
    /// Where the server was, as it was asked for.
    pub source_host: String,
}

/// What a cluster is to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Known,
    /// The instance has held nothing yet.
    First,
    /// A new system identifier with a higher major version than any before: `pg_upgrade`, or a new cluster for it.
    Upgraded {
        from_major: u32,
    },
    /// Another cluster; the newest lineage that the instance has held.
    Foreign(Lineage),
}

/// Pure: what `seen` is to an instance that has held `known`.
pub fn judge(known: &[Lineage], seen: SystemIdentifier, server_version: u32) -> Judgement {
    if known.iter().any(|lineage| lineage.system_identifier == seen) {
        return Judgement::Known;
    }
    let Some(newest) = known.iter().max_by_key(|lineage| lineage.first_seen) else { return Judgement::First };
    let highest = known.iter().map(|lineage| lineage.server_version / 10_000).max().unwrap_or_default();
    if server_version / 10_000 > highest {
        return Judgement::Upgraded { from_major: highest };
    }
    Judgement::Foreign(newest.clone())
}

impl Lineage {
    pub fn new(seen: SystemIdentifier, server_version: u32, first_seen: DateTime<Utc>, source_host: &str) -> Self {
        let source_host = source_host.to_owned();
        Self { format: FORMAT, system_identifier: seen, server_version, first_seen, source_host }
    }

    /// Every lineage of an instance. One that cannot be read is an error: it could be the very one that is asked for.
    pub async fn all(repository: &Repository, instance: &InstanceName) -> Result<Vec<Self>> {
        let mut lineages = Vec::new();
        for object in repository.storage().list(&Folder::Lineages.of(instance)).await? {
            if let Some(StoredName::Lineage { .. }) = StoredName::parse(&object.key) {
                lineages.push(document::read(repository.storage(), &object.key).await?);
            }
        }
        Ok(lineages)
    }

    /// Stores a lineage that is new. Somebody who did so a moment before is as good.
    pub async fn open(&self, repository: &Repository, instance: &InstanceName) -> Result<()> {
        let name = StoredName::Lineage { instance: instance.clone(), system_identifier: self.system_identifier };
        match repository.storage().create(&name.key(), document::to_json(self)?).await {
            Err(error) if error.fault == Fault::Exists => Ok(()),
            done => Ok(done?),
        }
    }

    /// The refusal of another cluster: both identifiers, where the other came from and since when.
    pub fn refuse(&self, instance: &InstanceName, seen: SystemIdentifier, source_host: &str) -> Error {
        Error::new(Kind::Refused, format!("the cluster at {source_host} has system identifier {seen}")).because(format!(
            "instance {instance} holds {}, first seen at {} on {}",
            self.system_identifier,
            self.source_host,
            self.first_seen.format("%Y-%m-%dT%H:%M:%SZ"),
        ))
        .hint("store it as an instance of its own (--instance NAME), or say --new-lineage if it replaces the old cluster")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(id: u64, version: u32, day: u32) -> Lineage {
        let first_seen = format!("2026-11-{day:02}T00:00:00Z").parse().unwrap();
        Lineage::new(SystemIdentifier(id), version, first_seen, "db1")
    }

    #[test]
    fn only_an_upgrade_opens_a_lineage_by_itself() {
        let known = [lineage(1, 140_010, 1), lineage(2, 150_003, 2)];
        assert_eq!(judge(&[], SystemIdentifier(9), 150_000), Judgement::First);
        assert_eq!(judge(&known, SystemIdentifier(1), 140_011), Judgement::Known);
        assert_eq!(judge(&known, SystemIdentifier(3), 180_000), Judgement::Upgraded { from_major: 15 });
        assert_eq!(judge(&known, SystemIdentifier(3), 150_009), Judgement::Foreign(known[1].clone()));
        assert_eq!(judge(&known, SystemIdentifier(3), 140_000), Judgement::Foreign(known[1].clone()));
    }
}
