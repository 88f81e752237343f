//! What a database says of itself in its catalogues: everything a restore needs that a custom-format archive does not
//! carry or carries only as SQL text, read in the snapshot of the dump.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use crate::error::{Doing, Kind, Result};

/// The database itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    pub name: String,
    pub owner: String,
    pub encoding: String,
    /// `c` libc, `i` ICU, `b` built-in, as in `pg_database.datlocprovider`.
    pub locale_provider: String,
    pub collate: String,
    pub ctype: String,
    /// The ICU or built-in locale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icu_rules: Option<String>,
    /// The version of the collation that indexes were built with, and the one the operating system has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation_actual_version: Option<String>,
    pub tablespace: String,
    /// -1 is no limit.
    pub connection_limit: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// `grantee=rights/grantor`, as PostgreSQL prints them; `None` is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_template: bool,
    /// Whether somebody dropped its schema public, which every new database has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lacks_public: bool,
    pub size_bytes: u64,
}

/// `ALTER DATABASE … SET`, or `ALTER ROLE … IN DATABASE … SET` where a role is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extension {
    pub name: String,
    pub version: String,
    pub schema: String,
}

/// A table, partitioned table, view, materialised view, sequence or foreign table that the user made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relation {
    pub schema: String,
    pub name: String,
    /// `table`, `partitioned table`, `view`, `materialized view`, `sequence` or `foreign table`.
    pub kind: String,
    pub owner: String,
    /// The planner's estimate; `None` where the relation was never analysed or has no rows of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_estimate: Option<u64>,
    /// The size of the main fork by the planner's estimate: asking for the exact one would wait for locks.
    pub size_bytes: u64,
}

/// Everything above together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    pub database: Database,
    /// Owners, grantees, roles of policies, default rights, user mappings and settings; without predefined roles.
    pub roles: BTreeSet<String>,
    /// The superuser that `initdb` made; the cluster is its.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_role: Option<String>,
    pub settings: Vec<Setting>,
    pub extensions: Vec<Extension>,
    pub relations: Vec<Relation>,
    pub large_objects: u64,
}

impl Description {
    /// Reads the catalogues of the database that `client` is connected to, in its present transaction.
    pub async fn read(client: &Client, server_version: u32) -> Result<Self> {
        let database = read("pg_database", database(client, server_version)).await?;
        let settings = read("pg_db_role_setting", settings(client)).await?;
        let mut roles = read("pg_shdepend", roles(client)).await?;
        roles.extend(settings.iter().filter_map(|setting| setting.role.clone()));
        roles.insert(database.owner.clone());
        let bootstrap_role = read("pg_roles", bootstrap_role(client)).await?;
        let extensions = read("pg_extension", extensions(client)).await?;
        let relations = read("pg_class", relations(client)).await?;
        let count = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata";
        let row = client.query_one(count, &[]).await.doing(Kind::Tool, || "count large objects")?;
        let large_objects = row.get::<_, i64>(0).unsigned_abs();
        Ok(Self { database, roles, bootstrap_role, settings, extensions, relations, large_objects })
    }
}

/// The databases but postgres and the templates. A server keeps a name in the encoding of whoever gave it, and tells it
/// unconverted: what is not UTF-8 in one stands as U+FFFD, and no connection to that database can be asked for.
pub async fn names(client: &Client) -> Result<Vec<String>> {
    // As bytes: as text a server may refuse to tell one name, and with it all others. A database that a failed CREATE
    // DATABASE left behind (limit -2) is listed: its failure is news.
    let query = r"
        SELECT pg_catalog.replace(datname::pg_catalog.text, $$\$$, $$\\$$)::pg_catalog.bytea
          FROM pg_catalog.pg_database
         WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres'
         ORDER BY 1";
    let rows = client.query(query, &[]).await.doing(Kind::Connect, || "list the databases")?;
    Ok(rows.iter().map(|row| String::from_utf8_lossy(row.get::<_, &[u8]>(0)).into_owned()).collect())
}

