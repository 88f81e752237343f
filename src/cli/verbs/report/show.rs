//! One backup, in sections.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pgkeep::command::Outcome;
use pgkeep::command::report::{ProofLine, Shown, ShownCopy};
use pgkeep::repo::{DumpDetails, GlobalsIncluded};

use crate::cli::output::{age, bytes, harmless, table};

/// How many of the largest relations are listed.
const LARGEST: usize = 10;

pub fn text(outcome: &Outcome<Shown>) -> String {
    outcome.items.iter().map(shown_text).collect()
}

fn shown_text(shown: &Shown) -> String {
    let mut text = section("backup", &backup(shown));
    text += &section("source", &source(shown));
    text += &section("proven", &proven(shown));
    text += &shown.repositories.iter().map(|copy| section("copy", &copy_lines(copy))).collect::<String>();
    text += &objects(shown);
    if let Some(details) = &shown.details {
        text += &section("database", &database(details));
        text += &relations(details);
        text += &list("roles", details.description.roles.iter().cloned());
        text += &list("settings", details.description.settings.iter().map(setting));
        let extensions = details.description.extensions.iter();
        text += &list("extensions", extensions.map(|e| format!("{} {} in schema {}", e.name, e.version, e.schema)));
        text += &list("pg_dump said", details.warnings.iter().cloned());
    }
    text
}

