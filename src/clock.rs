//! The one reader of time.
//!
//! Pure modules take `now` as a parameter; everything else asks here, so that a test that wants
//! another time has one place to look at.

use std::cell::Cell;
use std::sync::OnceLock;
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

/// A time that may not be known, in one word: every client keeps several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp(u64);

/// What stamps count from: the first time that one was made.
static FIRST: OnceLock<Instant> = OnceLock::new();

impl Stamp {
    /// Of that time, to the nanosecond; of one before the first stamp's, the first stamp's.
    #[must_use]
    pub fn of(at: Instant) -> Self {
        let passed = at.saturating_duration_since(*FIRST.get_or_init(|| at)).as_nanos();
        Self(u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1))
    }

    /// The time, if it is known.
    #[must_use]
    pub fn get(self) -> Option<Instant> {
        let passed = Duration::from_nanos(self.0.checked_sub(1)?);
        FIRST.get().map(|first| *first + passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_the_time_it_was_made_of() {
        assert_eq!(Stamp::default().get(), None);
        let first = now();
        let stamps = [Stamp::of(first), Stamp::of(first + Duration::from_nanos(1))];
        let later = first + Duration::from_secs(40_000_000);
        assert_eq!(Stamp::of(later).get(), Some(later));
        // Other tests may have made one before.
        assert!(stamps[0].get() >= Some(first) || stamps[0].get() == FIRST.get().copied());
        assert!(stamps[0].get() <= stamps[1].get());
    }

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
