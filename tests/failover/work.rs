//! Sessions that write and read what they wrote, whatever happens to the servers, and keep account of what they were told.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::common::eventually;
use crate::common::raw::RawClient;
use crate::common::weir::Weir;
use crate::common::wire::{Message, show};

const PATIENCE: Duration = Duration::from_secs(60);

/// What one session met.
#[derive(Debug, Default)]
struct Account {
    session: usize,
    /// Writes that were acknowledged.
    acknowledged: BTreeSet<u32>,
    /// Statements outside of a transaction that failed, and anything that nobody explains.
    bad: Vec<String>,
    /// Reads that lacked what the session had been told was written.
    stale: Vec<String>,
    /// Writes in flight when the server was lost (08007), and those of which a warning says that no standby may have them.
    in_doubt: u32,
    /// Answers with a warning.
    warned: u32,
    /// Reads whose answer had begun when their server went.
    cut: u64,
    /// Transactions that were lost with their server: 57P01.
    lost: u32,
    reads: u64,
    replica_reads: u64,
}

/// The sessions at work.
pub(crate) struct Work {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    primary: Arc<AtomicU16>,
    threads: Vec<JoinHandle<Account>>,
}

/// What all sessions met.
#[derive(Debug, Default)]
pub(crate) struct Report {
    accounts: Vec<Account>,
}

/// What a session works with.
struct Session {
    client: RawClient,
    account: Account,
    /// The last number that was tried.
    n: u32,
    done: Arc<AtomicU64>,
    primary: Arc<AtomicU16>,
}

/// An answer: what was shown but for warnings, the code of its error, and the status at its end.
struct Answer {
    text: String,
    code: Option<String>,
    status: u8,
    row: Option<Vec<String>>,
    /// It is done, and a warning says that it may be lost with its server: who waited for a standby was told to wait no longer.
    unreplicated: bool,
}

impl Work {
    /// Starts so many sessions on the database `app`, whose primary has this port.
    pub(crate) fn start(weir: &Weir, sessions: usize, primary: u16) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let primary = Arc::new(AtomicU16::new(primary));
        let threads = (0..sessions).map(|number| {
            let client = weir.client("app");
            client.set_read_timeout(PATIENCE);
            let account = Account { session: number, ..Account::default() };
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            let session = Session { client, account, n: 0, done, primary: Arc::clone(&primary) };
            std::thread::spawn(move || session.run(&stop))
        });
        let threads = threads.collect();
        Self { stop, done, primary, threads }
    }

    /// Another is the primary now: reads elsewhere are those of replicas.
    pub(crate) fn primary_is(&self, port: u16) {
        self.primary.store(port, Ordering::Relaxed);
    }

    /// Waits until so many more statements were answered.
    pub(crate) fn go_on_for(&self, count: u64) {
        let until = self.done.load(Ordering::Relaxed) + count;
        eventually("the work goes on", PATIENCE, || (self.done.load(Ordering::Relaxed) >= until).then_some(()));
    }

    /// Ends the work.
    pub(crate) fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        Report { accounts: self.threads.into_iter().map(|thread| thread.join().unwrap()).collect() }
    }
}

impl Session {
    fn run(mut self, stop: &AtomicBool) -> Account {
        let mut turn = self.account.session;
        // Every fourth only reads: it must never have to wait for a primary.
        let reads_only = turn % 4 == 3;
        while !stop.load(Ordering::Relaxed) && self.account.bad.is_empty() {
            turn += 1;
            if reads_only {
                self.read("SELECT count(*), inet_server_port() FROM log WHERE session = 0");
                continue;
            }
            match turn % 4 {
                0 => self.transaction(),
                1 => drop(self.read("SELECT count(*), 0, inet_server_port() FROM log WHERE n < 0")),
                _ => self.write(),
            }
            self.read_own();
        }
        self.account
    }

    /// A write that is a transaction of its own.
    fn write(&mut self) {
        self.n += 1;
        let n = self.n;
        let sql = format!("INSERT INTO log VALUES ({}, {n})", self.account.session);
        let answer = if n.is_multiple_of(2) { self.ask(&sql) } else { self.ask_extended(&sql) };
        match answer.code.as_deref() {
            None if answer.unreplicated => self.account.in_doubt += 1,
            None => drop(self.account.acknowledged.insert(n)),
            Some("08007") if answer.status == b'I' => self.account.in_doubt += 1,
            _ => self.account.bad.push(format!("write: {}", answer.text)),
        }
    }

    /// A write in a block.
    fn transaction(&mut self) {
        self.n += 1;
        let (n, session) = (self.n, self.account.session);
        let begun = self.ask("BEGIN");
        if begun.code.is_some() {
            self.account.bad.push(format!("BEGIN: {}", begun.text));
            return;
        }
        for sql in [&*format!("INSERT INTO log VALUES ({session}, {n})"), "SELECT count(*) FROM log WHERE n = 0"] {
            let answer = self.ask(sql);
            match answer.code.as_deref() {
                None => {}
                Some("57P01") if answer.status == b'E' => {
                    self.account.lost += 1;
                    let left = self.ask("ROLLBACK");
                    if left.text != "C(ROLLBACK) Z(I)" {
                        self.account.bad.push(format!("ROLLBACK: {}", left.text));
                    }
                    return;
                }
                _ => return self.account.bad.push(format!("in a block: {}", answer.text)),
            }
        }
        let end = self.ask("COMMIT");
        match end.code.as_deref() {
            None if end.text == "C(COMMIT) Z(I)" && end.unreplicated => self.account.in_doubt += 1,
            None if end.text == "C(COMMIT) Z(I)" => drop(self.account.acknowledged.insert(n)),
            Some("08007" | "57P01") if end.status == b'I' => self.account.lost += 1,
            _ => self.account.bad.push(format!("COMMIT: {}", end.text)),
        }
    }

