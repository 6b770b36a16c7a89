//! A server as routing sees it at one moment: plain data. Pure.

use std::time::{Duration, Instant};

use crate::config::Role;
use crate::id::ServerIndex;

use super::breaker::Admission;
use super::lsn::{Lsn, WalPoint};
use super::members::MemberRole;

/// A response time from which on a server gets the smallest share is 1.9 s: see [`ServerView::effective_weight`].
const SMALLEST_SHARE: f64 = 0.1;

/// Everything that routing knows of a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerView {
    /// Its place in the shard.
    pub index: ServerIndex,
    /// What it is configured to be.
    pub configured: Role,
    /// What it last said that it is; `None`: it was never asked.
    pub discovered: Option<Role>,
    /// The timeline it last reported.
    pub timeline: Option<u32>,
    /// Its configured share of the reads.
    pub weight: f64,
    /// Its average response time.
    pub latency: Option<Duration>,
    /// Statements under way on it.
    pub in_flight: u32,
    /// What its breaker says.
    pub admission: Admission,
    /// It did not answer the last probe, and nothing has been heard of it since.
    pub suspect: bool,
    /// The part of its weight while it is starting slowly, 0.1 to 1.
    pub ramp: f64,
    /// Its lag in parts of `max_lag` or `max_lag_bytes`, whichever is more: above 1 it gets no reads. 0 without a limit; infinite
    /// while it should be known and is not.
    pub lag_ratio: f64,
    /// It has every write that was acknowledged before then.
    pub covered_until: Option<Instant>,
    /// What it has replayed, or written.
    pub lsn: Option<Lsn>,
    /// What Patroni says that it is.
    pub member: Option<MemberRole>,
    /// It is in the zone that reads prefer, or none is preferred.
    pub near: bool,
}

impl ServerView {
    /// Its share of the reads: the configured weight × health. Health is `max(0.1, 2 − response time in seconds)`, times a
    /// factor that falls from 1 at half of `max_lag` to 0.1 at all of it, times the slow start. The lag factor leaves the
    /// first half alone because a replica in the best of health is seen to be behind by up to a probe interval.
    #[must_use]
    pub fn effective_weight(&self) -> f64 {
        let seconds = self.latency.unwrap_or_default().as_secs_f64();
        let speed = (2.0 - seconds).max(SMALLEST_SHARE);
        let lag = (2.0 * (1.0 - self.lag_ratio)).clamp(SMALLEST_SHARE, 1.0);
        let weight = self.weight * speed * lag * self.ramp;
        if weight.is_finite() { weight.max(0.0) } else { 0.0 }
    }

    /// Whether it has every write that was acknowledged at or before `write`.
    #[must_use]
    pub fn covers(&self, write: Instant) -> bool {
        self.covered_until.is_some_and(|until| until > write)
    }

    /// Whether it has everything up to `point`.
    #[must_use]
    pub fn has_reached(&self, point: WalPoint) -> bool {
        point.is_reached(self.timeline, self.lsn)
    }

    fn claims_primary(&self) -> bool {
        self.discovered == Some(Role::Primary)
    }
}

/// Which of a shard's servers takes the writes: its place in `servers`.
///
/// That is the configured primary, unless the probes have seen a failover:
/// - it was in recovery when it last answered, and another server is a primary: that one;
/// - it does not answer, or claims to be a primary still, and another server is a primary *on a higher timeline*: that
///   one. A promotion always begins a new timeline, so the higher one is the later history; the old primary is fenced, also
///   when it comes back. A primary that never answered counts as timeline 1, which no promoted server has.
///
/// Of several such servers it is the one on the highest timeline: what a server was counts on when it is dead, and one that was
/// promoted after it was is its heir. Servers on the same timeline have not been promoted from one another: a configuration that
/// calls an unrelated server a replica gives it no writes.
///
/// Where no primary is configured (`role = "auto"`), it is the server that last said it was one, on the highest timeline of all
/// that did; while two say so of the same timeline, none.
///
/// Patroni decides among several on one timeline, and nothing else: its word makes no primary of a server that does not say itself that
/// it is one, and none of one whose history another has gone beyond. What it knows may be older than what the probes have seen.
#[must_use]
pub fn acting_primary(servers: &[ServerView]) -> Option<usize> {
    match servers.iter().position(|s| s.configured == Role::Primary) {
        Some(configured) => heir(servers, configured),
        None => elected(servers),
    }
}

