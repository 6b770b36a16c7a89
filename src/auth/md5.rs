//! MD5 password hashes and the MD5 challenge.
//!
//! Stored: `md5` + hex(md5(password + user)). Sent: `md5` + hex(md5(stored hex digits + salt)).
//! See <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP> (AuthenticationMD5Password).

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::secret::fmt_redacted;

/// What every stored hash and every response begins with.
const PREFIX: &[u8; 3] = b"md5";

/// A stored MD5 hash: its 32 lower-case hexadecimal digits, without the `md5` before them.
#[derive(Clone)]
pub struct Md5Hash([u8; 32]);

impl fmt::Debug for Md5Hash {
    fmt_redacted!("Md5Hash");
}

impl PartialEq for Md5Hash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Md5Hash {}

impl Md5Hash {
    /// Reads `md5` + 32 lower-case hexadecimal digits; anything else is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = <[u8; 32]>::try_from(text.as_bytes().strip_prefix(PREFIX)?).ok()?;
        digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(digits))
    }

    /// The hash that PostgreSQL stores for a password; the user's name is its salt.
    #[must_use]
    pub fn of(password: &[u8], user: &str) -> Self {
        Self(hex(&[password, user.as_bytes()]))
    }

    /// The response to a challenge: `md5` + 32 digits, without the NUL that ends it in the message.
    #[must_use]
    pub fn response(&self, salt: [u8; 4]) -> Vec<u8> {
        let mut response = PREFIX.to_vec();
        response.extend_from_slice(&hex(&[&self.0, &salt]));
        response
    }

    /// Whether `response` answers the challenge, compared in constant time.
    #[must_use]
    pub fn verify(&self, salt: [u8; 4], response: &[u8]) -> bool {
        self.response(salt).ct_eq(response).into()
    }

    /// Whether this is the hash of a password, compared in constant time.
    #[must_use]
    pub fn verify_password(&self, password: &[u8], user: &str) -> bool {
        *self == Self::of(password, user)
    }
}

/// The hexadecimal MD5 digest of the parts' concatenation.
fn hex(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) };
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(digest) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of PgBouncer's documentation: user `admin`, password `1234`.
    #[test]
    fn known_hash() {
        let stored = Md5Hash::parse("md545f2603610af569b6155c45067268c6b").unwrap();
        assert_eq!(stored, Md5Hash::of(b"1234", "admin"));
        assert!(stored.verify_password(b"1234", "admin"));
        assert!(!stored.verify_password(b"1234", "root"));
        assert!(!stored.verify_password(b"12345", "admin"));
    }

    /// Computed as `md5(45f26... || 0x01020304)` by an independent tool.
    #[test]
    fn known_response() {
        let stored = Md5Hash::parse("md545f2603610af569b6155c45067268c6b").unwrap();
        assert_eq!(stored.response([1, 2, 3, 4]), b"md53db460fcab3fd3a6df7db145a8d8253b");
    }

    #[test]
    fn only_the_stored_form_is_parsed() {
        assert!(Md5Hash::parse("md545f2603610af569b6155c45067268c6").is_none());
        assert!(Md5Hash::parse("md545f2603610af569b6155c45067268c6bb").is_none());
        assert!(Md5Hash::parse("MD545f2603610af569b6155c45067268c6b").is_none());
        assert!(Md5Hash::parse("md545F2603610AF569B6155C45067268C6B").is_none());
    }

    proptest! {
        #[test]
        fn a_response_fits_its_challenge_alone(
            password in any::<Vec<u8>>(), user in "[a-z]{1,8}", salt in any::<[u8; 4]>(), at in 0..35usize, flip in 1..=255u8,
        ) {
            let hash = Md5Hash::of(&password, &user);
            let mut response = hash.response(salt);
            prop_assert!(hash.verify(salt, &response));
            prop_assert!(!hash.verify(salt, &response[..34]));
            prop_assert!(!hash.verify([salt[0] ^ flip, salt[1], salt[2], salt[3]], &response));
            response[at] ^= flip;
            prop_assert!(!hash.verify(salt, &response));
        }
    }
}
