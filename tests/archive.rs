//! The reader of `pg_dump`'s custom format, against real archives, broken ones and hostile ones.
//!
//! `tests/archives` holds archives of one database (`schema.sql`) by pg_dump 15, 16 and 18, with what `pg_restore -lv`
//! says of each.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgkeep::error::{Error, Kind, Result};
use pgkeep::pg::archive::{Archive, ArchiveCompression, ArchiveReader, Section};
use proptest::prelude::*;

const FIXTURES: [&str; 6] = ["pg15", "pg16", "pg18", "pg15-gzip", "pg18-gzip", "pg16-redirected"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives")
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(folder().join(format!("{name}.dump"))).unwrap()
}

fn read(bytes: &[u8]) -> Result<Archive> {
    read_in_slices(bytes, [bytes.len().max(1)])
}

fn read_in_slices(mut bytes: &[u8], lengths: impl IntoIterator<Item = usize>) -> Result<Archive> {
    let mut reader = ArchiveReader::new();
    for length in lengths {
        let (slice, rest) = bytes.split_at(length.min(bytes.len()));
        reader.push(slice)?;
        bytes = rest;
    }
    reader.push(bytes)?;
    reader.finish()
}

/// Header and table of contents.
fn front_bytes(bytes: &[u8]) -> usize {
    let mut reader = ArchiveReader::new();
    bytes
        .iter()
        .position(|byte| {
            reader.push(std::slice::from_ref(byte)).unwrap();
            reader.toc().is_some()
        })
        .unwrap()
        + 1
}

/// The entries as `pg_restore -lv` prints them.
fn listing(archive: &Archive) -> String {
    let line = |text: &str| text.replace(['\n', '\r'], " ");
    let mut out = String::new();
    for entry in archive.toc.entries() {
        let namespace = entry.namespace.as_deref().unwrap_or("-");
        let namespace = if namespace.is_empty() { "-" } else { namespace };
        let (id, catalog, desc) = (entry.dump_id, entry.catalog_id, &entry.desc);
        let (tag, owner) = (line(&entry.tag), line(entry.owner.as_deref().unwrap_or_default()));
        writeln!(out, "{id}; {} {} {desc} {} {tag} {owner}", catalog.table_oid, catalog.oid, line(namespace)).unwrap();
        if !entry.dependencies.is_empty() {
            let ids: Vec<String> = entry.dependencies.iter().map(|id| format!(" {id}")).collect();
            writeln!(out, ";\tdepends on:{}", ids.concat()).unwrap();
        }
    }
    out
}

/// Compares header and entries with what `pg_restore -lv` said.
fn assert_listed(archive: &Archive, list: &str, name: &str) {
    let said = |label: &str| {
        let line = list.lines().find_map(|line| line.trim_start_matches([';', ' ']).strip_prefix(label));
        line.unwrap_or_else(|| panic!("{name}: {label}")).trim().to_owned()
    };
    let header = &archive.header;
    assert_eq!(header.version.to_string(), said("Dump Version:"), "{name}");
    assert_eq!(header.database, said("dbname:"), "{name}");
    assert_eq!(header.server_version, said("Dumped from database version:"), "{name}");
    assert_eq!(header.pg_dump_version, said("Dumped by pg_dump version:"), "{name}");
    assert_eq!(archive.toc.entries().len().to_string(), said("TOC Entries:"), "{name}");
    let created = header.created_local.expect("a date").to_string();
    assert!(said("Archive created at").starts_with(&created), "{name}: {created}");
    let compressed = !matches!(said("Compression:").as_str(), "0" | "none");
    assert_eq!(header.compression != ArchiveCompression::None, compressed, "{name}");

    let entries = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit()) || line.starts_with(";\t");
    let said: Vec<&str> = list.lines().filter(entries).collect();
    assert_eq!(listing(archive).lines().collect::<Vec<_>>(), said, "{name}");
}

