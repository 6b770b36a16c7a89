//! What a message of a server means to the session, and to its client.

use std::sync::Arc;

use thin_vec::ThinVec;

use crate::error::SqlState;
use crate::session::number::Number;
use crate::session::owed::Course;
use crate::session::pins::{Patience, Watch};
use crate::session::pipeline::{Answer, Done, Kind, Portal, Request, Undo, decides_reading};
use crate::session::prepared::Statement;
use crate::session::server_state::ServerState;
use crate::session::settings::{Report, is_reported};
use crate::session::{Action, Desync, Naming, Session, is_fatal, signals};
use crate::sql::facts::{
    ConfigArg, ListenChange, NameUse, PinReason, QueryFacts, SessionEffect, StatementFacts, TransactionEffect,
};
use crate::sql::settings::{in_doubt, is_meant_by};
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};

/// So few portals are not looked through when a transaction ends.
const MANY_PORTALS: u32 = 4;

impl Session {
    /// Takes a message of the server. `body` may be cut short for messages whose body is not read here
    /// (`D`, `d`, `T`, `N`, `A`, `V`, `G`, `H`, `W`, `t`).
    ///
    /// # Errors
    /// When no request explains it.
    pub fn on_server(&mut self, tag: u8, body: &[u8], server: &mut ServerState) -> Result<Action, Desync> {
        let desync = Err(Desync { tag });
        self.follow_sequences(tag, body, server);
        match tag {
            b'N' | b'A' => return Ok(Action::Forward),
            b'S' => return Ok(self.on_parameter_status(body, server)),
            b'E' => return Ok(self.on_error(body, server)),
            b'Z' => return self.on_ready(message::ready_for_query(body).ok_or(Desync { tag })?, server),
            _ => {}
        }
        let Some(head) = self.pipeline.head() else { return desync };
        let action = if head.answer == Answer::Forward { Action::Forward } else { Action::Swallow };
        self.answered = Number::of(head.number);
        let taken = self.on_answer(tag, body, action, server);
        self.answered = Number::NONE;
        taken
    }

    /// A message that answers the request at the head.
    fn on_answer(&mut self, tag: u8, body: &[u8], action: Action, server: &mut ServerState) -> Result<Action, Desync> {
        let desync = Err(Desync { tag });
        let Some(head) = self.pipeline.head() else { return desync };
        match (&mut head.kind, tag) {
            (Kind::Query { facts, done }, b'C' | b'I') => {
                let facts = Arc::clone(facts);
                let misread = head.misread;
                let index = *done;
                *done += 1;
                let executed = head.executed.iter().find(|(at, _)| *at == index).map(|(_, facts)| Arc::clone(facts));
                self.course.answered(&facts, index);
                self.complete(&facts, index, (None, executed), body, server);
                if misread {
                    self.pin(PinReason::Setting, Some(&facts));
                }
                if action == Action::Forward && listens(&facts, index) {
                    return Ok(listened());
                }
            }
            (Kind::Execute(facts), b'C' | b'I' | b's') => {
                let facts = facts.take();
                let request = self.pipeline.pop();
                let (bound, executed) = request.map(|request| (request.bound, request.executed)).unwrap_or_default();
                if let Some(facts) = facts {
                    self.course.answered(&facts, 0);
                    if tag == b's' {
                        self.suspended(&facts, bound.as_deref(), server);
                    } else {
                        let executed = executed.into_iter().next().map(|(_, facts)| facts);
                        self.complete(&facts, 0, (Some(bound), executed), body, server);
                        if action == Action::Forward && listens(&facts, 0) {
                            return Ok(listened());
                        }
                    }
                } else {
                    // A cursor of SQL's, or what SQL has prepared: it may have left anything.
                    self.was_pinned = true;
                }
            }
            (Kind::Hidden(_), b'T' | b'D' | b'C') => self.on_hidden(tag, body),
            (Kind::Query { .. }, b'T' | b'D' | b'd' | b'c' | b'H' | b'W')
            | (Kind::Execute(_), b'D' | b'd' | b'c' | b'H' | b'W')
            | (Kind::Describe, b't')
            | (Kind::FunctionCall { hides: false }, b'V') => {}
            (Kind::FunctionCall { hides: true }, b'V') => self.pin(PinReason::Setting, None),
            (Kind::Query { .. } | Kind::Execute(_), b'G') => {
                self.unsynced |= self.pipeline.begin_copy_in();
                // The server would pass over it, or not, as it happens to read it before the COPY fails or after.
                self.held_sync = false;
            }
            (Kind::Parse | Kind::Lend, b'1') if std::mem::take(&mut head.misread) => {
                // No other server reads it so, and nobody else is to meet it.
                self.pin(PinReason::Setting, None);
                return self.on_server(tag, body, server);
            }
            (Kind::Parse | Kind::Lend, b'1') | (Kind::Close, b'3') => match self.pipeline.pop().and_then(|r| r.done) {
                Some(Done::Prepared(statement)) => {
                    if self.names_mean_the_usual() {
                        statement.accept(self.pools);
                    }
                    server.statements.confirm(statement);
                }
                Some(Done::Closed(statement)) => server.statements.remove(statement.id),
                Some(Done::Untaken(name)) => self.sql_names.remove(&name),
                None => {}
            },
            (Kind::Bind, b'2') | (Kind::Describe, b'T' | b'n') => {
                self.pipeline.pop();
            }
            _ => return desync,
        }
        Ok(action)
    }

