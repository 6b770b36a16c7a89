//! Who a client is: it was given a process id at its login that no server has, and statements are to understand it.
//!
//! A text that speaks of process ids ([`crate::sql::pids`]) is written anew for the client that sent it, before anything is made of it: a
//! Query where it stands in the input, a prepared statement when it is bound, for then the values are known. The Parse goes on as it was.
//!
//! ```text
//!   pg_backend_pid()                     the client's own id
//!   pg_terminate_backend(a client's id)  an expression by which the server says whether it is allowed; then that client's session ends
//!   pg_stat_activity ... pid = (its id)  the process that serves the client, if one does
//! ```

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::client::database::LiveDatabase;
use crate::client::keys;
use crate::client::shared::{ClientHandle, Order};
use crate::client::task::{Client, terminated};
use crate::config::Role;
use crate::error::{Error, SqlState};
use crate::session::prepared::Statement;
use crate::session::{Intake, signals};
use crate::sql::facts::{ListenStep, QueryFacts, RouteHint, Signal, SignalKind};
use crate::sql::pids::{self, Call, PidUse, Stands, Value, What};
use crate::wire::encode;
use crate::wire::message::{self, Parse};

/// The values of a Bind, as far as they are numbers.
type Numbers<'a> = &'a dyn Fn(u16) -> Option<i64>;

/// A text as it is to be for this client.
struct Written {
    text: Vec<u8>,
    signals: Vec<Signal>,
    steps: Vec<ListenStep>,
}

/// What a place becomes.
enum Becomes {
    /// It stays as it is.
    Itself,
    /// These words.
    Words(String),
    /// These words, and a session is signalled.
    Signal(String, Signal),
}

impl Client {
    /// Makes of a message what it means for this client; `at` and `len`: where it stands in the input. The message and its length then.
    pub(super) fn identify(&mut self, intake: Intake, at: usize, len: usize) -> (Intake, usize) {
        match intake {
            Intake::Query(facts) => self.identify_query(facts, at, len),
            Intake::Bind { statement: Some(statement), named, portal } => {
                let statement = match self.identify_bind(&statement, named.is_some(), at, len) {
                    Ok(None) => statement,
                    Ok(Some(written)) => written,
                    Err(error) => return (Intake::Refuse { error: Box::new(error), simple: false }, len),
                };
                (Intake::Bind { statement: Some(statement), named, portal }, len)
            }
            intake => (intake, len),
        }
    }

    fn identify_query(&mut self, facts: Arc<QueryFacts>, at: usize, len: usize) -> (Intake, usize) {
        let frame = self.input.bytes().get(at..at.saturating_add(len)).unwrap_or_default();
        let text = message::query(frame.get(5..).unwrap_or_default()).unwrap_or_default();
        let written = match self.write(text, &facts, &|_| None) {
            Ok(Some(written)) => written,
            Ok(None) => return (Intake::Query(facts), len),
            Err(error) => return (Intake::Refuse { error: Box::new(error), simple: true }, len),
        };
        let Some(facts) = self.facts_of(&written) else { return (Intake::Query(facts), len) };
        self.will_listen(&written.steps);
        let mut frame = Vec::with_capacity(written.text.len() + 8);
        encode::query(&mut frame, &written.text);
        let came = self.input.bytes().get(at..at.saturating_add(len)).unwrap_or_default();
        self.segment.is_written_anew(frame.len(), came.into());
        self.input.replace(at, len, &frame);
        (Intake::Query(facts), frame.len())
    }

