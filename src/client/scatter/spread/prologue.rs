//! What a shard that comes later to a block is told first.
//!
//! These are the texts that brought the transaction to where it is, one after the other, but for those that savepoints have left without an
//! effect: of what stands between SAVEPOINT and RELEASE what was set is kept, and behind SAVEPOINT and ROLLBACK TO nothing is. So a block
//! can make as many savepoints as it likes, as long as it ends them.
//! See <https://www.postgresql.org/docs/current/sql-release-savepoint.html>.

use std::sync::Arc;

use crate::client::block::Block;
use crate::sql::facts::{QueryFacts, StatementFacts, TransactionEffect};

/// Of more, in bytes, other shards are not told.
const MAX_TEXT: usize = 16 * 1024;

/// Settings by which a server reads the bytes of a text before any of it has run.
const READ_BY: [&str; 2] = ["client_encoding", "standard_conforming_strings"];

/// The texts that a block consists of as a whole.
#[derive(Debug, Clone)]
pub(in crate::client) struct Prologue {
    said: Vec<Said>,
}

#[derive(Debug, Clone)]
struct Said {
    text: Arc<[u8]>,
    facts: Arc<QueryFacts>,
}

impl Said {
    /// Its only statement.
    fn sole(&self) -> Option<&StatementFacts> {
        match self.facts.statements.as_slice() {
            [statement] => Some(statement),
            _ => None,
        }
    }

    /// Whether it is SAVEPOINT, and nothing else.
    fn saves(&self) -> bool {
        self.sole().is_some_and(|statement| statement.transaction == TransactionEffect::Savepoint)
    }
}

impl From<&Block> for Prologue {
    fn from(block: &Block) -> Self {
        Self { said: vec![Said { text: block.text.as_slice().into(), facts: Arc::clone(&block.facts) }] }
    }
}

impl Prologue {
    /// The same with a text behind it, unless it gets too long.
    pub(in crate::client) fn and(mut self, text: &[u8], facts: Arc<QueryFacts>) -> Option<Self> {
        self.said.push(Said { text: text.into(), facts });
        self.cut();
        let bytes: usize = self.said.iter().map(|said| said.text.len()).sum();
        (bytes <= MAX_TEXT).then_some(self)
    }

    /// Drops what the last text leaves without an effect.
    fn cut(&mut self) {
        let Some(last) = self.said.last().and_then(Said::sole) else { return };
        let (effect, Some(name)) = (last.transaction, last.savepoint.clone()) else { return };
        if !matches!(effect, TransactionEffect::Release | TransactionEffect::RollbackTo) {
            return;
        }
        let before = self.said.len().saturating_sub(1);
        let mut place = None;
        for (at, said) in self.said.iter().enumerate().take(before).rev() {
            match said.sole() {
                Some(statement) if said.saves() && statement.savepoint.as_deref() == Some(&*name) => {
                    place = Some(at);
                    break;
                }
                Some(statement) if said.saves() || statement.savepoint.is_none() => {}
                // What else stands in such a text is not taken apart.
                _ if said.facts.statements.iter().any(|statement| statement.savepoint.is_some()) => return,
                _ => {}
            }
        }
        match place {
            Some(at) if effect == TransactionEffect::RollbackTo => self.said.truncate(at + 1),
            Some(first) => {
                let mut at = 0;
                // With it go those that were made since.
                self.said.retain(|said| {
                    let stays = at < first || (at < before && !said.saves());
                    at += 1;
                    stays
                });
            }
            None => {}
        }
    }

    /// All its statements.
    pub(in crate::client) fn statements(&self) -> impl Iterator<Item = &StatementFacts> {
        self.said.iter().flat_map(|said| &said.facts.statements)
    }

    /// The texts to send, each when the one before it has been answered.
    pub(super) fn texts(&self) -> Vec<Vec<u8>> {
        let texts = || self.said.iter().map(|said| &*said.text);
        if READ_BY.iter().any(|name| self.may_name(name)) {
            return texts().map(<[u8]>::to_vec).collect();
        }
        // The line break ends a comment that the text before may end with.
        vec![texts().collect::<Vec<_>>().join(&b"\n;"[..])]
    }

    /// Whether a word, in lower case, may stand in it, as a name or within a literal.
    pub(super) fn may_name(&self, word: &str) -> bool {
        self.names(word) || self.said.iter().any(|said| spells(&said.text))
    }

    /// The same, but where it is spelled by escapes.
    pub(super) fn names(&self, word: &str) -> bool {
        self.said.iter().any(|said| names(&said.text, word.as_bytes()))
    }
}

