//! What a cancel key says beside its secret where several processes stand behind one address: which of them gave it out, and how often
//! a request with it may still be passed on. The form is PgBouncer's, so that the two can be peers of each other:
//!
//! ```text
//!   process id:  0rrrrrrr  peer, low byte  peer, high byte  rrrrrrrr
//!   secret:      rrrrrrrr  ...  rrrrrrhh
//! ```
//!
//! `r` is random, which leaves 45 bits of a short key and 269 of one of 32 bytes; `h` counts the hops that are left. The sign of the process id
//! stays clear, for there are clients that take it for a number.

use crate::id::PeerId;

/// How often a request is passed on at most, and the bits that count it.
const HOPS: u8 = 0b11;

/// Makes a random process id and secret a key that `peer` gives out: the process id as it is then.
#[must_use]
pub fn mark(peer: PeerId, pid: u32, secret: &mut [u8]) -> u32 {
    let [first, _, _, last] = pid.to_be_bytes();
    let [low, high] = peer.0.to_le_bytes();
    restore(secret);
    u32::from_be_bytes([first & 0x7f, low, high, last])
}

/// Who gave out the key with this process id. Zero: nobody that has peers.
#[must_use]
pub fn giver(pid: u32) -> PeerId {
    let [_, low, high, _] = pid.to_be_bytes();
    PeerId(u16::from_le_bytes([low, high]))
}

/// Makes the secret of a request what it was when the key was given out, however often the request has been passed on.
pub fn restore(secret: &mut [u8]) {
    if let Some(last) = secret.last_mut() {
        *last |= HOPS;
    }
}

/// Counts a hop. False if there is none left: the request goes in circles.
#[must_use]
pub fn count_hop(secret: &mut [u8]) -> bool {
    let Some(last) = secret.last_mut() else { return false };
    let (rest, left) = (*last & !HOPS, *last & HOPS);
    let Some(left) = left.checked_sub(1) else { return false };
    *last = rest | left;
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_pgbouncers() {
        // Peer 0x1234 is told in little-endian order in the second and third byte; the lowest two bits of the last are the hops.
        let mut secret = [0xa0, 0xa1, 0xa2, 0xa4];
        let pid = mark(PeerId(0x1234), 0xffff_ffff, &mut secret);
        assert_eq!((pid.to_be_bytes(), secret), ([0x7f, 0x34, 0x12, 0xff], [0xa0, 0xa1, 0xa2, 0xa7]));
        assert_eq!(giver(pid), PeerId(0x1234));
        for left in [0xa6, 0xa5, 0xa4] {
            assert!(count_hop(&mut secret));
            assert_eq!(secret[3], left);
        }
        assert!(!count_hop(&mut secret), "three times, and no more");
        assert_eq!(secret[3], 0xa4);
        assert_eq!(giver(7), PeerId(0));
        assert!(!count_hop(&mut []));
    }

    proptest! {
        #[test]
        fn keys_find_home(
            peer in 1..=16_383_u16,
            pid: u32,
            mut given in prop::collection::vec(any::<u8>(), 4..=32),
            hops in 0..=3_usize,
        ) {
            let marked = mark(PeerId(peer), pid, &mut given);
            prop_assert_eq!(giver(marked), PeerId(peer));
            prop_assert!((1..=0x7fff_ffff).contains(&marked), "positive as an int4");
            let mut travels = given.clone();
            for _ in 0..hops {
                prop_assert!(count_hop(&mut travels));
            }
            prop_assert_eq!(hops == 0, travels == given);
            restore(&mut travels);
            prop_assert_eq!(travels, given);
        }

        #[test]
        fn no_other_bit_is_lost(peer: u16, pid: u32, other: u32, secret: [u8; 4], flipped: [u8; 4]) {
            // What two keys differ in before they differ in afterwards, but for the sign, the peer and the hops.
            let (mut one, mut two) = (secret, std::array::from_fn::<u8, 4, _>(|i| secret[i] ^ flipped[i]));
            let pids = (mark(PeerId(peer), pid, &mut one), mark(PeerId(peer), other, &mut two));
            let differ = |a: u32, b: u32, mask: u32| (a ^ b) & mask;
            prop_assert_eq!(differ(pid, other, 0x7f00_00ff), differ(pids.0, pids.1, u32::MAX));
            let kept = std::array::from_fn::<u8, 4, _>(|i| if i == 3 { flipped[i] & !HOPS } else { flipped[i] });
            prop_assert_eq!(std::array::from_fn::<u8, 4, _>(|i| one[i] ^ two[i]), kept);
        }

        #[test]
        fn a_request_of_any_bytes_ends(mut secret in prop::collection::vec(any::<u8>(), 0..8)) {
            let hops = (0..10).take_while(|_| count_hop(&mut secret)).count();
            prop_assert!(hops <= 3);
        }
    }
}
