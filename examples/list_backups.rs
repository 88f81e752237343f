//! Lists the backups of a repository with the library: `cargo run --example list_backups -- /backups`.

use pgkeep::config::environment::Environment;
use pgkeep::error::{Error, Result};
use pgkeep::repo::{Catalogue, Entry, Repository, StateDirectory};
use pgkeep::storage::{Access, Address, Missing, Patience};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).ok_or_else(|| Error::usage("no repository is named"))?;
    // A reader of its own: what it remembers of repositories is not shared with the program.
    let state = tempfile::tempdir().map_err(|error| Error::usage("make a temporary directory").because(error))?;
    let (environment, uploads) = (Environment::of_process(), state.path().join("uploads"));
    let access = Access { environment, uploads, patience: Patience::default() };
    let storage = Address::parse(&address)?.open(&access, Missing::Refuse).await?;
    let repository = Repository::open(storage, &StateDirectory::open(state.path())?).await?;
    for entry in Catalogue::read(&repository, None).await?.entries {
        match &entry {
            Entry::Backup(backup) => {
                let state = backup.shortcoming().unwrap_or_else(|| "good".to_owned());
                println!(
                    "{}\t{}\t{} bytes\t{state}",
                    backup.id(),
                    backup.manifest.database,
                    backup.manifest.stored_bytes()
                );
            }
            Entry::Unreadable(unreadable) => println!("{}\tunreadable: {}", entry.id(), unreadable.error),
        }
    }
    Ok(())
}
