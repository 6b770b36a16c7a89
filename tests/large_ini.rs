//! What a company has: one pgbouncer.ini with two hundred databases of every form, rules for who proves what, users listed and
//! users asked for. It starts unchanged, everybody gets into everything, and a reload under load is felt by nobody.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::{Address, Login, RawClient};
use common::weir::{Builder, Weir};
use common::wire::show;

const SOON: Duration = Duration::from_secs(15);
const DATABASES: usize = 200;

/// Those who log in: `ann` is listed nowhere, the server is asked for her. What the rules ask of each.
const PEOPLE: [(&str, &str); 4] = [
    ("md", "R(5) R(0)"),
    ("scram", "R(10) R(11) R(12) R(0)"),
    ("clear", "R(3) R(0)"),
    ("ann", "R(10) R(11) R(12) R(0)"),
];

/// A cluster with three databases, which asks for passwords, and the lines of userlist.txt.
fn cluster() -> (Cluster, String) {
    let cluster = Cluster::with_config(&[("max_connections", "500")]);
    let create = |user: &str, kind: &str, more: &str| {
        cluster.sql(&format!("SET password_encryption = '{kind}'; CREATE USER {user} PASSWORD '{user} secret' {more}"));
    };
    create("md", "md5", "");
    ["scram", "clear", "ann", "svc"].iter().for_each(|user| create(user, "scram-sha-256", ""));
    create("looker", "scram-sha-256", "SUPERUSER");
    for name in ["app", "billing", "\"Mixed Case\""] {
        cluster.sql(&format!("CREATE DATABASE {name}"));
    }
    cluster.set_hba(
        "local all md md5\nlocal all all scram-sha-256\nhost all md 127.0.0.1/32 md5\nhost all all 127.0.0.1/32 scram-sha-256",
    );
    let stored = |user: &str| cluster.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'"));
    let users = format!(
        ";; made by hand\n\"md\" \"{}\"\n\"scram\" \"{}\"\n\"clear\" \"clear secret\" and a remark\n\"svc\" \"svc secret\"\n\
         \"looker\" \"looker secret\"\n\"boss\" \"boss secret\"\n\"eye\" \"eye secret\"\n",
        stored("md"),
        stored("scram")
    );
    (cluster, users)
}

/// The name of the n-th database in the file.
fn name(n: usize) -> String {
    match n % 10 {
        2 => format!("Tenant #{n} \"EU\""),
        5 => format!("tenant-{n}.eu"),
        _ => format!("tenant_{n:03}"),
    }
}

/// Where the n-th leads to.
fn target(n: usize) -> &'static str {
    ["app", "billing", "Mixed Case"][n % 3]
}

/// The n-th line: each of ten forms in turn.
fn line(n: usize, cluster: &Cluster, size: usize) -> String {
    let (port, target, socket) = (cluster.port(), target(n), cluster.socket_dir().display());
    let name = match n % 10 {
        2 => format!("\"{}\"", name(n).replace('"', "\"\"")),
        _ => name(n),
    };
    let rest = match n % 10 {
        0 => format!("host=127.0.0.1 port={port} dbname='{target}'"),
        1 => format!("host = '127.0.0.1' port = '{port}'  dbname='{target}' pool_size={size}"),
        2 => format!("host=127.0.0.1 port={port} dbname='{target}' auth_user=looker"),
        3 => format!("host=127.0.0.1 port={port} dbname='{target}' user=svc pool_mode=session"),
        4 => format!("host=127.0.0.1 port={port} dbname='{target}' user=svc password='svc secret' min_pool_size=0"),
        5 => format!("host=127.0.0.1 port={port} dbname='{target}' connect_query='set app.who to ''it''''s {n}'''"),
        6 => format!("host={socket} port={port} dbname='{target}'"),
        7 => format!(
            "host=127.0.0.1 port={port} dbname='{target}' max_db_connections=5 reserve_pool=2 server_lifetime=600"
        ),
        8 => format!(
            "host=127.0.0.1 port={port} dbname='{target}' timezone=Asia/Tokyo datestyle='SQL, DMY' client_encoding=UTF8"
        ),
        _ => format!(
            "host=127.0.0.1,127.0.0.1 port={port} dbname='{target}' load_balance_hosts=round-robin application_name=tenants"
        ),
    };
    format!("{name} = {rest}\n")
}

