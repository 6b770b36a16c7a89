//! `[databases.NAME]`: settings, servers, and the checks that span them.

use super::address::{self, Url};
use super::check::{Dialect, apply, unknown_key};
use super::raw::{Entry, Mistakes, Node, Value};
use super::sharding;
use super::{Database, General, HttpAddress, Role, Server, Shard, WILDCARD, settings};

/// The only shard of a database that is not sharded.
const ONLY_SHARD: &str = "default";

/// A server's login as its URL gives it, and where.
struct Login {
    line: usize,
    user: Option<String>,
    password: Option<String>,
}

/// What is known of one database while it is read.
pub(super) struct Scope<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// `[databases.NAME]`, for messages.
    pub(super) place: String,
    /// Where it begins.
    pub(super) line: usize,
    /// Its keys.
    pub(super) keys: &'a [Entry],
    logins: Vec<Login>,
}

impl<'a> Scope<'a> {
    /// The entry of a key.
    pub(super) fn find(&self, key: &str) -> Option<&'a Entry> {
        self.keys.iter().find(|entry| entry.key == key)
    }
}

/// Reads one database; none when it cannot be a database at all. The mistakes are noted.
pub(super) fn database(
    entry: &Entry,
    dialect: Dialect,
    general: &General,
    warnings: &mut Vec<String>,
    mistakes: &mut Mistakes,
) -> Option<Database> {
    refuse_names(entry, mistakes)?;
    let place = dialect.database(&entry.key);
    if let Node::Text(_) = entry.value.node {
        let why = format!("{place} must be a table with host, port and dbname, not a connection string");
        mistakes.add(entry.value.line, why);
        return None;
    }
    let keys = mistakes.table(&place, &entry.value)?;
    let mut scope = Scope { name: &entry.key, place, line: entry.line, keys, logins: Vec::new() };
    let before = mistakes.count();
    let mut database = settings_of(&scope, general, mistakes);
    if scope.name == WILDCARD {
        one_server(&scope, mistakes);
    }
    shape(&mut scope, &mut database, mistakes);
    login(&scope, &mut database, mistakes);
    probed(&scope, &database, mistakes);
    if dialect == Dialect::Ini {
        database.min_pool_size = database.min_pool_size.min(database.pool_size);
    }
    sizes(&scope, &database, general, mistakes);
    if mistakes.count() == before {
        warn(&scope.place, &database, warnings);
    }
    Some(database)
}

/// Names that no database may have.
fn refuse_names(entry: &Entry, mistakes: &mut Mistakes) -> Option<()> {
    let why = match entry.key.as_str() {
        "pgweir" | "pgbouncer" => format!("a database cannot be called {:?}: that is the admin console", entry.key),
        "" => "a database needs a name".to_owned(),
        key if key.contains('\0') => "a database's name must not contain a zero byte".to_owned(),
        _ => return Some(()),
    };
    mistakes.add(entry.line, why);
    None
}

/// The defaults of the database, and its own settings over them. The servers come later.
fn settings_of(scope: &Scope<'_>, general: &General, mistakes: &mut Mistakes) -> Database {
    let mut database = Database::inherited(scope.name, general);
    for entry in scope.keys {
        if apply(settings::DATABASE, &mut database, entry, mistakes)
            || apply(settings::HEALTH, &mut database.health, entry, mistakes)
            || apply(settings::PINNING, &mut database.pinning, entry, mistakes)
            || settings::DATABASE_SHAPE.iter().any(|(key, _)| *key == entry.key)
        {
            continue;
        }
        let names = settings::DATABASE
            .iter()
            .map(|setting| setting.name)
            .chain(settings::HEALTH.iter().map(|setting| setting.name))
            .chain(settings::PINNING.iter().map(|setting| setting.name))
            .chain(settings::DATABASE_SHAPE.iter().map(|(key, _)| *key));
        mistakes.add(entry.line, unknown_key(&entry.key, &scope.place, names));
    }
    database
}

/// What databases are made of at any moment cannot be probed or mapped ahead.
fn one_server(scope: &Scope<'_>, mistakes: &mut Mistakes) {
    for entry in ["replicas", "servers", "shards", "patroni"].into_iter().filter_map(|key| scope.find(key)) {
        let why = format!("{} cannot have {}: list databases that have them by their names", scope.place, entry.key);
        mistakes.add(entry.line, why);
    }
}

