//! pgbouncer.ini, read as PgBouncer reads it and turned into the tree that TOML gives: from there on both are checked alike.
//!
//! `lex` reads lines and includes, `connstr` the values of `[databases]` and `[users]`, `table` knows every setting of
//! PgBouncer. Here a setting finds its counterpart, or is refused: none is taken and then ignored.

mod connstr;
mod lex;
pub(super) mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::raw::{Entry, Mistakes, Node, Value, suggest};
use super::{Config, ConfigError, Dialect, General, Overrides, Places, Read, check, field, settings};
use lex::{Item, Lines};
use table::{Kind, Row, Standing};

/// Longer than any login takes: what 0 means for `server_connect_timeout` in PgBouncer.
const NEVER: &str = "2147483647";
/// Over as soon as it is begun: what 0 means for `server_lifetime` in PgBouncer, which uses a connection once.
const ONCE: &str = "1us";

/// Whether a file is pgbouncer.ini: by its extension, or by a section that only that has.
pub(super) fn is_ini(path: &Path, text: &[u8]) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ini") => true,
        Some("toml") => false,
        _ => text.split(|byte| *byte == b'\n').any(|line| line.trim_ascii_start().starts_with(b"[pgbouncer]")),
    }
}

/// Reads and checks pgbouncer.ini; `read` opens it and what it includes. Every mistake is told with the file and line where it stands;
/// with one the configuration is what could be understood.
pub(super) fn load(path: &Path, set: &Overrides, read: Read<'_>) -> (Option<Config>, Vec<ConfigError>) {
    let mut mistakes = Mistakes::new(path);
    let mut lines = Lines::new(read);
    lines.file(path, &mut mistakes);
    let mut warnings = Vec::new();
    let sections = Sections::of(&lines, &mut warnings, &mut mistakes);
    sections.warn_of_duplicates(&lines, &mut warnings);
    let root = sections.tree(&mut warnings, &mut mistakes);
    let set = set.iter().map(as_ours).collect();
    let origin = check::Origin { base: defaults(), dialect: Dialect::Ini, path, set: &set };
    let mut config = check::config(&root, origin, &mut mistakes);
    warnings.append(&mut config.warnings);
    let value = |row: &Row| {
        let given = sections.general.iter().rev().find(|given| given.name == row.name);
        let default = row.defaults.first().copied().unwrap_or_default();
        (row.name, [given.map_or(default, |given| given.value.as_str()).to_owned(), default.to_owned()])
    };
    let idle = table::GENERAL.iter().filter(|row| row.standing == Standing::NoMeaning).map(value).collect();
    let stands = |line: usize| lines.place(line).cloned().unwrap_or_else(|| (path.to_owned(), 0));
    let config = Config { places: Places::of(&root, path, stands), warnings, idle, ..config };
    let mistakes = mistakes.into_sorted().into_iter().map(|mistake| placed(mistake, &lines)).collect();
    (Some(config), mistakes)
}

/// A setting as SET gives it, in the form of our own file: `yes` for a flag, and so on.
fn as_ours((name, value): (&String, &String)) -> (String, String) {
    let row = table::GENERAL.iter().find(|row| row.name == name);
    // What is wrong with a value is told by the setting itself.
    let ours = row.and_then(|row| normal(row.kind, value).ok());
    let ours = ours.unwrap_or_else(|| value.clone());
    match translate(name, 0, ours.clone()) {
        Some(Entry { key, value: Value { node: Node::Text(text), .. }, .. }) => (key, text),
        _ => (name.clone(), ours),
    }
}

/// A value as SHOW CONFIG shows it: as it stands in the file where its meaning here is another.
pub(super) fn shown(name: &str, value: String) -> String {
    let stands_for_zero = match name {
        "server_lifetime" => value.parse().is_ok_and(|seconds: f64| seconds > 0.0 && seconds <= 1e-6),
        "server_connect_timeout" => value == NEVER,
        _ => false,
    };
    if stands_for_zero { "0".to_owned() } else { value }
}

/// A mistake counts the lines of all files: this is where it really stands.
fn placed(mistake: ConfigError, lines: &Lines<'_>) -> ConfigError {
    match lines.place(mistake.line) {
        Some((path, line)) => ConfigError { path: path.clone(), line: *line, message: mistake.message },
        None => mistake,
    }
}

