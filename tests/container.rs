//! In a container the program that was started is process 1.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::Command;

use pgkeep::process::Program;

#[test]
fn process_1_can_have_children() {
    if std::process::id() == 1 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (output, exit) =
            runtime.block_on(Program::new("/bin/echo", BTreeMap::new()).arg("here").output(100)).unwrap();
        assert!(exit.success());
        assert_eq!(output, b"here\n");
        return;
    }
    // This test once more, as the first process of a new pid namespace.
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]);
    let output = unshare
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "process_1_can_have_children"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
