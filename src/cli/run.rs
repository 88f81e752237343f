//! From typed words to an exit code: options, the command, its outcome, what is printed.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{CommandFactory as _, FromArgMatches as _};
use clap_complete::CompleteEnv;
use futures_util::future::join_all;
use pgkeep::clock::{Clock as _, SystemClock};
use pgkeep::command::drop_in::DropIn;
use pgkeep::command::{Context, Outcome, Place};
use pgkeep::config::directories;
use pgkeep::config::environment::Environment;
use pgkeep::config::load::{Flags, load};
use pgkeep::error::{Doing as _, Error, Kind, Result};
use pgkeep::interrupt::Interrupt;
use pgkeep::repo::{DumpStem, Ending, InstanceName, ObjectName, StateDirectory, StoredName};
use pgkeep::storage::{Access, Missing, ObjectMeta, Patience, Prefix};
use serde::Serialize;
use tracing_subscriber::fmt::time::ChronoUtc;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use super::arguments::{Cli, Common, RestoreVerb, Verb, Work};
use super::log_file::{self, LogFile};
use super::output::{self, Told};
use super::verbs::Request;
use super::{passphrase, progress, signals, usage, verbs};

/// The variable by which a shell asks for completions.
const COMPLETE: &str = "PGKEEP_COMPLETE";
/// What a command that was asked to stop may take for that; most supervisors kill after 30 s or more.
const TO_CLEAN_UP: Duration = Duration::from_secs(10);

pub fn main() -> ExitCode {
    // Completions ask repositories, with keys in memory.
    harden();
    CompleteEnv::with_factory(Cli::command).var(COMPLETE).bin("pgkeep").completer("pgkeep").complete();
    let words: Vec<_> = std::env::args_os().collect();
    let cli = match parse(&words) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let (json, command, started_at) = (cli.common.json, name_of(&cli.verb), SystemClock.now());
    let exit = std::panic::catch_unwind(|| start(cli));
    exit.unwrap_or_else(|_| {
        let error = Error::new(Kind::Unexpected, "come to an end: pgkeep has a defect, which standard error tells of")
            .hint("report it; nothing counts as stored that was not reported as stored");
        refuse(json, &Told { command, started_at, duration_seconds: 0.0 }, &error)
    })
}

/// The end of a command that did not begin.
fn refuse(json: bool, told: &Told<'_>, error: &Error) -> ExitCode {
    if json {
        told.refusal(error);
    }
    output::complain(told.command, error);
    ExitCode::from(error.kind.exit_code())
}

/// Nothing we write is readable by others, and no core dump holds what was in memory.
fn harden() {
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // A host that forbids it has forbidden core dumps in its own way.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// The typed tree, or the exit code of what has already been printed.
fn parse(words: &[std::ffi::OsString]) -> std::result::Result<Cli, ExitCode> {
    let started_at = SystemClock.now();
    Cli::command().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| {
        let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let wants_json = words.iter().any(|word| word == "--json");
        if wants_json && error.use_stderr() {
            let command = usage::command_of(&words);
            let error = usage::error_of(&error, &command, &words);
            Told { command: &command, started_at, duration_seconds: 0.0 }.refusal(&error);
            return ExitCode::from(Kind::Usage.exit_code());
        }
        usage::print(&error, &words);
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })
}

fn start(cli: Cli) -> ExitCode {
    match cli.verb {
        Verb::Completions { shell } => finish_plain("print completions", completions(&shell)),
        Verb::Man => finish_plain("print the manual page", manual()),
        Verb::Work(work) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            match runtime {
                Ok(runtime) => {
                    let code = runtime.block_on(command(cli.common, *work));
                    passphrase::give_back_terminal();
                    // A blocking read of a store that hangs must not keep the process.
                    runtime.shutdown_background();
                    code
                }
                Err(error) => {
                    let told =
                        Told { command: name_of_work(&work), started_at: SystemClock.now(), duration_seconds: 0.0 };
                    let error = Error::new(Kind::Unexpected, "start the threads of pgkeep").because(error);
                    refuse(cli.common.json, &told, &error.hint("raise the limits of this process (ulimit -a)"))
                }
            }
        }
    }
}

