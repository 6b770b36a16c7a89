//! What the client sends up to a Sync, where that does not belong to one shard: it is taken piece by piece, each ended by a Sync of ours.
//!
//! ```text
//!   the client:   Parse Bind Execute   Bind Execute   Bind Execute   Bind Execute   Sync
//!   belongs to:        shard 1           shard 1        shard 2       all of them
//!   is served:    [──────────────────────────── Sync'] [──── Sync'] [──────────────── Sync]
//! ```
//!
//! Within a transaction block a Sync changes nothing, so a piece is served as if the client had sent it so and waited for the answer; of the
//! answers to our Syncs it hears nothing. Consecutive statements of one shard are one piece. After an error all is passed over up to the
//! client's own Sync.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING>
//!
//! Outside of a block all up to the Sync is one transaction. It becomes a block of ours (`scatter/spread/implicit.rs`), and the client's Sync,
//! a piece by itself then, is its COMMIT; should that fail, the error comes where PostgreSQL tells of a deferred constraint. As a block is not
//! in all things like a transaction that nobody has begun, only statements about data go this way, and all are planned before it begins.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::client::block::Block;
use crate::client::catalog::Planned;
use crate::client::lost::Lost;
use crate::client::plan::Need;
use crate::client::scatter::spread::{self, is_plain};
use crate::client::segment::{Stretch, is_our_sync};
use crate::client::task::{Client, End};
use crate::config::PoolMode;
use crate::error::{Error, SqlState};
use crate::id::ShardIndex;
use crate::session::{Intake, Naming};
use crate::shard::plan::write::Parts;
use crate::shard::plan::{PlanKind, ShardPlan};
use crate::sql::facts::{Access, Plan, QueryFacts, TransactionEffect};
use crate::wire::message::{self, Target, TransactionStatus};

/// What is left of the client's messages when a piece has been taken.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Messages, each with its length in bytes; these stand in the input behind the piece.
    rest: VecDeque<(Intake, usize)>,
    /// Of how many messages each further piece consists; what is beyond that is the beginning of a statement.
    sizes: VecDeque<usize>,
    /// The block is ours: the client has begun none.
    implicit: bool,
}

/// Where a statement goes, with the messages that belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belongs {
    /// Anywhere: it is only prepared.
    Nowhere,
    /// To no shard in particular.
    Home,
    Shard(ShardIndex),
    /// Nothing goes with it.
    Alone,
}

impl Belongs {
    /// Whose the piece is when this is added to it; none: it cannot be.
    fn and(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Alone, _) | (_, Self::Alone) => None,
            (Self::Nowhere, other) | (other, Self::Nowhere) => Some(other),
            (one, other) => (one == other).then_some(one),
        }
    }
}

/// A statement with the messages that belong to it: Parse, Bind, Describe, Execute, Close.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Group {
    /// How many messages these are, and how many bytes.
    messages: usize,
    bytes: usize,
}

/// The groups of a pipeline, planned.
#[derive(Debug, Default)]
struct Outlook {
    /// Of how many messages each piece consists.
    sizes: VecDeque<usize>,
    /// Something in it is for a block that the client has begun.
    needs_block: bool,
    /// Which shards it needs.
    shards: BTreeSet<ShardIndex>,
    /// Which of them are written.
    writes: BTreeSet<ShardIndex>,
    /// Why one of its statements cannot be served.
    refused: Option<Error>,
}

impl Client {
    /// Whether it is to be looked at for that while no server is linked.
    pub(super) fn may_go_in_pieces(&self, planned: &Planned) -> bool {
        self.wants_pieces(planned) || self.holds_block() && self.ends_open()
    }

    /// Cuts the segment into pieces if it needs that. Whether that is done, and it is the first of them, or it has been refused.
    pub(super) async fn goes_in_pieces(&mut self, planned: &Planned) -> Result<bool, End> {
        if self.holds_block() {
            return Ok(self.cut(planned, (false, false)));
        }
        if !self.wants_pieces(planned) || !self.may_spread(true) {
            return Ok(false);
        }
        let outlook = self.outlook(false, (false, false)).filter(|outlook| !outlook.needs_block);
        let Some(outlook) = outlook else { return Ok(false) };
        if let Some(error) = self.refuses_as_one(&outlook) {
            self.count_plan(PlanKind::Refused);
            self.refuse(error).await?;
            return Ok(true);
        }
        let shards: Vec<ShardIndex> = outlook.shards.iter().copied().collect();
        if self.begin_implicit(&shards).await? {
            self.cut_into(outlook.sizes, true);
        }
        Ok(true)
    }

