use std::time::Duration;

use super::*;
use crate::health::view::tests::server;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

const READ: Request = Request {
    access: Access::Read,
    hint: RouteHint::Auto,
    begin_read_only: false,
    balance: ReadBalance::WeightedRandom,
    fallback: Fallback::Primary,
    fresh: Freshness { last_write: None, token: None, since: None },
    turn: 0,
};
const WRITE: Request = Request { access: Access::Write, ..READ };

fn shard(replicas: u16) -> Vec<ServerView> {
    let mut servers = vec![server(0, Role::Primary)];
    servers.extend((1..=replicas).map(|i| server(i, Role::Replica)));
    servers
}

fn go(request: &Request, servers: &[ServerView], excluded: &[u16]) -> Result<(u16, Role, Why)> {
    let excluded: Vec<_> = excluded.iter().map(|i| ServerIndex(*i)).collect();
    decide(request, servers, &excluded, &mut StdRng::seed_from_u64(3)).map(|r| (r.server.0, r.role, r.why))
}

fn to_primary(why: Why) -> Result<(u16, Role, Why)> {
    Ok((0, Role::Primary, why))
}

fn to_replica(index: u16, why: Why) -> Result<(u16, Role, Why)> {
    Ok((index, Role::Replica, why))
}

#[test]
fn reasons_are_listed_in_the_order_of_their_numbers() {
    for (at, why) in Why::ALL.into_iter().enumerate() {
        assert_eq!(why as usize, at);
    }
}

#[test]
fn writes_to_the_primary_and_reads_to_a_replica() {
    let s = shard(1);
    assert_eq!(go(&WRITE, &s, &[]), to_primary(Why::Write));
    assert_eq!(go(&READ, &s, &[]), to_replica(1, Why::Read));
    assert_eq!(go(&Request { access: Access::Neutral, ..READ }, &s, &[]), to_replica(1, Why::Read));
    assert_eq!(go(&READ, &shard(0), &[]), to_primary(Why::NoReplica));
}

/// The shares of three replicas; the second has twice the weight, the third answers slowly.
fn balanced(balance: ReadBalance, in_flight: [u32; 3]) -> [f64; 3] {
    let mut servers = shard(3);
    for (server, busy) in servers[1..].iter_mut().zip(in_flight) {
        server.in_flight = busy;
        server.latency = Some(Duration::from_millis(1));
    }
    servers[2].weight = 2.0;
    servers[3].latency = Some(Duration::from_millis(100));
    let mut rng = StdRng::seed_from_u64(5);
    let mut shares = [0.0; 3];
    for _ in 0..3000 {
        let route = decide(&Request { balance, ..READ }, &servers, &[], &mut rng).unwrap();
        shares[usize::from(route.server.0) - 1] += 1.0 / 3000.0;
    }
    shares
}

#[test]
fn balances_choose_by_what_they_are_called() {
    let near = |share: f64, expected: f64| (share - expected).abs() < 0.05;
    let [a, b, c] = balanced(ReadBalance::WeightedRandom, [9, 0, 0]);
    assert!(near(a, 0.25) && near(b, 0.5) && near(c, 0.25), "{a} {b} {c}");
    // The idle one of the greatest weight; when it is busy for its weight, another.
    assert!(near(balanced(ReadBalance::LeastInflight, [0, 0, 0])[1], 1.0));
    assert!(near(balanced(ReadBalance::LeastInflight, [0, 4, 3])[0], 1.0));
    // The slow one loses every comparison; between the others it is what is under way.
    let [a, b, c] = balanced(ReadBalance::PeakEwma, [0, 5, 0]);
    assert!(a > 0.5 && b > 0.2 && c < 0.01, "{a} {b} {c}");
    let [a, b, c] = balanced(ReadBalance::PeakEwma, [500, 5, 0]);
    assert!(b > 0.7 && c > 0.1 && a < 0.01, "{a} {b} {c}");
}

#[test]
fn hints_and_read_only_transactions() {
    let s = shard(1);
    assert_eq!(go(&Request { hint: RouteHint::Primary, ..READ }, &s, &[]), to_primary(Why::HintPrimary));
    assert_eq!(go(&Request { hint: RouteHint::Replica, ..WRITE }, &s, &[]), to_replica(1, Why::HintReplica));
    let read_only = Request { begin_read_only: true, ..READ };
    assert_eq!(go(&read_only, &s, &[]), to_replica(1, Why::ReadOnlyTransaction));
    assert_eq!(go(&Request { access: Access::Write, ..read_only }, &s, &[]), to_primary(Why::Write));
    assert_eq!(go(&Request { access: Access::Local, ..READ }, &s, &[]), to_primary(Why::PrimarysOwn));
    assert_eq!(go(&Request { access: Access::Local, ..read_only }, &s, &[]), to_primary(Why::PrimarysOwn));
}

