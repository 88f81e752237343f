//! What a caller reads when nothing began: one JSON document in every case, and a manual without mistakes.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::Workspace;

/// Starved of descriptors the program comes to all kinds of ends, panics among them.
#[test]
fn a_starved_program_still_prints_its_document() {
    let workspace = Workspace::new();
    let mut told = 0;
    for most in 3..20 {
        let mut ours = workspace.pgkeep(["report", "--json", "--repo", "./none"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")]).env_clear();
        shell.arg(ours.command().get_program()).args(ours.command().get_args());
        shell.env("PGKEEP_STATE_DIR", workspace.state()).env("HOME", "/nonexistent").current_dir(workspace.path(""));
        let output = shell.output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stdout.is_empty() && stderr.contains("error while loading shared libraries") {
            continue;
        }
        let document: serde_json::Value =
            serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{most}: {error}\n{stdout}\n{stderr}"));
        assert_eq!(document["exitCode"].as_i64().unwrap(), i64::from(output.status.code().unwrap()), "{document}");
        assert!(document["error"]["message"].is_string(), "{document}");
        told += 1;
    }
    assert!(told > 10, "{told}");
}

#[test]
fn a_usage_error_is_a_document_without_secrets() {
    let workspace = Workspace::new();
    for line in
        ["--json", "--json restore", "dump --json postgresql://u:hunter2@h/db", "dump postgresql://u:hunter2@h/db"]
    {
        let outcome = workspace.pgkeep(line.split(' ')).run().exits(2);
        assert!(!outcome.stdout.contains("hunter2") && !outcome.stderr.contains("hunter2"), "{}", outcome.transcript());
        if line.contains("--json") {
            assert_eq!(outcome.json()["error"]["kind"], "usage");
        }
    }
}

#[test]
fn the_manual_knows_every_flag_and_formats_without_warnings() {
    let workspace = Workspace::new();
    let page = workspace.pgkeep(["man"]).run().succeeds().stdout;
    // In a verb -h is the host; a page made of an unfinished tree has it as help.
    assert!(page.contains("\\fB\\-h\\fR, \\fB\\-\\-host\\fR") && !page.contains("\\fB\\-h\\fR, \\fB\\-\\-help\\fR"));
    std::fs::write(workspace.path("pgkeep.1"), &page).unwrap();
    let Ok(formatted) = Command::new("groff").args(["-man", "-ww", "-z"]).arg(workspace.path("pgkeep.1")).output()
    else {
        eprintln!("skipped: no groff");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&formatted.stderr), "");
}
