//! What a reload changes, by name. Pure: the pools decide what becomes of their connections.

use std::collections::BTreeSet;
use std::fmt;

use super::{Config, Database, Server, settings};
use crate::id::PeerId;

/// The difference between two configurations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Settings of `[pgweir]` that a reload takes over.
    pub settings: Vec<SettingChange>,
    /// Settings of `[pgweir]` that differ but need a restart: the old value stays in force.
    pub needs_restart: Vec<SettingChange>,
    /// Databases that are new.
    pub added: Vec<String>,
    /// Databases that are gone.
    pub removed: Vec<String>,
    /// Databases that differ.
    pub changed: Vec<DatabaseChange>,
    /// Users of `[users]` that are new, gone or different.
    pub users: Vec<String>,
    /// Peers of `[peers]` that are new, gone or different.
    pub peers: Vec<PeerId>,
    /// Settings that name a file whose content is another now. Whoever reads the files notes them.
    pub files: Vec<&'static str>,
}

/// A setting of `[pgweir]` that differs; the values as SHOW CONFIG writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// Its name.
    pub name: &'static str,
    /// Its value before.
    pub old: String,
    /// Its value now.
    pub new: String,
}

/// A database that differs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DatabaseChange {
    /// Its name.
    pub name: String,
    /// Servers that are new, with the name of their shard. One whose role changed is gone and new.
    pub servers_added: Vec<(String, Server)>,
    /// Servers that are gone: their connections drain.
    pub servers_removed: Vec<(String, Server)>,
    /// Whether user or password differ: connections made with the old ones drain.
    pub login: bool,
    /// Whether slots, tables, the default shard, or the list of shards differ.
    pub map: bool,
    /// Whether anything else does: sizes, pool mode, route, probing, weights, the order of servers.
    pub settings: bool,
}

impl Changes {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares the configuration in force with the one just read.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    let values = settings::values(&old.general, |field| field.show());
    for ((info, old), (_, new)) in values.into_iter().zip(settings::values(&new.general, |field| field.show())) {
        if old != new {
            let list = if info.changeable { &mut changes.settings } else { &mut changes.needs_restart };
            list.push(SettingChange { name: info.name, old, new });
        }
    }
    changes.added = new.databases.keys().filter(|name| !old.databases.contains_key(*name)).cloned().collect();
    for (name, before) in &old.databases {
        match new.databases.get(name) {
            None => changes.removed.push(name.clone()),
            Some(now) => changes.changed.extend(database(before, now)),
        }
    }
    let names = old.users.keys().chain(new.users.keys().filter(|name| !old.users.contains_key(*name)));
    changes.users = names.filter(|name| old.users.get(*name) != new.users.get(*name)).cloned().collect();
    changes.users.sort_unstable();
    let ids: BTreeSet<PeerId> = old.peers.keys().chain(new.peers.keys()).copied().collect();
    changes.peers = ids.into_iter().filter(|id| old.peers.get(id) != new.peers.get(id)).collect();
    changes
}

fn database(old: &Database, new: &Database) -> Option<DatabaseChange> {
    if old == new {
        return None;
    }
    let (before, now) = (servers(old), servers(new));
    let missing = |from: &[(String, Server)], other: &[(String, Server)]| {
        from.iter().filter(|one| !other.iter().any(|two| same(one, two))).cloned().collect::<Vec<_>>()
    };
    let mut change = DatabaseChange {
        name: new.name.clone(),
        servers_added: missing(&now, &before),
        servers_removed: missing(&before, &now),
        login: (&old.user, &old.password) != (&new.user, &new.password),
        map: old.map != new.map,
        settings: false,
    };
    // Whatever the fields above do not explain is a setting.
    let mut rest = old.clone();
    rest.user.clone_from(&new.user);
    rest.password.clone_from(&new.password);
    rest.map = new.map.clone();
    if !change.servers_added.is_empty() || !change.servers_removed.is_empty() || change.map {
        rest.shards.clone_from(&new.shards);
        let weight = |(one, two): (&(String, Server), &(String, Server))| {
            same(one, two) && (one.1.weight, &one.1.zone) != (two.1.weight, &two.1.zone)
        };
        change.settings = before.iter().any(|one| now.iter().any(|two| weight((one, two))));
    }
    change.settings |= rest != *new;
    Some(change)
}

/// Whether two entries are one server in one role of one shard: what a connection belongs to.
fn same((shard, one): &(String, Server), (other_shard, two): &(String, Server)) -> bool {
    shard == other_shard && (&one.host, one.port, &one.dbname, one.role) == (&two.host, two.port, &two.dbname, two.role)
}

fn servers(database: &Database) -> Vec<(String, Server)> {
    let of = |shard: &super::Shard| shard.servers.iter().map(|server| (shard.name.clone(), server.clone())).collect();
    database.shards.iter().flat_map(|shard| -> Vec<_> { of(shard) }).collect()
}

