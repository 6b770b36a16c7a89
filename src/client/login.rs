//! Letting a client in: who it is, which database, and what a server makes of its startup settings.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::auth::login::{Channel, Login, LoginRandom, MAX_ANSWER, PassThrough, Step};
use crate::auth::secret::{Credential, Password, Secret};
use crate::client::WorkerContext;
use crate::client::checkout::pool_full;
use crate::client::console::DATABASES;
use crate::client::database::{Live, LiveDatabase, UserPools};
use crate::client::limits::Limits;
use crate::client::patience::{Patience, while_there};
use crate::client::verifier::{self, Verifier};
use crate::client::{hba, own};
use crate::clock;
use crate::config::AuthType;
use crate::error::{Error, SqlState};
use crate::id::{ServerIndex, ShardIndex};
use crate::net::buffer::write_all;
use crate::net::tls::Tls;
use crate::net::{Buffer, Stream};
use crate::pool::{Asked, Checkout, Pool, Ticket, Verdict};
use crate::server::connection::read_message_up_to;
use crate::session::settings::{ClientSettings, OWN_PREFIX, TEMP_BUFFERS, Values, is_reported, quote};
use crate::wire::encode;
use crate::wire::frame::HEADER_LEN;
use crate::wire::startup::Startup;

/// Settings remembered as accepted, per user and database.
const MAX_ACCEPTED: usize = 1000;

