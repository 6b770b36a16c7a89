//! Settings whose changes PostgreSQL reports (ParameterStatus): what the client has been told of them, and what it is to be told.
//!
//! What is wanted of them is what the client was told last. It is told what the server reports, but for what a RESET took that startup had
//! given: that is on its way back to the server, and PostgreSQL would have reported it at once. PostgreSQL reports just before ReadyForQuery,
//! and only what differs from its last report; so there the client is told what it has not heard for that reason.

use std::sync::Arc;

use super::{ClientSettings, ServerSettings, Told, put};

/// Settings whose changes PostgreSQL reports and which a client may set; names in lower case.
///
/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC>
pub const REPORTED: [&str; 6] =
    ["application_name", "client_encoding", "datestyle", "intervalstyle", "standard_conforming_strings", "timezone"];

/// The same as PostgreSQL writes them.
const AS_WRITTEN: [&str; 6] =
    ["application_name", "client_encoding", "DateStyle", "IntervalStyle", "standard_conforming_strings", "TimeZone"];

/// Whether the server reports changes of this setting (name in lower case).
#[must_use]
pub fn is_reported(name: &str) -> bool {
    REPORTED.contains(&name)
}

/// The place of a setting among those that are reported, as a bit.
pub(super) fn bit(name: &str) -> u8 {
    REPORTED.iter().position(|reported| *reported == name).map_or(0, |at| 1 << at)
}

/// What becomes of a report of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::session) enum Report {
    /// It is the client's to hear.
    Heard,
    /// The client is told this value in its place.
    Replaced(String),
    /// The client knows it.
    Known,
}

impl ClientSettings {
    /// The server reports a setting (name in lower case), and may take it back if the transaction does not last. `server`: what is known
    /// of it without this report.
    pub(in crate::session) fn report(&mut self, name: &str, value: &str, server: &ServerSettings) -> Report {
        let known = self.told(name, server);
        let differed = server.reported(name) != known;
        let given = self.reset_to(name);
        let heard = match given {
            Some(given) if known == Some(given) => Report::Known,
            Some(given) => Report::Replaced(given.to_owned()),
            // It has come back to where the client believes it has been.
            None if differed && known == Some(value) => Report::Known,
            None => Report::Heard,
        };
        let before = Arc::clone(&self.wanted);
        self.changes().reported.get_or_insert(before);
        match &heard {
            Report::Heard => self.set(name, value),
            Report::Replaced(given) => self.set(name, given),
            Report::Known => {}
        }
        heard
    }

    /// SET of one that is reported: what it is now the server says.
    pub(super) fn assign_reported(&mut self, name: &str) {
        if let Some(changes) = &mut self.changes {
            changes.reset &= !bit(name);
            changes.touched &= !bit(name);
        }
    }

    /// What the client does not know yet, in the order in which PostgreSQL sorts them.
    pub(super) fn settle_reported(&mut self, server: &ServerSettings) -> Vec<Told> {
        let touched = self.changes.as_mut().map_or(0, |changes| std::mem::take(&mut changes.touched));
        let mut out = Vec::new();
        for (name, written) in REPORTED.into_iter().zip(AS_WRITTEN) {
            let Some(value) = self.reset_to(name).or_else(|| server.reported(name)).map(str::to_owned) else {
                continue;
            };
            let is_default = !self.startup.contains_key(name) && server.default_of(name) == Some(value.as_str());
            if self.told(name, server) != Some(value.as_str()) {
                self.set(name, &value);
                out.push((written, value));
            }
            if touched & bit(name) != 0 && is_default {
                put(&mut self.wanted, name, None);
            }
        }
        out
    }

    /// What the client was told last.
    fn told<'a>(&'a self, name: &str, server: &'a ServerSettings) -> Option<&'a str> {
        self.get(name).or_else(|| server.default_of(name))
    }

    /// What startup gave of a setting that RESET has taken from the linked server.
    fn reset_to(&self, name: &str) -> Option<&str> {
        let changes = self.changes.as_ref()?;
        self.startup.get(name).filter(|_| changes.reset & bit(name) != 0).map(String::as_str)
    }
}
