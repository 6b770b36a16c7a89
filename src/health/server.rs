//! The health of one server, shared by all workers.
//!
//! What routing reads for every statement is in atomics; the breaker is behind a lock that is taken only while something is
//! held against the server. Readers may see two values of different age (a role from before, a lag from after a probe): each
//! is a snapshot of the recent past anyway, and none is combined with another in a way that has to be exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::{HealthSettings, ReadBalance, Role, Server};
use crate::id::ServerIndex;

use super::breaker::{Admission, Breaker, BreakerState, FailureKind, Settings};
use super::latency::{Latency, Rise};
use super::lsn::Lsn;
use super::members::MemberRole;
use super::view::{Duty, ServerView};

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// A time before the question was sent.
    pub asked: Instant,
    /// How long the answer took.
    pub round_trip: Duration,
    /// The timeline, where it can be known.
    pub timeline: Option<u32>,
    /// What the server is.
    pub position: Position,
}

/// What a server is, and where it stands in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// A primary.
    Primary {
        /// The end of the WAL, normalised ([`Lsn::behind_no_header`]).
        insert: Lsn,
    },
    /// A standby.
    Replica {
        /// What it has replayed; `None` when it has not begun.
        replay: Option<Lsn>,
        /// What it has received by streaming.
        receive: Option<Lsn>,
        /// How long ago the last replayed commit was made, or zero when all that was received is replayed.
        lag: Option<Duration>,
        /// Whether a WAL receiver is running.
        streaming: bool,
        /// The timeline of what it receives, where that may be seen.
        receives: Option<u32>,
    },
}

impl Position {
    /// The role that it implies.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::Primary { .. } => Role::Primary,
            Self::Replica { .. } => Role::Replica,
        }
    }
}

/// Why a probe brought nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// Whether that is held against the server.
    pub verdict: Verdict,
    /// What happened, for SHOW REPLICAS.
    pub message: String,
}

/// What a failed probe says about the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It does not serve: no connection, or it is starting or stopping.
    Down,
    /// Nothing came of it within the deadline, not even a refusal: it hangs, or the network swallows what is sent to it. Connections
    /// that are open may then wait for ever.
    Silent,
    /// It answered with a refusal (a wrong password, too many connections, no permission): it lives, and clients may well be
    /// served. Only what the probe would have found out is unknown.
    Refused,
}

/// The outcome of a probe.
pub type ProbeResult = Result<Observation, ProbeFailure>;

/// A server as operators see it: everything for SHOW REPLICAS and the metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSnapshot {
    /// Its place in the shard.
    pub index: ServerIndex,
    /// What it is configured to be.
    pub configured: Role,
    /// What it is used for, beside the others of its shard.
    pub duty: Duty,
    /// What it last said that it is.
    pub discovered: Option<Role>,
    /// What Patroni says that it is.
    pub member: Option<MemberRole>,
    /// The timeline it last reported.
    pub timeline: Option<u32>,
    /// How it stands.
    pub standing: Standing,
    /// The breaker's state.
    pub breaker: BreakerState,
    /// How long the breaker stays open unless probes close it earlier.
    pub open_for: Option<Duration>,
    /// It did not answer the last probe.
    pub suspect: bool,
    /// No connection could be made a moment ago.
    pub unreachable: bool,
    /// Whether it is probed at all.
    pub probed: bool,
    /// Time since the last probe that was answered.
    pub probe_age: Option<Duration>,
    /// Configured share of the reads.
    pub weight: f64,
    /// The share as it is now: 0 while it gets no reads. None where it is no replica.
    pub effective_weight: Option<f64>,
    /// Replay position of a replica, insert position of a primary.
    pub lsn: Option<Lsn>,
    /// How far a replica's replay is behind the primary's last known position, in bytes.
    pub lag_bytes: Option<u64>,
    /// How far it is behind in time, as the last probe found.
    pub lag: Option<Duration>,
    /// Whether a replica's WAL receiver is running.
    pub streaming: Option<bool>,
    /// Average response time.
    pub latency: Option<Duration>,
    /// Statements under way.
    pub in_flight: u32,
    /// Reads it has served.
    pub reads: u64,
    /// Failures that were held against it.
    pub failures: u64,
    /// The last of them, and how long ago.
    pub last_error: Option<(String, Duration)>,
}

