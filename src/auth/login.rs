//! The login of a client: what to ask, and whether the answers prove who it is.
//!
//! ```text
//!   start() ---- trust, any, cert -----------------------------------------> Accepted
//!      |------- plain ----> Password --answer--------------------------+---> Accepted
//!      |------- md5 ------> Md5 -------answer--------------------------+---> Failed
//!      |------- ldap, pam -> Password --answer--> Check --checked-------+
//!      '------- SCRAM ----> SaslInitial --answer--> SaslFinal --answer-+
//!                               '--> SaslFirst --^   (a client that sent no initial response)
//! ```
//!
//! See <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>.

use std::sync::Arc;

use super::md5::Md5Hash;
use super::scram::{self, Binding, MAX_MESSAGE, MECHANISM, MECHANISM_PLUS, ScramKeys, ServerScram, ServerScramSecond};
use super::secret::{Credential, Mock, MockKind, Password, Secret};
use crate::config::AuthType;
use crate::error::{Error, SqlState};

/// Longest password taken from a client, in bytes with its NUL; PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`.
pub const MAX_PASSWORD: usize = 65535;

/// Longest body of a 'p' message that [`Login::answer`] takes, for the reader's own limit.
pub const MAX_ANSWER: usize = MAX_PASSWORD;

/// An authentication request to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthRequest {
    /// The client is let in.
    Ok,
    /// It must send its password as it is.
    CleartextPassword,
    /// It must send its password hashed with this salt.
    Md5 {
        /// Fresh for every login.
        salt: [u8; 4],
    },
    /// It must choose a mechanism.
    Sasl {
        /// Their names, the preferred first.
        mechanisms: &'static [&'static str],
    },
    /// The exchange goes on.
    SaslContinue(Vec<u8>),
    /// The exchange is complete.
    SaslFinal(Vec<u8>),
}

impl AuthRequest {
    /// The body of the 'R' message: a code and what belongs to it.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let (code, rest): (u32, Vec<u8>) = match self {
            Self::Ok => (0, Vec::new()),
            Self::CleartextPassword => (3, Vec::new()),
            Self::Md5 { salt } => (5, salt.to_vec()),
            Self::Sasl { mechanisms } => {
                let names = mechanisms.iter().flat_map(|name| name.bytes().chain([0]));
                (10, names.chain([0]).collect())
            }
            Self::SaslContinue(data) => (11, data.clone()),
            Self::SaslFinal(data) => (12, data.clone()),
        };
        [&code.to_be_bytes()[..], &rest].concat()
    }
}

/// What the login taught us that lets us log in to servers as this client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassThrough {
    /// Nothing beyond the stored secret.
    Nothing,
    /// The password itself.
    Password(Password),
    /// SCRAM keys, good for servers that store the same verifier.
    Keys(ScramKeys),
}

/// A client that is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What to send, in this order; ends with [`AuthRequest::Ok`].
    pub send: Vec<AuthRequest>,
    /// For logins to servers.
    pub pass_through: PassThrough,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this, and give the next 'p' message to [`Login::answer`].
    Ask(AuthRequest),
    /// Ask whether this is the user's password, and tell [`Login::checked`].
    Check(Password),
    /// The client is who it says.
    Accepted(Accepted),
    /// It is not, or it broke the protocol: send the error and close.
    Failed(Error),
}

/// What TLS says of a client's connection; nothing without TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Channel {
    /// The common name of the client's certificate, which has been checked.
    pub peer_name: Option<String>,
    /// `tls-server-end-point`: our certificate, hashed. SCRAM can bind to it.
    pub end_point: Option<Arc<[u8]>>,
}

/// Random bytes for one login, fresh every time.
#[derive(Debug, Clone, Copy)]
pub struct LoginRandom {
    /// The salt of an MD5 challenge.
    pub md5_salt: [u8; 4],
    /// Becomes the server's SCRAM nonce.
    pub scram_nonce: [u8; scram::RAW_NONCE_LEN],
}

/// One client's login. Owned and `Send`, so that a costly step can be made on another thread.
#[derive(Debug)]
pub struct Login {
    channel: Channel,
    auth_type: AuthType,
    user: String,
    credential: Option<Arc<Credential>>,
    mock: Arc<Mock>,
    random: LoginRandom,
    state: State,
}

#[derive(Debug)]
enum State {
    Start,
    Password,
    /// Waits for [`Login::checked`].
    Check(Password),
    Md5,
    /// Waits for SASLInitialResponse.
    SaslInitial,
    /// Waits for the client-first-message, which did not come with the initial response.
    SaslFirst(Binding),
    SaslFinal(ServerScramSecond),
    Done,
}

