//! The client's half of the relay: what becomes of a segment while a server is linked.

use super::{Cause, Event, Link, Opening};
use crate::client::block::{self, Block, Portable};
use crate::client::catalog::{LookUp, Planned};
use crate::client::hidden::{AsksUnseen, Place};
use crate::client::pieces::is_of_pipeline;
use crate::client::plan::{Need, Question};
use crate::client::scatter;
use crate::client::scatter::spread::{self, Back, Means};
use crate::client::sequences;
use crate::client::task::Client;
use crate::client::token;
use crate::clock;
use crate::config::{PoolMode, Role};
use crate::error::{Error, SqlState};
use crate::id::ShardIndex;
use crate::server::Connection;
use crate::session::Intake;
use crate::session::sequences::{Past, Told};
use crate::shard::plan::{PlanKind, ShardPlan};
use crate::sql::facts::{Access, RouteHint, TransactionEffect};
use crate::wire::message::TransactionStatus;

impl Client {
    /// The text that opens the block is answered: the segment follows it. Had it failed, and the segment been sent behind it, then a
    /// statement of a block would have run outside of one.
    pub(super) fn opened(&mut self, link: &mut Link, connection: &mut Connection) -> Result<(), Event> {
        let bare = std::mem::replace(&mut link.opening, Opening::Over) == Opening::Bare;
        if let Some(error) = self.session.take_unseen_error() {
            if link.role == Role::Replica {
                // A standby takes less than the primary.
                return Err(Event::Retry(Cause::NeedsPrimary { writes: false }));
            }
            if bare {
                return Err(Event::Stop(error.fatal()));
            }
            self.replace_by_refusal(*error);
            link.spreads = false;
        }
        if self.session.status() == TransactionStatus::Idle {
            // The client believes in a block, and is to find it failed.
            const BEGIN: &[u8] = b"BEGIN";
            let facts = self.cx.facts.borrow_mut().get(BEGIN);
            self.session.begin(BEGIN, facts, connection.output.tail());
            link.opening = Opening::Bare;
            return Ok(());
        }
        if link.spreads && self.session.status() == TransactionStatus::InTransaction {
            if self.may_spread(link.prologue.is_some()) {
                return Err(Event::Spread);
            }
            let error = spread::stays(&self.database.config.map.names, link.shard);
            self.replace_by_refusal(error);
        }
        self.forward_segment(link, connection);
        Ok(())
    }

    /// Refuses the segment where it may ask for values of sequences that are not its client's to be told: `told` is whose the server tells.
    /// What it waits for first, if it is not known whether it asks.
    fn judge_question(&mut self, need: &Need, shard: ShardIndex, told: Told) -> Option<LookUp> {
        let foreign = told.is_foreign_to(self.values.past());
        // Who is pinned has no other server to ask: see `forgets_first`.
        let may_ask = foreign && self.pools.mode != PoolMode::Session && self.session.pins().is_empty();
        let unseen = if may_ask { self.segment_asks_unseen(shard) } else { AsksUnseen::No };
        if unseen == AsksUnseen::Unknown && !need.asks_sequences {
            return Some(self.knows_code(shard, stale_sequences()));
        }
        if foreign && (need.asks_sequences || unseen == AsksUnseen::Yes) {
            self.cx.shared.count_refusal("stale_sequences");
            self.replace_by_refusal(stale_sequences());
        } else if need.question == Question::Alone && self.values.past() != Past::None && !self.values.are_told(told) {
            self.cx.shared.count_refusal(sequences::LOST);
            self.replace_by_refusal(sequences::lost());
        }
        None
    }

