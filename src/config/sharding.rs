//! `[[databases.NAME.shards]]` and `[databases.NAME.tables]`.

use std::collections::BTreeMap;

use super::check::{name, unknown_key};
use super::database::{Scope, patroni, servers};
use super::raw::{Entry, Mistakes, Node, Value, expected, suggest};
use super::{Database, Shard, settings};
use crate::id::ShardIndex;
use crate::shard::commit::gid;
use crate::shard::map::{CrossShardWrites, KeyType, MapError, SLOTS, ShardMap, Table};
use crate::shard::table_key::{KeyColumn, TableKey};

/// Names of key types, with their aliases: <https://www.postgresql.org/docs/current/datatype.html>.
const KEY_TYPES: [(&str, KeyType); 11] = [
    ("bigint", KeyType::Integer { width: 8 }),
    ("int8", KeyType::Integer { width: 8 }),
    ("integer", KeyType::Integer { width: 4 }),
    ("int", KeyType::Integer { width: 4 }),
    ("int4", KeyType::Integer { width: 4 }),
    ("smallint", KeyType::Integer { width: 2 }),
    ("int2", KeyType::Integer { width: 2 }),
    ("text", KeyType::Text),
    ("varchar", KeyType::Text),
    ("character varying", KeyType::Text),
    ("uuid", KeyType::Uuid),
];

/// A range of slots and where it stands.
struct Range {
    line: usize,
    first: u16,
    last: u16,
}

/// A shard as it is read: its name and ranges know their lines. The ranges are none when one of them could not be read.
struct Draft {
    line: usize,
    ranges: Option<Vec<Range>>,
}

impl Draft {
    fn pairs(&self) -> Option<Vec<(u16, u16)>> {
        Some(self.ranges.as_ref()?.iter().map(|range| (range.first, range.last)).collect())
    }
}

/// Reads the shards, tables and default shard of a database.
pub(super) fn shards(scope: &mut Scope<'_>, entry: &Entry, database: &mut Database, mistakes: &mut Mistakes) {
    let items = mistakes.list("shards", &entry.value);
    let mut drafts = Vec::new();
    for item in items.unwrap_or_default() {
        if let Some((shard, draft)) = shard(scope, item, mistakes) {
            database.shards.push(shard);
            drafts.push(draft);
        }
    }
    let tables = scope.find("tables").map(|entry| tables(scope, &entry.value, mistakes)).unwrap_or_default();
    // What is judged as a whole says nothing of use while parts of it could not be read.
    if items.is_none_or(|items| items.len() != drafts.len()) {
        return;
    }
    let names: Vec<String> = database.shards.iter().map(|shard| shard.name.clone()).collect();
    let default_shard = default_shard(scope, &names, mistakes);
    let ranges: Option<Vec<Vec<(u16, u16)>>> = drafts.iter().map(Draft::pairs).collect();
    let Some(ranges) = ranges else { return };
    match ShardMap::new(names, ranges, tables, default_shard) {
        Ok(mut map) => {
            map.writes = database.writes;
            if map.writes.cross == CrossShardWrites::TwoPhase {
                let longest = gid::LONGEST_NAME;
                for name in gid::too_long(scope.name, &map) {
                    let why = format!(
                        "{}: the name {name:?} is too long for cross_shard_writes = \"two_phase\": it is part of the names of prepared transactions, with at most {longest} bytes, three for each that is no letter, digit, _, . or -",
                        scope.place
                    );
                    mistakes.add(scope.line, why);
                }
            }
            database.map = map;
        }
        Err(errors) => {
            for error in errors {
                mistakes.add(line_of(&error, scope, &database.shards, &drafts), format!("{}: {error}", scope.place));
            }
        }
    }
}

/// The line that an error of the map speaks of: that of the shard or range that came last, or the database's.
fn line_of(error: &MapError, scope: &Scope<'_>, shards: &[Shard], drafts: &[Draft]) -> usize {
    let ranges = || drafts.iter().filter_map(|draft| draft.ranges.as_ref()).flatten();
    let found = match error {
        MapError::DuplicateName { name } => {
            let named = shards.iter().zip(drafts).filter(|(shard, _)| shard.name == *name);
            named.map(|(_, draft)| draft.line).max()
        }
        MapError::BadRange { first, last, .. } => {
            ranges().find(|range| range.first == *first && range.last == *last).map(|range| range.line)
        }
        MapError::Overlap { first, .. } => {
            let claiming = ranges().filter(|range| (range.first..=range.last).contains(first));
            claiming.map(|range| range.line).max()
        }
        MapError::Gap { .. }
        | MapError::NoShards
        | MapError::TooManyShards { .. }
        | MapError::Unpaired { .. }
        | MapError::NoDefault { .. } => None,
    };
    found.unwrap_or(scope.line)
}

