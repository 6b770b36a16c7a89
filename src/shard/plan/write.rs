//! Writes on several shards: which shards, what each is sent, and why that is what one server would have done.
//!
//! They are begun on each shard in a transaction of its own, and these end together as `cross_shard_writes` says
//! ([`crate::shard::commit`]). Without that setting they are refused.

use std::collections::BTreeMap;

use super::relations::{self, Home};
use super::{PlanContext, ShardPlan, Stop, believe, ddl, refusal};
use crate::error::{Error, SqlState};
use crate::id::ShardIndex;
use crate::shard::commit::Mode;
use crate::shard::copy::Layout;
use crate::shard::map::CrossShardWrites;
use crate::shard::table_key::TableKey;
use crate::sql::facts::TableRef;
use crate::sql::scatter::{
    Condition, CopyFormat, CopyIn, Explain, Parted, Rows, Runs, Unfit, copy_in, copy_out, keeps_copies, parted,
    reference, renamed_schema, rows, runs, unkeyed,
};

/// A write on several shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fan {
    /// Which, in ascending order.
    pub shards: Vec<ShardIndex>,
    /// What each is sent.
    pub parts: Parts,
    /// How the shards commit.
    pub mode: Mode,
    /// Why the shards together do what one server would.
    pub proof: Vec<String>,
}

impl Fan {
    /// The same within a block; none: as it is.
    #[must_use]
    pub fn within_block(&self) -> Option<Self> {
        matches!(self.parts, Parts::Each { in_block: true })
            .then(|| Self { parts: Parts::Whole { answer: Answer::Same, copies: None }, ..self.clone() })
    }
}

/// What the shards are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    /// Rows of an INSERT: of each shard the numbers of its own.
    Rows {
        /// The statement.
        insert: Rows,
        /// By shard.
        of: Vec<Vec<usize>>,
    },
    /// Each the whole statement, in a transaction.
    Whole {
        /// What is made of their answers.
        answer: Answer,
        /// Of a reference table: what is to be asked before.
        copies: Option<Copies>,
    },
    /// Each explains its part, and none is done.
    Explain {
        /// The EXPLAIN.
        explain: Explain,
        /// The parts of what it explains.
        of: Box<Self>,
    },
    /// Each the whole statement, which is COPY TO STDOUT: their rows make one stream.
    CopyOut(CopyRead),
    /// Rows of COPY FROM STDIN, as they come.
    Copy(CopyRows),
    /// Each the whole statement, which runs outside of transactions; what fails on one shard is done on the others.
    Each {
        /// In a block each runs it within its transaction.
        in_block: bool,
    },
}

/// A COPY TO STDOUT of rows that several shards have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRead {
    /// How rows are written.
    pub layout: Layout,
    /// Whose they are.
    pub of: Copied,
}

/// What is copied, and by what each shard is asked in the same transaction whether its rows have the columns of the others'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// A table.
    Table {
        /// A statement that names it, so that it stays as it is.
        named: String,
        /// What asks for its columns.
        columns: String,
    },
    /// A query, which is described.
    Query(String),
}

impl Copied {
    /// A table, or these columns of it. Types of one's own have other numbers on other shards, which are only in binary rows.
    fn table((schema, name): &(String, String), columns: Option<&[String]>, layout: &Layout) -> Self {
        let number = if *layout == Layout::Binary { "a.atttypid" } else { "0" };
        let (which, order) = match columns {
            Some(names) => {
                let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
                (format!("a.attname IN ({})", names.join(", ")), "a.attname")
            }
            None => ("a.attgenerated = ''".to_owned(), "a.attnum"),
        };
        let columns = format!(
            "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), {number} \
             FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid \
             JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace WHERE s.nspname = {} AND c.relname = {} \
               AND a.attnum > 0 AND NOT a.attisdropped AND {which} ORDER BY {order}",
            literal(schema),
            literal(name)
        );
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let named = format!("SELECT FROM {}.{}", quoted(schema), quoted(name));
        Self::Table { named, columns }
    }
}

