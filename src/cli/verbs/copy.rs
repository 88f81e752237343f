//! `pgkeep copy`.

use std::process::ExitCode;

use pgkeep::command::copy::{self, Action, Item, Options, Preview, Wanted};
use pgkeep::command::{Context, Outcome};
use pgkeep::error::{Error, Result};
use pgkeep::repo::Which;

use super::Request;
use crate::cli::arguments::CopyArgs;
use crate::cli::output::{self, bytes, counted, harmless};
use crate::cli::run::Screen;

pub async fn copy(screen: &mut Screen, context: &Context, request: &Request, args: CopyArgs) -> ExitCode {
    let done = run(screen, context, request, &args).await;
    done.unwrap_or_else(|error| screen.fail(&error))
}

async fn run(screen: &Screen, context: &Context, request: &Request, args: &CopyArgs) -> Result<ExitCode> {
    let options = options(request, args)?;
    let plan = copy::plan(context, &options).await?;
    if args.dry_run {
        let previews = copy::preview(&options, &plan).await;
        return Ok(screen.finish(&Outcome::of(previews, plan.warnings), previews_text));
    }
    let outcome = copy::execute(context, &options, plan).await?;
    if !request.common.quiet {
        outcome.items.iter().for_each(warn);
    }
    Ok(screen.finish(&outcome, text))
}

fn options(request: &Request, args: &CopyArgs) -> Result<Options> {
    let to = super::repository(request, &args.to)?;
    let mut repositories = super::repositories(request)?;
    if request.common.repo.is_empty() {
        // All that are configured, but for the one that is copied to.
        repositories.retain(|place| place.address != to.address);
    }
    Ok(Options {
        repositories,
        to,
        instance: super::instance::named(request)?,
        database: args.dbname.clone(),
        wanted: match &args.id {
            Some(id) => Wanted::One(Which::from(id.as_str())),
            None => Wanted::Missing,
        },
    })
}

fn warn(item: &Item) {
    item.warnings.iter().for_each(|warning| output::warn(&format!("{}: {warning}", item.id)));
}

fn text(outcome: &Outcome<Item>) -> String {
    let several = outcome.items.len() > 1;
    let skipped = outcome.items.iter().filter(|item| item.action == Some(Action::Skipped)).count();
    // Of many that are there already the number is enough.
    let told = outcome.items.iter().filter(|item| !several || item.action != Some(Action::Skipped));
    let mut lines: Vec<String> = told.map(|item| item_text(item, several)).collect();
    if several && skipped > 0 {
        lines.push(format!("{} left alone: there already", counted(skipped, "backup")));
    }
    if outcome.items.is_empty() {
        lines.push("there is nothing to copy".to_owned());
    }
    lines.join("\n")
}

fn item_text(item: &Item, several: bool) -> String {
    let to = item.repositories.first().map_or(String::new(), |copy| harmless(&copy.name));
    let Some(action) = item.action else {
        let text = format!("{}: not copied to {to} (stage {})", item.id, item.stage.unwrap_or("unknown"));
        return match item.error.as_ref().and_then(Error::next_step) {
            Some(hint) if several => format!("{text}\n  hint: {}", harmless(hint)),
            _ => text,
        };
    };
    if action == Action::Skipped {
        return format!("{} left alone: {to} has it already", item.id);
    }
    let kept = match item.kept_bytes {
        0 => String::new(),
        kept => format!(", {} were there from an earlier copy", bytes(kept)),
    };
    let sources = item.sources.iter().map(|name| harmless(name)).collect::<Vec<_>>().join(" and ");
    let from = if sources.is_empty() { sources } else { format!(" from {sources}") };
    format!(
        "{}\n  {} sent{from} to {to} in {:.1} s, read back{kept}",
        item.id,
        bytes(item.sent_bytes),
        item.duration_seconds
    )
}

fn previews_text(outcome: &Outcome<Preview>) -> String {
    let Some(first) = outcome.items.first() else { return "there is nothing to copy".to_owned() };
    let lines = outcome.items.iter().map(|item| match (&item.error, item.action) {
        (None, Some(Action::Copied)) => format!("  {}  {}", item.id, bytes(item.bytes)),
        (None, _) => format!("  {}  there already", item.id),
        (Some(error), _) => format!("  {}  cannot be copied: {}", item.id, harmless(&error.to_string())),
    });
    let wanted: Vec<&Preview> = outcome.items.iter().filter(|item| item.bytes > 0).collect();
    let total = wanted.iter().fold(0u64, |sum, item| sum.saturating_add(item.bytes));
    let place = first.repositories.first();
    let state = match place {
        Some(place) if !place.exists => " (it would be created)".to_owned(),
        Some(place) => place.free_bytes.map_or(String::new(), |free| format!(" ({} free)", bytes(free))),
        None => String::new(),
    };
    let to = place.map_or(String::new(), |place| harmless(&place.name));
    let head = format!("would copy {}, {}, to {to}{state}", counted(wanted.len(), "backup"), bytes(total));
    std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
}
