//! Where to connect, as whom, and how, found the way `psql` finds it.
//!
//! Sources, strongest first: the connection string given as database name, the other flags, the connection string of
//! the configured instance, the service file, the environment, defaults. (That a connection string beats `-h` is libpq's rule, and so it is ours.)
//!
//! Known and without effect, because no session of ours depends on it: `client_encoding` (we speak UTF-8, and a child
//! that inherited it would write dumps in that encoding), `sslcompression`, `krbsrvname`, `gsslib`, `gssdelegation`
//! (we speak no GSSAPI), `fallback_application_name` (psql overrides it with its own name, and so do we),
//! `max_protocol_version` (we speak 3.0), and the variables PGDATESTYLE, PGTZ and PGGEQO.

mod instance;
mod keyword;
pub(in crate::pg) mod passfile;
mod security;
mod service;
mod text;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use instance::{HoldsPassword, InstanceServer};
use keyword::{KEYWORDS, Settings};
pub use security::{
    ChannelBinding, Negotiation, RootCertificates, ServerNameIndication, SslMode, TlsSettings, TlsVersion,
};
pub use text::quote_conninfo_value;

use crate::config::environment::Environment;
use crate::config::secret::Secret;
use crate::error::{Error, Result};
use crate::pg::password::PasswordSource;

/// What the command line says. An empty value counts as none.
#[derive(Clone, Debug, Default)]
pub struct ConnectionFlags {
    pub host: Option<String>,
    pub port: Option<String>,
    pub user: Option<String>,
    /// A name, a `postgresql://` URI or a keyword string.
    pub dbname: Option<String>,
    /// A name and nothing but a name, whatever characters it has; beats every other source of a database name.
    pub database: Option<String>,
    /// What the configuration says.
    pub instance: Option<InstanceServer>,
}

/// Which server of several will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAttributes {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOrder {
    AsGiven,
    Random,
}

/// Whether anything named the database: psql takes the role's name where nothing does, which is no wish to have that
/// database dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DatabaseChoice {
    Named,
    RoleName,
}

/// How a dead TCP connection is noticed. `None` is the system's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub probing: Probing,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
    pub user_timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probing {
    On,
    Off,
}

/// One server to try.
#[derive(Clone, Debug)]
pub struct HostTarget {
    /// A host name, a socket directory, an abstract socket (`@…`); empty where only an address is given.
    pub host: String,
    /// `hostaddr`: where to connect without asking for `host`.
    pub address: Option<String>,
    pub port: u16,
    /// The port on this host where a tunnel to it begins; then nothing else of it is looked at to connect.
    pub tunnel_port: Option<u16>,
    pub password: Option<Secret>,
}

impl HostTarget {
    /// Whether `host` is the directory of a Unix socket, or an abstract one.
    pub fn is_socket(&self) -> bool {
        self.address.is_none() && self.tunnel_port.is_none() && is_socket(&self.host)
    }

    /// The name or address, and the port, to open a TCP connection to.
    pub fn dialled(&self) -> (&str, u16) {
        match self.tunnel_port {
            Some(port) => ("127.0.0.1", port),
            None => (self.address.as_deref().unwrap_or(&self.host), self.port),
        }
    }
}

/// A connection that may be made: complete, with every default filled in.
#[derive(Clone, Debug)]
pub struct ConnectTarget {
    /// At least one, in the order given.
    pub hosts: Vec<HostTarget>,
    pub user: String,
    pub dbname: String,
    database_choice: DatabaseChoice,
    /// Options for the backend (`-c name=value`), as the user wrote them.
    pub options: Option<String>,
    /// As the user wants it; `None` is ours to choose.
    pub application_name: Option<String>,
    pub attributes: SessionAttributes,
    pub order: HostOrder,
    /// For one address, from the first packet to the finished login; `None` (asked for as 0) waits as long as the
    /// system does.
    pub connect_timeout: Option<Duration>,
    pub keepalive: Keepalive,
    pub tls: TlsSettings,
    pub channel_binding: ChannelBinding,
    /// The account that the server of a Unix socket must run as.
    pub require_peer: Option<String>,
    /// Where each connection gets its password; the hosts have none then.
    pub password: Option<PasswordSource>,
    /// What was passed over and should be known, such as a password file that others may read.
    pub warnings: Vec<String>,
}

