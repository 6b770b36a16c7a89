//! Writes on one server and over shards, by themselves and in blocks; after each of them the tables are the same, and every row lies
//! where its key's hash says.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::common::cluster::Cluster;
use crate::common::eventually;
use crate::common::raw::RawClient;
use crate::common::weir::Weir;
use crate::common::wire::{Message, ServerError};
use crate::compare::{Found, Query, Way, answer, is_refused, normal, send, send_together, told};
use crate::data;
use crate::keys::KINDS;
use crate::writer::About;
use crate::{dml, pairs, typed};

/// `oneN`, and `appN` with its shards.
pub(crate) struct Pair<'a> {
    cluster: &'a Cluster,
    weir: &'a Weir,
    shards: usize,
    one: RawClient,
    app: RawClient,
    /// To look at the tables of `oneN`, and of each shard.
    looks: Vec<(RawClient, String)>,
    rng: SmallRng,
    found: Found,
    /// What was done since the tables were last found equal.
    done: Vec<String>,
    /// Why the block has failed, if it has.
    failed: Option<Failed>,
}

/// Why a block has failed.
enum Failed {
    /// What pgweir refuses ends a block of several shards.
    Refused,
    /// This statement did, with an error that the one server has as well.
    Statement(String),
}

/// What came of a statement.
enum Outcome {
    /// The same, also an error.
    Equal,
    /// Refused, and not asked of the one server.
    Refused,
    /// Something else.
    Wrong,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(cluster: &'a Cluster, weir: &'a Weir, shards: usize, seed: u64) -> Self {
        let mut looks = vec![(cluster.client(&format!("one{shards}")), look(0, 1))];
        looks.extend((0..shards).map(|n| (cluster.client(&format!("s{shards}_{n}")), look(n, shards))));
        let (one, app) = (cluster.client(&format!("one{shards}")), weir.client(&format!("app{shards}")));
        let rng = SmallRng::seed_from_u64(seed);
        Self { cluster, weir, shards, one, app, looks, rng, found: Found::default(), done: Vec::new(), failed: None }
    }

    /// Runs about this many statements.
    pub(crate) fn run(mut self, statements: u64) -> Found {
        let mut count = 0;
        while count < statements {
            count += match self.rng.random_range(0..10) {
                0..=4 => self.alone(),
                5..=7 => self.block(),
                _ => self.together(),
            };
            if let Err(difference) = self.compare_tables() {
                let done = std::mem::take(&mut self.done).join("\n    ");
                self.found.wrong.push(format!("{} shards: {difference}\n    after {done}", self.shards));
                self.begin_anew();
            } else if self.rng.random_bool(0.02) {
                self.begin_anew();
            }
            self.done.clear();
        }
        self.leaves_nothing_open();
        self.found
    }

    /// The clients that have read all their answers have no transaction open, anywhere.
    fn leaves_nothing_open(&self) {
        let databases = format!("datname = 'one{0}' OR datname LIKE 's{0}\\_%'", self.shards);
        let open = format!(
            "SELECT (SELECT count(*) FROM pg_stat_activity WHERE ({databases}) AND state LIKE 'idle in transaction%')
                 + (SELECT count(*) FROM pg_prepared_xacts WHERE {})",
            databases.replace("datname", "database")
        );
        eventually("no transaction is open or prepared", Duration::from_secs(20), || {
            (self.cluster.value(&open) == "0").then_some(())
        });
    }

