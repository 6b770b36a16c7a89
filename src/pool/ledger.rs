//! The ledger of a pool: the state of each of its server connections, who waits, and the limits. Pure; every change of state
//! goes through a method here, so that the limits are exact and the views are derived.
//!
//! ```text
//!              acquire (room)                 login_done / release
//!    (none) ────────────────▶ Login ─────────────┬──────────────▶ Idle
//!                               │                 │ (someone waits)  │ acquire
//!                  login_failed │                 ▼                  ▼
//!    (none) ◀───────────────────┴── discard ── Active ◀──────────────┘
//!                                     │           │ release, dirty          release, cancels under way
//!                                     ├── Resetting ◀──┤  └──────────▶ BeingCanceled ── cancel_done ──▶ (as release)
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::quota::Quota;
use crate::id::WorkerId;

/// A server connection's place in the ledger; never used again, so that word of one that is gone is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u64);

/// Someone in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// State of a server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotState {
    /// Connecting or logging in.
    Login,
    /// Free.
    Idle,
    /// With a client.
    Active,
    /// Given back while a cancel request for its last statement is still on its way.
    BeingCanceled,
    /// Being cleaned of what its last client left.
    Resetting,
    /// Being asked for its client whether it still answers.
    Testing,
}

#[derive(Debug)]
struct Slot {
    state: SlotState,
    worker: WorkerId,
    cancels: u32,
    since: Instant,
    created: Instant,
    /// Closed instead of becoming idle.
    condemned: bool,
    /// It is never lent: see [`super::standing`].
    standing: bool,
    /// Its client, who could keep it, is about to give it back to who waits.
    leaving: bool,
}

/// Limits of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at most.
    pub size: usize,
    /// As many more for clients that wait long: see [`Ledger::open_reserve`].
    pub reserve: usize,
    /// Whether the connection that rested longest is used first.
    pub round_robin: bool,
}

impl Limits {
    /// Connections at most, those of the reserve included.
    fn most(self) -> usize {
        self.size.saturating_add(self.reserve)
    }
}

/// Answer to [`Ledger::acquire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquire {
    /// This connection is yours.
    Reuse(SlotId),
    /// Wait your turn; and a connection is to be made, if one is named.
    Queued(Option<SlotId>),
    /// The last login failed not long ago and there is no other connection: fail at once with that error.
    Refused,
}

/// Answer to [`Ledger::acquire_this`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum This {
    /// It is yours.
    Yours,
    /// It is somebody else's now, or nothing is lent.
    Later,
    /// It is no more.
    Gone,
}

/// Whether somebody needs a connection that its client has but does not use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nobody.
    No,
    /// Somebody does if the logins that are under way take long.
    Perhaps,
    /// Yes.
    Yes,
}

/// What becomes of a connection that was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freed {
    /// It is this waiter's now.
    Give(WaiterId),
    /// It rests.
    Idle,
    /// It rests when the cancel requests for it are done.
    Wait,
    /// It is to be closed; the slot is gone, and a new connection is to be made if one is named.
    Close(Option<SlotId>),
}

/// Numbers for SHOW POOLS and the gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections in [`SlotState::Login`].
    pub login: usize,
    /// Connections in [`SlotState::Idle`].
    pub idle: usize,
    /// Connections in [`SlotState::Active`].
    pub active: usize,
    /// Active connections whose statement is being cancelled.
    pub active_cancel: usize,
    /// Connections in [`SlotState::BeingCanceled`].
    pub being_canceled: usize,
    /// Connections in [`SlotState::Resetting`].
    pub resetting: usize,
    /// Connections in [`SlotState::Testing`].
    pub testing: usize,
    /// Active ones that stand beside those that are lent: see [`super::standing`].
    pub standing: usize,
    /// Those of the idle ones that would be tested before they are lent.
    pub rested: usize,
    /// Clients that wait.
    pub waiting: usize,
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    slots: FxHashMap<SlotId, Slot>,
    next: u64,
    /// Idle slots, used last at the back.
    idle: VecDeque<SlotId>,
    waiters: VecDeque<Waiter>,
    /// How often in a row the first of them was passed over.
    passed: u8,
    paused: bool,
    retry_at: Option<Instant>,
    /// Logins that failed one after the other, each after the wait for the one before.
    failures: u32,
    /// What it shares with other ledgers.
    quotas: Vec<Arc<Quota>>,
    /// Which of them counts the connections of this pool together with those of the pools whose place it has taken.
    size_at: Option<usize>,
    /// Which of them has nothing left for someone in the queue; that one knows it.
    starved: Option<usize>,
}