impl ConnectTarget {
    /// Resolves flags, service file, environment and password file.
    ///
    /// Errors are of [`crate::error::Kind::Usage`] and never show a password.
    pub fn resolve(flags: &ConnectionFlags, environment: &Environment) -> Result<Self> {
        let (settings, written_password) = gather(flags, environment)?;
        let mut warnings = Vec::new();
        let tls = TlsSettings::resolve(&settings, environment, &mut warnings)?;
        let user = match settings.filled("user").or(environment.account()) {
            Some(user) => user.to_owned(),
            None => {
                return Err(Error::usage("the account that pgkeep runs as has no name")
                    .hint("name the PostgreSQL role with -U or PGUSER"));
            }
        };
        let (dbname, database_choice) = match settings.filled("dbname") {
            Some(name) => (name.to_owned(), DatabaseChoice::Named),
            None => (user.clone(), DatabaseChoice::RoleName),
        };
        let mut hosts = hosts(&settings)?;
        let instance = flags.instance.as_ref();
        if let Some(port) = instance.and_then(|instance| instance.tunnel_port) {
            lead_through_tunnel(&mut hosts, port)?;
        }
        let password = instance.and_then(|instance| instance.password.clone());
        // That of the environment may be another server's.
        let password = password.filter(|_| written_password.is_none());
        if password.is_none() {
            find_passwords(&mut hosts, &settings, environment, (&dbname, &user), &mut warnings);
        }
        Ok(Self {
            password,
            hosts,
            options: settings.filled("options").map(str::to_owned),
            application_name: settings.filled("application_name").map(str::to_owned),
            attributes: attributes(&settings)?,
            order: host_order(&settings)?,
            connect_timeout: connect_timeout(&settings)?,
            keepalive: keepalive(&settings)?,
            tls,
            channel_binding: channel_binding(&settings)?,
            require_peer: settings.filled("requirepeer").map(str::to_owned),
            user,
            dbname,
            database_choice,
            warnings,
        })
    }
}

impl ConnectTarget {
    /// Whether anything but the role's name names the database.
    pub fn names_database(&self) -> bool {
        self.database_choice == DatabaseChoice::Named
    }

    /// This target, unless its database was named by nothing: an unset variable in `-d "$database"` must not end with a
    /// backup of one that nobody wants.
    pub fn of_named_database(self) -> Result<Self> {
        match self.database_choice {
            DatabaseChoice::Named => Ok(self),
            DatabaseChoice::RoleName => Err(Error::usage("no database is named")
                .hint("name one with -d (in a URI: postgresql://host/database), or take every one with --all")),
        }
    }
}

/// Everything that is said, and the password that somebody wrote down for this connection.
fn gather(flags: &ConnectionFlags, environment: &Environment) -> Result<(Settings, Option<String>)> {
    let mut settings = Settings::default();
    for (key, value) in [("host", &flags.host), ("port", &flags.port), ("user", &flags.user)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            settings.set(key, value)?;
        }
    }
    match flags.dbname.as_deref() {
        None | Some("") => {}
        Some(string) if text::is_connection_string(string) => settings.overlay(text::parse(string)?),
        Some(name) => settings.set("dbname", name)?,
    }
    let rest = flags.instance.as_ref().map(|instance| instance.complete(&mut settings, environment)).transpose()?;
    let environment = rest.as_ref().unwrap_or(environment);
    service::apply(&mut settings, environment)?;
    let written_password = settings.filled("password").map(str::to_owned);
    add_environment(&mut settings, environment)?;
    if let Some(name) = flags.database.as_deref().filter(|name| !name.is_empty()) {
        settings.set("dbname", name)?;
    }
    Ok((settings, written_password))
}

fn add_environment(settings: &mut Settings, environment: &Environment) -> Result<()> {
    for keyword in KEYWORDS {
        let Some(variable) = keyword.variable else { continue };
        if settings.get(keyword.name).is_none() && environment.is_garbled(variable) {
            return Err(Error::usage(format!("the value of {variable} is not UTF-8")).hint("set it again"));
        }
        if let Some(value) = environment.get(variable) {
            settings.offer(keyword.name, value)?;
        }
    }
    if environment.get("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
        settings.offer("sslmode", "require")?;
    }
    Ok(())
}

