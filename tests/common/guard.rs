//! Nothing outlives a test.
//!
//! A [`Guardian`] is a shell that reads a pipe whose other end only the test process holds. It is told which
//! process to watch; when the pipe ends, because the handle was dropped or because the test process died in
//! whatever way, it kills that process with its children and removes the directory. `PR_SET_PDEATHSIG` would not
//! do: it follows the thread that started the child, not the process, and does not reach PostgreSQL's backends.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::eventually;

/// Reads process ids, one a line (an empty line: none), remembers the last, and acts on it at the end of input.
///
/// The parent is stopped before its children are killed, so that it starts no new ones. A PostgreSQL that dies by
/// SIGKILL leaves a System V shared memory segment behind, whose id is in the 7th line of its pid file.
const SCRIPT: &str = r#"
dir=$1
pid=
while read -r line; do pid=$line; done
children() {
    for stat in /proc/[0-9]*/stat; do
        read -r line < "$stat" || continue
        child=${line%% *}
        set -- ${line##*) }
        [ "$2" = "$pid" ] && kill -KILL "$child"
    done
}
end() {
    kill -STOP "$pid"
    children
    children
    kill -KILL "$pid"
}
if [ -n "$pid" ]; then end; fi
# A PostgreSQL that the process has started, and is no child of it: only if it is still the one of this directory.
if [ -f "$dir/data/postmaster.pid" ]; then
    pid=$(sed -n 1p "$dir/data/postmaster.pid")
    [ "$(readlink "/proc/$pid/cwd")" = "$dir/data" ] && end
fi
if [ -f "$dir/data/postmaster.pid" ]; then
    set -- $(sed -n 7p "$dir/data/postmaster.pid")
    [ -n "$2" ] && ipcrm -m "$2"
fi
rm -rf "$dir" || { sleep 1; rm -rf "$dir"; }
"#;

/// The watchdog of one directory and of at most one process at a time.
pub struct Guardian {
    shell: Mutex<Child>,
}

impl Guardian {
    /// Starts a watchdog that removes `dir` in the end.
    pub fn over(dir: &Path) -> Self {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "guardian"])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self { shell: Mutex::new(shell) }
    }

    /// Names the process to kill in the end.
    pub fn watch(&self, pid: u32) {
        self.tell(&format!("{pid}\n"));
    }

    /// The process has ended by itself; its id may be given to another.
    pub fn forget(&self) {
        self.tell("\n");
    }

    fn tell(&self, line: &str) {
        self.shell.lock().stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let shell = self.shell.get_mut();
        drop(shell.stdin.take());
        drop(shell.wait());
    }
}

/// Sends `signal` to `pid`; a process that is gone is no error.
pub fn send(pid: u32, signal: Signal) {
    match signal::kill(Pid::from_raw(pid.try_into().unwrap()), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => panic!("{signal} to {pid}: {error}"),
    }
}

/// State letter and parent of `pid`, from `/proc/PID/stat` (proc(5)).
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// The children of `parent`. PostgreSQL's backends leave the postmaster's process group, so the group will not do.
pub fn children(parent: u32) -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|(_, ppid)| ppid == parent))
        .collect()
}

/// Whether `pid` still runs (a zombie does not).
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// Stops `pid` and returns once it stands still.
pub fn freeze(pid: u32) {
    send(pid, Signal::SIGSTOP);
    eventually("process stopped", Duration::from_secs(10), || {
        stat(pid).is_none_or(|(state, _)| matches!(state, 'T' | 't' | 'Z' | 'X')).then_some(())
    });
}

/// Stops `pid` and all its children. The parent first: then the list of its children no longer changes.
pub fn freeze_tree(pid: u32) {
    freeze(pid);
    children(pid).into_iter().for_each(freeze);
}

/// Undoes [`freeze_tree`].
pub fn thaw_tree(pid: u32) {
    for child in children(pid) {
        send(child, Signal::SIGCONT);
    }
    send(pid, Signal::SIGCONT);
}

/// SIGKILL for `process` and all its children; returns when none of them runs.
pub fn kill_tree(process: &mut Child) {
    let pid = process.id();
    freeze(pid);
    let children = children(pid);
    for child in &children {
        send(*child, Signal::SIGKILL);
    }
    send(pid, Signal::SIGKILL);
    process.wait().unwrap();
    eventually("children killed", Duration::from_secs(10), || (!children.iter().any(|c| alive(*c))).then_some(()));
}

/// A fresh directory, removed by its own [`Guardian`] only.
pub fn temp_dir() -> PathBuf {
    tempfile::Builder::new().prefix("pgweir-").tempdir().unwrap().keep()
}
