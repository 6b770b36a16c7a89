//! Parameters that a date or a time takes for the present (`now`, `today`): each shard would take its own. One of them is asked what they
//! mean, and all get that.

use super::super::leg::Leg;
use super::reply;
use super::{Asked, malformed, parameters};
use crate::client::task::{Client, Stopped};
use crate::error::{Error, SqlState};
use crate::sql::scatter::{casts_what_is_computed, is_present};
use crate::wire::encode;
use crate::wire::message::{self, Reader};

/// text, varchar, character, name, json and jsonb have no such values.
const TEXTS: [u32; 6] = [25, 1043, 1042, 19, 114, 3802];
/// The first number of a type that is not PostgreSQL's own.
const FIRST_OWN_OID: u32 = 16384;
/// The format of texts, and of binary values.
const TEXT: i16 = 0;
const BINARY: i16 = 1;

impl Client {
    /// What is asked, with what its parameters mean that speak of the present; none: as it is.
    ///
    /// # Errors
    /// What they mean is not known, or is no value of their types.
    pub(super) async fn settle_present(&mut self, legs: &mut [Leg], asked: &Asked) -> Result<Option<Asked>, Stopped> {
        let spoken = spoken(asked).map_err(Stopped::Refused)?;
        let Some(first) = legs.first_mut().filter(|_| !spoken.is_empty()) else { return Ok(None) };
        self.attend_to(settle(first, asked, &spoken)).await
    }
}

/// The places of parameters whose texts speak of the present.
fn spoken(asked: &Asked) -> Result<Vec<usize>, Error> {
    let parameters = bind(asked).parameters().ok_or_else(malformed)?;
    let speaks = |(at, value): (usize, &Option<&[u8]>)| {
        let text = parameters.is_text(at);
        value.filter(|value| text && is_present(value)).map(|_| at)
    };
    Ok(parameters.values.iter().enumerate().filter_map(speaks).collect())
}

async fn settle(leg: &mut Leg, asked: &Asked, spoken: &[usize]) -> Result<Option<Asked>, Error> {
    let mut types = message::Parse { name: b"", sql: b"", types: &asked.types }.oids();
    let is_declared = |at: &usize| types.get(*at).is_some_and(|oid| *oid != 0);
    let known =
        if spoken.iter().all(is_declared) { types.clone() } else { parameters(leg, &asked.text, &asked.types).await? };
    let type_of = |at: usize| known.get(at).copied().unwrap_or(0);
    let (texts, times): (Vec<usize>, Vec<usize>) = spoken.iter().partition(|at| TEXTS.contains(&type_of(**at)));
    if let Some(at) = texts.first()
        && std::str::from_utf8(&asked.text).map_or(true, casts_what_is_computed)
    {
        // A text that is cast may become the present after all.
        return Err(present(*at));
    }
    if let Some(at) = times.iter().find(|at| !(1..FIRST_OWN_OID).contains(&type_of(**at))) {
        return Err(present(*at));
    }
    if times.is_empty() {
        return Ok(None);
    }
    let times: Vec<(usize, u32)> = times.into_iter().map(|at| (at, type_of(at))).collect();
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

fn present(at: usize) -> Error {
    let message = format!(
        "parameter ${} of a write on several shards may mean the present, which each shard would take for itself",
        at.saturating_add(1)
    );
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, message)
        .hint("Give the date or the time, or have the parameter be of a type of PostgreSQL's own, without casts of what is computed.")
        .because("present")
}
