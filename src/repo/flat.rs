//! The layout of the env file: one instance, no folder for it, and dumps under the names that the script gave them.
//!
//! ```text
//! our key                        in a directory                under a prefix of a bucket
//! pgkeep.json                    pgkeep.json                   pgkeep.json
//! main/dumps/<object>            data/<object>                 <object>
//! main/runs/…  intents/…  …      runs/…  intents/…  …          runs/…  intents/…  …
//! ```
//!
//! The place is shared with others: reports, logs, dumps of the script, whatever a prefix has seen. A key that is not a
//! stored name of ours has no counterpart, so nothing else is ever listed, read, replaced or deleted. What the store
//! says of a failure names the object as it lies there.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::layout::{Folder, ObjectName, StoredName};
use super::name::InstanceName;
use crate::storage::{
    CreateOnly, Fault, Key, ObjectMeta, ObjectReader, ObjectWriter, Prefix, Result, Storage, StorageError,
};

/// Where the dumps lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlatLayout {
    /// In the folder `data/`: the base directory of the env file.
    Directory,
    /// Beside everything else: a prefix of a bucket, a path of a remote.
    Prefix,
}

/// The instance that everything belongs to.
const INSTANCE: &str = "main";
const DATA: &str = "data";

impl FlatLayout {
    pub const ALL: [Self; 2] = [Self::Directory, Self::Prefix];

    /// The folder of the dumps in a directory.
    pub const DUMPS: &'static str = DATA;

    pub fn instance() -> InstanceName {
        INSTANCE.parse().unwrap_or_else(|invalid| unreachable!("a constant is an instance name: {invalid}"))
    }

    /// Where an object of ours lies; `None` for what has no place in this layout.
    pub fn place(self, key: &Key) -> Option<Key> {
        let name = match StoredName::parse(key)? {
            StoredName::Marker | StoredName::Encryption | StoredName::Probe(_) => key.to_string(),
            other if other.instance()?.as_str() != INSTANCE => return None,
            StoredName::Dump { name, .. } => match self {
                Self::Directory => format!("{DATA}/{name}"),
                Self::Prefix => name.to_string(),
            },
            _ => key.as_str().strip_prefix(INSTANCE)?.strip_prefix('/')?.to_owned(),
        };
        Key::new(name).ok()
    }

    /// Our key of what lies at `place`; `None` for what belongs to others.
    pub fn key(self, place: &Key) -> Option<Key> {
        let text = place.as_str();
        let dump = match self {
            Self::Directory => text.strip_prefix(DATA).and_then(|rest| rest.strip_prefix('/')),
            Self::Prefix => Some(text),
        };
        if let Some(name) = dump.and_then(|text| text.parse::<ObjectName>().ok()) {
            return Some(name.key(&Self::instance()));
        }
        // The names at the top are the same in both layouts; the rest lies in a folder of its own.
        let key =
            if place.folder().is_empty() { place.clone() } else { Key::new(format!("{INSTANCE}/{text}")).ok()? };
        (self.place(&key).as_ref() == Some(place)).then_some(key)
    }

    /// Where to look for everything of ours whose key starts with `prefix`. More may lie there.
    fn places(self, prefix: &Prefix) -> Vec<Prefix> {
        let folder = |folder: Folder| folder.of(&Self::instance());
        let at = |name: &str| Prefix::folder(name).into_iter();
        let inside = Folder::ALL.into_iter().filter(|&inside| overlap(prefix, &folder(inside)));
        match self {
            // One listing has it all.
            Self::Prefix if overlap(prefix, &folder(Folder::Dumps)) => vec![Prefix::root()],
            _ => inside
                .flat_map(|inside| match inside {
                    Folder::Dumps => at(DATA),
                    _ if folder(inside).as_str().len() >= prefix.as_str().len() => at(inside.name()),
                    // Further down, as in `main/proofs/<id>/`.
                    _ => at(prefix.as_str().strip_prefix(INSTANCE).unwrap_or_default().trim_matches('/')),
                })
                .collect(),
        }
    }
}

fn overlap(one: &Prefix, other: &Prefix) -> bool {
    one.as_str().starts_with(other.as_str()) || other.as_str().starts_with(one.as_str())
}

/// A store seen through a [`FlatLayout`]. Probes, which live for moments, are not listed.
#[derive(Clone, Debug)]
pub struct FlatStorage {
    inner: Arc<dyn Storage>,
    layout: FlatLayout,
}

