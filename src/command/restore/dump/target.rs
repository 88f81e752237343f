//! The server that is restored to: what it has, and the sessions and programs that work on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::database::{Grantable, Right, UNFINISHED_COMMENT};
use super::{Context, Server};
use crate::config::environment::Environment;
use crate::error::{Doing, Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::pg::conninfo::{ConnectTarget, ConnectionFlags};
use crate::pg::ident::quote_ident;
use crate::pg::session::{Access, ChildConnection, Session, SessionOptions};
use crate::pg::tools::Tools;
use crate::process::Program;

/// Databases that every cluster has, where the work on other databases is done from.
const MAINTENANCE: [&str; 2] = ["postgres", "template1"];

pub struct Target {
    flags: ConnectionFlags,
    options: SessionOptions,
    interrupt: Interrupt,
    environment: Environment,
    session: Session,
    connection: ChildConnection,
    /// When the server started: two connections with one answer are to one server.
    started: String,
    pub tools: Tools,
    pub warnings: Vec<String>,
}

/// What the role that restores may do.
#[derive(Clone, Debug)]
pub struct Me {
    pub name: String,
    pub superuser: bool,
    pub create_databases: bool,
    pub create_roles: bool,
}

/// A role of the target that owned something in the source.
#[derive(Clone, Debug)]
pub struct Owner {
    pub name: String,
    pub superuser: bool,
}

/// A database that is there before the restore.
#[derive(Clone, Debug)]
pub struct Found {
    pub oid: u32,
    /// Whether new databases are copied from it.
    pub is_template: bool,
    pub comment: Option<String>,
    /// Without autovacuum's, which DROP DATABASE ends by itself.
    pub sessions: i64,
}

impl Found {
    /// Whether its comment says that a restore of ours made it and did not finish it.
    pub fn is_unfinished_restore(&self) -> bool {
        self.comment.as_deref().is_some_and(|comment| comment.starts_with(UNFINISHED_COMMENT))
    }
}

impl Target {
    /// Connects to a database that is not the one to restore into. `tools` are chosen by the server's version.
    pub async fn connect(
        context: &Context,
        server: &Server,
        into: &str,
        archive_major: u32,
        scratch: &std::path::Path,
    ) -> Result<Self> {
        let flags = match &server.to {
            Some(to) => {
                refuse_other_database(context, server, to, into)?;
                ConnectionFlags { dbname: Some(to.clone()), ..server.connection.clone() }
            }
            None => ConnectionFlags { dbname: None, ..server.connection.clone() },
        };
        let options = SessionOptions { access: Access::ReadWrite, retry_budget: server.connect_retry };
        let (target, session) = maintenance_session(&flags, &context.environment, &options, into).await?;
        if session.in_recovery() {
            let at = describe(&session);
            return Err(Error::refused(format!("{at} is a standby, nothing can be restored to it"))
                .hint("name the primary with -h or --to"));
        }
        let tools = super::client::choose(&server.clients, archive_major, session.server_version_num()).await?;
        let connection = tools.connection(&target, session.endpoint(), scratch)?;
        let started = started(&session).await?;
        let flags = ConnectionFlags { database: Some(target.dbname), ..flags };
        let warnings = target.warnings;
        Ok(Self {
            flags,
            options,
            interrupt: context.interrupt.clone(),
            environment: context.environment.clone(),
            session,
            connection,
            started,
            tools,
            warnings,
        })
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    pub fn server_version(&self) -> u32 {
        self.session.server_version_num()
    }

    /// `db1:5432`.
    pub fn address(&self) -> String {
        let endpoint = self.session.endpoint();
        let host = match (&endpoint.host, endpoint.address) {
            (host, Some(address)) if host.is_empty() => address.ip().to_string(),
            (host, _) => host.clone(),
        };
        format!("{host}:{}", endpoint.port)
    }

    pub fn user(&self) -> &str {
        &self.session.endpoint().user
    }

    /// A new session with the same server, for work after hours in which the first may have been cut.
    pub async fn session_in(&self, database: Option<&str>) -> Result<Session> {
        let flags = match database {
            Some(database) => ConnectionFlags { database: Some(database.to_owned()), ..self.flags.clone() },
            None => self.flags.clone(),
        };
        // What led to the server does not come back.
        let is_lost = self.interrupt.has_lost();
        let retry_budget = if is_lost { Duration::ZERO } else { self.options.retry_budget };
        let options = SessionOptions { retry_budget, ..self.options };
        let session = Session::connect(&ConnectTarget::resolve(&flags, &self.environment)?, &options).await?;
        if started(&session).await? != self.started {
            return Err(Error::refused(format!(
                "{} is another server than before, or was restarted",
                describe(&session)
            ))
            .hint("start the restore again; name one host where several were named"));
        }
        Ok(session)
    }

    /// One of the client programs, with the connection in its environment and its messages untranslated.
    pub fn client(&self, name: &str) -> Result<Program> {
        let program = self.tools.client(name, &self.environment, &self.connection, &[("LC_ALL", "C")])?;
        Ok(program.arg("--no-password"))
    }

    /// One of the client programs, for work that takes no server.
    pub fn client_without_server(&self, name: &str) -> Result<Program> {
        self.tools.client(name, &self.environment, &self.connection, &[("LC_ALL", "C")])
    }

    pub fn dbname_argument(&self, database: &str) -> String {
        self.connection.dbname_argument(database)
    }

    pub async fn me(&self) -> Result<Me> {
        let query = "SELECT rolname::pg_catalog.text, rolsuper, rolcreatedb, rolcreaterole
                       FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let row = self.session.client().query_one(query, &[]).await.doing(Kind::Tool, || "read pg_roles")?;
        let superuser = row.get(1);
        Ok(Me {
            name: row.get(0),
            superuser,
            create_databases: superuser || row.get(2),
            create_roles: superuser || row.get(3),
        })
    }

    pub async fn roles(&self) -> Result<BTreeSet<String>> {
        self.names("SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles").await
    }

    pub async fn tablespaces(&self) -> Result<BTreeSet<String>> {
        self.names("SELECT spcname::pg_catalog.text FROM pg_catalog.pg_tablespace").await
    }

    async fn names(&self, query: &str) -> Result<BTreeSet<String>> {
        let rows =
            self.session.client().query(query, &[]).await.doing(Kind::Tool, || "read the target's catalogues")?;
        // A name in another encoding than UTF-8 is told unconverted; it is none that a dump could name.
        Ok(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())
    }

    /// The extensions that can be created, with the version that `CREATE EXTENSION` takes.
    pub async fn available_extensions(&self) -> Result<BTreeMap<String, Option<String>>> {
        let query = "SELECT name::pg_catalog.text, default_version FROM pg_catalog.pg_available_extensions";
        let rows = self.session.client().query(query, &[]).await;
        let rows = rows.doing(Kind::Tool, || "read pg_available_extensions")?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Those of `owners` that the role that restores may not give objects to. Roles that do not exist are not asked.
    pub async fn owners_beyond_reach(&self, owners: &BTreeSet<String>) -> Result<Vec<Owner>> {
        let owners: Vec<&String> = owners.iter().collect();
        let right = if self.server_version() >= 160_000 { "SET" } else { "MEMBER" };
        let query = format!(
            "SELECT rolname::pg_catalog.text, rolsuper FROM pg_catalog.pg_roles
              WHERE rolname::pg_catalog.text = ANY ($1) AND NOT pg_catalog.pg_has_role(oid, '{right}') ORDER BY 1"
        );
        let rows = self.session.client().query(query.as_str(), &[&owners]).await;
        let owner = |row: &tokio_postgres::Row| Owner { name: row.get(0), superuser: row.get(1) };
        Ok(rows.doing(Kind::Tool, || "ask pg_has_role")?.iter().map(owner).collect())
    }

    pub async fn find_database(&self, name: &str) -> Result<Option<Found>> {
        let query = "SELECT d.oid, d.datistemplate, pg_catalog.shobj_description(d.oid, 'pg_database'),
                            (SELECT count(*) FROM pg_catalog.pg_stat_activity a
                              WHERE a.datid = d.oid AND a.backend_type IS DISTINCT FROM 'autovacuum worker')
                       FROM pg_catalog.pg_database d WHERE d.datname = $1::pg_catalog.text";
        let row = self.session.client().query_opt(query, &[&name]).await;
        let row = row.doing(Kind::Tool, || format!("look for database {name:?}"))?;
        // A comment that is not UTF-8 is none of ours.
        let comment = |row: &tokio_postgres::Row| row.try_get(2).ok().flatten();
        Ok(row.map(|row| Found {
            oid: row.get(0),
            is_template: row.get(1),
            comment: comment(&row),
            sessions: row.get(3),
        }))
    }

    /// Whether this session is in the database of this name.
    pub fn works_in(&self, database: &str) -> bool {
        self.session.endpoint().dbname == database
    }

    /// Whether the role owns the database, as renaming takes; that it may create databases is asked elsewhere.
    pub async fn may_rename(&self, database: &str) -> Result<bool> {
        let query = "SELECT pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database
                      WHERE datname = $1::pg_catalog.text";
        let row = self.session.client().query_one(query, &[&database]).await;
        Ok(row.doing(Kind::Tool, || format!("ask who owns database {database:?}"))?.get(0))
    }

    /// Keeps other restores away from the database of this name until the session ends; false if another one does.
    /// A name, not a database: what is guarded may not exist yet.
    pub async fn claim(&self, database: &str) -> Result<bool> {
        let digest = crate::digest::Sha256::of(format!("pgkeep restore into {database}").as_bytes()).to_string();
        let key = u64::from_str_radix(&digest[..16], 16).unwrap_or_default().cast_signed();
        let row = self.session.client().query_one("SELECT pg_catalog.pg_try_advisory_lock($1)", &[&key]).await;
        Ok(row.doing(Kind::Tool, || format!("claim database {database:?}"))?.get(0))
    }

    /// Removes a database that a restore made, with the sessions that are in it; nothing if the name is another's now.
    pub async fn drop_database(&self, name: &str, oid: Option<u32>) -> Result<()> {
        let session = self.session_in(None).await?;
        if let Some(oid) = oid
            && !has_oid(session.client(), name, oid).await?
        {
            return Ok(());
        }
        let force = if self.server_version() >= 130_000 { " WITH (FORCE)" } else { "" };
        let sql = format!("DROP DATABASE IF EXISTS {}{force}", quote_ident(name));
        session.client().batch_execute(&sql).await.doing(Kind::Tool, || format!("drop database {name:?}"))?;
        session.close().await;
        Ok(())
    }

    /// Takes an array of rights apart as the server reads it: the roles that it names must exist.
    pub async fn rights(&self, session: &Session, acl: &[String]) -> Result<Vec<Right>> {
        if acl.is_empty() {
            // Everything was taken from everybody. The server takes no array without dimensions for a list of rights.
            return Ok(Vec::new());
        }
        let query = "
            SELECT CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee)::pg_catalog.text END,
                   pg_catalog.pg_get_userbyid(a.grantor)::pg_catalog.text, a.privilege_type, a.is_grantable
              FROM pg_catalog.aclexplode($1::pg_catalog.text[]::pg_catalog.aclitem[]) WITH ORDINALITY a
             ORDER BY ordinality";
        let rows = session.client().query(query, &[&acl]).await.doing(Kind::Tool, || "read the database's rights")?;
        let right = |row: &tokio_postgres::Row| Right {
            grantee: row.get(0),
            grantor: row.get(1),
            privilege: row.get(2),
            grantable: if row.get(3) { Grantable::Yes } else { Grantable::No },
        };
        Ok(rows.iter().map(right).collect())
    }
}

fn describe(session: &Session) -> String {
    format!("{}:{}", session.endpoint().host, session.endpoint().port)
}

async fn started(session: &Session) -> Result<String> {
    let query = "SELECT pg_catalog.pg_postmaster_start_time()::pg_catalog.text";
    let row = session.client().query_one(query, &[]).await.doing(Kind::Connect, || "ask when the server started")?;
    Ok(row.get(0))
}

async fn maintenance_session(
    flags: &ConnectionFlags,
    environment: &Environment,
    options: &SessionOptions,
    into: &str,
) -> Result<(ConnectTarget, Session)> {
    let mut first = None;
    // A role of a managed service may be let into its own database only.
    for database in MAINTENANCE.into_iter().chain([into]) {
        let flags = ConnectionFlags { database: Some(database.to_owned()), ..flags.clone() };
        let target = ConnectTarget::resolve(&flags, environment)?;
        match Session::connect(&target, options).await {
            Ok(session) => return Ok((target, session)),
            Err(error) if error.to_string().contains(&format!("database \"{database}\"")) => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(first.unwrap_or(error)),
        }
    }
    Err(first.unwrap_or_else(|| Error::new(Kind::Connect, "there is no database to connect to")))
}

/// `--to` says where, `--into` says which: a database in the URI that is neither is a mistake that would restore
/// elsewhere than meant.
fn refuse_other_database(context: &Context, server: &Server, to: &str, into: &str) -> Result<()> {
    const NOT_NAMED: &str = "\u{1}";
    let kept = context.environment.iter().filter(|(name, _)| *name != "PGDATABASE");
    let kept = kept.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let probe = kept.chain([("PGDATABASE".into(), NOT_NAMED.into())]);
    let mut environment = Environment::from_pairs(probe);
    if let Some(account) = context.environment.account() {
        environment = environment.with_account(account);
    }
    let flags = ConnectionFlags { dbname: Some(to.to_owned()), ..server.connection.clone() };
    let named = ConnectTarget::resolve(&flags, &environment)?.dbname;
    if named == NOT_NAMED || named == into || MAINTENANCE.contains(&named.as_str()) {
        return Ok(());
    }
    Err(Error::usage(format!("--to names database {named:?}, and the restore would go into {into:?}"))
        .hint(format!("--to names the server only: say --into {}", crate::process::shell_word(named.as_ref()))))
}

/// What lies in a database that nobody made with `initdb`, by kind: a few names and how many there are.
pub async fn contents(session: &Session) -> Result<Vec<(String, Vec<String>, i64)>> {
    // `public` and plpgsql come with every database, and have new oids in a cluster that pg_upgrade made.
    const FIRST_USER_OID: u32 = 16_384;
    let query = format!(
        "WITH found (kind, classid, oid, name) AS (
            SELECT 'relation', 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, n.nspname || '.' || c.relname
              FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
            UNION ALL SELECT 'function', 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, n.nspname || '.' || p.proname
              FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            UNION ALL SELECT 'type', 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, n.nspname || '.' || t.typname
              FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
             WHERE t.typrelid = 0 AND t.typtype IN ('d', 'e', 'r', 'b') AND t.typcategory <> 'A'
            UNION ALL SELECT 'schema', 'pg_catalog.pg_namespace'::pg_catalog.regclass, oid, nspname::pg_catalog.text
              FROM pg_catalog.pg_namespace WHERE nspname <> 'public' AND nspname !~ '^pg_'
            UNION ALL SELECT 'large object', 'pg_catalog.pg_largeobject'::pg_catalog.regclass, oid, oid::pg_catalog.text
              FROM pg_catalog.pg_largeobject_metadata
            UNION ALL SELECT 'extension', 'pg_catalog.pg_extension'::pg_catalog.regclass, oid, extname::pg_catalog.text
              FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'
            UNION ALL SELECT 'event trigger', 'pg_catalog.pg_event_trigger'::pg_catalog.regclass, oid, evtname::pg_catalog.text
              FROM pg_catalog.pg_event_trigger
            UNION ALL SELECT 'publication', 'pg_catalog.pg_publication'::pg_catalog.regclass, oid, pubname::pg_catalog.text
              FROM pg_catalog.pg_publication
            UNION ALL SELECT 'foreign-data wrapper', 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, oid, fdwname::pg_catalog.text
              FROM pg_catalog.pg_foreign_data_wrapper
            UNION ALL SELECT 'operator', 'pg_catalog.pg_operator'::pg_catalog.regclass, oid, oprname::pg_catalog.text
              FROM pg_catalog.pg_operator
            UNION ALL SELECT 'collation', 'pg_catalog.pg_collation'::pg_catalog.regclass, oid, collname::pg_catalog.text
              FROM pg_catalog.pg_collation
            UNION ALL SELECT 'cast', 'pg_catalog.pg_cast'::pg_catalog.regclass, oid, oid::pg_catalog.text
              FROM pg_catalog.pg_cast)
         SELECT kind::pg_catalog.text, (pg_catalog.array_agg(name ORDER BY name))[1:3], count(*)
           FROM found
          WHERE (oid >= {FIRST_USER_OID} OR kind = 'large object')
            AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                             WHERE d.classid = found.classid AND d.objid = found.oid AND d.deptype = 'e')
          GROUP BY kind ORDER BY kind"
    );
    let rows =
        session.client().query(query.as_str(), &[]).await.doing(Kind::Tool, || "look at what the target holds")?;
    let garbled = || vec!["a name that is not UTF-8".to_owned()];
    Ok(rows.iter().map(|row| (row.get(0), row.try_get(1).unwrap_or_else(|_| garbled()), row.get(2))).collect())
}

