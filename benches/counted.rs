//! The pure parts, each run as often as it is told: `benches/check.py` counts their instructions and compares them with the
//! baseline. Instructions can be counted exactly on a machine that is busy with other things; time cannot.
//!
//! `counted` lists the parts, `counted PART TIMES` runs one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its result")]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use pgweir::clock;
use pgweir::id::WorkerId;
use pgweir::pool::ledger::{Acquire, Ledger, Limits, WaiterId};
use pgweir::session::prepared::Registry;
use pgweir::session::settings::ClientSettings;
use pgweir::session::{Intake, Keep, ServerState, Session};
use pgweir::shard::hash;
use pgweir::sql::cache::FactsCache;
use pgweir::sql::facts::QueryFacts;
use pgweir::sql::parse;
use pgweir::wire::message::TransactionStatus;
use pgweir::wire::{encode, frame, message};

const POINT_SELECT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";
const JOIN: &str = "SELECT o.id, c.name, sum(l.price * l.quantity) AS total FROM orders o JOIN customers c ON c.id = o.customer_id \
     JOIN lines l ON l.order_id = o.id WHERE o.customer_id = 42 AND o.created_at > now() - interval '30 days' \
     GROUP BY o.id, c.name HAVING count(*) > 2 ORDER BY total DESC LIMIT 20";