/// The error for a wrong password and for a user who does not exist: they are the same.
#[must_use]
pub fn wrong_password(user: &str) -> Error {
    Error::client_fatal(SqlState::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

fn protocol(message: &'static str) -> Error {
    Error::client_fatal(SqlState::PROTOCOL_VIOLATION, message)
}

impl Login {
    /// A login of `user`. `credential`: none if there is no such user. `mock`: what such users are shown.
    #[must_use]
    pub fn new(
        auth_type: AuthType,
        user: &str,
        credential: Option<Arc<Credential>>,
        mock: Arc<Mock>,
        random: LoginRandom,
    ) -> Self {
        let channel = Channel::default();
        Self { channel, auth_type, user: user.to_owned(), credential, mock, random, state: State::Start }
    }

    /// The login comes through this channel.
    #[must_use]
    pub fn over(self, channel: Channel) -> Self {
        Self { channel, ..self }
    }

    /// The first step; cheap.
    pub fn start(&mut self) -> Step {
        let (state, request) = match self.auth_type {
            AuthType::Any => return self.accept(None, PassThrough::Nothing),
            AuthType::Trust if self.credential.is_some() => return self.accept(None, PassThrough::Nothing),
            // There is no password to be wrong and nothing to hide: everyone who exists is let in.
            AuthType::Trust => {
                let message = format!("user \"{}\" does not exist", self.user);
                return self.fail(Error::client_fatal(SqlState::INVALID_AUTHORIZATION, message));
            }
            AuthType::Cert if self.credential.is_some() && self.channel.peer_name.as_ref() == Some(&self.user) => {
                return self.accept(None, PassThrough::Nothing);
            }
            AuthType::Cert => {
                let message = format!("certificate authentication failed for user \"{}\"", self.user);
                return self.fail(Error::client_fatal(SqlState::INVALID_AUTHORIZATION, message));
            }
            // Which proof is asked is decided before.
            AuthType::Hba => {
                return self.fail(Error::us_fatal(SqlState::INTERNAL_ERROR, "no rule was chosen for this login"));
            }
            AuthType::Plain | AuthType::Ldap | AuthType::Pam => (State::Password, AuthRequest::CleartextPassword),
            AuthType::Md5 if !self.md5_means_scram() => (State::Md5, AuthRequest::Md5 { salt: self.random.md5_salt }),
            AuthType::Md5 | AuthType::ScramSha256 => {
                let mechanisms: &[_] =
                    if self.channel.end_point.is_some() { &[MECHANISM_PLUS, MECHANISM] } else { &[MECHANISM] };
                (State::SaslInitial, AuthRequest::Sasl { mechanisms })
            }
        };
        self.state = state;
        Step::Ask(request)
    }

    /// Whether the next [`Self::answer`] derives keys from a password: milliseconds of work, so move the login to a
    /// blocking thread for that call.
    #[must_use]
    pub fn next_is_costly(&self) -> bool {
        match self.state {
            State::Password if self.is_external() => false,
            State::Password => match self.secret() {
                Some(Secret::Scram(_)) => true,
                Some(Secret::Clear(_) | Secret::Md5(_)) => false,
                Some(Secret::Absent) | None => self.mock.kind() == MockKind::Scram,
            },
            State::SaslInitial | State::SaslFirst(_) => match self.secret() {
                Some(Secret::Clear(_)) if self.verifier_is_missing() => true,
                Some(_) | None => self.mock.derives(),
            },
            State::Start | State::Check(_) | State::Md5 | State::SaslFinal(_) | State::Done => false,
        }
    }

    /// Takes the body of the client's 'p' message.
    pub fn answer(&mut self, body: &[u8]) -> Step {
        let step = match std::mem::replace(&mut self.state, State::Done) {
            State::Password => self.password(body),
            State::Md5 => self.md5(body),
            State::SaslInitial => self.sasl_initial(body),
            State::SaslFirst(binding) => self.scram_first(body, binding),
            State::SaslFinal(scram) => self.scram_final(scram, body),
            State::Start | State::Check(_) | State::Done => Err(protocol("unexpected password message")),
        };
        step.unwrap_or_else(|error| self.fail(error))
    }

    /// What became of [`Step::Check`]: whether it is the user's password.
    pub fn checked(&mut self, right: bool) -> Step {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Check(password) if right => self.accept(None, PassThrough::Password(password)),
            _ => self.fail(wrong_password(&self.user)),
        }
    }

    /// Whether others know the password.
    fn is_external(&self) -> bool {
        matches!(self.auth_type, AuthType::Ldap | AuthType::Pam)
    }

    fn accept(&mut self, last: Option<AuthRequest>, pass_through: PassThrough) -> Step {
        self.state = State::Done;
        Step::Accepted(Accepted { send: last.into_iter().chain([AuthRequest::Ok]).collect(), pass_through })
    }

    fn fail(&mut self, error: Error) -> Step {
        self.state = State::Done;
        Step::Failed(error)
    }

    fn secret(&self) -> Option<&Secret> {
        self.credential.as_deref().map(Credential::secret)
    }

    /// Whether his verifier has to be made of his clear password first.
    fn verifier_is_missing(&self) -> bool {
        self.credential.as_ref().is_some_and(|known| known.scram_is_costly())
    }

    /// Under `md5`, users with a SCRAM verifier use SCRAM, as in PostgreSQL and PgBouncer; strangers do as most users do.
    fn md5_means_scram(&self) -> bool {
        match self.secret() {
            Some(Secret::Scram(_)) => true,
            Some(Secret::Clear(_) | Secret::Md5(_)) => false,
            Some(Secret::Absent) | None => self.mock.kind() == MockKind::Scram,
        }
    }

    fn password(&mut self, body: &[u8]) -> Result<Step, Error> {
        let password = password_message(body)?;
        if self.is_external() {
            // LDAP takes an empty password for the wish to be nobody in particular, and grants it.
            if password.is_empty() {
                return Err(wrong_password(&self.user));
            }
            let password = Password::new(password);
            self.state = State::Check(password.clone());
            return Ok(Step::Check(password));
        }
        let right = match self.secret() {
            Some(Secret::Clear(known)) => known.matches(password),
            Some(Secret::Md5(hash)) => hash.verify_password(password, &self.user),
            Some(Secret::Scram(secret)) => secret.verify_password(password),
            Some(Secret::Absent) | None => {
                if self.mock.kind() == MockKind::Scram {
                    // For the time it takes; the result is of no interest.
                    std::hint::black_box(self.mock.verifier(&self.user).verify_password(password));
                }
                false
            }
        };
        // PostgreSQL never accepts an empty password, whatever is stored.
        if !right || password.is_empty() {
            return Err(wrong_password(&self.user));
        }
        Ok(self.accept(None, PassThrough::Password(Password::new(password))))
    }

    fn md5(&mut self, body: &[u8]) -> Result<Step, Error> {
        let response = password_message(body)?;
        let (hash, exists) = match self.secret() {
            Some(Secret::Md5(hash)) => (hash.clone(), true),
            Some(Secret::Clear(password)) => (Md5Hash::of(password.as_bytes(), &self.user), true),
            Some(Secret::Scram(_) | Secret::Absent) | None => (Md5Hash::of(b"", &self.user), false),
        };
        let right = hash.verify(self.random.md5_salt, response);
        if !(right & exists) {
            return Err(wrong_password(&self.user));
        }
        Ok(self.accept(None, PassThrough::Nothing))
    }

    /// SASLInitialResponse: the mechanism's name and NUL, a length (-1: no response), the response.
    fn sasl_initial(&mut self, body: &[u8]) -> Result<Step, Error> {
        let malformed = || protocol("malformed SASL initial response");
        if body.len() > MAX_MESSAGE + MECHANISM_PLUS.len() + 5 {
            return Err(protocol("the SASL message is too long"));
        }
        let end = body.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
        let (mechanism, rest) = body.split_at_checked(end).ok_or_else(malformed)?;
        let [0, l0, l1, l2, l3, response @ ..] = rest else { return Err(malformed()) };
        let binding = match &self.channel.end_point {
            Some(end_point) if mechanism == MECHANISM_PLUS.as_bytes() => Binding::EndPoint(Arc::clone(end_point)),
            Some(_) if mechanism == MECHANISM.as_bytes() => Binding::Unused,
            None if mechanism == MECHANISM.as_bytes() => Binding::Unavailable,
            _ => return Err(protocol("client selected an invalid SASL authentication mechanism")),
        };
        match i32::from_be_bytes([*l0, *l1, *l2, *l3]) {
            -1 if response.is_empty() => {
                self.state = State::SaslFirst(binding);
                Ok(Step::Ask(AuthRequest::SaslContinue(Vec::new())))
            }
            length if usize::try_from(length) == Ok(response.len()) => self.scram_first(response, binding),
            _ => Err(malformed()),
        }
    }

    fn scram_first(&mut self, message: &[u8], binding: Binding) -> Result<Step, Error> {
        let nonce = scram::nonce(&self.random.scram_nonce);
        // Where verifiers of some have to be made first, everybody takes as long.
        if self.mock.derives() && !self.verifier_is_missing() {
            self.mock.derive(&self.user);
        }
        let secret = self.credential.as_ref().and_then(|credential| credential.scram(&self.user, &self.mock));
        let server = match secret {
            Some(secret) => ServerScram::new(secret, &nonce),
            // No such user, or an MD5 hash or no password: PostgreSQL's mock authentication.
            None => ServerScram::mock(&self.mock, &self.user, &nonce),
        };
        let (second, reply) =
            server.bind(binding).client_first(message).map_err(|error| error.of_client(&self.user))?;
        self.state = State::SaslFinal(second);
        Ok(Step::Ask(AuthRequest::SaslContinue(reply)))
    }

    fn scram_final(&mut self, scram: ServerScramSecond, message: &[u8]) -> Result<Step, Error> {
        let proof = scram.client_final(message).map_err(|error| error.of_client(&self.user))?;
        Ok(self.accept(Some(AuthRequest::SaslFinal(proof.message)), PassThrough::Keys(proof.keys)))
    }
}

/// The password of a PasswordMessage: ended by its only NUL.
fn password_message(body: &[u8]) -> Result<&[u8], Error> {
    if body.len() > MAX_PASSWORD {
        return Err(protocol("the password is too long"));
    }
    match body.split_last() {
        Some((0, password)) if !password.contains(&0) => Ok(password),
        Some(_) | None => Err(protocol("malformed password message")),
    }
}
