//! A TLS connection over a socket, as client or as server.
//!
//! rustls does the cryptography and holds no socket: bytes of the network are read here and fed to it, and what it wants to send is
//! written here. So a connection is plain data beside its socket, and can go to another worker (`detach`, `attach`).
//!
//! Three places can hold bytes that the peer has sent: the kernel, `backlog` (read, not yet decrypted, because the reader's buffer was
//! full) and rustls (decrypted, not yet taken, `plain` of them). Two hold bytes for it: rustls, until `poll_flush` has moved
//! them, and the kernel.

mod material;
mod verify;

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustls::{CipherSuite, Connection, ProtocolVersion};
use tokio::io::AsyncWrite;

use crate::config::tls::SUITES;
use crate::net::Stream;
use crate::net::buffer::with_cipher_scratch;
use crate::net::stream::Detached;
use crate::net::x509;

pub(crate) use material::valid_until;
pub use material::{Acceptor, Connector, Fault, ServerTls};

/// The ALPN name of the PostgreSQL protocol. See <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>.
pub const ALPN: &[u8] = b"postgresql";

/// What was agreed on: version and cipher suite. Shown as PgBouncer does: `TLSv1.3/TLS_AES_256_GCM_SHA384`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    version: ProtocolVersion,
    suite: CipherSuite,
}

impl std::fmt::Display for Negotiated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = if self.version == ProtocolVersion::TLSv1_2 { "TLSv1.2" } else { "TLSv1.3" };
        let name = format!("{:?}", self.suite);
        let suite = SUITES.iter().find(|suite| suite.name == name).map_or(name.as_str(), |suite| suite.openssl);
        write!(f, "{version}/{suite}")
    }
}

/// A TLS connection. Says goodbye to the peer when dropped.
#[derive(Debug)]
pub struct Tls(Option<Box<Link>>);

#[derive(Debug)]
struct Link {
    socket: Stream,
    core: Core,
}

/// A TLS connection without its socket's reactor: how it travels between workers.
#[derive(Debug)]
pub struct DetachedTls {
    socket: Detached,
    core: Core,
}

#[derive(Debug)]
struct Core {
    session: Connection,
    /// Decrypted bytes that wait within the session.
    plain: usize,
    /// Bytes of the network that are not decrypted yet.
    backlog: Vec<u8>,
    /// The peer will send nothing more.
    ended: bool,
    /// `tls-server-end-point`: the server's certificate, hashed.
    end_point: Option<Arc<[u8]>>,
}

