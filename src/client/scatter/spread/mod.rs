//! A transaction block that several shards take part in.
//!
//! ```text
//! begins on one shard ──a statement needs others──▶ each other one is begun in the same way when it is first needed
//!        statements of one shard: the relay         statements of several: together, or none, and then the block has failed
//!        SAVEPOINT, ROLLBACK TO, SET LOCAL: all     COMMIT: as `shard::commit` orders; ROLLBACK: all
//! ```
//!
//! What a shard that comes later must be told is kept as a text, the prologue: BEGIN with its modes, and since then whatever changed settings of
//! the transaction or savepoints. What cannot be told again (settings of the session, temporary objects) keeps the block on its shard. Only READ
//! COMMITTED spreads: two shards have no common snapshot.
//!
//! While the client rests the connections lie here; the relay takes one when a statement belongs to it, and puts it back for the next. When
//! a statement fails that several shards were given, all roll back at once, and the block is a failed one (`client::lost`) that no savepoint
//! brings back. After a failure on one shard alone ROLLBACK TO goes on, on all.

mod end;
mod enlist;
mod implicit;
mod means;
mod portals;
mod prologue;
mod refusal;
mod unseen;

use std::sync::Arc;
use std::time::Instant;

use super::fan::{reply, temp_on_several};
use super::leg::Leg;
use super::run::{Outcome, Run};
use crate::client::catalog::Planned;
use crate::client::hidden::{Judged, Place};
use crate::client::plan::{Need, Question};
use crate::client::relay::{Ended, Link, lock_on_replica};
use crate::client::segment::Segment;
use crate::client::shared::{Activity, Links};
use crate::client::task::{Client, End, Stopped};
use crate::client::token;
use crate::clock;
use crate::config::{PoolMode, Role};
use crate::error::Error;
use crate::id::{ServerIndex, ShardIndex};
use crate::pool::Verdict;
use crate::shard::commit::recovery;
use crate::shard::plan::write::Parts;
use crate::shard::plan::{Fan, PlanKind, Scatter, ShardPlan};
use crate::sql::facts::{Access, RouteHint, StatementFacts, TransactionEffect};
use crate::wire::encode;
use crate::wire::message::TransactionStatus;
pub(in crate::client) use means::{Back, Means, has_savepoints, is_plain};
use portals::Portal;
pub(in crate::client) use prologue::Prologue;
pub(in crate::client) use refusal::{aborted, code_unknown, no_two_phase, pipelined, stays};
use refusal::{alone, apart, cursor_elsewhere, explains, fault, lost, mixed, sequences, too_long};

/// A shard's part of a block.
#[expect(clippy::struct_excessive_bools, reason = "each tells another thing that has happened on the server")]
pub(in crate::client) struct Part {
    pub(in crate::client) shard: ShardIndex,
    /// Away while it is asked together with others.
    pub(in crate::client) leg: Option<Leg>,
    pub(in crate::client) role: Role,
    pub(in crate::client) server: ServerIndex,
    /// It was treated as a write.
    pub(in crate::client) wrote: bool,
    /// It may know of sequences by it.
    pub(in crate::client) has_written: bool,
    pub(in crate::client) changes_catalog: bool,
    /// Listeners are to be told something when it is committed.
    pub(in crate::client) notifies: bool,
    pub(in crate::client) judged: Judged,
    /// In what state it is given back at best.
    pub(in crate::client) leaves: Verdict,
}

/// A block over several shards.
pub(in crate::client) struct Spread {
    /// In the order of the shards.
    parts: Vec<Part>,
    /// What a shard that comes later is told first.
    prologue: Prologue,
    /// Where it began, and where statements go that belong to no shard.
    home: ShardIndex,
    /// When it began.
    since: Instant,
    /// Its shards are known to run it READ COMMITTED.
    sees_commits: bool,
    /// ROLLBACK TO has perhaps taken back for how long its shards wait for locks.
    unlimited: bool,
    /// Statements whose rows the client has asked for in part.
    portals: Vec<Portal>,
    /// The client's names of those that have written, whose rest is not kept.
    curtailed: Vec<Box<[u8]>>,
    /// On which shards the client has bound its other portals since the block spread.
    bound: Vec<(Box<[u8]>, ShardIndex)>,
    /// What home has been sent that belongs to the block as a whole, until it has answered.
    telling: Telling,
    /// Home has not done what the others have, or has done it alone: the block cannot go on.
    apart: bool,
}

