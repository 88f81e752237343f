//! What leads to client programs elsewhere is told the password, and may show what it is told.

use super::commands::cluster;
use super::watched::Watched;
use crate::common::pgkeep::{Pgkeep, tree};

/// An instance behind a prefix that copies its standard input to `copied_to`.
fn site(copied_to: &str) -> Watched {
    let mut watched = Watched::new();
    let password = watched.canary("password_file");
    let role = format!("pod_{}", pgkeep::digest::random_hex(8));
    cluster().sql("postgres", &format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'"));
    let file = watched.keep("password", &password);
    let path = format!("{}:/usr/bin:/bin", cluster().bin_dir().display());
    let prefix = watched.tool("pod", &format!("exec 3>&1; tee {copied_to} | /usr/bin/env -i PATH={path} \"$@\""));
    let text = format!(
        "[repository.disk]\naddress = \"{}\"\n[instance.main]\nconninfo = \"host=127.0.0.1 port={} user={role}\"\n\
         password_file = \"{}\"\ndatabases = [\"shop\"]\nbin_prefix = [\"{}\"]\n",
        watched.workspace.path("disk").display(),
        cluster().port(),
        file.display(),
        prefix.display()
    );
    watched.keep("pgkeep.toml", &text);
    watched
}

fn call(watched: &Watched, words: &str) -> Pgkeep {
    let words: Vec<&str> = words.split_whitespace().collect();
    watched.pgkeep(&words).arg("-vvv").arg("--config").arg(watched.aside("pgkeep.toml"))
}

#[test]
fn a_prefix_that_shows_what_it_passes_on_shows_no_password() {
    let watched = site("/dev/stderr");
    for words in ["dump", "dump --format plain --json", "check"] {
        let outcome = watched.run(call(&watched, words), 0, &[]);
        let told = outcome.stderr.contains("PGPASSWORD=**redacted**");
        assert!(told || words == "check", "it did not show it: {}", outcome.transcript());
    }
    let failing = call(&watched, "restore dump latest --into shop --into-existing");
    assert_ne!(watched.run_to_any_end(failing, &[]).exit_code, Some(0));
}

#[test]
fn a_terminal_that_echoes_is_no_dump() {
    let watched = site("/dev/fd/3");
    for words in ["dump", "dump --format plain --no-globals", "dump --format tar --no-globals", "dump --json"] {
        assert_ne!(watched.run_to_any_end(call(&watched, words), &[]).exit_code, Some(0), "{words}");
    }
    let kept = tree(&watched.workspace.path("disk"));
    assert!(!kept.iter().any(|name| name.contains("manifest")), "{kept:?}");
}
