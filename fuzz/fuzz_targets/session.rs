//! Any messages of a client and of a server, interleaved in any way: no panic, and a server that is not in step is found out.
//!
//! CVE class: messages out of their order.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pgweir::session::prepared::Registry;
use pgweir::session::settings::ClientSettings;
use pgweir::session::{Keep, ServerState, Session};
use pgweir::wire::{encode, frame};

fuzz_target!(|data: &[u8]| {
    let registry = Registry::default();
    let mut session = Session::new(Keep::Transaction, true, ClientSettings::default());
    let mut server = ServerState::new(2);
    let mut out = Vec::new();
    let mut rest = data;
    // Each step: one byte for the side and the length of the body, one for the type, the body.
    while let [head, tag, tail @ ..] = rest {
        let (body, after) = tail.split_at((usize::from(*head) >> 1).min(tail.len()));
        rest = after;
        if head & 1 == 0 {
            let mut bytes = Vec::new();
            encode::frame(&mut bytes, *tag, |b| b.extend_from_slice(body));
            let Ok(Some(frame)) = frame::next(&bytes, 1 << 16) else { continue };
            let Ok(intake) = session.intake(frame, &registry, |_, _| Arc::default(), |_, _| None) else { return };
            session.forward(intake, &bytes, &mut server, &mut out);
        } else if session.on_server(*tag, body, &mut server).is_err() {
            session.on_server_lost(&mut server);
            server = ServerState::new(2);
        }
        session.take_local(&mut out);
        assert!(!session.may_release() || session.is_drained());
    }
});
