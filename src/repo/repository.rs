//! A place that holds backups, known by its `pgkeep.json`.
//!
//! The marker keeps an unmounted disk from being taken for an empty repository: a host remembers the id of every
//! repository it has stored in, and refuses an address whose marker is gone or has another id.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::document::{self, FORMAT};
use super::layout::{Ending, StoredName};
use super::state::{RepositoryId, StateDirectory};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::storage::{CreateOnly, Fault, ObjectMeta, Prefix, Storage};

/// `pgkeep.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    pub format: u32,
    pub repository_id: RepositoryId,
    /// By the store's own clock.
    pub created_at: DateTime<Utc>,
    pub create_only: CreateOnly,
}

/// A repository whose marker has been read and found right.
#[derive(Clone, Debug)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    marker: Marker,
    name: String,
    /// Dumps of a script that came before us lie in it, under the names that ours have.
    beside_script: bool,
}

impl Repository {
    /// Opens a repository to read from it.
    ///
    /// [`Kind::NoSuchBackup`] if there is none and this host never stored there; [`Kind::Refused`] if it did and the
    /// marker is gone or has another id; [`Kind::Usage`] if a newer version wrote it.
    pub async fn open(storage: Arc<dyn Storage>, state: &StateDirectory) -> Result<Self> {
        match Self::open_if_there(&storage, state).await? {
            Some(repository) => Ok(repository),
            None => Err(Self::absent(storage.address(), state)),
        }
    }

    /// What it means that nothing is at `address`: for a caller whose store could not even be opened because its
    /// directory does not exist.
    pub fn absent(address: &str, state: &StateDirectory) -> Error {
        match state.remembered(address) {
            Err(error) => error,
            Ok(Some((id, path))) => no_marker(address, &id, &path),
            Ok(None) => Error::new(Kind::NoSuchBackup, format!("there is no repository at {address}"))
                .hint("check the address; the first dump creates a repository"),
        }
    }

    /// Opens a repository to store in it, making it if there is none. The host remembers it from then on.
    pub async fn open_or_create(storage: Arc<dyn Storage>, state: &StateDirectory) -> Result<Self> {
        let mut opened = Self::open_if_there(&storage, state).await?;
        if opened.is_none() {
            refuse_strangers(&*storage).await?;
            create_marker(&*storage).await?;
            // Of two creators one wins; both read what is there now.
            opened = Self::open_if_there(&storage, state).await?;
        }
        let address = storage.address();
        let repository = opened.ok_or_else(|| {
            Error::new(Kind::Storage, format!("pgkeep.json of {address} was stored and is not there"))
                .hint("is something else removing files there?")
        })?;
        state.remember(address, repository.id())?;
        Ok(repository)
    }

    async fn open_if_there(storage: &Arc<dyn Storage>, state: &StateDirectory) -> Result<Option<Self>> {
        let address = storage.address();
        let marker: Option<Marker> = document::read_if_there(&**storage, &StoredName::Marker.key())
            .await
            .map_err(storage_unless_newer)
            .doing(Kind::Storage, || format!("open repository {address}"))?;
        let remembered = state.remembered(address)?;
        match (&marker, remembered) {
            (Some(marker), Some((id, path))) if marker.repository_id != id => {
                let found = &marker.repository_id;
                let action = format!("{address} holds repository {found}, this host stored in repository {id} there");
                Err(another_place(action, &path))
            }
            (None, Some((id, path))) => Err(no_marker(address, &id, &path)),
            _ => Ok(marker.map(|marker| Self {
                storage: Arc::clone(storage),
                marker,
                name: address.to_owned(),
                beside_script: false,
            })),
        }
    }

    /// A repository of nothing, for tests of what is only told about repositories.
    #[cfg(test)]
    pub(super) fn in_memory(name: &str) -> Self {
        let created_at = chrono::DateTime::UNIX_EPOCH;
        let repository_id = RepositoryId::random();
        let marker = Marker { format: FORMAT, repository_id, created_at, create_only: CreateOnly::None };
        Self {
            storage: Arc::new(crate::storage::MemoryStorage::new()),
            marker,
            name: name.to_owned(),
            beside_script: false,
        }
    }

    pub fn id(&self) -> &RepositoryId {
        &self.marker.repository_id
    }

    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// The same repository, under the name that its user calls it by.
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// The same repository, in a place that a script has stored its dumps in: without a manifest they are not lost data.
    pub fn beside_script(self) -> Self {
        Self { beside_script: true, ..self }
    }

    pub(super) fn is_beside_script(&self) -> bool {
        self.beside_script
    }

    /// What its user calls it; its address where nothing else is known.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, as a user would type it.
    pub fn address(&self) -> &str {
        self.storage.address()
    }

    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(super) fn shared_storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.storage)
    }
}

/// A marker that cannot be read is a repository that cannot be read, whatever is wrong with it.
fn storage_unless_newer(mut error: Error) -> Error {
    if error.kind == Kind::Verification {
        error.kind = Kind::Storage;
        return error.hint("restore pgkeep.json from a copy of the repository; the backups beside it are not touched");
    }
    error
}

fn no_marker(address: &str, id: &RepositoryId, remembered: &std::path::Path) -> Error {
    let action = format!("{address} has no pgkeep.json, this host stored in repository {id} there");
    another_place(action, remembered)
}

fn another_place(action: String, remembered: &std::path::Path) -> Error {
    Error::refused(action).hint(format!(
        "an unmounted disk? Mount it; if the repository was replaced on purpose, remove {}",
        remembered.display()
    ))
}