fn finish_plain(action: &str, done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(action, &error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

/// One command, from its options to its exit code.
async fn command(common: Common, work: Work) -> ExitCode {
    let clock = SystemClock;
    let (started_at, stopwatch) = (clock.now(), Instant::now());
    let mut screen =
        Screen { json: common.json, quiet: common.quiet, command: name_of_work(&work), started_at, stopwatch };
    let environment = Environment::of_process();
    let request = match request(common, &environment, &screen) {
        Ok(request) => request,
        Err(error) => return screen.fail(&error),
    };
    let is_dump = matches!(&work, Work::Dump(args) if !args.dry_run);
    let context = match context(&request, environment, &screen, is_dump) {
        Ok(context) => context,
        Err(error) => {
            if let Some(drop_in) = request.drop_in.as_ref().filter(|_| is_dump) {
                log_file::failed(&error);
                verbs::report_unbegun(drop_in, started_at, &error).await;
            }
            return screen.fail(&error);
        }
    };
    // Half of a restored database is not left for somebody else to remove, however long that takes.
    let is_bounded = !matches!(work, Work::Restore(_));
    let ended = tokio::select! {
        code = perform(&mut screen, &context, &request, work) => Some(code),
        () = overdue(&context.interrupt), if is_bounded => None,
    };
    let left = "the store did not answer in time; what is left there is removed by the next run";
    let Some(code) = ended else {
        let error = context.interrupt.error().hint(left);
        if let Some(drop_in) = request.drop_in.as_ref().filter(|_| is_dump) {
            log_file::failed(&error);
            verbs::report_unbegun(drop_in, started_at, &error).await;
        }
        return screen.fail(&error);
    };
    code
}

async fn perform(screen: &mut Screen, context: &Context, request: &Request, work: Work) -> ExitCode {
    match work {
        Work::Dump(args) => verbs::dump(screen, context, request, args).await,
        Work::Restore(verb) => verbs::restore(screen, context, request, verb).await,
        Work::Verify(args) => verbs::verify(screen, context, request, args).await,
        Work::Copy(args) => verbs::copy(screen, context, request, args).await,
        Work::Prune(args) => verbs::prune(screen, context, request, args).await,
        Work::Report(args) => verbs::report(screen, context, request, args).await,
        Work::Check(args) => verbs::check(screen, context, request, args).await,
    }
}

/// Ends when a command that was asked to stop has had its time to clean up. A store that stands still would be waited
/// for with all our patience otherwise; it is as if the process were killed, which loses nothing.
async fn overdue(interrupt: &Interrupt) {
    interrupt.requested().await;
    tokio::time::sleep(TO_CLEAN_UP).await;
}

fn name_of(verb: &Verb) -> &'static str {
    match verb {
        Verb::Work(work) => name_of_work(work),
        Verb::Completions { .. } => "completions",
        Verb::Man => "man",
    }
}

fn name_of_work(work: &Work) -> &'static str {
    match work {
        Work::Dump(_) => "dump",
        Work::Restore(RestoreVerb::Dump(_)) => "restore dump",
        Work::Verify(_) => "verify",
        Work::Copy(_) => "copy",
        Work::Prune(_) => "prune",
        Work::Report(_) => "report",
        Work::Check(_) => "check",
    }
}

/// What was asked for, completed by the configuration in force.
fn request(common: Common, environment: &Environment, screen: &Screen) -> Result<Request> {
    let flags = Flags { config: common.config.clone(), repositories: common.repo.clone() };
    let configuration = load(&flags, environment)?;
    configuration.notices.iter().for_each(|notice| screen.notice(notice));
    Request::new(common, configuration, environment)
}