type Answer<T> = std::result::Result<T, tokio_postgres::Error>;

async fn read<T>(catalogue: &str, asked: impl Future<Output = Answer<T>>) -> Result<T> {
    let answer = asked.await;
    let garbled = answer.as_ref().is_err_and(|e| match e.code() {
        Some(code) => *code == SqlState::CHARACTER_NOT_IN_REPERTOIRE,
        None => e.to_string().starts_with("error deserializing"),
    });
    answer.doing(Kind::Tool, || format!("read {catalogue}")).map_err(|e| match garbled {
        true => e.hint("a name or comment in it is not UTF-8, which pgkeep needs it to be: give it another one"),
        false => e,
    })
}

async fn database(client: &Client, server_version: u32) -> Answer<Database> {
    // Columns by version: the provider came with 15, `daticulocale` became `datlocale` in 17, rules came with 16.
    let provider = if server_version >= 150_000 { "d.datlocprovider::pg_catalog.text" } else { "'c'::pg_catalog.text" };
    let locale = match server_version {
        170_000.. => "d.datlocale",
        150_000.. => "d.daticulocale",
        _ => "NULL::pg_catalog.text",
    };
    let rules = if server_version >= 160_000 { "d.daticurules" } else { "NULL::pg_catalog.text" };
    let (recorded, actual) = if server_version >= 150_000 {
        ("d.datcollversion", "pg_catalog.pg_database_collation_actual_version(d.oid)")
    } else {
        ("NULL::pg_catalog.text", "NULL::pg_catalog.text")
    };
    let query = format!(
        "SELECT d.datname::pg_catalog.text, pg_catalog.pg_get_userbyid(d.datdba)::pg_catalog.text,
                pg_catalog.pg_encoding_to_char(d.encoding)::pg_catalog.text, {provider},
                d.datcollate::pg_catalog.text, d.datctype::pg_catalog.text, {locale}, {rules}, {recorded}, {actual},
                t.spcname::pg_catalog.text, d.datconnlimit, pg_catalog.shobj_description(d.oid, 'pg_database'),
                d.datacl::pg_catalog.text[], pg_catalog.pg_database_size(d.oid), d.datistemplate,
                NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'public')
           FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
          WHERE d.datname = pg_catalog.current_database()"
    );
    let row = client.query_one(query.as_str(), &[]).await?;
    Ok(Database {
        name: row.try_get(0)?,
        owner: row.try_get(1)?,
        encoding: row.try_get(2)?,
        locale_provider: row.try_get(3)?,
        collate: row.try_get(4)?,
        ctype: row.try_get(5)?,
        locale: row.try_get(6)?,
        icu_rules: row.try_get(7)?,
        collation_version: row.try_get(8)?,
        collation_actual_version: row.try_get(9)?,
        tablespace: row.try_get(10)?,
        connection_limit: row.try_get(11)?,
        comment: row.try_get(12)?,
        acl: row.try_get(13)?,
        size_bytes: row.try_get::<_, i64>(14)?.unsigned_abs(),
        is_template: row.try_get(15)?,
        lacks_public: row.try_get(16)?,
    })
}

async fn settings(client: &Client) -> Answer<Vec<Setting>> {
    let query = "
        SELECT r.rolname::pg_catalog.text, c.assignment
          FROM pg_catalog.pg_db_role_setting s
          JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
          LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
         CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) WITH ORDINALITY c (assignment, position)
         WHERE d.datname = pg_catalog.current_database()
         ORDER BY 1 NULLS FIRST, c.position";
    let rows = client.query(query, &[]).await?;
    let setting = |row: &Row| {
        let assignment: &str = row.try_get(1)?;
        let (name, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        Ok(Setting { role: row.try_get(0)?, name: name.to_owned(), value: value.to_owned() })
    };
    rows.iter().map(setting).collect()
}

