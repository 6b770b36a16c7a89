//! The wire protocol as bytes: frames, the few messages we read, and those we write.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>
//!
//! Nothing here allocates in proportion to a length that a peer merely claims, and nothing here can
//! panic: the lints below forbid unchecked indexing and arithmetic.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test that panics has failed, as it should"
    )
)]

pub mod answer;
pub mod cancel_key;
pub mod encode;
pub mod frame;
pub mod message;
pub mod startup;

pub use frame::{FrameError, Header};
pub use message::TransactionStatus;