fn shard(scope: &mut Scope<'_>, item: &Value, mistakes: &mut Mistakes) -> Option<(Shard, Draft)> {
    let whose = format!("a shard of {}", scope.place);
    let keys = mistakes.table(&whose, item)?;
    for entry in keys.iter().filter(|entry| !settings::SHARD.iter().any(|(key, _)| *key == entry.key)) {
        mistakes.add(entry.line, unknown_key(&entry.key, &whose, settings::SHARD.iter().map(|(key, _)| *key)));
    }
    let find = |key: &str| keys.iter().find(|entry| entry.key == key);
    let named = find("name").map(|entry| (entry.line, mistakes.text("name", &entry.value)));
    let (line, shard_name) = match named {
        None => {
            mistakes.add(item.line, format!("{whose} has no name"));
            (item.line, None)
        }
        Some((line, Some(""))) => {
            mistakes.add(line, format!("{whose} has an empty name"));
            (line, None)
        }
        Some(found) => found,
    };
    let place = shard_name.map_or(whose, |shard| format!("shard {shard:?} of {}", scope.place));
    let ranges = match find("slots") {
        Some(entry) => slots(&place, &entry.value, mistakes),
        None => {
            mistakes.add(item.line, format!("{place} has no slots"));
            None
        }
    };
    let servers = servers(scope, &place, item.line, keys, mistakes);
    let patroni = patroni(&place, keys, mistakes);
    Some((Shard { name: shard_name?.to_owned(), servers, patroni }, Draft { line, ranges }))
}

/// `[[0, 8191], [9000, 9999]]`; none when a part of it is wrong.
fn slots(place: &str, value: &Value, mistakes: &mut Mistakes) -> Option<Vec<Range>> {
    let mut ranges = Vec::new();
    let items = mistakes.list("slots", value)?;
    for item in items {
        let bounds: Option<Vec<u16>> = match &item.node {
            Node::List(pair) => pair.iter().map(|bound| slot(&bound.node)).collect(),
            _ => None,
        };
        match bounds.as_deref() {
            Some([first, last]) if first <= last => {
                ranges.push(Range { line: item.line, first: *first, last: *last });
            }
            Some([first, last]) => {
                mistakes.add(item.line, format!("{place}: the range [{first}, {last}] ends before it begins"));
            }
            _ => {
                let most = SLOTS.saturating_sub(1);
                mistakes
                    .add(item.line, format!("{place}: slots must be ranges like [[0, {most}]], of slots 0 to {most}"));
            }
        }
    }
    (ranges.len() == items.len()).then_some(ranges)
}

fn slot(node: &Node) -> Option<u16> {
    match node {
        Node::Number(text) => text.parse::<u16>().ok().filter(|slot| *slot < SLOTS),
        _ => None,
    }
}

fn default_shard(scope: &Scope<'_>, names: &[String], mistakes: &mut Mistakes) -> ShardIndex {
    let Some(entry) = scope.find("default_shard") else { return ShardIndex(0) };
    let Some(text) = mistakes.text("default_shard", &entry.value) else { return ShardIndex(0) };
    let place = names.iter().position(|shard| shard == text).and_then(|place| u16::try_from(place).ok());
    place.map_or_else(
        || {
            let near = suggest(text, names.iter().map(String::as_str));
            mistakes.add(entry.value.line, format!("default_shard = {text:?} is not a shard of {}{near}", scope.place));
            ShardIndex(0)
        },
        ShardIndex,
    )
}

/// `[databases.NAME.tables]`: `name`, `"schema.name"` or `schema.name` (which TOML reads as a table in a table).
fn tables(scope: &Scope<'_>, value: &Value, mistakes: &mut Mistakes) -> BTreeMap<(String, String), Table> {
    let mut found = BTreeMap::new();
    for entry in mistakes.table("tables", value).unwrap_or_default() {
        match &entry.value.node {
            Node::Table(inner) if !inner.is_empty() && inner.iter().all(|e| matches!(e.value.node, Node::Table(_))) => {
                for inner in inner {
                    one_table(scope, (entry.key.clone(), inner.key.clone()), inner, &mut found, mistakes);
                }
            }
            _ => {
                let (schema, table) = entry.key.split_once('.').unwrap_or(("public", &entry.key));
                one_table(scope, (schema.to_owned(), table.to_owned()), entry, &mut found, mistakes);
            }
        }
    }
    found
}

fn one_table(
    scope: &Scope<'_>,
    place: (String, String),
    entry: &Entry,
    found: &mut BTreeMap<(String, String), Table>,
    mistakes: &mut Mistakes,
) {
    let shown = if place.0 == "public" { name(&place.1) } else { format!("{:?}", format!("{}.{}", place.0, place.1)) };
    let whose = format!("table {shown} of {}", scope.place);
    if place.0.is_empty() || place.1.is_empty() || place.1.contains('.') {
        mistakes.add(entry.line, format!("{whose}: the name must be TABLE or SCHEMA.TABLE"));
    }
    let Some(table) = table(&whose, entry, mistakes) else { return };
    if found.insert(place, table).is_some() {
        mistakes.add(entry.line, format!("{whose} is listed twice"));
    }
}

/// `true` or `false`; false without an entry, none after a mistake.
fn flag(entry: Option<&Entry>, mistakes: &mut Mistakes) -> Option<bool> {
    let Some(entry) = entry else { return Some(false) };
    let Node::Bool(value) = entry.value.node else {
        let message = format!("{} must be true or false, not {}", entry.key, entry.value.node.kind());
        mistakes.add(entry.value.line, message);
        return None;
    };
    Some(value)
}

