//! SHOW DNS_HOSTS and DNS_ZONES.

use std::net::{IpAddr, SocketAddr};

use super::{Field, INT4, INT8, TEXT, Table, int, long, table_of, text};
use crate::metrics::snapshot::{DnsHost, DnsZone, Snapshot};

pub(super) fn hosts(s: &Snapshot) -> Table {
    let fields: [Field<DnsHost>; 3] = [
        ("hostname", TEXT, |h| text(&h.name)),
        ("ttl", INT8, |h| long(h.ttl.as_secs())),
        ("addrs", TEXT, |h| text(h.addresses.iter().map(address).collect::<Vec<_>>().join(","))),
    ];
    table_of(&fields, &s.dns.hosts)
}

/// With the port 0, as PgBouncer writes it.
fn address(address: &IpAddr) -> String {
    SocketAddr::new(*address, 0).to_string()
}

pub(super) fn zones(s: &Snapshot) -> Table {
    let fields: [Field<DnsZone>; 3] = [
        ("zonename", TEXT, |z| text(&z.name)),
        // Zero before it was asked for: PgBouncer's way.
        ("serial", INT8, |z| long(z.serial.unwrap_or(0).into())),
        ("count", INT4, |z| int(z.names)),
    ];
    table_of(&fields, &s.dns.zones)
}
