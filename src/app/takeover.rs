//! Taking over from the process that runs (`-R`), without a client being dropped or refused.
//!
//! The new process comes to the old one's unix socket as to the console, with a startup parameter that says what it wants. The kernel
//! says whether it is the same system user. From then on they speak lines; an open file may come with a line:
//!
//! ```text
//! new                              old
//!                              <── hello 1 PID
//!                              <── socket | managed | http | link    (each with a file)
//!                              <── end
//! starts, up to accepting
//! take                         ──> accepts no more; connections wait in the kernel's queues
//!                              <── taken
//! puts its own pidfile there
//! done                         ──> leaves the socket's file; serves its clients until they go, and ends
//!                              <── bye
//! accepts
//! ```
//!
//! Whatever goes wrong before `done`, the old process goes on as if nothing had happened. The `link`s are the ways to it and to
//! those before it for cancel requests: see [`crate::client`].

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::client::{Shared, console};
use crate::config::General;
use crate::error::{Error, SqlState};
use crate::net::listen::{self, Bound};
use crate::net::pass;
use crate::wire::{encode, message};

use super::accept::{Door, Found, Listener};

/// The version of what they speak.
const VERSION: &str = "1";
/// How long either waits for the other's next line.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the new process may take to start.
const START: Duration = Duration::from_secs(120);
/// A line is not longer than this.
const LINE: usize = 64;

/// What the process that runs has given to this one.
#[derive(Debug)]
pub struct Given {
    /// To go on talking: [`take`].
    pub connection: UnixStream,
    /// Its process id.
    pub pid: u32,
    /// Where it listens.
    pub found: Found,
    /// Where it listens for HTTP.
    pub http: Option<Bound>,
    /// The ways to it and those before it.
    pub links: Vec<OwnedFd>,
}

/// Asks the process that listens on the configured unix socket for what it listens on; none when nobody is there.
///
/// # Errors
/// Why it does not give it.
pub fn ask(general: &General) -> Result<Option<Given>, String> {
    let Some(dir) = &general.unix_socket_dir else {
        tracing::warn!("-R: unix_socket_dir is not set, so a running process cannot be found: starting as usual");
        return Ok(None);
    };
    let path = listen::unix_path(dir, general.listen_port);
    let connection = match listen::connect_unix(&path) {
        Ok(connection) => connection,
        Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            tracing::info!(socket = listen::shown(&path), "-R: no process runs there: starting as usual");
            return Ok(None);
        }
        Err(why) => return Err(format!("-R: cannot ask the process at {}: {why}", listen::shown(&path))),
    };
    let given = converse(connection);
    given.map(Some).map_err(|why| format!("-R: the process at {} does not hand over: {why}", listen::shown(&path)))
}

fn converse(mut connection: UnixStream) -> Result<Given, String> {
    let told = |why: io::Error| match why.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => why.to_string(),
    };
    connection.set_read_timeout(Some(ANSWER)).map_err(told)?;
    let mut out = Vec::new();
    let [_, console] = console::DATABASES;
    encode::startup(&mut out, &[("user", console), ("database", console), (console::TAKEOVER, VERSION)]);
    connection.write_all(&out).map_err(told)?;
    let mut lines = Lines::default();
    let hello = lines.next(&connection).map_err(told)?;
    let pid = match hello.split(' ').collect::<Vec<_>>()[..] {
        ["hello", VERSION, pid] => pid.parse().map_err(|_| "its process id is none".to_owned())?,
        _ => return Err(refusal(&lines, &connection, &hello)),
    };
    let (mut found, mut http, mut links) = (Found::default(), None, Vec::new());
    loop {
        let line = lines.next(&connection).map_err(told)?;
        if line == "end" {
            return Ok(Given { connection, pid, found, http, links });
        }
        let Some(file) = lines.file() else { return Err(format!("it sent no file with {line:?}")) };
        match line.as_str() {
            "socket" | "managed" => {
                found.managed |= line == "managed";
                found.sockets.push(Bound::new(file).map_err(told)?);
            }
            "http" => http = Some(Bound::new(file).map_err(told)?),
            "link" => links.push(file),
            _ => return Err(format!("it sent {line:?}")),
        }
    }
}

/// What a process said that did not say hello: an error of the protocol, or it let us in to the console.
fn refusal(lines: &Lines, mut connection: &UnixStream, said: &str) -> String {
    let mut all = [said.as_bytes(), &lines.read].concat();
    let mut rest = vec![0; 4096];
    // What more it has to say is there already.
    if let Ok(read) = connection.read(&mut rest) {
        all.extend_from_slice(rest.get(..read).unwrap_or_default());
    }
    match (all.first(), all.get(5..)) {
        (Some(b'E'), Some(body)) => {
            let error = message::server_error(body);
            if error.sqlstate == SqlState::PROTOCOL_VIOLATION {
                format!("{error}; is it PgBouncer?")
            } else {
                error.to_string()
            }
        }
        _ => "it is not pgweir, or one that does not know how; end it, and start without -R".to_owned(),
    }
}

/// Lines and the files that came with them.
#[derive(Default)]
struct Lines {
    read: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl Lines {
    /// The next line.
    fn next(&mut self, connection: &UnixStream) -> io::Result<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(line.get(..end).unwrap_or_default()).into_owned());
            }
            // Not from somebody who speaks another protocol, either.
            if self.read.len() > LINE || self.read.first().is_some_and(|byte| !byte.is_ascii_lowercase()) {
                return Ok(String::new());
            }
            let mut into = [0; LINE];
            match pass::receive(connection.as_fd(), &mut into, &mut self.files)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
                read => self.read.extend_from_slice(into.get(..read).unwrap_or_default()),
            }
        }
    }

    /// The file that came with the last line.
    fn file(&mut self) -> Option<OwnedFd> {
        (!self.files.is_empty()).then(|| self.files.remove(0))
    }
}

