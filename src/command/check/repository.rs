//! The repository: that it is the right one, that we may work in it, and that there is room.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use super::{Context, Options, Place, encryption};
use crate::command::finding::Finding;
use crate::error::Kind;
use crate::process::shell_word;
use crate::repo::{Catalogue, LockState, Repository, Union, Verb, probe};
use crate::storage::{Address, Fault, Missing, Prefix, Storage};

/// Looks at the repository, which is returned if there is one.
pub async fn look(
    context: &Context,
    options: &Options,
    place: &Place,
    findings: &mut Vec<Finding>,
) -> Option<Repository> {
    let address = place.name.as_str();
    let directory = match &place.address {
        Address::Local(path) => Some(path.as_path()),
        _ => None,
    };
    let is_flat = place.layout.is_some();
    findings.extend(encryption::look(context, place).await);
    let storage = match place.store(&context.access(), Missing::Refuse).await {
        Ok(storage) => storage,
        Err(error) if error.fault == Fault::NotFound => {
            // Where we have stored before, nothing is a disk that is not mounted, not a place for a new repository.
            let absent = place.absent(context);
            findings.push(match absent.kind {
                Kind::NoSuchBackup if is_flat => Finding::ok("repository.absent", address, MADE_BY_THE_FIRST),
                Kind::NoSuchBackup => would_be_created(address, directory),
                _ => Finding::of_error("repository.open", address, &absent),
            });
            return None;
        }
        Err(error) => {
            findings.push(Finding::of_error("repository.open", address, &error.into()));
            return None;
        }
    };
    findings.extend(directory.map(|directory| owner(address, directory)));
    // In the layout of the env file others read the reports that lie in the same directory.
    findings.extend(directory.filter(|_| !is_flat).and_then(|directory| closed(address, directory)));
    match place.open_in(Arc::clone(&storage), context).await {
        Ok(repository) => {
            let evidence = format!("repository {}", repository.id());
            findings.push(Finding::ok("repository.open", address, evidence));
            findings.extend(encryption::of_repository(&repository).await);
            findings.extend(writable(&repository).await);
            findings.extend(space(&repository, options).await);
            findings.extend(locks(context, &repository, options));
            Some(repository)
        }
        Err(error) if error.kind == Kind::NoSuchBackup => {
            findings.push(match is_flat {
                true => Finding::ok("repository.marker", address, MADE_BY_THE_FIRST),
                false => no_marker(address, directory, &*storage).await,
            });
            None
        }
        Err(error) => {
            findings.push(Finding::of_error("repository.open", address, &error));
            None
        }
    }
}

const MADE_BY_THE_FIRST: &str = "the first dump makes it a repository; what else lies there stays as it is";

fn may_write(directory: &Path) -> bool {
    let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(directory, wanted).is_ok()
}

/// A directory that is no part of a repository and is written to all the same.
pub fn writable_directory(directory: &Path) -> Finding {
    let id = "directory.writable";
    let subject = directory.display().to_string();
    // What is missing is made, as `mkdir -p` makes it.
    let Some(nearest) = directory.ancestors().find(|above| above.exists()) else {
        return Finding::fail(id, subject, "it does not exist, and nothing above it does");
    };
    let fix = format!("create {subject} for the account that runs pgkeep");
    match (nearest.is_dir() && may_write(nearest), nearest == directory) {
        (true, true) => Finding::ok(id, subject, "it can be written to"),
        (true, false) => {
            Finding::ok(id, subject, format!("it does not exist yet, {} can be written to", nearest.display()))
        }
        (false, true) => {
            let account = rustix::process::geteuid();
            let owned = format!("chown {} {}", account.as_raw(), shell_word(directory.as_os_str()));
            Finding::fail(id, subject, "it cannot be written to").fix(owned)
        }
        (false, false) => {
            Finding::fail(id, subject, format!("it does not exist, and {} cannot be written to", nearest.display()))
                .fix(fix)
        }
    }
}

/// Only the last component is ever created: above it a disk may not be mounted.
fn would_be_created(address: &str, directory: Option<&Path>) -> Finding {
    let Some(directory) = directory else {
        return Finding::ok("repository.absent", address, "it does not exist yet: the first dump creates it");
    };
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        let evidence = format!("it does not exist, and neither does {}", parent.display());
        let fix = "check the path, and whether its disk is mounted, or create the directory";
        return Finding::fail("repository.absent", address, evidence).fix(fix);
    }
    if !may_write(parent) {
        let evidence = format!("it does not exist, and {} cannot be written to", parent.display());
        let fix = format!("create {address} for the user who makes backups, or run pgkeep as the owner of the parent");
        return Finding::fail("repository.absent", address, evidence).fix(fix);
    }
    let evidence = "it does not exist yet: the first dump creates it (mode 0700), its parent can be written to";
    Finding::ok("repository.absent", address, evidence)
}