/// A COPY FROM STDIN into a table that all shards have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRows {
    /// Schema and name of the table.
    pub table: (String, String),
    /// Its key; none: every shard gets all.
    pub key: Option<TableKey>,
    /// The columns of the data; none: those of the table.
    pub columns: Option<Vec<String>>,
    /// How rows are written.
    pub layout: Layout,
    /// Whether client and servers speak UTF8.
    pub utf8: bool,
    /// Of a reference table: what is to be asked before.
    pub copies: Option<Copies>,
}

impl CopyRows {
    /// Asks for the columns of the data: one row each.
    #[must_use]
    pub fn columns_sql(&self) -> String {
        format!(
            "SELECT a.attname FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid \
             JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace WHERE s.nspname = {} AND c.relname = {} \
               AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
            literal(&self.table.0),
            literal(&self.table.1)
        )
    }
}

pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What is made of the answers of all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Their rows are put together and their counts added up.
    Sum,
    /// All have done the same: one of them is the answer.
    Same,
}

/// A write to a reference table: nothing of the table's own may make the copies differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// Schema and name of the table.
    pub table: (String, String),
    /// The columns that have a value in every row.
    pub given: Given,
    /// Those that are set to their defaults all the same: SET column = DEFAULT.
    pub defaults: Vec<String>,
}

/// Columns that take no default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// All.
    All,
    /// These.
    These(Vec<String>),
    /// The statement does not name its columns, and may have values for some only.
    Unknown,
}

/// What makes copies differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Differs {
    /// A trigger that may change rows before they are written.
    Trigger(String),
    /// A column whose default each shard computes.
    Computed(String),
    /// A column that has not the same default on all.
    Default(String),
}

impl Copies {
    /// Asks for triggers and defaults, also those of domains: kind (`trigger`, `computed`, `default`), name, and text of the default.
    #[must_use]
    pub fn sql(&self) -> String {
        let (schema, table) = (literal(&self.table.0), literal(&self.table.1));
        format!(
            "SELECT CASE WHEN a.attidentity <> '' OR e.text ~ '[(]|CURRENT|LOCAL|USER' THEN 'computed' ELSE 'default' END, \
               a.attname, COALESCE(e.text, '') FROM pg_catalog.pg_attribute AS a \
             JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid \
             LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             CROSS JOIN LATERAL (SELECT COALESCE(pg_catalog.pg_get_expr(d.adbin, d.adrelid), t.typdefault) AS text) AS e \
             JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace \
             WHERE s.nspname = {schema} AND c.relname = {table} AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
               AND (a.attidentity <> '' OR e.text IS NOT NULL) \
             UNION ALL SELECT 'trigger', g.tgname, '' FROM pg_catalog.pg_trigger AS g \
             JOIN pg_catalog.pg_class AS c ON c.oid = g.tgrelid JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace \
             JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid \
             WHERE s.nspname = {schema} AND c.relname = {table} AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 3 = 3 \
               AND p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace"
        )
    }

    /// What makes the copies differ, by what the shards have answered to that: of each all cells, row after row.
    #[must_use]
    pub fn differ(&self, shards: &[Vec<String>]) -> Option<Differs> {
        let is_given = |column: &String| match &self.given {
            _ if self.defaults.contains(column) => false,
            Given::All => true,
            Given::These(columns) => columns.contains(column),
            Given::Unknown => false,
        };
        let mut first: Option<BTreeMap<&String, &String>> = None;
        for cells in shards {
            let mut defaults = BTreeMap::new();
            for row in cells.chunks(3) {
                let [kind, name, text] = row else { continue };
                match kind.as_str() {
                    "trigger" => return Some(Differs::Trigger(name.clone())),
                    _ if is_given(name) => {}
                    "computed" => return Some(Differs::Computed(name.clone())),
                    _ => drop(defaults.insert(name, text)),
                }
            }
            let first = first.get_or_insert_with(|| defaults.clone());
            let unlike = |(name, text): &(&&String, &&String)| first.get(**name) != Some(*text);
            let more = first.keys().find(|name| !defaults.contains_key(**name));
            if let Some(name) = defaults.iter().find(unlike).map(|(name, _)| name).or(more) {
                return Some(Differs::Default((*name).clone()));
            }
        }
        None
    }
}

