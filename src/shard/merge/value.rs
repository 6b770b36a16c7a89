//! Values that can be compared as PostgreSQL's btree operator classes compare them, read from either format.

use std::cmp::Ordering;

use super::numeric::Numeric;
use super::spec::{Collation, Column, Format, TextRules};
use super::{datetime, refusal};
use crate::error::Result;

/// A type whose values can be compared here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// Signed, of so many bytes.
    Int(u8),
    Oid,
    Float4,
    Float8,
    Numeric,
    /// text, varchar, name: bytes.
    Text,
    /// char(n): spaces at the end do not count.
    Padded,
    /// `"char"`: one byte.
    Byte,
    Bytea,
    Uuid,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
}

impl Kind {
    pub(super) fn of(type_oid: u32) -> Option<Self> {
        Some(match type_oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            18 => Self::Byte,
            20 => Self::Int(8),
            21 => Self::Int(2),
            23 => Self::Int(4),
            19 | 25 | 1043 => Self::Text,
            26 => Self::Oid,
            700 => Self::Float4,
            701 => Self::Float8,
            1042 => Self::Padded,
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            1186 => Self::Interval,
            1266 => Self::TimeTz,
            1700 => Self::Numeric,
            2950 => Self::Uuid,
            _ => return None,
        })
    }
}

/// A value. Those of one kind have PostgreSQL's order; those of different kinds never meet.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Bool(bool),
    /// Whole numbers, days, microseconds.
    Int(i64),
    Float(f64),
    Numeric(Numeric),
    Bytes(Box<[u8]>),
    /// Microseconds in UTC, then seconds west of it.
    TimeTz(i64, i32),
    /// Microseconds, with months of 30 days.
    Interval(i128),
}

