//! What statements leave behind on their server that their SQL does not show: see [`crate::sql::hidden`].
//!
//! Each shard's code is read in the background when a statement first needs it, again after a minute of use, and after a statement has
//! passed that may change it. What is run meanwhile is judged when the answer is there: its client has its own answer, but keeps the server
//! until then (`LONGEST` at most), and what it asks for next waits as long. Without an answer, whatever may have run somebody's code makes the server dirty, which costs a
//! reset. What plainly makes state pins, so that its owner keeps it; what is not understood is cleaned up after.
//!
//! What is known is believed as long as it counts, and a little longer, so that the next census is there in time; then it is as if
//! nothing were known. Replicas run the code from before a change until they have replayed it, so that there what was left before counts too.
//! A change whose client has gone in the middle of it is over when its server process is: that may go on with what it was asked, and
//! commit it.
//!
//! A link remembers how many changes of code had begun when its first statement was judged (`Judged::stamp`). If that is another
//! number when the server is to be given back, what was judged may have been replaced before it ran.

mod sets;
mod spoilt;
#[cfg(test)]
mod tests;
mod unread;
mod writes;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::client::catalog::{LookUp, primary_pool};
use crate::client::database::{LiveDatabase, UserPools};
use crate::client::identity::is_same;
use crate::client::sequences::Questions;
use crate::client::task::Client;
use crate::clock;
use crate::config::PoolMode;
use crate::error::Error;
use crate::id::{ShardIndex, WorkerId};
use crate::pool::Verdict;
use crate::server;
use crate::session::Intake;
use crate::sql::facts::{Access, PinReason, QueryFacts};
use crate::sql::hidden::{self, Census, Traces};
use crate::wire::message::TransactionStatus;
pub(super) use sets::{NewCode, Until};

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
/// For so long a census counts beyond its time, while the next is taken.
const GRACE: Duration = Duration::from_secs(5);
/// For so long replicas may run the code from before a change.
const REPLAYED: Duration = Duration::from_secs(600);
/// A server process that nobody can be asked of is taken to be gone after so long.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// How many texts a worker remembers of which it found nothing.
const HARMLESS: usize = 128;

/// Statements that are looked at when the census is there.
const UNDECIDED: usize = 1000;

/// The large-object functions that clients call by the fast path, by OID. What they open ends with the transaction.
/// See <https://www.postgresql.org/docs/current/lo-interfaces.html>.
const LARGE_OBJECTS: [u32; 16] = [715, 764, 765, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172];

/// The code of a database's shards, as far as it is known.
#[derive(Debug)]
pub struct Hidden {
    /// Its number in the process.
    id: u64,
    shards: Vec<Shard>,
    changes: Arc<Changes>,
}

/// What is done to the code. A database that a reload makes anew goes on from here: those who were in a transaction end it in the one before.
#[derive(Debug, Default)]
struct Changes {
    /// Those that have begun to take effect, and those of them that are over.
    begun: AtomicU64,
    ended: AtomicU64,
    /// Those whose clients have gone: they are over when the process is.
    abandoned: Mutex<Vec<Abandoned>>,
    /// A transaction that changed code was prepared: whatever finishes one may make that take effect.
    prepared: AtomicBool,
    /// Clients ask what they did to sequences: servers that others have used are made to forget it.
    asks_sequences: AtomicBool,
    /// Behind which statements they do.
    questions: Questions,
    /// Clients call code that nobody can read, which may ask for them as well.
    unread: AtomicBool,
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

/// A change that is under way in a process of a shard's primary which belongs to nobody any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Abandoned {
    shard: ShardIndex,
    pid: u32,
    since: Instant,
}

/// A census, and when it was taken.
#[derive(Debug)]
struct Known {
    census: Arc<Census>,
    /// It is of the state after so many changes.
    stamp: u64,
    until: Instant,
    /// What was found before the last changes, and until when replicas may run it.
    before: Vec<(Arc<Census>, Instant)>,
}

impl Known {
    /// Whether it is to be believed, after so many changes.
    fn counts(&self, stamp: u64, now: Instant) -> bool {
        self.stamp == stamp && now < self.until + GRACE
    }

