//! The server: who is let in where, and what each database holds against being dumped.

use super::{Context, Options, rights, standby, tools};
use crate::command::databases::{self, Databases, one_is_named};
use crate::command::finding::Finding;
use crate::error::Result;
use crate::pg::conninfo::{ConnectTarget, ConnectionFlags};
use crate::pg::session::{Encryption, Session, SessionOptions};

/// Which databases are meant.
pub enum Meant {
    Nothing,
    These(Vec<ConnectionFlags>),
    All { but: Vec<String> },
}

/// A database that let us in.
pub struct Reached {
    pub database: String,
    pub host: String,
    pub version: u32,
    pub system_identifier: Option<u64>,
}

/// As a dump would understand the same words.
pub fn meant(context: &Context, options: &Options) -> Meant {
    let named = |typed: &String| ConnectionFlags { dbname: Some(typed.clone()), ..options.connection.clone() };
    match &options.databases {
        Databases::All { but } => Meant::All { but: but.clone() },
        Databases::Exactly(names) => {
            Meant::These(names.iter().map(|name| databases::by_name(&options.connection, name)).collect())
        }
        Databases::Named(names) if !names.is_empty() => Meant::These(names.iter().map(named).collect()),
        Databases::Named(_) if one_is_named(&options.connection, &context.environment) => {
            Meant::These(vec![options.connection.clone()])
        }
        Databases::Named(_) => Meant::Nothing,
    }
}

/// Looks at each database; those that let us in are returned.
pub async fn look(context: &Context, options: &Options, meant: Meant, findings: &mut Vec<Finding>) -> Vec<Reached> {
    let all = match meant {
        Meant::Nothing => {
            let skipped = Finding::warn("postgres.skipped", "PostgreSQL", "not checked: no database is named");
            findings.push(skipped.fix("name one with -d, or take every one with --all"));
            return Vec::new();
        }
        Meant::These(flags) => flags,
        Meant::All { but } => match databases::all(context, &options.connection, &but, options.connect_retry).await {
            Ok(names) => names.iter().map(|name| databases::by_name(&options.connection, name)).collect(),
            Err(error) => {
                findings.push(Finding::of_error("postgres.connection", "PostgreSQL", &error));
                return Vec::new();
            }
        },
    };
    let mut reached = Vec::new();
    for flags in all {
        reached.extend(database(context, options, &flags, findings).await);
    }
    reached
}

async fn connect(context: &Context, options: &Options, flags: &ConnectionFlags) -> Result<(ConnectTarget, Session)> {
    let target = ConnectTarget::resolve(flags, &context.environment)?;
    let session_options = SessionOptions { retry_budget: options.connect_retry, ..SessionOptions::default() };
    let session = Session::connect(&target, &session_options).await?;
    Ok((target, session))
}

async fn database(
    context: &Context,
    options: &Options,
    flags: &ConnectionFlags,
    findings: &mut Vec<Finding>,
) -> Option<Reached> {
    let named = ConnectTarget::resolve(flags, &context.environment).and_then(ConnectTarget::of_named_database);
    let connected = match named {
        Ok(_) => connect(context, options, flags).await,
        Err(error) => Err(error),
    };
    let (target, session) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            let named = flags.database.as_deref().or(flags.dbname.as_deref()).unwrap_or("PostgreSQL");
            // What was typed may be a whole connection string, with a password in it.
            let subject = if named.is_empty() || named.contains(['=', '/', ':']) { "PostgreSQL" } else { named };
            findings.push(Finding::of_error("postgres.connection", subject, &error));
            return None;
        }
    };
    let database = session.endpoint().dbname.clone();
    let warning = |text: &String| Finding::warn("postgres.connection", database.as_str(), text.as_str());
    findings.extend(target.warnings.iter().map(warning));
    findings.extend(connection(&session));
    findings.extend(standby::look(context, &session).await);
    findings.extend(tools::chosen(&options.clients, session.server_version_num() / 10_000, &database).await);
    match rights::look(&session).await {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(Finding::of_error("rights.unknown", database.as_str(), &error)),
    }
    let reached = Reached {
        host: session.endpoint().host.clone(),
        version: session.server_version_num(),
        system_identifier: session.system_identifier(),
        database,
    };
    session.close().await;
    Some(reached)
}

/// As whom, where, how, and what answers there.
fn connection(session: &Session) -> Vec<Finding> {
    let endpoint = session.endpoint();
    let (major, minor) = (session.server_version_num() / 10_000, session.server_version_num() % 10_000);
    let encryption = match (endpoint.encryption, endpoint.address) {
        (Encryption::Tls, _) => "with TLS",
        (Encryption::None, Some(_)) => "without TLS",
        (Encryption::None, None) => "over its socket",
    };
    let part = if session.in_recovery() { "a standby" } else { "a primary" };
    let evidence = format!(
        "as {:?} at {:?} port {} {encryption}: PostgreSQL {major}.{minor}, {part}",
        endpoint.user, endpoint.host, endpoint.port
    );
    let mut findings = vec![Finding::ok("postgres.connection", endpoint.dbname.as_str(), evidence)];
    let far = endpoint.address.is_some_and(|address| !address.ip().is_loopback());
    if far && endpoint.encryption == Encryption::None {
        let evidence = "everything in it passes the network in the clear";
        let finding = Finding::warn("postgres.encryption", endpoint.dbname.as_str(), evidence);
        findings.push(finding.fix("switch on ssl in the server, and connect with sslmode=verify-full"));
    }
    findings
}