    /// Why a pipeline cannot be one transaction of its own.
    fn refuses_as_one(&self, outlook: &Outlook) -> Option<Error> {
        if outlook.refused.is_some() {
            return outlook.refused.clone();
        }
        let mut writes = outlook.writes.iter().copied();
        let (first, others): (_, Vec<ShardIndex>) = (writes.next()?, writes.collect());
        (!others.is_empty() && self.may_write_one()).then(|| self.cannot_write(first, &others))
    }

    /// The same within a block, of which it is known what it has `done`: see [`Self::plan`]. What has no end yet is a piece as well, for nobody
    /// knows what comes behind it.
    pub(super) fn cut(&mut self, planned: &Planned, done: (bool, bool)) -> bool {
        (self.wants_pieces(planned) || self.ends_open()) && self.cut_up(done)
    }

    /// The same whatever is planned; whether it is another now, or waits for more.
    pub(super) fn cut_up(&mut self, done: (bool, bool)) -> bool {
        let open = self.ends_open();
        if !self.may_be_cut() || !(open || self.is_batch()) {
            return false;
        }
        let Some(outlook) = self.outlook(true, done).filter(|outlook| open || outlook.sizes.len() > 1) else {
            return false;
        };
        if outlook.sizes.is_empty() {
            // A statement with long values, of which the last messages are still to come.
            self.segment.complete = false;
            return true;
        }
        let implicit = self.is_implicit();
        self.cut_into(outlook.sizes, implicit);
        true
    }

    /// Whether the segment is one that cannot be served as it is, but perhaps in pieces.
    pub(super) fn wants_pieces(&self, planned: &Planned) -> bool {
        let wants = match planned {
            Planned::Refused(error) => is_of_pipeline(error),
            Planned::Need(Need { plan: ShardPlan::Scatter(_) | ShardPlan::Fan(_), .. }) => true,
            Planned::Need(_) | Planned::Ask(_) | Planned::Weigh(_) => false,
        };
        wants && self.is_batch() && self.may_be_cut()
    }

    /// Whether there is more in it than one statement in its simplest form.
    fn is_batch(&self) -> bool {
        let binds = |(intake, _): &&(Intake, usize)| matches!(intake, Intake::Bind { .. });
        let describes = |(intake, _): &(Intake, usize)| matches!(intake, Intake::DescribeStatement { .. });
        match self.segment.items.iter().filter(binds).count() {
            0 => false,
            1 => self.segment.items.iter().any(describes),
            _ => true,
        }
    }

    /// Whether what it runs first ends no transaction, and goes back in none: all that a failed block would do.
    pub(super) fn begins_plainly(&self) -> bool {
        let ends = |effect| !matches!(effect, TransactionEffect::None | TransactionEffect::Begin { .. });
        let first = texts(&self.segment.items).next();
        first.is_some_and(|(_, facts)| facts.statements.first().is_some_and(|first| !ends(first.transaction)))
    }

    /// Whether more of the same may come behind the segment: it is too long to be held, or the client waits for its answers before it goes on.
    pub(super) fn ends_open(&self) -> bool {
        let continued = || self.segment.whole(self.input.bytes()).is_continued();
        self.segment.is_cut() || self.is_in_pieces() && continued()
    }

    fn may_be_cut(&self) -> bool {
        self.database.config.map.is_sharded()
            && self.pools.mode == PoolMode::Transaction
            && self.listener.is_none()
            && self.segment.names == Naming::None
            && !self.segment.has_originals()
    }

    /// Whether it would be taken in pieces, were they needed.
    pub(super) fn has_pieces(&self) -> bool {
        self.may_be_cut() && groups(self.segment.whole(self.input.bytes())).is_some()
    }

