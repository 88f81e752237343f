//! What a look at something showed: the common answer of `report` and `check`.

use serde::Serialize;

use crate::error::{Error, Kind};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Nothing fails yet.
    Warn,
    /// A backup would fail, or a database is not protected.
    Fail,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Stable: what monitoring may compare.
    pub id: &'static str,
    pub severity: Severity,
    /// What it is about: a database, a relation, a repository, a backup.
    pub subject: String,
    /// What was seen.
    pub evidence: String,
    /// The next step; `None` where there is nothing to do.
    pub fix: Option<String>,
}

impl Finding {
    pub fn ok(id: &'static str, subject: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, Severity::Ok, subject, evidence)
    }

    pub fn warn(id: &'static str, subject: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, Severity::Warn, subject, evidence)
    }

    pub fn fail(id: &'static str, subject: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, Severity::Fail, subject, evidence)
    }

    /// A failure in the words of its error; the hint is the fix.
    pub fn of_error(id: &'static str, subject: impl Into<String>, error: &Error) -> Self {
        let subject = subject.into();
        let said = error.said_of(&subject);
        let finding = Self::fail(id, subject, said);
        match error.next_step() {
            Some(hint) => finding.fix(hint),
            None => finding,
        }
    }

    /// Of several instances, the one whose server it is about. What is no server's stays as it is.
    pub fn of_instance(mut self, instance: &str) -> Self {
        let of_server = ["postgres.", "rights.", "server.", "tools.chosen", "repository.lineage"];
        if of_server.iter().any(|part| self.id.starts_with(part)) && self.id != "postgres.tunnel" {
            self.subject = format!("{instance}/{}", self.subject);
        }
        self
    }

    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn new(id: &'static str, severity: Severity, subject: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self { id, severity, subject: subject.into(), evidence: evidence.into(), fix: None }
    }
}

/// The error of a command that has findings of severity `Fail`: exit code 13. Warnings alone are no error.
pub fn error_of<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Option<Error> {
    let mut failed: Vec<&Finding> = Vec::new();
    for finding in findings {
        // What concerns several instances stands with each of them, and is one.
        if finding.severity == Severity::Fail && !failed.contains(&finding) {
            failed.push(finding);
        }
    }
    let first = failed.first()?;
    let sentence = match failed.len() {
        1 => format!("{}: {}", first.subject, first.evidence),
        many => format!("{many} findings, the first of them {}: {}", first.subject, first.evidence),
    };
    let error = Error::new(Kind::Finding, sentence);
    Some(match &first.fix {
        Some(fix) => error.hint(fix.clone()),
        None => error,
    })
}
