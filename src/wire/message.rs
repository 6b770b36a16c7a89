//! Typed views of the messages that we read. A view borrows the frame's body; a body that does not
//! have the message's form gives `None`.

use crate::error::{Error, SqlState};

/// A reader over a body that never goes past its end.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `body` from its start.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    /// The next two bytes as a signed number.
    pub fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    /// The next four bytes as a signed number.
    pub fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    /// The next four bytes as an unsigned number.
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    /// The bytes up to the next NUL, which is passed over.
    pub fn cstr(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(0, self.0)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Some(text)
    }

    /// A count of things of which each takes at least `each` bytes: a count that cannot be true is refused
    /// before anything is allocated for it.
    pub fn count(&mut self, each: usize) -> Option<usize> {
        let n = usize::from(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?));
        (n.checked_mul(each)? <= self.0.len()).then_some(n)
    }
}

/// The cells of a DataRow in text format; `None` when it is malformed.
#[must_use]
pub fn data_row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let mut reader = Reader::new(body);
    let count = reader.count(4)?;
    let mut cells = Vec::with_capacity(count);
    for _ in 0..count {
        let len = reader.i32()?;
        let cell = if len < 0 { None } else { Some(reader.bytes(usize::try_from(len).ok()?)?) };
        cells.push(cell.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    }
    Some(cells)
}

/// Names and types of a RowDescription's columns; `None` if it is malformed.
#[must_use]
pub fn row_description(body: &[u8]) -> Option<Vec<(&[u8], u32)>> {
    let mut reader = Reader::new(body);
    // A column takes its name's end and 18 bytes.
    let count = reader.count(19)?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.cstr()?;
        reader.bytes(6)?;
        let oid = u32::from_be_bytes(reader.bytes(4)?.try_into().ok()?);
        reader.bytes(8)?;
        columns.push((name, oid));
    }
    Some(columns)
}

/// What ReadyForQuery says of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    Idle,
    /// In a transaction block.
    InTransaction,
    /// In a failed block: only its end is accepted.
    Failed,
}

impl TransactionStatus {
    /// The byte of ReadyForQuery.
    #[must_use]
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// The body of ReadyForQuery.
#[must_use]
pub fn ready_for_query(body: &[u8]) -> Option<TransactionStatus> {
    match body {
        [b'I'] => Some(TransactionStatus::Idle),
        [b'T'] => Some(TransactionStatus::InTransaction),
        [b'E'] => Some(TransactionStatus::Failed),
        _ => None,
    }
}

/// The text of a Query.
#[must_use]
pub fn query(body: &[u8]) -> Option<&[u8]> {
    let mut r = Reader::new(body);
    let text = r.cstr()?;
    r.rest().is_empty().then_some(text)
}

/// A Parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty: the unnamed one.
    pub name: &'a [u8],
    /// Its text.
    pub sql: &'a [u8],
    /// The count of parameter types and the types, as they stand in the message: the part that, with the text, tells statements apart.
    pub types: &'a [u8],
}

/// Reads a Parse.
#[must_use]
pub fn parse(body: &[u8]) -> Option<Parse<'_>> {
    let mut r = Reader::new(body);
    let name = r.cstr()?;
    let sql = r.cstr()?;
    let types = r.rest();
    let n = r.count(4)?;
    r.bytes(n.checked_mul(4)?)?;
    r.rest().is_empty().then_some(Parse { name, sql, types })
}

impl Parse<'_> {
    /// The declared parameter types; 0 where the server is to choose.
    #[must_use]
    pub fn oids(&self) -> Vec<u32> {
        let mut r = Reader::new(self.types);
        let _count = r.i16();
        std::iter::from_fn(|| r.u32()).collect()
    }
}

/// The head of a Bind: all that is needed to route and rename it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal; empty: the unnamed one.
    pub portal: &'a [u8],
    /// The statement.
    pub statement: &'a [u8],
    /// Everything after the names, as it stands.
    pub rest: &'a [u8],
}

/// Reads a Bind; its parameters are only read by [`Bind::parameters`].
#[must_use]
pub fn bind(body: &[u8]) -> Option<Bind<'_>> {
    let mut r = Reader::new(body);
    Some(Bind { portal: r.cstr()?, statement: r.cstr()?, rest: r.rest() })
}

/// The formats and values of a Bind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters<'a> {
    /// 0 text, 1 binary; empty: all text; one: for all.
    pub formats: Vec<i16>,
    /// The values; `None` is NULL.
    pub values: Vec<Option<&'a [u8]>>,
}

impl Parameters<'_> {
    /// Whether the value with this place, counted from 0, is a text.
    #[must_use]
    pub fn is_text(&self, at: usize) -> bool {
        match self.formats.as_slice() {
            [] => true,
            [all] => *all == 0,
            each => each.get(at).is_none_or(|format| *format == 0),
        }
    }
}

impl<'a> Bind<'a> {
    /// The formats that the result's columns are to come in, 0 text and 1 binary: none, one for all, or one each; `None` if the message
    /// is malformed.
    #[must_use]
    pub fn result_formats(&self) -> Option<Vec<i16>> {
        let mut r = Reader::new(self.rest);
        for _ in 0..r.count(2)? {
            r.i16()?;
        }
        for _ in 0..r.count(4)? {
            if let Ok(len) = usize::try_from(r.i32()?) {
                r.bytes(len)?;
            }
        }
        (0..r.count(2)?).map(|_| r.i16()).collect()
    }

