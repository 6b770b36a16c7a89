//! What is left of a transaction whose proxy or server went away, and how it is ended: what is asked and what the answers mean.
//!
//! The part of a transaction that is prepared on a shard names the shard that decides. There a row `abort` is written unless there is a
//! row already; that waits for a transaction that is just writing its own. Then the row says what was decided, for good. A row counts
//! for `commit` only if it is of the user whose transaction it is: nobody can commit the work of another. That user is the current one of
//! the transaction, which after SET ROLE is not the one who has logged in.
//!
//! Who commits shows that it lives by an advisory lock on the shard that decides: its transaction there has it from before the first part is
//! prepared to its end, however that comes. Nobody writes `abort` while it is held, up to a time by which every commit is over.

use std::collections::BTreeSet;

use super::gid::{self, Gid, PREFIX};

/// Makes the table of decisions. Users may read it, and write who decided nothing of it but its first three columns.
pub const CREATE_SQL: &str = "CREATE SCHEMA IF NOT EXISTS pgweir; \
    CREATE TABLE IF NOT EXISTS pgweir.dtx (gid text PRIMARY KEY, \
      outcome text NOT NULL CHECK (outcome IN ('commit', 'abort')), participants text NOT NULL, \
      owner name NOT NULL DEFAULT current_user, xid bigint NOT NULL DEFAULT pg_catalog.txid_current(), \
      at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()); \
    CREATE INDEX IF NOT EXISTS dtx_at ON pgweir.dtx (at); \
    GRANT USAGE ON SCHEMA pgweir TO PUBLIC; \
    GRANT SELECT, INSERT (gid, outcome, participants) ON pgweir.dtx TO PUBLIC";

/// Asks for `max_prepared_transactions`, whether the table is there, and if so whether it has its columns and who asks may delete from it:
/// one row.
pub const READY_SQL: &str = "SELECT pg_catalog.current_setting('max_prepared_transactions'), \
    pg_catalog.to_regclass('pgweir.dtx') IS NOT NULL, \
    (SELECT pg_catalog.count(*) = 6 FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass('pgweir.dtx') \
       AND attname IN ('gid', 'outcome', 'participants', 'owner', 'xid', 'at') AND NOT attisdropped), \
    pg_catalog.has_table_privilege(pg_catalog.to_regclass('pgweir.dtx')::pg_catalog.oid, 'DELETE')";

/// Asks whether there is a table of decisions: one row, `t` or `f`.
pub const DECIDES_SQL: &str = "SELECT pg_catalog.to_regclass('pgweir.dtx') IS NOT NULL";

/// Asks whether the transaction has written, `t` or `f`, and for the user whose it is, as [`decision_sql`] tells of who decided: one row.
///
/// The bytes of the name are in hexadecimal digits: the client may speak another encoding than who asks later.
pub const WROTE_SQL: &str = "SELECT pg_catalog.txid_current_if_assigned() IS NOT NULL, \
    pg_catalog.encode(pg_catalog.convert_to(current_user::pg_catalog.text, pg_catalog.getdatabaseencoding()), 'hex')";

/// For connections that ask what was decided: nobody waits for a lock without end, and names are read as UTF-8.
pub const ASKING_SQL: &str = "SET lock_timeout = '5s'; SET client_encoding = 'UTF8'";

/// Has the end of a transaction outlive a crash of its server, and wait for the standbys that others wait for, whatever the session has set:
/// the other shards rely on it. To be sent before that, in one text.
const DURABLE_SQL: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'on', true) \
    WHERE pg_catalog.current_setting('synchronous_commit') IN ('off', 'local')";

/// Seconds after which a part is taken for left behind if nobody holds its transaction's lock. Being wrong costs a transaction, not its
/// atomicity.
pub const LEFT_BEHIND: u64 = 5;
/// Seconds after which it is whoever holds the lock: longer than a step of a commit and finding out about it may take.
pub const OVERDUE: u64 = 90;

/// Asks for the parts that are prepared in this database for at least so many seconds: name, owner, and whether they are overdue.
#[must_use]
pub fn parts_sql(database: &str, seconds: u64) -> String {
    format!(
        "SELECT gid, owner, prepared <= pg_catalog.now() - interval '{OVERDUE} s' FROM pg_catalog.pg_prepared_xacts \
         WHERE database = pg_catalog.current_database() AND pg_catalog.starts_with(gid, '{}') \
           AND prepared <= pg_catalog.now() - interval '{seconds} s'",
        prefix(database)
    )
}

