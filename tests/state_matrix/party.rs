//! A client that takes steps and tells what it was answered.

use std::io;
use std::time::Duration;

use super::common::raw::{READ_TIMEOUT, RawClient};
use super::common::wire::{Message, show};
use super::kinds::Step;

/// By which protocol texts are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Extended,
}

/// A client, and the messages that have come for it since its last ReadyForQuery.
pub(crate) struct Party {
    pub(crate) client: RawClient,
    protocol: Protocol,
    came: Vec<Message>,
    /// Answers that are awaited, and those that have come.
    asked: usize,
    answers: Vec<String>,
}

impl Party {
    pub(crate) fn new(client: RawClient, protocol: Protocol) -> Self {
        Self { client, protocol, came: Vec::new(), asked: 0, answers: Vec::new() }
    }

    /// Sends a step; its answer ends with ReadyForQuery.
    pub(crate) fn send(&mut self, step: &Step) {
        let client = &mut self.client;
        match step {
            Step::Sql(sql) if self.protocol == Protocol::Simple => client.query(sql),
            Step::Sql(sql) => {
                client.parse("", sql, &[]);
                client.bind("", "", &[]);
                client.describe_portal("");
                client.execute("", 0);
                client.sync();
            }
            Step::Parse(name, sql) => {
                client.parse(name, sql, &[]);
                client.sync();
            }
            Step::Run(name) => {
                client.bind("", name, &[]);
                client.execute("", 0);
                client.sync();
            }
            Step::Close(name) => {
                client.close_statement(name);
                client.sync();
            }
            Step::ClosePortal(name) => {
                client.close_portal(name);
                client.sync();
            }
        }
        self.asked += 1;
    }

    /// Sends a step and waits for its answer.
    pub(crate) fn take(&mut self, step: &Step) -> Result<String, String> {
        self.send(step);
        let answers = self.wait().map_err(|error| format!("{step:?}: {error}"))?;
        answers.into_iter().next().ok_or_else(|| "no answer".to_owned())
    }

    /// All answers that are awaited.
    pub(crate) fn wait(&mut self) -> Result<Vec<String>, String> {
        if self.read(READ_TIMEOUT)? {
            Ok(self.answers())
        } else {
            Err(format!("no answer behind {}", show(&self.came)))
        }
    }

    /// Whether everything is answered that was asked, as far as it comes within `time`.
    pub(crate) fn read(&mut self, time: Duration) -> Result<bool, String> {
        if self.asked > self.answers.len() {
            self.client.set_read_timeout(time);
        }
        while self.asked > self.answers.len() {
            match self.client.try_read_message() {
                Ok(Some(message)) => {
                    let ready = message.tag == b'Z';
                    self.came.push(message);
                    if ready {
                        self.answers.push(show(&std::mem::take(&mut self.came)));
                    }
                }
                Ok(None) => return Err(format!("closed after {}", show(&self.came))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(format!("{error} after {}", show(&self.came))),
            }
        }
        Ok(true)
    }

    /// Takes the answers that have come.
    pub(crate) fn answers(&mut self) -> Vec<String> {
        self.asked = 0;
        std::mem::take(&mut self.answers)
    }

    /// Whether something is asked that was not answered yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.asked > 0
    }
}
