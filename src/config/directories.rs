//! Where pgkeep keeps its state on this host: locks, the host's id, which repositories it knows.

use std::path::PathBuf;

use super::environment::Environment;
use crate::error::{Error, Result};

/// `$PGKEEP_STATE_DIR`; else `/var/lib/pgkeep` for root; else `$XDG_STATE_HOME/pgkeep`, by default
/// `~/.local/state/pgkeep`.
pub fn state(environment: &Environment) -> Result<PathBuf> {
    let set = |name: &str| environment.get_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set("PGKEEP_STATE_DIR") {
        return Ok(directory);
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/pgkeep".into());
    }
    if let Some(base) = set("XDG_STATE_HOME") {
        return Ok(base.join("pgkeep"));
    }
    match environment.home() {
        Some(home) => Ok(home.join(".local/state/pgkeep")),
        None => Err(Error::usage("the account that pgkeep runs as has no home directory")
            .hint("name a directory for locks and records with PGKEEP_STATE_DIR")),
    }
}

/// The directories of `PATH`.
pub fn path(environment: &Environment) -> Vec<PathBuf> {
    environment.get_os("PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default()
}
