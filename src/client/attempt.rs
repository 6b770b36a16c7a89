//! A segment on a server, and on another where that is certain to be unnoticed.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client::failover::Waiting;
use crate::client::plan::{Need, Question};
use crate::client::relay::{Cause, Ended};
use crate::client::shared::Activity;
use crate::client::task::{Client, End, Stopped, cancelled, lost};
use crate::clock;
use crate::config::Role;
use crate::error::{Error, SqlState};
use crate::health::line::Place;
use crate::id::{ServerIndex, ShardIndex};
use crate::server::login;
use crate::sql::facts::{Access, QueryFacts};

/// How often a statement may lose its server in all.
const MOST_FAILURES: u32 = 16;
/// How long a server that loses one process may take to die altogether.
const DYING: Duration = Duration::from_millis(100);
/// How often a statement may come to a session that ends.
const MOST_ENDED: u32 = 6;
/// How long sessions of a server take to end that are told to.
const ENDING: Duration = Duration::from_millis(10);
/// How long a server may take to answer a startup message, when the question is whether it is there.
const ANSWER: Duration = Duration::from_secs(2);

/// What a retry of a segment must do differently.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Servers that were tried.
    pub(super) excluded: Vec<ServerIndex>,
    pub(super) primary: bool,
    /// How often a server that had the segment was of no use for it. No wait begins that anew.
    failures: u32,
    /// What became of it on a server that lives: it ended the process that served it.
    pub(super) crash: Option<Error>,
    /// When the segment was first asked for.
    pub(super) asked: Instant,
    /// The wait for a primary, if there has been one.
    pub(super) waiting: Option<Waiting>,
    /// Its place before all others who wait, until it stands in a pool's queue.
    pub(super) place: Option<Place>,
    /// Whether it waits for a primary.
    pub(super) stays: Stays,
    /// The client's settings may go to the server with what it asks for, rather than before.
    pub(super) ahead: bool,
    /// See [`Need::question`].
    pub(super) question: Question,
}

/// What is done where there is no primary, and one may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stays {
    /// It is waited for.
    Waits,
    /// It is not, for connections are held that others need.
    Leaves,
    /// That has happened: what was given as an error is no more than this.
    Left,
}

/// What came of a segment on a server.
pub(super) struct Tried {
    pub(super) ended: Ended,
    /// The client wrote there.
    pub(super) wrote: bool,
    pub(super) role: Role,
    pub(super) shard: ShardIndex,
    pub(super) server: ServerIndex,
}

impl Attempt {
    /// The first, now.
    pub(super) fn new() -> Self {
        let (excluded, stays) = (Vec::new(), Stays::Waits);
        Self {
            excluded,
            primary: false,
            failures: 0,
            crash: None,
            asked: clock::moment(),
            waiting: None,
            place: None,
            stays,
            ahead: false,
            question: Question::None,
        }
    }
}

impl Client {
    /// Gets a server and relays; again on another where that is certain to be unnoticed.
    pub(super) async fn execute(&mut self, need: Need) -> Result<(), End> {
        let question = need.question;
        let attempt = Attempt { ahead: self.may_follow_settings(), question, ..Attempt::new() };
        self.execute_from(need, attempt, None).await
    }

