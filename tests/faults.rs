//! Peers that misbehave. A server that breaks the protocol costs the one client that has it a clear error, and nothing else; a
//! client that breaks it costs itself. Nothing makes pgweir panic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::fake::{FakeServer, Step, greeting};
use common::raw::{Address, LoginError, RawClient};
use common::weir::Weir;
use common::wire::{self, Message, backend, frontend, show};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SOON: Duration = Duration::from_secs(15);

/// Answers every simple query, the reset included, with this value.
fn healthy(value: &str) -> Vec<Step> {
    [Step::login(), vec![Step::Loop(Step::reply(backend::one_value("v", value)))]].concat()
}

/// Logs in and meets the first statement like this.
fn after_login(then: Vec<Step>) -> Vec<Step> {
    [Step::login(), vec![Step::ExpectText(b'Q', "boom".into())], then].concat()
}

/// pgweir before a server whose first connection runs `script` and whose others are healthy, and before one that is healthy.
struct Bed {
    weir: Weir,
    bad: FakeServer,
    _good: FakeServer,
    bystander: RawClient,
}

impl Bed {
    fn new(script: Vec<Step>) -> Self {
        Self::with("", move |number| if number == 0 { script.clone() } else { healthy("fresh") })
    }

    fn with(general: &str, script: impl Fn(usize) -> Vec<Step> + Send + 'static) -> Self {
        let (bad, good) = (FakeServer::serve(script), FakeServer::serve(|_| healthy("good")));
        let url = |server: &FakeServer| format!("primary = \"postgres://127.0.0.1:{}/d\"", server.port());
        let weir = Weir::builder()
            .general(&format!("workers = 1\nserver_login_retry = \"1s\"\n{general}"))
            .database(&format!("[databases.bad]\n{}\n[databases.good]\n{}", url(&bad), url(&good)))
            .start();
        let mut bystander = weir.client("good");
        assert_eq!(bystander.value("SELECT 1"), "good");
        Self { weir, bad, _good: good, bystander }
    }

    /// Everybody else goes on, and so does the database of the bad server.
    fn assert_well(mut self) {
        self.assert_calm();
        let mut next =
            eventually("the next client gets in", SOON, || self.weir.login("postgres", "bad").connect().ok());
        assert_eq!(next.run("SELECT 1"), "T(v:25) D(fresh) C(SELECT 1) Z(I)");
        self.assert_calm();
    }

    fn assert_calm(&mut self) {
        assert_eq!(self.bystander.value("SELECT 1"), "good");
        assert_calm(&self.weir);
    }
}

fn assert_calm(weir: &Weir) {
    let log = weir.log_text();
    assert!(!log.contains("panicked") && !log.contains("a task failed"), "{log}");
    assert_eq!(weir.http_get("/health/live").0, 200);
}

/// Sends `boom`; all messages up to the end of the stream, with a message cut short left out.
fn boom(client: &mut RawClient) -> Vec<Message> {
    client.query("boom");
    let mut messages = Vec::new();
    while let Ok(Some(message)) = client.try_read_message() {
        messages.push(message);
    }
    messages
}

// Servers.

/// A session that had been told to end before it was lent says so at once: what it was asked has not been done, and is asked of another one.
/// PostgreSQL says so in one place, and only then is it certain.
#[test]
fn what_comes_to_a_session_that_ends_is_asked_of_another() {
    let fatal = |code: &str, routine: &str| {
        let error = backend::error("FATAL", code, "terminating connection");
        let fields = error[5..error.len() - 1].iter().copied();
        let body: Vec<u8> = fields.chain(*b"R").chain(routine.bytes()).chain(*b"\0\0").collect();
        wire::frame(b'E', &body)
    };
    for (code, routine, pause, passes) in [
        ("57P01", "ProcessInterrupts", 0, true),
        ("57P05", "ProcessInterrupts", 0, true),
        ("57P01", "somewhere_else", 0, false),
        ("57P03", "ProcessInterrupts", 0, false),
        // Somebody may have meant what runs.
        ("57P01", "ProcessInterrupts", 900, false),
    ] {
        let end = vec![Step::Sleep(Duration::from_millis(pause)), Step::Send(fatal(code, routine)), Step::Close];
        let bed = Bed::new(after_login(end));
        let mut client = bed.weir.client("bad");
        client.query("INSERT INTO t VALUES ('boom')");
        let told: Vec<Message> =
            std::iter::from_fn(|| client.try_read_message().ok().flatten().filter(|m| m.tag != b'Z')).collect();
        let fresh = show(&told).contains("fresh");
        assert_eq!(fresh, passes, "{code} of {routine} after {pause} ms: {}", show(&told));
        drop(client);
        bed.assert_well();
    }
}

