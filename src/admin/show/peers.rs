//! SHOW PEERS and PEER_POOLS.

use super::{Field, INT4, TEXT, Table, int, table_of, text};
use crate::metrics::snapshot::{PeerRequests, PeerSnapshot, Snapshot};

pub(super) fn peers(s: &Snapshot) -> Table {
    let fields: [Field<PeerSnapshot>; 4] = [
        ("peer_id", INT4, |p| int(p.id.0)),
        ("host", TEXT, |p| text(&p.host)),
        ("port", INT4, |p| int(p.port)),
        ("pool_size", INT4, |p| int(p.pool_size)),
    ];
    table_of(&fields, &s.peers)
}

/// A peer to which cancel requests are passed on.
type Pool = (u16, PeerRequests);

fn with_pools(s: &Snapshot) -> impl Iterator<Item = Pool> {
    s.peers.iter().filter_map(|peer| Some((peer.id.0, peer.requests?)))
}

pub(super) fn pools(s: &Snapshot) -> Table {
    let fields: [Field<Pool>; 5] = [
        ("peer_id", INT4, |(id, _)| int(*id)),
        ("cl_active_cancel_req", INT4, |(_, requests)| int(requests.sent)),
        // As in PgBouncer, a request waits until it is sent.
        ("cl_waiting_cancel_req", INT4, |(_, requests)| int(requests.waiting.saturating_add(requests.connecting))),
        ("sv_active_cancel", INT4, |(_, requests)| int(requests.sent)),
        ("sv_login", INT4, |(_, requests)| int(requests.connecting)),
    ];
    table_of(&fields, &with_pools(s).collect::<Vec<_>>())
}

/// How many pools there are, for SHOW LISTS.
pub(super) fn count(s: &Snapshot) -> usize {
    with_pools(s).count()
}
