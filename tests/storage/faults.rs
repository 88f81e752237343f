//! A disk that is full, read-only or broken, and death at any moment.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgkeep::storage::{Prefix, Storage};

use crate::child;
use crate::contract::{key, noise};
use crate::local::{everything, is_root, open, scene};

/// Runs `script` and then, in its place, this binary as `role`: in a mount namespace of its own, which ends with it.
fn in_own_mounts(script: &str, role: &str, repo: &Path) -> String {
    let mut command = child::command("unshare", role, repo);
    if !is_root() {
        command.arg("--map-root-user");
    }
    let ourselves = std::env::current_exe().unwrap();
    command
        .args(["--mount", "sh", "-ec", &format!("{script}; exec \"$0\" \"$@\"")])
        .arg(ourselves)
        .args(child::ARGUMENTS);
    child::answer(command.env("REPO", repo))
}

#[test]
fn a_full_disk_is_said_to_be_full_and_nothing_half_written_stays() {
    let (_scene, repo) = scene();
    let full = "mount -t tmpfs -o size=1m tmpfs \"$REPO\"";
    for role in ["create", "write"] {
        let answer = in_own_mounts(full, role, &repo);
        assert!(answer.starts_with("Full kind=Storage create \"x\""), "{answer}");
        assert!(answer.contains("No space left") && answer.contains("hint=free some space"), "{answer}");
    }
    // No inode is left: not even the temporary file can be made.
    let answer = in_own_mounts("mount -t tmpfs -o nr_inodes=1 tmpfs \"$REPO\"", "create", &repo);
    assert!(answer.starts_with("Full "), "{answer}");
    // Two that fail, one after the other, and then what is left of them.
    let failing = |role| format!("PGKEEP_TEST_ROLE={role} \"$0\" \"$@\" | grep -q 'ANSWER Full'");
    let script = format!("{full}; {}; {}; test -z \"$(ls -A \"$REPO\")\"", failing("create"), failing("write"));
    let answer = in_own_mounts(&script, "list", &repo);
    assert_eq!(answer, "");
}

#[test]
fn a_file_size_limit_is_a_full_disk() {
    let (_scene, repo) = scene();
    // 512-byte blocks. The shell's ignored signal is inherited; the default action would be death.
    let script = "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\"";
    for role in ["create", "write"] {
        let mut command = child::command("sh", role, &repo);
        command.args(["-c", script]).arg(std::env::current_exe().unwrap()).args(child::ARGUMENTS);
        let answer = child::answer(&mut command);
        assert!(answer.starts_with("Full ") && answer.contains("File too large"), "{answer}");
        assert_eq!(everything(&repo).len(), 0);
    }
}

#[test]
fn a_read_only_disk_is_denied() {
    let (_scene, repo) = scene();
    fs::write(repo.join("x"), "old").unwrap();
    let read_only = "mount --bind \"$REPO\" \"$REPO\"; mount -o remount,ro,bind \"$REPO\"";
    for role in ["create", "replace", "write", "delete", "now"] {
        let answer = in_own_mounts(read_only, role, &repo);
        assert!(answer.starts_with("Denied kind=Storage ") && answer.contains("Read-only file system"), "{answer}");
    }
    assert_eq!(in_own_mounts(read_only, "read", &repo), "3");
    assert_eq!(in_own_mounts(read_only, "sweep", &repo), "0");
    assert_eq!(fs::read_to_string(repo.join("x")).unwrap(), "old");
}

#[test]
fn a_directory_without_write_permission_is_denied() {
    let (_scene, repo) = scene();
    let mut child = child::ourselves("create", &repo);
    if is_root() {
        std::os::unix::fs::chown(&repo, Some(54_321), Some(54_321)).unwrap();
        child.uid(54_321).gid(54_321);
    }
    fs::set_permissions(&repo, fs::Permissions::from_mode(0o500)).unwrap();
    let answer = child::answer(&mut child);
    assert!(answer.starts_with("Denied kind=Storage create \"x\""), "{answer}");
}

/// Runs this binary as `role` under strace, which writes what it saw to the file returned.
fn strace(options: &[&str], role: &str, repo: &Path) -> (Command, PathBuf) {
    let log = repo.with_file_name("strace.log");
    let mut command = child::command("strace", role, repo);
    command.args(["-f", "-y", "-qq", "-o"]).arg(&log).args(options).arg("--");
    command.arg(std::env::current_exe().unwrap()).args(child::ARGUMENTS);
    (command, log)
}

