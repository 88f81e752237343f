//! Encryption to recipients, and back: one file of age, format v1, whatever its size.
//!
//! Both ways are a thread of its own behind bounded channels. age encrypts in chunks of 64 KiB and marks the last one, so
//! a file that was cut anywhere is an error, not a shorter file.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::age_file::{CHUNK_BYTES, TAG_BYTES};
use super::identities::Identities;
use super::recipients::Recipients;
use super::threads::{Verdict, start, vanished};
use crate::digest::{Fingerprint, Fingerprinter};
use crate::error::{Error, Kind, Result};

/// What is handed on at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Pieces that may wait on either side.
const PIECES_WAITING: usize = 2;

/// age puts a line of random length into each header, so that nobody relies on there being none.
const LARGEST_GREASE_BYTES: u64 = 512;

const DAMAGED: &str = "the stored bytes are damaged: use another copy, or an older backup";

/// A stream that is encrypted or decrypted on its way. Memory: about six of the larger of 1 MiB and what is pushed.
/// Dropping it ends its thread.
#[derive(Debug)]
pub struct Cipher {
    work: &'static str,
    input: Option<Sender<Bytes>>,
    /// Everything was pushed: a producer that merely vanished must not look like one that came to its end.
    ended: Arc<AtomicBool>,
    output: Receiver<Bytes>,
    verdict: Verdict<Fingerprint>,
}

/// What is pushed comes out encrypted to `recipients`. The fingerprint is of what came out.
pub fn encrypt(recipients: &Recipients) -> Result<Cipher> {
    let encryptor = recipients.encryptor()?;
    Cipher::begin("encrypt the stream", "encrypt", move |mut input, output| {
        let failed = |error: io::Error| own(error, |error| Error::new(Kind::Unexpected, "encrypt").because(error));
        let mut writer = encryptor.wrap_output(output).map_err(failed)?;
        io::copy(&mut input, &mut writer).map_err(failed)?;
        writer.finish().and_then(Output::end).map_err(failed)
    })
}

/// What is pushed comes out decrypted. The fingerprint is of what was pushed.
///
/// [`Kind::Usage`] if none of the identities opens it; [`Kind::Verification`] if it is damaged or cut. What came out
/// before an error was as it had been encrypted, and is not all of it.
pub fn decrypt(identities: Arc<Identities>) -> Result<Cipher> {
    Cipher::begin("decrypt the stream", "decrypt", move |mut input, mut output| {
        let mut reader = opened(&mut input, &identities)?;
        let copied = io::copy(&mut reader, &mut output);
        drop(reader);
        copied.and_then(|_| output.end()).map_err(|error| own(error, broken))?;
        // What follows the last chunk is no part of a file of age; the reader of chunks has refused it.
        Ok(input.seen.finish())
    })
}

/// How much can be encrypted so that what comes out has at most `most_bytes`.
pub fn room(most_bytes: u64, recipients: &Recipients) -> Result<u64> {
    let around = seal(&[], recipients)?.len() as u64 + LARGEST_GREASE_BYTES;
    let tags = (most_bytes / CHUNK_BYTES + 1) * TAG_BYTES;
    Ok(most_bytes.saturating_sub(around + tags))
}

/// A small object, encrypted in memory.
pub fn seal(plain: &[u8], recipients: &Recipients) -> Result<Bytes> {
    let failed = |error: io::Error| Error::new(Kind::Unexpected, "encrypt").because(error);
    let mut writer = recipients.encryptor()?.wrap_output(Vec::new()).map_err(failed)?;
    writer.write_all(plain).map_err(failed)?;
    writer.finish().map(Bytes::from).map_err(failed)
}

/// As [`seal`], as text: ASCII, in lines.
pub fn seal_text(plain: &str, recipients: &Recipients) -> Result<String> {
    use age::armor::{ArmoredWriter, Format};
    let failed = |error: io::Error| Error::new(Kind::Unexpected, "encrypt").because(error);
    let armor = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor).map_err(failed)?;
    let mut writer = recipients.encryptor()?.wrap_output(armor).map_err(failed)?;
    writer.write_all(plain.as_bytes()).map_err(failed)?;
    let armored = writer.finish().and_then(ArmoredWriter::finish).map_err(failed)?;
    String::from_utf8(armored).map_err(|error| Error::new(Kind::Unexpected, "encrypt").because(error))
}

/// What [`seal`] or [`seal_text`] has made of it. Errors as [`decrypt`] has them.
pub fn unseal(sealed: &[u8], identities: &Identities) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let mut reader = opened(age::armor::ArmoredReader::new(sealed), identities)?;
    reader.read_to_end(&mut plain).map_err(broken)?;
    Ok(plain)
}

