//! Making a connection to a server, encrypted or not.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::config::tls::SslMode;
use crate::config::{Host, TcpSettings};
use crate::net::Stream;
use crate::net::buffer::write_all;
use crate::net::dns::{self, Dns};
use crate::net::listen;
use crate::net::tls::Connector;

/// SSLRequest: its length and its code.
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-SSLREQUEST>
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How long one of several addresses of a name may take before the next is tried.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// A place to connect to, also for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// Where.
    pub host: &'a Host,
    /// Its port.
    pub port: u16,
    /// Of the addresses of the host's name, this one and no other.
    pub at: Option<IpAddr>,
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Tcp(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Host::Tcp(_) | Host::Several(_) => write!(f, "{}:{}", self.host, self.port),
            Host::Unix(dir) => write!(f, "{}/.s.PGSQL.{}", dir.display(), self.port),
        }
    }
}

/// What one attempt to connect asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// No TLS.
    Plain,
    /// TLS, if the server offers it.
    Offered,
    /// TLS or nothing.
    Required,
}

impl Attempt {
    /// What to try by a mode, in this order; the next where the one before was refused. Unix sockets are never encrypted, as in libpq.
    #[must_use]
    pub fn of(mode: SslMode, host: &Host) -> &'static [Self] {
        match (host, mode) {
            (Host::Unix(_), _) | (_, SslMode::Disable) => &[Self::Plain],
            (_, SslMode::Allow) => &[Self::Plain, Self::Required],
            (_, SslMode::Prefer) => &[Self::Offered, Self::Plain],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Self::Required],
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Failure {
    /// The host's name has no addresses.
    Name(dns::Failure),
    /// The socket.
    Socket(io::Error),
    /// TLS.
    Tls(io::Error),
    /// TLS was required and is not offered.
    NotOffered,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(why) => write!(f, "the name of the host could not be resolved: {why}"),
            Self::Socket(error) => error.fmt(f),
            Self::Tls(error) => write!(f, "no TLS: {error}"),
            Self::NotOffered => f.write_str("the server does not support TLS, but server_tls_sslmode requires it"),
        }
    }
}

/// Connects to one host (of several one must be chosen first), and encrypts as `attempt` says.
///
/// # Errors
/// Why not.
pub async fn connect(
    address: Address<'_>,
    tcp: &TcpSettings,
    attempt: Attempt,
    connector: &Connector,
    dns: &Dns,
) -> Result<Stream, Failure> {
    let Address { host, port, .. } = address;
    let mut stream = match host {
        Host::Tcp(name) => Stream::Tcp(tcp_stream(name, address, dns).await?),
        Host::Unix(dir) => {
            let connected = UnixStream::connect(listen::unix_path(dir, port)).await;
            connected.map(Stream::Unix).map_err(Failure::Socket)?
        }
        Host::Several(_) => {
            let why = io::Error::new(io::ErrorKind::InvalidInput, "one host must be chosen first");
            return Err(Failure::Socket(why));
        }
    };
    stream.tune(tcp);
    if attempt == Attempt::Plain {
        return Ok(stream);
    }
    match ask(&mut stream).await.map_err(Failure::Socket)? {
        b'S' => Box::pin(connector.connect(stream, host)).await.map_err(Failure::Tls),
        b'N' if attempt == Attempt::Offered => Ok(stream),
        b'N' => Err(Failure::NotOffered),
        _ => Err(Failure::Tls(io::Error::new(
            io::ErrorKind::InvalidData,
            "the server answered the request for TLS with an error; is it a PostgreSQL server?",
        ))),
    }
}

/// Connects to the first address of the name that can be reached, beginning with the one whose turn it is, or with the one that the name
/// stays with.
async fn tcp_stream(name: &str, address: Address<'_>, dns: &Dns) -> Result<TcpStream, Failure> {
    let addresses = match address.at {
        Some(at) => vec![at],
        None => dns.resolve(name).await.map_err(Failure::Name)?,
    };
    let (count, mut whys) = (addresses.len(), Vec::new());
    let mut kind = io::ErrorKind::NotFound;
    for (place, at) in (1..).zip(addresses) {
        let connecting = TcpStream::connect((at, address.port));
        let connected = if place == count {
            connecting.await
        } else {
            let late =
                || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", ADDRESS_TIMEOUT.as_secs()));
            tokio::time::timeout(ADDRESS_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(late()))
        };
        match connected {
            Ok(stream) => {
                if address.at.is_none() {
                    dns.reached(name, at);
                }
                return Ok(stream);
            }
            Err(why) => {
                kind = why.kind();
                whys.push(if at.to_string() == name { why.to_string() } else { format!("{at}: {why}") });
            }
        }
    }
    Err(Failure::Socket(io::Error::new(kind, whys.join("; "))))
}

/// Asks whether the server speaks TLS. One byte is read and no more: what else came before the handshake was not encrypted.
async fn ask(stream: &mut Stream) -> io::Result<u8> {
    write_all(stream, &SSL_REQUEST).await?;
    let mut answer = [0];
    match poll_fn(|cx| stream.poll_read(cx, &mut answer)).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection when asked for TLS")),
        _ => Ok(answer[0]),
    }
}
