//! What the configuration says of one PostgreSQL cluster, for every verb that works on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::databases::Databases;
use super::{Context, Item, Outcome, overall};
use crate::config::environment::Environment;
use crate::config::file::{self, ConfiguredInstance, Method, Password, Retention};
use crate::config::private_file::{self, Readers};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::pg::conninfo::{ConnectTarget, ConnectionFlags, HoldsPassword, InstanceServer};
use crate::pg::password::PasswordSource;
use crate::pg::tools::{Prefix, Search};
use crate::pg::tunnel::{Tunnel, TunnelCommand};
use crate::repo::InstanceName;

/// One instance, configured or not.
#[derive(Clone, Debug)]
pub struct Instance {
    pub name: InstanceName,
    /// `None`: flags and environment say where it is.
    pub server: Option<InstanceServer>,
    /// Names of the configured repositories that it is stored in; `None`: all.
    pub repositories: Option<Vec<String>>,
    pub methods: Vec<Method>,
    /// An older newest backup is a finding.
    pub max_age: Option<Duration>,
    pub retention: Retention,
    databases: file::Databases,
    exclude: Vec<String>,
    bin_dir: Option<PathBuf>,
    prefix: Option<Prefix>,
    tunnel: Option<TunnelCommand>,
}

impl Instance {
    /// One that has a name and no settings.
    pub fn unconfigured(name: InstanceName) -> Self {
        Self {
            name,
            server: None,
            repositories: None,
            methods: vec![Method::Dump, Method::Base],
            max_age: None,
            retention: Retention::default(),
            databases: file::Databases::Unnamed,
            exclude: Vec::new(),
            bin_dir: None,
            prefix: None,
            tunnel: None,
        }
    }

    /// `file` is the one that has the settings: where a password stands in it, others must not be able to read it.
    /// Commands run in `environment`.
    pub fn configured(configured: &ConfiguredInstance, file: &Path, environment: &Environment) -> Result<Self> {
        let ConfiguredInstance { name, conninfo, password, databases, exclude, repositories, .. } = configured;
        let doing = || format!("use conninfo of instance {name}");
        let password = match password.clone() {
            Password::Elsewhere => None,
            Password::File(path) => Some(PasswordSource::File(path)),
            Password::Command(words) => Some(PasswordSource::Command { words, environment: environment.clone() }),
        };
        let has_source = password.is_some();
        let server = InstanceServer { conninfo: conninfo.clone(), password, tunnel_port: None };
        if server.check().doing(Kind::Usage, doing)? == HoldsPassword::Yes {
            private_file::read(file, Readers::Group)?;
            if has_source {
                return Err(Error::usage(format!(
                    "the password of instance {name} is named twice, in conninfo and beside it"
                ))
                .hint("leave it out of conninfo"));
            }
        }
        let words = |words: &Option<Vec<String>>| words.clone();
        let environment = || environment.clone();
        Ok(Self {
            name: name.parse()?,
            server: Some(server),
            repositories: repositories.clone(),
            methods: configured.methods.clone(),
            max_age: configured.max_age,
            retention: configured.retention,
            databases: databases.clone(),
            exclude: exclude.clone(),
            bin_dir: configured.bin_dir.clone(),
            prefix: words(&configured.bin_prefix).map(|words| Prefix { words, environment: environment() }),
            tunnel: words(&configured.tunnel).map(|words| TunnelCommand {
                words,
                environment: environment(),
                instance: name.clone(),
            }),
        })
    }

    /// Refuses what `methods` does not have.
    pub fn expect_method(&self, method: Method) -> Result<()> {
        if self.methods.contains(&method) {
            return Ok(());
        }
        let (name, method) = (&self.name, method.as_str());
        let allowed: Vec<&str> = self.methods.iter().map(|method| method.as_str()).collect();
        Err(Error::usage(format!(
            "instance {name} is not backed up by {method}: its methods are {}",
            allowed.join(", ")
        ))
        .hint(format!("add {method:?} to methods of [instance.{name}], if that is meant")))
    }

    /// The databases that are backed up: those of the command line, else those of the configuration.
    pub fn databases(&self, typed: Databases) -> Databases {
        let all = || Databases::All { but: self.exclude.clone() };
        match typed {
            Databases::All { .. } => all(),
            Databases::Named(names) if names.is_empty() => match &self.databases {
                file::Databases::Unnamed => Databases::Named(names),
                file::Databases::All => all(),
                file::Databases::These(names) => Databases::Exactly(names.clone()),
            },
            typed => typed,
        }
    }

