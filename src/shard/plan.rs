//! The shard planner: a statement is proven to belong to one shard, or refused with the reason and what to do instead.
//!
//! There is no third outcome in which a statement is sent somewhere in the hope that it is right. The planner sees shapes
//! ([`ShardShape`]), not SQL, and believes only what a shape guarantees: a key compared for equality among the top-level AND
//! conjuncts, or given in every row of VALUES.
//!
//! `filtered` and `insert` plan the kinds of statements that keys may send to one shard. `refusal` words the refusals; `ddl` tells what all
//! shards have and what one; `effects` holds plans against what else a statement does; `relations` says where the tables of a statement
//! live; `proof` finds the key, `tuples` counts out the keys of several columns, `params` tells whether a parameter's type is known;
//! `levels` proves that all queries of a statement ask one shard; `unseen` looks for tables that the text does not show; `copied` plans COPY
//! of a query by the query, `explained` EXPLAIN of a write. What no key ties to one shard may be a read of several: `scatter` proves that their rows, or parts of groups, make the answer; `write` is about writes on several.

mod copied;
mod ddl;
mod effects;
mod explained;
mod filtered;
mod insert;
mod levels;
mod params;
pub mod present;
mod proof;
mod refusal;
mod relations;
pub mod scatter;
mod tuples;
mod unseen;
pub mod write;

use std::fmt;

use crate::error::Error;
use crate::id::{ShardIndex, Slot};
use crate::shard::check::Distrust;
pub use crate::shard::key::BoundParams;
use crate::shard::key::{Key, row};
use crate::shard::map::{KeyType, ShardMap, Table};
use crate::shard::table_key::{TableKey, slot_of_columns};
use crate::sql::catalog::CatalogView;
use crate::sql::facts::{
    Access, ConfigArg, PinReason, QueryFacts, SessionEffect, ShardShape, StatementFacts, TableRef, TransactionEffect,
    Verb,
};
use filtered::Filtered;
use insert::Insert;
pub use relations::is_plain_path;
use relations::{Home, Relations};
pub use scatter::Scatter;
pub use write::Fan;

/// What a plan depends on beside the statement.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of a session")]
pub struct PlanContext<'a> {
    /// The database's map.
    pub map: &'a ShardMap,
    /// The text, where it is one statement; without it no statement goes to several shards.
    pub text: Option<&'a str>,
    /// The whole text and the number of the statement in it, where it is one of several.
    pub among: Option<(&'a str, usize)>,
    /// The parameters; none while they are not known: Parse without Bind, EXPLAIN ROUTE of a text with `$1`.
    pub bound: Option<BoundParams<'a>>,
    /// `SET pgweir.sharding_key`; a hint of the text takes its place. Empty is as good as none.
    pub sharding_key: Option<&'a str>,
    /// `SET pgweir.shard`; a hint of the text takes its place. Empty is as good as none.
    pub shard: Option<&'a str>,
    /// Whether client_encoding and server_encoding are UTF8; a text key beyond ASCII is refused otherwise.
    pub utf8: bool,
    /// Whether search_path is as the server starts with, or as good as that ([`is_plain_path`]), in the transaction at hand as well. If not, an unqualified name that is also a
    /// listed table's is refused.
    pub default_search_path: bool,
    /// Whether the session has given search_path a value of its own, so that RESET changes it.
    pub own_search_path: bool,
    /// What the checks of the shards have found.
    pub distrust: &'a Distrust,
    /// Whether the session, or its transaction, may have another role than at its login: SET ROLE, SET LOCAL ROLE.
    pub changed_role: bool,
    /// What is known of functions and of relations that are not listed. Without it their names are believed: EXPLAIN ROUTE.
    pub catalog: Option<CatalogView<'a>>,
    /// What the session may see that this catalog does not tell of.
    pub own: Own,
}

/// Objects that a session alone can see: temporary ones, and those made in its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Own {
    /// There are none.
    #[default]
    None,
    /// On the shard that it is on.
    OnOne,
    /// On several shards.
    OnSeveral,
}

