//! Notes of this host that replay of a standby stands still for us, so that no death of a run leaves it standing.
//!
//! ```text
//! <root>/pauses/<system id>-<start of the server>-<8 hex>.json   one run that needs the pause; locked while it lives
//! <root>/pauses/gate                                             held while pauses are begun, ended or looked at
//! ```
//!
//! A note is written before replay is paused, and removed after it goes on. Standbys share their primary's system
//! identifier: with the time of its start, in microseconds since 1970, a server is meant, and that only until it is
//! started again, which ends every pause. An unknown identifier is 0.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::document;
use super::name::{InstanceName, InvalidName, SystemIdentifier, is_lower_hex};
use super::state::{StateDirectory, list_directory, make_parent, write_temporary};
use crate::digest::random_hex;
use crate::error::{Doing as _, Error, Kind, Result};

const TOKEN_DIGITS: usize = 8;

/// One server, since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerStart {
    pub system_identifier: SystemIdentifier,
    /// Since 1970.
    pub micros: i64,
}

/// The name of a note, without its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PauseName {
    server: ServerStart,
    token: String,
}

impl std::fmt::Display for PauseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}.json", self.server.system_identifier, self.server.micros, self.token)
    }
}

impl FromStr for PauseName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parse = || {
            let mut fields = text.strip_suffix(".json")?.split('-');
            let system_identifier = SystemIdentifier(fields.next()?.parse().ok()?);
            let micros = fields.next()?.parse().ok()?;
            let token = fields.next().filter(|token| token.len() == TOKEN_DIGITS && token.bytes().all(is_lower_hex))?;
            let name = Self { server: ServerStart { system_identifier, micros }, token: token.to_owned() };
            // One name has one spelling.
            (fields.next().is_none() && name.to_string() == text).then_some(name)
        };
        parse().ok_or_else(|| InvalidName::new(text, "the name of a note of a pause"))
    }
}

/// How to reach the server, and where its replay stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseNote {
    pub format: u32,
    /// Whose server it is: it may be reached through a tunnel that this instance alone knows.
    pub instance: InstanceName,
    /// The name, address or socket directory.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub database: String,
    pub pid: u32,
    pub since: DateTime<Utc>,
    /// Where replay stands; `None` until it was seen to stand. Somewhere else it has been paused by others since.
    pub lsn: Option<String>,
}

impl PauseNote {
    pub const FORMAT: u32 = document::FORMAT;
}

/// The note of this run.
#[derive(Debug)]
pub struct HeldPause {
    path: PathBuf,
    note: PauseNote,
    /// Its lock says that the run lives.
    _file: File,
}

/// A note that lies in the state directory.
#[derive(Debug)]
pub struct SeenPause {
    pub path: PathBuf,
    pub server: ServerStart,
    /// Whether the run that wrote it lives.
    pub is_live: bool,
    pub note: Result<PauseNote>,
}

/// Held while pauses are begun, ended or looked at.
#[derive(Debug)]
pub struct PauseGate {
    state: StateDirectory,
    _file: File,
}

impl StateDirectory {
    /// `None` while another process is there.
    pub fn pause_gate(&self) -> Result<Option<PauseGate>> {
        let path = self.root().join("pauses").join("gate");
        make_parent(&path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).doing(Kind::Storage, || format!("open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(PauseGate { state: self.clone(), _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).doing(Kind::Storage, || format!("lock {}", path.display())),
        }
    }

    /// Whether there is any note at all, without the gate.
    pub fn has_pauses(&self) -> Result<bool> {
        let paths = list_directory(&self.root().join("pauses"))?;
        Ok(paths.iter().any(|path| name_of(path).is_some()))
    }
}

fn name_of(path: &Path) -> Option<PauseName> {
    path.file_name()?.to_str()?.parse().ok()
}

impl PauseGate {
    /// Every note.
    pub fn notes(&self) -> Result<Vec<SeenPause>> {
        let mut seen = Vec::new();
        for path in list_directory(&self.state.root().join("pauses"))? {
            let Some(name) = name_of(&path) else { continue };
            let reading = || format!("read {}", path.display());
            let file = File::open(&path).doing(Kind::Storage, reading)?;
            let is_live = match file.try_lock_shared() {
                Ok(()) => false,
                Err(TryLockError::WouldBlock) => true,
                Err(TryLockError::Error(error)) => return Err(error).doing(Kind::Storage, reading),
            };
            let body = std::fs::read(&path).doing(Kind::Storage, reading)?;
            let note = document::from_json(&body, &path.display().to_string());
            seen.push(SeenPause { path, server: name.server, is_live, note });
        }
        Ok(seen)
    }