/// Writes the files that the ini speaks of, and gives the ini.
fn write(dir: &Path, cluster: &Cluster, size: usize) -> String {
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let half = DATABASES / 2;
    let more: String = (half..DATABASES).map(|n| line(n, cluster, size)).collect();
    fs::write(dir.join("databases.ini"), format!("; the second half\n{more}")).unwrap();
    fs::write(
        dir.join("users.ini"),
        "[users]\n\nclear = pool_mode=transaction max_user_connections=50\nscram = query_timeout=30 \
         max_user_client_connections=500\nsvc = pool_size=4\n",
    )
    .unwrap();
    fs::write(
        dir.join("hba.conf"),
        "# TYPE  DATABASE  USER  ADDRESS  METHOD\nlocal  all  clear  peer map=people\nlocal  all  all  reject\n\n\
         host  pgbouncer  boss,eye  127.0.0.1/32  scram-sha-256\nhost  all  md  127.0.0.1/32  md5\n\
         host  all  clear  127.0.0.1  255.255.255.255  password\nhost  billing  all  127.0.0.1/32  reject\n\
         hostssl all all 0.0.0.0/0 cert\nhost  all  all  127.0.0.1/32  scram-sha-256\n",
    )
    .unwrap();
    fs::write(dir.join("ident.conf"), format!("people  {me}  clear\npeople  /^(.*)@corp$  \\1\n")).unwrap();
    let files = dir.display();
    let first: String = (0..half).map(|n| line(n, cluster, size)).collect();
    format!(
        ";;; PgBouncer configuration file\n[databases]\n{first}%include {files}/databases.ini\n\
         ; whoever else\n* = host=127.0.0.1 port={port} auth_dbname=app\n\n%include {files}/users.ini\n[pgbouncer]\n\
         logfile = DIR/log.txt\npidfile = DIR/pid.txt\nlisten_addr = 127.0.0.1\nlisten_port = PORT\n\
         unix_socket_dir = {files}\nunix_socket_mode = 0777\nauth_type = hba\nauth_file = DIR/userlist.txt\n\
         auth_hba_file = {files}/hba.conf\nauth_ident_file = {files}/ident.conf\nauth_user = looker\n\
         auth_query = SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END FROM \
         pg_catalog.pg_authid WHERE rolname=$1 AND rolcanlogin\nadmin_users = boss\nstats_users = eye, nagios\n\
         pool_mode = transaction\nmax_client_conn = 1000\ndefault_pool_size = 3\nmin_pool_size = 0\n\
         reserve_pool_size = 1\nreserve_pool_timeout = 3\nmax_prepared_statements = 200\nserver_reset_query = DISCARD ALL\n\
         server_check_delay = 30\nserver_check_query = select 1\nserver_lifetime = 3600\nserver_idle_timeout = 600\n\
         server_connect_timeout = 15\nserver_login_retry = 15\nclient_login_timeout = 60\nquery_wait_timeout = 120\n\
         query_timeout = 0\nidle_transaction_timeout = 0\nautodb_idle_timeout = 3600\nlog_connections = 0\n\
         log_disconnections = 0\nlog_pooler_errors = 1\nignore_startup_parameters = extra_float_digits, options\n\
         application_name_add_host = 0\npkt_buf = 4096\ntcp_keepalive = 1\ndns_max_ttl = 15\nstats_period = 60\nverbose = 0\n",
        port = cluster.port(),
    )
}

fn builder(ini: &str, users: &str) -> Builder {
    Weir::builder().ini(ini).users(users)
}

fn come(weir: &Weir, user: &str, database: &str) -> RawClient {
    let login = weir.login(user, database).password(&format!("{user} secret")).connect();
    login.unwrap_or_else(|error| panic!("{user} into {database}: {error:?}"))
}

fn console(weir: &Weir) -> RawClient {
    come(weir, "boss", "pgbouncer")
}

/// The rows of a SHOW, each as its named columns.
fn shown(weir: &Weir, what: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let mut console = console(weir);
    console.query(what);
    let messages = console.read_until_ready();
    let names = messages.iter().find_map(|m| m.columns()).unwrap_or_else(|| panic!("{}", show(&messages)));
    let places: Vec<usize> = columns.iter().map(|c| names.iter().position(|name| name == c).unwrap()).collect();
    let rows = messages.iter().filter_map(|m| m.row());
    rows.map(|row| places.iter().map(|at| row[*at].clone().unwrap_or_default()).collect()).collect()
}

