//! The database that is dumped: the connection, the clients that fit, and the snapshot that everything is read in.

use super::{Context, Filter, Options, PlannedItem};
use crate::config::environment::Environment;
use crate::error::{Doing, Kind, Result};
use crate::pg::conninfo::ConnectTarget;
use crate::pg::database::Description;
use crate::pg::pattern::matches;
use crate::pg::session::{ChildConnection, Session, SessionOptions};
use crate::pg::tools::Tools;
use crate::process::Program;
use crate::repo::SystemIdentifier;

pub struct Source {
    session: Session,
    target: ConnectTarget,
    connection: ChildConnection,
    environment: Environment,
    pub clients: Tools,
    pub warnings: Vec<String>,
}

/// A transaction whose view of the database `pg_dump` shares, so that the description is of what was dumped.
pub struct Snapshot {
    pub name: String,
    pub description: Description,
}

impl Source {
    pub async fn connect(context: &Context, options: &Options, planned: &PlannedItem) -> Result<Self> {
        let target = ConnectTarget::resolve(&planned.flags, &context.environment)?;
        let session_options = SessionOptions { retry_budget: options.connect_retry, ..SessionOptions::default() };
        let session = Session::connect(&target, &session_options).await?;
        let clients = options.clients.for_server(session.server_version_num() / 10_000).await?;
        options.compress.check_clients(&clients)?;
        let connection = clients.connection(&target, session.endpoint(), &context.scratch())?;
        let warnings = target.warnings.clone();
        Ok(Self { session, target, connection, environment: context.environment.clone(), clients, warnings })
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    pub fn target(&self) -> &ConnectTarget {
        &self.target
    }

    pub fn database(&self) -> &str {
        &self.session.endpoint().dbname
    }

    pub fn host(&self) -> String {
        self.session.endpoint().called()
    }

    pub fn port(&self) -> u16 {
        self.session.endpoint().port
    }

    pub fn server_version(&self) -> u32 {
        self.session.server_version_num()
    }

    /// The encoding of the database, by PostgreSQL's name.
    pub fn encoding(&self) -> &str {
        self.session.encoding()
    }

    pub fn system_identifier(&self) -> Option<SystemIdentifier> {
        self.session.system_identifier().map(SystemIdentifier)
    }

    /// `PostgreSQL 15.18 at db1:5432 as backup`.
    pub fn describe_server(&self) -> String {
        let (major, minor) = (self.server_version() / 10_000, self.server_version() % 10_000);
        let endpoint = self.session.endpoint();
        format!("PostgreSQL {major}.{minor} at {}:{} as {}", endpoint.called(), endpoint.port, endpoint.user)
    }

    /// Opens the transaction and reads what the database says of itself. It stays open until the source is dropped.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let client = self.session.client();
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        client.batch_execute(begin).await.doing(Kind::Tool, || "begin the transaction of the snapshot")?;
        let row = client.query_one("SELECT pg_catalog.pg_export_snapshot()", &[]).await;
        let name = row.doing(Kind::Tool, || "export the snapshot")?.get(0);
        let description = Description::read(client, self.server_version()).await?;
        Ok(Snapshot { name, description })
    }

    /// What of a choice leaves nothing out, in the transaction of the snapshot.
    pub async fn idle_exclusions(&self, filter: &Filter) -> Result<Vec<String>> {
        let mut idle = Vec::new();
        for (option, pattern, named) in filter.exclusions() {
            if !matches(self.session.client(), pattern, named).await? {
                idle.push(format!("{option}={pattern} matches nothing, so it leaves nothing out"));
            }
        }
        Ok(idle)
    }

    /// Whether the role may read the password hashes of the cluster.
    pub async fn may_read_passwords(&self) -> Result<bool> {
        let query = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')";
        let row = self.session.client().query_one(query, &[]).await;
        Ok(row.doing(Kind::Tool, || "ask for the right to read pg_authid")?.get(0))
    }

    /// One of the client programs, with the connection in its environment.
    pub fn client(&self, name: &str) -> Result<Program> {
        let program = self.clients.client(name, &self.environment, &self.connection, &[])?;
        Ok(program.arg("--no-password"))
    }

    /// The value of `--dbname` that names the database and nothing else, whatever characters it has.
    pub fn dbname_argument(&self) -> String {
        self.connection.dbname_argument(self.database())
    }
}
