use proptest::prelude::*;

use super::*;

fn values(pairs: &[(&str, &str)]) -> Values {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

/// ReadyForQuery, before which the client is told nothing of ours.
fn settle(c: &mut ClientSettings, idle: bool, failed: bool, server: &mut ServerSettings) {
    assert_eq!(c.settle(idle, failed, server), []);
}

/// The server reports something, and the client hears it.
fn report(c: &mut ClientSettings, value: &str, server: &mut ServerSettings) {
    assert_eq!(c.report("timezone", value, server), Report::Heard);
    server.report("TimeZone", value);
}

#[test]
fn reset_returns_to_what_startup_gave() {
    let mut c = ClientSettings::new(values(&[("work_mem", "1MB")]));
    let mut server = ServerSettings::default();
    server.caught_up(&c);
    c.assign("work_mem", "2MB");
    c.assign("geqo", "off");
    c.assign_default("work_mem");
    c.assign_default("geqo");
    settle(&mut c, true, false, &mut server);
    assert_eq!((c.get("work_mem"), c.get("geqo")), (Some("1MB"), None));
    // The server went to its own default, and is told.
    assert_eq!(c.missing(), values(&[("work_mem", "1MB")]));
    c.restored(&c.missing());
    settle(&mut c, true, false, &mut server);
    assert!(c.changes.is_none() && server.catch_up(&c).is_none());
    assert!(Arc::ptr_eq(&c.wanted, &c.startup));
}

#[test]
fn who_the_session_is_survives_reset_all_and_not_discard_all() {
    let mut c = ClientSettings::new(values(&[("geqo", "off"), ("timezone", "UTC")]));
    c.assign("role", "ann");
    c.assign("work_mem", "2MB");
    assert!(c.is_someone_else());
    c.assign_defaults();
    assert_eq!(*c.wanted(), values(&[("geqo", "off"), ("timezone", "UTC"), ("role", "ann")]));
    assert_eq!(c.missing(), values(&[("geqo", "off"), ("timezone", "UTC")]));
    c.assign("session_authorization", "bob");
    assert_eq!(c.get("role"), Some("none"), "a role is one of the session's user");
    c.assign_default("session_authorization");
    assert!(!c.is_someone_else());
    c.assign("role", "ann");
    c.reset_all();
    assert_eq!(*c.wanted(), values(&[("geqo", "off"), ("timezone", "UTC")]));
}

#[test]
fn a_transaction_that_began_in_a_text_that_committed_is_not_for_good() {
    let mut c = ClientSettings::default();
    let mut server = ServerSettings::default();
    c.assign("a.b", "1");
    c.commit();
    c.assign("a.b", "2");
    settle(&mut c, false, false, &mut server);
    // The client leaves, and the server is rolled back: it has the first.
    let mut other = ClientSettings::default();
    assert_eq!(server.catch_up(&other).as_deref(), Some("RESET \"a\".\"b\";"));
    other.set("a.b", "1");
    assert_eq!(server.catch_up(&other), None);
}

/// PostgreSQL reports just before ReadyForQuery, and only what differs from what it has reported last.
#[test]
fn what_is_not_reported_has_not_changed() {
    let mut server = ServerSettings::default();
    server.report_default("TimeZone", "UTC");
    let mut c = ClientSettings::default();
    let set = |c: &mut ClientSettings, server: &mut ServerSettings| {
        report(c, "Asia/Tokyo", server);
        settle(c, true, false, server);
    };
    set(&mut c, &mut server);
    c.assign_defaults();
    assert_eq!(c.get("timezone"), Some("Asia/Tokyo"));
    settle(&mut c, true, true, &mut server);
    assert_eq!((c.get("timezone"), server.catch_up(&c)), (Some("Asia/Tokyo"), None), "undone");
    c.assign_default("timezone");
    c.assign_reported("timezone");
    settle(&mut c, true, false, &mut server);
    assert_eq!((c.get("timezone"), server.catch_up(&c)), (Some("Asia/Tokyo"), None), "set again");
    c.assign_default("timezone");
    report(&mut c, "UTC", &mut server);
    settle(&mut c, true, false, &mut server);
    assert!(c.get("timezone").is_none() && c.changes.is_none() && server.catch_up(&c).is_none());
    assert!(Arc::ptr_eq(&c.wanted, &c.startup));
}

#[test]
fn what_was_reported_within_a_lost_transaction_is_lost_with_it() {
    let mut server = ServerSettings::default();
    let mut c = ClientSettings::default();
    report(&mut c, "Asia/Tokyo", &mut server);
    settle(&mut c, true, false, &mut server);
    // SET LOCAL, which nobody sees but for its report; and what is committed while another transaction begins.
    for chained in [false, true] {
        report(&mut c, "Etc/UTC", &mut server);
        settle(&mut c, false, false, &mut server);
        if chained {
            c.commit();
            settle(&mut c, false, false, &mut server);
        }
        report(&mut c, "Europe/Paris", &mut server);
        c.assign("work_mem", "1MB");
        settle(&mut c, false, false, &mut server);
        c.abandon();
        let expected = if chained { "Etc/UTC" } else { "Asia/Tokyo" };
        assert_eq!((c.get("timezone"), c.get("work_mem")), (Some(expected), None));
    }
    // On a live server it is the server who says.
    report(&mut c, "Europe/Paris", &mut server);
    settle(&mut c, false, false, &mut server);
    c.rollback();
    report(&mut c, "Etc/UTC", &mut server);
    settle(&mut c, true, false, &mut server);
    assert_eq!(c.get("timezone"), Some("Etc/UTC"));
}

#[test]
fn savepoints_without_end_are_not_kept() {
    let mut c = ClientSettings::default();
    let mut server = ServerSettings::default();
    c.assign("a.base", "1");
    assert!(c.savepoint("first"));
    c.assign("a.gone", "1");
    c.assign_default("a.gone");
    let mut kept = 0;
    for i in 0..10_000 {
        assert!(c.savepoint("s"));
        kept += usize::from(!c.has_doubts());
        c.assign(&format!("a.x{i}"), "v");
    }
    assert!((100..1000).contains(&kept), "{kept}");
    assert!(c.changes().savepoints.is_empty(), "the server is asked at the end");
    assert_eq!(c.doubts().count(), 10_001, "for the base, too, which may be gone by now");
    c.rollback_to("s");
    c.assign("a.base", "2");
    assert_eq!(c.doubts().count(), 10_001);
    c.rollback();
    assert!(c.wanted().is_empty() && !c.has_doubts());
    settle(&mut c, true, false, &mut server);
    assert!(c.changes.is_none());
}

#[test]
fn savepoints_without_end_over_what_startup_gave_are_told_of() {
    let mut c = ClientSettings::new(values(&[("work_mem", "1MB"), ("timezone", "UTC")]));
    c.assign("a.base", "1");
    assert_eq!((0..100_000).filter(|_| !c.savepoint("s")).count(), 1);
}

#[test]
fn savepoints_that_are_released_take_no_place() {
    let mut c = ClientSettings::default();
    let mut server = ServerSettings::default();
    c.assign("a.base", "1");
    for round in 0..100_000 {
        assert!(c.savepoint("outer") && c.savepoint("s"));
        c.assign("a.x", &round.to_string());
        if round % 2 == 0 {
            c.rollback_to("s");
        }
        c.release("outer");
    }
    assert!(!c.has_doubts());
    assert_eq!(c.changes().kept, 0);
    c.commit();
    settle(&mut c, true, false, &mut server);
    assert_eq!((c.get("a.base"), c.get("a.x")), (Some("1"), Some("99999")));
}

/// What a client may do.
#[derive(Debug, Clone)]
enum Step {
    Set(u8, u8),
    Reset(u8),
    ResetAll,
    DiscardAll,
    Savepoint(u8),
    /// So many more that none is kept.
    Savepoints,
    Release(u8),
    RollbackTo(u8),
    Commit,
    Rollback,
    Fail,
    /// The text does not tell to what.
    SetUnseen(u8, u8),
    /// The server is asked or told what there is to.
    Restore,
}

/// PostgreSQL as it is told in its documentation: copies of everything.
#[derive(Debug, Clone, Default)]
struct Model {
    now: Values,
    before: Option<(Values, Vec<(u8, Values)>)>,
}

impl Model {
    fn begin(&mut self) {
        if self.before.is_none() {
            self.before = Some((self.now.clone(), Vec::new()));
        }
    }

    fn find(&self, name: u8) -> Option<usize> {
        self.before.as_ref()?.1.iter().rposition(|(n, _)| *n == name)
    }
}

fn both(own: &mut Model, server: &mut Model, f: &dyn Fn(&mut Model)) {
    f(own);
    f(server);
}

const NAMES: [&str; 3] = ["a.x", "b.y", "work_mem"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, 0..3_u8).prop_map(|(n, v)| Step::Set(n, v)),
        2 => (0..3_u8).prop_map(Step::Reset),
        1 => Just(Step::ResetAll),
        1 => Just(Step::DiscardAll),
        3 => (0..2_u8).prop_map(Step::Savepoint),
        1 => Just(Step::Savepoints),
        2 => (0..2_u8).prop_map(Step::Release),
        2 => (0..2_u8).prop_map(Step::RollbackTo),
        2 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        1 => Just(Step::Fail),
        3 => (0..3_u8, 0..3_u8).prop_map(|(n, v)| Step::SetUnseen(n, v)),
        2 => Just(Step::Restore),
    ]
}

