//! What each verb is told and how its answer reads.

mod check;
mod copy;
mod dump;
mod instance;
mod prune;
mod report;
mod restore;
mod verify;

use std::num::NonZeroUsize;
use std::path::Path;

use pgkeep::config::directories;
use pgkeep::config::environment::Environment;
use pgkeep::config::file::ConfiguredRepository;
use pgkeep::config::load::{self, Configuration, Origin, Source};
use pgkeep::error::{Error, Result};
use pgkeep::pg::conninfo::ConnectionFlags;
use pgkeep::pg::tools::Search;

use super::arguments::{Common, ConnectionArgs};
use super::output::harmless;
use pgkeep::command::databases::Databases;
use pgkeep::command::drop_in::DropIn;
use pgkeep::command::finding::Finding;
use pgkeep::command::instance::Instance;
use pgkeep::command::{Context, Place};

pub use check::check;
pub use copy::copy;
pub use dump::{dump, report_unbegun};
pub use prune::prune;
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
    /// Those that are configured.
    instances: Vec<Instance>,
    /// The env file, where it is in force.
    pub drop_in: Option<DropIn>,
}

impl Request {
    pub fn new(common: Common, configuration: Configuration, environment: &Environment) -> Result<Self> {
        let Configuration { origin, source, named, instances, notices: _ } = configuration;
        let file = origin.path().unwrap_or(Path::new(""));
        let instances =
            instances.iter().map(|one| Instance::configured(one, file, environment)).collect::<Result<_>>()?;
        let (repositories, drop_in) = match source {
            Source::Repositories(configured) => (places(&configured)?, None),
            Source::EnvFile(env_file) => {
                let drop_in = DropIn::new(*env_file)?;
                (drop_in.places(), Some(drop_in))
            }
        };
        Ok(Self { common, origin, repositories, named, instances, drop_in })
    }
}

/// The repositories that a reading verb looks into: those of the instance that it is limited to.
fn repositories(request: &Request) -> Result<Vec<Place>> {
    match instance::named(request)?.and_then(|name| instance::configured(request, &name)) {
        Some(instance) => instance::repositories(request, instance),
        None => all_repositories(request),
    }
}

/// Those of the configuration, or of `--repo`.
fn all_repositories(request: &Request) -> Result<Vec<Place>> {
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

fn flags(args: &ConnectionArgs) -> ConnectionFlags {
    ConnectionFlags {
        host: args.host.clone(),
        port: args.port.clone(),
        user: args.username.clone(),
        ..ConnectionFlags::default()
    }
}

/// The server that is backed up; a tunnel to it is not part of this.
fn source_flags(request: &Request, args: &ConnectionArgs, instance: &Instance) -> ConnectionFlags {
    let typed = flags(args);
    match &request.drop_in {
        Some(drop_in) => drop_in.connection(typed),
        None => ConnectionFlags { instance: instance.server.clone(), ..typed },
    }
}

/// The databases that are backed up.
fn databases(request: &Request, all: bool, named: Vec<String>, instance: &Instance) -> Databases {
    let typed = if all { Databases::All { but: Vec::new() } } else { Databases::Named(named) };
    match &request.drop_in {
        Some(drop_in) => drop_in.databases(typed),
        None => instance.databases(typed),
    }
}

fn clients(context: &Context, args: &ConnectionArgs, instance: &Instance) -> Search {
    instance.clients(args.bin_dir.as_deref(), directories::path(&context.environment))
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
