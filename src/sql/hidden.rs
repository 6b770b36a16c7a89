//! What statements leave in their session that the SQL does not show: a function of somebody's may make settings, temporary tables or
//! locks, and so may what runs when a relation is written or read: triggers, rules, defaults, checks, views, policies.
//!
//! A [`Census`] is made of all code that a database's catalog knows ([`Row`]), not of what one statement names: so it needs neither
//! `search_path` nor argument types. Everything goes by its bare name; that two things share one costs a reset too many, no more. What
//! each leaves by itself ([`Traces`]) is told by its body ([`body`]) or by who has written it, and goes over to whatever may run it.
//! Whoever looks up a name that the census does not list has found something harmless.
//!
//! Pure; [`crate::server::hidden`] asks, [`crate::client::hidden`] keeps it up to date.

pub mod assign;
pub mod body;
pub mod sets;
mod writes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{BitOr, BitOrAssign};

use super::catalog::is_unexplained;
use super::facts::{Access, PinReason, QueryFacts, StatementFacts, TransactionEffect};
use super::functions;
use body::Body;
use writes::Writers;

/// What running something may leave in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each tells another thing that may happen, and any of them may")]
pub struct Traces {
    /// The kinds of state that it plainly makes, a bit each.
    kinds: u16,
    /// It is not understood: it may leave anything.
    unknown: bool,
    /// It asks what the session did to sequences.
    asks: bool,
    /// It may change what code runs, for all.
    changes: bool,
    /// It sets something for its transaction, which is no trace for whoever comes after that.
    sets: bool,
    /// It sends a notification when its transaction is committed, which is no trace either.
    notifies: bool,
    /// It may keep something in variables of the server's process, where no reset finds it.
    globals: bool,
}

impl Traces {
    const NONE: Self =
        Self { kinds: 0, unknown: false, asks: false, changes: false, sets: false, notifies: false, globals: false };
    /// Anything may be left that a reset takes away.
    pub const UNKNOWN: Self = Self { unknown: true, ..Self::NONE };
    /// It asks for the session's sequence values.
    pub const ASKS: Self = Self { asks: true, ..Self::NONE };
    /// Code is changed, and anything may be left.
    pub const CHANGES: Self = Self { unknown: true, changes: true, ..Self::NONE };
    /// Something is set for the transaction, and nothing is left behind it.
    pub const SETS: Self = Self { sets: true, ..Self::NONE };

    /// Anything may be left, in variables of the server's process as well.
    pub const GLOBALS: Self = Self { globals: true, ..Self::UNKNOWN };

    /// A notification is sent, and nothing is left behind it.
    pub const NOTIFIES: Self = Self { notifies: true, ..Self::NONE };

    /// State of one kind.
    #[must_use]
    pub fn of(reason: PinReason) -> Self {
        Self { kinds: 1 << (reason as u16), ..Self::default() }
    }

    /// What a function of PostgreSQL's own leaves, by its name; `set_config` is judged by its arguments.
    #[must_use]
    pub fn of_builtin(name: &str) -> Self {
        let called = functions::call(None, name);
        match (name, called.pin) {
            ("set_config", _) => Self::of(PinReason::Setting),
            ("pg_notify", _) => Self::NOTIFIES,
            (_, Some(PinReason::SequenceState)) => Self::ASKS,
            (_, Some(reason)) => Self::of(reason),
            _ if functions::RUNS_TEXT.contains(&name) || functions::READS_BY_NAME.contains(&name) => Self::UNKNOWN,
            _ => Self::default(),
        }
    }

