//! `s3://bucket[/prefix]` and `oss://bucket[/prefix]`.

use std::fmt;
use std::path::PathBuf;

use super::endpoint::Endpoint;
use super::parameters::{Parameters, keys_elsewhere};
use crate::error::{Error, Result};
use crate::storage::{Credentials, Prefix};

const PARAMETERS: &[&str] = &["endpoint", "region", "profile", "path_style", "ca"];

/// What of the protocol a store keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Amazon's own: what its documentation says holds.
    Aws,
    /// Something that speaks S3; nothing is taken for granted.
    Generic,
    /// Aliyun OSS: bucket names in the host, its own header for create-only, no If-None-Match.
    Oss,
}

impl Profile {
    fn parse(text: &str) -> Result<Self> {
        match text {
            "aws" => Ok(Self::Aws),
            "generic" => Ok(Self::Generic),
            "oss" => Ok(Self::Oss),
            _ => Err(Error::usage("profile of an address is aws, generic or oss")),
        }
    }
}

/// A bucket, where it is, and how it is spoken to. Prints what tells one store from another.
#[derive(Clone, Debug)]
pub struct BucketAddress {
    scheme: &'static str,
    pub(in crate::storage) bucket: String,
    /// Without a slash at its ends; empty for the bucket itself.
    pub(in crate::storage) prefix: String,
    /// None for Amazon's own.
    pub(in crate::storage) endpoint: Option<Endpoint>,
    /// None where it is to be looked for.
    pub(in crate::storage) region: Option<String>,
    pub(in crate::storage) profile: Profile,
    pub(in crate::storage) path_style: bool,
    /// Certificates that are trusted beside those of this host.
    pub(in crate::storage) ca: Option<PathBuf>,
    pub(in crate::storage) credentials: Credentials,
}

impl BucketAddress {
    /// Reads what stands behind `s3://` or `oss://`.
    pub(super) fn parse(scheme: &'static str, text: &str) -> Result<Self> {
        let (place, parameters) = text.split_once('?').unwrap_or((text, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.contains(['@', ':']) {
            return Err(keys_elsewhere());
        }
        let mut parameters = Parameters::parse(parameters, PARAMETERS)?;
        let endpoint = parameters.take("endpoint").map(|text| Endpoint::parse(&text)).transpose()?;
        let region = parameters.take("region").map(|text| region(&text)).transpose()?;
        let profile = match parameters.take("profile") {
            Some(text) => Profile::parse(&text)?,
            None if scheme == "oss" => Profile::Oss,
            None if endpoint.is_some() => Profile::Generic,
            None => Profile::Aws,
        };
        let (endpoint, region) = match profile {
            Profile::Oss => aliyun(bucket, endpoint, region)?,
            _ if endpoint.is_some() => (endpoint, region.or_else(|| Some("us-east-1".to_owned()))),
            _ => (endpoint, region),
        };
        if endpoint.is_none() && profile == Profile::Generic {
            return Err(
                Error::usage("profile=generic needs to know where the store is").hint("add endpoint=https://HOST:PORT")
            );
        }
        let path_style = parameters.take_flag("path_style")?.unwrap_or(endpoint.is_some() && profile != Profile::Oss);
        let ca = parameters.take("ca").map(PathBuf::from).map(|path| std::path::absolute(&path).unwrap_or(path));
        let (bucket, prefix) = (bucket_name(scheme, profile, bucket)?, prefix_in(prefix)?);
        let credentials = Credentials::default();
        Ok(Self { scheme, bucket, prefix, endpoint, region, profile, path_style, ca, credentials })
    }

    pub(super) fn with_credentials(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
    }

    /// A directory that a gateway on this host serves as a bucket.
    pub(in crate::storage) fn on_loopback(port: u16, bucket: &str, credentials: Credentials) -> Self {
        Self {
            scheme: "s3",
            bucket: bucket.to_owned(),
            prefix: String::new(),
            endpoint: Some(Endpoint::loopback(port)),
            region: Some("us-east-1".to_owned()),
            profile: Profile::Generic,
            path_style: true,
            ca: None,
            credentials,
        }
    }

    /// Whether it is Amazon's own and not something that says it behaves alike.
    pub(in crate::storage) fn is_amazon(&self) -> bool {
        self.profile == Profile::Aws && self.endpoint.is_none()
    }

    /// Whether keys of OSS are looked for before those of AWS.
    pub(in crate::storage) fn is_oss(&self) -> bool {
        self.scheme == "oss" || self.profile == Profile::Oss
    }
}

/// An endpoint of OSS and the region that it stands in have one name: only the region is printed.
impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        match (&self.endpoint, &self.region) {
            (Some(endpoint), Some(region)) if endpoint.host().ends_with(ALIYUN) => write!(f, "?region={region}"),
            (Some(endpoint), _) => write!(f, "?endpoint={endpoint}"),
            (None, Some(region)) => write!(f, "?region={region}"),
            (None, None) => Ok(()),
        }
    }
}

