//! Which shard a statement belongs to: proven, or refused.
//!
//! `hash` gives a key's slot, `key` reads a key from a literal or a parameter, `map` gives the slot's owner, `plan` proves
//! that a statement touches one shard only or says why it cannot, `table_key` is the columns of a key; `merge` makes one result of those
//! of several shards, `copy` splits the rows of COPY and joins them, `commit` says how a transaction over several shards ends, `explain`
//! tells the route in what EXPLAIN answers; `check` says whether the servers are as the map has them, `portrait` whether they are alike,
//! `behind` what code runs there unseen, and `checks` holds what was found.

pub mod behind;
pub mod cascades;
pub mod check;
pub mod checks;
pub mod commit;
pub mod copy;
pub mod explain;
pub mod hash;
pub mod key;
pub mod map;
pub mod merge;
pub mod plan;
pub mod portrait;
pub mod table_key;
