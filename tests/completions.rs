//! What a shell is offered for an id, asked of a real bash and of the engine behind the other shells.

mod common;

use std::path::Path;
use std::process::Command;

use common::pgkeep::tree;
use common::stored::{copy_tree, ids, object, shop_ids};
use common::{Stored, Workspace};

/// Completes the last word of a line in bash, as the registered function does it.
fn bash(workspace: &Workspace, words: &[&str]) -> Vec<String> {
    bash_with(workspace, words, &[])
}

fn bash_with(workspace: &Workspace, words: &[&str], variables: &[(&str, &Path)]) -> Vec<String> {
    let program = Path::new(env!("CARGO_BIN_EXE_pgkeep"));
    let script = r#"
        set -u
        source <(pgkeep completions bash)
        COMP_WORDS=(pgkeep "$@") COMP_CWORD=$# COMP_TYPE=9 COMPREPLY=()
        complete -p pgkeep >/dev/null || exit 1
        _clap_complete_pgkeep pgkeep "${COMP_WORDS[COMP_CWORD]}" ""
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut path = program.parent().unwrap().as_os_str().to_owned();
    path.push(":/usr/bin:/bin");
    let output = Command::new("bash")
        .args(["--norc", "-c", script, "bash"])
        .args(words)
        .env_clear()
        .env("PATH", path)
        .env("HOME", workspace.path("home"))
        .env("PGKEEP_STATE_DIR", workspace.path("no-state"))
        .envs(variables.iter().copied())
        .current_dir(workspace.path(""))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Outside of a completion bash says that of compopt; nothing else may be said.
    let said: Vec<&str> = stderr.lines().filter(|line| !line.contains("compopt")).collect();
    assert!(said.is_empty(), "{words:?}: {stderr}");
    assert!(!workspace.path("no-state").exists(), "completion made state");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_is_offered_the_ids_of_the_repository_on_the_line() {
    let workspace = Stored::get().copy();
    let repository = workspace.repository();
    let repository = repository.to_str().unwrap();
    let shop = shop_ids(&workspace);
    let before = tree(&workspace.repository());

    let offered = bash(&workspace, &["verify", "--repo", repository, ""]);
    assert_eq!(offered[0], "latest", "{offered:?}");
    assert!(ids(&workspace).iter().all(|id| offered.contains(id)), "{offered:?}");
    let newest_first = [shop[1].clone(), shop[0].clone()];
    for line in [
        vec!["verify", "--repo", repository, "shop_"],
        vec!["report", "show", "--repo", repository, "shop_"],
        vec!["restore", "dump", "--repo", repository, "shop_"],
        vec!["--repo", repository, "verify", "--deep", "shop_"],
    ] {
        assert_eq!(bash(&workspace, &line), newest_first, "{line:?}");
    }
    let quoted = format!("'{repository}'");
    assert_eq!(bash(&workspace, &["verify", "--repo", &quoted, &shop[0]]), [shop[0].clone()]);
    assert_eq!(tree(&workspace.repository()), before, "completion changed the repository");
}

#[test]
fn the_ids_of_several_repositories_are_offered_once() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    let (first, second) = (workspace.repository(), workspace.path("second"));
    copy_tree(&first, &second);
    std::fs::remove_file(object(&workspace, &shop[1], ".manifest.json")).unwrap();
    let [first, second] = [&first, &second].map(|path| path.to_str().unwrap());
    let newest_first = [shop[1].clone(), shop[0].clone()];
    assert_eq!(bash(&workspace, &["verify", "--repo", first, "--repo", second, "shop_"]), newest_first);
    assert_eq!(bash(&workspace, &["verify", "--repo", first, "shop_"]), newest_first[1..]);
    assert_eq!(bash(&workspace, &["verify", "--repo", "/nowhere", "--repo", second, "shop_"]), newest_first);
    assert_eq!(bash(&workspace, &["verify", &format!("--repo={second}"), "shop_"]), newest_first);
}

#[test]
fn the_ids_of_what_is_configured_are_offered() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    let newest_first = [shop[1].clone(), shop[0].clone()];
    let file = workspace.path("pgkeep.toml");
    let text = format!("[repository.site]\naddress = {:?}\n", workspace.repository().display().to_string());
    std::fs::write(&file, text).unwrap();
    let config = file.to_str().unwrap();
    assert_eq!(bash(&workspace, &["--config", config, "verify", "shop_"]), newest_first);
    assert_eq!(bash(&workspace, &["--config", config, "verify", "--repo", "site", "shop_"]), newest_first);
    assert_eq!(bash_with(&workspace, &["verify", "shop_"], &[("PGKEEP_CONFIG", &file)]), newest_first);
    // By an env file: the same files, as they lie there.
    std::fs::create_dir(workspace.path("base")).unwrap();
    copy_tree(&workspace.repository().join("main/dumps"), &workspace.path("base/data"));
    let env_file = workspace.path("db.env");
    let base = workspace.path("base").display().to_string();
    let text = format!("PG_HOST=h\nPG_DATABASE=shop\nPG_USER=u\nBACKUP_MODE=local\nBACKUP_BASE_DIR={base}\n");
    std::fs::write(&env_file, text).unwrap();
    std::fs::set_permissions(&env_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(bash_with(&workspace, &["verify", "shop_"], &[("BACKUP_ENV_FILE", &env_file)]), newest_first);
}

#[test]
fn where_nothing_can_be_asked_nothing_is_said() {
    let workspace = Workspace::new();
    assert_eq!(bash(&workspace, &["verify", "--repo", "/nowhere/at/all", "x"]), [""]);
    assert_eq!(bash(&workspace, &["verify", "--repo", "s3://bucket", "lat"]), ["latest"]);
    assert_eq!(bash(&workspace, &["verify", "lat"]), ["latest"]);
    assert_eq!(bash(&workspace, &["ver"]), ["verify"]);
}

#[test]
fn every_shell_has_a_script_and_an_unknown_one_is_refused() {
    let workspace = Workspace::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = workspace.pgkeep(["completions", shell]).run().succeeds().stdout;
        assert!(script.contains("PGKEEP_COMPLETE"), "{shell}: {script}");
    }
    workspace.pgkeep(["completions", "tcsh"]).run().exits(2);
    assert!(tree(&workspace.state()).is_empty());
}
