//! From settings and files to what makes handshakes: for clients that connect to us, and for our connections to servers.

use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion, version,
};

use super::verify::{self, Trust, Verifier};
use super::{ALPN, Tls};
use crate::config::Host;
use crate::config::tls::{Protocols, SslMode, TlsSettings};
use crate::net::{Stream, x509};

/// Makes handshakes with clients.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

/// Makes handshakes with servers.
#[derive(Debug)]
pub struct Connector {
    /// When it is to be used.
    pub mode: SslMode,
    config: Arc<ClientConfig>,
}

/// The connector in force. All pools share it, so that a reload brings new certificates to pools that stay.
#[derive(Debug)]
pub struct ServerTls(ArcSwap<Connector>);

impl ServerTls {
    /// Starts with a connector.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self(ArcSwap::from_pointee(connector))
    }

    /// The connector in force.
    #[must_use]
    pub fn get(&self) -> Arc<Connector> {
        self.0.load_full()
    }

    /// Replaces it; connections that stand are left alone.
    pub fn replace(&self, connector: Connector) {
        self.0.store(Arc::new(connector));
    }
}

/// What is wrong with a setting, or with the file that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting.
    pub setting: String,
    /// What is wrong, as a phrase that follows its name.
    pub why: String,
}

impl Fault {
    fn new(setting: impl Into<String>, why: impl Into<String>) -> Self {
        Self { setting: setting.into(), why: why.into() }
    }

    fn of_file(setting: &str, file: &Path, why: impl std::fmt::Display) -> Self {
        Self::new(setting, format!("{}: {why}", file.display()))
    }
}

impl Acceptor {
    /// Reads the files of `client_tls_*`; none if TLS is off.
    ///
    /// # Errors
    /// All that is wrong with any of the files.
    pub fn new(settings: &TlsSettings) -> Result<Option<Self>, Vec<Fault>> {
        let (Some(cert_file), Some(key_file)) = (&settings.cert_file, &settings.key_file) else { return Ok(None) };
        if settings.mode == SslMode::Disable {
            return Ok(None);
        }
        let provider = provider(settings);
        let authorities = settings.ca_file.as_ref().map(|file| authorities("client_tls_ca_file", file)).transpose();
        let ((chain, key), authorities) = both(identity(("client", cert_file, key_file)), authorities)?;
        let one = |setting: &str, why: String| vec![Fault::new(setting, why)];
        let end_point = chain.first().and_then(|own| x509::end_point(own)).map(Arc::from);
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings.protocols))
            .map_err(|why| one("client_tls_protocols", format!("and client_tls_ciphers do not go together: {why}")))?;
        let config = match authorities {
            Some((roots, _)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                // As in PgBouncer, clients are asked for a certificate all the same, and may have none.
                let optional = settings.mode < SslMode::VerifyCa;
                let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
                let verifier =
                    verifier.build().map_err(|why| one("client_tls_ca_file", format!("cannot be used: {why}")))?;
                config.with_client_cert_verifier(verifier)
            }
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(chain, key).map_err(|why| {
            let (cert, key) = (cert_file.display(), key_file.display());
            one("client_tls_cert_file", format!("{cert} and client_tls_key_file {key} cannot be used together: {why}"))
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As PostgreSQL: no session is taken up again, and no memory kept for that.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Some(Self { config: Arc::new(config), end_point }))
    }

    /// Makes the handshake with a client; `already` is what was read of it.
    ///
    /// # Errors
    /// Those of the socket, and why the handshake failed.
    pub async fn accept(&self, socket: Stream, already: &[u8]) -> io::Result<Stream> {
        let session = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        let end_point = self.end_point.clone();
        Tls::handshake(socket, session.into(), already, end_point).await.map(Stream::Tls)
    }
}

impl Connector {
    /// Reads the files of `server_tls_*`.
    ///
    /// # Errors
    /// All that is wrong with any of the files.
    pub fn new(settings: &TlsSettings) -> Result<Self, Vec<Fault>> {
        let provider = provider(settings);
        let one = |setting: &str, why: String| vec![Fault::new(setting, why)];
        let trust = if settings.mode >= SslMode::VerifyCa {
            let known = match &settings.ca_file {
                Some(file) => authorities("server_tls_ca_file", file),
                None => of_the_system(settings.mode),
            };
            let host = settings.mode == SslMode::VerifyFull;
            known.map(|(roots, certificates)| Trust::Known { roots, certificates, host })
        } else {
            Ok(Trust::Anyone)
        };
        let own = match (&settings.cert_file, &settings.key_file) {
            (Some(cert_file), Some(key_file)) => identity(("server", cert_file, key_file)).map(Some),
            _ => Ok(None),
        };
        let (trust, own) = both(trust, own)?;
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings.protocols))
            .map_err(|why| one("server_tls_protocols", format!("and server_tls_ciphers do not go together: {why}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { trust, provider }));
        let mut config = match own {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(|why| {
                one("server_tls_cert_file", format!("and server_tls_key_file cannot be used together: {why}"))
            })?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { mode: settings.mode, config: Arc::new(config) })
    }

    /// Makes the handshake with a server that has agreed to it.
    ///
    /// # Errors
    /// Those of the socket, and why the handshake failed.
    pub(in crate::net) async fn connect(&self, socket: Stream, host: &Host) -> io::Result<Stream> {
        let name = match host {
            Host::Tcp(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()),
            Host::Unix(_) | Host::Several(_) => ServerName::try_from("localhost".to_owned()),
        };
        let name =
            name.map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, format!("no name for TLS: {why}")))?;
        let session = ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        Tls::handshake(socket, session.into(), &[], None).await.map(Stream::Tls)
    }
}

