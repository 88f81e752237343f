//! What surrounds a dump and is not in order: streams that nobody reads, a shell that is gone, a disk that is not
//! mounted, a program that is broken.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::OpenOptions;
use std::process::Command;

use common::dumps::until;
use common::{Cluster, PgVersion, Workspace};

fn shop(cluster: &Cluster) {
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g");
}

#[test]
fn a_log_that_cannot_be_written_stops_no_dump() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut dump = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "-vv", "--progress", "line"]);
    let status = dump.command().stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let mut dump = workspace.pgkeep_on(&cluster, ["dump", "-d", "nosuch", "-vv"]);
    let status = dump.command().stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(3));
}

/// Starts a dump that waits for a lock, once with SIGHUP ignored and once not, and hangs up on it.
#[test]
fn nohup_is_respected() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    // Whoever runs the tests may have been started by nohup, too.
    for (trap, code) in [("trap '' HUP; exec \"$0\" \"$@\"", 0), ("exec env --default-signal=HUP \"$0\" \"$@\"", 143)] {
        let gate = cluster.socket_dir().join("gate");
        let script = format!(
            "BEGIN; LOCK TABLE t; \\! touch {gate}\n\\! while [ -e {gate} ]; do sleep 0.05; done\nCOMMIT;",
            gate = gate.display()
        );
        let mut holder = cluster.client("psql");
        holder.args(["-q", "-d", &cluster.conninfo("shop")]).stdin(std::process::Stdio::piped());
        let mut holder = holder.spawn().unwrap();
        std::io::Write::write_all(&mut holder.stdin.take().unwrap(), script.as_bytes()).unwrap();
        until("it happens", || gate.exists());

        let dump = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]);
        let child = under_shell(dump, trap).spawn().unwrap();
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        until("it happens", || cluster.sql("postgres", waiting) != "0");
        assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
        if code == 0 {
            std::fs::remove_file(&gate).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let _ = std::fs::remove_file(&gate);
        holder.wait().unwrap();
    }
}

/// The same call, made by a shell that does something before.
fn under_shell(mut call: common::pgkeep::Pgkeep, script: &str) -> Command {
    let inner = call.command();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).arg(inner.get_program()).args(inner.get_args()).env_clear();
    for (name, value) in inner.get_envs() {
        shell.env(name, value.unwrap());
    }
    shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    shell
}

#[test]
fn nothing_is_made_where_a_disk_is_not_mounted() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().succeeds();
    std::fs::rename(workspace.repository(), workspace.path("elsewhere")).unwrap();
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().exits(9);
    assert!(outcome.stderr.contains("an unmounted disk?"), "{}", outcome.transcript());
    assert!(!workspace.repository().exists());
}

#[test]
fn a_broken_pg_dumpall_is_not_a_missing_right() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    let bin = workspace.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["pg_dump", "pg_dumpall"] {
        std::os::unix::fs::symlink(cluster.bin_dir().join(name), bin.join(name)).unwrap();
    }
    let broken = "#!/bin/sh\ncase $* in *--no-role-passwords*) exec REAL \"$@\";; esac\n\
                  echo 'ERROR: could not read block 0: SELECT * FROM pg_authid' >&2; exit 1\n";
    let real = cluster.bin_dir().join("pg_dumpall");
    std::fs::remove_file(bin.join("pg_dumpall")).unwrap();
    common::executable(&bin.join("pg_dumpall"), &broken.replace("REAL", real.to_str().unwrap()));
    let args = ["dump", "-d", "shop", "--bin-dir", bin.to_str().unwrap()];
    let outcome = workspace.pgkeep_on(&cluster, args).run().exits(4);
    assert!(outcome.stderr.contains("could not read block"), "{}", outcome.transcript());
}