/// This process is ready to accept: the one at the other end stops, and what it gave is ours when `commit` has succeeded and it has let
/// go. What was committed is undone where it has not.
///
/// # Errors
/// Of the other process, or of `commit`. The other one goes on.
pub async fn take<T>(
    connection: UnixStream,
    commit: impl FnOnce() -> Result<T, String>,
    undo: impl FnOnce(T),
) -> Result<T, String> {
    let lost = |why: io::Error| format!("the process that was to hand over: {why}");
    let mut peer = Peer::new(connection).map_err(lost)?;
    peer.say("take").await.map_err(lost)?;
    peer.hear("taken", ANSWER).await.map_err(lost)?;
    let committed = commit()?;
    let over = async {
        peer.say("done").await?;
        peer.hear("bye", ANSWER).await
    };
    match over.await {
        Ok(()) => Ok(committed),
        Err(why) => {
            undo(committed);
            Err(lost(why))
        }
    }
}

/// What a process has to hand over.
pub struct Estate {
    /// Where it listens.
    pub listeners: Vec<Rc<Listener>>,
    /// Whether these are the service manager's.
    pub managed: bool,
    /// Where it listens for HTTP.
    pub http: Option<OwnedFd>,
    /// Its clients, and the ways to the processes before it.
    pub shared: Arc<Shared>,
    /// Who is let in.
    pub door: watch::Sender<Door>,
}

/// Who has taken over.
#[derive(Debug)]
pub struct Successor {
    /// Its process id.
    pub pid: Option<u32>,
    /// Where it hands on cancel requests.
    pub requests: OwnedFd,
}

impl Estate {
    /// Hands over to the process at the other end of `successor`.
    ///
    /// # Errors
    /// Why it has not taken over; everything is as before.
    pub async fn hand_over(&self, successor: UnixStream) -> io::Result<Successor> {
        let mut peer = Peer::new(successor)?;
        let pid = peer.0.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        let (requests, link) = pass::pair()?;
        let offered = tokio::time::timeout(ANSWER, self.offer(&mut peer, link)).await;
        offered.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it does not read"))??;
        peer.hear("take", START).await?;
        self.door.send_replace(Door::Held);
        let over = async {
            peer.say("taken").await?;
            peer.hear("done", ANSWER).await
        };
        if let Err(why) = over.await {
            self.door.send_replace(Door::Open);
            return Err(why);
        }
        self.door.send_replace(Door::Closed);
        self.listeners.iter().for_each(|listener| listener.set_ours(false));
        self.shared.predecessors.forget();
        self.shared.handed_over.store(true, Ordering::Release);
        // It has all that it needs, whether it hears this or not.
        drop(peer.say("bye").await);
        Ok(Successor { pid, requests })
    }
}

impl Estate {
    /// Gives copies of everything.
    async fn offer(&self, peer: &mut Peer, link: OwnedFd) -> io::Result<()> {
        peer.say(&format!("hello {VERSION} {}", std::process::id())).await?;
        for listener in &self.listeners {
            peer.give(if self.managed { "managed" } else { "socket" }, listener.as_fd()).await?;
        }
        if let Some(http) = &self.http {
            peer.give("http", http.as_fd()).await?;
        }
        for before in self.shared.predecessors.links() {
            peer.give("link", before.as_fd()).await?;
        }
        peer.give("link", link.as_fd()).await?;
        peer.say("end").await
    }
}

/// Tells a process that wants to take over why it cannot. It sees the end of the connection otherwise.
pub fn refuse(mut successor: UnixStream, why: Error) {
    tracing::warn!(%why, "another process wants to take over and cannot");
    let mut out = Vec::new();
    encode::error(&mut out, &why.fatal());
    drop(successor.write_all(&out));
}

/// The other process.
struct Peer(tokio::net::UnixStream);

impl Peer {
    fn new(connection: UnixStream) -> io::Result<Self> {
        connection.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(connection).map(Self)
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.0.write_all(format!("{line}\n").as_bytes()).await
    }

    /// Says a line that a file goes with.
    async fn give(&mut self, line: &str, file: BorrowedFd<'_>) -> io::Result<()> {
        let line = format!("{line}\n");
        let send = || pass::send(self.0.as_fd(), line.as_bytes(), Some(file));
        let sent = self.0.async_io(tokio::io::Interest::WRITABLE, send).await?;
        self.0.write_all(line.as_bytes().get(sent..).unwrap_or_default()).await
    }

    /// Waits for a line, and for no other.
    async fn hear(&mut self, line: &str, patience: Duration) -> io::Result<()> {
        let mut heard = vec![0; line.len() + 1];
        match tokio::time::timeout(patience, self.0.read_exact(&mut heard)).await {
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}"))),
            Ok(Err(why)) if why.kind() == io::ErrorKind::UnexpectedEof => {
                Err(io::Error::new(why.kind(), "it closed the connection"))
            }
            Ok(Err(why)) => Err(why),
            Ok(Ok(_)) if heard.strip_suffix(b"\n") == Some(line.as_bytes()) => Ok(()),
            Ok(Ok(_)) => Err(io::Error::new(io::ErrorKind::InvalidData, "it said something else than it should")),
        }
    }
}
