//! What is restored, as far as it is known before the target is touched: from the details beside a stored dump, or from
//! what the archive says of itself.

use std::collections::{BTreeMap, BTreeSet};

use super::body::Form;
use super::roles::Globals;
use crate::error::{Error, Result};
use crate::pg::archive::{Front, TocEntry};
use crate::pg::database::{Database, Description, Extension};
use crate::pg::ident::quote_ident;
use crate::pg::script::statements;
use crate::repo::{BackupId, InstanceName};

/// How much is known of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The details that are stored beside a dump.
    Details,
    /// What the table of contents of the archive says.
    Contents,
    /// It is a script.
    Nothing,
}

/// Everything that a plan is made of.
#[derive(Debug)]
pub struct Subject {
    /// The id of a backup, or the path of a file.
    pub name: String,
    pub backup: Option<(BackupId, InstanceName)>,
    /// The name that the database had.
    pub database: Option<String>,
    pub form: Form,
    /// What the scratch directory must hold of it.
    pub scratch_bytes: u64,
    /// Of the whole archive.
    pub plain_bytes: u64,
    /// The major version of its `pg_dump`; 0 if it is not known.
    pub client_major: u32,
    pub server_major: Option<u32>,
    pub known: Known,
    pub description: Description,
    pub globals: Globals,
    pub front: Option<Front>,
    /// Statements that give the database what it had, with [`DATABASE`] for its name.
    pub properties: Vec<String>,
    pub warnings: Vec<String>,
}

/// Stands for the name of the database in [`Subject::properties`].
pub const DATABASE: &str = "\u{1}";

impl Subject {
    /// Of a file that no manifest tells of.
    pub fn of_front(
        name: String,
        form: Form,
        plain_bytes: u64,
        front: Front,
        map: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut warnings = Vec::new();
        let description = description(&front)?;
        let properties = match map.is_empty() {
            true => properties(&front, &mut warnings),
            false => properties(&front.mapped(map)?, &mut warnings),
        };
        Ok(Self {
            name,
            backup: None,
            database: Some(front.header.database.clone()).filter(|name| !name.is_empty()),
            form,
            scratch_bytes: 0,
            plain_bytes,
            client_major: front.client_major().unwrap_or(0),
            server_major: front.server_major(),
            known: Known::Contents,
            description,
            globals: Globals::default(),
            front: Some(front),
            properties,
            warnings,
        })
    }

    /// Of an SQL script, which nothing is known of but what it begins with.
    pub fn of_script(name: String, plain_bytes: u64, warnings: Vec<String>) -> Self {
        Self {
            name,
            backup: None,
            database: None,
            form: Form::Script,
            scratch_bytes: 0,
            plain_bytes,
            client_major: 0,
            server_major: None,
            known: Known::Nothing,
            description: nothing(),
            globals: Globals::default(),
            front: None,
            properties: Vec::new(),
            warnings,
        }
    }

    /// Gives what roles had to those that `map` names.
    pub fn map_roles(&mut self, map: &BTreeMap<String, String>) {
        let mapped = |name: &String| map.get(name).unwrap_or(name).clone();
        let Description { database, roles, settings, relations, .. } = &mut self.description;
        *roles = roles.iter().map(mapped).collect();
        database.owner = mapped(&database.owner);
        relations.iter_mut().for_each(|relation| relation.owner = mapped(&relation.owner));
        for setting in settings {
            setting.role = setting.role.as_ref().map(mapped);
        }
        for item in database.acl.iter_mut().flatten() {
            *item = mapped_item(item, map);
        }
    }

    /// The roles that the whole of it names.
    pub fn all_roles(&self) -> Result<BTreeSet<String>> {
        let mut all = self.description.roles.clone();
        if let Some(front) = &self.front {
            let uses = front.role_uses(|_| true)?;
            all.extend(uses.owners.into_iter().chain(uses.privileges).chain(uses.others));
        }
        Ok(all)
    }
}

/// Rights on the database and its settings are no part of what `pg_restore` restores.
pub fn is_of_database(entry: &TocEntry) -> bool {
    matches!(&*entry.desc, "DATABASE" | "DATABASE PROPERTIES")
        || (matches!(&*entry.desc, "ACL" | "COMMENT" | "SECURITY LABEL") && entry.tag.starts_with("DATABASE "))
}

