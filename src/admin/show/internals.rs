//! SHOW MEM, FDS, PINS, PREPARED and QUERIES: what the parts hold, and what clients tell when they are asked.

use std::time::Duration;

use super::connections::{client_ptr, server_ptr, timestamp};
use super::{Cell, Field, INT4, INT8, TEXT, Table, int, long, table_of, text};
use crate::metrics::report::{Doing, PinReport, Report, SocketReport};
use crate::metrics::snapshot::{ClientSnapshot, ListenerSnapshot, MemorySnapshot, Snapshot, StatementSnapshot};

/// `free` is what PgBouncer keeps for later. Here nothing is: what is not used has gone back to the allocator.
pub(super) fn mem(s: &Snapshot) -> Table {
    let fields: [Field<MemorySnapshot>; 5] = [
        ("name", TEXT, |m| text(m.name)),
        ("size", INT4, |m| int(m.size)),
        ("used", INT4, |m| int(m.used)),
        ("free", INT4, |_| int(0_u32)),
        ("memtotal", INT4, |m| int(m.total)),
    ];
    table_of(&fields, &s.memory)
}

/// A row of FDS.
struct Descriptor<'a> {
    descriptor: i32,
    task: &'static str,
    user: Option<&'a str>,
    database: Option<&'a str>,
    addr: &'a str,
    port: u16,
    cancel: u64,
    link: i32,
    socket: Option<&'a SocketReport>,
}

/// PgBouncer's columns, without the last three: passwords and keys are shown to nobody, and `cancel` is the half of the cancel key that
/// is no secret.
pub(super) fn fds(s: &Snapshot) -> Table {
    let fields: [Field<Descriptor<'_>>; 12] = [
        ("fd", INT4, |d| int(number(d.descriptor))),
        ("task", TEXT, |d| text(d.task)),
        ("user", TEXT, |d| d.user.map(str::to_owned)),
        ("database", TEXT, |d| d.database.map(str::to_owned)),
        ("addr", TEXT, |d| text(d.addr)),
        ("port", INT4, |d| int(d.port)),
        ("cancel", INT8, |d| long(d.cancel)),
        ("link", INT4, |d| int(number(d.link))),
        ("client_encoding", TEXT, |d| d.socket.and_then(|s| s.settings.client_encoding.clone())),
        ("std_strings", TEXT, |d| d.socket.and_then(|s| s.settings.std_strings.clone())),
        ("datestyle", TEXT, |d| d.socket.and_then(|s| s.settings.datestyle.clone())),
        ("timezone", TEXT, |d| d.socket.and_then(|s| s.settings.timezone.clone())),
    ];
    let mut rows: Vec<_> = s.listeners.iter().map(pooler).collect();
    rows.extend(s.clients.iter().filter_map(client));
    for server in &s.servers {
        let Some(socket) = &server.socket else { continue };
        // They are in the order of their numbers.
        let at = server.client.and_then(|id| s.clients.binary_search_by_key(&id, |client| client.id).ok());
        let client = at.and_then(|at| s.clients.get(at));
        let link = client.and_then(|client| client.report.as_ref()).and_then(|report| report.client.descriptor);
        let Some(descriptor) = socket.descriptor else { continue };
        rows.push(Descriptor {
            descriptor,
            task: "server",
            user: Some(&server.connection.user),
            database: Some(&server.connection.database),
            addr: &server.connection.remote.addr,
            port: server.connection.remote.port,
            cancel: u64::from(server.connection.remote_pid.unwrap_or(0)),
            link: link.unwrap_or(0),
            socket: Some(socket),
        });
    }
    table_of(&fields, &rows)
}

fn number(descriptor: i32) -> u32 {
    u32::try_from(descriptor).unwrap_or(0)
}

fn pooler(listener: &ListenerSnapshot) -> Descriptor<'_> {
    Descriptor {
        descriptor: listener.descriptor,
        task: "pooler",
        user: None,
        database: None,
        addr: &listener.local.addr,
        port: listener.local.port,
        cancel: 0,
        link: 0,
        socket: None,
    }
}

