use proptest::prelude::*;

use super::*;

const INT2: KeyType = KeyType::Integer { width: 2 };
const INT4: KeyType = KeyType::Integer { width: 4 };
const INT8: KeyType = KeyType::Integer { width: 8 };

fn code(result: Result<Key<'_>, KeyError>) -> String {
    match result {
        Err(KeyError::Invalid(error)) => error.sqlstate.to_string(),
        other => format!("{other:?}"),
    }
}

fn literal(kind: LiteralKind, text: &str, cast: Option<&str>) -> KeyValue {
    KeyValue::Literal { kind, text: text.to_owned(), cast: cast.map(str::to_owned) }
}

fn read(value: &KeyValue, key_type: KeyType) -> Result<Key<'_>, KeyError> {
    Key::from_value(value, key_type, None, true)
}

#[test]
fn integers_follow_int8in() {
    for (text, value) in [
        ("0", 0),
        ("-0", 0),
        ("+7", 7),
        (" \t\n\x0b\x0c\r42 ", 42),
        ("0000000000000000000000000001", 1),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(Key::from_text(text.as_bytes(), INT8, true), Ok(Key::Integer(value)), "{text}");
    }
    for text in ["", " ", "-", "+-1", "- 1", "1 2", "1.0", "1e3", "0x1F", "1_000", "a", "1\u{a0}", "--1"] {
        assert_eq!(code(Key::from_text(text.as_bytes(), INT8, true)), "22P02", "{text}");
    }
    for (text, key_type) in [
        ("9223372036854775808", INT8),
        ("-9223372036854775809", INT8),
        ("99999999999999999999999", INT8),
        ("2147483648", INT4),
        ("-2147483649", INT4),
        ("32768", INT2),
    ] {
        assert_eq!(code(Key::from_text(text.as_bytes(), key_type, true)), "22003", "{text}");
    }
    let Err(KeyError::Invalid(error)) = Key::from_text(b"x", INT4, true) else { panic!("taken") };
    assert_eq!(error.message, "invalid input syntax for type integer: \"x\"");
}

#[test]
fn uuids_follow_uuid_in() {
    let uuid = 0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11_u128.to_be_bytes();
    for text in [
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
        "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
    ] {
        assert_eq!(Key::from_text(text.as_bytes(), KeyType::Uuid, true), Ok(Key::Uuid(uuid)), "{text}");
    }
    for text in [
        "",
        " a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0eebc999c0b4ef8bb6d6bb9bd380a11 ",
        "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0eebc999c0b4ef8bb6d6bb9bd380a11}",
        "a0eebc999c0b4ef8bb6d6bb9bd380a1",
        "a0eebc999c0b4ef8bb6d6bb9bd380a111",
        "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
        "a0-eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0ee--bc999c0b4ef8bb6d6bb9bd380a11",
        "-a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "g0eebc999c0b4ef8bb6d6bb9bd380a11",
        "{}",
        "{",
    ] {
        assert_eq!(code(Key::from_text(text.as_bytes(), KeyType::Uuid, true)), "22P02", "{text}");
    }
}

