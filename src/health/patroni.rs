//! Asks Patroni what the servers of a shard are, where `patroni` says who Patroni is.
//!
//! Its word is a hint. It comes sooner than the next probe, and of servers that do not answer, but it may be old by the time that it is
//! heard, and the lock that it speaks of is not the server's state. So it has the probers look, and decides
//! between servers that both say they are the primary of one timeline (`view::acting_primary`). Without an answer everything goes on as
//! without Patroni.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::config::{HealthSettings, Host, HttpAddress, Server, Shard, TcpSettings};
use crate::net::connect::{Address, Attempt, connect};
use crate::net::dns::Dns;
use crate::net::tls::ServerTls;

use super::members::{Found, Member, MemberRole, Members};
use super::shard::ShardHealth;

/// A page of a thousand members is shorter than this, in bytes.
const MOST: usize = 1 << 20;
/// The page.
const PAGE: &str = "/cluster";

/// Asks until `shutdown` becomes true or its sender is gone; never where there is nobody to ask.
///
/// All are asked at once, every `patroni_interval`, each within `probe_timeout`. Of a round the answer counts whose leader is on the highest
/// timeline, or that came first.
pub async fn run(
    shard: Shard,
    health: Arc<ShardHealth>,
    settings: HealthSettings,
    (tls, dns): (Arc<ServerTls>, Arc<Dns>),
    mut shutdown: watch::Receiver<bool>,
) {
    if shard.patroni.is_empty() {
        return;
    }
    let mut source =
        Source { shard, health, deadline: settings.probe_timeout, tls, dns, latest: 0, told: Told::default() };
    loop {
        tokio::select! {
            () = source.round() => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
        tokio::select! {
            () = sleep(settings.patroni_interval) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    source.health.on_members(&vec![None; source.shard.servers.len()], clock::now());
}

/// Those who are asked.
struct Source {
    shard: Shard,
    health: Arc<ShardHealth>,
    deadline: Duration,
    tls: Arc<ServerTls>,
    dns: Arc<Dns>,
    /// The timeline of the leader, in the last round that brought an answer.
    latest: u32,
    told: Told,
}

/// What the log was told, so that it is told once.
#[derive(Default)]
struct Told {
    silent: bool,
    stranger: Option<String>,
    odd: Option<String>,
}

impl Source {
    /// Asks all of them once.
    async fn round(&mut self) {
        let mut questions = JoinSet::new();
        for address in &self.shard.patroni {
            let question = ask(address.clone(), Arc::clone(&self.tls), Arc::clone(&self.dns));
            let (address, deadline) = (address.clone(), self.deadline);
            questions.spawn(async move {
                let answer = timeout(deadline, question).await;
                answer
                    .unwrap_or_else(|_| Err(format!("no answer within {deadline:?}")))
                    .map_err(|why| format!("{address}: {why}"))
            });
        }
        let (mut best, mut failures): (Option<Members>, _) = (None, Vec::new());
        let mut is_told = false;
        while let Some(answer) = questions.join_next().await {
            match answer {
                Ok(Ok(members)) if best.as_ref().is_none_or(|best| members.timeline() > best.timeline()) => {
                    // What may be old waits for the others of its round.
                    if members.timeline() > 0 && members.timeline() >= self.latest {
                        self.heard(&members).await;
                        is_told = true;
                    }
                    best = Some(members);
                }
                Ok(Ok(_)) => {}
                Ok(Err(why)) => failures.push(why),
                Err(broken) => failures.push(broken.to_string()),
            }
        }
        self.latest = best.as_ref().map_or(self.latest, Members::timeline);
        match best {
            Some(best) if !is_told => self.heard(&best).await,
            Some(_) => {}
            None => self.unheard(&failures.join("; ")),
        }
    }

    /// Passes on what was said.
    async fn heard(&mut self, members: &Members) {
        if std::mem::take(&mut self.told.silent) {
            tracing::info!(shard = self.shard.name, "Patroni answers again");
        }
        if let Some(why) = members.odd.as_ref().filter(|_| members.odd != self.told.odd) {
            tracing::warn!(
                shard = self.shard.name,
                why,
                "Patroni's page has a member that cannot be read; it is left out"
            );
        }
        self.told.odd.clone_from(&members.odd);
        let (servers, found) = (&self.shard.servers, &members.found);
        let known = addresses(doubtful(servers, found), &self.dns, self.deadline).await;
        let matched: Vec<_> =
            servers.iter().map(|server| found.iter().find(|found| is_same(server, found, &known))).collect();
        let all: Vec<Option<Member>> = matched.iter().map(|found| found.map(|found| found.member)).collect();
        let leader_is_ours = all.iter().flatten().any(|member| member.role == MemberRole::Leader);
        let leader = found.iter().find(|found| found.member.role == MemberRole::Leader);
        let stranger =
            leader.filter(|_| !leader_is_ours).map(|found| format!("{} ({}:{})", found.name, found.host, found.port));
        if let Some(leader) = stranger.as_ref().filter(|_| stranger != self.told.stranger) {
            tracing::warn!(
                shard = self.shard.name,
                leader,
                "Patroni's leader is none of the servers that are listed, by host and port"
            );
        }
        self.told.stranger = stranger;
        self.health.on_members(&all, clock::now());
    }

    /// Nobody has answered: nothing of what was said before counts any more.
    fn unheard(&mut self, error: &str) {
        if !self.told.silent {
            tracing::warn!(
                shard = self.shard.name,
                error,
                "Patroni does not answer; what the servers are, the probes alone tell"
            );
            self.told.silent = true;
        }
        self.health.on_members(&vec![None; self.shard.servers.len()], clock::now());
    }
}

/// The addresses of names.
type Known = BTreeMap<String, Vec<IpAddr>>;

/// Whether a member is this server: by its port, and its host's name or one of the addresses that it has.
fn is_same(server: &Server, found: &Found, known: &Known) -> bool {
    let Host::Tcp(host) = &server.host else { return false };
    server.port == found.port
        && found.host.split(',').any(|theirs| {
            let both = known.get(host).zip(known.get(theirs));
            host.eq_ignore_ascii_case(theirs)
                || both.is_some_and(|(ours, theirs)| ours.iter().any(|address| theirs.contains(address)))
        })
}

/// The names whose addresses decide: those of our servers that no member bears, and those of members that could be one of them.
fn doubtful(servers: &[Server], found: &[Found]) -> BTreeSet<String> {
    let by_name = Known::new();
    let mut names = BTreeSet::new();
    for server in servers.iter().filter(|server| !found.iter().any(|found| is_same(server, found, &by_name))) {
        let Host::Tcp(host) = &server.host else { continue };
        let candidates = found.iter().filter(|found| found.port == server.port);
        let theirs: BTreeSet<String> = candidates.flat_map(|found| found.host.split(',')).map(str::to_owned).collect();
        if !theirs.is_empty() {
            names.insert(host.clone());
            names.extend(theirs);
        }
    }
    names
}

/// Their addresses, as far as these are known within half a second, or `deadline` if that is sooner: others wait for what is made of the
/// answer. All are looked up at once, each once.
async fn addresses(names: BTreeSet<String>, dns: &Arc<Dns>, deadline: Duration) -> Known {
    let patience = Duration::from_millis(500).min(deadline);
    let mut questions = JoinSet::new();
    for name in names {
        let dns = Arc::clone(dns);
        questions.spawn(async move {
            let found = timeout(patience, dns.resolve(&name)).await;
            found.ok().and_then(Result::ok).map(|addresses| (name, addresses))
        });
    }
    let mut known = Known::new();
    while let Some(answer) = questions.join_next().await {
        known.extend(answer.ok().flatten());
    }
    known
}

/// Moves the connection's bytes, until the answer is there.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One question.
async fn ask(address: HttpAddress, tls: Arc<ServerTls>, dns: Arc<Dns>) -> Result<Members, String> {
    let host = Host::Tcp(address.host.clone());
    let place = Address { host: &host, port: address.port, at: None };
    let stream = Box::pin(connect(place, &TcpSettings::default(), Attempt::Plain, &tls.get(), &dns)).await;
    let stream = stream.map_err(|why| why.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|why| why.to_string())?;
    // Its error is that of the question too.
    let _driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    let request = Request::get(PAGE)
        .header(HOST, place.to_string())
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|why| why.to_string())?;
    let answer = sender.send_request(request).await.map_err(|why| why.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("answered {}", answer.status()));
    }
    let page = Limited::new(answer.into_body(), MOST).collect().await.map_err(|why| why.to_string())?;
    Members::parse(&page.to_bytes())
}
