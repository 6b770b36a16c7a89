//! Builds the parts from the configuration, starts them, and follows signals until the end.
//!
//! The main thread accepts, probes, serves HTTP, reloads and ends; clients live on [`crate::worker`]s. `live` makes what works by a
//! configuration, `state` is what the parts have in common, `accept` hands connections out, `probers` says what is probed,
//! `console` runs commands and `snapshot` is the picture that it shows; `ending` lets clients go.

pub mod accept;
pub mod console;
pub mod ending;
pub mod explain_route;
pub mod healthcheck;
pub mod live;
pub mod logging;
pub mod probers;
pub mod snapshot;
pub mod state;

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::admin::parse::ShutdownMode;
use crate::client::Shared;
use crate::client::database::LiveDatabase;
use crate::clock;
use crate::config::diff::{self, Changes};
use crate::config::{self, Config};
use crate::id::WorkerId;
use crate::metrics::http;
use crate::metrics::snapshot::SnapshotSource;
use crate::worker::{self, Setup, Worker};
use console::Answerer;
use ending::{Asked, Signals};
use live::MockKey;
use probers::Probers;
use state::{Request, State};

/// Requests that may wait for the main thread.
const REQUESTS: usize = 16;
/// How long the workers may take to end.
const END: Duration = Duration::from_secs(1);

/// Reads and checks a configuration and what belongs to it, the auth file; its warnings.
///
/// # Errors
/// Every mistake, one a line.
pub fn check(path: &Path) -> Result<Vec<String>, Vec<String>> {
    let config = load(path)?;
    let warnings = config.warnings.clone();
    live::build(config, None, [0; 32]).map(|_| warnings)
}

/// Runs pgweir by the configuration at `path` until a signal or the console ends it.
///
/// # Errors
/// Why it could not start, one reason a line.
pub fn run(path: &Path) -> Result<(), Vec<String>> {
    let config = load(path)?;
    logging::start(&config.general).map_err(|why| vec![why])?;
    let runtime = worker::runtime().map_err(|why| vec![format!("cannot start: {why}")])?;
    runtime.block_on(Box::pin(main(config)))
}

fn load(path: &Path) -> Result<Config, Vec<String>> {
    config::load(path).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

async fn main(config: Config) -> Result<(), Vec<String>> {
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let key: MockKey = rand::random();
    let live = live::build(config, None, key)?;
    // Before anything else is started: a port in use is found out while nothing has happened yet.
    let listeners = accept::bind(&live.config.general)?;
    let http = bind_http(&live.config).await?;
    let mut signals = Signals::new().map_err(|why| vec![format!("cannot take signals: {why}")])?;

    let shared = Shared::new(live);
    let (requests, mut asked) = mpsc::channel(REQUESTS);
    let state = State::new(Arc::clone(&shared), requests);
    let (stop_workers, workers_stop) = watch::channel(false);
    let workers = Rc::new(start_workers(&state, &workers_stop)?);
    let live = shared.live.load_full();
    live::derive_ahead(&live);
    let mut probers = Probers::default();
    probers.follow(&live);
    if let Some(listener) = http {
        let source: Arc<dyn SnapshotSource> = Arc::<State>::clone(&state);
        tokio::task::spawn_local(http::serve(listener, source, std::future::pending()));
    }
    tokio::task::spawn_local(average(Arc::clone(&state)));
    let (stop_accepting, accepting_stop) = watch::channel(false);
    let names: Vec<_> = listeners.iter().map(accept::Listener::name).collect();
    for listener in listeners {
        tokio::task::spawn_local(listener.run(Rc::clone(&workers), accepting_stop.clone()));
    }
    drop(live);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listeners = names.join(", "),
        workers = workers.len(),
        "pgweir is ready"
    );

    let mode = loop {
        let request = tokio::select! {
            signal = signals.next() => match signal {
                Asked::Reload => None,
                Asked::End => break ShutdownMode::WaitForServers,
            },
            request = asked.recv() => request,
        };
        match request {
            Some(Request::Shutdown(mode)) => break mode,
            Some(Request::Reload(answer)) => {
                // Who asked may have left.
                drop(answer.send(reload(&state, key, &mut probers)));
            }
            None => drop(reload(&state, key, &mut probers)),
        }
    };
    let timeout = shared.live.load().config.general.shutdown_timeout;
    tracing::info!(?mode, clients = shared.clients.len(), "shutting down");
    stop_accepting.send_replace(true);
    ending::drain(&shared, mode, timeout, &mut signals).await;
    stop_workers.send_replace(true);
    let since = clock::now();
    while !workers.iter().all(Worker::has_ended) && clock::now().saturating_duration_since(since) < END {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tracing::info!("pgweir has ended");
    Ok(())
}

async fn bind_http(config: &Config) -> Result<Option<TcpListener>, Vec<String>> {
    let Some(address) = config.general.http_listen else { return Ok(None) };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(why) => Err(vec![format!("cannot listen on {address} (http_listen): {why}")]),
    }
}

