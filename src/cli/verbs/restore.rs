//! `pgkeep restore dump`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use pgkeep::command::instance::Instance;
use pgkeep::command::restore::dump::{
    self, Analyze, Item, OnError, Options, Passwords, Plan, Preview, Selected, Server, Source,
};
use pgkeep::command::{Context, Outcome};
use pgkeep::error::{Error, Result};
use pgkeep::repo::Which;

use crate::cli::arguments::{self, RestoreDumpArgs, RestoreVerb};
use crate::cli::output::{bytes, harmless, time};
use crate::cli::run::Screen;
use crate::cli::verbs::{Request, instance};

pub async fn restore(screen: &mut Screen, context: &Context, request: &Request, verb: RestoreVerb) -> ExitCode {
    let RestoreVerb::Dump(args) = verb;
    let done = match &args.to_file {
        Some(path) => archive(screen, context, request, &args, path).await,
        None => database(screen, context, request, &args).await,
    };
    done.unwrap_or_else(|error| screen.fail(&error))
}

fn source(request: &Request, args: &RestoreDumpArgs) -> Result<Source> {
    Ok(Source {
        repositories: super::repositories(request)?,
        instance: instance::named(request)?,
        which: Which::from(args.id.as_str()),
        database: args.dbname.clone(),
        threads: super::threads(None),
    })
}

/// The instance whose server is restored to. What --to names is another server than the one that was backed up.
fn target(request: &Request, args: &RestoreDumpArgs, selected: &Selected) -> Result<Instance> {
    let dumped = &selected.manifest.instance;
    match (&args.to_instance, &args.to) {
        (Some(typed), _) => instance::by_name(request, "--to-instance", typed),
        (None, Some(_)) => Ok(Instance::unconfigured(dumped.clone())),
        (None, None) => {
            let own = instance::configured(request, dumped).cloned();
            Ok(own.unwrap_or_else(|| Instance::unconfigured(dumped.clone())))
        }
    }
}

fn options(context: &Context, request: &Request, args: &RestoreDumpArgs, target: &Instance) -> Options {
    Options {
        server: Server {
            to: args.to.clone(),
            connection: match args.to {
                Some(_) => super::flags(&args.connection),
                None => super::source_flags(request, &args.connection, target),
            },
            connect_retry: args.connection.connect_retry,
            clients: super::clients(context, &args.connection, target),
        },
        into: args.into.clone(),
        jobs: args.jobs,
        analyze: match args.analyze {
            arguments::Analyze::None => Analyze::No,
            arguments::Analyze::Stages => Analyze::Stages,
        },
        passwords: if args.no_role_passwords { Passwords::LeaveOut } else { Passwords::Keep },
        on_error: if args.keep_going { OnError::GoOn } else { OnError::Stop },
        scratch: args.scratch.clone().unwrap_or_else(|| context.scratch()),
        threads: super::threads(None),
    }
}

async fn database(
    screen: &mut Screen,
    context: &Context,
    request: &Request,
    args: &RestoreDumpArgs,
) -> Result<ExitCode> {
    let selected = dump::select(context, &source(request, args)?).await?;
    let target = target(request, args, &selected)?;
    let mut options = options(context, request, args, &target);
    let reached = match target.reach(context, options.server.connect_retry).await {
        Ok(reached) => reached,
        Err(error) if args.dry_run => return Err(error),
        Err(error) => {
            let outcome = dump::execute(context, &options, &selected, Err(error)).await?;
            return Ok(screen.finish(&outcome, text));
        }
    };
    if request.drop_in.is_none() && args.to.is_none() {
        options.server.connection.instance = reached.server.clone();
    }
    let done = to_server(screen, &reached.context, args, &options, &selected).await;
    reached.leave().await;
    done
}

async fn to_server(
    screen: &Screen,
    context: &Context,
    args: &RestoreDumpArgs,
    options: &Options,
    selected: &Selected,
) -> Result<ExitCode> {
    let planned = dump::plan(context, options, selected).await;
    if args.dry_run {
        let plan = planned?;
        let mut warnings = selected.warnings();
        warnings.extend(plan.warnings.iter().cloned());
        let items = vec![plan.preview(options, selected)?];
        return Ok(screen.finish(&Outcome { items, warnings, error: None }, preview_text));
    }
    if let Ok(plan) = &planned {
        screen.announce(&announcement(selected, plan));
    }
    let outcome = dump::execute(context, options, selected, planned).await?;
    Ok(screen.finish(&outcome, text))
}

