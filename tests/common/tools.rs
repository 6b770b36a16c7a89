//! psql, pgbench and Python against a port.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::install::install;

/// How long a tool may run unless told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// What a tool left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Its standard output; panics with all of it when it failed.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}

/// A tool that runs; killed with its children when dropped.
pub struct Running {
    child: Child,
    pipes: Option<[JoinHandle<String>; 2]>,
    what: String,
}

impl Running {
    /// Starts `command` in a process group of its own, with both outputs captured.
    pub fn start(command: &mut Command) -> Self {
        let what = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let pipes = [collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap())];
        Self { child, pipes: Some(pipes), what }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; panics, with its output so far, when that takes longer than `timeout`.
    pub fn wait(mut self, timeout: Duration) -> Output {
        let deadline = pgweir::clock::now() + timeout;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if pgweir::clock::now() > deadline {
                self.kill();
                let [stdout, stderr] = self.collected();
                panic!("not done within {timeout:?}: {}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.what);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let [stdout, stderr] = self.collected();
        Output { status, stdout, stderr }
    }

    fn collected(&mut self) -> [String; 2] {
        self.pipes.take().unwrap().map(|pipe| pipe.join().unwrap())
    }

    fn kill(&mut self) {
        if self.runs() {
            let group = Pid::from_raw(self.child.id().try_into().unwrap());
            let _gone = signal::killpg(group, Signal::SIGKILL);
            drop(self.child.wait());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Makes libpq's default target user `postgres` of `database` on `port`; a value set before wins.
fn aim(command: &mut Command, port: u16, database: &str) {
    command.env("PGHOST", "127.0.0.1").env("PGPORT", port.to_string()).env("PGUSER", "postgres");
    command.env("PGDATABASE", database).env("PGCONNECT_TIMEOUT", "15").env("LC_ALL", "C.UTF-8");
}

/// Debian keeps pgbench and psql beside the server; elsewhere they may be on the `PATH` only.
fn tool(name: &str) -> Command {
    let beside = install().bindir.join(name);
    let mut command = Command::new(if beside.is_file() { beside.as_os_str() } else { OsStr::new(name) });
    for variable in std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(variable);
    }
    command
}

/// psql with these arguments: `-X` and the target are given; set `PGPASSWORD` and the like on the command.
pub fn psql_command(port: u16, database: &str, args: &[&str]) -> Command {
    let mut command = tool("psql");
    aim(&mut command, port, database);
    command.arg("-X").args(args);
    command
}

/// One `psql -Atc SQL`.
pub fn psql(port: u16, database: &str, sql: &str) -> Output {
    Running::start(&mut psql_command(port, database, &["-Atc", sql])).wait(TIMEOUT)
}

/// Another of PostgreSQL's tools with these arguments, not yet started.
pub fn tool_command(name: &str, port: u16, database: &str, args: &[&str]) -> Command {
    let mut command = tool(name);
    aim(&mut command, port, database);
    command.args(args);
    command
}

/// pgbench with these arguments, not yet started.
pub fn pgbench_command(port: u16, database: &str, args: &[&str]) -> Command {
    let mut command = tool("pgbench");
    aim(&mut command, port, database);
    command.args(args);
    command
}

/// Runs pgbench to its end.
pub fn pgbench(port: u16, database: &str, args: &[&str]) -> Output {
    Running::start(&mut pgbench_command(port, database, args)).wait(TIMEOUT)
}

/// Python (`PGWEIR_PYTHON` or `python3`) with this script; psycopg's default target is `database` on `port`. `make test` sees
/// to it that psycopg is there.
pub fn python_command(port: u16, database: &str, script: &str) -> Command {
    let program = std::env::var_os("PGWEIR_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(program);
    aim(&mut command, port, database);
    command.args(["-u", "-c", script]);
    command
}

/// Runs a Python script to its end.
pub fn python(port: u16, database: &str, script: &str) -> Output {
    Running::start(&mut python_command(port, database, script)).wait(TIMEOUT)
}
