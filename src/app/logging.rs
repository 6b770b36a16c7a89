//! Log lines: structured events, to standard error.

use tracing_subscriber::EnvFilter;

use crate::config::{General, LogFormat};

/// Starts logging as `log_format` and `log_level` say. A panic is logged like everything else.
///
/// # Errors
/// When the filter cannot be read, or logging was started before.
pub fn start(general: &General) -> Result<(), String> {
    let filter = EnvFilter::try_new(&general.log_level).map_err(|why| format!("log_level: {why}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
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
