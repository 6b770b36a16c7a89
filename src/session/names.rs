//! Naming of prepared statements that SQL and the protocol speak of in one pipeline.
//!
//! A message's names are resolved when it is read, and SQL's are seen to when it is sent; what SQL takes away is known when it is answered.
//! So what the client sends between two Syncs is cut where a name would be taken for what it was before, or will be later.

use std::collections::BTreeMap;
use std::sync::Arc;

use thin_vec::ThinVec;

use super::{Intake, Session};
use crate::sql::facts::{NameUse, PinReason, QueryFacts, StatementFacts};
use crate::wire::frame::Frame;
use crate::wire::message::{self, Target};

/// What messages of one pipeline have to do with names, by SQL.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Naming {
    /// Nothing.
    #[default]
    None,
    /// They speak of some: PREPARE, EXECUTE.
    Spoken,
    /// They would take some away, when they are run: DEALLOCATE, DISCARD ALL.
    Takes,
    /// They have been run.
    Taken,
}

impl Naming {
    /// Of a text that is not run yet.
    pub(super) fn of(facts: &QueryFacts) -> Self {
        if facts.takes_names() {
            Self::Takes
        } else if facts.statements.iter().any(|statement| statement.name_use.is_some()) {
            Self::Spoken
        } else {
            Self::None
        }
    }
}

/// By name: what SQL has prepared. One word as long as that is nothing, as with nearly every client.
#[derive(Debug, Default)]
pub(super) struct SqlNames(Option<Box<ByName>>);

type ByName = BTreeMap<Box<[u8]>, SqlPrepared>;

impl SqlNames {
    pub(super) fn get(&self, name: &[u8]) -> Option<&SqlPrepared> {
        self.0.as_ref()?.get(name)
    }

    pub(super) fn contains_key(&self, name: &[u8]) -> bool {
        self.get(name).is_some()
    }

    fn get_mut(&mut self, name: &[u8]) -> Option<&mut SqlPrepared> {
        self.0.as_mut()?.get_mut(name)
    }

    /// What is known of the name, which is a name of SQL's from here on.
    fn known(&mut self, name: &str) -> &mut SqlPrepared {
        self.0.get_or_insert_default().entry(name.as_bytes().into()).or_default()
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(names) = &mut self.0 {
            names.remove(name);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

/// What a name may stand for that SQL gives.
#[derive(Debug, Default)]
pub(super) struct SqlPrepared {
    /// What it runs; none where that is not known, or not yet.
    pub(super) is: Option<Arc<QueryFacts>>,
    /// What PREPAREs that were sent would have it run. Those that have failed are here until nothing is under way.
    on_its_way: ThinVec<Arc<QueryFacts>>,
}

impl Session {
    /// What a text runs by EXECUTE, whichever way that was prepared, as far as it is known.
    pub fn runs<'a>(&'a self, facts: &'a QueryFacts) -> impl Iterator<Item = &'a Arc<QueryFacts>> {
        let of_sql = facts.statements.iter().filter_map(|statement| match &statement.name_use {
            Some(NameUse::Execute(name)) => Some(self.may_stand_for(name.as_bytes())),
            _ => None,
        });
        self.executed(facts).map(|statement| &statement.facts).chain(of_sql.flatten())
    }

    /// What SQL has prepared under this name, or may have by the time that what is sent next is run.
    pub fn may_stand_for(&self, name: &[u8]) -> impl Iterator<Item = &Arc<QueryFacts>> {
        self.sql_names.get(name).into_iter().flat_map(|name| name.is.iter().chain(&name.on_its_way))
    }

    /// What SQL has prepared under this name, as far as is answered.
    pub(super) fn prepared_by_sql(&self, name: &[u8]) -> Option<&Arc<QueryFacts>> {
        self.sql_names.get(name)?.is.as_ref()
    }

    /// PREPARE is about to be sent: what follows in the same pipeline may speak of its name.
    pub(super) fn note_preparing(&mut self, name: &str, facts: Option<&Arc<QueryFacts>>) {
        let known = self.sql_names.known(name);
        if self.pipeline.is_empty() {
            known.on_its_way.clear();
        }
        if let Some(facts) = facts.filter(|facts| !known.on_its_way.contains(facts)) {
            known.on_its_way.push(Arc::clone(facts));
        }
    }

    /// A statement has completed: PREPARE has given a name.
    pub(super) fn note_prepared(&mut self, statement: &StatementFacts) {
        if let Some(NameUse::Prepare(name)) = &statement.name_use {
            let known = self.sql_names.known(name);
            known.is.clone_from(&statement.prepared);
            known.on_its_way.retain(|facts| Some(facts) != statement.prepared.as_ref());
        }
    }

    /// DEALLOCATE has taken a name away, which a PREPARE behind it may give again.
    pub(super) fn note_deallocated(&mut self, name: &[u8]) {
        if let Some(known) = self.sql_names.get_mut(name) {
            known.is = None;
            if known.on_its_way.is_empty() {
                self.sql_names.remove(name);
            }
        }
    }

    /// A statement has completed that ran by EXECUTE what the protocol has not prepared: SQL has. Where nobody here saw that, as in code,
    /// it may have made what the server can be asked for, and set what it cannot.
    pub(super) fn run_by_sql(&mut self, statement: &StatementFacts) -> Option<Arc<QueryFacts>> {
        let Some(NameUse::Execute(name)) = &statement.name_use else { return None };
        let known = self.prepared_by_sql(name.as_bytes()).cloned();
        if known.is_none() {
            self.was_pinned = true;
            let number = self.answered.get().unwrap_or(self.sent);
            let asked = [PinReason::TempObject, PinReason::HoldCursor, PinReason::AdvisoryLock, PinReason::SqlPrepare];
            asked.into_iter().for_each(|reason| self.pin_by(number, reason, None, true));
            self.ask_pins();
        }
        known
    }

    /// What a pipeline of which `before` is told has to do with names when this message is added.
    #[must_use]
    pub fn names_behind(&self, intake: &Intake, before: Naming) -> Naming {
        match intake {
            _ if !self.follow => Naming::None,
            Intake::Execute { .. } => match before.max(self.portal_names) {
                Naming::Takes => Naming::Taken,
                names => names,
            },
            intake => before.max(intake.facts().map_or(Naming::None, |facts| Naming::of(facts))),
        }
    }

    /// Whether a message is to wait until what was sent before it, with no Sync between, has gone its way; `before`: what that is of what is
    /// not sent yet.
    #[must_use]
    pub fn waits_for_names(&self, frame: &Frame<'_>, before: Naming) -> bool {
        match frame.tag {
            b'P' | b'B' | b'D' | b'E' | b'C' | b'Q'
                if before == Naming::Taken || (self.unsynced && self.follow && self.pipeline.takes_names()) =>
            {
                true
            }
            b'P' => before > Naming::None && message::parse(frame.body()).is_some_and(|parse| !parse.name.is_empty()),
            b'C' => {
                let target = || message::target(frame.body());
                before > Naming::None && matches!(target(), Some(Target::Statement(name)) if !name.is_empty())
            }
            _ => false,
        }
    }
}
