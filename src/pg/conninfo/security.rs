//! What a connection demands of encryption and of the server's identity.

use std::path::PathBuf;

use super::keyword::Settings;
use super::{choice, refuse};
use crate::config::environment::Environment;
use crate::error::{Error, Result};

/// `sslmode`, in rising order of what it demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

const SSL_MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

impl SslMode {
    /// The word of libpq.
    pub fn as_str(self) -> &'static str {
        SSL_MODES.iter().find(|(_, mode)| *mode == self).map_or("prefer", |(word, _)| word)
    }
}

/// Whether the handshake begins at once (17 and newer) or after PostgreSQL's own question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negotiation {
    Postgres,
    Direct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// The versions our TLS speaks; older ones are raised to 1.2, which only makes a connection stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Whether the server learns the name it is called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerNameIndication {
    Send,
    Omit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// `sslrootcert=system`: the authorities of the operating system.
    System,
    File(PathBuf),
}

/// Everything TLS. Paths are resolved; files are read when a connection needs them, as libpq does it: on a Unix socket
/// nothing of this matters.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    pub mode: SslMode,
    pub negotiation: Negotiation,
    /// Given, else `~/.postgresql/root.crt`. Where the file exists the chain is checked in every mode.
    pub roots: Option<RootCertificates>,
    /// Given, else `~/.postgresql/postgresql.crt`; a missing file means no certificate.
    pub certificate: Option<PathBuf>,
    /// Given, else `~/.postgresql/postgresql.key`.
    pub key: Option<PathBuf>,
    /// Given, else `~/.postgresql/root.crl` where neither this nor a directory is given.
    pub revoked: Option<PathBuf>,
    pub server_name: ServerNameIndication,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
}

impl TlsSettings {
    pub(super) fn resolve(settings: &Settings, environment: &Environment, warnings: &mut Vec<String>) -> Result<Self> {
        refuse_what_we_cannot(settings)?;
        let mode = ssl_mode(settings)?;
        let negotiation = match settings.get("sslnegotiation") {
            None => Negotiation::Postgres,
            Some(word) => {
                choice("sslnegotiation", word, &[("postgres", Negotiation::Postgres), ("direct", Negotiation::Direct)])?
            }
        };
        if negotiation == Negotiation::Direct && mode < SslMode::Require {
            return Err(Error::usage(format!("sslnegotiation=direct with the weak sslmode={}", mode.as_str()))
                .hint("use sslmode=require or stronger"));
        }
        let own = |name: &str| environment.home().map(|home| home.join(".postgresql").join(name));
        let file = |key: &str, name: &str| settings.filled(key).map(PathBuf::from).or_else(|| own(name));
        let with_certificate = settings.get("sslcertmode") != Some("disable");
        let (min_version, max_version) = versions(settings)?;
        Ok(Self {
            mode,
            negotiation,
            roots: roots(settings, mode, file("sslrootcert", "root.crt"), warnings)?,
            certificate: file("sslcert", "postgresql.crt").filter(|_| with_certificate),
            key: file("sslkey", "postgresql.key"),
            revoked: revoked(settings, file("sslcrl", "root.crl"), warnings),
            server_name: match settings.filled("sslsni") {
                Some(word) => {
                    choice("sslsni", word, &[("1", ServerNameIndication::Send), ("0", ServerNameIndication::Omit)])?
                }
                None => ServerNameIndication::Send,
            },
            min_version,
            max_version,
        })
    }
}

fn ssl_mode(settings: &Settings) -> Result<SslMode> {
    let system = settings.get("sslrootcert") == Some("system");
    match settings.get("sslmode") {
        Some(word) => {
            let mode = choice("sslmode", word, SSL_MODES)?;
            if system && mode != SslMode::VerifyFull {
                return Err(Error::usage(format!("sslrootcert=system with the weak sslmode={word}"))
                    .hint("use sslmode=verify-full: anybody can get a certificate from a public authority"));
            }
            Ok(mode)
        }
        None if system => Ok(SslMode::VerifyFull),
        None => Ok(SslMode::Prefer),
    }
}

