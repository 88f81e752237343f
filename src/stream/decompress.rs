//! From compressed bytes, in order, to a blocking writer.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc as async_channel;
use zstd::zstd_safe::DCtx;

use super::codec::{no_memory, reason};
use super::split::{Part, Splitter, damaged};
use super::threads::{Verdict, next_job, start, vanished};
use crate::digest::{Fingerprint, Fingerprinter};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::progress::Task;

const WORK: &str = "decode the compressed stream";

/// Most bytes of one write. The kernel takes 2 GB into its cache in 0.35 s in pieces of this size and in 0.7 to 3.3 s in
/// pieces of 1 MiB and more, for which it looks for large pages (ext4, Linux 6.18).
const WRITE_BYTES: usize = 256 << 10;

/// Chunks that the producer may be ahead.
const CHUNKS_WAITING: usize = 4;

/// A stream being decoded. Dropping it ends the threads and leaves the output as far as it was written.
#[derive(Debug)]
pub struct Decompressor<W> {
    /// `None` says that everything was pushed: a producer that merely vanished must not look like one that came to its
    /// end.
    chunks: Option<async_channel::Sender<Option<Bytes>>>,
    verdict: Verdict<Decompressed<W>>,
}

/// A stream that was decoded and written to its end.
#[derive(Debug)]
pub struct Decompressed<W> {
    /// Of what was pushed.
    pub stored: Fingerprint,
    /// Of what was written.
    pub plain: Fingerprint,
    /// The output, flushed.
    pub output: W,
}

/// Decodes what is pushed and writes it to `output`. `task` advances by plain bytes.
///
/// Frames made here are decoded by `threads` threads; frames of other tools that are large or of unknown size by one,
/// with a window of at most 128 MiB. With `expected_bytes` nothing beyond that many plain bytes is decoded or written,
/// and fewer are an error. Memory: at most (2 × threads + 5) frames, which are of 4 MiB if made here and at most of 8.
/// Damage is an error of kind `Verification` that names the byte.
pub fn decompress<W>(
    output: W,
    threads: NonZeroUsize,
    expected_bytes: Option<u64>,
    task: Arc<dyn Task>,
) -> Result<Decompressor<W>>
where
    W: Write + Send + 'static,
{
    let threads = threads.get();
    let (chunks, arriving) = async_channel::channel(CHUNKS_WAITING);
    let (order, in_order) = sync_channel(threads);
    let (jobs, queue) = sync_channel(1);
    let (spare, spares) = channel();

    let queue = Arc::new(Mutex::new(queue));
    for number in 0..threads {
        let (decoder, queue) = (DCtx::try_create().ok_or_else(no_memory)?, queue.clone());
        start(format!("decode-{number}"), move || work(decoder, &queue))?;
    }
    let dispatcher = Dispatcher { jobs, order, spares };
    let splitter = Splitter::new(expected_bytes)?;
    start("decode-split".to_owned(), move || dispatcher.run(splitter, arriving))?;
    let verdict = write(output, expected_bytes, task, in_order, spare)?;
    Ok(Decompressor { chunks: Some(chunks), verdict })
}

/// As [`decompress`], for a stream that is not compressed: what is pushed is written and hashed, and nothing beyond
/// `limit_bytes`.
pub fn pass<W>(output: W, limit_bytes: u64, task: Arc<dyn Task>) -> Result<Decompressor<W>>
where
    W: Write + Send + 'static,
{
    let (chunks, arriving) = async_channel::channel(CHUNKS_WAITING);
    let (order, in_order) = sync_channel(1);
    let (spare, _) = channel();
    start("pass".to_owned(), move || pass_on(arriving, &order, limit_bytes))?;
    let verdict = write(output, None, task, in_order, spare)?;
    Ok(Decompressor { chunks: Some(chunks), verdict })
}

