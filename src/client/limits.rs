//! How long a client may take: the limits on its statements, its transactions and its rests, and one timer for whichever of them
//! comes next. Without a limit there is no timer.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::client::task::Client;
use crate::config::Config;
use crate::error::{Error, SqlState};

/// The limits of a client; zero: none.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    query: Micros,
    transaction: Micros,
    idle_transaction: Micros,
    client_idle: Micros,
    pinned_idle: Micros,
    query_wait: Micros,
}

/// The limits of clients that have the same ones, as most have.
#[derive(Debug, Default)]
pub struct CommonLimits(RefCell<Rc<Limits>>);

impl CommonLimits {
    /// These, shared with who came before if that one has the same.
    pub(super) fn share(&self, limits: Limits) -> Rc<Limits> {
        let mut last = self.0.borrow_mut();
        if **last != limits {
            *last = Rc::new(limits);
        }
        Rc::clone(&last)
    }
}

/// A duration in whole microseconds: half as large as a [`Duration`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Micros(u64);

impl Micros {
    /// What is shorter than a microsecond, but no limit of zero, is a microsecond.
    fn of(limit: Duration) -> Self {
        Self(super::task::micros(limit).max(u64::from(!limit.is_zero())))
    }

    fn is_zero(self) -> bool {
        self.0 == 0
    }

    fn get(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

/// Which limit was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// `query_timeout`: a statement is not answered.
    Query,
    /// `transaction_timeout`: a transaction has not ended.
    Transaction,
    /// `idle_transaction_timeout`: the client says nothing in a transaction.
    IdleTransaction,
    /// `client_idle_timeout`: the client says nothing outside of one.
    ClientIdle,
    /// `pinned_idle_timeout`: the same, and it keeps a server.
    PinnedIdle,
}

impl Limits {
    /// Those of a user of a database: the user's own come before the database's, and these before the process's.
    pub(super) fn of(config: &Config, database: &str, user: &str) -> Self {
        let general = &config.general;
        let user = config.users.get(user);
        let database = config.databases.get(database).or(config.wildcard.as_ref());
        let pinning = database.map_or(&general.pinning, |d| &d.pinning);
        let own_wait = user.and_then(|u| u.query_wait_timeout).or(database.and_then(|d| d.query_wait_timeout));
        let of = |own: Option<Duration>, general: Duration| Micros::of(own.unwrap_or(general));
        Self {
            query: of(user.and_then(|u| u.query_timeout), general.query_timeout),
            transaction: of(user.and_then(|u| u.transaction_timeout), general.transaction_timeout),
            idle_transaction: of(user.and_then(|u| u.idle_transaction_timeout), general.idle_transaction_timeout),
            client_idle: of(user.and_then(|u| u.client_idle_timeout), general.client_idle_timeout),
            pinned_idle: Micros::of(pinning.pinned_idle_timeout),
            query_wait: of(own_wait, general.query_wait_timeout),
        }
    }

    /// How long the client may wait for a server when it has waited for `waited`, of this for `queued` in the queue that it stands in, and
    /// whether it is the statement's time that is up then; none: for ever.
    pub(super) fn wait(&self, waited: Duration, queued: Duration) -> Option<(Duration, Option<Overdue>)> {
        let query = (!self.query.is_zero()).then(|| (self.query.get().saturating_sub(waited), Some(Overdue::Query)));
        let wait = (!self.query_wait.is_zero()).then(|| (self.query_wait.get().saturating_sub(queued), None));
        query.into_iter().chain(wait).min_by_key(|(limit, _)| *limit)
    }

    /// How long a client or a login waits for a server at most; zero: for ever.
    pub(super) fn most_wait(&self) -> Duration {
        self.query_wait.get()
    }

    /// When a client that has rested since `since` has rested too long, in a block that no server has seen or outside of one.
    /// `begun`: when servers have begun its transaction.
    pub(super) fn rest_between(
        &self,
        since: Instant,
        in_block: bool,
        begun: Option<Instant>,
    ) -> Option<(Instant, Overdue)> {
        let transaction = begun.and_then(|begun| due(begun, self.transaction, Overdue::Transaction));
        self.rest(since, in_block).into_iter().chain(transaction).min_by_key(|(at, _)| *at)
    }

    fn rest(&self, since: Instant, in_block: bool) -> Option<(Instant, Overdue)> {
        let (limit, overdue) = if in_block {
            (self.idle_transaction, Overdue::IdleTransaction)
        } else {
            (self.client_idle, Overdue::ClientIdle)
        };
        due(since, limit, overdue)
    }

    /// When a statement that was asked at `since` takes too long, in a transaction that began at `begun`; none: it is alone in it.
    pub(super) fn statement(&self, since: Instant, begun: Option<Instant>) -> Option<(Instant, Overdue)> {
        let query = due(since, self.query, Overdue::Query);
        let transaction = due(begun.unwrap_or(since), self.transaction, Overdue::Transaction);
        query.into_iter().chain(transaction).min_by_key(|(at, _)| *at)
    }