/// Asks for the decisions of a database that may be forgotten: name, outcome, participants; the oldest, and not all at once. Every
/// transaction is over that began before them, and they are an hour old: a standby that takes over without the last seconds of what a shard has
/// acknowledged may bring a part back.
#[must_use]
pub fn decisions_sql(database: &str) -> String {
    format!(
        "SELECT gid, outcome, participants FROM pgweir.dtx \
         WHERE pg_catalog.starts_with(gid, '{}') AND at < pg_catalog.clock_timestamp() - interval '1 hour' \
           AND xid < pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot()) ORDER BY at LIMIT 10000",
        prefix(database)
    )
}

fn prefix(database: &str) -> String {
    format!("{PREFIX}{}:", gid::encode(database))
}

/// Takes the lock that shows that a transaction is being committed, until its part on the shard that decides has ended.
#[must_use]
pub fn hold_sql(gid: &Gid) -> String {
    format!("SELECT pg_catalog.pg_advisory_xact_lock_shared({})", lock(gid))
}

/// Asks whether nobody has that lock: one row, `t` or `f`.
#[must_use]
pub fn unheld_sql(gid: &Gid) -> String {
    format!("SELECT pg_catalog.pg_try_advisory_xact_lock({})", lock(gid))
}

/// The number of the lock: as random as the transaction's own.
fn lock(gid: &Gid) -> i64 {
    let bytes = gid.number.to_be_bytes();
    let mut low = [0; 8];
    low.copy_from_slice(bytes.last_chunk::<8>().unwrap_or(&[0; 8]));
    i64::from_be_bytes(low)
}

/// Prepares the part of a shard.
#[must_use]
pub fn prepare_sql(gid: &Gid, shard: &str) -> String {
    format!("{DURABLE_SQL}; PREPARE TRANSACTION '{}'", gid.part(shard))
}

/// Writes down that a transaction is committed, as a part of it, and commits it.
#[must_use]
pub fn decide_sql(gid: &Gid, participants: &[&str]) -> String {
    let participants: Vec<String> = participants.iter().map(|shard| gid::encode(shard)).collect();
    format!(
        "{DURABLE_SQL}; INSERT INTO pgweir.dtx (gid, outcome, participants) VALUES ('{}', 'commit', '{}'); COMMIT",
        gid.whole(),
        participants.join(",")
    )
}

/// Makes sure that a transaction is decided: by what is there, else it is rolled back.
#[must_use]
pub fn abort_sql(gid: &Gid) -> String {
    format!(
        "INSERT INTO pgweir.dtx (gid, outcome, participants) VALUES ('{}', 'abort', '') ON CONFLICT (gid) DO NOTHING",
        gid.whole()
    )
}

/// Asks what was decided: outcome, and who decided, by name and as [`WROTE_SQL`] tells it.
#[must_use]
pub fn decision_sql(gid: &Gid) -> String {
    format!(
        "SELECT outcome, owner, pg_catalog.encode(pg_catalog.convert_to(owner::pg_catalog.text, pg_catalog.getdatabaseencoding()), 'hex') \
         FROM pgweir.dtx WHERE gid = '{}'",
        gid.whole()
    )
}

/// Forgets decisions, by the names that the table has.
#[must_use]
pub fn forget_sql(gids: &[String]) -> String {
    let quote = |gid: &String| format!("E'{}'", gid.replace('\\', "\\\\").replace('\'', "''"));
    let quoted: Vec<String> = gids.iter().map(quote).collect();
    format!("DELETE FROM pgweir.dtx WHERE gid IN ({})", quoted.join(", "))
}

/// A part that is prepared on a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its transaction.
    pub gid: Gid,
    /// Its own name.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// Whether it is ended even if its proxy seems to live.
    pub overdue: bool,
}

