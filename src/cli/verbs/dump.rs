//! `pgkeep dump`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use pgkeep::command::drop_in::DropIn;
use pgkeep::command::dump::{
    self, Check, Choice, Compress, FileItem, Filter, Item, LockWait, Options, Output, Pin, Preview, PreviewedPlace,
    Replay, Switch, WantedGlobals,
};
use pgkeep::command::instance::{Instance, each};
use pgkeep::command::{Context, Copy, Outcome};
use pgkeep::config::directories;
use pgkeep::config::env_file::extra_options::{self, ExtraOptions};
use pgkeep::config::file::Method;
use pgkeep::error::{Error, Result};
use pgkeep::repo::{GlobalsIncluded, NewLineage};

use crate::cli::arguments::{CheckLevel, ChoiceArgs, DumpArgs};
use crate::cli::log_file;
use crate::cli::output::{self, bytes, harmless};
use crate::cli::run::Screen;
use crate::cli::verbs::{Request, instance};

pub async fn dump(screen: &mut Screen, context: &Context, request: &Request, args: DumpArgs) -> ExitCode {
    let done = run(screen, context, request, &args).await;
    done.unwrap_or_else(|error| screen.fail(&error))
}

async fn run(screen: &Screen, context: &Context, request: &Request, args: &DumpArgs) -> Result<ExitCode> {
    let work = Work { request, args };
    if let Some(path) = &args.to_file {
        return to_file(screen, context, work, path).await;
    }
    if args.dry_run {
        let outcome = work.over_instances(screen, context, async |call| call.preview().await, unseen).await?;
        return Ok(screen.finish(&outcome, previews_text));
    }
    let done = work.over_instances(screen, context, async |call| call.dump().await, unbegun).await;
    log_file::end(&done);
    let outcome = done?;
    if !request.common.quiet {
        outcome.items.iter().for_each(warn);
    }
    Ok(screen.finish(&outcome, text))
}

/// What was asked for.
#[derive(Clone, Copy)]
struct Work<'a> {
    request: &'a Request,
    args: &'a DumpArgs,
}

/// What is done for one instance, by a server that can be reached or not.
struct Call<'a> {
    context: &'a Context,
    drop_in: Option<&'a DropIn>,
    options: Options,
    reached: Result<&'a Context>,
}

impl Work<'_> {
    async fn over_instances<I: pgkeep::command::Item>(
        self,
        screen: &Screen,
        context: &Context,
        work: impl AsyncFn(Call<'_>) -> Result<Outcome<I>>,
        failed: impl Fn(&Instance, Error) -> Vec<I>,
    ) -> Result<Outcome<I>> {
        if !self.args.all_instances {
            let instance = instance::one(self.request)?;
            instance.expect_method(Method::Dump)?;
            return self.with(context, &instance, work).await;
        }
        let instances = instance::all(screen, self.request, Method::Dump)?;
        let context = instance::surroundings(context);
        let with = async |instance: &Instance| {
            instance.expect_server()?;
            self.with(&context, instance, &work).await
        };
        Ok(each(&context, &instances, with, failed).await)
    }

    /// Works while the tunnel of the instance stands, if it has one.
    async fn with<I>(
        self,
        context: &Context,
        instance: &Instance,
        work: impl AsyncFn(Call<'_>) -> Result<Outcome<I>>,
    ) -> Result<Outcome<I>> {
        let mut options = options(context, self.request, self.args, instance)?;
        if self.args.all_instances {
            instance.expect_databases(&options.databases, &options.connection, context)?;
        }
        let drop_in = self.request.drop_in.as_ref();
        let reached = match instance.reach(context, options.connect_retry).await {
            Ok(reached) => reached,
            Err(error) => return work(Call { context, drop_in, options, reached: Err(error) }).await,
        };
        if drop_in.is_none() {
            options.connection.instance = reached.server.clone();
        }
        let done = work(Call { context, drop_in, options, reached: Ok(&reached.context) }).await;
        reached.leave().await;
        done
    }
}

impl Call<'_> {
    async fn dump(self) -> Result<Outcome<Item>> {
        match (self.reached, self.drop_in) {
            (Ok(context), Some(drop_in)) => drop_in.dump(context, &self.options).await,
            (Ok(context), None) => dump::run(context, &self.options).await,
            (Err(error), _) => {
                dump::record_unplanned(self.context, &self.options, &error).await;
                Err(error)
            }
        }
    }

    async fn preview(self) -> Result<Outcome<Preview>> {
        let context = self.reached?;
        let plan = dump::plan(context, &self.options).await?;
        let previews = dump::preview(context, &self.options, &plan).await;
        Ok(Outcome::of(previews, plan.warnings))
    }
}