/// A place that is no repository yet. Nothing is stored there before it is one.
async fn no_marker(address: &str, directory: Option<&Path>, storage: &dyn Storage) -> Finding {
    if directory.is_some_and(|directory| !may_write(directory)) {
        let evidence = "it is no repository yet, and the directory cannot be written to";
        return Finding::fail("repository.marker", address, evidence).fix("run pgkeep as the owner of the directory");
    }
    let is_empty = match directory {
        // Whatever lies there, ours or not.
        Some(directory) => std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none()),
        None => match storage.list(&Prefix::root()).await {
            Ok(listed) => listed.is_empty(),
            Err(error) => return Finding::of_error("repository.list", address, &error.into()),
        },
    };
    if is_empty {
        return Finding::ok("repository.marker", address, "nothing is there: the first dump makes it a repository");
    }
    Finding::warn("repository.marker", address, "it is not empty and holds no pgkeep.json")
        .fix("is this the right place? The first dump makes it a repository")
}

/// Whose it is.
fn owner(address: &str, directory: &Path) -> Finding {
    let id = "repository.owner";
    match std::fs::metadata(directory) {
        Ok(metadata) => {
            let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
            Finding::ok(id, address, format!("it belongs to user {uid}, group {gid}, mode {mode:04o}"))
        }
        Err(error) => Finding::warn(id, address, error.to_string()),
    }
}

/// That nobody else can look into it.
fn closed(address: &str, directory: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(directory).ok()?.mode() & 0o7777;
    let evidence = format!("mode {mode:04o} lets others look into it; the backups in it are closed to them");
    let fix = format!("chmod 700 {}", shell_word(address.as_ref()));
    (mode & 0o077 != 0).then(|| Finding::warn("repository.mode", address, evidence).fix(fix))
}

async fn writable(repository: &Repository) -> Option<Finding> {
    let address = repository.name();
    Some(match probe(repository).await {
        Ok(()) => Finding::ok("repository.probe", address, "an object was stored, read and removed"),
        Err(error) => Finding::of_error("repository.probe", address, &error),
    })
}

/// Room for twice what the newest good backup of each database of this instance takes.
async fn space(repository: &Repository, options: &Options) -> Option<Finding> {
    let address = repository.name();
    let id = "repository.space";
    let free = match repository.storage().free_bytes().await {
        Ok(free) => free?,
        Err(error) => return Some(Finding::warn(id, address, error.to_string())),
    };
    let catalogue = match Catalogue::read(repository, Some(&options.instance)).await {
        Ok(catalogue) => catalogue,
        Err(error) => return Some(Finding::of_error("repository.list", address, &error)),
    };
    let union = Union::of([(repository.clone(), catalogue)]);
    let series = union.series();
    let newest = series.iter().filter_map(|series| series.latest().ok()).map(|chosen| chosen.backup);
    let needed: u64 = newest.map(|backup| backup.manifest.stored_bytes()).sum::<u64>().saturating_mul(2);
    let evidence = format!(
        "{} MiB are free, the last dumps of instance {} took {} MiB",
        free >> 20,
        options.instance,
        (needed / 2) >> 20
    );
    Some(if free < needed {
        Finding::warn(id, address, evidence).fix("free some space, or store elsewhere with --repo")
    } else {
        Finding::ok(id, address, evidence)
    })
}

/// A run that is under way would stop another one.
fn locks(context: &Context, repository: &Repository, options: &Options) -> Vec<Finding> {
    let state = |verb| context.state.lock_state(repository.id(), &options.instance, verb);
    let look = |verb: Verb| {
        let subject = format!("{verb} of instance {}{}", options.instance, within(repository, options));
        match state(verb) {
            Ok(LockState::Free) => None,
            Ok(LockState::Held(holder)) => {
                let who = holder.map_or("another process".to_owned(), |holder| format!("process {}", holder.pid));
                let finding = Finding::warn("repository.lock", subject, format!("it is being run by {who}"));
                Some(finding.fix("wait until it has ended, or end it"))
            }
            Err(error) => Some(Finding::of_error("repository.lock", subject, &error)),
        }
    };
    let held: Vec<Finding> = [Verb::Dump, Verb::Verify, Verb::Restore].into_iter().filter_map(look).collect();
    if held.is_empty() {
        let subject = format!("instance {}{}", options.instance, within(repository, options));
        return vec![Finding::ok("repository.lock", subject, "nothing is running on this host")];
    }
    held
}

/// Of several repositories the one that is meant.
fn within(repository: &Repository, options: &Options) -> String {
    match options.repositories.len() {
        0 | 1 => String::new(),
        _ => format!(" in {}", repository.name()),
    }
}
