//! What must be known before the shards are asked for parts of an answer: one of them is asked for the types of columns, and for collations
//! where texts are sorted or grouped.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Asked;
use super::last::Final;
use super::leg::Leg;
use super::told::{Asker, Memory, UNDEFINED_COLUMN};
use crate::client::shared::Activity;
use crate::client::silence::Silence;
use crate::client::task::{Client, End, Stopped};
use crate::clock;
use crate::error::{Error, Origin, SqlState};
use crate::shard::merge::{Collation, Format, Merge, TextRules};
use crate::shard::plan::Scatter;
use crate::shard::plan::scatter::{Pushed, Seen};
use crate::wire::message::{self, Reader};

/// The statement, ready to be sent.
pub(super) struct Prepared {
    /// The statement that each shard is sent.
    pub(super) sql: Vec<u8>,
    /// The types of its parameters, as in Parse.
    pub(super) types: Vec<u8>,
    /// What follows the names in Bind.
    pub(super) bound: Vec<u8>,
    /// How the answers become one; none: the rows are passed on.
    pub(super) gather: Option<Gather>,
}

/// How answers become one.
pub(super) struct Gather {
    pub(super) merge: Merge,
    /// The RowDescription for the client.
    pub(super) header: Vec<u8>,
    columns: Vec<Seen>,
    /// What one shard computes of the rows, which are not for the client.
    pub(super) last: Option<Final>,
    /// Some of what it is made by was remembered.
    pub(super) recalls: bool,
}

impl Gather {
    /// Whether a shard's RowDescription is as it was announced.
    pub(super) fn expects(&self, body: &[u8]) -> bool {
        seen(body).is_some_and(|seen| seen == self.columns)
    }
}

impl Client {
    /// Asks the first of the shards what is to be known, for a client that has asked at `since`.
    pub(super) async fn prepare(
        &mut self,
        legs: &mut [Leg],
        scatter: &Scatter,
        asked: &Asked,
        since: Instant,
    ) -> Result<Prepared, Stopped> {
        if scatter.select.plain {
            let (sql, types, bound) = (asked.text.clone(), asked.types.clone(), asked.bound.clone());
            return Ok(Prepared { sql, types, bound, gather: None });
        }
        let shards = legs.len();
        let rules = self.text_rules(legs);
        let first = legs.first_mut().ok_or_else(|| Stopped::Refused(fault()))?;
        let home = first.shard == self.database.config.map.default_shard;
        let silence = first.watch();
        let in_block = self.spread.is_some();
        let memory = Memory::of(&self.database, &self.pools, self.session.settings());
        // What the block has made of tables, or of names, nobody else knows.
        let alone =
            self.spread.as_ref().is_some_and(|spread| spread.sees_otherwise()) || !self.session.pins().is_empty();
        let memory = memory.filter(|_| !alone);
        let gathering = async {
            let mut asker = Asker::new(first, memory, in_block);
            gather(&mut asker, scatter, asked, rules, (shards, home)).await
        };
        let gathering = Box::pin(gathering);
        self.within_limits(silence, gathering, since).await?.map_err(Stopped::Refused)
    }

    /// What a shard is asked beside the statement: until it falls silent, the client cancels or leaves, or the statement's time is up.
    pub(super) async fn within_limits<T>(
        &mut self,
        silence: Option<Silence>,
        asking: impl Future<Output = T>,
        since: Instant,
    ) -> Result<T, Stopped> {
        let handle = Arc::clone(self.handle());
        handle.set_activity(Activity::Waiting);
        let asking = async {
            match silence {
                Some(silence) => silence.or(&handle, asking).await,
                None => Some(asking.await),
            }
        };
        // What it takes is the statement's time: a lock may keep it from being described as long as from being executed.
        let limit = self.limits.statement(since, self.begun_at());
        let rest = limit.map_or(Duration::MAX, |(at, _)| at.saturating_duration_since(clock::now()));
        let asked = self.attend(asking, rest).await;
        handle.cancel_is_done();
        handle.set_activity(Activity::Idle);
        match asked? {
            Some(Some(answer)) => Ok(answer),
            Some(None) => Err(Stopped::Refused(silent())),
            None => Err(match limit {
                Some((_, overdue)) => Stopped::End(End::Told(self.time_is_up(overdue))),
                None => Stopped::Refused(silent()),
            }),
        }
    }

