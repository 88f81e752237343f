//! Every place where the keys to a bucket may stand, keys that change in the middle of a dump, and where the secret shows
//! up: nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use pgkeep::clock::{Clock as _, SystemClock};

use crate::common::dumps::until;
use crate::common::pgkeep::{Pgkeep, tree};
use crate::common::proxy::{Fault, Kind, On};
use crate::common::{Outcome, Weed};
use crate::world::{Place, World};

/// A place where the keys stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Environment,
    Profile,
    Process,
    File,
    Command,
    Oss,
}

const SOURCES: [Source; 6] =
    [Source::Environment, Source::Profile, Source::Process, Source::File, Source::Command, Source::Oss];

fn secret() -> &'static str {
    Weed::shared().secret_key()
}

/// A file for the user alone.
fn keep(path: &Path, text: &str) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_owned()
}

/// As the `credential_process` of AWS prints keys.
fn printed(secret: &str, more: &str) -> String {
    format!(r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{secret}"{more}}}"#, Weed::ACCESS_KEY)
}

fn expiring(at: DateTime<Utc>) -> String {
    format!(r#","Expiration":"{}""#, at.format("%Y-%m-%dT%H:%M:%SZ"))
}

/// A call on a repository that `pgkeep.toml` has under a name, with `setting` for its keys.
fn configured(world: &World, words: &[&str], place: &Place, setting: &str) -> Pgkeep {
    let text = format!("[repository.site]\naddress = \"{}\"\n{setting}\n", place.address());
    let file = keep(&world.workspace.path("pgkeep.toml"), &text);
    world.stranger(words, &[]).arg("--config").arg(file)
}

/// A call whose keys stand in one place, and the file that holds them.
fn call(world: &World, words: &[&str], place: &Place, source: Source) -> (Pgkeep, Option<PathBuf>) {
    let plain = || world.stranger(words, &[&place.address()]);
    let home = |name: &str| world.workspace.path("home").join(name);
    let keys = || keep(&world.workspace.path("keys.json"), &printed(secret(), ""));
    match source {
        Source::Environment => {
            (plain().env("AWS_ACCESS_KEY_ID", Weed::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", secret()), None)
        }
        Source::Oss => {
            (plain().env("OSS_ACCESS_KEY_ID", Weed::ACCESS_KEY).env("OSS_ACCESS_KEY_SECRET", secret()), None)
        }
        Source::Profile => {
            let text =
                format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", Weed::ACCESS_KEY, secret());
            (plain(), Some(keep(&home(".aws/credentials"), &text)))
        }
        Source::Process => {
            let file = keys();
            keep(&home(".aws/config"), &format!("[default]\ncredential_process = cat {}\n", file.display()));
            (plain(), Some(file))
        }
        Source::File => {
            let file = keys();
            (configured(world, words, place, &format!("credentials_file = \"{}\"", file.display())), Some(file))
        }
        Source::Command => {
            let file = keys();
            let setting = format!("credentials_command = [\"cat\", \"{}\"]", file.display());
            (configured(world, words, place, &setting), Some(file))
        }
    }
}

fn shows(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[track_caller]
fn says_nothing(outcome: &Outcome, word: &str) {
    for text in [&outcome.stdout, &outcome.stderr] {
        let line = text.lines().find(|line| line.contains(word));
        assert!(line.is_none(), "{}", line.unwrap_or_default());
    }
}

/// No file of the workspace but the one that the user wrote, and no object.
#[track_caller]
fn is_stored_nowhere(world: &World, place: &Place, except: Option<&Path>) {
    let root = world.workspace.path("");
    for name in tree(&root).into_iter().filter(|name| !name.ends_with('/')) {
        let path = root.join(&name);
        // A temporary file may go while we look.
        let Ok(bytes) = fs::read(&path) else { continue };
        assert!(except == Some(&path) || !shows(&bytes, secret()), "{name}");
    }
    for key in place.keys() {
        assert!(!shows(&place.get(&key), secret()), "{key}");
    }
}

#[test]
fn every_source_lets_us_in_and_none_shows_the_secret() {
    for source in SOURCES {
        let world = World::small();
        let place = if source == Source::Oss { Place::oss() } else { Place::s3() };
        let held = world.hold_in_copy();
        let (dump, file) = call(&world, &["dump", "-d", &world.database, "-vvv", "--json"], &place, source);
        let dump = dump.spawn();
        let pgkeep = dump.id();
        // It says more than a pipe holds.
        let outcome = std::thread::spawn(|| Outcome::wait_for(dump));
        world.until_it_stands();
        for (pid, words) in world.children().into_iter().filter(|(pid, _)| *pid != pgkeep) {
            assert!(!words.contains(secret()), "{source:?}: {words}");
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            assert!(!shows(&environment, secret()), "{source:?}: environment of {words}");
        }
        assert!(!shows(&fs::read(format!("/proc/{pgkeep}/cmdline")).unwrap(), secret()), "{source:?}");
        is_stored_nowhere(&world, &place, file.as_deref());
        drop(held);
        let outcome = outcome.join().unwrap().succeeds();
        says_nothing(&outcome, secret());
        is_stored_nowhere(&world, &place, file.as_deref());
        assert_eq!(place.ids().len(), 1);
        for words in [&["report", "list", "-vvv"][..], &["verify", "-vvv"]] {
            let (call, _) = call(&world, words, &place, source);
            says_nothing(&call.run().succeeds(), secret());
        }
    }
}

#[test]
fn a_failure_shows_neither_secret_nor_token() {
    let (world, place) = (World::small(), Place::s3());
    let (wrong, token) = ("canarysecret0123456789", "canarytoken0123456789");
    for json in [&["--json"][..], &[]] {
        let words = [&["dump", "-d", &world.database, "-vvv"], json].concat();
        let call = world.stranger(&words, &[&place.address()]);
        let call = call.env("AWS_ACCESS_KEY_ID", Weed::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", wrong);
        let outcome = call.env("AWS_SESSION_TOKEN", token).run().exits(5);
        says_nothing(&outcome, wrong);
        says_nothing(&outcome, token);
    }
    // Without any keys it says where they may stand.
    let outcome = world.stranger(&["report", "list"], &[&place.address()]).run().exits(5);
    assert!(outcome.stderr.contains("AWS_ACCESS_KEY_ID"), "{}", outcome.transcript());
    assert!(place.keys().is_empty());
}

#[test]
fn keys_of_a_file_that_end_in_the_middle_are_read_again() {
    for (after, code) in [(secret(), 0), ("taken-back", 5)] {
        let (world, place) = (World::small(), Place::s3());
        let path = world.workspace.path("keys.json");
        keep(&path, &printed(secret(), ""));
        let setting = format!("credentials_file = \"{}\"", path.display());
        configured(&world, &["dump", "-d", &world.database], &place, &setting).run().succeeds();

        let end = SystemClock.now() + TimeDelta::seconds(5);
        keep(&path, &printed(secret(), &expiring(end)));
        let held = world.hold_in_copy();
        let dump = configured(&world, &["dump", "-d", &world.database], &place, &setting).spawn();
        world.until_it_stands();
        keep(&path, &printed(after, ""));
        until("the keys have ended", || SystemClock.now() > end);
        drop(held);
        let outcome = Outcome::wait_for(dump).exits(code);
        assert_eq!(place.ids().len(), if code == 0 { 2 } else { 1 }, "{}", outcome.transcript());
        keep(&path, &printed(secret(), ""));
        configured(&world, &["dump", "-d", &world.database], &place, &setting).run().succeeds();
        place.is_tidy(&Default::default());
        world.restores(&place);
    }
}

#[test]
fn keys_that_the_store_calls_ended_are_asked_for_again() {
    let (world, place) = (World::large(), Place::s3());
    let (keys, runs) = (world.workspace.path("keys.json"), world.workspace.path("runs"));
    let script = format!(
        "echo run >> '{runs}'; if [ \"$(wc -l < '{runs}')\" -gt 1 ]; then cat '{keys}.2'; else cat '{keys}'; fi",
        runs = runs.display(),
        keys = keys.display()
    );
    keep(&keys, &printed(secret(), ""));
    // Other keys, which the server takes as well.
    keep(&world.workspace.path("keys.json.2"), &printed(secret(), r#","SessionToken":"""#));
    let setting = format!("credentials_command = [\"sh\", \"-c\", {script:?}]");
    place.proxy().inject(On::kind(Kind::Part).nth(2), Fault::ExpiredToken);
    configured(&world, &["dump", "-d", &world.database], &place, &setting).run().succeeds();
    assert_eq!(place.proxy().counts().met(Fault::ExpiredToken), 1);
    assert_eq!(fs::read_to_string(runs).unwrap(), "run\nrun\n");
    place.is_tidy(&Default::default());
    world.restores(&place);
}
