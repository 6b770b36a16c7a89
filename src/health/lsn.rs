//! WAL positions, and what a replica's position says about acknowledged writes. Pure.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A position in the write-ahead log: a byte offset, written as two hexadecimal halves, `16/B374D848`.
///
/// See <https://www.postgresql.org/docs/current/datatype-pg-lsn.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Size of a WAL page. PostgreSQL can be built with another (--with-wal-blocksize); all packages have this one.
const PAGE: u64 = 8192;
/// Size of the header of a WAL page, and of the first page of a segment.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

impl Lsn {
    /// The position with a page header that was just stepped over taken back.
    ///
    /// `pg_current_wal_insert_lsn()` gives the place where the next record's bytes will stand. At a page's start that is
    /// behind the page's header, while the record that filled the page before ends at the page's start, and that is what a
    /// replica reports when it has replayed everything. Without this an idle primary would look ahead of its replicas for ever.
    ///
    /// Offset 24 is never a record's end: a record that goes on there has at least a byte behind the header. Offset 40 is one
    /// in any page but the first of a segment, so `segment_size` (in bytes; 0: not known, nothing is taken back) decides.
    #[must_use]
    pub fn behind_no_header(self, segment_size: u64) -> Self {
        let offset = self.0 % PAGE;
        let start = self.0 - offset;
        match start.checked_rem(segment_size) {
            Some(0) if offset == LONG_HEADER => Self(start),
            Some(within) if within != 0 && offset == SHORT_HEADER => Self(start),
            _ => self,
        }
    }

    /// How many bytes this position is behind `other`; 0 if it is not.
    #[must_use]
    pub fn behind(self, other: Self) -> u64 {
        other.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is no WAL position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position: it has the form 16/B374D848")]
pub struct BadLsn;

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        fn half(digits: &str) -> Result<u64, BadLsn> {
            let well_formed = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if well_formed { u64::from_str_radix(digits, 16).map_err(|_| BadLsn) } else { Err(BadLsn) }
        }
        let (high, low) = text.split_once('/').ok_or(BadLsn)?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

/// A position in one history of the database: what `pgweir.causal_token` says. Written `2-16/B374D848`: timeline, position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WalPoint {
    /// The timeline.
    pub timeline: u32,
    /// The position on it.
    pub lsn: Lsn,
}

impl WalPoint {
    /// The one that has more of the two.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if (other.timeline, other.lsn) > (self.timeline, self.lsn) { other } else { self }
    }

    /// Whether a server that has replayed up to `lsn` on `timeline` has all that was written up to here. A later timeline goes on
    /// from this one, or has lost what this position is behind of; an earlier one may have gone elsewhere.
    #[must_use]
    pub fn is_reached(self, timeline: Option<u32>, lsn: Option<Lsn>) -> bool {
        timeline.is_some_and(|t| t >= self.timeline) && lsn.is_some_and(|lsn| lsn >= self.lsn)
    }
}

impl fmt::Display for WalPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.timeline, self.lsn)
    }
}

impl FromStr for WalPoint {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let (timeline, lsn) = text.split_once('-').ok_or(BadLsn)?;
        let digits = (1..=10).contains(&timeline.len()) && timeline.bytes().all(|b| b.is_ascii_digit());
        let timeline = timeline.parse().ok().filter(|t| digits && *t > 0).ok_or(BadLsn)?;
        Ok(Self { timeline, lsn: lsn.parse()? })
    }
}

/// Every write that was acknowledged before `asked` ends at or before `lsn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    /// When the position was first asked for: it had been reached soon after.
    first: Instant,
    asked: Instant,
    lsn: Lsn,
}

/// Samples kept: an hour of them, one a second, in 100 kB. When they are used up, the older half is thinned out.
const SAMPLES: usize = 4096;

/// Samples of the primary's WAL position over time, from which follows up to which time a replica knows every write.
///
/// A commit that was acknowledged at time `w` lies before the position that the primary reports to any question asked after
/// `w`. So a replica that has replayed up to a sample's position has every write acknowledged before that sample was asked
/// for. Nothing is asked per commit. Forgetting samples is always safe: it makes the answers more careful, never wrong.
#[derive(Debug, Default)]
pub struct CausalTracker {
    /// Oldest first; times strictly rise, positions too.
    samples: VecDeque<Sample>,
}

impl CausalTracker {
    /// Takes a sample: to a question sent not before `asked`, the primary answered `lsn` (its insert position, normalised).
    /// A position that goes back is another history (a failover, a restore): all that came before is forgotten.
    pub fn sample(&mut self, asked: Instant, lsn: Lsn) {
        if let Some(last) = self.samples.back_mut() {
            if last.asked >= asked {
                // Questions are asked one after the other; one that overtook another says nothing new.
                return;
            }
            if last.lsn == lsn {
                // Nothing was written in between: the later time is the better one.
                last.asked = asked;
                return;
            }
            if last.lsn > lsn {
                self.samples.clear();
            }
        }
        if self.samples.len() >= SAMPLES {
            self.thin_out();
        }
        self.samples.push_back(Sample { first: asked, asked, lsn });
    }

