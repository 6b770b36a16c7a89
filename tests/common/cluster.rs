//! Real PostgreSQL clusters: a primary, streaming replicas, and everything that can happen to them.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;

use super::certs::Pair;
use super::guard::{self, Guardian};
use super::install::{account, install, unprivileged};
use super::ports::Port;
use super::raw::{Address, Login, LoginError, RawClient};
use super::wire::ServerError;
use super::{eventually, tail};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings for speed and for replication. Dynamic shared memory lives in the data directory, so that a cluster killed
/// by SIGKILL leaves nothing in /dev/shm.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "32MB"),
    ("dynamic_shared_memory_type", "mmap"),
    ("max_connections", "150"),
    ("superuser_reserved_connections", "3"),
    ("max_prepared_transactions", "20"),
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("wal_keep_size", "128MB"),
    ("wal_retrieve_retry_interval", "100ms"),
    ("hot_standby", "on"),
    ("autovacuum", "off"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
];

/// The kit's own way in, before whatever a test puts into pg_hba.conf.
const OWN_HBA: &str = "local all postgres trust\nlocal replication postgres trust\n";

/// A PostgreSQL cluster in a directory of its own, on a port of its own; superuser `postgres`, no password.
pub struct Cluster {
    dir: PathBuf,
    port: Port,
    settings: Vec<(String, String)>,
    process: Mutex<Option<Child>>,
    guardian: Guardian,
    name: String,
}

impl Cluster {
    /// Starts a primary.
    pub fn start() -> Self {
        Self::with_config(&[])
    }

    /// Starts a primary with more settings, which override those of the kit. Values are not quoted by the caller.
    pub fn with_config(settings: &[(&str, &str)]) -> Self {
        let cluster = Self::prepare(settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
        cluster.copy_template();
        cluster.launch();
        cluster
    }

    fn copy_template(&self) {
        let mut copy = unprivileged("cp");
        self.fill(copy.args(["-a", "--reflink=auto"]).arg(template()).arg(self.data()));
    }

    /// Starts another primary with the same port on another address of this machine.
    pub fn beside(&self, address: &str) -> Self {
        let settings = vec![("listen_addresses".to_owned(), address.to_owned())];
        let mut cluster = Self::prepare(settings);
        cluster.port = self.port.clone();
        cluster.copy_template();
        cluster.launch();
        cluster
    }

    /// A streaming replica with the same settings; returns when it streams.
    pub fn replica(&self) -> Self {
        self.replica_with(&[])
    }

    /// A streaming replica with more settings, e.g. `recovery_min_apply_delay`.
    pub fn replica_with(&self, settings: &[(&str, &str)]) -> Self {
        let mut all = self.settings.clone();
        all.extend(settings.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let replica = Self::prepare(all);
        replica.copy_of(self);
        replica
    }

    /// Fills the empty data directory with what `primary` has, and starts as its streaming replica.
    fn copy_of(&self, primary: &Self) {
        let mut backup = install().command("pg_basebackup");
        backup.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "--no-manifest", "-U", "postgres"]);
        backup.arg("-h").arg(primary.socket_dir()).args(["-p", &primary.port().to_string()]).arg("-D").arg(self.data());
        self.fill(&mut backup);
        self.write_upstream(primary);
        self.launch();
        primary.wait_streaming(self);
    }

    /// Throws away what it has, and begins anew as a streaming replica of `primary`, at the same place. It must not run.
    pub fn rebuild_from(&self, primary: &Self) {
        assert!(self.process.lock().is_none(), "the cluster runs");
        fs::remove_dir_all(self.data()).unwrap();
        self.copy_of(primary);
    }

    /// Whether it runs, as far as the test has not ended it.
    pub fn is_running(&self) -> bool {
        self.process.lock().is_some()
    }