/// A text for the block as a whole that home is the last to get.
#[derive(Default)]
enum Telling {
    #[default]
    Nothing,
    /// The others have done it.
    All {
        /// The prologue with it.
        longer: Prologue,
        /// It makes savepoints, or releases them.
        saves: bool,
    },
    /// The others were not asked, for home is to refuse it.
    Alone,
}

impl Spread {
    fn new(parts: Vec<Part>, prologue: Prologue, home: ShardIndex, since: Instant) -> Self {
        Self {
            parts,
            prologue,
            home,
            since,
            sees_commits: false,
            unlimited: false,
            portals: Vec::new(),
            curtailed: Vec::new(),
            bound: Vec::new(),
            telling: Telling::Nothing,
            apart: false,
        }
    }

    /// Whether it may have changed what the catalog says.
    pub(super) fn changes_catalog(&self) -> bool {
        self.parts.iter().any(|part| part.changes_catalog)
    }

    /// Whether names may mean something else in it than in other transactions, or in none.
    pub(super) fn sees_otherwise(&self) -> bool {
        let plain = |statement: &StatementFacts| {
            matches!(
                statement.transaction,
                TransactionEffect::Begin { .. }
                    | TransactionEffect::Savepoint
                    | TransactionEffect::Release
                    | TransactionEffect::RollbackTo
            )
        };
        self.changes_catalog() || !self.prologue.statements().all(plain)
    }

    /// Whether a setting, its name in lower case, may be the transaction's own: what is reported is known for what it is.
    pub(super) fn may_name(&self, setting: &str) -> bool {
        self.prologue.may_name(setting)
    }

    fn has_written(&self) -> bool {
        self.parts.iter().any(|part| part.has_written)
    }

    /// Home has answered; `goes_on`: the transaction does there. What has failed is no part of what others are told. That the others have
    /// set something then makes no difference, for only going back ends the failure; but they must have the same savepoints for that.
    fn home_has_answered(&mut self, goes_on: bool) {
        match std::mem::take(&mut self.telling) {
            Telling::Nothing => {}
            Telling::All { longer, .. } if goes_on => self.prologue = longer,
            Telling::All { saves, .. } => self.apart |= saves,
            Telling::Alone => self.apart |= goes_on,
        }
    }

    /// One of its servers has what no reset ends; which one is not known.
    fn is_spoilt(&mut self) {
        self.parts.iter_mut().for_each(|part| part.leaves = Verdict::Spoilt);
    }

    fn put(&mut self, part: Part) {
        let at = self.parts.partition_point(|other| other.shard < part.shard);
        self.parts.insert(at, part);
    }

    fn take(&mut self, shard: ShardIndex) -> Option<Part> {
        let at = self.parts.iter().position(|part| part.shard == shard)?;
        Some(self.parts.remove(at))
    }

    fn has(&self, shard: ShardIndex) -> bool {
        self.parts.iter().any(|part| part.shard == shard)
    }
}

impl Client {
    /// Whether a block of one shard can go on with others; `told`: it is known what they must be told.
    pub(in crate::client) fn may_spread(&self, told: bool) -> bool {
        told && self.pools.mode == PoolMode::Transaction
            && self.session.pins().is_empty()
            && !self.session.settings().needs_server()
            && !self.session.is_skipping()
            && !self.session.has_lent()
            // What it is to hear and to tell hangs on one commit.
            && self.listener.is_none()
    }

