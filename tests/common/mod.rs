//! The test kit: real PostgreSQL clusters, the pgweir binary, a raw client, a scripted server and the usual tools.
//!
//! Every integration test says `mod common;`. Nothing here shares code with the crate's own `wire` module, so
//! that a mistake there cannot hide itself. All of it blocks; there is no runtime to set up.
//!
//! What a test starts is stopped when its handle is dropped, also by a panic, and a watchdog process ([`guard`])
//! does the same when the test process itself is killed.

#![allow(dead_code, unreachable_pub, reason = "each test binary compiles this module and uses only a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step of the test kit is a failed test")]
#![allow(clippy::print_stderr, reason = "logs are shown with the test that failed")]

pub mod certs;
pub mod cluster;
pub mod fake;
pub mod guard;
pub mod install;
pub mod names;
pub mod ports;
pub mod raw;
pub mod tools;
pub mod weir;
pub mod wire;

use std::time::Duration;

/// Asks which process of the server answers: `pg_backend_pid()` alone would tell who the client is.
pub const SERVER_PID: &str = "SELECT pid FROM pg_stat_get_activity(pg_backend_pid())";

/// Polls `probe` every 5 ms until it yields a value; panics, naming `what`, after `timeout`.
pub fn eventually<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = pgweir::clock::now() + timeout;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(pgweir::clock::now() < deadline, "not within {timeout:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
