//! From one parsed statement to its facts.
//!
//! Two rules stand above the table of statements. Whatever is not understood is a write. And a statement that leaves state
//! on its server is a write too, because the session then keeps that server for its later writes.

use std::sync::Arc;

use pg_raw_parse::{ConstValue, Node, nodes, raw};

use super::builtins::OPERATORS;
use super::facts::{
    Access, FunctionRef, LocalSet, Mentions, NameUse, ParamUse, PinReason, Plan, QueryFacts, SessionEffect, ShardShape,
    StatementFacts, TransactionEffect, Verb,
};
use super::functions::{Unknown, call, is_local_relation};
use super::hidden::body::{self, Body};
use super::touch::{self, About, Dml, Explains, Touch};
use super::walk::{Seen, walk};
use super::{levels, settings, shape};
use super::{listens, pids, utility};

/// Facts under construction: access only ever rises, and the first cause of it is kept.
#[expect(clippy::struct_excessive_bools, reason = "each is another fact")]
pub(super) struct Draft {
    access: Access,
    own_access: Access,
    functions: Vec<FunctionRef>,
    mentions: Mentions,
    why: &'static str,
    transaction: TransactionEffect,
    savepoint: Option<Box<str>>,
    effects: Vec<SessionEffect>,
    name_use: Option<NameUse>,
    prepared: Option<Arc<QueryFacts>>,
    changes_catalog: bool,
    changes_code: bool,
    own_code: bool,
    block: Option<Box<Body>>,
    local_search_path: bool,
    locals: Vec<LocalSet>,
    temp_in_path: bool,
    calls_set_config: bool,
    takes_lock: bool,
    ends_state: bool,
    plan: Plan,
    pids: bool,
    listens: bool,
    repeated: Vec<ParamUse>,
    shape: ShardShape,
    touch: Touch,
}

impl Draft {
    fn new(access: Access, why: &'static str) -> Self {
        Self {
            access,
            own_access: access,
            functions: Vec::new(),
            mentions: Mentions::default(),
            why,
            transaction: TransactionEffect::None,
            savepoint: None,
            effects: Vec::new(),
            name_use: None,
            prepared: None,
            changes_catalog: false,
            changes_code: false,
            own_code: false,
            block: None,
            local_search_path: false,
            locals: Vec::new(),
            temp_in_path: false,
            calls_set_config: false,
            takes_lock: false,
            ends_state: false,
            plan: Plan::None,
            pids: false,
            listens: false,
            repeated: Vec::new(),
            shape: ShardShape::NoTables,
            touch: Touch::default(),
        }
    }

    fn raise(&mut self, access: Access, why: &'static str) {
        self.own_access = self.own_access.max(access);
        self.raise_if_unknown(access, why);
    }

    /// Raises the access as long as nobody knows better.
    fn raise_if_unknown(&mut self, access: Access, why: &'static str) {
        if access > self.access {
            self.access = access;
            self.why = why;
        }
    }

    /// Adds an effect; a pin that is there already is not repeated.
    fn effect(&mut self, effect: SessionEffect) {
        if !matches!(effect, SessionEffect::Pin(_)) || !self.effects.contains(&effect) {
            self.effects.push(effect);
        }
    }

    fn pin(&mut self, reason: PinReason) {
        self.effect(SessionEffect::Pin(reason));
    }

