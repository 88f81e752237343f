//! Bytes in motion: what goes in comes out, and what broke never looks whole.

use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pgkeep::digest::Fingerprint;
use pgkeep::error::{Error, Kind, Result};
use pgkeep::progress::{Silent, Task};
use pgkeep::stream::{Compressed, Compression, Decompressed, Observer, compress, decompress, pass, relay};

const BLOCK_BYTES: usize = 4 << 20;

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn level_3(count: usize) -> Compression {
    Compression { level: 3, threads: threads(count) }
}

/// Bytes that compress to about half.
fn sample(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b"0123456789abcdef"[(state >> 60) as usize]
    };
    (0..len).map(|_| next()).collect()
}

async fn compressed<R, O>(input: R, threads: usize, observer: O) -> Result<(Vec<u8>, Compressed<O>)>
where
    R: Read + Send + 'static,
    O: Observer + 'static,
{
    let mut stream = compress(input, level_3(threads), observer, Arc::new(Silent))?;
    let mut stored = Vec::new();
    while let Some(frame) = stream.next().await? {
        stored.extend_from_slice(&frame);
    }
    Ok((stored, stream.finish().await?))
}

async fn decoded(stored: &[u8], chunk_bytes: usize, count: usize, limit: Option<u64>) -> Result<Decompressed<Vec<u8>>> {
    let mut stream = decompress(Vec::new(), threads(count), limit, Arc::new(Silent))?;
    for chunk in stored.chunks(chunk_bytes) {
        stream.push(Bytes::copy_from_slice(chunk)).await?;
    }
    stream.finish().await
}

/// One frame of another tool: no size in the header, as `pg_dump | zstd` leaves it.
fn foreign_frame(plain: &[u8], level: i32, window_log: Option<u32>) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
    if let Some(window_log) = window_log {
        encoder.window_log(window_log).unwrap();
    }
    encoder.include_checksum(true).unwrap();
    // Written in pieces, so that the encoder cannot know the size.
    for piece in plain.chunks(100_000) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

#[derive(Debug, Default)]
struct Counted(AtomicU64);