#[test]
fn a_literal_takes_the_type_of_the_key() {
    use LiteralKind::{Float, Integer, Other, String};
    let uuid_text = "00000000000000000000000000000001";
    let uuid = Key::Uuid(1_u128.to_be_bytes());
    for (kind, text, cast, key_type, expected) in [
        (Integer, "123", None, INT8, Key::Integer(123)),
        (String, "123", None, INT8, Key::Integer(123)),
        (String, "123", None, KeyType::Text, Key::Text(b"123")),
        (String, " 123 ", None, KeyType::Text, Key::Text(b" 123 ")),
        (String, "x", Some("varchar"), KeyType::Text, Key::Text(b"x")),
        (String, "x", Some("text"), KeyType::Text, Key::Text(b"x")),
        (String, "{x}y", None, KeyType::Tagged, Key::Tagged(b"{x}y")),
        (String, "{x}y", Some("text"), KeyType::Tagged, Key::Tagged(b"{x}y")),
        (String, "7", Some("int4"), INT8, Key::Integer(7)),
        (Integer, "-7", Some("smallint"), INT8, Key::Integer(-7)),
        (Integer, "70000", Some("bigint"), INT2, Key::Integer(70000)),
        // Wider than the column: matches nothing, or the server refuses it; either way no other row is touched.
        (Integer, "3000000000", None, INT4, Key::Integer(3_000_000_000)),
        (String, uuid_text, None, KeyType::Uuid, uuid),
        (String, uuid_text, Some("uuid"), KeyType::Uuid, uuid),
    ] {
        assert_eq!(read(&literal(kind, text, cast), key_type), Ok(expected), "{text} {cast:?}");
    }
    for (kind, text, cast, key_type) in [
        (Integer, "123", None, KeyType::Text),
        (Integer, "123", Some("text"), KeyType::Text),
        (Integer, "1", None, KeyType::Uuid),
        (Integer, "9223372036854775808", None, INT8),
        (Integer, "0x10", None, INT8),
        (Float, "1.0", None, INT8),
        (Float, "4.6", Some("int4"), INT8),
        (Other, "true", None, KeyType::Text),
        (String, "1", Some("text"), INT8),
        (String, "1", Some("numeric"), INT8),
        (String, "x", Some("bpchar"), KeyType::Text),
        (String, "x", Some("char"), KeyType::Text),
        (String, uuid_text, Some("text"), KeyType::Uuid),
        (String, "x", Some("int4"), KeyType::Text),
    ] {
        let value = literal(kind, text, cast);
        assert!(matches!(read(&value, key_type), Err(KeyError::NotConstant(_))), "{text} {cast:?}");
    }
    for (kind, text, cast, key_type, state) in [
        (String, "3000000000", None, INT4, "22003"),
        (Integer, "70000", Some("int2"), INT8, "22003"),
        (String, "70000", Some("int2"), INT8, "22003"),
        (String, "abc", None, INT8, "22P02"),
        (String, "abc", None, KeyType::Uuid, "22P02"),
    ] {
        assert_eq!(code(read(&literal(kind, text, cast), key_type)), state, "{text} {cast:?}");
    }
}

#[test]
fn null_default_and_expressions_are_no_keys() {
    assert_eq!(read(&KeyValue::Null, INT8), Err(KeyError::Null));
    assert_eq!(read(&KeyValue::Default, INT8), Err(KeyError::Default));
    assert!(matches!(read(&KeyValue::Expression, INT8), Err(KeyError::NotConstant(_))));
}

#[test]
fn text_beyond_ascii_needs_utf8() {
    let value = literal(LiteralKind::String, "żółć", None);
    assert_eq!(Key::from_value(&value, KeyType::Text, None, true), Ok(Key::Text("żółć".as_bytes())));
    assert!(matches!(Key::from_value(&value, KeyType::Text, None, false), Err(KeyError::NotConstant(_))));
    let ascii = literal(LiteralKind::String, "abc", None);
    assert_eq!(Key::from_value(&ascii, KeyType::Text, None, false), Ok(Key::Text(b"abc")));
}

/// One parameter: its bytes, format, declared type and cast.
fn param(
    bytes: Option<&[u8]>,
    format: i16,
    declared: u32,
    cast: Option<&str>,
    key_type: KeyType,
) -> Result<Key<'static>, KeyError> {
    let value = KeyValue::Param { number: 2, cast: cast.map(str::to_owned) };
    let values = [None, bytes];
    let bound = BoundParams { values: &values, formats: &[0, format], types: &[0, declared] };
    match Key::from_value(&value, key_type, Some(bound), true)? {
        Key::Integer(value) => Ok(Key::Integer(value)),
        Key::Uuid(bytes) => Ok(Key::Uuid(bytes)),
        Key::Text(bytes) => Ok(Key::Text(bytes.to_vec().leak())),
        Key::Tagged(bytes) => Ok(Key::Tagged(bytes.to_vec().leak())),
    }
}