    /// How the shards write texts by the session's settings and those of its transaction, and by their own where it has none.
    fn text_rules(&self, legs: &mut [Leg]) -> TextRules {
        let settings = self.session.settings();
        let is_iso = |style: &str| style.to_ascii_lowercase().starts_with("iso");
        let mut iso_by_default = || {
            legs.iter_mut().all(|leg| {
                leg.connection().is_some_and(|c| c.state.settings.default_of("datestyle").is_some_and(is_iso))
            })
        };
        let iso_dates = settings.get("datestyle").map_or_else(&mut iso_by_default, is_iso);
        let digits = settings.get("extra_float_digits");
        let local = self.spread.as_ref().is_some_and(|spread| spread.may_name("extra_float_digits"));
        let exact = |digits: &str| digits.trim().parse::<i32>().is_ok_and(|digits| digits > 0);
        let exact_floats = !local && digits.is_some_and(exact);
        TextRules { iso_dates, exact_floats }
    }
}

/// What is known of a statement before it is decided how its answers become one.
struct Known<'a> {
    scatter: &'a Scatter,
    asked: &'a Asked,
    text: TextRules,
    shards: usize,
    /// The shard that is asked is the one whose numbers of tables the client knows.
    home: bool,
    /// The types of the parameters, as Parse has them.
    types: Vec<u8>,
    /// What the statement itself would send, if that was asked.
    shown: Option<Vec<u8>>,
    /// The types that it gives its parameters, if that was asked.
    parameters: Vec<u32>,
}

/// Everything that is asked before.
async fn gather(
    asker: &mut Asker<'_>,
    scatter: &Scatter,
    asked: &Asked,
    text: TextRules,
    (shards, home): (usize, bool),
) -> Result<Prepared, Error> {
    let types = types(asked, scatter, &[]);
    let mut known = Known { scatter, asked, text, shards, home, types, shown: None, parameters: Vec::new() };
    let mut arguments = Vec::new();
    match scatter.needs() {
        None if scatter.hides_error() || asked.leaves_type_of(scatter.repeated.iter().copied()) => {
            let original = asker.describe(&asked.text, &asked.types).await?;
            known.types = self::types(asked, scatter, &original.parameters);
        }
        None => {}
        Some(needs) => {
            // The statement itself says what its columns are called, and what is wrong with it.
            let original = asker.describe(&asked.text, &asked.types).await?;
            known.shown = Some(original.columns);
            // What is asked from here on need not have all of its parameters, nor tell their types.
            known.types = self::types(asked, scatter, &original.parameters);
            known.parameters = original.parameters;
            for sql in &needs.not_columns {
                match asker.describe_in_vain(sql.as_bytes(), &known.types).await {
                    Err(error) if error.sqlstate == UNDEFINED_COLUMN => {}
                    _ => return Err(ambiguous(sql)),
                }
            }
            if let Some(sql) = &needs.arguments {
                let described = asker.describe(sql.as_bytes(), &known.types).await?;
                arguments = seen(&described.columns).ok_or_else(fault)?.iter().map(|column| column.type_oid).collect();
            }
        }
    }
    let mut refused = None;
    if !scatter.must_finish() {
        match bring_together(asker, scatter.groups(&arguments)?, &known).await {
            Err(error) if error.sqlstate == SqlState::FEATURE_NOT_SUPPORTED => refused = Some(error),
            prepared => return prepared,
        }
    }
    // What is not known here, a shard may know: the order of texts, and what is computed of groups.
    let finished = match scatter.finished(&arguments)? {
        Some(pushed) => bring_together(asker, pushed, &known).await,
        None => Err(fault()),
    };
    finished.map_err(|error| refused.unwrap_or(error))
}

