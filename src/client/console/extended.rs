//! The console by the extended protocol, which many drivers use for everything they send. Commands take no parameters.

use std::collections::HashMap;

use super::binary::Formats;
use super::{Console, Visitor};
use crate::error::{Error, SqlState};
use crate::wire::message::{self, Target};
use crate::wire::{encode, frame};

/// How many statements, and how many portals, someone may have.
const MOST: usize = 1000;

/// What someone at the console has prepared.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, Portal>,
    /// An error came: what follows is passed over up to the next Sync.
    skipping: bool,
}

/// A command that is bound.
#[derive(Debug)]
struct Portal {
    sql: String,
    formats: Formats,
    answer: Option<Answer>,
}

/// The messages of a command that has run, and how many of their bytes are sent.
#[derive(Debug)]
struct Answer {
    messages: Vec<u8>,
    sent: usize,
}

impl Answer {
    fn new(messages: Vec<u8>) -> Self {
        Self { messages, sent: 0 }
    }

    /// The next message that is not sent yet.
    fn next(&self) -> Option<frame::Frame<'_>> {
        frame::next(self.messages.get(self.sent..)?, usize::MAX).ok()?
    }

    /// Its RowDescription, if it has one.
    fn columns(&self) -> Option<frame::Frame<'_>> {
        frame::next(&self.messages, usize::MAX).ok()?.filter(|first| first.tag == b'T')
    }

    /// Tells its columns, or that it has none.
    fn describe(&self, formats: &Formats, out: &mut Vec<u8>) {
        match self.columns() {
            Some(columns) => match formats.description(columns.body()) {
                Some(other) => out.extend(other),
                None => out.extend_from_slice(columns.bytes),
            },
            None => out.extend_from_slice(encode::NO_DATA),
        }
    }

    /// Sends rows, `max` at most (0: all), and what comes with them. Whether it was an error.
    fn send(&mut self, max: usize, formats: &Formats, out: &mut Vec<u8>) -> bool {
        let columns = self.columns().and_then(|columns| message::row_description(columns.body())).unwrap_or_default();
        let types: Vec<u32> = columns.into_iter().map(|(_, oid)| oid).collect();
        let mut rows = 0;
        let mut failed = false;
        while let Some(message) = self.next() {
            let (tag, len) = (message.tag, message.bytes.len());
            if tag == b'D' && max > 0 && rows == max {
                encode::frame(out, b's', |_| ());
                return false;
            }
            rows += usize::from(tag == b'D');
            failed |= tag == b'E';
            match tag {
                // Describe tells the columns.
                b'T' => {}
                b'D' => match formats.row(message.body(), &types) {
                    Some(row) => out.extend(row),
                    None => out.extend_from_slice(message.bytes),
                },
                _ => out.extend_from_slice(message.bytes),
            }
            self.sent += len;
        }
        failed
    }
}

impl Conversation {
    /// Whether messages are passed over.
    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// A command was cancelled: it was part of this message.
    pub(super) fn fail(&mut self, tag: u8) {
        self.skipping = tag != b'Q';
    }

    /// Sync: the end of a transaction, which portals do not outlive.
    pub(super) fn sync(&mut self) {
        self.skipping = false;
        self.portals.clear();
    }

    /// Answers a message other than Query, Sync, Flush and Terminate.
    pub(super) async fn take(&mut self, console: &dyn Console, visitor: &Visitor, tag: u8, body: &[u8]) -> Vec<u8> {
        if self.skipping {
            return Vec::new();
        }
        let mut out = Vec::new();
        let taken = match tag {
            b'P' => self.parse(body, &mut out),
            b'B' => self.bind(body, &mut out),
            b'D' => self.describe(console, visitor, body, &mut out).await,
            b'E' => self.execute(console, visitor, body, &mut out).await,
            b'C' => self.close(body, &mut out),
            _ => Err(Error::client(
                SqlState::PROTOCOL_VIOLATION,
                format!("the console does not expect a message of type {:?}", char::from(tag)),
            )),
        };
        if let Err(error) = taken {
            self.skipping = true;
            encode::error(&mut out, &error);
        }
        out
    }

