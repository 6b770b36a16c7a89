//! A client that sends what it is told, frame by frame, and blocks with a timeout when it reads.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::authentication::{
    md5_hash,
    sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
};

use super::wire::{self, Cursor, FrameReader, Message, PROTOCOL_3_0, ServerError, frontend, show};

/// How long a read waits unless told otherwise.
pub const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A port of 127.0.0.1.
    Tcp(u16),
    /// A unix socket's path.
    Unix(PathBuf),
}

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path)?)),
        }
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(timeout)),
        }
    }

    fn as_write(&mut self) -> &mut dyn Write {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
            Self::Tls(stream) => &mut **stream,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

/// Why a login did not succeed.
#[derive(Debug)]
pub enum LoginError {
    /// The server refused.
    Server(ServerError),
    /// The connection broke, or nothing came in time.
    Io(io::Error),
    /// The server asked for something we do not have, or closed without a word.
    Unexpected(String),
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl LoginError {
    /// The SQLSTATE of the refusal, or the empty string.
    pub fn code(&self) -> &str {
        match self {
            Self::Server(error) => &error.code,
            Self::Io(_) | Self::Unexpected(_) => "",
        }
    }
}

/// What to log in with.
#[derive(Debug, Clone)]
pub struct Login {
    address: Address,
    version: u32,
    params: Vec<(String, String)>,
    password: Option<String>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Login {
    /// As `user` to `database`, without a password, by protocol 3.0.
    pub fn new(address: Address, user: &str, database: &str) -> Self {
        let params = [("user", user), ("database", database)];
        let params = params.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { address, version: PROTOCOL_3_0, params, password: None, tls: None }
    }

    /// Answers every request for a password with this one.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Asks for TLS first, to the host `localhost`.
    #[must_use]
    pub fn tls(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Adds a startup parameter.
    #[must_use]
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asks for another protocol version (`major << 16 | minor`).
    #[must_use]
    pub fn protocol(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Connects and logs in, up to the first ReadyForQuery.
    pub fn connect(self) -> Result<RawClient, LoginError> {
        let mut client = RawClient::open(self.address.clone())?;
        if let Some(config) = &self.tls {
            let answer = client.request_encryption(wire::SSL_REQUEST);
            if answer != b'S' {
                return Err(LoginError::Unexpected(format!("{:?} to an SSLRequest", char::from(answer))));
            }
            client = client.encrypt(Arc::clone(config))?;
        }
        client.log_in(&self)?;
        Ok(client)
    }
}

/// A connection to a server, logged in or not.
pub struct RawClient {
    stream: Stream,
    reader: FrameReader,
    address: Address,
    /// Process id of BackendKeyData, or 0.
    pub pid: u32,
    /// Key of BackendKeyData: 4 bytes before protocol 3.2.
    pub key: Vec<u8>,
    /// The latest ParameterStatus of each name.
    pub params: BTreeMap<String, String>,
    /// What came during the login.
    pub greeting: Vec<Message>,
}

impl fmt::Debug for RawClient {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "RawClient of {:?}, pid {}", self.address, self.pid)
    }
}

/// The salt that a user is shown who begins a SCRAM exchange.
pub fn shown_salt(address: Address, user: &str, database: &str) -> String {
    let mut client = RawClient::open(address).unwrap();
    let params = [("user", user), ("database", database)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    client.send_bytes(&frontend::startup(PROTOCOL_3_0, &params));
    client.read_message();
    let first = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
    client.send(b'p', &[b"SCRAM-SHA-256\0", &length[..], first].concat());
    let answer = client.read_message();
    let text = String::from_utf8_lossy(&answer.body[4..]).into_owned();
    text.split(',').nth(1).unwrap_or_else(|| panic!("{answer}")).to_owned()
}

impl RawClient {
    /// Connects to a port of 127.0.0.1 and logs in by trust; panics when refused.
    pub fn connect(port: u16, user: &str, database: &str) -> Self {
        Login::new(Address::Tcp(port), user, database).connect().unwrap()
    }

    /// Connects and sends nothing.
    pub fn open(address: Address) -> io::Result<Self> {
        let stream = Stream::open(&address)?;
        stream.set_read_timeout(READ_TIMEOUT)?;
        Ok(Self {
            stream,
            reader: FrameReader::default(),
            address,
            pid: 0,
            key: Vec::new(),
            params: BTreeMap::new(),
            greeting: Vec::new(),
        })
    }

    /// Sends the startup message and what is asked for, up to the first ReadyForQuery.
    pub fn log_in(&mut self, login: &Login) -> Result<(), LoginError> {
        self.stream.as_write().write_all(&frontend::startup(login.version, &login.params))?;
        self.authenticate(login)
    }

    /// Makes the TLS handshake with `localhost`.
    pub fn encrypt(mut self, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let Stream::Tcp(mut socket) = self.stream else { return Err(io::ErrorKind::Unsupported.into()) };
        let name = "localhost".try_into().map_err(io::Error::other)?;
        let mut session = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        self.stream = Stream::Tls(Box::new(rustls::StreamOwned::new(session, socket)));
        Ok(self)
    }

    /// From now on reads wait this long.
    pub fn set_read_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(timeout).unwrap();
    }

    /// Sends an SSLRequest (or GSSENCRequest) and returns the one byte that answers it.
    pub fn request_encryption(&mut self, code: u32) -> u8 {
        self.send_bytes(&frontend::startup_packet(code, &[]));
        let mut answer = [0];
        self.stream.read_exact(&mut answer).unwrap();
        answer[0]
    }

    fn authenticate(&mut self, login: &Login) -> Result<(), LoginError> {
        let user = login.params.iter().find(|(name, _)| name == "user").map_or("", |(_, user)| user);
        let password = || login.password.as_deref().ok_or_else(|| LoginError::Unexpected("no password at hand".into()));
        let mut scram = None;
        loop {
            let Some(message) = self.try_read_message()? else {
                return Err(LoginError::Unexpected(format!("closed after {}", show(&self.greeting))));
            };
            self.greeting.push(message.clone());
            match message.tag {
                b'R' => {
                    let mut at = Cursor(&message.body);
                    let reply = match at.int32() {
                        Some(0) => continue,
                        Some(3) => frontend::password(password()?),
                        Some(5) => {
                            let salt = at.take(4).unwrap().try_into().unwrap();
                            frontend::password(&md5_hash(user.as_bytes(), password()?.as_bytes(), salt))
                        }
                        Some(10..=12) => match scram_step(&mut scram, &message.body, password()?)? {
                            Some(reply) => reply,
                            None => continue,
                        },
                        other => return Err(LoginError::Unexpected(format!("authentication request {other:?}"))),
                    };
                    self.stream.as_write().write_all(&reply)?;
                }
                b'E' => return Err(LoginError::Server(message.error().unwrap_or_default())),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    // Requests.

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.as_write().write_all(bytes).unwrap();
    }

    /// Like [`Self::send_bytes`] where the peer may have gone.
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.as_write().write_all(bytes)
    }

    /// Sends a message of any type and content.
    pub fn send(&mut self, tag: u8, body: &[u8]) {
        self.send_bytes(&wire::frame(tag, body));
    }

    /// Query.
    pub fn query(&mut self, sql: &str) {
        self.send_bytes(&frontend::query(sql));
    }

    /// Parse.
    pub fn parse(&mut self, name: &str, sql: &str, oids: &[u32]) {
        self.send_bytes(&frontend::parse(name, sql, oids));
    }

    /// Bind; values and results as text.
    pub fn bind(&mut self, portal: &str, statement: &str, values: &[Option<&str>]) {
        let values: Vec<Option<&[u8]>> = values.iter().map(|value| value.map(str::as_bytes)).collect();
        self.send_bytes(&frontend::bind(portal, statement, &values, 0));
    }

    /// Bind; values and results in binary.
    pub fn bind_binary(&mut self, portal: &str, statement: &str, values: &[Option<&[u8]>]) {
        self.send_bytes(&frontend::bind(portal, statement, values, 1));
    }

    /// Describe of a statement.
    pub fn describe_statement(&mut self, name: &str) {
        self.send_bytes(&frontend::target(b'D', b'S', name));
    }

    /// Describe of a portal.
    pub fn describe_portal(&mut self, name: &str) {
        self.send_bytes(&frontend::target(b'D', b'P', name));
    }

    /// Execute; 0: all rows.
    pub fn execute(&mut self, portal: &str, max_rows: u32) {
        self.send_bytes(&frontend::execute(portal, max_rows));
    }

    /// Close of a statement.
    pub fn close_statement(&mut self, name: &str) {
        self.send_bytes(&frontend::target(b'C', b'S', name));
    }

    /// Close of a portal.
    pub fn close_portal(&mut self, name: &str) {
        self.send_bytes(&frontend::target(b'C', b'P', name));
    }

    /// Sync.
    pub fn sync(&mut self) {
        self.send(b'S', &[]);
    }

    /// Flush.
    pub fn flush(&mut self) {
        self.send(b'H', &[]);
    }

    /// CopyData.
    pub fn copy_data(&mut self, data: &[u8]) {
        self.send(b'd', data);
    }

    /// CopyDone.
    pub fn copy_done(&mut self) {
        self.send(b'c', &[]);
    }

    /// CopyFail.
    pub fn copy_fail(&mut self, why: &str) {
        self.send(b'f', &wire::body(|to| wire::put_text(to, why)));
    }

    /// FunctionCall with text arguments.
    pub fn function_call(&mut self, oid: u32, arguments: &[Option<&str>]) {
        self.send_bytes(&frontend::function_call(oid, arguments));
    }

    /// Terminate; reads go on until the server closes.
    pub fn terminate(&mut self) {
        self.send(b'X', &[]);
    }

    /// Cancels what this connection does, over a connection of its own, and waits until the server has closed that.
    pub fn cancel(&self) {
        cancel(&self.address, self.pid, &self.key);
    }

    // Replies.

    /// The next message; `None` at the end of the stream.
    pub fn try_read_message(&mut self) -> io::Result<Option<Message>> {
        let message = self.reader.message(&mut self.stream)?;
        if let Some(message) = &message {
            self.note(message);
        }
        Ok(message)
    }

    fn note(&mut self, message: &Message) {
        let mut at = Cursor(&message.body);
        match message.tag {
            b'S' => {
                if let (Some(name), Some(value)) = (at.text(), at.text()) {
                    self.params.insert(name, value);
                }
            }
            b'K' => {
                self.pid = at.int32().unwrap().cast_unsigned();
                self.key = at.0.to_vec();
            }
            _ => {}
        }
    }

    /// The next message; panics when there is none in time.
    pub fn read_message(&mut self) -> Message {
        self.try_read_message().expect("a message").expect("a message, not the end of the stream")
    }

    /// All messages up to and with ReadyForQuery.
    pub fn read_until_ready(&mut self) -> Vec<Message> {
        self.read_until(b'Z')
    }

    /// All messages up to and with the first of this type; panics with what came before when it does not come.
    pub fn read_until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.try_read_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => panic!("end of the stream after {}", show(&messages)),
                Err(error) => panic!("{error} after {}", show(&messages)),
            }
            if messages.last().is_some_and(|message| message.tag == tag) {
                return messages;
            }
        }
    }

    /// All messages until the server closes; a reset counts as a close.
    pub fn read_to_end(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.try_read_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return messages,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return messages,
                Err(error) => panic!("{error} after {}", show(&messages)),
            }
        }
    }

    /// Panics when anything, also the end of the stream, comes within `time`.
    pub fn expect_silence(&mut self, time: Duration) {
        self.set_read_timeout(time);
        match self.try_read_message() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(message) => panic!("expected silence, got {message:?}"),
            Err(error) => panic!("expected silence, got {error}"),
        }
        self.set_read_timeout(READ_TIMEOUT);
    }

    // Both.

    /// A simple query and the compact form of its reply.
    pub fn run(&mut self, sql: &str) -> String {
        self.query(sql);
        show(&self.read_until_ready())
    }

    /// A simple query and its rows (NULL is empty, as with psql); the first error, should there be one.
    pub fn rows(&mut self, sql: &str) -> Result<Vec<Vec<String>>, ServerError> {
        self.query(sql);
        let messages = self.read_until_ready();
        if let Some(error) = messages.iter().find(|message| message.tag == b'E') {
            return Err(error.error().unwrap_or_default());
        }
        let rows = messages.iter().filter_map(Message::row);
        Ok(rows.map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect())
    }

    /// The first value of a simple query; panics when there is none.
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.into_iter().flatten().next().unwrap_or_else(|| panic!("{sql}: no rows"))
    }
}

