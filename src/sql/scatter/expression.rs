//! Looks through an expression: whether every shard gives it the value that one server with all rows would.

use pg_raw_parse::{ConstValue, Node, nodes, raw};

use super::Unfit;
use super::from::From;
use super::names::{self, Kind};
use crate::sql::shape::cast_name;
use crate::sql::walk::children;

/// Expressions within expressions.
const MAX_DEPTH: usize = 100;

/// What an expression contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// Aggregates that are not window functions.
    pub(super) aggregates: bool,
    /// Window functions.
    pub(super) windows: bool,
    /// A function that draws another value each time.
    pub(super) draws: bool,
}

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clause {
    /// Where it only decides which rows count: WHERE, ON, FILTER.
    Condition,
    /// Where its value is seen, grouped or sorted by.
    Output,
}

/// What to do instead of a sub-query.
const SUB_QUERY: &str = "Ask in two statements, the second with the value of the first as a parameter (key = $1), or write it as a join by the sharding keys.";
/// Columns of every table that say where a row lies.
const SYSTEM_COLUMNS: [&str; 6] = ["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];
/// Texts that dates and times take for the present.
const PRESENT: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

/// Looks through `root`.
///
/// # Errors
/// It contains what is not the same on every shard, or not understood.
pub(super) fn check(root: Node<'_>, clause: Clause, from: &From, found: &mut Found) -> Result<(), Unfit> {
    let mut stack = vec![(root, 0_usize)];
    let mut below = Vec::new();
    while let Some((node, depth)) = stack.pop() {
        if depth > MAX_DEPTH {
            return Err(Unfit::new("depth", "with an expression nested very deeply"));
        }
        visit(node, clause, from, found)?;
        if !children(node, &mut below) {
            return Err(unknown());
        }
        stack.extend(below.drain(..).map(|child| (child, depth + 1)));
    }
    Ok(())
}

fn unknown() -> Unfit {
    Unfit::new("syntax", "with syntax that is not understood in statements for several shards")
}

fn visit(node: Node<'_>, clause: Clause, from: &From, found: &mut Found) -> Result<(), Unfit> {
    match node {
        Node::None
        | Node::NodeList(_)
        | Node::A_ArrayExpr(_)
        | Node::A_Indices(_)
        | Node::BoolExpr(_)
        | Node::BooleanTest(_)
        | Node::CaseExpr(_)
        | Node::CaseWhen(_)
        | Node::CoalesceExpr(_)
        | Node::CollateClause(_)
        | Node::MinMaxExpr(_)
        | Node::NamedArgExpr(_)
        | Node::NullTest(_)
        | Node::ParamRef(_)
        | Node::ResTarget(_)
        | Node::SortBy(_)
        | Node::String(_)
        | Node::Integer(_) => Ok(()),
        Node::A_Expr(expr) => operator(expr),
        // In binary it has the numbers of its types, and those of enums and the like differ between shards.
        Node::RowExpr(_) if clause == Clause::Output => Err(row("that shows a row as one value")),
        Node::RowExpr(_) => Ok(()),
        Node::A_Star(_) => Err(row("with * in an expression")),
        Node::A_Const(constant) => match constant.val() {
            Some(ConstValue::String(text)) if clause == Clause::Output && is_present(text.as_bytes()) => {
                Err(clock("that may show the time of its server, which differs between shards"))
            }
            _ => Ok(()),
        },
        Node::ColumnRef(reference) => columns(reference.fields().iter(), from),
        Node::A_Indirection(indirection) => {
            // `(row).count` calls the aggregate where the row has no such column.
            match indirection.indirection().iter().filter_map(Node::as_str).find(|name| names::is_aggregate(name)) {
                Some(name) => Err(row_aggregate(name)),
                None => Ok(()),
            }
        }
        Node::TypeCast(cast) => type_name(cast.type_name()),
        Node::TypeName(name) => type_name(Some(name)),
        Node::WindowDef(window) => {
            found.windows = true;
            if window.name().is_some() || window.refname().is_some() {
                return Err(Unfit::new("window", "with a window that has a name")
                    .hint("Write OVER (PARTITION BY the sharding key ...)."));
            }
            if from.has_key(window.partition_clause().iter()) {
                Ok(())
            } else {
                Err(Unfit::new("window", "with a window function whose PARTITION BY does not contain the sharding key"))
            }
        }
        Node::FuncCall(call) => function(call, clause, found),
        Node::SQLValueFunction(value) if !tells_time(value.op) => Err(Unfit::new(
            "server_name",
            "with the name of a database, a schema or a user, which may differ between shards",
        )
        .hint("Give the value as a parameter.")),
        Node::SQLValueFunction(_) if clause == Clause::Condition => Ok(()),
        Node::SQLValueFunction(_) => Err(clock("that shows the time of its server, which differs between shards")),
        Node::SubLink(_) => Err(Unfit::new("sub_query", "with a sub-query").hint(SUB_QUERY)),
        Node::GroupingSet(_) | Node::GroupingFunc(_) => {
            Err(Unfit::new("grouping_sets", "with GROUPING SETS, ROLLUP or CUBE")
                .hint("Send one statement for each set."))
        }
        _ => Err(unknown()),
    }
}

fn clock(why: &str) -> Unfit {
    Unfit::new("clock", why).hint("Give the value as a parameter, or use it in WHERE only.")
}

/// Whether it is CURRENT_DATE and the like, not CURRENT_USER and the like.
fn tells_time(function: raw::SQLValueFunctionOp::Type) -> bool {
    use raw::SQLValueFunctionOp as Op;
    matches!(
        function,
        Op::SVFOP_CURRENT_DATE
            | Op::SVFOP_CURRENT_TIME
            | Op::SVFOP_CURRENT_TIME_N
            | Op::SVFOP_CURRENT_TIMESTAMP
            | Op::SVFOP_CURRENT_TIMESTAMP_N
            | Op::SVFOP_LOCALTIME
            | Op::SVFOP_LOCALTIME_N
            | Op::SVFOP_LOCALTIMESTAMP
            | Op::SVFOP_LOCALTIMESTAMP_N
    )
}

/// Whether a date or a time of this text would be of the present, or one within an array, a range or a row, where words may have quotes and
/// backslashes in them.
pub(super) fn is_present(text: &[u8]) -> bool {
    let mut words = text.split(|byte| !byte.is_ascii_alphabetic() && !matches!(byte, b'"' | b'\\'));
    words.any(|word| {
        let letters = || word.iter().filter(|byte| byte.is_ascii_alphabetic());
        word.len() >= 3
            && PRESENT.iter().any(|present| letters().map(u8::to_ascii_lowercase).eq(present.iter().copied()))
    })
}

/// Whether it has one of the words anywhere, as values in binary may: how long a text is stands right before it.
pub(super) fn has_present(value: &[u8]) -> bool {
    let begins =
        |rest: &[u8], word: &[u8]| rest.get(..word.len()).is_some_and(|first| first.eq_ignore_ascii_case(word));
    (0..value.len()).any(|at| {
        let rest = value.get(at..).unwrap_or_default();
        let may = rest.first().is_some_and(|first| matches!(first.to_ascii_lowercase(), b'n' | b't' | b'y'));
        may && PRESENT.iter().any(|word| begins(rest, word))
    })
}

fn row_aggregate(name: &str) -> Unfit {
    Unfit::new(
        "row_function",
        format!("where \"{name}\" behind a dot may be an aggregate of the row instead of a column"),
    )
    .hint("Write the column without the table's name.")
}

fn row(why: &str) -> Unfit {
    Unfit::new("row", format!("{why}, whose make may differ between shards")).hint("Name the columns one by one.")
}

/// Text search depends on a configuration unless both sides say what they are.
fn operator(expr: &nodes::A_Expr) -> Result<(), Unfit> {
    if !matches!(expr.name().iter().filter_map(Node::as_str).next_back(), Some("@@" | "@@@")) {
        return Ok(());
    }
    let cast = |node| match node {
        Node::TypeCast(cast) => cast.type_name().and_then(cast_name),
        _ => None,
    };
    let sides = (cast(expr.lexpr()), cast(expr.rexpr()));
    match (sides.0.as_deref(), sides.1.as_deref()) {
        (Some("tsvector"), Some("tsquery")) | (Some("tsquery"), Some("tsvector"))
            if expr.kind == raw::A_Expr_Kind::AEXPR_OP =>
        {
            Ok(())
        }
        _ => Err(Unfit::new("text_search", "with the operator @@, whose meaning may depend on a server's settings")
            .hint("Cast both sides: a::tsvector @@ b::tsquery.")),
    }
}

/// The parameters in an expression.
pub(super) fn params(root: Node<'_>, numbers: &mut Vec<u16>) {
    let mut stack = vec![root];
    let mut below = Vec::new();
    while let Some(node) = stack.pop() {
        if let Node::ParamRef(param) = node {
            numbers.extend(u16::try_from(param.number));
        }
        // What is not known was refused already.
        let _known = children(node, &mut below);
        stack.append(&mut below);
    }
}

fn columns<'a>(fields: impl Iterator<Item = Node<'a>> + Clone, from: &From) -> Result<(), Unfit> {
    if fields.clone().any(|field| matches!(field, Node::A_Star(_))) {
        return Err(row("with * in an expression"));
    }
    let names: Vec<&str> = fields.filter_map(Node::as_str).collect();
    match names.as_slice() {
        [name] if from.is_row(name) => Err(row(&format!("where \"{name}\" may be a whole row"))
            .hint("Name the columns one by one; write table.column where a column has its table's name.")),
        [.., last] if SYSTEM_COLUMNS.contains(last) => {
            Err(Unfit::new("system_column", format!("with \"{last}\", which says where a row lies on its shard")))
        }
        [_, .., last] if names::is_aggregate(last) => Err(row_aggregate(last)),
        _ => Ok(()),
    }
}