    /// The same, where a server may have been `tried` already.
    pub(super) async fn execute_from(
        &mut self,
        mut need: Need,
        mut attempt: Attempt,
        mut tried: Option<Tried>,
    ) -> Result<(), End> {
        // Once is enough: what fails as an unnamed statement too is wrong by itself, and would be tried for ever.
        let mut leaves_unnamed = false;
        let handle = Arc::clone(self.handle());
        let cancels = handle.cancels_sent.load(Ordering::Acquire);
        loop {
            let Tried { ended, wrote, role, shard, server } = match tried.take() {
                Some(tried) => tried,
                None => {
                    let (shard, request) = self.request(&need, &attempt);
                    let link = match self.link(shard, &request, &mut attempt).await {
                        Ok(link) => link,
                        Err(Stopped::Refused(error)) => {
                            let told = attempt.crash.take().filter(|_| error.sqlstate != SqlState::QUERY_CANCELED);
                            return self.give_up(told.as_ref().unwrap_or(&error), &error);
                        }
                        Err(Stopped::End(end)) => return Err(end),
                    };
                    let (role, server) = (link.role(), link.server());
                    let (ended, wrote) = self.relay(link, &need).await;
                    Tried { ended, wrote, role, shard, server }
                }
            };
            if wrote {
                self.has_written(clock::now());
            }
            match ended {
                Ended::Released => return Ok(()),
                Ended::Spread(link) => {
                    self.spread_from(link);
                    return Ok(());
                }
                Ended::Client(end) => return Err(end),
                Ended::Again => {
                    self.cx.shared.count_retry("kept_plan");
                    leaves_unnamed = true;
                    self.gather_again(leaves_unnamed)?;
                }
                Ended::PassedOver { refused } => {
                    self.cx.shared.count_retry(if refused { "settings" } else { "elsewhere" });
                    attempt.ahead = false;
                    self.gather_again(leaves_unnamed)?;
                    if handle.cancels_sent.load(Ordering::Acquire) != cancels {
                        // It has hit what went ahead of the statement that it meant.
                        return self.give_up(&cancelled(), &cancelled());
                    }
                }
                Ended::Retry(cause) => {
                    self.gather_again(leaves_unnamed)?;
                    attempt.failures += 1;
                    if cause != Cause::Rested {
                        attempt.excluded.push(server);
                    }
                    match cause {
                        Cause::NeedsPrimary { writes } => {
                            attempt.primary = true;
                            if writes {
                                (need.access, need.wrote) = (Access::Write, true);
                            }
                            self.remember_refusal(writes);
                        }
                        Cause::Broken { sent: true } => match self.serves_on(shard, server).await {
                            Ok(false) => {}
                            Ok(true) if attempt.crash.is_some() => return self.give_up(&crashed(), &crashed()),
                            Ok(true) => {
                                attempt.crash = Some(crashed());
                                // Once more, but not where it could end the work of all, and not when it has become another.
                                attempt.stays = Stays::Leaves;
                            }
                            Err(Stopped::Refused(error)) => return self.give_up(&error, &error),
                            Err(Stopped::End(end)) => return Err(end),
                        },
                        Cause::Terminated => match self.takes_logins(shard, server).await {
                            Ok(false) => {}
                            // It was this session that somebody wanted to end.
                            Ok(true) => return self.give_up(&terminated(), &terminated()),
                            Err(Stopped::Refused(error)) => return self.give_up(&error, &error),
                            Err(Stopped::End(end)) => return Err(end),
                        },
                        Cause::Rested if attempt.failures > MOST_ENDED => {
                            return Err(End::Told(lost("its sessions are ended as soon as they are asked anything")));
                        }
                        // Others are told to end with it: their time to do that is waited for.
                        Cause::Rested => match self.attend(tokio::time::sleep(ENDING), ENDING * 2).await {
                            Ok(_) => {}
                            Err(Stopped::Refused(error)) => return self.give_up(&error, &error),
                            Err(Stopped::End(end)) => return Err(end),
                        },
                        Cause::Broken { sent: false } | Cause::Leaves => {}
                    }
                    tracing::info!(client = %self.handle().id, ?role, ?cause, "statement is retried on another server");
                    self.cx.shared.count_retry(match cause {
                        Cause::NeedsPrimary { .. } => "needs_primary",
                        Cause::Rested => "ended",
                        Cause::Leaves | Cause::Terminated | Cause::Broken { .. } => "elsewhere",
                    });
                    if attempt.failures > MOST_FAILURES {
                        return Err(End::Told(lost("too many servers failed")));
                    }
                }
            }
        }
    }

    /// The segment was taken for a read, and a standby would not do it: from now on it goes to the primary at once.
    fn remember_refusal(&self, writes: bool) {
        let all: Vec<_> = self.segment.items.iter().filter_map(|(intake, _)| intake.facts()).collect();
        // Which of several it was is not known, but where some cannot have been it, they were not.
        let some = writes && all.iter().any(|facts| !facts.plainly_reads());
        let refused = all.into_iter().filter(|facts| !some || !facts.plainly_reads());
        self.refuse_on_replicas(refused, writes);
    }

