//! Every command with every source of a secret filled, in success and in failure.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use age::secrecy::ExposeSecret as _;
use pgkeep::digest::random_hex;

use super::watched::Watched;
use crate::common::pgkeep::Pgkeep;
use crate::common::{Cluster, PgVersion};

/// It lives as long as the test binary.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::plain(PgVersion::V15);
        cluster.create_database("shop");
        cluster.sql("shop", "CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g; CREATE TABLE u AS TABLE t");
        cluster
    })
}

/// Where the keys of an encrypted repository are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// `identity_command` and `passphrase_file`.
    Configured,
    /// `PGKEEP_IDENTITY` and `PGKEEP_PASSPHRASE`.
    Environment,
    /// `PGKEEP_IDENTITY_FILE` and `PGKEEP_PASSPHRASE_FILE`.
    EnvironmentFiles,
}

/// A way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `password_command`.
    Direct,
    /// `tunnel` and `password_file`.
    Tunnel,
    /// The password in `conninfo`.
    Conninfo,
}

pub struct Site {
    pub watched: Watched,
    keys: Keys,
    /// Opens everything, without a passphrase.
    pub identity: PathBuf,
    protected: String,
    passphrase: String,
    decoys: Vec<(&'static str, String)>,
}

/// Set for other programs and other servers. Nothing here needs them.
const DECOYS: [&str; 6] = [
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OSS_ACCESS_KEY_SECRET",
    "OSS_SESSION_TOKEN",
    "RCLONE_CONFIG_FAR_PASS",
];

/// Programs of the user's own: keys to clouds are theirs as well as ours, those of PostgreSQL and of pgkeep are not.
pub const OF_OTHERS: [(&str, &str); 12] = [
    ("password", "AWS_SECRET_ACCESS_KEY"),
    ("password", "AWS_SESSION_TOKEN"),
    ("password", "RCLONE_CONFIG_FAR_PASS"),
    ("identity", "AWS_SECRET_ACCESS_KEY"),
    ("identity", "AWS_SESSION_TOKEN"),
    ("identity", "RCLONE_CONFIG_FAR_PASS"),
    ("tunnel", "AWS_SECRET_ACCESS_KEY"),
    ("tunnel", "AWS_SESSION_TOKEN"),
    ("tunnel", "RCLONE_CONFIG_FAR_PASS"),
    ("rclone", "AWS_SECRET_ACCESS_KEY"),
    ("rclone", "AWS_SESSION_TOKEN"),
    ("rclone", "RCLONE_CONFIG_FAR_PASS"),
];

impl Site {
    /// Two encrypted repositories on disk, `disk` and `second`.
    pub fn new(way: Way, keys: Keys) -> Self {
        let mut watched = Watched::new();
        let key = age::x25519::Identity::generate();
        let text = watched.search_for("the age identity", key.to_string().expose_secret().to_owned());
        let passphrase = watched.canary("the passphrase");
        let protected = protected(&text, &passphrase);
        let line = protected.lines().nth(2).unwrap().to_owned();
        watched.search_for("the protected identity", line);
        let decoys = DECOYS.map(|name| (name, watched.canary(name))).to_vec();
        let identity = watched.keep("identity", &format!("{text}\n"));
        watched.keep("protected", &protected);
        watched.keep("passphrase", &format!("{passphrase}\n"));
        for (file, source) in [("home/.pgpass", "~/.pgpass"), ("services", "the service file")] {
            let password = watched.canary(source);
            watched.keep(file, &format!("127.0.0.1:1:*:*:{password}\n[other]\nhost=127.0.0.1\npassword={password}\n"));
        }
        watched.client_programs(cluster());
        watched.printing("identity", &watched.aside("protected"));
        watched.tool("tunnel", &tunnel(&watched));
        let mut site = Self { watched, keys, identity, protected, passphrase, decoys };
        site.configure(way, cluster().port(), &key.to_public().to_string());
        site
    }

