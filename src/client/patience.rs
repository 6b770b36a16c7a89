//! `client_login_timeout`: how long a client may take for its own part of a login. Waits for server connections count for
//! `query_wait_timeout` instead, so that PAUSE holds a login back as it does a statement.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use crate::client::login::Failed;
use crate::client::shared::{Order, Registered, Shared};
use crate::client::task::terminated_as;
use crate::clock;
use crate::error::{Error, SqlState};
use crate::metrics::report::{Doing, Report};
use crate::net::{Buffer, Stream};

/// Of what comes while a login waits for servers, this much is read ahead.
const READ_AHEAD: usize = 64 * 1024;

/// What is left of the time that a client may take.
#[derive(Debug)]
pub(super) struct Patience {
    /// None: there is no limit.
    left: Option<Duration>,
}

impl Patience {
    /// `limit`: zero is no limit.
    pub(super) fn new(limit: Duration) -> Self {
        Self { left: (!limit.is_zero()).then_some(limit) }
    }

    /// Waits for something that is the client's part.
    ///
    /// # Errors
    /// That of the part, or that the time is up.
    pub(super) async fn of<T, E: Into<Failed>>(
        &mut self,
        part: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failed> {
        let Some(left) = self.left else { return part.await.map_err(Into::into) };
        let begun = clock::now();
        let outcome = tokio::time::timeout(left, part).await;
        self.left = Some(left.saturating_sub(clock::now().saturating_duration_since(begun)));
        outcome.map_err(|_| Failed::Late)?.map_err(Into::into)
    }
}

/// Waits for what servers have a part in, as long as the client is there.
///
/// # Errors
/// That of the work, or that the client has left.
pub(super) async fn while_there<T>(
    stream: &mut Stream,
    input: &mut Buffer,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failed> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done.map_err(Failed::from));
        }
        while input.len() < READ_AHEAD {
            match input.poll_fill(stream, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await
}

/// The same for a client that others see already: operators can end it, and it rests while the process is suspended. A process that ends
/// lets nobody in any more.
///
/// # Errors
/// The same, and what the client is told if somebody ends it.
pub(super) async fn while_wanted<T>(
    (stream, input): (&mut Stream, &mut Buffer),
    registered: &Registered,
    shared: &Shared,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failed> {
    let handle = &registered.handle;
    let mut work = pin!(while_there(stream, input, work));
    poll_fn(|cx| {
        // What it rings for is looked at below.
        handle.bell.has_rung(cx);
        if shared.draining.load(Ordering::Acquire) {
            return Poll::Ready(Err(shutting_down().into()));
        }
        match handle.standing_order() {
            Order::None => {}
            // Nobody has its key yet.
            Order::Cancel => handle.cancel_is_done(),
            Order::Drain | Order::Kill => return Poll::Ready(Err(terminated_as(handle).into())),
        }
        if handle.is_asked() {
            registered.tell(Report { doing: Doing::Waiting, since: Some(handle.connected()), ..Report::default() });
        }
        if handle.is_suspended() {
            handle.set_flushed();
            return Poll::Pending;
        }
        work.as_mut().poll(cx)
    })
    .await
}

/// What a client is told that comes while the process ends.
pub(super) fn shutting_down() -> Error {
    Error::us_fatal(SqlState::CANNOT_CONNECT_NOW, "pgweir is shutting down")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_parts_of_the_client_count() {
        let limit = Duration::from_secs(2);
        let part = || async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok::<_, io::Error>(())
        };
        let endless = std::future::pending::<io::Result<()>>;
        let mut patience = Patience::new(limit);
        assert!(patience.of(part()).await.is_ok());
        tokio::time::sleep(limit).await;
        assert!(patience.of(part()).await.is_ok());
        assert!(matches!(patience.of(endless()).await, Err(Failed::Late)));
        assert!(matches!(patience.of(endless()).await, Err(Failed::Late)), "nothing is left");
        let mut patience = Patience::new(Duration::ZERO);
        assert!(patience.of(part()).await.is_ok());
    }
}
