//! The process as the system sees it: its user, its pidfile, its terminal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::kill;
use nix::unistd::{Gid, Group, Pid, Uid, User, daemon, geteuid, getuid, initgroups, setgid, setuid};

use crate::config::{Config, Database};

/// The number of a group.
///
/// # Errors
/// That there is no such group.
pub fn group(name: &str) -> Result<u32, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("unix_socket_group: there is no group {name:?}")),
        Err(why) => Err(format!("unix_socket_group: cannot look up the group {name:?}: {why}")),
    }
}

/// Becomes `name`, for good. To be called before any thread is started.
///
/// # Errors
/// There is no such user, or the process is neither root nor that user already.
pub fn become_user(name: &str) -> Result<(), String> {
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => return Err(format!("there is no user {name:?} on this system")),
        Err(why) => return Err(format!("cannot look up the user {name:?}: {why}")),
    };
    if getuid() == user.uid {
        return Ok(());
    }
    if !getuid().is_root() {
        return Err(format!("only root can become user {name:?}"));
    }
    switch(&user.name, user.uid, user.gid).map_err(|why| format!("cannot become user {name:?}: {why}"))
}

/// The same for root; for anybody else only whether there is such a user.
///
/// # Errors
/// There is no such user, or the system refuses.
pub fn become_user_if_root(name: &str) -> Result<(), String> {
    if getuid().is_root() {
        return become_user(name);
    }
    match User::from_name(name) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(format!("there is no user {name:?} on this system")),
        Err(why) => Err(format!("cannot look up the user {name:?}: {why}")),
    }
}

fn switch(name: &str, uid: Uid, gid: Gid) -> Result<(), String> {
    let name = std::ffi::CString::new(name).map_err(|why| why.to_string())?;
    // In this order: who is root no more may not change groups.
    initgroups(&name, gid).and_then(|()| setgid(gid)).and_then(|()| setuid(uid)).map_err(|why| why.to_string())
}

/// Goes on in the background: the caller's process ends, and this one has no terminal. To be called before any thread is started.
///
/// # Errors
/// When the system refuses.
pub fn go_to_background() -> Result<(), String> {
    // The working directory stays: names of files are relative to it.
    daemon(true, false).map_err(|why| format!("cannot go to the background: {why}"))
}

/// Lets the process open as many files as the system allows it at most (`ulimit -Hn`): that number.
///
/// # Errors
/// When the system refuses.
pub fn raise_open_files() -> Result<u64, String> {
    let failed = |why: Errno| format!("cannot raise the number of files that may be open: {why}");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)?;
    }
    Ok(hard)
}

/// What is to be said of `most` open files, if the configuration may need more: its clients, and the pools of one user of each database.
#[must_use]
pub fn too_few_files(config: &Config, most: u64) -> Option<String> {
    let pools = |db: &Database| {
        let servers: usize = db.shards.iter().map(|shard| shard.servers.len()).sum();
        let all = u64::from(db.pool_size.saturating_add(db.reserve_pool_size)).saturating_mul(servers as u64);
        if db.max_db_connections == 0 { all } else { all.min(u64::from(db.max_db_connections)) }
    };
    let servers: u64 = config.databases.values().map(pools).sum();
    let clients = u64::from(config.general.max_client_conn);
    let needed = clients.saturating_add(servers).saturating_add(OWN_FILES);
    (needed > most).then(|| {
        format!(
            "only {most} files may be open (ulimit -Hn), and {needed} may be needed: {clients} for clients (max_client_conn), \
             {servers} for servers (one user of each database), {OWN_FILES} for others; raise it (LimitNOFILE in systemd)"
        )
    })
}

/// For listeners, logs, timers and look-ups.
const OWN_FILES: u64 = 64;

/// Warns of what root is not needed for.
pub fn warn_of_root() {
    if geteuid().is_root() {
        tracing::warn!("running as root, which nothing here needs: set `user`, or start with -u");
    }
}

/// A pidfile, removed when dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// Whether it was that of the process before.
    inherited: bool,
}

impl PidFile {
    /// Writes the process id into a new file. One that a process has left behind which is no more is replaced.
    ///
    /// # Errors
    /// The process that the file names is there, or the file cannot be written.
    pub fn write(path: &Path) -> Result<Self, String> {
        Self::make_way(path, None)?;
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let written = file.and_then(|mut file: File| writeln!(file, "{}", std::process::id()));
        written.map_err(|why| format!("cannot write the pidfile {}: {why}", path.display()))?;
        Ok(Self { path: path.to_owned(), inherited: false })
    }

    /// Writes the process id in the place of that of process `before`, which this one takes over from. Who reads the file sees either.
    ///
    /// # Errors
    /// A third process that the file names is there, or the file cannot be written; it is as it was.
    pub fn replace(path: &Path, before: u32) -> Result<Self, String> {
        let inherited = Self::make_way(path, Some(before))?;
        put(path, std::process::id()).map_err(|why| format!("cannot replace the pidfile {}: {why}", path.display()))?;
        Ok(Self { path: path.to_owned(), inherited })
    }

