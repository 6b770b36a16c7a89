//! Every crash at every point: a model of the shards carries the orders out, loses them or their answers, and is recovered.

use proptest::prelude::*;

use super::recovery::Owner;
use super::*;

/// What is true on a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Open,
    Prepared,
    Committed,
    Gone,
}

/// What happens to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    /// The shard does not do it.
    Fails,
    /// The shard dies, or its connection does, before it has done it.
    LostBefore,
    /// The same after it has.
    LostAfter,
}

struct Model {
    truth: Vec<Truth>,
    /// The row on the shard that decides, as it is read: outcome, owner, owner in digits.
    row: Option<[&'static str; 3]>,
}

/// The row of the transaction, which has done SET ROLE: no login is of that name.
const COMMIT: [&str; 3] = ["commit", "role", "726f6c65"];
/// What recovery writes, as whom it has logged in.
const ABORT: [&str; 3] = ["abort", "login", "6c6f67696e"];

impl Model {
    fn new(shards: usize) -> Self {
        Self { truth: vec![Truth::Open; shards], row: None }
    }

    /// What the row says to who asks; without one the transaction is given up.
    fn decision(&mut self, owner: Owner<'_>) -> bool {
        let row = self.row.get_or_insert(ABORT).map(|cell| Some(cell.to_owned())).to_vec();
        recovery::commits(&[row], owner).unwrap()
    }

    fn carry_out(&mut self, at: usize, order: Order, fate: Fate) -> Answer {
        let done = match order {
            Order::Commit => Truth::Committed,
            Order::Rollback | Order::RollbackPrepared => Truth::Gone,
            Order::Prepare => Truth::Prepared,
            Order::Decide | Order::CommitPrepared => Truth::Committed,
            Order::Resolve => return self.resolve(fate),
            Order::Hold => Truth::Open,
        };
        let prepared = self.truth[at] == Truth::Prepared;
        match fate {
            Fate::Works | Fate::LostAfter => {
                if order == Order::Decide {
                    if self.row.is_some() {
                        // The unique key: recovery was faster.
                        self.truth[at] = Truth::Gone;
                        return Answer::Refused;
                    }
                    self.row = Some(COMMIT);
                }
                self.truth[at] = done;
                if fate == Fate::Works { Answer::Done } else { Answer::Lost }
            }
            // What is not prepared ends with its connection, or as a failed block.
            Fate::Fails | Fate::LostBefore => {
                if !prepared {
                    self.truth[at] = Truth::Gone;
                }
                if fate == Fate::Fails { Answer::Refused } else { Answer::Lost }
            }
        }
    }

    fn resolve(&mut self, fate: Fate) -> Answer {
        match fate {
            Fate::Works | Fate::Fails => {
                if self.decision(Owner::Digits(COMMIT[2])) {
                    Answer::Done
                } else {
                    Answer::Refused
                }
            }
            Fate::LostBefore => Answer::Lost,
            Fate::LostAfter => {
                self.row.get_or_insert(ABORT);
                Answer::Lost
            }
        }
    }

