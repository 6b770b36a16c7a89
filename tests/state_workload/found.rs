//! What the workload has found, as sequences of their own: each is answered as by PostgreSQL without pgweir between.

use crate::common::cluster::Cluster;
use crate::common::raw::RawClient;
use crate::common::weir::Weir;
use crate::common::wire::show;

/// A session of the client's own, and one through a pool of one that another client uses in between.
fn both(startup: &[(&str, &str)], mut check: impl FnMut(&mut RawClient) -> Vec<String>) {
    let cluster = Cluster::start();
    let primary = format!("primary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let weir = Weir::builder().database(&format!("[databases.app]\n{primary}\npool_size = 1")).start();
    let with =
        |login| startup.iter().fold(login, |login: crate::common::raw::Login, (name, value)| login.param(name, value));
    let direct = crate::common::raw::Address::Tcp(cluster.port());
    let own = check(&mut with(crate::common::raw::Login::new(direct, "postgres", "postgres")).connect().unwrap());
    let mut other = weir.client("app");
    assert_eq!(other.run("SET application_name = 'other'"), "C(SET) S(application_name=other) Z(I)");
    let pooled = check(&mut with(weir.login("postgres", "app")).connect().unwrap());
    assert_eq!(pooled, own);
}

fn parse(client: &mut RawClient, name: &str, sql: &str) -> String {
    client.parse(name, sql, &[]);
    client.sync();
    show(&client.read_until_ready())
}

/// PREPARE and Parse give names of one kind.
#[test]
fn a_name_that_prepare_has_taken_is_taken() {
    both(&[], |client| {
        let mut heard = vec![client.run("PREPARE p AS SELECT 'sql'"), parse(client, "p", "SELECT 'protocol'")];
        heard.push(client.run("EXECUTE p"));
        heard.push(client.run("DEALLOCATE p"));
        heard.push(parse(client, "p", "SELECT 'protocol'"));
        heard.push(client.run("EXECUTE p"));
        heard.push(client.run("PREPARE p AS SELECT 'again'"));
        heard.push(client.run("DEALLOCATE ALL"));
        // In one pipeline, where what is behind an error does not happen.
        heard.push(client.run("PREPARE q AS SELECT 'sql'"));
        client.parse("", "SELECT 1/0", &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        client.parse("q", "SELECT 'protocol'", &[]);
        client.parse("", "EXECUTE q", &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        client.sync();
        heard.push(show(&client.read_until_ready()));
        heard.push(client.run("EXECUTE q"));
        client.bind("", "q", &[]);
        client.execute("", 0);
        client.sync();
        heard.push(show(&client.read_until_ready()));
        heard.push(client.run("DISCARD ALL"));
        heard.push(parse(client, "q", "SELECT 'protocol'"));
        heard
    });
}

/// A failed block is found before a name that is taken.
#[test]
fn a_taken_name_in_a_failed_block() {
    both(&[], |client| {
        let mut heard = vec![parse(client, "p", "SELECT 1"), parse(client, "p", "SELECT 1"), client.run("BEGIN")];
        heard.push(client.run("SELECT 1/0"));
        heard.push(parse(client, "p", "SELECT 1"));
        heard.push(parse(client, "p", "ROLLBACK"));
        heard.push(client.run("ROLLBACK"));
        heard
    });
}

/// RESET goes to what startup gave, and that is what the client is told; how often it is told is another matter.
#[test]
fn reset_tells_what_startup_gave() {
    let startup = [("application_name", "given"), ("options", "-c TimeZone=Asia/Tokyo")];
    both(&startup, |client| {
        let mut told = Vec::new();
        for text in [
            "SET application_name = 'x'; SET TimeZone = 'UTC'",
            "RESET application_name",
            "RESET ALL",
            "SELECT 1",
            "BEGIN; SET application_name = 'x'",
            "RESET application_name",
            "ROLLBACK",
            "SET application_name = 'x'",
            "DISCARD ALL",
        ] {
            client.run(text);
            told.push(format!("{text}: {} {}", client.params["application_name"], client.params["TimeZone"]));
        }
        told
    });
}

/// What startup gave is there for what is sent right behind a RESET, also where something is to be asked at the same time.
#[test]
fn what_is_asked_does_not_keep_back_what_a_reset_took() {
    both(&[("options", "-c work_mem=7MB")], |client| {
        let mut heard = vec![client.run("PREPARE p AS SELECT 1"), client.run("PREPARE q AS SELECT 1")];
        // Whether it still has statements; what the value is; both.
        for text in [
            "DEALLOCATE q; RESET work_mem",
            "SELECT set_config('app.x', 'a' || 'b', false); RESET work_mem",
            "PREPARE q AS SELECT 1; SELECT set_config('app.x', 'c' || 'd', false); DEALLOCATE q; RESET ALL",
        ] {
            client.query(text);
            client.query("SELECT current_setting('work_mem'), current_setting('app.x', true) = 'cd'");
            heard.push(show(&client.read_until_ready()));
            heard.push(show(&client.read_until_ready()));
        }
        heard.push(client.run("SHOW work_mem"));
        heard
    });
}
