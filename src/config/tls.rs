//! TLS settings: the modes, protocols and cipher suites, and what they need of each other.

use std::path::{Path, PathBuf};

use super::raw::{Entry, Mistakes, expected, nearest};
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

/// A curve on which keys are exchanged, by its names.
#[derive(Debug, PartialEq, Eq)]
pub struct Curve {
    /// As rustls calls it.
    pub name: &'static str,
    /// As OpenSSL does, and so PgBouncer.
    pub openssl: &'static str,
    /// As NIST does.
    nist: &'static str,
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
    /// Cipher suites, the preferred first; empty: all, in rustls's order. Where none is of TLS 1.3, all of that are meant too.
    pub ciphers: Vec<&'static Suite>,
    /// Those of TLS 1.3; empty: as `ciphers` says.
    pub ciphers13: Vec<&'static Suite>,
    /// Curves, the preferred first; empty: all, in rustls's order.
    pub curves: Vec<&'static Curve>,
}

impl TlsSettings {
    /// TLS by `mode`, with every version and suite, and no files.
    #[must_use]
    pub const fn new(mode: SslMode) -> Self {
        Self {
            mode,
            cert_file: None,
            key_file: None,
            ca_file: None,
            protocols: Protocols::Both,
            ciphers: Vec::new(),
            ciphers13: Vec::new(),
            curves: Vec::new(),
        }
    }

    /// The suites in the order of preference; none: all, in rustls's order.
    #[must_use]
    pub fn suites(&self) -> Option<Vec<&'static Suite>> {
        let all = |tls13: bool| SUITES.iter().filter(move |suite| suite.is_tls13() == tls13);
        let of = |tls13: bool| self.ciphers.iter().copied().filter(move |suite| suite.is_tls13() == tls13);
        match (self.ciphers13.as_slice(), self.ciphers.as_slice()) {
            ([], []) => None,
            // As in OpenSSL: a list of others says nothing of TLS 1.3.
            ([], others) if others.iter().all(|suite| !suite.is_tls13()) => Some(all(true).chain(of(false)).collect()),
            ([], both) => Some(both.to_vec()),
            (newer, []) => Some(newer.iter().copied().chain(all(false)).collect()),
            (newer, _) => Some(newer.iter().copied().chain(of(false)).collect()),
        }
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

/// Every curve of rustls with ring; a test of `net::tls` compares.
pub static CURVES: [Curve; 3] = [
    Curve { name: "X25519", openssl: "x25519", nist: "curve25519" },
    Curve { name: "secp256r1", openssl: "prime256v1", nist: "P-256" },
    Curve { name: "secp384r1", openssl: "secp384r1", nist: "P-384" },
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

/// The words of `_tls_protocols`.
const PROTOCOLS: [&str; 4] = ["secure", "tlsv1.2", "tlsv1.3", "all"];

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
                let why = expected(word, PROTOCOLS);
                return Err(format!("= {text:?}: {word:?} is not a version of TLS{why}"));
            }
        }
    }
    match (tls12, tls13) {
        (true, true) => Ok(Protocols::Both),
        (true, false) => Ok(Protocols::Tls12),
        (false, true) => Ok(Protocols::Tls13),
        (false, false) => Err(format!("is empty{}", expected("", PROTOCOLS))),
    }
}

/// Reads a list of cipher suites, by commas or colons, by any of their names. PgBouncer's words for OpenSSL's own choice (`default`,
/// `secure`, `fast`, `normal`), `all` and OpenSSL's `HIGH` are all that rustls has; what OpenSSL is told to leave out may be what rustls
/// does not have either.
///
/// # Errors
/// What is wrong, as a phrase that follows the setting's name.
pub(super) fn ciphers(text: &str) -> Result<Vec<&'static Suite>, String> {
    let (mut found, mut all) = (Vec::new(), false);
    for word in text.split([',', ':', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
        if is_without_effect(word) {
            continue;
        }
        if matches!(word.to_ascii_lowercase().as_str(), "default" | "secure" | "fast" | "normal" | "all" | "high") {
            all = true;
            continue;
        }
        let called = |suite: &&Suite| [suite.name, suite.standard, suite.openssl].contains(&word);
        match SUITES.iter().find(called) {
            Some(suite) if found.contains(&suite) => {}
            Some(suite) => found.push(suite),
            None => return Err(format!("= {text:?}: {}", no_suite(word))),
        }
    }
    match (all, found.is_empty()) {
        (true, _) => Ok(Vec::new()),
        (false, true) => Err("is empty; \"default\" is every suite".to_owned()),
        (false, false) => Ok(found),
    }
}

/// What OpenSSL's lists of ciphers name that rustls does not have: to leave it out, or to put it last, changes nothing.
const NEVER_HERE: [&str; 22] = [
    "aNULL", "eNULL", "NULL", "ADH", "AECDH", "MD5", "RC2", "RC4", "DES", "3DES", "IDEA", "SEED", "CAMELLIA", "ARIA",
    "EXP", "EXPORT", "LOW", "MEDIUM", "PSK", "SRP", "DSS", "kRSA",
];

/// Whether a word of OpenSSL's says nothing about suites that rustls has.
fn is_without_effect(word: &str) -> bool {
    match word.strip_prefix(['!', '-', '+']) {
        Some(name) => NEVER_HERE.contains(&name),
        None => word == "@STRENGTH" || word == "MEDIUM",
    }
}

/// Reads a list of suites of TLS 1.3, as PgBouncer's `_tls13_ciphers`; nothing is every suite.
///
/// # Errors
/// What is wrong, as a phrase that follows the setting's name.
pub(super) fn ciphers13(text: &str) -> Result<Vec<&'static Suite>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let found = ciphers(text)?;
    match found.iter().find(|suite| !suite.is_tls13()) {
        Some(older) => Err(format!("= {text:?}: {} is not a suite of TLS 1.3", older.openssl)),
        None => Ok(found),
    }
}

