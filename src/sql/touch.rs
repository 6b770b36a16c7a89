//! What a statement touches beside reading the tables of its shape: which it writes, at any depth; whose rows it locks; what it does
//! that only one server can know of. The shard planner asks for it.

use pg_raw_parse::{ConstValue, Node, nodes};

use super::facts::{ColumnRef, KeyValue, TableRef};
use super::levels::Levels;
use super::shape;
use super::walk::Seen;

/// What a statement does to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dml {
    /// INSERT, COPY FROM.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// MERGE.
    Merge,
}

impl Dml {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Merge => "MERGE",
        }
    }
}

/// What ON CONFLICT of an INSERT says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Conflict {
    /// There is none.
    #[default]
    None,
    /// Any unique index of the table is meant, or one that is named.
    Any,
    /// The index over these columns.
    Columns(Vec<String>),
}

/// What the relations that a utility statement names are to it: whoever runs it must know which shards have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum About {
    /// Tables, or something that is on them: triggers, policies, new indexes.
    Tables,
    /// Tables, of which the first gets foreign keys to the others.
    Refers,
    /// Indexes, views or sequences, which may be a table's: the catalog tells whose.
    Relations,
    /// The first is new and made of [`Touch::made_of`]: a view, a partition.
    Made,
    /// The first is new and says by itself where it is: a table, a sequence. It may name others.
    New,
}

/// The tables of a SELECT below the top level, and what their columns must be equal to.
pub type Inner = (Vec<TableRef>, Vec<(ColumnRef, KeyValue)>);

/// Columns, of which IN says that together they are one of some rows: `(a, b) IN ((1, 2), (3, 4))`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowList {
    /// The columns; none where a row has something else there.
    pub columns: Vec<Option<ColumnRef>>,
    /// The rows, each with as many values.
    pub rows: Vec<Vec<KeyValue>>,
}

/// The formats of EXPLAIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Explains {
    /// Lines.
    Text,
    /// JSON.
    Json,
    /// XML.
    Xml,
    /// YAML.
    Yaml,
}

impl Explains {
    /// The format that FORMAT names.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let formats = [("text", Self::Text), ("json", Self::Json), ("xml", Self::Xml), ("yaml", Self::Yaml)];
        formats.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, format)| format)
    }
}

/// What a statement touches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is another fact")]
pub struct Touch {
    /// The tables that it writes, in a WITH as well.
    pub targets: Vec<(Dml, TableRef)>,
    /// FOR UPDATE and the like without a name: it locks the rows of all its tables.
    pub locks_all: bool,
    /// The tables, by name or alias, whose rows it locks.
    pub locks: Vec<String>,
    /// A function whose effect is one server's alone, where others would look for it elsewhere: `nextval`, `pg_notify`, advisory locks.
    pub one_place: Option<String>,
    /// It calls `pg_notify`.
    pub notifies: bool,
    /// It asks for what is another on every server: numbers of objects, sizes.
    pub own_server: bool,
    /// The relations, as they are named in strings, whose sizes it asks for.
    pub sizes_of: Vec<String>,
    /// It sets a setting of pgweir's by SET LOCAL or `set_config()`, which nobody follows.
    pub sets_own: bool,
    /// The relation that it makes is temporary and goes with its transaction: ON COMMIT DROP.
    pub fleeting: bool,
    /// TRUNCATE ... CASCADE: it empties tables that it does not name.
    pub cascades: bool,
    /// Of a utility statement: what its relations are to it.
    pub about: Option<About>,
    /// What the first of its relations is made of.
    pub made_of: Vec<TableRef>,
    /// What the first of its relations is called afterwards, by RENAME TO and SET SCHEMA.
    pub becomes: Option<Box<TableRef>>,
    /// ON CONFLICT.
    pub conflict: Conflict,
    /// The columns of the top level that must be equal to one of several values, by IN.
    pub lists: Vec<(ColumnRef, Vec<KeyValue>)>,
    /// The columns of the top level that must together be one of several rows; `lists` has what follows for each.
    pub row_lists: Vec<RowList>,
    /// It is a SELECT of constants, and of `set_config()` for the transaction by constants: it says and does the same wherever it runs.
    pub constant: bool,
    /// A column of the top level is compared with the elements of an array that is one value: `= ANY ($1)`.
    pub arrays: bool,
    /// SELECTs below the top level: the tables of FROM, and what their columns must be equal to.
    pub inner: Vec<Inner>,
    /// What the columns that USING and NATURAL have merged must be equal to.
    pub merged: Vec<(ColumnRef, KeyValue)>,
    /// The constants that an UPDATE assigns.
    pub given: Vec<(String, KeyValue)>,
    /// Its queries, one within another, if there are several, or tables, or arrays of keys that a write asks for. None as well where it has
    /// something that is not understood.
    pub levels: Option<Box<Levels>>,
    /// It is EXPLAIN of what the rest says, and answers in this format.
    pub explains: Option<Explains>,
}