const ALIYUN: &str = ".aliyuncs.com";

/// Where OSS is, from what was given of endpoint and region. The S3 protocol is spoken at hosts that begin with `s3.`.
fn aliyun(
    bucket: &str,
    endpoint: Option<Endpoint>,
    region: Option<String>,
) -> Result<(Option<Endpoint>, Option<String>)> {
    let region = region.map(|region| region.strip_prefix("oss-").map(str::to_owned).unwrap_or(region));
    let Some(endpoint) = endpoint else {
        let Some(region) = region else {
            return Err(Error::usage("an address of OSS needs a region or an endpoint")
                .hint("add ?region=cn-hangzhou, or ?endpoint=oss-cn-hangzhou-internal.aliyuncs.com"));
        };
        let endpoint = Endpoint::https(format!("s3.oss-{region}{ALIYUN}"));
        return Ok((Some(endpoint), Some(region)));
    };
    let host = endpoint.host();
    let place = host.strip_prefix(&format!("{bucket}.")).unwrap_or(host);
    let place = place.strip_prefix("s3.").unwrap_or(place);
    let Some(place) = place.strip_suffix(ALIYUN).filter(|place| place.starts_with("oss-")) else {
        return Ok((Some(endpoint), region.or_else(|| Some("us-east-1".to_owned()))));
    };
    let region = match place.trim_start_matches("oss-") {
        "accelerate" | "accelerate-overseas" => region.ok_or_else(|| {
            Error::usage("an accelerated endpoint does not tell the region of the bucket")
                .hint("add region=cn-hangzhou")
        })?,
        named => region.unwrap_or_else(|| named.strip_suffix("-internal").unwrap_or(named).to_owned()),
    };
    Ok((Some(Endpoint::https(format!("s3.{place}{ALIYUN}"))), Some(region)))
}

fn region(text: &str) -> Result<String> {
    if text.len() <= 63 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Ok(text.to_owned());
    }
    Err(Error::usage("the region of the address is no name of a region").hint("a region is such as eu-central-1"))
}

fn bucket_name(scheme: &str, profile: Profile, text: &str) -> Result<String> {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let bytes = text.as_bytes();
    let named = (3..=63).contains(&bytes.len()) && ends(bytes.first()) && ends(bytes.last());
    if !named || !bytes.iter().copied().all(inside) || text.contains("..") {
        return Err(Error::usage(format!("{scheme}:// is not followed by the name of a bucket")).hint(format!(
            "an address is {scheme}://BUCKET/PREFIX; a bucket's name has 3 to 63 letters, digits, dots and dashes"
        )));
    }
    if profile == Profile::Oss && text.contains('.') {
        return Err(Error::usage("a bucket of OSS has no dot in its name")
            .hint("the name becomes a part of a host name, and its certificate covers no further dots"));
    }
    Ok(text.to_owned())
}

