//! What takes memory, for SHOW MEM: as many as there are now of what size, and what they own beside.

use std::sync::Arc;

use super::state::State;
use crate::auth::secret::Credential;
use crate::client::database::{LiveDatabase, UserPools};
use crate::client::shared::ClientHandle;
use crate::client::task::Client;
use crate::metrics::snapshot::{ClientSnapshot, MemorySnapshot, ServerConnectionSnapshot};
use crate::net::buffer;
use crate::pool::Pool;
use crate::server::Connection;
use crate::session::prepared::Statement;

/// The names are PgBouncer's where it has such a thing.
pub(super) fn of(
    state: &State,
    databases: &[Arc<LiveDatabase>],
    clients: &[ClientSnapshot],
    servers: &[ServerConnectionSnapshot],
) -> Vec<MemorySnapshot> {
    let shared = &state.shared;
    let pools = databases.iter().map(|db| db.pools().len()).sum();
    let users_of = databases.iter().map(|db| db.users().len()).sum();
    let (statements, statement_bytes) = shared.registry.memory();
    let (texts, text_bytes) =
        shared.caches.lock().iter().map(|cache| cache.get()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    vec![
        MemorySnapshot::of("client_cache", size_of::<Client>() + size_of::<ClientHandle>(), clients.len()),
        MemorySnapshot::of("server_cache", size_of::<Connection>(), servers.len()),
        MemorySnapshot::of("db_cache", size_of::<LiveDatabase>(), databases.len()),
        MemorySnapshot::of("user_pools_cache", size_of::<UserPools>(), users_of),
        MemorySnapshot::of("pool_cache", size_of::<Pool>(), pools),
        MemorySnapshot::of("user_cache", size_of::<Credential>(), shared.live.load().users.len()),
        buffers(clients, servers),
        MemorySnapshot::of("scratch_cache", buffer::READ_SIZE, buffer::scratch_areas()),
        MemorySnapshot {
            total: statement_bytes as u64,
            ..MemorySnapshot::of("prepared_statement_cache", size_of::<Statement>(), statements)
        },
        MemorySnapshot {
            total: text_bytes as u64,
            ..MemorySnapshot::of("parsed_text_cache", text_bytes / texts.max(1), texts)
        },
    ]
}

/// The buffers that hold memory; the size is that of one on the average, for they are as large as what is in them.
fn buffers(clients: &[ClientSnapshot], servers: &[ServerConnectionSnapshot]) -> MemorySnapshot {
    let of_clients = clients.iter().filter_map(|client| Some(&client.report.as_ref()?.client));
    let all = of_clients.chain(servers.iter().filter_map(|server| server.socket.as_ref()));
    let held: Vec<u64> = all.map(|socket| socket.memory).filter(|memory| *memory > 0).collect();
    let (used, total) = (held.len() as u64, held.iter().sum::<u64>());
    MemorySnapshot { name: "iobuf_cache", size: total / used.max(1), used, total }
}
