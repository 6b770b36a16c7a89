//! A client of the churn: it does what clients do, checks every answer that comes, and may vanish at any byte.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use pgweir::clock;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Tally;
use crate::common::wire::{self, Message, PROTOCOL_3_0, frontend, show};

/// Longer than anything here may take, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a client's life ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It wanted to: its bytes were spent.
    Spent,
    /// It was told something that is not true, or nothing.
    Wronged(String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Wronged(format!("the connection broke: {error}"))
    }
}

type Outcome<T = ()> = Result<T, End>;

/// How a client leaves whose bytes are spent.
#[derive(Debug, Clone, Copy)]
enum Leave {
    Close,
    Reset,
    HalfClose,
    SilenceThenClose,
}

/// A connection that carries only so many bytes.
struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    budget: usize,
    pid: u32,
    key: Vec<u8>,
}

impl Wire {
    async fn open(port: u16, budget: usize) -> Outcome<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), budget, pid: 0, key: Vec::new() })
    }

    async fn send(&mut self, bytes: &[u8]) -> Outcome {
        let whole = bytes.len() <= self.budget;
        let part = &bytes[..bytes.len().min(self.budget)];
        self.budget -= part.len();
        self.stream.write_all(part).await?;
        if whole { Ok(()) } else { Err(End::Spent) }
    }

    async fn message(&mut self) -> Outcome<Message> {
        match tokio::time::timeout(PATIENCE, self.whole_message()).await {
            Ok(message) => message,
            Err(_) => Err(End::Wronged(format!("nothing came for {PATIENCE:?}"))),
        }
    }

    async fn whole_message(&mut self) -> Outcome<Message> {
        loop {
            if let Some(head) = self.buffer.get(..5) {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize + 1;
                if self.buffer.len() >= length {
                    let message = Message::new(self.buffer[0], &self.buffer[5..length]);
                    self.buffer.drain(..length);
                    return Ok(message);
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(End::Wronged("the connection was closed".into()));
            }
        }
    }

    /// All messages up to and with the first of this type.
    async fn until(&mut self, tag: u8) -> Outcome<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            let message = self.message().await?;
            // What a client listens for may come at any time, and that it waits for a server.
            if !matches!(message.tag, b'A' | b'N') {
                messages.push(message);
            }
            if messages.last().is_some_and(|m| m.tag == tag) {
                return Ok(messages);
            }
            if tag != b'Z' && messages.last().is_some_and(|m| m.tag == b'Z') {
                return Err(End::Wronged(format!("no {} came: {}", char::from(tag), show(&messages))));
            }
        }
    }

    async fn log_in(&mut self, user: &str) -> Outcome {
        let params = [("user", user), ("database", "app"), ("application_name", "churn")];
        self.send(&frontend::startup(PROTOCOL_3_0, &params.map(|(n, v)| (n.to_owned(), v.to_owned())))).await?;
        let mut scram = ScramSha256::new(super::PASSWORD.as_bytes(), ChannelBinding::unsupported());
        loop {
            let message = self.message().await?;
            match (message.tag, message.body.get(..4), message.body.get(4..)) {
                (b'R', Some([0, 0, 0, 10]), _) => {
                    let first = wire::body(|to| {
                        wire::put_text(to, SCRAM_SHA_256);
                        wire::put_value(to, Some(scram.message()));
                    });
                    self.send(&wire::frame(b'p', &first)).await?;
                }
                (b'R', Some([0, 0, 0, 11]), Some(data)) => {
                    scram.update(data)?;
                    let answer = wire::frame(b'p', scram.message());
                    self.send(&answer).await?;
                }
                (b'R', Some([0, 0, 0, 12]), Some(data)) => scram.finish(data)?,
                (b'K', Some(pid), Some(key)) => {
                    self.pid = u32::from_be_bytes([pid[0], pid[1], pid[2], pid[3]]);
                    self.key = key.to_vec();
                }
                (b'Z', ..) => return Ok(()),
                (b'R' | b'S', ..) => {}
                _ => return Err(End::Wronged(format!("at the login: {message}"))),
            }
        }
    }
}

/// What happens in one life.
pub(crate) struct Client<'a> {
    wire: Wire,
    rng: SmallRng,
    tally: &'a Tally,
    port: u16,
    /// The names it has prepared, each `s` and the number in its text.
    prepared: BTreeSet<u32>,
    /// The value of its own setting.
    tenant: String,
    /// Nobody else says this.
    id: u64,
    /// It leaves nothing undone.
    steady: bool,
}

