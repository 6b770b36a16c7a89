//! The queries of a statement, one within another: what each takes its rows from, which names can be seen in it, and what its rows must
//! be equal to. The shard planner proves from it that all of them ask one shard.
//!
//! Names follow PostgreSQL's rules: a column without a qualifier is that of the innermost query with such a column; ON sees the tables of
//! its join alone, and what is further out; a sub-query in FROM sees its neighbours if it is LATERAL; a query of WITH sees nothing of the
//! query that it stands before. See <https://www.postgresql.org/docs/current/queries-table-expressions.html>.

mod build;

use std::ops::Range;

use super::facts::{ColumnRef, KeyValue, TableRef};
use super::touch::Conflict;
pub(super) use build::{is_nested, of_query};

/// All queries of one statement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Levels {
    /// Those that have a FROM clause or a target.
    pub levels: Vec<Level>,
    /// What gives columns to others: queries of WITH and of FROM, and the sources of INSERT.
    pub queries: Vec<Query>,
}

/// Items of a level that follow one another.
pub type Items = Range<usize>;

/// From where names are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outer {
    /// The level.
    pub level: usize,
    /// Those of its items that are seen.
    pub sees: Items,
    /// The row of its target is seen as it was written: from RETURNING.
    pub written: bool,
}

impl Outer {
    /// These items of a level, as its rows are before it writes.
    fn of(level: usize, sees: Items) -> Self {
        Self { level, sees, written: false }
    }
}

/// One SELECT, INSERT, UPDATE, DELETE or MERGE.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Level {
    /// Where names are looked for that nothing here has.
    pub outer: Option<Outer>,
    /// What it takes rows from. A target comes first.
    pub items: Vec<Item>,
    /// What holds for its rows.
    pub conditions: Vec<Condition>,
    /// JOIN ... USING.
    pub merged: Vec<Using>,
    /// What it does to its target.
    pub write: Option<Write>,
}

/// A table, or a query in the place of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What qualifies its columns: the alias, else its name.
    pub name: Option<String>,
    /// What it is.
    pub source: Source,
    /// The names that an alias gives its first columns.
    pub renamed: Vec<String>,
    /// An outer join shows rows without it.
    pub nullable: bool,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A table.
    Table(TableRef),
    /// A query in FROM, or the name of one of WITH: its number among the queries.
    Query(usize),
    /// A function, or anything else.
    Other,
}

/// A column is equal to something in all rows that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The items whose rows do not matter where it does not hold.
    pub binds: Items,
    /// The items that its names may mean.
    pub sees: Items,
    /// The column.
    pub column: ColumnRef,
    /// What it is equal to.
    pub equals: Operand,
}

/// What a column is equal to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// One of these.
    Values(Vec<KeyValue>),
    /// An element of an array, as a text or a parameter.
    Array(KeyValue),
    /// Another column.
    Column(ColumnRef),
    /// A value of a query's column: the query's number, and the column's place.
    Query(usize, usize),
}

/// A column that a join makes one of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Using {
    /// Its name.
    pub name: String,
    /// The items on the left.
    pub left: Items,
    /// Those on the right.
    pub right: Items,
    /// The items whose rows do not matter where the two differ.
    pub binds: Items,
    /// Whose column it is.
    pub shows: Shows,
}

/// Which side's column a merged one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// That of both, which are equal: an inner join.
    Both,
    /// That of the left one: LEFT JOIN.
    Left,
    /// That of the right one: RIGHT JOIN.
    Right,
    /// That of the one which is not NULL: FULL JOIN.
    Either,
}

/// What gives columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The names that WITH gives its first columns.
    pub renamed: Vec<String>,
    /// How.
    pub body: Body,
}

/// How a query gives columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// SELECT, or RETURNING of a write.
    Select {
        /// Which level.
        level: usize,
        /// Its columns.
        outputs: Vec<Output>,
    },
    /// VALUES.
    Rows(Vec<Vec<KeyValue>>),
    /// UNION, INTERSECT, EXCEPT: of these two queries.
    Set(usize, usize),
    /// Nothing is known of its columns.
    Unknown,
}

/// A column that a query gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A column of its own.
    Column {
        /// The name; none if PostgreSQL makes one up.
        name: Option<String>,
        /// What it is.
        value: Value,
    },
    /// All columns: of its items, or of the one so qualified.
    Star(Vec<String>),
}

