//! Runs console commands. What they are and who may run them is decided in [`crate::admin`].

use std::collections::HashSet;
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use crate::admin::explain;
use crate::admin::parse::{Command, ShutdownMode};
use crate::admin::rights::Right;
use crate::admin::show::{self, Answer, Table};
use crate::client::database::{Live, LiveDatabase};
use crate::client::shared::Order;
use crate::client::{Console, Visitor};
use crate::clock;
use crate::error::{Error, Result, SqlState};
use crate::id::{ClientId, WorkerId};
use crate::metrics::snapshot::SnapshotSource;
use crate::pool::Pool;
use crate::wire::encode;

use super::state::{Request, State};
use super::{explain_route, takeover};

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
    worker: WorkerId,
}

impl Console for Answerer {
    fn admits(&self, visitor: &Visitor) -> bool {
        self.right(visitor).is_some()
    }

    fn only_shows(&self, sql: &str) -> bool {
        matches!(Command::parse(sql), Ok(Command::Show(_) | Command::ExplainRoute { .. }))
    }

    fn hand_over(&self, successor: UnixStream) {
        let shared = &self.state.shared;
        let paused = self.state.paused.load(Ordering::Acquire)
            || shared.live.load().all().iter().any(|db| db.paused.load(Ordering::Acquire));
        let refusal = if shared.draining.load(Ordering::Acquire) {
            Error::us(SqlState::CANNOT_CONNECT_NOW, "pgweir is shutting down").hint("Start again when it has ended.")
        } else if paused {
            // The next process knows nothing of it, and who waits here could not be let go any more.
            state_error("pgweir is paused".to_owned()).hint("RESUME first.")
        } else {
            return match self.state.requests.try_send(Request::HandOver(successor)) {
                Ok(()) => {}
                Err(TrySendError::Full(Request::HandOver(back)) | TrySendError::Closed(Request::HandOver(back))) => {
                    takeover::refuse(back, state_error("the main thread is busy with other commands".to_owned()));
                }
                Err(_) => {}
            };
        };
        takeover::refuse(successor, refusal);
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
    /// For the console users of `worker`.
    #[must_use]
    pub fn new(state: Arc<State>, worker: WorkerId) -> Self {
        Self { state, worker }
    }

    fn right(&self, visitor: &Visitor) -> Option<Right> {
        if visitor.owner {
            return Some(Right::Admin);
        }
        Right::of(&visitor.user, &self.state.shared.live.load().config.general)
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
        command.check_available()?;
        let mut out = Vec::new();
        match &command {
            Command::Empty => {
                out.extend_from_slice(encode::EMPTY_QUERY);
                return Ok(out);
            }
            Command::NoOp { .. } => {}
            Command::Show(show) => match show::show(*show, &self.state.snapshot(show::detail(*show)))? {
                Answer::Table(rows) => table(&mut out, &rows),
                Answer::Notice(notice) => {
                    encode::notice(
                        &mut out,
                        "NOTICE",
                        &Error::us(SqlState::SUCCESS, notice.message).detail(notice.detail),
                    );
                }
            },
            Command::ExplainRoute { sql, database } => {
                let live = self.state.shared.live.load_full();
                let all = live.all();
                let name = explain::database(database.as_deref(), all.iter().map(|db| db.config.name.as_str()))?;
                let database = known(&live, name)?;
                table(&mut out, &explain::table(explain_route::explain(&database, sql)));
            }
            Command::Reload => self.reload().await?,
            Command::Pause(name) => self.pause(name.as_deref()).await?,
            Command::Resume(name) => self.resume(name.as_deref())?,
            Command::Shutdown(mode) => self.shutdown(*mode)?,
            Command::Set { key, value } => self.set(key, value).await?,
            Command::Disable(name) => self.disable(name, true)?,
            Command::Enable(name) => self.disable(name, false)?,
            Command::Reconnect(name) => self.pools(name.as_deref())?.iter().for_each(|pool| pool.close_all()),
            Command::WaitClose(name) => self.wait_close(name.as_deref()).await?,
            Command::Kill(name) => self.kill(name.as_deref()).await?,
            Command::KillClient(id) => self.kill_client(*id)?,
            other => {
                let message = format!("{} is not supported yet", other.tag());
                return Err(Error::us(SqlState::FEATURE_NOT_SUPPORTED, message));
            }
        }
        if right == Right::Admin && command.required_right() == Right::Admin {
            tracing::info!(user = visitor.user, command = command.tag(), "console command");
        }
        encode::command_complete(&mut out, command.tag());
        Ok(out)
    }

    async fn reload(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Reload(answer))?;
        match answered.await {
            Ok(Ok(_changes)) => Ok(()),
            Ok(Err(mistakes)) => {
                Err(Error::us(CONFIG_FILE_ERROR, "the configuration was not reloaded: it has mistakes")
                    .detail(mistakes.join("\n"))
                    .hint("The old configuration stays in force."))
            }
            Err(_) => Err(Error::us(SqlState::ADMIN_SHUTDOWN, "pgweir is shutting down")),
        }
    }

