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
    let text = if args.apply { applied } else { planned };
    if !args.all_instances {
        let options = options(request, args, instance::one(request)?)?;
        let head = head(&options);
        let outcome = prune_one(context, &options, args).await?;
        return Ok(screen.finish(&outcome, |outcome| head + &text(outcome)));
    }
    let (mut head_of_all, mut answers) = (String::new(), Vec::new());
    for options in of_all_instances(screen, request, args)? {
        head_of_all += &head(&options);
        let answer = match context.interrupt.is_requested() {
            true => Err(context.interrupt.error()),
            false => prune_one(context, &options, args).await,
        };
        answers.push((options.instance, answer));
    }
    Ok(screen.finish(&prune::joined(answers), |outcome| head_of_all + &text(outcome)))
}

async fn prune_one(context: &Context, options: &Options, args: &PruneArgs) -> Result<Outcome<Item>> {
    let plan = prune::plan(context, options).await?;
    Ok(match args.apply {
        true => prune::execute(context, options, plan).await,
        false => prune::preview(options, plan),
    })
}

/// One that has no rules keeps everything, as its configuration says.
fn of_all_instances(screen: &Screen, request: &Request, args: &PruneArgs) -> Result<Vec<Options>> {
    let is_typed = typed(&args.rules).is_some();
    let (ruled, passed_over): (Vec<Instance>, Vec<Instance>) =
        instance::every(request)?.into_iter().partition(|instance| is_typed || !instance.retention.is_empty());
    for instance in &passed_over {
        screen.notice(&format!("instance {} has no rules, and everything of it stays", instance.name));
    }
    if ruled.is_empty() {
        return Err(no_rule());
    }
    ruled.into_iter().map(|instance| options(request, args, instance)).collect()
}

fn options(request: &Request, args: &PruneArgs, instance: Instance) -> Result<Options> {
    let mut repositories = instance::repositories(request, &instance)?;
    if args.unpin && args.id.is_empty() {
        // A rule stands against --id, so the parser does not ask for it.
        return Err(Error::usage("--unpin is for a backup that is named").hint("name it with --id"));
    }
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

fn no_rule() -> Error {
    Error::usage("no rule says what to keep").hint(
        "give one, such as --keep-daily 7 --keep-weekly 4, or write [instance.NAME.retention] into the configuration; \
         nothing goes without --apply",
    )
}

/// The typed rules replace the configured ones.
fn rules(request: &Request, instance: &Instance, typed: Option<Policy>, repositories: &[Place]) -> Result<Policy> {
    let configured = || match &request.drop_in {
        Some(drop_in) => Policy::of_days(drop_in.env_file().retention_days),
        None => Policy::from(&instance.retention),
    };
    if repositories.is_empty() {
        return Err(Error::usage("RETENTION_DAYS is for backups on this host, and there are none")
            .hint("give rules for the bucket, such as --keep-daily 7"));
    }
    Some(typed.unwrap_or_else(configured)).filter(|policy| !policy.is_empty()).ok_or_else(no_rule)
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
        Wanted::Rules(policy) => format!("rules of {}: {policy}\n", options.instance),
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
    // What was no backup is counted apart.
    let left = removed().filter(|item| item.orphan).count();
    let orphans =
        if left > 0 { format!(" and the rest of {left} that never were or no longer are") } else { String::new() };
    let kept = if kept > 0 { format!("; {} stay", counted(kept, "backup")) } else { String::new() };
    text += &match removed().count() {
        0 => format!("nothing was removed{kept}\n"),
        count => format!("removed {}{orphans}, {} freed{kept}\n", counted(count - left, "backup"), bytes(freed)),
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
    let instance = items.first().map_or(String::new(), |item| format!(", instance {}", item.instance));
    let mut text = harmless(place) + &instance + "\n";
    let mut before: Option<&Item> = None;
    for (at, line) in rows.lines().enumerate() {
        let item = at.checked_sub(1).and_then(|at| items.get(at)).copied();
        let group = |item: &Item| (item.database.clone(), item.filter.clone());
        if let (Some(before), Some(item)) = (before, item)
            && group(before) != group(item)
        {
            text += "\n";
        }
        text += &format!("  {line}\n");
        before = item;
    }
    text + "\n"
}

fn why(item: &Item) -> String {
    let label = item.label.iter().map(|label| format!("{label:?}"));
    let part = item.filtered.then(|| match &item.filter {
        Some(filter) => format!("a part ({filter})"),
        None => "a part".to_owned(),
    });
    let error = item.error.as_ref().map(|error| format!("FAILED: {error}"));
    label.chain(part).chain(item.reasons.iter().cloned()).chain(error).collect::<Vec<_>>().join(", ")
}
