//! Console commands: PgBouncer's, ours beside them, and what drivers say before anyone types.
//!
//! Keywords are case-insensitive, comments and a closing semicolon are allowed, names of databases are taken as they are
//! written (PgBouncer does not fold them). See <https://www.pgbouncer.org/usage.html#admin-console>.

use super::lex::{Token, tokens};
use crate::error::{Error, Result, SqlState};

/// A console command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Nothing but white space and comments: answered by EmptyQueryResponse.
    Empty,
    /// What drivers send by habit and what means nothing here (`SET extra_float_digits = 3`, BEGIN): done, with its tag.
    NoOp {
        /// The command tag.
        tag: &'static str,
    },
    /// SHOW what, or SELECT what.
    Show(Show),
    /// SHOW of a setting of PostgreSQL's.
    ShowParameter(Parameter),
    /// `SHOW SLOT FOR [database] 'table' 'key' ...`.
    ShowSlot {
        /// The table, as it is listed: with its schema unless that is `public`.
        table: String,
        /// The values of the key's columns, as texts.
        values: Vec<String>,
        /// The database; see [`super::explain::database`].
        database: Option<String>,
    },
    /// `EXPLAIN ROUTE [[FOR] database] 'sql'`.
    ExplainRoute {
        /// The statement.
        sql: String,
        /// The database; see [`super::explain::database`].
        database: Option<String>,
    },
    /// RELOAD.
    Reload,
    /// `PAUSE [db]`.
    Pause(Option<String>),
    /// `RESUME [db]`.
    Resume(Option<String>),
    /// SHUTDOWN.
    Shutdown(ShutdownMode),
    /// DISABLE db.
    Disable(String),
    /// ENABLE db.
    Enable(String),
    /// `RECONNECT [db]`.
    Reconnect(Option<String>),
    /// `KILL [db]`.
    Kill(Option<String>),
    /// KILL_CLIENT id.
    KillClient(u64),
    /// SUSPEND.
    Suspend,
    /// `WAIT_CLOSE [db]`.
    WaitClose(Option<String>),
    /// SET key = value, of one of our settings.
    Set {
        /// The setting, lower case.
        key: String,
        /// Its value.
        value: String,
    },
}

/// How SHUTDOWN treats those who are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShutdownMode {
    /// Everyone is disconnected at once.
    Immediate,
    /// New clients are refused; each client is disconnected when its server is released.
    WaitForServers,
    /// New clients are refused; the last client to go ends the process.
    WaitForClients,
}

/// A setting of PostgreSQL's that drivers ask for, and what the console says of it, which has none: PgBouncer's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: &'static str,
}

const PARAMETERS: &[Parameter] = &[
    Parameter { name: "client_encoding", value: "UTF-8" },
    Parameter { name: "default_transaction_isolation", value: "read committed" },
    Parameter { name: "standard_conforming_strings", value: "on" },
    Parameter { name: "datestyle", value: "ISO" },
    Parameter { name: "timezone", value: "GMT" },
    Parameter { name: "extra_float_digits", value: "2" },
];

