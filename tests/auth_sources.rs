//! Where what is known of a user comes from when he is not listed (`auth_query`), and which proof is asked of whom (`auth_hba_file`).

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::certs::{self, Authority};
use common::cluster::Cluster;
use common::raw::{Address, Login, LoginError, RawClient};
use common::tools::{self, Output, Running};
use common::weir::{Builder, Weir};
use common::wire::{self, ServerError, frontend};

/// Asks for everybody's secret; its own stands in the auth file.
const LOOKER: &str = "CREATE USER looker SUPERUSER PASSWORD 'look'";
const LOOKER_LINE: &str = "\"looker\" \"look\"";
/// The question of PgBouncer before 1.25.1, which any search_path can give another meaning.
const UNQUALIFIED: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid \
                           WHERE rolname=$1 AND rolcanlogin";

/// A cluster that wants SCRAM of everybody, with a user `ann`.
fn cluster() -> Cluster {
    let cluster = Cluster::start();
    cluster.sql(&format!("{LOOKER}; CREATE USER ann PASSWORD 'secret'"));
    cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256\n");
    cluster
}

fn asking(cluster: &Cluster) -> Builder {
    Weir::builder().general("auth_type = \"scram-sha-256\"\nauth_user = \"looker\"").users(LOOKER_LINE).cluster(
        "app",
        cluster,
        &[],
    )
}

