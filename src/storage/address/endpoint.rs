//! The URL of a store that is not Amazon's own.

use std::fmt;
use std::net::IpAddr;

use super::parameters::keys_elsewhere;
use crate::error::{Error, Result};

/// `https://host[:port][/path]`, or `http://` on the loopback interface: elsewhere anybody on the way could read what is
/// backed up. Prints in one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    scheme: &'static str,
    host: String,
    port: Option<u16>,
    path: String,
}

impl Endpoint {
    /// Reads a URL, or a host alone, which is spoken to by HTTPS.
    pub fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = match text.split_once("://") {
            None => ("https", text),
            Some(("https", rest)) => ("https", rest),
            Some(("http", rest)) => ("http", rest),
            Some(_) => return Err(malformed()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(keys_elsewhere());
        }
        if path.contains(['?', '#', '@', ' ']) || authority.contains(['?', '#']) {
            return Err(malformed());
        }
        let (host, port) = split_port(authority)?;
        let endpoint = Self { scheme, host, port, path: path.trim_end_matches('/').to_owned() };
        if scheme == "http" && !endpoint.is_loopback() {
            return Err(Error::usage(format!("{endpoint} would be spoken to without encryption"))
                .hint("use https://; plain http is for the loopback interface only"));
        }
        Ok(endpoint)
    }

    /// One that is known to be right.
    pub(crate) fn https(host: impl Into<String>) -> Self {
        Self { scheme: "https", host: host.into(), port: None, path: String::new() }
    }

    /// A port of this host's loopback interface, spoken to without encryption.
    pub(crate) fn loopback(port: u16) -> Self {
        Self { scheme: "http", host: "127.0.0.1".to_owned(), port: Some(port), path: String::new() }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn is_encrypted(&self) -> bool {
        self.scheme == "https"
    }

    pub fn is_loopback(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        is_localhost(&self.host) || address.is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        Ok(())
    }
}

/// `localhost` and every name below it mean this host (RFC 6761).
pub fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

fn split_port(authority: &str) -> Result<(String, Option<u16>)> {
    let after_host = authority.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match authority[after_host..].split_once(':') {
        Some((host, port)) => {
            let host = &authority[..after_host + host.len()];
            (host, Some(port.parse::<u16>().map_err(|_| malformed())?))
        }
        None => (authority, None),
    };
    let host = host.to_ascii_lowercase();
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_address = host.starts_with('[') && host.ends_with(']') && host[1..host.len() - 1].parse::<IpAddr>().is_ok();
    if host.is_empty() || (!is_address && !host.bytes().all(name)) {
        return Err(malformed());
    }
    Ok((host, port))
}

fn malformed() -> Error {
    Error::usage("the endpoint of the address is not a URL").hint("write it as endpoint=https://HOST:PORT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_one_spelling() {
        for (typed, printed) in [
            ("https://S3.example.com/", "https://s3.example.com"),
            ("s3.example.com:9000", "https://s3.example.com:9000"),
            ("https://x.example.com/storage/v1/s3/", "https://x.example.com/storage/v1/s3"),
            ("http://127.0.0.1:8333", "http://127.0.0.1:8333"),
            ("http://oss.localhost:8333", "http://oss.localhost:8333"),
            ("http://[::1]:8333", "http://[::1]:8333"),
        ] {
            assert_eq!(Endpoint::parse(typed).unwrap().to_string(), printed);
        }
    }

    #[test]
    fn plain_http_stays_on_this_host_and_nonsense_is_refused() {
        let error = Endpoint::parse("http://10.0.0.1:9000").unwrap_err();
        assert_eq!(error.to_string(), "http://10.0.0.1:9000 would be spoken to without encryption");
        for bad in
            ["", "https://", "ftp://h", "https://h:99999", "https://h?x=1", "https://h/#a", "http://localhost.evil.org"]
        {
            Endpoint::parse(bad).unwrap_err();
        }
    }
}
