//! Logging in to a server.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::auth::scram;
use crate::auth::server_login::{Reply, ServerLogin};
use crate::clock;
use crate::config::TcpSettings;
use crate::error::{Error, SqlState};
use crate::id::{ConnectionId, WorkerId};
use crate::net::buffer::write_all;
use crate::net::connect::{Attempt, Failure, connect};
use crate::net::dns::Dns;
use crate::net::tls::{ServerTls, Tls};
use crate::net::{Buffer, Stream};
use crate::server::connection::{Secret, read_message};
use crate::server::{Address, Connection, Target, dial, first};
use crate::session::ServerState;
use crate::wire::{encode, message};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// What every login needs beside its target.
#[derive(Debug, Clone)]
pub struct LoginSettings {
    /// For connecting and logging in together.
    pub timeout: Duration,
    /// Options of the socket.
    pub tcp: TcpSettings,
    /// Prepared statements kept on the connection.
    pub max_statements: usize,
    /// TLS.
    pub tls: Arc<ServerTls>,
    /// Knows the addresses of hosts.
    pub dns: Arc<Dns>,
}

/// Connects and logs in: of several hosts, at the first that can be reached. The time that it may take is that of each.
///
/// # Errors
/// What went wrong, with the server's address; origin `Server`.
pub async fn login(target: &Target, settings: &LoginSettings, worker: WorkerId) -> Result<Box<Connection>, Error> {
    let mut failed = None;
    for target in target.each(0) {
        match at_host(&target, settings, worker).await {
            Err(error) if is_unreachable(&error) => failed = Some(error),
            outcome => return outcome,
        }
    }
    Err(failed.unwrap_or_else(|| Error::server(SqlState::CONNECTION_FAILURE, "the server has no host")))
}

/// Whether a login failed because nobody answered, or the server is starting or stopping.
#[must_use]
pub fn is_unreachable(error: &Error) -> bool {
    matches!(error.sqlstate, SqlState::CONNECTION_FAILURE | SqlState::CANNOT_CONNECT | SqlState::CANNOT_CONNECT_NOW)
}

async fn at_host(target: &Target, settings: &LoginSettings, worker: WorkerId) -> Result<Box<Connection>, Error> {
    let address = target.address();
    let ready = async {
        let mut connection = try_each(target, settings, worker).await?;
        if let Some(sql) = &target.connect_query {
            first::run(&mut connection, target, sql).await?;
        }
        Ok(connection)
    };
    match tokio::time::timeout(settings.timeout, ready).await {
        Ok(result) => result,
        Err(_) => Err(Error::server(
            SqlState::CANNOT_CONNECT,
            format!(
                "could not log in to server {address}: {} within {} s",
                dial::silent(address, &settings.dns),
                settings.timeout.as_secs_f64()
            ),
        )),
    }
}

/// Logs in without or with TLS, in the order of the mode. The next way is tried where TLS fails, or where the server's pg_hba.conf
/// refuses this one (28000): libpq's rule.
async fn try_each(target: &Target, settings: &LoginSettings, worker: WorkerId) -> Result<Box<Connection>, Error> {
    let connector = settings.tls.get();
    let mut attempts = Attempt::of(connector.mode, target.address().host).iter();
    let mut first = None;
    loop {
        let Some(attempt) = attempts.next() else {
            return Err(first.unwrap_or_else(|| Error::us(SqlState::INTERNAL_ERROR, "no way to log in was tried")));
        };
        let LoginSettings { timeout, tcp, dns, .. } = settings;
        let dialled = dial::dial(target.address(), *timeout, tcp, *attempt, &connector, dns).await?;
        let failed = match dialled {
            Err(error) => error,
            Ok(stream) => {
                let was_plain = stream.tls().is_none();
                match Box::pin(exchange(target, settings, worker, stream)).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) if error.sqlstate != SqlState::INVALID_AUTHORIZATION => return Err(error),
                    // The server does not offer TLS, so there is no other way.
                    Err(error) if was_plain && *attempt == Attempt::Offered => return Err(error),
                    Err(error) => error,
                }
            }
        };
        // The first way is the one preferred: its failure says more.
        first = first.or(Some(failed));
    }
}