#[test]
fn breakers_do_not_keep_writes_from_the_primary() {
    let mut s = shard(1);
    s[0].admission = Admission::Refused;
    s[0].suspect = true;
    assert_eq!(go(&WRITE, &s, &[]), to_primary(Why::Write));
    let refused = go(&WRITE, &s, &[0]).unwrap_err();
    assert_eq!(refused.sqlstate, SqlState::CONNECTION_FAILURE);
}

#[test]
fn unhealthy_replicas_leave_the_primary_with_the_reason() {
    let spoil = |f: fn(&mut ServerView)| {
        let mut s = shard(2);
        f(&mut s[1]);
        f(&mut s[2]);
        go(&READ, &s, &[])
    };
    assert_eq!(spoil(|s| s.admission = Admission::Refused), to_primary(Why::NoHealthyReplica));
    assert_eq!(spoil(|s| s.suspect = true), to_primary(Why::NoHealthyReplica));
    assert_eq!(spoil(|s| s.lag_ratio = 1.01), to_primary(Why::ReplicasLag));
    assert_eq!(spoil(|s| s.weight = 0.0), to_primary(Why::NoHealthyReplica));
    assert_eq!(go(&READ, &shard(2), &[1, 2]), to_primary(Why::NoHealthyReplica));
    let mut s = shard(2);
    s[1].suspect = true;
    s[2].admission = Admission::Trial;
    assert_eq!(go(&READ, &s, &[]), to_replica(2, Why::Read), "a trial is wanted");
}

#[test]
fn own_writes_decide_over_health() {
    let write = crate::clock::now();
    let wrote = Request { fresh: Freshness { last_write: Some(write), ..READ.fresh }, ..READ };
    let mut s = shard(2);
    assert_eq!(go(&wrote, &s, &[]), to_primary(Why::OwnWritesNotReplayed));
    s[1].covered_until = Some(write);
    assert_eq!(go(&wrote, &s, &[]), to_primary(Why::OwnWritesNotReplayed), "covered before, not at, that time");
    s[2].covered_until = Some(write + Duration::from_nanos(1));
    assert_eq!(go(&wrote, &s, &[]), to_replica(2, Why::Read));
    // The hint asks for a replica; the promise still holds.
    let hinted = Request { hint: RouteHint::Replica, ..wrote };
    assert_eq!(go(&hinted, &shard(1), &[]), to_primary(Why::OwnWritesNotReplayed));
    // No primary: a replica without the session's writes is still no choice.
    s[2].covered_until = None;
    assert!(go(&wrote, &s, &[0]).is_err());
}

#[test]
fn without_a_primary_reads_go_on() {
    let mut s = shard(3);
    s[0].suspect = true;
    s[1].admission = Admission::Refused;
    s[2].lag_ratio = 7.0;
    s[3].suspect = true;
    assert_eq!(go(&READ, &s, &[]), to_replica(2, Why::LastResort), "alive, if late");
    assert!(matches!(go(&READ, &s, &[2]), Ok((1 | 3, Role::Replica, Why::LastResort))));
    assert_eq!(go(&READ, &s, &[1, 2, 3]), to_primary(Why::LastResort));
    assert!(go(&READ, &s, &[0, 1, 2, 3]).is_err());
    let mut s = shard(1);
    s[1].weight = 0.0;
    assert_eq!(go(&READ, &s, &[0]), to_replica(1, Why::LastResort), "weight 0 is the last resort");
}

#[test]
fn a_failover_turns_the_roles_around() {
    let mut s = shard(2);
    s[0].discovered = Some(Role::Replica);
    s[1].discovered = Some(Role::Primary);
    assert_eq!(go(&WRITE, &s, &[]), Ok((1, Role::Primary, Why::Write)));
    for seed in 0..50 {
        let route = decide(&READ, &s, &[], &mut StdRng::seed_from_u64(seed)).unwrap();
        assert!(route.server != ServerIndex(1) && route.role == Role::Replica);
    }
}

/// The shares of `picks` reads.
fn shares(servers: &[ServerView], picks: u32) -> Vec<f64> {
    let mut rng = StdRng::seed_from_u64(11);
    let mut counts = vec![0_u32; servers.len()];
    for _ in 0..picks {
        counts[usize::from(decide(&READ, servers, &[], &mut rng).unwrap().server.0)] += 1;
    }
    counts.iter().map(|c| f64::from(*c) / f64::from(picks)).collect()
}