    /// Has the server forget what others did to sequences there, before it gets a segment that runs code which may ask for it unseen, or that
    /// takes values of its own where such code may follow. None: the segment goes on; else it waits, and whether anything was sent.
    fn forgets_first(&mut self, need: &Need, link: &Link, connection: &mut Connection) -> Option<bool> {
        let told = connection.state.sequences;
        let is_refused = |(intake, _): &(Intake, usize)| matches!(intake, Intake::Refuse { .. });
        if self.pools.mode == PoolMode::Session || link.role != Role::Primary || !told.is_foreign_to(self.values.past())
        {
            return None;
        }
        if self.segment.items.iter().any(is_refused) {
            return None;
        }
        let takes = || {
            let stays = self.session.status() == TransactionStatus::InTransaction || !self.session.pins().is_empty();
            stays && !link.may_have_taken_values() && need.access == Access::Write && self.database.hidden.runs_unread()
        };
        let unread = self.segment_runs_unread(link.shard, Some(&link.judged));
        if !unread && !takes() {
            return None;
        }
        let controls = |intake: &Intake| {
            let mut statements = intake.facts().into_iter().flat_map(|facts| &facts.statements);
            statements.any(|statement| statement.transaction != TransactionEffect::None)
        };
        let failed = self.session.status() == TransactionStatus::Failed && self.session.is_drained();
        if failed && !self.segment.items.iter().any(|(intake, _)| controls(intake)) {
            // The server does nothing of it.
            return None;
        }
        if failed || self.session.is_mid_exchange() {
            // Nothing can be sent in between.
            if unread {
                self.cx.shared.count_refusal("stale_sequences");
                self.replace_by_refusal(stale_sequences());
            }
            return None;
        }
        let rests = self.session.is_drained();
        if rests {
            self.session.forget_others(&mut connection.state, connection.output.tail());
        }
        Some(rests)
    }

