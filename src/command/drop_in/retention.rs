//! `RETENTION_DAYS`: which dumps on this host go, ours and those of the script that was there before.
//!
//! What is decided is decided by [`crate::repo::retention`]; here is found out what there is, and done what was decided.
//! A dump of the script, which has no manifest, is good if it matches its checksum; it is read only where that lets an
//! older one go. Whatever is not understood stays.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::dump::{Choice, Filter};
use crate::command::{Context, Place};
use crate::config::env_file::EnvFile;
use crate::digest::Sha256;
use crate::error::Result;
use crate::progress::Unit;
use crate::repo::archive::fingerprint;
use crate::repo::retention::{
    Candidate, Decision, Dropped, Extent, Group, Kept, Policy, Standing, decide, digest_of_checksum_file, next_to_prove,
};
use crate::repo::{
    BackupId, BackupKind, Catalogue, DumpStem, Ending, Entry, FlatLayout, Folder, Form, InstanceName, ObjectName,
    Packing, Repository, StoredName, Verb, intents, remove_backup,
};
use crate::storage::Key;

/// More than a line of `sha256sum` has.
const CHECKSUM_LIMIT_BYTES: u64 = 64 << 10;

/// How an archive of `pg_dump -Fc` begins.
const MAGIC: &[u8] = b"PGDMP";

/// Removes what is old and has a good successor; returns how many that were.
pub async fn apply(context: &Context, place: &Place, env_file: &EnvFile) -> Result<usize> {
    let repository = place.open(context).await?;
    let instance = FlatLayout::instance();
    let (now, policy) = (context.clock.now(), Policy::of_days(env_file.retention_days));
    let _lock = context.state.lock(repository.id(), &instance, Verb::Prune, now)?;
    let mut candidates = candidates(&repository, &instance, env_file).await?;
    while let Some(stem) = next_to_prove(&candidates, &policy, now).map(|candidate| candidate.stem.clone()) {
        let standing = prove(context, &repository, &instance, &stem).await;
        tracing::info!("{stem} was made without pgkeep: {}", described(&standing));
        for candidate in candidates.iter_mut().filter(|candidate| candidate.stem == stem) {
            candidate.standing = standing.clone();
        }
    }
    // Of which databases there are others is not known here: a directory of the script has one at a time.
    let mut decided: Vec<_> = candidates.iter().zip(decide(&candidates, &policy, &Dropped::default(), now)).collect();
    decided.sort_by_key(|(candidate, _)| (candidate.started_at, &candidate.stem));
    let mut count = 0;
    for (Candidate { stem, .. }, decision) in decided {
        match &decision {
            Decision::Remove(_) => {
                remove_backup(&repository, &instance, stem).await?;
                let newer = decision.leans_on().map_or(String::new(), |newer| format!("; {newer} is good"));
                tracing::info!("{stem} {decision}{newer}");
                count += 1;
            }
            // Young.
            Decision::Keep(reasons) if reasons.iter().any(|reason| matches!(reason, Kept::Within(_))) => {}
            Decision::Keep(_) => tracing::info!("{stem} {decision}"),
        }
    }
    Ok(count)
}

fn described(standing: &Standing) -> String {
    match standing {
        Standing::Good => "it matches its checksum".to_owned(),
        Standing::Unproven => "it was not read".to_owned(),
        Standing::Bad(why) | Standing::Unknown(why) => why.clone(),
    }
}

