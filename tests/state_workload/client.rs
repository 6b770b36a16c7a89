//! One client: it sends what is chosen for it and holds every answer against the model.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgweir::clock;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::board::{Board, Permit, Permits};
use crate::common::raw::{Login, RawClient};
use crate::common::wire::{Cursor, Message, frontend, show};
use crate::model::{Expected, Model, Outcome};
use crate::ops::{Chooser, Op, REPORTED};

/// How long a notification that was committed may be on its way.
const DELIVERY: Duration = Duration::from_secs(30);
/// How much of the past a complaint tells.
const HISTORY: usize = 40;

/// What clients have in common.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) board: Board,
    pub(crate) permits: Arc<Permits>,
    pub(crate) until: Instant,
}

/// What a life has come to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) statements: u64,
    pub(crate) notes: u64,
    pub(crate) vanished: u64,
}

/// What a client has heard of a channel since it listens.
#[derive(Debug)]
struct Heard {
    from: usize,
    came: BTreeSet<String>,
    last: Option<String>,
    /// The last of each sender: its life, and the number of the payload.
    senders: BTreeMap<u64, u64>,
}

pub(crate) struct Client<'a> {
    raw: RawClient,
    world: &'a World,
    life: u64,
    model: Model,
    chooser: Chooser,
    heard: BTreeMap<String, Heard>,
    permit: Option<Permit>,
    history: VecDeque<String>,
    done: Done,
}

