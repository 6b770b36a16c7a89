//! What can go wrong, whose fault it is, and what the client is told.

use std::fmt;

/// A five-character SQLSTATE code.
///
/// See <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState {
            $($(#[$doc])* pub const $name: Self = Self(*$code);)*
        }
    };
}

states! {
    /// All is well: of notices.
    SUCCESS = b"00000";
    /// The peer broke the protocol.
    PROTOCOL_VIOLATION = b"08P01";
    /// The connection to a server failed.
    CONNECTION_FAILURE = b"08006";
    /// A connection could not be made.
    CANNOT_CONNECT = b"08001";
    /// It is not known whether the transaction was committed.
    TRANSACTION_RESOLUTION_UNKNOWN = b"08007";
    /// The feature is not supported here; also every refusal of the shard planner.
    FEATURE_NOT_SUPPORTED = b"0A000";
    /// A value has the wrong form for its parameter.
    INVALID_PARAMETER_VALUE = b"22023";
    /// LIMIT is negative.
    INVALID_ROW_COUNT_IN_LIMIT = b"2201W";
    /// OFFSET is negative.
    INVALID_ROW_COUNT_IN_OFFSET = b"2201X";
    /// No such user, or no such user may log in.
    INVALID_AUTHORIZATION = b"28000";
    /// Wrong password.
    INVALID_PASSWORD = b"28P01";
    /// A COMMIT or another command came where no transaction is.
    NO_ACTIVE_TRANSACTION = b"25P01";
    /// The transaction is aborted until its end.
    IN_FAILED_TRANSACTION = b"25P02";
    /// A write reached a standby.
    READ_ONLY_TRANSACTION = b"25006";
    /// No such prepared statement.
    INVALID_STATEMENT_NAME = b"26000";
    /// No such portal.
    INVALID_CURSOR_NAME = b"34000";
    /// No such database.
    UNDEFINED_DATABASE = b"3D000";
    /// The user may not do that.
    INSUFFICIENT_PRIVILEGE = b"42501";
    /// The text is not SQL.
    SYNTAX_ERROR = b"42601";
    /// No such setting, console command or object.
    UNDEFINED_OBJECT = b"42704";
    /// The prepared statement exists already.
    DUPLICATE_STATEMENT = b"42P05";
    /// A limit on connections is reached.
    TOO_MANY_CONNECTIONS = b"53300";
    /// A limit of the program is exceeded.
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    /// The object is in use or not in a state for that.
    OBJECT_NOT_IN_STATE = b"55000";
    /// The query was cancelled.
    QUERY_CANCELED = b"57014";
    /// An administrator ended the connection.
    ADMIN_SHUTDOWN = b"57P01";
    /// The server crashed or was killed.
    CRASH_SHUTDOWN = b"57P02";
    /// The server cannot take connections now.
    CANNOT_CONNECT_NOW = b"57P03";
    /// The idle transaction ran into its time limit.
    IDLE_IN_TRANSACTION_TIMEOUT = b"25P03";
    /// The session was idle for too long.
    IDLE_SESSION_TIMEOUT = b"57P05";
    /// The transaction ran into its time limit.
    TRANSACTION_TIMEOUT = b"25P04";
    /// A fault in pgweir itself.
    INTERNAL_ERROR = b"XX000";
}

impl SqlState {
    /// Reads a code from bytes; anything that is not five ASCII characters becomes `XX000`.
    #[must_use]
    pub fn from_bytes(code: &[u8]) -> Self {
        <[u8; 5]>::try_from(code).ok().filter(|c| c.is_ascii()).map_or(Self::INTERNAL_ERROR, Self)
    }

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The class: the first two characters.
    #[must_use]
    pub fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or("XX")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose fault an error is. Decides what is logged and what becomes of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The client sent something it must not, or went away.
    Client,
    /// The server did, or cannot be reached.
    Server,
    /// pgweir refuses, is full, or has a fault.
    Us,
}

/// How much of the client's session an error ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The statement failed; the session lives on.
    Error,
    /// The session is over.
    Fatal,
}

impl Severity {
    /// The word of the `S` and `V` fields.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// An error as the client sees it, and whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Whose fault.
    pub origin: Origin,
    /// Whether the session survives.
    pub severity: Severity,
    /// The SQLSTATE.
    pub sqlstate: SqlState,
    /// What happened and why, in PostgreSQL's style: lower case, no full stop.
    pub message: String,
    /// More of what happened: a full sentence.
    pub detail: Option<String>,
    /// What to do: a full sentence.
    pub hint: Option<String>,
    /// Why it was refused, as one word for the metric of refusals; none: what the SQLSTATE says.
    pub reason: Option<&'static str>,
}

/// A result whose error can be shown to a client.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(origin: Origin, severity: Severity, sqlstate: SqlState, message: String) -> Self {
        Self { origin, severity, sqlstate, message, detail: None, hint: None, reason: None }
    }

    /// A statement of the client's fails; its session lives on.
    #[must_use]
    pub fn client(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Origin::Client, Severity::Error, sqlstate, message.into())
    }

    /// The client's session ends by its own fault.
    #[must_use]
    pub fn client_fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Origin::Client, Severity::Fatal, sqlstate, message.into())
    }

    /// A server failed the client; the client's session lives on.
    #[must_use]
    pub fn server(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Origin::Server, Severity::Error, sqlstate, message.into())
    }

    /// A server failed the client so that its session ends.
    #[must_use]
    pub fn server_fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Origin::Server, Severity::Fatal, sqlstate, message.into())
    }

    /// pgweir refuses a statement; the client's session lives on.
    #[must_use]
    pub fn us(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Origin::Us, Severity::Error, sqlstate, message.into())
    }

    /// pgweir ends the client's session.
    #[must_use]
    pub fn us_fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Origin::Us, Severity::Fatal, sqlstate, message.into())
    }

    /// Adds a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says why as one word, which the metric of refused statements counts by: never a client's text.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// The same error, ending the session.
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.severity = Severity::Fatal;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity.as_str(), self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " [{hint}]")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