    fn finish(mut self) -> StatementFacts {
        let pin = self.effects.iter().find_map(|e| match e {
            SessionEffect::Pin(reason) => Some(*reason),
            _ => None,
        });
        if let Some(reason) = pin {
            self.raise(Access::Write, pin_why(reason));
        }
        let mentions = &self.mentions;
        let own = |name: &String| OPERATORS.binary_search(&name.as_str()).is_ok();
        let plainly_reads = self.access < Access::Write
            && self.functions.is_empty()
            && mentions.foreign_operators.is_empty()
            && mentions.operators.iter().all(own);
        StatementFacts {
            access: self.access,
            own_access: self.own_access,
            plainly_reads,
            functions: self.functions,
            mentions: self.mentions,
            why: self.why,
            transaction: self.transaction,
            savepoint: self.savepoint,
            effects: self.effects,
            name_use: self.name_use,
            prepared: self.prepared,
            // Temporary objects are seen by their own session alone, which keeps its server.
            changes_catalog: self.changes_catalog && pin != Some(PinReason::TempObject),
            changes_code: self.changes_code && pin != Some(PinReason::TempObject),
            own_code: self.own_code,
            block: self.block,
            local_search_path: self.local_search_path,
            locals: self.locals,
            temp_in_path: self.temp_in_path,
            calls_set_config: self.calls_set_config,
            takes_lock: self.takes_lock,
            ends_state: self.ends_state || ENDS_STATE.iter().any(|what| self.why.starts_with(what)),
            plan: self.plan,
            pids: self.pids,
            listens: self.listens,
            repeated: self.repeated,
            shape: self.shape,
            touch: self.touch,
        }
    }
}

/// Utility statements that leave functions and relations what they are.
const CHANGES_NO_NAME: [&str; 12] = [
    "TRUNCATE",
    "LOCK",
    "VACUUM",
    "ANALYZE",
    "CLUSTER",
    "REINDEX",
    "REFRESH MATERIALIZED VIEW",
    "LISTEN",
    "UNLISTEN",
    "NOTIFY",
    "LOAD",
    "CHECKPOINT",
];

/// Utility statements that add no code: nothing runs behind them that did not run before.
const CHANGES_NO_CODE: [&str; 18] = [
    "DROP TABLE",
    "DROP VIEW",
    "DROP MATERIALIZED VIEW",
    "DROP FOREIGN TABLE",
    "DROP SEQUENCE",
    "DROP INDEX",
    "DROP",
    "GRANT",
    "REVOKE",
    "COMMENT",
    "CREATE SEQUENCE",
    "ALTER SEQUENCE",
    "CREATE STATISTICS",
    "CREATE ROLE",
    "DROP ROLE",
    "CREATE DATABASE",
    "DROP DATABASE",
    "ALTER SYSTEM",
];

/// Beginnings of what may end the state for which a session keeps its server.
const ENDS_STATE: [&str; 7] =
    ["DROP", "CLOSE", "DEALLOCATE", "DISCARD", "ROLLBACK", "UNLISTEN", "ALTER ... SET SCHEMA"];

fn pin_why(reason: PinReason) -> &'static str {
    match reason {
        PinReason::TempObject => "makes a temporary object",
        PinReason::HoldCursor => "DECLARE WITH HOLD",
        PinReason::AdvisoryLock => "takes an advisory lock",
        PinReason::Listen => "LISTEN",
        PinReason::Load => "LOAD",
        PinReason::SqlPrepare => "PREPARE",
        PinReason::Identity => "makes a superuser's setting under another role",
        PinReason::Setting => "changes a setting in a way that cannot be followed",
        PinReason::SequenceState => "depends on what the session did to sequences",
        PinReason::Seed => "decides the session's random numbers",
        PinReason::Handle => "opens a handle",
    }
}

/// The facts of one statement.
pub(super) fn facts(node: Node<'_>) -> StatementFacts {
    draft(node).finish()
}

