//! Open files that go from one process to another over a unix socket: `SCM_RIGHTS` in unix(7).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Two ends over which files can be passed, message by message; neither blocks. With the last copy of one end the other ends too.
///
/// # Errors
/// When the system has no descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends `bytes`, and a copy of `file` with the first of them; how many were sent.
///
/// # Errors
/// Those of the socket.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = file.as_slice();
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Reads what is there into `into`, and adds the files that came with it to `files`, in their order; 0 at the end.
///
/// # Errors
/// Those of the socket.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    Ok(got.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_file_arrives_and_works() {
        let (one, other) = pair().unwrap();
        let (mut kept, sent) = UnixStream::pair().unwrap();
        let (mut files, mut into) = (Vec::new(), [0; 16]);
        assert_eq!(receive(other.as_fd(), &mut into, &mut files).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(one.as_fd(), b"x", Some(sent.as_fd())).unwrap();
        send(one.as_fd(), b"none", None).unwrap();
        drop(sent);
        assert_eq!(receive(other.as_fd(), &mut into, &mut files).unwrap(), 1);
        assert_eq!(receive(other.as_fd(), &mut into, &mut files).unwrap(), 4);
        assert_eq!(files.len(), 1);
        let mut arrived = UnixStream::from(files.remove(0));
        kept.write_all(b"hello").unwrap();
        drop(kept);
        let mut text = String::new();
        arrived.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        drop(one);
        assert_eq!(receive(other.as_fd(), &mut into, &mut files).unwrap(), 0, "the other end is gone");
        assert!(send(other.as_fd(), b"x", None).is_err());
    }
}
