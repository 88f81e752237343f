//! Where pgkeep keeps its state on this host (locks, the host's id, which repositories it knows), and directories that
//! are for other readers, too.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

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

/// The name of this host, without its domain.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().split('.').next().unwrap_or_default().to_owned()
}

/// The directories of `PATH`.
pub fn path(environment: &Environment) -> Vec<PathBuf> {
    environment.get_os("PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default()
}

/// Makes `directory` and what is missing above it as `mkdir -p` does: 0755, in spite of our umask. What is there already
/// stays as it is.
pub fn make_readable(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(above) = directory.parent() {
        make_readable(above)?;
    }
    match DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => make_readable_by_all(&File::open(directory)?, 0o755, directory.parent()),
        // Another run was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives a file or directory that was just made its mode, and, if root made it, to the owner of the `folder` it lies in:
/// who works there every night must be able to go on with what root began by hand.
pub fn make_readable_by_all(made: &File, mode: u32, folder: Option<&Path>) -> io::Result<()> {
    if let Some(folder) = folder.filter(|_| rustix::process::geteuid().is_root()) {
        let owner = std::fs::metadata(folder)?;
        std::os::unix::fs::fchown(made, Some(owner.uid()), Some(owner.gid()))?;
    }
    // After fchown, which may clear bits.
    made.set_permissions(Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_for_others_is_made_with_those_above_it_and_one_that_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        let deep = folder.path().join("a/b");
        make_readable(&deep).unwrap();
        assert_eq!((mode(&deep), mode(&folder.path().join("a"))), (0o755, 0o755));
        std::fs::set_permissions(&deep, Permissions::from_mode(0o2750)).unwrap();
        make_readable(&deep).unwrap();
        assert_eq!(mode(&deep), 0o2750);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(make_readable(&folder.path().join("file/c")).is_err());
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_its_folder() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(4321), Some(4321)).unwrap();
        let deep = folder.path().join("a/b");
        make_readable(&deep).unwrap();
        for path in [&deep, &folder.path().join("a")] {
            let made = std::fs::metadata(path).unwrap();
            assert_eq!((made.uid(), made.gid()), (4321, 4321));
        }
    }
}
