//! The first packet of a connection: it has a length but no type.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-STARTUPMESSAGE>

use crate::error::{Error, SqlState};
use crate::wire::message::Reader;

/// Longest first packet that PostgreSQL takes, and so do we.
pub const MAX_STARTUP_LEN: usize = 10_000;

/// The newest minor version of protocol 3 that we speak. 3.1 was never released; 3.2 brought longer cancel keys.
pub const NEWEST_MINOR: u16 = 2;

/// The first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Initial {
    /// May we speak TLS?
    Ssl,
    /// May we encrypt by GSSAPI?
    GssEnc,
    /// Cancel what this key's connection is doing.
    Cancel {
        /// The process id that BackendKeyData told.
        pid: u32,
        /// Its secret.
        secret: Vec<u8>,
    },
    /// Log in.
    Startup(Startup),
}

/// A StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    /// Minor version of protocol 3 that the client asks for.
    pub minor: u16,
    /// User name.
    pub user: String,
    /// Database name; the user's name if none was given.
    pub database: String,
    /// Whether `replication` asks for a WAL sender, and for which.
    pub replication: Option<Replication>,
    /// Settings: the other parameters, names in lower case; those of `options` come after them: [`Startup::take_options`].
    pub settings: Vec<(String, String)>,
    /// What `options` sets, up to what is not understood.
    pub options: Vec<(String, String)>,
    /// What is not understood of `options`.
    pub bad_option: Option<Error>,
    /// Protocol options (`_pq_.*`) that we do not know.
    pub unknown_options: Vec<String>,
}

/// Reads the packet's length (which counts itself); `None` while fewer than 4 bytes are there.
///
/// # Errors
/// When no first packet can be that long: the peer does not speak the protocol.
pub fn packet_len(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    if (8..=MAX_STARTUP_LEN).contains(&len) {
        Ok(Some(len))
    } else {
        Err(malformed("invalid length of startup packet"))
    }
}

fn malformed(message: &str) -> Error {
    Error::client_fatal(SqlState::PROTOCOL_VIOLATION, message)
}

/// Reads a whole first packet, its length included.
///
/// # Errors
/// When it is none, or asks for a protocol that is not spoken here.
pub fn parse(packet: &[u8]) -> Result<Initial, Error> {
    let mut r = Reader::new(packet);
    let (Some(_len), Some(code)) = (r.u32(), r.u32()) else {
        return Err(malformed("startup packet is too short"));
    };
    match (code >> 16, code & 0xffff) {
        (1234, 5679) if r.rest().is_empty() => Ok(Initial::Ssl),
        (1234, 5680) if r.rest().is_empty() => Ok(Initial::GssEnc),
        (1234, 5678) => {
            let pid = r.u32().ok_or_else(|| malformed("invalid length of cancel request"))?;
            let secret = r.rest().to_vec();
            if !(4..=256).contains(&secret.len()) {
                return Err(malformed("invalid length of cancel request"));
            }
            Ok(Initial::Cancel { pid, secret })
        }
        (3, minor) => startup(r, u16::try_from(minor).unwrap_or(u16::MAX)).map(Initial::Startup),
        (1234, _) => Err(malformed("unknown kind of startup packet")),
        (major, minor) => Err(Error::client_fatal(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}"),
        )),
    }
}

/// What a WAL sender is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replication {
    /// The WAL.
    Physical,
    /// Changes to rows, out of one database.
    Logical,
}

impl Replication {
    /// The value of the startup parameter.
    #[must_use]
    pub fn parameter(self) -> &'static str {
        match self {
            Self::Physical => "true",
            Self::Logical => "database",
        }
    }

    /// The word for SHOW.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// Reads the parameter: `database`, or a boolean as PostgreSQL spells them, beginnings of the words included.
fn replication(value: &str) -> Result<Option<Replication>, Error> {
    let lower = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| lower.len() >= least && word.starts_with(lower.as_str());
    if value == "database" {
        Ok(Some(Replication::Logical))
    } else if lower == "1" || begins("true", 1) || begins("yes", 1) || begins("on", 2) {
        Ok(Some(Replication::Physical))
    } else if lower == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2) {
        Ok(None)
    } else {
        let message = format!("invalid value for parameter \"replication\": \"{value}\"");
        Err(Error::client_fatal(SqlState::INVALID_PARAMETER_VALUE, message)
            .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."))
    }
}

