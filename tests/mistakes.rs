//! Whatever is wrong with a configuration is told in one round, each mistake with its file and line: in the file itself, in what it
//! includes, in the files that it names, and of those that are to be written. By `check` and at the start, from either form.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::certs;
use common::raw::{Address, Login};
use common::tools::{Output, Running};
use common::weir::Weir;

const SOON: Duration = Duration::from_secs(15);

fn pgweir(args: &[&str]) -> Output {
    Running::start(Command::new(env!("CARGO_BIN_EXE_pgweir")).args(args)).wait(SOON)
}

/// Runs `check` on a file, and pgweir itself: both tell the same mistakes, which are `expected` without regard to their order.
fn tells(dir: &Path, file: &str, expected: &[&str]) {
    let path = dir.join(file).display().to_string();
    for args in [vec!["check", path.as_str()], vec![path.as_str()]] {
        let output = pgweir(&args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let mut told: Vec<String> =
            output.stderr.lines().map(|line| line.replace(&dir.display().to_string(), "DIR")).collect();
        let mut expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        told.sort();
        expected.sort();
        assert_eq!(told, expected, "{args:?}");
    }
}

/// The files that both forms name: each has mistakes of its own.
fn write_files(dir: &Path) {
    fs::write(dir.join("users.txt"), "\"a\" \"x\"\nnobody\n").unwrap();
    fs::write(dir.join("hba.conf"), "host all all all scram\ninclude none.conf\n").unwrap();
    fs::write(dir.join("resolv.conf"), "nameserver nowhere.example\n").unwrap();
    fs::write(dir.join("pid"), "garbage\n").unwrap();
}

const METHODS: &str = "expected \"trust\", \"reject\", \"md5\", \"scram-sha-256\", \"password\", \"cert\", \"peer\", \"ldap\" or \"pam\"; did \
                       you mean \"scram-sha-256\"?";

const NO_FILE: &str = "No such file or directory (os error 2)";

#[test]
fn of_pgbouncers_file() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    let d = dir.path().display();
    fs::write(
        dir.path().join("p.ini"),
        format!(
            "[databases]\na = host=h prot=1\nwhatever\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlog_connections = maybe\n\
             auth_type = hba\nauth_file = {d}/users.txt\nauth_hba_file = {d}/hba.conf\nauth_ident_file = {d}/ident.conf\n\
             %include {d}/more.ini\n%include {d}/none.ini\n"
        ),
    )
    .unwrap();
    fs::write(
        dir.path().join("more.ini"),
        format!(
            "; more\nlogfile = {d}/logs/log\npidfile = {d}/pid\nunix_socket_dir = {d}/run\nunix_socket_group = no-such-group\n\
             client_tls_sslmode = require\nclient_tls_cert_file = {d}/c.crt\nclient_tls_key_file = {d}/c.key\n\
             server_tls_sslmode = verify-ca\nserver_tls_ca_file = {d}/ca.crt\nresolv_conf = {d}/resolv.conf\n"
        ),
    )
    .unwrap();
    let expected = [
        "DIR/p.ini:2: unknown setting \"prot\" in [databases] a; did you mean \"port\"?".to_owned(),
        "DIR/p.ini:3: expected NAME = VALUE, [SECTION], %include FILE or a comment".to_owned(),
        "DIR/p.ini:6: log_connections = \"maybe\" is not a boolean; expected \"true\", \"false\", \"yes\", \"no\", \"on\", \"off\", \
         \"1\" or \"0\""
            .to_owned(),
        format!("DIR/p.ini:10: auth_ident_file DIR/ident.conf: cannot read the file: {NO_FILE}"),
        format!("DIR/p.ini:12: %include DIR/none.ini: cannot read the file: {NO_FILE}"),
        "DIR/more.ini:2: logfile DIR/logs/log: there is no directory DIR/logs".to_owned(),
        "DIR/more.ini:3: pidfile DIR/pid: it holds no number: is it a pidfile at all?".to_owned(),
        "DIR/more.ini:4: unix_socket_dir DIR/run: there is no directory DIR/run".to_owned(),
        "DIR/more.ini:5: unix_socket_group: there is no group \"no-such-group\"".to_owned(),
        format!("DIR/more.ini:7: client_tls_cert_file DIR/c.crt: cannot read the file: {NO_FILE}"),
        format!("DIR/more.ini:8: client_tls_key_file DIR/c.key: cannot read the file: {NO_FILE}"),
        format!("DIR/more.ini:10: server_tls_ca_file DIR/ca.crt: cannot read the file: {NO_FILE}"),
        "DIR/users.txt:2: expected a user name in double quotes".to_owned(),
        format!("DIR/hba.conf:1: the method \"scram\" is not supported; {METHODS}"),
        format!("DIR/hba.conf:2: cannot read the file DIR/none.conf: {NO_FILE}"),
        "DIR/resolv.conf:1: \"nowhere.example\" is no address of a name server".to_owned(),
    ];
    tells(dir.path(), "p.ini", &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn of_our_own_file() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    fs::write(
        dir.path().join("p.toml"),
        "[pgweir]\nlisten_prot = 1\nauth_type = \"hba\"\nauth_file = \"users.txt\"\nauth_hba_file = \"hba.conf\"\nlogfile = \"logs/log\"\n\
         pidfile = \"pid\"\nunix_socket_dir = \"/dev/null\"\nclient_tls_sslmode = \"prefered\"\nclient_tls_cert_file = \"c.crt\"\n\
         client_tls_key_file = \"c.key\"\nadmin_users = \"open\nresolv_conf = \"none.conf\"\nserver_tls_ca_file = \"ca.crt\"\n\
         server_tls_sslmode = \"verify-full\"\n[databases.a]\nprimary = \"postgres://h/a\"\npool_mode = \"sesion\"\n\
         [users.u]\npassword = \"SCRAM-SHA-256$hunter2\"\n",
    )
    .unwrap();
    let path = dir.path().join("p.toml").display().to_string();
    for args in [vec!["check", path.as_str()], vec![path.as_str()]] {
        let output = pgweir(&args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = output.stderr.replace(&dir.path().display().to_string(), "DIR");
        for line in [
            "DIR/p.toml:2: unknown setting \"listen_prot\" in [pgweir]; did you mean \"listen_port\"?",
            "DIR/p.toml:6: logfile DIR/logs/log: there is no directory DIR/logs",
            "DIR/p.toml:7: pidfile DIR/pid: it holds no number: is it a pidfile at all?",
            "DIR/p.toml:8: unix_socket_dir /dev/null: /dev/null is no directory",
            "DIR/p.toml:9: client_tls_sslmode = \"prefered\" is not known; expected \"disable\", \"allow\", \"prefer\", \"require\", \
             \"verify-ca\" or \"verify-full\"; did you mean \"prefer\"?",
            "DIR/p.toml:12: not valid TOML: ",
            &format!("DIR/p.toml:13: resolv_conf DIR/none.conf: cannot read the file: {NO_FILE}"),
            &format!("DIR/p.toml:14: server_tls_ca_file DIR/ca.crt: cannot read the file: {NO_FILE}"),
            "DIR/p.toml:18: pool_mode = \"sesion\" is not known; expected \"session\", \"transaction\" or \"statement\"; did you mean \
             \"session\"?",
            "DIR/p.toml:20: password of user \"u\": not a valid SCRAM secret",
            "DIR/users.txt:2: expected a user name in double quotes",
            "DIR/hba.conf:1: the method \"scram\" is not supported",
        ] {
            assert!(told.lines().any(|told| told.starts_with(line)), "{line} is not in\n{told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn certificates_and_keys_that_do_not_go_together() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| certs::self_signed(name, &[]).write(dir.path(), name));
    let text = format!(
        "[pgweir]\nauth_type = \"trust\"\nclient_tls_sslmode = \"require\"\nclient_tls_cert_file = {:?}\nclient_tls_key_file = {:?}\n\
         [databases.a]\nprimary = \"postgres://h/a\"\n[users.u]\n",
        one.0, other.1
    );
    fs::write(dir.path().join("p.toml"), text).unwrap();
    let path = dir.path().join("p.toml").display().to_string();
    let output = pgweir(&["check", &path]);
    assert!(output.stderr.starts_with(&format!("{path}:4: client_tls_cert_file ")), "{output:?}");
    assert!(output.stderr.contains("cannot be used together"), "{output:?}");
}

#[test]
fn a_reload_tells_all_of_them_too() {
    let mut weir = Weir::builder().start();
    weir.reconfigure(|builder| builder.general("max_client_conn = 0\nresolv_conf = \"none.conf\""));
    let mut console = weir.console().unwrap();
    console.query("RELOAD");
    let told = console.read_until_ready();
    let detail = told.iter().find_map(|message| message.error()).unwrap().fields[&'D'].clone();
    assert!(detail.contains("max_client_conn = \"0\"") && detail.contains(": resolv_conf "), "{detail}");
}

#[test]
fn what_is_given_twice_is_a_warning() {
    let ini = "[databases]\na = host=127.0.0.1 user=u\na = host=127.0.0.2 user=u pool_size=7\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
               listen_port = PORT\nunix_socket_dir = DIR\nauth_type = any\nadmin_users = admin\nmax_client_conn = 5\nmax_client_conn = 9\n";
    let weir = Weir::builder().ini(ini).start();
    let path = weir.config_path().display().to_string();
    let told = [
        format!("{path}:3: a of [databases] is given again, and this one counts: it was given at {path}:2"),
        format!(
            "{path}:11: max_client_conn of [pgbouncer] is given again, and this one counts: it was given at {path}:10"
        ),
    ];
    let checked = pgweir(&["check", &path]).ok();
    for line in &told {
        weir.wait_log(line);
        assert!(checked.contains(&format!("warning: {line}\n")), "{checked}");
    }
    // The last one counts, as in PgBouncer.
    let mut console = Login::new(Address::Tcp(weir.port()), "admin", "pgbouncer").connect().unwrap();
    let databases = console.rows("SHOW DATABASES").unwrap();
    let a = databases.iter().find(|row| row[0] == "a").unwrap();
    assert_eq!((a[1].as_str(), a[5].as_str()), ("127.0.0.2", "7"));
    let config = console.rows("SHOW CONFIG").unwrap();
    assert_eq!(config.iter().find(|row| row[0] == "max_client_conn").unwrap()[1], "9");
}
