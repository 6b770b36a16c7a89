//! Asks by every protocol, and compares what comes.

use std::collections::BTreeMap;
use std::fmt;

use crate::common::cluster::Cluster;
use crate::common::raw::RawClient;
use crate::common::weir::Weir;
use crate::common::wire::Message;
use crate::data::COUNTS;

/// A value as it is sent in either format.
#[derive(Clone)]
pub(crate) struct Value {
    pub(crate) text: String,
    pub(crate) binary: Vec<u8>,
}

impl Value {
    pub(crate) fn int4(value: i32) -> Self {
        Self { text: value.to_string(), binary: value.to_be_bytes().to_vec() }
    }
}

/// A parameter: the type that Parse declares (0: none), and what is bound to it at first and when the statement is used again.
#[derive(Clone)]
pub(crate) struct Param {
    pub(crate) oid: u32,
    pub(crate) values: [Option<Value>; 2],
}

impl Param {
    /// As it stands in a statement without parameters.
    fn literal(&self) -> String {
        let value =
            self.values[0].as_ref().map_or("NULL".to_owned(), |value| format!("'{}'", value.text.replace('\'', "''")));
        let cast = match self.oid {
            19 => "::name",
            20 => "::int8",
            21 => "::int2",
            23 => "::int4",
            25 => "::text",
            // Any length, other than `char`.
            1042 => "::bpchar",
            1043 => "::varchar",
            1700 => "::numeric",
            2950 => "::uuid",
            _ => "",
        };
        format!("{value}{cast}")
    }
}

/// A statement, and what it is a test of.
#[derive(Clone)]
pub(crate) struct Query {
    pub(crate) construct: &'static str,
    pub(crate) sql: String,
    /// Its rows come in one order only.
    pub(crate) ordered: bool,
    pub(crate) params: Vec<Param>,
}

impl Query {
    pub(crate) fn new(construct: &'static str, sql: String, ordered: bool) -> Self {
        Self { construct, sql, ordered, params: Vec::new() }
    }

    /// With its parameters' first values in it.
    fn written(&self) -> String {
        // From the last, as `$1` begins `$10`.
        let params = self.params.iter().enumerate().rev();
        params.fold(self.sql.clone(), |sql, (place, param)| sql.replace(&format!("${}", place + 1), &param.literal()))
    }

    /// For who reads of a difference.
    pub(crate) fn shown(&self) -> String {
        let shown =
            |value: &Option<Value>| value.as_ref().map_or("NULL".to_owned(), |value| format!("{:?}", value.text));
        let params: Vec<_> = self
            .params
            .iter()
            .map(|param| {
                format!("{} (then {}) of type {}", shown(&param.values[0]), shown(&param.values[1]), param.oid)
            })
            .collect();
        if params.is_empty() { self.sql.clone() } else { format!("{}   with {}", self.sql, params.join(", ")) }
    }
}

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Simple,
    Text,
    Binary,
    /// Rows in parts of two, and then the rest.
    Parts,
    /// By a name, with a Describe of the statement.
    Prepared,
    /// Once more what [`Way::Prepared`] has prepared, with other values, in binary.
    Again,
}

impl Way {
    pub(crate) const FIRST: [Self; 5] = [Self::Simple, Self::Text, Self::Binary, Self::Parts, Self::Prepared];
}

/// Sends the statement; [`answer`] reads what comes.
pub(crate) fn send(client: &mut RawClient, query: &Query, way: Way) {
    let oids: Vec<u32> = query.params.iter().map(|param| param.oid).collect();
    let round = usize::from(way == Way::Again);
    let values = || query.params.iter().map(|param| param.values[round].as_ref());
    let texts: Vec<Option<&str>> = values().map(|value| value.map(|value| value.text.as_str())).collect();
    let binaries: Vec<Option<&[u8]>> = values().map(|value| value.map(|value| &value.binary[..])).collect();
    match way {
        Way::Simple => client.query(&query.written()),
        Way::Text | Way::Binary | Way::Parts => {
            client.parse("", &query.sql, &oids);
            if way == Way::Binary {
                client.bind_binary("", "", &binaries);
            } else {
                client.bind("", "", &texts);
            }
            client.describe_portal("");
            if way == Way::Parts {
                client.execute("", 2);
                client.execute("", 2);
            }
            client.execute("", 0);
            client.sync();
        }
        Way::Prepared => {
            client.close_statement("p");
            client.parse("p", &query.sql, &oids);
            client.describe_statement("p");
            client.sync();
            client.bind("", "p", &texts);
            client.execute("", 0);
            client.sync();
        }
        Way::Again => {
            client.bind_binary("", "p", &binaries);
            client.execute("", 0);
            client.sync();
        }
    }
}

