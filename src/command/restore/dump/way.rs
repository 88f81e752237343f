//! How the database comes to be: made under another name, filled where it is, or put in the place of one in use.

use super::database;
use super::plan::quoted;
use super::subject::{Known, Subject};
use super::target::{Found, Me, Target, contents, sessions_in};
use super::{Context, Existing, Options, Sessions};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::ident::quote_ident;

/// How the database comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is created under a name of its own and gets the real one at the end.
    Create { unfinished: String, sql: String, leftover: Leftover, replaces: Option<Replaced> },
    /// It is there and empty.
    IntoEmpty,
    /// It is there, and what is restored comes beside what it holds.
    IntoExisting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    None,
    /// A database that an earlier restore did not finish: it goes first.
    Drop,
}

/// The database whose name the restored one gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub oid: u32,
    /// What it is called from then on.
    pub name_after: String,
    /// What the restored one is called if the other cannot be renamed.
    pub name_beside: String,
    pub sessions: Sessions,
}

impl Way {
    /// The name of the database while it is restored.
    pub fn working_name<'a>(&'a self, into: &'a str) -> &'a str {
        match self {
            Way::Create { unfinished, .. } => unfinished,
            Way::IntoEmpty | Way::IntoExisting => into,
        }
    }
}

pub async fn choose(
    context: &Context,
    options: &Options,
    subject: &Subject,
    target: &Target,
    into: &str,
    me: &Me,
    warnings: &mut Vec<String>,
) -> Result<Way> {
    let mut replaces = None;
    if let Some(found) = target.find_database(into).await? {
        if found.is_template {
            return Err(Error::refused(format!(
                "database {into:?} is a template: every new database would be a copy of it"
            ))
            .hint("restore under another name with --into"));
        }
        match options.existing {
            Existing::Refuse => {
                refuse_contents(target, into).await?;
                return Ok(Way::IntoEmpty);
            }
            Existing::Add | Existing::Clean => return Ok(Way::IntoExisting),
            Existing::Replace(sessions) => {
                replaces = Some(replaced(context, target, into, &found, me, sessions).await?);
            }
        }
    } else if options.keeps_existing() {
        return Err(Error::refused(format!("there is no database {into:?} on {}", target.address()))
            .hint("name one that is there, or leave --into-existing and --clean out: then it is made"));
    }
    create(subject, target, into, me, replaces, warnings).await
}

async fn create(
    subject: &Subject,
    target: &Target,
    into: &str,
    me: &Me,
    replaces: Option<Replaced>,
    warnings: &mut Vec<String>,
) -> Result<Way> {
    if !me.create_databases {
        let me = &me.name;
        return Err(Error::refused(format!("role {me:?} may not create database {into:?}")).hint(format!(
            "ALTER ROLE {} CREATEDB, or create the database empty and restore into it",
            quote_ident(me)
        )));
    }
    let unfinished = database::unfinished_name(into);
    let leftover = leftover(target, &unfinished).await?;
    if leftover == Leftover::Drop {
        warnings.push(format!("database {unfinished:?} of a restore that did not end is dropped first"));
    }
    let description = &subject.description.database;
    if subject.known == Known::Nothing || description.encoding.is_empty() || description.collate.is_empty() {
        warnings.push(format!(
            "{} does not say which encoding and locale its database had: the new one has those of the server",
            subject.name
        ));
        let sql = format!("CREATE DATABASE {} TEMPLATE template0", quote_ident(&unfinished));
        return Ok(Way::Create { unfinished, sql, leftover, replaces });
    }
    let tablespace = match description.tablespace.as_str() {
        "pg_default" => None,
        name if target.tablespaces().await?.contains(name) => Some(name),
        name => {
            warnings.push(format!("the target has no tablespace {name:?}: the database lies in the default one"));
            None
        }
    };
    let sql = database::creation(description, &unfinished, tablespace, target.server_version())
        .doing(Kind::Refused, || format!("create a database for {}", subject.name))?;
    Ok(Way::Create { unfinished, sql, leftover, replaces })
}

