//! The circuit breaker of one server. Pure: time and randomness are arguments.
//!
//! A breaker keeps reads away from a server that fails, so that clients do not pay for finding out again and again. It must
//! not do harm of its own, and three rules see to that:
//!
//! - Only trouble with the server itself counts, see [`FailureKind`]. A full pool, a slow query, an SQL error or a cancelled
//!   query has no variant there, so it cannot be reported.
//! - A server that is back is used again soon: [`GOOD_SIGNS`] successes in a row (probes, on their own connection, go on while
//!   the breaker is open) close it before its cool-down is over. With probes every second a replica that restarts within two
//!   seconds is back some three seconds later, not after a minute. Signs nearer together than [`SIGN_SPACING`] are one sign, so
//!   the answers of statements that were under way do not close a breaker that has just opened.
//! - A server that flaps (opens again soon after it was closed) is trusted less each time: its cool-down and the number of
//!   good signs double, up to [`MAX_BACKOFF`] times.
//!
//! Without a prober the breaker works on real traffic alone: after the cool-down one statement is the trial.

use std::time::{Duration, Instant};

use rand::Rng;

use crate::error::SqlState;

/// Successes in a row that close an open breaker before its cool-down is over.
pub const GOOD_SIGNS: u32 = 3;
/// Successes nearer together than this are one sign.
pub const SIGN_SPACING: Duration = Duration::from_millis(500);
/// The cool-down and the number of good signs grow at most by this factor.
pub const MAX_BACKOFF: u32 = 16;
/// How long a server takes, after its breaker closed, to get its full share again.
pub const RAMP: Duration = Duration::from_secs(10);
/// The share at the start of the ramp.
const RAMP_FLOOR: f64 = 0.1;
/// The cool-down is lengthened by a random part of it, up to this: servers that fell together are not tried together.
const JITTER: f64 = 0.25;
/// A trial whose end was never reported is given up after this.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// What counts against a server: the whole list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No connection: refused, unreachable, timed out, or the server is starting up or in recovery (57P03).
    Connect,
    /// A connection that was in use broke.
    Io,
    /// The server ended a connection: 57P01 (an administrator's command) or 57P02 (a crash of another backend).
    AdminShutdown,
    /// The prober got no answer in time.
    Probe,
}

impl FailureKind {
    /// What an error response says about the server's health: most say nothing, least of all 53300 (the server is full but
    /// well) and 57014 (the query was cancelled).
    ///
    /// See <https://www.postgresql.org/docs/current/errcodes-appendix.html>, class 57.
    #[must_use]
    pub fn of_sqlstate(code: SqlState) -> Option<Self> {
        match code {
            SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => Some(Self::AdminShutdown),
            SqlState::CANNOT_CONNECT_NOW => Some(Self::Connect),
            _ => None,
        }
    }

    /// A word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Io => "io",
            Self::AdminShutdown => "admin_shutdown",
            Self::Probe => "probe",
        }
    }
}

/// The numbers of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Consecutive failures that open it; 0 counts as 1.
    pub failures: u32,
    /// How long it stays open at first.
    pub cooldown: Duration,
}

/// The state as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// The server is used.
    Closed,
    /// It is not.
    Open,
    /// The cool-down is over; a trial decides.
    HalfOpen,
}

impl BreakerState {
    /// The word of SHOW and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Whether the breaker lets a statement through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Yes.
    Free,
    /// As the trial, which must be taken first: there is one at a time.
    Trial,
    /// No.
    Refused,
}

/// A transition that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a breaker that is {} has no trial to give", .0.as_str())]
pub struct NoTrial(pub BreakerState);

