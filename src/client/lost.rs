//! A session that outlives its server.
//!
//! Where another server may become the primary, the loss of one ends what was under way on it and no more: the client is told by an
//! error, and goes on. What was done in an open transaction is gone, and the client must not be led to believe otherwise: its block
//! is a failed one, as if a statement in it had failed, until it ends it (COMMIT does that as ROLLBACK would, and says so). A COMMIT under
//! way, or a write that is a transaction of its own, may have been done; that is said as 08007 (transaction_resolution_unknown).
//! A block that had done nothing but begin begins again, unseen.
//!
//! A session whose state was on the server (pins, `pool_mode = "session"`, a COPY, half a message) ends with it.

use crate::client::block::Block;
use crate::client::relay::Link;
use crate::client::task::{Client, End};
use crate::config::{PoolMode, Role};
use crate::error::{Error, SqlState};
use crate::session::Intake;
use crate::sql::facts::{QueryFacts, StatementFacts, TransactionEffect};
use crate::wire::encode;
use crate::wire::message::TransactionStatus;

/// A block whose server is lost.
#[derive(Debug)]
pub(super) enum Lost {
    /// The client does not know yet, and is told by this.
    Untold(Box<Error>),
    /// It knows, and has not ended the block.
    Told,
    /// The same; a statement failed on one of the shards of the block, and all have rolled back.
    Spread {
        /// One server would have kept something over that, which the client does not know yet to be gone.
        kept: bool,
    },
}

impl Client {
    /// Whether the session can go on without the server that it had.
    pub(super) fn outlives(&self, link: &Link) -> bool {
        self.replicated(link.shard()).is_some()
            && self.pools.mode != PoolMode::Session
            && self.session.pins().is_empty()
            && !self.session.settings().needs_server()
            && link.is_between_messages()
            && !self.session.owed().copies
    }

    /// Goes on without the server: answers what is under way by an error, and remembers the block that is lost.
    pub(super) fn go_on_without(&mut self, mut link: Box<Link>, why: &Error) {
        let owed = self.session.owed();
        self.session.tell_settings_before(self.output.tail());
        let nothing_owed = owed.readies == 0 && !owed.open;
        if !nothing_owed {
            self.pass_over_pieces(self.segment.len);
        }
        link.forget(&mut self.session);
        if link.may_have_taken_values() {
            self.values.lose();
        }
        if nothing_owed && let Some(begun) = link.take_begun() {
            return self.hold_again(Some(begun));
        }
        self.cx.shared.count_retry("session_kept");
        let in_block = owed.status != TransactionStatus::Idle;
        let doubtful = match link.role() {
            // A block has written nothing there; what is in none may have done something beyond the database.
            Role::Replica => owed.in_doubt && owed.alone,
            // What looks like a read may write by what it names.
            _ => owed.in_doubt || (owed.alone && link.wrote()),
        };
        let error = if doubtful { in_doubt(why) } else { undone(why, in_block) };
        let told = !nothing_owed || owed.status == TransactionStatus::Failed;
        if in_block && !owed.ends_block {
            let lost = if told { Lost::Told } else { Lost::Untold(Box::new(error.clone())) };
            self.hold_again(Some(Block::lost(lost)));
        }
        let status = self.idle_status();
        for _ in 0..owed.readies {
            encode::error(self.output.tail(), &error);
            encode::ready_for_query(self.output.tail(), status);
        }
        if owed.open {
            if !owed.skipping {
                encode::error(self.output.tail(), &error);
            }
            self.skip_to_sync();
        }
    }

    /// Serves a segment of a client whose block is lost.
    pub(super) fn serve_lost(&mut self) -> Result<(), End> {
        let exit = self.leaves_block();
        match self.take_lost() {
            None => {}
            Some(Lost::Untold(error)) if exit != Some(TransactionEffect::Rollback { chain: false }) => {
                if exit.is_none() {
                    self.hold_again(Some(Block::lost(Lost::Told)));
                }
                self.refuse_here(&error);
            }
            Some(Lost::Spread { kept: true }) if exit.is_some() => self.answer_lost_state(),
            Some(Lost::Untold(_) | Lost::Told | Lost::Spread { .. }) if exit.is_some() => {
                // In a failed block COMMIT is ROLLBACK.
                self.answer_exit(Ok("ROLLBACK"));
            }
            Some(lost) if self.prepares_exit() || self.asks_nothing() || self.only_closes() => {
                self.hold_again(Some(Block::lost(lost)));
                let status = self.idle_status();
                self.answer_as(Ok(""), status);
            }
            Some(lost) => {
                let error = aborted(matches!(lost, Lost::Spread { .. }));
                self.hold_again(Some(Block::lost(lost)));
                if self.segment.items.iter().any(|(intake, _)| intake.needs_server()) || !self.answer_locally() {
                    self.refuse_here(&error);
                }
            }
        }
        Ok(())
    }

