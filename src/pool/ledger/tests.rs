//! The ledger, driven by hand and by random steps.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const W: WorkerId = WorkerId(0);
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(5) };

fn ledger(size: usize) -> Ledger {
    Ledger::new(Limits { size, reserve: 1, round_robin: false })
}

fn start() -> Instant {
    crate::clock::now()
}

#[test]
fn what_is_not_used_is_wanted_by_who_waits_for_nothing_better() {
    let now = start();
    let mut l = ledger(3);
    let Acquire::Queued(Some(first)) = l.acquire(WaiterId(1), W, now) else { panic!() };
    assert_eq!(l.login_done(first, now), Freed::Give(WaiterId(1)));
    let Acquire::Queued(Some(second)) = l.acquire(WaiterId(2), W, now) else { panic!() };
    assert_eq!(l.login_done(second, now), Freed::Give(WaiterId(2)));
    assert_eq!(l.wants_back(first, now), Wanted::No);
    // One is being made, unless that takes long.
    assert!(matches!(l.acquire(WaiterId(3), W, now), Acquire::Queued(Some(_))));
    assert_eq!(l.wants_back(first, now), Wanted::Perhaps);
    assert!(!l.gives_way(first, now));
    assert_eq!(l.wants_back(first, now + PROMPT), Wanted::Yes);
    // One that gives way is enough for one who waits.
    assert!(l.gives_way(first, now + PROMPT));
    assert_eq!(l.wants_back(second, now + PROMPT), Wanted::No);
    assert_eq!(l.acquire(WaiterId(4), W, now), Acquire::Queued(None));
    assert_eq!(l.wants_back(second, now + PROMPT), Wanted::Yes);
    assert_eq!(l.release(first, now), Freed::Give(WaiterId(3)));
    assert_eq!(l.acquire_this(first, now), This::Later);
    assert_eq!(l.wants_back(second, now), Wanted::Perhaps);
    l.pause();
    assert_eq!(l.wants_back(second, now), Wanted::Yes);
    l.resume(now);
    l.condemn(first);
    assert_eq!([first, second].map(|slot| l.wants_back(slot, now)), [Wanted::Yes, Wanted::Perhaps]);
}

#[test]
fn none_is_given_to_who_wants_this_one_but_one_that_rests() {
    let now = start();
    let mut l = ledger(2);
    let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
    assert_eq!(l.acquire_this(slot, now), This::Later);
    assert_eq!(l.login_done(slot, now), Freed::Give(WaiterId(1)));
    assert_eq!(l.acquire_this(slot, now), This::Later);
    assert_eq!(l.release(slot, now), Freed::Idle);
    assert_eq!(l.acquire_this(slot, now), This::Yours);
    assert_eq!(l.acquire_at_once(W, now), None);
    assert_eq!(l.discard(slot, now), None);
    assert_eq!(l.acquire_this(slot, now), This::Gone);
}

#[test]
fn the_first_to_wait_is_the_first_served() {
    let now = start();
    let mut l = ledger(1);
    let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
    assert_eq!(l.acquire(WaiterId(2), W, now), Acquire::Queued(None));
    assert_eq!(l.login_done(slot, now), Freed::Give(WaiterId(1)));
    assert_eq!(l.acquire(WaiterId(3), W, now), Acquire::Queued(None));
    assert_eq!(l.release(slot, now), Freed::Give(WaiterId(2)));
    assert!(l.cancel_wait(WaiterId(3)));
    assert_eq!(l.release(slot, now), Freed::Idle);
    assert_eq!(l.acquire(WaiterId(4), W, now), Acquire::Reuse(slot));
}

#[test]
fn connections_stay_with_their_worker_and_nobody_is_passed_over_for_ever() {
    let now = start();
    let other = WorkerId(W.0 + 1);
    for (size, first) in [(1, [1, 2, 3, 4, 5, 6]), (8, [2, 3, 5, 6, 1, 8])] {
        let mut l = ledger(size);
        for id in 0..size as u64 {
            let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(100 + id), W, now) else { panic!() };
            assert_eq!(l.login_done(slot, now), Freed::Give(WaiterId(100 + id)));
        }
        // Others' are 1, 4, 7 ...
        for id in 1..=30 {
            let worker = if id % 3 == 1 { other } else { W };
            assert_eq!(l.acquire(WaiterId(id), worker, now), Acquire::Queued(None));
        }
        let slot = l.slots().map(|(slot, ..)| slot).next().unwrap();
        let order = std::iter::from_fn(|| match l.release(slot, now) {
            Freed::Give(WaiterId(id)) => Some(id),
            _ => None,
        });
        let order: Vec<_> = order.collect();
        assert_eq!(order[..6], first, "{size}: all in their order, or the first passed over four times");
        let mut served = order.clone();
        served.sort_unstable();
        assert_eq!(served, (1..=30).collect::<Vec<_>>());
        let own: Vec<_> = order.iter().filter(|id| **id % 3 != 1).collect();
        assert!(own.is_sorted(), "in their order: {order:?}");
    }
}

