//! Why a connection failed, what that means for the next attempt, and what the user can do.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::error::{Error, Kind};
use crate::pg::conninfo::{ConnectTarget, HostTarget};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    NameLookup,
    Refused,
    /// No socket file, or one that we may not use.
    Socket,
    Network,
    Timeout,
    Tls,
    StartingUp,
    PasswordMissing,
    PasswordWrong,
    /// No line of pg_hba.conf lets us in.
    Rules,
    /// Refused by a line of pg_hba.conf that asks no password: peer, ident, cert; or no such role.
    Identity,
    Method,
    NoDatabase,
    TooMany,
    Peer,
    Attributes,
    Other,
}

/// What to try after a failure; the rules are libpq's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next address of the host, then the next host.
    Address,
    Host,
    /// A server has answered, and its no is final: a password is not carried from host to host.
    GiveUp,
}

impl Cause {
    pub(super) fn next(self) -> Next {
        match self {
            Cause::NameLookup | Cause::Refused | Cause::Socket | Cause::Network | Cause::Timeout => Next::Address,
            Cause::StartingUp | Cause::Attributes => Next::Host,
            _ => Next::GiveUp,
        }
    }

    /// Whether waiting helps.
    pub(super) fn may_pass(self) -> bool {
        matches!(self, Cause::Refused | Cause::StartingUp)
    }

    /// Whether the other choice of encryption might be let in.
    pub(super) fn depends_on_encryption(self) -> bool {
        matches!(self, Cause::Tls | Cause::PasswordWrong | Cause::Rules | Cause::Identity)
    }
}

#[derive(Debug)]
pub(super) struct Failure {
    place: String,
    pub cause: Cause,
    pub with_tls: bool,
    text: String,
    hint: Option<String>,
}

impl Failure {
    pub(super) fn new(host: &HostTarget, address: Option<SocketAddr>, cause: Cause, text: impl Into<String>) -> Self {
        let mut place = match (host.is_socket(), host.host.is_empty()) {
            (true, _) => format!("socket {:?}", format!("{}/.s.PGSQL.{}", host.host, host.port)),
            (false, true) => format!("host {:?}, port {}", host.address.as_deref().unwrap_or_default(), host.port),
            (false, false) => format!("host {:?}, port {}", host.host, host.port),
        };
        if let Some(address) = address.map(|address| address.ip().to_string())
            && !host.host.is_empty()
            && address != host.host
        {
            place = format!("{place} ({address})");
        }
        Self { place, cause, with_tls: false, text: text.into(), hint: None }
    }