/// The startup message.
fn hello(target: &Target) -> Vec<u8> {
    let mut hello = Vec::new();
    let mut parameters = vec![("user", target.user.as_str()), ("database", target.dbname.as_str())];
    parameters.extend(target.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    encode::startup(&mut hello, &parameters);
    hello
}

/// Whether a server at one of the hosts answers a startup message, whatever it says. That a connection is taken says nothing: so does a
/// balancer that has nobody behind it, and the kernel of a machine whose server hangs.
pub async fn is_answered(target: &Target, settings: &LoginSettings) -> bool {
    let connector = settings.tls.get();
    for host in target.host.each() {
        let address = Address { host, port: target.port, at: None };
        for attempt in Attempt::of(connector.mode, host) {
            match connect(address, &settings.tcp, *attempt, &connector, &settings.dns).await {
                Ok(mut stream) => {
                    if says_something(&mut stream, target).await {
                        return true;
                    }
                }
                // To the request for TLS there was an answer.
                Err(Failure::NotOffered) => return true,
                // A certificate that is not believed, or an alert, was sent by somebody.
                Err(Failure::Tls(error)) if error.kind() == io::ErrorKind::InvalidData => return true,
                Err(Failure::Tls(_)) => {}
                Err(Failure::Name(_) | Failure::Socket(_)) => break,
            }
        }
    }
    false
}

async fn says_something(stream: &mut Stream, target: &Target) -> bool {
    let mut input = Buffer::default();
    write_all(stream, &hello(target)).await.is_ok() && read_message(stream, &mut input).await.is_ok()
}

async fn exchange(
    target: &Target,
    settings: &LoginSettings,
    worker: WorkerId,
    mut stream: Stream,
) -> Result<Box<Connection>, Error> {
    let address = target.address();
    let broken = |e: io::Error| {
        Error::server(SqlState::CONNECTION_FAILURE, format!("connection to server {address} failed during login: {e}"))
    };
    write_all(&mut stream, &hello(target)).await.map_err(broken)?;

    let end_point = stream.tls().and_then(Tls::end_point);
    let nonce = scram::nonce(&rand::random());
    let credential = match target.derived.get() {
        Some(keys) => target.credential.clone().with_keys(keys),
        None => target.credential.clone(),
    };
    let mut login = Some(ServerLogin::new(&target.user, credential, &nonce).over(end_point));
    let mut input = Buffer::default();
    let mut state = ServerState::new(settings.max_statements);
    let mut welcome = Vec::new();
    let (mut pid, mut secret) = (0, Secret::default());
    let mut let_in = false;
    loop {
        match read_message(&mut stream, &mut input).await.map_err(broken)? {
            (b'R', body) => {
                let mut r = message::Reader::new(&body);
                let code = r.u32().ok_or_else(|| garbled(target))?;
                let mut machine = login.take().ok_or_else(|| garbled(target))?;
                let rest = r.rest().to_vec();
                let (machine, reply) = if machine.next_is_costly() {
                    tokio::task::spawn_blocking(move || {
                        let reply = machine.request(code, &rest);
                        (machine, reply)
                    })
                    .await
                    .map_err(|_| Error::us(SqlState::INTERNAL_ERROR, "the login to the server was interrupted"))?
                } else {
                    let reply = machine.request(code, &rest);
                    (machine, reply)
                };
                match reply? {
                    Reply::Send(answer) => {
                        let mut out = Vec::new();
                        encode::password(&mut out, &answer.0);
                        write_all(&mut stream, &out).await.map_err(broken)?;
                    }
                    Reply::Wait => {}
                    Reply::Done => {
                        let_in = true;
                        machine.keys().into_iter().for_each(|keys| target.derived.set(keys));
                    }
                }
                login = Some(machine);
            }
            (b'E', body) => {
                let error = message::server_error(&body);
                let message = format!("login to server {address} failed: {}", error.message);
                return Err(Error { message, ..error });
            }
            (b'S', body) if let_in => {
                let (name, value) = message::parameter_status(&body).ok_or_else(|| garbled(target))?;
                let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
                state.settings.report_default(&name, &value);
                welcome.push((name.into_owned(), value.into_owned()));
            }
            (b'K', body) if let_in => {
                let key = message::backend_key(&body).ok_or_else(|| garbled(target))?;
                (pid, secret) = (key.0, Secret(key.1.to_vec()));
            }
            (b'Z', body) if let_in && message::ready_for_query(&body).is_some() => {
                return Ok(Box::new(Connection {
                    id: ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed)),
                    stream,
                    input,
                    output: Buffer::default(),
                    state,
                    pid,
                    secret,
                    worker,
                    created: clock::now(),
                    heard: clock::now(),
                    welcome,
                    prepared: Arc::default(),
                }));
            }
            (b'N' | b'v', _) => {}
            _ => return Err(garbled(target)),
        }
    }
}

fn garbled(target: &Target) -> Error {
    Error::server(
        SqlState::PROTOCOL_VIOLATION,
        format!("server {} does not speak the PostgreSQL protocol as it should during login", target.address()),
    )
    .hint("Check that host and port are those of a PostgreSQL server.")
}
