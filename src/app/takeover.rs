//! Taking over from the process that runs (`-R`), without a client being dropped or refused.
//!
//! The new process comes to the old one's unix socket as to the console, with a startup parameter that says what it wants. The kernel
//! says whether it is the same system user. From then on they speak lines; an open file may come with a line:
//!
//! ```text
//! new                              old
//!                              <── hello 1 PID
//!                              <── mock KEY
//!                              <── socket | managed | http | link    (each with a file)
//!                              <── end
//! starts, up to accepting
//! take PID                     ──> accepts no more; connections wait in the kernel's queues
//!                              <── taken
//! puts its own pidfile there
//! done                         ──>
//!                              <── bye
//! accepts                          leaves the socket's file; serves its clients until they go, and ends
//! ```
//!
//! Whatever goes wrong before `bye`, the old process goes on as if nothing had happened; with `no REASON` it says why it does instead of
//! what is expected. `bye` is what both go by: who gives up waiting for it first makes sure that it cannot be sent any more, and then
//! looks whether it has been. The `link`s are the ways to the old process and to those before it for cancel requests: see
//! [`crate::client`].
//!
//! The `mock` key is what the salts for users who do not exist are made from: those of users who exist do not change either.
//!
//! The new process says its number itself: with `-d` it is not the one that connected, which is what the kernel knows.
//!
//! What has been said at the console is not handed over. A process that is paused or suspended stays; what DISABLE and SET have done is
//! told in the log.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::unistd::geteuid;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::client::console;
use crate::config::General;
use crate::error::{Error, SqlState};
use crate::net::listen::{self, Bound};
use crate::net::pass;
use crate::wire::{encode, message};

use super::accept::{Door, Found, Listener};
use super::live::MockKey;
use super::state::State;

/// The version of what they speak.
const VERSION: &str = "1";
/// How long either waits for the other's next line.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the new process may take to start.
const START: Duration = Duration::from_secs(120);
/// A line is not longer than this.
const LINE: usize = 256;
/// What the line with the mock key begins with.
const MOCK: &str = "mock ";
/// What a line begins with that says why not.
const NO: &str = "no ";

/// What the process that runs has given to this one.
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
    /// What the salts that it shows to unknown users are made from; one of an older version does not say.
    pub mock: Option<MockKey>,
}

