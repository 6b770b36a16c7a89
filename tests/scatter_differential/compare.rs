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
    fn literal(&self, round: usize) -> String {
        let value = self.values[round]
            .as_ref()
            .map_or("NULL".to_owned(), |value| format!("'{}'", value.text.replace('\'', "''")));
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
    /// What COPY FROM STDIN gets.
    pub(crate) data: Option<String>,
}

impl Query {
    pub(crate) fn new(construct: &'static str, sql: String, ordered: bool) -> Self {
        Self { construct, sql, ordered, params: Vec::new(), data: None }
    }

    /// With its parameters' values in it.
    pub(crate) fn written(&self, way: Way) -> String {
        // From the last, as `$1` begins `$10`.
        let params = self.params.iter().enumerate().rev();
        params.fold(self.sql.clone(), |sql, (place, param)| {
            sql.replace(&format!("${}", place + 1), &param.literal(way.round()))
        })
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
        let data = self.data.iter().map(|data| format!("   {data:?}")).collect::<String>();
        if params.is_empty() { self.sql.clone() + &data } else { format!("{}   with {}", self.sql, params.join(", ")) }
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

    /// Which of its values a parameter has.
    fn round(self) -> usize {
        usize::from(self == Self::Again)
    }
}

/// Sends the statement; [`answer`] reads what comes.
pub(crate) fn send(client: &mut RawClient, query: &Query, way: Way) {
    let oids: Vec<u32> = query.params.iter().map(|param| param.oid).collect();
    let round = way.round();
    let values = || query.params.iter().map(|param| param.values[round].as_ref());
    let texts: Vec<Option<&str>> = values().map(|value| value.map(|value| value.text.as_str())).collect();
    let binaries: Vec<Option<&[u8]>> = values().map(|value| value.map(|value| &value.binary[..])).collect();
    match way {
        Way::Simple => {
            client.query(&query.written(way));
            if let Some(data) = &query.data {
                client.copy_data(data.as_bytes());
                client.copy_done();
            }
        }
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
        let texts: Vec<String> = queries.iter().map(|query| query.written(Way::Simple)).collect();
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

/// What is compared: columns without the numbers of their tables, tags, SQLSTATEs, rows. Of statements that fail, what came before it of
/// others that were sent with them.
pub(crate) fn normal(messages: &[Message], ordered: bool) -> Vec<String> {
    let Some(at) = messages.iter().position(|message| message.tag == b'E') else { return in_frame(messages, ordered) };
    // How far the one that fails has come is chance.
    let done = messages[..at].iter().rposition(|message| message.tag == b'C').map_or(0, |last| last + 1);
    let code = messages[at].error().map(|error| error.code).unwrap_or_default();
    let mut all = in_frame(&messages[..done], ordered);
    all.extend([format!("E {code}"), messages.last().map(ToString::to_string).unwrap_or_default()]);
    all
}

/// Of each statement what frames its rows, how many came in each part, and the rows.
fn in_frame(messages: &[Message], ordered: bool) -> Vec<String> {
    let (mut frame, mut rows, mut in_part) = (Vec::new(), Vec::new(), 0);
    for message in messages {
        match message.tag {
            b'D' | b'd' => {
                rows.push(format!("{:?}", message.body));
                in_part += 1;
            }
            b'T' => frame.push(format!("T {:?}", columns(&message.body))),
            b's' => frame.push(format!("s behind {}", std::mem::take(&mut in_part))),
            b'C' => {
                if !ordered {
                    rows.sort();
                }
                in_part = 0;
                frame.append(&mut rows);
                frame.push(message.to_string());
            }
            _ => frame.push(message.to_string()),
        }
    }
    frame.append(&mut rows);
    frame
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
    /// Of several shards, by construct and their number.
    seen: BTreeMap<(&'static str, usize), Tally>,
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
            self.seen.entry((construct, shards)).or_default().add(tally);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (of, tally) in other.seen {
            self.seen.entry(of).or_default().add(tally);
        }
        for (way, tally) in other.ways {
            self.ways.entry(way).or_default().add(tally);
        }
        self.wrong.extend(other.wrong);
    }

    /// Prints what was asked and refused; panics with what differed, and where too little was answered.
    #[allow(clippy::print_stdout, reason = "what a long run is for")]
    pub(crate) fn close(self, what: &str, floor: &Floor) {
        let mut by_construct = BTreeMap::<&str, Tally>::new();
        self.seen.iter().for_each(|((construct, _), tally)| by_construct.entry(construct).or_default().add(*tally));
        for (construct, tally) in &by_construct {
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
        floor.holds(&self, what);
    }
}

/// How much must be answered: where all is refused, nothing differs.
pub(crate) struct Floor {
    /// Constructs of which some are answered, once so many were asked.
    pub(crate) answered: &'static [(&'static str, u64)],
    /// Of a hundred statements over a number of shards, so many at most are refused.
    pub(crate) refused: u64,
}

impl Floor {
    fn holds(&self, found: &Found, what: &str) {
        // The ways to commit on several shards, each.
        for counts in [&[2, 7][..], &[3]] {
            for (construct, once_asked) in self.answered {
                let mut of_construct = Tally::default();
                counts
                    .iter()
                    .filter_map(|count| found.seen.get(&(*construct, *count)))
                    .for_each(|t| of_construct.add(*t));
                let Tally { asked, refused, failed } = of_construct;
                assert!(
                    asked < *once_asked || asked > refused + failed,
                    "{what}: no {construct} is answered over {counts:?} shards: {of_construct}"
                );
            }
        }
        for shards in COUNTS {
            let mut of_shards = Tally::default();
            let ways = found.ways.iter().filter(|((count, _), _)| *count == shards);
            ways.for_each(|(_, tally)| of_shards.add(*tally));
            let most = if shards == 1 { 0 } else { self.refused };
            assert!(of_shards.refused * 100 <= of_shards.asked * most, "{what}: over {shards} shards {of_shards}");
        }
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
