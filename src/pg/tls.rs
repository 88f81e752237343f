//! TLS as libpq demands it: files read, one client configuration built for one host.
//!
//! rustls checks more than `sslmode` asks for, and less than it needs: it refuses version 1 certificates (which
//! `openssl x509 -req` makes by default, as in PostgreSQL's own manual) and a CA used as a server's certificate, and
//! it knows no common names. [`verify::ServerCheck`] applies libpq's rules instead.

mod verify;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{Negotiation, RootCertificates, ServerNameIndication, SslMode, TlsSettings, TlsVersion};
use crate::error::{Doing, Error, Kind, Result};
use verify::{Identity, ServerCheck};

/// How to speak TLS with the server called `host` (empty where only an address is known).
///
/// Errors name the file that is missing, unreadable, unprotected or no certificate.
pub fn connector(settings: &TlsSettings, host: &str) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let check = server_check(settings, host, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(settings))
        .doing(Kind::Connect, || "choose TLS versions")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(check));
    let mut config = match client_certificate(settings, &provider)? {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = settings.server_name == ServerNameIndication::Send;
    if settings.negotiation == Negotiation::Direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    let known = [(TlsVersion::V1_3, &rustls::version::TLS13), (TlsVersion::V1_2, &rustls::version::TLS12)];
    let wanted = settings.min_version..=settings.max_version;
    known.into_iter().filter(|(version, _)| wanted.contains(version)).map(|(_, version)| version).collect()
}

/// libpq's rule: the chain is checked in every mode as soon as there is a root certificate, and must be from verify-ca
/// on; only verify-full looks at the name.
fn server_check(settings: &TlsSettings, host: &str, provider: &Arc<CryptoProvider>) -> Result<ServerCheck> {
    let algorithms = provider.signature_verification_algorithms;
    let roots = match &settings.roots {
        Some(RootCertificates::System) => rustls_native_certs::load_native_certs().certs,
        Some(RootCertificates::File(path)) if path.exists() => certificates(path)?,
        _ if settings.mode < SslMode::VerifyCa => return Ok(ServerCheck::nothing(algorithms)),
        missing => return Err(no_roots(settings.mode, missing.as_ref())),
    };
    let mut store = RootCertStore::empty();
    if store.add_parsable_certificates(roots.iter().cloned()).0 == 0 {
        return Err(Error::new(Kind::Connect, format!("find a usable root certificate in {:?}", settings.roots))
            .hint("sslrootcert must hold the certificate of the authority that signed the server's"));
    }
    let revoked = match &settings.revoked {
        Some(path) => revocation_lists(path)?,
        None => Vec::new(),
    };
    // A list of revoked certificates says nothing about what rustls cannot parse: with one, no exception is made.
    let exceptions = if revoked.is_empty() { roots } else { Vec::new() };
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .with_crls(revoked)
        .build()
        .doing(Kind::Connect, || "prepare the check of the server's certificate")?;
    let identity = match settings.mode {
        SslMode::VerifyFull if host.is_empty() => {
            return Err(Error::new(Kind::Connect, "check the server's name: only its address is given")
                .hint("give the name in host beside hostaddr, or use sslmode=verify-ca"));
        }
        SslMode::VerifyFull => Some(Identity::of(host)),
        _ => None,
    };
    Ok(ServerCheck::chain(chain, exceptions, identity, algorithms))
}

fn no_roots(mode: SslMode, missing: Option<&RootCertificates>) -> Error {
    let action = match missing {
        Some(RootCertificates::File(path)) => format!("read root certificate {path:?}: it does not exist"),
        _ => "find a root certificate: there is no home directory".to_owned(),
    };
    Error::new(Kind::Connect, action).hint(format!(
        "sslmode={} needs the certificate of the server's authority: name it in sslrootcert, or sslrootcert=system",
        mode.as_str()
    ))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .doing(Kind::Connect, || format!("read certificates in {path:?}"))
}

fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .doing(Kind::Connect, || format!("read revoked certificates in {path:?}"))
}

fn client_certificate(settings: &TlsSettings, provider: &CryptoProvider) -> Result<Option<CertifiedKey>> {
    let Some(path) = settings.certificate.as_deref().filter(|path| path.exists()) else { return Ok(None) };
    let chain = certificates(path)?;
    let Some(key_path) = settings.key.as_deref().filter(|key| key.exists()) else {
        return Err(Error::new(Kind::Connect, format!("find the private key {:?} of {path:?}", settings.key))
            .hint("name the key in sslkey"));
    };
    let key = provider
        .key_provider
        .load_private_key(private_key(key_path)?)
        .doing(Kind::Connect, || format!("use private key {key_path:?}"))?;
    let own = CertifiedKey::new(chain, key);
    // Other complaints (a version 1 certificate) are the server's to judge.
    if let Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) = own.keys_match() {
        return Err(Error::new(Kind::Connect, format!("use private key {key_path:?}: it is not the key of {path:?}"))
            .hint("name the pair that belongs together in sslcert and sslkey"));
    }
    Ok(Some(own))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let reading = || format!("read private key {path:?}");
    let metadata = std::fs::metadata(path).doing(Kind::Connect, reading)?;
    // libpq lets a key of root be read by a group: that is how Debian's ssl-cert group works.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(Error::new(
            Kind::Connect,
            format!("read private key {path:?}: others may access it (mode {:04o})", metadata.mode() & 0o7777),
        )
        .hint(format!("run chmod 0600 {path:?}")));
    }
    let bytes = std::fs::read(path).doing(Kind::Connect, reading)?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("ENCRYPTED") {
        return Err(Error::new(Kind::Connect, format!("read private key {path:?}: it is encrypted"))
            .hint("pgkeep cannot ask for its password: decrypt it into a file of mode 0600 and name that in sslkey"));
    }
    if text.contains("-----BEGIN") {
        return PrivateKeyDer::from_pem_slice(&bytes).doing(Kind::Connect, reading);
    }
    PrivateKeyDer::try_from(bytes).map_err(|e| Error::new(Kind::Connect, reading()).because(e))
}
