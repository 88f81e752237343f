//! Where the bytes of a backup come from: the first copy that delivers what its manifest says, then the next.
//!
//! What is read is read whole from one copy. An attempt that failed leaves nothing behind that the next one builds on, so
//! bytes of two attempts never mix.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::command::{Copy, Status};
use crate::error::{Error, Kind, Result};
use crate::repo::{DumpManifest, Holding, Repository};

/// The copies of one backup, in the order in which they are read.
#[derive(Debug)]
pub struct Sources {
    copies: Vec<SourceCopy>,
    /// By place in `copies`.
    told: Mutex<Vec<Delivered>>,
}

#[derive(Debug)]
pub struct SourceCopy {
    pub repository: Repository,
    pub manifest: DumpManifest,
}

/// What a copy has shown so far.
#[derive(Debug, Default)]
struct Delivered {
    something: bool,
    failures: Vec<Failure>,
}

#[derive(Debug)]
struct Failure {
    what: &'static str,
    error: Error,
    /// The repository that it was then read from.
    instead: Option<String>,
}

/// Why something was not read.
#[derive(Debug)]
pub enum Unread {
    /// This copy does not deliver it; another one may.
    ThisCopy(Error),
    /// No copy would help.
    ForGood(Error),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        match error.kind {
            Kind::Interrupted | Kind::Terminated => Self::ForGood(error),
            _ => Self::ThisCopy(error),
        }
    }
}

impl Sources {
    pub fn of(holding: &Holding) -> Self {
        let copy = |(repository, backup): (&Repository, &crate::repo::Backup)| SourceCopy {
            repository: repository.clone(),
            manifest: backup.manifest.clone(),
        };
        Self::in_order(holding.sources().into_iter().map(copy).collect())
    }

    fn in_order(copies: Vec<SourceCopy>) -> Self {
        let told = copies.iter().map(|_| Delivered::default()).collect();
        Self { copies, told: Mutex::new(told) }
    }

    /// The names of the repositories, in the order in which they are read.
    pub fn names(&self) -> Vec<&str> {
        self.copies.iter().map(|copy| copy.repository.name()).collect()
    }

    /// The copy that would be read next.
    pub fn first(&self) -> Option<&SourceCopy> {
        self.order().first().map(|at| &self.copies[*at])
    }

    /// Reads `what` from one copy after the other until one delivers it.
    ///
    /// If none does: the error of the only copy, or one that names each. A store that could not be asked decides its
    /// kind before damage does, because that may be mended.
    pub async fn deliver<T>(
        &self,
        what: &'static str,
        read: impl AsyncFn(&SourceCopy) -> Result<T, Unread>,
    ) -> Result<T> {
        let mut failed: Vec<(usize, Error)> = Vec::new();
        for at in self.order() {
            let copy = &self.copies[at];
            match read(copy).await {
                Ok(read) => {
                    self.told()[at].something = true;
                    self.note(what, failed, Some(copy.repository.name()));
                    return Ok(read);
                }
                Err(Unread::ForGood(error)) => {
                    self.note(what, failed, None);
                    return Err(error);
                }
                Err(Unread::ThisCopy(error)) => failed.push((at, error)),
            }
        }
        let error = self.of_none(what, &failed);
        self.note(what, failed, None);
        Err(error)
    }

    /// What was read from another copy than the first, and why.
    pub fn warnings(&self) -> Vec<String> {
        let told = self.told();
        let failures = self
            .copies
            .iter()
            .zip(told.iter())
            .flat_map(|(copy, told)| told.failures.iter().map(|failure| (copy.repository.name(), failure)));
        let warning = |(name, failure): (&str, &Failure)| {
            let Failure { what, error, instead } = failure;
            let instead = instead.as_ref()?;
            Some(format!("{what} could not be read from {name}, and was read from {instead}: {error}"))
        };
        failures.filter_map(warning).collect()
    }

    /// The copies that were asked for something, and what became of that.
    pub fn asked(&self) -> Vec<Copy> {
        let told = self.told();
        let asked = self.copies.iter().zip(told.iter()).filter(|(_, told)| told.something || !told.failures.is_empty());
        asked
            .map(|(copy, told)| Copy {
                name: copy.repository.name().to_owned(),
                status: match (told.something, told.failures.first()) {
                    (_, None) => Status::Ok,
                    (true, Some(_)) => Status::Partial,
                    (false, Some(_)) => Status::Failed,
                },
                stored_bytes: Some(copy.manifest.stored_bytes()),
                error: told.failures.first().map(|failure| failure.error.repeated()),
            })
            .collect()
    }

