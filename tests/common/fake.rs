//! A server that follows a script, for what no real PostgreSQL does: breaking off in the middle of a message, falling
//! silent, answering nonsense.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::wire::{self, FrameReader, Message, Startup, backend};

/// How long a step waits for the client.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a waiting step looks whether the server is being dropped.
const TICK: Duration = Duration::from_millis(10);

/// One step of a script. Nothing is read that no step asks for.
#[derive(Debug, Clone)]
pub enum Step {
    /// A StartupMessage; SSLRequest and GSSENCRequest before it are answered with `N`.
    ExpectStartup,
    /// The same; a CancelRequest ends the script.
    ExpectStartupOrCancel,
    /// A CancelRequest with this process id and key.
    ExpectCancel(u32, Vec<u8>),
    /// A message of this type.
    Expect(u8),
    /// A message of this type whose body contains this text.
    ExpectText(u8, String),
    /// All messages up to and with the first of this type.
    ExpectUntil(u8),
    /// Messages up to the first of one of these types, which is answered by these bytes as far as the client takes them.
    Answer(Vec<(u8, Vec<u8>)>),
    /// The client closes, by Terminate or without; everything before is read and thrown away.
    ExpectClose,
    /// Bytes as they are.
    Send(Vec<u8>),
    /// Bytes as far as the client takes them; it may close before their end.
    TrySend(Vec<u8>),
    /// Pause.
    Sleep(Duration),
    /// The steps again and again until the client closes between two rounds.
    Loop(Vec<Self>),
    /// Neither read nor write, with the connection open, until the server is dropped.
    Stall,
    /// Close in good order (FIN).
    Close,
    /// Close with RST.
    Reset,
}

impl Step {
    /// ReadyForQuery.
    pub fn ready(status: u8) -> Self {
        Self::Send(backend::ready(status))
    }

    /// A whole login by trust: startup, AuthenticationOk, a few parameters, key, ReadyForQuery.
    pub fn login() -> Vec<Self> {
        vec![Self::ExpectStartup, Self::Send(greeting(4711, &[1, 2, 3, 4]))]
    }

    /// A simple query (any) and its reply.
    pub fn reply(bytes: Vec<u8>) -> Vec<Self> {
        vec![Self::Expect(b'Q'), Self::Send(bytes)]
    }
}

