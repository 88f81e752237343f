//! The log of one restore: what ran, what it said, how long it took, how it ended.
//!
//! A new file is of mode 0600, one that is there is appended to. What follows an error of `pg_restore`, the statement
//! and the row that failed, is left out: statements hold passwords, rows hold what the tables hold.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::error::{Doing as _, Kind, Result};

#[derive(Debug, Default)]
pub struct Log {
    open: Option<Open>,
    unwritten: AtomicUsize,
}

#[derive(Debug)]
struct Open {
    file: Mutex<File>,
    clock: Arc<dyn Clock>,
}

impl Log {
    /// Opens the file, so that it is known before anything starts that it can be written.
    pub fn open(path: Option<&Path>, clock: Arc<dyn Clock>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let file = file.doing(Kind::Usage, || format!("open the log {}", path.display()));
        let file = file.map_err(|error| error.hint("name a file in a directory that can be written with --log"))?;
        Ok(Self { open: Some(Open { file: Mutex::new(file), clock }), unwritten: AtomicUsize::new(0) })
    }

    /// One line with the time; what would break it is taken out.
    pub fn line(&self, text: &str) {
        let Some(Open { file, clock }) = &self.open else { return };
        let time = clock.now().format("%Y-%m-%dT%H:%M:%SZ");
        let harmless: String = text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
        let line = format!("{time} {harmless}\n");
        let written = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        if written.is_err() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A line of a program's standard error.
    pub fn said(&self, line: &str) {
        match line.starts_with("pg_restore: ") || line.starts_with("psql:") || line.starts_with("HINT:") {
            true => self.line(&format!("  {line}")),
            false => self.line("  (a line with a statement or a row is left out)"),
        }
    }

    /// What is missing in it.
    pub fn shortcoming(&self) -> Option<String> {
        match self.unwritten.load(Ordering::Relaxed) {
            0 => None,
            lines => Some(format!("{lines} lines could not be written to the log")),
        }
    }
}
