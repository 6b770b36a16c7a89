//! LISTEN without a server of one's own: one connection for each user of a database listens to all channels that its clients asked for,
//! and gives each what it asked for, between its transactions.
//!
//! ```text
//!   LISTEN a ──▶ identity: UNLISTEN a, on whichever server   (its answer is the LISTEN's, and it fails where LISTEN would)
//!            └─▶ Hub: LISTEN a, answered before that is sent  (so nothing is missed from the client's answer on)
//!   COMMIT   ──▶ Hub: what comes on the channel waits in the client's Mailbox, before that is sent
//!            ◀── Session: the channels change ──▶ Hub: the Mailbox hears the channel, and what waits was for it
//!
//!   server ──▶ Hub ──▶ Mailbox ──▶ the client's output, while no transaction is open
//! ```
//!
//! A notification tells the process that sent it. To know its own (`Hub::own`), a client that listens waits, before it writes on a server
//! and before it hears that this is done, until the hub has heard all that was sent before. So its own notifications also come before
//! the end of its answer, as a server's do.
//!
//! What is lost is told: a client whose mailbox overflows, or whose hub loses its connection, is ended.

mod hub;
mod mailbox;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::client::catalog::LookUp;
use crate::client::prepared_view;
use crate::client::relay::Link;
use crate::client::task::{Client, End, HIGH_WATER};
use crate::config::PoolMode;
use crate::server::Connection;
use crate::sql::facts::{ListenChange, PinReason, TransactionEffect};
use crate::sql::listens::{self, What};
use crate::wire::message::TransactionStatus;

pub use hub::{Hub, Hubs};
use mailbox::Mailbox;

/// A client's part in listening; leaves the hub when dropped.
pub(super) struct Listener {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
    /// What it hears.
    channels: BTreeSet<String>,
    /// What it may hear when its transaction commits: the hub listens to these already, or is about to.
    held: Vec<String>,
    /// How many connections the hub had lost when it was asked to listen.
    losses: u64,
    /// The hub has not answered for all of them.
    unsure: bool,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hear(&BTreeSet::new());
        self.let_go();
    }
}

impl Listener {
    /// From now on it hears these channels and no others.
    fn hear(&mut self, channels: &BTreeSet<String>) {
        for channel in channels.difference(&self.channels) {
            self.hub.subscribe(channel, &self.mailbox, self.losses);
        }
        for channel in self.channels.difference(channels) {
            self.hub.unsubscribe(channel, &self.mailbox);
        }
        self.channels.clone_from(channels);
    }

    /// What it might have heard it does not, unless it does.
    fn let_go(&mut self) {
        for channel in self.held.drain(..) {
            self.hub.release(&channel, &self.mailbox);
        }
    }
}

/// Whether a setting is UTF8, or whatever the bytes are.
fn is_plain(parameters: &[(String, String)], name: &str) -> bool {
    parameters.iter().any(|(n, value)| n == name && is_utf8(value))
}

fn is_utf8(encoding: &str) -> bool {
    encoding.eq_ignore_ascii_case("UTF8") || encoding.eq_ignore_ascii_case("SQL_ASCII")
}

/// Whether something is committed by statements with these effects, which begin in a block or outside of one.
fn may_commit<'a>(mut in_block: bool, effects: impl Iterator<Item = &'a TransactionEffect>) -> bool {
    for effect in effects {
        match effect {
            TransactionEffect::Begin { .. } => in_block = true,
            TransactionEffect::Rollback { .. } | TransactionEffect::PrepareTransaction => in_block = false,
            TransactionEffect::Commit { .. } => return true,
            TransactionEffect::None
            | TransactionEffect::Savepoint
            | TransactionEffect::RollbackTo
            | TransactionEffect::Release
            | TransactionEffect::FinishPrepared => {
                if !in_block {
                    return true;
                }
            }
        }
    }
    false
}

/// What becomes of a text.
pub(super) struct Heard {
    /// The words to change.
    pub(super) edits: Vec<(std::ops::Range<usize>, String)>,
    /// What its statements change, by their place in it.
    pub(super) steps: Vec<crate::sql::facts::ListenStep>,
}

