//! What several repositories hold together, backup by backup: the union of their catalogues by id.
//!
//! A backup has one id everywhere, and a *copy* in each repository that holds it. Each copy has its own manifest, proofs
//! and defects; the backup is good if one copy is. Manifests of copies may say differently what was checked, since that
//! is decided for each repository. Copies whose manifests tell of different data are a conflict: such a backup is never
//! good, and nothing chooses between them.

use std::collections::BTreeMap;

use super::catalogue::{Backup, Catalogue, Entry, Unreadable};
use super::layout::{BackupId, DumpStem};
use super::manifest::DumpManifest;
use super::name::{InstanceName, Stamp};
use super::repository::Repository;
use crate::error::Kind;

/// The backups of several repositories, by instance and start.
#[derive(Debug)]
pub struct Union {
    pub holdings: Vec<Holding>,
}

/// One backup, and every copy of it.
#[derive(Debug)]
pub struct Holding {
    instance: InstanceName,
    stem: DumpStem,
    copies: Vec<HeldCopy>,
}

/// What one repository says of a backup.
#[derive(Debug)]
pub struct HeldCopy {
    pub repository: Repository,
    pub entry: Entry,
}

impl Union {
    /// Brings together what is held under one id in one instance. The order of the catalogues is that of the copies.
    pub fn of(catalogues: impl IntoIterator<Item = (Repository, Catalogue)>) -> Self {
        let mut by_name: BTreeMap<(InstanceName, Stamp, DumpStem), Vec<HeldCopy>> = BTreeMap::new();
        for (repository, catalogue) in catalogues {
            for entry in catalogue.entries {
                let name = (entry.instance().clone(), entry.stem().started_at(), entry.stem().clone());
                by_name.entry(name).or_default().push(HeldCopy { repository: repository.clone(), entry });
            }
        }
        let holding = |((instance, _, stem), copies)| Holding { instance, stem, copies };
        Self { holdings: by_name.into_iter().map(holding).collect() }
    }
}

impl Holding {
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    pub fn stem(&self) -> &DumpStem {
        &self.stem
    }

    pub fn id(&self) -> BackupId {
        (&self.stem).into()
    }

    /// In the order in which the repositories are named. Never empty.
    pub fn copies(&self) -> &[HeldCopy] {
        &self.copies
    }

    /// The copy in the repository of this name.
    pub fn copy_in(&self, repository: &str) -> Option<&HeldCopy> {
        self.copies.iter().find(|copy| copy.repository.name() == repository)
    }

    pub fn is_of_database(&self, database: &str) -> bool {
        match self.readable().next() {
            Some(_) => self.readable().any(|(_, backup)| backup.manifest.database == database),
            None => self.stem.is_of_database(database),
        }
    }

    /// The full name of the database; as it stands in keys, where no manifest that could be read tells it.
    pub fn database(&self) -> &str {
        self.backup().map_or(self.stem.encoded_database(), |backup| &backup.manifest.database)
    }

    /// The copies that can be read from, in the order in which they are: good ones before those that are not, and then
    /// as the repositories are named.
    pub fn sources(&self) -> Vec<(&Repository, &Backup)> {
        let mut sources: Vec<_> = self.readable().collect();
        // One that holds a part, but holds that, comes before one that is damaged.
        sources.sort_by_key(|(_, backup)| (backup.is_damaged(), backup.shortcoming().is_some()));
        sources
    }

    /// The copy that speaks for the backup; `None`: no manifest of it can be read.
    pub fn backup(&self) -> Option<&Backup> {
        self.sources().first().map(|(_, backup)| *backup)
    }

    /// Why no manifest of it can be read; `None` if one can be. A store that did not deliver one comes before a
    /// manifest that is damaged, which is no backup.
    pub fn unreadable(&self) -> Option<&Unreadable> {
        if self.readable().next().is_some() {
            return None;
        }
        let all = || self.copies.iter().filter_map(|copy| copy.entry.unreadable());
        all().find(|unreadable| unreadable.error.kind != Kind::Verification).or_else(|| all().next())
    }

