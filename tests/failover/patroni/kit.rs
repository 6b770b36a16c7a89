//! Patroni of Debian's package, with an etcd of its own: real members in temporary directories, that nothing outlives.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;

use crate::common::guard::{self, Guardian};
use crate::common::install::{account, install, unprivileged};
use crate::common::ports::Port;
use crate::common::raw::{Address, Login};
use crate::common::{eventually, tail};

const PATIENCE: Duration = Duration::from_secs(60);
/// Patroni's name of the cluster.
const SCOPE: &str = "weir";

/// A process in a directory of its own.
struct Process {
    dir: PathBuf,
    child: Mutex<Option<Child>>,
    guardian: Guardian,
}

impl Process {
    fn prepare() -> Self {
        let dir = guard::temp_dir();
        let guardian = Guardian::over(&dir);
        if let Some(account) = account() {
            chown(&dir, Some(account.uid), Some(account.gid)).unwrap();
        }
        Self { dir, child: Mutex::new(None), guardian }
    }

    fn start(&self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}: is its package installed?"));
        self.guardian.watch(child.id());
        *self.child.lock() = Some(child);
    }

    fn kill9(&self) {
        let mut child = self.child.lock().take().expect("it runs");
        guard::kill_tree(&mut child);
        self.guardian.forget();
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log in {}\n{}", self.dir.display(), tail(&self.log(), 25));
        }
        // The guardian kills; this only takes the dead away.
        if let Some(mut child) = self.child.get_mut().take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// One etcd, and so many members of one Patroni cluster.
pub(super) struct Site {
    pub(super) members: Vec<Member>,
    _etcd: Process,
}

/// Patroni and its PostgreSQL.
pub(super) struct Member {
    pub(super) name: String,
    /// That of PostgreSQL.
    port: Port,
    rest: Port,
    process: Process,
}

impl Site {
    /// The first member is the leader at the start. Commits wait for a standby.
    pub(super) fn start(count: usize) -> Self {
        let (client, peer) = (Port::claim(), Port::claim());
        let etcd = Process::prepare();
        let url = |port: &Port| format!("http://127.0.0.1:{}", port.number());
        let mut command = unprivileged("etcd");
        command.arg("--data-dir").arg(etcd.dir.join("data")).args(["--name", "one", "--unsafe-no-fsync"]);
        command.args(["--listen-client-urls", &url(&client), "--advertise-client-urls", &url(&client)]);
        command.args(["--listen-peer-urls", &url(&peer), "--initial-advertise-peer-urls", &url(&peer)]);
        command.args(["--initial-cluster", &format!("one={}", url(&peer)), "--log-level", "warn"]);
        etcd.start(command);
        eventually("etcd listens", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", client.number())).ok().map(drop)
        });
        let members: Vec<_> = (0..count).map(|at| Member::prepare(at, client.number())).collect();
        members[0].start();
        members[0].wait_role("leader", "running");
        // What the first has written there says how often they look.
        members[1..].iter().for_each(Member::start);
        members[1..].iter().for_each(|member| member.wait_standby());
        Self { members, _etcd: etcd }
    }

    /// For `patroni`.
    pub(super) fn rest_urls(&self) -> String {
        let urls: Vec<_> = self.members.iter().map(|m| format!("\"http://127.0.0.1:{}\"", m.rest.number())).collect();
        format!("[{}]", urls.join(", "))
    }

    /// For `servers`.
    pub(super) fn server_urls(&self) -> String {
        let urls: Vec<_> =
            self.members.iter().map(|m| format!("\"postgres://127.0.0.1:{}/postgres\"", m.port())).collect();
        format!("[{}]", urls.join(", "))
    }

    /// The member of which Patroni says that it leads.
    pub(super) fn wait_leader(&self, but: usize) -> usize {
        eventually("Patroni has another leader", PATIENCE, || {
            (0..self.members.len()).find(|at| *at != but && self.members[*at].answers("/primary"))
        })
    }

    /// What an operator types.
    pub(super) fn switchover(&self, from: usize, to: usize) {
        let mut command = unprivileged("patronictl");
        command.arg("-c").arg(self.members[from].config()).args(["switchover", SCOPE, "--force"]);
        command.args(["--leader", &self.members[from].name, "--candidate", &self.members[to].name]);
        let output = command.env("LC_ALL", "C.UTF-8").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("Successfully switched over"), "{said}");
    }
}

