//! Where a text speaks of the process ids of sessions: a client of a pool knows itself and others by ids that no server has given.
//!
//! What is found is a list of places with their meaning; what is to stand there in their stead is for others to say ([`replace`]). Only
//! what is certain is found: who calls `pg_terminate_backend` where it may never run, or with what a table holds, means what the server
//! means. Definitions that are stored (views, functions, defaults) are never touched, since others will run them.

use std::ops::Range;

use pg_raw_parse::walk::{Recurse, walk_manual};
use pg_raw_parse::{ConstValue, Node, nodes, raw};

use super::facts::SignalKind;
use super::parse;
use super::scan::Lexer;
use super::shape::cast_name;
use super::walk::is_walkable;

/// The function that tells a session's own.
const OWN: &str = "pg_backend_pid";

/// Functions that look for one; sorted.
const LOOK: [&str; 4] =
    ["pg_blocking_pids", "pg_log_backend_memory_contexts", "pg_safe_snapshot_blocking_pids", "pg_stat_get_activity"];

/// Relations of PostgreSQL's that have a row for each process, beside those of `pg_stat_progress_`; sorted.
const RELATIONS: [&str; 9] = [
    "pg_locks",
    "pg_replication_slots",
    "pg_stat_activity",
    "pg_stat_gssapi",
    "pg_stat_recovery_prefetch",
    "pg_stat_replication",
    "pg_stat_ssl",
    "pg_stat_subscription",
    "pg_stat_wal_receiver",
];

/// The columns that tell it there.
const COLUMNS: [&str; 3] = ["pid", "leader_pid", "active_pid"];

/// Nodes that one text may cost; only hostile texts come near.
const MAX_NODES: usize = 1 << 20;

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidUse {
    /// Which statement of the text, counted from 0.
    pub statement: usize,
    /// The bytes that are meant.
    pub at: Range<usize>,
    /// What stands there.
    pub what: What,
}

/// What stands at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A call of `pg_backend_pid()` that asks for nothing but who the session is.
    Own(Stands),
    /// A value that is looked for among the ids of real processes.
    Sought(Value),
    /// A call that signals a session, and certainly runs when its statement does.
    Signal(Call),
}

/// What may stand in the place of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// Any expression.
    Expression,
    /// An expression without a sub-query.
    Constant,
    /// An item of FROM, with a name of its own or not.
    Table {
        /// Whether it has one.
        named: bool,
    },
}

/// A call that signals a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What it does.
    pub kind: SignalKind,
    /// To whom.
    pub pid: Value,
    /// How long it may wait, in milliseconds.
    pub timeout: Option<Value>,
}

/// A value, as far as a text tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `pg_backend_pid()`.
    Own,
    /// A literal.
    Literal {
        /// Its number.
        number: i64,
        /// Whether it is a string.
        quoted: bool,
    },
    /// `$n`.
    Param {
        /// Which, counted from 1.
        number: u16,
        /// The built-in type that it is cast to.
        cast: Option<String>,
    },
}

/// Whether a call of this function makes a text worth looking through.
pub(super) fn concerns_function(schema: Option<&str>, name: &str) -> bool {
    schema.is_none_or(|s| s == "pg_catalog") && (name == OWN || signal(name).is_some() || LOOK.contains(&name))
}

/// Whether reading this relation does.
pub(super) fn concerns_relation(schema: Option<&str>, name: &str) -> bool {
    schema.is_none_or(|s| s == "pg_catalog")
        && (RELATIONS.binary_search(&name).is_ok() || name.starts_with("pg_stat_progress_"))
}

fn signal(name: &str) -> Option<SignalKind> {
    match name {
        "pg_terminate_backend" => Some(SignalKind::Terminate),
        "pg_cancel_backend" => Some(SignalKind::Cancel),
        _ => None,
    }
}

/// The places of a text, in order and apart from each other; none if it cannot be parsed.
#[must_use]
pub fn uses(text: &[u8]) -> Vec<PidUse> {
    let found = parse::read(text, |statements| {
        let mut all = Vec::new();
        for (statement, (_, node)) in statements.enumerate() {
            of_statement(statement, node, text, &mut all);
        }
        all
    });
    let mut found = found.unwrap_or_default();
    found.sort_by_key(|place| place.at.start);
    // What overlaps is understood wrongly.
    let apart = found.windows(2).all(|pair| matches!(pair, [a, b] if a.at.end <= b.at.start));
    if apart { found } else { Vec::new() }
}

