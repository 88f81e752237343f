//! What the file system answered, judged once, before the call that it broke is known.

use std::io;

use rustix::io::Errno;

use crate::storage::{Fault, StorageError};

/// A fault and its cause. The caller of the storage layer gets it as a [`StorageError`], with the action and the
/// address.
#[derive(Debug)]
pub(super) struct Failure {
    pub fault: Fault,
    source: Box<dyn std::error::Error + Send + Sync>,
}

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(fault: Fault, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { fault, source: source.into() }
    }

    pub fn other(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Fault::Other, source)
    }

    /// The object, or the folder that it would be in, is not there.
    pub fn not_found() -> Self {
        Self::new(Fault::NotFound, "no such object")
    }

    /// The change was made and may or may not last.
    pub fn unsettled(self) -> Self {
        Self { fault: Fault::Unavailable, ..self }
    }

    pub fn at(self, action: String, address: &str) -> StorageError {
        StorageError { fault: self.fault, action, address: address.to_owned(), source: self.source }
    }
}

/// Judges an error number. ENOENT is *not* "not found" here: only the lookup of the object itself may say that.
fn fault_of(errno: Errno) -> Fault {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Fault::Full,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Fault::Denied,
        Errno::IO
        | Errno::STALE
        | Errno::TIMEDOUT
        | Errno::NOTCONN
        | Errno::HOSTDOWN
        | Errno::NODEV
        | Errno::MFILE
        | Errno::NFILE
        | Errno::NOMEM => Fault::Unavailable,
        _ => Fault::Other,
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let fault = Errno::from_io_error(&error).map_or(Fault::Other, fault_of);
        Self::new(fault, error)
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::new(fault_of(errno), io::Error::from(errno))
    }
}

/// Names the step that failed, where the action of the whole call does not.
pub(super) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Failure>> Step<T> for std::result::Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let failure: Failure = error.into();
            Failure::new(failure.fault, format!("{}: {}", step(), failure.source))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_number_is_judged_and_never_read_as_not_found() {
        for (errno, fault) in [
            (Errno::NOSPC, Fault::Full),
            (Errno::DQUOT, Fault::Full),
            (Errno::FBIG, Fault::Full),
            (Errno::ACCESS, Fault::Denied),
            (Errno::PERM, Fault::Denied),
            (Errno::ROFS, Fault::Denied),
            (Errno::IO, Fault::Unavailable),
            (Errno::NOENT, Fault::Other),
            (Errno::NAMETOOLONG, Fault::Other),
        ] {
            assert_eq!(Failure::from(errno).fault, fault, "{errno}");
            assert_eq!(Failure::from(io::Error::from(errno)).fault, fault, "{errno}");
        }
    }
}
