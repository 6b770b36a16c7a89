//! COPY FROM STDIN: each row to the slot of its key.

use super::lines::{Found, Lines};
use super::{Layout, bad_data, fields};
use crate::error::{Error, Result, SqlState};
use crate::id::Slot;
use crate::shard::key::{Key, KeyError};
use crate::shard::map::KeyType;
use crate::shard::table_key::slot_of_columns;
use crate::sql::scatter::is_present;

/// The first bytes of a binary stream.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// The signature, the flags and the length of what may follow.
const BINARY_HEADER: usize = SIGNATURE.len() + 8;
/// In place of a row's number of fields: the end of a binary stream.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// Flags of a binary stream that must be understood.
const CRITICAL_FLAGS: u32 = 0xFFFF_0000;
/// The longest row.
const MAX_ROW: usize = 64 << 20;

fn of_the_present(row: u64) -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!(
            "row {row} of COPY into a reference table may mean the present, which each shard would take for itself"
        ),
    )
    .hint("Write the date or the time.")
    .because("present")
}

/// Where a piece of the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To the owner of a slot: a row.
    Slot(Slot),
    /// To every shard: what begins and ends the data.
    All,
}

/// Takes what the client sends in pieces of any size, and gives it on in whole rows.
#[derive(Debug)]
pub struct Splitter {
    layout: Layout,
    /// In place of a key: columns in which nothing may be of the present, by their places. All rows go everywhere.
    watched: Option<Vec<usize>>,
    /// The columns of the key: their places among the columns of the data, counted from 0, and their types.
    key: Vec<(usize, KeyType)>,
    utf8: bool,
    lines: Lines,
    /// The beginning of a row whose end has not come.
    rest: Vec<u8>,
    state: State,
    rows: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the header line or that of a binary stream.
    Header,
    Rows,
    /// After the end of the data: what still comes is passed over, or in binary refused, as by the server.
    Ended,
}

impl Splitter {
    /// For data whose column number `place`, counted from 0, is the key, of type `key_type`. `utf8`: client and server speak UTF-8,
    /// which must be so, since in some encodings a letter can hold the byte of a delimiter.
    ///
    /// # Errors
    /// 0A000 in text and csv unless `utf8`.
    pub fn new(layout: Layout, place: usize, key_type: KeyType, utf8: bool) -> Result<Self> {
        Self::by_columns(layout, vec![(place, key_type)], utf8)
    }

    /// The same for a key of several columns, in the order in which they are hashed: their places among those of the data, and their types.
    ///
    /// # Errors
    /// As of [`Splitter::new`].
    pub fn by_columns(layout: Layout, key: Vec<(usize, KeyType)>, utf8: bool) -> Result<Self> {
        if !utf8 && layout != Layout::Binary {
            let message = "COPY into a sharded table is supported in encoding UTF8 only";
            return Err(Error::us(SqlState::FEATURE_NOT_SUPPORTED, message)
                .hint("Set client_encoding to UTF8 for the session, and write the data in it."));
        }
        let state = if layout.has_header() || layout == Layout::Binary { State::Header } else { State::Rows };
        let lines = Lines::new(&layout);
        Ok(Self { layout, watched: None, key, utf8, lines, rest: Vec::new(), state, rows: 0 })
    }

    /// For data whose rows all go to every shard, if none has a value of the present (`now`, `today`) in the columns of these places, which
    /// each shard would take for itself.
    ///
    /// # Errors
    /// As of [`Splitter::new`].
    pub fn watching(layout: Layout, watched: Vec<usize>, utf8: bool) -> Result<Self> {
        Ok(Self { watched: Some(watched), ..Self::by_columns(layout, Vec::new(), utf8)? })
    }

