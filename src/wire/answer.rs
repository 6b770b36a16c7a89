//! The answer to a statement when nothing out of the ordinary happens: no error, no notice, no setting that changed, no COPY.
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

use crate::wire::frame;

/// What was asked for, and so what is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// By Query: perhaps RowDescription, rows.
    Simple,
    /// By Bind and Execute, and what else there was: ParseComplete, BindComplete, RowDescription or NoData, rows.
    Extended {
        /// Parse stood before.
        parsed: bool,
        /// The portal was to be described.
        described: bool,
    },
}

/// Whether `bytes` are this answer, to its CommandComplete and the ReadyForQuery that says that no transaction is open: all of it, and nothing
/// behind it.
#[must_use]
pub fn is_whole(bytes: &[u8], expected: Expected) -> bool {
    let mut messages = Messages(bytes);
    let mut tag = messages.next();
    let mut take = |expects: bool, is: &[u8]| {
        let is_there = tag.is_some_and(|tag| is.contains(&tag));
        if expects && is_there {
            tag = messages.next();
        }
        is_there || !expects
    };
    let begins = match expected {
        Expected::Simple => {
            take(true, b"T");
            true
        }
        Expected::Extended { parsed, described } => take(parsed, b"1") && take(true, b"2") && take(described, b"Tn"),
    };
    if !begins {
        return false;
    }
    while tag == Some(b'D') {
        tag = messages.next();
    }
    tag == Some(b'C') && messages.0 == b"Z\0\0\0\x05I"
}

/// What is left of a run of messages.
struct Messages<'a>(&'a [u8]);

impl Messages<'_> {
    /// The type of the next message, if it is whole; it is passed over.
    fn next(&mut self) -> Option<u8> {
        let header = frame::peek(self.0, self.0.len()).ok()??;
        self.0 = self.0.get(header.len..)?;
        Some(header.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARSED: Expected = Expected::Extended { parsed: true, described: false };
    const DESCRIBED: Expected = Expected::Extended { parsed: false, described: true };
    const BOUND: Expected = Expected::Extended { parsed: false, described: false };

    fn answer(tags: &str) -> Vec<u8> {
        let message = |tag: u8| match tag {
            b'Z' => b"Z\0\0\0\x05I".to_vec(),
            b'z' => b"Z\0\0\0\x05T".to_vec(),
            tag => [&[tag, 0, 0, 0, 7][..], b"abc"].concat(),
        };
        tags.bytes().flat_map(message).collect()
    }

    #[test]
    fn what_is_expected_is_recognised_and_nothing_else() {
        for (tags, expected) in [
            ("TDDCZ", Expected::Simple),
            ("TCZ", Expected::Simple),
            ("CZ", Expected::Simple),
            ("12DCZ", PARSED),
            ("2TDDCZ", DESCRIBED),
            ("2nCZ", DESCRIBED),
            ("2CZ", BOUND),
        ] {
            assert!(is_whole(&answer(tags), expected), "{tags}");
        }
        for (tags, expected) in [
            ("TDCz", Expected::Simple),
            ("TDEZ", Expected::Simple),
            ("TNDCZ", Expected::Simple),
            ("TDCSZ", Expected::Simple),
            ("TDCTDCZ", Expected::Simple),
            ("TDCZN", Expected::Simple),
            ("GZ", Expected::Simple),
            ("IZ", Expected::Simple),
            ("nCZ", Expected::Simple),
            ("TDC", Expected::Simple),
            ("", Expected::Simple),
            ("2DCZ", PARSED),
            ("1DCZ", PARSED),
            ("2DCZ", DESCRIBED),
            ("2TDsZ", DESCRIBED),
            ("2TDCZ", BOUND),
            ("12DCZ", BOUND),
        ] {
            assert!(!is_whole(&answer(tags), expected), "{tags} {expected:?}");
        }
    }

    proptest! {
        #[test]
        fn a_part_of_an_answer_is_not_whole(rows in 0_usize..5, cut in any::<prop::sample::Index>()) {
            let whole = answer(&format!("T{}CZ", "D".repeat(rows)));
            prop_assert!(is_whole(&whole, Expected::Simple));
            prop_assert!(!is_whole(&whole[..cut.index(whole.len())], Expected::Simple));
        }

        #[test]
        fn any_bytes_are_read_and_are_one_answer_at_most(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let expected = [Expected::Simple, PARSED, DESCRIBED];
            prop_assert!(expected.into_iter().filter(|expected| is_whole(&bytes, *expected)).count() <= 1);
        }
    }
}
