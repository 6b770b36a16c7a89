//! One field of a line of COPY FROM, as the server reads it.

use std::borrow::Cow;

use memchr::memchr2;

use super::{Layout, bad_data};
use crate::error::Result;

/// The field at a place, counted from 0, of a line without its end; none for NULL.
///
/// # Errors
/// 22P04 when the line has fewer fields, or a quote has no end.
pub(super) fn field<'l>(line: &'l [u8], place: usize, layout: &Layout) -> Result<Option<Cow<'l, [u8]>>> {
    let missing = || bad_data("a row of COPY ends before the column of its sharding key");
    match layout {
        Layout::Text { delimiter, null, .. } => {
            let raw = text_field(line, place, *delimiter).ok_or_else(missing)?;
            (raw != null).then(|| unescape(raw)).transpose()
        }
        Layout::Csv { delimiter, quote, escape, null, .. } => {
            let csv = Csv { delimiter: *delimiter, quote: *quote, escape: *escape };
            let mut rest = line;
            for _ in 0..place {
                rest = csv.field(rest, false)?.rest.ok_or_else(missing)?;
            }
            let field = csv.field(rest, true)?;
            if !field.was_quoted && field.raw == null {
                return Ok(None);
            }
            Ok(Some(if field.was_quoted { Cow::Owned(field.value) } else { Cow::Borrowed(field.raw) }))
        }
        Layout::Binary => Ok(None),
    }
}

/// The raw field of a line in text: a backslash takes the next byte with it.
fn text_field(line: &[u8], place: usize, delimiter: u8) -> Option<&[u8]> {
    let (mut start, mut at, mut left) = (0, 0, place);
    while let Some(found) = line.get(at..).and_then(|rest| memchr2(delimiter, b'\\', rest)) {
        at += found;
        if line.get(at) == Some(&b'\\') {
            at += 2;
            continue;
        }
        if left == 0 {
            return line.get(start..at);
        }
        left -= 1;
        at += 1;
        start = at;
    }
    if left == 0 { line.get(start..) } else { None }
}

/// Resolves the escapes of a field in text.
fn unescape(raw: &[u8]) -> Result<Cow<'_, [u8]>> {
    if !raw.contains(&b'\\') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut value = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            value.push(*first);
            continue;
        }
        // Nothing can follow it at the end of the data only.
        let (code, after) = rest.split_first().ok_or_else(|| bad_data("the data of COPY end in a backslash"))?;
        rest = after;
        let number = |digits: &[u8], most: usize, radix: u32| {
            let digits: Vec<u32> = digits.iter().take(most).map_while(|c| char::from(*c).to_digit(radix)).collect();
            // As in the server, which keeps the low 8 bits of an octal number.
            (digits.len(), (digits.iter().fold(0, |sum, digit| sum * radix + digit) & 0xFF) as u8)
        };
        let plain = match code {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'0'..=b'7' => {
                let (more, _) = number(rest, 2, 8);
                let (_, value) = number(&raw[raw.len() - rest.len() - 1..], 1 + more, 8);
                rest = &rest[more..];
                value
            }
            b'x' => match number(rest, 2, 16) {
                (0, _) => b'x',
                (count, value) => {
                    rest = &rest[count..];
                    value
                }
            },
            other => *other,
        };
        value.push(plain);
    }
    Ok(Cow::Owned(value))
}

/// The marks of csv.
struct Csv {
    delimiter: u8,
    quote: u8,
    escape: u8,
}

/// A field, and what stands behind the delimiter after it.
struct Field<'l> {
    raw: &'l [u8],
    value: Vec<u8>,
    was_quoted: bool,
    rest: Option<&'l [u8]>,
}

impl Csv {
    /// Reads the first field; its value only if it is wanted.
    fn field<'l>(&self, line: &'l [u8], wanted: bool) -> Result<Field<'l>> {
        let mut field = Field { raw: line, value: Vec::new(), was_quoted: false, rest: None };
        let (mut at, mut in_quote) = (0, false);
        let keep = |value: &mut Vec<u8>, byte| {
            if wanted {
                value.push(byte);
            }
        };
        while let Some(byte) = line.get(at).copied() {
            at += 1;
            if !in_quote {
                if byte == self.delimiter {
                    field.raw = &line[..at - 1];
                    field.rest = line.get(at..);
                    return Ok(field);
                }
                if byte == self.quote {
                    (field.was_quoted, in_quote) = (true, true);
                } else {
                    keep(&mut field.value, byte);
                }
                continue;
            }
            // The test for an escape comes first: it may be the same as the quote.
            match line.get(at) {
                Some(next) if byte == self.escape && (*next == self.escape || *next == self.quote) => {
                    keep(&mut field.value, *next);
                    at += 1;
                }
                _ if byte == self.quote => in_quote = false,
                _ => keep(&mut field.value, byte),
            }
        }
        if in_quote { Err(bad_data("unterminated CSV quoted field")) } else { Ok(field) }
    }
}
