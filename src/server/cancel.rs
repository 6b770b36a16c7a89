//! Cancelling what a server process is doing.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use crate::config::TcpSettings;
use crate::error::{Error, SqlState};
use crate::net::buffer::write_all;
use crate::net::connect::Attempt;
use crate::net::dns::Dns;
use crate::net::tls::Connector;
use crate::net::{Buffer, Stream};
use crate::server::connection::Secret;
use crate::server::{Address, dial};
use crate::wire::encode;

/// Asks the server to cancel the statement of process `pid`, encrypted as `attempt` says, and waits until the server has closed the
/// connection of the request: the signal is then sent, so it cannot hit what the process does next. False: the server did not close
/// it within `timeout`, and the signal may come at any time. `sent` is called when the server has been asked.
///
/// # Errors
/// When the server cannot be reached within `timeout`: it has not been asked.
pub async fn cancel(
    address: Address<'_>,
    (pid, secret): (u32, &Secret),
    timeout: Duration,
    attempt: Attempt,
    means: (&Connector, &Dns),
    sent: impl FnOnce(),
) -> Result<bool, Error> {
    let stream = dial::dial(address, timeout, &TcpSettings::default(), attempt, means.0, means.1).await??;
    // However the connection ended, the process behind it is done with the request.
    Ok(tokio::time::timeout(timeout, send(stream, pid, secret, sent)).await.is_ok())
}

/// Connects to another process like us, in the ways of `server_tls_sslmode` one after the other.
///
/// # Errors
/// When it cannot be reached, or not in any of these ways: the error of the first, which is the one preferred.
pub async fn reach(
    address: Address<'_>,
    timeout: Duration,
    tcp: &TcpSettings,
    (connector, dns): (&Connector, &Dns),
) -> Result<Stream, Error> {
    let mut first = None;
    for attempt in Attempt::of(connector.mode, address.host) {
        match dial::dial(address, timeout, tcp, *attempt, connector, dns).await? {
            Ok(stream) => return Ok(stream),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| Error::us(SqlState::INTERNAL_ERROR, "no way to connect was tried")))
}

/// Sends the request, tells so by `sent`, and waits until the other side has closed the connection.
///
/// # Errors
/// Of the connection: the other side may not have got the request.
pub async fn send(mut stream: Stream, pid: u32, secret: &Secret, sent: impl FnOnce()) -> io::Result<()> {
    let mut request = Vec::new();
    encode::cancel_request(&mut request, pid, &secret.0);
    write_all(&mut stream, &request).await?;
    sent();
    let mut input = Buffer::default();
    while poll_fn(|cx| input.poll_fill(&mut stream, cx)).await? > 0 {
        input = Buffer::default();
    }
    Ok(())
}
