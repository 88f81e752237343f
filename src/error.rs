//! The one error type of the library.
//!
//! An error is a sentence and a next step: *verb + object* in the present tense with the exact key, path or name
//! ("read pgkeep.json of /backups"), the cause below it, and a hint that says what to do. Only the top of the program
//! says "failed to". The kind of an error is the exit code of the process; the numbers are public (README, exit codes).

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, seen from the caller: one kind, one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 1: a defect, or several items that failed in different ways.
    Unexpected,
    /// 2: usage, configuration, missing key.
    Usage,
    /// 3: PostgreSQL could not be reached or refused the login.
    Connect,
    /// 4: a PostgreSQL tool failed, or the server ended its work.
    Tool,
    /// 5: a repository could not be read or written.
    Storage,
    /// 6: stored bytes are not what was written.
    Verification,
    /// 7: another run holds the lock.
    Locked,
    /// 8: no such backup.
    NoSuchBackup,
    /// 9: refused because it could lose data.
    Refused,
    /// 10: some items or destinations failed, the others are complete.
    Partial,
    /// 11: there was nothing to verify, or it could not be verified.
    NotVerified,
    /// 12: a required program is missing or too old.
    MissingProgram,
    /// 13: check or report has a finding.
    Finding,
    /// 130: interrupted (SIGINT).
    Interrupted,
    /// 143: terminated (SIGTERM, SIGHUP).
    Terminated,
}

impl Kind {
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Unexpected => 1,
            Kind::Usage => 2,
            Kind::Connect => 3,
            Kind::Tool => 4,
            Kind::Storage => 5,
            Kind::Verification => 6,
            Kind::Locked => 7,
            Kind::NoSuchBackup => 8,
            Kind::Refused => 9,
            Kind::Partial => 10,
            Kind::NotVerified => 11,
            Kind::MissingProgram => 12,
            Kind::Finding => 13,
            Kind::Interrupted => 130,
            Kind::Terminated => 143,
        }
    }
}

/// A failed action. `Display` is the whole chain on one line, without the hint.
pub struct Error {
    pub kind: Kind,
    action: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// `action` is a verb and an object ("create object main/dumps/x.dump.zst"), or a whole sentence where there is no
    /// cause below ("database \"shop\" does not exist").
    pub fn new(kind: Kind, action: impl Into<String>) -> Self {
        Self { kind, action: action.into(), hint: None, source: None }
    }

    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The next step, as a sentence or a command to paste.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the next step, if there is one.
    pub fn hinted(self, hint: Option<&str>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// The hint of this error, else that of the nearest cause that has one.
    pub fn next_step(&self) -> Option<&str> {
        if let Some(hint) = &self.hint {
            return Some(hint);
        }
        self.source.as_ref()?.downcast_ref::<Error>()?.next_step()
    }

    /// The words for a sentence that has named `place` before: of "read x in /backups: …" it is "read x: …".
    pub fn said_of(&self, place: &str) -> String {
        self.to_string().replacen(&format!(" in {place}: "), ": ", 1)
    }

    /// The same words and next step once more, for a second place that tells them.
    pub fn repeated(&self) -> Self {
        Self { kind: self.kind, action: self.to_string(), hint: self.next_step().map(str::to_owned), source: None }
    }

    pub fn usage(action: impl Into<String>) -> Self {
        Self::new(Kind::Usage, action)
    }

    pub fn refused(action: impl Into<String>) -> Self {
        Self::new(Kind::Refused, action)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.action)?;
        let mut cause = self.source.as_deref().map(|source| source as &dyn StdError);
        while let Some(error) = cause {
            // An `Error` prints its own chain; a foreign one prints a line and is walked.
            if error.is::<Error>() {
                return write!(f, ": {error}");
            }
            cause = error.source();
            let text = error.to_string();
            // tokio-postgres says only this, and leaves what the server said to its source.
            if text != "db error" || cause.is_none() {
                write!(f, ": {text}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        match self.next_step() {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

/// `{"kind":"connect","message":"…","hint":"…"}`, as every JSON document shows an error.
impl Serialize for Error {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut object = serializer.serialize_struct("Error", 3)?;
        object.serialize_field("kind", &self.kind)?;
        object.serialize_field("message", &self.to_string())?;
        object.serialize_field("hint", &self.next_step())?;
        object.end()
    }
}

// The chain is already in `Display`: returning it from `source` would print causes twice.
impl StdError for Error {}

/// Says what was being done when something failed.
pub trait Doing<T> {
    /// Wraps a foreign error as `kind`, or an own one keeping *its* kind: the first judgement of a cause stands.
    fn doing<A: Into<String>>(self, kind: Kind, action: impl FnOnce() -> A) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Doing<T> for std::result::Result<T, E> {
    fn doing<A: Into<String>>(self, kind: Kind, action: impl FnOnce() -> A) -> Result<T> {
        self.map_err(|source| {
            let source = source.into();
            let kind = source.downcast_ref::<Error>().map_or(kind, |own| own.kind);
            Error { kind, action: action().into(), hint: None, source: Some(source) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_named_is_not_named_again() {
        let error = Error::new(Kind::Storage, "read x in /backups").because("no answer in /backups");
        assert_eq!(error.said_of("/backups"), "read x: no answer in /backups");
        assert_eq!(error.said_of("disk"), error.to_string());
    }

    #[test]
    fn chain_is_one_line_and_the_first_kind_and_hint_stand() {
        let disk = std::io::Error::other("no space left on device");
        let error = Err::<(), _>(disk)
            .doing(Kind::Storage, || "write object a")
            .map_err(|e| e.hint("free some space"))
            .doing(Kind::Unexpected, || "dump shop")
            .unwrap_err();
        assert_eq!(error.kind, Kind::Storage);
        assert_eq!(error.to_string(), "dump shop: write object a: no space left on device");
        assert_eq!(error.next_step(), Some("free some space"));
    }
}
