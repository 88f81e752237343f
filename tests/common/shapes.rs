//! Databases worth backing up. Each function creates a database of its own; the SQL stands in `shapes/`.

use super::cluster::{Cluster, identifier};

/// The names of the databases that [`platform`] makes.
pub const PLATFORM: [&str; 5] = ["apikey", "root", "aistore", "lakefs", "cost_server"];

/// Databases of a platform as it is deployed: an API key service and an identity server whose tables belong to roles of
/// their own in databases of `postgres`, a tree of nodes, a key-value table in 100 partitions, sums of costs.
pub fn platform(cluster: &Cluster) {
    databases_of_platform(cluster, &PLATFORM);
}

/// Some of them, as each of the platform's servers has its own.
pub fn databases_of_platform(cluster: &Cluster, names: &[&str]) {
    cluster
        .sql("postgres", "CREATE USER security_console WITH PASSWORD 'tensorstack'; CREATE USER keycloak PASSWORD 'x'");
    let scripts = [
        include_str!("shapes/apikey.sql"),
        include_str!("shapes/keycloak.sql"),
        include_str!("shapes/aistore.sql"),
        include_str!("shapes/lakefs.sql"),
        include_str!("shapes/cost_server.sql"),
    ];
    for (database, script) in PLATFORM.into_iter().zip(scripts).filter(|(database, _)| names.contains(database)) {
        cluster.create_database(database);
        cluster.sql(database, script);
    }
}

/// A database with one object of every kind, and the roles it refers to.
///
/// Not in it, because a server or its neighbours would have to be special: subscriptions (a database with one cannot be
/// dropped), tablespaces, languages other than SQL and PL/pgSQL, and extensions (see [`extensions`]).
pub fn torture(cluster: &Cluster, database: &str) {
    cluster.sql("postgres", include_str!("shapes/torture_roles.sql"));
    cluster.create_database(database);
    cluster.sql(database, include_str!("shapes/torture.sql"));
}

/// A database that uses every extension of a known few that this server has, and their names. Never empty: Debian's
/// PostgreSQL 15 has contrib, the PyPI build of 18 has nothing but `vector`; so such a database moves between servers of
/// one version only.
pub fn extensions(cluster: &Cluster, database: &str) -> Vec<&'static str> {
    cluster.create_database(database);
    cluster.sql(database, "CREATE SCHEMA \"ext; schema\"");
    let known = [
        ("hstore", "SELECT n, ('k' || n || '=>v')::\"ext; schema\".hstore AS v FROM generate_series(1, 9) n"),
        ("pg_trgm", "SELECT n, 'word' || n AS v FROM generate_series(1, 9) n"),
        ("citext", "SELECT n, ('Word' || n)::\"ext; schema\".citext AS v FROM generate_series(1, 9) n"),
        ("vector", "SELECT n, ('[1,2,' || n || ']')::\"ext; schema\".vector AS v FROM generate_series(1, 9) n"),
    ];
    let available = cluster.sql(database, "SELECT name FROM pg_available_extensions");
    let used: Vec<_> = known.into_iter().filter(|(name, _)| available.lines().any(|line| line == *name)).collect();
    assert!(!used.is_empty(), "this server has no extension to test with:\n{available}");
    for (name, rows) in &used {
        cluster.sql(database, &format!("CREATE EXTENSION {name} SCHEMA \"ext; schema\""));
        cluster.sql(database, &format!("CREATE TABLE {} AS {rows}", identifier(&format!("uses {name}"))));
    }
    if used.iter().any(|(name, _)| *name == "pg_trgm") {
        let trigram = "CREATE INDEX ON \"uses pg_trgm\" USING gin (v \"ext; schema\".gin_trgm_ops)";
        cluster.sql(database, trigram);
    }
    used.into_iter().map(|(name, _)| name).collect()
}

/// A database that nobody has put anything into.
pub fn empty(cluster: &Cluster, database: &str) {
    cluster.create_database(database);
}

/// Names that a database may have and that a program may mistake for something else.
///
/// é stands here in one code point and in two, and one name has the 63 bytes that a name can have.
pub const NASTY_NAMES: [&str; 28] = [
    "we ird/..;$(x)\"'",
    "-rf",
    "--help",
    "a=b",
    "host=evil",
    "dbname=postgres",
    "postgresql://evil/",
    ".",
    "..",
    ".hidden",
    "../../etc/passwd",
    "a/b",
    "a_b",
    "a%2Fb",
    "100%",
    "tab\there",
    "back\\slash",
    " spaces around ",
    "*?[a]~",
    "con",
    "select",
    "Case",
    "case",
    "🐘 größe 数据库",
    "caf\u{e9}",
    "cafe\u{301}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u{1b}[31mred",
];

/// Names that `pg_dump -Fc` dumps and that no script can name: `pg_dump -C` and `pg_dumpall` refuse them.
pub const BREAKING_NAMES: [&str; 2] = ["line\nbreak", "carriage\rreturn"];
