//! What is stored about a user's password, and what is shown to users about whom nothing is.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::md5::Md5Hash;
use super::scram::{self, ScramSecret, hmac};

/// Implements `fmt` of a `Debug` that prints a type's name and nothing of what is in it.
macro_rules! fmt_redacted {
    ($name:literal) => {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(concat!($name, "(..)"))
        }
    };
}
pub(super) use fmt_redacted;

/// A password in clear text, as bytes: PostgreSQL does not ask for any encoding.
#[derive(Clone)]
pub struct Password(Vec<u8>);

impl Password {
    /// Takes the bytes as they are.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, to send or to hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares in a time that depends on neither content nor on where the two differ. Digests are compared, so that
    /// the length of the stored one does not show either.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(other)).into()
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Password {}

impl fmt::Debug for Password {
    fmt_redacted!("Password");
}

/// A stored secret of a user, in any of PostgreSQL's and PgBouncer's forms.
///
/// See <https://www.postgresql.org/docs/current/catalog-pg-authid.html>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// An empty string: the user exists but has no password, so only `trust` lets him in.
    Absent,
    /// Clear text.
    Clear(Password),
    /// `md5` and 32 hexadecimal digits.
    Md5(Md5Hash),
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    Scram(ScramSecret),
}

/// Why a text is not a secret. Never holds any part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It starts like a SCRAM verifier but is not one.
    #[error("not a valid SCRAM secret: expected SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>")]
    MalformedScram,
    /// The iteration count is zero or above [`scram::MAX_ITERATIONS`].
    #[error("the SCRAM secret's iteration count must be between 1 and {}", scram::MAX_ITERATIONS)]
    Iterations,
    /// No message of the protocol can carry a NUL byte.
    #[error("a password cannot contain a NUL byte")]
    Nul,
}

impl Secret {
    /// Reads a secret as PostgreSQL tells the forms apart: what is neither an MD5 hash nor a SCRAM verifier is a
    /// password in clear text.
    ///
    /// # Errors
    /// Other than in PostgreSQL a text that begins with `SCRAM-SHA-256$` and is not a verifier is an error: it is a
    /// verifier cut short by copying, and as a password it could never match.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        if text.is_empty() {
            return Ok(Self::Absent);
        }
        if text.contains('\0') {
            return Err(SecretError::Nul);
        }
        if text.starts_with(scram::SECRET_PREFIX) {
            return ScramSecret::parse(text).map(Self::Scram);
        }
        Ok(Md5Hash::parse(text).map_or_else(|| Self::Clear(Password::new(text)), Self::Md5))
    }
}

impl Secret {
    /// How users who do not exist look like one who has this secret: see [`Mock::like`]. None if he has no password.
    ///
    /// `iterations`: of the verifiers that are made here.
    #[must_use]
    pub fn example(&self, iterations: u32) -> Option<Example> {
        match self {
            Self::Absent => None,
            Self::Clear(_) => Some(Example { kind: MockKind::Md5, iterations, derives: true }),
            Self::Md5(_) => Some(Example { kind: MockKind::Md5, iterations, derives: false }),
            Self::Scram(secret) => {
                Some(Example { kind: MockKind::Scram, iterations: secret.iterations(), derives: false })
            }
        }
    }
}

/// What a login of someone with a stored secret is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Example {
    /// What he is asked for.
    pub kind: MockKind,
    /// Iterations of his SCRAM verifier.
    pub iterations: u32,
    /// Whether that is made of a clear password at every login, which takes its time.
    pub derives: bool,
}

/// A [`Secret`] in use: remembers the SCRAM verifier derived from a clear password, which costs milliseconds.
///
/// Share one per user (`Arc`), and replace it when the secret changes.
#[derive(Debug)]
pub struct Credential {
    secret: Secret,
    iterations: u32,
    derived: OnceLock<ScramSecret>,
}

impl Credential {
    /// `iterations`: of the verifier that is made of a clear password; brought into the range of 1 to [`scram::MAX_ITERATIONS`].
    #[must_use]
    pub fn new(secret: Secret, iterations: u32) -> Self {
        Self { secret, iterations: iterations.clamp(1, scram::MAX_ITERATIONS), derived: OnceLock::new() }
    }

