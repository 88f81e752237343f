//! What a restore would do, and everything that can be known to stop it before it has done anything.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::client::{Call, Transactions};
use super::roles::{Conditions, Creation, Creator, Globals, Missing};
use super::target::{Me, Target, contents};
use super::{Analyze, Context, OnError, Options, Selected, SourceCopy, database, elsewhere};
use crate::digest::Fingerprint;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::ident::quote_ident;
use crate::pg::tools::ToolVersion;
use crate::repo::archive::expect;
use crate::repo::{ArchiveFormat, BackupId, DumpDetails, InstanceName, ObjectRole, StoredObject, unpack};

/// What globals may decode to.
const GLOBALS_LIMIT_BYTES: u64 = 256 << 20;

/// What will be done, and the session that it will be done with.
pub struct Plan {
    format: ArchiveFormat,
    pub target: Target,
    pub into: String,
    pub way: Way,
    pub details: DumpDetails,
    pub missing_roles: BTreeSet<String>,
    pub(super) creation_of_roles: Creation,
    pub warnings: Vec<String>,
}

/// How the database comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is created under a name of its own and gets the real one at the end.
    Create { unfinished: String, sql: String, leftover: Leftover },
    /// It is there and empty.
    IntoEmpty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    None,
    /// A database that an earlier restore did not finish: it goes first.
    Drop,
}

impl Way {
    /// The name of the database while it is restored.
    pub fn working_name<'a>(&'a self, into: &'a str) -> &'a str {
        match self {
            Way::Create { unfinished, .. } => unfinished,
            Way::IntoEmpty => into,
        }
    }
}

/// Looks at the target and at what lies beside the archive. Reads only.
pub async fn plan(context: &Context, options: &Options, selected: &Selected) -> Result<Plan> {
    context.interrupt.guard(look(context, options, selected)).await
}

async fn look(context: &Context, options: &Options, selected: &Selected) -> Result<Plan> {
    let manifest = &selected.manifest;
    let into = options.into.clone().unwrap_or_else(|| manifest.database.clone());
    database::check_name(&into)?;
    room(&options.scratch, manifest.plain.size_bytes, "the decoded archive")?;
    let sources = &selected.sources;
    let details = sources.deliver("the details", async |copy| Ok(details(copy).await?)).await?;
    let partial = super::filtered::look(manifest, &details)?;
    // `postgres` is what initdb calls it unless told otherwise.
    let bootstrap = details.description.bootstrap_role.as_deref().unwrap_or("postgres");
    let globals = sources.deliver("the globals", async |copy| Ok(globals(copy).await?)).await?;
    let globals = globals.without_bootstrap(bootstrap);

    let target = Target::connect(context, &options.server, &into, archive_major(selected), &options.scratch).await?;
    elsewhere::expect_usable(context, &target, options.jobs).await?;
    let me = target.me().await?;
    let mut warnings = target.warnings.clone();
    warnings.extend(partial);
    warn_of_versions(selected, &target, &mut warnings);
    check_extensions(&details, &target, &mut warnings).await?;
    let existing = target.roles().await?;
    let missing = globals.choose(&details.description.roles, &existing);
    check_roles(&missing, &details, &target, &me).await?;
    let with = Conditions {
        passwords: options.passwords,
        creator: if me.superuser { Creator::Superuser } else { Creator::Role },
        server_version: target.server_version(),
    };
    let mut creation_of_roles = globals.creation(&missing.create, &existing, &with);
    warnings.append(&mut creation_of_roles.warnings);
    let way = way(selected, &details, &target, &into, &me, &mut warnings).await?;
    Ok(Plan {
        format: manifest.archive_format,
        target,
        into,
        way,
        details,
        missing_roles: missing.create,
        creation_of_roles,
        warnings,
    })
}

fn archive_major(selected: &Selected) -> u32 {
    let version = &selected.manifest.client.version;
    ToolVersion::parse(&format!("pg_dump (PostgreSQL) {version}")).map_or(0, |version| version.major)
}

/// Refuses where `directory` has no room for `needed_bytes` of `what`.
pub(super) fn room(directory: &Path, needed_bytes: u64, what: &str) -> Result<()> {
    let stat = rustix::fs::statvfs(directory).map_err(|error| {
        Error::new(Kind::Storage, format!("look at directory {directory:?}"))
            .because(error)
            .hint("name a directory that exists; for the decoded archive with --scratch or TMPDIR")
    })?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    Err(Error::new(Kind::Storage, format!("{directory:?} has no room for {what}"))
        .because(format!("it takes {needed_bytes} bytes, {free_bytes} are free"))
        .hint("free some space, or name another directory with --scratch"))
}

