//! How fast frames are told apart and messages read.

use divan::{Bencher, black_box};
use pgweir::wire::{encode, frame, message};

fn main() {
    divan::main();
}

fn rows(n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for i in 0..n {
        encode::data_row(&mut out, &[Some(i.to_string()), Some("some text of usual length".to_owned())]);
    }
    out
}

#[divan::bench(args = [1, 100, 1000])]
fn walk_rows(bencher: Bencher<'_, '_>, n: usize) {
    let bytes = rows(n);
    bencher.counter(divan::counter::BytesCount::new(bytes.len())).bench(|| {
        let mut rest = black_box(&bytes[..]);
        let mut count = 0;
        while let Ok(Some(f)) = frame::next(rest, 1 << 30) {
            count += 1;
            rest = &rest[f.bytes.len()..];
        }
        count
    });
}

#[divan::bench]
fn read_bind(bencher: Bencher<'_, '_>) {
    let mut out = Vec::new();
    encode::bind(&mut out, b"", b"statement", &[0, 0, 0, 1, 0, 0, 0, 2, b'4', b'2', 0, 0]);
    bencher.bench(|| message::bind(black_box(&out[5..])).and_then(|b| b.parameters()));
}
