//! From the tree of a file to the checked [`Config`]; every mistake is noted, and then all are told at once.

use std::collections::BTreeMap;
use std::path::Path;

use super::database::database;
use super::peers::peers;
use super::raw::{Entry, Mistakes, Node, Value, suggest};
use super::settings::{self, Setting};
use super::{AuthType, Config, Database, General, Overrides, Places, Sources, User, WILDCARD, tls};

const SECTIONS: [&str; 4] = ["pgweir", "databases", "users", "peers"];

/// What kind of file a configuration was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Our own.
    Toml,
    /// PgBouncer's.
    Ini,
}

impl Dialect {
    /// The section of the settings of the process, as messages call it.
    pub(super) const fn general(self) -> &'static str {
        match self {
            Self::Toml => "[pgweir]",
            Self::Ini => "[pgbouncer]",
        }
    }

    /// A database, as messages call it.
    pub(super) fn database(self, key: &str) -> String {
        match self {
            Self::Toml => format!("[databases.{}]", name(key)),
            Self::Ini => format!("[databases] {}", name(key)),
        }
    }

    /// A user, as messages call it.
    pub(super) fn user(self, key: &str) -> String {
        match self {
            Self::Toml => format!("[users.{}]", name(key)),
            Self::Ini => format!("[users] {}", name(key)),
        }
    }

    /// A peer, as messages call it.
    pub(super) fn peer(self, key: &str) -> String {
        match self {
            Self::Toml => format!("[peers.{}]", name(key)),
            Self::Ini => format!("[peers] {}", name(key)),
        }
    }
}

/// Where a tree comes from.
pub(super) struct Origin<'a> {
    /// Settings of the process that the file does not name.
    pub(super) base: General,
    /// The kind of file.
    pub(super) dialect: Dialect,
    /// The file.
    pub(super) path: &'a Path,
    /// What SET on the console changed since: it stands above the file.
    pub(super) set: &'a Overrides,
}

/// Checks a whole file.
///
/// Notes mistakes in `mistakes`; the result is of use only when there are none.
pub(super) fn config(root: &[Entry], origin: Origin<'_>, mistakes: &mut Mistakes) -> Config {
    let Origin { base, dialect, path, set } = origin;
    let section = |name: &str| root.iter().find(|entry| entry.key == name);
    for entry in root.iter().filter(|entry| !SECTIONS.contains(&entry.key.as_str())) {
        mistakes.add(entry.line, unknown_section(entry));
    }
    let general = general(section("pgweir"), base, (dialect, path, set), mistakes);
    let mut warnings = Vec::new();
    tls::warn(&general, &mut warnings);
    let mut databases = BTreeMap::new();
    let mut wildcard = None;
    if let Some(found) = section("databases") {
        for entry in mistakes.table("[databases]", &found.value).unwrap_or_default() {
            if let Some(database) = database(entry, dialect, &general, &mut warnings, mistakes) {
                match entry.key.as_str() {
                    WILDCARD => wildcard = Some(database),
                    name => drop(databases.insert(name.to_owned(), database)),
                }
            }
        }
    }
    if databases.is_empty() && wildcard.is_none() && mistakes.count() == 0 {
        warnings.push("no databases are configured: only the console can be connected to".to_owned());
    }
    let users = section("users").map(|found| users(&found.value, dialect, mistakes)).unwrap_or_default();
    let peers = section("peers").map(|found| peers(&found.value, dialect, mistakes)).unwrap_or_default();
    if general.prepare_unnamed > 0 && general.max_prepared_statements == 0 {
        warnings.push(
            "prepare_unnamed has no effect: max_prepared_statements is 0, so that no statement is kept".to_owned(),
        );
    }
    if general.peer_id == 0 && !peers.is_empty() {
        warnings.push("[peers] has no effect without peer_id: no cancel request is passed on".to_owned());
    }
    authentication(&general, databases.values().chain(&wildcard), &users, (root, dialect), mistakes);
    auth_queries(&general, &databases, wildcard.as_ref(), (root, dialect), mistakes);
    Config {
        path: path.to_owned(),
        dialect,
        general,
        databases,
        wildcard,
        users,
        peers,
        places: Places::of(root, path, |line| (path.to_owned(), line)),
        warnings,
        idle: BTreeMap::new(),
        sources: Sources::default(),
        set: Overrides::new(),
    }
}

/// What is wrong with a key at the top of the file.
fn unknown_section(entry: &Entry) -> String {
    let key = entry.key.as_str();
    let is_section = matches!(entry.value.node, Node::Table(_));
    if !is_section && settings::settings().any(|info| info.name == key) {
        return format!("{key:?} stands outside of a section; it belongs in [pgweir]");
    }
    if key == "pgbouncer" {
        return "unknown section [pgbouncer]; did you mean [pgweir]?".to_owned();
    }
    format!("unknown section {key:?}{}", suggest(key, SECTIONS))
}

