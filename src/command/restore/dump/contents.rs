//! The table of contents of an archive, read as far as it goes: the data behind it are not waited for.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use super::body::{Collector, Form};
use super::part::{self, Part, Presence};
use super::sources::Unread;
use super::{Context, Selected, Source, SourceCopy};
use crate::error::{Error, Kind, Result};
use crate::pg::archive::Front;
use crate::progress::Unit;
use crate::repo;
use crate::repo::archive::read_dump;
use crate::repo::directory::read_contents;

/// Of a stored backup. What is compared with the manifest is compared when the archive is read to its end.
pub async fn of_backup(context: &Context, threads: NonZeroUsize, selected: &Selected) -> Result<Front> {
    let read = async |copy: &SourceCopy| -> Result<Front, Unread> {
        let form = copy.manifest.form();
        if form == repo::Form::Directory {
            let task = context.monitor.task("read contents", Unit::Bytes, None);
            let bytes = read_contents(&copy.repository, &copy.manifest, threads, task).await?;
            return Front::read(bytes)?.map_err(|_| endless().into());
        }
        let found = Arc::new(Mutex::new(None));
        let task = context.monitor.task("read contents", Unit::Bytes, None);
        let skip_bytes = if form == repo::Form::Tar { TAR_HEADER_BYTES } else { 0 };
        let output = FrontWriter { collector: Collector::default(), skip_bytes, found: Arc::clone(&found) };
        let done = read_dump(&copy.repository, &selected.stem, &copy.manifest, output, threads, task).await;
        if let Some(front) = found.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(front);
        }
        let (_, mut output) = done?;
        let front = output.collector.front(true)?;
        front.ok_or_else(|| endless().into())
    };
    selected.sources.deliver("the table of contents", read).await
}

/// Of the chosen backup, for its user.
pub async fn contents(context: &Context, source: &Source, selected: &Selected) -> Result<Front> {
    let form = Form::from(selected.manifest.archive_format);
    if form == Form::Script {
        return Err(Error::usage("--list and an SQL script do not go together")
            .because("a script has no table of contents")
            .hint("read it: --to-file writes it"));
    }
    context.interrupt.guard(of_backup(context, source.threads, selected)).await
}

/// The list of what an archive holds, for `--use-list`; of the chosen part as it would be restored into a new database.
pub fn list(front: &Front, part: &Part) -> Result<(String, Vec<String>)> {
    if part.is_all() {
        return Ok((part::listing(front, None), Vec::new()));
    }
    let presence = Presence::New { schemas: ["public".to_owned()].into() };
    let chosen = part::choose(front, part, &presence)?;
    Ok((part::listing(front, Some(&chosen)), chosen.warnings))
}

/// The header of `toc.dat`, the first member of a tar archive.
const TAR_HEADER_BYTES: usize = 512;

fn endless() -> Error {
    Error::new(Kind::Verification, "the table of contents of the archive does not end")
}

/// Takes bytes until the front is whole, then no more.
struct FrontWriter {
    collector: Collector,
    /// Of what comes first.
    skip_bytes: usize,
    found: Arc<Mutex<Option<Front>>>,
}

impl Write for FrontWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let skipped = self.skip_bytes.min(bytes.len());
        self.skip_bytes -= skipped;
        self.collector.push(&bytes[skipped..]);
        if let Some(front) = self.collector.front(false).map_err(std::io::Error::other)? {
            *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(front);
            return Err(std::io::Error::other("the table of contents is read"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
