//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it, both sides, with channel binding where there is TLS.
//!
//! ```text
//!   client (ClientScram)                              server (ServerScram)
//!   first()          -- n,,n=,r=C ------------------>  client_first()
//!   server_first()  <------- r=CS,s=salt,i=count --
//!                    -- c=biws,r=CS,p=proof -------->  client_final()
//!   server_final()  <------------- v=signature ----
//! ```
//!
//! `n,,` says that the client does not bind, `c=biws` repeats it. With SCRAM-SHA-256-PLUS it is `p=tls-server-end-point,,`, and `c=` has
//! the hash of the server's certificate behind that: who sits between with another certificate cannot pass the proof on.
//!
//! Each step consumes its state, so none can be repeated or skipped.
//! See <https://www.postgresql.org/docs/current/sasl-authentication.html>.

mod attributes;
mod client;
mod server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use stringprep::saslprep;
use subtle::ConstantTimeEq;

pub use client::{ClientScram, ClientScramFirst, ClientScramSecond, ClientSecret};
pub use server::{ServerProof, ServerScram, ServerScramSecond};

use super::secret::{SecretError, fmt_redacted};
use crate::error::{Error, SqlState};

/// The mechanism's name in the SASL messages.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// The mechanism with channel binding.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The gs2 header of a client that binds to the server's certificate: the only type that PostgreSQL knows.
const END_POINT_HEADER: &[u8] = b"p=tls-server-end-point,,";

/// What a side can do about channel binding. The bytes are `tls-server-end-point`: the server's certificate, hashed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Binding {
    /// Nothing: there is no TLS, or the certificate has no hash.
    #[default]
    Unavailable,
    /// It could be done, but the mechanism without it was chosen.
    Unused,
    /// It is done.
    EndPoint(Arc<[u8]>),
}

/// The `c=` value of a client that binds to `end_point`.
fn bound(end_point: &[u8]) -> Vec<u8> {
    BASE64.encode([END_POINT_HEADER, end_point].concat()).into_bytes()
}

/// What every stored verifier begins with.
pub(super) const SECRET_PREFIX: &str = "SCRAM-SHA-256$";

/// PostgreSQL's iteration count (`scram_iterations`).
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// The largest iteration count that is worked on: 2^24.
///
/// The peer chooses the count and we do the work, so there must be an end to it. PostgreSQL itself allows up to 2^31 - 1,
/// minutes of work. 2^24 is 4096 times its default and 28 times what OWASP asks of PBKDF2-SHA-256, so no real server is
/// refused, and a hostile one costs a blocking thread some seconds per login attempt, not minutes.
pub const MAX_ITERATIONS: u32 = 1 << 24;

/// Length of the salts made here, in bytes; PostgreSQL's.
pub const SALT_LEN: usize = 16;

/// Random bytes of a nonce before base64; PostgreSQL's `SCRAM_RAW_NONCE_LEN`.
pub const RAW_NONCE_LEN: usize = 18;

/// Longest message taken from a peer, in bytes. Real ones have under 200; a user's name may be in the first.
pub const MAX_MESSAGE: usize = 4096;

/// A nonce as it is sent, made of random bytes.
#[must_use]
pub fn nonce(random: &[u8; RAW_NONCE_LEN]) -> String {
    BASE64.encode(random)
}

/// A key, hash or proof of 32 bytes; compared in constant time and never printed.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fmt_redacted!("Key");
}

impl Key {
    fn from_base64(text: impl AsRef<[u8]>) -> Option<Self> {
        BASE64.decode(text).ok()?.try_into().ok().map(Self)
    }

    fn to_base64(&self) -> String {
        BASE64.encode(self.0)
    }

    fn hmac(&self, message: &[u8]) -> Self {
        Self(hmac(&self.0, &[message]))
    }

    fn sha256(&self) -> Self {
        Self(Sha256::digest(self.0).into())
    }

    fn xor(&self, other: &Self) -> Self {
        let mut bytes = self.0;
        bytes.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
        Self(bytes)
    }
}

