//! Whether a store keeps what is there, found out by trying: many accept the question and overwrite all the same.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use super::client::{Client, Guard};
use super::failure::{Answer, refusal};
use super::write::new_token;
use crate::digest::random_hex;
use crate::storage::{CreateOnly, Key, Result};

/// Stores an object twice under the guard of this store, in both of the ways in which objects are stored, and removes it.
pub(super) async fn prove(client: &Client) -> Result<CreateOnly> {
    let proved = match client.dialect.guard {
        Guard::Precondition => CreateOnly::IfNoneMatch,
        Guard::OssHeader => CreateOnly::OssHeader,
        Guard::Look => return Ok(CreateOnly::None),
    };
    // The name is our own pattern, so it is always a key.
    let Ok(key) = Key::new(format!("pgkeep-probe-{}", random_hex(8))) else { return Ok(CreateOnly::None) };
    let holds = holds(client, &key).await;
    let removed = super::delete::delete(client, &key).await;
    let holds = holds?;
    removed?;
    Ok(if holds { proved } else { CreateOnly::None })
}

async fn holds(client: &Client, key: &Key) -> Result<bool> {
    let guard = client.dialect.guard;
    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    let failed = |refused: super::failure::Refused| refused.of_change(client, format!("create {key:?}"));
    let token = new_token();
    match client.ask(0, || client.put(key, &first, &token, Some(guard))).await {
        Ok(()) => {}
        // An attempt whose answer was lost has made it.
        Err(refused) if refused.doubt && refused.refusal.is_taken() => {}
        Err(refused) if refused.refusal.is_unknown_request() => return Ok(false),
        Err(refused) => return Err(failed(refused)),
    }
    match client.ask(0, || client.put(key, &second, &token, Some(guard))).await {
        Ok(()) => return Ok(false),
        Err(refused) if refused.refusal.is_taken() => {}
        Err(refused) => return Err(failed(refused)),
    }
    match client.ask(0, || in_parts(client, key, &second, guard)).await {
        Ok(()) => Ok(false),
        Err(refused) if refused.refusal.is_taken() => Ok(true),
        Err(refused) if refused.refusal.is_unknown_request() => Ok(false),
        Err(refused) => Err(failed(refused)),
    }
}

/// Stores an object of one part.
async fn in_parts(client: &Client, key: &Key, body: &Bytes, guard: Guard) -> Answer<()> {
    let id = client.initiate(key, &new_token(), guard).await?;
    let stored = async {
        let request = client.sdk.upload_part().bucket(&client.bucket).key(client.name(key)).upload_id(&id);
        let part = request.part_number(1).body(ByteStream::from(body.clone())).send().await.map_err(refusal)?;
        let part = CompletedPart::builder().part_number(1).set_e_tag(part.e_tag().map(str::to_owned)).build();
        let parts = CompletedMultipartUpload::builder().parts(part).build();
        client.complete(key, &id, parts, guard).await
    };
    let stored = stored.await;
    if stored.is_err() {
        client.forget(key, &id).await?;
    }
    stored
}
