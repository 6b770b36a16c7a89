//! The partials of an aggregate become its result.
//!
//! NULL partials are those of shards without a row that counts; they change nothing. Sums of floats depend on the order of their
//! terms, which PostgreSQL does not promise either: here each shard's sum is a term.

use super::aggregate::{Aggregate, Combine, oid, result_type};
use super::numeric::{self, Numeric};
use super::spec::{Column, TextRules};
use super::value::{Reader, Value};
use super::{refusal, row};
use crate::error::Result;

/// An aggregate, checked against the columns of its partials.
#[derive(Debug)]
pub(super) struct Combiner {
    combine: Combine,
    parts: Vec<(usize, Reader)>,
    /// The type of the result.
    pub(super) type_oid: u32,
}

/// What is known so far of an aggregate in a group.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// NULL.
    Nothing,
    Count(i64),
    /// In a wider type than the result's: a sum that is too large only on the way is none.
    Integers(i128),
    Numbers(Numeric),
    Floats(f64),
    Reals(f32),
    Bool(bool),
    Bits(i64),
    /// The least or greatest value, and its bytes as they came.
    Extreme(Value, Box<[u8]>),
    /// Count, sum, sum of squares.
    Moments(i64, Numeric, Numeric),
    /// Count, sum, sum of squared deviations.
    FloatMoments(i64, f64, f64),
}

/// A result: the value where one was computed, and its bytes where they are passed on.
#[derive(Debug)]
pub(super) enum Outcome {
    Null,
    Value(Value),
    AsItCame(Value, Box<[u8]>),
}

impl State {
    /// Bytes on the heap.
    pub(super) fn heap_size(&self) -> usize {
        match self {
            Self::Numbers(sum) => sum.heap_size(),
            Self::Extreme(value, bytes) => value.heap_size() + bytes.len(),
            Self::Moments(_, sum, squares) => sum.heap_size() + squares.heap_size(),
            _ => 0,
        }
    }
}

impl Combiner {
    pub(super) fn new(aggregate: &Aggregate, columns: &[Column], rules: TextRules) -> Result<Self> {
        let combine = aggregate.combine;
        let part = |place: &usize| columns.get(*place).ok_or_else(|| refusal::fault("an aggregate without its column"));
        let of = aggregate.parts.iter().map(part).collect::<Result<Vec<&Column>>>()?;
        let types: Vec<u32> = of.iter().map(|column| column.type_oid).collect();
        let type_oid = result_type(combine, &types)?;
        let reader = |(place, column): (&usize, &&Column)| {
            let reader = match combine {
                Combine::Min | Combine::Max => Reader::comparing(column, rules, "min and max of")?,
                _ => Reader::counting(column, rules)?,
            };
            Ok((*place, reader))
        };
        let parts = aggregate.parts.iter().zip(&of).map(reader).collect::<Result<_>>()?;
        Ok(Self { combine, parts, type_oid })
    }

    /// Before any partial.
    pub(super) fn start(&self) -> State {
        if self.combine == Combine::Count { State::Count(0) } else { State::Nothing }
    }

    /// Adds a shard's partials.
    pub(super) fn add(&self, state: &mut State, body: &[u8], fields: &row::Fields) -> Result<()> {
        let part = |number: usize| -> Result<Option<(Value, &[u8])>> {
            let (place, reader) = self.parts.get(number).ok_or_else(|| refusal::fault("a partial is missing"))?;
            row::field(body, fields, *place).map(|bytes| Ok((reader.read(bytes)?, bytes))).transpose()
        };
        let Some((first, bytes)) = part(0)? else { return Ok(()) };
        let before = std::mem::replace(state, State::Nothing);
        *state = match self.combine {
            Combine::Min | Combine::Max => self.extreme(before, first, bytes),
            Combine::Avg | Combine::Spread { .. } => {
                let Value::Int(count) = first else { return Err(refusal::fault("a count that is none")) };
                let Some((sum, _)) = part(1)? else {
                    *state = before;
                    return Ok(());
                };
                let squares = if self.parts.len() > 2 { part(2)?.map(|(value, _)| value) } else { None };
                moments(before, count, sum, squares)?
            }
            _ => self.fold(before, first)?,
        };
        Ok(())
    }

    fn extreme(&self, before: State, value: Value, bytes: &[u8]) -> State {
        match before {
            State::Extreme(known, known_bytes)
                if (self.combine == Combine::Min && known <= value)
                    || (self.combine == Combine::Max && known >= value) =>
            {
                State::Extreme(known, known_bytes)
            }
            _ => State::Extreme(value, bytes.into()),
        }
    }

