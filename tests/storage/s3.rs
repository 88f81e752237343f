//! What only a store beyond a network has to keep: its answers get lost, it stalls, it refuses, its keys end.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use pgkeep::clock::{Clock as _, SystemClock};
use pgkeep::error::{Error, Kind as ErrorKind};
use pgkeep::storage::{Address, CreateOnly, Credentials, Fault, Key, Missing, Patience, Prefix, Storage};

use crate::common::proxy::{Dialect, Fault as Trouble, Kind, On, Proxy};
use crate::common::weed::{Bucket, Weed};
use crate::contract::{key, noise};
use crate::stores::House;

const MIB: usize = 1 << 20;

/// A bucket behind a proxy, and somewhere to open it from.
struct Scene {
    bucket: Bucket,
    proxy: Proxy,
    house: House,
    scheme: &'static str,
}

impl Scene {
    fn plain() -> Self {
        Self::of(Dialect::Plain, "s3")
    }

    fn oss() -> Self {
        Self::of(Dialect::Oss, "oss")
    }

    fn of(dialect: Dialect, scheme: &'static str) -> Self {
        let weed = Weed::shared();
        let proxy = Proxy::before(weed).dialect(dialect).start();
        Self { bucket: weed.bucket("scene"), proxy, house: House::new(), scheme }
    }

    fn address(&self, more: &str) -> String {
        format!("{}://{}/pg?endpoint={}{more}", self.scheme, self.bucket.name(), self.proxy.endpoint())
    }

    async fn open(&self) -> Arc<dyn Storage> {
        self.house.open(&self.address("")).await
    }

    /// Nothing lies in the bucket but these objects, and nothing is noted.
    fn holds(&self, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| format!("pg/{name}")).collect();
        assert_eq!(self.bucket.keys(), names);
        assert_eq!(self.bucket.uploads(), []);
        assert_eq!(self.house.noted(), 0);
    }
}

async fn fails(house: &House, address: &str) -> Error {
    let opening = async { Address::parse(address).unwrap().open(&house.access(), Missing::CreateLast).await };
    let answer = tokio::time::timeout(Duration::from_secs(15), opening).await;
    let error = answer.expect("a store that cannot be opened is said to be so within 15 s").unwrap_err();
    assert_ne!(error.fault, Fault::NotFound, "{error}");
    error.into()
}

/// A large object by pieces that fit into no part.
async fn write(
    storage: &dyn Storage,
    name: &str,
    seed: u64,
    pieces: u64,
) -> Result<u64, pgkeep::storage::StorageError> {
    let mut writer = storage.writer(&key(name), None).await?;
    for piece in 0..pieces {
        writer.write(noise(seed + piece, 3 * MIB + 17)).await?;
    }
    writer.finish().await.map(|meta| meta.size_bytes)
}