    /// Changes a setting until the next reload.
    async fn set(&self, name: &str, value: &str) -> Result<()> {
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

    /// The databases that a command means: those of the name, or all. Those that a reload has replaced are among them as long as
    /// they have connections.
    fn databases(&self, name: Option<&str>) -> Result<Vec<Arc<LiveDatabase>>> {
        if let Some(name) = name {
            known(&self.state.shared.live.load(), name)?;
        }
        let all = self.state.databases().into_iter();
        Ok(all.filter(|db| name.is_none_or(|name| db.config.name == name)).collect())
    }

    /// Holds back statements that have no server yet, waits until all servers are free, and closes their connections.
    async fn pause(&self, name: Option<&str>) -> Result<()> {
        self.hold(name)?;
        loop {
            // Asked for anew every time: a reload may put others in their place, which are born paused.
            let databases = self.databases(name)?;
            if databases.iter().any(|db| !db.paused.load(Ordering::Acquire)) {
                return Err(state_error("RESUME came before PAUSE was done".to_owned()));
            }
            let pools: Vec<_> = databases.iter().flat_map(|db| db.pools()).collect();
            pools.iter().for_each(|pool| pool.close_all());
            if pools.iter().all(|pool| pool.is_quiet()) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Holds back statements that have no server yet.
    fn hold(&self, name: Option<&str>) -> Result<()> {
        match name {
            None if self.state.paused.swap(true, Ordering::AcqRel) => {
                return Err(state_error("pgweir is already paused".to_owned()));
            }
            Some(name) if known(&self.state.shared.live.load(), name)?.paused.load(Ordering::Acquire) => {
                return Err(state_error(format!("database \"{name}\" is already paused")));
            }
            _ => {}
        }
        if name.is_none() {
            self.state.shared.live.load().made.paused.store(true, Ordering::Release);
        }
        for database in self.databases(name)? {
            // In this order: a pool that is made meanwhile sees the flag.
            database.paused.store(true, Ordering::Release);
            database.pools().iter().for_each(|pool| pool.pause());
        }
        Ok(())
    }

    fn pools(&self, name: Option<&str>) -> Result<Vec<Arc<Pool>>> {
        Ok(self.databases(name)?.iter().flat_map(|db| db.pools()).collect())
    }

    /// New clients of the database are refused, or let in again. Those that are in stay.
    fn disable(&self, name: &str, disabled: bool) -> Result<()> {
        let database = known(&self.state.shared.live.load(), name)?;
        if database.disabled.swap(disabled, Ordering::AcqRel) == disabled {
            let state = if disabled { "already disabled" } else { "not disabled" };
            return Err(state_error(format!("database \"{name}\" is {state}")));
        }
        Ok(())
    }

    /// Waits until the connections that RECONNECT, PAUSE or a reload gave up are closed.
    async fn wait_close(&self, name: Option<&str>) -> Result<()> {
        while self.pools(name)?.iter().any(|pool| pool.connections().iter().any(|c| c.close_needed)) {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends the database's clients and connections; who connects from now on waits for RESUME.
    async fn kill(&self, name: Option<&str>) -> Result<()> {
        // Paused or not, it is killed.
        if let Err(error) = self.hold(name)
            && error.sqlstate != SqlState::OBJECT_NOT_IN_STATE
        {
            return Err(error);
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
            self.pools(name)?.iter().for_each(|pool| pool.close_all());
            // They have got the order and will go; who does not take its last bytes gets a second for it.
            if told.is_empty() || clock::now().saturating_duration_since(started) > PARTING {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn kill_client(&self, id: u64) -> Result<()> {
        let client = self.state.shared.clients.get(&ClientId(id)).map(|client| Arc::clone(&client));
        let client = client.ok_or_else(|| {
            Error::us(SqlState::UNDEFINED_OBJECT, format!("there is no client with id {id}"))
                .hint("SHOW CLIENTS shows the id of each.")
        })?;
        client.order(Order::Kill);
        Ok(())
    }

    fn resume(&self, name: Option<&str>) -> Result<()> {
        if name.is_none() {
            self.state.shared.live.load().made.paused.store(false, Ordering::Release);
        }
        let databases = self.databases(name)?;
        let was_paused = databases.iter().any(|db| db.paused.load(Ordering::Acquire));
        let all_paused = name.is_none() && self.state.paused.swap(false, Ordering::AcqRel);
        if !was_paused && !all_paused {
            let what = name.map_or_else(|| "pgweir".to_owned(), |name| format!("database \"{name}\""));
            return Err(Error::us(SqlState::OBJECT_NOT_IN_STATE, format!("{what} is not paused")));
        }
        for database in databases {
            database.paused.store(false, Ordering::Release);
            database.pools().iter().for_each(|pool| pool.resume(self.worker));
        }
        Ok(())
    }
}

fn state_error(message: String) -> Error {
    Error::us(SqlState::OBJECT_NOT_IN_STATE, message)
}

fn known(live: &Live, name: &str) -> Result<Arc<LiveDatabase>> {
    live.database(name).ok_or_else(|| {
        Error::client(SqlState::UNDEFINED_DATABASE, format!("database \"{name}\" is not configured"))
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