    /// What a text may leave behind.
    fn of_text(&self, facts: &QueryFacts, own_types: bool, replica: bool, now: Instant) -> Traces {
        let of =
            |census: &Census| census.of_text(facts) | if own_types { census.of_types() } else { Traces::default() };
        let before = self.before.iter().filter(|(_, until)| replica && now < *until).map(|(census, _)| of(census));
        before.fold(of(&self.census), |all, traces| all | traces)
    }

    /// The same, with what was known before it.
    fn after(mut self, known: Option<&Self>, now: Instant) -> Self {
        if let Some(known) = known {
            let others = |(census, until): &&(Arc<Census>, Instant)| now < *until && *census != known.census;
            self.before = known.before.iter().filter(others).cloned().collect();
            if known.census != self.census {
                self.before.push((Arc::clone(&known.census), now + REPLAYED));
            }
        }
        self
    }
}

impl Hidden {
    /// Knows nothing of so many shards.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            changes: Arc::default(),
        }
    }

    /// Of the database of so many shards that takes the place of another.
    #[must_use]
    pub fn after(old: &Self, shards: usize) -> Self {
        Self { changes: Arc::clone(&old.changes), ..Self::new(shards) }
    }

    /// Code may change until this is dropped, by what no client does: what was known before counts no more, and nothing is learned meanwhile.
    #[must_use]
    pub fn change(self: &Arc<Self>) -> Changing {
        self.changes.begun.fetch_add(1, Ordering::AcqRel);
        Changing(Arc::clone(&self.changes))
    }

    /// Clients ask for sequence values.
    pub fn note_asks(&self) {
        if !self.changes.asks_sequences.load(Ordering::Relaxed) {
            self.changes.asks_sequences.store(true, Ordering::Release);
        }
    }

    /// Behind which statements clients ask for sequence values in another transaction.
    pub(super) fn questions(&self) -> &Questions {
        &self.changes.questions
    }

    /// Whether a server on which others have used sequences must forget that before a client gets it: some ask, or code may that nobody has
    /// read.
    #[must_use]
    pub fn minds_sequences(&self, shard: ShardIndex) -> bool {
        self.changes.asks_sequences.load(Ordering::Acquire) || !self.is_known(shard)
    }

    /// Whether a census of the shard counts now.
    fn is_known(&self, shard: ShardIndex) -> bool {
        let (begun, now) = (self.changes.begun.load(Ordering::Acquire), clock::now());
        let of_shard = self.shards.get(usize::from(shard.0));
        of_shard.is_some_and(|shard| shard.known.load().as_ref().is_some_and(|known| known.counts(begun, now)))
    }
}

/// See [`Hidden::change`].
#[derive(Debug)]
pub struct Changing(Arc<Changes>);

impl Drop for Changing {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// Texts that leave nothing behind, as was found lately, of one worker: see `Client::leaves_nothing`.
pub struct Harmless(Box<[Option<HarmlessText>]>);

/// Where: of whose code, on which shard, whether on a replica, and after how many changes of it.
type Whose = (u64, ShardIndex, bool, u64);

struct HarmlessText {
    facts: Arc<QueryFacts>,
    whose: Whose,
    until: Instant,
}

impl Default for Harmless {
    fn default() -> Self {
        Self((0..HARMLESS).map(|_| None).collect())
    }
}

impl Harmless {
    fn place(facts: &Arc<QueryFacts>) -> usize {
        // No two of them are closer together than they are large.
        Arc::as_ptr(facts) as usize / size_of::<QueryFacts>() % HARMLESS
    }

    fn has(&self, facts: &Arc<QueryFacts>, whose: Whose, now: Instant) -> bool {
        let text = self.0.get(Self::place(facts)).and_then(Option::as_ref);
        text.is_some_and(|text| Arc::ptr_eq(&text.facts, facts) && text.whose == whose && now < text.until)
    }

    fn add(&mut self, facts: &Arc<QueryFacts>, whose: Whose, until: Instant) {
        if let Some(text) = self.0.get_mut(Self::place(facts)) {
            *text = Some(HarmlessText { facts: Arc::clone(facts), whose, until });
        }
    }
}

/// A change of code that is taking effect, until it is over. What was known from before counts no more from the first moment on,
/// and what is learned before the last is not believed.
struct Change {
    database: Arc<LiveDatabase>,
    shard: ShardIndex,
    pid: u32,
    over: bool,
}

impl Change {
    fn begin(database: &Arc<LiveDatabase>, shard: ShardIndex, pid: u32) -> (Self, u64) {
        let before = database.hidden.changes.begun.fetch_add(1, Ordering::AcqRel);
        (Self { database: Arc::clone(database), shard, pid, over: false }, before)
    }