    fn on_ready(&mut self, status: TransactionStatus, server: &mut ServerState) -> Result<Action, Desync> {
        match self.pipeline.head() {
            Some(Request {
                kind: Kind::Query { .. } | Kind::Sync | Kind::FunctionCall { .. } | Kind::Hidden(_),
                ..
            }) => {}
            _ => return Err(Desync { tag: b'Z' }),
        }
        let request = self.pipeline.pop();
        let of_ours = request.as_ref().is_some_and(|request| matches!(request.kind, Kind::Hidden(_)));
        let (answer, number) = request.map_or((Answer::Forward, 0), |r| (r.answer, r.number));
        self.status = status;
        if !of_ours && !self.pins.is_empty() {
            self.look_at_pins();
        }
        self.course = Course::new(status);
        self.unreported = false;
        if status == TransactionStatus::Idle {
            // Others may have been sent already, which the server makes behind this.
            self.forget_portals(number);
            self.hidden_error = None;
            self.forget_locals();
            self.temp_in_path = false;
        }
        let told = self.settings.settle(status == TransactionStatus::Idle, self.failed, &mut server.settings);
        if let Some(listening) = &mut self.listening
            && status == TransactionStatus::Idle
        {
            listening.end();
        }
        self.failed = false;
        self.rest_pins();
        let ready = answer == Answer::Forward;
        Ok(match (told.is_empty(), ready) {
            (true, true) => Action::Forward,
            (true, false) => Action::Swallow,
            (false, _) => {
                let mut out = Vec::new();
                told.iter()
                    .for_each(|(name, value)| encode::parameter_status(&mut out, name.as_bytes(), value.as_bytes()));
                if ready {
                    encode::ready_for_query(&mut out, status);
                }
                Action::Replace(out)
            }
        })
    }

