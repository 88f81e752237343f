//! Objects as files in a directory of the local file system.
//!
//! `main/dumps/x` is the file `main/dumps/x`: whoever has the directory needs no tool to read it. Modes are 0700 and
//! 0600 whatever the umask; everything belongs to the owner of the directory, also what root writes. Links inside the
//! repository are refused, not followed. File work happens on blocking threads.

mod failure;
mod flow;
mod tree;
mod unfinished;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use self::failure::{Failure, Step};
use self::flow::{LocalReader, LocalWriter, joined, publish};
use self::tree::Tree;
use self::unfinished::Unfinished;
use super::key::UNFINISHED;
use super::{CreateOnly, Fault, Key, ObjectMeta, ObjectReader, ObjectWriter, Prefix, Result, Storage};
use crate::error::{Error, Kind};

/// What to do where there is no directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Fail with [`Fault::NotFound`].
    Refuse,
    /// Make the last component of the path, never more: above it a disk may not be mounted.
    CreateLast,
}

/// A repository in a directory. Clones share it.
#[derive(Clone, Debug)]
pub struct LocalStorage {
    address: Arc<str>,
    tree: Arc<Tree>,
}

impl LocalStorage {
    /// Opens the directory at `path`, which may itself be a link. Needs the right to read it; whether we may write is
    /// decided when we do.
    pub async fn open(path: impl Into<PathBuf>, missing: Missing) -> Result<Self> {
        let path = path.into();
        let address = path.to_string_lossy().into_owned();
        let opened = joined(spawn_blocking(move || open_root(&path, missing).and_then(Tree::new)).await);
        match opened {
            Ok(tree) => Ok(Self { address: address.into(), tree: Arc::new(tree) }),
            Err(failure) => Err(failure.at("open the repository".to_owned(), &address)),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        action: String,
        work: impl FnOnce(&Tree) -> failure::Result<T> + Send + 'static,
    ) -> Result<T> {
        let tree = Arc::clone(&self.tree);
        joined(spawn_blocking(move || work(&tree)).await).map_err(|failure| failure.at(action, &self.address))
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn address(&self) -> &str {
        &self.address
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        let key = key.clone();
        self.run(format!("create {key:?}"), move |tree| {
            let mut unfinished = Unfinished::begin(tree, key.folder())?;
            unfinished.write(&body)?;
            publish(unfinished, key).map(drop)
        })
        .await
    }

    async fn replace(&self, key: &Key, body: Bytes) -> Result<()> {
        let key = key.clone();
        self.run(format!("replace {key:?}"), move |tree| {
            let mut unfinished = Unfinished::begin(tree, key.folder())?;
            unfinished.write(&body)?;
            unfinished.replace(key.file_name()).map(drop)
        })
        .await
    }

    async fn prove_create_only(&self) -> Result<CreateOnly> {
        Ok(CreateOnly::Link)
    }

    async fn writer(&self, key: &Key, _expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let folder = key.folder().to_owned();
        let begin = move |tree: &Tree| Unfinished::begin(tree, &folder);
        let unfinished = self.run(format!("create {key:?}"), begin).await?;
        Ok(Box::new(LocalWriter::new(key.clone(), self.address.to_string(), unfinished)))
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Box<dyn ObjectReader>> {
        let wanted = key.clone();
        let (file, range) = self.run(format!("read {key:?}"), move |tree| open_object(tree, &wanted, range)).await?;
        Ok(Box::new(LocalReader::new(key.clone(), self.address.to_string(), file, range)))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let key = key.clone();
        self.run(format!("look at {key:?}"), move |tree| head(tree, key)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<ObjectMeta>> {
        let prefix = prefix.clone();
        self.run(format!("list {prefix:?}"), move |tree| list(tree, &prefix)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.run(format!("delete {key:?}"), move |tree| delete(tree, &key)).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.run("ask for the time".to_owned(), unfinished::clock).await
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.run("ask for the free space".to_owned(), |tree| {
            let space = rustix::fs::fstatvfs(tree.root())?;
            Ok(Some(space.f_bavail.saturating_mul(space.f_frsize)))
        })
        .await
    }

    async fn sweep_unfinished(&self, prefix: &Prefix) -> Result<usize> {
        let prefix = prefix.clone();
        self.run(format!("sweep {prefix:?}"), move |tree| unfinished::sweep(tree, &prefix)).await
    }
}

fn open_root(path: &Path, missing: Missing) -> failure::Result<OwnedFd> {
    let open = || rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match open() {
        Err(Errno::NOENT) if missing == Missing::CreateLast => {
            make_root(path)?;
            open().map_err(Failure::from)
        }
        Err(Errno::NOENT) => {
            let hint = "check the path, and whether its disk is mounted; the first backup creates the directory";
            Err(Failure::new(Fault::NotFound, Error::new(Kind::Storage, "there is no such directory").hint(hint)))
        }
        Err(Errno::NOTDIR) => Err(Failure::other("it is not a directory")),
        opened => Ok(opened?),
    }
}

fn make_root(path: &Path) -> failure::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    match rustix::fs::mkdir(path, tree::FOLDER_MODE) {
        Ok(()) => {}
        // Another run was faster.
        Err(Errno::EXIST) => return Ok(()),
        Err(Errno::NOENT) => {
            let missing = format!("{parent:?} does not exist, and only the last component of a path is created");
            let hint = "check the path, and whether its disk is mounted, or create the directory";
            return Err(Failure::other(Error::new(Kind::Storage, missing).hint(hint)));
        }
        Err(errno) => return Err(errno).step(|| "create the directory".to_owned()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open_made = || rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty());
    let made = match open_made() {
        // A umask that takes our own rights away; root, whom a swapped name could mislead, does not come here.
        Err(Errno::ACCESS) => rustix::fs::chmod(path, tree::FOLDER_MODE).and_then(|()| open_made()),
        opened => opened,
    };
    let made = made?;
    rustix::fs::fchmod(&made, tree::FOLDER_MODE)?;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => tree::sync_folder(parent),
        // A parent that we may write to and not read: the file system as a whole can still be synced.
        Err(Errno::ACCESS) => rustix::fs::syncfs(made).map_err(Failure::from),
        Err(errno) => Err(errno.into()),
    }
    .step(|| format!("fsync {parent:?}"))
}

fn open_object(tree: &Tree, key: &Key, range: Option<Range<u64>>) -> failure::Result<(OwnedFd, Range<u64>)> {
    let folder = tree.folder(key.folder())?.ok_or_else(Failure::not_found)?;
    // Not blocking: a pipe of this name must not hold us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&folder, key.file_name(), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return tree.absent()?.ok_or_else(Failure::not_found),
        Err(Errno::LOOP) => return Err(Failure::other("it is a symbolic link, and none is followed in a repository")),
        Err(errno) => return Err(errno.into()),
    };
    let size_bytes = object_size(&rustix::fs::fstat(&file)?)?;
    let range = range.unwrap_or(0..size_bytes);
    if range.start > range.end || range.end > size_bytes {
        let Range { start, end } = range;
        return Err(Failure::other(format!("bytes {start} to {end} do not lie in its {size_bytes} bytes")));
    }
    Ok((file, range))
}

fn head(tree: &Tree, key: Key) -> failure::Result<ObjectMeta> {
    let folder = tree.folder(key.folder())?.ok_or_else(Failure::not_found)?;
    let stat = match tree::stat(&folder, key.file_name()) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return tree.absent()?.ok_or_else(Failure::not_found),
        Err(errno) => return Err(errno.into()),
    };
    Ok(ObjectMeta { key, size_bytes: object_size(&stat)?, modified: unfinished::modified(&stat)? })
}

/// The size of a file. A folder is no object; a link, a pipe or a device in the place of one is an error.
fn object_size(stat: &rustix::fs::Stat) -> failure::Result<u64> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => u64::try_from(stat.st_size).map_err(Failure::other),
        FileType::Directory => Err(Failure::not_found()),
        kind => Err(Failure::other(format!("it is not a regular file ({kind:?})"))),
    }
}

fn list(tree: &Tree, prefix: &Prefix) -> failure::Result<Vec<ObjectMeta>> {
    let mut objects = Vec::new();
    tree.walk(prefix, |folder, path, name| {
        let Some(key) = Key::new(format!("{path}{name}")).ok().filter(|_| !tree::is_unfinished(name)) else {
            return Ok(());
        };
        match tree::stat(folder, name) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                let (size_bytes, modified) = (object_size(&stat)?, unfinished::modified(&stat)?);
                objects.push(ObjectMeta { key, size_bytes, modified });
            }
            Ok(_) => tree.pass_over(key),
            // Deleted since the folder was read.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).step(|| format!("look at {key:?}")),
        }
        Ok(())
    })?;
    objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(objects)
}

fn delete(tree: &Tree, key: &Key) -> failure::Result<()> {
    tree.may_write()?;
    let Some(folder) = tree.folder(key.folder())? else { return Ok(()) };
    match rustix::fs::unlinkat(&folder, key.file_name(), AtFlags::empty()) {
        // A missing object may be one whose removal was not durable: the caller asks again after a failed fsync.
        Ok(()) | Err(Errno::NOENT) => {}
        // A folder is no object.
        Err(Errno::ISDIR) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    tree.absent::<()>()?;
    tree::sync_folder(&folder).map_err(Failure::unsettled).step(|| "fsync the folder".to_owned())?;
    remove_if_empty(tree, key.folder())
}

/// A folder that holds the files of one object, which go one by one. Nobody else makes or fills it; one that is not
/// empty, or comes back after a crash, is no harm.
const FOLDER_OF_ONE: &str = ".dir";

fn remove_if_empty(tree: &Tree, path: &str) -> failure::Result<()> {
    let Some((parent, name)) = path.rsplit_once('/').filter(|(_, name)| name.ends_with(FOLDER_OF_ONE)) else {
        return Ok(());
    };
    if let Some(parent) = tree.folder(parent)? {
        let _ = rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
    }
    Ok(())
}