    /// A role of its own, whose password stands where `way` has it.
    fn configure(&mut self, way: Way, port: u16, recipient: &str) {
        let password = self.watched.canary("the password of the instance");
        let role = format!("app_{}", random_hex(8));
        cluster().sql("postgres", &format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'"));
        let file = self.watched.keep("password", &format!("{password}\n"));
        let tools = self.watched.aside("tools");
        let (more, setting) = match way {
            Way::Conninfo => (format!(" password='{password}'"), String::new()),
            Way::Tunnel => {
                let tunnel = format!("tunnel = [\"{}/tunnel\", \"{{port}}\", \"{port}\"]", tools.display());
                (String::new(), format!("password_file = \"{}\"\n{tunnel}", file.display()))
            }
            Way::Direct => {
                let program = self.watched.printing("password", &file);
                (String::new(), format!("password_command = [\"{}\"]", program.display()))
            }
        };
        let repository = |name: &str| {
            format!(
                "[repository.{name}]\naddress = \"{}\"\nrecipients = [\"{recipient}\"]\n{}",
                self.watched.workspace.path(name).display(),
                match self.keys {
                    Keys::Configured => format!(
                        "identity_command = [\"{}/identity\"]\npassphrase_file = \"{}\"\n",
                        tools.display(),
                        self.watched.aside("passphrase").display()
                    ),
                    _ => String::new(),
                }
            )
        };
        let text = format!(
            "[instance.main]\nconninfo = \"host=127.0.0.1 port={port} user={role}{more}\"\n{setting}\n\
             databases = [\"shop\"]\nbin_dir = \"{}\"\n{}{}",
            tools.display(),
            repository("disk"),
            repository("second")
        );
        self.watched.keep("pgkeep.toml", &text);
    }

    /// Changes what a file of the user says.
    pub fn edit(&self, name: &str, change: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(self.watched.aside(name)).unwrap();
        self.watched.keep(name, &change(text));
    }

    pub fn pgkeep(&self, words: &str) -> Pgkeep {
        let mut words: Vec<&str> = words.split_whitespace().collect();
        let config = self.watched.aside("pgkeep.toml");
        words.extend(["--config", config.to_str().unwrap(), "-vvv"]);
        let call = self.watched.pgkeep(&words).env("PGSERVICEFILE", self.watched.aside("services"));
        let call = self.decoys.iter().fold(call, |call, (name, value)| call.env(name, value));
        match self.keys {
            Keys::Configured => call,
            Keys::Environment => {
                call.env("PGKEEP_IDENTITY", &self.protected).env("PGKEEP_PASSPHRASE", &self.passphrase)
            }
            Keys::EnvironmentFiles => call
                .env("PGKEEP_IDENTITY_FILE", self.watched.aside("protected"))
                .env("PGKEEP_PASSPHRASE_FILE", self.watched.aside("passphrase")),
        }
    }

    /// A path below which the modes of files are looked at.
    fn out(&self, name: &str) -> String {
        self.watched.workspace.path("out").join(name).display().to_string()
    }

    #[track_caller]
    pub fn run(&self, words: &str, code: i32) -> String {
        self.watched.run(self.pgkeep(words), code, &OF_OTHERS).stderr
    }
}

/// `text` behind a passphrase that takes no time to check.
fn protected(text: &str, passphrase: &str) -> String {
    let mut recipient = age::scrypt::Recipient::new(age::secrecy::SecretString::from(passphrase.to_owned()));
    recipient.set_work_factor(2);
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient)).unwrap();
    let armored = age::armor::ArmoredWriter::wrap_output(Vec::new(), age::armor::Format::AsciiArmor).unwrap();
    let mut writer = encryptor.wrap_output(armored).unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    String::from_utf8(writer.finish().unwrap().finish().unwrap()).unwrap()
}

/// Leads `$1` to the port `$2` of this host.
fn tunnel(watched: &Watched) -> String {
    let kubectl = watched.keep("kubectl.py", include_str!("../common/fleet/kubectl"));
    let path = |name: &str| watched.aside(name).display().to_string();
    format!(
        "echo \"service $2\" >'{servers}'; export SERVERS='{servers}' CALLS='{calls}' DROP='{drop}'\n\
         exec /usr/bin/env python3 '{kubectl}' port-forward service/service \"$1:5432\"",
        servers = path("servers"),
        calls = path("calls"),
        drop = path("drop"),
        kubectl = kubectl.display()
    )
}