    /// The proxy is gone: its connections end, and recovery does its work.
    fn recover(&mut self) {
        for truth in &mut self.truth {
            if *truth == Truth::Open {
                *truth = Truth::Gone;
            }
        }
        if self.truth.contains(&Truth::Prepared) {
            let commits = self.decision(Owner::Name(COMMIT[1]));
            for truth in &mut self.truth {
                if *truth == Truth::Prepared {
                    *truth = if commits { Truth::Committed } else { Truth::Gone };
                }
            }
        }
    }
}

/// Runs to the end, or until the proxy dies after so many orders.
fn run(commit: &mut Commit, model: &mut Model, fates: &[Fate], dies: usize, recovered_at: usize) {
    let mut count = 0;
    loop {
        let orders = commit.orders();
        if orders.is_empty() {
            return;
        }
        for (at, order) in orders {
            if count == dies {
                return;
            }
            if count == recovered_at && model.row.is_none() && model.truth.contains(&Truth::Prepared) {
                // Another proxy takes it for dead.
                model.row = Some(ABORT);
            }
            let answer = model.carry_out(at, order, fates.get(count).copied().unwrap_or(Fate::Works));
            commit.answered(at, answer);
            count += 1;
        }
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![5 => Just(Fate::Works), 1 => Just(Fate::Fails), 1 => Just(Fate::LostBefore), 1 => Just(Fate::LostAfter)]
}

fn writers_of(wrote: &[bool], truth: &[Truth]) -> Vec<Truth> {
    wrote.iter().zip(truth).filter(|(wrote, _)| **wrote).map(|(_, truth)| *truth).collect()
}

proptest! {
    #[test]
    fn two_phases_are_all_or_nothing_whatever_dies(
        wrote in prop::collection::vec(any::<bool>(), 1..6),
        fates in prop::collection::vec(fate(), 0..24),
        dies in 0_usize..30,
        recovered_at in 0_usize..30,
    ) {
        let mut commit = Commit::new(Mode::TwoPhase, &wrote);
        let mut model = Model::new(wrote.len());
        run(&mut commit, &mut model, &fates, dies, recovered_at);
        let outcome = commit.outcome().cloned();
        model.recover();
        let writers = writers_of(&wrote, &model.truth);
        let (all, none) = (writers.iter().all(|t| *t == Truth::Committed), writers.iter().all(|t| *t == Truth::Gone));
        prop_assert!(all || none, "{:?}", model.truth);
        match outcome {
            Some(Outcome::Committed { .. }) => prop_assert!(all),
            Some(Outcome::RolledBack { .. }) => prop_assert!(none),
            Some(Outcome::Partly { .. }) => prop_assert!(false, "partly"),
            Some(Outcome::Unknown { .. }) | None => {}
        }
    }

    #[test]
    fn best_effort_tells_what_it_knows(
        wrote in prop::collection::vec(any::<bool>(), 1..6),
        fates in prop::collection::vec(fate(), 0..12),
    ) {
        let mut commit = Commit::new(Mode::BestEffort, &wrote);
        let mut model = Model::new(wrote.len());
        run(&mut commit, &mut model, &fates, usize::MAX, usize::MAX);
        let writers = writers_of(&wrote, &model.truth);
        match commit.outcome().unwrap() {
            Outcome::Committed { late } => {
                prop_assert!(late.is_empty());
                prop_assert!(writers.iter().all(|t| *t == Truth::Committed));
            }
            Outcome::RolledBack { .. } => prop_assert!(writers.iter().all(|t| *t == Truth::Gone)),
            Outcome::Partly { committed, not, unknown } => {
                prop_assert!(committed.iter().all(|at| model.truth[*at] == Truth::Committed));
                prop_assert!(not.iter().all(|at| model.truth[*at] == Truth::Gone));
                prop_assert_eq!(committed.len() + not.len() + unknown.len(), writers.len());
            }
            Outcome::Unknown { shards } => prop_assert_eq!(shards.len(), writers.len()),
        }
    }
}

#[test]
fn the_usual_ways() {
    let steps = |mode, wrote: &[bool]| {
        let mut commit = Commit::new(mode, wrote);
        let mut all = Vec::new();
        loop {
            let orders = commit.orders();
            if orders.is_empty() {
                return (all, commit.outcome().cloned().unwrap());
            }
            orders.iter().for_each(|(at, _)| commit.answered(*at, Answer::Done));
            all.push(orders);
        }
    };
    let committed = Outcome::Committed { late: Vec::new() };
    // One writer needs no second phase, and nobody waits for a decision.
    let one = vec![vec![(0, Order::Commit), (2, Order::Commit)], vec![(1, Order::Commit)]];
    assert_eq!(steps(Mode::TwoPhase, &[false, true, false]), (one, committed.clone()));
    let two = vec![
        vec![(1, Order::Commit)],
        vec![(0, Order::Prepare), (2, Order::Prepare), (3, Order::Hold)],
        vec![(3, Order::Decide)],
        vec![(0, Order::CommitPrepared), (2, Order::CommitPrepared)],
    ];
    assert_eq!(steps(Mode::TwoPhase, &[true, false, true, true]), (two, committed.clone()));
    let each = vec![vec![(0, Order::Commit)], vec![(1, Order::Commit)]];
    assert_eq!(steps(Mode::BestEffort, &[true, true]), (each, committed));
}

#[test]
fn a_lost_decision_is_found_out_and_never_guessed() {
    let mut commit = Commit::new(Mode::TwoPhase, &[true, true]);
    assert_eq!(commit.orders(), [(0, Order::Prepare), (1, Order::Hold)]);
    commit.answered(0, Answer::Done);
    commit.answered(1, Answer::Done);
    assert_eq!(commit.orders(), [(1, Order::Decide)]);
    commit.answered(1, Answer::Lost);
    assert_eq!(commit.orders(), [(1, Order::Resolve)]);
    commit.answered(1, Answer::Lost);
    // What is prepared is left as it is.
    assert_eq!(commit.orders(), []);
    assert_eq!(commit.outcome(), Some(&Outcome::Unknown { shards: vec![0, 1] }));
}
