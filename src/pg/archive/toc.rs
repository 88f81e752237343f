//! The table of contents: what the archive holds, and who owns it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::fields::{Fields, Stop};
use super::head::{ArchiveVersion, Data};
use super::member::Member;

/// Most memory that entries may take. A database of 100,000 tables needs about 100 MB.
const LARGEST_TOC_BYTES: usize = 1 << 30;

/// The number of an entry within its archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DumpId(u32);

impl DumpId {
    pub(super) fn new(number: i64) -> Option<Self> {
        // Dump ids are positive C ints.
        i32::try_from(number).ok().filter(|&id| id > 0).map(|id| Self(id.unsigned_abs()))
    }

    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for DumpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the object was in the system catalogues of the dumped database; zeros for what is not an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CatalogId {
    pub table_oid: u32,
    pub oid: u32,
}

/// When an entry is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// With what it belongs to (comments, privileges).
    None,
    PreData,
    Data,
    PostData,
}

/// One entry. The SQL texts are not kept: a database of many tables has hundreds of megabytes of them.
///
/// Names are as the archive has them, in its encoding; bytes that are not UTF-8 are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TocEntry {
    pub dump_id: DumpId,
    /// A data block of this dump id follows.
    pub has_data: bool,
    pub catalog_id: CatalogId,
    /// The name of the object, without its schema; for some kinds with more ("orders orders_pkey", "f(integer)").
    pub tag: Box<str>,
    /// The kind of entry in capitals: "TABLE DATA".
    pub desc: Arc<str>,
    pub section: Section,
    pub namespace: Option<Arc<str>>,
    pub tablespace: Option<Arc<str>>,
    pub access_method: Option<Arc<str>>,
    /// As in `pg_class.relkind`; only in archives of PostgreSQL 17 and newer.
    pub relation_kind: Option<char>,
    pub owner: Option<Arc<str>>,
    pub dependencies: Box<[DumpId]>,
}

impl fmt::Display for TocEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.desc.escape_debug())?;
        if let Some(namespace) = self.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
            write!(f, "{}.", namespace.escape_debug())?;
        }
        write!(f, "{} (dump id {})", self.tag.escape_debug(), self.dump_id)
    }
}

/// Every entry, in archive order.
#[derive(Clone, Debug, Default)]
pub struct Toc {
    entries: Vec<TocEntry>,
    by_id: HashMap<DumpId, usize>,
    places: HashMap<DumpId, u64>,
    files: HashMap<DumpId, Member>,
}

/// What the tables say, wherever in an archive they stand.
impl PartialEq for Toc {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Toc {}

impl Toc {
    pub fn entries(&self) -> &[TocEntry] {
        &self.entries
    }

    pub fn get(&self, id: DumpId) -> Option<&TocEntry> {
        self.by_id.get(&id).and_then(|&at| self.entries.get(at))
    }

    /// Where in the archive an entry says where its block begins; `None` without data, and where an archive has offsets
    /// of another size than eight bytes.
    pub fn place(&self, id: DumpId) -> Option<u64> {
        self.places.get(&id).copied()
    }

    /// The file that holds the data of an entry, where data lie in files.
    pub fn file(&self, id: DumpId) -> Option<Member> {
        self.files.get(&id).copied()
    }

    /// Gives lists of large objects the names of their files, where the table gives them the name that the file of a table
    /// would have.
    pub(super) fn name_lists(&mut self, has_several: bool) {
        for entry in self.entries.iter().filter(|entry| entry.has_data && &*entry.desc == "BLOBS") {
            let id = entry.dump_id;
            self.files.insert(id, Member::LargeObjects(has_several.then_some(id.number())));
        }
    }

    /// Every role that owns something here.
    pub fn owners(&self) -> BTreeSet<&str> {
        self.entries.iter().filter_map(|entry| entry.owner.as_deref()).filter(|owner| !owner.is_empty()).collect()
    }

    /// Entries of one kind: "EXTENSION".
    pub fn with_desc<'a>(&'a self, desc: &'a str) -> impl Iterator<Item = &'a TocEntry> {
        self.entries.iter().filter(move |entry| &*entry.desc == desc)
    }

    /// Tables (partitioned and foreign ones too), views, materialized views and sequences.
    pub fn relations(&self) -> impl Iterator<Item = &TocEntry> {
        const RELATIONS: [&str; 5] = ["TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"];
        self.entries.iter().filter(|entry| RELATIONS.contains(&&*entry.desc))
    }
}

/// The fields of an entry, in archive order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    DumpId,
    HasData,
    TableOid,
    Oid,
    Tag,
    Desc,
    Section,
    Definition,
    DropStatement,
    CopyStatement,
    Namespace,
    Tablespace,
    AccessMethod,
    RelationKind,
    Owner,
    WithOids,
    Dependencies,
    /// Where the data are: [`Data::InBlocks`].
    Offset,
    /// [`Data::InFiles`]
    File,
}

