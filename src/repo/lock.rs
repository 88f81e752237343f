//! Locks: one flock file per repository, instance and verb in the state directory.
//!
//! The files are never deleted: of two runs that lock one name, one could have locked a file that is gone. What is in
//! a file names its last holder; only the kernel says whether it is held.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::layout::Verb;
use super::name::InstanceName;
use super::state::{HostId, ID_DIGITS, RepositoryId, StateDirectory, make_parent};
use crate::digest::random_hex;
use crate::error::{Doing as _, Error, Kind, Result};

/// Runs of one verb that may go on beside each other on one host.
const MOST_BESIDE: usize = 32;

impl StateDirectory {
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
            host_id: self.host_id().clone(),
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
        self.root().join("locks").join(format!("{repository}.{instance}.{verb}.lock"))
    }

    fn lock_paths(&self, repository: &RepositoryId, instance: &InstanceName, verb: Verb) -> Vec<PathBuf> {
        let numbered = |n| self.root().join("locks").join(format!("{repository}.{instance}.{verb}-{n}.lock"));
        std::iter::once(self.lock_path(repository, instance, verb)).chain((2..=MOST_BESIDE).map(numbered)).collect()
    }

    fn gate(&self) -> Result<File> {
        let path = self.root().join("locks").join("gate");
        let gate = open_lock_file(&path)?;
        gate.lock().doing(Kind::Storage, || format!("lock {}", path.display()))?;
        Ok(gate)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::state::tests::state;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
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