/// Runs `role` under strace and returns its answer with the calls that touched the repository.
fn traced(options: &[&str], role: &str, repo: &Path) -> (String, Vec<String>) {
    let installed = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    assert!(installed, "strace is needed for this test: apt-get install strace");
    let (mut command, log) = strace(options, role, repo);
    let answer = child::answer(&mut command);
    let repo = repo.to_str().unwrap();
    let calls = fs::read_to_string(log).unwrap();
    (answer, calls.lines().filter(|line| line.contains(repo)).map(str::to_owned).collect())
}

const CALLS: &str = "trace=openat,mkdirat,link,linkat,fsync,fdatasync,unlink,unlinkat,rename,renameat,renameat2";

/// The place of the only call that contains all of `parts`.
fn place(calls: &[String], parts: &[&str]) -> usize {
    let places: Vec<_> = (0..calls.len()).filter(|i| parts.iter().all(|part| calls[*i].contains(part))).collect();
    assert_eq!(places.len(), 1, "{parts:?} in {calls:#?}");
    places[0]
}

#[test]
fn data_is_durable_before_its_name_and_the_name_before_success() {
    for role in ["create deep", "write"] {
        let (_scene, repo) = scene();
        let (answer, calls) = traced(&["-e", CALLS], role, &repo);
        assert!(["done", "3000000"].contains(&answer.as_str()), "{answer}");
        let folder = if role == "write" { "repo>" } else { "repo/main/dumps>" };
        let data = place(&calls, &["fsync(", ".pgkeep-unfinished-", "= 0"]);
        let link = place(&calls, &["linkat(", ".pgkeep-unfinished-", "\"x\"", "= 0"]);
        let unlink = calls.iter().position(|call| call.contains("unlinkat(") && call.contains("= 0")).unwrap();
        let name = place(&calls, &["fsync(", folder, "= 0"]);
        assert!(data < link && link < unlink && unlink < name, "{calls:#?}");
        assert!(!calls.iter().any(|call| call.contains("rename")), "{calls:#?}");
        let opened = place(&calls, &["openat(", ".pgkeep-unfinished-"]);
        for flag in ["O_EXCL", "O_NOFOLLOW", "O_CLOEXEC", "0600"] {
            assert!(calls[opened].contains(flag), "{}", calls[opened]);
        }
        if role == "create deep" {
            // A new folder is a name in its parent.
            let (main, dumps) = (place(&calls, &["mkdirat(", "\"main\""]), place(&calls, &["mkdirat(", "\"dumps\""]));
            assert!(main < place(&calls, &["fsync(", "repo>"]), "{calls:#?}");
            let parent = place(&calls, &["fsync(", "repo/main>"]);
            assert!(dumps < parent && parent < link, "{calls:#?}");
        }
    }
}

#[test]
fn a_replacement_and_a_removal_are_durable() {
    let (_scene, repo) = scene();
    let (_, calls) = traced(&["-e", CALLS], "replace", &repo);
    let (data, rename) = (place(&calls, &["fsync(", ".pgkeep-unfinished-"]), place(&calls, &["renameat", "\"x\""]));
    assert!(data < rename && rename < place(&calls, &["fsync(", "repo>"]), "{calls:#?}");
    let (_, calls) = traced(&["-e", CALLS], "delete", &repo);
    assert!(place(&calls, &["unlinkat(", "\"x\""]) < place(&calls, &["fsync(", "repo>"]), "{calls:#?}");
}

#[test]
fn a_failed_fsync_is_not_tried_again_and_leaves_no_object() {
    for role in ["create", "write"] {
        let (_scene, repo) = scene();
        let (answer, calls) = traced(&["-e", CALLS, "-e", "inject=fsync:error=EIO:when=1"], role, &repo);
        assert!(answer.starts_with("Unavailable ") && answer.contains("fsync: Input/output error"), "{answer}");
        place(&calls, &["fsync("]);
        assert_eq!(everything(&repo).len(), 0, "{calls:#?}");
    }
}

#[tokio::test]
async fn a_folder_that_fails_to_fsync_leaves_the_outcome_open() {
    let (_scene, repo) = scene();
    let (answer, _) = traced(&["-e", CALLS, "-e", "inject=fsync:error=EIO:when=2"], "create", &repo);
    assert!(answer.starts_with("Unavailable ") && answer.contains("fsync the folder"), "{answer}");
    assert_eq!(open(&repo).await.get(&key("x"), u64::MAX).await.unwrap(), noise(1, 3_000_000));
    assert_eq!(everything(&repo).len(), 1);
}

