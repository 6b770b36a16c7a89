//! Pools of server connections.

pub mod ledger;
