//! The connection that listens for all clients of one user of a database.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::mailbox::Mailbox;
use crate::client::catalog::primary_pool;
use crate::client::database::{LiveDatabase, UserPools};
use crate::client::shared::Shared;
use crate::clock;
use crate::config::Host;
use crate::error::{Error, SqlState};
use crate::id::WorkerId;
use crate::net::buffer::write_all;
use crate::net::dns::Dns;
use crate::pool::Pool;
use crate::server::connection::read_message;
use crate::server::{Connection, login};
use crate::wire::{encode, message};

/// How long the connection stays when nobody listens any more.
const LINGERS: Duration = Duration::from_secs(5);

/// How often it is asked whether it still answers, and whether it still leads to the right server.
const ASKED_EVERY: Duration = Duration::from_secs(5);

/// What a hub is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    database: String,
    user: String,
    place: Place,
}

/// Where the connection leads.
struct OtherEnd {
    host: Host,
    address: Option<IpAddr>,
    /// How often names had left addresses when it was made: as long as none has since, it leads where the name does.
    changes: u64,
    dns: Arc<Dns>,
}

impl OtherEnd {
    /// Whether the name that it was made to no longer has its address.
    fn has_moved(&self) -> bool {
        let Some(address) = self.address.filter(|_| self.dns.changes() != self.changes) else { return false };
        matches!(&self.host, Host::Tcp(name) if self.dns.is_gone(name, address))
    }
}

/// A database on a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    host: Host,
    port: u16,
    dbname: String,
}

impl Place {
    /// The primary of a database that is not sharded.
    fn of(database: &LiveDatabase) -> Option<Self> {
        let server = database.config.shards.first()?.servers.first()?;
        Some(Self { host: server.host.clone(), port: server.port, dbname: server.dbname.clone() })
    }
}

/// All hubs of the process.
#[derive(Debug, Default)]
pub struct Hubs(Mutex<HashMap<Key, Weak<Hub>>>);

impl Hubs {
    /// The hub for clients with these pools.
    pub(super) fn of(
        &self,
        shared: &Arc<Shared>,
        database: &Arc<LiveDatabase>,
        pools: &Arc<UserPools>,
        worker: WorkerId,
    ) -> Arc<Hub> {
        let place =
            Place::of(database).unwrap_or(Place { host: Host::Tcp(String::new()), port: 0, dbname: String::new() });
        let key = Key { database: database.config.name.clone(), user: pools.user.clone(), place };
        let mut hubs = self.0.lock();
        // One that was made for the database before a reload goes on for those whom it serves.
        if let Some(hub) = hubs.get(&key).and_then(Weak::upgrade).filter(|hub| Arc::ptr_eq(&hub.database, database)) {
            return hub;
        }
        hubs.retain(|_, hub| hub.strong_count() > 0);
        let hub = Arc::new(Hub {
            key: key.clone(),
            shared: Arc::downgrade(shared),
            database: Arc::clone(database),
            pools: Arc::clone(pools),
            worker,
            work: Notify::new(),
            inner: Mutex::default(),
        });
        hubs.insert(key, Arc::downgrade(&hub));
        hub
    }

    /// How many clients listen, and to how many channels their hubs do.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let hubs: Vec<_> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        let (mut clients, mut channels) = (BTreeSet::new(), 0);
        for hub in hubs {
            let inner = hub.inner.lock();
            channels += inner.channels.by_name.len();
            clients.extend(inner.channels.by_name.values().flat_map(|c| &c.mailboxes).map(|mailbox| mailbox.client.id));
        }
        (clients.len() as u64, channels as u64)
    }
}

