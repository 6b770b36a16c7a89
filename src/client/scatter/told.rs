//! What a shard is asked beside statements, and what shards have said to that before: the same text is asked about once for all sessions of
//! a user.
//!
//! Only what the catalog alone decides is asked here: types, columns, collations. Answers are kept for [`KEPT`] and forgotten when a statement
//! that may have changed them passes, or when a shard's columns or the order of its rows turn out to be others. Errors are not kept, but for a
//! column that is not there. Of what is changed past this process nothing passes here: that is known [`KEPT`] later.
//!
//! A transaction whose names may mean something else than those of other sessions, by its settings, its role or what it has made, neither
//! learns for them nor from them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::leg::Leg;
use super::prepare::{fault, lost};
use super::spread::run_on;
use crate::client::database::{LiveDatabase, UserPools};
use crate::clock;
use crate::error::{Error, SqlState};
use crate::id::ShardIndex;
use crate::session::settings::ClientSettings;
use crate::wire::encode;
use crate::wire::message::{self, Reader};

/// As long as shards are not looked at anew either.
const KEPT: Duration = Duration::from_secs(30);
/// Texts and answers that are kept for a user, in bytes; with more, those that are too old are forgotten, or else all.
const MOST: usize = 8 << 20;
/// One that is longer is not kept.
const LONGEST: usize = MOST / 8;

pub(super) const UNDEFINED_COLUMN: SqlState = SqlState(*b"42703");

/// What a shard says of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    /// The types of its parameters.
    pub(super) parameters: Vec<u32>,
    /// The body of RowDescription.
    pub(super) columns: Vec<u8>,
}

/// What was asked, of whom, and what else the answer depends on.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Question {
    shard: ShardIndex,
    /// The session's `search_path` and `client_encoding`.
    settings: [Option<String>; 2],
    sql: Vec<u8>,
    /// The types of parameters, as in Parse; for a row as well.
    types: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Answer {
    Described(Described),
    /// A column that is named does not exist.
    NoColumn(Error),
    /// The one row.
    Row(Vec<Option<String>>),
}

impl Answer {
    fn size(&self) -> usize {
        match self {
            Self::Described(described) => described.columns.len() + 4 * described.parameters.len(),
            Self::NoColumn(error) => error.message.len(),
            Self::Row(cells) => cells.iter().flatten().map(String::len).sum(),
        }
    }
}

/// What shards have told a user.
#[derive(Debug, Default)]
pub(in crate::client) struct Told {
    epoch: u64,
    answers: HashMap<Question, (Instant, Answer)>,
    size: usize,
}

impl Told {
    /// Forgets everything if the catalog has changed since.
    fn follow(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.forget();
            self.epoch = epoch;
        }
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        self.answers.clear();
        self.size = 0;
    }

    fn find(&self, question: &Question, now: Instant) -> Option<Answer> {
        let (at, answer) = self.answers.get(question)?;
        (now.saturating_duration_since(*at) < KEPT).then(|| answer.clone())
    }

    fn learn(&mut self, question: Question, answer: Answer, now: Instant) {
        let size = size(&question, &answer);
        if size > LONGEST {
            return;
        }
        if self.size.saturating_add(size) > MOST {
            self.forget_old(now);
        }
        if self.size.saturating_add(size) > MOST {
            self.forget();
        }
        if let Some((_, before)) = self.answers.remove(&question) {
            self.size = self.size.saturating_sub(self::size(&question, &before));
        }
        self.size = self.size.saturating_add(size);
        self.answers.insert(question, (now, answer));
    }

    fn forget_old(&mut self, now: Instant) {
        self.answers.retain(|_, (at, _)| now.saturating_duration_since(*at) < KEPT);
        self.size = self.answers.iter().map(|(question, (_, answer))| size(question, answer)).sum();
    }
}

/// Bytes that an answer takes.
fn size(question: &Question, answer: &Answer) -> usize {
    question.sql.len() + question.types.len() + answer.size() + 256
}

/// Where answers are kept, and for which session.
#[derive(Clone)]
pub(super) struct Memory {
    pools: Arc<UserPools>,
    epoch: u64,
    settings: [Option<String>; 2],
}