/// Sends several in one: as one text, or one after the other before one Sync. They are one transaction.
pub(crate) fn send_together(client: &mut RawClient, queries: &[Query], simple: bool) {
    if simple {
        let texts: Vec<String> = queries.iter().map(Query::written).collect();
        return client.query(&texts.join("; "));
    }
    for query in queries {
        let oids: Vec<u32> = query.params.iter().map(|param| param.oid).collect();
        let texts = query.params.iter().map(|param| param.values[0].as_ref().map(|value| value.text.as_str()));
        client.parse("", &query.sql, &oids);
        client.bind("", "", &texts.collect::<Vec<_>>());
        client.execute("", 0);
    }
    client.sync();
}

/// The answer to what was sent: of a statement that could not be prepared, the error of that. What ended the connection is an error.
pub(crate) fn answer(client: &mut RawClient, way: Way) -> Result<Vec<Message>, String> {
    let first = until_ready(client)?;
    if way != Way::Prepared {
        return Ok(first);
    }
    let second = until_ready(client)?;
    Ok(if first.iter().any(|m| m.tag == b'E') { first } else { [first, second].concat() })
}

fn until_ready(client: &mut RawClient) -> Result<Vec<Message>, String> {
    let mut messages = Vec::new();
    loop {
        match client.try_read_message() {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return Err(format!("the connection ended after {}", crate::common::wire::show(&messages))),
            Err(error) => return Err(format!("{error} after {}", crate::common::wire::show(&messages))),
        }
        if messages.last().is_some_and(|message| message.tag == b'Z') {
            return Ok(messages);
        }
    }
}

/// What is compared: columns without the numbers of their tables, tags, SQLSTATE classes, rows.
pub(crate) fn normal(messages: &[Message], ordered: bool) -> Vec<String> {
    let (mut frame, mut rows) = (Vec::new(), Vec::new());
    let error = messages.iter().filter(|message| message.tag == b'E').find_map(Message::error);
    if let Some(error) = error {
        let class: String = error.code.chars().take(2).collect();
        return vec![format!("E {class}"), messages.last().map(ToString::to_string).unwrap_or_default()];
    }
    for message in messages {
        match message.tag {
            b'D' => rows.push(format!("{:?}", message.body)),
            b'T' => frame.push(format!("T {:?}", columns(&message.body))),
            _ => frame.push(message.to_string()),
        }
    }
    if !ordered {
        rows.sort();
    }
    frame.into_iter().chain(rows).collect()
}

/// Name, type, size, modifier and format of each column.
fn columns(body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == 0).unwrap();
        columns.push((String::from_utf8_lossy(&rest[..end]).into_owned(), rest[end + 7..end + 19].to_vec()));
        rest = &rest[end + 19..];
    }
    columns
}

pub(crate) fn is_refused(messages: &[Message]) -> bool {
    messages.iter().filter_map(Message::error).any(|error| error.code == "0A000")
}

/// For who reads of a difference: messages with errors as they are told.
pub(crate) fn told(messages: &[Message]) -> String {
    let one = |message: &Message| match message.error() {
        Some(error) => format!("{error}"),
        None => match message.row() {
            Some(row) => format!("{row:?}"),
            None => message.to_string(),
        },
    };
    messages.iter().map(one).collect::<Vec<_>>().join(" ").chars().take(700).collect()
}

/// How many answers there were, how many of these were refusals, and how many other errors.
#[derive(Default, Clone, Copy)]
struct Tally {
    asked: u64,
    refused: u64,
    failed: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.refused += other.refused;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:6} of {:6} refused, {:6} errors of the server", self.refused, self.asked, self.failed)
    }
}

/// What a run has found.
#[derive(Default)]
pub(crate) struct Found {
    /// Of several shards, by construct.
    seen: BTreeMap<&'static str, Tally>,
    /// By the number of shards and the protocol.
    ways: BTreeMap<(usize, Way), Tally>,
    /// What differed.
    pub(crate) wrong: Vec<String>,
}

