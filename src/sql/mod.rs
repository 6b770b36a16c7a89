//! What a statement's text says about it: read by PostgreSQL's own grammar, cached per text.

pub mod facts;
