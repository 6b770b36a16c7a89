//! What a client was sent and has not taken yet.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::client::shared::ClientHandle;
use crate::error::{Error, SqlState};
use crate::wire::{encode, frame};

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
    held: Messages,
    /// Why nothing more comes.
    fate: Option<Error>,
}

/// NotificationResponse messages, in the order in which they were sent. Those of one channel are all the client's, or all in doubt.
#[derive(Debug, Default)]
struct Messages {
    bytes: Vec<u8>,
    /// They are more than ASCII.
    beyond_ascii: bool,
    /// Channels that it comes to hear if the transaction commits which is being ended: what came on them is in doubt.
    doubted: Vec<String>,
}

impl Messages {
    fn push(&mut self, pid: u32, rest: &[u8]) {
        self.beyond_ascii |= !rest.is_ascii();
        encode::frame(&mut self.bytes, b'A', |body| {
            body.extend_from_slice(&pid.to_be_bytes());
            body.extend_from_slice(rest);
        });
    }

    /// Takes what is certain, up to the first in doubt: what was sent later does not come sooner.
    fn take_certain(&mut self) -> Vec<u8> {
        if self.doubted.is_empty() {
            return std::mem::take(&mut self.bytes);
        }
        let doubtful =
            each(&self.bytes).find(|(channel, _)| self.doubted.iter().any(|doubted| doubted.as_bytes() == *channel));
        let end = doubtful.map_or(self.bytes.len(), |(_, at)| at.start);
        self.bytes.drain(..end).collect()
    }

    /// What came on this channel is not for the client.
    fn discard(&mut self, channel: &str) {
        self.doubted.retain(|doubted| doubted != channel);
        let mut kept = Vec::with_capacity(self.bytes.len());
        let others = each(&self.bytes).filter(|(name, _)| *name != channel.as_bytes());
        for (_, at) in others {
            kept.extend_from_slice(self.bytes.get(at).unwrap_or_default());
        }
        self.bytes = kept;
    }
}

/// The channel of each message, and where the message is.
fn each(messages: &[u8]) -> impl Iterator<Item = (&[u8], Range<usize>)> {
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        let rest = messages.get(at..)?;
        let header = frame::peek(rest, usize::MAX).ok()??;
        let name = rest.get(frame::HEADER_LEN.saturating_add(4)..)?.split(|byte| *byte == 0).next()?;
        let whole = at..at.saturating_add(header.len);
        at = whole.end;
        Some((name, whole))
    })
}

impl Mailbox {
    /// An empty one.
    pub(super) fn new(client: Arc<ClientHandle>) -> Arc<Self> {
        Arc::new(Self { client, filled: AtomicBool::new(false), inside: Mutex::default() })
    }

    /// A notification by `pid`; `rest` is its channel and payload as they stand in the message.
    pub(super) fn put(&self, pid: u32, rest: &[u8]) {
        self.put_in(pid, rest, |_| {});
    }

    /// The same, on a channel that the client hears if its transaction commits.
    pub(super) fn put_in_doubt(&self, channel: &str, pid: u32, rest: &[u8]) {
        self.put_in(pid, rest, |messages| {
            if !messages.doubted.iter().any(|doubted| doubted == channel) {
                messages.doubted.push(channel.to_owned());
            }
        });
    }

    fn put_in(&self, pid: u32, rest: &[u8], note: impl FnOnce(&mut Messages)) {
        let mut inside = self.inside.lock();
        if inside.fate.is_some() {
            return;
        }
        if inside.held.bytes.len().saturating_add(rest.len()) > ROOM {
            inside.held = Messages::default();
            inside.fate = Some(overflows());
        } else {
            note(&mut inside.held);
            inside.held.push(pid, rest);
        }
        drop(inside);
        self.wake();
    }

    /// What came on the channel is the client's: it has come to hear it.
    pub(super) fn confirm(&self, channel: &str) {
        self.inside.lock().held.doubted.retain(|doubted| doubted != channel);
    }

    /// What came on the channel and was not taken is not for the client: it hears it no longer, or does not come to hear it.
    pub(super) fn discard(&self, channel: &str) {
        let mut inside = self.inside.lock();
        if !inside.held.bytes.is_empty() {
            inside.held.discard(channel);
        }
    }

    /// Something was lost: the client is to end.
    pub(super) fn end(&self, error: Error) {
        self.inside.lock().fate.get_or_insert(error);
        self.wake();
    }

    fn wake(&self) {
        self.filled.store(true, Ordering::Release);
        self.client.bell.ring();
    }

    /// Whether there is something to see to.
    pub(super) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Moves what is certain to `out`. `utf8`: whether the client understands more than ASCII of it.
    pub(super) fn empty(&self, out: &mut Vec<u8>, utf8: bool) {
        let mut inside = self.inside.lock();
        if inside.held.beyond_ascii && !utf8 {
            inside.held = Messages::default();
            inside.fate.get_or_insert_with(untranslatable);
        }
        let mut certain = inside.held.take_certain();
        let empty = inside.held.bytes.is_empty();
        inside.held.beyond_ascii &= !empty;
        // Who is to end stays so until he does.
        self.filled.store(inside.fate.is_some() || !empty, Ordering::Release);
        out.append(&mut certain);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `channel:payload` of each.
    fn shown(bytes: &[u8]) -> Vec<String> {
        let payload =
            |at: Range<usize>| String::from_utf8_lossy(&bytes[at][frame::HEADER_LEN + 4..]).replace('\0', ":");
        each(bytes).map(|(_, at)| payload(at).trim_end_matches(':').to_owned()).collect()
    }

    fn filled() -> Messages {
        let mut messages = Messages::default();
        for rest in ["a\x001\0", "b\x002\0", "a\x003\0", "c\x004\0"] {
            messages.push(7, rest.as_bytes());
        }
        messages
    }

    #[test]
    fn what_is_in_doubt_waits_with_all_behind_it() {
        let mut messages = filled();
        messages.doubted = vec!["b".to_owned()];
        assert_eq!(shown(&messages.take_certain()), ["a:1"]);
        assert!(messages.take_certain().is_empty());
        messages.doubted.clear();
        assert_eq!(shown(&messages.take_certain()), ["b:2", "a:3", "c:4"]);
    }

    #[test]
    fn what_is_discarded_leaves_the_rest_in_its_order() {
        let mut messages = filled();
        messages.doubted = vec!["a".to_owned()];
        messages.discard("a");
        assert_eq!(shown(&messages.take_certain()), ["b:2", "c:4"]);
    }
}