impl Client {
    /// Whether others come to listen in the client's name. In session mode its server does; on a sharded database one shard's; in another
    /// encoding than the hub's it could not be told everything; and who has a server that listens stays with it.
    fn is_heard_for(&self) -> bool {
        self.pools.mode != PoolMode::Session
            && !self.database.config.map.is_sharded()
            && !self.session.is_pinned_by(PinReason::Listen)
            && self.understands_utf8()
            && self.pools.welcome.lock().last_known().is_some_and(|p| is_plain(p, "server_encoding"))
    }

    /// Whether text comes to the client as the hub gets it.
    fn understands_utf8(&self) -> bool {
        match self.session.settings().get("client_encoding") {
            Some(encoding) => is_utf8(encoding),
            None => self.pools.welcome.lock().last_known().is_some_and(|p| is_plain(p, "client_encoding")),
        }
    }

    /// Whether others listen to the channel in the client's name already, or do when its transaction commits.
    fn is_heard_on(&self, channel: &str) -> bool {
        self.listener
            .as_ref()
            .is_some_and(|l| l.channels.contains(channel) || l.held.iter().any(|held| held == channel))
    }

    /// Looks through a text that speaks of channels, or of prepared statements. What others listen to is followed whatever becomes of what
    /// the client listens to next.
    pub(super) fn heard(&self, text: &[u8]) -> Heard {
        let mut heard = Heard { edits: Vec::new(), steps: Vec::new() };
        let comes_to = self.is_heard_for();
        let hears = comes_to || self.listener.is_some();
        let lists = self.session.follows() && !self.database.config.map.is_sharded();
        if !hears && !lists {
            return heard;
        }
        for place in listens::uses(text) {
            match place.what {
                What::Prepared { name } if lists => {
                    let words = self.prepared_as_sql() + &name.map(|name| format!(" AS {name}")).unwrap_or_default();
                    heard.edits.push((place.at, words));
                }
                What::PreparedSchema if lists => heard.edits.push((place.at, String::new())),
                What::Change(change) if hears => {
                    if let ListenChange::Listen(channel) = &change {
                        if !comes_to && !self.is_heard_on(channel) {
                            continue;
                        }
                        heard.edits.push((place.at, "UNLISTEN".to_owned()));
                    }
                    heard.steps.push(crate::sql::facts::ListenStep { statement: place.statement, change });
                }
                What::Channels { names } if hears => {
                    heard.edits.push((place.at, self.channels_as_sql(names, !comes_to)));
                }
                What::Prepared { .. } | What::PreparedSchema | What::Change(_) | What::Channels { .. } => {}
            }
        }
        heard
    }

    /// What the client has prepared, as an item of FROM.
    fn prepared_as_sql(&self) -> String {
        prepared_view::as_sql(self.session.prepared(), self.understands_utf8())
    }

    /// A set of the channels that the client listens to; `and_server`: and of those that its server does.
    fn channels_as_sql(&self, names: bool, and_server: bool) -> String {
        let channels = self.session.listening().map(|listening| listening.channels());
        let literals: Vec<String> =
            channels.into_iter().flatten().map(|channel| crate::session::settings::quote(channel)).collect();
        let name = if names { " AS pg_listening_channels" } else { "" };
        let more = if and_server { " || ARRAY(SELECT pg_catalog.pg_listening_channels())" } else { "" };
        format!("pg_catalog.unnest(ARRAY[{}]::pg_catalog.text[]{more}){name}", literals.join(","))
    }

    /// Has the hub listen to the channels that a text is about to listen to.
    pub(super) fn will_listen(&mut self, steps: &[crate::sql::facts::ListenStep]) {
        for step in steps {
            let ListenChange::Listen(channel) = &step.change else { continue };
            let handle = Arc::clone(self.handle());
            let listener = match &mut self.listener {
                Some(listener) => listener,
                none => {
                    let hub = self.cx.shared.hubs.of(&self.cx.shared, &self.database, &self.pools, self.cx.id);
                    none.insert(Box::new(Listener {
                        hub,
                        mailbox: Mailbox::new(handle),
                        channels: BTreeSet::new(),
                        held: Vec::new(),
                        losses: 0,
                        unsure: false,
                    }))
                }
            };
            let losses = listener.hub.hold(channel);
            if listener.held.is_empty() {
                listener.losses = losses;
            }
            listener.held.push(channel.clone());
            listener.unsure = true;
        }
    }