    /// Where its statements go, but for the last one of what is cut off before its end: more may belong to that. None: it is no pipeline that can be
    /// cut.
    fn outlook(&self, linked: bool, (changed, wrote): (bool, bool)) -> Option<Outlook> {
        let whole = self.segment.whole(self.input.bytes());
        let mut outlook = Outlook::default();
        let (mut from, mut at) = (0_usize, 0_usize);
        let mut piece: Option<(usize, Belongs)> = None;
        let mut groups = groups(whole)?;
        if whole.cut {
            groups.pop();
        }
        for group in groups {
            let (to, end) = (from.saturating_add(group.messages), at.saturating_add(group.bytes));
            let items = whole.items.get(from..to)?;
            let stretch = Stretch { items, bytes: whole.bytes.get(at..end)?, cut: false };
            let belongs = match self.plan_stretch(stretch, linked, changed, wrote) {
                _ if matches!(items, [(Intake::Flush, _)]) => Belongs::Alone,
                Planned::Need(need) => outlook.take(items, &need),
                // It is asked when its turn comes.
                Planned::Ask(_) | Planned::Weigh(_) => {
                    outlook.needs_block = true;
                    Belongs::Alone
                }
                Planned::Refused(error) => {
                    // What PostgreSQL would not take either fails where it stands, behind the answers to what comes before it.
                    let is_ours = error.sqlstate == SqlState::FEATURE_NOT_SUPPORTED;
                    if is_ours && !items.iter().any(|(intake, _)| matches!(intake, Intake::Refuse { .. })) {
                        outlook.refused.get_or_insert(error);
                    }
                    Belongs::Alone
                }
            };
            outlook.needs_block |= !texts(items).all(is_of_data);
            let joined = piece.and_then(|(size, before)| Some((size, before.and(belongs)?)));
            piece = match joined {
                Some((size, belongs)) => Some((size.saturating_add(group.messages), belongs)),
                None => {
                    outlook.sizes.extend(piece.map(|(size, _)| size));
                    Some((group.messages, belongs))
                }
            };
            (from, at) = (to, end);
        }
        outlook.sizes.extend(piece.map(|(size, _)| size));
        Some(outlook)
    }

    /// The segment becomes the first of pieces of so many messages each.
    fn cut_into(&mut self, mut sizes: VecDeque<usize>, implicit: bool) {
        let mut segment = self.segment.take();
        let before = self.pieces.take().unwrap_or_default();
        if segment.items.last().is_some_and(is_our_sync) {
            // It is a piece itself, which needs to be cut after all.
            segment.items.pop();
            if let Some(last) = sizes.back_mut() {
                *last = last.saturating_sub(1);
            }
        }
        if implicit
            && matches!(segment.items.last(), Some((Intake::Sync, _)))
            && let Some(last) = sizes.back_mut().filter(|last| **last > 1)
        {
            *last -= 1;
            sizes.push_back(1);
        }
        sizes.retain(|size| *size > 0);
        let mut rest = VecDeque::from(segment.items);
        rest.extend(before.rest);
        sizes.extend(before.sizes);
        self.pieces = Some(Box::new(Pieces { rest, sizes, implicit }));
        self.take_piece();
    }

    /// Whether what the client sends is taken in pieces, and it has not come to its Sync yet.
    pub(super) fn is_in_pieces(&self) -> bool {
        self.pieces.is_some()
    }

    /// Whether the client has begun no block, and one of ours is open.
    pub(super) fn is_implicit(&self) -> bool {
        self.pieces.as_ref().is_some_and(|pieces| pieces.implicit)
    }

    /// Whether the segment, which is complete, is the client's Sync that ends a block of ours.
    pub(super) fn ends_implicit(&self) -> bool {
        let is_sync = matches!(self.segment.items.as_slice(), [(Intake::Sync, len)] if *len > 0);
        is_sync && self.is_implicit()
    }

    /// The segment, which is empty, becomes the next piece; what is behind an error is passed over.
    pub(super) fn take_piece(&mut self) {
        let fails = self.skipping || self.has_failed();
        if fails {
            self.skipping = true;
            self.pass_over_pieces(0);
        }
        let Some(pieces) = &mut self.pieces else { return };
        let Some(size) = pieces.sizes.pop_front() else {
            // The beginning of a statement.
            pieces.rest.drain(..).for_each(|(intake, len)| self.segment.push(intake, len));
            return;
        };
        for (intake, len) in pieces.rest.drain(..size.min(pieces.rest.len())) {
            self.segment.push(intake, len);
        }
        let ends = self.segment.items.last().is_some_and(|(intake, _)| intake.ends_segment());
        if !ends {
            self.segment.push(Intake::Sync, 0);
        }
        self.comes_to_sync();
    }

    /// If the segment ends with the client's own Sync, what comes next is another matter.
    pub(super) fn comes_to_sync(&mut self) {
        let ends = self.segment.complete && self.segment.ends_with_sync_or_query() && !self.segment.goes_on();
        if ends && !self.is_implicit() {
            self.pieces = None;
        }
    }