    fn parse(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let parse = message::parse(body).ok_or_else(|| malformed('P'))?;
        let sql = std::str::from_utf8(parse.sql)
            .map_err(|_| Error::client(SqlState::PROTOCOL_VIOLATION, "the command is not valid UTF-8"))?;
        if !parse.name.is_empty() && self.statements.contains_key(parse.name) {
            let name = String::from_utf8_lossy(parse.name);
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Error::client(SqlState::DUPLICATE_STATEMENT, message));
        }
        room(self.statements.len(), "prepared statements")?;
        self.statements.insert(parse.name.to_vec(), sql.to_owned());
        out.extend_from_slice(encode::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let bind = message::bind(body).ok_or_else(|| malformed('B'))?;
        let parameters = bind.parameters().ok_or_else(|| malformed('B'))?;
        if !parameters.values.is_empty() {
            return Err(Error::client(SqlState::PROTOCOL_VIOLATION, "commands of the console take no parameters")
                .hint("Write the values into the command."));
        }
        let formats = bind.result_formats().ok_or_else(|| malformed('B'))?;
        let formats = Formats::new(formats).ok_or_else(|| malformed('B'))?;
        let sql = self.statement(bind.statement)?.to_owned();
        room(self.portals.len(), "portals")?;
        self.portals.insert(bind.portal.to_vec(), Portal { sql, formats, answer: None });
        out.extend_from_slice(encode::BIND_COMPLETE);
        Ok(())
    }

    /// To tell the columns, a command that shows something is run; others have none.
    async fn describe(
        &mut self,
        console: &dyn Console,
        visitor: &Visitor,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match message::target(body).ok_or_else(|| malformed('D'))? {
            Target::Statement(name) => {
                let sql = self.statement(name)?;
                let answer = if console.only_shows(sql) { Some(console.run(visitor, sql).await) } else { None };
                encode::frame(out, b't', |body| body.extend_from_slice(&[0, 0]));
                Answer::new(answer.unwrap_or_default()).describe(&Formats::default(), out);
            }
            Target::Portal(name) => {
                let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
                if console.only_shows(&portal.sql) && portal.answer.is_none() {
                    portal.answer = Some(Answer::new(console.run(visitor, &portal.sql).await));
                }
                match &portal.answer {
                    Some(answer) => answer.describe(&portal.formats, out),
                    None => out.extend_from_slice(encode::NO_DATA),
                }
            }
        }
        Ok(())
    }

    async fn execute(
        &mut self,
        console: &dyn Console,
        visitor: &Visitor,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let execute = message::execute(body).ok_or_else(|| malformed('E'))?;
        let portal = self.portals.get_mut(execute.portal).ok_or_else(|| no_portal(execute.portal))?;
        let answer = match &mut portal.answer {
            Some(answer) => answer,
            None => portal.answer.insert(Answer::new(console.run(visitor, &portal.sql).await)),
        };
        self.skipping = answer.send(usize::try_from(execute.max_rows).unwrap_or(0), &portal.formats, out);
        Ok(())
    }

    fn close(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        match message::target(body).ok_or_else(|| malformed('C'))? {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        out.extend_from_slice(encode::CLOSE_COMPLETE);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&str, Error> {
        self.statements.get(name).map(String::as_str).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            let message = format!("prepared statement \"{name}\" does not exist");
            Error::client(SqlState::INVALID_STATEMENT_NAME, message)
        })
    }
}

fn room(len: usize, what: &str) -> Result<(), Error> {
    if len < MOST {
        return Ok(());
    }
    Err(Error::client(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("more than {MOST} {what} at the console"))
        .hint("Close those that are not needed any more."))
}

fn malformed(tag: char) -> Error {
    Error::client(SqlState::PROTOCOL_VIOLATION, format!("malformed message of type {tag:?}"))
}

fn no_portal(name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::client(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}