/// Servers and shards: exactly one of the simple form, primary and replicas, or shards.
fn shape(scope: &mut Scope<'_>, database: &mut Database, mistakes: &mut Mistakes) {
    let shards = scope.find("shards");
    let primary = ["primary", "replicas", "servers"].into_iter().find_map(|key| scope.find(key));
    let simple = ["host", "port", "dbname"].into_iter().find_map(|key| scope.find(key));
    let mixed =
        |one: &Entry, other: &str| format!("{} and {other} exclude each other: {} has both", one.key, scope.place);
    match (simple, primary, shards) {
        (Some(simple), Some(other), _) | (Some(simple), None, Some(other)) => {
            mistakes.add(simple.line, mixed(simple, &other.key));
        }
        (None, Some(primary), Some(_)) => mistakes.add(primary.line, mixed(primary, "shards")),
        (None, None, None) => {
            let why = format!("{} has no server: it needs host, primary, servers or shards", scope.place);
            mistakes.add(scope.line, why);
        }
        (Some(_), None, None) => {
            if let Some(server) = simple_server(scope, mistakes) {
                let (servers, patroni) = (vec![server], Vec::new());
                database.shards = vec![Shard { name: ONLY_SHARD.to_owned(), servers, patroni }];
            }
        }
        (None, Some(_), None) => {
            let servers = servers(scope, &scope.place.clone(), scope.line, scope.keys, mistakes);
            let patroni = patroni(&scope.place, scope.keys, mistakes);
            database.shards = vec![Shard { name: ONLY_SHARD.to_owned(), servers, patroni }];
        }
        (None, None, Some(shards)) => sharding::shards(scope, shards, database, mistakes),
    }
    if let Some(entry) = scope.find("patroni").filter(|_| scope.name != WILDCARD) {
        let why = match (simple, shards) {
            (_, Some(_)) => "each of its shards has its own",
            (Some(_), None) => "it looks after a primary and replicas, or servers",
            (None, None) => "",
        };
        if !why.is_empty() {
            mistakes.add(entry.line, format!("{} cannot have patroni: {why}", scope.place));
        }
    }
    if shards.is_none() {
        for entry in ["tables", "default_shard", "cross_shard_writes", "unkeyed_writes", "partial_results"]
            .into_iter()
            .filter_map(|key| scope.find(key))
        {
            let why = format!("{} has {} but no shards", scope.place, entry.key);
            mistakes.add(entry.line, why);
        }
    }
}

/// host, port and dbname, as PgBouncer has them.
fn simple_server(scope: &Scope<'_>, mistakes: &mut Mistakes) -> Option<Server> {
    let port = scope.find("port").map_or(Some(address::DEFAULT_PORT), |entry| {
        let port = match &entry.value.node {
            Node::Number(text) | Node::Text(text) => text.parse::<u16>().ok().filter(|port| *port > 0),
            _ => None,
        };
        if port.is_none() {
            mistakes.add(entry.value.line, "port must be a number from 1 to 65535");
        }
        port
    });
    let dbname = scope.find("dbname").map_or(Some(scope.name), |entry| {
        mistakes.text("dbname", &entry.value).filter(|dbname| {
            let good = !dbname.is_empty() && !dbname.contains('\0');
            if !good {
                mistakes.add(entry.value.line, "dbname is empty or contains a zero byte");
            }
            good
        })
    });
    let Some(host) = scope.find("host") else {
        let why = format!("{} has no server: it needs host, primary, servers or shards", scope.place);
        mistakes.add(scope.line, why);
        return None;
    };
    let text = mistakes.text("host", &host.value)?;
    match address::parse_hosts(text) {
        Ok(host) => {
            Some(Server { host, port: port?, dbname: dbname?.to_owned(), role: Role::Primary, weight: 1.0, zone: None })
        }
        Err(wrong) => {
            mistakes.add(
                host.value.line,
                format!("host {}", wrong.with_text("; a \"postgres://\" address belongs in primary")),
            );
            None
        }
    }
}