type Lines = Vec<(&'static str, String)>;

fn section(name: &str, lines: &Lines) -> String {
    let head = format!("{name}\n");
    lines.iter().fold(head, |text, (name, value)| text + &format!("  {name:<18}  {}\n", harmless(value)))
}

fn list(name: &str, items: impl Iterator<Item = String>) -> String {
    let lines: String = items.map(|item| format!("  {}\n", harmless(&item))).collect();
    if lines.is_empty() { String::new() } else { format!("{name}\n{lines}") }
}

fn archive_text(shown: &Shown) -> String {
    let (format, size) = (shown.manifest.archive_format.as_str(), bytes(shown.summary.plain_bytes));
    match &shown.manifest.archive_version {
        Some(version) => format!("{size}, {format} format, version {version}"),
        None => format!("{size}, {format} format"),
    }
}

fn backup(shown: &Shown) -> Lines {
    let (manifest, summary) = (&shown.manifest, &shown.summary);
    let state = shown.state.as_str();
    let mut lines = vec![
        ("id", manifest.id.to_string()),
        ("state", shown.reason.as_ref().map_or(state.to_owned(), |reason| format!("{state}: {reason}"))),
        ("database", manifest.database.clone()),
        ("instance", manifest.instance.to_string()),
        ("taken", format!("{} ({} ago)", summary.started_at, age(summary.age_seconds))),
        ("finished", format!("{} ({:.1} s)", summary.finished_at, summary.duration_seconds)),
        ("archive", archive_text(shown)),
        ("stored", format!("{} ({:.1} : 1)", bytes(summary.stored_bytes), summary.ratio)),
        ("compression", manifest.compression.to_string()),
        ("made by", format!("pgkeep {} on {}", manifest.pgkeep_version, manifest.backup_host)),
    ];
    lines.extend(manifest.label.iter().map(|label| ("label", label.clone())));
    lines.extend(manifest.keep.iter().map(|keep| ("kept", keep.to_string())));
    lines.extend(choice(shown).map(|choice| ("choice", choice)));
    lines
}

/// The options that chose what is in it, where they can be read.
fn choice(shown: &Shown) -> Option<String> {
    let filter = shown.manifest.filter.as_ref()?;
    let words = shown.details.iter().flat_map(|details| &details.choice);
    Some(words.fold(format!("{filter}:"), |text, word| text + " " + word).trim_end_matches(':').to_owned())
}

fn source(shown: &Shown) -> Lines {
    let manifest = &shown.manifest;
    let unknown = || "unknown".to_owned();
    vec![
        ("server", format!("{} port {}", manifest.source.host, manifest.source.port)),
        ("PostgreSQL", manifest.server.text.clone()),
        ("system identifier", manifest.system_identifier.map_or_else(unknown, |id| id.to_string())),
        ("database size", manifest.database_size_bytes.map_or_else(unknown, bytes)),
        ("client", format!("{} ({})", manifest.client.version, manifest.client.program)),
    ]
}

fn word(done: bool) -> String {
    if done { "yes" } else { "no" }.to_owned()
}

fn proven(shown: &Shown) -> Lines {
    let globals = match shown.manifest.globals.included {
        GlobalsIncluded::WithPasswords => "roles with passwords, tablespaces",
        GlobalsIncluded::WithoutPasswords => "roles without passwords, tablespaces",
        GlobalsIncluded::NotIncluded => "not included",
    };
    let why = shown.manifest.globals.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    vec![("blocks compared", word(shown.manifest.checks.decoded)), ("globals", format!("{globals}{why}"))]
}

fn copy_lines(shown: &ShownCopy) -> Lines {
    let copy = &shown.copy;
    let mut lines = vec![("repository", copy.name.clone())];
    if shown.address != copy.name {
        lines.push(("address", shown.address.clone()));
    }
    lines.push(("stored", copy.stored_bytes.map_or_else(|| "unknown".to_owned(), bytes)));
    lines.extend(copy.error.iter().map(|error| ("not good", error.to_string())));
    lines.push(("read back", word(shown.read_back)));
    lines.extend(shown.proofs.iter().map(proof));
    lines
}

fn proof(line: &ProofLine) -> (&'static str, String) {
    let host = line.host.as_deref().map_or(String::new(), |host| format!(" on {host}"));
    let findings: String = line.findings.iter().map(|finding| format!("; {finding}")).collect();
    ("proof", format!("{} {} {}{host}{findings}", line.at, line.level.as_str(), line.verdict.as_str()))
}

/// Every copy has its objects under the same keys, unless repositories are laid out differently.
fn objects(shown: &Shown) -> String {
    let mut told: Vec<&[String]> = Vec::new();
    for copy in shown.repositories.iter().filter(|copy| !copy.keys.is_empty()) {
        if !told.contains(&copy.keys.as_slice()) {
            told.push(&copy.keys);
        }
    }
    told.into_iter().map(|keys| objects_under(shown, keys)).collect()
}

fn objects_under(shown: &Shown, keys: &[String]) -> String {
    let rows = shown
        .manifest
        .objects
        .iter()
        .zip(keys)
        .map(|(object, key)| vec![format!("  {key}"), object.size_bytes.to_string(), object.sha256.to_string()]);
    let last = keys.last().map(|key| vec![format!("  {key}"), String::new(), String::new()]);
    table(&["objects", "bytes", "SHA-256"], &[1], rows.chain(last))
}

fn database(details: &DumpDetails) -> Lines {
    let database = &details.description.database;
    let mut lines = vec![
        ("owner", database.owner.clone()),
        ("encoding", database.encoding.clone()),
        ("collate", database.collate.clone()),
        ("ctype", database.ctype.clone()),
    ];
    lines.extend(database.locale.iter().map(|locale| ("locale", locale.clone())));
    lines.extend(database.collation_version.iter().map(|version| ("collation version", version.clone())));
    lines.push(("tablespace", database.tablespace.clone()));
    lines.extend(database.comment.iter().map(|comment| ("comment", comment.clone())));
    lines.extend(database.acl.iter().map(|acl| ("rights", acl.join(" "))));
    lines
}

fn relations(details: &DumpDetails) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for relation in &details.description.relations {
        *counts.entry(relation.kind.as_str()).or_default() += 1;
    }
    let mut text = "holds\n".to_owned();
    for (kind, count) in counts {
        let _ = writeln!(text, "  {:<18}  {count}", harmless(kind));
    }
    let _ = writeln!(text, "  {:<18}  {}", "large object", details.description.large_objects);
    let mut largest: Vec<_> = details.description.relations.iter().filter(|relation| relation.size_bytes > 0).collect();
    largest.sort_by_key(|relation| std::cmp::Reverse(relation.size_bytes));
    largest.truncate(LARGEST);
    if largest.is_empty() {
        return text;
    }
    let rows = largest.into_iter().map(|relation| {
        vec![
            format!("  {}.{}", relation.schema, relation.name),
            relation.kind.clone(),
            bytes(relation.size_bytes),
            relation.row_estimate.map_or(String::new(), |rows| rows.to_string()),
        ]
    });
    text + &table(&["largest", "kind", "about", "rows"], &[2, 3], rows)
}

fn setting(setting: &pgkeep::pg::database::Setting) -> String {
    match &setting.role {
        Some(role) => format!("{} = {} (role {role})", setting.name, setting.value),
        None => format!("{} = {}", setting.name, setting.value),
    }
}
