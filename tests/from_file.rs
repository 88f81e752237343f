//! Dumps outside any repository: into a file or a pipe, and restored from whatever pg_dump writes, compressed or not.

mod common;

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::equality::{Snapshot, assert_equal};
use common::pgkeep::tree;
use common::shapes;
use common::{Cluster, Outcome, PgVersion, Workspace};

fn restore(workspace: &Workspace, cluster: &Cluster, file: &Path, arguments: &[&str]) -> Outcome {
    let quick = ["restore", "dump", "--json", "--analyze", "none", "--from-file"];
    let call = workspace.pgkeep(quick).arg(file).connecting_to(cluster);
    arguments.iter().fold(call, |call, argument| call.arg(argument)).run()
}

fn message(outcome: &Outcome) -> String {
    let error = &outcome.json()["error"];
    format!("{} | {}", error["message"].as_str().unwrap_or_default(), error["hint"].as_str().unwrap_or_default())
}

/// What `pg_dump` makes of `database`, as people keep it: by format and by what stands around it.
fn dumps(cluster: &Cluster, workspace: &Workspace, database: &str) -> Vec<PathBuf> {
    let made = |name: &str, arguments: &[&str]| {
        let path = workspace.path(name);
        let mut pg_dump = cluster.client("pg_dump");
        pg_dump.args(arguments).arg("-d").arg(cluster.conninfo(database)).arg("-f").arg(&path);
        cluster.run(&mut pg_dump);
        path
    };
    let packed = |path: &Path, program: &str| {
        let name = format!("{}.{program}", path.display());
        let output = Command::new(program).arg("-c").arg(path).output().unwrap();
        assert!(output.status.success());
        std::fs::write(&name, output.stdout).unwrap();
        PathBuf::from(name)
    };
    let custom = made("custom", &["-Fc", "-Z0"]);
    let script = made("script", &["-Fp"]);
    let tar = made("tar", &["-Ft"]);
    vec![
        packed(&custom, "zstd"),
        packed(&script, "gzip"),
        packed(&script, "zstd"),
        packed(&tar, "gzip"),
        made("compressed custom", &["-Fc"]),
        made("-directory", &["-Fd"]),
        made("plain directory", &["-Fd", "-Z0"]),
        custom,
        script,
        tar,
    ]
}

#[test]
fn whatever_pg_dump_wrote_is_restored() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::torture(&cluster, "torture");
    let source = Snapshot::of(&cluster, "torture");
    for (number, path) in dumps(&cluster, &workspace, "torture").iter().enumerate() {
        let copy = format!("copy {number}");
        let outcome = restore(&workspace, &cluster, path, &["--into", &copy]).succeeds();
        assert_eq!(outcome.json()["items"][0]["fromFile"], path.to_str().unwrap());
        let copied = Snapshot::of(&cluster, &copy);
        if path.to_str().unwrap().contains("script") {
            // A script does not hold what belongs to the database itself: its owner, rights, settings and comment.
            let differences = source.differences(&copied).expect("the database itself differs").to_string();
            let of_database = |line: &&str| line.starts_with("database: ") || line.starts_with("setting of ");
            let others: Vec<&str> = differences.lines().skip(1).filter(|line| !of_database(line)).collect();
            assert_eq!(others, Vec::<&str>::new());
        } else {
            assert_equal(&source, &copied);
        }
        cluster.sql("postgres", &format!("DROP DATABASE \"{copy}\""));
    }
    assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
    assert!(!workspace.repository().exists());
}

#[test]
fn what_is_cut_off_is_no_dump_and_touches_nothing() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 2000) n");
    let before = cluster.databases();
    for path in dumps(&cluster, &workspace, "shop") {
        let cut = workspace.path("cut");
        if path.is_dir() {
            let is_data = |name: &String| name.contains(".dat") && name != "toc.dat";
            let data = tree(&path).into_iter().find(is_data).unwrap();
            let data = path.join(data);
            let bytes = std::fs::read(&data).unwrap();
            std::fs::write(&data, &bytes[..bytes.len() / 2]).unwrap();
            let refused = restore(&workspace, &cluster, &path, &["--into", "copy"]).exits(6);
            let told =
                if data.extension().unwrap() == "gz" { "read the archive to its end" } else { ".dat ends early" };
            assert!(message(&refused).contains(told), "{}", refused.transcript());
            std::fs::remove_file(&data).unwrap();
            restore(&workspace, &cluster, &path, &["--into", "copy"]).exits(6);
            continue;
        }
        let whole = std::fs::read(&path).unwrap();
        for bytes in [10, whole.len() / 2, whole.len() - 200] {
            std::fs::write(&cut, &whole[..bytes]).unwrap();
            let refused = restore(&workspace, &cluster, &cut, &["--into", "copy"]);
            // A few bytes of tar are no tar.
            let codes = if bytes == 10 { [6, 2] } else { [6, 6] };
            let code = refused.exit_code.unwrap_or_default();
            assert!(codes.contains(&code), "{path:?} {bytes}: {}", refused.transcript());
        }
        assert_eq!(cluster.databases(), before, "{}", path.display());
    }
    assert_eq!(cluster.databases(), before);
}

