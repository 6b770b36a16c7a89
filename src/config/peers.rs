//! `[peers.NUMBER]`: who carries out the cancel requests for whom, as in PgBouncer.

use std::collections::BTreeMap;

use super::check::{Dialect, apply, unknown_key};
use super::raw::{Mistakes, Value};
use super::{Host, Peer, settings};
use crate::id::PeerId;

impl Default for Peer {
    /// Nowhere, until it is said.
    fn default() -> Self {
        Self { host: Host::Several(Vec::new()), port: 6432, pool_size: None }
    }
}

/// Reads the section. Our own number may be in it, so that all processes can have the same one.
pub(super) fn peers(section: &Value, dialect: Dialect, mistakes: &mut Mistakes) -> BTreeMap<PeerId, Peer> {
    let mut peers = BTreeMap::new();
    for entry in mistakes.table("[peers]", section).unwrap_or_default() {
        let place = dialect.peer(&entry.key);
        let id = number(&entry.key);
        if id.is_none() {
            let most = settings::MOST_PEER;
            let why = format!("{place} is not the number of a peer: peer_id is a whole number from 1 to {most}");
            mistakes.add(entry.line, why);
        }
        let Some(keys) = mistakes.table(&place, &entry.value) else { continue };
        let mut peer = Peer::default();
        for key in keys {
            if !apply(settings::PEER, &mut peer, key, mistakes) {
                let names = settings::PEER.iter().map(|setting| setting.name);
                mistakes.add(key.line, unknown_key(&key.key, &place, names));
            }
        }
        if !keys.iter().any(|key| key.key == "host") {
            mistakes.add(entry.line, format!("{place} has no host"));
        }
        if let Some(id) = id {
            peers.insert(id, peer);
        }
    }
    peers
}

/// The number of a peer; none for what is out of range, or written so that one number could stand twice.
fn number(key: &str) -> Option<PeerId> {
    let number = key.parse::<u16>().ok().filter(|id| (1..=settings::MOST_PEER).contains(id))?;
    (number.to_string() == key).then_some(PeerId(number))
}