#[test]
fn a_connection_that_has_gone_over_serves_those_of_its_new_worker() {
    let now = start();
    let other = WorkerId(W.0 + 1);
    let mut l = ledger(2);
    for id in [1, 2] {
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(id), W, now) else { panic!() };
        assert_eq!(l.login_done(slot, now), Freed::Give(WaiterId(id)));
    }
    let slot = l.slots().map(|(slot, ..)| slot).next().unwrap();
    l.moved(slot, other);
    for (id, worker) in [(3, W), (4, other)] {
        assert_eq!(l.acquire(WaiterId(id), worker, now), Acquire::Queued(None));
    }
    assert_eq!(l.release(slot, now), Freed::Give(WaiterId(4)));
    assert_eq!(l.release(slot, now), Freed::Give(WaiterId(3)));
}

#[test]
fn rest_leaves_the_number_that_is_kept_warm() {
    let now = start();
    let mut l = ledger(3);
    while let Some(slot) = l.warm(3, W, now) {
        assert_eq!(l.login_done(slot, now), Freed::Idle);
    }
    let (later, second) = (now + Duration::from_secs(10), Duration::from_secs(1));
    assert_eq!(l.expire(second, Duration::ZERO, 2, later).len(), 1);
    assert_eq!(l.expire(second, Duration::ZERO, 2, later).len(), 0);
    // Age spares nobody.
    assert_eq!(l.expire(second, second, 2, later).len(), 2);
}

#[test]
fn a_connection_rests_only_when_its_cancels_are_done() {
    let now = start();
    let mut l = ledger(1);
    let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
    l.login_done(slot, now);
    assert!(l.cancel_begins(slot));
    assert_eq!(l.acquire(WaiterId(2), W, now), Acquire::Queued(None));
    assert_eq!(l.release(slot, now), Freed::Wait);
    assert!(!l.cancel_begins(slot), "nobody may cancel what has ended");
    assert_eq!(l.cancel_done(slot, now), Some(Freed::Give(WaiterId(2))));
}

#[test]
fn a_failed_login_is_told_to_all_who_wait_and_not_repeated_at_once() {
    let now = start();
    let mut l = ledger(2);
    let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
    let Acquire::Queued(Some(other)) = l.acquire(WaiterId(2), W, now) else { panic!() };
    assert_eq!(l.login_failed(slot, BACKOFF, now), [WaiterId(1), WaiterId(2)]);
    assert!(l.login_failed(other, BACKOFF, now).is_empty());
    assert_eq!(l.acquire(WaiterId(3), W, now), Acquire::Refused);
    let later = now + BACKOFF.first;
    assert!(matches!(l.acquire(WaiterId(4), W, later), Acquire::Queued(Some(_))));
}

#[test]
fn the_reserve_is_for_those_who_wait_long() {
    let now = start();
    let after = Duration::from_secs(5);
    let mut l = ledger(1);
    let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
    l.login_done(slot, now);
    assert_eq!(l.acquire(WaiterId(2), W, now), Acquire::Queued(None));
    assert_eq!(l.acquire(WaiterId(3), W, now + after), Acquire::Queued(None));
    assert_eq!(l.open_reserve(after, W, now + after / 2), None);
    assert_eq!(l.open_reserve(Duration::ZERO, W, now + after), None);
    let reserve = l.open_reserve(after, W, now + after).unwrap();
    assert_eq!(l.open_reserve(after, W, now + after * 9), None, "it is one more and no more");
    assert_eq!(l.login_done(reserve, now + after), Freed::Give(WaiterId(2)));
    assert_eq!(l.release(slot, now + after), Freed::Give(WaiterId(3)));
    assert_eq!(l.release(reserve, now + after), Freed::Idle);
}