    /// Reads the parameters; `None` if the message is malformed.
    #[must_use]
    pub fn parameters(&self) -> Option<Parameters<'a>> {
        let mut r = Reader::new(self.rest);
        let n = r.count(2)?;
        let formats = (0..n).map(|_| r.i16()).collect::<Option<Vec<_>>>()?;
        let n = r.count(4)?;
        let mut values = Vec::with_capacity(n);
        for _ in 0..n {
            values.push(match r.i32()? {
                -1 => None,
                len => Some(r.bytes(usize::try_from(len).ok()?)?),
            });
        }
        Some(Parameters { formats, values })
    }
}

/// What Describe and Close speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

/// Reads a Describe or a Close.
#[must_use]
pub fn target(body: &[u8]) -> Option<Target<'_>> {
    let mut r = Reader::new(body);
    let kind = r.u8()?;
    let name = r.cstr()?;
    if !r.rest().is_empty() {
        return None;
    }
    match kind {
        b'S' => Some(Target::Statement(name)),
        b'P' => Some(Target::Portal(name)),
        _ => None,
    }
}

/// An Execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal.
    pub portal: &'a [u8],
    /// Rows at most; 0: all.
    pub max_rows: i32,
}

/// Reads an Execute.
#[must_use]
pub fn execute(body: &[u8]) -> Option<Execute<'_>> {
    let mut r = Reader::new(body);
    let execute = Execute { portal: r.cstr()?, max_rows: r.i32()? };
    r.rest().is_empty().then_some(execute)
}

/// Name and value of a ParameterStatus.
#[must_use]
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut r = Reader::new(body);
    let pair = (r.cstr()?, r.cstr()?);
    r.rest().is_empty().then_some(pair)
}

/// The tag of a CommandComplete.
#[must_use]
pub fn command_complete(body: &[u8]) -> Option<&[u8]> {
    Reader::new(body).cstr()
}

/// Process id and secret of a BackendKeyData. The secret is 4 bytes in protocol 3.0, up to 256 in 3.2.
#[must_use]
pub fn backend_key(body: &[u8]) -> Option<(u32, &[u8])> {
    let mut r = Reader::new(body);
    let pid = r.u32()?;
    let secret = r.rest();
    (4..=256).contains(&secret.len()).then_some((pid, secret))
}

/// The field `kind` of an ErrorResponse or NoticeResponse.
///
/// <https://www.postgresql.org/docs/current/protocol-error-fields.html>
#[must_use]
pub fn error_field(body: &[u8], kind: u8) -> Option<&[u8]> {
    error_fields(body).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// The fields of an ErrorResponse or NoticeResponse, up to the first malformed one.
pub fn error_fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut r = Reader::new(body);
    std::iter::from_fn(move || {
        let kind = r.u8().filter(|&k| k != 0)?;
        Some((kind, r.cstr()?))
    })
}

/// An ErrorResponse of a server, as an error to pass on.
#[must_use]
pub fn server_error(body: &[u8]) -> Error {
    let text = |kind| error_field(body, kind).map(|v| String::from_utf8_lossy(v).into_owned());
    let sqlstate = SqlState::from_bytes(error_field(body, b'C').unwrap_or_default());
    let mut error = Error::server(sqlstate, text(b'M').unwrap_or_else(|| "unknown error of the server".to_owned()));
    error.detail = text(b'D');
    error.hint = text(b'H');
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{encode, frame};
    use proptest::prelude::*;

    fn body(bytes: &[u8]) -> &[u8] {
        frame::next(bytes, 1 << 20).unwrap().unwrap().body()
    }

    #[test]
    fn a_parse_is_read_as_it_was_written() {
        let mut out = Vec::new();
        encode::parse(&mut out, b"s1", b"SELECT $1", &[0, 1, 0, 0, 0, 23]);
        let parse = parse(body(&out)).unwrap();
        assert_eq!((parse.name, parse.sql), (&b"s1"[..], &b"SELECT $1"[..]));
        assert_eq!(parse.oids(), [23]);
    }

    #[test]
    fn counts_that_cannot_be_true_are_refused() {
        assert_eq!(parse(b"\0\0\xff\xff\0\0\0\0"), None);
        let bind = bind(b"\0\0\0\0\xff\xff").unwrap();
        assert_eq!(bind.parameters(), None);
    }

    #[test]
    fn error_fields_are_found() {
        let e = b"SERROR\0C42601\0Msyntax\0\0";
        assert_eq!(error_field(e, b'C'), Some(&b"42601"[..]));
        assert_eq!(error_field(e, b'H'), None);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _all = (query(&body), parse(&body).map(|p| p.oids()), target(&body), execute(&body));
            let _all = (parameter_status(&body), command_complete(&body), backend_key(&body), ready_for_query(&body));
            drop(bind(&body).and_then(|b| b.parameters()));
            prop_assert!(error_fields(&body).count() <= body.len());
        }
    }
}
