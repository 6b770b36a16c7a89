//! Under a service manager: sockets that it passes, and what it is told. A socket and a script stand for systemd.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::cluster::Cluster;
use common::ports::Port;
use common::raw::{Address, Login, RawClient};
use common::weir::{Builder, Weir};
use common::wire::show;

const SOON: Duration = Duration::from_secs(30);

/// What `NOTIFY_SOCKET` leads to.
struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, dir }
    }

    fn path(&self) -> String {
        self.dir.path().join("notify").display().to_string()
    }

    /// The next message, those of the watchdog left out.
    fn next(&self) -> String {
        loop {
            let mut bytes = [0; 4096];
            let len = self.socket.recv(&mut bytes).unwrap();
            let text = String::from_utf8(bytes[..len].to_vec()).unwrap();
            if text.trim() != "WATCHDOG=1" {
                return text;
            }
        }
    }
}

fn over(cluster: &Cluster, manager: &Manager) -> Builder {
    Weir::builder().cluster("app", cluster, &[]).env("NOTIFY_SOCKET", &manager.path())
}

// What it is told.

#[test]
fn it_is_told_of_every_turn() {
    let (cluster, manager) = (Cluster::start(), Manager::new());
    let weir = over(&cluster, &manager).start();
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    assert!(ready.contains(&format!("STATUS=listening on 127.0.0.1:{}\n", weir.port())), "{ready}");
    for mistake in [false, true] {
        if mistake {
            std::fs::write(weir.config_path(), "nonsense").unwrap();
        }
        weir.hup();
        let reloading = manager.next();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
        assert!(time.trim().parse::<u64>().unwrap() > 0);
        let done = manager.next();
        // Also with a mistake: it serves by the configuration that it has.
        assert!(done.starts_with("READY=1\nSTATUS="), "{done}");
        assert_eq!(done.contains("has mistakes"), mistake, "{done}");
    }
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    weir.term();
    let stopping = manager.next();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS=shutting down: 1 clients"), "{stopping}");
    busy.run("COMMIT");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
}

#[test]
fn the_watchdog_hears_from_it_if_it_asks() {
    let (cluster, manager) = (Cluster::start(), Manager::new());
    let _weir = over(&cluster, &manager).env("WATCHDOG_USEC", "300000").start();
    let mut beats = 0;
    while beats < 3 {
        let mut bytes = [0; 4096];
        let len = manager.socket.recv(&mut bytes).unwrap();
        beats += usize::from(bytes[..len].starts_with(b"WATCHDOG=1"));
    }
}

#[test]
fn it_is_told_who_takes_over() {
    let (cluster, manager) = (Cluster::start(), Manager::new());
    let dir = tempfile::tempdir().unwrap();
    let general = format!("unix_socket_dir = {:?}", dir.path());
    let weir = over(&cluster, &manager).general(&general).env("WATCHDOG_USEC", "60000000").start();
    let mut resting = weir.client("app");
    manager.next();
    let old = weir.take_over().unwrap();
    let told = [manager.next(), manager.next()];
    let main = format!("MAINPID={}\nWATCHDOG_USEC=0", weir.pid());
    assert!(told.iter().any(|text| text.trim() == main), "{told:?}");
    assert!(told.iter().any(|text| text.starts_with("READY=1\n")), "{told:?}");
    // The end of the old one is not that of the service.
    common::guard::send(old.pid(), nix::sys::signal::Signal::SIGTERM);
    resting.read_to_end();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
    weir.hup();
    let next = manager.next();
    assert!(next.starts_with("RELOADING=1\n"), "{next}");
}

// Sockets that it passes.

