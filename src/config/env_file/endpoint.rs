//! `OSS_ENDPOINT`: where the bucket is.

/// The address of an object store and, where its name tells, the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// With its scheme, without a slash at the end.
    pub url: String,
    pub region: Option<String>,
}

impl Endpoint {
    /// `[https://][s3.]oss-<region>[-internal].aliyuncs.com` is turned into the name that speaks S3 there; anything else
    /// is taken as written, over HTTPS unless it says otherwise. `None` for what names no host.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, host) = text.split_once("://").unwrap_or(("https", text));
        let host = host.trim_end_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if !matches!(scheme, "https" | "http") || host.is_empty() || !host.chars().all(plain) {
            return None;
        }
        match region_of(host) {
            Some(region) if scheme == "https" => {
                let name = host.strip_prefix("s3.").unwrap_or(host);
                Some(Self { url: format!("https://s3.{name}"), region: Some(region) })
            }
            _ => Some(Self { url: format!("{scheme}://{host}"), region: None }),
        }
    }
}

/// `cn-hangzhou` of `oss-cn-hangzhou-internal.aliyuncs.com`. The accelerated endpoints have no region in their names.
fn region_of(host: &str) -> Option<String> {
    let name = host.strip_prefix("s3.").unwrap_or(host);
    let region = name.strip_suffix(".aliyuncs.com")?.strip_prefix("oss-")?;
    let region = region.strip_suffix("-internal").unwrap_or(region);
    let is_region = region.contains('-')
        && !region.starts_with("accelerate")
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    is_region.then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_document_gives_region_and_the_endpoint_that_speaks_s3() {
        for (typed, url, region) in [
            ("oss-cn-hangzhou.aliyuncs.com", "https://s3.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
            ("https://oss-cn-hangzhou.aliyuncs.com/", "https://s3.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
            ("s3.oss-cn-hangzhou.aliyuncs.com", "https://s3.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
            ("oss-us-west-1-internal.aliyuncs.com", "https://s3.oss-us-west-1-internal.aliyuncs.com", "us-west-1"),
        ] {
            let endpoint = Endpoint::parse(typed).unwrap();
            assert_eq!((endpoint.url.as_str(), endpoint.region.as_deref()), (url, Some(region)), "{typed}");
        }
    }

    #[test]
    fn anything_else_is_taken_as_written() {
        for (typed, url) in [
            ("oss-accelerate.aliyuncs.com", "https://oss-accelerate.aliyuncs.com"),
            ("oss-accelerate-overseas.aliyuncs.com", "https://oss-accelerate-overseas.aliyuncs.com"),
            ("http://127.0.0.1:8333", "http://127.0.0.1:8333"),
            ("http://oss-cn-hangzhou.aliyuncs.com", "http://oss-cn-hangzhou.aliyuncs.com"),
            ("minio.example.com:9000", "https://minio.example.com:9000"),
            ("http://[::1]:9000/", "http://[::1]:9000"),
        ] {
            assert_eq!(Endpoint::parse(typed), Some(Endpoint { url: url.to_owned(), region: None }), "{typed}");
        }
        for wrong in ["", "https://", "ftp://x", "https://key:secret@host", "host/path", "host?x", "a b"] {
            assert_eq!(Endpoint::parse(wrong), None, "{wrong}");
        }
    }
}