    /// Forgets everything: another server is the primary now.
    pub fn reset(&mut self) {
        self.samples.clear();
    }

    /// Up to when a replica that has replayed up to `replay` knows every acknowledged write: a session whose last write was
    /// acknowledged *before* the time returned may read from it. `None`: nothing is known.
    #[must_use]
    pub fn covered_until(&self, replay: Lsn) -> Option<Instant> {
        let reached = self.samples.partition_point(|s| s.lsn <= replay);
        reached.checked_sub(1).and_then(|last| self.samples.get(last)).map(|s| s.asked)
    }

    /// The latest position of the primary.
    #[must_use]
    pub fn newest(&self) -> Option<Lsn> {
        self.samples.back().map(|s| s.lsn)
    }

    /// The latest sample: when it was asked for, and the position.
    #[must_use]
    pub fn latest(&self) -> Option<(Instant, Lsn)> {
        self.samples.back().map(|s| (s.asked, s.lsn))
    }

    /// What the samples prove about the lag of a replica that reported `replay` to a question sent at `asked`, as lower and
    /// upper bound. It is behind at least since the first sample that it has not reached, and at most since the last that it
    /// has. A replica whose WAL receiver is gone believes itself up to date (all that it received is replayed); the lower
    /// bound tells it apart from one whose primary is idle. The upper bound corrects a replica that measures its lag by
    /// the last commit it replayed: after an idle hour that is an hour, though it is behind by a millisecond.
    #[must_use]
    pub fn lag_bounds(&self, replay: Lsn, asked: Instant) -> (Duration, Duration) {
        let reached = self.samples.partition_point(|s| s.lsn <= replay);
        let missed = self.samples.get(reached).map(|s| asked.saturating_duration_since(s.first));
        let had = reached.checked_sub(1).and_then(|last| self.samples.get(last));
        let upper = had.map(|s| asked.saturating_duration_since(s.asked));
        let lower = missed.unwrap_or(Duration::ZERO);
        let upper = match (missed, upper) {
            // It has all there is.
            (None, Some(_)) => Duration::ZERO,
            (_, Some(upper)) => upper,
            (_, None) => Duration::MAX,
        };
        (lower, upper.max(lower))
    }