#[test]
fn parameters_in_text_and_binary() {
    let uuid = 1_u128.to_be_bytes();
    let uuid_text: &[u8] = b"{00000000-0000-0000-0000-000000000001}";
    let minus_two = (-2_i64).to_be_bytes();
    for (bytes, format, declared, cast, key_type, expected) in [
        (&b" 42"[..], 0, 0, None, INT8, Key::Integer(42)),
        (b"42", 0, 705, None, INT8, Key::Integer(42)),
        (b"42", 0, 23, None, INT8, Key::Integer(42)),
        (b"42", 0, 20, None, INT2, Key::Integer(42)),
        (b"42", 0, 20, Some("int4"), INT8, Key::Integer(42)),
        (b"42", 0, 25, Some("int8"), INT8, Key::Integer(42)),
        (b"42", 1, 1043, Some("int8"), INT8, Key::Integer(42)),
        (&minus_two, 1, 0, None, INT8, Key::Integer(-2)),
        (&minus_two, 1, 20, None, INT4, Key::Integer(-2)),
        (&minus_two[4..], 1, 23, None, INT8, Key::Integer(-2)),
        (&minus_two[4..], 1, 0, None, INT4, Key::Integer(-2)),
        // Of the width that another use has given it.
        (&minus_two[4..], 1, 0, None, INT8, Key::Integer(-2)),
        (&minus_two[4..], 1, 0, Some("int4"), INT8, Key::Integer(-2)),
        (&minus_two[6..], 1, 21, None, INT8, Key::Integer(-2)),
        (b"42", 0, 0, None, KeyType::Text, Key::Text(b"42")),
        (b"42", 1, 0, None, KeyType::Text, Key::Text(b"42")),
        (b"42", 1, 1043, Some("text"), KeyType::Text, Key::Text(b"42")),
        (b"{4}2", 0, 0, None, KeyType::Tagged, Key::Tagged(b"{4}2")),
        (b"{4}2", 1, 25, None, KeyType::Tagged, Key::Tagged(b"{4}2")),
        (b"{4}2", 1, 1043, Some("text"), KeyType::Tagged, Key::Tagged(b"{4}2")),
        (b"", 0, 25, None, KeyType::Text, Key::Text(b"")),
        (&uuid, 1, 2950, None, KeyType::Uuid, Key::Uuid(uuid)),
        (&uuid, 1, 0, None, KeyType::Uuid, Key::Uuid(uuid)),
        (uuid_text, 0, 0, None, KeyType::Uuid, Key::Uuid(uuid)),
        (uuid_text, 0, 1043, Some("uuid"), KeyType::Uuid, Key::Uuid(uuid)),
    ] {
        let read = param(Some(bytes), format, declared, cast, key_type);
        assert_eq!(read, Ok(expected), "{bytes:?} {format} {declared} {cast:?}");
    }
}

#[test]
fn parameters_that_are_refused() {
    for (bytes, format, declared, cast, key_type, state) in [
        (&b"x"[..], 0, 0, None, INT8, "22P02"),
        (b"70000", 0, 21, None, INT8, "22003"),
        (b"70000", 0, 20, Some("int2"), INT8, "22003"),
        (&70000_i64.to_be_bytes(), 1, 20, Some("int2"), INT8, "22003"),
        (b"123", 1, 0, None, INT8, "22P03"),
        (b"1234", 1, 20, None, INT8, "22P03"),
        (b"12345678", 1, 23, None, INT8, "22P03"),
        (b"", 1, 21, None, INT8, "22P03"),
        (b"123456789012345", 1, 0, None, KeyType::Uuid, "22P03"),
        (b"nope", 0, 2950, None, KeyType::Uuid, "22P02"),
    ] {
        assert_eq!(code(param(Some(bytes), format, declared, cast, key_type)), state, "{bytes:?} {declared} {cast:?}");
    }
    for (declared, cast, key_type) in [
        // float8, numeric and bpchar are compared or stored in ways that are not ours to guess.
        (701, None, INT8),
        (1700, Some("int8"), INT8),
        (1042, None, KeyType::Text),
        (25, None, INT8),
        (23, None, KeyType::Text),
        (23, Some("text"), KeyType::Text),
        (0, Some("text"), INT8),
        (20, Some("uuid"), KeyType::Uuid),
        (23, Some("text"), KeyType::Tagged),
    ] {
        let read = param(Some(b"12345678"), 1, declared, cast, key_type);
        assert!(matches!(read, Err(KeyError::NotConstant(_))), "{declared} {cast:?}");
    }
    assert_eq!(param(None, 0, 0, None, INT8), Err(KeyError::Null));
    assert!(matches!(param(Some(b"1"), 2, 0, None, INT8), Err(KeyError::NotConstant(_))));
}