    /// A directory, a port and a watchdog; no data yet.
    fn prepare(settings: Vec<(String, String)>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = guard::temp_dir();
        let guardian = Guardian::over(&dir);
        if let Some(account) = account() {
            chown(&dir, Some(account.uid), Some(account.gid)).unwrap();
        }
        let name = format!("c{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { dir, port: Port::claim(), settings, process: Mutex::new(None), guardian, name }
    }

    /// Runs the command that makes the data directory, under the watchdog's eyes: it must not go on writing into a
    /// directory that is being removed.
    fn fill(&self, command: &mut Command) {
        let errors = self.dir.join("fill.log");
        let child = command.stderr(File::create(&errors).unwrap()).stdout(Stdio::null()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        self.guardian.watch(child.id());
        let status = child.wait().unwrap();
        self.guardian.forget();
        assert!(status.success(), "{command:?}: {}", fs::read_to_string(&errors).unwrap_or_default());
    }

    // What it is.

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The directory of its unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Name of this cluster: `cluster_name`, and `application_name` in its primary's pg_stat_replication.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `postgres://postgres@127.0.0.1:PORT/DATABASE`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port())
    }

    /// All it has logged.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Waits until the log contains `text`.
    pub fn wait_log(&self, text: &str) {
        let what = format!("{text:?} in the log of PostgreSQL");
        eventually(&what, Duration::from_secs(15), || self.log_text().contains(text).then_some(()));
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Process id of the postmaster; panics when it does not run.
    pub fn pid(&self) -> u32 {
        self.process.lock().as_ref().expect("the cluster runs").id()
    }

    // SQL, by the unix socket as `postgres`.

    /// Runs statements in the database `postgres` and returns their rows; NULL is empty. Panics on an error.
    pub fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        self.sql_in("postgres", sql)
    }

    /// [`Self::sql`] in another database.
    pub fn sql_in(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        self.try_sql_in(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// [`Self::sql_in`] that returns the error.
    pub fn try_sql_in(&self, database: &str, sql: &str) -> Result<Vec<Vec<String>>, ServerError> {
        self.client(database).rows(sql)
    }

    /// The first value of a query.
    pub fn value(&self, sql: &str) -> String {
        self.client("postgres").value(sql)
    }

    /// A connection as `postgres` over the unix socket, which pg_hba.conf always lets in.
    pub fn client(&self, database: &str) -> RawClient {
        self.try_client(database).unwrap_or_else(|error| panic!("cluster {}: {error:?}", self.name))
    }

    /// [`Self::client`] of a cluster that may be down.
    pub fn try_client(&self, database: &str) -> Result<RawClient, LoginError> {
        let socket = self.dir.join(format!(".s.PGSQL.{}", self.port()));
        Login::new(Address::Unix(socket), "postgres", database).connect()
    }

    // Replication.

    /// Makes a replica a primary; returns when it takes writes.
    pub fn promote(&self) {
        assert_eq!(self.value("SELECT pg_promote(true, 60)"), "t");
        assert_eq!(self.value("SELECT pg_is_in_recovery()"), "f");
    }

    /// Points a running or stopped replica to another primary.
    pub fn follow(&self, primary: &Self) {
        self.write_upstream(primary);
        if self.process.lock().is_some() {
            self.reload();
            primary.wait_streaming(self);
        }
    }

    /// Waits until `replica` has replayed all that this primary has written so far.
    pub fn wait_replayed(&self, replica: &Self) {
        let written = self.value("SELECT pg_current_wal_lsn()");
        let mut client = replica.client("postgres");
        eventually("replica caught up", Duration::from_secs(30), || {
            let reached = client.value(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"));
            (reached == "t").then_some(())
        });
    }

    /// Waits until `replica` streams from this primary.
    pub fn wait_streaming(&self, replica: &Self) {
        let query = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = '{}'",
            replica.name
        );
        let mut client = self.client("postgres");
        eventually("replica streams", Duration::from_secs(30), || (client.value(&query) == "1").then_some(()));
    }

    fn write_upstream(&self, primary: &Self) {
        let text = format!(
            "primary_conninfo = 'host={} port={} user=postgres application_name={}'\n",
            primary.socket_dir().display(),
            primary.port(),
            self.name
        );
        self.write("postgresql.auto.conf", &text);
    }

    // Settings.

    /// Turns TLS on with this certificate, or replaces the one of before; `authority` is for clients' certificates.
    pub fn enable_tls(&mut self, pair: &Pair, authority: Option<&str>) {
        self.write("server.crt", &pair.cert);
        self.write("server.key", &pair.key);
        // PostgreSQL refuses a key that others may read.
        fs::set_permissions(self.data().join("server.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let mut settings = vec![("ssl", "on")];
        if let Some(authority) = authority {
            self.write("root.crt", authority);
            settings.push(("ssl_ca_file", "root.crt"));
        }
        self.configure(&settings);
    }

    /// Changes settings and reloads; those that need a restart wait for [`Self::restart`].
    pub fn configure(&mut self, settings: &[(&str, &str)]) {
        self.settings.extend(settings.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        self.write_settings();
        self.reload();
    }

    /// Replaces pg_hba.conf, except that `postgres` always gets in by the unix socket, and reloads.
    pub fn set_hba(&self, lines: &str) {
        self.write("pg_hba.conf", &format!("{OWN_HBA}{lines}\n"));
        self.reload();
        let wrong = self.sql("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL");
        assert!(wrong.is_empty(), "pg_hba.conf: {wrong:?}");
    }

    /// SIGHUP; returns when new connections see the new settings.
    pub fn reload(&self) {
        // A backend inherits the time of the last load, and the postmaster accepts nobody in the middle of one: so a
        // new connection that sees another time has all of the new settings.
        let loaded = || self.value("SELECT pg_conf_load_time()");
        let before = loaded();
        guard::send(self.pid(), Signal::SIGHUP);
        eventually("settings loaded", Duration::from_secs(10), || (loaded() != before).then_some(()));
    }

    // Life and death.

    /// SIGKILL for the postmaster and all its children; returns when none of them runs.
    pub fn kill9(&self) {
        let mut child = self.process.lock().take().expect("the cluster runs");
        guard::kill_tree(&mut child);
        self.guardian.forget();
    }

    /// SIGSTOP for all processes: connections stay open, the kernel still accepts new ones, nobody answers.
    pub fn freeze(&self) {
        guard::freeze_tree(self.pid());
    }

    /// SIGCONT for all processes.
    pub fn thaw(&self) {
        guard::thaw_tree(self.pid());
    }

    /// A fast shutdown: sessions are closed with 57P01, replicas get all that was written.
    pub fn stop(&self) {
        self.shut_down(Signal::SIGINT, Duration::from_secs(30));
    }

    /// Starts again, after a fast shutdown when it still runs.
    pub fn restart(&self) {
        if self.process.lock().is_some() {
            self.stop();
        }
        self.launch();
    }

    fn shut_down(&self, signal: Signal, patience: Duration) {
        let mut child = self.process.lock().take().expect("the cluster runs");
        guard::thaw_tree(child.id());
        guard::send(child.id(), signal);
        let deadline = pgweir::clock::now() + patience;
        while child.try_wait().unwrap().is_none() {
            if pgweir::clock::now() > deadline {
                guard::kill_tree(&mut child);
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.guardian.forget();
    }

    /// Starts the postmaster and waits until it takes connections (read-only ones on a replica).
    fn launch(&self) {
        self.write_settings();
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = install().command("postgres");
        command.arg("-D").arg(self.data()).stdout(log.try_clone().unwrap()).stderr(log);
        // A Ctrl-C at the terminal is for the test, which then ends this.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().unwrap();
        self.guardian.watch(child.id());
        let pid = child.id().to_string();
        eventually("PostgreSQL is ready", START_TIMEOUT, || {
            if let Some(status) = child.try_wait().unwrap() {
                self.guardian.forget();
                panic!("postgres ended with {status}:\n{}", tail(&self.log_text(), 30));
            }
            // The 8th line is the state that pg_ctl -w waits for.
            let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            (lines.first() == Some(&&*pid) && lines.get(7) == Some(&"ready")).then_some(())
        });
        *self.process.lock() = Some(child);
    }

    fn write_settings(&self) {
        let mut text = String::new();
        let own = [
            ("port", self.port().to_string()),
            ("unix_socket_directories", self.dir.display().to_string()),
            ("cluster_name", self.name.clone()),
        ];
        let fixed = SETTINGS.iter().map(|(name, value)| (*name, *value));
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let asked = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in fixed.chain(own).chain(asked) {
            text += &format!("{name} = '{}'\n", value.replace('\'', "''"));
        }
        self.write("postgresql.conf", &text);
    }

    /// Writes a file of the data directory, owned like the others.
    fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        if let Some(account) = account() {
            chown(&path, Some(account.uid), Some(account.gid)).unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of cluster {} on port {}\n{}", self.name, self.port(), tail(&self.log_text(), 15));
        }
        if self.process.get_mut().is_some() {
            // Immediate, but not SIGKILL: PostgreSQL removes its shared memory.
            self.shut_down(Signal::SIGQUIT, Duration::from_secs(6));
        }
    }
}

/// A data directory fresh from initdb, made once per user and version and copied for every cluster: initdb takes a
/// second, a copy a few hundredths.
fn template() -> PathBuf {
    let install = install();
    let name = format!("pgweir-test-template-{}-{}", nix::unistd::geteuid(), install.version);
    let shelf = std::env::temp_dir().join(name);
    let lock = File::create(shelf.with_added_extension("lock")).unwrap();
    lock.lock().unwrap();
    let uid = account().map_or_else(|| nix::unistd::geteuid().as_raw(), |account| account.uid);
    let ready = shelf.join("data");
    if fs::metadata(&ready).is_ok_and(|found| found.uid() == uid) {
        return ready;
    }
    // Left by one that was killed before its rename.
    drop(fs::remove_dir_all(&shelf));
    fs::create_dir(&shelf).unwrap();
    if let Some(account) = account() {
        chown(&shelf, Some(account.uid), Some(account.gid)).unwrap();
    }
    let fresh = shelf.join("new");
    let mut initdb = install.command("initdb");
    initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "--wal-segsize=4"]).arg("-D").arg(&fresh);
    // C.UTF-8 where the system has it, else C.
    let utf8 = Command::new("locale").arg("-a").output().is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).lines().any(|line| matches!(line, "C.utf8" | "C.UTF-8"))
    });
    run(initdb.arg(if utf8 { "--locale=C.UTF-8" } else { "--locale=C" }));
    fs::rename(&fresh, &ready).unwrap();
    ready
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
