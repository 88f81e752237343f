//! `pgkeep report`.

mod show;

use std::process::ExitCode;

use pgkeep::command::finding::Finding;
use pgkeep::command::report::{
    self, Attempt, DatabaseReport, InstanceReport, Latest, Listed, Options, Proven, RunLine, Summary,
};
use pgkeep::command::{Context, Copy, Outcome, Status};
use pgkeep::error::Result;
use pgkeep::repo::{RunStatus, Verb, Which};

use crate::cli::arguments::{ReportArgs, ReportView};
use crate::cli::output::{age, bytes, counted, harmless, table};
use crate::cli::run::Screen;
use crate::cli::verbs::{Request, instance};

pub async fn report(screen: &mut Screen, context: &Context, request: &Request, args: ReportArgs) -> ExitCode {
    let options = match options(request, &args) {
        Ok(options) => options,
        Err(error) => return screen.fail(&error),
    };
    match args.view {
        None => {
            let places = places(&options);
            finish(screen, report::overview(context, &options).await, |outcome| overview_text(outcome, places))
        }
        Some(ReportView::List { .. }) => {
            let places = places(&options);
            finish(screen, report::list(context, &options).await, |outcome| list_text(outcome, places))
        }
        Some(ReportView::Show { id, .. }) => {
            finish(screen, report::show(context, &options, Which::from(id.as_str())).await, show::text)
        }
        Some(ReportView::Latest { .. }) => {
            let places = places(&options);
            finish(screen, report::latest(context, &options).await, |outcome| latest_text(outcome, places))
        }
        Some(ReportView::Runs { most }) => {
            let places = places(&options);
            finish(screen, report::runs(context, &options, most).await, |outcome| runs_text(outcome, places))
        }
    }
}

fn finish<I: serde::Serialize>(
    screen: &Screen,
    done: Result<Outcome<I>>,
    text: impl FnOnce(&Outcome<I>) -> String,
) -> ExitCode {
    match done {
        Ok(outcome) => screen.finish(&outcome, text),
        Err(error) => screen.fail(&error),
    }
}

fn options(request: &Request, args: &ReportArgs) -> Result<Options> {
    let database = match &args.view {
        Some(ReportView::List { dbname } | ReportView::Show { dbname, .. } | ReportView::Latest { dbname }) => {
            dbname.clone()
        }
        Some(ReportView::Runs { .. }) | None => None,
    };
    Ok(Options {
        repositories: super::repositories(request)?,
        instance: instance::named(request)?,
        database,
        expected: instance::expected(request)?,
    })
}

/// Where copies lie is worth a word only where they can lie in several places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Places {
    One,
    Several,
}

fn places(options: &Options) -> Places {
    if options.repositories.len() > 1 { Places::Several } else { Places::One }
}

/// What could not be read may hold some: then nothing is said of a first one.
fn no_backups<I>(outcome: &Outcome<I>) -> String {
    match outcome.error {
        None => "there are no backups yet; the first one: pgkeep dump -d DATABASE --repo REPOSITORY".to_owned(),
        Some(_) => "no backup was found in what could be read".to_owned(),
    }
}

fn overview_text(outcome: &Outcome<InstanceReport>, places: Places) -> String {
    if outcome.items.is_empty() {
        return no_backups(outcome);
    }
    let mut text: String = outcome.items.iter().map(|item| instance_text(item, places)).collect();
    let mut findings: Vec<&Finding> = Vec::new();
    for finding in outcome.items.iter().flat_map(|item| &item.findings) {
        // What concerns several instances stands with each of them.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    if findings.is_empty() {
        return text + "no findings\n";
    }
    text += "findings\n";
    text.extend(findings.into_iter().map(super::finding_text));
    text
}

fn instance_text(item: &InstanceReport, places: Places) -> String {
    let head = format!("instance {}\n", item.instance);
    item.databases.iter().fold(head, |text, database| text + &database_text(database, places)) + "\n"
}

