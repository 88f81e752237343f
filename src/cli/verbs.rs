//! What each verb is told and how its answer reads.

mod check;
mod copy;
mod dump;
mod report;
mod restore;
mod verify;

use std::num::NonZeroUsize;

use pgkeep::config::directories;
use pgkeep::config::environment::Environment;
use pgkeep::config::file::ConfiguredRepository;
use pgkeep::config::load::{self, Configuration, Origin, Source};
use pgkeep::error::{Error, Kind, Result};
use pgkeep::pg::conninfo::ConnectionFlags;
use pgkeep::pg::tools::Search;
use pgkeep::repo::InstanceName;

use super::arguments::{Common, ConnectionArgs};
use super::output::harmless;
use pgkeep::command::databases::Databases;
use pgkeep::command::drop_in::DropIn;
use pgkeep::command::finding::Finding;
use pgkeep::command::{Context, Place};

pub use check::check;
pub use copy::copy;
pub use dump::{dump, report_unbegun};
pub use report::report;
pub use restore::restore;
pub use verify::verify;

/// More threads than this only take memory: reading and hashing bound the rest.
const MOST_THREADS: usize = 8;

/// What was asked for: the flags that every command has, and the configuration that completes them.
pub struct Request {
    pub common: Common,
    pub origin: Origin,
    /// Those of the configuration, or of `--repo`.
    repositories: Vec<Place>,
    /// Those that have names.
    named: Vec<ConfiguredRepository>,
    /// The env file, where it is in force.
    pub drop_in: Option<DropIn>,
}

impl Request {
    pub fn new(common: Common, configuration: Configuration) -> Result<Self> {
        let Configuration { origin, source, named, notices: _ } = configuration;
        let (repositories, drop_in) = match source {
            Source::Repositories(configured) => (places(&configured)?, None),
            Source::EnvFile(env_file) => {
                let drop_in = DropIn::new(*env_file)?;
                (drop_in.places(), Some(drop_in))
            }
        };
        Ok(Self { common, origin, repositories, named, drop_in })
    }
}

/// The repositories that a command needs.
fn repositories(request: &Request) -> Result<Vec<Place>> {
    if request.repositories.is_empty() {
        let hint = match request.origin.path() {
            Some(path) => format!("{} configures none; name a directory, such as --repo /backups", path.display()),
            None => "name a directory, such as --repo /backups, or configure one in /etc/pgkeep/pgkeep.toml".to_owned(),
        };
        return Err(Error::usage("no repository is named").hint(hint));
    }
    Ok(request.repositories.clone())
}

/// The repositories of a configuration, without those that make no sense, and the environment to reach them in.
pub fn reachable(source: Source, environment: Environment) -> (Vec<Place>, Environment) {
    match source {
        Source::Repositories(configured) => {
            (configured.iter().filter_map(|one| Place::configured(one).ok()).collect(), environment)
        }
        Source::EnvFile(env_file) => {
            let environment = env_file.environment.clone();
            (DropIn::new(*env_file).map(|drop_in| drop_in.places()).unwrap_or_default(), environment)
        }
    }
}

/// A repository that is typed elsewhere than behind `--repo`.
fn repository(request: &Request, typed: &str) -> Result<Place> {
    Place::configured(&load::repository(typed, &request.named)?)
}

/// The repositories, each once.
fn places(configured: &[ConfiguredRepository]) -> Result<Vec<Place>> {
    let mut places: Vec<Place> = Vec::new();
    for repository in configured {
        let place = Place::configured(repository)?;
        if let Some(other) = places.iter().find(|other| other.address == place.address) {
            let what = match other.name == place.name {
                true => format!("repository {} is named twice", place.name),
                false => format!("{} and {} are one repository", other.name, place.name),
            };
            return Err(Error::usage(what).hint("name it once"));
        }
        places.push(place);
    }
    Ok(places)
}

/// The instance that a writing verb works on.
fn instance(request: &Request) -> Result<InstanceName> {
    named_instance(request)?.map_or_else(|| parse_instance("main"), Ok)
}

/// The instance that a reading verb is limited to.
fn named_instance(request: &Request) -> Result<Option<InstanceName>> {
    let named = request.common.instance.as_deref().map(parse_instance).transpose()?;
    let (Some(instance), Some(_)) = (&named, &request.drop_in) else { return Ok(named) };
    if *instance == DropIn::instance() {
        return Ok(named);
    }
    Err(Error::usage(format!("there is no instance {instance} by BACKUP_ENV_FILE"))
        .hint("leave --instance out, or name a repository with --repo"))
}

fn parse_instance(name: &str) -> Result<InstanceName> {
    name.parse().map_err(|error| {
        Error::new(Kind::Usage, format!("--instance {name:?}"))
            .because(error)
            .hint("an instance is named with lower-case letters, digits, - and _, such as site-2")
    })
}

fn flags(args: &ConnectionArgs) -> ConnectionFlags {
    ConnectionFlags {
        host: args.host.clone(),
        port: args.port.clone(),
        user: args.username.clone(),
        ..ConnectionFlags::default()
    }
}

/// The server that is backed up.
fn source_flags(request: &Request, args: &ConnectionArgs) -> ConnectionFlags {
    let typed = flags(args);
    match &request.drop_in {
        Some(drop_in) => drop_in.connection(typed),
        None => typed,
    }
}

/// The databases that are backed up.
fn databases(request: &Request, all: bool, named: Vec<String>) -> Databases {
    let typed = if all { Databases::All } else { Databases::Named(named) };
    match &request.drop_in {
        Some(drop_in) => drop_in.databases(typed),
        None => typed,
    }
}

fn clients(context: &Context, args: &ConnectionArgs) -> Search {
    Search { bin_dir: args.bin_dir.clone(), path: directories::path(&context.environment), prefix: None }
}

/// The processors of this machine, within reason.
fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    let available = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    asked.unwrap_or_else(|| available.min(NonZeroUsize::new(MOST_THREADS).unwrap_or(available)))
}

/// `fail  rights.select  shop.public.orders: …` and the fix below it.
fn finding_text(finding: &Finding) -> String {
    let Finding { id, severity, subject, evidence, fix } = finding;
    let head = format!("{:<4}  {id}  {}: {}\n", severity.as_str(), harmless(subject), harmless(evidence));
    fix.iter().fold(head, |text, fix| text + "      fix: " + &harmless(fix) + "\n")
}