/// The text with other words in its places.
#[must_use]
pub fn replace(text: &[u8], edits: &[(Range<usize>, String)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 64);
    let mut from = 0;
    for (at, words) in edits {
        out.extend_from_slice(text.get(from..at.start).unwrap_or_default());
        out.extend_from_slice(words.as_bytes());
        from = at.end;
    }
    out.extend_from_slice(text.get(from..).unwrap_or_default());
    out
}

/// How the text of a statement is looked through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// It runs now.
    Runs,
    /// It is kept, to be run later by this session.
    Kept,
    /// It runs now, and takes no sub-query.
    Arguments,
}

fn of_statement(statement: usize, node: Node<'_>, text: &[u8], all: &mut Vec<PidUse>) {
    let mut pass = Pass { statement, text, found: Vec::new(), tables: Vec::new(), real: false, signals: false };
    match node {
        Node::SelectStmt(select) => {
            if let Some(calls) = pass.sole_signals(select) {
                all.extend(calls);
                return;
            }
            pass.walk(node, Depth::Runs);
        }
        Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_) | Node::MergeStmt(_) => {
            pass.walk(node, Depth::Runs);
        }
        Node::CopyStmt(stmt) => pass.walk(stmt.query(), Depth::Runs),
        Node::DeclareCursorStmt(stmt) => pass.walk(stmt.query(), Depth::Runs),
        Node::CreateTableAsStmt(stmt) if stmt.objtype != raw::ObjectType::OBJECT_MATVIEW => {
            pass.walk(stmt.query(), Depth::Runs);
        }
        Node::PrepareStmt(stmt) => pass.walk(stmt.query(), Depth::Kept),
        Node::ExecuteStmt(stmt) => stmt.params().iter().for_each(|param| pass.walk(param, Depth::Arguments)),
        Node::CallStmt(stmt) => {
            if let Some(call) = stmt.funccall() {
                call.args().iter().for_each(|arg| pass.walk(arg, Depth::Arguments));
            }
        }
        _ => {}
    }
    all.append(&mut pass.judged());
}

/// One pass over a statement.
struct Pass<'a> {
    statement: usize,
    text: &'a [u8],
    found: Vec<Found>,
    tables: Vec<Table>,
    /// It asks PostgreSQL for what real processes do.
    real: bool,
    /// It signals sessions where it cannot be told which.
    signals: bool,
}

/// A place that may be one.
struct Found {
    place: PidUse,
    /// The column that it is compared with; none for an argument.
    column: Option<Column>,
}

struct Column {
    qualifier: Option<String>,
}

struct Table {
    /// What its columns are qualified by.
    goes_by: String,
    /// Whether it has a row for each process.
    of_processes: bool,
    /// Whether it is PostgreSQL's own by its name.
    of_catalog: bool,
}

