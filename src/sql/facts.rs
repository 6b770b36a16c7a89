//! The facts of a statement that the rest of pgweir asks for. Plain data; no parser type leaves
//! `sql/`.

use std::sync::Arc;

use super::hidden::body::Body;
use super::touch::Touch;
use crate::id::ClientId;

/// What a statement does to data. Ordered: the access of several statements is their maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Goes wherever the session already is: SHOW, SET, transaction control, the empty statement.
    Neutral,
    /// Runs on a standby.
    Read,
    /// Runs on a standby, but is about what each server has of its own: statistics, locks, settings, how far a sequence is. An
    /// application believes in one server, and that is the primary.
    Local,
    /// Needs the primary. Whatever is not understood is a write.
    Write,
}

/// What a statement does to the transaction block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionEffect {
    /// Nothing.
    None,
    /// BEGIN or START TRANSACTION; `read_only` when it says READ ONLY.
    Begin {
        /// Whether READ ONLY is among its modes.
        read_only: bool,
    },
    /// COMMIT or END.
    Commit {
        /// AND CHAIN: a new block begins at once.
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        /// AND CHAIN: a new block begins at once.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint,
    /// ROLLBACK TO SAVEPOINT.
    RollbackTo,
    /// RELEASE SAVEPOINT.
    Release,
    /// PREPARE TRANSACTION.
    PrepareTransaction,
    /// COMMIT PREPARED or ROLLBACK PREPARED.
    FinishPrepared,
}

/// Why a session must keep its server: state that only this server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PinReason {
    /// CREATE TEMP ..., SELECT INTO TEMP, a name in pg_temp.
    TempObject,
    /// DECLARE ... WITH HOLD.
    HoldCursor,
    /// pg_advisory_lock and the other session-level advisory locks.
    AdvisoryLock,
    /// LISTEN.
    Listen,
    /// LOAD.
    Load,
    /// SQL-level PREPARE.
    SqlPrepare,
    /// A setting that is a superuser's to make, made under another role than the login's.
    Identity,
    /// A setting changed in a way that cannot be followed: set_config() of a name that is not known.
    Setting,
    /// currval or lastval, which speak of this session's past.
    SequenceState,
    /// setseed: it decides the random numbers to come.
    Seed,
    /// A connection of dblink's, a temporary replication slot, a backup that has begun.
    Handle,
}

impl PinReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::TempObject,
        Self::HoldCursor,
        Self::AdvisoryLock,
        Self::Listen,
        Self::Load,
        Self::SqlPrepare,
        Self::Identity,
        Self::Setting,
        Self::SequenceState,
        Self::Seed,
        Self::Handle,
    ];

    /// Whether what it stands for is still there after DISCARD ALL: only the end of the connection ends it.
    /// See <https://www.postgresql.org/docs/current/sql-discard.html>.
    #[must_use]
    pub fn outlives_discard(self) -> bool {
        matches!(self, Self::Load | Self::Seed | Self::Handle)
    }

    /// Whether what it stands for is no part of a transaction: a statement that fails may have made it, and a rollback leaves it.
    #[must_use]
    pub fn outlives_rollback(self) -> bool {
        matches!(self, Self::AdvisoryLock | Self::Seed | Self::Handle)
    }

    /// A word for SHOW and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TempObject => "temp_object",
            Self::HoldCursor => "hold_cursor",
            Self::AdvisoryLock => "advisory_lock",
            Self::Listen => "listen",
            Self::Load => "load",
            Self::SqlPrepare => "sql_prepare",
            Self::Identity => "identity",
            Self::Setting => "setting",
            Self::SequenceState => "sequence_state",
            Self::Seed => "seed",
            Self::Handle => "handle",
        }
    }
}

