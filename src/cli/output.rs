//! What a caller reads: the JSON document, tables, sizes and times, and the two lines of an error.

use std::io::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{CellAlignment, Table, presets};
use pgkeep::command::Status;
use pgkeep::error::{Error, Kind};
use serde::Serialize;

/// The one JSON document of a command, on failure too.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<'a, I> {
    pgkeep_json: u32,
    command: &'a str,
    status: Status,
    exit_code: u8,
    started_at: String,
    duration_seconds: f64,
    items: &'a [I],
    warnings: &'a [String],
    error: Option<&'a Error>,
}

/// A command as it is reported: its name, when it began and how long it took.
pub struct Told<'a> {
    pub command: &'a str,
    pub started_at: DateTime<Utc>,
    pub duration_seconds: f64,
}

impl Told<'_> {
    /// Prints the document of a command that failed before it had items. The exit code says the same.
    pub fn refusal(&self, error: &Error) {
        let _ = self.json::<()>(&[], &[], Some(error));
    }

    /// Prints the document to standard output.
    pub fn json<I: Serialize>(&self, items: &[I], warnings: &[String], error: Option<&Error>) -> std::io::Result<()> {
        let document = Document {
            pgkeep_json: 1,
            command: self.command,
            status: status(error),
            exit_code: error.map_or(0, |error| error.kind.exit_code()),
            started_at: time(self.started_at),
            duration_seconds: (self.duration_seconds * 1000.0).round() / 1000.0,
            items,
            warnings,
            error,
        };
        let text = serde_json::to_string_pretty(&document).unwrap_or_else(|error| error.to_string());
        print(&text)
    }
}

fn status(error: Option<&Error>) -> Status {
    match error.map(|error| error.kind) {
        None | Some(Kind::Finding) => Status::Ok,
        Some(Kind::Partial) => Status::Partial,
        Some(Kind::NotVerified) => Status::NotVerified,
        Some(_) => Status::Failed,
    }
}

/// Prints an answer. A reader that went away (`| head`) does not change what the command did.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// `1 backup`, `2 backups`.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `pgkeep: failed to dump: …` and `hint: …` on standard error. Names that came from a server cannot move the cursor
/// or forge a line.
pub fn complain(command: &str, error: &Error) {
    let mut stderr = std::io::stderr().lock();
    let what = match error.kind {
        // The command did what it was asked to, and saw something.
        Kind::Finding => format!("{command} has a finding"),
        _ => format!("failed to {command}"),
    };
    let _ = writeln!(stderr, "pgkeep: {what}: {}", harmless(&error.to_string()));
    if let Some(hint) = error.next_step() {
        let _ = writeln!(stderr, "hint: {}", harmless(hint));
    }
}

pub fn warn(text: &str) {
    say(&format!("warning: {}", harmless(text)));
}

/// A line on standard error. That nobody can read it (a full disk, a reader that went away) stops no backup.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The text with control characters written out.
pub fn harmless(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// A table without frames; columns named in `right` hold numbers.
pub fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| harmless(cell)));
    }
    let last = header.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// `1.4 GB`: powers of 1024, as PostgreSQL's `pg_size_pretty` counts.
pub fn bytes(count: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut amount = count as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 || amount >= 100.0 {
        format!("{amount:.0} {}", units[unit])
    } else {
        format!("{amount:.1} {}", units[unit])
    }
}

/// `2026-11-20T02:00:00Z`.
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// `3 days`, `5 h 12 min`, `40 s`: the two largest units.
pub fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Standard error for log lines: they pass above progress bars instead of through them.
pub struct AboveBars(pub Option<indicatif::MultiProgress>);

impl std::io::Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let _ = match &self.0 {
            Some(bars) => bars.suspend(|| std::io::stderr().write_all(line)),
            None => std::io::stderr().write_all(line),
        };
        // A reader that went away or a full disk under the log does not end a backup; an error told to the caller would:
        // it panics.
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1536), "1.5 kB");
        assert_eq!(bytes(200 << 20), "200 MB");
        assert_eq!(age(59), "59 s");
        assert_eq!(age(3 * 86_400 + 7_200), "3 d 2 h");
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        assert_eq!(harmless("a\n\u{1b}[2Jb"), "a\\n\\u{1b}[2Jb");
    }

    #[test]
    fn tables_align_numbers() {
        let text = table(&["id", "size"], &[1], [vec!["a".into(), "10".into()], vec!["bb".into(), "5".into()]]);
        assert_eq!(text, "id  size\na     10\nbb     5\n");
    }
}