#[test]
fn ten_thousand_reads_split_by_weight() {
    for weights in [[1.0, 1.0, 1.0], [5.0, 3.0, 2.0], [8.0, 1.0, 1.0]] {
        let mut s = shard(3);
        for (server, weight) in s[1..].iter_mut().zip(weights) {
            server.weight = weight;
            server.latency = Some(Duration::from_micros(700));
        }
        let total: f64 = weights.iter().sum();
        for (share, weight) in shares(&s, 10_000)[1..].iter().zip(weights) {
            assert!((share - weight / total).abs() < 0.02, "{share} for {weight} of {total}");
        }
    }
}

#[test]
fn turns_are_taken_whatever_the_weights() {
    let mut s = shard(3);
    s[1].weight = 9.0;
    s[3].weight = 0.0;
    let turn = |turn| go(&Request { balance: ReadBalance::RoundRobin, turn, ..READ }, &s, &[]).unwrap().0;
    assert_eq!([turn(0), turn(1), turn(2), turn(u64::MAX)], [1, 2, 1, 2]);
}

#[test]
fn replicas_of_the_own_zone_come_first() {
    let mut s = shard(3);
    s[1].near = false;
    s[1].weight = 100.0;
    let of_near = |s: &[ServerView]| shares(s, 2000);
    let [_, far, a, b] = of_near(&s)[..] else { panic!() };
    assert!(far == 0.0 && (a - 0.5).abs() < 0.05 && (b - 0.5).abs() < 0.05, "{far} {a} {b}");
    s[2].suspect = true;
    s[3].lag_ratio = 2.0;
    assert_eq!(go(&READ, &s, &[]), to_replica(1, Why::Read), "rather far than lagging");
}

#[test]
fn what_others_wrote_can_be_asked_for() {
    let now = crate::clock::now();
    let mut s = shard(2);
    let request = |fresh| Request { fresh, ..READ };
    let strong = request(Freshness { since: Some(now), ..READ.fresh });
    assert_eq!(go(&strong, &s, &[]), to_primary(Why::TooStale));
    s[2].covered_until = Some(now + Duration::from_nanos(1));
    assert_eq!(go(&strong, &s, &[]), to_replica(2, Why::Read));
    let told = request(Freshness { token: Some("2-0/10".parse().unwrap()), ..READ.fresh });
    s[1].lsn = Some(crate::health::lsn::Lsn(0x10));
    s[1].timeline = Some(1);
    assert_eq!(go(&told, &s, &[]), to_primary(Why::OwnWritesNotReplayed), "in a history that may be another");
    s[1].timeline = Some(2);
    assert_eq!(go(&told, &s, &[]), to_replica(1, Why::Read));
}

#[test]
fn reads_can_be_kept_from_the_primary() {
    let never = Request { fallback: Fallback::Error, ..READ };
    let mut s = shard(1);
    assert_eq!(go(&never, &s, &[]), to_replica(1, Why::Read));
    let code = |s: &[ServerView], request: &Request| go(request, s, &[]).unwrap_err().sqlstate;
    assert_eq!(code(&shard(0), &never), SqlState::CANNOT_CONNECT_NOW);
    s[1].lag_ratio = 2.0;
    assert_eq!(code(&s, &never), SqlState::CANNOT_CONNECT_NOW);
    s[1].lag_ratio = 0.0;
    // The session's own writes are not there yet: it waits for nobody.
    let wrote = Request { fresh: Freshness { last_write: Some(crate::clock::now()), ..READ.fresh }, ..never };
    assert_eq!(go(&wrote, &s, &[]), to_primary(Why::OwnWritesNotReplayed));
    assert_eq!(go(&Request { access: Access::Write, ..never }, &s, &[]), to_primary(Why::Write));
}

#[test]
fn slow_replicas_get_less() {
    let mut s = shard(2);
    s[1].latency = Some(Duration::from_secs(1));
    s[2].latency = Some(Duration::ZERO);
    let shares = shares(&s, 10_000);
    assert!((shares[1] - 1.0 / 3.0).abs() < 0.02, "{shares:?}");
}