/// What a statement leaves behind in its session when it succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SessionEffect {
    /// `SET [SESSION] name = value`: the name in lower case, the value as `set_config` would take it
    /// (list items joined by ", " each quoted as an identifier where PostgreSQL would).
    Set {
        /// The setting, lower case.
        name: String,
        /// The value as one string.
        value: String,
    },
    /// `name` is set to something that only the server knows: `SET name FROM CURRENT`, set_config() of an expression or over a table.
    SetUnknown {
        /// The setting, lower case.
        name: String,
    },
    /// One call of set_config() with parameters: what it sets is known when they are bound.
    SetByParams {
        /// Its first argument.
        name: ConfigArg,
        /// Its second argument; null resets.
        value: ConfigArg,
        /// Its third argument.
        local: ConfigArg,
    },
    /// `RESET name` and `SET name TO DEFAULT`.
    Reset {
        /// The setting, lower case.
        name: String,
    },
    /// `RESET ALL`.
    ResetAll,
    /// `DISCARD ALL`: all state is gone, pins too.
    DiscardAll,
    /// `DEALLOCATE ALL` or `DISCARD PLANS`-like loss of every prepared statement (DEALLOCATE ALL only).
    DeallocateAll,
    /// `DEALLOCATE name`.
    Deallocate {
        /// The statement's name.
        name: String,
    },
    /// It sets this for its transaction: what comes of [`StatementFacts::locals`] when the parameters are bound.
    Local {
        /// The setting, lower case; none if nobody knows.
        name: Option<String>,
        /// The value; none if nobody knows.
        value: Option<String>,
    },
    /// State that only this server has.
    Pin(PinReason),
}

/// A setting that a statement gives to its transaction alone, and by which PostgreSQL reads the texts that it parses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalSet {
    /// Which, in lower case; none or null: that is not known.
    pub name: Option<ConfigArg>,
    /// The value; none or null: that is not known.
    pub value: Option<ConfigArg>,
}

impl LocalSet {
    /// Whether it is, or may be, of the setting of this name.
    #[must_use]
    pub fn may_be(&self, setting: &str) -> bool {
        match &self.name {
            Some(ConfigArg::Literal(name)) => name == setting,
            Some(ConfigArg::Null | ConfigArg::Param(_)) | None => true,
        }
    }
}

/// An argument of set_config().
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConfigArg {
    /// NULL.
    Null,
    /// A constant, as text.
    Literal(String),
    /// `$n`, counted from 1.
    Param(u16),
}

/// What a statement does with a prepared statement that it names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NameUse {
    /// `PREPARE name`.
    Prepare(String),
    /// `EXECUTE name`, by itself, under EXPLAIN or CREATE TABLE AS.
    Execute(String),
    /// `DEALLOCATE name`.
    Deallocate(String),
}

/// What it means to keep the plan that a server makes for a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Plan {
    /// None is made: it is a utility statement.
    #[default]
    None,
    /// It returns no rows, so that a plan that is kept is made anew, unseen, when the tables have changed.
    Silent,
    /// It returns rows: a plan that is kept fails when they have other types now.
    Rows,
}

/// Where a hint or a setting sends statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RouteHint {
    /// By what the statement does.
    #[default]
    Auto,
    /// To the primary.
    Primary,
    /// To a replica, even if it looks like a write (the replica refuses real ones).
    Replica,
}

/// What the comment hints of a text ask for: `/* pgweir: primary */`, `/* pgweir: sharding_key=42, replica */`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Hints {
    /// `primary` or `replica`.
    pub route: Option<RouteHint>,
    /// `sharding_key=...`.
    pub sharding_key: Option<String>,
    /// `shard=...`.
    pub shard: Option<String>,
    /// Why a hint comment could not be read: the statement is refused with it.
    pub error: Option<String>,
}

/// A table as a statement names it. Names are folded as PostgreSQL folds them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableRef {
    /// The schema, when the statement says it.
    pub schema: Option<String>,
    /// The table.
    pub name: String,
    /// The alias it goes by in the statement.
    pub alias: Option<String>,
}

/// A function that is not PostgreSQL's own, or one of its own that runs SQL given as text. Names are folded as PostgreSQL folds them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FunctionRef {
    /// The schema, when the statement says it.
    pub schema: Option<String>,
    /// The function.
    pub name: String,
    /// It is known to run SQL that it gets as text (dblink, query_to_xml), so that the catalog need not be asked.
    pub runs_text: bool,
}

/// A column as a statement names it: `key`, `t.key`, `s.t.key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ColumnRef {
    /// What stands before the column, outermost first; empty when it stands alone.
    pub qualifier: Vec<String>,
    /// The column.
    pub column: String,
}

/// What kind of literal a constant was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiteralKind {
    /// `42`, `-42` (also beyond int4: digits only).
    Integer,
    /// `4.2`, `1e3`: no key type takes it.
    Float,
    /// `'42'`.
    String,
    /// `true`, `B'0'`, anything else.
    Other,
}

