//! A transaction block that has not shown yet where it belongs: on a sharded database to which shard, on a replica whether it can
//! stay there.
//!
//! BEGIN alone is answered here and sent with the first statement. What then still belongs to no shard (SET LOCAL, SET
//! TRANSACTION, SHOW) runs on some server, and the block can begin again elsewhere as long as it consists of such: its
//! text is kept and run once more there, unseen.

use std::sync::Arc;

use crate::client::lost::Lost;
use crate::client::segment::Segment;
use crate::client::task::Client;
use crate::config::PoolMode;
use crate::session::Intake;
use crate::session::settings::{OWN_PREFIX, decides_shard, is_reported};
use crate::sql::facts::{QueryFacts, SessionEffect, ShardShape, StatementFacts, TransactionEffect};
use crate::wire::{encode, message};

/// A block whose text is longer, in bytes, stays where it is.
const MAX_TEXT: usize = 16 * 1024;

/// What a block consists of so far.
#[derive(Debug)]
pub(super) struct Block {
    /// The statements, as one text.
    pub(super) text: Vec<u8>,
    /// What the text says.
    pub(super) facts: Arc<QueryFacts>,
    /// Whether it began READ ONLY.
    pub(super) read_only: bool,
    /// It did begin, and its server is lost.
    pub(super) lost: Option<Lost>,
}

/// What a segment means to a block that can still begin again elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Portable<'a> {
    /// Nothing: it only prepares and describes.
    Untouched,
    /// This text would have to be run again.
    Again(&'a [u8]),
    /// The block stays where it is.
    Bound,
}

impl Block {
    /// A block that begins with `text`, if it does begin one.
    pub(super) fn begin(text: &[u8], facts: Arc<QueryFacts>) -> Option<Self> {
        let Some(TransactionEffect::Begin { read_only }) = facts.statements.first().map(|s| s.transaction) else {
            return None;
        };
        (text.len() <= MAX_TEXT).then(|| Self { text: text.to_vec(), facts, read_only, lost: None })
    }

    /// A block that can only be ended.
    pub(super) fn lost(lost: Lost) -> Self {
        Self { text: Vec::new(), facts: Arc::default(), read_only: false, lost: Some(lost) }
    }

    /// The block with `text` after it, unless it gets too long. `facts` says what the whole says.
    pub(super) fn and(mut self, text: &[u8], facts: impl FnOnce(&[u8]) -> Arc<QueryFacts>) -> Option<Self> {
        // The line break ends a comment that the text before may end with.
        self.text.extend_from_slice(b"\n;");
        self.text.extend_from_slice(text);
        if self.text.len() > MAX_TEXT {
            return None;
        }
        self.facts = facts(&self.text);
        Some(self)
    }
}

/// The messages that begin a block at the front of a segment of the extended protocol, before what they are sent with.
struct Leading {
    block: Block,
    /// The tag of its answer.
    tag: &'static str,
    /// How many messages these are, and how many bytes.
    messages: usize,
    bytes: usize,
}

fn leading(segment: &Segment, bytes: &[u8]) -> Option<Leading> {
    let mut items = segment.items.iter().enumerate().peekable();
    let mut at = 0_usize;
    let mut parsed = None;
    if let Some((_, (Intake::Parse { statement, .. }, len))) = items.peek() {
        parsed = Some(statement);
        at = at.saturating_add(*len);
        items.next();
    }
    let Some((_, (Intake::Bind { statement: Some(statement), portal, .. }, len))) = items.next() else { return None };
    if parsed.is_some_and(|parsed| !Arc::ptr_eq(parsed, statement)) {
        return None;
    }
    let frame = bytes.get(at..at.saturating_add(*len)).unwrap_or_default();
    let bind = message::bind(frame.get(5..).unwrap_or_default())?;
    let [begin] = statement.facts.statements.as_slice() else { return None };
    if !bind.parameters()?.values.is_empty() || !belongs_nowhere(&statement.facts) {
        return None;
    }
    at = at.saturating_add(*len);
    if let Some((_, (Intake::DescribePortal, len))) = items.peek() {
        at = at.saturating_add(*len);
        items.next();
    }
    let Some((number, (Intake::Execute { portal: of }, len))) = items.next() else { return None };
    let block = Block::begin(&statement.sql, Arc::clone(&statement.facts)).filter(|_| of == portal)?;
    Some(Leading { block, tag: begin.why, messages: number.saturating_add(1), bytes: at.saturating_add(*len) })
}

