//! The health of a shard: its servers, and how far each replica has followed the primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::{HealthSettings, Role, Shard};
use crate::id::ServerIndex;

use super::doubt::Doubt;
use super::line::Line;
use super::lsn::{CausalTracker, WalPoint};
use super::members::{Member, MemberRole};
use super::server::{Observation, Position, ProbeResult, ServerHealth, ServerSnapshot};
use super::view::{Duty, ServerView, acting_primary, duty};

/// The servers of one shard.
#[derive(Debug)]
pub struct ShardHealth {
    servers: Vec<Arc<ServerHealth>>,
    history: Mutex<History>,
    hurry: Notify,
    /// What Patroni says has the probers look, by server.
    calls: Vec<Call>,
    /// A difference between Patroni and a probe that stays is looked at at least this far apart, in the end.
    longest_doubt: Duration,
    silence: Notify,
    /// A probe of the primary was answered.
    sampled: Notify,
    /// Those who wait for a primary.
    line: Arc<Line>,
    /// Whose turn it is (`round_robin`).
    turn: AtomicU64,
    base: Instant,
    /// Shared with the shard's predecessor before a reload, whose clients go on writing there for a while.
    written: Mutex<Arc<Written>>,
    /// When the newest sample of the primary was asked for, in nanoseconds after `base`; 0: never.
    sampled_at: AtomicU64,
    /// What is known of its primary was known before a reload.
    settled: AtomicBool,
}

/// When the last write of any session was acknowledged. Kept for `strong` alone.
#[derive(Debug)]
struct Written {
    base: Instant,
    /// In nanoseconds after `base`; 0: never.
    at: AtomicU64,
}

impl Written {
    fn new(base: Instant) -> Self {
        Self { base, at: AtomicU64::new(0) }
    }

    fn note(&self, now: Instant) {
        self.at.fetch_max(nanos(self.base, now), Ordering::AcqRel);
    }

    fn last(&self) -> Option<Instant> {
        let at = self.at.load(Ordering::Acquire);
        (at > 0).then(|| self.base + Duration::from_nanos(at))
    }
}

/// Has the prober of one server look.
#[derive(Debug, Default)]
struct Call {
    told: Notify,
    doubt: Mutex<Doubt>,
}

/// The primary's positions, and whose they are.
#[derive(Debug, Default)]
struct History {
    tracker: CausalTracker,
    /// The server and the timeline that the samples are of.
    source: Option<(ServerIndex, Option<u32>)>,
    /// Since when.
    since: Option<Instant>,
    /// They were of another history before.
    moved: bool,
}

impl ShardHealth {
    /// All servers of `shard`, nothing known of any. `base` is any time not after the first probe.
    #[must_use]
    pub fn new(shard: &Shard, settings: &HealthSettings, base: Instant) -> Self {
        let servers = (0_u16..)
            .zip(&shard.servers)
            .map(|(at, server)| Arc::new(ServerHealth::new(ServerIndex(at), server, settings, base)))
            .collect();
        Self {
            servers,
            history: Mutex::default(),
            hurry: Notify::new(),
            calls: shard.servers.iter().map(|_| Call::default()).collect(),
            longest_doubt: settings.probe_interval.max(Duration::from_secs(1)),
            silence: Notify::new(),
            sampled: Notify::new(),
            line: Arc::default(),
            turn: AtomicU64::new(0),
            base,
            written: Mutex::new(Arc::new(Written::new(base))),
            sampled_at: AtomicU64::new(0),
            settled: AtomicBool::new(false),
        }
    }

    /// Takes over what is known of servers that are here as well.
    pub fn inherit(&self, old: &Self, now: Instant) {
        for (server, known) in self.servers.iter().flat_map(|s| old.servers.iter().map(move |known| (s, known))) {
            if server.address() != known.address() {
                continue;
            }
            self.share_writes(old);
            if !Arc::ptr_eq(server, known) {
                server.inherit(known);
                // Its primary is still here: one more server to be heard of is no reason for writes to wait.
                if old.is_settled() && old.acting_primary(now) == Some(known.index()) {
                    self.settled.store(true, Ordering::Release);
                }
            }
        }
    }

