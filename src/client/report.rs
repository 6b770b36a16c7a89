//! The roll call: clients are asked for what only they know, and answer at their next turn.
//!
//! Buffers, the statement under way and the state of the transaction belong to a client's own task. To keep a copy where the console
//! sees it would cost every statement something; to ask costs those who are asked one wake-up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::relay::Link;
use super::shared::{Activity, ClientHandle, Shared};
use super::task::Client;
use crate::clock;
use crate::id::ClientId;
use crate::metrics::report::{Doing, PinReport, Report, Settings, SocketReport, shortened};
use crate::net::{Buffer, Stream};
use crate::session::{Intake, Pin};
use crate::sql::facts::QueryFacts;
use crate::wire::message;

/// Who has not answered by then is between two states, of which neither would last: its report is left out.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(1);

/// The answers, as long as somebody waits for some.
#[derive(Debug, Default)]
pub struct Reports {
    askers: AtomicU32,
    told: Mutex<HashMap<ClientId, Report>>,
}

impl Reports {
    /// Takes in a report.
    pub(super) fn tell(&self, handle: &ClientHandle, report: Report) {
        if self.askers.load(Ordering::Acquire) > 0 {
            self.told.lock().insert(handle.id, report);
        }
        handle.answers();
    }
}

/// Somebody who waits for answers.
struct Asker<'a>(&'a Reports);

impl<'a> Asker<'a> {
    fn new(reports: &'a Reports) -> Self {
        let _told = reports.told.lock();
        reports.askers.fetch_add(1, Ordering::AcqRel);
        Self(reports)
    }
}

impl Asker<'_> {
    /// What was told. Nobody is asked any more, unless somebody else still wants to know.
    fn take(self, asked: &[Arc<ClientHandle>]) -> HashMap<ClientId, Report> {
        // Under the lock no other asker comes.
        let told = self.0.told.lock();
        if self.0.askers.load(Ordering::Acquire) == 1 {
            asked.iter().for_each(|client| client.answers());
        }
        told.clone()
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        if self.0.askers.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.0.told.lock() = HashMap::new();
        }
    }
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Every client.
    All,
    /// Those that have a server or wait for one.
    Busy,
}

impl Shared {
    /// Asks clients for their reports.
    pub async fn roll_call(&self, whom: Asked) -> HashMap<ClientId, Report> {
        let asker = Asker::new(&self.reports);
        let is_meant = |client: &ClientHandle| whom == Asked::All || client.activity() != Activity::Idle;
        let asked: Vec<Arc<ClientHandle>> =
            self.clients.iter().filter(|client| is_meant(client)).map(|client| Arc::clone(&client)).collect();
        asked.iter().for_each(|client| client.ask());
        let started = clock::now();
        // Who leaves meanwhile answers no more.
        let owes = |client: &Arc<ClientHandle>| client.is_asked() && self.clients.contains_key(&client.id);
        while asked.iter().any(owes) && clock::now().saturating_duration_since(started) < PATIENCE {
            tokio::time::sleep(LOOK).await;
        }
        asker.take(&asked)
    }
}

impl Client {
    /// Gives its report, without a server.
    pub(super) fn tell(&self) {
        let handle = self.handle();
        let waits = handle.activity() == Activity::Waiting;
        let asked = Duration::from_micros(handle.requested_us.load(Ordering::Relaxed));
        let uptime = clock::now().saturating_duration_since(self.cx.shared.started);
        let since = clock::wall().saturating_sub(uptime.saturating_sub(asked));
        let report = Report {
            client: self.socket_report(),
            doing: if waits {
                Doing::Waiting
            } else if self.holds_block() {
                Doing::IdleInTransaction
            } else {
                Doing::Nothing
            },
            since: Some(since).filter(|_| waits && !asked.is_zero()),
            text: if waits { self.text_at_hand() } else { None },
            ..Report::default()
        };
        self.cx.shared.reports.tell(handle, report);
    }

    /// Its own connection.
    pub(super) fn socket_report(&self) -> SocketReport {
        let mut report = of_buffers(&self.stream, &self.input, None);
        let looked_at = self.segment.len as u64;
        report.looked_at = report.looked_at.saturating_add(looked_at);
        report.unread = report.unread.saturating_sub(looked_at);
        report.memory = report.memory.saturating_add(self.output.memory());
        report.settings = Settings::of(|name| self.session.settings().get(name));
        report
    }

    /// The text of the segment that waits.
    fn text_at_hand(&self) -> Option<String> {
        let mut at = 0_usize;
        for (intake, len) in &self.segment.items {
            let frame = self.input.bytes().get(at..at.saturating_add(*len)).unwrap_or_default();
            let body = frame.get(5..).unwrap_or_default();
            at = at.saturating_add(*len);
            let text = match intake {
                Intake::Query(_) => message::query(body).map(shortened),
                Intake::Parse { statement, .. } => Some(shortened(&statement.sql)),
                intake => intake.facts().and_then(|facts| self.text_of(facts)),
            };
            if text.is_some() {
                return text;
            }
        }
        None
    }

    /// The text that says this, if somebody still has it: the session, because it is prepared, or the worker, because it came before.
    /// A text that came once is not kept.
    pub(super) fn text_of(&self, facts: &Arc<QueryFacts>) -> Option<String> {
        if let Some(text) = self.session.text_of(facts) {
            return Some(shortened(text));
        }
        self.cx.facts.borrow().text_of(facts).map(|text| shortened(&text))
    }

    /// Why it keeps its server.
    pub(super) fn pin_reports(&self, link: &Link) -> Vec<PinReport> {
        let report = |pin: &Pin| PinReport { reason: pin.reason.as_str(), statement: self.pinning_text(pin) };
        let held = link.held_for().map(|facts| Pin::for_sequences(facts.cloned()));
        self.session.pins().iter().chain(&held).map(report).collect()
    }

    /// The statement that made state, or its kind.
    pub(super) fn pinning_text(&self, pin: &Pin) -> Option<String> {
        let facts = pin.facts.as_ref()?;
        let kind = || facts.statements.first().map(|statement| statement.why.to_owned());
        self.text_of(facts).or_else(kind)
    }
}

/// A connection by what was read from it, and what of that waits to be sent elsewhere.
pub(super) fn of_buffers(stream: &Stream, read: &Buffer, passed: Option<&Buffer>) -> SocketReport {
    let start = read.start() as u64;
    SocketReport {
        descriptor: stream.descriptor(),
        received: start.saturating_add(read.len() as u64),
        looked_at: start,
        sent: passed.map_or(0, |passed| passed.start() as u64),
        unread: read.len() as u64,
        unsent: passed.map_or(0, |passed| passed.len() as u64),
        memory: read.memory(),
        ..SocketReport::default()
    }
}
