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
    /// This one: a name and nothing but a name, whatever characters it has.
    Exactly(String),
    /// Every one but postgres and the templates.
    All,
}

/// Whether the environment names a database. An empty variable is as good as none, as it is to libpq.
pub(super) fn environment_names_one(environment: &Environment) -> bool {
    ["PGDATABASE", "PGSERVICE"].iter().any(|name| environment.get(name).is_some_and(|value| !value.is_empty()))
}

/// The names of every database but postgres and the templates. A server that has no other is an error.
pub(super) async fn all(
    context: &Context,
    connection: &ConnectionFlags,
    connect_retry: Duration,
) -> Result<Vec<String>> {
    let mut flags = connection.clone();
    if !environment_names_one(&context.environment) {
        flags.database = Some("postgres".to_owned());
    }
    let target = ConnectTarget::resolve(&flags, &context.environment)?;
    let options = SessionOptions { retry_budget: connect_retry, ..SessionOptions::default() };
    let session =
        Session::connect(&target, &options).await.doing(Kind::Connect, || "list the databases, stage connect")?;
    let names = crate::pg::database::names(session.client()).await?;
    session.close().await;
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
