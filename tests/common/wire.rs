//! The frontend/backend protocol, written for tests: plain vectors, both directions, no trust in the peer.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};

/// Protocol 3.0.
pub const PROTOCOL_3_0: u32 = 3 << 16;
/// Protocol 3.2 (PostgreSQL 18).
pub const PROTOCOL_3_2: u32 = (3 << 16) | 2;
/// The version field of a CancelRequest.
pub const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;
/// The version field of an SSLRequest.
pub const SSL_REQUEST: u32 = (1234 << 16) | 5679;
/// The version field of a GSSENCRequest.
pub const GSSENC_REQUEST: u32 = (1234 << 16) | 5680;

/// One message of either side: its type byte and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Type byte.
    pub tag: u8,
    /// Content without type and length.
    pub body: Vec<u8>,
}

/// The first packet of a connection: version and the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// Protocol version or request code.
    pub version: u32,
    /// What follows it.
    pub body: Vec<u8>,
}

impl Startup {
    /// The name/value pairs of a startup message.
    pub fn params(&self) -> BTreeMap<String, String> {
        let mut at = Cursor(&self.body);
        let mut params = BTreeMap::new();
        while let Some(name) = at.text().filter(|name| !name.is_empty()) {
            params.insert(name, at.text().unwrap_or_default());
        }
        params
    }
}

/// Reads values off the front of a body; `None` when it is too short.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    /// A 16-bit number.
    pub fn int16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A 32-bit number.
    pub fn int32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A zero-terminated string.
    pub fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Some(text)
    }

    /// A value with a length before it; the inner `None` is NULL.
    pub fn value(&mut self) -> Option<Option<&'a [u8]>> {
        match self.int32()? {
            -1 => Some(None),
            length => Some(Some(self.take(usize::try_from(length).ok()?)?)),
        }
    }
}

/// The fields of an ErrorResponse or NoticeResponse that tests ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `WARNING`, ...
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// Primary message.
    pub message: String,
    /// All fields by their type byte.
    pub fields: BTreeMap<char, String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", self.severity, self.code, self.message)
    }
}

impl Message {
    /// A message of this type and content.
    pub fn new(tag: u8, body: impl Into<Vec<u8>>) -> Self {
        Self { tag, body: body.into() }
    }

    /// As sent.
    pub fn encode(&self) -> Vec<u8> {
        frame(self.tag, &self.body)
    }

    /// The fields of an error or a notice.
    pub fn error(&self) -> Option<ServerError> {
        if !matches!(self.tag, b'E' | b'N') {
            return None;
        }
        let mut at = Cursor(&self.body);
        let mut fields = BTreeMap::new();
        while let Some(field) = at.byte().filter(|field| *field != 0) {
            fields.insert(char::from(field), at.text()?);
        }
        let get = |name: char| fields.get(&name).cloned().unwrap_or_default();
        let severity = if fields.contains_key(&'V') { get('V') } else { get('S') };
        Some(ServerError { severity, code: get('C'), message: get('M'), fields })
    }

    /// The columns of a DataRow as text; `None` for NULL, and for another message.
    pub fn row(&self) -> Option<Vec<Option<String>>> {
        if self.tag != b'D' {
            return None;
        }
        let mut at = Cursor(&self.body);
        (0..at.int16()?).map(|_| Some(at.value()?.map(printable))).collect()
    }

    /// The column names of a RowDescription.
    pub fn columns(&self) -> Option<Vec<String>> {
        if self.tag != b'T' {
            return None;
        }
        let mut at = Cursor(&self.body);
        (0..at.int16()?).map(|_| at.text().filter(|_| at.take(18).is_some())).collect()
    }

    /// What stands between the parentheses of [`fmt::Display`]; the outer `None` is a message cut short.
    fn detail(&self) -> Option<Option<String>> {
        let mut at = Cursor(&self.body);
        Some(Some(match self.tag {
            b'R' => at.int32()?.to_string(),
            b'S' => format!("{}={}", at.text()?, at.text()?),
            b'T' => self.column_list()?,
            b'D' => {
                let row = self.row()?;
                row.into_iter().map(|value| value.unwrap_or_else(|| "\\N".to_owned())).collect::<Vec<_>>().join("|")
            }
            b'C' => at.text()?,
            b'E' | b'N' => {
                let error = self.error()?;
                if error.severity == "ERROR" { error.code } else { format!("{} {}", error.severity, error.code) }
            }
            b'Z' => char::from(at.byte()?).to_string(),
            b't' => {
                let types: Option<Vec<String>> = (0..at.int16()?).map(|_| Some(at.int32()?.to_string())).collect();
                types?.join(",")
            }
            b'A' => {
                at.int32()?;
                format!("{},{}", at.text()?, at.text()?)
            }
            b'G' | b'H' | b'W' => format!("{},{}", at.byte()?, at.int16()?),
            b'd' => printable(at.0),
            b'V' => at.value()?.map_or_else(|| "\\N".to_owned(), printable),
            b'v' => format!("{},{}", at.int32()?, at.int32()?),
            _ => return Some(None),
        }))
    }

