//! The session between a scripted client and a small model of a server, joined in memory.

mod portals;

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::session::prepared::Registry;
use crate::wire::encode;
use crate::wire::frame::{self, Frame};
use crate::wire::message::Target;

const COPY_NOWHERE: &[u8] = b"COPY nowhere FROM STDIN";

/// A server as far as the protocol goes: it knows names, fails where PostgreSQL would, and skips to Sync.
#[derive(Default)]
struct Server {
    names: HashSet<Vec<u8>>,
    portals: HashSet<Vec<u8>>,
    /// Statements and portals that copy into a table which is not there.
    copies: (HashSet<Vec<u8>>, HashSet<Vec<u8>>),
    skipping: bool,
    status: Option<u8>,
}

impl Server {
    fn status(&self) -> u8 {
        self.status.unwrap_or(b'I')
    }

    fn error(out: &mut Vec<u8>, code: &str, message: &str) {
        let state = SqlState::from_bytes(code.as_bytes());
        encode::error(out, &Error::server(state, message));
    }

    fn ready(&self, out: &mut Vec<u8>) {
        encode::frame(out, b'Z', |b| b.push(self.status()));
    }

    fn fail(&mut self, out: &mut Vec<u8>, code: &str, message: &str) {
        Self::error(out, code, message);
        self.skipping = true;
        if self.status() == b'T' {
            self.status = Some(b'E');
        }
    }

    fn run(&mut self, sql: &[u8]) -> Result<&'static str, &'static str> {
        match sql {
            _ if sql.starts_with(b"EXECUTE ") => {
                if self.names.contains(&sql[8..]) {
                    Ok("SELECT 1")
                } else {
                    Err("26000")
                }
            }
            b"BEGIN" => {
                self.status = Some(b'T');
                Ok("BEGIN")
            }
            b"COMMIT" => {
                self.status = Some(b'I');
                Ok("COMMIT")
            }
            b"BAD" | REFUSED_SQL => Err("42601"),
            _ => Ok("SELECT 1"),
        }
    }

    fn answer(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) {
        let body = frame.body();
        if self.skipping && frame.tag != b'S' {
            return;
        }
        match frame.tag {
            b'Q' => {
                let sql = message::query(body).unwrap();
                match self.run(sql) {
                    Ok(tag) => encode::command_complete(out, tag),
                    Err(code) => {
                        Self::error(out, code, "it fails");
                        if self.status() == b'T' {
                            self.status = Some(b'E');
                        }
                    }
                }
                self.ready(out);
            }
            b'P' => {
                let parse = message::parse(body).unwrap();
                // The unnamed statement goes before the next one's text is read.
                if parse.name.is_empty() {
                    self.names.remove(&b""[..]);
                }
                // PostgreSQL looks at the text first; a bad text under a taken name fails either way.
                if !parse.name.is_empty() && self.names.contains(parse.name) {
                    let text = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(parse.name));
                    self.fail(out, "42P05", &text);
                } else if parse.sql == REFUSED_SQL || parse.sql == b"BAD" {
                    self.fail(out, "42601", "syntax error");
                } else {
                    self.names.insert(parse.name.to_vec());
                    self.copies.0.remove(parse.name);
                    if parse.sql == COPY_NOWHERE {
                        self.copies.0.insert(parse.name.to_vec());
                    }
                    out.extend_from_slice(encode::PARSE_COMPLETE);
                }
            }
            b'B' => {
                let bind = message::bind(body).unwrap();
                if self.names.contains(bind.statement) {
                    self.portals.insert(bind.portal.to_vec());
                    self.copies.1.remove(bind.portal);
                    if self.copies.0.contains(bind.statement) {
                        self.copies.1.insert(bind.portal.to_vec());
                    }
                    out.extend_from_slice(encode::BIND_COMPLETE);
                } else {
                    let text =
                        format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(bind.statement));
                    self.fail(out, "26000", &text);
                }
            }
            b'E' => {
                let portal = message::execute(body).unwrap().portal;
                if self.copies.1.contains(portal) {
                    self.fail(out, "42P01", "relation \"nowhere\" does not exist");
                } else if self.portals.contains(portal) {
                    encode::command_complete(out, "SELECT 1");
                } else {
                    self.fail(out, "34000", "portal does not exist");
                }
            }
            b'D' => match message::target(body).unwrap() {
                Target::Statement(name) if self.names.contains(name) => {
                    encode::frame(out, b't', |b| b.extend_from_slice(&[0, 0]));
                    out.extend_from_slice(encode::NO_DATA);
                }
                Target::Portal(name) if self.portals.contains(name) => out.extend_from_slice(encode::NO_DATA),
                _ => self.fail(out, "26000", "does not exist"),
            },
            b'C' => {
                match message::target(body).unwrap() {
                    Target::Statement(name) => self.names.remove(name),
                    Target::Portal(name) => self.portals.remove(name),
                };
                out.extend_from_slice(encode::CLOSE_COMPLETE);
            }
            b'S' => {
                self.skipping = false;
                self.portals.clear();
                self.ready(out);
            }
            _ => {}
        }
    }
}

