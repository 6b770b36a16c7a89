//! A segment: the client's messages up to the next point where it may wait for answers. It is planned and routed as a whole, because
//! one write in it makes it a write.

use std::cell::RefCell;

use thin_vec::ThinVec;

use crate::session::{Intake, Naming};
use crate::sql::facts::{Plan, QueryFacts, TransactionEffect};

/// A segment longer than this, in bytes, is planned by what is there of it, and as a write.
pub const MAX_HELD: usize = 256 * 1024;

/// How many emptied segments' memory a worker keeps, and for how many messages each at most.
const SPARE: usize = 64;
const LARGEST_SPARE: usize = 16;

thread_local! {
    static SPARES: RefCell<Vec<Vec<(Intake, usize)>>> = const { RefCell::new(Vec::new()) };
}

/// Messages for which there is room from the first on: Parse, Bind, Describe, Execute and Sync.
const USUAL: usize = 5;

/// Messages that were read but not yet sent on. Their bytes stand at the front of the client's input.
#[derive(Debug, Default)]
pub struct Segment {
    /// The messages, each with its length in bytes.
    pub items: Vec<(Intake, usize)>,
    /// Their length together.
    pub len: usize,
    /// Whether the client may wait for answers now, or too much was held.
    pub complete: bool,
    /// What its SQL has to do with names of prepared statements.
    pub names: Naming,
    /// What came where a message was written anew.
    originals: ThinVec<Original>,
}

/// Messages of a segment, with their bytes.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// The messages, each with its length in bytes.
    pub items: &'a [(Intake, usize)],
    /// Where they stand, and perhaps what comes behind them.
    pub bytes: &'a [u8],
    /// Whether they are cut off before their end.
    pub cut: bool,
}

impl Stretch<'_> {
    /// Whether it runs something that what follows may belong to: it ends with Flush.
    #[must_use]
    pub fn is_continued(&self) -> bool {
        matches!(self.items.last(), Some((Intake::Flush, _)))
            && self.items.iter().any(|(i, _)| matches!(i, Intake::Execute { .. }))
    }
}

/// A message as the client has sent it: where another stands in its place among the segment's bytes.
#[derive(Debug)]
struct Original {
    at: usize,
    len: usize,
    frame: Box<[u8]>,
}

