//! `client_login_timeout`: how long a client may take for its own part of a login. Waits for server connections count for
//! `query_wait_timeout` instead, so that PAUSE holds a login back as it does a statement.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::client::login::Failed;
use crate::clock;
use crate::error::Error;
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