/// Client, session and server.
struct World {
    session: Session,
    registry: Registry,
    state: ServerState,
    server: Server,
}

impl World {
    fn new(max_statements: usize) -> Self {
        Self {
            session: Session::new(Keep::Transaction, true, ClientSettings::default()),
            registry: Registry::default(),
            state: ServerState::new(max_statements),
            server: Server::default(),
        }
    }

    /// Another server, with nothing prepared; only between transactions.
    fn switch_server(&mut self, max_statements: usize) {
        if self.session.may_release() {
            self.state = ServerState::new(max_statements);
            self.server = Server::default();
        }
    }

    /// The client sends `bytes`; what it receives. As in the relay, what follows a Sync waits while names are in doubt; otherwise all
    /// is forwarded first, so that the pipeline is as long as it gets.
    fn send(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut received = Vec::new();
        let mut from = 0;
        let mut to = 0;
        let mut unnamed = false;
        while let Some(frame) = frame::next(&bytes[to..], 1 << 20).unwrap() {
            to += frame.bytes.len();
            unnamed |= matches!(frame.tag, b'P' | b'C');
            if matches!(frame.tag, b'S' | b'Q') && unnamed {
                received.extend(self.send_at_once(&bytes[from..to]));
                (from, unnamed) = (to, false);
            }
        }
        received.extend(self.send_at_once(&bytes[from..]));
        received
    }

    fn send_at_once(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut to_server = Vec::new();
        let mut rest = bytes;
        let mut received = Vec::new();
        while let Some(frame) = frame::next(rest, 1 << 20).unwrap() {
            let facts = |sql: &[u8], _| match sql.starts_with(b"EXECUTE ") || sql == COPY_NOWHERE {
                true => Arc::new(crate::sql::parse::facts(sql)),
                false => Arc::default(),
            };
            // Some unnamed statements are kept by servers: the client is to see no difference.
            let popular = |parse: &message::Parse<'_>, _: &Reader<'_>| {
                let kept = parse.sql.len().is_multiple_of(2) && parse.sql != COPY_NOWHERE;
                kept.then(|| {
                    self.registry
                        .intern(parse, &Reader::usual(&ClientSettings::default()), || facts(parse.sql, Values::Needed))
                })
            };
            let intake = self.session.intake(frame, &self.registry, facts, popular).unwrap();
            self.session.forward(intake, frame.bytes, &mut self.state, &mut to_server);
            rest = &rest[frame.bytes.len()..];
        }
        self.session.take_local(&mut received);
        while !to_server.is_empty() {
            self.serve(&to_server, &mut received);
            to_server.clear();
            self.session.send_held(&mut self.state, &mut to_server);
        }
        if self.session.may_release() {
            let own = |name: &Vec<u8>| name.is_empty() || name.starts_with(b"pgweir_");
            assert!(self.server.names.iter().all(own), "the next client would find {:?}", self.server.names);
            assert!(!self.session.has_lent());
        }
        received
    }

