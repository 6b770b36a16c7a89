//! Making a connection to a server, as an error of ours tells of it.

use std::time::Duration;

use crate::config::{Host, TcpSettings};
use crate::error::{Error, SqlState};
use crate::net::Stream;
use crate::net::connect::{self, Attempt, Failure};
use crate::net::dns::{self, Dns};
use crate::net::tls::Connector;
use crate::server::Address;

/// Connects within `timeout`, encrypted as `attempt` says. The inner error is one of TLS: another attempt may do without.
///
/// # Errors
/// 08006 when the server is not there or TLS fails, 08001 when its name has no addresses or it does not answer in time; the message
/// says what was tried.
pub async fn dial(
    address: Address<'_>,
    timeout: Duration,
    tcp: &TcpSettings,
    attempt: Attempt,
    connector: &Connector,
    dns: &Dns,
) -> Result<Result<Stream, Error>, Error> {
    let connected = connect::connect(address, tcp, attempt, connector, dns);
    let failed = |why: &dyn std::fmt::Display| {
        Error::server(SqlState::CONNECTION_FAILURE, format!("could not connect to server {address}: {why}"))
    };
    match tokio::time::timeout(timeout, connected).await {
        Ok(Ok(stream)) => Ok(Ok(stream)),
        Ok(Err(why @ Failure::Socket(_))) => Err(failed(&why)),
        Ok(Err(why @ Failure::Name(_))) => Err(unresolved(failed(&why), &why)),
        Ok(Err(why @ (Failure::Tls(_) | Failure::NotOffered))) => Ok(Err(failed(&why))),
        Err(_) => Err(Error::server(
            SqlState::CANNOT_CONNECT,
            format!(
                "could not connect to server {address}: {} within {} s",
                silent(address, dns),
                timeout.as_secs_f64()
            ),
        )),
    }
}

/// What has not come in time.
pub(super) fn silent(address: Address<'_>, dns: &Dns) -> &'static str {
    match address.host {
        Host::Tcp(name) if dns.is_awaited(name) => "the name of the host could not be resolved",
        _ => "no answer",
    }
}

fn unresolved(error: Error, why: &Failure) -> Error {
    let error = Error { sqlstate: SqlState::CANNOT_CONNECT, ..error };
    match why {
        Failure::Name(dns::Failure::NoName(_)) => error.hint(
            "Check the host in the configuration. That there is no such name is remembered for dns_nxdomain_ttl.",
        ),
        _ => error,
    }
}