/// PgBouncer's defaults for what it has, ours for the rest.
pub(super) fn defaults() -> General {
    let mut general = General::default();
    // There it is no setting.
    "pgbouncer".clone_into(&mut general.auth_pam_service);
    // Nor is this: SIGTERM waits for clients.
    general.shutdown_timeout = Duration::ZERO;
    for row in table::GENERAL.iter().filter(|row| table::in_general(row.name)) {
        let Some(default) = row.defaults.first() else { continue };
        let node = Node::Text(normal(row.kind, default).unwrap_or_default());
        // That each is taken is tested.
        drop(settings::set_general(&mut general, row.name, &node));
    }
    general
}

/// A value and the place where it stands.
#[derive(Debug, Clone)]
struct Given {
    name: String,
    value: String,
    place: usize,
}

/// What stands in each section, in the order of the lines.
#[derive(Default)]
struct Sections {
    general: Vec<Given>,
    databases: Vec<Given>,
    users: Vec<Given>,
    peers: Vec<Given>,
    /// Where `[pgbouncer]` begins.
    begin: Option<usize>,
}

const NAMES: [&str; 4] = ["pgbouncer", "databases", "users", "peers"];

impl Sections {
    fn of(lines: &Lines<'_>, warnings: &mut Vec<String>, mistakes: &mut Mistakes) -> Self {
        let mut sections = Self::default();
        let mut current: Option<&str> = None;
        let mut outside = false;
        for (place, item) in &lines.items {
            match item {
                Item::Section(name) => {
                    current = Some(name);
                    if !NAMES.contains(&name.as_str()) {
                        mistakes.add(*place, format!("unknown section [{name}]{}", suggest(name, NAMES)));
                    }
                    if name == "pgbouncer" {
                        sections.begin_again(*place, lines, warnings);
                    }
                }
                Item::Pair(name, value) => {
                    let given = Given { name: name.clone(), value: value.clone(), place: *place };
                    match current {
                        Some("pgbouncer") => sections.general.push(given),
                        Some("databases") => sections.databases.push(given),
                        Some("users") => sections.users.push(given),
                        Some("peers") => sections.peers.push(given),
                        // The section was a mistake already.
                        Some(_) => {}
                        None if !outside => {
                            outside = true;
                            mistakes.add(*place, format!("{name:?} stands before the first [section]"));
                        }
                        None => {}
                    }
                }
            }
        }
        sections
    }

    /// PgBouncer puts every setting back to its default where `[pgbouncer]` begins, also when it begins again.
    fn begin_again(&mut self, place: usize, lines: &Lines<'_>, warnings: &mut Vec<String>) {
        self.begin = Some(place);
        let lost: BTreeSet<String> = self.general.drain(..).map(|given| given.name).collect();
        if lost.is_empty() {
            return;
        }
        let at = lines.place(place).map(|(path, line)| format!("{}:{line}", path.display())).unwrap_or_default();
        let lost: Vec<String> = lost.into_iter().collect();
        warnings.push(format!(
            "{at}: [pgbouncer] begins again, which puts back to their defaults, as in PgBouncer: {}",
            lost.join(", ")
        ));
    }

    /// Of what is given twice the last counts, as in PgBouncer, which says nothing of it.
    fn warn_of_duplicates(&self, lines: &Lines<'_>, warnings: &mut Vec<String>) {
        let at = |place: usize| lines.place(place).map(|(path, line)| format!("{}:{line}", path.display()));
        let sections = [&self.general, &self.databases, &self.users, &self.peers];
        for (section, givens) in NAMES.into_iter().zip(sections) {
            let mut last: BTreeMap<&str, usize> = BTreeMap::new();
            for Given { name, value, place } in givens {
                if let Some(before) = last.insert(name, *place) {
                    let (now, before) = (at(*place).unwrap_or_default(), at(before).unwrap_or_default());
                    warnings.push(format!(
                        "{now}: {name} of [{section}] is given again, and this one counts: it was given at {before}"
                    ));
                }
                // What is wrong with it is told where it is read.
                let pairs = if section == "pgbouncer" { Vec::new() } else { connstr::pairs(value).unwrap_or_default() };
                let mut keys = BTreeSet::new();
                for (key, _) in pairs.iter().filter(|(key, _)| !keys.insert(key.as_str())) {
                    let at = at(*place).unwrap_or_default();
                    warnings.push(format!("{at}: {key} of [{section}] {name} is given twice, and the last one counts"));
                }
            }
        }
    }

