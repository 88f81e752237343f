//! Who the server is: its chain of certificates and its name, by libpq's rules.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

/// What is asked of a server's certificate.
#[derive(Debug)]
pub(super) struct ServerCheck {
    trust: Option<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
}

struct Trust {
    chain: Arc<WebPkiServerVerifier>,
    /// Root certificates that may vouch for what webpki refuses to look at.
    exceptions: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl ServerCheck {
    /// Encryption only: any certificate will do, also one that nobody could check.
    pub(super) fn nothing(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { trust: None, algorithms }
    }

    pub(super) fn chain(
        chain: Arc<WebPkiServerVerifier>,
        exceptions: Vec<CertificateDer<'static>>,
        identity: Option<Identity>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self { trust: Some(Trust { chain, exceptions, identity }), algorithms }
    }

    fn is_vouched_for(&self, server: &CertificateDer<'_>, roots: &[CertificateDer<'static>], now: UnixTime) -> bool {
        let Ok(certificate) = Certificate::from_der(server) else { return false };
        if !is_current(&certificate, now) {
            return false;
        }
        let tbs = &certificate.tbs_certificate;
        // The server's own certificate given as root: the first recipe of PostgreSQL's manual, refused by webpki
        // where OpenSSL made it a CA.
        if tbs.issuer == tbs.subject && roots.contains(server) {
            return true;
        }
        tbs.version == Version::V1
            && roots.iter().filter_map(|root| Certificate::from_der(root).ok()).any(|root| {
                is_current(&root, now)
                    && root.tbs_certificate.subject == tbs.issuer
                    && self.is_signed_by(&certificate, &root.tbs_certificate.subject_public_key_info)
            })
    }

    fn is_signed_by(&self, certificate: &Certificate, key: &SubjectPublicKeyInfoOwned) -> bool {
        let (Ok(message), Ok(signing), Ok(owner)) =
            (certificate.tbs_certificate.to_der(), certificate.signature_algorithm.to_der(), key.algorithm.to_der())
        else {
            return false;
        };
        self.algorithms
            .all
            .iter()
            .filter(|known| known.signature_alg_id().as_ref() == inside(&signing))
            .filter(|known| known.public_key_alg_id().as_ref() == inside(&owner))
            .any(|known| {
                known
                    .verify_signature(key.subject_public_key.raw_bytes(), &message, certificate.signature.raw_bytes())
                    .is_ok()
            })
    }

