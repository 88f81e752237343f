//! The log of the env-file layout: `backup_YYYYMMDD.log` of the host's local date, one line per event.
//!
//! `2025-10-11 02:00:00 [INFO] …`, appended whole, without secrets and without control characters. What `-q` and `-v` say
//! to standard error changes nothing here. The file is for other readers, as the reports are: 0644.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use chrono::{Local, NaiveDateTime};
use pgkeep::clock::Clock;
use pgkeep::command::Outcome;
use pgkeep::command::dump::Item;
use pgkeep::config::directories::{make_readable, make_readable_by_all};
use pgkeep::config::secret::Secret;
use pgkeep::error::{Doing as _, Error, Kind, Result};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::output::harmless;

/// Events for the file alone: the end of a command, which its caller is told in another form.
pub const TARGET: &str = "pgkeep::log_file";

pub struct LogFile {
    /// Opened at the start: a run that passes midnight stays in one file.
    file: Mutex<File>,
    clock: Arc<dyn Clock>,
    secrets: Vec<Secret>,
}

impl LogFile {
    /// Opens the file of today in `directory`, which is made if it is missing. That it can be written is known before
    /// anything starts.
    pub fn open(directory: &Path, clock: Arc<dyn Clock>, secrets: Vec<Secret>) -> Result<Self> {
        let name = format!("backup_{}.log", local(&*clock).format("%Y%m%d"));
        let path = directory.join(name);
        let file = make_readable(directory).and_then(|()| open_for_append(&path, directory));
        let file = file.doing(Kind::Usage, || format!("open log file {}", path.display())).map_err(|error| {
            let directory = pgkeep::process::shell_word(directory.as_os_str());
            error.hint(format!(
                "mkdir -p {directory} and chown it to the account that runs pgkeep, or set BACKUP_LOG_DIR"
            ))
        })?;
        Ok(Self { file: Mutex::new(file), clock, secrets })
    }

    fn append(&self, level: Level, message: &str) {
        let message = self.secrets.iter().fold(message.to_owned(), |text, secret| secret.blot_out(&text));
        let line = format!("{} [{level}] {}\n", local(&*self.clock).format("%Y-%m-%d %H:%M:%S"), harmless(&message));
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A disk that is full stops no backup that lies on another one.
        let _ = file.write_all(line.as_bytes());
    }
}

fn local(clock: &dyn Clock) -> NaiveDateTime {
    clock.now().with_timezone(&Local).naive_local()
}

fn open_for_append(path: &Path, directory: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o644);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            make_readable_by_all(&file, 0o644, Some(directory))?;
            Ok(file)
        }
        // Whoever made it has chosen who reads it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

/// Puts down how a dump ended, in the words in which its caller is told.
pub fn end(done: &Result<Outcome<Item>>) {
    let (warnings, error) = match done {
        Ok(outcome) => {
            let of_items = outcome.items.iter().flat_map(|item| &item.warnings);
            (of_items.chain(&outcome.warnings).cloned().collect(), outcome.error.as_ref())
        }
        Err(error) => (Vec::new(), Some(error)),
    };
    warnings.iter().for_each(|warning: &String| tracing::warn!(target: TARGET, "{warning}"));
    match error {
        None => tracing::info!(target: TARGET, "done"),
        Some(error) => failed(error),
    }
}

/// Puts down why a run failed, and the next step.
pub fn failed(error: &Error) {
    let hint = error.next_step().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
    tracing::error!(target: TARGET, "{error}{hint}");
}

impl<S: Subscriber> Layer<S> for LogFile {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.append(*event.metadata().level(), &message.0);
    }
}

/// The sentence of an event, and its other fields behind it.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use pgkeep::clock::ManualClock;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn noon() -> Arc<ManualClock> {
        Arc::new(ManualClock::at("2025-10-11T12:00:00Z".parse().unwrap()))
    }

    /// The date and the time of `noon` on this host, wherever it stands.
    fn stamp(form: &str) -> String {
        local(&*noon()).format(form).to_string()
    }

    #[test]
    fn a_line_has_the_form_of_the_document_and_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("log/db-backup");
        for round in 0..2 {
            let log = LogFile::open(&directory, noon(), vec![Secret::new("hunter2")]).unwrap();
            let subscriber = tracing_subscriber::registry().with(log);
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(target: TARGET, "round {round}");
                tracing::warn!(bytes = 3, "with\nhunter2");
                tracing::error!("ends");
            });
        }
        let path = directory.join(format!("backup_{}.log", stamp("%Y%m%d")));
        let at = stamp("%Y-%m-%d %H:%M:%S");
        let text = std::fs::read_to_string(&path).unwrap();
        let round =
            |round| format!("{at} [INFO] round {round}\n{at} [WARN] with\\n**redacted** bytes=3\n{at} [ERROR] ends\n");
        assert_eq!(text, round(0) + &round(1));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&directory)), (0o644, 0o755));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_with_the_next_step() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = LogFile::open(&file.path().join("log"), noon(), Vec::new()).err().unwrap();
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.to_string().starts_with("open log file "), "{error}");
        assert!(error.next_step().unwrap().contains("BACKUP_LOG_DIR"), "{error:?}");
    }
}
