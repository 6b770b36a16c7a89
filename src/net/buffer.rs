//! Bytes that wait: read and not yet understood, or written and not yet taken.
//!
//! A buffer without bytes holds no memory worth mentioning, so that an idle connection costs none. Reads go through one
//! scratch area per worker, taken within the poll only.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::LocalKey;

use crate::net::Stream;

/// Size of a read.
pub const READ_SIZE: usize = 64 * 1024;

/// An empty buffer with more memory than this gives it back.
const KEEP: usize = 4 * 1024;

/// How many empty buffers' memory is kept for the next that needs some: those of clients that have just been served.
const SPARE: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    /// For bytes that are still to be decrypted into the other.
    static CIPHER_SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Scratch areas that were made, of all threads.
static AREAS: AtomicUsize = AtomicUsize::new(0);

/// How many scratch areas of [`READ_SIZE`] there are.
#[must_use]
pub fn scratch_areas() -> usize {
    AREAS.load(Ordering::Relaxed)
}

/// A queue of bytes.
#[derive(Debug, Default)]
pub struct Buffer {
    data: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// The bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.data.get(self.start..).unwrap_or_default()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len().saturating_sub(self.start)
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in front of those that wait, which are done with and still take room.
    #[must_use]
    pub fn start(&self) -> usize {
        self.start
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.data.capacity() as u64
    }

    /// The first `n` bytes are done with.
    pub fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.data.len());
        if self.start == self.data.len() {
            self.data.clear();
            self.start = 0;
            if self.data.capacity() > KEEP {
                self.data = Vec::new();
            }
        }
    }

    /// Puts other bytes in the place of the `n` from `at` on.
    pub fn replace(&mut self, at: usize, n: usize, bytes: &[u8]) {
        let from = self.start.saturating_add(at).min(self.data.len());
        let to = from.saturating_add(n).min(self.data.len());
        self.data.splice(from..to, bytes.iter().copied());
    }

    /// Drops all bytes after the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.data.truncate(self.start.saturating_add(n));
    }

    /// Gives back the memory if there are no bytes.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.start = 0;
            put_by(std::mem::take(&mut self.data));
        }
    }

    /// Adds bytes at the end.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.tail().extend_from_slice(bytes);
    }

    /// Gives the room of what is done with to what comes, where that is worth the copying.
    fn compact(&mut self) {
        if self.start > READ_SIZE && self.start > self.data.len() / 2 {
            self.data.drain(..self.start);
            self.start = 0;
        }
    }

    /// The bytes as a vector to append to.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.data.capacity() == 0 {
            self.data = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        self.compact();
        &mut self.data
    }

    /// Gives its memory back if nothing waits in it.
    pub fn shrink_if_empty(&mut self) {
        if self.is_empty() {
            self.shrink();
        }
    }

    /// Reads once from `stream` and appends; the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_fill(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_fill_up_to(READ_SIZE, stream, cx)
    }

    /// The same, but takes `most` bytes at most, which is not 0.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_fill_up_to(
        &mut self,
        most: usize,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let room = most.min(scratch.len());
            stream.poll_read(cx, scratch.get_mut(..room).unwrap_or_default()).map_ok(|n| {
                self.extend(scratch.get(..n).unwrap_or_default());
                n
            })
        })
    }

    /// Writes to `stream` until nothing waits, in its TLS layer neither. `Pending` when the socket takes no more.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match stream.poll_write(cx, self.bytes()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.consume(n),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
        stream.poll_flush(cx)
    }

    /// Writes `bytes` behind what waits: at once as far as the socket takes them, the rest waits. What a TLS layer holds back goes
    /// with the next [`Self::poll_flush`]; the task is woken for it.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn write_through(&mut self, bytes: &[u8], stream: &mut Stream, cx: &mut Context<'_>) -> io::Result<()> {
        let mut rest = bytes;
        while self.is_empty() && !rest.is_empty() {
            match stream.poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => rest = rest.get(n..).unwrap_or_default(),
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Pending => break,
            }
        }
        self.extend(rest);
        Ok(())
    }
}

/// Keeps memory for the next buffer that needs some.
fn put_by(mut data: Vec<u8>) {
    if data.capacity() > 0 && data.capacity() <= KEEP {
        data.clear();
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE {
                spares.push(data);
            }
        });
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// Those of the socket.
pub async fn write_all(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    let mut output = Buffer::default();
    output.extend(bytes);
    poll_fn(|cx| output.poll_flush(stream, cx)).await
}

/// Lends the worker's scratch area of [`READ_SIZE`] bytes for the time of one call.
pub fn with_scratch<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    lend(&SCRATCH, f)
}

/// The same of the area for encrypted bytes, which is needed while the other is lent.
pub(super) fn with_cipher_scratch<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    lend(&CIPHER_SCRATCH, f)
}

fn lend<T>(area: &'static LocalKey<Cell<Option<Box<[u8]>>>>, f: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = area.take().unwrap_or_else(|| {
        AREAS.fetch_add(1, Ordering::Relaxed);
        vec![0; READ_SIZE].into_boxed_slice()
    });
    let result = f(&mut scratch);
    area.set(Some(scratch));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_memory_goes_back() {
        let mut b = Buffer::default();
        b.extend(b"hello ");
        b.extend(b"world");
        b.consume(6);
        assert_eq!(b.bytes(), b"world");
        b.truncate(2);
        assert_eq!(b.bytes(), b"wo");
        b.consume(99);
        assert!(b.is_empty());
        b.extend(&[7; 100_000]);
        b.consume(99_999);
        b.extend(&[8]);
        assert_eq!(b.bytes(), [7, 8]);
        b.consume(2);
        assert_eq!(b.data.capacity(), 0);
        // What never gets empty does not grow for ever.
        for _ in 0..1_000 {
            b.tail().extend_from_slice(&[9; 1_000]);
            b.consume(b.len() - 1);
        }
        assert!(b.data.len() < 2 * READ_SIZE + 2_000, "{}", b.data.len());
    }
}
