//! What a request asks for, read from its head.

use super::http::Head;

/// The kinds of requests that a store is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Put,
    Copy,
    Get,
    Head,
    Delete,
    BulkDelete,
    List,
    Initiate,
    Part,
    Complete,
    Abort,
    ListParts,
    ListUploads,
    HeadBucket,
    CreateBucket,
    Other,
}

/// Where the bucket is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Path,
    VirtualHost,
    /// Nowhere: the request is for the service.
    Service,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub kind: Kind,
    pub style: Style,
    pub method: String,
    pub target: String,
    pub bucket: String,
    /// Decoded; empty: the request is for the bucket.
    pub key: String,
}

impl Request {
    pub fn of(head: &Head) -> Self {
        let (method, target) = (head.word(0).to_owned(), head.word(1).to_owned());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let path = decoded(path.strip_prefix('/').unwrap_or(path));
        let (style, bucket, key) = match bucket_of_host(head.header("host").unwrap_or_default()) {
            Some(bucket) => (Style::VirtualHost, bucket, path),
            None if path.is_empty() => (Style::Service, String::new(), path),
            None => {
                let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
                (Style::Path, bucket.to_owned(), key.to_owned())
            }
        };
        let asks = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
        let kind = match (method.as_str(), key.is_empty()) {
            _ if style == Style::Service => Kind::Other,
            _ if ["acl", "tagging", "versioning", "versions", "location", "lifecycle", "policy"]
                .into_iter()
                .any(asks) =>
            {
                Kind::Other
            }
            ("PUT", true) => Kind::CreateBucket,
            ("HEAD", true) => Kind::HeadBucket,
            ("GET", true) if asks("uploads") => Kind::ListUploads,
            ("GET", true) => Kind::List,
            ("POST", true) if asks("delete") => Kind::BulkDelete,
            ("PUT", false) if asks("partNumber") => Kind::Part,
            ("PUT", false) if head.header("x-amz-copy-source").is_some() => Kind::Copy,
            ("PUT", false) => Kind::Put,
            ("GET", false) if asks("uploadId") => Kind::ListParts,
            ("GET", false) => Kind::Get,
            ("HEAD", false) => Kind::Head,
            ("POST", false) if asks("uploads") => Kind::Initiate,
            ("POST", false) if asks("uploadId") => Kind::Complete,
            ("DELETE", false) if asks("uploadId") => Kind::Abort,
            ("DELETE", false) => Kind::Delete,
            _ => Kind::Other,
        };
        Self { kind, style, method, bucket, key, target }
    }
}

/// `bucket.localhost:port` names one.
fn bucket_of_host(host: &str) -> Option<String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix(".localhost").map(str::to_owned)
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let code = (*byte == b'%').then(|| after.get(..2)).flatten().and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
