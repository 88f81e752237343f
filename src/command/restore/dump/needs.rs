//! What a restore needs of the server: extensions and roles.

use std::collections::{BTreeMap, BTreeSet};

use super::part::{Chosen, Presence};
use super::plan::quoted;
use super::roles::Missing;
use super::subject::{Subject, grantees, is_of_database};
use super::target::{Me, Target};
use super::{Options, Ownership, Privileges};
use crate::error::{Error, Result};
use crate::pg::archive::RoleUses;
use crate::pg::database::Extension;
use crate::pg::ident::quote_ident;

/// What a restore needs, with roles as they are mapped.
#[derive(Debug)]
pub struct Needs {
    pub roles: BTreeSet<String>,
    /// Those of the roles that own something.
    owners: BTreeSet<String>,
    extensions: Vec<Extension>,
}

impl Needs {
    pub fn of(options: &Options, subject: &Subject, chosen: Option<&Chosen>, presence: &Presence) -> Result<Self> {
        let description = &subject.description;
        let mut extensions = description.extensions.clone();
        let Some(front) = &subject.front else {
            let relations = description.relations.iter().map(|relation| relation.owner.clone());
            let owners = relations.chain([description.database.owner.clone()]).collect();
            return Ok(Self { roles: description.roles.clone(), owners, extensions });
        };
        let is_chosen = |entry: &_| chosen.is_none_or(|chosen| chosen.has(entry));
        let mut uses = front.role_uses(|entry| !is_of_database(entry) && is_chosen(entry))?;
        // An existing database keeps its owner, rights and settings.
        if matches!(presence, Presence::New { .. }) {
            let of_database = of_database(subject)?;
            uses.owners.extend(of_database.owners);
            uses.privileges.extend(of_database.privileges);
            uses.others.extend(of_database.others);
        }
        let mapped = |names: BTreeSet<String>| -> BTreeSet<String> {
            let mapped = names.into_iter().map(|name| options.role_map.get(&name).cloned().unwrap_or(name));
            mapped.filter(|name| !name.starts_with("pg_") && !name.is_empty()).collect()
        };
        let owners = if options.ownership == Ownership::AsDumped { mapped(uses.owners) } else { BTreeSet::new() };
        let mut roles = mapped(uses.others);
        roles.extend(owners.iter().cloned());
        if options.privileges == Privileges::AsDumped {
            roles.extend(mapped(uses.privileges));
        }
        let wanted: BTreeSet<&str> = front
            .entries()
            .iter()
            .map(|front| &front.entry)
            .filter(|entry| &*entry.desc == "EXTENSION" && is_chosen(entry))
            .map(|entry| &*entry.tag)
            .collect();
        extensions.retain(|extension| chosen.is_none() || wanted.contains(extension.name.as_str()));
        Ok(Self { roles, owners, extensions })
    }

    pub async fn check_extensions(&self, target: &Target, warnings: &mut Vec<String>) -> Result<()> {
        let available = target.available_extensions().await?;
        let mut absent = Vec::new();
        for extension in &self.extensions {
            match available.get(&extension.name) {
                None => absent.push(extension.name.as_str()),
                Some(Some(version)) if *version != extension.version && !extension.version.is_empty() => {
                    warnings.push(format!(
                        "extension {:?} was of version {}, the target creates {version}",
                        extension.name, extension.version
                    ));
                }
                Some(_) => {}
            }
        }
        if absent.is_empty() {
            return Ok(());
        }
        let major = target.server_version() / 10_000;
        let what = format!("{} lacks extensions that the dump needs: {}", target.address(), quoted(&absent));
        Err(Error::refused(what).hint(format!(
            "install their packages on the server (Debian: postgresql-{major} has contrib, others are \
             postgresql-{major}-NAME), then restore again"
        )))
    }

    pub async fn check_roles(&self, missing: &Missing, target: &Target, me: &Me) -> Result<()> {
        if !missing.absent.is_empty() {
            return Err(absent(missing, target));
        }
        if !missing.create.is_empty() && !me.create_roles {
            let create: Vec<&str> = missing.create.iter().map(String::as_str).collect();
            let what = format!("role {:?} may not create the missing roles {}", me.name, quoted(&create));
            let hint = format!("ALTER ROLE {} CREATEROLE, or restore as a superuser", quote_ident(&me.name));
            return Err(Error::refused(what).hint(hint));
        }
        if me.superuser {
            return Ok(());
        }
        let beyond = target.owners_beyond_reach(&self.owners).await?;
        if beyond.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = beyond.iter().map(|owner| owner.name.as_str()).collect();
        let grants = names.iter().map(|owner| format!("GRANT {} TO {};", quote_ident(owner), quote_ident(&me.name)));
        // Whoever is a member of a superuser can become one: no advice for a role that restores.
        let hint = match beyond.iter().any(|owner| owner.superuser) {
            true => "restore as a superuser, or leave the owners out with --no-owner".to_owned(),
            false => format!("restore as a superuser, or: {}", grants.collect::<Vec<_>>().join(" ")),
        };
        Err(Error::refused(format!("role {:?} may not make {} own what they owned", me.name, quoted(&names)))
            .hint(hint))
    }
}

/// The roles that own the database, have rights on it or settings in it; not mapped where the archive tells of them.
fn of_database(subject: &Subject) -> Result<RoleUses> {
    let Some(front) = subject.front.as_ref().filter(|_| subject.backup.is_none()) else {
        let description = &subject.description;
        return Ok(RoleUses {
            owners: BTreeSet::from([description.database.owner.clone()]),
            privileges: description.database.acl.iter().flatten().flat_map(|item| grantees(item)).collect(),
            others: description.settings.iter().filter_map(|setting| setting.role.clone()).collect(),
        });
    };
    front.role_uses(is_of_database)
}

fn absent(missing: &Missing, target: &Target) -> Error {
    let absent: Vec<&str> = missing.absent.iter().map(String::as_str).collect();
    let create: Vec<String> = absent.iter().map(|name| format!("CREATE ROLE {} NOLOGIN;", quote_ident(name))).collect();
    let why = "the dump refers to roles that the target does not have and that cannot be created from it";
    Error::refused(format!("{why}: {}", quoted(&absent))).hint(format!(
        "create them on {}: {} Or give what they have to others with --role-map OLD=NEW, or leave it out with \
         --no-owner --no-privileges",
        target.address(),
        create.join(" ")
    ))
}

/// Roles that do not exist there, or not here, are mistyped.
pub fn check_role_map(
    options: &Options,
    subject: &Subject,
    existing: &BTreeSet<String>,
    target: &Target,
) -> Result<()> {
    let map: &BTreeMap<String, String> = &options.role_map;
    if map.is_empty() {
        return Ok(());
    }
    let all = subject.all_roles()?;
    if let Some(unknown) = map.keys().find(|role| !all.contains(*role)) {
        let named: Vec<&str> = all.iter().map(String::as_str).collect();
        return Err(Error::usage(format!("--role-map names role {unknown:?}, which the dump does not refer to"))
            .because(format!("it refers to {}", quoted(&named)))
            .hint("write it as it is there; a role that is not named keeps what it had"));
    }
    match map.values().find(|role| !existing.contains(*role)) {
        Some(absent) => Err(Error::refused(format!("there is no role {absent:?} on {}", target.address()))
            .hint(format!("create it: CREATE ROLE {};", quote_ident(absent)))),
        None => Ok(()),
    }
}
