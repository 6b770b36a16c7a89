//! The server's side: a client proves to us that it knows its password.

use std::fmt;

use super::attributes::{Attributes, check, nonce};
use super::{BASE64, Binding, Key, ScramError, ScramKeys, ScramSecret, bound};
use crate::auth::secret::{Mock, fmt_redacted};
use base64::Engine;

/// Whether the exchange can succeed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The verifier is a user's.
    Genuine,
    /// There is no such user, or nothing to check against: it fails at its end whatever the proof.
    Mock,
}

/// Waits for the client-first-message.
pub struct ServerScram {
    pub(super) secret: ScramSecret,
    pub(super) standing: Standing,
    pub(super) server_nonce: String,
    pub(super) binding: Binding,
}

/// Waits for the client-final-message.
pub struct ServerScramSecond {
    secret: ScramSecret,
    standing: Standing,
    /// The `c=` value that the client must send: its gs2 header, and what it binds to, in base64.
    channel_binding: Vec<u8>,
    /// Client's and server's nonce, joined.
    nonce: Vec<u8>,
    /// `client-first-message-bare,server-first-message,`: the begin of the AuthMessage.
    auth_message: Vec<u8>,
}

/// A client's proof was right.
#[derive(Debug)]
pub struct ServerProof {
    /// The server-final-message to send.
    pub message: Vec<u8>,
    /// The keys that the proof revealed: they let us log in to servers that store the same verifier.
    pub keys: ScramKeys,
}

impl fmt::Debug for ServerScram {
    fmt_redacted!("ServerScram");
}

impl fmt::Debug for ServerScramSecond {
    fmt_redacted!("ServerScramSecond");
}

impl ServerScram {
    /// An exchange for a user with a verifier. `server_nonce` must be fresh, printable and without commas: [`super::nonce`].
    #[must_use]
    pub fn new(secret: &ScramSecret, server_nonce: &str) -> Self {
        let binding = Binding::Unavailable;
        Self { secret: secret.clone(), standing: Standing::Genuine, server_nonce: server_nonce.to_owned(), binding }
    }

    /// The same exchange for a user without one. It looks like any other and always ends in [`ScramError::WrongProof`].
    #[must_use]
    pub fn mock(mock: &Mock, user: &str, server_nonce: &str) -> Self {
        let binding = Binding::Unavailable;
        Self { secret: mock.verifier(user), standing: Standing::Mock, server_nonce: server_nonce.to_owned(), binding }
    }

    /// The exchange binds to a channel, or could.
    #[must_use]
    pub fn bind(self, binding: Binding) -> Self {
        Self { binding, ..self }
    }

    /// Takes the client-first-message and makes the server-first-message.
    ///
    /// The user's name in it is ignored, as in PostgreSQL: the one of the startup message counts.
    ///
    /// # Errors
    /// If the message is malformed, says of channel binding what does not fit the mechanism, or names an authorization identity.
    pub fn client_first(self, message: &[u8]) -> Result<(ServerScramSecond, Vec<u8>), ScramError> {
        check(message)?;
        let (channel_binding, bare) = gs2_header(message, &self.binding)?;
        let mut attributes = Attributes::new(bare);
        attributes.expect(b'n')?;
        let client_nonce = nonce(attributes.expect(b'r')?)?;
        // Extensions may follow; those that are not mandatory are ignored.
        while attributes.next()?.is_some() {}

        let nonce = [client_nonce, self.server_nonce.as_bytes()].concat();
        let mut reply = b"r=".to_vec();
        reply.extend_from_slice(&nonce);
        reply.extend_from_slice(
            format!(",s={},i={}", BASE64.encode(&self.secret.salt), self.secret.iterations).as_bytes(),
        );
        let auth_message = [bare, b",", &reply, b","].concat();
        let next =
            ServerScramSecond { secret: self.secret, standing: self.standing, channel_binding, nonce, auth_message };
        Ok((next, reply))
    }
}

/// Splits the gs2 header from a client-first-message. Gives what the client must send as `c=`, and the bare message.
fn gs2_header<'m>(message: &'m [u8], binding: &Binding) -> Result<(Vec<u8>, &'m [u8]), ScramError> {
    let (channel_binding, rest) = match (message, binding) {
        ([b'n' | b'y', b',', ..], Binding::EndPoint(_)) => {
            return Err(ScramError::Malformed("channel binding was chosen, but the message does not bind"));
        }
        ([b'n', b',', rest @ ..], _) => (b"biws".to_vec(), rest),
        // The client could bind but believes that we cannot.
        ([b'y', b',', ..], Binding::Unused) => return Err(ScramError::Downgraded),
        ([b'y', b',', rest @ ..], _) => (b"eSws".to_vec(), rest),
        ([b'p', b'=', rest @ ..], Binding::EndPoint(end_point)) => {
            let rest = rest
                .strip_prefix(b"tls-server-end-point,")
                .ok_or(ScramError::Unsupported("the channel-binding type is not tls-server-end-point"))?;
            (bound(end_point), rest)
        }
        ([b'p', b'=', ..], _) => {
            return Err(ScramError::Malformed("channel binding was asked for, but not offered"));
        }
        _ => return Err(ScramError::Malformed("an unexpected channel-binding flag was found")),
    };
    match rest {
        [b',', bare @ ..] => Ok((channel_binding, bare)),
        [b'a', b'=', ..] => Err(ScramError::Unsupported("authorization identities are not supported")),
        _ => Err(ScramError::Malformed("the header is not followed by a comma")),
    }
}

impl ServerScramSecond {
    /// Takes the client-final-message, checks the proof, and makes the server-final-message.
    ///
    /// # Errors
    /// [`ScramError::WrongProof`] if the proof is wrong or the user is a mock; others if the message is malformed or does
    /// not continue this exchange.
    pub fn client_final(self, message: &[u8]) -> Result<ServerProof, ScramError> {
        check(message)?;
        let mut attributes = Attributes::new(message);
        let channel_binding = attributes.expect(b'c')?;
        let nonce = attributes.expect(b'r')?;
        let proof = loop {
            match attributes.next()? {
                Some((b'p', proof)) => break proof,
                Some((b'm', _)) => return Err(ScramError::Unsupported("the peer requires an extension")),
                Some(_) => {}
                None => return Err(ScramError::Malformed("the proof is missing")),
            }
        };
        attributes.end()?;
        if channel_binding != self.channel_binding {
            return Err(ScramError::ChannelBinding);
        }
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let without_proof = message
            .strip_suffix(proof)
            .and_then(|rest| rest.strip_suffix(b",p="))
            .ok_or(ScramError::Malformed("the proof is not the last attribute"))?;
        let proof = Key::from_base64(proof).ok_or(ScramError::Malformed("the proof is not 32 bytes in base64"))?;
        self.verify(without_proof, &proof)
    }

    fn verify(mut self, without_proof: &[u8], proof: &Key) -> Result<ServerProof, ScramError> {
        self.auth_message.extend_from_slice(without_proof);
        let client_key = proof.xor(&self.secret.stored_key.hmac(&self.auth_message));
        // Both are computed before either is looked at: a mock takes the same time.
        let (right, genuine) = (client_key.sha256() == self.secret.stored_key, self.standing == Standing::Genuine);
        if !(right & genuine) {
            return Err(ScramError::WrongProof);
        }
        let ScramSecret { iterations, salt, server_key, .. } = self.secret;
        let signature = server_key.hmac(&self.auth_message);
        let message = format!("v={}", signature.to_base64()).into_bytes();
        Ok(ServerProof { message, keys: ScramKeys { client_key, server_key, salt, iterations } })
    }
}
