//! The prober: one task per server, on a connection of its own, so that a full pool neither hides a server's state nor is made
//! fuller.
//!
//! Every `probe_interval` one query asks for everything that `ServerHealth` wants to know. A probe that fails in any way drops
//! the connection; the next one dials again. Nothing is kept of a failed probe but the failure.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState as SqlErrorState;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, NoTls, Row, Statement};

use crate::clock;
use crate::config::{HealthSettings, Host, Role, Server, TcpSettings};
use crate::error::SqlState;
use crate::id::ServerIndex;
use crate::net::Stream;
use crate::net::connect::{Address, Attempt, Failure, connect};
use crate::net::dns::Dns;
use crate::net::tls::ServerTls;

use super::breaker::FailureKind;
use super::lsn::Lsn;
use super::server::{Observation, Position, ProbeFailure, ProbeResult, Verdict};
use super::shard::ShardHealth;

/// Intervals are shortened or lengthened by up to this part of them, so that probers do not keep step.
const JITTER: f64 = 0.1;
/// However much the sessions hurry, probes of a server are at least this far apart.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);
/// After a wait cut short by a hurry, a replica waits this much longer: the primary's sample comes first, and what it shows
/// has had time to be replayed.
const REPLICA_DELAY: Duration = Duration::from_millis(10);

/// As whom the prober logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user. It needs no more than CONNECT; with `pg_monitor` the timeline of replicas is found out sooner, and whom they follow.
    pub user: String,
    /// Its password, unless the server asks for none.
    pub password: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Probes server `index` of `shard` until `shutdown` becomes true or its sender is gone.
///
/// Needs a tokio runtime of any kind; it spawns one task more, for its connection.
pub async fn run(
    index: ServerIndex,
    server: Server,
    credentials: Credentials,
    shard: Arc<ShardHealth>,
    settings: HealthSettings,
    (tls, dns): (Arc<ServerTls>, Arc<Dns>),
    mut shutdown: watch::Receiver<bool>,
) {
    let _marked = Marked::new(&shard, index);
    let mut prober = Prober { server, credentials, deadline: settings.probe_timeout, tls, dns, link: None };
    let mut refusal = None;
    loop {
        if prober.has_moved() {
            // What is at the other address has a WAL of its own.
            prober.link = None;
            if let Some(health) = shard.server(index) {
                health.forget_position();
            }
        }
        let result = tokio::select! {
            result = prober.probe() => result,
            () = stopped(&mut shutdown) => return,
        };
        if let Err(failure) = &result {
            let (address, message) = (address(&prober.server), &failure.message);
            tracing::debug!(server = %address, error = %message, "probe failed");
        }
        tell_refusal(&mut refusal, &prober.server, &result);
        shard.on_probe(index, &result, clock::now());
        // Its name moved while it was asked.
        if prober.has_moved()
            && let Some(health) = shard.server(index)
        {
            health.forget_position();
        }
        let hurry = result.as_ref().ok().map(|seen| seen.position.role());
        tokio::select! {
            () = rest(settings.probe_interval, hurry, (&shard, index)) => {}
            () = prober.lost() => {
                // Most likely the server died. What it had replayed counts no more (see `ServerHealth::forget_position`),
                // and asking again now tells at once whether it is down.
                if let Some(health) = shard.server(index) {
                    health.forget_position();
                }
                sleep(SHORTEST_INTERVAL).await;
            }
            () = stopped(&mut shutdown) => return,
        }
    }
}

/// Says that a server refuses the prober, once for each reason: clients are served meanwhile, so that nobody would notice.
fn tell_refusal(told: &mut Option<String>, server: &Server, result: &ProbeResult) {
    let refusal = match result {
        Err(failure) if failure.verdict == Verdict::Refused => Some(failure.message.clone()),
        _ => None,
    };
    if let Some(error) = refusal.as_ref().filter(|_| *told != refusal) {
        let server = address(server);
        tracing::warn!(
            server,
            error,
            "probes are refused: how far the server is and whether it hangs is not seen (probe_user, probe_password)"
        );
    }
    *told = refusal;
}