fn is_socket(host: &str) -> bool {
    host.starts_with(['/', '@'])
}

/// Where the `psql` of this system looks: Debian and the RPMs compile in the first, a build from source the second.
fn default_socket_directory() -> &'static str {
    const PACKAGED: &str = "/var/run/postgresql";
    if Path::new(PACKAGED).is_dir() { PACKAGED } else { "/tmp" }
}

/// The name stays, so that a certificate is held against it.
fn lead_through_tunnel(hosts: &mut [HostTarget], port: u16) -> Result<()> {
    match hosts {
        [host] if !is_socket(&host.host) => {
            host.tunnel_port = Some(port);
            Ok(())
        }
        [_] => Err(Error::usage("a tunnel leads to no socket of this host")
            .hint("name in conninfo the server at the other end of the tunnel, such as host=localhost")),
        _ => Err(Error::usage("a tunnel leads to one server, and conninfo names several")
            .hint("give each server an instance and a tunnel of its own")),
    }
}

fn list(settings: &Settings, key: &str) -> Option<Vec<String>> {
    settings.filled(key).map(|list| list.split(',').map(str::to_owned).collect())
}

fn hosts(settings: &Settings) -> Result<Vec<HostTarget>> {
    let (names, addresses) = (list(settings, "host"), list(settings, "hostaddr"));
    if let (Some(names), Some(addresses)) = (&names, &addresses)
        && names.len() != addresses.len()
    {
        return Err(Error::usage(format!("{} hosts for {} addresses", names.len(), addresses.len()))
            .hint("host and hostaddr need as many entries each, separated by commas"));
    }
    let count = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
    let ports = list(settings, "port").unwrap_or_else(|| vec![String::new()]);
    if ports.len() != 1 && ports.len() != count {
        return Err(Error::usage(format!("{} ports for {count} hosts", ports.len()))
            .hint("give one port for all hosts or one for each, separated by commas"));
    }
    let entry = |list: &Option<Vec<String>>, at: usize| list.as_ref().map(|list| list[at].clone()).unwrap_or_default();
    (0..count)
        .map(|at| {
            let (mut host, address) = (entry(&names, at), entry(&addresses, at));
            if host.is_empty() && address.is_empty() {
                host = default_socket_directory().to_owned();
            }
            // Of a scoped IPv6 address (fe80::1%eth0) the system judges the part after the percent sign.
            let plain = address.split('%').next().unwrap_or(&address);
            if !address.is_empty() && plain.parse::<IpAddr>().is_err() {
                return Err(Error::usage(format!("hostaddr {address:?} is not an IP address"))
                    .hint("write a name into host, not into hostaddr"));
            }
            let port = port(if ports.len() == 1 { &ports[0] } else { &ports[at] })?;
            Ok(HostTarget {
                host,
                address: Some(address).filter(|a| !a.is_empty()),
                port,
                tunnel_port: None,
                password: None,
            })
        })
        .collect()
}

fn port(text: &str) -> Result<u16> {
    if text.is_empty() {
        return Ok(5432);
    }
    if !text.trim_ascii().chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-')) {
        // The text is not repeated: of postgresql://user:half/half@host the first half of the password stands here.
        return Err(Error::usage("the port is not a number")
            .hint("give port as digits only; in a URI write \"/\" in a password as %2F and \"@\" as %40"));
    }
    match integer("port", text)?.try_into() {
        Ok(0) | Err(_) => Err(Error::usage(format!("port {text:?} is not between 1 and 65535"))
            .hint("PostgreSQL's usual port is 5432; SHOW port tells a server's own")),
        Ok(port) => Ok(port),
    }
}

/// A number as libpq reads it: surrounding white space is allowed, anything else is not.
fn integer(key: &str, text: &str) -> Result<i32> {
    text.trim_ascii().parse().map_err(|_| {
        Error::usage(format!("{text:?} is not a whole number for connection parameter {key}"))
            .hint(format!("give {key} as digits only"))
    })
}