    /// The functions of PostgreSQL's own that leave something or ask for something.
    pub fn stateful_builtins() -> impl Iterator<Item = &'static str> {
        let all = functions::pinning().chain(functions::RUNS_TEXT.iter().copied());
        all.chain(functions::READS_BY_NAME.iter().copied()).chain(["set_config", "pg_notify"])
    }

    /// The kinds of state that it plainly makes.
    pub fn kinds(self) -> impl Iterator<Item = PinReason> {
        PinReason::ALL.into_iter().filter(move |reason| self.kinds & (1 << (*reason as u16)) != 0)
    }

    /// Whether it may leave anything.
    #[must_use]
    pub fn is_unknown(self) -> bool {
        self.unknown
    }

    /// Whether it may leave something that is there until the server's process ends.
    #[must_use]
    pub fn keeps_globals(self) -> bool {
        self.globals
    }

    /// Whether it asks what the session did to sequences.
    #[must_use]
    pub fn asks_sequences(self) -> bool {
        self.asks
    }

    /// Whether it may change what code runs, for all.
    #[must_use]
    pub fn changes_code(self) -> bool {
        self.changes
    }

    /// Whether it may set something that its transaction goes by: settings, also those of the session, who runs it, when constraints are
    /// checked.
    #[must_use]
    pub fn may_set(self) -> bool {
        let settings = [PinReason::Setting, PinReason::Identity];
        self.sets || self.unknown || self.kinds().any(|reason| settings.contains(&reason))
    }

    /// Whether listeners are told something when its transaction is committed.
    #[must_use]
    pub fn notifies(self) -> bool {
        self.notifies
    }

    /// Whether it leaves nothing behind its transaction and asks for nothing.
    #[must_use]
    pub fn is_none(self) -> bool {
        Self { sets: false, notifies: false, ..self } == Self::NONE
    }
}

impl BitOr for Traces {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            kinds: self.kinds | other.kinds,
            unknown: self.unknown || other.unknown,
            asks: self.asks || other.asks,
            changes: self.changes || other.changes,
            sets: self.sets || other.sets,
            notifies: self.notifies || other.notifies,
            globals: self.globals || other.globals,
        }
    }
}

impl BitOrAssign for Traces {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// Who runs something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runner {
    /// A function, aggregate or procedure, when it is called.
    Function(String),
    /// Whoever reads the relation.
    Read(String),
    /// Whoever writes the relation.
    Write(String),
    /// Whoever uses the operator.
    Operator(String),
    /// Nobody can be told: types, casts, domains.
    Anybody,
    /// Whoever changes the catalog (event triggers).
    Ddl,
}

/// What a function is declared, by `pg_proc.provolatile`.
/// See <https://www.postgresql.org/docs/current/xfunc-volatility.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatility {
    /// Its result hangs on its arguments alone.
    Immutable,
    /// It changes nothing in the database.
    Stable,
    /// It promises nothing.
    Volatile,
}

/// One thing that the catalog says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A function that is not PostgreSQL's own.
    Function {
        /// Its name.
        name: String,
        /// Its language.
        language: String,
        /// What it is declared.
        volatility: Volatility,
        /// Its text, where that is SQL or PL/pgSQL.
        text: String,
        /// The extension that it belongs to, or nothing.
        extension: String,
    },
    /// Somebody runs a function.
    Runs(Runner, String),
    /// Reading or writing a relation reads or writes another: a view, a rule, a policy; a function does either.
    Reaches(Runner, String),
    /// Writing a relation may write another: foreign keys that cascade, inheritance, partitions.
    Cascades(String, String),
    /// `row.name` calls this function, which is VOLATILE.
    Field(String),
    /// What becomes a value of a type runs a function: a domain's check, a cast; none: of a type that no statement names.
    Casts(Option<String>, String),
    /// A type has another in it.
    Has(String, String),
    /// Reading a relation makes values of a type.
    Makes(String, String),
    /// A session may have the schema of temporary objects in its `search_path` without having asked for it.
    TempInPath,
    /// There is another procedural language than PL/pgSQL.
    Language,
}

/// What running which name leaves. Names that leave nothing are not listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Census {
    functions: HashMap<String, Traces>,
    reads: HashMap<String, Traces>,
    writes: HashMap<String, Traces>,
    operators: HashMap<String, Traces>,
    anybody: Traces,
    ddl: Traces,
    writers: Writers,
    temp_in_path: bool,
    /// There are other procedural languages than PL/pgSQL; and functions in them that may keep something in the process.
    languages: bool,
    globals: bool,
}

