//! COPY over shards: the rows of COPY FROM STDIN go each to the shard of its key, those of COPY TO STDOUT become one stream.
//!
//! The rows themselves are passed on byte for byte: only lines, fields and the key are read, by the rules of the server's
//! `copyfromparse.c`. What the server would refuse in a way that is not seen here it refuses itself, for it gets the same bytes.
//! See <https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9>.
//!
//! `lines` finds where a row ends, `fields` finds the key in it, `split` sends rows to slots, `join` is the other direction.

mod fields;
mod join;
mod lines;
mod split;

pub use join::Joiner;
pub use split::{Splitter, Target};

use crate::error::{Error, SqlState};

/// A COPY whose data cannot be read.
const BAD_COPY_FILE_FORMAT: SqlState = SqlState(*b"22P04");

/// How rows are written: the options of the COPY statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// FORMAT text.
    Text {
        /// DELIMITER: a tab, if not given.
        delimiter: u8,
        /// NULL: `\N`, if not given.
        null: Vec<u8>,
        /// HEADER, true or MATCH: the first line is no row.
        header: bool,
    },
    /// FORMAT csv.
    Csv {
        /// DELIMITER: a comma, if not given.
        delimiter: u8,
        /// QUOTE: a double quote, if not given.
        quote: u8,
        /// ESCAPE: the same as `quote`, if not given.
        escape: u8,
        /// NULL: nothing, if not given.
        null: Vec<u8>,
        /// HEADER, true or MATCH.
        header: bool,
    },
    /// FORMAT binary.
    Binary,
}

impl Layout {
    /// FORMAT text without further options.
    #[must_use]
    pub fn text() -> Self {
        Self::Text { delimiter: b'\t', null: b"\\N".to_vec(), header: false }
    }

    /// FORMAT csv without further options.
    #[must_use]
    pub fn csv() -> Self {
        Self::Csv { delimiter: b',', quote: b'"', escape: b'"', null: Vec::new(), header: false }
    }

    fn has_header(&self) -> bool {
        matches!(self, Self::Text { header: true, .. } | Self::Csv { header: true, .. })
    }
}

/// The data are not what the statement says: as the server words it.
fn bad_data(message: impl Into<String>) -> Error {
    Error::client(BAD_COPY_FILE_FORMAT, message)
}

#[cfg(test)]
mod tests;