/// Waits until the next probe is due: for the interval, or less when a session waits for its writes. A server that did not
/// answer (`hurry` is none) is not asked more often for that. What Patroni says cuts it short in both cases.
async fn rest(interval: Duration, hurry: Option<Role>, (shard, index): (&ShardHealth, ServerIndex)) {
    let interval = interval.mul_f64(1.0 + JITTER * rand::rng().random_range(-1.0..=1.0)).max(SHORTEST_INTERVAL);
    let told = async {
        sleep(SHORTEST_INTERVAL).await;
        // What was said meanwhile is kept.
        shard.told(index).await;
    };
    let Some(role) = hurry else {
        return tokio::select! {
            () = sleep(interval) => {}
            () = told => {}
        };
    };
    let hurried = async {
        // Subscribed from the start, so that a hurry during the shortest interval is not lost.
        let hurried = shard.hurried();
        tokio::pin!(hurried);
        let mut called = false;
        tokio::select! {
            () = &mut hurried => called = true,
            () = sleep(SHORTEST_INTERVAL) => {}
        }
        if called {
            sleep(SHORTEST_INTERVAL).await;
        } else {
            hurried.await;
        }
        if role == Role::Replica {
            sleep(REPLICA_DELAY).await;
        }
    };
    tokio::select! {
        () = sleep(interval) => {}
        () = hurried => {}
        () = told => {}
    }
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a shutdown too.
    let _seen = shutdown.wait_for(|stop| *stop).await.map(|stop| *stop);
}

/// Marks a server as probed for as long as its prober lives.
struct Marked<'a>(&'a ShardHealth, ServerIndex);

impl<'a> Marked<'a> {
    fn new(shard: &'a ShardHealth, index: ServerIndex) -> Self {
        let marked = Self(shard, index);
        marked.set(true);
        marked
    }

    fn set(&self, probed: bool) {
        if let Some(server) = self.0.server(self.1) {
            server.set_probed(probed);
        }
    }
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

struct Prober {
    server: Server,
    credentials: Credentials,
    deadline: Duration,
    tls: Arc<ServerTls>,
    dns: Arc<Dns>,
    link: Option<Link>,
}

/// A connection ready to be asked.
struct Link {
    client: Client,
    question: Statement,
    segment_size: u64,
    driver: Driver,
    /// Of a name, which was connected to, and where that led.
    place: Option<(String, IpAddr)>,
}

/// The task that moves the connection's bytes; it ends with the link. A server that hangs would keep it, and its socket, for
/// ever.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Prober {
    /// One probe, within the deadline, dialing included.
    async fn probe(&mut self) -> ProbeResult {
        // Out of `self` while it is in use: whatever ends the probe early drops it.
        let link = self.link.take();
        match timeout(self.deadline, self.ask(link)).await {
            Ok(Ok((link, seen))) => {
                self.link = Some(link);
                Ok(seen)
            }
            Ok(Err(failure)) => Err(failure),
            Err(_elapsed) => {
                Err(ProbeFailure { verdict: Verdict::Silent, message: format!("no answer within {:?}", self.deadline) })
            }
        }
    }

    /// Whether the connection leads where its host's name no longer does.
    fn has_moved(&self) -> bool {
        let place = self.link.as_ref().and_then(|link| link.place.as_ref());
        place.is_some_and(|(name, at)| self.dns.is_gone(name, *at))
    }

    /// Completes when the connection ends while nothing is asked; never while there is none.
    async fn lost(&mut self) {
        match &mut self.link {
            // The task returns nothing, and whether it panicked makes no difference.
            Some(link) => drop((&mut link.driver.0).await),
            None => std::future::pending().await,
        }
        self.link = None;
    }

    async fn ask(&self, link: Option<Link>) -> Result<(Link, Observation), ProbeFailure> {
        let link = match link {
            Some(link) => link,
            None => self.dial().await?,
        };
        let asked = clock::now();
        let row = link.client.query_one(&link.question, &[]).await.map_err(|e| judge(&e))?;
        let seen = observe(&row, asked, clock::now(), link.segment_size)?;
        Ok((link, seen))
    }

