//! Builds the parts from the configuration, starts them, and follows signals until the end.
//!
//! The main thread accepts, probes, serves HTTP, reloads and ends (`serve`); clients live on [`crate::worker`]s. `files` reads what a
//! configuration names, `live` makes what works by it, `state` is what the parts have in common, `accept` hands connections out, `probers`
//! says what is probed, `checks` whether the shards are as configured, `janitor` ends transactions that were left behind,
//! `console` runs commands and `snapshot` is the picture that it shows (`memory` a part of it); `ending` lets clients go,
//! `takeover` lets another process go on, `background` is -d, `doubts` what is probably not meant, and `notify` tells the service manager.

pub mod accept;
mod background;
pub mod checks;
pub mod console;
mod doubts;
pub mod ending;
pub mod explain_route;
pub mod files;
pub mod healthcheck;
mod janitor;
pub mod live;
pub mod logging;
mod memory;
pub mod notify;
mod own_command;
pub mod probers;
pub mod process;
mod serve;
pub mod snapshot;
pub mod state;
mod syslog;
mod tables;
pub mod takeover;

use std::path::Path;
use std::sync::Arc;

use crate::client::Shared;
use crate::client::database::Live;
use crate::clock;
use crate::config::diff::{self, Changes};
use crate::config::{self, Config, General};
use crate::worker;
use accept::Found;
use background::Teller;
use checks::Checks;
use janitor::Janitors;
use live::MockKey;
use logging::Log;
use probers::Probers;
use process::PidFile;
use state::State;
use takeover::Given;

/// Reads and checks a configuration, and what belongs to it: the files that are to be read, and whether the others could be written. Its
/// warnings. Who is root becomes the configured user on the way, for good: it is that one who must be able to.
///
/// # Errors
/// Every mistake, one a line.
pub fn check(path: &Path) -> Result<Vec<String>, Vec<String>> {
    let (config, mistakes) = config::examine(path);
    let mut mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let Some(config) = config else { return Err(mistakes) };
    if let Some(user) = &config.general.user
        && let Err(why) = process::become_user_if_root(user)
    {
        mistakes.push(config.places.mistake("user", format!("user: {why}")).to_string());
    }
    let content = files::read(&config);
    mistakes.extend(files::unwritable(&config, false));
    match content {
        Ok(content) if mistakes.is_empty() => Ok(config.warnings.into_iter().chain(content.warnings).collect()),
        content => {
            mistakes.extend(content.err().into_iter().flatten());
            Err(mistakes)
        }
    }
}

/// The configuration of a pgbouncer.ini in the form of our own file.
///
/// # Errors
/// Every mistake of the file, one a line.
pub fn convert(path: &Path) -> Result<String, Vec<String>> {
    config::convert(path).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

/// What the command line says beside the configuration's file; it goes before what the file says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Go to the background.
    pub daemon: bool,
    /// Do not log to standard error.
    pub quiet: bool,
    /// How much more to log: 1 is debug, 2 and more trace.
    pub verbose: u8,
    /// User to become.
    pub user: Option<String>,
    /// Take over from the process that runs.
    pub reboot: bool,
}

/// What watches the servers of the databases at work.
#[derive(Default)]
struct Watched {
    probers: Probers,
    checks: Checks,
    janitors: Janitors,
}

impl Watched {
    fn follow(&mut self, live: &Live, shared: &Arc<Shared>) {
        self.probers.follow(live, shared);
        self.checks.follow(live);
        self.janitors.follow(live, shared);
    }
}

/// What a reload needs again.
struct Launch {
    options: Options,
    log: Log,
    key: MockKey,
    /// Tells who waits for it that the process serves.
    teller: Teller,
}

/// Runs pgweir by the configuration at `path` until a signal or the console ends it.
///
/// # Errors
/// Why it could not start, one reason a line.
pub fn run(path: &Path, options: Options) -> Result<(), Vec<String>> {
    let one = |why: String| vec![why];
    // Absolute, so that a reload finds it whatever becomes of the working directory.
    let path = std::path::absolute(path).map_err(|why| one(format!("{}: {why}", path.display())))?;
    let config = load(&path, &options)?;
    let general = &config.general;
    if options.daemon && (general.pidfile.is_none() || (general.logfile.is_none() && !general.syslog.on)) {
        return Err(one("-d needs pidfile and logfile (or syslog) in the configuration".to_owned()));
    }
    if options.daemon && !background::is_meant() {
        return background::start();
    }
    if let Some(user) = &general.user {
        process::become_user(user)
            .map_err(|why| one(config.places.mistake("user", format!("user: {why}")).to_string()))?;
    }
    // Before this process becomes another one, which these are not meant for.
    let found = accept::managed().map_err(one)?;
    let unwritable = files::unwritable(&config, found.managed);
    if !unwritable.is_empty() {
        return Err(unwritable.into_iter().chain(files::read(&config).err().into_iter().flatten()).collect());
    }
    let log = Log::open(general, !options.quiet).map_err(one)?;
    log.start(general).map_err(one)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    process::warn_of_root();
    match process::raise_open_files() {
        Ok(most) => process::too_few_files(&config, most).iter().for_each(|why| tracing::warn!("{why}")),
        Err(why) => tracing::warn!("{why}"),
    }
    let general = general.clone();
    let mut launch = Launch { options, log, key: live::mock_key(&general), teller: Teller::default() };
    let mut live = live::build(config, None, launch.key)?;
    let before = if launch.options.reboot { before(&general, &found).map_err(one)? } else { None };
    if let Some(key) = before.as_ref().and_then(|before| before.mock) {
        // No salt has been shown or used yet.
        launch.key = key;
        live.mock = Arc::new(live.mock.keyed(key));
    }
    if !launch.options.daemon {
        return in_place(live, &launch, &general, (found, before));
    }
    if before.is_none() && !found.managed {
        // What keeps it from starting is told to who started it, as long as somebody is there to read it.
        rehearse(&general)?;
    }
    // No thread has been started yet: only this one would be there afterwards.
    launch.teller = background::go().map_err(one)?;
    in_place(live, &launch, &general, (found, before)).inspect_err(|whys| {
        whys.iter().for_each(|why| tracing::error!("{why}"));
        launch.teller.failed(whys);
    })
}