    fn end(mut self) {
        self.over = true;
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let hidden = &self.database.hidden;
        if self.over {
            hidden.changes.ended.fetch_add(1, Ordering::AcqRel);
        } else {
            hidden.changes.abandoned.lock().push(Abandoned { shard: self.shard, pid: self.pid, since: clock::now() });
        }
    }
}

/// Whose server it is that statements are judged for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) shard: ShardIndex,
    pub(super) replica: bool,
    /// The server's process.
    pub(super) pid: u32,
}

impl Default for Place {
    fn default() -> Self {
        Self { shard: ShardIndex(0), replica: false, pid: 0 }
    }
}

/// Whether code that is run asks for values of sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AsksUnseen {
    /// None does.
    No,
    /// It is not known now.
    Unknown,
    /// Some does.
    Yes,
}

/// What is known of a link's statements.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each tells another thing that may have happened")]
pub(super) struct Judged {
    /// How many changes of code had begun when the first of them was sent; none: nobody's code can have run.
    stamp: Option<u64>,
    place: Place,
    /// They were sent when nothing was known; whether they use types of somebody's, and the number of the last message of each.
    undecided: Vec<(Arc<QueryFacts>, bool, u64)>,
    /// Some of them may write though they look like reads.
    writes: bool,
    /// Whose code it is, once somebody's can have run.
    database: Option<Arc<LiveDatabase>>,
    /// The server is to be cleaned.
    dirty: bool,
    /// Nothing cleans it.
    spoilt: bool,
    /// The transaction at hand has changed code, which only it sees yet.
    changes: bool,
    /// It has made code in relations of its session's own.
    own_code: bool,
    /// Code has perhaps set something for it; and code that it has made may.
    sets: bool,
    makes_setter: bool,
    /// Code has perhaps sent a notification, which goes with the commit.
    notifies: bool,
    /// Code has perhaps asked for values of sequences.
    asks: bool,
    /// And now others may.
    change: Option<Change>,
    /// It changes what sessions of a role or database begin with.
    new_defaults: bool,
    /// Ends when it is known what to think of them.
    wait: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Judged {
    /// Of a link whose first statement was judged when so many changes of code had begun, if somebody's code can have run.
    pub(super) fn since(stamp: Option<u64>) -> Self {
        Self { stamp, ..Self::default() }
    }

    /// In what state the server is given back at best.
    pub(super) fn least(&self) -> Verdict {
        match (self.spoilt, self.dirty) {
            (true, _) => Verdict::Spoilt,
            (false, true) => Verdict::Dirty,
            (false, false) => Verdict::Clean,
        }
    }

    /// In what state a server is given back that serves one transaction of several shards.
    pub(super) fn verdict(&self) -> Verdict {
        self.least().max(if self.may_have_left() { Verdict::Dirty } else { Verdict::Clean })
    }

    /// Whether code has sent a notification in this transaction, as far as is known of it.
    pub(super) fn notifies(&self) -> bool {
        self.notifies
    }

    /// The same of what it was sent together with others.
    pub(super) fn notify(&mut self) {
        self.notifies = true;
    }

    /// Whether somebody's code may have run.
    pub(super) fn may_have_left(&self) -> bool {
        self.stamp.is_some()
    }

    /// Whether code has asked for values of sequences since this was asked last, as far as is known of it.
    pub(super) fn take_asks(&mut self) -> bool {
        std::mem::take(&mut self.asks)
    }

    /// Whether the server is kept for no other reason than that a census is being taken.
    pub(super) fn waits(&self) -> bool {
        self.wait.is_some()
    }

    /// The transaction, of several shards, is about to be committed: what it has made is seen by others from now on.
    pub(super) fn commits(&mut self, database: &Arc<LiveDatabase>) {
        if self.changes && self.change.is_none() {
            self.change = Some(Change::begin(database, self.place.shard, self.place.pid).0);
        }
    }

    /// Whether what sessions begin with may have changed since this was asked last.
    pub(super) fn take_new_defaults(&mut self) -> bool {
        std::mem::take(&mut self.new_defaults)
    }

    /// It has changed code on this server, unseen by [`Client::look_for_hidden`].
    pub(super) fn changes_code(&mut self, place: Place, new: NewCode) {
        self.place = place;
        self.changes = true;
        self.follow_made(new);
    }

    /// The transaction is over, and everything answered.
    pub(super) fn ended(&mut self) {
        (self.changes, self.own_code, self.sets, self.makes_setter) = (false, false, false, false);
        self.notifies = false;
        if let Some(change) = self.change.take() {
            change.end();
        }
    }
}

impl Client {
    /// Looks at the segment that is about to be sent for what it may leave behind.
    pub(super) fn look_for_hidden(&mut self, judged: &mut Judged, place: Place) {
        if self.pools.mode == PoolMode::Session {
            let mut facts = self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
            judged.new_defaults |= facts.any(|facts| facts.changes_defaults());
            return;
        }
        let shard = place.shard;
        judged.place = place;
        let database = Arc::clone(&self.database);
        let Some(of_shard) = database.hidden.shards.get(usize::from(shard.0)) else { return };
        let known = of_shard.known.load();
        let counts = || {
            let (begun, now) = (database.hidden.changes.begun.load(Ordering::Acquire), clock::now());
            known.as_deref().filter(|known| known.counts(begun, now))
        };
        let mut at = 0_usize;
        for n in 0..self.segment.items.len() {
            let Some((intake, len)) = self.segment.items.get(n) else { break };
            let frame = self.input.bytes().get(at..at.saturating_add(*len)).unwrap_or_default();
            at = at.saturating_add(*len);
            let (facts, own_types) = match intake {
                Intake::Query(facts) => {
                    judged.follow_text(facts, frame.get(5..).unwrap_or_default(), counts);
                    (Arc::clone(facts), false)
                }
                Intake::Bind { statement: Some(statement), .. } => {
                    judged.follow_text(&statement.facts, &statement.sql, counts);
                    (Arc::clone(&statement.facts), statement.has_foreign_types())
                }
                Intake::Bind { statement: None, named: Some(name), .. } => {
                    let may_run: Vec<_> = self.session.may_stand_for(name).map(Arc::clone).collect();
                    may_run.iter().for_each(|facts| self.judge(facts, false, judged, known.as_deref()));
                    continue;
                }
                Intake::FunctionCall => {
                    if !is_large_object(frame) {
                        self.doubt(judged, known.as_deref());
                    }
                    continue;
                }
                // The server passes over what follows.
                Intake::Refuse { .. } => break,
                _ => continue,
            };
            // And what SQL runs that was prepared before.
            let executed: Vec<_> = self.session.runs(&facts).map(Arc::clone).collect();
            for facts in std::iter::once(facts).chain(executed) {
                self.judge(&facts, own_types, judged, known.as_deref());
            }
        }
        if judged.stamp.is_some() {
            judged.database.get_or_insert_with(|| Arc::clone(&database));
            self.learn_hidden(&[shard]);
        }
    }