macro_rules! shows {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What SHOW can show.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Show {
            $($(#[$doc])* $variant,)*
        }

        impl Show {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word after SHOW, in upper case.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

shows! {
    /// The commands, as a notice.
    Help = "HELP",
    /// The settings.
    Config = "CONFIG",
    /// The configured databases.
    Databases = "DATABASES",
    /// Connections per database and user.
    Pools = "POOLS",
    /// Every client.
    Clients = "CLIENTS",
    /// Every server connection.
    Servers = "SERVERS",
    /// Every connection, with its buffers.
    Sockets = "SOCKETS",
    /// The connections that are in use, with their buffers.
    ActiveSockets = "ACTIVE_SOCKETS",
    /// How many there are of what.
    Lists = "LISTS",
    /// The known users.
    Users = "USERS",
    /// The version.
    Version = "VERSION",
    /// Whether the process is active, paused or suspended.
    State = "STATE",
    /// Totals and averages per database.
    Stats = "STATS",
    /// Totals per database.
    StatsTotals = "STATS_TOTALS",
    /// Averages per database.
    StatsAverages = "STATS_AVERAGES",
    /// Totals and averages over all.
    Totals = "TOTALS",
    /// Servers, their weight, lag and health.
    Replicas = "REPLICAS",
    /// Shards, their slots and traffic.
    Shards = "SHARDS",
    /// Tables of sharded databases, and where they are.
    Tables = "TABLES",
    /// Sessions that had to keep their server.
    Pins = "PINS",
    /// Shared prepared statements.
    Prepared = "PREPARED",
    /// Queries under way.
    Queries = "QUERIES",
    /// Memory.
    Mem = "MEM",
    /// The resolver's names.
    DnsHosts = "DNS_HOSTS",
    /// The resolver's zones.
    DnsZones = "DNS_ZONES",
    /// File descriptors.
    Fds = "FDS",
    /// The processes that carry out each other's cancel requests.
    Peers = "PEERS",
    /// Cancel requests on their way to them.
    PeerPools = "PEER_POOLS",
}

/// The commands besides SHOW, as an error proposes them.
const VERBS: &[&str] = &[
    "SHOW",
    "SELECT",
    "EXPLAIN",
    "RELOAD",
    "PAUSE",
    "RESUME",
    "SHUTDOWN",
    "DISABLE",
    "ENABLE",
    "RECONNECT",
    "KILL",
    "KILL_CLIENT",
    "SUSPEND",
    "WAIT_CLOSE",
    "SET",
];

/// PostgreSQL's settings that drivers and psql set on every connection. They concern the results of queries, of which the
/// console has none.
const CLIENT_SETTINGS: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "names",
    "search_path",
    "session",
    "standard_conforming_strings",
    "statement_timeout",
    "time",
    "timezone",
    "transaction",
    "transaction_timeout",
];

impl Command {
    /// Reads one command.
    ///
    /// # Errors
    /// 42601 for what is no command, with the nearest one and a hint.
    pub fn parse(text: &str) -> Result<Self> {
        let mut tokens = tokens(text)?;
        while tokens.last() == Some(&Token::Symbol(';')) {
            tokens.pop();
        }
        if tokens.contains(&Token::Symbol(';')) {
            return Err(syntax("the console takes one command at a time".to_owned()));
        }
        let Some((first, arguments)) = tokens.split_first() else { return Ok(Self::Empty) };
        let Some(verb) = first.keyword() else { return Err(unknown(text, "")) };
        command(&verb, Arguments(arguments)).unwrap_or_else(|| Err(unknown(text, &verb)))
    }

    /// The tag of its CommandComplete.
    #[must_use]
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Empty => "",
            Self::NoOp { tag } => tag,
            Self::Show(_) | Self::ShowParameter(_) | Self::ShowSlot { .. } => "SHOW",
            Self::ExplainRoute { .. } => "EXPLAIN",
            Self::Reload => "RELOAD",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Reconnect(_) => "RECONNECT",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::Suspend => "SUSPEND",
            Self::WaitClose(_) => "WAIT_CLOSE",
            Self::Set { .. } => "SET",
        }
    }

    /// The command and what it is about, for the log. Values of settings may be secrets and are left out.
    #[must_use]
    pub fn summary(&self) -> String {
        let about = match self {
            Self::Pause(name)
            | Self::Resume(name)
            | Self::Reconnect(name)
            | Self::Kill(name)
            | Self::WaitClose(name) => name.clone(),
            Self::Disable(name) | Self::Enable(name) => Some(name.clone()),
            Self::KillClient(id) => Some(id.to_string()),
            Self::Set { key, .. } => Some(key.clone()),
            Self::Shutdown(mode) => match mode {
                ShutdownMode::Immediate => None,
                ShutdownMode::WaitForServers => Some("WAIT_FOR_SERVERS".to_owned()),
                ShutdownMode::WaitForClients => Some("WAIT_FOR_CLIENTS".to_owned()),
            },
            Self::Empty
            | Self::NoOp { .. }
            | Self::Show(_)
            | Self::ShowParameter(_)
            | Self::ShowSlot { .. }
            | Self::ExplainRoute { .. }
            | Self::Reload
            | Self::Suspend => None,
        };
        about.map_or_else(|| self.tag().to_owned(), |about| format!("{} {about}", self.tag()))
    }
}

const HELP_HINT: &str = "SHOW HELP lists the commands.";

/// What follows the verb.
#[derive(Clone, Copy)]
struct Arguments<'a>(&'a [Token]);

impl Arguments<'_> {
    /// The command, if nothing follows.
    fn none(self, command: Command) -> Option<Command> {
        self.0.is_empty().then_some(command)
    }

    /// The one name that follows.
    fn name(self) -> Option<String> {
        match self.0 {
            [Token::Word(name) | Token::Name(name) | Token::Text(name)] => Some(name.clone()),
            _ => None,
        }
    }

    /// The one name that may follow; none if what follows is something else.
    fn optional_name(self) -> Option<Option<String>> {
        if self.0.is_empty() { Some(None) } else { self.name().map(Some) }
    }

    /// The arguments as lower-case words; none if one of them is something else.
    fn words(self) -> Option<Vec<String>> {
        self.0.iter().map(Token::keyword).collect()
    }
}