impl Value {
    /// Bytes on the heap.
    pub(super) fn heap_size(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Numeric(numeric) => numeric.heap_size(),
            _ => 0,
        }
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => compare_floats(*a, *b),
            (Self::Numeric(a), Self::Numeric(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::TimeTz(a, a_zone), Self::TimeTz(b, b_zone)) => (a, a_zone).cmp(&(b, b_zone)),
            (Self::Interval(a), Self::Interval(b)) => a.cmp(b),
            _ => Ordering::Equal,
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Value {}

/// NaN is equal to itself and greater than all else; -0 is 0.
fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Reads and writes the values of a column whose values can be compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader {
    pub(super) kind: Kind,
    format: Format,
}

impl Reader {
    /// For comparing a column's values; `what` is done with them, for the refusal: "sorting".
    pub(super) fn comparing(column: &Column, rules: TextRules, what: &str) -> Result<Self> {
        let kind = Kind::of(column.type_oid).ok_or_else(|| refusal::type_not_comparable(what, column.type_oid))?;
        match kind {
            // That of name is C only where no COLLATE says otherwise.
            Kind::Text | Kind::Padded if column.collation != Collation::Bytes => {
                return Err(refusal::collation(what));
            }
            Kind::Interval if column.format == Format::Text => {
                return Err(refusal::type_not_comparable(what, column.type_oid));
            }
            _ => {}
        }
        Self::readable(kind, column, rules)
    }

    /// For values that are added up.
    pub(super) fn counting(column: &Column, rules: TextRules) -> Result<Self> {
        let kind = Kind::of(column.type_oid).ok_or_else(|| refusal::fault("a partial is of no known type"))?;
        Self::readable(kind, column, rules)
    }

    fn readable(kind: Kind, column: &Column, rules: TextRules) -> Result<Self> {
        if column.format == Format::Text {
            match kind {
                Kind::Date | Kind::Timestamp | Kind::TimestampTz | Kind::TimeTz if !rules.iso_dates => {
                    return Err(refusal::text_setting(column.type_oid, "DateStyle"));
                }
                Kind::Float4 | Kind::Float8 if !rules.exact_floats => {
                    return Err(refusal::text_setting(column.type_oid, "extra_float_digits"));
                }
                _ => {}
            }
        }
        Ok(Self { kind, format: column.format })
    }

    /// Reads a value.
    pub(super) fn read(&self, bytes: &[u8]) -> Result<Value> {
        let read = match self.format {
            Format::Text => from_text(self.kind, bytes),
            Format::Binary => from_binary(self.kind, bytes),
        };
        read.ok_or_else(|| {
            refusal::server_fault(format!("a shard sent what is no value of its type ({:?})", self.kind))
        })
    }
}

fn from_text(kind: Kind, bytes: &[u8]) -> Option<Value> {
    Some(match kind {
        Kind::Bool => Value::Bool(match bytes {
            b"t" => true,
            b"f" => false,
            _ => return None,
        }),
        Kind::Int(_) | Kind::Oid => Value::Int(plain(bytes)?.parse().ok()?),
        // The nearest real is not the nearest double: 0.1 as real is another number.
        Kind::Float4 => Value::Float(f64::from(float_text(bytes)?.parse::<f32>().ok()?)),
        Kind::Float8 => Value::Float(float_text(bytes)?.parse().ok()?),
        Kind::Numeric => Value::Numeric(Numeric::from_text(bytes)?),
        Kind::Text => Value::Bytes(bytes.into()),
        Kind::Padded => Value::Bytes(bytes.trim_suffix_spaces().into()),
        Kind::Byte => Value::Int(i64::from(one_byte(bytes)?)),
        Kind::Bytea => Value::Bytes(bytea(bytes)?.into()),
        Kind::Uuid => Value::Bytes(hex(bytes.iter().copied().filter(|c| *c != b'-')).filter(|b| b.len() == 16)?.into()),
        Kind::Date => Value::Int(datetime::date(bytes)?),
        Kind::Time => Value::Int(datetime::time(bytes)?),
        Kind::TimeTz => datetime::time_with_zone(bytes).map(|(utc, zone)| Value::TimeTz(utc, zone))?,
        Kind::Timestamp => Value::Int(datetime::timestamp(bytes, false)?),
        Kind::TimestampTz => Value::Int(datetime::timestamp(bytes, true)?),
        Kind::Interval => return None,
    })
}

fn from_binary(kind: Kind, bytes: &[u8]) -> Option<Value> {
    Some(match kind {
        Kind::Bool => Value::Bool(match bytes {
            [0] => false,
            [1] => true,
            _ => return None,
        }),
        Kind::Int(2) => Value::Int(i64::from(i16::from_be_bytes(bytes.try_into().ok()?))),
        Kind::Int(4) => Value::Int(i64::from(i32::from_be_bytes(bytes.try_into().ok()?))),
        Kind::Int(_) | Kind::Time | Kind::Timestamp | Kind::TimestampTz => {
            Value::Int(i64::from_be_bytes(bytes.try_into().ok()?))
        }
        Kind::Oid => Value::Int(i64::from(u32::from_be_bytes(bytes.try_into().ok()?))),
        Kind::Float4 => Value::Float(f64::from(f32::from_be_bytes(bytes.try_into().ok()?))),
        Kind::Float8 => Value::Float(f64::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Numeric => Value::Numeric(Numeric::from_binary(bytes)?),
        Kind::Text | Kind::Bytea => Value::Bytes(bytes.into()),
        Kind::Padded => Value::Bytes(bytes.trim_suffix_spaces().into()),
        Kind::Byte => Value::Int(i64::from(one_byte(bytes)?)),
        Kind::Uuid => Value::Bytes(<[u8; 16]>::try_from(bytes).ok()?.into()),
        Kind::Date => Value::Int(match i32::from_be_bytes(bytes.try_into().ok()?) {
            i32::MAX => i64::MAX,
            i32::MIN => i64::MIN,
            days => i64::from(days),
        }),
        Kind::TimeTz => {
            let (micros, zone) = bytes.split_first_chunk::<8>()?;
            let zone = i32::from_be_bytes(zone.try_into().ok()?);
            Value::TimeTz(i64::from_be_bytes(*micros).checked_add(i64::from(zone) * 1_000_000)?, zone)
        }
        Kind::Interval => {
            let (micros, rest) = bytes.split_first_chunk::<8>()?;
            let (days, months) = rest.split_first_chunk::<4>()?;
            let days = i128::from(i32::from_be_bytes(*days));
            let months = i128::from(i32::from_be_bytes(months.try_into().ok()?));
            Value::Interval(i128::from(i64::from_be_bytes(*micros)) + (days + 30 * months) * 86_400_000_000)
        }
    })
}

trait TrimSuffix {
    fn trim_suffix_spaces(&self) -> &[u8];
}

impl TrimSuffix for [u8] {
    fn trim_suffix_spaces(&self) -> &[u8] {
        let end = self.iter().rposition(|c| *c != b' ').map_or(0, |at| at + 1);
        &self[..end]
    }
}

/// A number in ASCII, without the `+` that the server never writes.
fn plain(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.starts_with('+'))
}

/// The text of a float; words other than those that the server writes are none.
fn float_text(bytes: &[u8]) -> Option<&str> {
    let text = plain(bytes)?;
    let word = text.bytes().any(|c| c.is_ascii_alphabetic() && c != b'e');
    (!word || matches!(text, "NaN" | "Infinity" | "-Infinity")).then_some(text)
}

/// `"char"`: nothing is 0; from version 16 on, bytes beyond ASCII are written in octal.
fn one_byte(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [] => Some(0),
        [byte] => Some(*byte),
        [b'\\', octal @ ..] if octal.len() == 3 => u8::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok(),
        _ => None,
    }
}

/// `bytea_output` hex, or escape: a backslash is doubled there, so the beginning tells them apart.
fn bytea(text: &[u8]) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix(b"\\x") {
        return hex(digits.iter().copied());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                bytes.push(b'\\');
                after
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                after
            }
            (b'\\', _) => return None,
            (byte, after) => {
                bytes.push(*byte);
                after
            }
        };
    }
    Some(bytes)
}

