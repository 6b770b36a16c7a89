//! A moving average of response times, shared by the workers without a lock.
//!
//! An exponentially weighted average over *time*, not over samples: a sample counts for `1 - e^(-elapsed / tau)`, where
//! `elapsed` is the time since the last one. A busy server and one that is only probed forget at the same speed. With
//! [`Rise::Peak`] a sample above the average replaces it (the "peak EWMA" of Finagle's load balancer): quick to see trouble,
//! slow to forgive.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast the average forgets: after this long without a break, a change shows by 63 %.
pub const TAU: Duration = Duration::from_secs(10);

/// How the average follows a sample above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rise {
    /// As it follows one below.
    Smooth,
    /// At once.
    Peak,
}

const EMPTY: u64 = u64::MAX;

/// The average. Times are offsets from any fixed point, the same for every call.
#[derive(Debug)]
pub struct Latency {
    rise: Rise,
    /// The average in seconds, as bits; `EMPTY` is a NaN and means none yet.
    seconds: AtomicU64,
    /// When the last sample came, in nanoseconds.
    at: AtomicU64,
}

impl Latency {
    /// No samples yet.
    #[must_use]
    pub fn new(rise: Rise) -> Self {
        Self { rise, seconds: AtomicU64::new(EMPTY), at: AtomicU64::new(0) }
    }

    /// Takes a sample at time `at`. Samples that come late (out of order) count for nothing, or raise a peak.
    pub fn observe(&self, sample: Duration, at: Duration) {
        let at = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        // Whoever moves `at` forward owns the time in between, so no time is counted twice.
        let last = self.at.fetch_max(at, Ordering::Relaxed);
        let elapsed = Duration::from_nanos(at.saturating_sub(last));
        let sample = sample.as_secs_f64();
        // The closure always returns Some, so there is no failure to look at.
        let _previous = self.seconds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            Some(if bits == EMPTY { sample } else { blend(f64::from_bits(bits), sample, elapsed, self.rise) }.to_bits())
        });
    }

    /// The average; `None` before the first sample.
    #[must_use]
    pub fn get(&self) -> Option<Duration> {
        let bits = self.seconds.load(Ordering::Relaxed);
        if bits == EMPTY { None } else { Duration::try_from_secs_f64(f64::from_bits(bits)).ok() }
    }
}

fn blend(old: f64, sample: f64, elapsed: Duration, rise: Rise) -> f64 {
    if rise == Rise::Peak && sample > old {
        return sample;
    }
    let keep = (-elapsed.as_secs_f64() / TAU.as_secs_f64()).exp();
    sample + (old - sample) * keep
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn near(latency: &Latency, expected: f64) {
        let got = latency.get().unwrap().as_secs_f64();
        assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
    }

    #[test]
    fn the_first_sample_is_the_average() {
        let l = Latency::new(Rise::Smooth);
        assert_eq!(l.get(), None);
        l.observe(ms(250), ms(5));
        near(&l, 0.25);
    }

    #[test]
    fn follows_by_time_and_not_by_count() {
        let (busy, idle) = (Latency::new(Rise::Smooth), Latency::new(Rise::Smooth));
        for l in [&busy, &idle] {
            l.observe(ms(1000), ms(0));
        }
        for i in 1..=10_000 {
            busy.observe(ms(0), ms(i));
        }
        idle.observe(ms(0), ms(10_000));
        near(&busy, (-1.0_f64).exp());
        near(&idle, (-1.0_f64).exp());
    }

    #[test]
    fn a_peak_shows_at_once_and_fades_slowly() {
        let l = Latency::new(Rise::Peak);
        l.observe(ms(1), ms(0));
        l.observe(ms(900), ms(1));
        near(&l, 0.9);
        l.observe(ms(0), ms(5001));
        near(&l, 0.9 * (-0.5_f64).exp());
    }

    #[test]
    fn a_late_sample_changes_nothing() {
        let l = Latency::new(Rise::Smooth);
        l.observe(ms(10), ms(1000));
        l.observe(ms(5000), ms(500));
        near(&l, 0.01);
    }

    proptest! {
        #[test]
        fn stays_within_the_samples(samples in proptest::collection::vec((0..5000_u64, 0..3000_u64), 1..50)) {
            let l = Latency::new(Rise::Smooth);
            let mut at = 0;
            for (sample, step) in &samples {
                at += step;
                l.observe(ms(*sample), ms(at));
            }
            let got = l.get().unwrap().as_secs_f64();
            let low = samples.iter().map(|s| s.0).min().unwrap() as f64 / 1000.0;
            let high = samples.iter().map(|s| s.0).max().unwrap() as f64 / 1000.0;
            prop_assert!(got >= low - 1e-6 && got <= high + 1e-6);
        }
    }
}
