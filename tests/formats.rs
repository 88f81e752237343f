//! Dumps in every form that `pg_dump` has: what lies in the repository is what the format says, stock tools open it, we
//! restore it, and it is the database that was dumped.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use common::dumps::{Dump, only_dump, sha256};
use common::equality::{Snapshot, assert_equal};
use common::pgkeep::{Pgkeep, tree};
use common::stored::copy_tree;
use common::{Cluster, Outcome, PgVersion, Workspace};
use pgkeep::error::Kind;
use pgkeep::pg::archive::{Content, StreamReader};
use serde_json::{Value, json};

/// Two tables, one with names and values that want quoting, one empty; large objects, one of them empty; another owner.
const SHOP: &str = "
    CREATE ROLE somebody;
    CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS what FROM generate_series(1, 30000) n;
    CREATE TABLE empty (id int);
    CREATE TABLE \"we ird; \\restrict\" (\"--\" text);
    INSERT INTO \"we ird; \\restrict\" VALUES ('\\.'), (E'\\n--\\n-- PostgreSQL database dump complete\\n--\\n\\n'), ('ü');
    ALTER TABLE empty OWNER TO somebody;
    CREATE MATERIALIZED VIEW total AS SELECT count(*) FROM orders;
    CREATE SEQUENCE numbers;
    SELECT nextval('numbers'), lo_from_bytea(0, 'a large object'), lo_from_bytea(0, ''),
           lo_from_bytea(0, decode(repeat('00ff', 5000), 'hex'));
    ANALYZE";

/// Names for databases that are restored.
static RESTORED: AtomicU32 = AtomicU32::new(0);

struct World {
    cluster: Cluster,
}

impl World {
    /// The servers live as long as the test binary, and only new databases are made in them.
    fn get(version: PgVersion) -> &'static Self {
        static WORLDS: [OnceLock<World>; 2] = [OnceLock::new(), OnceLock::new()];
        let at = PgVersion::ALL.iter().position(|known| *known == version).unwrap();
        WORLDS[at].get_or_init(|| {
            let cluster = Cluster::plain(version);
            cluster.create_database("shop");
            cluster.sql("shop", SHOP);
            Self { cluster }
        })
    }

    fn dump(&self, workspace: &Workspace, more: &[&str]) -> Pgkeep {
        workspace.pgkeep_on(&self.cluster, [&["dump", "-d", "shop"], more].concat())
    }

    /// By us, into a new database, which is then compared with the source.
    #[track_caller]
    fn restores(&self, workspace: &Workspace, into: &str, more: &[&str]) {
        let words = [&["restore", "dump", "latest", "-d", "shop", "--into", into, "--analyze", "none"], more].concat();
        workspace.pgkeep_on(&self.cluster, words).run().succeeds();
        assert_equal(&Snapshot::of(&self.cluster, "shop"), &Snapshot::of(&self.cluster, into));
        assert_eq!(tree(&workspace.path("tmp")), [""; 0]);
    }

    /// By the line of the page that is for files of this name.
    #[track_caller]
    fn restores_by_hand(&self, dump: &Dump, ending: &str, into: &str) {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/docs/format.md")).unwrap();
        let (_, page) = page.split_once("## By hand").unwrap();
        let line =
            page.lines().find(|line| line.contains(&format!("X{ending} ")) || line.contains(&format!("X{ending}/")));
        let line = line.unwrap_or_else(|| panic!("no line for {ending}")).replace("-d new", &format!("-d {into}"));
        self.cluster.create_database(into);
        let scratch = tempfile::tempdir().unwrap();
        copy_tree(dump.stem.parent().unwrap(), &scratch.path().join("dumps"));
        let mut path = self.cluster.bin_dir().into_os_string();
        path.push(":/usr/bin:/bin");
        let output = Command::new("sh")
            .args(["-ec", &line.replace("X.", &format!("{}.", dump.id()))])
            .current_dir(scratch.path().join("dumps"))
            .envs([("PGHOST", self.cluster.socket_dir().to_str().unwrap()), ("PGUSER", "postgres")])
            .env("PGPORT", self.cluster.port().to_string())
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        assert_equal(&Snapshot::of(&self.cluster, "shop"), &Snapshot::of(&self.cluster, into));
    }
}

#[track_caller]
fn verify(workspace: &Workspace, more: &[&str]) -> Outcome {
    let id = only_dump(workspace).id();
    workspace.pgkeep([&["verify", &id, "--json"], more].concat()).arg("--repo").arg(workspace.repository()).run()
}

