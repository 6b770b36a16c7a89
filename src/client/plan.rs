//! What a segment needs: which shard, and the primary or a replica.

use crate::client::hidden::is_large_object;
use crate::client::own;
use crate::client::segment::Stretch;
use crate::client::sequences;
use crate::config::PoolMode;
use crate::error::{Error, SqlState};
use crate::id::ShardIndex;
use crate::session::settings::decides_shard;
use crate::session::{Intake, Session};
use crate::shard::check::Distrust;
use crate::shard::map::ShardMap;
use crate::shard::plan::{BoundParams, Own, PlanContext, ShardPlan, Why, combine, is_plain_path, plan_query};
use crate::sql::catalog::CatalogView;
use crate::sql::facts::{Access, ConfigArg, QueryFacts, RouteHint, SessionEffect, StatementFacts, TransactionEffect};
use crate::sql::shadows;
use crate::wire::message;

/// Whether values of sequences are asked for that the client has taken in another transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// They are not.
    None,
    /// By a statement that may take some itself before it asks. Where the client's values are it is answered in any case; a server that knows
    /// none answers it rightly or not at all.
    Beside,
    /// By a statement that does nothing else: it is to be the server where the client's values are, or one that knows none if it has none.
    Alone,
}

/// What a segment needs.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each tells another thing that the segment does")]
pub struct Need {
    /// The strongest access of its statements.
    pub access: Access,
    /// Where hints, settings and configuration send it.
    pub hint: RouteHint,
    /// It begins with BEGIN READ ONLY.
    pub begin_read_only: bool,
    /// It may change what the server's catalog says.
    pub changes_catalog: bool,
    /// It asks for values of sequences that only this session's server knows.
    pub asks_sequences: bool,
    /// And that before it has written in this transaction.
    pub question: Question,
    /// The client has written on the server when it is done, other than by BEGIN.
    pub wrote: bool,
    /// Its shard.
    pub plan: ShardPlan,
}

impl Need {
    /// What a read needs that asks for nothing else of its `shard`.
    #[must_use]
    pub fn plain_read(shard: ShardIndex) -> Self {
        Self {
            access: Access::Read,
            hint: RouteHint::Auto,
            begin_read_only: false,
            changes_catalog: false,
            asks_sequences: false,
            question: Question::None,
            wrote: false,
            plan: ShardPlan::Single { shard, why: Why::Unsharded },
        }
    }
}

/// What planning depends on.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each tells another thing that decides")]
pub struct Planner<'a> {
    /// The database's map.
    pub map: &'a ShardMap,
    /// The session.
    pub session: &'a Session,
    /// How long servers are kept.
    pub mode: PoolMode,
    /// Where statements go that say nothing.
    pub default_route: RouteHint,
    /// Whether the servers' own encoding is UTF8.
    pub server_utf8: bool,
    /// What the checks of the shards have found.
    pub distrust: &'a Distrust,
    /// Whether a transaction block is open.
    pub in_block: bool,
    /// Whether the client has written on the server that it has: what the server says of sequences may then be its own doing.
    pub wrote: bool,
    /// Whether it is known where its values of sequences are, or that it has none.
    pub knows_its_values: bool,
    /// What is known of functions and of relations that are not listed. Without it functions write, and names are believed.
    pub catalog: Option<CatalogView<'a>>,
    /// What the session may see that the catalog does not tell of.
    pub own: Own,
}

