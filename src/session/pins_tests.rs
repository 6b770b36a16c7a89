//! Pins against a small model of what a server holds: as long as there is anything, the session keeps its server, and when there is nothing
//! any more it does not.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::session::prepared::Registry;
use crate::wire::encode;
use crate::wire::frame::{self, Frame};

/// What rolls back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Kept {
    tables: BTreeSet<u8>,
    cursors: BTreeSet<u8>,
    /// What is made by a plain name is temporary.
    temp_first: bool,
}

/// A server that has tables, cursors, locks and statements, and answers what is asked about them.
#[derive(Debug, Default)]
struct Server {
    now: Kept,
    base: Option<Kept>,
    savepoint: Option<Kept>,
    failed: bool,
    /// Neither is undone.
    locks: BTreeMap<u8, u32>,
    statements: BTreeMap<u8, String>,
}

impl Server {
    fn holds_anything(&self) -> bool {
        let of_transaction = |kept: &Kept| !kept.tables.is_empty() || !kept.cursors.is_empty();
        of_transaction(&self.now) || !self.locks.is_empty() || !self.statements.is_empty()
    }

    fn status(&self) -> u8 {
        match (&self.base, self.failed) {
            (None, _) => b'I',
            (Some(_), false) => b'T',
            (Some(_), true) => b'E',
        }
    }

    fn end(&mut self, back: bool) {
        if let Some(base) = self.base.take().filter(|_| back) {
            self.now = base;
        }
        self.now.temp_first = false;
        self.savepoint = None;
        self.failed = false;
    }

    /// The tag and maybe a value, or the error.
    fn run(&mut self, sql: &str) -> Result<(&'static str, Option<&'static str>), &'static str> {
        let number = sql.bytes().rev().find(u8::is_ascii_digit).unwrap_or(b'0');
        let there = |is: bool, code| if is { Ok(()) } else { Err(code) };
        match sql {
            "COMMIT" | "ROLLBACK" => {
                let back = self.failed || sql == "ROLLBACK";
                self.end(back);
                return Ok((if back { "ROLLBACK" } else { "COMMIT" }, None));
            }
            "ROLLBACK TO s" if self.savepoint.is_some() => {
                self.failed = false;
                self.now = self.savepoint.clone().unwrap_or_default();
                return Ok(("ROLLBACK", None));
            }
            _ if self.failed => return Err("25P02"),
            _ => {}
        }
        Ok(match sql.split_once(' ').map_or(sql, |(first, _)| first) {
            "BEGIN" => {
                self.base.get_or_insert_with(|| self.now.clone());
                ("BEGIN", None)
            }
            "SAVEPOINT" if self.base.is_some() => {
                self.savepoint = Some(self.now.clone());
                ("SAVEPOINT", None)
            }
            "CREATE" if !sql.contains("TEMP") && !self.now.temp_first => ("CREATE TABLE", None),
            "CREATE" => {
                there(self.now.tables.insert(number), "42P07")?;
                ("CREATE TABLE", None)
            }
            "DROP" => {
                there(self.now.tables.remove(&number), "42P01")?;
                ("DROP TABLE", None)
            }
            "DECLARE" => {
                there(self.now.cursors.insert(number), "42P03")?;
                ("DECLARE CURSOR", None)
            }
            "CLOSE" => {
                there(self.now.cursors.remove(&number), "34000")?;
                // For good, whatever becomes of the transaction.
                for kept in self.base.iter_mut().chain(&mut self.savepoint) {
                    kept.cursors.remove(&number);
                }
                ("CLOSE CURSOR", None)
            }
            "PREPARE" => {
                let Some((_, inner)) = sql.split_once(" AS ") else { return Err("42601") };
                there(!self.statements.contains_key(&number), "42P05")?;
                self.statements.insert(number, inner.to_owned());
                ("PREPARE", None)
            }
            "EXECUTE" => {
                let inner = self.statements.get(&number).cloned();
                return inner.map_or(Err("26000"), |inner| self.run(&inner));
            }
            "DEALLOCATE" if sql.ends_with("ALL") => {
                self.statements.clear();
                ("DEALLOCATE ALL", None)
            }
            "DEALLOCATE" => {
                there(self.statements.remove(&number).is_some(), "26000")?;
                ("DEALLOCATE", None)
            }
            "DISCARD" => {
                there(self.base.is_none(), "25001")?;
                *self = Self::default();
                ("DISCARD ALL", None)
            }
            _ if sql.contains("pg_advisory_unlock_all") => {
                self.locks.clear();
                ("SELECT 1", Some(""))
            }
            _ if sql.contains("pg_advisory_unlock") => {
                let held = self.locks.get(&number).copied();
                match held {
                    Some(1) => drop(self.locks.remove(&number)),
                    Some(count) => drop(self.locks.insert(number, count - 1)),
                    None => {}
                }
                ("SELECT 1", Some(if held.is_some() { "t" } else { "f" }))
            }
            _ if sql.contains("pg_advisory_lock") => {
                *self.locks.entry(number).or_default() += 1;
                // It may hold the lock and fail all the same.
                there(!sql.contains("1/0"), "22012")?;
                ("SELECT 1", Some(""))
            }
            _ if sql.contains("pg_temp") => {
                self.now.temp_first = self.base.is_some();
                ("SELECT 1", Some("pg_temp"))
            }
            "SELECT" => ("SELECT 1", Some("1")),
            _ => return Err("42601"),
        })
    }

    /// The question that is asked behind the client's back: a column for each kind.
    fn look(&self, sql: &str) -> Vec<u8> {
        let columns: Vec<bool> = sql
            .split("EXISTS (")
            .skip(1)
            .map(|question| match question {
                _ if question.contains("pg_my_temp_schema") => !self.now.tables.is_empty(),
                _ if question.contains("pg_cursors") => !self.now.cursors.is_empty(),
                _ if question.contains("pg_locks") => !self.locks.is_empty(),
                _ if question.contains("pg_prepared_statements") => !self.statements.is_empty(),
                other => panic!("asks {other}"),
            })
            .collect();
        let mut out = Vec::new();
        encode::frame(&mut out, b'D', |body| {
            body.extend_from_slice(&i16::try_from(columns.len()).unwrap().to_be_bytes());
            for there in columns {
                body.extend_from_slice(&[0, 0, 0, 1, if there { b't' } else { b'f' }]);
            }
        });
        encode::command_complete(&mut out, "SELECT 1");
        out
    }

    fn answer(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) {
        assert_eq!(frame.tag, b'Q');
        let sql = std::str::from_utf8(message::query(frame.body()).unwrap()).unwrap();
        if sql.starts_with("SELECT EXISTS") {
            assert_eq!(self.status(), b'I', "it is asked outside of transactions");
            out.extend(self.look(sql));
        } else {
            match self.run(sql) {
                Ok((tag, value)) => {
                    if let Some(value) = value {
                        encode::frame(out, b'D', |body| {
                            body.extend_from_slice(&[0, 1, 0, 0, 0, u8::try_from(value.len()).unwrap()]);
                            body.extend_from_slice(value.as_bytes());
                        });
                    }
                    encode::command_complete(out, tag);
                }
                Err(code) => {
                    self.failed = self.base.is_some();
                    encode::error(out, &Error::server(SqlState::from_bytes(code.as_bytes()), "it fails"));
                }
            }
        }
        encode::frame(out, b'Z', |body| body.push(self.status()));
    }
}