async fn archive(
    screen: &mut Screen,
    context: &Context,
    request: &Request,
    args: &RestoreDumpArgs,
    path: &Path,
) -> Result<ExitCode> {
    let to_stdout = path == Path::new("-");
    if to_stdout && request.common.json {
        return Err(Error::usage(
            "--to-file - writes the archive to standard output, where --json writes its document",
        )
        .hint("leave --json out, or name a file"));
    }
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(Error::usage("standard output is a terminal, and an archive is no text")
            .hint("send it to a program or a file: pgkeep restore dump --to-file - … | pg_restore --list"));
    }
    let source = source(request, args)?;
    let selected = dump::select(context, &source).await?;
    let what = described(&selected);
    let place = if to_stdout { "standard output".to_owned() } else { path.display().to_string() };
    if args.dry_run {
        let text = format!("would write the archive of {what} to {place}");
        return Ok(
            screen.finish(&Outcome::<()> { items: vec![], warnings: selected.warnings(), error: None }, |_| text)
        );
    }
    screen.announce(&format!("writing the archive of {what} to {place}"));
    if to_stdout {
        let outcome = dump::to_stream(context, &source, &selected, std::io::stdout()).await?;
        return Ok(screen.finish(&outcome, |_| String::new()));
    }
    let outcome = dump::to_file(context, &source, &selected, path).await?;
    Ok(screen.finish(&outcome, text))
}

fn described(selected: &Selected) -> String {
    let manifest = &selected.manifest;
    let size = bytes(manifest.plain.size_bytes);
    let from = match selected.sources.names().as_slice() {
        [] | [_] => String::new(),
        [first, others @ ..] => format!(" from {first}, else from {}", others.join(", else from ")),
    };
    format!("{} (database {:?}, {}, {size}){from}", manifest.id, manifest.database, time(manifest.started_at))
}

fn announcement(selected: &Selected, plan: &Plan) -> String {
    let (address, role) = (plan.target.address(), plan.target.user());
    format!("restoring {} to {address} database {:?} as {role:?}", described(selected), plan.into)
}

fn text(outcome: &Outcome<Item>) -> String {
    outcome.items.iter().filter(|item| item.into.is_some() || item.file.is_some()).map(item_text).collect()
}

fn item_text(item: &Item) -> String {
    let seconds = item.duration_seconds;
    if let Some(file) = &item.file {
        let written = if item.error.is_none() { "is in" } else { "was not written to" };
        return format!("the archive of {} {written} {} ({seconds:.1} s)", item.id, harmless(&file.to_string_lossy()));
    }
    let (into, server) = (item.into.as_deref().unwrap_or_default(), item.server.as_deref().unwrap_or_default());
    let done = match &item.error {
        None => "restored".to_owned(),
        Some(error) if error.kind == pgkeep::error::Kind::Partial => "restored with errors".to_owned(),
        Some(_) => format!("not restored (stage {})", item.stage.unwrap_or("unknown")),
    };
    let roles = match item.roles_created.as_slice() {
        [] => String::new(),
        created => {
            let quoted: Vec<String> = created.iter().map(|role| format!("{role:?}")).collect();
            format!("\n  roles created: {}", quoted.join(", "))
        }
    };
    format!("{}: {done} to {server} database {into:?} in {seconds:.1} s{roles}", item.id)
}

fn preview_text(outcome: &Outcome<Preview>) -> String {
    let text = |preview: &Preview| {
        let head = format!(
            "would restore {} of database {:?} to {} database {:?} as {:?}\nwith pg_restore {}\n{} of archive decoded in {}\n",
            preview.id,
            preview.database,
            preview.server,
            preview.into,
            preview.role,
            preview.client,
            bytes(preview.plain_bytes),
            preview.scratch.display(),
        );
        // Statements and calls have names of the server in them, as they are.
        preview.steps.iter().fold(head, |text, step| text + "  " + &harmless(step) + "\n")
    };
    outcome.items.iter().map(text).collect()
}