/// The one primary on the highest timeline.
fn elected(servers: &[ServerView]) -> Option<usize> {
    latest(servers, |_, _| true)
}

/// The configured primary, or the one that has taken over from it.
fn heir(servers: &[ServerView], configured: usize) -> Option<usize> {
    let old = servers.get(configured)?;
    // A standby that is silent for a moment has not become a primary by that.
    let demoted = old.discovered == Some(Role::Replica);
    let old_timeline = old.timeline.unwrap_or(1);
    let succeeds = |at, s: &ServerView| at != configured && (demoted || s.timeline.is_some_and(|t| t > old_timeline));
    let heir = if demoted || old.suspect || old.claims_primary() { latest(servers, succeeds) } else { None };
    // Of two heirs, which one is right is not for us to guess, and the old one is no worse.
    heir.or(Some(configured))
}

/// Of those that are primaries by their own word and fit, the one on the highest timeline. If two are on that it is the one that Patroni
/// calls the leader, or none.
fn latest(servers: &[ServerView], fits: impl Fn(usize, &ServerView) -> bool) -> Option<usize> {
    let primaries = || servers.iter().enumerate().filter(|(at, s)| s.claims_primary() && fits(*at, s));
    let highest = primaries().map(|(_, s)| s.timeline).max()?;
    let on_it = || primaries().filter(|(_, s)| s.timeline == highest);
    let leaders = on_it().filter(|(_, s)| s.member == Some(MemberRole::Leader));
    sole(on_it().map(|(at, _)| at)).or_else(|| sole(leaders.map(|(at, _)| at)))
}

/// The one and only.
fn sole(mut all: impl Iterator<Item = usize>) -> Option<usize> {
    all.next().filter(|_| all.next().is_none())
}

/// What a server is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Duty {
    /// Takes the writes.
    Primary,
    /// Takes reads.
    Replica,
    /// Nothing: it is a primary, or is configured as one, while another is the primary.
    Fenced,
    /// Nothing yet: what it is is to be found out, and no probe has been answered.
    Unknown,
}

impl Duty {
    /// The word of SHOW and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Fenced => "fenced",
            Self::Unknown => "unknown",
        }
    }
}