    fn judge(&mut self, facts: &Arc<QueryFacts>, own_types: bool, judged: &mut Judged, known: Option<&Known>) {
        judged.new_defaults |= facts.changes_defaults();
        let database = &self.database;
        if facts.prepares_transaction() && (judged.changes || facts.changes_code()) {
            database.hidden.changes.prepared.store(true, Ordering::Release);
        }
        if hidden::is_plain_text(facts) && !own_types && !(judged.changes && facts.commits()) {
            return;
        }
        let (begun, now, place) = (database.hidden.changes.begun.load(Ordering::Acquire), clock::now(), judged.place);
        judged.stamp.get_or_insert(begun);
        let lately = known;
        let known = known.filter(|known| known.counts(begun, now));
        let traces = known.map(|known| known.of_text(facts, own_types, place.replica, now));
        let finishes = facts.finishes_prepared() && database.hidden.changes.prepared.load(Ordering::Acquire);
        let changes = finishes || facts.changes_code() || traces.is_some_and(Traces::changes_code);
        // What this transaction has made is seen by what comes after it in this transaction alone.
        let makes_own = facts.changes_code() || facts.makes_own_code();
        let sees_own = judged.changes || judged.own_code || (makes_own && facts.statements.len() > 1);
        if sees_own && !hidden::is_plain_text(facts) {
            self.doubt(judged, lately);
        }
        judged.follow_sets(facts, own_types, sees_own, known);
        judged.changes |= changes;
        judged.own_code |= facts.makes_own_code();
        if judged.changes && judged.change.is_none() && (self.may_commit_alone() || facts.commits()) {
            let (change, before) = Change::begin(database, place.shard, place.pid);
            if judged.stamp == Some(before) {
                judged.stamp = Some(before.wrapping_add(1));
            }
            judged.change = Some(change);
        }
        judged.writes |= known.is_some_and(|known| known.may_write(facts, own_types));
        match traces {
            Some(traces) => {
                judged.dirty |= traces.is_unknown();
                judged.spoilt |= self.is_spoilt_by(traces);
                judged.notifies |= traces.notifies();
                judged.asks |= traces.asks_sequences();
                let messages = self.segment.items.len();
                traces.kinds().for_each(|reason| self.session.pin_ahead(messages, reason, Some(facts)));
                let by_default = known.is_some_and(|known| known.census.may_make_temp(facts, traces));
                if by_default || (traces.is_unknown() && self.session.may_make_temp_unseen()) {
                    self.session.pin_ahead(messages, PinReason::TempObject, Some(facts));
                }
            }
            None => {
                type Undecided = (Arc<QueryFacts>, bool, u64);
                let again = |(known, types, _): &&mut Undecided| Arc::ptr_eq(known, facts) && *types == own_types;
                let known = judged.undecided.iter_mut().find(again);
                if let Some((_, _, number)) = known {
                    // What becomes of one of them is not what becomes of all.
                    *number = u64::MAX;
                } else if judged.undecided.len() >= UNDECIDED {
                    // So many are not looked at one by one.
                    (judged.writes, judged.sets) = (true, true);
                    self.doubt(judged, lately);
                } else {
                    let number = self.session.number_ahead(self.segment.items.len());
                    judged.undecided.push((Arc::clone(facts), own_types, number));
                }
            }
        }
    }

