//! Why a block does not go on with several shards, or not as it was asked to.

use std::time::Duration;

use crate::error::{Error, SqlState};
use crate::id::ShardIndex;

fn unsupported(message: impl Into<String>, hint: &'static str, reason: &'static str) -> Error {
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, message).hint(hint).because(reason)
}

pub(super) fn lost(error: &std::io::Error) -> Error {
    Error::server(
        SqlState::CONNECTION_FAILURE,
        format!("the connection to a shard of the transaction was lost: {error}"),
    )
    .detail("The transaction is rolled back on every shard.")
    .hint("Run the transaction again.")
}

pub(super) fn fault() -> Error {
    Error::us(SqlState::INTERNAL_ERROR, "a shard of the transaction is not where it is to be")
}

/// `shard`: its name.
pub(super) fn replaced(shard: &str) -> Error {
    Error::server(
        SqlState::ADMIN_SHUTDOWN,
        format!("the transaction is lost: another server has become the primary of shard {shard}"),
    )
    .detail("Nothing of it was committed.")
    .hint("Run the transaction again.")
}

/// `limit`: for how long it was waited.
pub(super) fn never_came(shards: &str, limit: Duration) -> Error {
    let seconds = limit.as_secs_f64();
    Error::us(
        SqlState::TOO_MANY_CONNECTIONS,
        format!("no connection to shard {shards} became free for the transaction within {seconds} s"),
    )
    .detail("The transaction holds connections to other shards, which those it waits for may wait for.")
    .hint("Raise pool_size, or use the shards in the same order in all transactions.")
}

pub(super) fn no_snapshot(level: &str) -> Error {
    unsupported(
        format!(
            "a transaction cannot be {} over several shards: they have no snapshot in common",
            level.to_uppercase()
        ),
        "Begin it READ COMMITTED, or keep statements of one sharding key in one transaction.",
        "no_common_snapshot",
    )
}

/// `first` and `others`: names of shards.
pub(super) fn second_writer(first: &str, others: &str) -> Error {
    unsupported(
        format!(
            "this transaction has written on shard {first}, and cannot write on {others} as well (cross_shard_writes = \"refuse\")"
        ),
        "Write on one shard in a transaction, or set cross_shard_writes = \"two_phase\" for the database in pgweir's configuration.",
        "cross_shard_write",
    )
}

pub(in crate::client) fn no_two_phase(why: &str) -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("a transaction cannot write on several shards: two-phase commit is not possible, as {why}"),
    )
    .hint("SHOW SHARDS on the console tells more. When that is mended, RELOAD has the shards checked again at once.")
    .because("no_two_phase")
}

pub(super) fn mixed() -> Error {
    unsupported(
        "within a transaction of several shards this text cannot be sent to all of them",
        "Send SAVEPOINT, RELEASE, ROLLBACK TO, SET LOCAL, COMMIT and ROLLBACK by themselves and without parameters; SET for the session, temporary objects, LISTEN, PREPARE and AND CHAIN are for transactions of one shard.",
        "control_in_block",
    )
}

/// What was told to all shards has not come to the same on all.
pub(super) fn apart() -> Error {
    unsupported(
        "the shards of the transaction have not the same savepoints: one has failed to make or release one, or to refuse one that is not there; the transaction is rolled back on all",
        "Run the transaction again.",
        "control_in_block",
    )
}