/// One who listens for others.
#[derive(Debug)]
pub struct Hub {
    key: Key,
    shared: Weak<Shared>,
    database: Arc<LiveDatabase>,
    pools: Arc<UserPools>,
    worker: WorkerId,
    /// There is something to do for the connection.
    work: Notify,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    channels: Channels,
    /// Server processes that work for a client which listens here.
    owners: HashMap<u32, Arc<Mailbox>>,
    /// Who waits until all is heard that was sent so far, and listened to what is wanted.
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
    /// Whether there is a connection, or one is being made.
    running: bool,
    /// How many connections were lost.
    losses: u64,
}

/// The channels that somebody is interested in.
#[derive(Debug, Default)]
struct Channels {
    by_name: HashMap<String, Channel>,
    /// Those that have come or gone since the server was told last.
    changed: BTreeSet<String>,
}

impl Channels {
    /// Changes one, which comes and goes with those who are interested.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Channel)) {
        let channel = match self.by_name.get_mut(name) {
            Some(channel) => channel,
            None => {
                self.changed.insert(name.to_owned());
                self.by_name.entry(name.to_owned()).or_default()
            }
        };
        change(channel);
        if channel.holds == 0 && channel.mailboxes.is_empty() && channel.expecting.is_empty() {
            self.by_name.remove(name);
            self.changed.insert(name.to_owned());
        }
    }

    /// The server has been told of none.
    fn start_over(&mut self) {
        self.changed = self.by_name.keys().cloned().collect();
    }

    /// What brings a server from what it listens to to what is wanted.
    fn bring(&mut self, listened: &mut BTreeSet<String>) -> String {
        let mut sql = String::new();
        for name in std::mem::take(&mut self.changed) {
            let verb = match (self.by_name.contains_key(&name), listened.contains(&name)) {
                (true, false) => "LISTEN",
                (false, true) => "UNLISTEN",
                _ => continue,
            };
            sql.push_str(&format!("{verb} {};", quote_identifier(&name)));
            if verb == "LISTEN" {
                listened.insert(name);
            } else {
                listened.remove(&name);
            }
        }
        sql
    }
}

/// A channel that somebody is interested in.
#[derive(Debug, Default)]
struct Channel {
    mailboxes: Vec<Arc<Mailbox>>,
    /// Those of clients whose transaction makes them listen if it commits, which has been asked for: it may have, before that is read.
    expecting: Vec<Arc<Mailbox>>,
    /// Clients whose transaction may make them listen.
    holds: usize,
}

impl Channel {
    fn expects(&mut self, mailbox: &Arc<Mailbox>) {
        if !self.expecting.iter().any(|other| Arc::ptr_eq(other, mailbox)) {
            self.expecting.push(Arc::clone(mailbox));
        }
    }

    fn expects_no_longer(&mut self, mailbox: &Arc<Mailbox>) {
        self.expecting.retain(|other| !Arc::ptr_eq(other, mailbox));
    }

    fn is_of(&self, mailbox: &Arc<Mailbox>) -> bool {
        self.mailboxes.iter().any(|other| Arc::ptr_eq(other, mailbox))
    }
}

impl Hub {
    /// The channel is to be listened to, because somebody may want it soon. How many connections were lost before.
    pub(super) fn hold(&self, channel: &str) -> u64 {
        let mut inner = self.inner.lock();
        inner.channels.change(channel, |channel| channel.holds += 1);
        inner.losses
    }

    /// Takes back one [`Self::hold`] of the mailbox's client.
    pub(super) fn release(&self, channel: &str, mailbox: &Arc<Mailbox>) {
        self.change(channel, |held| {
            held.holds = held.holds.saturating_sub(1);
            held.expects_no_longer(mailbox);
            if !held.is_of(mailbox) {
                mailbox.discard(channel);
            }
        });
    }

    /// What comes from here on on these channels, which are held, is the mailbox's if it comes to hear them: its client's transaction is
    /// about to be ended.
    pub(super) fn expect(&self, channels: &[String], mailbox: &Arc<Mailbox>) {
        let mut inner = self.inner.lock();
        for channel in channels {
            if let Some(channel) = inner.channels.by_name.get_mut(channel) {
                channel.expects(mailbox);
            }
        }
    }