fn database_text(report: &DatabaseReport, places: Places) -> String {
    let mut lines = Vec::new();
    match &report.newest {
        None => lines.push(("newest good", "none".to_owned())),
        Some(newest) => {
            lines.push(("newest good", format!("{}, {} old", newest.id, age(newest.age_seconds))));
            lines.push(("taken", format!("{} in {:.1} s", newest.started_at, newest.duration_seconds)));
            lines.push(("size", size(newest)));
            lines.push(("proven", proven(&newest.proven)));
            if places == Places::Several {
                lines.push(("copies", copies_text(&report.copies)));
            }
        }
    }
    lines.extend(report.passed_over.iter().map(|over| ("passed over", format!("{}: {}", over.id, over.reason))));
    lines.extend(report.last_attempt.iter().map(|attempt| ("last dump", attempt_text(attempt))));
    lines.push(("kept", kept(report, places)));
    let head = format!("  {}\n", harmless(&report.database));
    lines.iter().fold(head, |text, (name, value)| text + &format!("    {name:<12}  {}\n", harmless(value)))
}

fn kept(report: &DatabaseReport, places: Places) -> String {
    let whole = format!("{}, {}", counted(report.backups, "backup"), bytes(report.stored_bytes));
    if places == Places::One {
        return whole;
    }
    let of = report.repositories.iter().map(|kept| format!("{} in {}", kept.backups, kept.name)).collect::<Vec<_>>();
    format!("{whole} ({})", of.join(", "))
}

/// `/backups, s3://backups (damaged)`.
fn copies_text(copies: &[Copy]) -> String {
    let copy = |copy: &Copy| match copy.status {
        Status::Ok => copy.name.clone(),
        Status::Failed | Status::Partial => format!("{} (damaged)", copy.name),
        Status::NotVerified => format!("{} (unreadable)", copy.name),
    };
    copies.iter().map(copy).collect::<Vec<_>>().join(", ")
}

fn size(newest: &Summary) -> String {
    let (plain, stored) = (bytes(newest.plain_bytes), bytes(newest.stored_bytes));
    format!("{plain} of archive, {stored} stored ({:.1} : 1)", newest.ratio)
}

fn proven(proven: &Proven) -> String {
    let made = if proven.read_back { "read back when it was made" } else { "not read back when it was made" };
    match (proven.level, proven.at) {
        (Some(level), Some(at)) => format!("{made}; {} passed {at}", level.as_str()),
        _ => made.to_owned(),
    }
}

fn attempt_text(attempt: &Attempt) -> String {
    let status = status_word(attempt.status);
    match &attempt.reason {
        Some(reason) => format!("{} {status}: {reason}", attempt.started_at),
        None => format!("{} {status}", attempt.started_at),
    }
}

fn status_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "RUNNING",
        RunStatus::Succeeded => "SUCCEEDED",
        RunStatus::Failed => "FAILED",
        RunStatus::Partial => "PARTIAL",
        RunStatus::Interrupted => "INTERRUPTED",
    }
}

fn list_text(outcome: &Outcome<Listed>, places: Places) -> String {
    let items = &outcome.items;
    let Some(first) = items.first() else { return no_backups(outcome) };
    let several = items.iter().any(|item| item.instance != first.instance);
    let mut header = vec!["id", "database", "started", "took", "plain", "stored", "proven", "state"];
    let mut right = vec![3, 4, 5];
    if several {
        header.insert(2, "instance");
        right.iter_mut().for_each(|column| *column += 1);
    }
    if places == Places::Several {
        header.insert(header.len() - 1, "copies");
    }
    // What is said of few backups takes room only where it is said of one.
    let said = SAID.iter().filter(|(_, said)| items.iter().any(|item| said(item).is_some())).collect::<Vec<_>>();
    said.iter().for_each(|(name, _)| header.insert(header.len() - 1, name));
    let row = |item: &Listed| {
        let size = |count: Option<u64>| count.map_or("?".to_owned(), bytes);
        let state = item.state.as_str();
        let mut row = vec![
            item.id.to_string(),
            item.database.clone(),
            item.started_at.to_string(),
            item.duration_seconds.map_or("?".to_owned(), |seconds| format!("{seconds:.1} s")),
            size(item.plain_bytes),
            size(item.stored_bytes),
            item.proven.as_ref().map_or("?".to_owned(), Proven::to_string),
            item.reason.as_ref().map_or(state.to_owned(), |reason| format!("{state}: {reason}")),
        ];
        if several {
            row.insert(2, item.instance.to_string());
        }
        if places == Places::Several {
            row.insert(row.len() - 1, copies_text(&item.repositories));
        }
        said.iter().for_each(|(_, said)| row.insert(row.len() - 1, said(item).unwrap_or_default()));
        row
    };
    table(&header, &right, items.iter().map(row))
}

