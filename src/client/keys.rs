//! The keys by which clients are cancelled.

use std::sync::Arc;

use dashmap::DashMap;
use subtle::ConstantTimeEq;

use crate::id::PeerId;
use crate::server::connection::Secret;
use crate::wire::cancel_key;

/// The least process id that is given out. No process of a server has one like it: Linux goes up to 4194304, and the byte that is not 0
/// here is not the peer's either.
pub const LEAST: u32 = 0x0100_0000;

/// How often a process id is drawn before one is taken that somebody has already.
const DRAWS: u32 = 16;

/// Keys that have been given out, and to whom.
///
/// A process id alone means one of ours, as a server's would. With a peer's number in it only 32512 are left, so that clients share
/// one when most are taken: their secrets tell them apart.
#[derive(Debug)]
pub struct KeyRing<T> {
    /// Our number among our peers, if we have any: it is part of every key.
    peer: Option<PeerId>,
    keys: DashMap<u32, Keys<T>>,
}

/// The keys with one process id.
#[derive(Debug)]
enum Keys<T> {
    One(Key<T>),
    /// In a box: hardly ever, and every client has one of these.
    #[expect(clippy::box_collection, reason = "the pointer is a third of a vector")]
    Several(Box<Vec<Key<T>>>),
}

#[derive(Debug)]
struct Key<T> {
    secret: Kept,
    owner: Arc<T>,
}

/// A secret as it is kept: one of the usual length without memory of its own. Never printed.
#[derive(PartialEq, Eq)]
enum Kept {
    Short([u8; 4]),
    Long(Box<[u8]>),
}

impl Kept {
    fn new(secret: &Secret) -> Self {
        secret.0.as_slice().try_into().map_or_else(|_| Self::Long(secret.0.as_slice().into()), Self::Short)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Long(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept(..)")
    }
}

impl<T> Keys<T> {
    fn all(&self) -> &[Key<T>] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Several(keys) => keys,
        }
    }

    fn add(&mut self, key: Key<T>) {
        if let Self::One(_) = self
            && let Self::One(first) = std::mem::replace(self, Self::Several(Box::default()))
        {
            self.add(first);
        }
        if let Self::Several(keys) = self {
            keys.push(key);
        }
    }

    /// Takes out the key of `owner`; whether none is left.
    fn remove(&mut self, owner: &Arc<T>) -> bool {
        match self {
            Self::One(key) => Arc::ptr_eq(&key.owner, owner),
            Self::Several(keys) => {
                keys.retain(|key| !Arc::ptr_eq(&key.owner, owner));
                keys.is_empty()
            }
        }
    }
}

impl<T> KeyRing<T> {
    /// No key has been given out. `peer`: our number among our peers.
    #[must_use]
    pub fn new(peer: Option<PeerId>) -> Self {
        Self { peer, keys: DashMap::new() }
    }

    /// Gives a key with a secret of `len` bytes to whoever `owner` makes for the process id.
    #[must_use]
    pub fn give_out(&self, len: usize, owner: impl FnOnce(u32) -> Arc<T>) -> (Arc<T>, Secret) {
        let mut draws = 0;
        loop {
            let (pid, secret) = self.draw(len);
            draws += 1;
            let entry = self.keys.entry(pid);
            let may_share = self.peer.is_some() && draws >= DRAWS;
            match entry {
                dashmap::Entry::Vacant(vacant) => {
                    let owner = owner(pid);
                    vacant.insert(Keys::One(Key { secret: Kept::new(&secret), owner: Arc::clone(&owner) }));
                    return (owner, secret);
                }
                dashmap::Entry::Occupied(mut taken)
                    if may_share && taken.get().all().iter().all(|key| key.secret.bytes() != secret.0) =>
                {
                    let owner = owner(pid);
                    taken.get_mut().add(Key { secret: Kept::new(&secret), owner: Arc::clone(&owner) });
                    return (owner, secret);
                }
                dashmap::Entry::Occupied(_) => {}
            }
        }
    }

