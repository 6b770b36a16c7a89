//! Console commands that the process gives itself, because a signal means them: over a connection of its own, as its operator would.

use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use crate::client::console;
use crate::error::Error;
use crate::net::buffer::write_all;
use crate::net::stream::Detached;
use crate::net::{Buffer, Stream};
use crate::server::connection::read_message;
use crate::wire::{encode, message};
use crate::worker::Worker;

use super::accept;

/// Gives the process `sql` because a signal means it, and tells in the log what came of it where it was refused.
pub(super) fn give(workers: &Rc<Vec<Worker>>, sql: &'static str) {
    tracing::info!(command = sql, "a signal means a console command");
    let workers = Rc::clone(workers);
    tokio::task::spawn_local(async move {
        match run(&workers, sql).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(command = sql, %error, "the command that a signal meant was refused"),
            Err(error) => tracing::warn!(command = sql, %error, "the command that a signal meant could not be given"),
        }
    });
}

/// Runs `sql` on the console of one of the workers, and waits until it is done.
///
/// # Errors
/// Of the connection (outer), or of the command (inner).
async fn run(workers: &[Worker], sql: &str) -> io::Result<Result<(), Error>> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let refused = |_| io::Error::other("no worker takes the connection");
    accept::hand(workers, Detached::Unix(theirs)).map_err(refused)?;
    let mut stream = Stream::Unix(tokio::net::UnixStream::from_std(ours)?);
    let mut input = Buffer::default();
    let mut out = Vec::new();
    let [_, console] = console::DATABASES;
    encode::startup(&mut out, &[("user", console), ("database", console)]);
    write_all(&mut stream, &out).await?;
    if let Err(refused) = answer(&mut stream, &mut input).await? {
        return Ok(Err(refused));
    }
    out.clear();
    encode::query(&mut out, sql.as_bytes());
    write_all(&mut stream, &out).await?;
    answer(&mut stream, &mut input).await
}

/// Reads up to ReadyForQuery, or to an error that ends the connection.
async fn answer(stream: &mut Stream, input: &mut Buffer) -> io::Result<Result<(), Error>> {
    let mut outcome = Ok(());
    loop {
        match read_message(stream, input).await {
            Ok((b'Z', _)) => return Ok(outcome),
            Ok((b'E', body)) => outcome = Err(message::server_error(&body)),
            Ok(_) => {}
            Err(_) if outcome.is_err() => return Ok(outcome),
            Err(error) => return Err(error),
        }
    }
}
