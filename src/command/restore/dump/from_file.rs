//! A dump that lies outside any repository: a file, a directory, or what comes through a pipe.
//!
//! What it is its bytes say, not its name: an archive in the custom format, a tar archive, a script of SQL, each also
//! compressed by gzip or zstd. It is read to its end before a server is touched. A file that needs no decoding is used
//! where it lies; everything else is decoded into a file without a name.

mod lexer;
mod members;
mod script;

use std::fs::File;
use std::io::{Read, Seek as _, Write};
use std::path::{Path, PathBuf};

use super::body::{self, Body, Collector, Folder, Form, Mapper};
use super::options::Options;
use super::subject::Subject;
use super::{Context, plan};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::pg::archive::{ArchiveReader, Front, FrontFormat};
use crate::progress::{Task, Unit};
use script::Script;

/// Where a dump comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    StandardInput,
    Path(PathBuf),
}

impl Origin {
    /// `-` is standard input.
    pub fn of(path: &Path) -> Self {
        if path == Path::new("-") { Self::StandardInput } else { Self::Path(path.to_owned()) }
    }

    pub fn name(&self) -> String {
        match self {
            Self::StandardInput => "standard input".to_owned(),
            Self::Path(path) => path.display().to_string(),
        }
    }
}

/// A dump that was read to its end.
#[derive(Debug)]
pub struct Loaded {
    pub name: String,
    /// The name that the database had.
    pub database: Option<String>,
    pub body: Body,
}

/// Enough to tell what it is.
const HEAD_BYTES: usize = 8 << 10;
const PIECE_BYTES: usize = 256 << 10;

/// Reads the dump, checks it as far as can be done without other programs, and says what it is.
pub async fn load(context: &Context, options: &Options, origin: &Origin) -> Result<(Subject, Loaded)> {
    options.check()?;
    let task = context.monitor.task("read archive", Unit::Bytes, size_of(origin));
    let (options, from) = (options.clone(), origin.clone());
    let reading = tokio::task::spawn_blocking(move || read(&options, &from, &*task));
    let read = async { reading.await.doing(Kind::Unexpected, || "read the dump")? };
    let (subject, body) =
        context.interrupt.guard(read).await.doing(Kind::Storage, || format!("read {}", origin.name()))?;
    let loaded = Loaded { name: subject.name.clone(), database: subject.database.clone(), body };
    Ok((subject, loaded))
}

/// The table of contents alone.
pub async fn contents_of(context: &Context, origin: &Origin) -> Result<Front> {
    let from = origin.clone();
    let reading = tokio::task::spawn_blocking(move || read_front(&from));
    let read = async { reading.await.doing(Kind::Unexpected, || "read the dump")? };
    context.interrupt.guard(read).await.doing(Kind::Storage, || format!("read {}", origin.name()))
}

fn size_of(origin: &Origin) -> Option<u64> {
    match origin {
        Origin::Path(path) => path.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len()),
        Origin::StandardInput => None,
    }
}

fn read(options: &Options, origin: &Origin, task: &dyn Task) -> Result<(Subject, Body)> {
    if let Origin::Path(path) = origin
        && path.is_dir()
    {
        return directory(options, path, origin.name());
    }
    let Opened { head, mut rest, in_place } = Opened::open(origin)?;
    let form = form_of(&head)?;
    options.check_form(form)?;
    let in_place = in_place.filter(|_| options.role_map.is_empty());
    let name = origin.name();
    let mut pass = Pass { options, task, kept: in_place, size_bytes: 0 };
    match form {
        Form::Custom => pass.custom(name, &head, &mut rest),
        Form::Tar => pass.tar(name, &head, &mut rest),
        Form::Script | Form::Directory => pass.script(name, &head, &mut rest),
    }
}

fn read_front(origin: &Origin) -> Result<Front> {
    if let Origin::Path(path) = origin
        && path.is_dir()
    {
        return front_of_directory(path);
    }
    let Opened { head, mut rest, .. } = Opened::open(origin)?;
    let form = form_of(&head)?;
    let mut collector = Collector::default();
    match form {
        Form::Tar => return front_of_tar(&head, &mut rest),
        Form::Script | Form::Directory => {
            return Err(Error::usage("--list and an SQL script do not go together")
                .because("a script has no table of contents")
                .hint("read it: it is text"));
        }
        Form::Custom => collector.push(&head),
    }
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if let Some(front) = collector.front(false)? {
            return Ok(front);
        }
        match rest.read(&mut piece).doing(Kind::Verification, || "decode it").map_err(not_whole)? {
            0 => return collector.front(true)?.ok_or_else(cut_off),
            count => collector.push(&piece[..count]),
        }
    }
}

fn cut_off() -> Error {
    Error::new(Kind::Verification, "the archive ends early, inside its table of contents")
        .hint("this archive cannot be restored: make a new dump, or use another copy")
}

/// A dump as it is opened: its first bytes, decoded, and what follows.
struct Opened {
    head: Vec<u8>,
    rest: Box<dyn Read + Send>,
    /// The file itself, where nothing is to be decoded and it can be read again.
    in_place: Option<File>,
}

