//! The server of a configured instance.

use super::keyword::Settings;
use super::text;
use crate::config::environment::Environment;
use crate::config::secret::Secret;
use crate::error::{Error, Result};
use crate::pg::password::PasswordSource;

/// What the configuration says of the server of an instance.
///
/// Its connection string names one server, as one that is given to psql does: flags are stronger, and of the environment
/// nothing takes its place. A `PGHOST` that is left over in the environment of a nightly run must not make three instances
/// one server.
#[derive(Clone, Debug, Default)]
pub struct InstanceServer {
    /// A URI or keyword string; `None`: flags and environment say where the server is.
    pub conninfo: Option<Secret>,
    /// Where the password is, if neither string nor flags have one.
    pub password: Option<PasswordSource>,
    /// The port on this host where a tunnel to the server begins.
    pub tunnel_port: Option<u16>,
}

/// Which server is meant. Of these all come from one source.
const PLACE: [&str; 5] = ["host", "hostaddr", "port", "service", "servicefile"];
const PLACE_VARIABLES: [&str; 4] = ["PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE"];

/// Whether a connection string has a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldsPassword {
    Yes,
    No,
}

impl InstanceServer {
    /// Reads the connection string as a connection would.
    pub fn check(&self) -> Result<HoldsPassword> {
        let settings = self.settings()?;
        Ok(if settings.filled("password").is_some() { HoldsPassword::Yes } else { HoldsPassword::No })
    }

    fn settings(&self) -> Result<Settings> {
        match &self.conninfo {
            None => Ok(Settings::default()),
            Some(conninfo) if text::is_connection_string(conninfo.expose()) => text::parse(conninfo.expose()),
            Some(_) => Err(Error::usage("it is not a connection string")
                .hint("write it as \"host=db.example.com user=backup\" or \"postgresql://backup@db.example.com\"")),
        }
    }

    /// Fills what `typed` leaves open, and returns what is left of the environment to fill the rest.
    pub(super) fn complete(&self, typed: &mut Settings, environment: &Environment) -> Result<Environment> {
        let moved = ["host", "hostaddr", "service"].iter().any(|key| typed.filled(key).is_some());
        if self.tunnel_port.is_some() && (moved || typed.filled("port").is_some()) {
            return Err(Error::usage("the server of this instance is reached through its tunnel")
                .hint("leave host and port out, or name another instance"));
        }
        for (key, value) in self.settings()?.iter() {
            if !(moved && PLACE.contains(&key)) {
                typed.offer(key, value)?;
            }
        }
        if self.tunnel_port.is_some() {
            // Names of their own, so that no default is looked for.
            typed.offer("host", "localhost")?;
        }
        let names: &[&str] = if self.conninfo.is_some() { &PLACE_VARIABLES } else { &[] };
        Ok(environment.clone().without(names))
    }
}