fn draft(node: Node<'_>) -> Draft {
    match node {
        Node::SelectStmt(_) => query(node, "SELECT"),
        Node::InsertStmt(_) => query(node, "INSERT"),
        Node::UpdateStmt(_) => query(node, "UPDATE"),
        Node::DeleteStmt(_) => query(node, "DELETE"),
        Node::MergeStmt(_) => query(node, "MERGE"),
        Node::TransactionStmt(stmt) => transaction(stmt),
        Node::VariableSetStmt(stmt) => set(stmt),
        Node::VariableShowStmt(stmt) => {
            let of_session = stmt.name().is_some_and(settings::is_the_sessions);
            Draft::new(if of_session { Access::Neutral } else { Access::Local }, "SHOW")
        }
        Node::ConstraintsSetStmt(_) => Draft::new(Access::Neutral, "SET CONSTRAINTS"),
        Node::FetchStmt(stmt) => Draft::new(Access::Neutral, if stmt.ismove { "MOVE" } else { "FETCH" }),
        Node::ClosePortalStmt(_) => Draft::new(Access::Neutral, "CLOSE"),
        Node::DiscardStmt(stmt) => {
            let mut draft = Draft::new(
                Access::Neutral,
                match stmt.target {
                    raw::DiscardMode::DISCARD_PLANS => "DISCARD PLANS",
                    raw::DiscardMode::DISCARD_TEMP => "DISCARD TEMP",
                    _ => "DISCARD",
                },
            );
            if stmt.target == raw::DiscardMode::DISCARD_ALL {
                draft.effect(SessionEffect::DiscardAll);
            }
            draft
        }
        Node::DeallocateStmt(stmt) => {
            let mut draft = Draft::new(Access::Neutral, "DEALLOCATE");
            draft.name_use = stmt.name().filter(|_| !stmt.isall).map(|name| NameUse::Deallocate(name.to_owned()));
            draft.effect(match stmt.name() {
                Some(name) if !stmt.isall => SessionEffect::Deallocate { name: name.to_owned() },
                _ => SessionEffect::DeallocateAll,
            });
            draft
        }
        Node::ExplainStmt(stmt) => explain(stmt),
        Node::CopyStmt(stmt) => copy(stmt),
        Node::DeclareCursorStmt(stmt) => {
            let mut draft = of_inner(stmt.query(), "DECLARE CURSOR");
            if !matches!(draft.shape, ShardShape::NoTables) {
                draft.touch.levels = levels::of_query(stmt.query()).map(Box::new);
            }
            // It runs when it is fetched from, or never.
            draft.effects = settings::in_doubt(std::mem::take(&mut draft.effects));
            draft.locals.iter_mut().for_each(|set| set.value = None);
            if u32::try_from(stmt.options).is_ok_and(|o| o & raw::CURSOR_OPT_HOLD != 0) {
                draft.pin(PinReason::HoldCursor);
            }
            draft
        }
        Node::PrepareStmt(stmt) => {
            // Its query does not run yet: only what it names counts.
            let mut draft = Draft::new(Access::Write, "PREPARE");
            let inner = of_inner(stmt.query(), "PREPARE").finish();
            (draft.shape, draft.functions) = (inner.shape.clone(), inner.functions.clone());
            (draft.mentions, draft.touch) = (inner.mentions.clone(), inner.touch.clone());
            (draft.pids, draft.listens) = (inner.pids, inner.listens);
            draft.pin(PinReason::SqlPrepare);
            // It may be executed where nobody sees that; where it is seen, this counts once more.
            for effect in &inner.effects {
                if let SessionEffect::Pin(reason) = effect {
                    draft.pin(*reason);
                }
            }
            if inner.effects.iter().any(settings::is_setting) {
                // Nothing is known of it when it is executed.
                draft.pin(PinReason::Setting);
            }
            draft.name_use = stmt.name().map(|name| NameUse::Prepare(name.to_owned()));
            draft.prepared = Some(Arc::new(QueryFacts { statements: vec![inner], ..QueryFacts::default() }));
            draft
        }
        Node::ExecuteStmt(stmt) => {
            let mut draft = Draft::new(Access::Write, "EXECUTE");
            draft.name_use = stmt.name().map(|name| NameUse::Execute(name.to_owned()));
            let mut seen = Seen::default();
            for param in stmt.params() {
                walk(param, &mut seen);
            }
            judge(&seen, &mut draft);
            draft
        }
        Node::CreateTableAsStmt(stmt) => create_table_as(stmt),
        Node::CallStmt(stmt) => {
            let mut draft = Draft::new(Access::Write, "CALL");
            draft.changes_catalog = true;
            let mut seen = Seen::default();
            if let Some(call) = stmt.funccall() {
                walk(Node::FuncCall(call), &mut seen);
            }
            judge(&seen, &mut draft);
            draft.shape = shape::other(seen, "CALL");
            draft
        }
        _ => {
            let found = utility::describe(node);
            let mut draft = Draft::new(Access::Write, found.what);
            draft.changes_catalog = !CHANGES_NO_NAME.contains(&found.what);
            draft.listens = matches!(node, Node::ListenStmt(_) | Node::UnlistenStmt(_));
            draft.changes_code = draft.changes_catalog && !found.is_plain && !CHANGES_NO_CODE.contains(&found.what);
            draft.own_code = found.own_code;
            if let Node::DoStmt(stmt) = node {
                draft.block = Some(Box::new(block(stmt)));
            }
            if let Some(reason) = found.pin {
                draft.pin(reason);
            }
            if let Node::CreateFunctionStmt(stmt) = node
                && found.pin == Some(PinReason::TempObject)
                && sets_unseen(stmt)
            {
                // What it sets when it is called stays when it is dropped.
                draft.pin(PinReason::Setting);
            }
            (draft.touch.cascades, draft.touch.about) = (found.cascades, found.about);
            draft.touch.fleeting = found.fleeting;
            (draft.touch.made_of, draft.touch.becomes) = (found.made_of, found.becomes);
            let computed = utility::computed(node);
            if !computed.is_empty() {
                compute(computed, &mut draft);
            }
            if !found.tableless {
                draft.shape = ShardShape::Other { tables: found.tables, what: found.what };
            }
            draft
        }
    }
}