fn description(front: &Front) -> Result<Description> {
    let uses = front.role_uses(|_| true)?;
    let roles = uses.owners.into_iter().chain(uses.privileges).chain(uses.others);
    let extensions = front.entries().iter().map(|front| &front.entry).filter(|entry| &*entry.desc == "EXTENSION");
    let extension =
        |entry: &TocEntry| Extension { name: entry.tag.to_string(), version: String::new(), schema: String::new() };
    Ok(Description {
        database: database(front),
        roles: roles.filter(|name| !name.starts_with("pg_")).collect(),
        bootstrap_role: None,
        settings: Vec::new(),
        extensions: extensions.map(extension).collect(),
        relations: Vec::new(),
        large_objects: 0,
    })
}

fn nothing() -> Description {
    let none = String::new;
    let database = Database {
        name: none(),
        owner: none(),
        encoding: none(),
        locale_provider: none(),
        collate: none(),
        ctype: none(),
        locale: None,
        icu_rules: None,
        collation_version: None,
        collation_actual_version: None,
        tablespace: none(),
        connection_limit: -1,
        comment: None,
        acl: None,
        is_template: false,
        lacks_public: false,
        size_bytes: 0,
    };
    Description {
        database,
        roles: BTreeSet::new(),
        bootstrap_role: None,
        settings: Vec::new(),
        extensions: Vec::new(),
        relations: Vec::new(),
        large_objects: 0,
    }
}

/// As `CREATE DATABASE` of the archive has it: `ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C'`.
fn database(front: &Front) -> Database {
    let entry = front.entries().iter().find(|front| &*front.entry.desc == "DATABASE");
    let sql = entry.and_then(|entry| front.definition(entry)).unwrap_or_default();
    let mut words: BTreeMap<String, String> = BTreeMap::new();
    for statement in statements(sql).unwrap_or_default().iter().filter(|s| s.begins(&["CREATE", "DATABASE"])) {
        for three in statement.tokens.windows(3).filter(|three| three[1].text == "=") {
            let value = three[2].name().unwrap_or_else(|| unquoted(three[2].text));
            words.insert(three[0].text.to_ascii_uppercase(), value);
        }
    }
    let mut word = |name: &str| words.remove(name);
    let locale = word("LOCALE").unwrap_or_default();
    let provider = word("LOCALE_PROVIDER").unwrap_or_else(|| "libc".to_owned());
    Database {
        name: front.header.database.clone(),
        owner: entry.and_then(|entry| entry.entry.owner.as_deref()).unwrap_or_default().to_owned(),
        encoding: word("ENCODING").unwrap_or_default(),
        locale_provider: match provider.as_str() {
            "icu" => "i",
            "builtin" => "b",
            _ => "c",
        }
        .to_owned(),
        collate: word("LC_COLLATE").unwrap_or_else(|| locale.clone()),
        ctype: word("LC_CTYPE").unwrap_or_else(|| locale.clone()),
        locale: word("ICU_LOCALE").or_else(|| word("BUILTIN_LOCALE")),
        icu_rules: word("ICU_RULES"),
        collation_version: None,
        collation_actual_version: None,
        tablespace: word("TABLESPACE").unwrap_or_else(|| "pg_default".to_owned()),
        connection_limit: -1,
        comment: None,
        acl: None,
        is_template: false,
        lacks_public: false,
        size_bytes: 0,
    }
}

/// A literal as the server reads it.
fn unquoted(literal: &str) -> String {
    let inside = literal.trim_start_matches(['E', 'e']).trim_matches('\'');
    inside.replace("''", "'")
}

/// Settings, rights and comment of the database with a placeholder for its name.
fn properties(front: &Front, warnings: &mut Vec<String>) -> Vec<String> {
    let of_database = |entry: &TocEntry| is_of_database(entry) && &*entry.desc != "DATABASE";
    let texts = front.entries().iter().filter(|front| of_database(&front.entry));
    let mut found = Vec::new();
    for sql in texts.filter_map(|entry| front.definition(entry)) {
        for statement in statements(sql).unwrap_or_default() {
            let at = statement.tokens.iter().position(|token| token.is_word("DATABASE"));
            let name = at.and_then(|at| statement.tokens.get(at + 1));
            match name.filter(|name| name.name().as_deref() == Some(&front.header.database)) {
                Some(name) => {
                    let text = statement.text();
                    let start = name.text.as_ptr() as usize - text.as_ptr() as usize;
                    found.push(format!("{}{DATABASE}{}", &text[..start], &text[start + name.text.len()..]));
                }
                // Who grants what he was granted stands around the statement.
                None if statement.begins(&["SET", "SESSION"]) || statement.begins(&["RESET", "SESSION"]) => {
                    found.push(statement.text().to_owned());
                }
                None => {
                    let beginning: Vec<&str> = statement.tokens.iter().take(3).map(|token| token.text).collect();
                    warnings.push(format!(
                        "a property of the database is not restored, a statement that begins with {:?}",
                        beginning.join(" ")
                    ));
                }
            }
        }
    }
    found
}

