//! What is known of portals, and how much of it is kept.

use super::*;
use crate::sql::parse;

/// A session in the middle of a conversation that goes as it should.
struct Talk {
    session: Session,
    registry: Registry,
    state: ServerState,
}

impl Talk {
    /// With a statement `s`, in a block.
    fn in_a_block() -> Self {
        let session = Session::new(Keep::Transaction, true, ClientSettings::default());
        let mut talk = Self { session, registry: Registry::default(), state: ServerState::new(10) };
        talk.send(|out| {
            encode::query(out, b"BEGIN");
            encode::parse(out, b"s", b"SELECT 1", &[0, 0]);
            encode::sync(out);
        });
        talk.answers(b"CT1T");
        talk
    }

    fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        write(&mut bytes);
        let mut rest = &bytes[..];
        while let Some(frame) = frame::next(rest, 1 << 20).unwrap() {
            let facts = |sql: &[u8], _| Arc::new(parse::facts(sql));
            let intake = self.session.intake(frame, &self.registry, facts, |_, _| None).unwrap();
            self.session.forward(intake, frame.bytes, &mut self.state, &mut out);
            rest = &rest[frame.bytes.len()..];
        }
    }

    /// Messages of the server by their types; `T`, `I` and `E` are ReadyForQuery, and `!` an error.
    fn answers(&mut self, tags: &[u8]) {
        for tag in tags {
            let (tag, body): (u8, &[u8]) = match tag {
                b'T' | b'I' | b'E' => (b'Z', std::slice::from_ref(tag)),
                b'!' => (b'E', b"SERROR\0C22012\0Mno\0\0"),
                b'C' => (b'C', b"COMMIT\0"),
                tag => (*tag, b""),
            };
            self.session.on_server(tag, body, &mut self.state).unwrap();
            let mut local = Vec::new();
            self.session.take_local(&mut local);
        }
    }
}

fn bind(out: &mut Vec<u8>, portal: &str) {
    encode::bind(out, portal.as_bytes(), b"s", &[0, 0, 0, 0, 0, 0]);
}

fn close(out: &mut Vec<u8>, portal: &str) {
    encode::frame(out, b'C', |body| {
        body.push(b'P');
        body.extend_from_slice(portal.as_bytes());
        body.push(0);
    });
}

#[test]
fn a_transaction_keeps_no_portal_that_is_closed_however_many_there_are() {
    let mut talk = Talk::in_a_block();
    for n in 0..100_000 {
        let name = format!("p{n}");
        talk.send(|out| {
            bind(out, &name);
            close(out, &name);
            encode::sync(out);
        });
        talk.answers(b"23T");
        assert!(talk.session.portals.is_empty() && talk.session.not_made.is_none(), "{n}");
    }
}

#[test]
fn a_close_that_did_not_happen_takes_nothing() {
    let mut talk = Talk::in_a_block();
    talk.send(|out| {
        encode::query(out, b"SAVEPOINT x");
        bind(out, "p");
        encode::sync(out);
    });
    talk.answers(b"CT2T");
    talk.send(|out| {
        bind(out, "q");
        close(out, "p");
        encode::sync(out);
    });
    assert!(talk.session.portal(b"p").is_none());
    talk.answers(b"!E");
    assert!(talk.session.portal(b"p").is_some() && talk.session.portal(b"q").is_none());
}

#[test]
fn portals_end_with_their_transaction_where_the_next_follows_at_once() {
    for text in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT; BEGIN"] {
        let mut talk = Talk::in_a_block();
        for n in 0..1_000 {
            let name = format!("p{n}");
            talk.send(|out| {
                bind(out, &name);
                encode::sync(out);
            });
            talk.answers(b"2T");
            assert!(talk.session.portal(name.as_bytes()).is_some());
            talk.send(|out| encode::query(out, text.as_bytes()));
            talk.answers(if text.contains(';') { b"CCT" } else { b"CT" });
            assert!(talk.session.portal(name.as_bytes()).is_none(), "{text}");
            assert!(talk.session.portals.len() < 10, "{text}: {}", talk.session.portals.len());
        }
    }
}

/// Each answer is taken without a look at all that is under way, or this would not end in an hour.
#[test]
fn a_deep_pipeline_is_answered_step_by_step() {
    const DEPTH: usize = 50_000;
    let mut talk = Talk::in_a_block();
    talk.send(|out| encode::query(out, b"COMMIT"));
    talk.answers(b"CI");
    // Of the same name, of names of their own; those that work, and those that fail.
    for (fresh, answer) in [(true, b"2I"), (false, b"2I"), (true, b"!I"), (false, b"!I")] {
        talk.send(|out| {
            for n in 0..DEPTH {
                bind(out, &if fresh { format!("p{n}") } else { "p".to_owned() });
                encode::sync(out);
            }
        });
        for _ in 0..DEPTH {
            talk.answers(answer);
        }
        assert!(talk.session.portals.is_empty() && talk.session.not_made.is_none());
    }
}
