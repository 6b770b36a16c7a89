//! SHOW VERSION, STATE, LISTS, CONFIG and HELP.

use super::{Field, INT4, Notice, TEXT, Table, int, peers, pools, table, table_of, text};
use crate::admin::parse::Show;
use crate::metrics::snapshot::{Setting, Snapshot, State};

pub(super) fn version(s: &Snapshot) -> Table {
    table(&[("version", TEXT)], vec![vec![text(format!("pgweir {}", s.version))]])
}

pub(super) fn state(s: &Snapshot) -> Table {
    // A process that drains still serves whom it has: PgBouncer calls that active, too.
    let active = matches!(s.state, State::Active | State::Draining);
    let rows = [("active", active), ("paused", s.state == State::Paused), ("suspended", s.state == State::Suspended)];
    table(
        &[("key", TEXT), ("value", TEXT)],
        rows.into_iter().map(|(key, is)| vec![text(key), text(yes_no(is))]).collect(),
    )
}

pub(super) fn lists(s: &Snapshot) -> Table {
    let clients = s.logins.iter().map(|l| u64::from(l.clients)).sum::<u64>();
    let servers = s.pools.iter().map(|p| u64::from(p.servers.total())).sum::<u64>();
    let login = u64::from(s.clients_logging_in);
    // With those at the console, and those who came to cancel something.
    let others = u64::from(s.console.clients) + u64::from(s.console.cancels);
    let rows: [(&str, u64); 14] = [
        // The console is one of them, as in the tables.
        ("databases", s.databases.len() as u64 + 1),
        ("users", s.users.len() as u64 + u64::from(pools::console_is_apart(s))),
        ("peers", s.peers.len() as u64),
        ("pools", pools::count(s) as u64),
        ("peer_pools", peers::count(s) as u64),
        // No object of a closed connection is kept for the next.
        ("free_clients", 0),
        ("used_clients", clients + login + others),
        ("login_clients", login),
        ("free_servers", 0),
        ("used_servers", servers),
        ("dns_names", s.dns.hosts.len() as u64),
        ("dns_zones", s.dns.zones.len() as u64),
        ("dns_queries", s.dns.queries),
        ("dns_pending", s.dns.pending),
    ];
    table(
        &[("list", TEXT), ("items", INT4)],
        rows.into_iter().map(|(list, items)| vec![text(list), int(items)]).collect(),
    )
}

pub(super) fn config(s: &Snapshot) -> Table {
    let fields: [Field<Setting>; 4] = [
        ("key", TEXT, |c| text(c.key)),
        ("value", TEXT, |c| text(&c.value)),
        ("default", TEXT, |c| text(&c.default)),
        ("changeable", TEXT, |c| text(yes_no(c.changeable))),
    ];
    let mut settings: Vec<_> = s.settings.iter().collect();
    settings.sort_by_key(|c| c.key);
    table_of(&fields, settings)
}

fn yes_no(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// The commands that are answered.
pub(super) fn help() -> Notice {
    let shows: Vec<_> = Show::ALL.iter().map(|s| s.name()).collect();
    let mut detail = String::from("\n");
    for line in shows.chunks(6) {
        let more = if line.as_ptr() == shows.as_ptr() { "SHOW " } else { "     " };
        let end = if shows.ends_with(line) { "" } else { "|" };
        detail.push_str(&format!("\t{more}{}{end}\n", line.join("|")));
    }
    for command in [
        "SHOW SLOT FOR [database] 'table' 'key'",
        "EXPLAIN ROUTE [[FOR] database] 'sql'",
        "SET key = value",
        "RELOAD",
        "PAUSE [database]",
        "RESUME [database]",
        "DISABLE database",
        "ENABLE database",
        "RECONNECT [database]",
        "KILL [database]",
        "KILL_CLIENT id",
        "SUSPEND",
        "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
        "WAIT_CLOSE [database]",
    ] {
        detail.push_str(&format!("\t{command}\n"));
    }
    Notice { message: "Console usage", detail: detail.trim_end().to_owned() }
}
