//! `report runs`.

use serde::Serialize;

use super::{Context, Moment, Options, Outcome, seen_runs};
use crate::command::Repositories;
use crate::error::Result;
use crate::repo::{InstanceName, RunItem, RunName, RunRecord, RunStatus, SeenRun, Verb};

/// One attempt.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunLine {
    pub run: RunName,
    pub instance: InstanceName,
    pub verb: Verb,
    pub started_at: Moment,
    /// Unknown, like the rest, where the record cannot be read.
    pub status: Option<RunStatus>,
    pub host: Option<String>,
    pub finished_at: Option<Moment>,
    pub duration_seconds: Option<f64>,
    pub exit_code: Option<u8>,
    pub stage: Option<String>,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub items: Vec<RunItem>,
    /// The names of the repositories that recorded it.
    pub repositories: Vec<String>,
}

impl RunLine {
    /// Why it did not end well, on one line: the step and the cause.
    pub fn reason(&self) -> Option<String> {
        match (self.status, &self.error) {
            (_, Some(error)) => Some(reason(self.stage.as_deref(), error)),
            (Some(RunStatus::Interrupted), None) => {
                Some("it ended without a word: killed, or the host went down".into())
            }
            _ => None,
        }
    }
}

/// The step and the cause, without naming the step twice.
pub(super) fn reason(stage: Option<&str>, error: &str) -> String {
    let Some(stage) = stage else { return error.to_owned() };
    match error.split_once(&format!("stage {stage}: ")) {
        // Several items that failed are told in brackets; what is cut from there would lose its beginning.
        Some((before, _)) if before.contains(" failed (") => error.to_owned(),
        Some((_, cause)) => format!("{stage}: {cause}"),
        None => format!("{stage}: {error}"),
    }
}

/// At most `most` attempts, newest first.
pub async fn runs(context: &Context, options: &Options, most: usize) -> Result<Outcome<RunLine>> {
    let mut repositories = Repositories::open(context, &options.repositories).await?;
    let seen = seen_runs(context, options, &mut repositories).await?;
    let items = seen.into_iter().rev().take(most).map(line).collect();
    Ok(Outcome { items, warnings: repositories.warnings(), error: repositories.partial() })
}

fn line(seen: SeenRun) -> RunLine {
    let line = RunLine {
        verb: seen.run.verb(),
        started_at: Moment(seen.run.started_at().time()),
        instance: seen.instance,
        run: seen.run,
        repositories: seen.repositories,
        status: None,
        host: None,
        finished_at: None,
        duration_seconds: None,
        exit_code: None,
        stage: None,
        error: None,
        hint: None,
        items: Vec::new(),
    };
    match seen.record {
        Err(error) => RunLine { error: Some(error.to_string()), hint: error.next_step().map(str::to_owned), ..line },
        Ok(record) => with_record(line, record),
    }
}

fn with_record(line: RunLine, record: RunRecord) -> RunLine {
    RunLine {
        status: Some(record.status),
        host: Some(record.host),
        finished_at: record.finished_at.map(Moment),
        duration_seconds: record.duration_seconds,
        exit_code: record.exit_code,
        stage: record.stage,
        error: record.error,
        hint: record.hint,
        items: record.items,
        ..line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_its_step_once() {
        let error = "dump database \"shop\", stage connect: connect to PostgreSQL as \"a\"";
        assert_eq!(reason(Some("connect"), error), "connect: connect to PostgreSQL as \"a\"");
        assert_eq!(reason(Some("archive"), "pg_dump ended"), "archive: pg_dump ended");
        assert_eq!(reason(None, "pg_dump ended"), "pg_dump ended");
    }
}