    fn on_error(&mut self, body: &[u8], server: &mut ServerState) -> Action {
        if let Some(Request { kind: Kind::Hidden(_), .. }) = self.pipeline.head() {
            self.hidden_failed(body);
            // The server's farewell is the client's to hear.
            return if is_fatal(body) { Action::Forward } else { Action::Swallow };
        }
        self.failed = true;
        self.course.failed();
        self.pins_undone();
        self.note_failed(body);
        self.ask_pins();
        self.failed_halfway();
        if let Some(listening) = &mut self.listening {
            listening.fail();
        }
        // PostgreSQL drops the unnamed statement before it reads the text of the next.
        let version = |undo: &Undo| match undo {
            Undo::ClientUnnamed { version, .. } => Some(*version),
            _ => None,
        };
        if let Some(Request { kind: Kind::Lend, .. }) = self.pipeline.head() {
            return self.lending_failed(body, server);
        }
        let denied = self.pipeline.head().and_then(|head| signals::denial(&head.kind, body));
        let head = self.pipeline.head().filter(|request| matches!(request.kind, Kind::Parse));
        let unnamed_failed = head.and_then(|request| request.undo.iter().find_map(version));
        if let Some(Request { kind: Kind::Query { .. }, answer: Answer::Swallow, .. }) = self.pipeline.head() {
            self.unseen_error = Some(Box::new(message::server_error(body)));
            return Action::Swallow;
        }
        let (refusal, renamed, extended) = match self.pipeline.head() {
            Some(head) => (
                head.refusal.take(),
                head.renamed.take(),
                !matches!(head.kind, Kind::Query { .. } | Kind::FunctionCall { .. } | Kind::Sync),
            ),
            None => (None, None, false),
        };
        let undone = self.pipeline.fail();
        // What was sent behind the next Sync took for granted what did not happen, and may be undone in its turn.
        let overtaken = self.pipeline.len() > 1;
        for undo in undone {
            if overtaken && let Undo::ServerPrepare(statement) | Undo::ServerClose(statement) = &undo {
                server.statements.doubt(statement);
            }
            self.undo(undo, server);
        }
        // Unless what came behind the next Sync has made another since.
        if unnamed_failed == Some(self.unnamed_version + 1) {
            self.unnamed = None;
        }
        if extended && self.pipeline.is_empty() {
            self.unsynced = true;
            self.skipping = true;
            // What closes them before the Sync would be passed over.
            std::mem::take(&mut self.tried).into_iter().for_each(|name| self.still_tried(name));
        }
        if let Some(denied) = denied {
            let mut out = Vec::new();
            encode::error(&mut out, &denied);
            return Action::Replace(out);
        }
        // Another error came first.
        let in_place = [SqlState::SYNTAX_ERROR, SqlState::INVALID_STATEMENT_NAME, SqlState::IN_FAILED_TRANSACTION];
        let code = message::error_field(body, b'C');
        if let Some(refusal) = refusal.filter(|_| in_place.iter().any(|state| code == Some(&state.0))) {
            let mut out = Vec::new();
            encode::error(&mut out, &refusal);
            return Action::Replace(out);
        }
        if code == Some(&SqlState::IN_FAILED_TRANSACTION.0)
            && let Some(error) = self.hidden_error.take()
        {
            let mut out = Vec::new();
            encode::error(&mut out, &error);
            return Action::Replace(out);
        }
        if let Some((statement, _)) = &renamed
            && message::error_field(body, b'C') == Some(&SqlState::INVALID_STATEMENT_NAME.0)
        {
            // Somebody deallocated it where we could not see it, in a function.
            server.statements.remove(statement.id);
        }
        if let Some((statement, _)) = &renamed
            && message::error_field(body, b'C') == Some(b"0A000")
        {
            // "cached plan must not change result type": it fails for as long as the server has it. (The message may be
            // translated; preparing anew after another error of this class does no harm.)
            statement.set_outdated();
        }
        match renamed.and_then(|(statement, name)| rename(body, &statement, &name)) {
            Some(bytes) => Action::Replace(bytes),
            None => Action::Forward,
        }
    }

    /// The server is gone with all that was under way. The session goes on without a transaction.
    pub fn on_server_lost(&mut self, server: &mut ServerState) {
        for undo in self.pipeline.abort() {
            self.undo(undo, server);
        }
        self.status = TransactionStatus::Idle;
        self.course = Course::new(self.status);
        if let Some(listening) = &mut self.listening {
            listening.abandon();
        }
        self.unsynced = false;
        self.skipping = false;
        self.failed = false;
        self.settings.abandon();
        self.pins.clear();
        (self.asks_pins, self.was_pinned, self.temp_in_path) = (false, false, false);
        self.watch = Watch::from(self.sent);
        self.patience = Patience::default();
        self.forget_locals();
        self.unreported = false;
        self.apart = ThinVec::new();
        self.spoils = false;
        self.portals.clear();
        self.not_made = None;
        self.unseen_error = None;
        self.hidden_error = None;
        self.lent.clear();
        self.tried.clear();
        self.sql_names.clear();
        self.portal_names = Naming::None;
        self.held_sync = false;
    }

