//! Listeners on TCP addresses and on a unix socket.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// How many connections may wait at a unix socket to be accepted; the kernel's own limit is mostly lower.
const PENDING: i32 = 4096;

/// Binds `host` (a name, an address, or `*` for every address) and `port`. A name may stand for several addresses. With
/// `share` other processes may listen there too, and the system spreads the connections.
///
/// # Errors
/// When the name is unknown or an address cannot be bound; the text names the address.
pub fn tcp(host: &str, port: u16, backlog: u32, share: bool) -> io::Result<Vec<TcpListener>> {
    let addresses: Vec<SocketAddr> = if host == "*" {
        vec![SocketAddr::from(([0_u8; 4], port)), SocketAddr::from(([0_u16; 8], port))]
    } else {
        (host, port).to_socket_addrs().map_err(|e| named(&e, host))?.collect()
    };
    let mut listeners = Vec::new();
    for address in addresses {
        match bind(address, backlog, share) {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 still listens on every address it has.
            Err(_) if host == "*" && address.is_ipv6() => {}
            Err(e) => return Err(named(&e, &address.to_string())),
        }
    }
    Ok(listeners)
}

fn named(e: &io::Error, what: &str) -> io::Error {
    io::Error::new(e.kind(), format!("cannot listen on {what}: {e}"))
}

fn bind(address: SocketAddr, backlog: u32, share: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// The unix socket's file, removed when dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        drop(std::fs::remove_file(&self.0));
    }
}

/// Binds `dir/.s.PGSQL.port`. A socket file that nobody listens on any more is replaced. `group` is the number of the group
/// that the file is given to.
///
/// # Errors
/// When another process listens there or the file cannot be made.
pub fn unix(dir: &Path, port: u16, mode: u32, group: Option<u32>) -> io::Result<(UnixListener, SocketFile)> {
    let path = dir.join(format!(".s.PGSQL.{port}"));
    if std::fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("cannot listen on {}: another process does", path.display()),
            ));
        }
        std::fs::remove_file(&path)?;
    }
    let at_path = |e: io::Error| named(&e, &path.display().to_string());
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(at_path)?;
    socket.bind(&SockAddr::unix(&path).map_err(at_path)?).map_err(at_path)?;
    // Nobody gets through before the file is as it shall be: only then does it listen.
    if let Some(group) = group {
        let given = std::os::unix::fs::chown(&path, None, Some(group));
        given.map_err(|e| io::Error::new(e.kind(), format!("cannot give {} to its group: {e}", path.display())))?;
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(PENDING).map_err(at_path)?;
    socket.set_nonblocking(true)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    Ok((listener, SocketFile(path)))
}