    /// The mailbox gets what comes on the channel, which was held when so many connections had been lost.
    pub(super) fn subscribe(&self, channel: &str, mailbox: &Arc<Mailbox>, losses: u64) {
        self.change(channel, |subscribed| {
            subscribed.mailboxes.push(Arc::clone(mailbox));
            subscribed.expects_no_longer(mailbox);
            mailbox.confirm(channel);
        });
        if self.inner.lock().losses != losses {
            // Perhaps nobody listens just now.
            mailbox.end(missed(&lost(&"a transaction that listens was still open")));
        }
        self.work.notify_one();
    }

    /// ... or no longer, and what it has not taken it does not get: a session that listens no more is told nothing.
    pub(super) fn unsubscribe(&self, channel: &str, mailbox: &Arc<Mailbox>) {
        self.change(channel, |left| {
            left.mailboxes.retain(|other| !Arc::ptr_eq(other, mailbox));
            mailbox.discard(channel);
        });
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Channel)) {
        let mut inner = self.inner.lock();
        inner.channels.change(name, change);
        if !inner.channels.changed.is_empty() {
            self.work.notify_one();
        }
    }

    /// What the process sends is the mailbox's client's own, from here on.
    pub(super) fn own(&self, pid: u32, mailbox: &Arc<Mailbox>) {
        self.inner.lock().owners.insert(pid, Arc::clone(mailbox));
    }

    /// ... up to here.
    pub(super) fn disown(&self, pid: u32) {
        self.inner.lock().owners.remove(&pid);
    }

    /// Waits until everything that is held is listened to, and everything is in the mailboxes that was sent by who had his answer before.
    ///
    /// # Errors
    /// When the server cannot be listened to.
    pub(super) fn fence(self: &Arc<Self>) -> impl Future<Output = Result<(), Error>> + use<> {
        let (done, answer) = oneshot::channel();
        let mut inner = self.inner.lock();
        inner.waiting.push(done);
        if !std::mem::replace(&mut inner.running, true) {
            tokio::task::spawn_local(Arc::clone(self).run());
        }
        drop(inner);
        self.work.notify_one();
        async move { answer.await.unwrap_or_else(|_| Err(lost(&"it was closed"))) }
    }

    async fn run(self: Arc<Self>) {
        let ended = match self.connect().await {
            Ok((pool, end, mut connection)) => {
                let ended = self.serve(&pool, &end, &mut connection).await;
                if ended.is_ok() {
                    let mut bytes = Vec::new();
                    encode::terminate(&mut bytes);
                    drop(tokio::time::timeout(Duration::from_secs(1), write_all(&mut connection.stream, &bytes)).await);
                }
                ended
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            self.lose(&error);
        }
    }

    async fn connect(&self) -> Result<(Arc<Pool>, OtherEnd, Box<Connection>), Error> {
        let pool = primary_pool(&self.database, &self.pools, self.database.config.map.default_shard)?;
        let dns = Arc::clone(&pool.login_settings().dns);
        let changes = dns.changes();
        let mut connection = login::login(&pool.target, &pool.login_settings(), self.worker).await?;
        let address = connection.stream.addresses().map(|(peer, _)| peer.ip());
        let end = OtherEnd { host: pool.target.host.clone(), address, changes, dns };
        let set_up =
            "SET client_encoding = 'UTF8'; SET application_name = 'pgweir listener'; SET idle_session_timeout = 0";
        let old = "SET client_encoding = 'UTF8'; SET application_name = 'pgweir listener'";
        // Before PostgreSQL 14 there is no idle_session_timeout.
        for sql in [set_up, old] {
            match connection.run(sql).await.map_err(|error| lost(&error))? {
                Ok(()) => return Ok((pool, end, connection)),
                Err(error) if sql == old => return Err(error),
                Err(_) => {}
            }
        }
        Ok((pool, end, connection))
    }

    /// Serves those who listen; `Ok` when nobody does any more.
    async fn serve(&self, pool: &Pool, end: &OtherEnd, connection: &mut Connection) -> Result<(), Error> {
        let limit = pool.settings().login.timeout;
        let mut listened = BTreeSet::new();
        self.inner.lock().channels.start_over();
        let mut asked = clock::now();
        let mut unused_since = None;
        loop {
            let (sql, waiting) = self.next(&mut listened);
            let due = clock::now().saturating_duration_since(asked) >= ASKED_EVERY;
            if due || !sql.is_empty() || !waiting.is_empty() {
                let outcome = tokio::time::timeout(limit, self.exchange(connection, &sql)).await;
                let outcome = outcome.unwrap_or_else(|_| Err(lost(&"it does not answer")));
                // An answer of the wrong server says nothing about what was sent on the right one.
                let outcome = outcome.and_then(|()| self.check_place(pool, end));
                let told = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
                for waits in waiting {
                    // Who has gone meanwhile needs no answer.
                    drop(waits.send(told.clone()));
                }
                outcome?;
                asked = clock::now();
            }
            let now = clock::now();
            let since = listened.is_empty().then(|| unused_since.unwrap_or(now));
            unused_since = since;
            if since.is_some_and(|since| now.saturating_duration_since(since) >= LINGERS) && self.retire() {
                return Ok(());
            }
            let heard = tokio::select! {
                message = read_message(&mut connection.stream, &mut connection.input) => Some(message),
                () = self.work.notified() => None,
                () = tokio::time::sleep(ASKED_EVERY) => None,
            };
            if let Some(message) = heard {
                let (tag, body) = message.map_err(|error| lost(&error))?;
                self.hear(tag, &body)?;
            }
        }
    }

    /// What brings the connection to listen to what is wanted, and who waits for that.
    fn next(&self, listened: &mut BTreeSet<String>) -> (String, Vec<oneshot::Sender<Result<(), Error>>>) {
        let mut inner = self.inner.lock();
        (inner.channels.bring(listened), std::mem::take(&mut inner.waiting))
    }

    /// Runs `sql`, and hears what comes up to its end.
    async fn exchange(&self, connection: &mut Connection, sql: &str) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(sql.len() + 8);
        encode::query(&mut bytes, sql.as_bytes());
        write_all(&mut connection.stream, &bytes).await.map_err(|error| lost(&error))?;
        loop {
            let (tag, body) =
                read_message(&mut connection.stream, &mut connection.input).await.map_err(|error| lost(&error))?;
            if tag == b'Z' {
                return Ok(());
            }
            self.hear(tag, &body)?;
        }
    }

    /// A message of the server.
    fn hear(&self, tag: u8, body: &[u8]) -> Result<(), Error> {
        match tag {
            b'A' => self.distribute(body),
            b'E' => return Err(lost(&message::server_error(body).message)),
            _ => {}
        }
        Ok(())
    }

    /// Gives a notification to those who listen to its channel.
    fn distribute(&self, body: &[u8]) {
        let Some((pid, rest)) = body.split_first_chunk::<4>() else { return };
        let pid = u32::from_be_bytes(*pid);
        let Some(name) = rest.split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok()) else {
            return;
        };
        let inner = self.inner.lock();
        let owner = inner.owners.get(&pid);
        let Some(channel) = inner.channels.by_name.get(name) else { return };
        let sender = |mailbox: &Arc<Mailbox>| match owner {
            Some(owner) if Arc::ptr_eq(owner, mailbox) => mailbox.client.pid,
            _ => pid,
        };
        for mailbox in &channel.mailboxes {
            mailbox.put(sender(mailbox), rest);
        }
        for mailbox in channel.expecting.iter().filter(|mailbox| !channel.is_of(mailbox)) {
            mailbox.put_in_doubt(name, sender(mailbox), rest);
        }
    }

    /// Whether nobody has come in the last moment: then there is no connection from here on.
    fn retire(&self) -> bool {
        let mut inner = self.inner.lock();
        let unused = inner.channels.by_name.is_empty() && inner.waiting.is_empty();
        inner.running &= !unused;
        unused
    }

    /// After a reload the database may be elsewhere, and after a failover its primary: on a standby nobody is told anything.
    fn check_place(&self, pool: &Pool, end: &OtherEnd) -> Result<(), Error> {
        if end.has_moved() {
            return Err(lost(&"the name of its host leads elsewhere now"));
        }
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        let live = shared.live.load();
        let database = live.database(&self.key.database);
        let Some(database) = database.filter(|database| Place::of(database).as_ref() == Some(&self.key.place)) else {
            return Err(lost(&"the database is elsewhere now"));
        };
        // While there is no primary, or none is known, this one may be it again.
        let Ok(now) = primary_pool(&database, &self.pools, database.config.map.default_shard) else { return Ok(()) };
        let same = (&now.target.host, now.target.port) == (&pool.target.host, pool.target.port);
        if same { Ok(()) } else { Err(lost(&"another server is the primary now")) }
    }

    /// The connection is lost, and perhaps notifications with it: those who listened are told.
    fn lose(&self, error: &Error) {
        let mut inner = self.inner.lock();
        inner.running = false;
        inner.losses += 1;
        let waiting = std::mem::take(&mut inner.waiting);
        let mut listeners: Vec<_> = inner.channels.by_name.values().flat_map(|c| c.mailboxes.iter().cloned()).collect();
        drop(inner);
        listeners.sort_by_key(|mailbox| mailbox.client.id);
        listeners.dedup_by_key(|mailbox| mailbox.client.id);
        tracing::warn!(database = self.key.database, user = self.key.user, listeners = listeners.len(), %error, "the connection that listens is lost");
        for mailbox in listeners {
            mailbox.end(missed(error));
        }
        for waits in waiting {
            // Who has gone meanwhile needs no answer.
            drop(waits.send(Err(error.clone())));
        }
    }
}

