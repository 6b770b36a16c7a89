//! What a server is sent for a message of the client.

use std::sync::Arc;

use thin_vec::ThinVec;

use crate::error::Error;
use crate::session::intake::Intake;
use crate::session::pipeline::{Answer, Done, Kind, Portal, Request, Undo};
use crate::session::prepared::Statement;
use crate::session::server_state::ServerState;
use crate::session::{Action, Apart, Naming, REFUSED_SQL, Session, functions};
use crate::sql::facts::{NameUse, PinReason, QueryFacts, SessionEffect};
use crate::wire::encode;
use crate::wire::message::{self};

impl Session {
    /// Sends the beginning of a block that the client believes to have been done already. Nothing may be sent behind it before it
    /// is answered, for it may fail: see [`Session::take_unseen_error`].
    pub fn begin(&mut self, text: &[u8], facts: Arc<QueryFacts>, out: &mut Vec<u8>) {
        self.pipeline.push(Request::swallow(Kind::Query { facts, done: 0 }));
        encode::query(out, text);
    }

    /// The error that answered [`Session::begin`], if it failed.
    pub fn take_unseen_error(&mut self) -> Option<Box<Error>> {
        self.unseen_error.take()
    }

    /// Writes what `server` is sent for a message of the client's, `frame` being that message, and queues what is expected back.
    pub fn forward(&mut self, intake: Intake, frame: &[u8], server: &mut ServerState, out: &mut Vec<u8>) {
        let number = self.sent;
        self.sent = number.wrapping_add(1);
        // What was taken in before them has been sent with them.
        let ours = frame.is_empty();
        let ends = matches!(intake, Intake::Query(_) | Intake::Flush) || matches!(intake, Intake::Sync if !ours);
        if ends && !self.apart.is_empty() {
            self.apart = ThinVec::new();
        }
        if self.skipping {
            if !matches!(intake, Intake::Sync) {
                return self.withdraw(intake);
            }
            self.skipping = false;
        }
        match intake {
            Intake::Query(facts) => {
                // A Sync of ours would end what the server passes over because of an error that is not known yet.
                let mid_exchange = std::mem::take(&mut self.unsynced) || self.may_be_passed_over(&facts);
                server.unnamed = None;
                if !mid_exchange {
                    self.lend_executed(&facts, true, server, out);
                }
                self.lend_placeholders(&facts, server, out);
                let executed = self.executes(&facts);
                // What it has prepared by a name that it was lent is not to be taken back.
                let keeps = facts.takes_names() && self.lent.iter().any(|lent| facts.prepares(lent));
                let mut request = Request::forward(Kind::Query { facts, done: 0 });
                request.misread = self.may_misread(frame.get(5..).unwrap_or_default(), server);
                (request.executed, request.number) = (executed, number);
                self.pipeline.push(request);
                out.extend_from_slice(frame);
                if !mid_exchange && !keeps {
                    self.take_back_names(out);
                }
            }
            Intake::Parse { statement, named, undo } => {
                self.unsynced = true;
                let statement = self.read_apart(statement, named.as_deref(), None);
                self.lend_executed(&statement.facts, false, server, out);
                self.parse(&statement, named, undo, frame, server, out);
            }
            Intake::Bind { statement: Some(statement), named, portal } => {
                self.unsynced = true;
                let statement = self.read_apart(statement, named.as_deref(), Some(server));
                self.lend_executed(&statement.facts, false, server, out);
                self.ensure(&statement, named.is_some(), server, out);
                let mut request = Request::forward(Kind::Bind);
                match named.filter(|_| self.follow) {
                    None => out.extend_from_slice(frame),
                    Some(name) => {
                        let rest = message::bind(frame.get(5..).unwrap_or_default()).map(|b| b.rest);
                        encode::bind(out, &portal, statement.server_name().as_bytes(), rest.unwrap_or_default());
                        request.renamed = Some((Arc::clone(&statement), name));
                    }
                }
                let bound = self.bound_effects(&statement, frame, server);
                request.undo.extend(self.bind(portal, (statement, bound), number));
                self.pipeline.push(request);
            }
            Intake::DescribeStatement { statement: Some(statement), named } => {
                self.unsynced = true;
                let statement = self.read_apart(statement, named.as_deref(), Some(server));
                self.lend_executed(&statement.facts, false, server, out);
                self.ensure(&statement, named.is_some(), server, out);
                let mut request = Request::forward(Kind::Describe);
                match named.filter(|_| self.follow) {
                    None => out.extend_from_slice(frame),
                    Some(name) => {
                        encode::describe_statement(out, statement.server_name().as_bytes());
                        request.renamed = Some((statement, name));
                    }
                }
                self.pipeline.push(request);
            }
            Intake::CloseStatement { virtual_name: true, undo } => {
                self.unsynced = true;
                // SQL that comes behind it must not find what was lent to SQL before.
                if let Some(Undo::ClientName { name, .. }) = &undo {
                    self.leave_name(name, out);
                }
                let mut request = Request::forward(Kind::Local(encode::CLOSE_COMPLETE));
                request.undo.extend(undo);
                self.pipeline.push(request);
            }
            Intake::Refuse { error, simple } => self.refuse(error, simple, server, out),
            Intake::Execute { portal } => {
                self.unsynced = true;
                let known = self.portal(&portal);
                let facts = known.map(|portal| Arc::clone(&portal.statement.facts));
                let bound = known.and_then(|portal| portal.bound.clone());
                let mut executed = Vec::new();
                if let Some(facts) = &facts {
                    self.lend_executed(facts, false, server, out);
                    self.lend_placeholders(facts, server, out);
                    executed = self.executes(facts);
                }
                let mut request = Request::forward(Kind::Execute(facts));
                (request.executed, request.bound, request.number) = (executed, bound, number);
                self.pipeline.push(request);
                out.extend_from_slice(frame);
            }
            Intake::Bind { statement: None, named, portal } => {
                self.unsynced = true;
                let of_sql = named.and_then(|name| self.may_stand_for(&name).last().cloned());
                let mut request = Request::forward(Kind::Bind);
                request.number = number;
                match of_sql {
                    // Its values the server gets as they are.
                    Some(facts) => {
                        request.undo.extend(self.bind(portal, (Statement::of_sql(facts), None), number));
                    }
                    None => drop(self.portals.remove(&portal)),
                }
                self.pipeline.push(request);
                out.extend_from_slice(frame);
            }
            Intake::DescribeStatement { statement: None, .. } | Intake::DescribePortal => {
                self.unsynced = true;
                self.plain(Kind::Describe, frame, out);
            }
            Intake::CloseStatement { undo, .. } => {
                self.unsynced = true;
                let mut request = Request::forward(Kind::Close);
                request.undo.extend(undo);
                self.pipeline.push(request);
                out.extend_from_slice(frame);
            }
            Intake::ClosePortal { portal: name } => {
                self.unsynced = true;
                // It may be a cursor's: to the server they are the same.
                if self.is_pinned_by(PinReason::HoldCursor) {
                    self.ask_pins();
                }
                let mut request = Request::forward(Kind::Close);
                request.number = number;
                let closed = self.portals.remove(&name).filter(|portal| portal.number >= self.ended);
                request.undo.extend(closed.map(|portal| Undo::ClosedPortal { name, portal }));
                self.pipeline.push(request);
                out.extend_from_slice(frame);
            }
            Intake::FunctionCall => {
                let hides = !functions::leaves_nothing(frame.get(5..).unwrap_or_default());
                self.plain(Kind::FunctionCall { hides }, frame, out);
            }
            Intake::Sync if self.pipeline.ends_with_copy_from() => {
                self.held_sync = true;
                encode::flush(out);
            }
            // One of ours: the client's own comes later.
            Intake::Sync if ours => {
                self.unsynced = false;
                self.close_tried(out);
                let mut request = Request::swallow(Kind::Sync);
                request.number = number;
                self.pipeline.push(request);
                encode::sync(out);
                self.take_back_names(out);
            }
            Intake::Sync => {
                // While COPY data is awaited the server passes over Sync: what runs is not ended by it.
                self.unsynced &= self.pipeline.copy_in();
                self.close_tried(out);
                self.plain(Kind::Sync, frame, out);
                self.take_back_names(out);
            }
            Intake::CopyEnd => self.plain(Kind::CopyEnd, frame, out),
            // One of ours, for what follows hangs on the answers.
            Intake::Flush if ours => encode::flush(out),
            Intake::Flush | Intake::CopyData => out.extend_from_slice(frame),
            Intake::Terminate => {}
        }
    }

