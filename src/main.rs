//! The command line; everything else is in the library.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use pgweir::app;

macro_rules! version {
    ($ldap:literal, $pam:literal) => {
        concat!(env!("CARGO_PKG_VERSION"), "\ntls: rustls\nldap: ", $ldap, "\npam: ", $pam, "\nsystemd: yes")
    };
}

/// The version, and then what it was built with, as PgBouncer tells it.
const VERSION: &str = if cfg!(feature = "ldap") {
    if cfg!(feature = "pam") { version!("yes", "yes") } else { version!("yes", "no") }
} else if cfg!(feature = "pam") {
    version!("no", "yes")
} else {
    version!("no", "no")
};

/// A routing proxy for PostgreSQL.
#[derive(Debug, Parser)]
#[command(version = VERSION, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    /// Run in the background; ends when that process serves. Needs pidfile, and logfile or syslog.
    #[arg(short, long)]
    daemon: bool,
    /// Do not log to standard error.
    #[arg(short, long)]
    quiet: bool,
    /// Log more; twice: log everything.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Become this user; only root can.
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Take over from the running process (online restart): no client is dropped or refused. Needs `unix_socket_dir`.
    #[arg(short = 'R', long)]
    reboot: bool,
    /// The configuration file: pgweir's own, or pgbouncer.ini.
    #[arg(value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks a configuration file: prints its mistakes, or "ok".
    Check {
        /// The configuration file.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Prints pgbouncer.ini in the form of pgweir's own file. Passwords are in it.
    Convert {
        /// The file to convert.
        #[arg(value_name = "FILE.ini")]
        config: PathBuf,
    },
    /// Asks a health page by HTTP; fails unless it answers with a status from 200 to 299.
    Healthcheck {
        /// The page, e.g. 127.0.0.1:9127/health/ready.
        #[arg(long, required_unless_present = "config", conflicts_with = "config")]
        url: Option<String>,
        /// The configuration file: /health/ready at its `http_listen` is asked.
        #[arg(value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            // With the terminal gone, the exit code is all that is left to say. It is PgBouncer's: 1 for every mistake.
            drop(told.print());
            return if told.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match (arguments.command, arguments.config) {
        (Some(Command::Check { config }), _) => check(&config),
        (Some(Command::Healthcheck { url: Some(url), .. }), _) => {
            app::healthcheck::check(&url).map_err(|why| vec![why])
        }
        (Some(Command::Healthcheck { config: Some(config), .. }), _) => app::healthcheck::check_configured(&config),
        (Some(Command::Convert { config }), _) => convert(&config),
        (None, Some(config)) => {
            let Arguments { daemon, quiet, verbose, user, reboot, .. } = arguments;
            app::run(&config, app::Options { daemon, quiet, verbose, user, reboot })
        }
        // The parser asks for one of them.
        (None | Some(Command::Healthcheck { .. }), _) => Err(vec!["no configuration file is named".to_owned()]),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(mistakes) => {
            let mut stderr = io::stderr().lock();
            for mistake in mistakes {
                // With standard error gone, the exit code is all that is left to say.
                drop(writeln!(stderr, "{mistake}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn convert(path: &Path) -> Result<(), Vec<String>> {
    let text = app::convert(path)?;
    io::stdout().lock().write_all(text.as_bytes()).map_err(|why| vec![format!("standard output: {why}")])
}

fn check(path: &Path) -> Result<(), Vec<String>> {
    let warnings = app::check(path)?;
    let mut stdout = io::stdout().lock();
    for line in warnings.iter().map(|w| format!("warning: {w}")).chain(["ok".to_owned()]) {
        writeln!(stdout, "{line}").map_err(|why| vec![format!("standard output: {why}")])?;
    }
    Ok(())
}
