//! DISTINCT: which rows are shown of those that are equal.

use std::collections::HashSet;

use super::ordered::{Key, Row};
use super::spec::{Collation, Column, Distinct};
use super::{groups_by_bytes, refusal};
use crate::error::Result;

/// What a remembered row takes besides its bytes.
const OVERHEAD: usize = 48;

/// Values of the column are equal when their bytes are, or it is refused.
pub(super) fn check(column: &Column, what: &str) -> Result<()> {
    if !groups_by_bytes(column.type_oid, column.type_modifier) {
        return Err(refusal::equal_but_unlike(what, column.type_oid));
    }
    if matches!(column.type_oid, 19 | 25 | 1042 | 1043) && column.collation == Collation::Unknown {
        return Err(refusal::nondeterministic(what));
    }
    Ok(())
}

/// The rows that were shown, as far as an equal one may still come.
#[derive(Debug)]
pub(super) struct Filter {
    distinct: Distinct,
    seen: HashSet<Box<[u8]>>,
    bytes: usize,
    limit: usize,
    /// The sort keys of the last row. Equal rows have equal keys, so that with other keys all can be forgotten.
    last: Option<Key>,
}

impl Filter {
    pub(super) fn new(distinct: Distinct, limit: usize) -> Self {
        Self { distinct, seen: HashSet::new(), bytes: 0, limit, last: None }
    }

    /// Whether a row is shown.
    pub(super) fn admits(&mut self, row: &Row) -> Result<bool> {
        let keys = match self.distinct {
            Distinct::All => return Ok(true),
            Distinct::Rows => row.key.len(),
            Distinct::FirstBy(count) => count.min(row.key.len()),
        };
        let same = self.last.as_ref().is_some_and(|last| last[..keys] == row.key[..keys]);
        if !same {
            self.last = Some(row.key[..keys].to_vec());
            self.seen.clear();
            self.bytes = 0;
        }
        if matches!(self.distinct, Distinct::FirstBy(_)) {
            return Ok(!same);
        }
        if self.seen.contains(row.body.as_slice()) {
            return Ok(false);
        }
        self.bytes += row.body.len() + OVERHEAD;
        if self.bytes > self.limit {
            return Err(refusal::memory("the rows of DISTINCT", self.limit));
        }
        self.seen.insert(row.body.as_slice().into());
        Ok(true)
    }
}