/// The surroundings of a command. The log of the env file is written by what the script did: dumps.
fn context(request: &Request, environment: Environment, screen: &Screen, is_dump: bool) -> Result<Context> {
    let interrupt = Interrupt::default();
    signals::listen(interrupt.clone()).doing(Kind::Unexpected, || "listen for signals")?;
    let common = &request.common;
    let how = if screen.shows_progress() { common.progress } else { super::arguments::Progress::None };
    let (monitor, bars) = progress::monitor(how, std::io::stderr().is_terminal());
    let env_file = request.drop_in.as_ref().map(DropIn::env_file);
    let clock = Arc::new(SystemClock);
    let opened = env_file.filter(|_| is_dump).map(|env_file| {
        LogFile::open(&env_file.directories.log, Arc::<SystemClock>::clone(&clock), env_file.secrets())
    });
    let (log_file, unopened) = match opened.transpose() {
        Ok(log_file) => (log_file, None),
        Err(error) => (None, Some(error)),
    };
    log(common, bars, log_file);
    if let Some(error) = unopened {
        return Err(error);
    }
    let environment = env_file.map_or(environment, |env_file| env_file.environment.clone());
    let state = StateDirectory::open(directories::state(&environment)?)?;
    let (host, patience) = (directories::host(), Patience::default());
    Ok(Context { clock, monitor, interrupt, environment, state, host, patience })
}

/// Log lines go to standard error, above the bars if there are any, and to the log file, if there is one.
fn log(common: &Common, bars: Option<indicatif::MultiProgress>, log_file: Option<LogFile>) {
    // What libraries warn of comes back as an error, in our words, or does not matter.
    let level = match (common.quiet, common.verbose) {
        (true, _) => "pgkeep=error",
        (false, 0) => "pgkeep=warn",
        (false, 1) => "pgkeep=info",
        (false, 2) => "pgkeep=debug,info",
        (false, _) => "trace",
    };
    let writer = move || output::AboveBars(bars.clone());
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        // It would say so with `eprintln!`, which panics where standard error is full or its reader is gone.
        .log_internal_errors(false)
        .with_timer(ChronoUtc::new("%Y-%m-%dT%H:%M:%SZ".to_owned()))
        .with_ansi(false)
        .with_target(false)
        .with_filter(EnvFilter::new(format!("{level},{}=off", log_file::TARGET)));
    let to_file = log_file.map(|log_file| log_file.with_filter(EnvFilter::new("pgkeep=info,warn")));
    // A second subscriber in one process is refused; the first one stands.
    let _ = tracing_subscriber::registry().with(to_stderr).with(to_file).try_init();
}

/// How the answer of a command reaches its caller.
pub struct Screen {
    json: bool,
    quiet: bool,
    command: &'static str,
    started_at: chrono::DateTime<chrono::Utc>,
    stopwatch: Instant,
}

impl Screen {
    fn shows_progress(&self) -> bool {
        !self.quiet
    }

    fn told(&self) -> Told<'_> {
        Told {
            command: self.command,
            started_at: self.started_at,
            duration_seconds: self.stopwatch.elapsed().as_secs_f64(),
        }
    }

    /// What its user should know before anything starts; with `--json`, too, since it is no part of the answer.
    pub fn notice(&self, notice: &str) {
        if !self.quiet {
            output::say(&output::harmless(notice));
        }
    }

    /// The command failed before it had items.
    pub fn fail(&self, error: &Error) -> ExitCode {
        if self.json {
            self.told().refusal(error);
        }
        output::complain(self.command, error);
        ExitCode::from(error.kind.exit_code())
    }

    /// The command came to its end: prints what it did, as text or as the document, and gives the exit code.
    pub fn finish<I: Serialize>(&self, outcome: &Outcome<I>, text: impl FnOnce(&Outcome<I>) -> String) -> ExitCode {
        let printed = if self.json {
            self.told().json(&outcome.items, &outcome.warnings, outcome.error.as_ref())
        } else {
            let text = text(outcome);
            let silent = self.quiet && outcome.error.is_none() && self.is_action();
            if text.is_empty() || silent { Ok(()) } else { output::print(&text) }
        };
        if !self.quiet {
            outcome.warnings.iter().for_each(|warning| output::warn(warning));
        }
        match (&outcome.error, printed) {
            (Some(error), _) => {
                output::complain(self.command, error);
                ExitCode::from(error.kind.exit_code())
            }
            // What was done is done and recorded; an answer that did not arrive is no answer.
            (None, Err(error)) if !self.is_action() => finish_plain(self.command, Err(unwritten(error))),
            (None, _) => ExitCode::SUCCESS,
        }
    }

    /// Commands that do something can be quiet about success; those that answer a question cannot.
    fn is_action(&self) -> bool {
        !matches!(self.command, "report" | "check")
    }

    /// Prints something before the work begins, such as the target of a restore.
    pub fn announce(&self, text: &str) {
        if !self.quiet && !self.json {
            output::say(&output::harmless(text.trim_end()));
        }
    }
}