/// Whose transaction it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// By name.
    Name(&'a str),
    /// As [`WROTE_SQL`] tells it on the shard that decides.
    Digits(&'a str),
}

/// Reads an answer to [`parts_sql`] of a shard. What is not the part of this database's transaction on this very shard is left alone.
#[must_use]
pub fn found(database: &str, shard: &str, rows: &[Vec<Option<String>>]) -> Vec<Found> {
    let read = |row: &Vec<Option<String>>| {
        let (name, owner) = (row.first()?.clone()?, row.get(1)?.clone()?);
        let (gid, of) = Gid::of_part(&name)?;
        let overdue = row.get(2).and_then(Option::as_deref) == Some("t");
        (gid.database == database && of == shard).then_some(Found { gid, name, owner, overdue })
    };
    rows.iter().filter_map(read).collect()
}

/// Whether a decision, as [`decision_sql`] answers, has the transaction of `owner` committed; none: it was not decided.
#[must_use]
pub fn commits(rows: &[Vec<Option<String>>], owner: Owner<'_>) -> Option<bool> {
    let row = rows.first()?;
    let cell = |at: usize| row.get(at).and_then(Option::as_deref);
    let own = match owner {
        Owner::Name(name) => cell(1)? == name,
        Owner::Digits(digits) => cell(2)? == digits,
    };
    Some(cell(0)? == "commit" && own)
}

/// The decisions that nothing can need any more, by an answer to [`decisions_sql`]: no part waits for them. `waiting` was asked of the
/// shards `asked` after that. A commit must not be forgotten before all its participants were asked, and these may be more than this
/// proxy's configuration has; without a row nothing is committed, so that the others are not needed. Names that are not ours are
/// of nobody.
#[must_use]
pub fn forgettable(rows: &[Vec<Option<String>>], waiting: &BTreeSet<Gid>, asked: &BTreeSet<String>) -> Vec<String> {
    let asked: BTreeSet<String> = asked.iter().map(|shard| gid::encode(shard)).collect();
    let read = |row: &Vec<Option<String>>| {
        let (name, outcome, participants) = (row.first()?.clone()?, row.get(1)?.as_deref()?, row.get(2)?.as_deref()?);
        let Some(gid) = Gid::read(&name) else { return Some(name) };
        let complete = outcome != "commit" || participants.split(',').all(|shard| asked.contains(shard));
        (complete && !waiting.contains(&gid)).then_some(name)
    };
    rows.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<Option<String>> {
        cells.iter().map(|cell| Some((*cell).to_owned())).collect()
    }

    fn gid(number: u128) -> Gid {
        Gid { database: "app".into(), decides: "s1".into(), number }
    }

    #[test]
    fn only_own_parts_are_found() {
        let own = gid(1).part("s0");
        let elsewhere = gid(1).part("s2");
        let other = Gid { database: "other".into(), ..gid(1) }.part("s0");
        let rows = [
            row(&[&own, "u", "t"]),
            row(&[&elsewhere, "u", "f"]),
            row(&[&other, "u", "f"]),
            row(&["theirs", "u", "f"]),
            Vec::new(),
        ];
        let expected = Found { gid: gid(1), name: own, owner: "u".into(), overdue: true };
        assert_eq!(found("app", "s0", &rows), [expected]);
    }

    #[test]
    fn nobody_commits_for_another() {
        let row = |outcome| [row(&[outcome, "u", "75"])];
        for (owner, expected) in [
            (Owner::Name("u"), true),
            (Owner::Name("v"), false),
            (Owner::Name("75"), false),
            (Owner::Digits("75"), true),
            (Owner::Digits("76"), false),
            (Owner::Digits(""), false),
        ] {
            assert_eq!(commits(&row("commit"), owner), Some(expected), "{owner:?}");
            assert_eq!(commits(&row("abort"), owner), Some(false), "{owner:?}");
        }
        assert_eq!(commits(&[], Owner::Name("u")), None);
    }

    #[test]
    fn decisions_stay_as_long_as_they_may_be_needed() {
        let rows = [
            row(&[&gid(1).whole(), "commit", "s%200,s1"]),
            row(&[&gid(2).whole(), "commit", "s%200,s1,s2"]),
            row(&[&gid(3).whole(), "commit", "s1"]),
            row(&[&gid(4).whole(), "abort", ""]),
            row(&["pgweir:app:it's", "commit", "s2"]),
            Vec::new(),
        ];
        let asked = BTreeSet::from(["s 0".to_owned(), "s1".to_owned()]);
        let forgotten = forgettable(&rows, &BTreeSet::from([gid(3)]), &asked);
        assert_eq!(forgotten, [gid(1).whole(), gid(4).whole(), "pgweir:app:it's".to_owned()]);
        assert!(forget_sql(&forgotten).ends_with(", E'pgweir:app:it''s')"));
    }
}