const LAYOUT: [Field; 19] = [
    Field::DumpId,
    Field::HasData,
    Field::TableOid,
    Field::Oid,
    Field::Tag,
    Field::Desc,
    Field::Section,
    Field::Definition,
    Field::DropStatement,
    Field::CopyStatement,
    Field::Namespace,
    Field::Tablespace,
    Field::AccessMethod,
    Field::RelationKind,
    Field::Owner,
    Field::WithOids,
    Field::Dependencies,
    Field::Offset,
    Field::File,
];

/// Collects the table of contents field by field.
#[derive(Debug)]
pub(super) struct TocReader {
    layout: Vec<Field>,
    next_field: usize,
    count: Option<usize>,
    draft: Draft,
    toc: Toc,
    /// Kinds, schemas and owners are few and named in every entry: each is kept once.
    names: HashSet<Arc<str>>,
    kept_bytes: usize,
}

#[derive(Debug, Default)]
struct Draft {
    dump_id: Option<DumpId>,
    has_data: bool,
    place: Option<u64>,
    file: Option<Member>,
    catalog_id: CatalogId,
    tag: String,
    desc: Option<Arc<str>>,
    section: Option<Section>,
    namespace: Option<Arc<str>>,
    tablespace: Option<Arc<str>>,
    access_method: Option<Arc<str>>,
    relation_kind: Option<char>,
    owner: Option<Arc<str>>,
    dependencies: Vec<DumpId>,
}

impl TocReader {
    pub(super) fn new(version: ArchiveVersion, data: Data) -> Self {
        let written = |field: &Field| match field {
            Field::AccessMethod => version.has_access_method(),
            Field::RelationKind => version.has_relation_kind(),
            Field::Offset => data == Data::InBlocks,
            Field::File => data == Data::InFiles,
            _ => true,
        };
        Self {
            layout: LAYOUT.into_iter().filter(written).collect(),
            next_field: 0,
            count: None,
            draft: Draft::default(),
            toc: Toc::default(),
            names: HashSet::new(),
            kept_bytes: 0,
        }
    }

    /// "3 of 40 entries are whole".
    pub(super) fn progress(&self) -> String {
        match self.count {
            Some(count) => format!("{} of {count} entries are whole", self.toc.entries.len()),
            None => "it has not begun".to_owned(),
        }
    }

    pub(super) fn read(&mut self, fields: &mut Fields) -> Result<Toc, Stop> {
        let count = match self.count {
            Some(count) => count,
            None => {
                let number = fields.integer()?;
                let count = usize::try_from(number).map_err(|_| fields.fail(format!("{number} entries")))?;
                *self.count.insert(count)
            }
        };
        while self.toc.entries.len() < count {
            while let Some(&field) = self.layout.get(self.next_field) {
                self.field(field, fields)?;
                self.next_field += 1;
            }
            self.next_field = 0;
            self.keep(fields)?;
        }
        Ok(std::mem::take(&mut self.toc))
    }

    fn field(&mut self, field: Field, fields: &mut Fields) -> Result<(), Stop> {
        match field {
            Field::DumpId => {
                let number = fields.integer()?;
                let id = DumpId::new(number).filter(|id| !self.toc.by_id.contains_key(id));
                self.draft.dump_id = Some(id.ok_or_else(|| fields.fail(format!("dump id {number}")))?);
            }
            Field::HasData => {
                self.draft.has_data = match fields.integer()? {
                    0 => false,
                    1 => true,
                    other => return Err(fields.fail(format!("a data flag of {other}"))),
                }
            }
            Field::TableOid => self.draft.catalog_id.table_oid = oid(fields)?,
            Field::Oid => self.draft.catalog_id.oid = oid(fields)?,
            Field::Tag => self.draft.tag = fields.text()?.unwrap_or_default(),
            Field::Desc => self.draft.desc = self.name(fields)?,
            Field::Section => self.draft.section = Some(section(fields)?),
            Field::Definition | Field::DropStatement | Field::CopyStatement | Field::WithOids => fields.skip_text()?,
            Field::Namespace => self.draft.namespace = self.name(fields)?,
            Field::Tablespace => self.draft.tablespace = self.name(fields)?,
            Field::AccessMethod => self.draft.access_method = self.name(fields)?,
            Field::RelationKind => self.draft.relation_kind = relation_kind(fields)?,
            Field::Owner => self.draft.owner = self.name(fields)?,
            Field::Dependencies => self.dependencies(fields)?,
            Field::Offset => self.offset(fields)?,
            Field::File => self.file(fields)?,
        }
        Ok(())
    }

