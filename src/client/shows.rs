//! `SHOW` of a setting of ours, and nothing else: answered here, by whichever protocol it is asked.
//!
//! By the extended protocol it is answered where all up to the Sync speaks of such a statement. The session knows the names that it has
//! been given meanwhile, as of any other; no server ever sees them.

use crate::client::own;
use crate::client::task::Client;
use crate::session::Intake;
use crate::wire::message::{self, Target, TransactionStatus};
use crate::wire::{encode, frame};

/// The type of the value: text.
const TEXT: u32 = 25;

impl Client {
    /// The setting that the segment asks for, if it does nothing else.
    pub(super) fn sole_show(&self) -> Option<&'static str> {
        let bytes = self.input.bytes().get(..self.segment.len).unwrap_or_default();
        match self.segment.items.as_slice() {
            [(Intake::Query(_), _)] => message::query(bytes.get(frame::HEADER_LEN..)?).and_then(own::sole_show),
            items => extended(items, bytes),
        }
    }

    /// Answers such a segment by this value. `status` is what the client is in.
    pub(super) fn answer_show(&mut self, name: &str, value: &str, status: TransactionStatus) {
        let segment = self.segment.take();
        let (mut at, mut format) = (0_usize, 0);
        for (intake, len) in &segment.items {
            let body = self
                .input
                .bytes()
                .get(at.saturating_add(frame::HEADER_LEN)..at.saturating_add(*len))
                .unwrap_or_default();
            at = at.saturating_add(*len);
            let out = self.output.tail();
            match intake {
                Intake::Query(_) => {
                    encode::row_description(out, &[(name, TEXT)]);
                    encode::data_row(out, &[Some(value)]);
                    encode::command_complete(out, "SHOW");
                    encode::ready_for_query(out, status);
                }
                Intake::Parse { .. } => out.extend_from_slice(encode::PARSE_COMPLETE),
                Intake::Bind { .. } => {
                    // Text is the same in both.
                    let formats = message::bind(body).and_then(|bind| bind.result_formats());
                    format = formats.and_then(|formats| formats.first().copied()).unwrap_or(0);
                    out.extend_from_slice(encode::BIND_COMPLETE);
                }
                Intake::DescribeStatement { .. } => {
                    out.extend_from_slice(encode::NO_PARAMETERS);
                    encode::row_description(out, &[(name, TEXT)]);
                }
                Intake::DescribePortal => encode::row_description_in(out, &[(name, TEXT)], |_| format),
                Intake::Execute { .. } => {
                    encode::data_row(out, &[Some(value)]);
                    encode::command_complete(out, "SHOW");
                }
                Intake::Sync if !segment.goes_on() => encode::ready_for_query(out, status),
                _ => {}
            }
        }
        self.input.consume(segment.len);
        self.note_prepared();
    }
}

/// The setting that all messages up to a Sync speak of.
fn extended(items: &[(Intake, usize)], bytes: &[u8]) -> Option<&'static str> {
    let [rest @ .., (Intake::Sync, _)] = items else { return None };
    let (mut name, mut bound, mut at) = (None, false, 0_usize);
    for (intake, len) in rest {
        let body = bytes.get(at.saturating_add(frame::HEADER_LEN)..at.saturating_add(*len))?;
        at = at.saturating_add(*len);
        let statement = match intake {
            Intake::Parse { statement, .. } | Intake::DescribeStatement { statement: Some(statement), .. } => statement,
            Intake::Bind { statement: Some(statement), portal, .. } if portal.is_empty() => {
                bound = true;
                statement
            }
            Intake::DescribePortal if bound && message::target(body) == Some(Target::Portal(b"")) => continue,
            Intake::Execute { portal } if bound && portal.is_empty() => continue,
            _ => return None,
        };
        let asked = own::sole_show(&statement.sql)?;
        if name.replace(asked).is_some_and(|before| before != asked) {
            return None;
        }
    }
    name
}
