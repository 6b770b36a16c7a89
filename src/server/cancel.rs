//! Cancelling what a server process is doing.

use std::future::poll_fn;
use std::time::Duration;

use crate::config::TcpSettings;
use crate::error::Error;
use crate::net::Buffer;
use crate::net::buffer::write_all;
use crate::net::connect::Attempt;
use crate::net::dns::Dns;
use crate::net::tls::Connector;
use crate::server::connection::Secret;
use crate::server::{Address, dial};
use crate::wire::encode;

/// Asks the server to cancel the statement of process `pid`, encrypted as `attempt` says, and waits until the server has closed the
/// connection of the request: the signal is then sent, so it cannot hit what the process does next. False: the server did not close
/// it within `timeout`, and the signal may come at any time.
///
/// # Errors
/// When the server cannot be reached within `timeout`: it has not been asked.
pub async fn cancel(
    address: Address<'_>,
    (pid, secret): (u32, &Secret),
    timeout: Duration,
    attempt: Attempt,
    (connector, dns): (&Connector, &Dns),
) -> Result<bool, Error> {
    let mut stream = dial::dial(address, timeout, &TcpSettings::default(), attempt, connector, dns).await??;
    let mut request = Vec::new();
    encode::cancel_request(&mut request, pid, &secret.0);
    let exchange = async {
        write_all(&mut stream, &request).await?;
        let mut input = Buffer::default();
        while poll_fn(|cx| input.poll_fill(&mut stream, cx)).await? > 0 {
            input = Buffer::default();
        }
        Ok::<_, std::io::Error>(())
    };
    // However the connection ended, the process behind it is done with the request.
    Ok(tokio::time::timeout(timeout, exchange).await.is_ok())
}