impl Opened {
    fn open(origin: &Origin) -> Result<Self> {
        let doing = || "open it";
        let mut file = match origin {
            Origin::StandardInput => {
                let stdin = rustix::io::dup(rustix::stdio::stdin()).doing(Kind::Storage, doing)?;
                File::from(stdin)
            }
            Origin::Path(path) => {
                let opened = File::open(path).doing(Kind::Storage, doing);
                opened.map_err(|error| error.hint("name a file or a directory that pg_dump wrote, or - for a pipe"))?
            }
        };
        let head = read_head(&mut file)?;
        let is_file = matches!(origin, Origin::Path(_)) && file.metadata().is_ok_and(|meta| meta.is_file());
        if head.starts_with(b"age-encryption.org/") || head.starts_with(b"-----BEGIN AGE ") {
            return Err(Error::usage("it is encrypted").hint(
                "decrypt it on the way: age --decrypt --identity KEY FILE | pgkeep restore dump --from-file - …",
            ));
        }
        let raw = std::io::Cursor::new(head.clone()).chain(file.try_clone().doing(Kind::Storage, doing)?);
        let mut decoded: Box<dyn Read + Send> = if head.starts_with(&[0x1f, 0x8b]) {
            Box::new(flate2::read::MultiGzDecoder::new(raw))
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Box::new(zstd::Decoder::new(raw).doing(Kind::Unexpected, || "start to decode zstd")?)
        } else {
            let in_place = is_file.then(|| file.try_clone()).transpose().doing(Kind::Storage, doing)?;
            return Ok(Self { head, rest: Box::new(file), in_place });
        };
        let head = read_head(&mut *decoded)?;
        Ok(Self { head, rest: decoded, in_place: None })
    }
}

fn read_head(reader: &mut dyn Read) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let read = reader.take(HEAD_BYTES as u64).read_to_end(&mut head);
    read.doing(Kind::Verification, || "read its beginning").map_err(not_whole)?;
    Ok(head)
}

fn not_whole(error: Error) -> Error {
    error.hint("this file cannot be restored whole: make a new dump, or use another copy")
}

const TAR_BLOCK_BYTES: usize = 512;
/// A tar archive of `pg_dump` begins with its table of contents.
const TAR_MAGIC: std::ops::Range<usize> = 257..262;

fn form_of(head: &[u8]) -> Result<Form> {
    const CUSTOM: u8 = FrontFormat::Custom as u8;
    if head.starts_with(b"PGDMP") {
        return match head.get(10) {
            Some(&CUSTOM) | None => Ok(Form::Custom),
            Some(_) => Err(Error::usage("it is the table of contents of a directory or a tar archive")
                .hint("name the directory that it lies in")),
        };
    }
    if head.get(TAR_MAGIC) == Some(b"ustar") {
        return match head.starts_with(b"toc.dat\0") {
            true => Ok(Form::Tar),
            false => Err(Error::usage("it is a tar archive, and none of pg_dump: it does not begin with toc.dat")
                .hint("if a directory of pg_dump is in it, unpack it and name the directory")),
        };
    }
    if head.is_empty() {
        return Err(Error::new(Kind::Verification, "it is empty").hint("make a new dump, or use another copy"));
    }
    if head.contains(&0) {
        return Err(Error::usage("it is no archive of pg_dump, and no text")
            .hint("archives of pg_dump and SQL scripts are read, plain or compressed by gzip or zstd"));
    }
    Ok(Form::Script)
}

fn front_of_directory(path: &Path) -> Result<Front> {
    let toc = path.join("toc.dat");
    let bytes = std::fs::read(&toc).doing(Kind::Storage, || format!("read {}", toc.display()));
    let bytes = bytes.map_err(|error| error.hint("a directory of pg_dump --format=directory has a file toc.dat"))?;
    Front::read(bytes)?.map_err(|_| cut_off())
}

fn directory(options: &Options, path: &Path, name: String) -> Result<(Subject, Body)> {
    options.check_form(Form::Directory)?;
    let front = front_of_directory(path)?;
    members::check(path)?;
    let map = &options.role_map;
    let folder = match map.is_empty() {
        // A name may begin with a dash.
        true => Folder { path: path.canonicalize().doing(Kind::Storage, || "look at it")?, staging: None },
        false => body::mapped_directory(path, &front, map, &options.scratch)?,
    };
    let files = std::fs::read_dir(path).doing(Kind::Storage, || "list the directory")?;
    let sizes = files.flatten().filter_map(|file| Some(file.metadata().ok()?.len()));
    let subject = Subject::of_front(name, Form::Directory, sizes.sum(), front, map)?;
    Ok((subject, Body::Directory(folder)))
}

