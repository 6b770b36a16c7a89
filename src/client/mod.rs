//! A client, from its first byte to its last: the only caller of every stage.
//!
//! `greet` reads the first packet, `login` lets the client in, `task` gathers its messages into segments, plans and routes them
//! (`plan`) and gets a server, and `relay` moves bytes both ways until the server can be given back.

mod attempt;
pub mod bell;
mod block;
mod catalog;
mod checkout;
pub mod console;
pub mod database;
pub mod external;
mod failover;
pub mod fresh;
pub mod greet;
mod hba;
pub mod hidden;
mod identity;
mod kept;
pub mod keys;
mod limits;
pub mod listen;
pub mod login;
mod lost;
mod mark;
pub mod own;
mod patience;
pub mod peers;
mod pieces;
pub mod plan;
mod popular;
mod predecessors;
mod prepared_view;
mod readings;
pub mod relay;
mod replication;
pub mod report;
mod scatter;
pub mod segment;
mod sequences;
pub mod shared;
mod shows;
mod silence;
pub mod suspend;
pub mod task;
pub mod token;
mod verifier;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::SmallRng;

use crate::auth::secret;
use crate::clock;
use crate::config::General;
use crate::config::PoolMode;
use crate::config::tls::SslMode;
use crate::error::{Error, SqlState};
use crate::health::view::ServerView;
use crate::id::WorkerId;
use crate::net::buffer::write_all;
use crate::net::stream::Detached;
use crate::net::tls::Tls;
use crate::net::{Buffer, Stream};
use crate::pool::Checkout;
use crate::server::connection::Secret;
use crate::session::popular::Popular;
use crate::session::settings::ClientSettings;
use crate::session::{Keep, Session};
use crate::sql::cache::FactsCache;
use crate::wire::encode;
use crate::wire::message::TransactionStatus;
use crate::wire::startup::{NEWEST_MINOR, Replication, Startup};

pub use console::{Console, Visitor};
use database::{Live, LiveDatabase, UserPools};
use greet::Greeting;
use hidden::Harmless;
pub use limits::CommonLimits;
use login::{Failed, Proven, Settled};
use patience::{Patience, shutting_down, while_wanted};
use replication::Held;
pub use shared::Shared;
use shared::{Activity, Admitted, Registered, Seat, SeatOf, Way};
use task::Client;

/// The body of AuthenticationOk: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.
const AUTHENTICATION_OK: [u8; 4] = [0; 4];

/// What the clients of one worker share; stays on its thread.
pub struct WorkerContext {
    /// The worker.
    pub id: WorkerId,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// What texts say.
    pub facts: RefCell<FactsCache>,
    /// Unnamed statements that come often.
    pub popular: RefCell<Popular>,
    /// Texts that are known to leave nothing behind.
    pub harmless: RefCell<Harmless>,
    /// The limits of its clients.
    pub limits: CommonLimits,
    /// Random numbers that need not be secret.
    pub rng: RefCell<SmallRng>,
    /// Room for what is known of the servers of a shard while one of them is chosen.
    pub views: RefCell<Vec<ServerView>>,
    /// Answers those who connect to the console.
    pub console: Rc<dyn Console>,
}

/// Serves a connection that was just accepted, and counts as logging in, to its end.
///
/// The login and each segment are futures in boxes of their own, which go when they are done: what stays of a client that is idle, as
/// most are, is small.
pub fn serve(stream: Stream, cx: Rc<WorkerContext>) -> impl Future<Output = ()> {
    // Boxed before the first await, or the stream would have a place in this future as well.
    let login = Box::pin(receive(stream, cx));
    async move {
        if let Some(client) = login.await {
            client.await;
        }
    }
}

