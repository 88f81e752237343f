//! Removing objects, one by one or a thousand at a time.

use std::sync::atomic::Ordering;

use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::client::Client;
use super::failure::{Answer, Refusal, refusal};
use super::interceptors::ContentMd5;
use crate::storage::{Fault, Key, Result, StorageError};

/// What the protocol takes in one request.
const BULK: usize = 1_000;

pub(super) async fn delete(client: &Client, key: &Key) -> Result<()> {
    if client.dialect.memory.is_some() {
        // A gateway to a file system would remove a directory of this name, or fail to.
        match super::read::head(client, key).await {
            Err(error) if error.fault == Fault::NotFound => return Ok(()),
            Err(error) => return Err(StorageError { action: format!("delete {key:?}"), ..error }),
            Ok(_) => {}
        }
    }
    let delete = || async {
        let request = client.sdk.delete_object().bucket(&client.bucket).key(client.name(key));
        match request.send().await.map_err(refusal) {
            Ok(_) => Ok(()),
            // Some stores mind, most do not.
            Err(refusal) if refusal.is_no_such_key() => Ok(()),
            Err(refusal) => Err(refusal),
        }
    };
    client.ask(0, delete).await.map_err(|refused| refused.of_change(client, format!("delete {key:?}")))
}

pub(super) async fn delete_all(client: &Client, keys: &[Key]) -> Result<()> {
    if keys.len() > 1 {
        // What a gateway does not remember it takes for gone, and says that it was removed.
        client.forgotten().await;
    }
    for some in keys.chunks(BULK) {
        if some.len() == 1 || client.refuses_bulk.load(Ordering::Relaxed) {
            one_by_one(client, some).await?;
            continue;
        }
        match client.ask(0, || bulk(client, some)).await {
            Ok(()) => {}
            Err(refused) if refused.refusal.is_unknown_request() || refused.refusal.status() == 400 => {
                tracing::debug!("{} does not delete several objects at once", client.place);
                client.refuses_bulk.store(true, Ordering::Relaxed);
                one_by_one(client, some).await?;
            }
            Err(refused) => {
                let action = format!("delete {:?} and {} more", some[0], some.len() - 1);
                return Err(refused.of_change(client, action));
            }
        }
    }
    Ok(())
}

async fn one_by_one(client: &Client, keys: &[Key]) -> Result<()> {
    for key in keys {
        delete(client, key).await?;
    }
    Ok(())
}

/// One request. Its answer is a success even where single objects were refused: each is looked at.
async fn bulk(client: &Client, keys: &[Key]) -> Answer<()> {
    let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(client.name(key)).build());
    let objects = objects.collect::<std::result::Result<Vec<_>, _>>();
    let delete = objects.and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build());
    let delete = delete.map_err(|error| Refusal::Unsent(error.to_string()))?;
    let request = client.sdk.delete_objects().bucket(&client.bucket).delete(delete).customize();
    let answer = request.interceptor(ContentMd5).send().await.map_err(refusal)?;
    let minds = |code: Option<&str>| code != Some("NoSuchKey");
    match answer.errors().iter().find(|error| minds(error.code())) {
        None => Ok(()),
        Some(error) => {
            let code = error.code().unwrap_or_default().to_owned();
            let message = format!("{} ({})", error.message().unwrap_or_default(), error.key().unwrap_or_default());
            // The code decides what it means: that of the answer is a success.
            let status = if code == "AccessDenied" { 403 } else { 500 };
            Err(Refusal::Answered { status, code, message, region: None })
        }
    }
}