    /// What would be wrong is found: a row that differs, one on the wrong shard, a copy that differs.
    pub(crate) fn finds_what_is_wrong(mut self) {
        assert_eq!(self.compare_tables(), Ok(()));
        let last = self.shards;
        for (place, sql, what) in [
            (1, "UPDATE a_text SET n = n + 1", "a_text differs"),
            (last, "UPDATE ref SET n = 8 WHERE code = 1", "ref differs"),
            (1, "WITH d AS (DELETE FROM b_uuid RETURNING *) SELECT * FROM d", "b_uuid differs"),
        ] {
            self.looks[place].0.rows(sql).unwrap();
            let found = self.compare_tables();
            assert!(found.as_ref().is_err_and(|found| found.contains(what)), "{sql}: {found:?}");
            self.begin_anew();
        }
        let rows = "SELECT * FROM a_int4 ORDER BY k LIMIT 1";
        let stray = self.looks[1].0.rows(rows).unwrap()[0][0].clone();
        self.looks[1].0.rows(&format!("DELETE FROM a_int4 WHERE k = {stray}")).unwrap();
        let row = self.looks[0]
            .0
            .value(&format!("SELECT format('(%L, %L, %L, %L)', k, g, c, n) FROM a_int4 WHERE k = {stray}"));
        self.looks[last].0.rows(&format!("INSERT INTO a_int4 VALUES {row}")).unwrap();
        let found = self.compare_tables();
        assert!(found.as_ref().is_err_and(|found| found.contains("1 rows of a_int4 lie elsewhere")), "{found:?}");
        self.begin_anew();
        let query = Query::new("lie", "UPDATE a_int8 SET g = 1 RETURNING k".to_owned(), false);
        self.looks[0].0.rows("DELETE FROM a_int8 WHERE k = 1").unwrap();
        assert!(matches!(self.ask_by(&query, Way::Simple), Outcome::Wrong));
        self.begin_anew();
        assert_eq!(self.compare_tables(), Ok(()));
    }

    /// A statement that writes, with this likelihood, or one that reads.
    fn generate(&mut self, writes: f64, about: Option<&About>) -> Query {
        let writes = self.rng.random_bool(writes);
        if about.is_none() && self.rng.random_bool(0.2) {
            return pairs::generate(&mut self.rng, writes);
        }
        if writes {
            return dml::generate(&mut self.rng, about);
        }
        let query = typed::generate(&mut self.rng, about);
        if about.is_some() || self.rng.random_bool(0.8) {
            return query;
        }
        Query::new("copy_to", format!("COPY ({}) TO STDOUT", query.written(Way::Simple)), query.ordered)
    }

    /// A statement outside of a transaction.
    fn alone(&mut self) -> u64 {
        let query = self.generate(0.9, None);
        if matches!(self.ask(&query), Outcome::Wrong) {
            self.begin_anew();
        }
        1
    }

    /// A few statements in one text, or before one Sync: all or none.
    fn together(&mut self) -> u64 {
        let simple = self.rng.random_bool(0.5);
        // What several shards are asked in one text is refused.
        let same = if simple { 0.8 } else { 0.3 };
        let about = self.rng.random_bool(same).then(|| About::choose(&mut self.rng));
        let (count, outcome) = self.several(simple, about);
        if matches!(outcome, Outcome::Wrong) {
            self.begin_anew();
        }
        count
    }

    /// So many statements at once, and what came of them.
    fn several(&mut self, simple: bool, about: Option<About>) -> (u64, Outcome) {
        let count = self.rng.random_range(2..if simple { 4 } else { 7 });
        let mut queries = Vec::new();
        while queries.len() < count {
            let query = self.generate(0.8, about.as_ref());
            // COPY is not for pipelines.
            if !query.construct.starts_with("copy") {
                queries.push(query);
            }
        }
        let (construct, way) =
            if simple { ("several_in_a_text", Way::Simple) } else { ("several_in_a_pipeline", Way::Text) };
        let shown: Vec<String> = queries.iter().map(Query::shown).collect();
        // Where rows have no order, those of several statements have none either.
        let query = Query::new(construct, shown.join("; "), false);
        self.done.push(format!("{construct}: {}", query.sql));
        send_together(&mut self.app, &queries, simple);
        let outcome = self.compare_answers(&query, way, |one| send_together(one, &queries, simple));
        (count as u64, outcome)
    }