/// What each text says, read once.
type Read = BTreeMap<&'static str, Arc<QueryFacts>>;

/// Queries that a client sends without waiting; everything is answered afterwards.
fn send(session: &mut Session, state: &mut ServerState, server: &mut Server, texts: &[&str], read: &Read) {
    let (registry, mut queries, mut to_server) = (Registry::default(), Vec::new(), Vec::new());
    texts.iter().for_each(|text| encode::query(&mut queries, text.as_bytes()));
    let mut rest = &queries[..];
    while let Some(frame) = frame::next(rest, 1 << 20).unwrap() {
        let facts = |sql: &[u8], _| Arc::clone(&read[std::str::from_utf8(sql).unwrap()]);
        let intake = session.intake(frame, &registry, facts, |_, _| None).unwrap();
        session.forward(intake, frame.bytes, state, &mut to_server);
        rest = &rest[frame.bytes.len()..];
    }
    while !to_server.is_empty() {
        let mut replies = Vec::new();
        let mut rest = &to_server[..];
        while let Some(frame) = frame::next(rest, 1 << 20).unwrap() {
            server.answer(frame, &mut replies);
            rest = &rest[frame.bytes.len()..];
        }
        let mut rest = &replies[..];
        while let Some(frame) = frame::next(rest, 1 << 20).unwrap() {
            session.on_server(frame.tag, frame.body(), state).expect("the model is in step");
            rest = &rest[frame.bytes.len()..];
        }
        to_server.clear();
        session.send_held(state, &mut to_server);
    }
}