/// Sends a CancelRequest over a connection of its own and waits until the server has closed that: only then is the
/// request on its way.
pub fn cancel(address: &Address, pid: u32, key: &[u8]) {
    let mut client = RawClient::open(address.clone()).unwrap();
    client.send_bytes(&frontend::cancel(pid, key));
    client.read_to_end();
}

/// One step of SCRAM-SHA-256: what to send, or nothing at the end.
fn scram_step(state: &mut Option<ScramSha256>, body: &[u8], password: &str) -> Result<Option<Vec<u8>>, LoginError> {
    let (kind, data) = body.split_at(4);
    let unexpected = |what: &str| LoginError::Unexpected(what.to_owned());
    match (kind[3], &mut *state) {
        (10, None) => {
            let offered = String::from_utf8_lossy(data);
            if !offered.split('\0').any(|name| name == SCRAM_SHA_256) {
                return Err(LoginError::Unexpected(format!("SASL mechanisms {offered:?}")));
            }
            let scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
            let first = wire::body(|to| {
                wire::put_text(to, SCRAM_SHA_256);
                wire::put_value(to, Some(scram.message()));
            });
            *state = Some(scram);
            Ok(Some(wire::frame(b'p', &first)))
        }
        (11, Some(scram)) => {
            scram.update(data)?;
            Ok(Some(wire::frame(b'p', scram.message())))
        }
        (12, Some(scram)) => {
            scram.finish(data)?;
            Ok(None)
        }
        _ => Err(unexpected("SASL out of order")),
    }
}
