//! How every server is doing: breakers, response times, replay positions, and the prober that finds them out.
//!
//! [`shard::ShardHealth`] holds the servers of one shard and is shared by all workers. Real traffic reports to
//! [`server::ServerHealth`], the prober (`probe`) to the shard; routing asks for [`view::ServerView`]s, the console and the
//! metrics for [`server::ServerSnapshot`]s.
//!
//! Where Patroni looks after the servers, [`patroni`] asks it, and has the probers look when it says something else than they found.
//!
//! A database without a probe user has no prober. Its servers are then judged by real traffic alone: the breaker and the
//! response times work as ever, but lag and replay positions are unknown, so `max_lag` cannot be kept, a session that has
//! written reads from the primary from then on, and the configured roles are taken at their word.

pub mod breaker;
pub mod doubt;
pub mod latency;
pub mod line;
pub mod lsn;
pub mod members;
pub mod patroni;
pub mod probe;
pub mod server;
pub mod shard;
pub mod view;
