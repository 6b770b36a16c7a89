//! What needs no other server: a condition, its contrary and its being unknown divide the rows, over any number of shards.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::common::raw::RawClient;
use crate::common::wire::Message;
use crate::compare::{Found, Way, answer, told};
use crate::queries;
use crate::writer::Writer;

/// The list, what stands behind the condition, and how the parts become the whole.
const SHAPES: [(&str, &str, Whole); 5] = [
    ("*", "", Whole::Rows),
    ("k, k IS NULL", "", Whole::Rows),
    ("count(*)", "", Whole::Sum),
    ("count(k), count(*) * 2", "", Whole::Sum),
    ("k, count(*)", " GROUP BY k", Whole::Rows),
];

#[derive(Clone, Copy)]
enum Whole {
    /// All rows together; in each the key.
    Rows,
    /// One row of sums.
    Sum,
}

/// A table, and a condition on it without parameters.
fn condition(rng: &mut SmallRng) -> (String, String) {
    if rng.random_bool(0.5) {
        return ("t".to_owned(), queries::condition(rng).to_owned());
    }
    let mut writer = Writer::new(rng);
    let condition = loop {
        let condition = writer.fill("@key(k)");
        if writer.params.is_empty() {
            break condition;
        }
        writer.params.clear();
    };
    let table = writer.fill("@a");
    let more = match writer.rng.random_range(0..4) {
        0 => writer.fill(" AND @cond()"),
        1 => writer.fill(" OR @cond()"),
        _ => String::new(),
    };
    (table, condition + &more)
}

/// Asks for the parts and for the whole; nothing is compared where a part is refused, or an error in all of its forms.
pub(crate) fn compare(client: &mut RawClient, shards: usize, rng: &mut SmallRng, found: &mut Found) {
    let (table, condition) = condition(rng);
    let (list, behind, whole) = *SHAPES.choose(rng).unwrap();
    let construct = "parts_of_the_whole";
    let (mut parts, mut codes) = (Vec::new(), Vec::new());
    for part in ["", "WHERE (P)", "WHERE NOT (P)", "WHERE (P) IS NULL"] {
        let sql = format!("SELECT {list} FROM {table} {}{behind}", part.replace('P', &condition));
        client.query(&sql);
        let messages = answer(client, Way::Simple).unwrap_or_else(|end| panic!("{sql}: {end}"));
        found.count(construct, shards, Way::Simple, &messages);
        codes.push(messages.iter().filter(|message| message.tag == b'E').find_map(Message::error).map(|e| e.code));
        parts.push((sql, messages));
    }
    if codes.iter().any(Option::is_some) {
        if !may_fail(&codes) {
            found.wrong.push(format!("{} ({shards} shards), and with its parts: {codes:?}", parts[1].0));
        }
        return;
    }
    let rows = |messages: &[Message]| messages.iter().filter_map(Message::row).collect::<Vec<_>>();
    let (all, parts) = parts.split_first().unwrap();
    let together: Vec<_> = parts.iter().flat_map(|(_, messages)| rows(messages)).collect();
    let equal = match whole {
        Whole::Rows => sorted(rows(&all.1)) == sorted(together),
        Whole::Sum => sums(&rows(&all.1)) == sums(&together),
    };
    if !equal {
        let parts: Vec<String> = parts.iter().map(|(sql, messages)| format!("    {sql}: {}", told(messages))).collect();
        found.wrong.push(format!(
            "{} ({shards} shards) is not its parts: {}\n{}",
            all.0,
            told(&all.1),
            parts.join("\n")
        ));
    }
}

/// Whether the whole and its three parts may end so: refused, or by what the condition is or does. What it is, it is in each of them; to what
/// it does not every form comes.
fn may_fail(codes: &[Option<String>]) -> bool {
    let (whole, parts) = codes.split_first().unwrap();
    let is_refused = |code: &Option<String>| code.as_deref() == Some("0A000");
    let is_its_own = |code: &Option<String>| code.as_deref().is_none_or(|code| matches!(&code[..2], "22" | "42"));
    let is_meant = |code: &Option<String>| code.as_deref().is_some_and(|code| code.starts_with("42"));
    let meant = parts.iter().find(|code| is_meant(code));
    let alike = meant.is_none_or(|meant| parts.iter().all(|code| is_refused(code) || code == meant));
    let known = whole.is_none() || is_refused(whole);
    known && alike && parts.iter().all(|code| is_refused(code) || is_its_own(code))
}

type Row = Vec<Option<String>>;

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort();
    rows
}

fn sums(rows: &[Row]) -> Vec<i64> {
    let width = rows.first().map_or(0, Vec::len);
    let value = |row: &Row, column: usize| row[column].as_ref().map_or(0, |value| value.parse::<i64>().unwrap());
    (0..width).map(|column| rows.iter().map(|row| value(row, column)).sum()).collect()
}