fn start_workers(state: &Arc<State>, stop: &watch::Receiver<bool>) -> Result<Vec<Worker>, Vec<String>> {
    let configured = state.shared.live.load().config.general.workers;
    let count = match configured {
        // The number of cores that this process may use; one, if the system does not say.
        0 => std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX)),
        n => n,
    };
    let start = |id: u16| {
        let console = Arc::clone(state);
        // One worker looks after all pools: the connections that it makes are its own.
        let ticking = (id == 0).then(|| Arc::clone(state));
        Worker::start(Setup {
            id: WorkerId(id),
            shared: Arc::clone(&state.shared),
            console: Box::new(move |worker| Rc::new(Answerer::new(console, worker))),
            tick: ticking.map(|state| -> worker::Tick { Box::new(move |worker| state.tick(worker)) }),
            stop: stop.clone(),
        })
    };
    (0..count).map(start).collect::<Result<_, _>>().map_err(|why| vec![format!("cannot start a worker: {why}")])
}

/// Samples the totals once per `stats_period`, which a reload may change.
async fn average(state: Arc<State>) {
    loop {
        state.sample();
        let period = state.shared.live.load().config.general.stats_period;
        tokio::time::sleep(period).await;
    }
}

/// Reads the configuration again and goes by it from now on; what changed, in one line. With a mistake in it the old one stays.
fn reload(state: &State, key: MockKey, probers: &mut Probers) -> Result<String, Vec<String>> {
    let outcome = install(state, key, probers);
    let mut reloads = state.reloads.lock();
    match &outcome {
        Ok(changes) => {
            reloads.succeeded += 1;
            reloads.loaded_at = clock::wall();
            tracing::info!(%changes, "configuration reloaded");
        }
        Err(mistakes) => {
            reloads.failed += 1;
            mistakes.iter().for_each(|mistake| tracing::error!("{mistake}"));
            tracing::error!(
                mistakes = mistakes.len(),
                "the configuration was not reloaded: the old one stays in force"
            );
        }
    }
    outcome.map(|changes| changes.to_string())
}

fn install(state: &State, key: MockKey, probers: &mut Probers) -> Result<Changes, Vec<String>> {
    let old = state.shared.live.load_full();
    let mut config = load(&old.config.path)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let changes = diff::diff(&old.config, &config);
    live::keep_fixed(&mut config.general, &old.config.general);
    let new = live::build(config, Some(&old), key)?;
    for change in &changes.needs_restart {
        tracing::warn!(setting = change.name, now = change.old, then = change.new, "the setting needs a restart");
    }
    let is_replaced =
        |db: &&Arc<LiveDatabase>| !new.databases.get(&db.config.name).is_some_and(|kept| Arc::ptr_eq(kept, db));
    let replaced: Vec<_> = old.databases.values().filter(is_replaced).cloned().collect();
    if state.paused.load(Ordering::Acquire) {
        for database in new.databases.values() {
            database.paused.store(true, Ordering::Release);
        }
    }
    state.shared.install(new);
    state.retire(replaced);
    let live = state.shared.live.load_full();
    live::derive_ahead(&live);
    probers.follow(&live);
    Ok(changes)
}