/// What a utility statement computes leaves what it leaves: for each row, or for none.
fn compute(expressions: Vec<Node<'_>>, draft: &mut Draft) {
    let mut seen = Seen::default();
    expressions.into_iter().for_each(|expression| walk(expression, &mut seen));
    let mut inner = Draft::new(Access::Write, draft.why);
    judge(&seen, &mut inner);
    settings::in_doubt(inner.effects).into_iter().for_each(|effect| draft.effect(effect));
    // Whose they are is asked nobody: the statement writes anyway.
    let (run_text, others): (Vec<_>, Vec<_>) = inner.functions.into_iter().partition(|function| function.runs_text);
    draft.functions = run_text;
    draft.mentions = inner.mentions;
    draft.mentions.functions.extend(others.into_iter().map(|function| function.name));
    draft.mentions.functions.sort_unstable();
    draft.mentions.functions.dedup();
    draft.takes_lock |= inner.takes_lock;
    draft.ends_state |= inner.ends_state;
    draft.local_search_path |= inner.local_search_path;
    draft.temp_in_path |= inner.temp_in_path;
    draft.calls_set_config |= inner.calls_set_config;
}

/// SELECT or DML.
fn query(node: Node<'_>, what: &'static str) -> Draft {
    let mut seen = Seen::default();
    walk(node, &mut seen);
    let mut draft = Draft::new(Access::Read, what);
    judge(&seen, &mut draft);
    if let Node::SelectStmt(select) = node {
        settings::known_calls(select, &seen.calls, &mut draft.effects, &mut draft.locals);
    }
    if let Node::UpdateStmt(update) = node
        && update.relation().is_some_and(|var| {
            let table = super::walk::table_ref(var);
            table.name == "pg_settings" && table.schema.is_none_or(|schema| schema == "pg_catalog")
        })
    {
        // The view's rule calls set_config().
        draft.pin(PinReason::Setting);
    }
    draft.repeated = seen.repeated_params();
    draft.plan = if seen.into.is_empty() { plan(node) } else { Plan::None };
    touch::of_query(node, &seen, &mut draft.touch);
    let is_known = !seen.unknown && !seen.current_of && seen.into.is_empty() && !seen.tables.is_empty();
    let is_nested = levels::is_nested(node, &seen);
    draft.shape = shape::of_query(node, seen, &mut draft.touch);
    let is_read = matches!(draft.shape, ShardShape::Filtered { verb: Verb::Select, .. });
    if is_known && (is_nested || (draft.touch.arrays && !is_read)) {
        draft.touch.levels = levels::of_query(node).map(Box::new);
    }
    draft
}