    /// What is written by clients that are with the old one counts here, and the other way round.
    fn share_writes(&self, old: &Self) {
        let theirs = Arc::clone(&old.written.lock());
        let mut ours = self.written.lock();
        if let Some(last) = ours.last().filter(|_| !Arc::ptr_eq(&ours, &theirs)) {
            theirs.note(last);
        }
        *ours = theirs;
    }

    /// Whether every server that is probed has been asked in vain once at least, or is known from before: until then nobody can say that
    /// another has not taken the place of the primary.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire) || self.servers.iter().all(|server| server.is_settled())
    }

    /// Those who wait for a primary.
    #[must_use]
    pub fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// A number that rises by one each time.
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// A write of some session was acknowledged: what `strong` reads must see.
    pub fn on_write(&self, now: Instant) {
        self.written.lock().note(now);
    }

    /// A replica that has every write acknowledged before then has all that anybody here wrote, and all that the newest sample says
    /// others did; none: nothing was written, and nothing is known.
    #[must_use]
    pub fn strong_since(&self) -> Option<Instant> {
        // A replica that has reached the sample covers the time at which that was asked for, and no later one.
        let sampled = self.sampled_at.load(Ordering::Acquire).saturating_sub(1);
        let sampled = (sampled > 0).then(|| self.base + Duration::from_nanos(sampled));
        self.written.lock().last().max(sampled)
    }

    fn offset(&self, at: Instant) -> u64 {
        nanos(self.base, at)
    }

    /// A point of the WAL that has every write acknowledged at or before `write`, if a sample shows one.
    #[must_use]
    pub fn point_after(&self, write: Instant) -> Option<WalPoint> {
        let history = self.history.lock();
        let (asked, lsn) = history.tracker.latest()?;
        let timeline = history.source?.1?;
        (asked > write).then_some(WalPoint { timeline, lsn })
    }

    /// Completes when the primary was sampled anew.
    pub async fn sampled(&self) {
        self.sampled.notified().await;
    }

    /// Whether there is a primary that answers, as far as is known.
    #[must_use]
    pub fn has_primary(&self, now: Instant) -> bool {
        let primary = self.acting_primary(now).and_then(|index| self.server(index));
        self.is_settled() && primary.is_some_and(|primary| primary.may_take_writes(now))
    }

    /// Whether whoever waits for the primary may try it though it does not seem to be there: nobody else finds out, or it refuses
    /// rather than hangs.
    #[must_use]
    pub fn may_try_primary(&self, now: Instant) -> bool {
        let primary = self.acting_primary(now).and_then(|index| self.server(index));
        self.is_settled()
            && primary.is_some_and(|p| !p.is_probed() || (p.unanswered() == 0 && p.discovered() != Some(Role::Replica)))
    }

    /// The servers, in configured order.
    #[must_use]
    pub fn servers(&self) -> &[Arc<ServerHealth>] {
        &self.servers
    }

    /// One server.
    #[must_use]
    pub fn server(&self, index: ServerIndex) -> Option<&Arc<ServerHealth>> {
        self.servers.get(usize::from(index.0))
    }

    /// Fills `views` with what routing needs to know, in configured order. The buffer is the caller's, to be used again.
    pub fn views(&self, now: Instant, views: &mut Vec<ServerView>) {
        views.clear();
        views.extend(self.servers.iter().map(|s| s.view(now)));
    }

    /// What is known of its server, if it has just one.
    #[must_use]
    pub fn only_view(&self, now: Instant) -> Option<ServerView> {
        match self.servers.as_slice() {
            [only] => Some(only.view(now)),
            _ => None,
        }
    }

    /// Everything, for operators.
    #[must_use]
    pub fn snapshots(&self, now: Instant) -> Vec<ServerSnapshot> {
        let newest = self.history.lock().tracker.newest();
        let views: Vec<_> = self.servers.iter().map(|s| s.view(now)).collect();
        let primary = acting_primary(&views);
        let duties = (0..).map(|at| duty(&views, at, primary));
        self.servers.iter().zip(duties).map(|(s, duty)| s.snapshot(duty, newest, now)).collect()
    }

    /// The server that takes the writes.
    #[must_use]
    pub fn acting_primary(&self, now: Instant) -> Option<ServerIndex> {
        let views: Vec<_> = self.servers.iter().map(|s| s.view(now)).collect();
        acting_primary(&views).and_then(|at| views.get(at)).map(|v| v.index)
    }

    /// A session's read went to the primary because no replica has its writes yet: probe soon, so that it need not for long.
    pub fn hurry(&self) {
        self.hurry.notify_waiters();
    }

    /// Completes when [`ShardHealth::hurry`] is called: for the prober.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Patroni says what the servers are, in configured order; none: it says nothing of that one. That is never taken for the truth where a
    /// probe says otherwise. A role that is news has all probers look at once; a server that runs though it did not answer, or leads though
    /// another takes the writes, is looked at alone, and ever less often while that stays ([`Doubt`]).
    pub fn on_members(&self, members: &[Option<Member>], now: Instant) {
        let mut news = false;
        let mut leader = None;
        for (server, member) in self.servers.iter().zip(members) {
            news |= server.set_member(member.map(|member| member.role));
            // One that does not run is not looked for.
            if member.is_some_and(|member| member.serves && member.role == MemberRole::Leader) {
                leader = leader.or(Some(server.index()));
            }
        }
        let acting = self.acting_primary(now);
        for ((server, member), call) in self.servers.iter().zip(members).zip(&self.calls) {
            let serves = member.is_some_and(|member| member.serves);
            let index = Some(server.index());
            let is_in_dispute = leader.is_some() && leader != acting && (index == leader || index == acting);
            let differs = is_in_dispute || (serves && server.is_suspect());
            if call.doubt.lock().look((differs, serves, news), now, self.longest_doubt) {
                // Kept for a prober that is in the middle of a probe: that may have been answered before.
                call.told.notify_one();
            }
        }
    }

    /// Completes when the prober of server `index` is to look because of what Patroni says; never if there is no such server.
    pub async fn told(&self, index: ServerIndex) {
        match self.calls.get(usize::from(index.0)) {
            Some(call) => call.told.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Completes when a probe of one of the servers brought nothing: for who wakes the clients that wait for such a server.
    pub async fn silenced(&self) {
        self.silence.notified().await;
    }

    /// A probe of server `index` ended.
    pub fn on_probe(&self, index: ServerIndex, result: &ProbeResult, now: Instant) {
        let Some(server) = self.server(index) else { return };
        server.on_probe(result, now);
        if server.unanswered() > 0 {
            self.silence.notify_one();
        }
        self.fence(now);
        let Ok(seen) = result else { return };
        let is_source = self.acting_primary(now) == Some(index);
        let mut history = self.history.lock();
        match seen.position {
            Position::Primary { insert } => {
                if is_source {
                    history.claim(index, seen.timeline, seen.asked);
                    history.tracker.sample(seen.asked, insert);
                    self.sampled_at.store(self.offset(seen.asked), Ordering::Release);
                }
                server.update_covered(|_| None);
                server.set_left_behind(false);
            }
            Position::Replica { .. } => {
                server.set_lag(history.lag(seen));
                server.set_left_behind(history.has_left_behind(seen, server.followed()));
            }
        }
        // A sample of an idle primary moves every replica's time on; a replica's probe moves its own.
        for replica in self.servers.iter().filter(|s| s.discovered() == Some(Role::Replica)) {
            let comparable = history.is_of(replica.timeline());
            replica.update_covered(|replay| history.tracker.covered_until(replay).filter(|_| comparable));
            let newest = history.tracker.newest().filter(|_| comparable);
            replica.set_lag_bytes(replica.lsn().zip(newest).map(|(replay, newest)| replay.behind(newest)));
        }
        drop(history);
        if is_source {
            self.sampled.notify_waiters();
        }
        self.line.wake_first();
    }

    /// Finds out which servers are fenced; those who are with one are woken.
    fn fence(&self, now: Instant) {
        let views: Vec<_> = self.servers.iter().map(|s| s.view(now)).collect();
        let primary = acting_primary(&views);
        let fenced = (0..).map(|at| primary.is_some() && duty(&views, at, primary) == Duty::Fenced);
        let mut news = false;
        for (server, fenced) in self.servers.iter().zip(fenced) {
            news |= server.set_fenced(fenced) && fenced;
        }
        if news {
            self.silence.notify_one();
        }
    }
}

/// How long after a change of primaries a replica may stand still in the old history and still get reads.
const TIME_TO_FOLLOW: Duration = Duration::from_secs(15);

fn nanos(base: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(base).as_nanos()).unwrap_or(u64::MAX)
}