/// Every object is what the manifest and the checksum beside it say, and nothing else lies there.
#[track_caller]
fn lies_as_told(dump: &Dump, checksum: &str) {
    let folder = dump.stem.parent().unwrap();
    let mut named = vec![format!("{}.manifest.json", dump.id())];
    for object in dump.manifest["objects"].as_array().unwrap() {
        let name = object["name"].as_str().unwrap();
        let path = folder.join(name);
        assert_eq!(fs::metadata(&path).unwrap().len(), object["sizeBytes"].as_u64().unwrap(), "{name}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        assert_eq!(sha256(&path), object["sha256"], "{name}");
        named.push(name.to_owned());
    }
    named.sort();
    let mut lie = tree(folder);
    lie.retain(|name| !name.ends_with('/'));
    lie.sort();
    assert_eq!(lie, named);
    let checked = Command::new("sha256sum")
        .args(["--strict", "--quiet", "-c", &format!("{}{checksum}", dump.id())])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let lines = fs::read_to_string(dump.file(checksum)).unwrap().lines().count();
    let objects = dump.manifest["objects"].as_array().unwrap().iter();
    assert_eq!(lines, objects.filter(|object| object["role"] == "archive").count());
}

/// The whole story of one form.
#[track_caller]
fn story(version: PgVersion, words: &[&str], format: &str, ending: &str, checksum: &str, compression: Value) -> Dump {
    let (world, workspace) = (World::get(version), Workspace::new());
    let outcome = world.dump(&workspace, words).run().succeeds();
    assert!(outcome.stdout.contains("decoded and read back"), "{}", outcome.transcript());
    assert_eq!(tree(&workspace.path("tmp")), [""; 0]);
    let dump = only_dump(&workspace);
    lies_as_told(&dump, checksum);
    assert_eq!(dump.manifest["archiveFormat"], format);
    assert_eq!(dump.manifest["compression"], compression);
    assert_eq!(dump.manifest["archiveVersion"].is_string(), format != "plain", "{:#}", dump.manifest);
    assert_eq!(dump.manifest["checks"], json!({"decoded": true, "readBack": true}));
    for level in [&[][..], &["--deep"]] {
        verify(&workspace, level).succeeds();
    }
    let name = format!("restored_{}", RESTORED.fetch_add(1, Ordering::Relaxed));
    // The others are read from one end to the other.
    let jobs: &[&str] = if ["custom", "directory"].contains(&format) { &["--jobs", "2"] } else { &[] };
    world.restores(&workspace, &format!("{name}_by_pgkeep"), jobs);
    if ending != ".sql" && ending != ".tar" && ending != ".dir/" {
        world.restores_by_hand(&dump, ending, &format!("{name}_by_hand"));
    }
    // The repository goes with its workspace: what is looked at afterwards is the manifest.
    dump
}

fn zstd() -> Value {
    json!({"method": "zstd", "level": 3})
}

fn none() -> Value {
    json!({"method": "none", "level": 0, "by": "pg_dump"})
}

#[test]
fn a_directory() {
    for version in PgVersion::ALL {
        let words = ["--format", "directory", "--jobs", "2"];
        let dump = story(version, &words, "directory", ".dir", ".dir.sha256", zstd());
        let names: Vec<&str> =
            dump.manifest["objects"].as_array().unwrap().iter().filter_map(|object| object["name"].as_str()).collect();
        for ending in [".dir/toc.dat.zst", ".toc.zst"] {
            assert!(names.iter().any(|name| name.ends_with(ending)), "{names:?}");
        }
        assert_eq!(names.iter().filter(|name| name.contains(".dir/blob_")).count(), 3);
    }
}

#[test]
fn a_directory_that_is_not_compressed() {
    story(PgVersion::V15, &["-F", "d", "--compress", "none"], "directory", ".dir/", ".dir.sha256", none());
}

#[test]
fn a_tar_archive() {
    for version in PgVersion::ALL {
        story(version, &["-Ft"], "tar", ".tar.zst", ".tar.zst.sha256", zstd());
    }
    story(PgVersion::V15, &["-F", "tar", "--compress", "none"], "tar", ".tar", ".tar.sha256", none());
}

#[test]
fn a_script() {
    for version in PgVersion::ALL {
        story(version, &["-Fp"], "plain", ".sql.zst", ".sql.zst.sha256", zstd());
        let gzip = json!({"method": "gzip", "level": 6, "by": "pg_dump"});
        story(version, &["-F", "p", "--compress", "gzip:6"], "plain", ".sql.gz", ".sql.gz.sha256", gzip);
    }
    story(PgVersion::V15, &["-F", "plain", "--compress", "none"], "plain", ".sql", ".sql.sha256", none());
}

#[test]
fn what_a_directory_was_has_the_digest_that_the_page_says() {
    let (world, workspace) = (World::get(PgVersion::V15), Workspace::new());
    world.dump(&workspace, &["-F", "d", "-j", "2"]).run().succeeds();
    let dump = only_dump(&workspace);
    let to = workspace.path("files");
    let words = ["restore", "dump", "latest", "--to-file", to.to_str().unwrap(), "--repo"];
    workspace.pgkeep(words).arg(workspace.repository()).run().succeeds();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/docs/format.md")).unwrap();
    let line = page.lines().find(|line| line.starts_with("for f in *;")).unwrap();
    let output = Command::new("sh").args(["-ec", line]).current_dir(&to).output().unwrap();
    let digest = String::from_utf8(output.stdout).unwrap();
    assert_eq!(digest.split_whitespace().next().unwrap(), dump.manifest["plain"]["sha256"]);
    let sizes: u64 = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(sizes, dump.manifest["plain"]["sizeBytes"].as_u64().unwrap());
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o700);
    world.cluster.run(world.cluster.client("pg_restore").arg("--list").arg(&to));
    // Never over what is there, and nothing is left beside it.
    let again = workspace.pgkeep(words).arg(workspace.repository()).run().exits(9);
    assert!(again.stderr.contains("exists"), "{}", again.transcript());
    assert!(!tree(to.parent().unwrap()).iter().any(|name| name.contains(".pgkeep-")));
    let stdout = ["restore", "dump", "latest", "--to-file", "-", "--repo"];
    let refused = workspace.pgkeep(stdout).arg(workspace.repository()).run().exits(2);
    assert!(refused.stderr.contains("is a directory"), "{}", refused.transcript());
}