/// What goes wrong during a login.
#[derive(Debug)]
pub enum Failed {
    /// The socket.
    Io(io::Error),
    /// To be told to the client.
    Error(Error),
    /// The same, and why in words that are for the log alone.
    Refused(Error, String),
    /// The client took longer than `client_login_timeout`.
    Late,
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

/// What is known of a client that has proven who it is.
pub struct Proven {
    /// What is stored of it.
    pub credential: Option<Arc<Credential>>,
    /// What its login taught us.
    pub pass_through: PassThrough,
    /// Whether it was checked at all: not under `auth_type = any`.
    pub checked: bool,
}

/// Finds out whether the client is who it says.
///
/// # Errors
/// When it is not.
pub(super) async fn authenticate(
    live: &Live,
    startup: &Startup,
    cx: &WorkerContext,
    (stream, input): (&mut Stream, &mut Buffer),
    patience: &mut Patience,
) -> Result<Proven, Failed> {
    let user = startup.user.as_str();
    let database = Some(startup.database.as_str()).filter(|name| !DATABASES.contains(name));
    let channel =
        stream.tls().map(|tls| Channel { peer_name: tls.peer_name(), end_point: tls.end_point() }).unwrap_or_default();
    let (auth_type, channel, external) = match live.config.general.auth_type {
        AuthType::Hba => hba::choose(live, startup, stream, channel)?,
        auth_type => (auth_type, channel, live.outside.asked.clone()),
    };
    let Verifier { credential, mock } =
        while_there(stream, input, verifier::find(live, auth_type, user, database, cx)).await?;
    let doubt = doubt(auth_type, user, credential.as_deref(), stream);
    let random = LoginRandom { md5_salt: rand::random(), scram_nonce: rand::random() };
    let login = Login::new(auth_type, user, credential.clone(), mock, random);
    let limit = live.config.general.server_connect_timeout;
    let check = async |password: &Password| match &external {
        Some(external) => live.outside.is_right(external, user, password, limit).await,
        None => Ok(false),
    };
    let told = converse(login.over(channel), check, (stream, input), patience).await;
    let pass_through = told.map_err(|failed| match (failed, doubt) {
        (Failed::Error(error), Some(why)) if error.sqlstate.class() == "28" => Failed::Refused(error, why),
        (failed, _) => failed,
    })?;
    Ok(Proven { credential, pass_through, checked: auth_type != AuthType::Any })
}

/// Why no proof of the client's can be right, if that is known before it is given. The client must not learn it.
fn doubt(auth_type: AuthType, user: &str, known: Option<&Credential>, stream: &Stream) -> Option<String> {
    let secret = known.map(Credential::secret);
    let certificate = || match stream.tls().and_then(Tls::peer_name) {
        None => Some("the client has shown no certificate".to_owned()),
        Some(name) if name != user => Some(format!("the certificate names {name:?}")),
        Some(_) => None,
    };
    match (auth_type, secret) {
        (AuthType::Any | AuthType::Ldap | AuthType::Pam | AuthType::Hba, _) => None,
        (_, None) => Some("no such user: neither auth_file nor [users] nor auth_query knows it".to_owned()),
        (AuthType::Cert, Some(_)) => certificate(),
        (AuthType::Trust, Some(_)) => None,
        (_, Some(Secret::Absent)) => Some("no password is known of the user".to_owned()),
        (AuthType::ScramSha256, Some(Secret::Md5(_))) => {
            Some("only an md5 secret is known of the user, which SCRAM cannot check".to_owned())
        }
        (AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256, Some(_)) => None,
    }
}

/// Asks the client, to the end. `check`: asks others whether a password is right.
async fn converse(
    mut login: Login,
    check: impl AsyncFn(&Password) -> Result<bool, Error>,
    (stream, input): (&mut Stream, &mut Buffer),
    patience: &mut Patience,
) -> Result<PassThrough, Failed> {
    let mut step = login.start();
    loop {
        let mut out = Vec::new();
        match step {
            Step::Ask(request) => {
                encode::frame(&mut out, b'R', |b| b.extend_from_slice(&request.body()));
                patience.of(write_all(stream, &out)).await?;
            }
            Step::Check(password) => {
                step = login.checked(check(&password).await?);
                continue;
            }
            Step::Accepted(accepted) => {
                for request in &accepted.send {
                    encode::frame(&mut out, b'R', |b| b.extend_from_slice(&request.body()));
                }
                patience.of(write_all(stream, &out)).await?;
                return Ok(accepted.pass_through);
            }
            Step::Failed(error) => return Err(error.into()),
        }
        let answer = read_message_up_to(HEADER_LEN + MAX_ANSWER, stream, input);
        let (tag, body) = match patience.of(answer).await {
            Err(Failed::Io(e)) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::client_fatal(SqlState::PROTOCOL_VIOLATION, e.to_string()).into());
            }
            read => read?,
        };
        if tag != b'p' {
            let message = format!("expected password response, got message type {:?}", char::from(tag));
            return Err(Error::client_fatal(SqlState::PROTOCOL_VIOLATION, message).into());
        }
        let (machine, next) = if login.next_is_costly() {
            // Deriving a key takes milliseconds that other clients of this worker should not wait for.
            let mut moved = login;
            tokio::task::spawn_blocking(move || {
                let next = moved.answer(&body);
                (moved, next)
            })
            .await
            .map_err(|_| Error::us_fatal(SqlState::INTERNAL_ERROR, "the login was interrupted"))?
        } else {
            let next = login.answer(&body);
            (login, next)
        };
        (login, step) = (machine, next);
    }
}

