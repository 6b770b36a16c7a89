//! The decision where a statement goes. Pure: the same request, views and random numbers give the same route.
//!
//! Writes go to the primary, whatever its breaker says: there is nowhere else to go. Reads go to a replica; the steps are
//! those of [`decide`]'s private `read`, tried in this order:
//!
//! 1. a replica in good health: it answers probes, its breaker is closed (or wants a trial), its lag is within `max_lag`, its
//!    weight is not 0, and it has the session's own writes;
//! 2. the primary, if it is in good health;
//! 3. a replica that is alive by all signs but lags, or has weight 0: late rows are better than none;
//! 4. any other replica; 5. the primary: both look dead, but then trying costs nothing.
//!
//! Servers already tried for the statement are left out of all steps. A replica that lacks the session's own writes is never
//! chosen: reading one's own writes is a promise, good health a preference. So are `strong` and `max_staleness`.
//!
//! Of the replicas in good health those in our own availability zone come first, if we have one. With `replica_fallback = "error"`
//! steps 2 to 5 are left out, but for a session whose own writes have not been replayed yet: that is nobody's fault.

use std::fmt;
use std::time::Instant;

use rand::Rng;

use crate::config::{Fallback, ReadBalance, Role};
use crate::error::{Error, Result, SqlState};
use crate::health::breaker::Admission;
use crate::health::lsn::WalPoint;
use crate::health::view::{Duty, ServerView, acting_primary, duty};
use crate::id::ServerIndex;
use crate::sql::facts::{Access, RouteHint};

use super::pick::{least, weighted};

/// What is to be routed: a statement, a pipeline up to Sync, or the start of a transaction block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The strongest access in it. A block that was not begun READ ONLY may write later on whatever its first statement is:
    /// for it the caller says [`Access::Write`].
    pub access: Access,
    /// What a hint comment, the session or the configuration asks for.
    pub hint: RouteHint,
    /// It opens with BEGIN READ ONLY. A first statement that counts as a write goes to the primary even so: a function that
    /// is not known to be harmless, an advisory lock and a temporary table all work there as they would without a proxy.
    pub begin_read_only: bool,
    /// Which of the replicas that are fit gets it.
    pub balance: ReadBalance,
    /// What a read gets that no replica is fit for.
    pub fallback: Fallback,
    /// Which writes a replica must have.
    pub fresh: Freshness,
    /// A number that rises with each request (`round_robin`).
    pub turn: u64,
}

/// What a replica must have for a read to go to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freshness {
    /// When the session's last write was acknowledged by its server (a time taken after the acknowledgement came).
    pub last_write: Option<Instant>,
    /// A point of the WAL that the session was told to be behind of.
    pub token: Option<WalPoint>,
    /// Every write of anybody that was acknowledged before then.
    pub since: Option<Instant>,
}

impl Freshness {
    /// Whether `server` has the session's own writes, and those that it was told of.
    fn own(&self, server: &ServerView) -> bool {
        self.last_write.is_none_or(|write| server.covers(write)) && self.token.is_none_or(|t| server.has_reached(t))
    }

    /// Whether `server` has what others wrote before.
    fn others(&self, server: &ServerView) -> bool {
        self.since.is_none_or(|since| server.covers(since))
    }
}

/// Why a statement went where it did: for EXPLAIN ROUTE, logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// To the primary: it writes, or may.
    Write,
    /// To the primary: it asks for what is the server's own.
    PrimarysOwn,
    /// To a replica: it only reads.
    Read,
    /// To a replica: it opens a READ ONLY transaction.
    ReadOnlyTransaction,
    /// To the primary: the hint says so.
    HintPrimary,
    /// To a replica: the hint says so.
    HintReplica,
    /// A read to the primary: the shard has no replica.
    NoReplica,
    /// A read to the primary: every replica is down, away or already tried.
    NoHealthyReplica,
    /// A read to the primary: the replicas that are up are further behind than `max_lag`.
    ReplicasLag,
    /// A read to the primary: no replica is known to have the session's own writes.
    OwnWritesNotReplayed,
    /// A read to the primary: no replica is known to have what others wrote (`strong`, `max_staleness`).
    TooStale,
    /// A read to a server that is not in good health, because none is.
    LastResort,
    /// To where the session already is. Never decided here: the caller asks only when there is a choice.
    SessionAffinity,
    /// To the primary: the text could not be parsed. Never decided here: the caller knows it from the facts.
    Unparsed,
}

impl Why {
    /// Every reason, for metrics that name them all.
    pub const ALL: [Self; 14] = [
        Self::Write,
        Self::PrimarysOwn,
        Self::Read,
        Self::ReadOnlyTransaction,
        Self::HintPrimary,
        Self::HintReplica,
        Self::NoReplica,
        Self::NoHealthyReplica,
        Self::ReplicasLag,
        Self::OwnWritesNotReplayed,
        Self::TooStale,
        Self::LastResort,
        Self::SessionAffinity,
        Self::Unparsed,
    ];