    /// Those of one server.
    pub fn notes_of(&self, server: ServerStart) -> Result<Vec<SeenPause>> {
        Ok(self.notes()?.into_iter().filter(|seen| seen.server == server).collect())
    }

    /// Writes the note of this run.
    pub fn note(&self, server: ServerStart, note: PauseNote) -> Result<HeldPause> {
        let name = PauseName { server, token: random_hex(TOKEN_DIGITS) };
        let path = self.state.root().join("pauses").join(name.to_string());
        let _file = write_locked(&path, &note)?;
        Ok(HeldPause { path, note, _file })
    }
}

/// Locked before it has its name: nobody ever sees it without its lock.
fn write_locked(path: &Path, note: &PauseNote) -> Result<File> {
    let temporary = write_temporary(path.parent().unwrap_or(Path::new(".")), &document::to_json(note)?)?;
    let writing = || format!("write {}", path.display());
    temporary.as_file().lock().doing(Kind::Storage, writing)?;
    temporary.persist(path).map_err(|error| error.error).doing(Kind::Storage, writing)
}

impl HeldPause {
    /// Writes down where replay stands. The gate keeps others from looking at the file that is replaced.
    pub fn stands_at(&mut self, _gate: &PauseGate, lsn: Option<String>) -> Result<()> {
        self.note.lsn = lsn;
        self._file = write_locked(&self.path, &self.note)?;
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where replay was seen to stand.
    pub fn lsn(&self) -> Option<&str> {
        self.note.lsn.as_deref()
    }

    /// Replay goes on, or is held by others.
    pub fn remove(self) -> Result<()> {
        remove(&self.path)
    }
}

impl SeenPause {
    pub fn remove(&self) -> Result<()> {
        remove(&self.path)
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(Kind::Storage, format!("remove {}", path.display())).because(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::state::tests::state;

    const SERVER: ServerStart =
        ServerStart { system_identifier: SystemIdentifier(7_412_345_678_901_234_567), micros: 1_763_600_000_123_456 };

    fn note() -> PauseNote {
        PauseNote {
            format: PauseNote::FORMAT,
            instance: "main".parse().unwrap(),
            host: "db2".to_owned(),
            port: 5432,
            user: "backup".to_owned(),
            database: "shop".to_owned(),
            pid: 42,
            since: "2026-11-20T02:00:00Z".parse().unwrap(),
            lsn: None,
        }
    }

    #[test]
    fn a_note_lives_as_long_as_its_run() {
        let (_directory, state) = state();
        assert!(!state.has_pauses().unwrap());
        let gate = state.pause_gate().unwrap().unwrap();
        assert!(state.pause_gate().unwrap().is_none());
        let mut held = gate.note(SERVER, note()).unwrap();
        held.stands_at(&gate, Some("0/3000060".to_owned())).unwrap();
        let seen = gate.notes_of(SERVER).unwrap();
        assert!(seen.len() == 1 && seen[0].is_live && state.has_pauses().unwrap());
        assert_eq!(seen[0].note.as_ref().unwrap(), &PauseNote { lsn: Some("0/3000060".to_owned()), ..note() });
        assert!(gate.notes_of(ServerStart { micros: 1, ..SERVER }).unwrap().is_empty());

        let other = gate.note(SERVER, note()).unwrap();
        drop(other);
        let live: Vec<bool> = gate.notes().unwrap().iter().map(|seen| seen.is_live).collect();
        assert_eq!(live.iter().filter(|live| **live).count(), 1);
        held.remove().unwrap();
        let seen = gate.notes().unwrap();
        assert!(seen.len() == 1 && !seen[0].is_live);
        seen[0].remove().unwrap();
        assert!(!state.has_pauses().unwrap());
        drop(gate);
        assert!(state.pause_gate().unwrap().is_some());
    }

    #[test]
    fn a_name_is_read_as_it_was_built() {
        let name = PauseName { server: SERVER, token: "0123abcd".to_owned() };
        assert_eq!(name.to_string(), "7412345678901234567-1763600000123456-0123abcd.json");
        assert_eq!(name.to_string().parse::<PauseName>().unwrap(), name);
        for wrong in ["gate", "", "1-2-3.json", "01-2-0123abcd.json", "1-2-0123ABCD.json", "1-2-0123abcd-x.json"] {
            assert!(wrong.parse::<PauseName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_note_that_cannot_be_read_is_still_one_of_its_server() {
        let (_directory, state) = state();
        let gate = state.pause_gate().unwrap().unwrap();
        let held = gate.note(SERVER, note()).unwrap();
        std::fs::write(held.path(), "{").unwrap();
        drop(held);
        let seen = gate.notes_of(SERVER).unwrap();
        assert!(seen[0].note.is_err() && !seen[0].is_live);
    }
}
