//! Whether a server's certificate is to be believed, by the words of `server_tls_sslmode`.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::net::x509;

/// What a server's certificate must be.
#[derive(Debug)]
pub(super) enum Trust {
    /// Anything: `allow`, `prefer`, `require`.
    Anyone,
    /// Of one of these authorities, or one of these certificates itself.
    Known {
        roots: RootCertStore,
        certificates: Vec<CertificateDer<'static>>,
        /// And made out for the host: `verify-full`.
        host: bool,
    },
}

/// Checks servers by a [`Trust`]. That the server has the certificate's key is checked always.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Known { roots, certificates, host } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let parsed = ParsedCertificate::try_from(certificate)?;
        if certificates.iter().any(|known| known.as_ref() == certificate.as_ref()) {
            // A certificate that is its own authority, as `openssl req -x509` makes them.
            check_dates(certificate, now)?;
        } else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        }
        if *host {
            verify_server_name(&parsed, host_name).or_else(|error| common_name(certificate, host_name).ok_or(error))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let facts = x509::facts(certificate).ok_or(CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < facts.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > facts.not_after {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// libpq's rule for certificates without alternative names: the common name is the host's.
/// See <https://www.postgresql.org/docs/current/libpq-ssl.html#LIBQ-SSL-CERTIFICATES>.
fn common_name(certificate: &CertificateDer<'_>, host: &ServerName<'_>) -> Option<()> {
    let facts = x509::facts(certificate).filter(|facts| !facts.has_alt_names)?;
    is_named(&facts.common_name?, &host.to_str()).then_some(())
}

/// Whether a name of a certificate is a host's; `*.` at its begin stands for one label.
fn is_named(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(domain), Some((label, rest))) = (pattern.strip_prefix("*."), host.split_once('.')) else { return false };
    !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest)
}

/// What a certificate is that rustls does not take, and what to do about it.
pub(super) const OLD: &str = "an X.509 version 1 certificate; make a version 3 one, e.g. with `openssl x509 -req -extfile` or `openssl req -x509 -addext`";

/// What went wrong, and what may be done about it.
pub(super) fn explain(error: &Error) -> String {
    let Error::InvalidCertificate(why) = error else { return error.to_string() };
    let why = match why {
        CertificateError::UnknownIssuer => "it is not of an authority in the CA file",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            return format!("the peer's certificate is for another host: {error}");
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
        // The kind of this error is not told otherwise.
        _ if format!("{why:?}").contains("UnsupportedCertVersion") => OLD,
        _ => return format!("the peer's certificate is not accepted: {error}"),
    };
    format!("the peer's certificate is not accepted: {why}")
}

/// As `openssl x509 -req -signkey` makes them.
#[cfg(test)]
pub(super) const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBGjCBwQIUUCf8wREMyLTLRw1P7wAUc5ACWOwwCgYIKoZIzj0EAwIwDzENMAsG
A1UEAwwEd2VpcjAgFw0yNjExMjgxMzUyNDhaGA8yMTI2MTEwNDEzNTI0OFowDzEN
MAsGA1UEAwwEd2VpcjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEau61OFLkO8
tuMWaOx0+MFlSWGTi2rmnkrKbiFpXIcFJgQ7CbS0E48HmYTCI4aABy9wzMRhx2p/
TiWlXgBfDD4wCgYIKoZIzj0EAwIDSAAwRQIhAJbwzZPzVfRjDqJz6v+AwMH7f3TZ
jZau5h45Z9lF/4vbAiBU1SF2Fv9AXRRvPU0hD/d4BKMyvPh+GFRXpl5Ki40vLw==
-----END CERTIFICATE-----
";

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_peers_certificate_of_version_1_is_called_that() {
        let certificate = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
        assert_eq!(x509::version(&certificate), Some(1));
        let error = ParsedCertificate::try_from(&certificate).map(drop).unwrap_err();
        assert!(explain(&error).contains("an X.509 version 1 certificate"), "{}", explain(&error));
    }

    #[test]
    fn a_star_is_one_label() {
        assert!(is_named("db.example.com", "DB.example.com"));
        assert!(is_named("*.example.com", "db.example.com"));
        for (pattern, host) in [
            ("*.example.com", "example.com"),
            ("*.example.com", "a.db.example.com"),
            ("*.com", "example.com"),
            ("*", "localhost"),
            ("db.example.com", "db.example.org"),
        ] {
            assert!(!is_named(pattern, host), "{pattern} {host}");
        }
    }
}
