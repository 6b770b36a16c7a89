//! Connections to servers: dialling, logging in, small exchanges of our own, cancelling.

pub mod cancel;
pub mod catalog;
pub mod connection;
pub mod dial;
pub mod login;

pub use connection::Connection;

use std::fmt;

use crate::auth::server_login::ServerCredential;
use crate::config::Host;

/// Whom to log in to, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where the server listens.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// The database there.
    pub dbname: String,
    /// The user there.
    pub user: String,
    /// What proves it. Never printed.
    pub credential: ServerCredential,
}

impl Target {
    /// The place alone.
    #[must_use]
    pub fn address(&self) -> Address<'_> {
        Address { host: &self.host, port: self.port }
    }
}

/// A place to connect to, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// Where.
    pub host: &'a Host,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Tcp(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Host::Tcp(host) => write!(f, "{host}:{}", self.port),
            Host::Unix(dir) => write!(f, "{}/.s.PGSQL.{}", dir.display(), self.port),
        }
    }
}