fn opened<R: BufRead>(input: R, identities: &Identities) -> Result<age::stream::StreamReader<R>> {
    use age::DecryptError;
    age::Decryptor::new_buffered(input).and_then(|decryptor| decryptor.decrypt(identities.keys())).map_err(|error| {
        match error {
            DecryptError::NoMatchingKeys => Error::usage("no identity that was given opens it"),
            DecryptError::Io(error) => own(error, broken),
            other => Error::new(Kind::Verification, "decrypt").because(other.to_string()).hint(DAMAGED),
        }
    })
}

fn broken(error: io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it breaks off".to_owned(),
        _ => error.to_string(),
    };
    Error::new(Kind::Verification, "decrypt").because(why).hint(DAMAGED)
}

/// The error of ours that passed through one of I/O, else what `foreign` makes of it.
fn own(error: io::Error, foreign: impl FnOnce(io::Error) -> Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => foreign(error),
    }
}

impl Cipher {
    fn begin(
        work: &'static str,
        thread: &str,
        run: impl FnOnce(Input, Output) -> Result<Fingerprint> + Send + 'static,
    ) -> Result<Self> {
        let (push, arriving) = channel(PIECES_WAITING);
        let (send, output) = channel(PIECES_WAITING);
        let (tell, verdict) = Verdict::new(work);
        let ended = Arc::new(AtomicBool::new(false));
        let input =
            Input { work, arriving, current: Bytes::new(), ended: Arc::clone(&ended), seen: Fingerprinter::new() };
        let send = Output { send, piece: Vec::new(), seen: Fingerprinter::new() };
        start(thread.to_owned(), move || drop(tell.send(run(input, send))))?;
        Ok(Self { work, input: Some(push), ended, output, verdict })
    }

    /// Takes what is pending as soon as there is room: then `pending` is `None`, and so is the answer. Else the answer is
    /// the next piece that came out, which makes room. May be dropped and asked again.
    pub async fn push(&mut self, pending: &mut Option<Bytes>) -> Result<Option<Bytes>> {
        if pending.is_none() {
            return Ok(None);
        }
        let Some(input) = &self.input else {
            return Err(Error::new(Kind::Unexpected, format!("{}: more comes after its end", self.work)));
        };
        tokio::select! {
            room = input.reserve() => if let Ok(room) = room {
                if let Some(bytes) = pending.take() {
                    room.send(bytes);
                }
                return Ok(None);
            },
            Some(piece) = self.output.recv() => return Ok(Some(piece)),
        }
        match self.verdict.wait().await {
            Err(error) => Err(error),
            Ok(_) => Err(vanished(self.work)),
        }
    }

    /// Says that everything was pushed.
    pub fn end(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.input = None;
    }

    /// After the end: what comes out yet, and then `None`.
    pub async fn rest(&mut self) -> Option<Bytes> {
        self.output.recv().await
    }

    /// After the rest: how it went.
    pub async fn finish(mut self) -> Result<Fingerprint> {
        self.verdict.wait().await
    }
}

