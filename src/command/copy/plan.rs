//! Which backups are meant, where their bytes can come from, and what copying them would do.

use serde::Serialize;

use super::recode::Way;
use super::{Action, Context, Options, Wanted};
use crate::command::{Place, Reading};
use crate::error::{Error, Kind, Result};
use crate::repo::{
    BackupId, Catalogue, Choice, DumpManifest, DumpStem, Entry, Holding, InstanceName, Repository, disagreement,
};

/// What will be copied, by instance.
#[derive(Debug)]
pub struct Plan {
    pub items: Vec<PlannedItem>,
    pub warnings: Vec<String>,
    /// What a source that could not be read makes of an answer that lacks nothing else.
    pub unread: Option<Error>,
    /// `None`: there is no repository yet, and one will be made.
    pub destination: Option<Repository>,
}

/// One backup, and what the destination says of it.
#[derive(Debug)]
pub struct PlannedItem {
    pub instance: InstanceName,
    pub stem: DumpStem,
    pub database: String,
    /// Where its bytes can come from, in the order in which they are asked.
    pub sources: Vec<Repository>,
    /// That of the first source.
    manifest: Option<Box<DumpManifest>>,
    standing: Result<Standing>,
}

/// What the destination has of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No manifest.
    Lacking,
    /// The same backup, with every object that its manifest names.
    There,
}

impl PlannedItem {
    pub fn id(&self) -> BackupId {
        (&self.stem).into()
    }

    /// What the destination has, or why nothing can be done about it.
    pub fn standing(&self) -> Result<Standing> {
        self.standing.as_ref().copied().map_err(Error::repeated)
    }

    pub fn is_lacking(&self) -> bool {
        matches!(self.standing, Ok(Standing::Lacking))
    }

    pub fn stored_bytes(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.stored_bytes())
    }
}

/// Reads what the sources and the destination have. Stores nothing.
pub async fn plan(context: &Context, options: &Options) -> Result<Plan> {
    let to = &options.to;
    if let Some(same) = options.repositories.iter().find(|place| place.address == to.address) {
        return Err(onto_itself(&same.name, &to.name));
    }
    let reading = Reading::of(context, &options.repositories, options.instance.as_ref()).await?;
    let destination = context.interrupt.guard(look(context, to)).await?;
    let held = match &destination {
        None => Catalogue { entries: Vec::new() },
        Some(there) => {
            if let Some(same) = reading.repositories.answering.iter().find(|source| source.id() == there.id()) {
                return Err(onto_itself(same.name(), &to.name));
            }
            context.interrupt.guard(Catalogue::read(there, options.instance.as_ref())).await?
        }
    };
    let mut warnings = reading.repositories.warnings();
    let chosen = choose(options, &reading, &held, &mut warnings)?;
    let items = chosen.into_iter().map(|holding| planned(holding, &held, to)).collect();
    // Which of them are missing is not known while a source is silent; a backup that is named was found.
    let unread = if options.wanted == Wanted::Missing { reading.repositories.partial() } else { None };
    Ok(Plan { items, warnings, unread, destination })
}

fn onto_itself(source: &str, to: &str) -> Error {
    let sentence = match source == to {
        true => format!("{to} is copied from and copied to"),
        false => format!("{source} and {to} are one repository"),
    };
    Error::usage(sentence).hint("copy to another repository")
}

/// The destination, if it is a repository already.
async fn look(context: &Context, to: &Place) -> Result<Option<Repository>> {
    match to.open(context).await {
        Ok(repository) => Ok(Some(repository)),
        Err(error) if error.kind == Kind::NoSuchBackup => Ok(None),
        Err(error) => Err(error),
    }
}

/// The backups that are meant.
fn choose<'a>(
    options: &Options,
    reading: &'a Reading,
    held: &Catalogue,
    warnings: &mut Vec<String>,
) -> Result<Vec<&'a Holding>> {
    let (instance, database) = (options.instance.as_ref(), options.database.as_deref());
    match &options.wanted {
        Wanted::One(which) => {
            let choice = Choice { which: which.clone(), instance, database };
            let chosen = choice.among(&reading.union)?;
            let passed_over = chosen.passed_over.iter();
            warnings.extend(passed_over.map(|(id, why)| format!("{id} is newer and was not chosen: {why}")));
            Ok(vec![chosen.holding])
        }
        Wanted::Missing => {
            let of_database = |holding: &&Holding| database.is_none_or(|database| holding.is_of_database(database));
            let meant: Vec<&Holding> = reading.union.holdings.iter().filter(of_database).collect();
            if meant.is_empty() && (instance.is_some() || database.is_some()) {
                return Err(none(options));
            }
            Ok(meant.into_iter().filter(|holding| is_wanted(holding, held, warnings)).collect())
        }
    }
}

fn none(options: &Options) -> Error {
    let mut sentence = "there is no backup".to_owned();
    if let Some(instance) = &options.instance {
        sentence += &format!(" in instance {instance}");
    }
    if let Some(database) = &options.database {
        sentence += &format!(" of database {database:?}");
    }
    Error::new(Kind::NoSuchBackup, sentence).hint("pgkeep report list shows what there is")
}

/// Whether a missing backup is good. Of one that is not, nothing is said where the destination has it.
fn is_wanted(holding: &Holding, held: &Catalogue, warnings: &mut Vec<String>) -> bool {
    let undelivered = holding.unreadable().is_some_and(|unreadable| unreadable.error.kind != Kind::Verification);
    let Some(why) = holding.shortcoming() else { return true };
    if undelivered {
        return true;
    }
    if entry_of(held, holding.instance(), holding.stem()).is_none() {
        warnings.push(format!("{} is not good and is not copied: {why}", holding.id()));
    }
    false
}

