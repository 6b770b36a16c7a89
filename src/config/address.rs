//! Server addresses: `postgres://` URLs, host names, listen addresses.
//!
//! A URL may hold a password, even at a place where it does not belong, so no message of this module quotes one.

use std::net::IpAddr;
use std::path::PathBuf;

use super::{Host, HttpAddress};

/// What a server's URL says.
#[derive(PartialEq, Eq)]
pub(super) struct Url {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) dbname: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

/// PostgreSQL's own port.
pub(super) const DEFAULT_PORT: u16 = 5432;

/// Reads `postgres://[user[:password]@]host[:port][/dbname]`, or `postgres:///dbname?host=/directory` for a unix socket.
///
/// A subset of libpq's: <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>. One host, and
/// of the parameters `host`, `port`, `dbname`, `user` and `password`.
///
/// # Errors
/// Says what is wrong, without quoting the URL.
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    let rest = text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
        .ok_or("a server address must begin with \"postgres://\"")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.contains(['/', '@', ':']) {
        let why = "a \"/\", \"@\" or \":\" in a user, password or database name must be written %2F, %40 or %3A";
        return Err(why.into());
    }
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, authority),
    };
    let mut draft = Draft { dbname: filled(decode(path)?), ..Draft::default() };
    if let Some(login) = login {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        draft.user = filled(decode(user)?);
        draft.password = filled(decode(password)?);
    }
    let (host, port) = split_port(place)?;
    draft.host = filled(decode(host)?);
    draft.port = port.map(parse_port).transpose()?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        draft.parameter(pair)?;
    }
    draft.finish()
}

/// The port that Patroni's REST interface has by default.
const PATRONI_PORT: u16 = 8008;

/// Reads `http://host[:port]`, where Patroni answers.
///
/// # Errors
/// Says what is wrong, without quoting the text.
pub(super) fn parse_patroni(text: &str) -> Result<HttpAddress, String> {
    let why = "an address of Patroni must be \"http://host:port\"";
    let Some(place) = text.strip_prefix("http://") else {
        let tls = if text.starts_with("https://") { "; its REST interface is asked without TLS only" } else { "" };
        return Err(format!("{why}{tls}"));
    };
    let place = place.strip_suffix('/').unwrap_or(place);
    if place.contains(['/', '?', '#', '@']) {
        return Err(format!("{why}, without a path or a user: the page /cluster is asked"));
    }
    let (host, port) = split_port(place)?;
    if !is_host(host) {
        return Err(format!("{why}, with a host name or an IP address"));
    }
    Ok(HttpAddress { host: host.to_owned(), port: port.map_or(Ok(PATRONI_PORT), parse_port)? })
}

/// A URL half read.
#[derive(Default)]
struct Draft {
    host: Option<String>,
    port: Option<u16>,
    dbname: Option<String>,
    user: Option<String>,
    password: Option<String>,
}

impl Draft {
    fn parameter(&mut self, pair: &str) -> Result<(), String> {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value)?;
        let slot = match key {
            "host" => &mut self.host,
            "dbname" => &mut self.dbname,
            "user" => &mut self.user,
            "password" => &mut self.password,
            "port" => {
                self.port = Some(parse_port(&value)?);
                return Ok(());
            }
            _ if key.starts_with("ssl") => {
                return Err(
                    "TLS with servers is said by server_tls_sslmode and the like in [pgweir], not by an address".into(),
                );
            }
            _ => return Err("a server address takes the parameters host, port, dbname, user and password only".into()),
        };
        *slot = filled(value);
        Ok(())
    }

    fn finish(self) -> Result<Url, String> {
        let host = self.host.ok_or("the server address has no host")?;
        Ok(Url {
            host: parse_host(&host).map_err(|wrong| wrong.without_text())?,
            port: self.port.unwrap_or(DEFAULT_PORT),
            dbname: self.dbname,
            user: self.user,
            password: self.password,
        })
    }
}

/// Why a text is not a host.
pub(super) struct NotAHost {
    text: String,
    why: &'static str,
}

impl NotAHost {
    /// The message with the text, unless that looks like an address, which may hold a password; `where_else` one belongs is said then.
    pub(super) fn with_text(&self, where_else: &str) -> String {
        if self.text.contains(['@', '=', '/']) {
            return format!("must be {}{where_else}", self.why);
        }
        format!("= {:?} is not {}", self.text, self.why)
    }

    fn without_text(&self) -> String {
        format!("the host of the server address is not {}", self.why)
    }
}

/// Reads a host as [`parse_host`] does, or several, separated by commas.
pub(super) fn parse_hosts(text: &str) -> Result<Host, NotAHost> {
    let hosts: Vec<&str> = text.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
    match hosts.as_slice() {
        [] | [_] => parse_host(hosts.first().copied().unwrap_or_default()),
        several => Ok(Host::Several(several.iter().map(|host| parse_host(host)).collect::<Result<_, _>>()?)),
    }
}

