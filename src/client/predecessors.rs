//! The processes that this one has taken over from, as far as they still serve clients: cancel requests for those arrive here.
//!
//! A process that hands over gives its successor one end of a pair of sockets, and accepts connections that come through the other as
//! if they came to a listener. The successor's successor gets a copy: each process is asked directly, however many have come since.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::net::buffer::write_all;
use crate::net::{Buffer, Stream, pass};
use crate::wire::encode;

/// Requests that are passed on at the same time; whoever knows no key can make us ask. More are dropped, like those with a wrong key.
const AT_ONCE: usize = 64;

/// Processes before this one.
#[derive(Debug)]
pub struct Predecessors {
    links: Mutex<Vec<Arc<OwnedFd>>>,
    room: Semaphore,
}

impl Default for Predecessors {
    fn default() -> Self {
        Self { links: Mutex::default(), room: Semaphore::new(AT_ONCE) }
    }
}

impl Predecessors {
    /// Adds what a process has given us to reach it and those before it.
    pub fn add(&self, links: impl IntoIterator<Item = OwnedFd>) {
        self.links.lock().extend(links.into_iter().map(Arc::new));
    }

    /// What the next process needs to reach all of them.
    #[must_use]
    pub fn links(&self) -> Vec<Arc<OwnedFd>> {
        self.links.lock().clone()
    }

    /// From now on the next process asks them.
    pub fn forget(&self) {
        self.links.lock().clear();
    }

    /// Asks each of them to cancel what the client of this key is doing, and waits until all have done what they can, for `limit` at
    /// most. Whether any is there.
    pub async fn cancel(&self, pid: u32, secret: &[u8], limit: Duration) -> bool {
        let links = self.links();
        if links.is_empty() {
            return false;
        }
        let Ok(_room) = self.room.try_acquire() else {
            tracing::warn!(
                "a cancel request for a client of a process before this one is dropped: {AT_ONCE} are under way"
            );
            return true;
        };
        let mut request = Vec::new();
        encode::cancel_request(&mut request, pid, secret);
        let asked: Vec<Stream> = links.iter().filter_map(|link| self.reach(link)).collect();
        let any = !asked.is_empty();
        let all = async {
            let mut waiting = Vec::new();
            for mut stream in asked {
                // One that goes at this moment cancels nothing any more.
                if write_all(&mut stream, &request).await.is_ok() {
                    waiting.push(stream);
                }
            }
            for mut stream in waiting {
                let mut input = Buffer::default();
                while matches!(std::future::poll_fn(|cx| input.poll_fill(&mut stream, cx)).await, Ok(1..)) {
                    input = Buffer::default();
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(?limit, "a process before this one has not answered a cancel request");
        }
        any
    }

    /// A connection to the process at the other end; one that is no more is forgotten.
    fn reach(&self, link: &Arc<OwnedFd>) -> Option<Stream> {
        let connect = || {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            theirs.set_nonblocking(true)?;
            pass::send(link.as_fd(), b"c", Some(theirs.as_fd()))?;
            tokio::net::UnixStream::from_std(ours).map(Stream::Unix)
        };
        match connect() {
            Ok(stream) => Some(stream),
            Err(error) => {
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                    self.links.lock().retain(|known| !Arc::ptr_eq(known, link));
                } else {
                    tracing::warn!(%error, "a process before this one cannot be asked to cancel");
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn all_are_asked_and_those_that_are_no_more_are_forgotten() {
        let predecessors = Predecessors::default();
        let (here, there) = pass::pair().unwrap();
        let (gone, other_end) = pass::pair().unwrap();
        drop(other_end);
        predecessors.add([gone, here]);
        let answering = tokio::task::spawn_blocking(move || {
            let (mut files, mut byte) = (Vec::new(), [0]);
            while pass::receive(there.as_fd(), &mut byte, &mut files).is_err() {
                std::thread::yield_now();
            }
            let mut stream = UnixStream::from(files.remove(0));
            stream.set_nonblocking(false).unwrap();
            let mut request = [0; 16];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(b"whatever").unwrap();
            request
        });
        assert!(predecessors.cancel(7, &[1, 2, 3, 4], Duration::from_secs(60)).await);
        assert_eq!(answering.await.unwrap()[8..], [0, 0, 0, 7, 1, 2, 3, 4]);
        assert_eq!(predecessors.links().len(), 1);
        predecessors.forget();
        assert!(!predecessors.cancel(7, &[1, 2, 3, 4], Duration::ZERO).await);
    }
}
