//! `pg_restore`, `psql` and `vacuumdb`: which ones, how they are called, and what they say of what went wrong.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::body::{Body, Form, Input};
use super::log::Log;
use super::target::Target;
use super::{Context, OnError, Ownership, Privileges};
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::pg::tools::{Search, Tools};
use crate::progress::Task;

/// How many complaints are kept; all are counted.
const KEPT: usize = 20;

/// `pg_restore` of this version and newer sets `transaction_timeout`, which servers below it do not know.
const SETS_TRANSACTION_TIMEOUT: u32 = 17;

/// The newest clients that read an archive of this major version's `pg_dump`; for a server before 17 rather clients
/// before 17, whose statements it understands all.
pub async fn choose(search: &Search, archive_major: u32, server_version: u32) -> Result<Tools> {
    let installed = search.installed().await;
    let able: Vec<&Tools> = installed.iter().filter(|tools| tools.version.major >= archive_major).collect();
    let understood = |tools: &&&Tools| {
        tools.version.major < SETS_TRANSACTION_TIMEOUT || server_version >= SETS_TRANSACTION_TIMEOUT * 10_000
    };
    if let Some(tools) = able.iter().find(understood).or(able.first()) {
        return Ok((*tools).clone());
    }
    let mut found: Vec<&str> = installed.iter().map(|tools| tools.version.text.as_str()).collect();
    found.dedup();
    let cause = if found.is_empty() { "none was found".to_owned() } else { format!("found: {}", found.join(", ")) };
    Err(Error::new(Kind::MissingProgram, format!("Missing command: pg_restore of PostgreSQL {archive_major} or newer"))
        .because(cause)
        .hint(format!("install postgresql-client-{archive_major}, or name its directory with --bin-dir")))
}

/// How a database is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transactions {
    /// Each statement by itself: what fails leaves a part, which whoever made the database removes.
    Many,
    /// All or nothing, for a database that was there before.
    One,
}

/// A call of `pg_restore`, or of `psql` for a script.
pub struct Call<'a> {
    pub target: &'a Target,
    pub database: &'a str,
    pub form: Form,
    pub jobs: NonZeroUsize,
    pub on_error: OnError,
    pub transactions: Transactions,
    pub ownership: Ownership,
    pub privileges: Privileges,
    /// What is restored is dropped first.
    pub cleans: bool,
    /// A table that is there does not get the rows of one that could not be made.
    pub keeps_rows_apart: bool,
    /// The entries that are restored; `None` is all.
    pub list: Option<&'a Path>,
}