/// Reads a list of curves by any of their names, as PgBouncer's `_tls_ecdhcurve`; `auto` is every curve.
///
/// # Errors
/// What is wrong, as a phrase that follows the setting's name.
pub(super) fn curves(text: &str) -> Result<Vec<&'static Curve>, String> {
    let mut found = Vec::new();
    for word in text.split([',', ':', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
        if word.eq_ignore_ascii_case("auto") {
            return Ok(Vec::new());
        }
        if word.eq_ignore_ascii_case("none") {
            return Err(format!("= {text:?}: keys cannot be exchanged without a curve here"));
        }
        let called = |curve: &&Curve| {
            [curve.name, curve.openssl, curve.nist].into_iter().any(|name| name.eq_ignore_ascii_case(word))
        };
        match CURVES.iter().find(called) {
            Some(curve) if found.contains(&curve) => {}
            Some(curve) => found.push(curve),
            None => {
                let why = expected(word, CURVES.iter().map(|curve| curve.name));
                return Err(format!("= {text:?}: {word:?} is not a curve of rustls{why}"));
            }
        }
    }
    if found.is_empty() { Err("is empty; \"auto\" is every curve".to_owned()) } else { Ok(found) }
}

/// The text of a list of curves.
pub(super) fn curves_text(curves: &[&'static Curve]) -> String {
    if curves.is_empty() {
        return "auto".to_owned();
    }
    curves.iter().map(|curve| curve.name).collect::<Vec<_>>().join(",")
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
        // For servers the authorities of the system do.
        if side == "client" && tls.mode >= SslMode::VerifyCa && tls.ca_file.is_none() {
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
        // Clients are asked for a certificate, which a rule for the method cert may go by.
        let asks = side == "client" && tls.mode != SslMode::Disable;
        if tls.mode < SslMode::VerifyCa && tls.ca_file.is_some() && !asks {
            let why = format!("{side}_tls_sslmode is \"{mode}\"; \"verify-ca\" and \"verify-full\" check certificates");
            warnings.push(format!("{side}_tls_ca_file is not used: {why}"));
        }
        if tls.mode != SslMode::Disable && tls.protocols == Protocols::Tls12 && !tls.ciphers13.is_empty() {
            warnings.push(format!("{side}_tls13_ciphers is not used: {side}_tls_protocols is \"tlsv1.2\""));
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
        for usual in ["HIGH", "HIGH:!aNULL", "HIGH:MEDIUM:+3DES:!aNULL", "ALL:!MD5:@STRENGTH", "!RC4:HIGH:-LOW"] {
            assert_eq!(ciphers(usual), Ok(Vec::new()), "{usual}");
        }
        for partial in ["HIGH:!CHACHA20", "HIGH:!RSA", "HIGH:kEECDH"] {
            assert!(ciphers(partial).is_err(), "what would be left out is there: {partial}");
        }
        assert!(ciphers("!aNULL").unwrap_err().contains("is empty"));
        let why = ciphers("LOW").unwrap_err();
        assert!(why.contains("it has TLS13_AES_256_GCM_SHA384, "), "{why}");
        assert_eq!(ciphers13(""), Ok(Vec::new()));
        assert_eq!(ciphers13("TLS_AES_128_GCM_SHA256").unwrap(), [&SUITES[1]]);
        let why = ciphers13("TLS_AES_128_GCM_SHA256,ECDHE-RSA-AES128-GCM-SHA256").unwrap_err();
        assert!(why.contains("ECDHE-RSA-AES128-GCM-SHA256 is not a suite of TLS 1.3"), "{why}");
    }

    #[test]
    fn lists_of_older_suites_say_nothing_of_tls_1_3() {
        let suites = |ciphers_: &str, newer: &str| {
            let tls = TlsSettings {
                ciphers: ciphers(ciphers_).unwrap(),
                ciphers13: ciphers13(newer).unwrap(),
                ..TlsSettings::new(SslMode::Require)
            };
            tls.suites().map(|suites| ciphers_text(&suites))
        };
        let (older, newer) = ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256");
        let all13 = ciphers_text(&SUITES.iter().filter(|suite| suite.is_tls13()).collect::<Vec<_>>());
        let all12 = ciphers_text(&SUITES.iter().filter(|suite| !suite.is_tls13()).collect::<Vec<_>>());
        assert_eq!(suites("default", ""), None);
        assert_eq!(suites(older, "").unwrap(), format!("{all13},TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"));
        assert_eq!(suites(newer, "").unwrap(), "TLS13_AES_128_GCM_SHA256");
        assert_eq!(
            suites(&format!("{older}:{newer}"), "").unwrap(),
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS13_AES_128_GCM_SHA256"
        );
        assert_eq!(suites("default", newer).unwrap(), format!("TLS13_AES_128_GCM_SHA256,{all12}"));
        assert_eq!(suites(older, newer).unwrap(), "TLS13_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
    }

    #[test]
    fn curves_are_found_by_any_name() {
        assert_eq!(curves("auto"), Ok(Vec::new()));
        for name in ["prime256v1", "secp256r1", "P-256"] {
            assert_eq!(curves_text(&curves(name).unwrap()), "secp256r1");
        }
        assert_eq!(curves_text(&curves("secp384r1:X25519").unwrap()), "secp384r1,X25519");
        for (wrong, why) in [("none", "without a curve"), ("secp521r1", "; expected \"X25519\", "), ("", "is empty")] {
            assert!(curves(wrong).unwrap_err().contains(why), "{wrong}");
        }
    }
}
