//! Builds the parts from the configuration, starts them, and follows signals until the end.
//!
//! The main thread accepts, probes, serves HTTP, reloads and ends; clients live on [`crate::worker`]s. `live` makes what works by a
//! configuration, `state` is what the parts have in common, `accept` hands connections out, `probers` says what is probed, `checks` whether
//! the shards are as configured,
//! `console` runs commands and `snapshot` is the picture that it shows; `ending` lets clients go.

pub mod accept;
pub mod checks;
pub mod console;
pub mod ending;
pub mod explain_route;
pub mod healthcheck;
pub mod live;
pub mod logging;
pub mod probers;
pub mod process;
pub mod snapshot;
pub mod state;
mod syslog;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::admin::parse::ShutdownMode;
use crate::client::Shared;
use crate::client::database::{Live, LiveDatabase};
use crate::clock;
use crate::config::diff::{self, Changes};
use crate::config::{self, Config};
use crate::id::WorkerId;
use crate::metrics::http;
use crate::metrics::snapshot::SnapshotSource;
use crate::worker::{self, Setup, Worker};
use checks::Checks;
use console::Answerer;
use ending::{Asked, Signals};
use live::MockKey;
use logging::Log;
use probers::Probers;
use process::PidFile;
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
    let config = load(path, &Options::default())?;
    let warnings = config.warnings.clone();
    live::build(config, None, [0; 32]).map(|_| warnings)
}

/// The configuration of a pgbouncer.ini in the form of our own file.
///
/// # Errors
/// Every mistake of the file, one a line.
pub fn convert(path: &Path) -> Result<String, Vec<String>> {
    config::convert(path).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

/// What the command line says beside the configuration's file; it goes before what the file says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Go to the background.
    pub daemon: bool,
    /// Do not log to standard error.
    pub quiet: bool,
    /// How much more to log: 1 is debug, 2 and more trace.
    pub verbose: u8,
    /// User to become.
    pub user: Option<String>,
}

/// What watches the servers of the databases at work.
#[derive(Default)]
struct Watched {
    probers: Probers,
    checks: Checks,
}

impl Watched {
    fn follow(&mut self, live: &Live, shared: &Arc<Shared>) {
        self.probers.follow(live, shared);
        self.checks.follow(live);
    }
}

/// What a reload needs again.
struct Launch {
    options: Options,
    log: Log,
    key: MockKey,
}

/// Runs pgweir by the configuration at `path` until a signal or the console ends it.
///
/// # Errors
/// Why it could not start, one reason a line.
pub fn run(path: &Path, options: Options) -> Result<(), Vec<String>> {
    let one = |why: String| vec![why];
    // Absolute, so that a reload finds it whatever becomes of the working directory.
    let path = std::path::absolute(path).map_err(|why| one(format!("{}: {why}", path.display())))?;
    let config = load(&path, &options)?;
    let general = &config.general;
    if options.daemon && (general.pidfile.is_none() || (general.logfile.is_none() && !general.syslog.on)) {
        return Err(one("-d needs pidfile and logfile (or syslog) in the configuration".to_owned()));
    }
    if let Some(user) = &general.user {
        process::become_user(user).map_err(one)?;
    }
    let log = Log::open(general, !options.quiet).map_err(one)?;
    log.start(general).map_err(one)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let pidfile = general.pidfile.clone();
    let launch = Launch { options, log, key: rand::random() };
    let live = live::build(config, None, launch.key)?;
    if !launch.options.daemon {
        return in_place(live, &launch, pidfile);
    }
    // No thread has been started yet: only this one would be there afterwards.
    process::go_to_background().map_err(one)?;
    in_place(live, &launch, pidfile).inspect_err(|whys| whys.iter().for_each(|why| tracing::error!("{why}")))
}

fn in_place(live: Live, launch: &Launch, pidfile: Option<PathBuf>) -> Result<(), Vec<String>> {
    let _pidfile = pidfile.map(|path| PidFile::write(&path)).transpose().map_err(|why| vec![why])?;
    let runtime = worker::runtime().map_err(|why| vec![format!("cannot start: {why}")])?;
    runtime.block_on(Box::pin(main(live, launch)))
}

fn load(path: &Path, options: &Options) -> Result<Config, Vec<String>> {
    let told = |mistakes: Vec<config::ConfigError>| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>();
    Ok(with_options(config::load(path).map_err(told)?, options))
}

