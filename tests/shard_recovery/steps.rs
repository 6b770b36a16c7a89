//! A server or pgweir that is killed in the middle of PREPARE TRANSACTION, of COMMIT PREPARED and of recovery.
//!
//! Before a transaction is prepared a deferred trigger holds PREPARE; afterwards, and when it is ended, the wait for a standby that does not
//! come: by then the step is on the disk, and only the answer is missing.

use super::*;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    Server,
    Weir,
    Both,
}

const ANY: [Killed; 3] = [Killed::Server, Killed::Weir, Killed::Both];

impl Bank {
    /// Waits until a text with such a statement waits on a shard for `event`.
    fn wait_for(&self, shard: usize, statement: &str, event: &str) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = '{event}' AND strpos(query, '{statement}') > 0"
        );
        eventually(&format!("{statement} waits"), SOON, || (self.shards[shard].value(&sql) == "1").then_some(()));
    }

    /// From now on whoever commits on the first shard is not told so. The client is the first who waits.
    fn hush(&self) -> RawClient {
        let first = &self.shards[0];
        first.sql("CREATE TABLE IF NOT EXISTS other (a int4)");
        eventually("the last one is gone", SOON, || {
            let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE starts_with(query, 'DO ')";
            (first.value(end) == "0").then_some(())
        });
        first.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
        first.reload();
        let mut waiting = first.client("postgres");
        // Not every process has read the setting at once.
        waiting.query("DO $$ BEGIN FOR i IN 1..10000 LOOP INSERT INTO other VALUES (i); COMMIT; PERFORM pg_sleep(0.01); END LOOP; END $$");
        self.wait_for(0, "DO $$", "SyncRep");
        waiting
    }

    /// Kills, while the first shard tells nobody of commits; what comes back tells again.
    fn kill_hushed(&self, killed: Killed) {
        self.shards[0].sql("ALTER SYSTEM RESET synchronous_standby_names");
        self.kill(killed);
        if killed == Killed::Weir {
            // What has waited goes on.
            self.shards[0].reload();
        }
        self.revive(killed);
    }

    fn kill(&self, killed: Killed) {
        if killed != Killed::Server {
            self.weir.kill9();
        }
        if killed != Killed::Weir {
            self.shards[0].kill9();
        }
    }

    fn revive(&self, killed: Killed) {
        if killed != Killed::Weir {
            self.shards[0].restart();
        }
        if killed != Killed::Server {
            self.weir.restart();
        }
    }

    /// Begins a transfer; the last of its texts is sent and not answered.
    fn send(&self, transfer: i64, by: By) -> RawClient {
        let (mut client, last) = self.begun(transfer, by);
        client.query(&last);
        client
    }

    /// A transfer after all that is as good as any.
    fn goes_on(&self, transfer: i64) {
        let (first, second) = keys(&self.shards);
        let at = usize::try_from(transfer).unwrap();
        let text = transfer_sql(transfer, first[at], second[at]);
        let mut client = self.weir.client("app");
        eventually("it goes on", SOON, || (client.run(&text) == "C(INSERT 0 2) Z(I)").then_some(()));
        assert_eq!(self.rows(transfer), ["1", "1"]);
    }
}

/// Nothing is prepared yet.
#[test]
fn killed_before_the_first_part_is_prepared() {
    let bank = Bank::start();
    let mut transfer = 1;
    for by in [By::Statement, By::Block] {
        for killed in ANY {
            bank.shards[0].sql(
                "CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(3600); RETURN NULL; END'; \
                 CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED \
                 FOR EACH ROW EXECUTE FUNCTION waits()",
            );
            let mut client = bank.send(transfer, by);
            bank.wait_for(0, "PREPARE TRANSACTION", "PgSleep");
            bank.kill(killed);
            if killed == Killed::Server {
                let answer = client.read_until_ready();
                assert_eq!(code(&answer), "08006", "{by:?}: {}", show(&answer));
            } else if killed == Killed::Weir {
                bank.shards[0].sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE wait_event = 'PgSleep' AND strpos(query, 'PREPARE TRANSACTION') > 0",
                );
            }
            bank.revive(killed);
            bank.wait_clean();
            assert_eq!(bank.rows(transfer), ["0", "0"], "{by:?} {killed:?}");
            eventually("the table is free", SOON, || {
                let drop = "SET lock_timeout = '1s'; DROP FUNCTION waits CASCADE";
                bank.shards[0].try_sql_in("postgres", drop).is_ok().then_some(())
            });
            bank.goes_on(transfer + 1);
            transfer += 2;
        }
    }
}

