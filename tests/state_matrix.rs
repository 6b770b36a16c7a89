//! Every kind of session state, in every place of a transaction, by both protocols, left at every step: two clients on a pool of one.
//!
//! One client makes the state as the table says. Each of its answers is what the same steps get on a connection of PostgreSQL's own, so
//! that nothing is lost. Between any two of its steps another client uses the server, or waits for it, and is answered what a session
//! is answered that has done nothing, so that nothing leaks. Where in the end the first has nothing any more, the other gets the server
//! while it is still there.
//!
//! A usual run leaves each cell at one of its steps, another from cell to cell; with `PGWEIR_MATRIX=all` (`make soak`) at every one.
//! `PGWEIR_MATRIX_KIND` names one kind to try alone.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "a matrix tells how large it was")]

mod common;
#[path = "state_matrix/frames.rs"]
mod frames;
#[path = "state_matrix/kinds.rs"]
mod kinds;
#[path = "state_matrix/party.rs"]
mod party;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::cluster::Cluster;
use common::raw::{READ_TIMEOUT, RawClient};
use common::weir::Weir;
use frames::{FRAMES, Frame, Script, script};
use kinds::{KINDS, Kind, Step, WORLD};
use party::{Party, Protocol};
use pgweir::clock;

/// Pools of one, each used by one thread.
const THREADS: usize = 3;

/// How the client of a cell ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// With Terminate, when all is done.
    InOrder,
    /// Its connection breaks behind so many steps.
    After(usize),
}

/// One of the worlds that are alike: a database behind pgweir, and one that is used directly.
struct World<'a> {
    weir: &'a Weir,
    cluster: &'a Cluster,
    behind: String,
    direct: String,
    console: RawClient,
    /// The session that has done nothing, which lives on from cell to cell.
    other: Party,
    runs: usize,
    /// Every step is left at.
    all: bool,
    /// What a session is answered that has nothing: the looks of the kind at hand.
    looks: Vec<Step>,
    nothing: Vec<String>,
    /// Or that nobody knows.
    may_be_unknown: bool,
}

impl<'a> World<'a> {
    fn new(weir: &'a Weir, cluster: &'a Cluster, number: usize) -> Self {
        let (behind, direct) = (format!("behind{number}"), format!("direct{number}"));
        let other = Party::new(weir.client(&behind), Protocol::Simple);
        let console = weir.console().unwrap();
        let all = std::env::var("PGWEIR_MATRIX").is_ok_and(|which| which == "all");
        Self {
            weir,
            cluster,
            behind,
            direct,
            console,
            other,
            runs: 0,
            all,
            looks: Vec::new(),
            nothing: Vec::new(),
            may_be_unknown: false,
        }
    }

    fn directly(&self, protocol: Protocol) -> Party {
        Party::new(RawClient::connect(self.cluster.port(), "postgres", &self.direct), protocol)
    }

    /// All cells of a kind by one protocol; how many there were, and what was wrong in them.
    fn try_kind(&mut self, kind: &Kind, protocol: Protocol, wrong: &mut Vec<String>) -> Result<usize, String> {
        let looks = if kind.others.is_empty() { kind.look } else { kind.others };
        self.looks = looks.iter().map(|text| Step::of(text, 0)).collect();
        self.may_be_unknown = kind.may_be_unknown;
        let mut fresh = self.directly(protocol);
        self.nothing = self.looks.iter().map(|look| fresh.take(look)).collect::<Result<_, _>>()?;
        self.meet_other(protocol);
        let mut cells = 0;
        for (n, frame) in FRAMES.into_iter().enumerate() {
            let expected = {
                self.runs += 1;
                let script = script(kind, frame, self.runs);
                let mut direct = self.directly(protocol);
                script.steps.iter().map(|step| direct.take(step)).collect::<Result<Vec<_>, _>>()?
            };
            let Script { steps, made, .. } = script(kind, frame, 0);
            let at = made
                + (n + usize::from(protocol == Protocol::Extended) * 3 + kind.name.len()) % (steps.len() - made).max(1);
            let leaves = if self.all { made..steps.len() } else { at..(at + 1).min(steps.len()) };
            for leave in std::iter::once(Leave::InOrder).chain(leaves.map(Leave::After)) {
                cells += 1;
                if let Err(error) = self.try_cell(kind, protocol, frame, leave, &expected) {
                    wrong.push(format!("{}, {protocol:?}, {frame:?}, {leave:?}: {error}", kind.name));
                    self.meet_other(protocol);
                    if leave == Leave::InOrder {
                        break;
                    }
                }
            }
            // In a usual run by one protocol each.
            if !self.all && (n + usize::from(protocol == Protocol::Extended)) % 2 > 0 {
                continue;
            }
            if let Err(error) = self.try_pipeline(kind, protocol, frame, &expected) {
                wrong.push(format!("{}, {protocol:?}, {frame:?}, in one go: {error}", kind.name));
                self.meet_other(protocol);
            }
            cells += 1;
        }
        Ok(cells)
    }