fn plan(node: Node<'_>) -> Plan {
    let returning = match node {
        Node::InsertStmt(stmt) => stmt.returning_clause(),
        Node::UpdateStmt(stmt) => stmt.returning_clause(),
        Node::DeleteStmt(stmt) => stmt.returning_clause(),
        Node::MergeStmt(stmt) => stmt.returning_clause(),
        _ => return Plan::Rows,
    };
    if returning.is_some() { Plan::Rows } else { Plan::Silent }
}

/// A query inside another statement, which then shows its tables without their filters.
fn of_inner(node: Node<'_>, what: &'static str) -> Draft {
    let mut draft = draft(node);
    draft.plan = Plan::None;
    let tables = match std::mem::replace(&mut draft.shape, ShardShape::NoTables) {
        ShardShape::NoTables => return draft,
        ShardShape::Filtered { tables, .. } | ShardShape::Insert { tables, .. } | ShardShape::Other { tables, .. } => {
            tables
        }
    };
    draft.shape = ShardShape::Other { tables, what };
    draft
}

/// What the walk saw decides access and effects.
fn judge(seen: &Seen<'_>, draft: &mut Draft) {
    if let Some(why) = seen.writes {
        draft.raise(Access::Write, why);
    }
    for found in &seen.tables {
        if utility::is_temp_schema(found.table.schema.as_deref()) {
            draft.pin(PinReason::TempObject);
        }
        draft.listens |= listens::concerns_relation(found.table.schema.as_deref(), &found.table.name);
        if is_local_relation(found.table.schema.as_deref(), &found.table.name) {
            draft.raise(Access::Local, "asks for what is the server's own");
            draft.pids |= pids::concerns_relation(found.table.schema.as_deref(), &found.table.name);
        }
    }
    draft.changes_catalog |= !seen.into.is_empty();
    for into in &seen.into {
        if utility::makes_temp(into.rel(), into.on_commit) {
            draft.pin(PinReason::TempObject);
        }
    }
    draft.mentions = seen.mentions();
    for function in &seen.calls {
        judge_call(function, draft);
    }
    draft.mentions.functions.sort_unstable();
    draft.mentions.functions.dedup();
    if seen.unknown {
        draft.raise(Access::Write, "has syntax that is not understood");
    }
}

fn judge_call(function: &nodes::FuncCall, draft: &mut Draft) {
    let mut name = None;
    let mut schema = None;
    for part in function.funcname() {
        // With a database name in front there are three: the one before the last is the schema.
        schema = name;
        name = part.as_str();
    }
    let name = name.unwrap_or_default();
    let called = call(schema, name);
    draft.pids |= pids::concerns_function(schema, name);
    draft.listens |= listens::concerns_function(schema, name);
    if called.unknown == Unknown::Code {
        draft.raise_if_unknown(called.access, called.why);
    } else {
        draft.raise(called.access, called.why);
    }
    if called.unknown != Unknown::Nothing {
        let runs_text = called.unknown == Unknown::Tables;
        let function = FunctionRef { schema: schema.map(str::to_owned), name: name.to_owned(), runs_text };
        if !draft.functions.contains(&function) {
            draft.functions.push(function);
        }
    }
    if called.unknown == Unknown::Nothing && schema.is_none() {
        draft.mentions.functions.push(name.to_owned());
    }
    if let Some(reason) = called.pin {
        draft.pin(reason);
    }
    let built_in = called.unknown == Unknown::Nothing;
    if built_in {
        touch::call(name, function, &mut draft.touch);
    }
    // One that was tried in vain is not there.
    draft.ends_state |=
        built_in && (name.starts_with("pg_advisory_unlock") || name.starts_with("pg_try_advisory_lock"));
    draft.takes_lock |= built_in
        && (name.starts_with("pg_try_advisory_")
            || name.strip_prefix("pg_advisory_").is_some_and(|rest| !rest.starts_with("unlock")));
    if name == "current_setting"
        && called.access == Access::Read
        && !constant_argument(function).is_some_and(settings::is_the_sessions)
    {
        draft.raise(Access::Local, "asks for a setting of the server");
    }
    draft.calls_set_config |= name == "set_config";
    if name == "set_config" && called.access == Access::Read {
        let names_it = may_name_search_path(function);
        draft.local_search_path |= names_it;
        draft.locals.extend(settings::some_local(function));
        draft.temp_in_path |= names_it && settings::call_puts_temp_in_path(function);
        if let Some(effect) = settings::of_some_call(function) {
            draft.effect(effect);
        }
    }
}