    /// Whether what is sent now takes effect without a COMMIT that is yet to come.
    fn may_commit_alone(&self) -> bool {
        match self.session.status() {
            TransactionStatus::Idle => true,
            TransactionStatus::InTransaction => false,
            // A ROLLBACK may have been sent that is not answered yet, or stand in front. To a block of several shards nothing is sent
            // behind one, and what has failed there takes effect in no case.
            TransactionStatus::Failed => self.spread.is_none(),
        }
    }

    /// Whether it is known for certain that an ordinary text leaves nothing behind on the shard's primary, or on a `replica`. Then how many
    /// changes of code have begun: once there are more, it may have run other code than was read; none: it runs nobody's.
    pub(super) fn leaves_nothing(
        &self,
        facts: &Arc<QueryFacts>,
        own_types: bool,
        (shard, replica): (ShardIndex, bool),
    ) -> Option<Option<u64>> {
        if own_types {
            return None;
        }
        if hidden::is_plain_text(facts) {
            return Some(None);
        }
        let hidden = &self.database.hidden;
        let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::moment());
        let mut harmless = self.cx.harmless.borrow_mut();
        if harmless.has(facts, (hidden.id, shard, replica, begun), now) {
            return Some(Some(begun));
        }
        let known = hidden.shards.get(usize::from(shard.0))?.known.load();
        // Beyond its time somebody must have it taken anew.
        let known = known.as_ref().filter(|known| known.stamp == begun && now < known.until)?;
        // What takes values of sequences does so without a word.
        let silent = known.of_text(facts, false, replica, now).is_none()
            && (facts.access() == Access::Write || !known.may_write(facts, false));
        silent.then(|| {
            harmless.add(facts, (hidden.id, shard, replica, begun), known.until);
            Some(begun)
        })
    }

    /// Whether code that a text runs on the shard's primary asks for values of sequences, as far as it is known.
    pub(super) fn asks_unseen(&self, facts: &QueryFacts, shard: ShardIndex) -> bool {
        if hidden::is_plain_text(facts) {
            return false;
        }
        let known = self.database.hidden.shards.get(usize::from(shard.0)).and_then(|shard| shard.known.load_full());
        known.is_some_and(|known| known.of_text(facts, false, false, clock::now()).asks_sequences())
    }

