//! A worker: a thread with a runtime of its own, on which its clients live. Nothing is stolen from it, and what its clients share
//! needs no lock.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::client::{self, CommonLimits, Console, Shared, WorkerContext};
use crate::id::WorkerId;
use crate::net::stream::Detached;
use crate::sql::cache::FactsCache;

/// Accepted connections that may wait for a worker to take them in.
const QUEUE: usize = 128;
/// Texts whose facts a worker remembers.
const CACHED_TEXTS: usize = 8192;
/// Bytes that these may take.
const CACHED_BYTES: usize = 16 * 1024 * 1024;
/// How often pools are looked after.
const TICK: Duration = Duration::from_secs(1);

/// Something to be done once a second on the worker, whose runtime takes the connections that come of it.
pub type Tick = Box<dyn FnMut(WorkerId) + Send>;
/// Makes what answers console commands; called on the worker.
pub type MakeConsole = Box<dyn FnOnce() -> Rc<dyn Console> + Send>;

/// What a worker is started with.
pub struct Setup {
    /// Its number.
    pub id: WorkerId,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// For those who connect to the console.
    pub console: MakeConsole,
    /// One worker has this.
    pub tick: Option<Tick>,
    /// Becomes true when all is to end.
    pub stop: watch::Receiver<bool>,
}

/// A running worker, as the acceptor sees it.
#[derive(Debug)]
pub struct Worker {
    queue: mpsc::Sender<Detached>,
    clients: Arc<AtomicU32>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// A connection that a worker does not take.
#[derive(Debug)]
pub enum Refused {
    /// Its queue is full.
    Full(Detached),
    /// It has ended.
    Ended(Detached),
}

/// Counts a client of a worker for as long as it lives.
struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A runtime for the thread that calls: nothing that runs on it ever leaves the thread.
///
/// # Errors
/// When the system has no descriptors left for it.
pub fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

impl Worker {
    /// Starts the thread, and returns when its runtime stands.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn start(setup: Setup) -> io::Result<Self> {
        let (queue, connections) = mpsc::channel(QUEUE);
        let clients = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&clients);
        let shared = Arc::clone(&setup.shared);
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("worker-{}", setup.id)).spawn(move || {
            // Who started us waits for this; the channel has room.
            match runtime() {
                Ok(runtime) => {
                    drop(started.send(Ok(())));
                    runtime.block_on(run(setup, connections, counter));
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        outcome.recv().unwrap_or_else(|_| Err(io::Error::other("a worker ended before it had started")))?;
        Ok(Self { queue, clients, shared, thread })
    }

    /// Connections it has and is to have.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.clients.load(Ordering::Relaxed)
    }

    /// Whether its thread has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Hands it a connection, which from here on counts as logging in: SUSPEND waits for it as well while it is in the queue.
    ///
    /// # Errors
    /// The connection, when the worker does not take it.
    pub fn take(&self, connection: Detached) -> Result<(), Refused> {
        self.clients.fetch_add(1, Ordering::Relaxed);
        self.shared.logging_in.fetch_add(1, Ordering::Relaxed);
        self.queue.try_send(connection).map_err(|error| {
            self.clients.fetch_sub(1, Ordering::Relaxed);
            self.shared.logging_in.fetch_sub(1, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(connection) => Refused::Full(connection),
                mpsc::error::TrySendError::Closed(connection) => Refused::Ended(connection),
            }
        })
    }
}

async fn run(setup: Setup, mut connections: mpsc::Receiver<Detached>, clients: Arc<AtomicU32>) {
    let Setup { id, shared, console, tick, mut stop } = setup;
    id.settle();
    let facts = FactsCache::new(CACHED_TEXTS, CACHED_BYTES);
    shared.caches.lock().push(facts.size());
    let cx = Rc::new(WorkerContext {
        id,
        shared,
        facts: RefCell::new(facts),
        popular: RefCell::default(),
        harmless: RefCell::default(),
        limits: CommonLimits::default(),
        rng: RefCell::new(SmallRng::from_os_rng()),
        views: RefCell::default(),
        console: console(),
    });
    if let Some(tick) = tick {
        tokio::task::spawn_local(keep_ticking(tick, id));
    }
    loop {
        let connection = tokio::select! {
            connection = connections.recv() => connection,
            // An error means that the sender is gone, which is an end too.
            _ended = stop.wait_for(|stop| *stop) => return,
        };
        let Some(connection) = connection else { return };
        let counted = Counted(Arc::clone(&clients));
        match connection.attach() {
            Ok(stream) => {
                let served = client::serve(stream, Rc::clone(&cx));
                tokio::task::spawn_local(async move {
                    let _counted = counted;
                    served.await;
                });
            }
            Err(error) => {
                cx.shared.logging_in.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(%error, "a connection could not be taken in");
            }
        }
    }
}

async fn keep_ticking(mut tick: Tick, id: WorkerId) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        tick(id);
    }
}
