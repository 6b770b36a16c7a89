//! The hashes of the keys in an array: `key = ANY ('{1,2}')`, `key = ANY ($1)`.
//!
//! Read as PostgreSQL's `array_in` and `array_recv` read a plain list. Anything else (more dimensions, other bounds, a value that is no
//! key) tells nothing, which is no error: all shards are asked then, and the server says what is wrong.

use super::{BoundParams, Key, format_of, type_of_name, type_of_oid};
use crate::shard::map::KeyType;
use crate::sql::facts::{KeyValue, LiteralKind};

/// Elements of an array that are looked at.
const MAX_ELEMENTS: usize = 10_000;

/// The hashes of all elements but NULL, which nothing is equal to; none if they cannot be told. The cast of `value` is that of the elements.
pub(in crate::shard) fn hashes(
    value: &KeyValue,
    key_type: KeyType,
    bound: Option<BoundParams<'_>>,
    utf8: bool,
) -> Option<Vec<u64>> {
    let element = |cast: Option<&str>| match cast.map(type_of_name) {
        None => Some(key_type),
        Some(to) => of_key(to?, key_type),
    };
    match value {
        KeyValue::Literal { kind: LiteralKind::String, text, cast } => of_text(text, element(cast.as_deref())?, utf8),
        KeyValue::Param { number, cast } => {
            let bound = bound?;
            let declared = match bound.declared(*number) {
                None => None,
                Some(oid) => Some(of_key(type_of_oid(element_of(oid)?)?, key_type)?),
            };
            let cast = element(cast.as_deref())?;
            let element = declared.unwrap_or(cast);
            match bound.values.get(usize::from(*number).checked_sub(1)?)? {
                // `= ANY (NULL)` is true of nothing.
                None => Some(Vec::new()),
                Some(bytes) => match format_of(bound.formats, *number) {
                    0 => of_text(std::str::from_utf8(bytes).ok()?, element, utf8),
                    1 => of_binary(bytes, key_type, utf8),
                    _ => None,
                },
            }
        }
        KeyValue::Null => Some(Vec::new()),
        KeyValue::Literal { .. } | KeyValue::Default | KeyValue::Expression => None,
    }
}

/// The type of elements, as keys of type `key_type`: a text is hashed as these are.
fn of_key(element: KeyType, key_type: KeyType) -> Option<KeyType> {
    let hashed = if element.is_text() { key_type } else { element };
    element.reads_as(key_type).then_some(hashed)
}

/// The type of the elements of an array type.
fn element_of(array: u32) -> Option<u32> {
    Some(match array {
        1005 => 21,
        1007 => 23,
        1016 => 20,
        1009 => 25,
        1015 => 1043,
        2951 => 2950,
        _ => return None,
    })
}

fn hash(text: &str, element: KeyType, utf8: bool) -> Option<u64> {
    Key::from_text(text.as_bytes(), element, utf8).ok().map(|key| key.hash())
}

/// See <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-INPUT>.
fn of_text(text: &str, element: KeyType, utf8: bool) -> Option<Vec<u64>> {
    let space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c');
    let mut rest = text.trim_matches(space).strip_prefix('{')?.strip_suffix('}')?.trim_matches(space);
    let mut hashes = Vec::new();
    while !rest.is_empty() {
        if hashes.len() >= MAX_ELEMENTS {
            return None;
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at.checked_add(1)?,
                    (_, '\\') => value.push(chars.next()?.1),
                    (_, c) => value.push(c),
                }
            };
            hashes.push(hash(&value, element, utf8)?);
            rest = quoted.get(end..)?.trim_start_matches(space);
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let value = rest.get(..end)?.trim_matches(space);
            if value.is_empty() || value.contains(['{', '}', '"', '\\']) {
                return None;
            }
            if !value.eq_ignore_ascii_case("null") {
                hashes.push(hash(value, element, utf8)?);
            } else if element.is_text() {
                // By the setting array_nulls it may be a text.
                return None;
            }
            rest = rest.get(end..)?;
        }
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix(',')?.trim_start_matches(space);
        if rest.is_empty() {
            return None;
        }
    }
    Some(hashes)
}

