//! Listeners, whoever has made their sockets, and the way of a new connection to a worker.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use tokio::io::Interest;
use tokio::net::{TcpListener, UnixDatagram, UnixListener};
use tokio::sync::watch;

use crate::client::Shared;
use crate::clock;
use crate::config::General;
use crate::metrics::snapshot::{Endpoint, ListenerSnapshot};
use crate::net::listen::{self, Bound, SocketFile};
use crate::net::pass;
use crate::net::stream::Detached;
use crate::worker::{Refused, Worker};

use super::process;

/// Rest after a failed accept, which is mostly for want of descriptors, and when no worker takes a connection: trying again at once
/// would fail again.
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
        /// Its file, which goes when the listener does; none in the abstract namespace, and where it is the service manager's.
        file: Option<SocketFile>,
    },
}

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Everybody.
    Open,
    /// Nobody for a moment: connections wait in the kernel's queues.
    Held,
    /// The process ends: it has no TCP listeners any more, and unix sockets lead to the console alone, as in PgBouncer.
    Console,
    /// It is another process's.
    Closed,
}

/// Sockets that listened before this process was there.
#[derive(Debug, Default)]
pub struct Found {
    /// The sockets.
    pub sockets: Vec<Bound>,
    /// Whether they are the service manager's, who then says alone where we listen; else they serve where the configuration says so.
    pub managed: bool,
}

/// All listeners.
#[derive(Debug)]
pub struct Listeners {
    /// Each.
    pub all: Vec<Rc<Listener>>,
    /// Whether they are the service manager's.
    pub managed: bool,
}

/// The sockets that the service manager has passed to us: see sd_listen_fds(3).
///
/// # Errors
/// One of them is no listener that we could use.
pub fn managed() -> Result<Found, String> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..passed.len() {
        let told = |why: io::Error| format!("socket {at} of the service manager (LISTEN_FDS) cannot be used: {why}");
        // The crate wants to know the kind; whoever is wrong is left for the other.
        let fd = match passed.take_unix_listener(at) {
            Ok(Some(listener)) => Some(OwnedFd::from(listener)),
            _ => passed.take_tcp_listener(at).map_err(told)?.map(OwnedFd::from),
        };
        sockets.extend(fd.map(Bound::new).transpose().map_err(told)?);
    }
    let managed = !sockets.is_empty();
    Ok(Found { sockets, managed })
}

/// Listens wherever the configuration says, or the service manager; on the sockets of `found` where these do already.
///
/// # Errors
/// One line for each that cannot be bound, or that there is none.
pub fn bind(general: &General, found: Found) -> Result<Listeners, Vec<String>> {
    let Found { sockets: mut found, managed } = found;
    if managed {
        return use_managed(general, found);
    }
    // Before anything listens: no client should reach a process that is about to end.
    let group = general.unix_socket_group.as_deref().map(process::group).transpose().map_err(|why| vec![why])?;
    let (mut listeners, mut mistakes) = (Vec::new(), Vec::new());
    // Who looks whether we are there looks at the port: then all is.
    if let Some(dir) = &general.unix_socket_dir {
        match listen::unix(dir, general.listen_port, general.unix_socket_mode, group, &mut found) {
            Ok((listener, file)) => listeners.push(Listener::Unix { listener, file }),
            Err(error) => mistakes.push(error.to_string()),
        }
    }
    for host in &general.listen_addr {
        match listen::tcp(host, general.listen_port, general.listen_backlog, general.so_reuseport, &mut found) {
            Ok(bound) => listeners.extend(bound.into_iter().map(Listener::Tcp)),
            Err(error) => mistakes.push(error.to_string()),
        }
    }
    if listeners.is_empty() && mistakes.is_empty() {
        mistakes.push("nothing to listen on: set listen_addr or unix_socket_dir".to_owned());
    }
    let all = listeners.into_iter().map(Rc::new).collect();
    if mistakes.is_empty() { Ok(Listeners { all, managed: false }) } else { Err(mistakes) }
}

fn use_managed(general: &General, found: Vec<Bound>) -> Result<Listeners, Vec<String>> {
    for (name, is_set) in
        [("listen_addr", !general.listen_addr.is_empty()), ("unix_socket_dir", general.unix_socket_dir.is_some())]
    {
        if is_set {
            tracing::info!(setting = name, "not used: the service manager has passed sockets to listen on");
        }
    }
    let listener = |bound: Bound| -> io::Result<Listener> {
        Ok(match bound.tcp_address() {
            Some(_) => Listener::Tcp(bound.into_tcp()?),
            None => Listener::Unix { listener: bound.into_unix()?, file: None },
        })
    };
    let all = found.into_iter().map(|bound| listener(bound).map(Rc::new)).collect::<io::Result<_>>();
    Ok(Listeners { all: all.map_err(|why| vec![format!("a socket of the service manager: {why}")])?, managed: true })
}

impl Listener {
    /// Where it listens, for the log.
    #[must_use]
    pub fn name(&self) -> String {
        let name = match self {
            Self::Tcp(l) => l.local_addr().ok().map(|a| a.to_string()),
            Self::Unix { listener: l, .. } => l.local_addr().ok().and_then(|a| {
                let name = a.as_abstract_name().map(|name| format!("@{}", String::from_utf8_lossy(name)));
                name.or_else(|| a.as_pathname().map(|p| p.display().to_string()))
            }),
        };
        name.unwrap_or_else(|| "an unknown address".to_owned())
    }