    fn meet_other(&mut self, protocol: Protocol) {
        self.other = Party::new(self.weir.client(&self.behind), protocol);
    }

    fn try_cell(
        &mut self,
        kind: &Kind,
        protocol: Protocol,
        frame: Frame,
        leave: Leave,
        expected: &[String],
    ) -> Result<(), String> {
        self.runs += 1;
        let Script { steps, .. } = script(kind, frame, self.runs);
        let mut maker = Party::new(self.weir.client(&self.behind), protocol);
        let mut last = "";
        for (n, (step, expected)) in steps.iter().zip(expected).enumerate() {
            if leave == Leave::After(n) {
                break;
            }
            let unknown = kind.may_be_unknown && last.ends_with("Z(I)");
            compare(step, &maker.take(step)?, expected, unknown)?;
            last = expected;
            self.ask_other(last.ends_with("Z(I)"))?;
        }
        if leave == Leave::InOrder {
            let looks = expected.len() - kind.look.len();
            let has_nothing = kind.others.is_empty() && expected[looks..] == *self.nothing;
            if has_nothing && !kind.stays {
                self.answer_other()
                    .map_err(|error| format!("its client has nothing, but keeps the server: {error}"))?;
            }
            maker.client.terminate();
        }
        drop(maker);
        self.answer_other()?;
        self.ask_other(false)?;
        self.answer_other()
    }

    /// The same steps without waiting for any answer.
    fn try_pipeline(
        &mut self,
        kind: &Kind,
        protocol: Protocol,
        frame: Frame,
        expected: &[String],
    ) -> Result<(), String> {
        self.runs += 1;
        let Script { steps, .. } = script(kind, frame, self.runs);
        let mut maker = Party::new(self.weir.client(&self.behind), protocol);
        steps.iter().for_each(|step| maker.send(step));
        self.ask_other(false)?;
        let mut idle = true;
        // Notifications may overtake the answers of what is sent behind their commit.
        let (mut came, mut due) = (Vec::new(), Vec::new());
        for ((step, answer), expected) in steps.iter().zip(maker.wait()?).zip(expected) {
            let (answer, expected) = (apart(&answer, &mut came), apart(expected, &mut due));
            compare(step, &answer, &expected, kind.may_be_unknown && idle)?;
            idle = expected.ends_with("Z(I)");
        }
        if came != due {
            return Err(format!("it hears {came:?} for {due:?}"));
        }
        drop(maker);
        self.answer_other()
    }

