//! The connection of someone who came for the console: database `pgweir` or `pgbouncer`. What the console answers is decided in `admin`,
//! behind [`Console`].

mod extended;

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;

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

/// Someone at the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// The user it came as.
    pub user: String,
    /// Whether it runs as the same system user as this process, as the kernel says.
    pub owner: bool,
}

impl Visitor {
    /// Who comes over a unix socket from a process of our own system user, under one of the names of the console, is let in
    /// without a password and may do everything, as in PgBouncer: it could end this process anyway.
    #[must_use]
    pub fn new(user: &str, stream: &Stream) -> Self {
        let same = stream.peer_uid().is_some_and(|uid| uid == nix::unistd::geteuid().as_raw());
        Self { user: user.to_owned(), owner: same && DATABASES.contains(&user) }
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

    /// Runs one text: the messages of the answer, ReadyForQuery left out.
    fn run<'a>(&'a self, visitor: &'a Visitor, sql: &'a str) -> Pin<Box<dyn Future<Output = Vec<u8>> + 'a>>;
}

/// Serves a logged-in console user until it leaves.
///
/// # Errors
/// Those of the socket.
pub async fn serve(
    console: &dyn Console,
    visitor: &Visitor,
    stream: &mut Stream,
    input: &mut Buffer,
) -> io::Result<()> {
    let mut conversation = Conversation::default();
    loop {
        let (tag, body) = read_message(stream, input).await?;
        let mut out = Vec::new();
        match tag {
            b'X' => return Ok(()),
            b'Q' if conversation.is_skipping() => {}
            b'Q' => {
                match message::query(&body).map(std::str::from_utf8) {
                    Some(Ok(sql)) => out = console.run(visitor, sql).await,
                    _ => encode::error(
                        &mut out,
                        &Error::client(SqlState::PROTOCOL_VIOLATION, "the command is not valid UTF-8"),
                    ),
                }
                encode::ready_for_query(&mut out, TransactionStatus::Idle);
            }
            b'S' => {
                conversation.sync();
                encode::ready_for_query(&mut out, TransactionStatus::Idle);
            }
            b'H' => {}
            _ => out = conversation.take(console, visitor, tag, &body).await,
        }
        write_all(stream, &out).await?;
    }
}