    /// What the server was in the middle of has been ended behind the client's back, to begin again elsewhere.
    pub fn on_moved(&mut self) {
        self.forget_locals();
        (self.unreported, self.temp_in_path) = (false, false);
        self.apart = ThinVec::new();
        self.status = TransactionStatus::Idle;
        self.course = Course::new(self.status);
        self.settings.abandon();
        self.spoils = false;
        self.lent.clear();
        self.tried.clear();
    }

    /// A block has begun on servers in its name.
    pub fn on_begun(&mut self) {
        self.status = TransactionStatus::InTransaction;
        self.course = Course::new(self.status);
    }

    /// A Sync of ours has been answered.
    pub fn on_synced(&mut self) {
        self.unsynced = false;
    }

    /// The server goes back to the pool; frees what an idle session does not need.
    pub fn on_release(&mut self) {
        self.pipeline.shrink();
        self.settings.leave();
        self.spoils = false;
        self.was_pinned = false;
        self.sql_names.clear();
    }

    /// Takes back what a request that did not happen would have changed.
    pub fn undo(&mut self, undo: Undo, server: &mut ServerState) {
        match undo {
            Undo::ClientName { .. } | Undo::ClientUnnamed { .. } => self.undo_name(undo),
            Undo::Portal { name, before, number } => self.undo_portal(name, before, number),
            Undo::ClosedPortal { name, portal } => {
                if portal.number >= self.ended {
                    self.portals.entry(name).or_insert(portal);
                }
            }
            Undo::ServerPrepare(statement) => server.statements.remove(statement.id),
            Undo::ServerClose(statement) => server.statements.restore(statement),
            Undo::ServerUnnamed => server.unnamed = None,
            Undo::Tried(name) => self.still_tried(name),
            Undo::Lent(name) => {
                self.sql_names.remove(&name);
                self.lent.push(name);
            }
        }
    }

    /// What was tried under a name is not closed: that is taken back as one that was lent, if the server has it from us.
    fn still_tried(&mut self, name: Box<[u8]>) {
        if !self.sql_names.contains_key(&name) {
            self.lent.push(name);
        }
    }

    /// The Bind of this number has made no portal of this name. One that was sent behind the next Sync stays.
    fn undo_portal(&mut self, name: Box<[u8]>, mut before: Option<Portal>, number: u64) {
        // What the name stood for before may not have been made either.
        while let Some(not_made) = before.as_ref().map(|portal| portal.number)
            && let Some(known) = self.not_made.as_ref().and_then(|all| all.get(&not_made))
        {
            before.clone_from(known);
        }
        let before = before.filter(|portal| portal.number >= self.ended);
        if self.portals.get(&name).is_none_or(|portal| portal.number != number) {
            self.not_made.get_or_insert_default().insert(number, before);
            return;
        }
        match before {
            Some(before) => drop(self.portals.insert(name, before)),
            None => drop(self.portals.remove(&name)),
        }
    }

    /// What a portal stands for, if its transaction is not over.
    pub(super) fn portal(&self, name: &[u8]) -> Option<&Portal> {
        self.portals.get(name).filter(|portal| portal.number >= self.ended)
    }