/// `[pgweir]` over the defaults.
fn general(
    section: Option<&Entry>,
    base: General,
    (dialect, path, set): (Dialect, &Path, &Overrides),
    mistakes: &mut Mistakes,
) -> General {
    let mut general = base;
    let (line, entries) = match section {
        Some(section) => match mistakes.table(dialect.general(), &section.value) {
            Some(entries) => (section.line, entries),
            None => return general,
        },
        None => (0, &[][..]),
    };
    for entry in entries {
        match settings::set_general(&mut general, &entry.key, &entry.value.node) {
            Some(Ok(())) => {}
            Some(Err(why)) => mistakes.add(entry.value.line, format!("{} {why}", entry.key)),
            None => {
                let names = settings::settings().map(|info| info.name);
                mistakes.add(entry.line, unknown_key(&entry.key, "[pgweir]", names));
            }
        }
    }
    for (name, value) in set {
        if let Err(why) = settings::set(&mut general, name, value) {
            mistakes.add(0, why);
        }
    }
    let section_line = line;
    let directory = path.parent().unwrap_or(Path::new(""));
    let General { auth_file, auth_hba_file, auth_ident_file, logfile, pidfile, conffile, resolv_conf, .. } =
        &mut general;
    let files = [auth_file, auth_hba_file, auth_ident_file, logfile, pidfile, conffile, resolv_conf];
    for file in files.into_iter().flatten() {
        *file = directory.join(&*file);
    }
    // That goes without saying, and is no longer so when the file has another name one day.
    general.conffile = general.conffile.take().filter(|file| file != path);
    general.syslog.socket = directory.join(&general.syslog.socket);
    let line =
        |name: &str| entries.iter().find(|entry| entry.key == name).map_or(section_line, |entry| entry.value.line);
    if general.listen_addr.is_empty() && general.unix_socket_dir.is_none() {
        mistakes.add(line("listen_addr"), "nothing to listen on: listen_addr and unix_socket_dir are both empty");
    }
    match (general.auth_type, &general.auth_hba_file) {
        (AuthType::Hba, None) => mistakes.add(line("auth_type"), "auth_type = \"hba\" needs auth_hba_file"),
        (AuthType::Hba, Some(_)) => {}
        (_, Some(_)) => mistakes.add(line("auth_hba_file"), "auth_hba_file needs auth_type = \"hba\""),
        (_, None) if general.auth_ident_file.is_some() => {
            mistakes.add(line("auth_ident_file"), "auth_ident_file needs auth_type = \"hba\"");
        }
        (_, None) => {}
    }
    tls::check(&mut general, path, entries, section_line, mistakes);
    if dialect == Dialect::Ini {
        general.min_pool_size = general.min_pool_size.min(general.default_pool_size);
    }
    if general.min_pool_size > general.default_pool_size {
        let (min, size) = (general.min_pool_size, general.default_pool_size);
        mistakes.add(line("min_pool_size"), format!("min_pool_size = {min} is more than default_pool_size = {size}"));
    }
    general
}

/// `[users]`.
fn users(section: &Value, dialect: Dialect, mistakes: &mut Mistakes) -> BTreeMap<String, User> {
    let mut users = BTreeMap::new();
    for entry in mistakes.table("[users]", section).unwrap_or_default() {
        let place = dialect.user(&entry.key);
        if entry.key.is_empty() {
            mistakes.add(entry.line, "a user needs a name");
        }
        let Some(keys) = mistakes.table(&place, &entry.value) else { continue };
        let mut user = User::default();
        for key in keys {
            if !apply(settings::USER, &mut user, key, mistakes) {
                let names = settings::USER.iter().map(|setting| setting.name);
                mistakes.add(key.line, unknown_key(&key.key, &place, names));
            }
        }
        users.insert(entry.key.clone(), user);
    }
    users
}