impl Call<'_> {
    /// `folder` is the archive where it is a directory.
    pub fn program(&self, folder: Option<&Path>) -> Result<crate::process::Program> {
        if self.form == Form::Script {
            return self.script();
        }
        let format = format!("--format={}", self.form.as_str());
        let mut program = self.target.client("pg_restore")?.arg(format).arg("--verbose");
        if self.on_error == OnError::Stop && !self.server_is_older() {
            program = program.arg("--exit-on-error");
        }
        if self.transactions == Transactions::One {
            program = program.arg("--single-transaction");
        }
        if self.ownership == Ownership::OfRestorer {
            program = program.arg("--no-owner");
        }
        if self.privileges == Privileges::LeaveOut {
            program = program.arg("--no-privileges");
        }
        if self.keeps_rows_apart {
            program = program.arg("--no-data-for-failed-tables");
        }
        if self.cleans {
            program = program.args(["--clean", "--if-exists"]);
        }
        if let Some(list) = self.list {
            let mut argument = std::ffi::OsString::from("--use-list=");
            argument.push(list);
            program = program.arg(argument);
        }
        program = program.arg(format!("--dbname={}", self.target.dbname_argument(self.database)));
        if self.jobs.get() > 1 {
            program = program.arg(format!("--jobs={}", self.jobs));
        }
        if let Some(folder) = folder {
            program = program.arg(folder);
        } else if self.jobs.get() > 1 {
            // Workers open the archive by name, each for itself; standard input has one, although the file has none.
            program = program.arg("/dev/stdin");
        }
        Ok(program)
    }

    /// Without the user's settings; errors without the row and the statement that they are about.
    fn script(&self) -> Result<crate::process::Program> {
        let program = self.target.client("psql")?.args(["--no-psqlrc", "--quiet"]);
        let stop = if self.on_error == OnError::Stop { "1" } else { "0" };
        let program = program.arg(format!("--set=ON_ERROR_STOP={stop}")).arg("--set=VERBOSITY=terse");
        let one = self.transactions == Transactions::One;
        let program = if one { program.arg("--single-transaction") } else { program };
        Ok(program.arg("--file=-").arg(format!("--dbname={}", self.target.dbname_argument(self.database))))
    }

    fn name(&self) -> &'static str {
        if self.form == Form::Script { "psql" } else { "pg_restore" }
    }

    /// Then its errors are judged here, because one of them is to be expected.
    fn server_is_older(&self) -> bool {
        let newest = SETS_TRANSACTION_TIMEOUT * 10_000;
        self.target.tools.version.major >= SETS_TRANSACTION_TIMEOUT && self.target.server_version() < newest
    }

    /// Whether everything can be done in one transaction.
    pub fn allows_one_transaction(target: &Target, form: Form, jobs: NonZeroUsize, on_error: OnError) -> bool {
        let newest = SETS_TRANSACTION_TIMEOUT * 10_000;
        let server_is_older =
            target.tools.version.major >= SETS_TRANSACTION_TIMEOUT && target.server_version() < newest;
        jobs.get() == 1 && on_error == OnError::Stop && (form == Form::Script || !server_is_older)
    }

    /// Runs it.
    pub async fn run(&self, context: &Context, body: &Body, log: &Log, task: Arc<dyn Task>) -> Result<Complaints> {
        let (sender, mut lines) = unbounded_channel();
        let input = body.input()?;
        let folder = match &input {
            Input::Directory(path) => Some(path.as_path()),
            Input::File(_) => None,
        };
        let program = self.program(folder)?.heard_by(sender);
        tracing::info!("{}", program.command_line());
        log.line(&format!("run {}", program.command_line()));
        let child = match input {
            // A file without a name: nothing of it is left when we are killed.
            Input::File(file) => program.spawn_reading(file)?,
            Input::Directory(_) => program.spawn_quiet()?,
        };
        let mut complaints = Complaints { goes_on: self.on_error == OnError::GoOn, ..Complaints::default() };
        let ended = {
            let listening = listen(&mut lines, &mut complaints, self.on_error, log, &*task);
            let stop = async {
                tokio::select! {
                    biased;
                    error = context.interrupt.stopped() => error,
                    () = listening => Error::new(Kind::Tool, "an error was met"),
                }
            };
            child.wait_unless(stop).await
        };
        // What is still in the channel was said before the end.
        while let Some(line) = lines.recv().await {
            log.said(&line);
            complaints.hear(&line);
        }
        if context.interrupt.is_requested() {
            return Err(context.interrupt.error());
        }
        match ended {
            Ok(exit) => {
                log.line(&format!("{} ended with {}", self.name(), exit.reason()));
                complaints.judge(&exit, self.on_error)
            }
            Err(_) => Err(complaints.error(&format!("{} met an error", self.name()))),
        }
    }
}

/// Reads a tar archive or a directory to its end, as `pg_restore` would, and restores nothing.
pub async fn check_whole(target: &Target, interrupt: &Interrupt, body: &Body) -> Result<()> {
    let program = target.client_without_server("pg_restore")?;
    let program = program.arg(format!("--format={}", body.form().as_str())).arg("--file=/dev/null");
    tracing::info!("{}", program.command_line());
    let child = match body.input()? {
        Input::File(file) => program.spawn_reading(file)?,
        Input::Directory(path) => program.arg(path).spawn_quiet()?,
    };
    let exit = child.wait_unless(interrupt.stopped()).await?;
    exit.check().map(drop).map_err(|error| {
        Error::new(Kind::Verification, "read the archive to its end")
            .because(error)
            .hint("this archive cannot be restored whole: make a new dump, or use another copy")
    })
}