/// What can be known now to stand in the way of a swap that comes hours later.
async fn replaced(
    context: &Context,
    target: &Target,
    into: &str,
    found: &Found,
    me: &Me,
    sessions: Sessions,
) -> Result<Replaced> {
    if target.works_in(into) {
        return Err(Error::refused(format!("database {into:?} is the one that pgkeep works from"))
            .hint("let the role connect to database postgres, too: a database in use cannot be renamed"));
    }
    if !me.superuser && !target.may_rename(into).await? {
        return Err(Error::refused(format!("role {:?} may not rename database {into:?}", me.name))
            .hint("restore as the owner of the database, with CREATEDB, or as a superuser"));
    }
    if sessions == Sessions::Respect && found.sessions > 0 {
        return Err(in_use(target.session().client(), into).await?);
    }
    let stamp = context.clock.now().format("%Y%m%dT%H%M%SZ");
    Ok(Replaced {
        oid: found.oid,
        name_after: database::name_with(into, &format!("_before_{stamp}")),
        name_beside: database::name_with(into, &format!("_restored_{stamp}")),
        sessions,
    })
}

/// Who stands in the way of a rename.
pub(super) async fn in_use(client: &tokio_postgres::Client, into: &str) -> Result<Error> {
    let users = sessions_in(client, into).await?;
    let told = if users.is_empty() { "sessions that have just ended".to_owned() } else { users.join(", ") };
    Ok(Error::refused(format!("database {into:?} is in use, and cannot be renamed: {told}"))
        .hint("stop what uses it, or end these sessions with --disconnect"))
}

/// Looks again, once nobody else restores into the target.
pub(super) async fn still_free(plan: &super::Plan) -> Result<()> {
    let (target, into) = (&plan.target, &plan.into);
    match (&plan.way, target.find_database(into).await?) {
        (Way::Create { replaces: None, .. }, None) | (Way::IntoExisting, Some(_)) => Ok(()),
        (Way::Create { replaces: Some(replaced), .. }, Some(found)) if found.oid == replaced.oid => Ok(()),
        (Way::IntoEmpty, Some(_)) => refuse_contents(target, into).await,
        (Way::Create { .. }, Some(_)) => Err(changed(format!("database {into:?} was created meanwhile"))),
        (_, None) => Err(changed(format!("database {into:?} was dropped meanwhile"))),
    }
}

fn changed(what: String) -> Error {
    Error::refused(what).hint("start the restore again: it looks at the target anew")
}

/// A database that holds something is never restored over unless it is asked for by name.
async fn refuse_contents(target: &Target, into: &str) -> Result<()> {
    let session = target.session_in(Some(into)).await?;
    let found = contents(&session).await?;
    session.close().await;
    if found.is_empty() {
        return Ok(());
    }
    let kinds: Vec<String> = found
        .iter()
        .map(|(kind, names, count)| {
            let more = if *count > names.len() as i64 { ", …" } else { "" };
            let plural = if *count == 1 { "" } else { "s" };
            format!("{count} {kind}{plural} ({}{more})", quoted(names))
        })
        .collect();
    Err(Error::refused(format!("database {into:?} on {} is not empty: {}", target.address(), kinds.join(", "))).hint(
        "restore beside it under another name with --into, or put the restored one in its place with --replace; \
         --into-existing adds to what it holds",
    ))
}

async fn leftover(target: &Target, unfinished: &str) -> Result<Leftover> {
    let Some(found) = target.find_database(unfinished).await? else { return Ok(Leftover::None) };
    if found.is_unfinished_restore() && found.sessions == 0 {
        return Ok(Leftover::Drop);
    }
    let why = match found.sessions {
        0 => "it does not say that a restore of pgkeep made it".to_owned(),
        sessions => format!("{sessions} sessions use it: another restore may be under way, or one is just ending"),
    };
    Err(Error::refused(format!("database {unfinished:?} is in the way"))
        .because(why)
        .hint(format!("if it is left over, drop it: DROP DATABASE {};", quote_ident(unfinished))))
}