fn entry_of<'a>(held: &'a Catalogue, instance: &InstanceName, stem: &DumpStem) -> Option<&'a Entry> {
    held.entries.iter().find(|entry| entry.instance() == instance && entry.stem() == stem)
}

fn planned(holding: &Holding, held: &Catalogue, to: &Place) -> PlannedItem {
    let sources = holding.sources();
    let first = sources.first().map(|(_, backup)| &backup.manifest);
    // Objects of another size or digest cannot stand in for each other.
    let alike =
        sources.iter().filter(|(_, backup)| first.is_some_and(|first| first.objects == backup.manifest.objects));
    PlannedItem {
        instance: holding.instance().clone(),
        stem: holding.stem().clone(),
        database: holding.database().to_owned(),
        sources: alike.map(|(repository, _)| (*repository).clone()).collect(),
        manifest: first.cloned().map(Box::new),
        standing: standing(holding, held, to),
    }
}

fn standing(holding: &Holding, held: &Catalogue, to: &Place) -> Result<Standing> {
    if let Some(conflict) = holding.conflict() {
        return Err(Error::refused(conflict).hint("copy from one of them: give one --repo"));
    }
    let sources = holding.sources();
    let Some((source, backup)) = sources.first() else {
        let why = holding.unreadable().map(|unreadable| &unreadable.error);
        return Err(why.map_or_else(|| Error::new(Kind::NoSuchBackup, "no source has it"), Error::repeated));
    };
    match entry_of(held, holding.instance(), holding.stem()) {
        None => Ok(Standing::Lacking),
        Some(entry) => compare(entry, &backup.manifest, source.name(), &to.name).map(|()| Standing::There),
    }
}

/// `Ok` if what the destination has is the same backup, and whole.
pub fn compare(entry: &Entry, manifest: &DumpManifest, source: &str, to: &str) -> Result<()> {
    let id = &manifest.id;
    let remove = || {
        let folder = format!("{}/dumps/{id}*", manifest.instance);
        format!("if {source} has the right one, remove {folder} in {to}, the manifest first, and copy again")
    };
    let backup = match entry {
        Entry::Backup(backup) => backup,
        Entry::Unreadable(unreadable) if unreadable.error.kind == Kind::Verification => {
            let action = format!("{to} has a manifest of {id} that is damaged");
            return Err(Error::refused(action).because(unreadable.error.to_string()).hint(remove()));
        }
        Entry::Unreadable(unreadable) => return Err(unreadable.error.repeated()),
    };
    if let Some(what) = disagreement(manifest, &backup.manifest) {
        let action = format!("{source} and {to} have different backups under the id {id}: {what}");
        return Err(Error::refused(action).hint(remove()));
    }
    if backup.is_damaged() {
        let why = backup.shortcoming().unwrap_or_default();
        return Err(Error::refused(format!("the copy of {id} in {to} is damaged: {why}")).hint(remove()));
    }
    Ok(())
}

/// One line of a dry run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    pub id: BackupId,
    pub instance: InstanceName,
    pub database: String,
    /// What would be done; `None` where it would fail.
    pub action: Option<Action>,
    /// What would go over to the destination, if nothing of it is there from a copy that died.
    pub bytes: u64,
    pub sources: Vec<String>,
    pub repositories: Vec<PreviewedPlace>,
    pub error: Option<Error>,
}

/// The destination.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviewedPlace {
    pub name: String,
    pub exists: bool,
    /// `None` where the store cannot say.
    pub free_bytes: Option<u64>,
}

impl crate::command::Item for Preview {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        self.id.as_str()
    }
}

/// What the plan comes to.
pub async fn preview(options: &Options, plan: &Plan) -> Vec<Preview> {
    let free_bytes = match &plan.destination {
        Some(there) => there.storage().free_bytes().await.ok().flatten(),
        None => None,
    };
    let place = PreviewedPlace { name: options.to.name.clone(), exists: plan.destination.is_some(), free_bytes };
    let mut previews = Vec::new();
    for item in &plan.items {
        let standing = match item.standing() {
            Ok(standing) => passable(item, plan, options).await.map(|()| standing),
            error => error,
        };
        previews.push(Preview {
            id: item.id(),
            instance: item.instance.clone(),
            database: item.database.clone(),
            action: standing.as_ref().ok().map(|standing| match standing {
                Standing::Lacking => Action::Copied,
                Standing::There => Action::Skipped,
            }),
            bytes: if item.is_lacking() { item.stored_bytes() } else { 0 },
            sources: item.sources.iter().map(|source| source.name().to_owned()).collect(),
            repositories: vec![place.clone()],
            error: standing.err(),
        });
    }
    previews
}

/// Whether the destination takes it as it is encrypted or not, and what has to be opened for that can be.
async fn passable(item: &PlannedItem, plan: &Plan, options: &Options) -> Result<()> {
    let Some(manifest) = item.manifest.as_ref().filter(|_| item.is_lacking()) else { return Ok(()) };
    let recipients = options.to.recipients()?;
    let way = match (&plan.destination, recipients) {
        (Some(there), _) => Way::of(manifest, there).await?,
        (None, recipients) => Way::into_new(manifest, recipients.as_deref()),
    };
    if way == Way::Recoded
        && manifest.encryption.is_some()
        && let Some(source) = item.sources.first()
    {
        source.identities(manifest).await?;
    }
    Ok(())
}
