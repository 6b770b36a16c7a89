//! `-d`: the process goes to the background, and who started it learns what became of that.
//!
//! ```text
//! pgweir -d FILE ──starts──> the same, by itself ──goes to the background──> pgweir
//!        waits   <────────────────── a pipe: "ready", or what went wrong ───────┘
//! ```
//!
//! The one in the middle is there because what goes to the background ends the process that it was: somebody has to stay and wait. It
//! is started anew rather than forked, which would be no safe thing to ask of a process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::process;

/// Set in the environment of the process in the middle.
const MARK: &str = "PGWEIR_IN_BACKGROUND";
/// All is well.
const READY: &str = "ready\n";

/// The way to who waits.
#[derive(Debug, Default)]
pub(super) struct Teller(Mutex<Option<File>>);

impl Teller {
    /// Tells that all is well.
    pub(super) fn ready(&self) {
        self.tell(READY);
    }

    /// Tells what is wrong, a line each.
    pub(super) fn failed(&self, whys: &[String]) {
        self.tell(&whys.iter().map(|why| format!("{why}\n")).collect::<String>());
    }

    /// Once; who waits may have left.
    fn tell(&self, text: &str) {
        let pipe = self.0.lock().ok().and_then(|mut pipe| pipe.take());
        drop(pipe.map(|mut pipe| pipe.write_all(text.as_bytes())));
    }
}

/// Whether this process is to go to the background itself: it was started for that, or the service manager has passed sockets to it, which
/// are for this process and no other.
pub(super) fn is_meant() -> bool {
    // A child of who got the sockets has inherited the number, and they are not for it.
    let is_ours = |pid: String| pid.parse() == Ok(std::process::id());
    std::env::var_os(MARK).is_some() || std::env::var("LISTEN_PID").is_ok_and(is_ours)
}

/// Goes to the background. To be called before any thread is started.
///
/// # Errors
/// When the system refuses.
pub(super) fn go() -> Result<Teller, String> {
    // Standard output is where the one who waits listens, and is nowhere afterwards.
    let pipe = std::env::var_os(MARK).map(|_| io::stdout().as_fd().try_clone_to_owned()).transpose();
    let pipe = pipe.map_err(|why| format!("cannot go to the background: {why}"))?;
    process::go_to_background()?;
    Ok(Teller(Mutex::new(pipe.map(File::from))))
}

/// Starts this program again, to go to the background, and waits until it serves.
///
/// # Errors
/// What it says went wrong; or that it ended without a word.
pub(super) fn start() -> Result<(), Vec<String>> {
    let failed = |why: io::Error| vec![format!("cannot go to the background: {why}")];
    let program = std::env::current_exe().map_err(failed)?;
    let mut middle = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut told = String::new();
    if let Some(mut pipe) = middle.stdout.take() {
        // Until all who could say something have ended, or one has said it.
        pipe.read_to_string(&mut told).map_err(failed)?;
    }
    let ended = middle.wait().map_err(failed)?;
    match told.as_str() {
        READY => Ok(()),
        // It has told who started it.
        "" if !ended.success() => Err(Vec::new()),
        "" => Err(vec!["pgweir ended before it was ready; its log says why".to_owned()]),
        whys => Err(whys.lines().map(str::to_owned).collect()),
    }
}