impl Memory {
    /// Of a session with these settings; none if it may see something else than others of its user.
    pub(super) fn of(database: &LiveDatabase, pools: &Arc<UserPools>, settings: &ClientSettings) -> Option<Self> {
        let wanted = |name| settings.get(name).map(str::to_owned);
        (!settings.is_someone_else()).then(|| Self {
            pools: Arc::clone(pools),
            epoch: database.catalog_epoch.load(Ordering::Acquire),
            settings: [wanted("search_path"), wanted("client_encoding")],
        })
    }

    fn find(&self, question: &Question) -> Option<Answer> {
        let mut told = self.pools.told.lock();
        told.follow(self.epoch);
        told.find(question, clock::now())
    }

    fn learn(&self, question: Question, answer: &Answer) {
        let mut told = self.pools.told.lock();
        told.follow(self.epoch);
        told.learn(question, answer.clone(), clock::now());
    }
}

/// A shard that is asked, unless it is known what it would say.
pub(super) struct Asker<'a> {
    leg: &'a mut Leg,
    memory: Option<Memory>,
    /// It is in the client's transaction, which an error would end.
    in_block: bool,
    /// Something was known.
    pub(super) recalls: bool,
}

impl<'a> Asker<'a> {
    pub(super) fn new(leg: &'a mut Leg, memory: Option<Memory>, in_block: bool) -> Self {
        Self { leg, memory, in_block, recalls: false }
    }

    /// The same as [`Asker::describe`] for a statement that is to fail: a transaction that is open goes on.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn describe_in_vain(&mut self, sql: &[u8], types: &[u8]) -> Result<Described, Error> {
        if !self.in_block {
            return self.describe(sql, types).await;
        }
        let question = self.question(sql, types);
        if let Some(Answer::NoColumn(error)) = self.known(question.as_ref()) {
            return Err(error);
        }
        run_on(self.leg, b"SAVEPOINT pgweir_asks").await?;
        let described = self.describe(sql, types).await;
        if !self.is_lost() {
            run_on(self.leg, b"ROLLBACK TO SAVEPOINT pgweir_asks; RELEASE SAVEPOINT pgweir_asks").await?;
        }
        described
    }

    /// Whether the connection broke.
    pub(super) fn is_lost(&self) -> bool {
        self.leg.is_lost()
    }

    /// What the shard says of a statement with parameters of these types.
    ///
    /// # Errors
    /// The shard's, or the connection's.
    pub(super) async fn describe(&mut self, sql: &[u8], types: &[u8]) -> Result<Described, Error> {
        let question = self.question(sql, types);
        match self.known(question.as_ref()) {
            Some(Answer::Described(described)) => return Ok(described),
            Some(Answer::NoColumn(error)) => return Err(error),
            Some(Answer::Row(_)) | None => {}
        }
        let described = describe(self.leg, sql, types).await;
        match &described {
            Ok(described) => self.learn(question, &Answer::Described(described.clone())),
            Err(error) if error.sqlstate == UNDEFINED_COLUMN => {
                self.learn(question, &Answer::NoColumn(error.clone()));
            }
            Err(_) => {}
        }
        described
    }

    /// The one row of a question for which no row of a table is looked at, so that no value of a parameter is needed.
    ///
    /// # Errors
    /// The shard's, or the connection's.
    pub(super) async fn row(&mut self, sql: &str, parameters: &[u32]) -> Result<Vec<Option<String>>, Error> {
        let mut types = u16::try_from(parameters.len()).unwrap_or(0).to_be_bytes().to_vec();
        parameters.iter().for_each(|oid| types.extend_from_slice(&oid.to_be_bytes()));
        let question = self.question(sql.as_bytes(), &types);
        if let Some(Answer::Row(cells)) = self.known(question.as_ref()) {
            return Ok(cells);
        }
        let cells = row(self.leg, sql, &types, parameters.len()).await?;
        self.learn(question, &Answer::Row(cells.clone()));
        Ok(cells)
    }

    fn question(&self, sql: &[u8], types: &[u8]) -> Option<Question> {
        let settings = self.memory.as_ref()?.settings.clone();
        Some(Question { shard: self.leg.shard, settings, sql: sql.to_vec(), types: types.to_vec() })
    }

    fn known(&mut self, question: Option<&Question>) -> Option<Answer> {
        let answer = self.memory.as_ref()?.find(question?)?;
        self.recalls = true;
        Some(answer)
    }

    fn learn(&self, question: Option<Question>, answer: &Answer) {
        if let (Some(memory), Some(question)) = (&self.memory, question) {
            memory.learn(question, answer);
        }
    }
}

