//! The averages of SHOW STATS: over the last full `stats_period`, as PgBouncer defines them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::counters::Counts;

/// Turns samples of the totals into averages. Call [`Averages::sample`] once per `stats_period`.
#[derive(Debug, Default)]
pub struct Averages {
    previous: Option<(Instant, BTreeMap<String, Counts>)>,
    averages: BTreeMap<String, Counts>,
    overall: Counts,
}

impl Averages {
    /// Without a sample: every average is zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the databases' totals at `now`; the averages are then those of the time since the sample before. The first
    /// sample only sets the start. A database that was not in the sample before counts from zero.
    pub fn sample(&mut self, now: Instant, totals: impl IntoIterator<Item = (String, Counts)>) {
        let totals: BTreeMap<String, Counts> = totals.into_iter().collect();
        if let Some((then, before)) = &self.previous {
            let period_us = u64::try_from(now.saturating_duration_since(*then).as_micros()).unwrap_or(u64::MAX);
            let mut sum = Counts::default();
            self.averages.clear();
            for (database, total) in &totals {
                let delta = total.since(&before.get(database).copied().unwrap_or_default());
                sum += delta;
                self.averages.insert(database.clone(), average(&delta, period_us));
            }
            self.overall = average(&sum, period_us);
        }
        self.previous = Some((now, totals));
    }

    /// A database's averages; zeros before the second sample.
    #[must_use]
    pub fn of(&self, database: &str) -> Counts {
        self.averages.get(database).copied().unwrap_or_default()
    }

    /// The averages over all databases together: a busy database weighs more in the mean times than a quiet one.
    #[must_use]
    pub fn overall(&self) -> Counts {
        self.overall
    }
}

/// Counts and bytes are per second of the period; the times are per transaction, per query and per server assignment.
fn average(delta: &Counts, period_us: u64) -> Counts {
    let per_second = |n: u64| divide(u128::from(n).saturating_mul(1_000_000), period_us);
    let per = |time: u64, count: u64| divide(u128::from(time), count);
    Counts {
        server_assignment_count: per_second(delta.server_assignment_count),
        xact_count: per_second(delta.xact_count),
        query_count: per_second(delta.query_count),
        received: per_second(delta.received),
        sent: per_second(delta.sent),
        xact_time: per(delta.xact_time, delta.xact_count),
        query_time: per(delta.query_time, delta.query_count),
        wait_time: per(delta.wait_time, delta.server_assignment_count),
        client_parse_count: per_second(delta.client_parse_count),
        server_parse_count: per_second(delta.server_parse_count),
        bind_count: per_second(delta.bind_count),
    }
}

/// The quotient, rounded down; zero by zero.
fn divide(a: u128, b: u64) -> u64 {
    a.checked_div(u128::from(b)).map_or(0, |q| u64::try_from(q).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn one(counts: Counts) -> Vec<(String, Counts)> {
        vec![("shop".to_owned(), counts)]
    }

    #[test]
    fn counts_are_per_second_and_times_per_event() {
        let start = clock::now();
        let mut averages = Averages::new();
        averages.sample(start, one(Counts { xact_count: 1000, query_time: 77, ..Counts::default() }));
        assert_eq!(averages.of("shop"), Counts::default(), "one sample is no period");
        averages.sample(
            start + Duration::from_secs(60),
            one(Counts {
                server_assignment_count: 120,
                xact_count: 1600,
                query_count: 6000,
                received: 6_000_000,
                sent: 59,
                xact_time: 1_200_000,
                query_time: 77 + 600_000,
                wait_time: 1_200,
                client_parse_count: 60,
                server_parse_count: 120,
                bind_count: 180,
            }),
        );
        let expected = Counts {
            server_assignment_count: 2,
            xact_count: 10,
            query_count: 100,
            received: 100_000,
            sent: 0,
            xact_time: 2000,
            query_time: 100,
            wait_time: 10,
            client_parse_count: 1,
            server_parse_count: 2,
            bind_count: 3,
        };
        assert_eq!(averages.of("shop"), expected);
        assert_eq!(averages.of("elsewhere"), Counts::default());
    }

    #[test]
    fn the_overall_mean_is_weighted_by_events() {
        let (start, mut averages) = (clock::now(), Averages::new());
        averages.sample(start, []);
        let busy = Counts { query_count: 90, query_time: 90 * 10, ..Counts::default() };
        let slow = Counts { query_count: 10, query_time: 10 * 1000, ..Counts::default() };
        averages.sample(start + Duration::from_secs(1), [("busy".to_owned(), busy), ("slow".to_owned(), slow)]);
        assert_eq!((averages.of("busy").query_time, averages.of("slow").query_time), (10, 1000));
        assert_eq!((averages.overall().query_time, averages.overall().query_count), (109, 100));
    }

    #[test]
    fn no_time_and_no_events_divide_nothing_by_zero() {
        let start = clock::now();
        let mut averages = Averages::new();
        averages.sample(start, one(Counts::default()));
        averages.sample(start, one(Counts { query_count: 5, ..Counts::default() }));
        assert_eq!(averages.of("shop"), Counts::default());
    }

    #[test]
    fn a_database_that_came_or_shrank_is_not_a_huge_number() {
        let start = clock::now();
        let mut averages = Averages::new();
        averages.sample(start, one(Counts { query_count: 100, ..Counts::default() }));
        let later = start + Duration::from_secs(10);
        averages.sample(
            later,
            vec![
                ("shop".to_owned(), Counts { query_count: 10, ..Counts::default() }),
                ("new".to_owned(), Counts { query_count: 50, ..Counts::default() }),
            ],
        );
        assert_eq!((averages.of("shop").query_count, averages.of("new").query_count), (0, 5));
        assert_eq!(averages.overall().query_count, 5);
        averages.sample(later + Duration::from_secs(10), vec![]);
        assert_eq!(averages.of("shop"), Counts::default(), "a database that is gone has no averages");
    }
}
