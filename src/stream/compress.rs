//! From a blocking reader to compressed bytes, in order.

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc as async_channel;

use super::codec::ProvingEncoder;
use super::threads::{Verdict, next_job, start, vanished};
use super::{BLOCK_BYTES, Compression, Observer};
use crate::digest::{Fingerprint, Fingerprinter};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::progress::Task;

const WORK: &str = "compress the stream";

/// Most bytes of one read: they are hashed and observed while they are still in the cache.
const READ_BYTES: usize = 256 << 10;

/// `pg_dump` writes 4 KiB at a time, and a reader that wakes for each of them takes 5 % of the speed of the whole dump
/// for switching threads. After a read this short it lets the pipe fill for a moment. At 400 MB/s that is 80 KiB: even
/// a pipe that could not be enlarged stays busy.
const SHORT_READ_BYTES: usize = 16 << 10;
const PAUSE: Duration = Duration::from_micros(200);

/// Of a stream that is not compressed.
const PIECE_BYTES: usize = 1 << 20;

/// Frames that may wait for the consumer.
const FRAMES_WAITING: usize = 2;

/// A compressed stream in the making. Dropping it ends the threads as soon as `input` returns from a read.
#[derive(Debug)]
pub struct Compressor<O> {
    frames: async_channel::Receiver<Bytes>,
    verdict: Verdict<Compressed<O>>,
    totals: Option<Compressed<O>>,
}

/// A stream that was read to its end and sent whole.
#[derive(Debug)]
pub struct Compressed<O> {
    /// Of what was read.
    pub plain: Fingerprint,
    /// Of what was sent.
    pub stored: Fingerprint,
    /// The observer, who has seen all of `plain`.
    pub observer: O,
}

/// Compresses everything `input` gives. `task` advances by plain bytes.
///
/// Memory: at most (4 × threads + 5) blocks of 4 MiB, for incompressible input; about half of it for rows of text; and
/// zstd's own tables (about 1 MB per thread at level 3). Fails at once only if the level or the threads cannot be had.
pub fn compress<R, O>(input: R, compression: Compression, observer: O, task: Arc<dyn Task>) -> Result<Compressor<O>>
where
    R: Read + Send + 'static,
    O: Observer + 'static,
{
    let threads = compression.threads.get();
    let (tell, verdict) = Verdict::new(WORK);
    let (send, frames) = async_channel::channel(FRAMES_WAITING);
    let (order, in_order) = sync_channel(threads);
    let (jobs, queue) = sync_channel(1);
    let (spare, spares) = channel();

    let queue = Arc::new(Mutex::new(queue));
    for number in 0..threads {
        let (encoder, queue, spare) = (ProvingEncoder::new(compression.level)?, queue.clone(), spare.clone());
        // One block per worker, one that waits for a worker, one that is being filled.
        start(format!("compress-{number}"), move || work(encoder, &queue, &spare))?;
    }
    let source = Source { input, observer, plain: Fingerprinter::new(), task };
    let reader = Reader { source, spares, blocks_left: threads + 2, jobs, order };
    start("compress-read".to_owned(), move || reader.run())?;
    start("compress-send".to_owned(), move || drop(tell.send(collect(&in_order, &send))))?;
    Ok(Compressor { frames, verdict, totals: None })
}

/// As [`compress`], for a stream that is stored as it comes: what is read is observed, hashed and handed over in pieces
/// of 1 MiB. Memory: three of them.
pub fn relay<R, O>(input: R, observer: O, task: Arc<dyn Task>) -> Result<Compressor<O>>
where
    R: Read + Send + 'static,
    O: Observer + 'static,
{
    let (tell, verdict) = Verdict::new("read the stream");
    let (send, frames) = async_channel::channel(FRAMES_WAITING);
    let source = Source { input, observer, plain: Fingerprinter::new(), task };
    start("relay".to_owned(), move || drop(tell.send(source.relay(&send))))?;
    Ok(Compressor { frames, verdict, totals: None })
}

impl<O> Compressor<O> {
    /// The next compressed bytes: whole frames. `None` only after everything was read and handed over; a stream that
    /// broke ends in an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(frame) = self.frames.recv().await {
            return Ok(Some(frame));
        }
        if self.totals.is_none() {
            self.totals = Some(self.verdict.wait().await?);
        }
        Ok(None)
    }

    /// The totals of a stream whose every frame was taken with [`Compressor::next`]; otherwise an error.
    pub async fn finish(mut self) -> Result<Compressed<O>> {
        self.frames.close();
        if self.frames.try_recv().is_ok() {
            return Err(not_taken());
        }
        match self.totals {
            Some(totals) => Ok(totals),
            None => self.verdict.wait().await,
        }
    }
}

/// A block on its way through a worker. `plain` is always [`BLOCK_BYTES`] long; `len` bytes of it count.
struct Job {
    plain: Vec<u8>,
    len: usize,
    offset: u64,
    reply: SyncSender<Result<Bytes>>,
}

/// What the collector handles, in stream order.
enum Item<O> {
    Frame { offset: u64, frame: Receiver<Result<Bytes>> },
    End { plain: Fingerprint, observer: O },
    Failed(Error),
}

/// What is read, seen and hashed.
struct Source<R, O> {
    input: R,
    observer: O,
    plain: Fingerprinter,
    task: Arc<dyn Task>,
}