/// Reads what `pg_restore` says until it says nothing more, or meets an error at which it is to be stopped; then this
/// ends. It does not end while there is nothing to stop for.
async fn listen(
    lines: &mut UnboundedReceiver<String>,
    complaints: &mut Complaints,
    on_error: OnError,
    log: &Log,
    task: &dyn Task,
) {
    while let Some(line) = lines.recv().await {
        if let Some(table) = processed(&line) {
            task.advance(1);
            task.note(table);
        }
        log.said(&line);
        complaints.hear(&line);
        if on_error == OnError::Stop && complaints.count > 0 {
            return;
        }
    }
    std::future::pending().await
}

fn processed(line: &str) -> Option<&str> {
    let at = line.strip_prefix("pg_restore: processing data for table ")?;
    Some(at.trim_matches('"'))
}

/// What `pg_restore` said that went wrong.
#[derive(Debug, Default)]
pub struct Complaints {
    /// In its own words, with the entry that was worked on. Without the statement and without the rows, which may hold
    /// passwords and what the tables hold.
    pub words: Vec<String>,
    pub count: usize,
    entry: Option<String>,
    /// Whether `psql` goes on after errors: then what it says is all that tells of them.
    goes_on: bool,
    /// Errors that may turn out to be the expected one when the statement follows.
    doubtful: Vec<String>,
}

impl Complaints {
    fn hear(&mut self, line: &str) {
        // The lines that follow an error are the statement and the row that failed: passwords of user mappings and
        // subscriptions, and what the tables hold.
        if line.starts_with("pg_restore: ") {
            tracing::debug!(target: "pgkeep::child", "{line}");
        }
        if let Some(error) = of_psql(line, self.goes_on) {
            tracing::debug!(target: "pgkeep::child", "{line}");
            self.add(&error);
        } else if let Some(entry) = line.strip_prefix("pg_restore: from TOC entry ") {
            self.entry = Some(entry.to_owned());
        } else if let Some(error) = line.strip_prefix("pg_restore: error: ") {
            if error.contains("transaction_timeout") {
                self.doubtful.push(error.to_owned());
            } else {
                self.add(error);
            }
        } else if line == "Command was: SET transaction_timeout = 0;" {
            // The lines of parallel workers mix: which of the doubtful ones it was makes no difference.
            self.doubtful.pop();
        } else if let Some(hint) = line.strip_prefix("HINT:")
            && let Some(last) = self.words.last_mut()
        {
            last.push_str(&format!(" ({})", hint.trim()));
        }
    }

    /// At the end: what was doubtful and not explained was an error.
    fn settle(&mut self) {
        for error in std::mem::take(&mut self.doubtful) {
            self.add(&error);
        }
    }

    fn add(&mut self, error: &str) {
        self.count += 1;
        if self.words.len() < KEPT {
            self.words.push(match self.entry.take() {
                Some(entry) => format!("{error} (from TOC entry {entry})"),
                None => error.to_owned(),
            });
        }
    }

    fn judge(mut self, exit: &crate::process::Exit, on_error: OnError) -> Result<Self> {
        self.settle();
        // 1 is also the end after errors that were passed over.
        let passed_over =
            exit.status.code() == Some(1) && exit.stderr.iter().any(|line| line.contains("errors ignored"));
        if exit.success() || passed_over {
            return match (self.count, on_error) {
                (0, _) | (_, OnError::GoOn) => Ok(self),
                (_, OnError::Stop) => Err(self.error(&format!("{} met an error", exit.program))),
            };
        }
        if self.count == 0 {
            let tail = exit.stderr.len().saturating_sub(3);
            self.words = exit.stderr[tail..].to_vec();
        }
        Err(self.error(&format!("{} ended with {}", exit.program, exit.reason())))
    }

    fn error(&self, sentence: &str) -> Error {
        let error = Error::new(Kind::Tool, sentence);
        if self.words.is_empty() { error } else { error.because(self.words.join("; ")) }
    }
}