/// Why a statement goes to the shard it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// There is only one shard.
    Unsharded,
    /// The key of its one sharded table has this slot.
    Key(Slot),
    /// The keys of all this many rows belong there.
    Rows(usize),
    /// `pgweir.shard` says so.
    ShardSetting,
    /// `pgweir.sharding_key` has this slot.
    KeySetting(Slot),
    /// Its sharded tables are joined by their keys, and each of this many keys that it asks for belongs there.
    Keys(usize),
    /// Its tables are not listed: they live on the default shard.
    Unlisted,
    /// It has effects that only one shard can see, and names no table.
    DefaultShard,
    /// Other shards may answer it otherwise.
    ShardsDiffer,
    /// It asks for a key that is NULL, which no row has.
    NoRow,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsharded => f.write_str("the database is not sharded"),
            Self::Key(slot) => write!(f, "its sharding key is in slot {slot}"),
            Self::Rows(count) => write!(f, "the sharding keys of its {count} rows belong there"),
            Self::ShardSetting => f.write_str("pgweir.shard names it"),
            Self::KeySetting(slot) => write!(f, "pgweir.sharding_key is in slot {slot}"),
            Self::Keys(count) => write!(f, "all of the {count} sharding keys that it asks for belong there"),
            Self::Unlisted => f.write_str("its tables are not listed and live on the default shard"),
            Self::NoRow => f.write_str("no row is equal to NULL, which any shard says"),
            Self::ShardsDiffer => f.write_str("other shards may answer otherwise than the default shard"),
            Self::DefaultShard => f.write_str("it names no table but has effects, which belong to the default shard"),
        }
    }
}

/// Where a statement goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardPlan {
    /// To this shard.
    Single {
        /// Which.
        shard: ShardIndex,
        /// Why.
        why: Why,
    },
    /// To any shard, the one in use first: all would answer alike, or the session decides.
    AnyShard {
        /// Why.
        why: &'static str,
    },
    /// The shard depends on a parameter that is not bound yet ([`PlanContext::bound`] is none). Such a statement may be
    /// parsed and described on any shard; to run it, plan it again with its parameters. Never the outcome when they are given.
    NeedsParameter {
        /// Which, counted from 1.
        number: u16,
    },
    /// To several shards, whose answers become one.
    Scatter(Box<Scatter>),
    /// To several shards, which write.
    Fan(Box<Fan>),
    /// Nowhere.
    Reject(Error),
}

/// The kinds of plans, for those who count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlanKind {
    /// One shard.
    Single,
    /// Any shard.
    AnyShard,
    /// Several shards.
    Scatter,
    /// Several shards, which write.
    Fan,
    /// None: it is refused.
    Refused,
}

impl PlanKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Single, Self::AnyShard, Self::Scatter, Self::Fan, Self::Refused];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::AnyShard => "any_shard",
            Self::Scatter => "scatter",
            Self::Fan => "write_several",
            Self::Refused => "refused",
        }
    }
}

impl ShardPlan {
    /// Its kind; what waits for a parameter may still go anywhere.
    #[must_use]
    pub fn kind(&self) -> PlanKind {
        match self {
            Self::Single { .. } => PlanKind::Single,
            Self::AnyShard { .. } | Self::NeedsParameter { .. } => PlanKind::AnyShard,
            Self::Scatter(_) => PlanKind::Scatter,
            Self::Fan(fan) if fan.reads() => PlanKind::Scatter,
            Self::Fan(_) => PlanKind::Fan,
            Self::Reject(_) => PlanKind::Refused,
        }
    }

    fn single(shard: ShardIndex, why: Why) -> Self {
        Self::Single { shard, why }
    }
}

impl From<Stop> for ShardPlan {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refuse(error) | Stop::Untied(error) => Self::Reject(error),
            Stop::Unbound(number) => Self::NeedsParameter { number },
        }
    }
}