/// Finds out whether the pidfile can be written and the sockets be bound, and leaves all as it was.
fn rehearse(general: &General) -> Result<(), Vec<String>> {
    let _pidfile = general.pidfile.as_deref().map(PidFile::write).transpose().map_err(|why| vec![why])?;
    let runtime = worker::runtime().map_err(|why| vec![format!("cannot start: {why}")])?;
    runtime.block_on(async { accept::bind(general, Found::default()).map(drop) })
}

/// What the process that runs gives to this one, for -R.
fn before(general: &General, found: &Found) -> Result<Option<Given>, String> {
    if found.managed {
        tracing::warn!("-R: the service manager has passed sockets to listen on: starting as usual");
        return Ok(None);
    }
    takeover::ask(general)
}

fn in_place(
    live: Live,
    launch: &Launch,
    general: &General,
    (found, before): (Found, Option<Given>),
) -> Result<(), Vec<String>> {
    // The pidfile of a process that hands over is its own until it has.
    let path = general.pidfile.as_deref().filter(|_| before.is_none());
    let _pidfile = path.map(PidFile::write).transpose().map_err(|why| vec![why])?;
    let runtime = worker::runtime().map_err(|why| vec![format!("cannot start: {why}")])?;
    runtime.block_on(Box::pin(serve::main(live, launch, found, before)))
}

/// The configuration; with a mistake in it those of the files that it names are told as well.
fn load(path: &Path, options: &Options) -> Result<Config, Vec<String>> {
    let (config, mistakes) = config::examine(path);
    let mut mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let Some(config) = config else { return Err(mistakes) };
    if mistakes.is_empty() {
        return Ok(with_options(config, options));
    }
    mistakes.extend(files::unwritable(&config, false));
    mistakes.extend(files::read(&config).err().into_iter().flatten());
    Err(mistakes)
}

/// What the command line says stands above the file.
fn with_options(mut config: Config, options: &Options) -> Config {
    let general = &mut config.general;
    match options.verbose {
        0 => {}
        1 => "debug".clone_into(&mut general.log_level),
        _ => "trace".clone_into(&mut general.log_level),
    }
    if options.user.is_some() {
        general.user.clone_from(&options.user);
    }
    config
}

/// Reads the configuration again and goes by it from now on; what changed. With a mistake in it the old one stays.
fn reload(state: &State, launch: &Launch, watched: &mut Watched) -> Result<Changes, Vec<String>> {
    let path = {
        let live = state.shared.live.load();
        live.config.general.conffile.clone().unwrap_or_else(|| live.config.path.clone())
    };
    let outcome = load(&path, &launch.options).and_then(|config| install(state, launch, watched, config));
    // Also when the configuration is the old one: the file may have been rotated away.
    if let Err(why) = launch.log.reopen(&state.shared.live.load().config.general) {
        tracing::error!("{why}");
    }
    let mut reloads = state.reloads.lock();
    match &outcome {
        Ok(changes) => {
            state.changed.lock().clear();
            reloads.succeeded += 1;
            reloads.loaded_at = clock::wall();
            tracing::info!(%changes, "configuration reloaded");
        }
        Err(mistakes) => {
            reloads.failed += 1;
            mistakes.iter().for_each(|mistake| tracing::error!("{mistake}"));
            tracing::error!(
                mistakes = mistakes.len(),
                "the configuration was not reloaded: the old one stays in force"
            );
        }
    }
    outcome
}

/// Changes one setting of the configuration in force, until the next reload.
fn set(
    state: &State,
    launch: &Launch,
    watched: &mut Watched,
    (name, value): (&str, &str),
) -> Result<String, Vec<String>> {
    let old = state.shared.live.load_full();
    let told =
        |mistakes: Vec<config::ConfigError>| mistakes.into_iter().map(|mistake| mistake.message).collect::<Vec<_>>();
    let config = old.config.with(name, value).map_err(told)?;
    // What is said here is newer than the command line; as whom the process runs cannot be changed at all.
    let options = Options { verbose: 0, ..launch.options.clone() };
    let changes = install(state, launch, watched, with_options(config, &options))?;
    if name == "logfile" || name.starts_with("syslog") {
        launch.log.reopen(&state.shared.live.load().config.general).map_err(|why| vec![why])?;
    }
    state.changed.lock().insert(name.to_owned());
    tracing::info!(%changes, setting = name, "setting changed");
    Ok(changes.to_string())
}

fn install(state: &State, launch: &Launch, watched: &mut Watched, mut config: Config) -> Result<Changes, Vec<String>> {
    let old = state.shared.live.load_full();
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut changes = diff::diff(&old.config, &config);
    live::keep_fixed(&mut config.general, &old.config.general);
    let new = live::build(config, Some(&old), launch.key)?;
    changes.files = live::read_anew(&old, &new);
    if new.config.general.log_level != old.config.general.log_level {
        launch.log.set_level(&new.config.general.log_level).map_err(|why| vec![why])?;
    }
    for change in &changes.needs_restart {
        tracing::warn!(setting = change.name, now = change.old, then = change.new, "the setting needs a restart");
    }
    state.replace(new);
    let live = state.shared.live.load_full();
    live::derive_ahead(&live);
    watched.follow(&live, &state.shared);
    Ok(changes)
}
