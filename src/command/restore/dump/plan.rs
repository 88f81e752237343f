//! What a restore would do, and everything that can be known to stop it before it has done anything.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::body::Form;
use super::client::{Call, Transactions};
use super::needs::{self, Needs};
use super::part::{self, Chosen, Presence};
use super::roles::{Conditions, Creation, Creator, Globals};
use super::subject::{Known, Subject};
use super::target::Target;
use super::way::{self, Way};
use super::{
    Analyze, Atomicity, Context, Existing, OnError, Options, Ownership, Selected, SourceCopy, database, elsewhere,
};
use crate::digest::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::pg::ident::quote_ident;
use crate::pg::tools::ToolVersion;
use crate::repo::archive::expect;
use crate::repo::{BackupId, DumpDetails, InstanceName, ObjectRole, StoredObject, unpack};

/// What globals may decode to.
const GLOBALS_LIMIT_BYTES: u64 = 256 << 20;

/// What will be done, and the session that it will be done with.
pub struct Plan {
    pub subject: Subject,
    pub target: Target,
    pub into: String,
    pub way: Way,
    /// `None`: every entry.
    pub chosen: Option<Chosen>,
    pub missing_roles: BTreeSet<String>,
    pub(super) creation_of_roles: Creation,
    pub warnings: Vec<String>,
}

/// Looks at the target and at what lies beside the archive of a backup. Reads only.
pub async fn plan(context: &Context, options: &Options, selected: &Selected) -> Result<Plan> {
    let look = async { look(context, options, of_backup(context, options, selected).await?).await };
    context.interrupt.guard(look).await
}

/// As [`plan`], of a file that was read.
pub async fn plan_of(context: &Context, options: &Options, subject: Subject) -> Result<Plan> {
    context.interrupt.guard(look(context, options, subject)).await
}

async fn of_backup(context: &Context, options: &Options, selected: &Selected) -> Result<Subject> {
    let (manifest, sources) = (&selected.manifest, &selected.sources);
    let form = Form::from(manifest.archive_format);
    options.check()?;
    options.check_form(form)?;
    let details = sources.deliver("the details", async |copy| Ok(details(copy).await?)).await?;
    let partial = super::filtered::look(manifest, &details, options)?;
    // `postgres` is what initdb calls it unless told otherwise.
    let bootstrap = details.description.bootstrap_role.as_deref().unwrap_or("postgres");
    let globals = sources.deliver("the globals", async |copy| Ok(globals(copy).await?)).await?;
    let globals = globals.without_bootstrap(bootstrap);
    let front = match options.needs_contents() {
        true => Some(super::contents::of_backup(context, options.threads, selected).await?),
        false => None,
    };
    Ok(Subject {
        name: manifest.id.to_string(),
        backup: Some((manifest.id.clone(), manifest.instance.clone())),
        database: Some(manifest.database.clone()),
        form,
        scratch_bytes: manifest.plain.size_bytes,
        plain_bytes: manifest.plain.size_bytes,
        client_major: archive_major(selected),
        server_major: Some(manifest.server.number / 10_000),
        known: Known::Details,
        description: details.description,
        globals,
        front,
        properties: Vec::new(),
        warnings: partial.into_iter().collect(),
    })
}

async fn look(context: &Context, options: &Options, mut subject: Subject) -> Result<Plan> {
    options.check()?;
    options.check_form(subject.form)?;
    let into = options.into.clone().or_else(|| subject.database.clone()).ok_or_else(|| {
        Error::usage(format!("{} does not say which database it is of", subject.name)).hint("name one with --into")
    })?;
    database::check_name(&into)?;
    room(&options.scratch, subject.scratch_bytes, "the decoded archive")?;
    let target = Target::connect(context, &options.server, &into, subject.client_major, &options.scratch).await?;
    elsewhere::expect_usable(context, &target, options.jobs).await?;
    elsewhere::expect_no_file(&target, options, subject.form)?;
    let me = target.me().await?;
    let mut warnings = target.warnings.clone();
    warnings.append(&mut subject.warnings);
    warn_of_versions(&subject, &target, &mut warnings);
    let existing = target.roles().await?;
    needs::check_role_map(options, &subject, &existing, &target)?;
    subject.map_roles(&options.role_map);
    let presence = presence(options, &subject, &target, &into).await?;
    let chosen = match &subject.front {
        Some(front) if !options.part.is_all() => Some(part::choose(front, &options.part, &presence)?),
        _ => None,
    };
    warnings.extend(chosen.iter().flat_map(|chosen| chosen.warnings.iter().cloned()));
    let needs = Needs::of(options, &subject, chosen.as_ref(), &presence)?;
    needs.check_extensions(&target, &mut warnings).await?;
    let missing = subject.globals.choose(&needs.roles, &existing);
    needs.check_roles(&missing, &target, &me).await?;
    let with = Conditions {
        passwords: options.passwords,
        creator: if me.superuser { Creator::Superuser } else { Creator::Role },
        server_version: target.server_version(),
    };
    let globals = subject.globals.with_members(&options.role_map);
    let mut creation_of_roles = globals.creation(&missing.create, &existing, &with);
    warnings.append(&mut creation_of_roles.warnings);
    let way = way::choose(context, options, &subject, &target, &into, &me, &mut warnings).await?;
    let missing_roles = missing.create;
    let plan = Plan { subject, target, into, way, chosen, missing_roles, creation_of_roles, warnings };
    plan.check_transactions(options)?;
    Ok(plan)
}

