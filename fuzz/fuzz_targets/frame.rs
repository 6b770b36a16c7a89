//! Any bytes: the same frames whatever the split, and no view of a body that panics.
//!
//! CVE class: a peer's bytes that make it panic. CVE class: lengths that overflow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::wire::{frame, message};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let mut taken = 0;
    while let Ok(Some(f)) = frame::next(rest, 1 << 16) {
        taken += f.bytes.len();
        let body = f.body();
        let _ = (message::query(body), message::target(body), message::execute(body), message::ready_for_query(body));
        let _ = (message::parameter_status(body), message::backend_key(body), message::command_complete(body));
        if let Some(parse) = message::parse(body) {
            assert_eq!(parse.oids().len() * 4 + 2, parse.types.len());
        }
        if let Some(parameters) = message::bind(body).and_then(|b| b.parameters()) {
            assert!(parameters.values.len() <= body.len());
        }
        assert!(message::error_fields(body).count() <= body.len());
        rest = &rest[f.bytes.len()..];
    }
    assert_eq!(taken + rest.len(), data.len());
});