impl<'a> Client<'a> {
    /// One life: connects, works until `until` or until its bytes are spent, and leaves. `steady` clients spend none.
    pub(crate) async fn live(
        port: u16,
        seed: u64,
        tally: &'a Tally,
        steady: bool,
        until: std::time::Instant,
    ) -> Result<(), String> {
        let mut rng = SmallRng::seed_from_u64(seed);
        // Most leave within their first kilobytes, some within the login, few go in good order.
        let budget = match rng.random_range(0..10) {
            _ if steady => usize::MAX,
            0 => usize::MAX,
            _ => 2_usize.pow(rng.random_range(0..13)) + rng.random_range(0..200),
        };
        let leave = [Leave::Close, Leave::Reset, Leave::HalfClose, Leave::SilenceThenClose][rng.random_range(0..4)];
        let user = if rng.random() { super::TRUSTED } else { super::PROVEN };
        let turns = if steady { u32::MAX } else { rng.random_range(1..30) };
        let wire = match Wire::open(port, budget).await {
            Ok(wire) => wire,
            Err(end) => return Err(format!("{end:?}")),
        };
        let id = tally.next();
        let mut this = Client { wire, rng, tally, port, prepared: BTreeSet::new(), tenant: String::new(), id, steady };
        match this.work(user, turns, until).await {
            Ok(()) => Ok(()),
            Err(End::Spent) => this.leave(leave).await,
            Err(End::Wronged(why)) => Err(format!("client {id} as {user}: {why}")),
        }
    }

