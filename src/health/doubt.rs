//! When a server is looked at again because Patroni says something else of it than its last probe did. Pure.

use std::time::{Duration, Instant};

/// After a first look that has settled nothing: most often the server is on its way to what Patroni says.
const FIRST: Duration = Duration::from_millis(100);

/// What was made of Patroni's word about one server.
#[derive(Debug, Default)]
pub struct Doubt {
    /// While it says something else: when to look again, and how long it was put off.
    next: Option<(Instant, Duration)>,
    /// It said that the server runs.
    served: bool,
}

impl Doubt {
    /// Whether to look at the server now. `differs`: Patroni says something else than the probes have found. `serves`: it says that the
    /// server runs. `news`: it says something new.
    ///
    /// What is new is looked at once. A difference that stays is looked at after 100 ms and then in twice the time, up to `longest`.
    pub fn look(&mut self, (differs, serves, news): (bool, bool, bool), now: Instant, longest: Duration) -> bool {
        let served = std::mem::replace(&mut self.served, serves);
        let news = news || (differs && serves && !served);
        if !differs {
            self.next = None;
            return news;
        }
        let wait = match self.next {
            Some((at, _)) if now < at && !news => return false,
            Some((_, wait)) if !news => wait.saturating_mul(2).min(longest),
            Some(_) | None => FIRST,
        };
        self.next = now.checked_add(wait).map(|at| (at, wait));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_that_stays_is_looked_at_ever_less() {
        let (start, longest) = (crate::clock::now(), Duration::from_secs(10));
        let mut doubt = Doubt::default();
        let mut looks = Vec::new();
        for tenths in 0..600_u64 {
            let after = Duration::from_millis(tenths * 100);
            if doubt.look((true, true, false), start + after, longest) {
                looks.push(tenths);
            }
        }
        assert_eq!(looks, [0, 1, 3, 7, 15, 31, 63, 127, 227, 327, 427, 527]);
        let end = start + Duration::from_secs(60);
        assert!(doubt.look((true, true, true), end, longest), "news");
        assert!(!doubt.look((true, true, false), end, longest));
        assert!(!doubt.look((false, true, false), end, longest), "it is as Patroni says");
        assert!(doubt.look((true, true, false), end, longest), "and no longer");
        assert!(!doubt.look((true, false, false), end, longest));
        assert!(doubt.look((true, true, false), end, longest), "it runs again, by Patroni's word");
    }
}
