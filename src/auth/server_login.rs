//! Our login to a server: the answers to its authentication requests.
//!
//! ```text
//!   Start --Ok--------------------------------------------------> Done
//!     |-----CleartextPassword, MD5Password--> AwaitOk --Ok------> Done
//!     '-----SASL--> SaslFirst --Continue--> SaslSecond --Final--> AwaitOk
//! ```
//!
//! Whatever else comes is refused; above all an Ok in the middle of a SCRAM exchange, by which an impostor would get out of
//! proving that it knows the user's password.

use std::sync::Arc;

use super::login::PassThrough;
use super::md5::Md5Hash;
use super::scram::{
    Binding, ClientScram, ClientScramFirst, ClientScramSecond, ClientSecret, MECHANISM, MECHANISM_PLUS, ScramKeys,
    ScramSecret,
};
use super::secret::{Password, Secret};
use crate::error::{Error, SqlState};

/// What we can log in to servers with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerCredential {
    password: Option<Password>,
    md5: Option<Md5Hash>,
    keys: Option<ScramKeys>,
    /// A SCRAM verifier that is stored: it tells who a client is, but cannot log in anywhere.
    verifier: Option<ScramSecret>,
}

impl ServerCredential {
    /// From what is stored of the user, and what his own login taught us. A stored password goes before one that was sent:
    /// the two differ only when the file has changed since.
    #[must_use]
    pub fn new(secret: Option<&Secret>, pass_through: &PassThrough) -> Self {
        let mut credential = Self::default();
        match secret {
            Some(Secret::Clear(password)) => credential.password = Some(password.clone()),
            Some(Secret::Md5(hash)) => credential.md5 = Some(hash.clone()),
            Some(Secret::Scram(verifier)) => credential.verifier = Some(verifier.clone()),
            Some(Secret::Absent) | None => {}
        }
        match pass_through {
            PassThrough::Nothing => {}
            PassThrough::Password(password) => {
                credential.password.get_or_insert_with(|| password.clone());
            }
            // Those of a client whom we know by his clear password are of the verifier that we made of it ourselves.
            PassThrough::Keys(_) if credential.password.is_some() => {}
            PassThrough::Keys(keys) => credential.keys = Some(keys.clone()),
        }
        credential
    }

    /// Whether this does wherever `other` does: what is stored is the same, and the other's login taught nothing else. Of the same user's
    /// logins one may have proven itself by a certificate and taught nothing.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        fn within<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            b.is_none() || a == b
        }
        (&self.md5, self.verifier.is_some()) == (&other.md5, other.verifier.is_some())
            && within(self.password.as_ref(), other.password.as_ref())
            && within(self.keys.as_ref(), other.keys.as_ref())
    }

    /// What both together know: the same is stored, and one login of the user's taught us what the other did not, as by SCRAM and by a
    /// clear password. None if they contradict each other, or nothing is stored that says that both are still true.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Option<Self> {
        fn either<T: Clone + PartialEq>(a: Option<&T>, b: Option<&T>) -> Option<Option<T>> {
            (a.is_none() || b.is_none() || a == b).then(|| a.or(b).cloned())
        }
        let stored = self.md5.is_some() || self.verifier.is_some();
        if !stored || (&self.md5, &self.verifier) != (&other.md5, &other.verifier) {
            return None;
        }
        Some(Self {
            password: either(self.password.as_ref(), other.password.as_ref())?,
            keys: either(self.keys.as_ref(), other.keys.as_ref())?,
            ..self.clone()
        })
    }

    /// Whether a password or hash that is stored now is the one that this logs in with. Of a user of whom nothing is stored, or what no
    /// server takes, nothing newer is known.
    #[must_use]
    pub fn is_current(&self, stored: Option<&Secret>) -> bool {
        match stored {
            Some(Secret::Clear(password)) => self.password.as_ref() == Some(password),
            Some(Secret::Md5(hash)) => self.md5.as_ref() == Some(hash),
            Some(Secret::Scram(_) | Secret::Absent) | None => true,
        }
    }

    /// The same, with the keys that an earlier login to this server gave ([`ServerLogin::keys`]): they save the derivation.
    #[must_use]
    pub fn with_keys(mut self, keys: ScramKeys) -> Self {
        self.keys = Some(keys);
        self
    }

    fn scram(&self) -> Option<ClientSecret> {
        match (&self.password, &self.keys) {
            (Some(password), Some(keys)) => Some(ClientSecret::PasswordAndKeys(password.clone(), keys.clone())),
            (Some(password), None) => Some(ClientSecret::Password(password.clone())),
            (None, Some(keys)) => Some(ClientSecret::Keys(keys.clone())),
            (None, None) => None,
        }
    }
}

