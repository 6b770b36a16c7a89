//! Turns parts of a tree into SQL again.
//!
//! Nothing is believed of the deparser: what it writes is parsed again, and must be the same tree but for the places of things in
//! the text. As a whole expression or clause it can then stand wherever one may stand.

use pg_raw_parse::make::owned;
use pg_raw_parse::{ConstValue, Node, deparse, nodes};

use super::Unfit;

/// Fields of nodes that tell places in the text.
const PLACES: [&str; 7] = [
    "location: ",
    "rexpr_list_start: ",
    "rexpr_list_end: ",
    "list_start: ",
    "list_end: ",
    "stmt_location: ",
    "stmt_len: ",
];

fn failed() -> Unfit {
    Unfit::new("syntax", "that cannot be written again for the shards")
}

/// A tree as a text, without the places of its nodes: trees that mean the same have the same.
pub(super) fn tree(node: Node<'_>) -> String {
    without_places(&format!("{node:?}"))
}

fn without_places(debug: &str) -> String {
    let mut out = String::with_capacity(debug.len());
    let mut rest = debug;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            // Texts of the statement stay as they are.
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            let (text, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at + 1));
            out.push_str(text);
            rest = after;
        } else if let Some(place) = PLACES.iter().find(|place| rest.starts_with(**place)) {
            rest = rest
                .get(place.len()..)
                .unwrap_or_default()
                .trim_start_matches(|c: char| c == '-' || c.is_ascii_digit());
        } else {
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
    }
    out
}

/// The one SELECT of a text, given to `check`.
fn holds(text: &str, check: impl FnOnce(&nodes::SelectStmt) -> bool) -> bool {
    let Ok(parsed) = pg_raw_parse::parse(text) else { return false };
    let mut statements = parsed.stmts();
    match (statements.next(), statements.next()) {
        (Some(Node::SelectStmt(select)), None) => check(select),
        _ => false,
    }
}

/// A whole statement.
pub(super) fn statement(node: Node<'_>) -> Result<String, Unfit> {
    let text = deparse(node).map_err(|_| failed())?.as_str().to_owned();
    let parsed = pg_raw_parse::parse(&text).map_err(|_| failed())?;
    let mut statements = parsed.stmts();
    let same = match (statements.next(), statements.next()) {
        (Some(written), None) => tree(written) == tree(node),
        _ => false,
    };
    if same { Ok(text) } else { Err(failed()) }
}

/// An expression.
pub(super) fn expression(node: Node<'_>) -> Result<String, Unfit> {
    let statement = owned(|mem| {
        let mut select = mem.make_node::<nodes::SelectStmt>();
        let value = mem.make_unique(node);
        let target = mem.make_res_target(None, mem.empty(), value);
        select.as_mut().set_target_list(mem.make_list(&[target]));
        select
    });
    let written = deparse(&*statement).map_err(|_| failed())?;
    let text = written.as_str().strip_prefix("SELECT ").ok_or_else(failed)?.to_owned();
    let same = holds(&format!("SELECT ({text})"), |select| {
        let mut targets = select.target_list().iter();
        let only = targets.next().filter(|target| target.name().is_none() && targets.next().is_none());
        only.is_some_and(|target| tree(target.val()) == tree(node)) && bare(select)
    });
    if same { Ok(text) } else { Err(failed()) }
}

/// Nothing but a list of targets.
fn bare(select: &nodes::SelectStmt) -> bool {
    select.from_clause().is_empty()
        && matches!(select.where_clause(), Node::None)
        && select.sort_clause().is_empty()
        && matches!(select.limit_count(), Node::None)
}

