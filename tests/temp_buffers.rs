//! `temp_buffers` of a client is not the affair of whose temporary tables its server had before: PostgreSQL takes no other value where there
//! have been some, whatever was reset.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::weir::Weir;
use common::wire::show;

const SHOW: &str = "SHOW temp_buffers";

#[test]
fn a_server_with_the_temporary_tables_of_others_takes_no_other_temp_buffers_and_is_left() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).database("pool_size = 1").start();
    let mut a = weir.client("app");
    let spoil = |a: &mut common::raw::RawClient| {
        let made = a.run("CREATE TEMP TABLE own AS SELECT 1 AS v; SELECT v FROM own; DROP TABLE own");
        assert!(made.ends_with("C(DROP TABLE) Z(I)"), "{made}");
    };
    spoil(&mut a);
    // By both protocols, and by a call.
    let mut b = weir.client("app");
    assert_eq!(b.run("SET temp_buffers = '16MB'"), "C(SET) Z(I)");
    spoil(&mut a);
    assert_eq!(b.value(SHOW), "16MB", "it has it on another server, too");
    let mut c = weir.client("app");
    c.parse("", "SET temp_buffers = '17MB'", &[]);
    c.bind("", "", &[]);
    c.execute("", 0);
    c.sync();
    assert_eq!(show(&c.read_until_ready()), "1 2 C(SET) Z(I)");
    spoil(&mut a);
    let mut d = weir.client("app");
    assert_eq!(d.value("SELECT set_config('temp_buffers', '18MB', false)"), "18MB");
    spoil(&mut a);
    assert_eq!(c.value(SHOW), "17MB");
    assert_eq!(d.value(SHOW), "18MB");
    spoil(&mut a);
    // At the login.
    let login = |value: &str| weir.login("postgres", "app").param("options", &format!("-c temp_buffers={value}"));
    let mut e = login("19MB").connect().unwrap();
    assert_eq!(e.value(SHOW), "19MB");
    spoil(&mut e);
    spoil(&mut a);
    let mut f = login("19MB").connect().unwrap();
    assert_eq!(f.value(SHOW), "19MB");
    // What is wrong by itself is an error all the same, and costs no connection more.
    assert!(login("1kB").connect().is_err());
    assert_eq!(b.run("SET temp_buffers = '1kB'"), "E(22023) Z(I)");
    assert_eq!(a.value(SHOW), "8MB");
    for (client, value) in [(&mut b, "16MB"), (&mut c, "17MB"), (&mut d, "18MB"), (&mut e, "19MB")] {
        spoil(client);
        assert_eq!(client.value(SHOW), value);
    }
}