    pub(super) fn of_socket(host: &HostTarget, address: Option<SocketAddr>, error: io::Error) -> Self {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused => Cause::Refused,
            io::ErrorKind::TimedOut => Cause::Timeout,
            _ if address.is_none() => Cause::Socket,
            _ => Cause::Network,
        };
        Self::new(host, address, cause, error.to_string())
    }

    pub(super) fn of_server(host: &HostTarget, address: Option<SocketAddr>, error: tokio_postgres::Error) -> Self {
        let code = error.code().cloned();
        let text = text_of(error);
        let cause = match code {
            Some(SqlState::INVALID_PASSWORD) => Cause::PasswordWrong,
            Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION) if text.contains("pg_hba.conf") => Cause::Rules,
            Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => Cause::Identity,
            Some(SqlState::INVALID_CATALOG_NAME) => Cause::NoDatabase,
            Some(SqlState::CANNOT_CONNECT_NOW) => Cause::StartingUp,
            Some(SqlState::TOO_MANY_CONNECTIONS) => Cause::TooMany,
            Some(_) => Cause::Other,
            // tokio-postgres has no kinds for these; the texts are its own, and the tests know them.
            None if text == "password missing" => Cause::PasswordMissing,
            None if text.contains("does not support TLS") => Cause::Tls,
            None if text.contains("unsupported") || text.contains("channel binding") => Cause::Method,
            None => Cause::Other,
        };
        Self::new(host, address, cause, if cause == Cause::PasswordMissing { NO_PASSWORD.to_owned() } else { text })
    }

    pub(super) fn with_tls(mut self) -> Self {
        self.with_tls = true;
        self
    }

    pub(super) fn hint(mut self, hint: Option<&str>) -> Self {
        self.hint = hint.map(str::to_owned);
        self
    }

    /// This failure was the second way in; `first` was the other one.
    pub(super) fn after(mut self, first: Failure) -> Self {
        let (one, other) = if first.with_tls { ("with TLS", "without") } else { ("without TLS", "with") };
        if first.text != self.text {
            self.text = format!("{one}: {}; {other}: {}", first.text, self.text);
        }
        self
    }

    fn next_step(&self, target: &ConnectTarget) -> String {
        if let Some(hint) = &self.hint {
            return hint.clone();
        }
        match self.cause {
            Cause::NameLookup => "check PGHOST or -h, and that this machine can resolve the name".into(),
            Cause::Refused | Cause::Network | Cause::Timeout => {
                "check PGHOST and PGPORT, that the server runs and listens there (listen_addresses), and firewalls \
                 between; then try: psql -c 'select 1' with the same settings"
                    .into()
            }
            Cause::Socket => "check that the server runs on this machine and that PGPORT and its \
                              unix_socket_directories fit; for another machine give -h or PGHOST"
                .into(),
            Cause::StartingUp => "wait until the server accepts connections, then run again".into(),
            Cause::PasswordMissing => format!(
                "give the password of {:?}: a line host:port:database:user:password in ~/.pgpass (mode 0600) that \
                 fits PGHOST, PGPORT, PGUSER and the database, or PGPASSWORD",
                target.user
            ),
            Cause::PasswordWrong => "check PGHOST, PGPORT, PGUSER, and the password in PGPASSWORD or ~/.pgpass".into(),
            Cause::Rules => format!(
                "add a line to the server's pg_hba.conf that lets {:?} reach {:?} from here, reload it, or check \
                 sslmode",
                target.user, target.dbname
            ),
            Cause::Identity => format!(
                "check that role {:?} exists and may log in, and what pg_hba.conf asks of it: peer wants the \
                 operating-system account of that name, cert a client certificate",
                target.user
            ),
            Cause::Method => "pgkeep logs in with scram-sha-256 (with channel binding over TLS), md5, password, peer, \
                              cert or trust: give its role one of these in pg_hba.conf"
                .into(),
            Cause::Tls => {
                "check sslmode, sslrootcert and the server's certificate; psql with the same settings shows its view"
                    .into()
            }
            Cause::NoDatabase => format!("psql -l lists the databases; {:?} is not among them", target.dbname),
            Cause::TooMany => "raise max_connections or end idle sessions, then run again".into(),
            Cause::Peer => "another account answers on this socket: check requirepeer and the socket directory".into(),
            Cause::Attributes => "no server has the target_session_attrs asked for: add the others to the host list, \
                                  or ask for any"
                .into(),
            Cause::Other => "try: psql -c 'select 1' with the same settings".into(),
        }
    }
}

const NO_PASSWORD: &str = "the server asks for a password and none was given";

pub(super) fn no_answer(limit: Option<Duration>) -> String {
    format!("no answer within {} s", limit.unwrap_or_default().as_secs())
}

/// The words of the server, else the innermost causes, on one line.
pub(super) fn text_of(error: tokio_postgres::Error) -> String {
    if let Some(own) = error.as_db_error() {
        let detail = own.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}: {}{detail}", own.severity(), own.message());
    }
    let top = error.to_string();
    let Some(source) = error.into_source() else { return top };
    let mut text = source.to_string();
    let mut cause = source.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = StdError::source(next);
    }
    text
}

/// All failures as one error; the hint is that of the last, which is what stopped us.
pub(super) fn report(target: &ConnectTarget, failures: &[Failure]) -> Error {
    let mut causes: Vec<String> = Vec::new();
    for failure in failures {
        let cause = format!("{}: {}", failure.place, failure.text);
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    let action = format!("connect to PostgreSQL as {:?}, database {:?}", target.user, target.dbname);
    let error = Error::new(Kind::Connect, action).because(causes.join("; "));
    match failures.last() {
        Some(last) => error.hint(last.next_step(target)),
        None => error,
    }
}
