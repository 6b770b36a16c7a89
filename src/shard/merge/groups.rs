//! Parts of groups, brought together by the bytes of their keys.

use std::collections::HashMap;

use super::combine::{Combiner, Outcome, State};
use super::ordered::{Key, Row, compare};
use super::spec::{Column, Output, SortKey, Source, TextRules};
use super::value::{Reader, Value, write};
use super::{refusal, row};
use crate::error::Result;

/// What a group takes besides its key and its values.
const OVERHEAD: usize = 64;

/// All groups so far.
#[derive(Debug)]
pub(super) struct Groups {
    keys: Vec<usize>,
    combiners: Vec<Combiner>,
    /// By the key's fields as they stand in a row.
    known: HashMap<Box<[u8]>, Vec<State>>,
    bytes: usize,
    limit: usize,
    rules: TextRules,
}

impl Groups {
    pub(super) fn new(keys: Vec<usize>, combiners: Vec<Combiner>, limit: usize, rules: TextRules) -> Self {
        let mut known = HashMap::new();
        if keys.is_empty() {
            known.insert(row::begin(0).into(), combiners.iter().map(Combiner::start).collect());
        }
        Self { keys, combiners, known, bytes: 0, limit, rules }
    }

    /// Adds a shard's part of a group.
    pub(super) fn push(&mut self, body: &[u8], fields: &row::Fields) -> Result<()> {
        let mut key = row::begin(self.keys.len());
        self.keys.iter().for_each(|place| row::append(&mut key, row::field(body, fields, *place)));
        let key_size = key.len();
        let mut added = 0;
        let states = self.known.entry(key.into()).or_insert_with(|| {
            added = OVERHEAD + key_size + self.combiners.len() * size_of::<State>();
            self.combiners.iter().map(Combiner::start).collect()
        });
        for (state, combiner) in states.iter_mut().zip(&self.combiners) {
            let before = state.heap_size();
            combiner.add(state, body, fields)?;
            self.bytes = (self.bytes + state.heap_size()).saturating_sub(before);
        }
        self.bytes += added;
        if self.bytes > self.limit { Err(refusal::memory("the groups", self.limit)) } else { Ok(()) }
    }

    /// The rows of the result, sorted.
    pub(super) fn finish(&mut self, layout: &GroupLayout<'_>) -> Result<Vec<Row>> {
        let known = std::mem::take(&mut self.known);
        let mut rows = Vec::with_capacity(known.len());
        let mut fields = row::Fields::new();
        for (key, states) in known {
            let outcomes: Vec<Outcome> =
                self.combiners.iter().zip(&states).map(|(c, state)| c.finish(state)).collect::<Result<_>>()?;
            row::fields(&key, self.keys.len(), &mut fields)?;
            rows.push(self.row(&key, &fields, &outcomes, layout)?);
        }
        rows.sort_by(|a, b| compare(&a.key, &b.key, layout.sort));
        Ok(rows)
    }

    fn row(&self, key: &[u8], fields: &row::Fields, outcomes: &[Outcome], layout: &GroupLayout<'_>) -> Result<Row> {
        let group_key = |column: usize| {
            let place = self.keys.iter().position(|key| *key == column);
            place.and_then(|place| row::field(key, fields, place))
        };
        let outcome = |number: usize| outcomes.get(number).ok_or_else(|| refusal::fault("an aggregate is missing"));
        let mut body = row::begin(layout.output.len());
        for output in layout.output {
            match output.source {
                Source::Column(column) => row::append(&mut body, group_key(column)),
                Source::Aggregate(number) => match outcome(number)? {
                    Outcome::Null => row::append(&mut body, None),
                    Outcome::AsItCame(_, bytes) => row::append(&mut body, Some(bytes)),
                    Outcome::Value(value) => {
                        let type_oid = self.combiners.get(number).map_or(0, |combiner| combiner.type_oid);
                        row::append(&mut body, Some(&write(value, type_oid, output.format, self.rules)?));
                    }
                },
            }
        }
        let sort_value = |(by, reader): (&SortKey, &Option<Reader>)| -> Result<Option<Value>> {
            match (by.source, reader) {
                (Source::Column(column), Some(reader)) => group_key(column).map(|bytes| reader.read(bytes)).transpose(),
                (Source::Column(_), None) => Err(refusal::fault("a sort key without its reader")),
                (Source::Aggregate(number), _) => Ok(match outcome(number)? {
                    Outcome::Null => None,
                    Outcome::Value(value) | Outcome::AsItCame(value, _) => Some(value.clone()),
                }),
            }
        };
        let key: Key = layout.sort.iter().zip(layout.readers).map(sort_value).collect::<Result<_>>()?;
        Ok(Row { key, body })
    }

    /// The type of an aggregate's result.
    pub(super) fn type_of(&self, aggregate: usize) -> Option<u32> {
        self.combiners.get(aggregate).map(|combiner| combiner.type_oid)
    }
}

/// How groups become rows.
#[derive(Debug)]
pub(super) struct GroupLayout<'s> {
    pub(super) output: &'s [Output],
    pub(super) sort: &'s [SortKey],
    /// For sort keys that are columns.
    pub(super) readers: &'s [Option<Reader>],
}

/// Checks the keys of groups: equal values must have equal bytes.
pub(super) fn check_keys(keys: &[usize], columns: &[Column]) -> Result<()> {
    for place in keys {
        let column = columns.get(*place).ok_or_else(|| refusal::fault("a group without its column"))?;
        super::distinct::check(column, "grouping")?;
    }
    Ok(())
}