/// A login that takes longer is not waited for where there is a connection that is not used.
pub const PROMPT: Duration = Duration::from_millis(200);

/// At most so many places of the queue are looked through for somebody of the connection's own worker.
const NEAR: usize = 8;
/// So often in a row.
const PATIENCE: u8 = 4;

/// A client in the queue.
#[derive(Debug, Clone, Copy)]
struct Waiter {
    id: WaiterId,
    worker: WorkerId,
    since: Instant,
}

/// How long after a failed login the next is tried: twice as long each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Backoff {
    fn after(self, failures: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(self.most)
    }
}

impl Ledger {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: FxHashMap::default(),
            next: 0,
            idle: VecDeque::new(),
            waiters: VecDeque::new(),
            passed: 0,
            paused: false,
            retry_at: None,
            failures: 0,
            quotas: Vec::new(),
            size_at: None,
            starved: None,
        }
    }

    /// An empty pool whose connections count for these as well. `size_at`: the one that it shares with the pools whose place it takes,
    /// so that the size is a limit of all of them.
    #[must_use]
    pub fn sharing(limits: Limits, quotas: Vec<Arc<Quota>>, size_at: Option<usize>) -> Self {
        let mut ledger = Self::new(limits);
        (ledger.quotas, ledger.size_at) = (quotas, size_at);
        ledger.set_limits(limits);
        ledger
    }

    // Getters.

    /// The numbers now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut c = Counts { waiting: self.waiters.len(), ..Counts::default() };
        for slot in self.slots.values() {
            c.standing += usize::from(slot.standing);
            *match slot.state {
                SlotState::Login => &mut c.login,
                SlotState::Idle => &mut c.idle,
                SlotState::Active if slot.cancels > 0 => &mut c.active_cancel,
                SlotState::Active => &mut c.active,
                SlotState::BeingCanceled => &mut c.being_canceled,
                SlotState::Resetting => &mut c.resetting,
                SlotState::Testing => &mut c.testing,
            } += 1;
        }
        c
    }

    /// Idle connections that have rested for `after` or longer.
    #[must_use]
    pub fn rested(&self, after: Duration, now: Instant) -> usize {
        let rested = |slot: &&SlotId| {
            self.slots.get(slot).is_some_and(|slot| now.saturating_duration_since(slot.since) >= after)
        };
        self.idle.iter().filter(rested).count()
    }

    /// State of a slot and since when.
    #[must_use]
    pub fn state(&self, slot: SlotId) -> Option<(SlotState, Instant)> {
        self.slots.get(&slot).map(|s| (s.state, s.since))
    }

    /// Every slot, its state and since when.
    pub fn slots(&self) -> impl Iterator<Item = (SlotId, SlotState, Instant)> {
        self.slots.iter().map(|(id, slot)| (*id, slot.state, slot.since))
    }

    /// Whether the connection is to be closed when it is given back.
    #[must_use]
    pub fn is_condemned(&self, slot: SlotId) -> bool {
        self.slots.get(&slot).is_some_and(|s| s.condemned)
    }

    /// Since when the first in the queue has waited.
    #[must_use]
    pub fn oldest_wait(&self) -> Option<Instant> {
        self.waiters.front().map(|waiter| waiter.since)
    }

    /// Connections of any state.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Which of the quotas has nothing left for someone in the queue.
    #[must_use]
    pub fn starved_of(&self) -> Option<usize> {
        self.starved
    }

    /// Since when the connection has rested that has rested longest.
    #[must_use]
    pub fn rests_since(&self) -> Option<Instant> {
        self.idle.iter().filter_map(|slot| self.slots.get(slot)).map(|slot| slot.since).min()
    }

    /// Whether nothing is handed out.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    // Handlers.

    /// A client of `worker` wants a connection.
    pub fn acquire(&mut self, waiter: WaiterId, worker: WorkerId, now: Instant) -> Acquire {
        if let Some(slot) = self.acquire_at_once(worker, now) {
            return Acquire::Reuse(slot);
        }
        if !self.paused && self.retry_at.is_some_and(|at| now < at) && !self.has_live() {
            return Acquire::Refused;
        }
        self.waiters.push_back(Waiter { id: waiter, worker, since: now });
        Acquire::Queued(self.dial_if_needed(worker, now))
    }

    /// The same for a client that would not wait: nothing changes if it would have to.
    pub fn acquire_at_once(&mut self, worker: WorkerId, now: Instant) -> Option<SlotId> {
        if self.paused || !self.waiters.is_empty() {
            return None;
        }
        let slot = self.take_idle(worker)?;
        self.set(slot, SlotState::Active, now);
        Some(slot)
    }

    /// The same for a client that wants this connection and no other.
    pub fn acquire_this(&mut self, slot: SlotId, now: Instant) -> This {
        match self.slots.get(&slot).map(|slot| slot.state) {
            None => return This::Gone,
            Some(SlotState::Idle) if !self.paused => {}
            Some(_) => return This::Later,
        }
        self.idle.retain(|idle| *idle != slot);
        self.set(slot, SlotState::Active, now);
        This::Yours
    }

    /// Whether somebody would be better off if this connection, which does nothing, were given back. Who waits for one that is being made, or
    /// about to be given back, would not.
    #[must_use]
    pub fn wants_back(&self, slot: SlotId, now: Instant) -> Wanted {
        if self.paused
            || self.slots.len() > self.limits.most()
            || self.is_condemned(slot)
            || self.quotas.iter().any(|quota| quota.is_short())
        {
            return Wanted::Yes;
        }
        if self.waiters.is_empty() {
            return Wanted::No;
        }
        let mut coming = self.slots.values().filter(|slot| slot.leaving).count();
        if self.waiters.len() <= coming {
            return Wanted::No;
        }
        let logins = self.slots.values().filter(|slot| slot.state == SlotState::Login);
        coming += logins.filter(|slot| now.saturating_duration_since(slot.since) < PROMPT).count();
        if self.waiters.len() <= coming { Wanted::Perhaps } else { Wanted::Yes }
    }

    /// The client of this connection, who does nothing with it, gives it back if somebody needs it; whether somebody does.
    pub fn gives_way(&mut self, slot: SlotId, now: Instant) -> bool {
        let wanted = self.wants_back(slot, now) == Wanted::Yes;
        if let Some(slot) = self.slots.get_mut(&slot).filter(|_| wanted) {
            slot.leaving = true;
        }
        wanted
    }

    /// A connection that [`Ledger::acquire_at_once`] has just given was not wanted: it is the next again.
    pub fn put_back(&mut self, slot: SlotId, now: Instant) {
        self.set(slot, SlotState::Idle, now);
        if self.limits.round_robin {
            self.idle.push_front(slot);
        } else {
            self.idle.push_back(slot);
        }
    }

    /// A client gives its connection back, clean. True if nothing comes of it but that the connection rests; else nothing has changed, and
    /// [`Ledger::release`] says what comes of it.
    pub fn rest(&mut self, slot: SlotId, now: Instant) -> bool {
        let fits = self.waiters.is_empty() && self.slots.len() <= self.limits.most();
        if !fits || self.quotas.iter().any(|quota| quota.is_short()) {
            return false;
        }
        let Some(known) = self.slots.get_mut(&slot).filter(|known| !known.condemned && known.cancels == 0) else {
            return false;
        };
        (known.state, known.since) = (SlotState::Idle, now);
        self.idle.push_back(slot);
        true
    }

    /// A waiter has gone. False if it was not in the queue: a connection is on its way to it, or was.
    pub fn cancel_wait(&mut self, waiter: WaiterId) -> bool {
        let before = self.waiters.len();
        self.waiters.retain(|w| w.id != waiter);
        self.sate();
        self.waiters.len() < before
    }

    /// A login succeeded.
    pub fn login_done(&mut self, slot: SlotId, now: Instant) -> Freed {
        self.retry_now();
        self.freed(slot, now)
    }

    /// The server is known to be back: the wait after failed logins is over.
    pub fn retry_now(&mut self) {
        self.retry_at = None;
        self.failures = 0;
    }

    /// When the next login may be tried, after one has failed.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// A login failed: the slot is gone, no login is tried for a while. Whoever waits with nothing else to wait for is returned,
    /// to be told.
    pub fn login_failed(&mut self, slot: SlotId, backoff: Backoff, now: Instant) -> Vec<WaiterId> {
        self.remove(slot);
        // Of logins that were under way together only one counts.
        if self.retry_at.is_none_or(|at| now >= at) {
            self.failures = self.failures.saturating_add(1);
            self.retry_at = now.checked_add(backoff.after(self.failures));
        }
        // Told even if the next login may be tried at once: else they would wait on, and never learn why.
        if self.paused || self.has_live() { Vec::new() } else { self.take_waiters() }
    }

    /// Takes out who waits with nothing to wait for, to be told: there is no connection, and none can be made for a while.
    pub fn strand(&mut self, now: Instant) -> Vec<WaiterId> {
        if self.paused || self.has_live() || self.retry_at.is_none_or(|at| now >= at) {
            return Vec::new();
        }
        self.take_waiters()
    }

    fn take_waiters(&mut self) -> Vec<WaiterId> {
        let all = self.waiters.drain(..).map(|w| w.id).collect();
        self.sate();
        all
    }

    /// A client gives its connection back, clean.
    pub fn release(&mut self, slot: SlotId, now: Instant) -> Freed {
        if self.slots.get(&slot).is_some_and(|s| s.cancels > 0) {
            self.set(slot, SlotState::BeingCanceled, now);
            return Freed::Wait;
        }
        self.freed(slot, now)
    }

    /// The connection is being cleaned; [`Ledger::release`] or [`Ledger::discard`] follows.
    pub fn resetting(&mut self, slot: SlotId, now: Instant) {
        self.set(slot, SlotState::Resetting, now);
    }

    /// The connection is closed. A new one is to be made if one is named.
    pub fn discard(&mut self, slot: SlotId, now: Instant) -> Option<SlotId> {
        let worker = self.slots.get(&slot).map_or(WorkerId(0), |s| s.worker);
        self.remove(slot);
        self.dial_if_needed(worker, now)
    }

    /// The connection of a client is asked whether it still answers, or no longer: nothing of the client's runs on it meanwhile.
    pub fn testing(&mut self, slot: SlotId, under_way: bool, now: Instant) {
        self.set(slot, if under_way { SlotState::Testing } else { SlotState::Active }, now);
    }

    /// A cancel request for the statement of an active connection sets out. False if the connection is no longer with a client.
    pub fn cancel_begins(&mut self, slot: SlotId) -> bool {
        match self.slots.get_mut(&slot) {
            Some(s) if s.state == SlotState::Active => {
                s.cancels += 1;
                true
            }
            _ => false,
        }
    }

    /// The cancel request is over. If the connection waited for it alone, says what becomes of it.
    pub fn cancel_done(&mut self, slot: SlotId, now: Instant) -> Option<Freed> {
        let s = self.slots.get_mut(&slot)?;
        s.cancels = s.cancels.saturating_sub(1);
        (s.state == SlotState::BeingCanceled && s.cancels == 0).then(|| self.freed(slot, now))
    }

    /// A connection moves to another worker.
    pub fn moved(&mut self, slot: SlotId, worker: WorkerId) {
        if let Some(s) = self.slots.get_mut(&slot) {
            s.worker = worker;
        }
    }

    /// Reserves a slot to keep the pool warm, if there are fewer than `min` connections and a login may be tried.
    pub fn warm(&mut self, min: usize, worker: WorkerId, now: Instant) -> Option<SlotId> {
        let most = self.limits.size;
        (self.slots.len() < min.min(most) && self.may_dial(now)).then(|| self.open(most, worker, now)).flatten()
    }

    /// A slot for someone in the queue whom nobody dials for: called now and then, after a failed login was waited out.
    pub fn dial_overdue(&mut self, worker: WorkerId, now: Instant) -> Option<SlotId> {
        self.dial_if_needed(worker, now)
    }

    /// A slot beyond the size, from the reserve, for someone who has waited for `after` (zero: never). To be called now and then;
    /// once it is there, a connection of the reserve is like any other.
    pub fn open_reserve(&mut self, after: Duration, worker: WorkerId, now: Instant) -> Option<SlotId> {
        if after.is_zero() {
            return None;
        }
        let overdue = self.waiters.iter().filter(|w| now.saturating_duration_since(w.since) >= after).count();
        let most = self.limits.most();
        (self.dialing() < overdue && self.slots.len() < most && self.may_dial(now))
            .then(|| self.open(most, worker, now))
            .flatten()
    }

    /// Opens a slot for a connection that is never lent. None: there are as many connections as there may be.
    pub fn stand(&mut self, worker: WorkerId, now: Instant) -> Option<SlotId> {
        let most = self.limits.size;
        let slot = (self.slots.len() < most).then(|| self.open(most, worker, now)).flatten()?;
        self.set(slot, SlotState::Active, now);
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.standing = true;
        }
        Some(slot)
    }

    /// Takes out the connection that has rested longest, to be closed.
    pub fn take_resting(&mut self) -> Option<SlotId> {
        let resting = self.idle.iter().filter_map(|id| Some((self.slots.get(id)?.since, *id)));
        let (_, slot) = resting.min()?;
        self.remove(slot);
        Some(slot)
    }

    /// Takes idle connections out that have rested or lived too long (zero: no limit), that are above the limits, or all that are
    /// condemned. Rest alone leaves `keep` of all there are.
    pub fn expire(&mut self, idle: Duration, lifetime: Duration, keep: usize, now: Instant) -> Vec<SlotId> {
        let over = |since: Instant, limit: Duration| !limit.is_zero() && now.saturating_duration_since(since) > limit;
        let (mut left, most) = (self.slots.len(), self.limits.most());
        let old: Vec<_> = self
            .idle
            .iter()
            .copied()
            .filter(|s| {
                let Some(s) = self.slots.get(s) else { return false };
                let worn = s.condemned || over(s.created, lifetime);
                let goes = worn || left > most || (left > keep && over(s.since, idle));
                left -= usize::from(goes);
                goes
            })
            .collect();
        for slot in &old {
            self.remove(*slot);
        }
        old
    }

    /// This connection is closed when it is given back.
    pub fn condemn(&mut self, slot: SlotId) {
        if let Some(s) = self.slots.get_mut(&slot) {
            s.condemned = true;
        }
    }

    /// Every connection there is now is closed when it is given back. Those that stand never are: they close with their clients.
    pub fn condemn_all(&mut self) {
        for slot in self.slots.values_mut().filter(|slot| !slot.standing) {
            slot.condemned = true;
        }
    }

    /// Whether the connection outlived `lifetime` or is condemned: it is then closed rather than handed on.
    #[must_use]
    pub fn is_worn(&self, slot: SlotId, lifetime: Duration, now: Instant) -> bool {
        self.slots.get(&slot).is_some_and(|s| {
            s.condemned || (!lifetime.is_zero() && now.saturating_duration_since(s.created) > lifetime)
        })
    }

    /// Nothing is handed out until [`Ledger::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Handing out goes on. Returns who gets which idle connection, and the slots to dial.
    pub fn resume(&mut self, now: Instant) -> (Vec<(WaiterId, SlotId)>, Vec<SlotId>) {
        self.paused = false;
        let mut given = Vec::new();
        while !self.waiters.is_empty()
            && let Some(slot) = self.take_idle(WorkerId(0))
            && let Some(waiter) = self.next_waiter(slot)
        {
            self.set(slot, SlotState::Active, now);
            given.push((waiter, slot));
        }
        self.sate();
        let dials = std::iter::from_fn(|| self.dial_if_needed(WorkerId(0), now)).collect();
        (given, dials)
    }

    /// New limits; connections above them are closed as they are given back, or by [`Ledger::expire`].
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        if let Some(quota) = self.size_at.and_then(|at| self.quotas.get(at)) {
            quota.set_most(limits.most());
        }
    }

    fn freed(&mut self, slot: SlotId, now: Instant) -> Freed {
        let condemned = self.slots.get(&slot).is_none_or(|s| s.condemned);
        if condemned || self.slots.len() > self.limits.most() {
            return Freed::Close(self.discard(slot, now));
        }
        if !self.paused
            && let Some(waiter) = self.next_waiter(slot)
        {
            self.set(slot, SlotState::Active, now);
            self.sate();
            return Freed::Give(waiter);
        }
        if self.quotas.iter().any(|quota| quota.is_short()) {
            self.remove(slot);
            return Freed::Close(None);
        }
        self.set(slot, SlotState::Idle, now);
        self.idle.push_back(slot);
        Freed::Idle
    }

    /// Who of the queue gets the connection, and leaves it. To go to another worker costs a connection its place with the reactor of its own, so
    /// one of the first [`NEAR`] goes before the first if that is of another worker and this is not, [`PATIENCE`] times in a row at most: what
    /// somebody may wait longer by that is bounded. Only as many of them are looked at as there are connections: these would run at once anyway,
    /// and with one connection all is done in the order in which it came.
    fn next_waiter(&mut self, slot: SlotId) -> Option<WaiterId> {
        let worker = self.slots.get(&slot).map(|slot| slot.worker);
        let near = self.slots.len().min(NEAR);
        let own = self.waiters.iter().take(near).position(|waiter| Some(waiter.worker) == worker);
        let at = own.filter(|_| self.passed < PATIENCE).unwrap_or(0);
        self.passed = if at == 0 { 0 } else { self.passed.saturating_add(1) };
        self.waiters.remove(at).map(|waiter| waiter.id)
    }

    /// The idle connection used last on `worker`, or the one used last on any; with round robin the one that rested longest.
    fn take_idle(&mut self, worker: WorkerId) -> Option<SlotId> {
        if self.limits.round_robin {
            return self.idle.pop_front();
        }
        let own = self.idle.iter().rposition(|s| self.slots.get(s).is_some_and(|s| s.worker == worker));
        match own {
            Some(at) => self.idle.remove(at),
            None => self.idle.pop_back(),
        }
    }

    /// Connections that work or will: not those still logging in.
    fn has_live(&self) -> bool {
        self.slots.values().any(|s| s.state != SlotState::Login)
    }

    fn may_dial(&self, now: Instant) -> bool {
        !self.paused && self.retry_at.is_none_or(|at| now >= at)
    }

    fn dial_if_needed(&mut self, worker: WorkerId, now: Instant) -> Option<SlotId> {
        let most = self.limits.size;
        (self.dialing() < self.waiters.len() && self.slots.len() < most && self.may_dial(now))
            .then(|| self.open(most, worker, now))
            .flatten()
    }

    /// `most`: how many there may be of this pool and of those whose place it has taken. None: a quota has nothing left.
    fn open(&mut self, most: usize, worker: WorkerId, now: Instant) -> Option<SlotId> {
        self.want(None);
        let take = |(at, quota): (usize, &Arc<Quota>)| {
            if self.size_at == Some(at) { quota.take_below(most) } else { quota.take() }
        };
        if let Some(at) = self.quotas.iter().enumerate().position(|quota| !take(quota)) {
            self.quotas.iter().take(at).for_each(|quota| quota.give_back());
            if !self.waiters.is_empty() {
                self.want(Some(at));
            }
            return None;
        }
        let slot = Slot {
            state: SlotState::Login,
            worker,
            cancels: 0,
            since: now,
            created: now,
            condemned: false,
            standing: false,
            leaving: false,
        };
        self.next += 1;
        self.slots.insert(SlotId(self.next), slot);
        let slot = SlotId(self.next);
        // One may not be all that is needed.
        if self.dialing() < self.waiters.len() && self.slots.len() < self.limits.size {
            let is_full = |(at, quota): (usize, &Arc<Quota>)| {
                if self.size_at == Some(at) { quota.used() >= self.limits.size } else { quota.is_full() }
            };
            self.want(self.quotas.iter().enumerate().position(is_full));
        }
        Some(slot)
    }

    /// Whoever has left the queue may have been the one for whom more was wanted.
    fn sate(&mut self) {
        if self.starved.is_some() && self.dialing() >= self.waiters.len() {
            self.want(None);
        }
    }

    fn dialing(&self) -> usize {
        self.slots.values().filter(|s| s.state == SlotState::Login).count()
    }

    /// Tells the quotas which of them keeps someone waiting.
    fn want(&mut self, starved: Option<usize>) {
        let before = std::mem::replace(&mut self.starved, starved);
        if before == starved {
            return;
        }
        if let Some(quota) = before.and_then(|at| self.quotas.get(at)) {
            quota.want(false);
        }
        if let Some(quota) = starved.and_then(|at| self.quotas.get(at)) {
            quota.want(true);
        }
    }

    fn set(&mut self, slot: SlotId, state: SlotState, now: Instant) {
        if let Some(s) = self.slots.get_mut(&slot) {
            s.state = state;
            s.since = now;
            s.leaving = false;
        }
    }

    fn remove(&mut self, slot: SlotId) {
        self.idle.retain(|s| *s != slot);
        if self.slots.remove(&slot).is_some() {
            self.quotas.iter().for_each(|quota| quota.give_back());
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.want(None);
        for _ in &self.slots {
            self.quotas.iter().for_each(|quota| quota.give_back());
        }
    }
}

#[cfg(test)]
mod tests;