/// Why planning ends without a shard.
#[derive(Debug)]
enum Stop {
    Refuse(Error),
    /// No key ties it to one shard, with this refusal unless several shards can answer.
    Untied(Error),
    Unbound(u16),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refuse(error)
    }
}

/// Plans a whole text. Its statements travel in one message, so all must agree on the shard; SET, SHOW and transaction control
/// agree with any. A `SET pgweir.shard` or `SET pgweir.sharding_key` in the text holds from the next statement on.
#[must_use]
pub fn plan_query(facts: &QueryFacts, cx: &PlanContext<'_>) -> ShardPlan {
    if let Some(error) = &facts.hints.error {
        return ShardPlan::Reject(refusal::bad_hint(error));
    }
    if !cx.map.is_sharded() {
        return ShardPlan::single(cx.map.default_shard, Why::Unsharded);
    }
    if let Some((message, position)) = &facts.unparsed {
        return ShardPlan::Reject(refusal::unparsed(message, *position));
    }
    let hints = &facts.hints;
    let several = cx.text.filter(|_| facts.statements.len() > 1);
    let mut cx = PlanContext {
        shard: hints.shard.as_deref().or(cx.shard),
        sharding_key: hints.sharding_key.as_deref().or(cx.sharding_key),
        text: cx.text.filter(|_| facts.statements.len() == 1),
        ..*cx
    };
    let mut whole = ShardPlan::AnyShard { why: "there is no statement" };
    for (at, statement) in facts.statements.iter().enumerate() {
        cx.among = several.map(|text| (text, at));
        whole = join(whole, plan_statement(statement, &cx), "statements of one text");
        if matches!(whole, ShardPlan::Reject(_)) {
            break;
        }
        statement.effects.iter().for_each(|effect| follow(effect, &mut cx));
        cx.default_search_path &= !statement.local_search_path;
        cx.changed_role |= statement.sets_local_role();
    }
    whole
}

/// Plans one statement by its shape and the settings; hints are the caller's affair (see [`plan_query`]).
#[must_use]
pub fn plan_statement(statement: &StatementFacts, cx: &PlanContext<'_>) -> ShardPlan {
    if !cx.map.is_sharded() {
        return ShardPlan::single(cx.map.default_shard, Why::Unsharded);
    }
    let planned = match plan_sharded(statement, cx) {
        Err(stop @ (Stop::Refuse(_) | Stop::Untied(_))) if statement.touch.explains.is_some() => {
            explained::plan(stop, statement, cx)
        }
        planned => planned,
    };
    effects::settle(planned.unwrap_or_else(Into::into), statement, cx)
}

/// The plan of two statements that travel together: those of a pipeline.
#[must_use]
pub fn combine(a: ShardPlan, b: ShardPlan) -> ShardPlan {
    join(a, b, "statements of one pipeline")
}

fn join(a: ShardPlan, b: ShardPlan, what: &str) -> ShardPlan {
    use ShardPlan::{AnyShard, Fan, NeedsParameter, Reject, Scatter, Single};
    match (a, b) {
        (Single { shard: a, .. }, Single { shard: b, .. }) if a != b => Reject(refusal::disagree(what)),
        (Reject(error), _) | (_, Reject(error)) => Reject(error),
        (plan @ (Scatter(_) | Fan(_)), AnyShard { .. }) | (AnyShard { .. }, plan @ (Scatter(_) | Fan(_))) => plan,
        (Fan(_), _) | (_, Fan(_)) => Reject(refusal::fan_shares(what)),
        (Scatter(_), _) | (_, Scatter(_)) => Reject(refusal::scatter_shares(what)),
        (NeedsParameter { number }, _) | (_, NeedsParameter { number }) => NeedsParameter { number },
        (plan @ Single { .. }, _) | (_, plan @ Single { .. }) => plan,
        // A real statement's reason says more than that there was none before it.
        (AnyShard { .. }, b @ AnyShard { .. }) => b,
    }
}

