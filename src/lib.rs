//! pgweir: a routing proxy for PostgreSQL.
//!
//! The modules are listed in the order in which data flows through them; imports only ever point
//! upwards in this list (`tests/layering.rs` holds them to it). ARCHITECTURE.md follows one query
//! through all of them.

pub mod clock;
pub mod error;
pub mod id;

pub mod wire;

pub mod auth;
pub mod sql;

pub mod session;
pub mod shard;

pub mod health;
pub mod route;

pub mod net;
pub mod server;

pub mod pool;

pub mod client;

pub mod config;

pub mod admin;
pub mod metrics;

pub mod app;
pub mod worker;
