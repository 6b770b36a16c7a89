//! SUSPEND, `suspend_timeout` and `server_fast_close`: what stands still, who is closed, and what goes on afterwards.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::show;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_millis(200);

fn over(cluster: &Cluster) -> common::weir::Builder {
    Weir::builder().cluster("app", cluster, &[])
}

fn state(console: &mut RawClient) -> String {
    let rows = console.rows("SHOW STATE").expect("the state");
    rows.into_iter().find(|row| row[1] == "yes").expect("one of them").remove(0)
}

#[test]
fn everything_rests_until_resume() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let (mut idle, mut busy, mut open) = (weir.client("app"), weir.client("app"), weir.client("app"));
    assert_eq!(idle.value("SELECT 1"), "1");
    assert_eq!(open.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(open.value("SELECT 2"), "2");
    busy.query("SELECT 3 FROM pg_sleep(0.7)");
    busy.expect_silence(A_WHILE);
    let mut console = weir.console().unwrap();
    assert_eq!(state(&mut console), "active");
    assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
    assert_eq!(state(&mut console), "suspended");
    // Neither who rests nor who is in a transaction is served, and an answer that has come waits.
    idle.query("SELECT 4");
    open.query("SELECT 5");
    eventually("the statement that ran has ended", SOON, || {
        (cluster.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(0.7)'")
            == "0")
            .then_some(())
    });
    for client in [&mut idle, &mut open, &mut busy] {
        client.expect_silence(A_WHILE);
    }
    // The kernel takes a new client, but nobody answers it.
    let late = TcpStream::connect(("127.0.0.1", weir.port())).unwrap();
    let port = weir.port();
    let login = std::thread::spawn(move || RawClient::connect(port, "postgres", "app").value("SELECT 6"));
    std::thread::sleep(A_WHILE);
    assert!(!login.is_finished());
    let (status, ready) = weir.http_get("/health/ready");
    assert!(status == 503 && ready.contains("suspended"), "{status} {ready}");
    for command in ["SUSPEND", "PAUSE", "PAUSE app"] {
        assert_eq!(console.run(command), "E(55000) Z(I)", "{command}");
    }
    assert_eq!(console.run("RESUME app"), "E(55000) Z(I)", "everything is suspended, not one database paused");
    assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(state(&mut console), "active");
    assert_eq!(show(&idle.read_until_ready()), "T(?column?:23) D(4) C(SELECT 1) Z(I)");
    assert_eq!(show(&open.read_until_ready()), "T(?column?:23) D(5) C(SELECT 1) Z(T)");
    assert_eq!(show(&busy.read_until_ready()), "T(?column?:23) D(3) C(SELECT 1) Z(I)");
    assert_eq!(open.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(login.join().unwrap(), "6");
    assert_eq!(console.run("RESUME"), "E(55000) Z(I)");
    drop(late);
}

#[test]
fn a_stream_of_rows_stops_and_goes_on() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let mut console = weir.console().unwrap();
    for (length, count) in [(100, 300_000), (300_000, 1_000)] {
        let mut client = weir.client("app");
        client.query(&format!("SELECT g, repeat('x', {length}) FROM generate_series(1, {count}) g"));
        let reader = std::thread::spawn(move || {
            let mut rows = 0;
            loop {
                let message = client.try_read_message().expect("nobody is closed").expect("it goes on");
                match message.tag {
                    b'D' => rows += 1,
                    b'Z' => return (client, rows),
                    _ => {}
                }
            }
        });
        suspend_some(&mut console);
        let (mut client, rows) = reader.join().unwrap();
        assert_eq!(rows, count, "none is lost");
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

/// SUSPEND and RESUME, while something streams.
fn suspend_some(console: &mut RawClient) {
    for _ in 0..5 {
        assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
        assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
    }
}

#[test]
fn a_copy_into_a_table_stops_and_goes_on() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (v text)");
    let weir = over(&cluster).start();
    let mut console = weir.console().unwrap();
    let mut client = weir.client("app");
    client.query("COPY t FROM STDIN");
    client.read_until(b'G');
    let writer = std::thread::spawn(move || {
        let mut row = vec![b'x'; 300_000];
        row.push(b'\n');
        for _ in 0..300 {
            client.copy_data(&row);
        }
        client.copy_done();
        show(&client.read_until_ready())
    });
    suspend_some(&mut console);
    assert_eq!(writer.join().unwrap(), "C(COPY 300) Z(I)");
}

#[test]
fn suspend_and_resume_that_meet_leave_nobody_behind() {
    let cluster = Cluster::start();
    let weir = over(&cluster).general("workers = 4\nsuspend_timeout = 0").start();
    let mut clients: Vec<RawClient> = (0..300).map(|_| weir.client("app")).collect();
    let mut console = weir.console().unwrap();
    let consoles: Vec<RawClient> = (0..3).map(|_| weir.console().unwrap()).collect();
    let run = |(number, mut console): (usize, RawClient)| {
        std::thread::spawn(move || {
            // Many of them are refused: another came first.
            for _ in 0..300 {
                console.run(if number == 0 { "SUSPEND" } else { "RESUME" });
            }
            console
        })
    };
    let threads: Vec<_> = consoles.into_iter().enumerate().map(run).collect();
    let consoles: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    console.run("RESUME");
    assert_eq!(state(&mut console), "active");
    for client in &mut clients {
        assert_eq!(client.value("SELECT 1"), "1");
    }
    drop(consoles);
}

#[test]
fn nobody_is_let_in_by_the_second_suspend_either() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let mut console = weir.console().unwrap();
    for round in 0..3 {
        assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
        // An SSLRequest: the first byte that comes back is the answer.
        let mut late = TcpStream::connect(("127.0.0.1", weir.port())).unwrap();
        late.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
        late.set_read_timeout(Some(A_WHILE)).unwrap();
        let mut answer = [0];
        assert!(late.read(&mut answer).is_err(), "round {round}: {answer:?}");
        let lists = console.rows("SHOW LISTS").unwrap();
        let logging_in = lists.iter().find(|row| row[0] == "login_clients").unwrap();
        assert_eq!(logging_in[1], "0", "round {round}");
        assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
        late.set_read_timeout(Some(SOON)).unwrap();
        late.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"N", "round {round}");
    }
}