/// As LISTEN takes it.
fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn lost(why: &dyn std::fmt::Display) -> Error {
    Error::server(
        SqlState::CONNECTION_FAILURE,
        format!("the server connection on which notifications come was lost: {why}"),
    )
}

fn missed(error: &Error) -> Error {
    Error::server(SqlState::CONNECTION_FAILURE, format!("terminating connection: {}", error.message))
        .detail("Notifications may have been sent that this session did not get.")
        .hint("Connect again, listen, and look at what has changed meanwhile.")
        .fatal()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What did not change is not looked at, whatever number of channels there is.
    #[test]
    fn a_server_is_told_of_what_has_changed() {
        let (mut channels, mut listened) = (Channels::default(), BTreeSet::new());
        let hold = |channels: &mut Channels, name: &str| channels.change(name, |channel| channel.holds += 1);
        let release = |channels: &mut Channels, name: &str| channels.change(name, |channel| channel.holds -= 1);
        hold(&mut channels, "a");
        hold(&mut channels, "B\"");
        assert_eq!(channels.bring(&mut listened), "LISTEN \"B\"\"\";LISTEN \"a\";");
        hold(&mut channels, "a");
        release(&mut channels, "a");
        assert!(channels.changed.is_empty());
        // Gone and come again, come and gone again: nothing.
        release(&mut channels, "a");
        hold(&mut channels, "a");
        hold(&mut channels, "c");
        release(&mut channels, "c");
        assert_eq!(channels.bring(&mut listened), "");
        release(&mut channels, "B\"");
        assert_eq!(channels.bring(&mut listened), "UNLISTEN \"B\"\"\";");
        channels.start_over();
        assert_eq!(channels.bring(&mut BTreeSet::new()), "LISTEN \"a\";");
    }
}