    /// Behind an error: what is in no piece yet does not happen, up to the client's Sync. To be called before what has failed is taken back,
    /// for the last of all goes first; the bytes of the failed piece are no longer in the input, `before` so many of it excepted.
    pub(super) fn pass_over_pieces(&mut self, before: usize) {
        let Some(pieces) = &mut self.pieces else { return };
        let sync = pieces.rest.pop_back_if(|(intake, _)| matches!(intake, Intake::Sync));
        let len = self.withdraw_pieces();
        self.input.replace(before, len, b"");
        if let (Some(sync), Some(pieces)) = (sync, &mut self.pieces) {
            pieces.rest.push_back(sync);
            pieces.sizes.push_back(1);
        }
    }

    /// Takes back what is in no piece yet, the last first; how many bytes that are, which stay in the input.
    pub(super) fn withdraw_pieces(&mut self) -> usize {
        let Some(pieces) = &mut self.pieces else { return 0 };
        pieces.sizes.clear();
        let mut bytes = 0_usize;
        for (intake, len) in std::mem::take(&mut pieces.rest).into_iter().rev() {
            self.session.withdraw(intake);
            bytes = bytes.saturating_add(len);
        }
        bytes
    }

    /// Whether an error that the client has been told of has made its block a failed one.
    fn has_failed(&self) -> bool {
        match self.held_begin.as_deref() {
            Some(Block { lost, .. }) => matches!(lost, Some(Lost::Told | Lost::Spread { .. })),
            None => self.session.status() == TransactionStatus::Failed,
        }
    }

    /// A pipeline that is one transaction would write on these shards.
    fn cannot_write(&self, first: ShardIndex, others: &[ShardIndex]) -> Error {
        if let Some(why) = self.database.distrust.load().two_phase.as_deref() {
            return spread::no_two_phase(why);
        }
        let name = |shard: &ShardIndex| format!("\"{}\"", self.database.config.map.name(*shard));
        let all: Vec<String> = std::iter::once(&first).chain(others).map(name).collect();
        Error::us(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!(
                "the statements of this pipeline are one transaction up to its Sync, and write on shards {} (cross_shard_writes = \"refuse\")",
                all.join(", ")
            ),
        )
        .hint("Send a Sync behind each, or set cross_shard_writes = \"two_phase\" for the database in pgweir's configuration.")
        .because("cross_shard_write")
    }
}

impl Outlook {
    /// Takes a group in by what it needs.
    fn take(&mut self, items: &[(Intake, usize)], need: &Need) -> Belongs {
        let shards: &[ShardIndex] = match &need.plan {
            ShardPlan::Single { shard, .. } => std::slice::from_ref(shard),
            ShardPlan::Fan(fan) => &fan.shards,
            ShardPlan::Scatter(scatter) => &scatter.shards,
            _ => &[],
        };
        self.shards.extend(shards);
        if texts(items).any(|(_, facts)| facts.access() == Access::Write) {
            self.writes.extend(shards);
        }
        // Of these a block says that it cannot have them, or they are several transactions.
        self.needs_block |= match &need.plan {
            ShardPlan::Scatter(scatter) => scatter.explain.is_some(),
            ShardPlan::Fan(fan) => !matches!(fan.parts, Parts::Rows { .. } | Parts::Whole { .. }),
            _ => false,
        };
        if !texts(items).all(|(text, facts)| is_plain(text, facts)) {
            return Belongs::Alone;
        }
        match &need.plan {
            ShardPlan::Single { shard, .. } => Belongs::Shard(*shard),
            ShardPlan::Scatter(_) | ShardPlan::Fan(_) | ShardPlan::Reject(_) => Belongs::Alone,
            ShardPlan::AnyShard { .. } | ShardPlan::NeedsParameter { .. } => {
                let runs = items.iter().any(|(intake, _)| matches!(intake, Intake::Bind { .. }));
                if runs { Belongs::Home } else { Belongs::Nowhere }
            }
        }
    }
}

/// Whether it is not a statement that is refused, but several together.
pub(super) fn is_of_pipeline(error: &Error) -> bool {
    matches!(error.reason, Some("shards_disagree" | "pipeline"))
}

/// Behind a pipeline that is one transaction and was not ended.
pub(super) fn no_sync() -> Error {
    Error::us_fatal(
        SqlState::FEATURE_NOT_SUPPORTED,
        "a simple query is not supported behind a pipeline of several shards that has no Sync yet",
    )
    .hint("Send the Sync first.")
}

