//! A planned restore to a server, carried out.

use std::collections::BTreeMap;
use std::io::Write as _;

use tokio_postgres::Client;

use super::body::{Body, Form};
use super::client::{self, Complaints};
use super::database;
use super::decode::decode;
use super::log::Log;
use super::plan::Plan;
use super::roles::{Step, StepKind};
use super::subject::{DATABASE, Known, mapped_item};
use super::target::{has_oid, is_duplicate};
use super::way::{self, Leftover, Way};
use super::{Analyze, Context, Item, OnError, Options, Ownership, Privileges, Selected, SourceCopy, Stage};
use crate::command::stage::{At as _, Failed};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::ident::{quote_ident, quote_literal};
use crate::pg::session::Session;
use crate::progress::Unit;

pub struct Restorer<'a> {
    pub context: &'a Context,
    pub options: &'a Options,
    pub plan: &'a Plan,
    pub log: &'a Log,
}

/// Where the archive is.
pub enum Archived<'a> {
    Backup(&'a Selected),
    AtHand(Body),
}

/// Where errors are passed over, half of what was there and half of what came would be mixed.
const IN_THE_WAY: &str = "nothing was changed, unless a warning says so; what is there already is in the way: rename or \
    drop it, or let --clean --if-exists drop what is restored first; what it depends on must be there";