fn refusal(login: Login) -> ServerError {
    match login.connect() {
        Err(LoginError::Server(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn wrong_password(weir: &Weir, user: &str, password: &str) {
    let error = refusal(weir.login(user, "app").password(password));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28P01"), "{user}: {error}");
    assert_eq!(error.message, format!("password authentication failed for user \"{user}\""));
    assert_eq!(error.fields.keys().collect::<String>(), "CMSV", "{user}: nothing more is told");
}

fn lets_in(weir: &Weir, user: &str, password: &str) -> RawClient {
    let login = weir.login(user, "app").password(password).connect();
    let mut client = login.unwrap_or_else(|error| panic!("{user}: {error:?}"));
    assert_eq!(client.value("SELECT current_user"), user);
    client
}

/// Ends the user's connections to the server; returns when they are gone.
fn disconnect(cluster: &Cluster, user: &str) {
    let of = format!("FROM pg_stat_activity WHERE usename = '{user}'");
    assert!(!cluster.sql(&format!("SELECT pg_terminate_backend(pid) {of}")).is_empty(), "{user} has a connection");
    common::eventually("they are gone", Duration::from_secs(10), || {
        (cluster.value(&format!("SELECT count(*) {of}")) == "0").then_some(())
    });
}

/// What a client is shown up to where it must prove something: the salt's length and the iterations of its SCRAM exchange.
fn shown(weir: &Weir, user: &str) -> String {
    let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
    let params = [("user", user), ("database", "app")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    client.send_bytes(&frontend::startup(wire::PROTOCOL_3_0, &params));
    let asked = client.read_message();
    let first = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
    client.send_bytes(&wire::frame(b'p', &[b"SCRAM-SHA-256\0", &length[..], first].concat()));
    let answer = client.read_message();
    let text = String::from_utf8_lossy(&answer.body[4..]).into_owned();
    let parts: Vec<_> = text.split(',').collect();
    format!("{asked} {} {} {}", parts[0].len(), parts[1].len(), parts[2])
}

#[test]
fn who_is_not_listed_is_asked_for() {
    let cluster = cluster();
    let weir = asking(&cluster).start();
    let mut ann = lets_in(&weir, "ann", "secret");
    // No password is stored anywhere: the keys of ann's own login open new connections too.
    disconnect(&cluster, "ann");
    assert_eq!(ann.value("SELECT current_user"), "ann");
    let mut second = lets_in(&weir, "ann", "secret");
    assert_eq!(ann.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(second.value("SELECT current_user"), "ann", "a second connection by the same keys");
    assert_eq!(ann.run("COMMIT"), "C(COMMIT) Z(I)");

    // A role is known as soon as it is there, and a password counts as soon as it has changed.
    wrong_password(&weir, "newborn", "x");
    cluster.sql("CREATE USER newborn PASSWORD 'x'");
    lets_in(&weir, "newborn", "x");
    cluster.sql("ALTER USER newborn PASSWORD 'y'");
    wrong_password(&weir, "newborn", "x");
    lets_in(&weir, "newborn", "y");
    cluster.sql("ALTER USER newborn NOLOGIN");
    wrong_password(&weir, "newborn", "y");

    // Every user has a pool of his own.
    let mut servers = cluster
        .sql("SELECT DISTINCT usename FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()");
    servers.sort_unstable();
    assert!(servers.contains(&vec!["ann".to_owned()]) && servers.contains(&vec!["looker".to_owned()]), "{servers:?}");
}

#[test]
fn verifiers_are_made_with_the_iterations_asked_for() {
    let cluster = cluster();
    let with = |iterations: u32| {
        let general = format!("auth_type = \"scram-sha-256\"\nauth_user = \"looker\"\nscram_iterations = {iterations}");
        let users = format!("{LOOKER_LINE}\n\"bob\" \"b\"");
        Weir::builder().general(&general).users(&users).cluster("app", &cluster, &[])
    };
    cluster.sql("CREATE USER bob PASSWORD 'b'");
    let mut weir = with(600).start();
    for user in ["bob", "looker"] {
        assert!(shown(&weir, user).ends_with(" i=600"), "{}", shown(&weir, user));
    }
    let mut bob = lets_in(&weir, "bob", "b");
    assert!(shown(&weir, "ann").ends_with(" i=4096"), "ann's verifier is the server's");
    weir.reconfigure(|_| with(700));
    weir.hup();
    common::eventually("the new number counts", Duration::from_secs(10), || {
        shown(&weir, "bob").ends_with(" i=700").then_some(())
    });
    lets_in(&weir, "bob", "b");
    assert_eq!(bob.value("SELECT current_user"), "bob");
    let general = "auth_type = \"scram-sha-256\"\nscram_iterations = 700";
    let listed = Weir::builder().general(general).users("\"bob\" \"b\"").cluster("app", &cluster, &[]).start();
    assert_eq!(shown(&listed, "bob"), shown(&listed, "nobody"));
}

/// CVE class: an unknown user who is let in, as the `auth_user` or otherwise. CVE class: VALID UNTIL ignored by auth_query.
#[test]
fn strangers_cannot_be_told_from_wrong_passwords() {
    let cluster = cluster();
    cluster.sql(
        "CREATE USER nopassword; CREATE USER expired PASSWORD 'secret' VALID UNTIL '2001-01-01'; \
         CREATE USER nologin NOLOGIN PASSWORD 'secret'; CREATE USER later PASSWORD 'secret' VALID UNTIL '2999-01-01'",
    );
    for auth_type in ["scram-sha-256", "md5", "plain"] {
        let general = format!("auth_type = \"{auth_type}\"\nauth_user = \"looker\"");
        let weir = Weir::builder().general(&general).users(LOOKER_LINE).cluster("app", &cluster, &[]).start();
        lets_in(&weir, "ann", "secret");
        lets_in(&weir, "later", "secret");
        for user in ["ann", "nopassword", "nobody", "looker"] {
            for password in ["", "wrong"] {
                wrong_password(&weir, user, password);
            }
        }
        for user in ["expired", "nologin", "nopassword", "nobody", "ANN", "ann ", "' OR true --", &"n".repeat(64)] {
            wrong_password(&weir, user, "secret");
        }
        if auth_type != "plain" {
            let all = ["ann", "nopassword", "expired", "nobody"].map(|user| shown(&weir, user));
            assert!(all.iter().all(|one| *one == all[0] && one.ends_with("i=4096")), "{auth_type}: {all:?}");
        }
    }
}

/// CVE class: a client's search_path that reaches auth_query (CVE-2025-12819).
#[test]
fn no_client_changes_what_the_question_means() {
    let cluster = cluster();
    cluster.sql(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO public; CREATE TABLE evil.pg_authid AS SELECT * FROM pg_authid; \
         UPDATE evil.pg_authid SET rolpassword = (SELECT rolpassword FROM pg_authid WHERE rolname = 'ann'); \
         GRANT SELECT ON evil.pg_authid TO public; CREATE USER victim PASSWORD 'unknown'; \
         INSERT INTO evil.pg_authid SELECT * FROM pg_authid WHERE rolname = 'victim'; \
         UPDATE evil.pg_authid SET rolpassword = (SELECT rolpassword FROM pg_authid WHERE rolname = 'ann')",
    );
    let evil = "evil,pg_catalog";
    assert_eq!(
        cluster.value(&format!("SET search_path = {evil}; SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'pg_authid'::regclass")),
        "evil",
        "the trap works"
    );
    let general = format!(
        "auth_type = \"scram-sha-256\"\nauth_user = \"looker\"\nauth_query = \"{UNQUALIFIED}\"\ndefault_pool_size = 1"
    );
    let weir = Weir::builder().general(&general).users(LOOKER_LINE).cluster("app", &cluster, &[]).start();
    let attack = |with: &str| {
        let login = weir.login("victim", "app").password("secret");
        assert_eq!(refusal(login.clone().param("search_path", evil)).code, "28P01", "{with}");
        assert_eq!(refusal(login.param("options", &format!("-c search_path={evil}"))).code, "28P01", "{with}");
        wrong_password(&weir, "victim", "secret");
    };
    attack("from the startup packet");
    // Nor through connections that clients of the same user have used.
    let mut looker = weir.login("looker", "app").password("look").connect().unwrap();
    looker.run(&format!("SET search_path = {evil}"));
    assert_eq!(looker.value("SHOW search_path").replace(' ', ""), evil);
    attack("from a client who is auth_user");
    lets_in(&weir, "victim", "unknown");
}

/// CVE class: a check that fails must not let anybody in.
#[test]
fn without_an_answer_nobody_is_let_in() {
    let cluster = cluster();
    cluster.sql(
        "CREATE TABLE two(name text, secret text); INSERT INTO two VALUES ('looker', 'x'), ('ann', 'x'); \
         CREATE USER poor PASSWORD 'p'",
    );
    let refused = |general: &str, users: &str, log: &str| {
        let general = format!("auth_type = \"plain\"\nserver_login_retry = 0\n{general}");
        let weir = Weir::builder().general(&general).users(users).cluster("app", &cluster, &[]).start();
        for user in ["ann", "nobody"] {
            let error = refusal(weir.login(user, "app").password("secret"));
            assert_eq!(error.code, "08001", "{general}: {error}");
            assert_eq!(error.message, format!("the password of user \"{user}\" cannot be checked at present"));
            assert!(!error.to_string().contains("relation") && !error.to_string().contains("looker"), "{error}");
        }
        weir.wait_log("auth_query cannot be answered");
        weir.wait_log(log);
    };
    let asks = |query: &str| format!("auth_user = \"looker\"\nauth_query = \"{query}\"");
    refused(&asks("SELECT a, b FROM nowhere($1)"), LOOKER_LINE, "function nowhere(unknown) does not exist");
    refused(&asks("SELECT name, secret FROM two WHERE $1 <> ''"), LOOKER_LINE, "more than one row");
    refused(
        &asks("SELECT name, secret FROM two WHERE name = 'looker' AND $1 <> ''"),
        LOOKER_LINE,
        "another user's name",
    );
    refused(&asks("SELECT $1::text"), LOOKER_LINE, "other than two columns");
    refused("auth_user = \"looker\"", "\"looker\" \"wrong\"", "password authentication failed for user");
    refused("auth_user = \"poor\"", "\"poor\" \"p\"", "permission denied for table pg_authid");
    // And who was let in before is no longer, when the server is gone.
    let weir = asking(&cluster).start();
    lets_in(&weir, "ann", "secret");
    cluster.stop();
    assert_eq!(refusal(weir.login("ann", "app").password("secret")).code, "08001");
}

#[test]
fn other_databases_the_console_and_the_wildcard() {
    let cluster = cluster();
    cluster.sql("CREATE DATABASE other");
    cluster.sql("CREATE USER boss PASSWORD 'b'");
    cluster
        .sql_in("other", "CREATE TABLE people(name text, secret text); INSERT INTO people VALUES ('ann', 'by table')");
    let port = cluster.port();
    let weir = Weir::builder()
        .general("auth_type = \"scram-sha-256\"\nauth_user = \"looker\"\nauth_dbname = \"app\"\nadmin_users = \"boss\"")
        .users(LOOKER_LINE)
        .cluster("app", &cluster, &[])
        .database(&format!(
            "[databases.own]\nprimary = \"postgres://ann:secret@127.0.0.1:{port}/postgres\"\nauth_dbname = \"other\"\n\
             auth_query = \"SELECT name, secret FROM people WHERE name = $1\"\n\
             [databases.other]\nprimary = \"postgres://127.0.0.1:{port}/other\"\n\
             [databases.listed]\nprimary = \"postgres://127.0.0.1:{port}/postgres\"\nauth_user = \"\"\n\
             [databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {port}\ndbname = \"*\"\nauth_dbname = \"\""
        ))
        .start();
    lets_in(&weir, "ann", "secret");
    let mut own = weir.login("ann", "own").password("by table").connect().unwrap();
    assert_eq!(own.value("SELECT current_user"), "ann");
    assert_eq!(refusal(weir.login("ann", "own").password("secret")).code, "28P01");
    assert_eq!(refusal(weir.login("ann", "listed").password("secret")).code, "28P01", "it has no auth_user");
    let mut boss = weir.login("boss", "pgbouncer").password("b").connect().unwrap();
    assert!(boss.rows("SHOW POOLS").is_ok());
    assert_eq!(refusal(weir.login("ann", "pgbouncer").password("secret")).code, "42501");
    // By the wildcard, the database itself is asked.
    let mut by_name = weir.login("ann", "template1").password("secret").connect().unwrap();
    assert_eq!(by_name.value("SELECT current_database()"), "template1");
    let error = refusal(weir.login("ann", "nowhere").password("secret"));
    assert_eq!((error.code.as_str(), error.message.as_str()), ("3D000", "database \"nowhere\" does not exist"));
}

/// Whether a database exists on its server is nothing that a stranger may learn through the wildcard.
#[test]
fn a_database_shows_only_to_who_has_proven_himself() {
    let cluster = cluster();
    cluster.sql("CREATE USER poor PASSWORD 'p'");
    cluster.sql("CREATE DATABASE closed");
    cluster.sql("REVOKE CONNECT ON DATABASE closed FROM public");
    let wildcard = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let custom =
        "auth_query = \"SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin AND true\"";
    for auth_type in ["scram-sha-256", "md5", "plain"] {
        for query in ["", custom] {
            let general = format!("auth_type = \"{auth_type}\"\nauth_user = \"looker\"\n{query}");
            let users = format!("{LOOKER_LINE}\n\"poor\" \"p\"\n\"admin\" \"a\"");
            let weir = Weir::builder().general(&general).users(&users).database(&wildcard).start();
            let refused = |user: &str, database: &str, password: &str| {
                let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
                let params = [("user", user), ("database", database)].map(|(n, v)| (n.to_owned(), v.to_owned()));
                client.send_bytes(&frontend::startup(wire::PROTOCOL_3_0, &params));
                let asked = client.read_message();
                assert_eq!(asked.tag, b'R', "{auth_type} {user} {database}: a password is asked first: {asked}");
                let error = refusal(weir.login(user, database).password(password));
                // What is asked for, without its random salt.
                (
                    asked.body[..4].to_vec(),
                    error.code.clone(),
                    error.message.clone(),
                    error.fields.keys().collect::<String>(),
                )
            };
            // Both before anybody has logged in and when connections are there.
            for _ in 0..2 {
                for user in ["ann", "nobody", "poor"] {
                    let known = refused(user, "template1", "wrong");
                    assert_eq!(known.1, "28P01", "{user}");
                    for database in ["nowhere", "closed", "postgres"] {
                        let other = refused(user, database, "wrong");
                        assert_eq!(other, known, "{auth_type} {query} {user} {database}");
                    }
                }
                // To others the truth is told.
                for (user, password) in [("ann", "secret"), ("poor", "p")] {
                    let error = refusal(weir.login(user, "nowhere").password(password));
                    assert_eq!(error.code, "3D000", "{auth_type} {query} {user}: {error}");
                    assert_eq!(error.message, "database \"nowhere\" does not exist");
                    assert_eq!(refusal(weir.login(user, "closed").password(password)).code, "42501", "{user}");
                    let mut client = weir.login(user, "template1").password(password).connect().unwrap();
                    assert_eq!(client.value("SELECT current_user"), user);
                }
            }
            // What a stranger names is not kept.
            let mut console = weir.login("admin", "pgweir").password("a").connect().unwrap();
            let databases = format!("{:?}", console.rows("SHOW DATABASES"));
            assert!(!databases.contains("nowhere"), "{databases}");
        }
    }
}

/// Where `auth_user` may not enter the database that the question is asked in otherwise.
#[test]
fn the_database_itself_is_asked_where_postgres_is_closed() {
    let cluster = cluster();
    cluster.sql("CREATE DATABASE other");
    cluster.set_hba("host other all 127.0.0.1/32 scram-sha-256\n");
    let wildcard = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let general = "auth_type = \"scram-sha-256\"\nauth_user = \"looker\"";
    let weir = Weir::builder().general(general).users(LOOKER_LINE).database(&wildcard).start();
    // Also while the refusal is remembered.
    for _ in 0..3 {
        let mut client = weir.login("ann", "other").password("secret").connect().unwrap();
        assert_eq!(client.value("SELECT current_database()"), "other");
        assert_eq!(refusal(weir.login("ann", "other").password("wrong")).code, "28P01");
    }
    weir.wait_log("no pg_hba.conf entry");
    // Where no database lets it in, nobody is let in.
    assert_eq!(refusal(weir.login("ann", "template1").password("secret")).code, "08001");
}

#[test]
fn no_database_shows_in_the_time_that_a_stranger_waits() {
    let cluster = cluster();
    let wildcard = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let general = "auth_type = \"scram-sha-256\"\nauth_user = \"looker\"";
    let weir = Weir::builder().general(general).users(LOOKER_LINE).database(&wildcard).start();
    assert!(weir.login("ann", "template1").password("secret").connect().is_ok());
    let login = |user, database| weir.login(user, database).password("wrong");
    let cases = [("ann", "template1"), ("ann", "nowhere"), ("nobody", "template1"), ("nobody", "nowhere")];
    all_take_as_long(&cases, |(user, database)| login(user, database));
}

#[test]
fn a_reload_begins_and_ends_it() {
    let cluster = cluster();
    let without =
        || Weir::builder().general("auth_type = \"scram-sha-256\"").users(LOOKER_LINE).cluster("app", &cluster, &[]);
    let mut weir = without().start();
    wrong_password(&weir, "ann", "secret");
    weir.reconfigure(|_| asking(&cluster));
    weir.hup();
    let mut ann = common::eventually("ann is let in", Duration::from_secs(10), || {
        weir.login("ann", "app").password("secret").connect().ok()
    });
    weir.reconfigure(|_| without());
    weir.hup();
    common::eventually("ann is let in no more", Duration::from_secs(10), || {
        weir.login("ann", "app").password("secret").connect().err()
    });
    assert_eq!(ann.value("SELECT current_user"), "ann", "who is in stays");
}

/// A change in any file that the rules lead to is a change of the rules, and told as one.
#[test]
fn a_reload_follows_what_the_rules_include() {
    let cluster = Cluster::start();
    let users = ["one", "two", "three", "four", "five"];
    users.iter().for_each(|user| drop(cluster.sql(&format!("CREATE USER {user}"))));
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::create_dir(dir.path().join("rules")).unwrap();
    write(
        "hba.conf",
        "host all admin all trust\ninclude more.conf\ninclude_if_exists perhaps.conf\ninclude_dir rules\n\
         host all @names.txt all trust\n",
    );
    write("more.conf", "host all one all reject\n");
    write("rules/a.conf", "host all three all reject\n");
    write("names.txt", "nobody\n");
    let general = format!("auth_type = \"hba\"\nauth_hba_file = {:?}", dir.path().join("hba.conf"));
    let lines: String = users.iter().map(|user| format!("\"{user}\" \"\"\n")).collect();
    let weir = Weir::builder().general(&general).users(&lines).cluster("app", &cluster, &[]).start();
    let mut console = weir.console().unwrap();
    let mut reload = |told: &str| {
        let count = |weir: &Weir| weir.log_text().matches(told).count();
        let before = count(&weir);
        assert_eq!(console.run("RELOAD"), "C(RELOAD) Z(I)");
        common::eventually(told, Duration::from_secs(10), || (count(&weir) > before).then_some(()));
    };
    for (user, file, text) in [
        ("one", "more.conf", "host all one all trust\n"),
        ("two", "perhaps.conf", "host all two all trust\n"),
        ("three", "rules/a.conf", "host all three all trust\n"),
        ("five", "rules/b.conf", "host all five all trust\n"),
        ("four", "names.txt", "nobody four\n"),
    ] {
        assert_eq!(refusal(weir.login(user, "app")).code, "28000", "{user}");
        reload("changes=nothing changed");
        write(file, text);
        reload("changes=auth_hba_file read anew");
        assert_eq!(weir.login(user, "app").connect().unwrap().value("SELECT current_user"), user, "{file}");
    }
    // And one that is gone again.
    std::fs::remove_file(dir.path().join("rules/b.conf")).unwrap();
    reload("changes=auth_hba_file read anew");
    assert_eq!(refusal(weir.login("five", "app")).code, "28000");
}

#[test]
fn an_unchanged_ini_asks_too() {
    let cluster = cluster();
    let weir = Weir::builder()
        .users(LOOKER_LINE)
        .ini(&format!(
            "[databases]\n* = host=127.0.0.1 port={port} auth_dbname=app\napp = host=127.0.0.1 port={port} dbname=postgres auth_user=looker\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = PORT\nunix_socket_dir =\nauth_type = md5\n\
             auth_file = DIR/userlist.txt\nauth_user = looker\nauth_query = {UNQUALIFIED}\n",
            port = cluster.port()
        ))
        .start();
    lets_in(&weir, "ann", "secret");
    assert!(weir.login("ann", "template1").password("secret").connect().is_ok());
    wrong_password(&weir, "ann", "wrong");
}

fn wrong(weir: &Weir, user: &str) -> Login {
    weir.login(user, "app").password("wrong")
}

/// CVE class: who exists must not show in the time that a login takes to fail.
fn all_take_as_long<T: Copy + std::fmt::Debug>(who: &[T], login: impl Fn(T) -> Login) {
    let mut times = vec![Vec::new(); who.len()];
    for _ in 0..25 {
        for (who, times) in who.iter().zip(&mut times) {
            let begin = pgweir::clock::now();
            assert_eq!(refusal(login(*who)).code, "28P01");
            times.push(pgweir::clock::now() - begin);
        }
    }
    let medians: Vec<Duration> = times
        .into_iter()
        .map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2]
        })
        .collect();
    let (least, most) = (medians.iter().min().unwrap(), medians.iter().max().unwrap());
    assert!(*most < *least * 3 / 2 + Duration::from_millis(1), "medians of {who:?}: {medians:?}");
}

#[test]
fn strangers_take_as_long_as_wrong_passwords() {
    let cluster = cluster();
    cluster.sql(
        "CREATE USER nopassword; CREATE USER expired PASSWORD 'secret' VALID UNTIL '2001-01-01'; \
         CREATE USER nologin NOLOGIN PASSWORD 'secret'",
    );
    for auth_type in ["scram-sha-256", "plain"] {
        let general = format!("auth_type = \"{auth_type}\"\nauth_user = \"looker\"");
        let weir = Weir::builder().general(&general).users(LOOKER_LINE).cluster("app", &cluster, &[]).start();
        lets_in(&weir, "ann", "secret");
        all_take_as_long(&["ann", "nopassword", "nobody", "expired", "nologin"], |user| wrong(&weir, user));
    }
}

#[test]
fn also_where_the_passwords_are_kept_in_clear() {
    let cluster = cluster();
    cluster
        .sql("CREATE TABLE people(name text, secret text); INSERT INTO people VALUES ('ann', 'secret'), ('empty', '')");
    // Many iterations, so that making a verifier of a password shows.
    let general = "auth_type = \"scram-sha-256\"\nauth_user = \"looker\"\nscram_iterations = 10000\n\
                   auth_query = \"SELECT name, secret FROM people WHERE name = $1\"";
    let weir = Weir::builder().general(general).users(LOOKER_LINE).cluster("app", &cluster, &[]).start();
    lets_in(&weir, "ann", "secret");
    assert_eq!(shown(&weir, "ann"), shown(&weir, "nobody"));
    all_take_as_long(&["ann", "empty", "nobody"], |user| wrong(&weir, user));
}

#[test]
fn a_password_ends_when_it_is_no_longer_valid() {
    let cluster = cluster();
    let weir = asking(&cluster).start();
    let general = format!("auth_type = \"scram-sha-256\"\nauth_user = \"looker\"\nauth_query = \"{UNQUALIFIED}\"");
    let older = Weir::builder().general(&general).users(LOOKER_LINE).cluster("app", &cluster, &[]).start();
    let mut ann = lets_in(&weir, "ann", "secret");
    for (until, valid) in
        [("yesterday", false), ("infinity", true), ("-infinity", false), ("tomorrow", true), ("1970-01-01", false)]
    {
        cluster.sql(&format!("ALTER USER ann VALID UNTIL '{until}'"));
        for weir in [&weir, &older] {
            if valid {
                lets_in(weir, "ann", "secret");
            } else {
                wrong_password(weir, "ann", "secret");
            }
        }
    }
    assert_eq!(ann.value("SELECT current_user"), "ann", "who is in stays, as in PostgreSQL");
}

// Rules.

/// Starts with these rules and maps, as files beside the configuration.
fn ruled(cluster: &Cluster, dir: &std::path::Path, hba: &str, ident: &str, more: &str) -> Builder {
    std::fs::write(dir.join("hba"), hba).unwrap();
    std::fs::write(dir.join("ident"), ident).unwrap();
    let files = format!("auth_hba_file = {:?}\nauth_ident_file = {:?}", dir.join("hba"), dir.join("ident"));
    Weir::builder()
        .general(&format!("auth_type = \"hba\"\n{files}\nunix_socket_dir = {dir:?}\n{more}"))
        .cluster("app", cluster, &[])
        .cluster("shut", cluster, &[])
        .cluster("ann", cluster, &[])
}

#[test]
fn rules_say_who_proves_what() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER ann PASSWORD 'a'; CREATE USER bob PASSWORD 'b'; CREATE USER eve PASSWORD 'e'; CREATE USER dan PASSWORD 'd'");
    let dir = tempfile::tempdir().unwrap();
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let hba = "local app,shut ann peer map=m\nlocal all bob peer\nlocal all all reject\n\
               host shut all all reject\nhost all ann 10.0.0.0/8 trust\nhost sameuser ann 127.0.0.0 255.0.0.0 trust\n\
               host app ann 127.0.0.1/32 scram-sha-256\nhost app bob all md5\nhost app eve all password\n\
               hostssl app dan all trust\nhost all admin all trust\n";
    let ident = format!("m {me} ann\nm /^(.*)@nowhere$ \\1\n");
    let users = "\"ann\" \"a\"\n\"bob\" \"b\"\n\"eve\" \"e\"\n\"dan\" \"d\"";
    let weir = ruled(&cluster, dir.path(), hba, &ident, "").users(users).start();
    let asked =
        |user: &str, database: &str, password: &str| match weir.login(user, database).password(password).connect() {
            Ok(client) => wire::show(&client.greeting.iter().filter(|m| m.tag == b'R').cloned().collect::<Vec<_>>()),
            Err(LoginError::Server(error)) => format!("{} {}", error.code, error.message),
            Err(other) => panic!("{other:?}"),
        };
    assert_eq!(asked("ann", "app", "a"), "R(10) R(11) R(12) R(0)");
    assert_eq!(asked("ann", "app", "x"), "28P01 password authentication failed for user \"ann\"");
    assert_eq!(asked("ann", "ann", "x"), "R(0)", "sameuser");
    assert_eq!(asked("bob", "app", "b"), "R(5) R(0)");
    assert_eq!(asked("eve", "app", "e"), "R(3) R(0)");
    let from = |user: &str, database: &str| {
        format!("host \"127.0.0.1\", user \"{user}\", database \"{database}\", no encryption")
    };
    assert_eq!(asked("dan", "app", "d"), format!("28000 no pg_hba.conf entry for {}", from("dan", "app")));
    assert_eq!(asked("nobody", "app", "d"), format!("28000 no pg_hba.conf entry for {}", from("nobody", "app")));
    assert_eq!(asked("ann", "shut", "a"), format!("28000 pg_hba.conf rejects connection for {}", from("ann", "shut")));

    let socket = dir.path().join(format!(".s.PGSQL.{}", weir.port()));
    let by_socket = |user: &str| Login::new(Address::Unix(socket.clone()), user, "app").connect();
    assert_eq!(by_socket("ann").unwrap().value("SELECT current_user"), "ann", "{me} may be ann");
    assert_eq!(by_socket("bob").unwrap_err().code(), "28000", "{me} is not bob");
    assert_eq!(by_socket("eve").unwrap_err().code(), "28000");

    // A reload takes over good rules; of a bad file it keeps nothing, and tells the line.
    let mut ann = weir.login("ann", "app").password("a").connect().unwrap();
    std::fs::write(dir.path().join("hba"), "host all all all trust\nhost all +admins all trust\n").unwrap();
    weir.hup();
    weir.wait_log("hba:2: \"+admins\" is not supported");
    assert_eq!(refusal(weir.login("dan", "app").password("d")).code, "28000", "the old rules are kept");
    std::fs::write(dir.path().join("hba"), "host all dan all trust\n").unwrap();
    weir.hup();
    common::eventually("dan is let in", Duration::from_secs(10), || weir.login("dan", "app").connect().ok());
    assert_eq!(refusal(weir.login("ann", "app").password("a")).code, "28000");
    assert_eq!(ann.value("SELECT current_user"), "ann", "who is in stays");
}

#[test]
fn rules_may_stand_in_several_files() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER ann; CREATE USER bob; CREATE USER eve");
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("friends", "ann\n# and\n\"bob\"");
    std::fs::create_dir(dir.path().join("rules.d")).unwrap();
    write("rules.d/1.conf", "host app @../friends samehost trust\n");
    write("rules.d/2.conf", "host all admin 127.0.0.1/32 trust\n");
    let weir = ruled(&cluster, dir.path(), "include_dir rules.d\ninclude_if_exists later\n", "", "")
        .users("\"ann\" \"\"\n\"bob\" \"\"\n\"eve\" \"\"")
        .start();
    for user in ["ann", "bob"] {
        assert_eq!(weir.login(user, "app").connect().unwrap().value("SELECT current_user"), user);
    }
    assert_eq!(refusal(weir.login("eve", "app")).code, "28000");
    // Every mistake of every file is told at once, and the old rules stay.
    write("later", "host all all all ldapx\nhost all +staff all trust\n");
    write("rules.d/3.conf", "host all all db.example.com trust\n");
    write("ident", "m a\n");
    write("friends", "ann,eve");
    weir.hup();
    weir.wait_log("the configuration was not reloaded");
    let log = weir.log_text();
    for (file, mistake) in [
        ("later:1", "the method \"ldapx\" is not supported"),
        ("later:2", "\"+staff\" is not supported: the members of roles are not known here"),
        ("rules.d/3.conf:1", "host names are not supported"),
        ("ident:1", "expected the map's name"),
    ] {
        let told = |line: &str| line.contains(&format!("/{file}: ")) && line.contains(mistake);
        assert!(log.lines().any(told), "{file} {mistake}:\n{log}");
    }
    assert_eq!(refusal(weir.login("eve", "app")).code, "28000");
    write("later", "");
    write("rules.d/3.conf", "");
    write("ident", "");
    weir.hup();
    common::eventually("eve is a friend now", Duration::from_secs(10), || weir.login("eve", "app").connect().ok());
    assert_eq!(refusal(weir.login("bob", "app")).code, "28000");
}

#[test]
fn rules_and_auth_query_together() {
    let cluster = cluster();
    cluster.set_hba("host all ann,looker 127.0.0.1/32 scram-sha-256\n");
    let dir = tempfile::tempdir().unwrap();
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let hba = "local all ann peer map=m\nhost app all 127.0.0.1/32 scram-sha-256\n";
    let weir =
        ruled(&cluster, dir.path(), hba, &format!("m {me} ann"), "auth_user = \"looker\"").users(LOOKER_LINE).start();
    let mut ann = lets_in(&weir, "ann", "secret");
    wrong_password(&weir, "ann", "wrong");
    wrong_password(&weir, "nobody", "wrong");
    // Who comes by another way teaches us no keys, and does not take those of the others away.
    let socket = dir.path().join(format!(".s.PGSQL.{}", weir.port()));
    let mut peer = Login::new(Address::Unix(socket), "ann", "app").connect().unwrap();
    assert_eq!(peer.value("SELECT current_user"), "ann");
    disconnect(&cluster, "ann");
    assert_eq!(peer.value("SELECT current_user"), "ann");
    assert_eq!(ann.value("SELECT current_user"), "ann");
}

#[test]
fn certificates_stand_for_users_by_a_map() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER ann; CREATE USER bob");
    let dir = tempfile::tempdir().unwrap();
    let house = Authority::new("the house");
    let (cert, key) = house.issue("localhost", &["localhost"]).write(dir.path(), "ours");
    let ca = certs::write(dir.path(), "ca.crt", house.cert());
    let tls = format!(
        "client_tls_sslmode = \"verify-full\"\nclient_tls_cert_file = {cert:?}\nclient_tls_key_file = {key:?}\nclient_tls_ca_file = {ca:?}"
    );
    let hba = "hostssl app all all cert map=m\nhostssl ann all all cert\nhost all admin all trust\n";
    let weir = ruled(&cluster, dir.path(), hba, "m /^(.*)@example\\.com$ \\1\n", &tls)
        .users("\"ann\" \"\"\n\"bob\" \"\"")
        .start();
    let (mine, my_key) = house.issue("ann@example.com", &[]).write(dir.path(), "mine");
    let (bare, bare_key) = house.issue("ann", &[]).write(dir.path(), "bare");
    let run = |user: &str, database: &str, cert: &std::path::Path, key: &std::path::Path| {
        let (cert, key) = (cert.display(), key.display());
        let target =
            format!("hostaddr=127.0.0.1 dbname={database} user={user} sslmode=require sslcert={cert} sslkey={key}");
        let args = ["-Atc", "SELECT current_user", &target];
        Running::start(&mut tools::psql_command(weir.port(), database, &args)).wait(tools::TIMEOUT)
    };
    assert_eq!(run("ann", "app", &mine, &my_key).ok(), "ann\n");
    let refused = |said: Output, user: &str| {
        assert!(said.stderr.contains(&format!("certificate authentication failed for user \"{user}\"")), "{said:?}");
    };
    refused(run("bob", "app", &mine, &my_key), "bob");
    refused(run("ann", "app", &bare, &bare_key), "ann");
    assert_eq!(run("ann", "ann", &bare, &bare_key).ok(), "ann\n");
    refused(run("ann", "ann", &mine, &my_key), "ann");
    // A certificate beside another proof.
    let other = Authority::new("another house");
    let (theirs, their_key) = other.issue("ann", &[]).write(dir.path(), "theirs");
    std::fs::write(
        dir.path().join("hba"),
        "hostssl app all all trust clientcert=verify-full\nhostssl ann all all trust clientcert=verify-ca\n",
    )
    .unwrap();
    weir.hup();
    common::eventually("the new rules count", Duration::from_secs(10), || {
        (run("ann", "app", &bare, &bare_key).stdout == "ann\n").then_some(())
    });
    refused(run("ann", "app", &mine, &my_key), "ann");
    refused(run("bob", "app", &bare, &bare_key), "bob");
    assert_eq!(run("ann", "ann", &mine, &my_key).ok(), "ann\n");
    assert!(!run("ann", "ann", &theirs, &their_key).status.success(), "of no known authority");
}

