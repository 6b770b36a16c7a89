//! A logged-in connection to a server.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::error::Error;
use crate::id::{ConnectionId, WorkerId};
use crate::net::buffer::write_all;
use crate::net::{Buffer, Stream};
use crate::session::ServerState;
use crate::wire::message::TransactionStatus;
use crate::wire::{encode, frame, message};

/// Longest message that is taken whole from a server outside of a client's results: errors, notices, parameters.
const MAX_OWN_MESSAGE: usize = 1 << 20;

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    /// Its number.
    pub id: ConnectionId,
    /// The socket.
    pub stream: Stream,
    /// Bytes of a frame that is not whole yet.
    pub input: Buffer,
    /// Bytes that the socket has not taken yet.
    pub output: Buffer,
    /// What is prepared and set on it.
    pub state: ServerState,
    /// The server process.
    pub pid: u32,
    /// What cancels its statements. Never printed.
    pub secret: Secret,
    /// The worker whose reactor has the socket.
    pub worker: WorkerId,
    /// When the login was done.
    pub created: Instant,
    /// When it last had an answer that was waited for.
    pub heard: Instant,
    /// Settings reported at login, as the server spells them.
    pub welcome: Vec<(String, String)>,
    /// How many statements are prepared on it, as others see it.
    pub prepared: Arc<AtomicU32>,
}

/// A cancel key.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Reads the next whole message: its type and its body.
///
/// # Errors
/// Those of the socket, its end, and frames that no server sends.
pub async fn read_message(stream: &mut Stream, input: &mut Buffer) -> io::Result<(u8, Vec<u8>)> {
    read_message_up_to(MAX_OWN_MESSAGE, stream, input).await
}

/// The same, for messages of `most` bytes at most.
///
/// # Errors
/// Those of [`read_message`], and that a message is longer: `InvalidData`, before more of it is read.
pub async fn read_message_up_to(most: usize, stream: &mut Stream, input: &mut Buffer) -> io::Result<(u8, Vec<u8>)> {
    loop {
        let whole = frame::next(input.bytes(), most)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?
            .map(|f| (f.tag, f.body().to_vec(), f.bytes.len()));
        if let Some((tag, body, len)) = whole {
            input.consume(len);
            return Ok((tag, body));
        }
        if poll_fn(|cx| input.poll_fill(stream, cx)).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "server closed the connection unexpectedly"));
        }
    }
}

impl Connection {
    /// Runs `sql` for our own purposes and waits for its end; rows are thrown away.
    ///
    /// # Errors
    /// Of the connection (outer), after which it cannot be used, or of the statement (inner), after which it can.
    pub async fn run(&mut self, sql: &str) -> io::Result<Result<(), Error>> {
        self.exchange(sql, |_| ()).await
    }