impl Restorer<'_> {
    /// On a failure nothing is left of a database that was created here, except where errors are passed over.
    pub async fn restore(&self, archived: Archived<'_>, item: &mut Item) -> Result<(), Failed<Stage>> {
        item.warnings.extend(self.plan.warnings.iter().cloned());
        self.claim().await.at(Stage::Claim)?;
        let guard = &self.context.interrupt;
        let body = guard.guard(self.body(archived)).await.at(Stage::Archive)?;
        self.make_room().await.at(Stage::Create)?;
        self.create().await.at(Stage::Create)?;
        let made = self.identify().await.at(Stage::Create)?;
        let failed = match self.fill(item, made, &body).await {
            Ok(()) => return Ok(()),
            // Counted errors; the database is there, under its name.
            Err(failed) if failed.error.kind == Kind::Partial => return Err(failed),
            Err(failed) => failed,
        };
        let error = self.take_away(failed.error, Some(made), &mut item.warnings).await;
        let may_go_on = error.kind == Kind::Tool && self.options.on_error == OnError::Stop;
        let error = match error.next_step() {
            None if may_go_on && self.plan.way == Way::IntoExisting => error.hint(IN_THE_WAY),
            None if may_go_on => error.hint("--keep-going restores everything else, and lists what it could not"),
            _ => error,
        };
        Err(Failed { stage: failed.stage, error })
    }

    async fn claim(&self) -> Result<()> {
        let (into, address) = (&self.plan.into, self.plan.target.address());
        if self.plan.target.claim(into).await? {
            // Another restore may have ended between our look and our claim.
            return way::still_free(self.plan).await;
        }
        Err(Error::new(Kind::Locked, format!("another restore into database {into:?} on {address} is under way"))
            .hint("wait until it has ended, or restore under another name with --into"))
    }

    /// The archive, checked to its end before the target is touched.
    async fn body(&self, archived: Archived<'_>) -> Result<Body> {
        let selected = match archived {
            Archived::Backup(selected) => selected,
            Archived::AtHand(body) => {
                if matches!(body.form(), Form::Tar | Form::Directory) {
                    client::check_whole(&self.plan.target, &self.context.interrupt, &body).await?;
                }
                return Ok(body);
            }
        };
        let (context, options) = (self.context, self.options);
        let decoded = async |copy: &SourceCopy| decode(context, options, selected, copy).await;
        selected.sources.deliver("the archive", decoded).await
    }

    async fn make_room(&self) -> Result<()> {
        match &self.plan.way {
            Way::Create { unfinished, leftover: Leftover::Drop, .. } => {
                // Without force: a session that came since the plan was made keeps it.
                let sql = format!("DROP DATABASE {}", quote_ident(unfinished));
                let client = self.plan.target.session().client();
                client.batch_execute(&sql).await.doing(Kind::Refused, || format!("drop the leftover {unfinished:?}"))
            }
            _ => Ok(()),
        }
    }

    async fn create(&self) -> Result<()> {
        let Way::Create { unfinished, sql, .. } = &self.plan.way else { return Ok(()) };
        if self.context.interrupt.is_requested() {
            return Err(self.context.interrupt.error());
        }
        // Not guarded: a server that was left alone with CREATE DATABASE ends it, and then nobody knows of it.
        let client = self.plan.target.session().client();
        client.batch_execute(sql).await.map_err(|error| self.not_created(&error))?;
        let name = &self.plan.subject.name;
        let since = self.context.clock.now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let comment = format!("{}{name}, begun {since}", database::UNFINISHED_COMMENT);
        let sql = format!("COMMENT ON DATABASE {} IS {}", quote_ident(unfinished), quote_literal(&comment));
        if let Err(error) = client.batch_execute(&sql).await {
            let error = Error::new(Kind::Tool, format!("comment on database {unfinished:?}")).because(error);
            return Err(self.take_away(error, None, &mut Vec::new()).await);
        }
        Ok(())
    }

    fn not_created(&self, error: &tokio_postgres::Error) -> Error {
        let Plan { into, subject, .. } = self.plan;
        let cause = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
        let created = Error::new(Kind::Tool, format!("create database {into:?}")).because(cause.clone());
        let database = &subject.description.database;
        // Message texts are translated by the server; what fails with a locale names it.
        let locale = [&database.collate, &database.ctype].into_iter();
        let locale = locale.filter(|locale| !locale.is_empty()).find(|locale| cause.contains(locale.as_str()));
        match locale {
            Some(locale) => created.hint(format!(
                "the server's host lacks locale {locale:?}: install it (Debian: add it to /etc/locale.gen and run \
                 locale-gen, then restart PostgreSQL), or create an empty database with a locale that it has, CREATE \
                 DATABASE {} TEMPLATE template0 ENCODING '{}' LOCALE 'C.UTF-8';, and restore into that",
                quote_ident(into),
                database.encoding
            )),
            None => created,
        }
    }

    /// The oid of the database that is to be filled.
    async fn identify(&self) -> Result<u32> {
        let name = self.plan.way.working_name(&self.plan.into);
        let found = self.plan.target.find_database(name).await?;
        found.map(|found| found.oid).ok_or_else(|| Error::refused(format!("database {name:?} was dropped meanwhile")))
    }

    /// Everything between an empty database and a whole one.
    async fn fill(&self, item: &mut Item, made: u32, body: &Body) -> Result<(), Failed<Stage>> {
        let mut tolerated = Tolerated { on_error: self.options.on_error, words: Vec::new(), count: 0 };
        let guard = &self.context.interrupt;
        guard.guard(self.create_roles(item, &mut tolerated)).await.at(Stage::Roles)?;
        guard.guard(self.rehearse()).await.at(Stage::Finish)?;
        guard.guard(self.drop_public(&mut item.warnings)).await.at(Stage::Create)?;
        guard.guard(self.give_away(&mut tolerated)).await.at(Stage::Roles)?;
        let complaints = self.run_pg_restore(body).await.at(Stage::Restore)?;
        tolerated.add(complaints);
        self.analyze(item).await.at(Stage::Analyze)?;
        guard.guard(self.finish(item, made, &mut tolerated)).await.at(Stage::Finish)?;
        tolerated.judge(&mut item.warnings).at(Stage::Restore)
    }

    /// In one transaction, so that a role is there with its memberships or not at all.
    async fn create_roles(&self, item: &mut Item, tolerated: &mut Tolerated) -> Result<()> {
        let steps = &self.plan.creation_of_roles.steps;
        if steps.is_empty() {
            return Ok(());
        }
        let client = self.plan.target.session().client();
        let mut foreign = Vec::new();
        let mut created = Vec::new();
        client.batch_execute("BEGIN").await.doing(Kind::Tool, || "begin the creation of roles")?;
        for step in steps.iter() {
            if foreign.contains(&step.role) {
                continue;
            }
            match savepoint(client, &step.sql).await {
                Ok(()) if step.what == StepKind::Create => created.push(step.role.clone()),
                Ok(()) => {}
                Err(error) if step.what == StepKind::Create && is_duplicate(&error) => foreign.push(step.role.clone()),
                Err(error) => tolerated.weigh(role_error(step, &error))?,
            }
        }
        self.join_created_roles(client, &created, item).await?;
        client.batch_execute("COMMIT").await.doing(Kind::Tool, || "commit the creation of roles")?;
        item.roles_created = created;
        Ok(())
    }

    /// Only a member of a role can make it own something; a superuser need not be one.
    async fn join_created_roles(&self, client: &Client, created: &[String], item: &mut Item) -> Result<()> {
        let me = self.plan.target.me().await?;
        if me.superuser || created.is_empty() {
            return Ok(());
        }
        for role in created {
            let sql = format!("GRANT {} TO {}", quote_ident(role), quote_ident(&me.name));
            client.batch_execute(&sql).await.doing(Kind::Tool, || sql.clone())?;
        }
        item.warnings.push(format!("role {:?} was made a member of the roles that were created", me.name));
        Ok(())
    }

    /// The owner of a database may create in its schema public, which whoever is to own a table there must.
    async fn give_away(&self, tolerated: &mut Tolerated) -> Result<()> {
        let Way::Create { unfinished, .. } = &self.plan.way else { return Ok(()) };
        let Some(sql) = self.owner(unfinished) else { return Ok(()) };
        match self.plan.target.session().client().batch_execute(&sql).await {
            Ok(()) => Ok(()),
            Err(error) => tolerated.weigh(Error::new(Kind::Tool, sql).because(error)),
        }
    }

    /// `None`: it belongs to whoever restores.
    fn owner(&self, name: &str) -> Option<String> {
        let owner = &self.plan.subject.description.database.owner;
        let given = self.options.ownership == Ownership::AsDumped && !owner.is_empty();
        given.then(|| format!("ALTER DATABASE {} OWNER TO {}", quote_ident(name), quote_ident(owner)))
    }

    async fn run_pg_restore(&self, body: &Body) -> Result<Complaints> {
        let task = self.context.monitor.task(&self.plan.into, Unit::Items, body.blocks());
        let list = match &self.plan.chosen {
            Some(chosen) => Some(self.list_file(&chosen.list())?),
            None => None,
        };
        let call = self.plan.call(self.options, list.as_ref().map(tempfile::NamedTempFile::path));
        let run = call.run(self.context, body, self.log, task);
        run.await.doing(Kind::Tool, || format!("restore into {:?}", self.plan.into))
    }

    /// `pg_restore` opens the list by its name; it holds numbers and nothing else.
    fn list_file(&self, list: &str) -> Result<tempfile::NamedTempFile> {
        let doing = || format!("write a list in {:?}", self.options.scratch);
        let made = tempfile::Builder::new().prefix("pgkeep-").suffix(".list").tempfile_in(&self.options.scratch);
        let mut file = made.doing(Kind::Storage, doing)?;
        file.write_all(list.as_bytes()).doing(Kind::Storage, doing)?;
        Ok(file)
    }

    async fn analyze(&self, item: &mut Item) -> Result<()> {
        if self.options.analyze == Analyze::No {
            return Ok(());
        }
        if self.plan.way == Way::IntoExisting {
            let analyzed = self.context.interrupt.guard(self.analyze_restored()).await;
            if let Err(error) = analyzed {
                if self.context.interrupt.is_requested() {
                    return Err(error);
                }
                item.warnings.push(format!("the planner has no statistics of what was restored: {error}; run ANALYZE"));
            }
            return Ok(());
        }
        let (target, name) = (&self.plan.target, self.plan.way.working_name(&self.plan.into));
        let analyzed = client::analyze(self.context, target, name, self.options.jobs, self.log).await?;
        item.warnings.extend(analyzed);
        Ok(())
    }

    /// Only the tables that were restored: three passes over the others would take the statistics away that they have.
    async fn analyze_restored(&self) -> Result<()> {
        let session = self.plan.target.session_in(Some(&self.plan.into)).await?;
        let Some(front) = &self.plan.subject.front else {
            self.log.line("run ANALYZE");
            session.client().batch_execute("ANALYZE").await.doing(Kind::Tool, || "analyze the database")?;
            session.close().await;
            return Ok(());
        };
        let chosen = &self.plan.chosen;
        let restored = front.entries().iter().map(|front| &front.entry);
        let restored = restored.filter(|entry| chosen.as_ref().is_none_or(|chosen| chosen.has(entry)));
        for entry in restored.filter(|entry| matches!(&*entry.desc, "TABLE DATA" | "MATERIALIZED VIEW DATA")) {
            let schema = entry.namespace.as_deref().unwrap_or("public");
            let sql = format!("ANALYZE {}.{}", quote_ident(schema), quote_ident(&entry.tag));
            self.log.line(&format!("run {sql}"));
            session.client().batch_execute(&sql).await.doing(Kind::Tool, || sql.clone())?;
        }
        session.close().await;
        Ok(())
    }

    /// Owner, rights, limit, settings, comment and name at once: before, the database is unfinished; after, it is whole.
    async fn finish(&self, item: &mut Item, made: u32, tolerated: &mut Tolerated) -> Result<()> {
        if self.plan.way == Way::IntoExisting {
            return Ok(());
        }
        // A new session: the first one was idle for as long as the restore took.
        let session = self.plan.target.session_in(None).await?;
        let client = session.client();
        let last = self.last_statements(&session, tolerated).await?;
        client.batch_execute("BEGIN").await.doing(Kind::Tool, || "begin the last step")?;
        for Last { told, sql } in &last {
            if let Err(error) = savepoint(client, sql).await {
                tolerated.weigh(Error::new(Kind::Tool, told).because(error))?;
            }
        }
        // The statements above hold the database of this name. Sessions and programs found it by name for hours, in which
        // a claim may have been lost with its session: what gets the real name must be what was filled.
        let name = self.plan.way.working_name(&self.plan.into);
        if !has_oid(client, name, made).await? {
            return Err(Error::refused(format!("database {name:?} is another one than the one that was filled"))
                .hint("somebody dropped or renamed it during the restore; start the restore again"));
        }
        let mut stays_beside = None;
        match &self.plan.way {
            Way::Create { unfinished, replaces: Some(replaced), .. } => {
                stays_beside = self.swap(client, unfinished, replaced).await?;
            }
            Way::Create { unfinished, .. } => self.rename(client, unfinished, &self.plan.into).await?,
            Way::IntoEmpty | Way::IntoExisting => {}
        }
        client.batch_execute("COMMIT").await.doing(Kind::Tool, || "commit the last step")?;
        session.close().await;
        self.tell_of_swap(item, stays_beside)
    }

    /// Runs the last statements and takes them back: a setting that this server does not know is to be found now, not
    /// after hours, where it would cost everything that was restored. In a session of its own, whose end on an
    /// interruption takes its locks away before the database is dropped.
    async fn rehearse(&self) -> Result<()> {
        if self.options.on_error == OnError::GoOn || self.plan.way == Way::IntoExisting {
            return Ok(());
        }
        let session = self.plan.target.session_in(None).await?;
        let client = session.client();
        let mut untolerated = Tolerated { on_error: OnError::Stop, words: Vec::new(), count: 0 };
        let last = self.last_statements(&session, &mut untolerated).await?;
        client.batch_execute("BEGIN").await.doing(Kind::Tool, || "begin the rehearsal of the last step")?;
        let mut result = Ok(());
        for Last { told, sql } in &last {
            if let Err(error) = client.batch_execute(sql).await {
                result = Err(Error::new(Kind::Tool, told).because(error));
                break;
            }
        }
        client.batch_execute("ROLLBACK").await.doing(Kind::Tool, || "end the rehearsal of the last step")?;
        session.close().await;
        result
    }

    /// Everything of the last step but the name.
    async fn last_statements(&self, session: &Session, tolerated: &mut Tolerated) -> Result<Vec<Last>> {
        let Plan { target, into, subject, way, .. } = self.plan;
        let name = way.working_name(into);
        let database = &subject.description.database;
        let quoted = quote_ident(name);
        let was_made = matches!(way, Way::Create { .. });
        if subject.known == Known::Nothing {
            // The comment says that it is unfinished.
            let sql = was_made.then(|| format!("COMMENT ON DATABASE {quoted} IS NULL"));
            return Ok(sql.into_iter().map(Last::shown).collect());
        }
        let mut statements: Vec<String> = self.owner(name).into_iter().collect();
        if let Some(acl) = database.acl.as_ref().filter(|_| self.options.privileges == Privileges::AsDumped) {
            let (owner, acl) = self.rights_of(acl).await?;
            match target.rights(session, &acl).await {
                Ok(rights) => statements.extend(database::rights(name, &owner, &rights)),
                Err(error) => tolerated.weigh(error)?,
            }
        }
        let limit = database.connection_limit;
        statements.push(format!("ALTER DATABASE {quoted} CONNECTION LIMIT {limit}"));
        if database.is_template {
            statements.push(format!("ALTER DATABASE {quoted} IS_TEMPLATE true"));
        }
        let comment = database.comment.as_deref().map_or("NULL".to_owned(), quote_literal);
        statements.push(format!("COMMENT ON DATABASE {quoted} IS {comment}"));
        let settings = subject.description.settings.iter().map(|setting| Last {
            told: database::setting_subject(name, setting),
            sql: database::setting(name, setting),
        });
        let properties = subject.properties.iter().filter(|sql| self.wants_property(sql)).map(|sql| Last {
            // A setting may be a secret.
            told: sql.split(DATABASE).next().unwrap_or_default().to_owned() + &quoted,
            sql: sql.replace(DATABASE, &quoted),
        });
        Ok(statements.into_iter().map(Last::shown).chain(settings).chain(properties).collect())
    }

    fn wants_property(&self, sql: &str) -> bool {
        let of_rights = ["GRANT", "REVOKE", "SET SESSION", "RESET SESSION"];
        self.options.privileges == Privileges::AsDumped || !of_rights.iter().any(|word| sql.starts_with(word))
    }

    /// Whoever restores stands for the owner where owners are left out.
    async fn rights_of(&self, acl: &[String]) -> Result<(String, Vec<String>)> {
        let owner = &self.plan.subject.description.database.owner;
        if self.options.ownership == Ownership::AsDumped {
            return Ok((owner.clone(), acl.to_vec()));
        }
        let me = self.plan.target.me().await?.name;
        let map = BTreeMap::from([(owner.clone(), me.clone())]);
        Ok((me, acl.iter().map(|item| mapped_item(item, &map)).collect()))
    }

    /// template0 has a schema public, and `pg_dump` does not say where there was none.
    async fn drop_public(&self, warnings: &mut Vec<String>) -> Result<()> {
        let Way::Create { unfinished, .. } = &self.plan.way else { return Ok(()) };
        if !self.plan.subject.description.database.lacks_public {
            return Ok(());
        }
        let session = self.plan.target.session_in(Some(unfinished)).await?;
        if let Err(error) = session.client().batch_execute("DROP SCHEMA public").await {
            let error = Error::new(Kind::Tool, "drop schema public, which the database did not have").because(error);
            warnings.push(error.to_string());
        }
        session.close().await;
        Ok(())
    }

    /// Removes what a failure left, and says what could not be removed. What has its name and another oid than `made`
    /// is somebody else's.
    async fn take_away(&self, error: Error, made: Option<u32>, warnings: &mut Vec<String>) -> Error {
        let Plan { target, into, way, .. } = self.plan;
        let Way::Create { unfinished, .. } = way else {
            if self.plan.may_leave_a_part(self.options) {
                warnings.push(format!("database {into:?}, which was there before, may hold a part of the dump now"));
            }
            return error;
        };
        if let Err(left) = target.drop_database(unfinished, made).await {
            warnings.push(format!(
                "an unfinished database is left: {left}; drop it: DROP DATABASE {} WITH (FORCE);",
                quote_ident(unfinished)
            ));
        }
        error
    }
}

