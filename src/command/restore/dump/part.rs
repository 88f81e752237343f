//! Which entries of an archive are restored.
//!
//! `pg_restore --table` restores a bare table: no key, no index, no trigger, no sequence of its own. Here a table is
//! chosen with what belongs to it, entry by entry, and what it needs and does not bring is told. The result is a list for
//! `pg_restore --use-list`, which is what `--list` prints.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Kind, Result};
use crate::pg::archive::{DumpId, Front, TocEntry};
use crate::pg::ident::quote_ident;

/// What was asked for; everything if nothing was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub schemas: Vec<String>,
    /// `table` or `schema.table`; views, sequences and foreign tables, too.
    pub tables: Vec<String>,
    /// A list as `--list` prints it, edited.
    pub use_list: Option<UseList>,
}

impl Part {
    pub fn is_all(&self) -> bool {
        self.schemas.is_empty() && self.tables.is_empty() && self.use_list.is_none()
    }
}

/// Dump ids in the order in which they are to be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UseList(Vec<u32>);

impl UseList {
    /// Reads a list as `pg_restore` does: from each line the number at its beginning; what follows a semicolon is a
    /// comment.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut ids, mut seen) = (Vec::new(), BTreeSet::new());
        for (number, line) in text.lines().enumerate() {
            let line = line.split(';').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let id = line.parse().map_err(|_| {
                Error::usage(format!("line {} of the list does not begin with a number and a semicolon", number + 1))
                    .hint("--list prints a list; put a semicolon before what is not to be restored")
            })?;
            if seen.insert(id) {
                ids.push(id);
            }
        }
        match ids.is_empty() {
            true => Err(Error::usage("the list names no entry").hint("--list prints one to edit")),
            false => Ok(Self(ids)),
        }
    }
}

/// What the target has before the restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing but these schemas.
    New { schemas: BTreeSet<String> },
    /// It may hold what the part refers to.
    Existing { schemas: BTreeSet<String> },
}

impl Presence {
    fn schemas(&self) -> &BTreeSet<String> {
        match self {
            Self::New { schemas } | Self::Existing { schemas } => schemas,
        }
    }

    fn may_hold_the_rest(&self) -> bool {
        matches!(self, Self::Existing { .. })
    }
}

/// Entries that are restored, in order, and what their user should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    ids: Vec<DumpId>,
    known: BTreeSet<DumpId>,
    pub warnings: Vec<String>,
}