#[test]
fn a_signal_ends_it_whatever_it_waits_for() {
    let cluster = Cluster::start();
    let weir = over(&cluster).general("suspend_timeout = \"300ms\"\ndefault_pool_size = 1").start();
    let mut console = weir.console().unwrap();
    let mut holder = weir.client("app");
    assert_eq!(holder.run("BEGIN"), "C(BEGIN) Z(T)");
    let mut waiter = weir.client("app");
    waiter.query("SELECT 2");
    eventually("it waits", SOON, || {
        let pools = weir.admin_table("SHOW POOLS");
        (pools.iter().find(|p| p["database"] == "app")?["cl_waiting"] == "1").then_some(())
    });
    assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
    assert_eq!(show(&waiter.read_to_end()), "E(FATAL 57P01)");
    weir.wait_log("suspend_timeout is over");
    let told = weir.log_text().lines().filter(|line| line.contains("suspend_timeout is over")).count();
    assert_eq!(told, 1, "{}", weir.log_text());
    weir.signal(Signal::SIGUSR2);
    eventually("it is resumed", SOON, || (state(&mut console) == "active").then_some(()));
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(weir.client("app").value("SELECT 3"), "3");
}

#[test]
fn nothing_is_held_back_by_a_process_that_ends() {
    let cluster = Cluster::start();
    let weir = over(&cluster).general("shutdown_timeout = 0").start();
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    let mut console = weir.console().unwrap();
    weir.term();
    eventually("it ends", SOON, || weir.log_text().contains("shutting down").then_some(()));
    for command in ["PAUSE", "PAUSE app", "SUSPEND"] {
        assert_eq!(console.run(command), "E(55000) Z(I)", "{command}");
    }
    assert_eq!(client.value("SELECT 2"), "2");
    drop(client);
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
}

#[test]
fn nobody_is_suspended_who_waits_for_a_paused_database() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let mut console = weir.console().unwrap();
    for (pause, resume) in [("PAUSE", "RESUME"), ("PAUSE app", "RESUME app")] {
        assert_eq!(console.run(pause), format!("C(PAUSE) Z(I)"));
        assert_eq!(console.run("SUSPEND"), "E(55000) Z(I)", "after {pause}");
        assert_eq!(console.run(resume), "C(RESUME) Z(I)");
    }
}

