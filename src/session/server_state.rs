//! What we know of a server connection's session.

use crate::id::StatementId;
use crate::session::prepared::ServerStatements;
use crate::session::sequences::Told;
use crate::session::settings::{ServerSettings, is_reported};
use crate::sql::facts::SessionEffect;
use crate::sql::parse;

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
    /// Whose values of sequences it tells.
    pub sequences: Told,
    /// It was reset, so that temporary tables may have been used on it: it takes no other `temp_buffers` any more.
    /// See <https://www.postgresql.org/docs/current/runtime-config-resource.html#GUC-TEMP-BUFFERS>.
    pub was_reset: bool,
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
            sequences: Told::Nobodys,
            was_reset: false,
        }
    }

    /// A text of ours ran on it, as a whole.
    pub fn ran(&mut self, sql: &str) {
        self.unnamed = None;
        let facts = parse::facts(sql.as_bytes());
        for effect in facts.statements.iter().flat_map(|s| &s.effects) {
            match effect {
                SessionEffect::DiscardAll => self.forget_state(),
                SessionEffect::DeallocateAll => self.statements.clear(),
                SessionEffect::Deallocate { name } => self.statements.remove_named(name),
                SessionEffect::ResetAll => self.settings.reset_all(),
                SessionEffect::Reset { name } | SessionEffect::Set { name, .. } if is_reported(name) => {}
                SessionEffect::Reset { name } => self.settings.reset_other(name),
                SessionEffect::Set { name, value } => self.settings.set_other(name, value),
                // Whatever the value, it is not the default's, and a client that wants that gets it.
                SessionEffect::SetUnknown { name } if !is_reported(name) => self.settings.set_other(name, ""),
                SessionEffect::SetUnknown { .. }
                | SessionEffect::SetByParams { .. }
                | SessionEffect::Local { .. }
                | SessionEffect::Pin(_) => {}
            }
        }
    }

    /// DISCARD ALL ran on it.
    pub fn forget_state(&mut self) {
        self.statements.clear();
        self.unnamed = None;
        self.settings.discard_all();
        self.sequences = Told::Nobodys;
    }
}