/// Functions of PostgreSQL's own that take a value of a sequence: what reads a view that calls them writes.
pub const TAKES_VALUES: [&str; 2] = ["nextval", "setval"];

/// Extensions whose code in C makes no state that others could meet. Others may: dblink's connections, tablefunc runs texts.
const HARMLESS: &[&str] = &[
    "amcheck",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "file_fdw",
    "fuzzystrmatch",
    "h3",
    "hll",
    "hstore",
    "intagg",
    "intarray",
    "ip4r",
    "isn",
    "lo",
    "ltree",
    "moddatetime",
    "pageinspect",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_hashids",
    "pg_stat_statements",
    "pg_trgm",
    "pg_uuidv7",
    "pg_visibility",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "plpgsql",
    "postgis",
    "postgis_raster",
    "postgis_topology",
    "postgres_fdw",
    "prefix",
    "roaringbitmap",
    "seg",
    "semver",
    "sslinfo",
    "tcn",
    "tdigest",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "uuid-ossp",
    "vector",
];

/// Functions of harmless extensions that set something for the session.
const SETS: &[&str] = &["set_limit", "postgres_fdw_disconnect", "postgres_fdw_disconnect_all"];

/// What a function leaves by itself, as far as its text does not say.
fn by_origin(name: &str, language: &str, volatility: Volatility, extension: &str) -> Traces {
    if name.starts_with("dblink") {
        return Traces::of_builtin(name) | Traces::UNKNOWN;
    }
    match language {
        // Who makes such a function is a superuser, and promises what it does: see
        // <https://www.postgresql.org/docs/current/xfunc-volatility.html>.
        "c" | "internal" if volatility != Volatility::Volatile => Traces::default(),
        "c" if SETS.contains(&name) => Traces::of(PinReason::Setting),
        "c" if HARMLESS.contains(&extension) => Traces::default(),
        "c" | "internal" => Traces::UNKNOWN,
        // Whoever meets what such a one has kept is told nothing by it that its arguments do not tell. One that is STABLE may remember what it
        // has read for its caller, by whose rights and settings it read that.
        _ if volatility == Volatility::Immutable => Traces::UNKNOWN,
        _ => Traces::GLOBALS,
    }
}

/// What is found out on the way to a census.
#[derive(Default)]
struct Draft {
    /// By name: what it does, and what it may use.
    functions: BTreeMap<String, Body>,
    edges: Vec<(Runner, Target)>,
    writes: writes::Draft,
    temp_in_path: bool,
    languages: bool,
    /// What may run any other code for all that is known.
    unread: BTreeSet<String>,
}

enum Target {
    Function(String),
    /// Reading or writing it as the runner does.
    Relation(String),
    Write(String),
}

impl Census {
    /// Weighs what the catalog says.
    #[must_use]
    pub fn of(rows: impl IntoIterator<Item = Row>) -> Self {
        let mut draft = Draft::default();
        for row in rows {
            draft.writes.note(&row);
            draft.take(row);
        }
        draft.finish()
    }