/// A column of the list, and what it says of a backup.
type Said = (&'static str, fn(&Listed) -> Option<String>);

const SAID: [Said; 3] = [
    ("label", |item| item.label.clone()),
    ("kept", |item| item.keep.map(|keep| keep.to_string())),
    ("choice", |item| item.filter.as_ref().map(ToString::to_string)),
];

fn latest_text(outcome: &Outcome<Latest>, places: Places) -> String {
    let items = &outcome.items;
    let Some(first) = items.first() else { return no_backups(outcome) };
    let several = items.iter().any(|item| item.instance != first.instance);
    let mut header = vec!["database", "age", "id", "stored", "proven"];
    if several {
        header.insert(0, "instance");
    }
    if places == Places::Several {
        header.push("copies");
    }
    let right: Vec<usize> = if several { vec![2, 4] } else { vec![1, 3] };
    let row = |item: &Latest| {
        let of = |told: &dyn Fn(&Summary) -> String| item.newest.as_ref().map_or("none".to_owned(), told);
        let mut row = vec![
            item.database.clone(),
            of(&|newest| age(newest.age_seconds)),
            of(&|newest| newest.id.to_string()),
            of(&|newest| bytes(newest.stored_bytes)),
            of(&|newest| newest.proven.to_string()),
        ];
        if several {
            row.insert(0, item.instance.to_string());
        }
        if places == Places::Several {
            row.push(copies_text(&item.repositories));
        }
        row
    };
    table(&header, &right, items.iter().map(row))
}

fn runs_text(outcome: &Outcome<RunLine>, places: Places) -> String {
    if outcome.items.is_empty() {
        return "no runs are recorded yet".to_owned();
    }
    let mut header = vec!["started", "verb", "instance", "host", "status", "took", "what", "reason"];
    if places == Places::Several {
        header.insert(7, "recorded in");
    }
    let row = |line: &RunLine| {
        let mut row = run_row(line);
        if places == Places::Several {
            row.insert(7, line.repositories.join(", "));
        }
        row
    };
    table(&header, &[5], outcome.items.iter().map(row))
}

fn run_row(line: &RunLine) -> Vec<String> {
    vec![
        line.started_at.to_string(),
        line.verb.to_string(),
        line.instance.to_string(),
        line.host.clone().unwrap_or_else(|| "?".to_owned()),
        line.status.map_or("UNREADABLE", status_word).to_owned(),
        line.duration_seconds.map_or(String::new(), |seconds| format!("{seconds:.1} s")),
        what(line),
        line.reason().unwrap_or_default(),
    ]
}

/// What a prune removed, and of which databases.
fn removed(line: &RunLine, of: &str) -> String {
    let removed = || line.items.iter().filter(|item| item.status == RunStatus::Succeeded);
    let freed = removed().filter_map(|item| item.stored_bytes).fold(0, u64::saturating_add);
    match removed().count() {
        0 => of.to_owned(),
        count => format!("{} removed, {} ({of})", counted(count, "backup"), bytes(freed)),
    }
}

/// The databases of a run; of many the first ones.
fn what(line: &RunLine) -> String {
    const SHOWN: usize = 3;
    let mut names: Vec<&str> = line.items.iter().filter_map(|item| item.database.as_deref()).collect();
    names.dedup();
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    let shown = match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    };
    match line.verb {
        Verb::Prune => removed(line, &shown),
        _ => shown,
    }
}