/// Reads a host: a name, an address (IPv6 without brackets) or the directory of a unix socket; one that begins with `@` is a name in
/// the abstract namespace. With a colon in it that may be the rest of an address, behind a password.
pub(super) fn parse_host(text: &str) -> Result<Host, NotAHost> {
    let is_abstract = text.len() > 1 && text.starts_with('@') && !text.contains([':', ',']);
    if text.starts_with('/') || is_abstract {
        return Ok(Host::Unix(PathBuf::from(text)));
    }
    if text.contains(',') {
        let why = "one host; write further servers as primary and replicas";
        return Err(NotAHost { text: text.to_owned(), why });
    }
    if is_host(text) {
        return Ok(Host::Tcp(text.to_owned()));
    }
    Err(NotAHost { text: text.to_owned(), why: "a host name, an IP address or the directory of a unix socket" })
}

/// Whether a text is an IP address or can be a host name.
pub(super) fn is_host(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    // A name whose last label is a number is a mistyped address: "10.0.0.256".
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && !numeric && name.split('.').all(label)
}

/// Splits `host:port`, `[ipv6]:port`, `host` and nothing at all.
fn split_port(place: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the server address has a \"[\" without a \"]\"")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("only a port may follow the \"]\" of a server address".into()),
        };
    }
    if place.matches(':').count() > 1 && !place.contains(',') {
        return Err("an IPv6 address must stand in brackets in a server address: postgres://[::1]:5432/name".into());
    }
    if place.contains(',') {
        return Err("a server address takes one host; write further servers as primary and replicas".into());
    }
    Ok(place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))))
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err("the port of the server address is not a number from 1 to 65535".into()),
    }
}

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Undoes percent encoding.
pub(crate) fn decode(text: &str) -> Result<String, String> {
    let wrong = || "a \"%\" of the address is not followed by two hexadecimal digits".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        bytes.push(high << 4 | low);
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err("the address holds bytes that are not UTF-8 text".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp(name: &str) -> Host {
        Host::Tcp(name.to_owned())
    }

    fn read(text: &str) -> (Host, u16, Option<String>, Option<String>, Option<String>) {
        let url = parse_url(text).map_err(|e| panic!("{text}: {e}")).unwrap();
        (url.host, url.port, url.dbname, url.user, url.password)
    }

    #[test]
    fn urls_are_read() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(read("postgres://10.0.0.1:5433/app"), (tcp("10.0.0.1"), 5433, some("app"), None, None));
        assert_eq!(read("postgresql://db.example.com"), (tcp("db.example.com"), 5432, None, None, None));
        assert_eq!(read("postgres://[::1]:6000/a"), (tcp("::1"), 6000, some("a"), None, None));
        assert_eq!(read("postgres://[fe80::2]"), (tcp("fe80::2"), 5432, None, None, None));
        assert_eq!(
            read("postgres:///app?host=/var/run/postgresql"),
            (Host::Unix("/var/run/postgresql".into()), 5432, some("app"), None, None)
        );
        assert_eq!(read("postgres://%40pg%2Fx/app"), (Host::Unix("@pg/x".into()), 5432, some("app"), None, None));
        assert_eq!(read("postgres://%2Ftmp:5/app"), (Host::Unix("/tmp".into()), 5, some("app"), None, None));
        assert_eq!(
            read("postgres://u%40x:p%2Fa%3A@h/d%20b?port=7"),
            (tcp("h"), 7, some("d b"), some("u@x"), some("p/a:"))
        );
        assert_eq!(read("postgres://u:p@x@h/d").4, some("p@x"));
    }

    #[test]
    fn bad_urls_are_refused() {
        for (text, expected) in [
            ("10.0.0.1:5432/app", "must begin with \"postgres://\""),
            ("mysql://h/d", "must begin with \"postgres://\""),
            ("postgres:///app", "has no host"),
            ("postgres://h:0/d", "is not a number from 1 to 65535"),
            ("postgres://h:99999/d", "is not a number from 1 to 65535"),
            ("postgres://h:/d", "is not a number from 1 to 65535"),
            ("postgres://h:+1/d", "is not a number from 1 to 65535"),
            ("postgres://::1/d", "must stand in brackets"),
            ("postgres://[::1/d", "without a \"]\""),
            ("postgres://[::1]x/d", "only a port may follow"),
            ("postgres://a,b/d", "takes one host"),
            ("postgres://300.1.1.1/d", "is not a host name, an IP address"),
            ("postgres://a b/d", "is not a host name, an IP address"),
            ("postgres://h/d?sslmode=require", "TLS with servers is said by server_tls_sslmode"),
            ("postgres://h/d?sllmode=require", "takes the parameters host, port"),
            ("postgres://h/%zz", "two hexadecimal digits"),
            ("postgres://h/%ff", "not UTF-8"),
            ("postgres://h/a/b", "must be written %2F"),
        ] {
            let error = parse_url(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_error_quotes_the_password(
            user in "[a-z]{0,3}",
            at in "[@/:?&%]{0,2}",
            tail in "[a-z0-9@/:?&=%\\[\\],]{0,20}",
        ) {
            if let Err(error) = parse_url(&format!("postgres://{user}:{at}HUNTER2{at}@{tail}")) {
                prop_assert!(!error.contains("HUNTER2"), "{}", error);
            }
        }
    }
}