    /// Sends the complete segment if it may go to the linked server; whether it was sent.
    pub(super) fn send_segment(&mut self, link: &mut Link, connection: &mut Connection) -> Result<bool, Event> {
        if matches!(self.segment.items.last(), Some((Intake::Terminate, _))) {
            return Err(Event::ClientGone);
        }
        if link.is_part.is_some() && !self.session.is_drained() && !self.session.is_mid_exchange() {
            // What it means to the other shards depends on what comes of what is under way.
            return Ok(false);
        }
        if self.skipping && !self.ends_implicit() {
            // All was answered before the next piece was taken.
            self.skip(self.session.status());
            return Ok(true);
        }
        let shown = self.sole_show();
        if (shown.is_some() || self.changes_own())
            && !self.session.is_mid_exchange()
            && self.session.status() != TransactionStatus::Failed
        {
            if !self.session.is_drained() {
                return Ok(false);
            }
            let status = self.session.status();
            match shown {
                Some(token::NAME) => {
                    match self.token_within(link) {
                        Ok(value) => self.answer_show(token::NAME, &value, status),
                        // Back to answer it.
                        Err(waits) => link.look_up = Some(waits),
                    }
                    return Ok(true);
                }
                Some(name) => {
                    self.show_own(name, status);
                    return Ok(true);
                }
                None if self.answer_own(status) => return Ok(true),
                None => {}
            }
        }
        if let Some(waits) = self.listens_first() {
            link.look_up = Some(waits);
            return Ok(true);
        }
        let mut planned = self.plan(true, link.changes_catalog, link.has_written);
        // As long as it can go elsewhere.
        if link.role == Role::Replica && (self.session.status() == TransactionStatus::Idle || link.begun.is_some()) {
            planned = self.weigh(planned);
        }
        if let Some(cut) = self.cut_here(link, &planned)? {
            return Ok(cut);
        }
        match planned {
            Planned::Weigh(names) => {
                link.look_up = Some(self.look_up_readings(names));
                return Ok(true);
            }
            Planned::Ask(questions) => {
                link.look_up = Some(self.look_up(questions));
                // Back to ask it.
                return Ok(true);
            }
            // Of what else is in the text PostgreSQL does some in a failed block too: it would go back on this shard alone.
            _ if link.is_part.is_some()
                && self.session.status() == TransactionStatus::Failed
                && self.means() == Means::Mixed =>
            {
                self.cx.shared.count_refusal("control_in_block");
                self.replace_by_refusal(spread::aborted());
            }
            Planned::Need(need) if self.leaves_for_others(link, &need) => {
                if self.may_leave_exchange(link) {
                    return Err(Event::Spread);
                }
                if link.only_prepared && !self.session.is_drained() {
                    // What it has prepared is answered first.
                    return Ok(false);
                }
                let error = self.cannot_leave(link, &need.plan);
                self.cx.shared.count_refusal(error.reason.unwrap_or("pipeline"));
                self.replace_by_refusal(error);
            }
            Planned::Need(need) if self.waits_to_scatter(link, &need.plan) => return Ok(false),
            Planned::Need(need) => {
                let failed = self.session.status() == TransactionStatus::Failed && self.session.is_drained();
                let same_shard = match need.plan {
                    ShardPlan::Single { shard, .. } => shard == link.shard,
                    ShardPlan::Scatter(_) | ShardPlan::Fan(_) => false,
                    ShardPlan::AnyShard { .. } | ShardPlan::NeedsParameter { .. } | ShardPlan::Reject(_) => true,
                };
                let writes = need.access >= Access::Local || need.hint == RouteHint::Primary;
                // A block on a replica that has done nothing yet can begin on the primary as well.
                let bound = match self.session.status() {
                    TransactionStatus::Idle => false,
                    TransactionStatus::InTransaction => link.begun.is_none() || need.hint == RouteHint::Replica,
                    TransactionStatus::Failed => true,
                };
                let same_role = link.role == Role::Primary || !writes || bound;
                let fits = same_shard && same_role;
                if !fits && !self.session.is_drained() && (link.only_prepared || !self.session.is_mid_exchange()) {
                    // When what is under way is answered, it shows whether the server is free to go.
                    return Ok(false);
                }
                if !fits && self.can_move(link) {
                    return Err(Event::Move);
                }
                if need.access == Access::Write
                    && let Some(waits) = self.owns_first(link, connection)
                {
                    link.look_up = Some(waits);
                    return Ok(true);
                }
                let unsure = need.access < Access::Write && self.may_write_unseen(link);
                link.wrote |= need.access == Access::Write || unsure;
                link.changes_catalog |= need.changes_catalog;
                if let Some(waits) = self.judge_question(&need, link.shard, connection.state.sequences) {
                    link.look_up = Some(waits);
                    return Ok(true);
                }
                if let Some(sent) = self.forgets_first(&need, link, connection) {
                    return Ok(sent);
                }
                link.has_written |= need.wrote || unsure;
                let in_block = self.session.status() == TransactionStatus::InTransaction;
                if link.role == Role::Replica && in_block && self.takes_lock() {
                    self.cx.shared.count_refusal("lock_on_replica");
                    self.replace_by_refusal(lock_on_replica());
                }
                if !same_shard {
                    self.cx.shared.count_refusal("leaves_shard");
                    let names = &self.database.config.map.names;
                    let error = match &need.plan {
                        _ if failed => aborted(),
                        _ if self.session.status() == TransactionStatus::InTransaction
                            && self.session.pins().is_empty() =>
                        {
                            spread::stays(names, link.shard)
                        }
                        ShardPlan::Fan(fan) if !fan.reads() => {
                            scatter::writes(scatter::linked(self.session.status(), !self.session.pins().is_empty()))
                        }
                        ShardPlan::Scatter(_) | ShardPlan::Fan(_) => {
                            scatter::linked(self.session.status(), !self.session.pins().is_empty())
                        }
                        plan => leaves_shard(names, plan, link.shard, self.kept_by()),
                    };
                    self.replace_by_refusal(error);
                }
                if self.session.is_drained() && same_shard {
                    link.route = self.told_route(&need, link.shard);
                }
                self.count_plan(need.plan.kind());
            }
            Planned::Refused(error) if error.severity == crate::error::Severity::Fatal => {
                return Err(Event::Stop(error));
            }
            Planned::Refused(error) => {
                self.cx.shared.count_refusal(error.reason.unwrap_or("in_transaction"));
                self.count_plan(PlanKind::Refused);
                // No server looks at the values of what a failed block passes over.
                let failed = self.session.status() == TransactionStatus::Failed && self.session.is_drained();
                let simple = self.segment.items.last().is_some_and(|(intake, _)| intake.is_simple());
                let about_all = is_of_pipeline(&error) && self.begins_plainly();
                let passed_over = failed && !simple && (error.sqlstate.class() == "22" || about_all);
                self.replace_by_refusal(if passed_over { aborted() } else { error });
            }
        }
        self.settle_popular(link, false);
        self.forward_segment(link, connection);
        Ok(true)
    }

    /// Cuts the segment into pieces, if it can only be served so; whether that is done, or waits for what is under way. None: it is not.
    fn cut_here(&mut self, link: &Link, planned: &Planned) -> Result<Option<bool>, Event> {
        let status = self.session.status();
        let in_block = status == TransactionStatus::InTransaction;
        if status == TransactionStatus::Failed || !(self.wants_pieces(planned) || in_block && self.ends_open()) {
            return Ok(None);
        }
        if in_block && link.is_part.is_none() && !self.may_spread(link.prologue.is_some()) {
            return Ok(None);
        }
        if !self.session.is_drained() {
            let waits = link.only_prepared || !self.session.is_mid_exchange();
            return Ok(waits.then_some(false));
        }
        match status {
            // They are cut where no server is linked.
            TransactionStatus::Idle if self.can_move(link) => Err(Event::Move),
            TransactionStatus::Idle if self.session.may_release() => Err(Event::Release),
            TransactionStatus::InTransaction if self.may_leave_exchange(link) => {
                Ok(self.cut(planned, (link.changes_catalog, link.has_written)).then_some(true))
            }
            _ => Ok(None),
        }
    }