    /// What to send for a statement that a name on servers stands for. As long as nobody else can know how a text is read, what the server makes
    /// of it is for nobody else. `server`: it may have read it before; none for a Parse of the client's.
    fn read_apart(
        &mut self,
        statement: Arc<Statement>,
        name: Option<&[u8]>,
        server: Option<&mut ServerState>,
    ) -> Arc<Statement> {
        let Some(name) = name.filter(|_| self.follow && statement.is_shared() && !statement.is_apart()) else {
            return statement;
        };
        if !(self.reads_alone() || (self.catalog_in_doubt() && statement.infers_types())) {
            return statement;
        }
        let there = server.map(|server| self.is_there(&statement, server));
        let of_name = |((id, of), _): &&Apart| *id == statement.id && **of == *name;
        match (there, self.apart.iter().rfind(of_name)) {
            (Some(_), Some((_, apart))) => return Arc::clone(apart),
            (Some(true), None) => return statement,
            _ => {}
        }
        // Its types are those of its Parse: who had it before goes back to it.
        let apart = if there.is_some() { Statement::stand_in(&statement) } else { statement.apart() };
        let ours = |known: &Statement| {
            known.id == statement.id || self.apart.iter().filter(of_name).any(|(_, apart)| apart.id == known.id)
        };
        let known = if name.is_empty() { self.unnamed.as_mut() } else { self.names.get_mut(name) };
        if let Some(known) = known.filter(|known| ours(known)) {
            known.clone_from(&apart);
        }
        self.apart.push(((statement.id, name.into()), Arc::clone(&apart)));
        apart
    }

