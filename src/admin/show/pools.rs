//! SHOW POOLS, DATABASES and USERS.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{CONSOLE, Cell, Field, INT4, TEXT, Table, int, table_of, text};
use crate::config::{LoadBalance, PoolMode};
use crate::metrics::snapshot::{ClientStates, DatabaseSnapshot, ServerStates, Snapshot, UserSnapshot, pool_mode_word};

/// One row of SHOW POOLS: PgBouncer's pool is a (database, user), behind which several servers may stand here.
#[derive(Default)]
struct Pool {
    database: String,
    user: String,
    clients: ClientStates,
    logged_in: u32,
    servers: ServerStates,
    max_wait: Duration,
    mode: Option<PoolMode>,
    /// How one of several hosts is chosen; none where there is but one.
    balance: Option<LoadBalance>,
}

impl Pool {
    /// Clients that have a server or ask for nothing.
    fn cl_active(&self) -> u32 {
        self.logged_in.saturating_sub(self.clients.waiting).max(self.clients.active)
    }
}

pub(super) fn pools(s: &Snapshot) -> Table {
    let fields: [Field<Pool>; 17] = [
        ("database", TEXT, |p| text(&p.database)),
        ("user", TEXT, |p| text(&p.user)),
        ("cl_active", INT4, |p| int(p.cl_active())),
        ("cl_waiting", INT4, |p| int(p.clients.waiting)),
        ("cl_active_cancel_req", INT4, |p| int(p.clients.active_cancel_req)),
        ("cl_waiting_cancel_req", INT4, |p| int(p.clients.waiting_cancel_req)),
        ("sv_active", INT4, |p| int(p.servers.active)),
        ("sv_active_cancel", INT4, |p| int(p.servers.active_cancel)),
        ("sv_being_canceled", INT4, |p| int(p.servers.being_canceled)),
        ("sv_idle", INT4, |p| int(p.servers.idle)),
        ("sv_used", INT4, |p| int(p.servers.used)),
        ("sv_tested", INT4, |p| int(p.servers.tested)),
        ("sv_login", INT4, |p| int(p.servers.login)),
        ("maxwait", INT4, |p| int(p.max_wait.as_secs())),
        ("maxwait_us", INT4, |p| int(p.max_wait.subsec_micros())),
        ("pool_mode", TEXT, |p| p.mode.and_then(mode)),
        ("load_balance_hosts", TEXT, |p| p.balance.map(|balance| balance.as_str().to_owned())),
    ];
    table_of(&fields, by_user(s).values())
}

/// The pools summed over their servers. A user who is logged in and asked for nothing yet has a row too.
fn by_user(s: &Snapshot) -> BTreeMap<(&str, &str), Pool> {
    let mut pools: BTreeMap<(&str, &str), Pool> = BTreeMap::new();
    for part in &s.pools {
        let pool = pools.entry((&part.database, &part.user)).or_default();
        pool.clients += part.clients;
        pool.servers += part.servers;
        pool.max_wait = pool.max_wait.max(part.max_wait);
        pool.mode = Some(part.pool_mode);
    }
    for login in &s.logins {
        // With a user of its own the database has one pool for all.
        let own = s.databases.iter().find(|d| d.name == login.database).and_then(|d| d.force_user.as_deref());
        let pool = pools.entry((&login.database, own.unwrap_or(&login.user))).or_default();
        pool.logged_in = pool.logged_in.saturating_add(login.clients);
    }
    for ((database, user), pool) in &mut pools {
        (pool.database, pool.user) = ((*database).to_owned(), (*user).to_owned());
        let configured = s.databases.iter().find(|d| d.name == *database);
        pool.mode = pool.mode.or_else(|| configured.map(|d| d.pool_mode));
        pool.balance = configured.and_then(|d| d.load_balance_hosts);
    }
    pools.insert((CONSOLE, CONSOLE), console(s));
    pools
}

/// Who is at the console: a pool without servers, in which each command stands by itself.
fn console(s: &Snapshot) -> Pool {
    Pool {
        database: CONSOLE.to_owned(),
        user: CONSOLE.to_owned(),
        logged_in: s.console.clients,
        mode: Some(PoolMode::Statement),
        ..Pool::default()
    }
}

/// How many (database, user) pools there are, for SHOW LISTS.
pub(super) fn count(s: &Snapshot) -> usize {
    by_user(s).len()
}

/// An item and the connections that are counted for it.
struct Counted<'a, T> {
    item: &'a T,
    servers: u64,
    clients: u64,
}

