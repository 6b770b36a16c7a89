//! Making a connection to a server, as an error of ours tells of it.

use std::time::Duration;

use crate::config::TcpSettings;
use crate::error::{Error, SqlState};
use crate::net::Stream;
use crate::net::connect::{self, Attempt, Failure};
use crate::net::tls::Connector;
use crate::server::Address;

/// Connects within `timeout`, encrypted as `attempt` says. The inner error is one of TLS: another attempt may do without.
///
/// # Errors
/// 08006 when the server is not there or TLS fails, 08001 when it does not answer in time; the message says what was tried.
pub async fn dial(
    address: Address<'_>,
    timeout: Duration,
    tcp: &TcpSettings,
    attempt: Attempt,
    connector: &Connector,
) -> Result<Result<Stream, Error>, Error> {
    let connected = connect::connect(address.host, address.port, tcp, attempt, connector);
    let failed = |why: &dyn std::fmt::Display| {
        Error::server(SqlState::CONNECTION_FAILURE, format!("could not connect to server {address}: {why}"))
    };
    match tokio::time::timeout(timeout, connected).await {
        Ok(Ok(stream)) => Ok(Ok(stream)),
        Ok(Err(why @ Failure::Socket(_))) => Err(failed(&why)),
        Ok(Err(why @ (Failure::Tls(_) | Failure::NotOffered))) => Ok(Err(failed(&why))),
        Err(_) => Err(Error::server(
            SqlState::CANNOT_CONNECT,
            format!("could not connect to server {address}: no answer within {} s", timeout.as_secs_f64()),
        )),
    }
}
