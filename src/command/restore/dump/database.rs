//! The statements that make a database what it was: its creation, and what `pg_restore` leaves out unless it creates
//! the database itself under its old name, which could be the name of one in use.

use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::pg::database::{Database, Setting};
use crate::pg::ident::{quote_ident, quote_literal};

/// What the name of an unfinished database ends in.
const UNFINISHED: &str = ".pgkeep-restoring";

/// Longer names are cut by the server without a word (NAMEDATALEN is 64).
const LONGEST_NAME_BYTES: usize = 63;

/// How the comment on an unfinished database begins; only a database that has it is ever dropped as a leftover.
pub const UNFINISHED_COMMENT: &str = "pgkeep: unfinished restore of ";

/// The name under which `database` is restored: nobody has business with it, so a database under its real name is whole.
pub fn unfinished_name(database: &str) -> String {
    name_with(database, UNFINISHED)
}

/// `database` with something added, within what a name may have.
pub fn name_with(database: &str, ending: &str) -> String {
    let room = LONGEST_NAME_BYTES - ending.len();
    if database.len() <= room {
        return format!("{database}{ending}");
    }
    // Names that differ behind the cut stay different.
    let digest = &Sha256::of(database.as_bytes()).to_string()[..8];
    let mut cut = room - digest.len() - 1;
    while !database.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}~{digest}{ending}", &database[..cut])
}

/// Whether the server cuts the name.
pub fn check_name(database: &str) -> Result<()> {
    match database.len() {
        0 => Err(Error::usage("the name of the database is empty")),
        1..=LONGEST_NAME_BYTES => Ok(()),
        length => Err(Error::usage(format!("the name {database:?} has {length} bytes, a database's can have 63"))),
    }
}

/// `CREATE DATABASE` with the encoding and locale that `database` had, in the words of a server of this version.
/// `tablespace` is one that the server has.
pub fn creation(database: &Database, name: &str, tablespace: Option<&str>, server_version: u32) -> Result<String> {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quote_ident(name),
        quote_literal(&database.encoding),
        quote_literal(&database.collate),
        quote_literal(&database.ctype),
    );
    let provider = match database.locale_provider.as_str() {
        "c" => "libc",
        "i" if server_version >= 150_000 => "icu",
        "b" if server_version >= 170_000 => "builtin",
        other => return Err(no_provider(other, server_version)),
    };
    if server_version >= 150_000 {
        sql.push_str(&format!(" LOCALE_PROVIDER {provider}"));
    }
    if let Some(locale) = &database.locale {
        let keyword = if provider == "builtin" { "BUILTIN_LOCALE" } else { "ICU_LOCALE" };
        sql.push_str(&format!(" {keyword} {}", quote_literal(locale)));
    }
    if let Some(rules) = database.icu_rules.as_deref().filter(|_| server_version >= 160_000) {
        sql.push_str(&format!(" ICU_RULES {}", quote_literal(rules)));
    }
    if let Some(tablespace) = tablespace {
        sql.push_str(&format!(" TABLESPACE {}", quote_ident(tablespace)));
    }
    Ok(sql)
}

fn no_provider(provider: &str, server_version: u32) -> Error {
    let (name, since) = match provider {
        "i" => ("ICU", "15"),
        "b" => ("built-in", "17"),
        other => (other, "a newer version"),
    };
    let major = server_version / 10_000;
    Error::refused(format!("the database has {name} collation, which PostgreSQL {major} cannot give a database")).hint(
        format!(
            "restore to PostgreSQL {since} or newer, or create an empty database with a locale of your choice and \
             restore into it with --into"
        ),
    )
}

/// A right on a database, as the target server took it apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// `None` is PUBLIC.
    pub grantee: Option<String>,
    pub grantor: String,
    pub privilege: String,
    pub grantable: Grantable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grantable {
    Yes,
    No,
}