    /// The server answers, and the client receives.
    fn serve(&mut self, to_server: &[u8], received: &mut Vec<u8>) {
        let mut replies = Vec::new();
        let mut rest = to_server;
        while let Some(frame) = frame::next(rest, 1 << 20).unwrap() {
            self.server.answer(frame, &mut replies);
            rest = &rest[frame.bytes.len()..];
        }
        let mut rest = &replies[..];
        while let Some(frame) = frame::next(rest, 1 << 20).unwrap() {
            match self.session.on_server(frame.tag, frame.body(), &mut self.state).expect("the model is in step") {
                Action::Forward => received.extend_from_slice(frame.bytes),
                Action::Swallow => {}
                Action::Replace(bytes) => received.extend_from_slice(&bytes),
            }
            self.session.take_local(received);
            rest = &rest[frame.bytes.len()..];
        }
    }
}

/// The types of messages, an error with its code: `1 2 C Z`, `E26000 Z`.
fn show(mut bytes: &[u8]) -> String {
    let mut words = Vec::new();
    while let Some(frame) = frame::next(bytes, 1 << 20).unwrap() {
        words.push(match frame.tag {
            b'E' => format!("E{}", String::from_utf8_lossy(message::error_field(frame.body(), b'C').unwrap())),
            b'Z' => format!("Z{}", char::from(frame.body()[0])),
            tag => char::from(tag).to_string(),
        });
        bytes = &bytes[frame.bytes.len()..];
    }
    words.join(" ")
}

fn parse(out: &mut Vec<u8>, name: &str, sql: &str) {
    encode::parse(out, name.as_bytes(), sql.as_bytes(), &[0, 0]);
}

fn bind(out: &mut Vec<u8>, name: &str) {
    encode::bind(out, b"", name.as_bytes(), &[0, 0, 0, 0, 0, 0]);
}

fn execute(out: &mut Vec<u8>) {
    encode::frame(out, b'E', |b| b.extend_from_slice(&[0, 0, 0, 0, 0]));
}

fn send(world: &mut World, write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    show(&world.send(&out))
}

#[test]
fn a_statement_follows_the_client_to_another_server() {
    let mut w = World::new(10);
    assert_eq!(
        send(&mut w, |o| {
            parse(o, "s", "SELECT 1");
            encode::sync(o)
        }),
        "1 ZI"
    );
    w.switch_server(10);
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "s");
            execute(o);
            encode::sync(o)
        }),
        "2 C ZI"
    );
    assert_eq!(w.state.statements.len(), 1);
    assert!(w.session.may_release());
}

#[test]
fn sql_finds_what_the_protocol_has_prepared() {
    let mut w = World::new(10);
    let run = |w: &mut World, sql: &str| send(w, |o| encode::query(o, sql.as_bytes()));
    assert_eq!(run(&mut w, "EXECUTE s"), "E26000 ZI");
    assert_eq!(
        send(&mut w, |o| {
            parse(o, "s", "SELECT 1");
            encode::sync(o);
        }),
        "1 ZI"
    );
    assert_eq!(run(&mut w, "EXECUTE s"), "C ZI");
    w.switch_server(10);
    assert_eq!(run(&mut w, "EXECUTE s"), "C ZI");
    assert!(!w.server.names.contains(&b"s"[..]), "it is taken back");
    assert!(w.session.may_release());
    // One that the server does not take any more fails by its own error, and what follows is in step.
    let gone = w.registry.intern(
        &message::Parse { name: b"", sql: b"BAD", types: &[0, 0] },
        &Reader::usual(&ClientSettings::default()),
        Arc::default,
    );
    w.session.names.insert(b"s"[..].into(), gone);
    assert_eq!(run(&mut w, "EXECUTE s"), "E42601 ZI");
    assert_eq!(run(&mut w, "SELECT 1"), "C ZI");
    assert_eq!(run(&mut w, "BEGIN"), "C ZT");
    assert_eq!(run(&mut w, "EXECUTE s"), "E42601 ZE");
}

