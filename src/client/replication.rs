//! Replication connections: a client that wants a WAL sender gets a server connection of its own, and bytes go to and fro unread.
//!
//! What is spoken there is not queries and answers but streams in both directions, with no point where the connection could serve another
//! client: so it stands beside those that are lent, lives as long as its client, and nothing is kept of it. It takes a place in its pool
//! ([`crate::pool::standing`]) and counts for its limits; RECONNECT and a reload that changes the servers end it, PAUSE does not wait for it.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use super::WorkerContext;
use super::catalog::primary_pool;
use super::database::{LiveDatabase, UserPools};
use super::limits::Limits;
use super::report::of_buffers;
use super::shared::{Activity, Admitted, Links, Order, Registered, Seat};
use super::task::{HIGH_WATER, terminated_as};
use crate::clock;
use crate::error::{Error, SqlState};
use crate::metrics::report::{Doing, Report};
use crate::net::{Buffer, Stream};
use crate::pool::standing::Place;
use crate::pool::{Checkout, Pool};
use crate::server::{Connection, login};
use crate::wire::encode;
use crate::wire::startup::{Replication, Startup};

/// How often it is looked whether a pause is over.
const LOOK: Duration = Duration::from_millis(20);

/// Logs in to the primary as the client asked for.
///
/// # Errors
/// On a sharded database, which has no one primary; and those of the login.
pub(super) async fn connect(
    database: &LiveDatabase,
    pools: &UserPools,
    startup: &Startup,
    kind: Replication,
    cx: &Rc<WorkerContext>,
) -> Result<Checkout, Error> {
    if database.config.shards.len() > 1 {
        return Err(Error::us_fatal(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("database \"{}\" is sharded: a replication connection is to one server", startup.database),
        )
        .hint("Configure a database for each shard, and replicate from those."));
    }
    let pool = primary_pool(database, pools, database.config.map.default_shard)?;
    let place = place(&pool, database, startup, cx).await?;
    let mut target = pool.target.clone();
    target.connect_query = None;
    // What the operator configured stands.
    let configured = |name: &str| target.parameters.iter().any(|(known, _)| known == name);
    let settings: Vec<_> = startup.settings.iter().filter(|(name, _)| !configured(name)).cloned().collect();
    target.parameters.extend(settings);
    target.parameters.push(("replication".to_owned(), kind.parameter().to_owned()));
    let connection = login::login(&target, &pool.login_settings(), cx.id).await.map_err(Error::fatal)?;
    // A reload ends the streams that it finds; this was none while it logged in.
    refuse_retired(database, startup)?;
    place.take(connection).ok_or_else(|| too_many("its place is gone"))
}

fn too_many(why: &str) -> Error {
    Error::us_fatal(SqlState::TOO_MANY_CONNECTIONS, format!("no server connection can be had: {why}"))
}

/// Waits for RESUME, and for a place among the pool's connections, as a statement would.
async fn place(
    pool: &Arc<Pool>,
    database: &LiveDatabase,
    startup: &Startup,
    cx: &WorkerContext,
) -> Result<Place, Error> {
    let limit = Limits::of(&cx.shared.live.load().config, &startup.database, &startup.user).most_wait();
    let begun = clock::now();
    let place = loop {
        let paused = database.is_paused();
        if let Some(place) = (!paused).then(|| pool.place(cx.id)).flatten() {
            break place;
        }
        if !limit.is_zero() && clock::now().saturating_duration_since(begun) >= limit {
            cx.shared.count_timeout("query_wait_timeout");
            return Err(if paused {
                too_many("the database is paused (query_wait_timeout)").hint("RESUME on the console ends the pause.")
            } else {
                too_many("all of them are lent (query_wait_timeout)")
                    .hint("A replication connection counts for pool_size, max_db_connections and max_user_connections.")
            });
        }
        tokio::time::sleep(LOOK).await;
    };
    refuse_retired(database, startup)?;
    Ok(place)
}

/// A reload has put another database in the place of this one.
fn refuse_retired(database: &LiveDatabase, startup: &Startup) -> Result<(), Error> {
    if !database.retired.load(Ordering::Acquire) {
        return Ok(());
    }
    let why = format!("database \"{}\" is another one since a reload", startup.database);
    Err(Error::us_fatal(SqlState::CANNOT_CONNECT_NOW, why).hint("Connect again."))
}

/// What holds the client's place while it is there.
pub(super) struct Held {
    pub(super) registered: Registered,
    /// So that it is known to be used: nothing else here tells.
    pub(super) _database: Arc<LiveDatabase>,
    pub(super) _seats: [Seat; 2],
    pub(super) _admitted: Admitted,
    pub(super) log_out: bool,
}

/// Relays until one of the two leaves, or an operator ends it.
pub(super) async fn relay(mut client: Stream, input: Buffer, mut connection: Checkout, held: Held) {
    let handle = Arc::clone(&held.registered.handle);
    handle.waits_since_us.store(0, Ordering::Relaxed);
    handle.set_activity(Activity::Active);
    handle.set_links(Links::One(Arc::clone(connection.pool()), connection.slot()));
    let Some(Connection { stream: server, input: down, .. }) = connection.as_deref_mut() else { return };
    let mut up = input;
    let told = poll_fn(|cx| {
        // What it rings for is looked at below.
        handle.bell.has_rung(cx);
        match handle.standing_order() {
            Order::None => {}
            // Streaming has no statement that could be cancelled.
            Order::Cancel => handle.cancel_is_done(),
            Order::Drain | Order::Kill => return Poll::Ready(Some(terminated_as(&handle))),
        }
        if handle.has_errand() {
            if handle.is_asked() {
                let report = Report {
                    client: of_buffers(&client, &up, Some(&up)),
                    server: Some(of_buffers(server, down, Some(down))),
                    doing: Doing::Active,
                    since: Some(handle.connected()),
                    ..Report::default()
                };
                held.registered.tell(report);
            }
            // Sent only, and read no more.
            if handle.is_suspended() {
                return match (up.poll_flush(server, cx), down.poll_flush(&mut client, cx)) {
                    (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(None),
                    (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                        handle.set_flushed();
                        Poll::Pending
                    }
                    _ => Poll::Pending,
                };
            }
        }
        let upwards = pass(&mut client, &mut up, server, cx);
        let downwards = pass(server, down, &mut client, cx);
        if upwards.is_ready() || downwards.is_ready() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    let reason = told.as_ref().map_or_else(|| "it or its server is gone".to_owned(), |error| error.message.to_string());
    if let Some(error) = told {
        encode::error(down.tail(), &error);
    }
    let flush = poll_fn(|cx| down.poll_flush(&mut client, cx));
    drop(tokio::time::timeout(Duration::from_secs(1), flush).await);
    handle.set_links(Links::None);
    drop((client, connection));
    if held.log_out {
        handle.log_disconnected(&reason);
    }
}

/// Moves bytes as long as there are some and they are taken; `Ready` when either end is gone and all that came is passed on.
fn pass(from: &mut Stream, buffer: &mut Buffer, to: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        if let Poll::Ready(Err(_)) = buffer.poll_flush(to, cx) {
            return Poll::Ready(());
        }
        if buffer.len() >= HIGH_WATER {
            return Poll::Pending;
        }
        match buffer.poll_fill(from, cx) {
            Poll::Ready(Ok(n)) if n > 0 => {}
            Poll::Ready(_) => return buffer.poll_flush(to, cx).map(|_| ()),
            Poll::Pending => {
                buffer.shrink_if_empty();
                return Poll::Pending;
            }
        }
    }
}