/// `psql:<stdin>:12: ERROR:  relation "t" already exists`, and errors of psql itself.
///
/// The server translates these words. One that is not known may be an error: where nothing else tells, it counts as one.
fn of_psql(line: &str, counts_unknown: bool) -> Option<String> {
    const ERRORS: [&str; 4] = ["ERROR", "FATAL", "PANIC", "error"];
    const OTHERS: [&str; 7] = ["NOTICE", "WARNING", "INFO", "LOG", "DEBUG", "warning", "HINT"];
    if let Some(error) = line.strip_prefix("psql: error: ") {
        return Some(error.to_owned());
    }
    let (number, said) = line.strip_prefix("psql:<stdin>:")?.split_once(": ")?;
    let (severity, error) = said.split_once(':')?;
    let is_error = ERRORS.contains(&severity) || (counts_unknown && !OTHERS.contains(&severity));
    is_error.then(|| format!("line {number}: {}", error.trim()))
}

/// Planner statistics in three passes. Without them the data are whole: a failure is told, not fatal.
pub async fn analyze(
    context: &Context,
    target: &Target,
    database: &str,
    jobs: NonZeroUsize,
    log: &Log,
) -> Result<Option<String>> {
    let program = target.client("vacuumdb")?.arg("--analyze-in-stages").arg(format!("--jobs={jobs}"));
    let program = program.arg(format!("--dbname={}", target.dbname_argument(database)));
    tracing::info!("{}", program.command_line());
    log.line(&format!("run {}", program.command_line()));
    let exit = program.spawn_quiet()?.wait_unless(context.interrupt.stopped()).await?;
    log.line(&format!("vacuumdb ended with {}", exit.reason()));
    Ok(exit
        .check()
        .err()
        .map(|error| format!("the planner has no statistics: {error}; run vacuumdb --analyze-in-stages")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &str) -> Complaints {
        let mut complaints = Complaints::default();
        lines.lines().for_each(|line| complaints.hear(line));
        complaints.settle();
        complaints
    }

    #[test]
    fn an_error_is_told_with_its_entry_and_without_its_statement() {
        let complaints = heard(
            "pg_restore: creating USER MAPPING \"x\"\n\
             pg_restore: while PROCESSING TOC:\n\
             pg_restore: from TOC entry 3; 1418 16390 USER MAPPING x alice\n\
             pg_restore: error: could not execute query: ERROR:  role \"x\" does not exist\n\
             Command was: CREATE USER MAPPING FOR x OPTIONS (password 'secret');\n\
             pg_restore: error: COPY failed for table \"t\": ERROR:  invalid input syntax\n\
             CONTEXT:  COPY t, line 1, column a: \"private\"",
        );
        assert_eq!(complaints.count, 2);
        let words = complaints.words.join("\n");
        assert!(words.contains("role \"x\" does not exist (from TOC entry 3; 1418 16390 USER MAPPING x alice)"));
        assert!(!words.contains("secret") && !words.contains("private"), "{words}");
    }

    #[test]
    fn an_error_of_a_script_is_told_with_its_line() {
        let complaints = heard(
            "psql:<stdin>:7: NOTICE:  table \"t\" does not exist, skipping\n\
             psql:<stdin>:12: ERROR:  relation \"t\" already exists\n\
             psql:<stdin>:13: error: invalid command \\restrict\n\
             psql: error: connection to server failed",
        );
        assert_eq!(complaints.count, 3);
        assert_eq!(complaints.words[0], "line 12: relation \"t\" already exists");
        assert_eq!(complaints.words[1], "line 13: invalid command \\restrict");
        let translated = "psql:<stdin>:12: FEHLER:  Relation »t« existiert bereits";
        assert_eq!(of_psql(translated, false), None, "psql has ended with 3");
        assert_eq!(of_psql(translated, true).unwrap(), "line 12: Relation »t« existiert bereits");
    }

    #[test]
    fn the_setting_that_an_older_server_does_not_know_is_no_error() {
        let expected = "pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter \
                        \"transaction_timeout\"\n";
        let command = "Command was: SET transaction_timeout = 0;\n";
        assert_eq!(heard(&format!("{expected}{command}")).count, 0);
        assert_eq!(heard(&format!("{expected}Command was: SELECT transaction_timeout();\n")).count, 1);
        assert_eq!(heard(expected).count, 1);
    }
}
