//! The directories of a repository: walked from the root's descriptor, one component at a time, never through a link.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, Once};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};

use super::failure::{Failure, Result, Step};
use crate::error::Error;
use crate::storage::{Fault, Key, Prefix};

pub(super) const FOLDER_MODE: Mode = Mode::RWXU;
pub(super) const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

const OPEN_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A repository's root, held open, and whom it belongs to.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    owner: (Uid, Gid),
    /// Folders whose entry in their parent this process knows to be durable. Another process may have made a folder and
    /// died before its fsync, so the first use of every folder syncs the parent.
    durable: Mutex<HashSet<String>>,
    /// What was passed over, and said so.
    strange: Mutex<HashSet<Key>>,
}

impl Tree {
    pub fn new(root: OwnedFd) -> Result<Self> {
        let stat = rustix::fs::fstat(&root)?;
        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        Ok(Self { root, owner, durable: Mutex::default(), strange: Mutex::default() })
    }

    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// A repository has one owner, whoever owns its directory. Root writes as that owner; another user would leave
    /// files that the owner can neither read nor remove.
    pub fn may_write(&self) -> Result<()> {
        let us = geteuid();
        if us.is_root() || us == self.owner.0 {
            return Ok(());
        }
        let (owner, us) = (user_name(self.owner.0), user_name(us));
        let refusal = Error::refused(format!("the repository belongs to {owner} and this is {us}"))
            .hint(format!("run it as the owner: sudo -u {owner} pgkeep …"));
        Err(Failure::new(Fault::Denied, refusal))
    }

    /// Gives what we just made to the owner, with exactly `mode`, whatever the umask is.
    pub fn adopt(&self, made: impl AsFd, mode: Mode) -> Result<()> {
        if geteuid() != self.owner.0 {
            rustix::fs::fchown(&made, Some(self.owner.0), Some(self.owner.1))
                .step(|| format!("give it to {}", user_name(self.owner.0)))?;
        }
        // After fchown, which may clear bits.
        Ok(rustix::fs::fchmod(made, mode)?)
    }

    /// The folder at `path` ("" is the root), or `None` if there is none.
    pub fn folder(&self, path: &str) -> Result<Option<OwnedFd>> {
        let mut folder = open_folder(&self.root, ".").step(|| "open the directory".to_owned())?;
        for (name, so_far) in components(path) {
            folder = match open_folder(&folder, name) {
                Ok(child) => child,
                Err(Errno::NOENT) => return self.absent(),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return if kind_of(&folder, name)? == FileType::RegularFile {
                        Ok(None)
                    } else {
                        Err(not_a_folder(&folder, name, so_far))
                    };
                }
                Err(errno) => return Err(errno).step(|| format!("open folder {so_far:?}")),
            };
        }
        Ok(Some(folder))
    }

    /// Nothing there, unless the repository itself was removed under us: then nobody knows.
    pub fn absent<T>(&self) -> Result<Option<T>> {
        match rustix::fs::fstat(&self.root)?.st_nlink {
            0 => Err(Failure::new(Fault::Unavailable, "the directory of the repository was removed")),
            _ => Ok(None),
        }
    }

    /// The folder at `path`, made where it is missing; its way down from the root is durable.
    pub fn make_folder(&self, path: &str) -> Result<OwnedFd> {
        let mut folder = open_folder(&self.root, ".").step(|| "open the directory".to_owned())?;
        for (name, so_far) in components(path) {
            let (child, made) = self.enter(&folder, name, so_far)?;
            if made || !self.known_durable(so_far) {
                sync_folder(&folder).step(|| format!("fsync the folder that holds {so_far:?}"))?;
                self.durable.lock().unwrap_or_else(|e| e.into_inner()).insert(so_far.to_owned());
            }
            folder = child;
        }
        Ok(folder)
    }

    /// Warns of what is no file, once, however often its folder is listed.
    pub fn pass_over(&self, key: Key) {
        if self.strange.lock().unwrap_or_else(|e| e.into_inner()).insert(key.clone()) {
            tracing::warn!(?key, "passed over what is not a regular file");
        }
    }

    fn known_durable(&self, path: &str) -> bool {
        self.durable.lock().unwrap_or_else(|e| e.into_inner()).contains(path)
    }

    fn enter(&self, parent: &OwnedFd, name: &str, path: &str) -> Result<(OwnedFd, bool)> {
        let made = match open_folder(parent, name) {
            Ok(child) => return self.reclaim(child).map(|child| (child, false)),
            Err(Errno::NOENT) => match rustix::fs::mkdirat(parent, name, FOLDER_MODE) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(errno).step(|| format!("create folder {path:?}")),
            },
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_a_folder(parent, name, path)),
            Err(errno) => return Err(errno).step(|| format!("open folder {path:?}")),
        };
        let child = match open_folder(parent, name) {
            // A umask that takes our own rights away. Not for root, whom no mode keeps out: by name this could be
            // redirected by whoever owns the parent.
            Err(Errno::ACCESS) if made => rustix::fs::chmodat(parent, name, FOLDER_MODE, AtFlags::empty())
                .and_then(|()| open_folder(parent, name)),
            opened => opened,
        };
        let child = child.step(|| format!("open folder {path:?}"))?;
        if made && geteuid() == self.owner.0 {
            self.adopt(&child, FOLDER_MODE)?;
        }
        Ok((self.reclaim(child)?, made))
    }

    /// A folder that root made, here or in a run that died before it could give it away. Only an empty one is given
    /// away: the owner of the parent could have moved a directory full of root's files into this place.
    fn reclaim(&self, folder: OwnedFd) -> Result<OwnedFd> {
        let us = geteuid();
        if us.is_root() && !self.owner.0.is_root() {
            let stat = rustix::fs::fstat(&folder)?;
            if stat.st_uid == us.as_raw() && is_empty(&folder)? {
                self.adopt(&folder, FOLDER_MODE)?;
            }
        }
        Ok(folder)
    }

    /// Calls `visit` with every entry below `prefix` that is not a folder: the folder, its path ("" or ending in `/`)
    /// and the name. Fails if a folder cannot be read or is a link to one. What is not named by a key is passed over and left alone.
    pub fn walk(&self, prefix: &Prefix, mut visit: impl FnMut(&OwnedFd, &str, &str) -> Result<()>) -> Result<()> {
        let mut waiting = vec![prefix.as_str().to_owned()];
        while let Some(path) = waiting.pop() {
            let folder = match self.folder(path.trim_end_matches('/')) {
                Ok(Some(folder)) => folder,
                Ok(None) => continue,
                // Every ext4 file system has one at its top, closed to all but root: it is not a part of the
                // repository.
                Err(failure) if of_file_system(prefix, &path) && failure.fault == Fault::Denied => continue,
                Err(failure) => return Err(failure),
            };
            for entry in Dir::read_from(&folder).step(|| format!("read folder {path:?}"))? {
                let entry = entry.step(|| format!("read folder {path:?}"))?;
                let Some(name) = entry_name(&path, entry.file_name()) else { continue };
                let kind = match entry.file_type() {
                    FileType::Unknown => match kind_of(&folder, name) {
                        Ok(kind) => kind,
                        Err(Errno::NOENT) => continue,
                        Err(errno) => return Err(errno).step(|| format!("look at {:?}", format!("{path}{name}"))),
                    },
                    known => known,
                };
                match kind {
                    FileType::Directory => waiting.push(format!("{path}{name}/")),
                    // Somebody moved a folder to another disk. To leave its objects out would be to say that they are
                    // not there.
                    FileType::Symlink if leads_to_folder(&folder, name) => {
                        return Err(not_a_folder(&folder, name, &format!("{path}{name}")));
                    }
                    _ => visit(&folder, &path, name)?,
                }
            }
        }
        // A directory that was removed while it was open reads as an empty one.
        self.absent::<()>().map(drop)
    }
}

