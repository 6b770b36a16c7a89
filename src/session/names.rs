//! Naming of prepared statements that SQL and the protocol speak of in one pipeline.
//!
//! A message's names are resolved when it is read, and SQL's are seen to when it is sent; what SQL takes away is known when it is answered.
//! So what the client sends between two Syncs is cut where a name would be taken for what it was before, or will be later.

use super::{Intake, Session};
use crate::sql::facts::QueryFacts;
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

impl Session {
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