    /// These texts go to the primary at once from now on.
    pub(super) fn refuse_on_replicas<'a>(&self, texts: impl Iterator<Item = &'a Arc<QueryFacts>>, writes: bool) {
        let mut readings = self.pools.readings.lock();
        readings.follow(self.database.catalog_epoch.load(Ordering::Acquire));
        texts.for_each(|facts| readings.refuse(facts, if writes { Access::Write } else { Access::Local }));
    }

    /// Answers the segment by an error of ours. A block that was held back never began, and it has failed: the session ends with `why`.
    fn give_up(&mut self, told: &Error, why: &Error) -> Result<(), End> {
        self.refuse_here(told);
        if self.held_begin.take().is_some() {
            return Err(End::Told(why.clone().fatal()));
        }
        Ok(())
    }

    /// Whether a server that broke a connection without a word still answers logins: then it was one of its processes that died, and what
    /// that was asked may be why. (When one has crashed, the server ends all others, but answers, if only to say that it recovers: 57P03.)
    ///
    /// # Errors
    /// Those of [`Client::attend`]: the client cancels or leaves meanwhile.
    async fn serves_on(&mut self, shard: ShardIndex, server: ServerIndex) -> Result<bool, Stopped> {
        let Some(pool) = self.database.pool(&self.pools, shard, server) else { return Ok(false) };
        // What dies as a whole does not do so at once.
        let settings = pool.login_settings();
        self.ask_in_time(login::is_answered(&pool.target, &settings)).await
    }

    /// Whether a server that has ended a session takes new ones: one that is shutting down does not, from the first moment on.
    ///
    /// # Errors
    /// As for [`Self::serves_on`].
    async fn takes_logins(&mut self, shard: ShardIndex, server: ServerIndex) -> Result<bool, Stopped> {
        let Some(pool) = self.database.pool(&self.pools, shard, server) else { return Ok(false) };
        let worker = self.cx.id;
        let settings = pool.login_settings();
        self.ask_in_time(async { login::login(&pool.target, &settings, worker).await.is_ok() }).await
    }

    /// The answer to a question about a server, asked when it has had the time to die; no, if it takes too long.
    async fn ask_in_time(&mut self, question: impl Future<Output = bool>) -> Result<bool, Stopped> {
        let asked = async {
            tokio::time::sleep(DYING).await;
            question.await
        };
        // So that a cancel request finds it.
        self.handle().set_activity(Activity::Waiting);
        let answered = Box::pin(self.attend(asked, DYING + ANSWER)).await;
        self.handle().cancel_is_done();
        self.handle().set_activity(Activity::Idle);
        answered.map(|answered| answered.unwrap_or(false))
    }

    /// Reads the segment once more that was put back into the input; `as_it_came`: with its unnamed statements as such.
    fn gather_again(&mut self, as_it_came: bool) -> Result<(), End> {
        self.leaves_unnamed = as_it_came;
        let gathered = self.gather();
        self.leaves_unnamed = false;
        gathered.map_err(End::Told)?;
        if as_it_came {
            // Of a Bind or Describe whose Parse came in an earlier segment the session knows only what servers keep.
            self.segment.items.iter_mut().for_each(|(intake, _)| intake.leave_unnamed());
        }
        Ok(())
    }
}

/// The error of a write whose session the server has ended, and goes on.
fn terminated() -> Error {
    Error::server(SqlState::ADMIN_SHUTDOWN, "the statement is lost: its session was terminated on the server")
        .detail("Nothing of it was committed.")
        .hint("Run it again. The session goes on.")
}

/// The error of what may have ended the server's process that it ran in.
pub(super) fn crashed() -> Error {
    lost("server closed the connection unexpectedly")
        .detail("The server itself goes on: its process that ran the statement has ended, perhaps because of it.")
        .hint("The statement is not tried again. The server's log may tell why.")
}