/// Follows a setting of the text itself to the statements after it. What search_path a reset goes back to is not known here: a changed one
/// stays changed, and one that the session has given is changed by it.
fn follow<'a>(effect: &'a SessionEffect, cx: &mut PlanContext<'a>) {
    match effect {
        SessionEffect::Set { name, value } => match name.as_str() {
            "pgweir.shard" => cx.shard = Some(value),
            "pgweir.sharding_key" => cx.sharding_key = Some(value),
            "search_path" => cx.default_search_path = false,
            "role" | "session_authorization" => cx.changed_role = true,
            _ => {}
        },
        SessionEffect::SetUnknown { name } | SessionEffect::SetByParams { name: ConfigArg::Literal(name), .. } => {
            match &*name.to_ascii_lowercase() {
                "search_path" => cx.default_search_path = false,
                "role" | "session_authorization" => cx.changed_role = true,
                _ => {}
            }
        }
        SessionEffect::SetByParams { .. } => (cx.default_search_path, cx.changed_role) = (false, true),
        SessionEffect::Reset { name } => match name.as_str() {
            "pgweir.shard" => cx.shard = None,
            "pgweir.sharding_key" => cx.sharding_key = None,
            "search_path" => cx.default_search_path &= !cx.own_search_path,
            _ => {}
        },
        SessionEffect::ResetAll | SessionEffect::DiscardAll => {
            (cx.shard, cx.sharding_key) = (None, None);
            cx.default_search_path &= !cx.own_search_path;
        }
        // It may have been search_path.
        SessionEffect::Pin(PinReason::Setting) => cx.default_search_path = false,
        SessionEffect::Local { .. }
        | SessionEffect::Pin(_)
        | SessionEffect::DeallocateAll
        | SessionEffect::Deallocate { .. } => {}
    }
}

/// The shard that the user has chosen by `pgweir.shard` or `pgweir.sharding_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chosen {
    shard: ShardIndex,
    /// The hashes of the columns of `pgweir.sharding_key`, if that is what was set.
    key: Option<Vec<u64>>,
}

impl Chosen {
    fn slot(&self) -> Option<Slot> {
        self.key.as_ref().map(|hashes| slot_of_columns(hashes.iter().copied()))
    }

    fn plan(&self) -> ShardPlan {
        ShardPlan::single(self.shard, self.slot().map_or(Why::ShardSetting, Why::KeySetting))
    }

    /// Holds a key found in the statement against the choice.
    fn check(&self, slot: Slot, map: &ShardMap) -> Result<(), Error> {
        match self.slot() {
            Some(chosen) if chosen != slot => Err(refusal::contradicts_key(chosen, slot)),
            _ if map.owner(slot) != self.shard => {
                Err(refusal::contradicts_shard(map.name(self.shard), map.name(map.owner(slot))))
            }
            _ => Ok(()),
        }
    }

    /// Holds what the statement says of one column of a key against the choice. Equal values have equal hashes.
    fn check_part(&self, part: &proof::Part<'_>) -> Result<(), Error> {
        match self.key.as_ref().and_then(|hashes| hashes.get(part.place)) {
            Some(hash) if !part.hashes.contains(hash) => Err(refusal::contradicts_column(part.column)),
            _ => Ok(()),
        }
    }
}

/// Whether the user has chosen a shard, rightly or wrongly.
fn is_chosen(cx: &PlanContext<'_>) -> bool {
    let is_set = |setting: Option<&str>| setting.is_some_and(|value| !value.is_empty());
    is_set(cx.shard) || is_set(cx.sharding_key)
}