#[test]
fn archives_of_every_version_read_as_pg_restore_lists_them() {
    for name in FIXTURES {
        let bytes = fixture(name);
        let archive = read(&bytes).unwrap();
        assert_listed(&archive, &fs::read_to_string(folder().join(format!("{name}.list"))).unwrap(), name);
        assert_eq!(archive.size_bytes, bytes.len() as u64);
        assert_eq!(archive.toc.owners().into_iter().collect::<Vec<_>>(), ["odd \"role", "postgres", "shop_owner"]);
        assert_eq!(archive.toc.relations().count(), 9, "{name}");
        let with_data: Vec<_> = archive.toc.entries().iter().filter(|entry| entry.has_data).collect();
        assert_eq!(with_data.len(), archive.blocks.len());
        assert!(with_data.iter().all(|entry| entry.section == Section::Data));
        let objects: u64 = archive.blocks.iter().map(|block| block.large_objects).sum();
        assert_eq!(objects, 3, "{name}");
        let table = archive.toc.with_desc("TABLE").find(|entry| &*entry.tag == "orders").unwrap();
        assert_eq!((table.access_method.as_deref(), table.namespace.as_deref()), (Some("heap"), Some("sales")));
        assert_eq!(table.relation_kind, (archive.header.version.minor >= 16).then_some('r'));
    }
}

#[test]
fn an_archive_cut_anywhere_is_incomplete_and_says_where() {
    for name in ["pg15", "pg16", "pg18", "pg15-gzip", "pg18-gzip"] {
        let bytes = fixture(name);
        let front = front_bytes(&bytes);
        let (front_step, data_step) = if name.ends_with("gzip") || name == "pg16" { (29, 97) } else { (1, 17) };
        let end = bytes.len() - 60..bytes.len();
        for cut in (0..front).step_by(front_step).chain((front..end.start).step_by(data_step)).chain(end) {
            let error = read(&bytes[..cut]).map(|_| ()).expect_err("a cut archive");
            assert_eq!(error.kind, Kind::Verification, "{name} cut at {cut}");
            let text = error.to_string();
            assert!(text.starts_with(&format!("read the archive at byte {cut}: ")), "{name} cut at {cut}: {text}");
            assert!(text.contains("the archive ends early"), "{text}");
        }
    }
}

#[test]
fn a_table_of_contents_behind_the_data_repeats_the_first_one_whole() {
    let bytes = fixture("pg16-redirected");
    let data_end = fixture("pg16").len();
    read(&bytes[..data_end]).unwrap();
    for cut in (data_end + 1..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
        let error = read(&bytes[..cut]).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, format!("read the archive at byte {data_end}: something follows the last block"));
    }
    let mut other = bytes.clone();
    let owner = other.windows(10).rposition(|window| window == b"shop_owner").unwrap();
    other[owner] = b'S';
    assert!(read(&other).is_err(), "it names another owner");
    assert!(read(&[&bytes[..], b"x"].concat()).is_err());
    // Older pg_dump never leaves one.
    let older = fixture("pg15");
    let repeated = &older[front_bytes(&older) - 300..front_bytes(&older)];
    assert!(read(&[&older, repeated].concat()).is_err());
}

#[test]
fn a_flipped_byte_never_panics_and_broken_framing_is_found() {
    for name in ["pg15", "pg18"] {
        let bytes = fixture(name);
        let front = front_bytes(&bytes);
        let mut found_in_front = 0;
        for at in (0..front).chain((front..bytes.len()).step_by(13)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            found_in_front += usize::from(read(&flipped).is_err() && at < front);
        }
        // Names, SQL texts and rows can change unseen (the checksum of the stream is for those); lengths cannot.
        assert!(found_in_front > front / 3, "{name}: {found_in_front} of {front}");
    }
    let bytes = fixture("pg15");
    for at in front_bytes(&bytes)..front_bytes(&bytes) + 6 {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x80;
        assert!(read(&flipped).is_err(), "type, sign and dump id of the first block");
    }
}