impl fmt::Display for Changes {
    /// One line for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let mut parts = Vec::new();
        let mut list = |what: &str, names: &[String]| {
            if !names.is_empty() {
                parts.push(format!("{what} {}", names.join(", ")).trim_start().to_owned());
            }
        };
        let text = |change: &SettingChange| format!("{} = {:?} (was {:?})", change.name, change.new, change.old);
        list("set", &self.settings.iter().map(text).collect::<Vec<_>>());
        list("databases added:", &self.added);
        list("databases removed:", &self.removed);
        list("databases changed:", &self.changed.iter().map(ToString::to_string).collect::<Vec<_>>());
        list("users changed:", &self.users);
        list("peers changed:", &self.peers.iter().map(ToString::to_string).collect::<Vec<_>>());
        let read = |name: &&str| format!("{name} read anew");
        list("", &self.files.iter().map(read).collect::<Vec<_>>());
        list("needs a restart:", &self.needs_restart.iter().map(text).collect::<Vec<_>>());
        f.write_str(&parts.join("; "))
    }
}

impl fmt::Display for DatabaseChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.servers_added.iter().map(|(_, server)| format!("+{}", server.address())));
        parts.extend(self.servers_removed.iter().map(|(_, server)| format!("-{}", server.address())));
        for (changed, what) in [(self.login, "login"), (self.map, "shard map"), (self.settings, "settings")] {
            if changed {
                parts.push(what.to_owned());
            }
        }
        write!(f, "{} ({})", self.name, parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::parse;
    use super::*;

    const OLD: &str = r#"
[pgweir]
auth_type = "trust"
[users.a]
[databases.app]
primary = "postgres://h1/app"
replicas = ["postgres://h2/app", "postgres://h3/app"]
[databases.gone]
host = "h9"
"#;

    fn changes(from: &str, to: &str) -> Changes {
        let new = OLD.replace(from, to);
        assert_ne!(OLD, new);
        diff(&parse(OLD, Path::new("x")).unwrap(), &parse(&new, Path::new("x")).unwrap())
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let config = parse(OLD, Path::new("x")).unwrap();
        let changes = diff(&config, &config.clone());
        assert!(changes.is_empty());
        assert_eq!(changes.to_string(), "nothing changed");
    }

    #[test]
    fn settings_are_told_from_those_that_need_a_restart() {
        let all = "auth_type = \"trust\"\nquery_wait_timeout = \"5s\"\nmax_lag = 3\nlisten_port = 6000\nworkers = 2
unix_socket_dir = \"/tmp\"\nlisten_addr = \"*\"\nhttp_listen = \"127.0.0.1:1\"";
        let changes = changes("auth_type = \"trust\"", all);
        let names = |list: &[SettingChange]| list.iter().map(|change| change.name).collect::<Vec<_>>();
        assert_eq!(names(&changes.settings), ["query_wait_timeout", "max_lag"]);
        assert_eq!(
            names(&changes.needs_restart),
            ["listen_addr", "listen_port", "unix_socket_dir", "workers", "http_listen"]
        );
        assert_eq!((changes.settings[0].old.as_str(), changes.settings[0].new.as_str()), ("120", "5"));
        assert!(changes.changed[0].settings, "max_lag is the default of databases");
    }

    #[test]
    fn databases_come_and_go() {
        let changes = changes("databases.gone", "databases.come");
        assert_eq!((changes.added, changes.removed), (vec!["come".to_owned()], vec!["gone".to_owned()]));
        assert!(changes.changed.is_empty() && changes.settings.is_empty() && changes.users.is_empty());
    }

    #[test]
    fn servers_come_and_go() {
        let changes = changes("h3/app", "h4/app");
        let [change] = changes.changed.as_slice() else { panic!("one change") };
        assert_eq!(change.to_string(), "app (+h4:5432/app -h3:5432/app)");
        assert_eq!((change.servers_added[0].0.as_str(), change.servers_removed.len()), ("default", 1));
        assert!(!change.login && !change.map && !change.settings);
    }

    #[test]
    fn a_swap_of_roles_is_a_change_of_servers() {
        let changes = changes("h1/app\"\nreplicas = [\"postgres://h2", "h2/app\"\nreplicas = [\"postgres://h1");
        assert_eq!((changes.changed[0].servers_added.len(), changes.changed[0].servers_removed.len()), (2, 2));
    }

    #[test]
    fn weights_logins_and_users_are_seen() {
        let weight = changes("\"postgres://h3/app\"", "{ url = \"postgres://h3/app\", weight = 2 }");
        assert!(weight.changed[0].settings && weight.changed[0].servers_added.is_empty());
        let login = changes("host = \"h9\"", "host = \"h9\"\nuser = \"u\"");
        assert!(login.changed[0].login && !login.changed[0].settings);
        assert_eq!(changes("[users.a]", "[users.b]").users, ["a", "b"]);
    }

    #[test]
    fn peers_come_go_and_move() {
        let text = |peers: &str| parse(&format!("{OLD}{peers}"), Path::new("x")).unwrap();
        let old = text("[peers.1]\nhost = \"a\"\n[peers.2]\nhost = \"b\"\n[peers.3]\nhost = \"c\"");
        let new = text("[peers.3]\nhost = \"c\"\nport = 1\n[peers.1]\nhost = \"a\"\n[peers.4]\nhost = \"d\"");
        let changes = diff(&old, &new);
        assert_eq!(changes.to_string(), "peers changed: 2, 3, 4");
    }
}
