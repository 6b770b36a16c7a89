//! Where a text speaks of the channels that its session listens to: LISTEN, UNLISTEN and `pg_listening_channels()`.
//!
//! A client of a pool does not listen on the server that happens to run its LISTEN; others do that in its name, and the text is written
//! anew accordingly ([`super::pids::replace`]).

use std::ops::Range;

use pg_raw_parse::walk::{Recurse, walk_manual};
use pg_raw_parse::{Node, nodes};

use super::facts::ListenChange;
use super::parse;
use super::pids::call_range;
use super::scan::Lexer;
use super::walk::is_walkable;

/// The function that tells the channels of its session.
const CHANNELS: &str = "pg_listening_channels";

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenUse {
    /// Which statement of the text, counted from 0.
    pub statement: usize,
    /// The bytes that are meant: the first word of LISTEN or UNLISTEN, or the call.
    pub at: Range<usize>,
    /// What stands there.
    pub what: What,
}

/// What stands at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// LISTEN or UNLISTEN.
    Change(ListenChange),
    /// `pg_listening_channels()`.
    Channels {
        /// Whether its column or table gets its name from it.
        names: bool,
    },
}

/// Whether a call of this function makes a text worth looking through.
pub(super) fn concerns_function(schema: Option<&str>, name: &str) -> bool {
    name == CHANNELS && schema.is_none_or(|s| s == "pg_catalog")
}

/// The places of a text, in order and apart from each other; none if it cannot be parsed.
#[must_use]
pub fn uses(text: &[u8]) -> Vec<ListenUse> {
    let found = parse::read(text, |statements| {
        let mut all = Vec::new();
        for (statement, (from, node)) in statements.enumerate() {
            let change = match node {
                Node::ListenStmt(stmt) => stmt.conditionname().map(|name| ListenChange::Listen(name.to_owned())),
                Node::UnlistenStmt(stmt) => Some(match stmt.conditionname() {
                    Some(name) => ListenChange::Unlisten(name.to_owned()),
                    None => ListenChange::UnlistenAll,
                }),
                Node::SelectStmt(_) => {
                    calls(statement, node, text, &mut all);
                    None
                }
                _ => None,
            };
            if let (Some(change), Some(at)) = (change, Lexer::first_word(text, from)) {
                all.push(ListenUse { statement, at, what: What::Change(change) });
            }
        }
        all
    });
    let mut found = found.unwrap_or_default();
    found.sort_by_key(|place| place.at.start);
    let apart = found.windows(2).all(|pair| matches!(pair, [a, b] if a.at.end <= b.at.start));
    if apart { found } else { Vec::new() }
}

/// The calls in a SELECT.
fn calls(statement: usize, root: Node<'_>, text: &[u8], all: &mut Vec<ListenUse>) {
    let mut stack = vec![(root, false)];
    while let Some((node, names)) = stack.pop() {
        let names = match node {
            Node::FuncCall(call) if is_channels(call) => {
                if let Some(at) = call_range(text, call) {
                    all.push(ListenUse { statement, at, what: What::Channels { names } });
                }
                continue;
            }
            Node::WithClause(with) => {
                stack.extend(with.ctes().iter().map(|cte| (cte.ctequery(), false)));
                continue;
            }
            Node::ResTarget(target) => target.name().is_none(),
            Node::RangeFunction(range) => range.alias().is_none() && !range.is_rowsfrom && !range.ordinality,
            // Those of a RangeFunction stand in lists.
            Node::NodeList(_) => names,
            _ => false,
        };
        if is_walkable(node) {
            walk_manual::<()>(node, |child| {
                if !matches!(child, Node::None) {
                    stack.push((child, names));
                }
                Recurse::no()
            });
        }
    }
}

fn is_channels(call: &nodes::FuncCall) -> bool {
    let (mut schema, mut name) = (None, None);
    for part in call.funcname() {
        schema = name;
        name = part.as_str();
    }
    concerns_function(schema, name.unwrap_or_default()) && call.args().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(&str, What)> {
        uses(text.as_bytes()).into_iter().map(|place| (&text[place.at], place.what)).collect()
    }

    #[test]
    fn changes_are_found_by_their_first_word() {
        let change = What::Change;
        assert_eq!(
            found("/* listen ; */ LISTEN a; -- b\n  listen \"B ; c\";UNLISTEN a;;unlisten *; SELECT 'LISTEN x'"),
            [
                ("LISTEN", change(ListenChange::Listen("a".into()))),
                ("listen", change(ListenChange::Listen("B ; c".into()))),
                ("UNLISTEN", change(ListenChange::Unlisten("a".into()))),
                ("unlisten", change(ListenChange::UnlistenAll)),
            ]
        );
        assert_eq!(uses(b"SELECT 1; BEGIN; LISTEN ABC")[0].statement, 2);
        assert_eq!(found("LISTEN ABC"), [("LISTEN", change(ListenChange::Listen("abc".into())))], "folded");
        let long = "x".repeat(70);
        let cut = What::Change(ListenChange::Listen("x".repeat(63)));
        assert_eq!(found(&format!("LISTEN {long}")), [("LISTEN", cut)]);
    }

    #[test]
    fn calls_are_found_with_what_they_name() {
        let channels = |names| What::Channels { names };
        for (text, names) in [
            ("SELECT pg_listening_channels()", true),
            ("SELECT pg_listening_channels() AS c", false),
            ("SELECT * FROM pg_listening_channels()", true),
            ("SELECT * FROM pg_listening_channels() AS c", false),
            ("SELECT lower(pg_listening_channels())", false),
            ("SELECT (SELECT count(*) FROM pg_listening_channels())", true),
        ] {
            assert_eq!(found(text), [("pg_listening_channels()", channels(names))], "{text}");
        }
        assert_eq!(found("CREATE VIEW v AS SELECT pg_listening_channels()"), []);
    }
}
