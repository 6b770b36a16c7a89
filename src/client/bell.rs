//! What others wake a client with, after they have told it something (an order, an errand, a report that is asked for).
//!
//! A client's task looks at what it was told in every turn. It only has to be woken for it, and its waker is the same for as long as it lives:
//! so that is left here once, and a turn in which nobody rang costs two loads. (A `tokio::sync::Notify` would be registered with anew for each
//! wait, twice a transaction.)

use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;

/// The bell of one task: whoever polls it last is the one that is woken.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    /// Which task's waker is there. The waker keeps the task's memory, so that no other can have this address.
    task: AtomicPtr<()>,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    /// Wakes the task, now or at its next look.
    pub fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        // A copy, for what a waker does is not done under a lock.
        let waker = self.waker.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it has rung since this was asked last; if not, the task that asks is woken when it does.
    pub fn has_rung(&self, cx: &Context<'_>) -> bool {
        let task = cx.waker().data().cast_mut();
        if self.task.load(Ordering::Relaxed) != task {
            *self.waker.lock() = Some(cx.waker().clone());
            self.task.store(task, Ordering::Relaxed);
        }
        // After the waker is there: who rang before is seen here, who rings from now on wakes.
        self.rung.load(Ordering::Acquire) && self.rung.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    #[derive(Default)]
    struct Counted(AtomicU32);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_asked_last_is_woken_by_every_ring_and_sees_it_once() {
        let bell = Bell::default();
        bell.ring();
        let (one, other) = (Arc::new(Counted::default()), Arc::new(Counted::default()));
        let (first, second) = (Waker::from(Arc::clone(&one)), Waker::from(Arc::clone(&other)));
        let (first, second) = (Context::from_waker(&first), Context::from_waker(&second));
        assert!(bell.has_rung(&first), "it rang before anybody was there");
        assert!(!bell.has_rung(&first));
        bell.ring();
        bell.ring();
        assert_eq!(one.0.load(Ordering::Relaxed), 2);
        assert!(bell.has_rung(&first) && !bell.has_rung(&first));
        assert!(!bell.has_rung(&second));
        bell.ring();
        assert_eq!((one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (2, 1));
        assert!(bell.has_rung(&second));
    }

    #[test]
    fn no_ring_is_lost_between_threads() {
        let bell = Bell::default();
        std::thread::scope(|scope| {
            scope.spawn(|| bell.ring());
            let woken = Waker::from(Arc::new(Unpark(std::thread::current())));
            let cx = Context::from_waker(&woken);
            while !bell.has_rung(&cx) {
                std::thread::park();
            }
        });
    }

    struct Unpark(std::thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
}