    /// A transaction of a few statements, which ends in one way or the other.
    fn block(&mut self) -> u64 {
        let count = self.rng.random_range(1..6);
        self.failed = None;
        if !self.both("BEGIN") {
            return 1;
        }
        let (mut savepoint, mut refused) = (false, false);
        let about = self.rng.random_bool(0.3).then(|| About::choose(&mut self.rng));
        for _ in 0..count {
            if self.rng.random_bool(0.2) && !self.control("savepoint", "SAVEPOINT s", &mut savepoint) {
                return count;
            }
            let outcome = if self.rng.random_bool(0.15) {
                self.several(false, about).1
            } else {
                let query = self.generate(0.7, about.as_ref());
                self.ask(&query)
            };
            match outcome {
                Outcome::Wrong => {
                    self.begin_anew();
                    return count;
                }
                Outcome::Refused if self.status() == "E" => {
                    // The one server's block is to fail as well.
                    self.one.run("SELECT 1 / 0");
                }
                Outcome::Refused => refused = true,
                Outcome::Equal => {}
            }
            let back = if self.status() == "E" { 0.5 } else { 0.1 };
            if savepoint && self.rng.random_bool(back) {
                if !self.control("rollback_to", "ROLLBACK TO s", &mut savepoint) {
                    return count;
                }
            } else if savepoint && self.rng.random_bool(0.1) && !self.control("release", "RELEASE s", &mut savepoint) {
                return count;
            }
            if self.status() == "E" && self.rng.random_bool(0.8) {
                break;
            }
        }
        // That what is refused has done nothing is seen in what is committed.
        let commits = self.rng.random_bool(0.7) || (refused && self.status() == "T");
        self.both(if commits { "COMMIT" } else { "ROLLBACK" });
        count
    }

    /// A statement about savepoints; what pgweir refuses there ends the block. Whether the block goes on.
    fn control(&mut self, construct: &'static str, sql: &str, savepoint: &mut bool) -> bool {
        match self.ask_by(&Query::new(construct, sql.to_owned(), false), Way::Simple) {
            Outcome::Equal => {
                *savepoint = construct != "release";
                if construct == "rollback_to" {
                    self.failed = None;
                }
                true
            }
            Outcome::Refused => {
                self.one.run("ROLLBACK");
                self.app.run("ROLLBACK");
                self.done.push("ROLLBACK".to_owned());
                false
            }
            Outcome::Wrong => {
                self.begin_anew();
                false
            }
        }
    }

    /// What must be the same: BEGIN and the end of a block.
    fn both(&mut self, sql: &str) -> bool {
        match self.ask_by(&Query::new("block", sql.to_owned(), false), Way::Simple) {
            Outcome::Equal => true,
            // A COMMIT that is refused has rolled back.
            Outcome::Refused => {
                self.one.run("ROLLBACK");
                self.app.run("ROLLBACK");
                false
            }
            Outcome::Wrong => {
                self.begin_anew();
                false
            }
        }
    }

    /// `I`, `T` or `E` of pgweir's client.
    fn status(&mut self) -> String {
        self.app.sync();
        let answer = self.app.read_until_ready();
        if answer.len() != 1 {
            let done = self.done.join("\n    ");
            self.found.wrong.push(format!(
                "Sync ({} shards)\n    ours:   {}\n    after {done}",
                self.shards,
                told(&answer)
            ));
        }
        answer.last().map(|ready| String::from_utf8_lossy(&ready.body).into_owned()).unwrap_or_default()
    }

    fn ask(&mut self, query: &Query) -> Outcome {
        let mut way = Way::FIRST[self.rng.random_range(0..Way::FIRST.len())];
        if query.construct.starts_with("copy") {
            way = Way::Simple;
        }
        if way == Way::Parts && !query.construct.starts_with("typed") && !query.sql.contains("RETURNING") {
            // What gives no rows is not asked for in parts.
            way = Way::Text;
        }
        let outcome = self.ask_by(query, way);
        // What failed in a block cannot be done once more.
        if way == Way::Prepared && matches!(outcome, Outcome::Equal) && self.rng.random_bool(0.5) && self.is_prepared()
        {
            return self.ask_by(query, Way::Again);
        }
        outcome
    }

    /// Whether both have what was prepared last, and no failed block.
    fn is_prepared(&mut self) -> bool {
        [&mut self.app, &mut self.one].into_iter().all(|client| {
            client.describe_statement("p");
            client.sync();
            let answer = client.read_until_ready();
            !answer.iter().any(|message| message.tag == b'E')
        })
    }

    fn ask_by(&mut self, query: &Query, way: Way) -> Outcome {
        self.done.push(format!("{way:?} {}", query.shown()));
        send(&mut self.app, query, way);
        self.compare_answers(query, way, |one| send(one, query, way))
    }