async fn candidates(repository: &Repository, instance: &InstanceName, env_file: &EnvFile) -> Result<Vec<Candidate>> {
    // Before the listing: what is in the making then is named by an intent, or has become a backup.
    let in_the_making: BTreeSet<BackupId> =
        intents(repository, instance).await?.into_iter().map(|intent| intent.document.id).collect();
    let mut files: BTreeMap<DumpStem, Vec<Ending>> = BTreeMap::new();
    for meta in repository.storage().list(&Folder::Dumps.of(instance)).await? {
        if let Some(StoredName::Dump { name: ObjectName { stem, ending }, .. }) = StoredName::parse(&meta.key) {
            files.entry(stem).or_default().push(ending);
        }
    }
    let catalogue = Catalogue::read(repository, Some(instance)).await?;
    let ours = catalogue.entries.iter().map(of_entry);
    let known: BTreeSet<&DumpStem> = catalogue.entries.iter().map(Entry::stem).collect();
    let theirs = files.into_iter().filter(|(stem, endings)| {
        let is_archive = endings.contains(&Ending::archive(Packing::PLAIN));
        let is_named = known.contains(stem) || in_the_making.contains(&BackupId::from(stem));
        is_archive && !is_named && endings.iter().all(|ending| ending.is_of_script())
    });
    // What options it was made with nobody knows; those of the env file are the nearest guess.
    let extent = match Filter::new(&Choice::default(), &env_file.extra_options)?.digest() {
        None => Extent::Whole,
        choice => Extent::Part(choice),
    };
    let theirs = theirs.map(|(stem, _)| candidate(&stem, extent.clone(), Standing::Unproven));
    Ok(ours.chain(theirs).collect())
}

fn of_entry(entry: &Entry) -> Candidate {
    match entry {
        Entry::Backup(backup) => Candidate {
            keep: backup.manifest.keep,
            ..candidate(&backup.stem, Extent::of(&backup.manifest), Standing::of(backup))
        },
        Entry::Unreadable(unreadable) => {
            candidate(&unreadable.stem, Extent::Whole, Standing::Unknown(unreadable.error.to_string()))
        }
    }
}

/// The time is that of the name, as the script's dumps have no other.
fn candidate(stem: &DumpStem, extent: Extent, standing: Standing) -> Candidate {
    let started_at = stem.started_at().time();
    let group = Group {
        instance: FlatLayout::instance(),
        kind: BackupKind::Dump,
        database: stem.encoded_database().to_owned(),
        extent,
    };
    Candidate { stem: stem.clone(), group, started_at, finished_at: started_at, standing, keep: None }
}

/// Reads a dump of the script and compares it with the checksum beside it.
async fn prove(context: &Context, repository: &Repository, instance: &InstanceName, stem: &DumpStem) -> Standing {
    let archive = stem.object(Ending::archive(Packing::PLAIN)).key(instance);
    let checksum = stem.object(Ending::checksum(Form::Custom, Packing::PLAIN)).key(instance);
    match compare(context, repository, &archive, &checksum).await {
        Ok(standing) => standing,
        Err(error) => Standing::Unknown(error.to_string()),
    }
}

async fn compare(context: &Context, repository: &Repository, archive: &Key, checksum: &Key) -> Result<Standing> {
    let Some(expected) = digest_in(repository, checksum).await? else {
        return Ok(Standing::Bad("it has no checksum".to_owned()));
    };
    let storage = repository.storage();
    let size_bytes = storage.head(archive).await?.size_bytes;
    let magic = 0..MAGIC.len() as u64;
    if size_bytes < magic.end || storage.read(archive, Some(magic)).await?.next().await?.as_deref() != Some(MAGIC) {
        return Ok(Standing::Bad("it is no archive of pg_dump".to_owned()));
    }
    let task = context.monitor.task("read a dump of the script", Unit::Bytes, Some(size_bytes));
    let found = fingerprint(storage.read(archive, None).await?, &*task).await?;
    if found.sha256 == expected {
        return Ok(Standing::Good);
    }
    Ok(Standing::Bad("it does not match its checksum".to_owned()))
}

async fn digest_in(repository: &Repository, checksum: &Key) -> Result<Option<Sha256>> {
    match repository.storage().get(checksum, CHECKSUM_LIMIT_BYTES).await {
        Ok(text) => Ok(digest_of_checksum_file(&String::from_utf8_lossy(&text))),
        Err(error) if error.fault == crate::storage::Fault::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