#[test]
fn a_rule_for_the_console_is_for_both_its_names() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = ruled(&cluster, dir.path(), "host pgbouncer admin all reject\nhost all all all trust\n", "", "").start();
    for name in ["pgbouncer", "pgweir"] {
        let error = refusal(weir.login("admin", name));
        assert!(error.message.starts_with("pg_hba.conf rejects connection for host"), "{name}: {error}");
    }
    lets_in(&weir, "postgres", "");
    std::fs::write(dir.path().join("hba"), "host pgweir admin all trust\nhost all all all reject\n").unwrap();
    weir.hup();
    common::eventually("the new rules count", Duration::from_secs(10), || {
        weir.login("admin", "pgbouncer").connect().ok()
    });
    assert!(weir.login("admin", "pgweir").connect().is_ok());
}

#[test]
fn certificates_are_asked_for_where_they_are_not_demanded() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER ann; CREATE USER bob");
    let dir = tempfile::tempdir().unwrap();
    let house = Authority::new("the house");
    let (cert, key) = house.issue("localhost", &["localhost"]).write(dir.path(), "ours");
    let ca = certs::write(dir.path(), "ca.crt", house.cert());
    let tls =
        format!("client_tls_sslmode = \"prefer\"\nclient_tls_cert_file = {cert:?}\nclient_tls_key_file = {key:?}\n");
    let hba = "hostssl app ann all cert\nhost all all all trust\n";
    let users = "\"ann\" \"\"\n\"bob\" \"\"\n\"postgres\" \"\"";
    let with_ca = format!("{tls}client_tls_ca_file = {ca:?}");
    let weir = ruled(&cluster, dir.path(), hba, "", &with_ca).users(users).start();
    let (mine, my_key) = house.issue("ann", &[]).write(dir.path(), "mine");
    let run = |user: &str, more: &str| {
        let target = format!("hostaddr=127.0.0.1 dbname=app user={user} {more}");
        let args = ["-Atc", "SELECT current_user", &target];
        Running::start(&mut tools::psql_command(weir.port(), "app", &args)).wait(tools::TIMEOUT)
    };
    let shown = |cert: &std::path::Path, key: &std::path::Path| {
        format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display())
    };
    assert_eq!(run("ann", &shown(&mine, &my_key)).ok(), "ann\n");
    assert_eq!(run("bob", "sslmode=require").ok(), "bob\n", "who has none comes in by another rule");
    let none = run("ann", "sslmode=require");
    assert!(none.stderr.contains("certificate authentication failed for user \"ann\""), "{none:?}");
    assert!(!weir.log_text().contains("client_tls_ca_file is not used"));
    // Without authorities nobody could ever come in by the rule.
    let lacking = ruled(&cluster, dir.path(), hba, "", &tls).users(users).try_start();
    let why = lacking.map(drop).unwrap_err();
    assert!(why.contains("hba:1: the method cert needs client_tls_ca_file"), "{why}");
}

