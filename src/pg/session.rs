//! SQL sessions: connected as `psql` would be, then made independent of what the server or the role has configured.

mod attempt;
mod child;
mod failure;
mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::conninfo::{ConnectTarget, HostOrder, HostTarget, SessionAttributes};
use crate::config::secret::Secret;
use crate::error::{Error, Kind, Result};
pub use attempt::Encryption;
use attempt::{Background, Login};
pub use child::ChildConnection;
use failure::{Cause, Failure, Next};

/// The name under which sessions appear in `pg_stat_activity` unless the user chose another.
pub const APPLICATION_NAME: &str = "pgkeep";

/// How long a refused connection is tried again unless told otherwise: a restarting server is back by then.
pub const DEFAULT_RETRY_BUDGET: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Transactions are read-only unless they say otherwise.
    ReadOnly,
    ReadWrite,
}

#[derive(Clone, Debug)]
pub struct SessionOptions {
    pub access: Access,
    /// For refused connections and servers that are starting up; a wrong password is never tried twice.
    /// Zero tries once.
    pub retry_budget: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { access: Access::ReadOnly, retry_budget: DEFAULT_RETRY_BUDGET }
    }
}

/// Which server, database and role a session has really reached.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The name, socket directory or abstract socket as given; empty where only an address was given.
    pub host: String,
    /// The address behind the name, or where the tunnel to it begins; `None` on a Unix socket.
    pub address: Option<SocketAddr>,
    /// The server's own, whatever a tunnel makes of it.
    pub port: u16,
    pub user: String,
    pub dbname: String,
    pub encryption: Encryption,
    password: Option<Secret>,
}

impl Endpoint {
    /// What the server is called: its name or socket, its address where it was given no other.
    pub fn called(&self) -> String {
        match self.address {
            Some(address) if self.host.is_empty() => address.ip().to_string(),
            _ => self.host.clone(),
        }
    }
}

/// For people: what is printed before work begins.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {:?} as {:?} on {:?}, port {}", self.dbname, self.user, self.called(), self.port)
    }
}

/// An open session. Dropping it ends the connection and its task; [`Session::close`] also waits for that.
#[derive(Debug)]
pub struct Session {
    // Dropped in this order: the connection task sees that the client is gone, then that it must stop.
    client: Client,
    background: Background,
    endpoint: Endpoint,
    server: Server,
}

/// What a session asks first.
#[derive(Debug)]
struct Server {
    version_num: u32,
    in_recovery: bool,
    encoding: String,
    system_identifier: Option<u64>,
}