/// The first part is prepared, and nobody was told so.
#[test]
fn killed_when_the_first_part_is_prepared_and_not_answered() {
    let bank = Bank::start();
    let mut transfer = 1;
    for by in [By::Statement, By::Block] {
        for killed in ANY {
            let _waiting = bank.hush();
            let mut client = bank.send(transfer, by);
            bank.wait_for(0, "PREPARE TRANSACTION", "SyncRep");
            bank.kill_hushed(killed);
            if killed == Killed::Server {
                let answer = client.read_until_ready();
                assert_eq!(code(&answer), "08006", "{by:?}: {}", show(&answer));
            }
            bank.wait_clean();
            assert_eq!(bank.rows(transfer), ["0", "0"], "{by:?} {killed:?}");
            bank.goes_on(transfer + 1);
            transfer += 2;
        }
    }
}

/// It is decided, and done on the first shard, which has told nobody.
#[test]
fn killed_when_the_first_part_is_committed_and_not_answered() {
    let bank = Bank::start();
    let mut transfer = 1;
    for by in [By::Statement, By::Block] {
        for killed in ANY {
            let (mut client, mut blocker) = bank.held(transfer, by);
            let _waiting = bank.hush();
            blocker.run("ROLLBACK");
            bank.wait_for(0, "COMMIT PREPARED", "SyncRep");
            bank.kill_hushed(killed);
            if killed == Killed::Server {
                let answer = show(&client.read_until_ready());
                assert_eq!(answer, format!("N(WARNING 01000) C({}) Z(I)", tag(by)), "{by:?}");
            }
            bank.wait_clean();
            assert_eq!(bank.rows(transfer), ["1", "1"], "{by:?} {killed:?}");
            bank.goes_on(transfer + 1);
            transfer += 2;
        }
    }
}

/// Recovery ends what another has left, as it was decided, and is killed itself before it knows that it has; then once more.
#[test]
fn killed_while_what_was_left_is_ended() {
    let bank = Bank::start();
    let second = keys(&bank.shards).1;
    let mut transfer = 1;
    for decided in [false, true] {
        for killed in ANY {
            let mut blocker = bank.shards[1].client("postgres");
            for sql in ["BEGIN", "LOCK pgweir.dtx"] {
                assert!(blocker.run(sql).ends_with("Z(T)"), "{sql}");
            }
            bank.leave(transfer);
            if decided {
                let key = second[usize::try_from(transfer).unwrap()];
                for sql in [
                    "SET ROLE teller".to_owned(),
                    format!("INSERT INTO ledger VALUES ({key}, {transfer}, 7)"),
                    format!(
                        "INSERT INTO pgweir.dtx (gid, outcome, participants) \
                         VALUES ('pgweir:app:s1:{transfer:032x}', 'commit', 's0,s1')"
                    ),
                ] {
                    assert!(blocker.run(&sql).ends_with("Z(T)"), "{sql}");
                }
            }
            let _waiting = bank.hush();
            assert_eq!(blocker.run("COMMIT"), "C(COMMIT) Z(I)");
            bank.wait_for(0, if decided { "COMMIT PREPARED" } else { "ROLLBACK PREPARED" }, "SyncRep");
            bank.kill_hushed(killed);
            bank.wait_clean();
            let rows = if decided { ["1", "1"] } else { ["0", "0"] };
            assert_eq!(bank.rows(transfer), rows, "{decided} {killed:?}");
            bank.goes_on(transfer + 1);
            transfer += 2;
        }
    }
}
