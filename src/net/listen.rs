//! Listeners on TCP addresses and on a unix socket: newly bound, or sockets that somebody has bound for us.

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// How many connections may wait at a unix socket to be accepted; the kernel's own limit is mostly lower.
const PENDING: i32 = 4096;
/// How long somebody may take to whom we connect only to learn whether he is there.
const PATIENCE: Duration = Duration::from_millis(100);

/// A socket that listens already: the process before us or the service manager has made it.
#[derive(Debug)]
pub struct Bound(Socket);

impl Bound {
    /// Takes what someone has passed to us.
    ///
    /// # Errors
    /// It is no socket of a kind that we listen on.
    pub fn new(passed: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(passed);
        let unfit = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        let domain = socket.local_addr()?.domain();
        if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) || socket.r#type()? != Type::STREAM {
            return Err(unfit("it is neither a TCP socket nor a unix stream socket"));
        }
        if !socket.is_listener()? {
            return Err(unfit("it does not listen"));
        }
        socket.set_nonblocking(true)?;
        socket.set_cloexec(true)?;
        Ok(Self(socket))
    }

    /// Its TCP address.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()?.as_socket()
    }

    /// The path of its unix socket; one in the abstract namespace begins with a zero byte.
    #[must_use]
    pub fn unix_path(&self) -> Option<PathBuf> {
        let address = self.0.local_addr().ok()?;
        let name = address.as_abstract_namespace().map(|name| OsString::from_vec([b"\0", name].concat()));
        name.map(PathBuf::from).or_else(|| address.as_pathname().map(Path::to_owned))
    }

    /// As a TCP listener of the runtime that calls.
    ///
    /// # Errors
    /// When the runtime does not take it.
    pub fn into_tcp(self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.0.into())
    }

    /// As a unix listener of the runtime that calls.
    ///
    /// # Errors
    /// When the runtime does not take it.
    pub fn into_unix(self) -> io::Result<UnixListener> {
        UnixListener::from_std(std::os::unix::net::UnixListener::from(self.0))
    }
}

/// Takes the first of `bound` that is meant out of it.
fn taken(bound: &mut Vec<Bound>, meant: impl Fn(&Bound) -> bool) -> Option<Bound> {
    bound.iter().position(meant).map(|at| bound.swap_remove(at))
}

/// Listens on `host` (a name, an address, or `*` for every address) and `port`. A name may stand for several addresses. With
/// `share` other processes may listen there too, and the system spreads the connections. What is among `bound` already is used.
///
/// # Errors
/// When the name is unknown or an address cannot be bound; the text names the address.
pub fn tcp(host: &str, port: u16, backlog: u32, share: bool, bound: &mut Vec<Bound>) -> io::Result<Vec<TcpListener>> {
    let addresses: Vec<SocketAddr> = if host == "*" {
        vec![SocketAddr::from(([0_u8; 4], port)), SocketAddr::from(([0_u16; 8], port))]
    } else {
        (host, port).to_socket_addrs().map_err(|e| named(&e, host))?.collect()
    };
    let mut listeners = Vec::new();
    for address in addresses {
        match one_tcp(address, backlog, share, bound) {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 still listens on every address it has.
            Err(_) if host == "*" && address.is_ipv6() => {}
            Err(e) => return Err(named(&e, &address.to_string())),
        }
    }
    Ok(listeners)
}

