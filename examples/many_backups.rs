//! Makes a repository with many small backups, for measuring what reads them: nightly dumps of twenty databases.
//!
//! cargo run --release --example many_backups -- DIRECTORY COUNT

use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use pgkeep::clock::{Clock as _, SystemClock};
use pgkeep::digest::Fingerprint;
use pgkeep::repo::{
    ArchiveFormat, BackupKind, Checks, Client, Compression, Counts, DumpManifest, DumpStem, Ending, Globals,
    GlobalsIncluded, InstanceName, Packing, Repository, ServerVersion, Source, Stamp, StateDirectory, StoredObject,
};
use pgkeep::storage::{Key, LocalStorage, Missing};

const DATABASES: usize = 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(count)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: many_backups DIRECTORY COUNT");
    };
    let (directory, count): (PathBuf, usize) = (directory.into(), count.parse()?);
    let storage = LocalStorage::open(&directory, Missing::CreateLast).await?;
    let scratch = tempfile::tempdir()?;
    let state = StateDirectory::open(scratch.path())?;
    Repository::open_or_create(std::sync::Arc::new(storage), &state).await?;
    fs::create_dir_all(directory.join("main/dumps"))?;
    let now = SystemClock.now();
    for number in 0..count {
        let nights = i64::try_from(number / DATABASES)?;
        backup(&directory, &format!("database_{}", number % DATABASES), now - TimeDelta::days(nights))?;
    }
    Ok(())
}

/// Written as files, without what makes a dump durable: a bench may lose it.
fn backup(directory: &Path, database: &str, started_at: DateTime<Utc>) -> anyhow::Result<()> {
    let instance: InstanceName = "main".parse()?;
    let stem = DumpStem::new(database, Stamp::of(started_at), "db1");
    let put = |key: Key, body: &[u8]| fs::write(directory.join(key.as_str()), body);
    let packing = Packing::ZSTD;
    let endings =
        [Ending::archive(packing), Ending::Checksum { packing }, Ending::Globals { packing }, Ending::DETAILS];
    let mut objects = Vec::new();
    for ending in endings {
        let body = format!("{ending} of {stem}");
        put(stem.object(ending).key(&instance), body.as_bytes())?;
        objects.push(StoredObject::new(&stem, ending, Fingerprint::of(body.as_bytes())));
    }
    let manifest = manifest(&instance, &stem, database, objects, started_at);
    put(stem.object(Ending::Manifest).key(&instance), &manifest.to_json()?)?;
    Ok(())
}

fn manifest(
    instance: &InstanceName,
    stem: &DumpStem,
    database: &str,
    objects: Vec<StoredObject>,
    started_at: DateTime<Utc>,
) -> DumpManifest {
    DumpManifest {
        format: DumpManifest::FORMAT,
        kind: BackupKind::Dump,
        id: stem.into(),
        instance: instance.clone(),
        database: database.to_owned(),
        system_identifier: None,
        server: ServerVersion { number: 150_008, text: "15.8".to_owned() },
        source: Source { host: "localhost".to_owned(), port: 5432 },
        backup_host: "db1".to_owned(),
        started_at,
        finished_at: started_at + TimeDelta::seconds(20),
        duration_seconds: 20.0,
        client: Client { program: "pg_dump".to_owned(), version: "15.8".to_owned() },
        archive_format: ArchiveFormat::Custom,
        archive_version: Some("1.14".to_owned()),
        compression: Compression::zstd(3),
        encryption: None,
        plain: Fingerprint::of(b""),
        objects,
        globals: Globals { included: GlobalsIncluded::WithPasswords, reason: None },
        checks: Checks { decoded: true, read_back: true },
        filtered: false,
        filter: None,
        label: None,
        keep: None,
        counts: Counts::default(),
        database_size_bytes: None,
        pgkeep_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