/// Names in a statement that mean PostgreSQL's own things, unless somebody has made others of the same name. Each once, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mentions {
    /// Functions with a built-in name and without a schema.
    pub functions: Vec<String>,
    /// What stands behind a dot: a column mostly, a function of the row perhaps.
    pub fields: Vec<String>,
    /// Operators without a schema.
    pub operators: Vec<String>,
    /// Operators with another schema than `pg_catalog`, without it.
    pub foreign_operators: Vec<String>,
    /// Types that are not known for PostgreSQL's own.
    pub types: Vec<String>,
}

impl Mentions {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { functions, fields, operators, foreign_operators, types } = self;
        let operators = operators.is_empty() && foreign_operators.is_empty();
        functions.is_empty() && fields.is_empty() && operators && types.is_empty()
    }
}

/// How a statement uses one of the parameters that it names more than once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParamUse {
    /// Which, counted from 1.
    pub number: u16,
    /// The type it is cast to there, as in [`KeyValue::Param`]; empty for a type that is not built in or has a modifier.
    pub cast: Option<String>,
}

/// The value that a key column is compared with or given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyValue {
    /// A literal, with the type of an immediate cast (`'42'::bigint`, `bigint '42'`): its last name, lower case, without a modifier.
    Literal {
        /// What kind.
        kind: LiteralKind,
        /// Its text: digits with a sign, or the string's content.
        text: String,
        /// The cast's type, e.g. `int8` or `bigint`.
        cast: Option<String>,
    },
    /// `$n`, counted from 1.
    Param {
        /// Which.
        number: u16,
        /// The cast's type, if cast.
        cast: Option<String>,
    },
    /// NULL.
    Null,
    /// DEFAULT.
    Default,
    /// Any other expression: not a constant to us.
    Expression,
}

/// A statement as the shard planner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ShardShape {
    /// Touches no table: `SELECT 1`, SET, transaction control.
    NoTables,
    /// SELECT, UPDATE or DELETE whose top-level WHERE conjuncts (and inner-join ON conjuncts) are known.
    Filtered {
        /// Which.
        verb: Verb,
        /// Every table anywhere in the statement, sub-queries and CTEs included; CTE names are not tables.
        tables: Vec<TableRef>,
        /// The tables of the top-level FROM (SELECT), or the target first and then FROM/USING: those that `equalities` may speak of.
        top: Vec<TableRef>,
        /// `column = value` among the top-level AND conjuncts, either way round.
        equalities: Vec<(ColumnRef, KeyValue)>,
        /// The columns an UPDATE assigns.
        assigned: Vec<String>,
        /// Whether a table occurs below the top level (sub-query, CTE, set operation arm) or under an outer join.
        nested: Option<&'static str>,
    },
    /// INSERT ... VALUES.
    Insert {
        /// Every table anywhere in the statement, the target first.
        tables: Vec<TableRef>,
        /// The column list, if there is one.
        columns: Option<Vec<String>>,
        /// The rows of VALUES.
        rows: Vec<Vec<KeyValue>>,
        /// The columns that ON CONFLICT DO UPDATE assigns.
        assigned: Vec<String>,
    },
    /// Anything else that names tables: DDL, COPY, TRUNCATE, MERGE, LOCK, INSERT ... SELECT, DECLARE CURSOR, EXPLAIN of such ...
    Other {
        /// Every table it names.
        tables: Vec<TableRef>,
        /// What it is, for the refusal: "COPY", "TRUNCATE", "INSERT ... SELECT".
        what: &'static str,
    },
}

impl ShardShape {
    /// Every table that the statement names.
    #[must_use]
    pub fn tables(&self) -> &[TableRef] {
        match self {
            Self::NoTables => &[],
            Self::Filtered { tables, .. } | Self::Insert { tables, .. } | Self::Other { tables, .. } => tables,
        }
    }
}

/// The statement behind a [`ShardShape::Filtered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// SELECT (also under EXPLAIN).
    Select,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
}

