//! Archives in parts, and archives that `pg_dump` compressed itself: what lies in the repository is opened by stock
//! tools, restored by us, and whatever is damaged is named.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::dumps::{Dump, only_dump, sha256, until};
use common::equality::{Snapshot, assert_equal};
use common::pgkeep::{Pgkeep, tree};
use common::stored::copy_tree;
use common::{Cluster, Outcome, PgVersion, Workspace};
use pgkeep::digest::Fingerprint;
use pgkeep::pg::archive::ArchiveCompression;
use pgkeep::repo::{Compression, DumpManifest, StoredObject};
use serde_json::{Value, json};

const PART_BYTES: u64 = 5 << 20;

struct World {
    cluster: Cluster,
}

impl World {
    /// The server lives as long as the test binary, and only new databases are made in it.
    fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(|| {
            let cluster = Cluster::plain(PgVersion::V15);
            cluster.create_database("shop");
            // What does not compress, so that there are several parts.
            cluster.sql(
                "shop",
                "CREATE EXTENSION pgcrypto;
                 CREATE TABLE noise AS SELECT n, gen_random_bytes(1000) AS bytes FROM generate_series(1, 12000) n;
                 CREATE TABLE orders (id int PRIMARY KEY, what text);
                 INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(1, 5000) n;
                 CREATE TABLE empty (id int);
                 SELECT lo_from_bytea(0, 'a large object'), lo_from_bytea(0, '');
                 ANALYZE",
            );
            Self { cluster }
        })
    }

    fn dump(&self, workspace: &Workspace, more: &[&str]) -> Pgkeep {
        workspace.pgkeep_on(&self.cluster, [&["dump", "-d", "shop"], more].concat())
    }
}

/// The parts of a dump, in order.
fn parts(dump: &Dump) -> Vec<PathBuf> {
    let names = tree(dump.stem.parent().unwrap());
    let parts = names.iter().filter(|name| name.contains(".dump.part"));
    parts.map(|name| dump.stem.with_file_name(name)).collect()
}

