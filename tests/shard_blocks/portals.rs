//! Rows that are fetched in parts.

use super::*;

#[test]
fn rows_are_fetched_in_parts() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let statements = [
        // Of these the order is known, so that each part is the same.
        "SELECT k, v FROM t ORDER BY k",
        "SELECT k FROM t WHERE n > 2 ORDER BY n, k DESC LIMIT 17 OFFSET 2",
        "SELECT DISTINCT n FROM t ORDER BY n",
        "SELECT n, count(*), sum(k) FROM t GROUP BY n ORDER BY n",
        "SELECT n, count(*) * 2 AS twice FROM t GROUP BY n HAVING count(*) > 1 ORDER BY n",
        "SELECT k FROM t WHERE k < 0 ORDER BY k",
    ];
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut all = Vec::new();
        for sql in statements {
            for part in [1, 4, 7, 100] {
                assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
                client.parse("", sql, &[]);
                client.bind("C_1", "", &[]);
                client.describe_portal("C_1");
                client.execute("C_1", part);
                client.sync();
                let mut tags = Vec::new();
                for round in 0.. {
                    let answer = client.read_until_ready();
                    tags.push(told_of_part(&answer));
                    if !answer.iter().any(|message| message.tag == b's') {
                        break;
                    }
                    // Between two parts all else goes on, on the same connections.
                    if round < 3 {
                        let set = format!("UPDATE t SET v = v || 'x' WHERE k = {}", if round == 0 { a } else { b });
                        tags.push(told(&simple(&mut client, &set)));
                        tags.push(told(&extended(&mut client, "SELECT count(*) FROM t WHERE v LIKE '%x'")));
                    }
                    client.execute("C_1", if round == 4 { 0 } else { part });
                    client.sync();
                }
                // Closed before all has come, or after.
                client.close_portal("C_1");
                client.parse("", sql, &[]);
                client.bind("C_1", "", &[]);
                client.execute("C_1", 2);
                client.sync();
                tags.push(told_of_part(&client.read_until_ready()));
                client.close_portal("C_1");
                client.sync();
                tags.push(told_of_part(&client.read_until_ready()));
                client.execute("C_1", 2);
                client.sync();
                tags.push(told(&client.read_until_ready()));
                assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
                all.push((sql, part, tags));
            }
        }
        answers.push(all);
    }
    let (ours, theirs) = (answers.pop().unwrap(), answers.pop().unwrap());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    // Rows that are passed on as they come, in whatever order.
    let mut client = sharded.client();
    client.run("BEGIN");
    client.parse("", "SELECT k FROM t", &[]);
    client.bind("C_2", "", &[]);
    client.execute("C_2", 7);
    client.sync();
    let (mut rows, mut parts) = (Vec::new(), 0);
    loop {
        let answer = client.read_until_ready();
        rows.extend(answer.iter().filter(|message| message.tag == b'D').map(ToString::to_string));
        parts += 1;
        if !answer.iter().any(|message| message.tag == b's') {
            break;
        }
        client.execute("C_2", 7);
        client.sync();
    }
    rows.sort();
    rows.dedup();
    assert_eq!((rows.len(), parts), (60, 9));
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    // A write has no parts: some drivers ask for one row of what returns none.
    client.parse("", "INSERT INTO t (k, n) VALUES (71, 1), (72, 2), (73, 3), (74, 4)", &[]);
    client.bind("", "", &[]);
    client.execute("", 1);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 C(INSERT 0 4) Z(I)");
    assert_eq!(client.run("DELETE FROM t WHERE v IS NULL"), "C(DELETE 4) Z(I)");
    sharded.is_whole();
}

/// More rows of a portal come from where it was bound.
#[test]
fn portals_of_one_shard_go_on_there() {
    let sharded = Sharded::start("");
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut told = Vec::new();
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        for k in [a, b] {
            for portal in ["", "C_1"] {
                client.parse(
                    "",
                    &format!("SELECT x.n, s FROM t x, generate_series(1, 5) s WHERE x.k = {k} ORDER BY s"),
                    &[],
                );
                client.bind(&if portal.is_empty() { String::new() } else { format!("{portal}{k}") }, "", &[]);
                client.execute(&if portal.is_empty() { String::new() } else { format!("{portal}{k}") }, 2);
                client.sync();
                told.push(told_of_part(&client.read_until_ready()));
            }
            client.bind("", "", &[]);
            client.execute("", 1);
            client.sync();
            told.push(told_of_part(&client.read_until_ready()));
        }
        for portal in [format!("C_1{b}"), String::new(), format!("C_1{a}"), format!("C_1{b}")] {
            client.execute(&portal, 1);
            client.sync();
            told.push(told_of_part(&client.read_until_ready()));
        }
        answers.push(told);
    }
    assert_eq!(answers[1], answers[0]);
}

