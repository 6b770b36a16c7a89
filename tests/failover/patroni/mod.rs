//! Before a cluster that Patroni looks after: what it does is followed, what it says is believed as far as it goes, and that it is silent
//! costs nothing.

mod kit;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::eventually;
use crate::common::ports::Port;
use crate::common::weir::Weir;
use crate::work::Work;
use kit::Site;

const PATIENCE: Duration = Duration::from_secs(60);

/// The row of SHOW REPLICAS of a member, as a database sees it.
fn row(weir: &Weir, database: &str, port: u16) -> BTreeMap<String, String> {
    let rows = weir.admin_table("SHOW REPLICAS");
    rows.into_iter().find(|row| row["database"] == database && row["port"] == port.to_string()).unwrap()
}

fn wait_row(weir: &Weir, database: &str, port: u16, expected: [&str; 3]) {
    let what = format!("{database}: {port} is {expected:?}");
    eventually(&what, PATIENCE, || {
        let row = row(weir, database, port);
        ([&*row["role"], &*row["state"], &*row["patroni"]] == expected).then_some(())
    });
}

/// Starts pgweir before the members: `app` for the load; `told`, which is not probed again for an hour unless Patroni says so; and
/// `deaf`, whose Patroni is not there.
fn weir(site: &Site) -> Weir {
    let (servers, patroni) = (site.server_urls(), site.rest_urls());
    let database =
        |name: &str, lines: &str| format!("[databases.{name}]\nuser = \"postgres\"\nservers = {servers}\n{lines}\n");
    let nobody = Port::claim();
    Weir::builder()
        .general("server_login_retry = \"100ms\"\nserver_connect_timeout = \"2s\"")
        .general("probe_timeout = \"1s\"\nbreaker_cooldown = \"200ms\"\npatroni_interval = \"100ms\"")
        .database(&database("app", &format!("probe_interval = \"100ms\"\npatroni = {patroni}")))
        .database(&database("told", &format!("probe_interval = \"1h\"\npatroni = {patroni}")))
        .database(&database("deaf", &format!("patroni = [\"http://127.0.0.1:{}\"]", nobody.number())))
        .start()
}

#[test]
fn patroni_switches_over_and_fails_over_under_load() {
    let site = Site::start(3);
    site.members[0].sql("CREATE TABLE log (session int, n int, PRIMARY KEY (session, n))");
    let ports: Vec<u16> = site.members.iter().map(kit::Member::port).collect();
    let weir = weir(&site);
    for database in ["app", "told"] {
        wait_row(&weir, database, ports[0], ["primary", "up", "leader"]);
    }
    eventually("Patroni has chosen a synchronous standby", PATIENCE, || {
        let said = |at: usize| row(&weir, "app", ports[at])["patroni"].clone();
        let mut said = [said(1), said(2)];
        said.sort();
        (said == ["replica", "sync_standby"]).then_some(())
    });
    weir.wait_log("Patroni does not answer");
    wait_row(&weir, "deaf", ports[0], ["primary", "up", ""]);

    // What is done by hand: the other is the primary, and the old one follows it.
    let candidate = (1..3).find(|at| row(&weir, "app", ports[*at])["patroni"] == "sync_standby").unwrap();
    let work = Work::start(&weir, 16, ports[0]);
    work.go_on_for(500);
    site.switchover(0, candidate);
    for database in ["app", "told"] {
        // Of `told` nobody asks for anything: Patroni alone has the probers look.
        wait_row(&weir, database, ports[candidate], ["primary", "up", "leader"]);
    }
    work.primary_is(ports[candidate]);
    work.go_on_for(500);
    eventually("the old primary serves reads", PATIENCE, || {
        let rows = ["app", "told"].map(|database| row(&weir, database, ports[0]));
        rows.iter().all(|row| row["role"] == "replica" && row["state"] == "up").then_some(())
    });

    // What happens to it: Patroni and PostgreSQL die at once.
    eventually("a commit waits for a standby again", PATIENCE, || {
        let standbys = site.members[candidate].sql("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'");
        // PostgreSQL waits a moment before Patroni has noted it, and without that note nobody may take over.
        let noted = |at: usize| at != candidate && row(&weir, "app", ports[at])["patroni"] == "sync_standby";
        (!standbys.is_empty() && (0..3).any(noted)).then_some(())
    });
    site.members[candidate].kill9();
    let heir = site.wait_leader(candidate);
    for database in ["app", "told"] {
        wait_row(&weir, database, ports[heir], ["primary", "up", "leader"]);
    }
    work.primary_is(ports[heir]);
    work.go_on_for(500);
    let row_of_dead = row(&weir, "app", ports[candidate]);
    assert_ne!(row_of_dead["state"], "up", "{row_of_dead:?}");
    let report = work.finish();
    eprintln!("patroni: {report}");
    report.assert_clean();
    report.assert_kept(|sql| site.members[heir].sql(sql));

    // It comes back, and follows.
    site.members[candidate].start();
    site.members[candidate].wait_standby();
    eventually("who comes back serves reads", PATIENCE, || {
        let rows = ["app", "told"].map(|database| row(&weir, database, ports[candidate]));
        rows.iter().all(|row| row["role"] == "replica" && row["state"] == "up").then_some(())
    });
    // Whose Patroni is not there has followed as well.
    wait_row(&weir, "deaf", ports[heir], ["primary", "up", ""]);
    let mut client = weir.client("deaf");
    assert_eq!(client.run("INSERT INTO log VALUES (-1, 1)"), "C(INSERT 0 1) Z(I)");
    assert_eq!(weir.log_text().matches("Patroni does not answer").count(), 1);
}