    /// Whether the server has it, whatever becomes of what is under way.
    fn is_there(&self, statement: &Statement, server: &mut ServerState) -> bool {
        server.statements.touch(statement.id) && !self.pipeline.prepared_in_doubt(Some(statement.id))
    }

    /// What is taken back if it fails: the unnamed portal is replaced before anything else could use it.
    fn bind(
        &mut self,
        portal: Box<[u8]>,
        (statement, bound): (Arc<Statement>, Option<Arc<[SessionEffect]>>),
        number: u64,
    ) -> Option<Undo> {
        self.portal_names = self.portal_names.max(Naming::of(&statement.facts));
        let name = portal.clone();
        let before = self.portals.insert(portal, Portal { statement, bound, number });
        (!name.is_empty()).then_some(Undo::Portal { name, before, number })
    }

    fn plain(&mut self, kind: Kind, frame: &[u8], out: &mut Vec<u8>) {
        let mut request = Request::forward(kind);
        // It is counted already.
        request.number = self.sent.wrapping_sub(1);
        self.pipeline.push(request);
        out.extend_from_slice(frame);
    }

    fn parse(
        &mut self,
        statement: &Arc<Statement>,
        named: Option<Box<[u8]>>,
        undo: Option<Undo>,
        frame: &[u8],
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) {
        let Some(name) = named else {
            server.unnamed = Some(statement.id);
            let mut request = Request::forward(Kind::Parse);
            request.misread = self.may_misread(&statement.sql, server);
            request.undo.push(Undo::ServerUnnamed);
            request.undo.extend(undo);
            self.pipeline.push(request);
            out.extend_from_slice(frame);
            return;
        };
        if !self.follow {
            let mut request = Request::forward(Kind::Parse);
            request.misread = self.may_misread(&statement.sql, server);
            request.undo.extend(undo);
            self.pipeline.push(request);
            out.extend_from_slice(frame);
            return;
        }
        if self.sql_names.contains_key(&name) {
            return self.parse_by_its_name(statement, name, undo, server, out);
        }
        if self.is_there(statement, server) {
            let mut request = Request::forward(Kind::Local(encode::PARSE_COMPLETE));
            request.undo.extend(undo);
            self.pipeline.push(request);
            return;
        }
        self.prepare_on_server(statement, Answer::Forward, undo, Some(name), server, out);
    }

