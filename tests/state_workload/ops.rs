//! What clients do: the statements, and how they are chosen.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// Whether a setting ends with the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    No,
    Yes,
}

/// How a setting is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Set,
    SetSession,
    /// TIME ZONE, SESSION CHARACTERISTICS and the like, where there is one.
    Own,
    Function,
    /// set_config() with parameters, which takes the extended protocol.
    Parameters,
}

#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) local: Local,
    pub(crate) form: Form,
    /// The value is refused.
    pub(crate) fails: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnCommit {
    PreserveRows,
    DeleteRows,
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    Exclusive,
    Shared,
}

/// Of an advisory lock, one number or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    One(i64),
    Two(i32, i32),
}

/// Keys that all clients want are below this one; others are a client's own.
const SHARED_KEYS: i64 = 5;

impl Key {
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::One(key) if key < SHARED_KEYS)
    }

    fn arguments(self) -> String {
        match self {
            Self::One(key) => key.to_string(),
            Self::Two(first, second) => format!("{first}, {second}"),
        }
    }

    /// The columns classid, objid, objsubid and mode.
    pub(crate) fn in_pg_locks(self, mode: Mode) -> String {
        let (class, object, kind) = match self {
            Self::One(key) => (key >> 32, key & 0xffff_ffff, 1),
            Self::Two(first, second) => (i64::from(first.cast_unsigned()), i64::from(second.cast_unsigned()), 2),
        };
        let mode = if mode == Mode::Shared { "ShareLock" } else { "ExclusiveLock" };
        format!("{class}|{object}|{kind}|{mode}")
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Lock {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) tries: bool,
    pub(crate) of_transaction: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Begin,
    Commit,
    Rollback,
    Savepoint(String),
    RollbackTo(String),
    Release(String),
    Fail,
    Set(Set),
    Reset(String),
    ResetAll,
    DiscardAll,
    Show(Vec<&'static str>),
    Documents,
    Prepare(String, String),
    Parse(String, String),
    Execute(String),
    BindExecute(String),
    Deallocate(String),
    DeallocateAll,
    CloseStatement(String),
    CreateTemp(String, OnCommit),
    Insert(String, u64),
    SelectTemp(String),
    DropTemp(String),
    Declare(String),
    Fetch(String),
    Close(String),
    Lock(Lock),
    Unlock(Lock),
    UnlockAll,
    Locks,
    Listen(String),
    Unlisten(String),
    UnlistenAll,
    Notify { channel: String, payload: String, by_function: bool },
}

/// Settings with values that are shown as they were given.
pub(crate) const SETTINGS: &[(&str, &[&str])] = &[
    ("work_mem", &["3MB", "5MB", "640kB"]),
    ("statement_timeout", &["61s", "2min"]),
    ("extra_float_digits", &["0", "2"]),
    ("search_path", &["public", "app, public"]),
    ("default_transaction_isolation", &["read committed", "repeatable read"]),
    ("DateStyle", &["ISO, DMY", "German, DMY", "SQL, MDY"]),
    ("TimeZone", &["UTC", "Europe/Paris", "Asia/Tokyo"]),
    ("IntervalStyle", &["postgres", "iso_8601"]),
    ("application_name", &["one", "two"]),
    ("app.tenant", &["t0", "t1", "t2"]),
    ("app.note", &["n1", "o'k ü; --", "\\'"]),
    ("role", &["tenant0", "tenant1", "none"]),
];

/// Those that the server reports.
pub(crate) const REPORTED: &[&str] = &["DateStyle", "TimeZone", "IntervalStyle", "application_name"];

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Set {
    pub(crate) fn is_select(&self) -> bool {
        matches!(self.form, Form::Function | Form::Parameters)
    }

    fn sql(&self) -> String {
        let Self { name, value, local, form, .. } = self;
        let scope = match (form, local) {
            (_, Local::Yes) => "LOCAL ",
            (Form::SetSession, Local::No) => "SESSION ",
            _ => "",
        };
        // standard_conforming_strings is on.
        let literal = if name == "search_path" { value.clone() } else { quoted(value) };
        match form {
            Form::Function => format!("SELECT set_config('{name}', {}, {})", quoted(value), *local == Local::Yes),
            Form::Parameters => "SELECT set_config($1, $2, $3)".to_owned(),
            Form::Own if name == "TimeZone" => format!("SET {scope}TIME ZONE {literal}"),
            Form::Own if name == "role" => {
                format!("SET {scope}ROLE {}", if value == "none" { "NONE" } else { value })
            }
            Form::Own if name == "default_transaction_isolation" && *local == Local::No => {
                format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {value}")
            }
            _ => format!("SET {scope}{name} = {literal}"),
        }
    }

    /// What is bound to it.
    pub(crate) fn parameters(&self) -> Vec<String> {
        match self.form {
            Form::Parameters => {
                let local = if self.local == Local::Yes { "t" } else { "f" };
                vec![self.name.clone(), self.value.clone(), local.to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

impl Op {
    /// Its text; nothing for messages of the protocol.
    pub(crate) fn sql(&self) -> String {
        match self {
            Self::Begin => "BEGIN".to_owned(),
            Self::Commit => "COMMIT".to_owned(),
            Self::Rollback => "ROLLBACK".to_owned(),
            Self::Savepoint(name) => format!("SAVEPOINT {name}"),
            Self::RollbackTo(name) => format!("ROLLBACK TO SAVEPOINT {name}"),
            Self::Release(name) => format!("RELEASE {name}"),
            Self::Fail => "SELECT 1/0".to_owned(),
            Self::Set(set) => set.sql(),
            Self::Reset(name) => format!("RESET {name}"),
            Self::ResetAll => "RESET ALL".to_owned(),
            Self::DiscardAll => "DISCARD ALL".to_owned(),
            Self::Show(names) => {
                let all: Vec<String> =
                    names.iter().map(|name| format!("coalesce(current_setting('{name}', true), '')")).collect();
                format!("SELECT concat_ws('|', {})", all.join(", "))
            }
            Self::Documents => "SELECT tenant, v FROM public.documents ORDER BY 1, 2".to_owned(),
            Self::Prepare(name, marker) => format!("PREPARE {name} AS SELECT '{marker}'::text"),
            Self::Parse(_, marker) => format!("SELECT '{marker}'::text"),
            Self::Execute(name) => format!("EXECUTE {name}"),
            Self::BindExecute(_) | Self::CloseStatement(_) => String::new(),
            Self::Deallocate(name) => format!("DEALLOCATE {name}"),
            Self::DeallocateAll => "DEALLOCATE ALL".to_owned(),
            Self::CreateTemp(name, on_commit) => {
                let end = match on_commit {
                    OnCommit::PreserveRows => "",
                    OnCommit::DeleteRows => " ON COMMIT DELETE ROWS",
                    OnCommit::Drop => " ON COMMIT DROP",
                };
                format!("CREATE TEMP TABLE {name} (v int8){end}")
            }
            Self::Insert(name, value) => format!("INSERT INTO {name} VALUES ({value})"),
            Self::SelectTemp(name) => format!("SELECT v FROM {name} ORDER BY v"),
            Self::DropTemp(name) => format!("DROP TABLE {name}"),
            Self::Declare(name) => format!("DECLARE {name} CURSOR WITH HOLD FOR SELECT generate_series(1, 4)"),
            Self::Fetch(name) => format!("FETCH 1 FROM {name}"),
            Self::Close(name) => format!("CLOSE {name}"),
            Self::Lock(Lock { key, mode, tries, of_transaction }) => {
                let tries = if *tries { "try_" } else { "" };
                let xact = if *of_transaction { "xact_" } else { "" };
                let shared = if *mode == Mode::Shared { "_shared" } else { "" };
                format!("SELECT pg_{tries}advisory_{xact}lock{shared}({})", key.arguments())
            }
            Self::Unlock(Lock { key, mode, .. }) => {
                let shared = if *mode == Mode::Shared { "_shared" } else { "" };
                format!("SELECT pg_advisory_unlock{shared}({})", key.arguments())
            }
            Self::UnlockAll => "SELECT pg_advisory_unlock_all()".to_owned(),
            Self::Locks => "SELECT classid::int8, objid::int8, objsubid, mode FROM pg_locks \
                 WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY concat_ws('|', classid, objid, objsubid, mode) COLLATE \"C\""
                .to_owned(),
            Self::Listen(channel) => format!("LISTEN {channel}"),
            Self::Unlisten(channel) => format!("UNLISTEN {channel}"),
            Self::UnlistenAll => "UNLISTEN *".to_owned(),
            Self::Notify { channel, payload, by_function: false } => format!("NOTIFY {channel}, '{payload}'"),
            Self::Notify { channel, payload, by_function: true } => {
                format!("SELECT pg_notify('{channel}', '{payload}')")
            }
        }
    }

    /// Whether it takes the extended protocol.
    pub(crate) fn is_extended(&self) -> bool {
        matches!(self, Self::Parse(..) | Self::BindExecute(_) | Self::CloseStatement(_))
            || matches!(self, Self::Set(set) if set.form == Form::Parameters)
    }

    /// Whether it may make its client keep a server.
    pub(crate) fn may_pin(&self) -> bool {
        match self {
            Self::CreateTemp(..) | Self::Declare(_) => true,
            Self::Lock(lock) => !lock.of_transaction,
            _ => false,
        }
    }

    /// Whether it may come behind these in one pipeline: pgweir resolves the names of a pipeline as it is read, so one
    /// that speaks of a name by the protocol sees nothing of what SQL before it does to that.
    pub(crate) fn may_follow(&self, before: &[Self]) -> bool {
        let uses =
            |op: &Self| matches!(op, Self::Prepare(..) | Self::Execute(_) | Self::Deallocate(_) | Self::DeallocateAll);
        !(matches!(self, Self::Parse(..) | Self::BindExecute(_) | Self::CloseStatement(_)) && before.iter().any(uses))
    }

    /// Whether it may be sent together with others, in one transaction. RESET in such company goes to the server's default, and what
    /// startup gave comes back behind it.
    pub(crate) fn joins_others(&self) -> bool {
        !matches!(
            self,
            Self::Begin
                | Self::Commit
                | Self::Rollback
                | Self::Savepoint(_)
                | Self::RollbackTo(_)
                | Self::Release(_)
                | Self::DiscardAll
                | Self::Reset(_)
                | Self::ResetAll
        ) && !matches!(self, Self::Lock(lock) if lock.key.is_shared())
    }
}

/// Chooses statements for one client.
pub(crate) struct Chooser {
    pub(crate) rng: SmallRng,
    life: u64,
    count: u64,
}

impl Chooser {
    /// `life`: no other client has it.
    pub(crate) fn new(rng: SmallRng, life: u64) -> Self {
        Self { rng, life, count: 0 }
    }

    fn name(&mut self, kind: &str) -> String {
        format!("{kind}{}", self.rng.random_range(0..3))
    }

    fn unique(&mut self) -> u64 {
        self.count += 1;
        self.life * 1_000_000 + self.count
    }

    fn channel(&mut self) -> String {
        match self.rng.random_range(0..5) {
            0 | 1 => format!("own{}", self.life),
            of => format!("all{of}"),
        }
    }

    /// What may come next: in a block or not, and whether that has failed.
    pub(crate) fn next(&mut self, status: u8, savepoints: usize) -> Op {
        let point = self.rng.random_range(0..100);
        match (status, point) {
            (b'I', 0..16) => Op::Begin,
            (b'I', 16) => Op::DiscardAll,
            (b'T', 0..8) => Op::Commit,
            (b'T', 8..12) => Op::Rollback,
            (b'T', 12..18) => Op::Savepoint(self.name("s")),
            (b'T', 18..23) if savepoints > 0 => Op::RollbackTo(self.name("s")),
            (b'T', 23..25) if savepoints > 0 => Op::Release(self.name("s")),
            (b'E', 0..20) => Op::Rollback,
            (b'E', 20..35) => Op::Commit,
            (b'E', 35..70) if savepoints > 0 => Op::RollbackTo(self.name("s")),
            (b'T', 25..28) | (_, 28) => Op::Fail,
            _ => self.statement(),
        }
    }

    /// One that controls no transaction.
    pub(crate) fn statement(&mut self) -> Op {
        match self.rng.random_range(0..100) {
            0..24 => self.set(),
            24..28 => Op::Reset(self.setting().0.to_owned()),
            28 => Op::ResetAll,
            29..40 => Op::Show(SETTINGS.iter().map(|(name, _)| *name).collect()),
            40..44 => Op::Documents,
            44..48 => {
                let (name, marker) = (self.name("p"), self.unique());
                if self.rng.random() {
                    Op::Prepare(name, marker.to_string())
                } else {
                    Op::Parse(name, marker.to_string())
                }
            }
            48..56 => {
                let name = self.name("p");
                if self.rng.random() { Op::Execute(name) } else { Op::BindExecute(name) }
            }
            56 | 57 => Op::Deallocate(self.name("p")),
            58 => Op::DeallocateAll,
            59 | 60 => Op::CloseStatement(self.name("p")),
            61..63 => {
                let of = [OnCommit::PreserveRows, OnCommit::DeleteRows, OnCommit::Drop];
                Op::CreateTemp(self.name("temp"), *of.choose(&mut self.rng).unwrap())
            }
            63..66 => Op::Insert(self.name("temp"), self.unique()),
            66..69 => Op::SelectTemp(self.name("temp")),
            69 => Op::DropTemp(self.name("temp")),
            70 => Op::Declare(self.name("cursor")),
            71 | 72 => Op::Fetch(self.name("cursor")),
            73 => Op::Close(self.name("cursor")),
            74..79 => Op::Lock(self.lock()),
            79..83 => Op::Unlock(self.lock()),
            83 => Op::UnlockAll,
            84..88 => Op::Locks,
            88..92 => Op::Listen(self.channel()),
            92 => Op::Unlisten(self.channel()),
            93 => Op::UnlistenAll,
            _ => {
                let payload = self.unique().to_string();
                Op::Notify { channel: self.channel(), payload, by_function: self.rng.random() }
            }
        }
    }

    fn setting(&mut self) -> (&'static str, &'static [&'static str]) {
        *SETTINGS.choose(&mut self.rng).unwrap()
    }

    fn set(&mut self) -> Op {
        let (name, values) = self.setting();
        let fails = matches!(name, "work_mem" | "DateStyle" | "role") && self.rng.random_range(0..12) == 0;
        let value = if fails { "bogus" } else { *values.choose(&mut self.rng).unwrap() };
        let forms = [Form::Set, Form::SetSession, Form::Own, Form::Function, Form::Parameters];
        Op::Set(Set {
            name: name.to_owned(),
            value: value.to_owned(),
            local: if self.rng.random_range(0..4) == 0 { Local::Yes } else { Local::No },
            form: *forms.choose(&mut self.rng).unwrap(),
            fails,
        })
    }

    fn lock(&mut self) -> Lock {
        let own = i64::try_from(self.life).unwrap() + 10;
        let key = match self.rng.random_range(0..4) {
            0 => Key::One(self.rng.random_range(0..SHARED_KEYS)),
            1 => Key::One(own << 20),
            2 => Key::One(own),
            _ => Key::Two(i32::try_from(own).unwrap(), self.rng.random_range(-1..1)),
        };
        let of_transaction = !key.is_shared() && self.rng.random_range(0..4) == 0;
        Lock {
            key,
            mode: if self.rng.random() { Mode::Shared } else { Mode::Exclusive },
            // Nobody waits for another: with all of a pool waiting, nobody would come to unlock.
            tries: key.is_shared() || self.rng.random(),
            of_transaction,
        }
    }
}