prop_compose! {
    fn any_server(index: u16, configured: Role)(
        discovered in prop_oneof![Just(None), Just(Some(Role::Primary)), Just(Some(Role::Replica))],
        timeline in proptest::option::of(1..4_u32),
        weight in prop_oneof![Just(0.0), Just(1.0), 0.0..10.0_f64],
        latency in proptest::option::of((0..5000_u64).prop_map(Duration::from_millis)),
        admission in prop_oneof![Just(Admission::Free), Just(Admission::Trial), Just(Admission::Refused)],
        suspect in any::<bool>(),
        lag_ratio in prop_oneof![Just(0.0), 0.0..2.0_f64, Just(f64::INFINITY)],
        covered in proptest::option::of(0..100_u64),
    ) -> (ServerView, Option<u64>) {
        let view = ServerView {
            discovered, timeline, weight, latency, admission, suspect, lag_ratio, ..server(index, configured)
        };
        (view, covered)
    }
}

fn any_shard() -> impl Strategy<Value = Vec<(ServerView, Option<u64>)>> {
    (0..5_u16).prop_flat_map(|n| {
        let roles = (0..=n).map(|i| any_server(i, if i == 0 { Role::Primary } else { Role::Replica }));
        roles.collect::<Vec<_>>()
    })
}

fn any_request() -> impl Strategy<Value = (Request, Option<u64>)> {
    let access = prop_oneof![Just(Access::Neutral), Just(Access::Read), Just(Access::Local), Just(Access::Write)];
    let hint = prop_oneof![4 => Just(RouteHint::Auto), 1 => Just(RouteHint::Primary), 1 => Just(RouteHint::Replica)];
    let balance = prop_oneof![
        Just(ReadBalance::WeightedRandom),
        Just(ReadBalance::LeastInflight),
        Just(ReadBalance::PeakEwma),
        Just(ReadBalance::RoundRobin)
    ];
    (access, hint, any::<bool>(), any::<u64>(), proptest::option::of(0..100_u64), balance).prop_map(
        |(access, hint, begin_read_only, turn, wrote, balance)| {
            (Request { access, hint, begin_read_only, turn, balance, ..READ }, wrote)
        },
    )
}

proptest! {
    /// For any state of the servers: writes go to the acting primary alone; nothing excluded is chosen; a replica always has
    /// the session's writes; a good replica is taken before anything else; and there is an answer while a server is left.
    #[test]
    fn rules_hold(
        servers in any_shard(),
        (request, wrote) in any_request(),
        excluded in proptest::collection::vec((0..5_u16).prop_map(ServerIndex), 0..3),
        seed in any::<u64>(),
    ) {
        let base = crate::clock::now();
        let at = |ms| base + Duration::from_millis(ms);
        let request = Request { fresh: Freshness { last_write: wrote.map(at), ..READ.fresh }, ..request };
        let servers: Vec<_> = servers
            .into_iter()
            .map(|(view, covered)| ServerView { covered_until: covered.map(at), ..view })
            .collect();
        let acting = acting_primary(&servers).unwrap();
        let has_writes = |s: &ServerView| match request.fresh.last_write {
            Some(write) => s.covered_until.is_some_and(|until| until > write),
            None => true,
        };
        let left = |i: usize| !excluded.contains(&ServerIndex(i as u16));
        let replica = |i: usize| i != acting && i != 0 && servers[i].discovered != Some(Role::Primary);
        let good = |i: usize| {
            let s = &servers[i];
            replica(i) && left(i) && has_writes(s) && !s.suspect && s.lag_ratio <= 1.0 && s.weight > 0.0
                && s.admission != Admission::Refused
        };
        let is_write = request.hint == RouteHint::Primary
            || (request.hint == RouteHint::Auto && request.access >= Access::Local);

        match decide(&request, &servers, &excluded, &mut StdRng::seed_from_u64(seed)) {
            Ok(route) => {
                let i = usize::from(route.server.0);
                prop_assert!(left(i));
                prop_assert_eq!(route.role == Role::Primary, i == acting);
                if is_write {
                    prop_assert_eq!(i, acting);
                    // Without a failover seen by the probes that is the configured one.
                    if !servers[1..].iter().any(|s| s.discovered == Some(Role::Primary)) {
                        prop_assert_eq!(i, 0);
                    }
                } else {
                    if route.role == Role::Replica {
                        prop_assert!(has_writes(&servers[i]));
                        prop_assert!(servers[i].discovered != Some(Role::Primary));
                    }
                    let any_good = (0..servers.len()).any(good);
                    // A configured primary that was demoted may serve as well.
                    let demoted = i == 0 && acting != 0;
                    prop_assert!(!any_good || good(i) || demoted, "{:?}", route);
                }
            }
            Err(error) => {
                prop_assert_eq!(error.sqlstate, SqlState::CONNECTION_FAILURE);
                prop_assert!(!left(acting));
                if !is_write {
                    prop_assert!(!(0..servers.len()).any(|i| replica(i) && left(i) && has_writes(&servers[i])));
                }
            }
        }
    }
}
