//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS.

use std::time::Duration;

use super::{Cell, Field, INT4, TEXT, Table, int, table_of, text};
use crate::id::{ClientId, ConnectionId};
use crate::metrics::report::SocketReport;
use crate::metrics::snapshot::{
    ClientSnapshot, ClientState, ConnectionSnapshot, ServerConnectionSnapshot, ServerState, Snapshot,
};

/// A row of any of these tables.
struct Row<'a> {
    kind: &'static str,
    state: &'static str,
    /// The state as SOCKETS calls it, after the lists that PgBouncer keeps.
    list: &'static str,
    wait: Duration,
    ptr: String,
    link: String,
    id: u64,
    connection: &'a ConnectionSnapshot,
    socket: Option<&'a SocketReport>,
}

/// PgBouncer shows addresses of its objects here. All that anyone does with them is to join `link` with `ptr`.
pub(super) fn client_ptr(id: ClientId) -> String {
    format!("c{id}")
}

pub(super) fn server_ptr(id: ConnectionId) -> String {
    format!("s{id}")
}

fn client(c: &ClientSnapshot) -> Row<'_> {
    Row {
        kind: "C",
        state: c.state.as_str(),
        list: match c.state {
            ClientState::Active | ClientState::Idle => "cl_active",
            ClientState::Waiting => "cl_waiting",
            ClientState::ActiveCancel => "cl_active_cancel_req",
            ClientState::WaitingCancel => "cl_waiting_cancel_req",
        },
        wait: c.wait,
        ptr: client_ptr(c.id),
        link: c.server.map(server_ptr).unwrap_or_default(),
        id: c.id.0,
        connection: &c.connection,
        socket: c.report.as_ref().map(|report| &report.client),
    }
}

fn server(s: &ServerConnectionSnapshot) -> Row<'_> {
    Row {
        kind: "S",
        state: s.state.as_str(),
        list: match s.state {
            ServerState::New => "sv_login",
            ServerState::Active => "sv_active",
            ServerState::Idle => "sv_idle",
            ServerState::Used => "sv_used",
            ServerState::Tested => "sv_tested",
            ServerState::ActiveCancel => "sv_active_cancel",
            ServerState::BeingCanceled => "sv_being_canceled",
        },
        wait: Duration::ZERO,
        ptr: server_ptr(s.id),
        link: s.client.map(client_ptr).unwrap_or_default(),
        id: s.id.0,
        connection: &s.connection,
        socket: s.socket.as_ref(),
    }
}

/// The columns that all four tables have.
fn common<'a>() -> [Field<Row<'a>>; 21] {
    [
        ("type", TEXT, |r| text(r.kind)),
        ("user", TEXT, |r| text(&r.connection.user)),
        ("database", TEXT, |r| text(&r.connection.database)),
        ("replication", TEXT, |r| text(r.connection.replication.unwrap_or("none"))),
        ("state", TEXT, |r| text(r.state)),
        ("addr", TEXT, |r| text(&r.connection.remote.addr)),
        ("port", INT4, |r| int(r.connection.remote.port)),
        ("local_addr", TEXT, |r| text(&r.connection.local.addr)),
        ("local_port", INT4, |r| int(r.connection.local.port)),
        ("connect_time", TEXT, |r| text(timestamp(r.connection.connected_at))),
        ("request_time", TEXT, |r| text(timestamp(r.connection.requested_at))),
        ("wait", INT4, |r| int(r.wait.as_secs())),
        ("wait_us", INT4, |r| int(r.wait.subsec_micros())),
        ("close_needed", INT4, |r| int(r.connection.close_needed)),
        ("ptr", TEXT, |r| text(&r.ptr)),
        ("link", TEXT, |r| text(&r.link)),
        ("remote_pid", INT4, |r| int(r.connection.remote_pid.unwrap_or(0))),
        ("tls", TEXT, |r| text(&r.connection.tls)),
        ("application_name", TEXT, |r| text(&r.connection.application_name)),
        ("prepared_statements", INT4, |r| int(r.connection.prepared_statements)),
        ("id", INT4, |r| int(r.id)),
    ]
}

/// The positions in the buffers: of what was read from here, and of what of that waits for the other side. PgBouncer shows a zero as
/// `send_remain` itself.
fn buffers<'a>() -> [Field<Row<'a>>; 7] {
    [
        ("recv_pos", INT4, |r| bytes(r, |s| s.received)),
        ("pkt_pos", INT4, |r| bytes(r, |s| s.looked_at)),
        ("pkt_remain", INT4, |r| bytes(r, |s| s.to_come)),
        ("send_pos", INT4, |r| bytes(r, |s| s.sent)),
        ("send_remain", INT4, |_| int(0_u32)),
        ("pkt_avail", INT4, |r| bytes(r, |s| s.unread)),
        ("send_avail", INT4, |r| bytes(r, |s| s.unsent)),
    ]
}

/// A connection that is being made, or asked for by a cancel request, has no buffers.
fn bytes(row: &Row<'_>, of: impl Fn(&SocketReport) -> u64) -> Cell {
    int(row.socket.map_or(0, of))
}

/// Clients, cancel requests, and who is at the console.
pub(super) fn clients(s: &Snapshot) -> Table {
    let all = s.clients.iter().chain(&s.visitors).chain(&s.cancels);
    let rows: Vec<_> = all.map(client).collect();
    table_of(&common(), &rows)
}

pub(super) fn servers(s: &Snapshot) -> Table {
    let rows: Vec<_> = s.servers.iter().map(server).collect();
    table_of(&common(), &rows)
}

/// Clients and servers with their buffers; `active`: only those in whose buffers something is, or of which half a message has passed.
pub(super) fn sockets(s: &Snapshot, active: bool) -> Table {
    let clients = s.clients.iter().chain(&s.visitors).map(client);
    let rows = clients.chain(s.servers.iter().map(server)).map(|row| Row { state: row.list, ..row });
    let rows: Vec<_> = rows.filter(|row| !active || row.socket.is_some_and(SocketReport::is_busy)).collect();
    table_of(&[&common()[..], &buffers()[..]].concat(), &rows)
}

/// Wall time since the Unix epoch as `2026-11-20 10:00:00 UTC`.
///
/// The civil date is found by counting years from March, so that the leap day is a year's last (Howard Hinnant,
/// "chrono-compatible low-level date algorithms").
pub(super) fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468; // days from 0000-03-01 to the Unix epoch
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_civil_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_795_168_800, "2026-11-20 10:00:00 UTC"),
            (1_830_297_599, "2027-12-31 23:59:59 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(seconds)), text);
        }
    }
}