    /// When the block of several shards began that is open.
    pub(in crate::client) fn begun_at(&self) -> Option<Instant> {
        self.spread.as_ref().map(|spread| spread.since)
    }

    /// A shard of the block has answered everything that it was sent by itself.
    pub(in crate::client) fn part_has_answered(&mut self) {
        let goes_on = self.session.status() == TransactionStatus::InTransaction;
        if let Some(spread) = &mut self.spread {
            spread.home_has_answered(goes_on);
        }
    }

    /// Whether the block cannot go on, for its shards have not done the same.
    pub(in crate::client) fn is_apart(&self) -> bool {
        self.spread.as_ref().is_some_and(|spread| spread.apart)
    }

    /// Whether another shard of the block than the one that is served by itself may have written.
    pub(in crate::client) fn others_may_have_written(&self) -> bool {
        let wrote = |part: &Part| part.wrote || part.has_written || part.judged.may_have_written();
        self.spread.iter().flat_map(|spread| &spread.parts).any(wrote)
    }

    /// Whether the shard is where statements go that belong to none.
    pub(in crate::client) fn is_home(&self, shard: ShardIndex) -> bool {
        self.spread.as_ref().is_none_or(|spread| spread.home == shard)
    }

    /// The relay leaves its server for others: the block goes on with several shards.
    pub(in crate::client) fn spread_from(&mut self, link: Box<Link>) {
        let shard = link.shard();
        let replaceable = self.replicated(shard).is_some();
        let since = link.since();
        let place = (shard, link.server());
        let within = |checkout, in_flight| Leg::within_block(checkout, in_flight, place, (since, replaceable));
        let (part, prologue) = link.into_part(within);
        match (&mut self.spread, prologue) {
            (Some(spread), _) => spread.put(part),
            (none, Some(prologue)) => *none = Some(Box::new(Spread::new(vec![part], prologue, shard, since))),
            // Never: without a prologue it does not leave.
            (None, None) => drop(part.leg.map(|leg| leg.undo(Verdict::Dirty, part.judged))),
        }
    }

    /// Rolls back what is open on shards while the client has no server, because it goes.
    pub(in crate::client) fn drop_spread(&mut self) {
        let Some(mut spread) = self.spread.take() else { return };
        self.settle_ended(&mut spread);
        for part in spread.parts {
            let verdict = part.leaves.max(part.judged.least()).max(Verdict::Dirty);
            let Some(mut leg) = part.leg else { continue };
            self.forget(&mut leg, part.has_written);
            drop(leg.undo(verdict, part.judged));
        }
    }