impl Chosen {
    fn of(ids: Vec<DumpId>, warnings: Vec<String>) -> Self {
        Self { known: ids.iter().copied().collect(), ids, warnings }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn has(&self, entry: &TocEntry) -> bool {
        self.known.contains(&entry.dump_id)
    }

    /// As `pg_restore --use-list` reads it.
    pub fn list(&self) -> String {
        self.ids.iter().map(|id| format!("{id};\n")).collect()
    }
}

/// Kinds of entries that are nothing without a table.
const ATTACHED: [&str; 21] = [
    "TABLE DATA",
    "MATERIALIZED VIEW DATA",
    "SEQUENCE SET",
    "SEQUENCE OWNED BY",
    "DEFAULT",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "TABLE ATTACH",
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "STATISTICS",
    "STATISTICS DATA",
    "PUBLICATION TABLE",
    "COMMENT",
    "ACL",
    "SECURITY LABEL",
];

/// Whose tag begins with the name of their table: they may also refer to other tables, to which they do not belong.
const NAMED_BY_TABLE: [&str; 8] = [
    "DEFAULT",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "TRIGGER",
    "RULE",
    "POLICY",
    "MATERIALIZED VIEW DATA",
];

/// What a restored table does without where nobody can make it work.
const DISPENSABLE: [&str; 7] =
    ["FK CONSTRAINT", "TRIGGER", "RULE", "POLICY", "TABLE ATTACH", "INDEX ATTACH", "PUBLICATION TABLE"];

const RELATIONS: [&str; 5] = ["TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"];

/// Chooses the entries of the part.
pub fn choose(front: &Front, part: &Part, presence: &Presence) -> Result<Chosen> {
    let entries: Vec<&TocEntry> = front.entries().iter().map(|front| &front.entry).collect();
    let by_id: BTreeMap<DumpId, &TocEntry> = entries.iter().map(|entry| (entry.dump_id, *entry)).collect();
    if let Some(list) = &part.use_list {
        return listed(list, &by_id);
    }
    let mut chosen: BTreeSet<DumpId> = BTreeSet::new();
    for schema in &part.schemas {
        let of_it: Vec<DumpId> = entries.iter().filter(|e| is_of_schema(e, schema)).map(|e| e.dump_id).collect();
        if of_it.is_empty() {
            return Err(absent(&format!("schema {schema:?}"), "schemas", names_of_schemas(&entries)));
        }
        chosen.extend(of_it);
    }
    for table in &part.tables {
        let matching = entries.iter().filter(|entry| is_called(entry, table)).map(|entry| entry.dump_id);
        let of_it: Vec<DumpId> = matching.collect();
        if of_it.is_empty() {
            return Err(absent(&format!("table {table:?}"), "tables", names_of_tables(&entries)));
        }
        chosen.extend(of_it);
    }
    add_what_belongs(&entries, &by_id, &mut chosen);
    add_schemas(&entries, presence, &mut chosen);
    let warnings = settle_needs(&entries, &by_id, presence, &mut chosen);
    let ids = entries.iter().map(|entry| entry.dump_id).filter(|id| chosen.contains(id)).collect();
    Ok(Chosen::of(ids, warnings))
}

fn listed(list: &UseList, by_id: &BTreeMap<DumpId, &TocEntry>) -> Result<Chosen> {
    let numbered: BTreeMap<u32, DumpId> = by_id.keys().map(|id| (id.number(), *id)).collect();
    let mut ids = Vec::new();
    for number in &list.0 {
        let known = numbered.get(number);
        ids.push(*known.ok_or_else(|| {
            Error::usage(format!("the list names entry {number}, which the archive does not have"))
                .hint("make the list of this backup: --list prints it; numbers differ from one dump to the next")
        })?);
    }
    Ok(Chosen::of(ids, Vec::new()))
}

fn is_of_schema(entry: &TocEntry, schema: &str) -> bool {
    entry.namespace.as_deref() == Some(schema) || (&*entry.desc == "SCHEMA" && &*entry.tag == schema)
}

/// By its name, with or without its schema, quoted or not.
fn is_called(entry: &TocEntry, typed: &str) -> bool {
    if !RELATIONS.contains(&&*entry.desc) {
        return false;
    }
    let namespace = entry.namespace.as_deref().unwrap_or_default();
    let (name, quoted) = (&*entry.tag, quote_ident(&entry.tag));
    typed == name
        || typed == quoted
        || typed == format!("{namespace}.{name}")
        || typed == format!("{}.{quoted}", quote_ident(namespace))
        || typed == format!("{namespace}.{quoted}")
}

/// Until nothing more is found: comments of indexes of tables, values of sequences of tables, partitions of partitions.
fn add_what_belongs(entries: &[&TocEntry], by_id: &BTreeMap<DumpId, &TocEntry>, chosen: &mut BTreeSet<DumpId>) {
    loop {
        let before = chosen.len();
        for entry in entries {
            let needs: Vec<&TocEntry> = entry
                .dependencies
                .iter()
                .filter_map(|id| by_id.get(id))
                .filter(|e| chosen.contains(&e.dump_id))
                .copied()
                .collect();
            if &*entry.desc == "TABLE ATTACH" {
                // A table without its partitions is a table without its rows.
                if let (Some(_), Some(partition)) = (parent_in(entry, &needs), partition_of(entry, by_id)) {
                    chosen.insert(partition.dump_id);
                }
            }
            if needs.iter().any(|owner| belongs(entry, owner)) {
                chosen.insert(entry.dump_id);
            }
        }
        if chosen.len() == before {
            return;
        }
    }
}

/// The partition has the name and schema of the entry that attaches it.
fn is_partition(attach: &TocEntry, table: &TocEntry) -> bool {
    table.tag == attach.tag && table.namespace == attach.namespace
}

fn parent_in<'a>(attach: &TocEntry, needs: &[&'a TocEntry]) -> Option<&'a TocEntry> {
    needs.iter().find(|table| RELATIONS.contains(&&*table.desc) && !is_partition(attach, table)).copied()
}