#[test]
fn what_is_lent_in_an_exchange_is_taken_back_however_that_ends() {
    let lend = |o: &mut Vec<u8>| {
        parse(o, "", "EXECUTE s");
        bind(o, "");
        execute(o);
    };
    let prepared = || {
        let mut w = World::new(10);
        send(&mut w, |o| {
            parse(o, "s", "SELECT 1");
            encode::sync(o);
        });
        w
    };
    // By a Sync that waits for a COPY, which fails. (The world looks whether a server that may be released has the name.)
    let mut w = prepared();
    let answer = send(&mut w, |o| {
        lend(o);
        parse(o, "", std::str::from_utf8(COPY_NOWHERE).unwrap());
        bind(o, "");
        execute(o);
        encode::sync(o);
    });
    assert_eq!(answer, "1 2 C 1 2 E42P01 ZI");
    assert!(w.session.may_release());
    // By a Query that is refused.
    let mut w = prepared();
    assert_eq!(send(&mut w, lend), "1 2 C");
    assert!(w.session.has_lent() && !w.session.may_release());
    let mut to_server = Vec::new();
    let error = Box::new(Error::client(SqlState::FEATURE_NOT_SUPPORTED, "no"));
    w.session.forward(Intake::Refuse { error, simple: true }, &[], &mut w.state, &mut to_server);
    let mut received = Vec::new();
    w.serve(&to_server, &mut received);
    assert_eq!(show(&received), "E0A000 ZI");
    // A Sync of ours might have ended what an error of the exchange has passed over: only now it is certain that there was none.
    assert!(w.session.has_lent());
    to_server.clear();
    w.session.send_held(&mut w.state, &mut to_server);
    w.serve(&to_server, &mut received);
    assert!(w.session.may_release() && !w.server.names.contains(&b"s"[..]), "{:?}", w.server.names);
}

#[test]
fn a_duplicate_name_is_an_error_and_the_session_lives_on() {
    let mut w = World::new(10);
    send(&mut w, |o| {
        parse(o, "s", "SELECT 1");
        encode::sync(o)
    });
    let bytes = {
        let mut o = Vec::new();
        parse(&mut o, "s", "SELECT 2");
        encode::sync(&mut o);
        w.send(&o)
    };
    assert_eq!(show(&bytes), "E42P05 ZI");
    assert!(String::from_utf8_lossy(&bytes).contains("prepared statement \"s\" already exists"));
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "s");
            execute(o);
            encode::sync(o)
        }),
        "2 C ZI"
    );
}

#[test]
fn a_name_whose_parse_failed_is_free_again() {
    let mut w = World::new(10);
    assert_eq!(
        send(&mut w, |o| {
            parse(o, "s", "BAD");
            encode::sync(o)
        }),
        "E42601 ZI"
    );
    assert_eq!(
        send(&mut w, |o| {
            parse(o, "s", "SELECT 1");
            encode::sync(o)
        }),
        "1 ZI"
    );
}

#[test]
fn parse_that_was_skipped_did_not_happen() {
    let mut w = World::new(10);
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "none");
            parse(o, "s", "SELECT 1");
            encode::sync(o)
        }),
        "E26000 ZI"
    );
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "s");
            encode::sync(o)
        }),
        "E26000 ZI"
    );
    assert!(w.state.statements.is_empty());
}

#[test]
fn an_eviction_that_was_skipped_leaves_the_statement() {
    let mut w = World::new(1);
    send(&mut w, |o| {
        parse(o, "a", "SELECT 1");
        encode::sync(o)
    });
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "none");
            parse(o, "b", "SELECT 2");
            encode::sync(o)
        }),
        "E26000 ZI"
    );
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "a");
            execute(o);
            encode::sync(o)
        }),
        "2 C ZI"
    );
}

#[test]
fn the_unnamed_statement_is_the_clients_own() {
    let mut w = World::new(10);
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "");
            encode::sync(o)
        }),
        "E26000 ZI"
    );
    send(&mut w, |o| {
        parse(o, "", "SELECT 1");
        encode::sync(o)
    });
    w.switch_server(10);
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "");
            execute(o);
            encode::sync(o)
        }),
        "2 C ZI"
    );
    send(&mut w, |o| encode::query(o, b"SELECT 1"));
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "");
            encode::sync(o)
        }),
        "E26000 ZI"
    );
}

