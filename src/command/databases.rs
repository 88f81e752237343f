//! Which databases of a server are meant: one reading of `-d`, `--all` and the environment for every verb.

use std::time::Duration;

use super::Context;
use crate::config::environment::Environment;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::conninfo::{ConnectTarget, ConnectionFlags};
use crate::pg::session::{Session, SessionOptions};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Databases {
    /// As given to `-d`: names, URIs or keyword strings. None: what the environment says.
    Named(Vec<String>),
    /// These: names and nothing but names, whatever characters they have.
    Exactly(Vec<String>),
    /// Every one but postgres, the templates and those that are named here.
    All { but: Vec<String> },
}

/// Whether configuration or environment name a database. An empty variable is as good as none, as it is to libpq.
pub(super) fn one_is_named(connection: &ConnectionFlags, environment: &Environment) -> bool {
    let configured = connection.instance.as_ref().is_some_and(|server| server.conninfo.is_some());
    let is_set = |name: &&str| environment.get(name).is_some_and(|value| !value.is_empty());
    match configured {
        // What cannot be read is told where it is used.
        true => ConnectTarget::resolve(connection, environment).is_ok_and(|target| target.names_database()),
        false => ["PGDATABASE", "PGSERVICE"].iter().any(is_set),
    }
}

/// The names of every database but postgres, the templates and `but`. A server that has no other is an error.
pub(super) async fn all(
    context: &Context,
    connection: &ConnectionFlags,
    but: &[String],
    connect_retry: Duration,
) -> Result<Vec<String>> {
    let mut flags = connection.clone();
    if !one_is_named(connection, &context.environment) {
        flags.database = Some("postgres".to_owned());
    }
    let target = ConnectTarget::resolve(&flags, &context.environment)?;
    let options = SessionOptions { retry_budget: connect_retry, ..SessionOptions::default() };
    let session =
        Session::connect(&target, &options).await.doing(Kind::Connect, || "list the databases, stage connect")?;
    let mut names = crate::pg::database::names(session.client()).await?;
    session.close().await;
    let found = names.len();
    names.retain(|name| !but.contains(name));
    if names.is_empty() && found > 0 {
        return Err(Error::new(Kind::NotVerified, "every database of the server is named by exclude")
            .hint("take one out of exclude in the configuration, or name it with -d"));
    }
    if names.is_empty() {
        return Err(Error::new(Kind::NotVerified, "the server has no database but postgres and the templates")
            .hint("to dump postgres itself, name it: -d postgres"));
    }
    Ok(names)
}

/// The flags that reach one database by its name and nothing but its name.
pub(super) fn by_name(connection: &ConnectionFlags, name: &str) -> ConnectionFlags {
    ConnectionFlags { database: Some(name.to_owned()), ..connection.clone() }
}
