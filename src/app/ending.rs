//! The end of the process: let clients go, then close what is left.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::parse::ShutdownMode;
use crate::client::Shared;
use crate::client::shared::Order;
use crate::clock;
use crate::error::{Error, SqlState};
use crate::worker::Worker;

use super::logging::Log;
use super::state::Request;
use super::{notify, own_command, takeover};

/// How often clients are counted.
const LOOK: Duration = Duration::from_millis(20);
/// How long clients that are told to go get for their last bytes.
const GRACE: Duration = Duration::from_secs(1);

/// The signals that the process follows.
#[derive(Debug)]
pub struct Signals {
    hang_up: Signal,
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    user_1: Signal,
    user_2: Signal,
}

/// What a signal asks for; the meanings are PgBouncer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP: RELOAD.
    Reload,
    /// SIGUSR1: PAUSE.
    Pause,
    /// SIGUSR2: RESUME.
    Resume,
    /// SIGTERM: SHUTDOWN WAIT_FOR_CLIENTS, or a drain in `shutdown_timeout`.
    Terminate,
    /// SIGINT: SHUTDOWN WAIT_FOR_SERVERS.
    Interrupt,
    /// SIGQUIT: SHUTDOWN.
    Quit,
}

impl Signals {
    /// Takes the signals from now on.
    ///
    /// # Errors
    /// When the system does not give them.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.quit.recv() => Asked::Quit,
            _ = self.user_1.recv() => Asked::Pause,
            _ = self.user_2.recv() => Asked::Resume,
        }
    }
}

impl Asked {
    /// The shutdown that a signal asks for, if it does. SIGTERM waits for clients as in PgBouncer where there is no `timeout`; with one
    /// the clients that do nothing are sent away, or they would be closed in the middle of something when it is over.
    #[must_use]
    pub fn shutdown(self, timeout: Duration) -> Option<ShutdownMode> {
        match self {
            Self::Terminate if timeout.is_zero() => Some(ShutdownMode::WaitForClients),
            Self::Terminate | Self::Interrupt => Some(ShutdownMode::WaitForServers),
            Self::Quit => Some(ShutdownMode::Immediate),
            Self::Reload | Self::Pause | Self::Resume => None,
        }
    }
}

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was told to.
    Told(ShutdownMode),
    /// Another process has taken over; who is here stays until it leaves, and nobody else comes.
    HandedOver,
}

/// What a drain looks at.
pub struct Drain<'a> {
    /// Clients.
    pub shared: &'a Shared,
    /// Where they live.
    pub workers: &'a Rc<Vec<Worker>>,
    /// What SIGHUP opens anew.
    pub log: &'a Log,
    /// `shutdown_timeout`; zero: none.
    pub timeout: Duration,
}

