//! Names of hosts.

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};

use crate::storage::address::is_localhost;

/// The resolver of this host, except that `localhost` and every name below it are the loopback interface, as RFC 6761
/// has it. Not every host does it so, and a bucket's name becomes the first part of a host name.
#[derive(Clone, Debug)]
pub(super) struct Resolver;

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            if is_localhost(&name.to_ascii_lowercase()) {
                return Ok(vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()]);
            }
            let found = tokio::net::lookup_host((name, 0)).await.map_err(ResolveDnsError::new)?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_below_localhost_are_this_host() {
        let found = Resolver.resolve_dns("backups.oss.localhost").await.unwrap();
        assert!(!found.is_empty() && found.iter().all(std::net::IpAddr::is_loopback), "{found:?}");
    }
}