    /// The tree that a TOML file of the same meaning gives.
    fn tree(&self, warnings: &mut Vec<String>, mistakes: &mut Mistakes) -> Vec<Entry> {
        let mut idle = BTreeSet::new();
        let general = self.general_entries(&mut idle, mistakes);
        if !idle.is_empty() {
            let idle: Vec<&str> = idle.into_iter().collect();
            warnings.push(format!("settings that have no meaning here and change nothing: {}", idle.join(", ")));
        }
        let socket_dir = self.value_of("unix_socket_dir");
        let mut of = |given| database(given, &socket_dir, warnings, mistakes);
        let databases = self.databases.iter().filter_map(&mut of).collect();
        let users = self.users.iter().filter_map(|given| user(given, mistakes)).collect();
        let peers = self.peers.iter().filter_map(|given| peer(given, mistakes)).collect();
        let section = |name: &str, line: usize, entries: Vec<Entry>| Entry {
            key: name.to_owned(),
            line,
            value: Value { line, node: Node::Table(entries) },
        };
        vec![
            section("pgweir", self.begin.unwrap_or(0), general),
            section("databases", 0, last_of_each(databases)),
            section("users", 0, last_of_each(users)),
            section("peers", 0, last_of_each(peers)),
        ]
    }

    /// The value in force of a setting of `[pgbouncer]`, as far as it can be read.
    fn value_of(&self, name: &str) -> String {
        let Some(row) = table::GENERAL.iter().find(|row| row.name == name) else { return String::new() };
        let given = self.general.iter().rev().find(|given| given.name == name).map(|given| given.value.as_str());
        let text = given.or(row.defaults.first().copied()).unwrap_or_default();
        normal(row.kind, text).unwrap_or_default()
    }

    fn general_entries<'s>(&'s self, idle: &mut BTreeSet<&'s str>, mistakes: &mut Mistakes) -> Vec<Entry> {
        let mut last: BTreeMap<&str, &Given> = BTreeMap::new();
        for given in &self.general {
            last.insert(&given.name, given);
        }
        let mut entries = Vec::new();
        for given in last.into_values() {
            let Some(row) = table::GENERAL.iter().find(|row| row.name == given.name) else {
                if table::in_general(&given.name) {
                    // A setting that only we have.
                    entries.push(entry(&given.name, given.place, given.value.clone()));
                } else {
                    mistakes.add(given.place, unknown(&given.name, "[pgbouncer]", table::GENERAL));
                }
                continue;
            };
            let moot = row.moot.is_some_and(|moot| moot(&|name| self.value_of(name)));
            match judge(row, &given.value, moot) {
                Ok(Some(value)) => entries.extend(translate(row.name, given.place, value)),
                Ok(None) if row.standing == Standing::NoMeaning => {
                    idle.insert(&given.name);
                }
                Ok(None) => {}
                Err(why) => mistakes.add(given.place, why),
            }
        }
        entries
    }
}

/// What a setting of ours gets from it; none when there is nothing to set.
fn judge(row: &Row, text: &str, moot: bool) -> Result<Option<String>, String> {
    let from_above = row.defaults.first().is_some_and(|default| default.starts_with('-'));
    match row.standing {
        Standing::Same | Standing::Better
            if from_above && row.defaults.iter().any(|default| alike(row.kind, default, text)) =>
        {
            Ok(None)
        }
        // Not looked at there either.
        Standing::Same | Standing::Better if moot => Ok(None),
        Standing::Same | Standing::Better => {
            normal(row.kind, text).map(Some).map_err(|why| format!("{} {why}", row.name))
        }
        Standing::NoMeaning => normal(row.kind, text).map(|_| None).map_err(|why| format!("{} {why}", row.name)),
    }
}

