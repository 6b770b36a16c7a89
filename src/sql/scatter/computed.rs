//! What a statement casts, so that a text may become a date, or a time.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::{Node, nodes};

use crate::sql::walk::children;

/// Types of PostgreSQL's own of which no value is a time or has one in it, whatever is cast to them.
#[rustfmt::skip]
const TIMELESS: [&str; 29] = [
    "bit", "bool", "bpchar", "bytea", "char", "cidr", "citext", "float4", "float8", "hstore", "inet", "int2", "int4", "int8",
    "interval", "json", "jsonb", "macaddr", "money", "name", "numeric", "oid", "text", "tsquery", "tsvector", "uuid", "varbit",
    "varchar", "xml",
];

/// Names of types that a call with one argument casts to: `date($1)` is `$1::date` where $1 is a text.
/// See <https://www.postgresql.org/docs/current/typeconv-func.html>.
const CALLED: [&str; 11] = [
    "date",
    "datemultirange",
    "daterange",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsmultirange",
    "tsrange",
    "tstzmultirange",
    "tstzrange",
];

/// The casts of a statement to what may be a time, or have one in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Casts {
    /// The parameters that are cast, or that what is cast is computed from: their places, counted from 0.
    parameters: BTreeSet<usize>,
    /// What is cast may be any parameter: it comes from a column that one was written to, or the statement is not understood.
    any: bool,
}

impl Casts {
    /// Of a statement that is not understood.
    pub const UNKNOWN: Self = Self { parameters: BTreeSet::new(), any: true };

    /// Reads a text that is one statement.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let read = || {
            let tree = pg_raw_parse::parse(text).ok()?;
            let mut casts = Self::default();
            for statement in tree.stmts() {
                casts.read(statement)?;
            }
            Some(casts)
        };
        // As in `parse`: what the bindings believe of the tree may prove wrong.
        catch_unwind(AssertUnwindSafe(read)).ok().flatten().unwrap_or(Self::UNKNOWN)
    }

    /// Whether the parameter of this place, counted from 0, may be cast.
    #[must_use]
    pub fn reach(&self, place: usize) -> bool {
        self.any || self.parameters.contains(&place)
    }

    /// None: it has something that is not known.
    fn read(&mut self, statement: Node<'_>) -> Option<()> {
        let written = Written::by(statement);
        let (mut stack, mut below) = (vec![(statement, written)], Vec::new());
        while let Some((node, mut written)) = stack.pop() {
            match node {
                Node::TypeCast(cast) if !cast.type_name().is_some_and(is_timeless) => self.take(cast.arg(), written)?,
                Node::FuncCall(call) if is_cast(call) => {
                    call.args().iter().try_for_each(|argument| self.take(argument, written))?;
                }
                // It shows what was written.
                Node::ReturningClause(_) => written = Written::Anywhere,
                _ => {}
            }
            if !children(node, &mut below) {
                return None;
            }
            stack.extend(below.drain(..).map(|child| (child, written)));
        }
        Some(())
    }

    /// What is cast.
    fn take(&mut self, node: Node<'_>, written: Written) -> Option<()> {
        let (mut stack, mut below) = (vec![node], Vec::new());
        while let Some(node) = stack.pop() {
            match node {
                Node::ParamRef(parameter) => {
                    self.parameters.extend(usize::try_from(parameter.number).ok().and_then(|n| n.checked_sub(1)));
                }
                Node::ColumnRef(column) => self.any |= written.is(column),
                Node::SubLink(_) => self.any = true,
                _ => {}
            }
            if !children(node, &mut below) {
                return None;
            }
            stack.append(&mut below);
        }
        Some(())
    }
}

/// Which columns may have what a parameter was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// None: they are those of rows as they were.
    Nowhere,
    /// Those of `excluded`.
    Excluded,
    /// Any.
    Anywhere,
}

impl Written {
    fn by(statement: Node<'_>) -> Self {
        match statement {
            Node::InsertStmt(insert)
                if matches!(insert.select_stmt(), Node::SelectStmt(select)
                if select.from_clause().is_empty() && insert.with_clause().is_none()) =>
            {
                Self::Excluded
            }
            Node::UpdateStmt(update) if update.from_clause().is_empty() && update.with_clause().is_none() => {
                Self::Nowhere
            }
            Node::DeleteStmt(delete) if delete.using_clause().is_empty() && delete.with_clause().is_none() => {
                Self::Nowhere
            }
            _ => Self::Anywhere,
        }
    }

    fn is(self, column: &nodes::ColumnRef) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Excluded => column.fields().iter().filter_map(Node::as_str).next() == Some("excluded"),
            Self::Anywhere => true,
        }
    }
}

/// Whether the type is of PostgreSQL's own, or an array of it, and no time is in its values.
fn is_timeless(name: &nodes::TypeName) -> bool {
    let mut parts = name.names().iter().filter_map(|part| part.sval());
    let ((Some(last), None, None) | (Some("pg_catalog"), Some(last), None)) =
        (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    !name.pct_type && TIMELESS.binary_search(&last).is_ok()
}

fn is_cast(call: &nodes::FuncCall) -> bool {
    let name = call.funcname().iter().filter_map(|part| part.as_str()).next_back();
    call.args().len() == 1 && name.is_some_and(|name| CALLED.binary_search(&name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_cast_to_a_time_becomes_one() {
        assert!(TIMELESS.is_sorted() && CALLED.is_sorted());
        for (text, reached) in [
            ("INSERT INTO t VALUES ($1, $2)", ""),
            ("INSERT INTO t VALUES (1, $1::timestamptz), (2, $2), (3, 'a'::text)", "1"),
            ("INSERT INTO t VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET n = (t.n + 1)::int, d = t.v::date", ""),
            ("INSERT INTO t VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET d = excluded.v::date", "12"),
            ("INSERT INTO t VALUES ($1, $2) RETURNING v::date", "12"),
            ("INSERT INTO t VALUES ($1, $2::text::timestamptz)", "2"),
            ("INSERT INTO t VALUES ($1, $2::timestamptz[])", "2"),
            ("INSERT INTO t VALUES ($1::uuid, $2::varchar(7), $3::int[])", ""),
            ("INSERT INTO t VALUES ($1::own, $2::app.text)", "12"),
            ("UPDATE t SET a = coalesce($1, 'x')::date, b = $2", "1"),
            ("UPDATE t SET a = $1 WHERE b::date = $2::date", "2"),
            ("UPDATE t SET a = date($1), b = pg_catalog.timestamptz($2), c = upper($3)", "12"),
            ("UPDATE t SET a = tstzrange($1), b = tstzrange($2, $3)", "1"),
            ("UPDATE t SET a = x.b::date FROM (VALUES ($1)) x (b)", "1"),
            ("UPDATE t SET a = b FROM (VALUES (($1 || '')::date, $2)) x (b, c)", "1"),
            ("UPDATE t SET a = $1 RETURNING a::date", "1"),
            ("UPDATE t SET a = (SELECT $1)::date", "1"),
        ] {
            let casts = Casts::of(text);
            let found: String = (1..=3)
                .filter(|n| text.contains(&format!("${n}")) && casts.reach(n - 1))
                .map(|n| n.to_string())
                .collect();
            assert_eq!(found, reached, "{text}");
        }
        assert_eq!(Casts::of("no sql"), Casts::UNKNOWN);
    }
}