/// Who uses a database, a line each: `app from 10.0.0.7 (psql, idle)`.
pub async fn sessions_in(client: &tokio_postgres::Client, database: &str) -> Result<Vec<String>> {
    let query = "
        SELECT pg_catalog.concat(coalesce(usename::pg_catalog.text, 'the server'),
                                 ' from ' || pg_catalog.host(client_addr),
                                 ' (' || pg_catalog.concat_ws(', ', nullif(application_name, ''), state,
                                                              'pid ' || pid::pg_catalog.text) || ')')
          FROM pg_catalog.pg_stat_activity
         WHERE datname = $1::pg_catalog.text AND backend_type IS DISTINCT FROM 'autovacuum worker'
         ORDER BY pid LIMIT 20";
    let doing = || format!("ask who uses database {database:?}");
    // Within a transaction the first look is remembered.
    client.execute("SELECT pg_catalog.pg_stat_clear_snapshot()", &[]).await.doing(Kind::Tool, doing)?;
    let rows = client.query(query, &[&database]).await.doing(Kind::Tool, doing)?;
    Ok(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())
}

/// The schemas of the session's database but those of the system.
pub async fn schemas(session: &Session) -> Result<BTreeSet<String>> {
    let query = "SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_'";
    let rows = session.client().query(query, &[]).await.doing(Kind::Tool, || "read pg_namespace")?;
    Ok(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())
}

/// Whether the database of this name is the one of this oid.
pub async fn has_oid(client: &tokio_postgres::Client, name: &str, oid: u32) -> Result<bool> {
    let query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database
                                 WHERE datname = $1::pg_catalog.text AND oid = $2)";
    let row = client.query_one(query, &[&name, &oid]).await;
    Ok(row.doing(Kind::Tool, || format!("look for database {name:?}"))?.get(0))
}

/// Whether a statement failed because somebody else has made the object meanwhile.
pub fn is_duplicate(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::DUPLICATE_OBJECT | &SqlState::UNIQUE_VIOLATION))
}
