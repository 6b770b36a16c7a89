//! What is left of a transaction whose proxy or server went away, and how it is ended: what is asked and what the answers mean.
//!
//! The part of a transaction that is prepared on a shard names the shard that decides. There a row `abort` is written unless there is a
//! row already; that waits for a transaction that is just writing its own. Then the row says what was decided, for good. A row counts
//! for `commit` only if it is of the user whose transaction it is: nobody can commit the work of another.

use std::collections::BTreeSet;

use super::gid::{self, Gid, PREFIX};

/// Makes the table of decisions. Users may read it, and write who decided nothing of it but its first three columns.
pub const CREATE_SQL: &str = "CREATE SCHEMA IF NOT EXISTS pgweir; \
    CREATE TABLE IF NOT EXISTS pgweir.dtx (gid text PRIMARY KEY, \
      outcome text NOT NULL CHECK (outcome IN ('commit', 'abort')), participants text NOT NULL, \
      owner name NOT NULL DEFAULT current_user, xid bigint NOT NULL DEFAULT pg_catalog.txid_current(), \
      at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()); \
    GRANT USAGE ON SCHEMA pgweir TO PUBLIC; \
    GRANT SELECT, INSERT (gid, outcome, participants) ON pgweir.dtx TO PUBLIC";

/// Asks for `max_prepared_transactions` and whether the table is there: one row.
pub const READY_SQL: &str = "SELECT pg_catalog.current_setting('max_prepared_transactions'), \
    pg_catalog.to_regclass('pgweir.dtx') IS NOT NULL";

/// Asks whether the transaction has written: one row, `t` or `f`.
pub const WROTE_SQL: &str = "SELECT pg_catalog.txid_current_if_assigned() IS NOT NULL";

/// Asks for the parts that are prepared in this database for at least so many seconds: name and owner.
#[must_use]
pub fn parts_sql(database: &str, seconds: u64) -> String {
    format!(
        "SELECT gid, owner FROM pg_catalog.pg_prepared_xacts \
         WHERE database = pg_catalog.current_database() AND pg_catalog.starts_with(gid, '{}') \
           AND prepared <= pg_catalog.now() - interval '{seconds} s'",
        prefix(database)
    )
}

/// Asks for the decisions of a database: name, outcome, and whether every transaction is over that began before it.
#[must_use]
pub fn decisions_sql(database: &str) -> String {
    format!(
        "SELECT gid, outcome, xid < pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot()) \
         FROM pgweir.dtx WHERE pg_catalog.starts_with(gid, '{}') LIMIT 10000",
        prefix(database)
    )
}

fn prefix(database: &str) -> String {
    format!("{PREFIX}{}:", gid::encode(database))
}

/// Writes down that a transaction is committed, as a part of it, and commits it.
#[must_use]
pub fn decide_sql(gid: &Gid, participants: &[&str]) -> String {
    let participants: Vec<String> = participants.iter().map(|shard| gid::encode(shard)).collect();
    format!(
        "INSERT INTO pgweir.dtx (gid, outcome, participants) VALUES ('{}', 'commit', '{}'); COMMIT",
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

/// Asks what was decided: outcome, who decided, and whether that is the user who asks.
#[must_use]
pub fn decision_sql(gid: &Gid) -> String {
    format!("SELECT outcome, owner, owner = current_user FROM pgweir.dtx WHERE gid = '{}'", gid.whole())
}

/// Forgets decisions.
#[must_use]
pub fn forget_sql(gids: &[String]) -> String {
    let quoted: Vec<String> = gids.iter().map(|gid| format!("'{gid}'")).collect();
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
}

/// Reads an answer to [`parts_sql`] of a shard. What is not the part of this database's transaction on this very shard is left alone.
#[must_use]
pub fn found(database: &str, shard: &str, rows: &[Vec<Option<String>>]) -> Vec<Found> {
    let read = |row: &Vec<Option<String>>| {
        let (name, owner) = (row.first()?.clone()?, row.get(1)?.clone()?);
        let (gid, of) = Gid::of_part(&name)?;
        (gid.database == database && of == shard).then_some(Found { gid, name, owner })
    };
    rows.iter().filter_map(read).collect()
}

/// Whether a decision, as [`decision_sql`] answers, has the transaction of `owner` committed; none: it was not decided.
#[must_use]
pub fn commits(rows: &[Vec<Option<String>>], owner: &str) -> Option<bool> {
    let row = rows.first()?;
    let cell = |at: usize| row.get(at).and_then(Option::as_deref);
    Some(cell(0)? == "commit" && cell(1)? == owner)
}

/// The decisions that nothing can need any more, by an answer to [`decisions_sql`]: no transaction runs that could still decide the
/// other way, and no part waits for them. `waiting` was asked of all shards after that.
#[must_use]
pub fn forgettable(rows: &[Vec<Option<String>>], waiting: &BTreeSet<Gid>) -> Vec<String> {
    let read = |row: &Vec<Option<String>>| {
        let (name, settled) = (row.first()?.clone()?, row.get(2)?.as_deref()? == "t");
        let gid = Gid::read(&name)?;
        (settled && !waiting.contains(&gid)).then_some(name)
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
        let rows = [row(&[&own, "u"]), row(&[&elsewhere, "u"]), row(&[&other, "u"]), row(&["theirs", "u"]), Vec::new()];
        assert_eq!(found("app", "s0", &rows), [Found { gid: gid(1), name: own, owner: "u".into() }]);
    }

    #[test]
    fn nobody_commits_for_another() {
        assert_eq!(commits(&[row(&["commit", "u", "t"])], "u"), Some(true));
        assert_eq!(commits(&[row(&["commit", "v", "f"])], "u"), Some(false));
        assert_eq!(commits(&[row(&["abort", "u", "t"])], "u"), Some(false));
        assert_eq!(commits(&[], "u"), None);
    }

    #[test]
    fn decisions_stay_as_long_as_they_may_be_needed() {
        let rows = [
            row(&[&gid(1).whole(), "commit", "t"]),
            row(&[&gid(2).whole(), "abort", "f"]),
            row(&[&gid(3).whole(), "commit", "t"]),
            row(&["x", "commit", "t"]),
        ];
        assert_eq!(forgettable(&rows, &BTreeSet::from([gid(3)])), [gid(1).whole()]);
    }
}
