//! Aggregates over several shards: what each shard is asked for, and how the answers become one.

use super::refusal;
use crate::error::Result;

/// Types by their OIDs, as far as aggregates tell them apart.
pub(super) mod oid {
    pub(crate) const BOOL: u32 = 16;
    pub(crate) const INT8: u32 = 20;
    pub(crate) const INT2: u32 = 21;
    pub(crate) const INT4: u32 = 23;
    pub(crate) const FLOAT4: u32 = 700;
    pub(crate) const FLOAT8: u32 = 701;
    pub(crate) const NUMERIC: u32 = 1700;
}

/// How the partials of the shards become the aggregate's result. The types of the partials decide the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Combine {
    /// From counts: 0 when there are none.
    Count,
    /// From sums: NULL when all are.
    Sum,
    /// From minima.
    Min,
    /// From maxima.
    Max,
    /// From a count and a sum, and for doubles the sum of squared deviations, which must not overflow.
    Avg,
    /// `bool_and` and `every`: from themselves.
    BoolAnd,
    /// From themselves.
    BoolOr,
    /// From themselves.
    BitAnd,
    /// From themselves.
    BitOr,
    /// From themselves.
    BitXor,
    /// From a count, a sum, and the sum of squares (numbers that are exact) or of squared deviations (floats).
    Spread {
        /// `var_samp` and `stddev_samp`: of a sample.
        sample: bool,
        /// `stddev`: the square root.
        root: bool,
    },
}

/// An aggregate of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// What is made of the partials.
    pub combine: Combine,
    /// The columns of the partials, in the order of [`Decomposition::parts`].
    pub parts: Vec<usize>,
}

/// What is done with the argument before a partial takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Argument {
    AsIs,
    Float8,
    NumericSquare,
    Twice,
}

/// One expression for the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    function: &'static str,
    argument: Argument,
}

impl Part {
    /// The expression over an argument's SQL (`*` for `count(*)`). A FILTER clause may follow it.
    #[must_use]
    pub fn sql(&self, argument: &str) -> String {
        let function = self.function;
        match self.argument {
            Argument::AsIs => format!("pg_catalog.{function}({argument})"),
            Argument::Float8 => format!("pg_catalog.{function}(({argument})::pg_catalog.float8)"),
            Argument::NumericSquare => format!(
                "pg_catalog.{function}(({argument})::pg_catalog.numeric OPERATOR(pg_catalog.*) ({argument})::pg_catalog.numeric)"
            ),
            Argument::Twice => {
                format!("pg_catalog.{function}(({argument})::pg_catalog.float8, ({argument})::pg_catalog.float8)")
            }
        }
    }

    /// Whether the argument's SQL stands in it twice: a volatile one must be refused then.
    #[must_use]
    pub fn repeats_argument(&self) -> bool {
        matches!(self.argument, Argument::NumericSquare | Argument::Twice)
    }
}

/// How an aggregate is computed over several shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decomposition {
    /// What each shard is asked instead of the aggregate itself. With more than one, an argument that is volatile must be refused.
    pub parts: Vec<Part>,
    /// What is made of the answers.
    pub combine: Combine,
}

/// Whether the type of its argument must be known to decompose an aggregate. The type can be asked of a shard: it is what
/// Describe says of `SELECT argument FROM ...`.
#[must_use]
pub fn needs_argument_type(name: &str) -> bool {
    matches!(name, "avg" | "var_pop" | "var_samp" | "variance" | "stddev_pop" | "stddev_samp" | "stddev")
}

