//! What the role may not read, relation by relation, and what a dump asks of the server's lock table.
//!
//! `pg_dump` locks every table that it dumps and stops at the first that it may not read; so one new table of somebody
//! else ends a backup that has run for years.

use tokio_postgres::{Client, Row};

use crate::command::finding::Finding;
use crate::error::{Doing as _, Kind, Result};
use crate::pg::session::Session;

/// What `pg_dump` reads: tables, partitioned tables and sequences; of extensions only their configuration tables.
const DUMPED: &str = "
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND (EXISTS (SELECT 1 FROM pg_catalog.pg_extension x WHERE c.oid = ANY (x.extconfig))
            OR NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e
                            WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid
                              AND e.deptype = 'e'))";

/// The role, as SQL names it, and the database.
struct Who {
    role: String,
    database: String,
    server_version: u32,
}

pub async fn look(session: &Session) -> Result<Vec<Finding>> {
    let client = session.client();
    let row = client.query_one("SELECT pg_catalog.quote_ident(current_user)", &[]).await;
    let who = Who {
        role: row.doing(Kind::Connect, || "ask for the current role")?.get(0),
        database: session.endpoint().dbname.clone(),
        server_version: session.server_version_num(),
    };
    let mut findings = relations(client, &who).await.doing(Kind::Connect, || "look at the rights on relations")?;
    findings.extend(large_objects(client, &who).await.doing(Kind::Connect, || "look at the large objects")?);
    findings.push(passwords(client, &who).await.doing(Kind::Connect, || "look at the rights on pg_authid")?);
    findings.push(locks(client, &who).await.doing(Kind::Connect, || "look at the lock table")?);
    Ok(findings)
}

type Answer<T> = std::result::Result<T, tokio_postgres::Error>;

async fn relations(client: &Client, who: &Who) -> Answer<Vec<Finding>> {
    let query = format!(
        "SELECT * FROM (
           SELECT n.nspname::pg_catalog.text AS schema, c.relname::pg_catalog.text AS name,
                  pg_catalog.quote_ident(n.nspname) AS quoted_schema,
                  pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS quoted,
                  c.relkind = 'S' AS is_sequence,
                  pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usage,
                  CASE WHEN c.relkind = 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
                       ELSE pg_catalog.has_table_privilege(c.oid, 'SELECT') END AS readable,
                  c.relrowsecurity AND pg_catalog.row_security_active(c.oid) AS filtered
           {DUMPED}) r
         WHERE NOT usage OR NOT readable OR filtered ORDER BY 1, 2"
    );
    let rows = client.query(query.as_str(), &[]).await?;
    let count = client.query_one(format!("SELECT pg_catalog.count(*) {DUMPED}").as_str(), &[]).await?;
    let count: i64 = count.get(0);
    let holds = |row: &Row, column: &str| row.get::<_, bool>(column);
    let hidden: Vec<&Row> = rows.iter().filter(|row| !holds(row, "usage") || !holds(row, "readable")).collect();
    let filtered: Vec<&Row> = rows.iter().filter(|row| holds(row, "filtered")).collect();

    let mut findings = vec![summary(who, count, hidden.len())];
    findings.extend(hidden.into_iter().map(|row| hidden_relation(who, row)));
    findings.extend(filtered.into_iter().map(|row| filtered_relation(who, row)));
    Ok(findings)
}

fn summary(who: &Who, count: i64, hidden: usize) -> Finding {
    let Who { role, database, .. } = who;
    if hidden == 0 {
        let evidence = format!("{count} of {count} tables and sequences can be read by {role}");
        return Finding::ok("rights.relations", database.as_str(), evidence);
    }
    let evidence = format!("{hidden} of {count} tables and sequences cannot be read by {role}: pg_dump will fail");
    let finding = Finding::fail("rights.relations", database.as_str(), evidence);
    if who.server_version >= 140_000 {
        finding.fix(format!("GRANT pg_read_all_data TO {role};"))
    } else {
        finding.fix("give the rights below, and ALTER DEFAULT PRIVILEGES FOR ROLE of each owner, or use a superuser")
    }
}

fn full_name(who: &Who, row: &Row) -> String {
    format!("{}.{}.{}", who.database, row.get::<_, &str>("schema"), row.get::<_, &str>("name"))
}

