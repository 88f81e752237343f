//! Backups that are encrypted to recipients of age: opened by stock tools and by us, by the right keys only, and without
//! a name of a user's table or role in any byte that is stored.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use common::dumps::{Dump, Holder, dumps_of, only_dump, runs_of, until};
use common::pgkeep::{Pgkeep, tree};
use common::stored::flip;
use common::{Cluster, Outcome, PgVersion, Workspace};
use serde_json::{Value, json};

/// Parts of the names of a user's tables, roles, schemas and columns. Nothing else in the world has them.
const CANARIES: [&str; 5] = ["canarytable", "canaryrole", "canaryschema", "canarycolumn", "canaryrow"];

/// A server that lives as long as the test binary; a test that changes something makes its own database.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::plain(PgVersion::V15);
        cluster.sql("postgres", "CREATE ROLE canaryrole LOGIN");
        fill(&cluster, "shop");
        cluster
    })
}

fn fill(cluster: &Cluster, database: &str) {
    cluster.create_database(database);
    cluster.sql(
        database,
        "CREATE SCHEMA canaryschema;
         CREATE TABLE canaryschema.canarytable (id int PRIMARY KEY, canarycolumn text);
         INSERT INTO canaryschema.canarytable SELECT n, 'canaryrow ' || md5(n::text) FROM generate_series(1, 3000) n;
         GRANT SELECT ON canaryschema.canarytable TO canaryrole",
    );
}

/// A key pair in files.
struct Key {
    /// What a recipient is.
    public: String,
    file: PathBuf,
}

struct World {
    workspace: Workspace,
}

impl World {
    fn new() -> Self {
        cluster();
        Self { workspace: Workspace::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workspace.path(name)
    }

    /// A pair of `age-keygen`.
    fn key(&self, name: &str) -> Key {
        let file = self.path(name);
        run(Command::new("age-keygen").arg("-o").arg(&file));
        Key { public: run(Command::new("age-keygen").arg("-y").arg(&file)).trim().to_owned(), file }
    }

    fn ssh_key(&self, kind: &str, passphrase: &str) -> Key {
        let file = self.path(&format!("id_{kind}{}", passphrase.len()));
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", passphrase, "-C", "alice@example"])
            .arg("-f")
            .arg(&file));
        Key { public: fs::read_to_string(file.with_extension("pub")).unwrap().trim().to_owned(), file }
    }

    fn on(&self, repository: &Path, words: &[&str]) -> Pgkeep {
        self.workspace.pgkeep(words).arg("--repo").arg(repository).connecting_to(cluster())
    }

    fn dump(&self, words: &[&str], recipients: &[&Key]) -> Pgkeep {
        let call = self.on(&self.workspace.repository(), &[&["dump"], words].concat());
        recipients.iter().fold(call, |call, key| call.arg("--recipient").arg(&key.public))
    }

    /// A dump of `shop` for these keys.
    fn dumped(recipients: &[&str]) -> (Self, Vec<Key>, Dump) {
        let world = Self::new();
        let keys: Vec<Key> = recipients.iter().map(|name| world.key(name)).collect();
        world.dump(&["-d", "shop"], &keys.iter().collect::<Vec<_>>()).run().succeeds();
        let dump = only_dump(&world.workspace);
        (world, keys, dump)
    }

    fn read(&self, words: &[&str]) -> Outcome {
        self.on(&self.workspace.repository(), words).run()
    }

    fn read_with(&self, key: &Key, words: &[&str]) -> Outcome {
        self.on(&self.workspace.repository(), words).arg("--identity-file").arg(&key.file).run()
    }
}

fn run(command: &mut Command) -> String {
    String::from_utf8(bytes_of(command)).unwrap()
}