    /// The statement to bind in the place of this one.
    fn identify_bind(
        &mut self,
        statement: &Arc<Statement>,
        named: bool,
        at: usize,
        len: usize,
    ) -> Result<Option<Arc<Statement>>, Error> {
        if named && !self.session.follows() {
            // It stands on the server as it was prepared.
            return Ok(None);
        }
        let frame = self.input.bytes().get(at..at.saturating_add(len)).unwrap_or_default();
        let bind = message::bind(frame.get(5..).unwrap_or_default());
        let parameters = bind.and_then(|bind| bind.parameters()).unwrap_or_default();
        let number = |n: u16| {
            let index = usize::from(n).checked_sub(1)?;
            let format = match parameters.formats.as_slice() {
                [] => 0,
                [all] => *all,
                each => *each.get(index)?,
            };
            number(format, (*parameters.values.get(index)?)?)
        };
        let Some(written) = self.write(&statement.sql, &statement.facts, &number)? else { return Ok(None) };
        let Some(facts) = self.facts_of(&written) else { return Ok(None) };
        self.will_listen(&written.steps);
        let parse = Parse { name: b"", sql: &written.text, types: &statement.types };
        let registry = &self.cx.shared.registry;
        let bound = if named {
            registry.intern(&parse, &self.session.reader(), || self.cx.facts.borrow_mut().get(&written.text))
        } else {
            registry.unnamed(&parse, Arc::clone(&facts))
        };
        let usual = facts.signals.is_empty() && facts.steps.is_empty();
        Ok(Some(if usual { bound } else { bound.meaning(facts) }))
    }

    /// What a text says that was written anew; none if it is no SQL any more.
    fn facts_of(&self, written: &Written) -> Option<Arc<QueryFacts>> {
        let facts = self.cx.facts.borrow_mut().get(&written.text);
        if facts.unparsed.is_some() {
            return None;
        }
        let Written { signals, steps, .. } = written;
        if signals.is_empty() && steps.is_empty() {
            return Some(facts);
        }
        Some(Arc::new(QueryFacts { signals: signals.clone(), steps: steps.clone(), ..(*facts).clone() }))
    }

    /// Writes a text anew; none if it stays as it is.
    fn write(&self, text: &[u8], facts: &QueryFacts, numbers: Numbers<'_>) -> Result<Option<Written>, Error> {
        if text.contains(&b'\\') && self.reads_backslashes() {
            // Where its strings end is not known here.
            return Ok(None);
        }
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        let mut signals = Vec::new();
        let on_primary = facts.hints.route.unwrap_or(self.route) != RouteHint::Replica;
        for PidUse { statement, at, what } in if facts.pids { pids::uses(text) } else { Vec::new() } {
            let becomes = match what {
                What::Own(stands) => Becomes::Words(own(self.handle().pid, stands)),
                What::Sought(value) => self.sought(&value, on_primary, numbers),
                What::Signal(call) => self.signalled(&call, statement, numbers)?,
            };
            match becomes {
                Becomes::Itself => {}
                Becomes::Words(words) => edits.push((at, words)),
                Becomes::Signal(words, signal) => {
                    edits.push((at, words));
                    signals.push(signal);
                }
            }
        }
        let mut steps = Vec::new();
        if facts.listens {
            let heard = self.heard(text);
            edits.extend(heard.edits);
            edits.sort_by_key(|(at, _)| at.start);
            steps = heard.steps;
        }
        let changes = !edits.is_empty() || !steps.is_empty();
        Ok(changes.then(|| Written { text: pids::replace(text, &edits), signals, steps }))
    }

    fn reads_backslashes(&self) -> bool {
        let off = |value: &str| !matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1");
        self.session.settings().get("standard_conforming_strings").is_some_and(off)
    }

    /// A value that is looked for among real processes: the one that serves the client which is meant.
    fn sought(&self, value: &Value, on_primary: bool, numbers: Numbers<'_>) -> Becomes {
        let Some(pid) = virtual_pid(value, self.handle().pid, numbers) else { return Becomes::Itself };
        let real = if pid == self.handle().pid {
            // Whichever it will be.
            "pg_catalog.pg_backend_pid()".to_owned()
        } else {
            match self.known_by(pid).as_slice() {
                [client] if on_primary => match self.process_of(client) {
                    Some(real) => real.to_string(),
                    None => return Becomes::Itself,
                },
                _ => return Becomes::Itself,
            }
        };
        match value {
            Value::Own => Becomes::Itself,
            Value::Literal { quoted: true, .. } if pid != self.handle().pid => Becomes::Words(format!("'{real}'")),
            Value::Literal { .. } => Becomes::Words(real),
            Value::Param { number, cast } => Becomes::Words(instead(*number, cast.as_deref(), pid, &real)),
        }
    }