    fn column_list(&self) -> Option<String> {
        let mut at = Cursor(&self.body);
        let mut columns = Vec::new();
        for _ in 0..at.int16()? {
            let name = at.text()?;
            at.take(6)?; // table and column number: catalogs differ
            let oid = at.int32()?;
            at.take(6)?; // width and modifier
            let binary = if at.int16()? == 1 { ":b" } else { "" };
            columns.push(format!("{name}:{oid}{binary}"));
        }
        Some(columns.join(","))
    }
}

/// Compact form of a backend message without what may differ between two servers: process ids and keys, object
/// ids of tables, texts of errors. `D(1|a)`, `C(SELECT 1)`, `E(42601)`, `E(FATAL 57P01)`, `Z(I)`, `K`, `1`.
impl fmt::Display for Message {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        match self.detail() {
            None => write!(out, "{tag}(malformed {:02x?})", self.body),
            Some(None) => write!(out, "{tag}"),
            Some(Some(detail)) => write!(out, "{tag}({detail})"),
        }
    }
}

/// [`Message`]s in their compact form with blanks between.
pub fn show(messages: &[Message]) -> String {
    messages.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') => {
            text.replace('\n', "\\n").replace('\t', "\\t")
        }
        _ => bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

/// Puts bytes together to messages, whatever the pieces they come in.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
}

impl FrameReader {
    /// The next message; `None` at the end of the stream. After an error by timeout it may be called again.
    pub fn message(&mut self, from: &mut impl Read) -> io::Result<Option<Message>> {
        let Some(total) = self.packet(from, 1)? else { return Ok(None) };
        let packet: Vec<u8> = self.buffer.drain(..total).collect();
        Ok(Some(Message::new(packet[0], &packet[5..])))
    }

    /// The type of the next message, which stays; `None` at the end of the stream.
    pub fn peek(&mut self, from: &mut impl Read) -> io::Result<Option<u8>> {
        Ok(self.packet(from, 1)?.and_then(|_| self.buffer.first().copied()))
    }

    /// The next packet without a type byte: the first of a connection.
    pub fn startup(&mut self, from: &mut impl Read) -> io::Result<Option<Startup>> {
        let Some(total) = self.packet(from, 0)? else { return Ok(None) };
        let packet: Vec<u8> = self.buffer.drain(..total).collect();
        let Some((version, body)) = packet[4..].split_first_chunk::<4>() else {
            return Err(io::Error::other("startup packet without a version"));
        };
        Ok(Some(Startup { version: u32::from_be_bytes(*version), body: body.to_vec() }))
    }