/// Reads the settings. A key is read by the type of the statement's sharded tables, if it has any.
fn chosen(cx: &PlanContext<'_>, relations: Option<&Relations<'_>>) -> Result<Option<Chosen>, Error> {
    let by_name = match cx.shard.filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => Some(cx.map.shard_by_name(name).ok_or_else(|| refusal::no_such_shard(name, cx.map))?),
    };
    let Some(text) = cx.sharding_key.filter(|text| !text.is_empty()) else {
        return Ok(by_name.map(|shard| Chosen { shard, key: None }));
    };
    let key = relations.map_or(Ok(None), Relations::key)?;
    let key = key.or_else(|| relations::common_key(cx.map)).ok_or_else(refusal::untyped_key_setting)?;
    let hashes = read_setting(text, key, cx)?;
    if let Some(why) = &cx.distrust.keys {
        return Err(refusal::keys_distrusted(why));
    }
    let shard = cx.map.owner(slot_of_columns(hashes.iter().copied()));
    match by_name {
        Some(named) if named != shard => Err(refusal::contradicts_shard(cx.map.name(named), cx.map.name(shard))),
        _ => Ok(Some(Chosen { shard, key: Some(hashes) })),
    }
}

/// The hashes of the columns of the key that a setting gives: a value, of several columns a row as PostgreSQL writes it, `(1,a)`.
fn read_setting(text: &str, key: &TableKey, cx: &PlanContext<'_>) -> Result<Vec<u64>, Error> {
    let hash = |value: &str, key_type: KeyType| {
        // The column's width is no matter: a key beyond it is in no row.
        let key_type = if let KeyType::Integer { .. } = key_type { KeyType::Integer { width: 8 } } else { key_type };
        Key::from_text(value.as_bytes(), key_type, cx.utf8).map(|key| key.hash()).map_err(refusal::bad_key_setting)
    };
    match key.columns() {
        [only] => Ok(vec![hash(text, only.key_type)?]),
        several => {
            let values = row::fields(text).filter(|values| values.len() == several.len());
            let values = values.ok_or_else(|| refusal::no_row_setting(key))?;
            let each = several
                .iter()
                .zip(values)
                .map(|(column, value)| hash(&value.ok_or_else(|| refusal::no_row_setting(key))?, column.key_type));
            each.collect()
        }
    }
}

/// Whether the key of a table may decide, and any shard speak for a reference table: the servers are as the configuration says, as far
/// as they were checked.
fn believe(table: &TableRef, cx: &PlanContext<'_>) -> Result<(), Error> {
    match &cx.distrust.keys {
        Some(why) if relations::home(table, cx.map) != Home::Unlisted => Err(refusal::keys_distrusted(why)),
        _ => believe_table(table, cx),
    }
}

/// The same of what was found of the table alone.
fn believe_table(table: &TableRef, cx: &PlanContext<'_>) -> Result<(), Error> {
    if cx.distrust.tables.is_empty() {
        return Ok(());
    }
    let place = relations::placed(table);
    match (cx.distrust.tables.get(&place), relations::home(table, cx.map)) {
        (Some(why), Home::Reference) => Err(refusal::reference_distrusted(&table.name, why)),
        (Some(why), _) => Err(refusal::table_distrusted(&table.name, why)),
        (None, _) => Ok(()),
    }
}

fn plan_sharded(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
    if statement.local_search_path && !is_chosen(cx) {
        return Err(refusal::local_search_path().into());
    }
    unseen::check(statement, cx)?;
    effects::check(statement, cx)?;
    match &statement.shape {
        ShardShape::NoTables => plan_no_tables(statement, cx),
        ShardShape::Filtered { verb, tables, top, equalities, assigned, nested } => {
            let relations = Relations::of(tables, cx)?;
            let filtered = Filtered { statement, verb: *verb, top, equalities, assigned, nested: *nested };
            if relations.sharded() == 0 {
                filtered.plan_unsharded(&relations, cx)
            } else {
                filtered.plan(&relations, cx)
            }
        }
        ShardShape::Insert { tables, columns, rows, assigned } => {
            let relations = Relations::of(tables, cx)?;
            let (columns, repeated) = (columns.as_deref(), &statement.repeated);
            let conflict = &statement.touch.conflict;
            Insert { statement, tables, columns, rows, assigned, repeated, conflict }.plan(&relations, cx)
        }
        ShardShape::Other { tables, what } => {
            let relations = Relations::of(tables, cx)?;
            plan_other(statement, what, &relations, cx)
        }
    }
}