/// Whether the first argument of set_config is search_path, or something that is not known here.
fn may_name_search_path(function: &nodes::FuncCall) -> bool {
    constant_argument(function).is_none_or(|name| name.eq_ignore_ascii_case("search_path"))
}

/// The first argument, if it is a string constant.
fn constant_argument(function: &nodes::FuncCall) -> Option<&str> {
    let Some(Node::A_Const(constant)) = function.args().get(0) else { return None };
    match constant.val() {
        Some(ConstValue::String(name)) => Some(name),
        _ => None,
    }
}

fn transaction(stmt: &nodes::TransactionStmt) -> Draft {
    use raw::TransactionStmtKind as Kind;
    let (access, why, effect) = match stmt.kind {
        Kind::TRANS_STMT_BEGIN => {
            (Access::Neutral, "BEGIN", TransactionEffect::Begin { read_only: begins_read_only(stmt) })
        }
        Kind::TRANS_STMT_START => {
            (Access::Neutral, "START TRANSACTION", TransactionEffect::Begin { read_only: begins_read_only(stmt) })
        }
        Kind::TRANS_STMT_COMMIT => (Access::Neutral, "COMMIT", TransactionEffect::Commit { chain: stmt.chain }),
        Kind::TRANS_STMT_ROLLBACK => (Access::Neutral, "ROLLBACK", TransactionEffect::Rollback { chain: stmt.chain }),
        Kind::TRANS_STMT_SAVEPOINT => (Access::Neutral, "SAVEPOINT", TransactionEffect::Savepoint),
        Kind::TRANS_STMT_RELEASE => (Access::Neutral, "RELEASE", TransactionEffect::Release),
        Kind::TRANS_STMT_ROLLBACK_TO => (Access::Neutral, "ROLLBACK TO", TransactionEffect::RollbackTo),
        Kind::TRANS_STMT_PREPARE => (Access::Write, "PREPARE TRANSACTION", TransactionEffect::PrepareTransaction),
        Kind::TRANS_STMT_COMMIT_PREPARED => (Access::Write, "COMMIT PREPARED", TransactionEffect::FinishPrepared),
        Kind::TRANS_STMT_ROLLBACK_PREPARED => (Access::Write, "ROLLBACK PREPARED", TransactionEffect::FinishPrepared),
        _ => (Access::Write, "transaction control", TransactionEffect::None),
    };
    let mut draft = Draft::new(access, why);
    draft.transaction = effect;
    draft.savepoint = stmt.savepoint_name().map(Box::from);
    draft
}

/// READ ONLY among the modes of BEGIN; of several, the last counts. SERIALIZABLE takes it back, because no standby runs that.
/// See <https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CAVEATS>.
fn begins_read_only(stmt: &nodes::TransactionStmt) -> bool {
    let modes = modes(stmt.options().iter());
    modes.read_only == Some(true) && !modes.serializable
}

/// The modes of a transaction, as BEGIN and SET TRANSACTION name them.
#[derive(Default)]
struct Modes {
    read_only: Option<bool>,
    serializable: bool,
}

fn modes<'a>(options: impl Iterator<Item = Node<'a>>) -> Modes {
    let mut modes = Modes::default();
    for option in options {
        let Node::DefElem(option) = option else { continue };
        let Node::A_Const(constant) = option.arg() else { continue };
        match (option.defname(), constant.val()) {
            (Some("transaction_read_only"), value) => {
                let on = matches!(value, Some(ConstValue::Integer(1) | ConstValue::Boolean(true)));
                modes.read_only = Some(on);
            }
            (Some("transaction_isolation"), Some(ConstValue::String(level))) => {
                modes.serializable = level.eq_ignore_ascii_case("serializable");
            }
            _ => {}
        }
    }
    modes
}

