//! Whose values a server would tell of by currval() and lastval(), and where those of a session are.
//!
//! PostgreSQL keeps in each of its sessions what nextval() and setval() gave there last, for each sequence and over all:
//! <https://www.postgresql.org/docs/current/functions-sequence.html>. No server can be told the values of another, so a session's values are
//! right where all of its last statements that may have taken some have run, one after the other, and nobody else's have. Such a time is a
//! [`Stay`]. It ends when the session takes values elsewhere, for then those here are old.
//!
//! ```text
//!   server:  Nobodys ──(a session takes values)──▶ Of(stay) ──(another does)──▶ Several
//!                ▲───────────────(DISCARD SEQUENCES, DISCARD ALL)──────────────────┘
//!   session: None ──(takes values where they are nobody's)──▶ At(stay) ──(where they are others')──▶ Scattered
//!                                                               ▲──────(where they are nobody's)─────────┘
//! ```

use super::pipeline::{Hidden, Kind, Request};
use super::{ServerState, Session};

/// A session's time on a server: no other session takes values there meanwhile, and this one takes them nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// The session's number in the process.
    client: u64,
    /// Which of its stays.
    number: u32,
}

/// Whose values a server tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Told {
    /// None: there, nothing is defined.
    #[default]
    Nobodys,
    /// Those of one session, all since its stay began.
    Of(Stay),
    /// Those of several, or of who knows whom.
    Several,
}

impl Told {
    /// Whether it may tell values that are not of the session whose stay this is, or not its newest.
    #[must_use]
    pub fn is_foreign_to(self, past: Past) -> bool {
        match self {
            Self::Nobodys => false,
            Self::Of(stay) => past != Past::At(stay),
            Self::Several => true,
        }
    }
}

/// Where a session's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Past {
    /// It has taken none.
    #[default]
    None,
    /// On the server of this stay.
    At(Stay),
    /// Nowhere: they cannot be told from others' any more.
    Scattered,
}

impl Past {
    /// The session, of that number, has perhaps taken values on a server. Whether a stay begins.
    pub fn takes(&mut self, told: &mut Told, client: u64, stays: &mut u32) -> bool {
        match told {
            Told::Of(stay) if *self == Self::At(*stay) => false,
            Told::Nobodys => {
                *stays = stays.wrapping_add(1);
                let stay = Stay { client, number: *stays };
                (*self, *told) = (Self::At(stay), Told::Of(stay));
                true
            }
            Told::Of(_) | Told::Several => {
                (*self, *told) = (Self::Scattered, Told::Several);
                false
            }
        }
    }
}

impl Session {
    /// A statement, or a part of one, is done.
    pub(super) fn follow_sequences(&mut self, tag: u8, body: &[u8], server: &mut ServerState) {
        if !matches!(tag, b'C' | b'I' | b's' | b'V' | b'E') {
            return;
        }
        let forgot = |what: &[u8]| tag == b'C' && body.starts_with(what);
        let forgot = forgot(b"DISCARD SEQUENCES") || forgot(b"DISCARD ALL");
        if forgot {
            server.sequences = Told::Nobodys;
        }
        // What is asked unseen takes none; and the session's are elsewhere, if it has the server forget others' values.
        if !matches!(self.pipeline.head(), Some(Request { kind: Kind::Hidden(_), .. })) {
            self.forgot_sequences = forgot;
        }
    }

    /// Has the server forget what was done to sequences there, unseen by the client. To be sent while nothing is under way; whether it
    /// has, [`ServerState::sequences`] tells when it is answered.
    pub fn forget_others(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        self.send_query(Hidden::Forget, "DISCARD SEQUENCES", server, out);
    }