    /// Drops every second sample of the older half (not the oldest): the past is remembered ever more coarsely.
    fn thin_out(&mut self) {
        let half = self.samples.len() / 2;
        let mut at = 0;
        self.samples.retain(|_| {
            at += 1;
            at > half || at % 2 == 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MB16: u64 = 16 << 20;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn text_form() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("0/0".parse(), Ok(Lsn(0)));
        assert_eq!("FFFFFFFF/ffffffff".parse(), Ok(Lsn(u64::MAX)));
        for bad in
            ["", "/", "1/", "/1", "1", "1/2/3", "+1/2", "1/-2", "123456789/0", "0/123456789", "0/ 1", "g/1", "é/1"]
        {
            assert_eq!(bad.parse::<Lsn>(), Err(BadLsn), "{bad:?}");
        }
    }

    #[test]
    fn points_of_a_history() {
        let point = |text: &str| text.parse::<WalPoint>();
        let token = point("2-16/B374D848").unwrap();
        assert_eq!((token.timeline, token.lsn, token.to_string().as_str()), (2, Lsn(0x16_B374_D848), "2-16/B374D848"));
        for bad in ["", "2", "2-", "-1/2", "0-1/2", "+2-1/2", "2-1", "99999999999-1/2", "2-1/2-3"] {
            assert_eq!(point(bad), Err(BadLsn), "{bad:?}");
        }
        let reached = |timeline, lsn| token.is_reached(timeline, lsn);
        assert!(reached(Some(2), Some(token.lsn)) && reached(Some(3), Some(Lsn(u64::MAX))));
        assert!(!reached(Some(2), Some(Lsn(token.lsn.0 - 1))) && !reached(Some(1), Some(Lsn(u64::MAX))));
        assert!(!reached(None, Some(token.lsn)) && !reached(Some(2), None));
        let later = point("3-0/1").unwrap();
        assert_eq!((token.later(later), later.later(token)), (later, later));
    }

    #[test]
    fn a_header_stepped_over_is_taken_back() {
        assert_eq!(Lsn(3 * MB16 + 40).behind_no_header(MB16), Lsn(3 * MB16));
        assert_eq!(Lsn(3 * MB16 + PAGE + 24).behind_no_header(MB16), Lsn(3 * MB16 + PAGE));
        // The last 16 bytes of a record that began on the page before: a real end.
        assert_eq!(Lsn(3 * MB16 + PAGE + 40).behind_no_header(MB16), Lsn(3 * MB16 + PAGE + 40));
        // A megabyte is a segment's start only where segments are that small.
        let megabyte = 5 * (1 << 20) + 40;
        assert_eq!(Lsn(megabyte).behind_no_header(MB16), Lsn(megabyte));
        assert_eq!(Lsn(megabyte).behind_no_header(1 << 20), Lsn(megabyte - 40));
        assert_eq!(Lsn(megabyte).behind_no_header(0), Lsn(megabyte));
        assert_eq!(Lsn(3 * MB16 + 48).behind_no_header(MB16), Lsn(3 * MB16 + 48));
    }

    #[test]
    fn an_idle_primary_needs_one_sample_and_its_time_moves_on() {
        let start = crate::clock::now();
        let mut tracker = CausalTracker::default();
        for i in 0..1000 {
            tracker.sample(start + ms(i), Lsn(77));
        }
        assert_eq!(tracker.samples.len(), 1);
        assert_eq!(tracker.covered_until(Lsn(77)), Some(start + ms(999)));
        assert_eq!(tracker.covered_until(Lsn(76)), None);
    }

    #[test]
    fn a_position_that_goes_back_is_another_history() {
        let start = crate::clock::now();
        let mut tracker = CausalTracker::default();
        tracker.sample(start, Lsn(10));
        tracker.sample(start + ms(1), Lsn(20));
        tracker.sample(start + ms(2), Lsn(15));
        assert_eq!(tracker.covered_until(Lsn(14)), None);
        assert_eq!(tracker.covered_until(Lsn(20)), Some(start + ms(2)));
    }

    #[test]
    fn lag_is_told_from_idleness() {
        let start = crate::clock::now();
        let mut tracker = CausalTracker::default();
        assert_eq!(tracker.lag_bounds(Lsn(1), start), (Duration::ZERO, Duration::MAX));
        tracker.sample(start, Lsn(10));
        tracker.sample(start + ms(1000), Lsn(20));
        tracker.sample(start + ms(2000), Lsn(30));
        let asked = start + ms(5000);
        assert_eq!(tracker.lag_bounds(Lsn(30), asked), (ms(0), ms(0)), "idle primary");
        assert_eq!(tracker.lag_bounds(Lsn(25), asked), (ms(3000), ms(4000)), "no longer fed");
        assert_eq!(tracker.lag_bounds(Lsn(5), asked), (ms(5000), Duration::MAX), "behind all that is known");
        // The primary has been idle since: the replica is behind since the write.
        tracker.sample(start + ms(4000), Lsn(30));
        assert_eq!(tracker.lag_bounds(Lsn(25), asked), (ms(3000), ms(4000)));
        // Asked before the sample that it has not reached: not proven to be behind at all.
        assert_eq!(tracker.lag_bounds(Lsn(20), start + ms(1500)), (ms(0), ms(500)));
    }

    #[test]
    fn memory_is_bounded_and_the_newest_samples_are_kept() {
        let start = crate::clock::now();
        let mut tracker = CausalTracker::default();
        for i in 0..100_000 {
            tracker.sample(start + ms(i), Lsn(i));
            assert!(tracker.samples.len() <= SAMPLES);
        }
        assert_eq!(tracker.covered_until(Lsn(99_990)), Some(start + ms(99_990)));
        assert!(tracker.covered_until(Lsn(50_000)).is_some(), "the past is thinned out, not lost");
    }

    /// A made-up history: the primary commits, is sampled, and the replica follows, at random times.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Commit(u64),
        Sample,
        Replay(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..2000_u64).prop_map(Step::Commit),
            3 => Just(Step::Sample),
            3 => (0..5000_u64).prop_map(Step::Replay),
        ]
    }

    proptest! {
        /// Every write that the tracker calls covered has been replayed, however the steps fall.
        #[test]
        fn what_is_covered_has_been_replayed(steps in proptest::collection::vec(step(), 1..2000)) {
            let start = crate::clock::now();
            let mut tracker = CausalTracker::default();
            let (mut insert, mut replay) = (1000_u64, 0_u64);
            let mut commits: Vec<(Instant, u64)> = Vec::new();
            for (i, step) in steps.iter().enumerate() {
                let now = start + ms(i as u64 / 2);
                match step {
                    Step::Commit(bytes) => { insert += bytes; commits.push((now, insert)); }
                    Step::Sample => tracker.sample(now, Lsn(insert)),
                    Step::Replay(bytes) => replay = (replay + bytes).min(insert),
                }
                if let Some(until) = tracker.covered_until(Lsn(replay)) {
                    for (acknowledged, end) in &commits {
                        prop_assert!(*acknowledged >= until || *end <= replay);
                    }
                }
            }
            // And a replica that has everything is known to cover the last sample.
            if let Some(last) = tracker.samples.back() {
                prop_assert_eq!(tracker.covered_until(Lsn(insert)), Some(last.asked));
            }
        }

        #[test]
        fn text_round_trip(n in any::<u64>()) {
            prop_assert_eq!(Lsn(n).to_string().parse(), Ok(Lsn(n)));
        }

        /// Taking a header back never hides a byte that a record may have written.
        #[test]
        fn only_headers_are_taken_back(n in any::<u64>()) {
            let back = n - Lsn(n).behind_no_header(MB16).0;
            let header = if (n - back).is_multiple_of(MB16) { LONG_HEADER } else { SHORT_HEADER };
            prop_assert!(back == 0 || back == header);
        }
    }
}