/// Whether a SET asks of the transaction at hand what a standby refuses: to write, or to be serializable.
fn leaves_standby(stmt: &nodes::VariableSetStmt) -> bool {
    let name = stmt.name().unwrap_or_default();
    match stmt.kind {
        raw::VariableSetKind::VAR_SET_MULTI if name == "TRANSACTION" => {
            let modes = modes(stmt.args().iter());
            modes.read_only == Some(false) || modes.serializable
        }
        // A value in words that is not READ ONLY's is one of READ WRITE, or an error.
        raw::VariableSetKind::VAR_SET_VALUE if name.eq_ignore_ascii_case("transaction_read_only") => {
            !first_word(stmt).is_some_and(|v| matches!(&*v.to_lowercase(), "on" | "true" | "yes" | "1"))
        }
        raw::VariableSetKind::VAR_SET_VALUE if name.eq_ignore_ascii_case("transaction_isolation") => {
            first_word(stmt).is_some_and(|v| v.eq_ignore_ascii_case("serializable"))
        }
        _ => false,
    }
}

fn first_word(stmt: &nodes::VariableSetStmt) -> Option<String> {
    let Some(Node::A_Const(constant)) = stmt.args().get(0) else { return None };
    constant.val().map(|value| value.to_string())
}

fn set(stmt: &nodes::VariableSetStmt) -> Draft {
    let reset = matches!(stmt.kind, raw::VariableSetKind::VAR_RESET | raw::VariableSetKind::VAR_RESET_ALL);
    let mut draft = Draft::new(Access::Neutral, if reset { "RESET" } else { "SET" });
    if stmt.kind == raw::VariableSetKind::VAR_SET_MULTI && stmt.name() == Some("TRANSACTION SNAPSHOT") {
        // The snapshot was exported by another session on the primary.
        draft.raise(Access::Write, "SET TRANSACTION SNAPSHOT");
    }
    if leaves_standby(stmt) {
        // Still a SET: a block of such can begin again elsewhere.
        draft.raise(Access::Local, "SET");
    }
    draft.touch.sets_own = stmt.is_local && stmt.name().is_some_and(touch::is_own);
    draft.local_search_path = stmt.is_local && stmt.name().is_some_and(|n| n.eq_ignore_ascii_case("search_path"));
    if stmt.is_local {
        draft.locals.extend(settings::local(stmt));
    }
    if draft.local_search_path {
        draft.temp_in_path = settings::puts_temp_in_path(stmt);
    }
    settings::effects(stmt, &mut draft.effects);
    draft
}

/// EXPLAIN runs its statement only with ANALYZE; without it, even a write is only planned, which a standby can do.
fn explain(stmt: &nodes::ExplainStmt) -> Draft {
    let mut inner = draft(stmt.query());
    let named = stmt.options().iter().rfind(|o| o.defname() == Some("format"));
    // What is not known is an error.
    inner.touch.explains = named.map_or(Some(Explains::Text), |option| option.arg().as_str().and_then(Explains::named));
    // Nobody keeps the plan of a statement that is explained.
    inner.plan = Plan::None;
    let analyze = stmt.options().iter().any(|o| o.defname() == Some("analyze") && is_on(o.arg()));
    if analyze || matches!(stmt.query(), Node::ExecuteStmt(_)) {
        return inner;
    }
    let mut draft = Draft::new(Access::Read, "EXPLAIN");
    // Planning runs immutable functions, and stable ones for its estimates: they read, and may do what nobody sees.
    (draft.shape, draft.repeated, draft.mentions) = (inner.shape, inner.repeated, inner.mentions);
    draft.touch = inner.touch;
    draft.mentions.functions.extend(inner.functions.into_iter().map(|function| function.name));
    draft.mentions.functions.sort_unstable();
    draft.mentions.functions.dedup();
    draft
}

