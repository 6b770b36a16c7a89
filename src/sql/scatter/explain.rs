//! EXPLAIN of a statement for several shards: each shard explains what it is sent.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::{Node, nodes};

use super::Unfit;
use super::write;
use crate::sql::touch::Explains;

/// The options that change nothing but what is told.
const OPTIONS: [&str; 12] = [
    "analyze",
    "buffers",
    "costs",
    "format",
    "generic_plan",
    "memory",
    "serialize",
    "settings",
    "summary",
    "timing",
    "verbose",
    "wal",
];

/// An EXPLAIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explain {
    /// What stands before a statement to have it explained in the same way, ending in a space.
    pub prefix: String,
    /// The statement that is explained.
    pub statement: String,
    /// The format of the answer.
    pub format: Explains,
    /// The statement is run.
    pub analyze: bool,
}

/// Reads a text that is one EXPLAIN of whatever statement.
///
/// # Errors
/// It is not, or has an option that is not known.
pub fn explained(text: &str) -> Result<Explain, Unfit> {
    // As in `parse`: what the bindings believe of the tree may prove wrong.
    catch_unwind(AssertUnwindSafe(|| {
        let tree = pg_raw_parse::parse(text).map_err(|_| Unfit::new("syntax", "that cannot be parsed"))?;
        let mut statements = tree.stmts();
        match (statements.next(), statements.next()) {
            (Some(Node::ExplainStmt(explain)), None) => read_any(explain),
            _ => Err(Unfit::new("statement", "that is not one plain EXPLAIN")),
        }
    }))
    .unwrap_or_else(|_| Err(Unfit::new("syntax", "on which the parser failed")))
}

/// Reads an EXPLAIN.
///
/// # Errors
/// It is not of a SELECT, or has an option that is not known.
pub(super) fn read(explain: &nodes::ExplainStmt) -> Result<(Explain, &nodes::SelectStmt), Unfit> {
    let Node::SelectStmt(select) = explain.query() else {
        return Err(Unfit::new("statement", "that is not EXPLAIN of one plain SELECT"));
    };
    Ok((read_any(explain)?, select))
}

fn read_any(explain: &nodes::ExplainStmt) -> Result<Explain, Unfit> {
    let (mut written, mut format, mut analyze) = (Vec::new(), Explains::Text, false);
    for element in explain.options() {
        let (name, value) = option(element)?;
        match name {
            "format" => {
                format = Explains::named(&value)
                    .ok_or_else(|| Unfit::new("explain_format", "with a format of EXPLAIN that is not known"))?;
            }
            "analyze" => analyze = !matches!(&*value.to_ascii_lowercase(), "0" | "false" | "off"),
            _ => {}
        }
        written.push(format!("{name} {value}").trim_end().to_owned());
    }
    let prefix = if written.is_empty() { "EXPLAIN ".to_owned() } else { format!("EXPLAIN ({}) ", written.join(", ")) };
    Ok(Explain { prefix, statement: write::statement(explain.query())?, format, analyze })
}

/// An option with its value.
fn option(option: &nodes::DefElem) -> Result<(&str, String), Unfit> {
    let name = option.defname().unwrap_or_default();
    let value = match option.arg() {
        Node::None => String::new(),
        Node::Integer(number) => number.ival.to_string(),
        Node::Boolean(value) => value.boolval.to_string(),
        Node::String(text) => text.sval().unwrap_or_default().to_owned(),
        _ => return Err(Unfit::new("explain", "with an option of EXPLAIN that is not understood")),
    };
    let plain = value.chars().all(|c| c.is_ascii_alphanumeric());
    if !OPTIONS.contains(&name) || !plain {
        return Err(Unfit::new("explain", format!("with EXPLAIN's option {name}, which is not known here")));
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_kept_and_the_statement_is_written_by_itself() {
        let read = explained("EXPLAIN (COSTS off, FORMAT JSON) UPDATE t SET a = $1 WHERE b > 3").unwrap();
        assert_eq!(read.prefix, "EXPLAIN (costs off, format json) ");
        assert_eq!(read.statement, "UPDATE t SET a = $1 WHERE b > 3");
        assert!(read.format == Explains::Json && !read.analyze);
        for (text, analyze) in [
            ("EXPLAIN ANALYZE DELETE FROM t", true),
            ("EXPLAIN (ANALYZE) DELETE FROM t", true),
            ("EXPLAIN (ANALYZE false) DELETE FROM t", false),
            ("EXPLAIN (ANALYZE 0) DELETE FROM t", false),
            ("EXPLAIN DELETE FROM t", false),
        ] {
            assert_eq!(explained(text).unwrap().analyze, analyze, "{text}");
        }
        for text in
            ["EXPLAIN (NIX) SELECT 1", "EXPLAIN (FORMAT nix) SELECT 1", "SELECT 1", "EXPLAIN SELECT 1; SELECT 1"]
        {
            assert!(explained(text).is_err(), "{text}");
        }
    }
}