fn alike(kind: Kind, default: &str, text: &str) -> bool {
    default == text || normal(kind, text).is_ok_and(|text| normal(kind, default).is_ok_and(|default| default == text))
}

/// A value in the form in which our settings take it. Values of text may be secrets and are in no message.
fn normal(kind: Kind, text: &str) -> Result<String, String> {
    match kind {
        Kind::Text => Ok(text.to_owned()),
        Kind::Word => Ok(text.to_ascii_lowercase()),
        Kind::Directory if text.starts_with('@') => Ok(text.to_owned()),
        Kind::File | Kind::Directory if text.is_empty() => Ok(String::new()),
        Kind::File | Kind::Directory => match std::path::absolute(text) {
            Ok(path) => Ok(path.to_string_lossy().into_owned()),
            Err(why) => Err(format!("is not the name of a file: {why}")),
        },
        Kind::Whole => whole(text).map(|number| number.to_string()),
        Kind::Mode => match whole(text)? {
            bits @ 0..=0o777 => Ok(format!("{bits:04o}")),
            bits => Err(format!(
                "= {text:?} is {}{}",
                format_args!("{bits:o} in octal digits, more than 0777"),
                meant_as_octal(text)
            )),
        },
        Kind::Flag => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" => Ok("1".to_owned()),
            "no" | "off" | "false" => Ok("0".to_owned()),
            // Any whole number is one there: 0 means no, and others yes.
            _ => whole(text).map(|number| u8::from(number != 0).to_string()).map_err(|_| field::no_boolean(text)),
        },
        Kind::Seconds => match text.parse::<f64>() {
            Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds.to_string()),
            _ => Err(format!("= {text:?} is not a number of seconds, like 15 or 0.5")),
        },
    }
}

/// For a number of which PgBouncer does not see that it is meant as an octal one.
fn meant_as_octal(text: &str) -> String {
    let is_octal = u32::from_str_radix(text, 8).is_ok_and(|bits| bits <= 0o777);
    if is_octal && !text.starts_with('0') {
        format!(": without a 0 before it the number is decimal, as in PgBouncer; is 0{text} meant?")
    } else {
        String::new()
    }
}

/// A whole number as C's strtol reads it: 0x begins a hexadecimal one, another 0 an octal one.
fn whole(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None if lower.len() > 1 && lower.starts_with('0') => (lower.as_str(), 8),
        None => (lower.as_str(), 10),
    };
    let number = i64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with(['-', '+']));
    number.and_then(|number| number.checked_mul(sign)).ok_or_else(|| format!("= {text:?} is not a whole number"))
}

/// The entry of a setting of `[pgbouncer]`, where its meaning here is another.
fn translate(name: &str, place: usize, value: String) -> Option<Entry> {
    Some(match (name, value.as_str()) {
        ("verbose", "0") => return None,
        ("verbose", "1") => entry("log_level", place, "debug".to_owned()),
        ("verbose", _) => entry("log_level", place, "trace".to_owned()),
        // Here 0 means: never closed.
        ("server_lifetime", "0") => entry(name, place, ONCE.to_owned()),
        ("server_connect_timeout", "0") => entry(name, place, NEVER.to_owned()),
        _ => entry(name, place, value),
    })
}

/// One line of `[databases]`.
fn database(given: &Given, socket_dir: &str, warnings: &mut Vec<String>, mistakes: &mut Mistakes) -> Option<Entry> {
    let here = |name: &str| table::in_database(name);
    let place = Dialect::Ini.database(&given.name);
    let mut entries = connection(given, &place, table::DATABASE, &here, mistakes)?;
    for entry in &mut entries {
        if let ("server_lifetime", Node::Text(text)) = (entry.key.as_str(), &mut entry.value.node)
            && text == "0"
        {
            ONCE.clone_into(text);
        }
    }
    let without_user = !entries.iter().any(|entry| entry.key == "user");
    if let Some(at) = entries.iter().position(|entry| entry.key == "password").filter(|_| without_user) {
        entries.remove(at);
        warnings.push(format!("{place} has password but no user: as in PgBouncer it is not looked at"));
    }
    if !entries.iter().any(|entry| entry.key == "host") {
        if socket_dir.is_empty() {
            mistakes.add(given.place, format!("{place} has no host, and unix_socket_dir is empty"));
        }
        entries.push(entry("host", given.place, socket_dir.to_owned()));
    }
    Some(table_entry(given, entries))
}

