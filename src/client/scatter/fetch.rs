//! A statement of several shards whose rows the client asks for in parts, within a block: Execute has a limit, and is sent again for the rest.
//!
//! Each shard has a portal that is asked for as many rows at a time as the client, when more of that shard are needed; between two of the client's
//! requests all are at rest, and other statements may use them. What has come and was not asked for yet waits here: less than a part of each shard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::run::{Outcome, Run};
use crate::client::shared::{Activity, Links};
use crate::client::task::Client;
use crate::pool::Verdict;
use crate::wire::encode;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// How far it is.
pub(super) struct Fetch {
    /// The name that the portal has on the shards.
    portal: Vec<u8>,
    /// Rows that a shard is asked for at a time.
    part: u32,
    /// Rows that the client has asked for this time, 0: all; and those that it has got.
    most: u64,
    told: u64,
    /// Rows that are passed on as they came.
    held: VecDeque<Vec<u8>>,
    /// The shards that have no more, by their places.
    ended: Vec<bool>,
}

impl Fetch {
    /// Of so many rows at a time, from so many shards.
    pub(super) fn new(part: u32, shards: usize) -> Self {
        let portal = format!("pgweir_{}", NEXT.fetch_add(1, Ordering::Relaxed)).into_bytes();
        let ended = vec![false; shards];
        Self { portal, part, most: u64::from(part), told: 0, held: VecDeque::new(), ended }
    }

    pub(super) fn portal(&self) -> &[u8] {
        &self.portal
    }

    /// The client asks for so many rows; 0: all.
    pub(super) fn ask(&mut self, most: u32) {
        (self.most, self.told) = (u64::from(most), 0);
    }

    /// Whether the client has all that it asked for.
    pub(super) fn is_full(&self) -> bool {
        self.most > 0 && self.told >= self.most
    }

    /// Rows that it has got this time.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// How many shards it is asked of.
    pub(super) fn legs(&self) -> usize {
        self.ended.len()
    }

    /// Keeps a row that is passed on as it is.
    pub(super) fn hold(&mut self, body: &[u8]) {
        self.held.push_back(body.to_vec());
    }

    /// A shard has no more rows.
    pub(super) fn end(&mut self, at: usize) {
        if let Some(ended) = self.ended.get_mut(at) {
            *ended = true;
        }
    }

    /// From here on the rows are what one shard computes of all, which it is asked for at once.
    pub(super) fn begin_last(&mut self) {
        self.ended = vec![false];
    }

    /// What a shard is sent for more.
    fn request(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode::execute_portal(&mut out, &self.portal, self.part);
        encode::sync(&mut out);
        out
    }

    /// What a shard is sent when nobody asks for the rest.
    pub(super) fn farewell(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode::close_portal(&mut out, &self.portal);
        encode::sync(&mut out);
        out
    }
}

impl Client {
    /// Passes on as many rows as the client asks for, and asks shards for more as they are needed. All of them are ready before and, unless
    /// one has failed, after.
    pub(super) async fn fetch(&mut self, mut run: Run) -> (Run, Outcome) {
        let handle = Arc::clone(self.handle());
        loop {
            match self.pass_on(&mut run) {
                Ok(true) => return (run, Outcome::Done),
                Ok(false) => {}
                Err(outcome) => return (run, outcome),
            }
            if !ask_for_more(&mut run) {
                let last;
                (run, last) = run.next(Verdict::Clean);
                if !last {
                    return (run, Outcome::Done);
                }
            }
            handle.set_links(Links::Several(Box::new(run.links())));
            handle.set_activity(Activity::Active);
            let outcome = self.run_scatter(&mut run).await;
            handle.set_links(Links::None);
            handle.set_activity(Activity::Idle);
            if !matches!(outcome, Outcome::Done) {
                return (run, outcome);
            }
        }
    }

    /// Passes on what is there; whether the client has what it asked for.
    fn pass_on(&mut self, run: &mut Run) -> Result<bool, Outcome> {
        let (mut gather, Some(fetch), _) = run.parts() else { return Ok(true) };
        while !fetch.is_full() {
            let row = match &mut gather {
                Some(gather) => gather.merge.pop().map_err(|error| super::run::failed(&error))?,
                None => fetch.held.pop_front(),
            };
            let Some(row) = row else { return Ok(false) };
            if let Some(last) = gather.as_mut().and_then(|gather| gather.last.as_mut()) {
                last.push(&row).map_err(|error| super::run::failed(&error))?;
                continue;
            }
            fetch.told += 1;
            encode::frame(self.output.tail(), b'D', |b| b.extend_from_slice(&row));
        }
        Ok(true)
    }
}

/// Asks those of which more is needed; whether there are any.
fn ask_for_more(run: &mut Run) -> bool {
    let (gather, Some(fetch), legs) = run.parts() else { return false };
    let request = fetch.request();
    let mut asked = false;
    for (at, leg) in legs.iter_mut().enumerate() {
        let open = fetch.ended.get(at).is_some_and(|ended| !ended);
        if open && gather.as_ref().is_none_or(|gather| gather.merge.wants(at)) {
            leg.ask_for_more(&request);
            asked = true;
        }
    }
    asked
}