/// The name of a directory entry that a key could have, or that an unfinished write has.
fn entry_name<'a>(path: &str, name: &'a CStr) -> Option<&'a str> {
    if matches!(name.to_bytes(), b"." | b"..") {
        return None;
    }
    let known = name.to_str().ok().filter(|name| is_unfinished(name) || Key::new(format!("{path}{name}")).is_ok());
    if known.is_none() {
        tracing::warn!(folder = path, ?name, "passed over a file whose name is not an object name");
    }
    known
}

fn of_file_system(prefix: &Prefix, path: &str) -> bool {
    *prefix == Prefix::root() && path == "lost+found/"
}

/// Whether `name` is that of a temporary file of an unfinished write.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.starts_with(super::UNFINISHED)
}

/// The components of `path`, each with the path down to it.
fn components(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut start = 0;
    path.split('/').filter(|name| !name.is_empty()).map(move |name| {
        let end = start + name.len();
        start = end + 1;
        (name, &path[..end])
    })
}

fn open_folder(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, OPEN_FOLDER, Mode::empty())
}

pub(super) fn stat(folder: impl AsFd, name: &str) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn kind_of(folder: impl AsFd, name: &str) -> Result<FileType, Errno> {
    stat(folder, name).map(|stat| FileType::from_raw_mode(stat.st_mode))
}

fn leads_to_folder(parent: &OwnedFd, name: &str) -> bool {
    let target = rustix::fs::statat(parent, name, AtFlags::empty());
    target.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn not_a_folder(parent: &OwnedFd, name: &str, path: &str) -> Failure {
    Failure::other(match kind_of(parent, name) {
        Ok(FileType::Symlink) => format!("{path:?} is a symbolic link, and none is followed inside a repository"),
        _ => format!("{path:?} is not a folder"),
    })
}

fn is_empty(folder: &OwnedFd) -> Result<bool> {
    for entry in Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the entries of a folder durable. Some network and FUSE file systems cannot, and there is nothing more to do.
pub(super) fn sync_folder(folder: impl AsFd) -> Result<()> {
    static ONCE: Once = Once::new();
    match rustix::fs::fsync(folder) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {
            ONCE.call_once(|| {
                tracing::warn!("this file system cannot fsync a directory; new names may be lost in a crash")
            });
            Ok(())
        }
        done => Ok(done?),
    }
}

/// The login of a user as `sudo -u` takes it; the number where the host's file does not know it.
fn user_name(uid: Uid) -> String {
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let login = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let login = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == uid.as_raw()).then(|| login.to_owned())
    });
    login.unwrap_or_else(|| format!("'#{}'", uid.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_walked_component_by_component() {
        let walked: Vec<_> = components("a/bb/c").collect();
        assert_eq!(walked, [("a", "a"), ("bb", "a/bb"), ("c", "a/bb/c")]);
        assert_eq!(components("").count(), 0);
    }

    #[test]
    fn a_user_without_a_name_is_written_as_sudo_takes_it() {
        assert_eq!(user_name(Uid::ROOT), "root");
        assert_eq!(user_name(Uid::from_raw(4_123_456_789)), "'#4123456789'");
    }
}