const TIMEOUTS_OF_USERS: [&str; 4] =
    ["client_idle_timeout", "idle_transaction_timeout", "query_timeout", "transaction_timeout"];

/// One line of `[users]`.
fn user(given: &Given, mistakes: &mut Mistakes) -> Option<Entry> {
    let here = |name: &str| table::in_user(name);
    let place = Dialect::Ini.user(&given.name);
    let mut entries = connection(given, &place, table::USER, &here, mistakes)?;
    // There 0 overrides nothing; here it overrides a limit by none.
    let unset = |entry: &Entry| {
        let timeout = TIMEOUTS_OF_USERS.contains(&entry.key.as_str());
        timeout && matches!(&entry.value.node, Node::Text(text) if text == "0")
    };
    entries.retain(|entry| !unset(entry));
    Some(table_entry(given, entries))
}

/// One line of `[peers]`.
fn peer(given: &Given, mistakes: &mut Mistakes) -> Option<Entry> {
    let here = |name: &str| table::in_peer(name);
    let place = Dialect::Ini.peer(&given.name);
    let entries = connection(given, &place, table::PEER, &here, mistakes)?;
    let entry = table_entry(given, entries);
    // There 01 is the same number as 1. What is none at all is told later.
    let key = given.name.parse::<u16>().map_or(entry.key, |number| number.to_string());
    Some(Entry { key, ..entry })
}

/// The pairs of a connection string, as entries of ours; none when it cannot be split.
fn connection(
    given: &Given,
    place: &str,
    rows: &[Row],
    here: &dyn Fn(&str) -> bool,
    mistakes: &mut Mistakes,
) -> Option<Vec<Entry>> {
    let pairs = match connstr::pairs(&given.value) {
        Ok(pairs) => pairs,
        Err(why) => {
            mistakes.add(given.place, format!("{place}: {why}"));
            return None;
        }
    };
    let mut entries = Vec::new();
    for (name, text) in pairs {
        let Some(row) = rows.iter().find(|row| row.name == name) else {
            if here(&name) && !["primary", "replicas", "shards", "tables", "default_shard"].contains(&name.as_str()) {
                entries.push(entry(&name, given.place, text));
            } else {
                mistakes.add(given.place, unknown(&name, place, rows));
            }
            continue;
        };
        match judge(row, &text, false) {
            Ok(Some(value)) => {
                let name = if row.name == "reserve_pool" { "reserve_pool_size" } else { row.name };
                entries.push(entry(name, given.place, value));
            }
            Ok(None) => {}
            Err(why) => mistakes.add(given.place, format!("{place}: {why}")),
        }
    }
    Some(last_of_each(entries))
}

fn unknown(name: &str, place: &str, rows: &[Row]) -> String {
    let near = suggest(name, rows.iter().map(|row| row.name));
    let elsewhere = table::GENERAL.iter().any(|row| row.name == name);
    if elsewhere && !near.starts_with("; did") {
        return format!("unknown setting {name:?} in {place}; it belongs in [pgbouncer]");
    }
    format!("unknown setting {name:?} in {place}{near}")
}

fn entry(key: &str, line: usize, text: String) -> Entry {
    Entry { key: key.to_owned(), line, value: Value { line, node: Node::Text(text) } }
}

fn table_entry(given: &Given, entries: Vec<Entry>) -> Entry {
    Entry { key: given.name.clone(), line: given.place, value: Value { line: given.place, node: Node::Table(entries) } }
}

/// Of entries with the same key the last one counts, as in PgBouncer.
fn last_of_each(entries: Vec<Entry>) -> Vec<Entry> {
    let mut last: Vec<Entry> = Vec::with_capacity(entries.len());
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries {
        match at.get(&entry.key).and_then(|at| last.get_mut(*at)) {
            Some(known) => *known = entry,
            None => {
                at.insert(entry.key.clone(), last.len());
                last.push(entry);
            }
        }
    }
    last
}