/// What to ask the shards for instead of PostgreSQL's own aggregate `name` (without its schema), and what to make of the answers.
/// `argument` is the type of its one argument; none if it is not known, or for `count(*)`. An aggregate over DISTINCT or with its own
/// ORDER BY is the caller's to refuse.
///
/// # Errors
/// 0A000 for what cannot be combined, or not without the argument's type ([`needs_argument_type`]).
pub fn decompose(name: &str, argument: Option<u32>) -> Result<Decomposition> {
    let part = |function, argument| Part { function, argument };
    let same = |function, combine| Ok(Decomposition { parts: vec![part(function, Argument::AsIs)], combine });
    match name {
        "count" => return same("count", Combine::Count),
        "sum" => return same("sum", Combine::Sum),
        "min" => return same("min", Combine::Min),
        "max" => return same("max", Combine::Max),
        "bool_and" | "every" => return same("bool_and", Combine::BoolAnd),
        "bool_or" => return same("bool_or", Combine::BoolOr),
        "bit_and" => return same("bit_and", Combine::BitAnd),
        "bit_or" => return same("bit_or", Combine::BitOr),
        "bit_xor" => return same("bit_xor", Combine::BitXor),
        _ => {}
    }
    let combine = match name {
        "avg" => Combine::Avg,
        "var_pop" => Combine::Spread { sample: false, root: false },
        "var_samp" | "variance" => Combine::Spread { sample: true, root: false },
        "stddev_pop" => Combine::Spread { sample: false, root: true },
        "stddev_samp" | "stddev" => Combine::Spread { sample: true, root: true },
        _ => return Err(refusal::aggregate(name, None)),
    };
    let argument = argument.ok_or_else(|| refusal::argument_type_needed(name))?;
    let (sum, squares) = match argument {
        oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC => {
            (part("sum", Argument::AsIs), part("sum", Argument::NumericSquare))
        }
        // PostgreSQL adds reals up as double precision for all but sum().
        oid::FLOAT4 | oid::FLOAT8 => (part("sum", Argument::Float8), part("regr_sxx", Argument::Twice)),
        other => return Err(refusal::aggregate(name, Some(other))),
    };
    let mut parts = vec![part("count", Argument::AsIs), sum];
    // PostgreSQL keeps squared deviations for the average of doubles as well, and fails when they overflow. Those of reals cannot.
    if matches!(combine, Combine::Spread { .. }) || argument == oid::FLOAT8 {
        parts.push(squares);
    }
    Ok(Decomposition { parts, combine })
}

/// The type of an aggregate's result, from those of its partials.
///
/// # Errors
/// 0A000 for a sum of a type that is not added up here.
pub fn result_type(combine: Combine, parts: &[u32]) -> Result<u32> {
    let wrong = || refusal::fault("the partials of an aggregate are not those that were asked for");
    let integer = |oid| matches!(oid, oid::INT2 | oid::INT4 | oid::INT8);
    match (combine, parts) {
        (Combine::Count, &[oid::INT8]) => Ok(oid::INT8),
        (Combine::Sum, &[oid @ (oid::INT8 | oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8)]) => Ok(oid),
        (Combine::Sum, &[other]) => Err(refusal::aggregate("sum", Some(other))),
        (Combine::Min | Combine::Max, &[oid]) => Ok(oid),
        (Combine::BoolAnd | Combine::BoolOr, &[oid::BOOL]) => Ok(oid::BOOL),
        (Combine::BitAnd | Combine::BitOr | Combine::BitXor, &[oid]) if integer(oid) => Ok(oid),
        (Combine::BitAnd | Combine::BitOr | Combine::BitXor, &[other]) => {
            Err(refusal::aggregate("of bits", Some(other)))
        }
        (Combine::Avg, &[oid::INT8, oid::INT8 | oid::NUMERIC])
        | (Combine::Spread { .. }, &[oid::INT8, oid::INT8 | oid::NUMERIC, oid::NUMERIC]) => Ok(oid::NUMERIC),
        (Combine::Avg, &[oid::INT8, oid::FLOAT8])
        | (Combine::Avg, &[oid::INT8, oid::FLOAT8, oid::FLOAT8])
        | (Combine::Spread { .. }, &[oid::INT8, oid::FLOAT8, oid::FLOAT8]) => Ok(oid::FLOAT8),
        _ => Err(wrong()),
    }
}