/// The rights on database `name` that belongs to `owner`: the defaults taken away, then each given by whom gave it.
/// To be run in a transaction.
pub fn rights(name: &str, owner: &str, rights: &[Right]) -> Vec<String> {
    let (database, quoted_owner) = (quote_ident(name), quote_ident(owner));
    let mut statements = vec![format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC, {quoted_owner}")];
    let by_owner = rights.iter().filter(|right| right.grantor == owner);
    let by_others = rights.iter().filter(|right| right.grantor != owner);
    for right in by_owner.chain(by_others) {
        let grantee = right.grantee.as_deref().map_or("PUBLIC".to_owned(), quote_ident);
        let option = if right.grantable == Grantable::Yes { " WITH GRANT OPTION" } else { "" };
        let grant = format!("GRANT {} ON DATABASE {database} TO {grantee}{option}", right.privilege);
        if right.grantor == owner {
            statements.push(grant);
        } else {
            // Who gives a right is who runs the statement.
            statements.push(format!("SET LOCAL ROLE {}; {grant}; RESET ROLE", quote_ident(&right.grantor)));
        }
    }
    statements
}

/// `ALTER DATABASE … SET` and `ALTER ROLE … IN DATABASE … SET`.
pub fn setting(name: &str, setting: &Setting) -> String {
    format!("{} TO {}", setting_subject(name, setting), value(setting))
}

/// The statement without the value.
pub fn setting_subject(name: &str, setting: &Setting) -> String {
    let database = quote_ident(name);
    let subject = match &setting.role {
        Some(role) => format!("ROLE {} IN DATABASE {database}", quote_ident(role)),
        None => format!("DATABASE {database}"),
    };
    format!("ALTER {subject} SET {}", quote_ident(&setting.name))
}

/// A list whose elements the server quotes: as one literal it would become a list of one (PostgreSQL sources,
/// `GUC_LIST_QUOTE` in `guc_tables.c`; extensions cannot have such settings).
const QUOTED_LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

fn value(setting: &Setting) -> String {
    if !QUOTED_LISTS.contains(&setting.name.to_ascii_lowercase().as_str()) {
        return quote_literal(&setting.value);
    }
    let elements: Vec<String> = list_elements(&setting.value).iter().map(|element| quote_literal(element)).collect();
    if elements.is_empty() { "''".to_owned() } else { elements.join(", ") }
}

/// `"$user", public, "we ird"` taken apart.
fn list_elements(value: &str) -> Vec<String> {
    let mut elements = Vec::new();
    let mut rest = value.trim_start();
    while !rest.is_empty() {
        let mut element = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            while let Some(end) = rest.find('"') {
                element.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                match rest.strip_prefix('"') {
                    Some(more) => {
                        element.push('"');
                        rest = more;
                    }
                    None => break,
                }
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            element.push_str(rest[..end].trim_end());
            rest = &rest[end..];
        }
        elements.push(element);
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        Database {
            name: "shop".to_owned(),
            owner: "shop".to_owned(),
            encoding: "UTF8".to_owned(),
            locale_provider: "c".to_owned(),
            collate: "en_US.utf8".to_owned(),
            ctype: "C".to_owned(),
            locale: None,
            icu_rules: None,
            collation_version: None,
            collation_actual_version: None,
            tablespace: "pg_default".to_owned(),
            connection_limit: -1,
            comment: None,
            acl: None,
            is_template: false,
            lacks_public: false,
            size_bytes: 1,
        }
    }

    #[test]
    fn an_unfinished_name_fits_and_stays_its_own() {
        assert_eq!(unfinished_name("shop"), "shop.pgkeep-restoring");
        let long = "é".repeat(31);
        let names = [unfinished_name(&long), unfinished_name(&format!("{long}a"))];
        assert_ne!(names[0], names[1]);
        for name in names {
            assert!(name.len() <= 63 && name.ends_with(UNFINISHED), "{name}");
        }
        assert_eq!(unfinished_name(&"a".repeat(46)).len(), 63);
    }

    #[test]
    fn a_database_is_created_in_the_words_of_the_server() {
        let plain = "CREATE DATABASE \"x\" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'en_US.utf8' LC_CTYPE 'C'";
        assert_eq!(creation(&database(), "x", None, 140_000).unwrap(), plain);
        assert_eq!(
            creation(&database(), "x", Some("fast"), 150_000).unwrap(),
            format!("{plain} LOCALE_PROVIDER libc TABLESPACE \"fast\"")
        );
        let icu = Database {
            locale_provider: "i".to_owned(),
            locale: Some("de-u-co-phonebk".to_owned()),
            icu_rules: Some("& a < b".to_owned()),
            ..database()
        };
        let with_icu = format!("{plain} LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk'");
        assert_eq!(creation(&icu, "x", None, 150_000).unwrap(), with_icu);
        assert_eq!(creation(&icu, "x", None, 180_000).unwrap(), format!("{with_icu} ICU_RULES '& a < b'"));
        assert!(creation(&icu, "x", None, 140_000).unwrap_err().to_string().contains("ICU"));
        let builtin = Database { locale_provider: "b".to_owned(), locale: Some("C.UTF-8".to_owned()), ..database() };
        assert!(creation(&builtin, "x", None, 170_000).unwrap().ends_with("builtin BUILTIN_LOCALE 'C.UTF-8'"));
        assert!(creation(&builtin, "x", None, 160_000).is_err());
    }

    #[test]
    fn lists_stay_lists() {
        let set = |name: &str, value: &str| {
            setting("db", &Setting { role: None, name: name.to_owned(), value: value.to_owned() })
        };
        assert_eq!(
            set("search_path", "\"$user\", public, \"we \"\" ird\""),
            "ALTER DATABASE \"db\" SET \"search_path\" TO '$user', 'public', 'we \" ird'"
        );
        assert_eq!(set("search_path", "\"\""), "ALTER DATABASE \"db\" SET \"search_path\" TO ''");
        assert_eq!(set("search_path", ""), "ALTER DATABASE \"db\" SET \"search_path\" TO ''");
        assert_eq!(set("DateStyle", "ISO, DMY"), "ALTER DATABASE \"db\" SET \"DateStyle\" TO 'ISO, DMY'");
        let of_role = Setting { role: Some("a b".to_owned()), name: "my.var".to_owned(), value: "it's".to_owned() };
        assert_eq!(setting("db", &of_role), "ALTER ROLE \"a b\" IN DATABASE \"db\" SET \"my.var\" TO 'it''s'");
    }

    #[test]
    fn rights_are_given_by_whom_gave_them() {
        let right = |grantee: Option<&str>, grantor: &str, grantable| Right {
            grantee: grantee.map(str::to_owned),
            grantor: grantor.to_owned(),
            privilege: "CONNECT".to_owned(),
            grantable,
        };
        let given = [right(None, "b", Grantable::No), right(Some("b"), "own", Grantable::Yes)];
        assert_eq!(
            rights("db", "own", &given),
            [
                "REVOKE ALL ON DATABASE \"db\" FROM PUBLIC, \"own\"",
                "GRANT CONNECT ON DATABASE \"db\" TO \"b\" WITH GRANT OPTION",
                "SET LOCAL ROLE \"b\"; GRANT CONNECT ON DATABASE \"db\" TO PUBLIC; RESET ROLE",
            ]
        );
    }
}
