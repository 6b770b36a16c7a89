//! What becomes of sessions that keep a server for themselves.

use std::time::Duration;

/// Settings of `[pgweir]` that a database may override.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinning {
    /// What a statement gets that leaves state on its server (`on_session_state`, default `pin`).
    pub on_session_state: OnSessionState,
    /// Connections of a pool that sessions may keep for their state (`max_pinned_connections`, default 0: no limit).
    pub max_pinned_connections: u32,
    /// How long a client that keeps a server may ask for nothing between transactions (`pinned_idle_timeout`); zero: for ever.
    pub pinned_idle_timeout: Duration,
    /// Which servers are kept for currval() and lastval() (`sequence_values`, default `learn`).
    pub sequence_values: SequenceValues,
    /// For how long, when others wait for a server (`sequence_hold`, default 100 ms).
    pub sequence_hold: Duration,
    /// What becomes of a server that has run code of another language than SQL and PL/pgSQL (`language_state`, default `close`).
    pub language_state: LanguageState,
}

impl Default for Pinning {
    fn default() -> Self {
        Self {
            on_session_state: OnSessionState::default(),
            max_pinned_connections: 0,
            pinned_idle_timeout: Duration::ZERO,
            sequence_values: SequenceValues::default(),
            sequence_hold: Duration::from_millis(100),
            language_state: LanguageState::default(),
        }
    }
}

/// What a statement gets, in transaction and statement mode, that leaves state on its server which the session cannot take along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnSessionState {
    /// The session keeps the server.
    #[default]
    Pin,
    /// An error, before anything is done.
    Error,
}

impl OnSessionState {
    /// The word of the setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Error => "error",
        }
    }
}

/// Behind which statements a session keeps its server for a while, so that it can be asked for currval() and lastval().
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SequenceValues {
    /// Those that such questions follow, as far as that has shown since somebody asked.
    #[default]
    Learn,
    /// All that may take a value.
    Keep,
    /// None.
    Release,
}

impl SequenceValues {
    /// The word of the setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Learn => "learn",
            Self::Keep => "keep",
            Self::Release => "release",
        }
    }
}

/// What becomes of a server, before another client has it, on which code of a language may have run that keeps variables in the server's
/// process, where no reset finds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LanguageState {
    /// It is closed.
    #[default]
    Close,
    /// It is reset: the code is known to keep nothing.
    Reset,
}

impl LanguageState {
    /// The word of the setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Reset => "reset",
        }
    }
}
