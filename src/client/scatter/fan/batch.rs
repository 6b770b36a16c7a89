//! What goes to one shard of a COPY FROM STDIN: rows are put together into large CopyData messages, however small those of the client are.

use std::io;
use std::task::Context;

use crate::id::ShardIndex;
use crate::net::Buffer;
use crate::net::Stream;
use crate::shard::copy::Target;
use crate::shard::map::ShardMap;

/// What is worth a write of its own: about what the client's socket gives at once, and what a server's takes.
pub(super) const LARGE: usize = 64 * 1024;

/// A message is ended when it has so many bytes; a row that is longer is one message.
const MESSAGE: usize = 32 * 1024;

/// Type and length of a message.
const HEADER: usize = 5;

/// Rows of one shard that are still to be written, as CopyData messages of which the last is open.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where the open message begins.
    open: Option<usize>,
}

impl Batch {
    fn push(&mut self, row: &[u8]) {
        let begin = match self.open {
            Some(begin) => begin,
            None => {
                let begin = self.bytes.len();
                self.bytes.extend_from_slice(&[b'd', 0, 0, 0, 0]);
                self.open = Some(begin);
                begin
            }
        };
        self.bytes.extend_from_slice(row);
        if self.bytes.len() - begin >= MESSAGE {
            self.end_message();
        }
    }

    /// Writes the length of the open message into its header.
    fn end_message(&mut self) {
        let Some(begin) = self.open.take() else { return };
        // The length counts itself. A row is 64 MiB at most, so that it always fits.
        let length = u32::try_from(self.bytes.len() - begin - 1).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(begin + 1..begin + HEADER) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes all of it behind what waits in `output`, at once as far as the socket takes it. Its memory stays for the next rows.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn write(&mut self, output: &mut Buffer, stream: &mut Stream, cx: &mut Context<'_>) -> io::Result<()> {
        self.end_message();
        output.write_through(&self.bytes, stream, cx)?;
        self.bytes.clear();
        self.bytes.shrink_to(2 * LARGE);
        Ok(())
    }
}

/// The batches of all shards, and whose are the rows of a slot.
#[derive(Debug)]
pub(super) struct Batches<'m> {
    map: &'m ShardMap,
    /// By the number of a shard, its place among those of the COPY.
    places: Vec<Option<usize>>,
    each: Vec<Batch>,
}

impl<'m> Batches<'m> {
    /// For the shards of a COPY, in their order.
    pub(super) fn new(map: &'m ShardMap, shards: impl Iterator<Item = ShardIndex>) -> Self {
        let (mut places, mut each) = (Vec::new(), Vec::new());
        for shard in shards {
            let number = usize::from(shard.0);
            if places.len() <= number {
                places.resize(number + 1, None);
            }
            if let Some(place) = places.get_mut(number) {
                *place = Some(each.len());
            }
            each.push(Batch::default());
        }
        Self { map, places, each }
    }

    /// Puts rows where they belong.
    pub(super) fn push(&mut self, target: Target, rows: &[u8]) {
        match target {
            Target::All => self.each.iter_mut().for_each(|batch| batch.push(rows)),
            Target::Slot(slot) => {
                let place = self.places.get(usize::from(self.map.owner(slot).0)).copied().flatten();
                if let Some(batch) = place.and_then(|at| self.each.get_mut(at)) {
                    batch.push(rows);
                }
            }
        }
    }

    /// Whether one of them is worth a write.
    pub(super) fn has_large(&self) -> bool {
        self.each.iter().any(|batch| batch.len() >= LARGE)
    }

    /// Those in which something waits, with their places.
    pub(super) fn waiting(&mut self) -> impl Iterator<Item = (usize, &mut Batch)> {
        self.each.iter_mut().enumerate().filter(|(_, batch)| batch.len() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    /// The bodies of the messages in a batch, which are all CopyData.
    fn messages(batch: &mut Batch) -> Vec<Vec<u8>> {
        batch.end_message();
        let (mut rest, mut bodies) = (batch.bytes.as_slice(), Vec::new());
        while let Ok(Some(message)) = frame::next(rest, 1 << 30) {
            assert_eq!(message.tag, b'd');
            bodies.push(message.body().to_vec());
            rest = &rest[message.bytes.len()..];
        }
        assert!(rest.is_empty(), "{} bytes are no message", rest.len());
        bodies
    }

    #[test]
    fn rows_become_large_messages_in_their_order() {
        let mut batch = Batch::default();
        let rows: Vec<Vec<u8>> = (0..10_000_u32).map(|n| format!("{n}\tsome text\n").into_bytes()).collect();
        rows.iter().for_each(|row| batch.push(row));
        let found = messages(&mut batch);
        assert_eq!(found.concat(), rows.concat());
        let (last, full) = found.split_last().unwrap();
        assert!(full.iter().all(|body| (MESSAGE - HEADER..MESSAGE + 32).contains(&body.len())));
        assert!(full.len() > 3 && last.len() < MESSAGE);
    }

    #[test]
    fn a_long_row_is_whole_in_one_message() {
        let mut batch = Batch::default();
        let long = vec![b'x'; 3 * MESSAGE];
        [b"a".as_slice(), &long, b"b"].iter().for_each(|row| batch.push(row));
        let found = messages(&mut batch);
        assert_eq!(found, [[b"a".as_slice(), &long].concat(), b"b".to_vec()]);
        assert_eq!(messages(&mut Batch::default()), Vec::<Vec<u8>>::new());
    }
}