    /// Whether nothing of the database's leaves or sets anything, so that no statement needs to be looked at.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.functions.is_empty()
            && self.reads.is_empty()
            && self.writes.is_empty()
            && self.operators.is_empty()
            && self.anybody == Traces::NONE
            && self.ddl == Traces::NONE
    }

    /// Whether a text may have made temporary objects without saying so in a session that has set no `search_path`, where it leaves
    /// `traces`: by what a role, a database or the configuration says of that setting.
    #[must_use]
    pub fn may_make_temp(&self, facts: &QueryFacts, traces: Traces) -> bool {
        let makes = |s: &StatementFacts| s.makes_object() || s.block.is_some();
        self.temp_in_path && (traces.is_unknown() || facts.statements.iter().any(makes))
    }

    /// Whether anything asks what its session did to sequences.
    #[must_use]
    pub fn asks_sequences(&self) -> bool {
        let all = [&self.functions, &self.reads, &self.writes, &self.operators].into_iter().flat_map(HashMap::values);
        all.chain([&self.anybody, &self.ddl]).any(|traces| traces.asks)
    }

    /// Whether a text may run code that is not understood.
    #[must_use]
    pub fn runs_unread(&self, facts: &QueryFacts) -> bool {
        is_unread(facts) || facts.statements.iter().any(|s| self.of_statement(s).is_unknown())
    }

    /// Whether code that is made later may be in a language that keeps variables in the server's process.
    #[must_use]
    pub fn has_languages(&self) -> bool {
        self.languages
    }

    /// Whether a text that looks like a read may write by what it reaches. `own_types`: it has parameters of types that are not
    /// PostgreSQL's own.
    #[must_use]
    pub fn may_write(&self, facts: &QueryFacts, own_types: bool) -> bool {
        (own_types && self.writers.by_type())
            || facts.statements.iter().any(|s| !is_plain(s) && self.writers.may_write(s))
    }

    /// What is left by whoever uses types that are not PostgreSQL's own.
    #[must_use]
    pub fn of_types(&self) -> Traces {
        self.anybody
    }

    /// What a text may leave behind, beyond what its facts show.
    #[must_use]
    pub fn of_text(&self, facts: &QueryFacts) -> Traces {
        let all = facts.statements.iter().map(|s| self.of_statement(s));
        let by_text = if is_unread(facts) { self.of_unread() } else { Traces::default() };
        all.fold(of_any(facts) | by_text, BitOr::bitor)
    }

    /// What is left by code that is not understood: it may run any other.
    fn of_unread(&self) -> Traces {
        if self.globals { Traces::GLOBALS } else { Traces::UNKNOWN }
    }

    fn of_statement(&self, statement: &StatementFacts) -> Traces {
        let traces = self.of_named(statement);
        if statement.why == "EXPLAIN" && !traces.is_none() {
            // What it would do it does not, but some of it may be computed for the plan.
            return Traces { globals: traces.globals, ..Traces::UNKNOWN };
        }
        let leaves = || self.functions.values().any(|traces| !traces.is_none());
        // Of DO the text is read.
        if runs_unseen(statement) && statement.block.is_none() && leaves() { traces | self.of_unread() } else { traces }
    }

    /// What running what the statement names leaves.
    fn of_named(&self, statement: &StatementFacts) -> Traces {
        if self.is_harmless() || is_plain(statement) {
            return Traces::default();
        }
        let mut traces = self.anybody;
        let mut add = |known: &HashMap<String, Traces>, name: &str| {
            if let Some(found) = known.get(name) {
                traces |= *found;
            }
        };
        let mentions = &statement.mentions;
        for name in statement.functions.iter().map(|f| &f.name).chain(&mentions.functions).chain(&mentions.fields) {
            add(&self.functions, name);
        }
        for name in mentions.operators.iter().chain(&mentions.foreign_operators) {
            add(&self.operators, name);
        }
        let relations = if statement.access == Access::Write { &self.writes } else { &self.reads };
        for table in statement.shape.tables() {
            add(relations, &table.name);
        }
        if statement.changes_catalog {
            traces |= self.ddl;
        }
        if let Some(block) = &statement.block {
            traces |= used(block, &self.functions, &self.writes, &self.operators);
        }
        traces
    }
}

/// Whether it runs functions that are not read off it.
fn runs_unseen(statement: &StatementFacts) -> bool {
    let defines = statement.why.starts_with("CREATE") && !matches!(statement.why, "CREATE INDEX" | "CREATE EXTENSION");
    (statement.changes_code && !defines) || RUNS_UNSEEN.contains(&statement.why)
}

/// Maintenance that computes expressions of indexes and views.
const RUNS_UNSEEN: [&str; 5] = ["REFRESH MATERIALIZED VIEW", "ANALYZE", "VACUUM", "CLUSTER", "REINDEX"];

/// What a text may leave behind whatever the catalog says.
#[must_use]
pub fn of_any(facts: &QueryFacts) -> Traces {
    let runs_text = |s: &StatementFacts| s.block.is_some() || s.functions.iter().any(|f| f.runs_text);
    let blocks = facts.statements.iter().filter_map(|s| s.block.as_ref());
    let traces = blocks.map(|block| block.traces).fold(Traces::default(), BitOr::bitor);
    let unknown = facts.unparsed.is_some() || facts.statements.iter().any(runs_text);
    if unknown { traces | Traces::UNKNOWN } else { traces }
}

