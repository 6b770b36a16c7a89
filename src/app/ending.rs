//! The end of the process: let transactions end, then close what is left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::parse::ShutdownMode;
use crate::client::Shared;
use crate::client::shared::Order;
use crate::clock;

use super::state::Request;

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
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    End,
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
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::End,
        }
    }

    async fn end(&mut self) {
        while self.next().await != Asked::End {}
    }
}

/// Lets clients go as `mode` says; another signal cuts it short, another SHUTDOWN changes the mode. New clients must be kept out already.
pub async fn drain(
    shared: &Shared,
    mut mode: ShutdownMode,
    timeout: Duration,
    signals: &mut Signals,
    asked: &mut mpsc::Receiver<Request>,
) {
    shared.draining.store(true, Ordering::Release);
    // Who rests cannot end.
    shared.resume();
    let started = clock::now();
    while !shared.clients.is_empty() {
        let waited = clock::now().saturating_duration_since(started);
        match mode {
            ShutdownMode::Immediate => break,
            ShutdownMode::WaitForServers if waited >= timeout => {
                tracing::warn!(clients = shared.clients.len(), ?timeout, "shutdown_timeout is over: closing the rest");
                break;
            }
            // Again and again: a login may have been under way.
            ShutdownMode::WaitForServers => order(shared, Order::Drain),
            ShutdownMode::WaitForClients => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            Some(request) = asked.recv() => match request {
                Request::Shutdown(other) => {
                    tracing::info!(mode = ?other, "shutting down otherwise");
                    mode = other;
                }
                Request::Reload(answer) | Request::Set { answer, .. } => {
                    // Who asked may have left.
                    drop(answer.send(Err(vec!["pgweir is shutting down".to_owned()])));
                }
            },
            () = signals.end() => {
                tracing::warn!(clients = shared.clients.len(), "a second signal: closing the rest");
                break;
            }
        }
    }
    let killed = clock::now();
    while !shared.clients.is_empty() && clock::now().saturating_duration_since(killed) < GRACE {
        order(shared, Order::Kill);
        tokio::time::sleep(LOOK).await;
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