impl<R: Read, O: Observer> Source<R, O> {
    /// Reads a whole block, or what is left of the input.
    fn fill(&mut self, block: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < block.len() {
            let end = block.len().min(filled + READ_BYTES);
            let count = match self.input.read(&mut block[filled..end]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    let offset = self.plain.size_bytes();
                    return Err(error).doing(Kind::Tool, || format!("read the stream at byte {offset}"));
                }
            };
            let bytes = &block[filled..filled + count];
            self.plain.update(bytes);
            self.observer.observe(bytes)?;
            self.task.advance(count as u64);
            filled += count;
            // Never in the first block: a small stream is not worth waiting for.
            if count < SHORT_READ_BYTES && self.plain.size_bytes() > BLOCK_BYTES as u64 {
                thread::park_timeout(PAUSE);
            }
        }
        Ok(filled)
    }

    fn relay(mut self, send: &async_channel::Sender<Bytes>) -> Result<Compressed<O>> {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let len = self.fill(&mut piece)?;
            piece.truncate(len);
            if len > 0 {
                send.blocking_send(piece.into()).map_err(|_| not_taken())?;
            }
            if len < PIECE_BYTES {
                let plain = self.plain.finish();
                return Ok(Compressed { plain, stored: plain, observer: self.observer });
            }
        }
    }
}

struct Reader<R, O> {
    source: Source<R, O>,
    spares: Receiver<Vec<u8>>,
    blocks_left: usize,
    jobs: SyncSender<Job>,
    order: SyncSender<Item<O>>,
}

/// A later stage is gone; its own error is the one that counts.
struct Gone;

impl<R: Read, O: Observer> Reader<R, O> {
    fn run(mut self) {
        let end = loop {
            let Some(mut block) = self.block() else { return };
            let offset = self.source.plain.size_bytes();
            let len = match self.source.fill(&mut block) {
                Ok(len) => len,
                Err(error) => break Item::Failed(error),
            };
            // An empty stream is one empty frame: no stored object is empty.
            if (len > 0 || offset == 0) && self.submit(block, len, offset).is_err() {
                return;
            }
            if len < BLOCK_BYTES {
                break Item::End { plain: self.source.plain.finish(), observer: self.source.observer };
            }
        };
        // A collector that is gone has told its own error.
        let _ = self.order.send(end);
    }

    fn block(&mut self) -> Option<Vec<u8>> {
        if self.blocks_left > 0 {
            self.blocks_left -= 1;
            return Some(vec![0; BLOCK_BYTES]);
        }
        self.spares.recv().ok()
    }

    fn submit(&mut self, plain: Vec<u8>, len: usize, offset: u64) -> Result<(), Gone> {
        let (reply, frame) = sync_channel(1);
        self.order.send(Item::Frame { offset, frame }).map_err(|_| Gone)?;
        self.jobs.send(Job { plain, len, offset, reply }).map_err(|_| Gone)
    }
}

fn work(mut encoder: ProvingEncoder, queue: &Mutex<Receiver<Job>>, spare: &Sender<Vec<u8>>) {
    while let Some(Job { plain, len, offset, reply }) = next_job(queue) {
        let frame = encoder.encode(&plain[..len], offset);
        // Whoever is gone has told why; the queue closes next.
        let _ = spare.send(plain);
        let _ = reply.send(frame);
    }
}

fn not_taken() -> Error {
    Error::new(Kind::Unexpected, "hand over the stream: it was not taken to its end")
}

fn collect<O>(in_order: &Receiver<Item<O>>, send: &async_channel::Sender<Bytes>) -> Result<Compressed<O>> {
    let mut stored = Fingerprinter::new();
    for item in in_order {
        match item {
            Item::Frame { offset, frame } => {
                let action = || format!("compress the block at byte {offset}");
                let frame = frame.recv().map_err(|_| vanished(&action()))??;
                stored.update(&frame);
                send.blocking_send(frame).map_err(|_| not_taken())?;
            }
            Item::End { plain, observer } => return Ok(Compressed { plain, stored: stored.finish(), observer }),
            Item::Failed(error) => return Err(error),
        }
    }
    Err(vanished(WORK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(items: Vec<Item<()>>) -> Result<Compressed<()>> {
        let (order, in_order) = sync_channel(10);
        for item in items {
            order.send(item).unwrap();
        }
        drop(order);
        let (send, _frames) = async_channel::channel(10);
        collect(&in_order, &send)
    }

    fn end() -> Item<()> {
        Item::End { plain: Fingerprinter::new().finish(), observer: () }
    }

    fn frame(result: Option<Result<Bytes>>) -> Item<()> {
        let (reply, frame) = sync_channel(1);
        if let Some(result) = result {
            reply.send(result).unwrap();
        }
        Item::Frame { offset: 4096, frame }
    }

    #[test]
    fn a_worker_or_a_reader_that_vanished_is_not_an_end() {
        collected(vec![frame(Some(Ok(Bytes::from_static(b"x")))), end()]).unwrap();
        let error = collected(vec![frame(None), end()]).unwrap_err();
        assert_eq!(error.to_string(), "compress the block at byte 4096: a thread ended unexpectedly");
        assert_eq!(collected(vec![]).unwrap_err().kind, Kind::Unexpected);
        let not_proven = Error::new(Kind::Verification, "prove the block");
        assert_eq!(collected(vec![frame(Some(Err(not_proven))), end()]).unwrap_err().kind, Kind::Verification);
    }
}