/// What several shards write gives its rows once, and no other portal is taken for the rest of them.
#[test]
fn a_write_with_a_limit_of_rows_gives_no_more_of_them() {
    let sharded = Sharded::start(TWO_PHASE);
    let mut client = sharded.client();
    let write = |client: &mut RawClient, portal: &str| {
        client.parse("", "UPDATE t SET v = v || 'x' RETURNING k", &[]);
        client.bind(portal, "", &[]);
        client.execute(portal, 5);
        client.sync();
        let told = client.read_until_ready();
        let rows = told.iter().filter(|message| message.tag == b'D').count();
        assert!(rows == 5 && show(&told).ends_with("s Z(T)"), "{}", show(&told));
    };
    for portal in ["", "C_1"] {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        write(&mut client, portal);
        client.execute(portal, 5);
        client.sync();
        let told = client.read_until_ready();
        let (code, message, hint) = error(&told);
        assert!(code == "0A000" && message.contains("rows at once") && !hint.is_empty(), "{code} {message}");
        assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        // When it is closed its name is free.
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        write(&mut client, portal);
        client.close_portal(portal);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "3 Z(T)");
        write(&mut client, portal);
        client.close_portal(portal);
        client.parse("", "SELECT k FROM t ORDER BY k", &[]);
        client.bind(portal, "", &[]);
        client.execute(portal, 1);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "3 1 2 D(1) s Z(T)");
        client.execute(portal, 1);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "D(2) s Z(T)");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    sharded.is_whole();
}

/// FETCH would find the rows of one shard.
#[test]
fn a_cursor_by_sql_over_several_shards_is_refused_with_what_to_do() {
    let sharded = Sharded::start("");
    let b = sharded.key(1);
    let mut client = sharded.client();
    for before in [&[][..], &["SELECT count(*) FROM t"]] {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        for sql in before {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, "DECLARE c CURSOR FOR SELECT k FROM t ORDER BY k");
        let (code, message, hint) = error(&told);
        assert!(
            code == "0A000" && message.contains("cursor") && hint.contains("fetch size"),
            "{code} {message} {hint}"
        );
        assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    // By a key it is one shard's.
    for sql in ["BEGIN".to_owned(), format!("DECLARE c CURSOR FOR SELECT k FROM t WHERE k = {b}")] {
        assert!(client.run(&sql).ends_with("Z(T)"), "{sql}");
    }
    assert_eq!(client.value("FETCH ALL FROM c"), b.to_string());
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
}

/// A cursor by SQL is where the block began, or refused: FETCH would find another, or none.
#[test]
fn a_cursor_is_declared_where_the_block_began() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let of = |k: i64| format!("SELECT n FROM t WHERE k = {k}");
    let mut client = sharded.client();
    for before in [&["BEGIN"][..], &["BEGIN", &format!("DECLARE c CURSOR FOR {}", of(a))]] {
        for sql in before.iter().copied().chain([&*of(a), &of(b)]) {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let (code, message, hint) = error(&simple(&mut client, &format!("DECLARE c CURSOR FOR {}", of(b))));
        assert!(code == "0A000" && message.contains("cursor") && !hint.is_empty(), "{code} {message}");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    sharded.nothing_open();
}

/// Drivers that prepare by Flush, and bind when they know the types, go to other shards as all others do.
#[test]
fn what_is_prepared_by_flush_goes_where_its_values_belong() {
    let sharded = Sharded::start(TWO_PHASE);
    let [a, b, c] = [0, 1, 2].map(|shard| sharded.key(shard).to_string());
    // Each of them is new to the servers: what is known already has no need of this.
    let blocks: [&[(&str, &str)]; 5] = [
        &[("UPDATE t SET n = n WHERE k = $1", &a), ("SELECT n, v FROM t WHERE k = $1", &b)],
        &[
            ("UPDATE t SET v = v WHERE k = $1", &b),
            ("SELECT v, n FROM t WHERE k = $1", &a),
            ("SELECT v, k FROM t WHERE k = $1", &c),
        ],
        &[
            ("SELECT n, k FROM t WHERE k = $1", &c),
            ("SELECT count(*) FROM t WHERE k < $1", "50"),
            ("UPDATE t SET n = n + 0 WHERE k = $1", &b),
        ],
        &[
            ("SELECT k, n FROM t WHERE k = $1", &a),
            ("UPDATE t SET n = n - 0 WHERE k < $1", "50"),
            ("SELECT k, v FROM t WHERE k = $1", &b),
        ],
        &[
            ("SELECT max(k) FROM t WHERE k < $1", "40"),
            ("UPDATE t SET v = v || '' WHERE k = $1", &a),
            ("SELECT v FROM t WHERE k = $1", &c),
        ],
    ];
    for (waits, name) in [(true, "of_"), (false, "of_"), (true, ""), (false, "")] {
        let mut answers = Vec::new();
        for mut client in [sharded.cluster.client("whole"), sharded.client()] {
            let mut all = Vec::new();
            for (number, block) in blocks.iter().enumerate() {
                all.push(told(&simple(&mut client, "BEGIN")));
                for (place, (sql, value)) in block.iter().enumerate() {
                    let name = if name.is_empty() { String::new() } else { format!("{name}{number}_{place}") };
                    client.parse(&name, sql, &[20]);
                    client.describe_statement(&name);
                    client.flush();
                    if waits {
                        client.read_until(if sql.starts_with("SELECT") { b'T' } else { b'n' });
                    }
                    client.bind("", &name, &[Some(value)]);
                    client.execute("", 0);
                    client.sync();
                    all.push(told(&client.read_until_ready()));
                }
                all.push(told(&simple(&mut client, "COMMIT")));
            }
            answers.push(all);
        }
        assert_eq!(answers[1], answers[0], "waits: {waits}, name: {name}");
    }
    sharded.is_whole();
}