    fn name(&mut self, fields: &mut Fields) -> Result<Option<Arc<str>>, Stop> {
        let Some(name) = fields.text()? else { return Ok(None) };
        if let Some(known) = self.names.get(name.as_str()) {
            return Ok(Some(known.clone()));
        }
        let name: Arc<str> = name.into();
        self.weigh(name.len() + 64, fields)?;
        self.names.insert(name.clone());
        Ok(Some(name))
    }

    fn dependencies(&mut self, fields: &mut Fields) -> Result<(), Stop> {
        while let Some(text) = fields.text()? {
            let id = text.parse().ok().and_then(DumpId::new);
            self.weigh(size_of::<DumpId>(), fields)?;
            self.draft.dependencies.push(id.ok_or_else(|| fields.fail(format!("dependency {text:?}")))?);
        }
        Ok(())
    }

    /// 1: not known when it was written, 2: known, 3: the entry has no data.
    fn offset(&mut self, fields: &mut Fields) -> Result<(), Stop> {
        self.draft.place = (self.draft.has_data && fields.offset_bytes() == 8).then_some(fields.offset());
        match (fields.offset_state()?, self.draft.has_data) {
            (1 | 2, true) | (3, false) => Ok(()),
            (state, true) => Err(fields.fail(format!("an entry with data has offset state {state}"))),
            (state, false) => Err(fields.fail(format!("an entry without data has offset state {state}"))),
        }
    }

    fn file(&mut self, fields: &mut Fields) -> Result<(), Stop> {
        let name = fields.text()?.unwrap_or_default();
        self.draft.file = match (self.draft.has_data, name.parse()) {
            (true, Ok(member)) => Some(member),
            (false, _) if name.is_empty() => None,
            _ => return Err(fields.fail(format!("data in a file {name:?}"))),
        };
        Ok(())
    }

    fn keep(&mut self, fields: &Fields) -> Result<(), Stop> {
        let draft = std::mem::take(&mut self.draft);
        let (Some(dump_id), Some(desc), Some(section)) = (draft.dump_id, draft.desc, draft.section) else {
            return Err(fields.fail("an entry without a kind"));
        };
        self.weigh(size_of::<TocEntry>() + 2 * size_of::<(DumpId, usize)>() + draft.tag.len() + 32, fields)?;
        self.toc.by_id.insert(dump_id, self.toc.entries.len());
        self.toc.places.extend(draft.place.map(|place| (dump_id, place)));
        self.toc.files.extend(draft.file.map(|file| (dump_id, file)));
        self.toc.entries.push(TocEntry {
            dump_id,
            has_data: draft.has_data,
            catalog_id: draft.catalog_id,
            tag: draft.tag.into(),
            desc,
            section,
            namespace: draft.namespace,
            tablespace: draft.tablespace,
            access_method: draft.access_method,
            relation_kind: draft.relation_kind,
            owner: draft.owner,
            dependencies: draft.dependencies.into(),
        });
        Ok(())
    }

    fn weigh(&mut self, bytes: usize, fields: &Fields) -> Result<(), Stop> {
        self.kept_bytes += bytes;
        if self.kept_bytes > LARGEST_TOC_BYTES {
            return Err(
                fields.fail(format!("the table of contents needs more than {LARGEST_TOC_BYTES} bytes of memory"))
            );
        }
        Ok(())
    }
}

fn oid(fields: &mut Fields) -> Result<u32, Stop> {
    let text = fields.text()?.unwrap_or_default();
    text.parse().map_err(|_| fields.fail(format!("object id {text:?}")))
}

fn section(fields: &mut Fields) -> Result<Section, Stop> {
    match fields.integer()? {
        1 => Ok(Section::None),
        2 => Ok(Section::PreData),
        3 => Ok(Section::Data),
        4 => Ok(Section::PostData),
        other => Err(fields.fail(format!("section {other}"))),
    }
}

fn relation_kind(fields: &mut Fields) -> Result<Option<char>, Stop> {
    let number = fields.integer()?;
    match u8::try_from(number) {
        Ok(0) => Ok(None),
        Ok(kind) => Ok(Some(char::from(kind))),
        Err(_) => Err(fields.fail(format!("relation kind {number}"))),
    }
}