/// What a column shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Another column.
    Column(ColumnRef),
    /// A constant.
    Constant(KeyValue),
    /// Anything else.
    Other,
}

/// What a level does to its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// INSERT.
    Insert {
        /// The column list.
        columns: Option<Vec<String>>,
        /// The query that gives the rows; none for DEFAULT VALUES.
        rows: Option<usize>,
        /// ON CONFLICT.
        conflict: Conflict,
        /// The columns that ON CONFLICT DO UPDATE gives other values than the row has that came.
        changed: Vec<String>,
    },
    /// UPDATE: its columns with their values.
    Update(Vec<(String, KeyValue)>),
    /// DELETE.
    Delete,
    /// MERGE.
    Merge {
        /// Its inserts: the column list and the values, whose names are those of the source alone.
        inserts: Vec<(Option<Vec<String>>, Vec<Value>)>,
        /// The columns that it updates.
        changed: Vec<String>,
    },
}

impl Level {
    /// Whether a row of its target has another value in this column once it is written.
    #[must_use]
    pub fn changes(&self, column: &str) -> bool {
        match &self.write {
            Some(Write::Update(given)) => given.iter().any(|(name, _)| name == column),
            Some(Write::Insert { changed, .. } | Write::Merge { changed, .. }) => {
                changed.iter().any(|name| name == column)
            }
            Some(Write::Delete) | None => false,
        }
    }
}

impl Levels {
    /// The tables; one that is named twice comes twice.
    pub fn tables(&self) -> impl Iterator<Item = &TableRef> {
        self.levels.iter().flat_map(|level| &level.items).filter_map(|item| match &item.source {
            Source::Table(table) => Some(table),
            Source::Query(_) | Source::Other => None,
        })
    }

    /// How many items it has, for those who weigh it.
    #[must_use]
    pub fn items(&self) -> usize {
        let of_level = |level: &Level| 2 * level.items.len() + 2 * level.conditions.len() + level.merged.len() + 1;
        let of_query = |query: &Query| match &query.body {
            Body::Select { outputs, .. } => 1 + 2 * outputs.len(),
            Body::Rows(rows) => 1 + rows.iter().map(Vec::len).sum::<usize>(),
            Body::Set(..) | Body::Unknown => 1,
        };
        let levels: usize = self.levels.iter().map(of_level).sum();
        levels + self.queries.iter().map(of_query).sum::<usize>()
    }

    /// Every value that may be a key.
    pub fn values(&mut self) -> impl Iterator<Item = &mut KeyValue> {
        let in_levels = self.levels.iter_mut().flat_map(|level| {
            let equals = level.conditions.iter_mut().flat_map(|condition| match &mut condition.equals {
                Operand::Values(values) => values.iter_mut().collect::<Vec<_>>(),
                Operand::Array(value) => vec![value],
                Operand::Column(_) | Operand::Query(..) => Vec::new(),
            });
            equals.chain(level.write.iter_mut().flat_map(Write::values))
        });
        let in_queries = self.queries.iter_mut().flat_map(|query| match &mut query.body {
            Body::Select { outputs, .. } => outputs.iter_mut().filter_map(Output::constant).collect(),
            Body::Rows(rows) => rows.iter_mut().flatten().collect(),
            Body::Set(..) | Body::Unknown => Vec::new(),
        });
        in_levels.chain(in_queries)
    }
}

impl Write {
    fn values(&mut self) -> Vec<&mut KeyValue> {
        match self {
            Self::Update(given) => given.iter_mut().map(|(_, value)| value).collect(),
            Self::Merge { inserts, .. } => {
                inserts.iter_mut().flat_map(|(_, values)| values).filter_map(Value::constant).collect()
            }
            Self::Insert { .. } | Self::Delete => Vec::new(),
        }
    }
}

impl Output {
    fn constant(&mut self) -> Option<&mut KeyValue> {
        match self {
            Self::Column { value, .. } => value.constant(),
            Self::Star(_) => None,
        }
    }
}

impl Value {
    fn constant(&mut self) -> Option<&mut KeyValue> {
        match self {
            Self::Constant(value) => Some(value),
            Self::Column(_) | Self::Other => None,
        }
    }
}