#[test]
fn parameters_that_are_not_there() {
    let value = KeyValue::Param { number: 1, cast: None };
    assert_eq!(read(&value, INT8), Err(KeyError::Unbound(1)));
    let bound = BoundParams { values: &[], formats: &[], types: &[] };
    assert_eq!(code(Key::from_value(&value, INT8, Some(bound), true)), "08P01");
    let zero = KeyValue::Param { number: 0, cast: None };
    let bound = BoundParams { values: &[Some(b"1")], formats: &[], types: &[] };
    assert_eq!(code(Key::from_value(&zero, INT8, Some(bound), true)), "08P01");
    // One format code stands for all.
    let bound = BoundParams { values: &[Some(&[0, 0, 0, 9])], formats: &[1], types: &[] };
    assert_eq!(Key::from_value(&value, INT4, Some(bound), true), Ok(Key::Integer(9)));
    // A cast that no value can satisfy is refused without the value.
    let cast = KeyValue::Param { number: 1, cast: Some("text".into()) };
    assert!(matches!(read(&cast, INT8), Err(KeyError::NotConstant(_))));
}

proptest! {
    #[test]
    fn every_form_of_an_integer_agrees(value: i64, narrow: i16) {
        for value in [value, i64::from(narrow)] {
            let text = value.to_string();
            let number = literal(LiteralKind::Integer, &text, None);
            let string = literal(LiteralKind::String, &text, Some("int8"));
            let key = Key::Integer(value);
            prop_assert_eq!(read(&number, INT8), Ok(key));
            prop_assert_eq!(read(&string, INT8), Ok(key));
            prop_assert_eq!(param(Some(text.as_bytes()), 0, 0, None, INT8), Ok(key));
            prop_assert_eq!(param(Some(&value.to_be_bytes()), 1, 20, None, INT8), Ok(key));
            prop_assert!(key.slot().0 < 16384);
        }
        prop_assert_eq!(param(Some(&narrow.to_be_bytes()), 1, 21, None, INT8), Ok(Key::Integer(narrow.into())));
    }

    /// PostgreSQL's integer syntax is what Rust reads, plus white space.
    #[test]
    fn integers_agree_with_rust(text in "[-+0-9 x]{0,22}") {
        let ours = Key::from_text(text.as_bytes(), INT8, true).ok();
        prop_assert_eq!(ours, text.trim_ascii().parse().ok().map(Key::Integer));
    }

    #[test]
    fn every_form_of_a_uuid_agrees(value: u128, hyphens: [bool; 7], braces: bool, upper: bool) {
        let digits = format!("{value:032x}");
        let mut text = String::new();
        for (i, group) in digits.as_bytes().chunks(4).enumerate() {
            text.push_str(std::str::from_utf8(group).unwrap());
            if hyphens.get(i).copied().unwrap_or(false) { text.push('-'); }
        }
        if upper { text.make_ascii_uppercase(); }
        if braces { text = format!("{{{text}}}"); }
        let key = Key::Uuid(value.to_be_bytes());
        prop_assert_eq!(Key::from_text(text.as_bytes(), KeyType::Uuid, true), Ok(key));
        prop_assert_eq!(param(Some(&value.to_be_bytes()), 1, 2950, None, KeyType::Uuid), Ok(key));
    }

    /// No bytes of a client's make the reader fail otherwise than by an error.
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, format in -1_i16..3, declared in 0_u32..3000, utf8: bool) {
        let value = KeyValue::Param { number: 1, cast: None };
        let values = [Some(bytes.as_slice())];
        let formats = [format];
        let types = [declared];
        let bound = BoundParams { values: &values, formats: &formats, types: &types };
        for key_type in [INT2, INT4, INT8, KeyType::Text, KeyType::Tagged, KeyType::Uuid] {
            if let Ok(key) = Key::from_value(&value, key_type, Some(bound), utf8) {
                prop_assert!(key.slot().0 < 16384);
            }
        }
    }
}
