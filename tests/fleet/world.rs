//! Three servers that can be reached by tunnels alone, and the file that says so.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::common::dumps::until;
use crate::common::pgkeep::Pgkeep;
use crate::common::shapes::databases_of_platform;
use crate::common::{Cluster, PgVersion, Workspace};

/// The instances of `examples/fleet.toml` and their databases.
pub const INSTANCES: [(&str, &[&str]); 3] =
    [("keycloak", &["apikey", "root"]), ("aistore", &["aistore", "lakefs"]), ("cost-server", &["cost_server"])];

pub struct Fleet {
    pub workspace: Workspace,
    /// In the order of the instances.
    pub clusters: Vec<Cluster>,
}

impl Fleet {
    /// As the example has it.
    pub fn new() -> Self {
        Self::with(&INSTANCES)
    }

    /// The example with these servers alone, and with their first databases alone.
    pub fn small(names: &[&str]) -> Self {
        let wanted = INSTANCES.into_iter().filter(|(name, _)| names.contains(name));
        let fleet = Self::with(&wanted.map(|(name, databases)| (name, &databases[..1])).collect::<Vec<_>>());
        fleet.edit(|text| text.replace(", \"root\"]", "]").replace(", \"lakefs\"]", "]"));
        fleet
    }

    fn with(served: &[(&str, &[&str])]) -> Self {
        let start = |(_, databases): &(&str, &[&str])| {
            let cluster = Cluster::plain(PgVersion::V15);
            databases_of_platform(&cluster, databases);
            cluster
        };
        let fleet = Self::of(served.iter().map(start).collect(), |fleet| {
            include_str!("../../examples/fleet.toml")
                .replace("/backups/platform", fleet.workspace.repository().to_str().unwrap())
                .replace("/etc/pgkeep", fleet.workspace.path("").to_str().unwrap().trim_end_matches('/'))
        });
        for (instance, _) in INSTANCES {
            fleet.write(&format!("{instance}.password"), &format!("{}\n", Cluster::PASSWORD));
        }
        let lines = served.iter().zip(&fleet.clusters);
        let lines = lines.map(|((name, _), cluster)| format!("{name}-postgresql {}\n", cluster.port()));
        fleet.write("servers", &lines.collect::<String>());
        fleet
    }

    /// Of these servers, with a file of one's own.
    pub fn of(clusters: Vec<Cluster>, toml: impl FnOnce(&Self) -> String) -> Self {
        let fleet = Self { workspace: Workspace::new(), clusters };
        fs::create_dir(fleet.path("bin")).unwrap();
        crate::common::executable(&fleet.path("bin/kubectl"), include_str!("../common/fleet/kubectl"));
        let text = toml(&fleet);
        fleet.write("fleet.toml", &text);
        fleet
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.workspace.path(name)
    }

    pub fn host(&self) -> String {
        self.clusters[0].socket_dir().display().to_string()
    }

    pub fn port(&self) -> u16 {
        self.clusters[0].port()
    }

    /// Nobody else may read it.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let text = change(fs::read_to_string(self.path("fleet.toml")).unwrap());
        self.write("fleet.toml", &text);
    }

    /// `--config fleet.toml` and these words, with our `kubectl`.
    pub fn pgkeep(&self, words: &str) -> Pgkeep {
        let bin_dir = self.clusters[0].bin_dir();
        let path = format!("{}:{}:/usr/local/bin:/usr/bin:/bin", self.path("bin").display(), bin_dir.display());
        self.workspace
            .pgkeep(words.split_whitespace())
            .arg("--config")
            .arg(self.path("fleet.toml"))
            .env("PATH", path)
            .env("SERVERS", self.path("servers"))
            .env("CALLS", self.path("calls"))
            .env("DROP", self.path("drop"))
            .env("POD_PATH", format!("{}:/usr/bin:/bin", self.path("pod").display()))
    }

    /// `id subject` of every finding.
    pub fn findings(&self, words: &str) -> Vec<String> {
        let document = self.pgkeep(words).run().json();
        let items = document["items"].as_array().unwrap().iter();
        let findings = items.flat_map(|item| item["findings"].as_array().unwrap());
        findings.map(|f| format!("{} {}", f["id"].as_str().unwrap(), f["subject"].as_str().unwrap())).collect()
    }

    /// Makes connections to a service break after so many bytes.
    pub fn drop_after(&self, service: &str, bytes: u64) {
        self.write("drop", &format!("{service} {bytes}\n"));
    }

    /// What `kubectl` was called with, and the names of variables that it had.
    pub fn calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }

    pub fn tunnel_ports(&self) -> BTreeSet<u16> {
        let calls = self.calls();
        let lines = calls.lines().filter_map(|line| line.strip_prefix("port-forward "));
        lines.map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
    }

    /// Processes of our `kubectl` that run.
    pub fn tunnels(&self) -> Vec<String> {
        let kubectl = self.path("bin/kubectl").display().to_string();
        let output = Command::new("ps").args(["-eo", "pid=,args="]).output().unwrap();
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.lines().filter(|line| line.contains(&kubectl)).map(str::to_owned).collect()
    }

    /// One whose parent was killed goes a moment later.
    pub fn no_tunnel_is_left(&self) {
        until("no tunnel is left", || self.tunnels().is_empty());
    }
}