fn partition_of<'a>(attach: &TocEntry, by_id: &BTreeMap<DumpId, &'a TocEntry>) -> Option<&'a TocEntry> {
    let named = attach.dependencies.iter().filter_map(|id| by_id.get(id).copied());
    named.into_iter().find(|table| RELATIONS.contains(&&*table.desc) && is_partition(attach, table))
}

fn belongs(entry: &TocEntry, owner: &TocEntry) -> bool {
    let of_relation = RELATIONS.contains(&&*owner.desc);
    match &*entry.desc {
        // Rights and comments of whatever was chosen.
        "COMMENT" | "ACL" | "SECURITY LABEL" => true,
        // One that a column owns, or that is its identity; not those that a default merely reads.
        "SEQUENCE" => &*owner.desc == "TABLE",
        "TABLE ATTACH" => of_relation && is_partition(entry, owner),
        "INDEX ATTACH" => &*owner.desc == "INDEX" && entry.tag == owner.tag,
        "SEQUENCE SET" | "SEQUENCE OWNED BY" => &*owner.desc == "SEQUENCE",
        "MATERIALIZED VIEW DATA" => of_relation && entry.tag == owner.tag,
        desc if NAMED_BY_TABLE.contains(&desc) => {
            let begins = entry.tag.strip_prefix(&*owner.tag).is_some_and(|rest| rest.starts_with(' '));
            of_relation && begins && entry.namespace == owner.namespace
        }
        desc => of_relation && ATTACHED.contains(&desc),
    }
}

/// The schemas of what was chosen, with their rights, unless they are there.
fn add_schemas(entries: &[&TocEntry], presence: &Presence, chosen: &mut BTreeSet<DumpId>) {
    let namespaces: BTreeSet<&str> = entries
        .iter()
        .filter(|entry| chosen.contains(&entry.dump_id))
        .filter_map(|entry| entry.namespace.as_deref().filter(|name| !name.is_empty()))
        .collect();
    for schema in entries.iter().filter(|entry| &*entry.desc == "SCHEMA") {
        let is_there = presence.schemas().contains(&*schema.tag);
        if is_there && presence.may_hold_the_rest() {
            chosen.remove(&schema.dump_id);
            for entry in entries.iter().filter(|entry| entry.dependencies.contains(&schema.dump_id)) {
                if matches!(&*entry.desc, "COMMENT" | "ACL" | "SECURITY LABEL") {
                    chosen.remove(&entry.dump_id);
                }
            }
        } else if namespaces.contains(&*schema.tag) {
            chosen.insert(schema.dump_id);
            let of_it = entries.iter().filter(|entry| entry.dependencies.contains(&schema.dump_id));
            let of_it = of_it.filter(|entry| matches!(&*entry.desc, "COMMENT" | "ACL" | "SECURITY LABEL"));
            chosen.extend(of_it.map(|entry| entry.dump_id));
        }
    }
}

/// In a new database nothing else will be there: what cannot work is left out where the data do without it, and told.
fn settle_needs(
    entries: &[&TocEntry],
    by_id: &BTreeMap<DumpId, &TocEntry>,
    presence: &Presence,
    chosen: &mut BTreeSet<DumpId>,
) -> Vec<String> {
    if presence.may_hold_the_rest() {
        return Vec::new();
    }
    let partitions: BTreeSet<_> = entries
        .iter()
        .filter(|entry| &*entry.desc == "TABLE ATTACH")
        .map(|entry| (entry.namespace.clone(), &*entry.tag))
        .collect();
    let mut warnings = Vec::new();
    for entry in entries {
        if !chosen.contains(&entry.dump_id) {
            continue;
        }
        let missing: Vec<String> = entry
            .dependencies
            .iter()
            .filter_map(|id| by_id.get(id))
            .filter(|need| !chosen.contains(&need.dump_id))
            .filter(|need| !(&*need.desc == "SCHEMA" && presence.schemas().contains(&*need.tag)))
            // A partition is a table of its own until it is attached.
            .filter(|need| {
                !(&*entry.desc == "TABLE"
                    && partitions.contains(&(entry.namespace.clone(), &*entry.tag))
                    && &*need.desc == "TABLE")
            })
            .map(|need| called(need))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let missing = missing.join(", ");
        if DISPENSABLE.contains(&&*entry.desc) {
            chosen.remove(&entry.dump_id);
            warnings.push(format!("{} is left out: it needs {missing}", called(entry)));
        } else {
            warnings.push(format!("{} needs {missing}, which is not chosen: choose it, too", called(entry)));
        }
    }
    warnings
}

