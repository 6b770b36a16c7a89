//! Reads a sharding key from what a statement says: a literal, a parameter, or a setting.
//!
//! The rules are those of PostgreSQL's input functions (`int8in`, `uuid_in`, `textin` of PostgreSQL 15) and of its binary
//! receive functions. A literal takes the type of the key column, so `'123'` is a text for a text key and a number for an
//! integer key. Whatever would make PostgreSQL convert in a way that is not reproduced here is refused, never guessed.

pub(in crate::shard) mod array;
pub(in crate::shard) mod row;

use crate::error::{Error, SqlState};
use crate::id::Slot;
use crate::shard::hash;
use crate::shard::map::KeyType;
use crate::sql::facts::{KeyValue, LiteralKind};

/// A text that its type's input function does not take.
const INVALID_TEXT_REPRESENTATION: SqlState = SqlState(*b"22P02");
/// Bytes that the type's receive function does not take.
const INVALID_BINARY_REPRESENTATION: SqlState = SqlState(*b"22P03");
/// A number that the type cannot hold.
const NUMERIC_VALUE_OUT_OF_RANGE: SqlState = SqlState(*b"22003");

/// What is computed is no constant.
pub(super) const EXPRESSION: &str = "an expression";

/// The value of a sharding key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// A smallint, integer or bigint.
    Integer(i64),
    /// A text or varchar, in the server's encoding.
    Text(&'a [u8]),
    /// The same, of which only the [tag](hash::tag) is hashed.
    Tagged(&'a [u8]),
    /// A uuid.
    Uuid([u8; 16]),
}

/// The parameters of a Bind message.
#[derive(Debug, Clone, Copy)]
pub struct BoundParams<'a> {
    /// The values; none is NULL.
    pub values: &'a [Option<&'a [u8]>],
    /// Their formats as in Bind: none: all text; one: for all; else one each. 0 is text, 1 is binary.
    pub formats: &'a [i16],
    /// The types that Parse declared, by OID; missing and 0: left to the server. Where the server's own answer to Describe
    /// is known it is the better choice, because the first use of a parameter decides its type.
    pub types: &'a [u32],
}

impl<'a> BoundParams<'a> {
    /// The type that Parse declared for parameter `number`, counted from 1. `unknown` (705) is as good as none.
    pub(in crate::shard) fn declared(&self, number: u16) -> Option<u32> {
        let place = usize::from(number).checked_sub(1)?;
        self.types.get(place).copied().filter(|oid| !matches!(oid, 0 | 705))
    }

    /// The value of parameter `number`, if it came as text.
    pub(super) fn text(&self, number: u16) -> Option<&'a [u8]> {
        let place = usize::from(number).checked_sub(1)?;
        self.values.get(place).copied().flatten().filter(|_| format_of(self.formats, number) == 0)
    }
}

/// Why a value is no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// It is NULL.
    Null,
    /// It is DEFAULT, which only the server knows.
    Default,
    /// It is no constant of the key's type; what it is instead.
    NotConstant(&'static str),
    /// It is this parameter, whose value is not known yet.
    Unbound(u16),
    /// It is this parameter, whose type is not known: Parse declares none, and the statement uses it in several ways.
    Undecided(u16),
    /// PostgreSQL would refuse it too, with this error.
    Invalid(Error),
}

impl KeyError {
    fn invalid(sqlstate: SqlState, message: String) -> Self {
        Self::Invalid(Error::client(sqlstate, message))
    }
}

impl<'a> Key<'a> {
    /// The key's hash.
    #[must_use]
    pub fn hash(&self) -> u64 {
        match self {
            Self::Integer(value) => hash::hash_integer(*value),
            Self::Text(bytes) => hash::hash_bytes(bytes),
            Self::Tagged(bytes) => hash::hash_bytes(hash::tag(bytes)),
            Self::Uuid(bytes) => hash::hash_bytes(bytes),
        }
    }

    /// The key's slot.
    #[must_use]
    pub fn slot(&self) -> Slot {
        hash::slot_of(self.hash())
    }

    /// Whether it is a text that ends in a space, which a column of type `varchar(n)` may cut.
    #[must_use]
    pub fn ends_in_space(&self) -> bool {
        matches!(self, Self::Text(bytes) | Self::Tagged(bytes) if bytes.ends_with(b" "))
    }