impl Planner<'_> {
    /// Plans a segment, or messages of it.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn plan(&self, stretch: Stretch<'_>) -> Result<Need, Error> {
        let mut need = Need {
            access: if stretch.cut { Access::Write } else { Access::Neutral },
            hint: self.hint()?,
            begin_read_only: false,
            changes_catalog: false,
            asks_sequences: false,
            question: Question::None,
            wrote: self.wrote,
            plan: ShardPlan::AnyShard { why: "nothing in it belongs to a shard" },
        };
        let mut in_doubt = self.map.is_sharded() && self.session.settings_in_doubt();
        let mut local_role = self.session.has_local_role();
        let (mut at, mut server_before) = (0_usize, false);
        need.wrote |= self.mode == PoolMode::Session;
        for (intake, len) in stretch.items {
            let frame = stretch.bytes.get(at..at.saturating_add(*len)).unwrap_or_default();
            at = at.saturating_add(*len);
            let reaches_server = server_before;
            server_before |= intake.needs_server() || matches!(intake, Intake::CloseStatement { .. });
            match intake {
                // What comes before it is answered; the server is made to fail here, and passes over the rest.
                Intake::Refuse { .. } if reaches_server => break,
                Intake::Refuse { error, .. } => return Err((**error).clone()),
                Intake::FunctionCall => {
                    need.access = Access::Write;
                    need.wrote = true;
                    // Which function it is, its number tells only the server.
                    need.asks_sequences |= !is_large_object(frame);
                    if self.map.is_sharded() {
                        return Err(Error::us(
                            SqlState::FEATURE_NOT_SUPPORTED,
                            "function calls by the fast path are not supported on a sharded database",
                        )
                        .hint("Call the function by SELECT."));
                    }
                }
                _ => {}
            }
            let Some(facts) = intake.facts() else { continue };
            if in_doubt && facts.statements.iter().any(shadows::may_matter) {
                return Err(overtakes());
            }
            in_doubt |= self.map.is_sharded() && effects(facts).any(decides_shard);
            self.text(facts, &mut need)?;
            for statement in self.session.executed(facts) {
                if self.map.is_sharded() {
                    return Err(executes());
                }
                self.text(&statement.facts, &mut need)?;
                self.own_sequences(&statement.facts, &mut need)?;
            }
            if matches!(intake, Intake::Query(_) | Intake::Bind { .. }) {
                self.own_sequences(facts, &mut need)?;
            }
            let plan = self.shard(intake, facts, frame, local_role)?;
            if matches!(intake, Intake::Query(_) | Intake::Bind { .. }) {
                let local = |s: &StatementFacts| s.local_search_path || s.sets_local_reading_of_keys();
                in_doubt |= self.map.is_sharded() && facts.statements.iter().any(local);
                local_role |= facts.statements.iter().any(StatementFacts::sets_local_role);
            }
            let so_far = std::mem::replace(&mut need.plan, ShardPlan::AnyShard { why: "" });
            need.plan = combine(so_far, plan);
        }
        if stretch.is_continued() && need.hint == RouteHint::Auto {
            // A write may follow in the same implicit transaction.
            need.hint = RouteHint::Primary;
        }
        match need.plan {
            ShardPlan::Reject(error) => Err(error),
            _ => Ok(need),
        }
    }

    /// Refuses currval() and lastval() where no server can say anything of this client's: what it said would be of another's doing.
    fn own_sequences(&self, facts: &QueryFacts, need: &mut Need) -> Result<(), Error> {
        // What has not been read may take some.
        need.wrote |= facts.unparsed.is_some();
        for statement in &facts.statements {
            let alone = statement.asks_sequences_first();
            if alone && !need.wrote {
                if !self.knows_its_values {
                    return Err(sequences::lost());
                }
                need.question = Question::Alone;
            } else if statement.asks_sequences() && !need.wrote {
                need.question = need.question.max(Question::Beside);
            }
            // What asks may take one as well, but not if it does nothing else.
            let only_asks = alone
                && statement.functions.is_empty()
                && statement.touch.one_place.is_none()
                && statement.shape.tables().is_empty();
            need.wrote |= !only_asks && (statement.access == Access::Write || statement.discards_sequences());
        }
        Ok(())
    }

    /// `SET pgweir.route`, else the default of user and database.
    fn hint(&self) -> Result<RouteHint, Error> {
        match self.session.settings().get("pgweir.route") {
            Some(value) => own::route(value),
            None => Ok(self.default_route),
        }
    }

    fn text(&self, facts: &QueryFacts, need: &mut Need) -> Result<(), Error> {
        let off = |value: &str| matches!(value.to_ascii_lowercase().as_str(), "off" | "false" | "no" | "0");
        if self.map.is_sharded()
            && facts.access() != Access::Neutral
            && self.session.settings().get("standard_conforming_strings").is_some_and(off)
        {
            return Err(Error::us(
                SqlState::FEATURE_NOT_SUPPORTED,
                "standard_conforming_strings is off, so that a sharding key cannot be read as the server reads it",
            )
            .hint("SET standard_conforming_strings = on, and write E'...' where backslashes are escapes."));
        }
        own::check_all(facts, self.map)?;
        own::check_forms(facts, self.in_block)?;
        if let Some(error) = &facts.hints.error {
            return Err(Error::us(SqlState::INVALID_PARAMETER_VALUE, error.clone())
                .hint("Hints are written /* pgweir: primary */, replica, shard=NAME, sharding_key=VALUE."));
        }
        if let Some(route) = facts.hints.route {
            need.hint = route;
        }
        need.access = need.access.max(self.catalog.map_or_else(|| facts.access(), |c| c.text_access(facts)));
        need.changes_catalog |= facts.changes_catalog();
        need.asks_sequences |= facts.asks_sequences();
        let changes_path = |e: &SessionEffect| match e {
            SessionEffect::Set { name, .. } | SessionEffect::SetUnknown { name } | SessionEffect::Reset { name } => {
                name == "search_path"
            }
            SessionEffect::SetByParams { name: ConfigArg::Literal(name), .. } => {
                name.eq_ignore_ascii_case("search_path")
            }
            SessionEffect::SetByParams { .. } => true,
            SessionEffect::ResetAll => self.session.settings().get("search_path").is_some(),
            _ => false,
        };
        if self.map.is_sharded() && self.in_block && facts.statements.iter().any(|s| s.effects.iter().any(changes_path))
        {
            return Err(Error::us(
                SqlState::FEATURE_NOT_SUPPORTED,
                "search_path cannot be changed within a transaction of a sharded database",
            )
            .hint("SET search_path before the transaction, or write the schema before each name."));
        }
        for statement in &facts.statements {
            if self.mode == PoolMode::Statement && statement.transaction != TransactionEffect::None {
                return Err(Error::us(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "transaction blocks are not allowed in statement pooling mode",
                )
                .hint("Use pool_mode = \"transaction\" for this database or user."));
            }
            match statement.transaction {
                TransactionEffect::Begin { read_only: true } => need.begin_read_only = true,
                // What follows is not known yet, and it all goes where the block begins.
                TransactionEffect::Begin { read_only: false } => need.access = Access::Write,
                _ => {}
            }
            // State that keeps the server is kept where everything can be done.
            if statement.effects.iter().any(|e| matches!(e, SessionEffect::Pin(_))) {
                need.access = Access::Write;
            }
        }
        let isolation = self.session.settings().get("default_transaction_isolation");
        if isolation.is_some_and(|level| level.eq_ignore_ascii_case("serializable")) {
            // No standby runs a serializable transaction.
            need.access = need.access.max(Access::Local);
        }
        if self.mode == PoolMode::Session {
            need.access = Access::Write;
        }
        Ok(())
    }

    /// `local_role`: the transaction may have a role of its own.
    fn shard(&self, intake: &Intake, facts: &QueryFacts, frame: &[u8], local_role: bool) -> Result<ShardPlan, Error> {
        if !self.map.is_sharded() {
            return Ok(ShardPlan::Single { shard: self.map.default_shard, why: Why::Unsharded });
        }
        let settings = self.session.settings();
        let text = match intake {
            Intake::Query(_) => message::query(frame.get(5..).unwrap_or_default()),
            Intake::Parse { statement, .. }
            | Intake::Bind { statement: Some(statement), .. }
            | Intake::DescribeStatement { statement: Some(statement), .. } => Some(&*statement.sql),
            _ => None,
        };
        let mut cx = PlanContext {
            map: self.map,
            text: text.and_then(|text| std::str::from_utf8(text).ok()),
            among: None,
            bound: None,
            sharding_key: settings.get("pgweir.sharding_key"),
            shard: settings.get("pgweir.shard"),
            // On a sharded database it is known from the login on.
            utf8: self.server_utf8
                && !self.distrust.beyond_ascii
                && settings.get("client_encoding").is_some_and(|e| e.eq_ignore_ascii_case("utf8")),
            default_search_path: settings.get("search_path").is_none_or(is_plain_path)
                && !self.session.has_local_path(),
            own_search_path: settings.get("search_path").is_some(),
            distrust: self.distrust,
            changed_role: settings.is_someone_else() || local_role,
            catalog: self.catalog,
            own: self.own,
        };
        let Intake::Bind { statement: Some(statement), .. } = intake else {
            return Ok(match (plan_query(facts, &cx), intake) {
                // The Bind that follows, perhaps in the same segment, has the last word.
                (
                    ShardPlan::NeedsParameter { .. } | ShardPlan::Scatter(_) | ShardPlan::Fan(_),
                    Intake::Parse { .. } | Intake::DescribeStatement { .. },
                ) => ShardPlan::AnyShard { why: "it is only prepared" },
                (plan, _) => plan,
            });
        };
        let malformed = || Error::client_fatal(SqlState::PROTOCOL_VIOLATION, "malformed Bind message from the client");
        let bind = message::bind(frame.get(5..).unwrap_or_default()).ok_or_else(malformed)?;
        let parameters = bind.parameters().ok_or_else(malformed)?;
        for effect in effects(facts) {
            if let SessionEffect::SetByParams { name: ConfigArg::Param(number), .. } = effect {
                let at = usize::from(*number).checked_sub(1);
                own::check_bound(at.and_then(|at| parameters.values.get(at).copied().flatten()))?;
            }
        }
        let types = statement.oids();
        cx.bound = Some(BoundParams { values: &parameters.values, formats: &parameters.formats, types: &types });
        Ok(plan_query(facts, &cx))
    }
}

fn effects(facts: &QueryFacts) -> impl Iterator<Item = &SessionEffect> {
    facts.statements.iter().flat_map(|statement| &statement.effects)
}

/// What is run has another text, which was prepared by the protocol, and values of its own.
fn executes() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "EXECUTE of a statement that was prepared by the protocol is not supported on a sharded database",
    )
    .hint("Run it by the protocol as well: Bind and Execute.")
}

/// The statement stands behind a SET in one pipeline.
fn overtakes() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "the shard cannot be told: a statement sent before in the same pipeline changes a setting that decides it",
    )
    .hint(
        "Send SET and RESET of search_path, client_encoding, role and pgweir's own settings with a Sync of their own.",
    )
}