/// The texts that these messages run.
fn texts(items: &[(Intake, usize)]) -> impl Iterator<Item = (&[u8], &Arc<QueryFacts>)> {
    items.iter().filter_map(|(intake, _)| match intake {
        Intake::Bind { statement: Some(statement), .. } => Some((&*statement.sql, &statement.facts)),
        _ => None,
    })
}

/// Whether a text does the same in a block as in a transaction that nobody has begun.
fn is_of_data((text, facts): (&[u8], &Arc<QueryFacts>)) -> bool {
    matches!(facts.statements.as_slice(), [statement]
        if matches!(statement.plan, Plan::Rows | Plan::Silent)
            && statement.transaction == TransactionEffect::None
            && statement.locals.is_empty())
        && is_plain(text, facts)
}

/// Takes a pipeline apart, each statement with what belongs to it. None where a message belongs to another statement than the one before it,
/// where something ends a transaction before the Sync, and where it is no pipeline of ordinary statements.
fn groups(stretch: Stretch<'_>) -> Option<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    let mut now = Group::default();
    let (mut portal, mut described, mut ended): (Option<&[u8]>, bool, bool) = (None, false, false);
    let mut at = 0_usize;
    let mut refused = false;
    for (intake, len) in stretch.items {
        let body = || stretch.bytes.get(at.saturating_add(5)..at.saturating_add(*len)).unwrap_or_default();
        let begins = match intake {
            // It is passed over.
            _ if refused => false,
            Intake::Parse { .. }
            | Intake::CloseStatement { .. }
            | Intake::DescribeStatement { statement: Some(_), .. } => {
                portal.is_some() && !(ended && matches!(intake, Intake::CloseStatement { .. }))
            }
            // What reads several shards is not described by its name in the same piece.
            Intake::Bind { statement: Some(_), .. } => portal.is_some() || described,
            Intake::Refuse { simple: false, .. } if !ended => true,
            Intake::Flush => true,
            Intake::Execute { portal: of } | Intake::ClosePortal { portal: of } if portal == Some(&**of) => false,
            Intake::DescribePortal if portal.map(Target::Portal) == message::target(body()) => false,
            Intake::Sync => false,
            _ => return None,
        };
        if begins && now.messages > 0 {
            groups.push(std::mem::take(&mut now));
            (portal, described) = (None, false);
        }
        match intake {
            Intake::Refuse { .. } => refused = true,
            _ if refused => {}
            Intake::Bind { portal: name, statement: Some(statement), .. } => {
                portal = Some(&**name);
                if ended {
                    return None;
                }
                ended = ends_transaction(&statement.facts)?;
            }
            Intake::Parse { .. } | Intake::DescribeStatement { .. } | Intake::Flush if ended => return None,
            Intake::DescribeStatement { .. } => described = true,
            _ => {}
        }
        now.messages = now.messages.saturating_add(1);
        now.bytes = now.bytes.saturating_add(*len);
        at = at.saturating_add(*len);
    }
    if now.messages > 0 {
        groups.push(now);
    }
    // What comes behind the end of a transaction would be another.
    (!ended || matches!(stretch.items.last(), Some((Intake::Sync, _)))).then_some(groups)
}