/// Whoever meets a name that another run has given, or this one before an answer was lost, builds on it.
#[test]
fn what_is_said_to_exist_is_durable() {
    let (_scene, repo) = scene();
    fs::write(repo.join("x"), "old").unwrap();
    let (answer, calls) = traced(&["-e", CALLS], "create", &repo);
    assert!(answer.starts_with("Exists "), "{answer}");
    assert!(place(&calls, &["linkat(", "EEXIST"]) < place(&calls, &["fsync(", "repo>"]), "{calls:#?}");
    let (answer, _) = traced(&["-e", CALLS, "-e", "inject=fsync:error=EIO:when=2"], "create", &repo);
    assert!(answer.starts_with("Unavailable "), "{answer}");
    assert_eq!(fs::read_to_string(repo.join("x")).unwrap(), "old");
}

#[test]
fn a_file_system_that_cannot_fsync_folders_is_used_all_the_same() {
    for error in ["EINVAL", "EOPNOTSUPP"] {
        let (_scene, repo) = scene();
        let (answer, _) = traced(&["-e", CALLS, "-e", &format!("inject=fsync:error={error}:when=2")], "create", &repo);
        assert_eq!(answer, "done");
    }
}

#[test]
fn a_file_system_without_hard_links_is_named_as_such() {
    for error in ["EPERM", "EOPNOTSUPP", "ENOSYS"] {
        let (_scene, repo) = scene();
        let (answer, _) = traced(&["-e", CALLS, "-e", &format!("inject=linkat:error={error}")], "create", &repo);
        assert!(answer.starts_with("Other ") && answer.contains("cannot make hard links"), "{answer}");
        assert_eq!(everything(&repo).len(), 0);
    }
}

/// Death at each call that makes an object, in their order. What lies under the final name is there from `linkat` on.
#[tokio::test]
async fn death_at_any_call_leaves_a_whole_object_or_none() {
    // strace kills before the call is carried out.
    let deaths = [("fchmod", 1, 0), ("fsync", 1, 0), ("linkat", 1, 0), ("unlinkat", 1, 1), ("fsync", 2, 1)];
    for (call, nth, objects) in deaths {
        let (_scene, repo) = scene();
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let filter = format!("trace={call}");
        let (mut command, _) = strace(&["-e", &filter, "-e", &inject], "create", &repo);
        let output = command.output().expect("run strace");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("ANSWER"), "{call} {nth} killed nobody");

        let storage = open(&repo).await;
        let listed = storage.list(&Prefix::root()).await.unwrap();
        assert_eq!(listed.len(), objects, "{call} {nth}: {:?}", everything(&repo).keys());
        if !listed.is_empty() {
            assert_eq!(storage.get(&key("x"), u64::MAX).await.unwrap(), noise(1, 3_000_000), "{call} {nth}");
        }
        storage.sweep_unfinished(&Prefix::root()).await.unwrap();
        assert_eq!(everything(&repo).len(), listed.len(), "{call} {nth}");
    }
}

/// Death at moments that nobody chose: the killer acts on what it has heard, the killed is already further.
#[tokio::test]
async fn a_killed_process_leaves_only_whole_objects_and_all_it_announced() {
    let (mut round, mut interrupted) = (0, 0);
    while round < child::rounds() || interrupted == 0 {
        assert!(round < child::rounds() + 200, "no death ever interrupted the storing of an object");
        let (_scene, repo) = scene();
        let mut child = child::ourselves("until killed", &repo).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let announced_before_death = (round * 7 + 3) % 23;
        let mut announced = 0;
        while announced <= announced_before_death {
            let line = lines.next().expect("the child died by itself").unwrap();
            announced += u64::from(line.contains("STORED "));
        }
        // Differs from round to round, and takes time that no clock measures.
        noise(round, (round as usize * 37_813) % 3_000_000);
        child.kill().unwrap();
        child.wait().unwrap();
        announced += lines.map_while(Result::ok).filter(|line| line.contains("STORED ")).count() as u64;

        let storage = open(&repo).await;
        let listed: Vec<_> =
            storage.list(&Prefix::root()).await.unwrap().into_iter().map(|object| object.key.to_string()).collect();
        assert!((announced..=announced + 1).contains(&(listed.len() as u64)), "{announced} announced, {listed:?}");
        for number in 0..listed.len() as u64 {
            let (name, body) = child::numbered(number);
            assert!(storage.get(&key(&name), u64::MAX).await.unwrap() == body, "round {round}: {name}");
        }
        let swept = storage.sweep_unfinished(&Prefix::root()).await.unwrap();
        assert!(swept <= 1);
        interrupted += swept;
        assert!(everything(&repo).keys().all(|name| !name.contains(".pgkeep-unfinished-")));
        round += 1;
    }
}
