//! As much of HTTP/1.1 as a proxy needs that passes every byte through as it came.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};

use super::pace::Pace;

/// The lines before a body.
#[derive(Clone, Debug)]
pub struct Head {
    /// As they came, with the empty line that ends them.
    pub bytes: Vec<u8>,
    first: String,
    headers: Vec<(String, String)>,
}

/// How a body says where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    End,
}

impl Head {
    const LARGEST_BYTES: usize = 64 << 10;

    /// `None`: the other side has nothing more to say.
    pub async fn read<S: AsyncRead + Unpin>(from: &mut BufReader<S>) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if from.read_until(b'\n', &mut bytes).await? == 0 {
                return if bytes.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            if bytes.len() > Self::LARGEST_BYTES {
                return Err(Error::other("a head without an end"));
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        drop(text);
        Ok(Some(Self { bytes, first, headers }))
    }

    /// The first line's words: method, target, version of a request; version, status, reason of a response.
    pub fn word(&self, index: usize) -> &str {
        self.first.split(' ').nth(index).unwrap_or_default()
    }

    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or_default()
    }

    /// `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(header, _)| *header == name).map(|(_, value)| value)
    }

    /// Names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn framing(&self) -> Option<Framing> {
        if self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Some(Framing::Chunked);
        }
        self.header("content-length")?.parse().ok().map(Framing::Length)
    }

    pub fn request_framing(&self) -> Framing {
        self.framing().unwrap_or(Framing::Length(0))
    }

    /// Of the response to a request with `method`.
    pub fn response_framing(&self, method: &str) -> Framing {
        if method == "HEAD" || matches!(self.status(), 204 | 304) {
            return Framing::Length(0);
        }
        self.framing().unwrap_or(Framing::End)
    }
}

/// Takes the pieces of a body one after the other.
pub trait Sink {
    async fn take(&mut self, piece: &mut [u8]) -> Result<()>;
}

impl Sink for Vec<u8> {
    async fn take(&mut self, piece: &mut [u8]) -> Result<()> {
        self.extend_from_slice(piece);
        Ok(())
    }
}

/// Reads a body, framing included, no faster than `pace`.
pub async fn read_body<S: AsyncRead + Unpin>(
    from: &mut BufReader<S>,
    framing: Framing,
    pace: &Pace,
    to: &mut impl Sink,
) -> Result<()> {
    match framing {
        Framing::Length(length) => read_exactly(from, length, pace, to).await,
        Framing::End => loop {
            let piece = from.fill_buf().await?.to_vec();
            if piece.is_empty() {
                return Ok(());
            }
            read_exactly(from, piece.len() as u64, pace, to).await?;
        },
        Framing::Chunked => {
            while let size @ 1.. = chunk_size(from, to).await? {
                read_exactly(from, size + 2, pace, to).await?;
            }
            // The lines after the last chunk end with an empty one.
            while read_line(from, to).await? != "\r\n" {}
            Ok(())
        }
    }
}

async fn chunk_size<S: AsyncRead + Unpin>(from: &mut BufReader<S>, to: &mut impl Sink) -> Result<u64> {
    let line = read_line(from, to).await?;
    let digits = line.trim_end().split(';').next().unwrap_or_default();
    u64::from_str_radix(digits, 16).map_err(|_| Error::other(format!("chunk size {line:?}")))
}

async fn read_line<S: AsyncRead + Unpin>(from: &mut BufReader<S>, to: &mut impl Sink) -> Result<String> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line).await?;
    if !line.ends_with(b"\n") {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    to.take(&mut line).await?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

async fn read_exactly<S: AsyncRead + Unpin>(
    from: &mut BufReader<S>,
    mut left: u64,
    pace: &Pace,
    to: &mut impl Sink,
) -> Result<()> {
    let mut piece = vec![0; 64 << 10];
    while left > 0 {
        let most = pace.piece_bytes().min(piece.len() as u64).min(left) as usize;
        let count = from.read(&mut piece[..most]).await?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        pace.passed(count as u64).await;
        to.take(&mut piece[..count]).await?;
        left -= count as u64;
    }
    Ok(())
}

/// A response that the proxy makes up.
pub async fn answer<S: AsyncWrite + Unpin>(
    to: &mut S,
    method: &str,
    status: u16,
    headers: &str,
    body: &str,
) -> Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {}\r\nServer: rig\r\nx-amz-request-id: RIG\r\n{headers}Content-Type: application/xml\r\n\
         Content-Length: {length}\r\n\r\n",
        reason(status)
    );
    to.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        to.write_all(body.as_bytes()).await?;
    }
    to.flush().await
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        409 => "Conflict",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}
