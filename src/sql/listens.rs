//! Where a text speaks of what its server does not know of its session: the channels that it listens to (LISTEN, UNLISTEN and
//! `pg_listening_channels()`), and the statements that it has prepared (`pg_prepared_statements`).
//!
//! A client of a pool does not listen on the server that happens to run its LISTEN; others do that in its name, and servers keep
//! statements for all clients. The text is written anew accordingly ([`super::pids::replace`]).

use std::ops::Range;

use pg_raw_parse::walk::{Recurse, walk_manual};
use pg_raw_parse::{Node, nodes, raw};

use super::facts::ListenChange;
use super::parse;
use super::pids::call_range;
use super::scan::Lexer;
use super::walk::is_walkable;

/// The function that tells the channels of its session.
const CHANNELS: &str = "pg_listening_channels";

/// The view of the statements that a session has prepared, and the function that it reads.
pub const PREPARED: &str = "pg_prepared_statements";
const PREPARED_FUNCTION: &str = "pg_prepared_statement";

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
    /// `pg_prepared_statements`, or the function that it reads, as an item of FROM.
    Prepared {
        /// What it is called by, where the text gives it no other name.
        name: Option<&'static str>,
    },
    /// The schema before the name of that view in the name of a column, with the dot.
    PreparedSchema,
}

/// Whether a call of this function makes a text worth looking through.
pub(super) fn concerns_function(schema: Option<&str>, name: &str) -> bool {
    (name == CHANNELS || name == PREPARED_FUNCTION) && schema.is_none_or(|s| s == "pg_catalog")
}

