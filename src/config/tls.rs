//! TLS settings: the modes, protocols and cipher suites, and what they need of each other.

use std::path::{Path, PathBuf};

use super::raw::{Entry, Mistakes, nearest};
use super::{AuthType, General};

/// When TLS is spoken and what is checked; on either side as PgBouncer means the words.
///
/// See <https://www.pgbouncer.org/config.html#tls-settings>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Clients: if they ask. Servers: if they refuse us without.
    Allow,
    /// Clients: if they ask. Servers: if they can.
    Prefer,
    /// Always; certificates are not checked.
    Require,
    /// Always; the peer's certificate must be of a known authority.
    VerifyCa,
    /// Always; and a server's certificate must be for the host that we connect to.
    VerifyFull,
}

/// The versions of TLS that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocols {
    /// TLS 1.2 and 1.3.
    Both,
    /// TLS 1.2 alone.
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// A cipher suite by its names.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    /// As rustls calls it.
    pub name: &'static str,
    /// As the standards do.
    pub standard: &'static str,
    /// As OpenSSL does, and so PostgreSQL and PgBouncer.
    pub openssl: &'static str,
}

/// `client_tls_*` or `server_tls_*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// When and how.
    pub mode: SslMode,
    /// Our certificate, with those that lead to its authority, in PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// Certificates of the authorities that peers' certificates must be of, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Versions.
    pub protocols: Protocols,
    /// Cipher suites, the preferred first; empty: all, in rustls's order.
    pub ciphers: Vec<&'static Suite>,
}

impl TlsSettings {
    /// TLS by `mode`, with every version and suite, and no files.
    #[must_use]
    pub const fn new(mode: SslMode) -> Self {
        Self { mode, cert_file: None, key_file: None, ca_file: None, protocols: Protocols::Both, ciphers: Vec::new() }
    }
}

impl Suite {
    /// Whether it belongs to TLS 1.3.
    #[must_use]
    pub fn is_tls13(&self) -> bool {
        self.name.starts_with("TLS13_")
    }
}

const fn suite(name: &'static str, standard: &'static str, openssl: &'static str) -> Suite {
    Suite { name, standard, openssl }
}

/// Every suite of rustls with ring; a test of `net::tls` compares.
pub static SUITES: [Suite; 9] = [
    suite("TLS13_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    suite("TLS13_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    suite("TLS13_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    suite(
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ),
    suite(
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
    suite(
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ),
    suite(
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ),
    suite(
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ),
    suite(
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ),
];

/// The words of the two `_sslmode` settings.
pub(super) const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

impl SslMode {
    /// The word of the setting.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        SSL_MODES.iter().find(|(_, mode)| *mode == self).map_or("", |(word, _)| word)
    }
}

impl Protocols {
    /// The setting's text.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Both => "secure",
            Self::Tls12 => "tlsv1.2",
            Self::Tls13 => "tlsv1.3",
        }
    }
}

/// Reads a list of versions, by commas or blanks, as PgBouncer's `_tls_protocols`.
///
/// # Errors
/// What is wrong, as a phrase that follows the setting's name.
pub(super) fn protocols(text: &str) -> Result<Protocols, String> {
    let (mut tls12, mut tls13) = (false, false);
    for word in text.split([',', ':', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "tlsv1.2" => tls12 = true,
            "tlsv1.3" => tls13 = true,
            "secure" | "all" => (tls12, tls13) = (true, true),
            "tlsv1.0" | "tlsv1.1" | "tlsv1" | "legacy" => {
                return Err(format!("= {text:?}: TLS before version 1.2 is not spoken here, as it is not secure"));
            }
            _ => {
                let why = "is not a version of TLS; expected \"secure\", \"tlsv1.2\", \"tlsv1.3\" or \"all\"";
                return Err(format!("= {text:?}: {word:?} {why}"));
            }
        }
    }
    match (tls12, tls13) {
        (true, true) => Ok(Protocols::Both),
        (true, false) => Ok(Protocols::Tls12),
        (false, true) => Ok(Protocols::Tls13),
        (false, false) => Err("is empty; expected \"secure\", \"tlsv1.2\", \"tlsv1.3\" or \"all\"".to_owned()),
    }
}

/// Reads a list of cipher suites, by commas or colons, by any of their names. PgBouncer's words for OpenSSL's own choice (`default`,
/// `secure`, `fast`, `normal`) and `all` are all that rustls has.
///
/// # Errors
/// What is wrong, as a phrase that follows the setting's name.
pub(super) fn ciphers(text: &str) -> Result<Vec<&'static Suite>, String> {
    let mut found = Vec::new();
    for word in text.split([',', ':', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
        if matches!(word.to_ascii_lowercase().as_str(), "default" | "secure" | "fast" | "normal" | "all") {
            return Ok(Vec::new());
        }
        let called = |suite: &&Suite| [suite.name, suite.standard, suite.openssl].contains(&word);
        match SUITES.iter().find(called) {
            Some(suite) if found.contains(&suite) => {}
            Some(suite) => found.push(suite),
            None => return Err(format!("= {text:?}: {}", no_suite(word))),
        }
    }
    if found.is_empty() { Err("is empty; \"default\" is every suite".to_owned()) } else { Ok(found) }
}

