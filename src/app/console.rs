//! Runs console commands. What they are and who may run them is decided in [`crate::admin`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use crate::admin::explain;
use crate::admin::parse::{Command, Show, ShutdownMode};
use crate::admin::rights::Right;
use crate::admin::show::{self, Answer, Table, Wanted};
use crate::admin::slot;
use crate::client::database::{Live, LiveDatabase};
use crate::client::report::Asked;
use crate::client::shared::Order;
use crate::client::{Console, Visitor, console};
use crate::clock;
use crate::error::{Error, Result, SqlState};
use crate::id::ClientId;
use crate::pool::Pool;
use crate::wire::encode;

use super::state::{Request, State};
use super::{explain_route, tables, takeover};

/// How often PAUSE looks whether the servers are free.
const LOOK: Duration = Duration::from_millis(20);
/// How long KILL waits until those it ended are gone.
const PARTING: Duration = Duration::from_secs(3);
/// The code of `config_file_error`: see <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
const CONFIG_FILE_ERROR: SqlState = SqlState(*b"F0000");

/// Answers console commands on one worker.
#[derive(Debug)]
pub struct Answerer {
    state: Arc<State>,
}

impl Console for Answerer {
    fn admits(&self, visitor: &Visitor) -> bool {
        self.right(visitor).is_some()
    }

    fn only_shows(&self, sql: &str) -> bool {
        matches!(
            Command::parse(sql),
            Ok(Command::Show(_) | Command::ShowParameter(_) | Command::ShowSlot { .. } | Command::ExplainRoute { .. })
        )
    }

    fn hand_over(&self, successor: UnixStream) {
        if let Err(refusal) = self.state.may_hand_over() {
            return takeover::refuse(successor, refusal);
        }
        match self.state.requests.try_send(Request::HandOver(successor)) {
            Ok(()) => {}
            Err(TrySendError::Full(Request::HandOver(back)) | TrySendError::Closed(Request::HandOver(back))) => {
                takeover::refuse(back, state_error("the main thread is busy with other commands".to_owned()));
            }
            Err(_) => {}
        }
    }

    fn run<'a>(&'a self, visitor: &'a Visitor, sql: &'a str) -> Pin<Box<dyn Future<Output = Vec<u8>> + 'a>> {
        Box::pin(async move {
            self.command(visitor, sql).await.unwrap_or_else(|error| {
                let mut out = Vec::new();
                encode::error(&mut out, &error);
                out
            })
        })
    }
}

impl Answerer {
    /// For the console users of one worker.
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    fn right(&self, visitor: &Visitor) -> Option<Right> {
        if visitor.owner {
            return Some(Right::Admin);
        }
        Right::of(&visitor.user, visitor.checked, &self.state.shared.live.load().config.general)
    }

    /// Runs a command: the messages of its answer.
    async fn command(&self, visitor: &Visitor, sql: &str) -> Result<Vec<u8>> {
        let command = Command::parse(sql)?;
        // Asked anew for every command: a reload may have taken the right away.
        let right = self.right(visitor).ok_or_else(|| {
            let user = &visitor.user;
            Error::us(SqlState::INSUFFICIENT_PRIVILEGE, format!("user \"{user}\" may not use the console any more"))
        })?;
        command.authorise(right)?;
        self.state.shared.commands.fetch_add(1, Ordering::Relaxed);
        let mut out = Vec::new();
        match &command {
            Command::Empty => {
                out.extend_from_slice(encode::EMPTY_QUERY);
                return Ok(out);
            }
            Command::NoOp { .. } => {}
            Command::ShowParameter(parameter) => table(&mut out, &show::parameter(*parameter)),
            Command::Show(show) => match self.show(*show).await {
                Answer::Table(rows) => table(&mut out, &rows),
                Answer::Notice(notice) => {
                    encode::notice(
                        &mut out,
                        "NOTICE",
                        &Error::us(SqlState::SUCCESS, notice.message).detail(notice.detail),
                    );
                }
            },
            Command::ShowSlot { table: name, values, database } => {
                let database = self.meant(database.as_deref())?;
                let utf8 = !database.distrust.load().beyond_ascii;
                table(&mut out, &slot::slot(&database.config.name, &database.config.map, name, values, utf8)?);
            }
            Command::ExplainRoute { sql, database } => {
                let database = self.meant(database.as_deref())?;
                table(&mut out, &explain::table(explain_route::explain(&database, sql)));
            }
            Command::Reload => self.reload(&mut out).await?,
            Command::Pause(name) => self.pause(name.as_deref(), &mut out).await?,
            Command::Resume(name) => self.resume(name.as_deref())?,
            Command::Shutdown(mode) => self.shutdown(*mode)?,
            Command::Set { key, value } => self.set(key, value, &mut out).await?,
            Command::Disable(name) => self.disable(name, &mut out)?,
            Command::Enable(name) => self.enable(name)?,
            Command::Reconnect(name) => self.reconnect(name.as_deref(), &mut out)?,
            Command::WaitClose(name) => self.wait_close(name.as_deref(), &mut out).await?,
            Command::Kill(name) => self.kill(name.as_deref(), &mut out).await?,
            Command::KillClient(id) => self.kill_client(*id)?,
            Command::Suspend => self.suspend().await?,
        }
        if right == Right::Admin && command.required_right() == Right::Admin {
            tracing::info!(user = visitor.user, command = command.summary(), "console command");
        }
        encode::command_complete(&mut out, command.tag());
        Ok(out)
    }