/// What `auth_type` needs of the rest of the file.
fn authentication<'d>(
    general: &General,
    databases: impl Iterator<Item = &'d Database>,
    users: &BTreeMap<String, User>,
    (root, dialect): (&[Entry], Dialect),
    mistakes: &mut Mistakes,
) {
    let section = root.iter().find(|entry| entry.key == "pgweir");
    let entry = section.and_then(|section| match &section.value.node {
        Node::Table(entries) => entries.iter().find(|entry| entry.key == "auth_type"),
        _ => None,
    });
    let line = entry.or(section).map_or(0, |entry| entry.line);
    let databases: Vec<&Database> = databases.collect();
    let asked = general.auth_user.is_some() || databases.iter().any(|database| database.auth_user.is_some());
    let known = match general.auth_type {
        AuthType::Trust | AuthType::Cert | AuthType::Hba => !users.is_empty(),
        // Who there is, others know.
        AuthType::Ldap | AuthType::Pam => true,
        AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256 => users.values().any(|user| user.password.is_some()),
        AuthType::Any => {
            for database in databases.iter().filter(|database| database.user.is_none()) {
                let place = dialect.database(&database.name);
                mistakes.add(line, format!("auth_type = \"any\" needs user in {place}"));
            }
            true
        }
    };
    // One that is misspelt is told of; what follows from it would say nothing new.
    let misspelt = mistakes.has("unknown setting \"auth_");
    if !known && !asked && general.auth_file.is_none() && !misspelt {
        let auth = settings::values(general, |field| field.show()).into_iter();
        let auth = auth.filter(|(info, _)| info.name == "auth_type").map(|(_, value)| value).next().unwrap_or_default();
        let what = if matches!(general.auth_type, AuthType::Trust | AuthType::Cert | AuthType::Hba) {
            "users"
        } else {
            "users with passwords"
        };
        mistakes.add(line, format!("auth_type = \"{auth}\" needs auth_file, auth_user, or {what} in [users]"));
    }
}

/// What `auth_query` and its likes need of each other, for each section that sets one of them.
fn auth_queries(
    general: &General,
    databases: &BTreeMap<String, Database>,
    wildcard: Option<&Database>,
    (root, dialect): (&[Entry], Dialect),
    mistakes: &mut Mistakes,
) {
    let own = (dialect.general().to_owned(), vec!["pgweir"], &general.auth_query, &general.auth_dbname);
    let theirs = databases.values().chain(wildcard);
    let theirs =
        theirs.map(|d| (dialect.database(&d.name), vec!["databases", d.name.as_str()], &d.auth_query, &d.auth_dbname));
    for (place, path, query, dbname) in std::iter::once(own).chain(theirs) {
        if let Some(line) = line_of(root, &path, "auth_query")
            && !query.contains("$1")
        {
            mistakes.add(line, format!("auth_query of {place} has no $1, which stands for the user's name"));
        }
        let Some((line, dbname)) = line_of(root, &path, "auth_dbname").zip(dbname.as_ref()) else { continue };
        if matches!(dbname.as_str(), "pgweir" | "pgbouncer") {
            mistakes.add(line, format!("auth_dbname of {place} is the console, which has no users to ask for"));
        } else if dbname == WILDCARD || (!databases.contains_key(dbname) && wildcard.is_none()) {
            let near = suggest(dbname, databases.keys().map(String::as_str));
            mistakes.add(line, format!("auth_dbname = {dbname:?} of {place} is no database of [databases]{near}"));
        }
    }
}

/// The line of a key's value in a table of the file; none when it does not stand there.
fn line_of(root: &[Entry], path: &[&str], key: &str) -> Option<usize> {
    let mut entries = root;
    for name in path {
        let Node::Table(inner) = &entries.iter().find(|entry| entry.key == *name)?.value.node else { return None };
        entries = inner;
    }
    entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.line)
}

/// Sets a setting of a section's table; false when the table has no such setting.
pub(super) fn apply<T>(table: &[Setting<T>], target: &mut T, entry: &Entry, mistakes: &mut Mistakes) -> bool {
    let Some(setting) = table.iter().find(|setting| setting.name == entry.key) else { return false };
    if let Err(why) = setting.set(target, &entry.value.node) {
        mistakes.add(entry.value.line, format!("{} {why}", entry.key));
    }
    true
}

/// The message for a key that its section does not have.
pub(super) fn unknown_key<'n>(key: &str, place: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let near = suggest(key, names.iter().copied());
    if near.starts_with("; did") {
        return format!("unknown setting {key:?} in {place}{near}");
    }
    if place != "[pgweir]" && settings::settings().any(|info| info.name == key) {
        return format!("unknown setting {key:?} in {place}; it belongs in [pgweir]");
    }
    if settings::DATABASE.iter().any(|setting| setting.name == key) {
        return format!("unknown setting {key:?} in {place}; it belongs in [databases.NAME]");
    }
    if settings::PGBOUNCER_ONLY.contains(&key) {
        return format!("unknown setting {key:?} in {place}; it is PgBouncer's and not supported here");
    }
    format!("unknown setting {key:?} in {place}{near}")
}

/// A name as a table header writes it: bare, or in quotes when it must be.
pub(super) fn name(text: &str) -> String {
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { text.to_owned() } else { format!("{text:?}") }
}
