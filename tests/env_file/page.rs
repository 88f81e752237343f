//! The page for teams, followed from top to bottom as it stands, and the timers that it ends with.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::common::{Cluster, PgVersion};
use crate::remote;
use crate::world::{World, shell};

fn text(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The commands in its blocks, in the order in which they stand.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in page.lines().map(str::trim) {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside => found.push(command.to_owned()),
            _ => {}
        }
    }
    found
}

/// The page's places are the test's.
fn moved(world: &World, text: &str) -> String {
    let place = |name: &str| world.path(name).display().to_string();
    text.replace("/etc/db-backup.env", &place("db.env"))
        .replace("/data/db-backups", &place("base"))
        .replace("/var/log/db-backup", &place("log"))
        .replace("sudo ", "")
        .replace("postgres:postgres", "$(id -u):$(id -g)")
}

/// As a login of the account that runs the backup.
fn environment(world: &World, cluster: &Cluster) -> BTreeMap<&'static str, String> {
    let pgkeep = std::path::Path::new(env!("CARGO_BIN_EXE_pgkeep")).parent().unwrap();
    let path = format!("{}:{}:/usr/bin:/bin", pgkeep.display(), cluster.bin_dir().display());
    let home = world.path("home").display().to_string();
    let state = world.workspace.state().display().to_string();
    BTreeMap::from([("PATH", path), ("HOME", home), ("PGKEEP_STATE_DIR", state), ("LC_ALL", "C.UTF-8".to_owned())])
}

#[test]
fn the_page_works_from_top_to_bottom() {
    // Its database is the page's, and so is the copy of it: a server of its own.
    let cluster = Cluster::plain(PgVersion::V15);
    cluster.create_database("community");
    cluster.sql("community", "CREATE TABLE posts AS SELECT generate_series(1, 1000) AS id");
    let (world, (proxy, bucket)) = (World::new(&[]), remote::oss());
    // The example, with the values of this place behind it: a later line has precedence.
    let own = [
        format!("PG_HOST={}", cluster.socket_dir().display()),
        format!("PG_PORT={}", cluster.port()),
        format!("OSS_BUCKET={}", bucket.name()),
        format!("OSS_ENDPOINT={}", proxy.endpoint()),
        format!("OSS_ACCESS_KEY_ID={}", crate::common::Weed::ACCESS_KEY),
        format!("OSS_ACCESS_KEY_SECRET={}", crate::common::Weed::shared().secret_key()),
    ];
    let file = moved(&world, &text("examples/legacy.env")) + &own.join("\n") + "\n";
    fs::write(world.path("db.env"), file).unwrap();
    shell(&world.path(""), "chmod 0644 db.env");

    let commands = commands(&text("ops/docs/env-file.md"));
    assert!(commands.len() >= 12, "{commands:#?}");
    let script = moved(&world, &commands.join("\n"));
    let output = Command::new("sh")
        .args(["-eux", "-c", &script])
        .env_clear()
        .envs(environment(&world, &cluster))
        .current_dir(world.path(""))
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert_eq!(cluster.sql("community_copy", "SELECT count(*) FROM posts"), "1000");
    let stem = world.only_stem();
    assert_eq!(world.report(&stem).status, "SUCCESS");
    assert!(bucket.get(&format!("postgres/backups/{stem}.dump")).is_some());

    // Then the timers, each as its program would start it: with what the file says, and no other environment.
    let cron = moved(&world, &text("ops/cron/db-backup"));
    let entry = cron.lines().find(|line| line.starts_with("0 2 * * * postgres ")).unwrap();
    run_by(&world, &cluster, &cron, entry.strip_prefix("0 2 * * * postgres ").unwrap());
    assert!(world.path("log/cron.log").exists());
    let service = moved(&world, &text("ops/systemd/db-backup.service"));
    let start = service.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    assert_eq!(start, "/usr/local/bin/pgkeep dump");
    run_by(&world, &cluster, &service.replace("Environment=", ""), "pgkeep dump");
    assert_eq!(world.reports().len(), 3);
    assert!(world.reports().iter().all(|stem| world.report(stem).status == "SUCCESS"));
    let timer = text("ops/systemd/db-backup.timer");
    for line in ["OnCalendar=*-*-* 02:00:00", "Persistent=true", "WantedBy=timers.target"] {
        assert!(timer.lines().any(|told| told == line), "{timer}");
    }
}

/// Runs a command with the variables that a timer's file sets.
#[track_caller]
fn run_by(world: &World, cluster: &Cluster, file: &str, command: &str) {
    let set = |line: &str| {
        let (name, value) = line.split_once('=')?;
        ["BACKUP_ENV_FILE", "SHELL"].contains(&name).then(|| (name.to_owned(), value.to_owned()))
    };
    let output = Command::new("bash")
        .args(["-euc", command])
        .env_clear()
        .envs(environment(world, cluster))
        .envs(file.lines().filter_map(set))
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
