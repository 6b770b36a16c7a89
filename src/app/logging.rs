//! Log lines: structured events, to standard error and to a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{General, LogFormat};

/// Where log lines go.
#[derive(Debug, Clone)]
pub struct Log {
    stderr: bool,
    file: Arc<Mutex<Option<File>>>,
}

impl Log {
    /// Opens `logfile`; `stderr` tells whether lines go to standard error as well.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(general: &General, stderr: bool) -> Result<Self, String> {
        let log = Self { stderr, file: Arc::default() };
        log.reopen(general.logfile.as_deref())?;
        Ok(log)
    }

    /// Opens the file anew: it may have been moved away. What is written already goes with the old one.
    ///
    /// # Errors
    /// When it cannot be opened: the old one stays.
    pub fn reopen(&self, path: Option<&Path>) -> Result<(), String> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|why| format!("cannot open the logfile {}: {why}", path.display()))
        };
        *self.file.lock() = path.map(open).transpose()?;
        Ok(())
    }

    /// Starts logging as `log_format` and `log_level` say. A panic is logged like everything else.
    ///
    /// # Errors
    /// When the filter cannot be read, or logging was started before.
    pub fn start(&self, general: &General) -> Result<(), String> {
        let filter = EnvFilter::try_new(&general.log_level).map_err(|why| format!("log_level: {why}"))?;
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(self.clone()).with_ansi(false);
        match general.log_format {
            LogFormat::Text => lines.try_init(),
            LogFormat::Json => lines.json().flatten_event(true).try_init(),
        }
        .map_err(|why| format!("logging could not be started: {why}"))?;
        std::panic::set_hook(Box::new(|panic| {
            // The payload may quote what a client sent: the place is what is needed.
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(place, "a task failed by a fault in pgweir; its connection is closed");
        }));
        Ok(())
    }
}

impl Write for &Log {
    /// Takes whole lines. One that a full disk does not take is lost: nothing is left to say it with.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.stderr {
            drop(io::stderr().write_all(line));
        }
        if let Some(file) = &mut *self.file.lock() {
            drop(file.write_all(line));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}