/// What the command line says stands above the file.
fn with_options(mut config: Config, options: &Options) -> Config {
    let general = &mut config.general;
    match options.verbose {
        0 => {}
        1 => "debug".clone_into(&mut general.log_level),
        _ => "trace".clone_into(&mut general.log_level),
    }
    if options.user.is_some() {
        general.user.clone_from(&options.user);
    }
    config
}

async fn main(live: Live, launch: &Launch) -> Result<(), Vec<String>> {
    // Before anyone can find out that we are there: a SIGHUP that nobody takes would end the process.
    let mut signals = Signals::new().map_err(|why| vec![format!("cannot take signals: {why}")])?;
    // Before anything else is started: a port in use is found out while nothing has happened yet.
    let listeners = accept::bind(&live.config.general)?;
    let http = bind_http(&live.config).await?;

    let shared = Shared::new(live);
    let (requests, mut asked) = mpsc::channel(REQUESTS);
    let state = State::new(Arc::clone(&shared), requests);
    let (stop_workers, workers_stop) = watch::channel(false);
    let workers = Rc::new(start_workers(&state, &workers_stop)?);
    let live = shared.live.load_full();
    live::derive_ahead(&live);
    let mut watched = Watched::default();
    watched.follow(&live, &shared);
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
                drop(answer.send(reload(&state, launch, &mut watched)));
            }
            Some(Request::Set { name, value, answer }) => {
                drop(answer.send(set(&state, launch, &mut watched, (&name, &value))));
            }
            None => drop(reload(&state, launch, &mut watched)),
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
    state.sample();
    loop {
        let period = state.shared.live.load().config.general.stats_period;
        tokio::time::sleep(period).await;
        state.sample();
        if state.shared.live.load().config.general.log_stats {
            state.log_stats();
        }
    }
}

/// Reads the configuration again and goes by it from now on; what changed, in one line. With a mistake in it the old one stays.
fn reload(state: &State, launch: &Launch, watched: &mut Watched) -> Result<String, Vec<String>> {
    let path = state.shared.live.load().config.path.clone();
    let outcome = load(&path, &launch.options).and_then(|config| install(state, launch, watched, config));
    // Also when the configuration is the old one: the file may have been rotated away.
    if let Err(why) = launch.log.reopen(&state.shared.live.load().config.general) {
        tracing::error!("{why}");
    }
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

/// Changes one setting of the configuration in force, until the next reload.
fn set(
    state: &State,
    launch: &Launch,
    watched: &mut Watched,
    (name, value): (&str, &str),
) -> Result<String, Vec<String>> {
    let old = state.shared.live.load_full();
    let told =
        |mistakes: Vec<config::ConfigError>| mistakes.into_iter().map(|mistake| mistake.message).collect::<Vec<_>>();
    let config = old.config.with(name, value).map_err(told)?;
    let changes = install(state, launch, watched, with_options(config, &launch.options))?;
    if name == "logfile" || name.starts_with("syslog") {
        launch.log.reopen(&state.shared.live.load().config.general).map_err(|why| vec![why])?;
    }
    tracing::info!(%changes, setting = name, "setting changed");
    Ok(changes.to_string())
}

fn install(state: &State, launch: &Launch, watched: &mut Watched, mut config: Config) -> Result<Changes, Vec<String>> {
    let old = state.shared.live.load_full();
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let changes = diff::diff(&old.config, &config);
    live::keep_fixed(&mut config.general, &old.config.general);
    let new = live::build(config, Some(&old), launch.key)?;
    for change in &changes.needs_restart {
        tracing::warn!(setting = change.name, now = change.old, then = change.new, "the setting needs a restart");
    }
    let is_replaced =
        |db: &&Arc<LiveDatabase>| !new.database(&db.config.name).is_some_and(|kept| Arc::ptr_eq(&kept, db));
    let replaced: Vec<_> = old.all().iter().filter(is_replaced).cloned().collect();
    if state.paused.load(Ordering::Acquire) {
        for database in new.all() {
            database.paused.store(true, Ordering::Release);
        }
    }
    state.shared.install(new);
    state.retire(replaced);
    let live = state.shared.live.load_full();
    live::derive_ahead(&live);
    watched.follow(&live, &state.shared);
    Ok(changes)
}