/// Whether a text has code in it, or runs texts, that nobody can read.
#[must_use]
pub fn is_unread(facts: &QueryFacts) -> bool {
    let unread = |s: &StatementFacts| {
        s.block.as_ref().is_some_and(|block| block.traces.is_unknown()) || s.functions.iter().any(|f| f.runs_text)
    };
    facts.unparsed.is_some() || facts.statements.iter().any(unread)
}

/// Whether nobody's code can run in the text, whatever the catalog says.
#[must_use]
pub fn is_plain_text(facts: &QueryFacts) -> bool {
    facts.unparsed.is_none() && facts.statements.iter().all(is_plain)
}

fn is_plain(statement: &StatementFacts) -> bool {
    statement.functions.is_empty()
        && statement.mentions.is_empty()
        && !statement.changes_catalog
        && statement.transaction != TransactionEffect::FinishPrepared
        && !statement.shape.tables().iter().any(is_unexplained)
}

impl Draft {
    fn take(&mut self, row: Row) {
        match row {
            Row::Function { name, language, volatility, text, extension } => {
                let read = match language.as_str() {
                    // The body of one in SQL may be a tree instead: its calls come as rows of their own.
                    "sql" if text.is_empty() => Body::default(),
                    "sql" | "plpgsql" => body::read(&language, &text),
                    _ => {
                        let traces = by_origin(&name, &language, volatility, &extension);
                        Body { traces, ..Body::default() }
                    }
                };
                // What is IMMUTABLE promises more than can be read.
                let promises = !matches!(language.as_str(), "sql" | "plpgsql") && volatility == Volatility::Immutable;
                if read.traces.unknown && !promises {
                    self.unread.insert(name.clone());
                }
                let known = self.functions.entry(name).or_default();
                known.traces |= read.traces;
                known.names.extend(read.names);
                known.operators.extend(read.operators);
            }
            Row::Runs(Runner::Function(name), called) => {
                let traces = Traces::of_builtin(&called);
                if traces.unknown {
                    self.unread.insert(name.clone());
                }
                let known = self.functions.entry(name).or_default();
                known.traces |= traces;
                known.names.insert(called);
            }
            Row::Reaches(Runner::Function(name), relation) => {
                self.functions.entry(name).or_default().names.insert(relation);
            }
            Row::Runs(runner, called) => self.edges.push((runner, Target::Function(called))),
            Row::Reaches(runner, relation) => self.edges.push((runner, Target::Relation(relation))),
            Row::Cascades(from, to) => self.edges.push((Runner::Write(from), Target::Write(to))),
            Row::TempInPath => self.temp_in_path = true,
            Row::Language => self.languages = true,
            Row::Field(_) | Row::Casts(..) | Row::Has(..) | Row::Makes(..) => {}
        }
    }

    fn finish(mut self) -> Census {
        let writers = std::mem::take(&mut self.writes).finish();
        let (temp_in_path, languages) = (self.temp_in_path, self.languages);
        if !languages {
            // What names one names PL/pgSQL.
            self.functions.values_mut().for_each(|body| body.traces.globals = false);
        }
        let globals = self.functions.values().any(|body| body.traces.globals);
        if globals {
            let unread = self.unread.iter();
            unread.for_each(|name| self.functions.entry(name.clone()).or_default().traces.globals = true);
        }
        let mut census = Census { writers, temp_in_path, languages, globals, ..Census::default() };
        for (name, body) in &self.functions {
            note(&mut census.functions, name, body.traces);
        }
        while self.spread(&mut census) {}
        census
    }