    /// A word for SHOW and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::PrimarysOwn => "primarys_own",
            Self::Read => "read",
            Self::ReadOnlyTransaction => "read_only_transaction",
            Self::HintPrimary => "hint_primary",
            Self::HintReplica => "hint_replica",
            Self::NoReplica => "no_replica",
            Self::NoHealthyReplica => "no_healthy_replica",
            Self::ReplicasLag => "replicas_lag",
            Self::OwnWritesNotReplayed => "own_writes_not_replayed",
            Self::TooStale => "too_stale",
            Self::LastResort => "last_resort",
            Self::SessionAffinity => "session_affinity",
            Self::Unparsed => "unparsed",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a statement goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The server.
    pub server: ServerIndex,
    /// As what it is used: the acting primary, or a replica.
    pub role: Role,
    /// Why.
    pub why: Why,
}

/// Decides where `request` goes among the servers of its shard. `excluded` are those already tried for it.
///
/// The chosen replica may be wanted for the one trial of its breaker: `ServerHealth::begin` takes the trial, and when it says
/// that another worker was faster, decide again with that server excluded.
///
/// # Errors
/// 08006 when no server is left to try: for a write when the primary is excluded.
pub fn decide(
    request: &Request,
    servers: &[ServerView],
    excluded: &[ServerIndex],
    rng: &mut impl Rng,
) -> Result<Route> {
    let primary = acting_primary(servers);
    let choice = Choice { request, servers, excluded, primary };
    match (request.hint, request.access) {
        (RouteHint::Primary, _) => choice.write(Why::HintPrimary),
        (RouteHint::Auto, Access::Write) => choice.write(Why::Write),
        (RouteHint::Auto, Access::Local) => choice.write(Why::PrimarysOwn),
        (RouteHint::Replica, _) => choice.read(Why::HintReplica, rng),
        (RouteHint::Auto, Access::Read | Access::Neutral) if request.begin_read_only => {
            choice.read(Why::ReadOnlyTransaction, rng)
        }
        (RouteHint::Auto, Access::Read | Access::Neutral) => choice.read(Why::Read, rng),
    }
}

/// How fit a replica is for the request, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitness {
    /// In good health.
    Good,
    /// Up, but it should get no reads: weight 0.
    Unwanted,
    /// Up, but too far behind.
    Lagging,
    /// It does not answer, or its breaker is open.
    Down,
    /// It is not known to have the session's writes (and is up: it will have them soon).
    LacksOwnWrites,
    /// It is not known to have what others wrote, which the read is to see.
    Stale,
    /// One of these, and down. Not to be chosen, and not why the read goes to the primary.
    Useless,
}

struct Choice<'a> {
    request: &'a Request,
    servers: &'a [ServerView],
    excluded: &'a [ServerIndex],
    primary: Option<usize>,
}