    /// Asks the server whether PREPARE has taken a name: both kinds of statements share theirs. Where it has not, the statement is
    /// prepared under its server name when it is used, and closed again before the Sync, which the server does not get to where it has.
    fn parse_by_its_name(
        &mut self,
        statement: &Statement,
        name: Box<[u8]>,
        undo: Option<Undo>,
        server: &ServerState,
        out: &mut Vec<u8>,
    ) {
        encode::parse(out, &name, &statement.sql, &statement.types);
        let mut request = Request::forward(Kind::Parse);
        request.misread = self.may_misread(&statement.sql, server);
        request.undo.extend(undo);
        request.done = Some(Done::Untaken(name.clone()));
        self.pipeline.push(request);
        self.tried.push(name);
    }

    /// Before a Sync: closes what [`Self::parse_by_its_name`] has left on the server.
    fn close_tried(&mut self, out: &mut Vec<u8>) {
        if self.tried.is_empty() || self.pipeline.may_copy_in() {
            return;
        }
        for name in std::mem::take(&mut self.tried) {
            encode::close_statement(out, &name);
            let mut request = Request::swallow(Kind::Close);
            request.undo.push(Undo::Tried(name));
            self.pipeline.push(request);
        }
    }

    /// Sends Parse of a statement under its server name, making room for it first.
    fn prepare_on_server(
        &mut self,
        statement: &Arc<Statement>,
        answer: Answer,
        undo: Option<Undo>,
        name: Option<Box<[u8]>>,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) {
        let again = server.statements.lists(statement.id);
        if let Some(evicted) = server.statements.insert(Arc::clone(statement)) {
            encode::close_statement(out, evicted.server_name().as_bytes());
            let mut request = Request::swallow(Kind::Close);
            request.done = Some(Done::Closed(Arc::clone(&evicted)));
            request.undo.push(Undo::ServerClose(evicted));
            self.pipeline.push(request);
        }
        if self.pipeline.concerns(statement.id) || server.statements.is_doubted(statement.id) {
            // It may be there or not, as what is under way turns out: closing it first is right either way.
            encode::close_statement(out, statement.server_name().as_bytes());
            let mut request = Request::swallow(Kind::Close);
            request.done = Some(Done::Closed(Arc::clone(statement)));
            self.pipeline.push(request);
        }
        encode::parse(out, statement.server_name().as_bytes(), &statement.sql, &statement.types);
        server.parses += 1;
        let mut request = Request::forward(Kind::Parse);
        request.misread = self.may_misread(&statement.sql, server);
        request.answer = answer;
        request.done = Some(Done::Prepared(Arc::clone(statement)));
        if !again {
            // Else it is the earlier Parse that says whether the server has it, should this one be skipped.
            request.undo.push(Undo::ServerPrepare(Arc::clone(statement)));
        }
        request.undo.extend(undo);
        request.renamed = name.map(|n| (Arc::clone(statement), n));
        self.pipeline.push(request);
    }

