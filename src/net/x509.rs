//! The few facts of a certificate that rustls does not tell: names, dates, and the hash that SCRAM binds to.
//!
//! Pure: bytes in, facts out. It checks no signature; whether a certificate is to be believed is `tls`'s business.
//! The structure is that of RFC 5280, section 4.1.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// What is read of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The first common name of the subject.
    pub common_name: Option<String>,
    /// Whether the certificate names hosts or addresses as alternative names: then the common name says nothing about hosts.
    pub has_alt_names: bool,
    /// From when it is valid, in seconds since the Unix epoch.
    pub not_before: i64,
    /// Until when, that second included.
    pub not_after: i64,
}

/// Reads a certificate in DER; none if it is not one.
#[must_use]
pub fn facts(certificate: &[u8]) -> Option<Facts> {
    let mut tbs = Der(Der(Der(certificate).expect(SEQUENCE)?).expect(SEQUENCE)?);
    // The version is left out of version 1.
    if tbs.0.first() == Some(&0xa0) {
        tbs.next()?;
    }
    let (_serial, _algorithm, _issuer) = (tbs.next()?, tbs.expect(SEQUENCE)?, tbs.expect(SEQUENCE)?);
    let mut validity = Der(tbs.expect(SEQUENCE)?);
    let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
    let common_name = common_name(tbs.expect(SEQUENCE)?);
    let _public_key = tbs.expect(SEQUENCE)?;
    let mut has_alt_names = false;
    while let Some((tag, body)) = tbs.next() {
        if tag == 0xa3 {
            has_alt_names = alt_names(body)?;
        }
    }
    Some(Facts { common_name, has_alt_names, not_before, not_after })
}

/// Its version: 3 for nearly all that is in use today. None if it is no certificate.
#[must_use]
pub fn version(certificate: &[u8]) -> Option<u8> {
    let mut tbs = Der(Der(Der(certificate).expect(SEQUENCE)?).expect(SEQUENCE)?);
    match tbs.next()? {
        (0xa0, version) => match Der(version).expect(INTEGER)? {
            [number] => number.checked_add(1),
            _ => None,
        },
        // It is left out of version 1.
        _ => Some(1),
    }
}

