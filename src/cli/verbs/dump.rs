//! `pgkeep dump`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use pgkeep::command::drop_in::DropIn;
use pgkeep::command::dump::{
    self, Check, Compress, FileItem, Item, Options, Output, Preview, PreviewedPlace, WantedGlobals,
};
use pgkeep::command::{Context, Copy, Outcome};
use pgkeep::config::directories;
use pgkeep::error::{Error, Result};
use pgkeep::repo::{GlobalsIncluded, NewLineage};

use crate::cli::arguments::{CheckLevel, DumpArgs};
use crate::cli::log_file;
use crate::cli::output::{self, bytes, harmless};
use crate::cli::run::Screen;
use crate::cli::verbs::Request;

pub async fn dump(screen: &mut Screen, context: &Context, request: &Request, args: DumpArgs) -> ExitCode {
    let options = match options(context, request, &args) {
        Ok(options) => options,
        Err(error) => return screen.fail(&error),
    };
    if let Some(path) = &args.to_file {
        return to_file(screen, context, request, options, path, args.compress).await;
    }
    if args.dry_run {
        return match dump::plan(context, &options).await {
            Ok(plan) => {
                let previews = dump::preview(context, &options, &plan).await;
                screen.finish(&Outcome::of(previews, plan.warnings), previews_text)
            }
            Err(error) => screen.fail(&error),
        };
    }
    let done = match &request.drop_in {
        Some(drop_in) => drop_in.dump(context, &options).await,
        None => dump::run(context, &options).await,
    };
    log_file::end(&done);
    match done {
        Ok(outcome) => {
            if !request.common.quiet {
                outcome.items.iter().for_each(warn);
            }
            screen.finish(&outcome, text)
        }
        Err(error) => screen.fail(&error),
    }
}

/// A run by the env file that failed before it could begin. Whoever reads the reports is told of it, too.
pub async fn report_unbegun(drop_in: &DropIn, begun: DateTime<Utc>, error: &Error) {
    drop_in.report_unbegun(&directories::host(), begun, error).await;
}

fn options(context: &Context, request: &Request, args: &DumpArgs) -> Result<Options> {
    let drop_in = request.drop_in.as_ref();
    if drop_in.is_some() {
        refuse_contradictions(args)?;
    }
    let globals = drop_in.map_or(WantedGlobals::Include, DropIn::globals);
    Ok(Options {
        instance: super::instance(request)?,
        repositories: if args.to_file.is_some() { Vec::new() } else { super::repositories(request)? },
        connection: super::source_flags(request, &args.connection),
        connect_retry: args.connection.connect_retry,
        databases: super::databases(request, args.all, args.dbname.clone()),
        clients: super::clients(context, &args.connection),
        compress: args.compress.or(drop_in.map(DropIn::compress)).unwrap_or(Compress::Zstd { level: 3 }),
        threads: super::threads(args.threads),
        split: args.split,
        extra_options: drop_in.map(|drop_in| drop_in.env_file().extra_options.clone()).unwrap_or_default(),
        check: args.check.map(|level| match level {
            CheckLevel::Decode => Check::Decode,
            CheckLevel::ReadBack => Check::ReadBack,
        }),
        globals: if args.no_globals { WantedGlobals::LeaveOut } else { globals },
        lock_wait: args.lock_wait,
        lineage: if args.new_lineage { NewLineage::Allowed } else { NewLineage::Refused },
    })
}

async fn to_file(
    screen: &mut Screen,
    context: &Context,
    request: &Request,
    options: Options,
    path: &Path,
    compress: Option<Compress>,
) -> ExitCode {
    let done = async {
        let to_stdout = path == Path::new("-");
        refuse_output(to_stdout, request.common.json)?;
        let compress = match compress {
            // Of what goes through a pipe nobody keeps the size; a file gets what pg_dump gives it by itself.
            None => Compress::ByPgDump { level: if to_stdout { 0 } else { 6 } },
            Some(Compress::Zstd { .. }) => {
                return Err(Error::usage("--compress zstd and --to-file do not go together")
                    .hint("gzip:LEVEL compresses inside the archive; --to-file - | zstd around it"));
            }
            Some(by_pg_dump) => by_pg_dump,
        };
        let output =
            if to_stdout { Output::Stream(Box::new(std::io::stdout())) } else { Output::Path(path.to_owned()) };
        dump::to_file(context, &Options { compress, ..options }, output).await
    };
    match done.await {
        Ok(outcome) => {
            if !request.common.quiet {
                let warnings = outcome.items.iter().flat_map(|item| &item.warnings);
                warnings.for_each(|warning| output::warn(warning));
            }
            screen.finish(&outcome, file_text)
        }
        Err(error) => screen.fail(&error),
    }
}

fn refuse_output(to_stdout: bool, json: bool) -> Result<()> {
    if to_stdout && json {
        let what = "--to-file - writes the archive to standard output, where --json writes its document";
        return Err(Error::usage(what).hint("leave --json out, or name a file"));
    }
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(Error::usage("standard output is a terminal, and an archive is no text").hint(
            "send it to a program or a file: pgkeep dump -d shop --to-file - | pgkeep restore dump --from-file - …",
        ));
    }
    Ok(())
}

/// Standard output holds the archive where no file is named.
fn file_text(outcome: &Outcome<FileItem>) -> String {
    let text = |item: &FileItem| {
        let (file, size) = (item.file.as_ref()?, item.plain_bytes?);
        let (file, size) = (harmless(&file.to_string_lossy()), bytes(size));
        Some(format!("{}: {size} of archive in {file} in {:.1} s", harmless(&item.database), item.duration_seconds))
    };
    outcome.items.iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

/// The env file has one form of dump: what others read them with opens no other.
fn refuse_contradictions(args: &DumpArgs) -> Result<()> {
    let hint = match (args.compress, args.split) {
        (Some(_), _) => "leave --compress out: pg_dump compresses with -Z 9, and PG_DUMP_EXTRA_OPTS=\"-Z 6\" lowers it",
        (None, Some(_)) => "leave --split out: the dump is one file, as the script made it",
        (None, None) => return Ok(()),
    };
    Err(Error::usage("the dumps of BACKUP_ENV_FILE have one form").hint(hint))
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