#[test]
fn the_file_of_a_tar_archive_or_a_script_is_what_pg_dump_wrote() {
    let world = World::get(PgVersion::V15);
    for (words, name) in [(&["-Ft"][..], "x.tar"), (&["-Fp", "--compress", "gzip:1"], "x.sql.gz")] {
        let workspace = Workspace::new();
        world.dump(&workspace, words).run().succeeds();
        let to = workspace.path(name);
        let words = ["restore", "dump", "latest", "--to-file", to.to_str().unwrap(), "--repo"];
        workspace.pgkeep(words).arg(workspace.repository()).run().succeeds();
        assert_eq!(sha256(&to), only_dump(&workspace).manifest["plain"]["sha256"]);
    }
}

#[test]
fn tar_archives_and_scripts_come_in_parts() {
    let world = World::get(PgVersion::V15);
    world.cluster.create_database("noise");
    let noise = "CREATE EXTENSION pgcrypto;
        CREATE TABLE noise AS SELECT gen_random_bytes(1000) AS bytes FROM generate_series(1, 12000)";
    world.cluster.sql("noise", noise);
    for (format, ending) in [("tar", ".tar"), ("plain", ".sql")] {
        let workspace = Workspace::new();
        let words = ["dump", "-d", "noise", "--format", format, "--split", "5M"];
        workspace.pgkeep_on(&world.cluster, words).run().succeeds();
        let dump = only_dump(&workspace);
        assert!(dump.file(&format!("{ending}.part0002.zst")).exists(), "{:#}", dump.manifest);
        lies_as_told(&dump, &format!("{ending}.zst.sha256"));
        verify(&workspace, &["--deep"]).succeeds();
        let into = format!("noise_{format}");
        let words = ["restore", "dump", "latest", "--into", &into, "--analyze", "none"];
        workspace.pgkeep_on(&world.cluster, words).run().succeeds();
        assert_equal(&Snapshot::of(&world.cluster, "noise"), &Snapshot::of(&world.cluster, &into));
    }
}

#[test]
fn what_does_not_go_together_is_refused_by_name_before_anything_is_stored() {
    let (world, workspace) = (World::get(PgVersion::V15), Workspace::new());
    for (words, said) in [
        (&["-Fd", "--split", "5M"][..], "--split and --format directory"),
        (&["-Fd", "--compress", "gzip:5"], "--compress gzip and --format directory"),
        (&["-Fd", "--compress", "lz4"], "--compress lz4 and --format directory"),
        (&["-Ft", "--compress", "gzip"], "--compress gzip and --format tar"),
        (&["-Fp", "--compress", "lz4:1"], "--compress lz4 and --format plain"),
        (&["-Fp", "--jobs", "2"], "--jobs and --format plain"),
        (&["--jobs", "2"], "--jobs and --format custom"),
        (&["-Fp", "--extra-opts=--create"], "--create and --format plain"),
    ] {
        let outcome = world.dump(&workspace, words).run().exits(2);
        assert!(outcome.stderr.contains(said) && outcome.stderr.contains("hint: "), "{said}: {}", outcome.transcript());
        assert!(!workspace.repository().exists());
    }
    let old = world.dump(&workspace, &["--compress", "lz4"]).run().exits(Kind::MissingProgram.exit_code().into());
    assert!(old.stderr.contains("pg_dump 15 cannot compress with lz4"), "{}", old.transcript());
    assert_eq!(tree(&workspace.repository().join("main/dumps")), [""; 0]);
}