/// How a server stands, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It gets what it is there for.
    Up,
    /// A replica further behind than `max_lag`, or in a history that the primary has left: it gets no reads.
    Lagging,
    /// It does not answer, or its breaker keeps traffic away.
    Down,
    /// It is or was to be a primary while another is: it gets nothing.
    Fenced,
    /// It is the primary by its configuration, and a standby by its own word: what writes waits.
    Standby,
    /// It has not been asked yet what it is.
    Unknown,
}

impl Standing {
    /// The word of SHOW and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Lagging => "lagging",
            Self::Down => "down",
            Self::Fenced => "fenced",
            Self::Standby => "standby",
            Self::Unknown => "unknown",
        }
    }

    fn of(duty: Duty, view: &ServerView) -> Self {
        match duty {
            Duty::Fenced => Self::Fenced,
            _ if view.suspect || view.admission == Admission::Refused => Self::Down,
            Duty::Unknown => Self::Unknown,
            Duty::Replica if view.lag_ratio > 1.0 => Self::Lagging,
            Duty::Primary if view.discovered == Some(Role::Replica) => Self::Standby,
            Duty::Primary | Duty::Replica => Self::Up,
        }
    }
}

/// What is behind the lock.
#[derive(Debug)]
struct Record {
    breaker: Breaker,
    last_error: Option<(String, Instant)>,
    last_probe: Option<Instant>,
    streaming: Option<bool>,
}

/// A failed attempt to connect says this long that the server cannot be reached. Where nothing probes it only traffic can tell that it
/// is back, and traffic must come again for that.
pub const UNREACHABLE: Duration = Duration::from_secs(20);

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(UNKNOWN - 1)
}

/// "Not known" of the atomics that hold times and positions.
const UNKNOWN: u64 = u64::MAX;

/// The health of one server.
#[derive(Debug)]
pub struct ServerHealth {
    index: ServerIndex,
    /// Where it is, for logs.
    address: String,
    configured: Role,
    weight: f64,
    max_lag: Duration,
    max_lag_bytes: u64,
    near: bool,
    /// The zero of all offsets.
    base: Instant,
    latency: Latency,
    in_flight: AtomicU32,
    reads: AtomicU64,
    failures: AtomicU64,
    /// 0: unknown, 1: primary, 2: replica.
    role: AtomicU8,
    /// What Patroni says that it is: a place in `MemberRole::ALL` and one; 0: nothing.
    member: AtomicU8,
    /// 0: unknown.
    timeline: AtomicU32,
    /// The newest timeline that it has been seen to receive; 0: none.
    followed: AtomicU32,
    /// It is in a history that the primary has left.
    left_behind: AtomicBool,
    lsn: AtomicU64,
    lag_nanos: AtomicU64,
    lag_bytes: AtomicU64,
    /// It is or was a primary, and another is now: those who are still with it must go.
    fenced: AtomicBool,
    /// Nanoseconds after `base`.
    covered_until: AtomicU64,
    /// When no connection could be made; nanoseconds after `base`, forgotten when one could.
    unreachable_at: AtomicU64,
    probed: AtomicBool,
    /// A probe of it has ended, in whatever way.
    heard: AtomicBool,
    suspect: AtomicBool,
    /// Probes in a row of which nothing came.
    unanswered: AtomicU32,
    /// The breaker is not pristine: it must be asked and told.
    attention: AtomicBool,
    record: Mutex<Record>,
}

impl ServerHealth {
    /// A server of which nothing bad is known. `base` is any time not after the first probe.
    #[must_use]
    pub fn new(index: ServerIndex, server: &Server, settings: &HealthSettings, base: Instant) -> Self {
        let breaker = Settings { failures: settings.breaker_failures, cooldown: settings.breaker_cooldown };
        Self {
            index,
            address: super::probe::address(server),
            configured: server.role,
            weight: server.weight,
            max_lag: settings.max_lag,
            max_lag_bytes: settings.max_lag_bytes.into(),
            near: settings.zone.is_none() || settings.zone == server.zone,
            base,
            latency: Latency::new(if settings.balance == ReadBalance::PeakEwma { Rise::Peak } else { Rise::Smooth }),
            in_flight: AtomicU32::new(0),
            reads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            role: AtomicU8::new(0),
            member: AtomicU8::new(0),
            timeline: AtomicU32::new(0),
            followed: AtomicU32::new(0),
            left_behind: AtomicBool::new(false),
            lsn: AtomicU64::new(UNKNOWN),
            lag_nanos: AtomicU64::new(UNKNOWN),
            lag_bytes: AtomicU64::new(UNKNOWN),
            fenced: AtomicBool::new(false),
            covered_until: AtomicU64::new(UNKNOWN),
            unreachable_at: AtomicU64::new(UNKNOWN),
            probed: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            unanswered: AtomicU32::new(0),
            attention: AtomicBool::new(false),
            record: Mutex::new(Record {
                breaker: Breaker::new(breaker),
                last_error: None,
                last_probe: None,
                streaming: None,
            }),
        }
    }