fn no_suite(word: &str) -> String {
    let names = SUITES.iter().flat_map(|suite| [suite.name, suite.standard, suite.openssl]);
    // Distances are taken in lower case, so both sides must be.
    let lower: Vec<String> = names.clone().map(str::to_lowercase).collect();
    let near = nearest(word, lower.iter().map(String::as_str));
    match near.and_then(|near| names.clone().find(|name| name.eq_ignore_ascii_case(near))) {
        Some(name) => format!("{word:?} is not a cipher suite of rustls; did you mean {name:?}?"),
        None => {
            let all: Vec<_> = SUITES.iter().map(|suite| suite.name).collect();
            format!("{word:?} is not a cipher suite of rustls; it has {}", all.join(", "))
        }
    }
}

/// The text of a list of suites.
pub(super) fn ciphers_text(ciphers: &[&'static Suite]) -> String {
    if ciphers.is_empty() {
        return "default".to_owned();
    }
    ciphers.iter().map(|suite| suite.name).collect::<Vec<_>>().join(",")
}

/// Puts relative file names where the configuration file is, and checks what the settings need of each other.
pub(super) fn check(
    general: &mut General,
    path: &Path,
    entries: &[Entry],
    section_line: usize,
    mistakes: &mut Mistakes,
) {
    let line = |name: String| entries.iter().find(|e| e.key == name).map_or(section_line, |e| e.value.line);
    let dir = path.parent().unwrap_or(Path::new(""));
    for (side, tls) in [("client", &mut general.client_tls), ("server", &mut general.server_tls)] {
        for file in [&mut tls.cert_file, &mut tls.key_file, &mut tls.ca_file].into_iter().flatten() {
            *file = dir.join(&*file);
        }
        let mode = tls.mode.as_str();
        let mode_line = line(format!("{side}_tls_sslmode"));
        match (&tls.cert_file, &tls.key_file) {
            (None, None) if side == "client" && tls.mode != SslMode::Disable => {
                let why = "needs client_tls_cert_file and client_tls_key_file";
                mistakes.add(mode_line, format!("client_tls_sslmode = \"{mode}\" {why}"));
            }
            (Some(_), None) => {
                let at = line(format!("{side}_tls_cert_file"));
                mistakes.add(at, format!("{side}_tls_cert_file needs {side}_tls_key_file"));
            }
            (None, Some(_)) => {
                let at = line(format!("{side}_tls_key_file"));
                mistakes.add(at, format!("{side}_tls_key_file needs {side}_tls_cert_file"));
            }
            _ => {}
        }
        if tls.mode >= SslMode::VerifyCa && tls.ca_file.is_none() {
            let why = "a file of the authorities that certificates must be of";
            mistakes.add(mode_line, format!("{side}_tls_sslmode = \"{mode}\" needs {side}_tls_ca_file, {why}"));
        }
        let serves = |tls13: bool| tls.ciphers.is_empty() || tls.ciphers.iter().any(|suite| suite.is_tls13() == tls13);
        let usable = match tls.protocols {
            Protocols::Both => true,
            Protocols::Tls12 => serves(false),
            Protocols::Tls13 => serves(true),
        };
        if !usable {
            let why = format!("names no suite of the version that {side}_tls_protocols allows");
            mistakes.add(line(format!("{side}_tls_ciphers")), format!("{side}_tls_ciphers {why}"));
        }
    }
    if general.auth_type == AuthType::Cert && general.client_tls.mode < SslMode::VerifyCa {
        let why = "needs client_tls_sslmode = \"verify-ca\" or \"verify-full\"";
        mistakes.add(line("auth_type".to_owned()), format!("auth_type = \"cert\" {why}"));
    }
}

/// What is allowed but probably not meant.
pub(super) fn warn(general: &General, warnings: &mut Vec<String>) {
    for (side, tls) in [("client", &general.client_tls), ("server", &general.server_tls)] {
        let mode = tls.mode.as_str();
        if tls.mode == SslMode::Disable && tls.cert_file.is_some() {
            warnings.push(format!("{side}_tls_cert_file is not used: {side}_tls_sslmode is \"disable\""));
        }
        if tls.mode < SslMode::VerifyCa && tls.ca_file.is_some() {
            let why = format!("{side}_tls_sslmode is \"{mode}\"; \"verify-ca\" and \"verify-full\" check certificates");
            warnings.push(format!("{side}_tls_ca_file is not used: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(protocols("secure"), Ok(Protocols::Both));
        assert_eq!(protocols("tlsv1.2,tlsv1.3"), Ok(Protocols::Both));
        assert_eq!(protocols("TLSv1.3"), Ok(Protocols::Tls13));
        assert!(protocols("tlsv1.1").unwrap_err().contains("not secure"));
        assert!(protocols("sslv3").unwrap_err().contains("\"sslv3\" is not a version of TLS"));
        assert!(protocols("").unwrap_err().contains("is empty"));
    }

    #[test]
    fn suites_are_found_by_any_name_and_near_ones_are_told() {
        assert_eq!(ciphers("default"), Ok(Vec::new()));
        let two = ciphers("TLS_AES_256_GCM_SHA384:ECDHE-RSA-AES128-GCM-SHA256").unwrap();
        assert_eq!(ciphers_text(&two), "TLS13_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
        assert_eq!(ciphers(&ciphers_text(&two)).unwrap(), two);
        let why = ciphers("ECDHE-RSA-AES256-SHA384").unwrap_err();
        assert!(why.contains("did you mean \"ECDHE-RSA-AES256-GCM-SHA384\"?"), "{why}");
        let why = ciphers("HIGH").unwrap_err();
        assert!(why.contains("it has TLS13_AES_256_GCM_SHA384, "), "{why}");
    }
}
