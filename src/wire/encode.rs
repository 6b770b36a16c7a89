//! The messages that we write, appended to a buffer.

use crate::error::Error;
use crate::wire::message::TransactionStatus;

/// Appends a frame whose body `fill` writes.
pub fn frame(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    patch_len(out, at);
}

/// Writes the length that starts at `at` and counts from there to the end.
///
/// What we write ourselves stays far below 4 GiB; a longer body is cut off from its length rather than wrapped.
fn patch_len(out: &mut [u8], at: usize) {
    if let Some(tail) = out.get_mut(at..) {
        let len = u32::try_from(tail.len()).unwrap_or(u32::MAX);
        if let Some(field) = tail.first_chunk_mut::<4>() {
            *field = len.to_be_bytes();
        }
    }
}

fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    // A NUL would end the string early and shift all that follows.
    out.extend(text.iter().copied().filter(|&b| b != 0));
    out.push(0);
}

fn count(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes());
}

/// AuthenticationRequest with `code` and what follows it.
pub fn authentication(out: &mut Vec<u8>, code: u32, rest: &[u8]) {
    frame(out, b'R', |b| {
        b.extend_from_slice(&code.to_be_bytes());
        b.extend_from_slice(rest);
    });
}

/// PasswordMessage, SASLInitialResponse, SASLResponse: they share a type.
pub fn password(out: &mut Vec<u8>, body: &[u8]) {
    frame(out, b'p', |b| b.extend_from_slice(body));
}

/// ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    frame(out, b'S', |b| {
        cstr(b, name);
        cstr(b, value);
    });
}

/// BackendKeyData.
pub fn backend_key(out: &mut Vec<u8>, pid: u32, secret: &[u8]) {
    frame(out, b'K', |b| {
        b.extend_from_slice(&pid.to_be_bytes());
        b.extend_from_slice(secret);
    });
}

/// NegotiateProtocolVersion: the newest minor version of protocol 3 that we speak, and the options we do not know.
pub fn negotiate_protocol(out: &mut Vec<u8>, minor: u16, unknown: &[String]) {
    frame(out, b'v', |b| {
        b.extend_from_slice(&(0x0003_0000 | u32::from(minor)).to_be_bytes());
        b.extend_from_slice(&u32::try_from(unknown.len()).unwrap_or(u32::MAX).to_be_bytes());
        for name in unknown {
            cstr(b, name.as_bytes());
        }
    });
}

/// ReadyForQuery.
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    frame(out, b'Z', |b| b.push(status.as_byte()));
}

/// CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    frame(out, b'C', |b| cstr(b, tag.as_bytes()));
}

/// ErrorResponse.
pub fn error(out: &mut Vec<u8>, error: &Error) {
    frame(out, b'E', |b| fields(b, error.severity.as_str(), error));
}

/// NoticeResponse of the given severity (`NOTICE`, `WARNING`).
pub fn notice(out: &mut Vec<u8>, severity: &str, notice: &Error) {
    frame(out, b'N', |b| fields(b, severity, notice));
}

fn fields(b: &mut Vec<u8>, severity: &str, error: &Error) {
    let mut field = |kind: u8, value: &[u8]| {
        b.push(kind);
        cstr(b, value);
    };
    field(b'S', severity.as_bytes());
    field(b'V', severity.as_bytes());
    field(b'C', error.sqlstate.as_str().as_bytes());
    field(b'M', error.message.as_bytes());
    if let Some(detail) = &error.detail {
        field(b'D', detail.as_bytes());
    }
    if let Some(hint) = &error.hint {
        field(b'H', hint.as_bytes());
    }
    b.push(0);
}

/// Query.
pub fn query(out: &mut Vec<u8>, sql: &[u8]) {
    frame(out, b'Q', |b| cstr(b, sql));
}

/// Parse, with the parameter types as they stand in a Parse message (count included).
pub fn parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u8]) {
    frame(out, b'P', |b| {
        cstr(b, name);
        cstr(b, sql);
        b.extend_from_slice(types);
    });
}

/// Bind with another statement name; `rest` is all that follows the names.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: &[u8]) {
    frame(out, b'B', |b| {
        cstr(b, portal);
        cstr(b, statement);
        b.extend_from_slice(rest);
    });
}

/// Execute of the unnamed portal, to its end.
pub fn execute(out: &mut Vec<u8>) {
    execute_portal(out, b"", 0);
}