    /// What a segment that listens must wait for before it is sent.
    pub(super) fn listens_first(&mut self) -> Option<LookUp> {
        let listener = self.listener.as_mut()?;
        std::mem::take(&mut listener.unsure).then(|| {
            let hub = Arc::clone(&listener.hub);
            Box::pin(async move { hub.fence().await }) as LookUp
        })
    }

    /// The segment is about to be sent: if it may commit what listens, then what others send of it may be here before it is read that it
    /// has, or may be thrown away by the very question that is to bring its own.
    pub(super) fn expects_commit(&self) {
        let Some(listener) = self.listener.as_ref().filter(|listener| !listener.held.is_empty()) else { return };
        let texts = self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
        let in_block = self.session.status() != TransactionStatus::Idle;
        if may_commit(in_block, texts.flat_map(|facts| &facts.statements).map(|s| &s.transaction)) {
            listener.hub.expect(&listener.held, &listener.mailbox);
        }
    }

    /// What a client that listens waits for before it writes on a server.
    pub(super) fn owns_first(&self, link: &mut Link, connection: &Connection) -> Option<LookUp> {
        let listener = self.listener.as_ref()?;
        if link.owned.is_some() {
            return None;
        }
        link.owned = Some(connection.pid);
        let (hub, mailbox, pid) = (Arc::clone(&listener.hub), Arc::clone(&listener.mailbox), connection.pid);
        Some(Box::pin(async move {
            // Without a connection there is nothing to take for another's, and the client is told otherwise.
            drop(hub.fence().await);
            hub.own(pid, &mailbox);
            Ok(())
        }))
    }

    /// What it waits for before it hears that a transaction on that server is over.
    pub(super) fn hears_first(&self, link: &mut Link) -> Option<LookUp> {
        let listener = self.listener.as_ref().filter(|_| link.owned.is_some() && !link.heard)?;
        link.heard = true;
        let hub = Arc::clone(&listener.hub);
        Some(Box::pin(async move { hub.fence().await }))
    }

    /// The server is given back.
    pub(super) fn disowns(&self, link: &Link) {
        if let (Some(listener), Some(pid)) = (&self.listener, link.owned) {
            listener.hub.disown(pid);
        }
    }

    /// The session listens to other channels than before, or has ended a transaction in which it might have come to.
    pub(super) fn follow_channels(&mut self) {
        let Some(listener) = &mut self.listener else { return };
        let changed = self.session.listening_changed();
        // What was sent behind it, or waits to be sent, may listen to what is held.
        let over = self.session.status() == TransactionStatus::Idle
            && self.session.is_drained()
            && self.segment.items.is_empty()
            && !listener.held.is_empty()
            && !listener.unsure;
        if changed && let Some(listening) = self.session.listening() {
            listener.hear(listening.channels());
        }
        if over {
            listener.let_go();
        }
    }

    /// A client that listens to nothing any more has no part in it.
    pub(super) fn leaves_hub(&mut self) {
        self.listener.take_if(|listener| listener.channels.is_empty() && listener.held.is_empty());
    }

    /// Puts what it was sent into its output, unless that is full.
    ///
    /// # Errors
    /// When something was lost.
    pub(super) fn take_notifications(&mut self) -> Result<(), End> {
        let Some(listener) = &self.listener else { return Ok(()) };
        if !listener.mailbox.is_filled() {
            return Ok(());
        }
        if self.output.len() < HIGH_WATER {
            let utf8 = self.understands_utf8();
            listener.mailbox.empty(self.output.tail(), utf8);
        }
        match listener.mailbox.fate() {
            Some(error) => Err(End::Told(error)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_commit_is_told_from_what_goes_on() {
        let of = |in_block, text: &str| {
            let facts = crate::sql::parse::facts(text.as_bytes());
            may_commit(in_block, facts.statements.iter().map(|s| &s.transaction))
        };
        for (in_block, text, expected) in [
            (false, "LISTEN a", true),
            (true, "LISTEN a", false),
            (false, "BEGIN; LISTEN a", false),
            (false, "BEGIN; LISTEN a; COMMIT", true),
            (true, "COMMIT", true),
            (true, "ROLLBACK TO s; RELEASE s", false),
            (true, "ROLLBACK", false),
            (true, "ROLLBACK; LISTEN a", true),
        ] {
            assert_eq!(of(in_block, text), expected, "{in_block} {text}");
        }
    }
}
