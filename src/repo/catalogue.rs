//! What backups a repository has. Nothing is kept but what the repository says: manifests, and the names of proofs.

use futures_util::{StreamExt as _, stream};

use super::document;
use super::layout::{BackupId, DumpStem, Ending, Folder, ObjectName, StoredName, Verdict};
use super::manifest::DumpManifest;
use super::name::InstanceName;
use super::proof::{Proofs, proofs_in};
use super::repository::Repository;
use crate::error::{Error, Result};
use crate::storage::{Fault, ObjectMeta, Prefix};

/// How many manifests or records of runs are read at once: a remote store takes tens of milliseconds for each, and a
/// thousand have to be read in two seconds.
pub(super) const DOCUMENTS_AT_ONCE: usize = 64;

/// The backups of one repository, of one instance or of all, by instance and start.
#[derive(Debug)]
pub struct Catalogue {
    pub entries: Vec<Entry>,
}

/// A manifest that is listed. One that cannot be read is shown as that, never left out.
#[derive(Debug)]
pub enum Entry {
    Backup(Box<Backup>),
    Unreadable(Unreadable),
}

#[derive(Debug)]
pub struct Backup {
    pub stem: DumpStem,
    pub manifest: DumpManifest,
    pub proofs: Proofs,
    /// Objects that the manifest names and the store does not have as named. Empty: the backup is complete.
    pub defects: Vec<Defect>,
}

#[derive(Debug)]
pub struct Unreadable {
    pub instance: InstanceName,
    pub stem: DumpStem,
    /// Of kind `Verification` if its bytes are wrong, `Usage` if a newer version wrote it, else why the store did not
    /// deliver it.
    pub error: Error,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    Missing { name: String },
    Size { name: String, expected_bytes: u64, found_bytes: u64 },
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing { name } => write!(f, "{name} is missing"),
            Self::Size { name, expected_bytes, found_bytes } => {
                write!(f, "{name} has {found_bytes} bytes in place of {expected_bytes}")
            }
        }
    }
}

impl Backup {
    pub fn id(&self) -> &BackupId {
        &self.manifest.id
    }

    /// Why the backup is not *good*; None: it is complete, unfiltered, and no proof speaks against it.
    pub fn shortcoming(&self) -> Option<String> {
        if let Some(defect) = self.defects.first() {
            return Some(defect.to_string());
        }
        if self.manifest.filtered {
            return Some("it holds a part of the database".to_owned());
        }
        let failed = self.proofs.standing_failure()?;
        Some(format!("its {} verification of {} failed", failed.level.as_str(), failed.at))
    }

    /// An object is missing or has another size, or a proof failed and nothing has refuted it.
    pub fn is_damaged(&self) -> bool {
        !self.defects.is_empty() || self.proofs.standing_failure().is_some()
    }

    /// The newest proof that passed, of the greatest depth among them.
    pub fn best_proof(&self) -> Option<super::layout::ProofName> {
        self.proofs.all().iter().filter(|p| p.verdict == Verdict::Passed).max_by_key(|p| (p.level, p.at)).copied()
    }
}

impl Entry {
    pub fn instance(&self) -> &InstanceName {
        match self {
            Self::Backup(backup) => &backup.manifest.instance,
            Self::Unreadable(unreadable) => &unreadable.instance,
        }
    }

    pub fn stem(&self) -> &DumpStem {
        match self {
            Self::Backup(backup) => &backup.stem,
            Self::Unreadable(unreadable) => &unreadable.stem,
        }
    }

    pub fn id(&self) -> BackupId {
        self.stem().into()
    }

    /// The full name of the database; as it stands in keys, where the manifest cannot be read.
    pub fn database(&self) -> &str {
        match self {
            Self::Backup(backup) => &backup.manifest.database,
            Self::Unreadable(unreadable) => unreadable.stem.encoded_database(),
        }
    }

    pub fn is_of_database(&self, database: &str) -> bool {
        match self {
            Self::Backup(backup) => backup.manifest.database == database,
            Self::Unreadable(unreadable) => unreadable.stem.is_of_database(database),
        }
    }

    pub fn backup(&self) -> Option<&Backup> {
        match self {
            Self::Backup(backup) => Some(backup),
            Self::Unreadable(_) => None,
        }
    }

