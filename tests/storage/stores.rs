//! Every kind of store, empty, as the contract and the stories of single stores want it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use pgkeep::config::environment::Environment;
use pgkeep::storage::{Access, Address, FaultyStorage, LocalStorage, MemoryStorage, Missing, Patience, Storage};
use tempfile::TempDir;

use crate::common::proxy::{Dialect, Proxy};
use crate::common::rclone::{Remotes, SftpServer};
use crate::common::weed::{Bucket, Weed};

/// A store, and what must live as long as it is used.
pub struct Opened {
    pub storage: Arc<dyn Storage>,
    _kept: Box<dyn Any + Send>,
}

impl Opened {
    fn new(storage: impl Storage + 'static, kept: impl Any + Send) -> Self {
        Self { storage: Arc::new(storage), _kept: Box::new(kept) }
    }
}

pub async fn on_local() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(folder.path().join("repo"), Missing::CreateLast).await.unwrap();
    Opened::new(storage, folder)
}

pub async fn on_memory() -> Opened {
    Opened::new(MemoryStorage::new(), ())
}

pub async fn on_faulty() -> Opened {
    Opened::new(FaultyStorage::over(Arc::new(MemoryStorage::new())), ())
}

pub async fn on_s3() -> Opened {
    let house = House::new();
    let bucket = Weed::shared().bucket("contract");
    let storage = house.open(&house.s3(&bucket)).await;
    Opened { storage, _kept: Box::new(house) }
}

pub async fn on_oss() -> Opened {
    let house = House::new();
    let bucket = Weed::shared().bucket("contract");
    let proxy = Proxy::before(Weed::shared()).dialect(Dialect::Oss).start();
    let storage = house.open(&format!("oss://{}/some/prefix?endpoint={}", bucket.name(), proxy.endpoint())).await;
    Opened { storage, _kept: Box::new((house, proxy)) }
}

pub async fn on_rclone() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let house = House::with(Remotes::none().local("disk").environment());
    let storage = house.open(&format!("rclone:disk:{}/repo", folder.path().display())).await;
    Opened { storage, _kept: Box::new((house, folder)) }
}

pub async fn on_rclone_sftp() -> Opened {
    let server = SftpServer::start();
    let house = House::with(Remotes::none().sftp("far", &server).environment());
    let storage = house.open("rclone:far:repo").await;
    Opened { storage, _kept: Box::new((house, server)) }
}

/// Where a test opens stores from: an environment that lets it in, a journal of uploads, and no patience to speak of.
pub struct House {
    uploads: TempDir,
    environment: Vec<(String, String)>,
    pub patience: Patience,
}

impl House {
    pub fn new() -> Self {
        let keys = Weed::shared().credentials().map(|(name, value)| (name.to_owned(), value));
        Self::with(&keys)
    }

    pub fn with(environment: &[(String, String)]) -> Self {
        let mut environment = environment.to_vec();
        environment.push(("PATH".to_owned(), Remotes::path()));
        // Nothing is to be found on the machine itself.
        environment.push(("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()));
        let pause = Duration::from_millis(5);
        let patience = Patience { pause, longest_pause: pause * 10, ..Patience::default() };
        Self { uploads: tempfile::tempdir().unwrap(), environment, patience }
    }

    pub fn access(&self) -> Access {
        let environment = Environment::from_pairs(self.environment.iter().cloned());
        Access { environment, uploads: self.uploads.path().join("uploads"), patience: self.patience }
    }

    /// How many uploads are noted.
    pub fn noted(&self) -> usize {
        let folder = self.uploads.path().join("uploads");
        if folder.exists() { std::fs::read_dir(folder).unwrap().count() } else { 0 }
    }

    pub fn s3(&self, bucket: &Bucket) -> String {
        format!("s3://{}/some/prefix?endpoint={}", bucket.name(), Weed::shared().endpoint())
    }

    pub async fn open(&self, address: &str) -> Arc<dyn Storage> {
        Address::parse(address).unwrap().open(&self.access(), Missing::CreateLast).await.unwrap()
    }
}
