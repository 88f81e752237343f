//! What a host remembers between runs: its random id, the repositories it has stored in, locks, and records that a
//! repository refused.
//!
//! ```text
//! <root>/host-id                                       32 hex digits; says whose an intent is
//! <root>/repositories/<32 hex of the address>.json     an address and the id that was found there
//! <root>/locks/<repository id>.<instance>.<verb>.lock  flock; never deleted, else two runs could lock two files
//! <root>/locks/<repository id>.<instance>.<verb>-<n>.lock  likewise, for runs that may go on beside each other
//! <root>/locks/gate                                    held for moments while a lock is taken or looked at
//! <root>/runs/<repository id>/<instance>/<run>.json    records that could not be stored in the repository
//! ```
//!
//! Directories are made 0700, files 0600. Losing all of it loses no backup.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::document::{self, FORMAT};
use super::layout::{RunName, Verb};
use super::name::{InstanceName, InvalidName, is_lower_hex, text_name};
use crate::digest::{Sha256, random_hex};
use crate::error::{Doing, Error, Kind, Result};

const ID_DIGITS: usize = 32;

/// Runs of one verb that may go on beside each other on one host.
const MOST_BESIDE: usize = 32;

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

    /// Takes the lock of `verb` for an instance in a repository, or fails with [`Kind::Locked`] naming its holder.
    /// The lock is held until it is dropped or the process ends, however it ends.
    pub fn lock(
        &self,
        repository: &RepositoryId,
        instance: &InstanceName,
        verb: Verb,
        now: DateTime<Utc>,
    ) -> Result<Lock> {
        let _gate = self.gate()?;
        self.take(&self.lock_path(repository, instance, verb), repository, instance, verb, now)
    }

    /// Takes one of several locks of `verb`, for runs that do not disturb each other, such as restores into different
    /// databases. What they share is guarded elsewhere; the lock is what their records are believed by.
    pub fn lock_beside(
        &self,
        repository: &RepositoryId,
        instance: &InstanceName,
        verb: Verb,
        now: DateTime<Utc>,
    ) -> Result<Lock> {
        let _gate = self.gate()?;
        let mut busy = None;
        for path in self.lock_paths(repository, instance, verb) {
            match self.take(&path, repository, instance, verb, now) {
                Err(error) if error.kind == Kind::Locked => busy = Some(error),
                taken => return taken,
            }
        }
        Err(busy.unwrap_or_else(|| Error::new(Kind::Unexpected, "there is no lock to take")))
    }

    fn take(
        &self,
        path: &Path,
        repository: &RepositoryId,
        instance: &InstanceName,
        verb: Verb,
        now: DateTime<Utc>,
    ) -> Result<Lock> {
        let mut file = open_lock_file(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(verb, instance, read_holder(&mut file).as_ref())),
            Err(TryLockError::Error(error)) => {
                return Err(error).doing(Kind::Storage, || format!("lock {}", path.display()));
            }
        }
        let holder = Holder { pid: std::process::id(), since: now, verb, token: random_hex(ID_DIGITS) };
        write_holder(&mut file, &holder).doing(Kind::Storage, || format!("write {}", path.display()))?;
        Ok(Lock {
            _file: file,
            holder,
            host_id: self.host_id.clone(),
            repository: repository.clone(),
            instance: instance.clone(),
        })
    }

    /// Who holds a lock at this moment. Never makes another run fail to take it.
    pub fn lock_state(&self, repository: &RepositoryId, instance: &InstanceName, verb: Verb) -> Result<LockState> {
        // Looking is locking for a moment: the gate keeps a run that wants the lock from meeting us there.
        let _gate = self.gate()?;
        look_at(&self.lock_path(repository, instance, verb))
    }

    /// As [`StateDirectory::lock_state`], of that lock among several of `verb` that a run took with `token`.
    pub fn lock_state_of(
        &self,
        repository: &RepositoryId,
        instance: &InstanceName,
        verb: Verb,
        token: &str,
    ) -> Result<LockState> {
        let _gate = self.gate()?;
        for path in self.lock_paths(repository, instance, verb) {
            let state = look_at(&path)?;
            if state.is_held_by(token) {
                return Ok(state);
            }
        }
        Ok(LockState::Free)
    }

    /// Whether anybody on this host holds the lock: a RUNNING record is believed only then.
    pub fn is_locked(&self, repository: &RepositoryId, instance: &InstanceName, verb: Verb) -> Result<bool> {
        Ok(self.lock_state(repository, instance, verb)? != LockState::Free)
    }

    fn lock_path(&self, repository: &RepositoryId, instance: &InstanceName, verb: Verb) -> PathBuf {
        self.root.join("locks").join(format!("{repository}.{instance}.{verb}.lock"))
    }

    fn lock_paths(&self, repository: &RepositoryId, instance: &InstanceName, verb: Verb) -> Vec<PathBuf> {
        let numbered = |n| self.root.join("locks").join(format!("{repository}.{instance}.{verb}-{n}.lock"));
        std::iter::once(self.lock_path(repository, instance, verb)).chain((2..=MOST_BESIDE).map(numbered)).collect()
    }

    fn gate(&self) -> Result<File> {
        let path = self.root.join("locks").join("gate");
        let gate = open_lock_file(&path)?;
        gate.lock().doing(Kind::Storage, || format!("lock {}", path.display()))?;
        Ok(gate)
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

/// Who took a lock. The token is new at each taking: intents and records carry it, and are alive while it is in the
/// lock. (A pid is not enough: it comes back.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    pub pid: u32,
    pub since: DateTime<Utc>,
    pub verb: Verb,
    pub token: String,
}

