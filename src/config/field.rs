//! One setting's value: how it is read from the file, written back to it, and shown on the console.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::{Node, expected};
use super::tls::{Curve, Protocols, SslMode, Suite};
use super::units::{format_duration, format_seconds, format_size, parse_duration, parse_size};
use super::{
    AuthType, Consistency, Facility, Fallback, Host, LanguageState, LoadBalance, LogFormat, OnSessionState, PoolMode,
    ReadBalance, SequenceValues, address, tls,
};
use crate::shard::map::CrossShardWrites;
use crate::sql::facts::RouteHint;

/// The place where a setting's value lives, with the rules for it.
pub(super) enum Field<'a> {
    /// Any text.
    Text(&'a mut String),
    /// Text that may be absent; written as an empty string.
    Name(&'a mut Option<String>),
    /// As `Name`, never shown and never quoted in a message.
    Secret(&'a mut Option<String>),
    /// The same, where an empty string is none.
    SecretText(&'a mut Option<String>),
    /// Names, as a list or separated by commas.
    Names(&'a mut Vec<String>),
    /// Addresses to listen on, as a list or separated by commas.
    Listen(&'a mut Vec<String>),
    /// A file or directory; an empty string is none.
    Path(&'a mut Option<PathBuf>),
    /// A file that must have a name.
    File(&'a mut PathBuf),
    /// `ADDRESS:PORT`; an empty string is none.
    Socket(&'a mut Option<SocketAddr>),
    /// A host, or several.
    Host(&'a mut Host),
    /// A whole number of 16 bits, with the least and the greatest.
    Small(&'a mut u16, u16, u16),
    /// A whole number, with the least and the greatest.
    Count(&'a mut u32, u32, u32),
    /// A whole number that overrides a default.
    CountOver(&'a mut Option<u32>, u32, u32),
    /// Mode bits, in octal.
    Mode(&'a mut u32),
    /// Yes or no.
    Flag(&'a mut bool),
    /// A duration.
    Time(&'a mut Duration),
    /// A duration that overrides a default.
    TimeOver(&'a mut Option<Duration>),
    /// A duration that is not zero.
    TimeAbove(&'a mut Duration),
    /// A duration, with the least.
    TimeFrom(&'a mut Duration, Duration),
    /// A size in bytes, with the least and the greatest.
    Size(&'a mut u32, u32, u32),
    /// A tracing filter.
    Filter(&'a mut String),
    /// When servers go back to the pool.
    Pool(&'a mut PoolMode),
    /// The same, overriding a default.
    PoolOver(&'a mut Option<PoolMode>),
    /// Which of several hosts is taken.
    Balance(&'a mut LoadBalance),
    /// How clients authenticate.
    Auth(&'a mut AuthType),
    /// The part of the system that messages to syslog are said to be of.
    Facility(&'a mut Facility),
    /// The form of the log.
    Log(&'a mut LogFormat),
    /// Where statements go.
    Route(&'a mut RouteHint),
    /// The same, overriding a default.
    RouteOver(&'a mut Option<RouteHint>),
    /// Which writes a replica must have.
    Consistency(&'a mut Consistency),
    /// `cross_shard_writes`.
    CrossShard(&'a mut CrossShardWrites),
    /// What a read gets that no replica is fit for.
    Fallback(&'a mut Fallback),
    /// What becomes of state that only a server has.
    State(&'a mut OnSessionState),
    /// [`SequenceValues`].
    Sequences(&'a mut SequenceValues),
    /// [`LanguageState`].
    Languages(&'a mut LanguageState),
    /// Which replica gets a read.
    Reads(&'a mut ReadBalance),
    /// When TLS is spoken.
    Ssl(&'a mut SslMode),
    /// Versions of TLS.
    Protocols(&'a mut Protocols),
    /// Cipher suites.
    Ciphers(&'a mut Vec<&'static Suite>),
    /// Cipher suites of TLS 1.3.
    Ciphers13(&'a mut Vec<&'static Suite>),
    /// Curves.
    Curves(&'a mut Vec<&'static Curve>),
}

const POOL_MODES: [(&str, PoolMode); 3] = [
    (PoolMode::Session.as_str(), PoolMode::Session),
    (PoolMode::Transaction.as_str(), PoolMode::Transaction),
    (PoolMode::Statement.as_str(), PoolMode::Statement),
];
const BALANCES: [(&str, LoadBalance); 2] = [
    (LoadBalance::RoundRobin.as_str(), LoadBalance::RoundRobin),
    (LoadBalance::Disable.as_str(), LoadBalance::Disable),
];
const AUTH_TYPES: [(&str, AuthType); 9] = [
    ("trust", AuthType::Trust),
    ("any", AuthType::Any),
    ("plain", AuthType::Plain),
    ("md5", AuthType::Md5),
    ("scram-sha-256", AuthType::ScramSha256),
    ("cert", AuthType::Cert),
    ("hba", AuthType::Hba),
    ("ldap", AuthType::Ldap),
    ("pam", AuthType::Pam),
];
const FACILITIES: [(&str, Facility); 19] = [
    ("daemon", Facility::Daemon),
    ("user", Facility::User),
    ("auth", Facility::Auth),
    ("authpriv", Facility::AuthPriv),
    ("mail", Facility::Mail),
    ("syslog", Facility::Syslog),
    ("lpr", Facility::Lpr),
    ("news", Facility::News),
    ("uucp", Facility::Uucp),
    ("cron", Facility::Cron),
    ("ftp", Facility::Ftp),
    ("local0", Facility::Local0),
    ("local1", Facility::Local1),
    ("local2", Facility::Local2),
    ("local3", Facility::Local3),
    ("local4", Facility::Local4),
    ("local5", Facility::Local5),
    ("local6", Facility::Local6),
    ("local7", Facility::Local7),
];
const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
const ROUTES: [(&str, RouteHint); 3] =
    [("auto", RouteHint::Auto), ("primary", RouteHint::Primary), ("replica", RouteHint::Replica)];
const READ_BALANCES: [(&str, ReadBalance); 4] = [
    (ReadBalance::WeightedRandom.as_str(), ReadBalance::WeightedRandom),
    (ReadBalance::LeastInflight.as_str(), ReadBalance::LeastInflight),
    (ReadBalance::PeakEwma.as_str(), ReadBalance::PeakEwma),
    (ReadBalance::RoundRobin.as_str(), ReadBalance::RoundRobin),
];
const CONSISTENCIES: [(&str, Consistency); 3] = [
    (Consistency::Session.as_str(), Consistency::Session),
    (Consistency::Eventual.as_str(), Consistency::Eventual),
    (Consistency::Strong.as_str(), Consistency::Strong),
];
const CROSS_SHARD_WRITES: [(&str, CrossShardWrites); 3] = [
    (CrossShardWrites::Refuse.as_str(), CrossShardWrites::Refuse),
    (CrossShardWrites::BestEffort.as_str(), CrossShardWrites::BestEffort),
    (CrossShardWrites::TwoPhase.as_str(), CrossShardWrites::TwoPhase),
];
const FALLBACKS: [(&str, Fallback); 2] =
    [(Fallback::Primary.as_str(), Fallback::Primary), (Fallback::Error.as_str(), Fallback::Error)];
const ON_STATE: [(&str, OnSessionState); 2] =
    [(OnSessionState::Pin.as_str(), OnSessionState::Pin), (OnSessionState::Error.as_str(), OnSessionState::Error)];
const SEQUENCES: [(&str, SequenceValues); 3] = [
    (SequenceValues::Learn.as_str(), SequenceValues::Learn),
    (SequenceValues::Keep.as_str(), SequenceValues::Keep),
    (SequenceValues::Release.as_str(), SequenceValues::Release),
];
const LANGUAGES: [(&str, LanguageState); 2] =
    [(LanguageState::Close.as_str(), LanguageState::Close), (LanguageState::Reset.as_str(), LanguageState::Reset)];
const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Field<'_> {
    /// Reads a value into the place; leaves it alone on an error.
    ///
    /// # Errors
    /// What is wrong with the value, as a phrase that follows the setting's name.
    pub(super) fn set(self, node: &Node) -> Result<(), String> {
        match self {
            Self::Text(place) => *place = string(node)?.to_owned(),
            Self::Name(place) => *place = filled(string(node)?),
            Self::Secret(place) => {
                let secret = string(node)?;
                if secret.is_empty() {
                    return Err("is empty".into());
                }
                *place = Some(secret.to_owned());
            }
            Self::SecretText(place) => *place = filled(string(node)?),
            Self::Names(place) => *place = names(node)?,
            Self::Listen(place) => *place = listen(node)?,
            Self::Path(place) => *place = filled(string(node)?).map(PathBuf::from),
            Self::File(place) => *place = filled(string(node)?).map(PathBuf::from).ok_or("is empty")?,
            Self::Socket(place) => *place = socket(string(node)?)?,
            Self::Host(place) => *place = address::parse_hosts(string(node)?).map_err(|wrong| wrong.with_text(""))?,
            Self::Small(place, least, most) => *place = number(node, least.into(), most.into())?,
            Self::Count(place, least, most) => *place = number(node, least.into(), most.into())?,
            Self::CountOver(place, least, most) => *place = Some(number(node, least.into(), most.into())?),
            Self::Mode(place) => *place = mode(node)?,
            Self::Flag(place) => *place = flag(node)?,
            Self::Time(place) => *place = parse_duration(plain(node)?).map_err(phrase)?,
            Self::TimeOver(place) => *place = Some(parse_duration(plain(node)?).map_err(phrase)?),
            Self::TimeAbove(place) => {
                let time = parse_duration(plain(node)?).map_err(phrase)?;
                if time.is_zero() {
                    return Err("must be more than zero".into());
                }
                *place = time;
            }
            Self::TimeFrom(place, least) => {
                let time = parse_duration(plain(node)?).map_err(phrase)?;
                if time < least {
                    return Err(format!("must be {} at least", format_duration(least)));
                }
                *place = time;
            }
            Self::Size(place, least, most) => *place = size(node, least, most)?,
            Self::Filter(place) => *place = filter(string(node)?)?,
            Self::Pool(place) => *place = word(node, &POOL_MODES)?,
            Self::PoolOver(place) => *place = Some(word(node, &POOL_MODES)?),
            Self::Balance(place) => *place = word(node, &BALANCES)?,
            Self::Auth(place) => *place = word(node, &AUTH_TYPES)?,
            Self::Facility(place) => *place = word(node, &FACILITIES)?,
            Self::Log(place) => *place = word(node, &LOG_FORMATS)?,
            Self::Route(place) => *place = word(node, &ROUTES)?,
            Self::RouteOver(place) => *place = Some(word(node, &ROUTES)?),
            Self::Consistency(place) => *place = word(node, &CONSISTENCIES)?,
            Self::CrossShard(place) => *place = word(node, &CROSS_SHARD_WRITES)?,
            Self::Fallback(place) => *place = word(node, &FALLBACKS)?,
            Self::Reads(place) => *place = word(node, &READ_BALANCES)?,
            Self::State(place) => *place = word(node, &ON_STATE)?,
            Self::Sequences(place) => *place = word(node, &SEQUENCES)?,
            Self::Languages(place) => *place = word(node, &LANGUAGES)?,
            Self::Ssl(place) => *place = word(node, &tls::SSL_MODES)?,
            Self::Protocols(place) => *place = tls::protocols(&names(node)?.join(","))?,
            Self::Ciphers(place) => *place = tls::ciphers(&names(node)?.join(","))?,
            Self::Ciphers13(place) => *place = tls::ciphers13(&names(node)?.join(","))?,
            Self::Curves(place) => *place = tls::curves(&names(node)?.join(","))?,
        }
        Ok(())
    }

    /// The value as PgBouncer's SHOW CONFIG writes it: seconds, bytes, 0 and 1.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Time(time) | Self::TimeAbove(time) | Self::TimeFrom(time, _) => format_seconds(**time),
            Self::Size(bytes, ..) => bytes.to_string(),
            Self::Flag(flag) => u8::from(**flag).to_string(),
            _ => self.plain_text(),
        }
    }

    /// The value as the file writes it.
    pub(super) fn write(&self) -> String {
        match self {
            Self::Small(..) | Self::Count(..) | Self::CountOver(..) => self.plain_text(),
            Self::Flag(flag) => flag.to_string(),
            Self::Names(names) | Self::Listen(names) if names.len() != 1 => {
                let quoted: Vec<String> = names.iter().map(|name| toml_string(name)).collect();
                format!("[{}]", quoted.join(", "))
            }
            _ => toml_string(&self.plain_text()),
        }
    }

    /// The same, a secret in clear.
    pub(super) fn export(&self) -> String {
        match self {
            Self::Secret(secret) | Self::SecretText(secret) => toml_string(secret.as_deref().unwrap_or_default()),
            _ => self.write(),
        }
    }

    fn plain_text(&self) -> String {
        match self {
            Self::Text(text) | Self::Filter(text) => (*text).clone(),
            Self::Name(name) => name.as_deref().unwrap_or_default().to_owned(),
            Self::Secret(secret) | Self::SecretText(secret) => secret.as_ref().map_or("", |_| "********").to_owned(),
            Self::Names(names) | Self::Listen(names) => names.join(", "),
            Self::Path(path) => path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            Self::File(path) => path.display().to_string(),
            Self::Socket(socket) => socket.map(|socket| socket.to_string()).unwrap_or_default(),
            Self::Host(host) => host.to_string(),
            Self::Small(number, ..) => number.to_string(),
            Self::Count(number, ..) => number.to_string(),
            Self::CountOver(number, ..) => number.map(|number| number.to_string()).unwrap_or_default(),
            Self::Mode(bits) => format!("{bits:04o}"),
            Self::Flag(flag) => flag.to_string(),
            Self::Time(time) | Self::TimeAbove(time) | Self::TimeFrom(time, _) => format_duration(**time),
            Self::TimeOver(time) => time.map(format_duration).unwrap_or_default(),
            Self::Size(bytes, ..) => format_size((**bytes).into()),
            Self::Pool(mode) => name_of(**mode, &POOL_MODES),
            Self::PoolOver(mode) => mode.map(|mode| name_of(mode, &POOL_MODES)).unwrap_or_default(),
            Self::Balance(balance) => name_of(**balance, &BALANCES),
            Self::Auth(auth) => name_of(**auth, &AUTH_TYPES),
            Self::Facility(facility) => name_of(**facility, &FACILITIES),
            Self::Log(format) => name_of(**format, &LOG_FORMATS),
            Self::Route(route) => name_of(**route, &ROUTES),
            Self::RouteOver(route) => route.map(|route| name_of(route, &ROUTES)).unwrap_or_default(),
            Self::Consistency(level) => name_of(**level, &CONSISTENCIES),
            Self::CrossShard(writes) => name_of(**writes, &CROSS_SHARD_WRITES),
            Self::Fallback(what) => name_of(**what, &FALLBACKS),
            Self::Reads(balance) => name_of(**balance, &READ_BALANCES),
            Self::State(state) => name_of(**state, &ON_STATE),
            Self::Sequences(values) => name_of(**values, &SEQUENCES),
            Self::Languages(state) => name_of(**state, &LANGUAGES),
            Self::Ssl(mode) => mode.as_str().to_owned(),
            Self::Protocols(protocols) => protocols.as_str().to_owned(),
            Self::Ciphers13(ciphers) if ciphers.is_empty() => String::new(),
            Self::Ciphers(ciphers) | Self::Ciphers13(ciphers) => tls::ciphers_text(ciphers),
            Self::Curves(curves) => tls::curves_text(curves),
        }
    }
}

fn name_of<T: PartialEq>(value: T, words: &[(&str, T)]) -> String {
    words.iter().find(|(_, other)| *other == value).map(|(name, _)| (*name).to_owned()).unwrap_or_default()
}

/// A string in TOML's double quotes.
fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The messages of `units` begin with the text; after a setting's name they need no more.
fn phrase(message: String) -> String {
    format!("= {message}")
}

fn string(node: &Node) -> Result<&str, String> {
    match node {
        Node::Text(text) if text.contains('\0') => Err("must not contain a zero byte".into()),
        Node::Text(text) => Ok(text),
        other => Err(format!("must be a string, not {}", other.kind())),
    }
}

/// A string or a number, as text.
fn plain(node: &Node) -> Result<&str, String> {
    match node {
        Node::Text(text) | Node::Number(text) => Ok(text),
        other => Err(format!("must be a number or a string, not {}", other.kind())),
    }
}

fn number<T: TryFrom<u64>>(node: &Node, least: u64, most: u64) -> Result<T, String> {
    let text = plain(node)?;
    let found = text.trim().parse::<u64>().ok().filter(|n| (least..=most).contains(n));
    found
        .and_then(|n| T::try_from(n).ok())
        .ok_or_else(|| format!("= {text:?} is not a whole number from {least} to {most}"))
}

fn size(node: &Node, least: u32, most: u32) -> Result<u32, String> {
    let text = plain(node)?;
    let bytes = parse_size(text).map_err(phrase)?;
    u32::try_from(bytes).ok().filter(|bytes| (least..=most).contains(bytes)).ok_or_else(|| {
        format!("= {text:?} is not between {} and {}", format_size(least.into()), format_size(most.into()))
    })
}

fn mode(node: &Node) -> Result<u32, String> {
    let wrong = || "must be a string of octal digits, like \"0777\"".to_owned();
    let Node::Text(text) = node else { return Err(wrong()) };
    let digits = text.trim();
    u32::from_str_radix(digits, 8).ok().filter(|bits| *bits <= 0o777 && !digits.starts_with('+')).ok_or_else(wrong)
}

fn flag(node: &Node) -> Result<bool, String> {
    let text = match node {
        Node::Bool(flag) => return Ok(*flag),
        Node::Text(text) | Node::Number(text) => text.as_str(),
        other => return Err(format!("must be true or false, not {}", other.kind())),
    };
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(no_boolean(text)),
    }
}

/// The words of a boolean.
const BOOLEANS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "1", "0"];

/// What is wrong with a text that is none.
pub(super) fn no_boolean(text: &str) -> String {
    format!("= {text:?} is not a boolean{}", expected(text, BOOLEANS))
}

fn word<T: Copy>(node: &Node, words: &[(&str, T)]) -> Result<T, String> {
    let text = string(node)?;
    words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names = words.iter().map(|(name, _)| *name);
        format!("= {text:?} is not known{}", expected(text, names))
    })
}

/// A list of strings, or one string whose parts are separated by commas.
fn names(node: &Node) -> Result<Vec<String>, String> {
    match node {
        Node::Text(_) => {
            let parts = string(node)?.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(parts.map(str::to_owned).collect())
        }
        Node::List(items) => items
            .iter()
            .map(|item| match string(&item.node) {
                Ok(text) if text.trim().is_empty() => Err("has an empty item".to_owned()),
                Ok(text) => Ok(text.to_owned()),
                Err(why) => Err(format!("has an item that {why}")),
            })
            .collect(),
        other => Err(format!("must be a string or a list of strings, not {}", other.kind())),
    }
}

fn listen(node: &Node) -> Result<Vec<String>, String> {
    let found = names(node)?;
    match found.iter().find(|text| text.as_str() != "*" && !address::is_host(text)) {
        None => Ok(found),
        Some(wrong) => Err(format!("= {wrong:?} is not an IP address, a host name or \"*\" (the port is listen_port)")),
    }
}

fn socket(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("= {text:?} is not ADDRESS:PORT, like \"127.0.0.1:9127\"");
    text.parse().map(Some).map_err(|_| wrong())
}

/// A bare word that is no level would be taken by the filter for the name of a module, so it is looked at first.
fn filter(text: &str) -> Result<String, String> {
    let wrong = |text: &str| format!("= {text:?} is not a log level{}", expected(text, LOG_LEVELS));
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
        if !LOG_LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(wrong(level));
        }
    }
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(wrong(text)),
    }
}