impl Fan {
    /// Whether it writes nothing.
    #[must_use]
    pub fn reads(&self) -> bool {
        matches!(self.parts, Parts::CopyOut(_) | Parts::Explain { .. })
    }

    /// What is done, in words.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        let parts = match &self.parts {
            Parts::Explain { of, .. } => of,
            parts => parts,
        };
        match parts {
            Parts::Rows { of, .. } => {
                let counts: Vec<String> = of.iter().map(|rows| rows.len().to_string()).collect();
                steps.push(format!("each shard is sent its own rows, in a transaction: {}", counts.join(", ")));
            }
            Parts::CopyOut(_) => {
                steps.push(
                    "the statement is sent to each shard as it stands, and the rows are passed on in any order"
                        .to_owned(),
                );
                return steps;
            }
            Parts::Copy(copy) if copy.key.is_none() => {
                steps.push("each shard is sent all rows, in a transaction".to_owned());
            }
            Parts::Copy(_) => {
                steps.push("each shard is sent its own rows as they come, in a transaction".to_owned());
            }
            Parts::Whole { .. } | Parts::Explain { .. } => {
                steps.push("the statement is sent to each shard as it stands, in a transaction".to_owned())
            }
            Parts::Each { .. } => {
                steps.push("the statement is sent to each shard as it stands, outside of transactions".to_owned());
                return steps;
            }
        }
        steps.push(match self.mode {
            Mode::BestEffort => "the shards commit one after the other (cross_shard_writes = best_effort)".to_owned(),
            Mode::TwoPhase => "the shards that wrote commit by two-phase commit, one alone by COMMIT".to_owned(),
        });
        steps
    }
}

/// How several shards commit.
///
/// # Errors
/// They do not: `refusal` says what cannot be done, and the hint how it can be.
pub(super) fn mode(refusal: Error, cx: &PlanContext<'_>) -> Result<Mode, Stop> {
    match cx.map.writes.cross {
        CrossShardWrites::Refuse => Err(with_setting(refusal).into()),
        CrossShardWrites::BestEffort => Ok(Mode::BestEffort),
        CrossShardWrites::TwoPhase => match &cx.distrust.two_phase {
            Some(why) => Err(no_two_phase(why).into()),
            None => Ok(Mode::TwoPhase),
        },
    }
}

/// Plans an INSERT whose rows belong to these shards; `refusal` says that they differ.
///
/// # Errors
/// It is not split.
pub(super) fn insert(
    shard_of: &[ShardIndex],
    key: &TableKey,
    refusal: Error,
    cx: &PlanContext<'_>,
) -> Result<ShardPlan, Stop> {
    let mode = mode(refusal.clone(), cx)?;
    let Some(text) = cx.text else { return Err(Stop::Refuse(alone(refusal))) };
    if cx.changed_role && cx.catalog.is_none() {
        return Err(refusal.into());
    }
    let key: Vec<&str> = key.names().collect();
    let insert = rows(text, &key).map_err(refuse)?;
    if insert.len() != shard_of.len() {
        return Err(refuse(Unfit::new("syntax", "whose rows cannot be told apart")));
    }
    let mut of: BTreeMap<ShardIndex, Vec<usize>> = BTreeMap::new();
    for (row, shard) in shard_of.iter().enumerate() {
        of.entry(*shard).or_default().push(row);
    }
    let proof = vec![format!("each of its {} rows goes to the shard of its sharding key", shard_of.len())];
    let (shards, of) = of.into_iter().unzip();
    Ok(ShardPlan::Fan(Box::new(Fan { shards, parts: Parts::Rows { insert, of }, mode, proof })))
}

/// What allows a write that no key ties to shards.
const UNKEYED: &str =
    "Or set unkeyed_writes = true, and cross_shard_writes, for the database in pgweir's configuration.";