/// HMAC-SHA-256 ready for use under a key. RFC 2104: a longer key than a block is hashed, a shorter one filled with zeros.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    let digest;
    let short = if key.len() > block.len() {
        digest = Sha256::digest(key);
        digest.as_slice()
    } else {
        key
    };
    block.iter_mut().zip(short).for_each(|(to, from)| *to = *from);
    <Hmac<Sha256> as hmac::digest::KeyInit>::new(&block.into())
}

/// HMAC-SHA-256 of the parts' concatenation.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// RFC 5802's SaltedPassword: PBKDF2 of the SASLprepped password. This is the one costly computation of SCRAM: two
/// SHA-256 blocks per iteration, about a millisecond for PostgreSQL's count.
///
/// A password that SASLprep refuses, or that is not UTF-8, or of which nothing is left is used as it is:
/// PostgreSQL's rule (`pg_saslprep` and its callers).
#[must_use]
pub fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let prepared = std::str::from_utf8(password)
        .ok()
        .and_then(|text| saslprep(text).ok())
        .filter(|text| !text.is_empty())
        .map_or_else(|| password.to_vec(), |text| text.as_bytes().to_vec());
    let mac = keyed(&prepared);
    let round = |input: &[u8], more: &[u8]| -> [u8; 32] {
        let mut mac = mac.clone();
        mac.update(input);
        mac.update(more);
        mac.finalize().into_bytes().into()
    };
    let mut last = round(salt, &1u32.to_be_bytes());
    let mut sum = last;
    for _ in 1..iterations {
        last = round(&last, &[]);
        sum.iter_mut().zip(last).for_each(|(byte, other)| *byte ^= other);
    }
    Key(sum)
}

/// What a party that knows the password holds: enough to log in elsewhere as the user, wherever the stored verifier was
/// made with the same salt and count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramKeys {
    client_key: Key,
    server_key: Key,
    salt: Vec<u8>,
    iterations: u32,
}

impl ScramKeys {
    /// Derives the keys from a password (milliseconds).
    #[must_use]
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password, salt, iterations);
        let (client_key, server_key) = (salted.hmac(b"Client Key"), salted.hmac(b"Server Key"));
        Self { client_key, server_key, salt: salt.to_vec(), iterations }
    }

    /// Whether they were derived with this salt and count, so that they are the keys of such a verifier.
    #[must_use]
    pub fn fit(&self, salt: &[u8], iterations: u32) -> bool {
        self.salt == salt && self.iterations == iterations
    }
}

/// A stored verifier: lets one check a user's proof, but not log in as him.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramSecret {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl ScramSecret {
    pub(super) fn new(iterations: u32, salt: Vec<u8>, stored_key: [u8; 32], server_key: [u8; 32]) -> Self {
        Self { iterations, salt, stored_key: Key(stored_key), server_key: Key(server_key) }
    }

    /// Makes the verifier that PostgreSQL would store (milliseconds).
    #[must_use]
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let ScramKeys { client_key, server_key, salt, iterations } = ScramKeys::derive(password, salt, iterations);
        Self { iterations, salt, stored_key: client_key.sha256(), server_key }
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (RFC 5803 as PostgreSQL has it).
    ///
    /// # Errors
    /// If the text has another form, or an iteration count of zero or above [`MAX_ITERATIONS`].
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let parts = || {
            let (count_and_salt, keys) = text.strip_prefix(SECRET_PREFIX)?.split_once('$')?;
            let (count, salt) = count_and_salt.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
            let salt = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?;
            digits.then_some((count, salt, Key::from_base64(stored_key)?, Key::from_base64(server_key)?))
        };
        let (count, salt, stored_key, server_key) = parts().ok_or(SecretError::MalformedScram)?;
        let iterations =
            count.parse().ok().filter(|count| (1..=MAX_ITERATIONS).contains(count)).ok_or(SecretError::Iterations)?;
        Ok(Self { iterations, salt, stored_key, server_key })
    }

    /// The text form, as [`Self::parse`] reads it. It is a secret.
    #[must_use]
    pub fn to_secret_string(&self) -> String {
        let (salt, stored, server) =
            (BASE64.encode(&self.salt), self.stored_key.to_base64(), self.server_key.to_base64());
        format!("{SECRET_PREFIX}{}:{salt}${stored}:{server}", self.iterations)
    }

    /// The salt.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The iteration count.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Whether this is the verifier of a password (milliseconds); the keys, if it is.
    #[must_use]
    pub fn keys_of_password(&self, password: &[u8]) -> Option<ScramKeys> {
        let keys = ScramKeys::derive(password, &self.salt, self.iterations);
        (keys.client_key.sha256() == self.stored_key).then_some(keys)
    }

    /// Whether this is the verifier of a password (milliseconds).
    #[must_use]
    pub fn verify_password(&self, password: &[u8]) -> bool {
        self.keys_of_password(password).is_some()
    }
}

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message has not the form that RFC 5802 gives it; says what is wrong.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// A well-formed message asks for something that is not done here.
    #[error("unsupported SCRAM feature: {0}")]
    Unsupported(&'static str),
    /// The client's last message repeats another channel binding than its first announced, or is bound to another certificate.
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
    /// The client could bind and believes that we cannot, though it was offered: someone may have removed the offer.
    #[error("SCRAM channel binding negotiation error")]
    Downgraded,
    /// The peer's nonce is not the one agreed, or does not extend ours.
    #[error("the SCRAM nonce does not match")]
    Nonce,
    /// The client's proof does not fit: a wrong password, or no such user.
    #[error("the SCRAM proof does not match")]
    WrongProof,
    /// The server asks for no iterations, or for more than [`MAX_ITERATIONS`].
    #[error("the server's SCRAM iteration count is not between 1 and {MAX_ITERATIONS}")]
    Iterations,
    /// Keys are known, but the server's verifier was made with another salt or count.
    #[error("the known SCRAM keys were made with another salt or iteration count than the server's verifier")]
    OtherVerifier,
    /// The server does not know the user's keys: it may be an impostor.
    #[error("the server's SCRAM signature is wrong")]
    WrongSignature,
    /// The server ended the exchange with an error attribute.
    #[error("the server refused the SCRAM exchange")]
    Refused,
}

