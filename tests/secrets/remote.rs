//! Repositories elsewhere, whose keys come from everywhere; and the env file, whose log and reports others read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::commands::cluster;
use super::watched::Watched;
use crate::common::pgkeep::{Pgkeep, tree};
use crate::common::rclone;
use crate::common::{Bucket, Weed};

/// Keys of the environment that are another store's go to rclone, which may need them.
const OF_RCLONE: [(&str, &str); 2] = [("rclone", "RCLONE_CONFIG_FAR_PASS"), ("rclone", "RCLONE_CONFIG_PASS")];

/// Where the keys to a bucket are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    Command,
    File,
    Environment,
}

struct Site {
    watched: Watched,
    bucket: Bucket,
    keys: Keys,
    secret: String,
    of_rclone: [String; 2],
}

fn printed(secret: &str) -> String {
    format!(r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{secret}"}}"#, Weed::ACCESS_KEY)
}

impl Site {
    /// A bucket, and a directory behind rclone.
    fn new(keys: Keys) -> Self {
        let mut watched = Watched::new();
        let weed = Weed::shared();
        let bucket = weed.bucket("secrets");
        let secret = watched.search_for("the key of the store", weed.secret_key().to_owned());
        let of_rclone = ["RCLONE_CONFIG_FAR_PASS", "RCLONE_CONFIG_PASS"].map(|name| watched.canary(name));
        let file = watched.keep("keys.json", &printed(&secret));
        let credentials = match keys {
            Keys::Command => {
                format!("credentials_command = [\"{}\"]", watched.printing("credentials", &file).display())
            }
            Keys::File => format!("credentials_file = \"{}\"", file.display()),
            Keys::Environment => String::new(),
        };
        watched.client_programs(cluster());
        watched.tool("rclone", &format!("exec {} \"$@\"", rclone::program().display()));
        let text = format!(
            "[instance.main]\nconninfo = \"host={} port={} user=postgres\"\ndatabases = [\"shop\"]\nbin_dir = \"{}\"\n\
             [repository.cloud]\naddress = \"{}\"\n{credentials}\n[repository.far]\naddress = \"rclone:far:{}\"\n",
            cluster().socket_dir().display(),
            cluster().port(),
            watched.aside("tools").display(),
            weed.address(&bucket),
            watched.workspace.path("far").display()
        );
        watched.keep("pgkeep.toml", &text);
        Self { watched, bucket, keys, secret, of_rclone }
    }

    fn pgkeep(&self, words: &str) -> Pgkeep {
        let mut words: Vec<&str> = words.split_whitespace().collect();
        let config = self.watched.aside("pgkeep.toml");
        words.extend(["--config", config.to_str().unwrap(), "-vvv"]);
        let call = self.watched.pgkeep(&words).env("AWS_EC2_METADATA_DISABLED", "true");
        let call = call.env("RCLONE_CONFIG", "/dev/null").env("RCLONE_CONFIG_FAR_TYPE", "local");
        let [pass, of_the_file] = &self.of_rclone;
        let call = call.env("RCLONE_CONFIG_FAR_PASS", pass).env("RCLONE_CONFIG_PASS", of_the_file);
        match self.keys {
            Keys::Environment => {
                call.env("AWS_ACCESS_KEY_ID", Weed::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", &self.secret)
            }
            _ => call,
        }
    }

    /// What rclone has may be seen by what the user's configuration starts; so may a key of AWS in the environment.
    #[track_caller]
    fn run(&self, words: &str, code: i32) {
        let mut allowed = OF_RCLONE.to_vec();
        allowed.extend(OF_RCLONE.map(|(_, source)| ("credentials", source)));
        if self.keys == Keys::Environment {
            allowed.push(("rclone", "the key of the store"));
        }
        self.watched.run(self.pgkeep(words), code, &allowed);
    }

    #[track_caller]
    fn no_object_has_it(&self) {
        let keys = self.bucket.keys();
        assert!(keys.len() > 5, "{keys:?}");
        for key in keys {
            let object = self.bucket.get(&key).unwrap();
            self.watched.is_not_in(&key, &object);
            if key.ends_with(".zst") {
                self.watched.is_not_in(&key, &zstd::decode_all(&object[..]).unwrap());
            }
        }
    }
}

#[test]
fn the_keys_of_stores_are_shown_by_no_command() {
    for keys in [Keys::Command, Keys::File, Keys::Environment] {
        let site = Site::new(keys);
        site.run("dump", 0);
        site.run("dump --json --format plain --repo cloud", 0);
        let out = |name: &str| site.watched.workspace.path("out").join(name).display().to_string();
        site.run(&format!("restore dump latest --to-file {}", out("shop.dump")), 0);
        if keys == Keys::Command {
            site.run("verify --all --deep --json", 0);
            site.run("copy --missing --to far --repo cloud", 0);
            site.run("report list", 0);
            site.run("report runs --json", 0);
            site.run("check", 0);
        }
        site.no_object_has_it();
        site.run("prune --keep-last 1 --apply", 0);
        let started = site.watched.started();
        assert!(
            started.contains("rclone") && started.contains("credentials") == (keys == Keys::Command),
            "{started:?}"
        );
    }
}

#[test]
fn keys_that_are_refused_are_not_shown_either() {
    for keys in [Keys::Command, Keys::File, Keys::Environment] {
        let mut site = Site::new(keys);
        site.secret = site.watched.canary("the key of the store");
        site.watched.keep("keys.json", &printed(&site.secret));
        for words in ["dump", "report list --json", "verify", "copy --missing --to cloud --repo far", "check --json"] {
            let words = if words.starts_with("copy") { words.to_owned() } else { format!("{words} --repo cloud") };
            let outcome = site.watched.run_to_any_end(
                site.pgkeep(&words),
                &[
                    OF_RCLONE[0],
                    OF_RCLONE[1],
                    ("rclone", "the key of the store"),
                    ("credentials", OF_RCLONE[0].1),
                    ("credentials", OF_RCLONE[1].1),
                ],
            );
            assert_ne!(outcome.exit_code, Some(0), "{words}: {}", outcome.stdout);
        }
        // What is no JSON is not repeated.
        site.watched.keep("keys.json", &site.secret);
        if keys != Keys::Environment {
            site.run("report list --repo cloud", 2);
        }
    }
}

/// Prints what it has been told, as a program with a defect may.
const TALKATIVE: &str =
    "case $1 in version) echo rclone v1.75.2 ;; *) /usr/bin/env | /bin/grep PASS >&2; exit 1 ;; esac";

#[test]
fn what_others_read_of_an_env_file_has_no_secret() {
    let mut watched = Watched::new();
    let (first, second) = (watched.canary("RCLONE_CONFIG_FAR_PASS"), watched.canary("RCLONE_CONFIG_PASS"));
    let role = format!("drop_in_{}", pgkeep::digest::random_hex(8));
    let password = watched.canary("PGPASSWORD");
    cluster().sql("postgres", &format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'"));
    let tools = watched.client_programs(cluster());
    let path = |name: &str| watched.workspace.path(name).display().to_string();
    let port = cluster().port();
    let text = format!(
        "PG_HOST=127.0.0.1\nPG_PORT={port}\nPG_DATABASE=shop\nPG_USER={role}\nPGPASSWORD={password}\nBACKUP_MODE=both\n\
         BACKUP_BASE_DIR={}\nBACKUP_LOG_DIR={}\nBACKUP_UPLOAD_TOOL=rclone\nRCLONE_REMOTE=far\nRCLONE_PATH={}\n\
         RCLONE_CONFIG=/dev/null\nRCLONE_CONFIG_FAR_TYPE=local\nRCLONE_CONFIG_FAR_PASS={first}\n\
         RCLONE_CONFIG_PASS={second}\n",
        path("base"),
        path("log"),
        path("far")
    );
    let env_file = watched.keep("db.env", &text);
    let call = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        let tools = ["--bin-dir", tools.to_str().unwrap()];
        let with_tools = if matches!(words[0], "dump" | "check") { &tools[..] } else { &[] };
        watched.pgkeep(&[&words, with_tools].concat()).env("BACKUP_ENV_FILE", &env_file)
    };
    watched.tool("rclone", &format!("exec {} \"$@\"", rclone::program().display()));
    for words in ["dump -vvv", "dump --json", "verify --all --deep -vvv", "report list --json", "check -vvv"] {
        watched.run(call(words), 0, &OF_RCLONE);
    }
    assert_eq!(tree(&watched.workspace.path("base/reports")).len(), 2);
    // What a program says of its own secrets reaches neither the log nor a report.
    watched.tool("rclone", TALKATIVE);
    let outcome = call("dump").run();
    assert_ne!(outcome.exit_code, Some(0));
    assert!(outcome.stderr.contains("RCLONE_CONFIG_FAR_PASS"), "it was not told on: {}", outcome.transcript());
    let mut for_others = 0;
    for folder in ["log", "base/reports"] {
        for name in tree(&watched.workspace.path(folder)) {
            let path = watched.workspace.path(folder).join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
            watched.is_not_in(&path.display().to_string(), &fs::read(path).unwrap());
            for_others += 1;
        }
    }
    assert!(for_others > 3, "{for_others}");
}
