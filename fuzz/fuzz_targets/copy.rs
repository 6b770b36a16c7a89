//! Any bytes as the data of COPY, cut in any way: no panic, nothing lost or doubled, and the cuts do not matter.
//!
//! CVE class: a peer's bytes that make it panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::error::Result;
use pgweir::shard::copy::{Layout, Splitter, Target};
use pgweir::shard::map::KeyType;

/// The rows and where they go, of data that come in pieces of `size` bytes.
fn split(layout: &Layout, place: usize, key_type: KeyType, data: &[u8], size: usize) -> Result<Vec<(Target, Vec<u8>)>> {
    let mut splitter = Splitter::new(layout.clone(), place, key_type, true)?;
    let mut out = Vec::new();
    let mut sink = |target, bytes: &[u8]| out.push((target, bytes.to_vec()));
    for piece in data.chunks(size) {
        splitter.push(piece, &mut sink)?;
    }
    splitter.finish(&mut sink)?;
    Ok(out)
}

fuzz_target!(|data: &[u8]| {
    // Two bytes choose the rest.
    let [kind, size, data @ ..] = data else { return };
    let layout = match kind % 4 {
        0 => Layout::text(),
        1 => Layout::csv(),
        2 => Layout::Csv { delimiter: b';', quote: b'\'', escape: b'\\', null: b"\\N".to_vec(), header: true },
        _ => Layout::Binary,
    };
    let key_type = if kind & 4 == 0 { KeyType::Text } else { KeyType::Integer { width: 8 } };
    let place = usize::from(kind >> 6);
    let whole = split(&layout, place, key_type, data, data.len().max(1));
    let in_pieces = split(&layout, place, key_type, data, usize::from(*size).max(1));
    assert_eq!(whole, in_pieces);
    if let Ok(rows) = whole {
        let joined: Vec<u8> = rows.into_iter().flat_map(|(_, row)| row).collect();
        assert!(data.starts_with(&joined));
    }
});