impl Member {
    fn prepare(at: usize, etcd: u16) -> Self {
        let member =
            Self { name: format!("m{at}"), port: Port::claim(), rest: Port::claim(), process: Process::prepare() };
        let text = member.settings(etcd);
        fs::write(member.config(), text).unwrap();
        member
    }

    fn config(&self) -> PathBuf {
        self.dir().join("patroni.yml")
    }

    fn dir(&self) -> &Path {
        &self.process.dir
    }

    /// The shortest times that Patroni is at ease with: it looks every second, and a leader that has died is replaced after five.
    fn settings(&self, etcd: u16) -> String {
        let (name, dir, port, rest) = (&self.name, self.dir().display(), self.port(), self.rest.number());
        let bin = install().bindir.display();
        let mut text = format!(
            "scope: {SCOPE}\nname: {name}\nlog: {{level: INFO}}\n\
             restapi: {{listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}'}}\n\
             etcd3: {{hosts: '127.0.0.1:{etcd}'}}\n\
             bootstrap:\n\
             \x20 dcs:\n    ttl: 10\n    loop_wait: 1\n    retry_timeout: 3\n    synchronous_mode: true\n\
             \x20   postgresql: {{use_pg_rewind: false, use_slots: true, remove_data_directory_on_diverged_timelines: true}}\n\
             \x20 initdb: [{{encoding: UTF8}}, {{auth: trust}}, no-sync, no-locale]\n\
             postgresql:\n\
             \x20 listen: 127.0.0.1:{port}\n  connect_address: 127.0.0.1:{port}\n  data_dir: {dir}/data\n  bin_dir: {bin}\n\
             \x20 pgpass: {dir}/pgpass\n\
             \x20 authentication: {{superuser: {{username: postgres}}, replication: {{username: repl}}}}\n\
             \x20 basebackup: [{{checkpoint: fast}}, no-sync]\n\
             \x20 pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust']\n\
             \x20 parameters:\n"
        );
        for (key, value) in [
            ("unix_socket_directories", dir.to_string().as_str()),
            ("fsync", "off"),
            ("shared_buffers", "32MB"),
            ("dynamic_shared_memory_type", "mmap"),
            ("wal_retrieve_retry_interval", "100ms"),
            ("autovacuum", "off"),
            ("jit", "off"),
        ] {
            writeln!(text, "    {key}: '{value}'").unwrap();
        }
        text
    }

    pub(super) fn start(&self) {
        let mut command = unprivileged("patroni");
        command.arg(self.config()).env("LC_ALL", "C.UTF-8").env("HOME", self.dir());
        self.process.start(command);
    }

    pub(super) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Whether its REST interface answers so with 200.
    fn answers(&self, path: &str) -> bool {
        let url = format!("http://127.0.0.1:{}{path}", self.rest.number());
        pgweir::app::healthcheck::check(&url).is_ok()
    }

    fn wait_role(&self, role: &str, what: &str) {
        eventually(&format!("{} is {role}, {what}", self.name), PATIENCE, || {
            self.answers(&format!("/{role}")).then_some(())
        });
    }

    /// Waits until it follows, and serves reads.
    pub(super) fn wait_standby(&self) {
        self.wait_role("replica", "streaming");
    }

    /// Runs statements and returns their rows.
    pub(super) fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        let socket = self.dir().join(format!(".s.PGSQL.{}", self.port()));
        let client = Login::new(Address::Unix(socket), "postgres", "postgres").connect();
        client
            .unwrap_or_else(|error| panic!("{}: {error:?}", self.name))
            .rows(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// SIGKILL for Patroni, for PostgreSQL and for all of its processes.
    pub(super) fn kill9(&self) {
        self.process.kill9();
        let text = fs::read_to_string(self.dir().join("data/postmaster.pid")).unwrap();
        let pid: u32 = text.lines().next().unwrap().trim().parse().unwrap();
        guard::freeze(pid);
        let children = guard::children(pid);
        children.iter().chain([&pid]).for_each(|pid| guard::send(*pid, Signal::SIGKILL));
        eventually("PostgreSQL is dead", PATIENCE, || {
            (!children.iter().chain([&pid]).any(|pid| guard::alive(*pid))).then_some(())
        });
    }
}