    /// Sees to it that the server has the statement that the next message speaks of.
    fn ensure(&mut self, statement: &Arc<Statement>, named: bool, server: &mut ServerState, out: &mut Vec<u8>) {
        if named {
            if self.follow && !self.is_there(statement, server) {
                self.prepare_on_server(statement, Answer::Swallow, None, None, server, out);
            }
        } else if server.unnamed != Some(statement.id) || self.pipeline.prepared_in_doubt(None) {
            server.unnamed = Some(statement.id);
            encode::parse(out, b"", &statement.sql, &statement.types);
            let mut request = Request::swallow(Kind::Parse);
            request.misread = self.may_misread(&statement.sql, server);
            request.undo.push(Undo::ServerUnnamed);
            self.pipeline.push(request);
        }
    }

    /// Whether a text that is about to be sent speaks of names, and the server may pass over it.
    fn may_be_passed_over(&self, facts: &QueryFacts) -> bool {
        let names = || facts.statements.iter().any(|statement| statement.name_use.is_some());
        (!self.lent.is_empty() || names()) && self.pipeline.exchange_is_open()
    }

    /// What each statement of a text runs by EXECUTE that was prepared by the protocol.
    fn executes(&self, facts: &QueryFacts) -> Vec<(usize, Arc<QueryFacts>)> {
        let named = facts.statements.iter().enumerate().filter_map(|(at, statement)| match &statement.name_use {
            Some(NameUse::Execute(name)) => self.names.get(name.as_bytes()).map(|s| (at, Arc::clone(&s.facts))),
            _ => None,
        });
        named.collect()
    }

    /// SQL that names a statement prepared by the protocol: on the server that goes by another name, so this one is lent to it until the
    /// next Query or Sync. EXECUTE is to find the statement itself, which it is described by as well.
    fn lend_executed(&mut self, facts: &QueryFacts, for_query: bool, server: &mut ServerState, out: &mut Vec<u8>) {
        if !self.follow {
            return;
        }
        for statement in &facts.statements {
            let Some(NameUse::Execute(name)) = &statement.name_use else { continue };
            let Some(prepared) = self.names.get(name.as_bytes()).cloned() else { continue };
            let by = if for_query { Kind::Lend } else { Kind::Parse };
            self.lend(name, (&prepared.sql, &prepared.types), by, server, out);
        }
        if for_query && !self.lent.is_empty() {
            // If the statement cannot be prepared any more, the server must not pass over the Query.
            encode::sync(out);
            self.pipeline.push(Request::swallow(Kind::Sync));
        }
    }

    /// The same for DEALLOCATE, and for PREPARE of a name that is taken: an empty statement of that name is all they need.
    fn lend_placeholders(&mut self, facts: &QueryFacts, server: &mut ServerState, out: &mut Vec<u8>) {
        if !self.follow {
            return;
        }
        for statement in &facts.statements {
            let Some(NameUse::Prepare(name) | NameUse::Deallocate(name)) = &statement.name_use else { continue };
            if self.names.contains_key(name.as_bytes()) {
                self.lend(name, (b"", &[0, 0]), Kind::Parse, server, out);
            } else if matches!(statement.name_use, Some(NameUse::Prepare(_))) {
                self.leave_name(name.as_bytes(), out);
                // Known before it is answered, for what follows in the same pipeline.
                self.note_preparing(name, statement.prepared.as_ref());
            }
        }
    }

    /// Takes back a name that the server has from us and the client has no more, before PREPARE gives it.
    fn leave_name(&mut self, name: &[u8], out: &mut Vec<u8>) {
        let held = self.lent.len();
        self.lent.retain(|lent| **lent != *name);
        let undo = match self.tried.iter().position(|tried| **tried == *name) {
            _ if self.lent.len() < held => Undo::Lent(name.into()),
            Some(at) => Undo::Tried(self.tried.remove(at)),
            None => return,
        };
        encode::close_statement(out, name);
        let mut request = Request::swallow(Kind::Close);
        request.undo.push(undo);
        self.pipeline.push(request);
    }

