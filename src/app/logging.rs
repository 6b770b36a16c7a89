//! Log lines: structured events, to standard error, to a file, and to the system's log.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::syslog::Syslog;
use crate::config::{General, LogFormat, SyslogSettings};

/// Where log lines go.
#[derive(Debug, Clone)]
pub struct Log {
    stderr: bool,
    /// Whether lines begin with the time.
    timed: bool,
    file: Arc<Mutex<Option<File>>>,
    syslog: Arc<Mutex<Option<Syslog>>>,
    filter: Arc<OnceLock<Filter>>,
}

/// Puts another filter in the place of the one in force.
struct Filter(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter")
    }
}

impl Log {
    /// Opens `logfile`; `stderr` tells whether lines go to standard error as well.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(general: &General, stderr: bool) -> Result<Self, String> {
        let timed = general.log_format == LogFormat::Text;
        let log = Self { stderr, timed, file: Arc::default(), syslog: Arc::default(), filter: Arc::default() };
        log.open_file(general.logfile.as_deref())?;
        Ok(log)
    }

    /// Opens the file anew: it may have been moved away. What is written already goes with the old one. The system's log is connected
    /// anew too.
    ///
    /// # Errors
    /// When the file cannot be opened: the old one stays.
    pub fn reopen(&self, general: &General) -> Result<(), String> {
        self.connect(&general.syslog);
        self.open_file(general.logfile.as_deref())
    }

    fn open_file(&self, path: Option<&Path>) -> Result<(), String> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|why| format!("cannot open the logfile {}: {why}", path.display()))
        };
        *self.file.lock() = path.map(open).transpose()?;
        Ok(())
    }

    /// Logs what `level` says from now on.
    ///
    /// # Errors
    /// When the filter cannot be read.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = read_filter(level)?;
        self.filter.get().map_or(Ok(()), |Filter(change)| change(filter))
    }

    fn connect(&self, settings: &SyslogSettings) {
        let (syslog, unreached) = match settings.on.then(|| Syslog::open(settings, self.timed)) {
            Some((syslog, unreached)) => (Some(syslog), unreached),
            None => (None, None),
        };
        *self.syslog.lock() = syslog;
        if let Some(error) = unreached {
            let socket = settings.socket.display();
            tracing::warn!(%socket, %error, "syslog cannot be reached: lines are lost to it until it can");
        }
    }

    /// Starts logging as `log_format` and `log_level` say. A panic is logged like everything else.
    ///
    /// # Errors
    /// When the filter cannot be read, or logging was started before.
    pub fn start(&self, general: &General) -> Result<(), String> {
        let lines = tracing_subscriber::fmt().with_env_filter(read_filter(&general.log_level)?);
        let lines = lines.with_writer(self.clone()).with_ansi(false);
        /// Starts, and keeps what changes the filter.
        macro_rules! start {
            ($lines:expr) => {{
                let lines = $lines.with_filter_reloading();
                let handle = lines.reload_handle();
                let change = move |filter| handle.reload(filter).map_err(|why| why.to_string());
                self.filter.get_or_init(|| Filter(Box::new(change)));
                lines.try_init()
            }};
        }
        match general.log_format {
            LogFormat::Text => start!(lines),
            LogFormat::Json => start!(lines.json().flatten_event(true)),
        }
        .map_err(|why| format!("logging could not be started: {why}"))?;
        self.connect(&general.syslog);
        std::panic::set_hook(Box::new(|panic| {
            // The payload may quote what a client sent: the place is what is needed.
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(place, "a task failed by a fault in pgweir; its connection is closed");
        }));
        Ok(())
    }
}

fn read_filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level).map_err(|why| format!("log_level: {why}"))
}

/// Takes the line of one event.
pub struct Line<'a> {
    log: &'a Log,
    level: Level,
}

impl Write for Line<'_> {
    /// Takes whole lines. One that a full disk does not take is lost: nothing is left to say it with.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.log.stderr {
            drop(io::stderr().write_all(line));
        }
        if let Some(file) = &mut *self.log.file.lock() {
            drop(file.write_all(line));
        }
        if let Some(syslog) = &mut *self.log.syslog.lock() {
            syslog.send(self.level, line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { log: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line { log: self, level: *meta.level() }
    }
}
