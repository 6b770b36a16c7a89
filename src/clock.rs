//! The one reader of time.
//!
//! Pure modules take `now` as a parameter; everything else asks here, so that a test that wants
//! another time has one place to look at.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