    /// Removes a file that nobody needs any more, unless it is that of process `before`: whether it is.
    fn make_way(path: &Path, before: Option<u32>) -> Result<bool, String> {
        let failed = |what: &str, why: io::Error| format!("cannot {what} the pidfile {}: {why}", path.display());
        match fs::read_to_string(path) {
            Ok(text) if before.is_some_and(|pid| text.trim() == pid.to_string()) => Ok(true),
            Ok(text) if is_stale(&text) => fs::remove_file(path).map(|()| false).map_err(|why| failed("remove", why)),
            Ok(text) => {
                let text = text.trim();
                let file = path.display();
                Err(match text.parse::<u32>() {
                    Ok(pid) => format!("the pidfile {file} names process {pid}, which runs: does pgweir run already?"),
                    Err(_) => {
                        format!("the pidfile {file} holds no number, so it is not removed: is it a pidfile at all?")
                    }
                })
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(why) => Err(failed("read", why)),
        }
    }

    /// The takeover has failed: it is the other process's again, or none where that had none.
    pub fn give_back(self, pid: u32) {
        if !self.inherited {
            return;
        }
        if let Err(why) = put(&self.path, pid) {
            tracing::error!("the pidfile {} names this process, but {pid} goes on: {why}", self.path.display());
        }
    }
}

/// Writes a process id beside the file and puts that in its place. What lies beside it is not written to: in a directory of several
/// users it may be a link of somebody's.
fn put(path: &Path, pid: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    match fs::remove_file(&beside) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).open(&beside);
    let written = file.and_then(|mut file| writeln!(file, "{pid}"));
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| drop(fs::remove_file(&beside)))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it already; and it may be that of a process which has taken over.
        if fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == std::process::id().to_string()) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Whether a pidfile's text names a process that is no more. A text that is no number is nobody's to remove.
fn is_stale(text: &str) -> bool {
    match text.trim().parse::<i32>() {
        // After a restart of a container a process may find its own number.
        Ok(pid) if pid > 0 => {
            Pid::this().as_raw() == pid || kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) || is_zombie(pid)
        }
        _ => false,
    }
}

/// Whether a process has ended, and nobody has asked yet how. Where the system does not tell, it has not.
fn is_zombie(pid: i32) -> bool {
    let told = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold anything, brackets as well.
    told.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_is_one_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        // Process 1 always is; the largest number never.
        fs::write(&path, "1\n").unwrap();
        assert!(PidFile::write(&path).unwrap_err().contains("names process 1, which runs: does pgweir run already?"));
        assert!(
            PidFile::replace(&path, 2).unwrap_err().contains("does pgweir run already?"),
            "it is a third process's"
        );
        let taken = PidFile::replace(&path, 1).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        taken.give_back(1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n", "it is not ours to remove");
        // Where there was none, none is left.
        let none = directory.path().join("none");
        PidFile::replace(&none, 1).unwrap().give_back(1);
        assert!(!none.exists());
        assert!(PidFile::replace(&directory.path().join("no/pid"), 1).unwrap_err().contains("cannot replace"));
        fs::write(&path, "garbage").unwrap();
        assert!(PidFile::write(&path).unwrap_err().contains("holds no number"));
        fs::write(&path, format!("{}\n", i32::MAX)).unwrap();
        drop(PidFile::write(&path).unwrap());
        assert!(PidFile::write(&directory.path().join("no/pid")).unwrap_err().contains("cannot write"));
    }

    #[test]
    fn a_process_that_has_ended_is_no_more_though_nobody_has_asked() {
        let path = tempfile::tempdir().unwrap().keep().join("pid");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(&path, child.id().to_string()).unwrap();
        assert!(PidFile::write(&path).unwrap_err().contains("which runs"));
        child.kill().unwrap();
        let deadline = crate::clock::now() + std::time::Duration::from_secs(10);
        while !is_zombie(i32::try_from(child.id()).unwrap()) {
            assert!(crate::clock::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        drop(PidFile::write(&path).unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn a_link_beside_the_pidfile_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let [path, victim] = ["pid", "victim"].map(|name| directory.path().join(name));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("pid.new")).unwrap();
        let _file = PidFile::replace(&path, 1).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn files_are_counted_for_clients_and_servers() {
        let text = "[users.u]\n[pgweir]\nauth_type = \"trust\"\nmax_client_conn = 100\ndefault_pool_size = 10\n[databases.a]\n\
                    primary = \"postgres://h/a\"\nreplicas = [\"postgres://r/a\"]\n[databases.b]\nprimary = \"postgres://h/b\"\n\
                    max_db_connections = 3\n";
        let config = crate::config::parse(text, Path::new("t.toml")).unwrap();
        // 100, two pools of 10, 3, and 64.
        assert_eq!(too_few_files(&config, 187), None);
        let told = too_few_files(&config, 186).unwrap();
        assert!(told.contains("only 186 files") && told.contains("187 may be needed"), "{told}");
    }

    #[test]
    fn users_and_groups_are_looked_up() {
        assert_eq!(group("root"), Ok(0));
        assert!(group("no-such-group").unwrap_err().contains("there is no group"));
        assert!(become_user("no-such-user").unwrap_err().contains("there is no user"));
    }
}