    /// Why the backup is not *good*; `None`: one copy is, and none tells of other data.
    pub fn shortcoming(&self) -> Option<String> {
        if let Some(conflict) = self.conflict() {
            return Some(conflict);
        }
        let mut told: Vec<(&str, String)> = Vec::new();
        for copy in &self.copies {
            told.push((copy.repository.name(), copy.shortcoming()?));
        }
        let first = told.first().map(|(_, why)| why.clone())?;
        if told.iter().all(|(_, why)| *why == first) {
            return Some(first);
        }
        Some(told.iter().map(|(name, why)| format!("in {name} {why}")).collect::<Vec<_>>().join("; "))
    }

    /// How copies of this id contradict each other about the data, naming their repositories.
    pub fn conflict(&self) -> Option<String> {
        let (first_repository, first) = self.readable().next()?;
        self.readable().find_map(|(repository, other)| {
            let what = disagreement(&first.manifest, &other.manifest)?;
            let (one, two) = (first_repository.name(), repository.name());
            Some(format!("the copies in {one} and {two} are of different data: {what}"))
        })
    }

    fn readable(&self) -> impl Iterator<Item = (&Repository, &Backup)> {
        self.copies.iter().filter_map(|copy| Some((&copy.repository, copy.entry.backup()?)))
    }
}

impl HeldCopy {
    /// Why this copy is not good, whatever the others are.
    pub fn shortcoming(&self) -> Option<String> {
        match &self.entry {
            Entry::Backup(backup) => backup.shortcoming(),
            Entry::Unreadable(unreadable) => Some(unreadable.error.to_string()),
        }
    }
}

