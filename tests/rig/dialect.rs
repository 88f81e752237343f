//! The proxy as OSS: it refuses what OSS refuses, in its words, and passes what OSS takes.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RequestChecksumCalculation, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use md5::{Digest as _, Md5};

use crate::common::proxy::{Dialect, Kind};
use crate::common::{Bucket, Proxy, Weed};
use crate::wire::{client_of, raw, said};

fn oss() -> (Proxy, Client, Bucket) {
    let weed = Weed::shared();
    let proxy = Proxy::before(weed).dialect(Dialect::Oss).start();
    let client = client_of(&proxy);
    (proxy, client, weed.bucket("oss"))
}

#[tokio::test]
async fn what_oss_takes_passes() {
    let (proxy, client, bucket) = oss();
    let name = bucket.name();
    let odd = "main/ü x+y%20&=~(1)*";
    client.put_object().bucket(name).key(odd).body(ByteStream::from_static(b"12345")).send().await.unwrap();
    assert_eq!(bucket.keys(), [odd]);
    let whole = client.get_object().bucket(name).key(odd).send().await.unwrap().body.collect().await.unwrap();
    assert_eq!(&whole.into_bytes()[..], b"12345");
    let range = client.get_object().bucket(name).key(odd).range("bytes=1-2").send().await.unwrap();
    assert_eq!(&range.body.collect().await.unwrap().into_bytes()[..], b"23");
    assert_eq!(client.head_object().bucket(name).key(odd).send().await.unwrap().content_length, Some(5));
    assert_eq!(said(client.head_object().bucket(name).key("none").send().await).0, 404);
    assert_eq!(client.list_objects_v2().bucket(name).send().await.unwrap().key_count, Some(1));
    client.head_bucket().bucket(name).send().await.unwrap();
    client.delete_object().bucket(name).key(odd).send().await.unwrap();
    assert!(bucket.objects().is_empty());

    let upload = client.create_multipart_upload().bucket(name).key("big").send().await.unwrap().upload_id.unwrap();
    let part = |number| client.upload_part().bucket(name).key("big").upload_id(&upload).part_number(number);
    let mut parts = CompletedMultipartUpload::builder();
    for (number, size) in [(1, 5 << 20), (2, 7)] {
        let e_tag = part(number).body(vec![7; size].into()).send().await.unwrap().e_tag.unwrap();
        parts = parts.parts(CompletedPart::builder().part_number(number).e_tag(e_tag).build());
    }
    let complete = client.complete_multipart_upload().bucket(name).key("big").upload_id(&upload);
    complete.multipart_upload(parts.build()).send().await.unwrap();
    assert_eq!(bucket.objects()[0].size_bytes, (5 << 20) + 7);
    let gone = client.create_multipart_upload().bucket(name).key("gone").send().await.unwrap().upload_id.unwrap();
    client.abort_multipart_upload().bucket(name).key("gone").upload_id(gone).send().await.unwrap();
    assert!(bucket.uploads().is_empty());

    let counts = proxy.counts();
    let kinds = [Kind::Put, Kind::Get, Kind::Head, Kind::List, Kind::HeadBucket, Kind::Delete];
    assert_eq!(kinds.map(|kind| counts.of(kind)), [1, 2, 2, 1, 1, 1]);
    let kinds = [Kind::Initiate, Kind::Part, Kind::Complete, Kind::Abort];
    assert_eq!(kinds.map(|kind| counts.of(kind)), [2, 2, 1, 1]);
    assert_eq!((counts.total(), counts.refused(), counts.faulted()), (14, 0, 0));
    let first = &proxy.seen()[0];
    assert_eq!((&first.bucket[..], &first.key[..], first.status), (name, odd, Some(200)));
}