/// `{ key = "id", type = "bigint" }`, with `tag = true` for a text key, `{ key = ["a", "b"], type = ["bigint", "text"] }`, or
/// `{ reference = true }`.
fn table(whose: &str, entry: &Entry, mistakes: &mut Mistakes) -> Option<Table> {
    let keys = mistakes.table(whose, &entry.value)?;
    for entry in keys.iter().filter(|entry| !settings::TABLE.iter().any(|(key, _)| *key == entry.key)) {
        mistakes.add(entry.line, unknown_key(&entry.key, whose, settings::TABLE.iter().map(|(key, _)| *key)));
    }
    let find = |key: &str| keys.iter().find(|entry| entry.key == key);
    let (reference, tag) = (flag(find("reference"), mistakes)?, flag(find("tag"), mistakes)?);
    if let Some(entry) = find("tag").filter(|_| reference) {
        mistakes.add(entry.line, format!("{whose} has both reference and tag"));
        return None;
    }
    let (key, key_type) = match (find("key"), find("type"), reference) {
        (None, None, true) => return Some(Table::Reference),
        (Some(other), _, true) | (None, Some(other), true) => {
            mistakes.add(other.line, format!("{whose} has both reference and {}", other.key));
            return None;
        }
        (None, _, false) => {
            mistakes.add(entry.line, format!("{whose} needs key and type, or reference = true"));
            return None;
        }
        (Some(_), None, false) => {
            mistakes.add(entry.line, format!("{whose} has a key but no type"));
            return None;
        }
        (Some(key), Some(key_type), false) => (key, key_type),
    };
    let named = |name: &str| format!("{whose}: {name}");
    let (names, types) = (texts(&named("key"), key, mistakes), texts(&named("type"), key_type, mistakes));
    let (names, types) = (columns(whose, names?, mistakes), key_types(whose, types?, mistakes));
    let (names, mut types) = (names?, types?);
    if names.len() != types.len() {
        let message = format!(
            "{whose}: key has {}, but type has {}: give the type of each column, in the same order",
            counted(names.len(), "column"),
            counted(types.len(), "type")
        );
        mistakes.add(key_type.value.line, message);
        return None;
    }
    if let (Some(tag), true) = (find("tag"), tag) {
        match types.as_mut_slice() {
            [only @ KeyType::Text] => *only = KeyType::Tagged,
            [other] => {
                let message = format!("{whose}: tag = true is for keys of type text or varchar, not {}", other.name());
                mistakes.add(tag.line, message);
                return None;
            }
            _ => {
                let message =
                    format!("{whose}: tag = true is for keys of one column: make what they share a column of its own");
                mistakes.add(tag.line, message);
                return None;
            }
        }
    }
    let columns = names.into_iter().zip(types).map(|(name, key_type)| KeyColumn { name, key_type });
    TableKey::new(columns.collect()).map(|key| Table::Sharded { key })
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A string, or a list of strings, each with its line.
fn texts<'v>(what: &str, entry: &'v Entry, mistakes: &mut Mistakes) -> Option<Vec<(usize, &'v str)>> {
    let Node::List(items) = &entry.value.node else {
        return mistakes.text(what, &entry.value).map(|text| vec![(entry.value.line, text)]);
    };
    if items.is_empty() {
        mistakes.add(entry.value.line, format!("{what} is an empty list: a sharding key has at least one column"));
        return None;
    }
    let read: Vec<_> = items
        .iter()
        .map(|item| mistakes.text(&format!("{what}, each item"), item).map(|text| (item.line, text)))
        .collect();
    read.into_iter().collect()
}

/// The names of a key's columns.
fn columns(whose: &str, names: Vec<(usize, &str)>, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let mut known: Vec<String> = Vec::new();
    let mut good = true;
    for (line, name) in names {
        if name.is_empty() {
            mistakes.add(line, format!("{whose}: key is empty"));
            good = false;
        } else if known.iter().any(|other| other == name) {
            mistakes.add(line, format!("{whose}: column {name:?} is in the key twice"));
            good = false;
        } else if known.len() == TableKey::MAX_COLUMNS {
            mistakes.add(line, format!("{whose}: a key has at most {} columns", TableKey::MAX_COLUMNS));
            return None;
        }
        known.push(name.to_owned());
    }
    good.then_some(known)
}

/// The types of a key's columns.
fn key_types(whose: &str, names: Vec<(usize, &str)>, mistakes: &mut Mistakes) -> Option<Vec<KeyType>> {
    let mut read = |(line, text): (usize, &str)| {
        let found = KEY_TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        if found.is_none() {
            let near = expected(text, KEY_TYPES.iter().map(|(name, _)| *name));
            mistakes.add(line, format!("{whose}: type = {text:?} cannot be a sharding key{near}"));
        }
        found.map(|(_, key_type)| *key_type)
    };
    // Every mistake is told, not only the first.
    let types: Vec<Option<KeyType>> = names.into_iter().map(&mut read).collect();
    types.into_iter().collect()
}