    /// Takes over what `known` has found out of the same server: what it is, not how it is. Only for what is probed: else nobody would
    /// find out that it is something else now.
    pub fn inherit(&self, known: &Self) {
        self.role.store(known.role.load(Ordering::Relaxed), Ordering::Relaxed);
        self.timeline.store(known.timeline.load(Ordering::Relaxed), Ordering::Relaxed);
        self.followed.store(known.followed.load(Ordering::Relaxed), Ordering::Relaxed);
        self.left_behind.store(known.left_behind.load(Ordering::Acquire), Ordering::Release);
        self.fenced.store(known.fenced.load(Ordering::Acquire), Ordering::Release);
        self.heard.store(known.heard.load(Ordering::Acquire), Ordering::Release);
    }

    /// Whether there is nothing to be waited for before it is believed to be what it is known as.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.is_probed() || self.heard.load(Ordering::Acquire)
    }

    /// Its place in the shard.
    #[must_use]
    pub fn index(&self) -> ServerIndex {
        self.index
    }

    /// Counts a statement (or transaction) sent to the server, until the guard is dropped. If the breaker waits for a trial,
    /// this is it. `None`: another worker took the trial in the meantime, or the breaker opened; choose again.
    #[must_use]
    pub fn begin(self: &Arc<Self>, now: Instant) -> Option<InFlight> {
        if !self.attention.load(Ordering::Relaxed) {
            return Some(InFlight::new(self, false));
        }
        let mut record = self.record.lock();
        match record.breaker.admission(now) {
            Admission::Free => Some(InFlight::new(self, false)),
            Admission::Trial => record.breaker.start_trial(now).ok().map(|()| InFlight::new(self, true)),
            Admission::Refused => None,
        }
    }

    /// The same whatever the breaker says: for the primary, and when nothing else is left.
    #[must_use]
    pub fn begin_anyway(self: &Arc<Self>, now: Instant) -> InFlight {
        self.begin(now).unwrap_or_else(|| InFlight::new(self, false))
    }

    /// A connection to the server could not be made, for a reason of the server's or the network's. Not for a full pool, a
    /// wrong password or 53300: see [`FailureKind::of_sqlstate`].
    pub fn on_connect_failure(&self, message: &str, now: Instant) {
        // The prober will soon say when it is back; until then it need not be tried again.
        if self.probed.load(Ordering::Relaxed) {
            self.suspect.store(true, Ordering::Relaxed);
        }
        self.unreachable_at.store(nanos(self.offset(now)), Ordering::Relaxed);
        self.fail(FailureKind::Connect, message, now);
    }

    /// A connection was made.
    pub fn on_connected(&self) {
        self.unreachable_at.store(UNKNOWN, Ordering::Relaxed);
    }

    /// Whether the last attempt to connect failed and is not long past ([`UNREACHABLE`]).
    #[must_use]
    pub fn is_unreachable(&self, now: Instant) -> bool {
        let at = self.unreachable_at.load(Ordering::Relaxed);
        at != UNKNOWN && nanos(self.offset(now)).saturating_sub(at) < nanos(UNREACHABLE)
    }

    /// A connection broke while it was in use or was found broken.
    pub fn on_io_error(&self, message: &str, now: Instant) {
        self.fail(FailureKind::Io, message, now);
    }

    /// The server ended a connection with 57P01 or 57P02.
    pub fn on_admin_shutdown(&self, message: &str, now: Instant) {
        self.fail(FailureKind::AdminShutdown, message, now);
    }

    /// The server answered a statement, with rows or with an SQL error, after `latency`.
    pub fn on_success(&self, latency: Duration, now: Instant) {
        self.latency.observe(latency, self.offset(now));
        // By a connection that it had: it is there, and whoever waits for it need not be careful.
        if self.unreachable_at.load(Ordering::Relaxed) != UNKNOWN {
            self.on_connected();
        }
        if self.suspect.load(Ordering::Relaxed) {
            self.suspect.store(false, Ordering::Relaxed);
            self.unanswered.store(0, Ordering::Release);
        }
        if self.attention.load(Ordering::Relaxed) {
            let mut record = self.record.lock();
            let before = record.breaker.state(now);
            record.breaker.on_success(now);
            self.tell(before, &record, now);
        }
    }

    /// Whether nothing is held against it.
    #[must_use]
    pub fn is_at_peace(&self) -> bool {
        !self.attention.load(Ordering::Relaxed) && !self.suspect.load(Ordering::Relaxed)
    }

    /// How many probes in a row, up to the last, brought nothing at all ([`Verdict::Silent`]).
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Acquire)
    }

    /// Whether a probe has been answered since `time`.
    #[must_use]
    pub fn answered_after(&self, time: Instant) -> bool {
        self.probed.load(Ordering::Relaxed) && self.record.lock().last_probe.is_some_and(|at| at > time)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it is asked at all how it is.
    #[must_use]
    pub fn is_probed(&self) -> bool {
        self.probed.load(Ordering::Relaxed)
    }

    /// Whether nothing speaks against sending it what only a primary does. That the prober was refused does not: whoever tries will be
    /// refused as soon, if at all.
    #[must_use]
    pub fn may_take_writes(&self, now: Instant) -> bool {
        self.unanswered() == 0 && self.discovered() != Some(Role::Replica) && !self.is_unreachable(now)
    }

    /// Whether another is the primary in its place.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        // Nobody would ever take it back where nobody looks.
        self.is_probed() && self.fenced.load(Ordering::Acquire)
    }

    /// Another is the primary in its place, or no longer. Whether that is news.
    pub fn set_fenced(&self, fenced: bool) -> bool {
        let news = self.fenced.swap(fenced, Ordering::AcqRel) != fenced;
        if news && fenced {
            tracing::warn!(server = self.address, "server is fenced: it claims to be the primary, and another is");
        }
        news
    }

    /// The timeline that it has been seen to receive last; 0: none.
    pub fn followed(&self) -> u32 {
        self.followed.load(Ordering::Relaxed)
    }

    /// Its history is not the primary's any more, or is again.
    pub fn set_left_behind(&self, left: bool) {
        if self.left_behind.swap(left, Ordering::AcqRel) == left {
            return;
        }
        if left {
            tracing::warn!(
                server = self.address,
                timeline = self.timeline(),
                "replica is left behind in a history that the primary has not: it gets no reads until it follows"
            );
        } else {
            tracing::info!(
                server = self.address,
                timeline = self.timeline(),
                "replica follows the primary's history again"
            );
        }
    }

    /// A connection that was to write found it in recovery (`standby`), or not.
    pub fn on_recovery(&self, standby: bool) {
        let known = self.discovered() == Some(Role::Replica);
        if standby && !known {
            tracing::warn!(server = self.address, "server was to take writes, and is a standby");
            self.role.store(2, Ordering::Relaxed);
        } else if !standby && known {
            // Nothing but the next probe says on which timeline.
            self.role.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a read that it served.
    pub fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// A prober starts or ends its work. Without one nothing is suspect and nothing is known.
    pub fn set_probed(&self, probed: bool) {
        self.probed.store(probed, Ordering::Relaxed);
        self.suspect.store(false, Ordering::Relaxed);
        self.unanswered.store(0, Ordering::Release);
        if !probed {
            self.left_behind.store(false, Ordering::Release);
            self.forget_position();
            self.set_lag(None);
            self.set_lag_bytes(None);
        }
    }

    /// A probe ended. The shard adds what needs the primary's position: see `ShardHealth::on_probe`, which calls this.
    pub fn on_probe(&self, result: &ProbeResult, now: Instant) {
        self.heard.store(true, Ordering::Release);
        match result {
            Ok(seen) => self.on_probe_answer(seen, now),
            Err(ProbeFailure { verdict: verdict @ (Verdict::Down | Verdict::Silent), message }) => {
                self.suspect.store(true, Ordering::Relaxed);
                if *verdict == Verdict::Silent {
                    self.unanswered.fetch_add(1, Ordering::AcqRel);
                } else {
                    self.unanswered.store(0, Ordering::Release);
                }
                self.fail(FailureKind::Probe, message, now);
            }
            Err(ProbeFailure { verdict: Verdict::Refused, message }) => {
                self.suspect.store(false, Ordering::Relaxed);
                self.unanswered.store(0, Ordering::Release);
                self.forget_position();
                self.set_lag(None);
                self.record.lock().last_error = Some((message.clone(), now));
            }
        }
    }

    fn on_probe_answer(&self, seen: &Observation, now: Instant) {
        self.latency.observe(seen.round_trip, self.offset(now));
        let (role, lsn, lag, streaming) = match seen.position {
            Position::Primary { insert } => (1, Some(insert), Some(Duration::ZERO), None),
            Position::Replica { replay, lag, streaming, .. } => (2, replay, lag, Some(streaming)),
        };
        self.role.store(role, Ordering::Relaxed);
        self.timeline.store(seen.timeline.unwrap_or(0), Ordering::Relaxed);
        match seen.position {
            Position::Primary { .. } => self.followed.store(0, Ordering::Relaxed),
            Position::Replica { receives: Some(timeline), .. } => self.followed.store(timeline, Ordering::Relaxed),
            Position::Replica { receives: None, .. } => {}
        }
        self.lsn.store(lsn.map_or(UNKNOWN, |l| l.0), Ordering::Relaxed);
        self.set_lag(lag);
        self.suspect.store(false, Ordering::Relaxed);
        self.unanswered.store(0, Ordering::Release);
        self.on_connected();
        let mut record = self.record.lock();
        record.last_probe = Some(now);
        record.streaming = streaming;
        let before = record.breaker.state(now);
        record.breaker.on_probe_success(now);
        self.tell(before, &record, now);
    }

    /// The lag as corrected by the shard; `None`: not known.
    pub fn set_lag(&self, lag: Option<Duration>) {
        let nanos = lag.map_or(UNKNOWN, |l| u64::try_from(l.as_nanos()).unwrap_or(UNKNOWN - 1).min(UNKNOWN - 1));
        self.lag_nanos.store(nanos, Ordering::Relaxed);
    }

    /// The lag in bytes, as the shard knows it; `None`: not known.
    pub fn set_lag_bytes(&self, lag: Option<u64>) {
        self.lag_bytes.store(lag.map_or(UNKNOWN, |bytes| bytes.min(UNKNOWN - 1)), Ordering::Relaxed);
    }

    /// Works out anew up to when it has every acknowledged write, from the position that it last reported. Under the lock, so
    /// that a failure that comes in between is not undone.
    pub fn update_covered(&self, covered_until: impl FnOnce(Lsn) -> Option<Instant>) {
        let _record = self.record.lock();
        self.set_covered_until(self.lsn().and_then(covered_until));
    }

    fn set_covered_until(&self, until: Option<Instant>) {
        let nanos =
            until.map_or(UNKNOWN, |u| u64::try_from(self.offset(u).as_nanos()).unwrap_or(UNKNOWN - 1).min(UNKNOWN - 1));
        self.covered_until.store(nanos, Ordering::Relaxed);
    }

    /// The position it last reported.
    #[must_use]
    pub fn lsn(&self) -> Option<Lsn> {
        known(self.lsn.load(Ordering::Relaxed)).map(Lsn)
    }

    /// The timeline it last reported.
    #[must_use]
    pub fn timeline(&self) -> Option<u32> {
        Some(self.timeline.load(Ordering::Relaxed)).filter(|t| *t != 0)
    }

    /// The role it last reported.
    #[must_use]
    pub fn discovered(&self) -> Option<Role> {
        match self.role.load(Ordering::Relaxed) {
            1 => Some(Role::Primary),
            2 => Some(Role::Replica),
            _ => None,
        }
    }

    /// What Patroni says that it is.
    #[must_use]
    pub fn member(&self) -> Option<MemberRole> {
        let place = usize::from(self.member.load(Ordering::Relaxed)).checked_sub(1)?;
        MemberRole::ALL.get(place).copied()
    }

    /// Patroni says that it is this; none: nothing. Whether that is news.
    pub fn set_member(&self, role: Option<MemberRole>) -> bool {
        let place = role.and_then(|role| MemberRole::ALL.iter().position(|known| *known == role));
        let place = place.and_then(|place| u8::try_from(place).ok()).map_or(0, |place| place.saturating_add(1));
        self.member.swap(place, Ordering::AcqRel) != place
    }

    /// Whether nothing came of the last probe.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// What routing needs to know.
    #[must_use]
    pub fn view(&self, now: Instant) -> ServerView {
        let (admission, ramp) = if self.attention.load(Ordering::Relaxed) {
            let record = self.record.lock();
            (record.breaker.admission(now), record.breaker.ramp(now))
        } else {
            (Admission::Free, 1.0)
        };
        ServerView {
            index: self.index,
            configured: self.configured,
            discovered: self.discovered(),
            timeline: self.timeline(),
            weight: self.weight,
            latency: self.latency.get(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            admission,
            suspect: self.suspect.load(Ordering::Relaxed),
            ramp,
            lag_ratio: self.lag_ratio(),
            covered_until: known(self.covered_until.load(Ordering::Relaxed))
                .and_then(|nanos| self.base.checked_add(Duration::from_nanos(nanos))),
            lsn: self.lsn(),
            member: self.member(),
            near: self.near,
        }
    }

    /// Everything, for operators. `duty` and the primary's position are the shard's to know.
    #[must_use]
    pub fn snapshot(&self, duty: Duty, primary: Option<Lsn>, now: Instant) -> ServerSnapshot {
        let view = self.view(now);
        let standing = Standing::of(duty, &view);
        let share = if standing == Standing::Up { view.effective_weight() } else { 0.0 };
        let unreachable = self.is_unreachable(now);
        // It is tried as before, so that it is noticed when it is back.
        let standing = if unreachable && standing != Standing::Fenced { Standing::Down } else { standing };
        let record = self.record.lock();
        ServerSnapshot {
            index: self.index,
            configured: self.configured,
            duty,
            discovered: view.discovered,
            member: view.member,
            timeline: view.timeline,
            standing,
            breaker: record.breaker.state(now),
            open_for: record.breaker.open_until(now).map(|until| until.saturating_duration_since(now)),
            suspect: view.suspect,
            unreachable,
            probed: self.probed.load(Ordering::Relaxed),
            probe_age: record.last_probe.map(|at| now.saturating_duration_since(at)),
            weight: self.weight,
            effective_weight: (duty == Duty::Replica).then_some(share),
            lsn: self.lsn(),
            lag_bytes: self.lsn().zip(primary).map(|(lsn, primary)| lsn.behind(primary)),
            lag: self.lag(),
            streaming: record.streaming,
            latency: view.latency,
            in_flight: view.in_flight,
            reads: self.reads.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            last_error: record.last_error.as_ref().map(|(m, at)| (m.clone(), now.saturating_duration_since(*at))),
        }
    }

    fn lag(&self) -> Option<Duration> {
        known(self.lag_nanos.load(Ordering::Relaxed)).map(Duration::from_nanos)
    }

    fn lag_ratio(&self) -> f64 {
        if self.left_behind.load(Ordering::Acquire) {
            return f64::INFINITY;
        }
        let unknown = if self.is_probed() { f64::INFINITY } else { 0.0 };
        let mut ratio: f64 = 0.0;
        if !self.max_lag.is_zero() {
            ratio = self.lag().map_or(unknown, |lag| lag.as_secs_f64() / self.max_lag.as_secs_f64());
        }
        if self.max_lag_bytes > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
            let bytes =
                known(self.lag_bytes.load(Ordering::Relaxed)).map(|bytes| bytes as f64 / self.max_lag_bytes as f64);
            ratio = ratio.max(bytes.unwrap_or(unknown));
        }
        ratio
    }

    fn fail(&self, kind: FailureKind, message: &str, now: Instant) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut record = self.record.lock();
        self.forget_position_locked();
        record.last_error = Some((message.to_owned(), now));
        let before = record.breaker.state(now);
        record.breaker.on_failure(kind, now, &mut rand::rng());
        self.tell(before, &record, now);
    }

    /// Logs what became of the breaker, and does what [`Self::pay_attention`] does.
    fn tell(&self, before: BreakerState, record: &Record, now: Instant) {
        let after = record.breaker.state(now);
        match (before, after) {
            (BreakerState::Closed | BreakerState::HalfOpen, BreakerState::Open) => {
                let error = record.last_error.as_ref().map_or("", |(message, _)| message);
                tracing::warn!(
                    server = self.address,
                    role = self.configured.as_str(),
                    error,
                    "server gets no more traffic: its breaker is open"
                );
            }
            (BreakerState::Open | BreakerState::HalfOpen, BreakerState::Closed) => {
                tracing::info!(
                    server = self.address,
                    role = self.configured.as_str(),
                    "server gets traffic again: its breaker is closed"
                );
            }
            _ => {}
        }
        self.pay_attention(record, now);
    }

    /// Called with the lock held, so that the flag follows the breaker in the order of its changes.
    fn pay_attention(&self, record: &Record, now: Instant) {
        self.attention.store(!record.breaker.is_pristine(now), Ordering::Relaxed);
    }

    /// The position that it last reported counts no more, until the next probe. The lag is left: it is a preference, no promise.
    ///
    /// So it is whenever the server may have crashed: a standby that restarts lets clients in as soon as it is consistent,
    /// which may be short of what it had replayed before. (Without a prober there is nothing to forget.)
    pub fn forget_position(&self) {
        let _record = self.record.lock();
        self.forget_position_locked();
    }

    fn forget_position_locked(&self) {
        self.lsn.store(UNKNOWN, Ordering::Relaxed);
        self.set_covered_until(None);
    }

    fn offset(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.base)
    }
}