/// The servers of one shard, the primary first, where it is named; `keys` are those of the shard's own table.
pub(super) fn servers(
    scope: &mut Scope<'_>,
    place: &str,
    line: usize,
    keys: &[Entry],
    mistakes: &mut Mistakes,
) -> Vec<Server> {
    let find = |key: &str| keys.iter().find(|entry| entry.key == key);
    if let Some(entry) = find("servers") {
        if let Some(other) = find("primary").or_else(|| find("replicas")) {
            mistakes.add(entry.line, format!("servers and {} exclude each other: {place} has both", other.key));
        }
        let items = mistakes.list("servers", &entry.value).unwrap_or_default();
        if items.is_empty() {
            mistakes.add(entry.line, format!("{place} has no server"));
        }
        return items.iter().filter_map(|item| replica(scope, item, Role::Auto, mistakes)).collect();
    }
    let mut servers = Vec::new();
    match find("primary") {
        None => mistakes.add(line, format!("{place} has no primary")),
        Some(entry) => {
            if let Some(text) = mistakes.text("primary", &entry.value) {
                servers.extend(server(scope, "primary", entry.value.line, text, (Role::Primary, 1.0, None), mistakes));
            }
        }
    }
    let Some(entry) = find("replicas") else { return servers };
    for item in mistakes.list("replicas", &entry.value).unwrap_or_default() {
        servers.extend(replica(scope, item, Role::Replica, mistakes));
    }
    servers
}

/// `patroni`: where the Patroni that looks after these servers is asked.
pub(super) fn patroni(place: &str, keys: &[Entry], mistakes: &mut Mistakes) -> Vec<HttpAddress> {
    let Some(entry) = keys.iter().find(|entry| entry.key == "patroni") else { return Vec::new() };
    let mut addresses = Vec::new();
    for item in mistakes.list("patroni", &entry.value).unwrap_or_default() {
        match mistakes.text("patroni", item).map(address::parse_patroni) {
            Some(Ok(address)) => addresses.push(address),
            Some(Err(why)) => mistakes.add(item.line, format!("patroni of {place}: {why}")),
            None => {}
        }
    }
    addresses
}

/// One item of `replicas` or `servers`: an address, or a table of url, weight and zone.
fn replica(scope: &mut Scope<'_>, item: &Value, role: Role, mistakes: &mut Mistakes) -> Option<Server> {
    let what = if role == Role::Auto { "server" } else { "replica" };
    let keys = match &item.node {
        Node::Text(text) => return server(scope, what, item.line, text, (role, 1.0, None), mistakes),
        Node::Table(keys) => keys,
        other => {
            let why = format!("a {what} must be an address or {{ url = ..., weight = ... }}, not {}", other.kind());
            mistakes.add(item.line, why);
            return None;
        }
    };
    let mut weight = 1.0;
    let mut zone = None;
    let mut address = None;
    for entry in keys {
        match entry.key.as_str() {
            "url" => address = Some((entry.value.line, mistakes.text("url", &entry.value)?)),
            "weight" => weight = self::weight(&entry.value, mistakes),
            "zone" => zone = Some(mistakes.text("zone", &entry.value)?.to_owned()).filter(|zone| !zone.is_empty()),
            other => {
                let names = settings::REPLICA.iter().map(|(key, _)| *key);
                mistakes.add(entry.line, unknown_key(other, &format!("a {what} of {}", scope.place), names));
            }
        }
    }
    match address {
        Some((line, text)) => server(scope, what, line, text, (role, weight, zone), mistakes),
        None => {
            mistakes.add(item.line, format!("a {what} needs url"));
            None
        }
    }
}

fn weight(value: &Value, mistakes: &mut Mistakes) -> f64 {
    let found = match &value.node {
        Node::Number(text) => text.parse::<f64>().ok(),
        _ => None,
    };
    // Beyond a million, sums of weights lose the small ones.
    match found {
        Some(weight) if (0.0..=1e6).contains(&weight) => weight.abs(),
        Some(weight) => {
            mistakes.add(value.line, format!("weight = {weight} is not a number from 0 to 1000000"));
            1.0
        }
        None => {
            mistakes.add(value.line, format!("weight must be a number from 0 to 1000000, not {}", value.node.kind()));
            1.0
        }
    }
}