impl Choice<'_> {
    fn write(&self, why: Why) -> Result<Route> {
        let primary = self.primary().ok_or_else(|| {
            Error::server(SqlState::CONNECTION_FAILURE, "the primary server cannot be reached")
                .hint("SHOW REPLICAS on the console shows the state of every server.")
        })?;
        Ok(Route { server: primary.index, role: Role::Primary, why })
    }

    fn read(&self, why: Why, rng: &mut impl Rng) -> Result<Route> {
        let replica = |server, why| Route { server, role: Role::Replica, why };
        if let [only] = self.servers
            && let Some(primary) = self.primary()
            && is_up(primary)
            && self.request.fallback != Fallback::Error
        {
            // Most databases: there is nothing to choose.
            return Ok(Route { server: only.index, role: Role::Primary, why: Why::NoReplica });
        }
        if let Some(server) = self
            .pick(rng, |s| s.near && self.fitness(s) == Fitness::Good)
            .or_else(|| self.pick(rng, |s| self.fitness(s) == Fitness::Good))
        {
            return Ok(replica(server, why));
        }
        let primary = self.primary();
        if self.request.fallback == Fallback::Error {
            match self.why_no_replica() {
                Why::OwnWritesNotReplayed => {}
                why => return Err(no_replica(why)),
            }
        }
        if let Some(primary) = primary.filter(|p| is_up(p)) {
            return Ok(Route { server: primary.index, role: Role::Primary, why: self.why_no_replica() });
        }
        self.pick(rng, |s| matches!(self.fitness(s), Fitness::Unwanted | Fitness::Lagging))
            .or_else(|| self.pick(rng, |s| self.fitness(s) == Fitness::Down))
            .map(|server| replica(server, Why::LastResort))
            .or_else(|| primary.map(|p| Route { server: p.index, role: Role::Primary, why: Why::LastResort }))
            .ok_or_else(|| {
                Error::server(SqlState::CONNECTION_FAILURE, "no server can be reached for a read")
                    .hint("SHOW REPLICAS on the console shows the state of every server.")
            })
    }

    /// The acting primary, if it has not been tried.
    fn primary(&self) -> Option<&ServerView> {
        self.primary.and_then(|at| self.servers.get(at)).filter(|p| !self.excluded.contains(&p.index))
    }

    /// The replicas that have not been tried.
    fn replicas(&self) -> impl Iterator<Item = &ServerView> + Clone {
        self.servers.iter().enumerate().filter_map(|(at, server)| {
            let candidate =
                duty(self.servers, at, self.primary) == Duty::Replica && !self.excluded.contains(&server.index);
            candidate.then_some(server)
        })
    }

    /// Picks among the replicas that are `wanted`, as the request's balance says; evenly, where none has weight.
    fn pick<R: Rng>(&self, rng: &mut R, wanted: impl Fn(&ServerView) -> bool) -> Option<ServerIndex> {
        let fit = self.replicas().filter(|s| wanted(s));
        let mut all = fit.clone();
        if let (Some(only), None) = (all.next(), all.next()) {
            return Some(only.index);
        }
        let by_weight = |rng: &mut R, not: Option<ServerIndex>| {
            let others = fit.clone().filter(|s| Some(s.index) != not);
            weighted(others.map(|s| (s, s.effective_weight())), rng)
        };
        let picked = match self.request.balance {
            ReadBalance::WeightedRandom => by_weight(rng, None),
            ReadBalance::LeastInflight => {
                let weighty = fit.clone().filter(|s| s.effective_weight() > 0.0);
                least(weighty.map(|s| (s, (f64::from(s.in_flight) + 1.0) / s.effective_weight())), rng)
            }
            ReadBalance::PeakEwma => {
                let first = by_weight(rng, None);
                let second = by_weight(rng, first.map(|s| s.index));
                least(first.into_iter().chain(second).map(|s| (s, cost(s))), rng)
            }
            ReadBalance::RoundRobin => {
                let weighty = fit.clone().filter(|s| s.weight > 0.0);
                let count = weighty.clone().count() as u64;
                let turn = self.request.turn.checked_rem(count).and_then(|turn| usize::try_from(turn).ok());
                turn.and_then(|turn| weighty.clone().nth(turn))
            }
        };
        picked.map(|s| s.index).or_else(|| weighted(fit.map(|s| (s.index, 1.0)), rng))
    }

    fn fitness(&self, server: &ServerView) -> Fitness {
        let fresh = &self.request.fresh;
        let lacks = match (fresh.own(server), fresh.others(server)) {
            (false, _) => Some(Fitness::LacksOwnWrites),
            (true, false) => Some(Fitness::Stale),
            (true, true) => None,
        };
        match (lacks.is_none(), is_up(server)) {
            (false, false) => Fitness::Useless,
            (false, true) => lacks.unwrap_or(Fitness::Useless),
            (true, false) => Fitness::Down,
            (true, true) if server.lag_ratio > 1.0 => Fitness::Lagging,
            (true, true) if server.effective_weight() <= 0.0 => Fitness::Unwanted,
            (true, true) => Fitness::Good,
        }
    }

    fn why_no_replica(&self) -> Why {
        let any = |wanted| self.replicas().any(|s| self.fitness(s) == wanted);
        let none_at_all = !(0..self.servers.len()).any(|at| duty(self.servers, at, self.primary) == Duty::Replica);
        if none_at_all {
            Why::NoReplica
        } else if any(Fitness::LacksOwnWrites) {
            Why::OwnWritesNotReplayed
        } else if any(Fitness::Stale) {
            Why::TooStale
        } else if any(Fitness::Lagging) {
            Why::ReplicasLag
        } else {
            Why::NoHealthyReplica
        }
    }
}

/// `replica_fallback = "error"`: the read goes nowhere.
fn no_replica(why: Why) -> Error {
    let reason = match why {
        Why::NoReplica => "the database has none",
        Why::ReplicasLag => "those that are up are further behind than max_lag or max_lag_bytes",
        Why::TooStale => "none is known to have what others have written (consistency, max_staleness)",
        _ => "none is up",
    };
    Error::us(SqlState::CANNOT_CONNECT_NOW, format!("no replica is fit for the read: {reason}"))
        .hint("replica_fallback = \"primary\" lets the primary serve such reads; SHOW REPLICAS shows the state of every server.")
}

/// How long a new read may take on it: its response time for each read under way, and for the new one.
fn cost(server: &ServerView) -> f64 {
    // One that was never measured is worth a try.
    server.latency.unwrap_or_default().as_secs_f64() * (f64::from(server.in_flight) + 1.0)
}

/// Whether there is no sign that it does not serve.
fn is_up(server: &ServerView) -> bool {
    !server.suspect && server.admission != Admission::Refused
}

#[cfg(test)]
mod tests;