/// What a server says after a login by trust.
pub fn greeting(pid: u32, key: &[u8]) -> Vec<u8> {
    let params = [
        ("server_version", "15.0"),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("IntervalStyle", "postgres"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
        ("application_name", ""),
        ("in_hot_standby", "off"),
        ("default_transaction_read_only", "off"),
    ];
    let params: Vec<u8> = params.iter().flat_map(|(name, value)| backend::parameter_status(name, value)).collect();
    [backend::auth_ok(), params, backend::key_data(pid, key), backend::ready(b'I')].concat()
}

/// What the threads tell the test.
#[derive(Default)]
struct Shared {
    dropping: AtomicBool,
    /// One entry per connection, in the order in which they were accepted.
    connections: Mutex<Vec<Connection>>,
}

#[derive(Default)]
struct Connection {
    startup: Option<Startup>,
    received: Vec<Message>,
    /// None while the script runs.
    outcome: Option<Result<(), String>>,
}

/// A scripted server on a port of its own. A deviation from the script fails the test at the latest when the server
/// is dropped.
pub struct FakeServer {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    /// How many connections [`Self::finish`] waits for.
    expected: usize,
}

impl FakeServer {
    /// The n-th connection runs the n-th script; further ones are a deviation and closed.
    pub fn start(scripts: Vec<Vec<Step>>) -> Self {
        let expected = scripts.len();
        Self::launch(expected, move |number| scripts.get(number).cloned())
    }

    /// Every connection runs the script that `script` makes for its number (from 0).
    pub fn serve(script: impl Fn(usize) -> Vec<Step> + Send + 'static) -> Self {
        Self::launch(0, move |number| Some(script(number)))
    }

    fn launch(expected: usize, script: impl Fn(usize) -> Option<Vec<Step>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &theirs, script));
        Self { port, shared, acceptor: Some(acceptor), expected }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.shared.connections.lock().len()
    }

    /// The startup message of a connection, if it has come.
    pub fn startup(&self, connection: usize) -> Option<Startup> {
        self.shared.connections.lock().get(connection)?.startup.clone()
    }

    /// The messages that a connection's script has read so far.
    pub fn received(&self, connection: usize) -> Vec<Message> {
        self.shared.connections.lock().get(connection).map(|c| c.received.clone()).unwrap_or_default()
    }

    /// What went otherwise than the scripts say, so far.
    pub fn deviations(&self) -> Vec<String> {
        let connections = self.shared.connections.lock();
        let failed = connections.iter().enumerate().filter_map(|(number, connection)| match &connection.outcome {
            Some(Err(what)) => Some(format!("connection {number}: {what}")),
            Some(Ok(())) | None => None,
        });
        failed.collect()
    }

    /// Waits until all scripts have run to their end and returns the deviations. Scripts that stall never end: drop
    /// the server instead.
    pub fn finish(mut self) -> Vec<String> {
        let deadline = pgweir::clock::now() + PATIENCE;
        let done = || {
            let connections = self.shared.connections.lock();
            connections.len() >= self.expected && connections.iter().all(|c| c.outcome.is_some())
        };
        while !done() && pgweir::clock::now() < deadline {
            std::thread::sleep(TICK);
        }
        let mut deviations = self.deviations();
        if !done() {
            let accepted = self.accepted();
            deviations.push(format!("not done: {accepted} connections accepted, {} expected", self.expected));
        }
        self.shut_down();
        self.shared.connections.lock().clear();
        deviations
    }

    fn shut_down(&mut self) {
        self.shared.dropping.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the acceptor does not panic");
        }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.shut_down();
        let deviations = self.deviations();
        if std::thread::panicking() {
            eprintln!("--- fake server on port {}: deviations {deviations:?}", self.port);
        } else {
            assert!(deviations.is_empty(), "fake server: {deviations:?}");
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, script: impl Fn(usize) -> Option<Vec<Step>>) {
    let mut threads = Vec::new();
    loop {
        let stream = listener.accept().unwrap().0;
        if shared.dropping.load(Ordering::Relaxed) {
            break;
        }
        let number = {
            let mut connections = shared.connections.lock();
            connections.push(Connection::default());
            connections.len() - 1
        };
        let steps = script(number);
        let shared = Arc::clone(shared);
        threads.push(std::thread::spawn(move || {
            let outcome = match steps {
                Some(steps) => Actor::new(stream, number, &shared).play(&steps),
                None => Err("no script for it".to_owned()),
            };
            shared.connections.lock()[number].outcome = Some(outcome);
        }));
    }
    for thread in threads {
        thread.join().expect("a script does not panic");
    }
}

/// Whether the script goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Step,
    End,
}

/// Plays one connection.
struct Actor<'a> {
    stream: Option<TcpStream>,
    reader: FrameReader,
    number: usize,
    shared: &'a Shared,
}

