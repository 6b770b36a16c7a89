//! What others tell a client, in one word that it looks at in every turn: an order, and beside it whether it is to rest and whether it is to
//! report. Who tells it something wakes it afterwards.

use std::sync::atomic::{AtomicU8, Ordering};

/// What a client is told to do by someone else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    None,
    /// Give up waiting: its statement was cancelled.
    Cancel,
    /// End when no transaction is open: the process ends.
    Drain,
    /// End now.
    Kill,
}

/// The bits of the order; the others stand each by itself.
const ORDER: u8 = 0b0000_0111;
/// It rests as soon as nothing waits in its buffers.
const SUSPENDED: u8 = 0b0001_0000;
/// It rests.
const FLUSHED: u8 = 0b0010_0000;
/// Somebody wants a report of it.
const ASKED: u8 = 0b0100_0000;
/// It did not come to rest in time.
const OVERDUE: u8 = 0b1000_0000;

/// The word.
#[derive(Debug, Default)]
pub(super) struct Mark(AtomicU8);

impl Mark {
    fn has(&self, bits: u8) -> bool {
        self.0.load(Ordering::Acquire) & bits != 0
    }

    /// Changes it; left as it is where `to` says none.
    fn change(&self, to: impl Fn(u8) -> Option<u8>) {
        let _unchanged_is_fine = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, to);
    }

    /// Whether nothing stands in it.
    pub(super) fn is_blank(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// Gives an order. A lesser one never replaces a greater one.
    pub(super) fn order(&self, order: Order) {
        let value = match order {
            Order::None => 0,
            Order::Cancel => 1,
            Order::Drain => 2,
            Order::Kill => 3,
        };
        self.change(|mark| (mark & ORDER < value).then_some(mark & !ORDER | value));
    }

    /// The order that stands.
    pub(super) fn standing_order(&self) -> Order {
        match self.0.load(Ordering::Acquire) & ORDER {
            0 => Order::None,
            1 => Order::Cancel,
            2 => Order::Drain,
            _ => Order::Kill,
        }
    }

    /// A cancel order is carried out (or has come too late).
    pub(super) fn cancel_is_done(&self) {
        self.change(|mark| (mark & ORDER == 1).then_some(mark & !ORDER));
    }

    /// It is to rest, or no longer.
    pub(super) fn suspend(&self, on: bool) {
        self.change(|mark| Some(if on { mark | SUSPENDED } else { mark & !(SUSPENDED | FLUSHED) }));
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.has(SUSPENDED)
    }

    /// It rests, if it still is to.
    pub(super) fn set_flushed(&self) {
        self.change(|mark| (mark & SUSPENDED != 0).then_some(mark | FLUSHED));
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.has(FLUSHED)
    }

    /// It is to end, because it does not rest yet.
    pub(super) fn set_overdue(&self) {
        self.change(|mark| Some(mark | OVERDUE));
        self.order(Order::Kill);
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.has(OVERDUE)
    }

    /// It is to report, or has done so.
    pub(super) fn ask(&self, on: bool) {
        self.change(|mark| Some(if on { mark | ASKED } else { mark & !ASKED }));
    }

    pub(super) fn is_asked(&self) -> bool {
        self.has(ASKED)
    }

    /// Whether there is something beside an order.
    pub(super) fn has_errand(&self) -> bool {
        self.has(SUSPENDED | ASKED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lesser_order_never_replaces_a_greater_one() {
        let mark = Mark::default();
        for (order, stands) in [
            (Order::Cancel, Order::Cancel),
            (Order::Drain, Order::Drain),
            (Order::Cancel, Order::Drain),
            (Order::Kill, Order::Kill),
            (Order::None, Order::Kill),
        ] {
            mark.order(order);
            assert_eq!(mark.standing_order(), stands, "after {order:?}");
        }
        mark.cancel_is_done();
        assert_eq!(mark.standing_order(), Order::Kill, "it was none");
    }

    #[test]
    fn orders_and_errands_leave_each_other_alone() {
        let mark = Mark::default();
        mark.suspend(true);
        mark.ask(true);
        mark.order(Order::Cancel);
        mark.set_flushed();
        assert_eq!((mark.standing_order(), mark.is_suspended(), mark.is_flushed()), (Order::Cancel, true, true));
        mark.cancel_is_done();
        assert_eq!((mark.standing_order(), mark.is_suspended(), mark.is_asked()), (Order::None, true, true));
        mark.ask(false);
        assert!(mark.has_errand() && !mark.is_asked());
        mark.suspend(false);
        assert!(!mark.has_errand() && !mark.is_flushed());
        mark.set_flushed();
        assert!(!mark.is_flushed(), "RESUME came first");
    }

    #[test]
    fn who_is_overdue_ends_and_knows_why() {
        let mark = Mark::default();
        mark.suspend(true);
        mark.order(Order::Drain);
        assert!(!mark.is_overdue() && !mark.is_blank() && Mark::default().is_blank());
        mark.set_overdue();
        assert_eq!((mark.standing_order(), mark.is_overdue()), (Order::Kill, true));
    }
}
