//! EXPLAIN of a SELECT that several shards answer: each shard explains what it is sent.

use pg_raw_parse::{Node, nodes};

use super::Unfit;
use super::write;

/// The options that change nothing but what is told.
const OPTIONS: [&str; 11] = [
    "analyze",
    "buffers",
    "costs",
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
}

/// Reads an EXPLAIN.
///
/// # Errors
/// It is not of a SELECT, in another format than text, or has an option that is not known.
pub(super) fn read(explain: &nodes::ExplainStmt) -> Result<(Explain, &nodes::SelectStmt), Unfit> {
    let Node::SelectStmt(select) = explain.query() else {
        return Err(Unfit::new("statement", "that is not EXPLAIN of one plain SELECT"));
    };
    let options = explain.options().iter().filter_map(option).collect::<Result<Vec<_>, _>>()?;
    let prefix = if options.is_empty() { "EXPLAIN ".to_owned() } else { format!("EXPLAIN ({}) ", options.join(", ")) };
    let statement = write::statement(explain.query())?;
    Ok((Explain { prefix, statement }, select))
}

/// An option with its value; none where it says no more than what is so without it.
fn option(option: &nodes::DefElem) -> Option<Result<String, Unfit>> {
    let name = option.defname().unwrap_or_default();
    let value = match option.arg() {
        Node::None => String::new(),
        Node::Integer(number) => number.ival.to_string(),
        Node::Boolean(value) => value.boolval.to_string(),
        Node::String(text) => text.sval().unwrap_or_default().to_owned(),
        _ => return Some(Err(Unfit::new("explain", "with an option of EXPLAIN that is not understood"))),
    };
    if name == "format" {
        return (!value.eq_ignore_ascii_case("text")).then(|| {
            Err(Unfit::new("explain_format", "with EXPLAIN in another format than text")
                .hint("Leave FORMAT out, or choose one shard with SET pgweir.shard = 'name'."))
        });
    }
    let plain = value.chars().all(|c| c.is_ascii_alphanumeric());
    if !OPTIONS.contains(&name) || !plain {
        return Some(Err(Unfit::new("explain", format!("with EXPLAIN's option {name}, which is not known here"))));
    }
    Some(Ok(format!("{name} {value}").trim_end().to_owned()))
}