#[test]
fn a_server_that_breaks_the_protocol_is_one_clear_error() {
    let row = backend::data_row(&[Some("half of this")]);
    let description = backend::row_description(&[("v", 25)]);
    let cases: Vec<(&str, Vec<Step>, &str)> = vec![
        ("garbage", vec![Step::TrySend(vec![0xff; 64]), Step::Stall], ""),
        ("zeros", vec![Step::Send(vec![0; 64]), Step::Stall], ""),
        ("length below four", vec![Step::Send(b"D\0\0\0\x03".to_vec()), Step::Stall], ""),
        ("length beyond a gigabyte", vec![Step::Send(b"T\x7f\xff\xff\xff".to_vec()), Step::Stall], ""),
        ("negative length", vec![Step::Send(b"T\xff\xff\xff\xff".to_vec()), Step::Stall], ""),
        ("unknown type", vec![Step::Send(wire::frame(b'!', b"x")), Step::Stall], ""),
        ("authentication in mid-session", vec![Step::Send(backend::auth_ok()), Step::Stall], ""),
        ("close without a word", vec![Step::Close], ""),
        ("reset", vec![Step::Reset], ""),
        (
            "close after a row",
            vec![Step::Send([&description[..], &row].concat()), Step::Close],
            "T(v:25) D(half of this) ",
        ),
        ("close in a description", vec![Step::Send(description[..9].to_vec()), Step::Close], ""),
        ("a bad transaction status", vec![Step::Send(backend::ready(b'?')), Step::Stall], ""),
        ("ReadyForQuery without a body", vec![Step::Send(wire::frame(b'Z', b"")), Step::Stall], ""),
        ("the answer to a Parse", vec![Step::Send(wire::frame(b'1', b"")), Step::Stall], ""),
    ];
    for (name, steps, before) in cases {
        eprintln!("case: {name}");
        let mut bed = Bed::new(after_login(steps));
        let mut client = bed.weir.client("bad");
        let messages = boom(&mut client);
        assert_eq!(show(&messages), format!("{before}E(FATAL 08006)"), "{name}");
        assert!(!messages.last().unwrap().error().unwrap().message.is_empty(), "{name}");
        bed.assert_calm();
        bed.assert_well();
    }
}

#[test]
fn a_row_that_breaks_off_is_never_completed() {
    // Whatever is said after half a row would be read as its other half.
    for (name, end) in [("close", Step::Close), ("reset", Step::Reset)] {
        for (missing, size) in [(1, 300), (40, 300), (200, 300), (60_000, 100_000)] {
            let value = "x".repeat(size);
            let whole = [backend::row_description(&[("v", 25)]), backend::data_row(&[Some(&value)])].concat();
            let half = whole[..whole.len() - missing].to_vec();
            let bed =
                Bed::new(after_login(vec![Step::Send(half), Step::Sleep(Duration::from_millis(50)), end.clone()]));
            let mut client = bed.weir.client("bad");
            let messages = boom(&mut client);
            let rows = messages.iter().filter(|m| m.tag == b'D').count();
            assert_eq!(rows, 0, "{name}, {missing} bytes missing: a row that no server sent");
            bed.assert_well();
        }
    }
}

