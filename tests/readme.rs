//! The README's commands, run one after the other as they stand there; and that what the documents point to and show is
//! there and understood.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Cluster, PgVersion, Workspace};
use pgkeep::storage::Address;

/// The README and the pages of ops/docs, with their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = std::fs::read_dir(root.join("ops/docs")).unwrap().map(|entry| entry.unwrap().path());
    let paths = pages.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    paths.chain([root.join("README.md")]).map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// `## The least rights` as it stands behind the `#` of a link.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches(['#', ' ']));
    let kept = |c: char| c.is_alphanumeric() || " -_".contains(c);
    headings.map(|heading| heading.to_lowercase().replace(|c| !kept(c), "").replace(' ', "-")).collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut count = 0;
    for (path, text) in documents() {
        let links = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                assert!(anchors(&text).iter().any(|known| known == anchor), "{}: {link}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn every_address_and_every_json_of_the_documents_is_understood() {
    let (mut addresses, mut documents_of_json) = (0, 0);
    for (path, text) in documents() {
        let spans = text.split(['`', '\'', ' ', '\n']).filter(|span| !span.contains(['…', '|']));
        let is_address = |span: &&str| {
            ["s3://", "oss://", "rclone:"].iter().any(|kind| span.len() > kind.len() && span.starts_with(kind))
        };
        for address in spans.filter(is_address).filter(|span| !span.contains("BUCKET") && !span.contains("REMOTE")) {
            Address::parse(address).unwrap_or_else(|error| panic!("{}: {address}: {error}", path.display()));
            addresses += 1;
        }
        for block in text.split("```json\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)) {
            let read: Result<serde_json::Value, _> = serde_json::from_str(block);
            read.unwrap_or_else(|error| panic!("{}: {error}\n{block}", path.display()));
            documents_of_json += 1;
        }
    }
    assert!(addresses > 10 && documents_of_json >= 4, "{addresses} {documents_of_json}");
}

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
    let recipients = workspace.path("recipients");
    std::fs::write(&recipients, "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj\n").unwrap();
    let elsewhere = |command: &str| {
        let socket = there.socket_dir().display();
        command
            .replace("/backups", workspace.repository().to_str().unwrap())
            .replace("/sealed", workspace.path("sealed").to_str().unwrap())
            .replace("/etc/pgkeep/recipients", recipients.to_str().unwrap())
            .replace("/mnt/second", workspace.path("second").to_str().unwrap())
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