fn hex(digits: impl Iterator<Item = u8>) -> Option<Vec<u8>> {
    let digits: Vec<u8> = digits.map(|c| char::from(c).to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    Some(digits.chunks_exact(2).map(|pair| (pair[0] << 4) | pair[1]).collect())
}

/// Writes a value that was computed, of type `type_oid`, as PostgreSQL would.
pub(super) fn write(value: &Value, type_oid: u32, format: Format, rules: TextRules) -> Result<Vec<u8>> {
    let kind = Kind::of(type_oid).ok_or_else(|| refusal::fault("a result is of no known type"))?;
    let mut out = Vec::new();
    match (value, format) {
        (Value::Bool(value), Format::Text) => out.push(if *value { b't' } else { b'f' }),
        (Value::Bool(value), Format::Binary) => out.push(u8::from(*value)),
        (Value::Int(value), Format::Text) => out.extend_from_slice(value.to_string().as_bytes()),
        (Value::Int(value), Format::Binary) => {
            let Kind::Int(width) = kind else { return Err(refusal::fault("a whole number of another type")) };
            out.extend_from_slice(&value.to_be_bytes()[8 - usize::from(width)..]);
        }
        (Value::Float(_), Format::Text) if !rules.exact_floats => {
            return Err(refusal::text_setting(type_oid, "extra_float_digits"));
        }
        (Value::Float(value), Format::Text) if kind == Kind::Float4 => {
            float_out(&format!("{:e}", *value as f32), 6, &mut out);
        }
        (Value::Float(value), Format::Text) => float_out(&format!("{value:e}"), 15, &mut out),
        (Value::Float(value), Format::Binary) if kind == Kind::Float4 => {
            out.extend_from_slice(&(*value as f32).to_be_bytes());
        }
        (Value::Float(value), Format::Binary) => out.extend_from_slice(&value.to_be_bytes()),
        (Value::Numeric(value), Format::Text) => value.write_text(&mut out),
        (Value::Numeric(value), Format::Binary) => value.write_binary(&mut out),
        _ => return Err(refusal::fault("a result that is not computed")),
    }
    Ok(out)
}

/// Writes a float as `float8out` does, from its shortest digits `d[.ddd]e[-]n`: without an exponent from 0.0001 up to so many
/// digits before the point.
fn float_out(shortest: &str, whole_digits: i32, out: &mut Vec<u8>) {
    let Some((digits, exponent)) = shortest.split_once('e') else {
        let word = match shortest {
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            _ => "NaN",
        };
        return out.extend_from_slice(word.as_bytes());
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let text = if (-4..whole_digits).contains(&exponent) {
        let digits = digits.replace('.', "");
        if exponent < 0 {
            format!("{sign}0.{}{digits}", "0".repeat((-1 - exponent) as usize))
        } else {
            let point = exponent as usize + 1;
            if digits.len() > point {
                format!("{sign}{}.{}", &digits[..point], &digits[point..])
            } else {
                format!("{sign}{digits:0<point$}")
            }
        }
    } else {
        format!("{sign}{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    };
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [u32; 19] =
        [16, 17, 18, 19, 20, 21, 23, 25, 26, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950];

    fn text(type_oid: u32, text: &str) -> Value {
        from_text(Kind::of(type_oid).unwrap(), text.as_bytes()).unwrap()
    }

    #[test]
    fn floats_compare_as_the_btree_does() {
        let sorted = ["-Infinity", "-1e300", "-1", "-0", "1e-320", "0.1", "1", "Infinity", "NaN"];
        for (at, a) in sorted.iter().enumerate() {
            for (bt, b) in sorted.iter().enumerate() {
                assert_eq!(text(701, a).cmp(&text(701, b)), at.cmp(&bt), "{a} {b}");
            }
        }
        assert_eq!(text(701, "-0"), text(701, "0"));
        assert_ne!(text(701, "0.1"), text(700, "0.1"));
    }

    #[test]
    fn texts_are_those_of_the_server_only() {
        for (type_oid, wrong) in
            [(701, "nan"), (701, "inf"), (701, "+1"), (23, "+1"), (23, "1.0"), (16, "true"), (17, "\\9"), (2950, "00")]
        {
            assert!(from_text(Kind::of(type_oid).unwrap(), wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert_eq!(text(17, "\\x0a5c"), text(17, "\\012\\\\"));
        assert_eq!(text(1042, "a   "), text(1042, "a"));
        assert_eq!(text(18, "\\377"), Value::Int(255));
    }

    #[test]
    fn floats_are_written_as_the_server_does() {
        let show = |value: f64, type_oid| {
            let rules = TextRules { exact_floats: true, ..TextRules::default() };
            String::from_utf8(write(&Value::Float(value), type_oid, Format::Text, rules).unwrap()).unwrap()
        };
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (100_000_000_000_000.0, "100000000000000"),
            (1e15, "1e+15"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (1_234_567_890_123_456.7, "1.2345678901234568e+15"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e100, "1e+100"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(show(value, 701), text);
        }
        assert_eq!(
            (show(1e6, 700), show(100_000.0, 700), show(f64::from(0.1_f32), 700)),
            ("1e+06".into(), "100000".into(), "0.1".into())
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            for type_oid in KINDS.into_iter().chain([1186, 1266]) {
                let kind = Kind::of(type_oid).unwrap();
                for value in [from_text(kind, &bytes), from_binary(kind, &bytes)].into_iter().flatten() {
                    prop_assert_eq!(value.cmp(&value), Ordering::Equal);
                }
            }
        }

        #[test]
        fn any_near_text_is_a_value_or_not(text in "[-0-9:+. ABCNaIinfyty\\\\x]{0,24}") {
            for type_oid in KINDS.into_iter().chain([1186, 1266]) {
                drop(from_text(Kind::of(type_oid).unwrap(), text.as_bytes()));
            }
        }
    }
}
