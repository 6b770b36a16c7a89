//! A server that the network has swallowed: nothing comes back from it, not even a refusal.
//!
//! Needs a network namespace, and with it root; elsewhere only `tests/limits.rs` shows that `tcp_user_timeout` counts.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "a test that cannot run here says so")]

mod common;

use std::fs;
use std::process::Command;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::{Address, Login, RawClient};
use common::tools::Running;
use common::wire::show;
use pgweir::clock;

const SOON: Duration = Duration::from_secs(20);

/// A cable between this machine and a namespace that stands for another.
struct Cable {
    namespace: String,
    here: String,
    subnet: String,
}

impl Cable {
    /// Lays it; none without the right to.
    fn lay() -> Option<Self> {
        let id = std::process::id();
        let (namespace, here, there) = (format!("pgweir-{id}"), format!("pgw{id}a"), format!("pgw{id}b"));
        let subnet = format!("10.213.{}", id % 250);
        if !ip(&format!("netns add {namespace}")) {
            return None;
        }
        let cable = Self { namespace, here, subnet };
        let Self { namespace, here, subnet } = &cable;
        let laid = [
            format!("link add {here} type veth peer name {there} netns {namespace}"),
            format!("addr add {subnet}.1/30 dev {here}"),
            format!("link set {here} up"),
            format!("-n {namespace} addr add {subnet}.2/30 dev {there}"),
            format!("-n {namespace} link set {there} up"),
            format!("-n {namespace} link set lo up"),
        ];
        laid.iter().all(|command| ip(command)).then_some(cable)
    }

    fn set(&self, state: &str) {
        assert!(ip(&format!("link set {} {state}", self.here)));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The cable goes with the namespace.
        ip(&format!("netns del {}", self.namespace));
    }
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).output().is_ok_and(|output| output.status.success())
}

/// The one error that ended the session, and how long that took.
fn swallowed(client: &mut RawClient) -> Duration {
    let begun = clock::now();
    client.query("SELECT 'into the void'");
    let messages = client.read_to_end();
    assert_eq!(show(&messages), "E(FATAL 08006)");
    begun.elapsed()
}

#[test]
fn a_server_that_the_network_swallows_is_given_up() {
    let Some(cable) = Cable::lay() else {
        eprintln!("skipped: no network namespace can be made here");
        return;
    };
    let subnet = &cable.subnet;
    let cluster = Cluster::with_config(&[("listen_addresses", &format!("127.0.0.1,{subnet}.1"))]);
    cluster.set_hba(&format!("host all all {subnet}.0/30 trust"));
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "[pgweir]\nlisten_addr = \"127.0.0.1\"\nunix_socket_dir = {dir:?}\nauth_type = \"any\"\ntcp_user_timeout = 1000\n\
         server_connect_timeout = \"1s\"\nserver_login_retry = \"1s\"\n\
         [databases.app]\nprimary = \"postgres://postgres@{subnet}.1:{}/postgres\"\npool_size = 2\n",
        cluster.port(),
        dir = dir.path(),
    );
    let path = dir.path().join("pgweir.toml");
    fs::write(&path, config).unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &cable.namespace, env!("CARGO_BIN_EXE_pgweir")]).arg(&path);
    let _weir = Running::start(&mut command);
    let socket = dir.path().join(".s.PGSQL.6432");
    let come = || Login::new(Address::Unix(socket.clone()), "anybody", "app").connect();
    let (mut open, mut resting) =
        (eventually("it accepts", SOON, || come().ok()), eventually("once more", SOON, || come().ok()));
    assert_eq!(open.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(open.value("SELECT 1"), "1");
    assert_eq!(resting.value("SELECT 1"), "1");

    cable.set("down");
    for client in [&mut open, &mut resting] {
        let took = swallowed(client);
        // TCP by itself is patient for a quarter of an hour.
        assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(60), "{took:?}");
    }
    cable.set("up");
    let answer = eventually("the server is used again", SOON, || come().ok()?.rows("SELECT 2").ok());
    assert_eq!(answer, [["2"]]);
}