    /// What the segment is if it does nothing but end a block. To prepare that, or to bind it only, does not end it.
    pub(super) fn leaves_block(&self) -> Option<TransactionEffect> {
        let exit = |facts: &QueryFacts| match facts.statements.as_slice() {
            [only] => Some(only.transaction).filter(|effect| {
                matches!(
                    effect,
                    TransactionEffect::Commit { chain: false } | TransactionEffect::Rollback { chain: false }
                )
            }),
            _ => None,
        };
        let mut found = None;
        for (intake, _) in &self.segment.items {
            match intake {
                Intake::DescribePortal | Intake::Execute { .. } | Intake::Sync => {}
                Intake::CloseStatement { .. } | Intake::ClosePortal { .. } => {}
                intake => found = Some(exit(intake.facts()?)?),
            }
        }
        found.filter(|_| self.segment.runs_once())
    }

    /// Whether the segment does nothing but prepare how the block may be ended, which PostgreSQL does in a failed one as well.
    fn prepares_exit(&self) -> bool {
        let exits = |facts: &QueryFacts| {
            let effect = |s: &StatementFacts| {
                matches!(s.transaction, TransactionEffect::Commit { .. } | TransactionEffect::Rollback { .. })
            };
            matches!(facts.statements.as_slice(), [only] if effect(only))
        };
        self.segment.ends_with_sync()
            && self.segment.items.iter().all(|(intake, _)| match intake {
                Intake::Parse { .. } | Intake::DescribeStatement { .. } => {
                    intake.facts().is_some_and(|facts| exits(facts))
                }
                Intake::CloseStatement { .. } | Intake::Sync => true,
                _ => false,
            })
    }

    /// Whether it is a Query without a statement, which PostgreSQL answers in a failed block as well.
    fn asks_nothing(&self) -> bool {
        matches!(
            self.segment.items.as_slice(),
            [(Intake::Query(facts), _)] if facts.statements.is_empty() && facts.unparsed.is_none()
        )
    }

    /// Whether it closes and no more, which PostgreSQL does in a failed block as well. There is no portal any more.
    fn only_closes(&self) -> bool {
        let closes = |intake: &Intake| {
            matches!(intake, Intake::CloseStatement { .. } | Intake::ClosePortal { .. } | Intake::Sync | Intake::Flush)
        };
        self.segment.items.iter().all(|(intake, _)| closes(intake))
    }

    /// Answers a segment that ends a block: by a command tag, or by an ErrorResponse.
    pub(super) fn answer_exit(&mut self, told: Result<&str, &[u8]>) {
        self.answer_as(told, TransactionStatus::Idle);
    }

    /// The same; the session is in `status` then. Without a tag it was no statement.
    fn answer_as(&mut self, told: Result<&str, &[u8]>, status: TransactionStatus) {
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let complete = |out: &mut Vec<u8>| match told {
            Ok("") => encode::frame(out, b'I', |_| {}),
            Ok(tag) => encode::command_complete(out, tag),
            Err(error) => out.extend_from_slice(error),
        };
        // What comes behind an error has not happened, up to Sync.
        let (mut fails, mut behind) = (false, Vec::new());
        let goes_on = segment.goes_on();
        if let (Err(error), [(Intake::Sync, _)]) = (told, segment.items.as_slice()) {
            // It was the end of a block of ours.
            self.output.extend(error);
        }
        for (intake, _) in segment.items {
            if fails && !matches!(intake, Intake::Sync) {
                behind.push(intake);
                continue;
            }
            let out = self.output.tail();
            match intake {
                Intake::Query(_) => {
                    complete(out);
                    encode::ready_for_query(out, status);
                }
                Intake::Parse { .. } => out.extend_from_slice(encode::PARSE_COMPLETE),
                Intake::Bind { .. } => out.extend_from_slice(encode::BIND_COMPLETE),
                Intake::DescribePortal => out.extend_from_slice(encode::NO_DATA),
                Intake::DescribeStatement { .. } => {
                    // It takes no parameters.
                    encode::frame(out, b't', |body| body.extend_from_slice(&[0, 0]));
                    out.extend_from_slice(encode::NO_DATA);
                }
                Intake::Execute { .. } => {
                    complete(out);
                    fails = told.is_err();
                }
                Intake::CloseStatement { .. } | Intake::ClosePortal { .. } => {
                    out.extend_from_slice(encode::CLOSE_COMPLETE)
                }
                Intake::Sync if !goes_on => encode::ready_for_query(out, status),
                _ => {}
            }
        }
        behind.into_iter().rev().for_each(|intake| self.session.withdraw(intake));
        self.note_prepared();
    }
}

fn in_doubt(why: &Error) -> Error {
    Error::server(
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        format!("it is not known whether it was done: {}", why.message),
    )
    .detail("The server was lost between the request and its answer.")
    .hint("Find out whether it was done before it is done again. The session goes on.")
}

fn undone(why: &Error, in_block: bool) -> Error {
    let what = if in_block { "the transaction" } else { "the statement" };
    let error = Error::server(SqlState::ADMIN_SHUTDOWN, format!("{what} is lost: {}", why.message));
    if in_block {
        error.detail("Nothing of it was committed.").hint("Run the transaction again. The session goes on.")
    } else {
        error.hint("Run it again. The session goes on.")
    }
}

/// `spread`: it was not its only server that was lost.
fn aborted(spread: bool) -> Error {
    let why = if spread {
        "A statement failed in a block of several shards, which have all rolled back."
    } else {
        "Its server was lost."
    };
    Error::us(
        SqlState::IN_FAILED_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
    .detail(format!("{why} ROLLBACK ends the block, by itself and not as one of several statements of a text."))
}