impl History {
    /// The samples to come are of this server on this timeline: others are worth nothing beside them, for positions of two
    /// histories cannot be compared.
    fn claim(&mut self, index: ServerIndex, timeline: Option<u32>, now: Instant) {
        let source = Some((index, timeline));
        if self.source != source {
            self.tracker.reset();
            self.moved |= self.source.is_some();
            (self.source, self.since) = (source, Some(now));
        }
    }

    /// Whether positions on `timeline` can be compared with the samples. A standby that received more of the old primary's
    /// WAL than the new one had is *ahead* by the numbers, in a history that is no longer true. (A prober without
    /// pg_monitor hears of a standby's new timeline only at its next restart point; until then the answer is a careful no. One that is
    /// told of no timeline at all is believed as long as there has been one history only.)
    fn is_of(&self, timeline: Option<u32>) -> bool {
        match (self.source, timeline) {
            (Some((_, Some(ours))), Some(theirs)) => ours == theirs,
            (Some((_, Some(_))), None) => !self.moved,
            (Some((_, None)) | None, _) => true,
        }
    }

    /// Whether a replica goes on in a history that the primary has left, or stands still in it: what it has replayed there may never have
    /// happened. One that is about to follow has [`TIME_TO_FOLLOW`] for it; and one that has received the primary's history (`followed`) stays in
    /// it while nobody sends it more, though it says so only after its next restart point.
    fn has_left_behind(&self, seen: &Observation, followed: u32) -> bool {
        let Position::Replica { streaming, receives, .. } = seen.position else { return false };
        let ours = self.source.and_then(|(_, timeline)| timeline);
        // One that is ahead follows a primary that has not been heard of yet; where no timeline is told, its lag has to do.
        if seen.timeline.zip(ours).is_none_or(|(theirs, ours)| theirs >= ours) {
            return false;
        }
        let age = self.since.map(|at| seen.asked.saturating_duration_since(at));
        let in_time = age.is_none_or(|age| age < TIME_TO_FOLLOW);
        let follows_old = receives.zip(ours).is_some_and(|(theirs, ours)| theirs < ours);
        let has_followed = ours.is_some_and(|ours| followed >= ours);
        follows_old || !(streaming || in_time || has_followed)
    }