#[tokio::test]
async fn oss_knows_buckets_as_hosts_only() {
    let (proxy, _, bucket) = oss();
    let config = Weed::shared().client_config(&proxy.endpoint()).force_path_style(true).build();
    let client = Client::from_conf(config);
    let forbidden = (403, "SecondLevelDomainForbidden".to_owned());
    assert_eq!(said(client.put_object().bucket(bucket.name()).key("x").send().await), forbidden);
    assert_eq!(said(client.list_objects_v2().bucket(bucket.name()).send().await), forbidden);
    let answer = raw(&proxy, "GET /bucket/key HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("SecondLevelDomainForbidden"), "{answer}");
    assert!(bucket.objects().is_empty());
    assert_eq!(proxy.counts().refused(), 3);
}

#[tokio::test]
async fn oss_takes_no_payload_in_pieces_and_no_checksum_header() {
    let (proxy, client, bucket) = oss();
    // What the client does with a file unless it is told otherwise.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![1; 100_000]).unwrap();
    let defaults = Weed::shared()
        .client_config(&proxy.endpoint())
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported);
    let defaults = Client::from_conf(defaults.build());
    let body = ByteStream::from_path(file.path()).await.unwrap();
    let answer = defaults.put_object().bucket(bucket.name()).key("x").body(body).send().await.unwrap_err();
    let header = answer.raw_response().unwrap().headers().get("x-oss-ec").map(str::to_owned);
    assert_eq!(header.as_deref(), Some("0017-00000804"));
    let invalid = (400, "InvalidArgument".to_owned());
    assert_eq!(said::<_, ()>(Err(answer)), invalid);
    // And with bytes in memory: a checksum header.
    let answer = defaults.put_object().bucket(bucket.name()).key("x").body(vec![1].into()).send().await;
    assert_eq!(said(answer), invalid);
    let plain = client.put_object().bucket(bucket.name()).key("x").body(vec![1].into());
    let algorithm = plain.checksum_algorithm(aws_sdk_s3::types::ChecksumAlgorithm::Sha256);
    assert_eq!(said(algorithm.send().await), invalid);
    for header in ["Content-Encoding: aws-chunked", "X-Amz-Content-Sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
        let answer =
            raw(&proxy, &format!("PUT /x HTTP/1.1\r\nHost: b.localhost\r\n{header}\r\nContent-Length: 0\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("<EC>0017-00000804</EC>"), "{answer}");
    }
    assert!(bucket.objects().is_empty());
}

#[tokio::test]
async fn oss_knows_no_conditions_on_writes() {
    let (_proxy, client, bucket) = oss();
    let not_implemented = (501, "NotImplemented".to_owned());
    let put = || client.put_object().bucket(bucket.name()).key("x");
    assert_eq!(said(put().if_none_match("*").send().await), not_implemented);
    assert_eq!(said(put().if_match("\"e\"").send().await), not_implemented);
    let complete = client.complete_multipart_upload().bucket(bucket.name()).key("x").upload_id("u").if_none_match("*");
    assert_eq!(said(complete.send().await), not_implemented);
    assert!(bucket.objects().is_empty());
    put().body(vec![1].into()).send().await.unwrap();
    // Reading under a condition is another matter.
    let answer = client.get_object().bucket(bucket.name()).key("x").if_match("\"other\"").send().await;
    assert_eq!(said(answer).0, 412);
}

/// An MD5 of the body, or of something else, in the place of a checksum.
#[derive(Debug)]
struct DeleteObjectsMd5 {
    right: bool,
}

impl Intercept for DeleteObjectsMd5 {
    fn name(&self) -> &'static str {
        "DeleteObjectsMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let body = request.body().bytes().expect("a body in memory");
        let digest = Md5::digest(if self.right { body } else { b"another" });
        request.headers_mut().insert("content-md5", aws_smithy_types::base64::encode(digest));
        for name in ["x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"] {
            request.headers_mut().remove(name);
        }
        Ok(())
    }
}

#[tokio::test]
async fn oss_wants_an_md5_to_delete_many() {
    let (proxy, client, bucket) = oss();
    bucket.put("a", "1");
    bucket.put("b", "2");
    let object = |key: &str| ObjectIdentifier::builder().key(key).build().unwrap();
    let both = Delete::builder().objects(object("a")).objects(object("b")).build().unwrap();
    let delete = client.delete_objects().bucket(bucket.name()).delete(both);
    assert_eq!(said(delete.clone().send().await), (400, "InvalidArgument".to_owned()));
    let request = "POST /?delete HTTP/1.1\r\nHost: b.localhost\r\nContent-Length: 0\r\n\r\n";
    assert!(raw(&proxy, request).contains("<Code>MissingArgument</Code>"));
    assert_eq!(bucket.keys(), ["a", "b"]);
    let wrong = delete.clone().customize().interceptor(DeleteObjectsMd5 { right: false }).send().await;
    assert_eq!(said(wrong), (400, "InvalidDigest".to_owned()));
    assert_eq!(bucket.keys(), ["a", "b"]);
    let answer = delete.customize().interceptor(DeleteObjectsMd5 { right: true }).send().await.unwrap();
    assert_eq!(answer.deleted().len(), 2);
    assert!(bucket.objects().is_empty());
    assert_eq!((proxy.counts().of(Kind::BulkDelete), proxy.counts().refused()), (4, 3));
}

#[tokio::test]
async fn oss_lists_no_uploads() {
    let (_proxy, client, bucket) = oss();
    let answer = client.list_multipart_uploads().bucket(bucket.name()).send().await;
    assert_eq!(said(answer), (501, "NotImplemented".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oss_forbids_to_overwrite_when_asked_to_and_of_racing_creators_one_wins() {
    let (_proxy, client, bucket) = oss();
    let create = |key: &str, body: u8| {
        let put = client.put_object().bucket(bucket.name()).key(key).body(vec![body].into());
        put.customize().mutate_request(|request| {
            request.headers_mut().insert("x-oss-forbid-overwrite", "true");
        })
    };
    let exists = (409, "FileAlreadyExists".to_owned());
    create("x", 1).send().await.unwrap();
    assert_eq!(said(create("x", 2).send().await), exists);
    assert_eq!(bucket.get("x").as_deref(), Some(&[1][..]));
    client.put_object().bucket(bucket.name()).key("x").body(vec![3].into()).send().await.unwrap();
    assert_eq!(bucket.get("x").as_deref(), Some(&[3][..]));

    let mut racers = tokio::task::JoinSet::new();
    for body in 0..16 {
        let create = create("race", body);
        racers.spawn(async move { create.send().await.map(|_| body) });
    }
    let ended = racers.join_all().await;
    let winners: Vec<u8> = ended.iter().filter_map(|answer| answer.as_ref().ok().copied()).collect();
    assert_eq!(winners.len(), 1, "{ended:?}");
    assert_eq!(bucket.get("race").as_deref(), Some(&winners[..]));
    assert!(ended.into_iter().filter(Result::is_err).all(|answer| said(answer) == exists));

    // In parts it is asked at both ends.
    let forbid = |request: &mut aws_sdk_s3::config::http::HttpRequest| {
        request.headers_mut().insert("x-oss-forbid-overwrite", "true");
    };
    let initiate = |key: &str| client.create_multipart_upload().bucket(bucket.name()).key(key);
    assert_eq!(said(initiate("x").customize().mutate_request(forbid).send().await), exists);
    let late = initiate("late").customize().mutate_request(forbid).send().await.unwrap().upload_id.unwrap();
    let part = client.upload_part().bucket(bucket.name()).key("late").upload_id(&late).part_number(1);
    let e_tag = part.body(vec![9].into()).send().await.unwrap().e_tag.unwrap();
    let part = CompletedPart::builder().part_number(1).e_tag(e_tag).build();
    let parts = CompletedMultipartUpload::builder().parts(part).build();
    let complete = client.complete_multipart_upload().bucket(bucket.name()).key("late").upload_id(&late);
    let complete = complete.multipart_upload(parts).customize().mutate_request(forbid);
    bucket.put("late", "first");
    assert_eq!(said(complete.send().await), exists);
    assert_eq!(bucket.get("late").as_deref(), Some(&b"first"[..]));
}

#[tokio::test]
async fn without_a_dialect_everything_passes() {
    let weed = Weed::shared();
    let proxy = Proxy::before(weed).start();
    let (client, bucket) = (client_of(&proxy), weed.bucket("plain"));
    let put = || client.put_object().bucket(bucket.name()).key("x").if_none_match("*");
    put().send().await.unwrap();
    assert_eq!(said(put().send().await), (412, "PreconditionFailed".to_owned()));
    let ignored = put().key("y").customize().mutate_request(|request| {
        request.headers_mut().insert("x-oss-forbid-overwrite", "true");
    });
    ignored.send().await.unwrap();
    client.list_multipart_uploads().bucket(bucket.name()).send().await.unwrap();
    assert_eq!(proxy.counts().refused(), 0);
}