#[track_caller]
fn shell(directory: &Path, script: &str, name: &str) {
    let output = Command::new("sh").args(["-ec", script, name]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Stock `pg_restore` into a new database, compared with the source.
#[track_caller]
fn restores_by_hand(cluster: &Cluster, archive: &Path, database: &str) {
    cluster.create_database(database);
    cluster.run(
        cluster
            .client("pg_restore")
            .args(["--exit-on-error", "-j", "2", "-d", &cluster.conninfo(database)])
            .arg(archive),
    );
    assert_equal(&Snapshot::of(cluster, "shop"), &Snapshot::of(cluster, database));
}

#[track_caller]
fn restores(cluster: &Cluster, workspace: &Workspace, database: &str) {
    let words = ["restore", "dump", "latest", "-d", "shop", "--into", database, "--jobs", "2"];
    workspace.pgkeep_on(cluster, words).run().succeeds();
    assert_equal(&Snapshot::of(cluster, "shop"), &Snapshot::of(cluster, database));
}

#[test]
fn encryption_makes_no_part_larger_than_was_asked() {
    let (world, workspace) = (World::get(), Workspace::new());
    let key = workspace.path("key");
    assert!(Command::new("age-keygen").arg("-o").arg(&key).output().unwrap().status.success());
    let recipient = Command::new("age-keygen").arg("-y").arg(&key).output().unwrap().stdout;
    let recipient = String::from_utf8(recipient).unwrap();
    world.dump(&workspace, &["--split", "5M", "--compress", "none", "--recipient", recipient.trim()]).run().succeeds();
    let sizes: Vec<u64> = parts(&only_dump(&workspace)).iter().map(|part| part.metadata().unwrap().len()).collect();
    assert!(sizes.len() > 2 && sizes.iter().all(|&size| size <= PART_BYTES), "{sizes:?}");
    assert!(sizes[0] > PART_BYTES - 4096, "{sizes:?}");
    verify(&workspace, &["--deep", "--identity-file", key.to_str().unwrap()]).succeeds();
}

fn verify(workspace: &Workspace, more: &[&str]) -> Outcome {
    let id = only_dump(workspace).id();
    workspace.pgkeep([&["verify", &id, "--json"], more].concat()).arg("--repo").arg(workspace.repository()).run()
}

fn findings(outcome: &Outcome) -> Vec<(String, String)> {
    let document = outcome.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = document["items"][0]["findings"].as_array().unwrap().iter();
    findings.map(|finding| (text(&finding["id"]), text(&finding["object"]))).collect()
}

#[test]
fn parts_are_joined_by_cat_and_by_a_restore() {
    let world = World::get();
    for (method, ending, join) in [
        ("zstd:1", ".zst", "cat \"$0\".dump.part*.zst | zstd -dqc > \"$0\".joined"),
        ("gzip:1", "", "cat \"$0\".dump.part* > \"$0\".joined"),
    ] {
        let workspace = Workspace::new();
        // The limit on the size of files is why somebody wants parts.
        let limit = format!("--fsize={PART_BYTES}");
        let dump = world.dump(&workspace, &["--split", "5M", "--compress", method]);
        dump.under(&["prlimit", &limit]).run().succeeds();
        let dump = only_dump(&workspace);
        let (id, folder) = (dump.id(), dump.stem.parent().unwrap());

        let parts = parts(&dump);
        assert!(parts.len() >= 3, "{parts:?}");
        for (at, part) in parts.iter().enumerate() {
            assert_eq!(*part, dump.file(&format!(".dump.part{:04}{ending}", at + 1)));
            let size = fs::metadata(part).unwrap().len();
            // What has frames is cut between them; anything else is cut to the byte.
            let is_full = if ending.is_empty() { size == PART_BYTES } else { size > PART_BYTES / 2 };
            assert!(size <= PART_BYTES && (is_full || at + 1 == parts.len()), "{part:?}: {size}");
        }
        let objects = dump.manifest["objects"].as_array().unwrap();
        assert_eq!(objects.iter().filter(|object| object["role"] == "archive").count(), parts.len());
        for object in objects {
            let path = dump.stem.with_file_name(object["name"].as_str().unwrap());
            assert_eq!(
                (sha256(&path), fs::metadata(&path).unwrap().len()),
                (object["sha256"].as_str().unwrap().to_owned(), object["sizeBytes"].as_u64().unwrap(),)
            );
        }

        let checksum = format!(".dump{ending}.sha256");
        assert_eq!(fs::read_to_string(dump.file(&checksum)).unwrap().lines().count(), parts.len());
        shell(folder, "sha256sum --strict --quiet -c \"$0\"", &(id.clone() + &checksum));
        shell(folder, join, &id);
        let joined = dump.file(".joined");
        assert_eq!(sha256(&joined), dump.manifest["plain"]["sha256"]);
        restores_by_hand(&world.cluster, &joined, &format!("by_hand_{}", &method[..4]));
        fs::remove_file(joined).unwrap();

        restores(&world.cluster, &workspace, &format!("by_pgkeep_{}", &method[..4]));
        for level in [&[][..], &["--deep"]] {
            verify(&workspace, level).succeeds();
        }
        let shown = workspace.pgkeep(["report", "show", &id, "--json", "--repo"]).arg(workspace.repository());
        let keys = shown.run().succeeds().json()["items"][0]["repositories"][0]["keys"].clone();
        assert_eq!(
            keys.as_array().unwrap().iter().filter(|key| key.as_str().unwrap().contains(".part")).count(),
            parts.len()
        );
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Delete,
    Cut,
    Empty,
    Append,
    Flip,
    /// This part in the place of the next one, and that one in its place.
    Swap,
}

fn inflict(damage: Damage, part: &Path, other: &Path) {
    let before = fs::read(part).unwrap();
    let mut after = before.clone();
    match damage {
        Damage::Delete => return fs::remove_file(part).unwrap(),
        Damage::Cut => after.truncate(before.len() / 2),
        Damage::Empty => after.clear(),
        Damage::Append => after.push(b'x'),
        Damage::Flip => after[before.len() / 2] ^= 1,
        Damage::Swap => {
            after = fs::read(other).unwrap();
            fs::write(other, &before).unwrap();
        }
    }
    fs::write(part, after).unwrap();
}

#[test]
fn every_damaged_part_is_named_and_nothing_is_restored_from_it() {
    let world = World::get();
    for method in ["zstd:1", "gzip:1"] {
        let whole = Workspace::new();
        world.dump(&whole, &["--split", "5M", "--compress", method, "--check", "decode"]).run().succeeds();
        let names: Vec<String> =
            parts(&only_dump(&whole)).iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        let last = names.len() - 1;
        for (at, damage) in [
            (0, Damage::Delete),
            (last, Damage::Delete),
            (1, Damage::Cut),
            (last, Damage::Cut),
            (1, Damage::Empty),
            (0, Damage::Append),
            (last, Damage::Append),
            (0, Damage::Flip),
            (1, Damage::Flip),
            (last, Damage::Flip),
            (0, Damage::Swap),
        ] {
            let (workspace, id) = (Workspace::new(), only_dump(&whole).id());
            copy_tree(&whole.repository(), &workspace.repository());
            let folder = workspace.repository().join("main/dumps");
            inflict(damage, &folder.join(&names[at]), &folder.join(&names[(at + 1) % names.len()]));
            let damaged: Vec<&String> = match damage {
                Damage::Swap => vec![&names[at], &names[at + 1]],
                _ => vec![&names[at]],
            };
            for level in [&[][..], &["--deep"]] {
                let outcome = verify(&workspace, level).exits(6);
                let found = findings(&outcome);
                let objects: Vec<&String> = found.iter().map(|(_, object)| object).collect();
                assert_eq!(objects, damaged, "{method} {damage:?} {level:?}: {}", outcome.transcript());
                let expected = match damage {
                    Damage::Delete => "object-missing",
                    Damage::Cut | Damage::Empty | Damage::Append => "object-size",
                    Damage::Flip => "object-hash",
                    // Cut to the byte, parts are of one size; between frames they may differ.
                    Damage::Swap => &found[0].0,
                };
                assert!(found.iter().all(|(id, _)| id == expected), "{method} {damage:?}: {found:?}");
            }
            let words = ["restore", "dump", &id, "--into", "never", "--json"];
            let outcome = workspace.pgkeep_on(&world.cluster, words).run();
            assert!(matches!(outcome.exit_code, Some(5 | 6)), "{method} {damage:?}: {}", outcome.transcript());
            assert!(!world.cluster.databases().iter().any(|name| name.contains("never")));
            assert!(outcome.stdout.contains(names[at].as_str()), "{method} {damage:?}: {}", outcome.transcript());
        }
    }
}

#[test]
fn an_archive_that_pg_dump_compressed_is_stored_as_it_comes() {
    for version in PgVersion::ALL {
        let (cluster, workspace) = (Cluster::plain(version), Workspace::new());
        cluster.create_database("shop");
        cluster.sql(
            "shop",
            "CREATE ROLE somebody LOGIN PASSWORD 'x';
             CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS what FROM generate_series(1, 50000) n;
             CREATE TABLE empty (id int);
             SELECT lo_from_bytea(0, 'a large object'), lo_from_bytea(0, '')",
        );
        for (method, recorded) in [
            ("gzip:9", json!({"method": "gzip", "level": 9, "by": "pg_dump"})),
            ("gzip:0", json!({"method": "none", "level": 0, "by": "pg_dump"})),
        ] {
            let workspace = Workspace::new();
            let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "--compress", method]).run();
            outcome.succeeds();
            let dump = only_dump(&workspace);
            let endings = [".details.json.zst", ".dump", ".dump.sha256", ".manifest.json", "_globals.sql"];
            let files: Vec<String> = endings.iter().map(|ending| dump.id() + ending).collect();
            assert_eq!(tree(dump.stem.parent().unwrap()), files);
            assert_eq!(dump.manifest["compression"], recorded);
            assert_eq!(dump.manifest["checks"], json!({"decoded": true, "readBack": true}));
            assert_eq!(sha256(&dump.file(".dump")), dump.manifest["plain"]["sha256"]);
            shell(dump.stem.parent().unwrap(), "sha256sum --strict --quiet -c \"$0\"", &(dump.id() + ".dump.sha256"));
            assert!(fs::read_to_string(dump.file("_globals.sql")).unwrap().contains("CREATE ROLE somebody;"));
            restores_by_hand(&cluster, &dump.file(".dump"), &format!("by_hand_{}", &method[5..]));
            restores(&cluster, &workspace, &format!("by_pgkeep_{}", &method[5..]));
            verify(&workspace, &["--deep"]).succeeds();
        }
        // The preview says what will be done.
        let dry = ["dump", "-d", "shop", "--compress", "gzip:9", "--split", "2G", "--dry-run"];
        let dry = workspace.pgkeep_on(&cluster, dry).run().succeeds().stdout;
        for step in ["--compress=9", "store it as it comes", "parts of at most 2147483648 bytes"] {
            assert!(dry.contains(step), "{dry}");
        }
        assert!(!workspace.repository().exists());
    }
}

/// Its own checksums say that the stored bytes are those that were sent; only decoding says that they were sound.
#[test]
fn compressed_data_that_do_not_decode_make_no_backup() {
    let (world, workspace) = (World::get(), Workspace::new());
    // A byte in the middle of the archive, which is one of the largest table's.
    let body = "\"$real\" \"$@\" > \"$HOME/whole\"
        cp \"$HOME/whole\" \"$HOME/flipped\"
        printf '\\125' | dd of=\"$HOME/flipped\" bs=1 seek=$(( $(stat -c %s \"$HOME/whole\") / 2 )) conv=notrunc 2>/dev/null
        cat \"$HOME/flipped\"; exit 0";
    let bin = workspace.client(&world.cluster, "clients", body);
    let dump = world.dump(&workspace, &["--compress", "gzip:1", "--bin-dir", bin.to_str().unwrap(), "--json"]);
    let outcome = dump.run().exits(6);
    let message = outcome.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("data of TABLE DATA public.noise") && message.contains("do not decode"), "{message}");
    assert_eq!(tree(&workspace.repository().join("main/dumps")), [""; 0]);
    assert_eq!(tree(&workspace.repository().join("main/intents")), [""; 0]);
}

