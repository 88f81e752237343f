//! Encryption: that what a dump will store can be encrypted, and, where a key is at hand, opened again.

use std::sync::Arc;

use super::{Context, Place};
use crate::command::finding::Finding;
use crate::error::{Error, Kind, Result};
use crate::repo::Repository;
use crate::stream::{Recipients, seal, unseal};

const RECIPIENTS: &str = "encryption.recipients";
const IDENTITY: &str = "encryption.identity";

/// What is told before the repository is asked: recipients are those of the run.
pub async fn look(context: &Context, place: &Place) -> Vec<Finding> {
    let subject = place.name.as_str();
    match place.recipients() {
        Ok(None) => Vec::new(),
        Ok(Some(recipients)) => round_trip(context, place, &recipients).await,
        Err(error) => vec![Finding::of_error(RECIPIENTS, subject, &error)],
    }
}

/// A repository that was encrypted before gets nothing in clear.
pub async fn of_repository(repository: &Repository) -> Option<Finding> {
    let subject = repository.name();
    if repository.recipients().is_some() {
        return None;
    }
    match repository.readers().await {
        Ok(None) => None,
        Ok(Some(readers)) => {
            let evidence = format!("it is encrypted to {readers}, and no recipient is named: a dump is refused");
            Some(
                Finding::fail(RECIPIENTS, subject, evidence).fix("name them with --recipient, or in the configuration"),
            )
        }
        Err(error) => Some(Finding::of_error(RECIPIENTS, subject, &error)),
    }
}

async fn round_trip(context: &Context, place: &Place, recipients: &Arc<Recipients>) -> Vec<Finding> {
    let subject = place.name.as_str();
    let (probe, count) = (place.name.as_bytes(), recipients.texts().len());
    let sealed = match seal(probe, recipients) {
        Ok(sealed) => sealed,
        Err(error) => return vec![Finding::of_error(RECIPIENTS, subject, &error)],
    };
    let to = format!("a probe was encrypted to {count} recipient{}", if count == 1 { "" } else { "s" });
    let keyring = place.keyring(context);
    if keyring.is_empty() {
        let evidence =
            format!("{to}; that a key opens it was not checked: no identity is named, and a dump needs none");
        return vec![Finding::ok(RECIPIENTS, subject, evidence)];
    }
    let opened: Result<Vec<u8>> = async {
        let identities = keyring.identities().await?;
        unseal(&sealed, &*identities.ok_or_else(|| Error::usage("no identity is named"))?)
    }
    .await;
    let here = keyring.files().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ");
    let told = match opened {
        Ok(plain) if plain == probe => {
            // The point of recipients is that this host cannot read its backups.
            let hint = if here.is_empty() { String::new() } else { format!("; the key lies on this host, in {here}") };
            Finding::ok(IDENTITY, subject, format!("the probe was opened again{hint}"))
        }
        Ok(_) => Finding::fail(IDENTITY, subject, "the probe was opened and is another"),
        Err(error) if error.kind == Kind::Usage => {
            Finding::fail(IDENTITY, subject, format!("{error}: it is encrypted to {recipients}"))
                .fix("name the key of one of the recipients, or correct the recipients")
        }
        Err(error) => Finding::of_error(IDENTITY, subject, &error),
    };
    vec![Finding::ok(RECIPIENTS, subject, to), told]
}