impl<'a> Client<'a> {
    /// Logs in with some settings and works until it leaves, or the time is up. The error tells what was not as it should be.
    pub(crate) fn live(
        world: &'a World,
        login: Login,
        defaults: &BTreeMap<String, String>,
        life: u64,
        seed: u64,
    ) -> Result<Done, String> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut startup = defaults.clone();
        let mut login = login;
        if rng.random() {
            let name = format!("c{life}");
            login = login.param("application_name", &name);
            startup.insert("application_name".to_owned(), name);
        }
        if rng.random() {
            login = login.param("options", "-c work_mem=7MB -c app.note=given");
            startup.insert("work_mem".to_owned(), "7MB".to_owned());
            startup.insert("app.note".to_owned(), "given".to_owned());
        }
        let raw = login.connect().map_err(|error| format!("login: {error:?}"))?;
        let mut client = Self {
            raw,
            world,
            life,
            model: Model::new(startup),
            chooser: Chooser::new(rng, life),
            heard: BTreeMap::new(),
            permit: None,
            history: VecDeque::new(),
            done: Done::default(),
        };
        client.work().map_err(|complaint| {
            let past: Vec<String> = client.history.iter().cloned().collect();
            format!("client {life}: {complaint}\n  {}", past.join("\n  "))
        })?;
        world.board.leaves(life);
        Ok(client.done)
    }

    fn work(&mut self) -> Result<(), String> {
        while clock::now() < self.world.until {
            match self.chooser.rng.random_range(0..150) {
                0 => return self.vanish(),
                1 => return self.leave(),
                2..6 if self.model.status() == b'I' => self.await_notes()?,
                _ => self.turn()?,
            }
        }
        self.leave()
    }

    /// Something, or several things at once.
    fn turn(&mut self) -> Result<(), String> {
        let ops = self.choose();
        let extended = ops.iter().any(Op::is_extended) || self.chooser.rng.random();
        self.note_down(&ops, extended);
        if ops.iter().any(|op| matches!(op, Op::Unlisten(_) | Op::UnlistenAll | Op::DiscardAll))
            && self.model.status() == b'I'
        {
            self.await_notes()?;
        }
        let (was, locks) = (self.model.status(), self.model.session_locks());
        let expected = self.model.apply_all(&ops);
        let sent = self.model.take_sent();
        for (key, mode) in locks.difference(&self.model.session_locks()).filter(|(key, _)| key.is_shared()) {
            self.world.board.gives_back(self.life, *key, *mode);
        }
        self.world.board.sends(&sent);
        self.raw.send_bytes(&bytes(&ops, extended));
        let messages = self.read_answer()?;
        self.world.board.committed(&sent);
        self.done.statements += ops.len() as u64;
        self.compare(&ops, &expected, &messages)?;
        self.begin_to_hear();
        self.hear(&messages, was)?;
        self.heard.retain(|channel, _| self.model.listening().contains(channel));
        for name in REPORTED {
            let told = self.raw.params.get(*name).map_or("", String::as_str);
            if told != self.model.reported(name) {
                return Err(format!("{name} was reported as {told:?} and is {:?}", self.model.reported(name)));
            }
        }
        if self.model.status() == b'I' && !self.model.pins() {
            self.permit = None;
        }
        Ok(())
    }

    fn choose(&mut self) -> Vec<Op> {
        let several = self.model.status() != b'E' && self.chooser.rng.random_range(0..8) == 0;
        let wanted = if several { self.chooser.rng.random_range(2..6) } else { 1 };
        let mut ops: Vec<Op> = Vec::new();
        while ops.len() < wanted {
            let op = if several {
                self.chooser.statement()
            } else {
                self.chooser.next(self.model.status(), self.model.savepoints())
            };
            if several && !(op.joins_others() && op.may_follow(&ops)) {
                continue;
            }
            if op.may_pin() && self.permit.is_none() {
                self.permit = self.world.permits.take();
                if self.permit.is_none() {
                    continue;
                }
            }
            ops.push(op);
        }
        ops
    }

    fn note_down(&mut self, ops: &[Op], extended: bool) {
        let text: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
        let how = if extended { "extended" } else { "simple" };
        self.history.push_back(format!("{} {how}: {}", char::from(self.model.status()), text.join(" ; ")));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    fn read_answer(&mut self) -> Result<Vec<Message>, String> {
        let mut messages = Vec::new();
        loop {
            match self.raw.try_read_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return Err(format!("closed after {}", show(&messages))),
                Err(error) => return Err(format!("{error} after {}", show(&messages))),
            }
            if messages.last().is_some_and(|message| message.tag == b'Z') {
                return Ok(messages);
            }
        }
    }

    fn compare(&mut self, ops: &[Op], expected: &[Expected], messages: &[Message]) -> Result<(), String> {
        let differs = |what: String| Err(format!("{what}, and the answer is {}", show(messages)));
        let mut outcomes = outcomes(messages).into_iter();
        for (op, expected) in ops.iter().zip(expected) {
            match expected {
                Expected::Nothing => {}
                Expected::Exactly(outcome) => {
                    let came = outcomes.next();
                    if came.as_ref() != Some(outcome) {
                        return differs(format!("{op:?} should be {outcome:?} and is {came:?}"));
                    }
                }
                Expected::Either => match outcomes.next() {
                    Some(Outcome::Done(rows, _)) if rows == ["f"] => {}
                    Some(Outcome::Done(rows, _)) if rows == ["t"] => {
                        if let Op::Lock(lock) = op {
                            self.model.took(lock);
                            self.world.board.took(self.life, lock.key, lock.mode)?;
                        }
                    }
                    other => return differs(format!("{op:?} should be t or f and is {other:?}")),
                },
            }
        }
        if let Some(more) = outcomes.next() {
            return differs(format!("there is more than was asked for: {more:?}"));
        }
        match messages.last() {
            Some(ready) if ready.body == [self.model.status()] => Ok(()),
            _ => differs(format!("the status should be {}", char::from(self.model.status()))),
        }
    }

    /// Channels that came with what was committed.
    fn begin_to_hear(&mut self) {
        for channel in self.model.listening() {
            let from = self.world.board.count(channel);
            let begin = || Heard { from, came: BTreeSet::new(), last: None, senders: BTreeMap::new() };
            self.heard.entry(channel.clone()).or_insert_with(begin);
        }
    }

    /// The notifications among messages.
    fn hear(&mut self, messages: &[Message], was: u8) -> Result<(), String> {
        for message in messages.iter().filter(|message| message.tag == b'A') {
            if was != b'I' && self.model.status() != b'I' {
                return Err(format!("{message} came within a transaction"));
            }
            self.note(message)?;
        }
        Ok(())
    }

    fn note(&mut self, message: &Message) -> Result<(), String> {
        let mut at = Cursor(&message.body);
        let (Some(pid), Some(channel), Some(payload)) = (at.int32(), at.text(), at.text()) else {
            return Err(format!("{message} is cut short"));
        };
        self.done.notes += 1;
        let number: u64 = payload.parse().map_err(|_| format!("{message} was never sent"))?;
        let sender = number / 1_000_000;
        if (sender == self.life) != (pid.cast_unsigned() == self.raw.pid) {
            return Err(format!("{message} bears the process id {pid}; that of this client is {}", self.raw.pid));
        }
        if !self.world.board.is_known(&channel, &payload) {
            return Err(format!("{message} was never committed"));
        }
        let Some(heard) = self.heard.get_mut(&channel) else {
            return Err(format!("{message} came to one that does not listen"));
        };
        if heard.senders.insert(sender, number).is_some_and(|last| last >= number) {
            return Err(format!("{message} came twice or late"));
        }
        if let Some(last) = heard.last.replace(payload.clone()) {
            self.world.board.followed(&channel, &last, &payload);
        }
        heard.came.insert(payload);
        Ok(())
    }

    /// Waits for all that was committed before.
    fn await_notes(&mut self) -> Result<(), String> {
        let due: Vec<(String, Vec<String>)> = self
            .heard
            .iter()
            .map(|(channel, heard)| (channel.clone(), self.world.board.missing(channel, heard.from, &heard.came)))
            .collect();
        let deadline = clock::now() + DELIVERY;
        for (channel, due) in due {
            while let Some(missing) = due.iter().find(|note| !self.heard[&channel].came.contains(*note)) {
                self.raw.set_read_timeout(Duration::from_millis(200));
                let read = self.raw.try_read_message();
                self.raw.set_read_timeout(crate::common::raw::READ_TIMEOUT);
                match read {
                    Ok(Some(message)) if message.tag == b'A' => self.note(&message)?,
                    Ok(Some(message)) => return Err(format!("{message} came unasked")),
                    Ok(None) => return Err("closed while it waits for notifications".to_owned()),
                    Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                    Err(error) => return Err(error.to_string()),
                }
                if clock::now() > deadline {
                    return Err(format!("{missing} of {channel} does not come"));
                }
            }
        }
        Ok(())
    }

    /// Says so.
    fn leave(&mut self) -> Result<(), String> {
        if self.model.status() == b'I' {
            self.await_notes()?;
        }
        self.world.board.leaves(self.life);
        self.raw.terminate();
        Ok(())
    }

    /// Without a word: at rest, before an answer, or in the middle of a message.
    fn vanish(&mut self) -> Result<(), String> {
        self.done.vanished += 1;
        self.world.board.leaves(self.life);
        let way = self.chooser.rng.random_range(0..3);
        if way > 0 {
            let ops = self.choose();
            let extended = ops.iter().any(Op::is_extended) || self.chooser.rng.random();
            self.model.apply_all(&ops);
            self.world.board.sends(&self.model.take_sent());
            let bytes = bytes(&ops, extended);
            let end = if way == 1 { bytes.len() } else { self.chooser.rng.random_range(0..bytes.len()) };
            // It may be gone already, for all that anybody knows.
            drop(self.raw.try_send_bytes(&bytes[..end]));
        }
        Ok(())
    }
}

