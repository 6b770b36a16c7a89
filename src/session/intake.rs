//! What a message of the client asks for, its statement names resolved.

use std::sync::Arc;

use crate::error::{Error, SqlState};
use crate::session::pipeline::Undo;
use crate::session::prepared::{Registry, SERVER_NAME_PREFIX, Statement};
use crate::session::reading::Reader;
use crate::session::{Session, no_such_statement};
use crate::sql::facts::{NameUse, QueryFacts, TransactionEffect};
use crate::wire::frame::Frame;
use crate::wire::message::{self, Target, TransactionStatus};

/// Whether the facts of a text must hold the values of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// They must: the text is kept as a prepared statement, which other databases may share.
    Needed,
    /// They may lack where the database needs none.
    MayLack,
}

/// A message of the client.
#[derive(Debug)]
pub enum Intake {
    /// Query.
    Query(Arc<QueryFacts>),
    /// Parse. The client's name stands for the statement from now on; `undo` takes that back.
    Parse {
        /// What is prepared.
        statement: Arc<Statement>,
        /// The client's name; `None` for the unnamed statement, and empty for an unnamed one that goes by a name on servers.
        named: Option<Box<[u8]>>,
        /// Takes the name back.
        undo: Option<Undo>,
    },
    /// Bind.
    Bind {
        /// The statement; `None` when the name means nothing to us: the server is asked.
        statement: Option<Arc<Statement>>,
        /// The client's name of it, as for Parse.
        named: Option<Box<[u8]>>,
        /// The portal.
        portal: Box<[u8]>,
    },
    /// Describe of a statement; as for Bind.
    DescribeStatement {
        /// The statement.
        statement: Option<Arc<Statement>>,
        /// The client's name of it, as for Parse.
        named: Option<Box<[u8]>>,
    },
    /// Describe of a portal.
    DescribePortal,
    /// Execute.
    Execute {
        /// The portal.
        portal: Box<[u8]>,
    },
    /// Close of a statement.
    CloseStatement {
        /// Whether the name was one that only we know: nothing is sent then.
        virtual_name: bool,
        /// Takes it back.
        undo: Option<Undo>,
    },
    /// Close of a portal.
    ClosePortal {
        /// The portal.
        portal: Box<[u8]>,
    },
    /// FunctionCall.
    FunctionCall,
    /// Sync.
    Sync,
    /// Flush.
    Flush,
    /// CopyData.
    CopyData,
    /// CopyDone or CopyFail.
    CopyEnd,
    /// Terminate.
    Terminate,
    /// A message that is answered by an error of ours.
    Refuse {
        /// The error.
        error: Box<Error>,
        /// Whether it is answered as a Query is (with ReadyForQuery) or as the extended protocol is (skipping to Sync).
        simple: bool,
    },
}

impl Intake {
    /// Whether messages up to this one can be answered without waiting for more of them.
    #[must_use]
    pub fn ends_segment(&self) -> bool {
        matches!(
            self,
            Self::Query(_)
                | Self::Sync
                | Self::Flush
                | Self::FunctionCall
                | Self::Terminate
                | Self::CopyData
                | Self::CopyEnd
        ) || matches!(self, Self::Refuse { simple: true, .. })
    }

    /// Whether it means anything to a server on its own.
    #[must_use]
    pub fn needs_server(&self) -> bool {
        !matches!(
            self,
            Self::Sync
                | Self::Flush
                | Self::CopyData
                | Self::CopyEnd
                | Self::Terminate
                | Self::CloseStatement { .. }
                | Self::Refuse { .. }
        )
    }

    /// Whether it is answered with a ReadyForQuery of its own.
    #[must_use]
    pub fn is_simple(&self) -> bool {
        matches!(self, Self::Query(_) | Self::FunctionCall | Self::Refuse { simple: true, .. })
    }

    /// What takes back its change of the client's names.
    #[must_use]
    pub fn names_undo(&self) -> Option<&Undo> {
        match self {
            Self::Parse { undo, .. } | Self::CloseStatement { undo, .. } => undo.as_ref(),
            _ => None,
        }
    }

    /// The unnamed statement that it speaks of, if that goes by a name on servers.
    #[must_use]
    pub fn popular(&self) -> Option<&Arc<Statement>> {
        match self {
            Self::Parse { statement, named, .. }
            | Self::Bind { statement: Some(statement), named, .. }
            | Self::DescribeStatement { statement: Some(statement), named } => {
                named.as_ref().is_some_and(|name| name.is_empty()).then_some(statement)
            }
            _ => None,
        }
    }

    /// Has servers take the unnamed statement as an unnamed one.
    pub fn leave_unnamed(&mut self) {
        if let Self::Parse { named, .. } | Self::Bind { named, .. } | Self::DescribeStatement { named, .. } = self
            && named.as_ref().is_some_and(|name| name.is_empty())
        {
            *named = None;
        }
    }