    /// What is known to be a value of the column, as a key of type `key_type`.
    fn hashed_as(self, key_type: KeyType) -> Self {
        match (self, key_type) {
            (Self::Text(bytes), KeyType::Tagged) => Self::Tagged(bytes),
            (key, _) => key,
        }
    }

    /// Reads what a statement compares with or gives to a key column of type `key_type`.
    /// `utf8`: client and server speak UTF-8, so the client's bytes are those that the server hashes.
    ///
    /// # Errors
    /// Everything that is not a constant of the key's type: see [`KeyError`].
    pub fn from_value(
        value: &'a KeyValue,
        key_type: KeyType,
        bound: Option<BoundParams<'a>>,
        utf8: bool,
    ) -> Result<Self, KeyError> {
        let column = key_type.column();
        let read = match value {
            KeyValue::Literal { kind, text, cast } => Self::from_literal(*kind, text, cast.as_deref(), column, utf8),
            KeyValue::Param { number, cast } => match bound {
                Some(bound) => Self::from_param(*number, cast.as_deref(), column, bound, utf8),
                None => cast_type(cast.as_deref(), column).and(Err(KeyError::Unbound(*number))),
            },
            KeyValue::Null => Err(KeyError::Null),
            KeyValue::Default => Err(KeyError::Default),
            KeyValue::Expression => Err(KeyError::NotConstant(EXPRESSION)),
        };
        read.map(|key| key.hashed_as(key_type))
    }

    /// Reads a text as the input function of `value_type` does; this is also how a setting's value is read.
    ///
    /// # Errors
    /// 22P02 or 22003 as PostgreSQL gives them; a non-ASCII text unless `utf8`.
    pub fn from_text(text: &'a [u8], value_type: KeyType, utf8: bool) -> Result<Self, KeyError> {
        match value_type {
            KeyType::Integer { width } => {
                let value = parse_integer(text).map_err(|fault| fault.error(text, value_type))?;
                if fits(value, width) {
                    Ok(Self::Integer(value))
                } else {
                    Err(NumberFault::Range.error(text, value_type))
                }
            }
            KeyType::Text | KeyType::Tagged if utf8 || text.is_ascii() => Ok(Self::Text(text).hashed_as(value_type)),
            KeyType::Text | KeyType::Tagged => {
                Err(KeyError::NotConstant("a text beyond ASCII, while client_encoding or server_encoding is not UTF8"))
            }
            KeyType::Uuid => parse_uuid(text).map(Self::Uuid).ok_or_else(|| {
                KeyError::invalid(
                    INVALID_TEXT_REPRESENTATION,
                    format!("invalid input syntax for type uuid: \"{}\"", shown(text)),
                )
            }),
        }
    }

    fn from_literal(
        kind: LiteralKind,
        text: &'a str,
        cast: Option<&str>,
        key_type: KeyType,
        utf8: bool,
    ) -> Result<Self, KeyError> {
        let cast_to = cast_type(cast, key_type)?;
        match (kind, key_type) {
            (LiteralKind::String, _) => Self::from_text(text.as_bytes(), cast_to.unwrap_or(key_type), utf8),
            (LiteralKind::Integer, KeyType::Integer { .. }) => {
                // Without a cast the literal has its own width, not the column's: compared with a narrower column it
                // matches nothing, inserted into one it is refused by the server.
                let widest = KeyType::Integer { width: 8 };
                match Self::from_text(text.as_bytes(), cast_to.unwrap_or(widest), utf8) {
                    Err(KeyError::Invalid(_)) if cast_to.is_none() => {
                        Err(KeyError::NotConstant("a number that no integer type holds"))
                    }
                    read => read,
                }
            }
            (LiteralKind::Integer, _) => Err(KeyError::NotConstant("a number, which the key's type is not")),
            (LiteralKind::Float, _) => Err(KeyError::NotConstant("a number with a fraction or an exponent")),
            (LiteralKind::Other, _) => Err(KeyError::NotConstant("a literal of another type")),
        }
    }

