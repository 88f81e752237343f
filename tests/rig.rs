//! The rig for object stores: what it promises to the tests that lean on it, proven with the stock client.

mod common;

use common::Weed;
use common::weed::Object;

#[test]
fn a_bucket_shows_what_lies_in_it_and_what_was_left_unfinished() {
    let weed = Weed::shared();
    let (bucket, other) = (weed.bucket("shows"), weed.bucket("shows"));
    assert_ne!(bucket.name(), other.name());
    bucket.put("b/second", "22");
    bucket.put("a", "");
    assert_eq!(
        bucket.objects(),
        [Object { key: "a".into(), size_bytes: 0 }, Object { key: "b/second".into(), size_bytes: 2 }]
    );
    assert_eq!(bucket.get("b/second").as_deref(), Some(&b"22"[..]));
    assert_eq!(bucket.get("b"), None);
    let uploads = [bucket.begin_upload("b/x"), bucket.begin_upload("c")];
    assert_eq!(bucket.uploads(), uploads);
    bucket.delete("a");
    assert_eq!(bucket.keys(), ["b/second"]);
    assert!(other.objects().is_empty() && other.uploads().is_empty());
}
