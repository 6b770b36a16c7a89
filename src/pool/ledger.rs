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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const W: WorkerId = WorkerId(0);
    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(5) };

    fn ledger(size: usize) -> Ledger {
        Ledger::new(Limits { size, reserve: 1, round_robin: false })
    }

    fn start() -> Instant {
        crate::clock::now()
    }

    #[test]
    fn what_is_not_used_is_wanted_by_who_waits_for_nothing_better() {
        let now = start();
        let mut l = ledger(3);
        let Acquire::Queued(Some(first)) = l.acquire(WaiterId(1), W, now) else { panic!() };
        assert_eq!(l.login_done(first, now), Freed::Give(WaiterId(1)));
        let Acquire::Queued(Some(second)) = l.acquire(WaiterId(2), W, now) else { panic!() };
        assert_eq!(l.login_done(second, now), Freed::Give(WaiterId(2)));
        assert_eq!(l.wants_back(first, now), Wanted::No);
        // One is being made, unless that takes long.
        assert!(matches!(l.acquire(WaiterId(3), W, now), Acquire::Queued(Some(_))));
        assert_eq!(l.wants_back(first, now), Wanted::Perhaps);
        assert!(!l.gives_way(first, now));
        assert_eq!(l.wants_back(first, now + PROMPT), Wanted::Yes);
        // One that gives way is enough for one who waits.
        assert!(l.gives_way(first, now + PROMPT));
        assert_eq!(l.wants_back(second, now + PROMPT), Wanted::No);
        assert_eq!(l.acquire(WaiterId(4), W, now), Acquire::Queued(None));
        assert_eq!(l.wants_back(second, now + PROMPT), Wanted::Yes);
        assert_eq!(l.release(first, now), Freed::Give(WaiterId(3)));
        assert_eq!(l.acquire_this(first, now), This::Later);
        assert_eq!(l.wants_back(second, now), Wanted::Perhaps);
        l.pause();
        assert_eq!(l.wants_back(second, now), Wanted::Yes);
        l.resume(now);
        l.condemn(first);
        assert_eq!([first, second].map(|slot| l.wants_back(slot, now)), [Wanted::Yes, Wanted::Perhaps]);
    }

    #[test]
    fn none_is_given_to_who_wants_this_one_but_one_that_rests() {
        let now = start();
        let mut l = ledger(2);
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
        assert_eq!(l.acquire_this(slot, now), This::Later);
        assert_eq!(l.login_done(slot, now), Freed::Give(WaiterId(1)));
        assert_eq!(l.acquire_this(slot, now), This::Later);
        assert_eq!(l.release(slot, now), Freed::Idle);
        assert_eq!(l.acquire_this(slot, now), This::Yours);
        assert_eq!(l.acquire_at_once(W, now), None);
        assert_eq!(l.discard(slot, now), None);
        assert_eq!(l.acquire_this(slot, now), This::Gone);
    }

    #[test]
    fn the_first_to_wait_is_the_first_served() {
        let now = start();
        let mut l = ledger(1);
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
        assert_eq!(l.acquire(WaiterId(2), W, now), Acquire::Queued(None));
        assert_eq!(l.login_done(slot, now), Freed::Give(WaiterId(1)));
        assert_eq!(l.acquire(WaiterId(3), W, now), Acquire::Queued(None));
        assert_eq!(l.release(slot, now), Freed::Give(WaiterId(2)));
        assert!(l.cancel_wait(WaiterId(3)));
        assert_eq!(l.release(slot, now), Freed::Idle);
        assert_eq!(l.acquire(WaiterId(4), W, now), Acquire::Reuse(slot));
    }

    #[test]
    fn connections_stay_with_their_worker_and_nobody_is_passed_over_for_ever() {
        let now = start();
        let other = WorkerId(W.0 + 1);
        for (size, first) in [(1, [1, 2, 3, 4, 5, 6]), (8, [2, 3, 5, 6, 1, 8])] {
            let mut l = ledger(size);
            for id in 0..size as u64 {
                let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(100 + id), W, now) else { panic!() };
                assert_eq!(l.login_done(slot, now), Freed::Give(WaiterId(100 + id)));
            }
            // Others' are 1, 4, 7 ...
            for id in 1..=30 {
                let worker = if id % 3 == 1 { other } else { W };
                assert_eq!(l.acquire(WaiterId(id), worker, now), Acquire::Queued(None));
            }
            let slot = l.slots().map(|(slot, ..)| slot).next().unwrap();
            let order = std::iter::from_fn(|| match l.release(slot, now) {
                Freed::Give(WaiterId(id)) => Some(id),
                _ => None,
            });
            let order: Vec<_> = order.collect();
            assert_eq!(order[..6], first, "{size}: all in their order, or the first passed over four times");
            let mut served = order.clone();
            served.sort_unstable();
            assert_eq!(served, (1..=30).collect::<Vec<_>>());
            let own: Vec<_> = order.iter().filter(|id| **id % 3 != 1).collect();
            assert!(own.is_sorted(), "in their order: {order:?}");
        }
    }

    #[test]
    fn a_connection_that_has_gone_over_serves_those_of_its_new_worker() {
        let now = start();
        let other = WorkerId(W.0 + 1);
        let mut l = ledger(2);
        for id in [1, 2] {
            let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(id), W, now) else { panic!() };
            assert_eq!(l.login_done(slot, now), Freed::Give(WaiterId(id)));
        }
        let slot = l.slots().map(|(slot, ..)| slot).next().unwrap();
        l.moved(slot, other);
        for (id, worker) in [(3, W), (4, other)] {
            assert_eq!(l.acquire(WaiterId(id), worker, now), Acquire::Queued(None));
        }
        assert_eq!(l.release(slot, now), Freed::Give(WaiterId(4)));
        assert_eq!(l.release(slot, now), Freed::Give(WaiterId(3)));
    }

    #[test]
    fn rest_leaves_the_number_that_is_kept_warm() {
        let now = start();
        let mut l = ledger(3);
        while let Some(slot) = l.warm(3, W, now) {
            assert_eq!(l.login_done(slot, now), Freed::Idle);
        }
        let (later, second) = (now + Duration::from_secs(10), Duration::from_secs(1));
        assert_eq!(l.expire(second, Duration::ZERO, 2, later).len(), 1);
        assert_eq!(l.expire(second, Duration::ZERO, 2, later).len(), 0);
        // Age spares nobody.
        assert_eq!(l.expire(second, second, 2, later).len(), 2);
    }

    #[test]
    fn a_connection_rests_only_when_its_cancels_are_done() {
        let now = start();
        let mut l = ledger(1);
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
        l.login_done(slot, now);
        assert!(l.cancel_begins(slot));
        assert_eq!(l.acquire(WaiterId(2), W, now), Acquire::Queued(None));
        assert_eq!(l.release(slot, now), Freed::Wait);
        assert!(!l.cancel_begins(slot), "nobody may cancel what has ended");
        assert_eq!(l.cancel_done(slot, now), Some(Freed::Give(WaiterId(2))));
    }

    #[test]
    fn a_failed_login_is_told_to_all_who_wait_and_not_repeated_at_once() {
        let now = start();
        let mut l = ledger(2);
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
        let Acquire::Queued(Some(other)) = l.acquire(WaiterId(2), W, now) else { panic!() };
        assert_eq!(l.login_failed(slot, BACKOFF, now), [WaiterId(1), WaiterId(2)]);
        assert!(l.login_failed(other, BACKOFF, now).is_empty());
        assert_eq!(l.acquire(WaiterId(3), W, now), Acquire::Refused);
        let later = now + BACKOFF.first;
        assert!(matches!(l.acquire(WaiterId(4), W, later), Acquire::Queued(Some(_))));
    }

    #[test]
    fn the_reserve_is_for_those_who_wait_long() {
        let now = start();
        let after = Duration::from_secs(5);
        let mut l = ledger(1);
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
        l.login_done(slot, now);
        assert_eq!(l.acquire(WaiterId(2), W, now), Acquire::Queued(None));
        assert_eq!(l.acquire(WaiterId(3), W, now + after), Acquire::Queued(None));
        assert_eq!(l.open_reserve(after, W, now + after / 2), None);
        assert_eq!(l.open_reserve(Duration::ZERO, W, now + after), None);
        let reserve = l.open_reserve(after, W, now + after).unwrap();
        assert_eq!(l.open_reserve(after, W, now + after * 9), None, "it is one more and no more");
        assert_eq!(l.login_done(reserve, now + after), Freed::Give(WaiterId(2)));
        assert_eq!(l.release(slot, now + after), Freed::Give(WaiterId(3)));
        assert_eq!(l.release(reserve, now + after), Freed::Idle);
    }

    #[test]
    fn the_size_is_a_limit_of_a_pool_and_of_those_whose_place_it_took() {
        let (now, after) = (start(), Duration::from_secs(5));
        let limits = Limits { size: 1, reserve: 1, round_robin: false };
        let quota = Arc::new(Quota::default());
        let generation = || Ledger::sharing(limits, vec![Arc::clone(&quota)], Some(0));
        let (mut old, mut new) = (generation(), generation());
        let Acquire::Queued(Some(lent)) = old.acquire(WaiterId(1), W, now) else { panic!() };
        assert_eq!(old.login_done(lent, now), Freed::Give(WaiterId(1)));
        old.condemn_all();
        assert_eq!(new.acquire(WaiterId(2), W, now), Acquire::Queued(None), "the old one has it");
        assert_eq!((new.starved_of(), quota.is_wanted()), (Some(0), true));
        let reserve = new.open_reserve(after, W, now + after).expect("who waits long gets one more");
        assert_eq!(new.login_done(reserve, now), Freed::Give(WaiterId(2)));
        assert_eq!(new.acquire(WaiterId(3), W, now), Acquire::Queued(None));
        assert_eq!(new.open_reserve(after, W, now + after * 2), None, "and that is all");
        assert_eq!(old.release(lent, now), Freed::Close(None));
        assert_eq!(new.dial_overdue(W, now), None, "the reserve is for those who wait long");
        assert_eq!(new.release(reserve, now), Freed::Give(WaiterId(3)));
        assert_eq!(new.release(reserve, now), Freed::Idle);
        assert_eq!((quota.used(), quota.is_wanted()), (1, false));
        // And less from now on, which what rests follows as well.
        assert!(new.expire(Duration::ZERO, Duration::ZERO, 0, now).is_empty());
        new.set_limits(Limits { size: 0, reserve: 0, round_robin: false });
        assert_eq!(new.expire(Duration::ZERO, Duration::ZERO, 0, now), [reserve]);
        assert_eq!(quota.used(), 0);
    }

    #[test]
    fn logins_that_keep_failing_are_tried_less_and_less() {
        let mut now = start();
        let mut l = ledger(2);
        let mut waits = Vec::new();
        for waiter in 0..6 {
            let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(waiter), W, now) else { panic!() };
            l.login_failed(slot, BACKOFF, now);
            let next = l.retry_at().unwrap();
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 5, 5, 5]);
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(9), W, now) else { panic!() };
        l.login_failed(slot, BACKOFF, now);
        assert_eq!(l.acquire(WaiterId(10), W, now), Acquire::Refused);
        l.retry_now();
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(11), W, now) else { panic!() };
        l.login_failed(slot, BACKOFF, now);
        assert_eq!(l.retry_at(), Some(now + BACKOFF.first), "it starts from the beginning");
    }

    #[test]
    fn who_waits_is_told_of_a_failed_login_also_when_the_next_may_follow_at_once() {
        let now = start();
        let mut l = ledger(2);
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
        let at_once = Backoff { first: Duration::ZERO, most: Duration::ZERO };
        assert_eq!(l.login_failed(slot, at_once, now), [WaiterId(1)]);
        assert!(matches!(l.acquire(WaiterId(2), W, now), Acquire::Queued(Some(_))));
    }

    #[test]
    fn who_waits_is_told_when_the_last_connection_is_gone_and_none_can_be_made() {
        let now = start();
        let mut l = ledger(2);
        let Acquire::Queued(Some(used)) = l.acquire(WaiterId(1), W, now) else { panic!() };
        l.login_done(used, now);
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(2), W, now) else { panic!() };
        assert!(l.login_failed(slot, BACKOFF, now).is_empty(), "there is a connection to wait for");
        assert_eq!(l.discard(used, now), None);
        assert_eq!(l.strand(now), [WaiterId(2)]);
        assert!(l.strand(now).is_empty());
    }

    #[derive(Debug, Clone)]
    enum Op {
        Acquire(u16),
        Login(usize, bool),
        /// Asked for by who would not wait, and not wanted.
        Borrow(u16),
        Release(usize),
        /// The same where nobody is believed to wait.
        Rest(usize),
        Stand(u16),
        Discard(usize),
        Cancel(usize),
        CancelDone(usize),
        Leave(usize),
        Pause,
        Resume,
        Expire,
        Tick,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..2_u16).prop_map(Op::Acquire),
            3 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(i, ok)| Op::Login(i, ok)),
            2 => (0..2_u16).prop_map(Op::Borrow),
            4 => any::<usize>().prop_map(Op::Release),
            3 => any::<usize>().prop_map(Op::Rest),
            1 => (0..2_u16).prop_map(Op::Stand),
            1 => any::<usize>().prop_map(Op::Discard),
            1 => any::<usize>().prop_map(Op::Cancel),
            1 => any::<usize>().prop_map(Op::CancelDone),
            1 => any::<usize>().prop_map(Op::Leave),
            1 => Just(Op::Pause),
            2 => Just(Op::Resume),
            1 => Just(Op::Expire),
            1 => Just(Op::Tick),
        ]
    }

    /// What the world around the ledger knows; used to check that the ledger agrees.
    #[derive(Default)]
    struct Model {
        waiting: BTreeSet<WaiterId>,
        dialing: Vec<SlotId>,
        active: Vec<SlotId>,
        standing: Vec<SlotId>,
        cancels: Vec<SlotId>,
    }

    impl Model {
        fn freed(&mut self, slot: SlotId, freed: Freed) {
            match freed {
                Freed::Give(w) => {
                    assert!(self.waiting.remove(&w), "only who waits is served");
                    self.active.push(slot);
                }
                Freed::Close(dial) => {
                    self.cancels.retain(|c| *c != slot);
                    self.dialing.extend(dial);
                }
                Freed::Idle | Freed::Wait => {}
            }
        }
    }

    fn pick(from: &mut Vec<SlotId>, i: usize) -> Option<SlotId> {
        (!from.is_empty()).then(|| from.remove(i % from.len()))
    }

    proptest! {
        #[test]
        fn limits_are_exact_and_no_waiter_is_lost(ops in prop::collection::vec(op(), 1..200), size in 1..4_usize) {
            let mut now = start();
            let mut l = ledger(size);
            let mut m = Model::default();
            let mut next = 0;
            for op in ops {
                match op {
                    Op::Acquire(worker) => {
                        next += 1;
                        match l.acquire(WaiterId(next), WorkerId(worker), now) {
                            Acquire::Reuse(slot) => m.active.push(slot),
                            Acquire::Queued(dial) => {
                                m.waiting.insert(WaiterId(next));
                                m.dialing.extend(dial);
                            }
                            Acquire::Refused => {}
                        }
                    }
                    Op::Login(i, ok) => if let Some(slot) = pick(&mut m.dialing, i) {
                        if ok {
                            let freed = l.login_done(slot, now);
                            m.freed(slot, freed);
                        } else {
                            for w in l.login_failed(slot, BACKOFF, now) {
                                prop_assert!(m.waiting.remove(&w));
                            }
                        }
                    },
                    Op::Borrow(worker) => if let Some(slot) = l.acquire_at_once(WorkerId(worker), now) {
                        prop_assert!(m.waiting.is_empty(), "who does not wait takes nothing from who does");
                        l.put_back(slot, now);
                        prop_assert_eq!(l.acquire_at_once(WorkerId(worker), now), Some(slot), "it is the next again");
                        l.put_back(slot, now);
                    },
                    Op::Rest(i) => if let Some(slot) = pick(&mut m.active, i) {
                        if l.rest(slot, now) {
                            prop_assert!(m.waiting.is_empty() && !m.cancels.contains(&slot));
                        } else {
                            let freed = l.release(slot, now);
                            m.freed(slot, freed);
                        }
                    },
                    Op::Stand(worker) => match l.stand(WorkerId(worker), now) {
                        Some(slot) => m.standing.push(slot),
                        None => if let Some(slot) = m.standing.pop() {
                            m.dialing.extend(l.discard(slot, now));
                        },
                    },
                    Op::Release(i) => if let Some(slot) = pick(&mut m.active, i) {
                        let freed = l.release(slot, now);
                        m.freed(slot, freed);
                    },
                    Op::Discard(i) => if let Some(slot) = pick(&mut m.active, i) {
                        m.cancels.retain(|c| *c != slot);
                        m.dialing.extend(l.discard(slot, now));
                    },
                    Op::Cancel(i) => if !m.active.is_empty() {
                        let slot = m.active[i % m.active.len()];
                        prop_assert!(l.cancel_begins(slot));
                        m.cancels.push(slot);
                    },
                    Op::CancelDone(i) => if let Some(slot) = pick(&mut m.cancels, i)
                        && let Some(freed) = l.cancel_done(slot, now) {
                        m.freed(slot, freed);
                    },
                    Op::Leave(i) => if let Some(w) = m.waiting.iter().copied().nth(i % m.waiting.len().max(1)) {
                        prop_assert!(l.cancel_wait(w));
                        m.waiting.remove(&w);
                    },
                    Op::Pause => l.pause(),
                    Op::Resume => {
                        let (given, dials) = l.resume(now);
                        for (w, slot) in given {
                            prop_assert!(m.waiting.remove(&w));
                            m.active.push(slot);
                        }
                        m.dialing.extend(dials);
                    }
                    Op::Expire => { l.expire(Duration::from_secs(1), Duration::ZERO, 0, now); }
                    Op::Tick => {
                        now += Duration::from_secs(2);
                        m.dialing.extend(l.dial_overdue(W, now));
                        m.dialing.extend(l.open_reserve(Duration::from_secs(2), W, now));
                    }
                }
                for w in l.strand(now) {
                    prop_assert!(m.waiting.remove(&w));
                }
                let c = l.counts();
                prop_assert!(l.len() <= size + 1, "never more than the limit and the reserve");
                prop_assert!(c.waiting == 0 || l.is_paused() || !l.is_empty(), "nobody waits for nothing");
                prop_assert_eq!(c.waiting, m.waiting.len());
                prop_assert_eq!(c.login, m.dialing.len());
                prop_assert_eq!(c.active + c.active_cancel, m.active.len() + m.standing.len());
                prop_assert_eq!(c.standing, m.standing.len());
                prop_assert!(l.is_paused() || c.waiting == 0 || c.idle == 0, "nobody waits beside an idle connection");
            }
        }
    }
}