/// What is in the target that a part can refer to.
async fn presence(options: &Options, subject: &Subject, target: &Target, into: &str) -> Result<Presence> {
    let is_there = target.find_database(into).await?.is_some();
    if is_there && !matches!(options.existing, Existing::Replace(_)) {
        let session = target.session_in(Some(into)).await?;
        let schemas = super::target::schemas(&session).await?;
        session.close().await;
        return Ok(match options.keeps_existing() {
            true => Presence::Existing { schemas },
            false => Presence::New { schemas },
        });
    }
    let lacks_public = subject.description.database.lacks_public;
    Ok(Presence::New { schemas: (!lacks_public).then(|| "public".to_owned()).into_iter().collect() })
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

fn warn_of_versions(subject: &Subject, target: &Target, warnings: &mut Vec<String>) {
    let here = target.server_version() / 10_000;
    let Some(source) = subject.server_major.filter(|source| here < *source) else { return };
    warnings.push(format!(
        "the dump is of PostgreSQL {source}, the target is PostgreSQL {here}: what the older one does not know fails"
    ));
}

pub(super) fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// A dry run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    pub id: Option<BackupId>,
    pub instance: Option<InstanceName>,
    /// The file that is restored, if it is one.
    pub from_file: Option<String>,
    pub database: Option<String>,
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
    /// `repositories`: those that have a copy, in the order in which they are read.
    pub fn preview(&self, options: &Options, repositories: &[&str]) -> Result<Preview> {
        let subject = &self.subject;
        let (id, instance) = subject.backup.clone().unzip();
        Ok(Preview {
            from_file: id.is_none().then(|| subject.name.clone()),
            id,
            instance,
            database: subject.database.clone(),
            into: self.into.clone(),
            server: self.target.address(),
            role: self.target.user().to_owned(),
            client: self.target.tools.version.text.clone(),
            repositories: repositories.iter().map(|&name| name.to_owned()).collect(),
            plain_bytes: subject.plain_bytes,
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
        let list = self.chosen.as_ref().map(|_| Path::new("LIST"));
        let folder = (self.subject.form == Form::Directory).then(|| Path::new("DIRECTORY"));
        steps.push(self.call(options, list).program(folder)?.command_line());
        if let Some(chosen) = &self.chosen {
            steps.push(format!("of its {} entries, those of the list: {}", self.entries(), chosen.len()));
        }
        if options.analyze == Analyze::Stages {
            steps.push(
                if self.way == Way::IntoExisting {
                    "ANALYZE what was restored"
                } else {
                    "vacuumdb --analyze-in-stages"
                }
                .to_owned(),
            );
        }
        if self.way != Way::IntoExisting && self.subject.known != Known::Nothing {
            steps.push(
                match options.ownership {
                    Ownership::AsDumped => "set owner, rights, settings, connection limit and comment",
                    Ownership::OfRestorer => "set rights, settings, connection limit and comment",
                }
                .to_owned(),
            );
        }
        if let Way::Create { unfinished, replaces, .. } = &self.way {
            let (from, to) = (quote_ident(unfinished), quote_ident(&self.into));
            if let Some(replaces) = replaces {
                steps.push(format!(
                    "ALTER DATABASE {to} RENAME TO {}, in one transaction with",
                    quote_ident(&replaces.name_after)
                ));
            }
            steps.push(format!("ALTER DATABASE {from} RENAME TO {to}"));
        }
        Ok(steps)
    }

    fn entries(&self) -> usize {
        self.subject.front.as_ref().map_or(0, |front| front.entries().len())
    }

    /// The call of `pg_restore` or `psql`.
    pub(super) fn call<'a>(&'a self, options: &Options, list: Option<&'a Path>) -> Call<'a> {
        Call {
            target: &self.target,
            database: self.way.working_name(&self.into),
            form: self.subject.form,
            jobs: options.jobs,
            on_error: options.on_error,
            transactions: self.transactions(options),
            ownership: options.ownership,
            privileges: options.privileges,
            cleans: options.existing == Existing::Clean,
            keeps_rows_apart: self.way == Way::IntoExisting,
            list,
        }
    }

    fn transactions(&self, options: &Options) -> Transactions {
        let was_there = matches!(self.way, Way::IntoEmpty | Way::IntoExisting);
        let one = options.atomicity == Atomicity::OneTransaction
            || (was_there
                && Call::allows_one_transaction(&self.target, self.subject.form, options.jobs, options.on_error));
        if one { Transactions::One } else { Transactions::Many }
    }

    /// Where one transaction is wanted, or all that saves what is there, the programs must be able to.
    fn check_transactions(&self, options: &Options) -> Result<()> {
        let wanted = options.atomicity == Atomicity::OneTransaction
            || (self.way == Way::IntoExisting && options.jobs.get() == 1 && options.on_error == OnError::Stop);
        if !wanted || Call::allows_one_transaction(&self.target, self.subject.form, options.jobs, options.on_error) {
            return Ok(());
        }
        let (clients, server) = (&self.target.tools.version, self.target.server_version() / 10_000);
        let what = format!("pg_restore {clients} cannot restore to PostgreSQL {server} in one transaction");
        Err(Error::refused(what)
            .because("it sets transaction_timeout, which that server does not know")
            .hint("name clients of PostgreSQL 16 or older with --bin-dir, as new as the dump's"))
    }

    /// Whether a failure leaves a part in a database that was there before.
    pub(super) fn may_leave_a_part(&self, options: &Options) -> bool {
        !matches!(self.way, Way::Create { .. })
            && (options.on_error == OnError::GoOn || self.transactions(options) == Transactions::Many)
    }
}
