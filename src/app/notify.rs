//! What the service manager is told: sd_notify(3). Where nobody listens (`NOTIFY_SOCKET` is not set), nobody is told.

use std::rc::Rc;

use sd_notify::NotifyState;

use crate::worker::Worker;

/// How many times per period of its watchdog the service manager hears from us.
const BEATS: u32 = 3;

/// The process serves; `status` is shown beside its name.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        // Without the time it would be taken for the answer to an older request.
        Err(error) => tracing::debug!(%error, "the service manager is not told of a reload: no monotonic time"),
    }
}

/// The process ends.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Process `pid` has taken over, and is what the service consists of from now on. Nobody has asked it for signs of life, so its watchdog
/// must not wait for any.
pub fn succeeded_by(pid: u32) {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::MainPid(pid), NotifyState::WatchdogUsec(0)]);
    } else {
        tell(&[NotifyState::MainPid(pid)]);
    }
}

/// Tells a service manager that asks for it (`WatchdogSec=`) that the process works: the main thread does, and no worker has ended.
pub async fn keep_alive(workers: Rc<Vec<Worker>>) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut interval = tokio::time::interval(period / BEATS);
    loop {
        interval.tick().await;
        if workers.iter().any(Worker::has_ended) {
            tracing::error!("a worker has ended: the watchdog is no longer told that all is well");
            return;
        }
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