/// A connection to ask things of: the primary of the default shard's, or any server of it. `limit`: how long it is waited for; zero: for
/// ever.
pub(super) async fn any_server(
    database: &LiveDatabase,
    pools: &UserPools,
    limit: Duration,
    cx: &WorkerContext,
) -> Result<Checkout, Error> {
    let shard: ShardIndex = database.config.map.default_shard;
    let servers = database.config.shards.get(usize::from(shard.0)).map_or(0, |s| s.servers.len());
    let mut last = Error::us(SqlState::INTERNAL_ERROR, "the database has no server");
    let mut order: Vec<_> = (0..u16::try_from(servers).unwrap_or(u16::MAX)).map(ServerIndex).collect();
    let health = database.health.get(usize::from(shard.0));
    let now = clock::now();
    let primary = health.and_then(|health| health.acting_primary(now));
    let is_away = |s| health.and_then(|h| h.server(s)).is_some_and(|s| s.view(now).suspect || s.is_unreachable(now));
    order.sort_by_key(|s| (is_away(*s), primary != Some(*s)));
    for server in order {
        let Some(pool) = database.pool(pools, shard, server) else { continue };
        let left = limit.saturating_sub(clock::now().saturating_duration_since(now));
        if left.is_zero() && !limit.is_zero() {
            return Err(last);
        }
        let asked = match pool.ask(cx.id) {
            Ok(Asked::Now(checkout)) => return Ok(checkout),
            Ok(Asked::Later(ticket)) => wait(ticket, &pool, (limit, left), cx).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(checkout) => return Ok(checkout),
            // A server that refuses the user or the database says so for all of them.
            Err(error) if !matches!(error.sqlstate.class(), "08" | "57") => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits in the queue for what is left of `limit`, zero for ever.
async fn wait(
    mut ticket: Ticket,
    pool: &Pool,
    (limit, left): (Duration, Duration),
    cx: &WorkerContext,
) -> Result<Checkout, Error> {
    if limit.is_zero() {
        return ticket.wait(cx.id).await;
    }
    let granted = tokio::time::timeout(left, ticket.wait(cx.id)).await;
    granted.unwrap_or_else(|_| {
        cx.shared.count_timeout("query_wait_timeout");
        Err(pool_full(pool, limit, "pool_size"))
    })
}

/// Waits for a server's answer, for no longer than a client may take for its own part of a login: nobody else would end it.
///
/// # Errors
/// Those of the connection, which cannot be used any more.
pub(super) async fn in_time<T>(live: &Live, answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let limit = live.config.general.client_login_timeout;
    if limit.is_zero() {
        return answer.await;
    }
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let why = format!("it did not answer within {} s (client_login_timeout)", limit.as_secs_f64());
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}

/// What the client is told at the end of its login, and what its session starts with.
pub struct Settled {
    /// ParameterStatus messages.
    pub parameters: Vec<(String, String)>,
    /// The session's settings.
    pub settings: ClientSettings,
}

/// `application_name_add_host`: the client's address behind its name, and the name cut so that PostgreSQL keeps the address.
fn add_host(wanted: &mut Vec<(String, String)>, peer: &str) {
    /// PostgreSQL cuts the name to one byte less than NAMEDATALEN.
    const LONGEST: usize = 63;
    let given = wanted.iter().position(|(name, _)| name == "application_name").map(|at| wanted.remove(at).1);
    let mut name = given.filter(|name| !name.is_empty()).unwrap_or_else(|| "app".to_owned());
    let room = LONGEST.saturating_sub(peer.len() + " - ".len());
    name.truncate(name.floor_char_boundary(room));
    wanted.push(("application_name".to_owned(), format!("{name} - {peer}")));
}

/// Finds out what servers report at login and whether they take the client's startup settings, asking one where it is not known yet.
/// `peer` is added to the application name.
///
/// # Errors
/// When no server can be asked, or a server does not take a setting: its own error.
pub async fn settle(
    live: &Live,
    database: &LiveDatabase,
    pools: &UserPools,
    startup: &Startup,
    peer: Option<&str>,
    cx: &WorkerContext,
) -> Result<Settled, Error> {
    let ignored = &live.config.general.ignore_startup_parameters;
    let mut wanted: Vec<_> = startup.settings.iter().filter(|(n, _)| !ignored.contains(n)).cloned().collect();
    if let Some(peer) = peer {
        add_host(&mut wanted, peer);
    }
    for (name, value) in wanted.iter().filter(|(n, _)| n.starts_with(OWN_PREFIX)) {
        own::check(name, value, &database.config.map)?;
    }
    let known = {
        let welcome = pools.welcome.lock();
        welcome.parameters.is_some() && wanted.iter().all(|w| is_plain(w) || welcome.accepted.contains_key(w))
    };
    if !known {
        let limit = Limits::of(&live.config, &startup.database, &startup.user).most_wait();
        let mut checkout = any_server(database, pools, limit, cx).await?;
        let of_temp = wanted.iter().any(|(name, _)| name == TEMP_BUFFERS);
        while of_temp && checkout.as_mut().is_some_and(|connection| connection.state.was_reset) {
            // It would refuse that, and is closed.
            drop(checkout);
            checkout = any_server(database, pools, limit, cx).await?;
        }
        let taken = ask(live, &mut checkout, pools, &wanted).await?;
        let touched = taken.is_err() || wanted.iter().any(|w| !is_plain(w));
        checkout.release(if touched { Verdict::Dirty } else { Verdict::Clean });
        taken?;
    }
    let mut welcome = pools.welcome.lock();
    let mut parameters = welcome.parameters.as_ref().map(|p| p.to_vec()).unwrap_or_default();
    let mut values = Values::new();
    let sharded = database.config.map.is_sharded();
    for (name, value) in wanted {
        let value = match welcome.accepted.get(&(name.clone(), value.clone())) {
            Some(accepted) => accepted.clone(),
            None => value,
        };
        match parameters.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(&name)) {
            // What every server has anyway needs no care later.
            Some(reported) if reported.1 == value && !(sharded && reads_keys(&name)) => continue,
            Some(reported) => reported.1.clone_from(&value),
            None => {}
        }
        values.insert(name, value);
    }
    if sharded {
        // Keys are read by them, so they must be known, and the same on all shards.
        for (name, value) in parameters.iter().filter(|(name, _)| reads_keys(name)) {
            values.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    Ok(Settled { parameters, settings: ClientSettings::new(welcome.usual(values)) })
}

/// Settings that decide how a sharding key is read. Servers report them at login.
fn reads_keys(name: &str) -> bool {
    matches!(name, "client_encoding" | "standard_conforming_strings")
}

/// Settings that a server takes as they are, whatever it is.
fn is_plain((name, value): &(String, String)) -> bool {
    name.starts_with(OWN_PREFIX)
        || (name == "application_name" && value.len() < 64 && value.bytes().all(|b| (32..127).contains(&b)))
}

/// Asks a server what it says of itself and of the settings that are `wanted`.
///
/// # Errors
/// Of the connection (outer), which cannot be used any more, or what the server does not take (inner).
async fn ask(
    live: &Live,
    checkout: &mut Checkout,
    pools: &UserPools,
    wanted: &[(String, String)],
) -> Result<Result<(), Error>, Error> {
    let lost = |e: io::Error| Error::server(SqlState::CONNECTION_FAILURE, format!("server connection lost: {e}"));
    let Some(connection) = checkout.as_mut() else {
        return Err(Error::us(SqlState::INTERNAL_ERROR, "a connection was lent that is not there"));
    };
    let encoding = connection.welcome.iter().find(|(name, _)| name == "server_encoding");
    let utf8 = encoding.is_some_and(|(_, value)| value.eq_ignore_ascii_case("utf8"));
    pools.server_utf8.store(utf8, Ordering::Release);
    pools.welcome.lock().parameters = Some(Arc::new(connection.welcome.clone()));
    // What another client set on it would take part in what a value comes to mean (DateStyle).
    let nobody = ClientSettings::default();
    if let Some(sql) = connection.state.settings.catch_up(&nobody) {
        if let Err(error) = in_time(live, connection.run(&sql)).await.map_err(lost)? {
            return Ok(Err(error));
        }
        connection.state.settings.caught_up(&nobody);
    }
    for (name, value) in wanted.iter().filter(|w| !is_plain(w)) {
        let sql = format!("SELECT pg_catalog.set_config({},{},false)", quote(name), quote(value));
        if let Err(error) = in_time(live, connection.run(&sql)).await.map_err(lost)? {
            return Ok(Err(error));
        }
        let taken = if is_reported(name) { connection.state.settings.reported(name) } else { None };
        let taken = taken.unwrap_or(value).to_owned();
        let mut welcome = pools.welcome.lock();
        if welcome.accepted.len() >= MAX_ACCEPTED {
            welcome.accepted.clear();
        }
        welcome.accepted.insert((name.clone(), value.clone()), taken);
    }
    Ok(Ok(()))
}