/// CVE class: an answer that reaches another client.
#[test]
fn an_answer_that_nobody_asked_for_reaches_nobody() {
    let answer = backend::one_value("v", "mine");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("ReadyForQuery", backend::ready(b'I')),
        ("ReadyForQuery of a transaction", backend::ready(b'T')),
        ("a whole answer", backend::one_value("v", "stale")),
        ("a row", backend::data_row(&[Some("stale")])),
        ("an error", backend::error("ERROR", "22012", "stale")),
    ];
    for (name, extra) in cases {
        for together in [true, false] {
            eprintln!("case: {name}, together: {together}");
            let steps = if together {
                vec![Step::Send([&answer[..], &extra].concat()), Step::Stall]
            } else {
                vec![
                    Step::Send(answer.clone()),
                    Step::Sleep(Duration::from_millis(100)),
                    Step::Send(extra.clone()),
                    Step::Stall,
                ]
            };
            let mut bed = Bed::new(after_login(steps));
            let mut client = bed.weir.client("bad");
            client.query("boom");
            let mut first = Vec::new();
            while let Ok(Some(message)) = client.try_read_message() {
                let last = message.tag == b'Z';
                first.push(message);
                if last {
                    break;
                }
            }
            let first = show(&first);
            let right = "T(v:25) D(mine) C(SELECT 1) Z(I)";
            assert!(first == right || first.ends_with("E(FATAL 08006)"), "{name}: {first}");
            assert!(!first.contains("stale"), "{name}: {first}");
            if !together {
                // The server speaks while nobody has it.
                assert_eq!(first, right, "{name}");
                std::thread::sleep(Duration::from_millis(200));
            }
            let mut next = bed.weir.client("bad");
            assert_eq!(next.run("SELECT 1"), "T(v:25) D(fresh) C(SELECT 1) Z(I)", "{name}");
            bed.assert_calm();
        }
    }
}

#[test]
fn a_server_that_says_goodbye_is_quoted() {
    let farewell = backend::error("FATAL", "57P01", "terminating connection due to administrator command");
    let bed = Bed::new(after_login(vec![Step::Send(farewell), Step::Close]));
    let mut client = bed.weir.client("bad");
    let messages = boom(&mut client);
    assert_eq!(show(&messages), "E(FATAL 57P01)");
    bed.assert_well();
}

#[test]
fn servers_that_fail_at_login() {
    let refusal = backend::error("FATAL", "53300", "sorry, too many clients already");
    let parameters = |size: usize| {
        let mut bytes = backend::auth_ok();
        bytes.extend(backend::parameter_status("server_version", &"1".repeat(size)));
        bytes
    };
    let cases: Vec<(&str, Vec<Step>, &str)> = vec![
        ("close at once", vec![Step::Close], "08"),
        ("close after the startup", vec![Step::ExpectStartup, Step::Close], "08"),
        ("reset", vec![Step::ExpectStartup, Step::Reset], "08"),
        ("garbage", vec![Step::ExpectStartup, Step::Send(vec![0xee; 100]), Step::Stall], "08"),
        ("a short authentication", vec![Step::ExpectStartup, Step::Send(wire::frame(b'R', b"\0")), Step::Stall], "08"),
        (
            "an unknown authentication",
            vec![Step::ExpectStartup, Step::Send(wire::frame(b'R', &99_u32.to_be_bytes())), Step::Stall],
            "",
        ),
        ("no authentication", vec![Step::ExpectStartup, Step::Send(backend::ready(b'I')), Step::Stall], "08"),
        (
            "half a key",
            vec![
                Step::ExpectStartup,
                Step::Send([backend::auth_ok(), wire::frame(b'K', b"\0\0")].concat()),
                Step::Stall,
            ],
            "08",
        ),
        ("close after AuthenticationOk", vec![Step::ExpectStartup, Step::Send(backend::auth_ok()), Step::Close], "08"),
        ("stall before the startup", vec![Step::Stall], "08"),
        ("stall after the startup", vec![Step::ExpectStartup, Step::Stall], "08"),
        ("stall after AuthenticationOk", vec![Step::ExpectStartup, Step::Send(backend::auth_ok()), Step::Stall], "08"),
        (
            "huge ParameterStatus, then close",
            vec![Step::ExpectStartup, Step::TrySend(parameters(5_000_000)), Step::Close],
            "08",
        ),
        ("a refusal", vec![Step::ExpectStartup, Step::Send(refusal), Step::Close], "53300"),
    ];
    for (name, steps, code) in cases {
        eprintln!("case: {name}");
        let mut bed =
            Bed::with(
                "server_connect_timeout = \"300ms\"",
                move |number| {
                    if number == 0 { steps.clone() } else { healthy("fresh") }
                },
            );
        let error = bed.weir.login("postgres", "bad").connect().unwrap_err();
        let LoginError::Server(error) = error else { panic!("{name}: {error:?}") };
        assert_eq!(error.severity, "FATAL", "{name}");
        assert!(error.code.starts_with(code) && !error.message.is_empty(), "{name}: {error}");
        assert_eq!(bed.bad.accepted().min(1), 1, "{name}");
        bed.assert_calm();
        bed.assert_well();
    }
}

