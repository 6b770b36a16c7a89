//! The main thread, from the first listener to the end of the last worker.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::client::Shared;
use crate::client::database::Live;
use crate::clock;
use crate::config::Config;
use crate::config::diff::Changes;
use crate::error::{Error, SqlState};
use crate::id::WorkerId;
use crate::metrics::http;
use crate::metrics::snapshot::SnapshotSource;
use crate::net::listen::{self, Bound};
use crate::worker::{self, Setup, Worker};

use super::accept::{self, Door, Found, Listener, Listeners};
use super::console::Answerer;
use super::ending::{Asked, Drain, Ending, Signals};
use super::process::PidFile;
use super::state::{Request, State};
use super::takeover::{self, Estate, Given, Successor};
use super::{Launch, Watched, live, notify, own_command, reload, set};

/// Requests that may wait for the main thread.
const REQUESTS: usize = 16;
/// How often it is looked whether there are probers that nobody needs any more.
const LOOK: Duration = Duration::from_secs(1);
/// How long the workers may take to end.
const END: Duration = Duration::from_secs(1);

/// Serves until a signal or the console ends it, on the sockets of `found` or of the process `before` where these serve.
///
/// # Errors
/// Why it could not start, one reason a line.
pub(super) async fn main(live: Live, launch: &Launch, found: Found, before: Option<Given>) -> Result<(), Vec<String>> {
    // Before anyone can find out that we are there: a SIGHUP that nobody takes would end the process.
    let mut signals = Signals::new().map_err(|why| vec![format!("cannot take signals: {why}")])?;
    let (before, found, http, links) = match before {
        Some(Given { connection, pid, found, http, links, .. }) => (Some((connection, pid)), found, http, links),
        None => (None, found, None, Vec::new()),
    };
    // Before anything else is started: a port in use is found out while nothing has happened yet.
    let listeners = accept::bind(&live.config.general, found)?;
    let http = bind_http(&live.config, http)?;
    // And whatever can still fail: once the process before has let go, there is no way back.
    let http_copy = http.as_ref().map(|listener| listener.as_fd().try_clone_to_owned()).transpose();
    let http_copy = http_copy.map_err(|why| vec![format!("http_listen: {why}")])?;

    let shared = Shared::new(live);
    shared.predecessors.add(links);
    let (requests, mut asked) = mpsc::channel(REQUESTS);
    let state = State::new(Arc::clone(&shared), requests);
    let (stop_workers, workers_stop) = watch::channel(false);
    let workers = Rc::new(start_workers(&state, &workers_stop)?);
    let _pidfile = match before {
        Some((connection, pid)) => take_over(connection, pid, &shared, &listeners).await?,
        None => None,
    };
    let live = shared.live.load_full();
    live::derive_ahead(&live);
    let moving = Arc::clone(&state);
    tokio::task::spawn_local(Arc::clone(&live.dns).run(move |name| moving.leave_moved(name)));
    let mut watched = Watched::default();
    watched.follow(&live, &shared);
    drop(live);
    let (door, _) = watch::channel(Door::Open);
    tokio::task::spawn_local(average(Arc::clone(&state)));
    tokio::task::spawn_local(notify::keep_alive(Rc::clone(&workers)));
    let Listeners { all, managed } = listeners;
    open(&state, &workers, &all, http, &door);
    launch.teller.ready();
    let estate = Estate { listeners: all, managed, http: http_copy, state: Arc::clone(&state), door };

    let ending = Serving { state: &state, workers: &workers, launch, watched, estate: Rc::new(estate), giving: None };
    let (ending, door, watched) = ending.run(&mut signals, &mut asked).await;
    if matches!(ending, Ending::Told(_)) && *door.borrow() != Door::Closed {
        door.send_replace(Door::Console);
    }
    let timeout = shared.live.load().config.general.shutdown_timeout;
    Drain { shared: &shared, workers: &workers, log: &launch.log, timeout }.run(ending, &mut signals, &mut asked).await;
    // Whoever was still served was to hear of a failover.
    drop(watched);
    door.send_replace(Door::Closed);
    stop_workers.send_replace(true);
    let since = clock::now();
    while !workers.iter().all(Worker::has_ended) && clock::now().saturating_duration_since(since) < END {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tracing::info!("pgweir has ended");
    Ok(())
}

/// Becomes what the process `pid` was.
async fn take_over(
    connection: std::os::unix::net::UnixStream,
    pid: u32,
    shared: &Shared,
    listeners: &Listeners,
) -> Result<Option<PidFile>, Vec<String>> {
    let pidfile = shared.live.load().config.general.pidfile.clone();
    let commit = || pidfile.as_deref().map(|path| PidFile::replace(path, pid)).transpose();
    let undo = |replaced: Option<PidFile>| replaced.into_iter().for_each(|pidfile| pidfile.give_back(pid));
    let taken = takeover::take(connection, commit, undo).await.map_err(|why| vec![format!("-R: {why}")])?;
    listeners.all.iter().for_each(|listener| listener.set_ours(true));
    tracing::info!(pid, "taken over from the process that ran; it serves its clients until they leave");
    Ok(taken)
}

/// Lets clients and monitors in.
fn open(
    state: &Arc<State>,
    workers: &Rc<Vec<Worker>>,
    listeners: &[Rc<Listener>],
    http: Option<TcpListener>,
    door: &watch::Sender<Door>,
) {
    if let Some(listener) = http {
        let source: Arc<dyn SnapshotSource> = Arc::<State>::clone(state);
        let mut door = door.subscribe();
        // While the process ends it still tells how it is.
        let closed = async move { drop(door.wait_for(|door| *door == Door::Closed).await) };
        tokio::task::spawn_local(http::serve(listener, source, closed));
    }
    let names: Vec<_> = listeners.iter().map(|listener| listener.name()).collect();
    *state.listeners.lock() = listeners.iter().map(|listener| listener.snapshot()).collect();
    for listener in listeners {
        let (workers, shared) = (Rc::clone(workers), Arc::clone(&state.shared));
        tokio::task::spawn_local(Rc::clone(listener).run(workers, shared, door.subscribe()));
    }
    let names = names.join(", ");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listeners = names, workers = workers.len(), "pgweir is ready");
    notify::ready(&format!("listening on {names}"));
}

