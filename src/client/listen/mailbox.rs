//! What a client was sent and has not taken yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::client::shared::ClientHandle;
use crate::error::{Error, SqlState};
use crate::wire::encode;

/// How many bytes of notifications may wait for a client.
const ROOM: usize = 4 << 20;

/// The mailbox of one client.
#[derive(Debug)]
pub(super) struct Mailbox {
    pub(super) client: Arc<ClientHandle>,
    /// Whether there is something to see to.
    filled: AtomicBool,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// NotificationResponse messages.
    messages: Vec<u8>,
    /// They are more than ASCII.
    beyond_ascii: bool,
    /// Why nothing more comes.
    fate: Option<Error>,
}

impl Mailbox {
    /// An empty one.
    pub(super) fn new(client: Arc<ClientHandle>) -> Arc<Self> {
        Arc::new(Self { client, filled: AtomicBool::new(false), inside: Mutex::default() })
    }

    /// A notification by `pid`; `rest` is its channel and payload as they stand in the message.
    pub(super) fn put(&self, pid: u32, rest: &[u8]) {
        let mut inside = self.inside.lock();
        if inside.fate.is_some() {
            return;
        }
        if inside.messages.len().saturating_add(rest.len()) > ROOM {
            inside.messages = Vec::new();
            inside.fate = Some(overflows());
        } else {
            inside.beyond_ascii |= !rest.is_ascii();
            encode::frame(&mut inside.messages, b'A', |body| {
                body.extend_from_slice(&pid.to_be_bytes());
                body.extend_from_slice(rest);
            });
        }
        drop(inside);
        self.wake();
    }

    /// Something was lost: the client is to end.
    pub(super) fn end(&self, error: Error) {
        self.inside.lock().fate.get_or_insert(error);
        self.wake();
    }

    fn wake(&self) {
        self.filled.store(true, Ordering::Release);
        self.client.wake.notify_waiters();
    }

    /// Whether there is something to see to.
    pub(super) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Moves what is there to `out`. `utf8`: whether the client understands more than ASCII of it.
    pub(super) fn empty(&self, out: &mut Vec<u8>, utf8: bool) {
        let mut inside = self.inside.lock();
        if inside.beyond_ascii && !utf8 {
            inside.messages = Vec::new();
            inside.fate.get_or_insert_with(untranslatable);
        }
        inside.beyond_ascii = false;
        // Who is to end stays so until he does.
        self.filled.store(inside.fate.is_some(), Ordering::Release);
        out.append(&mut inside.messages);
    }

    /// Why the client is to end.
    pub(super) fn fate(&self) -> Option<Error> {
        self.inside.lock().fate.clone()
    }
}

fn untranslatable() -> Error {
    Error::us_fatal(
        SqlState::FEATURE_NOT_SUPPORTED,
        "terminating connection: a notification has characters that are not translated to the client_encoding that was set after LISTEN",
    )
    .hint("Set client_encoding before LISTEN: a session that has another than UTF8 then keeps its server.")
}

fn overflows() -> Error {
    Error::us_fatal(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("terminating connection: more than {} MiB of notifications wait for this client", ROOM >> 20),
    )
    .detail("They are delivered between transactions, as fast as the client reads.")
    .hint("End transactions soon and read what comes on a connection that listens. Connect again and look at what has changed meanwhile.")
}