/// A small object of the backup, if it is what was written.
async fn stored(copy: &SourceCopy, role: ObjectRole) -> Result<Option<(&StoredObject, bytes::Bytes)>> {
    let manifest = &copy.manifest;
    let Some(object) = manifest.object(role) else { return Ok(None) };
    let key = object.key(&manifest.instance);
    let body = copy.repository.storage().get(&key, object.size_bytes.min(DumpDetails::LIMIT_BYTES)).await?;
    expect(&key, "stored bytes", object.fingerprint(), Fingerprint::of(&body))?;
    Ok(Some((object, body)))
}

async fn details(copy: &SourceCopy) -> Result<DumpDetails> {
    let stored = stored(copy, ObjectRole::Details).await?;
    let (object, body) = stored.ok_or_else(|| {
        Error::new(Kind::NotVerified, format!("the manifest of {} names no details", copy.manifest.id))
            .hint("the plain archive can be had with --to-file, for pg_restore by hand")
    })?;
    DumpDetails::from_stored(&body, &object.name.to_string())
}

/// None were stored: then no role can be created.
async fn globals(copy: &SourceCopy) -> Result<Globals> {
    let Some((object, body)) = stored(copy, ObjectRole::Globals).await? else { return Ok(Globals::default()) };
    let packing = object.name.ending.packing();
    Globals::read(&unpack(&body, packing, GLOBALS_LIMIT_BYTES, &object.name.to_string())?)
}

fn warn_of_versions(selected: &Selected, target: &Target, warnings: &mut Vec<String>) {
    let (source, here) = (selected.manifest.server.number / 10_000, target.server_version() / 10_000);
    if here < source {
        warnings.push(format!(
            "the dump is of PostgreSQL {source}, the target is PostgreSQL {here}: what the older one does not know fails"
        ));
    }
}

async fn check_extensions(details: &DumpDetails, target: &Target, warnings: &mut Vec<String>) -> Result<()> {
    let available = target.available_extensions().await?;
    let mut absent = Vec::new();
    for extension in &details.description.extensions {
        match available.get(&extension.name) {
            None => absent.push(extension.name.as_str()),
            Some(Some(version)) if *version != extension.version => warnings.push(format!(
                "extension {:?} was of version {}, the target creates {version}",
                extension.name, extension.version
            )),
            Some(_) => {}
        }
    }
    if absent.is_empty() {
        return Ok(());
    }
    let major = target.server_version() / 10_000;
    Err(Error::refused(format!("{} lacks extensions that the dump needs: {}", target.address(), quoted(&absent))).hint(
        format!(
            "install their packages on the server (Debian: postgresql-{major} has contrib, others are \
             postgresql-{major}-NAME), then restore again"
        ),
    ))
}

async fn check_roles(missing: &Missing, details: &DumpDetails, target: &Target, me: &Me) -> Result<()> {
    if !missing.absent.is_empty() {
        let absent: Vec<&str> = missing.absent.iter().map(String::as_str).collect();
        let create: Vec<String> =
            absent.iter().map(|name| format!("CREATE ROLE {} NOLOGIN;", quote_ident(name))).collect();
        let why = "the dump refers to roles that the target does not have and that cannot be created from it";
        return Err(Error::refused(format!("{why}: {}", quoted(&absent))).hint(format!(
            "create them on {}: {}",
            target.address(),
            create.join(" ")
        )));
    }
    if !missing.create.is_empty() && !me.create_roles {
        let create: Vec<&str> = missing.create.iter().map(String::as_str).collect();
        return Err(Error::refused(format!("role {:?} may not create the missing roles {}", me.name, quoted(&create)))
            .hint(format!("ALTER ROLE {} CREATEROLE, or restore as a superuser", quote_ident(&me.name))));
    }
    if me.superuser {
        return Ok(());
    }
    let description = &details.description;
    let mut owners: BTreeSet<String> = description.relations.iter().map(|relation| relation.owner.clone()).collect();
    owners.insert(description.database.owner.clone());
    let beyond = target.owners_beyond_reach(&owners).await?;
    if beyond.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = beyond.iter().map(|owner| owner.name.as_str()).collect();
    let grants = names.iter().map(|owner| format!("GRANT {} TO {};", quote_ident(owner), quote_ident(&me.name)));
    // Whoever is a member of a superuser can become one: no advice for a role that restores.
    let hint = match beyond.iter().any(|owner| owner.superuser) {
        true => "restore as a superuser".to_owned(),
        false => format!("restore as a superuser, or: {}", grants.collect::<Vec<_>>().join(" ")),
    };
    Err(Error::refused(format!("role {:?} may not make {} own what they owned", me.name, quoted(&names))).hint(hint))
}

