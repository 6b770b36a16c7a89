//! Parameters and literals that a date or a time takes for the present (`now`, `today`): each shard would take its own. Of parameters one of
//! the shards is asked what they mean, and all get that; literals are refused, unless their columns are of types without times.
//!
//! A text stays a text, unless the statement casts it.

use super::super::leg::Leg;
use super::reply;
use super::{Asked, columns, malformed, parameters};
use crate::client::task::{Client, Stopped};
use crate::error::{Error, SqlState};
use crate::shard::plan::present::{self, FIRST_OWN_OID};
use crate::sql::scatter::{Casts, Literals, OfColumn, has_present, is_present, literals};
use crate::wire::encode;
use crate::wire::message::{self, Reader};

/// Types that have no times, but may be cast to what has: bytea, name, text, json, xml, char, varchar, jsonb, and arrays of these.
const TEXTS: [u32; 17] = [17, 18, 19, 25, 114, 142, 143, 199, 1001, 1002, 1003, 1009, 1014, 1015, 1042, 1043, 3802];
/// The array of jsonb.
const JSONBS: u32 = 3807;
/// The format of texts, and of binary values.
const TEXT: i16 = 0;
const BINARY: i16 = 1;

/// A parameter whose value speaks of the present.
#[derive(Debug, Clone, Copy)]
struct Spoken {
    /// Its place, counted from 0.
    at: usize,
    /// Whether it comes as a text.
    is_text: bool,
}

impl Client {
    /// What is asked, with what its parameters mean that speak of the present; none: as it is.
    ///
    /// # Errors
    /// What they mean is not known, or is no value of their types; or a literal may mean it.
    pub(super) async fn settle_present(&mut self, legs: &mut [Leg], asked: &Asked) -> Result<Option<Asked>, Stopped> {
        let spoken = spoken(asked).map_err(Stopped::Refused)?;
        let Some(first) = legs.first_mut() else { return Ok(None) };
        if let Some(literals) = written(&asked.text).map_err(Stopped::Refused)? {
            self.attend_to(mean_no_time(first, literals)).await?;
        }
        if spoken.is_empty() {
            return Ok(None);
        }
        self.attend_to(settle(first, asked, spoken)).await
    }
}

/// The literals of a statement that stand for their columns and speak of the present.
fn written(text: &[u8]) -> Result<Option<Literals>, Error> {
    if !is_present(text) {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| malformed())?;
    literals(text).map_err(|_| malformed())
}

/// Whether none of them is of a type that has times.
///
/// # Errors
/// One is, or may be.
async fn mean_no_time(leg: &mut Leg, literals: Literals) -> Result<(), Error> {
    let cells = columns(leg, &present::columns_sql(&literals.table)).await?;
    let all: Vec<(&str, bool)> =
        cells.chunks(3).filter_map(|row| Some((row.first()?.as_str(), row.get(1)? != "f"))).collect();
    for column in &literals.columns {
        let found = match column {
            OfColumn::Named(name) => all.iter().find(|(of, _)| of == name),
            OfColumn::At(at) => all.get(*at),
        };
        // Of what is not found the server says what is wrong with it.
        if let Some((name, true)) = found {
            return Err(literal(name));
        }
    }
    Ok(())
}

/// The parameters whose values speak of the present.
fn spoken(asked: &Asked) -> Result<Vec<Spoken>, Error> {
    let parameters = bind(asked).parameters().ok_or_else(malformed)?;
    let speaks = |(at, value): (usize, &Option<&[u8]>)| {
        let is_text = parameters.is_text(at);
        let speaks = |value: &&[u8]| if is_text { is_present(value) } else { has_present(value) };
        value.filter(speaks).map(|_| Spoken { at, is_text })
    };
    Ok(parameters.values.iter().enumerate().filter_map(speaks).collect())
}

async fn settle(leg: &mut Leg, asked: &Asked, mut spoken: Vec<Spoken>) -> Result<Option<Asked>, Error> {
    let casts = std::str::from_utf8(&asked.text).map_or(Casts::UNKNOWN, Casts::of);
    // In binary a time is a moment, but a text may still be cast to one.
    spoken.retain(|spoken| spoken.is_text || casts.reach(spoken.at));
    if spoken.is_empty() {
        return Ok(None);
    }
    let mut types = asked.declared();
    let is_declared = |spoken: &Spoken| types.get(spoken.at).is_some_and(|oid| *oid != 0);
    let known =
        if spoken.iter().all(is_declared) { types.clone() } else { parameters(leg, &asked.text, &asked.types).await? };
    let type_of = |spoken: &Spoken| known.get(spoken.at).copied().unwrap_or(0);
    let timed = own_with_times(leg, spoken.iter().map(type_of)).await?;
    let mut times: Vec<(usize, u32)> = Vec::new();
    for spoken in &spoken {
        let type_oid = type_of(spoken);
        let is_own = type_oid >= FIRST_OWN_OID;
        if type_oid == 0 || (is_own && timed.contains(&type_oid)) {
            return Err(of_unknown_type(spoken.at));
        }
        if is_own || TEXTS.contains(&type_oid) || type_oid == JSONBS {
            if casts.reach(spoken.at) {
                return Err(cast(spoken.at));
            }
        } else if spoken.is_text {
            times.push((spoken.at, type_oid));
        }
    }
    if times.is_empty() {
        return Ok(None);
    }
    let values = meant(leg, asked, &times).await?;
    types.resize(types.len().max(known.len()), 0);
    for (at, type_oid) in &times {
        if let Some(declared) = types.get_mut(*at) {
            *declared = *type_oid;
        }
    }
    let values: Vec<(usize, Vec<u8>)> = times.iter().map(|(at, _)| *at).zip(values).collect();
    let bound = with_values(asked, &values).ok_or_else(malformed)?;
    let types = of_types(&types).ok_or_else(malformed)?;
    Ok(Some(Asked { text: asked.text.clone(), types, bound, extended: None }))
}

