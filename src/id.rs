//! Newtype identifiers: a number that names one thing cannot be passed where another is meant.

use std::cell::Cell;
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A client connection; unique for the life of the process, never reused.
    ClientId(u64)
}
id! {
    /// A server connection; unique for the life of the process, never reused.
    ConnectionId(u64)
}
id! {
    /// A worker thread, counted from zero.
    WorkerId(u16)
}
thread_local! {
    /// The worker of this thread.
    static HERE: Cell<WorkerId> = const { Cell::new(WorkerId::NONE) };
}

impl WorkerId {
    /// What stands for a thread that is no worker's.
    pub const NONE: Self = Self(u16::MAX);

    /// The worker whose thread this is, where whatever is opened here is at home.
    #[must_use]
    pub fn here() -> Self {
        HERE.get()
    }

    /// Makes the thread this worker's.
    pub fn settle(self) {
        HERE.set(self);
    }
}

id! {
    /// A shard's place in its database's list of shards, counted from zero.
    ShardIndex(u16)
}
id! {
    /// A server's place in its shard's list of servers, counted from zero.
    ServerIndex(u16)
}
id! {
    /// A process among those that carry out each other's cancel requests, 1 to 16383.
    PeerId(u16)
}
id! {
    /// A slot of the shard map, 0 to 16383.
    Slot(u16)
}
id! {
    /// A shared prepared statement: one per distinct text and parameter types.
    StatementId(u64)
}
