//! The one reader of time.
//!
//! Pure modules take `now` as a parameter; everything else asks here, so that a test that wants
//! another time has one place to look at.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What this thread knows of the time without asking.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Nothing: each question is asked.
    Unknown,
    /// Something is being polled, and has not asked yet.
    Begun,
    /// It has asked.
    Known(Instant),
}

thread_local! {
    static MOMENT: Cell<Moment> = const { Cell::new(Moment::Unknown) };
}

/// The current monotonic time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one reader of time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The current wall-clock time as a duration since the Unix epoch (zero if the clock stands before it).
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one reader of time")]
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// The time at which what is being polled first asked, in this poll or since [`begin_moment`]: a statement asks ten times within a few
/// microseconds, and asking costs more than most of what lies between. For what is counted and shown; where the order of events
/// matters, ask [`now`]. Elsewhere than within [`in_moment`] it is [`now`].
#[must_use]
pub fn moment() -> Instant {
    match MOMENT.get() {
        Moment::Known(at) => at,
        Moment::Begun => {
            let at = now();
            MOMENT.set(Moment::Known(at));
            at
        }
        Moment::Unknown => now(),
    }
}

/// What comes now is another moment than what was before.
pub fn begin_moment() {
    if matches!(MOMENT.get(), Moment::Known(_)) {
        MOMENT.set(Moment::Begun);
    }
}

/// What `poll` gives, which is a moment by itself.
pub fn in_moment<T>(poll: impl FnOnce() -> T) -> T {
    let _end = End(MOMENT.replace(Moment::Begun));
    poll()
}

/// Ends a moment, by panic as well: what was before is known again.
struct End(Moment);

impl Drop for End {
    fn drop(&mut self) {
        MOMENT.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_lasts_as_long_as_a_poll() {
        let past = |at: Instant| while now() <= at {};
        let [first, same, second] = in_moment(|| {
            let first = moment();
            past(first);
            let same = moment();
            begin_moment();
            [first, same, moment()]
        });
        assert_eq!(first, same);
        assert!(same < second);
        past(second);
        assert!(in_moment(moment) > second);
        // Nothing is being polled now.
        let outside = moment();
        past(outside);
        assert!(moment() > outside);
    }
}