/// Those of these types that are not PostgreSQL's own and of which a text may mean the present.
async fn own_with_times(leg: &mut Leg, types: impl Iterator<Item = u32>) -> Result<Vec<u32>, Error> {
    let mut own: Vec<u32> = types.filter(|oid| *oid >= FIRST_OWN_OID).collect();
    own.sort_unstable();
    own.dedup();
    if own.is_empty() {
        return Ok(own);
    }
    let cells = columns(leg, &present::types_sql(&own)).await?;
    Ok(cells.iter().filter_map(|cell| cell.parse().ok()).collect())
}

/// What a shard takes these parameters for, in binary.
async fn meant(leg: &mut Leg, asked: &Asked, times: &[(usize, u32)]) -> Result<Vec<Vec<u8>>, Error> {
    let parameters = bind(asked).parameters().ok_or_else(malformed)?;
    let list: Vec<String> = (1..=times.len()).map(|number| format!("${number}")).collect();
    let types: Vec<u32> = times.iter().map(|(_, type_oid)| *type_oid).collect();
    let mut bound = vec![0, 0];
    bound.extend_from_slice(&u16::try_from(times.len()).map_err(|_| malformed())?.to_be_bytes());
    for (at, _) in times {
        let value = parameters.values.get(*at).copied().flatten();
        put(&mut bound, value).ok_or_else(malformed)?;
    }
    bound.extend_from_slice(&1_u16.to_be_bytes());
    bound.extend_from_slice(&BINARY.to_be_bytes());
    let mut request = Vec::new();
    let types = of_types(&types).ok_or_else(malformed)?;
    encode::parse(&mut request, b"", format!("SELECT {}", list.join(", ")).as_bytes(), &types);
    encode::bind(&mut request, b"", b"", &bound);
    encode::execute(&mut request);
    encode::sync(&mut request);
    let mut found = None;
    for (tag, body) in leg.converse(&request).await.map_err(|e| reply::lost("?", &e.to_string()))? {
        match tag {
            b'E' => return Err(message::server_error(&body)),
            b'D' => found = cells(&body),
            _ => {}
        }
    }
    found.filter(|values| values.len() == times.len()).ok_or_else(malformed)
}

/// The cells of a DataRow, of which none is NULL.
fn cells(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut reader = Reader::new(body);
    let count = reader.count(4)?;
    let mut cell = || {
        let len = usize::try_from(reader.i32()?).ok()?;
        Some(reader.bytes(len)?.to_vec())
    };
    (0..count).map(|_| cell()).collect()
}

/// What follows the names in Bind, with these values in binary, by their places.
fn with_values(asked: &Asked, values: &[(usize, Vec<u8>)]) -> Option<Vec<u8>> {
    let bind = bind(asked);
    let parameters = bind.parameters()?;
    let replaced = |at: usize| values.iter().find(|(of, _)| *of == at).map(|(_, value)| value.as_slice());
    let count = u16::try_from(parameters.values.len()).ok()?;
    let mut out = count.to_be_bytes().to_vec();
    for at in 0..parameters.values.len() {
        let format = if replaced(at).is_none() && parameters.is_text(at) { TEXT } else { BINARY };
        out.extend_from_slice(&format.to_be_bytes());
    }
    out.extend_from_slice(&count.to_be_bytes());
    for (at, value) in parameters.values.iter().enumerate() {
        put(&mut out, replaced(at).or(*value))?;
    }
    let formats = bind.result_formats()?;
    out.extend_from_slice(&u16::try_from(formats.len()).ok()?.to_be_bytes());
    formats.iter().for_each(|format| out.extend_from_slice(&format.to_be_bytes()));
    Some(out)
}

/// Writes a value of a Bind.
fn put(out: &mut Vec<u8>, value: Option<&[u8]>) -> Option<()> {
    let len = value.map_or(Some(-1), |value| i32::try_from(value.len()).ok())?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(value.unwrap_or_default());
    Some(())
}

/// The types of parameters as in Parse.
fn of_types(oids: &[u32]) -> Option<Vec<u8>> {
    let mut out = u16::try_from(oids.len()).ok()?.to_be_bytes().to_vec();
    oids.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
    Some(out)
}

fn bind(asked: &Asked) -> message::Bind<'_> {
    message::Bind { portal: b"", statement: b"", rest: &asked.bound }
}

fn may_mean(what: &str) -> Error {
    let message =
        format!("{what} of a write on several shards may mean the present, which each shard would take for itself");
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, message).because("present")
}

fn parameter(at: usize) -> Error {
    may_mean(&format!("parameter ${}", at.saturating_add(1)))
}

fn of_unknown_type(at: usize) -> Error {
    parameter(at).hint("Give the date or the time, or cast the parameter to a type of PostgreSQL's own.")
}

fn cast(at: usize) -> Error {
    parameter(at)
        .hint("It is a text that is cast. Give the date or the time; or leave the type of the parameter to PostgreSQL, and cast it at once: $1::timestamptz.")
}

fn literal(column: &str) -> Error {
    may_mean(&format!("the text for column \"{column}\"")).hint("Give the date or the time, or a parameter.")
}
