//! The keys of a connection string, the variables behind them, and values given so far.

use std::collections::BTreeMap;

use crate::config::spelling::distance;
use crate::error::{Error, Result};

pub(super) struct Keyword {
    pub name: &'static str,
    /// The environment variable that libpq reads where no parameter is given.
    pub variable: Option<&'static str>,
}

const fn key(name: &'static str, variable: &'static str) -> Keyword {
    Keyword { name, variable: Some(variable) }
}

const fn bare(name: &'static str) -> Keyword {
    Keyword { name, variable: None }
}

/// Every key that libpq 15 to 18 knows, and `servicefile`, which 19 adds.
/// Source: "Parameter Key Words" and "Environment Variables" of the libpq chapter.
pub(super) const KEYWORDS: &[Keyword] = &[
    key("service", "PGSERVICE"),
    key("servicefile", "PGSERVICEFILE"),
    key("user", "PGUSER"),
    key("password", "PGPASSWORD"),
    key("passfile", "PGPASSFILE"),
    key("channel_binding", "PGCHANNELBINDING"),
    key("connect_timeout", "PGCONNECT_TIMEOUT"),
    key("dbname", "PGDATABASE"),
    key("host", "PGHOST"),
    key("hostaddr", "PGHOSTADDR"),
    key("port", "PGPORT"),
    key("client_encoding", "PGCLIENTENCODING"),
    key("options", "PGOPTIONS"),
    key("application_name", "PGAPPNAME"),
    bare("fallback_application_name"),
    bare("keepalives"),
    bare("keepalives_idle"),
    bare("keepalives_interval"),
    bare("keepalives_count"),
    bare("tcp_user_timeout"),
    key("sslmode", "PGSSLMODE"),
    key("sslnegotiation", "PGSSLNEGOTIATION"),
    key("sslcompression", "PGSSLCOMPRESSION"),
    key("sslcert", "PGSSLCERT"),
    key("sslkey", "PGSSLKEY"),
    bare("sslkeylogfile"),
    key("sslcertmode", "PGSSLCERTMODE"),
    bare("sslpassword"),
    key("sslrootcert", "PGSSLROOTCERT"),
    key("sslcrl", "PGSSLCRL"),
    key("sslcrldir", "PGSSLCRLDIR"),
    key("sslsni", "PGSSLSNI"),
    key("requirepeer", "PGREQUIREPEER"),
    key("require_auth", "PGREQUIREAUTH"),
    key("min_protocol_version", "PGMINPROTOCOLVERSION"),
    key("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    key("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    key("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    key("gssencmode", "PGGSSENCMODE"),
    key("krbsrvname", "PGKRBSRVNAME"),
    key("gsslib", "PGGSSLIB"),
    key("gssdelegation", "PGGSSDELEGATION"),
    bare("replication"),
    key("target_session_attrs", "PGTARGETSESSIONATTRS"),
    key("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    bare("scram_client_key"),
    bare("scram_server_key"),
    bare("oauth_issuer"),
    bare("oauth_client_id"),
    bare("oauth_client_secret"),
    bare("oauth_scope"),
];

/// Values by key. No `Debug`: some are passwords.
#[derive(Clone, Default)]
pub(super) struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    /// The value of `key`, also when it is empty: an empty value still hides the environment.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value of `key` where libpq treats an empty one as none.
    pub fn filled(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// Sets a key that a user wrote, replacing what was there.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> Result<()> {
        let value = value.into();
        // Older than sslmode, and libpq still translates it.
        if key == "requiressl" {
            let mode = if value.starts_with('1') { "require" } else { "prefer" };
            return self.set("sslmode", mode);
        }
        self.0.insert(known(key)?, value);
        Ok(())
    }

    /// Sets a key that has no value yet.
    pub fn offer(&mut self, key: &str, value: &str) -> Result<()> {
        self.0.entry(known(key)?).or_insert_with(|| value.to_owned());
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// Takes over all values of `other`, empty ones too.
    pub fn overlay(&mut self, other: Settings) {
        self.0.extend(other.0);
    }
}

fn known(name: &str) -> Result<&'static str> {
    KEYWORDS.iter().map(|keyword| keyword.name).find(|known| *known == name).ok_or_else(|| unknown(name))
}

/// Only what looks like a mistyped key is repeated: after a space or `&` in a password that is not quoted, its second
/// half stands here.
fn unknown(name: &str) -> Error {
    let nearest = KEYWORDS.iter().map(|keyword| (distance(keyword.name, name), keyword.name)).min();
    match nearest {
        Some((1..=2, nearest)) => Error::usage(format!("{name:?} is not a connection parameter"))
            .hint(format!("did you mean {nearest:?}? (a database with \"=\" in its name is written \"dbname='a=b'\")")),
        _ => Error::usage("a parameter that is not one of PostgreSQL's stands in the connection string or service").hint(
            "see \"Parameter Key Words\" in PostgreSQL's manual; quote a value with spaces, write \"&\" in a URI as %26",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_names_its_neighbour() {
        let error = Settings::default().set("hots", "x").unwrap_err();
        assert_eq!(error.to_string(), "\"hots\" is not a connection parameter");
        assert_eq!(
            error.next_step(),
            Some("did you mean \"host\"? (a database with \"=\" in its name is written \"dbname='a=b'\")")
        );
    }

    #[test]
    fn requiressl_becomes_sslmode() {
        let mut settings = Settings::default();
        settings.set("requiressl", "1").unwrap();
        assert_eq!(settings.get("sslmode"), Some("require"));
    }
}