impl Segment {
    /// Adds a message.
    pub fn push(&mut self, intake: Intake, len: usize) {
        if self.items.capacity() == 0 {
            self.items = SPARES.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(USUAL));
        }
        self.len += len;
        self.complete = intake.ends_segment() || self.len > MAX_HELD;
        self.items.push((intake, len));
    }

    /// All of it, `bytes` being those that stand in the input.
    #[must_use]
    pub fn whole<'a>(&'a self, bytes: &'a [u8]) -> Stretch<'a> {
        Stretch { items: &self.items, bytes, cut: self.is_cut() }
    }

    /// In the place of the message that is added next, `len` bytes of ours stand in the input from now on; `frame`: what came.
    pub fn is_written_anew(&mut self, len: usize, frame: Box<[u8]>) {
        self.originals.push(Original { at: self.len, len, frame });
    }

    /// Its bytes as they came, `bytes` being those that stand in the input.
    #[must_use]
    pub fn as_it_came(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len);
        let mut from = 0;
        for Original { at, len, frame } in &self.originals {
            out.extend_from_slice(bytes.get(from..*at).unwrap_or_default());
            out.extend_from_slice(frame);
            from = at.saturating_add(*len);
        }
        out.extend_from_slice(bytes.get(from..self.len).unwrap_or_default());
        out
    }

    /// Whether it was cut off before its end.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.complete && !self.items.last().is_some_and(|(i, _)| i.ends_segment())
    }

    /// Whether any of it means something to a server.
    #[must_use]
    pub fn needs_server(&self) -> bool {
        self.items.iter().any(|(i, _)| i.needs_server())
    }

    /// Whether no text that it prepares, binds or runs can write, as far as texts tell: see [`crate::sql::facts::QueryFacts::plainly_reads`].
    #[must_use]
    pub fn plainly_reads(&self) -> bool {
        self.items.iter().all(|(intake, _)| match intake {
            Intake::FunctionCall | Intake::Bind { statement: None, .. } => false,
            intake => intake.facts().is_none_or(|facts| facts.plainly_reads()),
        })
    }

    /// Whether it is one INSERT, UPDATE, DELETE, MERGE or SELECT, which is a transaction of its own and touches this database alone.
    #[must_use]
    pub fn is_one_write(&self) -> bool {
        let mut runs = 0;
        let fits = self.items.iter().all(|(intake, _)| match intake {
            Intake::Query(facts) => {
                runs += 1;
                is_query(facts)
            }
            Intake::Bind { statement: Some(statement), .. } => {
                runs += 1;
                is_query(&statement.facts)
            }
            Intake::Parse { .. } | Intake::DescribeStatement { .. } | Intake::DescribePortal => true,
            Intake::Execute { .. } | Intake::Sync => true,
            _ => false,
        });
        fits && runs == 1 && self.complete && !self.is_cut() && !matches!(self.items.last(), Some((Intake::Flush, _)))
    }

    /// Whether it runs one text, or one portal that it binds, and nothing else.
    #[must_use]
    pub fn runs_once(&self) -> bool {
        let (mut texts, mut bound, mut executed) = (0, Vec::new(), Vec::new());
        for (intake, _) in &self.items {
            match intake {
                Intake::Query(_) | Intake::FunctionCall => texts += 1,
                Intake::Bind { portal, .. } => bound.push(portal),
                Intake::Execute { portal } => executed.push(portal),
                _ => {}
            }
        }
        match (texts, bound.as_slice(), executed.as_slice()) {
            (1, [], []) => true,
            (0, [bound], [executed]) => bound == executed,
            _ => false,
        }
    }

    /// Whether it does no more than prepare and describe statements, which leaves no trace of it in a transaction.
    #[must_use]
    pub fn only_prepares(&self) -> bool {
        self.items.iter().all(|(i, _)| {
            matches!(
                i,
                Intake::Parse { .. }
                    | Intake::DescribeStatement { .. }
                    | Intake::CloseStatement { .. }
                    | Intake::Sync
                    | Intake::Flush
            )
        })
    }

    /// Whether it says what the unnamed statement is.
    #[must_use]
    pub fn gives_unnamed(&self) -> bool {
        self.items.iter().any(|(i, _)| {
            matches!(i, Intake::Parse { named: None, .. }) || matches!(i, Intake::Parse { .. }) && i.popular().is_some()
        })
    }

    /// Whether it ends with Sync.
    #[must_use]
    pub fn ends_with_sync(&self) -> bool {
        matches!(self.items.last(), Some((Intake::Sync, _)))
    }

    /// Whether it ends with a Sync of ours: what the client has sent goes on behind it, and it is not told that this is over.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.items.last().is_some_and(is_our_sync)
    }

    /// Whether it has a message that came as another.
    #[must_use]
    pub fn has_originals(&self) -> bool {
        !self.originals.is_empty()
    }

    /// Whether the client waits for its end: it ends with Sync, or is a Query.
    #[must_use]
    pub fn ends_with_sync_or_query(&self) -> bool {
        matches!(self.items.last(), Some((Intake::Sync | Intake::Query(_), _)))
    }

    /// Empties it; its memory stays.
    pub fn clear(&mut self) {
        self.items.clear();
        self.len = 0;
        self.complete = false;
        self.names = Naming::None;
        self.originals = ThinVec::new();
    }

    /// Empties it, and keeps its memory for the next that needs some.
    pub fn put_by(&mut self) {
        self.clear();
        let items = std::mem::take(&mut self.items);
        if (1..=LARGEST_SPARE).contains(&items.capacity()) {
            SPARES.with_borrow_mut(|spares| {
                if spares.len() < SPARE {
                    spares.push(items);
                }
            });
        }
    }

    /// Takes it, leaving an empty one.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// Whether a message is a Sync of ours, for which nothing stands in the input: see `client/pieces.rs`.
#[must_use]
pub fn is_our_sync((intake, len): &(Intake, usize)) -> bool {
    matches!(intake, Intake::Sync) && *len == 0
}

/// Whether a text is one query that leaves nothing behind but in the database's tables.
fn is_query(facts: &QueryFacts) -> bool {
    matches!(facts.statements.as_slice(), [statement]
        if matches!(statement.plan, Plan::Rows | Plan::Silent)
            && statement.transaction == TransactionEffect::None
            && statement.effects.is_empty()
            // Code of users may do things elsewhere, which are not undone with it.
            && statement.functions.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_was_written_anew_comes_back_as_it_came() {
        let mut segment = Segment::default();
        let mut push = |came: &str, written: &str, input: &mut String| {
            if came != written {
                segment.is_written_anew(written.len(), came.as_bytes().into());
            }
            input.push_str(written);
            segment.push(Intake::Query(Arc::default()), written.len());
        };
        let mut input = String::new();
        for (came, written) in [("one", "one"), ("two", "another"), ("three", ""), ("four", "four"), ("five", "5")] {
            push(came, written, &mut input);
        }
        input.push_str("behind");
        assert_eq!(segment.as_it_came(input.as_bytes()), b"onetwothreefourfive");
        segment.clear();
        segment.push(Intake::Sync, 3);
        assert_eq!(segment.as_it_came(b"behind"), b"beh");
    }
}