    /// Whether code that the segment runs on the shard's primary asks for values of sequences.
    pub(super) fn segment_asks_unseen(&self, shard: ShardIndex) -> AsksUnseen {
        let hidden = &self.database.hidden;
        let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::now());
        let known = hidden.shards.get(usize::from(shard.0)).and_then(|shard| shard.known.load_full());
        let known = known.filter(|known| known.counts(begun, now));
        if known.is_some() && !hidden.changes.asks_sequences.load(Ordering::Acquire) {
            return AsksUnseen::No;
        }
        let of_text = |facts: &QueryFacts, own_types: bool| match &known {
            _ if hidden::is_plain_text(facts) && !own_types => AsksUnseen::No,
            Some(known) if !known.of_text(facts, own_types, false, now).asks_sequences() => AsksUnseen::No,
            Some(_) => AsksUnseen::Yes,
            None => AsksUnseen::Unknown,
        };
        let of_one = |intake: &Intake| match intake {
            Intake::Query(facts) => {
                let executed = self.session.runs(facts).map(|facts| of_text(facts, false));
                executed.chain([of_text(facts, false)]).max()
            }
            Intake::Bind { statement: Some(statement), .. } => {
                let executed = self.session.runs(&statement.facts).map(|facts| of_text(facts, false));
                executed.chain([of_text(&statement.facts, statement.has_foreign_types())]).max()
            }
            Intake::Bind { statement: None, named: Some(name), .. } => {
                self.session.may_stand_for(name).map(|facts| of_text(facts, false)).max()
            }
            _ => None,
        };
        self.segment.items.iter().filter_map(|(intake, _)| of_one(intake)).max().unwrap_or(AsksUnseen::No)
    }

    /// Ends when a census of the shard counts.
    ///
    /// # Errors
    /// `otherwise`, if none does soon.
    pub(super) fn knows_code(&self, shard: ShardIndex, otherwise: Error) -> LookUp {
        self.learn_hidden(&[shard]);
        let (database, pools, worker) = (Arc::clone(&self.database), Arc::clone(&self.pools), self.cx.id);
        Box::pin(async move {
            let began = clock::now();
            while !database.hidden.is_known(shard) {
                if clock::now().saturating_duration_since(began) >= LONGEST {
                    return Err(otherwise);
                }
                tokio::time::sleep(PAUSE / 5).await;
                learn(&database, &pools, worker, shard);
            }
            Ok(())
        })
    }

    /// Whether there have been changes of code since there were so many, if that matters.
    pub(super) fn has_other_code(&self, stamp: Option<u64>) -> bool {
        stamp.is_some_and(|stamp| self.database.hidden.changes.begun.load(Ordering::Acquire) != stamp)
    }

    /// Why the server would be kept after this, if it is known now what the code does that it calls.
    pub(super) fn hidden_pin(
        &self,
        facts: &QueryFacts,
        own_types: bool,
        shard: ShardIndex,
        replica: bool,
    ) -> Option<PinReason> {
        if hidden::is_plain_text(facts) && !own_types {
            return None;
        }
        let hidden = &self.database.hidden;
        let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::now());
        let known = hidden.shards.get(usize::from(shard.0))?.known.load_full().filter(|k| k.counts(begun, now))?;
        known.of_text(facts, own_types, replica, now).kinds().next()
    }

    /// In what state servers of these shards are given back that run the segment without a link, as far as it is known.
    pub(super) fn verdict_behind(&self, shards: &[ShardIndex]) -> Verdict {
        let hidden = &self.database.hidden;
        let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::now());
        let facts = self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
        let facts = facts.filter(|facts| !hidden::is_plain_text(facts));
        let of_one = |facts: &QueryFacts, shard: &ShardIndex| {
            let known = hidden.shards.get(usize::from(shard.0)).and_then(|shard| shard.known.load_full());
            // It may be run on replicas. An old census tells of what no reset ends, and so does the text.
            let traces = known.as_ref().map_or_else(|| hidden::of_any(facts), |k| k.of_text(facts, true, true, now));
            if traces.kinds().any(PinReason::outlives_discard) || self.is_spoilt_by(traces) {
                Verdict::Spoilt
            } else if !known.as_ref().is_some_and(|known| known.counts(begun, now)) {
                self.verdict_in_doubt(known.as_deref())
            } else if traces.is_none() {
                Verdict::Clean
            } else {
                Verdict::Dirty
            }
        };
        let verdicts = facts.flat_map(|facts| shards.iter().map(move |shard| of_one(facts, shard)));
        verdicts.max().unwrap_or(Verdict::Clean).max(self.verdict_of_unused())
    }

    /// Whether code that the segment runs on this shard, unseen, sends notifications, as far as it is known.
    pub(super) fn code_notifies(&self, shard: ShardIndex) -> bool {
        let Some(known) = self.database.hidden.shards.get(usize::from(shard.0)).and_then(|s| s.known.load_full())
        else {
            return false;
        };
        let now = clock::now();
        let mut facts = self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
        facts.any(|facts| !hidden::is_plain_text(facts) && known.of_text(facts, true, true, now).notifies())
    }

    /// In what state a server is given back that has run nothing.
    pub(super) fn verdict_of_unused(&self) -> Verdict {
        if self.live.config.general.server_reset_query_always { Verdict::Dirty } else { Verdict::Clean }
    }

    /// Has the code of shards learned that is not known.
    pub(super) fn learn_hidden(&self, shards: &[ShardIndex]) {
        shards.iter().for_each(|shard| learn(&self.database, &self.pools, self.cx.id, *shard));
    }

    /// `temp`: it may have made temporary objects, by what `search_path` is where nobody has set it.
    fn apply(&mut self, (traces, temp): (Traces, bool), (facts, number): (&Arc<QueryFacts>, u64), judged: &mut Judged) {
        judged.dirty |= traces.is_unknown();
        judged.spoilt |= self.is_spoilt_by(traces);
        judged.notifies |= traces.notifies();
        let temp = temp || (traces.is_unknown() && self.session.may_make_temp_unseen());
        let temp = temp.then_some(PinReason::TempObject);
        for reason in traces.kinds().chain(temp) {
            self.session.pin_behind(number, reason, Some(facts));
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

    /// What sessions of a role or a database begin with has changed: connections that were made before have it otherwise, and are closed when
    /// they are given back. What servers say at login is asked again.
    pub(super) fn leave_old_defaults(&self) {
        let databases = self.live.all().into_iter().chain(self.live.all_made());
        for database in databases.filter(|database| is_same(database, &self.database)) {
            database.pools().iter().for_each(|pool| pool.close_all());
            database.users().iter().for_each(|pools| pools.welcome.lock().forget());
        }
    }

    /// Makes up its mind about a server that could be given back now: it may turn out to be pinned.
    pub(super) fn settle_hidden(&mut self, judged: &mut Judged, shard: ShardIndex) {
        let Some(stamp) = judged.stamp else { return };
        let hidden = &self.database.hidden;
        let changed = hidden.changes.begun.load(Ordering::Acquire) != stamp;
        if !changed && judged.undecided.is_empty() {
            return;
        }
        let (known, now) = (hidden.shards.get(usize::from(shard.0)).and_then(|s| s.known.load_full()), clock::now());
        if changed || known.as_ref().is_none_or(|k| !k.counts(stamp, now)) {
            self.doubt(judged, known.as_deref());
        }
        if judged.undecided.is_empty() {
            return;
        }
        judged.writes |= judged.may_have_written();
        let mut changes = false;
        for (facts, own_types, number) in std::mem::take(&mut judged.undecided) {
            // An old census tells of what no reset ends, and so does the text.
            let traces = match &known {
                Some(known) => known.of_text(&facts, own_types, judged.place.replica, now),
                None => hidden::of_any(&facts),
            };
            changes |= traces.changes_code();
            let temp = known.as_ref().is_some_and(|known| known.census.may_make_temp(&facts, traces));
            self.apply((traces, temp), (&facts, number), judged);
        }
        if changes {
            // It has, by now; what was known of it counts no more.
            Change::begin(&self.database, shard, judged.place.pid).0.end();
            self.doubt(judged, known.as_deref());
        }
    }
}

/// Has the code of a shard learned, if it is not known and nobody does already.
fn learn(database: &Arc<LiveDatabase>, pools: &Arc<UserPools>, worker: WorkerId, shard: ShardIndex) {
    let hidden = &database.hidden;
    let Some(of_shard) = hidden.shards.get(usize::from(shard.0)) else { return };
    let begun = hidden.changes.begun.load(Ordering::Acquire);
    let counts = of_shard.known.load().as_ref().is_some_and(|k| k.stamp == begun && clock::now() < k.until);
    if !counts && !of_shard.asking.swap(true, Ordering::AcqRel) {
        let asking = Asking { database: Arc::clone(database), shard };
        let pools = Arc::clone(pools);
        tokio::task::spawn_local(async move { asking.learn(&pools, worker).await });
    }
}

/// Ends when the shard is known as it is now, or nobody asks.
async fn next_census(database: Arc<LiveDatabase>, shard: ShardIndex) {
    let hidden = &database.hidden;
    let Some(shard) = hidden.shards.get(usize::from(shard.0)) else { return };
    let mut over = std::pin::pin!(shard.over.notified());
    over.as_mut().enable();
    let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::now());
    let is_known = shard.known.load().as_ref().is_some_and(|k| k.counts(begun, now));
    if !is_known && shard.asking.load(Ordering::Acquire) && !shard.failed.load(Ordering::Relaxed) {
        // Whether it came in time is seen by what is known then.
        drop(tokio::time::timeout(LONGEST, over).await);
    }
}

