//! What prepared statements are called, by SQL and by the protocol, within one pipeline and from one to the next: random messages are
//! answered through a pool as by a server of the client's own.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "the seed repeats a run")]

mod common;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use common::cluster::Cluster;
use common::raw::{Address, Login, RawClient};
use common::weir::Weir;
use common::wire::{frontend, show};

const NAMES: [&str; 2] = ["p", "q"];

/// One message, or a few that belong together.
#[derive(Debug, Clone)]
enum Step {
    Parse(&'static str, u32),
    Bind(&'static str),
    Describe(&'static str),
    Close(&'static str),
    /// A text, parsed, bound and executed.
    Run(String),
    Flush,
    Sync,
    Query(String),
}

fn text(rng: &mut SmallRng, in_query: bool) -> String {
    let name = NAMES[rng.random_range(0..NAMES.len())];
    let value = rng.random_range(0..1000);
    match rng.random_range(0..20) {
        0..4 => format!("PREPARE {name} AS SELECT {value}"),
        4..9 => format!("DEALLOCATE {name}"),
        9..14 => format!("EXECUTE {name}"),
        14 => "DEALLOCATE ALL".to_owned(),
        15 if in_query => "BEGIN".to_owned(),
        16 if in_query => "COMMIT".to_owned(),
        17 => "DISCARD ALL".to_owned(),
        18 => "SELECT 1/0".to_owned(),
        _ => format!("SELECT {value}"),
    }
}

fn step(rng: &mut SmallRng) -> Step {
    let name = NAMES[rng.random_range(0..NAMES.len())];
    match rng.random_range(0..24) {
        0..4 => Step::Parse(name, rng.random_range(0..1000)),
        4..7 => Step::Bind(name),
        7 => Step::Describe(name),
        8..10 => Step::Close(name),
        10..17 => Step::Run(text(rng, false)),
        17 => Step::Flush,
        18..22 => Step::Sync,
        22 => Step::Query(text(rng, true)),
        _ => Step::Query(format!("{}; {}", text(rng, false), text(rng, false))),
    }
}

/// A pipeline: so many Syncs and Queries end something in it, and the last message does.
fn pipeline(rng: &mut SmallRng) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for _ in 0..rng.random_range(1..10) {
        let step = step(rng);
        // A Query amidst an exchange is nobody's habit.
        if matches!(step, Step::Query(_)) && open {
            continue;
        }
        open = !matches!(step, Step::Query(_) | Step::Sync);
        steps.push(step);
    }
    if open {
        steps.push(Step::Sync);
    }
    steps
}

fn bytes(steps: &[Step]) -> Vec<u8> {
    let mut out = Vec::new();
    let run = |out: &mut Vec<u8>, name: &str| {
        out.extend(frontend::bind("", name, &[], 0));
        out.extend(frontend::target(b'D', b'P', ""));
        out.extend(frontend::execute("", 0));
    };
    for step in steps {
        match step {
            Step::Parse(name, value) => out.extend(frontend::parse(name, &format!("SELECT {value} AS parsed"), &[])),
            Step::Bind(name) => run(&mut out, name),
            Step::Describe(name) => out.extend(frontend::target(b'D', b'S', name)),
            Step::Close(name) => out.extend(frontend::target(b'C', b'S', name)),
            Step::Run(text) => {
                out.extend(frontend::parse("", text, &[]));
                run(&mut out, "");
            }
            Step::Flush => out.extend(common::wire::frame(b'H', &[])),
            Step::Sync => out.extend(common::wire::frame(b'S', &[])),
            Step::Query(text) => out.extend(frontend::query(text)),
        }
    }
    out
}

/// Sends it and reads all answers; what is reported of settings is no matter here.
fn ask(client: &mut RawClient, steps: &[Step]) -> Vec<String> {
    client.send_bytes(&bytes(steps));
    let ready = steps.iter().filter(|step| matches!(step, Step::Sync | Step::Query(_))).count();
    (0..ready)
        .map(|_| {
            let messages: Vec<_> = client.read_until_ready().into_iter().filter(|m| m.tag != b'S').collect();
            show(&messages)
        })
        .collect()
}

struct Pair {
    pooled: RawClient,
    own: RawClient,
}

fn pair(weir: &Weir, cluster: &Cluster) -> Pair {
    let own = Login::new(Address::Tcp(cluster.port()), "postgres", "postgres").connect().unwrap();
    Pair { pooled: weir.login("postgres", "app").connect().unwrap(), own }
}

#[test]
fn names_are_what_postgresql_makes_of_them() {
    let cluster = Cluster::start();
    let primary = format!("primary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let weir = Weir::builder().database(&format!("[databases.app]\n{primary}\npool_size = 2")).start();
    let seed = std::env::var("PGWEIR_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    let rounds = std::env::var("PGWEIR_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    eprintln!("PGWEIR_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    for round in 0..rounds {
        let mut pairs = [pair(&weir, &cluster), pair(&weir, &cluster)];
        let mut past = Vec::new();
        let mut at = 0;
        for _ in 0..20 {
            let steps = pipeline(&mut rng);
            past.push(format!("{at}: {steps:?}"));
            let Pair { pooled, own } = &mut pairs[at];
            let (came, expected) = (ask(pooled, &steps), ask(own, &steps));
            assert_eq!(came, expected, "PGWEIR_SEED={seed} round {round}\n{}", past.join("\n"));
            if expected.last().is_some_and(|answer| answer.ends_with("Z(I)")) {
                at = rng.random_range(0..2);
            }
        }
    }
}

/// What has been found, each as a sequence of its own.
#[test]
fn what_one_pipeline_does_to_names() {
    use Step::{Bind, Close, Parse, Query, Run, Sync};
    let run = |text: &str| Run(text.to_owned());
    let query = |text: &str| Query(text.to_owned());
    let cluster = Cluster::start();
    let primary = format!("primary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let weir = Weir::builder().database(&format!("[databases.app]\n{primary}\npool_size = 1")).start();
    for sequence in [
        vec![Parse("p", 1), Sync, run("DEALLOCATE p"), Bind("p"), Sync, Parse("p", 2), Sync],
        vec![Parse("p", 1), Sync, run("DEALLOCATE p"), Parse("p", 2), Bind("p"), Sync, query("EXECUTE p")],
        vec![Parse("p", 1), Sync, run("DEALLOCATE ALL"), run("PREPARE p AS SELECT 2"), Sync, query("EXECUTE p")],
        vec![Parse("p", 1), Sync, run("DISCARD ALL"), Bind("p"), Sync, query("EXECUTE p")],
        vec![Parse("p", 1), Sync, run("DISCARD ALL"), Sync, Parse("p", 2), Bind("p"), Sync],
        vec![run("PREPARE p AS SELECT 1"), Bind("p"), Parse("p", 2), Sync, query("EXECUTE p")],
        vec![query("PREPARE p AS SELECT 1"), Close("p"), Bind("p"), Sync, Parse("p", 2), Sync, query("EXECUTE p")],
        vec![Parse("p", 1), Close("p"), Bind("p"), Sync, Parse("p", 2), Sync],
        // What comes behind an error does not happen.
        vec![Parse("p", 1), Sync, run("SELECT 1/0"), run("DEALLOCATE p"), Parse("p", 2), Sync, Bind("p"), Sync],
        vec![Parse("p", 1), Sync, run("DEALLOCATE p"), run("SELECT 1/0"), Parse("p", 2), Sync, Bind("p"), Sync],
        vec![Parse("p", 1), Sync, run("DEALLOCATE q"), Parse("p", 2), Sync, Bind("p"), Sync],
        vec![query("BEGIN"), query("SELECT 1/0"), run("DEALLOCATE p"), Parse("p", 2), Sync, query("ROLLBACK")],
        // A name that was lent to SQL is PREPARE's then.
        vec![Parse("p", 1), Sync, query("DEALLOCATE p; PREPARE p AS SELECT 2"), query("EXECUTE p"), Bind("p"), Sync],
        vec![Parse("p", 1), Sync, run("DEALLOCATE p"), run("PREPARE p AS SELECT 2"), Sync, query("EXECUTE p")],
        vec![Parse("p", 1), Sync, run("EXECUTE p"), Close("p"), run("PREPARE p AS SELECT 2"), Bind("p"), Sync],
        vec![Parse("p", 1), Sync, run("EXECUTE p"), Close("p"), run("SELECT 1/0"), run("PREPARE p AS SELECT 2"), Sync],
        vec![
            query("PREPARE p AS SELECT 1"),
            Parse("p", 2),
            Close("p"),
            run("PREPARE p AS SELECT 3"),
            Sync,
            query("EXECUTE p"),
        ],
        vec![
            query("PREPARE q AS SELECT 1"),
            Parse("p", 1),
            Sync,
            query("PREPARE p AS SELECT 2; DISCARD ALL"),
            query("EXECUTE p"),
        ],
        // PREPARE was sent and has not happened.
        vec![query("SELECT 1/0; PREPARE p AS SELECT 1"), Parse("p", 2), run("DEALLOCATE p"), Sync, query("EXECUTE p")],
    ] {
        let Pair { mut pooled, mut own } = pair(&weir, &cluster);
        assert_eq!(ask(&mut pooled, &sequence), ask(&mut own, &sequence), "{sequence:?}");
    }
    let gone = || weir.admin_table("SHOW PINS").is_empty().then_some(());
    common::eventually("no pins", std::time::Duration::from_secs(30), gone);
}
