//! `pgkeep restore dump`.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;
use std::process::ExitCode;

use pgkeep::command::instance::Instance;
use pgkeep::command::restore::dump::{
    self, Analyze, Atomicity, Existing, Item, Loaded, OnError, Options, Origin, Ownership, Part, Passwords, Plan,
    Preview, Privileges, Selected, Server, Sessions, Source, Subject, UseList,
};
use pgkeep::command::{Context, Outcome};
use pgkeep::error::{Doing as _, Error, Kind, Result};
use pgkeep::repo::Which;

use crate::cli::arguments::{self, RestoreDumpArgs, RestoreVerb};
use crate::cli::output::{bytes, harmless, time};
use crate::cli::run::Screen;
use crate::cli::verbs::{Request, instance};

pub async fn restore(screen: &mut Screen, context: &Context, request: &Request, verb: RestoreVerb) -> ExitCode {
    let RestoreVerb::Dump(args) = verb;
    let done = match (&args.to_file, &args.from_file) {
        (Some(path), _) => archive(screen, context, request, &args, path).await,
        _ if args.part.list => list(screen, context, request, &args).await,
        (None, Some(path)) => file(screen, context, request, &args, &Origin::of(path)).await,
        (None, None) => database(screen, context, request, &args).await,
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

fn options(
    context: &Context,
    request: &Request,
    args: &RestoreDumpArgs,
    target: &Instance,
    part: Part,
) -> Result<Options> {
    let options = Options {
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
        passwords: if args.roles.no_role_passwords { Passwords::LeaveOut } else { Passwords::Keep },
        on_error: if args.keep_going { OnError::GoOn } else { OnError::Stop },
        scratch: args.scratch.clone().unwrap_or_else(|| context.scratch()),
        threads: super::threads(None),
        part,
        ownership: if args.roles.no_owner { Ownership::OfRestorer } else { Ownership::AsDumped },
        privileges: if args.roles.no_privileges { Privileges::LeaveOut } else { Privileges::AsDumped },
        role_map: dump::parse_role_map(&args.roles.role_map)?,
        existing: existing(args),
        atomicity: match args.existing.single_transaction {
            true => Atomicity::OneTransaction,
            false => Atomicity::ByTarget,
        },
        log: args.log.clone(),
    };
    options.check()?;
    Ok(options)
}

fn existing(args: &RestoreDumpArgs) -> Existing {
    let wanted = &args.existing;
    match (wanted.clean, wanted.into_existing, wanted.replace) {
        (true, ..) => Existing::Clean,
        (_, true, _) => Existing::Add,
        (.., true) if wanted.disconnect => Existing::Replace(Sessions::End),
        (.., true) => Existing::Replace(Sessions::Respect),
        _ => Existing::Refuse,
    }
}

fn part(args: &RestoreDumpArgs) -> Result<Part> {
    let use_list = args.part.use_list.as_deref().map(|path| use_list(path, args)).transpose()?;
    Ok(Part { schemas: args.part.schema.clone(), tables: args.part.table.clone(), use_list })
}

fn use_list(path: &Path, args: &RestoreDumpArgs) -> Result<UseList> {
    let is_stdin = path == Path::new("-");
    if is_stdin && args.from_file.as_deref() == Some(path) {
        return Err(Error::usage("--use-list - and --from-file - do not go together")
            .hint("standard input is one of the two: name a file for the other"));
    }
    let mut text = String::new();
    let read = match is_stdin {
        true => std::io::stdin().lock().read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.doing(Kind::Usage, || format!("read the list {}", path.display()))?;
    UseList::parse(&text).doing(Kind::Usage, || format!("read the list {}", path.display()))
}

async fn list(screen: &mut Screen, context: &Context, request: &Request, args: &RestoreDumpArgs) -> Result<ExitCode> {
    if request.common.json {
        return Err(Error::usage("--list prints a list to edit, which is no JSON").hint("leave --json out"));
    }
    refuse_terminal(args)?;
    let part = part(args)?;
    let front = match &args.from_file {
        Some(path) => dump::contents_of(context, &Origin::of(path)).await?,
        None => {
            let source = source(request, args)?;
            let selected = dump::select(context, &source).await?;
            dump::contents(context, &source, &selected).await?
        }
    };
    let (list, warnings) = dump::list(&front, &part)?;
    Ok(screen.finish(&Outcome::<()> { items: vec![], warnings, error: None }, |_| list.trim_end().to_owned()))
}

async fn database(
    screen: &mut Screen,
    context: &Context,
    request: &Request,
    args: &RestoreDumpArgs,
) -> Result<ExitCode> {
    // What contradicts itself needs no repository to be refused.
    let part = part(args)?;
    options(context, request, args, &anywhere()?, part.clone())?;
    let selected = dump::select(context, &source(request, args)?).await?;
    let target = target(request, args, &selected)?;
    let mut options = options(context, request, args, &target, part)?;
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
        let items = vec![plan.preview(options, &selected.sources.names())?];
        return Ok(screen.finish(&Outcome { items, warnings, error: None }, preview_text));
    }
    if let Ok(plan) = &planned {
        screen.announce(&announcement(&described(selected), plan));
    }
    let outcome = dump::execute(context, options, selected, planned).await?;
    Ok(screen.finish(&outcome, text))
}

async fn file(
    screen: &mut Screen,
    context: &Context,
    request: &Request,
    args: &RestoreDumpArgs,
    origin: &Origin,
) -> Result<ExitCode> {
    refuse_terminal(args)?;
    let target = match &args.to_instance {
        Some(typed) => instance::by_name(request, "--to-instance", typed)?,
        None => anywhere()?,
    };
    let mut options = options(context, request, args, &target, part(args)?)?;
    let (subject, loaded) = dump::load(context, &options, origin).await?;
    let reached = target.reach(context, options.server.connect_retry).await?;
    if args.to_instance.is_some() {
        options.server.connection.instance = reached.server.clone();
    }
    let done = file_to_server(screen, &reached.context, args, &options, subject, loaded).await;
    reached.leave().await;
    done
}

async fn file_to_server(
    screen: &Screen,
    context: &Context,
    args: &RestoreDumpArgs,
    options: &Options,
    subject: Subject,
    loaded: Loaded,
) -> Result<ExitCode> {
    let planned = dump::plan_of(context, options, subject).await;
    if args.dry_run {
        let plan = planned?;
        let items = vec![plan.preview(options, &[])?];
        return Ok(screen.finish(&Outcome { items, warnings: plan.warnings, error: None }, preview_text));
    }
    if let Ok(plan) = &planned {
        let subject = &plan.subject;
        let of = subject.database.as_ref().map_or(String::new(), |name| format!("database {name:?}, "));
        let what = format!("{} ({of}{}, {})", subject.name, subject.form.called(), bytes(subject.plain_bytes));
        screen.announce(&announcement(&what, plan));
    }
    let outcome = dump::execute_file(context, options, loaded, planned).await?;
    Ok(screen.finish(&outcome, text))
}

/// A server that no configuration tells of.
fn anywhere() -> Result<Instance> {
    Ok(Instance::unconfigured("main".parse().doing(Kind::Unexpected, || "name an instance")?))
}

fn refuse_terminal(args: &RestoreDumpArgs) -> Result<()> {
    if args.from_file.as_deref() == Some(Path::new("-")) && std::io::stdin().is_terminal() {
        return Err(Error::usage("standard input is a terminal, and no dump comes from it")
            .hint("let a program write it: pgkeep dump -d shop --to-file - | pgkeep restore dump --from-file - …"));
    }
    Ok(())
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

fn announcement(what: &str, plan: &Plan) -> String {
    let (address, role) = (plan.target.address(), plan.target.user());
    format!("restoring {what} to {address} database {:?} as {role:?}", plan.into)
}

fn called(item: &Item) -> String {
    let id = item.id.as_ref().map(ToString::to_string);
    harmless(&id.or_else(|| item.from_file.clone()).unwrap_or_default())
}

fn text(outcome: &Outcome<Item>) -> String {
    outcome.items.iter().filter(|item| item.into.is_some() || item.file.is_some()).map(item_text).collect()
}

fn item_text(item: &Item) -> String {
    let seconds = item.duration_seconds;
    if let Some(file) = &item.file {
        let written = if item.error.is_none() { "is in" } else { "was not written to" };
        return format!(
            "the archive of {} {written} {} ({seconds:.1} s)",
            called(item),
            harmless(&file.to_string_lossy())
        );
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
    let swapped = item.replaced.as_ref().map_or(String::new(), |before| {
        let name = harmless(&pgkeep::pg::ident::quote_ident(before));
        format!("\n  the database that was there is {name} now; when it is not needed any more: DROP DATABASE {name};")
    });
    format!("{}: {done} to {server} database {into:?} in {seconds:.1} s{roles}{}", called(item), swapped)
}

fn preview_text(outcome: &Outcome<Preview>) -> String {
    let text = |preview: &Preview| {
        let id = preview.id.as_ref().map(ToString::to_string);
        let size = bytes(preview.plain_bytes);
        let of = preview.database.as_ref().map_or(String::new(), |name| format!(" of database {name:?}"));
        let head = format!(
            "would restore {}{of} to {} database {:?} as {:?}\nwith the clients of PostgreSQL {}\n{}\n",
            harmless(&id.or_else(|| preview.from_file.clone()).unwrap_or_default()),
            preview.server,
            preview.into,
            preview.role,
            preview.client,
            match preview.id {
                Some(_) => format!("{size} of archive, decoded in {}", preview.scratch.display()),
                None => format!("{size} of archive"),
            },
        );
        // Statements and calls have names of the server in them, as they are.
        preview.steps.iter().fold(head, |text, step| text + "  " + &harmless(step) + "\n")
    };
    outcome.items.iter().map(text).collect()
}
