//! COPY TO STDOUT of several shards: one stream with one beginning and one end.
//!
//! The server sends a CopyData message for each row, one for a header line, and in binary one for the end; the beginning of a
//! binary stream is in one message with its first row, or with the end if there is none.

use super::{Layout, bad_data};
use crate::error::Result;

/// The signature, the flags and the length of what may follow, which the server leaves empty.
const BINARY_HEADER: usize = 19;
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// What of the shards' messages the client gets.
#[derive(Debug)]
pub struct Joiner {
    binary: bool,
    header: bool,
    /// Whether a shard has sent its first message.
    begun: Vec<bool>,
    rows: u64,
}

impl Joiner {
    /// For so many shards.
    #[must_use]
    pub fn new(layout: &Layout, shards: usize) -> Self {
        let binary = *layout == Layout::Binary;
        Self { binary, header: layout.has_header(), begun: vec![false; shards], rows: 0 }
    }

    /// Takes a CopyData message of a shard; what of it the client gets as CopyData, if anything.
    ///
    /// # Errors
    /// When a server does not begin a binary stream as it must.
    pub fn pass<'m>(&mut self, shard: usize, message: &'m [u8]) -> Result<Option<&'m [u8]>> {
        let nobody_began = !self.begun.contains(&true);
        let first = self.begun.get_mut(shard).is_some_and(|begun| !std::mem::replace(begun, true));
        if !self.binary {
            let is_header = first && self.header;
            self.rows += u64::from(!is_header);
            return Ok((!is_header || nobody_began).then_some(message));
        }
        let row = match (first, message.split_at_checked(BINARY_HEADER)) {
            (true, Some((_, row))) => row,
            (true, None) => return Err(bad_data("a shard sent a binary COPY without its header")),
            (false, _) => message,
        };
        let is_row = row != TRAILER;
        self.rows += u64::from(is_row);
        Ok(match (nobody_began, is_row) {
            (true, true) => Some(message),
            (true, false) => message.get(..BINARY_HEADER),
            (false, true) => Some(row),
            (false, false) => None,
        })
    }

    /// What ends the stream when all shards have ended theirs, as a last CopyData.
    #[must_use]
    pub fn end(&self) -> Option<&'static [u8]> {
        self.binary.then_some(&TRAILER)
    }

    /// How many rows were passed on.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }
}