    /// Whether rests are limited; `begun`: in a transaction that servers have begun.
    pub(super) fn any_of_rest(&self, begun: bool) -> bool {
        !(self.client_idle.is_zero() && self.idle_transaction.is_zero() && (!begun || self.transaction.is_zero()))
    }

    /// Whether what happens on a server is limited.
    pub(super) fn any_of_link(&self) -> bool {
        self.any_of_rest(true) || !(self.query.is_zero() && self.pinned_idle.is_zero())
    }

    /// The setting of a limit.
    pub(super) fn setting(overdue: Overdue) -> &'static str {
        match overdue {
            Overdue::Query => "query_timeout",
            Overdue::Transaction => "transaction_timeout",
            Overdue::IdleTransaction => "idle_transaction_timeout",
            Overdue::ClientIdle => "client_idle_timeout",
            Overdue::PinnedIdle => "pinned_idle_timeout",
        }
    }

    /// What the client is told.
    fn error(&self, overdue: Overdue) -> Error {
        let (state, what, limit) = match overdue {
            Overdue::Query => (SqlState::QUERY_CANCELED, "query timeout", self.query),
            Overdue::Transaction => (SqlState::TRANSACTION_TIMEOUT, "transaction timeout", self.transaction),
            Overdue::IdleTransaction => {
                (SqlState::IDLE_IN_TRANSACTION_TIMEOUT, "idle transaction timeout", self.idle_transaction)
            }
            Overdue::ClientIdle => (SqlState::IDLE_SESSION_TIMEOUT, "client idle timeout", self.client_idle),
            Overdue::PinnedIdle => (SqlState::IDLE_SESSION_TIMEOUT, "pinned idle timeout", self.pinned_idle),
        };
        let setting = Self::setting(overdue);
        Error::us_fatal(state, format!("terminating connection due to {what}"))
            .detail(format!("{setting} is {} s here.", limit.get().as_secs_f64()))
    }

    /// What the client is told when `query_timeout` is over before it got a server: its session goes on.
    pub(super) fn waited_in_vain(&self) -> Error {
        let limit = self.query.get().as_secs_f64();
        Error::us(
            SqlState::QUERY_CANCELED,
            format!(
                "canceling statement due to query timeout: no server connection became free within {limit} s (query_timeout)"
            ),
        )
    }
}

impl Client {
    /// Counts that a limit is passed: what the client is told.
    pub(super) fn time_is_up(&self, overdue: Overdue) -> Error {
        self.cx.shared.count_timeout(Limits::setting(overdue));
        self.limits.error(overdue)
    }
}

fn due(since: Instant, limit: Micros, overdue: Overdue) -> Option<(Instant, Overdue)> {
    let at = (!limit.is_zero()).then(|| since.checked_add(limit.get())).flatten();
    at.map(|at| (at, overdue))
}

/// What happens between a client and its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doing {
    /// An answer is still to come.
    pub(super) in_flight: bool,
    /// A transaction is open, or what is in flight may have begun one.
    pub(super) in_transaction: bool,
    /// The client keeps the server for its session's state.
    pub(super) pinned: bool,
    /// Grows with what the client sends.
    pub(super) asked: u64,
    /// Statements answered.
    pub(super) answered: u64,
    /// Transactions ended.
    pub(super) transactions: u64,
}

/// Since when a client does what it does with its server.
#[derive(Debug)]
pub(super) struct Watch {
    /// The statement that is under way.
    query: Option<Instant>,
    rest: Option<Instant>,
    transaction: Option<Instant>,
    last: Option<Doing>,
    /// When the client asked for the server.
    asked: Instant,
    /// When its transaction began, if it did on another.
    begun: Option<Instant>,
}

impl Watch {
    /// Of a client that asked for a server at that time.
    pub(super) fn new(asked: Instant) -> Self {
        Self { query: None, rest: None, transaction: None, last: None, asked, begun: None }
    }

    /// The same in the middle of a transaction that began then.
    pub(super) fn within(asked: Instant, begun: Option<Instant>) -> Self {
        Self { begun, ..Self::new(asked) }
    }

    /// Since when a transaction is open.
    pub(super) fn transaction(&self) -> Option<Instant> {
        self.transaction
    }