/// Execute of a portal: so many rows at most, all if that is 0.
pub fn execute_portal(out: &mut Vec<u8>, portal: &[u8], rows: u32) {
    frame(out, b'E', |b| {
        b.extend_from_slice(portal);
        b.push(0);
        b.extend_from_slice(&rows.to_be_bytes());
    });
}

/// Describe of a portal that has a name.
pub fn describe_named_portal(out: &mut Vec<u8>, portal: &[u8]) {
    frame(out, b'D', |b| {
        b.push(b'P');
        b.extend_from_slice(portal);
        b.push(0);
    });
}

/// Close of a portal.
pub fn close_portal(out: &mut Vec<u8>, portal: &[u8]) {
    frame(out, b'C', |b| {
        b.push(b'P');
        b.extend_from_slice(portal);
        b.push(0);
    });
}

/// Bind of the unnamed statement with one parameter, everything as text.
pub fn bind_text(out: &mut Vec<u8>, value: &[u8]) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let rest = [&[0, 0, 0, 1][..], &length.to_be_bytes(), value, &[0, 0]].concat();
    bind(out, b"", b"", &rest);
}

/// Describe of a statement.
pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    frame(out, b'D', |b| {
        b.push(b'S');
        cstr(b, name);
    });
}

/// Describe of the unnamed portal.
pub fn describe_portal(out: &mut Vec<u8>) {
    out.extend_from_slice(b"D\0\0\0\x06P\0");
}

/// Close of a statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    frame(out, b'C', |b| {
        b.push(b'S');
        cstr(b, name);
    });
}

/// Sync.
pub fn sync(out: &mut Vec<u8>) {
    out.extend_from_slice(b"S\0\0\0\x04");
}

/// Flush.
pub fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"H\0\0\0\x04");
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    out.extend_from_slice(b"X\0\0\0\x04");
}

/// ParseComplete.
pub const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
/// ParameterDescription of a statement without parameters.
pub const NO_PARAMETERS: &[u8] = b"t\0\0\0\x06\0\0";
/// PortalSuspended.
pub const PORTAL_SUSPENDED: &[u8] = b"s\0\0\0\x04";
/// CloseComplete.
pub const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";
/// EmptyQueryResponse.
pub const EMPTY_QUERY: &[u8] = b"I\0\0\0\x04";
/// BindComplete.
pub const BIND_COMPLETE: &[u8] = b"2\0\0\0\x04";
/// NoData.
pub const NO_DATA: &[u8] = b"n\0\0\0\x04";

/// A StartupMessage of protocol 3.0.
pub fn startup(out: &mut Vec<u8>, params: &[(&str, &str)]) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&0x0003_0000_u32.to_be_bytes());
    for (name, value) in params {
        cstr(out, name.as_bytes());
        cstr(out, value.as_bytes());
    }
    out.push(0);
    patch_len(out, at);
}

/// A CancelRequest.
pub fn cancel_request(out: &mut Vec<u8>, pid: u32, secret: &[u8]) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&80_877_102_u32.to_be_bytes());
    out.extend_from_slice(&pid.to_be_bytes());
    out.extend_from_slice(secret);
    patch_len(out, at);
}

/// RowDescription of text columns: name and type.
pub fn row_description(out: &mut Vec<u8>, columns: &[(&str, u32)]) {
    row_description_in(out, columns, |_| 0);
}

/// The same, with the format of each column: 0 is text, 1 binary.
pub fn row_description_in(out: &mut Vec<u8>, columns: &[(&str, u32)], format: impl Fn(usize) -> i16) {
    frame(out, b'T', |b| {
        count(b, columns.len());
        for (at, (name, oid)) in columns.iter().enumerate() {
            cstr(b, name.as_bytes());
            b.extend_from_slice(&[0; 6]);
            b.extend_from_slice(&oid.to_be_bytes());
            let size: i16 = match oid {
                16 => 1,
                23 => 4,
                20 => 8,
                _ => -1,
            };
            b.extend_from_slice(&size.to_be_bytes());
            b.extend_from_slice(&(-1_i32).to_be_bytes());
            b.extend_from_slice(&format(at).to_be_bytes());
        }
    });
}

/// DataRow of text values.
pub fn data_row<T: AsRef<[u8]>>(out: &mut Vec<u8>, values: &[Option<T>]) {
    frame(out, b'D', |b| {
        count(b, values.len());
        for value in values {
            match value {
                None => b.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(v) => {
                    let v = v.as_ref();
                    b.extend_from_slice(&i32::try_from(v.len()).unwrap_or(i32::MAX).to_be_bytes());
                    b.extend_from_slice(v);
                }
            }
        }
    });
}