    /// A transaction is over, and with it the portals that were bound before this message.
    fn forget_portals(&mut self, before: u64) {
        if self.pipeline.is_empty() {
            self.portals.clear();
            self.not_made = None;
            self.portal_names = Naming::None;
            self.most_portals = 0;
            return;
        }
        self.ended = self.ended.max(before);
        // Looked through only when there are twice as many as were left the last time: what is over is passed over until then.
        if u32::try_from(self.portals.len()).is_ok_and(|listed| listed <= self.most_portals) {
            return;
        }
        let ended = self.ended;
        self.portals.retain(|_, portal| portal.number >= ended);
        let left = u32::try_from(self.portals.len()).unwrap_or(u32::MAX);
        self.most_portals = left.saturating_mul(2).max(MANY_PORTALS);
        let names = self.portals.values().map(|portal| Naming::of(&portal.statement.facts));
        self.portal_names = names.max().unwrap_or_default();
    }

    /// Takes back a change of the client's names; anything else is of a server that was never reached.
    pub fn undo_name(&mut self, undo: Undo) {
        match undo {
            Undo::ClientName { name, before: Some(statement) } => {
                self.names.insert(name, statement);
            }
            Undo::ClientName { name, before: None } => {
                self.names.remove(&name);
            }
            Undo::ClientUnnamed { before, version } => {
                if self.unnamed_version == version {
                    self.unnamed = before;
                    self.unnamed_version -= 1;
                }
            }
            Undo::Portal { .. }
            | Undo::ClosedPortal { .. }
            | Undo::ServerPrepare(_)
            | Undo::ServerClose(_)
            | Undo::ServerUnnamed
            | Undo::Tried(_)
            | Undo::Lent(_) => {}
        }
    }