/// Nothing here decodes lz4, so a deep verification that passes would say too much.
#[test]
fn what_cannot_be_decoded_is_not_verified() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V18), Workspace::new());
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE t AS SELECT 1 AS a");
    workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "--compress", "gzip:0"]).run().succeeds();
    let dump = only_dump(&workspace);
    // As if pg_dump had been told -Z lz4: one byte of the header says it, and the blocks are framed alike.
    let mut archive = fs::read(dump.file(".dump")).unwrap();
    assert_eq!(std::mem::replace(&mut archive[11], 2), 0);
    fs::write(dump.file(".dump"), &archive).unwrap();
    let (main, stem) = ("main".parse().unwrap(), dump.id().parse().unwrap());
    let sealed = fs::read(dump.file(".manifest.json")).unwrap();
    let mut manifest = DumpManifest::from_json(&sealed, &main, &stem).unwrap();
    manifest.compression = Compression::by_pg_dump(ArchiveCompression::Lz4, None);
    manifest.plain = Fingerprint::of(&archive);
    manifest.objects[0] = StoredObject::new(&stem, manifest.objects[0].name.ending, manifest.plain);
    let lines = manifest.checksum_lines();
    fs::write(dump.file(".dump.sha256"), &lines).unwrap();
    manifest.objects[1] = StoredObject::new(&stem, manifest.objects[1].name.ending, Fingerprint::of(lines.as_bytes()));
    fs::write(dump.file(".manifest.json"), manifest.to_json().unwrap()).unwrap();

    verify(&workspace, &[]).succeeds();
    let outcome = verify(&workspace, &["--deep"]).exits(11);
    assert_eq!(findings(&outcome), [("object-not-read".to_owned(), dump.id() + ".dump")]);
    assert!(
        outcome.stdout.contains("compressed it with lz4, which pgkeep does not decode"),
        "{}",
        outcome.transcript()
    );
    // A header that says otherwise than the manifest is no archive of this backup.
    manifest.compression = Compression::by_pg_dump(ArchiveCompression::Gzip, Some(9));
    fs::write(dump.file(".manifest.json"), manifest.to_json().unwrap()).unwrap();
    let outcome = verify(&workspace, &["--deep"]).exits(6);
    assert_eq!(findings(&outcome)[0].0, "archive-differs", "{}", outcome.transcript());
}