/// In a block that has failed on one of its shards: what PostgreSQL says, though it would take some of the text.
pub(in crate::client) fn aborted() -> Error {
    Error::us(
        SqlState::IN_FAILED_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
    .detail("It is one of several shards, and this text cannot be sent to all of them.")
    .hint("Send ROLLBACK, or ROLLBACK TO SAVEPOINT, by itself.")
    .because("control_in_block")
}

pub(super) fn cursor_elsewhere() -> Error {
    unsupported(
        "a transaction of several shards cannot open a cursor on another than it began on: FETCH would look for it there",
        "Begin the transaction with a statement of the cursor's sharding key.",
        "cursor_in_block",
    )
}

pub(super) fn made_state() -> Error {
    unsupported(
        "a transaction of several shards has made what only one server connection has; it is rolled back",
        "Leave temporary objects, cursors WITH HOLD and session settings to transactions of one shard; SHOW PINS on the console tells which statement it was.",
        "state_in_block",
    )
}

/// At ROLLBACK.
pub(super) fn lost_state() -> Error {
    unsupported(
        "the transaction of several shards is rolled back, and with it is lost what one server would have kept: session advisory locks, the seed of random(), connections of dblink",
        "Make it in a transaction of one shard, or in none; pg_advisory_xact_lock() ends with its transaction.",
        "state_in_block",
    )
}

/// `shard`: its name.
pub(super) fn notifies(shard: &str) -> Error {
    unsupported(
        format!(
            "the transaction notifies on shard {shard} and has written on another: who listens would hear of what is not there yet; it is rolled back"
        ),
        "Send NOTIFY after COMMIT, or on the shard that is written.",
        "notify_in_block",
    )
}

/// Of two-phase commit.
pub(super) fn another_role() -> Error {
    unsupported(
        "the transaction has written on several shards under a role of its own, and what is prepared as that role its session cannot commit; it is rolled back",
        "Send SET LOCAL ROLE NONE before COMMIT, or SET ROLE before BEGIN.",
        "role_in_block",
    )
}

/// At COMMIT.
pub(super) fn read_only() -> Error {
    unsupported(
        "a transaction that has written on several shards and is READ ONLY by now cannot be committed by two phases, which write what was decided; it is rolled back",
        "Leave SET TRANSACTION READ ONLY to transactions that write nothing, or that write on one shard.",
        "read_only_writes",
    )
}

pub(super) fn too_long() -> Error {
    unsupported(
        "the savepoints and settings of a transaction over several shards have become too many to tell them another shard",
        "Use fewer of them, or keep statements of one sharding key in one transaction.",
        "control_in_block",
    )
}

pub(super) fn sequences() -> Error {
    unsupported(
        "currval() and lastval() cannot be asked within a transaction of several shards: each has sequences of its own",
        "Use INSERT ... RETURNING.",
        "sequences_in_block",
    )
}

/// `shard`: its name.
pub(super) fn sets_unseen(shard: &str) -> Error {
    unsupported(
        format!(
            "code that runs on shard {shard} may set something for the transaction, which other shards of it would not know of"
        ),
        "Send SET LOCAL, SELECT set_config(..., true) or SET CONSTRAINTS by itself: it is told to all shards. Leave functions, triggers, policies and DO that set (also for the session), run EXECUTE, or are not read (other languages than SQL and PL/pgSQL) to transactions of one shard.",
        "settings_in_block",
    )
}

/// The same where that is not known, which passes: 40001, so that whoever tries again does. `shard`: its name.
pub(in crate::client) fn code_unknown(shard: &str) -> Error {
    Error::us(
        SqlState(*b"40001"),
        format!(
            "it is not known what code runs on shard {shard}: it may set something for the transaction, which other shards of it would not know of"
        ),
    )
    .hint("Functions, triggers or indexes are being changed, or the shard does not tell what they are, of which the log says more. Run the transaction again.")
    .because("settings_in_block")
}

pub(super) fn explains() -> Error {
    unsupported(
        "EXPLAIN of a statement for several shards is not supported within a transaction",
        "Send it outside of a transaction block.",
        "scatter_in_transaction",
    )
}

/// As PostgreSQL refuses it.
pub(super) fn portal_exists(name: &[u8]) -> Error {
    Error::client(SqlState(*b"42P03"), format!("cursor \"{}\" already exists", String::from_utf8_lossy(name)))
        .hint("Close the portal first.")
}

pub(super) fn curtailed() -> Error {
    unsupported(
        "a statement that writes on several shards gives its rows at once: there are no more of them to be fetched in parts",
        "Execute it without a limit of rows: set the fetch size or the maximum of rows to 0.",
        "row_limit",
    )
}

/// As PostgreSQL refuses it.
pub(super) fn alone() -> Error {
    Error::us(SqlState(*b"25001"), "over several shards the statement cannot run inside a transaction block")
        .hint("Send it outside of a transaction block.")
}

/// Why the block of one shard cannot go on with others.
pub(in crate::client) fn stays(names: &[String], shard: ShardIndex) -> Error {
    let name = names.get(usize::from(shard.0)).map_or("?", String::as_str);
    unsupported(
        format!("this transaction is bound to shard \"{name}\", and the statement needs others"),
        "Send BEGIN, SET LOCAL and savepoints by themselves, each when the one before is answered; what sets something for the session, or listens, keeps a transaction on its shard.",
        "leaves_shard",
    )
}

/// In the middle of a pipeline.
pub(in crate::client) fn pipelined() -> Error {
    unsupported(
        "within a transaction of several shards, a statement for others of them cannot be sent in a pipeline behind another",
        "Send a Sync before it.",
        "pipeline",
    )
}