impl Client {
    /// On a sharded database a BEGIN of the extended protocol is answered here as one of the simple is, also where a driver sends it with
    /// the first statement, which shows the shard.
    pub(super) fn hold_leading_begin(&mut self) {
        let waits = self.holds_block()
            || self.pools.mode != PoolMode::Transaction
            || self.segment.is_cut() && !self.has_pieces();
        if waits || !self.database.config.map.is_sharded() {
            return;
        }
        let Some(leading) = leading(&self.segment, self.input.bytes()) else { return };
        let out = self.output.tail();
        for (intake, _) in self.segment.items.drain(..leading.messages) {
            match intake {
                Intake::Parse { .. } => out.extend_from_slice(encode::PARSE_COMPLETE),
                Intake::Bind { .. } => out.extend_from_slice(encode::BIND_COMPLETE),
                Intake::DescribePortal => out.extend_from_slice(encode::NO_DATA),
                _ => encode::command_complete(out, leading.tag),
            }
        }
        self.segment.len = self.segment.len.saturating_sub(leading.bytes);
        self.input.consume(leading.bytes);
        self.hold_again(Some(leading.block));
    }
}

/// What the segment, whose messages stand at the front of `bytes`, means to its block.
pub(super) fn portable<'a>(segment: &'a Segment, bytes: &'a [u8]) -> Portable<'a> {
    if segment.only_prepares() {
        return Portable::Untouched;
    }
    let text = match segment.items.as_slice() {
        [(Intake::Query(facts), len)] => {
            let body = bytes.get(5..*len).unwrap_or_default();
            message::query(body).map(|text| (text, facts))
        }
        [(Intake::Parse { statement, .. }, parse), rest @ ..] => {
            sole_execution(rest, bytes.get(*parse..).unwrap_or_default()).then_some((&*statement.sql, &statement.facts))
        }
        _ => None,
    };
    match text {
        Some((text, facts)) if belongs_nowhere(facts) => Portable::Again(text),
        _ => Portable::Bound,
    }
}

/// Whether a block with `text` so far keeps the snapshot that a query in it has taken; `default` is the session's isolation, if it has
/// chosen one. What may be its isolation is enough: words in a comment cost no more than a block that stays where it is.
pub(super) fn keeps_snapshot(text: &[u8], default: Option<&str>) -> bool {
    let keeps = |text: &[u8]| {
        text.split(|c| !c.is_ascii_alphanumeric() && *c != b'_')
            .any(|word| word.eq_ignore_ascii_case(b"repeatable") || word.eq_ignore_ascii_case(b"serializable"))
    };
    keeps(text) || default.is_some_and(|level| keeps(level.as_bytes()))
}

/// Whether a text that can be run again elsewhere takes a snapshot.
pub(super) fn takes_snapshot(facts: &QueryFacts) -> bool {
    facts.statements.iter().any(|s| s.touch.constant)
}

/// Whether what follows a Parse runs that statement once, to its end and without parameters.
fn sole_execution(items: &[(Intake, usize)], bytes: &[u8]) -> bool {
    let [(Intake::Bind { .. }, len), rest @ ..] = items else { return false };
    let bind = message::bind(bytes.get(5..*len).unwrap_or_default());
    let no_parameters = bind.and_then(|b| b.parameters().map(|p| p.values.is_empty())).unwrap_or(false);
    let rest = match rest {
        [(Intake::DescribePortal | Intake::DescribeStatement { .. }, _), rest @ ..] => rest,
        rest => rest,
    };
    no_parameters && matches!(rest, [(Intake::Execute { .. }, _), (Intake::Sync, _)])
}