/// A statement of the last step, and what an error shows of it: a setting of one's own may be a secret.
struct Last {
    told: String,
    sql: String,
}

impl Last {
    fn shown(sql: String) -> Self {
        Self { told: sql.clone(), sql }
    }
}

/// Errors that are passed over, if they may be.
struct Tolerated {
    on_error: OnError,
    words: Vec<String>,
    count: usize,
}

impl Tolerated {
    fn weigh(&mut self, error: Error) -> Result<()> {
        if self.on_error == OnError::Stop {
            return Err(error);
        }
        self.count += 1;
        self.words.push(error.to_string());
        Ok(())
    }

    fn add(&mut self, complaints: Complaints) {
        self.count += complaints.count;
        self.words.extend(complaints.words);
    }

    fn judge(self, warnings: &mut Vec<String>) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let told = self.words.len();
        warnings.extend(self.words);
        if told < self.count {
            warnings.push(format!("{} more errors are not listed here; -vv shows them", self.count - told));
        }
        let errors = if self.count == 1 { "1 error was".to_owned() } else { format!("{} errors were", self.count) };
        Err(Error::new(Kind::Partial, format!("{errors} passed over; the rest is restored"))
            .hint("look at the warnings: what they name is missing"))
    }
}

/// Runs a statement of a transaction so that its failure leaves the transaction usable.
async fn savepoint(client: &Client, sql: &str) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("SAVEPOINT step").await?;
    let done = client.batch_execute(sql).await;
    if done.is_err() {
        client.batch_execute("ROLLBACK TO SAVEPOINT step").await?;
    }
    done?;
    client.batch_execute("RELEASE SAVEPOINT step").await
}

/// The statement may hold a password and is not shown.
fn role_error(step: &Step, error: &tokio_postgres::Error) -> Error {
    let doing = match step.what {
        StepKind::Create => "create",
        StepKind::Property => "set up",
        StepKind::Membership => "give memberships to",
    };
    let cause = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    Error::new(Kind::Tool, format!("{doing} role {:?}", step.role)).because(cause)
}
