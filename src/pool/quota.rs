//! A number of server connections that several pools share: those of a database, or those of a user. Pure.
//!
//! A ledger takes its part before it opens a connection, and gives it back when the connection is gone, so the limit is exact
//! whichever threads the pools are used on. A ledger that is refused while somebody waits says that it wants one: as long as
//! there is nothing left, connections of the others are closed rather than rest.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections there may be, and are.
#[derive(Debug, Default)]
pub struct Quota {
    /// At most; 0: no limit.
    most: AtomicUsize,
    used: AtomicUsize,
    wanted: AtomicUsize,
}

impl Quota {
    /// Connections at most from now on; 0: no limit. Those above it go instead of resting.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Release);
    }

    /// The limit; none: there is none.
    #[must_use]
    pub fn most(&self) -> Option<usize> {
        Some(self.most.load(Ordering::Acquire)).filter(|most| *most > 0)
    }

    /// Connections there are.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Takes one, if one is left.
    pub(super) fn take(&self) -> bool {
        let most = self.most.load(Ordering::Acquire);
        self.take_below(if most == 0 { usize::MAX } else { most })
    }

    /// Takes one, if there are fewer than `most`.
    pub(super) fn take_below(&self, most: usize) -> bool {
        let one_more = |used| (used < most).then_some(used + 1);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    /// Gives one back.
    pub(super) fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::AcqRel);
    }

    /// One more ledger waits for its part, or one less.
    pub(super) fn want(&self, wants: bool) {
        if wants {
            self.wanted.fetch_add(1, Ordering::AcqRel);
        } else {
            self.wanted.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether none is left.
    pub(super) fn is_full(&self) -> bool {
        let most = self.most.load(Ordering::Acquire);
        most > 0 && self.used() >= most
    }

    /// Whether a ledger waits for its part.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    /// Whether a connection that rests would keep a ledger waiting, or there are too many.
    pub(super) fn is_short(&self) -> bool {
        let (most, used) = (self.most.load(Ordering::Acquire), self.used());
        most > 0 && (used > most || (used == most && self.is_wanted()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::id::WorkerId;
    use crate::pool::ledger::{Acquire, Freed, Ledger, Limits, SlotId, WaiterId};

    const W: WorkerId = WorkerId(0);

    /// Ledgers that share one quota, and what the pools around them know.
    struct World {
        quota: Arc<Quota>,
        ledgers: Vec<Ledger>,
        dialing: Vec<(usize, SlotId)>,
        active: Vec<(usize, SlotId)>,
        waiting: Vec<(usize, WaiterId)>,
    }

    impl World {
        fn new(most: usize, ledgers: usize) -> Self {
            let quota = Arc::new(Quota::default());
            quota.set_most(most);
            let limits = Limits { size: 2, reserve: 0, round_robin: false };
            let ledgers = (0..ledgers).map(|_| Ledger::sharing(limits, vec![Arc::clone(&quota)], None)).collect();
            Self { quota, ledgers, dialing: Vec::new(), active: Vec::new(), waiting: Vec::new() }
        }

        fn acquire(&mut self, at: usize, waiter: WaiterId) {
            let now = crate::clock::now();
            match self.ledgers[at].acquire(waiter, W, now) {
                Acquire::Reuse(slot) => self.active.push((at, slot)),
                Acquire::Queued(dial) => {
                    self.waiting.push((at, waiter));
                    self.dialing.extend(dial.map(|slot| (at, slot)));
                }
                Acquire::Refused => {}
            }
            if self.ledgers[at].starved_of().is_some() {
                let others = (0..self.ledgers.len()).filter(|other| *other != at);
                let resting = others.filter(|other| self.ledgers[*other].rests_since().is_some()).collect::<Vec<_>>();
                if let Some(other) = resting.first() {
                    assert!(self.ledgers[*other].take_resting().is_some());
                    let dial = self.ledgers[at].dial_overdue(W, now);
                    assert!(dial.is_some(), "the room that was made is for who asked for it");
                    self.dialing.extend(dial.map(|slot| (at, slot)));
                }
            }
        }

        fn freed(&mut self, at: usize, slot: SlotId, freed: Freed) {
            match freed {
                Freed::Give(waiter) => {
                    self.waiting.retain(|w| *w != (at, waiter));
                    self.active.push((at, slot));
                }
                Freed::Close(dial) => self.gone(at, dial),
                Freed::Idle | Freed::Wait => {}
            }
        }

        fn gone(&mut self, at: usize, dial: Option<SlotId>) {
            self.dialing.extend(dial.map(|slot| (at, slot)));
            for (at, ledger) in self.ledgers.iter_mut().enumerate() {
                while let Some(slot) = ledger.dial_overdue(W, crate::clock::now()) {
                    self.dialing.push((at, slot));
                }
            }
        }

        fn check(&self) {
            let there: usize = self.ledgers.iter().map(Ledger::len).sum();
            assert_eq!(self.quota.used(), there);
            let starved: Vec<_> = self.ledgers.iter().filter(|l| l.starved_of().is_some()).collect();
            assert_eq!(self.quota.is_wanted(), !starved.is_empty());
            let idle: usize = self.ledgers.iter().map(|l| l.counts().idle).sum();
            assert!(starved.is_empty() || idle == 0, "nobody waits for a part beside a connection that rests");
            assert!(starved.iter().all(|l| l.counts().waiting > 0));
            for (at, ledger) in self.ledgers.iter().enumerate() {
                assert_eq!(ledger.counts().waiting, self.waiting.iter().filter(|w| w.0 == at).count());
            }
        }
    }

    fn pick<T>(from: &mut Vec<T>, i: usize) -> Option<T> {
        (!from.is_empty()).then(|| from.remove(i % from.len()))
    }

    proptest! {
        #[test]
        fn a_shared_limit_is_exact_and_nobody_waits_beside_what_rests(
            ops in prop::collection::vec((0..6_u8, any::<usize>()), 1..200),
            most in 1..4_usize,
        ) {
            let mut world = World::new(most, 3);
            for (number, (op, i)) in ops.into_iter().enumerate() {
                let now = crate::clock::now();
                match op {
                    0 | 1 => world.acquire(i % 3, WaiterId(number as u64)),
                    2 => if let Some((at, slot)) = pick(&mut world.dialing, i) {
                        let freed = world.ledgers[at].login_done(slot, now);
                        world.freed(at, slot, freed);
                    },
                    3 => if let Some((at, slot)) = pick(&mut world.active, i) {
                        let freed = world.ledgers[at].release(slot, now);
                        world.freed(at, slot, freed);
                    },
                    4 => if let Some((at, slot)) = pick(&mut world.active, i) {
                        let dial = world.ledgers[at].discard(slot, now);
                        world.gone(at, dial);
                    },
                    _ => if let Some((at, waiter)) = pick(&mut world.waiting, i) {
                        prop_assert!(world.ledgers[at].cancel_wait(waiter));
                    },
                }
                prop_assert!(world.quota.used() <= most);
                world.check();
            }
            let quota = Arc::clone(&world.quota);
            drop(world);
            prop_assert_eq!(quota.used(), 0, "what a pool had is given back with it");
            prop_assert!(!quota.is_wanted());
        }
    }

    #[test]
    fn a_smaller_limit_is_reached_as_connections_come_back() {
        let mut world = World::new(2, 2);
        world.acquire(0, WaiterId(1));
        world.acquire(1, WaiterId(2));
        for (at, slot) in std::mem::take(&mut world.dialing) {
            let freed = world.ledgers[at].login_done(slot, crate::clock::now());
            world.freed(at, slot, freed);
        }
        world.quota.set_most(1);
        let (at, slot) = world.active.remove(0);
        assert_eq!(world.ledgers[at].release(slot, crate::clock::now()), Freed::Close(None));
        let (at, slot) = world.active.remove(0);
        assert_eq!(world.ledgers[at].release(slot, crate::clock::now()), Freed::Idle);
        assert_eq!(world.quota.used(), 1);
    }
}
