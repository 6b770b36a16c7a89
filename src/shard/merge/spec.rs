//! What is to be merged: the words between the planner, which knows the statement, and the merge, which sees rows only.

use super::aggregate::Aggregate;

/// How a value is written, as in Bind and RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// As its type's output function writes it; what a simple query always gets.
    Text,
    /// As its type's send function writes it.
    Binary,
}

impl Format {
    /// Reads a format code.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        match code {
            0 => Some(Self::Text),
            1 => Some(Self::Binary),
            _ => None,
        }
    }
}

/// What is known of a column's collation: `pg_collation_for` of its expression. Bytes are those of the server only while
/// client_encoding is the server's own: under another all texts are [`Collation::Unknown`], for a conversion keeps neither the order
/// nor, in some encodings, that unequal texts differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collation {
    /// The type has none, or it is C or POSIX (of `name` it always is): bytes are compared.
    Bytes,
    /// Another whose equal texts have equal bytes: all but those that were created as nondeterministic. Such texts can be
    /// grouped, but not sorted here.
    Deterministic,
    /// Not asked, or nondeterministic: texts can be neither grouped nor sorted.
    Unknown,
}

/// A column of what the shards are asked: one field of each DataRow.
///
/// The merge reads either format. Binary is the better choice for what no client sees, sort keys and partials: it depends on no
/// setting of the session. What is passed on as it came must have the format that the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The type's OID, as RowDescription says.
    pub type_oid: u32,
    /// The type's modifier, as RowDescription says; -1: none.
    pub type_modifier: i32,
    /// How its values are written.
    pub format: Format,
    /// By what its texts compare.
    pub collation: Collation,
}

/// The session's settings by which texts are written. Without them a type whose text depends on one is refused in text format;
/// binary does not need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextRules {
    /// DateStyle begins with ISO.
    pub iso_dates: bool,
    /// `extra_float_digits` is 1 or more, so that a float's text is the number and not a shorter one near it.
    pub exact_floats: bool,
}

/// Where a value of the result comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A column of the shards' rows, by its place, counted from 0. Of groups: one of their keys.
    Column(usize),
    /// An aggregate of [`Shape::Groups`], by its place in the list.
    Aggregate(usize),
}

/// A column that the client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Where it comes from.
    pub source: Source,
    /// How the client wants it written. Columns and the results of min and max must come in it already.
    pub format: Format,
}

/// An expression of ORDER BY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortKey {
    /// Its value: a column that the client sees or one added for this.
    pub source: Source,
    /// DESC.
    pub descending: bool,
    /// NULLS FIRST; where the statement does not say, the same as `descending`.
    pub nulls_first: bool,
}

/// Which rows of equal ones are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distinct {
    /// All.
    #[default]
    All,
    /// DISTINCT: one of those that are equal in all that the client sees.
    Rows,
    /// DISTINCT ON: the first of those that are equal in so many of the first sort keys.
    FirstBy(usize),
}

/// What the rows of the shards are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Rows of the result. With sort keys each shard's rows must come in that order: the statement sent has the same ORDER BY.
    Rows,
    /// Parts of groups, in any order: rows with equal keys are one group. The statement sent has the same GROUP BY.
    Groups {
        /// The columns of the keys. None: one group, which is there even without rows, as an aggregate without GROUP BY is.
        keys: Vec<usize>,
        /// What is made of the partials.
        aggregates: Vec<Aggregate>,
    },
}

/// How the results of the shards become one.
///
/// The order of the steps is SQL's: groups, DISTINCT, ORDER BY, OFFSET, LIMIT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What the shards send.
    pub shape: Shape,
    /// What the client sees.
    pub output: Vec<Output>,
    /// ORDER BY; empty: in any order.
    pub sort: Vec<SortKey>,
    /// DISTINCT.
    pub distinct: Distinct,
    /// OFFSET: rows left out. The statement sent has none, but a LIMIT of both together.
    pub offset: u64,
    /// LIMIT.
    pub limit: Option<u64>,
    /// Bytes that groups, or the rows that DISTINCT remembers, may take before the statement fails with 54000.
    pub memory_limit: usize,
}

impl Spec {
    /// What [`Spec::memory_limit`] is without a setting: 64 MiB.
    pub const MEMORY_LIMIT: usize = 64 << 20;
}
