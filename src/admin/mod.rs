//! The admin console: what an operator can ask in psql, and the tables that answer it.
//!
//! `parse` reads a command, `rights` says who may run it, `show` draws the answer from a snapshot,
//! `explain` finds the database of an EXPLAIN ROUTE, `slot` the slot of a key. All of it is pure; the connection that carries it lives elsewhere.

pub mod explain;
pub mod parse;
pub mod rights;
pub mod show;
pub mod slot;

mod lex;