/// An entry of the select list, with its name.
pub(super) fn target(node: &nodes::ResTarget) -> Result<String, Unfit> {
    let statement = owned(|mem| {
        let mut select = mem.make_node::<nodes::SelectStmt>();
        select.as_mut().set_target_list(mem.make_list(&[mem.make_unique(node)]));
        select
    });
    let written = deparse(&*statement).map_err(|_| failed())?;
    let text = written.as_str().strip_prefix("SELECT ").ok_or_else(failed)?.to_owned();
    let same = holds(&format!("SELECT {text}"), |select| {
        let mut targets = select.target_list().iter();
        let only = targets.next().filter(|_| targets.next().is_none());
        only.is_some_and(|only| tree(Node::ResTarget(only)) == tree(Node::ResTarget(node))) && bare(select)
    });
    if same { Ok(text) } else { Err(failed()) }
}

/// Everything from FROM to WHERE, and GROUP BY and HAVING if wanted, beginning with a space.
pub(super) fn tail(original: &nodes::SelectStmt, group: bool, having: bool) -> Result<String, Unfit> {
    let statement = owned(|mem| {
        let mut select = mem.make_unique(original);
        let one = mem.make_res_target(None, mem.empty(), mem.make_a_const(ConstValue::Integer(1)).uncast());
        let mut copy = select.as_mut();
        copy.set_target_list(mem.make_list(&[one]));
        copy.set_distinct_clause(mem.empty());
        copy.set_sort_clause(mem.cast_empty());
        copy.set_limit_count(mem.none());
        copy.set_limit_offset(mem.none());
        copy.set_limit_option(0);
        if !group {
            copy.set_group_clause(mem.empty());
            copy.set_group_distinct(false);
        }
        if !having {
            copy.set_having_clause(mem.none());
        }
        select
    });
    let written = deparse(&*statement).map_err(|_| failed())?;
    let text = written.as_str().to_owned();
    let lists = |a: &pg_raw_parse::list::NodeList, b: &pg_raw_parse::list::NodeList| {
        a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| tree(a) == tree(b))
    };
    let same = holds(&text, |select| {
        lists(select.from_clause(), original.from_clause())
            && tree(select.where_clause()) == tree(original.where_clause())
            && if group {
                lists(select.group_clause(), original.group_clause())
                    && select.group_distinct == original.group_distinct
            } else {
                select.group_clause().is_empty()
            }
            && (!having || tree(select.having_clause()) == tree(original.having_clause()))
            && lists(select.window_clause(), original.window_clause())
            && select.target_list().len() == 1
            && select.sort_clause().is_empty()
            && matches!(select.limit_count(), Node::None)
    });
    let text = text.strip_prefix("SELECT 1").ok_or_else(failed)?;
    if same { Ok(text.to_owned()) } else { Err(failed()) }
}

/// The ORDER BY clause, beginning with a space; empty if there is none.
pub(super) fn order_by(original: &nodes::SelectStmt) -> Result<String, Unfit> {
    if original.sort_clause().is_empty() {
        return Ok(String::new());
    }
    let statement = owned(|mem| {
        let mut select = mem.make_node::<nodes::SelectStmt>();
        let one = mem.make_res_target(None, mem.empty(), mem.make_a_const(ConstValue::Integer(1)).uncast());
        let mut made = select.as_mut();
        made.set_target_list(mem.make_list(&[one]));
        made.set_sort_clause(mem.make_unique(original.sort_clause()));
        select
    });
    let written = deparse(&*statement).map_err(|_| failed())?;
    let text = written.as_str().to_owned();
    let same = holds(&text, |select| {
        let (a, b) = (select.sort_clause(), original.sort_clause());
        a.len() == b.len()
            && a.iter().zip(b.iter()).all(|(a, b)| tree(Node::SortBy(a)) == tree(Node::SortBy(b)))
            && select.from_clause().is_empty()
            && matches!(select.limit_count(), Node::None)
    });
    let text = text.strip_prefix("SELECT 1").ok_or_else(failed)?;
    if same { Ok(text.to_owned()) } else { Err(failed()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_left_out_but_not_of_texts() {
        let debug = r#"A { sval: "location: 5 \" location: 6", location: -1, x: 2 }"#;
        assert_eq!(without_places(debug), r#"A { sval: "location: 5 \" location: 6", , x: 2 }"#);
    }
}
