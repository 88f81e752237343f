//! What a host remembers between runs: its random id, the repositories it has stored in, locks, and records that a
//! repository refused.
//!
//! ```text
//! <root>/host-id                                       32 hex digits; says whose an intent is
//! <root>/repositories/<32 hex of the address>.json     an address and the id that was found there
//! <root>/locks/<repository id>.<instance>.<verb>.lock  flock; never deleted, else two runs could lock two files
//! <root>/locks/<repository id>.<instance>.<verb>-<n>.lock  likewise, for runs that may go on beside each other
//! <root>/locks/gate                                    held for moments while a lock is taken or looked at
//! <root>/pauses/…                                      see the notes of paused replay
//! <root>/runs/<repository id>/<instance>/<run>.json    records that could not be stored in the repository
//! ```
//!
//! Directories are made 0700, files 0600. Losing all of it loses no backup.

use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::document::{self, FORMAT};
use super::layout::RunName;
use super::name::{InstanceName, InvalidName, is_lower_hex, text_name};
use crate::digest::{Sha256, random_hex};
use crate::error::{Doing as _, Kind, Result};

pub(super) const ID_DIGITS: usize = 32;

/// The random id of a host's state directory.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(String);

/// The random id of a repository.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryId(String);

macro_rules! random_id {
    ($name:ident) => {
        impl $name {
            pub(super) fn random() -> Self {
                Self(random_hex(ID_DIGITS))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if text.len() == ID_DIGITS && text.bytes().all(is_lower_hex) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName::new(text, "an id of 32 hex digits"))
                }
            }
        }

        text_name!($name);
    };
}

random_id!(HostId);
random_id!(RepositoryId);

#[derive(Clone, Debug)]
pub struct StateDirectory {
    root: PathBuf,
    host_id: HostId,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RememberedRepository {
    format: u32,
    address: String,
    repository_id: RepositoryId,
}

impl StateDirectory {
    /// Opens the directory, making it and its id if they are missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        make_directory(&root)?;
        let host_id = host_id(&root.join("host-id"))?;
        Ok(Self { root, host_id })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn host_id(&self) -> &HostId {
        &self.host_id
    }

    /// The id of the repository that this host stored in at `address`, and the file that says so.
    pub(super) fn remembered(&self, address: &str) -> Result<Option<(RepositoryId, PathBuf)>> {
        let path = self.remembered_path(address);
        match std::fs::read(&path) {
            Ok(body) => {
                let remembered: RememberedRepository = document::from_json(&body, &path.display().to_string())
                    .map_err(|e| e.hint(format!("remove {} if the repository is the right one", path.display())))?;
                Ok(Some((remembered.repository_id, path)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(Kind::Storage, || format!("read {}", path.display())),
        }
    }

    pub(super) fn remember(&self, address: &str, id: &RepositoryId) -> Result<()> {
        let remembered =
            RememberedRepository { format: FORMAT, address: address.to_owned(), repository_id: id.clone() };
        replace_file(&self.remembered_path(address), &document::to_json(&remembered)?)
    }

    fn remembered_path(&self, address: &str) -> PathBuf {
        let mut name = Sha256::of(address.as_bytes()).to_string();
        name.truncate(32);
        self.root.join("repositories").join(name + ".json")
    }

    /// Keeps the record of a run that its repository refused.
    pub(super) fn keep_run(
        &self,
        repository: &RepositoryId,
        instance: &InstanceName,
        run: &RunName,
        body: &[u8],
    ) -> Result<()> {
        replace_file(&self.runs_directory(repository).join(instance.as_str()).join(format!("{run}.json")), body)
    }

    /// The kept records of runs of a repository: instance, name, content.
    pub(super) fn kept_runs(&self, repository: &RepositoryId) -> Result<Vec<(InstanceName, RunName, Vec<u8>)>> {
        let mut kept = Vec::new();
        for folder in list_directory(&self.runs_directory(repository))? {
            let Some(instance) = folder.file_name().and_then(|n| n.to_str()?.parse::<InstanceName>().ok()) else {
                continue;
            };
            for path in list_directory(&folder)? {
                let name = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".json")?.parse::<RunName>().ok());
                if let Some(run) = name {
                    let body = std::fs::read(&path).doing(Kind::Storage, || format!("read {}", path.display()))?;
                    kept.push((instance.clone(), run, body));
                }
            }
        }
        Ok(kept)
    }

    fn runs_directory(&self, repository: &RepositoryId) -> PathBuf {
        self.root.join("runs").join(repository.as_str())
    }
}

pub(super) fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), make_directory)
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing(Kind::Storage, || format!("create state directory {}", path.display()))
        .map_err(|e| e.hint("name a directory that this user may write to in PGKEEP_STATE_DIR"))
}

fn host_id(path: &Path) -> Result<HostId> {
    if !path.exists() {
        let parent = path.parent().unwrap_or(Path::new("."));
        let temporary = write_temporary(parent, HostId::random().as_str().as_bytes())?;
        // Of two first runs one gives the id; the other reads it.
        match temporary.persist_noclobber(path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.error).doing(Kind::Storage, || format!("create {}", path.display())),
        }
    }
    let reading = || format!("read {}", path.display());
    let text = std::fs::read_to_string(path).doing(Kind::Storage, reading)?;
    text.trim_end()
        .parse()
        .doing(Kind::Storage, reading)
        .map_err(|e| e.hint("remove the file: a new id is made, and intents of this host then last their 24 hours"))
}

pub(super) fn write_temporary(directory: &Path, body: &[u8]) -> Result<tempfile::NamedTempFile> {
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(body)?;
        file.as_file().sync_all()?;
        std::io::Result::Ok(file)
    };
    write().doing(Kind::Storage, || format!("write a file in {}", directory.display()))
}

fn replace_file(path: &Path, body: &[u8]) -> Result<()> {
    make_parent(path)?;
    let temporary = write_temporary(path.parent().unwrap_or(Path::new(".")), body)?;
    temporary.persist(path).map_err(|e| e.error).doing(Kind::Storage, || format!("write {}", path.display()))?;
    Ok(())
}

/// The paths in a directory in the order of their names; none if there is no directory.
pub(super) fn list_directory(path: &Path) -> Result<Vec<PathBuf>> {
    let list = || std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    match list() {
        Ok(mut paths) => {
            paths.sort();
            Ok(paths)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).doing(Kind::Storage, || format!("list {}", path.display())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    pub fn state() -> (tempfile::TempDir, StateDirectory) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path().join("a/state")).unwrap();
        (directory, state)
    }

    #[test]
    fn a_host_has_one_id_and_nobody_else_may_read() {
        let (_directory, state) = state();
        assert_eq!(StateDirectory::open(state.root()).unwrap().host_id(), state.host_id());
        state.remember("/backups", &RepositoryId::random()).unwrap();
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(state.root().to_owned()), 0o700);
        assert_eq!(mode(state.root().join("host-id")), 0o600);
        assert_eq!(mode(state.remembered_path("/backups")), 0o600);
    }
}
