//! The connection of someone who came for the console: database `pgweir` or `pgbouncer`. What the console answers is decided in `admin`,
//! behind [`Console`].

use std::future::Future;
use std::io;
use std::pin::Pin;

use crate::error::{Error, SqlState};
use crate::net::buffer::write_all;
use crate::net::{Buffer, Stream};
use crate::server::connection::read_message;
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};

/// Databases that are the console.
pub const DATABASES: [&str; 2] = ["pgweir", "pgbouncer"];

/// Answers console commands.
pub trait Console {
    /// Whether `user` may connect at all.
    fn admits(&self, user: &str) -> bool;

    /// Runs one text as `user`: the messages of the answer, ReadyForQuery left out.
    fn run<'a>(&'a self, user: &'a str, sql: &'a str) -> Pin<Box<dyn Future<Output = Vec<u8>> + 'a>>;
}

/// Serves a logged-in console user until it leaves.
///
/// # Errors
/// Those of the socket.
pub async fn serve(console: &dyn Console, user: &str, stream: &mut Stream, input: &mut Buffer) -> io::Result<()> {
    let mut skipping = false;
    loop {
        let (tag, body) = read_message(stream, input).await?;
        let mut out = Vec::new();
        match tag {
            b'X' => return Ok(()),
            b'Q' => {
                match message::query(&body).map(std::str::from_utf8) {
                    Some(Ok(sql)) => out = console.run(user, sql).await,
                    _ => encode::error(
                        &mut out,
                        &Error::client(SqlState::PROTOCOL_VIOLATION, "the command is not valid UTF-8"),
                    ),
                }
                encode::ready_for_query(&mut out, TransactionStatus::Idle);
            }
            b'S' => {
                skipping = false;
                encode::ready_for_query(&mut out, TransactionStatus::Idle);
            }
            b'H' => {}
            _ if skipping => {}
            _ => {
                skipping = true;
                let error = Error::client(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "the console takes commands by the simple query protocol only",
                );
                encode::error(
                    &mut out,
                    &error.hint("Use psql, or your driver's way to send a query without parameters."),
                );
            }
        }
        write_all(stream, &out).await?;
    }
}