impl Touch {
    /// Whether it locks rows: FOR UPDATE and the like.
    #[must_use]
    pub fn locks_rows(&self) -> bool {
        self.locks_all || !self.locks.is_empty()
    }

    /// Whether it locks the rows of a table.
    #[must_use]
    pub fn locks(&self, table: &TableRef) -> bool {
        self.locks_all || self.locks.contains(table.alias.as_ref().unwrap_or(&table.name))
    }

    /// How many items it has, for those who weigh it.
    #[must_use]
    pub fn items(&self) -> usize {
        let lists: usize = self.lists.iter().map(|(_, values)| values.len().saturating_add(1)).sum();
        let inner = self.inner.iter().map(|(tables, equal)| tables.len().saturating_add(equal.len()).saturating_add(1));
        let lists = inner.fold(lists, usize::saturating_add);
        let levels = self.levels.as_ref().map_or(0, |levels| levels.items());
        let rows =
            self.row_lists.iter().map(|list| list.columns.len().saturating_mul(list.rows.len().saturating_add(1)));
        let lists = rows.fold(lists, usize::saturating_add);
        let others =
            [self.targets.len(), self.locks.len(), self.sizes_of.len(), self.merged.len(), self.given.len(), levels];
        let lists = lists.saturating_add(self.made_of.len());
        others.iter().fold(lists, |sum, n| sum.saturating_add(*n))
    }

    /// Every value of a key in it.
    pub fn values(&mut self) -> impl Iterator<Item = &mut KeyValue> {
        let lists = self.lists.iter_mut().flat_map(|(_, values)| values);
        let rows = self.row_lists.iter_mut().flat_map(|list| list.rows.iter_mut().flatten());
        let inner = self.inner.iter_mut().flat_map(|(_, equal)| equal.iter_mut().map(|(_, value)| value));
        lists
            .chain(rows)
            .chain(inner)
            .chain(self.merged.iter_mut().map(|(_, value)| value))
            .chain(self.given.iter_mut().map(|(_, value)| value))
            .chain(self.levels.iter_mut().flat_map(|levels| levels.values()))
    }
}

/// Functions of PostgreSQL's own that tell how large a relation is on this server.
const SIZES: [&str; 5] =
    ["pg_indexes_size", "pg_relation_filenode", "pg_relation_size", "pg_table_size", "pg_total_relation_size"];

/// Those that tell numbers of objects, which are others on each server.
const NUMBERS: [&str; 9] = [
    "to_regclass",
    "to_regcollation",
    "to_regnamespace",
    "to_regoper",
    "to_regoperator",
    "to_regproc",
    "to_regprocedure",
    "to_regrole",
    "to_regtype",
];

/// Notes what a call of one of PostgreSQL's own functions touches.
pub(super) fn call(name: &str, function: &nodes::FuncCall, touch: &mut Touch) {
    let lock = name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_");
    if lock || matches!(name, "nextval" | "setval" | "pg_notify") {
        touch.one_place.get_or_insert_with(|| name.to_owned());
    }
    touch.notifies |= name == "pg_notify";
    touch.own_server |= NUMBERS.contains(&name);
    if SIZES.contains(&name) {
        touch.own_server = true;
        touch.sizes_of.extend(function.args().get(0).and_then(constant));
    }
    if name == "set_config" {
        touch.sets_own |= function.args().get(0).and_then(constant).is_some_and(|name| is_own(&name));
    }
}