/// `toc.dat` is the first member; its size stands in octal in its header.
fn front_of_tar(head: &[u8], rest: &mut dyn Read) -> Result<Front> {
    let size = head.get(124..136).map(|digits| String::from_utf8_lossy(digits).into_owned()).unwrap_or_default();
    let size = u64::from_str_radix(size.trim_matches(['\0', ' ']), 8).ok().filter(|size| *size < 1 << 30);
    let size = size.ok_or_else(|| Error::new(Kind::Verification, "its first member has no size that makes sense"))?;
    let mut bytes = head.get(TAR_BLOCK_BYTES..).unwrap_or_default().to_vec();
    let missing = size.saturating_sub(bytes.len() as u64);
    rest.take(missing).read_to_end(&mut bytes).doing(Kind::Verification, || "read its table of contents")?;
    bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    Front::read(bytes)?.map_err(|_| cut_off())
}

/// One reading from the beginning to the end, into a file where none can be used as it is.
struct Pass<'a> {
    options: &'a Options,
    task: &'a dyn Task,
    kept: Option<File>,
    size_bytes: u64,
}

impl Pass<'_> {
    /// Where the bytes are kept, and where they are written, if they are not there already.
    fn output(&self) -> Result<(File, Option<File>)> {
        let scratch = &self.options.scratch;
        if let Some(kept) = &self.kept {
            return Ok((kept.try_clone().doing(Kind::Storage, || "use the file")?, None));
        }
        plan::room(scratch, 1, "the decoded archive")?;
        let (kept, written) = body::scratch_file(scratch)?;
        Ok((kept, Some(written)))
    }

    fn each(&mut self, head: &[u8], rest: &mut dyn Read, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        let mut bytes = head;
        loop {
            take(bytes)?;
            self.size_bytes += bytes.len() as u64;
            self.task.advance(bytes.len() as u64);
            let count = loop {
                match rest.read(&mut piece) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    read => break read.doing(Kind::Verification, || "decode it").map_err(not_whole)?,
                }
            };
            if count == 0 {
                return Ok(());
            }
            bytes = &piece[..count];
        }
    }

    fn custom(&mut self, name: String, head: &[u8], rest: &mut dyn Read) -> Result<(Subject, Body)> {
        let (kept, output) = self.output()?;
        let is_ours = output.is_some();
        let mut reader = ArchiveReader::new();
        let mut collector = Collector::default();
        let mut front = None;
        let mut mapper = output.map(|output| Mapper::new(output, self.options.role_map.clone()));
        self.each(head, rest, |bytes| {
            reader.push(bytes)?;
            collector.push(bytes);
            if let Some(found) = collector.front(false)? {
                front = Some(found);
            }
            match &mut mapper {
                Some(mapper) => mapper.write_all(bytes).doing(Kind::Storage, || "write the decoded archive"),
                None => Ok(()),
            }
        })?;
        let archive = reader.finish()?;
        let front = match front {
            Some(front) => front,
            None => collector.front(true)?.ok_or_else(cut_off)?,
        };
        let shift = match mapper {
            Some(mapper) => mapper.finish()?.1,
            None => None,
        };
        if is_ours {
            body::complete(&kept, &archive, shift.as_ref())?;
        }
        let subject = Subject::of_front(name, Form::Custom, self.size_bytes, front, &self.options.role_map)?;
        Ok((subject, Body::Custom { archive: Box::new(archive), file: kept }))
    }

    fn tar(&mut self, name: String, head: &[u8], rest: &mut dyn Read) -> Result<(Subject, Body)> {
        let (mut kept, output) = self.output()?;
        // It ends with two blocks of zeros; that all before them is there pg_restore finds out.
        let mut tail = Vec::new();
        self.copy(head, rest, output, |bytes| {
            tail.extend_from_slice(&bytes[bytes.len().saturating_sub(2 * TAR_BLOCK_BYTES)..]);
            let surplus = tail.len().saturating_sub(2 * TAR_BLOCK_BYTES);
            tail.drain(..surplus);
            Ok(())
        })?;
        if !self.size_bytes.is_multiple_of(TAR_BLOCK_BYTES as u64) || tail.iter().any(|byte| *byte != 0) {
            return Err(not_whole(Error::new(
                Kind::Verification,
                "the archive ends early: its last blocks are missing",
            )));
        }
        kept.rewind().doing(Kind::Storage, || "rewind it")?;
        let head = read_head(&mut kept)?;
        let front = front_of_tar(&head, &mut kept)?;
        let subject = Subject::of_front(name, Form::Tar, self.size_bytes, front, &self.options.role_map)?;
        Ok((subject, Body::Tar(kept)))
    }

    fn script(&mut self, name: String, head: &[u8], rest: &mut dyn Read) -> Result<(Subject, Body)> {
        let (kept, output) = self.output()?;
        let mut script = Script::beginning(head)?;
        self.copy(head, rest, output, |bytes| script.read(bytes))?;
        let warnings = script.finish()?;
        let mut subject = Subject::of_script(name, self.size_bytes, warnings);
        subject.client_major = script::client_major(head).unwrap_or(0);
        Ok((subject, Body::Script(kept)))
    }

    fn copy(
        &mut self,
        head: &[u8],
        rest: &mut dyn Read,
        mut output: Option<File>,
        mut look: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.each(head, rest, |bytes| {
            look(bytes)?;
            match &mut output {
                Some(output) => output.write_all(bytes).doing(Kind::Storage, || "write the decoded archive"),
                None => Ok(()),
            }
        })
    }
}
