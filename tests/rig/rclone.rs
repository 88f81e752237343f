//! rclone finds its remotes in the environment, and the SFTP server is one.

use crate::common::dumps::until;
use crate::common::kept::is_running;
use crate::common::rclone::{Remotes, SftpServer};

#[test]
fn a_file_goes_to_a_local_remote_and_by_sftp_and_comes_back() {
    let server = SftpServer::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sent"), "12345").unwrap();
    let remotes = Remotes::none().local("here").sftp("there", &server);
    let run = |arguments: &[&str]| {
        let output = remotes.rclone(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let here = |name: &str| format!("here:{}/{name}", folder.path().display());
    run(&["copyto", &here("sent"), "there:deep/received"]);
    assert_eq!(std::fs::read_to_string(server.files().join("deep/received")).unwrap(), "12345");
    run(&["copyto", "there:deep/received", &here("returned")]);
    assert_eq!(std::fs::read_to_string(folder.path().join("returned")).unwrap(), "12345");
    assert_eq!(run(&["listremotes"]), "here:\nthere:\n");
}

#[test]
fn who_does_not_know_the_password_is_not_let_in_and_a_dropped_server_is_gone() {
    let (server, other) = (SftpServer::start(), SftpServer::start());
    assert_ne!(server.password(), other.password());
    let with_password_of = |whose: &SftpServer| {
        let mut rclone = Remotes::none().sftp("x", &server).rclone(&["lsf", "x:", "--retries", "1"]);
        let remotes = Remotes::none().sftp("x", whose);
        let (name, password) = remotes.environment().iter().find(|(name, _)| name.ends_with("_PASS")).unwrap();
        rclone.env(name, password).output().unwrap()
    };
    assert!(with_password_of(&server).status.success());
    let refused = with_password_of(&other);
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && complaint.contains("unable to authenticate"), "{complaint}");

    let (pid, files) = (server.pid(), server.files());
    drop(server);
    until("the server is gone", || !is_running(pid) && !files.exists());
}