fn optional_integer(settings: &Settings, key: &str) -> Result<Option<i32>> {
    settings.filled(key).map(|text| integer(key, text)).transpose()
}

fn choice<T: Copy>(key: &str, word: &str, words: &[(&str, T)]) -> Result<T> {
    words.iter().find(|(known, _)| *known == word).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
        Error::usage(format!("{word:?} is not a value of connection parameter {key}"))
            .hint(format!("{key} is one of {}", known.join(", ")))
    })
}

fn refuse(settings: &Settings, key: &str, hint: &str) -> Result<()> {
    match settings.filled(key) {
        Some(_) => Err(Error::usage(format!("connection parameter {key} is not supported")).hint(hint)),
        None => Ok(()),
    }
}

fn find_passwords(
    hosts: &mut [HostTarget],
    settings: &Settings,
    environment: &Environment,
    (database, user): (&str, &str),
    warnings: &mut Vec<String>,
) {
    if let Some(password) = settings.filled("password") {
        hosts.iter_mut().for_each(|host| host.password = Some(Secret::new(password)));
        return;
    }
    let path = settings.filled("passfile").map(PathBuf::from);
    let Some(path) = path.or_else(|| environment.home().map(|home| home.join(".pgpass"))) else { return };
    let (text, warning) = passfile::read(&path);
    warnings.extend(warning);
    let Some(text) = text else { return };
    for target in hosts {
        let named = if target.host.is_empty() { target.address.as_deref().unwrap_or_default() } else { &target.host };
        let host = if named == default_socket_directory() { "localhost" } else { named };
        let asker = passfile::Asker { host, port: &target.port.to_string(), database, user };
        target.password = passfile::find(&text, &asker).filter(|password| !password.expose().is_empty());
    }
}

fn attributes(settings: &Settings) -> Result<SessionAttributes> {
    use SessionAttributes::*;
    let words = [
        ("any", Any),
        ("read-write", ReadWrite),
        ("read-only", ReadOnly),
        ("primary", Primary),
        ("standby", Standby),
        ("prefer-standby", PreferStandby),
    ];
    settings.get("target_session_attrs").map_or(Ok(Any), |word| choice("target_session_attrs", word, &words))
}

fn host_order(settings: &Settings) -> Result<HostOrder> {
    let words = [("disable", HostOrder::AsGiven), ("random", HostOrder::Random)];
    settings.get("load_balance_hosts").map_or(Ok(HostOrder::AsGiven), |word| choice("load_balance_hosts", word, &words))
}

fn channel_binding(settings: &Settings) -> Result<ChannelBinding> {
    use ChannelBinding::*;
    let words = [("disable", Disable), ("prefer", Prefer), ("require", Require)];
    settings.get("channel_binding").map_or(Ok(Prefer), |word| choice("channel_binding", word, &words))
}

/// Where libpq waits for ever. A server that accepts and is silent would hold the lock of a nightly run until somebody
/// looks, and every later night would only find it locked. A server ends a login itself after this long
/// (authentication_timeout), so nobody who would have been let in is turned away.
const DEFAULT_CONNECT_SECONDS: i32 = 60;

/// libpq up to 16 raises one second to two, and so do we: a login with SCRAM over a slow line takes that long.
fn connect_timeout(settings: &Settings) -> Result<Option<Duration>> {
    let seconds = optional_integer(settings, "connect_timeout")?.unwrap_or(DEFAULT_CONNECT_SECONDS);
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.max(2))))
}

fn keepalive(settings: &Settings) -> Result<Keepalive> {
    let positive = |key: &str| -> Result<Option<u32>> {
        Ok(optional_integer(settings, key)?.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0))
    };
    let seconds = |key: &str| -> Result<Option<Duration>> {
        Ok(positive(key)?.map(|seconds| Duration::from_secs(u64::from(seconds))))
    };
    Ok(Keepalive {
        probing: if optional_integer(settings, "keepalives")? == Some(0) { Probing::Off } else { Probing::On },
        idle: seconds("keepalives_idle")?,
        interval: seconds("keepalives_interval")?,
        count: positive("keepalives_count")?,
        user_timeout: positive("tcp_user_timeout")?.map(|millis| Duration::from_millis(u64::from(millis))),
    })
}

#[cfg(test)]
mod tests;