/// Whether a relation of this name does.
pub(super) fn concerns_relation(schema: Option<&str>, name: &str) -> bool {
    name == PREPARED && schema.is_none_or(|s| s == "pg_catalog")
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
                _ => {
                    if let Some(root) = runs(node) {
                        calls(statement, root, text, &mut all);
                    }
                    None
                }
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

/// What of a statement is looked through: what runs once, and now.
fn runs(node: Node<'_>) -> Option<Node<'_>> {
    match node {
        Node::SelectStmt(_) | Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_) => Some(node),
        Node::ExplainStmt(stmt) => runs(stmt.query()),
        Node::DeclareCursorStmt(stmt) => runs(stmt.query()),
        Node::CreateTableAsStmt(stmt) => runs(stmt.query()).filter(|_| stmt.objtype == raw::ObjectType::OBJECT_TABLE),
        Node::CopyStmt(stmt) => runs(stmt.query()),
        _ => None,
    }
}

/// The calls and relations in a query.
fn calls(statement: usize, root: Node<'_>, text: &[u8], all: &mut Vec<ListenUse>) {
    let mut stack = vec![(root, false)];
    let mut found = Vec::new();
    // The table that is written to.
    let mut written = Vec::new();
    // A name that is another query's as well: which of them is meant is not worth finding out.
    let mut is_shadowed = false;
    while let Some((node, names)) = stack.pop() {
        let mut add = |at: Option<Range<usize>>, what| found.extend(at.map(|at| ListenUse { statement, at, what }));
        let names = match node {
            Node::FuncCall(call) if is_call_of(call, CHANNELS) => {
                add(call_range(text, call), What::Channels { names });
                continue;
            }
            Node::RangeFunction(range) if prepared_call(range).is_some() => {
                let name = range.alias().is_none().then_some(PREPARED_FUNCTION);
                add(prepared_call(range).and_then(|call| call_range(text, call)), What::Prepared { name });
                continue;
            }
            Node::RangeVar(var) if concerns_relation(var.schemaname(), var.relname().unwrap_or_default()) => {
                let name = var.alias().is_none().then_some(PREPARED);
                let named = var.schemaname().into_iter().chain([PREPARED]);
                let from = usize::try_from(var.location).ok().filter(|_| var.inh);
                add(from.and_then(|from| Some(from..end_of_name(text, from, named)?)), What::Prepared { name });
                continue;
            }
            Node::ColumnRef(column) => {
                let mut fields = column.fields().iter().map(|field| field.as_str());
                if let (Some(Some("pg_catalog")), Some(Some(PREPARED))) = (fields.next(), fields.next()) {
                    let from = usize::try_from(column.location).ok();
                    let end = |from| end_of_name(text, from, ["pg_catalog"].into_iter()).map(|end| end + 1);
                    let end = |from| end(from).filter(|end| text.get(end.wrapping_sub(1)) == Some(&b'.'));
                    add(from.and_then(|from| Some(from..end(from)?)), What::PreparedSchema);
                }
                continue;
            }
            Node::WithClause(with) => {
                is_shadowed |= with.ctes().iter().any(|cte| cte.ctename() == Some(PREPARED));
                stack.extend(with.ctes().iter().map(|cte| (cte.ctequery(), false)));
                continue;
            }
            Node::InsertStmt(stmt) => {
                written.extend(stmt.relation().map(|var| var.location));
                false
            }
            Node::UpdateStmt(stmt) => {
                written.extend(stmt.relation().map(|var| var.location));
                false
            }
            Node::DeleteStmt(stmt) => {
                written.extend(stmt.relation().map(|var| var.location));
                false
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
    let is_written = |at: &Range<usize>| written.iter().any(|location| usize::try_from(*location) == Ok(at.start));
    let stays = |place: &ListenUse| match place.what {
        What::Prepared { .. } | What::PreparedSchema => !is_shadowed && !is_written(&place.at),
        What::Change(_) | What::Channels { .. } => true,
    };
    all.extend(found.into_iter().filter(stays));
}

/// The call of [`PREPARED_FUNCTION`] that an item of FROM is, and nothing else.
fn prepared_call(range: &nodes::RangeFunction) -> Option<&nodes::FuncCall> {
    if range.is_rowsfrom || range.ordinality || !range.coldeflist().is_empty() {
        return None;
    }
    let mut items = range.functions().iter();
    let (Some(Node::NodeList(item)), None) = (items.next(), items.next()) else { return None };
    match item.iter().next() {
        Some(Node::FuncCall(call)) if is_call_of(call, PREPARED_FUNCTION) => Some(call),
        _ => None,
    }
}

/// Where a name ends that is written plainly, or in quotes, and without blanks around its dots; these are its parts.
fn end_of_name<'a>(text: &[u8], from: usize, parts: impl Iterator<Item = &'a str>) -> Option<usize> {
    let mut at = from;
    for (index, part) in parts.enumerate() {
        if index > 0 {
            (text.get(at) == Some(&b'.')).then_some(())?;
            at += 1;
        }
        let quoted = usize::from(text.get(at) == Some(&b'"'));
        at += quoted;
        let written = text.get(at..at + part.len())?;
        let same = if quoted > 0 { written == part.as_bytes() } else { written.eq_ignore_ascii_case(part.as_bytes()) };
        same.then_some(())?;
        at += part.len();
        (quoted == 0 || text.get(at) == Some(&b'"')).then_some(())?;
        at += quoted;
    }
    Some(at)
}

fn is_call_of(call: &nodes::FuncCall, function: &str) -> bool {
    let (mut schema, mut name) = (None, None);
    for part in call.funcname() {
        schema = name;
        name = part.as_str();
    }
    name == Some(function) && schema.is_none_or(|s| s == "pg_catalog") && call.args().is_empty()
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

    #[test]
    fn the_view_of_statements_is_found_where_it_is_read() {
        let view = |name| What::Prepared { name };
        for (text, at, name) in [
            ("SELECT * FROM pg_prepared_statements", PREPARED, Some(PREPARED)),
            ("SELECT '\u{e9}' FROM PG_Prepared_Statements p", "PG_Prepared_Statements", None),
            (
                "SELECT 1 FROM t, pg_catalog.\"pg_prepared_statements\" AS p",
                "pg_catalog.\"pg_prepared_statements\"",
                None,
            ),
            ("SELECT (SELECT count(*) FROM pg_prepared_statements) FROM t", PREPARED, Some(PREPARED)),
            ("TABLE pg_prepared_statements", PREPARED, Some(PREPARED)),
            ("SELECT name FROM pg_prepared_statement()", "pg_prepared_statement()", Some(PREPARED_FUNCTION)),
            ("SELECT name FROM pg_prepared_statement() s", "pg_prepared_statement()", None),
            ("INSERT INTO t SELECT name FROM pg_prepared_statements", PREPARED, Some(PREPARED)),
            ("DELETE FROM t USING pg_prepared_statements s", PREPARED, None),
            ("CREATE TABLE t AS SELECT name FROM pg_prepared_statements", PREPARED, Some(PREPARED)),
            ("COPY (SELECT name FROM pg_prepared_statements) TO STDOUT", PREPARED, Some(PREPARED)),
            ("DECLARE c CURSOR FOR SELECT name FROM pg_prepared_statements", PREPARED, Some(PREPARED)),
            ("EXPLAIN SELECT name FROM pg_prepared_statements", PREPARED, Some(PREPARED)),
        ] {
            assert_eq!(found(text), [(at, view(name))], "{text}");
        }
        assert_eq!(
            found("SELECT pg_catalog.pg_prepared_statements.name FROM pg_catalog.pg_prepared_statements"),
            [("pg_catalog.", What::PreparedSchema), ("pg_catalog.pg_prepared_statements", view(Some(PREPARED)))]
        );
        for text in [
            "SELECT * FROM mine.pg_prepared_statements",
            "SELECT * FROM \"PG_PREPARED_STATEMENTS\"",
            "WITH pg_prepared_statements AS (SELECT 1) SELECT * FROM pg_prepared_statements",
            "SELECT 'pg_prepared_statements'",
            "SELECT * FROM ONLY pg_prepared_statements",
            "SELECT * FROM ROWS FROM (pg_prepared_statement())",
            "INSERT INTO pg_prepared_statements VALUES (1)",
            "CREATE VIEW v AS SELECT * FROM pg_prepared_statements",
            "CREATE MATERIALIZED VIEW v AS SELECT * FROM pg_prepared_statements",
            "PREPARE p AS SELECT * FROM pg_prepared_statements",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }
}