    fn draw(&self, len: usize) -> (u32, Secret) {
        let mut secret = Secret((0..len).map(|_| rand::random()).collect());
        // Positive as an int4, as clients read it.
        let pid = rand::random_range(LEAST..0x7fff_ffff_u32);
        let pid = self.peer.map_or(pid, |peer| cancel_key::mark(peer, pid, &mut secret.0));
        (pid, secret)
    }

    /// Whose a key is.
    #[must_use]
    pub fn find(&self, pid: u32, secret: &Secret) -> Option<Arc<T>> {
        let keys = self.keys.get(&pid)?;
        // How long it takes says nothing of how much of a wrong one is right.
        let found = keys.all().iter().find(|key| bool::from(key.secret.bytes().ct_eq(&secret.0)));
        found.map(|key| Arc::clone(&key.owner))
    }

    /// Everybody whose key has this process id.
    #[must_use]
    pub fn owners(&self, pid: u32) -> Vec<Arc<T>> {
        let keys = self.keys.get(&pid);
        keys.map(|keys| keys.all().iter().map(|key| Arc::clone(&key.owner)).collect()).unwrap_or_default()
    }

    /// The key of an owner means nothing any more.
    pub fn take_back(&self, pid: u32, owner: &Arc<T>) {
        self.keys.remove_if_mut(&pid, |_, keys| keys.remove(owner));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn give(ring: &KeyRing<u32>, len: usize) -> (Arc<u32>, Secret) {
        ring.give_out(len, Arc::new)
    }

    #[test]
    fn keys_of_our_own_have_a_process_id_each() {
        let ring = KeyRing::new(None);
        let given: Vec<_> = (0..5000).map(|_| give(&ring, 4)).collect();
        let pids: HashSet<u32> = given.iter().map(|(owner, _)| **owner).collect();
        assert_eq!(pids.len(), given.len());
        assert!(pids.iter().all(|pid| (LEAST..0x7fff_ffff).contains(pid)), "a server's process may have it");
        assert!(pids.iter().any(|pid| cancel_key::giver(*pid) != cancel_key::giver(*given[0].0)), "no peer is in them");
        for (owner, secret) in &given {
            assert!(Arc::ptr_eq(&ring.find(**owner, secret).unwrap(), owner));
            let wrong = Secret(secret.0.iter().map(|byte| byte ^ 1).collect());
            assert!(ring.find(**owner, &wrong).is_none());
        }
    }

    #[test]
    fn more_clients_than_process_ids_share_them() {
        // With a peer's number there are 32512.
        let ring = KeyRing::new(Some(PeerId(513)));
        let given: Vec<_> = (0..40_000).map(|_| give(&ring, 4)).collect();
        let pids: HashSet<u32> = given.iter().map(|(owner, _)| **owner).collect();
        let good = |pid: &u32| cancel_key::giver(*pid) == PeerId(513) && *pid >= LEAST;
        assert!(pids.len() <= 32_512 && pids.iter().all(good));
        assert!(given.iter().any(|(owner, _)| ring.owners(**owner).len() > 1) && ring.owners(1).is_empty());
        for (owner, secret) in &given {
            assert!(Arc::ptr_eq(&ring.find(**owner, secret).unwrap(), owner));
        }
        let (gone, stay) = given.split_at(20_000);
        for (owner, secret) in gone {
            ring.take_back(**owner, owner);
            assert!(ring.find(**owner, secret).is_none());
        }
        for (owner, secret) in stay {
            assert!(Arc::ptr_eq(&ring.find(**owner, secret).unwrap(), owner), "others keep theirs");
        }
        stay.iter().for_each(|(owner, _)| ring.take_back(**owner, owner));
        assert!(ring.keys.is_empty());
    }

    #[test]
    fn long_keys_are_long() {
        let ring = KeyRing::new(Some(PeerId(1)));
        let (owner, secret) = give(&ring, 32);
        assert_eq!(secret.0.len(), 32);
        assert!(ring.find(*owner, &secret).is_some());
        let mut cut = secret;
        cut.0.pop();
        assert!(ring.find(*owner, &cut).is_none());
    }
}
