//! Log lines to the system's log, by the datagrams that syslog(3) sends: RFC 3164 as log daemons take it from a unix socket.
//!
//! The time is left out, as the daemon has its own. Nothing waits for the daemon: a line that it does not take is counted, and the
//! next one that it takes is preceded by how many were lost.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::Level;

use crate::config::SyslogSettings;

/// Longest message in bytes: more than daemons keep of one.
const LONGEST: usize = 8192;

/// The way to the system's log.
#[derive(Debug)]
pub(super) struct Syslog {
    settings: SyslogSettings,
    /// Whether lines begin with the time, which is to be left out.
    timed: bool,
    socket: Option<UnixDatagram>,
    lost: u64,
}

impl Syslog {
    /// Connects; with the error if that fails, for it is tried again with every line.
    pub(super) fn open(settings: &SyslogSettings, timed: bool) -> (Self, Option<io::Error>) {
        let (socket, error) = match connect(&settings.socket) {
            Ok(socket) => (Some(socket), None),
            Err(error) => (None, Some(error)),
        };
        (Self { settings: settings.clone(), timed, socket, lost: 0 }, error)
    }

    /// Sends a line.
    pub(super) fn send(&mut self, level: Level, line: &[u8]) {
        let mut line = line.trim_ascii_end();
        if self.timed {
            let time = line.iter().position(|byte| *byte == b' ').unwrap_or(0);
            line = line.get(time..).unwrap_or_default().trim_ascii_start();
        }
        if self.lost > 0 {
            let note = format!("lines that syslog did not take: {}", self.lost);
            if self.deliver(Level::WARN, note.as_bytes()).is_err() {
                self.lost = self.lost.saturating_add(1);
                return;
            }
            self.lost = 0;
        }
        if self.deliver(level, line).is_err() {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn deliver(&mut self, level: Level, text: &[u8]) -> io::Result<()> {
        let priority = (u16::from(self.settings.facility.code()) << 3) | severity(level);
        let mut message = format!("<{priority}>{}[{}]: ", self.settings.ident, std::process::id()).into_bytes();
        message.extend_from_slice(text);
        message.truncate(LONGEST);
        if let Some(socket) = &self.socket {
            match socket.send(&message) {
                Ok(_) => return Ok(()),
                // It is there, and has no room at present.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // It has been started anew since.
                Err(_) => self.socket = None,
            }
        }
        let socket = connect(&self.settings.socket)?;
        let sent = socket.send(&message).map(drop);
        self.socket = Some(socket);
        sent
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The severities of syslog(3).
fn severity(level: Level) -> u16 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Facility;

    fn heard(daemon: &UnixDatagram) -> String {
        let mut bytes = [0; LONGEST + 1];
        let n = daemon.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..n]).replace(&format!("[{}]", std::process::id()), "[PID]")
    }

    #[test]
    fn lines_go_as_syslog_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("log");
        let daemon = UnixDatagram::bind(&socket).unwrap();
        let settings =
            SyslogSettings { on: true, facility: Facility::Local3, ident: "weir".to_owned(), socket: socket.clone() };
        let (mut syslog, error) = Syslog::open(&settings, true);
        assert!(error.is_none());
        syslog.send(Level::INFO, b"2026-01-01T00:00:00Z  INFO pgweir: hello you\n");
        assert_eq!(heard(&daemon), "<158>weir[PID]: INFO pgweir: hello you");
        syslog.send(Level::ERROR, &[b"t ", [b'x'; 2 * LONGEST].as_slice()].concat());
        assert_eq!(heard(&daemon).len(), LONGEST - std::process::id().to_string().len() + "PID".len());
        // Another one in its place, and none for a while.
        drop(daemon);
        std::fs::remove_file(&socket).unwrap();
        syslog.send(Level::WARN, b"t lost\n");
        syslog.send(Level::WARN, b"t lost too\n");
        let daemon = UnixDatagram::bind(&socket).unwrap();
        syslog.send(Level::WARN, b"t found\n");
        assert_eq!(heard(&daemon), "<156>weir[PID]: lines that syslog did not take: 2");
        assert_eq!(heard(&daemon), "<156>weir[PID]: found");
        let (mut whole, _) = Syslog::open(&settings, false);
        whole.send(Level::DEBUG, b"{\"a\": 1}\n");
        assert_eq!(heard(&daemon), "<159>weir[PID]: {\"a\": 1}");
    }

    #[test]
    fn a_daemon_that_reads_nothing_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("log");
        let daemon = UnixDatagram::bind(&socket).unwrap();
        let settings = SyslogSettings { on: true, facility: Facility::User, ident: String::new(), socket };
        let (mut syslog, _) = Syslog::open(&settings, false);
        let line = [b'x'; LONGEST];
        for _ in 0..10_000 {
            syslog.send(Level::INFO, &line);
        }
        assert!(syslog.lost > 0);
        daemon.set_nonblocking(true).unwrap();
        while daemon.recv(&mut [0; 1]).is_ok() {}
        let lost = syslog.lost;
        syslog.send(Level::INFO, b"again");
        daemon.set_nonblocking(false).unwrap();
        assert_eq!(heard(&daemon), format!("<12>[PID]: lines that syslog did not take: {lost}"));
        assert_eq!(heard(&daemon), "<14>[PID]: again");
    }

    #[test]
    fn where_nobody_listens_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let settings = SyslogSettings { on: true, socket: dir.path().join("nobody"), ..SyslogSettings::default() };
        assert!(Syslog::open(&settings, true).1.is_some());
    }
}