/// How the answers to what is pushed become one.
async fn bring_together(asker: &mut Asker<'_>, pushed: Pushed, known: &Known<'_>) -> Result<Prepared, Error> {
    let Known { scatter, asked, .. } = known;
    let described = asker.describe(pushed.sql.as_bytes(), &known.types).await?;
    let wanted = wanted(&asked.bound)?;
    let mut columns = seen(&described.columns).ok_or_else(fault)?;
    let visible = pushed.shown(columns.len());
    if wanted.len() > 1 && wanted.len() != visible {
        return Err(wrong_formats(wanted.len(), visible));
    }
    let formats = pushed.formats(&wanted, columns.len());
    for (column, code) in columns.iter_mut().zip(&formats) {
        column.format = Format::from_code(*code).ok_or_else(bad_format)?;
    }
    let collations = collations(asker, &pushed, &columns, scatter, &described.parameters).await?;
    let (spec, made) = pushed.spec(scatter, &columns, &collations, &wanted);
    let outputs: Vec<Format> = if pushed.finishes {
        let of = |at: usize| match wanted.as_slice() {
            [] => Some(Format::Text),
            [one] => Format::from_code(*one),
            each => each.get(at).copied().and_then(Format::from_code),
        };
        (0..visible).map(of).collect::<Option<_>>().ok_or_else(bad_format)?
    } else {
        spec.output.iter().map(|output| output.format).collect()
    };
    let merge = Merge::new(spec, made, known.text, known.shards)?;
    let shown = known.shown.as_deref().unwrap_or(&described.columns);
    let header = header(shown, &outputs, known.home).ok_or_else(fault)?;
    let wanted_types: Vec<u32> = seen(&header).ok_or_else(fault)?.iter().map(|column| column.type_oid).collect();
    let last = if pushed.finishes {
        Some(finish(asker, &pushed, known, (&merge.output_types(), &described.parameters), &wanted_types).await?)
    } else if wanted_types == merge.output_types() {
        None
    } else {
        return Err(other_types());
    };
    let bound = with_formats(&asked.bound, &formats).ok_or_else(fault)?;
    let (sql, types) = (pushed.sql.into_bytes(), known.types.clone());
    Ok(Prepared { sql, types, bound, gather: Some(Gather { merge, header, columns, last, recalls: asker.recalls }) })
}

/// The last statement, over columns of these types; it must give what the client is told of. `parameters`: the types of those of what is
/// pushed.
async fn finish(
    asker: &mut Asker<'_>,
    pushed: &Pushed,
    known: &Known<'_>,
    (types, parameters): (&[u32], &[u32]),
    wanted_types: &[u32],
) -> Result<Final, Error> {
    let scatter = known.scatter;
    let mut collations = Vec::new();
    if let Some(question) = pushed.named(scatter, types) {
        let cells = asker.row(&question.sql, parameters).await?;
        collations.extend(question.places.iter().copied().zip(cells));
    }
    // Only what is computed of groups has the client's parameters.
    let given: &[u32] = if scatter.select.groups.is_some() { &known.parameters } else { &[] };
    let last = pushed.last(scatter, types, &collations, given.len())?;
    let all: Vec<u32> = given.iter().chain(&last.arrays).copied().collect();
    let mut declared = u16::try_from(all.len()).map_err(|_| other_types())?.to_be_bytes().to_vec();
    all.iter().for_each(|oid| declared.extend_from_slice(&oid.to_be_bytes()));
    let described = asker.describe(last.sql.as_bytes(), &declared).await.map_err(|error| match error.origin {
        // The statement itself was right: it means something else over groups.
        Origin::Server if asker.is_lost() => error,
        _ => not_over_groups(&error),
    })?;
    let found = seen(&described.columns).ok_or_else(fault)?;
    if !found.iter().map(|column| &column.type_oid).eq(wanted_types) {
        return Err(other_types());
    }
    let bound = scatter.select.groups.is_some().then_some(known.asked.bound.as_slice());
    Final::new(last.sql, all, types, bound, wanted(&known.asked.bound)?).ok_or_else(bad_format)
}

/// The collations that decide.
async fn collations(
    asker: &mut Asker<'_>,
    pushed: &Pushed,
    columns: &[Seen],
    scatter: &Scatter,
    parameters: &[u32],
) -> Result<Vec<(usize, Collation)>, Error> {
    // Of groups the arguments of aggregates are asked about, which are values of rows.
    let Some(question) = pushed.collated(columns, &scatter.select.values) else { return Ok(Vec::new()) };
    let cells = asker.row(&question.sql, parameters).await?;
    let collation = |cell: Option<String>| match cell.as_deref() {
        Some("b") => Collation::Bytes,
        Some("d") => Collation::Deterministic,
        _ => Collation::Unknown,
    };
    Ok(question.places.iter().copied().zip(cells.into_iter().map(collation)).collect())
}

/// The columns of a RowDescription.
fn seen(body: &[u8]) -> Option<Vec<Seen>> {
    let mut r = Reader::new(body);
    let count = r.count(19)?;
    (0..count)
        .map(|_| {
            r.cstr()?;
            r.bytes(6)?;
            let type_oid = r.u32()?;
            r.bytes(2)?;
            let type_modifier = r.i32()?;
            Some(Seen { type_oid, type_modifier, format: Format::from_code(r.i16()?)? })
        })
        .collect()
}

