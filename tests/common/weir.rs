//! The pgweir binary under test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;

use super::cluster::Cluster;
use super::guard::{self, Guardian};
use super::ports::Port;
use super::raw::{Address, Login, LoginError, RawClient};
use super::wire::Message;
use super::{eventually, tail};

/// The user that may use the console.
pub const ADMIN: &str = "admin";
/// The console's database.
pub const CONSOLE: &str = "pgweir";

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What goes into the configuration of a [`Weir`].
#[derive(Debug, Default, Clone)]
pub struct Builder {
    general: String,
    sections: String,
    users: String,
    env: Vec<(String, String)>,
    ini: Option<String>,
    args: Vec<String>,
    shared: Option<Arc<Port>>,
}

impl Builder {
    /// Adds `key = value` lines to `[pgweir]`; a key that the kit sets too replaces the kit's.
    #[must_use]
    pub fn general(mut self, lines: &str) -> Self {
        self.general += &format!("{lines}\n");
        self
    }

    /// Adds whole sections, e.g. `[databases.app]` and below it.
    #[must_use]
    pub fn database(mut self, toml: &str) -> Self {
        self.sections += &format!("{toml}\n");
        self
    }

    /// Adds `[databases.NAME]` for the database `postgres` of these clusters.
    #[must_use]
    pub fn cluster(self, name: &str, primary: &Cluster, replicas: &[&Cluster]) -> Self {
        let url = |cluster: &Cluster| format!("\"postgres://127.0.0.1:{}/postgres\"", cluster.port());
        let replicas = replicas.iter().map(|replica| url(replica)).collect::<Vec<_>>().join(", ");
        let replicas = if replicas.is_empty() { String::new() } else { format!("replicas = [{replicas}]\n") };
        self.database(&format!("[databases.{name}]\nprimary = {}\n{replicas}", url(primary)))
    }

    /// Adds lines of the auth file: `"user" "secret"`. `postgres` and `admin` are there, with no secret.
    #[must_use]
    pub fn users(mut self, lines: &str) -> Self {
        self.users += &format!("{lines}\n");
        self
    }

    /// Sets a variable in the environment of the process.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it on this pgbouncer.ini instead of a file of ours. `PORT` in it becomes the port, `DIR` the directory, where
    /// `userlist.txt` is.
    #[must_use]
    pub fn ini(mut self, text: &str) -> Self {
        self.ini = Some(text.to_owned());
        self
    }

    /// Lets it listen on the port of another; both must have `so_reuseport`.
    #[must_use]
    pub fn beside(mut self, other: &Weir) -> Self {
        self.shared = Some(Arc::clone(&other.port));
        self
    }

    /// Adds an argument before the file.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// The configuration file's text.
    pub fn toml(&self, dir: &Path, port: u16, http_port: u16) -> String {
        let defaults = [
            ("listen_addr", "\"127.0.0.1\"".to_owned()),
            ("listen_port", port.to_string()),
            ("auth_type", "\"trust\"".to_owned()),
            ("auth_file", format!("{:?}", dir.join("userlist.txt"))),
            ("admin_users", format!("{ADMIN:?}")),
            ("http_listen", format!("\"127.0.0.1:{http_port}\"")),
        ];
        let given: Vec<&str> = self.general.lines().filter_map(|line| Some(line.split_once('=')?.0.trim())).collect();
        let mut text = "[pgweir]\n".to_owned();
        for (key, value) in defaults.iter().filter(|(key, _)| !given.contains(key)) {
            text += &format!("{key} = {value}\n");
        }
        format!("{text}{}\n{}", self.general, self.sections)
    }

    /// The auth file's text; a user named by the test is not named again.
    fn userlist(&self) -> String {
        let own = ["postgres", ADMIN].into_iter().filter(|user| !self.users.contains(&format!("\"{user}\"")));
        own.map(|user| format!("\"{user}\" \"\"\n")).collect::<String>() + &self.users
    }

    /// Starts pgweir and waits until it accepts; panics with its log when it does not.
    pub fn start(self) -> Weir {
        self.try_start().unwrap_or_else(|log| panic!("pgweir did not start:\n{log}"))
    }

    /// Starts pgweir and waits until it accepts; its log when it ends instead.
    pub fn try_start(self) -> Result<Weir, String> {
        let weir = self.prepare();
        weir.launch()?;
        Ok(weir)
    }