/// Lets a connection in: what serves the client after its login.
async fn receive(stream: Stream, cx: Rc<WorkerContext>) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
    // First the number: a reload in between is then noticed at the first statement.
    let generation = cx.shared.generation.load(Ordering::Acquire);
    let live = cx.shared.live.load_full();
    stream.tune(&live.config.general.tcp);
    let limit = live.config.general.client_login_timeout;
    let mut patience = Patience::new(limit);
    let peer = shared::origin(stream.addresses().map(|a| a.0), stream.peer_pid());
    let mut who = None;
    let mut slot = Some(stream);
    let mut input = Buffer::default();
    let entered = tokio::select! {
        entered = enter(&mut slot, &mut input, &cx, &live, &mut patience, &mut who) => entered,
        () = cx.shared.until_overdue() => Err(suspend::overdue().into()),
    };
    // Who is known is listed, and counted, as a client from here on.
    cx.shared.logging_in.fetch_sub(1, Ordering::Relaxed);
    // Without a stream the client failed to make TLS.
    let mut stream = slot?;
    // One that is refused is there until it has been told.
    let mut _refused = None;
    let entered = match entered {
        Ok(Entered::Guest(guest)) => match welcome_in(*guest, (&mut stream, &mut input), &cx, &mut patience).await {
            Ok(entered) => Ok(entered),
            Err((failed, registered)) => {
                _refused = Some(registered);
                Err(failed)
            }
        },
        entered => entered,
    };
    let (error, why) = match entered {
        // A guest has become something else.
        Ok(Entered::Nothing | Entered::Guest(_)) => return None,
        Ok(Entered::Cancel { pid, secret }) => {
            cx.shared.cancel_requests.fetch_add(1, Ordering::Relaxed);
            // Until it is done the connection stays open: who asked may begin the next statement when it is closed.
            peers::cancel(&cx.shared, &live, (pid, secret), stream.addresses()).await;
            return None;
        }
        Ok(Entered::Console { visitor, registered }) => {
            return Some(Box::pin(async move {
                let shared = Arc::clone(&cx.shared);
                shared.at_console.fetch_add(1, Ordering::Relaxed);
                drop(console::serve(cx, &visitor, &mut stream, &mut input, registered).await);
                shared.at_console.fetch_sub(1, Ordering::Relaxed);
            }));
        }
        Ok(Entered::Successor) => {
            if let Ok(Detached::Unix(successor)) = stream.detach() {
                cx.console.hand_over(successor);
            }
            return None;
        }
        Ok(Entered::Replication { connection, held }) => {
            return Some(Box::pin(replication::relay(stream, input, connection, *held)));
        }
        Ok(Entered::Client(parts)) => return Some(stay(*parts, stream, input, cx, generation)),
        Err(Failed::Io(error)) => {
            tracing::debug!(%error, "connection lost during login");
            return None;
        }
        Err(Failed::Error(error)) => (error.fatal(), None),
        Err(Failed::Refused(error, why)) => (error.fatal(), Some(why)),
        Err(Failed::Late) => {
            cx.shared.count_timeout("client_login_timeout");
            let late = Error::us_fatal(SqlState::INVALID_AUTHORIZATION, "login took too long (client_login_timeout)");
            (late, None)
        }
    };
    cx.shared.count_failed_login(&error);
    if live.config.general.log_pooler_errors {
        let (user, database) = who.unzip();
        tracing::info!(peer, user, database, %error, why, "login failed");
    }
    let mut out = Vec::new();
    encode::error(&mut out, &error);
    // The client may have gone already; one that does not read is not waited for.
    drop(tokio::time::timeout(Duration::from_secs(1), write_all(&mut stream, &out)).await);
    None
}

/// What a login led to.
enum Entered {
    Nothing,
    Cancel {
        pid: u32,
        secret: Secret,
    },
    Console {
        visitor: Visitor,
        registered: Registered,
    },
    /// A process that wants to take over.
    Successor,
    /// A client that has proven who it is; a server has its part in what comes.
    Guest(Box<Guest>),
    Client(Box<Parts>),
    Replication {
        connection: Checkout,
        held: Box<Held>,
    },
}