    async fn work(&mut self, user: &str, turns: u32, until: std::time::Instant) -> Outcome {
        self.wire.log_in(user).await?;
        for _ in 0..turns {
            if clock::now() >= until {
                break;
            }
            self.turn().await?;
            self.tally.turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if self.rng.random_range(0..4) == 0 {
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..100))).await;
            }
        }
        self.wire.send(&wire::frame(b'X', &[])).await
    }

    async fn leave(mut self, how: Leave) -> Result<(), String> {
        match how {
            Leave::Close => {}
            Leave::Reset => drop(self.wire.stream.set_zero_linger()),
            Leave::SilenceThenClose => {
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..1500))).await;
            }
            Leave::HalfClose => {
                drop(self.wire.stream.shutdown().await);
                let mut bytes = vec![0; 4096];
                let all = async { while matches!(self.wire.stream.read(&mut bytes).await, Ok(1..)) {} };
                if tokio::time::timeout(PATIENCE, all).await.is_err() {
                    return Err(format!("client {}: half closed, and not closed by the other side", self.id));
                }
            }
        }
        Ok(())
    }

    async fn turn(&mut self) -> Outcome {
        let what = self.rng.random_range(0..100);
        match what {
            0..20 => self.simple().await,
            20..25 => self.look_around().await,
            25..35 => self.unnamed().await,
            35..55 => self.named().await,
            55..65 => self.transaction().await,
            65..72 => self.copy().await,
            72..82 => self.settings().await,
            82..86 => self.errors().await,
            86..90 => self.large().await,
            90..93 => self.forget().await,
            93..96 => self.temporary().await,
            _ => self.cancelled().await,
        }
    }

    /// Sends this and compares what comes up to ReadyForQuery.
    async fn says(&mut self, what: &str, bytes: &[u8], expected: &str) -> Outcome {
        self.wire.send(bytes).await?;
        let messages = self.wire.until(b'Z').await?;
        let told: Vec<Message> = messages.into_iter().filter(|m| !matches!(m.tag, b'S' | b'T')).collect();
        let told = show(&told);
        if told == expected { Ok(()) } else { Err(End::Wronged(format!("{what}: {told} instead of {expected}"))) }
    }

    async fn query(&mut self, sql: &str, expected: &str) -> Outcome {
        self.says(sql, &frontend::query(sql), expected).await
    }

    async fn simple(&mut self) -> Outcome {
        let id = self.tally.next();
        let sql = format!("SELECT '{id}', coalesce(current_setting('app.tenant', true), '')");
        self.query(&sql, &format!("D({id}|{}) C(SELECT 1) Z(I)", self.tenant)).await
    }

    /// Nothing that others have left in the server is there.
    async fn look_around(&mut self) -> Outcome {
        let sql = "SELECT (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors WHERE is_holdable), \
                   (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()), \
                   (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";
        self.query(sql, "D(0|0|0|0) C(SELECT 1) Z(I)").await
    }

    async fn unnamed(&mut self) -> Outcome {
        let id = self.tally.next().to_string();
        let bytes = exchange(&[&frontend::parse("", "SELECT $1::text", &[]), &bound("", &id)]);
        self.says("unnamed", &bytes, &format!("1 2 D({id}) C(SELECT 1) Z(I)")).await
    }

    async fn named(&mut self) -> Outcome {
        // Most texts are many clients', some nobody else's.
        let own = self.rng.random_range(0..20) == 0;
        let number = if own {
            u32::try_from(self.tally.next() % 1_000_000).unwrap() + 1000
        } else {
            self.rng.random_range(0..60)
        };
        let id = self.tally.next().to_string();
        let name = format!("s{number}");
        let mut parts = Vec::new();
        let mut expected = String::new();
        if self.prepared.insert(number) {
            parts.push(frontend::parse(&name, &format!("SELECT $1::text, {number}"), &[]));
            expected += "1 ";
        }
        parts.push(bound(&name, &id));
        expected += &format!("2 D({id}|{number}) C(SELECT 1) ");
        if self.rng.random_range(0..5) == 0 {
            self.prepared.remove(&number);
            parts.push(frontend::target(b'C', b'S', &name));
            expected += "3 ";
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        self.says("named", &exchange(&parts), &format!("{expected}Z(I)")).await
    }

    async fn transaction(&mut self) -> Outcome {
        let id = self.tally.next();
        let commit = self.rng.random();
        let fate = if commit { "commit" } else { "rollback" };
        self.query("BEGIN", "C(BEGIN) Z(T)").await?;
        self.query(&format!("INSERT INTO ledger VALUES ({id}, '{fate}')"), "C(INSERT 0 1) Z(T)").await?;
        self.query(&format!("SELECT fate FROM ledger WHERE id = {id}"), &format!("D({fate}) C(SELECT 1) Z(T)")).await?;
        if !commit {
            return self.query("ROLLBACK", "C(ROLLBACK) Z(I)").await;
        }
        // Until the answer has come nobody knows.
        self.tally.commits_begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.query("COMMIT", "C(COMMIT) Z(I)").await?;
        self.tally.commits_known.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    async fn copy(&mut self) -> Outcome {
        let id = self.tally.next();
        if self.rng.random() {
            let sql = format!("COPY (SELECT {id} + g FROM generate_series(1, 3) g) TO STDOUT");
            let rows: String = (1..=3).map(|g| format!("d({}\\n) ", id + g)).collect();
            let expected = format!("H() {rows}c C(COPY 3) Z(I)");
            self.wire.send(&frontend::query(&sql)).await?;
            let told = show(&self.wire.until(b'Z').await?);
            // What is told of the format does not matter here.
            let told = told.split_once(") ").map_or(told.as_str(), |(_, rest)| rest).to_owned();
            let expected = expected.split_once(") ").map_or("", |(_, rest)| rest);
            return if told == expected { Ok(()) } else { Err(End::Wronged(format!("{sql}: {told}"))) };
        }
        self.wire.send(&frontend::query("COPY scratch FROM STDIN")).await?;
        self.wire.until(b'G').await?;
        for row in 0..3 {
            self.wire.send(&wire::frame(b'd', format!("{id}\trow {row}\n").as_bytes())).await?;
        }
        self.says("CopyDone", &wire::frame(b'c', &[]), "C(COPY 3) Z(I)").await
    }

    async fn settings(&mut self) -> Outcome {
        let id = self.tally.next();
        self.query(&format!("SET app.tenant = '{id}'"), "C(SET) Z(I)").await?;
        self.tenant = id.to_string();
        let zone = ["Asia/Tokyo", "Europe/Rome", "UTC"][self.rng.random_range(0..3)];
        self.query(&format!("SET TimeZone = '{zone}'"), "C(SET) Z(I)").await?;
        self.query("SHOW TimeZone", &format!("D({zone}) C(SHOW) Z(I)")).await?;
        self.simple().await
    }

    async fn errors(&mut self) -> Outcome {
        self.query("SELECT 1/0", "E(22012) Z(I)").await?;
        let bytes = exchange(&[
            &frontend::parse("", "SELECT 1/0", &[]),
            &frontend::bind("", "", &[], 0),
            &frontend::execute("", 0),
            &frontend::parse("skipped", "SELECT 1", &[]),
        ]);
        self.wire.send(&bytes).await?;
        let told = show(&self.wire.until(b'Z').await?);
        // The planner may find it at Bind already.
        if matches!(told.as_str(), "1 2 E(22012) Z(I)" | "1 E(22012) Z(I)") {
            Ok(())
        } else {
            Err(End::Wronged(format!("an error in a pipeline: {told}")))
        }
    }

    /// An answer larger than any buffer, which is not read for a while.
    async fn large(&mut self) -> Outcome {
        let id = self.tally.next();
        self.wire.send(&frontend::query(&format!("SELECT '{id}' || repeat('x', 300000)"))).await?;
        if self.rng.random() {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..300))).await;
        }
        let messages = self.wire.until(b'Z').await?;
        let row = messages.iter().find_map(Message::row).and_then(|row| row.into_iter().next().flatten());
        match row {
            Some(value) if value.len() == 300_000 + id.to_string().len() && value.starts_with(&id.to_string()) => {
                Ok(())
            }
            other => Err(End::Wronged(format!(
                "a large answer: {:?}",
                other.map(|v| v.chars().take(40).collect::<String>())
            ))),
        }
    }

    async fn forget(&mut self) -> Outcome {
        if self.rng.random() {
            self.query("DISCARD ALL", "C(DISCARD ALL) Z(I)").await?;
            self.tenant.clear();
        } else {
            self.query("DEALLOCATE ALL", "C(DEALLOCATE ALL) Z(I)").await?;
        }
        self.prepared.clear();
        self.simple().await
    }

    /// State that keeps the server, given up soon, or left behind by leaving.
    async fn temporary(&mut self) -> Outcome {
        let id = self.tally.next();
        match self.rng.random_range(0..3) {
            0 => {
                self.query(&format!("CREATE TEMP TABLE mine AS SELECT '{id}' AS v"), "C(SELECT 1) Z(I)").await?;
                self.query("SELECT v FROM mine", &format!("D({id}) C(SELECT 1) Z(I)")).await?;
            }
            1 => {
                self.query(&format!("SELECT pg_advisory_lock({id})"), "D() C(SELECT 1) Z(I)").await?;
                self.leave_behind()?;
                self.query(&format!("SELECT pg_advisory_unlock({id})"), "D(t) C(SELECT 1) Z(I)").await?;
            }
            _ => {
                self.query(&format!("LISTEN channel_{}", id % 7), "C(LISTEN) Z(I)").await?;
                self.query("DECLARE held CURSOR WITH HOLD FOR SELECT 1", "C(DECLARE CURSOR) Z(I)").await?;
            }
        }
        self.leave_behind()?;
        self.query("DISCARD ALL", "C(DISCARD ALL) Z(I)").await?;
        self.tenant.clear();
        self.prepared.clear();
        Ok(())
    }

    /// As often as not it goes without clearing up.
    fn leave_behind(&mut self) -> Outcome {
        if !self.steady && self.rng.random() { Err(End::Spent) } else { Ok(()) }
    }

    async fn cancelled(&mut self) -> Outcome {
        self.wire.send(&frontend::query("SELECT pg_sleep(60)")).await?;
        loop {
            let mut other = Wire::open(self.port, usize::MAX).await?;
            other.send(&frontend::cancel(self.wire.pid, &self.wire.key)).await?;
            drop(tokio::time::timeout(PATIENCE, other.stream.read(&mut [0])).await);
            // It may have come before the statement did.
            let answer = tokio::time::timeout(Duration::from_millis(300), self.wire.stream.peek(&mut [0])).await;
            if answer.is_ok() {
                break;
            }
        }
        let told = self.wire.until(b'Z').await?;
        let told: Vec<Message> = told.into_iter().filter(|m| m.tag != b'T').collect();
        match show(&told).as_str() {
            "E(57014) Z(I)" => self.simple().await,
            other => Err(End::Wronged(format!("a cancelled statement: {other}"))),
        }
    }
}

/// Bind and Execute with one value.
fn bound(name: &str, value: &str) -> Vec<u8> {
    [frontend::bind("", name, &[Some(value.as_bytes())], 0), frontend::execute("", 0)].concat()
}

/// Messages and a Sync.
fn exchange(parts: &[&[u8]]) -> Vec<u8> {
    [parts.concat(), wire::frame(b'S', &[])].concat()
}