    fn from_param(
        number: u16,
        cast: Option<&str>,
        key_type: KeyType,
        bound: BoundParams<'a>,
        utf8: bool,
    ) -> Result<Self, KeyError> {
        let cast_to = cast_type(cast, key_type)?;
        let place = usize::from(number).checked_sub(1);
        let Some(value) = place.and_then(|at| bound.values.get(at)) else {
            return Err(KeyError::invalid(
                SqlState::PROTOCOL_VIOLATION,
                format!("bind message has no parameter ${number}"),
            ));
        };
        let declared = match bound.declared(number) {
            None => None,
            Some(oid) => Some(type_of_oid(oid).ok_or(KeyError::NotConstant("a parameter of another type"))?),
        };
        // The type in which the value travels: a bare $n has the type of what it stands beside. The width of an integer may be
        // that of another use of it, which the server checks when it reads the value.
        let sent = match declared.or(cast_to).unwrap_or(key_type) {
            KeyType::Integer { .. } if declared.is_none() => {
                KeyType::Integer { width: width_sent(bound, number, value) }
            }
            sent => sent,
        };
        // Its type in the statement. A text can be cast to anything, by the input function of that type.
        let meant = match cast_to {
            Some(to) if sent.same_family(to) || sent == KeyType::Text => to,
            None if sent.same_family(key_type) => sent,
            _ => return Err(KeyError::NotConstant("a parameter of another type")),
        };
        let Some(bytes) = *value else { return Err(KeyError::Null) };
        let key = match format_of(bound.formats, number) {
            0 => Self::from_text(bytes, if sent == KeyType::Text { meant } else { sent }, utf8)?,
            1 if sent == KeyType::Text => Self::from_text(bytes, meant, utf8)?,
            1 => Self::from_binary(bytes, sent, number)?,
            _ => return Err(KeyError::NotConstant("a parameter in an unknown format")),
        };
        match (key, meant) {
            (Self::Integer(value), KeyType::Integer { width }) if !fits(value, width) => {
                Err(KeyError::invalid(NUMERIC_VALUE_OUT_OF_RANGE, format!("{} out of range", meant.name())))
            }
            _ => Ok(key),
        }
    }

    /// Reads a binary value of a column of type `value_type`, which has no other width than that.
    ///
    /// # Errors
    /// 22P03 for another length; a non-ASCII text unless `utf8`.
    pub fn from_binary_column(bytes: &'a [u8], value_type: KeyType, utf8: bool) -> Result<Self, KeyError> {
        if value_type.is_text() {
            return Self::from_text(bytes, value_type, utf8);
        }
        let wrong = |_| KeyError::invalid(INVALID_BINARY_REPRESENTATION, "incorrect binary data format".to_owned());
        Self::from_binary(bytes, value_type, 0).map_err(wrong)
    }

    /// Reads what `int2send`, `int4send`, `int8send` or `uuid_send` wrote.
    fn from_binary(bytes: &'a [u8], sent: KeyType, number: u16) -> Result<Self, KeyError> {
        let key = match sent {
            KeyType::Integer { width: 2 } => bytes.try_into().ok().map(|b| i64::from(i16::from_be_bytes(b))),
            KeyType::Integer { width: 4 } => bytes.try_into().ok().map(|b| i64::from(i32::from_be_bytes(b))),
            KeyType::Integer { .. } => bytes.try_into().ok().map(i64::from_be_bytes),
            KeyType::Uuid => return bytes.try_into().map(Self::Uuid).map_err(|_| wrong_length(number)),
            KeyType::Text | KeyType::Tagged => return Ok(Self::Text(bytes).hashed_as(sent)),
        };
        key.map(Self::Integer).ok_or_else(|| wrong_length(number))
    }
}

fn wrong_length(number: u16) -> KeyError {
    KeyError::invalid(INVALID_BINARY_REPRESENTATION, format!("incorrect binary data format in bind parameter {number}"))
}

/// The format of parameter `number`, counted from 1.
fn format_of(formats: &[i16], number: u16) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => usize::from(number).checked_sub(1).and_then(|at| each.get(at)).copied().unwrap_or(0),
    }
}

/// The width of an integer of undeclared type: in binary its length tells.
fn width_sent(bound: BoundParams<'_>, number: u16, value: &Option<&[u8]>) -> u8 {
    match (format_of(bound.formats, number), value.map(<[u8]>::len)) {
        (1, Some(2)) => 2,
        (1, Some(4)) => 4,
        _ => 8,
    }
}