/// The command of a verb; none if there is no such command, or not with these arguments.
fn command(verb: &str, arguments: Arguments<'_>) -> Option<Result<Command>> {
    let command = match verb {
        "show" => return show_slot(arguments).or_else(|| show(arguments).map(Ok)),
        "select" => select(arguments),
        "explain" => return explain(arguments),
        "reload" => arguments.none(Command::Reload),
        "pause" => arguments.optional_name().map(Command::Pause),
        "resume" => arguments.optional_name().map(Command::Resume),
        "shutdown" => shutdown(arguments),
        "disable" => arguments.name().map(Command::Disable),
        "enable" => arguments.name().map(Command::Enable),
        "reconnect" => arguments.optional_name().map(Command::Reconnect),
        "kill" => arguments.optional_name().map(Command::Kill),
        "kill_client" => arguments.name().and_then(|id| id.parse().ok()).map(Command::KillClient),
        "suspend" => arguments.none(Command::Suspend),
        "wait_close" => arguments.optional_name().map(Command::WaitClose),
        "set" => set(arguments),
        _ => habit(verb, arguments),
    };
    command.map(Ok)
}

fn show(arguments: Arguments<'_>) -> Option<Command> {
    // In quotes, too, where PgBouncer has no more regard for the case.
    let [Token::Word(what) | Token::Name(what)] = arguments.0 else { return None };
    let parameter = || PARAMETERS.iter().find(|parameter| parameter.name.eq_ignore_ascii_case(what));
    show_named(what).map(Command::Show).or_else(|| parameter().copied().map(Command::ShowParameter))
}

/// `SHOW SLOT FOR [database] 'table' 'key' ...`; none if it is not about a slot.
fn show_slot(arguments: Arguments<'_>) -> Option<Result<Command>> {
    let (first, rest) = arguments.0.split_first()?;
    if first.keyword()? != "slot" {
        return None;
    }
    let rest = match rest.split_first() {
        Some((word, rest)) if word.keyword().as_deref() == Some("for") => rest,
        _ => &[],
    };
    let (database, rest) = match rest {
        [Token::Word(name) | Token::Name(name), rest @ ..] => (Some(name.clone()), rest),
        rest => (None, rest),
    };
    let texts = rest.iter().map(|token| match token {
        Token::Text(text) => Some(text.clone()),
        Token::Word(_) | Token::Name(_) | Token::Symbol(_) => None,
    });
    let mut texts = texts.collect::<Option<Vec<String>>>().unwrap_or_default().into_iter();
    Some(match (texts.next(), texts.collect::<Vec<_>>()) {
        (Some(table), values) if !values.is_empty() => Ok(Command::ShowSlot { table, values, database }),
        _ => Err(syntax("SHOW SLOT takes a table and a key, each in single quotes".to_owned()).hint(
            "Write SHOW SLOT FOR [database] 'table' 'key', with a value for each column of the key; a number is quoted as well.",
        )),
    })
}

fn show_named(what: &str) -> Option<Show> {
    Show::ALL.iter().copied().find(|s| s.name().eq_ignore_ascii_case(what))
}

/// `SELECT pools`, and the `SELECT version()` of drivers.
fn select(arguments: Arguments<'_>) -> Option<Command> {
    if let [Token::Word(function), Token::Symbol('('), Token::Symbol(')')] = arguments.0 {
        let function = function.to_ascii_lowercase();
        return matches!(function.as_str(), "version" | "pg_catalog.version").then_some(Command::Show(Show::Version));
    }
    show(arguments)
}

fn explain(arguments: Arguments<'_>) -> Option<Result<Command>> {
    let (first, rest) = arguments.0.split_first()?;
    if first.keyword()? != "route" {
        return None;
    }
    let name = |token: &Token| match token {
        Token::Word(name) | Token::Name(name) => Some(name.clone()),
        Token::Text(_) | Token::Symbol(_) => None,
    };
    Some(match rest {
        [Token::Text(sql)] => Ok(Command::ExplainRoute { sql: sql.clone(), database: None }),
        [database, Token::Text(sql)] if name(database).is_some() => {
            Ok(Command::ExplainRoute { sql: sql.clone(), database: name(database) })
        }
        [r#for, database, Token::Text(sql)]
            if r#for.keyword().as_deref() == Some("for") && name(database).is_some() =>
        {
            Ok(Command::ExplainRoute { sql: sql.clone(), database: name(database) })
        }
        _ => Err(syntax("EXPLAIN ROUTE takes a statement in quotes".to_owned())
            .hint("Write EXPLAIN ROUTE [FOR database] 'sql', or $$sql$$ for a statement that has quotes itself.")),
    })
}

fn shutdown(arguments: Arguments<'_>) -> Option<Command> {
    let words = arguments.words()?;
    let mode = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => ShutdownMode::Immediate,
        ["wait_for_servers"] => ShutdownMode::WaitForServers,
        ["wait_for_clients"] => ShutdownMode::WaitForClients,
        _ => return None,
    };
    Some(Command::Shutdown(mode))
}