/// Listens on one TCP address, with the socket among `bound` that does already, or with a new one. One that does has `backlog` from now
/// on, for the process that shares it as well.
///
/// # Errors
/// When the address cannot be bound.
pub fn one_tcp(address: SocketAddr, backlog: u32, share: bool, bound: &mut Vec<Bound>) -> io::Result<TcpListener> {
    let socket = match taken(bound, |bound| bound.tcp_address() == Some(address)) {
        Some(Bound(socket)) => socket,
        None => bind(address, share)?,
    };
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

fn named(e: &io::Error, what: &str) -> io::Error {
    io::Error::new(e.kind(), format!("cannot listen on {what}: {e}"))
}

fn bind(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The unix socket's file, removed when dropped if it is ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    ours: Cell<bool>,
}

impl SocketFile {
    /// Says whether the file is ours: between two processes it goes from one to the other.
    pub fn set_ours(&self, ours: bool) {
        self.ours.set(ours);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.ours.get() {
            // Somebody may have removed it already.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Where the unix socket of a directory is. A directory that begins with `@` is a name in the abstract namespace, whose address begins
/// with a zero byte instead, as in libpq: see unix(7).
#[must_use]
pub fn unix_path(dir: &Path, port: u16) -> PathBuf {
    let path = dir.join(format!(".s.PGSQL.{port}"));
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => OsString::from_vec([b"\0", name].concat()).into(),
        None => path,
    }
}

/// The same as it is written: `@` stands for the zero byte.
#[must_use]
pub fn shown(path: &Path) -> String {
    path.display().to_string().replacen('\0', "@", 1)
}

/// Connects to a unix socket, which is the kernel's to answer: it takes time only where as many wait there already as may, and then
/// `patience` at most. A write on the connection waits no longer either.
///
/// # Errors
/// Nobody listens there, or we may not; that it would block: somebody listens, and takes no connections.
pub fn connect_unix(path: &Path, patience: Duration) -> io::Result<std::os::unix::net::UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Listens on `dir/.s.PGSQL.port`, with the socket among `bound` that does already, or with a new one. A socket file that nobody
/// listens on any more is replaced. `group` is the number of the group that the file is given to. In the abstract namespace there is
/// no file, and neither mode nor group. Of a socket that listens already the file gets mode and group at once, though another process
/// may still use it: that they cannot be given must be known before it lets go.
///
/// # Errors
/// When another process listens there or the file cannot be made.
pub fn unix(
    dir: &Path,
    port: u16,
    mode: u32,
    group: Option<u32>,
    bound: &mut Vec<Bound>,
) -> io::Result<(UnixListener, Option<SocketFile>)> {
    let path = unix_path(dir, port);
    let at_path = |e: io::Error| named(&e, &shown(&path));
    let is_abstract = path.as_os_str().as_bytes().starts_with(b"\0");
    let known = taken(bound, |bound| bound.unix_path().as_ref() == Some(&path));
    let is_new = known.is_none();
    let socket = match known {
        Some(Bound(socket)) => socket,
        None => {
            if !is_abstract {
                make_way(&path)?;
            }
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(at_path)?;
            socket.bind(&SockAddr::unix(&path).map_err(at_path)?).map_err(at_path)?;
            socket
        }
    };
    let file = (!is_abstract).then(|| SocketFile { path: path.clone(), ours: Cell::new(is_new) });
    // Nobody gets through before the file is as it shall be: only then does it listen.
    if file.is_some() {
        if let Some(group) = group {
            let given = std::os::unix::fs::chown(&path, None, Some(group));
            let told =
                |e: io::Error| io::Error::new(e.kind(), format!("cannot give {} to its group: {e}", shown(&path)));
            given.map_err(told)?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(at_path)?;
    }
    socket.listen(PENDING).map_err(at_path)?;
    socket.set_nonblocking(true)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    Ok((listener, file))
}

/// Removes a socket file that nobody listens on any more.
fn make_way(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        return Ok(());
    }
    let is_in_use = match connect_unix(path, PATIENCE) {
        Ok(_) => true,
        Err(why) => why.kind() == io::ErrorKind::WouldBlock,
    };
    if is_in_use {
        let why = format!("cannot listen on {}: another process does", shown(path));
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_abstract_namespace_is_spelled_as_in_libpq() {
        assert_eq!(unix_path(Path::new("/run/pg"), 6432), Path::new("/run/pg/.s.PGSQL.6432"));
        let name = unix_path(Path::new("@pg/weir"), 5);
        assert_eq!(name.as_os_str().as_bytes(), b"\0pg/weir/.s.PGSQL.5");
        assert_eq!(shown(&name), "@pg/weir/.s.PGSQL.5");
    }

    #[tokio::test]
    async fn what_listens_already_is_used_and_the_rest_is_left() {
        let std_tcp = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, other) = (std_tcp(), std_tcp());
        let address = one.local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = unix_path(directory.path(), 7);
        let unix_one = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut bound: Vec<Bound> =
            [one.into(), other.into(), unix_one.into()].map(|fd| Bound::new(fd).unwrap()).into();
        let again = tcp("127.0.0.1", address.port(), 5, false, &mut bound).unwrap();
        assert_eq!(again[0].local_addr().unwrap(), address, "else it would be in use");
        let (_listener, file) = unix(directory.path(), 7, 0o700, None, &mut bound).unwrap();
        assert_eq!(bound.len(), 1);
        drop(file);
        assert!(path.exists(), "the file is not ours yet");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(connect_unix(&path, PATIENCE).is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_ours_goes_with_us() {
        let directory = tempfile::tempdir().unwrap();
        let listen = || unix(directory.path(), 7, 0o777, None, &mut Vec::new());
        let (listener, file) = listen().unwrap();
        assert!(listen().unwrap_err().to_string().contains("another process does"));
        drop(listener);
        let (_listener, second) = listen().unwrap();
        let path = unix_path(directory.path(), 7);
        file.unwrap().set_ours(false);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn one_that_takes_no_connections_is_there_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = unix_path(directory.path(), 7);
        let stopped = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stopped.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        stopped.listen(0).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match connect_unix(&path, PATIENCE) {
                Ok(connection) => waiting.push(connection),
                Err(why) => break why,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let refused = unix(directory.path(), 7, 0o777, None, &mut Vec::new()).unwrap_err();
        assert!(refused.to_string().contains("another process does"), "{refused}");
        assert!(path.exists());
    }

    #[test]
    fn only_listening_stream_sockets_are_taken() {
        let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Bound::new(pair.into()).unwrap_err().to_string().contains("does not listen"));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(Bound::new(udp.into()).unwrap_err().to_string().contains("neither"));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Bound::new(file.into()).is_err());
    }
}