    /// The names that the configuration has, which need no server to be known.
    pub fn database_names(&self) -> &[String] {
        match &self.databases {
            file::Databases::These(names) => names,
            _ => &[],
        }
    }

    /// Where nobody names a database there is nothing to be done.
    pub fn expect_databases(&self, databases: &Databases, flags: &ConnectionFlags, context: &Context) -> Result<()> {
        if !matches!(databases, Databases::Named(names) if names.is_empty()) {
            return Ok(());
        }
        if ConnectTarget::resolve(flags, &context.environment)?.names_database() {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::usage(format!("instance {name} names no database"))
            .hint(format!("add databases = \"all\" or a list of names to [instance.{name}]")))
    }

    /// Every instance of several says where its server is: the environment names one for all of them.
    pub fn expect_server(&self) -> Result<()> {
        if self.server.as_ref().is_some_and(|server| server.conninfo.is_some()) {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::usage(format!("instance {name} does not say where its server is"))
            .hint(format!("add a line such as conninfo = \"host=db.example.com\" to [instance.{name}]")))
    }

    /// Where its client programs are looked for; `typed` is that of the command line.
    pub fn clients(&self, typed: Option<&Path>, path: Vec<PathBuf>) -> Search {
        let bin_dir = typed.map(Path::to_owned).or_else(|| self.bin_dir.clone());
        Search { bin_dir, path, prefix: self.prefix.clone() }
    }

    /// Opens the tunnel to its server, if it has one, and waits for it no longer than `patience`.
    pub async fn reach(&self, context: &Context, patience: Duration) -> Result<Reached> {
        let Some(command) = &self.tunnel else {
            return Ok(Reached { context: context.clone(), server: self.server.clone(), tunnel: None });
        };
        let tunnel = Tunnel::open(command, patience, &context.interrupt).await?;
        let context = Context { interrupt: tunnel.interrupt.clone(), ..context.clone() };
        let server = InstanceServer { tunnel_port: Some(tunnel.port), ..self.server.clone().unwrap_or_default() };
        Ok(Reached { context, server: Some(server), tunnel: Some(tunnel) })
    }
}

/// An instance whose tunnel stands.
#[derive(Debug)]
pub struct Reached {
    /// For all work that needs the server: it stops when the tunnel ends.
    pub context: Context,
    pub server: Option<InstanceServer>,
    tunnel: Option<Tunnel>,
}

impl Reached {
    /// Ends the tunnel.
    pub async fn leave(self) {
        if let Some(tunnel) = self.tunnel {
            tunnel.close().await;
        }
    }
}

/// Works on one instance after the other. One that fails before it has items gets those of `failed`, and the others are
/// worked on all the same; after a request to stop they fail with it.
pub async fn each<I: Item>(
    context: &Context,
    instances: &[Instance],
    work: impl AsyncFn(&Instance) -> Result<Outcome<I>>,
    failed: impl Fn(&Instance, Error) -> Vec<I>,
) -> Outcome<I> {
    let (mut items, mut warnings, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for instance in instances {
        let done = match context.interrupt.is_requested() {
            true => Err(context.interrupt.error()),
            false => work(instance).await,
        };
        let outcome = match done {
            Ok(outcome) => outcome,
            Err(error) => Outcome { items: failed(instance, error), warnings: Vec::new(), error: None },
        };
        warnings.extend(outcome.warnings.into_iter().map(|warning| format!("{}: {warning}", instance.name)));
        told.extend(outcome.items.iter().map(|item| Told::of(instance, item)));
        items.extend(outcome.items);
    }
    let error = overall(&told);
    Outcome { items, warnings, error }
}

/// An item with the name of its instance, for the sentence that counts failures.
struct Told {
    name: String,
    error: Option<Error>,
}

impl Told {
    fn of(instance: &Instance, item: &impl Item) -> Self {
        let name = match item.name() {
            "" => instance.name.to_string(),
            name => format!("{}/{name}", instance.name),
        };
        Self { name, error: item.error().map(Error::repeated) }
    }
}

impl Item for Told {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        &self.name
    }
}