    /// Whether the session's values were forgotten on its server, and it has done nothing since that may take some. It is about to leave it.
    pub fn take_forgot_sequences(&mut self) -> bool {
        std::mem::take(&mut self.forgot_sequences)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::session::settings::ClientSettings;
    use crate::session::{Action, Keep};

    /// What others did is forgotten unseen, whatever the client has had forgotten before; where that fails, nothing is.
    #[test]
    fn what_others_did_is_forgotten_without_a_word() {
        for (answers, told) in [
            (&[(b'C', &b"DISCARD SEQUENCES\0"[..]), (b'Z', b"I")][..], Told::Nobodys),
            (&[(b'E', b"SERROR\0C57014\0\0"), (b'Z', b"I")], Told::Several),
        ] {
            let mut session = Session::new(Keep::Transaction, true, ClientSettings::default());
            let (mut server, mut out) = (ServerState::new(10), Vec::new());
            (server.sequences, session.forgot_sequences) = (Told::Several, true);
            session.forget_others(&mut server, &mut out);
            assert!(out.starts_with(b"Q") && !session.is_drained());
            for (tag, body) in answers {
                assert_eq!(session.on_server(*tag, body, &mut server), Ok(Action::Swallow));
            }
            assert!(session.is_drained());
            assert_eq!((server.sequences, session.take_forgot_sequences()), (told, true));
        }
    }

    /// A session of PostgreSQL's: what each sequence gave there last, and which gave something last.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    struct Values {
        of: BTreeMap<u8, u32>,
        last: Option<u8>,
    }

    impl Values {
        fn take(&mut self, sequence: u8, value: u32) {
            self.of.insert(sequence, value);
            self.last = Some(sequence);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take { client: usize, server: usize, sequence: u8 },
        Forget { server: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..3_usize, 0..3_usize, 0..2_u8)
                .prop_map(|(client, server, sequence)| Step::Take { client, server, sequence }),
            1 => (0..3_usize).prop_map(|server| Step::Forget { server }),
        ]
    }

    proptest! {
        /// Where a session's past is, each value is what a server of its own would tell, or it is not defined.
        #[test]
        fn what_is_told_is_ones_own_and_the_newest(steps in prop::collection::vec(step(), 1..40)) {
            let (mut own, mut pasts, mut stays) = (vec![Values::default(); 3], [Past::None; 3], [0; 3]);
            let (mut servers, mut told) = (vec![Values::default(); 3], [Told::Nobodys; 3]);
            for (value, step) in (1_u32..).zip(steps) {
                match step {
                    Step::Take { client, server, sequence } => {
                        pasts[client].takes(&mut told[server], client as u64, &mut stays[client]);
                        own[client].take(sequence, value);
                        servers[server].take(sequence, value);
                    }
                    Step::Forget { server } => (servers[server], told[server]) = (Values::default(), Told::Nobodys),
                }
                for (client, past) in pasts.iter().enumerate() {
                    if *past == Past::None {
                        prop_assert_eq!(&own[client], &Values::default());
                    }
                    let Past::At(stay) = past else { continue };
                    let here = (0..3).filter(|server| told[*server] == Told::Of(*stay));
                    for server in here {
                        let (server, own) = (&servers[server], &own[client]);
                        prop_assert!(server.of.iter().all(|(name, value)| own.of.get(name) == Some(value)));
                        prop_assert!(server.last.is_none_or(|last| own.last == Some(last)));
                    }
                }
            }
        }

        /// Nobody is told of another's where it is not foreign.
        #[test]
        fn what_is_not_foreign_is_nobody_elses(steps in prop::collection::vec(step(), 1..40)) {
            let (mut pasts, mut stays, mut told) = ([Past::None; 3], [0; 3], [Told::Nobodys; 3]);
            let mut users = vec![Vec::new(); 3];
            for step in steps {
                match step {
                    Step::Take { client, server, .. } => {
                        pasts[client].takes(&mut told[server], client as u64, &mut stays[client]);
                        users[server].push(client);
                    }
                    Step::Forget { server } => {
                        told[server] = Told::Nobodys;
                        users[server].clear();
                    }
                }
                for (server, told) in told.iter().enumerate() {
                    for (client, past) in pasts.iter().enumerate() {
                        let others = users[server].iter().any(|user| *user != client);
                        prop_assert!(!others || told.is_foreign_to(*past));
                    }
                }
            }
        }
    }
}