    /// Connects. Of several hosts the first that answers is asked: they are as good as each other.
    async fn dial(&self) -> Result<Link, ProbeFailure> {
        let mut last = None;
        for host in self.server.host.each() {
            match self.dial_host(host).await {
                Err(failure) if failure.verdict != Verdict::Refused => last = Some(failure),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| odd("the server has no host")))
    }

    /// Connects as the pools do: without or with TLS, in the order of the mode (see `server::login`).
    async fn dial_host(&self, host: &Host) -> Result<Link, ProbeFailure> {
        let connector = self.tls.get();
        let mut first = None;
        for attempt in Attempt::of(connector.mode, host) {
            let address = Address { host, port: self.server.port, at: None };
            match connect(address, &TcpSettings::default(), *attempt, &connector, &self.dns).await {
                Ok(stream) => {
                    let was_plain = stream.tls().is_none();
                    let place = match host {
                        Host::Tcp(name) => stream.addresses().map(|(peer, _)| (name.clone(), peer.ip())),
                        Host::Unix(_) | Host::Several(_) => None,
                    };
                    let error = match Box::pin(self.log_in(stream)).await {
                        Ok(link) => return Ok(Link { place, ..link }),
                        Err(error) => error,
                    };
                    let refused = error.code() == Some(&SqlErrorState::INVALID_AUTHORIZATION_SPECIFICATION);
                    if !refused || (was_plain && *attempt == Attempt::Offered) {
                        return Err(judge(&error));
                    }
                    first = first.or(Some(judge(&error)));
                }
                Err(why) => {
                    // Without TLS as it must be, the server is of as much use as one that is down.
                    let down = ProbeFailure { verdict: of_failure(&why), message: why.to_string() };
                    if matches!(why, Failure::Socket(_) | Failure::Name(_)) {
                        return Err(down);
                    }
                    first = first.or(Some(down));
                }
            }
        }
        Err(first.unwrap_or_else(|| odd("no way to connect was tried")))
    }

    async fn log_in(&self, stream: Stream) -> Result<Link, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .user(&self.credentials.user)
            .dbname(&self.server.dbname)
            .application_name("pgweir probe")
            // The stream has what it is to have.
            .ssl_mode(SslMode::Disable);
        if let Some(password) = &self.credentials.password {
            config.password(password);
        }
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        // Its error is also that of the query under way, and reported there.
        let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
        let row = client.query_one(ABOUT, &[]).await?;
        let (segment_size, checkpoint): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
        let question = client.prepare(&question(checkpoint)).await?;
        let segment_size = u64::try_from(segment_size).unwrap_or(0);
        Ok(Link { client, question, segment_size, driver, place: None })
    }
}

/// Where nobody is on the other side, nobody refuses.
fn of_failure(why: &Failure) -> Verdict {
    match why {
        Failure::Socket(error)
            if matches!(
                error.kind(),
                ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
            ) =>
        {
            Verdict::Silent
        }
        Failure::Name(_) | Failure::Socket(_) | Failure::Tls(_) | Failure::NotOffered => Verdict::Down,
    }
}

/// Asked once per connection: the size of a WAL segment in bytes, and whether `pg_control_checkpoint` and `pg_control_recovery`
/// may be called.
/// See <https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-CONTROLDATA>.
const ABOUT: &str = "SELECT (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'), \
     pg_catalog.has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE') \
     AND pg_catalog.has_function_privilege('pg_catalog.pg_control_recovery()', 'EXECUTE')";

