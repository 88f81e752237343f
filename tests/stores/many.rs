//! A bucket of many objects is listed with few requests: a page for each thousand, and each manifest once.

use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::stream::{self, StreamExt as _};
use pgkeep::digest::Fingerprint;
use pgkeep::repo::{
    ArchiveFormat, BackupKind, Checks, Client, Compression, Counts, DumpManifest, DumpStem, Ending, Form, Globals,
    GlobalsIncluded, Packing, ServerVersion, Source, Stamp, StoredObject,
};

use crate::common::Weed;
use crate::common::kept::wait_for;
use crate::common::proxy::Kind;
use crate::world::{Place, World};

const BACKUPS: usize = 300;

/// The objects of a backup: not one that could be restored, but one that every listing takes for whole.
fn objects(number: usize) -> Vec<(String, Bytes)> {
    let at = "2025-01-31T02:00:00Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap() + TimeDelta::hours(number as i64);
    let (stem, instance) = (DumpStem::new("shop", Stamp::of(at), "db1"), "main".parse().unwrap());
    let packing = Packing::ZSTD;
    let endings = [
        Ending::archive(packing),
        Ending::checksum(Form::Custom, packing),
        Ending::Globals { packing },
        Ending::DETAILS,
    ];
    let body = Bytes::from_static(b"some bytes");
    let manifest = DumpManifest {
        format: DumpManifest::FORMAT,
        kind: BackupKind::Dump,
        id: (&stem).into(),
        instance,
        database: "shop".to_owned(),
        system_identifier: None,
        server: ServerVersion { number: 150_008, text: "15.8".to_owned() },
        source: Source { host: "localhost".to_owned(), port: 5432 },
        backup_host: "db1".to_owned(),
        started_at: at,
        finished_at: at,
        duration_seconds: 0.0,
        client: Client { program: "pg_dump".to_owned(), version: "15.8".to_owned() },
        archive_format: ArchiveFormat::Custom,
        archive_version: Some("1.14".to_owned()),
        compression: Compression::zstd(3),
        encryption: None,
        plain: Fingerprint::of(b"plain"),
        objects: endings.map(|ending| StoredObject::new(&stem, ending, Fingerprint::of(&body))).to_vec(),
        globals: Globals { included: GlobalsIncluded::WithPasswords, reason: None },
        checks: Checks { decoded: true, read_back: false },
        filtered: false,
        filter: None,
        label: None,
        keep: None,
        counts: Counts::default(),
        database_size_bytes: None,
        pgkeep_version: "0.1.0".to_owned(),
    };
    let key = |ending: Ending| format!("backups/{}", stem.object(ending).key(&manifest.instance));
    let mut objects: Vec<(String, Bytes)> = endings.into_iter().map(|ending| (key(ending), body.clone())).collect();
    objects.push((key(Ending::Manifest), manifest.to_json().unwrap()));
    objects
}

#[test]
fn a_list_of_many_backups() {
    let (world, place) = (World::small(), Place::s3());
    world.dump(&[&place.address()], &[]).run().succeeds();
    let (client, bucket) = (Weed::shared().client(), place.bucket().name().to_owned());
    let put = move |(key, body): (String, Bytes)| {
        let request = client.put_object().bucket(&bucket).key(key).body(body.into());
        async move { request.send().await.map(drop) }
    };
    let objects: Vec<(String, Bytes)> = (0..BACKUPS).flat_map(objects).collect();
    wait_for(async move {
        let mut stored = stream::iter(objects.into_iter().map(put)).buffer_unordered(16);
        while let Some(stored) = stored.next().await {
            stored.unwrap();
        }
    });
    let before = place.proxy().counts();
    let listed = world.pgkeep(&["report", "list", "--json"], &[&place.address()]).run().succeeds().json();
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), BACKUPS + 1);
    assert!(items.iter().all(|item| item["state"] == "good"), "{listed:#}");
    let after = place.proxy().counts();
    let asked = |kind| after.of(kind) - before.of(kind);
    // Can it be listed at all; then its two pages. The marker of the repository; then the manifests.
    assert_eq!(asked(Kind::List), 3, "{after:?}");
    assert_eq!(asked(Kind::Get), 1 + BACKUPS + 1, "{after:?}");
    assert_eq!(after.total() - before.total(), asked(Kind::List) + asked(Kind::Get), "{after:?}");
}