#[test]
fn a_script_runs_in_its_database_and_nowhere_else() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE t AS SELECT 1 AS a");
    let path = workspace.path("script");
    let with = |script: &str, arguments: &[&str]| {
        std::fs::write(&path, script).unwrap();
        restore(&workspace, &cluster, &path, arguments)
    };
    let script = "CREATE TABLE u (a int PRIMARY KEY);\nINSERT INTO u VALUES (1);\n";
    let done = with(script, &["--into", "made"]).succeeds();
    assert!(done.json()["warnings"].to_string().contains("nothing tells whether the script is whole"));
    assert_eq!(cluster.sql("made", "SELECT a FROM u"), "1");

    // One error, and nothing of it is left: not in a new database, not in one that is there.
    let faulty = format!("{script}INSERT INTO u VALUES (1);\nCREATE TABLE w ();\n");
    let failed = with(&faulty, &["--into", "other"]).exits(4);
    assert!(message(&failed).contains("line 3: duplicate key"), "{}", failed.transcript());
    assert!(!failed.transcript().contains("(a)=(1)"), "rows are not told: {}", failed.transcript());
    assert_eq!(cluster.databases(), ["made", "postgres", "shop"]);
    let before = Snapshot::of(&cluster, "shop");
    with(&faulty, &["--into", "shop"]).exits(9);
    with(&faulty, &["--into", "shop", "--into-existing"]).exits(4);
    assert_equal(&before, &Snapshot::of(&cluster, "shop"));
    with(script, &["--into", "shop", "--into-existing"]).succeeds();
    assert_eq!(cluster.sql("shop", "SELECT count(*) FROM u, t"), "1");
    let partial = with(&faulty, &["--into", "other", "--keep-going"]).exits(10);
    assert!(partial.json()["warnings"].to_string().contains("line 3: duplicate key"), "{}", partial.transcript());
    assert_eq!(cluster.sql("other", "SELECT to_regclass('w') IS NOT NULL"), "t");

    for (script, named) in [
        (format!("{script}\\connect postgres\nDROP TABLE x;\n"), "line 3 of the script connects"),
        ("--\n-- PostgreSQL database cluster dump\n--\n".to_owned(), "pg_dumpall"),
        ("age-encryption.org/v1\n".to_owned(), "age --decrypt"),
        ("a\0b".to_owned(), "no archive of pg_dump, and no text"),
    ] {
        let refused = with(&script, &["--into", "x"]).exits(2);
        assert!(message(&refused).contains(named), "{}", refused.transcript());
    }
    let contradictions: [(&[&str], &str); 7] = [
        (&["-t", "u"], "--table"),
        (&["--jobs", "2"], "--jobs"),
        (&["--role-map", "a=b"], "--role-map"),
        (&["--no-owner"], "--no-owner"),
        (&["--no-privileges"], "--no-privileges"),
        (&["--clean", "--if-exists"], "--clean"),
        (&["--into-existing", "--keep-going"], "--keep-going"),
    ];
    for (arguments, named) in contradictions {
        let all: Vec<&str> = arguments.iter().copied().chain(["--into", "shop"]).collect();
        let refused = with(script_of_pg_dump(), &all).exits(2);
        let told = message(&refused);
        assert!(told.contains(named) && told.contains("an SQL script do not go together"), "{}", refused.transcript());
    }
    let unnamed = with(script, &[]).exits(2);
    assert!(message(&unnamed).contains("--into"), "{}", unnamed.transcript());
}

fn script_of_pg_dump() -> &'static str {
    "--\n-- PostgreSQL database dump\n--\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
}