    /// Aggregates of one partial that is of the result's type.
    fn fold(&self, before: State, value: Value) -> Result<State> {
        Ok(match (self.combine, before, value) {
            (Combine::Count, State::Count(sum), Value::Int(count)) => {
                State::Count(sum.checked_add(count).ok_or_else(|| refusal::out_of_range("bigint"))?)
            }
            (Combine::Sum, State::Nothing, Value::Int(sum)) => State::Integers(i128::from(sum)),
            (Combine::Sum, State::Integers(known), Value::Int(sum)) => State::Integers(known + i128::from(sum)),
            (Combine::Sum, State::Nothing, Value::Numeric(sum)) => State::Numbers(sum),
            (Combine::Sum, State::Numbers(known), Value::Numeric(sum)) => State::Numbers(known.add(&sum)),
            (Combine::Sum, State::Nothing, Value::Float(sum)) if self.type_oid == oid::FLOAT4 => {
                State::Reals(sum as f32)
            }
            (Combine::Sum, State::Reals(known), Value::Float(sum)) => {
                let added = known + sum as f32;
                float_overflow(f64::from(added), f64::from(known), sum)?;
                State::Reals(added)
            }
            (Combine::Sum, State::Nothing, Value::Float(sum)) => State::Floats(sum),
            (Combine::Sum, State::Floats(known), Value::Float(sum)) => {
                float_overflow(known + sum, known, sum)?;
                State::Floats(known + sum)
            }
            (Combine::BoolAnd | Combine::BoolOr, State::Nothing, Value::Bool(value)) => State::Bool(value),
            (Combine::BoolAnd, State::Bool(known), Value::Bool(value)) => State::Bool(known && value),
            (Combine::BoolOr, State::Bool(known), Value::Bool(value)) => State::Bool(known || value),
            (Combine::BitAnd | Combine::BitOr | Combine::BitXor, State::Nothing, Value::Int(value)) => {
                State::Bits(value)
            }
            (Combine::BitAnd, State::Bits(known), Value::Int(value)) => State::Bits(known & value),
            (Combine::BitOr, State::Bits(known), Value::Int(value)) => State::Bits(known | value),
            (Combine::BitXor, State::Bits(known), Value::Int(value)) => State::Bits(known ^ value),
            _ => return Err(refusal::fault("a partial is of another type than the last")),
        })
    }

    /// The result.
    pub(super) fn finish(&self, state: &State) -> Result<Outcome> {
        let value = match (state, self.combine) {
            (State::Nothing, _) => return Ok(Outcome::Null),
            (State::Extreme(value, bytes), _) => return Ok(Outcome::AsItCame(value.clone(), bytes.clone())),
            (State::Count(count), _) => Value::Int(*count),
            (State::Integers(sum), _) => Value::Int(i64::try_from(*sum).map_err(|_| refusal::out_of_range("bigint"))?),
            (State::Numbers(sum), _) => Value::Numeric(sum.clone().checked()?),
            (State::Floats(sum), _) => Value::Float(*sum),
            (State::Reals(sum), _) => Value::Float(f64::from(*sum)),
            (State::Bool(value), _) => Value::Bool(*value),
            (State::Bits(bits), _) => Value::Int(*bits),
            (State::Moments(count, sum, squares), Combine::Spread { sample, root }) => {
                match numeric::spread(*count, sum, squares, sample, root)? {
                    Some(spread) => Value::Numeric(spread),
                    None => return Ok(Outcome::Null),
                }
            }
            (State::Moments(count, sum, _), _) => Value::Numeric(numeric::average(*count, sum.clone())?),
            (State::FloatMoments(count, _, squares), Combine::Spread { sample, root }) => {
                if sample && *count <= 1 {
                    return Ok(Outcome::Null);
                }
                let variance = squares / (count - i64::from(sample)) as f64;
                Value::Float(if root { variance.sqrt() } else { variance })
            }
            (State::FloatMoments(count, sum, _), _) => Value::Float(sum / *count as f64),
        };
        Ok(Outcome::Value(value))
    }
}

/// Adds a shard's count above 0, sum, and sum of squares or deviations.
fn moments(before: State, count: i64, sum: Value, squares: Option<Value>) -> Result<State> {
    let total = |known: i64| known.checked_add(count).ok_or_else(|| refusal::out_of_range("bigint"));
    let number = |value| match value {
        Value::Int(value) => Ok(Numeric::from(value)),
        Value::Numeric(value) => Ok(value),
        _ => Err(refusal::fault("a sum is of another type than the last")),
    };
    if count <= 0 {
        return Err(refusal::server_fault("a shard sent a sum of nothing"));
    }
    Ok(match (before, sum) {
        (State::Nothing, Value::Float(sum)) => State::FloatMoments(count, sum, deviations(squares)?),
        (State::FloatMoments(known, s1, d1), Value::Float(s2)) => {
            float_overflow(s1 + s2, s1, s2)?;
            let joined = if squares.is_some() {
                join_deviations((known, s1, d1), (count, s2, deviations(squares)?))?
            } else {
                0.0
            };
            State::FloatMoments(total(known)?, s1 + s2, joined)
        }
        (State::Nothing, sum) => State::Moments(count, number(sum)?, squares.map_or(Ok(Numeric::from(0_i64)), number)?),
        (State::Moments(known, s1, q1), sum) => {
            let squares = squares.map_or(Ok(Numeric::from(0_i64)), number)?;
            State::Moments(total(known)?, s1.add(&number(sum)?), q1.add(&squares))
        }
        _ => return Err(refusal::fault("a sum is of another type than the last")),
    })
}

/// Count, sum and squared deviations of two parts give the deviations of both, as in PostgreSQL's `float8_combine`, which puts the
/// partials of parallel workers together.
fn join_deviations((n1, s1, d1): (i64, f64, f64), (n2, s2, d2): (i64, f64, f64)) -> Result<f64> {
    let (n1, n2) = (n1 as f64, n2 as f64);
    let apart = s1 / n1 - s2 / n2;
    let joined = d1 + d2 + n1 * n2 * apart * apart / (n1 + n2);
    float_overflow(joined, d1, d2).map(|()| joined)
}

fn deviations(value: Option<Value>) -> Result<f64> {
    match value {
        None => Ok(0.0),
        Some(Value::Float(value)) => Ok(value),
        Some(_) => Err(refusal::fault("deviations are of another type than the sum")),
    }
}

/// A sum that is infinite though its terms are not.
fn float_overflow(sum: f64, a: f64, b: f64) -> Result<()> {
    if sum.is_infinite() && a.is_finite() && b.is_finite() { Err(refusal::float_overflow()) } else { Ok(()) }
}