    /// Lets everything have what it runs; whether anything changed.
    fn spread(&self, census: &mut Census) -> bool {
        let mut changed = false;
        for (name, body) in &self.functions {
            let traces = used(body, &census.functions, &census.writes, &census.operators);
            changed |= note(&mut census.functions, name, traces);
        }
        for (runner, target) in &self.edges {
            let (read, write) = match target {
                Target::Function(name) => {
                    let builtin = Traces::of_builtin(name);
                    let builtin = Traces { globals: builtin.unknown && census.globals, ..builtin };
                    let traces = found(&census.functions, name) | builtin;
                    (traces, traces)
                }
                Target::Relation(name) => (found(&census.reads, name), found(&census.writes, name)),
                Target::Write(name) => (Traces::default(), found(&census.writes, name)),
            };
            changed |= match runner {
                Runner::Function(name) => note(&mut census.functions, name, write),
                Runner::Read(name) => note(&mut census.reads, name, read) | note(&mut census.writes, name, write),
                Runner::Write(name) => note(&mut census.writes, name, write),
                Runner::Operator(name) => note(&mut census.operators, name, write),
                Runner::Anybody => add(&mut census.anybody, write),
                Runner::Ddl => add(&mut census.ddl, write),
            };
        }
        changed
    }
}

/// What a body may leave by what it names.
fn used(
    body: &Body,
    functions: &HashMap<String, Traces>,
    writes: &HashMap<String, Traces>,
    operators: &HashMap<String, Traces>,
) -> Traces {
    let named = body.names.iter().map(|name| found(functions, name) | found(writes, name));
    let run = |operator: &String| body.operators.iter().any(|run| run.contains(operator));
    let operated = operators.iter().filter(|(operator, _)| run(operator)).map(|(_, leaves)| *leaves);
    named.chain(operated).fold(Traces::default(), BitOr::bitor)
}

fn found(known: &HashMap<String, Traces>, name: &str) -> Traces {
    known.get(name).copied().unwrap_or_default()
}

fn add(to: &mut Traces, traces: Traces) -> bool {
    let before = *to;
    *to |= traces;
    *to != before
}