    /// Starts pgweir by the command that `launcher` makes of its own, and waits until it accepts.
    pub fn start_by(self, launcher: impl FnOnce(&Weir, Command) -> Command) -> Weir {
        let weir = self.prepare();
        let mut command = launcher(&weir, weir.command(&[]));
        weir.launch_as(&mut command).unwrap_or_else(|log| panic!("pgweir did not start:\n{log}"));
        weir
    }

    fn prepare(self) -> Weir {
        let dir = guard::temp_dir();
        let guardian = Guardian::over(&dir);
        let port = self.shared.clone().unwrap_or_else(|| Arc::new(Port::claim()));
        let weir = Weir { dir, guardian, port, http: Port::claim(), builder: self, process: Mutex::new(None) };
        weir.write_files();
        weir
    }
}

/// A running pgweir, on ports of its own.
pub struct Weir {
    dir: PathBuf,
    guardian: Guardian,
    port: Arc<Port>,
    http: Port,
    builder: Builder,
    process: Mutex<Option<Child>>,
}

impl Weir {
    /// Starts with nothing but the kit's defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Port for clients on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Port of /metrics and /health on 127.0.0.1.
    pub fn http_port(&self) -> u16 {
        self.http.number()
    }

    /// The directory with its configuration, auth file and log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join(if self.builder.ini.is_some() { "pgbouncer.ini" } else { "pgweir.toml" })
    }

    /// Process id; panics when it does not run.
    pub fn pid(&self) -> u32 {
        self.process.lock().as_ref().expect("pgweir runs").id()
    }

    /// All it has written to standard output and error.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).unwrap_or_default()).into_owned()
    }

    /// Waits until the log contains `text`.
    pub fn wait_log(&self, text: &str) {
        let what = format!("{text:?} in the log");
        eventually(&what, Duration::from_secs(15), || self.log_text().contains(text).then_some(()));
    }

    // Clients.

    /// A client as `postgres`; panics when refused.
    pub fn client(&self, database: &str) -> RawClient {
        RawClient::connect(self.port(), "postgres", database)
    }

    /// A login to complete: password, parameters, protocol.
    pub fn login(&self, user: &str, database: &str) -> Login {
        Login::new(Address::Tcp(self.port()), user, database)
    }

    /// Runs a console command; its rows.
    pub fn admin(&self, command: &str) -> Vec<Vec<String>> {
        let rows = self.console().unwrap().rows(command);
        rows.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Runs a console command; its rows by column name.
    pub fn admin_table(&self, command: &str) -> Vec<BTreeMap<String, String>> {
        let mut client = self.console().unwrap();
        client.query(command);
        let messages = client.read_until_ready();
        let columns = messages.iter().find_map(Message::columns);
        let columns = columns.unwrap_or_else(|| panic!("{command}: {}", super::wire::show(&messages)));
        let rows = messages.iter().filter_map(Message::row);
        rows.map(|row| columns.iter().cloned().zip(row.into_iter().map(Option::unwrap_or_default)).collect()).collect()
    }

    /// A connection to the console.
    pub fn console(&self) -> Result<RawClient, LoginError> {
        self.login(ADMIN, CONSOLE).connect()
    }

    /// `GET path` at the HTTP port: status and body.
    pub fn http_get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a header");
        (head.split(' ').nth(1).expect("a status").parse().unwrap(), body.to_owned())
    }

    // Signals.

    /// Rewrites the configuration file (not yet read: see [`Self::hup`]).
    pub fn reconfigure(&mut self, change: impl FnOnce(Builder) -> Builder) {
        self.builder = change(std::mem::take(&mut self.builder));
        self.write_files();
    }

    /// SIGHUP: reload.
    pub fn hup(&self) {
        guard::send(self.pid(), Signal::SIGHUP);
    }

    /// SIGTERM: drain and end. See [`Self::wait_exit`].
    pub fn term(&self) {
        guard::send(self.pid(), Signal::SIGTERM);
    }

    /// Any signal.
    pub fn signal(&self, signal: Signal) {
        guard::send(self.pid(), signal);
    }

    /// SIGINT.
    pub fn int(&self) {
        guard::send(self.pid(), Signal::SIGINT);
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill9(&self) {
        let mut child = self.process.lock().take().expect("pgweir runs");
        guard::kill_tree(&mut child);
        self.guardian.forget();
    }

    /// Waits for the end of the process.
    pub fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        let mut child = self.process.lock().take().expect("pgweir runs");
        let status = {
            let deadline = pgweir::clock::now() + timeout;
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                if pgweir::clock::now() > deadline {
                    guard::kill_tree(&mut child);
                    break None;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        self.guardian.forget();
        status.unwrap_or_else(|| panic!("pgweir still ran after {timeout:?}"))
    }

    /// Starts it again on the same ports with the present configuration, once it has ended or been killed.
    pub fn restart(&self) {
        self.launch().unwrap_or_else(|log| panic!("pgweir did not start again:\n{log}"));
    }

    fn write_files(&self) {
        fs::write(self.dir.join("userlist.txt"), self.builder.userlist()).unwrap();
        let text = match &self.builder.ini {
            Some(ini) => in_place(ini, &self.dir, self.port()),
            None => self.builder.toml(&self.dir, self.port(), self.http_port()),
        };
        fs::write(self.config_path(), text).unwrap();
    }

    /// The command that starts it, with `args` before the file.
    pub fn command(&self, args: &[&str]) -> Command {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
        command
            .args(&self.builder.args)
            .args(args)
            .arg(self.config_path())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .process_group(0);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.envs(self.builder.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn launch(&self) -> Result<(), String> {
        self.launch_as(&mut self.command(&[]))
    }

    /// Starts it by this command, which is or becomes the process.
    fn launch_as(&self, command: &mut Command) -> Result<(), String> {
        let mut child = command.spawn().unwrap();
        self.guardian.watch(child.id());
        // On a shared port another may answer.
        let own = (!self.builder.general.contains("so_reuseport")).then(|| self.port());
        // The port for HTTP is bound after it.
        let has_http = self.builder.ini.is_none() && !self.builder.general.contains("http_listen");
        let ports: Vec<u16> = own.into_iter().chain(has_http.then(|| self.http_port())).collect();
        let accepts = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_ok();
        let ended = eventually("pgweir accepts", START_TIMEOUT, || match child.try_wait().unwrap() {
            Some(status) => Some(Some(status)),
            None => ports.iter().all(accepts).then_some(None),
        });
        if let Some(status) = ended {
            self.guardian.forget();
            return Err(format!("{status}\n{}", self.log_text()));
        }
        *self.process.lock() = Some(child);
        Ok(())
    }

    /// Starts another process that takes over (`-R`); the old one, once the new one accepts. An error is how
    /// the new one ended, and what it said.
    pub fn take_over(&self) -> Result<Old, String> {
        let ready = "pgweir is ready";
        self.wait_log(ready);
        let before = self.log_text();
        let mut child = self.command(&["-R"]).spawn().unwrap();
        let ended = eventually("another pgweir takes over", START_TIMEOUT, || match child.try_wait().unwrap() {
            Some(status) => Some(Some(status)),
            None => (self.log_text().matches(ready).count() > before.matches(ready).count()).then_some(None),
        });
        if let Some(status) = ended {
            return Err(format!("{status}\n{}", &self.log_text()[before.len()..]));
        }
        let old = self.process.lock().replace(child).expect("pgweir ran");
        let guardian = Guardian::over(&guard::temp_dir());
        guardian.watch(old.id());
        self.guardian.watch(self.pid());
        Ok(Old { process: Some(old), guardian })
    }
}

/// A pgweir that another one has taken over from.
pub struct Old {
    process: Option<Child>,
    guardian: Guardian,
}

impl Old {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().expect("it runs").try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait_exit(mut self, timeout: Duration) -> ExitStatus {
        let process = self.process.as_mut().expect("it runs");
        let status = eventually("the old pgweir ends", timeout, || process.try_wait().unwrap());
        self.guardian.forget();
        self.process = None;
        status
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            guard::kill_tree(&mut process);
            self.guardian.forget();
        }
    }
}

/// A pgbouncer.ini with `PORT` and `DIR` filled in.
pub fn in_place(ini: &str, dir: &Path, port: u16) -> String {
    ini.replace("PORT", &port.to_string()).replace("DIR", &dir.display().to_string())
}

impl Drop for Weir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of pgweir on port {}\n{}", self.port(), tail(&self.log_text(), 40));
        }
        if self.process.get_mut().is_some() {
            self.kill9();
        }
    }
}