/// Whether a statement ends its transaction, so that nothing of the pipeline may come behind it. None where it cannot be in one that is cut.
fn ends_transaction(facts: &QueryFacts) -> Option<bool> {
    let statement = match facts.statements.as_slice() {
        [] if facts.unparsed.is_none() => return Some(false),
        [statement] if facts.unparsed.is_none() => statement,
        _ => return None,
    };
    if statement.why.starts_with("COPY") || statement.listens || statement.name_use.is_some() {
        return None;
    }
    match statement.transaction {
        TransactionEffect::Commit { chain: false } | TransactionEffect::Rollback { chain: false } => Some(true),
        TransactionEffect::Commit { chain: true }
        | TransactionEffect::Rollback { chain: true }
        | TransactionEffect::PrepareTransaction
        | TransactionEffect::FinishPrepared => None,
        TransactionEffect::None
        | TransactionEffect::Begin { .. }
        | TransactionEffect::Savepoint
        | TransactionEffect::Release
        | TransactionEffect::RollbackTo => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::segment::Segment;
    use crate::session::prepared::Registry;
    use crate::session::settings::{ClientSettings, Values};
    use crate::session::{Keep, Session};
    use crate::sql::parse;
    use crate::wire::{encode, frame};

    /// Of how many messages the groups of a pipeline consist: `P` and a text is Parse, the others are `B`ind, `D`escribe of the portal, `d` of the
    /// statement, `E`xecute, `C`lose of the portal, `c` of the statement, `S`ync, `H` (Flush), each perhaps of a portal named in lower case.
    fn grouped(messages: &[&str]) -> Option<Vec<usize>> {
        let mut bytes = Vec::new();
        for message in messages {
            let (kind, rest) = message.split_at(1);
            let name = rest.trim().as_bytes();
            match kind {
                "P" => encode::parse(&mut bytes, b"", name, &[0, 0]),
                "B" => encode::bind(&mut bytes, name, b"", &[0; 6]),
                "D" => encode::describe_named_portal(&mut bytes, name),
                "d" => encode::describe_statement(&mut bytes, b""),
                "E" => encode::execute_portal(&mut bytes, name, 0),
                "C" => encode::frame(&mut bytes, b'C', |b| b.extend_from_slice(&[b"P", name, b"\0"].concat())),
                "c" => encode::close_statement(&mut bytes, b"s"),
                "b" => encode::bind(&mut bytes, b"", b"pgweir_nothing", &[0; 6]),
                "S" => encode::sync(&mut bytes),
                _ => encode::flush(&mut bytes),
            }
        }
        let mut session = Session::new(Keep::Transaction, true, ClientSettings::new(Values::default()));
        let registry = Registry::default();
        let mut segment = Segment::default();
        let mut at = 0;
        while let Ok(Some(frame)) = frame::next(&bytes[at..], 1 << 20) {
            at += frame.bytes.len();
            let facts = |text: &[u8], _| Arc::new(parse::facts(text));
            segment.push(session.intake(frame, &registry, facts, |_, _| None).unwrap(), frame.bytes.len());
        }
        let groups = groups(Stretch { items: &segment.items, bytes: &bytes, cut: false })?;
        assert_eq!(groups.iter().map(|group| group.bytes).sum::<usize>(), bytes.len());
        Some(groups.iter().map(|group| group.messages).collect())
    }

    #[test]
    fn a_pipeline_is_taken_apart_between_statements() {
        const INSERT: &str = "PINSERT INTO t VALUES ($1)";
        for (messages, groups) in [
            (&[INSERT, "B", "E", "S"][..], &[4][..]),
            (&[INSERT, "B", "D", "E", "B", "D", "E", "B", "E", "S"], &[4, 3, 3]),
            (&[INSERT, "B a", "E a", "C a", "c", INSERT, "B b", "D b", "E b", "S"], &[4, 6]),
            // What is described by name is described by itself.
            (&[INSERT, "d", "B", "E", "S"], &[2, 3]),
            (&[INSERT, "B", "E", "H"], &[3, 1]),
            (&["PBEGIN", "B", "E", INSERT, "B", "E", "PCOMMIT", "B", "D", "E", "c", "S"], &[3, 3, 6]),
            (&["PSAVEPOINT a", "B", "E", INSERT, "B", "E"], &[3, 3]),
            // What a name that means nothing fails at is not looked at.
            (&[INSERT, "B", "E", "b", "E", "PCOMMIT", "B", "E", INSERT, "B", "S"], &[3, 8]),
        ] {
            assert_eq!(grouped(messages).as_deref(), Some(groups), "{messages:?}");
        }
        for messages in [
            // A portal of before, and one of another statement.
            &["E", "S"][..],
            &[INSERT, "B a", "B", "E a", "E", "S"],
            &[INSERT, "B", "D a", "E", "S"],
            // What comes behind the end of a transaction is another.
            &[INSERT, "B", "E", "PCOMMIT", "B", "E", INSERT, "B", "E", "S"],
            &[INSERT, "B", "E", "PCOMMIT", "B", "E"],
            &["PCOMMIT AND CHAIN", "B", "E", "S"],
            &["PPREPARE TRANSACTION 'x'", "B", "E", "S"],
            &["PCOPY t FROM STDIN", "B", "E", "S"],
            &["PEXECUTE x", "B", "E", "S"],
            &["Pno sql", "B", "E", "S"],
        ] {
            assert_eq!(grouped(messages), None, "{messages:?}");
        }
    }
}