async fn describe(leg: &mut Leg, sql: &[u8], types: &[u8]) -> Result<Described, Error> {
    let mut out = Vec::new();
    encode::parse(&mut out, b"", sql, types);
    encode::describe_statement(&mut out, b"");
    encode::sync(&mut out);
    let mut described = Described { parameters: Vec::new(), columns: Vec::new() };
    for (tag, body) in leg.converse(&out).await.map_err(|e| lost(&e))? {
        match tag {
            b'E' => return Err(message::server_error(&body)),
            b't' => {
                let mut reader = Reader::new(&body);
                let count = reader.count(4).ok_or_else(fault)?;
                described.parameters = (0..count).filter_map(|_| reader.u32()).collect();
            }
            b'T' => described.columns = body,
            _ => {}
        }
    }
    if described.columns.is_empty() { Err(fault()) } else { Ok(described) }
}

async fn row(leg: &mut Leg, sql: &str, types: &[u8], parameters: usize) -> Result<Vec<Option<String>>, Error> {
    let mut bound = vec![0, 0];
    bound.extend_from_slice(&u16::try_from(parameters).unwrap_or(0).to_be_bytes());
    (0..parameters).for_each(|_| bound.extend_from_slice(&(-1_i32).to_be_bytes()));
    bound.extend_from_slice(&[0, 0]);
    let mut out = Vec::new();
    encode::parse(&mut out, b"", sql.as_bytes(), types);
    encode::bind(&mut out, b"", b"", &bound);
    encode::execute(&mut out);
    encode::sync(&mut out);
    leg.row(&out, lost).await?.ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(sql: &str, path: Option<&str>) -> Question {
        let settings = [path.map(str::to_owned), None];
        Question { shard: ShardIndex(0), settings, sql: sql.as_bytes().to_vec(), types: vec![0, 0] }
    }

    #[test]
    fn answers_are_kept_for_a_while_and_until_the_catalog_changes() {
        let (mut told, now) = (Told::default(), clock::now());
        let answer = Answer::Row(vec![Some("b".to_owned()), None]);
        told.learn(question("SELECT 1", None), answer, now);
        let is_known = |told: &Told, path, at| told.find(&question("SELECT 1", path), at).is_some();
        assert!(is_known(&told, None, now + KEPT / 2));
        assert!(!is_known(&told, Some("other"), now), "names mean something else there");
        assert!(!is_known(&told, None, now + KEPT));
        told.follow(0);
        assert!(is_known(&told, None, now));
        told.follow(1);
        assert!(!is_known(&told, None, now));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let (mut told, now) = (Told::default(), clock::now());
        let long = "x".repeat(LONGEST / 2);
        let of = |number: usize| question(&format!("{number:02}{long}"), None);
        for number in 0..40 {
            told.learn(of(number), Answer::Row(Vec::new()), now);
            assert!(told.size <= MOST && !told.answers.is_empty());
        }
        assert!(told.find(&of(39), now).is_some());
        // The old ones make room first.
        let mut told = Told::default();
        (0..10).for_each(|number| told.learn(of(number), Answer::Row(Vec::new()), now));
        let later = now + KEPT / 2;
        (10..15).for_each(|number| told.learn(of(number), Answer::Row(Vec::new()), later));
        assert_eq!(told.answers.len(), 15);
        told.learn(of(99), Answer::Row(Vec::new()), now + KEPT);
        assert!(told.find(&of(10), now + KEPT).is_some() && !told.answers.contains_key(&of(0)));
        assert_eq!(told.answers.len(), 6);
        // Of what was asked once more, one answer counts.
        let before = told.size;
        told.learn(of(99), Answer::Row(Vec::new()), now + KEPT);
        assert_eq!(told.size, before);
        told.learn(question(&"x".repeat(LONGEST), None), Answer::Row(Vec::new()), later);
        assert_eq!(told.size, before);
    }
}