/// Asks the process that listens on the configured unix socket for what it listens on; none when nobody is there.
///
/// # Errors
/// Why it does not give it, or cannot be found.
pub fn ask(general: &General) -> Result<Option<Given>, String> {
    let Some(dir) = &general.unix_socket_dir else {
        return Err("-R needs unix_socket_dir: the running process is found by its socket there".to_owned());
    };
    let path = listen::unix_path(dir, general.listen_port);
    let connection = match listen::connect_unix(&path, ANSWER) {
        Ok(connection) => connection,
        Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
            return Err(format!(
                "-R: the process at {} does not answer: nobody takes connections there",
                listen::shown(&path)
            ));
        }
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
    ours_or_roots(&connection)?;
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
    let (mut found, mut http, mut links, mut mock) = (Found::default(), None, Vec::new(), None);
    loop {
        let line = lines.next(&connection).map_err(told)?;
        if line == "end" {
            return Ok(Given { connection, pid, found, http, links, mock });
        }
        if let Some(text) = line.strip_prefix(MOCK) {
            mock = Some(key(text).ok_or("its mock key is none")?);
            continue;
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

/// Sockets are only taken from our own user, or from the system's, as a service manager is: somebody else would keep a copy of what he
/// gives us, and could accept the connections of our clients.
fn ours_or_roots(connection: &UnixStream) -> Result<(), String> {
    let owner = socket_peercred(connection).map_err(|why| why.to_string())?.uid;
    let own = geteuid();
    if owner.is_root() || owner.as_raw() == own.as_raw() {
        return Ok(());
    }
    let (owner, own) = (owner.as_raw(), own.as_raw());
    Err(format!(
        "it is of another system user (uid {owner}, this one has {own}): is it the right one? -u, or user, says whom to become"
    ))
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
    peer.say(&format!("take {}", std::process::id())).await.map_err(lost)?;
    peer.hear("taken", ANSWER).await.map_err(lost)?;
    let committed = commit()?;
    let over = async {
        peer.say("done").await?;
        peer.hear("bye", ANSWER).await
    };
    let Err(why) = over.await else { return Ok(committed) };
    // It may be about to say it, and would end.
    if peer.deafen().is_ok() && peer.hear("bye", ANSWER).await.is_ok() {
        return Ok(committed);
    }
    undo(committed);
    Err(lost(why))
}

/// What a process has to hand over.
pub struct Estate {
    /// Where it listens.
    pub listeners: Vec<Rc<Listener>>,
    /// Whether these are the service manager's.
    pub managed: bool,
    /// Where it listens for HTTP.
    pub http: Option<OwnedFd>,
    /// Its clients, the ways to the processes before it, and what its operators have told it.
    pub state: Arc<State>,
    /// Who is let in.
    pub door: watch::Sender<Door>,
}

/// Who has taken over.
#[derive(Debug)]
pub struct Successor {
    /// Its process id.
    pub pid: u32,
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
        let (requests, link) = pass::pair()?;
        let offered = tokio::time::timeout(ANSWER, self.offer(&mut peer, link)).await;
        offered.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it does not read"))??;
        let pid = taker(&peer.line(START).await?)?;
        // It has had time to start, and an operator to think of something else.
        self.may_go(&mut peer).await?;
        self.door.send_replace(Door::Held);
        let over = async {
            peer.say("taken").await?;
            peer.hear("done", ANSWER).await?;
            self.may_go(&mut peer).await?;
            // Before anything is given up: it may have lost patience, and then this fails.
            peer.say("bye").await
        };
        if let Err(why) = over.await {
            self.door.send_replace(Door::Open);
            return Err(why);
        }
        self.door.send_replace(Door::Closed);
        self.listeners.iter().for_each(|listener| listener.set_ours(false));
        self.state.shared.predecessors.forget();
        self.state.shared.handed_over.store(true, Ordering::Release);
        Ok(Successor { pid, requests })
    }

    /// Whether nothing keeps this process from going; the other one is told.
    async fn may_go(&self, peer: &mut Peer) -> io::Result<()> {
        let Err(why) = self.state.may_hand_over() else { return Ok(()) };
        let why = why.message;
        peer.say(&format!("{NO}{why}")).await?;
        Err(io::Error::other(why))
    }
}

/// The number of the process that says this line.
fn taker(line: &str) -> io::Result<u32> {
    let pid =
        line.strip_prefix("take ").and_then(|pid| pid.parse::<i32>().ok()).and_then(|pid| u32::try_from(pid).ok());
    pid.filter(|pid| *pid > 0).ok_or_else(unexpected)
}

/// The key that is written so.
fn key(text: &str) -> Option<MockKey> {
    if text.len() != 2 * size_of::<MockKey>() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..size_of::<MockKey>()).map(byte).collect();
    bytes?.try_into().ok()
}

/// The same key, written.
fn hex(key: &MockKey) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it said something else than it should")
}