/// Plans UPDATE or DELETE of a sharded table that no key ties to one shard; `refusal` says so.
///
/// # Errors
/// It is not sent to all.
pub(super) fn unkeyed_rows(tables: &[TableRef], refusal: Error, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
    if !cx.map.writes.unkeyed {
        let hint = refusal.hint.clone().unwrap_or_default();
        return Err(Stop::Refuse(refusal.hint(format!("{hint} {UNKEYED}").trim().to_owned())));
    }
    let mode = mode(refusal.clone(), cx)?;
    let Some(text) = cx.text else { return Err(Stop::Refuse(alone(refusal))) };
    unkeyed(text).map_err(refuse)?;
    are_alike(tables, cx)?;
    let proof = "each shard does it to its own rows (unkeyed_writes)".to_owned();
    Ok(whole(Answer::Sum, None, mode, proof, cx))
}

/// Plans a write to a reference table; `refusal` says that it is on all shards.
///
/// # Errors
/// It would not do the same on all.
pub(super) fn reference_table(
    tables: &[TableRef],
    refusal: Error,
    (table, given): ((String, String), Given),
    cx: &PlanContext<'_>,
) -> Result<ShardPlan, Stop> {
    let mode = mode(refusal.clone(), cx)?;
    let Some(text) = cx.text else { return Err(Stop::Refuse(alone(refusal))) };
    let copies = Copies { table, given, defaults: reference(text).map_err(refuse)? };
    are_alike(tables, cx)?;
    let proof = "every shard has a copy of its table, and does the same to it".to_owned();
    Ok(whole(Answer::Same, Some(copies), mode, proof, cx))
}

/// Whether the shards compare and compute alike, as far as these tables need it: what one finds by its collation another may not, and
/// what a table computes by itself is not the same on all.
///
/// # Errors
/// They differ: in their versions, encodings or collations, or in the make of a table.
fn are_alike<'t>(tables: impl IntoIterator<Item = &'t TableRef>, cx: &PlanContext<'_>) -> Result<(), Error> {
    let distrust = cx.distrust;
    let of_table = |table: &TableRef| distrust.scatter_of.get(&relations::placed(table));
    match distrust.scatter.as_ref().or_else(|| tables.into_iter().find_map(of_table)) {
        Some(why) => Err(refusal::writes_differ(why)),
        None => Ok(()),
    }
}

/// What of `what` is done on all shards: anything that makes, changes or empties what is there on all, or looks after it.
const ON_ALL: [&str; 46] = [
    "ALTER ... RENAME",
    "ALTER ... SET SCHEMA",
    "ALTER INDEX",
    "ALTER MATERIALIZED VIEW",
    "ALTER SEQUENCE",
    "ALTER TABLE",
    "ALTER TYPE",
    "ALTER VIEW",
    "ANALYZE",
    "CLUSTER",
    "COMMENT",
    "CREATE",
    "CREATE CONVERSION",
    "CREATE DOMAIN",
    "CREATE EXTENSION",
    "CREATE FUNCTION",
    "CREATE INDEX",
    "CREATE MATERIALIZED VIEW",
    "CREATE OPERATOR CLASS",
    "CREATE OPERATOR FAMILY",
    "CREATE POLICY",
    "CREATE ROLE",
    "CREATE RULE",
    "CREATE SCHEMA",
    "CREATE STATISTICS",
    "CREATE TABLE",
    "CREATE TRIGGER",
    "CREATE TYPE",
    "CREATE VIEW",
    "DDL",
    "DROP",
    "DROP FOREIGN TABLE",
    "DROP INDEX",
    "DROP MATERIALIZED VIEW",
    "DROP ROLE",
    "DROP SEQUENCE",
    "DROP TABLE",
    "DROP VIEW",
    "GRANT",
    "REFRESH MATERIALIZED VIEW",
    "REINDEX",
    "REVOKE",
    "TRUNCATE",
    "VACUUM",
    "ALTER ROLE",
    "ALTER ROLE ... SET",
];

