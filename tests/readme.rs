//! The README's commands, run one after the other as they stand there.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, PgVersion, Workspace};

/// Every `pgkeep …` of the README that is whole: a line of a console, or a cell of a table.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let console = |line: &str| line.strip_prefix("$ ").map(str::to_owned);
    let cell = |line: &str| Some(line.strip_prefix("| ")?.split('`').nth(1)?.to_owned());
    let found = readme.lines().filter_map(|line| console(line).or_else(|| cell(line)));
    found.filter(|command| command.starts_with("pgkeep ") && command.contains("--repo")).collect()
}

#[test]
fn the_commands_of_the_readme_work() {
    let (here, there) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    here.create_database("shop");
    here.sql("shop", "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders SELECT generate_series(1, 1000)");
    there.create_database("crm");
    let workspace = Workspace::new();
    let elsewhere = |command: &str| {
        let socket = there.socket_dir().display();
        command
            .replace("/backups", workspace.repository().to_str().unwrap())
            .replace("-h db2", &format!("-h {socket} -p {}", there.port()))
            .replace("new.example.com", &format!("/?host={socket}&port={}", there.port()))
    };
    let commands = commands();
    assert!(commands.len() >= 14, "{commands:#?}");
    for command in &commands {
        // The one line that stands twice; a database that holds something is not restored over.
        if command.contains("--into shop_copy") {
            here.sql("postgres", "DROP DATABASE IF EXISTS shop_copy");
        }
        let typed = elsewhere(command);
        let words = typed.split_whitespace().skip(1);
        workspace.pgkeep(words).connecting_to(&here).run().succeeds();
    }
    assert_eq!(here.sql("shop_copy", "SELECT count(*) FROM orders"), "1000");
    assert_eq!(there.sql("shop", "SELECT count(*) FROM orders"), "1000");
    assert!(workspace.path("shop.dump").exists());
}