/// What looking at a lock shows. A holder whose words cannot be read is still a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockState {
    Free,
    Held(Option<Holder>),
}

impl LockState {
    /// Whether the run that took the lock with `token` still has it; in doubt, it has.
    pub fn is_held_by(&self, token: &str) -> bool {
        match self {
            Self::Free => false,
            Self::Held(Some(holder)) => holder.token == token,
            Self::Held(None) => true,
        }
    }
}

/// A lock that is held. Dropping it frees it; the file stays.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    holder: Holder,
    host_id: HostId,
    repository: RepositoryId,
    instance: InstanceName,
}

impl Lock {
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    pub fn host_id(&self) -> &HostId {
        &self.host_id
    }

    pub fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }
}

fn look_at(path: &Path) -> Result<LockState> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LockState::Free),
        Err(error) => return Err(error).doing(Kind::Storage, || format!("open {}", path.display())),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(LockState::Free),
        Err(TryLockError::WouldBlock) => Ok(LockState::Held(read_holder(&mut file))),
        Err(TryLockError::Error(error)) => Err(error).doing(Kind::Storage, || format!("lock {}", path.display())),
    }
}

fn busy(verb: Verb, instance: &InstanceName, holder: Option<&Holder>) -> Error {
    let who = match holder {
        Some(holder) => {
            format!(
                "by process {} since {}",
                holder.pid,
                holder.since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
            )
        }
        None => "by another process".to_owned(),
    };
    Error::new(Kind::Locked, format!("{verb} of instance {instance} is locked {who}"))
        .hint("wait until it has ended, or end it")
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.take(4096).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn write_holder(file: &mut File, holder: &Holder) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&serde_json::to_vec(holder)?)
}

fn open_lock_file(path: &Path) -> Result<File> {
    make_parent(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).doing(Kind::Storage, || format!("open {}", path.display()))
}

fn make_parent(path: &Path) -> Result<()> {
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

fn write_temporary(directory: &Path, body: &[u8]) -> Result<tempfile::NamedTempFile> {
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
fn list_directory(path: &Path) -> Result<Vec<PathBuf>> {
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
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn state() -> (tempfile::TempDir, StateDirectory) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path().join("a/state")).unwrap();
        (directory, state)
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
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

    #[test]
    fn a_busy_lock_names_holder_and_since_when() {
        let (_directory, state) = state();
        let (repository, main) = (RepositoryId::random(), "main".parse().unwrap());
        let since = at("2025-01-31T02:00:00Z");
        assert_eq!(state.lock_state(&repository, &main, Verb::Dump).unwrap(), LockState::Free);

        let lock = state.lock(&repository, &main, Verb::Dump, since).unwrap();
        let error = state.lock(&repository, &main, Verb::Dump, since).unwrap_err();
        assert_eq!(error.kind, Kind::Locked);
        let expected =
            format!("dump of instance main is locked by process {} since 2025-01-31T02:00:00Z", std::process::id());
        assert_eq!(error.to_string(), expected);
        let seen = state.lock_state(&repository, &main, Verb::Dump).unwrap();
        assert!(seen.is_held_by(&lock.holder().token));
        assert!(!seen.is_held_by("another"));
        state.lock(&repository, &main, Verb::Prune, since).unwrap();
        state.lock(&repository, &"other".parse().unwrap(), Verb::Dump, since).unwrap();

        let path = state.lock_path(&repository, &main, Verb::Dump);
        drop(lock);
        assert!(path.exists());
        assert!(!state.is_locked(&repository, &main, Verb::Dump).unwrap());
        state.lock(&repository, &main, Verb::Dump, since).unwrap();
    }

    #[test]
    fn runs_beside_each_other_each_have_a_lock_of_their_own() {
        let (_directory, state) = state();
        let (repository, main): (_, InstanceName) = (RepositoryId::random(), "main".parse().unwrap());
        let take = || state.lock_beside(&repository, &main, Verb::Restore, at("2025-01-31T02:00:00Z"));
        let locks: Vec<Lock> = (0..MOST_BESIDE).map(|_| take().unwrap()).collect();
        assert_eq!(take().unwrap_err().kind, Kind::Locked);
        let lives =
            |token: &str| state.lock_state_of(&repository, &main, Verb::Restore, token).unwrap().is_held_by(token);
        let tokens: Vec<String> = locks.iter().map(|lock| lock.holder().token.clone()).collect();
        assert!(tokens.iter().all(|token| lives(token)));
        drop(locks);
        assert!(!tokens.iter().any(|token| lives(token)));
        take().unwrap();
    }

    #[test]
    fn looking_never_makes_a_run_fail() {
        let (_directory, state) = state();
        let (repository, main): (_, InstanceName) = (RepositoryId::random(), "main".parse().unwrap());
        std::thread::scope(|scope| {
            let looker = scope.spawn(|| {
                for _ in 0..500 {
                    state.is_locked(&repository, &main, Verb::Dump).unwrap();
                }
            });
            while !looker.is_finished() {
                state.lock(&repository, &main, Verb::Dump, at("2025-01-31T02:00:00Z")).unwrap();
            }
            looker.join().unwrap();
        });
    }

    #[test]
    fn a_holder_that_cannot_be_read_is_still_a_holder() {
        let (_directory, state) = state();
        let (repository, main) = (RepositoryId::random(), "main".parse().unwrap());
        let _lock = state.lock(&repository, &main, Verb::Dump, at("2025-01-31T02:00:00Z")).unwrap();
        std::fs::write(state.lock_path(&repository, &main, Verb::Dump), "{").unwrap();
        assert!(state.lock_state(&repository, &main, Verb::Dump).unwrap().is_held_by("any"));
    }
}
