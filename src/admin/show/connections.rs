//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS.

use std::time::Duration;

use super::{Cell, Field, INT4, TEXT, Table, int, table_of, text};
use crate::id::{ClientId, ConnectionId};
use crate::metrics::snapshot::{
    ClientSnapshot, ClientState, ConnectionSnapshot, ServerConnectionSnapshot, ServerState, Snapshot,
};

/// A row of any of these tables.
struct Row<'a> {
    kind: &'static str,
    state: &'static str,
    active: bool,
    wait: Duration,
    ptr: String,
    link: String,
    id: u64,
    connection: &'a ConnectionSnapshot,
}

/// PgBouncer shows addresses of its objects here. All that anyone does with them is to join `link` with `ptr`.
fn client_ptr(id: ClientId) -> String {
    format!("c{id}")
}

fn server_ptr(id: ConnectionId) -> String {
    format!("s{id}")
}

fn client(c: &ClientSnapshot) -> Row<'_> {
    Row {
        kind: "C",
        state: c.state.as_str(),
        active: c.state != ClientState::Idle,
        wait: c.wait,
        ptr: client_ptr(c.id),
        link: c.server.map(server_ptr).unwrap_or_default(),
        id: c.id.0,
        connection: &c.connection,
    }
}

fn server(s: &ServerConnectionSnapshot) -> Row<'_> {
    Row {
        kind: "S",
        state: s.state.as_str(),
        active: !matches!(s.state, ServerState::Idle | ServerState::Used),
        wait: Duration::ZERO,
        ptr: server_ptr(s.id),
        link: s.client.map(client_ptr).unwrap_or_default(),
        id: s.id.0,
        connection: &s.connection,
    }
}

/// The columns that all four tables have.
fn common<'a>() -> [Field<Row<'a>>; 21] {
    [
        ("type", TEXT, |r| text(r.kind)),
        ("user", TEXT, |r| text(&r.connection.user)),
        ("database", TEXT, |r| text(&r.connection.database)),
        // Replication connections are not served.
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

/// The positions in the buffers. A buffer lives only while bytes move, never between two of them when this is asked.
fn buffers<'a>() -> [Field<Row<'a>>; 7] {
    [
        ("recv_pos", INT4, nothing),
        ("pkt_pos", INT4, nothing),
        ("pkt_remain", INT4, nothing),
        ("send_pos", INT4, nothing),
        ("send_remain", INT4, nothing),
        ("pkt_avail", INT4, nothing),
        ("send_avail", INT4, nothing),
    ]
}

fn nothing(_: &Row<'_>) -> Cell {
    int(0_u32)
}

pub(super) fn clients(s: &Snapshot) -> Table {
    let rows: Vec<_> = s.clients.iter().map(client).collect();
    table_of(&common(), &rows)
}

pub(super) fn servers(s: &Snapshot) -> Table {
    let rows: Vec<_> = s.servers.iter().map(server).collect();
    table_of(&common(), &rows)
}

/// Clients and servers with their buffers; `active`: only those that do something.
pub(super) fn sockets(s: &Snapshot, active: bool) -> Table {
    let rows = s.clients.iter().map(client).chain(s.servers.iter().map(server));
    let rows: Vec<_> = rows.filter(|row| row.active || !active).collect();
    table_of(&[&common()[..], &buffers()[..]].concat(), &rows)
}

/// Wall time since the Unix epoch as `2026-11-20 10:00:00 UTC`.
///
/// The civil date is found by counting years from March, so that the leap day is a year's last (Howard Hinnant,
/// "chrono-compatible low-level date algorithms").
fn timestamp(since_epoch: Duration) -> String {
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