    /// Runs `sql` for our own purposes and returns its rows, as text; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub async fn rows(&mut self, sql: &str) -> io::Result<Result<Vec<Vec<Option<String>>>, Error>> {
        let mut rows = Vec::new();
        let done = self.exchange(sql, |row| rows.push(message::data_row(row))).await?;
        Ok(done.map(|()| rows.into_iter().flatten().collect()))
    }

    /// Runs `sql` with one parameter, for our own purposes: the value cannot become part of the statement.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub async fn rows_for(&mut self, sql: &str, value: &str) -> io::Result<Result<Vec<Vec<Option<String>>>, Error>> {
        let mut bytes = Vec::with_capacity(sql.len() + value.len() + 64);
        encode::parse(&mut bytes, b"", sql.as_bytes(), &[0, 0]);
        encode::bind_text(&mut bytes, value.as_bytes());
        encode::execute(&mut bytes);
        encode::sync(&mut bytes);
        self.state.unnamed = None;
        write_all(&mut self.stream, &bytes).await?;
        let mut rows = Vec::new();
        let done = self.until_ready(|row| rows.push(message::data_row(row))).await?;
        Ok(done.map(|()| rows.into_iter().flatten().collect()))
    }

    async fn exchange(&mut self, sql: &str, row: impl FnMut(&[u8])) -> io::Result<Result<(), Error>> {
        let mut bytes = Vec::with_capacity(sql.len() + 8);
        encode::query(&mut bytes, sql.as_bytes());
        self.state.unnamed = None;
        write_all(&mut self.stream, &bytes).await?;
        self.until_ready(row).await
    }

    /// Sends Sync for our own purposes and waits for its answer.
    ///
    /// # Errors
    /// Of the connection, after which it cannot be used.
    pub async fn sync(&mut self) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(5);
        encode::sync(&mut bytes);
        write_all(&mut self.stream, &bytes).await?;
        self.until_ready(|_| ()).await.map(|_| ())
    }

    async fn until_ready(&mut self, mut row: impl FnMut(&[u8])) -> io::Result<Result<(), Error>> {
        let mut outcome = Ok(());
        loop {
            match read_message(&mut self.stream, &mut self.input).await? {
                (b'Z', _) => return Ok(outcome),
                (b'E', body) => outcome = Err(message::server_error(&body)),
                (b'S', body) => self.report(&body),
                (b'D', body) => row(&body),
                _ => {}
            }
        }
    }

    /// Lets others know how many statements are prepared on it, if that has changed.
    pub fn note_prepared(&self) {
        let now = u32::try_from(self.state.statements.len()).unwrap_or(u32::MAX);
        if self.prepared.load(Ordering::Relaxed) != now {
            self.prepared.store(now, Ordering::Relaxed);
        }
    }

    /// Sends messages that end with a Sync, for our own purposes, and returns the answers up to ReadyForQuery: type and body.
    ///
    /// # Errors
    /// Of the connection, after which it cannot be used.
    pub async fn converse(&mut self, request: &[u8]) -> io::Result<Vec<(u8, Vec<u8>)>> {
        self.state.unnamed = None;
        write_all(&mut self.stream, request).await?;
        let mut answers = Vec::new();
        loop {
            match read_message(&mut self.stream, &mut self.input).await? {
                (b'Z', _) => return Ok(answers),
                (b'S', body) => self.report(&body),
                answer => answers.push(answer),
            }
        }
    }

    /// Reads what the server still sends up to its ReadyForQuery, and forgets it.
    ///
    /// # Errors
    /// Of the connection, after which it cannot be used; it is in a transaction.
    pub async fn settle(&mut self) -> io::Result<()> {
        match self.settle_anyhow().await? {
            TransactionStatus::Idle => Ok(()),
            TransactionStatus::InTransaction | TransactionStatus::Failed => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The same of a connection that may be in a transaction: whether it is.
    ///
    /// # Errors
    /// Of the connection, after which it cannot be used.
    pub async fn settle_anyhow(&mut self) -> io::Result<TransactionStatus> {
        poll_fn(|cx| self.output.poll_flush(&mut self.stream, cx)).await?;
        loop {
            match read_message(&mut self.stream, &mut self.input).await? {
                (b'Z', body) => {
                    return message::ready_for_query(&body).ok_or_else(|| io::ErrorKind::InvalidData.into());
                }
                (b'S', body) => self.report(&body),
                _ => {}
            }
        }
    }

    /// Takes in a ParameterStatus.
    pub fn report(&mut self, body: &[u8]) {
        if let Some((name, value)) = message::parameter_status(body) {
            self.state.settings.report(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
        }
    }

    /// Whether the resting connection can be used: it is not closed, and what came meanwhile (reported settings, notices) is taken in.
    /// Asks no system call when nothing came.
    #[must_use]
    pub fn is_usable(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if self.input.is_empty() && !self.stream.poll_readable(&mut cx) {
            return true;
        }
        loop {
            match self.input.poll_fill(&mut self.stream, &mut cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return false,
            }
        }
        loop {
            let taken = match frame::next(self.input.bytes(), MAX_OWN_MESSAGE) {
                Ok(Some(f)) => Some((f.tag, f.body().to_vec(), f.bytes.len())),
                Ok(None) => None,
                Err(_) => return false,
            };
            match taken {
                None => return self.input.is_empty(),
                Some((b'S', body, len)) => {
                    self.report(&body);
                    self.input.consume(len);
                }
                Some((b'N' | b'A', _, len)) => self.input.consume(len),
                Some(_) => return false,
            }
        }
    }

    /// Moves the socket to the reactor of the calling worker, if it is at another's.
    ///
    /// # Errors
    /// When a reactor refuses.
    pub fn move_to(self: Box<Self>, worker: WorkerId) -> io::Result<Box<Self>> {
        if self.worker == worker {
            return Ok(self);
        }
        let this = *self;
        let stream = this.stream.detach()?.attach()?;
        Ok(Box::new(Self { stream, worker, ..this }))
    }
}
