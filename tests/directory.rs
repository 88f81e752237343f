//! A directory dump while it is made: files are stored while `pg_dump` writes, nothing is left on this host whatever
//! happens, and damage to any object of any form is found.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use common::dumps::{dumps_of, only_dump, until};
use common::equality::{Snapshot, assert_equal};
use common::pgkeep::{Pgkeep, tree};
use common::stored::{copy_tree, ids};
use common::{Cluster, Outcome, PgVersion, Workspace};
use serde_json::Value;

const SHOP: &str = "
    CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS what FROM generate_series(1, 20000) n;
    CREATE TABLE small AS SELECT n FROM generate_series(1, 10) n;
    CREATE TABLE big AS SELECT n, repeat(md5(n::text), 30) AS what FROM generate_series(1, 12000) n;
    SELECT lo_from_bytea(0, 'one'), lo_from_bytea(0, 'another');
    ANALYZE";

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::plain(PgVersion::V15);
        cluster.create_database("shop");
        cluster.sql("shop", SHOP);
        cluster
    })
}

fn dump(workspace: &Workspace, more: &[&str]) -> Pgkeep {
    let words = ["dump", "-d", "shop", "--format", "directory", "--jobs", "2"];
    workspace.pgkeep_on(cluster(), [&words, more].concat())
}

/// Stored files of directories in the repository, without folders.
fn members(workspace: &Workspace) -> Vec<String> {
    let names = tree(&workspace.repository().join("main/dumps"));
    names.iter().filter_map(|name| name.split_once(".dir/")?.1.strip_suffix(".zst").map(str::to_owned)).collect()
}

/// What lies in the scratch directory.
fn scratch(workspace: &Workspace) -> Vec<String> {
    tree(&workspace.path("tmp"))
}

/// Everything that an object of a failed dump would be called.
fn leftovers(workspace: &Workspace) -> Vec<String> {
    let mut left = tree(&workspace.repository().join("main/dumps"));
    left.extend(tree(&workspace.repository().join("main/intents")));
    left
}

#[test]
fn files_are_stored_while_pg_dump_is_still_at_work_and_what_a_killed_run_left_goes_with_the_next() {
    let workspace = Workspace::new();
    // It writes everything, and then does not end before it may.
    let go = workspace.path("go");
    let bin = workspace.client(
        cluster(),
        "bin",
        &format!("\"$real\" \"$@\"; while [ ! -e '{}' ]; do sleep 0.05; done", go.display()),
    );
    let mut killed = dump(&workspace, &["--bin-dir", bin.to_str().unwrap()]).spawn();
    until("all files are stored", || members(&workspace).len() == 7);
    assert!(!scratch(&workspace).iter().any(|name| name.ends_with(".dat")), "{:?}", scratch(&workspace));
    let staging = |workspace: &Workspace| {
        let names = scratch(workspace).into_iter();
        names.filter(|name| name.starts_with("pgkeep-staging-") && name.ends_with("/lock")).collect::<Vec<_>>()
    };
    assert_eq!(staging(&workspace).len(), 1);

    // Another one at the same time leaves it alone.
    let other = Workspace::new();
    dump(&other, &[]).env("TMPDIR", workspace.path("tmp")).run().succeeds();
    assert_eq!(staging(&workspace).len(), 1);

    killed.kill().unwrap();
    killed.wait().unwrap();
    fs::write(go, "").unwrap();
    assert_eq!(staging(&workspace).len(), 1);
    dump(&workspace, &[]).run().succeeds();
    assert_eq!(scratch(&workspace), [""; 0]);
    let id = only_dump(&workspace).id();
    assert!(leftovers(&workspace).iter().all(|name| name.starts_with(&id)), "{:?}", leftovers(&workspace));
}

#[test]
fn a_pg_dump_that_fails_leaves_nothing() {
    for (body, said) in [
        ("\"$real\" \"$@\"; echo 'pg_dump: error: that was it' >&2; exit 1", "that was it"),
        // It says that all is well.
        ("for w; do case $w in --file=*) d=${w#--file=};; esac; done; echo x > \"$d\"/evil.dat; exit 0", "evil.dat"),
        ("for w; do case $w in --file=*) d=${w#--file=};; esac; done; echo x > \"$d\"/1.dat; exit 0", "no toc.dat"),
        ("exit 0", "no toc.dat"),
    ] {
        let workspace = Workspace::new();
        let bin = workspace.client(cluster(), "bin", body);
        let outcome = dump(&workspace, &["--bin-dir", bin.to_str().unwrap()]).run();
        assert_ne!(outcome.exit_code, Some(0), "{}", outcome.transcript());
        assert!(outcome.stderr.contains(said) && outcome.stderr.contains("stage archive"), "{}", outcome.transcript());
        assert_eq!(leftovers(&workspace), [""; 0], "{body}");
        assert_eq!(scratch(&workspace), [""; 0], "{body}");
    }
}