/// Whether a FunctionCall is of a function for large objects.
pub(super) fn is_large_object(frame: &[u8]) -> bool {
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
        self.bury(pools, worker).await;
        let stamp = hidden.changes.ended.load(Ordering::Acquire);
        if hidden.changes.begun.load(Ordering::Acquire) != stamp {
            // What somebody left behind may go on for long.
            let pause = if hidden.changes.abandoned.lock().is_empty() { PAUSE } else { RETRY };
            *shard.pause.lock() = Some(clock::now() + pause);
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
                let known = Known { census: Arc::new(census), stamp, until, before: Vec::new() };
                let now = clock::now();
                shard.known.store(Some(Arc::new(known.after(shard.known.load().as_deref(), now))));
                PAUSE.max(took.saturating_mul(SHARE_OF_CHANGES))
            }
            Err(error) => {
                self.keep(shard, stamp);
                if !shard.failed.swap(true, Ordering::Relaxed) {
                    let database = &self.database.config.name;
                    tracing::warn!(database, %error, "servers are reset after any use of tables and functions: their code is not known");
                }
                RETRY
            }
        };
        *shard.pause.lock() = Some(clock::now() + pause);
    }

    /// Without a primary nothing changes there either: what is known goes on counting until the next attempt.
    fn keep(&self, shard: &Shard, stamp: u64) {
        let now = clock::now();
        let health = self.database.health.get(usize::from(self.shard.0));
        let Some(known) = shard.known.load_full().filter(|known| known.counts(stamp, now)) else { return };
        if !health.is_some_and(|health| health.has_primary(now)) {
            let (census, before) = (Arc::clone(&known.census), known.before.clone());
            shard.known.store(Some(Arc::new(Known { census, stamp, until: now + RETRY, before })));
        }
    }

    /// Finds out which of the changes are over whose clients have gone.
    async fn bury(&self, pools: &UserPools, worker: WorkerId) {
        let hidden = &self.database.hidden;
        let abandoned = hidden.changes.abandoned.lock().clone();
        let mut shards: Vec<_> = abandoned.iter().map(|change| change.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        for shard in shards {
            let pids: Vec<_> = abandoned.iter().filter(|change| change.shard == shard).map(|c| c.pid).collect();
            let there = match primary_pool(&self.database, pools, shard) {
                Ok(pool) => server::hidden::there(&pool.target, &pool.login_settings(), worker, &pids).await,
                Err(error) => Err(error),
            };
            let now = clock::now();
            let is_over = |change: &Abandoned| {
                let gone = there.as_ref().is_ok_and(|there| !there.contains(&change.pid));
                abandoned.contains(change)
                    && change.shard == shard
                    && (gone || now.saturating_duration_since(change.since) > FORGOTTEN)
            };
            let mut all = hidden.changes.abandoned.lock();
            let before = all.len();
            all.retain(|change| !is_over(change));
            hidden.changes.ended.fetch_add((before - all.len()) as u64, Ordering::AcqRel);
        }
    }

    async fn ask(&self, pools: &UserPools, worker: WorkerId) -> Result<Census, Error> {
        let pool = primary_pool(&self.database, pools, self.shard)?;
        let rows = server::hidden::ask(&pool.target, &pool.login_settings(), worker).await?;
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
