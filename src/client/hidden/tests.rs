//! A census, how long it counts, and what is made of it.

use super::*;
use crate::sql::hidden::{Row, Volatility};
use crate::sql::parse;

fn known(stamp: u64, now: Instant, text: &str) -> Known {
    let row = Row::Function {
        name: "f".to_owned(),
        language: "plpgsql".to_owned(),
        volatility: Volatility::Volatile,
        text: text.to_owned(),
        extension: String::new(),
    };
    Known { census: Arc::new(Census::of([row])), stamp, until: now + KEPT, before: Vec::new() }
}

#[test]
fn a_census_counts_for_its_time_and_its_state() {
    let now = clock::now();
    let known = known(7, now, "BEGIN END");
    assert!(known.counts(7, now) && known.counts(7, now + KEPT));
    assert!(!known.counts(8, now));
    assert!(!known.counts(7, now + KEPT + GRACE), "an old one is as none");
}

#[test]
fn changes_count_for_the_database_that_takes_the_place_of_another() {
    let old = Arc::new(Hidden::new(2));
    let new = Hidden::after(&old, 3);
    let counts = || [&new.changes.begun, &new.changes.ended].map(|count| count.load(Ordering::Acquire));
    let changing = old.change();
    assert_eq!(counts(), [1, 0], "nothing is learned meanwhile");
    drop(changing);
    assert_eq!(counts(), [1, 1]);
    old.note_asks();
    assert!(new.minds_sequences(ShardIndex(0)) && new.shards.len() == 3 && new.id != old.id);
}

#[test]
fn servers_are_made_to_forget_where_nobody_knows_what_code_asks() {
    let hidden = Arc::new(Hidden::new(1));
    let minds = || hidden.minds_sequences(ShardIndex(0));
    assert!(minds(), "nothing is known");
    let census = known(0, clock::now(), "BEGIN END");
    hidden.shards[0].known.store(Some(Arc::new(census)));
    assert!(!minds());
    drop(hidden.change());
    assert!(minds(), "the code is another now");
    let old = Known { until: clock::now().checked_sub(GRACE).unwrap(), ..known(1, clock::now(), "BEGIN END") };
    hidden.shards[0].known.store(Some(Arc::new(old)));
    assert!(minds(), "it may have changed unseen");
    hidden.shards[0].known.store(Some(Arc::new(known(1, clock::now(), "BEGIN END"))));
    assert!(!minds());
    hidden.note_asks();
    assert!(minds());
}

#[test]
fn replicas_may_run_what_was_before() {
    let (now, facts) = (clock::now(), parse::facts(b"SELECT f()"));
    let first = known(1, now, "BEGIN PERFORM set_config('a.b', 'c', false); END");
    let second = known(2, now, "BEGIN END").after(Some(&first), now);
    let of = |known: &Known, replica, at| known.of_text(&facts, false, replica, at).is_none();
    assert!(of(&second, false, now) && !of(&second, true, now));
    assert!(of(&second, true, now + REPLAYED));
    // It stays known through censuses that find nothing new.
    let third = known(2, now, "BEGIN END").after(Some(&second), now + KEPT);
    assert!(!of(&third, true, now + KEPT) && third.before.len() == 1);
}