/// Types whose values are numbers of one server's catalog.
fn type_name(name: Option<&nodes::TypeName>) -> Result<(), Unfit> {
    let Some(name) = name else { return Ok(()) };
    match name.names().iter().filter_map(|part| part.sval()).next_back() {
        Some(last) if last.starts_with("reg") => {
            Err(Unfit::new("catalog_type", format!("with type {last}, whose values differ between shards")))
        }
        _ => Ok(()),
    }
}

fn function(call: &nodes::FuncCall, clause: Clause, found: &mut Found) -> Result<(), Unfit> {
    let (mut schema, mut name) = (None, None);
    for part in call.funcname() {
        (schema, name) = (name, part.as_str());
    }
    let name = name.unwrap_or_default();
    match names::kind(schema, name) {
        Kind::Plain if name == "age" && call.args().len() == 1 && clause == Clause::Output => {
            Err(clock("that shows an age, which may differ between shards"))
        }
        Kind::Plain => Ok(()),
        Kind::Draws => {
            found.draws = true;
            Ok(())
        }
        Kind::Clock if clause == Clause::Condition => Ok(()),
        Kind::Clock => Err(clock("that shows the time of its server, which differs between shards")),
        Kind::Aggregate | Kind::Window => {
            if call.over().is_none() {
                found.aggregates = true;
            }
            Ok(())
        }
        Kind::Set => Err(Unfit::new("set_function", format!("with {name}(), which gives several rows"))),
        Kind::Unknown => Err(Unfit::new(
            "function",
            format!("that calls {name}(): it is not among PostgreSQL's own functions that are known to answer alike on every shard"),
        )
        .hint("Apply it in the application, or choose one shard with SET pgweir.shard = 'name'.")),
    }
}
