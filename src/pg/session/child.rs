//! The same connection for PostgreSQL's own programs.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, fchmod};

use super::{APPLICATION_NAME, Endpoint};
use crate::config::secret::Secret;
use crate::error::{Doing, Kind, Result};
use crate::pg::conninfo::{
    ChannelBinding, ConnectTarget, Negotiation, Probing, RootCertificates, ServerNameIndication, TlsVersion, passfile,
    quote_conninfo_value,
};

/// A path that no file can have. `/dev/null` itself makes libpq print a warning on every connection.
const NO_FILE: &str = "/dev/null/none";

/// What a child needs to reach exactly the server that a session has reached: variables without a secret, and a
/// password file of mode 0600 that has no name in any directory: no death of this process leaves it behind. It is an
/// open file that the child inherits.
///
/// The caller builds the rest of the child's environment from an allow-list that holds no other PG* variable.
pub struct ChildConnection {
    variables: Vec<(&'static str, String)>,
    parameters: Vec<(&'static str, String)>,
    /// Its descriptor has the number that the variable names, here and in the child.
    password_file: Option<Arc<File>>,
    /// For a child that can have no file of ours.
    password: Option<Secret>,
}

impl ChildConnection {
    /// `endpoint` is that of an open session to `target`; `scratch` is where the password file goes.
    pub fn new(target: &ConnectTarget, endpoint: &Endpoint, scratch: &Path) -> Result<Self> {
        let password = password_file(endpoint, scratch)?;
        let file = match &password {
            // libpq opens it anew, from its beginning, and so does each worker that a child forks.
            Some(file) => format!("/proc/self/fd/{}", file.as_raw_fd()),
            None => NO_FILE.to_owned(),
        };
        let mut variables = vec![("PGPASSFILE", file)];
        place(endpoint, &mut variables);
        login(target, &mut variables);
        encryption(target, &mut variables);
        Ok(Self { variables, parameters: keepalive(target), password_file: password.map(Arc::new), password: None })
    }

    /// For a child in other surroundings, where a tunnel of ours does not begin and a name may have another address: it
    /// finds the server by the name and port that it goes by. Whoever starts the child brings the password to it.
    pub fn elsewhere(target: &ConnectTarget, endpoint: &Endpoint) -> Self {
        let mut variables = Vec::new();
        match (endpoint.host.is_empty(), endpoint.address) {
            (true, Some(address)) => variables.push(("PGHOSTADDR", address.ip().to_string())),
            _ => variables.push(("PGHOST", endpoint.host.clone())),
        }
        variables.push(("PGPORT", endpoint.port.to_string()));
        variables.push(("PGUSER", endpoint.user.clone()));
        variables.push(("PGDATABASE", endpoint.dbname.clone()));
        login(target, &mut variables);
        encryption(target, &mut variables);
        let password = endpoint.password.clone();
        Self { variables, parameters: keepalive(target), password_file: None, password }
    }

    /// What the child has to inherit.
    pub fn password_file(&self) -> Option<Arc<File>> {
        self.password_file.clone()
    }

    /// What a child elsewhere has to be told. Never in an argument.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Names and values to set. None is secret.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The value for `-d`/`--dbname`: the quoted name (a bare one with `=` in it would be read as a connection
    /// string) and those parameters that have no variable.
    pub fn dbname_argument(&self, database: &str) -> String {
        let mut text = format!("dbname={}", quote_conninfo_value(database));
        for (key, value) in &self.parameters {
            text.push_str(&format!(" {key}={}", quote_conninfo_value(value)));
        }
        text
    }
}

fn password_file(endpoint: &Endpoint, scratch: &Path) -> Result<Option<File>> {
    let Some(password) = &endpoint.password else { return Ok(None) };
    // As libpq looks for it: by the port that it connects to.
    let port = endpoint.address.map_or(endpoint.port, |address| address.port());
    let mut lines = passfile::line(&endpoint.called(), port, &endpoint.user, password)?;
    if endpoint.address.is_none() {
        // libpq looks for this word where the directory is the one compiled into it.
        lines.push_str(&passfile::line("localhost", port, &endpoint.user, password)?);
    }
    let doing = || format!("write a password file in {scratch:?}");
    let made = tempfile::tempfile_in(scratch).doing(Kind::Unexpected, doing);
    let mut file = made.map_err(|error| error.hint("name a directory that this user may write to in TMPDIR"))?;
    // Before there is anything in it: without a name it was made with whatever the umask let pass.
    fchmod(&file, Mode::RUSR | Mode::WUSR).doing(Kind::Unexpected, doing)?;
    file.write_all(lines.as_bytes()).doing(Kind::Unexpected, doing)?;
    Ok(Some(file))
}

/// The address goes along with the name: another look at a name with several addresses could find another server.
fn place(endpoint: &Endpoint, variables: &mut Vec<(&'static str, String)>) {
    if !endpoint.host.is_empty() {
        variables.push(("PGHOST", endpoint.host.clone()));
    }
    if let Some(address) = endpoint.address {
        let scope = match address {
            std::net::SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("%{}", v6.scope_id()),
            _ => String::new(),
        };
        variables.push(("PGHOSTADDR", format!("{}{scope}", address.ip())));
    }
    // Behind a tunnel another one than the server's.
    let port = endpoint.address.map_or(endpoint.port, |address| address.port());
    variables.push(("PGPORT", port.to_string()));
    variables.push(("PGUSER", endpoint.user.clone()));
    variables.push(("PGDATABASE", endpoint.dbname.clone()));
}

fn login(target: &ConnectTarget, variables: &mut Vec<(&'static str, String)>) {
    let name = target.application_name.as_deref().unwrap_or(APPLICATION_NAME);
    variables.push(("PGAPPNAME", name.to_owned()));
    // Our sessions speak no GSSAPI; a child that found a ticket would reach the server in another way.
    variables.push(("PGGSSENCMODE", "disable".to_owned()));
    if let Some(options) = &target.options {
        variables.push(("PGOPTIONS", options.clone()));
    }
    if let Some(limit) = target.connect_timeout {
        variables.push(("PGCONNECT_TIMEOUT", limit.as_secs().to_string()));
    }
    if let Some(account) = &target.require_peer {
        variables.push(("PGREQUIREPEER", account.clone()));
    }
    let binding = match target.channel_binding {
        ChannelBinding::Disable => "disable",
        ChannelBinding::Prefer => "prefer",
        ChannelBinding::Require => "require",
    };
    variables.push(("PGCHANNELBINDING", binding.to_owned()));
}

fn encryption(target: &ConnectTarget, variables: &mut Vec<(&'static str, String)>) {
    let tls = &target.tls;
    let mut set = |name, value: &str| variables.push((name, value.to_owned()));
    set("PGSSLMODE", tls.mode.as_str());
    if tls.negotiation == Negotiation::Direct {
        set("PGSSLNEGOTIATION", "direct");
    }
    set("PGSSLSNI", if tls.server_name == ServerNameIndication::Send { "1" } else { "0" });
    let version = |version| if version == TlsVersion::V1_3 { "TLSv1.3" } else { "TLSv1.2" };
    set("PGSSLMINPROTOCOLVERSION", version(tls.min_version));
    set("PGSSLMAXPROTOCOLVERSION", version(tls.max_version));
    match &tls.roots {
        Some(RootCertificates::System) => set("PGSSLROOTCERT", system_roots()),
        Some(RootCertificates::File(path)) => set("PGSSLROOTCERT", &path.to_string_lossy()),
        None => {}
    }
    // An unset variable means the files of the home directory, an impossible path means none.
    let path = |path: &Option<PathBuf>| path.as_deref().unwrap_or(Path::new(NO_FILE)).to_string_lossy().into_owned();
    set("PGSSLCERT", &path(&tls.certificate));
    set("PGSSLKEY", &path(&tls.key));
    set("PGSSLCRL", &path(&tls.revoked));
}

/// Programs older than 16 take the word `system` for a file name, every version takes the system's own bundle.
fn system_roots() -> &'static str {
    const BUNDLES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
    BUNDLES.into_iter().find(|bundle| Path::new(bundle).exists()).unwrap_or("system")
}

/// libpq has no variables for these.
fn keepalive(target: &ConnectTarget) -> Vec<(&'static str, String)> {
    let keepalive = &target.keepalive;
    let seconds = |key, value: Option<std::time::Duration>| value.map(|value| (key, value.as_secs().to_string()));
    let probing = (keepalive.probing == Probing::Off).then(|| ("keepalives", "0".to_owned()));
    [
        probing,
        seconds("keepalives_idle", keepalive.idle),
        seconds("keepalives_interval", keepalive.interval),
        keepalive.count.map(|count| ("keepalives_count", count.to_string())),
        keepalive.user_timeout.map(|limit| ("tcp_user_timeout", limit.as_millis().to_string())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::environment::Environment;
    use crate::pg::conninfo::ConnectionFlags;
    use crate::pg::session::Encryption;

    fn child(dbname: &str, address: &str, password: Option<&str>, scratch: &Path) -> Result<ChildConnection> {
        let flags = ConnectionFlags { dbname: Some(dbname.into()), ..Default::default() };
        let environment = Environment::from_pairs([("HOME", "/home/a")]).with_account("a");
        let target = ConnectTarget::resolve(&flags, &environment)?;
        let endpoint = Endpoint {
            host: target.hosts[0].host.clone(),
            address: address.parse().ok(),
            port: target.hosts[0].port,
            user: target.user.clone(),
            dbname: target.dbname.clone(),
            encryption: Encryption::Tls,
            password: password.map(Secret::new),
        };
        ChildConnection::new(&target, &endpoint, scratch)
    }

    #[test]
    fn everything_but_the_password_is_a_variable() {
        let scratch = tempfile::tempdir().unwrap();
        let text = "host=db user=u dbname=a=b sslrootcert=system keepalives_idle=7 keepalives=0 options='-c x=y'";
        let child = child(text, "[fe80::1%3]:5432", Some("p:\\"), scratch.path()).unwrap();
        let get = |name: &str| child.variables().find(|(known, _)| *known == name).map(|(_, value)| value);
        for (name, value) in [
            ("PGHOST", "db"),
            ("PGHOSTADDR", "fe80::1%3"),
            ("PGUSER", "u"),
            ("PGDATABASE", "a=b"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", system_roots()),
            ("PGSSLCERT", "/home/a/.postgresql/postgresql.crt"),
            ("PGOPTIONS", "-c x=y"),
            ("PGAPPNAME", "pgkeep"),
            ("PGGSSENCMODE", "disable"),
        ] {
            assert_eq!(get(name), Some(value), "{name}");
        }
        assert_eq!(get("PGPASSWORD"), None);
        let file = std::fs::read_to_string(get("PGPASSFILE").unwrap()).unwrap();
        assert_eq!(file, "db:5432:*:u:p\\:\\\\\n");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "it has no name");
        // libpq refuses one that others may read.
        let mode = std::fs::metadata(get("PGPASSFILE").unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(child.dbname_argument("it's"), r"dbname='it\'s' keepalives='0' keepalives_idle='7'");
    }

    #[test]
    fn without_a_password_no_file_is_written() {
        let scratch = tempfile::tempdir().unwrap();
        let child = child("host=/run dbname=x", "", None, scratch.path()).unwrap();
        assert!(child.variables().any(|pair| pair == ("PGPASSFILE", NO_FILE)));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_password_that_no_file_can_hold_is_refused_without_showing_it() {
        let scratch = tempfile::tempdir().unwrap();
        let error = child("host=/run", "", Some("hunter\n2"), scratch.path()).err().unwrap();
        assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
    }
}