/// The items of one of several instances that did not come to its databases: each that is known by name.
fn unbegun(instance: &Instance, error: Error) -> Vec<Item> {
    names(instance).map(|name| Item::unbegun(&instance.name, name, error.repeated())).collect()
}

fn unseen(instance: &Instance, error: Error) -> Vec<Preview> {
    names(instance).map(|name| Preview::unseen(&instance.name, name, error.repeated())).collect()
}

fn names(instance: &Instance) -> impl Iterator<Item = &str> {
    let names = instance.database_names();
    let unknown = names.is_empty().then_some("");
    names.iter().map(String::as_str).chain(unknown)
}

/// A run by the env file that failed before it could begin. Whoever reads the reports is told of it, too.
pub async fn report_unbegun(drop_in: &DropIn, begun: DateTime<Utc>, error: &Error) {
    drop_in.report_unbegun(&directories::host(), begun, error).await;
}

fn options(context: &Context, request: &Request, args: &DumpArgs, instance: &Instance) -> Result<Options> {
    let drop_in = request.drop_in.as_ref();
    if drop_in.is_some() {
        refuse_contradictions(args)?;
    }
    let globals = drop_in.map_or(WantedGlobals::Include, DropIn::globals);
    Ok(Options {
        instance: instance.name.clone(),
        repositories: match args.to_file {
            Some(_) => Vec::new(),
            None => instance::repositories(request, instance)?,
        },
        connection: super::source_flags(request, &args.connection, instance),
        connect_retry: args.connection.connect_retry,
        databases: super::databases(request, args.all, args.dbname.clone(), instance),
        clients: super::clients(context, &args.connection, instance),
        format: args.format.unwrap_or_default(),
        jobs: args.jobs,
        compress: args.compress.or(drop_in.map(DropIn::compress)).unwrap_or(Compress::Zstd { level: 3 }),
        threads: super::threads(args.threads),
        split: args.split,
        filter: filter(request, &args.choice)?,
        pin: Pin { label: args.pin.label.clone(), keep: args.pin.keep },
        check: args.check.map(|level| match level {
            CheckLevel::Decode => Check::Decode,
            CheckLevel::ReadBack => Check::ReadBack,
        }),
        globals: if args.no_globals { WantedGlobals::LeaveOut } else { globals },
        lock_wait: LockWait { limit: args.lock_wait, retries: args.lock_retry },
        lineage: if args.new_lineage { NewLineage::Allowed } else { NewLineage::Refused },
        replay: if args.no_pause_replay { Replay::LeaveAlone } else { Replay::Pause },
    })
}

/// What was typed; by the env file what stands there.
fn filter(request: &Request, args: &ChoiceArgs) -> Result<Filter> {
    let switches = [
        (args.data_only, Switch::DataOnly),
        (args.schema_only, Switch::SchemaOnly),
        (args.no_privileges, Switch::NoPrivileges),
        (args.no_large_objects, Switch::NoLargeObjects),
        (args.large_objects, Switch::LargeObjects),
        (args.inserts, Switch::Inserts),
        (args.column_inserts, Switch::ColumnInserts),
    ];
    let choice = Choice {
        schemas: args.schema.clone(),
        exclude_schemas: args.exclude_schema.clone(),
        tables: args.table.clone(),
        exclude_tables: args.exclude_table.clone(),
        exclude_table_data: args.exclude_table_data.clone(),
        switches: switches.into_iter().filter_map(|(given, switch)| given.then_some(switch)).collect(),
    };
    let Some(drop_in) = &request.drop_in else {
        return Filter::new(&choice, &extra_options(&args.extra_opts)?);
    };
    if choice != Choice::default() || !args.extra_opts.is_empty() {
        return Err(Error::usage("what the dumps of BACKUP_ENV_FILE hold is said there").hint(
            "write the option into PG_DUMP_EXTRA_OPTS, or name a repository with --repo: then the file is not used",
        ));
    }
    Filter::new(&choice, &drop_in.env_file().extra_options)
}