/// Starts the last stage: one thread writes, another hashes what was written.
fn write<W: Write + Send + 'static>(
    output: W,
    expected_bytes: Option<u64>,
    task: Arc<dyn Task>,
    in_order: Receiver<Item>,
    spare: Sender<Vec<u8>>,
) -> Result<Verdict<Decompressed<W>>> {
    let (tell, verdict) = Verdict::new(WORK);
    let (hash, written) = sync_channel(1);
    let (tell_plain, plain) = sync_channel(1);
    start("decode-hash".to_owned(), move || {
        // A writer that is gone has told its own error.
        let _ = tell_plain.send(fingerprint(&written, &spare));
    })?;
    let writer = Writer { output, written_bytes: 0, expected_bytes, task, hash, plain };
    start("decode-write".to_owned(), move || drop(tell.send(writer.run(&in_order))))?;
    Ok(verdict)
}

impl<W> Decompressor<W> {
    /// Hands over the next compressed bytes; waits while the output is slow. An error is final, and may be about bytes
    /// of an earlier call. Dropping the call before it returns gives up the stream.
    pub async fn push(&mut self, chunk: Bytes) -> Result<()> {
        self.verdict.failed()?;
        if let Some(chunks) = self.chunks.take() {
            // Taken out while it waits: a call that is dropped halfway loses its chunk, and must not be followed by
            // others as if nothing were missing.
            if chunks.send(Some(chunk)).await.is_ok() {
                self.chunks = Some(chunks);
                return Ok(());
            }
        }
        match self.verdict.wait().await {
            Err(error) => Err(error),
            Ok(_) => Err(vanished(WORK)),
        }
    }

    /// Says that everything was pushed, and waits until it is written.
    pub async fn finish(mut self) -> Result<Decompressed<W>> {
        let Some(chunks) = self.chunks.take() else { return self.verdict.wait().await };
        // A dispatcher that is gone has failed, and the verdict says why.
        let _ = chunks.send(None).await;
        self.verdict.wait().await
    }
}

struct Job {
    offset: u64,
    frame: Bytes,
    content_bytes: usize,
    buffer: Vec<u8>,
    reply: SyncSender<Result<Vec<u8>>>,
}

/// What the writer handles, in stream order.
enum Item {
    Decoding {
        offset: u64,
        plain: Receiver<Result<Vec<u8>>>,
    },
    Plain(Vec<u8>),
    /// `None`: what was pushed is what was written.
    End {
        stored: Option<Fingerprint>,
    },
    Failed(Error),
}

/// The writer is gone; its own error is the one that counts.
struct Gone;

struct Dispatcher {
    jobs: SyncSender<Job>,
    order: SyncSender<Item>,
    spares: Receiver<Vec<u8>>,
}

impl Dispatcher {
    fn run(self, mut splitter: Splitter, mut arriving: async_channel::Receiver<Option<Bytes>>) {
        let mut stored = Fingerprinter::new();
        let end = loop {
            let Some(chunk) = arriving.blocking_recv() else { break gave_up() };
            let Some(chunk) = chunk else {
                break match splitter.finish() {
                    Ok(()) => Item::End { stored: Some(stored.finish()) },
                    Err(error) => Item::Failed(error),
                };
            };
            stored.update(&chunk);
            splitter.push(&chunk);
            match self.hand_on(&mut splitter) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Item::Failed(error),
                Err(Gone) => return,
            }
        };
        // A writer that is gone has told its own error.
        let _ = self.order.send(end);
    }

    fn hand_on(&self, splitter: &mut Splitter) -> Result<Result<()>, Gone> {
        loop {
            match splitter.next_part() {
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
                Ok(Some(Part::Plain(plain))) => self.order.send(Item::Plain(plain)).map_err(|_| Gone)?,
                Ok(Some(Part::Frame { offset, frame, content_bytes })) => {
                    let (reply, plain) = sync_channel(1);
                    self.order.send(Item::Decoding { offset, plain }).map_err(|_| Gone)?;
                    let buffer = self.spares.try_recv().unwrap_or_default();
                    self.jobs.send(Job { offset, frame, content_bytes, buffer, reply }).map_err(|_| Gone)?;
                }
            }
        }
    }
}

