//! Which instance a command is about: one resolution for every verb.

use std::collections::BTreeMap;

use pgkeep::command::drop_in::DropIn;
use pgkeep::command::instance::Instance;
use pgkeep::command::report::Expected;
use pgkeep::command::{Context, Place};
use pgkeep::config::file::Method;
use pgkeep::config::spelling::nearest;
use pgkeep::error::{Error, Kind, Result};
use pgkeep::repo::InstanceName;

use super::Request;
use crate::cli::run::Screen;

/// The instance that a writing verb works on: the one that is named, else the only configured one, else `main`.
pub fn one(request: &Request) -> Result<Instance> {
    let Some(name) = named(request)? else { return unnamed(request) };
    match configured(request, &name) {
        Some(instance) => Ok(instance.clone()),
        // Without configured ones every name will do.
        None if request.instances.is_empty() => Ok(Instance::unconfigured(name)),
        None => Err(unknown(request, "--instance", &name)),
    }
}

fn unnamed(request: &Request) -> Result<Instance> {
    let main = parse("main")?;
    match request.instances.as_slice() {
        [] => Ok(Instance::unconfigured(main)),
        [only] => Ok(only.clone()),
        _ => configured(request, &main).cloned().ok_or_else(|| {
            Error::usage("several instances are configured and none is named")
                .hint(format!("name one with --instance ({}), or take every one with --all-instances", names(request)))
        }),
    }
}

/// Every configured instance that may be backed up by `method`, for `--all-instances`. The others are told.
pub fn all(screen: &Screen, request: &Request, method: Method) -> Result<Vec<Instance>> {
    let all = every(request)?;
    let (able, passed_over): (Vec<Instance>, Vec<Instance>) =
        all.into_iter().partition(|instance| instance.methods.contains(&method));
    for instance in &passed_over {
        screen.notice(&format!(
            "instance {} is passed over: its methods do not have {:?}",
            instance.name,
            method.as_str()
        ));
    }
    if able.is_empty() {
        return Err(Error::usage(format!("no configured instance has {:?} among its methods", method.as_str()))
            .hint(format!("add {:?} to methods of an instance", method.as_str())));
    }
    Ok(able)
}

/// Every configured instance.
pub fn every(request: &Request) -> Result<Vec<Instance>> {
    if request.common.instance.is_some() {
        return Err(Error::usage("--instance names one instance and --all-instances all").hint("leave one of them out"));
    }
    if request.instances.is_empty() {
        let hint = match request.origin.path() {
            Some(_) if request.drop_in.is_some() => {
                "leave --all-instances out: BACKUP_ENV_FILE describes one".to_owned()
            }
            Some(path) => format!("add [instance.NAME] to {}", path.display()),
            None => {
                "configure them as [instance.NAME] in /etc/pgkeep/pgkeep.toml, or name a file with --config".to_owned()
            }
        };
        return Err(Error::usage("no instance is configured").hint(hint));
    }
    Ok(request.instances.clone())
}

/// The surroundings of each of several instances: `PGDATABASE` is no wish to have a database of that name everywhere.
pub fn surroundings(context: &Context) -> Context {
    Context { environment: context.environment.clone().without(&["PGDATABASE"]), ..context.clone() }
}

/// The instance that a reading verb is limited to.
pub fn named(request: &Request) -> Result<Option<InstanceName>> {
    let named = request.common.instance.as_deref().map(parse).transpose()?;
    let (Some(instance), Some(_)) = (&named, &request.drop_in) else { return Ok(named) };
    if *instance == DropIn::instance() {
        return Ok(named);
    }
    Err(Error::usage(format!("there is no instance {instance} by BACKUP_ENV_FILE"))
        .hint("leave --instance out, or name a repository with --repo"))
}

/// A configured instance that another flag names.
pub fn by_name(request: &Request, flag: &str, typed: &str) -> Result<Instance> {
    let name = parse_of(flag, typed)?;
    configured(request, &name).cloned().ok_or_else(|| unknown(request, flag, &name))
}

pub fn configured<'r>(request: &'r Request, name: &InstanceName) -> Option<&'r Instance> {
    request.instances.iter().find(|instance| instance.name == *name)
}

/// The repositories of an instance. Those of `--repo` take their place.
pub fn repositories(request: &Request, instance: &Instance) -> Result<Vec<Place>> {
    let mut places = super::all_repositories(request)?;
    if let (Some(names), true) = (&instance.repositories, request.common.repo.is_empty()) {
        places.retain(|place| names.contains(&place.name));
    }
    Ok(places)
}

/// What the configuration wants of each instance that a report is about.
pub fn expected(request: &Request) -> Result<BTreeMap<InstanceName, Expected>> {
    let limit = named(request)?;
    let is_wanted = |instance: &&Instance| limit.as_ref().is_none_or(|name| *name == instance.name);
    let wanted = request.instances.iter().filter(is_wanted);
    let expected = |instance: &Instance| {
        // Another repository than the instance's may never have had them.
        let databases = request.common.repo.is_empty().then(|| instance.database_names().to_vec());
        (instance.name.clone(), Expected { max_age: instance.max_age, databases })
    };
    Ok(wanted.map(expected).collect())
}

fn parse(name: &str) -> Result<InstanceName> {
    parse_of("--instance", name)
}

fn parse_of(flag: &str, name: &str) -> Result<InstanceName> {
    name.parse().map_err(|error| {
        Error::new(Kind::Usage, format!("{flag} {name:?}"))
            .because(error)
            .hint("an instance is named with lower-case letters, digits, - and _, such as site-2")
    })
}

fn unknown(request: &Request, flag: &str, name: &InstanceName) -> Error {
    let configured = request.instances.iter().map(|instance| instance.name.as_str());
    let hint = match nearest(name.as_str(), configured) {
        Some(near) => format!("did you mean {near}? configured are {}", names(request)),
        None if request.instances.is_empty() => format!("configure it as [instance.{name}]"),
        None => format!("configured are {}", names(request)),
    };
    Error::usage(format!("{flag} {name} is not a configured instance")).hint(hint)
}

fn names(request: &Request) -> String {
    request.instances.iter().map(|instance| instance.name.as_str()).collect::<Vec<_>>().join(", ")
}