/// `array_send`: dimensions, whether there are NULLs, the type of the elements; for each dimension its length and first index; then the
/// elements with their lengths.
fn of_binary(bytes: &[u8], key_type: KeyType, utf8: bool) -> Option<Vec<u64>> {
    let mut rest = bytes;
    let mut int = || {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        Some(i32::from_be_bytes(*head))
    };
    let dimensions = int()?;
    int()?;
    let element = type_of_oid(int()?.cast_unsigned()).and_then(|element| of_key(element, key_type))?;
    if dimensions == 0 {
        return Some(Vec::new());
    }
    let count = usize::try_from(int()?).ok().filter(|count| dimensions == 1 && *count <= MAX_ELEMENTS)?;
    int()?;
    let mut hashes = Vec::new();
    for _ in 0..count {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else { continue };
        let (value, tail) = rest.split_at_checked(length)?;
        rest = tail;
        hashes.push(Key::from_binary_column(value, element, utf8).ok()?.hash());
    }
    rest.is_empty().then_some(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIGINT: KeyType = KeyType::Integer { width: 8 };

    fn of(keys: &[i64]) -> Option<Vec<u64>> {
        Some(keys.iter().map(|key| Key::Integer(*key).hash()).collect())
    }

    fn texts(keys: &[&str]) -> Option<Vec<u64>> {
        Some(keys.iter().map(|key| Key::Text(key.as_bytes()).hash()).collect())
    }

    #[test]
    fn texts_are_read_as_by_the_server_or_tell_nothing() {
        for (text, keys) in [
            ("{}", of(&[])),
            ("{1}", of(&[1])),
            (" { 1 , -2,\"3\" } ", of(&[1, -2, 3])),
            ("{1,NULL,2}", of(&[1, 2])),
            ("{null}", of(&[])),
            ("{{1,2}}", None),
            ("[2:3]={1,2}", None),
            ("{1,}", None),
            ("{,1}", None),
            ("{1 2}", None),
            ("{1.5}", None),
            ("{1,2", None),
            ("{1}{2}", None),
            ("1", None),
            ("", None),
            ("{9223372036854775808}", None),
        ] {
            assert_eq!(of_text(text, BIGINT, true), keys, "{text}");
        }
        for (text, keys) in [
            ("{a, b c ,\"d,}\\\"\\\\\"}", texts(&["a", "b c", "d,}\"\\"])),
            ("{\"NULL\",\"\"}", texts(&["NULL", ""])),
            ("{NULL}", None),
            ("{a\\b}", None),
            ("{a\"b\"}", None),
            ("{\"a\"b}", None),
            ("{\"a}", None),
        ] {
            assert_eq!(of_text(text, KeyType::Text, true), keys, "{text}");
        }
        assert_eq!(of_text("{ż}", KeyType::Text, false), None);
        // Of a tag alone, whatever the elements are declared or cast to be.
        let tagged = Some(vec![Key::Text(b"b").hash(), Key::Text(b"x").hash()]);
        assert_eq!(of_text("{a{b},x}", KeyType::Tagged, true), None, "braces must be quoted");
        assert_eq!(of_text("{\"a{b}\",x}", KeyType::Tagged, true), tagged);
        for (cast, types) in
            [(None, vec![]), (Some("text"), vec![]), (None, vec![1009_u32]), (Some("varchar"), vec![1015])]
        {
            let values: [Option<&[u8]>; 1] = [Some(b"{\"a{b}\",x}")];
            let bound = BoundParams { values: &values, formats: &[], types: &types };
            let value = KeyValue::Param { number: 1, cast: cast.map(str::to_owned) };
            assert_eq!(hashes(&value, KeyType::Tagged, Some(bound), true), tagged, "{cast:?} {types:?}");
        }
        assert_eq!(of_binary(&binary(25, &[Some(b"a{b}"), Some(b"x")]), KeyType::Tagged, true), tagged);
    }

    fn binary(element: u32, elements: &[Option<&[u8]>]) -> Vec<u8> {
        let mut out = vec![0, 0, 0, 1, 0, 0, 0, 1];
        out.extend_from_slice(&element.to_be_bytes());
        out.extend_from_slice(&u32::try_from(elements.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 1]);
        for element in elements {
            match element {
                None => out.extend_from_slice(&[255; 4]),
                Some(bytes) => {
                    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
                    out.extend_from_slice(bytes);
                }
            }
        }
        out
    }

    #[test]
    fn binary_arrays_are_read_whole_or_tell_nothing() {
        let int4 = binary(23, &[Some(&[0, 0, 0, 7]), None, Some(&[255; 4])]);
        assert_eq!(of_binary(&int4, BIGINT, true), of(&[7, -1]), "integers are one family");
        assert_eq!(of_binary(&int4, KeyType::Text, true), None);
        assert_eq!(of_binary(&binary(25, &[Some(b"ab")]), KeyType::Text, true), texts(&["ab"]));
        assert_eq!(of_binary(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20], BIGINT, true), of(&[]));
        assert_eq!(of_binary(&binary(20, &[Some(&[0, 0, 0, 7])]), BIGINT, true), None, "a length that is none");
        for cut in 0..int4.len() {
            assert_eq!(of_binary(&int4[..cut], BIGINT, true), None, "{cut}");
        }
        let mut two = int4;
        two[3] = 2;
        assert_eq!(of_binary(&two, BIGINT, true), None, "two dimensions");
    }

    #[test]
    fn parameters_have_the_type_that_is_declared_or_the_keys() {
        let value = |cast: Option<&str>| KeyValue::Param { number: 1, cast: cast.map(str::to_owned) };
        let read = |cast, types: &[u32], key_type| {
            let bound = BoundParams { values: &[Some(b"{1,2}")], formats: &[], types };
            hashes(&value(cast), key_type, Some(bound), true)
        };
        assert_eq!(read(None, &[], BIGINT), of(&[1, 2]));
        assert_eq!(read(None, &[1007], BIGINT), of(&[1, 2]));
        assert_eq!(read(Some("int4"), &[], BIGINT), of(&[1, 2]));
        assert_eq!(read(None, &[1231], BIGINT), None, "numeric[]");
        assert_eq!(read(Some("numeric"), &[], BIGINT), None);
        assert_eq!(read(None, &[], KeyType::Text), texts(&["1", "2"]));
        assert_eq!(read(None, &[1016], KeyType::Text), None);
        let null = BoundParams { values: &[None], formats: &[], types: &[] };
        assert_eq!(hashes(&value(None), BIGINT, Some(null), true), of(&[]));
        assert_eq!(hashes(&value(None), BIGINT, None, true), None);
    }
}
