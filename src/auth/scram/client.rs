//! The client's side: we prove to a server that we know a user's password, and it proves to us that it does.

use std::fmt;

use base64::Engine;

use super::attributes::{Attributes, check, nonce};
use super::{BASE64, Binding, END_POINT_HEADER, Key, MAX_ITERATIONS, ScramError, ScramKeys, bound};
use crate::auth::secret::{Password, fmt_redacted};

/// What we know of the user.
#[derive(Debug, Clone)]
pub enum ClientSecret {
    /// His password. The keys are derived for whatever salt the server shows.
    Password(Password),
    /// His keys, from his own login to us or from an earlier login of ours.
    Keys(ScramKeys),
    /// Both: the keys save the derivation as long as they fit.
    PasswordAndKeys(Password, ScramKeys),
}

/// Has said nothing yet.
pub struct ClientScram {
    secret: ClientSecret,
    client_nonce: String,
    binding: Binding,
}

/// Waits for the server-first-message.
pub struct ClientScramFirst {
    pub(super) secret: ClientSecret,
    pub(super) client_nonce: String,
    /// client-first-message-bare.
    pub(super) bare: String,
    /// The `c=` value that will follow.
    pub(super) channel_binding: Vec<u8>,
}

/// Waits for the server-final-message.
pub struct ClientScramSecond {
    keys: ScramKeys,
    auth_message: Vec<u8>,
}

impl fmt::Debug for ClientScram {
    fmt_redacted!("ClientScram");
}

impl fmt::Debug for ClientScramFirst {
    fmt_redacted!("ClientScramFirst");
}

impl fmt::Debug for ClientScramSecond {
    fmt_redacted!("ClientScramSecond");
}

impl ClientScram {
    /// `client_nonce` must be fresh, printable and without commas: [`super::nonce`].
    #[must_use]
    pub fn new(secret: ClientSecret, client_nonce: &str) -> Self {
        Self { secret, client_nonce: client_nonce.to_owned(), binding: Binding::Unavailable }
    }

    /// The exchange binds to a channel, or could.
    #[must_use]
    pub fn bind(self, binding: Binding) -> Self {
        Self { binding, ..self }
    }

    /// The client-first-message. The user's name stays empty, as libpq leaves it: the server goes by the startup message.
    #[must_use]
    pub fn first(self) -> (ClientScramFirst, Vec<u8>) {
        let bare = format!("n=,r={}", self.client_nonce);
        let (header, channel_binding) = match &self.binding {
            Binding::Unavailable => (&b"n,,"[..], b"biws".to_vec()),
            // We could bind and the server does not offer it. One that does then knows that its offer was removed on the way.
            Binding::Unused => (&b"y,,"[..], b"eSws".to_vec()),
            Binding::EndPoint(end_point) => (END_POINT_HEADER, bound(end_point)),
        };
        let message = [header, bare.as_bytes()].concat();
        (ClientScramFirst { secret: self.secret, client_nonce: self.client_nonce, bare, channel_binding }, message)
    }
}

impl ClientScramFirst {
    /// Whether [`Self::server_first`] may derive keys (milliseconds). Keys that do not fit the server's salt show only then, and cost the
    /// same if there is a password beside them.
    #[must_use]
    pub fn is_costly(&self) -> bool {
        match self.secret {
            ClientSecret::Password(_) | ClientSecret::PasswordAndKeys(..) => true,
            ClientSecret::Keys(_) => false,
        }
    }

    /// Takes the server-first-message and makes the client-final-message.
    ///
    /// # Errors
    /// If the message is malformed, its nonce does not extend ours, its iteration count is out of bounds, or keys are all
    /// we have and they do not fit.
    pub fn server_first(self, message: &[u8]) -> Result<(ClientScramSecond, Vec<u8>), ScramError> {
        check(message)?;
        let mut attributes = Attributes::new(message);
        let nonce = nonce(attributes.expect(b'r')?)?;
        let salt = BASE64
            .decode(attributes.expect(b's')?)
            .ok()
            .filter(|salt| !salt.is_empty())
            .ok_or(ScramError::Malformed("the salt is not base64"))?;
        let iterations = iterations(attributes.expect(b'i')?)?;
        attributes.end()?;
        // A server that adds nothing of its own could be replaying an older exchange.
        match nonce.strip_prefix(self.client_nonce.as_bytes()) {
            Some([_, ..]) => {}
            Some([]) | None => return Err(ScramError::Nonce),
        }

        let keys = keys(self.secret, &salt, iterations)?;
        let mut reply = [b"c=", self.channel_binding.as_slice(), b",r=", nonce].concat();
        let auth_message = [self.bare.as_bytes(), b",", message, b",", &reply].concat();
        let proof = keys.client_key.xor(&keys.client_key.sha256().hmac(&auth_message));
        reply.extend_from_slice(b",p=");
        reply.extend_from_slice(proof.to_base64().as_bytes());
        Ok((ClientScramSecond { keys, auth_message }, reply))
    }
}

/// Reads an iteration count; only digits, no sign, no leading zero.
fn iterations(value: &[u8]) -> Result<u32, ScramError> {
    let malformed = ScramError::Malformed("the iteration count is not a number");
    match value {
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {}
        [b'0'] => return Err(ScramError::Iterations),
        _ => return Err(malformed),
    }
    let count = std::str::from_utf8(value).map_err(|_| malformed)?.parse::<u32>();
    count.ok().filter(|count| *count <= MAX_ITERATIONS).ok_or(ScramError::Iterations)
}

/// The keys for a salt and count: those known if they fit, else derived from the password.
fn keys(secret: ClientSecret, salt: &[u8], iterations: u32) -> Result<ScramKeys, ScramError> {
    match secret {
        ClientSecret::Keys(keys) | ClientSecret::PasswordAndKeys(_, keys) if keys.fit(salt, iterations) => Ok(keys),
        ClientSecret::Password(password) | ClientSecret::PasswordAndKeys(password, _) => {
            Ok(ScramKeys::derive(password.as_bytes(), salt, iterations))
        }
        ClientSecret::Keys(_) => Err(ScramError::OtherVerifier),
    }
}

impl ClientScramSecond {
    /// Takes the server-final-message and checks the server's signature. The keys may be kept for the next login.
    ///
    /// # Errors
    /// [`ScramError::WrongSignature`] if the server does not know the user's keys: it must not be trusted.
    pub fn server_final(self, message: &[u8]) -> Result<ScramKeys, ScramError> {
        check(message)?;
        let mut attributes = Attributes::new(message);
        let signature = match attributes.next()? {
            Some((b'v', signature)) => Key::from_base64(signature)
                .ok_or(ScramError::Malformed("the server's signature is not 32 bytes in base64"))?,
            Some((b'e', _)) => return Err(ScramError::Refused),
            Some(_) | None => return Err(ScramError::Malformed("an unexpected attribute was found")),
        };
        attributes.end()?;
        if signature != self.keys.server_key.hmac(&self.auth_message) {
            return Err(ScramError::WrongSignature);
        }
        Ok(self.keys)
    }
}