    /// The lag that a replica reports, corrected by what is known of the primary.
    fn lag(&self, seen: &Observation) -> Option<Duration> {
        let Position::Replica { replay, lag, streaming, receives, .. } = seen.position else {
            return Some(Duration::ZERO);
        };
        let Some(replay) = replay else { return lag };
        if !self.is_of(seen.timeline) {
            // Left behind in the old history, as it seems: since the new one began at least.
            let age = self.since.map(|at| seen.asked.saturating_duration_since(at));
            let ours = self.source.and_then(|(_, timeline)| timeline);
            // It may receive from the old primary still, which a stale timeline alone does not say.
            let follows_old = receives.zip(ours).is_some_and(|(theirs, ours)| theirs < ours);
            return if streaming && !follows_old { lag } else { lag.max(age) };
        }
        let (lower, upper) = self.tracker.lag_bounds(replay, seen.asked);
        let lag = lag.unwrap_or(lower);
        Some(lag.clamp(lower, upper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::lsn::Lsn;
    use crate::health::server::tests::{config, settings};
    use crate::health::server::{ProbeFailure, Standing, Verdict};
    use crate::health::view::Duty;

    const SECOND: Duration = Duration::from_secs(1);

    fn shard() -> (ShardHealth, Instant) {
        let servers = vec![config(Role::Primary), config(Role::Replica), config(Role::Replica)];
        let shard = Shard { name: "default".to_owned(), servers, patroni: Vec::new() };
        let now = crate::clock::now();
        (ShardHealth::new(&shard, &settings(), now), now)
    }

    fn primary(asked: Instant, timeline: u32, insert: u64) -> ProbeResult {
        let position = Position::Primary { insert: Lsn(insert) };
        Ok(Observation { asked, round_trip: Duration::ZERO, timeline: Some(timeline), position })
    }

    fn replica(asked: Instant, replay: u64, lag: u64) -> ProbeResult {
        let lag = Some(SECOND * u32::try_from(lag).unwrap());
        let position = Position::Replica {
            replay: Some(Lsn(replay)),
            receive: Some(Lsn(replay)),
            lag,
            streaming: true,
            receives: None,
        };
        Ok(Observation { asked, round_trip: Duration::ZERO, timeline: Some(1), position })
    }

    fn covered(shard: &ShardHealth, index: u16, now: Instant) -> Option<Instant> {
        shard.server(ServerIndex(index)).unwrap().view(now).covered_until
    }

    #[test]
    fn replicas_cover_what_they_replayed() {
        let (s, t) = shard();
        s.on_probe(ServerIndex(0), &primary(t, 1, 100), t);
        s.on_probe(ServerIndex(1), &replica(t, 100, 0), t);
        s.on_probe(ServerIndex(2), &replica(t, 99, 0), t);
        assert_eq!((covered(&s, 1, t), covered(&s, 2, t)), (Some(t), None));
        // The primary stays idle: the replica's time moves on without another probe of it.
        let u = t + SECOND;
        s.on_probe(ServerIndex(0), &primary(u, 1, 100), u);
        assert_eq!((covered(&s, 1, u), covered(&s, 2, u)), (Some(u), None));
        // It writes: the replica keeps what it has.
        let v = u + SECOND;
        s.on_probe(ServerIndex(0), &primary(v, 1, 200), v);
        assert_eq!(covered(&s, 1, v), Some(u));
        let lag_bytes: Vec<_> = s.snapshots(v).iter().map(|s| s.lag_bytes).collect();
        assert_eq!(lag_bytes, [Some(0), Some(100), Some(101)]);
    }

    #[test]
    fn what_is_written_past_a_reload_is_known() {
        let (old, t) = shard();
        let (new, _) = shard();
        old.on_write(t + SECOND);
        // Tests' servers are all in one place.
        new.inherit(&old, t);
        assert_eq!(new.strong_since(), Some(t + SECOND));
        old.on_write(t + SECOND * 2);
        assert_eq!(new.strong_since(), Some(t + SECOND * 2));
        new.on_write(t + SECOND * 3);
        assert_eq!(old.strong_since(), Some(t + SECOND * 3));
    }

    #[test]
    fn who_lost_its_place_does_not_have_it_back_in_another_shard() {
        let (s, t) = shard();
        s.on_probe(ServerIndex(0), &primary(t, 1, 100), t);
        s.on_probe(ServerIndex(1), &primary(t, 2, 100), t);
        // The servers of the tests are all in one place.
        let one = |role| {
            let servers = vec![config(role), config(Role::Replica)];
            let shard = Shard { name: "default".to_owned(), servers, patroni: Vec::new() };
            ShardHealth::new(&shard, &settings(), t)
        };
        let next = one(Role::Primary);
        next.servers[0].inherit(&s.servers[0]);
        next.servers[1].inherit(&s.servers[1]);
        assert_eq!(next.acting_primary(t), Some(ServerIndex(1)));
        next.servers.iter().for_each(|server| server.set_probed(true));
        assert!(next.is_settled(), "they are known");
        // Of servers that are new, each must be heard or missed first.
        let new = one(Role::Primary);
        assert!(new.is_settled() && new.has_primary(t), "nobody probes them");
        new.servers.iter().for_each(|server| server.set_probed(true));
        new.on_probe(ServerIndex(0), &primary(t, 1, 100), t);
        assert!(!new.is_settled() && !new.has_primary(t) && !new.may_try_primary(t));
        new.on_probe(ServerIndex(1), &Err(ProbeFailure { verdict: Verdict::Silent, message: String::new() }), t);
        assert!(new.is_settled() && new.has_primary(t));
    }

    #[test]
    fn a_replica_without_a_receiver_is_seen_to_lag() {
        let (s, t) = shard();
        s.on_probe(ServerIndex(0), &primary(t, 1, 100), t);
        s.on_probe(ServerIndex(0), &primary(t + SECOND, 1, 200), t + SECOND);
        let later = t + SECOND * 9;
        // It has replayed all it received, and so believes to be up to date.
        s.on_probe(ServerIndex(1), &replica(later, 100, 0), later);
        assert_eq!(s.snapshots(later)[1].lag, Some(SECOND * 8));
        // The other has it all; that its last commit is an hour old is the primary's idleness.
        s.on_probe(ServerIndex(2), &replica(later, 200, 3600), later);
        assert_eq!(s.snapshots(later)[2].lag, Some(Duration::ZERO));
    }

    #[test]
    fn after_a_failover_the_new_primary_is_the_measure() {
        let (s, t) = shard();
        s.on_probe(ServerIndex(0), &primary(t, 1, 500), t);
        s.on_probe(ServerIndex(2), &replica(t, 500, 0), t);
        assert_eq!(covered(&s, 2, t), Some(t));
        let u = t + SECOND;
        s.on_probe(ServerIndex(0), &Err(ProbeFailure { verdict: Verdict::Down, message: String::new() }), u);
        assert_eq!(s.acting_primary(u), Some(ServerIndex(0)));
        s.on_probe(ServerIndex(1), &primary(u, 2, 400), u);
        assert_eq!(s.acting_primary(u), Some(ServerIndex(1)));
        assert_eq!(covered(&s, 2, u), None, "ahead of the new primary, but in another history");
        let mut followed = replica(u, 400, 0).unwrap();
        followed.timeline = Some(2);
        s.on_probe(ServerIndex(2), &Ok(followed), u);
        assert_eq!(covered(&s, 2, u), Some(u));
        // The old primary comes back on the old timeline: its positions are of no interest, and it gets no writes.
        let v = u + SECOND;
        s.on_probe(ServerIndex(0), &primary(v, 1, 900), v);
        assert_eq!(s.acting_primary(v), Some(ServerIndex(1)));
        assert_eq!(covered(&s, 2, v), Some(u));
        let duties: Vec<_> = s.snapshots(v).iter().map(|s| s.duty).collect();
        assert_eq!(duties, [Duty::Fenced, Duty::Primary, Duty::Replica]);
    }

    #[tokio::test]
    async fn the_probers_look_when_patroni_says_something_else() {
        use std::task::Poll;
        let servers = vec![config(Role::Primary), config(Role::Replica), config(Role::Replica)];
        let shard = Shard { name: "default".to_owned(), servers, patroni: Vec::new() };
        let t = crate::clock::now();
        let s = ShardHealth::new(&shard, &HealthSettings { probe_interval: SECOND * 60, ..settings() }, t);
        s.on_probe(ServerIndex(0), &primary(t, 1, 500), t);
        let (leader, replica) = (MemberRole::Leader, MemberRole::Replica);
        let member = |role| Some(Member { role, serves: true });
        let stopped = |role| Some(Member { role, serves: false });
        // Which servers are looked at.
        let looks = async |members: [Option<Member>; 3], at: Instant| {
            s.on_members(&members, at);
            let mut looked_at = Vec::new();
            for index in 0..3 {
                let mut told = Box::pin(s.told(ServerIndex(index)));
                if std::future::poll_fn(|cx| Poll::Ready(told.as_mut().poll(cx))).await.is_ready() {
                    looked_at.push(index);
                }
            }
            looked_at
        };
        assert!(looks([None; 3], t).await.is_empty(), "it says nothing, as before");
        let usual = [member(leader), member(replica), member(replica)];
        assert_eq!(looks(usual, t).await, [0, 1, 2], "it is there");
        assert!(looks(usual, t).await.is_empty(), "the same again");
        let other = [member(replica), member(leader), member(replica)];
        assert_eq!(looks(other, t).await, [0, 1, 2], "another leads, by its word alone");
        assert!(looks(other, t).await.is_empty());
        assert_eq!(looks(other, t + SECOND).await, [0, 1], "those whom it is about, after a while");
        assert_eq!(s.acting_primary(t), Some(ServerIndex(0)), "no server says so itself");
        let mut seen = 0;
        for after in 2..3600 {
            seen += looks(other, t + SECOND * after).await.len();
        }
        // In the end as often as the probes come anyway, of the two.
        assert!((100..150).contains(&seen), "{seen}");
        assert_eq!(looks(usual, t).await, [0, 1, 2]);
        let down = ProbeFailure { verdict: Verdict::Down, message: String::new() };
        s.on_probe(ServerIndex(2), &Err(down.clone()), t);
        assert_eq!(looks(usual, t).await, [2], "it serves, and did not answer");
        assert!(looks(usual, t).await.is_empty());
        assert_eq!(looks([None; 3], t).await, [0, 1, 2], "it is gone");
        assert_eq!(s.snapshots(t)[0].member, None);
        // A cluster whose leader is stopped and is to stay so.
        s.on_probe(ServerIndex(0), &Err(down), t);
        let paused = [member(replica), stopped(leader), None];
        assert_eq!(looks(paused, t).await, [0, 1, 2]);
        let paused = [stopped(replica), stopped(leader), None];
        for after in 0..100 {
            assert!(looks(paused, t + SECOND * after).await.is_empty());
        }
    }

    #[test]
    fn a_replica_left_in_the_old_history_lags_since_the_new_began() {
        let (s, t) = shard();
        s.on_probe(ServerIndex(0), &primary(t, 2, 400), t);
        let later = t + SECOND * 30;
        let Ok(mut lost) = replica(later, 500, 0) else { unreachable!() };
        let Position::Replica { streaming, .. } = &mut lost.position else { unreachable!() };
        *streaming = false;
        s.on_probe(ServerIndex(1), &Ok(lost.clone()), later);
        assert_eq!(s.snapshots(later)[1].lag, Some(SECOND * 30));
        assert_eq!(s.snapshots(later)[1].standing, Standing::Lagging, "whatever `max_lag` says");
        // It follows.
        lost.timeline = Some(2);
        s.on_probe(ServerIndex(1), &Ok(lost), later);
        assert_eq!(s.snapshots(later)[1].standing, Standing::Up);
        // So does one that receives from the old primary, and has all of that.
        let Ok(mut misled) = replica(later, 500, 0) else { unreachable!() };
        let Position::Replica { receives, .. } = &mut misled.position else { unreachable!() };
        *receives = Some(1);
        s.on_probe(ServerIndex(2), &Ok(misled), later);
        assert_eq!(s.snapshots(later)[2].lag, Some(SECOND * 30));
        assert_eq!(s.snapshots(later)[2].standing, Standing::Lagging);
    }

    #[test]
    fn a_replica_has_time_to_follow_a_new_primary() {
        let (s, t) = shard();
        s.on_probe(ServerIndex(0), &primary(t, 1, 500), t);
        let u = t + SECOND;
        s.on_probe(ServerIndex(0), &Err(ProbeFailure { verdict: Verdict::Down, message: String::new() }), u);
        s.on_probe(ServerIndex(1), &primary(u, 2, 400), u);
        let stands = |at: Instant| {
            let Ok(mut waits) = replica(at, 400, 0) else { unreachable!() };
            let Position::Replica { streaming, .. } = &mut waits.position else { unreachable!() };
            *streaming = false;
            s.on_probe(ServerIndex(2), &Ok(waits), at);
            s.snapshots(at)[2].standing
        };
        assert_eq!(stands(u + SECOND * 14), Standing::Up);
        assert_eq!(stands(u + SECOND * 16), Standing::Lagging);
        // Once it has followed, it may lose whom it follows.
        let Ok(mut follows) = replica(u + SECOND * 17, 400, 0) else { unreachable!() };
        follows.timeline = Some(2);
        let Position::Replica { receives, .. } = &mut follows.position else { unreachable!() };
        *receives = Some(2);
        s.on_probe(ServerIndex(2), &Ok(follows), u + SECOND * 17);
        assert_eq!(stands(u + SECOND * 18), Standing::Up);
    }

    #[test]
    fn a_replica_of_no_known_timeline_is_believed_while_there_is_one_history() {
        let (s, t) = shard();
        let Ok(mut silent) = replica(t, 500, 0) else { unreachable!() };
        silent.timeline = None;
        s.on_probe(ServerIndex(0), &primary(t, 1, 500), t);
        s.on_probe(ServerIndex(2), &Ok(silent.clone()), t);
        assert_eq!(covered(&s, 2, t), Some(t));
        let u = t + SECOND;
        s.on_probe(ServerIndex(0), &Err(ProbeFailure { verdict: Verdict::Down, message: String::new() }), u);
        s.on_probe(ServerIndex(1), &primary(u, 2, 400), u);
        s.on_probe(ServerIndex(2), &Ok(silent), u);
        assert_eq!(covered(&s, 2, u), None, "it may be ahead in a history that is no longer true");
    }
}