    fn on_parameter_status(&mut self, body: &[u8], server: &mut ServerState) -> Action {
        let Some((name, value)) = message::parameter_status(body) else { return Action::Forward };
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return Action::Forward;
        };
        let lower = name.to_ascii_lowercase();
        let before = self.settings.get(&lower).or(server.settings.reported(&lower)).map(str::to_owned);
        let heard = is_reported(&lower).then(|| self.settings.report(&lower, value, &server.settings));
        server.settings.report(name, value);
        let told = match &heard {
            None | Some(Report::Known) => None,
            Some(Report::Heard) => Some(value),
            Some(Report::Replaced(given)) => Some(&**given),
        };
        if let (Some(before), Some(told)) = (before, told) {
            self.settings.remember(name, &before, told);
        }
        match heard {
            None | Some(Report::Heard) => Action::Forward,
            Some(Report::Known) => Action::Swallow,
            Some(Report::Replaced(given)) => {
                let mut out = Vec::new();
                encode::parameter_status(&mut out, name.as_bytes(), given.as_bytes());
                Action::Replace(out)
            }
        }
    }

    /// A statement has completed, with this tag. `alone`: by the extended protocol, with what its parameters tell. `executed`: what it has
    /// run by EXECUTE.
    #[expect(clippy::type_complexity, reason = "whether it was by the extended protocol, and what that told")]
    fn complete(
        &mut self,
        facts: &Arc<QueryFacts>,
        index: usize,
        (alone, executed): (Option<Option<Arc<[SessionEffect]>>>, Option<Arc<QueryFacts>>),
        tag: &[u8],
        server: &mut ServerState,
    ) {
        if facts.unparsed.is_some() && facts.hides {
            // It may have set anything, and made what only this server has.
            self.pin(PinReason::Setting, Some(facts));
        }
        let Some(statement) = facts.statements.get(index) else { return };
        for step in facts.steps.iter().filter(|step| step.statement == index) {
            self.listening.get_or_insert_default().change(&step.change);
        }
        let alone = alone.map(|bound| (bound, self.course.stood_alone()));
        let stands_alone = matches!(alone, Some((_, true)));
        if let Some(listening) = &mut self.listening {
            if stands_alone && statement.transaction == TransactionEffect::PrepareTransaction {
                // There is no block, of which PostgreSQL warns, and it commits.
                listening.end();
            } else {
                listening.complete(statement);
            }
        }
        self.note_signals(facts, index);
        self.note_prepared(statement);
        let executed = executed.or_else(|| self.run_by_sql(statement));
        let of_executed =
            executed.iter().flat_map(|facts| &facts.statements).flat_map(|s| &s.effects).cloned().collect();
        // EXPLAIN and CREATE TABLE AS need not run it.
        let runs = statement.why == "EXECUTE" && !tag.starts_with(b"EXPLAIN");
        let of_executed: Vec<_> = if runs { of_executed } else { in_doubt(of_executed) };
        let run_texts = || executed.iter().filter(|_| runs);
        let run = || run_texts().flat_map(|facts| &facts.statements);
        // Even where nobody knows whether it was run.
        let all_executed = || executed.iter().flat_map(|facts| &facts.statements);
        self.temp_in_path |= statement.temp_in_path || all_executed().any(|s| s.temp_in_path);
        // A portal that has given its row already, and calls nothing again.
        let exhausted = tag.starts_with(b"SELECT 0\0");
        if !exhausted {
            self.follow_locals(statement, alone.as_ref().and_then(|(bound, _)| bound.as_deref()));
            run().for_each(|statement| self.follow_locals(statement, None));
        }
        let types = statement.changes_types() || run().any(StatementFacts::changes_types);
        self.catalog_changed |= types;
        self.types_changed |= types;
        let may_be_temp = self.may_make_temp_unseen();
        let texts = || std::iter::once(facts).chain(run_texts());
        let mut code_may_make = may_be_temp && texts().any(|facts| self.may_have_made_temp(facts));
        let last = index.saturating_add(1) == facts.statements.len();
        self.part_pins(run().next().unwrap_or(statement), tag, (stands_alone, last));
        let effects = alone.as_ref().and_then(|(bound, _)| bound.as_deref()).unwrap_or(&statement.effects);
        self.settings.doubt_loose();
        for effect in effects.iter().chain(&of_executed) {
            match effect {
                SessionEffect::Set { .. } | SessionEffect::SetByParams { .. } | SessionEffect::Reset { .. }
                    if exhausted => {}
                SessionEffect::Set { .. }
                | SessionEffect::SetUnknown { .. }
                | SessionEffect::SetByParams { .. }
                | SessionEffect::Reset { .. }
                | SessionEffect::ResetAll => {
                    self.end_local(effect);
                    self.follow_setting(effect, facts, server);
                }
                SessionEffect::Local { .. } => {}
                // In its transaction it has the server anyway, and behind it the answer is that nobody knows.
                SessionEffect::Pin(PinReason::SequenceState) => {}
                // Not transactional, or only ever more careful than needed.
                SessionEffect::Pin(reason) => self.pin(*reason, Some(facts)),
                SessionEffect::Deallocate { name } => {
                    self.names.remove(name.as_bytes());
                    self.note_deallocated(name.as_bytes());
                    self.lent.retain(|lent| **lent != *name.as_bytes());
                    server.statements.remove_named(name);
                }
                SessionEffect::DeallocateAll => {
                    self.forget_names();
                    server.statements.clear();
                }
                SessionEffect::DiscardAll => {
                    self.forget_names();
                    // What was sent behind it runs behind it.
                    let number = self.answered.get().unwrap_or(self.sent);
                    self.pins.retain(|pin| pin.number >= number);
                    self.settings.reset_all();
                    if let Some(listening) = &mut self.listening {
                        listening.forget();
                    }
                    server.forget_state();
                }
            }
        }
        // Itself it may have set the path, for what it calls.
        let sets = !effects.is_empty() || !of_executed.is_empty();
        let may_be_temp = may_be_temp || (sets && self.may_make_temp_unseen());
        code_may_make |= sets && may_be_temp && texts().any(|facts| self.may_have_made_temp(facts));
        if may_be_temp && (statement.makes_object() || run().any(StatementFacts::makes_object)) {
            // It is temporary only where no schema that exists comes before.
            self.pin(PinReason::TempObject, Some(facts));
            self.ask_pins();
        } else if code_may_make {
            self.presume_temp(facts);
        }
        if statement.why == "DECLARE CURSOR" {
            self.loosen(&statement.effects);
        }
        // Of what it has made itself as well; and somebody's code may end anything.
        let may_end =
            |s: &StatementFacts| s.ends_state || s.block.is_some() || s.why == "CALL" || !s.functions.is_empty();
        if may_end(statement) || tag.starts_with(b"ROLLBACK") || run().any(may_end) {
            self.ask_pins();
        }
        let last = run().next().unwrap_or(statement);
        if ends_transaction(last)
            && let Some(number) = self.answered.get()
        {
            // With AND CHAIN no ReadyForQuery tells of it.
            self.forget_portals(number);
        }
        self.follow_transaction(last, tag, stands_alone);
    }

    /// What a transaction has for itself of what the meaning of texts hangs on. What becomes of it by a rollback to a savepoint nobody here
    /// knows.
    fn follow_locals(&mut self, statement: &StatementFacts, bound: Option<&[SessionEffect]>) {
        self.local_path |= statement.local_search_path;
        self.local_role |= statement.sets_local_role();
        self.unreported |= !statement.locals.is_empty() || statement.effects.iter().any(decides_reading);
        match statement.transaction {
            TransactionEffect::Commit { .. }
            | TransactionEffect::Rollback { .. }
            | TransactionEffect::PrepareTransaction => self.forget_locals(),
            TransactionEffect::RollbackTo => self.local_reading |= self.locals.is_some(),
            _ => {}
        }
        let of_bound = |effect: &SessionEffect| match effect {
            SessionEffect::Local { name, value } => Some((name.clone(), value.clone())),
            _ => None,
        };
        let text = |arg: &Option<ConfigArg>| match arg {
            Some(ConfigArg::Literal(text)) => Some(text.clone()),
            _ => None,
        };
        let sets: Vec<_> = match bound {
            Some(bound) => bound.iter().filter_map(of_bound).collect(),
            None => statement.locals.iter().map(|set| (text(&set.name), text(&set.value))).collect(),
        };
        for (name, value) in sets {
            match (name, value) {
                // What it is now the server reports.
                (Some(name), _) if is_reported(&name) => {}
                // It brings a role along, and whichever was set last counts.
                (Some(name), _) if name == "session_authorization" => self.local_reading = true,
                (Some(name), Some(value)) if is_meant_by(&name) => {
                    self.locals.get_or_insert_default().insert(name, value);
                }
                (Some(name), None) if is_meant_by(&name) => self.local_reading = true,
                (Some(_), _) => {}
                (None, _) => self.local_reading = true,
            }
        }
    }

    /// What is set for the session takes the place of what the transaction has for itself, unless that is rolled back to a savepoint: until the
    /// transaction ends nobody here knows which it is.
    fn end_local(&mut self, effect: &SessionEffect) {
        self.local_reading |= self.locals.is_some() && decides_reading(effect);
    }

    /// These effects may come again.
    fn loosen(&mut self, effects: &[SessionEffect]) {
        for effect in effects {
            if let SessionEffect::SetUnknown { name } = effect {
                self.settings.loosen(name);
            }
        }
    }

    /// A portal has given some of its rows: what it does to the session it may have done, and may do again.
    fn suspended(&mut self, facts: &Arc<QueryFacts>, bound: Option<&[SessionEffect]>, server: &mut ServerState) {
        let Some(statement) = facts.statements.first() else { return };
        self.note_signals(facts, 0);
        self.follow_locals(statement, bound);
        self.temp_in_path |= statement.temp_in_path;
        let effects = in_doubt(bound.unwrap_or(&statement.effects).to_vec());
        for effect in &effects {
            match effect {
                SessionEffect::Pin(PinReason::SequenceState) => {}
                SessionEffect::Pin(reason) => self.pin(*reason, Some(facts)),
                effect => self.follow_setting(effect, facts, server),
            }
        }
        self.loosen(&effects);
        if self.may_have_made_temp(facts) {
            self.presume_temp(facts);
        }
    }

    /// Whether the server reads backslashes in a text otherwise than we do, so that it may hold another statement than we see.
    pub(super) fn may_misread(&self, text: &[u8], server: &ServerState) -> bool {
        const NAME: &str = "standard_conforming_strings";
        let off = || server.settings.reported(NAME).is_some_and(|value| value != "on");
        // Hardly any text has one: it is looked for first.
        memchr::memchr(b'\\', text).is_some() && (off() || self.pipeline.may_set(NAME))
    }

    /// The sessions that a statement which has completed is to signal.
    fn note_signals(&mut self, facts: &QueryFacts, index: usize) {
        let mut signals = facts.signals.iter().filter(|signal| signal.statement == index).peekable();
        if signals.peek().is_some() {
            self.signals.get_or_insert_default().extend(signals);
        }
    }

    /// All names are gone, but for those that what is under way will give.
    fn forget_names(&mut self) {
        let pipeline = &self.pipeline;
        self.names.retain(|name, _| pipeline.names_later(name));
        self.lent.clear();
        self.sql_names.clear();
    }

    /// What a statement that fails has done all the same: PostgreSQL undoes what belongs to the transaction, and nothing else. See
    /// <https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS>.
    fn note_failed(&mut self, body: &[u8]) {
        // In a failed block nothing has run.
        if message::error_field(body, b'C') == Some(&SqlState::IN_FAILED_TRANSACTION.0) {
            return;
        }
        let Some(head) = self.pipeline.head() else { return };
        let (facts, index) = match &head.kind {
            Kind::Query { facts, done } => (Arc::clone(facts), *done),
            Kind::Execute(Some(facts)) => (Arc::clone(facts), 0),
            Kind::Execute(None) => {
                self.was_pinned = true;
                return;
            }
            _ => return,
        };
        let number = head.number;
        let by_sql = facts.statements.get(index).and_then(|statement| match &statement.name_use {
            Some(NameUse::Execute(name)) => self.sql_names.get(name.as_bytes())?.is.as_ref(),
            _ => None,
        });
        let executed = head.executed.iter().filter(|(at, _)| *at == index).map(|(_, facts)| facts);
        let executed = executed.chain(by_sql).flat_map(|facts| &facts.statements);
        let stays = |effect: &SessionEffect| match effect {
            SessionEffect::Pin(reason) if reason.outlives_rollback() => Some(*reason),
            _ => None,
        };
        let statements = facts.statements.get(index).into_iter().chain(executed);
        let reasons: Vec<_> = statements.flat_map(|s| &s.effects).filter_map(stays).collect();
        for reason in reasons {
            self.pin_by(number, reason, Some(&facts), false);
        }
    }
}