#[test]
fn a_huge_parameter_is_survived() {
    let huge = "x".repeat(2_000_000);
    let mut hello = backend::auth_ok();
    hello.extend(backend::parameter_status("application_name", &huge));
    hello.extend(&greeting(1, &[1, 2, 3, 4])[backend::auth_ok().len()..]);
    let script = [
        vec![Step::ExpectStartup, Step::TrySend(hello)],
        vec![Step::Loop(Step::reply(backend::one_value("v", "fresh")))],
    ]
    .concat();
    let mut bed = Bed::with("", move |_| script.clone());
    match bed.weir.login("postgres", "bad").connect() {
        Ok(mut client) => assert_eq!(client.value("SELECT 1"), "fresh"),
        Err(error) => assert!(matches!(error, LoginError::Server(_)), "{error:?}"),
    }
    bed.assert_calm();
}

/// CVE class: buffers of SCRAM.
#[test]
fn scram_cannot_be_cut_short() {
    // A server that does not know the password's verifier must not get through by skipping its proof.
    let scram = wire::frame(b'R', &[&10_u32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat());
    let hello = greeting(1, &[1, 2, 3, 4]);
    let fake = FakeServer::serve(move |_| {
        vec![Step::ExpectStartup, Step::Send(scram.clone()), Step::Expect(b'p'), Step::Send(hello.clone()), Step::Stall]
    });
    let weir = Weir::builder()
        .general("server_connect_timeout = \"1s\"")
        .database(&format!(
            "[databases.bad]\nprimary = \"postgres://127.0.0.1:{}/d\"\nuser = \"u\"\npassword = \"hunter2\"",
            fake.port()
        ))
        .start();
    let error = weir.login("postgres", "bad").connect().unwrap_err();
    let LoginError::Server(error) = error else { panic!("{error:?}") };
    assert!(["08", "28"].contains(&&error.code[..2]), "{error}");
    eventually("the fake has noted what it heard", SOON, || show(&fake.received(0)).starts_with('p').then_some(()));
    assert!(!weir.log_text().contains("hunter2"));
    assert_calm(&weir);
}

// Clients.

fn over(cluster: &Cluster) -> Weir {
    Weir::builder()
        .general("max_packet_size = \"1MB\"\nclient_login_timeout = \"2s\"")
        .cluster("app", cluster, &[])
        .start()
}

/// CVE class: messages out of their order.
#[test]
fn clients_that_break_the_protocol_cost_themselves() {
    let cluster = Cluster::start();
    let weir = over(&cluster);
    let mut bystander = weir.client("app");
    bystander.run("BEGIN");
    let pid = bystander.value(common::SERVER_PID);
    let bind = frontend::bind("", "", &[Some(b"1")], 0);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a password in mid-session", frontend::password("x"), "E(FATAL 08P01)"),
        ("an unknown type", wire::frame(b'y', b"x"), "E(FATAL 08P01)"),
        ("a message of the server", wire::frame(b'D', b""), "E(FATAL 08P01)"),
        ("a type of zero", vec![0; 16], "E(FATAL 08P01)"),
        ("length below four", b"Q\0\0\0\x03".to_vec(), "E(FATAL 08P01)"),
        ("length beyond max_packet_size", b"Q\x00\x20\x00\x00".to_vec(), "E(FATAL 08P01)"),
        ("length of two gigabytes", b"Q\x7f\xff\xff\xff".to_vec(), "E(FATAL 08P01)"),
        ("negative length", b"Q\xff\xff\xff\xff".to_vec(), "E(FATAL 08P01)"),
        ("a query without an end", wire::frame(b'Q', b"SELECT 1"), "E(FATAL 08P01)"),
        ("a Parse without an end", wire::frame(b'P', b"a"), "E(FATAL 08P01)"),
        (
            "a Bind cut short",
            [frontend::parse("", "SELECT $1", &[]), wire::frame(b'B', &bind[5..bind.len() - 3])].concat(),
            "E(FATAL 08P01)",
        ),
        ("a Bind cut short, of nothing", wire::frame(b'B', &bind[5..bind.len() - 3]), "E(26000)"),
        ("a Describe of nothing", wire::frame(b'D', b"Xa\0"), "E(FATAL 08P01)"),
    ];
    for (name, bytes, wanted) in cases {
        eprintln!("case: {name}");
        let mut client = weir.client("app");
        client.send_bytes(&bytes);
        // PostgreSQL says ERROR for a body that it cannot read and goes on after the Sync; to close is right, too.
        drop(client.try_send_bytes(&wire::frame(b'S', b"")));
        let first = client.read_until(b'E').pop().unwrap();
        let shown = first.to_string();
        assert!(shown == wanted || shown == "E(08P01)", "{name}: {shown}");
        assert!(!first.error().unwrap().message.is_empty());
        if shown.contains("FATAL") {
            assert_eq!(show(&client.read_to_end()), "", "{name}");
        }
        assert_eq!(bystander.value(common::SERVER_PID), pid, "{name}: the bystander keeps its transaction");
    }
    assert_calm(&weir);
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

/// CVE class: a peer's bytes that make it panic.
#[test]
fn random_bytes_reach_nothing() {
    let cluster = Cluster::start();
    let weir = over(&cluster);
    let mut bystander = weir.client("app");
    let mut rng = SmallRng::seed_from_u64(4);
    for round in 0..300 {
        let mut bytes: Vec<u8> = (0..rng.random_range(1..200)).map(|_| rng.random()).collect();
        match round % 4 {
            // A plausible startup packet with nonsense in it.
            0 => {
                let mut packet = u32::try_from(bytes.len() + 8).unwrap().to_be_bytes().to_vec();
                packet.extend(wire::PROTOCOL_3_0.to_be_bytes());
                packet.append(&mut bytes);
                bytes = packet;
            }
            1 => bytes = frontend::cancel(rng.random(), &bytes),
            _ => {}
        }
        let mut stream = TcpStream::connect(("127.0.0.1", weir.port())).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        drop(stream.write_all(&bytes));
        drop(stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("round {round}: {error} after {bytes:02x?}"),
        }
        assert!(!answer.starts_with(&backend::auth_ok()) || bytes.windows(4).any(|w| w == b"user"), "{bytes:02x?}");
    }
    // After a login, too: well-framed messages of any type and content.
    for _ in 0..150 {
        let mut client = weir.client("app");
        for _ in 0..rng.random_range(1..6) {
            let tag = b"QPBEDCSHFdcfp"[rng.random_range(0..13)];
            let body: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random_range(0..128)).collect();
            if client.try_send_bytes(&wire::frame(tag, &body)).is_err() {
                break;
            }
        }
        drop(client.try_send_bytes(&wire::frame(b'X', b"")));
    }
    assert_eq!(bystander.value("SELECT 1"), "1");
    eventually("all of them have gone", SOON, || (clients(&weir) == 1).then_some(()));
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
    assert_calm(&weir);
}

