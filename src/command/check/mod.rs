//! `pgkeep check`: finds before the night what would make a backup fail, with the fix.
//!
//! It reads, but for one small probe that it stores in the repository and removes again, and for replay of a standby
//! that a killed dump left standing still, which it lets go on. It creates no repository.
//! Only a finding of severity `Fail` is an error (exit code 13); warnings are for people.

mod repository;
mod rights;
mod server;
mod standby;
mod tools;

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::databases::Databases;
use super::finding::{Finding, error_of};
use super::{Context, Outcome, Place};
use crate::config::load::Origin;
use crate::error::{Error, Result};
use crate::pg::conninfo::ConnectionFlags;
use crate::pg::tools::Search;
use crate::repo::{InstanceName, Kinship, Lineage, NewLineage, Repository, SystemIdentifier};

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file in force, to be told.
    pub configuration: Origin,
    pub instance: InstanceName,
    /// Each is checked. None: only PostgreSQL is.
    pub repositories: Vec<Place>,
    /// Where a dump writes beside them.
    pub directories: Vec<PathBuf>,
    pub connection: ConnectionFlags,
    pub connect_retry: Duration,
    /// Where nothing names a database, PostgreSQL is not checked.
    pub databases: Databases,
    pub clients: Search,
}

/// Looks at everything; fails only where there is nothing to look at, or when it is stopped.
pub async fn run(context: &Context, options: &Options) -> Result<Outcome<Finding>> {
    let meant = server::meant(context, options);
    if options.repositories.is_empty() && matches!(meant, server::Meant::Nothing) {
        return Err(Error::usage("neither a database nor a repository is named")
            .hint("name what is to be checked, such as pgkeep check -d shop --repo /backups"));
    }
    let findings = context.interrupt.guard(look(context, options, meant)).await?;
    let error = error_of(&findings);
    Ok(Outcome { items: findings, warnings: Vec::new(), error })
}

async fn look(context: &Context, options: &Options, meant: server::Meant) -> Result<Vec<Finding>> {
    let mut findings = vec![configuration(&options.configuration)];
    findings.extend(tools::look(&options.clients).await);
    if options.repositories.is_empty() {
        let finding = Finding::warn("repository.skipped", "repository", "not checked: none is named");
        findings.push(finding.fix("name one with --repo"));
    }
    findings.extend(options.directories.iter().map(|directory| repository::writable_directory(directory)));
    let mut opened = Vec::new();
    for place in &options.repositories {
        opened.extend(repository::look(context, options, place, &mut findings).await);
    }
    for server in server::look(context, options, meant, &mut findings).await {
        let Some(seen) = server.system_identifier else { continue };
        for repository in &opened {
            let now = context.clock.now();
            let finding = lineage(repository, options, &server, SystemIdentifier(seen), now).await;
            // Repositories that hold the same say the same.
            findings.extend(finding.filter(|finding| !findings.contains(finding)));
        }
    }
    findings.extend(standby::left_standing(context, &options.instance).await);
    Ok(findings)
}

fn configuration(origin: &Origin) -> Finding {
    let subject = origin.path().map_or("none".to_owned(), |path| path.display().to_string());
    Finding::ok("configuration", subject, origin.to_string())
}

/// A cluster that this instance has not held stops a dump.
async fn lineage(
    repository: &Repository,
    options: &Options,
    server: &server::Reached,
    seen: SystemIdentifier,
    now: DateTime<Utc>,
) -> Option<Finding> {
    let instance = &options.instance;
    let id = "repository.lineage";
    let known = match Lineage::all(repository, instance).await {
        Ok(known) => known,
        Err(error) => return Some(Finding::of_error(id, server.database.as_str(), &error)),
    };
    let major_version = server.version / 10_000;
    let ours = Lineage {
        format: Lineage::FORMAT,
        system_identifier: seen,
        major_version,
        first_seen: now,
        server_host: server.host.clone(),
        first_backup: None,
    };
    match ours.judge(instance, &known, NewLineage::Refused) {
        Ok(Kinship::Known | Kinship::First) => None,
        Ok(Kinship::Upgrade { from }) => {
            let evidence = format!(
                "instance {instance} went from PostgreSQL {} to {major_version}: the next dump begins a new lineage",
                from.major_version
            );
            Some(Finding::ok(id, server.database.as_str(), evidence))
        }
        Err(refused) => Some(Finding::of_error(id, server.database.as_str(), &refused)),
    }
}
