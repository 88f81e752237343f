//! A directory for files that are on their way through this host, and what killed runs left of theirs.
//!
//! Each holds a file `lock` that its run keeps locked: one whose lock is free belongs to nobody any more. It gets its
//! name when it is locked already, so that a run which looks at the same moment does not take it for dead.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use crate::digest::random_hex;
use crate::error::{Doing as _, Error, Kind, Result};

const NAME: &str = "pgkeep-staging-";
/// Until it is locked.
const NEW: &str = ".pgkeep-new-staging-";
const LOCK: &str = "lock";

/// Ours while this lives; removed with what lies in it.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    _lock: File,
}

impl Staging {
    /// Makes one in `scratch`, and removes those of killed runs there. Refuses where there is no room for `needed_bytes`
    /// of `what`.
    pub fn create(scratch: &Path, needed_bytes: u64, what: &str) -> Result<Self> {
        remove_dead(scratch);
        room(scratch, needed_bytes, what)?;
        let name = random_hex(8);
        let (new, path) = (scratch.join(format!("{NEW}{name}")), scratch.join(format!("{NAME}{name}")));
        let make = || {
            DirBuilder::new().mode(0o700).create(&new)?;
            let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new.join(LOCK))?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            std::fs::rename(&new, &path)?;
            Ok::<_, std::io::Error>(lock)
        };
        let lock = make().doing(Kind::Storage, || format!("make a directory in {}", scratch.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// A new directory in it.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.path.join(name);
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.doing(Kind::Storage, || format!("make directory {}", folder.display()))?;
        Ok(folder)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// What cannot be removed takes space and nothing else: the next run tries again.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!("remove {}: {error}", path.display());
    }
}

fn remove_dead(scratch: &Path) {
    let Ok(entries) = std::fs::read_dir(scratch) else { return };
    let names = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(NAME));
    for path in names.map(|entry| entry.path()).filter(|path| is_ours(path)) {
        let lock =
            OpenOptions::new().write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path.join(LOCK));
        let is_dead = match &lock {
            Ok(lock) => rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            // Its removal was interrupted.
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if is_dead {
            tracing::info!("{} is of a run that is gone, and is removed", path.display());
            remove(&path);
        }
    }
}

/// Others may write into /tmp, too.
fn is_ours(path: &Path) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == ours)
}

fn room(directory: &Path, needed_bytes: u64, what: &str) -> Result<()> {
    let stat = rustix::fs::statvfs(directory);
    let stat = stat.doing(Kind::Storage, || format!("look at directory {}", directory.display()))?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    Err(Error::new(Kind::Storage, format!("{} has no room for {what}", directory.display()))
        .because(format!("it takes {needed_bytes} bytes, {free_bytes} are free"))
        .hint("free some space, or name another directory with TMPDIR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scratch: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(scratch).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_a_dead_run_left_is_removed_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let live = Staging::create(scratch.path(), 0, "x").unwrap();
        std::fs::write(live.folder("dump").unwrap().join("toc.dat"), "x").unwrap();
        // What is left when a run is killed: its lock is free; or while one is being removed: there is none.
        for (name, has_lock) in [("pgkeep-staging-00000001", true), ("pgkeep-staging-00000002", false)] {
            let dead = scratch.path().join(name);
            std::fs::create_dir_all(dead.join("dump")).unwrap();
            std::fs::write(dead.join("dump/1.dat"), "x").unwrap();
            if has_lock {
                std::fs::write(dead.join(LOCK), "").unwrap();
            }
        }
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), scratch.path().join("pgkeep-staging-link")).unwrap();

        let second = Staging::create(scratch.path(), 0, "x").unwrap();
        let mut left = names(scratch.path());
        left.sort();
        let mut expected: Vec<_> =
            [&live, &second].map(|staging| staging.path.file_name().unwrap().to_str().unwrap()).into();
        expected.push("pgkeep-staging-link");
        expected.sort();
        assert_eq!(left, expected);
        assert!(live.path.join("dump/toc.dat").exists() && elsewhere.path().join("kept").exists());
        drop((live, second));
        assert_eq!(names(scratch.path()), ["pgkeep-staging-link"]);
    }

    #[test]
    fn a_directory_without_room_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let error = Staging::create(scratch.path(), u64::MAX, "the tables").unwrap_err();
        assert_eq!(error.kind, Kind::Storage);
        assert!(error.to_string().contains("no room for the tables"), "{error}");
        assert_eq!(names(scratch.path()), Vec::<String>::new());
    }
}
