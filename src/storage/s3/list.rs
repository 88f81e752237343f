//! Listing objects, page by page, to the end.

use std::collections::BTreeSet;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::client::Client;
use super::failure::refusal;
use super::read::stored_at;
use crate::storage::{Fault, ObjectMeta, Prefix, Result};

pub(super) async fn list(client: &Client, prefix: &Prefix) -> Result<Vec<ObjectMeta>> {
    let action = || format!("list {prefix:?}");
    let failed = |cause: String| client.failed(Fault::Other, action(), cause);
    let wanted = client.prefix(prefix);
    client.forgotten().await;
    let (mut objects, mut token): (Vec<ObjectMeta>, Option<String>) = (Vec::new(), None);
    let mut followed = BTreeSet::new();
    loop {
        let ask = || async {
            let request = client.sdk.list_objects_v2().bucket(&client.bucket).prefix(&wanted);
            request.set_continuation_token(token.clone()).send().await.map_err(refusal)
        };
        let page = client.ask(0, ask).await.map_err(|refused| refused.at(client, action()))?;
        take(client, &page, &mut objects).map_err(&failed)?;
        let next = page.next_continuation_token().filter(|next| !next.is_empty());
        match (page.is_truncated(), next) {
            (Some(false), _) => break,
            (Some(true), None) => {
                return Err(failed("the store breaks its list off and does not tell how to go on".to_owned()));
            }
            (None, None) => return Err(failed("the store does not tell whether its list ends here".to_owned())),
            (_, Some(next)) => {
                if !followed.insert(next.to_owned()) {
                    return Err(failed("the store goes on with its list where it was before".to_owned()));
                }
                token = Some(next.to_owned());
            }
        }
    }
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    if client.dialect.memory.is_some() {
        // While an object is replaced, a gateway may list the old and the new one.
        objects.dedup_by(|later, earlier| later.key == earlier.key);
    }
    match objects.windows(2).find(|pair| pair[0].key == pair[1].key) {
        // Pages that overlap may as well leave something out.
        Some(pair) => Err(failed(format!("the store lists {} twice", pair[0].key))),
        None => Ok(objects),
    }
}

/// Takes the objects of one page. What cannot be a key of ours is somebody else's and is passed over.
fn take(client: &Client, page: &ListObjectsV2Output, objects: &mut Vec<ObjectMeta>) -> std::result::Result<(), String> {
    for object in page.contents() {
        let name = object.key().ok_or("the store lists an object without a name")?;
        let Some(key) = client.key(name) else { continue };
        let size_bytes = object.size().and_then(|size| u64::try_from(size).ok());
        let (Some(size_bytes), Some(modified)) = (size_bytes, stored_at(object.last_modified())) else {
            return Err(format!("the store lists {key} without its size and time"));
        };
        objects.push(ObjectMeta { key, size_bytes, modified });
    }
    Ok(())
}