/// `TABLE sales.orders`.
fn called(entry: &TocEntry) -> String {
    match entry.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => format!("{} {namespace}.{}", entry.desc, entry.tag),
        None => format!("{} {}", entry.desc, entry.tag),
    }
}

fn names_of_schemas(entries: &[&TocEntry]) -> BTreeSet<String> {
    entries.iter().filter_map(|e| e.namespace.as_deref()).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn names_of_tables(entries: &[&TocEntry]) -> BTreeSet<String> {
    let relations = entries.iter().filter(|entry| RELATIONS.contains(&&*entry.desc));
    relations.map(|entry| format!("{}.{}", entry.namespace.as_deref().unwrap_or_default(), entry.tag)).collect()
}

fn absent(what: &str, kind: &str, there: BTreeSet<String>) -> Error {
    const TOLD: usize = 8;
    let count = there.len();
    let mut told: Vec<String> = there.into_iter().take(TOLD).collect();
    if count > TOLD {
        told.push("…".to_owned());
    }
    let cause = if count == 0 { format!("it has no {kind}") } else { format!("its {kind}: {}", told.join(", ")) };
    Error::new(Kind::Usage, format!("the archive has no {what}"))
        .because(cause)
        .hint("--list prints everything that it holds; names are taken as they are, without patterns")
}

/// The table of contents as `pg_restore --list` prints it.
pub fn listing(front: &Front, chosen: Option<&Chosen>) -> String {
    let header = &front.header;
    let created = header.created_local.map_or("an unknown time".to_owned(), |at| at.format("%F %T").to_string());
    let compression = format!("{:?}", header.compression).to_lowercase();
    let mut out = format!(
        ";\n; Archive created at {created}\n;     dbname: {}\n;     TOC Entries: {}\n;     Compression: {compression}\n;     Dump Version: {}\n;     Format: {}\n;     Integer: {} bytes\n;     Offset: {} bytes\n;     Dumped from database version: {}\n;     Dumped by pg_dump version: {}\n;\n;\n; Selected TOC Entries:\n;\n",
        one_line(&header.database),
        front.entries().len(),
        header.version,
        front.format.name(),
        front.integer_bytes,
        front.offset_bytes,
        one_line(&header.server_version),
        one_line(&header.pg_dump_version),
    );
    let of_database: BTreeSet<DumpId> = front
        .entries()
        .iter()
        .filter(|front| &*front.entry.desc == "DATABASE")
        .map(|front| front.entry.dump_id)
        .collect();
    for front in front.entries() {
        let entry = &front.entry;
        let shown = match chosen {
            Some(chosen) => chosen.has(entry),
            None => is_listed(entry, &of_database),
        };
        if !shown {
            continue;
        }
        let namespace = entry.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("-");
        out.push_str(&format!(
            "{}; {} {} {} {} {} {}\n",
            entry.dump_id,
            entry.catalog_id.table_oid,
            entry.catalog_id.oid,
            entry.desc,
            one_line(namespace),
            one_line(&entry.tag),
            one_line(entry.owner.as_deref().unwrap_or_default()),
        ));
    }
    out
}

/// Settings of the connection and the database itself are no choice.
fn is_listed(entry: &TocEntry, of_database: &BTreeSet<DumpId>) -> bool {
    !matches!(&*entry.desc, "ENCODING" | "STDSTRINGS" | "SEARCHPATH" | "DATABASE" | "DATABASE PROPERTIES")
        && !entry.dependencies.iter().any(|id| of_database.contains(id))
}

/// A name with a line break must not forge an entry.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front(name: &str) -> Front {
        let path = format!("{}/tests/archives/{name}.dump", env!("CARGO_MANIFEST_DIR"));
        Front::read(std::fs::read(path).unwrap()).unwrap().expect("a whole front")
    }

    fn new_database() -> Presence {
        Presence::New { schemas: BTreeSet::from(["public".to_owned()]) }
    }

    fn chosen(part: &Part, presence: &Presence) -> (Vec<String>, Vec<String>) {
        let front = front("pg15");
        let chosen = choose(&front, part, presence).unwrap();
        let entries = front.entries().iter().map(|front| &front.entry).filter(|entry| chosen.has(entry));
        (entries.map(called).collect(), chosen.warnings)
    }

    fn tables(names: &[&str]) -> Part {
        Part { tables: names.iter().map(|&name| name.to_owned()).collect(), ..Part::default() }
    }

    #[test]
    fn a_table_comes_with_what_belongs_to_it() {
        let (entries, warnings) = chosen(&tables(&["sales.orders"]), &new_database());
        let expected = [
            "SCHEMA sales",
            "ACL SCHEMA sales",
            "TABLE sales.orders",
            "COMMENT sales.COLUMN orders.body",
            "ACL sales.TABLE orders",
            "SEQUENCE sales.orders_id_seq",
            "TABLE DATA sales.orders",
            "SEQUENCE SET sales.orders_id_seq",
            "CONSTRAINT sales.orders orders_pkey",
            "INDEX sales.orders_body_idx",
            "STATISTICS public.st",
            "TRIGGER sales.orders t",
        ];
        assert_eq!((entries, warnings), (expected.map(str::to_owned).to_vec(), vec![]));
        let live = Presence::Existing { schemas: BTreeSet::from(["sales".to_owned()]) };
        let (entries, _) = chosen(&tables(&["orders"]), &live);
        assert_eq!(entries[0], "TABLE sales.orders", "a schema that is there is left alone");
    }

    #[test]
    fn a_partitioned_table_comes_with_its_partitions_and_a_partition_alone() {
        let (entries, warnings) = chosen(&tables(&["parts"]), &new_database());
        let expected = [
            "TABLE public.parts",
            "TABLE public.parts_2024",
            "TABLE ATTACH public.parts_2024",
            "TABLE DATA public.parts_2024",
        ];
        assert_eq!((entries, warnings), (expected.map(str::to_owned).to_vec(), vec![]));
        let (entries, warnings) = chosen(&tables(&["parts_2024"]), &new_database());
        assert_eq!(entries.join(" "), "TABLE public.parts_2024 TABLE DATA public.parts_2024");
        assert_eq!(warnings[0], "TABLE ATTACH public.parts_2024 is left out: it needs TABLE public.parts");
    }

    #[test]
    fn a_schema_comes_whole_and_what_is_not_there_is_refused_with_what_is() {
        let part = Part { schemas: vec!["sales".to_owned()], ..Part::default() };
        let (entries, _) = chosen(&part, &new_database());
        assert_eq!(entries[..3], ["SCHEMA sales", "ACL SCHEMA sales", "TABLE sales.orders"]);
        let error = choose(&front("pg15"), &tables(&["order"]), &new_database()).unwrap_err();
        assert!(error.to_string().contains("sales.orders"), "{error}");
        let part = Part { schemas: vec!["sale".to_owned()], ..Part::default() };
        assert!(choose(&front("pg15"), &part, &new_database()).unwrap_err().to_string().contains("public, sales"));
    }

    #[test]
    fn a_list_is_read_as_pg_restore_reads_it() {
        let list =
            UseList::parse(";\n; header\n3379; 0 16390 TABLE DATA sales orders shop\n\n ;1; x\n216; y\n216;").unwrap();
        assert_eq!(list, UseList(vec![3379, 216]));
        let part = Part { use_list: Some(list), ..Part::default() };
        let chosen = choose(&front("pg15"), &part, &new_database()).unwrap();
        assert_eq!(chosen.list(), "3379;\n216;\n");
        assert!(UseList::parse("TABLE x").unwrap_err().to_string().contains("line 1"));
        assert!(UseList::parse("; nothing\n").is_err());
        let part = Part { use_list: Some(UseList(vec![77])), ..Part::default() };
        assert!(choose(&front("pg15"), &part, &new_database()).unwrap_err().to_string().contains("entry 77"));
    }
}