fn prefix_in(text: &str) -> Result<String> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    let prefix = parts.join("/");
    if prefix.is_empty() {
        return Ok(prefix);
    }
    // The same rules as for keys, which stand behind it.
    match Prefix::folder(&prefix) {
        Ok(_) => Ok(prefix),
        Err(_) => Err(Error::usage("the prefix of the address cannot be part of the names of objects")
            .hint("it has no . or .. component, no control character, and no component above 255 bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::storage::Address;

    fn bucket(text: &str) -> BucketAddress {
        match Address::parse(text) {
            Ok(Address::S3(bucket) | Address::Oss(bucket)) => bucket,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn refused(text: &str) -> String {
        let error = Address::parse(text).unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        error.to_string()
    }

    #[test]
    fn a_bucket_of_amazon_needs_nothing_else() {
        let plain = bucket("s3://backups//pg/");
        assert_eq!((plain.bucket.as_str(), plain.prefix.as_str()), ("backups", "pg"));
        assert_eq!((plain.profile, plain.path_style, plain.is_amazon()), (Profile::Aws, false, true));
        assert_eq!(plain.to_string(), "s3://backups/pg");
        assert_eq!(bucket("s3://backups?region=cn-north-1").to_string(), "s3://backups?region=cn-north-1");
    }

    #[test]
    fn an_endpoint_implies_the_rest() {
        let minio = bucket("s3://backups/pg?endpoint=https://minio.example.com:9000/&ca=/etc/ca.pem");
        assert_eq!((minio.profile, minio.path_style), (Profile::Generic, true));
        assert_eq!(minio.region.as_deref(), Some("us-east-1"));
        assert_eq!(minio.to_string(), "s3://backups/pg?endpoint=https://minio.example.com:9000");
        let chosen = bucket("s3://backups?endpoint=https://h&path_style=false&region=auto&profile=aws");
        assert_eq!((chosen.profile, chosen.path_style, chosen.is_amazon()), (Profile::Aws, false, false));
        assert_eq!(chosen.region.as_deref(), Some("auto"));
    }

    #[test]
    fn every_way_to_name_a_place_of_oss_is_one_place() {
        for typed in [
            "oss://backups/pg?region=cn-hangzhou",
            "oss://backups/pg?region=oss-cn-hangzhou",
            "oss://backups/pg?endpoint=oss-cn-hangzhou.aliyuncs.com",
            "oss://backups/pg?endpoint=https://s3.oss-cn-hangzhou.aliyuncs.com",
            "oss://backups/pg?endpoint=backups.oss-cn-hangzhou.aliyuncs.com",
        ] {
            let oss = bucket(typed);
            assert_eq!(
                oss.endpoint.as_ref().unwrap().to_string(),
                "https://s3.oss-cn-hangzhou.aliyuncs.com",
                "{typed}"
            );
            assert_eq!((oss.profile, oss.path_style), (Profile::Oss, false));
            assert_eq!(oss.to_string(), "oss://backups/pg?region=cn-hangzhou");
        }
        let internal = bucket("oss://backups/pg?endpoint=oss-cn-hangzhou-internal.aliyuncs.com");
        assert_eq!(internal.endpoint.as_ref().unwrap().host(), "s3.oss-cn-hangzhou-internal.aliyuncs.com");
        assert_eq!(internal.to_string(), "oss://backups/pg?region=cn-hangzhou", "the same store, by another road");
        let fast = bucket("oss://backups?endpoint=oss-accelerate.aliyuncs.com&region=cn-hangzhou");
        assert_eq!(fast.endpoint.as_ref().unwrap().host(), "s3.oss-accelerate.aliyuncs.com");
        let own = bucket("oss://backups?endpoint=http://oss.localhost:8333");
        assert_eq!(own.to_string(), "oss://backups?endpoint=http://oss.localhost:8333");
        assert!(refused("oss://backups").contains("needs a region or an endpoint"));
        assert!(refused("oss://backups?endpoint=oss-accelerate.aliyuncs.com").contains("region of the bucket"));
        assert!(refused("oss://dotted.name?region=cn-hangzhou").contains("no dot"));
    }

    #[test]
    fn what_is_not_an_address_of_a_bucket_is_refused() {
        assert!(refused("s3://").contains("name of a bucket"));
        assert!(refused("s3://ab").contains("name of a bucket"));
        assert!(refused("s3://-abc").contains("name of a bucket"));
        assert!(refused("s3://bucket/a/../b").contains("prefix"));
        assert!(refused("s3://bucket?profile=minio").contains("aws, generic or oss"));
        assert!(refused("s3://bucket?profile=generic").contains("where the store is"));
        assert!(refused("s3://bucket?endpoint=http://far.example.com").contains("without encryption"));
        assert!(refused("s3://bucket?region=Mars").contains("region"));
    }
}
