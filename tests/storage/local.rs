//! What a directory on a disk must keep beyond the contract: modes, the owner rule, no links, what lies about.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgkeep::error::{Error, Kind};
use pgkeep::storage::{Fault, Key, LocalStorage, Missing, Prefix, Storage};
use rustix::fs::FlockOperation;
use tempfile::TempDir;

use crate::child;
use crate::contract::{key, noise};

/// A user who is neither root nor the owner, and needs no entry in /etc/passwd.
const STRANGER: u32 = 54_321;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An empty repository in a directory that every user may pass through.
pub fn scene() -> (TempDir, PathBuf) {
    let scene = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let repo = scene.path().join("repo");
    fs::create_dir(&repo).unwrap();
    fs::set_permissions(&repo, fs::Permissions::from_mode(0o700)).unwrap();
    (scene, repo)
}

pub async fn open(repo: &Path) -> LocalStorage {
    LocalStorage::open(repo, Missing::Refuse).await.unwrap()
}

/// Every path below `folder` with its metadata, links not followed.
pub fn everything(folder: &Path) -> BTreeMap<String, fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                waiting.push(path.clone());
            }
            found.insert(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned(), metadata);
        }
    }
    found
}

/// A login from /etc/passwd that is not root.
fn someone() -> (String, u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |login: &str| {
        let fields: Vec<_> = users.lines().find(|line| line.starts_with(&format!("{login}:")))?.split(':').collect();
        Some((login.to_owned(), fields[2].parse().unwrap(), fields[3].parse().unwrap()))
    };
    find("postgres").or_else(|| find("nobody")).expect("neither postgres nor nobody in /etc/passwd")
}

fn assert_modes(repo: &Path) {
    let found = everything(repo);
    assert!(found.len() >= 6, "{:?}", found.keys());
    for (name, metadata) in found {
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.mode() & 0o7777, expected, "mode of {name}");
    }
}

#[test]
fn modes_are_exact_under_any_umask() {
    for umask in ["umask 000", "umask 077", "umask 777"] {
        let (_scene, repo) = scene();
        fs::remove_dir(&repo).unwrap();
        assert_eq!(child::answer(&mut child::ourselves(umask, &repo)), "done");
        assert_eq!(fs::metadata(&repo).unwrap().mode() & 0o7777, 0o700, "{umask}");
        assert_modes(&repo);
    }
    if !is_root() {
        return;
    }
    // For a user whom modes keep out, in a parent that it may write to and not read.
    let (_scene, parent) = scene();
    chown(&parent, Some(STRANGER), Some(STRANGER)).unwrap();
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o300)).unwrap();
    let repo = parent.join("made");
    assert_eq!(child::answer(child::ourselves("umask 777", &repo).uid(STRANGER).gid(STRANGER)), "done");
    assert_eq!(fs::metadata(&repo).unwrap().mode() & 0o7777, 0o700);
    assert_modes(&repo);
}

#[tokio::test]
async fn root_writes_as_the_owner_of_the_directory() {
    if !is_root() {
        eprintln!("not root: that root gives its files to the owner of the repository is not checked");
        return;
    }
    let (login, uid, gid) = someone();
    let (_scene, repo) = scene();
    chown(&repo, Some(uid), Some(gid)).unwrap();
    // A folder that root made and died before giving away.
    fs::create_dir(repo.join("main")).unwrap();
    let storage = open(&repo).await;
    storage.create(&key("main/dumps/x"), "1".into()).await.unwrap();
    storage.replace(&key("main/runs/y"), "2".into()).await.unwrap();
    storage.writer(&key("z"), None).await.unwrap().finish().await.unwrap();
    let found = everything(&repo);
    assert_eq!(found.len(), 6, "{:?}", found.keys());
    for (name, metadata) in found {
        assert_eq!((metadata.uid(), metadata.gid()), (uid, gid), "owner of {name}, {login}'s repository");
    }
    // What root left, the owner can go on with.
    assert_eq!(
        child::answer(child::ourselves("create deep", &repo).uid(uid).gid(gid)).split(' ').next(),
        Some("Exists")
    );
    assert_eq!(child::answer(child::ourselves("create", &repo).uid(uid).gid(gid)), "done");
    assert_eq!(child::answer(child::ourselves("sweep", &repo).uid(uid).gid(gid)), "0");
}