/// A place that holds backups and no marker is a repository that lost it: a new id would make strangers of them.
async fn refuse_strangers(storage: &dyn Storage) -> Result<()> {
    let listed = storage.list(&Prefix::root()).await?;
    let is_of_repository = |object: &&ObjectMeta| match StoredName::parse(&object.key) {
        // Dumps of the script that came before us, packed by hand or not, do not make a repository; ours lie beside a
        // manifest and details.
        Some(StoredName::Dump { name, .. }) => matches!(name.ending, Ending::Manifest | Ending::Details { .. }),
        Some(name) => name != StoredName::Marker,
        None => false,
    };
    match listed.iter().find(is_of_repository) {
        None => Ok(()),
        // Another creator was faster, and has stored already.
        Some(_) if document::head_if_there(storage, &StoredName::Marker.key()).await?.is_some() => Ok(()),
        Some(object) => {
            Err(Error::refused(format!("{} has no pgkeep.json, and holds {}", storage.address(), object.key))
                .hint("put pgkeep.json back (another copy of the repository has it), or store in another directory"))
        }
    }
}

async fn create_marker(storage: &dyn Storage) -> Result<()> {
    let (created_at, create_only) = (storage.now().await?, storage.prove_create_only().await?);
    let marker = Marker { format: FORMAT, repository_id: RepositoryId::random(), created_at, create_only };
    match storage.create(&StoredName::Marker.key(), document::to_json(&marker)?).await {
        Ok(()) => Ok(()),
        Err(error) if error.fault == Fault::Exists => Ok(()),
        Err(error) => {
            Err(Error::from(error)).doing(Kind::Storage, || format!("create repository {}", storage.address()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Effect, FaultyStorage, Injection, MemoryStorage, Operation};

    struct House {
        _directory: tempfile::TempDir,
        state: StateDirectory,
    }

    fn house() -> House {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        House { _directory: directory, state }
    }

    async fn create(storage: &MemoryStorage, house: &House) -> Result<Repository> {
        Repository::open_or_create(Arc::new(storage.clone()), &house.state).await
    }

    async fn open(storage: &MemoryStorage, house: &House) -> Result<Repository> {
        Repository::open(Arc::new(storage.clone()), &house.state).await
    }

    #[tokio::test]
    async fn the_first_writer_makes_it_and_a_reader_never_does() {
        let (storage, house) = (MemoryStorage::new(), house());
        let error = open(&storage, &house).await.unwrap_err();
        assert_eq!(error.kind, Kind::NoSuchBackup);
        assert_eq!(error.to_string(), "there is no repository at memory:");
        assert!(storage.contents().is_empty());

        let made = create(&storage, &house).await.unwrap();
        assert_eq!(create(&storage, &house).await.unwrap().id(), made.id());
        assert_eq!(open(&storage, &house).await.unwrap().marker(), made.marker());
    }

    #[tokio::test]
    async fn an_unmounted_disk_is_not_an_empty_repository() {
        let (storage, house, elsewhere) = (MemoryStorage::new(), house(), house());
        create(&storage, &house).await.unwrap();

        let unmounted = MemoryStorage::new();
        for refused in [create(&unmounted, &house).await, open(&unmounted, &house).await] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind, Kind::Refused);
            assert!(error.to_string().starts_with("memory: has no pgkeep.json, this host stored in repository "));
            assert!(error.next_step().unwrap().starts_with("an unmounted disk?"));
        }
        assert!(unmounted.contents().is_empty());
        assert_eq!(Repository::absent("memory:", &house.state).kind, Kind::Refused);
        assert_eq!(Repository::absent("memory:", &elsewhere.state).kind, Kind::NoSuchBackup);

        let other = MemoryStorage::new();
        create(&other, &elsewhere).await.unwrap();
        assert_eq!(open(&other, &house).await.unwrap_err().kind, Kind::Refused);
    }

    #[tokio::test]
    async fn of_two_creators_both_have_the_winners() {
        let (storage, one, two) = (MemoryStorage::new(), house(), house());
        let winner = create(&storage, &one).await.unwrap();
        // The loser saw no marker at first.
        let late = FaultyStorage::over(Arc::new(storage.clone()));
        late.inject(Injection::at(Operation::Read, Effect::FailBefore(Fault::NotFound)));
        let loser = Repository::open_or_create(Arc::new(late), &two.state).await.unwrap();
        assert_eq!(winner.id(), loser.id());
    }

    #[tokio::test]
    async fn could_not_ask_is_never_not_there() {
        let (storage, house) = (MemoryStorage::new(), house());
        let faulty = FaultyStorage::over(Arc::new(storage.clone()));
        faulty.inject(Injection::at(Operation::Read, Effect::FailBefore(Fault::Unavailable)));
        let error = Repository::open_or_create(Arc::new(faulty), &house.state).await.unwrap_err();
        assert_eq!(error.kind, Kind::Storage);
        assert!(storage.contents().is_empty());
    }

    #[tokio::test]
    async fn a_marker_of_a_newer_version_or_a_damaged_one_is_left_alone() {
        let (storage, house) = (MemoryStorage::new(), house());
        let key = StoredName::Marker.key();
        storage.create(&key, bytes::Bytes::from_static(b"{\"format\":3}")).await.unwrap();
        let error = create(&storage, &house).await.unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.to_string().ends_with("pgkeep.json has format 3, this pgkeep reads up to 1"), "{error}");
        storage.replace(&key, bytes::Bytes::from_static(b"{\"form")).await.unwrap();
        assert_eq!(create(&storage, &house).await.unwrap_err().kind, Kind::Storage);
        assert_eq!(storage.contents()[&key], "{\"form");
    }
}