/// The facts of one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is another fact")]
pub struct StatementFacts {
    /// What it does to data.
    pub access: Access,
    /// What it would be if none of [`Self::functions`] wrote; the catalog tells whether that is so.
    pub own_access: Access,
    /// It reads beyond doubt, if the relations that it names do: it calls nothing and uses no operator but PostgreSQL's own, by their
    /// names. (Whoever gives a function of theirs one of those names, or has a cast write, is believed.)
    pub plainly_reads: bool,
    /// The functions it calls whose code is not known, each once.
    pub functions: Vec<FunctionRef>,
    /// What it names that need not be PostgreSQL's own.
    pub mentions: Mentions,
    /// What made it that: "SELECT", "INSERT", "FOR UPDATE", "calls nextval()"; for EXPLAIN ROUTE and metrics.
    pub why: &'static str,
    /// What it does to the transaction block.
    pub transaction: TransactionEffect,
    /// The savepoint that it makes, releases or rolls back to.
    pub savepoint: Option<Box<str>>,
    /// What it leaves in the session, in order.
    pub effects: Vec<SessionEffect>,
    /// The prepared statement that it makes, runs or takes away.
    pub name_use: Option<NameUse>,
    /// What PREPARE has EXECUTE run, as a text of its own.
    pub prepared: Option<Arc<QueryFacts>>,
    /// It may change what the catalog says of functions and relations: DDL, DO, CALL.
    pub changes_catalog: bool,
    /// It may change what code runs when functions are called and relations written: see [`super::hidden`].
    pub changes_code: bool,
    /// It makes a relation of its session's with code in it: a default, a check, a view.
    pub own_code: bool,
    /// What the text of DO shows.
    pub block: Option<Box<Body>>,
    /// It changes search_path in a way that is not followed: SET LOCAL, set_config.
    pub local_search_path: bool,
    /// What it sets for the transaction alone of what the reading of texts hangs on.
    pub locals: Vec<LocalSet>,
    /// It may put the schema of temporary objects into search_path for the rest of the transaction.
    pub temp_in_path: bool,
    /// It calls set_config(), however that is spelled.
    pub calls_set_config: bool,
    /// It takes an advisory lock, of the session or of the transaction.
    pub takes_lock: bool,
    /// It may end the state for which its session keeps the server.
    pub ends_state: bool,
    /// What it means to keep its plan.
    pub plan: Plan,
    /// It speaks of process ids of sessions: see [`super::pids`].
    pub pids: bool,
    /// It speaks of channels of notifications that its session listens to: see [`super::listens`].
    pub listens: bool,
    /// The parameters that it names more than once, at each of their places: the first of them decides a parameter's type.
    pub repeated: Vec<ParamUse>,
    /// What the shard planner sees.
    pub shape: ShardShape,
    /// What else the shard planner asks for.
    pub touch: Touch,
}

impl StatementFacts {
    /// Whether it asks for values of sequences: by itself, or by the block that it is.
    #[must_use]
    pub fn asks_sequences(&self) -> bool {
        let asks = |effect: &SessionEffect| *effect == SessionEffect::Pin(PinReason::SequenceState);
        self.effects.iter().any(asks) || self.block.as_ref().is_some_and(|block| block.traces.asks_sequences())
    }

    /// Whether that is the first that it does which counts as a write: it takes none before.
    #[must_use]
    pub fn asks_sequences_first(&self) -> bool {
        matches!(self.why, "calls currval()" | "calls lastval()")
    }

    /// Whether it has the server forget them: DISCARD SEQUENCES, DISCARD ALL.
    #[must_use]
    pub fn discards_sequences(&self) -> bool {
        self.why == "DISCARD"
    }

    /// Whether it plainly gives a setting a value that stays with the session; the name in lower case.
    #[must_use]
    pub fn sets(&self, name: &str) -> bool {
        self.effects.iter().any(|effect| match effect {
            SessionEffect::Set { name: set, .. } | SessionEffect::SetUnknown { name: set } => set == name,
            SessionEffect::SetByParams { name: ConfigArg::Literal(set), .. } => set.eq_ignore_ascii_case(name),
            _ => false,
        })
    }

    /// See [`QueryFacts::is_ordinary`].
    fn is_ordinary(&self) -> bool {
        let of_session =
            !self.effects.is_empty() || self.name_use.is_some() || self.savepoint.is_some() || self.ends_state;
        let of_catalog = self.changes_catalog || self.changes_code || self.own_code || self.block.is_some();
        let of_path = self.local_search_path || self.temp_in_path || !self.locals.is_empty();
        self.plan != Plan::None
            && self.access != Access::Neutral
            && self.transaction == TransactionEffect::None
            && !(of_session || of_catalog || of_path || self.takes_lock || self.pids || self.listens)
    }

    /// Whether it may give its transaction a role or a session's user of its own.
    #[must_use]
    pub fn sets_local_role(&self) -> bool {
        self.locals.iter().any(|set| set.may_be("role") || set.may_be("session_authorization"))
    }

    /// Whether it may give its transaction another encoding, or another reading of quoted texts, than the session's: by these a key is read.
    #[must_use]
    pub fn sets_local_reading_of_keys(&self) -> bool {
        self.locals.iter().any(|set| set.may_be("client_encoding") || set.may_be("standard_conforming_strings"))
    }