/// A client that has proven who it is.
struct Guest {
    live: Arc<Live>,
    startup: Startup,
    proven: Proven,
    database: Arc<LiveDatabase>,
    seats: [Seat; 2],
    admitted: Admitted,
    registered: Registered,
    /// The other half of its cancel key.
    secret: Secret,
}

/// What a login made.
struct Parts {
    /// What it went by at its end: a reload may have come since the client connected.
    live: Arc<Live>,
    registered: Registered,
    database: Arc<LiveDatabase>,
    pools: Arc<UserPools>,
    settings: ClientSettings,
    admitted: Admitted,
    seats: [Seat; 2],
}

/// Serves a client that has logged in, to its end. Not an `async fn`: that would hold what it is given twice.
fn stay(
    parts: Parts,
    stream: Stream,
    input: Buffer,
    cx: Rc<WorkerContext>,
    generation: u64,
) -> Pin<Box<dyn Future<Output = ()>>> {
    let Parts { live, registered, database, pools, settings, admitted, seats } = parts;
    let keep = if pools.mode == PoolMode::Session { Keep::Session } else { Keep::Transaction };
    let follow = live.config.general.max_prepared_statements > 0;
    let (log_in, log_out) = (live.config.general.log_connections, live.config.general.log_disconnections);
    let handle = &registered.handle;
    handle.waits_since_us.store(0, Ordering::Relaxed);
    handle.set_activity(Activity::Idle);
    if log_in {
        handle.log_connected();
    }
    let session = Session::new(keep, follow, settings);
    let mut client = Client::new(stream, input, session, cx, live, database, pools, registered, generation);
    Box::pin(async move {
        let reason = {
            let mut run = pin!(client.run());
            poll_fn(|cx| clock::in_moment(|| run.as_mut().poll(cx))).await
        };
        let handle = Arc::clone(client.handle());
        drop((client, seats, admitted));
        if log_out {
            handle.log_disconnected(&reason);
        }
    })
}

async fn enter(
    slot: &mut Option<Stream>,
    input: &mut Buffer,
    cx: &Rc<WorkerContext>,
    live: &Arc<Live>,
    patience: &mut Patience,
    who: &mut Option<(String, String)>,
) -> Result<Entered, Failed> {
    let startup = match patience.of(greet::greet(slot, input, live.acceptor.as_ref())).await?? {
        Greeting::Nothing => return Ok(Entered::Nothing),
        Greeting::Cancel { pid, secret } => return Ok(Entered::Cancel { pid, secret: Secret(secret) }),
        Greeting::Startup(startup) => startup,
    };
    *who = Some((startup.user.clone(), startup.database.clone()));
    // The client may have taken its time: what counts is the configuration of now.
    let live = &cx.shared.live.load_full();
    let startup = with_options(startup, &live.config.general)?;
    let stream = slot.as_mut().ok_or(io::Error::from(io::ErrorKind::NotConnected))?;
    if live.config.general.client_tls.mode >= SslMode::Require && stream.is_remote() && stream.tls().is_none() {
        return Err(Error::us_fatal(SqlState::INVALID_AUTHORIZATION, "connections without TLS are not accepted")
            .hint("Set sslmode to require or more in the client; client_tls_sslmode demands it.")
            .into());
    }
    if startup.minor > NEWEST_MINOR || !startup.unknown_options.is_empty() {
        let mut out = Vec::new();
        encode::negotiate_protocol(&mut out, startup.minor.min(NEWEST_MINOR), &startup.unknown_options);
        patience.of(write_all(stream, &out)).await?;
    }
    // Also while the process ends: then an operator wants to see whom it waits for.
    if console::DATABASES.contains(&startup.database.as_str()) {
        return enter_console((stream, input), cx, live, &startup, patience).await;
    }
    if cx.shared.draining.load(Ordering::Acquire) {
        return Err(shutting_down().into());
    }
    let admitted = cx.shared.admit(live.config.general.max_client_conn)?;
    let proven = login::authenticate(live, &startup, cx, (stream, input), patience).await?;
    // A reload may have come meanwhile.
    let live = &cx.shared.live.load_full();
    let Some(database) = live.database_for_client(&startup.database) else {
        let hint = "SHOW DATABASES on the console lists the configured ones.";
        return Err(no_database(&startup.database).hint(hint).into());
    };
    refuse_disabled(&database)?;
    let seats = take_seats(cx, live, &database, &startup.user)?;
    let [of_database, of_user] = &seats;
    let (user, name) = (Arc::clone(of_user.name()), Arc::clone(of_database.name()));
    let way = way(cx, stream, startup.replication);
    let (registered, secret) = cx.shared.register(user, name, way, secret_len(&startup));
    registered.handle.set_activity(Activity::Waiting);
    let started = clock::now().saturating_duration_since(cx.shared.started);
    registered.handle.waits_since_us.store(task::micros(started).max(1), Ordering::Relaxed);
    let live = Arc::clone(live);
    Ok(Entered::Guest(Box::new(Guest { live, startup, proven, database, seats, admitted, registered, secret })))
}