// Failures in a row are counted in Closed, good signs in a row in Open.
//
//            the last of `failures`
//   Closed ----------------------------> Open <-------------------+
//     ^  ^                               |  |  ^                  |
//     |  |   good signs enough           |  |  | a probe failed   | the trial failed
//     |  +-------------------------------+  |  | after the cool-  | (longer cool-down)
//     |  |   a probe succeeded after the    |  +-down (longer)    |
//     |  |   cool-down                      |                     |
//     |  +----------------------------------+ start_trial(), once |
//     |                                     v the cool-down is over
//     +--------------------------------- HalfOpen ----------------+
//        the trial or a probe succeeded     |  ^
//                                           +--+ the trial was given up: another may start
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        good: u32,
        /// When the last good sign was counted, or the breaker opened.
        last: Instant,
    },
    HalfOpen {
        /// When the trial under way began.
        trial: Option<Instant>,
    },
}

/// The breaker of one server.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: Settings,
    state: State,
    /// Trials that failed since it opened.
    failed_trials: u32,
    /// How often it opened soon after it closed.
    flaps: u32,
    closed_at: Option<Instant>,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed { failures: 0 }, failed_trials: 0, flaps: 0, closed_at: None }
    }

    /// The state at `now`.
    #[must_use]
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until, .. } if now < until => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a statement may go to the server at `now`.
    #[must_use]
    pub fn admission(&self, now: Instant) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::Free,
            State::Open { until, .. } if now < until => Admission::Refused,
            State::HalfOpen { trial: Some(begun) } if now.saturating_duration_since(begun) < TRIAL_TIMEOUT => {
                Admission::Refused
            }
            State::Open { .. } | State::HalfOpen { .. } => Admission::Trial,
        }
    }

    /// When the cool-down ends, while it lasts.
    #[must_use]
    pub fn open_until(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } if now < until => Some(until),
            State::Open { .. } | State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Whether nothing at all is remembered against the server, so that a success changes nothing.
    #[must_use]
    pub fn is_pristine(&self, now: Instant) -> bool {
        matches!(self.state, State::Closed { failures: 0 }) && self.ramp(now) >= 1.0
    }

    /// The part of its weight that the server gets: 1, or less for [`RAMP`] after the breaker closed (slow start).
    #[must_use]
    pub fn ramp(&self, now: Instant) -> f64 {
        let Some(closed_at) = self.closed_at else { return 1.0 };
        let part = now.saturating_duration_since(closed_at).as_secs_f64() / RAMP.as_secs_f64();
        part.clamp(RAMP_FLOOR, 1.0)
    }

    /// Takes the one trial, after which [`Breaker::on_success`], [`Breaker::on_failure`] or [`Breaker::abandon_trial`] is due.
    ///
    /// # Errors
    /// Unless [`Breaker::admission`] says [`Admission::Trial`].
    pub fn start_trial(&mut self, now: Instant) -> Result<(), NoTrial> {
        match self.admission(now) {
            Admission::Trial => {
                self.state = State::HalfOpen { trial: Some(now) };
                Ok(())
            }
            Admission::Free | Admission::Refused => Err(NoTrial(self.state(now))),
        }
    }

    /// The trial ended without a verdict: the client cancelled, say. Another may start.
    pub fn abandon_trial(&mut self) {
        if let State::HalfOpen { trial } = &mut self.state {
            *trial = None;
        }
    }

    /// The server failed.
    pub fn on_failure(&mut self, kind: FailureKind, now: Instant, rng: &mut impl Rng) {
        match &mut self.state {
            State::Closed { failures } => {
                *failures = failures.saturating_add(1);
                if *failures >= self.settings.failures.max(1) {
                    let soon = self
                        .closed_at
                        .is_some_and(|at| now.saturating_duration_since(at) < self.settings.cooldown.max(RAMP));
                    self.flaps = if soon { self.flaps.saturating_add(1) } else { 0 };
                    self.open(now, rng);
                }
            }
            State::Open { until, good, last } => {
                *good = 0;
                *last = now;
                // After the cool-down a probe is as good as a trial. Other failures are late news of old connections.
                if now >= *until && kind == FailureKind::Probe {
                    self.failed_trials = self.failed_trials.saturating_add(1);
                    self.open(now, rng);
                }
            }
            State::HalfOpen { .. } => {
                self.failed_trials = self.failed_trials.saturating_add(1);
                self.open(now, rng);
            }
        }
    }

    /// The server answered: a statement of real traffic or a probe.
    pub fn on_success(&mut self, now: Instant) {
        let needed = GOOD_SIGNS.saturating_mul(doubled(self.flaps));
        match &mut self.state {
            State::Closed { failures } => *failures = 0,
            State::Open { good, last, .. } => {
                if now.saturating_duration_since(*last) >= SIGN_SPACING {
                    *last = now;
                    *good = good.saturating_add(1);
                    if *good >= needed {
                        self.close(now);
                    }
                }
            }
            State::HalfOpen { .. } => self.close(now),
        }
    }

    /// A probe succeeded: like [`Breaker::on_success`], and after the cool-down it closes the breaker at once.
    pub fn on_probe_success(&mut self, now: Instant) {
        match self.state {
            State::Open { until, .. } if now >= until => self.close(now),
            State::Open { .. } | State::Closed { .. } | State::HalfOpen { .. } => self.on_success(now),
        }
    }

    fn open(&mut self, now: Instant, rng: &mut impl Rng) {
        let factor = doubled(self.flaps.saturating_add(self.failed_trials));
        let cooldown = self.settings.cooldown.saturating_mul(factor);
        let cooldown = cooldown.saturating_add(cooldown.mul_f64(JITTER * rng.random::<f64>()));
        // A cool-down beyond what the clock can express is as good as a year.
        let until = now.checked_add(cooldown).unwrap_or_else(|| now + Duration::from_secs(365 * 86_400));
        self.state = State::Open { until, good: 0, last: now };
    }

    fn close(&mut self, now: Instant) {
        self.state = State::Closed { failures: 0 };
        self.failed_trials = 0;
        self.closed_at = Some(now);
    }
}