#[test]
fn close_is_answered_in_order_and_never_reaches_the_server() {
    let mut w = World::new(10);
    send(&mut w, |o| {
        parse(o, "s", "SELECT 1");
        encode::sync(o)
    });
    let shown = send(&mut w, |o| {
        bind(o, "s");
        encode::close_statement(o, b"s");
        encode::close_statement(o, b"never");
        encode::sync(o);
    });
    assert_eq!(shown, "2 3 3 ZI");
    assert_eq!(w.state.statements.len(), 1, "the server keeps it for others");
    assert_eq!(
        send(&mut w, |o| {
            bind(o, "s");
            encode::sync(o)
        }),
        "E26000 ZI"
    );
}

#[test]
fn a_server_is_kept_between_flush_and_sync() {
    let mut w = World::new(10);
    assert_eq!(
        send(&mut w, |o| {
            parse(o, "", "SELECT 1");
            bind(o, "")
        }),
        "1 2"
    );
    assert!(w.session.is_drained() && !w.session.may_release());
    assert_eq!(
        send(&mut w, |o| {
            execute(o);
            encode::sync(o)
        }),
        "C ZI"
    );
    assert!(w.session.may_release());
}

#[test]
fn a_refusal_fails_the_transaction_as_postgresql_would() {
    let mut w = World::new(10);
    send(&mut w, |o| encode::query(o, b"BEGIN"));
    let mut out = Vec::new();
    let error = Box::new(Error::us(SqlState::FEATURE_NOT_SUPPORTED, "no"));
    w.session.forward(Intake::Refuse { error, simple: true }, b"", &mut w.state, &mut out);
    let mut replies = Vec::new();
    w.server.answer(frame::next(&out, 1000).unwrap().unwrap(), &mut replies);
    let mut shown = Vec::new();
    let mut rest = &replies[..];
    while let Some(f) = frame::next(rest, 1000).unwrap() {
        match w.session.on_server(f.tag, f.body(), &mut w.state).unwrap() {
            Action::Replace(bytes) => shown.extend_from_slice(&bytes),
            Action::Forward => shown.extend_from_slice(f.bytes),
            Action::Swallow => {}
        }
        rest = &rest[f.bytes.len()..];
    }
    assert_eq!(show(&shown), "E0A000 ZE");
}

#[test]
fn sync_sent_before_copy_data_is_not_waited_for() {
    let mut s = Session::new(Keep::Transaction, true, ClientSettings::default());
    let (registry, mut state, mut out) = (Registry::default(), ServerState::new(10), Vec::new());
    let mut o = Vec::new();
    parse(&mut o, "", "COPY t FROM STDIN");
    bind(&mut o, "");
    execute(&mut o);
    encode::sync(&mut o);
    encode::frame(&mut o, b'c', |_| {});
    encode::sync(&mut o);
    let mut rest = &o[..];
    while let Some(f) = frame::next(rest, 1000).unwrap() {
        let intake = s.intake(f, &registry, |_, _| Arc::default(), |_, _| None).unwrap();
        s.forward(intake, f.bytes, &mut state, &mut out);
        rest = &rest[f.bytes.len()..];
    }
    for (tag, body) in [(b'1', &b""[..]), (b'2', b""), (b'G', b"\0\0\0"), (b'C', b"COPY 0\0"), (b'Z', b"I")] {
        assert_eq!(s.on_server(tag, body, &mut state), Ok(Action::Forward));
    }
    assert!(s.is_drained() && s.may_release());
}

#[test]
fn a_message_that_nobody_asked_for_is_a_desync() {
    let mut s = Session::new(Keep::Transaction, true, ClientSettings::default());
    let mut state = ServerState::new(10);
    assert_eq!(s.on_server(b'D', b"", &mut state), Err(Desync { tag: b'D' }));
    assert_eq!(s.on_server(b'Z', b"I", &mut state), Err(Desync { tag: b'Z' }));
}

