//! The stores of pgkeep reach what the rig offers, by the addresses that it gives.

use bytes::Bytes;
use pgkeep::config::environment::Environment;
use pgkeep::storage::{Access, Address, Key, Missing, Patience, Prefix};
use tempfile::TempDir;

use crate::common::proxy::{Dialect, Fault, Kind, On};
use crate::common::rclone::{Remotes, SftpServer};
use crate::common::{Proxy, Weed};

/// Creates, refuses to overwrite, reads, lists and deletes at `address`.
async fn works(address: &str, environment: Environment) {
    let journal = TempDir::new().unwrap();
    let access = Access { environment, uploads: journal.path().join("uploads"), patience: Patience::default() };
    let address = Address::parse(address).unwrap();
    let storage =
        address.open(&access, Missing::CreateLast).await.unwrap_or_else(|error| panic!("{address}: {error:?}"));
    let key = Key::new("main/x y").unwrap();
    storage.create(&key, Bytes::from_static(b"12345")).await.unwrap();
    storage.create(&key, Bytes::from_static(b"67890")).await.unwrap_err();
    assert_eq!(&storage.get(&key, 100).await.unwrap()[..], b"12345");
    let listed: Vec<_> = storage.list(&Prefix::root()).await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(listed, std::slice::from_ref(&key));
    storage.delete_all(&[key]).await.unwrap();
    assert!(storage.list(&Prefix::root()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_directly_and_over_tls() {
    let weed = Weed::shared();
    for address in [Weed::address, Weed::tls_address] {
        let bucket = weed.bucket("store");
        works(&address(weed, &bucket), Environment::from_pairs(weed.credentials())).await;
        assert_eq!((bucket.keys(), bucket.uploads()), (vec![], vec![]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_in_both_dialects_and_under_faults() {
    let weed = Weed::shared();
    for dialect in [Dialect::Plain, Dialect::Oss] {
        let (proxy, bucket) = (Proxy::before(weed).dialect(dialect).start(), weed.bucket("store"));
        proxy.inject(On::kind(Kind::Put), Fault::SlowDown);
        proxy.inject(On::kind(Kind::Get), Fault::CutResponse);
        works(&proxy.address(&bucket), Environment::from_pairs(weed.credentials())).await;
        assert_eq!(proxy.counts().faulted(), 2);
        assert!(bucket.objects().is_empty() && bucket.uploads().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rclone_remotes() {
    let (server, folder) = (SftpServer::start(), TempDir::new().unwrap());
    let remotes = Remotes::none().local("here").sftp("there", &server);
    for address in [format!("rclone:here:{}/backups", folder.path().display()), "rclone:there:backups".to_owned()] {
        let surroundings = remotes.environment().iter().map(|(name, value)| (name.as_str(), value.clone()));
        let path = ("PATH", Remotes::path());
        works(&address, Environment::from_pairs(surroundings.chain([path]))).await;
    }
}