/// What two manifests of one id say differently about what was dumped.
pub fn disagreement(one: &DumpManifest, two: &DumpManifest) -> Option<String> {
    let differ = |what: &str, one: String, two: String| (one != two).then(|| format!("{what} {one} and {two}"));
    let system = |manifest: &DumpManifest| manifest.system_identifier.map_or("unknown".to_owned(), |id| id.to_string());
    let part = |manifest: &DumpManifest| if manifest.filtered { "a part" } else { "the whole" }.to_owned();
    differ("database", format!("{:?}", one.database), format!("{:?}", two.database))
        .or_else(|| differ("system identifier", system(one), system(two)))
        .or_else(|| differ("begun", one.started_at.to_rfc3339(), two.started_at.to_rfc3339()))
        .or_else(|| differ("bytes", one.plain.size_bytes.to_string(), two.plain.size_bytes.to_string()))
        .or_else(|| differ("SHA-256 of the archive", one.plain.sha256.to_string(), two.plain.sha256.to_string()))
        .or_else(|| differ("holding", part(one), part(two)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::Error;
    use crate::repo::Defect;
    use crate::repo::manifest::tests::sample;

    /// A copy of the dump of `shop` that began on this day of January 2025.
    pub fn copy(day: u32, change: impl FnOnce(&mut Backup)) -> Entry {
        let started_at = format!("2025-01-{day:02}T02:00:00Z").parse().unwrap();
        let manifest = sample(&"main".parse().unwrap(), "shop", started_at);
        let stem = DumpStem::new("shop", Stamp::of(started_at), "db1");
        let mut backup = Backup { stem, manifest, proofs: Default::default(), defects: Vec::new() };
        change(&mut backup);
        Entry::Backup(Box::new(backup))
    }

    fn unreadable(day: u32, kind: Kind) -> Entry {
        let stem = DumpStem::new("shop", format!("202501{day:02}T020000Z").parse().unwrap(), "db1");
        Entry::Unreadable(Unreadable { instance: "main".parse().unwrap(), stem, error: Error::new(kind, "read it") })
    }

    fn missing(backup: &mut Backup) {
        backup.defects = vec![Defect::Missing { name: "a.dump.zst".to_owned() }];
    }

    /// What repositories `a`, `b`, … hold.
    pub fn union(held: Vec<Vec<Entry>>) -> Union {
        let named = held.into_iter().zip(["a", "b", "c"]);
        Union::of(named.map(|(entries, name)| (Repository::in_memory(name), Catalogue { entries })))
    }

    fn sources(holding: &Holding) -> Vec<&str> {
        holding.sources().iter().map(|(repository, _)| repository.name()).collect()
    }

    #[test]
    fn one_id_is_one_backup_with_a_copy_in_each_repository() {
        let union = union(vec![vec![copy(1, |_| {}), copy(3, |_| {})], vec![copy(2, |_| {}), copy(3, |_| {})]]);
        let told: Vec<_> = union.holdings.iter().map(|holding| (holding.id().to_string(), sources(holding))).collect();
        let id = |day: u32| format!("shop_202501{day:02}T020000Z_db1");
        assert_eq!(told, [(id(1), vec!["a"]), (id(2), vec!["b"]), (id(3), vec!["a", "b"])]);
    }

    #[test]
    fn an_id_of_another_instance_is_another_backup() {
        let other = copy(1, |backup| backup.manifest.instance = "other".parse().unwrap());
        assert_eq!(union(vec![vec![copy(1, |_| {})], vec![other]]).holdings.len(), 2);
    }

    #[test]
    fn it_is_good_if_one_copy_is_and_that_one_is_read_first() {
        let good = |held| {
            let union = union(held);
            let holding = &union.holdings[0];
            (holding.shortcoming(), sources(holding).join(" "))
        };
        assert_eq!(good(vec![vec![copy(1, |_| {})], vec![copy(1, |_| {})]]), (None, "a b".to_owned()));
        assert_eq!(good(vec![vec![copy(1, missing)], vec![copy(1, |_| {})]]), (None, "b a".to_owned()));
        let damaged = unreadable(1, Kind::Verification);
        assert_eq!(good(vec![vec![damaged], vec![copy(1, |_| {})]]), (None, "b".to_owned()));
        let both = good(vec![vec![copy(1, missing)], vec![unreadable(1, Kind::Storage)]]);
        assert_eq!(both, (Some("in a a.dump.zst is missing; in b read it".to_owned()), "a".to_owned()));
        let alike = good(vec![vec![copy(1, missing)], vec![copy(1, missing)]]);
        assert_eq!(alike, (Some("a.dump.zst is missing".to_owned()), "a b".to_owned()));
        let part = |backup: &mut Backup| backup.manifest.filtered = true;
        let parts = vec![vec![copy(1, |backup| (part(backup), missing(backup)).1)], vec![copy(1, part)]];
        assert_eq!(good(parts).1, "b a");
    }

    #[test]
    fn what_was_checked_may_differ() {
        let read_back = copy(1, |backup| backup.manifest.checks.read_back = !backup.manifest.checks.read_back);
        let union = union(vec![vec![copy(1, |_| {})], vec![read_back]]);
        assert_eq!(union.holdings[0].conflict(), None);
    }

    #[test]
    fn copies_of_different_data_are_a_conflict() {
        let conflict = |change: &dyn Fn(&mut DumpManifest)| {
            let other = copy(1, |backup| change(&mut backup.manifest));
            let union = union(vec![vec![copy(1, |_| {})], vec![other]]);
            assert_eq!(union.holdings[0].shortcoming(), union.holdings[0].conflict());
            union.holdings[0].conflict().unwrap_or_default()
        };
        let other = conflict(&|manifest| manifest.database = "other".to_owned());
        assert_eq!(other, "the copies in a and b are of different data: database \"shop\" and \"other\"");
        assert!(conflict(&|manifest| manifest.plain.size_bytes += 1).contains(": bytes "));
        let sha256 = crate::digest::Fingerprint::of(b"another").sha256;
        assert!(conflict(&|manifest| manifest.plain.sha256 = sha256).contains(": SHA-256 of the archive "));
        assert!(conflict(&|manifest| manifest.filtered = true).ends_with(": holding the whole and a part"));
        assert!(conflict(&|manifest| manifest.system_identifier = None).ends_with("and unknown"));
    }

    #[test]
    fn it_is_unreadable_only_if_every_manifest_is() {
        let kind = |held| {
            let union: Union = union(held);
            union.holdings[0].unreadable().map(|unreadable| unreadable.error.kind)
        };
        assert_eq!(kind(vec![vec![unreadable(1, Kind::Storage)], vec![copy(1, |_| {})]]), None);
        // The store that did not deliver may have a good one.
        let both = vec![vec![unreadable(1, Kind::Verification)], vec![unreadable(1, Kind::Storage)]];
        assert_eq!(kind(both), Some(Kind::Storage));
    }
}