#[test]
fn what_was_in_doubt_at_a_savepoint_is_so_behind_too_many() {
    let back = |between: &dyn Fn(&mut ClientSettings)| {
        let mut c = ClientSettings::default();
        c.doubt("a.x");
        between(&mut c);
        assert!(c.savepoint("s"));
        c.assign_default("a.x");
        c.unfollow();
        c.rollback_to("s");
        assert_eq!(c.doubts().collect::<Vec<_>>(), ["a.x"]);
    };
    back(&|_| {});
    back(&|c| c.commit());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// What the client wants is what a session of its own would have, and what is believed of the server is what it has.
    #[test]
    fn follows_the_model(given in proptest::option::of(0..3_u8), steps in proptest::collection::vec(step(), 1..40)) {
        let startup: Values = given.map(|v| ("work_mem".to_owned(), v.to_string())).into_iter().collect();
        let mut c = ClientSettings::new(startup.clone());
        let mut books = ServerSettings::default();
        books.caught_up(&c);
        // A session of the client's own, and the server of the pool, where RESET goes to another default.
        let mut own = Model { now: startup.clone(), before: None };
        let mut server = own.clone();
        for step in steps {
            let name = |n: u8| NAMES[usize::from(n)];
            match step {
                Step::Set(n, v) => {
                    both(&mut own, &mut server, &|m| {
                        m.begin();
                        m.now.insert(name(n).to_owned(), v.to_string());
                    });
                    c.assign(name(n), &v.to_string());
                }
                Step::Reset(n) => {
                    both(&mut own, &mut server, &|m| {
                        m.begin();
                        m.now.remove(name(n));
                    });
                    if let Some(v) = startup.get(name(n)) {
                        own.now.insert(name(n).to_owned(), v.clone());
                    }
                    c.assign_default(name(n));
                }
                Step::ResetAll => {
                    both(&mut own, &mut server, &|m| {
                        m.begin();
                        m.now.clear();
                    });
                    own.now.clone_from(&startup);
                    c.assign_defaults();
                }
                // Not within a transaction.
                Step::DiscardAll if own.before.is_some() => continue,
                Step::DiscardAll => {
                    both(&mut own, &mut server, &|m| m.now.clear());
                    own.now.clone_from(&startup);
                    c.reset_all();
                    books.discard_all();
                    settle(&mut c, true, false, &mut books);
                }
                Step::Savepoint(s) => {
                    both(&mut own, &mut server, &|m| {
                        m.begin();
                        let now = m.now.clone();
                        m.before.as_mut().unwrap().1.push((s, now));
                    });
                    prop_assert!(c.savepoint(&s.to_string()));
                }
                // What startup gave keeps the server then.
                Step::Savepoints if !startup.is_empty() => continue,
                Step::Savepoints => c.unfollow(),
                Step::Release(s) => {
                    let Some(at) = own.find(s) else { continue };
                    both(&mut own, &mut server, &|m| m.before.as_mut().unwrap().1.truncate(at));
                    c.release(&s.to_string());
                }
                Step::RollbackTo(s) => {
                    let Some(at) = own.find(s) else { continue };
                    both(&mut own, &mut server, &|m| {
                        let saved = &mut m.before.as_mut().unwrap().1;
                        saved.truncate(at + 1);
                        m.now = saved[at].1.clone();
                    });
                    c.rollback_to(&s.to_string());
                }
                Step::Commit => {
                    both(&mut own, &mut server, &|m| m.before = None);
                    c.commit();
                    settle(&mut c, true, false, &mut books);
                }
                Step::Rollback | Step::Fail => {
                    both(&mut own, &mut server, &|m| {
                        if let Some((before, _)) = m.before.take() {
                            m.now = before;
                        }
                    });
                    if matches!(step, Step::Rollback) {
                        c.rollback();
                    }
                    settle(&mut c, true, matches!(step, Step::Fail), &mut books);
                }
                Step::SetUnseen(n, v) => {
                    both(&mut own, &mut server, &|m| {
                        m.begin();
                        m.now.insert(name(n).to_owned(), v.to_string());
                    });
                    c.doubt(name(n));
                }
                Step::Restore => {
                    // Both were sent before either is answered.
                    let (missing, idle) = (c.missing(), own.before.is_none());
                    let doubts: Vec<_> = c.doubts().filter(|_| idle).cloned().collect();
                    for name in doubts {
                        c.resolve(&name, server.now.get(&name).map(String::as_str));
                    }
                    c.restored(&missing);
                    for (name, value) in missing {
                        server.now.insert(name, value);
                    }
                    if idle {
                        settle(&mut c, true, false, &mut books);
                    }
                }
            }
            let doubts: Vec<_> = c.doubts().cloned().collect();
            let known = |values: &Values| -> Values {
                values.iter().filter(|(name, _)| !doubts.contains(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
            };
            prop_assert_eq!(known(c.wanted()), known(&own.now));
            let mut have = c.wanted().clone();
            if let Some(changes) = &c.changes && let Some(values) = &changes.have {
                have = (**values).clone();
            }
            prop_assert_eq!(known(&have), known(&server.now));
            if own.before.is_none() && doubts.is_empty() {
                let mut there = ClientSettings::default();
                server.now.iter().for_each(|(n, v)| there.set(n, v));
                prop_assert_eq!(books.catch_up(&there), None, "the books say otherwise than the server");
            }
        }
    }
}

/// A RESET goes to the server's default, and the client hears of what startup gave, once, if it does not know.
#[test]
fn a_reset_is_reported_as_what_startup_gave() {
    const NAME: &str = "timezone";
    let begin = |server: &mut ServerSettings| {
        server.report_default("TimeZone", "UTC");
        let mut c = ClientSettings::new(values(&[(NAME, "Asia/Tokyo")]));
        server.report("TimeZone", "Asia/Tokyo");
        server.caught_up(&c);
        assert_eq!(server.catch_up(&c), None);
        c.assign_reported(NAME);
        c
    };
    let server_says = |c: &mut ClientSettings, value: &str, server: &mut ServerSettings| {
        let report = c.report(NAME, value, server);
        server.report("TimeZone", value);
        report
    };
    // It has it already.
    let mut server = ServerSettings::default();
    let mut c = begin(&mut server);
    c.assign_default(NAME);
    assert_eq!(server_says(&mut c, "UTC", &mut server), Report::Known);
    settle(&mut c, true, false, &mut server);
    let missing = c.missing();
    assert_eq!(missing, values(&[(NAME, "Asia/Tokyo")]));
    c.restored(&missing);
    assert_eq!(server_says(&mut c, "Asia/Tokyo", &mut server), Report::Known);
    settle(&mut c, true, false, &mut server);
    assert!(c.changes.is_none());
    // It had another; the server's default, which is not reported then, as well.
    for set in ["Europe/Paris", "UTC"] {
        let mut server = ServerSettings::default();
        let mut c = begin(&mut server);
        report(&mut c, set, &mut server);
        settle(&mut c, true, false, &mut server);
        c.assign_default(NAME);
        if set == "UTC" {
            let told = c.settle(true, false, &mut server);
            assert_eq!(told, [("TimeZone", "Asia/Tokyo".to_owned())]);
        } else {
            assert_eq!(server_says(&mut c, "UTC", &mut server), Report::Replaced("Asia/Tokyo".to_owned()));
            settle(&mut c, true, false, &mut server);
        }
        // What it sets then may be where the server is.
        c.assign_reported(NAME);
        let told = c.settle(true, false, &mut server);
        assert_eq!((told.as_slice(), c.get(NAME)), (&[("TimeZone", "UTC".to_owned())][..], Some("UTC")));
    }
    // Undone before the server gets it back.
    let mut server = ServerSettings::default();
    let mut c = begin(&mut server);
    c.assign_default(NAME);
    assert_eq!(server_says(&mut c, "UTC", &mut server), Report::Known);
    settle(&mut c, false, false, &mut server);
    c.rollback();
    assert_eq!(server_says(&mut c, "Asia/Tokyo", &mut server), Report::Known);
    settle(&mut c, true, false, &mut server);
    assert!(c.changes.is_none());
    // DISCARD ALL says no more than that.
    let mut c = begin(&mut server);
    c.reset_all();
    assert_eq!(server_says(&mut c, "UTC", &mut server), Report::Known);
    settle(&mut c, true, false, &mut server);
}

#[test]
fn a_cursor_that_sets_leaves_it_in_doubt_again_and_again() {
    let mut c = ClientSettings::new(values(&[("work_mem", "1MB")]));
    let mut server = ServerSettings::default();
    c.doubt("work_mem");
    c.loosen("work_mem");
    c.loosen("geqo");
    c.assign_default("work_mem");
    assert!(!c.has_doubts());
    assert_eq!(c.missing(), values(&[("work_mem", "1MB")]));
    c.doubt_loose();
    assert_eq!(c.doubts().collect::<Vec<_>>(), ["work_mem"]);
    assert!(c.missing().is_empty());
    c.rollback();
    c.doubt_loose();
    settle(&mut c, true, false, &mut server);
    assert!(c.changes.is_none());
}