/// zlib has a checksum of its own, so here every byte counts: the data are decoded, not only framed.
#[test]
fn a_flipped_byte_of_compressed_data_is_found_and_the_table_is_named() {
    for name in ["pg15-gzip", "pg18-gzip"] {
        let bytes = fixture(name);
        let archive = read(&bytes).unwrap();
        assert!(archive.header.compression.is_decoded());
        for block in archive.blocks.iter().filter(|block| block.large_objects == 0 && block.size_bytes > 0) {
            // Type and dump id, then the length of the first chunk.
            let contents = block.offset as usize + 6 + 5;
            for at in contents..contents + (block.size_bytes as usize).min(4096) {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0xff;
                let error = read(&flipped).unwrap_err();
                let entry = archive.toc.get(block.dump_id).unwrap().to_string();
                assert_eq!(error.kind, Kind::Verification, "{name} {at}");
                assert!(
                    error.to_string().contains(&format!("data of {entry}: the compressed data")),
                    "{name} {at}: {error}"
                );
            }
        }
    }
}

#[test]
fn mutated_archives_never_panic() {
    let archives: Vec<Vec<u8>> = FIXTURES.iter().map(|name| fixture(name)).collect();
    for seed in 0..600_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut bytes = archives[random(archives.len())].clone();
        for _ in 0..=random(8) {
            let at = random(bytes.len());
            match random(5) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
                2 => drop(bytes.drain(at..(at + 1 + random(40)).min(bytes.len() - 1))),
                3 => {
                    let copied = bytes[at..(at + 40).min(bytes.len())].to_vec();
                    let to = random(bytes.len());
                    bytes.splice(to..to, copied);
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        let slice = 1 + random(5000);
        let lengths = std::iter::repeat_n(slice, bytes.len() / slice);
        let in_slices = read_in_slices(&bytes, lengths).map(|archive| archive.blocks);
        assert_eq!(
            in_slices.map_err(|e| e.kind),
            read(&bytes).map(|archive| archive.blocks).map_err(|e| e.kind),
            "{seed}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn slicing_changes_nothing(fixture_number in 0..FIXTURES.len(), lengths in prop::collection::vec(0_usize..40, 0..3000)) {
        let bytes = fixture(FIXTURES[fixture_number]);
        let sliced = read_in_slices(&bytes, lengths).unwrap();
        let whole = read(&bytes).unwrap();
        prop_assert_eq!(sliced.toc.entries(), whole.toc.entries());
        prop_assert_eq!((sliced.header, sliced.blocks, sliced.size_bytes), (whole.header, whole.blocks, whole.size_bytes));
    }
}

#[test]
fn one_byte_at_a_time() {
    for name in FIXTURES {
        let bytes = fixture(name);
        let archive = read_in_slices(&bytes, std::iter::repeat_n(1, bytes.len())).unwrap();
        assert_eq!(archive.blocks, read(&bytes).unwrap().blocks);
    }
}

/// Writes archives as `pg_dump` does, of any version and with any mistake.
struct Forge {
    bytes: Vec<u8>,
    minor: u8,
    integer_bytes: usize,
}

impl Forge {
    fn begin(minor: u8, integer_bytes: usize, entries: i64) -> Self {
        let mut forge = Self { bytes: b"PGDMP\x01".to_vec(), minor, integer_bytes };
        forge.bytes.extend([minor, 0, integer_bytes as u8, 8, 1]);
        if minor >= 15 {
            forge.bytes.push(0)
        } else {
            forge.integer(0)
        }
        for part in [59, 30, 2, 28, 1, 124, 0] {
            forge.integer(part);
        }
        forge.text("db").text("9.6.24").text("9.6.24");
        forge.integer(entries);
        forge
    }

    fn integer(&mut self, number: i64) {
        self.bytes.push(u8::from(number < 0));
        self.bytes.extend(&number.unsigned_abs().to_le_bytes()[..self.integer_bytes]);
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.integer(text.len() as i64);
        self.bytes.extend(text.as_bytes());
        self
    }

    fn entry(&mut self, id: i64, desc: &str, tag: &str, has_data: i64) -> &mut Self {
        self.integer(id);
        self.integer(has_data);
        self.text("1259").text("4294967295").text(tag).text(desc);
        self.integer(3);
        self.text("SQL").text("").text("COPY").text("public").text("");
        if self.minor >= 14 {
            self.integer(-1);
        }
        if self.minor >= 16 {
            self.integer(i64::from(b'r'));
        }
        self.text("owner").text("false").text("1").text("2");
        self.integer(-1);
        self.bytes.push(if has_data == 1 { 1 } else { 3 });
        self.bytes.extend([0; 8]);
        self
    }

    fn block(&mut self, kind: u8, id: i64) -> &mut Self {
        self.bytes.push(kind);
        self.integer(id);
        self
    }

    fn chunks(&mut self, chunks: &[&[u8]]) -> &mut Self {
        for chunk in chunks {
            self.integer(chunk.len() as i64);
            self.bytes.extend(*chunk);
        }
        self.integer(0);
        self
    }

    fn read(&self) -> Result<Archive> {
        read(&self.bytes)
    }
}

#[test]
fn old_versions_and_other_widths_of_integers_read_alike() {
    for minor in 12..=16 {
        for integer_bytes in [4, 8] {
            let mut forge = Forge::begin(minor, integer_bytes, 3);
            forge.entry(7, "TABLE", "t", 0).entry(8, "TABLE DATA", "t", 1).entry(9, "BLOBS", "BLOBS", 1);
            forge.block(1, 8).chunks(&[b"1\ta\n", b"22\n"]).block(3, 9);
            // An object id above 2^31, as C writes it into an int.
            forge.integer(i64::from(4_000_000_000_u32 as i32));
            forge.chunks(&[b"abc"]).integer(5);
            forge.chunks(&[]).integer(0);
            let archive = forge.read().unwrap();
            let counts: Vec<(u64, u64)> = archive.blocks.iter().map(|b| (b.size_bytes, b.large_objects)).collect();
            assert_eq!(counts, [(7, 0), (3, 2)]);
            assert_eq!(archive.header.created_local.unwrap().to_string(), "2024-02-28 02:30:59");
            assert_eq!(archive.toc.entries()[0].catalog_id.oid, u32::MAX);
            assert_eq!(archive.toc.entries()[0].dependencies.len(), 2);
        }
    }
}

fn refusal(forge: &Forge) -> String {
    forge.read().map(|_| ()).expect_err("a wrong archive").to_string()
}

fn two_tables() -> Forge {
    let mut forge = Forge::begin(14, 4, 3);
    forge.entry(3012, "TABLE DATA", "orders", 1).entry(3013, "TABLE DATA", "we\nird", 1).entry(9, "BLOBS", "BLOBS", 1);
    forge
}

#[test]
fn what_is_missing_or_too_much_is_named() {
    let mut forge = two_tables();
    assert!(refusal(&forge).ends_with(
        "data of TABLE DATA public.orders (dump id 3012) are missing: the archive ends early, and data of 2 more \
         entries are missing"
    ));
    forge.block(1, 3012).chunks(&[b"row"]);
    forge.block(1, 3013).integer(400);
    forge.bytes.extend([b'x'; 100]);
    assert!(refusal(&forge).contains(r"data of TABLE DATA public.we\nird (dump id 3013) are cut off"));

    let mut forge = two_tables();
    forge.block(1, 3012).chunks(&[]).block(1, 3012);
    assert!(refusal(&forge).ends_with("a second block of TABLE DATA public.orders (dump id 3012)"));
    let mut forge = two_tables();
    forge.block(1, 5).chunks(&[]);
    assert!(refusal(&forge).ends_with("a block of dump id 5, which the table of contents has no data for"));
    let mut forge = two_tables();
    forge.block(3, 3012);
    assert!(refusal(&forge).ends_with("the block of TABLE DATA public.orders (dump id 3012) is of the wrong type"));
    let mut forge = two_tables();
    forge.block(2, 3012);
    assert!(refusal(&forge).ends_with("a block of type 2"));
    let mut forge = two_tables();
    forge.block(1, 3012).integer(-5);
    assert!(refusal(&forge).ends_with("a chunk of -5 bytes"));

    let mut forge = two_tables();
    forge.block(1, 3012).chunks(&[]).block(1, 3013).chunks(&[]).block(3, 9).integer(0);
    forge.read().unwrap();
    forge.bytes.push(1);
    assert!(forge.read().is_err(), "a byte after the last block");
}

#[test]
fn lengths_that_lie_take_no_memory() {
    // A count, a name, a text that is passed over and a chunk of 2 GiB each, with nothing behind them.
    let forge = Forge::begin(16, 4, i64::from(i32::MAX));
    assert!(refusal(&forge).contains("inside its table of contents: 0 of 2147483647 entries are whole"));
    let mut forge = Forge::begin(16, 4, 1);
    for number in [1, 0, i64::from(i32::MAX)] {
        forge.integer(number);
    }
    assert!(refusal(&forge).ends_with("a name of 2147483647 bytes"));
    let mut forge = Forge::begin(16, 8, 1);
    forge.integer(1);
    forge.integer(i64::from(u32::MAX) + 1);
    assert!(refusal(&forge).ends_with("this is not an integer"));
    let mut forge = Forge::begin(16, 4, -1);
    forge.integer(0);
    assert!(refusal(&forge).ends_with("-1 entries"));
    let mut forge = two_tables();
    forge.block(1, 3012).integer(i64::from(i32::MAX));
    assert!(refusal(&forge).contains("are cut off"));
    let mut forge = Forge::begin(14, 4, 2);
    forge.entry(4, "TABLE", "t", 0).entry(4, "TABLE", "u", 0);
    assert!(refusal(&forge).ends_with("dump id 4"));
}

#[test]
fn what_is_not_a_readable_archive_is_refused_at_once() {
    let refused = |bytes: &[u8]| -> Error { ArchiveReader::new().push(bytes).unwrap_err() };
    let error = refused(b"--\n-- PostgreSQL database dump\n");
    assert_eq!(error.kind, Kind::Verification);
    assert!(error.to_string().contains("this is not an archive of pg_dump in the custom format"));
    for (major, minor) in [(1, 11), (1, 17), (2, 14)] {
        let error = refused(&[b"PGDMP".as_slice(), &[major, minor, 0, 4, 8, 1]].concat());
        assert_eq!(error.kind, Kind::NotVerified);
        assert!(error.to_string().contains(&format!("version {major}.{minor}")));
    }
    assert!(refused(b"PGDMP\x01\x0e\0\x04\x08\x03").to_string().contains("format 3"));
    assert!(refused(b"PGDMP\x01\x0e\0\x20\x08\x01").to_string().contains("integers of 32 bytes"));

    let mut reader = ArchiveReader::new();
    reader.push(b"junk").unwrap_err();
    reader.push(b"PGDMP").unwrap_err();
    reader.finish().unwrap_err();
}

/// A private server that ends with the test.
struct Cluster {
    bin: PathBuf,
    home: tempfile::TempDir,
}

impl Cluster {
    fn start(bin: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        if let Some((uid, gid)) = server_user() {
            chown(home.path(), Some(uid), Some(gid)).unwrap();
        }
        let cluster = Self { bin: bin.to_owned(), home };
        cluster
            .run("initdb", &["-D", "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let options = format!("-c listen_addresses='' -k {} -c fsync=off", cluster.home.path().display());
        cluster.run("pg_ctl", &["-D", "data", "-l", "log", "-o", &options, "-w", "start"]);
        cluster
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.home.path()).env("PGHOST", self.home.path()).env("PGUSER", "postgres");
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        if let Some((uid, gid)) = server_user() {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        // A server inherits what pg_ctl was given: its output must not be a pipe that is read to its end.
        let status = self.command(program).args(arguments).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    }

    fn output(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let output = self.command(program).args(arguments).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}");
        output.stdout
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.command("pg_ctl").args(["-D", "data", "-w", "-m", "immediate", "stop"]).status();
    }
}

/// PostgreSQL does not run as root; then its servers run as `postgres`.
fn server_user() -> Option<(u32, u32)> {
    let id = |flag: &str, user: &[&str]| -> u32 {
        let output = Command::new("id").arg(flag).args(user).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    (id("-u", &[]) == 0).then(|| (id("-u", &["postgres"]), id("-g", &["postgres"])))
}

/// Every installed PostgreSQL, and the `bin` directories that PGKEEP_TEST_BIN_DIRS lists.
#[allow(clippy::disallowed_methods)]
fn bin_directories() -> Vec<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let installed = installed.map(|version| version.unwrap().path().join("bin"));
    let listed = std::env::var_os("PGKEEP_TEST_BIN_DIRS").unwrap_or_default();
    let all: Vec<_> =
        installed.chain(std::env::split_paths(&listed)).filter(|bin| bin.join("initdb").exists()).collect();
    assert!(!all.is_empty(), "this test needs a PostgreSQL server in /usr/lib/postgresql or PGKEEP_TEST_BIN_DIRS");
    all
}

#[test]
fn archives_of_the_installed_pg_dump_read_as_pg_restore_lists_them() {
    for bin in bin_directories() {
        let cluster = Cluster::start(&bin);
        let schema = folder().join("schema.sql").display().to_string();
        cluster.run("psql", &["-qX", "-v", "ON_ERROR_STOP=1", "-f", &schema, "postgres"]);
        let many = "do $$ begin for i in 1..300 loop
            execute format('create table many_%s as select g, repeat(''x'', g %% 50) from generate_series(1, %s) g', i, i);
            end loop; end $$";
        cluster.run("psql", &["-qX", "-c", many, "fix"]);
        let path = |name: &str| cluster.home.path().join(name).display().to_string();
        let (file, listed) = (path("made.dump"), path("listed.dump"));
        for level in ["-Z0", "-Z3"] {
            for arguments in [&["-Fc", level][..], &["-Fc", level, "-f", &file]] {
                let mut bytes = cluster.output("pg_dump", &[arguments, &["fix"]].concat());
                if bytes.is_empty() {
                    bytes = fs::read(&file).unwrap();
                }
                fs::write(&listed, &bytes).unwrap();
                let list = String::from_utf8(cluster.output("pg_restore", &["-lv", &listed])).unwrap();
                let archive = read_in_slices(&bytes, std::iter::repeat_n(4096, bytes.len() / 4096)).unwrap();
                assert_listed(&archive, &list, &format!("{arguments:?} of {}", bin.display()));
                assert_eq!(archive.blocks.len(), archive.toc.entries().iter().filter(|e| e.has_data).count());
                if level == "-Z0" {
                    let size = |tag: &str| {
                        let entry = archive.toc.with_desc("TABLE DATA").find(|entry| &*entry.tag == tag).unwrap();
                        archive.blocks.iter().find(|block| block.dump_id == entry.dump_id).unwrap().size_bytes
                    };
                    for table in ["many_300", "empty_table"] {
                        let copied = cluster.output("psql", &["-qX", "-c", &format!("copy {table} to stdout"), "fix"]);
                        // pg_dump ends each table with "\.", two line ends after it.
                        assert_eq!(size(table), copied.len() as u64 + 5, "{table}");
                    }
                }
            }
        }
    }
}
