//! Any first packet: understood or refused, never a panic, and never more read than it has.
//!
//! CVE class: lengths that overflow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::wire::startup::{self, Initial};

fuzz_target!(|data: &[u8]| {
    let _ = startup::packet_len(data);
    if let Ok(Initial::Startup(mut s)) = startup::parse(data) {
        let _ = s.take_options(None);
        assert!(!s.user.is_empty() && !s.database.is_empty());
        assert!(s.settings.iter().all(|(n, _)| n.chars().all(|c| !c.is_ascii_uppercase())));
    }
    let mut framed = vec![0, 0, 0, 0, 0, 3, 0, 0];
    framed.extend_from_slice(data);
    let _ = startup::parse(&framed);
});
