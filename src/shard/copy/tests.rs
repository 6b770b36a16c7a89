//! Any cut of the data gives the same rows, and the key is the value that the server reads.

use super::*;
use crate::error::Result;
use crate::id::Slot;
use crate::shard::key::Key;
use crate::shard::map::KeyType;
use proptest::collection::vec;
use proptest::prelude::*;

/// Splits data that come in pieces of so many bytes, in turns.
fn split(
    layout: &Layout,
    place: usize,
    key_type: KeyType,
    data: &[u8],
    pieces: &[usize],
) -> Result<Vec<(Target, Vec<u8>)>> {
    let mut splitter = Splitter::new(layout.clone(), place, key_type, true)?;
    let mut out: Vec<(Target, Vec<u8>)> = Vec::new();
    let mut sink = |target, bytes: &[u8]| out.push((target, bytes.to_vec()));
    let mut rest = data;
    for size in pieces.iter().cycle() {
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        splitter.push(piece, &mut sink)?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    splitter.finish(&mut sink)?;
    Ok(out)
}

fn slot(text: &str) -> Target {
    Target::Slot(Key::Text(text.as_bytes()).slot())
}

/// The slots of rows whose key is a text in the second column.
fn slots(layout: &Layout, data: &str) -> Vec<Target> {
    let rows = split(layout, 1, KeyType::Text, data.as_bytes(), &[3]).unwrap_or_else(|e| panic!("{data:?}: {e}"));
    assert_eq!(rows.iter().flat_map(|(_, row)| row.clone()).collect::<Vec<_>>(), data.as_bytes(), "all is passed on");
    rows.into_iter().map(|(target, _)| target).collect()
}

#[test]
fn keys_are_what_the_server_reads() {
    let text = Layout::text();
    assert_eq!(
        slots(&text, "1\ta\n2\t\\141\tx\n3\t\\x61b\r\t\n".replace("\r", "").as_str()),
        ["a", "a", "ab"].map(slot)
    );
    assert_eq!(slots(&text, "1\ta\\\nb\n2\ta\\tb\n3\t\n4\t\\\\\\q"), ["a\nb", "a\tb", "", "\\q"].map(slot));
    assert_eq!(slots(&text, "\\\t\tkey\tx\n"), ["key"].map(slot));
    assert_eq!(slots(&text, "1\ta\r\n2\tb\r\n"), ["a", "b"].map(slot));
    assert_eq!(slots(&text, "1\ta\r2\tb\r3\tc"), ["a", "b", "c"].map(slot));
    let csv = Layout::csv();
    assert_eq!(slots(&csv, "1,a\n2,\"a\nb\"\n\"x,\"\"y\",b,c\n4,\"\"\n"), ["a", "a\nb", "b", ""].map(slot));
    assert_eq!(slots(&csv, "1,a\"b,\"\"\"c\n"), ["ab,\"c"].map(slot));
    assert_eq!(slots(&csv, "1,\\.\n\\.x,b\n"), ["\\.", "b"].map(slot));
    let odd = Layout::Csv { delimiter: b';', quote: b'\'', escape: b'\\', null: b"none".to_vec(), header: true };
    assert_eq!(slots(&odd, "a;b\n1;'it\\'s \\\\'x\n2;'none'\n"), [Target::All, slot("it's \\x"), slot("none")]);
}

#[test]
fn the_marker_ends_the_data() {
    for layout in [Layout::text(), Layout::csv()] {
        let row = if layout == Layout::text() { "1\ta\n" } else { "1,a\n" };
        for pieces in [1, 2, 100] {
            let data = format!("{row}\\.\nwhat ever\tfollows");
            let rows = split(&layout, 1, KeyType::Text, data.as_bytes(), &[pieces]).unwrap();
            assert_eq!(rows, [(slot("a"), row.as_bytes().to_vec())]);
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let refused = |layout: &Layout, key_type, data: &[u8]| {
        split(layout, 1, key_type, data, &[100]).err().unwrap_or_else(|| panic!("{data:?} is taken")).sqlstate
    };
    let (text, csv, number) = (Layout::text(), Layout::csv(), KeyType::Integer { width: 4 });
    assert_eq!(refused(&text, number, b"1\n").as_str(), "22P04");
    assert_eq!(refused(&text, number, b"1\tx\n").as_str(), "22P02");
    assert_eq!(refused(&text, number, b"1\t3000000000\n").as_str(), "22003");
    assert_eq!(refused(&text, number, b"1\t\\N\n"), SqlState::FEATURE_NOT_SUPPORTED);
    assert_eq!(refused(&csv, number, b"1,,\n"), SqlState::FEATURE_NOT_SUPPORTED);
    assert_eq!(refused(&text, KeyType::Text, b"1\ta \n"), SqlState::FEATURE_NOT_SUPPORTED);
    assert_eq!(refused(&text, KeyType::Text, b"1\ta\n2\tb\r\n").as_str(), "22P04");
    assert_eq!(refused(&text, KeyType::Text, b"1\ta\\.\n").as_str(), "22P04");
    assert_eq!(refused(&text, KeyType::Text, b"1\t\\377\n").as_str(), "22021");
    assert_eq!(refused(&text, KeyType::Text, b"1\ta\\").as_str(), "22P04");
    assert_eq!(refused(&text, KeyType::Text, b"1\ta\n\\.\r\n").as_str(), "22P04");
    assert_eq!(refused(&csv, KeyType::Text, b"1,\"a\n").as_str(), "22P04");
    assert_eq!(refused(&Layout::Binary, number, b"PGCOPY\n\xff\r\nx").as_str(), "22P04");
    assert!(Splitter::new(Layout::text(), 0, number, false).is_err());
}

fn binary(rows: &[(i32, Option<Vec<u8>>)]) -> Vec<u8> {
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for (key, value) in rows {
        data.extend([0, 2, 0, 0, 0, 4]);
        data.extend(key.to_be_bytes());
        data.extend(value.as_ref().map_or(-1, |v| v.len() as i32).to_be_bytes());
        data.extend(value.iter().flatten());
    }
    data.extend((-1_i16).to_be_bytes());
    data
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(data in "[a\"'\\\\,\t\r\n.1N]{0,40}", pieces in vec(1_usize..9, 1..5), csv: bool) {
        let layout = if csv { Layout::csv() } else { Layout::text() };
        let whole = split(&layout, 0, KeyType::Text, data.as_bytes(), &[1000]);
        prop_assert_eq!(split(&layout, 0, KeyType::Text, data.as_bytes(), &pieces), whole);
    }

    #[test]
    fn binary_rows_go_by_their_keys(
        rows in vec((any::<i32>(), proptest::option::of(vec(any::<u8>(), 0..9))), 0..9), pieces in vec(1_usize..30, 1..5),
    ) {
        let data = binary(&rows);
        let parts = split(&Layout::Binary, 0, KeyType::Integer { width: 4 }, &data, &pieces).unwrap();
        let slots: Vec<Slot> = rows.iter().map(|(key, _)| Key::Integer(i64::from(*key)).slot()).collect();
        let targets: Vec<Target> = [Target::All].into_iter().chain(slots.into_iter().map(Target::Slot)).chain([Target::All]).collect();
        prop_assert_eq!(parts.iter().map(|(target, _)| *target).collect::<Vec<_>>(), targets);
        prop_assert_eq!(parts.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<_>>(), data);
    }

    #[test]
    fn any_bytes_are_split_or_refused(data in vec(any::<u8>(), 0..60), signed: bool, pieces in vec(1_usize..9, 1..4)) {
        let data = if signed { [&binary(&[])[..19], &data].concat() } else { data };
        for layout in [Layout::text(), Layout::csv(), Layout::Binary] {
            drop(split(&layout, 1, KeyType::Integer { width: 8 }, &data, &pieces));
        }
    }
}

#[test]
fn streams_of_shards_become_one() {
    let mut csv =
        Joiner::new(&Layout::Csv { delimiter: b',', quote: b'"', escape: b'"', null: vec![], header: true }, 2);
    let mut out = Vec::new();
    for (shard, message) in [(1, "k,v\n"), (1, "1,a\n"), (0, "k,v\n"), (0, "2,b\n"), (1, "3,c\n")] {
        out.extend(csv.pass(shard, message.as_bytes()).unwrap().unwrap_or_default());
    }
    assert_eq!((out.as_slice(), csv.rows(), csv.end()), (b"k,v\n1,a\n2,b\n3,c\n".as_slice(), 3, None));

    // Of three shards the first to speak has no rows.
    let header = &binary(&[])[..19];
    let row = |key: i32| binary(&[(key, None)])[19..][..14].to_vec();
    let trailer = [255, 255];
    let mut joined = Joiner::new(&Layout::Binary, 3);
    let mut out: Vec<u8> = Vec::new();
    for (shard, message) in [
        (2, [header, &trailer].concat()),
        (0, [header, &row(1)].concat()),
        (0, row(2)),
        (1, [header, &row(3)].concat()),
        (1, trailer.to_vec()),
        (0, trailer.to_vec()),
    ] {
        out.extend(joined.pass(shard, &message).unwrap().unwrap_or_default());
    }
    out.extend(joined.end().unwrap());
    assert_eq!(out, binary(&[(1, None), (2, None), (3, None)]));
    assert_eq!(joined.rows(), 3);
}