/// `grantee=rights/grantor` with other roles; each is quoted where it has to be.
pub fn mapped_item(item: &str, map: &BTreeMap<String, String>) -> String {
    let Some((grantee, rest)) = split_outside(item, '=') else { return item.to_owned() };
    let Some((rights, grantor)) = split_outside(rest, '/') else { return item.to_owned() };
    let mapped = |name: &str| map.get(&plain(name)).map_or_else(|| name.to_owned(), |other| quote_ident(other));
    format!("{}={rights}/{}", mapped(grantee), mapped(grantor))
}

/// The roles of `grantee=rights/grantor`.
pub fn grantees(item: &str) -> Vec<String> {
    let parts = split_outside(item, '=').and_then(|(grantee, rest)| Some((grantee, split_outside(rest, '/')?.1)));
    parts.map_or_else(Vec::new, |(grantee, grantor)| vec![plain(grantee), plain(grantor)])
}

fn plain(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(inside) => inside.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}

fn split_outside(text: &str, separator: char) -> Option<(&str, &str)> {
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => inside = !inside,
            c if c == separator && !inside => return Some((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    None
}

/// `a=b`; names may hold an equals sign if it is written twice.
pub fn parse_role_map(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for pair in pairs {
        let wrong = || {
            Error::usage(format!("--role-map {pair:?} does not say which role becomes which"))
                .hint("such as --role-map app=app_test; an equals sign within a name is written twice")
        };
        let text = pair.replace("==", "\u{1}");
        let (from, to) = text.split_once('=').ok_or_else(wrong)?;
        let [from, to] = [from, to].map(|name| name.replace('\u{1}', "="));
        if from.is_empty() || to.is_empty() || text.matches('=').count() != 1 {
            return Err(wrong());
        }
        if map.insert(from.clone(), to).is_some() {
            return Err(Error::usage(format!("--role-map names role {from:?} twice")).hint("name it once"));
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> BTreeMap<String, String> {
        BTreeMap::from([("a=b".to_owned(), "c".to_owned()), ("x".to_owned(), "y z".to_owned())])
    }

    #[test]
    fn rights_are_given_to_mapped_roles() {
        assert_eq!(mapped_item("\"a=b\"=CTc*/x", &map()), "\"c\"=CTc*/\"y z\"");
        assert_eq!(mapped_item("=Tc/x", &map()), "=Tc/\"y z\"");
        assert_eq!(mapped_item("other=c/\"q/x\"", &map()), "other=c/\"q/x\"");
    }

    #[test]
    fn role_maps_are_read_with_their_equals_signs() {
        let parse = |pairs: &[&str]| parse_role_map(&pairs.iter().map(|&pair| pair.to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&["a==b=c", "x=y z"]).unwrap(), map());
        for bad in [&["a"][..], &["=b"], &["a="], &["a=b=c"], &["a=b", "a=c"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_archive_tells_of_its_database() {
        let path = format!("{}/tests/archives/pg18.dump", env!("CARGO_MANIFEST_DIR"));
        let front = Front::read(std::fs::read(path).unwrap()).unwrap().expect("a whole front");
        let subject = Subject::of_front("x".to_owned(), Form::Custom, 1, front, &BTreeMap::new()).unwrap();
        let Database { owner, encoding, collate, locale_provider, .. } = &subject.description.database;
        let told = [owner.as_str(), encoding, collate, locale_provider];
        assert_eq!(told, ["shop_owner", "UTF8", "C", "c"]);
        assert_eq!(
            subject.properties,
            ["COMMENT ON DATABASE \u{1} IS 'a fixture'", "ALTER DATABASE \u{1} SET work_mem TO '5MB'"]
        );
        let roles: Vec<&str> = subject.description.roles.iter().map(String::as_str).collect();
        assert_eq!(roles, ["odd \"role", "postgres", "reader", "shop_owner"]);
        assert_eq!((subject.client_major, subject.server_major), (18, Some(18)));
        assert!(subject.warnings.is_empty());
    }
}