    /// The process on the primary that serves a client at the moment.
    fn process_of(&self, client: &ClientHandle) -> Option<u32> {
        let database = self.live.database(&client.database)?;
        let here = self.database.config.shards.get(usize::from(self.database.config.map.default_shard.0))?;
        let here = here.servers.first()?;
        let (pool, slot) = client.links().into_iter().find(|(pool, _)| {
            database.role(pool.key.shard, pool.key.server) == Role::Primary
                && (&here.host, here.port) == (&pool.target.host, pool.target.port)
        })?;
        pool.connections().into_iter().find(|connection| connection.slot == slot).map(|connection| connection.pid)
    }

    /// The call of a function that signals a session.
    fn signalled(&self, call: &Call, statement: usize, numbers: Numbers<'_>) -> Result<Becomes, Error> {
        let own = self.handle().pid;
        let Some(pid) = virtual_pid(&call.pid, own, numbers) else { return Ok(Becomes::Itself) };
        let waits = match &call.timeout {
            None => Some(0),
            Some(Value::Literal { number, .. }) => Some(*number),
            Some(Value::Param { number, .. }) => numbers(*number),
            Some(Value::Own) => None,
        };
        if waits.is_none_or(|ms| ms < 0) {
            // NULL, or an error of the server's.
            return Ok(Becomes::Itself);
        }
        if pid == own && call.kind == SignalKind::Cancel {
            let own = match &call.pid {
                Value::Own | Value::Literal { .. } => "pg_catalog.pg_backend_pid()".to_owned(),
                Value::Param { number, cast } => {
                    instead(*number, cast.as_deref().or(Some("int4")), pid, "pg_catalog.pg_backend_pid()")
                }
            };
            return Ok(Becomes::Words(format!("pg_catalog.pg_cancel_backend({own})")));
        }
        let known = if pid == own { vec![Arc::clone(self.handle())] } else { self.known_by(pid) };
        let client = match known.as_slice() {
            // The server says that there is no such process.
            [] => return Ok(Becomes::Itself),
            [client] => client,
            several => return Err(ambiguous(pid, several.len())),
        };
        let Some(database) = self.live.database(&client.database) else { return Ok(Becomes::Itself) };
        let role = database.config.user.as_deref().unwrap_or(&client.user);
        let words = signals::expression(call.kind, role, &parameters(call));
        Ok(Becomes::Signal(words, Signal { statement, kind: call.kind, client: client.id }))
    }

    /// The clients with a process id that are of the same server as this one, as a server's processes are of one server.
    fn known_by(&self, pid: u32) -> Vec<Arc<ClientHandle>> {
        let mut known = self.cx.shared.by_pid(pid);
        known.retain(|client| {
            self.cx.shared.clients.contains_key(&client.id)
                && self.live.database(&client.database).is_some_and(|other| is_same(&other, &self.database))
        });
        known
    }

    /// Signals the sessions that a statement which has completed was to signal; what this client is told, if it is one of them.
    pub(super) fn send_signals(&mut self) -> Option<Error> {
        let mut told = None;
        for signal in self.session.take_signals() {
            if signal.kind == SignalKind::Terminate && signal.client == self.handle().id {
                told = Some(terminated());
                continue;
            }
            let Some(client) = self.cx.shared.clients.get(&signal.client).map(|client| Arc::clone(&client)) else {
                continue;
            };
            match signal.kind {
                SignalKind::Terminate => client.order(Order::Kill),
                SignalKind::Cancel => {
                    tokio::task::spawn_local(async move { client.cancel(&AtomicBool::new(false)).await });
                }
            }
        }
        told
    }
}