fn note(known: &mut HashMap<String, Traces>, name: &str, traces: Traces) -> bool {
    if traces == Traces::NONE {
        return false;
    }
    match known.get_mut(name) {
        Some(before) => add(before, traces),
        None => {
            known.insert(name.to_owned(), traces);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::facts;
    use super::*;

    fn function(name: &str, language: &str, text: &str) -> Row {
        let (name, language, text) = (name.to_owned(), language.to_owned(), text.to_owned());
        Row::Function { name, language, volatility: Volatility::Volatile, text, extension: String::new() }
    }

    fn runs(runner: Runner, name: &str) -> Row {
        Row::Runs(runner, name.to_owned())
    }

    fn of(census: &Census, text: &str) -> Traces {
        census.of_text(&facts(text.as_bytes()))
    }

    const SETTING: fn() -> Traces = || Traces::of(PinReason::Setting);

    #[test]
    fn traces_go_over_to_whoever_may_run_them() {
        use Runner::{Anybody, Ddl, Operator, Read, Write};
        let to = |name: &str| name.to_owned();
        let rows = || {
            vec![
                function("sets", "plpgsql", "BEGIN PERFORM set_config('a.b', 'c', false); END"),
                function("calls", "sql", "SELECT sets()"),
                function("calls_that", "plpgsql", "BEGIN RETURN App.Calls(1); END"),
                function("inserts", "plpgsql", "BEGIN INSERT INTO audited VALUES (1); END"),
                function("clean", "plpgsql", "BEGIN INSERT INTO t VALUES (nextval('s')); END"),
                function("uses", "sql", "SELECT 1 @@@-2"),
                function("py", "plpython3u", "pass"),
                function("trigger", "plpgsql", "BEGIN PERFORM sets(); RETURN NEW; END"),
                function("of_atomic", "sql", ""),
                Row::Runs(Runner::Function(to("of_atomic")), to("pg_advisory_lock")),
                runs(Write(to("audited")), "trigger"),
                runs(Read(to("view")), "calls"),
                Row::Reaches(Read(to("over")), to("view")),
                Row::Reaches(Read(to("over")), to("audited")),
                Row::Cascades(to("parent"), to("audited")),
                runs(Write(to("serial")), "nextval"),
            ]
        };
        let census = Census::of(rows());
        let none = Traces::default();
        let (set, lock) = (SETTING(), Traces::of(PinReason::AdvisoryLock));
        for (text, expected) in [
            ("SELECT 1", none),
            ("SELECT clean(), now()", none),
            ("INSERT INTO t SELECT * FROM serial", none),
            ("SELECT sets()", set),
            ("SELECT other.sets()", set),
            ("SELECT calls()", set),
            ("CALL calls_that()", set),
            ("CALL clean()", none),
            ("SELECT inserts()", set),
            ("SELECT py()", Traces::UNKNOWN),
            ("SELECT of_atomic()", lock),
            ("SELECT (t).sets FROM t", set),
            ("SELECT * FROM audited", none),
            ("UPDATE app.audited SET a = 1", set),
            ("COPY audited FROM STDIN", set),
            ("COPY t FROM STDIN WHERE sets() > 0", set),
            ("EXPLAIN SELECT sets()", Traces::UNKNOWN),
            ("EXPLAIN SELECT clean()", none),
            ("DO 'BEGIN PERFORM calls(); END'", set | Traces::UNKNOWN),
            ("DO 'BEGIN PERFORM setseed(1); END'", Traces::of(PinReason::Seed) | Traces::UNKNOWN),
            ("DELETE FROM parent", set),
            ("SELECT * FROM parent", none),
            ("SELECT * FROM view", set),
            ("SELECT * FROM over", set),
            ("WITH x AS (INSERT INTO audited VALUES (1)) SELECT 1", set),
            ("DO 'BEGIN END'", Traces::UNKNOWN),
            ("SELECT query_to_xml('', true, true, '')", Traces::UNKNOWN),
            ("NO SQL", Traces::UNKNOWN),
            ("ALTER TABLE t ADD c int DEFAULT sets()", set | Traces::UNKNOWN),
            ("ANALYZE t", Traces::UNKNOWN),
            ("BEGIN; SET LOCAL a.b = 'c'; COMMIT", none),
        ] {
            assert_eq!(of(&census, text), expected, "{text}");
        }
        let more = || [runs(Operator(to("@@@")), "sets")];
        let census = Census::of(rows().into_iter().chain(more()));
        assert_eq!(of(&census, "SELECT 1 @@@ 2"), set);
        assert_eq!(of(&census, "SELECT 1 OPERATOR(app.@@@) 2"), set);
        assert_eq!(of(&census, "SELECT clean()"), none);
        assert_eq!(of(&census, "SELECT uses()"), set);
        let more = [runs(Anybody, "sets"), runs(Ddl, "of_atomic")];
        let census = Census::of(rows().into_iter().chain(more));
        assert_eq!(of(&census, "SELECT a FROM t"), set);
        for typed in ["SELECT '1'::mine", "SELECT $1::app.mine", "SELECT CAST(NULL AS mine[])"] {
            assert_eq!(of(&census, typed), set, "{typed}");
        }
        assert_eq!(of(&census, "SELECT $1::text, '1'::int, uuid '0', '{}'::jsonb"), none);
        assert_eq!(of(&census, "SELECT 1"), none);
        assert_eq!(of(&census, "CREATE TABLE x (a int)"), set | lock);
    }

    #[test]
    fn a_built_in_name_may_be_anothers() {
        let census = Census::of([function("lower", "plpgsql", "BEGIN LISTEN x; END")]);
        assert_eq!(of(&census, "SELECT lower('A')"), Traces::of(PinReason::Listen));
        assert_eq!(of(&census, "SELECT lower('A')").kinds().collect::<Vec<_>>(), [PinReason::Listen]);
        assert!(Census::of([function("lower", "sql", "SELECT $1")]).is_harmless());
    }

    #[test]
    fn code_in_c_is_what_its_maker_promises() {
        use Volatility::{Immutable, Stable, Volatile};
        let of = |name, volatility, extension| by_origin(name, "c", volatility, extension);
        assert_eq!(of("f", Stable, ""), Traces::default());
        assert_eq!(of("f", Volatile, ""), Traces::UNKNOWN);
        assert_eq!(of("gen_random_bytes", Volatile, "pgcrypto"), Traces::default());
        assert_eq!(of("set_limit", Volatile, "pg_trgm"), SETTING());
        assert!(of("dblink_connect", Volatile, "dblink").kinds().eq([PinReason::Handle]));
        assert_eq!(by_origin("f", "internal", Volatile, ""), Traces::UNKNOWN);
        for (volatility, traces) in
            [(Immutable, Traces::UNKNOWN), (Stable, Traces::GLOBALS), (Volatile, Traces::GLOBALS)]
        {
            assert_eq!(by_origin("f", "plperl", volatility, ""), traces);
        }
        assert!(HARMLESS.is_sorted());
    }

    #[test]
    fn what_is_not_understood_may_run_what_keeps_variables() {
        let plain = || {
            vec![
                function("dynamic", "plpgsql", "BEGIN EXECUTE x; END"),
                function("calls", "sql", "SELECT dynamic()"),
                function("clean", "sql", "SELECT 1"),
                runs(Runner::Read("view".to_owned()), "query_to_xml"),
                Row::Function {
                    name: "pure".to_owned(),
                    language: "plperl".to_owned(),
                    volatility: Volatility::Immutable,
                    text: String::new(),
                    extension: String::new(),
                },
            ]
        };
        let defines = || function("defines", "plpgsql", "BEGIN EXECUTE 'CREATE FUNCTION f() .. LANGUAGE sql'; END");
        let sole = Census::of([defines()]);
        assert!(!sole.has_languages() && !of(&sole, "SELECT defines()").keeps_globals());
        assert!(of(&Census::of([defines(), Row::Language]), "SELECT defines()").keeps_globals());
        let dynamic = "DO 'BEGIN EXECUTE x; END'";
        let unread =
            ["SELECT dynamic()", "SELECT calls()", dynamic, "SELECT query_to_xml('', true, true, '')", "NO SQL"];
        let without = Census::of(plain().into_iter().chain([Row::Language]));
        for text in unread {
            assert_eq!(of(&without, text), Traces::UNKNOWN, "{text}: nothing there keeps any");
            assert!(without.runs_unread(&facts(text.as_bytes())), "{text}");
        }
        assert!(without.has_languages());
        let with = Census::of(plain().into_iter().chain([function("perl", "plperl", ""), Row::Language]));
        for text in unread.into_iter().chain(["EXPLAIN SELECT perl()", "DO 'BEGIN PERFORM perl(); END'"]) {
            assert_eq!(of(&with, text), Traces::GLOBALS, "{text}");
        }
        for (text, read) in [
            ("DO 'BEGIN PERFORM clean(); END'", true),
            ("SELECT clean(), now()", true),
            ("SELECT perl()", false),
            ("SELECT * FROM view", false),
        ] {
            assert_eq!(of(&with, text).keeps_globals(), !read, "{text}");
            assert_eq!(with.runs_unread(&facts(text.as_bytes())), !read, "{text}");
        }
        assert_eq!(of(&with, "SELECT pure()"), Traces::UNKNOWN);
        assert_eq!(of(&without, "DO LANGUAGE plperl ''"), Traces::GLOBALS);
        let nothing = Census::of([function("clean", "sql", "SELECT 1")]);
        assert!(!nothing.has_languages() && !nothing.runs_unread(&facts(b"SELECT clean()")));
    }

    #[test]
    fn what_is_plain_needs_no_census() {
        for (text, plain) in [
            ("SELECT 1", true),
            ("BEGIN", true),
            ("SHOW work_mem", true),
            ("SELECT oid FROM pg_catalog.pg_class", true),
            ("SELECT 1 + 1", false),
            ("SELECT lower('A')", false),
            ("SELECT a FROM t", false),
            ("CREATE TABLE t (a int)", false),
            ("CALL p()", false),
            ("COMMIT PREPARED 'x'", false),
            ("SELECT NULL::mine", false),
            ("NO SQL", false),
        ] {
            assert_eq!(is_plain_text(&facts(text.as_bytes())), plain, "{text}");
        }
        assert!(of_any(&facts(b"SELECT f()")).is_none());
    }
}