/// What the main thread looks after while the process serves.
struct Serving<'a> {
    state: &'a Arc<State>,
    workers: &'a Rc<Vec<Worker>>,
    launch: &'a Launch,
    watched: Watched,
    estate: Rc<Estate>,
    /// Under way to another process.
    giving: Option<JoinHandle<std::io::Result<Successor>>>,
}

impl Serving<'_> {
    /// Follows signals and the console until the process is to end: why, the door, and what goes on while clients are served.
    async fn run(
        mut self,
        signals: &mut Signals,
        asked: &mut mpsc::Receiver<Request>,
    ) -> (Ending, watch::Sender<Door>, Watched) {
        let ending = loop {
            let ending = tokio::select! {
                () = tokio::time::sleep(LOOK) => {
                    self.watched.probers.leave_unused();
                    None
                }
                signal = signals.next() => self.signalled(signal),
                request = asked.recv() => request.and_then(|request| self.requested(request)),
                outcome = handed_over(&mut self.giving) => self.handed_over(outcome),
            };
            if let Some(ending) = ending {
                break ending;
            }
        };
        let door = self.estate.door.clone();
        let Some(giving) = self.giving.take() else { return (ending, door, self.watched) };
        if *door.borrow() == Door::Open {
            // It has not begun to let go.
            giving.abort();
            return (ending, door, self.watched);
        }
        if let Ok(Ok(successor)) = giving.await {
            // The other process is there already; this one was told to end, and does.
            let _handed_over = self.follow(successor);
        }
        (ending, door, self.watched)
    }

    fn signalled(&mut self, signal: Asked) -> Option<Ending> {
        let timeout = self.state.shared.live.load().config.general.shutdown_timeout;
        if let Some(mode) = signal.shutdown(timeout) {
            return Some(Ending::Told(mode));
        }
        match signal {
            Asked::Pause => own_command::give(self.workers, "PAUSE"),
            // SUSPEND is ended from here: when its time is up nobody may be logging in, our own command neither.
            Asked::Resume if self.state.shared.is_suspended() => {
                if self.state.shared.resume() {
                    tracing::info!("a signal has ended SUSPEND");
                }
            }
            Asked::Resume => own_command::give(self.workers, "RESUME"),
            _ => drop(self.reload()),
        }
        None
    }

    fn requested(&mut self, request: Request) -> Option<Ending> {
        match request {
            Request::Shutdown(mode) => return Some(Ending::Told(mode)),
            // Who asked may have left.
            Request::Reload(answer) => drop(answer.send(self.reload())),
            Request::Set { name, value, answer } => {
                drop(answer.send(set(self.state, self.launch, &mut self.watched, (&name, &value))));
            }
            Request::HandOver(late) if self.giving.is_some() => {
                let why = "another process is taking over already";
                takeover::refuse(late, Error::us(SqlState::OBJECT_NOT_IN_STATE, why));
            }
            Request::HandOver(successor) => {
                let estate = Rc::clone(&self.estate);
                self.giving = Some(tokio::task::spawn_local(async move { estate.hand_over(successor).await }));
            }
        }
        None
    }

    fn reload(&mut self) -> Result<Changes, Vec<String>> {
        notify::reloading();
        let outcome = reload(self.state, self.launch, &mut self.watched);
        notify::ready(match outcome {
            Ok(_) => "reloaded",
            Err(_) => "the configuration has mistakes: the old one stays in force",
        });
        outcome
    }

    fn handed_over(&mut self, outcome: std::io::Result<Successor>) -> Option<Ending> {
        self.giving = None;
        match outcome {
            Ok(successor) => Some(self.follow(successor)),
            Err(error) => {
                tracing::warn!(%error, "another process wanted to take over and did not: this one goes on");
                None
            }
        }
    }

    fn follow(&self, successor: Successor) -> Ending {
        let Successor { pid, requests } = successor;
        tracing::info!(pid, "another process has taken over");
        if let Some(lost) = self.state.not_handed_over() {
            tracing::warn!("what was said at the console is not handed over: {lost}");
        }
        notify::succeeded_by(pid);
        let workers = Rc::clone(self.workers);
        tokio::task::spawn_local(async move {
            if let Err(error) = accept::take_from(requests, workers).await {
                tracing::warn!(%error, "the next process cannot hand on cancel requests any more");
            }
        });
        Ending::HandedOver
    }
}

/// The outcome of a takeover that is under way; never, when none is.
async fn handed_over(giving: &mut Option<JoinHandle<std::io::Result<Successor>>>) -> std::io::Result<Successor> {
    match giving {
        Some(task) => task.await.unwrap_or_else(|why| Err(std::io::Error::other(why))),
        None => std::future::pending().await,
    }
}

fn bind_http(config: &Config, found: Option<Bound>) -> Result<Option<TcpListener>, Vec<String>> {
    let Some(address) = config.general.http_listen else { return Ok(None) };
    match listen::one_tcp(address, config.general.listen_backlog, false, &mut found.into_iter().collect()) {
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
            console: Box::new(move || Rc::new(Answerer::new(console))),
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