/// Whether behind a statement that has completed another transaction begins, if only the next.
fn ends_transaction(statement: &StatementFacts) -> bool {
    matches!(
        statement.transaction,
        TransactionEffect::Commit { .. } | TransactionEffect::Rollback { .. } | TransactionEffect::PrepareTransaction
    )
}

/// Whether a statement was a LISTEN before it was written anew.
fn listens(facts: &QueryFacts, index: usize) -> bool {
    facts.steps.iter().any(|step| step.statement == index && matches!(step.change, ListenChange::Listen(_)))
}

/// The answer to it.
fn listened() -> Action {
    let mut out = Vec::new();
    encode::command_complete(&mut out, "LISTEN");
    Action::Replace(out)
}

/// The error with the client's name for a statement in place of the server's; `None` if that does not occur in it.
fn rename(body: &[u8], statement: &Statement, client_name: &[u8]) -> Option<Vec<u8>> {
    let message = message::error_field(body, b'M')?;
    let ours = format!("\"{}\"", statement.server_name());
    let message = String::from_utf8_lossy(message);
    if !message.contains(&ours) {
        return None;
    }
    let message = message.replace(&ours, &format!("\"{}\"", String::from_utf8_lossy(client_name)));
    let mut out = Vec::new();
    encode::frame(&mut out, b'E', |b| {
        for (kind, value) in message::error_fields(body) {
            b.push(kind);
            b.extend_from_slice(if kind == b'M' { message.as_bytes() } else { value });
            b.push(0);
        }
        b.push(0);
    });
    Some(out)
}
