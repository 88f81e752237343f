//! Roles that a dump refers to and the target lacks, created from the globals that were stored beside it.
//!
//! The globals are a script of `pg_dumpall`. Fed to `psql` it would alter roles that exist and set the password of the
//! bootstrap superuser; so it is read, and only what is missing is written anew. A role that exists is never touched.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Doing, Error, Kind, Result};
use crate::pg::ident::quote_ident;
use crate::pg::script::{Statement, Token, statements};

/// What a globals script says of roles.
#[derive(Debug, Default)]
pub struct Globals {
    roles: BTreeMap<String, Role>,
    memberships: Vec<Membership>,
}

/// A role as it was. Its texts are SQL, quoted as they were.
#[derive(Clone, Default)]
struct Role {
    attributes: Vec<Attribute>,
    /// `ALTER ROLE … SET …`, whole.
    settings: Vec<String>,
    /// `COMMENT ON ROLE …`, whole.
    comment: Option<String>,
}

// Attributes hold passwords.
impl std::fmt::Debug for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Role with {} attributes", self.attributes.len())
    }
}

#[derive(Clone)]
struct Attribute {
    kind: AttributeKind,
    sql: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AttributeKind {
    /// What a new role is anyway.
    Default,
    Plain,
    /// Only a superuser may give it.
    Superuser,
    Password,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Membership {
    parent: String,
    member: String,
    /// What stands between the member and the grantor: `WITH ADMIN OPTION`.
    options: String,
    admin: bool,
    grantor: Option<String>,
}

impl Globals {
    /// Reads a script of `pg_dumpall --globals-only`.
    pub fn read(script: &[u8]) -> Result<Self> {
        let doing = || "read the stored globals";
        let text = std::str::from_utf8(script).doing(Kind::NotVerified, doing).map_err(encoding_hint)?;
        let mut globals = Self::default();
        for statement in statements(text).doing(Kind::Verification, doing)? {
            globals.take(&statement).doing(Kind::Verification, doing)?;
        }
        Ok(globals)
    }

    /// Forgets the superuser that `initdb` made. With its attributes and password comes a whole cluster, so it is never
    /// made from a dump.
    pub fn without_bootstrap(mut self, name: &str) -> Self {
        self.roles.remove(name);
        self
    }

    /// With other roles in memberships: what belonged to a role that is mapped belongs to another one.
    pub fn with_members(&self, map: &BTreeMap<String, String>) -> Self {
        let mapped = |name: &String| map.get(name).unwrap_or(name).clone();
        let membership = |one: &Membership| Membership {
            parent: mapped(&one.parent),
            member: mapped(&one.member),
            grantor: one.grantor.as_ref().map(mapped),
            ..one.clone()
        };
        Self { roles: self.roles.clone(), memberships: self.memberships.iter().map(membership).collect() }
    }

    fn take(&mut self, statement: &Statement<'_>) -> Result<()> {
        let name = |at: usize| statement.tokens.get(at).and_then(Token::name);
        let is = |at: usize, keyword: &str| statement.tokens.get(at).is_some_and(|token| token.is_word(keyword));
        if statement.begins(&["SET", "client_encoding"]) {
            let encoding = statement.tokens.last().map_or("", |token| token.text).trim_matches('\'');
            if !matches!(encoding, "UTF8" | "SQL_ASCII") && !statement.text().is_ascii() {
                return Err(encoding_hint(Error::new(Kind::NotVerified, format!("the script is in {encoding}"))));
            }
        } else if statement.begins(&["CREATE", "ROLE"]) {
            self.roles.entry(name(2).ok_or_else(|| odd(statement))?).or_default();
        } else if statement.begins(&["ALTER", "ROLE"]) && is(3, "WITH") {
            let attributes = attributes(&statement.tokens[4..]).ok_or_else(|| odd(statement))?;
            self.role(name(2), statement)?.attributes = attributes;
        } else if statement.begins(&["ALTER", "ROLE"]) && is(3, "SET") {
            self.role(name(2), statement)?.settings.push(statement.text().to_owned());
        } else if statement.begins(&["COMMENT", "ON", "ROLE"]) {
            self.role(name(3), statement)?.comment = Some(statement.text().to_owned());
        } else if statement.begins(&["GRANT"]) && is(2, "TO") {
            self.memberships.push(membership(statement).ok_or_else(|| odd(statement))?);
        }
        Ok(())
    }

    fn role(&mut self, name: Option<String>, statement: &Statement<'_>) -> Result<&mut Role> {
        Ok(self.roles.entry(name.ok_or_else(|| odd(statement))?).or_default())
    }

    /// Which of the roles that are `needed` and do not exist can be created, with the missing roles that they are
    /// members of: rights come through memberships.
    pub fn choose(&self, needed: &BTreeSet<String>, existing: &BTreeSet<String>) -> Missing {
        let mut missing = Missing::default();
        let mut waiting: Vec<&str> = needed.iter().map(String::as_str).collect();
        while let Some(name) = waiting.pop() {
            if existing.contains(name) || missing.create.contains(name) || is_predefined(name) {
                continue;
            }
            if !self.roles.contains_key(name) {
                missing.absent.insert(name.to_owned());
                continue;
            }
            missing.create.insert(name.to_owned());
            let of_it = self.memberships.iter().filter(|membership| membership.member == name);
            // A parent that the globals do not have adds no right that could be restored.
            let parents = of_it.map(|membership| membership.parent.as_str());
            waiting.extend(parents.filter(|&parent| self.roles.contains_key(parent)));
        }
        missing
    }

    /// The statements that create `create`, in order, and what they leave out.
    pub fn creation(&self, create: &BTreeSet<String>, existing: &BTreeSet<String>, with: &Conditions) -> Creation {
        let mut creation = Creation::default();
        let chosen = || create.iter().filter_map(|name| Some((name, self.roles.get(name)?)));
        for (name, role) in chosen() {
            creation.role(name, role, with);
        }
        for (name, role) in chosen() {
            let followers = role.settings.iter().chain(&role.comment);
            creation.steps.extend(followers.map(|sql| Step {
                role: name.clone(),
                what: StepKind::Property,
                sql: sql.clone(),
            }));
        }
        for membership in &self.memberships {
            creation.membership(membership, create, existing, with);
        }
        creation
    }
}

/// Roles that a restore needs and the target does not have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing {
    pub create: BTreeSet<String>,
    /// Those that cannot be created from the globals.
    pub absent: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passwords {
    Keep,
    LeaveOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creator {
    Superuser,
    Role,
}

/// What the target allows.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    pub passwords: Passwords,
    pub creator: Creator,
    pub server_version: u32,
}

/// What to run, and what will be missing.
#[derive(Default)]
pub struct Creation {
    pub steps: Vec<Step>,
    pub warnings: Vec<String>,
}

/// One statement. It may hold a password: it is not to be shown.
pub struct Step {
    pub role: String,
    pub what: StepKind,
    pub sql: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// That somebody else has created the role meanwhile is fine; it is then his.
    Create,
    Property,
    Membership,
}

impl Creation {
    fn role(&mut self, name: &str, role: &Role, with: &Conditions) {
        let mut sql = format!("CREATE ROLE {}", quote_ident(name));
        let mut left_out = Vec::new();
        for attribute in &role.attributes {
            match attribute.kind {
                AttributeKind::Default => continue,
                AttributeKind::Superuser if with.creator != Creator::Superuser => {
                    left_out.push(attribute.sql.as_str());
                    continue;
                }
                AttributeKind::Password if with.passwords == Passwords::LeaveOut => continue,
                _ => {}
            }
            sql.push(' ');
            sql.push_str(&attribute.sql);
        }
        if !left_out.is_empty() {
            let attributes = left_out.join(" ");
            self.warnings
                .push(format!("role {name:?} is created without {attributes}: only a superuser may give that"));
        }
        self.steps.push(Step { role: name.to_owned(), what: StepKind::Create, sql });
    }

    fn membership(
        &mut self,
        membership: &Membership,
        create: &BTreeSet<String>,
        existing: &BTreeSet<String>,
        with: &Conditions,
    ) {
        let Membership { parent, member, .. } = membership;
        let sql = membership.sql(create, with);
        let (new_parent, new_member) = (create.contains(parent), create.contains(member));
        if new_member && (new_parent || (is_predefined(parent) && existing.contains(parent))) {
            self.steps.push(Step { role: member.clone(), what: StepKind::Membership, sql });
        } else if (new_member && existing.contains(parent)) || (new_parent && existing.contains(member)) {
            // An existing role may have other powers here than it had there.
            self.warnings.push(format!("a membership with a role that was here before is not restored: {sql}"));
        }
    }
}

impl Membership {
    fn sql(&self, create: &BTreeSet<String>, with: &Conditions) -> String {
        let mut sql = format!("GRANT {} TO {}", quote_ident(&self.parent), quote_ident(&self.member));
        // INHERIT and SET came with 16; before, a membership has one option.
        if with.server_version >= 160_000 && !self.options.is_empty() {
            sql.push(' ');
            sql.push_str(&self.options);
        } else if self.admin {
            sql.push_str(" WITH ADMIN OPTION");
        }
        if let Some(grantor) = self.grantor.as_ref().filter(|grantor| create.contains(*grantor)) {
            sql.push_str(" GRANTED BY ");
            sql.push_str(&quote_ident(grantor));
        }
        sql
    }
}

fn is_predefined(name: &str) -> bool {
    name.starts_with("pg_")
}

/// The words after `ALTER ROLE name WITH`.
fn attributes(tokens: &[Token<'_>]) -> Option<Vec<Attribute>> {
    let mut found = Vec::new();
    let mut rest = tokens;
    while let [first, after @ ..] = rest {
        let word = first.text.to_ascii_uppercase();
        let plain = |kind| Some(Attribute { kind, sql: word.clone() });
        let (attribute, used) = match word.as_str() {
            "NOSUPERUSER" | "INHERIT" | "NOCREATEROLE" | "NOCREATEDB" | "NOLOGIN" | "NOREPLICATION" | "NOBYPASSRLS" => {
                (plain(AttributeKind::Default)?, 1)
            }
            "SUPERUSER" | "REPLICATION" | "BYPASSRLS" => (plain(AttributeKind::Superuser)?, 1),
            "NOINHERIT" | "CREATEROLE" | "CREATEDB" | "LOGIN" => (plain(AttributeKind::Plain)?, 1),
            "PASSWORD" => {
                let sql = format!("PASSWORD {}", after.first()?.text);
                (Attribute { kind: AttributeKind::Password, sql }, 2)
            }
            "VALID" => {
                let sql = format!("VALID UNTIL {}", after.get(1).filter(|token| token.is_literal())?.text);
                (Attribute { kind: AttributeKind::Plain, sql }, 3)
            }
            "CONNECTION" => {
                let digits: Vec<&str> = after.get(1..3)?.iter().map(|token| token.text).collect();
                let (number, used) = if digits[0] == "-" { (digits.concat(), 4) } else { (digits[0].to_owned(), 3) };
                let sql = format!("CONNECTION LIMIT {}", number.parse::<i32>().ok()?);
                (Attribute { kind: AttributeKind::Plain, sql }, used)
            }
            _ => return None,
        };
        found.push(attribute);
        rest = rest.get(used..)?;
    }
    Some(found)
}

/// `GRANT parent TO member [WITH …] [GRANTED BY grantor]`.
fn membership(statement: &Statement<'_>) -> Option<Membership> {
    let tokens = &statement.tokens;
    let after = &tokens[4.min(tokens.len())..];
    let granted = after.windows(2).position(|pair| pair[0].is_word("GRANTED") && pair[1].is_word("BY"));
    let options = &after[..granted.unwrap_or(after.len())];
    let admin = options
        .windows(2)
        .any(|pair| pair[0].is_word("ADMIN") && (pair[1].is_word("OPTION") || pair[1].is_word("TRUE")));
    Some(Membership {
        parent: tokens.get(1)?.name()?,
        member: tokens.get(3)?.name()?,
        options: options.iter().map(|token| token.text).collect::<Vec<_>>().join(" ").replace(" ,", ","),
        admin,
        grantor: match granted {
            Some(at) => Some(after.get(at + 2)?.name()?),
            None => None,
        },
    })
}

/// The statement itself may hold a password.
fn odd(statement: &Statement<'_>) -> Error {
    let beginning: Vec<&str> = statement.tokens.iter().take(3).map(|token| token.text).collect();
    Error::new(
        Kind::Verification,
        format!("the statement that begins with {:?} is not understood", beginning.join(" ")),
    )
    .hint("pgkeep may be older than the pg_dumpall that wrote it; or create the roles by hand")
}

fn encoding_hint(error: Error) -> Error {
    error.hint("create the missing roles by hand: zstd -dc the stored globals, and psql reads them in their encoding")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = r#"
\restrict x
SET client_encoding = 'UTF8';
CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 7 PASSWORD 'SCRAM;x' VALID UNTIL '2040-01-01';
CREATE ROLE "Gr""p";
ALTER ROLE "Gr""p" WITH NOSUPERUSER NOINHERIT CREATEROLE NOCREATEDB NOLOGIN NOREPLICATION BYPASSRLS;
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS PASSWORD 'secret';
CREATE ROLE stranger;
ALTER ROLE stranger WITH SUPERUSER;
ALTER ROLE app SET search_path TO '$user', 'a;b';
ALTER ROLE app IN DATABASE x SET work_mem TO '1MB';
COMMENT ON ROLE app IS 'it''s';
GRANT "Gr""p" TO app WITH ADMIN OPTION, INHERIT FALSE GRANTED BY postgres;
GRANT app TO stranger;
GRANT pg_read_all_data TO app;
GRANT SET ON PARAMETER work_mem TO app;
CREATE TABLESPACE t OWNER app LOCATION '/x';
GRANT CREATE ON TABLESPACE t TO app;
\unrestrict x
"#;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn steps(passwords: Passwords, creator: Creator, server_version: u32) -> (Vec<String>, Vec<String>) {
        let globals = Globals::read(SCRIPT.as_bytes()).unwrap().without_bootstrap("postgres");
        let existing = set(&["postgres", "pg_read_all_data", "stranger"]);
        let missing = globals.choose(&set(&["app"]), &existing);
        assert_eq!(missing, Missing { create: set(&["app", "Gr\"p"]), absent: set(&[]) });
        let with = Conditions { passwords, creator, server_version };
        let creation = globals.creation(&missing.create, &existing, &with);
        (creation.steps.into_iter().map(|step| step.sql).collect(), creation.warnings)
    }

    #[test]
    fn what_is_needed_is_created_with_what_it_is_a_member_of_and_nothing_else() {
        let (steps, warnings) = steps(Passwords::Keep, Creator::Superuser, 150_000);
        assert_eq!(
            steps,
            [
                r#"CREATE ROLE "Gr""p" NOINHERIT CREATEROLE BYPASSRLS"#,
                r#"CREATE ROLE "app" LOGIN CONNECTION LIMIT 7 PASSWORD 'SCRAM;x' VALID UNTIL '2040-01-01'"#,
                r#"ALTER ROLE app SET search_path TO '$user', 'a;b'"#,
                r#"COMMENT ON ROLE app IS 'it''s'"#,
                r#"GRANT "Gr""p" TO "app" WITH ADMIN OPTION"#,
                r#"GRANT "pg_read_all_data" TO "app""#,
            ]
        );
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(r#"GRANT "app" TO "stranger""#));
    }

    #[test]
    fn passwords_and_what_only_a_superuser_may_give_can_be_left_out() {
        let (steps, warnings) = steps(Passwords::LeaveOut, Creator::Role, 160_000);
        assert_eq!(steps[0], r#"CREATE ROLE "Gr""p" NOINHERIT CREATEROLE"#);
        assert_eq!(steps[1], r#"CREATE ROLE "app" LOGIN CONNECTION LIMIT 7 VALID UNTIL '2040-01-01'"#);
        assert_eq!(steps[4], r#"GRANT "Gr""p" TO "app" WITH ADMIN OPTION, INHERIT FALSE"#);
        assert!(warnings[0].contains("without BYPASSRLS"), "{warnings:?}");
    }

    #[test]
    fn the_bootstrap_role_and_strangers_are_never_created() {
        let globals = Globals::read(SCRIPT.as_bytes()).unwrap().without_bootstrap("postgres");
        let missing = globals.choose(&set(&["postgres", "unknown", "pg_monitor"]), &set(&["root"]));
        assert_eq!(missing, Missing { create: set(&[]), absent: set(&["postgres", "unknown"]) });
    }

    #[test]
    fn an_odd_script_is_refused_without_showing_it() {
        let script = "ALTER ROLE app WITH PASSWORD 'secret' FLYING;";
        let error = Globals::read(script.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("ALTER ROLE app"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(Globals::read(b"CREATE ROLE \xff;").unwrap_err().kind, Kind::NotVerified);
    }
}