#[test]
fn roles_of_an_archive_must_be_there_or_be_mapped() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    let workspace = Workspace::new();
    source.sql("postgres", "CREATE ROLE old; CREATE ROLE reader");
    source.sql("postgres", "CREATE DATABASE shop OWNER old");
    source.sql("shop", "CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t OWNER TO old; GRANT SELECT ON t TO reader");
    for path in dumps(&source, &workspace, "shop").iter().filter(|path| !path.to_str().unwrap().contains("script")) {
        let refused = restore(&workspace, &target, path, &[]).exits(9);
        assert!(
            message(&refused).contains("CREATE ROLE \"old\" NOLOGIN; CREATE ROLE \"reader\""),
            "{}",
            message(&refused)
        );
        restore(&workspace, &target, path, &["--into", "bare", "-O", "-x"]).succeeds();
        assert_eq!(target.sql("bare", "SELECT relowner::regrole FROM pg_class WHERE relname = 't'"), "postgres");
        target.sql("postgres", "DROP DATABASE bare; CREATE ROLE new");
        let map = ["--role-map", "old=new", "--role-map", "reader=new", "--into", "mapped"];
        let mapped = restore(&workspace, &target, path, &map);
        if path.to_str().unwrap().contains("tar") {
            let mapped = mapped.exits(2);
            assert!(message(&mapped).contains("--role-map and a tar archive"), "{}", mapped.transcript());
        } else {
            mapped.succeeds();
            let owners = "SELECT relowner::regrole, datdba::regrole FROM pg_class, pg_database
                           WHERE relname = 't' AND datname = current_database()";
            assert_eq!(target.sql("mapped", owners), "new|new");
            target.sql("postgres", "DROP DATABASE mapped");
        }
        target.sql("postgres", "DROP ROLE new");
    }
    assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
}

#[test]
fn from_server_to_server_without_a_repository() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V18));
    let workspace = Workspace::new();
    shapes::torture(&source, "torture");
    target.sql("postgres", include_str!("common/shapes/torture_roles.sql"));
    let mut dump = workspace.pgkeep(["dump", "-d", "torture", "--to-file", "-"]).connecting_to(&source);
    let mut dumping = dump.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut restore =
        workspace.pgkeep(["restore", "dump", "--from-file", "-", "--into", "moved", "--jobs", "2", "--json"]);
    restore = restore.connecting_to(&target);
    restore.command().stdin(dumping.stdout.take().unwrap());
    let restored = restore.run().succeeds();
    Outcome::wait_for(dumping).succeeds();
    let differences = Snapshot::of(&source, "torture").content_differences(&Snapshot::of(&target, "moved"));
    assert!(differences.is_none(), "{}\n{}", differences.unwrap(), restored.transcript());
    assert!(!workspace.repository().exists());
    assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
}

#[test]
fn a_dump_into_a_file_is_whole_or_not_there() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    let path = workspace.path("shop.dump");
    let to = |path: &Path, arguments: &[&str]| {
        let call = workspace.pgkeep(["dump", "-d", "shop", "--json", "--to-file"]).arg(path).connecting_to(&cluster);
        arguments.iter().fold(call, |call, argument| call.arg(argument))
    };
    let done = to(&path, &[]).run().succeeds();
    assert_eq!(done.json()["items"][0]["file"], path.to_str().unwrap());
    assert_eq!(done.json()["items"][0]["plainBytes"], std::fs::metadata(&path).unwrap().len());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    restore(&workspace, &cluster, &path, &["--into", "copy"]).succeeds();
    assert_equal(&Snapshot::of(&cluster, "shop"), &Snapshot::of(&cluster, "copy"));

    let before = tree(&workspace.path("."));
    let refused = to(&path, &[]).run().exits(9);
    assert!(message(&refused).contains("exists"), "{}", refused.transcript());
    let other = workspace.path("other.dump");
    let full = to(&other, &["--compress", "gzip:0"]).under(&["prlimit", "--fsize=100000", "--"]).run();
    assert!(full.exit_code != Some(0), "{}", full.transcript());
    to(&other, &["--compress", "zstd:3"]).run().exits(2);
    to(Path::new("-"), &[]).run().exits(2);
    // What is about a repository or a second attempt is not passed over in silence.
    for word in ["--lock-retry=1", "--split=5M"] {
        workspace.pgkeep(["dump", "-d", "shop", word, "--to-file"]).arg(&other).connecting_to(&cluster).run().exits(2);
    }
    workspace.pgkeep(["dump", "-d", "nowhere", "--to-file"]).arg(&other).connecting_to(&cluster).run().exits(3);
    workspace
        .pgkeep(["dump", "-d", "shop", "-d", "postgres", "--to-file"])
        .arg(&other)
        .connecting_to(&cluster)
        .run()
        .exits(2);
    assert_eq!(tree(&workspace.path(".")), before);

    // A reader that goes away is an error, and what it has read is no dump.
    let mut call = workspace.pgkeep(["dump", "-d", "shop", "--to-file", "-"]).connecting_to(&cluster);
    let mut child = call.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut beginning = vec![0; 100_000];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut beginning).unwrap();
    drop(stdout);
    let broken = Outcome::wait_for(child).exits(5);
    assert!(broken.stderr.contains("Broken pipe") && broken.stderr.contains("hint: the program that reads it"));
    std::fs::write(&other, beginning).unwrap();
    let cut = restore(&workspace, &cluster, &other, &["--into", "cut"]).exits(6);
    assert!(message(&cut).contains("ends early"), "{}", cut.transcript());
    assert_eq!(cluster.databases(), ["copy", "postgres", "shop"]);
}