#[tokio::test]
async fn a_folder_full_of_roots_files_is_not_given_away() {
    if !is_root() {
        eprintln!("not root: there is no folder of root's to be moved into a repository");
        return;
    }
    let (_scene, repo) = scene();
    chown(&repo, Some(STRANGER), Some(STRANGER)).unwrap();
    fs::create_dir(repo.join("main")).unwrap();
    fs::write(repo.join("main/secret"), "of root").unwrap();
    open(&repo).await.create(&key("main/x"), "1".into()).await.unwrap();
    assert_eq!(fs::metadata(repo.join("main")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(repo.join("main/secret")).unwrap().uid(), 0);
}

#[tokio::test]
async fn another_user_is_refused_with_the_command_to_run() {
    if !is_root() {
        eprintln!("not root: only that /usr, which is root's, is refused");
        let error = open(Path::new("/usr")).await.create(&key("x"), "1".into()).await.unwrap_err();
        let error = Error::from(error);
        assert_eq!(
            (error.kind, error.next_step()),
            (Kind::Refused, Some("run it as the owner: sudo -u root pgkeep …"))
        );
        return;
    }
    let (login, uid, gid) = someone();
    let (_scene, repo) = scene();
    fs::set_permissions(&repo, fs::Permissions::from_mode(0o777)).unwrap();
    chown(&repo, Some(uid), Some(gid)).unwrap();
    open(&repo).await.create(&key("x"), noise(1, 77)).await.unwrap();
    let as_stranger = |role| child::answer(child::ourselves(role, &repo).uid(STRANGER).gid(STRANGER));
    for role in ["create", "replace", "write", "delete", "sweep", "now"] {
        let answer = as_stranger(role);
        assert!(answer.starts_with("Denied kind=Refused"), "{role}: {answer}");
        assert!(answer.contains(&format!("belongs to {login} and this is '#{STRANGER}'")), "{answer}");
        assert!(answer.ends_with(&format!("hint=run it as the owner: sudo -u {login} pgkeep …")), "{answer}");
    }
    assert_eq!(everything(&repo).keys().collect::<Vec<_>>(), ["x"]);

    // Reading is a matter of modes.
    assert_eq!(as_stranger("list"), "x");
    let denied = as_stranger("read");
    assert!(denied.starts_with("Denied kind=Storage read \"x\" in ") && denied.contains("check the owner"), "{denied}");
    fs::set_permissions(repo.join("x"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(as_stranger("read"), "77");
    fs::set_permissions(&repo, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(as_stranger("list").starts_with("Denied kind=Storage open the repository in "));
}

#[tokio::test]
async fn only_the_last_component_is_created() {
    let (_scene, repo) = scene();
    let missing = repo.join("new");
    let error = LocalStorage::open(&missing, Missing::Refuse).await.unwrap_err();
    assert_eq!(error.fault, Fault::NotFound);
    assert!(Error::from(error).next_step().unwrap().contains("disk is mounted"));
    assert!(!missing.exists());

    let error = LocalStorage::open(missing.join("newer"), Missing::CreateLast).await.unwrap_err();
    assert_eq!(error.fault, Fault::Other);
    assert!(error.to_string().contains(&format!("{missing:?} does not exist")), "{error}");
    assert!(!missing.exists());

    LocalStorage::open(missing.join(""), Missing::CreateLast).await.unwrap();
    assert_eq!(fs::metadata(&missing).unwrap().mode() & 0o7777, 0o700);
    LocalStorage::open(&missing, Missing::CreateLast).await.unwrap();

    fs::write(repo.join("file"), "").unwrap();
    let error = LocalStorage::open(repo.join("file"), Missing::CreateLast).await.unwrap_err();
    assert!(error.to_string().ends_with("it is not a directory"), "{error}");
}

#[tokio::test]
async fn a_repository_that_was_removed_has_not_lost_its_objects() {
    let (_scene, repo) = scene();
    let storage = open(&repo).await;
    fs::remove_dir(&repo).unwrap();
    assert_eq!(storage.head(&key("x")).await.unwrap_err().fault, Fault::Unavailable);
    assert_eq!(storage.get(&key("a/x"), 1).await.unwrap_err().fault, Fault::Unavailable);
    assert!(storage.list(&Prefix::root()).await.is_err());
    assert!(storage.delete(&key("x")).await.is_err());
    assert!(storage.create(&key("x"), "1".into()).await.is_err());
}

#[tokio::test]
async fn a_link_is_refused_and_never_followed() {
    let (scene, repo) = scene();
    let outside = scene.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    symlink(&outside, repo.join("main")).unwrap();
    symlink(outside.join("victim"), repo.join("link")).unwrap();
    symlink(outside.join("new"), repo.join("dangling")).unwrap();
    // The path to the repository itself may be a link.
    symlink(&repo, scene.path().join("alias")).unwrap();
    let storage = open(&scene.path().join("alias")).await;

    for name in ["main/x", "main/deep/x"] {
        let created = storage.create(&key(name), "1".into()).await.unwrap_err();
        assert!(created.to_string().contains("\"main\" is a symbolic link"), "{created}");
        assert!(storage.writer(&key(name), None).await.is_err());
        assert!(storage.replace(&key(name), "1".into()).await.is_err());
    }
    for name in ["main/victim", "link", "dangling"] {
        assert_eq!(storage.head(&key(name)).await.unwrap_err().fault, Fault::Other, "{name}");
        assert_eq!(storage.get(&key(name), 100).await.unwrap_err().fault, Fault::Other, "{name}");
    }
    assert!(storage.delete(&key("main/victim")).await.is_err());
    for name in ["link", "dangling"] {
        assert_eq!(storage.create(&key(name), "1".into()).await.unwrap_err().fault, Fault::Exists);
    }
    storage.replace(&key("link"), "mine".into()).await.unwrap();
    assert_eq!(fs::read_to_string(repo.join("link")).unwrap(), "mine");
    // What lies behind a link to a folder is not left out of a listing as if it were not there.
    let refused = storage.list(&Prefix::root()).await.unwrap_err();
    assert!(refused.to_string().contains("\"main\" is a symbolic link"), "{refused}");
    fs::remove_file(repo.join("main")).unwrap();
    let listed = storage.list(&Prefix::root()).await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["link"]);
    assert_eq!(everything(&outside).keys().collect::<Vec<_>>(), ["victim"]);
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
}

#[tokio::test]
async fn what_is_not_an_object_is_neither_listed_nor_removed_nor_waited_for() {
    let (_scene, repo) = scene();
    let storage = open(&repo).await;
    storage.create(&key("main/x"), "1".into()).await.unwrap();
    let odd = [repo.join("main/new\nline"), repo.join(Path::new("main")).join(not_utf8())];
    for path in &odd {
        fs::write(path, "not ours").unwrap();
    }
    fs::create_dir(repo.join("new\nfolder")).unwrap();
    fs::write(repo.join("new\nfolder/inside"), "not ours").unwrap();
    let pipe = repo.join("main/pipe");
    let made = Command::new("mkfifo").arg(&pipe).arg(repo.join("main/.pgkeep-unfinished-pipe")).status().unwrap();
    assert!(made.success());

    let listed = storage.list(&Prefix::root()).await.unwrap();
    assert_eq!(listed.into_iter().map(|object| object.key).collect::<Vec<_>>(), [key("main/x")]);
    let before = everything(&repo).len();
    assert_eq!(storage.sweep_unfinished(&Prefix::root()).await.unwrap(), 0);
    assert_eq!(everything(&repo).len(), before);
    assert!(storage.get(&key("main/pipe"), 10).await.unwrap_err().to_string().contains("not a regular file"));
}

fn not_utf8() -> &'static std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(b"latin-1 \xe9")
}

#[test]
fn a_folder_that_cannot_be_read_fails_the_listing() {
    let (_scene, repo) = scene();
    for folder in ["main", "main/shut", "lost+found"] {
        fs::create_dir(repo.join(folder)).unwrap();
    }
    fs::write(repo.join("x"), "").unwrap();
    let list = || {
        let mut child = child::ourselves("list", &repo);
        if is_root() {
            child.uid(STRANGER).gid(STRANGER);
        }
        child::answer(&mut child)
    };
    if is_root() {
        for path in ["", "main", "main/shut", "x"] {
            chown(repo.join(path), Some(STRANGER), Some(STRANGER)).unwrap();
        }
    }
    // The file system's own folder, closed to the owner of the repository, is not a part of it.
    fs::set_permissions(repo.join("lost+found"), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(list(), "x");
    fs::set_permissions(repo.join("main/shut"), fs::Permissions::from_mode(0o000)).unwrap();
    let answer = list();
    assert!(answer.starts_with("Denied ") && answer.contains("\"main/shut\""), "{answer}");
    for folder in ["main/shut", "lost+found"] {
        fs::set_permissions(repo.join(folder), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[tokio::test]
async fn a_writer_leaves_no_file_behind() {
    let (_scene, repo) = scene();
    let storage = open(&repo).await;
    let mut dropped = storage.writer(&key("d/dropped"), None).await.unwrap();
    dropped.write(noise(1, 1 << 20)).await.unwrap();
    assert!(everything(&repo).keys().any(|name| name.starts_with("d/.pgkeep-unfinished-")));
    drop(dropped);
    assert_eq!(everything(&repo).keys().collect::<Vec<_>>(), ["d"]);
    let mut aborted = storage.writer(&key("d/aborted"), None).await.unwrap();
    aborted.write(noise(1, 1 << 20)).await.unwrap();
    aborted.abort().await;
    assert_eq!(everything(&repo).keys().collect::<Vec<_>>(), ["d"]);
    storage.create(&key("d/x"), "1".into()).await.unwrap();
    storage.create(&key("d/x"), "2".into()).await.unwrap_err();
    storage.replace(&key("d/y"), "3".into()).await.unwrap();
    assert_eq!(everything(&repo).keys().collect::<Vec<_>>(), ["d", "d/x", "d/y"]);
    assert_eq!(everything(&repo)["d/x"].nlink(), 1);
}

#[tokio::test]
async fn an_object_that_shrinks_is_an_error_and_not_a_shorter_object() {
    let (_scene, repo) = scene();
    let storage = open(&repo).await;
    storage.create(&key("x"), noise(1, 5 << 20)).await.unwrap();
    let mut reader = storage.read(&key("x"), None).await.unwrap();
    reader.next().await.unwrap();
    fs::File::options().write(true).open(repo.join("x")).unwrap().set_len((1 << 20) + 1).unwrap();
    let error = loop {
        match reader.next().await {
            Ok(chunk) => assert!(chunk.is_some(), "an early end without an error"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("before its size said"), "{error}");
}

#[tokio::test]
async fn a_sweep_removes_what_the_dead_left_and_nothing_that_is_locked() {
    let (_scene, repo) = scene();
    let storage = open(&repo).await;
    storage.create(&key("main/x"), "1".into()).await.unwrap();
    let live = repo.join("main/.pgkeep-unfinished-1-live");
    for dead in ["main/.pgkeep-unfinished-1-dead", ".pgkeep-unfinished-2-dead", "main/.pgkeep-unfinished-3-dead"] {
        fs::write(repo.join(dead), "half").unwrap();
    }
    fs::write(&live, "half").unwrap();
    // A lock belongs to an open file, not to a process: this is what another process's lock looks like.
    let lock = fs::File::open(&live).unwrap();
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();

    assert_eq!(storage.list(&Prefix::root()).await.unwrap().len(), 1);
    assert_eq!(storage.sweep_unfinished(&Prefix::folder("main").unwrap()).await.unwrap(), 2);
    assert_eq!(storage.sweep_unfinished(&Prefix::root()).await.unwrap(), 1);
    assert!(live.exists());
    drop(lock);
    assert_eq!(storage.sweep_unfinished(&Prefix::root()).await.unwrap(), 1);
    assert_eq!(everything(&repo).keys().collect::<Vec<_>>(), ["main", "main/x"]);
}

/// Sweeps race with writers that are between creating their file and locking it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweeping_all_the_time_disturbs_no_writer() {
    let (_scene, repo) = scene();
    let storage = open(&repo).await;
    let sweeper = tokio::spawn({
        let storage = storage.clone();
        async move {
            loop {
                storage.sweep_unfinished(&Prefix::root()).await.unwrap();
            }
        }
    });
    for number in 0..300 {
        storage.create(&Key::new(format!("{}/{number}", number % 3)).unwrap(), noise(number, 100)).await.unwrap();
    }
    sweeper.abort();
    assert_eq!(storage.list(&Prefix::root()).await.unwrap().len(), 300);
}