/// Whether running the text once more elsewhere is as good as having run it there.
fn belongs_nowhere(facts: &QueryFacts) -> bool {
    let nowhere = |s: &StatementFacts| {
        let begins = matches!(s.transaction, TransactionEffect::Begin { .. });
        let saves = matches!(s.transaction, TransactionEffect::Savepoint | TransactionEffect::Release);
        (begins || saves || s.transaction == TransactionEffect::None)
            && s.shape == ShardShape::NoTables
            && s.effects.iter().all(sets_again)
            && s.functions.is_empty()
            // A query may answer otherwise the second time: now(), random().
            && (begins || saves || s.touch.constant || matches!(s.why, "SET" | "RESET" | "SHOW" | "SET CONSTRAINTS"))
    };
    let hints = &facts.hints;
    let chosen = hints.shard.is_some() || hints.sharding_key.is_some() || hints.error.is_some();
    facts.unparsed.is_none() && !chosen && !facts.statements.is_empty() && facts.statements.iter().all(nowhere)
}

/// Whether a statement with this effect has it again elsewhere, unseen: what it sets is not reported, says not who the session is, and does
/// not choose a shard.
fn sets_again(effect: &SessionEffect) -> bool {
    match effect {
        SessionEffect::Set { name, .. } | SessionEffect::Reset { name } => {
            !is_reported(name) && !decides_shard(effect) && !name.starts_with(OWN_PREFIX)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn what_can_be_run_again() {
        for text in [
            "BEGIN",
            "BEGIN ISOLATION LEVEL SERIALIZABLE; SHOW search_path",
            "SET LOCAL statement_timeout = '5s'",
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "SHOW search_path",
            "SAVEPOINT a",
            "RELEASE a",
            "SELECT 1",
            "SELECT 1, 'a' AS b, NULL, true",
            "SET statement_timeout = '5s'",
            "RESET work_mem",
            "SET CONSTRAINTS ALL DEFERRED",
            "SELECT set_config('app.tenant', '1', true)",
            "SELECT pg_catalog.set_config('app.tenant', '1', true), 1",
        ] {
            assert!(belongs_nowhere(&parse::facts(text.as_bytes())), "{text}");
        }
        for text in [
            "",
            "COMMIT",
            "ROLLBACK TO a",
            "SET timezone = 'UTC'",
            "SET pgweir.route = 'primary'",
            "SET search_path = a",
            "SET ROLE someone",
            "SELECT * FROM t",
            "SELECT now()",
            "SELECT current_timestamp",
            "SELECT 'now'::timestamptz",
            "SELECT 1 WHERE random() > 0.5",
            "SELECT 1 FOR UPDATE",
            "SELECT (SELECT 1)",
            "SELECT 1 UNION SELECT 2",
            "SELECT set_config('app.tenant', gen_random_uuid()::text, true)",
            "SELECT nextval('s')",
            "SELECT pg_advisory_xact_lock(1)",
            "FETCH c",
            "/* pgweir: shard=s0 */ SELECT 1",
            "SELECT set_config('app.tenant', '1', false)",
            "no sql",
        ] {
            assert!(!belongs_nowhere(&parse::facts(text.as_bytes())), "{text}");
        }
    }

    #[test]
    fn snapshots_are_kept_by_some_blocks() {
        for (text, default, keeps) in [
            ("BEGIN READ ONLY", None, false),
            ("BEGIN ISOLATION LEVEL REPEATABLE READ", None, true),
            ("BEGIN; SET TRANSACTION ISOLATION LEVEL serializable", None, true),
            ("BEGIN", Some("read committed"), false),
            ("BEGIN", Some("repeatable read"), true),
        ] {
            assert_eq!(keeps_snapshot(text.as_bytes(), default), keeps, "{text}");
        }
        let takes = |text: &str| takes_snapshot(&parse::facts(text.as_bytes()));
        assert!(takes("SELECT 1") && takes("BEGIN; SELECT 1") && !takes("SHOW search_path") && !takes("SAVEPOINT a"));
    }

    #[test]
    fn texts_are_joined() {
        let facts = |text: &[u8]| Arc::new(parse::facts(text));
        assert!(Block::begin(b"SELECT 1", facts(b"SELECT 1")).is_none());
        let text = b"BEGIN READ ONLY -- so";
        let block = Block::begin(text, facts(text)).unwrap();
        assert!(block.read_only);
        let block = block.and(b"SET LOCAL a.b = 1;", facts).unwrap().and(b"SELECT 1", facts).unwrap();
        assert_eq!(block.facts.statements.len(), 3, "{:?}", String::from_utf8_lossy(&block.text));
        assert!(block.and(&[b' '; MAX_TEXT], facts).is_none());
    }
}