    /// Serves a segment within a block of several shards.
    pub(in crate::client) async fn serve_spread(&mut self) -> Result<(), End> {
        if !self.segment.needs_server() && self.answer_locally() {
            return Ok(());
        }
        let failed = self.session.status() == TransactionStatus::Failed;
        if self.is_apart() {
            return self.end_apart(failed).await;
        }
        match self.sole_show().filter(|_| !failed) {
            Some(token::NAME) => return Box::pin(self.show_token()).await,
            Some(name) => {
                self.show_own(name, TransactionStatus::InTransaction);
                return Ok(());
            }
            None => {}
        }
        if self.changes_own() && self.answer_own(self.session.status()) {
            return Ok(());
        }
        if !failed && self.touches_portals() {
            match Box::pin(self.serve_portals()).await {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(end) => return Err(end),
            }
        }
        match self.means() {
            Means::Exit(TransactionEffect::Commit { .. }) if !failed => return Box::pin(self.commit_spread()).await,
            Means::Exit(_) => {
                self.roll_back_spread().await;
                return Ok(());
            }
            Means::Control(text, back) if back == Back::First || !failed => {
                let text = text.to_vec();
                // What it sets may decide where statements go, and is refused then.
                return match Box::pin(self.plan_within()).await {
                    Ok(None) => Ok(()),
                    Ok(Some(_)) => Box::pin(self.tell_all(&text, back)).await,
                    Err(Stopped::Refused(error)) => self.fail_spread(error).await,
                    Err(Stopped::End(end)) => Err(end),
                };
            }
            Means::Mixed if failed => return self.fail_spread(aborted()).await,
            Means::Mixed => return self.serve_mixed().await,
            Means::Control(..) | Means::Plain => {}
        }
        if failed {
            // The shard that failed says so.
            let need = self.need_of_any();
            return Box::pin(self.serve_part(self.home(), &need)).await;
        }
        let until = self.known_until();
        let ready = match self.limit_again().await {
            Ok(()) => Box::pin(self.all_is_told(until)).await,
            stopped => stopped,
        };
        match ready {
            Ok(()) => {}
            Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
            Err(Stopped::End(end)) => return Err(end),
        }
        let need = match Box::pin(self.plan_within()).await {
            Ok(Some(need)) => need,
            Ok(None) => return Ok(()),
            Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
            Err(Stopped::End(end)) => return Err(end),
        };
        self.count_plan(need.plan.kind());
        if self.asks_sequences() {
            // The shard that it would be asked of need not be the one where this session has called nextval().
            return self.fail_spread(sequences()).await;
        }
        let shard = match &need.plan {
            ShardPlan::Single { shard, .. } => *shard,
            _ => self.bound_at().unwrap_or(self.home()),
        };
        match Box::pin(self.sets_nothing_unseen(&need, shard, until)).await {
            Ok(()) => {}
            Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
            Err(Stopped::End(end)) => return Err(end),
        }
        match &need.plan {
            ShardPlan::Scatter(scatter) => Box::pin(self.scatter_within(&need, scatter)).await,
            ShardPlan::Fan(fan) => Box::pin(self.fan_on_all(&need, fan)).await,
            ShardPlan::Single { .. } if shard != self.home() && self.declares_cursor() => {
                self.fail_spread(cursor_elsewhere()).await
            }
            ShardPlan::Single { .. }
            | ShardPlan::AnyShard { .. }
            | ShardPlan::NeedsParameter { .. }
            | ShardPlan::Reject(_) => Box::pin(self.serve_part(shard, &need)).await,
        }
    }

    /// Serves what is for all shards and cannot be told them as it stands: piece by piece, if it is a pipeline.
    async fn serve_mixed(&mut self) -> Result<(), End> {
        if self.cut_up(self.block_has_done()) {
            return Ok(());
        }
        let error = if self.asks_sequences() { sequences() } else { mixed() };
        self.fail_spread(error).await
    }

    /// Whether the block may have changed the catalog, and has written.
    fn block_has_done(&self) -> (bool, bool) {
        self.spread.as_ref().map_or((false, false), |spread| (spread.changes_catalog(), spread.has_written()))
    }

    /// What the segment needs. None: it has been cut, and is its first piece now.
    async fn plan_within(&mut self) -> Result<Option<Need>, Stopped> {
        let (changes, wrote) = self.block_has_done();
        loop {
            let planned = self.plan(true, changes, wrote);
            if self.cut(&planned, (changes, wrote)) {
                return Ok(None);
            }
            let looking_up = match planned {
                Planned::Need(need) => return Ok(Some(need)),
                Planned::Refused(error) => {
                    self.count_plan(PlanKind::Refused);
                    return Err(Stopped::Refused(error));
                }
                Planned::Ask(questions) => self.look_up(questions),
                Planned::Weigh(names) => self.look_up_readings(names),
            };
            Box::pin(self.ask_first(looking_up)).await?;
        }
    }

    /// The block's shards have not done the same: it can only be ended.
    async fn end_apart(&mut self, failed: bool) -> Result<(), End> {
        match self.leaves_block() {
            Some(TransactionEffect::Commit { .. }) if !failed => self.refuse_commit(&apart()).await,
            Some(_) => {
                self.roll_back_spread().await;
                Ok(())
            }
            None => self.fail_spread(apart()).await,
        }
    }