/// The question of a probe. Only what fits the role is called: `pg_current_wal_insert_lsn` fails in recovery, and so does
/// `pg_walfile_name`, whose first eight digits are the timeline that a primary writes *now* (the last checkpoint of one just
/// promoted still says the old). A standby's timeline is the WAL receiver's (visible to pg_read_all_stats), or that of
/// what it has replayed and made durable, or of its last restart point.
///
/// See <https://www.postgresql.org/docs/current/functions-admin.html>.
fn question(checkpoint: bool) -> String {
    let checkpoint = if checkpoint {
        "(SELECT GREATEST(c.timeline_id, r.min_recovery_end_timeline) \
           FROM pg_catalog.pg_control_checkpoint() AS c, pg_catalog.pg_control_recovery() AS r)"
    } else {
        "NULL::pg_catalog.int4"
    };
    format!(
        "SELECT r.standby, \
         pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text, \
         pg_catalog.pg_last_wal_receive_lsn()::pg_catalog.text, \
         CASE WHEN r.standby THEN pg_catalog.date_part('epoch', \
             pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END, \
         CASE WHEN NOT r.standby THEN pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text END, \
         CASE WHEN NOT r.standby THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END, \
         CASE WHEN r.standby THEN \
             GREATEST({checkpoint}, (SELECT max(received_tli) FROM pg_catalog.pg_stat_wal_receiver)) END, \
         EXISTS (SELECT 1 FROM pg_catalog.pg_stat_wal_receiver), \
         (SELECT max(received_tli) FROM pg_catalog.pg_stat_wal_receiver) \
         FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby OFFSET 0) AS r"
    )
}

fn observe(row: &Row, asked: Instant, answered: Instant, segment_size: u64) -> Result<Observation, ProbeFailure> {
    let round_trip = answered.saturating_duration_since(asked);
    let (timeline, position) = if column::<bool>(row, 0)? {
        let replay = lsn(row, 1)?;
        let receive = lsn(row, 2)?;
        let since_commit = column::<Option<f64>>(row, 3)?.map(|s| Duration::try_from_secs_f64(s).unwrap_or_default());
        // All that came is replayed: whatever the age of the last commit, the replica itself is not behind.
        let lag = if receive.is_some() && receive <= replay { Some(Duration::ZERO) } else { since_commit };
        let timeline = |at| Ok(column::<Option<i32>>(row, at)?.and_then(|t| u32::try_from(t).ok()));
        let (streaming, receives) = (column(row, 7)?, timeline(8)?);
        (timeline(6)?, Position::Replica { replay, receive, lag, streaming, receives })
    } else {
        let insert = lsn(row, 4)?.ok_or_else(|| odd("a primary without a WAL position"))?;
        let file = column::<Option<String>>(row, 5)?;
        let timeline = file.and_then(|f| f.get(..8).and_then(|t| u32::from_str_radix(t, 16).ok()));
        (timeline, Position::Primary { insert: insert.behind_no_header(segment_size) })
    };
    Ok(Observation { asked, round_trip, timeline, position })
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, ProbeFailure> {
    row.try_get(at).map_err(|e| odd(&e.to_string()))
}

fn lsn(row: &Row, at: usize) -> Result<Option<Lsn>, ProbeFailure> {
    column::<Option<String>>(row, at)?.map(|text| text.parse().map_err(|_| odd(&text))).transpose()
}

/// The server answered, but not as PostgreSQL does.
fn odd(what: &str) -> ProbeFailure {
    ProbeFailure { verdict: Verdict::Refused, message: format!("unexpected answer to a probe: {what}") }
}

/// What an error says about the server: see [`Verdict`].
fn judge(error: &tokio_postgres::Error) -> ProbeFailure {
    let Some(response) = error.as_db_error() else {
        let message = chain(error);
        // A missing password is a mistake in the configuration, found out without asking the server for more.
        let refused = message.contains("password missing") || message.contains("authentication");
        return ProbeFailure { verdict: if refused { Verdict::Refused } else { Verdict::Down }, message };
    };
    let code = SqlState::from_bytes(response.code().code().as_bytes());
    let verdict = if FailureKind::of_sqlstate(code).is_some() { Verdict::Down } else { Verdict::Refused };
    ProbeFailure { verdict, message: format!("{code}: {}", response.message()) }
}

/// An error's message with those of its causes: the first alone is "error connecting to server".
fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

pub(super) fn address(server: &Server) -> String {
    format!("{}:{}", server.host, server.port)
}
