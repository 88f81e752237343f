//! Each fault does what it says, and nothing more.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use bytes::Bytes;

use crate::common::proxy::{Fault, Kind, On};
use crate::common::{Bucket, Proxy, Weed};
use crate::wire::{client_of, said};

fn scene() -> (Proxy, Client, Bucket) {
    let weed = Weed::shared();
    let proxy = Proxy::before(weed).start();
    let client = client_of(&proxy);
    (proxy, client, weed.bucket("faults"))
}

fn megabyte() -> Bytes {
    (0..1 << 20).map(|at: u32| (at % 251) as u8).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn error_answers_are_said_and_nothing_is_done() {
    let (proxy, client, bucket) = scene();
    let errors = [
        (Fault::SlowDown, 503, "SlowDown"),
        (Fault::InternalError, 500, "InternalError"),
        (Fault::RequestTimeTooSkewed, 403, "RequestTimeTooSkewed"),
        (Fault::ExpiredToken, 403, "ExpiredToken"),
    ];
    let put = || client.put_object().bucket(bucket.name()).key("x").body(megabyte().into());
    for (fault, status, code) in errors {
        proxy.inject(On::kind(Kind::Put), fault);
        assert_eq!(said(put().send().await), (status, code.to_owned()));
        assert!(bucket.objects().is_empty());
        proxy.inject(On::kind(Kind::Head), fault);
        assert_eq!(said(client.head_object().bucket(bucket.name()).key("x").send().await).0, status);
    }
    put().send().await.unwrap();
    assert_eq!(bucket.get("x"), Some(megabyte()));
    let counts = proxy.counts();
    assert_eq!((counts.of(Kind::Put), counts.of(Kind::Head), counts.faulted()), (5, 4, 8));
    assert_eq!((counts.met(Fault::SlowDown), counts.met(Fault::Stall)), (2, 0));
}

#[tokio::test]
async fn a_cut_request_leaves_nothing_and_a_lost_answer_leaves_everything() {
    let (proxy, client, bucket) = scene();
    let put = |key: &str| client.put_object().bucket(bucket.name()).key(key).body(megabyte().into());
    proxy.inject(On::kind(Kind::Put), Fault::CutRequest);
    assert_eq!(said(put("cut").send().await), (0, "no connection".to_owned()));
    assert!(bucket.objects().is_empty());
    proxy.inject(On::kind(Kind::Put), Fault::LostAnswer);
    assert_eq!(said(put("lost").send().await), (0, "no connection".to_owned()));
    assert_eq!(bucket.get("lost"), Some(megabyte()));
    proxy.inject(On::kind(Kind::Delete), Fault::LostAnswer);
    said(client.delete_object().bucket(bucket.name()).key("lost").send().await);
    assert!(bucket.objects().is_empty());
    let statuses: Vec<_> = proxy.seen().into_iter().map(|seen| (seen.kind, seen.fault, seen.status)).collect();
    let lost = Some(Fault::LostAnswer);
    let expected = [(Kind::Put, Some(Fault::CutRequest), None), (Kind::Put, lost, None), (Kind::Delete, lost, None)];
    assert_eq!(statuses, expected);
}

#[tokio::test]
async fn a_cut_answer_begins_and_does_not_end() {
    let (proxy, client, bucket) = scene();
    bucket.put("x", megabyte());
    proxy.inject(On::kind(Kind::Get), Fault::CutResponse);
    let mut object = client.get_object().bucket(bucket.name()).key("x").send().await.unwrap();
    assert_eq!(object.content_length, Some(1 << 20));
    let mut got = Vec::new();
    let error = loop {
        match object.body.next().await.expect("the body is cut") {
            Ok(piece) => got.extend_from_slice(&piece),
            Err(error) => break error,
        }
    };
    assert!(got.len() <= 1 << 19 && megabyte().starts_with(&got), "{} bytes, then {error}", got.len());
    // Where there is no body the head is cut, and what was asked for is done.
    proxy.inject(On::kind(Kind::Put), Fault::CutResponse);
    said(client.put_object().bucket(bucket.name()).key("y").send().await);
    assert_eq!(bucket.keys(), ["x", "y"]);
    proxy.inject(On::kind(Kind::List), Fault::CutResponse);
    said(client.list_objects_v2().bucket(bucket.name()).send().await);
}

#[tokio::test]
async fn one_bit_differs() {
    let (proxy, client, bucket) = scene();
    bucket.put("x", megabyte());
    proxy.inject(On::kind(Kind::Get), Fault::FlippedBit);
    let get = || async {
        let object = client.get_object().bucket(bucket.name()).key("x").send().await.unwrap();
        object.body.collect().await.unwrap().into_bytes()
    };
    let got = get().await;
    let differing: u32 = got.iter().zip(&megabyte()).map(|(got, sent)| (got ^ sent).count_ones()).sum();
    assert_eq!((got.len(), differing), (1 << 20, 1));
    assert_eq!(get().await, megabyte());
}

#[tokio::test]
async fn an_error_inside_200_undoes_nothing_because_nothing_was_done() {
    let (proxy, client, bucket) = scene();
    let upload = bucket.begin_upload("big");
    let part = client.upload_part().bucket(bucket.name()).key("big").upload_id(&upload.id).part_number(1);
    let e_tag = part.body(vec![9].into()).send().await.unwrap().e_tag.unwrap();
    let part = CompletedPart::builder().part_number(1).e_tag(e_tag).build();
    let parts = CompletedMultipartUpload::builder().parts(part).build();
    let complete = client.complete_multipart_upload().bucket(bucket.name()).key("big").upload_id(&upload.id);
    let complete = complete.multipart_upload(parts);
    // It waits for a request to which it can happen.
    proxy.inject(On::any().times(3), Fault::ErrorInside200);
    assert_eq!(said(complete.clone().send().await), (200, "InternalError".to_owned()));
    assert_eq!(bucket.uploads(), [upload]);
    complete.send().await.unwrap_err();
    bucket.put("big", "1");
    bucket.put("a&b", "2");

    let objects = ["big", "a&b"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let both = Delete::builder().set_objects(Some(objects.into())).build().unwrap();
    let delete = client.delete_objects().bucket(bucket.name()).delete(both);
    let answer = delete.clone().send().await.unwrap();
    let failed: Vec<_> = answer.errors().iter().map(|error| (error.key().unwrap(), error.code().unwrap())).collect();
    assert_eq!(failed, [("big", "InternalError"), ("a&b", "InternalError")]);
    assert!(answer.deleted().is_empty());
    assert_eq!(bucket.keys(), ["a&b", "big"]);
    assert!(delete.send().await.unwrap().errors().is_empty());
    assert!(bucket.objects().is_empty());
    assert_eq!(proxy.counts().met(Fault::ErrorInside200), 3);

    bucket.put("from", "3");
    proxy.inject(On::any(), Fault::ErrorInside200);
    let copy = client.copy_object().bucket(bucket.name()).key("to").copy_source(format!("{}/from", bucket.name()));
    assert_eq!(said(copy.clone().send().await), (200, "InternalError".to_owned()));
    assert_eq!(bucket.keys(), ["from"]);
    copy.send().await.unwrap();
    assert_eq!(bucket.keys(), ["from", "to"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_lasts_until_it_is_released() {
    let (proxy, client, bucket) = scene();
    bucket.put("x", megabyte());
    proxy.inject(On::kind(Kind::Put).key("y"), Fault::Stall);
    proxy.inject(On::kind(Kind::Get), Fault::StallInResponse);
    let put = tokio::spawn(client.put_object().bucket(bucket.name()).key("y").body(megabyte().into()).send());
    let get = client.get_object().bucket(bucket.name()).key("x");
    let get = tokio::spawn(async move { get.send().await.unwrap().body.collect().await.unwrap().into_bytes() });
    proxy.until_stalled(Kind::Put);
    proxy.until_stalled(Kind::Get);
    assert_eq!(bucket.keys(), ["x"]);
    assert!(!put.is_finished() && !get.is_finished());
    // Others pass.
    client.put_object().bucket(bucket.name()).key("z").send().await.unwrap();
    proxy.release();
    put.await.unwrap().unwrap();
    assert_eq!(get.await.unwrap(), megabyte());
    assert_eq!(bucket.keys(), ["x", "y", "z"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_client_that_leaves_is_forgotten() {
    let (proxy, client, bucket) = scene();
    proxy.inject(On::kind(Kind::Put), Fault::Stall);
    let put = tokio::spawn(client.put_object().bucket(bucket.name()).key("x").body(megabyte().into()).send());
    proxy.until_stalled(Kind::Put);
    put.abort();
    proxy.until("the client has left", |seen| seen[0].left);
    proxy.release();
    client.head_bucket().bucket(bucket.name()).send().await.unwrap();
    assert!(bucket.objects().is_empty());
}

#[tokio::test]
async fn a_slow_store_takes_the_time_that_its_bytes_need() {
    let (proxy, client, bucket) = scene();
    proxy.slow(2 << 20);
    let began = std::time::Instant::now();
    client.put_object().bucket(bucket.name()).key("x").body(megabyte().into()).send().await.unwrap();
    let object = client.get_object().bucket(bucket.name()).key("x").send().await.unwrap();
    assert_eq!(object.body.collect().await.unwrap().into_bytes(), megabyte());
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_is_refused_finds_nobody_until_it_is_healed() {
    let (proxy, client, bucket) = scene();
    client.head_bucket().bucket(bucket.name()).send().await.unwrap();
    proxy.refuse();
    let refused = std::net::TcpStream::connect(("127.0.0.1", proxy.port())).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(said(client.head_bucket().bucket(bucket.name()).send().await), (0, "no connection".to_owned()));
    proxy.inject(On::any().always(), Fault::SlowDown);
    proxy.heal();
    client.head_bucket().bucket(bucket.name()).send().await.unwrap();
    assert_eq!(proxy.counts().total(), 2);
}

#[tokio::test]
async fn a_plan_hits_the_requests_that_it_names() {
    let (proxy, client, bucket) = scene();
    proxy.inject(On::kinds(&[Kind::Put, Kind::Get]).key("manifest").nth(2).times(2), Fault::SlowDown);
    let mut hit = Vec::new();
    for key in ["manifest", "data", "a/manifest.json", "b/manifest", "c/manifest"] {
        hit.push(client.put_object().bucket(bucket.name()).key(key).send().await.is_err());
    }
    assert_eq!(hit, [false, false, true, true, false]);
    proxy.inject(On::any().always(), Fault::InternalError);
    for _ in 0..3 {
        said(client.head_bucket().bucket(bucket.name()).send().await);
    }
    assert_eq!(proxy.counts().met(Fault::InternalError), 3);
}

#[tokio::test]
async fn the_lot_falls_as_often_as_told_the_same_for_the_same_seed_and_never_thrice_running() {
    let (_, _, bucket) = scene();
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let proxy = Proxy::before(Weed::shared()).start();
        let client = client_of(&proxy);
        proxy.random(seed, 5);
        for number in 0..400 {
            let _ = client.put_object().bucket(bucket.name()).key(format!("{number}")).send().await;
        }
        let faults: Vec<_> = proxy.seen().into_iter().map(|seen| seen.fault).collect();
        let faulted = proxy.counts().faulted();
        assert!((40..120).contains(&faulted), "{faulted} of 400");
        runs.push(faults);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    let kinds: std::collections::BTreeSet<_> = runs[0].iter().flatten().collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");

    let proxy = Proxy::before(Weed::shared()).start();
    let client = client_of(&proxy);
    proxy.random_among(3, 1, &[Fault::SlowDown]);
    let mut failed = Vec::new();
    for _ in 0..6 {
        failed.push(client.put_object().bucket(bucket.name()).key("same").send().await.is_err());
    }
    assert_eq!(failed, [true, true, false, true, true, false]);
}
