//! Rows that come sorted from each shard, merged into one order: the least of the first rows of all, again and again.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::refusal;
use super::spec::SortKey;
use super::value::Value;
use crate::error::Result;

/// The values of a row's sort keys; none is NULL.
pub(super) type Key = Vec<Option<Value>>;

/// A row as the client sees it, with what it is sorted by.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) body: Vec<u8>,
}

impl Row {
    pub(super) fn size(&self) -> usize {
        let value = |value: &Option<Value>| size_of::<Option<Value>>() + value.as_ref().map_or(0, Value::heap_size);
        size_of::<Self>() + self.body.len() + self.key.iter().map(value).sum::<usize>()
    }
}

/// The order of ORDER BY.
pub(super) fn compare(a: &Key, b: &Key, sort: &[SortKey]) -> Ordering {
    for ((a, b), by) in a.iter().zip(b).zip(sort) {
        let order = match (a, b) {
            (Some(a), Some(b)) if by.descending => b.cmp(a),
            (Some(a), Some(b)) => a.cmp(b),
            (None, None) => Ordering::Equal,
            (None, Some(_)) if by.nulls_first => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) if by.nulls_first => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
        };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// The rows of a shard that wait.
#[derive(Debug, Default)]
struct Stream {
    rows: VecDeque<Row>,
    bytes: usize,
    ended: bool,
    /// The key of the row that was taken last, when none waits: what comes next must not be before it.
    last: Option<Key>,
}

/// The merge of sorted streams.
#[derive(Debug)]
pub(super) struct Ordered {
    sort: Vec<SortKey>,
    streams: Vec<Stream>,
    /// Streams in which rows wait, as a heap by their first rows.
    heap: Vec<usize>,
    /// Streams that have not ended and in which none waits: nothing can be taken before they have.
    missing: usize,
}

impl Ordered {
    pub(super) fn new(sort: Vec<SortKey>, shards: usize) -> Self {
        let streams = (0..shards).map(|_| Stream::default()).collect();
        Self { sort, streams, heap: Vec::with_capacity(shards), missing: shards }
    }

    /// Takes a row of a shard.
    pub(super) fn push(&mut self, shard: usize, row: Row) -> Result<()> {
        let stream = self
            .streams
            .get_mut(shard)
            .filter(|stream| !stream.ended)
            .ok_or_else(|| refusal::fault("a row of no shard"))?;
        let before = stream.rows.back().map(|row| &row.key).or(stream.last.as_ref());
        if before.is_some_and(|before| compare(before, &row.key, &self.sort).is_gt()) {
            return Err(refusal::disordered());
        }
        stream.bytes += row.size();
        stream.rows.push_back(row);
        stream.last = None;
        if stream.rows.len() == 1 {
            self.missing -= 1;
            self.heap.push(shard);
            self.rise(self.heap.len() - 1);
        }
        Ok(())
    }

    /// A shard has no more rows.
    pub(super) fn end(&mut self, shard: usize) {
        if let Some(stream) = self.streams.get_mut(shard).filter(|stream| !stream.ended) {
            stream.ended = true;
            self.missing -= usize::from(stream.rows.is_empty());
        }
    }

    /// The next row, if it is known which that is.
    pub(super) fn pop(&mut self) -> Option<Row> {
        if self.missing > 0 {
            return None;
        }
        let shard = *self.heap.first()?;
        let stream = self.streams.get_mut(shard)?;
        let row = stream.rows.pop_front()?;
        stream.bytes = stream.bytes.saturating_sub(row.size());
        if stream.rows.is_empty() {
            stream.last = Some(row.key.clone());
            self.missing += usize::from(!stream.ended);
            self.heap.swap_remove(0);
        }
        self.sink(0);
        Some(row)
    }

    /// Bytes of a shard's rows that wait; none when it has ended.
    pub(super) fn waiting(&self, shard: usize) -> Option<usize> {
        self.streams.get(shard).filter(|stream| !stream.ended).map(|stream| stream.bytes)
    }

    /// Whether all shards have ended and nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.missing == 0 && self.heap.is_empty()
    }

    /// Whether the stream at one place of the heap comes before that at another; of equal ones the first shard's.
    fn before(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.heap[a], self.heap[b]);
        match (self.streams[a].rows.front(), self.streams[b].rows.front()) {
            (Some(x), Some(y)) => compare(&x.key, &y.key, &self.sort).then(a.cmp(&b)).is_lt(),
            _ => false,
        }
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.before(at, (at - 1) / 2) {
            self.heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.before(child, least) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }
}