impl Pass<'_> {
    fn walk(&mut self, root: Node<'_>, depth: Depth) {
        let mut stack = vec![root];
        let mut left = MAX_NODES;
        while let Some(node) = stack.pop() {
            left = left.saturating_sub(1);
            if left == 0 {
                // Nothing is certain.
                self.found.clear();
                return;
            }
            self.visit(node, depth, &mut stack);
        }
    }

    fn visit<'a>(&mut self, node: Node<'a>, depth: Depth, stack: &mut Vec<Node<'a>>) {
        match node {
            Node::RangeVar(var) => return self.table(var),
            Node::WithClause(with) => return stack.extend(with.ctes().iter().map(|cte| cte.ctequery())),
            Node::RangeFunction(range) if depth != Depth::Arguments && self.own_in_from(range) => return,
            Node::FuncCall(call) => {
                let (schema, name) = name_of(call);
                if is_own(call) {
                    let stands = if depth == Depth::Arguments { Stands::Constant } else { Stands::Expression };
                    return self.add(call_range(self.text, call), What::Own(stands), None);
                }
                if schema.is_none_or(|s| s == "pg_catalog") {
                    self.signals |= signal(name).is_some();
                    if LOOK.contains(&name) {
                        self.real = true;
                        if depth == Depth::Runs
                            && let Some(argument) = call.args().get(0)
                        {
                            self.sought(argument, None);
                        }
                    }
                }
            }
            Node::A_Expr(expr) if depth == Depth::Runs => self.comparison(expr),
            _ => {}
        }
        if is_walkable(node) {
            walk_manual::<()>(node, |child| {
                if !matches!(child, Node::None) {
                    stack.push(child);
                }
                Recurse::no()
            });
        }
    }

    fn table(&mut self, var: &nodes::RangeVar) {
        let (schema, name) = (var.schemaname(), var.relname().unwrap_or_default());
        let of_processes = concerns_relation(schema, name);
        self.real |= of_processes;
        self.tables.push(Table {
            goes_by: var.alias().and_then(|a| a.aliasname()).unwrap_or(name).to_owned(),
            of_processes,
            of_catalog: schema.is_none_or(|s| s == "pg_catalog") && name.starts_with("pg_"),
        });
    }

    /// `FROM pg_backend_pid()`, where another function stands in, for a sub-query would be no function's row.
    fn own_in_from(&mut self, range: &nodes::RangeFunction) -> bool {
        let mut functions = range.functions().iter();
        let (Some(Node::NodeList(item)), None) = (functions.next(), functions.next()) else { return false };
        let Some(Node::FuncCall(call)) = item.get(0) else { return false };
        if range.is_rowsfrom || range.ordinality || !is_own(call) {
            return false;
        }
        self.add(call_range(self.text, call), What::Own(Stands::Table { named: range.alias().is_some() }), None);
        true
    }

    /// `pid = value`, `value = pid`, `pid IN (values)`.
    fn comparison(&mut self, expr: &nodes::A_Expr) {
        let equals = {
            let mut parts = expr.name().iter();
            parts.next().and_then(Node::as_str) == Some("=") && parts.next().is_none()
        };
        if !equals {
            return;
        }
        let (left, right) = (expr.lexpr(), expr.rexpr());
        match expr.kind {
            raw::A_Expr_Kind::AEXPR_OP => {
                for (column, value) in [(left, right), (right, left)] {
                    if let Some(qualifier) = pid_column(column) {
                        self.sought(value, Some(Column { qualifier }));
                    }
                }
            }
            raw::A_Expr_Kind::AEXPR_IN => {
                if let (Some(qualifier), Node::NodeList(values)) = (pid_column(left), right) {
                    for value in values {
                        self.sought(value, Some(Column { qualifier: qualifier.clone() }));
                    }
                }
            }
            _ => {}
        }
    }

    fn sought(&mut self, node: Node<'_>, column: Option<Column>) {
        let at = match uncast(node) {
            Node::A_Const(constant) => start(constant.location).and_then(|from| literal_range(self.text, from)),
            Node::ParamRef(param) => start(param.location).map(|from| param_range(self.text, from)),
            _ => None,
        };
        if let (Some(at), Some(value)) = (at, value_of(node)) {
            self.add(Some(at), What::Sought(value), column);
        }
    }

    fn add(&mut self, at: Option<Range<usize>>, what: What, column: Option<Column>) {
        if let Some(at) = at {
            self.found.push(Found { place: PidUse { statement: self.statement, at, what }, column });
        }
    }

    /// What is left when the whole statement is known.
    fn judged(self) -> Vec<PidUse> {
        let Self { found, tables, real, signals, .. } = self;
        let of_processes = |column: &Column| match &column.qualifier {
            Some(qualifier) => {
                let mut named = tables.iter().filter(|table| table.goes_by == *qualifier).peekable();
                named.peek().is_some() && named.all(|table| table.of_processes)
            }
            // It may be any table's.
            None => tables.iter().any(|t| t.of_processes) && tables.iter().all(|t| t.of_catalog),
        };
        let stays = |found: &Found| match &found.place.what {
            What::Own(_) => !real && !signals,
            // Who is found could be another client by the time that a signal is sent.
            What::Sought(_) => !signals && found.column.as_ref().is_none_or(of_processes),
            What::Signal(_) => true,
        };
        found.into_iter().filter(stays).map(|found| found.place).collect()
    }

    /// The calls of a SELECT that does nothing but signal sessions: then each of them runs, and once.
    fn sole_signals(&self, select: &nodes::SelectStmt) -> Option<Vec<PidUse>> {
        let bare = select.op == raw::SetOperation::SETOP_NONE
            && select.distinct_clause().is_empty()
            && select.into_clause().is_none()
            && select.from_clause().is_empty()
            && matches!(select.where_clause(), Node::None)
            && select.group_clause().is_empty()
            && matches!(select.having_clause(), Node::None)
            && select.values_lists().is_empty()
            && matches!((select.limit_offset(), select.limit_count()), (Node::None, Node::None))
            && select.with_clause().is_none();
        if !bare {
            return None;
        }
        let mut places = Vec::new();
        for target in select.target_list() {
            let place = match uncast(target.val()) {
                Node::FuncCall(call) if is_own(call) => (call_range(self.text, call)?, What::Own(Stands::Expression)),
                Node::FuncCall(call) => (call_range(self.text, call)?, What::Signal(signal_call(call)?)),
                Node::A_Const(_) | Node::ParamRef(_) => continue,
                _ => return None,
            };
            places.push(PidUse { statement: self.statement, at: place.0, what: place.1 });
        }
        places.iter().any(|place| matches!(place.what, What::Signal(_))).then_some(places)
    }
}