/// The type that a cast names, if it is of the key's family.
fn cast_type(cast: Option<&str>, key_type: KeyType) -> Result<Option<KeyType>, KeyError> {
    let Some(name) = cast else { return Ok(None) };
    match type_of_name(name) {
        Some(to) if to.same_family(key_type) => Ok(Some(to)),
        _ => Err(KeyError::NotConstant("a cast to another type")),
    }
}

/// A key type by its name in a cast, lower case.
pub(super) fn type_of_name(name: &str) -> Option<KeyType> {
    Some(match name {
        "int2" | "smallint" => KeyType::Integer { width: 2 },
        "int4" | "integer" | "int" => KeyType::Integer { width: 4 },
        "int8" | "bigint" => KeyType::Integer { width: 8 },
        "text" | "varchar" | "character varying" => KeyType::Text,
        "uuid" => KeyType::Uuid,
        _ => return None,
    })
}

/// A key type by its OID in `pg_type`.
pub(super) fn type_of_oid(oid: u32) -> Option<KeyType> {
    Some(match oid {
        21 => KeyType::Integer { width: 2 },
        23 => KeyType::Integer { width: 4 },
        20 => KeyType::Integer { width: 8 },
        25 | 1043 => KeyType::Text,
        2950 => KeyType::Uuid,
        _ => return None,
    })
}

/// Whether an integer column of `width` bytes holds the value.
fn fits(value: i64, width: u8) -> bool {
    match width {
        2 => i16::try_from(value).is_ok(),
        4 => i32::try_from(value).is_ok(),
        _ => true,
    }
}

/// What is wrong with an integer's text.
enum NumberFault {
    Syntax,
    Range,
}

impl NumberFault {
    fn error(self, text: &[u8], value_type: KeyType) -> KeyError {
        let (text, name) = (shown(text), value_type.name());
        match self {
            Self::Syntax => KeyError::invalid(
                INVALID_TEXT_REPRESENTATION,
                format!("invalid input syntax for type {name}: \"{text}\""),
            ),
            Self::Range => KeyError::invalid(
                NUMERIC_VALUE_OUT_OF_RANGE,
                format!("value \"{text}\" is out of range for type {name}"),
            ),
        }
    }
}

/// `pg_strtoint64` of PostgreSQL 15: white space, a sign, decimal digits, white space. The hexadecimal forms and the
/// underscores of later versions are not taken: a proxy that takes them would disagree with an older server.
fn parse_integer(text: &[u8]) -> Result<i64, NumberFault> {
    let trimmed = trim_space(text);
    let (negative, digits) = match trimmed {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, trimmed),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NumberFault::Syntax);
    }
    // Counted downwards, as the smallest bigint has no positive counterpart.
    let value = digits
        .iter()
        .try_fold(0_i64, |value, digit| value.checked_mul(10)?.checked_sub(i64::from(digit.wrapping_sub(b'0'))));
    let value = if negative { value } else { value.and_then(i64::checked_neg) };
    value.ok_or(NumberFault::Range)
}

/// Cuts what C's `isspace` takes for white space in the C locale.
fn trim_space(mut text: &[u8]) -> &[u8] {
    const SPACE: &[u8] = b" \t\n\x0b\x0c\r";
    while let [first, rest @ ..] = text
        && SPACE.contains(first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && SPACE.contains(last)
    {
        text = rest;
    }
    text
}

/// PostgreSQL's `uuid_in`: 32 hexadecimal digits of either case, a hyphen allowed after every four of them, braces around.
fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let mut rest = match text {
        [b'{', inner @ .., b'}'] => inner,
        _ => text,
    };
    let mut uuid = [0_u8; 16];
    for (i, byte) in uuid.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else { return None };
        *byte = hex_digit(*high)?.wrapping_shl(4) | hex_digit(*low)?;
        rest = match tail {
            [b'-', after @ ..] if i % 2 == 1 && i < 15 => after,
            _ => tail,
        };
    }
    rest.is_empty().then_some(uuid)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// A refused text for its error message: the beginning of it.
fn shown(text: &[u8]) -> String {
    let cut = text.get(..64).unwrap_or(text);
    String::from_utf8_lossy(cut).into_owned()
}

#[cfg(test)]
mod tests;