/// What the statement does, as far as the catalog tells of its functions.
fn access(statement: &StatementFacts, cx: &PlanContext<'_>) -> Access {
    cx.catalog.map_or(statement.access, |catalog| catalog.access(statement))
}

/// A statement without tables. What only reads is answered alike by every shard; what has effects (sequences, advisory locks,
/// notifications, functions that write) means one place, the default shard, like a table that is not listed.
fn plan_no_tables(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
    match statement.transaction {
        TransactionEffect::None => {}
        TransactionEffect::FinishPrepared => {
            return Ok(chosen(cx, None)?.ok_or_else(refusal::finish_prepared)?.plan());
        }
        TransactionEffect::Begin { .. }
        | TransactionEffect::Commit { .. }
        | TransactionEffect::Rollback { .. }
        | TransactionEffect::Savepoint
        | TransactionEffect::RollbackTo
        | TransactionEffect::Release
        | TransactionEffect::PrepareTransaction => {
            return Ok(ShardPlan::AnyShard { why: "it controls the transaction" });
        }
    }
    let bound_to_one_place = statement.effects.iter().any(|effect| match effect {
        SessionEffect::Pin(pin) => match pin {
            PinReason::AdvisoryLock
            | PinReason::Listen
            | PinReason::SequenceState
            | PinReason::Seed
            | PinReason::Handle => true,
            PinReason::TempObject
            | PinReason::HoldCursor
            | PinReason::Load
            | PinReason::SqlPrepare
            | PinReason::Identity
            | PinReason::Setting => false,
        },
        _ => false,
    });
    // SET itself must work whatever the settings say, or a wrong one could not be set right.
    if access(statement, cx) == Access::Neutral && !bound_to_one_place {
        return Ok(ShardPlan::AnyShard { why: "it speaks of the session" });
    }
    if let Some(chosen) = chosen(cx, None)? {
        return Ok(chosen.plan());
    }
    if bound_to_one_place || (access(statement, cx) == Access::Write && statement.effects.is_empty()) {
        return Ok(ShardPlan::single(cx.map.default_shard, Why::DefaultShard));
    }
    Ok(ShardPlan::AnyShard { why: "it names no table" })
}

/// Whether a statement goes where its rows belong, and nowhere without knowing them.
fn is_told_by_rows(what: &str) -> bool {
    ["INSERT", "MERGE", "PREPARE"].iter().any(|word| what.starts_with(word))
}