    fn read_own(&mut self) {
        let sql = format!(
            "SELECT coalesce(max(n), 0), count(*), inet_server_port() FROM log WHERE session = {}",
            self.account.session
        );
        let last = self.account.acknowledged.last().copied().unwrap_or(0);
        let known = self.account.acknowledged.len();
        if let Some(row) = self.read(&sql) {
            let (max, count): (u32, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
            if max < last || max > self.n || count < known {
                self.account.stale.push(format!("{max}, {count} rows, on {}; {last} of {known}", row[2]));
            }
        }
    }

    fn read(&mut self, sql: &str) -> Option<Vec<String>> {
        let answer = self.ask(sql);
        self.account.reads += 1;
        match answer.code.as_deref() {
            None => {}
            // A server that goes between a row and the end of its answer: what has been passed on cannot be asked for again.
            Some("57P01") if answer.row.is_some() && answer.status == b'I' => self.account.cut += 1,
            Some(_) => self.account.bad.push(format!("read: {}", answer.text)),
        }
        let port = answer.row.as_ref().and_then(|row| row.last()?.parse::<u16>().ok());
        let primary = self.primary.load(Ordering::Relaxed);
        self.account.replica_reads += u64::from(port.is_some_and(|port| port != primary));
        answer.row
    }

    fn ask(&mut self, sql: &str) -> Answer {
        self.client.query(sql);
        self.answer()
    }

    fn ask_extended(&mut self, sql: &str) -> Answer {
        self.client.parse("", sql, &[]);
        self.client.bind("", "", &[]);
        self.client.execute("", 0);
        self.client.sync();
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        let mut messages: Vec<Message> = Vec::new();
        let end = loop {
            match self.client.try_read_message() {
                Ok(Some(message)) => {
                    let ready = message.tag == b'Z';
                    messages.push(message);
                    if ready {
                        break String::new();
                    }
                }
                Ok(None) => break " and the end of the connection".to_owned(),
                Err(error) => break format!(" and {error}"),
            }
        };
        self.done.fetch_add(1, Ordering::Relaxed);
        // A server that goes may have warned before, with a code of its own: a warning is neither an answer nor an error.
        let (warnings, messages): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.tag == b'N');
        let warnings: Vec<_> = warnings.iter().filter_map(Message::error).collect();
        self.account.warned += u32::from(!warnings.is_empty());
        let unreplicated = warnings.iter().any(|warning| warning.message.contains("synchronous replication"));
        let error = messages.iter().filter(|message| message.tag == b'E').find_map(Message::error);
        let status = messages.last().filter(|m| m.tag == b'Z').and_then(|m| m.body.first().copied()).unwrap_or(0);
        let said: String = error.iter().chain(&warnings).map(|told| format!(" {told:?}")).collect();
        let code = if end.is_empty() { error.map(|error| error.code) } else { Some("lost".to_owned()) };
        let row = messages.iter().find_map(Message::row);
        Answer {
            text: format!("{}{end}{said}", show(&messages)),
            code,
            status,
            row: row.map(|row| row.into_iter().map(Option::unwrap_or_default).collect()),
            unreplicated,
        }
    }
}

impl Report {
    fn sum(&self, of: impl Fn(&Account) -> u64) -> u64 {
        self.accounts.iter().map(of).sum()
    }

    /// Nobody outside of a transaction saw an error, and nobody read what was older than what it wrote.
    pub(crate) fn assert_clean(&self) {
        let bad: Vec<_> = self.accounts.iter().flat_map(|a| &a.bad).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        let stale: Vec<_> = self.accounts.iter().flat_map(|a| &a.stale).collect();
        assert!(stale.is_empty(), "{stale:#?}");
    }

    /// `primary` has every write that was acknowledged.
    pub(crate) fn assert_kept(&self, primary: impl Fn(&str) -> Vec<Vec<String>>) {
        for account in &self.accounts {
            let rows = primary(&format!("SELECT n FROM log WHERE session = {}", account.session));
            let kept: BTreeSet<u32> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
            let lost: Vec<_> = account.acknowledged.difference(&kept).collect();
            assert!(lost.is_empty(), "session {} was told that these were written: {lost:?}", account.session);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reads, by_replicas) = (self.sum(|a| a.reads), self.sum(|a| a.replica_reads));
        write!(
            f,
            "{} sessions, {reads} reads of which {by_replicas} by replicas, {} stale; {} writes acknowledged, {} in doubt, \
             {} transactions lost, {} reads cut off, {} answers with warnings; {} other errors",
            self.accounts.len(),
            self.sum(|a| a.stale.len() as u64),
            self.sum(|a| a.acknowledged.len() as u64),
            self.sum(|a| a.in_doubt.into()),
            self.sum(|a| a.lost.into()),
            self.sum(|a| a.cut),
            self.sum(|a| a.warned.into()),
            self.sum(|a| a.bad.len() as u64),
        )
    }
}