    /// Which limit is passed next, and when.
    ///
    /// A statement's time begins anew when the client sends more, and when a statement before it is answered: neither data that is
    /// copied in nor a long pipeline is one statement that hangs.
    pub(super) fn next(&mut self, limits: &Limits, doing: Doing, now: Instant) -> Option<(Instant, Overdue)> {
        let first = self.last.is_none().then_some(self.asked);
        let goes_on = |part: fn(Doing) -> (u64, u64)| self.last.is_some_and(|last| part(last) == part(doing));
        let (same_query, same_transaction) = (goes_on(|d| (d.asked, d.answered)), goes_on(|d| (d.transactions, 0)));
        let since = |known: Option<Instant>, same: bool| known.filter(|_| same).or(first).unwrap_or(now);
        self.query = doing.in_flight.then(|| since(self.query, same_query));
        if self.last.is_some() && !same_transaction {
            self.begun = None;
        }
        self.transaction =
            doing.in_transaction.then(|| self.begun.unwrap_or_else(|| since(self.transaction, same_transaction)));
        self.rest = (!doing.in_flight).then(|| self.rest.filter(|_| same_query).unwrap_or(now));
        self.last = Some(doing);
        let query = self.query.and_then(|since| due(since, limits.query, Overdue::Query));
        let transaction = self.transaction.and_then(|since| due(since, limits.transaction, Overdue::Transaction));
        let rest = self.rest.and_then(|since| limits.rest(since, doing.in_transaction));
        let pinned = self.rest.filter(|_| doing.pinned && !doing.in_transaction);
        let pinned = pinned.and_then(|since| due(since, limits.pinned_idle, Overdue::PinnedIdle));
        [query, rest, pinned, transaction].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

/// One timer for all limits of a client. It is moved only when it has gone off: limits that are moved on with every statement cost
/// nothing but the look at the clock.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Whether it is that time; if not, the task is woken then, or before.
    pub(super) fn passed(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let at = at.into();
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= at {
                return true;
            }
            sleep.as_mut().reset(at);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SECOND: Duration = Duration::from_secs(1);
    const fn seconds(n: u64) -> Micros {
        Micros(n * 1_000_000)
    }

    const ALL: Limits = Limits {
        query: seconds(1),
        transaction: seconds(5),
        idle_transaction: seconds(2),
        client_idle: seconds(3),
        pinned_idle: seconds(2),
        query_wait: seconds(4),
    };
    const ASKED: Doing =
        Doing { in_flight: true, in_transaction: true, pinned: false, asked: 10, answered: 0, transactions: 0 };

    #[test]
    fn a_statement_is_counted_from_its_request_and_a_new_one_anew() {
        let start = clock::now();
        let mut watch = Watch::new(start);
        let at = |seconds: u32| start + SECOND * seconds;
        assert_eq!(watch.next(&ALL, ASKED, at(9)), Some((at(1), Overdue::Query)), "the wait counts");
        assert_eq!(watch.next(&ALL, ASKED, at(10)), Some((at(1), Overdue::Query)));
        let mut watch = Watch::new(start);
        watch.next(&ALL, ASKED, start);
        let more = Doing { asked: 11, ..ASKED };
        assert_eq!(watch.next(&ALL, more, at(2)), Some((at(3), Overdue::Query)));
        let answered = Doing { answered: 1, ..more };
        assert_eq!(watch.next(&ALL, answered, at(3)), Some((at(4), Overdue::Query)));
        assert_eq!(watch.next(&ALL, answered, at(4)), Some((at(4), Overdue::Query)));
    }

    #[test]
    fn nothing_in_flight_is_no_query_and_a_transaction_is_one_from_its_begin_to_its_end() {
        let start = clock::now();
        let mut watch = Watch::new(start);
        let at = |seconds: u32| start + SECOND * seconds;
        watch.next(&ALL, ASKED, start);
        let open = Doing { in_flight: false, answered: 1, ..ASKED };
        assert_eq!(watch.next(&ALL, open, at(1)), Some((at(3), Overdue::IdleTransaction)));
        assert_eq!(watch.next(&ALL, open, at(2)), Some((at(3), Overdue::IdleTransaction)));
        let again = Doing { asked: 20, answered: 4, ..open };
        assert_eq!(watch.next(&ALL, again, at(4)), Some((at(5), Overdue::Transaction)));
        let over = Doing { in_transaction: false, transactions: 1, ..again };
        assert_eq!(watch.next(&ALL, over, at(4)), Some((at(7), Overdue::ClientIdle)));
        let pinned = Doing { pinned: true, ..over };
        assert_eq!(watch.next(&ALL, pinned, at(4)), Some((at(6), Overdue::PinnedIdle)));
        let in_block = Watch::new(start).next(&ALL, Doing { in_transaction: true, ..pinned }, at(0));
        assert_eq!(in_block, Some((at(2), Overdue::IdleTransaction)), "a block has its own limit");
        let next = Doing { asked: 30, transactions: 1, ..ASKED };
        assert_eq!(watch.next(&Limits { query: seconds(0), ..ALL }, next, at(6)), Some((at(11), Overdue::Transaction)));
    }

    #[test]
    fn what_comes_first_ends_the_wait() {
        assert_eq!(ALL.wait(Duration::ZERO, Duration::ZERO), Some((SECOND, Some(Overdue::Query))));
        assert_eq!(ALL.wait(SECOND * 2, Duration::ZERO), Some((Duration::ZERO, Some(Overdue::Query))));
        let slow = Limits { query: seconds(9), ..ALL };
        assert_eq!(slow.wait(SECOND, Duration::ZERO), Some((SECOND * 4, None)));
        let none = Limits { query: seconds(0), query_wait: seconds(0), ..ALL };
        assert_eq!(slow.wait(SECOND * 3, SECOND * 3), Some((SECOND, None)));
        assert_eq!(none.wait(SECOND, Duration::ZERO), None);
    }
}