#[test]
fn a_run_killed_between_parts_leaves_nothing_to_the_next() {
    let (world, workspace) = (World::get(), Workspace::new());
    let gate = workspace.path("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let body = format!("\"$real\" \"$@\" | head -c 18000000; exec cat '{}'", gate.display());
    let bin = workspace.client(&world.cluster, "clients", &body);
    let mut dump = world.dump(&workspace, &["--split", "5M", "--bin-dir", bin.to_str().unwrap()]).spawn();
    let dumps = workspace.repository().join("main/dumps");
    until("a part is whole", || tree(&dumps).iter().any(|name| name.ends_with(".dump.part0001.zst")));
    dump.kill().unwrap();
    // Lets the client end, which nobody waits for any more.
    drop(fs::File::options().write(true).open(&gate).unwrap());
    dump.wait().unwrap();
    let left = tree(&dumps);
    assert!(left.iter().all(|name| !name.ends_with(".manifest.json")), "{left:?}");
    world.dump(&workspace, &["--split", "5M"]).run().succeeds();
    assert_eq!(tree(&workspace.repository().join("main/intents")), [""; 0]);
    // Within one second the new dump takes the name that the dead one had: what lies there must be all its own.
    let now = tree(&dumps);
    let dump = only_dump(&workspace);
    let stem = dump.stem.file_name().unwrap().to_str().unwrap();
    assert!(now.iter().all(|name| name.starts_with(stem)), "{left:?} {now:?}");
    verify(&workspace, &["--deep"]).succeeds();
}