impl Estate {
    /// Gives copies of everything.
    async fn offer(&self, peer: &mut Peer, link: OwnedFd) -> io::Result<()> {
        peer.say(&format!("hello {VERSION} {}", std::process::id())).await?;
        let mock = Arc::clone(&self.state.shared.live.load().mock);
        peer.say(&format!("{MOCK}{}", hex(mock.key()))).await?;
        for listener in &self.listeners {
            peer.give(if self.managed { "managed" } else { "socket" }, listener.as_fd()).await?;
        }
        if let Some(http) = &self.http {
            peer.give("http", http.as_fd()).await?;
        }
        for before in self.state.shared.predecessors.links() {
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
struct Peer {
    stream: tokio::net::UnixStream,
    /// What it said that is no whole line yet.
    read: Vec<u8>,
}

impl Peer {
    fn new(connection: UnixStream) -> io::Result<Self> {
        connection.set_nonblocking(true)?;
        Ok(Self { stream: tokio::net::UnixStream::from_std(connection)?, read: Vec::new() })
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(format!("{line}\n").as_bytes()).await
    }

    /// Says a line that a file goes with.
    async fn give(&mut self, line: &str, file: BorrowedFd<'_>) -> io::Result<()> {
        let line = format!("{line}\n");
        let send = || pass::send(self.stream.as_fd(), line.as_bytes(), Some(file));
        let sent = self.stream.async_io(tokio::io::Interest::WRITABLE, send).await?;
        self.stream.write_all(line.as_bytes().get(sent..).unwrap_or_default()).await
    }

    /// From now on it can say nothing more: the kernel refuses it. What it has said can still be heard.
    fn deafen(&self) -> io::Result<()> {
        Ok(shutdown(&self.stream, Shutdown::Read)?)
    }

    /// Waits for a line, and for no other.
    async fn hear(&mut self, line: &str, patience: Duration) -> io::Result<()> {
        if self.line(patience).await? == line { Ok(()) } else { Err(unexpected()) }
    }

    /// The next line.
    async fn line(&mut self, patience: Duration) -> io::Result<String> {
        let whole = async {
            // They are few and short; and nothing behind the line is touched.
            while self.read.last() != Some(&b'\n') {
                if self.read.len() > LINE {
                    return Err(unexpected());
                }
                match self.stream.read_u8().await {
                    Ok(byte) => self.read.push(byte),
                    Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => {
                        return Err(io::Error::new(why.kind(), "it closed the connection"));
                    }
                    Err(why) => return Err(why),
                }
            }
            Ok(())
        };
        let outcome = tokio::time::timeout(patience, whole).await;
        outcome.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}")))??;
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.read)).trim_end().to_owned();
        match line.strip_prefix(NO) {
            Some(why) => Err(io::Error::other(why.to_owned())),
            None => Ok(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn who_takes_over_says_its_number() {
        assert_eq!(taker("take 17").unwrap(), 17);
        for wrong in ["take", "take ", "take 0", "take -1", "take 4294967295", "take 1 2", "taken 1", ""] {
            assert!(taker(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let ours: MockKey = std::array::from_fn(|at| (at * 8 + 3) as u8);
        assert_eq!(key(&hex(&ours)), Some(ours));
        for wrong in
            ["", "00", &"0".repeat(63), &"0".repeat(65), &"x".repeat(64), &"\u{e4}".repeat(32), &"+1".repeat(32)]
        {
            assert_eq!(key(wrong), None, "{wrong}");
        }
    }

    /// Plays the old process: what it says after `done`, and how it goes on.
    async fn taking(after: &[u8]) -> (Result<(), String>, bool, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"taken\n").unwrap();
        theirs.write_all(after).unwrap();
        let undone = Cell::new(false);
        let outcome = take(ours, || Ok(()), |()| undone.set(true)).await;
        (outcome, undone.get(), theirs)
    }

    #[tokio::test]
    async fn nothing_is_said_to_one_that_has_given_up() {
        let (outcome, undone, mut theirs) = taking(b"nonsense\n").await;
        assert!(outcome.unwrap_err().contains("something else") && undone);
        let mut said = String::new();
        theirs.read_to_string(&mut said).unwrap();
        assert_eq!(said, format!("take {}\ndone\n", std::process::id()));
        assert_eq!(theirs.write_all(b"bye\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let (outcome, undone, _theirs) = taking(b"bye\n").await;
        assert!(outcome.is_ok() && !undone);
        let (outcome, undone, _theirs) = taking(b"no it is paused\n").await;
        assert!(outcome.unwrap_err().ends_with("it is paused") && undone);
    }

    #[tokio::test]
    async fn what_was_said_before_one_gave_up_is_heard() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(ours).unwrap();
        theirs.write_all(b"bye\n").unwrap();
        peer.deafen().unwrap();
        assert!(theirs.write_all(b"more\n").is_err());
        peer.hear("bye", ANSWER).await.unwrap();
        assert!(peer.hear("more", ANSWER).await.is_err());
    }
}