#[test]
fn a_table_whose_file_is_lost_is_missed() {
    let workspace = Workspace::new();
    // pg_dump writes elsewhere; then all but one file of a table are put where they are waited for.
    let body = "for w; do case $w in --file=*) d=${w#--file=};; esac; done
        \"$real\" \"$@\" --file=\"$d/../real\"
        one=$(ls \"$d/../real\" | grep '^[0-9]*.dat$' | head -1); rm \"$d/../real/$one\"
        cp \"$d\"/../real/* \"$d\"/";
    let bin = workspace.client(cluster(), "bin", body);
    let outcome = dump(&workspace, &["--bin-dir", bin.to_str().unwrap()]).run().exits(6);
    assert!(outcome.stderr.contains("data of TABLE DATA public."), "{}", outcome.transcript());
    assert_eq!((leftovers(&workspace), scratch(&workspace)), (Vec::new(), Vec::new()));
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    let workspace = Workspace::new();
    let bin = workspace.client(cluster(), "bin", "\"$real\" \"$@\"; exec sleep 1000");
    let child = dump(&workspace, &["--bin-dir", bin.to_str().unwrap()]).spawn();
    until("files are stored", || members(&workspace).len() > 2);
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    let outcome = Outcome::wait_for(child).exits(143);
    assert!(outcome.stderr.contains("stopped by SIGTERM"), "{}", outcome.transcript());
    assert_eq!((leftovers(&workspace), scratch(&workspace)), (Vec::new(), Vec::new()));
}

#[test]
fn a_repository_that_is_full_fails_or_is_left_out() {
    // Files may not grow over a size that one table has: stores fail in the middle, and so does pg_dump's own file.
    let workspace = Workspace::new();
    let bin =
        workspace.client(cluster(), "bin", "prlimit --pid $$ --fsize=unlimited 2>/dev/null; exec \"$real\" \"$@\"");
    let outcome = dump(&workspace, &["--compress", "none", "--bin-dir", bin.to_str().unwrap()])
        .under(&["prlimit", "--fsize=3000000:unlimited"])
        .run()
        .exits(5);
    assert!(outcome.stderr.contains("stage archive"), "{}", outcome.transcript());
    assert_eq!((leftovers(&workspace), scratch(&workspace)), (Vec::new(), Vec::new()));
}

#[test]
fn it_goes_into_several_repositories_and_is_copied() {
    let workspace = Workspace::new();
    let (second, third) = (workspace.path("second"), workspace.path("third"));
    dump(&workspace, &["--repo", second.to_str().unwrap()]).run().succeeds();
    let id = only_dump(&workspace).id();
    let objects = |root: &Path| {
        let names = tree(&root.join("main/dumps")).into_iter().filter(|name| !name.ends_with('/'));
        names.map(|name| fs::read(root.join("main/dumps").join(name)).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(objects(&workspace.repository()), objects(&second));
    for format in ["tar", "plain"] {
        workspace.pgkeep_on(cluster(), ["dump", "-d", "shop", "--format", format]).run().succeeds();
    }

    let copy = |more: &[&str]| {
        let from = workspace.repository();
        let words = ["copy", "--repo", from.to_str().unwrap(), "--to", third.to_str().unwrap()];
        workspace.pgkeep([&words, more].concat()).run()
    };
    copy(&["--missing"]).succeeds();
    assert_eq!(objects(&workspace.repository()), objects(&third));
    let deep = ["verify", "--all", "--deep", "--repo", third.to_str().unwrap()];
    workspace.pgkeep(deep).run().succeeds();

    // The second copy helps where a file of the first one is damaged.
    let damaged = workspace.repository().join("main/dumps").join(format!("{id}.dir/toc.dat.zst"));
    fs::write(&damaged, "x").unwrap();
    let words =
        ["restore", "dump", &id, "--into", "from_second", "--analyze", "none", "--repo", second.to_str().unwrap()];
    let outcome = workspace.pgkeep_on(cluster(), words).run().succeeds();
    assert!(outcome.stderr.contains("toc.dat"), "{}", outcome.transcript());
    assert_equal(&Snapshot::of(cluster(), "shop"), &Snapshot::of(cluster(), "from_second"));
    assert_eq!(scratch(&workspace), [""; 0]);
}

#[test]
fn a_directory_with_more_files_than_a_manifest_names_is_refused() {
    let workspace = Workspace::new();
    cluster().create_database("many");
    cluster().sql("many", "SELECT lo_from_bytea(0, '') FROM generate_series(1, 9000)");
    let words = ["dump", "-d", "many", "-F", "d"];
    let outcome = workspace.pgkeep_on(cluster(), words).run().exits(9);
    assert!(outcome.stderr.contains("at most 9000 files"), "{}", outcome.transcript());
    assert_eq!(leftovers(&workspace), [""; 0]);
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Delete,
    Cut,
    Append,
    Flip,
    /// Another object of the same dump has its bytes, and it has the other's.
    Swap,
    /// The object of the other dump.
    Other,
}

/// Does the damage; false where it changes nothing.
fn inflict(damage: Damage, victim: &Path, sibling: &Path, other: &Path) -> bool {
    let before = fs::read(victim).unwrap();
    let mut after = before.clone();
    match damage {
        Damage::Delete => {
            fs::remove_file(victim).unwrap();
            return true;
        }
        Damage::Cut => after.truncate(before.len() / 2),
        Damage::Append => after.push(b'x'),
        Damage::Flip => after[before.len() / 2] ^= 4,
        Damage::Swap => {
            after = fs::read(sibling).unwrap();
            fs::write(sibling, &before).unwrap();
        }
        Damage::Other => after = fs::read(other).unwrap(),
    }
    fs::write(victim, &after).unwrap();
    after != before
}

fn verified(workspace: &Workspace, id: &str, more: &[&str]) -> Outcome {
    workspace.pgkeep([&["verify", id, "--json"], more].concat()).arg("--repo").arg(workspace.repository()).run()
}

#[track_caller]
fn findings(outcome: &Outcome) -> Vec<String> {
    let document = outcome.json();
    let found = document["items"][0]["findings"].as_array().unwrap().iter();
    found.map(|finding: &Value| finding["object"].as_str().unwrap().to_owned()).collect()
}

/// Two dumps of one form, and what an object of the second one, damaged, leads to.
fn damaged(words: &[&str], endings: impl Fn(&[String]) -> Vec<String>) {
    let whole = Workspace::new();
    let make = || {
        let words = [&["dump", "-d", "shop", "--check", "decode"], words].concat();
        whole.pgkeep_on(cluster(), words).run().succeeds();
    };
    make();
    make();
    let [older, newer]: [String; 2] = ids(&whole).try_into().unwrap();
    let names = tree(&whole.repository().join("main/dumps"));
    let ours: Vec<String> = names.iter().filter_map(|name| name.strip_prefix(&newer)).map(str::to_owned).collect();
    let chosen = endings(&ours);
    let never = format!("never_{}", words.concat());
    for (at, ending) in chosen.iter().enumerate() {
        for damage in [Damage::Delete, Damage::Cut, Damage::Append, Damage::Flip, Damage::Swap, Damage::Other] {
            let workspace = Workspace::new();
            copy_tree(&whole.repository(), &workspace.repository());
            let object = |id: &str, ending: &str| workspace.repository().join(format!("main/dumps/{id}{ending}"));
            let sibling = object(&newer, &chosen[(at + 1) % chosen.len()]);
            if !inflict(damage, &object(&newer, ending), &sibling, &object(&older, ending)) {
                continue;
            }
            for level in [&[][..], &["--deep"]] {
                let outcome = verified(&workspace, &newer, level).exits(6);
                let named = findings(&outcome);
                assert!(named.contains(&format!("{newer}{ending}")), "{ending} {damage:?}: {named:?}");
            }
            if matches!(damage, Damage::Flip | Damage::Swap | Damage::Delete) && !ending.ends_with(".sha256") {
                let words = ["restore", "dump", &newer, "--into", &never];
                let outcome = workspace.pgkeep_on(cluster(), words).run();
                assert!(matches!(outcome.exit_code, Some(5 | 6)), "{ending} {damage:?}: {}", outcome.transcript());
                assert_eq!(scratch(&workspace), [""; 0]);
            }
            if matches!(damage, Damage::Other) {
                verified(&workspace, &older, &["--deep"]).succeeds();
            }
        }
    }
    assert!(!cluster().databases().iter().any(|name| name.contains(&never)));
}

#[test]
fn every_damaged_file_of_a_directory_is_named_and_nothing_is_restored_from_it() {
    damaged(&["-F", "d"], |names| {
        let one = |is: &dyn Fn(&str) -> bool| names.iter().find(|name| is(name)).cloned().unwrap();
        let mut chosen = vec![
            one(&|name| name.ends_with("toc.dat.zst")),
            one(&|name| name.ends_with("blobs.toc.zst")),
            one(&|name| name.contains("/blob_")),
            ".dir.sha256".to_owned(),
        ];
        let is_data = |name: &&String| name.starts_with(".dir/") && name[5..].starts_with(|c: char| c.is_ascii_digit());
        chosen.extend(names.iter().filter(is_data).take(2).cloned());
        chosen
    });
}

#[test]
fn every_damage_to_a_tar_archive_or_a_script_is_found() {
    damaged(&["-F", "t"], |_| vec![".tar.zst".to_owned(), ".tar.zst.sha256".to_owned()]);
    damaged(&["-F", "p"], |_| vec![".sql.zst".to_owned(), "_globals.sql.zst".to_owned()]);
    damaged(&["-F", "p", "--compress", "gzip:1"], |_| vec![".sql.gz".to_owned()]);
}

#[test]
fn a_listing_shows_directories_as_any_other_dump() {
    let workspace = Workspace::new();
    dump(&workspace, &[]).run().succeeds();
    let on = |words: &[&str]| workspace.pgkeep(words).arg("--repo").arg(workspace.repository()).run().succeeds();
    let dumps = dumps_of(&workspace, "main");
    let shown = on(&["report", "show", &dumps[0].id(), "--json"]).json();
    let keys = shown["items"][0]["repositories"][0]["keys"].as_array().unwrap().clone();
    assert!(keys.iter().any(|key| key.as_str().unwrap().ends_with(".dir/toc.dat.zst")), "{keys:?}");
    let listed = on(&["report", "list", "--json"]).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}