impl Drain<'_> {
    /// Lets clients go as `ending` says; another signal or SHUTDOWN cuts it short. New clients must be kept out already.
    pub async fn run(&self, mut ending: Ending, signals: &mut Signals, asked: &mut mpsc::Receiver<Request>) {
        let Self { shared, timeout, .. } = *self;
        let mut since = clock::now();
        self.begin(ending);
        while !self.is_over(ending) {
            let waited = clock::now().saturating_duration_since(since);
            match ending {
                Ending::Told(ShutdownMode::Immediate) => break,
                Ending::Told(ShutdownMode::WaitForServers) => {
                    if !timeout.is_zero() && waited >= timeout {
                        tracing::warn!(
                            clients = shared.clients.len(),
                            ?timeout,
                            "shutdown_timeout is over: closing the rest"
                        );
                        break;
                    }
                    // Again and again: a login may have been under way.
                    order(shared, Order::Drain);
                }
                Ending::Told(ShutdownMode::WaitForClients) | Ending::HandedOver => {}
            }
            let next = tokio::select! {
                () = tokio::time::sleep(LOOK) => None,
                signal = signals.next() => self.signalled(ending, signal),
                request = asked.recv() => request.and_then(Self::requested),
            };
            if let Some(mode) = next {
                ending = Ending::Told(mode);
                since = clock::now();
                self.begin(ending);
            }
        }
        let killed = clock::now();
        while !shared.clients.is_empty() && clock::now().saturating_duration_since(killed) < GRACE {
            order(shared, Order::Kill);
            tokio::time::sleep(LOOK).await;
        }
    }

    fn begin(&self, ending: Ending) {
        let clients = self.shared.clients.len();
        match ending {
            Ending::Told(mode) => {
                self.shared.draining.store(true, Ordering::Release);
                // Who is suspended cannot end.
                self.shared.resume();
                // Who is still waiting to be let in is not.
                self.shared.clients.iter().for_each(|client| client.bell.ring());
                tracing::info!(?mode, clients, "shutting down");
                // After a takeover the service goes on.
                if !self.shared.handed_over.load(Ordering::Acquire) {
                    notify::stopping(&format!("shutting down: {clients} clients"));
                }
            }
            Ending::HandedOver => {
                tracing::info!(clients, "another process has taken over: waiting for clients to leave")
            }
        }
    }

    /// Whether all are gone, and no cancel request is under way: it may be for a client of a peer, who knows nothing of our end. Who was
    /// accepted before another process took over may still be logging in.
    fn is_over(&self, ending: Ending) -> bool {
        let consoles = self.shared.at_console.load(Ordering::Relaxed);
        let connections: u32 = self.workers.iter().map(Worker::clients).sum();
        self.shared.clients.is_empty()
            && self.shared.cancelling.load(Ordering::Acquire) == 0
            && (ending != Ending::HandedOver || connections <= consoles)
    }

    /// The shutdown that follows on a signal. The first that ends a process which was not told to before is what it would have been
    /// without a takeover; one more ends it at once.
    fn signalled(&self, ending: Ending, signal: Asked) -> Option<ShutdownMode> {
        let Some(mode) = signal.shutdown(self.timeout) else {
            self.other_signal(ending, signal);
            return None;
        };
        if ending == Ending::HandedOver {
            return Some(mode);
        }
        tracing::warn!(clients = self.shared.clients.len(), "a second signal: closing the rest");
        Some(ShutdownMode::Immediate)
    }

    /// A signal that asks for no shutdown. It may take hours until the last client leaves: the log is rotated meanwhile, and after a
    /// takeover the clients that stay can be held back and let go.
    fn other_signal(&self, ending: Ending, signal: Asked) {
        match (signal, ending) {
            (Asked::Reload, _) => {
                if let Err(why) = self.log.reopen(&self.shared.live.load().config.general) {
                    tracing::error!("{why}");
                }
                tracing::info!("SIGHUP while clients leave: the log file is opened anew, and the configuration stays");
            }
            (Asked::Pause, Ending::HandedOver) => own_command::give(self.workers, "PAUSE"),
            (Asked::Resume, Ending::HandedOver) => own_command::give(self.workers, "RESUME"),
            _ => tracing::info!(?signal, "a signal during the shutdown: ignored"),
        }
    }

    /// The shutdown that someone at the console asks for; everything else is too late.
    fn requested(request: Request) -> Option<ShutdownMode> {
        match request {
            Request::Shutdown(mode) => return Some(mode),
            // Who asked may have left.
            Request::Reload(answer) => drop(answer.send(Err(late()))),
            Request::Set { answer, .. } => drop(answer.send(Err(late()))),
            Request::HandOver(successor) => {
                takeover::refuse(successor, Error::us(SqlState::CANNOT_CONNECT_NOW, "pgweir is shutting down"));
            }
        }
        None
    }
}

/// Gives the order to every client that has not got it yet.
fn order(shared: &Shared, order: Order) {
    for client in &shared.clients {
        match client.standing_order() {
            Order::Kill => {}
            standing if standing == order => {}
            Order::None | Order::Cancel | Order::Drain => client.order(order),
        }
    }
}

/// What is said to whoever comes too late.
fn late() -> Vec<String> {
    vec!["pgweir is shutting down".to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_mean_what_they_mean_in_pgbouncer() {
        let (none, some) = (Duration::ZERO, Duration::from_secs(30));
        for (signal, without, with) in [
            (Asked::Terminate, Some(ShutdownMode::WaitForClients), Some(ShutdownMode::WaitForServers)),
            (Asked::Interrupt, Some(ShutdownMode::WaitForServers), Some(ShutdownMode::WaitForServers)),
            (Asked::Quit, Some(ShutdownMode::Immediate), Some(ShutdownMode::Immediate)),
            (Asked::Reload, None, None),
            (Asked::Pause, None, None),
            (Asked::Resume, None, None),
        ] {
            assert_eq!((signal.shutdown(none), signal.shutdown(some)), (without, with), "{signal:?}");
        }
    }
}