    /// Whether the block goes on with other shards, for the sake of the segment.
    fn leaves_for_others(&self, link: &Link, need: &Need) -> bool {
        if self.ends_implicit() {
            // It is ended where blocks of several shards are.
            return true;
        }
        let plan = &need.plan;
        let elsewhere = is_elsewhere(plan, link.shard);
        if link.is_part.is_some() {
            // Those that end it or belong to all, and what is asked of no shard in particular: see `serve_spread`.
            let means = self.means();
            let of_all = means != Means::Plain;
            let others = || self.may_leave_exchange(link) || self.others_may_have_written();
            return match self.session.status() {
                // It asks for nothing that could fail.
                _ if !self.segment.needs_server() => false,
                _ if self.is_apart() => true,
                TransactionStatus::Failed => matches!(means, Means::Exit(_) | Means::Control(_, Back::First)),
                _ if self.touches_portals() || self.is_unlimited() => true,
                // Whether another has written already is to be asked there. In the middle of an exchange nobody can be, and COMMIT asks.
                _ if need.access == Access::Write && !link.wrote && self.may_write_one() && others() => true,
                // Before it goes to the server it is waited for what is not known.
                _ if self.sets_unseen_here(link) != Some(false) => true,
                _ => {
                    let nowhere = matches!(plan, ShardPlan::AnyShard { .. });
                    let belongs = || self.bound_at().map_or(self.is_home(link.shard), |shard| shard == link.shard);
                    let declares = !self.is_home(link.shard) && self.declares_cursor();
                    elsewhere || of_all || declares || (nowhere && !belongs())
                }
            };
        }
        elsewhere
            && self.session.is_drained()
            && self.session.status() == TransactionStatus::InTransaction
            && !self.can_move(link)
            && self.may_leave_exchange(link)
            && self.may_spread(link.prologue.is_some())
    }

    /// Whether other servers can answer what follows: no exchange is begun, or only to prepare, which is all answered and holds for them as
    /// well. That one is ended on this server by a Sync of ours, then.
    fn may_leave_exchange(&self, link: &Link) -> bool {
        !self.session.is_mid_exchange()
            || (link.only_prepared && self.session.is_drained() && !self.session.is_skipping())
    }

    /// The same as `Client::sets_unseen`, of the server that is linked.
    fn sets_unseen_here(&self, link: &Link) -> Option<bool> {
        self.sets_unseen(Some(&link.judged), link.shard, link.role == Role::Replica)
    }

    /// Why the segment, in the middle of an exchange, neither goes to the server nor elsewhere.
    fn cannot_leave(&self, link: &Link, plan: &ShardPlan) -> Error {
        if is_elsewhere(plan, link.shard) || self.sets_unseen_here(link).is_some() {
            return spread::pipelined();
        }
        // Whoever tries again is to find it known.
        self.learn_hidden(&[link.shard]);
        spread::code_unknown(&format!("\"{}\"", self.database.config.map.name(link.shard)))
    }

    /// Whether the segment, which reads several shards, waits for the answers to what came before: they may set the session free of
    /// its server.
    fn waits_to_scatter(&self, link: &Link, plan: &ShardPlan) -> bool {
        matches!(plan, ShardPlan::Scatter(_) | ShardPlan::Fan(_))
            && !self.session.is_drained()
            && (link.only_prepared || !self.session.is_mid_exchange())
    }