/// Each is complete in itself.
fn extra_options(typed: &[String]) -> Result<ExtraOptions> {
    let mut options = ExtraOptions::default();
    for text in typed {
        let more = extra_options::parse(text, extra_options::Place::CommandLine)
            .map_err(|objection| Error::usage(format!("--extra-opts: {}", objection.what)).hint(objection.instead))?;
        options.words.extend(more.words);
        options.choosing.extend(more.choosing);
    }
    Ok(options)
}

async fn to_file(screen: &Screen, context: &Context, work: Work<'_>, path: &Path) -> Result<ExitCode> {
    let to_stdout = path == Path::new("-");
    refuse_output(to_stdout, work.request.common.json)?;
    let compress = match work.args.compress {
        // Of what goes through a pipe nobody keeps the size; a file gets what pg_dump gives it by itself.
        None => Compress::ByPgDump { level: if to_stdout { 0 } else { 6 } },
        Some(Compress::Zstd { .. }) => {
            return Err(Error::usage("--compress zstd and --to-file do not go together")
                .hint("gzip:LEVEL compresses inside the archive; --to-file - | zstd around it"));
        }
        Some(by_pg_dump) => by_pg_dump,
    };
    let instance = instance::one(work.request)?;
    let dump = async |call: Call<'_>| {
        let context = call.reached?;
        let output =
            if to_stdout { Output::Stream(Box::new(std::io::stdout())) } else { Output::Path(path.to_owned()) };
        dump::to_file(context, &Options { compress, ..call.options }, output).await
    };
    let outcome = work.with(context, &instance, dump).await?;
    if !work.request.common.quiet {
        let warnings = outcome.items.iter().flat_map(|item| &item.warnings);
        warnings.for_each(|warning| output::warn(warning));
    }
    Ok(screen.finish(&outcome, file_text))
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
    if args.format.is_some() || args.jobs.is_some() {
        return Err(Error::usage("the dumps of BACKUP_ENV_FILE have one form")
            .hint("leave --format and --jobs out, or name a repository with --repo: then the file is not used"));
    }
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
    let heads = instance_heads(outcome.items.iter().map(|item| item.instance.as_str()));
    outcome.items.iter().zip(heads).map(|(item, head)| head + &text(item)).collect::<Vec<_>>().join("\n")
}

/// The line above the first item of each instance, where there are several.
fn instance_heads<'a>(instances: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let mut before = None;
    let is_one = instances.clone().collect::<std::collections::BTreeSet<_>>().len() < 2;
    let head = |instance: &'a str| match before.replace(instance) {
        _ if is_one => String::new(),
        Some(same) if same == instance => String::new(),
        _ => format!("instance {instance}:\n"),
    };
    instances.map(head).collect()
}

fn item_text(item: &Item) -> String {
    let (Some(id), Some(plain)) = (&item.id, item.plain_bytes) else {
        let what = if item.database.is_empty() { item.instance.as_str() } else { &item.database };
        return format!("{}: not dumped (stage {})", harmless(what), item.stage.unwrap_or("unknown"));
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
    let text = match &item.filter {
        Some(choice) => format!("{text}\n  a choice of the database ({choice}), which does not count as its backup"),
        None => text,
    };
    let text = match item.replay_paused_seconds {
        Some(seconds) => format!("{text}\n  replay on the standby stood still for {seconds:.1} s"),
        None => text,
    };
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
    let heads = instance_heads(outcome.items.iter().map(|item| item.instance.as_str()));
    outcome.items.iter().zip(heads).map(|(item, head)| head + &preview_text(item)).collect::<Vec<_>>().join("\n")
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
        let what = if preview.database.is_empty() { &preview.instance } else { &preview.database };
        return format!("{}: cannot be dumped", harmless(what));
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