fn startup(mut r: Reader<'_>, minor: u16) -> Result<Startup, Error> {
    let mut startup = Startup { minor, ..Startup::default() };
    let mut options = String::new();
    loop {
        let name = r.cstr().ok_or_else(unterminated)?;
        if name.is_empty() {
            break;
        }
        let value = r.cstr().ok_or_else(unterminated)?;
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return Err(malformed("startup packet is not valid UTF-8"));
        };
        match name {
            "user" => startup.user = value.to_owned(),
            "database" => startup.database = value.to_owned(),
            "options" => options = value.to_owned(),
            "replication" => startup.replication = replication(value)?,
            _ if name.starts_with("_pq_.") => startup.unknown_options.push(name.to_owned()),
            _ => set(&mut startup.settings, name.to_ascii_lowercase(), value.to_owned()),
        }
    }
    if !r.rest().is_empty() {
        return Err(malformed("invalid startup packet layout: expected terminator as last byte"));
    }
    if startup.user.is_empty() {
        return Err(Error::client_fatal(
            SqlState::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    (startup.options, startup.bad_option) = parse_options(&options);
    Ok(startup)
}

impl Startup {
    /// Adds what `options` sets to the other settings, as PostgreSQL does, as far as it is `wanted`: none wants everything, and nothing
    /// that is not understood.
    ///
    /// # Errors
    /// What is not understood.
    pub fn take_options(&mut self, wanted: Option<&dyn Fn(&str) -> bool>) -> Result<(), Error> {
        if let (None, Some(error)) = (wanted, &self.bad_option) {
            return Err(error.clone());
        }
        for (name, value) in std::mem::take(&mut self.options) {
            if wanted.is_none_or(|wanted| wanted(&name)) {
                set(&mut self.settings, name, value);
            }
        }
        Ok(())
    }
}

fn unterminated() -> Error {
    malformed("invalid startup packet layout: unterminated string")
}

/// The last one given wins.
fn set(settings: &mut Vec<(String, String)>, name: String, value: String) {
    settings.retain(|(n, _)| *n != name);
    settings.push((name, value));
}

/// Reads `options` as PostgreSQL does: words parted by blanks, a backslash takes the next character as it is,
/// `-c name=value` and `--name=value` set a setting.
///
/// <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-OPTIONS>
fn parse_options(options: &str) -> (Vec<(String, String)>, Option<Error>) {
    let mut settings = Vec::new();
    let mut words = split_words(options).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()
        } else if let Some(rest) = word.strip_prefix("--") {
            Some(rest.to_owned())
        } else {
            word.strip_prefix("-c").map(str::to_owned)
        };
        let Some((name, value)) = setting.as_deref().and_then(|s| s.split_once('=')) else {
            let message = format!("cannot apply startup option \"{word}\"");
            let error = Error::client_fatal(SqlState::INVALID_PARAMETER_VALUE, message)
                .hint("Options of the form \"-c name=value\" and \"--name=value\" are accepted.");
            return (settings, Some(error));
        };
        settings.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
    }
    (settings, None)
}

fn split_words(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode;
    use proptest::prelude::*;

    fn read(params: &[(&str, &str)]) -> Result<Startup, Error> {
        let mut out = Vec::new();
        encode::startup(&mut out, params);
        match parse(&out)? {
            Initial::Startup(mut s) => s.take_options(None).map(|()| s),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_startup_message_is_read() {
        let s = read(&[
            ("user", "ann"),
            ("DateStyle", "ISO"),
            ("options", r"-c work_mem=1MB --search-path=a\ b -cgeqo=off"),
        ])
        .unwrap();
        assert_eq!((s.user.as_str(), s.database.as_str()), ("ann", "ann"));
        let settings: Vec<_> = s.settings.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(settings, [("datestyle", "ISO"), ("work_mem", "1MB"), ("search_path", "a b"), ("geqo", "off")]);
    }

    #[test]
    fn of_ignored_options_what_is_wanted_is_taken() {
        let mut out = Vec::new();
        encode::startup(&mut out, &[("user", "ann"), ("options", "-c TimeZone=UTC -c geqo=off -x -c datestyle=ISO")]);
        let Ok(Initial::Startup(mut s)) = parse(&out) else { panic!("{out:?}") };
        s.take_options(Some(&|name| name == "timezone" || name == "datestyle")).unwrap();
        assert_eq!(s.settings, [("timezone".to_owned(), "UTC".to_owned())], "nothing behind what is not understood");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(read(&[("database", "x")]).unwrap_err().sqlstate, SqlState::INVALID_AUTHORIZATION);
        assert_eq!(read(&[("user", "x"), ("options", "-x")]).unwrap_err().sqlstate, SqlState::INVALID_PARAMETER_VALUE);
        assert!(packet_len(b"GET ").is_err());
        assert!(packet_len(&[0, 0, 0, 7]).is_err());
        assert_eq!(packet_len(&[0, 0, 0]), Ok(None));
        let old = [0, 0, 0, 8, 0, 2, 0, 0];
        assert!(parse(&old).unwrap_err().message.contains("unsupported frontend protocol 2.0"));
    }

    #[test]
    fn special_packets_are_told_apart() {
        assert_eq!(parse(&[0, 0, 0, 8, 4, 210, 22, 47]), Ok(Initial::Ssl));
        assert_eq!(parse(&[0, 0, 0, 8, 4, 210, 22, 48]), Ok(Initial::GssEnc));
        let mut out = Vec::new();
        encode::cancel_request(&mut out, 7, &[1, 2, 3, 4]);
        assert_eq!(parse(&out), Ok(Initial::Cancel { pid: 7, secret: vec![1, 2, 3, 4] }));
        out.truncate(12);
        assert!(parse(&out).is_err());
    }

    proptest! {
        #[test]
        fn no_packet_panics(packet in prop::collection::vec(any::<u8>(), 0..120)) {
            drop(parse(&packet));
            let mut framed = vec![0, 0, 0, 0, 0, 3, 0, 0];
            framed.extend_from_slice(&packet);
            drop(parse(&framed));
        }
    }
}