    /// Takes a piece; `sink` is given whole rows, in their order.
    ///
    /// # Errors
    /// 22P04 for data that are none, the error of its type for a key that is none, 23502 for NULL, 0A000 for what a shard cannot be
    /// told of. The COPY must fail on all shards then.
    pub fn push(&mut self, piece: &[u8], sink: &mut dyn FnMut(Target, &[u8])) -> Result<()> {
        if self.rest.is_empty() {
            let taken = self.take(piece, false, sink)?;
            self.rest.extend_from_slice(&piece[taken..]);
        } else {
            let mut bytes = std::mem::take(&mut self.rest);
            bytes.extend_from_slice(piece);
            let taken = self.take(&bytes, false, sink)?;
            bytes.drain(..taken);
            self.rest = bytes;
        }
        if self.rest.len() > MAX_ROW {
            let message = format!("a row of COPY into a sharded table is longer than {} MiB", MAX_ROW >> 20);
            return Err(Error::us(SqlState::PROGRAM_LIMIT_EXCEEDED, message).hint("Insert this row by itself."));
        }
        Ok(())
    }

    /// The client has sent CopyDone.
    ///
    /// # Errors
    /// As of [`Splitter::push`].
    pub fn finish(&mut self, sink: &mut dyn FnMut(Target, &[u8])) -> Result<()> {
        let rest = std::mem::take(&mut self.rest);
        let taken = self.take(&rest, true, sink)?;
        match (&self.layout, self.state) {
            (Layout::Binary, State::Header) => Err(bad_data("COPY file signature not recognized")),
            (Layout::Binary, _) if taken < rest.len() => Err(bad_data("unexpected EOF in COPY data")),
            // The server takes the end of the stream for the end of the data, and so does each shard.
            _ => Ok(()),
        }
    }

    /// How many rows have been given on.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Gives on all whole rows at the beginning of `bytes`; how many bytes they took.
    fn take(&mut self, bytes: &[u8], last: bool, sink: &mut dyn FnMut(Target, &[u8])) -> Result<usize> {
        let mut at = 0;
        while self.state != State::Ended {
            let length = match self.layout {
                Layout::Binary => self.take_binary(&bytes[at..], sink)?,
                Layout::Text { .. } | Layout::Csv { .. } => self.take_line(&bytes[at..], last, sink)?,
            };
            let Some(length) = length else { return Ok(at) };
            at += length;
        }
        if self.layout == Layout::Binary && at < bytes.len() {
            return Err(bad_data("received copy data after EOF marker"));
        }
        Ok(bytes.len())
    }

    fn take_line(&mut self, bytes: &[u8], last: bool, sink: &mut dyn FnMut(Target, &[u8])) -> Result<Option<usize>> {
        let (length, ending) = match self.lines.next(bytes, last)? {
            Found::Unfinished => return Ok(None),
            Found::End => {
                self.state = State::Ended;
                return Ok(Some(0));
            }
            Found::Line { length, ending } => (length, ending),
        };
        let line = &bytes[..length];
        if self.state == State::Header {
            self.state = State::Rows;
            sink(Target::All, line);
            return Ok(Some(length));
        }
        if let Some(watched) = &self.watched {
            for place in watched {
                // What is no row the server refuses.
                let value = fields::field(&line[..length - ending], *place, &self.layout).ok().flatten();
                if value.is_some_and(|value| is_present(&value)) {
                    return Err(of_the_present(self.rows + 1));
                }
            }
            self.rows += 1;
            sink(Target::All, line);
            return Ok(Some(length));
        }
        let mut hashes = Vec::with_capacity(self.key.len());
        for (place, key_type) in &self.key {
            let value = fields::field(&line[..length - ending], *place, &self.layout)?;
            hashes.push(self.hash(value.as_deref(), *key_type, false)?);
        }
        let slot = slot_of_columns(hashes);
        self.rows += 1;
        sink(Target::Slot(slot), line);
        Ok(Some(length))
    }