/// What the server at `at` is used for. It takes reads as a replica if it is configured as one or was found to be one, and is
/// not a primary by what it says or by what it does.
#[must_use]
pub fn duty(servers: &[ServerView], at: usize, acting_primary: Option<usize>) -> Duty {
    match servers.get(at) {
        Some(_) if acting_primary == Some(at) => Duty::Primary,
        Some(s) if s.claims_primary() => Duty::Fenced,
        Some(s) if s.configured == Role::Replica || s.discovered == Some(Role::Replica) => Duty::Replica,
        Some(s) if s.configured == Role::Auto => Duty::Unknown,
        Some(_) | None => Duty::Fenced,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A server in good health.
    pub(crate) fn server(index: u16, configured: Role) -> ServerView {
        ServerView {
            index: ServerIndex(index),
            configured,
            discovered: None,
            timeline: None,
            weight: 1.0,
            latency: None,
            in_flight: 0,
            admission: Admission::Free,
            suspect: false,
            ramp: 1.0,
            lag_ratio: 0.0,
            covered_until: None,
            lsn: None,
            member: None,
            near: true,
        }
    }

    fn found(mut view: ServerView, role: Role, timeline: u32) -> ServerView {
        view.discovered = Some(role);
        view.timeline = Some(timeline);
        view
    }

    fn suspect(mut view: ServerView) -> ServerView {
        view.suspect = true;
        view
    }

    #[test]
    fn weight_follows_the_rule_of_response_time() {
        let weight = |ms| {
            let mut view = server(1, Role::Replica);
            view.weight = 3.0;
            view.latency = Some(Duration::from_millis(ms));
            view.effective_weight()
        };
        for (ms, expected) in [(0, 6.0), (500, 4.5), (1900, 0.3), (2000, 0.3), (60_000, 0.3)] {
            assert!((weight(ms) - expected).abs() < 1e-9, "{ms} ms: {}", weight(ms));
        }
    }

    #[test]
    fn weight_falls_with_the_second_half_of_the_lag() {
        let weight = |ratio| ServerView { lag_ratio: ratio, ..server(1, Role::Replica) }.effective_weight();
        for (ratio, expected) in [(0.0, 2.0), (0.5, 2.0), (0.75, 1.0), (1.0, 0.2), (f64::INFINITY, 0.2)] {
            assert!((weight(ratio) - expected).abs() < 1e-9, "{ratio}: {}", weight(ratio));
        }
        let odd = ServerView { weight: f64::NAN, ..server(1, Role::Replica) };
        assert!(odd.effective_weight().abs() < 1e-9);
    }

    #[test]
    fn the_configured_primary_is_believed_until_a_failover_is_seen() {
        let (p, r) = (server(0, Role::Primary), server(1, Role::Replica));
        assert_eq!(acting_primary(&[p, r]), Some(0));
        assert_eq!(acting_primary(&[suspect(p), r]), Some(0));
        // Both claim to be primary on one timeline: somebody else's database.
        assert_eq!(acting_primary(&[found(p, Role::Primary, 4), found(r, Role::Primary, 4)]), Some(0));
        assert_eq!(acting_primary(&[suspect(found(p, Role::Primary, 4)), found(r, Role::Primary, 4)]), Some(0));
        assert_eq!(acting_primary(&[suspect(p), found(r, Role::Primary, 1)]), Some(0));
        assert_eq!(acting_primary(&[r]), None);
    }

    #[test]
    fn a_promoted_replica_takes_over() {
        let (p, r, s) = (server(0, Role::Primary), server(1, Role::Replica), server(2, Role::Replica));
        let heir = found(r, Role::Primary, 2);
        assert_eq!(acting_primary(&[found(p, Role::Replica, 2), heir, s]), Some(1), "switched over");
        assert_eq!(acting_primary(&[suspect(found(p, Role::Primary, 1)), heir, s]), Some(1), "failed over");
        assert_eq!(acting_primary(&[suspect(p), heir, s]), Some(1), "failed over before we started");
        assert_eq!(acting_primary(&[found(p, Role::Primary, 1), heir, s]), Some(1), "the old primary came back");
        let other = found(s, Role::Primary, 2);
        assert_eq!(acting_primary(&[found(p, Role::Replica, 1), heir, other]), Some(0), "two heirs");
        // The heir died as well, and the third has taken over from it.
        let third = found(s, Role::Primary, 3);
        for old in [suspect(found(p, Role::Primary, 1)), suspect(p), found(p, Role::Replica, 2)] {
            assert_eq!(acting_primary(&[old, suspect(heir), third]), Some(2), "the last heir");
        }
        // A newly started proxy has not probed the primary yet; that is no failover.
        assert_eq!(acting_primary(&[p, heir, s]), Some(0));
    }

    #[test]
    fn without_a_configured_primary_the_highest_timeline_is_it() {
        let auto = |at| server(at, Role::Auto);
        let (a, b, c) = (auto(0), auto(1), auto(2));
        assert_eq!(acting_primary(&[a, b, c]), None, "nothing is known yet");
        assert_eq!(duty(&[a, b, c], 0, None), Duty::Unknown);
        let (old, standby) = (found(a, Role::Primary, 1), found(b, Role::Replica, 1));
        assert_eq!(acting_primary(&[old, standby, c]), Some(0));
        assert_eq!(acting_primary(&[suspect(old), standby, c]), Some(0), "dead, and nobody has taken over");
        let promoted = found(b, Role::Primary, 2);
        let both = [old, promoted, found(c, Role::Replica, 1)];
        assert_eq!(acting_primary(&both), Some(1), "both claim to be it");
        let duties: Vec<_> = (0..3).map(|at| duty(&both, at, Some(1))).collect();
        assert_eq!(duties, [Duty::Fenced, Duty::Primary, Duty::Replica]);
        assert_eq!(acting_primary(&[found(a, Role::Primary, 2), promoted, c]), None, "whose history is it?");
    }

    #[test]
    fn patroni_decides_on_one_timeline_and_nothing_else() {
        let said = |view: ServerView, role| ServerView { member: Some(role), ..view };
        let (a, b) = (server(0, Role::Auto), server(1, Role::Auto));
        let both = [found(a, Role::Primary, 2), said(found(b, Role::Primary, 2), MemberRole::Leader)];
        assert_eq!(acting_primary(&both), Some(1));
        assert_eq!(duty(&both, 0, Some(1)), Duty::Fenced);
        // It is not believed of a standby, nor of one that was left behind.
        let standby = [found(a, Role::Primary, 2), said(found(b, Role::Replica, 2), MemberRole::Leader)];
        assert_eq!(acting_primary(&standby), Some(0));
        let none = [found(a, Role::Replica, 2), said(found(b, Role::Replica, 2), MemberRole::Leader)];
        assert_eq!(acting_primary(&none), None);
        let behind = [found(a, Role::Primary, 3), said(found(b, Role::Primary, 2), MemberRole::Leader)];
        assert_eq!(acting_primary(&behind), Some(0));
        // Nor of several, nor when it calls somebody a replica.
        let leader = |view| said(found(view, Role::Primary, 2), MemberRole::Leader);
        assert_eq!(acting_primary(&[leader(a), leader(b)]), None);
        let replica = |view| said(found(view, Role::Primary, 2), MemberRole::Replica);
        assert_eq!(acting_primary(&[replica(a), found(b, Role::Primary, 2)]), None);
        // Of two heirs of a configured primary it knows the right one.
        let p = found(server(0, Role::Primary), Role::Replica, 1);
        let (r, s) =
            (found(server(1, Role::Replica), Role::Primary, 2), found(server(2, Role::Replica), Role::Primary, 2));
        assert_eq!(acting_primary(&[p, r, said(s, MemberRole::Leader)]), Some(2));
        // An explicit primary is honoured beside a server on its own timeline.
        let p = found(server(0, Role::Primary), Role::Primary, 2);
        assert_eq!(acting_primary(&[p, said(r, MemberRole::Leader)]), Some(0));
    }

    #[test]
    fn a_demoted_primary_that_is_silent_fences_nobody() {
        let demoted = suspect(found(server(0, Role::Primary), Role::Replica, 2));
        let servers = [demoted, found(server(1, Role::Replica), Role::Primary, 2)];
        let acting = acting_primary(&servers);
        assert_eq!((acting, duty(&servers, 1, acting)), (Some(1), Duty::Primary));
    }

    #[test]
    fn a_demoted_primary_takes_reads() {
        let servers = [
            found(server(0, Role::Primary), Role::Replica, 2),
            found(server(1, Role::Replica), Role::Primary, 2),
            found(server(2, Role::Replica), Role::Primary, 1),
        ];
        let acting = acting_primary(&servers[..2]);
        assert_eq!(acting, Some(1));
        assert_eq!(duty(&servers[..2], 0, acting), Duty::Replica);
        assert_eq!(duty(&servers[..2], 1, acting), Duty::Primary);
        assert_eq!(
            duty(&servers, 2, acting),
            Duty::Fenced,
            "a server that says it is a primary gets no reads as a replica"
        );
    }
}