    /// Whether [`Self::new`] would make the same.
    #[must_use]
    pub fn is_of(&self, secret: &Secret, iterations: u32) -> bool {
        self.secret == *secret && self.iterations == iterations
    }

    /// What is stored.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The verifier for a SCRAM exchange; none if the secret can serve none (an MD5 hash, or no password).
    ///
    /// The first call for a clear password derives it (milliseconds); its salt is the one that `mock` would show for
    /// the same name, so that it does not change when a user comes into being. Calling this when the users are loaded
    /// keeps even the first login from taking measurably longer than one of an unknown user.
    pub fn scram(&self, user: &str, mock: &Mock) -> Option<&ScramSecret> {
        match &self.secret {
            Secret::Scram(secret) => Some(secret),
            Secret::Clear(password) => Some(
                self.derived
                    .get_or_init(|| ScramSecret::from_password(password.as_bytes(), &mock.salt(user), self.iterations)),
            ),
            Secret::Absent | Secret::Md5(_) => None,
        }
    }

    /// Whether the next call of [`Self::scram`] has to derive.
    #[must_use]
    pub fn scram_is_costly(&self) -> bool {
        matches!(self.secret, Secret::Clear(_)) && self.derived.get().is_none()
    }
}

/// The kind of secret that a user who does not exist is made out to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MockKind {
    /// Under `md5` he gets an MD5 challenge.
    Md5,
    /// Under `md5` he gets a SCRAM exchange, and under `plain` his password is derived before it is refused.
    Scram,
}

/// What users who do not exist (or have no usable secret) are shown: an exchange like everyone else's, that fails at
/// its end. The same name is always shown the same salt, as a stored one would be.
///
/// PostgreSQL does this for the same reason ("mock authentication" in auth-scram.c).
#[derive(Clone)]
pub struct Mock {
    key: [u8; 32],
    kind: MockKind,
    iterations: u32,
    derives: bool,
    /// Whether verifiers of users who exist are still being made.
    deriving: Arc<AtomicBool>,
}

impl fmt::Debug for Mock {
    fmt_redacted!("Mock");
}

impl Mock {
    /// `key`: random bytes, drawn once per process (or shared by a fleet, so that its members show the same salts).
    /// `kind` and `iterations` should be those of most real users: see [`super::userlist::Userlist::mock`].
    /// Iterations outside of 1 to [`scram::MAX_ITERATIONS`] are brought into that range.
    #[must_use]
    pub fn new(key: [u8; 32], kind: MockKind, iterations: u32) -> Self {
        Self {
            key,
            kind,
            iterations: iterations.clamp(1, scram::MAX_ITERATIONS),
            derives: false,
            deriving: Arc::default(),
        }
    }

    /// The same with another key, which another process has.
    #[must_use]
    pub fn keyed(&self, key: [u8; 32]) -> Self {
        Self { key, ..self.clone() }
    }

    /// The key, for another process.
    #[must_use]
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// From here on, until it is called with false, verifiers are being made, and whoever is in that case has to wait for his own: all
    /// others wait as long.
    pub fn set_deriving(&self, deriving: bool) {
        self.deriving.store(deriving, Ordering::Release);
    }

    /// The same for users of whom this secret is an example; without one, for a server as PostgreSQL is by default.
    #[must_use]
    pub fn like(&self, example: Option<Example>) -> Self {
        let usual = Example { kind: MockKind::Scram, iterations: scram::DEFAULT_ITERATIONS, derives: false };
        let Example { kind, iterations, derives } = example.unwrap_or(usual);
        Self { derives, deriving: Arc::clone(&self.deriving), ..Self::new(self.key, kind, iterations) }
    }

    /// Whether a SCRAM exchange of a user who exists begins by making his verifier.
    pub(super) fn derives(&self) -> bool {
        self.derives || self.deriving.load(Ordering::Acquire)
    }

    /// Takes as long as making a verifier does.
    pub(super) fn derive(&self, user: &str) {
        std::hint::black_box(ScramSecret::from_password(&self.key, &self.salt(user), self.iterations));
    }

    /// The kind of secret that an unknown user seems to have.
    #[must_use]
    pub fn kind(&self) -> MockKind {
        self.kind
    }