    fn home(&self) -> ShardIndex {
        self.spread.as_ref().map_or(self.database.config.map.default_shard, |spread| spread.home)
    }

    /// What a statement needs that goes where the block is.
    pub(super) fn need_of_any(&self) -> Need {
        Need {
            access: Access::Neutral,
            hint: RouteHint::Primary,
            begin_read_only: false,
            changes_catalog: false,
            asks_sequences: false,
            question: Question::None,
            wrote: false,
            plan: ShardPlan::AnyShard { why: "within a block of several shards" },
        }
    }

    /// Has one of the shards serve the segment, and what follows it there.
    async fn serve_part(&mut self, shard: ShardIndex, need: &Need) -> Result<(), End> {
        if self.session.status() == TransactionStatus::InTransaction {
            let ready = match self.enlist(&[shard]).await {
                Ok(()) if need.access == Access::Write => self.may_write_on(&[shard]).await,
                ready => ready,
            };
            match ready {
                Ok(()) => {}
                Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
                Err(Stopped::End(end)) => return Err(end),
            }
        }
        let on_replica = |part: &Part| part.shard == shard && part.role == Role::Replica;
        if self.takes_lock() && self.spread.iter().flat_map(|spread| &spread.parts).any(on_replica) {
            return self.fail_spread(lock_on_replica()).await;
        }
        let Some(spread) = &mut self.spread else { return Ok(()) };
        if self.session.spoils_server() {
            // Should its server be lost, the session forgets what it has made.
            spread.is_spoilt();
        }
        let since = spread.since;
        let Some(link) = spread.take(shard).and_then(|part| Link::of_part(part, since)) else {
            return self.fail_spread(fault()).await;
        };
        let (ended, wrote) = self.relay(link, need).await;
        if wrote {
            self.has_written(clock::now());
        }
        match ended {
            Ended::Spread(link) => {
                self.spread_from(link);
                Ok(())
            }
            // It was lost, and the session goes on without the block.
            Ended::Released => {
                self.drop_spread();
                Ok(())
            }
            Ended::Client(end) => Err(end),
            // It is no read that can be tried again.
            Ended::Retry(_) | Ended::Again | Ended::PassedOver { .. } => Err(End::Told(fault().fatal())),
        }
    }

    /// Has all shards do what belongs to the transaction as a whole; the client gets the answer of one.
    async fn tell_all(&mut self, text: &[u8], back: Back) -> Result<(), End> {
        let home = self.home();
        if self.session.status() == TransactionStatus::InTransaction {
            // Constraints that are checked at once from now on wait for locks.
            match self.limit_again().await {
                Ok(()) => {}
                Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
                Err(Stopped::End(end)) => return Err(end),
            }
        }
        let said = self.cx.facts.borrow_mut().get(text);
        let Some(spread) = &mut self.spread else { return Ok(()) };
        if !has_savepoints(spread.prologue.statements().chain(&said.statements)) {
            // One shard says what is wrong, and after that as after any failure there ROLLBACK TO goes on.
            spread.telling = Telling::Alone;
            let need = self.need_of_any();
            return Box::pin(self.serve_part(home, &need)).await;
        }
        if back != Back::No {
            // Those that were opened behind the savepoint are gone on the shards.
            spread.portals.clear();
            spread.curtailed.clear();
            spread.unlimited = true;
        }
        let Some(longer) = spread.prologue.clone().and(text, Arc::clone(&said)) else {
            return self.fail_spread(too_long()).await;
        };
        // What it waits for there is for the client to bear, as on one server.
        match self.ask_parts(|shard| shard != home, async |leg: &mut Leg| run_on(leg, text).await).await {
            Ok(_) => {}
            Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
            Err(Stopped::End(end)) => return Err(end),
        }
        let saves =
            |s: &StatementFacts| matches!(s.transaction, TransactionEffect::Savepoint | TransactionEffect::Release);
        if let Some(spread) = &mut self.spread {
            spread.telling = Telling::All { longer, saves: said.statements.iter().any(saves) };
        }
        let need = self.need_of_any();
        Box::pin(self.serve_part(home, &need)).await
    }

