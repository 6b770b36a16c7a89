//! What becomes of sessions that keep a server for themselves.

use std::time::Duration;

/// Settings of `[pgweir]` that a database may override.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pinning {
    /// What a statement gets that leaves state on its server (`on_session_state`, default `pin`).
    pub on_session_state: OnSessionState,
    /// Connections of a pool that sessions may keep for their state (`max_pinned_connections`, default 0: no limit).
    pub max_pinned_connections: u32,
    /// How long a client that keeps a server may ask for nothing between transactions (`pinned_idle_timeout`); zero: for ever.
    pub pinned_idle_timeout: Duration,
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