/// `SET key = value` and `SET key TO value`; whatever sets a [`CLIENT_SETTINGS`] is accepted and means nothing.
fn set(arguments: Arguments<'_>) -> Option<Command> {
    let (mut first, mut rest) = arguments.0.split_first()?;
    if matches!(first.keyword().as_deref(), Some("session" | "local")) {
        (first, rest) = rest.split_first()?;
    }
    let key = match first {
        Token::Word(key) | Token::Name(key) => key.to_ascii_lowercase(),
        Token::Text(_) | Token::Symbol(_) => return None,
    };
    if CLIENT_SETTINGS.contains(&key.as_str()) || key == "characteristics" {
        return (!rest.is_empty()).then_some(Command::NoOp { tag: "SET" });
    }
    let (sign, value) = rest.split_first()?;
    if *sign != Token::Symbol('=') && sign.keyword().as_deref() != Some("to") {
        return None;
    }
    Arguments(value).name().map(|value| Command::Set { key, value })
}

/// Transaction control and resets, which drivers and poolers send unasked. The console has neither transactions nor state.
fn habit(verb: &str, arguments: Arguments<'_>) -> Option<Command> {
    let words = arguments.words()?;
    let argument = words.first().map(String::as_str);
    let tag = match (verb, argument) {
        ("begin", _) => "BEGIN",
        ("start", Some("transaction")) => "START TRANSACTION",
        ("commit" | "end", None | Some("work" | "transaction")) => "COMMIT",
        ("rollback" | "abort", None | Some("work" | "transaction")) => "ROLLBACK",
        ("reset", Some("all")) => "RESET",
        ("reset", Some(key)) if CLIENT_SETTINGS.contains(&key) => "RESET",
        ("discard", Some("all")) => "DISCARD ALL",
        ("deallocate", Some("all")) => "DEALLOCATE ALL",
        _ => return None,
    };
    Some(Command::NoOp { tag })
}

fn syntax(message: String) -> Error {
    Error::client(SqlState::SYNTAX_ERROR, message)
}

/// The refusal of what is no command, with the nearest one. The text is repeated up to a length that fits in a line.
fn unknown(text: &str, verb: &str) -> Error {
    let shown: String = text.trim().chars().take(60).collect();
    let error = syntax(format!("not a console command: \"{shown}\""));
    match proposal(text, verb) {
        Some(proposal) => error.hint(format!("Perhaps you meant {proposal}. {HELP_HINT}")),
        None => error.hint(HELP_HINT),
    }
}

fn proposal(text: &str, verb: &str) -> Option<String> {
    let second = tokens(text).ok().and_then(|t| t.get(1).and_then(Token::keyword)).unwrap_or_default();
    let shows = || Show::ALL.iter().map(|s| s.name());
    // "POOLS" alone is nearer to SHOW POOLS than to any verb.
    if let Some(show) = shows().find(|s| s.eq_ignore_ascii_case(verb)) {
        return Some(format!("SHOW {show}"));
    }
    match nearest(verb, VERBS.iter().copied())? {
        "SHOW" | "SELECT" => nearest(&second, shows()).map(|show| format!("SHOW {show}")),
        verb => Some(usage(verb).to_owned()),
    }
}

/// The verb with its arguments.
fn usage(verb: &'static str) -> &'static str {
    match verb {
        "EXPLAIN" => "EXPLAIN ROUTE [FOR database] 'sql'",
        "PAUSE" => "PAUSE [database]",
        "RESUME" => "RESUME [database]",
        "SHUTDOWN" => "SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]",
        "DISABLE" => "DISABLE database",
        "ENABLE" => "ENABLE database",
        "RECONNECT" => "RECONNECT [database]",
        "KILL" => "KILL [database]",
        "KILL_CLIENT" => "KILL_CLIENT id",
        "WAIT_CLOSE" => "WAIT_CLOSE [database]",
        "SET" => "SET key = value",
        other => other,
    }
}

/// The candidate that is a slip of the finger away from the word: at most two, or a third of its letters.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_uppercase();
    let limit = (word.chars().count() / 3).max(2);
    // A word of one or two letters is two slips away from anything.
    let limit = limit.min(word.chars().count().saturating_sub(1));
    candidates
        .map(|c| (strsim::damerau_levenshtein(&word, &c.to_ascii_uppercase()), c))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