    /// What the text behind it says.
    #[must_use]
    pub fn facts(&self) -> Option<&Arc<QueryFacts>> {
        match self {
            Self::Query(facts) => Some(facts),
            Self::Parse { statement, .. }
            | Self::Bind { statement: Some(statement), .. }
            | Self::DescribeStatement { statement: Some(statement), .. } => Some(&statement.facts),
            _ => None,
        }
    }
}

impl Session {
    /// Reads a message of the client. `facts` gives what a text says, `popular` the statement that stands for an unnamed one that comes
    /// often.
    ///
    /// # Errors
    /// When it is malformed or of a type that no client sends: the session is over.
    pub fn intake(
        &mut self,
        frame: Frame<'_>,
        registry: &Registry,
        facts: impl FnOnce(&[u8], Values) -> Arc<QueryFacts>,
        popular: impl FnOnce(&message::Parse<'_>, &Reader<'_>) -> Option<Arc<Statement>>,
    ) -> Result<Intake, Error> {
        let malformed = || {
            Error::client_fatal(
                SqlState::PROTOCOL_VIOLATION,
                format!("malformed message of type {:?} from the client", char::from(frame.tag)),
            )
        };
        let body = frame.body();
        Ok(match frame.tag {
            b'Q' => {
                // A simple query destroys the unnamed statement.
                self.change_unnamed(None);
                let facts = facts(message::query(body).ok_or_else(malformed)?, Values::MayLack);
                match self.uses_our_name(&facts) {
                    Some(error) => Intake::Refuse { error: Box::new(error), simple: true },
                    None => Intake::Query(facts),
                }
            }
            b'P' => self.intake_parse(&message::parse(body).ok_or_else(malformed)?, registry, facts, popular),
            b'B' => {
                let bind = message::bind(body).ok_or_else(malformed)?;
                match self.resolve(bind.statement, registry) {
                    Err(error) => Intake::Refuse { error: Box::new(error), simple: false },
                    Ok((statement, named)) => Intake::Bind { statement, named, portal: bind.portal.into() },
                }
            }
            b'D' => match message::target(body).ok_or_else(malformed)? {
                Target::Portal(_) => Intake::DescribePortal,
                Target::Statement(name) => match self.resolve(name, registry) {
                    Err(error) => Intake::Refuse { error: Box::new(error), simple: false },
                    Ok((statement, named)) => Intake::DescribeStatement { statement, named },
                },
            },
            b'C' => match message::target(body).ok_or_else(malformed)? {
                Target::Portal(portal) => Intake::ClosePortal { portal: portal.into() },
                Target::Statement(name) => self.intake_close(name),
            },
            b'E' => {
                let execute = message::execute(body).ok_or_else(malformed)?;
                Intake::Execute { portal: execute.portal.into() }
            }
            b'F' => Intake::FunctionCall,
            b'S' if body.is_empty() => Intake::Sync,
            b'H' if body.is_empty() => Intake::Flush,
            b'd' => Intake::CopyData,
            b'c' | b'f' => Intake::CopyEnd,
            b'X' => Intake::Terminate,
            b'S' | b'H' => return Err(malformed()),
            other => {
                return Err(Error::client_fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("invalid frontend message type {other}"),
                ));
            }
        })
    }

    fn intake_parse(
        &mut self,
        parse: &message::Parse<'_>,
        registry: &Registry,
        facts: impl FnOnce(&[u8], Values) -> Arc<QueryFacts>,
        popular: impl FnOnce(&message::Parse<'_>, &Reader<'_>) -> Option<Arc<Statement>>,
    ) -> Intake {
        if parse.name.is_empty() {
            let statement = if self.follow { popular(parse, &self.reader()) } else { None };
            let is_it = |known: &&Arc<Statement>| {
                *known.sql == *parse.sql && *known.types == *parse.types && !known.facts.is_of_client()
            };
            let statement = statement.unwrap_or_else(|| match self.unnamed.as_ref().filter(is_it) {
                Some(known) => registry.again(known),
                None => registry.unnamed(parse, facts(parse.sql, Values::Needed)),
            });
            if let Some(error) = self.uses_our_name(&statement.facts) {
                return Intake::Refuse { error: Box::new(error), simple: false };
            }
            let named = statement.is_shared().then(Box::default);
            let undo = self.change_unnamed(Some(Arc::clone(&statement)));
            return Intake::Parse { statement, named, undo: Some(undo) };
        }
        let name: Box<[u8]> = parse.name.into();
        if self.follow && self.names.contains_key(&name) {
            let failed = self.status == TransactionStatus::Failed;
            let error = if failed && waits_for_end(&facts(parse.sql, Values::Needed)) {
                // PostgreSQL looks at the block before the name.
                let message = "current transaction is aborted, commands ignored until end of transaction block";
                Error::client(SqlState::IN_FAILED_TRANSACTION, message)
            } else {
                let message = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(parse.name));
                Error::client(SqlState::DUPLICATE_STATEMENT, message)
            };
            return Intake::Refuse { error: Box::new(error), simple: false };
        }
        let statement = registry.intern(parse, &self.reader(), || facts(parse.sql, Values::Needed));
        if let Some(error) = self.uses_our_name(&statement.facts) {
            return Intake::Refuse { error: Box::new(error), simple: false };
        }
        let before = self.names.insert(name.clone(), Arc::clone(&statement));
        Intake::Parse { statement, named: Some(name.clone()), undo: Some(Undo::ClientName { name, before }) }
    }

    /// The refusal of a text whose SQL makes, runs or takes away a statement by a name that is ours on servers: what stands there is any
    /// client's. To clients there is no such statement.
    fn uses_our_name(&self, facts: &QueryFacts) -> Option<Error> {
        let ours = |name: &&String| self.follow && name.starts_with(SERVER_NAME_PREFIX);
        let named = facts.statements.iter().filter_map(|statement| match statement.name_use.as_ref()? {
            NameUse::Execute(name) | NameUse::Deallocate(name) => Some((name, true)),
            NameUse::Prepare(name) => Some((name, false)),
        });
        let (name, exists) = named.into_iter().find(|(name, _)| ours(name))?;
        let error = no_such_statement(name.as_bytes());
        let hint = format!(
            "Names that begin with \"{SERVER_NAME_PREFIX}\" are those of pgweir's own prepared statements on servers."
        );
        Some(
            if exists {
                error
            } else {
                Error { message: format!("prepared statement \"{name}\" cannot be made"), ..error }
            }
            .hint(hint),
        )
    }

    /// The statement that a client's name stands for.
    #[expect(
        clippy::type_complexity,
        reason = "the statement and the name it goes by, both optional for their own reasons"
    )]
    fn resolve(
        &mut self,
        name: &[u8],
        registry: &Registry,
    ) -> Result<(Option<Arc<Statement>>, Option<Box<[u8]>>), Error> {
        if name.is_empty() {
            // Another client's unnamed statement may stand on the server: it must not answer for one that is not there.
            let statement = self.unnamed.as_ref().ok_or_else(|| no_such_statement(name))?;
            if !statement.is_shared() {
                return Ok((Some(Arc::clone(statement)), None));
            }
            let current = registry.current(statement, &self.reader());
            self.unnamed = Some(Arc::clone(&current));
            return Ok((Some(current), Some(Box::default())));
        }
        let current = self.names.get(name).map(|statement| registry.current(statement, &self.reader()));
        match current {
            Some(current) => {
                if let Some(statement) = self.names.get_mut(name) {
                    statement.clone_from(&current);
                }
                Ok((Some(current), Some(name.into())))
            }
            // Names of ours on the server are nobody's to use.
            None if name.starts_with(SERVER_NAME_PREFIX.as_bytes()) => Err(no_such_statement(name)),
            // SQL-level PREPARE made it, or the server says that it does not exist.
            None => Ok((None, Some(name.into()))),
        }
    }

    fn intake_close(&mut self, name: &[u8]) -> Intake {
        if name.is_empty() {
            let undo = Some(self.change_unnamed(None));
            return Intake::CloseStatement { virtual_name: false, undo };
        }
        if !self.follow {
            let before = self.names.remove(name);
            let undo = before.map(|before| Undo::ClientName { name: name.into(), before: Some(before) });
            return Intake::CloseStatement { virtual_name: false, undo };
        }
        let ours = name.starts_with(SERVER_NAME_PREFIX.as_bytes());
        match self.names.remove(name) {
            Some(before) => Intake::CloseStatement {
                virtual_name: true,
                undo: Some(Undo::ClientName { name: name.into(), before: Some(before) }),
            },
            None => Intake::CloseStatement { virtual_name: ours, undo: None },
        }
    }

    /// Changes the unnamed statement; what takes that back.
    fn change_unnamed(&mut self, to: Option<Arc<Statement>>) -> Undo {
        self.unnamed_version += 1;
        Undo::ClientUnnamed { before: std::mem::replace(&mut self.unnamed, to), version: self.unnamed_version }
    }

    /// Takes back what a message that is answered by an error has changed here. As on a server, a Parse that fails leaves no unnamed
    /// statement behind: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>.
    pub fn withdraw_failed(&mut self, intake: Intake) {
        let gives_unnamed =
            matches!(&intake, Intake::Parse { named, .. } if named.as_ref().is_none_or(|name| name.is_empty()));
        self.withdraw(intake);
        if gives_unnamed {
            self.change_unnamed(None);
        }
    }

    /// Takes back what a message that will not be forwarded has changed here.
    pub fn withdraw(&mut self, intake: Intake) {
        if let Intake::Parse { undo: Some(undo), .. } | Intake::CloseStatement { undo: Some(undo), .. } = intake {
            self.undo_name(undo);
        }
    }
}

/// Whether a failed block refuses a text: it ends no transaction and no savepoint. An empty text it does not.
fn waits_for_end(facts: &QueryFacts) -> bool {
    use TransactionEffect::{Commit, PrepareTransaction, Rollback, RollbackTo};
    let ends = |effect| matches!(effect, Commit { .. } | Rollback { .. } | RollbackTo | PrepareTransaction);
    facts.statements.first().is_some_and(|statement| !ends(statement.transaction))
}