#[track_caller]
fn bytes_of(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn age_decrypted(key: &Path, object: &Path) -> Vec<u8> {
    bytes_of(Command::new("age").arg("-d").arg("-i").arg(key).arg(object))
}

fn unzstd(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("zstd").args(["-dqc"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Every byte that lies in a repository: as it is, and what zstd makes of it where it is zstd; names, too.
fn everything_in(repository: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in tree(repository) {
        found.push((name.clone(), name.clone().into_bytes()));
        if !name.ends_with('/') {
            let bytes = fs::read(repository.join(&name)).unwrap();
            if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                found.push((name.clone(), unzstd(&bytes)));
            }
            found.push((name, bytes));
        }
    }
    found
}

#[track_caller]
fn has_no_canary(repository: &Path) {
    let found = everything_in(repository);
    assert!(found.len() > 8, "{found:?}");
    for (name, bytes) in &found {
        for canary in CANARIES {
            assert!(!contains(bytes, canary), "{canary} stands in {name}: {}", String::from_utf8_lossy(bytes));
        }
    }
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

fn databases() -> String {
    cluster().sql("postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database")
}

#[test]
fn stock_tools_open_every_object_with_every_key() {
    let world = World::new();
    let keys = [world.key("one"), world.ssh_key("ed25519", ""), world.ssh_key("rsa", "")];
    world.dump(&["-d", "shop"], &keys.iter().collect::<Vec<_>>()).run().succeeds();
    let dump = only_dump(&world.workspace);
    let recipients: Vec<&str> =
        dump.manifest["encryption"]["recipients"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    assert_eq!(dump.manifest["encryption"]["method"], "age");
    assert_eq!(recipients.len(), 3);
    // Whose key it is nobody has to know.
    assert!(!recipients.iter().any(|recipient| recipient.contains("alice")), "{recipients:?}");

    run(Command::new("sha256sum")
        .args(["--strict", "-c"])
        .arg(dump.file(".dump.zst.age.sha256"))
        .current_dir(dump.stem.parent().unwrap()));
    for Key { file, .. } in &keys {
        let archive = unzstd(&age_decrypted(file, &dump.file(".dump.zst.age")));
        let plain = world.path("plain.dump");
        fs::write(&plain, &archive).unwrap();
        let listed = cluster().run(cluster().client("pg_restore").arg("--list").arg(&plain));
        assert!(contains(&listed, "canarytable"));
        let globals = unzstd(&age_decrypted(file, &dump.file("_globals.sql.zst.age")));
        assert!(contains(&globals, "canaryrole") && contains(&globals, "dump complete"));
        let details: Value =
            serde_json::from_slice(&unzstd(&age_decrypted(file, &dump.file(".details.json.zst.age")))).unwrap();
        assert_eq!(details["database"]["name"], "shop");
        fs::remove_file(plain).unwrap();
    }
    has_no_canary(&world.workspace.repository());
    for key in &keys {
        world.read_with(key, &["verify", "--deep"]).succeeds();
    }
    let names: Vec<String> = tree(dump.stem.parent().unwrap());
    assert_eq!(names.len(), 5);
    assert!(names.iter().all(|name| name.contains(".age") || name.ends_with(".manifest.json")), "{names:?}");
}

#[test]
fn verification_without_a_key_says_what_it_can_and_no_more() {
    let (world, keys, dump) = World::dumped(&["ours"]);
    let other = world.key("other");
    world.read(&["verify"]).succeeds();

    let deep = world.read(&["verify", "--deep", "--json"]).exits(11);
    let item = deep.json()["items"][0].clone();
    assert_eq!(
        (&item["status"], &item["findings"].as_array().unwrap().len()),
        (&json!("not_verified"), &1),
        "{item:#}"
    );
    assert!(deep.stderr.contains("--identity-file") && deep.stderr.contains(&keys[0].public), "{}", deep.stderr);
    let wrong = world.read_with(&other, &["verify", "--deep"]).exits(2);
    assert!(wrong.stderr.contains(&keys[0].public), "{}", wrong.transcript());
    world.read_with(&keys[0], &["verify", "--deep"]).succeeds();
    let missing = world.read(&["verify", "--deep", "--identity-file", "/nowhere"]).exits(2);
    assert!(missing.stderr.contains("/nowhere"), "{}", missing.transcript());

    let shown = world.read(&["report", "show", "latest", "-d", "shop", "--json"]).succeeds().json();
    assert_eq!(shown["items"][0]["details"], Value::Null);
    assert!(shown["warnings"][0].as_str().unwrap().contains("is encrypted"), "{}", shown["warnings"]);
    let shown = world.read_with(&keys[0], &["report", "show", "latest", "-d", "shop", "--json"]).succeeds().json();
    assert_eq!(shown["items"][0]["details"]["relations"][0]["name"], "canarytable");
    assert_eq!(shown["items"][0]["manifest"]["id"], dump.id().as_str());
}

#[test]
fn a_restore_needs_the_right_key_before_it_touches_anything() {
    let (world, keys, _) = World::dumped(&["ours"]);
    let (other, before) = (world.key("other"), databases());
    let into = ["restore", "dump", "latest", "-d", "shop", "--analyze", "none", "--into"];
    let words = |name| [&into[..], &[name]].concat();
    let without = world.read(&words("untouched")).exits(2);
    assert!(
        without.stderr.contains("--identity-file") && without.stderr.contains(&keys[0].public),
        "{}",
        without.stderr
    );
    let wrong = world.read_with(&other, &words("untouched")).exits(2);
    assert!(wrong.stderr.contains("no identity that was given opens it"), "{}", wrong.stderr);
    assert!(wrong.stderr.contains(&keys[0].public), "{}", wrong.stderr);
    assert_eq!(databases(), before);

    world.read_with(&keys[0], &words("by_file")).succeeds();
    assert_eq!(cluster().sql("by_file", "SELECT count(*) FROM canaryschema.canarytable"), "3000");
    let to_file = world.path("archive.dump");
    let words = ["restore", "dump", "latest", "-d", "shop", "--to-file", to_file.to_str().unwrap()];
    world.read(&words).exits(2);
    assert!(!to_file.exists());
    world.read_with(&keys[0], &words).succeeds();
    assert!(contains(&cluster().run(cluster().client("pg_restore").arg("--list").arg(&to_file)), "canarytable"));
    has_no_canary(&world.workspace.repository());
}

fn private(path: &Path, content: impl AsRef<[u8]>) {
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(content.as_ref()).unwrap();
}

/// What `age -p` makes of a file, with less work.
fn protected(text: &[u8], passphrase: &str) -> Vec<u8> {
    let mut recipient = age::scrypt::Recipient::new(passphrase.to_owned().into());
    recipient.set_work_factor(4);
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient)).unwrap();
    let mut writer = encryptor.wrap_output(Vec::new()).unwrap();
    writer.write_all(text).unwrap();
    writer.finish().unwrap()
}

#[test]
fn keys_come_from_a_file_the_environment_a_command_and_behind_a_passphrase() {
    let world = World::new();
    let (key, ssh) = (world.key("ours"), world.ssh_key("ed25519", "hunter2"));
    world.dump(&["-d", "shop"], &[&key, &ssh]).run().succeeds();
    let deep = |set: &[(&str, &OsStr)]| {
        let call = world.on(&world.workspace.repository(), &["verify", "--deep"]);
        set.iter().fold(call, |call, (name, value)| call.env(name, value)).run()
    };
    let text = fs::read_to_string(&key.file).unwrap();
    deep(&[("PGKEEP_IDENTITY", text.as_ref())]).succeeds();
    deep(&[("PGKEEP_IDENTITY_FILE", key.file.as_ref())]).succeeds();

    let (locked, passphrase) = (world.path("locked"), world.path("passphrase"));
    private(&locked, protected(text.as_bytes(), "hunter2"));
    private(&passphrase, "hunter2\n");
    let by_locked = |more: &[(&str, &OsStr)]| deep(&[&[("PGKEEP_IDENTITY_FILE", locked.as_os_str())], more].concat());
    let silent = by_locked(&[]).exits(2);
    assert!(silent.stderr.contains("is protected by a passphrase, and none is given"), "{}", silent.stderr);
    by_locked(&[("PGKEEP_PASSPHRASE", "hunter2".as_ref())]).succeeds();
    by_locked(&[("PGKEEP_PASSPHRASE_FILE", passphrase.as_ref())]).succeeds();
    let wrong = by_locked(&[("PGKEEP_PASSPHRASE", "hunter3".as_ref())]).exits(2);
    assert!(
        wrong.stderr.contains("the passphrase is not its own") && !wrong.stderr.contains("hunter"),
        "{}",
        wrong.stderr
    );
    let by_ssh = [("PGKEEP_IDENTITY_FILE", ssh.file.as_os_str()), ("PGKEEP_PASSPHRASE", "hunter2".as_ref())];
    deep(&by_ssh).succeeds();

    fs::set_permissions(&passphrase, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    by_locked(&[("PGKEEP_PASSPHRASE_FILE", passphrase.as_ref())]).exits(9);

    let configured = |lines: &str| {
        let file = world.path("pgkeep.toml");
        let address = world.workspace.repository().display().to_string();
        fs::write(&file, format!("[repository.site]\naddress = \"{address}\"\n{lines}\n")).unwrap();
        world.workspace.pgkeep(["verify", "--deep", "--config"]).arg(&file).run()
    };
    configured(&format!("identity_file = \"{}\"", key.file.display())).succeeds();
    configured(&format!("identity_command = [\"cat\", \"{}\"]", key.file.display())).succeeds();
    configured("identity_command = [\"false\"]").exits(2);
    configured("").exits(11);
    let stray = configured("recipients = [\"age1yubikey1qqq\"]\nidentity_file = \"/nowhere\"").exits(2);
    assert!(stray.stderr.contains("/nowhere"), "{}", stray.stderr);
}

#[test]
fn no_name_of_a_user_is_stored_whatever_fails() {
    let (world, keys, dump) = World::dumped(&["ours"]);
    let repository = world.workspace.repository();
    let cluster = cluster();
    fill(cluster, "canaried");
    let key = &keys[0];

    // A dump that may not read a table, and says so.
    cluster.sql("canaried", "CREATE ROLE canaryrole_poor LOGIN");
    let denied = world.dump(&["-d", "canaried", "-U", "canaryrole_poor", "--no-globals"], &[key]).run();
    assert_ne!(denied.exit_code, Some(0));
    assert!(denied.stderr.contains("canary"), "{}", denied.transcript());
    // A table that stays locked.
    let lock = "LOCK TABLE canaryschema.canarytable IN ACCESS EXCLUSIVE MODE";
    let holder = Holder::of(cluster, "canaried", lock);
    let locked = world.dump(&["-d", "canaried", "--lock-wait", "100ms"], &[key]).run().exits(4);
    assert!(locked.stderr.contains("canarytable"), "{}", locked.transcript());
    drop(holder);
    // A database that is not empty.
    let full = world.read_with(key, &["restore", "dump", "latest", "-d", "shop", "--into", "canaried"]).exits(9);
    assert!(full.stderr.contains("canary"), "{}", full.transcript());
    // Damage that is found.
    flip(&dump.file(".details.json.zst.age"));
    world.read_with(key, &["verify", "--deep"]).exits(6);
    has_no_canary(&repository);

    // Whoever has a key reads what happened; others read when and where.
    let runs = runs_of(&world.workspace, "main");
    let failed: Vec<&Value> = runs.iter().filter(|run| run["status"] == "FAILED").collect();
    assert_eq!(failed.len(), 4, "{runs:#?}");
    for run in &failed {
        assert_eq!((&run["error"], &run["hint"]), (&Value::Null, &Value::Null), "{run:#}");
        assert!(run["exitCode"].as_u64().unwrap() > 0 && run["stage"].is_string(), "{run:#}");
        assert!(run["encrypted"].as_str().unwrap().starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
    }
    let told = world.read(&["report", "runs", "--json"]).succeeds().stdout;
    assert!(!told.contains("canary") && told.contains("encrypted ("), "{told}");
    let told = world.read_with(key, &["report", "runs", "--json"]).succeeds().stdout;
    assert!(told.contains("canarytable") && !told.contains("encrypted ("), "{told}");
    let proofs = repository.join("main/proofs").join(dump.id());
    let proof: Value = serde_json::from_slice(&fs::read(proofs.join(&tree(&proofs)[0])).unwrap()).unwrap();
    assert_eq!((&proof["reason"], &proof["findings"], &proof["verdict"]), (&Value::Null, &json!([]), &json!("failed")));
    let shown = |outcome: Outcome| outcome.json()["items"][0]["repositories"][0]["proofs"][0]["findings"][0].clone();
    let words = ["report", "show", &dump.id(), "--json"];
    assert!(shown(world.read_with(key, &words)).as_str().unwrap().contains("has SHA-256"));
    assert!(shown(world.read(&words)).as_str().unwrap().starts_with("encrypted ("));
}

#[test]
fn damage_of_an_encrypted_object_is_told_with_a_key_and_without() {
    let (world, keys, dump) = World::dumped(&["ours"]);
    let archive = dump.file(".dump.zst.age");
    let globals = dump.file("_globals.sql.zst.age");
    let whole = fs::read(&archive).unwrap();
    let chunk = 64 << 10;
    assert!(whole.len() > chunk + 1000, "{} bytes fill no chunk", whole.len());
    let mut flipped_key = whole.clone();
    flipped_key[60] ^= 1;
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let header = String::from_utf8_lossy(&whole[..1000]).find("\n--- ").unwrap() + 49;
    for (what, bytes) in [
        ("a flipped bit", flipped),
        ("a flipped bit where its key is wrapped", flipped_key),
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("cut after a chunk", whole[..header + 16 + chunk + 16].to_vec()),
        ("empty", Vec::new()),
        ("longer", [&whole[..], b"x"].concat()),
        ("in the place of another", fs::read(&globals).unwrap()),
    ] {
        fs::write(&archive, bytes).unwrap();
        for outcome in [
            world.read(&["verify"]),
            world.read(&["verify", "--deep"]),
            world.read_with(&keys[0], &["verify", "--deep"]),
        ] {
            assert_eq!(outcome.exit_code, Some(6), "{what}: {}", outcome.transcript());
            let step = "use another backup";
            assert!(outcome.stderr.contains(step) || outcome.stdout.contains(step), "{}", outcome.transcript());
        }
        let restored =
            world.read_with(&keys[0], &["restore", "dump", &dump.id(), "--into", "never", "--analyze", "none"]);
        assert_eq!(restored.exit_code, Some(6), "{what}: {}", restored.transcript());
    }
    assert!(!databases().contains("never"), "{}", databases());
    fs::write(&archive, &whole).unwrap();
    world.read_with(&keys[0], &["verify", "--deep"]).succeeds();
    flip(&globals);
    world.read(&["verify"]).exits(6);
}

#[test]
fn a_repository_that_was_encrypted_gets_nothing_in_clear() {
    let (world, keys, _) = World::dumped(&["ours"]);
    let dumps = || tree(&world.workspace.repository().join("main/dumps"));
    let before = dumps();
    for words in [&["-d", "shop"][..], &["-d", "shop", "--instance", "another"], &["-d", "shop", "--dry-run"]] {
        let refused = world.dump(words, &[]).run().exits(9);
        let hint = format!("--recipient {}", keys[0].public);
        assert!(refused.stderr.contains("is encrypted, and this run names no recipient"), "{}", refused.stderr);
        assert!(refused.stderr.contains(&hint), "{}", refused.stderr);
    }
    assert_eq!(dumps(), before);
    assert!(!world.workspace.repository().join("another/dumps").exists());
    // That no night was encrypted is a night that failed.
    let runs = runs_of(&world.workspace, "main");
    assert_eq!(runs.last().map(|run| (&run["status"], &run["stage"])), Some((&json!("FAILED"), &json!("encrypt"))));
    let checked = world.read(&["check"]).exits(13);
    assert!(checked.stdout.contains("no recipient is named: a dump is refused"), "{}", checked.stdout);

    // Recipients change: old backups keep theirs.
    let next = world.key("next");
    world.dump(&["-d", "shop"], &[&next]).run().succeeds();
    world.read_with(&next, &["verify", "latest", "-d", "shop", "--deep"]).succeeds();
    world.read_with(&keys[0], &["verify", "latest", "-d", "shop", "--deep"]).exits(2);
    let both = world.on(&world.workspace.repository(), &["verify", "--all", "--deep"]);
    both.arg("--identity-file").arg(&next.file).arg("--identity-file").arg(&keys[0].file).run().succeeds();
}

#[test]
fn what_cannot_be_encrypted_is_not_stored() {
    let world = World::new();
    let nobody = Key { public: "age1nonsense".to_owned(), file: PathBuf::new() };
    let refused = world.dump(&["-d", "shop"], &[&nobody]).run().exits(2);
    assert!(refused.stderr.contains("age1nonsense"), "{}", refused.stderr);
    let plugin = Key { public: "age1yubikey1qwffq".to_owned(), file: PathBuf::new() };
    let refused = world.dump(&["-d", "shop"], &[&plugin]).run().exits(2);
    assert!(refused.stderr.contains("yubikey"), "{}", refused.stderr);
    let file = world.path("recipients");
    fs::write(&file, "# nobody\n").unwrap();
    world.dump(&["-d", "shop", "--recipients-file", file.to_str().unwrap()], &[]).run().exits(2);
    world.dump(&["-d", "shop", "--dry-run", "--recipients-file", file.to_str().unwrap()], &[]).run().exits(2);
    assert!(!world.workspace.repository().exists() || tree(&world.workspace.repository()).is_empty());

    fs::write(&file, format!("# ours\n{}\n", world.key("ours").public)).unwrap();
    world.dump(&["-d", "shop", "--recipients-file", file.to_str().unwrap()], &[]).run().succeeds();
    has_no_canary(&world.workspace.repository());
}

#[test]
fn each_repository_of_a_run_has_its_own_readers() {
    let world = World::new();
    let (one, two) = (world.key("one"), world.key("two"));
    let [clear, first, second] = ["clear", "first", "second"].map(|name| world.path(name));
    let table = |name: &str, path: &Path, recipients: &str| {
        format!("[repository.{name}]\naddress = \"{}\"\n{recipients}\n", path.display())
    };
    let config = world.path("pgkeep.toml");
    let to = |key: &Key| format!("recipients = [\"{}\"]\nidentity_file = \"{}\"", key.public, key.file.display());
    let tables = table("clear", &clear, "") + &table("first", &first, &to(&one)) + &table("second", &second, &to(&two));
    fs::write(&config, tables).unwrap();
    let call =
        |words: &[&str]| world.workspace.pgkeep(words).arg("--config").arg(&config).connecting_to(cluster()).run();
    call(&["dump", "-d", "shop", "--split", "5M", "--compress", "gzip:0"]).succeeds();
    let stored = |repository: &Path| -> BTreeMap<String, Vec<u8>> {
        let folder = repository.join("main/dumps");
        tree(&folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
    };
    assert!(stored(&clear).keys().all(|name| !name.contains(".age")));
    assert!(stored(&first).keys().all(|name| name.contains(".age") || name.ends_with(".manifest.json")));
    assert!(stored(&first) != stored(&second));
    has_no_canary(&first);
    has_no_canary(&second);
    call(&["verify", "--deep", "--all"]).succeeds();
    let shown = call(&["report", "list", "--json"]).succeeds().json();
    assert_eq!(shown["items"][0]["state"], "good", "{shown:#}");
    // Of three copies any will do.
    for gone in [&clear, &first] {
        let part = tree(&gone.join("main/dumps")).into_iter().find(|name| name.contains(".part0001")).unwrap();
        fs::remove_file(gone.join("main/dumps").join(part)).unwrap();
    }
    call(&["restore", "dump", "latest", "-d", "shop", "--into", "of_the_third", "--analyze", "none"]).succeeds();
    assert_eq!(cluster().sql("of_the_third", "SELECT count(*) FROM canaryschema.canarytable"), "3000");
}

#[test]
fn a_copy_keeps_what_is_encrypted_and_changes_readers_only_with_a_key() {
    let (world, keys, dump) = World::dumped(&["ours"]);
    let other = world.key("other");
    let [same, else_, of_clear] = ["same", "else", "of_clear"].map(|name| world.path(name));
    let copy = |to: &Path, more: &[&str]| {
        let call = world.on(&world.workspace.repository(), &[&["copy", "--missing"], more].concat());
        call.arg("--to").arg(to)
    };
    // For the same readers: byte by byte, and the copy stays closed to others.
    copy(&same, &[]).run().succeeds();
    for object in tree(&world.workspace.repository().join("main/dumps")) {
        let at = |repository: &Path| fs::read(repository.join("main/dumps").join(&object)).unwrap();
        assert!(at(&same) == at(&world.workspace.repository()), "{object}");
    }
    world.on(&same, &["dump", "-d", "shop"]).run().exits(9);

    // For others: only with a key, and then for them alone.
    let to_other = ["--recipient", &other.public];
    let closed = copy(&else_, &to_other).run().exits(2);
    assert!(closed.stderr.contains("--identity-file"), "{}", closed.transcript());
    copy(&else_, &to_other).arg("--identity-file").arg(&other.file).run().exits(2);
    assert_eq!(tree(&else_.join("main/dumps")), [""; 0]);
    let dry = copy(&else_, &to_other).arg("--dry-run").run().exits(2);
    assert!(dry.stderr.contains("--identity-file"), "{}", dry.transcript());
    let copied =
        copy(&else_, &to_other).arg("--identity-file").arg(&keys[0].file).arg("--json").run().succeeds().json();
    let stored = tree(&else_.join("main/dumps")).into_iter().filter(|name| !name.ends_with(".manifest.json"));
    let stored: u64 = stored.map(|name| else_.join("main/dumps").join(name).metadata().unwrap().len()).sum();
    assert_eq!(copied["items"][0]["repositories"][0]["storedBytes"], stored, "{copied:#}");
    world.on(&else_, &["verify", "--deep"]).arg("--identity-file").arg(&other.file).run().succeeds();
    world.on(&else_, &["verify", "--deep"]).arg("--identity-file").arg(&keys[0].file).run().exits(2);
    has_no_canary(&else_);
    let manifest = |repository: &Path| -> Value {
        let name = format!("main/dumps/{}.manifest.json", dump.id());
        serde_json::from_slice(&fs::read(repository.join(name)).unwrap()).unwrap()
    };
    assert_eq!(manifest(&else_)["plain"], dump.manifest["plain"]);
    assert_eq!(manifest(&else_)["encryption"]["recipients"], json!([other.public]));
    // It is one backup in two repositories.
    let both = world.read(&["report", "list", "--json", "--repo", else_.to_str().unwrap()]).succeeds().json();
    assert_eq!((both["items"].as_array().unwrap().len(), &both["items"][0]["state"]), (1, &json!("good")), "{both:#}");

    // What is clear never gets in as it is. Two dumps of one second in two repositories would have one id.
    let second = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let begun = second();
    until("the next second", || second() > begun);
    let clear = world.path("clear");
    world.on(&clear, &["dump", "-d", "shop"]).run().succeeds();
    let clear_copy =
        |to: &Path, more: &[&str]| world.on(&clear, &[&["copy", "--missing"], more].concat()).arg("--to").arg(to).run();
    clear_copy(&same, &["--dry-run"]).exits(9);
    let refused = clear_copy(&same, &[]).exits(9);
    assert!(refused.stderr.contains("is encrypted") && refused.stderr.contains("--recipient"), "{}", refused.stderr);
    clear_copy(&of_clear, &to_other).succeeds();
    has_no_canary(&of_clear);
    world.on(&of_clear, &["verify", "--deep"]).arg("--identity-file").arg(&other.file).run().succeeds();
    assert_eq!(dumps_of(&world.workspace, "main").len(), 1);
}

#[test]
fn check_encrypts_a_probe_and_opens_it_where_it_can() {
    let world = World::new();
    let (key, other) = (world.key("ours"), world.key("other"));
    let check = |more: &[&OsStr]| {
        let call = world.on(&world.workspace.repository(), &["check", "--recipient", &key.public]);
        more.iter().fold(call, Pgkeep::arg).run()
    };
    let told = check(&[]).succeeds().stdout;
    assert!(told.contains("a probe was encrypted to 1 recipient; that a key opens it was not checked"), "{told}");
    let identity = OsStr::new("--identity-file");
    let told = check(&[identity, key.file.as_ref()]).succeeds().stdout;
    assert!(told.contains("the probe was opened again; the key lies on this host"), "{told}");
    let told = check(&[identity, other.file.as_ref()]).exits(13).stdout;
    assert!(told.contains("encryption.identity") && told.contains(&key.public), "{told}");
    let wrong = world.on(&world.workspace.repository(), &["check", "--recipient", "age1x"]).run().exits(13);
    assert!(wrong.stdout.contains("encryption.recipients"), "{}", wrong.stdout);
}

#[test]
fn every_format_is_encrypted() {
    let world = World::new();
    let key = world.key("ours");
    for format in ["directory", "tar", "plain"] {
        world.dump(&["-d", "shop", "--format", format], &[&key]).run().succeeds();
        world.read(&["verify", "latest", "-d", "shop", "--deep"]).exits(11);
        world.read_with(&key, &["verify", "latest", "-d", "shop", "--deep"]).succeeds();
        let dump = dumps_of(&world.workspace, "main").pop().unwrap();
        assert_eq!(dump.manifest["archiveFormat"], format);
        if format != "plain" {
            let listed =
                world.read_with(&key, &["restore", "dump", "latest", "-d", "shop", "--list"]).succeeds().stdout;
            assert!(listed.contains("TABLE canaryschema canarytable"), "{format}: {listed}");
            world.read(&["restore", "dump", "latest", "-d", "shop", "--list"]).exits(2);
        }
        let plain = world.path(format);
        match format {
            "directory" => {
                fs::create_dir(&plain).unwrap();
                let folder = dump.file(".dir");
                for name in tree(&folder) {
                    let member = unzstd(&age_decrypted(&key.file, &folder.join(&name)));
                    fs::write(plain.join(name.strip_suffix(".zst.age").unwrap()), member).unwrap();
                }
            }
            "tar" => fs::write(&plain, unzstd(&age_decrypted(&key.file, &dump.file(".tar.zst.age")))).unwrap(),
            _ => {
                let script = unzstd(&age_decrypted(&key.file, &dump.file(".sql.zst.age")));
                assert!(contains(&script, "CREATE TABLE canaryschema.canarytable"));
                continue;
            }
        }
        let listed = cluster().run(cluster().client("pg_restore").arg("--list").arg(&plain));
        assert!(contains(&listed, "canarytable"), "{format}");
    }
    has_no_canary(&world.workspace.repository());
}
