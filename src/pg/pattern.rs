//! Patterns of names as `psql` and `pg_dump` read them, for what `pg_dump` does not say of one: that it matches nothing.
//!
//! The rules are those of `patternToSQLRegex` in PostgreSQL's `src/fe_utils/string_utils.c`.

use tokio_postgres::Client;

use crate::error::{Doing, Kind, Result};

/// What a pattern is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Schema,
    Relation,
}

/// The regular expressions of the parts of a pattern: the schema, where there is one, and the name.
fn expressions(pattern: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut characters = pattern.chars().peekable();
    while let Some(c) = characters.next() {
        let Some(part) = parts.last_mut() else { break };
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            '*' if !quoted => part.push_str(".*"),
            '?' if !quoted => part.push('.'),
            // Only a name can have it: it is never the end of a line.
            '$' => part.push_str("\\$"),
            '[' if characters.peek() == Some(&']') => part.push_str("\\["),
            c if quoted && "|*+?()[]{}.^\\".contains(c) => part.extend(['\\', c]),
            c if quoted => part.push(c),
            c => part.push(c.to_ascii_lowercase()),
        }
    }
    parts.into_iter().map(|part| format!("^({part})$")).collect()
}

/// Whether something in the database has a name that fits, as `pg_dump` looks for it; in doubt, it has. In a transaction.
pub async fn matches(client: &Client, pattern: &str, named: Named) -> Result<bool> {
    let doing = || format!("look for what {pattern:?} matches");
    let expressions = expressions(pattern);
    let relations = "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                     WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S') AND c.relname OPERATOR(pg_catalog.~) $1";
    let (query, names) = match (named, expressions.as_slice()) {
        (Named::Schema, [schema]) => {
            let query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.~) $1)";
            (query.to_owned(), vec![schema])
        }
        (Named::Relation, [name]) => {
            (format!("SELECT EXISTS (SELECT {relations} AND pg_catalog.pg_table_is_visible(c.oid))"), vec![name])
        }
        (Named::Relation, [schema, name]) => {
            (format!("SELECT EXISTS (SELECT {relations} AND n.nspname OPERATOR(pg_catalog.~) $2)"), vec![name, schema])
        }
        // With the name of a database before it: pg_dump says what it thinks of that.
        _ => return Ok(true),
    };
    // The search path of the role, as pg_dump has it; ours is empty.
    client.batch_execute("SET LOCAL search_path TO DEFAULT").await.doing(Kind::Tool, doing)?;
    let names: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = names.iter().map(|name| *name as _).collect();
    let row = client.query_one(query.as_str(), &names).await.doing(Kind::Tool, doing)?;
    client.batch_execute("SET LOCAL search_path = ''").await.doing(Kind::Tool, doing)?;
    Ok(row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_read_as_pg_dump_reads_it() {
        let cases = [
            ("orders", &["^(orders)$"][..]),
            ("Sales.O*_20??", &["^(sales)$", "^(o.*_20..)$"]),
            (r#""Audit Log".*"#, &["^(Audit Log)$", "^(.*)$"]),
            (r#""a.b*"."c""d""#, &[r"^(a\.b\*)$", r#"^(c"d)$"#]),
            ("a[0-9]|b+", &["^(a[0-9]|b+)$"]),
            ("int[]", &[r"^(int\[])$"]),
            ("a$b", &[r"^(a\$b)$"]),
            ("db.s.t", &["^(db)$", "^(s)$", "^(t)$"]),
        ];
        for (pattern, expected) in cases {
            assert_eq!(expressions(pattern), expected, "{pattern}");
        }
    }
}