#[test]
fn the_size_is_a_limit_of_a_pool_and_of_those_whose_place_it_took() {
    let (now, after) = (start(), Duration::from_secs(5));
    let limits = Limits { size: 1, reserve: 1, round_robin: false };
    let quota = Arc::new(Quota::default());
    let generation = || Ledger::sharing(limits, vec![Arc::clone(&quota)], Some(0));
    let (mut old, mut new) = (generation(), generation());
    let Acquire::Queued(Some(lent)) = old.acquire(WaiterId(1), W, now) else { panic!() };
    assert_eq!(old.login_done(lent, now), Freed::Give(WaiterId(1)));
    old.condemn_all();
    assert_eq!(new.acquire(WaiterId(2), W, now), Acquire::Queued(None), "the old one has it");
    assert_eq!((new.starved_of(), quota.is_wanted()), (Some(0), true));
    let reserve = new.open_reserve(after, W, now + after).expect("who waits long gets one more");
    assert_eq!(new.login_done(reserve, now), Freed::Give(WaiterId(2)));
    assert_eq!(new.acquire(WaiterId(3), W, now), Acquire::Queued(None));
    assert_eq!(new.open_reserve(after, W, now + after * 2), None, "and that is all");
    assert_eq!(old.release(lent, now), Freed::Close(None));
    assert_eq!(new.dial_overdue(W, now), None, "the reserve is for those who wait long");
    assert_eq!(new.release(reserve, now), Freed::Give(WaiterId(3)));
    assert_eq!(new.release(reserve, now), Freed::Idle);
    assert_eq!((quota.used(), quota.is_wanted()), (1, false));
    // And less from now on, which what rests follows as well.
    assert!(new.expire(Duration::ZERO, Duration::ZERO, 0, now).is_empty());
    new.set_limits(Limits { size: 0, reserve: 0, round_robin: false });
    assert_eq!(new.expire(Duration::ZERO, Duration::ZERO, 0, now), [reserve]);
    assert_eq!(quota.used(), 0);
}

#[test]
fn logins_that_keep_failing_are_tried_less_and_less() {
    let mut now = start();
    let mut l = ledger(2);
    let mut waits = Vec::new();
    for waiter in 0..6 {
        let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(waiter), W, now) else { panic!() };
        l.login_failed(slot, BACKOFF, now);
        let next = l.retry_at().unwrap();
        waits.push((next - now).as_secs());
        now = next;
    }
    assert_eq!(waits, [1, 2, 4, 5, 5, 5]);
    let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(9), W, now) else { panic!() };
    l.login_failed(slot, BACKOFF, now);
    assert_eq!(l.acquire(WaiterId(10), W, now), Acquire::Refused);
    l.retry_now();
    let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(11), W, now) else { panic!() };
    l.login_failed(slot, BACKOFF, now);
    assert_eq!(l.retry_at(), Some(now + BACKOFF.first), "it starts from the beginning");
}

#[test]
fn who_waits_is_told_of_a_failed_login_also_when_the_next_may_follow_at_once() {
    let now = start();
    let mut l = ledger(2);
    let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(1), W, now) else { panic!() };
    let at_once = Backoff { first: Duration::ZERO, most: Duration::ZERO };
    assert_eq!(l.login_failed(slot, at_once, now), [WaiterId(1)]);
    assert!(matches!(l.acquire(WaiterId(2), W, now), Acquire::Queued(Some(_))));
}

#[test]
fn who_waits_is_told_when_the_last_connection_is_gone_and_none_can_be_made() {
    let now = start();
    let mut l = ledger(2);
    let Acquire::Queued(Some(used)) = l.acquire(WaiterId(1), W, now) else { panic!() };
    l.login_done(used, now);
    let Acquire::Queued(Some(slot)) = l.acquire(WaiterId(2), W, now) else { panic!() };
    assert!(l.login_failed(slot, BACKOFF, now).is_empty(), "there is a connection to wait for");
    assert_eq!(l.discard(used, now), None);
    assert_eq!(l.strand(now), [WaiterId(2)]);
    assert!(l.strand(now).is_empty());
}

#[derive(Debug, Clone)]
enum Op {
    Acquire(u16),
    Login(usize, bool),
    /// Asked for by who would not wait, and not wanted.
    Borrow(u16),
    Release(usize),
    /// The same where nobody is believed to wait.
    Rest(usize),
    Stand(u16),
    Discard(usize),
    Cancel(usize),
    CancelDone(usize),
    Leave(usize),
    Pause,
    Resume,
    Expire,
    Tick,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..2_u16).prop_map(Op::Acquire),
        3 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(i, ok)| Op::Login(i, ok)),
        2 => (0..2_u16).prop_map(Op::Borrow),
        4 => any::<usize>().prop_map(Op::Release),
        3 => any::<usize>().prop_map(Op::Rest),
        1 => (0..2_u16).prop_map(Op::Stand),
        1 => any::<usize>().prop_map(Op::Discard),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => any::<usize>().prop_map(Op::CancelDone),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        1 => Just(Op::Expire),
        1 => Just(Op::Tick),
    ]
}

/// What the world around the ledger knows; used to check that the ledger agrees.
#[derive(Default)]
struct Model {
    waiting: BTreeSet<WaiterId>,
    dialing: Vec<SlotId>,
    active: Vec<SlotId>,
    standing: Vec<SlotId>,
    cancels: Vec<SlotId>,
}