/// Anything that is not understood in detail. On the shard that the user has chosen it may run, so that an operator can run
/// DDL shard by shard; but not if it puts rows into a sharded table, whose keys are not checked.
fn plan_other(
    statement: &StatementFacts,
    what: &str,
    relations: &Relations<'_>,
    cx: &PlanContext<'_>,
) -> Result<ShardPlan, Stop> {
    let of_query = what == "COPY" && !matches!(statement.why, "COPY TO" | "COPY FROM");
    if let Some(chosen) = chosen(cx, Some(relations))? {
        if let Some(table) = relations.first_sharded().filter(|_| of_query || what == "DECLARE CURSOR")
            && let Some(plan) = copied::plan_chosen(statement, (what, &table.name), cx)?
        {
            return Ok(plan);
        }
        effects::rows_are_checked(statement, cx)?;
        let adds_rows = what.starts_with("COPY") || is_told_by_rows(what);
        return match relations.first_sharded() {
            Some(table) if adds_rows && access(statement, cx) == Access::Write => {
                Err(refusal::rows_unchecked(what, &table.name).into())
            }
            _ => Ok(chosen.plan()),
        };
    }
    if matches!(what, "INSERT ... SELECT" | "MERGE" | "DECLARE CURSOR")
        && relations.sharded() > 0
        && let Some(plan) = levels::plan(statement, cx)?
    {
        return Ok(plan);
    }
    if let Some(table) = relations.first_sharded().filter(|_| is_told_by_rows(what)) {
        // A chosen shard would not do either.
        return Err(refusal::rows_unproven(what, &table.name).into());
    }
    if let Some(table) = relations.first_listed().filter(|_| of_query) {
        return copied::plan(statement, &table.name, cx);
    }
    if let Some(plan) = plan_readers_of_copies(statement, what, relations, cx)? {
        return Ok(plan);
    }
    let is_plain = statement.effects.is_empty();
    if let Some(about) = statement.touch.about.filter(|_| ddl::decides(statement)) {
        return ddl::plan(statement, what, about, cx);
    }
    let listed = |table: &&TableRef| relations::home(table, cx.map) != Home::Unlisted;
    if let Some(table) = statement.touch.made_of.iter().find(listed) {
        // A temporary view would be on one shard.
        return Err(refusal::other(what, &table.name).into());
    }
    match relations.first_listed() {
        Some(table) if is_plain && what == "COPY" && relations.listed() == 1 && relations.unlisted() == 0 => {
            let home = relations::home(table, cx.map);
            match statement.why {
                "COPY TO" => write::copy_to(table, home, refusal::other(what, &table.name), cx),
                "COPY FROM" => write::copy(table, home, refusal::other(what, &table.name), cx),
                // By a file of the server.
                _ => Err(refusal::other(what, &table.name).into()),
            }
        }
        Some(table) if is_plain && relations.unlisted() == 0 => {
            let of_copies = relations.first_reference().is_some();
            write::utility(what, statement.shape.tables(), of_copies, refusal::other(what, &table.name), cx)
        }
        Some(table) => Err(refusal::other(what, &table.name).into()),
        // Code may touch any table, unseen.
        None if matches!(what, "DO" | "CALL") => Err(refusal::code(what).into()),
        // It names no table, so it may concern those of every shard: schemas, rights, functions, types.
        None if relations.unlisted() == 0 && is_plain => {
            write::utility(what, &[], false, refusal::everywhere(what), cx)
        }
        None if relations.unlisted() == 0 => Err(refusal::everywhere(what).into()),
        None if statement.touch.cascades => Err(refusal::cascades().into()),
        None => Ok(ShardPlan::single(cx.map.default_shard, Why::Unlisted)),
    }
}

/// A cursor, or a write to tables that the default shard alone has, which reads copies of reference tables; none if it is something else.
fn plan_readers_of_copies(
    statement: &StatementFacts,
    what: &str,
    relations: &Relations<'_>,
    cx: &PlanContext<'_>,
) -> Result<Option<ShardPlan>, Stop> {
    let is_unlisted = |table: &TableRef| relations::home(table, cx.map) == Home::Unlisted;
    let mut targets = statement.touch.targets.iter();
    let writes = ["INSERT", "MERGE"].iter().any(|word| what.starts_with(word));
    let is_reader = match what {
        "DECLARE CURSOR" => statement.touch.targets.is_empty(),
        _ => writes && relations.unlisted() > 0 && targets.all(|(_, table)| is_unlisted(table)),
    };
    if !is_reader || relations.sharded() > 0 || relations.first_reference().is_none() {
        return Ok(None);
    }
    effects::locks_no_copy(statement, cx)?;
    for table in statement.shape.tables() {
        believe_table(table, cx)?;
    }
    Ok(Some(match access(statement, cx) {
        _ if relations.unlisted() > 0 => ShardPlan::single(cx.map.default_shard, Why::Unlisted),
        // It calls what has effects, or stays when its transaction is over.
        Access::Write => ShardPlan::single(cx.map.default_shard, Why::ShardsDiffer),
        Access::Read | Access::Local | Access::Neutral => ShardPlan::AnyShard { why: "it reads only reference tables" },
    }))
}

#[cfg(test)]
mod tests;
