//! What a client tells of itself when it is asked: what nobody else knows, because it would cost something to keep it where others see it.

use std::time::Duration;

/// A client's report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Its own connection.
    pub client: SocketReport,
    /// The connection of the server it has.
    pub server: Option<SocketReport>,
    /// What it is in the middle of.
    pub doing: Doing,
    /// Since when: wall time since the Unix epoch.
    pub since: Option<Duration>,
    /// The text that is being answered, or that waits for a server, cut to [`LONGEST_TEXT`]; none where it is not known.
    pub text: Option<String>,
    /// Why it keeps its server beyond the transaction, in the order in which that came about.
    pub pins: Vec<PinReport>,
    /// Since when it does.
    pub pinned_since: Option<Duration>,
}

/// Texts are cut to as many characters.
pub const LONGEST_TEXT: usize = 200;

/// What a client is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Doing {
    /// Nothing.
    #[default]
    Nothing,
    /// It waits for a server.
    Waiting,
    /// The server works for it.
    Active,
    /// It is in a transaction in which nothing runs.
    IdleInTransaction,
}

impl Doing {
    /// The word of SHOW QUERIES.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::IdleInTransaction => "idle in transaction",
        }
    }
}

/// Why a client keeps its server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PinReport {
    /// The kind of state.
    pub reason: &'static str,
    /// The statement that made it, as far as it is known.
    pub statement: Option<String>,
}

/// A connection and its buffers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketReport {
    /// The descriptor.
    pub descriptor: Option<i32>,
    /// Where in the buffer the next bytes would be read to.
    pub received: u64,
    /// Where in the buffer the messages end that have been looked at.
    pub looked_at: u64,
    /// Bytes to come of a message that is passed on in pieces.
    pub to_come: u64,
    /// Where in the buffer of the other side the bytes begin that came from here and are not sent yet.
    pub sent: u64,
    /// Bytes that were read and not looked at.
    pub unread: u64,
    /// Bytes that came from here and that the other side has not taken.
    pub unsent: u64,
    /// Bytes of memory that the buffers take.
    pub memory: u64,
    /// The settings that a new process would have to know.
    pub settings: Settings,
}

impl SocketReport {
    /// Whether something is under way in the buffers.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.unread > 0 || self.unsent > 0 || self.to_come > 0 || self.received > self.looked_at
    }
}

/// Settings as SHOW FDS lists them; none: not known, which is as the server has it by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `client_encoding`.
    pub client_encoding: Option<String>,
    /// `standard_conforming_strings`.
    pub std_strings: Option<String>,
    /// `DateStyle`.
    pub datestyle: Option<String>,
    /// `TimeZone`.
    pub timezone: Option<String>,
}

impl Settings {
    /// Those that `get` knows, by their names in lower case.
    pub fn of<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let get = |name| get(name).map(str::to_owned);
        Self {
            client_encoding: get("client_encoding"),
            std_strings: get("standard_conforming_strings"),
            datestyle: get("datestyle"),
            timezone: get("timezone"),
        }
    }
}

/// A text as it is shown: valid, in one piece, and not longer than [`LONGEST_TEXT`].
#[must_use]
pub fn shortened(text: &[u8]) -> String {
    // Enough for any characters; no more of a long text is looked at.
    let text = String::from_utf8_lossy(text.get(..LONGEST_TEXT * 4).unwrap_or(text));
    let mut chars = text.trim().chars();
    let mut shown: String = chars.by_ref().take(LONGEST_TEXT).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shortened(b" SELECT 1 \n"), "SELECT 1");
        let long = "ä".repeat(LONGEST_TEXT);
        assert_eq!(shortened(long.as_bytes()), long);
        assert_eq!(shortened(format!("{long}!").as_bytes()), format!("{long}…"));
        assert_eq!(shortened(&[b'a', 0xff, b'b']), "a\u{fffd}b");
        let huge = vec![b'x'; 1 << 20];
        assert_eq!(shortened(&huge).chars().count(), LONGEST_TEXT + 1);
    }
}
