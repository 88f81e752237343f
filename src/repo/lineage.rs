//! Lineages: which clusters have been backed up under one instance name.
//!
//! A lineage is one system identifier's history. An instance whose identifier suddenly is another one is a wrong
//! address, a restored clone or a new cluster; only a new major version explains itself (an upgrade). Anything else is
//! refused until somebody says that it is meant, because retention would count the two as one.

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::document::{self, FORMAT};
use super::intent::READS_AT_ONCE;
use super::layout::{BackupId, Folder, StoredName};
use super::manifest::DumpManifest;
use super::name::{InstanceName, SystemIdentifier};
use super::repository::Repository;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::storage::Fault;

/// `lineages/<system-id>.json`, format 1; never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    pub format: u32,
    pub system_identifier: SystemIdentifier,
    /// The major version when it was first seen: 15.
    pub major_version: u32,
    pub first_seen: DateTime<Utc>,
    /// The server's address as it was asked for then.
    pub server_host: String,
    pub first_backup: Option<BackupId>,
}

/// What a system identifier is to an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Kinship {
    /// Seen before.
    Known,
    /// The first of the instance.
    First,
    /// A higher major version than every lineage before: an upgrade.
    Upgrade { from: Lineage },
}

/// The identifier is another cluster's, as far as anybody can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewLineage {
    Refused,
    /// The user said that it is meant.
    Allowed,
}

impl Lineage {
    pub const FORMAT: u32 = FORMAT;

    /// Every lineage of an instance, the oldest first.
    pub async fn all(repository: &Repository, instance: &InstanceName) -> Result<Vec<Self>> {
        let listed = repository.storage().list(&Folder::Lineages.of(instance)).await?;
        let reads = listed.into_iter().filter_map(|meta| match StoredName::parse(&meta.key)? {
            StoredName::Lineage { .. } => {
                Some(async move {
                    let read = document::read::<Self>(repository.storage(), &meta.key).await;
                    read.map_err(|error| match error.kind {
                        // Nothing leans on it but the question whether this cluster was here before.
                        Kind::Verification => error.hint(format!(
                            "if the server is the right one, remove {}: the next dump writes it anew",
                            meta.key
                        )),
                        _ => error,
                    })
                })
            }
            _ => None,
        });
        let mut lineages: Vec<Self> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
        lineages.sort_by_key(|lineage| lineage.first_seen);
        Ok(lineages)
    }

    /// What a backup tells of its lineage, where nobody else does.
    pub fn first_seen_in(manifest: &DumpManifest, system_identifier: SystemIdentifier) -> Self {
        Self {
            format: FORMAT,
            system_identifier,
            major_version: manifest.server.number / 10_000,
            first_seen: manifest.started_at,
            server_host: manifest.source.host.clone(),
            first_backup: Some(manifest.id.clone()),
        }
    }

    /// Stores the lineage if it is not there yet.
    pub async fn store(&self, repository: &Repository, instance: &InstanceName) -> Result<()> {
        let system_identifier = self.system_identifier;
        let key = StoredName::Lineage { instance: instance.clone(), system_identifier }.key();
        match repository.storage().create(&key, document::to_json(self)?).await {
            Ok(()) => Ok(()),
            Err(error) if error.fault == Fault::Exists => Ok(()),
            Err(error) => Err(Error::from(error)).doing(Kind::Storage, || format!("store lineage {system_identifier}")),
        }
    }

    /// Judges this lineage, of a server that is about to be backed up, by those that the instance has.
    /// [`Kind::Refused`] if it is a stranger and `new` does not allow it.
    pub fn judge(&self, instance: &InstanceName, known: &[Self], new: NewLineage) -> Result<Kinship> {
        let Some(newest) = known.iter().max_by_key(|lineage| (lineage.major_version, lineage.first_seen)) else {
            return Ok(Kinship::First);
        };
        if known.iter().any(|lineage| lineage.system_identifier == self.system_identifier) {
            return Ok(Kinship::Known);
        }
        if self.major_version > newest.major_version {
            return Ok(Kinship::Upgrade { from: newest.clone() });
        }
        if new == NewLineage::Allowed {
            return Ok(Kinship::First);
        }
        let first_backup = newest.first_backup.as_ref().map_or("none".to_owned(), BackupId::to_string);
        Err(Error::refused(format!(
            "the server at {:?} has system identifier {}, instance {instance} is that of {} (at {:?}, first backup \
             {first_backup})",
            self.server_host, self.system_identifier, newest.system_identifier, newest.server_host
        ))
        .hint("check the address; for another cluster use another --instance, for a replaced one --new-lineage"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::StateDirectory;
    use crate::storage::MemoryStorage;

    fn lineage(id: u64, major_version: u32) -> Lineage {
        Lineage {
            format: FORMAT,
            system_identifier: SystemIdentifier(id),
            major_version,
            first_seen: DateTime::from_timestamp(1_738_288_800 + id as i64, 0).unwrap(),
            server_host: format!("db{id}"),
            first_backup: Some("shop_20250131T020000Z_db1".parse().unwrap()),
        }
    }

    #[test]
    fn only_an_upgrade_explains_itself() {
        let main = "main".parse().unwrap();
        let known = [lineage(1, 15), lineage(2, 17)];
        let judge = |new: Lineage, allowed| new.judge(&main, &known, allowed);
        assert_eq!(judge(lineage(1, 15), NewLineage::Refused).unwrap(), Kinship::Known);
        let upgrade = Kinship::Upgrade { from: lineage(2, 17) };
        assert_eq!(judge(lineage(3, 18), NewLineage::Refused).unwrap(), upgrade);
        assert_eq!(lineage(3, 18).judge(&main, &[], NewLineage::Refused).unwrap(), Kinship::First);
        for major in [15, 16, 17] {
            let error = judge(lineage(3, major), NewLineage::Refused).unwrap_err();
            assert_eq!(error.kind, Kind::Refused);
            assert_eq!(
                error.to_string(),
                "the server at \"db3\" has system identifier 3, instance main is that of 2 (at \"db2\", first backup \
                 shop_20250131T020000Z_db1)"
            );
            assert_eq!(judge(lineage(3, major), NewLineage::Allowed).unwrap(), Kinship::First);
        }
    }

    #[tokio::test]
    async fn a_lineage_is_stored_once() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let storage = std::sync::Arc::new(MemoryStorage::new());
        let repository = Repository::open_or_create(storage, &state).await.unwrap();
        let main = "main".parse().unwrap();
        lineage(2, 17).store(&repository, &main).await.unwrap();
        lineage(1, 15).store(&repository, &main).await.unwrap();
        Lineage { server_host: "later".to_owned(), ..lineage(1, 15) }.store(&repository, &main).await.unwrap();
        assert_eq!(Lineage::all(&repository, &main).await.unwrap(), [lineage(1, 15), lineage(2, 17)]);
        assert_eq!(Lineage::all(&repository, &"other".parse().unwrap()).await.unwrap(), []);

        let key =
            StoredName::Lineage { instance: "main".parse().unwrap(), system_identifier: SystemIdentifier(2) }.key();
        repository.storage().replace(&key, "{".into()).await.unwrap();
        let error = Lineage::all(&repository, &main).await.unwrap_err();
        assert!(error.next_step().unwrap().contains("remove main/lineages/2.json"), "{error:?}");
    }
}