    /// A notice goes to `out` where a restart is needed.
    async fn reload(&self, out: &mut Vec<u8>) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Reload(answer))?;
        match answered.await {
            Ok(Ok(changes)) => {
                if !changes.needs_restart.is_empty() {
                    let names: Vec<_> = changes.needs_restart.iter().map(|change| change.name).collect();
                    let message = format!("a restart is needed for {}", names.join(", "));
                    let notice = Error::us(SqlState::SUCCESS, message).hint("-R restarts without dropping clients.");
                    encode::notice(out, "WARNING", &notice);
                }
                Ok(())
            }
            Ok(Err(mistakes)) => {
                Err(Error::us(CONFIG_FILE_ERROR, "the configuration was not reloaded: it has mistakes")
                    .detail(mistakes.join("\n"))
                    .hint("The old configuration stays in force."))
            }
            Err(_) => Err(Error::us(SqlState::ADMIN_SHUTDOWN, "pgweir is shutting down")),
        }
    }

    /// Changes a setting until the next reload.
    async fn set(&self, name: &str, value: &str, out: &mut Vec<u8>) -> Result<()> {
        if self.state.shared.live.load().config.idle.iter().any(|(idle, _)| *idle == name) {
            notice(out, format!("{name} has no meaning here: nothing is changed"));
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Set { name: name.to_owned(), value: value.to_owned(), answer })?;
        match answered.await {
            Ok(Ok(_changes)) => Ok(()),
            Ok(Err(mistakes)) => Err(Error::us(SqlState::INVALID_PARAMETER_VALUE, mistakes.join("; "))
                .hint("SHOW CONFIG shows the settings, and which of them can be changed.")),
            Err(_) => Err(Error::us(SqlState::ADMIN_SHUTDOWN, "pgweir is shutting down")),
        }
    }

    fn shutdown(&self, mode: ShutdownMode) -> Result<()> {
        self.ask(Request::Shutdown(mode))
    }

    fn ask(&self, request: Request) -> Result<()> {
        let busy = |_| Error::us(SqlState::OBJECT_NOT_IN_STATE, "the main thread is busy with other commands");
        self.state.requests.try_send(request).map_err(busy)
    }

    async fn show(&self, show: Show) -> Answer {
        let reports = match show::wanted(show) {
            Wanted::Nothing => HashMap::new(),
            Wanted::FromTheBusy => self.state.shared.roll_call(Asked::Busy).await,
            Wanted::FromAll => self.state.shared.roll_call(Asked::All).await,
        };
        let mut picture = self.state.picture(show::detail(show), &reports);
        if show == Show::Tables {
            picture.tables = tables::of(&self.state.shared.live.load_full()).await;
        }
        show::show(show, &picture)
    }

    /// The one database that a command is about: the one it names, or the only one there is.
    fn meant(&self, named: Option<&str>) -> Result<Arc<LiveDatabase>> {
        let live = self.state.shared.live.load_full();
        let all = live.all();
        let name = explain::database(named, all.iter().map(|db| db.config.name.as_str()))?;
        known(&live, name)
    }

    /// The databases that a command means: those of the name, or all. Those that a reload has replaced are among them as long as
    /// they have connections.
    fn databases(&self, name: Option<&str>) -> Vec<Arc<LiveDatabase>> {
        let all = self.state.databases().into_iter();
        all.filter(|db| name.is_none_or(|name| db.config.name == name)).collect()
    }

    /// The database of a command that does something to it; made from the wildcard when it must be, as PgBouncer does it. A notice says
    /// so: the name may be misspelt.
    fn target(&self, name: &str, what: &str, out: &mut Vec<u8>) -> Result<Arc<LiveDatabase>> {
        refuse_console(name, what)?;
        let live = self.state.shared.live.load();
        let is_new = live.database(name).is_none();
        let database = live.database_for_client(name).map_or_else(|| known(&live, name), Ok)?;
        if is_new {
            notice(
                out,
                format!("database \"{name}\" is not listed and nobody has used it: it was made from the wildcard"),
            );
        }
        Ok(database)
    }

    /// For a command that does nothing to a database that nobody uses: one that the wildcard would make is not made, and a notice says so.
    ///
    /// # Errors
    /// There can be no such database.
    fn used(&self, name: &str, what: &str, out: &mut Vec<u8>) -> Result<()> {
        refuse_console(name, what)?;
        // A reload may have taken it off the list while somebody is in it.
        if !self.databases(Some(name)).is_empty() {
            return Ok(());
        }
        let live = self.state.shared.live.load();
        if live.config.wildcard.is_none() || live.database(name).is_some() {
            return known(&live, name).map(drop);
        }
        notice(out, format!("database \"{name}\" is not listed and nobody has used it: there is nothing to do"));
        Ok(())
    }

    /// Holds back statements that have no server yet, waits until all servers are free, and closes their connections.
    async fn pause(&self, name: Option<&str>, out: &mut Vec<u8>) -> Result<()> {
        self.refuse_while_draining()?;
        if self.state.paused.load(Ordering::Acquire) || self.state.shared.is_suspended() {
            return Err(already(self.state.shared.is_suspended()));
        }
        let ours = match name {
            Some(name) => {
                let target = self.target(name, "paused", out)?;
                self.hold_one(&target)
            }
            None => self.hold_all(),
        };
        // ^C takes back what this command began. PgBouncer does so for PAUSE of everything, and leaves a single database paused.
        let undo = Undo(Some(move || drop(ours.then(|| self.resume(name)))));
        loop {
            // Asked for anew every time: a reload may put others in their place, which are born paused.
            let databases = self.databases(name);
            if databases.iter().any(|db| !db.is_paused()) {
                match name {
                    // What is left of the pause goes with it: some of them a reload may have put there while RESUME came.
                    Some(_) => drop(undo),
                    // Nothing is left, and what else RESUME without a name ends is somebody else's by now.
                    None => undo.forgo(),
                }
                return Err(state_error("RESUME came before PAUSE was done".to_owned()));
            }
            let pools: Vec<_> = databases.iter().flat_map(|db| db.pools()).collect();
            pools.iter().for_each(|pool| pool.close_all());
            if pools.iter().all(|pool| pool.is_quiet()) {
                undo.forgo();
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// PAUSE of one database, and of those of its name that a reload has replaced and that still have clients. False if it was held
    /// already.
    fn hold_one(&self, target: &LiveDatabase) -> bool {
        let begun = hold(target);
        self.databases(Some(&target.config.name)).iter().for_each(|database| _ = hold(database));
        begun
    }

    /// PAUSE of everything. False if somebody else's came first.
    fn hold_all(&self) -> bool {
        self.state.hold_all(true, |database| database.pools().iter().for_each(|pool| pool.pause()))
    }

    /// Everybody comes to rest; who does not within `suspend_timeout` is closed.
    async fn suspend(&self) -> Result<()> {
        let shared = &self.state.shared;
        self.refuse_while_draining()?;
        if self.state.paused.load(Ordering::Acquire) {
            return Err(already(false));
        }
        if let Some(paused) = self.databases(None).iter().find(|db| db.is_paused()) {
            return Err(state_error(format!("database \"{}\" is paused", paused.config.name))
                .detail("Who waits for a paused database cannot come to rest.")
                .hint("RESUME it first."));
        }
        if !shared.suspend() {
            return Err(already(true));
        }
        let undo = Undo(Some(|| _ = shared.resume()));
        let timeout = shared.live.load().config.general.suspend_timeout;
        let started = clock::now();
        let mut told = false;
        while !shared.is_at_rest() {
            if !timeout.is_zero() && clock::now().saturating_duration_since(started) >= timeout {
                let ended = shared.end_restless();
                if ended > 0 || !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        clients = ended,
                        ?timeout,
                        "suspend_timeout is over: who is in the middle of something is closed"
                    );
                }
                tokio::time::sleep(LOOK * 5).await;
            }
            tokio::time::sleep(LOOK).await;
            if !shared.is_suspended() {
                undo.forgo();
                return Err(state_error("RESUME came before SUSPEND was done".to_owned()));
            }
        }
        shared.end_overdue();
        undo.forgo();
        Ok(())
    }

    /// RESUME is too late by then, and who is held back could not end.
    fn refuse_while_draining(&self) -> Result<()> {
        if self.state.shared.draining.load(Ordering::Acquire) {
            return Err(state_error("pgweir is shutting down".to_owned())
                .hint("Nothing can be held back any more: clients are waited for, and there would be no RESUME."));
        }
        Ok(())
    }

    fn pools(&self, name: Option<&str>) -> Vec<Arc<Pool>> {
        self.databases(name).iter().flat_map(|db| db.pools()).collect()
    }

    /// Every connection there is now is closed when it is given back, the idle ones at once.
    fn reconnect(&self, name: Option<&str>, out: &mut Vec<u8>) -> Result<()> {
        if let Some(name) = name {
            self.used(name, "reconnected", out)?;
        }
        self.pools(name).iter().for_each(|pool| pool.close_all());
        self.state.shared.end_streams(name);
        if self.state.shared.live.load().config.general.server_fast_close {
            self.state.shared.wake_those_to_close();
        }
        Ok(())
    }

    /// New clients of the database are refused. Those that are in stay.
    fn disable(&self, name: &str, out: &mut Vec<u8>) -> Result<()> {
        self.target(name, "disabled", out)?.disabled.store(true, Ordering::Release);
        Ok(())
    }

    /// They are let in again. As in PgBouncer this makes no database from the wildcard: one that is not there was not disabled.
    fn enable(&self, name: &str) -> Result<()> {
        refuse_console(name, "enabled")?;
        let live = self.state.shared.live.load();
        let database = known(&live, name).map_err(|error| match live.config.wildcard {
            Some(_) => {
                error.hint("Nobody is in it and it is not disabled: the wildcard would make it for its first client.")
            }
            None => error,
        })?;
        database.disabled.store(false, Ordering::Release);
        Ok(())
    }

    /// Waits until the connections that RECONNECT, PAUSE or a reload gave up are closed.
    async fn wait_close(&self, name: Option<&str>, out: &mut Vec<u8>) -> Result<()> {
        if let Some(name) = name {
            self.used(name, "waited for", out)?;
        }
        while self.pools(name).iter().any(|pool| pool.connections().iter().any(|c| c.close_needed)) {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends the database's clients and connections; who connects from now on waits for RESUME.
    async fn kill(&self, name: Option<&str>, out: &mut Vec<u8>) -> Result<()> {
        // Each is paused by itself, and RESUME of each lets it go: so does PgBouncer. Paused or not, it is killed.
        match name {
            Some(name) => {
                let target = self.target(name, "killed", out)?;
                self.hold_one(&target);
            }
            None => self.databases(None).iter().for_each(|database| _ = hold(database)),
        }
        let mut told = HashSet::new();
        for client in &self.state.shared.clients {
            if name.is_none_or(|name| *client.database == *name) {
                told.insert(client.id);
                client.order(Order::Kill);
            }
        }
        let started = clock::now();
        loop {
            told.retain(|id| self.state.shared.clients.contains_key(id));
            self.pools(name).iter().for_each(|pool| pool.close_all());
            // They have got the order and will go; who does not take its last bytes gets a second for it.
            if told.is_empty() || clock::now().saturating_duration_since(started) > PARTING {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends a client, or somebody else at the console.
    fn kill_client(&self, id: u64) -> Result<()> {
        let (shared, id) = (&self.state.shared, ClientId(id));
        let client = shared.clients.get(&id).or_else(|| shared.visitors.get(&id)).map(|client| Arc::clone(&client));
        let client = client.ok_or_else(|| {
            Error::us(SqlState::UNDEFINED_OBJECT, format!("there is no client with id {id}"))
                .hint("SHOW CLIENTS shows the id of each.")
        })?;
        client.order(Order::Kill);
        Ok(())
    }

    /// Ends PAUSE or SUSPEND. Databases that were paused by themselves stay so when all are resumed.
    fn resume(&self, name: Option<&str>) -> Result<()> {
        let shared = &self.state.shared;
        if shared.draining.load(Ordering::Acquire) {
            return Err(Error::us(SqlState::ADMIN_SHUTDOWN, "pgweir is shutting down"));
        }
        if let Some(name) = name {
            let databases = self.databases(Some(name));
            if databases.is_empty() {
                known(&shared.live.load(), name)?;
            }
            // Each of them, not only up to the first: those that a reload has replaced are held as well.
            let was_paused = databases.iter().filter(|db| db.paused.swap(false, Ordering::AcqRel)).count() > 0;
            if !was_paused {
                let error = state_error(format!("database \"{name}\" is not paused"));
                let all = self.state.paused.load(Ordering::Acquire);
                return Err(if all { error.hint("Everything is: RESUME without a name ends that.") } else { error });
            }
            databases.iter().for_each(|database| self.let_go(database));
            return Ok(());
        }
        if shared.resume() {
            return Ok(());
        }
        if !self.state.hold_all(false, |database| self.let_go(database)) {
            let error = state_error("pgweir is neither paused nor suspended".to_owned());
            let paused: BTreeSet<_> =
                self.databases(None).iter().filter(|db| db.is_paused()).map(|db| db.config.name.clone()).collect();
            return Err(match paused.first() {
                None => error,
                Some(one) if paused.len() == 1 => {
                    error.hint(format!("RESUME {one} ends the pause of that database."))
                }
                Some(one) => error.hint(format!(
                    "{} databases are paused each by itself (PAUSE with a name, KILL): RESUME {one} and so on ends that.",
                    paused.len()
                )),
            });
        }
        Ok(())
    }

    /// Statements get servers again, if nothing else holds them back.
    fn let_go(&self, database: &LiveDatabase) {
        if !database.is_paused() {
            database.pools().iter().for_each(|pool| pool.resume());
        }
    }
}

/// Holds back statements that have no server yet. False if they were held back already.
fn hold(database: &LiveDatabase) -> bool {
    // In this order: a pool that is made meanwhile sees the flag.
    let begun = !database.paused.swap(true, Ordering::AcqRel);
    database.pools().iter().for_each(|pool| pool.pause());
    begun
}

fn notice(out: &mut Vec<u8>, message: String) {
    encode::notice(out, "NOTICE", &Error::us(SqlState::SUCCESS, message));
}

/// Takes back what a command has begun, if it is dropped before its end.
struct Undo<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Undo<F> {
    fn forgo(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Undo<F> {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|undo| undo());
    }
}

fn already(suspended: bool) -> Error {
    let state = if suspended { "suspended" } else { "paused" };
    state_error(format!("pgweir is already {state}")).hint("RESUME ends that.")
}

fn state_error(message: String) -> Error {
    Error::us(SqlState::OBJECT_NOT_IN_STATE, message)
}

fn refuse_console(name: &str, what: &str) -> Result<()> {
    if !console::DATABASES.contains(&name) {
        return Ok(());
    }
    let message = format!("\"{name}\" is the console, which cannot be {what}");
    Err(Error::us(SqlState::FEATURE_NOT_SUPPORTED, message).hint("SHOW DATABASES lists the others."))
}

fn known(live: &Live, name: &str) -> Result<Arc<LiveDatabase>> {
    live.database(name).ok_or_else(|| {
        Error::client(SqlState::UNDEFINED_DATABASE, format!("no such database: {name}"))
            .hint("SHOW DATABASES lists them.")
    })
}

fn table(out: &mut Vec<u8>, table: &Table) {
    let columns: Vec<_> = table.columns.iter().map(|c| (c.name, c.type_oid)).collect();
    encode::row_description(out, &columns);
    for row in &table.rows {
        encode::data_row(out, row);
    }
}
