//! Whether two databases are the same: what `pg_dump` says of their schemas, and every row, sequence and large object.
//!
//! Rows are compared by an order-independent checksum, the sum of a 64-bit hash of each row's text, and by their count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::cluster::Cluster;

/// Everything that makes up a database, taken at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    name: String,
    schema: Vec<String>,
    /// What a thing is ("rows of public.orders") → what was found there.
    facts: BTreeMap<String, String>,
}

/// Each difference is one line, source first.
#[derive(Debug, PartialEq, Eq)]
pub struct Differences(Vec<String>);

impl Snapshot {
    pub fn of(cluster: &Cluster, database: &str) -> Self {
        let mut pg_dump = cluster.client("pg_dump");
        let text = cluster.run(pg_dump.arg("--schema-only").arg("-d").arg(cluster.conninfo(database)));
        let schema = normalised(&String::from_utf8(text).unwrap());

        let mut facts = BTreeMap::new();
        for line in cluster.sql(database, FACTS).lines() {
            let (what, found): (String, serde_json::Value) =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let earlier = facts.insert(what, found.to_string());
            assert_eq!(earlier, None, "two facts of one name: {line}");
        }
        Self { name: database.to_owned(), schema, facts }
    }

    /// How many rows all tables have together.
    pub fn rows(&self) -> u64 {
        let counts = self.facts.iter().filter(|(what, _)| what.starts_with("rows of "));
        counts
            .map(|(_, found)| serde_json::from_str::<serde_json::Value>(found).unwrap()["rows"].as_u64().unwrap())
            .sum()
    }

    pub fn differences(&self, other: &Self) -> Option<Differences> {
        let mut lines = self.fact_differences(other);
        lines.extend(line_differences(&self.schema, &other.schema));
        self.as_differences(other, lines)
    }

    /// For databases on servers of two major versions, which write the same view or right in different words:
    /// everything but the schema's text.
    pub fn content_differences(&self, other: &Self) -> Option<Differences> {
        self.as_differences(other, self.fact_differences(other))
    }

    fn fact_differences(&self, other: &Self) -> Vec<String> {
        let say = |found: Option<&String>| found.map_or("missing".to_owned(), Clone::clone);
        let names: BTreeSet<_> = self.facts.keys().chain(other.facts.keys()).collect();
        let pairs = names.into_iter().map(|what| (what, self.facts.get(what), other.facts.get(what)));
        pairs
            .filter(|(_, here, there)| here != there)
            .map(|(what, here, there)| format!("{what}: {} | {}", say(here), say(there)))
            .collect()
    }

    fn as_differences(&self, other: &Self, mut lines: Vec<String>) -> Option<Differences> {
        if lines.is_empty() {
            return None;
        }
        lines.insert(0, format!("{:?} | {:?}", self.name, other.name));
        Some(Differences(lines))
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 60;
        for line in self.0.iter().take(SHOWN) {
            writeln!(f, "{line}")?;
        }
        if self.0.len() > SHOWN {
            writeln!(f, "… and {} more", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// Panics with the differences, if there are any.
#[track_caller]
pub fn assert_equal(source: &Snapshot, restored: &Snapshot) {
    if let Some(differences) = source.differences(restored) {
        panic!("the databases differ\n{differences}");
    }
}

/// Every role of a cluster with its attributes, password, settings, comment and memberships, as `pg_dumpall` writes
/// them; sorted, since roles have no order.
pub fn roles(cluster: &Cluster) -> Vec<String> {
    let text = cluster.run(cluster.client("pg_dumpall").arg("--roles-only"));
    let mut lines = normalised(&String::from_utf8(text).unwrap());
    lines.sort();
    lines
}

/// The dump's text without what differs between two dumps of one database: the versions, and the random key that keeps
/// psql from obeying what stands between its lines.
fn normalised(dump: &str) -> Vec<String> {
    let says_nothing = |line: &str| {
        line.is_empty()
            || line.starts_with("\\restrict ")
            || line.starts_with("\\unrestrict ")
            || line.starts_with("-- Dumped from database version")
            || line.starts_with("-- Dumped by pg_dump version")
    };
    dump.split('\n').filter(|line| !says_nothing(line)).map(str::to_owned).collect()
}

/// Lines that only one side has, in the order of that side, and a word if only the order differs.
fn line_differences(here: &[String], there: &[String]) -> Vec<String> {
    let count = |lines: &[String]| {
        let mut counts = BTreeMap::<String, i64>::new();
        lines.iter().for_each(|line| *counts.entry(line.clone()).or_default() += 1);
        counts
    };
    let only_in = |lines: &[String], others: &[String], sign: char| {
        let mut others = count(others);
        let mut found = Vec::new();
        for line in lines {
            let left = others.entry(line.clone()).or_default();
            *left -= 1;
            if *left < 0 {
                found.push(format!("schema {sign} {line}"));
            }
        }
        found
    };
    let mut found = only_in(here, there, '-');
    found.extend(only_in(there, here, '+'));
    if found.is_empty() && here != there {
        let at = here.iter().zip(there).position(|(a, b)| a != b).unwrap_or_default();
        found.push(format!("schema: the same lines in another order from {:?} on", here[at]));
    }
    found
}

/// Selects one JSON array `["what", found]` per line.
///
/// A whole row is `(t.*)`: a bare alias would mean a column of that name, where a table has one. Arrays of rights are
/// sorted, since GRANTs replayed in another order are the same rights.
const FACTS: &str = r#"
SET search_path = pg_catalog;
SET timezone = 'UTC';
SET extra_float_digits = 1;
SET row_security = off;

SELECT json_build_array('database', json_build_object(
        'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding),
        'collate', datcollate, 'ctype', datctype, 'provider', datlocprovider, 'connections', datconnlimit,
        'tablespace', (SELECT spcname FROM pg_tablespace s WHERE s.oid = dattablespace),
        'rights', (SELECT json_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(datacl) a),
        'comment', shobj_description(d.oid, 'pg_database')))
FROM pg_database d WHERE datname = current_database();

SELECT json_build_array('setting of ' || coalesce('role ' || quote_ident(rolname), 'the database'), setconfig)
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole
WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database());

SELECT json_build_array('relation ' || quote_ident(nspname) || '.' || quote_ident(relname), json_build_object(
        'kind', relkind, 'owner', pg_get_userbyid(relowner), 'persistence', relpersistence, 'secured', relrowsecurity,
        'columns', (SELECT json_agg(attname || ' ' || format_type(atttypid, atttypmod) ORDER BY attnum) FROM pg_attribute a
                    WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND relkind <> 'i')))
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast');

SELECT format('SELECT json_build_array(%L, json_build_object(''rows'', count(*), ''checksum'',
               coalesce(sum(hashtextextended((t.*)::text, 0)::numeric), 0))) FROM ONLY %I.%I t',
              'rows of ' || quote_ident(nspname) || '.' || quote_ident(relname), nspname, relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'm') AND (relkind = 'r' OR relispopulated)
  AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
\gexec

SELECT format('SELECT json_build_array(%L, json_build_object(''last'', last_value, ''called'', is_called)) FROM %I.%I',
              'sequence ' || quote_ident(nspname) || '.' || quote_ident(relname), nspname, relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'S'
\gexec

SELECT json_build_array('large object ' || oid, json_build_object(
        'md5', md5(lo_get(oid)), 'owner', pg_get_userbyid(lomowner),
        'rights', (SELECT json_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(lomacl) a),
        'comment', obj_description(oid, 'pg_largeobject')))
FROM pg_largeobject_metadata;
"#;