/// A RowDescription of the first columns of another, in these formats; of tables that the client knows, or of none.
fn header(body: &[u8], formats: &[Format], tables: bool) -> Option<Vec<u8>> {
    let mut r = Reader::new(body);
    if r.count(19)? < formats.len() {
        return None;
    }
    let mut out = u16::try_from(formats.len()).ok()?.to_be_bytes().to_vec();
    for format in formats {
        out.extend_from_slice(r.cstr()?);
        out.push(0);
        let table = r.bytes(6)?;
        out.extend_from_slice(if tables { table } else { &[0; 6] });
        out.extend_from_slice(r.bytes(10)?);
        r.i16()?;
        out.extend_from_slice(&i16::from(*format == Format::Binary).to_be_bytes());
    }
    Some(out)
}

/// The result formats that the client asks for.
fn wanted(bound: &[u8]) -> Result<Vec<i16>, Error> {
    message::Bind { portal: b"", statement: b"", rest: bound }.result_formats().ok_or_else(bad_format)
}

/// What follows the names in Bind, with other result formats.
pub(super) fn with_formats(bound: &[u8], formats: &[i16]) -> Option<Vec<u8>> {
    let old = message::Bind { portal: b"", statement: b"", rest: bound }.result_formats()?;
    let keep = bound.len().checked_sub(2 + 2 * old.len())?;
    let mut out = bound.get(..keep)?.to_vec();
    out.extend_from_slice(&u16::try_from(formats.len()).ok()?.to_be_bytes());
    formats.iter().for_each(|format| out.extend_from_slice(&format.to_be_bytes()));
    Some(out)
}

/// The types of the parameters, those of LIMIT and OFFSET among them, which no shard could find out; `known`: what one has found out.
fn types(asked: &Asked, scatter: &Scatter, known: &[u32]) -> Vec<u8> {
    let mut oids = asked.declared();
    oids.resize(oids.len().max(known.len()), 0);
    for (number, type_oid) in &scatter.spent {
        let place = usize::from(*number).saturating_sub(1);
        if oids.len() <= place {
            oids.resize(place + 1, 0);
        }
        if let Some(oid) = oids.get_mut(place).filter(|oid| **oid == 0) {
            *oid = *type_oid;
        }
    }
    for (oid, found) in oids.iter_mut().zip(known).filter(|(oid, _)| **oid == 0) {
        *oid = *found;
    }
    let mut out = u16::try_from(oids.len()).unwrap_or(0).to_be_bytes().to_vec();
    oids.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
    out
}

pub(super) fn fault() -> Error {
    Error::server(SqlState::INTERNAL_ERROR, "a shard described the statement in a way that is not understood")
}

fn bad_format() -> Error {
    Error::client(SqlState::PROTOCOL_VIOLATION, "malformed Bind message from the client")
}

/// As PostgreSQL says it.
fn wrong_formats(formats: usize, columns: usize) -> Error {
    let message = format!("bind message has {formats} result formats but query has {columns} columns");
    Error::client(SqlState::PROTOCOL_VIOLATION, message)
}

pub(super) fn lost(error: &std::io::Error) -> Error {
    Error::server(SqlState::CONNECTION_FAILURE, format!("the connection to a shard was lost: {error}"))
        .hint("Nothing was changed: the statement can be sent again.")
}

fn silent() -> Error {
    Error::server(SqlState::CONNECTION_FAILURE, "a shard did not say what it thinks of the statement")
        .hint("SHOW SERVERS and SHOW SHARDS on the console tell how the servers are.")
}

fn other_types() -> Error {
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, "the answers of several shards cannot be brought together as the statement's types want it")
        .hint("Cast the aggregates' arguments to bigint, numeric or double precision, or tie the statement to one shard by its sharding key.")
}

/// The last statement is not one.
fn not_over_groups(error: &Error) -> Error {
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, "several shards cannot answer: what is left to do of the rows that they brought together is not understood there")
        .detail(format!("The server says: {}", error.message))
        .hint("Select the keys and aggregates themselves and compute in the application, or group by the sharding key.")
        .because("finish")
}

fn ambiguous(sql: &str) -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "a name of GROUP BY may be a column of a table or one of the select list, so that groups of several shards cannot be told",
    )
    .detail(format!("The tables have a column that {sql} finds."))
    .hint("Write the expression or its number in GROUP BY.")
}
