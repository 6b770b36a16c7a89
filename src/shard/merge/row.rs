//! The body of a DataRow: a count, then each field's length (-1: NULL) and bytes.

use std::ops::Range;

use super::refusal;
use crate::error::Result;

/// Where the fields of a row are in its body.
pub(super) type Fields = Vec<Option<Range<usize>>>;

/// Finds the fields of a body; `fields` is cleared first.
pub(super) fn fields(body: &[u8], expected: usize, fields: &mut Fields) -> Result<()> {
    fields.clear();
    let short = || refusal::server_fault("a shard sent a row that ends too early");
    let count = body.first_chunk::<2>().map(|count| usize::from(u16::from_be_bytes(*count))).ok_or_else(short)?;
    if count != expected {
        return Err(refusal::server_fault(format!("a shard sent a row of {count} columns instead of {expected}")));
    }
    let mut at = 2;
    for _ in 0..count {
        let length = body.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or_else(short)?;
        at += 4;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            fields.push(None);
            continue;
        };
        let end = at.checked_add(length).filter(|end| *end <= body.len()).ok_or_else(short)?;
        fields.push(Some(at..end));
        at = end;
    }
    if at == body.len() { Ok(()) } else { Err(refusal::server_fault("a shard sent a row that is too long")) }
}

/// The bytes of a field; none for NULL.
pub(super) fn field<'b>(body: &'b [u8], fields: &Fields, column: usize) -> Option<&'b [u8]> {
    fields.get(column)?.clone().and_then(|range| body.get(range))
}

/// Begins a body.
pub(super) fn begin(columns: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(2 + columns * 12);
    body.extend_from_slice(&u16::try_from(columns).unwrap_or(u16::MAX).to_be_bytes());
    body
}

/// Appends a field.
pub(super) fn append(body: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            body.extend_from_slice(&i32::try_from(value.len()).unwrap_or(i32::MAX).to_be_bytes());
            body.extend_from_slice(value);
        }
        None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}