async fn is_written(storage: &dyn Storage, name: &str, seed: u64, pieces: u64) {
    let expected: Vec<u8> = (0..pieces).flat_map(|piece| noise(seed + piece, 3 * MIB + 17)).collect();
    assert!(storage.get(&key(name), u64::MAX).await.unwrap() == expected, "{name} is not what was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_store_from_being_opened_is_told_apart() {
    let (scene, production) = (Scene::plain(), Patience::default());
    let mut house = House::new();
    house.patience = production;

    let missing = scene.address("").replace(scene.bucket.name(), "no-such-bucket");
    let error = fails(&house, &missing).await;
    assert!(error.to_string().contains("bucket no-such-bucket does not exist at http://127.0.0.1:"), "{error}");
    assert!(error.next_step().unwrap().contains("create the bucket"));

    let mut strangers = House::with(&[
        ("AWS_ACCESS_KEY_ID".to_owned(), Weed::ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), "hunter2".to_owned()),
    ]);
    strangers.patience = production;
    let error = fails(&strangers, &scene.address("")).await;
    assert!(error.to_string().contains("the secret key does not belong to the access key"), "{error}");
    assert!(error.next_step().unwrap().contains("check the secret key"));
    assert!(!format!("{error:?}").contains("hunter2"));
    let unknown = |name: &str| (name.to_owned(), "UNKNOWNKEY".to_owned());
    strangers = House::with(&[unknown("AWS_ACCESS_KEY_ID"), unknown("AWS_SECRET_ACCESS_KEY")]);
    let error = fails(&strangers, &scene.address("")).await;
    assert!(error.to_string().contains("the store does not know the access key"), "{error}");

    scene.proxy.inject(On::any().always(), Trouble::Stall);
    let error = fails(&house, &scene.address("")).await;
    assert!(error.to_string().contains("no answer within 12 s"), "{error}");
    assert!(error.next_step().unwrap().contains("overloaded"));
    scene.proxy.heal();

    scene.proxy.refuse();
    let error = fails(&house, &scene.address("")).await;
    let address = scene.address("");
    let named = address.split_once("endpoint=").unwrap().1;
    assert!(error.to_string().contains(&format!("connect to {named}: Connection refused")), "{error}");
    assert!(error.next_step().unwrap().contains("whether the store runs"));
    assert_eq!(error.kind, ErrorKind::Storage);

    let error = fails(&house, "s3://backups?endpoint=https://nobody.invalid").await;
    assert!(error.to_string().contains("connect to https://nobody.invalid: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_when_it_is_named() {
    let (weed, house) = (Weed::shared(), House::new());
    let bucket = weed.bucket("tls");
    let address = |ca: String| format!("s3://{}?endpoint={}{ca}", bucket.name(), weed.tls_endpoint());
    let trusted = house.open(&address(format!("&ca={}", weed.authority().display()))).await;
    trusted.create(&key("x"), "1".into()).await.unwrap();
    assert_eq!(bucket.get("x").unwrap(), "1");
    for ca in [String::new(), format!("&ca={}", weed.other_authority().display())] {
        let error = fails(&house, &address(ca)).await;
        assert!(error.to_string().contains("invalid peer certificate"), "{error}");
        assert!(error.next_step().unwrap().contains("ca=FILE"));
    }
    let error = fails(&house, &address("&ca=/etc/hostname".to_owned())).await;
    assert_eq!(error.kind, ErrorKind::Usage);
    assert!(error.to_string().contains("/etc/hostname holds no usable certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_settled_by_whose_the_object_is() {
    for scene in [Scene::plain(), Scene::oss()] {
        let storage = scene.open().await;
        scene.proxy.inject(On::kind(Kind::Put), Trouble::LostAnswer);
        storage.create(&key("ours"), "1".into()).await.unwrap();
        assert_eq!(storage.get(&key("ours"), 9).await.unwrap(), "1");

        // Somebody else stores the name, although it was free when we looked: our first answer, a refusal, is lost.
        scene.proxy.inject(On::kind(Kind::Head).key("theirs"), Trouble::LostAnswer);
        scene.bucket.put("pg/theirs", "2");
        let error = storage.create(&key("theirs"), "1".into()).await.unwrap_err();
        assert_eq!(error.fault, Fault::Exists, "{error}");
        assert_eq!(storage.get(&key("theirs"), 9).await.unwrap(), "2");

        scene.proxy.inject(On::kind(Kind::Complete), Trouble::LostAnswer);
        assert_eq!(write(&*storage, "large", 7, 4).await.unwrap(), 4 * (3 * MIB as u64 + 17));
        is_written(&*storage, "large", 7, 4).await;
        scene.holds(&["large", "ours", "theirs"]);

        scene.proxy.inject(On::kind(Kind::Delete), Trouble::LostAnswer);
        storage.delete(&key("ours")).await.unwrap();
        scene.holds(&["large", "theirs"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_in_doubt_a_failure_says_so_and_asking_again_settles_it() {
    let mut scene = Scene::plain();
    scene.house.patience.attempts = 2;
    let storage = scene.open().await;
    scene.proxy.inject(On::kind(Kind::Put).times(1), Trouble::LostAnswer);
    scene.proxy.inject(On::kind(Kind::Head).always(), Trouble::RequestTimeTooSkewed);
    let error = storage.create(&key("x"), "1".into()).await.unwrap_err();
    // The look before the first attempt was refused: nothing was asked yet, and nothing is there.
    assert_eq!(error.fault, Fault::Denied, "{error}");
    assert!(error.to_string().contains("the store refuses it and does not tell why"), "{error}");
    scene.proxy.heal();
    scene.holds(&[]);

    scene.proxy.inject(On::kind(Kind::Put).always(), Trouble::LostAnswer);
    scene.proxy.inject(On::kind(Kind::Head).nth(2).always(), Trouble::SlowDown);
    let error = storage.create(&key("x"), "1".into()).await.unwrap_err();
    assert_eq!(error.fault, Fault::Unavailable, "{error}");
    scene.proxy.heal();
    assert_eq!(storage.create(&key("x"), "1".into()).await.unwrap_err().fault, Fault::Exists);

    scene.proxy.inject(On::kind(Kind::Complete).always(), Trouble::LostAnswer);
    scene.proxy.inject(On::kind(Kind::Head).key("large").nth(2).always(), Trouble::SlowDown);
    let error = write(&*storage, "large", 3, 4).await.unwrap_err();
    assert_eq!(error.fault, Fault::Unavailable, "{error}");
    scene.proxy.heal();
    is_written(&*storage, "large", 3, 4).await;
    // The upload is over, which only the next sweep can know.
    storage.sweep_unfinished(&Prefix::root()).await.unwrap();
    is_written(&*storage, "large", 3, 4).await;
    scene.holds(&["large", "x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_beginning_was_not_answered_is_not_left_behind() {
    let scene = Scene::plain();
    let storage = scene.open().await;
    scene.proxy.inject(On::kind(Kind::Initiate), Trouble::LostAnswer);
    write(&*storage, "large", 1, 4).await.unwrap();
    scene.holds(&["large"]);

    // Another writer of the same name on this host keeps its upload.
    let mut other = storage.writer(&key("again"), None).await.unwrap();
    other.write(noise(1, 9 * MIB)).await.unwrap();
    scene.proxy.inject(On::kind(Kind::Initiate), Trouble::LostAnswer);
    let mut writer = storage.writer(&key("again"), None).await.unwrap();
    writer.write(noise(2, 9 * MIB)).await.unwrap();
    writer.abort().await;
    assert_eq!(scene.bucket.uploads().len(), 1);
    other.finish().await.unwrap();
    scene.holds(&["again", "large"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_waited_for_and_what_does_not_is_cleaned_up() {
    for scene in [Scene::plain(), Scene::oss()] {
        let storage = scene.open().await;
        for trouble in [Trouble::SlowDown, Trouble::InternalError, Trouble::CutRequest, Trouble::CutResponse] {
            for kind in [Kind::Put, Kind::Initiate, Kind::Part, Kind::Complete, Kind::Head, Kind::Get, Kind::List] {
                scene.proxy.inject(On::kind(kind), trouble);
            }
            let name = format!("{trouble:?}");
            storage.create(&key(&format!("small-{name}")), "1".into()).await.unwrap();
            write(&*storage, &name, 1, 4).await.unwrap();
            is_written(&*storage, &name, 1, 4).await;
            assert!(storage.list(&Prefix::root()).await.unwrap().iter().any(|object| object.key.as_str() == name));
            storage.delete_all(&[key(&name), key(&format!("small-{name}"))]).await.unwrap();
            scene.proxy.heal();
        }
        scene.proxy.inject(On::kind(Kind::Complete), Trouble::ErrorInside200);
        write(&*storage, "x", 1, 4).await.unwrap();
        scene.proxy.inject(On::kind(Kind::BulkDelete), Trouble::ErrorInside200);
        storage.delete_all(&[key("x"), key("y")]).await.unwrap();

        scene.proxy.inject(On::kind(Kind::Part).nth(2).always(), Trouble::InternalError);
        let error = write(&*storage, "x", 1, 8).await.unwrap_err();
        assert_eq!(error.fault, Fault::Unavailable, "{error}");
        assert!(error.to_string().contains("after 8 attempts"), "{error}");
        assert_eq!(storage.sweep_unfinished(&Prefix::root()).await.unwrap(), 0);
        scene.proxy.heal();
        if scene.scheme == "oss" {
            // What began with an answer that was cut off has no id here, and OSS does not tell its uploads.
            assert_eq!(scene.bucket.keys(), [""; 0]);
        } else {
            scene.holds(&[]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_read_goes_on_where_it_broke() {
    let mut scene = Scene::plain();
    scene.house.patience.stall = Duration::from_millis(400);
    let storage = scene.open().await;
    write(&*storage, "x", 1, 8).await.unwrap();
    scene.proxy.inject(On::kind(Kind::Get), Trouble::StallInResponse);
    scene.proxy.inject(On::kind(Kind::Get), Trouble::CutResponse);
    scene.proxy.inject(On::kind(Kind::Get), Trouble::SlowDown);
    is_written(&*storage, "x", 1, 8).await;
    let gets = scene.proxy.counts().of(Kind::Get);
    assert_eq!(gets, 4, "the first broke off, so did the second, the third was refused");

    // What is replaced while it is read is not mixed.
    scene.proxy.inject(On::kind(Kind::Get), Trouble::CutResponse);
    let mut reader = storage.read(&key("x"), None).await.unwrap();
    reader.next().await.unwrap();
    storage.replace(&key("x"), noise(9, 25 * MIB)).await.unwrap();
    let error = loop {
        match reader.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a mix of two objects was read to its end"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("it was replaced while it was read"), "{error}");

    scene.proxy.inject(On::kind(Kind::Get).always(), Trouble::StallInResponse);
    let error = storage.get(&key("x"), u64::MAX).await.unwrap_err();
    assert_eq!(error.fault, Fault::Unavailable);
    assert!(error.to_string().contains("nothing came for"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_that_is_damaged_on_its_way_is_read_again() {
    let scene = Scene::plain();
    let storage = scene.open().await;
    storage.create(&key("x"), "the truth".into()).await.unwrap();
    scene.proxy.inject(On::kind(Kind::Get).times(2), Trouble::FlippedBit);
    assert_eq!(storage.get(&key("x"), 99).await.unwrap(), "the truth");
    scene.proxy.inject(On::kind(Kind::Get).always(), Trouble::FlippedBit);
    assert_ne!(storage.get(&key("x"), 99).await.unwrap(), "the truth", "what is stored is for its reader to judge");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_is_waited_for_and_a_dead_one_is_not() {
    let mut scene = Scene::plain();
    let second = Duration::from_secs(1);
    scene.house.patience =
        Patience { answer: second, attempts: 2, slowest_bytes_per_second: 128 << 10, ..scene.house.patience };
    let storage = scene.open().await;
    // The body takes four seconds, and no answer comes before it has arrived.
    scene.proxy.slow(512 << 10);
    storage.create(&key("x"), noise(1, 2 * MIB)).await.unwrap();
    scene.proxy.heal();
    assert!(storage.get(&key("x"), u64::MAX).await.unwrap() == noise(1, 2 * MIB));
    scene.proxy.inject(On::kind(Kind::Put).always(), Trouble::Stall);
    let error = storage.replace(&key("x"), "1".into()).await.unwrap_err();
    assert_eq!(error.fault, Fault::Unavailable);
    assert!(error.to_string().contains("no answer within"), "{error}");
    scene.proxy.heal();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_ended_are_fetched_again_in_the_middle() {
    let scene = Scene::plain();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let keep = |secret: &str| {
        let json = format!(r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{secret}"}}"#, Weed::ACCESS_KEY);
        std::fs::write(&path, json).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    keep(Weed::shared().secret_key());
    let address = Address::parse(&scene.address("")).unwrap();
    let address = address.with_credentials(Credentials::File(path.clone())).unwrap();
    let storage = address.open(&scene.house.access(), Missing::Refuse).await.unwrap();
    storage.create(&key("before"), "1".into()).await.unwrap();

    keep("taken-back");
    scene.proxy.inject(On::kind(Kind::List), Trouble::ExpiredToken);
    let error = storage.list(&Prefix::root()).await.unwrap_err();
    assert_eq!(error.fault, Fault::Denied, "{error}");
    keep(Weed::shared().secret_key());
    write(&*storage, "after", 1, 4).await.unwrap();
    scene.holds(&["after", "before"]);

    let command = ["cat".to_owned(), path.to_str().unwrap().to_owned()];
    let address = Address::parse(&scene.address("")).unwrap();
    let address = address.with_credentials(Credentials::Command(command.to_vec())).unwrap();
    let storage = address.open(&scene.house.access(), Missing::Refuse).await.unwrap();
    assert_eq!(storage.list(&Prefix::root()).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_a_process_that_is_gone_is_swept() {
    let scene = Scene::plain();
    let storage = scene.open().await;
    let mut living = storage.writer(&key("main/living"), None).await.unwrap();
    living.write(noise(1, 9 * MIB)).await.unwrap();
    for name in ["main/dead", "other/dead"] {
        let mut writer = storage.writer(&key(name), None).await.unwrap();
        writer.write(noise(2, 9 * MIB)).await.unwrap();
        // Outside of every runtime nothing can be asked of the store, as after the end of a process.
        std::thread::spawn(move || drop(writer)).join().unwrap();
    }
    assert_eq!(scene.bucket.uploads().len(), 3);
    let elsewhere = scene.house.open(&scene.address("").replace("/pg?", "/another?")).await;
    assert_eq!(elsewhere.sweep_unfinished(&Prefix::root()).await.unwrap(), 0);
    assert_eq!(storage.sweep_unfinished(&Prefix::folder("main").unwrap()).await.unwrap(), 1);
    assert_eq!(storage.sweep_unfinished(&Prefix::root()).await.unwrap(), 1);
    living.finish().await.unwrap();
    scene.holds(&["main/living"]);
}

/// A note without an id is of an upload that began by then. One of the same name that began later is another host's.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_began_after_our_note_is_not_ours_to_remove() {
    let mut scene = Scene::plain();
    scene.house.patience.attempts = 1;
    let storage = scene.open().await;
    for (note_age, swept) in [(Duration::ZERO, 1), (Duration::from_secs(3_600), 0)] {
        scene.proxy.inject(On::kind(Kind::Initiate), Trouble::LostAnswer);
        let mut writer = storage.writer(&key("x"), None).await.unwrap();
        writer.write(noise(1, 9 * MIB)).await.unwrap_err();
        drop(writer);
        let notes: Vec<_> = std::fs::read_dir(scene.house.access().uploads).unwrap().collect();
        let [Ok(note)] = notes.as_slice() else { panic!("{notes:?}") };
        let note = std::fs::File::options().write(true).open(note.path()).unwrap();
        note.set_modified(std::time::SystemTime::from(SystemClock.now()) - note_age).unwrap();
        assert_eq!(scene.bucket.uploads().len(), 1);
        assert_eq!(storage.sweep_unfinished(&Prefix::root()).await.unwrap(), swept);
        assert_eq!((scene.bucket.uploads().len(), scene.house.noted()), (1 - swept, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_knows_no_conditions_is_not_believed_to() {
    // The OSS dialect answers 501 to If-None-Match.
    let scene = Scene::of(Dialect::Oss, "s3");
    let storage = scene.house.open(&scene.address("&path_style=false&profile=generic")).await;
    assert_eq!(storage.prove_create_only().await.unwrap(), CreateOnly::None);
    storage.create(&key("x"), "1".into()).await.unwrap();
    assert_eq!(storage.create(&key("x"), "2".into()).await.unwrap_err().fault, Fault::Exists);
    write(&*storage, "large", 1, 4).await.unwrap();
    assert_eq!(write(&*storage, "large", 2, 4).await.unwrap_err().fault, Fault::Exists);
    is_written(&*storage, "large", 1, 4).await;
    // Nor is one that knows no bulk delete without what the profile sends.
    storage.delete_all(&[key("x"), key("large")]).await.unwrap();
    scene.holds(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_of_one_bucket_do_not_see_each_other() {
    let scene = Scene::plain();
    let (one, two) = (scene.open().await, scene.house.open(&scene.address("").replace("/pg?", "/pg2?")).await);
    one.create(&key("x"), "1".into()).await.unwrap();
    two.create(&key("x"), "2".into()).await.unwrap();
    assert_eq!(one.get(&key("x"), 9).await.unwrap(), "1");
    let listed: Vec<Key> = one.list(&Prefix::root()).await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(listed, [key("x")]);
    scene.bucket.put("pg/", "");
    scene.bucket.put("pg/.pgkeep-unfinished-1", "");
    assert_eq!(one.list(&Prefix::root()).await.unwrap().len(), 1, "what can be no key of ours is passed over");
}

#[tokio::test(flavor = "multi_thread")]
async fn oss_takes_its_own_variables() {
    let scene = Scene::oss();
    let keys = [("OSS_ACCESS_KEY_ID", Weed::ACCESS_KEY), ("OSS_ACCESS_KEY_SECRET", Weed::shared().secret_key())];
    let house = House::with(&keys.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let storage = house.open(&scene.address("")).await;
    assert_eq!(storage.prove_create_only().await.unwrap(), CreateOnly::OssHeader);
    assert_eq!(scene.proxy.counts().refused(), 2, "the second object and the second upload of the proof");
}