/// What to do after an authentication request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Send a 'p' message with this body and wait for the next request.
    Send(Answer),
    /// Send nothing and wait for the next request.
    Wait,
    /// The server has let us in.
    Done,
}

/// The body of a 'p' message. Holds a password or a proof, so it is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer(pub Vec<u8>);

impl std::fmt::Debug for Answer {
    super::secret::fmt_redacted!("Answer");
}

/// One login to a server. Owned and `Send`, so that a costly step can be made on another thread.
#[derive(Debug)]
pub struct ServerLogin {
    user: String,
    credential: ServerCredential,
    nonce: String,
    /// The server's certificate, hashed, if there is TLS.
    end_point: Option<Arc<[u8]>>,
    state: State,
    keys: Option<ScramKeys>,
}

#[derive(Debug)]
enum State {
    Start,
    /// Waits for SASLContinue.
    SaslFirst(ClientScramFirst),
    /// Waits for SASLFinal.
    SaslSecond(ClientScramSecond),
    /// All that can be proven is proven.
    AwaitOk,
    Done,
    /// A request was refused.
    Failed,
}

impl ServerLogin {
    /// A login as `user`. `nonce` must be fresh: [`super::scram::nonce`].
    #[must_use]
    pub fn new(user: &str, credential: ServerCredential, nonce: &str) -> Self {
        let (user, nonce) = (user.to_owned(), nonce.to_owned());
        Self { user, credential, nonce, end_point: None, state: State::Start, keys: None }
    }

    /// The login goes through TLS with a server whose certificate has this `tls-server-end-point`: SCRAM binds to it if the server
    /// offers that.
    #[must_use]
    pub fn over(self, end_point: Option<Arc<[u8]>>) -> Self {
        Self { end_point, ..self }
    }

    /// The SCRAM keys of this login once it is done; keep them for the next one to the same server as the same user.
    #[must_use]
    pub fn keys(&self) -> Option<&ScramKeys> {
        self.keys.as_ref()
    }

    /// Whether the next [`Self::request`] may derive keys from a password: milliseconds of work (seconds, if the
    /// server is hostile), so move the login to a blocking thread for that call.
    #[must_use]
    pub fn next_is_costly(&self) -> bool {
        matches!(&self.state, State::SaslFirst(scram) if scram.is_costly())
    }

    /// Takes an authentication request: its code, and the rest of the 'R' message's body.
    ///
    /// # Errors
    /// If the request is malformed, not supported or out of order, if we have nothing to answer it with, or if the server
    /// fails to prove itself. The login is over then.
    pub fn request(&mut self, code: u32, rest: &[u8]) -> Result<Reply, Error> {
        let state = std::mem::replace(&mut self.state, State::Failed);
        let (next, reply) = match (state, code) {
            (State::Start | State::AwaitOk, 0) => {
                empty(rest)?;
                (State::Done, Reply::Done)
            }
            (State::Start, 3) => {
                empty(rest)?;
                (State::AwaitOk, self.cleartext()?)
            }
            (State::Start, 5) => (State::AwaitOk, self.md5(rest)?),
            (State::Start, 10) => self.sasl(rest)?,
            (State::SaslFirst(scram), 11) => {
                let (next, message) = scram.server_first(rest).map_err(|error| error.of_server(&self.user))?;
                (State::SaslSecond(next), Reply::Send(Answer(message)))
            }
            (State::SaslSecond(scram), 12) => {
                self.keys = Some(scram.server_final(rest).map_err(|error| error.of_server(&self.user))?);
                (State::AwaitOk, Reply::Wait)
            }
            (State::SaslFirst(_) | State::SaslSecond(_), 0) => {
                return Err(violation("server let us in before it had completed the SCRAM exchange")
                    .detail("It has not proven that it knows the user's password: it may be an impostor."));
            }
            (_, 0 | 3 | 5 | 10..=12) => {
                return Err(violation("server sent an authentication request out of order"));
            }
            (_, code) => return Err(unsupported(code)),
        };
        self.state = next;
        Ok(reply)
    }

