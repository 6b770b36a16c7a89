//! Making a socket to a server.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::config::{Host, TcpSettings};
use crate::error::{Error, SqlState};
use crate::net::Stream;
use crate::server::Address;

/// Connects within `timeout`.
///
/// # Errors
/// 08006 when the server is not there, 08001 when it does not answer in time; the message says what was tried.
pub async fn dial(address: Address<'_>, timeout: Duration, tcp: &TcpSettings) -> Result<Stream, Error> {
    let connected = tokio::time::timeout(timeout, connect(address)).await;
    match connected {
        Ok(Ok(stream)) => {
            stream.tune(tcp);
            Ok(stream)
        }
        Ok(Err(e)) => {
            Err(Error::server(SqlState::CONNECTION_FAILURE, format!("could not connect to server {address}: {e}")))
        }
        Err(_) => Err(Error::server(
            SqlState::CANNOT_CONNECT,
            format!("could not connect to server {address}: no answer within {} s", timeout.as_secs_f64()),
        )),
    }
}

async fn connect(address: Address<'_>) -> io::Result<Stream> {
    Ok(match address.host {
        Host::Tcp(host) => Stream::Tcp(TcpStream::connect((host.as_str(), address.port)).await?),
        Host::Several(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "one host must be chosen first")),
        Host::Unix(dir) => Stream::Unix(UnixStream::connect(dir.join(format!(".s.PGSQL.{}", address.port))).await?),
    })
}