fn roots(
    settings: &Settings,
    mode: SslMode,
    file: Option<PathBuf>,
    warnings: &mut Vec<String>,
) -> Result<Option<RootCertificates>> {
    let named = settings.filled("sslrootcert");
    if named == Some("system") {
        return Ok(Some(RootCertificates::System));
    }
    let Some(path) = file else { return Ok(None) };
    if named.is_some() && mode > SslMode::Disable && mode < SslMode::VerifyCa && !path.exists() {
        warnings.push(format!("sslrootcert {path:?} does not exist: the server's certificate is not checked"));
    }
    Ok(Some(RootCertificates::File(path)))
}

/// libpq looks for `root.crl` only where no list and no directory is given.
fn revoked(settings: &Settings, file: Option<PathBuf>, warnings: &mut Vec<String>) -> Option<PathBuf> {
    if let Some(named) = settings.filled("sslcrl")
        && !PathBuf::from(named).exists()
    {
        warnings.push(format!("sslcrl {named:?} does not exist: revoked certificates are not noticed"));
    }
    file.filter(|path| path.exists())
}

fn versions(settings: &Settings) -> Result<(TlsVersion, TlsVersion)> {
    let words = [("tlsv1", 0), ("tlsv1.1", 1), ("tlsv1.2", 2), ("tlsv1.3", 3)];
    let version = |key: &str, default: u8| match settings.filled(key) {
        Some(word) => choice(key, &word.to_ascii_lowercase(), &words),
        None => Ok(default),
    };
    let (min, max) = (version("ssl_min_protocol_version", 2)?, version("ssl_max_protocol_version", 3)?);
    if min > max {
        return Err(Error::usage("ssl_min_protocol_version is above ssl_max_protocol_version")
            .hint("pgkeep speaks TLSv1.2 and TLSv1.3; unset both for the best both sides know"));
    }
    if max < 2 {
        return Err(Error::usage(format!("ssl_max_protocol_version=TLSv1.{max} is too old for pgkeep"))
            .hint("pgkeep speaks TLSv1.2 and TLSv1.3 only"));
    }
    let known = |version: u8| if version == 3 { TlsVersion::V1_3 } else { TlsVersion::V1_2 };
    Ok((known(min.max(2)), known(max)))
}

/// Parameters whose silence would make a connection weaker than the user asked for, or that cannot work.
fn refuse_what_we_cannot(settings: &Settings) -> Result<()> {
    refuse(settings, "sslpassword", "pgkeep cannot open an encrypted client key; decrypt it into a 0600 file")?;
    refuse(
        settings,
        "require_auth",
        "pgkeep cannot limit how the server asks for a password; use channel_binding=require or sslmode=verify-full",
    )?;
    refuse(settings, "sslcrldir", "name one file with all revocation lists in sslcrl")?;
    refuse(settings, "sslkeylogfile", "pgkeep does not write session keys")?;
    refuse(settings, "replication", "pgkeep chooses itself when it needs a replication connection")?;
    for key in ["scram_client_key", "scram_server_key"] {
        refuse(settings, key, "give the password in PGPASSWORD or ~/.pgpass")?;
    }
    for key in ["oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"] {
        refuse(settings, key, "pgkeep cannot log in with OAuth; give its role another method in pg_hba.conf")?;
    }
    if let Some(word) = settings.get("gssencmode")
        && choice("gssencmode", word, &[("disable", false), ("prefer", false), ("require", true)])?
    {
        return Err(Error::usage("gssencmode=require is not supported")
            .hint("pgkeep encrypts with TLS: use sslmode=verify-full and gssencmode=disable"));
    }
    if let Some(word) = settings.filled("sslcertmode")
        && choice("sslcertmode", word, &[("disable", false), ("allow", false), ("require", true)])?
    {
        return Err(Error::usage("sslcertmode=require is not supported")
            .hint("demand the certificate on the server: clientcert=verify-full in pg_hba.conf"));
    }
    if let Some(word) = settings.filled("min_protocol_version")
        && word != "3.0"
    {
        return Err(Error::usage(format!("min_protocol_version={word} is not supported"))
            .hint("pgkeep speaks version 3.0, which every server knows"));
    }
    Ok(())
}