    fn cleartext(&self) -> Result<Reply, Error> {
        let password =
            self.credential.password.as_ref().ok_or_else(|| self.nothing_fits("its password in clear text"))?;
        Ok(Reply::Send(Answer(nul_terminated(password.as_bytes()))))
    }

    fn md5(&self, rest: &[u8]) -> Result<Reply, Error> {
        let salt = <[u8; 4]>::try_from(rest).map_err(|_| violation("server sent a malformed MD5 request"))?;
        let hash = match (&self.credential.password, &self.credential.md5) {
            (Some(password), _) => Md5Hash::of(password.as_bytes(), &self.user),
            (None, Some(hash)) => hash.clone(),
            (None, None) => return Err(self.nothing_fits("an MD5 response")),
        };
        Ok(Reply::Send(Answer(nul_terminated(&hash.response(salt)))))
    }

    /// AuthenticationSASL: names that each end in NUL, and an empty one at the end.
    fn sasl(&self, rest: &[u8]) -> Result<(State, Reply), Error> {
        let Some(names) = rest.strip_suffix(&[0, 0]) else {
            return Err(violation("server sent a malformed list of SASL mechanisms"));
        };
        let offers = |mechanism: &str| names.split(|byte| *byte == 0).any(|name| name == mechanism.as_bytes());
        let (mechanism, binding) = match &self.end_point {
            Some(end_point) if offers(MECHANISM_PLUS) => (MECHANISM_PLUS, Binding::EndPoint(Arc::clone(end_point))),
            Some(_) => (MECHANISM, Binding::Unused),
            None => (MECHANISM, Binding::Unavailable),
        };
        if !offers(mechanism) {
            return Err(Error::server_fatal(
                SqlState::CANNOT_CONNECT,
                "server offers no SASL mechanism that is supported here",
            )
            .hint(format!("Only {MECHANISM} is supported.")));
        }
        let secret = self.credential.scram().ok_or_else(|| self.nothing_fits("SCRAM keys"))?;
        let (scram, message) = ClientScram::new(secret, &self.nonce).bind(binding).first();
        // Our own message: far below the limit of an i32.
        let length = i32::try_from(message.len()).unwrap_or(i32::MAX);
        let body = [mechanism.as_bytes(), &[0], &length.to_be_bytes(), &message].concat();
        Ok((State::SaslFirst(scram), Reply::Send(Answer(body))))
    }

    /// The server asks for something that we do not have; says what to configure.
    fn nothing_fits(&self, wanted: &str) -> Error {
        let user = &self.user;
        let message = format!("could not log in to the server as user \"{user}\": it asks for {wanted}");
        let have = match &self.credential {
            ServerCredential { keys: Some(_), .. } => "only SCRAM keys are known",
            ServerCredential { md5: Some(_), .. } => "only an MD5 hash is known",
            ServerCredential { verifier: Some(_), .. } => {
                "only a SCRAM verifier is known, which cannot be used to log in"
            }
            _ => "no password is known",
        };
        Error::us_fatal(SqlState::CANNOT_CONNECT, message).detail(format!("Of this user {have}.")).hint(format!(
            "Put the password of \"{user}\" in clear text into the auth file or the database's settings, or let clients log \
             in with SCRAM and give the auth file the verifier that the server stores (pg_authid.rolpassword)."
        ))
    }
}

fn violation(message: &'static str) -> Error {
    Error::server_fatal(SqlState::PROTOCOL_VIOLATION, message)
}

fn unsupported(code: u32) -> Error {
    let name = match code {
        2 => "Kerberos V5".to_owned(),
        6 => "SCM credential".to_owned(),
        7 | 8 => "GSSAPI".to_owned(),
        9 => "SSPI".to_owned(),
        _ => format!("an unknown kind of ({code})"),
    };
    Error::server_fatal(
        SqlState::CANNOT_CONNECT,
        format!("server asks for {name} authentication, which is not supported"),
    )
    .hint("Let the server's pg_hba.conf ask for scram-sha-256 from this host.")
}

fn empty(rest: &[u8]) -> Result<(), Error> {
    if rest.is_empty() { Ok(()) } else { Err(violation("server sent a malformed authentication request")) }
}

fn nul_terminated(bytes: &[u8]) -> Vec<u8> {
    [bytes, &[0]].concat()
}