/// DISABLE is in force.
fn refuse_disabled(database: &LiveDatabase) -> Result<(), Error> {
    if !database.disabled.load(Ordering::Acquire) {
        return Ok(());
    }
    let message = format!("database \"{}\" is disabled", database.config.name);
    Err(Error::us_fatal(SqlState::CANNOT_CONNECT_NOW, message).hint("ENABLE on the console lets new clients in again."))
}

/// Gives a client that is known what a server has its part in. One that is refused is listed until its place is dropped.
async fn welcome_in(
    guest: Guest,
    (stream, input): (&mut Stream, &mut Buffer),
    cx: &Rc<WorkerContext>,
    patience: &mut Patience,
) -> Result<Entered, (Failed, Registered)> {
    let Guest { live, startup, proven, database, seats, admitted, registered, secret } = guest;
    if let Some(kind) = startup.replication {
        return replicate(
            (stream, input),
            cx,
            &database,
            (&live, &startup, kind, &proven),
            (seats, admitted, registered, secret),
            patience,
        )
        .await;
    }
    let peer = live.config.general.application_name_add_host.then(|| match stream.addresses() {
        Some((peer, _)) => peer.to_string(),
        None => "unix".to_owned(),
    });
    let settled = settle(&live, &database, &startup, &proven, cx, peer.as_deref());
    let (pools, settled) = match while_wanted((stream, input), &registered, &cx.shared, settled).await {
        Ok(settled) => settled,
        Err(failed) => {
            live.forget_failed(&database);
            return Err((as_unknown(&live, &startup, failed), registered));
        }
    };
    let handle = Arc::clone(&registered.handle);
    if let Some(name) = settled.settings.get("application_name") {
        *handle.application_name.lock() = name.into();
    }
    let Settled { parameters, settings } = settled;
    let mut out = Vec::new();
    welcome(&mut out, &parameters, handle.pid, &secret);
    if let Err(failed) = be_told(stream, &out, cx, &database, patience).await {
        return Err((failed, registered));
    }
    Ok(Entered::Client(Box::new(Parts { live, registered, database, pools, settings, admitted, seats })))
}

/// Ends a login. DISABLE may have come while it waited, or SUSPEND.
async fn be_told(
    stream: &mut Stream,
    welcome: &[u8],
    cx: &WorkerContext,
    database: &LiveDatabase,
    patience: &mut Patience,
) -> Result<(), Failed> {
    refuse_disabled(database)?;
    tokio::select! {
        told = patience.of(write_all(stream, welcome)) => told,
        () = cx.shared.until_overdue() => Err(suspend::overdue().into()),
    }
}