impl Session {
    /// Tries the hosts of `target` in order, every address of each, as libpq does, until one has the attributes that
    /// are asked for.
    ///
    /// Dropping the future closes whatever was open. Errors are of [`Kind::Connect`] and name each place tried with
    /// its own cause.
    pub async fn connect(target: &ConnectTarget, options: &SessionOptions) -> Result<Self> {
        let fetched = with_password(target).await?;
        let target = fetched.as_ref().unwrap_or(target);
        let deadline = Instant::now() + options.retry_budget;
        let mut pause = FIRST_PAUSE;
        loop {
            let failures = match try_all(target).await {
                Ok((login, endpoint)) => {
                    return Self::begin(login, endpoint, options.access, target.connect_timeout).await;
                }
                Err(failures) => failures,
            };
            let passing = failures.iter().any(|failure| failure.cause.may_pass())
                && failures.last().is_none_or(|last| last.cause.next() != Next::GiveUp);
            if !passing || Instant::now() + pause > deadline {
                return Err(failure::report(target, &failures));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn begin(login: Login, endpoint: Endpoint, access: Access, limit: Option<Duration>) -> Result<Self> {
        let client = login.client;
        let why = match within(limit, prepare(&client, access)).await {
            Some(Ok(server)) => return Ok(Self { client, background: login.background, endpoint, server }),
            Some(Err(e)) => failure::text_of(e),
            None => failure::no_answer(limit),
        };
        Err(Error::new(Kind::Connect, format!("prepare a session with {endpoint}"))
            .because(why)
            .hint("check that the server stays up and that nothing between ends sessions, then run again"))
    }

    /// Speaks SQL. `search_path` is empty: every name needs its schema.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// For transactions, which need the client exclusively.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// As PostgreSQL counts: 150020 is 15.20.
    pub fn server_version_num(&self) -> u32 {
        self.server.version_num
    }

    /// Whether the server was a standby when the session began.
    pub fn in_recovery(&self) -> bool {
        self.server.in_recovery
    }

    /// The encoding of the database, by PostgreSQL's name: `UTF8`.
    pub fn encoding(&self) -> &str {
        &self.server.encoding
    }

    /// The identity of the cluster; `None` where the role may not ask or the server does not know the question.
    pub fn system_identifier(&self) -> Option<u64> {
        self.server.system_identifier
    }

    /// Ends the session and waits until its connection is closed, at most a few seconds.
    pub async fn close(self) {
        drop(self.client);
        self.background.finish().await;
    }
}

/// The target with the password of now, if one has to be fetched.
async fn with_password(target: &ConnectTarget) -> Result<Option<ConnectTarget>> {
    let Some(source) = &target.password else { return Ok(None) };
    let password = source.fetch().await?;
    let mut target = target.clone();
    target.hosts.iter_mut().for_each(|host| host.password = Some(password.clone()));
    Ok(Some(target))
}

/// `None` where `work` takes longer than `limit`.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        None => Some(work.await),
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
    }
}

async fn prepare(client: &Client, access: Access) -> Result<Server, tokio_postgres::Error> {
    client.batch_execute(&preamble(access)).await?;
    notice_our_end(client).await?;
    let row = client
        .query_one(
            "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4, pg_catalog.pg_is_in_recovery(),
                    pg_catalog.getdatabaseencoding()::pg_catalog.text",
            &[],
        )
        .await?;
    Ok(Server {
        version_num: row.try_get::<_, i32>(0)?.unsigned_abs(),
        in_recovery: row.try_get(1)?,
        encoding: row.try_get(2)?,
        system_identifier: system_identifier(client).await?,
    })
}

/// A role's or database's own settings must not end, block or misdirect a backup. The view holds only settings that
/// the server has, so that one text fits every version (idle_session_timeout is of 14, transaction_timeout of 17).
fn preamble(access: Access) -> String {
    let read_only = match access {
        Access::ReadOnly => "on",
        Access::ReadWrite => "off",
    };
    format!(
        "SET statement_timeout = 0;\
         SELECT pg_catalog.set_config('search_path', '', false);\
         SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN \
         ('lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout');\
         SET row_security = off; SET default_transaction_read_only = {read_only}"
    )
}

/// Asks the server (14 and newer) to look now and then whether we are still there: otherwise a backend that waits for a
/// lock keeps its place in the queue after our death, and blocks others. Servers that cannot look refuse the setting.
async fn notice_our_end(client: &Client) -> Result<(), tokio_postgres::Error> {
    let asked = client
        .batch_execute(
            "SELECT pg_catalog.set_config(name, '2s', false) FROM pg_catalog.pg_settings \
             WHERE name = 'client_connection_check_interval'",
        )
        .await;
    asked.or_else(|e| if e.as_db_error().is_some() { Ok(()) } else { Err(e) })
}

async fn system_identifier(client: &Client) -> Result<Option<u64>, tokio_postgres::Error> {
    match one_row(client, "SELECT system_identifier FROM pg_catalog.pg_control_system()").await {
        Ok(row) => Ok(row.first().and_then(|value| value.as_deref()?.parse().ok())),
        Err(e) if matches!(e.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE | &SqlState::UNDEFINED_FUNCTION)) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// The values of the first row as text; empty where there is none.
async fn one_row(client: &Client, query: &str) -> Result<Vec<Option<String>>, tokio_postgres::Error> {
    let row = client.simple_query(query).await?.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.map_or_else(Vec::new, |row| (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()))
}

/// One round over all hosts and addresses; with prefer-standby a second one that takes any server.
async fn try_all(target: &ConnectTarget) -> Result<(Login, Endpoint), Vec<Failure>> {
    let rounds = match target.attributes {
        SessionAttributes::PreferStandby => vec![SessionAttributes::Standby, SessionAttributes::Any],
        _ => vec![target.attributes],
    };
    let mut failures = Vec::new();
    for wanted in rounds {
        for host in in_order(target, &target.hosts) {
            match try_host(target, host, wanted, &mut failures).await {
                Some(found) => return Ok(found),
                None if failures.last().is_some_and(|last| last.cause.next() == Next::GiveUp) => return Err(failures),
                None => {}
            }
        }
    }
    Err(failures)
}

fn in_order<'a, T>(target: &ConnectTarget, items: &'a [T]) -> Vec<&'a T> {
    let mut items: Vec<&T> = items.iter().collect();
    if target.order == HostOrder::Random {
        items.shuffle(&mut rand::rng());
    }
    items
}

async fn try_host(
    target: &ConnectTarget,
    host: &HostTarget,
    wanted: SessionAttributes,
    failures: &mut Vec<Failure>,
) -> Option<(Login, Endpoint)> {
    let addresses = match attempt::addresses(host).await {
        Ok(addresses) => addresses,
        Err(failure) => {
            failures.push(failure);
            return None;
        }
    };
    for address in in_order(target, &addresses) {
        match attempt::log_in(target, host, *address, wanted).await {
            Ok(login) => {
                let endpoint = Endpoint {
                    host: host.host.clone(),
                    address: *address,
                    port: host.port,
                    user: target.user.clone(),
                    dbname: target.dbname.clone(),
                    encryption: login.encryption,
                    password: host.password.clone(),
                };
                return Some((login, endpoint));
            }
            Err(failure) => {
                let next = failure.cause.next();
                failures.push(failure);
                if next != Next::Address {
                    return None;
                }
            }
        }
    }
    None
}

/// Why a server that let us in will not do; `None` where it will.
async fn unsuitable(client: &Client, wanted: SessionAttributes) -> Result<Option<&'static str>, tokio_postgres::Error> {
    if wanted == SessionAttributes::Any {
        return Ok(None);
    }
    let row =
        one_row(client, "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')")
            .await?;
    let says = |at: usize, word: &str| row.get(at).is_some_and(|value| value.as_deref() == Some(word));
    let (standby, read_only) = (says(0, "t"), says(1, "on"));
    Ok(match wanted {
        SessionAttributes::ReadWrite if read_only => Some("the session is read-only"),
        SessionAttributes::ReadOnly if !read_only => Some("the session is not read-only"),
        SessionAttributes::Primary if standby => Some("the server is a standby"),
        SessionAttributes::Standby if !standby => Some("the server is not a standby"),
        _ => None,
    })
}