    /// Whether it may change what names in texts stand for, and of what type that is. A procedure that does so is not told from one that does not.
    #[must_use]
    pub fn changes_types(&self) -> bool {
        const LEAVE_TYPES: [&str; 9] = [
            "CALL",
            "COMMENT",
            "CREATE INDEX",
            "CREATE TRIGGER",
            "CREATE POLICY",
            "CREATE STATISTICS",
            "CREATE DATABASE",
            "DROP DATABASE",
            "ALTER SYSTEM",
        ];
        self.changes_catalog && !LEAVE_TYPES.contains(&self.why)
    }

    /// Whether it changes what sessions of a role or a database begin with.
    #[must_use]
    pub fn changes_defaults(&self) -> bool {
        matches!(self.why, "ALTER ROLE ... SET" | "ALTER DATABASE ... SET")
    }

    /// Whether it may make an object in the first schema of search_path, whichever that is.
    #[must_use]
    pub fn makes_object(&self) -> bool {
        self.changes_catalog && !self.why.starts_with("DROP") && !matches!(self.why, "GRANT" | "REVOKE" | "COMMENT")
    }
}

/// What is done to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalKind {
    /// `pg_terminate_backend`.
    Terminate,
    /// `pg_cancel_backend`.
    Cancel,
}

impl SignalKind {
    /// The function that does it.
    #[must_use]
    pub fn function(self) -> &'static str {
        match self {
            Self::Terminate => "pg_terminate_backend",
            Self::Cancel => "pg_cancel_backend",
        }
    }
}

/// What a statement does to a session of another client, or its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal {
    /// Which statement of the text, counted from 0.
    pub statement: usize,
    /// What.
    pub kind: SignalKind,
    /// To whom.
    pub client: ClientId,
}

/// What a statement does to the channels that its session listens to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenStep {
    /// Which statement of the text, counted from 0.
    pub statement: usize,
    /// What.
    pub change: ListenChange,
}

/// A change of the channels that a session listens to, which takes effect when its transaction commits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenChange {
    /// `LISTEN channel`.
    Listen(String),
    /// `UNLISTEN channel`.
    Unlisten(String),
    /// `UNLISTEN *`.
    UnlistenAll,
}

/// The facts of one text: what a Query or Parse message carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is another fact")]
pub struct QueryFacts {
    /// Its statements, in order; none for an empty text.
    pub statements: Vec<StatementFacts>,
    /// What its comments ask for.
    pub hints: Hints,
    /// Whether a statement speaks of process ids of sessions.
    pub pids: bool,
    /// Whether a statement speaks of channels that its session listens to, or of the statements that this has prepared.
    pub listens: bool,
    /// To which channels its statements begin or cease to listen; only ever of a text that was written anew for one client, where it is
    /// we who listen in its name.
    pub steps: Vec<ListenStep>,
    /// What is to be done when its statements have completed; only ever of a text that was written anew for one client.
    pub signals: Vec<Signal>,
    /// The parser's message when the text is not SQL (with the position in characters, counted from 1), or why it was not
    /// parsed (not UTF-8). The text is then a write whose effects are unknown; on a sharded database it is refused.
    pub unparsed: Option<(String, Option<u32>)>,
    /// Whether an unparsed text may do to its session what nobody sees.
    pub hides: bool,
    /// Whether an unparsed text may change what code runs.
    pub may_change_code: bool,
}

impl QueryFacts {
    /// The strongest access of the statements; [`Access::Write`] when the text could not be parsed.
    #[must_use]
    pub fn access(&self) -> Access {
        if self.unparsed.is_some() {
            return Access::Write;
        }
        self.statements.iter().map(|s| s.access).max().unwrap_or(Access::Neutral)
    }

    /// Whether all of it reads beyond doubt: see [`StatementFacts::plainly_reads`].
    #[must_use]
    pub fn plainly_reads(&self) -> bool {
        self.unparsed.is_none() && self.statements.iter().all(|s| s.plainly_reads)
    }