/// 2 to the power of `times`, at most [`MAX_BACKOFF`].
fn doubled(times: u32) -> u32 {
    1_u32.checked_shl(times.min(16)).unwrap_or(MAX_BACKOFF).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const SECOND: Duration = Duration::from_secs(1);
    const COOLDOWN: Duration = Duration::from_secs(60);

    struct Bench {
        breaker: Breaker,
        now: Instant,
        rng: StdRng,
    }

    impl Bench {
        fn new() -> Self {
            let settings = Settings { failures: 5, cooldown: COOLDOWN };
            Self { breaker: Breaker::new(settings), now: crate::clock::now(), rng: StdRng::seed_from_u64(7) }
        }

        fn fail(&mut self, kind: FailureKind, times: u32) {
            for _ in 0..times {
                self.breaker.on_failure(kind, self.now, &mut self.rng);
            }
        }

        fn opened(mut self) -> Self {
            self.fail(FailureKind::Connect, 5);
            assert_eq!(self.state(), BreakerState::Open);
            self
        }

        fn wait(&mut self, time: Duration) {
            self.now += time;
        }

        fn state(&self) -> BreakerState {
            self.breaker.state(self.now)
        }

        fn cooldown_left(&self) -> Duration {
            self.breaker.open_until(self.now).unwrap() - self.now
        }
    }

    #[test]
    fn opens_at_the_fifth_failure_in_a_row_and_not_before() {
        let mut b = Bench::new();
        b.fail(FailureKind::Io, 4);
        assert_eq!(b.state(), BreakerState::Closed);
        b.breaker.on_success(b.now);
        b.fail(FailureKind::Io, 4);
        assert_eq!(b.breaker.admission(b.now), Admission::Free);
        b.fail(FailureKind::AdminShutdown, 1);
        assert_eq!(b.breaker.admission(b.now), Admission::Refused);
    }

    #[test]
    fn cooldown_is_never_shorter_than_set_and_at_most_a_quarter_longer() {
        for seed in 0..50 {
            let mut b = Bench { rng: StdRng::seed_from_u64(seed), ..Bench::new() };
            b.fail(FailureKind::Io, 5);
            let left = b.cooldown_left();
            assert!(left >= COOLDOWN && left <= COOLDOWN.mul_f64(1.25), "{left:?}");
        }
    }

    #[test]
    fn one_trial_at_a_time_and_its_success_closes() {
        let mut b = Bench::new().opened();
        assert_eq!(b.breaker.start_trial(b.now), Err(NoTrial(BreakerState::Open)));
        b.wait(COOLDOWN * 2);
        assert_eq!((b.state(), b.breaker.admission(b.now)), (BreakerState::HalfOpen, Admission::Trial));
        b.breaker.start_trial(b.now).unwrap();
        assert_eq!(b.breaker.start_trial(b.now), Err(NoTrial(BreakerState::HalfOpen)));
        assert_eq!(b.breaker.admission(b.now), Admission::Refused);
        b.breaker.on_success(b.now);
        assert_eq!(b.breaker.admission(b.now), Admission::Free);
        assert_eq!(b.breaker.start_trial(b.now), Err(NoTrial(BreakerState::Closed)));
    }

    #[test]
    fn failed_trials_back_off_to_sixteen_cooldowns() {
        let mut b = Bench::new().opened();
        for factor in [2, 4, 8, 16, 16, 16] {
            b.wait(b.cooldown_left());
            b.breaker.start_trial(b.now).unwrap();
            b.fail(FailureKind::Connect, 1);
            let left = b.cooldown_left();
            assert!(left >= COOLDOWN * factor && left <= COOLDOWN.mul_f64(1.25) * factor, "{factor}: {left:?}");
        }
    }

    #[test]
    fn an_abandoned_or_forgotten_trial_leaves_room_for_another() {
        let mut b = Bench::new().opened();
        b.wait(COOLDOWN * 2);
        b.breaker.start_trial(b.now).unwrap();
        b.breaker.abandon_trial();
        assert_eq!(b.breaker.admission(b.now), Admission::Trial);
        b.breaker.start_trial(b.now).unwrap();
        b.wait(TRIAL_TIMEOUT);
        assert_eq!(b.breaker.admission(b.now), Admission::Trial);
    }

    #[test]
    fn steady_probes_bring_a_restarted_replica_back_in_seconds() {
        let mut b = Bench::new().opened();
        for _ in 0..2 {
            b.wait(SECOND);
            b.fail(FailureKind::Probe, 1);
        }
        for _ in 0..GOOD_SIGNS {
            assert_eq!(b.state(), BreakerState::Open);
            b.wait(SECOND);
            b.breaker.on_probe_success(b.now);
        }
        assert_eq!(b.state(), BreakerState::Closed);
    }

    #[test]
    fn answers_of_statements_under_way_do_not_close_it() {
        let mut b = Bench::new().opened();
        for _ in 0..100 {
            b.wait(Duration::from_millis(4));
            b.breaker.on_success(b.now);
        }
        assert_eq!(b.state(), BreakerState::Open);
    }

    #[test]
    fn a_failure_between_them_starts_the_good_signs_anew() {
        let mut b = Bench::new().opened();
        for _ in 0..10 {
            b.wait(SECOND);
            b.breaker.on_probe_success(b.now);
            b.wait(SECOND);
            b.breaker.on_probe_success(b.now);
            b.wait(SECOND);
            b.fail(FailureKind::Probe, 1);
        }
        assert_eq!(b.state(), BreakerState::Open);
    }

    #[test]
    fn a_flapping_server_must_prove_itself_longer_each_time() {
        let mut b = Bench::new();
        for needed in [3, 6, 12, 24, 48, 48] {
            b.fail(FailureKind::Io, 5);
            for sign in 1..=needed {
                assert_eq!(b.breaker.admission(b.now), Admission::Refused, "sign {sign} of {needed}");
                b.wait(SECOND);
                b.breaker.on_probe_success(b.now);
            }
            assert_eq!(b.state(), BreakerState::Closed, "after {needed}");
        }
        b.wait(COOLDOWN);
        b.fail(FailureKind::Io, 5);
        assert!(b.cooldown_left() <= COOLDOWN.mul_f64(1.25), "a quiet time wipes the slate");
    }

    #[test]
    fn a_long_outage_is_no_flapping() {
        let mut b = Bench::new().opened();
        for _ in 0..3600 {
            b.wait(SECOND);
            b.fail(FailureKind::Probe, 1);
        }
        for _ in 0..GOOD_SIGNS {
            b.wait(SECOND);
            b.breaker.on_probe_success(b.now);
        }
        assert_eq!(b.state(), BreakerState::Closed);
    }

    #[test]
    fn share_ramps_up_after_recovery() {
        let mut b = Bench::new();
        assert!((b.breaker.ramp(b.now) - 1.0).abs() < 1e-9);
        b.fail(FailureKind::Io, 5);
        b.wait(COOLDOWN * 2);
        b.breaker.on_probe_success(b.now);
        assert_eq!(b.state(), BreakerState::Closed);
        assert!((b.breaker.ramp(b.now) - 0.1).abs() < 1e-9);
        b.wait(RAMP / 2);
        assert!((b.breaker.ramp(b.now) - 0.5).abs() < 1e-9);
        assert!(!b.breaker.is_pristine(b.now));
        b.wait(RAMP / 2);
        assert!(b.breaker.is_pristine(b.now));
    }

    #[test]
    fn a_full_server_or_a_cancelled_query_does_not_count() {
        assert_eq!(FailureKind::of_sqlstate(SqlState::TOO_MANY_CONNECTIONS), None);
        assert_eq!(FailureKind::of_sqlstate(SqlState::QUERY_CANCELED), None);
        assert_eq!(FailureKind::of_sqlstate(SqlState::INVALID_PASSWORD), None);
        assert_eq!(FailureKind::of_sqlstate(SqlState::ADMIN_SHUTDOWN), Some(FailureKind::AdminShutdown));
        assert_eq!(FailureKind::of_sqlstate(SqlState::CANNOT_CONNECT_NOW), Some(FailureKind::Connect));
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Fail(FailureKind),
        Success,
        Probe,
        Trial,
        Abandon,
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            prop_oneof![Just(FailureKind::Connect), Just(FailureKind::Io), Just(FailureKind::Probe)]
                .prop_map(Event::Fail),
            Just(Event::Success),
            Just(Event::Probe),
            Just(Event::Trial),
            Just(Event::Abandon),
            (0..40_000_u64).prop_map(Event::Wait),
        ]
    }

    proptest! {
        /// Whatever happens: never more than one trial under way, never away for longer than the cap while nothing new
        /// happens, and fewer failures in a row than the limit never open it.
        #[test]
        fn invariants(events in proptest::collection::vec(event(), 0..200)) {
            let mut b = Bench::new();
            let mut row = 0;
            for e in events {
                let before = b.state();
                match e {
                    Event::Fail(kind) => { b.fail(kind, 1); row += 1; }
                    Event::Success => { b.breaker.on_success(b.now); row = 0; }
                    Event::Probe => { b.breaker.on_probe_success(b.now); row = 0; }
                    Event::Trial => {
                        let admission = b.breaker.admission(b.now);
                        let taken = b.breaker.start_trial(b.now).is_ok();
                        prop_assert_eq!(taken, admission == Admission::Trial);
                        if taken { prop_assert!(b.breaker.start_trial(b.now).is_err()); }
                    }
                    Event::Abandon => b.breaker.abandon_trial(),
                    Event::Wait(ms) => b.wait(Duration::from_millis(ms)),
                }
                if before == BreakerState::Closed && row < 5 {
                    prop_assert_eq!(b.state(), BreakerState::Closed);
                }
                if let Some(until) = b.breaker.open_until(b.now) {
                    prop_assert!(until - b.now <= COOLDOWN.mul_f64(1.25) * MAX_BACKOFF);
                }
                prop_assert_eq!(b.breaker.admission(b.now) == Admission::Free, b.state() == BreakerState::Closed);
            }
        }
    }
}