    /// Those that have failed to deliver something come last.
    fn order(&self) -> Vec<usize> {
        let told = self.told();
        let mut order: Vec<usize> = (0..self.copies.len()).collect();
        order.sort_by_key(|at| !told[*at].failures.is_empty());
        order
    }

    fn note(&self, what: &'static str, failed: Vec<(usize, Error)>, instead: Option<&str>) {
        let mut told = self.told();
        for (at, error) in failed {
            told[at].failures.push(Failure { what, error, instead: instead.map(str::to_owned) });
        }
    }

    fn of_none(&self, what: &str, failed: &[(usize, Error)]) -> Error {
        match failed {
            [] => Error::new(Kind::NoSuchBackup, format!("there is no copy that {what} could be read from")),
            [(_, only)] => only.repeated(),
            [(_, first), ..] => {
                let unasked = failed.iter().map(|(_, error)| error).find(|error| error.kind != Kind::Verification);
                let decisive = unasked.unwrap_or(first);
                let told = failed.iter().map(|(at, error)| format!("{}: {error}", self.copies[*at].repository.name()));
                let told = told.collect::<Vec<_>>().join("; ");
                Error::new(decisive.kind, format!("{what} could not be read from any copy ({told})"))
                    .hinted(decisive.next_step())
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Vec<Delivered>> {
        locked(&self.told)
    }
}

/// An output that outlives the attempts to fill it, and knows what became of them.
#[derive(Debug)]
pub struct Output<W> {
    filled: Arc<Mutex<Filled<W>>>,
}

#[derive(Debug)]
struct Filled<W> {
    output: W,
    written_bytes: u64,
    failed: bool,
    /// Threads of an attempt that was given up may still have bytes for it. They are refused.
    attempt: u64,
}

/// What one attempt writes to.
#[derive(Debug)]
pub struct Attempt<W> {
    filled: Arc<Mutex<Filled<W>>>,
    number: u64,
}

impl<W: Write> Output<W> {
    pub fn new(output: W) -> Self {
        Self { filled: Arc::new(Mutex::new(Filled { output, written_bytes: 0, failed: false, attempt: 0 })) }
    }

    pub fn attempt(&self) -> Attempt<W> {
        Attempt { filled: Arc::clone(&self.filled), number: locked(&self.filled).attempt }
    }

    /// Ends an attempt that failed. Where the output is at fault, or has bytes that cannot be taken back, no other copy
    /// helps.
    pub fn give_up(&self, error: Error) -> Unread {
        let mut filled = locked(&self.filled);
        filled.attempt += 1;
        if filled.failed || filled.written_bytes > 0 { Unread::ForGood(error) } else { error.into() }
    }

    /// Ends an attempt that failed, where the next one has an output of its own.
    pub fn abandon(&self, error: Error) -> Unread {
        let mut filled = locked(&self.filled);
        filled.attempt += 1;
        if filled.failed { Unread::ForGood(error) } else { error.into() }
    }

    pub fn flush(&self) -> std::io::Result<()> {
        locked(&self.filled).output.flush()
    }
}

impl<W: Write> Attempt<W> {
    fn with<T>(&self, act: impl FnOnce(&mut Filled<W>) -> std::io::Result<T>) -> std::io::Result<T> {
        let mut filled = locked(&self.filled);
        if filled.attempt != self.number {
            return Err(std::io::Error::other("this attempt was given up"));
        }
        let done = act(&mut filled);
        if done.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::Interrupted) {
            filled.failed = true;
        }
        done
    }
}

impl<W: Write> Write for Attempt<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.with(|filled| {
            let written = filled.output.write(bytes)?;
            filled.written_bytes += written as u64;
            Ok(written)
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.with(|filled| filled.output.flush())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_two_attempts_never_mix() {
        let output = Output::new(Vec::new());
        let mut given_up = output.attempt();
        assert!(matches!(output.give_up(Error::new(Kind::Storage, "x")), Unread::ThisCopy(_)));
        given_up.write_all(b"late").unwrap_err();
        let mut second = output.attempt();
        second.write_all(b"right").unwrap();
        assert!(matches!(output.give_up(Error::new(Kind::Storage, "x")), Unread::ForGood(_)));
        assert_eq!(locked(&output.filled).output, b"right");
    }

    #[test]
    fn an_output_that_fails_is_no_reason_to_read_another_copy() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let full = Output::new(Full);
        full.attempt().write_all(b"x").unwrap_err();
        assert!(matches!(full.abandon(Error::new(Kind::Storage, "x")), Unread::ForGood(_)));
    }
}