fn client(client: &ClientSnapshot) -> Option<Descriptor<'_>> {
    let report = client.report.as_ref()?;
    Some(Descriptor {
        descriptor: report.client.descriptor?,
        task: "client",
        user: Some(&client.connection.user),
        database: Some(&client.connection.database),
        addr: &client.connection.remote.addr,
        port: client.connection.remote.port,
        cancel: u64::from(client.pid),
        link: report.server.as_ref().and_then(|server| server.descriptor).unwrap_or(0),
        socket: Some(&report.client),
    })
}

/// A client and one of the reasons why it keeps its server.
struct Pinned<'a> {
    client: &'a ClientSnapshot,
    report: &'a Report,
    pin: &'a PinReport,
}

pub(super) fn pins(s: &Snapshot) -> Table {
    let fields: [Field<Pinned<'_>>; 8] = [
        ("client", TEXT, |p| text(client_ptr(p.client.id))),
        ("server", TEXT, |p| p.client.server.map(server_ptr)),
        ("database", TEXT, |p| text(&p.client.connection.database)),
        ("user", TEXT, |p| text(&p.client.connection.user)),
        ("reason", TEXT, |p| text(p.pin.reason)),
        ("statement", TEXT, |p| p.pin.statement.clone()),
        ("since", TEXT, |p| p.report.pinned_since.map(timestamp)),
        ("id", INT4, |p| int(p.client.id.0)),
    ];
    let reported = s.clients.iter().filter_map(|client| Some((client, client.report.as_ref()?)));
    let rows: Vec<_> = reported
        .flat_map(|(client, report)| report.pins.iter().map(move |pin| Pinned { client, report, pin }))
        .collect();
    table_of(&fields, &rows)
}

pub(super) fn prepared(s: &Snapshot) -> Table {
    let fields: [Field<StatementSnapshot>; 4] = [
        ("name", TEXT, |p| text(&p.name)),
        ("uses", INT8, |p| long(p.uses)),
        ("types", TEXT, |p| text(p.types.iter().map(u32::to_string).collect::<Vec<_>>().join(","))),
        ("text", TEXT, |p| text(&p.text)),
    ];
    table_of(&fields, &s.statements)
}

/// A client that is in the middle of something, at a moment.
struct Query<'a> {
    client: &'a ClientSnapshot,
    report: &'a Report,
    now: Duration,
}

impl Query<'_> {
    fn lasts(&self) -> Cell {
        let lasts = self.now.saturating_sub(self.report.since?);
        long(u64::try_from(lasts.as_micros()).unwrap_or(u64::MAX))
    }
}

pub(super) fn queries(s: &Snapshot) -> Table {
    let fields: [Field<Query<'_>>; 11] = [
        ("client", TEXT, |q| text(client_ptr(q.client.id))),
        ("server", TEXT, |q| q.client.server.map(server_ptr)),
        ("database", TEXT, |q| text(&q.client.connection.database)),
        ("user", TEXT, |q| text(&q.client.connection.user)),
        ("application_name", TEXT, |q| text(&q.client.connection.application_name)),
        ("state", TEXT, |q| text(q.report.doing.as_str())),
        ("since", TEXT, |q| q.report.since.map(timestamp)),
        ("duration_us", INT8, Query::lasts),
        ("query", TEXT, |q| q.report.text.clone()),
        ("pid", INT4, |q| int(u64::from(q.client.pid))),
        ("id", INT4, |q| int(q.client.id.0)),
    ];
    let query = |client| Some(Query { client, report: client.report.as_ref()?, now: s.taken_at });
    let mut rows: Vec<_> = s.clients.iter().filter_map(query).collect();
    rows.retain(|query: &Query<'_>| query.report.doing != Doing::Nothing);
    // Who has been at it longest comes first.
    rows.sort_by_key(|query| query.report.since.unwrap_or(s.taken_at));
    table_of(&fields, &rows)
}
