//! How to restore, and which wishes do not go together.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::body::Form;
use super::part::Part;
use super::{Passwords, Server};
use crate::error::{Error, Result};

/// How to restore.
#[derive(Clone, Debug)]
pub struct Options {
    pub server: Server,
    /// The database to restore into; `None`: the name that it had.
    pub into: Option<String>,
    pub jobs: NonZeroUsize,
    pub analyze: Analyze,
    pub passwords: Passwords,
    pub on_error: OnError,
    /// Directory for the decoded archive.
    pub scratch: PathBuf,
    /// Threads that decode.
    pub threads: NonZeroUsize,
    pub part: Part,
    pub ownership: Ownership,
    pub privileges: Privileges,
    /// Roles of the dump, and whom what they had goes to.
    pub role_map: BTreeMap<String, String>,
    pub existing: Existing,
    pub atomicity: Atomicity,
    /// What ran and what it said is put down here.
    pub log: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Analyze {
    No,
    Stages,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// At the first error, and nothing is left.
    Stop,
    /// Errors are counted and told.
    GoOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    AsDumped,
    /// Everything belongs to whoever restores.
    OfRestorer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    AsDumped,
    LeaveOut,
}

/// What is done with a database that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing, unless it is empty.
    Refuse,
    /// It gets what is restored beside what it holds.
    Add,
    /// What is restored is dropped first.
    Clean,
    /// It gets another name in the moment in which the restored one gets its.
    Replace(Sessions),
}

/// What is done with those who use a database that is to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    Respect,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomicity {
    /// One transaction where a database was there before, many where it is made.
    ByTarget,
    OneTransaction,
}

impl Options {
    /// Whether the table of contents must be known before the plan is made.
    pub fn needs_contents(&self) -> bool {
        !self.part.is_all()
            || self.ownership != Ownership::AsDumped
            || self.privileges != Privileges::AsDumped
            || !self.role_map.is_empty()
    }

    /// Whether what is there is left beside what comes.
    pub fn keeps_existing(&self) -> bool {
        matches!(self.existing, Existing::Add | Existing::Clean)
    }

    /// Refuses wishes that contradict each other, before anything is looked at.
    pub fn check(&self) -> Result<()> {
        let several_jobs = self.jobs.get() > 1;
        let one = self.atomicity == Atomicity::OneTransaction;
        let contradictions = [
            (
                one && several_jobs,
                "--single-transaction and --jobs",
                "a transaction belongs to one connection, and each job has its own",
                "leave one of the two out",
            ),
            (
                one && self.on_error == OnError::GoOn,
                "--single-transaction and --keep-going",
                "an error ends the transaction",
                "leave one of the two out",
            ),
            (
                self.existing == Existing::Clean && several_jobs,
                "--clean and --jobs",
                "only one transaction brings back what was dropped when the restore fails",
                "leave --jobs out, or restore beside it and swap: --replace",
            ),
            (
                self.existing == Existing::Clean && self.on_error == OnError::GoOn,
                "--clean and --keep-going",
                "what was dropped and not restored would be lost",
                "leave --keep-going out, or restore beside it and swap: --replace",
            ),
            (
                self.replaces() && !self.part.is_all(),
                "--replace and a part of the dump",
                "the whole database would be replaced by the part",
                "restore the part beside it with --into, or into it with --into-existing",
            ),
            (
                self.replaces() && self.on_error == OnError::GoOn,
                "--replace and --keep-going",
                "a database with errors would take the place of one in use",
                "restore beside it with --into, look, and rename",
            ),
            (
                self.part.use_list.is_some() && !(self.part.schemas.is_empty() && self.part.tables.is_empty()),
                "--use-list and --schema or --table",
                "the list says all that is restored",
                "print a list of the part with --list, edit it, and use it alone",
            ),
        ];
        contradiction(contradictions)
    }

    fn replaces(&self) -> bool {
        matches!(self.existing, Existing::Replace(_))
    }

    /// Refuses what archives of this form cannot do.
    pub fn check_form(&self, form: Form) -> Result<()> {
        const NO_CONTENTS: &str =
            "an SQL script has no table of contents: it runs as it stands, from its beginning to its end";
        const WHOLE: &str = "restore it whole under another name with --into, and take from there what you need";
        let script = form == Form::Script;
        let contradictions = [
            (script && !self.part.is_all(), "--schema, --table or --use-list and an SQL script", NO_CONTENTS, WHOLE),
            (script && self.jobs.get() > 1, "--jobs and an SQL script", NO_CONTENTS, "leave --jobs out"),
            (
                script && !self.role_map.is_empty(),
                "--role-map and an SQL script",
                NO_CONTENTS,
                "create the roles that it names, and REASSIGN OWNED afterwards",
            ),
            (
                script && self.ownership == Ownership::OfRestorer,
                "--no-owner and an SQL script",
                NO_CONTENTS,
                "create the roles that it names; pg_dump --no-owner makes one without",
            ),
            (
                script && self.privileges == Privileges::LeaveOut,
                "--no-privileges and an SQL script",
                NO_CONTENTS,
                "create the roles that it names; pg_dump --no-privileges makes one without",
            ),
            (
                script && self.existing == Existing::Clean,
                "--clean and an SQL script",
                NO_CONTENTS,
                "pg_dump --clean --if-exists makes one that drops; or restore beside and swap: --replace",
            ),
            (
                script && self.existing == Existing::Add && self.on_error == OnError::GoOn,
                "--into-existing and --keep-going and an SQL script",
                "rows would be added to tables that are there already",
                "leave --keep-going out",
            ),
            (
                form == Form::Tar && self.jobs.get() > 1,
                "--jobs and a tar archive",
                "pg_restore reads it from one end to the other",
                "leave --jobs out",
            ),
            (
                form == Form::Tar && !self.role_map.is_empty(),
                "--role-map and a tar archive",
                "its table of contents cannot be written anew in its place",
                "create the roles that it names, and REASSIGN OWNED afterwards",
            ),
        ];
        contradiction(contradictions)
    }
}

fn contradiction<'a>(cases: impl IntoIterator<Item = (bool, &'a str, &'a str, &'a str)>) -> Result<()> {
    match cases.into_iter().find(|(is_so, ..)| *is_so) {
        Some((_, pair, why, next)) => {
            Err(Error::usage(format!("{pair} do not go together")).because(why.to_owned()).hint(next))
        }
        None => Ok(()),
    }
}