    /// Compares the answer to what was sent with that of the one server, which is asked by `ask` unless it is refused.
    fn compare_answers(&mut self, query: &Query, way: Way, ask: impl FnOnce(&mut RawClient)) -> Outcome {
        let ours = match answer(&mut self.app, way) {
            Ok(ours) => ours,
            Err(end) => return self.wrong(query, way, &end, "nothing yet"),
        };
        self.found.count(query.construct, self.shards, way, &ours);
        if is_refused(&ours) || (query.construct == "rollback_to" && self.is_over(&ours)) {
            self.failed.get_or_insert(Failed::Refused);
            if let Some(last) = self.done.last_mut() {
                *last += " (refused)";
            }
            return Outcome::Refused;
        }
        if ours.iter().any(|message| message.tag == b'E') {
            self.failed.get_or_insert_with(|| Failed::Statement(query.written(way)));
        }
        ask(&mut self.one);
        let theirs = answer(&mut self.one, way).unwrap_or_else(|end| panic!("{}: {end}", query.shown()));
        if normal(&ours, query.ordered) == normal(&theirs, query.ordered)
            || is_fault_of_other_row(query, &ours, &theirs)
            || is_told_earlier(query, &ours, &theirs)
        {
            return Outcome::Equal;
        }
        self.wrong(query, way, &told(&ours), &told(&theirs))
    }

    /// Whether ROLLBACK TO may be answered so: a block over several shards has rolled back on all of them when a statement of several fails, or
    /// is refused, and goes back no further. After the failure of one shard's statement it does.
    fn is_over(&self, ours: &[Message]) -> bool {
        let is_lost = |error: ServerError| {
            error.code == "25P02" && error.fields.get(&'D').is_some_and(|detail| detail.contains("several shards"))
        };
        if !ours.iter().filter_map(Message::error).any(is_lost) {
            return false;
        }
        match &self.failed {
            None => false,
            Some(Failed::Refused) => true,
            Some(Failed::Statement(sql)) => {
                let asked = format!("EXPLAIN ROUTE FOR app{} $route${sql}$route$", self.shards);
                let rows = self.weir.admin_table(&asked);
                let plan = rows.iter().find(|row| row["item"] == "plan").map(|row| row["value"].clone());
                plan.is_some_and(|plan| !plan.starts_with("one shard") && !plan.starts_with("any shard"))
            }
        }
    }

    fn wrong(&mut self, query: &Query, way: Way, ours: &str, theirs: &str) -> Outcome {
        let done = self.done.join("\n    ");
        self.found.wrong.push(format!(
            "{} ({way:?}, {} shards)\n    ours:   {ours}\n    theirs: {theirs}\n    after {done}",
            query.shown(),
            self.shards
        ));
        Outcome::Wrong
    }

    /// All clients new, and all tables as they were at first.
    fn begin_anew(&mut self) {
        // What waits for a lock of the clients that go would keep the tables.
        for client in [&mut self.app, &mut self.one] {
            client.terminate();
            client.read_to_end();
        }
        self.app = self.weir.client(&format!("app{}", self.shards));
        self.one = self.cluster.client(&format!("one{}", self.shards));
        self.looks[0].0.rows(&data::refill(0, 1)).unwrap();
        for n in 0..self.shards {
            self.looks[n + 1].0.rows(&data::refill(n, self.shards)).unwrap();
        }
        self.done.clear();
    }

    /// Every table: as on one server, and every row where it belongs; what is on all shards is the same on each.
    fn compare_tables(&mut self) -> Result<(), String> {
        for (client, look) in &mut self.looks {
            client.query(look);
        }
        let mut found = self.looks.iter_mut().map(|(client, _)| {
            let rows = client.read_until_ready().iter().filter_map(Message::row).collect::<Vec<_>>();
            rows.into_iter()
                .map(|row| row.into_iter().map(Option::unwrap_or_default).collect())
                .collect::<Vec<Vec<String>>>()
        });
        let one = found.next().unwrap();
        let shards: Vec<_> = found.collect();
        for (place, row) in one.iter().enumerate() {
            let table = &row[0];
            let number = |row: &[String], column: usize| row[column].parse::<i128>().unwrap();
            let sum = |column: usize| shards.iter().map(|shard| number(&shard[place], column)).sum::<i128>();
            let same = if table == "ref" {
                shards.iter().all(|shard| shard[place] == *row)
            } else {
                (sum(1), sum(2)) == (number(row, 1), number(row, 2))
            };
            if !same {
                return Err(self.difference(table));
            }
            if sum(3) != 0 {
                return Err(format!("{} rows of {table} lie elsewhere than their keys say", sum(3)));
            }
        }
        Ok(())
    }