/// Binds a TCP port and a unix socket, and becomes pgweir as systemd starts it.
const LAUNCHER: &str = r"
import os, socket, sys
port, path, program = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
# As `ListenStream=PORT` does where there is IPv6: one socket for both.
both = socket.has_dualstack_ipv6()
tcp = socket.create_server(('', port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
unix.bind(path)
unix.listen(10)
high = [os.dup(s.fileno()) for s in (tcp, unix)]
tcp.close(), unix.close()
high = [os.dup2(fd, 20 + at) for at, fd in enumerate(high)]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at)
os.environ['LISTEN_PID'] = str(os.getpid())
os.environ['LISTEN_FDS'] = '2'
os.execv(program[0], program)
";

fn launched(builder: Builder, path: &PathBuf) -> Weir {
    builder.start_by(|weir, pgweir| {
        let mut command = Command::new(std::env::var("PGWEIR_PYTHON").unwrap_or_else(|_| "python3".to_owned()));
        command.args(["-c", LAUNCHER]).arg(weir.port().to_string()).arg(path).arg(pgweir.get_program());
        command.args(pgweir.get_args()).current_dir(weir.dir());
        let log = std::fs::File::options().create(true).append(true).open(weir.dir().join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command
    })
}

#[test]
fn its_sockets_stand_for_the_configured_ones() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let other = Port::claim();
    let path = dir.path().join("weir.sock");
    let general = format!("listen_port = {}\nunix_socket_dir = {:?}", other.number(), dir.path());
    let weir = launched(Weir::builder().general(&general).cluster("app", &cluster, &[]), &path);
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    let row = weir.admin_table("SHOW CLIENTS").into_iter().find(|row| row["database"] == "app").unwrap();
    assert_eq!((row["addr"].as_str(), row["local_addr"].as_str()), ("127.0.0.1", "127.0.0.1"), "not ::ffff:127.0.0.1");
    client.terminate();
    let local = || Login::new(Address::Unix(path.clone()), "pgbouncer", "pgbouncer").connect();
    assert_eq!(local().unwrap().rows("SHOW VERSION").unwrap().len(), 1, "the owner comes by the unix socket");
    assert!(RawClient::open(Address::Tcp(other.number())).is_err(), "the configured port is not used");
    assert!(!dir.path().join(format!(".s.PGSQL.{}", other.number())).exists());
    weir.wait_log("the service manager has passed sockets");
    weir.hup();
    weir.wait_log("configuration reloaded");
    assert_eq!(weir.client("app").value("SELECT 2"), "2");
    // While it ends, TCP is closed, and the unix socket leads to the console.
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    weir.term();
    weir.wait_log("shutting down");
    assert!(local().is_ok());
    let refused = Login::new(Address::Unix(path.clone()), "postgres", "app").connect();
    assert_eq!(refused.unwrap_err().code(), "57P03");
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&busy.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
    assert!(path.exists(), "the file is the service manager's");
}

#[test]
fn what_its_sockets_stand_for_is_not_looked_at() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.sock");
    let general = "unix_socket_dir = \"/nowhere/at/all\"\nunix_socket_group = \"no such group\"";
    let weir = launched(Weir::builder().general(general).cluster("app", &cluster, &[]), &path);
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

#[test]
fn its_sockets_are_handed_over_as_they_are() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    // One of them is where -R looks.
    let at = Port::claim();
    let path = dir.path().join(format!(".s.PGSQL.{}", at.number()));
    let general = format!("listen_port = {}\nunix_socket_dir = {:?}", at.number(), dir.path());
    let weir = launched(Weir::builder().general(&general).cluster("app", &cluster, &[]), &path);
    let old = weir.take_over().unwrap();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
    assert!(RawClient::open(Address::Tcp(at.number())).is_err());
    weir.term();
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
    assert!(path.exists(), "the file is the service manager's");
}

#[test]
fn something_else_than_sockets_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pgweir.toml");
    let text = "[pgweir]\nauth_type = \"trust\"\n[databases.a]\nprimary = \"postgres://h/a\"\n[users.u]\n";
    std::fs::write(&config, text).unwrap();
    let script =
        format!("LISTEN_PID=$$ LISTEN_FDS=1 exec {} {} 3</dev/null", env!("CARGO_BIN_EXE_pgweir"), config.display());
    let output = common::tools::Running::start(Command::new("sh").args(["-c", &script])).wait(SOON);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains("socket 0 of the service manager (LISTEN_FDS)"), "{output:?}");
}