/// Whether a setting is pgweir's.
pub(super) fn is_own(name: &str) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("pgweir."))
}

/// A string, perhaps under casts.
fn constant(mut node: Node<'_>) -> Option<String> {
    while let Node::TypeCast(cast) = node {
        node = cast.arg();
    }
    let Node::A_Const(constant) = node else { return None };
    match constant.val() {
        Some(ConstValue::String(text)) => Some(text.to_owned()),
        _ => None,
    }
}

/// Adds what the walk over a query saw.
pub(super) fn of_query(node: Node<'_>, seen: &Seen<'_>, touch: &mut Touch) {
    touch.targets.clone_from(&seen.targets);
    for locking in &seen.locking {
        let names = locking.locked_rels().iter().filter_map(|node| match node {
            Node::RangeVar(var) => var.relname().map(str::to_owned),
            _ => None,
        });
        let before = touch.locks.len();
        touch.locks.extend(names);
        touch.locks_all |= touch.locks.len() == before;
    }
    touch.own_server |= seen.casts_to_number;
    match node {
        Node::SelectStmt(select) => {
            touch.constant = is_constant(select);
            let inner = seen.selects.iter().filter(|inner| !std::ptr::eq(**inner, select));
            touch.inner =
                inner.map(|select| shape::conditions(select)).filter(|(tables, _)| !tables.is_empty()).collect();
        }
        Node::InsertStmt(insert) => touch.conflict = conflict(insert),
        Node::UpdateStmt(update) => {
            let given = |target: &nodes::ResTarget| {
                let simple = target.indirection().is_empty();
                Some((target.name().filter(|_| simple)?.to_owned(), shape::key_value(target.val())))
            };
            touch.given = update.target_list().iter().filter_map(given).collect();
            touch.given.retain(|(_, value)| !matches!(value, KeyValue::Expression | KeyValue::Default));
        }
        _ => {}
    }
}

/// Whether it has nothing but constants and settings of the transaction in its list.
fn is_constant(select: &nodes::SelectStmt) -> bool {
    let literal = |node: Node<'_>| matches!(node, Node::A_Const(_));
    let sets = |call: &nodes::FuncCall| {
        let name: Vec<_> = call.funcname().iter().filter_map(Node::as_str).collect();
        let last = call.args().get(2);
        let local =
            matches!(last, Some(Node::A_Const(constant)) if matches!(constant.val(), Some(ConstValue::Boolean(true))));
        matches!(name.as_slice(), ["set_config"] | ["pg_catalog", "set_config"])
            && call.args().len() == 3
            && local
            && call.args().iter().all(literal)
    };
    let harmless = |target: Node<'_>| match target {
        Node::ResTarget(target) => match target.val() {
            Node::FuncCall(call) => sets(call),
            value => literal(value),
        },
        _ => false,
    };
    super::walk::set_operation(select).is_none()
        && select.with_clause().is_none()
        && select.from_clause().is_empty()
        && select.values_lists().is_empty()
        && select.into_clause().is_none()
        && select.locking_clause().is_empty()
        && matches!(select.where_clause(), Node::None)
        && matches!((select.limit_count(), select.limit_offset()), (Node::None, Node::None))
        && select.target_list().iter().all(|target| harmless(target.into()))
        && !select.target_list().is_empty()
}

pub(super) fn conflict(insert: &nodes::InsertStmt) -> Conflict {
    let Some(clause) = insert.on_conflict_clause() else { return Conflict::None };
    match clause.infer() {
        Some(infer) if infer.conname().is_none() => {
            let columns = infer.index_elems().iter().filter_map(|node| match node {
                // By another collation, or operators of somebody's own, different values may be equal.
                Node::IndexElem(elem) if elem.collation().is_empty() && elem.opclass().is_empty() => {
                    elem.name().map(str::to_owned)
                }
                _ => None,
            });
            Conflict::Columns(columns.collect())
        }
        _ => Conflict::Any,
    }
}