    /// The salt that is shown for a name.
    #[must_use]
    pub fn salt(&self, user: &str) -> [u8; scram::SALT_LEN] {
        let digest = hmac(&self.key, &[b"salt\0", user.as_bytes()]);
        std::array::from_fn(|i| digest.get(i).copied().unwrap_or_default())
    }

    /// A verifier that nothing matches. Only [`scram::ServerScram::mock`] and the plain check take it.
    pub(super) fn verifier(&self, user: &str) -> ScramSecret {
        ScramSecret::new(
            self.iterations,
            self.salt(user).to_vec(),
            hmac(&self.key, &[b"stored\0", user.as_bytes()]),
            hmac(&self.key, &[b"server\0", user.as_bytes()]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                            wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn forms_are_told_apart_as_postgresql_does() {
        assert_eq!(Secret::parse(""), Ok(Secret::Absent));
        assert!(matches!(Secret::parse("hello"), Ok(Secret::Clear(_))));
        assert!(matches!(Secret::parse("md545f2603610af569b6155c45067268c6b"), Ok(Secret::Md5(_))));
        assert!(matches!(Secret::parse(VERIFIER), Ok(Secret::Scram(_))));
        // Too short, and upper-case digits: clear text, as in PostgreSQL.
        assert!(matches!(Secret::parse("md545f26"), Ok(Secret::Clear(_))));
        assert!(matches!(Secret::parse("md545F2603610AF569B6155C45067268C6B"), Ok(Secret::Clear(_))));
        assert!(matches!(Secret::parse("SCRAM-SHA-256"), Ok(Secret::Clear(_))));
        assert_eq!(Secret::parse("SCRAM-SHA-256$4096:abc"), Err(SecretError::MalformedScram));
        assert_eq!(Secret::parse("a\0b"), Err(SecretError::Nul));
    }

    #[test]
    fn nothing_secret_is_printed() {
        for text in ["hunter2", "md545f2603610af569b6155c45067268c6b", VERIFIER] {
            let secret = Secret::parse(text).unwrap();
            let shown = format!("{secret:?} {:?}", Credential::new(secret.clone(), 4096));
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(!shown.contains("45f2"), "{shown}");
            assert!(!shown.contains("WG5d") && !shown.contains("wfPL"), "{shown}");
            // Nor as lists of numbers: a derived Debug of the bytes would print those.
            assert!(!shown.contains("104, 117, 110") && !shown.contains("88, 110, 93"), "{shown}");
        }
        assert_eq!(format!("{:?}", Mock::new([7; 32], MockKind::Scram, 4096)), "Mock(..)");
    }

    #[test]
    fn mock_salts_are_stable_per_name_and_differ_between_names_and_keys() {
        let mock = Mock::new([1; 32], MockKind::Scram, 4096);
        assert_eq!(mock.salt("ann"), mock.salt("ann"));
        assert_ne!(mock.salt("ann"), mock.salt("bob"));
        assert_ne!(mock.salt("ann"), Mock::new([2; 32], MockKind::Scram, 4096).salt("ann"));
    }

    #[test]
    fn a_derived_verifier_is_kept() {
        let mock = Mock::new([1; 32], MockKind::Scram, 7);
        let credential = Credential::new(Secret::parse("pencil").unwrap(), 3);
        assert!(credential.scram_is_costly());
        let first = credential.scram("ann", &mock).unwrap().clone();
        assert!(!credential.scram_is_costly());
        assert_eq!(credential.scram("ann", &mock), Some(&first));
        assert_eq!((first.salt(), first.iterations()), (&mock.salt("ann")[..], 3));
        assert!(first.verify_password(b"pencil"));
        let md5 = Credential::new(Secret::parse("md545f2603610af569b6155c45067268c6b").unwrap(), 3);
        assert_eq!(md5.scram("ann", &mock), None);
        assert!(!md5.scram_is_costly());
    }

    #[test]
    fn passwords_compare_whole() {
        let password = Password::new("secret");
        assert!(password.matches(b"secret"));
        for other in [&b"secre"[..], b"secret ", b"Secret", b""] {
            assert!(!password.matches(other));
        }
    }
}
