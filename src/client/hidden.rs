//! What statements leave behind on their server that their SQL does not show: see [`crate::sql::hidden`].
//!
//! Each shard's code is read in the background when a statement first needs it, again after a minute of use, and after a statement has
//! passed that may change it. What is run meanwhile is judged when the answer is there: its client has its own answer, but keeps the server
//! until then (`LONGEST` at most), and what it asks for next waits as long. Without an answer, whatever may have run somebody's code makes the server dirty, which costs a
//! reset. What plainly makes state pins, so that its owner keeps it; what is not understood is cleaned up after.
//!
//! A link remembers how many changes of code had begun when its first statement was judged (`Judged::stamp`). If that is another
//! number when the server is to be given back, what was judged may have been replaced before it ran.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::client::catalog::primary_pool;
use crate::client::database::{LiveDatabase, UserPools};
use crate::client::task::Client;
use crate::clock;
use crate::config::PoolMode;
use crate::error::Error;
use crate::id::{ShardIndex, WorkerId};
use crate::server;
use crate::session::Intake;
use crate::sql::facts::QueryFacts;
use crate::sql::hidden::{self, Census, Traces};
use crate::wire::message::TransactionStatus;

/// How long a census counts: a change that did not pass through here is noticed that much later.
const KEPT: Duration = Duration::from_secs(60);
/// How long a server is kept by its client while a census is taken.
const LONGEST: Duration = Duration::from_secs(1);
/// A census may take the server one part in so many of the time while nothing changes.
const SHARE: u32 = 100;
/// The same while code changes.
const SHARE_OF_CHANGES: u32 = 10;
/// Time between two at least.
const PAUSE: Duration = Duration::from_millis(50);
/// Time to the next when one has failed.
const RETRY: Duration = Duration::from_secs(5);

/// The large-object functions that clients call by the fast path, by OID. What they open ends with the transaction.
/// See <https://www.postgresql.org/docs/current/lo-interfaces.html>.
const LARGE_OBJECTS: [u32; 16] = [715, 764, 765, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172];

/// The code of a database's shards, as far as it is known.
#[derive(Debug)]
pub struct Hidden {
    shards: Vec<Shard>,
    /// Changes of code that have begun to take effect, and those of them that are over.
    begun: AtomicU64,
    ended: AtomicU64,
    /// Clients ask what they did to sequences: servers that others have used are made to forget it.
    asks_sequences: AtomicBool,
}

#[derive(Debug, Default)]
struct Shard {
    known: ArcSwapOption<Known>,
    asking: AtomicBool,
    /// No census before.
    pause: Mutex<Option<Instant>>,
    failed: AtomicBool,
    /// An attempt is over.
    over: Notify,
}

/// A census, and when it was taken.
#[derive(Debug)]
struct Known {
    census: Census,
    /// It is of the state after so many changes.
    stamp: u64,
    until: Instant,
}

impl Hidden {
    /// Knows nothing of so many shards.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            asks_sequences: AtomicBool::new(false),
        }
    }

    /// Clients ask for sequence values.
    pub fn note_asks(&self) {
        if !self.asks_sequences.load(Ordering::Relaxed) {
            self.asks_sequences.store(true, Ordering::Release);
        }
    }

    /// Whether a server on which others have used sequences must forget that before a client gets it.
    #[must_use]
    pub fn minds_sequences(&self, shard: ShardIndex) -> bool {
        let known = || self.shards.get(usize::from(shard.0)).is_some_and(|s| s.known.load().is_some());
        self.asks_sequences.load(Ordering::Acquire) || !known()
    }
}

/// A change of code that is taking effect, until it is dropped. What was known from before counts no more from the first moment on,
/// and what is learned before the last is not believed.
#[derive(Debug)]
struct Change(Arc<LiveDatabase>);

