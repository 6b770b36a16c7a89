//! pgweir: a routing proxy for PostgreSQL.
//!
//! The modules are listed in the order in which data flows through them; imports only ever point
//! upwards in this list (`tests/layering.rs` holds them to it). ARCHITECTURE.md follows one query
//! through all of them.

pub mod error;
pub mod id;

pub mod clock;

pub mod wire;

pub mod sql;

pub mod shard;

pub mod config;

pub mod auth;

pub mod session;

pub mod net;

pub mod health;
pub mod route;

pub mod server;

pub mod metrics;
pub mod pool;

pub mod admin;
pub mod client;

pub mod worker;

pub mod app;