async fn way(
    selected: &Selected,
    details: &DumpDetails,
    target: &Target,
    into: &str,
    me: &Me,
    warnings: &mut Vec<String>,
) -> Result<Way> {
    if let Some(found) = target.find_database(into).await? {
        if found.is_template {
            return Err(Error::refused(format!(
                "database {into:?} is a template: every new database would be a copy of it"
            ))
            .hint("restore under another name with --into"));
        }
        refuse_contents(target, into).await?;
        return Ok(Way::IntoEmpty);
    }
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
    let description = &details.description.database;
    let tablespace = match description.tablespace.as_str() {
        "pg_default" => None,
        name if target.tablespaces().await?.contains(name) => Some(name),
        name => {
            warnings.push(format!("the target has no tablespace {name:?}: the database lies in the default one"));
            None
        }
    };
    let sql = database::creation(description, &unfinished, tablespace, target.server_version())
        .doing(Kind::Refused, || format!("create a database for {}", selected.manifest.id))?;
    Ok(Way::Create { unfinished, sql, leftover })
}

/// Looks again, once nobody else restores into the target.
pub(super) async fn still_free(plan: &Plan) -> Result<()> {
    let (target, into) = (&plan.target, &plan.into);
    match (&plan.way, target.find_database(into).await?) {
        (Way::Create { .. }, None) => Ok(()),
        (Way::IntoEmpty, Some(_)) => refuse_contents(target, into).await,
        (Way::Create { .. }, Some(_)) => Err(changed(format!("database {into:?} was created meanwhile"))),
        (Way::IntoEmpty, None) => Err(changed(format!("database {into:?} was dropped meanwhile"))),
    }
}

fn changed(what: String) -> Error {
    Error::refused(what).hint("start the restore again: it looks at the target anew")
}

/// A database that holds something is never restored over.
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
        "restore beside it under another name with --into; a database that holds something is never restored over",
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

fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// A dry run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    pub id: BackupId,
    pub instance: InstanceName,
    pub database: String,
    pub into: String,
    pub server: String,
    pub role: String,
    pub client: String,
    /// The names of the repositories with a copy, in the order in which they would be read.
    pub repositories: Vec<String>,
    pub plain_bytes: u64,
    pub scratch: std::path::PathBuf,
    pub roles_to_create: Vec<String>,
    pub steps: Vec<String>,
}

impl Plan {
    pub fn preview(&self, options: &Options, selected: &Selected) -> Result<Preview> {
        Ok(Preview {
            id: selected.manifest.id.clone(),
            instance: selected.manifest.instance.clone(),
            database: selected.manifest.database.clone(),
            into: self.into.clone(),
            server: self.target.address(),
            role: self.target.user().to_owned(),
            client: self.target.tools.version.text.clone(),
            repositories: selected.sources.names().into_iter().map(str::to_owned).collect(),
            plain_bytes: selected.manifest.plain.size_bytes,
            scratch: options.scratch.clone(),
            roles_to_create: self.missing_roles.iter().cloned().collect(),
            steps: self.steps(options)?,
        })
    }

    fn steps(&self, options: &Options) -> Result<Vec<String>> {
        let mut steps = vec!["read the archive to its end and check it".to_owned()];
        if let Way::Create { sql, .. } = &self.way {
            steps.push(sql.clone());
        }
        steps.extend(self.missing_roles.iter().map(|role| format!("CREATE ROLE {} …", quote_ident(role))));
        steps.push(self.call(options).program(None)?.command_line());
        if options.analyze == Analyze::Stages {
            steps.push("vacuumdb --analyze-in-stages".to_owned());
        }
        steps.push("set owner, rights, settings, connection limit and comment".to_owned());
        if let Way::Create { unfinished, .. } = &self.way {
            let (from, to) = (quote_ident(unfinished), quote_ident(&self.into));
            steps.push(format!("ALTER DATABASE {from} RENAME TO {to}"));
        }
        Ok(steps)
    }

    /// The call of `pg_restore`.
    pub(super) fn call(&self, options: &Options) -> Call<'_> {
        let one = self.way == Way::IntoEmpty
            && Call::allows_one_transaction(&self.target, self.format, options.jobs, options.on_error);
        Call {
            format: self.format,
            target: &self.target,
            database: self.way.working_name(&self.into),
            jobs: options.jobs,
            on_error: options.on_error,
            transactions: if one { Transactions::One } else { Transactions::Many },
        }
    }

    /// Whether a failure leaves a part in a database that was there before.
    pub(super) fn may_leave_a_part(&self, options: &Options) -> bool {
        self.way == Way::IntoEmpty
            && (options.on_error == OnError::GoOn || self.call(options).transactions == Transactions::Many)
    }
}