const TEXTS: &[&str] = &[
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "CREATE TEMP TABLE t1 (v int)",
    "CREATE TEMP TABLE t2 (v int)",
    "DROP TABLE t1",
    "DROP TABLE t2",
    "DECLARE c1 CURSOR WITH HOLD FOR SELECT",
    "CLOSE c1",
    "PREPARE p1 AS SELECT 1",
    "EXECUTE p1",
    "DEALLOCATE p1",
    "PREPARE p2 AS SELECT pg_advisory_lock(2)",
    "EXECUTE p2",
    "DEALLOCATE p2",
    "PREPARE p3 AS SELECT pg_advisory_lock(3), 1/0 AS v3",
    "EXECUTE p3",
    "DEALLOCATE p3",
    "PREPARE p4 AS SELECT set_config('search_path', 'pg_temp', true) AS v4",
    "EXECUTE p4",
    "DEALLOCATE p4",
    "CREATE TABLE t4 (v int)",
    "DROP TABLE t4",
    "DEALLOCATE ALL",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_advisory_lock(2)",
    "SELECT pg_advisory_lock(1), 1/0 AS v1",
    "SELECT pg_advisory_unlock(1)",
    "SELECT pg_advisory_unlock(2)",
    "SELECT pg_advisory_unlock_all()",
    "DISCARD ALL",
    "nonsense",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_server_is_kept_as_long_as_it_holds_anything(
        turns in prop::collection::vec(prop::collection::vec(0..TEXTS.len(), 1..4), 1..30),
    ) {
        let mut session = Session::new(Keep::Transaction, true, ClientSettings::default());
        let (mut state, mut server) = (ServerState::new(10), Server::default());
        static READ: std::sync::OnceLock<Read> = std::sync::OnceLock::new();
        let facts = |text: &str| Arc::new(crate::sql::parse::facts(text.as_bytes()));
        let read = READ.get_or_init(|| TEXTS.iter().map(|text| (*text, facts(text))).collect());
        for turn in turns {
            let texts: Vec<&str> = turn.iter().map(|at| TEXTS[*at]).collect();
            send(&mut session, &mut state, &mut server, &texts, read);
            prop_assert!(session.is_drained());
            let free = server.status() == b'I' && !server.holds_anything();
            prop_assert_eq!(session.may_release(), free, "{:?} with {:?} after {:?}", session.pins(), server, texts);
            if free {
                session.on_release();
            }
        }
    }
}

/// What currval() and lastval() tell belongs to the transaction: behind it the answer is that nobody knows.
#[test]
fn sequence_values_keep_no_server() {
    let mut session = Session::new(Keep::Transaction, true, ClientSettings::default());
    let (mut state, mut out) = (ServerState::new(10), Vec::new());
    for text in ["SELECT lastval()", "SELECT currval('s')", "INSERT INTO t DEFAULT VALUES RETURNING currval('s')"] {
        let facts = Arc::new(crate::sql::parse::facts(text.as_bytes()));
        assert_eq!(session.would_pin(&facts), None, "{text}");
        session.forward(Intake::Query(facts), b"", &mut state, &mut out);
        assert!(!session.may_release());
        let mut answer = Vec::new();
        encode::command_complete(&mut answer, "SELECT 1");
        encode::frame(&mut answer, b'Z', |body| body.push(b'I'));
        let mut rest = &answer[..];
        while let Some(frame) = frame::next(rest, 1 << 20).unwrap() {
            session.on_server(frame.tag, frame.body(), &mut state).unwrap();
            rest = &rest[frame.bytes.len()..];
        }
        assert!(session.may_release() && !session.was_pinned(), "{text}");
    }
}

/// Two transactions after PREPARE the server says that nothing is there, which is true, and then EXECUTE makes it.
#[test]
fn what_a_statement_takes_when_it_is_executed_stays_without_it() {
    let mut session = Session::new(Keep::Transaction, true, ClientSettings::default());
    let (mut state, mut server) = (ServerState::new(10), Server::default());
    let steps: &[(&[&str], &str)] = &[
        (&["PREPARE p2 AS SELECT pg_advisory_lock(2)"], "EXECUTE p2"),
        (&["PREPARE p3 AS SELECT pg_advisory_lock(3), 1/0 AS v3"], "EXECUTE p3"),
        (&["PREPARE p4 AS SELECT set_config('search_path', 'pg_temp', true) AS v4"], "BEGIN"),
    ];
    let read = |text: &&'static str| (*text, Arc::new(crate::sql::parse::facts(text.as_bytes())));
    let more = ["SELECT 1", "CREATE TABLE t4 (v int)", "SELECT pg_advisory_unlock_all()", "DROP TABLE t4"];
    let read: Read = TEXTS.iter().chain(&more).map(read).collect();
    for (prepare, execute) in steps {
        let mut run = |text: &str| {
            send(&mut session, &mut state, &mut server, &[text], &read);
            (session.may_release(), server.holds_anything(), session.pins().to_vec())
        };
        prepare.iter().chain(&["SELECT 1", "SELECT 1", execute]).for_each(|text| drop(run(text)));
        if *execute == "BEGIN" {
            ["EXECUTE p4", "CREATE TABLE t4 (v int)", "COMMIT"].iter().for_each(|text| drop(run(text)));
        }
        let (released, held, pins) = run("DEALLOCATE ALL");
        assert!(held && !released, "{prepare:?}: {pins:?}");
        let (_, _, _) = (run("SELECT pg_advisory_unlock_all()"), run("DROP TABLE t4"), run("SELECT 1"));
        let (released, held, pins) = run("SELECT 1");
        assert!(released && !held, "{prepare:?}: {pins:?}");
    }
}
