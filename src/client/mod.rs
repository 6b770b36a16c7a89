//! A client, from its first byte to its last: the only caller of every stage.
//!
//! `greet` reads the first packet, `login` lets the client in, `task` gathers its messages into segments, plans and routes them
//! (`plan`) and gets a server, and `relay` moves bytes both ways until the server can be given back.

pub mod console;
pub mod database;
pub mod own;
pub mod shared;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rand::rngs::SmallRng;

use crate::id::WorkerId;
use crate::sql::cache::FactsCache;

pub use console::Console;
pub use shared::Shared;

/// What the clients of one worker share; stays on its thread.
pub struct WorkerContext {
    /// The worker.
    pub id: WorkerId,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// What texts say.
    pub facts: RefCell<FactsCache>,
    /// Random numbers that need not be secret.
    pub rng: RefCell<SmallRng>,
    /// Answers those who connect to the console.
    pub console: Rc<dyn Console>,
}