fn known(value: u64) -> Option<u64> {
    Some(value).filter(|v| *v != UNKNOWN)
}

/// A statement under way on a server. Dropping it counts it out; if it was the trial of a half-open breaker and nothing was
/// reported, another may start.
#[derive(Debug)]
pub struct InFlight {
    server: Arc<ServerHealth>,
    trial: bool,
}

impl InFlight {
    fn new(server: &Arc<ServerHealth>, trial: bool) -> Self {
        server.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { server: Arc::clone(server), trial }
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Arc<ServerHealth> {
        &self.server
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.server.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.trial {
            self.server.record.lock().breaker.abandon_trial();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Host;

    const SECOND: Duration = Duration::from_secs(1);

    pub(crate) fn settings() -> HealthSettings {
        HealthSettings {
            probe_interval: SECOND,
            probe_timeout: SECOND * 2,
            breaker_failures: 5,
            breaker_cooldown: SECOND * 60,
            max_lag: Duration::ZERO,
            max_lag_bytes: 0,
            consistency: crate::config::Consistency::Session,
            max_staleness: Duration::ZERO,
            fallback: crate::config::Fallback::Primary,
            zone: None,
            failover_timeout: Duration::from_secs(30),
            patroni_interval: Duration::from_secs(1),
            balance: ReadBalance::WeightedRandom,
        }
    }

    pub(crate) fn config(role: Role) -> Server {
        Server { host: Host::Tcp("db".to_owned()), port: 5432, dbname: "app".to_owned(), role, weight: 1.0, zone: None }
    }

    fn health(settings: &HealthSettings) -> (Arc<ServerHealth>, Instant) {
        let now = crate::clock::now();
        (Arc::new(ServerHealth::new(ServerIndex(1), &config(Role::Replica), settings, now)), now)
    }

    fn answer(now: Instant, lag: Option<Duration>) -> ProbeResult {
        let position =
            Position::Replica { replay: Some(Lsn(5)), receive: Some(Lsn(5)), lag, streaming: true, receives: None };
        Ok(Observation { asked: now, round_trip: Duration::from_millis(1), timeline: Some(1), position })
    }

    fn down() -> ProbeResult {
        Err(ProbeFailure { verdict: Verdict::Down, message: "no answer".to_owned() })
    }

    #[test]
    fn in_flight_is_counted_by_guards() {
        let (h, now) = health(&settings());
        let (a, b) = (h.begin(now), h.begin(now));
        assert_eq!(h.view(now).in_flight, 2);
        drop(a);
        drop(b);
        assert_eq!(h.view(now).in_flight, 0);
    }

    #[test]
    fn failures_open_the_breaker_and_one_trial_is_given() {
        let (h, now) = health(&settings());
        for _ in 0..5 {
            h.on_io_error("broken pipe", now);
        }
        assert_eq!(h.view(now).admission, Admission::Refused);
        assert!(h.begin(now).is_none());
        drop(h.begin_anyway(now));
        let later = now + SECOND * 76;
        let trial = h.begin(later).unwrap();
        assert!(h.begin(later).is_none(), "one at a time");
        drop(trial);
        let trial = h.begin(later).unwrap();
        h.on_success(SECOND, later);
        drop(trial);
        assert_eq!(h.view(later).admission, Admission::Free);
        let seen = h.snapshot(Duty::Replica, None, later);
        assert_eq!((seen.breaker, seen.failures), (BreakerState::Closed, 5));
        assert_eq!(seen.last_error, Some(("broken pipe".to_owned(), SECOND * 76)));
        assert!(seen.effective_weight.is_some_and(|share| share < 0.2), "slow start");
        assert_eq!(seen.standing, Standing::Up);
        h.on_success(Duration::ZERO, later + SECOND * 10);
        assert!(!h.attention.load(Ordering::Relaxed), "the lock is left alone again");
    }

    #[test]
    fn a_missed_probe_makes_it_suspect_at_once_and_any_answer_clears_it() {
        let (h, now) = health(&settings());
        h.set_probed(true);
        h.on_probe(&down(), now);
        assert!(h.view(now).suspect);
        assert_eq!(h.view(now).admission, Admission::Free, "one failure opens no breaker");
        h.on_success(Duration::ZERO, now);
        assert!(!h.view(now).suspect);
        h.on_connect_failure("refused", now);
        assert!(h.view(now).suspect);
        h.on_probe(&answer(now, None), now);
        assert!(!h.view(now).suspect);
        h.on_connect_failure("refused", now);
        h.set_probed(false);
        h.on_connect_failure("refused", now);
        assert!(!h.view(now).suspect, "without a prober nobody would clear it");
    }

    #[test]
    fn whoever_is_answered_has_reached_it() {
        let (h, now) = health(&settings());
        h.on_connect_failure("too many open files", now);
        assert!(h.is_unreachable(now) && !h.may_take_writes(now));
        assert_eq!(h.snapshot(Duty::Primary, None, now).standing, Standing::Down);
        h.on_success(Duration::ZERO, now);
        assert!(!h.is_unreachable(now) && h.may_take_writes(now));
    }

    #[test]
    fn only_probes_of_which_nothing_came_in_a_row_are_silence() {
        let (h, now) = health(&settings());
        h.set_probed(true);
        let failed = |verdict| Err(ProbeFailure { verdict, message: String::new() });
        let silent = || h.on_probe(&failed(Verdict::Silent), now);
        let signs: [&dyn Fn(); 4] = [
            &|| h.on_probe(&answer(now, None), now),
            &|| h.on_probe(&failed(Verdict::Refused), now),
            &|| h.on_probe(&failed(Verdict::Down), now),
            &|| h.on_success(Duration::ZERO, now),
        ];
        for sign in signs {
            silent();
            silent();
            assert!(h.view(now).suspect);
            assert_eq!(h.unanswered(), 2);
            sign();
            assert_eq!(h.unanswered(), 0);
        }
    }

    #[test]
    fn after_any_failure_its_position_is_not_trusted() {
        // A standby that crashed and is back may show less than it did.
        let (h, now) = health(&settings());
        h.set_probed(true);
        let failures: [&dyn Fn(); 4] = [
            &|| h.on_io_error("reset", now),
            &|| h.on_admin_shutdown("57P02", now),
            &|| h.on_connect_failure("refused", now),
            &|| h.on_probe(&down(), now),
        ];
        for fail in failures {
            h.on_probe(&answer(now, None), now);
            h.update_covered(|_| Some(now));
            assert_eq!((h.view(now).covered_until, h.lsn()), (Some(now), Some(Lsn(5))));
            fail();
            assert_eq!((h.view(now).covered_until, h.lsn()), (None, None));
        }
    }

    #[test]
    fn a_refused_probe_is_no_failure_but_leaves_the_lag_unknown() {
        let (h, now) = health(&HealthSettings { max_lag: SECOND * 10, ..settings() });
        assert!(h.view(now).lag_ratio.abs() < 1e-9, "not probed: judged by traffic alone");
        h.set_probed(true);
        assert!(h.view(now).lag_ratio > 1.0, "not known yet");
        h.on_probe(&answer(now, Some(SECOND * 4)), now);
        assert!((h.view(now).lag_ratio - 0.4).abs() < 1e-9);
        h.update_covered(|_| Some(now + SECOND));
        assert_eq!(h.view(now).covered_until, Some(now + SECOND));
        for _ in 0..20 {
            h.on_probe(&Err(ProbeFailure { verdict: Verdict::Refused, message: "28P01".to_owned() }), now);
        }
        let view = h.view(now);
        assert_eq!((view.admission, view.suspect, view.covered_until), (Admission::Free, false, None));
        assert!(view.lag_ratio > 1.0);
        assert_eq!(h.snapshot(Duty::Replica, None, now).failures, 0);
    }
}