#[derive(Debug, Clone)]
enum Sent {
    Query(&'static str),
    Parse(&'static str, &'static str),
    Bind(&'static str),
    Execute,
    Describe(&'static str),
    Close(&'static str),
    Sync,
    Flush,
    Switch,
}

fn sent() -> impl Strategy<Value = Sent> {
    let name = prop::sample::select(vec!["", "a", "b", "c"]);
    let sql = prop::sample::select(vec!["SELECT 1", "SELECT 2", "SELECT 3", "BAD"]);
    prop_oneof![
        1 => prop::sample::select(vec!["SELECT 1", "BAD", "BEGIN", "COMMIT"]).prop_map(Sent::Query),
        3 => (name.clone(), sql).prop_map(|(n, s)| Sent::Parse(n, s)),
        3 => name.clone().prop_map(Sent::Bind),
        2 => Just(Sent::Execute),
        1 => name.clone().prop_map(Sent::Describe),
        1 => name.prop_map(Sent::Close),
        3 => Just(Sent::Sync),
        1 => Just(Sent::Flush),
        1 => Just(Sent::Switch),
    ]
}

/// A Parse of the unnamed statement that fails takes it away, also when another Parse behind it was passed over.
#[test]
fn a_failed_parse_leaves_no_unnamed_statement() {
    let mut w = World::new(1);
    let mut out = Vec::new();
    parse(&mut out, "", "SELECT 1");
    encode::sync(&mut out);
    w.send(&out);
    out.clear();
    parse(&mut out, "", "BAD");
    parse(&mut out, "", "SELECT 1");
    encode::sync(&mut out);
    w.send(&out);
    out.clear();
    bind(&mut out, "");
    encode::sync(&mut out);
    let answer = show(&w.send(&out));
    assert!(answer.contains("26000"), "{answer}");
}

/// Two parts of a pipeline that both fail, the second sent before the first was answered: what the server has of the statements that
/// they moved in and out is not taken for known.
#[test]
fn what_failed_twice_is_not_taken_for_known() {
    let mut w = World::new(1);
    for (name, sql) in [("c", "SELECT 3"), ("b", "SELECT 1")] {
        let mut out = Vec::new();
        parse(&mut out, name, sql);
        encode::sync(&mut out);
        w.send(&out);
    }
    let mut out = Vec::new();
    for name in ["c", "b"] {
        bind(&mut out, "");
        bind(&mut out, name);
        encode::sync(&mut out);
    }
    w.send(&out);
    let mut out = Vec::new();
    bind(&mut out, "b");
    encode::sync(&mut out);
    assert_eq!(show(&w.send(&out)), "2 ZI");
}

/// Parts of a pipeline that are sent before the first is answered.
#[test]
fn a_portal_is_what_the_last_bind_made_that_worked() {
    let mut w = World::new(10);
    send(&mut w, |o| {
        parse(o, "s", "SELECT 1");
        encode::sync(o);
        encode::query(o, b"BEGIN");
    });
    let part = |out: &mut Vec<u8>, bad: &[&str]| {
        bad.iter().for_each(|name| parse(out, name, "BAD"));
        encode::bind(out, b"p", b"s", &[0, 0, 0, 0, 0, 0]);
        encode::sync(out);
    };
    // One that fails takes nothing away from the one behind it,
    let mut out = Vec::new();
    part(&mut out, &["x"]);
    part(&mut out, &[]);
    assert_eq!(show(&w.send_at_once(&out)), "E42601 ZE 2 ZE");
    let number = w.session.portals[&b"p"[..]].number;
    // nor do two that fail bring back each other's.
    let mut out = Vec::new();
    part(&mut out, &["x"]);
    part(&mut out, &["y"]);
    assert_eq!(show(&w.send_at_once(&out)), "E42601 ZE E42601 ZE");
    assert_eq!(w.session.portals[&b"p"[..]].number, number);
}

#[test]
fn a_portal_outlives_the_transaction_before_its_own() {
    let mut w = World::new(10);
    send(&mut w, |o| {
        parse(o, "s", "SELECT 1");
        encode::sync(o);
        encode::query(o, b"BEGIN");
    });
    let mut out = Vec::new();
    for text in [&b"COMMIT"[..], b"BEGIN"] {
        encode::query(&mut out, text);
    }
    encode::bind(&mut out, b"p", b"s", &[0, 0, 0, 0, 0, 0]);
    encode::sync(&mut out);
    assert_eq!(show(&w.send_at_once(&out)), "C ZI C ZT 2 ZT");
    assert!(w.session.portals.contains_key(&b"p"[..]));
    assert_eq!(send(&mut w, |o| encode::query(o, b"COMMIT")), "C ZI");
    assert!(w.session.portals.is_empty() && !w.session.was_pinned());
}

#[test]
fn a_server_that_ran_what_nobody_knows_is_cleaned() {
    let mut w = World::new(10);
    // Somebody's cursor, as it were.
    w.server.portals.insert(Vec::new());
    let answer = send(&mut w, |o| {
        execute(o);
        encode::sync(o);
    });
    assert_eq!(answer, "C ZI");
    assert!(w.session.may_release() && w.session.was_pinned());
}

proptest! {
    /// What a client sees of its own names is what one server with its own names would have shown it.
    /// CVE class: an answer that reaches another client.
    #[test]
    fn a_client_sees_what_a_server_of_its_own_would_show(
        script in prop::collection::vec(prop::collection::vec(sent(), 0..8), 0..12),
        max in 1..4_usize,
    ) {
        let mut w = World::new(max);
        let mut own = Server::default();
        for batch in script {
            let mut out = Vec::new();
            for message in &batch {
                match message {
                    // A query without Sync before it is legal but unlike anything a driver does.
                    Sent::Query(sql) => { encode::sync(&mut out); encode::query(&mut out, sql.as_bytes()) }
                    Sent::Parse(name, sql) => parse(&mut out, name, sql),
                    Sent::Bind(name) => bind(&mut out, name),
                    Sent::Execute => execute(&mut out),
                    Sent::Describe(name) => encode::describe_statement(&mut out, name.as_bytes()),
                    Sent::Close(name) => encode::close_statement(&mut out, name.as_bytes()),
                    Sent::Sync => encode::sync(&mut out),
                    Sent::Flush => encode::frame(&mut out, b'H', |_| {}),
                    Sent::Switch => {}
                }
            }
            encode::sync(&mut out);
            let mut expected = Vec::new();
            let mut rest = &out[..];
            while let Some(frame) = frame::next(rest, 1 << 20).unwrap() {
                let skipped = own.skipping && frame.tag != b'S';
                own.answer(frame, &mut expected);
                if frame.tag == b'Q' && !skipped {
                    own.names.remove(&b""[..]);
                }
                rest = &rest[frame.bytes.len()..];
            }
            let received = w.send(&out);
            prop_assert_eq!(show(&received), show(&expected));
            prop_assert!(w.session.is_drained());
            if batch.iter().any(|m| matches!(m, Sent::Switch)) {
                w.switch_server(max);
            }
        }
    }

    /// CVE class: a peer's bytes that make it panic.
    #[test]
    fn no_client_and_no_server_bytes_panic(
        client in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..30)), 0..12),
        server in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..30)), 0..12),
    ) {
        let mut w = World::new(2);
        let mut out = Vec::new();
        for (tag, body) in client {
            let mut bytes = Vec::new();
            encode::frame(&mut bytes, tag, |b| b.extend_from_slice(&body));
            let frame = frame::next(&bytes, 1000).unwrap().unwrap();
            if let Ok(intake) = w.session.intake(frame, &w.registry, |_, _| Arc::default(), |_, _| None) {
                w.session.forward(intake, &bytes, &mut w.state, &mut out);
            }
        }
        for (tag, body) in server {
            if w.session.on_server(tag, &body, &mut w.state).is_err() {
                break;
            }
            w.session.take_local(&mut out);
        }
    }
}