impl FlatStorage {
    pub fn over(inner: Arc<dyn Storage>, layout: FlatLayout) -> Self {
        Self { inner, layout }
    }

    fn place(&self, key: &Key, action: &str) -> Result<Key> {
        self.layout.place(key).ok_or_else(|| self.no_place(key, action, Fault::Other))
    }

    /// What has no place is not there.
    fn place_to_read(&self, key: &Key, action: &str) -> Result<Key> {
        self.layout.place(key).ok_or_else(|| self.no_place(key, action, Fault::NotFound))
    }

    fn no_place(&self, key: &Key, action: &str, fault: Fault) -> StorageError {
        StorageError {
            fault,
            action: format!("{action} {key:?}"),
            address: self.address().to_owned(),
            source: "the layout of the env file has no place for it".into(),
        }
    }

    /// As the caller knows it.
    fn ours(&self, meta: ObjectMeta) -> Option<ObjectMeta> {
        let key = self.layout.key(&meta.key)?;
        Some(ObjectMeta { key, ..meta })
    }
}

#[async_trait]
impl Storage for FlatStorage {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.inner.create(&self.place(key, "create")?, body).await
    }

    async fn replace(&self, key: &Key, body: Bytes) -> Result<()> {
        self.inner.replace(&self.place(key, "replace")?, body).await
    }

    async fn prove_create_only(&self) -> Result<CreateOnly> {
        self.inner.prove_create_only().await
    }

    async fn writer(&self, key: &Key, expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let inner = self.inner.writer(&self.place(key, "create")?, expected_bytes).await?;
        Ok(Box::new(FlatWriter { inner, key: key.clone() }))
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Box<dyn ObjectReader>> {
        self.inner.read(&self.place_to_read(key, "read")?, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let meta = self.inner.head(&self.place_to_read(key, "look at")?).await?;
        Ok(ObjectMeta { key: key.clone(), ..meta })
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        for place in self.layout.places(prefix) {
            found.extend(self.inner.list(&place).await?.into_iter().filter_map(|meta| self.ours(meta)));
        }
        let probe = |key: &Key| matches!(StoredName::parse(key), Some(StoredName::Probe(_)));
        found.retain(|meta| prefix.contains(&meta.key) && !probe(&meta.key));
        // In a directory the top is not walked: what else lies there may be large, and closed to us.
        let marker = StoredName::Marker.key();
        if self.layout == FlatLayout::Directory && prefix.contains(&marker) {
            match self.inner.head(&marker).await {
                Ok(meta) => found.push(meta),
                Err(error) if error.fault == Fault::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // The order of places is not that of keys.
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        match self.layout.place(key) {
            Some(place) => self.inner.delete(&place).await,
            None => Ok(()),
        }
    }

    async fn delete_all(&self, keys: &[Key]) -> Result<()> {
        let places: Vec<Key> = keys.iter().filter_map(|key| self.layout.place(key)).collect();
        self.inner.delete_all(&places).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.inner.now().await
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.inner.free_bytes().await
    }

    async fn sweep_unfinished(&self, prefix: &Prefix) -> Result<usize> {
        let mut swept = 0;
        for place in self.layout.places(prefix) {
            swept += self.inner.sweep_unfinished(&place).await?;
        }
        Ok(swept)
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes> {
        self.inner.get(&self.place_to_read(key, "read")?, limit_bytes).await
    }
}

struct FlatWriter {
    inner: Box<dyn ObjectWriter>,
    key: Key,
}

#[async_trait]
impl ObjectWriter for FlatWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.inner.write(chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<ObjectMeta> {
        let meta = self.inner.finish().await?;
        Ok(ObjectMeta { key: self.key, ..meta })
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::layout::tests::{nasty, stored_name};
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn an_object_of_the_instance_has_one_place_and_the_place_has_one_object(name in stored_name()) {
            // Of another instance as generated; of the one that has a place with the rest of the name as it is.
            let generated = name.key();
            let renamed = name.instance().map(|instance| {
                key(&format!("{INSTANCE}/{}", &generated.as_str()[instance.as_str().len() + 1..]))
            });
            for layout in FlatLayout::ALL {
                let ours = renamed.clone().unwrap_or_else(|| generated.clone());
                let place = layout.place(&ours).unwrap();
                prop_assert_eq!(layout.key(&place), Some(ours));
                if name.instance().is_some_and(|instance| instance.as_str() != INSTANCE) {
                    prop_assert_eq!(layout.place(&generated), None);
                }
            }
        }

        #[test]
        fn a_place_is_that_of_its_key(text in nasty(), folder in "(data/|dumps/|main/|main/dumps/|runs/|proofs/|)") {
            if let Ok(place) = Key::new(format!("{folder}{text}")) {
                for layout in FlatLayout::ALL {
                    if let Some(key) = layout.key(&place) {
                        prop_assert_eq!(layout.place(&key), Some(place.clone()));
                        prop_assert!(StoredName::parse(&key).is_some());
                        prop_assert!(layout.places(&Prefix::root()).iter().any(|looked| looked.contains(&place))
                            || [StoredName::Marker, StoredName::Encryption].iter().any(|name| key == name.key()) || text.starts_with("pgkeep-probe-"));
                    }
                }
            }
        }
    }

    #[test]
    fn objects_lie_where_the_format_says() {
        let stem = "shop_20250131T020304Z_db1";
        for (ours, directory, prefix) in [
            ("pgkeep.json", "pgkeep.json", "pgkeep.json"),
            ("main/dumps/{stem}.dump", "data/{stem}.dump", "{stem}.dump"),
            ("main/dumps/{stem}.dump.sha256", "data/{stem}.dump.sha256", "{stem}.dump.sha256"),
            ("main/dumps/{stem}_globals.sql", "data/{stem}_globals.sql", "{stem}_globals.sql"),
            ("main/dumps/{stem}.manifest.json", "data/{stem}.manifest.json", "{stem}.manifest.json"),
            ("main/intents/{stem}.json", "intents/{stem}.json", "intents/{stem}.json"),
            ("main/lineages/7.json", "lineages/7.json", "lineages/7.json"),
        ] {
            let named = |text: &str| key(&text.replace("{stem}", stem));
            for (layout, place) in [(FlatLayout::Directory, directory), (FlatLayout::Prefix, prefix)] {
                assert_eq!(layout.place(&named(ours)), Some(named(place)));
                assert_eq!(layout.key(&named(place)), Some(named(ours)));
            }
        }
    }

    #[test]
    fn what_others_have_there_is_not_ours() {
        for layout in FlatLayout::ALL {
            for foreign in [
                "reports/shop_20250131T020304Z_db1.json",
                "data/notes.txt",
                "data/old/shop_20250131T020304Z_db1.dump",
                "notes.txt",
                "dumps/shop_20250131T020304Z_db1.dump",
                "main/dumps/shop_20250131T020304Z_db1.dump",
                "shop_20250131T020304Z_db1.json",
                "data/pgkeep.json",
                "backup_20250131.log",
            ] {
                assert_eq!(layout.key(&key(foreign)), None, "{layout:?} {foreign}");
            }
            for nowhere in ["other/dumps/shop_20250131T020304Z_db1.dump", "main/notes.txt", "main/dumps/x", "x"] {
                assert_eq!(layout.place(&key(nowhere)), None, "{layout:?} {nowhere}");
            }
        }
        let dump = key("shop_20250131T020304Z_db1.dump");
        assert_eq!(FlatLayout::Directory.key(&dump), None);
        assert_eq!(FlatLayout::Prefix.key(&key("data/shop_20250131T020304Z_db1.dump")), None);
    }

    #[test]
    fn a_listing_looks_only_where_something_of_it_can_lie() {
        let folder = |name: &str| Prefix::folder(name).unwrap();
        let looked = |layout: FlatLayout, prefix: &Prefix| {
            layout.places(prefix).iter().map(|place| place.to_string()).collect::<Vec<_>>()
        };
        let all = ["lineages/", "intents/", "data/", "proofs/", "runs/"];
        for everything in [Prefix::root(), folder("main")] {
            assert_eq!(looked(FlatLayout::Directory, &everything), all);
            assert_eq!(looked(FlatLayout::Prefix, &everything), [""]);
        }
        assert_eq!(looked(FlatLayout::Directory, &folder("main/dumps")), ["data/"]);
        assert_eq!(looked(FlatLayout::Prefix, &folder("main/dumps")), [""]);
        for layout in FlatLayout::ALL {
            assert_eq!(looked(layout, &folder("main/runs")), ["runs/"]);
            assert_eq!(looked(layout, &folder("main/proofs/an-id")), ["proofs/an-id/"]);
            assert_eq!(looked(layout, &folder("other/dumps")), [""; 0]);
            assert_eq!(looked(layout, &folder("reports")), [""; 0]);
        }
    }
}