    /// Whether it is one statement that reads or writes rows and does nothing else: nothing of it concerns the session, the transaction
    /// block, the catalog or other sessions, and nothing says where it goes. What code does that it calls is another question.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        let [statement] = self.statements.as_slice() else { return false };
        let Self { statements: _, hints, pids, listens, steps, signals, unparsed, hides, may_change_code } = self;
        let told =
            hints.route.is_some() || hints.sharding_key.is_some() || hints.shard.is_some() || hints.error.is_some();
        let elsewhere = *pids || *listens || !steps.is_empty() || !signals.is_empty();
        let unread = unparsed.is_some() || *hides || *may_change_code;
        !told && !elsewhere && !unread && statement.is_ordinary()
    }

    /// Whether they were, or may be, made anew for one client.
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        self.pids || self.listens || !self.steps.is_empty() || !self.signals.is_empty()
    }

    /// What it means to keep its plan; none is made for several statements at once.
    #[must_use]
    pub fn plan(&self) -> Plan {
        match self.statements.as_slice() {
            [statement] => statement.plan,
            _ => Plan::None,
        }
    }

    /// Whether a statement of it takes names of prepared statements away.
    #[must_use]
    pub fn takes_names(&self) -> bool {
        let takes = |effect: &SessionEffect| {
            use SessionEffect::{Deallocate, DeallocateAll, DiscardAll};
            matches!(effect, Deallocate { .. } | DeallocateAll | DiscardAll)
        };
        self.statements.iter().flat_map(|s| &s.effects).any(takes)
    }

    /// Whether a statement of it is PREPARE of this name.
    #[must_use]
    pub fn prepares(&self, name: &[u8]) -> bool {
        let prepares = |named: &NameUse| matches!(named, NameUse::Prepare(given) if given.as_bytes() == name);
        self.statements.iter().filter_map(|s| s.name_use.as_ref()).any(prepares)
    }

    /// Takes out the values of keys: each becomes [`KeyValue::Expression`], of which nobody believes to know where it lies.
    pub fn drop_values(&mut self) {
        let drop_value = |value: &mut KeyValue| {
            if matches!(value, KeyValue::Literal { .. }) {
                *value = KeyValue::Expression;
            }
        };
        for statement in &mut self.statements {
            match &mut statement.shape {
                ShardShape::Filtered { equalities, .. } => equalities.iter_mut().for_each(|(_, v)| drop_value(v)),
                ShardShape::Insert { rows, .. } => rows.iter_mut().flatten().for_each(drop_value),
                ShardShape::NoTables | ShardShape::Other { .. } => {}
            }
            statement.touch.values().for_each(drop_value);
            if let Some(inner) = &mut statement.prepared {
                Arc::make_mut(inner).drop_values();
            }
        }
    }

    /// Whether it asks what this session did to sequences: currval, lastval.
    #[must_use]
    pub fn asks_sequences(&self) -> bool {
        self.statements.iter().any(StatementFacts::asks_sequences)
    }

    /// Whether it takes an advisory lock.
    #[must_use]
    pub fn takes_lock(&self) -> bool {
        self.statements.iter().any(|s| s.takes_lock)
    }

    /// Whether it may change what code runs: see [`StatementFacts::changes_code`].
    #[must_use]
    pub fn changes_code(&self) -> bool {
        self.may_change_code || self.statements.iter().any(|s| s.changes_code)
    }

    /// Whether it changes what sessions of a role or a database begin with: see [`StatementFacts::changes_defaults`].
    #[must_use]
    pub fn changes_defaults(&self) -> bool {
        self.statements.iter().any(StatementFacts::changes_defaults)
    }

    /// Whether it sends a notification, as far as its text tells.
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.statements.iter().any(|s| s.why == "NOTIFY" || s.touch.notifies)
    }

    /// Whether it leaves a transaction to be finished by anybody.
    #[must_use]
    pub fn prepares_transaction(&self) -> bool {
        self.statements.iter().any(|s| s.transaction == TransactionEffect::PrepareTransaction)
    }

    /// Whether it finishes one of which nobody knows any more what it did.
    #[must_use]
    pub fn finishes_prepared(&self) -> bool {
        self.statements.iter().any(|s| s.transaction == TransactionEffect::FinishPrepared)
    }

    /// Whether it makes a relation of its session's with code in it.
    #[must_use]
    pub fn makes_own_code(&self) -> bool {
        self.statements.iter().any(|s| s.own_code)
    }

    /// Whether it ends a transaction block such that others see what it did.
    #[must_use]
    pub fn commits(&self) -> bool {
        let commits = |s: &StatementFacts| {
            matches!(s.transaction, TransactionEffect::Commit { .. } | TransactionEffect::FinishPrepared)
        };
        self.statements.iter().any(commits)
    }

    /// Whether it may change what the catalog says: see [`StatementFacts::changes_catalog`].
    #[must_use]
    pub fn changes_catalog(&self) -> bool {
        self.statements.iter().any(|s| s.changes_catalog)
    }
}