    /// The check of a handshake for a certificate that webpki does not parse (version 1).
    fn verify_with_key(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = public_key(server)?;
        let owner = key.algorithm.to_der().map_err(|_| CertificateError::BadEncoding)?;
        self.algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signature.scheme)
            .flat_map(|(_, known)| known.iter())
            .filter(|known| known.public_key_alg_id().as_ref() == inside(&owner))
            .any(|known| {
                known.verify_signature(key.subject_public_key.raw_bytes(), message, signature.signature()).is_ok()
            })
            .then(HandshakeSignatureValid::assertion)
            .ok_or_else(|| CertificateError::BadSignature.into())
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        // webpki compares names last: an error about the name means that the chain is good.
        let refusal = match trust.chain.verify_server_cert(server, intermediates, name, ocsp_response, now) {
            Ok(_) => None,
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => None,
            Err(refusal) => Some(refusal),
        };
        if let Some(refusal) = refusal
            && !self.is_vouched_for(server, &trust.exceptions, now)
        {
            return Err(refusal);
        }
        match &trust.identity {
            Some(identity) if !identity.is_named_in(server)? => Err(CertificateError::NotValidForName.into()),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.trust.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        if is_version_1(server) {
            return self.verify_with_key(message, server, signature);
        }
        verify_tls12_signature(message, server, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.trust.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        if is_version_1(server) {
            let key = public_key(server)?.to_der().map_err(|_| CertificateError::BadEncoding)?;
            let key = SubjectPublicKeyInfoDer::from(key);
            return verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms);
        }
        verify_tls13_signature(message, server, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_version_1(server: &CertificateDer<'_>) -> bool {
    Certificate::from_der(server).is_ok_and(|certificate| certificate.tbs_certificate.version == Version::V1)
}

fn public_key(server: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoOwned, Error> {
    let certificate = Certificate::from_der(server).map_err(|_| CertificateError::BadEncoding)?;
    Ok(certificate.tbs_certificate.subject_public_key_info)
}

fn is_current(certificate: &Certificate, now: UnixTime) -> bool {
    let validity = &certificate.tbs_certificate.validity;
    let seconds = |time: &x509_cert::time::Time| time.to_unix_duration().as_secs();
    (seconds(&validity.not_before)..=seconds(&validity.not_after)).contains(&now.as_secs())
}

/// The content of a DER sequence shorter than 128 bytes, as every algorithm identifier is: the form in which
/// pki-types holds it.
fn inside(sequence: &[u8]) -> &[u8] {
    sequence.get(2..).unwrap_or_default()
}

/// The name that verify-full wants to see.
#[derive(Debug)]
pub(super) struct Identity {
    host: String,
    address: Option<IpAddr>,
}

impl Identity {
    pub(super) fn of(host: &str) -> Self {
        Self { host: host.to_owned(), address: host.parse().ok() }
    }

    /// Alternative names decide; the common name only where no alternative name is of our kind (name or address).
    fn is_named_in(&self, server: &CertificateDer<'_>) -> Result<bool, Error> {
        let certificate = Certificate::from_der(server).map_err(|_| CertificateError::BadEncoding)?;
        let extensions = certificate.tbs_certificate.extensions.unwrap_or_default();
        let mut ask_common_name = true;
        for extension in extensions.iter().filter(|extension| extension.extn_id == SubjectAltName::OID) {
            let names = SubjectAltName::from_der(extension.extn_value.as_bytes());
            for name in &names.map_err(|_| CertificateError::BadEncoding)?.0 {
                let (is_address, matches) = match name {
                    GeneralName::DnsName(name) => (false, self.matches(name.as_str())),
                    GeneralName::IpAddress(bytes) => (true, self.is_address(bytes.as_bytes())),
                    _ => continue,
                };
                if matches {
                    return Ok(true);
                }
                ask_common_name &= is_address != self.address.is_some();
            }
        }
        let subject = certificate.tbs_certificate.subject;
        let mut names = subject.0.iter().flat_map(|set| set.0.iter()).filter(|pair| pair.oid == COMMON_NAME);
        let common_name = names.next().and_then(|pair| std::str::from_utf8(pair.value.value()).ok());
        Ok(ask_common_name && common_name.is_some_and(|name| self.matches(name)))
    }

    fn is_address(&self, bytes: &[u8]) -> bool {
        match self.address {
            Some(IpAddr::V4(address)) => bytes == address.octets(),
            Some(IpAddr::V6(address)) => bytes == address.octets(),
            None => false,
        }
    }

    /// Whole, or with `*` for exactly the first label.
    fn matches(&self, pattern: &str) -> bool {
        if pattern.contains('\0') {
            return false;
        }
        let wild = || {
            let (label, parent) = self.host.split_once('.')?;
            let wanted = pattern.strip_prefix("*.")?;
            Some(!label.is_empty() && !wanted.is_empty() && parent.eq_ignore_ascii_case(wanted))
        };
        pattern.eq_ignore_ascii_case(&self.host) || wild().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_label() {
        let host = Identity::of("db.Example.org");
        for good in ["db.example.org", "*.example.org", "DB.example.ORG"] {
            assert!(host.matches(good), "{good}");
        }
        for bad in ["*", "*.org", "*.", "d*.example.org", "example.org", "*.b.example.org", "db.example.org\0.evil"] {
            assert!(!host.matches(bad), "{bad}");
        }
        assert!(!Identity::of("a.db.example.org").matches("*.example.org"));
        assert!(Identity::of("::1").is_address(&std::net::Ipv6Addr::LOCALHOST.octets()));
    }
}