/// A boolean option, which is on when it has no value.
fn is_on(arg: Node<'_>) -> bool {
    match arg {
        Node::Integer(i) => i.ival != 0,
        Node::Boolean(b) => b.boolval,
        Node::String(s) => !s.sval().is_some_and(|s| s.eq_ignore_ascii_case("off") || s.eq_ignore_ascii_case("false")),
        _ => true,
    }
}

fn copy(stmt: &nodes::CopyStmt) -> Draft {
    let mut draft = match stmt.relation() {
        None => of_inner(stmt.query(), "COPY"),
        Some(var) => {
            let mut draft =
                if stmt.is_from { Draft::new(Access::Write, "COPY FROM") } else { Draft::new(Access::Read, "COPY TO") };
            let table = super::walk::table_ref(var);
            if utility::is_temp_schema(table.schema.as_deref()) {
                draft.pin(PinReason::TempObject);
            }
            let mut seen = Seen::default();
            walk(stmt.where_clause(), &mut seen);
            judge(&seen, &mut draft);
            if stmt.is_from {
                draft.touch.targets.push((Dml::Insert, table.clone()));
            }
            draft.shape = ShardShape::Other { tables: vec![table], what: "COPY" };
            draft
        }
    };
    if stmt.filename().is_some() {
        draft.raise(Access::Write, "COPY with a file or program of the server");
    }
    draft
}

/// The code of DO.
fn block(stmt: &nodes::DoStmt) -> Body {
    let (mut language, mut text) = ("plpgsql", "");
    for option in stmt.args() {
        match (option.defname(), option.arg().as_str()) {
            (Some("language"), Some(name)) => language = name,
            (Some("as"), Some(code)) => text = code,
            _ => {}
        }
    }
    body::read(language, text)
}

/// Whether the body of a function, as far as it shows, sets something for the session, or may.
fn sets_unseen(stmt: &nodes::CreateFunctionStmt) -> bool {
    let (mut language, mut text) = ("sql", "");
    for option in stmt.options() {
        match (option.defname(), option.arg()) {
            (Some("language"), arg) => language = arg.as_str().unwrap_or_default(),
            (Some("as"), Node::NodeList(parts)) => {
                text = parts.iter().next().and_then(|part| part.as_str()).unwrap_or_default();
            }
            _ => {}
        }
    }
    let traces = body::read(language, text).traces;
    let settings = [PinReason::Setting, PinReason::Identity];
    traces.is_unknown() || traces.kinds().any(|reason| settings.contains(&reason))
}

fn create_table_as(stmt: &nodes::CreateTableAsStmt) -> Draft {
    let what =
        if stmt.objtype == raw::ObjectType::OBJECT_MATVIEW { "CREATE MATERIALIZED VIEW" } else { "CREATE TABLE AS" };
    let mut inner = of_inner(stmt.query(), what);
    inner.raise(Access::Write, what);
    // It does not run WITH NO DATA, or where the table is there already.
    inner.effects = settings::in_doubt(std::mem::take(&mut inner.effects));
    inner.locals.iter_mut().for_each(|set| set.value = None);
    inner.why = what;
    inner.changes_catalog = true;
    let mut tables = match std::mem::replace(&mut inner.shape, ShardShape::NoTables) {
        ShardShape::Other { tables, .. } => tables,
        _ => Vec::new(),
    };
    if stmt.objtype == raw::ObjectType::OBJECT_MATVIEW {
        (inner.touch.about, inner.touch.made_of) = (Some(About::Made), tables.clone());
    }
    if let Some(into) = stmt.into() {
        if let Some(var) = into.rel() {
            tables.insert(0, super::walk::table_ref(var));
        }
        if utility::makes_temp(into.rel(), into.on_commit) {
            inner.pin(PinReason::TempObject);
        }
        inner.touch.fleeting = utility::is_fleeting(into.rel(), into.on_commit);
    }
    inner.shape = ShardShape::Other { tables, what };
    inner
}
