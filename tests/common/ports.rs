//! Ports that no other test takes.
//!
//! Binding port 0 and letting go of it invites a race: the kernel may hand it to the next test or to an outgoing
//! connection. These lie below the usual ephemeral range and are claimed by a lock on a file, which the kernel
//! drops with the process.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 21_000;
const COUNT: u32 = 10_000;

/// A TCP port of 127.0.0.1, ours while this value or a clone of it lives.
#[derive(Debug, Clone)]
pub struct Port {
    number: u16,
    _lock: Arc<File>,
}

impl Port {
    /// Claims a port on which nobody listens.
    pub fn claim() -> Self {
        static TURN: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!("pgweir-test-ports-{}", nix::unistd::geteuid()));
        fs::create_dir_all(&dir).unwrap();
        // Another process starts its search elsewhere.
        let start = std::process::id().wrapping_mul(7919);
        for _ in 0..COUNT {
            let turn = TURN.fetch_add(1, Ordering::Relaxed);
            let number = u16::try_from(FIRST + start.wrapping_add(turn) % COUNT).unwrap();
            let lock = File::create(dir.join(number.to_string())).unwrap();
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: Arc::new(lock) };
            }
        }
        panic!("no free port from {FIRST} on");
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