    /// A statement that reads several shards, in their transactions.
    async fn scatter_within(&mut self, need: &Need, scatter: &Scatter) -> Result<(), End> {
        let since = clock::now();
        let asked = match self.asked() {
            Ok(_) if scatter.explain.is_some() => return self.fail_spread(explains()).await,
            Ok(asked) => asked,
            Err(error) => return self.fail_spread(error).await,
        };
        let mut legs = match self.legs_for(&scatter.shards, need).await {
            Ok(legs) => legs,
            Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
            Err(Stopped::End(end)) => return Err(end),
        };
        let prepared = self.prepare(&mut legs, scatter, &asked, since).await;
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(stopped) => {
                self.put_back(legs);
                return match stopped {
                    Stopped::Refused(error) => self.fail_spread(error).await,
                    Stopped::End(end) => Err(end),
                };
            }
        };
        let handle = Arc::clone(self.handle());
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let home = self.database.config.map.default_shard;
        let mut run = Run::new(legs, asked.extended, prepared, &segment, (home, since), true);
        handle.set_links(Links::Several(Box::new(run.links())));
        handle.set_activity(Activity::Active);
        let mut outcome = self.run_scatter(&mut run).await;
        if matches!(outcome, Outcome::Done) && run.fetch.is_none() {
            let more;
            (run, more) = run.next(Verdict::Clean);
            if more {
                // The others have done their part.
                handle.set_links(Links::Several(Box::new(run.links())));
                outcome = self.run_scatter(&mut run).await;
            }
        }
        handle.set_links(Links::None);
        handle.set_activity(Activity::Idle);
        if matches!(outcome, Outcome::Done) && run.fetch.is_some() {
            (run, outcome) = Box::pin(self.fetch(run)).await;
        }
        self.end_part(run, segment, outcome).await
    }

    /// Tells the client how a statement, or a part of its rows, has ended, and puts the connections back.
    pub(super) async fn end_part(&mut self, mut run: Run, segment: Segment, outcome: Outcome) -> Result<(), End> {
        let goes_on = matches!(outcome, Outcome::Done);
        let status = if goes_on { TransactionStatus::InTransaction } else { TransactionStatus::Failed };
        let told = self.tell_scatter(&run, segment, outcome, status);
        let legs = run.take_legs();
        let shards = legs.iter().map(|leg| leg.shard).collect();
        self.put_back(legs);
        if goes_on {
            self.keep_portal(run, shards);
        } else if told.is_ok() {
            self.lose_spread().await;
        }
        told
    }

    /// A statement that several shards write, or a COPY of them, in their transactions.
    async fn fan_on_all(&mut self, need: &Need, fan: &Fan) -> Result<(), End> {
        let within = fan.within_block();
        let fan = within.as_ref().unwrap_or(fan);
        let asked = match self.asked() {
            Ok(_) if matches!(fan.parts, Parts::Each { .. }) => return self.fail_spread(alone()).await,
            Ok(_) if matches!(fan.parts, Parts::Explain { .. }) => return self.fail_spread(explains()).await,
            Ok(_) if self.may_make_temp() => return self.fail_spread(temp_on_several()).await,
            Ok(asked) => asked,
            Err(error) if fan.reads() => return self.fail_spread(error).await,
            Err(error) => return self.fail_spread(super::writes(error)).await,
        };
        let mut legs = match self.legs_for(&fan.shards, need).await {
            Ok(legs) => legs,
            Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
            Err(Stopped::End(end)) => return Err(end),
        };
        let (codes, notifies) = (self.new_code(&asked.text, &fan.shards), self.notifies());
        let worked = self.fan_within(&mut legs, fan, &asked).await;
        self.put_back(legs);
        if need.changes_catalog {
            self.session.catalog_is_changed();
        }
        if let Some(spread) = self.spread.as_mut().filter(|_| !fan.reads()) {
            for part in spread.parts.iter_mut().filter(|part| fan.shards.contains(&part.shard)) {
                (part.wrote, part.has_written) = (true, true);
                part.changes_catalog |= need.changes_catalog;
                part.notifies |= notifies;
                let pid = part.leg.as_mut().and_then(Leg::connection).map(|connection| connection.pid);
                if let (Some(new), Some(pid)) = (&codes, pid) {
                    part.judged.changes_code(Place { shard: part.shard, replica: false, pid }, *new);
                }
            }
        }
        match worked {
            Ok(true) => {}
            Ok(false) => self.lose_spread().await,
            Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
            Err(Stopped::End(end)) => return Err(end),
        }
        Ok(())
    }

    /// The connections of these shards, taken out of the block to be asked together.
    pub(super) async fn legs_for(&mut self, shards: &[ShardIndex], need: &Need) -> Result<Vec<Leg>, Stopped> {
        let verdict = self.verdict_behind(shards);
        let notifiers: Vec<_> = shards.iter().copied().filter(|shard| self.code_notifies(*shard)).collect();
        self.learn_hidden(shards);
        self.enlist(shards).await?;
        if need.access == Access::Write {
            self.may_write_on(shards).await?;
        }
        let Some(spread) = &mut self.spread else { return Err(Stopped::Refused(fault())) };
        let mut legs = Vec::with_capacity(shards.len());
        for part in spread.parts.iter_mut().filter(|part| shards.contains(&part.shard)) {
            part.leaves = part.leaves.max(verdict);
            if notifiers.contains(&part.shard) {
                part.judged.notify();
            }
            if let Some(mut leg) = part.leg.take() {
                leg.renew();
                legs.push(leg);
            }
        }
        if legs.iter().any(Leg::is_lost) {
            self.put_back(legs);
            return Err(Stopped::Refused(lost(&std::io::ErrorKind::NotConnected.into())));
        }
        Ok(legs)
    }

    /// Puts connections back into the block.
    fn put_back(&mut self, legs: Vec<Leg>) {
        let Some(spread) = &mut self.spread else { return };
        for leg in legs {
            if let Some(part) = spread.parts.iter_mut().find(|part| part.shard == leg.shard) {
                part.leg = Some(leg);
            }
        }
    }

    fn names(&self, shards: &[ShardIndex]) -> String {
        let map = &self.database.config.map;
        shards.iter().map(|shard| format!("\"{}\"", map.name(*shard))).collect::<Vec<_>>().join(", ")
    }
}