impl Task for Counted {
    fn advance(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
    fn note(&self, _text: &str) {}
}

/// Remembers what it saw; fails or panics after so many bytes.
#[derive(Debug, Default)]
struct Witness {
    seen: Vec<u8>,
    fails_after: Option<usize>,
    panics_after: Option<usize>,
}

impl Observer for Witness {
    fn observe(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen.extend_from_slice(bytes);
        assert!(self.panics_after.is_none_or(|limit| self.seen.len() < limit), "the observer panics, as told");
        match self.fails_after {
            Some(limit) if self.seen.len() >= limit => {
                Err(Error::new(Kind::Verification, "read the archive at byte 7"))
            }
            _ => Ok(()),
        }
    }
}

/// Gives `good` bytes, then an error or a panic.
struct Breaks {
    good: io::Cursor<Vec<u8>>,
    panics: Option<()>,
}

impl Read for Breaks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.good.read(buf)? {
            0 if self.panics.is_some() => panic!("the input panics, as told"),
            0 => Err(io::Error::other("the disk is gone")),
            count => Ok(count),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_comes_out_and_every_byte_is_counted_and_seen() {
    for len in [0, 1, 1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 4321] {
        for count in [1, 3] {
            let plain = sample(len, 42);
            let (stored, totals) = compressed(io::Cursor::new(plain.clone()), count, Witness::default()).await.unwrap();
            assert_eq!(totals.plain, Fingerprint::of(&plain));
            assert_eq!(totals.stored, Fingerprint::of(&stored));
            assert!(totals.observer.seen == plain, "{len}");
            assert!(zstd::decode_all(&stored[..]).unwrap() == plain, "another decoder reads {len} bytes");

            let task = Arc::new(Counted::default());
            let mut back = decompress(Vec::new(), threads(count), Some(len as u64), task.clone()).unwrap();
            for chunk in stored.chunks(65_537) {
                back.push(Bytes::copy_from_slice(chunk)).await.unwrap();
            }
            let back = back.finish().await.unwrap();
            assert!(back.output == plain);
            assert_eq!((back.plain, back.stored), (totals.plain, totals.stored));
            assert_eq!(task.0.load(Ordering::Relaxed), len as u64);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_stream_is_one_empty_frame() {
    let (stored, totals) = compressed(io::empty(), 2, ()).await.unwrap();
    assert!(!stored.is_empty());
    assert_eq!(totals.plain, Fingerprint::of(b""));
    assert_eq!(zstd::zstd_safe::get_frame_content_size(&stored).unwrap(), Some(0));
    assert_eq!(zstd::zstd_safe::find_frame_compressed_size(&stored).unwrap(), stored.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_breaks_ends_in_its_error_and_never_in_an_end() {
    for good in [0, 100, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 9] {
        let input = Breaks { good: io::Cursor::new(sample(good, 1)), panics: None };
        let error = compressed(input, 2, ()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("read the stream at byte {good}: the disk is gone"));

        let input = Breaks { good: io::Cursor::new(sample(good, 1)), panics: Some(()) };
        let error = compressed(input, 2, ()).await.unwrap_err();
        assert_eq!(error.to_string(), "compress the stream: a thread ended unexpectedly");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_objects_ends_the_stream_with_its_own_error() {
    let plain = sample(2 * BLOCK_BYTES, 5);
    let witness = Witness { fails_after: Some(BLOCK_BYTES + 5), ..Witness::default() };
    let error = compressed(io::Cursor::new(plain.clone()), 2, witness).await.unwrap_err();
    assert_eq!((error.kind, error.to_string().as_str()), (Kind::Verification, "read the archive at byte 7"));

    let witness = Witness { panics_after: Some(BLOCK_BYTES + 5), ..Witness::default() };
    assert_eq!(compressed(io::Cursor::new(plain), 2, witness).await.unwrap_err().kind, Kind::Unexpected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_leaves_ends_the_threads_and_has_no_totals() {
    /// Endless; says when it is dropped.
    struct Endless(mpsc::Sender<()>);
    impl Read for Endless {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            buf.fill(b'x');
            Ok(buf.len())
        }
    }
    impl Drop for Endless {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (dropped, was_dropped) = mpsc::channel();
    let mut stream = compress(Endless(dropped), level_3(2), (), Arc::new(Silent)).unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    was_dropped.recv_timeout(Duration::from_secs(30)).expect("the reader ends");

    let mut stream = compress(io::Cursor::new(sample(3 * BLOCK_BYTES, 3)), level_3(1), (), Arc::new(Silent)).unwrap();
    stream.next().await.unwrap().unwrap();
    stream.finish().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_every_level_decode() {
    for level in [-5, 1, 19, 22] {
        let compression = Compression { level, threads: threads(1) };
        let mut stream = compress(io::Cursor::new(sample(70_000, 9)), compression, (), Arc::new(Silent)).unwrap();
        let frame = stream.next().await.unwrap().unwrap();
        assert!(stream.next().await.unwrap().is_none());
        assert!(zstd::decode_all(&frame[..]).unwrap() == sample(70_000, 9));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_other_tools_decode_whatever_their_shape() {
    let plain = sample(9_000_000, 77);
    let sized = zstd::bulk::compress(&plain, 1).unwrap();
    let skippable = [&b"\x57\x2a\x4d\x18\x05\0\0\0"[..], b"hello"].concat();
    let small: Vec<u8> = plain.chunks(1000).take(500).flat_map(|part| zstd::bulk::compress(part, 1).unwrap()).collect();
    for (name, stored, expected) in [
        ("no size", foreign_frame(&plain, 3, None), plain.clone()),
        ("large window", foreign_frame(&plain, 3, Some(27)), plain.clone()),
        ("sized and large", sized.clone(), plain.clone()),
        ("many small", small.clone(), plain[..500_000].to_vec()),
        (
            "mixed",
            [&skippable, &sized, &small, &foreign_frame(b"", 3, None), &foreign_frame(&plain, 1, None), &skippable]
                .map(|v| &v[..])
                .concat(),
            [&plain[..], &plain[..500_000], &plain].concat(),
        ),
    ] {
        for chunk_bytes in [997, 1 << 20, 1 << 30] {
            let back = decoded(&stored, chunk_bytes, 2, None).await.unwrap();
            assert!(back.output == expected, "{name}");
            assert_eq!(back.stored, Fingerprint::of(&stored), "{name}");
            assert_eq!(back.plain, Fingerprint::of(&expected), "{name}");
        }
    }
    // More than the 128 MiB that `zstd -d` allows too.
    let mut forged = foreign_frame(b"abc", 3, None);
    forged[5] = (28 - 10) << 3;
    let error = decoded(&forged, 100, 1, None).await.unwrap_err();
    assert!(error.to_string().contains("too much memory"), "{error}");
}

/// A stream of several small frames of ours, and one of another tool.
fn small_streams() -> [Vec<u8>; 2] {
    let plain = sample(3000, 8);
    let mut encoder = zstd::bulk::Compressor::new(3).unwrap();
    encoder.include_checksum(true).unwrap();
    [plain.chunks(1000).flat_map(|part| encoder.compress(part).unwrap()).collect(), foreign_frame(&plain, 3, None)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_cut_anywhere_is_an_error_that_says_where() {
    for (number, stored) in small_streams().iter().enumerate() {
        let mut whole_prefixes = 0;
        for cut in 0..stored.len() {
            match decoded(&stored[..cut], 333, 1, Some(3000)).await {
                Ok(_) => panic!("stream {number} cut at {cut} looks whole"),
                Err(error) => {
                    assert_eq!(error.kind, Kind::Verification, "{error}");
                    assert!(error.to_string().contains(&format!("at byte {cut}: ")), "{cut}: {error}");
                }
            }
            // Without the expected size only a cut between frames can pass.
            whole_prefixes += usize::from(decoded(&stored[..cut], 333, 1, None).await.is_ok());
        }
        assert_eq!(whole_prefixes, [2, 0][number]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_is_found() {
    for stored in small_streams() {
        let plain = decoded(&stored, 1 << 20, 1, None).await.unwrap().plain;
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 1 << (at % 8);
            match decoded(&flipped, 1 << 20, 1, None).await {
                // A bit that the format ignores (the size of the window, say) changes nothing that comes out.
                Ok(back) => assert_eq!(back.plain, plain, "byte {at}"),
                Err(error) => assert_eq!(error.kind, Kind::Verification, "byte {at}: {error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_the_last_frame_is_refused_with_its_place() {
    for stored in small_streams() {
        for garbage in [&b"\0"[..], b"(", b"garbage after the end", &[0xff; 5000]] {
            let error = decoded(&[&stored, garbage].concat(), 700, 2, None).await.unwrap_err();
            assert_eq!(error.kind, Kind::Verification);
            let at = if garbage == b"(" { stored.len() + 1 } else { stored.len() };
            assert!(error.to_string().contains(&format!("at byte {at}: ")), "{error}");
        }
    }
    let error = decoded(b"", 1, 1, None).await.unwrap_err();
    assert!(error.to_string().contains("the stream is empty"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_stops_at_the_expected_size() {
    // 64 MiB of zeros in a few kilobytes: as whole frames, and as one of unknown size.
    let zeros = vec![0; BLOCK_BYTES];
    let frames = zstd::bulk::compress(&zeros, 1).unwrap().repeat(16);
    let endless = foreign_frame(&zeros.repeat(16), 1, None);
    for stored in [frames, endless] {
        let written = Arc::new(AtomicU64::new(0));
        let output = Counter(written.clone());
        let mut stream = decompress(output, threads(2), Some(5_000_000), Arc::new(Silent)).unwrap();
        let pushed = stream.push(stored.into()).await;
        let error = match pushed {
            Ok(()) => stream.finish().await.map(drop).unwrap_err(),
            Err(error) => error,
        };
        assert!(error.to_string().contains("more than the 5000000 bytes"), "{error}");
        assert!(written.load(Ordering::Relaxed) <= 5_000_000);
    }
    let (stored, _) = compressed(&b"four"[..], 1, ()).await.unwrap();
    let error = decoded(&stored, 100, 1, Some(5)).await.unwrap_err();
    assert!(error.to_string().contains("it decodes to 4 bytes, expected were 5"), "{error}");
}

async fn relayed<R, O>(input: R, observer: O) -> Result<(Vec<u8>, Compressed<O>)>
where
    R: Read + Send + 'static,
    O: Observer + 'static,
{
    let mut stream = relay(input, observer, Arc::new(Silent))?;
    let mut stored = Vec::new();
    while let Some(piece) = stream.next().await? {
        assert!(!piece.is_empty());
        stored.extend_from_slice(&piece);
    }
    Ok((stored, stream.finish().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_as_it_comes_is_seen_hashed_and_never_looks_whole_when_it_broke() {
    for len in [0, 1, 1 << 20, BLOCK_BYTES * 2 + 3] {
        let plain = sample(len, 9);
        let (stored, totals) = relayed(io::Cursor::new(plain.clone()), Seen::default()).await.unwrap();
        assert!(stored == plain && totals.observer.0 == plain);
        assert_eq!((totals.stored, totals.plain), (Fingerprint::of(&plain), Fingerprint::of(&plain)));
    }
    let broken = Broken { left: 3 << 20 };
    let error = relayed(broken, ()).await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), "read the stream at byte 3145728: broken pipe");
    let error = relayed(io::Cursor::new(sample(100, 1)), Objects).await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), "this is no archive");

    let mut left = relay(io::repeat(b'x'), (), Arc::new(Silent)).unwrap();
    left.next().await.unwrap().unwrap();
    let error = left.finish().await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), "hand over the stream: it was not taken to its end");
}

#[derive(Debug, Default)]
struct Seen(Vec<u8>);

impl Observer for Seen {
    fn observe(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[derive(Debug)]
struct Objects;

impl Observer for Objects {
    fn observe(&mut self, _bytes: &[u8]) -> Result<()> {
        Err(Error::new(Kind::Verification, "this is no archive"))
    }
}

struct Broken {
    left: usize,
}

impl Read for Broken {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.left.min(buf.len());
        self.left -= count;
        if count == 0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(count) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_compressed_passes_and_is_counted() {
    for len in [0, 1, BLOCK_BYTES + 3] {
        let plain = sample(len, 8);
        for chunk_bytes in [1000, BLOCK_BYTES * 2] {
            let counted = Arc::new(Counted::default());
            let mut stream = pass(Vec::new(), len as u64, counted.clone()).unwrap();
            for chunk in plain.chunks(chunk_bytes) {
                stream.push(Bytes::copy_from_slice(chunk)).await.unwrap();
            }
            let passed = stream.finish().await.unwrap();
            assert!(passed.output == plain);
            assert_eq!((passed.stored, passed.plain), (Fingerprint::of(&plain), Fingerprint::of(&plain)));
            assert_eq!(counted.0.load(Ordering::Relaxed), len as u64);
        }
    }
    let written = Arc::new(AtomicU64::new(0));
    let mut stream = pass(Counter(written.clone()), 10, Arc::new(Silent)).unwrap();
    stream.push(Bytes::from_static(b"ten bytes!")).await.unwrap();
    stream.push(Bytes::from_static(b"x")).await.unwrap();
    let error = stream.finish().await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), "the stream has more than the 10 bytes that were expected");
    assert_eq!(written.load(Ordering::Relaxed), 10);

    let mut given_up = pass(Failing, 10, Arc::new(Silent)).unwrap();
    given_up.push(Bytes::from_static(b"x")).await.unwrap();
    let error = given_up.finish().await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), "write the decoded stream at byte 0: no storage space");
}

/// Has no room.
struct Failing;

impl Write for Failing {
    fn write(&mut self, _buf: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts what reaches it.
#[derive(Debug)]
struct Counter(Arc<AtomicU64>);

impl Write for Counter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(buf.len() as u64, Ordering::Relaxed);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_fails_ends_the_stream_with_its_error() {
    let frame = Bytes::from(zstd::bulk::compress(&sample(100_000, 4), 1).unwrap());
    let mut stream = decompress(Failing, threads(1), None, Arc::new(Silent)).unwrap();
    // The error arrives while pushing: a slow or endless source is told.
    let error = loop {
        if let Err(error) = stream.push(frame.clone()).await {
            break error;
        }
    };
    assert_eq!(error.to_string(), "write the decoded stream at byte 0: no storage space");
    stream.finish().await.map(drop).unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_gives_up_never_looks_like_an_end() {
    struct Flushed(Arc<Mutex<Option<bool>>>, bool);
    impl Write for Flushed {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            self.1 = true;
            Ok(())
        }
    }
    impl Drop for Flushed {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(self.1);
        }
    }
    let ended = Arc::new(Mutex::new(None));
    let mut stream = decompress(Flushed(ended.clone(), false), threads(1), None, Arc::new(Silent)).unwrap();
    stream.push(zstd::bulk::compress(b"whole", 1).unwrap().into()).await.unwrap();
    drop(stream);
    let flushed = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Some(flushed) = *ended.lock().unwrap() {
                return flushed;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(!flushed.await.expect("the writer ends"), "the output was finished as if it were whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_was_dropped_halfway_gives_up_the_stream() {
    /// Stands still until the test lets go.
    struct Held(mpsc::Receiver<()>);
    impl Write for Held {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    // Whole frames: without one of them the rest would still decode.
    let frame = Bytes::from(zstd::bulk::compress(&sample(1000, 6), 1).unwrap());
    let (release, held) = mpsc::channel();
    let mut stream = decompress(Held(held), threads(1), None, Arc::new(Silent)).unwrap();
    while let Ok(pushed) = tokio::time::timeout(Duration::from_millis(200), stream.push(frame.clone())).await {
        pushed.unwrap();
    }
    drop(release);
    stream.push(frame).await.unwrap_err();
    stream.finish().await.map(drop).unwrap_err();
}

#[tokio::test]
async fn an_output_that_objects_to_the_bytes_ends_the_stream_with_its_own_error() {
    struct Judge;
    impl Write for Judge {
        fn write(&mut self, _buf: &[u8]) -> io::Result<usize> {
            Err(io::Error::other(Error::new(Kind::Verification, "the archive ends early").hint("use another copy")))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (stored, _) = compressed(&b"rows"[..], 1, ()).await.unwrap();
    let mut decoder = decompress(Judge, threads(1), None, Arc::new(Silent)).unwrap();
    decoder.push(stored.into()).await.unwrap();
    let error = decoder.finish().await.map(drop).unwrap_err();
    assert_eq!((error.kind, error.next_step()), (Kind::Verification, Some("use another copy")));
}