#[test]
fn who_is_in_the_middle_of_something_is_closed_when_the_time_is_up() {
    let cluster = Cluster::start();
    let weir = over(&cluster).general("suspend_timeout = \"500ms\"\ndefault_pool_size = 1").start();
    let mut console = weir.console().unwrap();
    let config = weir.admin_table("SHOW CONFIG");
    let setting = config.iter().find(|row| row["key"] == "suspend_timeout").unwrap();
    assert_eq!((setting["value"].as_str(), setting["changeable"].as_str()), ("0.5", "yes"), "{setting:?}");
    let mut holder = weir.client("app");
    assert_eq!(holder.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(holder.value("SELECT 1"), "1");
    // Its statement is here, and has no server to go to.
    let mut waiter = weir.client("app");
    waiter.query("SELECT 2");
    // Half a message is here.
    let mut half = weir.client("app");
    half.send_bytes(&[b'Q', 0, 0, 0, 50, b'S']);
    eventually("it waits", SOON, || {
        let pools = weir.admin_table("SHOW POOLS");
        (pools.iter().find(|p| p["database"] == "app")?["cl_waiting"] == "1").then_some(())
    });
    // Somebody who has not said who he is.
    let mut stranger = RawClient::open(common::raw::Address::Tcp(weir.port())).unwrap();
    eventually("he is there", SOON, || {
        let lists = weir.admin_table("SHOW LISTS");
        (lists.iter().find(|l| l["list"] == "login_clients")?["items"] != "0").then_some(())
    });
    assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
    for client in [&mut waiter, &mut half, &mut stranger] {
        let told = client.read_to_end();
        assert_eq!(show(&told), "E(FATAL 57P01)");
        let error = told[0].error().unwrap();
        assert!(error.fields[&'M'].contains("suspend_timeout"), "{error:?}");
    }
    holder.query("SELECT 3");
    holder.expect_silence(A_WHILE);
    assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(show(&holder.read_until_ready()), "T(?column?:23) D(3) C(SELECT 1) Z(T)");
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(weir.client("app").value("SELECT 4"), "4");
}

#[test]
fn a_client_that_does_not_read_is_waited_for() {
    let cluster = Cluster::start();
    let weir = over(&cluster).general("suspend_timeout = \"1s\"").start();
    let mut console = weir.console().unwrap();
    let mut deaf = weir.client("app");
    deaf.query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
    eventually("its answer fills the buffers", SOON, || {
        let sockets = weir.admin_table("SHOW ACTIVE_SOCKETS");
        sockets.iter().any(|s| s["type"] == "S" && s["send_avail"] != "0").then_some(())
    });
    assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
    let clients = console.rows("SHOW CLIENTS").unwrap();
    assert!(clients.iter().all(|row| row[2] != "app"), "it is closed: {clients:?}");
    assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

#[test]
fn nobody_is_left_suspended() {
    let cluster = Cluster::start();
    let weir = over(&cluster).general("default_pool_size = 1\nsuspend_timeout = 0").start();
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    // The only console that there is leaves, and no other could come.
    let mut console = weir.console().unwrap();
    assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
    drop(console);
    assert_eq!(client.value("SELECT 2"), "2");
    weir.wait_log("the last console has gone");
    // The same of one that still waits; and ^C takes it back.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.value("SELECT 3"), "3");
    let mut waiter = weir.client("app");
    waiter.query("SELECT 4");
    waiter.expect_silence(A_WHILE);
    let mut console = weir.console().unwrap();
    console.query("SUSPEND");
    console.expect_silence(A_WHILE);
    drop(console);
    assert_eq!(client.value("SELECT 5"), "5");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&waiter.read_until_ready()), "T(?column?:23) D(4) C(SELECT 1) Z(I)");
    // A shutdown ends it too.
    let mut console = weir.console().unwrap();
    assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
    weir.term();
    assert_eq!(show(&client.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
}

#[test]
fn a_session_is_closed_with_its_server_between_transactions() {
    let cluster = Cluster::start();
    let general = "pool_mode = \"session\"\nserver_fast_close = true";
    let mut weir = over(&cluster).general(general).start();
    let (mut idle, mut open) = (weir.client("app"), weir.client("app"));
    assert_eq!(idle.value("SELECT 1"), "1");
    assert_eq!(open.run("BEGIN"), "C(BEGIN) Z(T)");
    let pid = open.value(common::SERVER_PID);
    let mut console = weir.console().unwrap();
    assert_eq!(console.run("RECONNECT app"), "C(RECONNECT) Z(I)");
    let told = idle.read_to_end();
    assert_eq!(show(&told), "E(FATAL 57P01)");
    assert!(told[0].error().unwrap().fields[&'M'].contains("server_fast_close"));
    assert_eq!(open.value(common::SERVER_PID), pid, "a transaction is not cut");
    open.query("COMMIT");
    assert_eq!(show(&open.read_to_end()), "C(COMMIT) Z(I) E(FATAL 57P01)");
    assert_eq!(console.run("WAIT_CLOSE app"), "C(WAIT_CLOSE) Z(I)");
    // A reload that changes the connection's settings does the same.
    let mut again = weir.client("app");
    assert_ne!(again.value(common::SERVER_PID), pid);
    weir.reconfigure(|builder| builder.general("server_tls_sslmode = \"disable\""));
    assert_eq!(console.run("RELOAD"), "C(RELOAD) Z(I)");
    assert_eq!(show(&again.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

#[test]
fn a_session_keeps_its_server_without_that() {
    let cluster = Cluster::start();
    let weir = over(&cluster).general("pool_mode = \"session\"").start();
    let mut client = weir.client("app");
    let pid = client.value(common::SERVER_PID);
    let mut console = weir.console().unwrap();
    assert_eq!(console.run("RECONNECT"), "C(RECONNECT) Z(I)");
    // Longer than the pools' look after themselves takes.
    client.expect_silence(Duration::from_millis(1500));
    assert_eq!(client.value(common::SERVER_PID), pid);
    // In transaction mode nothing depends on the setting: the server changes, the session stays.
    let weir = over(&cluster).general("server_fast_close = true").start();
    let mut client = weir.client("app");
    let pid = client.value(common::SERVER_PID);
    assert_eq!(weir.console().unwrap().run("RECONNECT"), "C(RECONNECT) Z(I)");
    assert_ne!(client.value(common::SERVER_PID), pid);
}
