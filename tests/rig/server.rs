//! The server, its buckets and its end.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use aws_sdk_s3::Client;

use crate::common::dumps::until;
use crate::common::kept::{is_running, wait_for};
use crate::common::weed::Object;
use crate::common::{Weed, environment};
use crate::wire::said;

#[test]
fn a_bucket_shows_what_lies_in_it_and_what_was_left_unfinished() {
    let weed = Weed::shared();
    let (bucket, other) = (weed.bucket("shows"), weed.bucket("shows"));
    assert_ne!(bucket.name(), other.name());
    bucket.put("b/second", "22");
    bucket.put("a", "");
    let expected = [("a", 0), ("b/second", 2)].map(|(key, size_bytes)| Object { key: key.into(), size_bytes });
    assert_eq!(bucket.objects(), expected);
    assert_eq!(bucket.get("b/second").as_deref(), Some(&b"22"[..]));
    assert_eq!(bucket.get("b"), None);
    let uploads = [bucket.begin_upload("b/x"), bucket.begin_upload("c")];
    assert_eq!(bucket.uploads(), uploads);
    bucket.delete("a");
    assert_eq!(bucket.keys(), ["b/second"]);
    assert!(other.objects().is_empty() && other.uploads().is_empty());
}

#[test]
fn a_bucket_shows_more_than_one_page() {
    let bucket = Weed::shared().bucket("pages");
    let keys: Vec<String> = (0..1_050).map(|number| format!("{number:04}")).collect();
    for key in &keys {
        bucket.put(key, "");
    }
    assert_eq!(bucket.keys(), keys);
}

#[tokio::test]
async fn only_who_knows_the_secret_is_let_in_and_buckets_are_not_made_by_accident() {
    let weed = Weed::shared();
    let bucket = weed.bucket("secret");
    let nobody = aws_sdk_s3::config::Credentials::new(Weed::ACCESS_KEY, "guess", None, None, "test");
    let config = weed.client_config(&weed.endpoint()).credentials_provider(nobody).force_path_style(true);
    let answer = Client::from_conf(config.build()).list_objects_v2().bucket(bucket.name()).send().await;
    assert_eq!(said(answer), (403, "SignatureDoesNotMatch".to_owned()));
    let answer = weed.client().put_object().bucket("nobody-made-it").key("x").send().await;
    assert_eq!(said(answer), (404, "NoSuchBucket".to_owned()));
}

#[tokio::test]
async fn buckets_are_hosts_too() {
    let weed = Weed::shared();
    let bucket = weed.bucket("hosts");
    let client = Client::from_conf(weed.client_config(&format!("http://localhost:{}", weed.port())).build());
    client.put_object().bucket(bucket.name()).key("x").send().await.unwrap();
    assert_eq!(bucket.keys(), ["x"]);
}

#[tokio::test]
async fn over_tls_the_server_is_believed_by_who_knows_its_authority() {
    let weed = Weed::shared();
    let bucket = weed.bucket("tls");
    let client = Client::from_conf(weed.client_config(&weed.tls_endpoint()).force_path_style(true).build());
    client.put_object().bucket(bucket.name()).key("x").send().await.unwrap();
    assert_eq!(bucket.keys(), ["x"]);

    let is_believed = |authority: PathBuf| {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-verify_return_error", "-connect"]);
        openssl.arg(weed.tls_endpoint().trim_start_matches("https://")).arg("-CAfile").arg(authority);
        openssl.stdin(Stdio::null()).output().unwrap().status.success()
    };
    assert!(is_believed(weed.authority()));
    assert!(!is_believed(weed.other_authority()));
}

/// This test starts itself once more, and there holds a server until its stdin ends or it is killed.
#[test]
fn the_server_ends_with_its_process() {
    if environment("PGKEEP_TEST_HOLD").is_some() {
        let weed = Weed::shared();
        let files = weed.files().into_iter().map(|path| path.into_os_string().into_string().unwrap());
        eprintln!("holding {} {}", weed.pid(), files.collect::<Vec<_>>().join(" "));
        std::io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    for killed in [false, true] {
        let mut test = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server::the_server_ends_with_its_process", "--nocapture"])
            .env("PGKEEP_TEST_HOLD", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(test.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.starts_with("holding ")).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let (pid, files) = (words[1].parse().unwrap(), &words[2..]);
        assert!(is_running(pid) && files.iter().all(|file| PathBuf::from(file).exists()), "{files:?}");
        if killed {
            test.kill().unwrap();
        }
        drop(test.stdin.take());
        assert_eq!(test.wait().unwrap().success(), !killed);
        until("the server is gone", || !is_running(pid));
        until("its files are gone", || files.iter().all(|file| !PathBuf::from(file).exists()));
    }
}

#[test]
fn a_dropped_server_leaves_nothing() {
    let weed = Weed::start();
    let client = weed.client();
    let (pid, files) = (weed.pid(), weed.files());
    assert!(is_running(pid) && files.iter().all(|file| file.exists()));
    drop(weed);
    assert!(!is_running(pid) && files.iter().all(|file| !file.exists()));
    assert!(wait_for(async move { client.list_buckets().send().await.is_err() }));
}