/// The archive of a `pg_dump` that can lz4: framed as any other, with a compression that nobody here decodes.
#[test]
fn an_archive_in_lz4_is_followed_and_not_decoded() {
    let (world, workspace) = (World::get(PgVersion::V18), Workspace::new());
    let bin = workspace.path("bin");
    fs::create_dir(&bin).unwrap();
    let real = world.cluster.bin_dir();
    std::os::unix::fs::symlink(real.join("pg_dumpall"), bin.join("pg_dumpall")).unwrap();
    let script = format!(
        "#!/bin/sh\nreal='{}'\nif [ \"$1\" = --version ]; then exec \"$real\" --version; fi\n\
         case \" $* \" in *' --compress=lz4:2 '*) ;; *) echo \"not told: $*\" >&2; exit 1;; esac\n\
         \"$real\" \"$@\" --compress=0 | {{ dd bs=1 count=11; dd bs=1 count=1 of=/dev/null; printf '\\002'; cat; }} 2>/dev/null\n",
        real.join("pg_dump").display()
    );
    common::executable(&bin.join("pg_dump"), &script);
    world.dump(&workspace, &["--compress", "lz4:2", "--bin-dir", bin.to_str().unwrap()]).run().succeeds();
    let dump = only_dump(&workspace);
    assert_eq!(dump.manifest["compression"], json!({"method": "lz4", "level": 2, "by": "pg_dump"}));
    assert_eq!(dump.manifest["checks"]["decoded"], false);
    assert!(dump.file(".dump").exists());
    verify(&workspace, &[]).succeeds();
    let deep = verify(&workspace, &["--deep"]).exits(11);
    assert!(deep.stdout.contains("which pgkeep does not decode"), "{}", deep.transcript());
}

/// What `pg_dump` writes to its standard output, read in slices, cut anywhere, and with a byte changed.
#[test]
fn a_tar_archive_is_whole_or_refused() {
    for version in PgVersion::ALL {
        let cluster = &World::get(version).cluster;
        let mut pg_dump = cluster.client("pg_dump");
        let tar = cluster.run(pg_dump.args(["-Ft", "-d", &cluster.conninfo("shop"), "-t", "empty", "-b"]));
        let read = |bytes: &[u8], slice: usize| {
            let mut reader = StreamReader::tar();
            bytes.chunks(slice).try_for_each(|slice| reader.push(slice))?;
            reader.finish()
        };
        for slice in [1, 511, 512, 4096, tar.len()] {
            let Content::Archive(archive) = read(&tar, slice).unwrap() else { panic!("not an archive") };
            assert_eq!(archive.size_bytes, tar.len() as u64);
            assert_eq!(archive.header.database, "shop");
        }
        for cut in (0..tar.len()).step_by(97).chain(tar.len() - 1025..tar.len()) {
            let error = read(&tar[..cut], 4096).unwrap_err();
            assert_eq!(error.kind, Kind::Verification, "{cut}");
        }
        for more in [&b"x"[..], &[0; 512]] {
            assert!(read(&[&tar[..], more].concat(), 4096).is_err());
        }
        // Headers and the table of contents; what tables hold the hash of the whole tells.
        let member = 512 + archive_front(&tar).next_multiple_of(512);
        for at in (0..512).chain(member..member + 512) {
            let mut flipped = tar.clone();
            flipped[at] ^= 1;
            assert!(read(&flipped, 4096).is_err(), "{at}");
        }
        // A file that is not there: the second one, cut out with its header.
        let size = octal(&tar[member + 124..member + 135]);
        let rest = &tar[member + 512 + size.next_multiple_of(512)..];
        let error = read(&[&tar[..member], rest].concat(), 4096).unwrap_err();
        assert!(error.to_string().contains("missing: there is no"), "{error}");
    }
}

fn archive_front(tar: &[u8]) -> usize {
    octal(&tar[124..135])
}

fn octal(digits: &[u8]) -> usize {
    usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 8).unwrap()
}