/// Of a database that the wildcard made for the client's own name: where the server is, is none of its business.
fn as_unknown(live: &Live, startup: &Startup, failed: Failed) -> Failed {
    let unknown = no_database(&startup.database);
    match failed {
        Failed::Error(error)
            if !live.config.databases.contains_key(&startup.database)
                && error.sqlstate == SqlState::UNDEFINED_DATABASE
                && error.message.ends_with(&unknown.message) =>
        {
            unknown.into()
        }
        failed => failed,
    }
}

fn no_database(name: &str) -> Error {
    Error::us_fatal(SqlState::UNDEFINED_DATABASE, format!("database \"{name}\" does not exist"))
}

/// What `ignore_startup_parameters` leaves of `options`. As in PgBouncer a replication connection, which shares its server with nobody,
/// keeps all of it, and other clients keep what is tracked.
fn with_options(mut startup: Startup, general: &General) -> Result<Startup, Error> {
    let ignored = general.ignore_startup_parameters.iter().any(|name| name == "options");
    let tracks = |name: &str| {
        let extra = general.track_extra_parameters.iter();
        TRACKED.contains(&name) || extra.map(String::as_str).any(|extra| extra.eq_ignore_ascii_case(name))
    };
    let all = !ignored || startup.replication.is_some();
    startup.take_options(if all { None } else { Some(&tracks) })?;
    Ok(startup)
}

/// The settings that PgBouncer always tracks.
const TRACKED: [&str; 5] =
    ["application_name", "client_encoding", "datestyle", "standard_conforming_strings", "timezone"];

/// Gives a client its WAL sender.
async fn replicate(
    (stream, input): (&mut Stream, &mut Buffer),
    cx: &Rc<WorkerContext>,
    database: &Arc<LiveDatabase>,
    (live, startup, kind, proven): (&Live, &Startup, Replication, &Proven),
    (seats, admitted, registered, secret): ([Seat; 2], Admitted, Registered, Secret),
    patience: &mut Patience,
) -> Result<Entered, (Failed, Registered)> {
    let pools = database.user_pools(&startup.user, stored(live, startup, proven), &proven.pass_through);
    let connect = replication::connect(database, &pools, startup, kind, cx);
    let connection = match while_wanted((stream, input), &registered, &cx.shared, connect).await {
        Ok(connection) => connection,
        Err(failed) => return Err((failed, registered)),
    };
    let handle = &registered.handle;
    if let Some((_, name)) = startup.settings.iter().find(|(name, _)| name == "application_name") {
        *handle.application_name.lock() = name.as_str().into();
    }
    let mut out = Vec::new();
    let parameters = connection.as_ref().map(|connection| &*connection.welcome).unwrap_or_default();
    welcome(&mut out, parameters, handle.pid, &secret);
    if let Err(failed) = be_told(stream, &out, cx, database, patience).await {
        return Err((failed, registered));
    }
    if live.config.general.log_connections {
        handle.log_connected();
    }
    let log_out = live.config.general.log_disconnections;
    let database = Arc::clone(database);
    Ok(Entered::Replication {
        connection,
        held: Box::new(Held { registered, _database: database, _seats: seats, _admitted: admitted, log_out }),
    })
}

fn way(cx: &WorkerContext, stream: &Stream, replication: Option<Replication>) -> Way {
    Way {
        worker: cx.id,
        addresses: stream.addresses(),
        tls: stream.tls().and_then(Tls::negotiated),
        peer_pid: stream.peer_pid(),
        replication,
    }
}

/// How long the secret of a cancel key is, in bytes.
fn secret_len(startup: &Startup) -> usize {
    if startup.minor >= 2 { 32 } else { 4 }
}

/// What follows AuthenticationOk.
fn welcome(out: &mut Vec<u8>, parameters: &[(String, String)], pid: u32, secret: &Secret) {
    for (name, value) in parameters {
        encode::parameter_status(out, name.as_bytes(), value.as_bytes());
    }
    encode::backend_key(out, pid, &secret.0);
    encode::ready_for_query(out, TransactionStatus::Idle);
}

