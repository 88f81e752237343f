//! `pgkeep prune`.

use std::process::ExitCode;

use pgkeep::command::instance::Instance;
use pgkeep::command::prune::{self, Action, Item, Options, Pins, Wanted};
use pgkeep::command::{Context, Outcome, Place};
use pgkeep::error::{Error, Result};
use pgkeep::repo::retention::Policy;

use super::{Request, instance};
use crate::cli::arguments::{PruneArgs, RuleArgs};
use crate::cli::output::{bytes, counted, harmless, table};
use crate::cli::run::Screen;

pub async fn prune(screen: &mut Screen, context: &Context, request: &Request, args: PruneArgs) -> ExitCode {
    let done = run(screen, context, request, &args).await;
    done.unwrap_or_else(|error| screen.fail(&error))
}

async fn run(screen: &Screen, context: &Context, request: &Request, args: &PruneArgs) -> Result<ExitCode> {
    let options = options(request, args)?;
    let plan = prune::plan(context, &options).await?;
    let head = head(&options);
    if args.apply {
        let outcome = prune::execute(context, &options, plan).await;
        return Ok(screen.finish(&outcome, |outcome| head + &applied(outcome)));
    }
    let outcome = prune::preview(&options, plan);
    Ok(screen.finish(&outcome, |outcome| head + &planned(outcome)))
}

fn options(request: &Request, args: &PruneArgs) -> Result<Options> {
    let instance = instance::one(request)?;
    let mut repositories = instance::repositories(request, &instance)?;
    let wanted = if !args.id.is_empty() {
        let pins = if args.unpin { Pins::Released } else { Pins::Hold };
        Wanted::Named { ids: args.id.clone(), pins }
    } else if args.dropped {
        Wanted::Dropped
    } else {
        let typed = typed(&args.rules);
        if typed.is_none() && request.drop_in.is_some() {
            // Those of a bucket are left to the rules of its provider, as the env file has it.
            repositories.retain(|place| place.address.is_local());
        }
        Wanted::Rules(rules(request, &instance, typed, &repositories)?)
    };
    Ok(Options { repositories, instance: instance.name, databases: args.dbname.clone(), wanted })
}

/// The typed rules replace the configured ones.
fn rules(request: &Request, instance: &Instance, typed: Option<Policy>, repositories: &[Place]) -> Result<Policy> {
    let configured = || match &request.drop_in {
        Some(drop_in) => Policy::of_days(drop_in.env_file().retention_days),
        None => Policy::from(&instance.retention),
    };
    let none = || {
        Error::usage("no rule says what to keep").hint(
            "give one, such as --keep-daily 7 --keep-weekly 4, or write [instance.NAME.retention] into the \
             configuration; nothing goes without --apply",
        )
    };
    if repositories.is_empty() {
        return Err(Error::usage("RETENTION_DAYS is for backups on this host, and there are none")
            .hint("give rules for the bucket, such as --keep-daily 7"));
    }
    Some(typed.unwrap_or_else(configured)).filter(|policy| !policy.is_empty()).ok_or_else(none)
}

/// `None` where no rule is typed.
fn typed(args: &RuleArgs) -> Option<Policy> {
    let policy = Policy {
        last: args.keep_last,
        hourly: args.keep_hourly,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
        yearly: args.keep_yearly,
        within: args.keep_within,
    };
    (policy != Policy::default()).then_some(policy)
}

/// Which rules are in force.
fn head(options: &Options) -> String {
    match &options.wanted {
        Wanted::Rules(policy) => format!("rules: {policy}\n"),
        Wanted::Named { .. } | Wanted::Dropped => String::new(),
    }
}

/// Every backup that was decided about.
fn planned(outcome: &Outcome<Item>) -> String {
    let mut text = listed(outcome.items.iter());
    let removals = || outcome.items.iter().filter(|item| item.action == Action::Remove);
    let (count, all) = (removals().count(), outcome.items.len());
    let freed = removals().fold(0u64, |sum, item| sum.saturating_add(item.freed_bytes));
    text += &match (count, all) {
        (0, 0) => "there is nothing to remove\n".to_owned(),
        (0, all) => format!("nothing would be removed: all {} stay\n", counted(all, "backup")),
        _ => format!(
            "would remove {count} of {}, {}; nothing is removed without --apply\n",
            counted(all, "backup"),
            bytes(freed)
        ),
    };
    text
}

/// What was removed, and what could not be.
fn applied(outcome: &Outcome<Item>) -> String {
    let told = |item: &&Item| item.action != Action::Keep || item.error.is_some();
    let mut text = listed(outcome.items.iter().filter(told));
    let removed = || outcome.items.iter().filter(|item| item.action == Action::Removed);
    let freed = removed().fold(0u64, |sum, item| sum.saturating_add(item.freed_bytes));
    let kept = outcome.items.iter().filter(|item| item.action == Action::Keep).count();
    let kept = if kept > 0 { format!("; {} stay", counted(kept, "backup")) } else { String::new() };
    text += &match removed().count() {
        0 => format!("nothing was removed{kept}\n"),
        count => format!("removed {}, {} freed{kept}\n", counted(count, "backup"), bytes(freed)),
    };
    text
}

/// By repository; databases and their backups are in order.
fn listed<'a>(items: impl Iterator<Item = &'a Item>) -> String {
    let items: Vec<&Item> = items.collect();
    let place = |item: &Item| item.repositories.first().map_or(String::new(), |copy| copy.name.clone());
    let of_one_place = items.chunk_by(|a, b| place(a) == place(b));
    of_one_place.map(|items| listed_in(&place(items[0]), items)).collect()
}

fn listed_in(place: &str, items: &[&Item]) -> String {
    let row = |item: &&Item| {
        let action = match item.action {
            Action::Keep => "keep",
            Action::Remove => "remove",
            Action::Removed => "removed",
        };
        let size = item.repositories.iter().find_map(|copy| copy.stored_bytes).unwrap_or(item.freed_bytes);
        vec![action.to_owned(), item.id.to_string(), bytes(size), why(item)]
    };
    let rows = table(&["", "id", "size", "why"], &[2], items.iter().map(row));
    let rows: String = rows.lines().map(|line| format!("  {line}\n")).collect();
    format!("{}\n{rows}\n", harmless(place))
}

fn why(item: &Item) -> String {
    let label = item.label.iter().map(|label| format!("{label:?}"));
    let part = item.filtered.then(|| "a part of the database".to_owned());
    let error = item.error.as_ref().map(|error| format!("FAILED: {error}"));
    label.chain(part).chain(item.reasons.iter().cloned()).chain(error).collect::<Vec<_>>().join(", ")
}
