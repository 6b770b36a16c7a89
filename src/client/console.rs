//! The connection of someone who came for the console: database `pgweir` or `pgbouncer`. What the console answers is decided in `admin`,
//! behind [`Console`].

mod binary;
mod extended;

use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::WorkerContext;
use super::shared::{Activity, ClientHandle, Order, Registered};
use super::task::terminated;
use crate::clock;
use crate::error::{Error, SqlState};
use crate::net::buffer::write_all;
use crate::net::{Buffer, Stream};
use crate::server::connection::read_message;
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};
use extended::Conversation;

/// Databases that are the console.
pub const DATABASES: [&str; 2] = ["pgweir", "pgbouncer"];

/// The startup parameter by which another process says that it wants to take over.
pub const TAKEOVER: &str = "pgweir.takeover";

/// The name under which the console is shown, as the tools for PgBouncer know it.
pub const NAME: &str = "pgbouncer";

/// Of what comes while a command runs, this much is read ahead.
const READ_AHEAD: usize = 64 * 1024;

/// Someone at the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// The user it came as.
    pub user: String,
    /// Whether it runs as the same system user as this process, as the kernel says.
    pub owner: bool,
    /// Whether the user was checked as the configuration wants it; under `auth_type = any` he is not.
    pub checked: bool,
}

impl Visitor {
    /// Who comes over a unix socket from a process of our own system user, under one of the names of the console, is let in
    /// without a password and may do everything, as in PgBouncer: it could end this process anyway.
    #[must_use]
    pub fn new(user: &str, stream: &Stream) -> Self {
        let same = stream.peer_uid().is_some_and(|uid| uid == nix::unistd::geteuid().as_raw());
        Self { user: user.to_owned(), owner: same && DATABASES.contains(&user), checked: false }
    }
}

/// Answers console commands.
pub trait Console {
    /// Whether someone may connect at all.
    fn admits(&self, visitor: &Visitor) -> bool;

    /// Whether a text is a command that only shows something, and may as well be run twice.
    fn only_shows(&self, sql: &str) -> bool;

    /// A process of our own system user wants to take over, and listens at the other end.
    fn hand_over(&self, successor: UnixStream);

    /// Runs one text: the messages of the answer, ReadyForQuery left out. Dropped before its end, it takes back what it has begun.
    fn run<'a>(&'a self, visitor: &'a Visitor, sql: &'a str) -> Pin<Box<dyn Future<Output = Vec<u8>> + 'a>>;
}

/// Serves a logged-in console user until it leaves.
///
/// # Errors
/// Those of the socket.
pub async fn serve(
    cx: Rc<WorkerContext>,
    visitor: &Visitor,
    stream: &mut Stream,
    input: &mut Buffer,
    registered: Registered,
) -> io::Result<()> {
    let mut conversation = Conversation::default();
    let mut registered = Some(registered);
    while let Some(handle) = registered.as_ref().map(|registered| Arc::clone(&registered.handle)) {
        let next = unless_ended(&handle, read_message(stream, input)).await;
        let Some(next) = next else { return farewell(stream).await };
        let (tag, body) = next?;
        let mut out = Vec::new();
        match tag {
            b'X' => return Ok(()),
            b'Q' if conversation.is_skipping() => {}
            b'S' => {
                conversation.sync();
                encode::ready_for_query(&mut out, TransactionStatus::Idle);
            }
            b'H' => {}
            _ => {
                handle.asks(clock::now().saturating_duration_since(cx.shared.started));
                handle.set_activity(Activity::Waiting);
                let answer = answer(&*cx.console, &mut conversation, visitor, tag, &body);
                let attended = attend(answer, stream, input, &handle, || registered = None).await;
                // A cancel request may have come too late.
                handle.set_activity(Activity::Idle);
                handle.cancel_is_done();
                match attended {
                    Attended::Done(answer) => out = answer,
                    Attended::Cancelled => {
                        conversation.fail(tag);
                        encode::error(&mut out, &cancelled());
                    }
                    Attended::Ended => return farewell(stream).await,
                }
                if tag == b'Q' {
                    encode::ready_for_query(&mut out, TransactionStatus::Idle);
                }
            }
        }
        write_all(stream, &out).await?;
    }
    Ok(())
}

async fn answer(
    console: &dyn Console,
    conversation: &mut Conversation,
    visitor: &Visitor,
    tag: u8,
    body: &[u8],
) -> Vec<u8> {
    if tag != b'Q' {
        return conversation.take(console, visitor, tag, body).await;
    }
    match message::query(body).map(std::str::from_utf8) {
        Some(Ok(sql)) => console.run(visitor, sql).await,
        _ => {
            let mut out = Vec::new();
            let error = Error::client(SqlState::PROTOCOL_VIOLATION, "the command is not valid UTF-8");
            encode::error(&mut out, &error);
            out
        }
    }
}

/// What became of a command.
enum Attended {
    /// It is done: the answer.
    Done(Vec<u8>),
    /// A cancel request came; the command has taken back what it had begun.
    Cancelled,
    /// KILL_CLIENT came.
    Ended,
}

/// Runs a command while its user is there. One who has left does not stop it (PAUSE goes on), but is `gone` from then on.
async fn attend(
    answer: impl Future<Output = Vec<u8>>,
    stream: &mut Stream,
    input: &mut Buffer,
    handle: &ClientHandle,
    gone: impl FnOnce(),
) -> Attended {
    let mut answer = pin!(answer);
    let mut gone = Some(gone);
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Attended::Done(answer));
        }
        // What it rings for is looked at below.
        handle.bell.has_rung(cx);
        match handle.standing_order() {
            Order::Cancel => return Poll::Ready(Attended::Cancelled),
            Order::Kill => return Poll::Ready(Attended::Ended),
            Order::None | Order::Drain => {}
        }
        while gone.is_some() && input.len() < READ_AHEAD {
            match input.poll_fill(stream, cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => gone.take().into_iter().for_each(|gone| gone()),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits for `future`; none if KILL_CLIENT came.
async fn unless_ended<T>(handle: &ClientHandle, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // What it rings for is looked at below.
        handle.bell.has_rung(cx);
        // It came too late.
        handle.cancel_is_done();
        if handle.standing_order() == Order::Kill {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

async fn farewell(stream: &mut Stream) -> io::Result<()> {
    let mut out = Vec::new();
    encode::error(&mut out, &terminated());
    write_all(stream, &out).await
}

fn cancelled() -> Error {
    Error::client(SqlState::QUERY_CANCELED, "canceling statement due to user request")
}