    pub fn unreadable(&self) -> Option<&Unreadable> {
        match self {
            Self::Backup(_) => None,
            Self::Unreadable(unreadable) => Some(unreadable),
        }
    }
}

impl Catalogue {
    /// Reads the manifests of one instance, or of all. Fails only if the repository cannot be listed.
    pub async fn read(repository: &Repository, instance: Option<&InstanceName>) -> Result<Self> {
        let listing = Listing::take(repository, instance).await?;
        let reads = listing.manifests().map(|(meta, instance, stem)| listing.entry(repository, meta, instance, stem));
        let read: Vec<Option<Entry>> = stream::iter(reads).buffered(DOCUMENTS_AT_ONCE).collect().await;
        let mut entries: Vec<Entry> = read.into_iter().flatten().collect();
        entries.sort_by(|a, b| {
            let by = |entry: &Entry| (entry.instance().clone(), entry.stem().started_at());
            by(a).cmp(&by(b)).then_with(|| a.stem().cmp(b.stem()))
        });
        Ok(Self { entries })
    }

    pub fn backups(&self) -> impl Iterator<Item = &Backup> {
        self.entries.iter().filter_map(Entry::backup)
    }
}

/// What lies in the folders that tell of backups, by key.
struct Listing {
    dumps: Vec<ObjectMeta>,
    proofs: std::collections::BTreeMap<(InstanceName, BackupId), Proofs>,
}

impl Listing {
    async fn take(repository: &Repository, instance: Option<&InstanceName>) -> Result<Self> {
        let storage = repository.storage();
        match instance {
            Some(instance) => {
                let dumps = storage.list(&Folder::Dumps.of(instance)).await?;
                let proofs = proofs_in(&storage.list(&Folder::Proofs.of(instance)).await?);
                Ok(Self { dumps, proofs })
            }
            None => {
                let dumps = storage.list(&Prefix::root()).await?;
                let proofs = proofs_in(&dumps);
                Ok(Self { dumps, proofs })
            }
        }
    }

    fn manifests(&self) -> impl Iterator<Item = (&ObjectMeta, InstanceName, DumpStem)> {
        self.dumps.iter().filter_map(|meta| match StoredName::parse(&meta.key)? {
            StoredName::Dump { instance, name: ObjectName { stem, ending: Ending::Manifest } } => {
                Some((meta, instance, stem))
            }
            _ => None,
        })
    }

    async fn entry(
        &self,
        repository: &Repository,
        meta: &ObjectMeta,
        instance: InstanceName,
        stem: DumpStem,
    ) -> Option<Entry> {
        let read = match repository.storage().get(&meta.key, document::LIMIT_BYTES).await {
            Ok(body) => DumpManifest::from_json(&body, &instance, &stem),
            // Removed since the listing: it is no backup any more.
            Err(error) if error.fault == Fault::NotFound => return None,
            Err(error) => Err(error.into()),
        };
        let checked = match read {
            Ok(manifest) => self.defects(repository, &manifest).await.map(|defects| (manifest, defects)),
            Err(error) => Err(error),
        };
        Some(match checked {
            Ok((manifest, defects)) => {
                let proofs = self.proofs.get(&(instance, manifest.id.clone())).cloned().unwrap_or_default();
                Entry::Backup(Box::new(Backup { stem, manifest, proofs, defects }))
            }
            Err(error) => Entry::Unreadable(Unreadable { instance, stem, error }),
        })
    }

    async fn defects(&self, repository: &Repository, manifest: &DumpManifest) -> Result<Vec<Defect>> {
        let mut defects = Vec::new();
        for object in &manifest.objects {
            let key = object.key(&manifest.instance);
            let listed =
                self.dumps.binary_search_by(|meta| meta.key.cmp(&key)).ok().map(|at| self.dumps[at].size_bytes);
            // A listing that ran while the backup was stored may show the manifest and not what was stored before it.
            let found = match listed {
                Some(size_bytes) => Some(size_bytes),
                None => document::head_if_there(repository.storage(), &key).await?.map(|head| head.size_bytes),
            };
            let name = object.name.to_string();
            match found {
                Some(found_bytes) if found_bytes == object.size_bytes => {}
                Some(found_bytes) => {
                    defects.push(Defect::Size { name, expected_bytes: object.size_bytes, found_bytes });
                }
                None => defects.push(Defect::Missing { name }),
            }
        }
        Ok(defects)
    }
}