impl Change {
    fn begin(database: &Arc<LiveDatabase>) -> (Self, u64) {
        let before = database.hidden.begun.fetch_add(1, Ordering::AcqRel);
        (Self(Arc::clone(database)), before)
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.0.hidden.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// What is known of a link's statements.
#[derive(Default)]
pub(super) struct Judged {
    /// How many changes of code had begun when the first of them was sent; none: nobody's code can have run.
    stamp: Option<u64>,
    /// They were sent when nothing was known.
    undecided: Vec<Arc<QueryFacts>>,
    /// The server is to be cleaned.
    dirty: bool,
    /// The transaction at hand has changed code, which only it sees yet.
    changes: bool,
    /// And now others may.
    change: Option<Change>,
    /// Ends when it is known what to think of them.
    wait: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Judged {
    /// Whether the server is to be cleaned before another client gets it.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether somebody's code may have run.
    pub(super) fn may_have_left(&self) -> bool {
        self.stamp.is_some()
    }

    /// Whether the server is kept for no other reason than that a census is being taken.
    pub(super) fn waits(&self) -> bool {
        self.wait.is_some()
    }

    /// The transaction is over, and everything answered.
    pub(super) fn ended(&mut self) {
        self.changes = false;
        self.change = None;
    }
}

impl Client {
    /// Looks at the segment that is about to be sent for what it may leave behind.
    pub(super) fn look_for_hidden(&mut self, judged: &mut Judged, shard: ShardIndex, since: Instant) {
        if self.pools.mode == PoolMode::Session {
            return;
        }
        let database = Arc::clone(&self.database);
        let Some(of_shard) = database.hidden.shards.get(usize::from(shard.0)) else { return };
        let known = of_shard.known.load();
        let mut at = 0_usize;
        for n in 0..self.segment.items.len() {
            let Some((intake, len)) = self.segment.items.get(n) else { break };
            let frame = self.input.bytes().get(at..at.saturating_add(*len)).unwrap_or_default();
            at = at.saturating_add(*len);
            let facts = match intake {
                Intake::Query(facts) => Arc::clone(facts),
                Intake::Bind { statement: Some(statement), .. } => Arc::clone(&statement.facts),
                Intake::FunctionCall => {
                    judged.dirty |= !is_large_object(frame);
                    continue;
                }
                _ => continue,
            };
            // What SQL runs that was prepared by the protocol.
            let executed: Vec<_> = self.session.executed(&facts).map(|s| Arc::clone(&s.facts)).collect();
            for facts in std::iter::once(facts).chain(executed) {
                self.judge(&facts, judged, known.as_deref());
            }
        }
        let (Some(_), begun) = (judged.stamp, database.hidden.begun.load(Ordering::Acquire)) else { return };
        if known.as_ref().is_none_or(|k| k.stamp != begun || k.until <= since)
            && !of_shard.asking.swap(true, Ordering::AcqRel)
        {
            let asking = Asking { database: Arc::clone(&database), shard };
            let (pools, worker) = (Arc::clone(&self.pools), self.cx.id);
            tokio::task::spawn_local(async move { asking.learn(&pools, worker).await });
        }
    }

    fn judge(&mut self, facts: &Arc<QueryFacts>, judged: &mut Judged, known: Option<&Known>) {
        let database = &self.database;
        if hidden::is_plain_text(facts) && !(judged.changes && facts.commits()) {
            return;
        }
        let begun = database.hidden.begun.load(Ordering::Acquire);
        judged.stamp.get_or_insert(begun);
        // What this transaction has made is seen by what comes after it in this transaction alone.
        let sees_own = judged.changes || (facts.changes_code() && facts.statements.len() > 1);
        judged.dirty |= sees_own && !hidden::is_plain_text(facts);
        judged.changes |= facts.changes_code();
        if judged.changes
            && judged.change.is_none()
            && (self.session.status() != TransactionStatus::InTransaction || facts.commits())
        {
            let (change, before) = Change::begin(database);
            if judged.stamp == Some(before) {
                judged.stamp = Some(before.wrapping_add(1));
            }
            judged.change = Some(change);
        }
        match known {
            Some(known) if known.stamp == begun => {
                let traces = known.census.of_text(facts);
                judged.dirty |= traces.is_unknown();
                let messages = self.segment.items.len();
                traces.kinds().for_each(|reason| self.session.pin_ahead(messages, reason, Some(facts)));
            }
            _ => judged.undecided.push(Arc::clone(facts)),
        }
    }

    fn apply(&mut self, traces: Traces, facts: &Arc<QueryFacts>, judged: &mut Judged) {
        judged.dirty |= traces.is_unknown();
        for reason in traces.kinds() {
            self.session.pin(reason, Some(facts));
        }
    }

    /// The same, but while a census is being taken the server is kept.
    pub(super) fn poll_settle_hidden(
        &mut self,
        judged: &mut Judged,
        shard: ShardIndex,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !judged.undecided.is_empty() && !judged.dirty {
            let database = &self.database;
            let wait = judged.wait.get_or_insert_with(|| Box::pin(next_census(Arc::clone(database), shard)));
            if wait.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            judged.wait = None;
        }
        self.settle_hidden(judged, shard);
        Poll::Ready(())
    }

    /// Makes up its mind about a server that could be given back now: it may turn out to be pinned.
    pub(super) fn settle_hidden(&mut self, judged: &mut Judged, shard: ShardIndex) {
        let Some(stamp) = judged.stamp else { return };
        let hidden = &self.database.hidden;
        if hidden.begun.load(Ordering::Acquire) != stamp {
            judged.dirty = true;
        }
        if judged.undecided.is_empty() {
            return;
        }
        let known = hidden.shards.get(usize::from(shard.0)).and_then(|s| s.known.load_full());
        judged.dirty |= known.as_ref().is_none_or(|k| k.stamp != stamp);
        for facts in std::mem::take(&mut judged.undecided) {
            if let Some(known) = &known {
                self.apply(known.census.of_text(&facts), &facts, judged);
            }
        }
    }
}

/// Ends when the shard is known as it is now, or nobody asks.
async fn next_census(database: Arc<LiveDatabase>, shard: ShardIndex) {
    let hidden = &database.hidden;
    let Some(shard) = hidden.shards.get(usize::from(shard.0)) else { return };
    let mut over = std::pin::pin!(shard.over.notified());
    over.as_mut().enable();
    let is_known = shard.known.load().as_ref().is_some_and(|k| k.stamp == hidden.begun.load(Ordering::Acquire));
    if !is_known && shard.asking.load(Ordering::Acquire) {
        // Whether it came in time is seen by what is known then.
        drop(tokio::time::timeout(LONGEST, over).await);
    }
}

/// Whether a FunctionCall is of a function for large objects.
fn is_large_object(frame: &[u8]) -> bool {
    let oid = frame.get(5..9).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    oid.is_some_and(|oid| LARGE_OBJECTS.contains(&oid))
}

/// A census that is being taken; nobody else takes one of the shard meanwhile.
struct Asking {
    database: Arc<LiveDatabase>,
    shard: ShardIndex,
}

impl Asking {
    fn of_shard(&self) -> Option<&Shard> {
        self.database.hidden.shards.get(usize::from(self.shard.0))
    }

    async fn learn(self, pools: &UserPools, worker: WorkerId) {
        let (Some(shard), hidden) = (self.of_shard(), &self.database.hidden) else { return };
        let began = clock::now();
        if shard.pause.lock().is_some_and(|until| until > began) {
            return;
        }
        let stamp = hidden.ended.load(Ordering::Acquire);
        if hidden.begun.load(Ordering::Acquire) != stamp {
            *shard.pause.lock() = Some(began + PAUSE);
            return;
        }
        let census = self.ask(pools, worker).await;
        let took = clock::now().saturating_duration_since(began);
        let pause = match census {
            Ok(census) => {
                if census.asks_sequences() {
                    hidden.note_asks();
                }
                shard.failed.store(false, Ordering::Relaxed);
                let until = began + KEPT.max(took.saturating_mul(SHARE));
                shard.known.store(Some(Arc::new(Known { census, stamp, until })));
                PAUSE.max(took.saturating_mul(SHARE_OF_CHANGES))
            }
            Err(error) => {
                if !shard.failed.swap(true, Ordering::Relaxed) {
                    let database = &self.database.config.name;
                    tracing::warn!(database, %error, "servers are reset after any use of tables and functions: their code is not known");
                }
                RETRY
            }
        };
        *shard.pause.lock() = Some(clock::now() + pause);
    }

    async fn ask(&self, pools: &UserPools, worker: WorkerId) -> Result<Census, Error> {
        let pool = primary_pool(&self.database, pools, self.shard)?;
        let rows = server::hidden::ask(&pool.target, &pool.settings.login, worker).await?;
        // Texts may be many and long: others on this thread do not wait for them to be read.
        let weighed = tokio::task::spawn_blocking(move || Census::of(rows)).await;
        weighed.map_err(|error| Error::us(crate::error::SqlState::INTERNAL_ERROR, error.to_string()))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(shard) = self.of_shard() {
            shard.asking.store(false, Ordering::Release);
            shard.over.notify_waiters();
        }
    }
}