/// A call of one of the two functions whose arguments are known.
fn signal_call(call: &nodes::FuncCall) -> Option<Call> {
    let (schema, name) = name_of(call);
    let kind = signal(name).filter(|_| schema.is_none_or(|s| s == "pg_catalog") && is_plain(call))?;
    let (mut pid, mut timeout) = (None, None);
    for (at, argument) in call.args().iter().enumerate() {
        let (place, argument) = match argument {
            Node::NamedArgExpr(named) => (named.name()?, named.arg()),
            argument => (*["pid", "timeout"].get(at)?, argument),
        };
        let slot = match (place, kind) {
            ("pid", _) => &mut pid,
            ("timeout", SignalKind::Terminate) => &mut timeout,
            _ => return None,
        };
        if slot.replace(value_of(argument)?).is_some() {
            return None;
        }
    }
    Some(Call { kind, pid: pid?, timeout })
}

fn value_of(node: Node<'_>) -> Option<Value> {
    let inner = uncast(node);
    match inner {
        Node::A_Const(constant) if !constant.isnull => match constant.val()? {
            ConstValue::Integer(number) => Some(Value::Literal { number: number.into(), quoted: false }),
            ConstValue::String(text) => text.trim().parse().ok().map(|number| Value::Literal { number, quoted: true }),
            _ => None,
        },
        Node::ParamRef(param) => {
            let number = u16::try_from(param.number).ok()?;
            let cast = match innermost_cast(node) {
                None => None,
                Some(cast) => Some(cast.type_name().and_then(cast_name).filter(|name| is_number(name))?),
            };
            Some(Value::Param { number, cast })
        }
        Node::FuncCall(call) if is_own(call) => Some(Value::Own),
        _ => None,
    }
}

/// The types whose names may be written again.
fn is_number(name: &str) -> bool {
    matches!(name, "int2" | "int4" | "int8" | "smallint" | "int" | "integer" | "bigint")
}