/// Every command that a user of these repositories has. With `--json` added every second one.
fn every_command(site: &Site) {
    let run = |words: &str| site.run(words, 0);
    let (dump, log) = (site.out("shop.dump"), site.out("restore.log"));
    let into = |number: u8| format!("copy_{}_{number}", random_hex(8));
    run("dump");
    run("dump --format tar --json");
    run("dump --format directory --jobs 2 --json");
    run(&format!("restore dump latest --into {} --jobs 2 --log {log} --analyze none", into(1)));
    run("dump --format plain");
    run(&format!("restore dump latest --into {} --log {log} --analyze none --repo disk --json", into(2)));
    run(&format!("dump --to-file {dump}"));
    run(&format!("restore dump --from-file {dump} --to-instance main --into {} --log {log}", into(3)));
    run(&format!("restore dump latest --to-file {} --json", site.out("again")));
    let third = format!("{}/", site.watched.workspace.path("third").display());
    run(&format!("copy latest --to {third} --repo disk"));
    run("copy --missing --to second --repo disk --json");
    run("verify --all --deep");
    site.watched.nothing_decodes_to_it(&site.identity);
    run("prune --keep-last 1 --apply --json");
    run("report");
    run("report list --json");
    run("report show latest");
    run("report runs");
    run("check --json");
    site.watched.nothing_decodes_to_it(&site.identity);
}

#[test]
fn a_configured_instance_and_its_keys_show_nothing() {
    let site = Site::new(Way::Direct, Keys::Configured);
    every_command(&site);
    let started = site.watched.started().into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(started, "identity password pg_dump pg_dumpall pg_restore psql vacuumdb");
}

#[test]
fn a_tunnel_and_keys_of_the_environment_show_nothing() {
    let site = Site::new(Way::Tunnel, Keys::Environment);
    every_command(&site);
    let started = site.watched.started().into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(started, "pg_dump pg_dumpall pg_restore psql tunnel vacuumdb");
}

#[test]
fn a_failure_shows_nothing_whatever_is_wrong() {
    for (way, keys) in [(Way::Direct, Keys::Configured), (Way::Conninfo, Keys::EnvironmentFiles)] {
        let mut site = Site::new(way, keys);
        let dump = site.out("shop.dump");
        site.run("dump", 0);
        site.run(&format!("dump --to-file {dump}"), 0);
        let on_the_server = [
            "dump".to_owned(),
            "dump --format directory --jobs 2 --json".to_owned(),
            format!("dump --to-file {dump}.2"),
            format!("restore dump latest --into x --log {}", site.out("log")),
            format!("restore dump --from-file {dump} --to-instance main --into x --json"),
            "check".to_owned(),
        ];
        // The password is another one.
        let (password, wrong) = (site.watched.canary("a wrong password"), site.watched.canary("another"));
        let change = |text: String| match way {
            Way::Conninfo => text.replace(" password='", &format!(" password='{password}")),
            _ => format!("{password}\n"),
        };
        let file = if way == Way::Conninfo { "pgkeep.toml" } else { "password" };
        site.edit(file, change);
        for words in &on_the_server {
            let code = if words.starts_with("check") { 13 } else { 3 };
            let told = site.run(words, code);
            assert!(told.contains("password authentication failed") || code == 13, "{told}");
        }
        // Nobody listens.
        site.edit("pgkeep.toml", |text| text.replace(&format!("port={}", cluster().port()), "port=1"));
        for words in &on_the_server {
            let code = if words.starts_with("check") { 13 } else { 3 };
            site.run(&format!("{words} --connect-retry 0s"), code);
        }
        // The key is another one, and so is what protects it.
        let key = age::x25519::Identity::generate().to_string().expose_secret().to_owned();
        let key = site.watched.search_for("a wrong identity", key);
        site.watched.keep("protected", &protected(&key, &site.passphrase));
        let with_the_key = [
            "verify --all --deep",
            "verify latest --deep --json",
            "restore dump latest --to-file",
            "check --connect-retry 0s",
        ];
        for (round, words) in with_the_key.iter().chain(&with_the_key).enumerate() {
            if round == with_the_key.len() {
                site.watched.keep("passphrase", &format!("{wrong}\n"));
            }
            let words = words.replace("--to-file", &format!("--to-file {}", site.out(&round.to_string())));
            let outcome = site.watched.run_to_any_end(site.pgkeep(&words), &OF_OTHERS);
            assert_ne!(outcome.exit_code, Some(0), "{words}: {}", outcome.stdout);
        }
    }
}