impl Model {
    fn freed(&mut self, slot: SlotId, freed: Freed) {
        match freed {
            Freed::Give(w) => {
                assert!(self.waiting.remove(&w), "only who waits is served");
                self.active.push(slot);
            }
            Freed::Close(dial) => {
                self.cancels.retain(|c| *c != slot);
                self.dialing.extend(dial);
            }
            Freed::Idle | Freed::Wait => {}
        }
    }
}

fn pick(from: &mut Vec<SlotId>, i: usize) -> Option<SlotId> {
    (!from.is_empty()).then(|| from.remove(i % from.len()))
}

proptest! {
    #[test]
    fn limits_are_exact_and_no_waiter_is_lost(ops in prop::collection::vec(op(), 1..200), size in 1..4_usize) {
        let mut now = start();
        let mut l = ledger(size);
        let mut m = Model::default();
        let mut next = 0;
        for op in ops {
            match op {
                Op::Acquire(worker) => {
                    next += 1;
                    match l.acquire(WaiterId(next), WorkerId(worker), now) {
                        Acquire::Reuse(slot) => m.active.push(slot),
                        Acquire::Queued(dial) => {
                            m.waiting.insert(WaiterId(next));
                            m.dialing.extend(dial);
                        }
                        Acquire::Refused => {}
                    }
                }
                Op::Login(i, ok) => if let Some(slot) = pick(&mut m.dialing, i) {
                    if ok {
                        let freed = l.login_done(slot, now);
                        m.freed(slot, freed);
                    } else {
                        for w in l.login_failed(slot, BACKOFF, now) {
                            prop_assert!(m.waiting.remove(&w));
                        }
                    }
                },
                Op::Borrow(worker) => if let Some(slot) = l.acquire_at_once(WorkerId(worker), now) {
                    prop_assert!(m.waiting.is_empty(), "who does not wait takes nothing from who does");
                    l.put_back(slot, now);
                    prop_assert_eq!(l.acquire_at_once(WorkerId(worker), now), Some(slot), "it is the next again");
                    l.put_back(slot, now);
                },
                Op::Rest(i) => if let Some(slot) = pick(&mut m.active, i) {
                    if l.rest(slot, now) {
                        prop_assert!(m.waiting.is_empty() && !m.cancels.contains(&slot));
                    } else {
                        let freed = l.release(slot, now);
                        m.freed(slot, freed);
                    }
                },
                Op::Stand(worker) => match l.stand(WorkerId(worker), now) {
                    Some(slot) => m.standing.push(slot),
                    None => if let Some(slot) = m.standing.pop() {
                        m.dialing.extend(l.discard(slot, now));
                    },
                },
                Op::Release(i) => if let Some(slot) = pick(&mut m.active, i) {
                    let freed = l.release(slot, now);
                    m.freed(slot, freed);
                },
                Op::Discard(i) => if let Some(slot) = pick(&mut m.active, i) {
                    m.cancels.retain(|c| *c != slot);
                    m.dialing.extend(l.discard(slot, now));
                },
                Op::Cancel(i) => if !m.active.is_empty() {
                    let slot = m.active[i % m.active.len()];
                    prop_assert!(l.cancel_begins(slot));
                    m.cancels.push(slot);
                },
                Op::CancelDone(i) => if let Some(slot) = pick(&mut m.cancels, i)
                    && let Some(freed) = l.cancel_done(slot, now) {
                    m.freed(slot, freed);
                },
                Op::Leave(i) => if let Some(w) = m.waiting.iter().copied().nth(i % m.waiting.len().max(1)) {
                    prop_assert!(l.cancel_wait(w));
                    m.waiting.remove(&w);
                },
                Op::Pause => l.pause(),
                Op::Resume => {
                    let (given, dials) = l.resume(now);
                    for (w, slot) in given {
                        prop_assert!(m.waiting.remove(&w));
                        m.active.push(slot);
                    }
                    m.dialing.extend(dials);
                }
                Op::Expire => { l.expire(Duration::from_secs(1), Duration::ZERO, 0, now); }
                Op::Tick => {
                    now += Duration::from_secs(2);
                    m.dialing.extend(l.dial_overdue(W, now));
                    m.dialing.extend(l.open_reserve(Duration::from_secs(2), W, now));
                }
            }
            for w in l.strand(now) {
                prop_assert!(m.waiting.remove(&w));
            }
            let c = l.counts();
            prop_assert!(l.len() <= size + 1, "never more than the limit and the reserve");
            prop_assert!(c.waiting == 0 || l.is_paused() || !l.is_empty(), "nobody waits for nothing");
            prop_assert_eq!(c.waiting, m.waiting.len());
            prop_assert_eq!(c.login, m.dialing.len());
            prop_assert_eq!(c.active + c.active_cancel, m.active.len() + m.standing.len());
            prop_assert_eq!(c.standing, m.standing.len());
            prop_assert!(l.is_paused() || c.waiting == 0 || c.idle == 0, "nobody waits beside an idle connection");
        }
    }
}
