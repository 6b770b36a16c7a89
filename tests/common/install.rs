//! The PostgreSQL on this machine, and the account to run it as.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::unistd::{User, geteuid};

/// A directory with all the programs that a cluster needs.
#[derive(Debug)]
pub struct Install {
    /// Where they are.
    pub bindir: PathBuf,
    /// What `postgres --version` says, e.g. `15.14`.
    pub version: String,
}

/// An account other than root's.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Finds PostgreSQL once: the directory in `PGWEIR_TEST_BINDIR` as it is, or else the first complete one of those that
/// pg_config names, of Debian's (newest first) and of `PATH`.
pub fn install() -> &'static Install {
    static FOUND: OnceLock<Install> = OnceLock::new();
    FOUND.get_or_init(|| {
        let bindir = env::var_os("PGWEIR_TEST_BINDIR")
            .map(PathBuf::from)
            .or_else(|| candidates().into_iter().find(|dir| complete(dir)))
            .expect("no directory holds initdb, pg_ctl, pg_basebackup and postgres: is the server package installed?");
        let said = output(Command::new(bindir.join("postgres")).arg("--version")).expect("postgres --version");
        let version = said.split_whitespace().nth(2).expect("a version").to_owned();
        Install { bindir, version }
    })
}

impl Install {
    /// A program of this installation, run as [`account`], in no particular directory and with a plain environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = unprivileged(self.bindir.join(program));
        for name in env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").env("TZ", "UTC");
        command
    }
}

/// A command run as [`account`].
pub fn unprivileged(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null());
    if let Some(Account { uid, gid }) = account() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Whom to run PostgreSQL as, because it refuses root; none when we are not root.
pub fn account() -> Option<Account> {
    if !geteuid().is_root() {
        return None;
    }
    let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
    let user = user.expect("an account for PostgreSQL: postgres or nobody");
    Some(Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

fn candidates() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    all.extend(output(Command::new("pg_config").arg("--bindir")).map(|text| PathBuf::from(text.trim())));
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok())
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    all.extend(versions.into_iter().rev().map(|(_, dir)| dir));
    all.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    all
}

/// A lone `postgres` on the `PATH` is of no use: the programs must match it.
fn complete(dir: &Path) -> bool {
    ["initdb", "pg_ctl", "pg_basebackup", "postgres"].iter().all(|program| dir.join(program).is_file())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}