/// Counts the client for `max_db_client_connections` and `max_user_client_connections`.
fn take_seats(cx: &Rc<WorkerContext>, live: &Live, database: &LiveDatabase, user: &str) -> Result<[Seat; 2], Error> {
    let general = &live.config.general;
    let own = live.config.users.get(user).and_then(|user| user.max_user_client_connections);
    let most = own.unwrap_or(general.max_user_client_connections);
    Ok([
        cx.shared
            .seat(&SeatOf::Database(database.config.name.as_str().into()), database.config.max_db_client_connections)?,
        cx.shared.seat(&SeatOf::User(user.into()), most)?,
    ])
}

/// What is stored of the client now, or was when it proved who it is.
fn stored<'a>(live: &'a Live, startup: &Startup, proven: &'a Proven) -> Option<&'a secret::Secret> {
    live.users.get(&startup.user).or(proven.credential.as_ref()).map(|credential| credential.secret())
}

async fn settle(
    live: &Live,
    database: &Arc<LiveDatabase>,
    startup: &Startup,
    proven: &Proven,
    cx: &Rc<WorkerContext>,
    peer: Option<&str>,
) -> Result<(Arc<UserPools>, Settled), Error> {
    let pools = database.user_pools(&startup.user, stored(live, startup, proven), &proven.pass_through);
    let settled = login::settle(live, database, &pools, startup, peer, cx).await?;
    Ok((pools, settled))
}

async fn enter_console(
    (stream, input): (&mut Stream, &mut Buffer),
    cx: &Rc<WorkerContext>,
    live: &Arc<Live>,
    startup: &Startup,
    patience: &mut Patience,
) -> Result<Entered, Failed> {
    // Operators get in when clients are too many, for that is when they are needed; and they take no client's place.
    let visitor = Visitor::new(&startup.user, stream);
    if startup.settings.iter().any(|(name, _)| name == console::TAKEOVER) {
        return if visitor.owner && input.is_empty() {
            Ok(Entered::Successor)
        } else {
            Err(Error::us_fatal(
                SqlState::INSUFFICIENT_PRIVILEGE,
                "only the system user that runs pgweir may take over",
            )
            .into())
        };
    }
    let checked = if visitor.owner {
        let mut out = Vec::new();
        encode::frame(&mut out, b'R', |body| body.extend_from_slice(&AUTHENTICATION_OK));
        write_all(stream, &out).await?;
        true
    } else {
        let _counted = cx.shared.admit_to_console(live.config.general.max_client_conn)?;
        login::authenticate(live, startup, cx, (stream, input), patience).await?.checked
    };
    let visitor = Visitor { checked, ..visitor };
    if !cx.console.admits(&visitor) {
        return Err(Error::us_fatal(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("user \"{}\" may not use the console", startup.user),
        )
        .hint("Add the user to admin_users or stats_users.")
        .into());
    }
    let mut out = Vec::new();
    let version = concat!("15.0 (pgweir ", env!("CARGO_PKG_VERSION"), ")");
    for (name, value) in [
        ("server_version", version),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "off"),
    ] {
        encode::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
    }
    let user = startup.user.as_str().into();
    let (registered, secret) =
        cx.shared.register_visitor(user, console::NAME.into(), way(cx, stream, None), secret_len(startup));
    if let Some((_, name)) = startup.settings.iter().find(|(name, _)| name == "application_name") {
        *registered.handle.application_name.lock() = name.as_str().into();
    }
    encode::backend_key(&mut out, registered.handle.pid, &secret.0);
    encode::ready_for_query(&mut out, TransactionStatus::Idle);
    patience.of(write_all(stream, &out)).await?;
    Ok(Entered::Console { visitor, registered })
}