/// Whether a word in it may be written by escapes, or on lines with comments between them.
fn spells(text: &[u8]) -> bool {
    text.contains(&b'\\') || text.windows(2).any(|pair| pair.eq_ignore_ascii_case(b"u&") || pair == b"--")
}

/// Whether a word, in lower case, stands in it: also within a literal of several lines.
fn names(text: &[u8], word: &[u8]) -> bool {
    let is_of_word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
    let letters: Vec<u8> = text.iter().filter(|c| is_of_word(c)).map(u8::to_ascii_lowercase).collect();
    letters.windows(word.len()).any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn facts(text: &str) -> Arc<QueryFacts> {
        Arc::new(parse::facts(text.as_bytes()))
    }

    fn after(texts: &[&str]) -> Option<Prologue> {
        let block = Block::begin(b"BEGIN", facts("BEGIN")).unwrap();
        texts.iter().try_fold(Prologue::from(&block), |prologue, text| prologue.and(text.as_bytes(), facts(text)))
    }

    fn told(texts: &[&str]) -> String {
        let texts = after(texts).unwrap().texts();
        let texts: Vec<_> = texts.iter().map(|text| String::from_utf8_lossy(text).replace("\n;", "; ")).collect();
        texts.join(" | ")
    }

    #[test]
    fn what_savepoints_leave_without_an_effect_is_not_told() {
        for (texts, left) in [
            (&["SAVEPOINT a", "SET LOCAL x.y = 1", "RELEASE a"][..], "BEGIN; SET LOCAL x.y = 1"),
            (&["SAVEPOINT a", "SET LOCAL x.y = 1", "ROLLBACK TO a"], "BEGIN; SAVEPOINT a"),
            (&["SAVEPOINT a", "ROLLBACK TO a", "RELEASE a"], "BEGIN"),
            (
                &["SAVEPOINT a", "SAVEPOINT b", "SAVEPOINT a", "SET LOCAL x.y = 1", "RELEASE b"],
                "BEGIN; SAVEPOINT a; SET LOCAL x.y = 1",
            ),
            (&["SAVEPOINT a", "SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a"], "BEGIN; SAVEPOINT a; SAVEPOINT a"),
            (&["SAVEPOINT a", "SAVEPOINT a", "RELEASE a", "ROLLBACK TO a"], "BEGIN; SAVEPOINT a"),
            (&["SAVEPOINT \"A\"", "RELEASE a"], "BEGIN; SAVEPOINT \"A\"; RELEASE a"),
            // Texts of several statements stay as they are.
            (
                &["SAVEPOINT a", "SAVEPOINT b; SET LOCAL x.y = 1", "RELEASE a"],
                "BEGIN; SAVEPOINT a; SAVEPOINT b; SET LOCAL x.y = 1; RELEASE a",
            ),
            (
                &["SAVEPOINT a; SET LOCAL x.y = 1", "SAVEPOINT b", "RELEASE b", "ROLLBACK TO a"],
                "BEGIN; SAVEPOINT a; SET LOCAL x.y = 1; ROLLBACK TO a",
            ),
            (
                &["SAVEPOINT a", "SET LOCAL x.y = 1; SET LOCAL x.z = 1", "RELEASE a"],
                "BEGIN; SET LOCAL x.y = 1; SET LOCAL x.z = 1",
            ),
        ] {
            assert_eq!(told(texts), left, "{texts:?}");
        }
    }

    #[test]
    fn savepoints_that_are_ended_take_no_room() {
        let pair = ["SAVEPOINT a_name_of_some_length", "RELEASE SAVEPOINT a_name_of_some_length"];
        assert_eq!(told(&pair.repeat(2000)), "BEGIN");
        assert!(after(&["SAVEPOINT a_name_of_some_length"; 2000]).is_none());
    }

    #[test]
    fn what_a_server_reads_texts_by_is_told_by_itself() {
        assert_eq!(
            told(&["SET LOCAL TimeZone = 'UTC'", "SAVEPOINT a"]),
            "BEGIN; SET LOCAL TimeZone = 'UTC'; SAVEPOINT a"
        );
        for text in [
            "SET LOCAL client_encoding = 'LATIN1'",
            "SET LOCAL Standard_Conforming_Strings = off",
            "SELECT set_config('client_'\n'encoding', 'LATIN1', true)",
            "SET LOCAL U&\"client\\005Fencoding\" = 'LATIN1'",
        ] {
            assert_eq!(told(&[text, "SAVEPOINT a"]), format!("BEGIN | {text} | SAVEPOINT a"));
        }
    }
}