#[test]
fn logins_by_several_ways_keep_their_pools() {
    let cluster = cluster();
    let dir = tempfile::tempdir().unwrap();
    let hba = "local all ann scram-sha-256\nhost app ann all password\nhost all all all trust\n";
    let verifier = cluster.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'ann'");
    let weir =
        ruled(&cluster, dir.path(), hba, "", "default_pool_size = 1").users(&format!("\"ann\" \"{verifier}\"")).start();
    let socket = dir.path().join(format!(".s.PGSQL.{}", weir.port()));
    let by_keys = || Login::new(Address::Unix(socket.clone()), "ann", "app").password("secret").connect().unwrap();
    let by_password = || weir.login("ann", "app").password("secret").connect().unwrap();
    drop((by_keys(), by_password()));
    let server = by_keys().value(common::SERVER_PID);
    for _ in 0..3 {
        assert_eq!(by_password().value(common::SERVER_PID), server, "the connection has been kept");
        assert_eq!(by_keys().value(common::SERVER_PID), server, "the connection has been kept");
    }
}

#[test]
fn a_login_waits_for_resume_as_a_statement_does() {
    let cluster = cluster();
    let weir = Weir::builder()
        .general("auth_type = \"hba\"\nauth_user = \"looker\"\nclient_login_timeout = \"300ms\"\nquery_wait_timeout = \"60s\"")
        .users(LOOKER_LINE)
        .cluster("app", &cluster, &[]);
    let dir = tempfile::tempdir().unwrap();
    let rules = certs::write(dir.path(), "hba", "host app all all scram-sha-256\nhost all all all trust\n");
    let weir = weir.general(&format!("auth_hba_file = {rules:?}")).start();
    let mut console = weir.console().unwrap();
    assert_eq!(console.run("PAUSE"), "C(PAUSE) Z(I)");
    let login = weir.login("ann", "app").password("secret");
    let coming = std::thread::spawn(move || login.connect().map(|mut ann| ann.value("SELECT current_user")));
    let waiting = |console: &mut RawClient| {
        let pools = console.rows("SHOW POOLS").unwrap();
        pools.iter().filter(|row| row[3] != "0").count()
    };
    common::eventually("the question waits", Duration::from_secs(10), || (waiting(&mut console) == 1).then_some(()));
    // Longer than the client itself might take.
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(coming.join().unwrap().unwrap(), "ann");
    // Who leaves meanwhile is not waited for.
    assert_eq!(console.run("PAUSE"), "C(PAUSE) Z(I)");
    let mut gone = RawClient::open(Address::Tcp(weir.port())).unwrap();
    let params = [("user", "ann"), ("database", "app")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    gone.send_bytes(&frontend::startup(wire::PROTOCOL_3_0, &params));
    common::eventually("the question waits", Duration::from_secs(10), || (waiting(&mut console) == 1).then_some(()));
    drop(gone);
    common::eventually("nobody waits", Duration::from_secs(10), || (waiting(&mut console) == 0).then_some(()));
    assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
}

#[test]
fn a_login_that_waits_is_ended_as_a_statement_is() {
    let cluster = Cluster::start();
    let weir = Weir::builder()
        .general("client_login_timeout = \"60s\"\nquery_wait_timeout = \"300ms\"")
        .cluster("app", &cluster, &[])
        .start();
    let mut console = weir.console().unwrap();
    assert_eq!(console.run("PAUSE app"), "C(PAUSE) Z(I)");
    let error = refusal(weir.login("postgres", "app"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"));
    assert!(error.message.contains("(query_wait_timeout): the database is paused"), "{error}");
}