impl Found {
    /// Counts an answer.
    pub(crate) fn count(&mut self, construct: &'static str, shards: usize, way: Way, answer: &[Message]) {
        let refused = is_refused(answer);
        let failed = !refused && answer.iter().any(|message| message.tag == b'E');
        let tally = Tally { asked: 1, refused: u64::from(refused), failed: u64::from(failed) };
        self.ways.entry((shards, way)).or_default().add(tally);
        if shards > 1 {
            self.seen.entry(construct).or_default().add(tally);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (construct, tally) in other.seen {
            self.seen.entry(construct).or_default().add(tally);
        }
        for (way, tally) in other.ways {
            self.ways.entry(way).or_default().add(tally);
        }
        self.wrong.extend(other.wrong);
    }

    /// Prints what was asked and refused; panics with what differed.
    #[allow(clippy::print_stdout, reason = "what a long run is for")]
    pub(crate) fn close(self, what: &str) {
        for (construct, tally) in &self.seen {
            println!("{what}: {construct:26} {tally}");
        }
        for ((shards, way), tally) in &self.ways {
            println!("{what}: {:26} {tally}", format!("{shards} shards, {way:?}"));
        }
        let mut sum = Tally::default();
        self.ways.values().for_each(|tally| sum.add(*tally));
        println!("{what}: {:26} {sum}, {} wrong", "all", self.wrong.len());
        let shown = number("PGWEIR_SHOWN", 12);
        let wrong: Vec<String> =
            self.wrong.iter().take(usize::try_from(shown).unwrap()).map(|w| w.chars().take(3000).collect()).collect();
        assert!(wrong.is_empty(), "{} of {} wrong:\n{}", self.wrong.len(), sum.asked, wrong.join("\n"));
    }
}

/// A number of the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// One client of the server, and one of each number of shards.
pub(crate) struct Clients {
    direct: RawClient,
    pub(crate) sharded: Vec<(usize, RawClient)>,
}

impl Clients {
    pub(crate) fn new(cluster: &Cluster, weir: &Weir) -> Self {
        let sharded = COUNTS.iter().map(|count| (*count, weir.client(&format!("app{count}")))).collect();
        Self { direct: cluster.client("one"), sharded }
    }

    /// Asks all in every way and compares.
    pub(crate) fn compare(&mut self, query: &Query, found: &mut Found) {
        for way in Way::FIRST {
            let refused = self.compare_by(query, way, &[], found);
            if way == Way::Prepared {
                self.compare_by(query, Way::Again, &refused, found);
            }
        }
    }

    /// Returns the numbers of shards over which it could not be prepared; `without` these.
    fn compare_by(&mut self, query: &Query, way: Way, without: &[usize], found: &mut Found) -> Vec<usize> {
        let asked = |count: usize| !without.contains(&count);
        if !COUNTS.iter().any(|count| asked(*count)) {
            return Vec::new();
        }
        // Asked at once, so that nobody waits for one of them alone.
        send(&mut self.direct, query, way);
        self.sharded.iter_mut().filter(|(count, _)| asked(*count)).for_each(|(_, client)| send(client, query, way));
        let theirs = answer(&mut self.direct, way).unwrap_or_else(|end| panic!("{}: {end}", query.shown()));
        let their_normal = normal(&theirs, query.ordered);
        let mut failed = Vec::new();
        for (count, client) in self.sharded.iter_mut().filter(|(count, _)| asked(*count)) {
            let ours = answer(client, way).unwrap_or_else(|end| panic!("{}: {end}", query.shown()));
            let is_refused = is_refused(&ours);
            found.count(query.construct, *count, way, &ours);
            let is_prepared = ours.iter().any(|message| matches!(message.tag, b'n' | b'T'));
            if !is_prepared {
                failed.push(*count);
            }
            if !is_refused && normal(&ours, query.ordered) != their_normal {
                found.wrong.push(format!(
                    "{} ({way:?}, {count} shards)\n    ours:   {}\n    theirs: {}",
                    query.shown(),
                    told(&ours),
                    told(&theirs)
                ));
            }
        }
        failed
    }
}
