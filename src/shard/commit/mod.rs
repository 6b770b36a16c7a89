//! How a transaction over several shards is committed: the order of steps, and what is known after each.
//!
//! ```text
//!                        ┌─ nobody wrote, or one ──▶ COMMIT
//! readers COMMIT ──▶ writers ─┼─ best effort ──▶ COMMIT on one after the other
//!                        └─ two phases ──▶ PREPARE on all but the last, which shows that we live ──▶ decision and COMMIT on the last ──▶ COMMIT PREPARED
//! ```
//!
//! By two phases the last writer holds the decision: a row of `pgweir.dtx` that is committed with its own part of the work. When that row is
//! there, everything else will be committed, and when it cannot come any more, everything is rolled back; whoever finds a prepared
//! part asks there ([`recovery`]). No answer is ever guessed.
//!
//! The machine knows no server: it is asked what is to be done, and told what came of it.

pub mod gid;
pub mod recovery;

/// How several writers commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One after the other.
    BestEffort,
    /// All or none.
    TwoPhase,
}

/// What a shard is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    Rollback,
    /// Show, until the transaction ends, that it is being committed.
    Hold,
    /// PREPARE TRANSACTION.
    Prepare,
    /// Write down that the transaction is committed, and COMMIT.
    Decide,
    /// Find out, on another connection, whether that was done, and if not make sure that it never will be.
    Resolve,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    RollbackPrepared,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was done; of [`Order::Resolve`]: the transaction is committed.
    Done,
    /// It was not, nor will be, and the shard's part is rolled back; of [`Order::Resolve`]: the transaction is.
    Refused,
    /// It is not known.
    Lost,
}

/// What became of the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed; on these of the shards it will be when they are asked again.
    Committed {
        /// Their places.
        late: Vec<usize>,
    },
    /// Nothing of it is left, or will be when the shard is asked again; this one of the shards would not commit.
    RolledBack {
        /// Its place.
        by: usize,
    },
    /// It is not known, but recovery will find out: all or none.
    Unknown {
        /// The places of the shards where it is not known.
        shards: Vec<usize>,
    },
    /// By best effort: some committed, others did not.
    Partly {
        /// Who did.
        committed: Vec<usize>,
        /// Who did not.
        not: Vec<usize>,
        /// Of whom it is not known.
        unknown: Vec<usize>,
    },
}

/// Where the transaction is on one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Open.
    Open,
    /// Open, and shows that the transaction is being committed.
    Held,
    /// Its last order was given, and is not answered.
    Asked(Order),
    /// It is prepared.
    Prepared,
    /// It is committed.
    Committed,
    /// It is rolled back.
    Gone,
    /// What became of its last order is not known.
    Unknown(Order),
}

/// Where the whole is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Those that only read commit.
    Readers,
    /// The writers commit, one after the other.
    Writers,
    /// All writers but the last prepare.
    Prepare,
    /// The last one decides.
    Decide,
    /// It is found out whether it has.
    Resolve,
    /// It was decided to commit.
    Finish,
    /// It was decided not to; because of this shard.
    Undo(usize),
    /// All is done.
    Over,
}

/// A transaction that is being committed.
#[derive(Debug, Clone)]
pub struct Commit {
    mode: Mode,
    wrote: Vec<bool>,
    parts: Vec<Part>,
    phase: Phase,
    outcome: Option<Outcome>,
}

impl Commit {
    /// Of a transaction that is open on so many shards; `wrote`: on which of them it has written.
    #[must_use]
    pub fn new(mode: Mode, wrote: &[bool]) -> Self {
        let parts = vec![Part::Open; wrote.len()];
        Self { mode, wrote: wrote.to_vec(), parts, phase: Phase::Readers, outcome: None }
    }

    /// The shard that decides: the last writer.
    #[must_use]
    pub fn decides(&self) -> usize {
        self.wrote.iter().rposition(|wrote| *wrote).unwrap_or(0)
    }

    /// Whether it goes by two phases: one writer alone needs none.
    #[must_use]
    pub fn is_two_phase(&self) -> bool {
        self.mode == Mode::TwoPhase && self.writers().count() > 1
    }