    /// Gives the server a statement of this name, unless this exchange has done so.
    fn lend(
        &mut self,
        name: &str,
        (sql, types): (&[u8], &[u8]),
        by: Kind,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) {
        let mut there = self.lent.iter().chain(&self.tried);
        if there.any(|there| **there == *name.as_bytes()) {
            return;
        }
        server.unnamed = None;
        encode::close_statement(out, name.as_bytes());
        self.pipeline.push(Request::swallow(Kind::Close));
        encode::parse(out, name.as_bytes(), sql, types);
        let mut request = Request::swallow(by);
        request.misread = self.may_misread(sql, server);
        self.pipeline.push(request);
        self.lent.push(name.as_bytes().into());
    }

    /// A name could not be lent: the Query that needs it is to fail by this error.
    pub(super) fn lending_failed(&mut self, body: &[u8], server: &mut ServerState) -> Action {
        for undo in self.pipeline.fail() {
            self.undo(undo, server);
        }
        if let Some(query) = self.pipeline.first_query() {
            query.refusal = Some(Box::new(message::server_error(body)));
        }
        Action::Swallow
    }

    /// Behind a Query or Sync: takes back what [`Self::lend`] gave, as far as no DEALLOCATE did. Not where the server may take COPY data
    /// by then and nothing else: see [`Self::send_held`].
    fn take_back_names(&mut self, out: &mut Vec<u8>) {
        if self.lent.is_empty() || self.pipeline.may_copy_in() {
            return;
        }
        for name in std::mem::take(&mut self.lent) {
            encode::close_statement(out, &name);
            self.pipeline.push(Request::swallow(Kind::Close));
        }
        encode::sync(out);
        self.pipeline.push(Request::swallow(Kind::Sync));
    }

    fn refuse(&mut self, error: Box<Error>, simple: bool, server: &mut ServerState, out: &mut Vec<u8>) {
        server.unnamed = None;
        let mid_exchange = self.unsynced || self.pipeline.exchange_is_open();
        let mut request = if simple {
            self.unsynced = false;
            encode::query(out, REFUSED_SQL);
            Request::forward(Kind::Query { facts: Arc::default(), done: 0 })
        } else {
            self.unsynced = true;
            encode::parse(out, b"", REFUSED_SQL, &[0, 0]);
            Request::forward(Kind::Parse)
        };
        (request.refusal, request.number) = (Some(error), self.sent.wrapping_sub(1));
        self.pipeline.push(request);
        if simple && !mid_exchange {
            self.take_back_names(out);
        }
    }

    /// Whether a Sync of the client's is kept until the server has said how a COPY FROM STDIN begins: nothing may be sent before it.
    #[must_use]
    pub fn holds_sync(&self) -> bool {
        self.held_sync
    }

    /// Sends what had to wait for an answer: the Sync that was kept, when the COPY turned out not to begin; what takes back the names
    /// that were lent, when the COPY is over; and what there is to ask or tell about settings.
    pub fn send_held(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        // What the client sends next goes behind all of it.
        let rests = self.pipeline.is_empty() && !self.unsynced;
        self.send_hidden(server, out);
        if self.held_sync && !self.pipeline.ends_with_copy_from() {
            self.held_sync = false;
            self.skipping = false;
            self.unsynced = false;
            self.close_tried(out);
            self.plain(Kind::Sync, &[], out);
            encode::sync(out);
            self.take_back_names(out);
        }
        if rests {
            self.take_back_names(out);
            if !self.tried.is_empty() {
                self.close_tried(out);
                encode::sync(out);
                self.pipeline.push(Request::swallow(Kind::Sync));
            }
        }
    }

    // From the server to the client.

    /// Answers of ours whose turn has come, appended to `out`.
    pub fn take_local(&mut self, out: &mut Vec<u8>) {
        while let Some((bytes, answer)) = self.pipeline.pop_local() {
            if answer == Answer::Forward {
                out.extend_from_slice(bytes);
            }
        }
    }
}