    /// Why the session keeps its server between transactions, if it is between two.
    fn kept_by(&self) -> Option<&'static str> {
        let between = self.session.status() == TransactionStatus::Idle && self.session.is_drained();
        self.session.pins().first().filter(|_| between).map(|pin| pin.reason.as_str())
    }

    pub(in crate::client) fn takes_lock(&self) -> bool {
        self.segment.items.iter().filter_map(|(intake, _)| intake.facts()).any(|facts| facts.takes_lock())
    }

    /// Whether the server, which has answered everything, can be left for another that goes on as if it had been there.
    fn can_move(&self, link: &Link) -> bool {
        let nothing_done = match self.session.status() {
            TransactionStatus::Idle => self.session.is_mid_exchange(),
            TransactionStatus::InTransaction => link.begun.is_some(),
            TransactionStatus::Failed => false,
        };
        self.pools.mode == PoolMode::Transaction
            && nothing_done
            && self.session.is_drained()
            && (link.only_prepared || !self.session.is_mid_exchange())
            && !self.session.is_skipping()
            && self.session.pins().is_empty()
            && !self.session.settings().needs_server()
    }

    /// Keeps what other shards would have to be told before they can take part in the block.
    fn follow_prologue(&self, link: &mut Link) {
        if link.prologue.is_none() || !self.database.config.map.is_sharded() || link.is_part.is_some() {
            return;
        }
        match self.means() {
            // What it was that failed, if something does, is known only of what was sent alone: it is remembered as an empty text.
            Means::Plain if link.unconfirmed.last().is_some_and(|text| text.is_empty()) => {}
            Means::Plain => link.unconfirmed.push(Box::default()),
            Means::Control(text, _) => link.unconfirmed.push(text.into()),
            Means::Exit(_) | Means::Mixed => link.prologue = None,
        }
    }

    /// Everything is answered: what was done belongs to what other shards are told, and not what has failed. Where it is not certain which
    /// that is, they cannot be told.
    pub(super) fn confirm_prologue(&mut self, link: &mut Link) {
        if link.is_part.is_some() {
            return self.part_has_answered();
        }
        let sent = std::mem::take(&mut link.unconfirmed);
        if sent.iter().all(|text| text.is_empty()) {
            return;
        }
        let facts = |text: &[u8]| self.cx.facts.borrow_mut().get(text);
        let goes_back =
            |text: &[u8]| facts(text).statements.iter().any(|s| s.transaction == TransactionEffect::RollbackTo);
        let mut before = sent.iter().skip_while(|text| text.is_empty());
        let certain = match self.session.status() {
            // Only going back ends a failure: before that something may have failed.
            TransactionStatus::InTransaction => before.skip(1).all(|text| !goes_back(text)),
            // It was that one, and it has done nothing.
            TransactionStatus::Failed if sent.len() == 1 => {
                if before.all(|text| facts(text).statements.len() == 1) {
                    return;
                }
                false
            }
            TransactionStatus::Failed | TransactionStatus::Idle => false,
        };
        let mut prologue = link.prologue.take().filter(|_| certain);
        for text in sent.iter().filter(|text| !text.is_empty()) {
            prologue = prologue.and_then(|prologue| prologue.and(text, facts(text)));
        }
        // Else another shard would fail at what this one has done.
        link.prologue = prologue.filter(|prologue| spread::has_savepoints(prologue.statements()));
    }

    /// Whether the segment says that listeners are to be told something when it is committed.
    pub(in crate::client) fn notifies(&self) -> bool {
        self.segment.items.iter().filter_map(|(intake, _)| intake.facts()).any(|facts| facts.notifies())
    }

    /// Keeps what the block consists of, as long as it can still move to another shard, or from a replica to the primary.
    fn follow_block(&self, link: &mut Link) {
        // A block that has only begun is not lost with its server either.
        let may_move = self.database.config.map.is_sharded() || link.role == Role::Replica || link.outlived;
        if !may_move || self.pools.mode != PoolMode::Transaction {
            return;
        }
        let facts = |text: &[u8]| self.cx.facts.borrow_mut().get(text);
        match block::portable(&self.segment, self.input.bytes()) {
            Portable::Untouched => {}
            Portable::Bound => link.begun = None,
            Portable::Again(text) => {
                link.begun = match link.begun.take() {
                    Some(block) => block.and(text, facts),
                    None if self.session.is_drained() && self.session.status() == TransactionStatus::Idle => {
                        Block::begin(text, facts(text))
                    }
                    None => None,
                };
                // Elsewhere it would see what has been written since.
                let default = self.session.settings().get("default_transaction_isolation");
                let stays =
                    |block: &Block| block::takes_snapshot(&block.facts) && block::keeps_snapshot(&block.text, default);
                if link.begun.as_ref().is_some_and(stays) {
                    link.begun = None;
                }
            }
        }
    }

    /// Writes the segment for the server.
    pub(super) fn forward_segment(&mut self, link: &mut Link, connection: &mut Connection) {
        self.send_ahead(link, connection);
        self.minds_state(link);
        self.enter_segment(link, connection);
    }

    /// The segment becomes what is under way, whether it is sent with this or has been sent.
    pub(super) fn enter_segment(&mut self, link: &mut Link, connection: &mut Connection) {
        // What is sent now may write, and a token that was asked for before knows nothing of it.
        link.asks_since = None;
        self.follow_prologue(link);
        if link.is_part.is_some() {
            self.note_bound(link.shard);
        }
        // It is asked for in a block that spreads, and goes there with the link.
        link.notifies = self.database.config.map.is_sharded()
            && (self.notifies()
                || (link.notifies && !(self.session.status() == TransactionStatus::Idle && self.session.is_drained())));
        self.follow_block(link);
        self.expects_commit();
        let place = Place { shard: link.shard, replica: link.role == Role::Replica, pid: connection.pid };
        self.look_for_hidden(&mut link.judged, place);
        let asks_unseen = link.judged.take_asks();
        self.note_use(link, asks_unseen);
        let goes_on = self.session.is_mid_exchange();
        link.only_prepared = self.segment.only_prepares() && (link.only_prepared || !goes_on);
        let mut segment = self.segment.take();
        let mut at = 0_usize;
        if self.session.is_skipping() {
            // What has not happened is taken back the last first.
            let sync = segment.items.iter().position(|(intake, _)| matches!(intake, Intake::Sync));
            for (intake, len) in segment.items.drain(..sync.unwrap_or(segment.items.len())).rev() {
                self.session.withdraw(intake);
                at = at.saturating_add(len);
            }
        }
        for (intake, len) in segment.items {
            match &intake {
                Intake::Parse { named: Some(name), .. } if !name.is_empty() => link.counts.client_parse_count += 1,
                Intake::Bind { .. } => link.counts.bind_count += 1,
                _ => {}
            }
            let end = at.saturating_add(len);
            let frame = self.input.bytes().get(at..end).unwrap_or_default();
            self.session.forward(intake, frame, &mut connection.state, connection.output.tail());
            at = end;
        }
        self.input.consume(segment.len);
        link.counts.received += segment.len as u64;
        if link.query_since.is_none() {
            link.query_since = Some(clock::moment());
        }
        self.session.take_local(self.output.tail());
    }
}

