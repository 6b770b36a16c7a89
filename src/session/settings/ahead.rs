//! A client's settings ahead of its messages: both leave in one write, and nothing of the client's runs where a setting is refused.
//!
//! ```text
//!   Close guard                          for whoever may have taken the name
//!   Query "RESET ..; SELECT set_config(..); PREPARE guard AS SELECT"     a transaction of its own
//!   Describe guard ──▶ it is there ──▶ Close guard, Query "", what the client sent
//!                 └──▶ it is not: PostgreSQL passes over all that follows, up to the next Sync
//! ```
//!
//! A Query that fails does not stop what is sent behind it. But this one comes to its PREPARE only if all before it has worked, and a message
//! of the extended protocol that fails stops everything up to a Sync, a Query too. The empty Query ends the transaction that Describe began, so
//! that the client's begins with its own statement: it has the time, the snapshot and the rights of one that was sent alone.
//! Behind the client's segment, which ends with a Query or Sync, nothing may be sent before the guard is answered.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>

use crate::session::pipeline::{Hidden, Kind, Request};
use crate::session::sequences::Told;
use crate::session::{Desync, ServerState, Session};
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};

/// The statement that is there only if the settings were taken. A client that follows names across servers cannot have it.
const GUARD: &str = "pgweir_guard";

/// What becomes of settings that were sent ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// That is not known yet.
    UnderWay,
    /// The server has them, and runs what follows.
    Taken,
    /// It has refused one, and passes over what the client has sent. It answers a Sync behind that, and nothing before.
    Refused,
}

impl Session {
    /// Writes what brings the server to the client's settings ([`ServerSettings::catch_up`](super::ServerSettings::catch_up)), for one segment
    /// to follow at once that holds no Sync but at its end. `forgets`: the text has the server forget values of sequences. Until it is known
    /// whether the settings were taken, the server's messages go to [`Self::on_ahead`].
    pub fn send_ahead(&mut self, sql: &str, forgets: bool, server: &mut ServerState, out: &mut Vec<u8>) {
        server.unnamed = None;
        let text = format!("{};PREPARE {GUARD} AS SELECT", sql.trim_end_matches(';'));
        encode::close_statement(out, GUARD.as_bytes());
        encode::query(out, text.as_bytes());
        self.pipeline.push(Request::swallow(Kind::Hidden(Hidden::CatchUp { forgets, failed: false })));
        encode::describe_statement(out, GUARD.as_bytes());
        encode::close_statement(out, GUARD.as_bytes());
        encode::query(out, b"");
        self.pipeline.push(Request::swallow(Kind::Guard { failed: false, described: false }));
    }

    /// Takes a message of a server that was sent settings ahead: none of them is the client's. What it is to be sent for that is appended to
    /// `out`.
    ///
    /// # Errors
    /// When no request explains it, when the settings have failed and their guard has not, or when something fails behind the guard's
    /// Describe: what runs then is not known.
    pub fn on_ahead(
        &mut self,
        tag: u8,
        body: &[u8],
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) -> Result<Ahead, Desync> {
        let desync = Err(Desync { tag });
        let Some(head) = self.pipeline.head() else { return desync };
        match (&mut head.kind, tag) {
            (Kind::Hidden(Hidden::CatchUp { .. }) | Kind::Guard { .. }, b'N' | b'A') => {}
            (Kind::Hidden(Hidden::CatchUp { .. }) | Kind::Guard { .. }, b'S') => server.settings.report_lossy(body),
            (Kind::Hidden(Hidden::CatchUp { failed, .. }), b'E') => *failed = true,
            (Kind::Hidden(Hidden::CatchUp { .. }), b'3' | b'T' | b'D' | b'C') => {}
            (Kind::Hidden(Hidden::CatchUp { forgets, failed }), b'Z') => {
                let (forgets, failed) = (*forgets, *failed);
                self.pipeline.pop();
                if failed {
                    let Some(Request { kind: Kind::Guard { failed, .. }, .. }) = self.pipeline.head() else {
                        return desync;
                    };
                    *failed = true;
                } else {
                    server.settings.caught_up(&self.settings);
                    if forgets {
                        server.sequences = Told::Nobodys;
                    }
                }
            }
            (Kind::Guard { described, .. }, b't') => *described = true,
            (Kind::Guard { .. }, b'3' | b'I') | (Kind::Guard { failed: false, .. }, b'T' | b'n') => {}
            // Only the Describe itself has PostgreSQL pass over what follows. A time-out or cancel that hits what comes behind it does not.
            (Kind::Guard { described: false, .. }, b'E') => {
                self.pass_over(server, out);
                return Ok(Ahead::Refused);
            }
            (Kind::Guard { failed: false, .. }, b'Z')
                if message::ready_for_query(body) == Some(TransactionStatus::Idle) =>
            {
                self.pipeline.pop();
                return Ok(Ahead::Taken);
            }
            _ => return desync,
        }
        Ok(Ahead::UnderWay)
    }

    /// The server passes over the client's segment, which has not happened. It is sent the Sync that it waits for, unless the segment has one.
    fn pass_over(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        for undo in self.pipeline.fail() {
            self.undo(undo, server);
        }
        (self.unsynced, self.held_sync) = (false, false);
        if self.pipeline.is_empty() {
            encode::sync(out);
            self.pipeline.push(Request::swallow(Kind::Sync));
        }
    }
}
