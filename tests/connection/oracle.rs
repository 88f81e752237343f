//! One situation, seen by `psql` and by us.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use pgkeep::config::environment::Environment;
use pgkeep::error::Result;
use pgkeep::pg::conninfo::{ConnectTarget, ConnectionFlags};
use pgkeep::pg::session::{Access, ChildConnection, Session, SessionOptions};

use super::cluster::BIN;

/// psql does not wait for a server, so the comparison does not.
pub const ONCE: SessionOptions = SessionOptions { access: Access::ReadOnly, retry_budget: Duration::ZERO };

const WHERE: &str = "SELECT current_user, current_database(), coalesce(host(inet_server_addr()), 'socket'), \
     current_setting('port'), pg_is_in_recovery(), (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), \
     replace(current_setting('application_name'), 'psql', 'pgkeep')";

pub fn account() -> String {
    Environment::of_process().account().unwrap().to_owned()
}

#[derive(Clone)]
pub struct Case {
    name: String,
    environment: BTreeMap<String, String>,
    flags: ConnectionFlags,
}

impl Case {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), environment: BTreeMap::new(), flags: ConnectionFlags::default() }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    pub fn host(mut self, value: &str) -> Self {
        self.flags.host = Some(value.into());
        self
    }

    pub fn port(mut self, value: &str) -> Self {
        self.flags.port = Some(value.into());
        self
    }

    pub fn user(mut self, value: &str) -> Self {
        self.flags.user = Some(value.into());
        self
    }

    pub fn dbname(mut self, value: &str) -> Self {
        self.flags.dbname = Some(value.into());
        self
    }
}

pub fn resolve(case: &Case) -> Result<ConnectTarget> {
    let environment = Environment::from_pairs(case.environment.iter()).with_account(account());
    ConnectTarget::resolve(&case.flags, &environment)
}

fn psql(variables: &BTreeMap<String, String>, arguments: &[&str]) -> std::result::Result<String, String> {
    let output = Command::new(format!("{BIN}/psql"))
        .env_clear()
        .envs(variables)
        .args(["-XAtq", "-w", "-c", WHERE])
        .args(arguments)
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}

async fn ours(case: &Case) -> Result<(ConnectTarget, Session)> {
    let target = resolve(case)?;
    let session = Session::connect(&target, &ONCE).await?;
    Ok((target, session))
}

async fn place(session: &Session) -> String {
    let messages = session.client().simple_query(WHERE).await.unwrap();
    let row = messages
        .into_iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .unwrap();
    (0..row.len()).map(|at| row.get(at).unwrap_or_default()).collect::<Vec<_>>().join("|")
}

/// Both reach the same place as the same role, or both fail.
pub async fn agree(case: &Case) -> Option<(ConnectTarget, Session)> {
    let flags =
        [("-h", &case.flags.host), ("-p", &case.flags.port), ("-U", &case.flags.user), ("-d", &case.flags.dbname)];
    let arguments: Vec<&str> =
        flags.iter().filter_map(|(flag, value)| Some([*flag, value.as_deref()?])).flatten().collect();
    let expected = psql(&case.environment, &arguments);
    match (expected, ours(case).await) {
        (Ok(expected), Ok((target, session))) => {
            assert_eq!(place(&session).await, expected, "{}: psql is elsewhere (right)", case.name);
            Some((target, session))
        }
        (Err(_), Err(error)) => {
            assert!(error.next_step().is_some(), "{}: no next step: {error}", case.name);
            None
        }
        (Ok(place), Err(error)) => panic!("{}: psql reaches {place}, we fail: {error}", case.name),
        (Err(error), Ok((_, session))) => {
            panic!("{}: we reach {}, psql fails: {error}", case.name, place(&session).await)
        }
    }
}

/// Leaves the password file open in every child of ours, as pgkeep does in the one that it is for.
pub fn pass_on(child: &ChildConnection) {
    if let Some(file) = child.password_file() {
        rustix::io::fcntl_setfd(&*file, rustix::io::FdFlags::empty()).unwrap();
    }
}

/// A child with nothing but our variables reaches the same place, silently.
pub fn child_agrees(case: &Case, target: &ConnectTarget, session: &Session) {
    let scratch = tempfile::tempdir().unwrap();
    let child = ChildConnection::new(target, session.endpoint(), scratch.path()).unwrap();
    pass_on(&child);
    let mut variables: BTreeMap<String, String> = [("HOME", "/nonexistent")].map(|(k, v)| (k.into(), v.into())).into();
    variables.extend(child.variables().map(|(name, value)| (name.to_owned(), value.to_owned())));
    let secrets: Vec<&str> = target.hosts.iter().filter_map(|host| Some(host.password.as_ref()?.expose())).collect();
    let argument = child.dbname_argument(&session.endpoint().dbname);
    for text in variables.values().chain([&argument]) {
        let exposed = secrets.iter().any(|secret| secret.len() > 6 && text.contains(secret));
        assert!(!exposed, "{}: a password in {text:?}", case.name);
    }
    let output = Command::new(format!("{BIN}/psql"))
        .env_clear()
        .envs(&variables)
        .args(["-XAtq", "-w", "-c", WHERE, "-d", &argument])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{}: the child: {stderr}", case.name);
    let endpoint = session.endpoint();
    let answer = String::from_utf8(output.stdout).unwrap();
    let start = format!(
        "{}|{}|{}|{}|",
        endpoint.user,
        endpoint.dbname,
        endpoint.address.map_or("socket".into(), |address| address.ip().to_string()),
        endpoint.port
    );
    assert!(answer.starts_with(&start), "{}: the child is at {answer:?}, we are at {start:?}", case.name);
    drop(child);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "{}: a password file is left over", case.name);
}