/// Whether the plan needs another shard than this one.
fn is_elsewhere(plan: &ShardPlan, here: ShardIndex) -> bool {
    match plan {
        ShardPlan::Single { shard, .. } => *shard != here,
        ShardPlan::Scatter(_) | ShardPlan::Fan(_) => true,
        ShardPlan::AnyShard { .. } | ShardPlan::NeedsParameter { .. } | ShardPlan::Reject(_) => false,
    }
}

/// What PostgreSQL says to everything in a failed block, before it looks at what is asked.
fn aborted() -> Error {
    Error::us(
        SqlState::IN_FAILED_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

/// From now on servers forget in time what others did.
fn stale_sequences() -> Error {
    Error::us(
        SqlState::OBJECT_NOT_IN_STATE,
        "it is not certain that currval() or lastval() would tell a value of this session: other clients have used this server before",
    )
    .detail("This is the first time that a transaction of this database asks for it; from now on servers are prepared.")
    .hint("Run the transaction again, or use INSERT ... RETURNING.")
}

pub(in crate::client) fn lock_on_replica() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "an advisory lock cannot be taken here: this READ ONLY transaction runs on a replica, where the lock would keep nobody out",
    )
    .hint("Take it in the first statement, or begin on the primary: /* pgweir: primary */ BEGIN READ ONLY.")
}

/// `kept_by`: no transaction is open, but the session has state there.
fn leaves_shard(names: &[String], plan: &ShardPlan, bound: ShardIndex, kept_by: Option<&str>) -> Error {
    let name = |shard: ShardIndex| names.get(usize::from(shard.0)).map_or("?", String::as_str);
    let wanted = match plan {
        ShardPlan::Single { shard, .. } => name(*shard),
        _ => "another",
    };
    if let Some(reason) = kept_by {
        let kept = name(bound);
        return Error::us(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("this session keeps its server on shard \"{kept}\" ({reason}), the statement belongs to shard \"{wanted}\""),
        )
        .detail("It has state there that no other server has; SHOW PINS on the console tells by which statement.")
        .hint("DISCARD ALL gives the server back.");
    }
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("this transaction is bound to shard \"{}\", the statement belongs to shard \"{wanted}\"", name(bound)),
    )
    .detail("A transaction stays on the shard of its first statement.")
    .hint("End the transaction first, or keep statements of one sharding key in one transaction.")
}
