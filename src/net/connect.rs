//! Making a connection to a server, encrypted or not.

use std::future::poll_fn;
use std::io;

use tokio::net::{TcpStream, UnixStream};

use crate::config::tls::SslMode;
use crate::config::{Host, TcpSettings};
use crate::net::Stream;
use crate::net::buffer::write_all;
use crate::net::listen;
use crate::net::tls::Connector;

/// SSLRequest: its length and its code.
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-SSLREQUEST>
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

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
    /// The socket.
    Socket(io::Error),
    /// TLS.
    Tls(io::Error),
    /// TLS was required and is not offered.
    NotOffered,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
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
    host: &Host,
    port: u16,
    tcp: &TcpSettings,
    attempt: Attempt,
    connector: &Connector,
) -> Result<Stream, Failure> {
    let mut stream = match host {
        Host::Tcp(host) => TcpStream::connect((host.as_str(), port)).await.map(Stream::Tcp),
        Host::Unix(dir) => UnixStream::connect(listen::unix_path(dir, port)).await.map(Stream::Unix),
        Host::Several(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "one host must be chosen first")),
    }
    .map_err(Failure::Socket)?;
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

/// Asks whether the server speaks TLS. One byte is read and no more: what else came before the handshake was not encrypted.
async fn ask(stream: &mut Stream) -> io::Result<u8> {
    write_all(stream, &SSL_REQUEST).await?;
    let mut answer = [0];
    match poll_fn(|cx| stream.poll_read(cx, &mut answer)).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection when asked for TLS")),
        _ => Ok(answer[0]),
    }
}