/// The role with the fixed id 10 (`BOOTSTRAP_SUPERUSERID` in PostgreSQL's `pg_authid.dat`), whatever its name.
async fn bootstrap_role(client: &Client) -> Answer<Option<String>> {
    let query = "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles WHERE oid = 10";
    client.query_opt(query, &[]).await?.map(|row| row.try_get(0)).transpose()
}

/// `pg_shdepend` records every use of a role by an object: ownership, rights, policies, default rights, mappings.
/// Predefined roles and the bootstrap superuser are pinned and do not appear. What the latter owns the archive names;
/// what others gave it must be looked for, or a restore fails where that role has another name. Rights that it has from
/// itself go with ownership.
async fn roles(client: &Client) -> Answer<BTreeSet<String>> {
    let query = "
        SELECT DISTINCT r.rolname::pg_catalog.text
          FROM pg_catalog.pg_shdepend s
          JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid
          JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
         WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
           AND (s.dbid = d.oid
                OR (s.dbid = 0 AND s.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND s.objid = d.oid))
           AND r.rolname !~ '^pg_'
        UNION
        SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles
         WHERE oid = 10
           AND (EXISTS (SELECT FROM (SELECT relacl FROM pg_catalog.pg_class
                                     UNION ALL SELECT attacl FROM pg_catalog.pg_attribute
                                     UNION ALL SELECT proacl FROM pg_catalog.pg_proc
                                     UNION ALL SELECT nspacl FROM pg_catalog.pg_namespace
                                     UNION ALL SELECT typacl FROM pg_catalog.pg_type
                                     UNION ALL SELECT lanacl FROM pg_catalog.pg_language
                                     UNION ALL SELECT lomacl FROM pg_catalog.pg_largeobject_metadata
                                     UNION ALL SELECT fdwacl FROM pg_catalog.pg_foreign_data_wrapper
                                     UNION ALL SELECT srvacl FROM pg_catalog.pg_foreign_server
                                     UNION ALL SELECT defaclacl FROM pg_catalog.pg_default_acl
                                     UNION ALL SELECT datacl FROM pg_catalog.pg_database
                                                WHERE datname = pg_catalog.current_database()) every (acl)
                                CROSS JOIN LATERAL pg_catalog.aclexplode(acl) given
                               WHERE given.grantee = 10 AND given.grantor <> 10)
                OR EXISTS (SELECT FROM pg_catalog.pg_policy WHERE 10 = ANY (polroles))
                OR EXISTS (SELECT FROM pg_catalog.pg_default_acl WHERE defaclrole = 10)
                OR EXISTS (SELECT FROM pg_catalog.pg_user_mappings WHERE umuser = 10))";
    client.query(query, &[]).await?.iter().map(|row| row.try_get(0)).collect()
}

async fn extensions(client: &Client) -> Answer<Vec<Extension>> {
    let query = "
        SELECT e.extname::pg_catalog.text, e.extversion, n.nspname::pg_catalog.text
          FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
         ORDER BY 1";
    let extension =
        |row: &Row| Ok(Extension { name: row.try_get(0)?, version: row.try_get(1)?, schema: row.try_get(2)? });
    client.query(query, &[]).await?.iter().map(extension).collect()
}

async fn relations(client: &Client) -> Answer<Vec<Relation>> {
    let query = "
        SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
               CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
                              WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' ELSE 'foreign table' END,
               pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
               CASE WHEN c.relkind IN ('r', 'm') AND c.reltuples >= 0 THEN c.reltuples::pg_catalog.int8 END,
               c.relpages::pg_catalog.int8 * pg_catalog.current_setting('block_size')::pg_catalog.int8
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
           AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e
                            WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid
                              AND e.deptype = 'e')
         ORDER BY 1, 2";
    let relation = |row: &Row| {
        Ok(Relation {
            schema: row.try_get(0)?,
            name: row.try_get(1)?,
            kind: row.try_get(2)?,
            owner: row.try_get(3)?,
            row_estimate: row.try_get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
            size_bytes: row.try_get::<_, i64>(5)?.unsigned_abs(),
        })
    };
    client.query(query, &[]).await?.iter().map(relation).collect()
}