/// Plans a utility statement about what is on every shard, which names `tables`, and `of_copies` of a reference table; `refusal` says that.
///
/// # Errors
/// It is not sent to all.
pub(super) fn utility(
    what: &str,
    tables: &[TableRef],
    of_copies: bool,
    refusal: Error,
    cx: &PlanContext<'_>,
) -> Result<ShardPlan, Stop> {
    if !ON_ALL.contains(&what) {
        return Err(refusal.into());
    }
    let Some(text) = cx.text else { return Err(Stop::Refuse(alone(refusal))) };
    if let Some(lost) = parted(text).iter().find(|parted| is_lost(parted, cx)) {
        return Err(refusal::leaves(what, &lost.is.name).into());
    }
    if let Some((was, is)) = renamed_schema(text)
        && let Some((_, table)) = cx.map.tables.keys().find(|(s, t)| *s == was && cx.map.table(Some(&is), t).is_none())
    {
        return Err(refusal::leaves(what, table).into());
    }
    if let Some((table, key)) = ddl::rekeyed(text, cx) {
        return Err(refusal::rekeys(&table, &key).into());
    }
    match runs(text) {
        None => Err(refusal.into()),
        // They change no data.
        Some(Runs::Alone) if matches!(what, "VACUUM" | "ANALYZE") => Ok(each(false, cx)),
        Some(Runs::Alone) => mode(refusal, cx).map(|_| each(false, cx)),
        Some(Runs::AloneOrInBlock) => mode(refusal, cx).map(|_| each(true, cx)),
        Some(Runs::InTransaction) => {
            let mode = mode(refusal, cx)?;
            if of_copies && what == "ALTER TABLE" {
                let computes = keeps_copies(text).map_err(refuse)?;
                if computes {
                    are_alike(tables, cx)?;
                }
            }
            // Of the rows that it has found, each shard has its own.
            let answer = if what == "CREATE MATERIALIZED VIEW" && !of_copies { Answer::Sum } else { Answer::Same };
            Ok(whole(answer, None, mode, "it is about what is on every shard".to_owned(), cx))
        }
    }
}

/// Whether neither the configuration nor the catalog would tell any more that all shards have it.
fn is_lost(parted: &Parted, cx: &PlanContext<'_>) -> bool {
    let listed = |table: &TableRef| relations::home(table, cx.map) != Home::Unlisted;
    // Under another name what is not listed still belongs to what it belonged to.
    !listed(&parted.is) && parted.was.as_ref().is_none_or(listed)
}

/// Plans COPY FROM STDIN into a listed table; `refusal` says that it is spread.
///
/// # Errors
/// Its rows cannot be split.
pub(super) fn copy(table: &TableRef, home: Home<'_>, refusal: Error, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
    let mode = mode(refusal.clone(), cx)?;
    let Some(text) = cx.text else { return Err(Stop::Refuse(alone(refusal))) };
    let read = copy_in(text).map_err(refuse)?;
    let place = relations::placed(table);
    let key = match home {
        Home::Sharded { key } => {
            believe(table, cx)?;
            Some(key.clone())
        }
        Home::Reference if read.condition == Some(Condition::Draws) => return Err(refuse(drawn())),
        Home::Reference => None,
        Home::Unlisted => return Err(refusal.into()),
    };
    if key.is_none() || read.condition.is_some() {
        are_alike([table], cx)?;
    }
    let given = || read.columns.clone().map_or(Given::All, Given::These);
    let copies = key.is_none().then(|| Copies { table: place.clone(), given: given(), defaults: Vec::new() });
    let proof = match &key {
        Some(key) => format!("each row goes to the shard of its \"{}\"", key.quoted()),
        None => "every shard has a copy of its table, and gets all rows".to_owned(),
    };
    let layout = layout(&read);
    let rows = CopyRows { table: place, key, layout, columns: read.columns, utf8: cx.utf8, copies };
    let fan = Fan { shards: all(cx), parts: Parts::Copy(rows), mode, proof: vec![proof] };
    Ok(ShardPlan::Fan(Box::new(fan)))
}

