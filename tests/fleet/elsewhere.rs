//! Client programs in the server's "pod": another environment, other files, and a password that is in no argument.

use std::fs;

use super::world::Fleet;
use crate::common::dumps::only_dump;
use crate::common::equality::{Snapshot, assert_equal};
use crate::common::{Cluster, PgVersion};

/// A server by its TCP port, whose client programs are in a pod.
fn fleet(prefix: &str) -> Fleet {
    let cluster = Cluster::plain(PgVersion::V15);
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE ROLE clerk LOGIN PASSWORD 'x'; CREATE TABLE t AS SELECT generate_series(1, 5000) AS n");
    cluster.sql("shop", "ALTER TABLE t OWNER TO clerk");
    let fleet = Fleet::of(vec![cluster], |world| {
        format!(
            "[repository.disk]\naddress = \"{}\"\n[instance.main]\nconninfo = \"host=127.0.0.1 port={} user=postgres\"\n\
             password_command = [\"cat\", \"{}\"]\ndatabases = [\"shop\"]\nbin_prefix = {prefix}\n",
            world.workspace.repository().display(),
            world.port(),
            world.path("password").display()
        )
    });
    fleet.write("password", &format!("{}\n", Cluster::PASSWORD));
    fs::create_dir(fleet.path("pod")).unwrap();
    for program in ["pg_dump", "pg_dumpall", "pg_restore", "psql", "vacuumdb"] {
        let real = fleet.clusters[0].bin_dir().join(program);
        let wrapper = format!(
            "#!/bin/sh\n[ \"$IN_POD\" = yes ] || exit 9\n\
             for name in PGPASSWORD PGPASSFILE PGSERVICE HOME KUBECONFIG; do\n\
             eval \"[ -z \\\"\\${{$name+x}}\\\" ]\" || echo {program} $name >>{seen}\ndone\nexec {real} \"$@\"\n",
            seen = fleet.path("seen").display(),
            real = real.display()
        );
        crate::common::executable(&fleet.path(&format!("pod/{program}")), &wrapper);
    }
    fleet
}

const POD: &str = "[\"kubectl\", \"exec\", \"-i\", \"main-0\", \"--\"]";

#[test]
fn client_programs_run_in_the_pod_and_are_told_the_password_alone() {
    let fleet = fleet(POD);
    fleet.pgkeep("dump").run().succeeds();
    let dump = only_dump(&fleet.workspace);
    assert_eq!(dump.manifest["client"]["program"], "pg_dump");
    assert_eq!(dump.manifest["globals"]["included"], "with_passwords");
    fleet.pgkeep("restore dump latest -d shop --into copy").run().succeeds();
    assert_equal(&Snapshot::of(&fleet.clusters[0], "shop"), &Snapshot::of(&fleet.clusters[0], "copy"));

    let seen = fs::read_to_string(fleet.path("seen")).unwrap();
    for program in ["pg_dump", "pg_dumpall", "pg_restore", "psql", "vacuumdb"] {
        assert!(seen.contains(&format!("{program} PGPASSWORD\n")), "{seen}");
    }
    assert!(seen.lines().all(|line| line.ends_with(" PGPASSWORD")), "{seen}");
    let calls = fleet.calls();
    assert!(calls.contains("pg_dump --no-password") && !calls.contains(Cluster::PASSWORD), "{calls}");
    let variables: Vec<&str> = calls.lines().filter(|line| line.starts_with("variables ")).collect();
    assert!(!variables.is_empty() && variables.iter().all(|line| !line.contains(" PG")), "{variables:?}");
    let check = fleet.pgkeep("check").run().succeeds();
    assert!(check.stdout.contains("is dumped with pg_dump 15"), "{}", check.transcript());
    let outcome = fleet.pgkeep("dump --format directory").run().exits(2);
    assert!(outcome.stderr.contains("bin_prefix and --format directory"), "{}", outcome.transcript());
    // Workers open an archive by its name, which it does not have there.
    let outcome = fleet.pgkeep("restore dump latest -d shop --into other --jobs 2").run().exits(2);
    assert!(outcome.stderr.contains("--jobs"), "{}", outcome.transcript());
    assert_eq!(fleet.clusters[0].databases(), ["copy", "postgres", "shop"]);
}

#[test]
fn a_prefix_that_does_not_work_is_named_with_what_it_said() {
    let no_input = fleet("[\"kubectl\", \"exec\", \"main-0\", \"--\"]");
    let outcome = no_input.pgkeep("dump").run().exits(4);
    assert!(
        outcome.stderr.contains("does bin_prefix pass it on, as kubectl exec -i does?"),
        "{}",
        outcome.transcript()
    );
    let gone = fleet("[\"sh\", \"-c\", \"echo no such pod >&2; exit 7\"]");
    let outcome = gone.pgkeep("dump").run().exits(12);
    assert!(outcome.stderr.contains("no such pod"), "{}", outcome.transcript());
    gone.edit(|text| text.replace("\"sh\"", "\"no-such-program\""));
    let outcome = gone.pgkeep("dump").run().exits(12);
    assert!(outcome.stderr.contains("Missing command: no-such-program"), "{}", outcome.transcript());
}
