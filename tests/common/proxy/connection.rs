//! One client's connection: its requests one after the other, each refused, met by a fault, or passed on.

use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::Shared;
use super::dialect::{EXISTS, Refusal};
use super::fault::Fault;
use super::http::{self, Framing, Head, Sink, read_body};
use super::request::{Kind, Request};

/// Whether another request may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Next,
    Close,
}

/// What ends a connection that is to be reset.
fn reset() -> Error {
    ErrorKind::ConnectionReset.into()
}

pub async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut client = BufReader::with_capacity(64 << 10, stream);
    while let Ok(Some(head)) = Head::read(&mut client).await {
        match Turn::of(&shared, head).take(&mut client).await {
            Ok(After::Next) => {}
            Ok(After::Close) => return,
            Err(error) => {
                if error.kind() == ErrorKind::ConnectionReset {
                    // Without lingering a close is a reset.
                    let _ = rustix::net::sockopt::set_socket_linger(client.get_ref(), Some(Duration::ZERO));
                }
                return;
            }
        }
    }
}

/// One request and what was decided about it.
struct Turn<'a> {
    shared: &'a Shared,
    head: Head,
    request: Request,
    refusal: Option<Refusal>,
    fault: Option<Fault>,
    /// Its place in the record.
    place: usize,
}

impl<'a> Turn<'a> {
    fn of(shared: &'a Shared, head: Head) -> Self {
        let request = Request::of(&head);
        let refusal = shared.dialect.refusal(&request, &head);
        let (place, fault) = shared.meets(&request, refusal.is_some());
        Self { shared, head, request, refusal, fault, place }
    }

    async fn take(&self, client: &mut BufReader<TcpStream>) -> Result<After> {
        let framing = self.head.request_framing();
        if self.head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        if self.fault == Some(Fault::CutRequest) {
            let half = if let Framing::Length(length) = framing { length / 2 } else { 0 };
            read_body(client, Framing::Length(half), &self.shared.pace, &mut Vec::new()).await?;
            return Err(reset());
        }
        let mut body = Vec::new();
        read_body(client, framing, &self.shared.pace, &mut body).await?;
        if let Some(refusal) = self.refusal.or_else(|| self.shared.dialect.refusal_of_body(&self.head, &body)) {
            self.shared.refused(self.place, refusal.code);
            return self.refuse(client, &refusal).await;
        }
        if let Some(refusal) = self.fault.and_then(Fault::refusal) {
            if self.request.kind == Kind::BulkDelete && self.fault == Some(Fault::ErrorInside200) {
                return self.answer(client, 200, "", &every_key_failed(&body)).await;
            }
            return self.refuse(client, &refusal).await;
        }
        if self.fault == Some(Fault::Stall) && !self.stall(client).await {
            return Ok(After::Close);
        }
        self.pass_on(client, &body).await
    }

    async fn refuse<S: AsyncWrite + Unpin>(&self, client: &mut S, refusal: &Refusal) -> Result<After> {
        self.answer(client, refusal.status, &refusal.headers(), &refusal.body()).await
    }

    async fn answer<S: AsyncWrite + Unpin>(
        &self,
        client: &mut S,
        status: u16,
        headers: &str,
        body: &str,
    ) -> Result<After> {
        self.shared.answered(self.place, status);
        http::answer(client, &self.request.method, status, headers, body).await?;
        Ok(After::Next)
    }

    /// Waits until stalls are released, or until the client has gone: then it is false.
    async fn stall(&self, client: &mut BufReader<TcpStream>) -> bool {
        let mut releases = self.shared.releases.subscribe();
        self.shared.stalls(self.place);
        tokio::select! {
            released = releases.changed() => released.is_ok(),
            // It has said all it had to say: the next thing to read is its end.
            _ = client.fill_buf() => {
                self.shared.leaves(self.place);
                false
            }
        }
    }

    async fn pass_on(&self, client: &mut BufReader<TcpStream>, body: &[u8]) -> Result<After> {
        // Looking and writing are one step, or two racing creators would both find nothing.
        let _alone = if self.shared.dialect.forbids_overwrite(&self.request, &self.head) {
            let alone = self.shared.creating.lock().await;
            if self.shared.exists(&self.request).await {
                self.shared.refused(self.place, EXISTS.code);
                return self.refuse(client, &EXISTS).await;
            }
            Some(alone)
        } else {
            None
        };

        // Its own connection for each request: what happened to one cannot reach another.
        let backend = TcpStream::connect(("127.0.0.1", self.shared.backend_port)).await?;
        backend.set_nodelay(true)?;
        let mut backend = BufReader::with_capacity(64 << 10, backend);
        // A server that refuses a request may close before it has read all of it, and has answered all the same.
        let _ = backend.write_all(&self.head.bytes).await;
        let _ = backend.write_all(body).await;
        let response = loop {
            let head = Head::read(&mut backend).await?.ok_or(ErrorKind::UnexpectedEof)?;
            if head.status() >= 200 {
                break head;
            }
        };
        let framing = response.response_framing(&self.request.method);
        if self.fault == Some(Fault::LostAnswer) {
            read_body(&mut backend, framing, &self.shared.pace, &mut Vec::new()).await?;
            return Err(reset());
        }
        self.give_back(client, &mut backend, &response, framing).await
    }

    async fn give_back<S: AsyncRead + Unpin>(
        &self,
        client: &mut BufReader<TcpStream>,
        backend: &mut BufReader<S>,
        response: &Head,
        framing: Framing,
    ) -> Result<After> {
        let head_bytes = response.bytes.len() as u64;
        let middle = match framing {
            Framing::Length(0) => head_bytes / 2,
            Framing::Length(length) => head_bytes + length / 2,
            Framing::Chunked | Framing::End => head_bytes + 1,
        };
        self.shared.answered(self.place, response.status());
        let mut way = Way { turn: self, client, passed: 0, middle, succeeded: response.status() < 300 };
        way.take(&mut response.bytes.clone()).await?;
        read_body(backend, framing, &self.shared.pace, &mut way).await?;
        client.flush().await?;
        Ok(if framing == Framing::End || response.closes() { After::Close } else { After::Next })
    }
}

/// The way of an answer to the client, in whose middle something may happen.
struct Way<'a> {
    turn: &'a Turn<'a>,
    client: &'a mut BufReader<TcpStream>,
    passed: u64,
    middle: u64,
    succeeded: bool,
}

impl Sink for Way<'_> {
    async fn take(&mut self, piece: &mut [u8]) -> Result<()> {
        let is_middle = (self.passed..self.passed + piece.len() as u64).contains(&self.middle);
        self.passed += piece.len() as u64;
        if !is_middle {
            return self.client.write_all(piece).await;
        }
        let (first, rest) = piece.split_at_mut((self.middle + piece.len() as u64 - self.passed) as usize);
        self.client.write_all(first).await?;
        match self.turn.fault {
            Some(Fault::CutResponse) => return Err(reset()),
            Some(Fault::StallInResponse) if !self.turn.stall(self.client).await => return Err(reset()),
            Some(Fault::FlippedBit) if self.succeeded => rest[0] ^= 0b1000,
            _ => {}
        }
        self.client.write_all(rest).await
    }
}

/// The answer to a bulk delete that deleted nothing.
fn every_key_failed(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let keys = text.split("<Key>").skip(1).filter_map(|part| part.split("</Key>").next());
    let errors = keys.map(|key| {
        format!(
            "<Error><Key>{key}</Key><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
        )
    });
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DeleteResult>{}</DeleteResult>", errors.collect::<String>())
}