fn uncast(mut node: Node<'_>) -> Node<'_> {
    while let Node::TypeCast(cast) = node {
        node = cast.arg();
    }
    node
}

fn innermost_cast(mut node: Node<'_>) -> Option<&nodes::TypeCast> {
    let mut last = None;
    while let Node::TypeCast(cast) = node {
        last = Some(cast);
        node = cast.arg();
    }
    last
}

fn name_of(call: &nodes::FuncCall) -> (Option<&str>, &str) {
    let (mut schema, mut name) = (None, None);
    for part in call.funcname() {
        schema = name;
        name = part.as_str();
    }
    (schema, name.unwrap_or_default())
}

fn is_own(call: &nodes::FuncCall) -> bool {
    let (schema, name) = name_of(call);
    name == OWN && schema.is_none_or(|s| s == "pg_catalog") && call.args().is_empty() && is_plain(call)
}

/// No aggregate's and no window's clauses.
fn is_plain(call: &nodes::FuncCall) -> bool {
    let marks = call.agg_within_group || call.agg_star || call.agg_distinct || call.func_variadic;
    !marks && call.agg_order().is_empty() && matches!(call.agg_filter(), Node::None) && call.over().is_none()
}

/// The column's qualifier, if it may be one of process ids.
fn pid_column(node: Node<'_>) -> Option<Option<String>> {
    let Node::ColumnRef(column) = node else { return None };
    let (mut qualifier, mut name) = (None, None);
    for field in column.fields() {
        qualifier = name;
        name = field.as_str();
    }
    COLUMNS.contains(&name?).then(|| qualifier.map(str::to_owned))
}

fn start(location: i32) -> Option<usize> {
    usize::try_from(location).ok()
}

pub(super) fn call_range(text: &[u8], call: &nodes::FuncCall) -> Option<Range<usize>> {
    let from = start(call.location)?;
    Some(from..Lexer::end_of_call(text, from)?)
}

/// A literal of digits, or a plain string.
fn literal_range(text: &[u8], from: usize) -> Option<Range<usize>> {
    let rest = text.get(from..)?;
    let len = match rest.first()? {
        b'\'' => 2 + rest.get(1..)?.iter().position(|c| *c == b'\'')?,
        c if c.is_ascii_digit() => rest.iter().take_while(|c| c.is_ascii_digit()).count(),
        _ => return None,
    };
    Some(from..from + len)
}

fn param_range(text: &[u8], from: usize) -> Range<usize> {
    let digits = text.get(from + 1..).unwrap_or_default().iter().take_while(|c| c.is_ascii_digit()).count();
    from..from + 1 + digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The places of a text as they stand in it.
    fn found(text: &str) -> Vec<(&str, What)> {
        uses(text.as_bytes()).into_iter().map(|place| (&text[place.at], place.what)).collect()
    }

    fn literal(number: i64) -> Value {
        Value::Literal { number, quoted: false }
    }

    #[test]
    fn ones_own_is_found_wherever_it_stands() {
        for (text, words, stands) in [
            ("SELECT pg_backend_pid()", "pg_backend_pid()", Stands::Expression),
            (
                "/* ä ( */ SELECT 1, pg_catalog . pg_backend_pid /* ) */ ( ) -- (",
                "pg_catalog . pg_backend_pid /* ) */ ( )",
                Stands::Expression,
            ),
            ("SELECT a FROM t WHERE b = \"pg_backend_pid\"()::text", "\"pg_backend_pid\"()", Stands::Expression),
            ("INSERT INTO t VALUES (1, pg_backend_pid()) RETURNING id", "pg_backend_pid()", Stands::Expression),
            ("WITH x AS (SELECT PG_Backend_PID() AS p) SELECT p FROM x", "PG_Backend_PID()", Stands::Expression),
            ("COPY (SELECT pg_backend_pid()) TO STDOUT", "pg_backend_pid()", Stands::Expression),
            ("PREPARE p AS SELECT pg_backend_pid()", "pg_backend_pid()", Stands::Expression),
            ("EXECUTE p(pg_backend_pid())", "pg_backend_pid()", Stands::Constant),
            ("SELECT * FROM pg_backend_pid() AS p", "pg_backend_pid()", Stands::Table { named: true }),
            ("SELECT * FROM pg_backend_pid()", "pg_backend_pid()", Stands::Table { named: false }),
        ] {
            assert_eq!(found(text), [(words, What::Own(stands))], "{text}");
        }
        let two = uses(b"SELECT pg_backend_pid(); SELECT 1, pg_backend_pid()");
        assert_eq!(two.iter().map(|place| place.statement).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn what_speaks_of_real_processes_or_is_stored_stays() {
        for text in [
            "SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
            "SELECT pid FROM pg_catalog.pg_locks WHERE pid = pg_backend_pid()",
            "SELECT pg_blocking_pids(pg_backend_pid())",
            "SELECT pg_log_backend_memory_contexts(pg_backend_pid())",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = 5000000",
            "SELECT pg_terminate_backend(p) FROM t WHERE q = pg_backend_pid()",
            "CREATE VIEW v AS SELECT pg_backend_pid()",
            "CREATE TABLE t (p int DEFAULT pg_backend_pid())",
            "CREATE MATERIALIZED VIEW v AS SELECT pg_backend_pid()",
            "SELECT app.pg_backend_pid(), pg_backend_pid(1), 'pg_backend_pid()'",
            "SELECT * FROM t WHERE pid = 5000000",
            "SELECT * FROM jobs j JOIN pg_stat_activity a USING (pid) WHERE j.pid = 5000000",
            "SELECT * FROM jobs, pg_stat_activity WHERE pid = 5000000",
            "SELECT pg_terminate_backend(5000000) FROM t",
            "SELECT CASE WHEN true THEN pg_terminate_backend(5000000) END",
            "SELECT pg_terminate_backend(5000000), 1/0",
            "SELECT pg_terminate_backend(NULL)",
            "not SQL at all pg_backend_pid()",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn signals_and_look_ups_are_found() {
        let call = |kind, pid, timeout| What::Signal(Call { kind, pid, timeout });
        let param = |cast: Option<&str>| Value::Param { number: 1, cast: cast.map(str::to_owned) };
        let quoted = Value::Literal { number: 5_000_000, quoted: true };
        for (text, words, what) in [
            (
                "SELECT pg_terminate_backend(5000000)",
                "pg_terminate_backend(5000000)",
                call(SignalKind::Terminate, literal(5_000_000), None),
            ),
            (
                "select pg_catalog.pg_terminate_backend('5000000'::int, timeout => 100) AS \")\";",
                "pg_catalog.pg_terminate_backend('5000000'::int, timeout => 100)",
                call(SignalKind::Terminate, quoted.clone(), Some(literal(100))),
            ),
            (
                "SELECT 1, pg_cancel_backend($1::integer)",
                "pg_cancel_backend($1::integer)",
                call(SignalKind::Cancel, param(Some("int4")), None),
            ),
            (
                "SELECT pg_terminate_backend(pg_backend_pid())",
                "pg_terminate_backend(pg_backend_pid())",
                call(SignalKind::Terminate, Value::Own, None),
            ),
            ("SELECT state FROM pg_stat_activity WHERE pid = 5000000", "5000000", What::Sought(literal(5_000_000))),
            ("SELECT 1 FROM pg_locks l JOIN t USING (x) WHERE $1 = l.pid", "$1", What::Sought(param(None))),
            ("SELECT 1 FROM pg_stat_activity WHERE pid = CAST($1 AS bigint)", "$1", What::Sought(param(Some("int8")))),
            ("SELECT pg_blocking_pids('5000000')", "'5000000'", What::Sought(quoted)),
        ] {
            assert_eq!(found(text), [(words, what)], "{text}");
        }
        let among = found("SELECT 1 FROM pg_stat_activity WHERE pid IN (5000000, 7)");
        assert_eq!(among.iter().map(|(words, _)| *words).collect::<Vec<_>>(), ["5000000", "7"]);
    }

    proptest! {
        #[test]
        fn what_is_replaced_is_what_was_meant(before in "[ -~äß\n]{0,12}", between in "[ a-z(')/*\"$;-]{0,12}", after in "\\PC{0,12}") {
            // Whatever stands around it in comments, strings and names, the call alone is replaced.
            let quoted = |s: &str| format!("'{}'", s.replace('\'', "''"));
            let comment = format!("/*{}*/", between.replace('/', ""));
            let text = format!("SELECT {}, pg_backend_pid {comment} () , {}", quoted(&before.replace('\\', "")), quoted(&after.replace('\\', "")));
            let places = uses(text.as_bytes());
            prop_assert_eq!(places.len(), 1, "{}", text);
            let changed = replace(text.as_bytes(), &[(places[0].at.clone(), "7".to_owned())]);
            let expected = format!("SELECT {}, 7 , {}", quoted(&before.replace('\\', "")), quoted(&after.replace('\\', "")));
            prop_assert_eq!(String::from_utf8(changed).unwrap(), expected);
        }

        #[test]
        fn any_text_is_survived(text in "(select |pg_backend_pid|\\(|\\)|pid|=|\\$1|from |pg_locks|where |'|;|::int|,|5000000| ){0,24}") {
            let places = uses(text.as_bytes());
            let edits: Vec<_> = places.iter().map(|place| (place.at.clone(), String::new())).collect();
            let gone: usize = edits.iter().map(|(at, _)| at.len()).sum();
            prop_assert_eq!(replace(text.as_bytes(), &edits).len(), text.len() - gone);
        }
    }
}
