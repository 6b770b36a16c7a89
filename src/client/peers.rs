//! Processes behind the same address carry out each other's cancel requests: a request comes on a connection of its own, which a
//! load balancer, or the kernel where they share a port, gives to any of them. The key says who gave it out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config::{Config, General, Peer};
use crate::error::{Error, SqlState};
use crate::id::PeerId;
use crate::metrics::snapshot::PeerRequests;
use crate::net::dns::Dns;
use crate::net::tls::Connector;
use crate::server::connection::Secret;
use crate::server::{Address, cancel};
use crate::wire::cancel_key;

use super::database::Live;
use super::shared::Shared;

/// The processes of `[peers]`.
#[derive(Debug)]
pub struct Peers {
    own: Option<PeerId>,
    /// All but ourselves; none while we have no number, for then our keys and theirs are alike.
    others: BTreeMap<PeerId, Arc<PeerPool>>,
}

/// The way to one peer.
#[derive(Debug)]
pub struct PeerPool {
    peer: Peer,
    size: u32,
    places: Semaphore,
    waiting: AtomicU32,
    connecting: AtomicU32,
    sent: AtomicU32,
}

/// What became of a request with a key that somebody else gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The peer has done with it.
    PassedOn,
    /// It was not done in time.
    TimedOut,
    /// The peer could not be connected to, or broke off.
    Unreachable,
    /// There is no such peer.
    UnknownPeer,
    /// It has been passed on too often.
    TooManyHops,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    const ALL: [Self; 5] = [Self::PassedOn, Self::TimedOut, Self::Unreachable, Self::UnknownPeer, Self::TooManyHops];

    /// The word of the metric.
    const fn as_str(self) -> &'static str {
        match self {
            Self::PassedOn => "passed_on",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::UnknownPeer => "unknown_peer",
            Self::TooManyHops => "too_many_hops",
        }
    }
}

/// How often requests with keys of others ended in which way, since the start.
#[derive(Debug, Default)]
pub struct Outcomes([AtomicU64; Outcome::ALL.len()]);

impl Outcomes {
    fn count(&self, outcome: Outcome) {
        if let Some(count) = self.0.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each way, also those that none ended in.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::ALL.iter().zip(&self.0).map(|(outcome, n)| (outcome.as_str(), n.load(Ordering::Relaxed)))
    }
}

/// Carries out a cancel request, or has the peer do it that gave out its key. Returns when it can hit nothing any more.
pub async fn cancel(
    shared: &Arc<Shared>,
    live: &Live,
    (pid, mut secret): (u32, Secret),
    addresses: Option<(SocketAddr, SocketAddr)>,
) {
    let _counted = Counted::new(&shared.cancelling);
    // A process before us may have had another number, or none; its keys are to reach it as it gave them out.
    let (as_it_came, limit) = (secret.clone(), time_limit(&live.config.general));
    if let Some(own) = live.peers.own {
        let giver = cancel_key::giver(pid);
        if giver != own {
            // One in [peers] is asked alone: those before us would pass the request on to it as well, and it would come twice.
            if !live.peers.others.contains_key(&giver) && shared.predecessors.cancel(pid, &as_it_came.0, limit).await {
                return;
            }
            let outcome = Box::pin(live.peers.pass_on(live, giver, pid, secret)).await;
            return shared.passed_on.count(outcome);
        }
        cancel_key::restore(&mut secret.0);
    }
    match shared.by_key(pid, &secret) {
        Some(target) => {
            let (_listed, sent) = shared.list_cancel(&target, addresses);
            target.cancel(&sent).await;
        }
        None => {
            shared.predecessors.cancel(pid, &as_it_came.0, limit).await;
        }
    }
}