/// Plans COPY TO STDOUT of a listed table; `refusal` says that it is spread.
///
/// # Errors
/// Its rows do not make one stream.
pub(super) fn copy_to(
    table: &TableRef,
    home: Home<'_>,
    refusal: Error,
    cx: &PlanContext<'_>,
) -> Result<ShardPlan, Stop> {
    if home == Home::Reference {
        return Ok(ShardPlan::AnyShard { why: "it reads only reference tables" });
    }
    let Some(text) = cx.text else { return Err(Stop::Refuse(alone(refusal))) };
    believe(table, cx)?;
    let place = relations::placed(table);
    if let Some(why) = cx.distrust.scatter.as_ref().or_else(|| cx.distrust.scatter_of.get(&place)) {
        return Err(refusal::scatter_distrusted(why).into());
    }
    let read = copy_out(text).map_err(refuse)?;
    let layout = layout(&read);
    let of = Copied::table(&place, read.columns.as_deref(), &layout);
    let proof = vec!["each row is on one shard".to_owned()];
    let (parts, mode) = (Parts::CopyOut(CopyRead { layout, of }), Mode::BestEffort);
    Ok(ShardPlan::Fan(Box::new(Fan { shards: all(cx), parts, mode, proof })))
}

/// How the rows are written, with the defaults of PostgreSQL.
pub(super) fn layout(read: &CopyIn) -> Layout {
    let null = |default: &[u8]| read.null.as_ref().map_or_else(|| default.to_vec(), |null| null.clone().into_bytes());
    match read.format {
        CopyFormat::Binary => Layout::Binary,
        CopyFormat::Text => {
            Layout::Text { delimiter: read.delimiter.unwrap_or(b'\t'), null: null(b"\\N"), header: read.header }
        }
        CopyFormat::Csv => {
            let quote = read.quote.unwrap_or(b'"');
            Layout::Csv {
                delimiter: read.delimiter.unwrap_or(b','),
                quote,
                escape: read.escape.unwrap_or(quote),
                null: null(b""),
                header: read.header,
            }
        }
    }
}

fn drawn() -> Unfit {
    Unfit::new("random", "with WHERE in which each shard would draw by itself which rows a reference table gets")
        .hint("Leave out the rows before they are sent.")
}

fn all(cx: &PlanContext<'_>) -> Vec<ShardIndex> {
    (0..u16::try_from(cx.map.names.len()).unwrap_or(u16::MAX)).map(ShardIndex).collect()
}

fn whole(answer: Answer, copies: Option<Copies>, mode: Mode, proof: String, cx: &PlanContext<'_>) -> ShardPlan {
    let parts = Parts::Whole { answer, copies };
    ShardPlan::Fan(Box::new(Fan { shards: all(cx), parts, mode, proof: vec![proof] }))
}

fn each(in_block: bool, cx: &PlanContext<'_>) -> ShardPlan {
    let proof = vec!["it is about what is on every shard, and runs outside of transactions".to_owned()];
    ShardPlan::Fan(Box::new(Fan { shards: all(cx), parts: Parts::Each { in_block }, mode: Mode::BestEffort, proof }))
}

fn refuse(unfit: Unfit) -> Stop {
    let hint = unfit.hint.unwrap_or("Send one statement for each shard.");
    Stop::Refuse(
        Error::us(SqlState::FEATURE_NOT_SUPPORTED, format!("a statement {} cannot write on several shards", unfit.why))
            .hint(hint)
            .because(unfit.construct),
    )
}

/// The same refusal, with the setting that allows it.
fn with_setting(error: Error) -> Error {
    let hint = error.hint.clone().unwrap_or_default();
    let setting =
        "Or set cross_shard_writes = \"two_phase\" or \"best_effort\" for the database in pgweir's configuration.";
    error.hint(format!("{hint} {setting}").trim().to_owned()).because("cross_shard_write")
}

/// Whether it is refused for no more than a setting, or for what the setting wants.
pub(super) fn wants_setting(error: &Error) -> bool {
    matches!(error.reason, Some("cross_shard_write" | "no_two_phase"))
        || error.hint.as_ref().is_some_and(|hint| hint.ends_with(UNKEYED))
}

pub(super) fn alone(error: Error) -> Error {
    error.hint("Send it by itself, not together with other statements in one text.")
}

fn no_two_phase(why: &str) -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("a statement cannot write on several shards: two-phase commit is not possible, as {why}"),
    )
    .hint("SHOW SHARDS on the console tells more. When that is mended, RELOAD has the shards checked again at once.")
    .because("no_two_phase")
}