    /// The rows of a table that are on one side only.
    fn difference(&mut self, table: &str) -> String {
        let sql = format!("SELECT x::text FROM {table} x");
        let mut sides = Vec::new();
        for (client, _) in &mut self.looks {
            sides.push(client.rows(&sql).unwrap().into_iter().flatten().collect::<Vec<String>>());
        }
        let shown: Vec<String> = sides
            .iter()
            .enumerate()
            .map(|(number, rows)| {
                let others: Vec<&String> =
                    if number == 0 { sides[1..].iter().flatten().collect() } else { sides[0].iter().collect() };
                let alone: Vec<&String> = rows.iter().filter(|row| !others.contains(row)).collect();
                format!(
                    "{} has {} rows, alone {alone:?}",
                    if number == 0 { "one server".to_owned() } else { format!("s{}", number - 1) },
                    rows.len()
                )
            })
            .collect();
        format!("{table} differs: {}", shown.join("; ")).chars().take(1200).collect()
    }
}

/// A value of a key that its type does not have fails when a pipeline of one shard is planned: before the answers that one server gives to what
/// stands before it. The error is the same, and nothing has happened.
fn is_told_earlier(query: &Query, ours: &[Message], theirs: &[Message]) -> bool {
    let code = |messages: &[Message]| messages.iter().rev().find_map(Message::error).map(|error| error.code);
    let fails_alone = ours.iter().all(|message| matches!(message.tag, b'E' | b'Z'));
    query.construct.starts_with("several_in_a_")
        && fails_alone
        && code(ours).is_some_and(|code| code.starts_with("22"))
        && code(ours) == code(theirs)
}

/// Which of several rows fails first, and so with what, is nobody's promise.
fn is_fault_of_other_row(query: &Query, ours: &[Message], theirs: &[Message]) -> bool {
    let of_rows =
        matches!(query.construct, "insert_rows" | "conflict_nothing" | "conflict_update" | "copy_from" | "pair_insert");
    let rows = query.data.as_ref().map_or(query.sql.matches("), (").count() + 1, |data| data.lines().count());
    let is_of_a_row = |messages: &[Message]| class(messages).is_some_and(|class| matches!(&*class, "21" | "22" | "23"));
    of_rows && rows > 1 && is_of_a_row(ours) && is_of_a_row(theirs) && ours.last() == theirs.last()
}

/// The class of the SQLSTATE of an error.
fn class(messages: &[Message]) -> Option<String> {
    let error = messages.iter().filter(|message| message.tag == b'E').find_map(Message::error)?;
    Some(error.code.chars().take(2).collect())
}

/// Of every table: its name, how many rows, a sum of hashes of whole rows, and how many rows do not belong on the shard.
fn look(number: usize, count: usize) -> String {
    let (first, last) = data::slots(number, count);
    let of = |table: &str, stray: &str| {
        format!(
            "SELECT '{table}', count(*), coalesce(sum(hashtextextended(x::text, 1)::numeric), 0), count(*) FILTER (WHERE {stray}) FROM {table} x"
        )
    };
    let mut parts = vec![of("ref", "false")];
    parts.extend(pairs::NAMES.map(|table| of(table, &format!("{} NOT BETWEEN {first} AND {last}", pairs::slot()))));
    for kind in &KINDS {
        let stray = format!("{} NOT BETWEEN {first} AND {last}", kind.slot());
        parts.extend(["a", "b"].map(|table| of(&format!("{table}_{}", kind.name), &stray)));
    }
    parts.join(" UNION ALL ")
}