    /// The socket, to be passed to another process.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(l) => l.as_fd(),
            Self::Unix { listener: l, .. } => l.as_fd(),
        }
    }

    /// Whether the file of a unix socket is ours to remove: it goes with the socket from one process to the other.
    pub fn set_ours(&self, ours: bool) {
        if let Self::Unix { file: Some(file), .. } = self {
            file.set_ours(ours);
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

    /// Whether it is still of use; none: not now.
    fn is_open(&self, door: Door) -> Option<bool> {
        match (door, self) {
            (Door::Open, _) | (Door::Console, Self::Unix { .. }) => Some(true),
            (Door::Held, _) => None,
            (Door::Console, Self::Tcp(_)) | (Door::Closed, _) => Some(false),
        }
    }

    /// Accepts as the door says, and hands to the worker with the fewest connections. While SUSPEND is in force connections wait in the
    /// kernel.
    pub async fn run(self: Rc<Self>, workers: Rc<Vec<Worker>>, shared: Arc<Shared>, mut door: watch::Receiver<Door>) {
        let mut complained: Option<Instant> = None;
        loop {
            let now = *door.borrow_and_update();
            let suspended = shared.is_suspended();
            let accepted = match self.is_open(now) {
                Some(true) => tokio::select! {
                    biased;
                    () = shared.until_resumed(), if suspended => None,
                    () = shared.until_suspended(), if !suspended => None,
                    accepted = self.accept(), if !suspended => Some(accepted),
                    changed = door.changed() => if changed.is_err() { return } else { None },
                },
                Some(false) => return,
                None => {
                    if door.changed().await.is_err() {
                        return;
                    } else {
                        None
                    }
                }
            };
            let Some(accepted) = accepted else { continue };
            let outcome = match accepted {
                Ok(connection) => self.place(&workers, connection, &shared, &mut complained).await,
                Err(error) => Err(error),
            };
            let Err(error) = outcome else { continue };
            self.complain(&mut complained, &error);
            if is_lasting(&error) {
                tokio::time::sleep(REST).await;
            }
        }
    }
}

impl Listener {
    /// Hands a connection to a worker. As long as all are behind it waits here and those after it in the kernel, as they would for a
    /// server that is busy; under SUSPEND it waits as well, for it has not been accepted as far as that is concerned.
    ///
    /// # Errors
    /// The workers have ended.
    async fn place(
        &self,
        workers: &[Worker],
        mut connection: Detached,
        shared: &Shared,
        complained: &mut Option<Instant>,
    ) -> io::Result<()> {
        loop {
            connection = match hand(workers, connection) {
                Ok(()) => return Ok(()),
                Err(Refused::Ended(_)) => return Err(io::Error::other("the workers have ended")),
                Err(Refused::Full(back)) => back,
            };
            self.complain(complained, &io::Error::other("the queues of all workers are full: it waits"));
            tokio::time::sleep(REST).await;
            while shared.is_suspended() {
                shared.until_resumed().await;
            }
        }
    }

    fn complain(&self, complained: &mut Option<Instant>, error: &io::Error) {
        let now = clock::now();
        if complained.is_none_or(|at| now.saturating_duration_since(at) >= COMPLAINT) {
            *complained = Some(now);
            tracing::warn!(listener = self.name(), %error, "a connection could not be taken in");
        }
    }
}

/// Takes the connections that the next process hands on, which are cancel requests, until that process and all after it are gone.
pub async fn take_from(successor: OwnedFd, workers: Rc<Vec<Worker>>) -> io::Result<()> {
    // It keeps messages apart, as this kind of socket does, and beside that it tells when the other end is gone.
    let successor = UnixDatagram::from_std(successor.into())?;
    loop {
        let mut files = Vec::new();
        let mut byte = [0];
        let read = successor.async_io(Interest::READABLE, || pass::receive(successor.as_fd(), &mut byte, &mut files));
        if read.await? == 0 {
            return Ok(());
        }
        for file in files {
            let connection = std::os::unix::net::UnixStream::from(file);
            let outcome = connection.set_nonblocking(true).map(|()| hand(&workers, Detached::Unix(connection)));
            match outcome {
                Ok(Ok(())) => {}
                // Its client is told nothing either way; one that waited here would hold up those after it.
                Ok(Err(_)) => {
                    tracing::warn!("a cancel request of the next process could not be taken: no worker takes it")
                }
                Err(error) => tracing::warn!(%error, "a cancel request of the next process could not be taken"),
            }
        }
    }
}

/// Whether the next accept would most likely fail as well. A peer that left while it was in the queue is no such reason.
fn is_lasting(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Gives a connection to the worker that has the fewest, or to another if that one's queue is full.
///
/// # Errors
/// The connection: all queues are full, or all workers have ended.
pub fn hand(workers: &[Worker], connection: Detached) -> Result<(), Refused> {
    let mut order: Vec<_> = workers.iter().collect();
    order.sort_by_key(|worker| worker.clients());
    let (mut connection, mut ended) = (connection, true);
    for worker in order {
        connection = match worker.take(connection) {
            Ok(()) => return Ok(()),
            Err(Refused::Full(back)) => {
                ended = false;
                back
            }
            Err(Refused::Ended(back)) => back,
        };
    }
    Err(if ended { Refused::Ended(connection) } else { Refused::Full(connection) })
}