/// A name and what it runs that many times.
type Part = (&'static str, fn(usize));

const PARTS: &[Part] = &[
    ("frames of 100 rows", walk_rows),
    ("Bind read", read_bind),
    ("row of 10 columns written", write_row),
    ("facts of a point select", |times| parse_text(POINT_SELECT, times)),
    ("facts of a three-way join", |times| parse_text(JOIN, times)),
    ("facts found by text", facts_cached),
    ("facts found by normal form", facts_by_normal_form),
    ("connection lent and given back", checkout),
    ("session, simple protocol", session_simple),
    ("session, extended protocol", |times| session_extended(b"", times)),
    ("session, prepared statement", |times| session_extended(b"s1", times)),
    ("hash of a bigint key", hash_integer),
    ("hash of a text key", hash_text),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let run = |name: &str, times: &str| {
        let (_, part) = PARTS.iter().find(|(part, _)| *part == name)?;
        part(times.parse().ok()?);
        Some(())
    };
    match args.as_slice() {
        [] => PARTS.iter().for_each(|(name, _)| println!("{name}")),
        [name, times] if run(name, times).is_some() => {}
        _ => {
            eprintln!("usage: counted [PART TIMES]");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn walk_rows(times: usize) {
    let mut bytes = Vec::new();
    for i in 0..100 {
        encode::data_row(&mut bytes, &[Some(i.to_string()), Some("some text of usual length".to_owned())]);
    }
    for _ in 0..times {
        let mut rest = black_box(&bytes[..]);
        while let Ok(Some(frame)) = frame::next(rest, 1 << 30) {
            rest = &rest[black_box(frame).bytes.len()..];
        }
    }
}

fn read_bind(times: usize) {
    let mut bytes = Vec::new();
    encode::bind(&mut bytes, b"", b"statement", &[0, 0, 0, 1, 0, 0, 0, 2, b'4', b'2', 0, 0]);
    for _ in 0..times {
        black_box(message::bind(black_box(&bytes[5..])).and_then(|bind| bind.parameters()));
    }
}

fn write_row(times: usize) {
    let values = [Some("a value"); 10];
    let mut out = Vec::new();
    for _ in 0..times {
        out.clear();
        encode::data_row(&mut out, black_box(&values));
        black_box(&out);
    }
}

fn parse_text(text: &str, times: usize) {
    for _ in 0..times {
        black_box(parse::facts(black_box(text.as_bytes())));
    }
}

/// A cache with a few hundred texts in it.
fn warm_cache() -> FactsCache {
    let mut cache = FactsCache::new(1000, 1 << 20);
    // What comes twice is kept.
    for n in (0..300).chain(0..300) {
        cache.get(format!("SELECT {n}").as_bytes());
    }
    cache
}

fn facts_cached(times: usize) {
    let mut cache = warm_cache();
    for _ in 0..times {
        black_box(cache.get(black_box(JOIN.as_bytes())));
    }
}

fn facts_by_normal_form(times: usize) {
    let mut cache = warm_cache();
    let texts: Vec<String> =
        (0..64).map(|n| format!("SELECT abalance FROM pgbench_accounts WHERE aid = {};", 10_000 + n * 997)).collect();
    for text in texts.iter().cycle().take(times) {
        black_box(cache.get_without_values(black_box(text.as_bytes())));
    }
}

fn checkout(times: usize) {
    const SIZE: u64 = 20;
    let now = clock::now();
    let mut ledger = Ledger::new(Limits { size: 20, reserve: 0, round_robin: false });
    let dialled: Vec<_> = (0..SIZE)
        .filter_map(|i| match ledger.acquire(WaiterId(i), WorkerId(0), now) {
            Acquire::Queued(slot) => slot,
            _ => None,
        })
        .collect();
    for slot in &dialled {
        ledger.login_done(*slot, now);
    }
    for slot in dialled {
        ledger.release(slot, now);
    }
    for _ in 0..times {
        if let Acquire::Reuse(slot) = ledger.acquire(black_box(WaiterId(1)), WorkerId(0), now) {
            black_box(ledger.release(slot, now));
        }
    }
}

/// A client's session and the server that it uses.
struct Conversation {
    session: Session,
    server: ServerState,
    registry: Registry,
    facts: Arc<QueryFacts>,
    sent: Vec<u8>,
}

impl Conversation {
    fn new() -> Self {
        Self {
            session: Session::new(Keep::Transaction, true, ClientSettings::default()),
            server: ServerState::new(200),
            registry: Registry::default(),
            facts: Arc::new(parse::facts(POINT_SELECT.as_bytes())),
            sent: Vec::new(),
        }
    }

    /// The client's messages go to the server, whose answers come back.
    fn exchange(&mut self, mut messages: &[u8], answers: &[(u8, &[u8])]) {
        while let Ok(Some(frame)) = frame::next(messages, 1 << 20) {
            let bytes = frame.bytes;
            messages = &messages[bytes.len()..];
            let intake = self.session.intake(frame, &self.registry, |_, _| Arc::clone(&self.facts), |_, _| None);
            self.session.forward(intake.unwrap_or(Intake::Sync), bytes, &mut self.server, &mut self.sent);
        }
        for (tag, body) in answers {
            self.session.take_local(&mut self.sent);
            assert!(black_box(self.session.on_server(*tag, body, &mut self.server)).is_ok());
        }
        assert!(self.session.may_release(), "the conversation is over");
        self.session.on_release();
        self.sent.clear();
    }
}

fn session_simple(times: usize) {
    let mut conversation = Conversation::new();
    let mut messages = Vec::new();
    encode::query(&mut messages, POINT_SELECT.as_bytes());
    for _ in 0..times {
        conversation.exchange(
            black_box(&messages),
            &[(b'T', b""), (b'D', b""), (b'C', b"SELECT 1\0"), (b'Z', &[TransactionStatus::Idle.as_byte()])],
        );
    }
}

/// Parse (of the unnamed statement), Bind, Describe, Execute and Sync; a statement with a name is prepared before.
fn session_extended(name: &[u8], times: usize) {
    let mut conversation = Conversation::new();
    let idle: &[u8] = &[TransactionStatus::Idle.as_byte()];
    let (mut prepare, mut run) = (Vec::new(), Vec::new());
    encode::parse(&mut prepare, name, POINT_SELECT.as_bytes(), &[0, 0]);
    encode::bind(&mut run, b"", name, &[0, 0, 0, 1, 0, 0, 0, 2, b'4', b'2', 0, 0]);
    encode::frame(&mut run, b'D', |body| body.extend_from_slice(b"P\0"));
    encode::execute(&mut run);
    encode::sync(&mut run);
    let ran: [(u8, &[u8]); 5] = [(b'2', b""), (b'T', b""), (b'D', b""), (b'C', b"SELECT 1\0"), (b'Z', idle)];
    if name.is_empty() {
        prepare.extend_from_slice(&run);
        let answers: Vec<_> = std::iter::once((b'1', &b""[..])).chain(ran).collect();
        (0..times).for_each(|_| conversation.exchange(black_box(&prepare), &answers));
    } else {
        encode::sync(&mut prepare);
        conversation.exchange(&prepare, &[(b'1', b""), (b'Z', idle)]);
        (0..times).for_each(|_| conversation.exchange(black_box(&run), &ran));
    }
}

fn hash_integer(times: usize) {
    for _ in 0..times {
        black_box(hash::slot_of_row(hash::combine(0, hash::hash_integer(black_box(1_234_567_890_123)))));
    }
}

fn hash_text(times: usize) {
    for _ in 0..times {
        black_box(hash::slot_of_row(hash::combine(0, hash::hash_bytes(black_box(b"user:1234567890")))));
    }
}