fn pass_on(mut arriving: async_channel::Receiver<Option<Bytes>>, order: &SyncSender<Item>, limit_bytes: u64) {
    let mut passed_bytes = 0;
    let end = loop {
        let Some(chunk) = arriving.blocking_recv() else { break gave_up() };
        let Some(chunk) = chunk else { break Item::End { stored: None } };
        passed_bytes += chunk.len() as u64;
        if passed_bytes > limit_bytes {
            break Item::Failed(too_long(limit_bytes));
        }
        if order.send(Item::Plain(chunk.into())).is_err() {
            return;
        }
    };
    // A writer that is gone has told its own error.
    let _ = order.send(end);
}

fn too_long(limit_bytes: u64) -> Error {
    Error::new(Kind::Verification, format!("the stream has more than the {limit_bytes} bytes that were expected"))
        .hint("the stored bytes are damaged: use another copy, or an older backup")
}

fn gave_up() -> Item {
    Item::Failed(Error::new(Kind::Unexpected, format!("{WORK}: its source gave up")))
}

fn work(mut decoder: DCtx<'static>, queue: &Mutex<Receiver<Job>>) {
    while let Some(Job { offset, frame, content_bytes, mut buffer, reply }) = next_job(queue) {
        buffer.clear();
        buffer.reserve_exact(content_bytes);
        let decoded = match decoder.decompress(&mut buffer, &frame) {
            Ok(count) if count == content_bytes => Ok(buffer),
            Ok(count) => Err(damaged(offset, format!("the frame has {count} bytes and announces {content_bytes}"))),
            Err(code) => Err(damaged(offset, reason(code))),
        };
        // A writer that is gone has told why; the queue closes next.
        let _ = reply.send(decoded);
    }
}

/// The error that an output of ours has put into one of I/O, with its kind: what it thinks of the bytes is no trouble with
/// writing them.
fn own(error: std::io::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error.downcast::<Error>() {
        Ok(own) => own.into(),
        Err(foreign) => foreign.into(),
    }
}

/// Hashes what was written, beside the writer: both take about as long as decoding does. Gives buffers back.
fn fingerprint(written: &Receiver<Vec<u8>>, spare: &Sender<Vec<u8>>) -> Fingerprint {
    let mut plain = Fingerprinter::new();
    for buffer in written {
        plain.update(&buffer);
        // A dispatcher that is gone needs no buffers.
        let _ = spare.send(buffer);
    }
    plain.finish()
}

struct Writer<W> {
    output: W,
    written_bytes: u64,
    expected_bytes: Option<u64>,
    task: Arc<dyn Task>,
    hash: SyncSender<Vec<u8>>,
    /// Told when `hash` is closed.
    plain: Receiver<Fingerprint>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, in_order: &Receiver<Item>) -> Result<Decompressed<W>> {
        for item in in_order {
            match item {
                Item::Plain(plain) => self.write(plain)?,
                Item::Decoding { offset, plain } => {
                    let action = || format!("decode the frame at byte {offset}");
                    self.write(plain.recv().map_err(|_| vanished(&action()))??)?;
                }
                Item::End { stored } => return self.end(stored),
                Item::Failed(error) => return Err(error),
            }
        }
        Err(vanished(WORK))
    }

    fn write(&mut self, plain: Vec<u8>) -> Result<()> {
        for piece in plain.chunks(WRITE_BYTES) {
            let offset = self.written_bytes;
            let written = self.output.write_all(piece).map_err(own);
            written.doing(Kind::Storage, || format!("write the decoded stream at byte {offset}"))?;
            self.written_bytes += piece.len() as u64;
            self.task.advance(piece.len() as u64);
        }
        self.hash.send(plain).map_err(|_| vanished(WORK))
    }

    fn end(mut self, stored: Option<Fingerprint>) -> Result<Decompressed<W>> {
        self.output.flush().map_err(own).doing(Kind::Storage, || "write the end of the decoded stream")?;
        drop(self.hash);
        let plain = self.plain.recv().map_err(|_| vanished(WORK))?;
        let stored = stored.unwrap_or(plain);
        match self.expected_bytes {
            Some(expected) if plain.size_bytes != expected => {
                let why = format!("it decodes to {} bytes, expected were {expected}", plain.size_bytes);
                Err(damaged(stored.size_bytes, why))
            }
            _ => Ok(Decompressed { stored, plain, output: self.output }),
        }
    }
}