fn hidden_relation(who: &Who, row: &Row) -> Finding {
    let role = &who.role;
    let kind = if row.get("is_sequence") { "SEQUENCE" } else { "TABLE" };
    let mut lacks = Vec::new();
    let mut grants = Vec::new();
    if !row.get::<_, bool>("usage") {
        lacks.push("USAGE on its schema".to_owned());
        grants.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", row.get::<_, &str>("quoted_schema")));
    }
    if !row.get::<_, bool>("readable") {
        lacks.push("SELECT".to_owned());
        grants.push(format!("GRANT SELECT ON {kind} {} TO {role};", row.get::<_, &str>("quoted")));
    }
    let evidence = format!("{role} lacks {}", lacks.join(" and "));
    Finding::fail("rights.select", full_name(who, row), evidence).fix(grants.join(" "))
}

fn filtered_relation(who: &Who, row: &Row) -> Finding {
    let role = &who.role;
    let evidence = format!("row security would hide rows from {role}: pg_dump will refuse");
    Finding::fail("rights.row-security", full_name(who, row), evidence).fix(format!("ALTER ROLE {role} BYPASSRLS;"))
}

/// `pg_read_all_data` does not reach large objects, so their own rights are asked for.
async fn large_objects(client: &Client, who: &Who) -> Answer<Option<Finding>> {
    let readable = if who.server_version >= 180_000 {
        "pg_catalog.has_largeobject_privilege(m.oid, 'SELECT')"
    } else {
        "(pg_catalog.pg_has_role(m.lomowner, 'USAGE')
          OR EXISTS (SELECT 1 FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
                        AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE'))))"
    };
    let query = format!(
        "SELECT pg_catalog.count(*), pg_catalog.min(m.oid::pg_catalog.int8) FILTER (WHERE NOT {readable}),
                pg_catalog.count(*) FILTER (WHERE NOT {readable}),
                pg_catalog.current_setting('lo_compat_privileges') = 'on'
           FROM pg_catalog.pg_largeobject_metadata m"
    );
    let row = client.query_one(query.as_str(), &[]).await?;
    let (count, first, hidden): (i64, Option<i64>, i64) = (row.get(0), row.get(1), row.get(2));
    let role = &who.role;
    Ok(match first.filter(|_| !row.get::<_, bool>(3)) {
        _ if count == 0 => None,
        None => {
            let evidence = format!("{count} of {count} large objects can be read by {role}");
            Some(Finding::ok("rights.large-objects", who.database.as_str(), evidence))
        }
        Some(first) => {
            let evidence = format!("{hidden} of {count} large objects cannot be read by {role}: pg_dump will fail");
            let fix =
                format!("GRANT SELECT ON LARGE OBJECT {first} TO {role}; and so for each of them, or use a superuser");
            Some(Finding::fail("rights.large-objects", who.database.as_str(), evidence).fix(fix))
        }
    })
}

async fn passwords(client: &Client, who: &Who) -> Answer<Finding> {
    let query = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')";
    let role = &who.role;
    if client.query_one(query, &[]).await?.get(0) {
        let evidence = format!("{role} may read pg_authid: roles are dumped with their passwords");
        return Ok(Finding::ok("rights.globals", who.database.as_str(), evidence));
    }
    let evidence = format!("{role} may not read pg_authid: roles are dumped without their passwords");
    let fix = format!("dump as a superuser, or in this database: GRANT SELECT ON pg_catalog.pg_authid TO {role};");
    Ok(Finding::warn("rights.globals", who.database.as_str(), evidence).fix(fix))
}

/// One lock for each table, all at the same time, out of a table that all sessions share.
async fn locks(client: &Client, who: &Who) -> Answer<Finding> {
    let query = format!(
        "SELECT (SELECT pg_catalog.count(*) {DUMPED} AND c.relkind <> 'S'),
                pg_catalog.current_setting('max_locks_per_transaction')::pg_catalog.int8,
                pg_catalog.current_setting('max_connections')::pg_catalog.int8
                + pg_catalog.current_setting('max_prepared_transactions')::pg_catalog.int8"
    );
    let row = client.query_one(query.as_str(), &[]).await?;
    let (tables, each, sessions): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let room = each.saturating_mul(sessions);
    let evidence = format!("a dump locks {tables} tables at once, the lock table has room for about {room}");
    let subject = who.database.as_str();
    // Twice what the dump takes: the others need locks, too.
    let needed = tables.saturating_mul(2) / sessions.max(1) + 1;
    let fix = format!("set max_locks_per_transaction = {needed} and restart the server");
    Ok(match tables {
        _ if tables > room => Finding::fail("server.locks", subject, evidence).fix(fix),
        _ if tables.saturating_mul(2) > room => Finding::warn("server.locks", subject, evidence).fix(fix),
        _ => Finding::ok("server.locks", subject, evidence),
    })
}