/// What was pushed, to be read.
struct Input {
    work: &'static str,
    arriving: Receiver<Bytes>,
    current: Bytes,
    ended: Arc<AtomicBool>,
    seen: Fingerprinter,
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.arriving.blocking_recv() {
                Some(bytes) => {
                    self.seen.update(&bytes);
                    self.current = bytes;
                }
                None if self.ended.load(Ordering::Acquire) => break,
                None => {
                    let gave_up = format!("{}: its source gave up", self.work);
                    return Err(io::Error::other(Error::new(Kind::Unexpected, gave_up)));
                }
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current.advance(count);
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// What comes out, hashed.
struct Output {
    send: Sender<Bytes>,
    piece: Vec<u8>,
    seen: Fingerprinter,
}

impl Output {
    fn hand_on(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        self.seen.update(&piece);
        let gone =
            |_| io::Error::other(Error::new(Kind::Unexpected, "hand over the stream: it was not taken to its end"));
        self.send.blocking_send(piece).map_err(gone)
    }

    fn end(mut self) -> io::Result<Fingerprint> {
        self.hand_on()?;
        Ok(self.seen.finish())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.capacity() == 0 {
            self.piece.reserve_exact(PIECE_BYTES);
        }
        let room = PIECE_BYTES - self.piece.len();
        let count = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE_BYTES {
            self.hand_on()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        recipients: Recipients,
        identities: Arc<Identities>,
    }

    fn pair() -> Pair {
        use age::secrecy::ExposeSecret as _;
        let key = age::x25519::Identity::generate();
        let text = key.to_string();
        let none = || Err(Error::usage("no passphrase"));
        let identities = Identities::parse(text.expose_secret().as_bytes(), "k", none).unwrap();
        let recipients = Recipients::parse([key.to_public().to_string()]).unwrap();
        Pair { recipients, identities: Arc::new(identities) }
    }

    async fn through(mut cipher: Cipher, bytes: &[u8], step: usize) -> Result<(Vec<u8>, Fingerprint)> {
        let mut out = Vec::new();
        for chunk in bytes.chunks(step) {
            let mut pending = Some(Bytes::copy_from_slice(chunk));
            while pending.is_some() {
                out.extend(cipher.push(&mut pending).await?.into_iter().flatten());
            }
        }
        cipher.end();
        while let Some(piece) = cipher.rest().await {
            out.extend(piece);
        }
        Ok((out, cipher.finish().await?))
    }

    #[tokio::test]
    async fn what_is_encrypted_is_decrypted_at_every_length() {
        let pair = pair();
        let plain: Vec<u8> = (0..3_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for len in [0, 1, 65_535, 65_536, 65_537, 131_072, 5_000_000, 12_000_000] {
            let (sealed, of_sealed) =
                through(encrypt(&pair.recipients).unwrap(), &plain[..len], 700_001).await.unwrap();
            assert_eq!(of_sealed, Fingerprint::of(&sealed));
            let decryption = decrypt(Arc::clone(&pair.identities)).unwrap();
            let (opened, of_pushed) = through(decryption, &sealed, 100_003).await.unwrap();
            assert!(opened == plain[..len] && of_pushed == of_sealed, "{len}");
            super::super::age_file::check(&sealed[..sealed.len().min(4096)], sealed.len() as u64).unwrap();
        }
    }

    #[test]
    fn what_there_is_room_for_does_not_grow_beyond_it() {
        let (one, other) = (pair(), pair());
        let both = Recipients::parse(one.recipients.texts().into_iter().chain(other.recipients.texts())).unwrap();
        for most_bytes in [5 << 20, (5 << 20) + 1, 6_000_000, 80 * CHUNK_BYTES, 80 * CHUNK_BYTES + TAG_BYTES] {
            let plain = vec![0; room(most_bytes, &both).unwrap() as usize];
            for _ in 0..20 {
                let sealed = seal(&plain, &both).unwrap().len() as u64;
                assert!(sealed <= most_bytes && most_bytes - sealed < 2048, "{sealed} of {most_bytes}");
            }
        }
        assert_eq!(room(100, &both).unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_cut_or_changed_anywhere_is_damage() {
        let pair = pair();
        let sealed = seal(&vec![7; 200_000], &pair.recipients).unwrap();
        let read = async |bytes: &[u8]| through(decrypt(Arc::clone(&pair.identities))?, bytes, 10_000).await;
        assert!(read(&sealed).await.is_ok());
        let header = sealed.len() - 200_000 - 4 * 16 - 16;
        for len in [0, 10, header, header + 16, header + 16 + 65_552, header + 16 + 2 * 65_552, sealed.len() - 1] {
            assert_eq!(read(&sealed[..len]).await.unwrap_err().kind, Kind::Verification, "cut to {len}");
        }
        for at in [3, header + 3, header + 20, sealed.len() - 1] {
            let mut flipped = sealed.to_vec();
            flipped[at] ^= 1;
            assert_eq!(read(&flipped).await.unwrap_err().kind, Kind::Verification, "byte {at}");
        }
        let longer = [&sealed[..], b"x"].concat();
        assert_eq!(read(&longer).await.unwrap_err().kind, Kind::Verification);
    }

    #[tokio::test]
    async fn another_key_does_not_open_it_and_says_so() {
        let sealed = seal(b"x", &pair().recipients).unwrap();
        let error = through(decrypt(pair().identities).unwrap(), &sealed, 100).await.unwrap_err();
        assert_eq!((error.kind, error.to_string().as_str()), (Kind::Usage, "no identity that was given opens it"));
    }

    #[tokio::test]
    async fn a_source_that_gives_up_is_no_end() {
        let mut cipher = encrypt(&pair().recipients).unwrap();
        cipher.push(&mut Some(Bytes::from_static(b"x"))).await.unwrap();
        cipher.input = None;
        while cipher.rest().await.is_some() {}
        assert!(cipher.finish().await.unwrap_err().to_string().contains("its source gave up"));
    }

    #[test]
    fn a_small_text_is_sealed_for_several() {
        let (one, two) = (pair(), pair());
        let both = Recipients::parse(one.recipients.texts().into_iter().chain(two.recipients.texts())).unwrap();
        let sealed = seal_text("permission denied for table orders", &both).unwrap();
        assert!(sealed.is_ascii() && sealed.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
        for identities in [one.identities, two.identities] {
            assert_eq!(unseal(sealed.as_bytes(), &identities).unwrap(), b"permission denied for table orders");
        }
    }
}