pub(super) fn databases(s: &Snapshot) -> Table {
    let fields: [Field<Counted<'_, DatabaseSnapshot>>; 17] = [
        ("name", TEXT, |d| text(&d.item.name)),
        ("host", TEXT, |d| d.item.host.clone()),
        ("port", INT4, |d| int(d.item.port)),
        ("database", TEXT, |d| text(&d.item.dbname)),
        ("force_user", TEXT, |d| d.item.force_user.clone()),
        ("pool_size", INT4, |d| int(d.item.pool_size)),
        ("min_pool_size", INT4, |d| int(d.item.min_pool_size)),
        ("reserve_pool_size", INT4, |d| int(d.item.reserve_pool_size)),
        ("server_lifetime", INT4, |d| int(d.item.server_lifetime.as_secs())),
        ("pool_mode", TEXT, |d| mode(d.item.pool_mode)),
        ("load_balance_hosts", TEXT, |d| d.item.load_balance_hosts.map(|l| l.as_str().to_owned())),
        ("max_connections", INT4, |d| int(d.item.max_connections)),
        ("current_connections", INT4, |d| int(d.servers)),
        ("max_client_connections", INT4, |d| int(d.item.max_client_connections)),
        ("current_client_connections", INT4, |d| int(d.clients)),
        ("paused", INT4, |d| int(d.item.paused)),
        ("disabled", INT4, |d| int(d.item.disabled)),
    ];
    let console = DatabaseSnapshot {
        name: CONSOLE.to_owned(),
        host: None,
        port: s.console.port,
        dbname: CONSOLE.to_owned(),
        force_user: Some(CONSOLE.to_owned()),
        // As PgBouncer says it; neither has servers here.
        pool_size: 2,
        min_pool_size: 0,
        reserve_pool_size: 0,
        server_lifetime: Duration::ZERO,
        pool_mode: PoolMode::Statement,
        load_balance_hosts: None,
        max_connections: 0,
        max_client_connections: 0,
        paused: false,
        disabled: false,
    };
    let mut rows: Vec<_> = s.databases.iter().map(|db| counted(db, s, |database, _| database == db.name)).collect();
    rows.push(Counted { item: &console, servers: 0, clients: u64::from(s.console.clients) });
    rows.sort_by_key(|row| &row.item.name);
    table_of(&fields, &rows)
}

pub(super) fn users(s: &Snapshot) -> Table {
    let fields: [Field<Counted<'_, UserSnapshot>>; 8] = [
        ("name", TEXT, |u| text(&u.item.name)),
        // Empty, not NULL, where they have none of their own: so it is in PgBouncer.
        ("pool_size", TEXT, |u| text(u.item.pool_size.map(|n| n.to_string()).unwrap_or_default())),
        ("reserve_pool_size", TEXT, |u| text(u.item.reserve_pool_size.map(|n| n.to_string()).unwrap_or_default())),
        ("pool_mode", TEXT, |u| u.item.pool_mode.and_then(mode)),
        ("max_user_connections", INT4, |u| int(u.item.max_connections)),
        ("current_connections", INT4, |u| int(u.servers)),
        ("max_user_client_connections", INT4, |u| int(u.item.max_client_connections)),
        ("current_client_connections", INT4, |u| int(u.clients)),
    ];
    let console = UserSnapshot { name: CONSOLE.to_owned(), ..UserSnapshot::default() };
    let mut rows: Vec<_> = s.users.iter().map(|user| counted(user, s, |_, name| name == user.name)).collect();
    if console_is_apart(s) {
        rows.push(Counted { item: &console, servers: 0, clients: 0 });
        rows.sort_by_key(|row| &row.item.name);
    }
    table_of(&fields, &rows)
}

/// Whether the user of the console, whom the owner of the process may be without a password, is none of the others.
pub(super) fn console_is_apart(s: &Snapshot) -> bool {
    s.users.iter().all(|user| user.name != CONSOLE)
}

/// Counts the connections whose database and user `belongs` accepts.
fn counted<'a, T>(item: &'a T, s: &Snapshot, belongs: impl Fn(&str, &str) -> bool) -> Counted<'a, T> {
    let pools = s.pools.iter().filter(|p| belongs(&p.database, &p.user));
    let logins = s.logins.iter().filter(|l| belongs(&l.database, &l.user));
    Counted {
        item,
        servers: pools.map(|p| u64::from(p.servers.total())).sum(),
        clients: logins.map(|l| u64::from(l.clients)).sum(),
    }
}

fn mode(mode: PoolMode) -> Cell {
    text(pool_mode_word(mode))
}