/// ring, with the suites and curves that the settings name, in their order.
fn provider(settings: &TlsSettings) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    if let Some(suites) = settings.suites() {
        let called = |name: &str| ring::ALL_CIPHER_SUITES.iter().find(|s| format!("{:?}", s.suite()) == name).copied();
        provider.cipher_suites = suites.iter().filter_map(|suite| called(suite.name)).collect();
    }
    if !settings.curves.is_empty() {
        let called = |name: &str| ring::ALL_KX_GROUPS.iter().find(|g| format!("{:?}", g.name()) == name).copied();
        provider.kx_groups = settings.curves.iter().filter_map(|curve| called(curve.name)).collect();
    }
    Arc::new(provider)
}

fn versions(protocols: Protocols) -> Vec<&'static SupportedProtocolVersion> {
    match protocols {
        Protocols::Both => vec![&version::TLS13, &version::TLS12],
        Protocols::Tls12 => vec![&version::TLS12],
        Protocols::Tls13 => vec![&version::TLS13],
    }
}

/// Both, or all that is wrong with either.
fn both<A, B>(one: Result<A, Vec<Fault>>, other: Result<B, Vec<Fault>>) -> Result<(A, B), Vec<Fault>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => Err(one.err().into_iter().chain(other.err()).flatten().collect()),
    }
}

/// The certificates of a PEM file; at least one.
fn certificates(setting: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Vec<Fault>> {
    let wrong = |why: String| vec![Fault::of_file(setting, file, why)];
    let text = std::fs::read(file).map_err(|why| wrong(format!("cannot read the file: {why}")))?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong("there is no certificate in it; it must be in PEM".to_owned())),
        Ok(found) => Ok(found),
        Err(why) => Err(wrong(format!("not valid PEM: {why}"))),
    }
}

/// Until when the first certificate of a PEM file is valid, in seconds since the Unix epoch; none if there is none to be read.
#[must_use]
pub(crate) fn valid_until(file: &Path) -> Option<i64> {
    let text = std::fs::read(file).ok()?;
    let own = CertificateDer::pem_slice_iter(&text).next()?.ok()?;
    x509::facts(&own).map(|facts| facts.not_after)
}

/// A certificate with its chain, and its private key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity((side, cert_file, key_file): (&str, &Path, &Path)) -> Result<Identity, Vec<Fault>> {
    let setting = format!("{side}_tls_cert_file");
    let chain = certificates(&setting, cert_file).and_then(|chain| {
        let is_old = chain.first().and_then(|own| x509::version(own)).is_some_and(|version| version < 3);
        if is_old {
            Err(vec![Fault::of_file(&setting, cert_file, format!("it is {}", verify::OLD))])
        } else {
            Ok(chain)
        }
    });
    both(chain, private_key(&format!("{side}_tls_key_file"), key_file))
}

fn private_key(setting: &str, file: &Path) -> Result<PrivateKeyDer<'static>, Vec<Fault>> {
    let wrong = |why: String| vec![Fault::of_file(setting, file, why)];
    let text = std::fs::read(file).map_err(|why| wrong(format!("cannot read the file: {why}")))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|why| match why {
        pem::Error::NoItemsFound if text.windows(9).any(|w| w == b"ENCRYPTED") => {
            wrong("the key is encrypted; decrypt it with `openssl pkey`".to_owned())
        }
        pem::Error::NoItemsFound => wrong("there is no private key in it; it must be in PEM".to_owned()),
        why => wrong(format!("not valid PEM: {why}")),
    })
}

type Authorities = (RootCertStore, Vec<CertificateDer<'static>>);

/// The authorities that the system trusts, as PgBouncer goes by them without `server_tls_ca_file`; those that cannot be used are left out.
fn of_the_system(mode: SslMode) -> Result<Authorities, Vec<Fault>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        let mode = mode.as_str();
        let needs = "needs server_tls_ca_file, or authorities that the system trusts (SSL_CERT_FILE)";
        return Err(vec![Fault::new("server_tls_sslmode", format!("= \"{mode}\" {needs}: {why}"))]);
    }
    Ok((roots, Vec::new()))
}

fn authorities(setting: &str, file: &Path) -> Result<Authorities, Vec<Fault>> {
    let certificates = certificates(setting, file)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        let added = roots.add(certificate.clone());
        added.map_err(|why| vec![Fault::of_file(setting, file, format!("a certificate cannot be used: {why}"))])?;
    }
    Ok((roots, certificates))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls::{CURVES, SUITES};

    #[test]
    fn a_certificate_of_version_1_is_called_that() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("v1.crt"), dir.path().join("v1.key"));
        std::fs::write(&cert, verify::VERSION_1).unwrap();
        let told = identity(("client", &cert, &key)).unwrap_err();
        let [old, missing] = told.as_slice() else { panic!("both are told: {told:?}") };
        assert!(old.setting == "client_tls_cert_file" && old.why.contains("an X.509 version 1 certificate"), "{old:?}");
        assert!(
            missing.setting == "client_tls_key_file" && missing.why.contains("cannot read the file"),
            "{missing:?}"
        );
    }

    #[test]
    fn the_settings_know_every_suite_and_curve() {
        let ours: Vec<_> = ring::ALL_KX_GROUPS.iter().map(|g| format!("{:?}", g.name())).collect();
        assert_eq!(ours, CURVES.iter().map(|curve| curve.name).collect::<Vec<_>>());
        let ours: Vec<_> = ring::ALL_CIPHER_SUITES.iter().map(|s| format!("{:?}", s.suite())).collect();
        assert_eq!(ours, SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>());
    }
}