impl Tls {
    /// Makes the handshake over `socket`. `already` is what was read from it and belongs to the handshake.
    ///
    /// # Errors
    /// Those of the socket, and why the handshake failed, with what may help.
    pub(in crate::net) async fn handshake(
        socket: Stream,
        session: Connection,
        already: &[u8],
        end_point: Option<Arc<[u8]>>,
    ) -> io::Result<Self> {
        let backlog = already.to_vec();
        let core = Core { session, plain: 0, backlog, ended: false, end_point };
        let mut link = Box::new(Link { socket, core });
        loop {
            std::future::poll_fn(|cx| link.poll_flush(cx)).await?;
            if !link.core.session.is_handshaking() {
                break;
            }
            if link.core.backlog.is_empty() {
                let n = std::future::poll_fn(|cx| link.poll_more(cx)).await?;
                if n == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the peer closed the connection in the TLS handshake",
                    ));
                }
            }
            // Signing takes up to milliseconds that other clients of this worker should not wait for.
            let (moved, fed) = tokio::task::spawn_blocking(move || {
                let fed = link.core.feed_backlog(&mut []);
                (link, fed)
            })
            .await
            .map_err(|_| io::Error::other("the TLS handshake was interrupted"))?;
            link = moved;
            if let Err(error) = fed {
                // The alert tells the peer why; it may be gone.
                let _told = link.poll_flush(&mut Context::from_waker(Waker::noop()));
                return Err(error);
            }
        }
        if link.core.end_point.is_none()
            && let (Connection::Client(_), Some([server, ..])) =
                (&link.core.session, link.core.session.peer_certificates())
        {
            link.core.end_point = x509::end_point(server).map(Arc::from);
        }
        Ok(Self(Some(link)))
    }

    fn link(&mut self) -> io::Result<&mut Link> {
        self.0.as_deref_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        self.link()?.poll_read(cx, out)
    }

    /// Takes bytes to send, as many as fit; they may wait within the session until [`Self::poll_flush`].
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let link = self.link()?;
        match link.poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Pending => return Poll::Pending,
        }
        let n = link.core.session.writer().write(bytes)?;
        if let Poll::Ready(Err(e)) = link.poll_flush(cx) {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(n))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link()?.poll_flush(cx)
    }

    /// Whether bytes wait anywhere on our side of the kernel, or the reactor knows of some in it.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        self.0.as_deref().is_none_or(|link| {
            link.core.plain > 0 || !link.core.backlog.is_empty() || link.core.ended || link.socket.poll_readable(cx)
        })
    }

    /// The socket below.
    pub(super) fn socket(&self) -> Option<&Stream> {
        self.0.as_deref().map(|link| &link.socket)
    }

    pub(super) fn detach(mut self) -> io::Result<DetachedTls> {
        let link = *self.0.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok(DetachedTls { socket: link.socket.detach()?, core: link.core })
    }

    /// Version and cipher suite.
    #[must_use]
    pub fn negotiated(&self) -> Option<Negotiated> {
        let session = &self.0.as_deref()?.core.session;
        Some(Negotiated { version: session.protocol_version()?, suite: session.negotiated_cipher_suite()?.suite() })
    }

    /// Whether the peers agreed by ALPN to speak PostgreSQL's protocol.
    #[must_use]
    pub fn is_alpn_agreed(&self) -> bool {
        self.0.as_deref().is_some_and(|link| link.core.session.alpn_protocol() == Some(ALPN))
    }

    /// The channel binding `tls-server-end-point`, where the server's certificate has one.
    #[must_use]
    pub fn end_point(&self) -> Option<Arc<[u8]>> {
        self.0.as_deref()?.core.end_point.clone()
    }

    /// The common name of the peer's certificate. Only where the mode says that certificates are checked it proves anything.
    #[must_use]
    pub fn peer_name(&self) -> Option<String> {
        let [own, ..] = self.0.as_deref()?.core.session.peer_certificates()? else { return None };
        x509::facts(own)?.common_name
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        if let Some(link) = &mut self.0 {
            // Without it the peer cannot tell an end from a cut; PostgreSQL writes a line to its log then.
            link.core.session.send_close_notify();
            let _sent = link.poll_flush(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl DetachedTls {
    pub(super) fn attach(self) -> io::Result<Tls> {
        Ok(Tls(Some(Box::new(Link { socket: self.socket.attach()?, core: self.core }))))
    }
}

impl Link {
    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut filled = self.core.feed_backlog(out);
        while matches!(filled, Ok(0)) && !self.core.ended && !out.is_empty() {
            let Self { socket, core } = self;
            let polled = with_cipher_scratch(|scratch| {
                socket.poll_read(cx, scratch).map(|read| {
                    let bytes = scratch.get(..read?).unwrap_or_default();
                    // An end without goodbye counts as one: the protocol itself knows where messages end.
                    core.ended |= bytes.is_empty();
                    let (taken, filled) = core.feed(bytes, out)?;
                    core.backlog.extend_from_slice(bytes.get(taken..).unwrap_or_default());
                    Ok(filled)
                })
            });
            match polled {
                Poll::Ready(read) => filled = read,
                Poll::Pending => return Poll::Pending,
            }
            // Answers of the TLS layer itself: to a change of keys, or an alert.
            if self.core.session.wants_write()
                && let Poll::Ready(Err(e)) = self.poll_flush(cx)
                && filled.is_ok()
            {
                return Poll::Ready(Err(e));
            }
        }
        Poll::Ready(filled)
    }

    /// Reads once from the network into the backlog, which is empty; the number of bytes.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self { socket, core } = self;
        with_cipher_scratch(|scratch| {
            socket.poll_read(cx, scratch).map_ok(|n| {
                core.backlog.extend_from_slice(scratch.get(..n).unwrap_or_default());
                n
            })
        })
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.core.session.wants_write() {
            match self.core.session.write_tls(&mut Wire { socket: &mut self.socket, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Core {
    /// Decrypts the backlog into `out` as far as there is room; the number of bytes there.
    fn feed_backlog(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let backlog = std::mem::take(&mut self.backlog);
        let (taken, filled) = self.feed(&backlog, out)?;
        if taken < backlog.len() {
            self.backlog = backlog.get(taken..).unwrap_or_default().to_vec();
        }
        Ok(filled)
    }

    /// Feeds bytes of the network; how many were taken, and how many decrypted ones are in `out`. What is decrypted must be taken out
    /// before more is fed: rustls holds one record.
    fn feed(&mut self, mut bytes: &[u8], out: &mut [u8]) -> io::Result<(usize, usize)> {
        let (len, mut filled) = (bytes.len(), 0);
        loop {
            let room = out.get_mut(filled..).unwrap_or_default();
            if self.plain > 0 && !room.is_empty() {
                let n = self.session.reader().read(room)?;
                self.plain = self.plain.saturating_sub(n);
                filled += n;
            }
            if bytes.is_empty() || self.plain > 0 {
                return Ok((len - bytes.len(), filled));
            }
            if self.session.read_tls(&mut bytes)? == 0 {
                // After the peer's goodbye nothing counts.
                self.ended = true;
                return Ok((len, filled));
            }
            let state = self
                .session
                .process_new_packets()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, verify::explain(&e)))?;
            self.plain = state.plaintext_bytes_to_read();
            self.ended |= state.peer_has_closed();
        }
    }
}

/// The socket as rustls writes to it.
struct Wire<'a, 'b> {
    socket: &'a mut Stream,
    cx: &'a mut Context<'b>,
}

impl Wire<'_, '_> {
    fn now(polled: Poll<io::Result<usize>>) -> io::Result<usize> {
        match polled {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Wire<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::now(self.socket.poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::now(match self.socket {
            Stream::Tcp(s) => Pin::new(s).poll_write_vectored(self.cx, bytes),
            Stream::Unix(s) => Pin::new(s).poll_write_vectored(self.cx, bytes),
            Stream::Tls(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