impl ScramError {
    /// The error for a client that logs in as `user`. All ways to have the wrong password look alike.
    #[must_use]
    pub fn of_client(&self, user: &str) -> Error {
        match self {
            Self::Malformed(what) => {
                Error::client_fatal(SqlState::PROTOCOL_VIOLATION, "malformed SCRAM message").detail(sentence(what))
            }
            Self::Unsupported(what) => {
                Error::client_fatal(SqlState::FEATURE_NOT_SUPPORTED, "unsupported SCRAM feature").detail(sentence(what))
            }
            Self::ChannelBinding => {
                Error::client_fatal(SqlState::INVALID_AUTHORIZATION, "SCRAM channel binding check failed")
            }
            Self::Downgraded => Error::client_fatal(
                SqlState::INVALID_AUTHORIZATION,
                "SCRAM channel binding negotiation error",
            )
            .detail(
                "The client supports SCRAM channel binding but thinks the server does not. However, this server does \
                     support channel binding.",
            ),
            Self::Nonce => Error::client_fatal(SqlState::PROTOCOL_VIOLATION, "invalid SCRAM response")
                .detail("The nonce does not match."),
            Self::WrongProof | Self::Iterations | Self::OtherVerifier | Self::WrongSignature | Self::Refused => {
                super::login::wrong_password(user)
            }
        }
    }

    /// The error for a login of ours to a server as `user`.
    #[must_use]
    pub fn of_server(&self, user: &str) -> Error {
        let message = format!("could not log in to the server as user \"{user}\": {self}");
        match self {
            Self::OtherVerifier => Error::us_fatal(SqlState::CANNOT_CONNECT, message).hint(
                "Give the auth file the very verifier that the server stores (pg_authid.rolpassword), or the password in \
                 clear text.",
            ),
            Self::WrongSignature => Error::server_fatal(SqlState::CANNOT_CONNECT, message)
                .detail("The server could not prove that it knows the user's password."),
            Self::Malformed(_)
            | Self::Unsupported(_)
            | Self::ChannelBinding
            | Self::Downgraded
            | Self::Nonce
            | Self::WrongProof
            | Self::Iterations
            | Self::Refused => Error::server_fatal(SqlState::CANNOT_CONNECT, message),
        }
    }
}

/// A phrase as a sentence: PostgreSQL's style for details.
fn sentence(phrase: &str) -> String {
    let mut chars = phrase.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}