    /// Fills the buffer until a whole packet with `skip` bytes before its length is there; its size.
    fn packet(&mut self, from: &mut impl Read, skip: usize) -> io::Result<Option<usize>> {
        loop {
            if let Some(head) = self.buffer.get(skip..skip + 4) {
                let length = u32::from_be_bytes(head.try_into().unwrap()) as usize;
                if length < 4 {
                    return Err(io::Error::other(format!("length {length} in a message")));
                }
                if self.buffer.len() >= skip + length {
                    return Ok(Some(skip + length));
                }
            }
            let mut piece = [0; 16 * 1024];
            match from.read(&mut piece) {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Type byte, length, body.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Body made of pieces; each piece appends itself.
pub fn body(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

/// Appends a zero-terminated string.
pub fn put_text(to: &mut Vec<u8>, text: &str) {
    to.extend(text.as_bytes());
    to.push(0);
}

/// Appends a 16-bit count.
pub fn put_count(to: &mut Vec<u8>, count: usize) {
    to.extend(u16::try_from(count).unwrap().to_be_bytes());
}

/// Appends a value with its length, or NULL.
pub fn put_value(to: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => to.extend((-1i32).to_be_bytes()),
        Some(bytes) => {
            to.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
            to.extend(bytes);
        }
    }
}

/// Messages of the client.
pub mod frontend {
    use super::{body, frame, put_count, put_text, put_value};

    /// A packet without a type byte.
    pub fn startup_packet(version: u32, rest: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(rest.len() + 8).unwrap().to_be_bytes().to_vec();
        bytes.extend(version.to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    /// StartupMessage.
    pub fn startup(version: u32, params: &[(String, String)]) -> Vec<u8> {
        let rest = body(|to| {
            for (name, value) in params {
                put_text(to, name);
                put_text(to, value);
            }
            to.push(0);
        });
        startup_packet(version, &rest)
    }

    /// CancelRequest.
    pub fn cancel(pid: u32, key: &[u8]) -> Vec<u8> {
        let mut rest = pid.to_be_bytes().to_vec();
        rest.extend(key);
        startup_packet(super::CANCEL_REQUEST, &rest)
    }

    /// Query.
    pub fn query(sql: &str) -> Vec<u8> {
        frame(b'Q', &body(|to| put_text(to, sql)))
    }

    /// Parse with the types of the first parameters.
    pub fn parse(name: &str, sql: &str, oids: &[u32]) -> Vec<u8> {
        let body = body(|to| {
            put_text(to, name);
            put_text(to, sql);
            put_count(to, oids.len());
            oids.iter().for_each(|oid| to.extend(oid.to_be_bytes()));
        });
        frame(b'P', &body)
    }

    /// Bind with all parameters and all results in `format` (0: text, 1: binary).
    pub fn bind(portal: &str, statement: &str, values: &[Option<&[u8]>], format: u16) -> Vec<u8> {
        let body = body(|to| {
            put_text(to, portal);
            put_text(to, statement);
            put_count(to, 1);
            to.extend(format.to_be_bytes());
            put_count(to, values.len());
            values.iter().for_each(|value| put_value(to, *value));
            put_count(to, 1);
            to.extend(format.to_be_bytes());
        });
        frame(b'B', &body)
    }

    /// Describe (`D`) or Close (`C`) of a statement (`S`) or a portal (`P`).
    pub fn target(tag: u8, kind: u8, name: &str) -> Vec<u8> {
        let body = body(|to| {
            to.push(kind);
            put_text(to, name);
        });
        frame(tag, &body)
    }

    /// Execute; 0: all rows.
    pub fn execute(portal: &str, max_rows: u32) -> Vec<u8> {
        let body = body(|to| {
            put_text(to, portal);
            to.extend(max_rows.to_be_bytes());
        });
        frame(b'E', &body)
    }

    /// FunctionCall with text arguments and a text result.
    pub fn function_call(oid: u32, arguments: &[Option<&str>]) -> Vec<u8> {
        let body = body(|to| {
            to.extend(oid.to_be_bytes());
            put_count(to, 0);
            put_count(to, arguments.len());
            arguments.iter().for_each(|value| put_value(to, value.map(str::as_bytes)));
            to.extend(0u16.to_be_bytes());
        });
        frame(b'F', &body)
    }

    /// PasswordMessage.
    pub fn password(password: &str) -> Vec<u8> {
        frame(b'p', &body(|to| put_text(to, password)))
    }
}

/// Messages of the server.
pub mod backend {
    use super::{body, frame, put_count, put_text, put_value};

    /// AuthenticationOk.
    pub fn auth_ok() -> Vec<u8> {
        frame(b'R', &0u32.to_be_bytes())
    }

    /// ParameterStatus.
    pub fn parameter_status(name: &str, value: &str) -> Vec<u8> {
        let body = body(|to| {
            put_text(to, name);
            put_text(to, value);
        });
        frame(b'S', &body)
    }

    /// BackendKeyData.
    pub fn key_data(pid: u32, key: &[u8]) -> Vec<u8> {
        let body = body(|to| {
            to.extend(pid.to_be_bytes());
            to.extend(key);
        });
        frame(b'K', &body)
    }

    /// ReadyForQuery.
    pub fn ready(status: u8) -> Vec<u8> {
        frame(b'Z', &[status])
    }

    /// RowDescription of text columns with these names and types.
    pub fn row_description(columns: &[(&str, u32)]) -> Vec<u8> {
        let body = body(|to| {
            put_count(to, columns.len());
            for (name, oid) in columns {
                put_text(to, name);
                to.extend([0; 6]);
                to.extend(oid.to_be_bytes());
                to.extend((-1i16).to_be_bytes());
                to.extend((-1i32).to_be_bytes());
                to.extend(0u16.to_be_bytes());
            }
        });
        frame(b'T', &body)
    }

    /// DataRow.
    pub fn data_row(values: &[Option<&str>]) -> Vec<u8> {
        let body = body(|to| {
            put_count(to, values.len());
            values.iter().for_each(|value| put_value(to, value.map(str::as_bytes)));
        });
        frame(b'D', &body)
    }

    /// CommandComplete.
    pub fn complete(tag: &str) -> Vec<u8> {
        frame(b'C', &body(|to| put_text(to, tag)))
    }

    /// ErrorResponse.
    pub fn error(severity: &str, code: &str, message: &str) -> Vec<u8> {
        fields(b'E', severity, code, message)
    }

    /// NoticeResponse.
    pub fn notice(severity: &str, code: &str, message: &str) -> Vec<u8> {
        fields(b'N', severity, code, message)
    }

    fn fields(tag: u8, severity: &str, code: &str, message: &str) -> Vec<u8> {
        let body = body(|to| {
            for (field, value) in [(b'S', severity), (b'V', severity), (b'C', code), (b'M', message)] {
                to.push(field);
                put_text(to, value);
            }
            to.push(0);
        });
        frame(tag, &body)
    }

    /// The whole reply to a simple query with one text column named `column`.
    pub fn one_value(column: &str, value: &str) -> Vec<u8> {
        let row = data_row(&[Some(value)]);
        [row_description(&[(column, 25)]), row, complete("SELECT 1"), ready(b'I')].concat()
    }
}
