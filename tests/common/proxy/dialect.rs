//! What a store refuses that SeaweedFS takes.

use md5::{Digest as _, Md5};

use super::http::Head;
use super::request::{Kind, Request, Style};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The server's own.
    Plain,
    /// As Alibaba Cloud's OSS answers on its S3 endpoint: buckets are hosts, no chunked payloads, no checksum headers, no
    /// conditions on writes but `x-oss-forbid-overwrite`, an MD5 for a bulk delete, no list of uploads.
    Oss,
}

/// An error answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: &'static str,
    /// OSS's own number of the error.
    pub ec: &'static str,
}

pub const EXISTS: Refusal = Refusal {
    status: 409,
    code: "FileAlreadyExists",
    message: "The object you specified already exists and can not be overwritten.",
    ec: "0026-00000002",
};

const INVALID_DIGEST: Refusal = Refusal {
    status: 400,
    code: "InvalidDigest",
    message: "The Content-MD5 you specified was invalid.",
    ec: "0017-00000001",
};

impl Dialect {
    pub fn refusal(self, request: &Request, head: &Head) -> Option<Refusal> {
        match self {
            Self::Plain => None,
            Self::Oss => oss_refusal(request, head),
        }
    }

    /// SeaweedFS does not look at the MD5 of a bulk delete; OSS compares every one it is given.
    pub fn refusal_of_body(self, head: &Head, body: &[u8]) -> Option<Refusal> {
        let differs = |given: &str| given != aws_smithy_types::base64::encode(Md5::digest(body));
        (self == Self::Oss && head.header("content-md5").is_some_and(differs)).then_some(INVALID_DIGEST)
    }

    /// Whether the object must not exist for this request to be carried out.
    pub fn forbids_overwrite(self, request: &Request, head: &Head) -> bool {
        let asked = head.header("x-oss-forbid-overwrite").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let writes = matches!(request.kind, Kind::Put | Kind::Copy | Kind::Initiate | Kind::Complete);
        self == Self::Oss && asked && writes
    }
}

fn oss_refusal(request: &Request, head: &Head) -> Option<Refusal> {
    let refuse = |status, code, message, ec| Some(Refusal { status, code, message, ec });
    if request.style == Style::Path {
        let message = "The bucket you are attempting to access must be addressed using OSS third level domain.";
        return refuse(403, "SecondLevelDomainForbidden", message, "0003-00000905");
    }
    let payload = head.header("x-amz-content-sha256").unwrap_or_default();
    let encoding = head.header("content-encoding").unwrap_or_default();
    if payload.starts_with("STREAMING-") || encoding.split(',').any(|part| part.trim() == "aws-chunked") {
        let message = "aws-chunked encoding is not supported with the specified x-amz-content-sha256 value";
        return refuse(400, "InvalidArgument", message, "0017-00000804");
    }
    let is_checksum = |name: &str| name.starts_with("x-amz-checksum-") || name.starts_with("x-amz-sdk-checksum");
    if head.headers().any(|(name, _)| is_checksum(name)) {
        return refuse(400, "InvalidArgument", "Checksum headers are not supported.", "0017-00000000");
    }
    let writes = matches!(request.method.as_str(), "PUT" | "POST");
    if writes && (head.header("if-none-match").is_some() || head.header("if-match").is_some()) {
        let message = "A header you provided implies functionality that is not implemented.";
        return refuse(501, "NotImplemented", message, "0021-00000001");
    }
    match request.kind {
        Kind::BulkDelete if head.header("content-md5").is_none() => {
            refuse(400, "MissingArgument", "Missing Some Required Arguments.", "0016-00000508")
        }
        Kind::ListUploads => refuse(501, "NotImplemented", "This operation is not implemented.", "0021-00000002"),
        _ => None,
    }
}

impl Refusal {
    pub fn headers(&self) -> String {
        if self.ec.is_empty() { String::new() } else { format!("x-oss-ec: {}\r\n", self.ec) }
    }

    pub fn body(&self) -> String {
        let Self { code, message, ec, .. } = self;
        let ec = if ec.is_empty() { String::new() } else { format!("<EC>{ec}</EC>") };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
             <RequestId>RIG</RequestId>{ec}</Error>"
        )
    }
}