#[test]
fn a_repository_that_is_full_between_parts_is_left_out_and_the_other_has_them_all() {
    let (world, workspace) = (World::get(), Workspace::new());
    let full = workspace.path("full");
    fs::create_dir(&full).unwrap();
    let mounted = "mount -t tmpfs -o size=8m none \"$0\" && \"$@\"; code=$?; cp -a \"$0\" \"$0.seen\"; exit $code";
    let full = full.display().to_string();
    let words = ["unshare", "-m", "sh", "-c", mounted, &full];
    let outcome = world.dump(&workspace, &["--split", "5M", "--json", "--repo", &full]).under(&words).run().exits(10);
    assert_eq!(outcome.json()["items"][0]["stage"], "archive", "{}", outcome.transcript());
    for folder in ["dumps", "intents"] {
        assert_eq!(tree(&workspace.path("full.seen/main").join(folder)), [""; 0]);
    }
    assert!(parts(&only_dump(&workspace)).len() >= 3);
    verify(&workspace, &["--deep"]).succeeds();
}

#[test]
fn a_size_that_makes_no_sense_is_refused_with_the_next_step() {
    let workspace = Workspace::new();
    for (size, words) in [("1K", "the smallest part has 5M"), ("2g", "write 500M, 2G"), ("", "is not a size of parts")]
    {
        let outcome = workspace.pgkeep(["dump", "-d", "shop", "--repo", "/nowhere", "--split", size]).run().exits(2);
        assert!(outcome.stderr.contains(words), "{}", outcome.transcript());
    }
    let help = workspace.pgkeep(["dump", "--help"]).run().succeeds();
    assert!(help.stdout.contains("--split 2G"), "{}", help.transcript());
}
