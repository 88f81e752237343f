//! What a gateway to other stores has to keep: it lives as long as its store, keeps its keys, and remembers nothing old.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pgkeep::error::{Error, Kind};
use pgkeep::storage::{Address, Fault, Missing, Prefix, StorageError};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::rclone::Remotes;
use crate::common::weed::Weed;
use crate::contract::{key, noise};
use crate::stores::House;

fn house() -> House {
    House::with(Remotes::none().local("disk").environment())
}

fn address(path: &Path) -> String {
    format!("rclone:disk:{}", path.display())
}

async fn refused(house: &House, address: &str, missing: Missing) -> StorageError {
    Address::parse(address).unwrap().open(&house.access(), missing).await.unwrap_err()
}

/// The process that serves `directory`, and its arguments.
fn gateway_to(directory: &Path) -> Option<(Pid, String)> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let arguments = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok();
    let serves = |line: &str| line.contains("serve\0s3") && line.ends_with(&format!("disk:{}\0", directory.display()));
    processes.into_iter().find_map(|pid: i32| Some((Pid::from_raw(pid)?, arguments(pid).filter(|line| serves(line))?)))
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_component_is_created_and_only_when_asked_for() {
    let (folder, house) = (tempfile::tempdir().unwrap(), house());
    let repo = folder.path().join("repo");
    let error = refused(&house, &address(&repo), Missing::Refuse).await;
    assert_eq!(error.fault, Fault::NotFound, "{error}");
    assert!(!repo.exists());
    let error = refused(&house, &address(&repo.join("deeper")), Missing::CreateLast).await;
    assert_eq!(error.fault, Fault::Other);
    assert!(
        error.to_string().contains("repo does not exist, and only the last component of a path is created"),
        "{error}"
    );
    assert!(!repo.exists());
    house.open(&address(&repo)).await;
    assert!(repo.is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_any_name_is_served_and_not_every_name_can_be_created() {
    let (folder, house) = (tempfile::tempdir().unwrap(), house());
    for name in ["pg", "My Backups", "über_1"] {
        let repo = folder.path().join(name);
        let error: Error = refused(&house, &address(&repo), Missing::CreateLast).await.into();
        assert!(error.next_step().unwrap().contains("rclone mkdir"), "{error:?}");
        fs::create_dir(&repo).unwrap();
        let storage = house.open(&address(&repo)).await;
        storage.create(&key("a/x"), "1".into()).await.unwrap();
        assert_eq!(fs::read_to_string(repo.join("a/x")).unwrap(), "1");
        assert_eq!(storage.list(&Prefix::root()).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_its_keys_and_ends_with_its_store() {
    let (folder, house) = (tempfile::tempdir().unwrap(), house());
    let storage = house.open(&address(&folder.path().join("repo"))).await;
    let (_, arguments) = gateway_to(folder.path()).expect("it runs");
    assert!(!arguments.contains("auth-key"), "{arguments}");
    let reader = async {
        storage.create(&key("x"), "1".into()).await.unwrap();
        storage.read(&key("x"), None).await.unwrap()
    };
    let mut reader = reader.await;
    drop(storage);
    assert_eq!(reader.next().await.unwrap().unwrap(), "1", "a reader is a user of the store");
    drop(reader);
    until("the gateway has ended", || gateway_to(folder.path()).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_died_is_said_to_be_unreachable() {
    let (folder, mut house) = (tempfile::tempdir().unwrap(), house());
    house.patience.attempts = 2;
    let storage = house.open(&address(&folder.path().join("repo"))).await;
    let (pid, _) = gateway_to(folder.path()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let error = storage.head(&key("x")).await.unwrap_err();
    assert_eq!(error.fault, Fault::Unavailable, "{error}");
    assert!(error.to_string().contains("rclone, which stands between this host and the store, has ended"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_gateway_stored_is_seen_at_once() {
    let (folder, house) = (tempfile::tempdir().unwrap(), house());
    let repo = address(&folder.path().join("repo"));
    let (one, two) = (house.open(&repo).await, house.open(&repo).await);
    for round in 0..5 {
        let name = key(&format!("a/{round}"));
        assert_eq!(one.list(&Prefix::root()).await.unwrap().len(), round);
        assert_eq!(one.get(&name, 9).await.unwrap_err().fault, Fault::NotFound);
        two.create(&name, "1".into()).await.unwrap();
        match round % 3 {
            0 => assert_eq!(one.list(&Prefix::root()).await.unwrap().len(), round + 1),
            1 => assert_eq!(one.get(&name, 9).await.unwrap(), "1"),
            _ => assert_eq!(one.head(&name).await.unwrap().size_bytes, 1),
        }
    }
}

/// In a bucket a directory is there when something is in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_remote_without_directories_takes_a_repository_at_any_depth() {
    let (weed, set) = (Weed::shared(), |name: &str, value: &str| (name.to_owned(), value.to_owned()));
    let mut environment = Remotes::none().environment().to_vec();
    environment.extend([
        set("RCLONE_CONFIG_FAR_TYPE", "s3"),
        set("RCLONE_CONFIG_FAR_PROVIDER", "SeaweedFS"),
        set("RCLONE_CONFIG_FAR_ENDPOINT", &weed.endpoint()),
        set("RCLONE_CONFIG_FAR_ACCESS_KEY_ID", Weed::ACCESS_KEY),
        set("RCLONE_CONFIG_FAR_SECRET_ACCESS_KEY", weed.secret_key()),
    ]);
    let (house, bucket) = (House::with(&environment), weed.bucket("rclone"));
    let repo = format!("rclone:far:{}/postgres/backups", bucket.name());
    assert_eq!(refused(&house, &repo, Missing::Refuse).await.fault, Fault::NotFound);
    let storage = house.open(&repo).await;
    assert_eq!(storage.list(&Prefix::root()).await.unwrap(), []);
    storage.create(&key("data/x"), "1".into()).await.unwrap();
    let mut writer = storage.writer(&key("data/large"), None).await.unwrap();
    for seed in 0..3 {
        writer.write(noise(seed, 5 << 20)).await.unwrap();
    }
    writer.finish().await.unwrap();
    assert_eq!(bucket.keys(), ["postgres/backups/data/large", "postgres/backups/data/x"]);
    let again = Address::parse(&repo).unwrap().open(&house.access(), Missing::Refuse).await.unwrap();
    assert_eq!(again.list(&Prefix::folder("data").unwrap()).await.unwrap().len(), 2);
    assert_eq!(again.create(&key("data/x"), "2".into()).await.unwrap_err().fault, Fault::Exists);
    again.delete_all(&[key("data/x"), key("data/large")]).await.unwrap();
    assert_eq!(bucket.keys(), [""; 0]);
    assert_eq!(bucket.uploads(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_that_is_not_configured_is_named_and_so_is_a_missing_program() {
    let error: Error = refused(&house(), "rclone:nowhere:backups", Missing::CreateLast).await.into();
    assert_eq!(error.kind, Kind::Storage);
    assert!(error.to_string().contains("didn't find section in config file"), "{error}");
    let mut access = house().access();
    access.environment = pgkeep::config::environment::Environment::from_pairs([("PATH", "/nowhere")]);
    let error = Address::parse("rclone:disk:backups").unwrap().open(&access, Missing::Refuse).await.unwrap_err();
    let error = Error::from(error);
    assert_eq!(error.kind, Kind::MissingProgram);
    assert_eq!(error.to_string(), "open the repository in rclone:disk:backups: Missing command: rclone");
}