/// Runs a text; its rows are thrown away.
pub(super) async fn run_on(leg: &mut Leg, text: &[u8]) -> Result<(), Error> {
    let mut out = Vec::with_capacity(text.len() + 8);
    encode::query(&mut out, text);
    leg.row(&out, lost).await.map(drop)
}

/// The only row of a question.
async fn row(leg: &mut Leg, sql: &str) -> Result<Vec<Option<String>>, Error> {
    let mut out = Vec::with_capacity(sql.len() + 8);
    encode::query(&mut out, sql.as_bytes());
    leg.row(&out, lost).await?.ok_or_else(fault)
}

async fn cell(leg: &mut Leg, sql: &str) -> Result<String, Error> {
    row(leg, sql).await?.into_iter().next().flatten().ok_or_else(fault)
}

/// What waits on two shards may wait in a circle that no server sees.
async fn limit_locks(leg: &mut Leg) -> Result<(), Error> {
    run_on(leg, reply::LIMIT_SQL.as_bytes()).await
}

/// Whether the transaction has written, and whose it is.
async fn wrote(leg: &mut Leg) -> Result<(bool, String), Error> {
    let mut cells = row(leg, recovery::WROTE_SQL).await?.into_iter();
    let wrote = cells.next().is_some_and(|cell| cell.as_deref() == Some("t"));
    Ok((wrote, cells.next().flatten().unwrap_or_default()))
}
