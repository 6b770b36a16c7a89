//! Listeners, and the way of a new connection to a worker.

use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::client::Shared;
use crate::clock;
use crate::config::General;
use crate::metrics::snapshot::{Endpoint, ListenerSnapshot};
use crate::net::listen::{self, SocketFile};
use crate::net::stream::Detached;
use crate::worker::{Refused, Worker};

use super::process;

/// Rest after a failed accept, which is mostly for want of descriptors: trying again at once would fail again.
const REST: Duration = Duration::from_millis(100);
/// Failed accepts are logged this often at most.
const COMPLAINT: Duration = Duration::from_secs(1);

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix domain.
    Unix {
        /// The socket.
        listener: UnixListener,
        /// Its file, which goes when the listener does.
        _file: SocketFile,
    },
}

/// Binds all that the configuration names.
///
/// # Errors
/// One line for each that cannot be bound, or that there is none.
pub fn bind(general: &General) -> Result<Vec<Listener>, Vec<String>> {
    // Before anything listens: no client should reach a process that is about to end.
    let group = general.unix_socket_group.as_deref().map(process::group).transpose().map_err(|why| vec![why])?;
    let (mut listeners, mut mistakes) = (Vec::new(), Vec::new());
    for host in &general.listen_addr {
        match listen::tcp(host, general.listen_port, general.listen_backlog, general.so_reuseport) {
            Ok(bound) => listeners.extend(bound.into_iter().map(Listener::Tcp)),
            Err(error) => mistakes.push(error.to_string()),
        }
    }
    if let Some(dir) = &general.unix_socket_dir {
        match listen::unix(dir, general.listen_port, general.unix_socket_mode, group) {
            Ok((listener, file)) => listeners.push(Listener::Unix { listener, _file: file }),
            Err(error) => mistakes.push(error.to_string()),
        }
    }
    if listeners.is_empty() && mistakes.is_empty() {
        mistakes.push("nothing to listen on: set listen_addr or unix_socket_dir".to_owned());
    }
    if mistakes.is_empty() { Ok(listeners) } else { Err(mistakes) }
}

impl Listener {
    /// Where it listens, for the log.
    #[must_use]
    pub fn name(&self) -> String {
        let unknown = || "an unknown address".to_owned();
        match self {
            Self::Tcp(l) => l.local_addr().map_or_else(|_| unknown(), |a| a.to_string()),
            Self::Unix { listener: l, .. } => {
                let path = l.local_addr().ok().and_then(|a| a.as_pathname().map(|p| p.display().to_string()));
                path.unwrap_or_else(unknown)
            }
        }
    }

    /// As SHOW FDS lists it.
    #[must_use]
    pub fn snapshot(&self) -> ListenerSnapshot {
        match self {
            Self::Tcp(l) => {
                let address = l.local_addr().ok();
                let addr = address.map(|a| a.ip().to_string()).unwrap_or_default();
                let local = Endpoint { addr, port: address.map_or(0, |a| a.port()) };
                ListenerSnapshot { descriptor: l.as_raw_fd(), local }
            }
            Self::Unix { listener: l, .. } => {
                let path = l.local_addr().ok().and_then(|a| a.as_pathname().map(|p| p.display().to_string()));
                let path = path.unwrap_or_default();
                let port = path.rsplit('.').next().and_then(|port| port.parse().ok()).unwrap_or(0);
                ListenerSnapshot { descriptor: l.as_raw_fd(), local: Endpoint { addr: "unix".to_owned(), port } }
            }
        }
    }

    async fn accept(&self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(l) => Detached::Tcp(l.accept().await?.0.into_std()?),
            Self::Unix { listener: l, .. } => Detached::Unix(l.accept().await?.0.into_std()?),
        })
    }

    /// Accepts, and hands to the worker with the fewest connections, until `stop` becomes true. While SUSPEND is in force connections
    /// wait in the kernel.
    pub async fn run(self, workers: Rc<Vec<Worker>>, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
        let mut complained: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = shared.until_suspended(), if !shared.is_suspended() => continue,
                accepted = async { shared.until_resumed().await; self.accept().await } => accepted,
                // An error means that the sender is gone, which is a stop too.
                _stopped = stop.wait_for(|stop| *stop) => return,
            };
            let outcome = accepted.and_then(|connection| hand(&workers, connection));
            let Err(error) = outcome else { continue };
            let now = clock::now();
            if complained.is_none_or(|at| now.saturating_duration_since(at) >= COMPLAINT) {
                complained = Some(now);
                tracing::warn!(listener = self.name(), %error, "a connection could not be accepted");
            }
            if is_lasting(&error) {
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether the next accept would most likely fail as well. A peer that left while it was in the queue is no such reason.
fn is_lasting(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Gives a connection to the worker that has the fewest, or to another if that one's queue is full.
fn hand(workers: &[Worker], connection: Detached) -> io::Result<()> {
    let mut order: Vec<_> = workers.iter().collect();
    order.sort_by_key(|worker| worker.clients());
    let mut connection = connection;
    for worker in order {
        match worker.take(connection) {
            Ok(()) => return Ok(()),
            Err(Refused::Full(back) | Refused::Ended(back)) => connection = back,
        }
    }
    Err(io::Error::other("no worker takes it: their queues are full"))
}