#[test]
fn everybody_gets_into_every_database() {
    let (cluster, users) = cluster();
    let dir = tempfile::tempdir().unwrap();
    let weir = builder(&write(dir.path(), &cluster, 7), &users).start();
    for n in 0..DATABASES {
        let (user, asked) = PEOPLE[(n / 10 + n) % 4];
        let mut client = come(&weir, user, &name(n));
        let requests: Vec<_> = client.greeting.iter().filter(|m| m.tag == b'R').cloned().collect();
        assert_eq!(show(&requests), asked, "{user} into {}", name(n));
        let server_user = if matches!(n % 10, 3 | 4) { "svc" } else { user };
        let row = client.rows("SELECT current_user, current_database()").unwrap();
        assert_eq!(row, [[server_user, target(n)]], "{}", name(n));
        match n % 10 {
            5 => assert_eq!(client.value("SHOW app.who"), format!("it's {n}")),
            6 => assert_eq!(client.value("SELECT inet_server_addr() IS NULL"), "t", "by the unix socket"),
            8 => assert_eq!(client.value("SELECT '2020-02-01 00:00+00'::timestamptz"), "01/02/2020 09:00:00 JST"),
            9 => assert_eq!(client.value("SHOW application_name"), "tenants"),
            _ => {}
        }
    }
    // By the system user's name, over the unix socket; others not.
    let socket = Address::Unix(dir.path().join(format!(".s.PGSQL.{}", weir.port())));
    let mut peer = Login::new(socket.clone(), "clear", "tenant_004").connect().unwrap();
    assert_eq!(peer.value("SELECT current_user"), "svc");
    assert_eq!(Login::new(socket, "md", "tenant_004").connect().unwrap_err().code(), "28000");
    // What the rules forbid, what is not known, and what the wildcard makes.
    let refused = |user: &str, database: &str, password: &str| {
        weir.login(user, database).password(password).connect().unwrap_err().code().to_owned()
    };
    assert_eq!(refused("scram", "billing", "scram secret"), "28000");
    assert_eq!(refused("ann", "tenant_000", "wrong"), "28P01");
    assert_eq!(refused("nobody", "tenant_000", "nobody secret"), "28P01");
    assert_eq!(refused("scram", "nowhere", "scram secret"), "3D000");
    assert_eq!(come(&weir, "ann", "app").value("SELECT current_database()"), "app");

    // The console's view of it.
    let columns = [
        "name",
        "host",
        "port",
        "database",
        "force_user",
        "pool_size",
        "reserve_pool_size",
        "pool_mode",
        "max_connections",
    ];
    let databases = shown(&weir, "SHOW DATABASES", &columns);
    let row = |n: usize| {
        databases.iter().find(|row| row[0] == name(n)).unwrap_or_else(|| panic!("{}", name(n)))[1..].to_vec()
    };
    (0..DATABASES).for_each(|n| assert_eq!(row(n)[2], target(n)));
    let port = cluster.port().to_string();
    assert_eq!(row(101), ["127.0.0.1", &port, "Mixed Case", "", "7", "1", "transaction", "0"]);
    assert_eq!(row(13), ["127.0.0.1", &port, "billing", "svc", "3", "1", "session", "0"]);
    assert_eq!(row(17), ["127.0.0.1", &port, "Mixed Case", "", "3", "2", "transaction", "5"]);
    let pools = shown(&weir, "SHOW POOLS", &["database", "user", "sv_active"]);
    assert!(
        pools.iter().any(|row| *row == [name(14), "svc".to_owned(), "0".to_owned()]),
        "one pool for all of its clients"
    );
    assert_eq!(
        shown(&weir, "SHOW LISTS", &["list", "items"])[0],
        ["databases".to_owned(), databases.len().to_string()]
    );
    assert!(weir.dir().join("pid.txt").exists());
    let mut eye = come(&weir, "eye", "pgbouncer");
    assert!(eye.rows("SHOW STATS").is_ok());
    assert_eq!(eye.rows("RELOAD").unwrap_err().code, "42501");
}

#[test]
fn a_reload_under_load_is_felt_by_nobody() {
    let (cluster, users) = cluster();
    let dir = tempfile::tempdir().unwrap();
    let mut weir = builder(&write(dir.path(), &cluster, 7), &users).start();
    let (done, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
    let reload = |weir: &mut Weir, ini: &str| {
        weir.reconfigure(|_| builder(ini, &users));
        console(weir).run("RELOAD")
    };
    let port = weir.port();
    std::thread::scope(|scope| {
        for place in 0..12_usize {
            let (done, turns) = (&done, &turns);
            scope.spawn(move || {
                // One that stays through all reloads, and others that come and go.
                let n = place * 16;
                let (user, _) = PEOPLE[place % 4];
                let login = Login::new(Address::Tcp(port), user, &name(n)).password(&format!("{user} secret"));
                let mut client = login.clone().connect().unwrap();
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.value(&format!("SELECT {n}")), n.to_string());
                    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
                    assert_eq!(client.value("SELECT current_database()"), target(n));
                    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
                    assert_eq!(login.clone().connect().unwrap().value("SELECT 1"), "1");
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let go_on = |weir: &Weir| {
            let before = turns.load(Ordering::Relaxed);
            eventually("they go on", SOON, || (turns.load(Ordering::Relaxed) > before + 24).then_some(()));
            weir.pid()
        };
        for size in [8, 9, 10, 11] {
            go_on(&weir);
            assert_eq!(reload(&mut weir, &write(dir.path(), &cluster, size)), "C(RELOAD) Z(I)");
            let sizes = shown(&weir, "SHOW DATABASES", &["name", "pool_size"]);
            assert!(sizes.contains(&vec![name(191), size.to_string()]), "{size}");
            go_on(&weir);
        }
        // A mistake in one line of an included file changes nothing.
        let ini = write(dir.path(), &cluster, 12);
        let path = dir.path().join("databases.ini");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + "last = host=127.0.0.1 prot=1\n").unwrap();
        assert!(reload(&mut weir, &ini).starts_with("E("), "a mistake is told");
        go_on(&weir);
        let sizes = shown(&weir, "SHOW DATABASES", &["name", "pool_size"]);
        assert!(sizes.contains(&vec![name(191), "11".to_owned()]));
        done.store(true, Ordering::Relaxed);
    });
}