    /// Who has written.
    pub fn writers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.wrote.len()).filter(|at| self.wrote.get(*at) == Some(&true))
    }

    /// What is to be done next, by shards at once; each is answered by [`Commit::answered`] before this is asked again. Nothing: it is over.
    pub fn orders(&mut self) -> Vec<(usize, Order)> {
        loop {
            if self.phase == Phase::Over {
                return Vec::new();
            }
            let orders = self.orders_of_phase();
            if !orders.is_empty() {
                for (at, order) in &orders {
                    self.put(*at, Part::Asked(*order));
                }
                return orders;
            }
            self.phase = self.next_phase();
        }
    }

    /// Takes in what came of an order that was given.
    pub fn answered(&mut self, at: usize, answer: Answer) {
        let Some(Part::Asked(order)) = self.parts.get(at).copied() else { return };
        let part = match (order, answer) {
            (Order::Commit | Order::Decide | Order::CommitPrepared, Answer::Done) | (Order::Resolve, Answer::Done) => {
                Part::Committed
            }
            (Order::Prepare, Answer::Done) => Part::Prepared,
            (Order::Hold, Answer::Done) => Part::Held,
            // What is prepared stays so until the shard does as it is told.
            (Order::CommitPrepared | Order::RollbackPrepared, Answer::Refused) => Part::Unknown(order),
            (Order::Rollback | Order::RollbackPrepared, Answer::Done) | (_, Answer::Refused) => Part::Gone,
            // Nobody can commit it any more: it ends with its connection.
            (Order::Rollback, Answer::Lost) => Part::Gone,
            (_, Answer::Lost) => Part::Unknown(order),
        };
        self.put(at, part);
    }

    /// What became of it, when there are no more orders.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    fn put(&mut self, at: usize, part: Part) {
        if let Some(place) = self.parts.get_mut(at) {
            *place = part;
        }
    }

    fn part(&self, at: usize) -> Part {
        self.parts.get(at).copied().unwrap_or(Part::Gone)
    }

    /// The places whose part is so.
    fn places(&self, is: impl Fn(Part) -> bool) -> Vec<usize> {
        (0..self.parts.len()).filter(|at| is(self.part(*at))).collect()
    }

    fn open(&self) -> Vec<usize> {
        self.places(|part| matches!(part, Part::Open | Part::Held))
    }

    fn orders_of_phase(&self) -> Vec<(usize, Order)> {
        let last = self.decides();
        let each = |places: Vec<usize>, order| places.into_iter().map(move |at| (at, order)).collect();
        match self.phase {
            Phase::Readers => {
                let readers = self.open().into_iter().filter(|at| self.wrote.get(*at) != Some(&true));
                each(readers.collect(), Order::Commit)
            }
            // As long as nothing is committed, all can still be undone.
            Phase::Writers if self.is_undone() => each(self.open(), Order::Rollback),
            Phase::Writers => self.open().into_iter().take(1).map(|at| (at, Order::Commit)).collect(),
            Phase::Prepare => {
                let order = |at| (at, if at == last { Order::Hold } else { Order::Prepare });
                self.places(|part| part == Part::Open).into_iter().map(order).collect()
            }
            Phase::Decide if self.part(last) == Part::Held => vec![(last, Order::Decide)],
            Phase::Resolve if self.part(last) == Part::Unknown(Order::Decide) => vec![(last, Order::Resolve)],
            Phase::Finish => each(self.places(|part| part == Part::Prepared), Order::CommitPrepared),
            Phase::Undo(_) => {
                let mut orders: Vec<_> = each(self.open(), Order::Rollback);
                orders.extend(
                    self.places(|part| part == Part::Prepared).into_iter().map(|at| (at, Order::RollbackPrepared)),
                );
                orders
            }
            Phase::Decide | Phase::Resolve | Phase::Over => Vec::new(),
        }
    }

    /// When a phase has nothing more to do.
    fn next_phase(&mut self) -> Phase {
        let last = self.decides();
        let failed = |part| matches!(part, Part::Gone | Part::Unknown(_));
        match self.phase {
            Phase::Readers => match self.places(failed).first() {
                // What it has read may not hold: as good as a refusal of the whole.
                Some(reader) => Phase::Undo(*reader),
                None if self.is_two_phase() => Phase::Prepare,
                None => Phase::Writers,
            },
            Phase::Writers => self.end_of_writers(),
            Phase::Prepare => self.places(failed).first().map_or(Phase::Decide, |at| Phase::Undo(*at)),
            Phase::Decide => match self.part(last) {
                Part::Committed => Phase::Finish,
                Part::Unknown(_) => Phase::Resolve,
                Part::Open | Part::Held | Part::Asked(_) | Part::Prepared | Part::Gone => Phase::Undo(last),
            },
            Phase::Resolve => match self.part(last) {
                Part::Committed => Phase::Finish,
                Part::Gone => Phase::Undo(last),
                // What is prepared is left to recovery.
                Part::Open | Part::Held | Part::Asked(_) | Part::Prepared | Part::Unknown(_) => {
                    self.over(Outcome::Unknown { shards: self.writers().collect() })
                }
            },
            Phase::Finish => {
                let late = self.places(|part| matches!(part, Part::Unknown(Order::CommitPrepared)));
                self.over(Outcome::Committed { late })
            }
            Phase::Undo(by) => self.over(Outcome::RolledBack { by }),
            Phase::Over => Phase::Over,
        }
    }

    /// Whether a writer would not commit before any has.
    fn is_undone(&self) -> bool {
        let has = |is: &dyn Fn(Part) -> bool| self.writers().any(|at| is(self.part(at)));
        has(&|part| matches!(part, Part::Gone | Part::Unknown(_))) && !has(&|part| part == Part::Committed)
    }

    /// After all that was to be committed one by one.
    fn end_of_writers(&mut self) -> Phase {
        let of_writers = |this: &Self, is: &dyn Fn(Part) -> bool| -> Vec<usize> {
            this.writers().filter(|at| is(this.part(*at))).collect()
        };
        let committed = of_writers(self, &|part| part == Part::Committed);
        let not = of_writers(self, &|part| part == Part::Gone);
        let unknown = of_writers(self, &|part| matches!(part, Part::Unknown(_)));
        let outcome = match (committed.is_empty(), not.first(), unknown.is_empty()) {
            (_, None, true) => Outcome::Committed { late: Vec::new() },
            (true, Some(first), true) => Outcome::RolledBack { by: *first },
            (true, None, false) => Outcome::Unknown { shards: unknown },
            _ => Outcome::Partly { committed, not, unknown },
        };
        self.over(outcome)
    }

    fn over(&mut self, outcome: Outcome) -> Phase {
        self.outcome = Some(outcome);
        Phase::Over
    }
}

#[cfg(test)]
mod tests;
