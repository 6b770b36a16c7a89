//! The command line; everything else is in the library.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pgweir::app;

/// A routing proxy for PostgreSQL.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    /// The configuration file.
    #[arg(value_name = "FILE.toml", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks a configuration file: prints its mistakes, or "ok".
    Check {
        /// The configuration file.
        #[arg(value_name = "FILE.toml")]
        config: PathBuf,
    },
    /// Asks a health page by HTTP; fails unless it answers with a status from 200 to 299.
    Healthcheck {
        /// The page, e.g. http://127.0.0.1:9127/health/ready.
        #[arg(long)]
        url: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match (arguments.command, arguments.config) {
        (Some(Command::Check { config }), _) => check(&config),
        (Some(Command::Healthcheck { url }), _) => app::healthcheck::check(&url).map_err(|why| vec![why]),
        (None, Some(config)) => app::run(&config),
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

fn check(path: &Path) -> Result<(), Vec<String>> {
    let warnings = app::check(path)?;
    let mut stdout = io::stdout().lock();
    for line in warnings.iter().map(|w| format!("warning: {w}")).chain(["ok".to_owned()]) {
        writeln!(stdout, "{line}").map_err(|why| vec![format!("standard output: {why}")])?;
    }
    Ok(())
}
