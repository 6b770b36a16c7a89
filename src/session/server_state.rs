//! What we know of a server connection's session.

use crate::id::StatementId;
use crate::session::prepared::ServerStatements;
use crate::session::settings::ServerSettings;

/// The state of a server connection that outlives a transaction.
#[derive(Debug)]
pub struct ServerState {
    /// Named prepared statements on it.
    pub statements: ServerStatements,
    /// The unnamed statement on it, if it is one of ours to know.
    pub unnamed: Option<StatementId>,
    /// Its settings.
    pub settings: ServerSettings,
    /// Named statements sent to it that nobody has counted yet.
    pub parses: u64,
}

impl ServerState {
    /// A fresh connection that keeps at most `max_statements` prepared.
    #[must_use]
    pub fn new(max_statements: usize) -> Self {
        Self {
            statements: ServerStatements::new(max_statements),
            unnamed: None,
            settings: ServerSettings::default(),
            parses: 0,
        }
    }

    /// DISCARD ALL ran on it.
    pub fn forget_state(&mut self) {
        self.statements.clear();
        self.unnamed = None;
        self.settings.reset_all();
    }
}
