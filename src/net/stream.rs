//! A connection of any kind.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::config::TcpSettings;
use crate::net::tls::{DetachedTls, Tls};

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain.
    Unix(UnixStream),
    /// TLS over one of the others.
    Tls(Tls),
}

/// A socket that is not registered with any worker's reactor: how connections travel between workers.
#[derive(Debug)]
pub enum Detached {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// Unix domain.
    Unix(std::os::unix::net::UnixStream),
    /// TLS over one of the others, with all that is under way in it.
    Tls(Box<DetachedTls>),
}

impl Detached {
    /// Registers the socket with the reactor of the worker that calls.
    ///
    /// # Errors
    /// When the reactor does not take it.
    pub fn attach(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(s) => Stream::Tcp(TcpStream::from_std(s)?),
            Self::Unix(s) => Stream::Unix(UnixStream::from_std(s)?),
            Self::Tls(s) => Stream::Tls(s.attach()?),
        })
    }
}

fn keepalive(tcp: &TcpSettings) -> socket2::TcpKeepalive {
    let mut options = socket2::TcpKeepalive::new();
    if tcp.keepidle > 0 {
        options = options.with_time(Duration::from_secs(tcp.keepidle.into()));
    }
    if tcp.keepintvl > 0 {
        options = options.with_interval(Duration::from_secs(tcp.keepintvl.into()));
    }
    if tcp.keepcnt > 0 {
        options = options.with_retries(tcp.keepcnt);
    }
    options
}

impl Stream {
    /// Takes the socket off its reactor.
    ///
    /// # Errors
    /// When the reactor does not give it up.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(s) => Detached::Tcp(s.into_std()?),
            Self::Unix(s) => Detached::Unix(s.into_std()?),
            Self::Tls(s) => Detached::Tls(Box::new(s.detach()?)),
        })
    }

    /// Reads what is there into `buf`; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        let polled = match self {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, &mut buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, &mut buf),
            Self::Tls(s) => return s.poll_read(cx, buf.initialize_unfilled()),
        };
        polled.map_ok(|()| buf.filled().len())
    }

    /// Writes what the connection takes of `buf`. TLS may hold it back until [`Self::poll_flush`].
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => s.poll_write(cx, buf),
        }
    }

    /// Gives the kernel what TLS holds back; a plain socket holds nothing.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(s) => s.poll_flush(cx),
        }
    }

    /// Whether bytes, an error or the end of the stream are known to wait. Asks the reactor's memory, not the kernel.
    #[must_use]
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx).is_ready(),
            Self::Unix(s) => s.poll_read_ready(cx).is_ready(),
            Self::Tls(s) => s.poll_readable(cx),
        }
    }

    /// The peer's and our address, for TCP. On a socket for both IPv4 and IPv6, as a service manager may pass one, an address of IPv4
    /// looks like one of IPv6; here it is itself, or no rule would know it.
    #[must_use]
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let canonical = |address: SocketAddr| match address.ip().to_canonical() {
            IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
            IpAddr::V6(_) => address,
        };
        match self {
            Self::Tcp(s) => Some((canonical(s.peer_addr().ok()?), canonical(s.local_addr().ok()?))),
            Self::Unix(_) => None,
            Self::Tls(s) => s.socket()?.addresses(),
        }
    }

    /// The TLS layer, if there is one.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(s) => Some(s),
        }
    }

    /// Whether it goes through the network, where others may listen.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            Self::Unix(_) => false,
            Self::Tls(s) => s.socket().is_some_and(Self::is_remote),
        }
    }

    /// The system user of the peer's process, for a unix socket.
    #[must_use]
    pub fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Unix(s) => Some(s.peer_cred().ok()?.uid()),
            Self::Tcp(_) | Self::Tls(_) => None,
        }
    }

    /// The peer's process, for a unix socket.
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        match self {
            Self::Unix(s) => u32::try_from(s.peer_cred().ok()?.pid()?).ok(),
            Self::Tcp(_) => None,
            Self::Tls(s) => s.socket()?.peer_pid(),
        }
    }

    /// The number of the socket's descriptor; none: the socket is gone.
    #[must_use]
    pub fn descriptor(&self) -> Option<i32> {
        match self {
            Self::Tcp(s) => Some(s.as_raw_fd()),
            Self::Unix(s) => Some(s.as_raw_fd()),
            Self::Tls(s) => s.socket()?.descriptor(),
        }
    }

    /// Sends small messages at once, and sets the configured options. A socket that does not take one still works.
    pub fn tune(&self, tcp: &TcpSettings) {
        let Self::Tcp(s) = self else { return };
        drop(s.set_nodelay(true));
        let s = socket2::SockRef::from(s);
        if tcp.keepalive {
            drop(s.set_tcp_keepalive(&keepalive(tcp)));
        } else {
            drop(s.set_keepalive(false));
        }
        if tcp.user_timeout > 0 {
            drop(s.set_tcp_user_timeout(Some(Duration::from_millis(tcp.user_timeout.into()))));
        }
        if let Some(bytes) = usize::try_from(tcp.socket_buffer).ok().filter(|bytes| *bytes > 0) {
            drop(s.set_recv_buffer_size(bytes));
            drop(s.set_send_buffer_size(bytes));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Self::poll_read(self.get_mut(), cx, buf.initialize_unfilled()).map_ok(|n| buf.advance(n))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self.get_mut(), cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(self.get_mut(), cx)
    }

    /// A TLS layer says goodbye when it is dropped.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => s.poll_flush(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn options_reach_the_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = || async { Stream::Tcp(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()) };
        let tcp = TcpSettings {
            keepalive: true,
            keepidle: 61,
            keepintvl: 7,
            keepcnt: 5,
            user_timeout: 12_345,
            socket_buffer: 32_768,
        };
        let stream = connect().await;
        stream.tune(&tcp);
        let Stream::Tcp(socket) = &stream else { unreachable!() };
        let socket = socket2::SockRef::from(socket);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(61));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(12_345)));
        // The kernel doubles what it is asked for.
        assert_eq!((socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap()), (65_536, 65_536));
        let stream = connect().await;
        stream.tune(&TcpSettings { keepalive: false, ..TcpSettings::default() });
        let Stream::Tcp(socket) = &stream else { unreachable!() };
        assert!(!socket2::SockRef::from(socket).keepalive().unwrap());
    }
}