    /// The other looks; `settle`: it is waited for until it has been answered, or stands in the queue.
    fn ask_other(&mut self, settle: bool) -> Result<(), String> {
        if !self.other.is_waiting() {
            self.looks.iter().for_each(|look| self.other.send(look));
        }
        let until = clock::now() + READ_TIMEOUT;
        while settle && clock::now() < until {
            if self.other.read(Duration::from_millis(2))? {
                return self.answer_other();
            }
            let pools = self.console.rows("SHOW POOLS").map_err(|error| error.to_string())?;
            if pools.iter().any(|pool| pool[0] == self.behind && pool[3] != "0") {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The other is answered what one is answered who has nothing.
    fn answer_other(&mut self) -> Result<(), String> {
        if !self.other.is_waiting() {
            return Ok(());
        }
        let answers = self.other.wait().map_err(|error| format!("the other: {error}"))?;
        let known = |(answer, nothing): (&String, &String)| {
            answer == nothing || (self.may_be_unknown && answer.contains("E(55000)"))
        };
        if answers.len() == self.nothing.len() && answers.iter().zip(&self.nothing).all(known) {
            return Ok(());
        }
        Err(format!("the other sees {answers:?} for {:?}", self.nothing))
    }
}

/// An answer without the notifications in it.
fn apart(answer: &str, notifications: &mut Vec<String>) -> String {
    let (told, rest): (Vec<&str>, Vec<&str>) = answer.split(' ').partition(|message| message.starts_with("A("));
    notifications.extend(told.into_iter().map(str::to_owned));
    rest.join(" ")
}

/// `may_be_unknown`: the answer may be that there is none to give.
fn compare(step: &Step, answer: &str, expected: &str, may_be_unknown: bool) -> Result<(), String> {
    if answer == expected || (may_be_unknown && answer.contains("E(55000)")) {
        return Ok(());
    }
    Err(format!("{step:?} is answered {answer} for {expected}"))
}

fn prepare(cluster: &Cluster) {
    cluster.sql("CREATE ROLE worker; CREATE ROLE member; GRANT member TO worker");
    // Copies of databases take their time on a busy machine.
    let mut maker = cluster.client("postgres");
    maker.set_read_timeout(Duration::from_secs(120));
    maker.rows("CREATE DATABASE world").unwrap();
    cluster.sql_in("world", WORLD);
    for number in 0..THREADS {
        for name in ["behind", "direct"] {
            maker.rows(&format!("CREATE DATABASE {name}{number} TEMPLATE world")).unwrap();
        }
    }
}

#[test]
fn every_kind_of_state_in_every_place() {
    let only = std::env::var("PGWEIR_MATRIX_KIND").unwrap_or_default();
    let began = clock::now();
    let cluster = Cluster::start();
    prepare(&cluster);
    let databases = (0..THREADS).map(|number| {
        let primary = format!("postgres://127.0.0.1:{}/behind{number}", cluster.port());
        format!("[databases.behind{number}]\nprimary = \"{primary}\"\npool_size = 1\n")
    });
    let weir = Weir::builder()
        .general(
            "log_connections = false\nlog_disconnections = false\nlog_pooler_errors = false\nquery_wait_notify = 0",
        )
        .database(&databases.collect::<Vec<_>>().join("\n"))
        .start();
    // Somebody holds the lock that is tried in vain.
    let mut holders: Vec<_> = (0..THREADS)
        .flat_map(|number| ["behind", "direct"].map(|name| cluster.client(&format!("{name}{number}"))))
        .collect();
    holders.iter_mut().for_each(|holder| drop(holder.value("SELECT pg_advisory_lock(0)")));
    let todo: Vec<_> = KINDS
        .iter()
        .filter(|kind| only.is_empty() || kind.name == only)
        .flat_map(|kind| [(kind, Protocol::Simple), (kind, Protocol::Extended)])
        .collect();
    let (next, cells, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let (weir, cluster, todo, next, cells, wrong) = (&weir, &cluster, &todo, &next, &cells, &wrong);
            scope.spawn(move || {
                let mut world = World::new(weir, cluster, number);
                while let Some((kind, protocol)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut found = Vec::new();
                    match world.try_kind(kind, *protocol, &mut found) {
                        Ok(count) => drop(cells.fetch_add(count, Ordering::Relaxed)),
                        Err(error) => found.push(format!("{}, {protocol:?}, directly: {error}", kind.name)),
                    }
                    found.iter().for_each(|found| eprintln!("{found}"));
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    let (cells, wrong) = (cells.into_inner(), wrong.into_inner().unwrap());
    eprintln!("{cells} cells in {:?}", clock::now().duration_since(began));
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(!only.is_empty() || cells > 3000, "only {cells} cells");
}