/// Whether two databases are of one server.
pub(super) fn is_same(one: &LiveDatabase, other: &LiveDatabase) -> bool {
    let servers = |database: &LiveDatabase| {
        database
            .config
            .shards
            .iter()
            .flat_map(|shard| &shard.servers)
            .map(|s| (s.host.clone(), s.port))
            .collect::<Vec<_>>()
    };
    let others = servers(other);
    one.config.name == other.config.name || servers(one).iter().any(|server| others.contains(server))
}

/// The process id that a value means, if it is one of those that are given to clients.
fn virtual_pid(value: &Value, own: u32, numbers: Numbers<'_>) -> Option<u32> {
    let number = match value {
        Value::Own => return Some(own),
        Value::Literal { number, .. } => *number,
        Value::Param { number, .. } => numbers(*number)?,
    };
    u32::try_from(number).ok().filter(|pid| *pid >= keys::LEAST)
}

/// The call of `pg_backend_pid()`, whose name and type the result keeps.
fn own(pid: u32, stands: Stands) -> String {
    match stands {
        Stands::Expression => format!("(SELECT {pid} AS pg_backend_pid)"),
        Stands::Constant => pid.to_string(),
        Stands::Table { named: true } => format!("pg_catalog.abs({pid})"),
        Stands::Table { named: false } => format!("pg_catalog.abs({pid}) AS pg_backend_pid"),
    }
}

/// A parameter, but another value in the place of this one; its type stays what it was.
fn instead(number: u16, cast: Option<&str>, pid: u32, real: &str) -> String {
    let cast = cast.map(|cast| format!("::{cast}")).unwrap_or_default();
    format!("coalesce(nullif(${number}{cast}, {pid}), {real})")
}

/// The parameters of a call, each with a type that it has there.
fn parameters(call: &Call) -> Vec<(u16, String)> {
    let of = |value: &Value, else_: &str| match value {
        Value::Param { number, cast } => Some((*number, cast.clone().unwrap_or_else(|| else_.to_owned()))),
        Value::Own | Value::Literal { .. } => None,
    };
    of(&call.pid, "pg_catalog.int4")
        .into_iter()
        .chain(call.timeout.as_ref().and_then(|timeout| of(timeout, "pg_catalog.int8")))
        .collect()
}

/// The number that a parameter's bytes are.
fn number(format: i16, value: &[u8]) -> Option<i64> {
    if format == 0 {
        return std::str::from_utf8(value).ok()?.trim().parse().ok();
    }
    match value.len() {
        2 => Some(i16::from_be_bytes(value.try_into().ok()?).into()),
        4 => Some(i32::from_be_bytes(value.try_into().ok()?).into()),
        8 => Some(i64::from_be_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

fn ambiguous(pid: u32, clients: usize) -> Error {
    Error::us(
        SqlState::OBJECT_NOT_IN_STATE,
        format!("{clients} clients have the process id {pid}, and it cannot be told which is meant"),
    )
    .detail("With peer_id a process has 32512 of them to give.")
    .hint("KILL_CLIENT on the console ends one by its id in SHOW CLIENTS.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_either_format() {
        assert_eq!(number(0, b" 5000000"), Some(5_000_000));
        assert_eq!(number(0, b"x"), None);
        assert_eq!(number(1, &5_000_000_i32.to_be_bytes()), Some(5_000_000));
        assert_eq!(number(1, &5_000_000_i64.to_be_bytes()), Some(5_000_000));
        assert_eq!(number(1, &[1, 2, 3]), None);
    }

    #[test]
    fn real_ones_are_left_alone() {
        let literal = |number| Value::Literal { number, quoted: false };
        assert_eq!(virtual_pid(&literal(4_194_304), 7, &|_| None), None);
        assert_eq!(virtual_pid(&literal(-1), 7, &|_| None), None);
        assert_eq!(virtual_pid(&literal(i64::from(keys::LEAST)), 7, &|_| None), Some(keys::LEAST));
        let param = Value::Param { number: 2, cast: None };
        assert_eq!(virtual_pid(&param, 7, &|n| (n == 2).then_some(0x7000_0000)), Some(0x7000_0000));
        assert_eq!(virtual_pid(&param, 7, &|_| None), None);
    }
}
