//! What clients have to do with each other: locks that several want, and notifications.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::ops::{Key, Mode};

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its commit is under way, or its client left before it heard.
    Doubtful,
    Committed,
}

#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) payload: String,
    pub(crate) fate: Fate,
}

/// What all clients see of each other.
#[derive(Debug, Default)]
pub(crate) struct Board {
    holders: Mutex<BTreeMap<Key, Vec<(u64, Mode)>>>,
    /// By channel, as their commits were sent.
    notes: Mutex<BTreeMap<String, Vec<Note>>>,
    /// By channel: what came directly before what, for any listener.
    before: Mutex<BTreeMap<String, BTreeMap<String, BTreeSet<String>>>>,
}

impl Board {
    /// A lock was given to a client. It is told of before it is taken back: whoever stands here has it.
    pub(crate) fn took(&self, life: u64, key: Key, mode: Mode) -> Result<(), String> {
        let mut holders = self.holders.lock().unwrap();
        let of_key = holders.entry(key).or_default();
        let against = of_key.iter().find(|(of, theirs)| *of != life && (mode, *theirs) != (Mode::Shared, Mode::Shared));
        if let Some(other) = against {
            return Err(format!("{key:?} was given as {mode:?} to {life} while {other:?} has it"));
        }
        of_key.push((life, mode));
        Ok(())
    }

    /// A client is about to give it back.
    pub(crate) fn gives_back(&self, life: u64, key: Key, mode: Mode) {
        if let Some(of_key) = self.holders.lock().unwrap().get_mut(&key) {
            of_key.retain(|holder| *holder != (life, mode));
        }
    }

    /// A client leaves.
    pub(crate) fn leaves(&self, life: u64) {
        for of_key in self.holders.lock().unwrap().values_mut() {
            of_key.retain(|(of, _)| *of != life);
        }
    }

    /// A commit with these is about to be sent.
    pub(crate) fn sends(&self, sent: &[(String, String)]) {
        let mut notes = self.notes.lock().unwrap();
        for (channel, payload) in sent {
            notes.entry(channel.clone()).or_default().push(Note { payload: payload.clone(), fate: Fate::Doubtful });
        }
    }

    /// That commit was answered.
    pub(crate) fn committed(&self, sent: &[(String, String)]) {
        let mut notes = self.notes.lock().unwrap();
        for (channel, payload) in sent {
            let of_channel = notes.entry(channel.clone()).or_default();
            if let Some(note) = of_channel.iter_mut().rev().find(|note| note.payload == *payload) {
                note.fate = Fate::Committed;
            }
        }
    }

    /// How many there are in a channel.
    pub(crate) fn count(&self, channel: &str) -> usize {
        self.notes.lock().unwrap().get(channel).map_or(0, Vec::len)
    }

    /// Those from a place on that are known to be committed, without those that came.
    pub(crate) fn missing(&self, channel: &str, from: usize, came: &BTreeSet<String>) -> Vec<String> {
        let notes = self.notes.lock().unwrap();
        let of_channel = notes.get(channel).map_or(&[][..], Vec::as_slice);
        let due = of_channel.iter().skip(from).filter(|note| note.fate == Fate::Committed);
        due.filter(|note| !came.contains(&note.payload)).map(|note| note.payload.clone()).collect()
    }

    /// Whether this may have been sent at all.
    pub(crate) fn is_known(&self, channel: &str, payload: &str) -> bool {
        let notes = self.notes.lock().unwrap();
        notes.get(channel).is_some_and(|of| of.iter().rev().any(|note| note.payload == payload))
    }

    /// A listener has heard one directly behind the other.
    pub(crate) fn followed(&self, channel: &str, first: &str, second: &str) {
        let mut before = self.before.lock().unwrap();
        let of_channel = before.entry(channel.to_owned()).or_default();
        of_channel.entry(first.to_owned()).or_default().insert(second.to_owned());
    }

    /// That all listeners of a channel have heard in one order.
    pub(crate) fn check_order(&self) -> Result<usize, String> {
        let before = self.before.lock().unwrap();
        let mut edges = 0;
        for (channel, followers) in before.iter() {
            let mut waits: BTreeMap<&String, usize> = BTreeMap::new();
            for (first, seconds) in followers {
                waits.entry(first).or_default();
                for second in seconds {
                    *waits.entry(second).or_default() += 1;
                    edges += 1;
                }
            }
            let mut free: Vec<&String> =
                waits.iter().filter(|(_, count)| **count == 0).map(|(note, _)| *note).collect();
            let mut ordered = 0;
            while let Some(note) = free.pop() {
                ordered += 1;
                for second in followers.get(note).into_iter().flatten() {
                    let count = waits.get_mut(second).unwrap();
                    *count -= 1;
                    if *count == 0 {
                        free.push(second);
                    }
                }
            }
            if ordered != waits.len() {
                return Err(format!("listeners of {channel} have heard the same in different orders"));
            }
        }
        Ok(edges)
    }
}

/// The places of those that keep a server.
#[derive(Debug)]
pub(crate) struct Permits(Mutex<usize>);

/// One of these places, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Permits>);

impl Permits {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(count)))
    }

    /// One, if there is one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Permit> {
        let mut left = self.0.lock().unwrap();
        *left = left.checked_sub(1)?;
        Some(Permit(Arc::clone(self)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() += 1;
    }
}
