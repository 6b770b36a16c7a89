//! What a statement's text says about it: read by PostgreSQL's own grammar, cached per text.
//!
//! [`parse::facts`] is the door; [`cache::FactsCache`] stands before it. The parser is the crate `pg_raw_parse`, and no
//! type of it leaves this module.
//!
//! A text goes through `hints` (its comments, found by `scan`) and the parser; then each statement through `statement` (what kind it is),
//! which asks `walk` for the tables and calls in it, `functions` for what the calls mean, `settings` and `utility` for
//! the statements of those kinds, and `shape` for what the shard planner sees, with `levels` for statements of several queries. `pids` finds where a text speaks of process ids, for the few that
//! do, and `listens` where it speaks of channels.
//! What several shards are to answer is read once more, by `scatter`.

mod builtins;
pub mod cache;
pub mod catalog;
pub mod facts;
mod functions;
pub mod hidden;
pub mod hints;
pub mod levels;
pub mod listens;
pub mod normal;
pub mod parse;
pub mod pids;
pub mod readings;
mod recent;
pub mod scan;
pub mod scatter;
pub mod settings;
pub mod shadows;
mod shape;
mod statement;
pub mod touch;
mod utility;
mod walk;

#[cfg(test)]
mod tests;