/// The ops as they are sent: one Query, or one pipeline.
fn bytes(ops: &[Op], extended: bool) -> Vec<u8> {
    if !extended {
        let texts: Vec<String> = ops.iter().map(Op::sql).collect();
        return frontend::query(&texts.join("; "));
    }
    let mut bytes = Vec::new();
    for op in ops {
        match op {
            Op::Parse(name, _) => bytes.extend(frontend::parse(name, &op.sql(), &[])),
            Op::CloseStatement(name) => bytes.extend(frontend::target(b'C', b'S', name)),
            Op::BindExecute(name) => bind_execute(&mut bytes, name, &[]),
            _ => {
                let parameters = if let Op::Set(set) = op { set.parameters() } else { Vec::new() };
                bytes.extend(frontend::parse("", &op.sql(), &[]));
                bind_execute(&mut bytes, "", &parameters);
            }
        }
    }
    bytes.extend(crate::common::wire::frame(b'S', &[]));
    bytes
}

fn bind_execute(bytes: &mut Vec<u8>, statement: &str, parameters: &[String]) {
    let values: Vec<Option<&[u8]>> = parameters.iter().map(|value| Some(value.as_bytes())).collect();
    bytes.extend(frontend::bind("", statement, &values, 0));
    bytes.extend(frontend::target(b'D', b'P', ""));
    bytes.extend(frontend::execute("", 0));
}

/// What each statement of an answer came to.
fn outcomes(messages: &[Message]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut rows: Vec<String> = Vec::new();
    for message in messages {
        match message.tag {
            b'D' => {
                let row = message.row().unwrap_or_default();
                rows.push(
                    row.into_iter()
                        .map(|value| value.unwrap_or_else(|| "\\N".to_owned()))
                        .collect::<Vec<_>>()
                        .join("|"),
                );
            }
            b'C' => {
                let tag = Cursor(&message.body).text().unwrap_or_default();
                outcomes.push(Outcome::Done(std::mem::take(&mut rows), tag));
            }
            b'E' => outcomes.push(Outcome::Error(message.error().unwrap_or_default().code)),
            _ => {}
        }
    }
    outcomes
}