/// Reads a server's address; its login is kept for [`login`].
fn server(
    scope: &mut Scope<'_>,
    what: &str,
    line: usize,
    text: &str,
    (role, weight, zone): (Role, f64, Option<String>),
    mistakes: &mut Mistakes,
) -> Option<Server> {
    match address::parse_url(text) {
        Ok(Url { host, port, dbname, user, password }) => {
            if user.is_some() || password.is_some() {
                scope.logins.push(Login { line, user, password });
            }
            Some(Server { host, port, dbname: dbname.unwrap_or_else(|| scope.name.to_owned()), role, weight, zone })
        }
        Err(why) => {
            mistakes.add(line, format!("{what}: {why}"));
            None
        }
    }
}

/// One login for all servers of a database, whether it stands in `user` and `password` or in the addresses.
fn login(scope: &Scope<'_>, database: &mut Database, mistakes: &mut Mistakes) {
    for login in &scope.logins {
        let parts = [("user", &mut database.user, &login.user), ("password", &mut database.password, &login.password)];
        for (what, ours, theirs) in parts {
            match (&*ours, theirs) {
                (Some(one), Some(other)) if one != other => {
                    let why =
                        format!("the {what} of this address is not that of {}; all servers take one", scope.place);
                    mistakes.add(login.line, why);
                }
                (None, Some(_)) => ours.clone_from(theirs),
                _ => {}
            }
        }
    }
    let pairs = [
        ("user", "password", &database.user, &database.password),
        ("probe_user", "probe_password", &database.probe_user, &database.probe_password),
    ];
    for (user_key, password_key, user, password) in pairs {
        if user.is_none() && password.is_some() {
            let line = scope.find(password_key).map(|entry| entry.line);
            let line = line.or(scope.logins.first().map(|login| login.line)).unwrap_or(scope.line);
            mistakes.add(line, format!("{} has {password_key} but no {user_key}", scope.place));
        }
    }
}

/// Whoever is to find out what the servers are must be able to log in to them.
fn probed(scope: &Scope<'_>, database: &Database, mistakes: &mut Mistakes) {
    let auto = database.shards.iter().flat_map(|shard| &shard.servers).any(|server| server.role == Role::Auto);
    if auto && database.user.is_none() && database.probe_user.is_none() {
        let why =
            format!("{} has servers, and so needs probe_user or user to find out which is the primary", scope.place);
        mistakes.add(scope.line, why);
    }
    let patroni = database.shards.iter().any(|shard| !shard.patroni.is_empty());
    if patroni && !auto && database.user.is_none() && database.probe_user.is_none() {
        let why =
            format!("{} has patroni, and so needs probe_user or user: what Patroni says has a probe look", scope.place);
        mistakes.add(scope.line, why);
    }
    let two_phase = database.writes.cross == crate::shard::map::CrossShardWrites::TwoPhase;
    if two_phase && database.user.is_none() && database.probe_user.is_none() {
        let why = format!(
            "{} has cross_shard_writes = \"two_phase\", and so needs probe_user or user, who owns the table of decisions and ends what is left behind",
            scope.place
        );
        mistakes.add(scope.line, why);
    }
}

fn sizes(scope: &Scope<'_>, database: &Database, general: &General, mistakes: &mut Mistakes) {
    let own = scope.find("min_pool_size").or_else(|| scope.find("pool_size"));
    // What the defaults get wrong is said once, of [pgweir].
    let Some(own) = own.filter(|_| general.min_pool_size <= general.default_pool_size) else { return };
    let (min, size) = (database.min_pool_size, database.pool_size);
    if min > size {
        mistakes.add(own.line, format!("min_pool_size = {min} is more than pool_size = {size} in {}", scope.place));
    }
}

/// What is allowed but probably not meant.
fn warn(place: &str, database: &Database, warnings: &mut Vec<String>) {
    let replicas = |shard: &Shard| shard.servers.iter().any(|server| server.role == Role::Replica);
    if database.shards.iter().any(replicas) && database.user.is_none() && database.probe_user.is_none() {
        warnings.push(format!("{place} has replicas but neither probe_user nor user: its servers are not probed"));
    }
    for shard in &database.shards {
        for (i, server) in shard.servers.iter().enumerate() {
            let same = |other: &&Server| {
                (&other.host, other.port, &other.dbname) == (&server.host, server.port, &server.dbname)
            };
            if shard.servers.iter().take(i).any(|other| same(&other)) {
                let what = if shard.name == ONLY_SHARD {
                    place.to_owned()
                } else {
                    format!("shard {:?} of {place}", shard.name)
                };
                warnings.push(format!("{what} lists the server {} twice", server.address()));
            }
        }
    }
}