fn clients(weir: &Weir) -> u64 {
    let lists = weir.admin_table("SHOW LISTS");
    let all: u64 = lists.iter().find(|row| row["list"] == "used_clients").unwrap()["items"].parse().unwrap();
    // The console that asks is among them.
    all - 1
}

#[test]
fn half_frames_and_silence() {
    let cluster = Cluster::start();
    let weir = over(&cluster);
    // A startup that never ends is ended by client_login_timeout.
    let mut slow = RawClient::open(Address::Tcp(weir.port())).unwrap();
    slow.send_bytes(&[0, 0, 0, 50, 0, 3, 0, 0, b'u']);
    let mut silent = RawClient::open(Address::Tcp(weir.port())).unwrap();
    // Half a message, and away; in a transaction, and outside of one.
    for begin in [false, true] {
        for part in [&b"Q"[..], b"Q\0\0", b"Q\0\0\0\x20SELECT", b"P\0\0\0\x10a\0"] {
            let mut client = weir.client("app");
            if begin {
                client.run("BEGIN");
                client.value("SELECT 1");
            }
            client.send_bytes(part);
        }
    }
    // A message in single bytes is a message.
    let mut patient = weir.client("app");
    for byte in frontend::query("SELECT 5") {
        patient.send_bytes(&[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(show(&patient.read_until_ready()), "T(?column?:23) D(5) C(SELECT 1) Z(I)");
    for client in [&mut slow, &mut silent] {
        let said = show(&client.read_to_end());
        assert!(said.starts_with("E(FATAL ") || said.is_empty(), "{said}");
    }
    eventually("the others have gone", SOON, || (clients(&weir) == 1).then_some(()));
    eventually("their transactions, too", SOON, || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
        (cluster.value(open) == "0").then_some(())
    });
    assert_calm(&weir);
}

#[test]
fn a_thousand_connects_that_vanish() {
    let cluster = Cluster::start();
    let weir = over(&cluster);
    let mut bystander = weir.client("app");
    for number in 0..1000 {
        let mut stream = TcpStream::connect(("127.0.0.1", weir.port())).unwrap();
        match number % 4 {
            0 => {}
            1 => drop(stream.write_all(&[0, 0, 0])),
            2 => drop(stream.write_all(&frontend::startup_packet(wire::SSL_REQUEST, &[]))),
            _ => {
                let params = [("user", "postgres"), ("database", "app")].map(|(n, v)| (n.to_owned(), v.to_owned()));
                drop(stream.write_all(&frontend::startup(wire::PROTOCOL_3_0, &params)));
                if number % 8 == 3 {
                    drop(stream.write_all(&frontend::query("SELECT pg_sleep(0.001)")));
                }
            }
        }
        if number % 100 == 0 {
            assert_eq!(bystander.value("SELECT 1"), "1");
        }
    }
    eventually("all are gone", SOON, || (clients(&weir) == 1).then_some(()));
    eventually("no server is left behind", SOON, || {
        let pools = weir.admin_table("SHOW POOLS");
        let pool = pools.iter().find(|row| row["database"] == "app").unwrap();
        (pool["sv_active"] == "0" && pool["cl_waiting"] == "0" && pool["sv_being_canceled"] == "0").then_some(())
    });
    assert_eq!(bystander.value("SELECT 2"), "2");
    assert_calm(&weir);
}

/// A client that asks and never reads costs no more memory than a bound.
#[test]
fn answers_of_ours_that_nobody_reads_are_bounded() {
    let primary = Cluster::start();
    let weir = Weir::builder().cluster("app", &primary, &[]).start();
    let mut client = weir.client("app");
    let key = "k".repeat(100_000);
    assert_eq!(client.run(&format!("SET pgweir.sharding_key = '{key}'")), "C(SET) Z(I)");
    let resident = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", weir.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = resident();
    let asks: Vec<u8> = (0..1_000).flat_map(|_| frontend::query("SHOW pgweir.sharding_key")).collect();
    // 100 MB of answers; the socket takes the questions whether or not they are read.
    client.send_bytes(&asks);
    let mut other = weir.client("app");
    for _ in 0..20 {
        assert_eq!(other.value("SELECT 1"), "1");
        std::thread::sleep(Duration::from_millis(20));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 30_000, "{grown} kB more");
    for _ in 0..1_000 {
        assert!(show(&client.read_until_ready()).ends_with("C(SHOW) Z(I)"));
    }
}