fn unwritten(error: std::io::Error) -> Error {
    Error::new(Kind::Unexpected, "write to standard output").because(error)
}

fn completions(shell: &str) -> Result<()> {
    let shells = clap_complete::env::Shells::builtins();
    let completer =
        shells.completer(shell).ok_or_else(|| Error::usage(format!("there are no completions for {shell:?}")))?;
    completer
        .write_registration(COMPLETE, "pgkeep", "pgkeep", "pgkeep", &mut std::io::stdout().lock())
        .doing(Kind::Unexpected, || "write the completions")
}

fn manual() -> Result<()> {
    let mut command = Cli::command();
    // A verb knows the flags that every verb has only once its tree is built.
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).doing(Kind::Unexpected, || "render the manual page")?;
    for verb in command.get_subcommands() {
        subcommand_page(verb, "pgkeep", &mut page).doing(Kind::Unexpected, || "render the manual page")?;
    }
    output::print(&String::from_utf8_lossy(&page)).map_err(unwritten)
}

/// The synopsis, options and examples of a verb, one section after the other in one page.
fn subcommand_page(verb: &clap::Command, parent: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    let name = format!("{parent} {}", verb.get_name());
    let verb = verb.clone().bin_name(name.clone());
    writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
    let mut part = Vec::new();
    let man = clap_mangen::Man::new(verb.clone());
    man.render_description_section(&mut part)?;
    man.render_synopsis_section(&mut part)?;
    man.render_options_section(&mut part)?;
    if verb.get_after_help().is_some() {
        man.render_extra_section(&mut part)?;
    }
    // Sections of a verb are sub-sections of the page.
    page.extend(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").into_bytes());
    verb.get_subcommands().try_for_each(|sub| subcommand_page(sub, &name, page))
}

/// Backup ids of the repositories that are meant with the times at which they began, each once, newest first, for the
/// completion of a shell; nothing of one that cannot be asked. A listing is enough, so nothing is read and no state is made.
pub fn ids_of(flags: &Flags) -> Vec<(String, String)> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let environment = Environment::of_process();
    let (Ok(state), Ok(configuration)) = (directories::state(&environment), load(flags, &environment)) else {
        return Vec::new();
    };
    let (places, environment) = verbs::reachable(configuration.source, environment);
    // Somebody waits at a prompt.
    let patience = Patience { opening: Duration::from_secs(2), attempts: 1, ..Patience::default() };
    let access = Access { environment, uploads: state.join("uploads"), patience };
    let listed = runtime.block_on(join_all(places.iter().map(|place| dumps_in(place, &access))));
    let mut dumps: Vec<_> = listed.into_iter().flatten().flatten().collect();
    dumps.sort_by(|(a, of_a), (b, of_b)| (b.started_at(), a, of_a).cmp(&(a.started_at(), b, of_b)));
    dumps.dedup();
    let told = |(stem, instance): (DumpStem, InstanceName)| {
        (stem.to_string(), format!("{} of instance {instance}", output::time(stem.started_at().time())))
    };
    dumps.into_iter().map(told).collect()
}

async fn dumps_in(place: &Place, access: &Access) -> Option<Vec<(DumpStem, InstanceName)>> {
    let storage = place.store(access, Missing::Refuse).await.ok()?;
    let listed = storage.list(&Prefix::root()).await.ok()?;
    let dump = |meta: &ObjectMeta| match StoredName::parse(&meta.key)? {
        StoredName::Dump { instance, name: ObjectName { stem, ending: Ending::Manifest } } => Some((stem, instance)),
        _ => None,
    };
    Some(listed.iter().filter_map(dump).collect())
}
