//! A planned restore to a server, carried out.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::client::{self, Complaints};
use super::database;
use super::delivered::{Delivered, deliver};
use super::plan::{Leftover, Plan, Way};
use super::roles::{Step, StepKind};
use super::target::{has_oid, is_duplicate};
use super::{Analyze, Context, Item, OnError, Options, Selected, Stage};
use crate::command::stage::{At as _, Failed};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::ident::{quote_ident, quote_literal};
use crate::pg::session::Session;
use crate::progress::Unit;

pub struct Restorer<'a> {
    pub context: &'a Context,
    pub options: &'a Options,
    pub selected: &'a Selected,
    pub plan: &'a Plan,
}

impl Restorer<'_> {
    /// On a failure nothing is left of a database that was created here, except where errors are passed over.
    pub async fn restore(&self, item: &mut Item) -> Result<(), Failed<Stage>> {
        item.warnings.extend(self.plan.warnings.iter().cloned());
        self.claim().await.at(Stage::Claim)?;
        let delivered = deliver(self.context, self.options, self.selected);
        let delivered = self.context.interrupt.guard(delivered).await.at(Stage::Archive)?;
        self.make_room().await.at(Stage::Create)?;
        self.create().await.at(Stage::Create)?;
        let made = self.identify().await.at(Stage::Create)?;
        let failed = match self.fill(item, made, delivered).await {
            Ok(()) => return Ok(()),
            // Counted errors; the database is there, under its name.
            Err(failed) if failed.error.kind == Kind::Partial => return Err(failed),
            Err(failed) => failed,
        };
        let error = self.take_away(failed.error, Some(made), &mut item.warnings).await;
        let may_go_on = error.kind == Kind::Tool && self.options.on_error == OnError::Stop;
        let error = match error.next_step() {
            None if may_go_on => error.hint("--keep-going restores everything else, and lists what it could not"),
            _ => error,
        };
        Err(Failed { stage: failed.stage, error })
    }

    async fn claim(&self) -> Result<()> {
        let (into, address) = (&self.plan.into, self.plan.target.address());
        if self.plan.target.claim(into).await? {
            // Another restore may have ended between our look and our claim.
            return super::plan::still_free(self.plan).await;
        }
        Err(Error::new(Kind::Locked, format!("another restore into database {into:?} on {address} is under way"))
            .hint("wait until it has ended, or restore under another name with --into"))
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
        let id = &self.selected.manifest.id;
        let since = self.context.clock.now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let comment = format!("{}{id}, begun {since}", database::UNFINISHED_COMMENT);
        let sql = format!("COMMENT ON DATABASE {} IS {}", quote_ident(unfinished), quote_literal(&comment));
        if let Err(error) = client.batch_execute(&sql).await {
            let error = Error::new(Kind::Tool, format!("comment on database {unfinished:?}")).because(error);
            return Err(self.take_away(error, None, &mut Vec::new()).await);
        }
        Ok(())
    }

    fn not_created(&self, error: &tokio_postgres::Error) -> Error {
        let Plan { into, details, .. } = self.plan;
        let cause = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
        let created = Error::new(Kind::Tool, format!("create database {into:?}")).because(cause.clone());
        let database = &details.description.database;
        // Message texts are translated by the server; what fails with a locale names it.
        let locale = [&database.collate, &database.ctype].into_iter().find(|locale| cause.contains(locale.as_str()));
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
    async fn fill(&self, item: &mut Item, made: u32, delivered: Delivered) -> Result<(), Failed<Stage>> {
        let mut tolerated = Tolerated { on_error: self.options.on_error, words: Vec::new(), count: 0 };
        let guard = &self.context.interrupt;
        guard.guard(self.create_roles(item, &mut tolerated)).await.at(Stage::Roles)?;
        guard.guard(self.rehearse()).await.at(Stage::Finish)?;
        guard.guard(self.drop_public(&mut item.warnings)).await.at(Stage::Create)?;
        guard.guard(self.give_away(&mut tolerated)).await.at(Stage::Roles)?;
        let complaints = self.run_pg_restore(&delivered).await.at(Stage::Restore)?;
        tolerated.add(complaints);
        if self.options.analyze == Analyze::Stages {
            let (target, name) = (&self.plan.target, self.plan.way.working_name(&self.plan.into));
            let analyzed = client::analyze(self.context, target, name, self.options.jobs).await;
            item.warnings.extend(analyzed.at(Stage::Analyze)?);
        }
        guard.guard(self.finish(made, &mut tolerated)).await.at(Stage::Finish)?;
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
        let sql = self.owner(unfinished);
        match self.plan.target.session().client().batch_execute(&sql).await {
            Ok(()) => Ok(()),
            Err(error) => tolerated.weigh(Error::new(Kind::Tool, sql).because(error)),
        }
    }

    fn owner(&self, name: &str) -> String {
        let owner = &self.plan.details.description.database.owner;
        format!("ALTER DATABASE {} OWNER TO {}", quote_ident(name), quote_ident(owner))
    }

    async fn run_pg_restore(&self, delivered: &Delivered) -> Result<Complaints> {
        let task = self.context.monitor.task(&self.plan.into, Unit::Items, delivered.entries_with_data());
        let call = self.plan.call(self.options);
        call.run(self.context, delivered, task).await.doing(Kind::Tool, || format!("restore into {:?}", self.plan.into))
    }

    /// Owner, rights, limit, settings, comment and name at once: before, the database is unfinished; after, it is whole.
    async fn finish(&self, made: u32, tolerated: &mut Tolerated) -> Result<()> {
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
        if let Way::Create { unfinished, .. } = &self.plan.way {
            self.rename(client, unfinished).await?;
        }
        client.batch_execute("COMMIT").await.doing(Kind::Tool, || "commit the last step")?;
        session.close().await;
        Ok(())
    }

    /// Runs the last statements and takes them back: a setting that this server does not know is to be found now, not
    /// after hours, where it would cost everything that was restored. In a session of its own, whose end on an
    /// interruption takes its locks away before the database is dropped.
    async fn rehearse(&self) -> Result<()> {
        if self.options.on_error == OnError::GoOn {
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
        let Plan { target, into, details, way, .. } = self.plan;
        let name = way.working_name(into);
        let database = &details.description.database;
        let mut statements = vec![self.owner(name)];
        if let Some(acl) = &database.acl {
            match target.rights(session, acl).await {
                Ok(rights) => statements.extend(database::rights(name, &database.owner, &rights)),
                Err(error) => tolerated.weigh(error)?,
            }
        }
        let limit = database.connection_limit;
        statements.push(format!("ALTER DATABASE {} CONNECTION LIMIT {limit}", quote_ident(name)));
        if database.is_template {
            statements.push(format!("ALTER DATABASE {} IS_TEMPLATE true", quote_ident(name)));
        }
        let comment = database.comment.as_deref().map_or("NULL".to_owned(), quote_literal);
        statements.push(format!("COMMENT ON DATABASE {} IS {comment}", quote_ident(name)));
        let settings = details.description.settings.iter().map(|setting| Last {
            told: database::setting_subject(name, setting),
            sql: database::setting(name, setting),
        });
        Ok(statements.into_iter().map(|sql| Last { told: sql.clone(), sql }).chain(settings).collect())
    }

    /// template0 has a schema public, and `pg_dump` does not say where there was none.
    async fn drop_public(&self, warnings: &mut Vec<String>) -> Result<()> {
        let Way::Create { unfinished, .. } = &self.plan.way else { return Ok(()) };
        if !self.plan.details.description.database.lacks_public {
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

    async fn rename(&self, client: &Client, unfinished: &str) -> Result<()> {
        // Whoever looks into every database (a monitoring agent) may be in this one, too, and keep its name.
        let others = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                       WHERE datname = $1::pg_catalog.text AND pid <> pg_catalog.pg_backend_pid()";
        if let Err(error) = client.query("SAVEPOINT others", &[]).await {
            return Err(error).doing(Kind::Tool, || "set a savepoint");
        }
        if client.query(others, &[&unfinished]).await.is_err() {
            // The rename says who is in the way.
            client
                .batch_execute("ROLLBACK TO SAVEPOINT others")
                .await
                .doing(Kind::Tool, || "go back to the savepoint")?;
        }
        let into = &self.plan.into;
        let sql = format!("ALTER DATABASE {} RENAME TO {}", quote_ident(unfinished), quote_ident(into));
        client.batch_execute(&sql).await.map_err(|error| match error.code() {
            Some(&SqlState::DUPLICATE_DATABASE) => {
                Error::refused(format!("database {into:?} was created by somebody else during the restore"))
                    .hint("it was not touched; restore under another name with --into")
            }
            _ => Error::new(Kind::Tool, format!("rename database {unfinished:?} to {into:?}")).because(error),
        })
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
