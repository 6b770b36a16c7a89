//! Where a statement goes: the decision, with its reason, and the weighted pick among replicas. Pure.

pub mod decide;
pub mod pick;
