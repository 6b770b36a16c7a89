//! Connections to servers: dialling, logging in, small exchanges of our own, cancelling.

pub mod asking;
mod behind;
pub mod cancel;
pub mod catalog;
pub mod check;
pub mod connection;
pub mod dial;
mod first;
pub mod hidden;
pub mod login;
pub mod readings;
mod shadows;

pub use connection::Connection;

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::auth::scram::ScramKeys;
use crate::auth::server_login::ServerCredential;
use crate::config::Host;
pub use crate::net::connect::Address;

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
    /// What earlier logins derived from that.
    pub derived: Derived,
    /// Settings asked for in the startup packet.
    pub parameters: Vec<(String, String)>,
    /// Run after the login; an error of it is logged.
    pub connect_query: Option<String>,
}

/// The SCRAM keys of the last login to a target, which save the next one the derivation as long as the server's salt is the same.
#[derive(Debug, Clone, Default)]
pub struct Derived(Arc<Mutex<Option<ScramKeys>>>);

impl Derived {
    /// The keys.
    #[must_use]
    pub fn get(&self) -> Option<ScramKeys> {
        self.0.lock().clone()
    }

    /// Keeps those of a login that is done.
    pub fn set(&self, keys: &ScramKeys) {
        *self.0.lock() = Some(keys.clone());
    }
}

/// What is remembered says nothing of whom a target means.
impl PartialEq for Derived {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Derived {}

impl Target {
    /// The place alone.
    #[must_use]
    pub fn address(&self) -> Address<'_> {
        Address { host: &self.host, port: self.port, at: None }
    }

    /// The same target at each of its hosts in turn, beginning with the one that `first` counts to.
    pub fn each(&self, first: usize) -> impl Iterator<Item = Cow<'_, Self>> {
        let hosts = self.host.each();
        let turns = hosts.iter().cycle().skip(first.checked_rem(hosts.len()).unwrap_or(0)).take(hosts.len());
        turns.map(|host| {
            if *host == self.host {
                Cow::Borrowed(self)
            } else {
                Cow::Owned(Self { host: host.clone(), ..self.clone() })
            }
        })
    }
}