impl Peers {
    /// Those of a configuration. A peer that is in `old` as it is now keeps its requests.
    #[must_use]
    pub fn new(config: &Config, old: Option<&Self>) -> Self {
        let own = config.general.peer();
        let pool = |(id, peer): (&PeerId, &Peer)| {
            let size = peer.pool_size.unwrap_or(config.general.default_pool_size);
            let known =
                old.and_then(|old| old.others.get(id)).filter(|known| known.peer == *peer && known.size == size);
            (*id, known.map_or_else(|| Arc::new(PeerPool::new(peer.clone(), size)), Arc::clone))
        };
        let others = config.peers.iter().filter(|(id, _)| own.is_some_and(|own| own != **id));
        Self { own, others: others.map(pool).collect() }
    }

    /// The requests for a peer; none for ourselves, and while we have no number.
    #[must_use]
    pub fn requests(&self, id: PeerId) -> Option<PeerRequests> {
        self.others.get(&id).map(|pool| pool.requests())
    }

    async fn pass_on(&self, live: &Live, to: PeerId, pid: u32, mut secret: Secret) -> Outcome {
        let Some(pool) = self.others.get(&to) else {
            tracing::info!(peer_id = %to, "a cancel request is dropped: its key is of a peer that is not in [peers]");
            return Outcome::UnknownPeer;
        };
        if !cancel_key::count_hop(&mut secret.0) {
            let why = "a cancel request is dropped: it has been passed on three times; is the peer_id of this peer in [peers] right?";
            tracing::warn!(peer_id = %to, host = %pool.peer.host, "{why}");
            return Outcome::TooManyHops;
        }
        let general = &live.config.general;
        let limit = time_limit(general);
        let connector = live.server_tls.get();
        let passed = tokio::time::timeout(limit, pool.pass_on(pid, &secret, general, (&connector, &live.dns))).await;
        let why = match passed {
            Ok(Ok(())) => return Outcome::PassedOn,
            Ok(Err(error)) => {
                tracing::warn!(peer_id = %to, %error, "a cancel request could not be passed on");
                return Outcome::Unreachable;
            }
            Err(_) => format!("not done within {} s (cancel_wait_timeout)", limit.as_secs_f64()),
        };
        tracing::warn!(peer_id = %to, host = %pool.peer.host, why, "a cancel request that was to be passed on is given up");
        Outcome::TimedOut
    }
}

/// How long a request may take, the wait for a place included.
fn time_limit(general: &General) -> Duration {
    let limit = general.cancel_wait_timeout;
    if limit.is_zero() { general.server_connect_timeout } else { limit }
}

impl PeerPool {
    fn new(peer: Peer, size: u32) -> Self {
        let places = Semaphore::new(usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS));
        let zero = || AtomicU32::new(0);
        Self { peer, size, places, waiting: zero(), connecting: zero(), sent: zero() }
    }

    fn requests(&self) -> PeerRequests {
        let of = |count: &AtomicU32| count.load(Ordering::Relaxed);
        PeerRequests { waiting: of(&self.waiting), connecting: of(&self.connecting), sent: of(&self.sent) }
    }

    /// Waits for a place, connects, and waits until the peer has done with the request.
    async fn pass_on(
        &self,
        pid: u32,
        secret: &Secret,
        general: &General,
        means: (&Connector, &Dns),
    ) -> Result<(), Error> {
        let (timeout, tcp) = (general.server_connect_timeout, &general.tcp);
        let waiting = Counted::new(&self.waiting);
        // It is never closed.
        let _place = self.places.acquire().await.map_err(|_| Error::us(SqlState::INTERNAL_ERROR, "no place"))?;
        let connecting = Counted::new(&self.connecting);
        drop(waiting);
        let mut stream = Err(Error::us(SqlState::INTERNAL_ERROR, "the peer has no host"));
        for host in self.peer.host.each() {
            stream = cancel::reach(Address { host, port: self.peer.port, at: None }, timeout, tcp, means).await;
            if stream.is_ok() {
                break;
            }
        }
        let stream = stream?;
        let _sent = Counted::new(&self.sent);
        drop(connecting);
        let broken = |error| Error::server(SqlState::CONNECTION_FAILURE, format!("the peer broke off: {error}"));
        cancel::send(stream, pid, secret, || ()).await.map_err(broken)
    }
}

/// Counts something for as long as it lives.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