    fn take_binary(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Target, &[u8])) -> Result<Option<usize>> {
        let number =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).map(|n| i32::from_be_bytes(*n));
        if self.state == State::Header {
            if !SIGNATURE.starts_with(&bytes[..bytes.len().min(SIGNATURE.len())]) {
                return Err(bad_data("COPY file signature not recognized"));
            }
            let (Some(flags), Some(more)) = (number(SIGNATURE.len()), number(SIGNATURE.len() + 4)) else {
                return Ok(None);
            };
            if flags.cast_unsigned() & CRITICAL_FLAGS != 0 {
                return Err(bad_data("unrecognized critical flags in COPY file header"));
            }
            let more = usize::try_from(more).map_err(|_| bad_data("invalid COPY file header (missing length)"))?;
            let length = BINARY_HEADER.saturating_add(more);
            let Some(header) = bytes.get(..length) else { return Ok(None) };
            self.state = State::Rows;
            sink(Target::All, header);
            return Ok(Some(length));
        }
        let Some(count) = bytes.first_chunk::<2>() else { return Ok(None) };
        if *count == TRAILER {
            self.state = State::Ended;
            sink(Target::All, &TRAILER);
            return Ok(Some(TRAILER.len()));
        }
        let count = usize::try_from(i16::from_be_bytes(*count)).map_err(|_| bad_data("row field count is negative"))?;
        let (mut at, mut values) = (2, vec![None; self.key.len()]);
        for field in 0..count {
            let Some(length) = number(at) else { return Ok(None) };
            at += 4;
            let value = match usize::try_from(length) {
                Ok(length) => match at.checked_add(length).and_then(|end| bytes.get(at..end)) {
                    Some(value) => Some(value),
                    None => return Ok(None),
                },
                Err(_) if length == -1 => None,
                Err(_) => return Err(bad_data("invalid field size")),
            };
            at += value.map_or(0, <[u8]>::len);
            for (known, _) in values.iter_mut().zip(&self.key).filter(|(_, (place, _))| *place == field) {
                *known = Some(value);
            }
        }
        let mut hashes = Vec::with_capacity(self.key.len());
        for (value, (_, key_type)) in values.into_iter().zip(&self.key) {
            let value = value.ok_or_else(|| bad_data("a row of COPY ends before the column of its sharding key"))?;
            hashes.push(self.hash(value, *key_type, true)?);
        }
        let slot = slot_of_columns(hashes);
        self.rows += 1;
        sink(Target::Slot(slot), &bytes[..at]);
        Ok(Some(at))
    }

    /// The hash of a value of a key column.
    fn hash(&self, value: Option<&[u8]>, key_type: KeyType, binary: bool) -> Result<u64> {
        let at_row = |error: Error| error.detail(format!("This is the sharding key of row {} of COPY.", self.rows + 1));
        let refused = |what: &str, hint: &str| {
            at_row(
                Error::us(SqlState::FEATURE_NOT_SUPPORTED, format!("cannot tell the shard: a sharding key is {what}"))
                    .hint(hint),
            )
        };
        let Some(bytes) = value else { return Err(refused("NULL", "Leave rows without a key out.")) };
        if key_type.is_text() {
            if bytes.ends_with(b" ") {
                return Err(refused(
                    "a text that ends in a space, which varchar(n) may cut",
                    "Cut the spaces before the COPY.",
                ));
            }
            if std::str::from_utf8(bytes).is_err() || bytes.contains(&0) {
                let message = "invalid byte sequence for encoding \"UTF8\"";
                return Err(at_row(Error::client(SqlState(*b"22021"), message)));
            }
        }
        let key = if binary {
            Key::from_binary_column(bytes, key_type, self.utf8)
        } else {
            Key::from_text(bytes, key_type, self.utf8)
        };
        match key {
            Ok(key) => Ok(key.hash()),
            Err(KeyError::Invalid(error)) => Err(at_row(error)),
            Err(KeyError::NotConstant(what)) => Err(refused(what, "Set client_encoding to UTF8.")),
            Err(_) => Err(refused("not readable", "Insert the row by itself.")),
        }
    }
}