impl<'a> Actor<'a> {
    fn new(stream: TcpStream, number: usize, shared: &'a Shared) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TICK)).unwrap();
        // A client that stops reading must not hold up the drop for ever.
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: Some(stream), reader: FrameReader::default(), number, shared }
    }

    fn play(mut self, steps: &[Step]) -> Result<(), String> {
        self.play_all(steps).map(|_| ())
    }

    fn play_all(&mut self, steps: &[Step]) -> Result<Next, String> {
        for (position, step) in steps.iter().enumerate() {
            let next = self.step(step);
            if self.dropping() {
                return Ok(Next::End);
            }
            if next.map_err(|what| format!("step {position}, {step:?}: {what}"))? == Next::End {
                return Ok(Next::End);
            }
        }
        Ok(Next::Step)
    }

    fn step(&mut self, step: &Step) -> Result<Next, String> {
        match step {
            Step::ExpectStartup if self.expect_startup()? == Next::End => return Err("got a CancelRequest".to_owned()),
            Step::ExpectStartup => {}
            Step::ExpectStartupOrCancel => return self.expect_startup(),
            Step::ExpectCancel(pid, key) => {
                let startup = self.startup()?;
                let wanted = [&pid.to_be_bytes()[..], key].concat();
                if startup.version != wire::CANCEL_REQUEST || startup.body != wanted {
                    return Err(format!("got {startup:?}"));
                }
            }
            Step::Expect(tag) => {
                self.expect(*tag)?;
            }
            Step::ExpectText(tag, text) => {
                let message = self.expect(*tag)?;
                if !String::from_utf8_lossy(&message.body).contains(text) {
                    return Err(format!("got {:?}", String::from_utf8_lossy(&message.body)));
                }
            }
            Step::ExpectUntil(tag) => while self.message()?.ok_or("the client closed")?.tag != *tag {},
            Step::Answer(answers) => loop {
                let tag = self.message()?.ok_or("the client closed")?.tag;
                if let Some((_, answer)) = answers.iter().find(|(of, _)| *of == tag) {
                    drop(self.stream().write_all(answer));
                    break;
                }
                if tag == b'X' {
                    return Ok(Next::End);
                }
            },
            Step::ExpectClose => {
                while self.message()?.is_some_and(|message| message.tag != b'X') {}
                return Ok(Next::End);
            }
            Step::Send(bytes) => self.stream().write_all(bytes).map_err(|error| error.to_string())?,
            Step::TrySend(bytes) => drop(self.stream().write_all(bytes)),
            Step::Sleep(time) => self.pause(Some(*time)),
            Step::Loop(steps) => loop {
                if self.at_end()? || self.play_all(steps)? == Next::End {
                    return Ok(Next::End);
                }
            },
            Step::Stall => self.pause(None),
            Step::Close => {
                self.stream = None;
                return Ok(Next::End);
            }
            Step::Reset => {
                let socket = socket2::Socket::from(self.stream.take().expect("open"));
                socket.set_linger(Some(Duration::ZERO)).map_err(|error| error.to_string())?;
                return Ok(Next::End);
            }
        }
        Ok(Next::Step)
    }

    fn stream(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect("no step follows a close")
    }

    fn dropping(&self) -> bool {
        self.shared.dropping.load(Ordering::Relaxed)
    }

    fn pause(&self, time: Option<Duration>) {
        let end = time.map(|time| pgweir::clock::now() + time);
        while !self.dropping() && end.is_none_or(|end| pgweir::clock::now() < end) {
            std::thread::sleep(TICK.min(time.unwrap_or(TICK)));
        }
    }

    /// Reads with `read`, again and again while nothing comes.
    fn patiently<T>(
        &mut self,
        patience: Option<Duration>,
        read: impl Fn(&mut FrameReader, &mut TcpStream) -> io::Result<T>,
    ) -> Result<T, String> {
        let deadline = patience.map(|patience| pgweir::clock::now() + patience);
        loop {
            let stream = self.stream.as_mut().expect("no step follows a close");
            match read(&mut self.reader, stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.dropping() || deadline.is_some_and(|deadline| pgweir::clock::now() > deadline) {
                        return Err("nothing came".to_owned());
                    }
                }
                other => return other.map_err(|error| error.to_string()),
            }
        }
    }

    fn message(&mut self) -> Result<Option<Message>, String> {
        let message = self.patiently(Some(PATIENCE), |reader, stream| reader.message(stream))?;
        if let Some(message) = &message {
            self.shared.connections.lock()[self.number].received.push(message.clone());
        }
        Ok(message)
    }

    fn expect(&mut self, tag: u8) -> Result<Message, String> {
        match self.message()? {
            Some(message) if message.tag == tag => Ok(message),
            Some(message) => Err(format!("got {:?} {:?}", char::from(message.tag), message.body)),
            None => Err("the client closed".to_owned()),
        }
    }

    fn startup(&mut self) -> Result<Startup, String> {
        self.patiently(Some(PATIENCE), |reader, stream| reader.startup(stream))?.ok_or("the client closed".to_owned())
    }

    /// The end: a CancelRequest came instead.
    fn expect_startup(&mut self) -> Result<Next, String> {
        loop {
            let startup = self.startup()?;
            match startup.version {
                wire::SSL_REQUEST | wire::GSSENC_REQUEST => {
                    self.stream().write_all(b"N").map_err(|error| error.to_string())?;
                }
                wire::CANCEL_REQUEST => return Ok(Next::End),
                _ => {
                    self.shared.connections.lock()[self.number].startup = Some(startup);
                    return Ok(Next::Step);
                }
            }
        }
    }

    /// Whether the client has closed, by Terminate or without, instead of sending another request. Waits for either as
    /// long as it takes.
    fn at_end(&mut self) -> Result<bool, String> {
        let next = self.patiently(None, |reader, stream| match reader.peek(stream) {
            // It closed with bytes of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            other => other,
        })?;
        Ok(next.is_none_or(|tag| tag == b'X'))
    }
}
