//! A connection of our own that asks a primary about prepared transactions. It gives up after a time, and then has the server give up as
//! well: a process that waits for a lock or a standby does not notice that its connection is closed, and would stay.

use std::io;
use std::time::Duration;

use super::{Address, Connection, Target, cancel};
use crate::config::Host;
use crate::error::Error;
use crate::id::WorkerId;
use crate::net::connect::Attempt;
use crate::server::login::{self, LoginSettings};
use crate::shard::commit::recovery::ASKING_SQL;

/// Rows of text.
pub type Rows = Vec<Vec<Option<String>>>;

/// How long the request that cancels may take.
const CANCELLING: Duration = Duration::from_secs(5);

/// The connection.
#[derive(Debug)]
pub struct Asking {
    connection: Box<Connection>,
    host: Host,
    port: u16,
    settings: LoginSettings,
    patience: Duration,
}

impl Asking {
    /// Logs in to a server that is no standby: those have no prepared transactions to show. Each answer may take so long.
    ///
    /// # Errors
    /// Why not: of several hosts that of the last.
    pub async fn open(
        target: &Target,
        settings: &LoginSettings,
        worker: WorkerId,
        patience: Duration,
    ) -> Result<Self, String> {
        let mut why = "the server has no host".to_owned();
        for target in target.each(0) {
            let connection = match login::login(&target, settings, worker).await {
                Ok(connection) => connection,
                Err(error) => {
                    why = error.message;
                    continue;
                }
            };
            let (host, port, settings) = (target.host.clone(), target.port, settings.clone());
            let mut asking = Self { connection, host, port, settings, patience };
            asking.run(ASKING_SQL).await?.map_err(|error| error.message)?;
            let rows = asking.rows("SELECT pg_catalog.pg_is_in_recovery()").await?.map_err(|error| error.message)?;
            match rows.into_iter().flatten().flatten().next().as_deref() {
                Some("f") => return Ok(asking),
                _ => "the server is a standby".clone_into(&mut why),
            }
        }
        Err(why)
    }

    /// Runs `sql` and returns its rows.
    ///
    /// # Errors
    /// Of the connection (outer), after which it is of no more use, or of the statement (inner).
    pub async fn rows(&mut self, sql: &str) -> Result<Result<Rows, Error>, String> {
        let answer = tokio::time::timeout(self.patience, self.connection.rows(sql)).await.ok();
        self.taken(answer).await
    }

    /// The same for what has no rows.
    ///
    /// # Errors
    /// Those of [`Self::rows`].
    pub async fn run(&mut self, sql: &str) -> Result<Result<(), Error>, String> {
        let answer = tokio::time::timeout(self.patience, self.connection.run(sql)).await.ok();
        self.taken(answer).await
    }

    async fn taken<T>(&self, answer: Option<io::Result<T>>) -> Result<T, String> {
        match answer {
            Some(answer) => answer.map_err(|error| error.to_string()),
            None => {
                self.cancel().await;
                Err(format!("no answer within {} s", self.patience.as_secs()))
            }
        }
    }

    async fn cancel(&self) {
        let at = self.connection.stream.addresses().map(|(peer, _)| peer.ip());
        let address = Address { host: &self.host, port: self.port, at };
        let attempt = if self.connection.stream.tls().is_some() { Attempt::Required } else { Attempt::Plain };
        let means = (&*self.settings.tls.get(), &*self.settings.dns);
        let key = (self.connection.pid, &self.connection.secret);
        if let Err(error) = cancel::cancel(address, key, CANCELLING, attempt, means, || ()).await {
            tracing::warn!(%error, "what was asked about prepared transactions could not be cancelled");
        }
    }
}
