//! What a standby's error says of where the statement belongs.
//!
//! Told by SQLSTATE and by the place in PostgreSQL's source that the error comes from, never by its text, which is in the language that
//! `lc_messages` says. See <https://www.postgresql.org/docs/current/protocol-error-fields.html>.

use crate::client::task::Client;
use crate::error::SqlState;
use crate::wire::message::{self, TransactionStatus};

/// What an error of a standby means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It writes.
    Writes,
    /// It needs what the primary alone has: unlogged tables, SERIALIZABLE.
    OnlyThere,
    /// That may be so: `pg_current_wal_lsn()` says so by what others say of other things.
    Perhaps,
    /// It stood in the way of replay.
    Conflict,
}

/// PostgreSQL's functions that refuse with 0A000 what a standby cannot do.
const ONLY_THERE: [&[u8]; 4] = [
    b"get_relation_info",
    b"GetSerializableTransactionSnapshot",
    b"check_transaction_read_only",
    b"check_XactReadOnly",
];
/// The one that finds that a kept plan is of no use any more, on whichever server.
const REVALIDATION: &[u8] = b"RevalidateCachedQuery";
/// Where recovery conflicts are told, whatever the function is called.
const CONFLICTS: &[u8] = b"postgres.c";

/// What the error with these fields means, if it is about the server's being a standby.
pub(super) fn of(error: &[u8]) -> Option<Refusal> {
    let field = |kind| message::error_field(error, kind).unwrap_or_default();
    let state = SqlState::from_bytes(field(b'C'));
    match state {
        SqlState::READ_ONLY_TRANSACTION => Some(Refusal::Writes),
        SqlState::FEATURE_NOT_SUPPORTED if ONLY_THERE.contains(&field(b'R')) => Some(Refusal::OnlyThere),
        SqlState::FEATURE_NOT_SUPPORTED if field(b'R') == REVALIDATION => None,
        SqlState::FEATURE_NOT_SUPPORTED | SqlState::OBJECT_NOT_IN_STATE => Some(Refusal::Perhaps),
        // Serialization and deadlocks of other kinds are found elsewhere.
        state if state.class() == "40" && field(b'F').ends_with(CONFLICTS) => Some(Refusal::Conflict),
        _ => None,
    }
}

impl Client {
    /// Remembers the statement under way, which the standby refuses by this error and which cannot be tried elsewhere any more: something
    /// of the answer was sent on. The next goes to the primary.
    pub(super) fn note_refusal(&self, error: &[u8]) {
        let outside = self.session.status() == TransactionStatus::Idle;
        let writes = match of(error) {
            // In a READ ONLY block the primary refuses it as well.
            Some(Refusal::Writes) if outside => true,
            Some(Refusal::Perhaps) if outside => false,
            Some(Refusal::OnlyThere) => false,
            _ => return,
        };
        self.refuse_on_replicas(self.session.under_way().into_iter(), writes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_does_not_matter() {
        let told = |code: &str, file: &str, routine: &str| {
            of(format!("SFEHLER\0C{code}\0Mdas geht nicht\0F{file}\0R{routine}\0\0").as_bytes())
        };
        for (code, file, routine, expected) in [
            ("25006", "utility.c", "PreventCommandIfReadOnly", Some(Refusal::Writes)),
            ("0A000", "plancat.c", "get_relation_info", Some(Refusal::OnlyThere)),
            ("0A000", "predicate.c", "GetSerializableTransactionSnapshot", Some(Refusal::OnlyThere)),
            ("0A000", "plancache.c", "RevalidateCachedQuery", None),
            ("0A000", "parse_target.c", "somewhere", Some(Refusal::Perhaps)),
            ("55000", "xlogfuncs.c", "pg_current_wal_lsn", Some(Refusal::Perhaps)),
            ("40001", "postgres.c", "ProcessInterrupts", Some(Refusal::Conflict)),
            ("40P01", "postgres.c", "ProcessRecoveryConflictInterrupt", Some(Refusal::Conflict)),
            ("40P01", "deadlock.c", "DeadLockReport", None),
            ("40001", "pl_exec.c", "exec_stmt_raise", None),
            ("57014", "postgres.c", "ProcessInterrupts", None),
        ] {
            assert_eq!(told(code, file, routine), expected, "{code} {routine}");
        }
        assert_eq!(of(b""), None);
    }
}
