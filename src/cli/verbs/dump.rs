//! `pgkeep dump`.

use std::process::ExitCode;

use pgkeep::command::databases::Databases;
use pgkeep::command::dump::{self, Check, Item, Options, Preview, PreviewedPlace, WantedGlobals};
use pgkeep::command::{Context, Copy, Outcome};
use pgkeep::config::env_file::ExtraOptions;
use pgkeep::error::{Error, Result};
use pgkeep::repo::{GlobalsIncluded, NewLineage};

use crate::cli::arguments::{CheckLevel, DumpArgs};
use crate::cli::output::{self, bytes, harmless};
use crate::cli::run::Screen;
use crate::cli::verbs::Request;

pub async fn dump(screen: &mut Screen, context: &Context, request: &Request, args: DumpArgs) -> ExitCode {
    let options = match options(context, request, &args) {
        Ok(options) => options,
        Err(error) => return screen.fail(&error),
    };
    let plan = match dump::plan(context, &options).await {
        Ok(plan) => plan,
        Err(error) => {
            if !args.dry_run {
                dump::record_unplanned(context, &options, &error).await;
            }
            return screen.fail(&error);
        }
    };
    if args.dry_run {
        let previews = dump::preview(context, &options, &plan).await;
        return screen.finish(&Outcome::of(previews, plan.warnings), previews_text);
    }
    match dump::execute(context, &options, plan).await {
        Ok(outcome) => {
            if !request.common.quiet {
                outcome.items.iter().for_each(warn);
            }
            screen.finish(&outcome, text)
        }
        Err(error) => screen.fail(&error),
    }
}

fn options(context: &Context, request: &Request, args: &DumpArgs) -> Result<Options> {
    Ok(Options {
        instance: super::instance(request)?,
        repositories: super::repositories(request)?,
        connection: super::flags(&args.connection),
        connect_retry: args.connection.connect_retry,
        databases: if args.all { Databases::All } else { Databases::Named(args.dbname.clone()) },
        clients: super::clients(context, &args.connection),
        compress: args.compress,
        threads: super::threads(args.threads),
        split: args.split,
        extra_options: ExtraOptions::default(),
        check: args.check.map(|level| match level {
            CheckLevel::Decode => Check::Decode,
            CheckLevel::ReadBack => Check::ReadBack,
        }),
        globals: if args.no_globals { WantedGlobals::LeaveOut } else { WantedGlobals::Include },
        lock_wait: args.lock_wait,
        lineage: if args.new_lineage { NewLineage::Allowed } else { NewLineage::Refused },
    })
}

fn warn(item: &Item) {
    item.warnings.iter().for_each(|warning| output::warn(&format!("{}: {warning}", item.database)));
}

fn text(outcome: &Outcome<Item>) -> String {
    // The error of a command counts failures; what to do about each of several stands with the item.
    let several = outcome.items.len() > 1;
    let text = |item: &Item| match item.error.as_ref().and_then(Error::next_step) {
        Some(hint) if several => format!("{}\n  hint: {}", item_text(item), harmless(hint)),
        _ => item_text(item),
    };
    outcome.items.iter().map(text).collect::<Vec<_>>().join("\n")
}

fn item_text(item: &Item) -> String {
    let (Some(id), Some(plain)) = (&item.id, item.plain_bytes) else {
        return format!("{}: not dumped (stage {})", harmless(&item.database), item.stage.unwrap_or("unknown"));
    };
    let stored = item.repositories.iter().find_map(|copy| copy.stored_bytes).unwrap_or_default();
    let proven = match item.checks {
        Some(checks) if checks.read_back => "decoded and read back",
        _ => "decoded",
    };
    let globals = match item.globals {
        Some(GlobalsIncluded::WithPasswords) => "with roles and passwords",
        Some(GlobalsIncluded::WithoutPasswords) => "with roles, without passwords",
        _ => "without roles",
    };
    let text = format!(
        "{id}\n  {} of archive, {} stored in {:.1} s; {proven}; {globals}",
        bytes(plain),
        bytes(stored),
        item.duration_seconds
    );
    if item.repositories.len() < 2 {
        return text;
    }
    item.repositories.iter().fold(text, |text, copy| text + "\n" + &copy_text(copy))
}

fn copy_text(copy: &Copy) -> String {
    match &copy.error {
        None => format!("  in {}", harmless(&copy.name)),
        Some(error) => format!("  not in {}: {}", harmless(&copy.name), harmless(&error.said_of(&copy.name))),
    }
}

fn previews_text(outcome: &Outcome<Preview>) -> String {
    outcome.items.iter().map(preview_text).collect::<Vec<_>>().join("\n")
}

fn place_text(place: &PreviewedPlace) -> String {
    let state = match (&place.error, place.exists, place.free_bytes) {
        (Some(_), ..) => "it would be left out".to_owned(),
        (None, false, _) => "it would be created".to_owned(),
        (None, true, Some(free)) => format!("{} free", bytes(free)),
        (None, true, None) => return place.name.clone(),
    };
    format!("{} ({state})", place.name)
}

fn preview_text(preview: &Preview) -> String {
    if preview.server.is_empty() {
        return format!("{}: cannot be dumped", harmless(&preview.database));
    }
    let head = format!(
        "would dump {} ({}, {} relations) of {}\nwith pg_dump {}\ninto instance {} of {}\n",
        harmless(&preview.database),
        bytes(preview.database_size_bytes),
        preview.relations,
        harmless(&preview.server),
        preview.client,
        preview.instance,
        preview.repositories.iter().map(place_text).collect::<Vec<_>>().join(" and "),
    );
    preview.steps.iter().fold(head, |text, step| text + "  " + &harmless(step) + "\n")
}