/// The channel binding `tls-server-end-point` (RFC 5929, section 4.1): the certificate's hash by the function that its signature
/// uses, SHA-256 in place of MD5 and SHA-1. None for signatures without one such function (Ed25519), as in PostgreSQL.
#[must_use]
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let mut parts = Der(Der(certificate).expect(SEQUENCE)?);
    let _tbs = parts.expect(SEQUENCE)?;
    let mut algorithm = Der(parts.expect(SEQUENCE)?);
    let oid = algorithm.expect(OID)?;
    Some(match hash_of(oid, algorithm)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// 1.2.840.113549.1.1: PKCS #1.
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4: ECDSA.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
/// 2.16.840.1.101.3.4.2: the SHA-2 functions.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// The hash function of a signature algorithm; `parameters` is what follows its identifier.
fn hash_of(oid: &[u8], parameters: Der<'_>) -> Option<Hash> {
    if let Some(rest) = oid.strip_prefix(PKCS1) {
        return match rest {
            [4 | 5 | 11] => Some(Hash::Sha256),
            [12] => Some(Hash::Sha384),
            [13] => Some(Hash::Sha512),
            [14] => Some(Hash::Sha224),
            [10] => pss_hash(parameters),
            _ => None,
        };
    }
    match oid.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(Hash::Sha256),
        [3, 1] => Some(Hash::Sha224),
        [3, 3] => Some(Hash::Sha384),
        [3, 4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// RSASSA-PSS says in its parameters which function it uses; SHA-1 if it does not.
fn pss_hash(mut parameters: Der<'_>) -> Option<Hash> {
    let mut fields = Der(parameters.expect(SEQUENCE)?);
    let Some((0xa0, hash)) = fields.next() else { return Some(Hash::Sha256) };
    let oid = Der(Der(hash).expect(SEQUENCE)?).expect(OID)?;
    match oid.strip_prefix(SHA2) {
        Some([1]) | None => Some(Hash::Sha256),
        Some([2]) => Some(Hash::Sha384),
        Some([3]) => Some(Hash::Sha512),
        Some([4]) => Some(Hash::Sha224),
        Some(_) => None,
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const INTEGER: u8 = 0x02;

/// A run of DER elements.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag and its content. None at the end and where it is cut off.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&short, rest) = rest.split_first()?;
        let (len, rest) = match short {
            0..=0x7f => (usize::from(short), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
                (digits.iter().fold(0, |len: usize, digit| len << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

/// The first common name in a Name: a sequence of sets of (type, value).
fn common_name(subject: &[u8]) -> Option<String> {
    let mut sets = Der(subject);
    while let Some(set) = sets.expect(SET) {
        let mut pairs = Der(set);
        while let Some(pair) = pairs.expect(SEQUENCE) {
            let mut pair = Der(pair);
            // 2.5.4.3
            if pair.expect(OID) == Some(&[0x55, 0x04, 0x03]) {
                let (tag, text) = pair.next()?;
                // UTF8String, PrintableString, IA5String. A NUL would end the name for others, but not for us.
                let text = matches!(tag, 0x0c | 0x13 | 0x16).then(|| std::str::from_utf8(text).ok())??;
                return (!text.contains('\0')).then(|| text.to_owned());
            }
        }
    }
    None
}

/// Whether the extensions hold an alternative name that is a host (tag 2) or an address (tag 7).
fn alt_names(extensions: &[u8]) -> Option<bool> {
    let mut extensions = Der(Der(extensions).expect(SEQUENCE)?);
    while let Some(extension) = extensions.expect(SEQUENCE) {
        let mut parts = Der(extension);
        // 2.5.29.17
        if parts.expect(OID)? != [0x55, 0x1d, 0x11] {
            continue;
        }
        // `critical` may stand before the value.
        let value = loop {
            match parts.next()? {
                (OCTETS, value) => break value,
                _ => continue,
            }
        };
        let mut names = Der(Der(value).expect(SEQUENCE)?);
        while let Some((tag, _)) = names.next() {
            if matches!(tag, 0x82 | 0x87) {
                return Some(true);
            }
        }
    }
    Some(false)
}

/// UTCTime `YYMMDDhhmmssZ` (years 1950 to 2049) or GeneralizedTime `YYYYMMDDhhmmssZ`, in seconds since the Unix epoch.
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (0x17, 12) => {
            let year: i64 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        (0x18, 14) => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days since 1970-01-01 in the Gregorian calendar; the year begins in March, so that the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SignatureAlgorithm};

    use super::*;

    fn certificate(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "some house");
        params.distinguished_name.push(DnType::CommonName, "db.example.com");
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(2050, 3, 1);
        params.self_signed(&KeyPair::generate_for(algorithm).unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn facts_are_read() {
        let plain = facts(&certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &[])).unwrap();
        assert_eq!(plain.common_name.as_deref(), Some("db.example.com"));
        assert!(!plain.has_alt_names);
        // By `date -u +%s`.
        assert_eq!((plain.not_before, plain.not_after), (946_598_400, 2_529_705_600));
        assert_eq!(version(&certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &[])), Some(3));
        assert!(facts(&certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["other"])).unwrap().has_alt_names);
        assert!(facts(&certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["10.0.0.1"])).unwrap().has_alt_names);
    }

    #[test]
    fn the_end_point_is_hashed_as_its_signature_is() {
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &[]);
        assert_eq!(end_point(&der), Some(Sha256::digest(&der).to_vec()));
        let der = certificate(&rcgen::PKCS_ECDSA_P384_SHA384, &[]);
        assert_eq!(end_point(&der), Some(Sha384::digest(&der).to_vec()));
        assert_eq!(end_point(&certificate(&rcgen::PKCS_ED25519, &[])), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(at in 0_usize..300, byte in any::<u8>(), cut in 0_usize..300) {
            static DER: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["a"]));
            let mut der = DER.clone();
            der.truncate(der.len().saturating_sub(cut));
            if let Some(b) = der.get_mut(at) {
                *b = byte;
            }
            drop((facts(&der), end_point(&der), version(&der)));
        }
    }
}
