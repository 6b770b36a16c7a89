//! The line of those who wait for a primary: first come, first served, over all workers.
//!
//! While no server takes writes there is nothing to choose from, and when one does everybody wants it at once. Each statement takes
//! a place by the time at which it was asked for. The first in line tries; when it has its place in a pool's queue (or an error), it
//! leaves, and the next is woken. Whoever tried in vain comes back to the place that it had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// When a statement was asked for; the number tells apart what came at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival(Instant, u64);

/// The line.
#[derive(Debug, Default)]
pub struct Line {
    places: Mutex<BTreeMap<Arrival, Arc<Notify>>>,
    count: AtomicUsize,
    next: AtomicU64,
}

impl Line {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The arrival of a statement that was asked for at `since`.
    #[must_use]
    pub fn arrival(&self, since: Instant) -> Arrival {
        Arrival(since, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Wakes the first: something may have changed.
    pub fn wake_first(&self) {
        if !self.is_empty()
            && let Some((_, first)) = self.places.lock().first_key_value()
        {
            first.notify_one();
        }
    }
}

/// A place in the line; dropping it lets the next one come forward.
#[derive(Debug)]
pub struct Place {
    line: Arc<Line>,
    arrival: Arrival,
    woken: Arc<Notify>,
}

impl Place {
    /// Takes the place of `arrival`.
    #[must_use]
    pub fn take(line: Arc<Line>, arrival: Arrival) -> Self {
        let woken = Arc::new(Notify::new());
        let mut places = line.places.lock();
        places.insert(arrival, Arc::clone(&woken));
        line.count.store(places.len(), Ordering::Release);
        drop(places);
        Self { line, arrival, woken }
    }

    /// Whether nobody stands before it.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.line.places.lock().first_key_value().is_some_and(|(arrival, _)| *arrival == self.arrival)
    }

    /// Completes when it may have become the first, or something that the first waits for may have happened.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.line.places.lock();
        places.remove(&self.arrival);
        self.line.count.store(places.len(), Ordering::Release);
        if let Some((_, first)) = places.first_key_value() {
            first.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn places_go_by_arrival_whoever_comes_first_to_take_them() {
        let line = Arc::new(Line::default());
        let now = crate::clock::now();
        let early = line.arrival(now);
        let (late, later) = (line.arrival(now), line.arrival(now + Duration::from_nanos(1)));
        let take = |arrival| Place::take(Arc::clone(&line), arrival);
        let third = take(later);
        assert!(third.is_first());
        let second = take(late);
        let first = take(early);
        assert_eq!((first.is_first(), second.is_first(), third.is_first(), line.len()), (true, false, false, 3));
        drop(first);
        assert!(second.is_first());
        // It comes back to where it was.
        let first = take(early);
        assert!(first.is_first() && !second.is_first());
        drop((first, second));
        assert!(third.is_first());
        drop(third);
        assert!(line.is_empty());
    }
}
