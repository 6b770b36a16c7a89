//! The command line; everything else is in the library.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use pgweir::app;

/// A routing proxy for PostgreSQL.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    /// Run in the background; needs pidfile and logfile.
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
    /// PgBouncer's online restart, which is not supported.
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
        /// The page, e.g. http://127.0.0.1:9127/health/ready.
        #[arg(long)]
        url: String,
    },
}

/// For -R.
const NO_REBOOT: &str = "-R is not supported: to replace a running process, set so_reuseport = 1, start the new one beside \
                         the old, then end the old one with SIGTERM; each needs a pidfile and a unix_socket_dir of its own";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match (arguments.command, arguments.config) {
        (Some(Command::Check { config }), _) => check(&config),
        (Some(Command::Healthcheck { url }), _) => app::healthcheck::check(&url).map_err(|why| vec![why]),
        (Some(Command::Convert { config }), _) => convert(&config),
        (None, Some(_)) if arguments.reboot => Err(vec![NO_REBOOT.to_owned()]),
        (None, Some(config)) => {
            let Arguments { daemon, quiet, verbose, user, .. } = arguments;
            app::run(&config, app::Options { daemon, quiet, verbose, user })
        }
        // The parser asks for one of them.
        (None, None) => Err(vec!["no configuration file is named".to_owned()]),
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
