//! What pgweir takes for a read runs on a standby. A corpus of statements, each with the class it must have; whatever is
//! not a write is then run on a real standby, which must not refuse it as a write. So must every built-in function that can be
//! called without arguments.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::wire::ServerError;
use pgweir::sql::facts::Access;
use pgweir::sql::parse;

/// The tables that the corpus speaks of.
const SCHEMA: &str = "
    CREATE SCHEMA app;
    CREATE TYPE app.mood AS ENUM ('sad', 'glad');
    CREATE DOMAIN app.small AS int CHECK (VALUE < 1000);
    CREATE TABLE t (id int PRIMARY KEY, a int, b text, c jsonb, d timestamptz DEFAULT now(), e int[], f tsvector, g xml);
    CREATE TABLE u (id int PRIMARY KEY, t_id int REFERENCES t, v numeric);
    CREATE TABLE p (id int, day date) PARTITION BY RANGE (day);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2020-01-01') TO ('2030-01-01');
    CREATE TABLE app.odd (\"Key\" int, \"select\" text, m app.mood, s app.small);
    CREATE INDEX ON t (a);
    CREATE SEQUENCE s;
    CREATE VIEW v AS SELECT id, b FROM t;
    CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM t;
    CREATE FUNCTION app.one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
    CREATE FUNCTION touch() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO u VALUES (99); SELECT 1';
    CREATE PROCEDURE proc() LANGUAGE sql AS 'INSERT INTO u VALUES (98)';
    CREATE RULE r AS ON UPDATE TO v DO INSTEAD UPDATE t SET b = NEW.b WHERE id = OLD.id;
    INSERT INTO t SELECT n, n % 5, 'b' || n, jsonb_build_object('k', n), now(), ARRAY[n], to_tsvector('word ' || n), NULL
        FROM generate_series(1, 50) AS n;
    INSERT INTO u SELECT n, n, n FROM generate_series(1, 20) AS n;
    SELECT nextval('s');
";

/// Run on a standby.
#[rustfmt::skip]
const READS: &[&str] = &[
    "SELECT set_config('work_mem', '5MB', false)",
    // Plain.
    "SELECT 1", "SELECT", "TABLE t", "VALUES (1), (2)", "SELECT * FROM t", "SELECT ALL b FROM ONLY t", "SELECT 1; SELECT 2",
    "SELECT t.* FROM t WHERE id = 1", "SELECT DISTINCT a FROM t", "SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b",
    "SELECT a, count(*) FROM t GROUP BY a HAVING count(*) > 1 ORDER BY 2 DESC NULLS LAST LIMIT 3 OFFSET 1",
    "SELECT * FROM t ORDER BY id FETCH FIRST 2 ROWS WITH TIES", "SELECT a, b, count(*) FROM t GROUP BY GROUPING SETS ((a), (b), ())",
    "SELECT a FROM t GROUP BY ROLLUP (a)", "SELECT a, GROUPING(a) FROM t GROUP BY CUBE (a)",
    "SELECT * FROM t WHERE a BETWEEN 1 AND 3 AND b LIKE 'b%' AND b ILIKE 'B%' AND b ~ '^b' AND b SIMILAR TO 'b_*'",
    "SELECT * FROM t WHERE id IN (1, 2) OR id = ANY (ARRAY[3]) OR id NOT IN (SELECT t_id FROM u)",
    "SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.t_id = t.id)", "SELECT * FROM t WHERE (id, a) = (1, 1)",
    "SELECT * FROM t WHERE a IS DISTINCT FROM 2 AND b IS NOT NULL AND (a > 1) IS TRUE",
    "SELECT id AS \"insert\", b AS \"delete\" FROM t", "SELECT \"select\", \"Key\" FROM app.odd",
    "SELECT 'INSERT INTO t VALUES (1); DROP TABLE t'", "SELECT $$DELETE FROM t$$", "SELECT $x$ nextval('s') $x$",
    "SELECT E'it''s \\'nextval\\''", "SELECT 1 /* INSERT */ + /* UPDATE /* DELETE */ */ 2 -- nextval('s')",
    "SELECT U&'d\\0061t', B'101', X'1F', 1.5e3, 0.5, .5", "  \n\t SELECT 1 ; ", "SELECT 1;;",
    // Joins and sub-queries.
    "SELECT * FROM t JOIN u ON u.t_id = t.id", "SELECT * FROM t LEFT JOIN u USING (id)", "SELECT * FROM t NATURAL JOIN u",
    "SELECT * FROM t FULL OUTER JOIN u ON t.id = u.id", "SELECT * FROM t CROSS JOIN u LIMIT 1", "SELECT * FROM t x, u y WHERE x.id = y.id",
    "SELECT * FROM t, LATERAL (SELECT * FROM u WHERE u.t_id = t.id) AS x", "SELECT (SELECT max(v) FROM u)", "SELECT ARRAY(SELECT id FROM t)",
    "SELECT * FROM (SELECT id FROM t) AS x (n)", "SELECT * FROM (VALUES (1, 'a')) AS x (n, s)",
    "SELECT id FROM t UNION SELECT id FROM u", "SELECT id FROM t UNION ALL SELECT 1 INTERSECT SELECT 2 EXCEPT SELECT 3",
    "(SELECT 1) UNION (SELECT 2) ORDER BY 1", "SELECT * FROM v", "SELECT * FROM m", "SELECT * FROM p", "SELECT * FROM p1",
    "SELECT * FROM t TABLESAMPLE SYSTEM (50)", "SELECT * FROM t TABLESAMPLE BERNOULLI (50) REPEATABLE (1)",
    "SELECT * FROM generate_series(1, 3) WITH ORDINALITY AS x (n, o)", "SELECT * FROM ROWS FROM (generate_series(1, 2), generate_series(1, 3)) AS x",
    "SELECT * FROM unnest(ARRAY[1, 2], ARRAY['a', 'b']) AS x (n, s)",
    // CTEs.
    "WITH x AS (SELECT * FROM t) SELECT * FROM x", "WITH x AS MATERIALIZED (SELECT 1) TABLE x",
    "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT sum(n) FROM r",
    "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SEARCH DEPTH FIRST BY n SET o SELECT * FROM r",
    "WITH x AS (SELECT 1), y AS (SELECT * FROM x) SELECT (WITH z AS (SELECT 2) SELECT * FROM z), * FROM y",
    // Windows and aggregates.
    "SELECT row_number() OVER (ORDER BY id), rank() OVER w, lag(a, 1) OVER w FROM t WINDOW w AS (PARTITION BY a ORDER BY id)",
    "SELECT sum(a) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES) FROM t",
    "SELECT array_agg(a ORDER BY id), string_agg(b, ','), bool_and(a > 0), count(*) FILTER (WHERE a = 1) FROM t",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a), mode() WITHIN GROUP (ORDER BY a) FROM t",
    "SELECT avg(v), stddev(v), variance(v), corr(v, id), min(v), max(v) FROM u", "SELECT jsonb_agg(t), json_object_agg(id, b) FROM t",
    // Built-in functions and expressions.
    "SELECT now(), current_timestamp, current_date, localtime, clock_timestamp(), statement_timestamp(), timeofday()",
    "SELECT current_user, session_user, current_role, current_catalog, current_schema, user",     "SELECT coalesce(NULL, 1), nullif(1, 1), greatest(1, 2), least(1, 2)", "SELECT CASE WHEN a = 1 THEN 'x' ELSE 'y' END FROM t",
    "SELECT upper(b), lower(b), length(b), substring(b FROM 1 FOR 2), trim(both 'b' FROM b), position('b' IN b), overlay(b PLACING 'x' FROM 1) FROM t",
    "SELECT extract(epoch FROM d), date_trunc('day', d), d + interval '1 day', age(d), d AT TIME ZONE 'UTC', to_char(d, 'YYYY') FROM t",
    "SELECT c -> 'k', c ->> 'k', c #> '{k}', c @> '{\"k\": 1}', c ? 'k', jsonb_path_query(c, '$.k') FROM t",
    "SELECT * FROM jsonb_each('{\"a\": 1}'), jsonb_array_elements('[1]')", "SELECT * FROM json_to_record('{\"a\": 1}') AS x (a int)",
    "SELECT e[1], e[1:1], e || 1, array_length(e, 1), cardinality(e), 1 = ANY (e) FROM t", "SELECT ROW(1, 'a'), (t).b FROM t",
    "SELECT id::bigint, CAST(a AS text), b::varchar(3), 'x'::app.mood IS NULL FROM t WHERE false", "SELECT 'sad'::app.mood, 5::app.small",
    "SELECT f @@ to_tsquery('word'), ts_rank(f, to_tsquery('word')), ts_headline('a word', to_tsquery('word')) FROM t",
    "SELECT random() < 2, gen_random_uuid() IS NOT NULL", "SELECT md5('a'), sha256('a'), encode('a', 'base64'), decode('YQ==', 'base64')",
    "SELECT xmlelement(name a, xmlattributes(1 AS b)), xmlforest(1 AS x), xpath('/a', '<a/>')", "SELECT format('%I %L', 'a', 'b'), quote_ident('a')",
    "SELECT regexp_replace('a', 'a', 'b'), regexp_matches('a', 'a'), regexp_split_to_table('a b', ' ')", "SELECT pg_sleep(0)",
    "SELECT int4range(1, 5) && int4range(2, 3), upper(int4range(1, 5))", "SELECT '(1,2)'::point <-> '(3,4)'::point", "SELECT inet '10.0.0.1' << inet '10.0.0.0/8'",
    "SELECT power(2, 3), sqrt(4), mod(5, 2), round(1.5), ceil(1.2), abs(-1), 5 / 2, 5 % 2, 2 ^ 3, |/ 4, @ -1, 5 & 3, 1 << 2",
    "SELECT 'a' || 'b' COLLATE \"C\"", "SELECT (1, 2) OVERLAPS (3, 4) WHERE false AND 1 = 0 LIMIT 0",
    "SELECT txid_current_if_assigned(), pg_current_xact_id_if_assigned()",
    "SELECT txid_current_snapshot(), pg_current_snapshot()",     "SELECT inet_server_addr(), inet_client_port()",     // Catalogs, as tools ask for them.
    "SELECT * FROM pg_catalog.pg_class LIMIT 1", "SELECT * FROM information_schema.tables LIMIT 1", "SELECT * FROM information_schema.columns WHERE table_name = 't'",
        "SELECT * FROM pg_indexes WHERE tablename = 't'", "SELECT last_value FROM s", "SELECT * FROM pg_roles",
    "SELECT pg_relation_size('t'), pg_total_relation_size('t'), pg_size_pretty(pg_database_size(current_database()))", "SELECT 't'::regclass, to_regclass('nothing'), 'int4'::regtype",
    "SELECT pg_get_viewdef('v'::regclass), pg_get_indexdef(i.indexrelid) FROM pg_index i WHERE i.indrelid = 't'::regclass", "SELECT obj_description('t'::regclass, 'pg_class'), col_description('t'::regclass, 1)",
    "SELECT has_table_privilege('t', 'SELECT'), pg_has_role('postgres', 'MEMBER'), has_schema_privilege('app', 'USAGE')",
    "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a WHERE a.attrelid = 't'::regclass AND a.attnum > 0",
    "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relname OPERATOR(pg_catalog.~) '^(t)$' COLLATE pg_catalog.default",
    "SELECT pg_get_constraintdef(oid), conname FROM pg_constraint", "SELECT pg_get_functiondef('touch'::regproc)", "SELECT pg_encoding_to_char(encoding) FROM pg_database", "SELECT pg_get_userbyid(10)",
    "SELECT pg_table_is_visible('t'::regclass), pg_function_is_visible('touch'::regproc)", "SELECT oid FROM pg_type WHERE typname = 'mood'", "SELECT * FROM pg_cursors",
    // EXPLAIN, COPY and cursors.
    "EXPLAIN SELECT * FROM t", "EXPLAIN (COSTS OFF, FORMAT JSON) SELECT * FROM t", "EXPLAIN ANALYZE SELECT count(*) FROM t", "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT 1",
    "EXPLAIN (ANALYZE false) SELECT 1", "EXPLAIN VERBOSE TABLE t", "COPY t TO STDOUT", "COPY t (id, b) TO STDOUT WITH (FORMAT csv, HEADER)", "COPY (SELECT * FROM t WHERE id < 3) TO STDOUT",
    "COPY (VALUES (1)) TO STDOUT (FORMAT binary)", "BEGIN; DECLARE c CURSOR FOR SELECT * FROM t; FETCH 2 FROM c; CLOSE c; COMMIT",
    "BEGIN; DECLARE c BINARY SCROLL CURSOR FOR TABLE t; MOVE 3 IN c; FETCH BACKWARD 1 FROM c; COMMIT",
    "SET work_mem = '5MB'; SELECT 1", "BEGIN READ ONLY; SELECT count(*) FROM t; COMMIT", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; ROLLBACK",
    "BEGIN; SAVEPOINT a; SELECT 1; ROLLBACK TO a; RELEASE a; COMMIT",
];

/// Answered by any server, but each answers for itself: the primary is asked.
#[rustfmt::skip]
const LOCAL: &[&str] = &[
    "SELECT pg_backend_pid(), pg_is_in_recovery()", "SELECT current_setting('work_mem'), current_setting('no.such', true)", "SELECT pg_is_in_recovery()",
    "SELECT pg_last_wal_replay_lsn()", "SELECT pg_last_xact_replay_timestamp()", "SELECT pg_postmaster_start_time(), pg_conf_load_time()",
    "SELECT * FROM pg_stat_activity", "SELECT * FROM pg_locks", "SELECT * FROM pg_settings WHERE name = 'work_mem'", "SELECT * FROM pg_stat_user_tables",
    "SELECT * FROM pg_sequences", "SELECT * FROM pg_stat_replication", "SELECT * FROM pg_prepared_xacts", "SHOW work_mem", "SHOW ALL",
    "SHOW server_version",
];

/// Go wherever the session is.
#[rustfmt::skip]
const NEUTRAL: &[&str] = &[
    "SET ROLE postgres", "SET SESSION AUTHORIZATION postgres",
    "", ";", "-- nothing", "/* nothing */", "SHOW TIME ZONE", "SHOW TRANSACTION ISOLATION LEVEL", 
    "SET work_mem = '5MB'", "SET search_path = app, public", "SET TIME ZONE 'UTC'", "SET NAMES 'UTF8'", "SET DateStyle = ISO, MDY", "RESET work_mem", "RESET ALL",
    "SET statement_timeout TO DEFAULT", "SET SESSION extra_float_digits = 3", "SET application_name = 'corpus'", "SET my.own = 'x'",
    "BEGIN", "BEGIN WORK", "START TRANSACTION", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN READ ONLY", "START TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ",
    "COMMIT", "END", "ROLLBACK", "ABORT", "BEGIN; COMMIT", "BEGIN; SAVEPOINT a; RELEASE SAVEPOINT a; COMMIT", "BEGIN; SAVEPOINT a; ROLLBACK TO SAVEPOINT a; ROLLBACK",
    "SET CONSTRAINTS ALL DEFERRED", "DISCARD PLANS", "DISCARD SEQUENCES", "DISCARD ALL", "DEALLOCATE ALL",
];

/// Need the primary.
#[rustfmt::skip]
const WRITES: &[&str] = &[
    // Data.
    "INSERT INTO t VALUES (100)", "INSERT INTO t SELECT * FROM t", "INSERT INTO t DEFAULT VALUES", "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING RETURNING id",
    "UPDATE t SET a = 1", "UPDATE t SET a = u.v FROM u WHERE u.t_id = t.id", "UPDATE v SET b = 'x'", "DELETE FROM t", "DELETE FROM t USING u WHERE u.t_id = t.id", "TRUNCATE t", "TRUNCATE t, u CASCADE",
    "MERGE INTO t USING u ON u.t_id = t.id WHEN MATCHED THEN DELETE", "COPY t FROM STDIN", "COPY t FROM PROGRAM 'true'", "COPY t TO PROGRAM 'cat'", "COPY t TO '/tmp/x'",
    "COPY (INSERT INTO t VALUES (101) RETURNING id) TO STDOUT", "COPY (SELECT nextval('s')) TO STDOUT",
    "WITH x AS (INSERT INTO t VALUES (102) RETURNING id) SELECT * FROM x", "WITH x AS (DELETE FROM t RETURNING *) SELECT count(*) FROM x", "WITH x AS (UPDATE t SET a = 2 RETURNING 1) TABLE x",
    "SELECT * FROM (WITH x AS (SELECT touch()) TABLE x) AS y", "WITH x AS (SELECT 1) INSERT INTO t SELECT 103", "SELECT 1; INSERT INTO t VALUES (104)", "BEGIN; SELECT 1; DELETE FROM t; COMMIT",
    // Locks.
    "SELECT * FROM t FOR UPDATE", "SELECT * FROM t FOR NO KEY UPDATE", "SELECT * FROM t FOR SHARE", "SELECT * FROM t FOR KEY SHARE", "SELECT * FROM t FOR UPDATE OF t SKIP LOCKED",
    "SELECT * FROM (SELECT * FROM t FOR UPDATE NOWAIT) AS x", "SELECT (SELECT a FROM t WHERE id = 1 FOR UPDATE)", "WITH x AS (SELECT * FROM t FOR SHARE) SELECT * FROM x", "LOCK TABLE t", "LOCK t IN ACCESS SHARE MODE",
    "DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE",
    // Functions.
    "SELECT nextval('s')", "SELECT pg_catalog.nextval('s')", "SELECT setval('s', 5)", "SELECT currval('s')", "SELECT lastval()", "SELECT touch()", "SELECT app.one()", "SELECT * FROM touch()",
    "SELECT no_such_function(1)", "SELECT 1 WHERE touch() = 1", "SELECT 1 ORDER BY touch()", "SELECT count(*) FROM t GROUP BY touch()", "SELECT 1 LIMIT touch()", "VALUES (touch())",
    "SELECT CASE WHEN true THEN touch() END", "SELECT * FROM t JOIN u ON touch() = 1", "SELECT count(*) FILTER (WHERE touch() = 1) FROM t", "SELECT sum(touch()) OVER () FROM t",
    "SELECT ARRAY[nextval('s')]", "SELECT ROW(nextval('s'))", "SELECT coalesce(NULL, nextval('s'))", "SELECT greatest(1, nextval('s'))", "SELECT nextval('s')::int", "SELECT * FROM LATERAL (SELECT nextval('s')) AS x",
    "SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_xact_lock(1)", "SELECT pg_advisory_unlock(1)", "SELECT txid_current()", "SELECT pg_current_xact_id()", "SELECT pg_notify('c', 'x')",
    "SELECT lo_create(0)", "SELECT lo_from_bytea(0, 'x')", "SELECT lo_unlink(1)", "SELECT lo_import('/etc/hostname')", "SELECT pg_switch_wal()", "SELECT pg_current_wal_lsn()",
    "SELECT pg_terminate_backend(0)", "SELECT pg_cancel_backend(0)", "SELECT pg_stat_reset()", "SELECT pg_logical_emit_message(true, 'a', 'b')", "SELECT pg_create_restore_point('x')", "SELECT pg_export_snapshot()",
    "SELECT dblink('', 'DELETE FROM t')", "SELECT query_to_xml('SELECT touch()', true, true, '')", "SELECT pg_promote()", "SELECT setseed(0.5)", "SELECT txid_current() FROM t WHERE false",
    // Definitions.
    "CREATE TABLE x (a int)", "CREATE TABLE x AS SELECT 1", "SELECT * INTO x FROM t", "CREATE TEMP TABLE x (a int)", "CREATE UNLOGGED TABLE x (a int)", "CREATE VIEW w AS SELECT 1", "CREATE MATERIALIZED VIEW w AS SELECT 1",
    "REFRESH MATERIALIZED VIEW m", "CREATE INDEX CONCURRENTLY i ON t (b)", "DROP TABLE t", "DROP INDEX IF EXISTS nothing", "ALTER TABLE t ADD z int", "ALTER TABLE t RENAME TO tt", "CREATE SEQUENCE s2", "ALTER SEQUENCE s RESTART",
    "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE TYPE y AS ENUM ()", "CREATE DOMAIN dd AS int", "CREATE SCHEMA z", "CREATE EXTENSION hstore", "CREATE ROLE x", "ALTER ROLE postgres SET work_mem = '5MB'", "DROP ROLE IF EXISTS x",
    "CREATE DATABASE x", "DROP DATABASE IF EXISTS x", "COMMENT ON TABLE t IS 'x'", "GRANT SELECT ON t TO PUBLIC", "REVOKE ALL ON t FROM PUBLIC", "CREATE TRIGGER g BEFORE INSERT ON t EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE POLICY p ON t", "CREATE RULE q AS ON DELETE TO v DO INSTEAD NOTHING", "CREATE PUBLICATION x", "CREATE STATISTICS st ON a, b FROM t", "ALTER SYSTEM SET work_mem = '5MB'", "SECURITY LABEL ON TABLE t IS 'x'",
    "CREATE CAST (app.mood AS int) WITHOUT FUNCTION", "CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)", "CREATE AGGREGATE ag (int) (SFUNC = int4pl, STYPE = int)", "IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c",
    // Maintenance, code, sessions.
    "VACUUM", "VACUUM ANALYZE t", "ANALYZE", "ANALYZE t", "REINDEX TABLE t", "CLUSTER", "CHECKPOINT", "DO 'BEGIN NULL; END'", "CALL proc()", "LISTEN c", "UNLISTEN *", "NOTIFY c", "NOTIFY c, 'x'", "LOAD 'x'",
    "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'", "PREPARE q AS SELECT 1", "EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "EXPLAIN (ANALYZE on) DELETE FROM t", "EXPLAIN ANALYZE SELECT nextval('s')",
    "EXPLAIN (ANALYZE) CREATE TABLE x AS SELECT 1", "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "SET LOCAL work_mem = '5MB'; SELECT nextval('s')",
    // What is not understood.
    "SELEC 1", "SELECT (", "SELECT 'open", "FROB THE KNOB",
];

fn check_class(list: &[&str], expected: Access) -> Vec<String> {
    let access = |sql: &&str| parse::facts(sql.as_bytes()).access();
    list.iter().filter(|sql| access(sql) != expected).map(|sql| format!("{:?}: {sql}", access(sql))).collect()
}

#[test]
fn every_statement_has_its_class() {
    assert!(READS.len() + LOCAL.len() + NEUTRAL.len() + WRITES.len() >= 300);
    let lists = [(READS, Access::Read), (LOCAL, Access::Local), (NEUTRAL, Access::Neutral), (WRITES, Access::Write)];
    for (list, expected) in lists {
        let wrong = check_class(list, expected);
        assert!(wrong.is_empty(), "not {expected:?} but\n{}", wrong.join("\n"));
    }
}

/// What a standby says of things that only a primary does.
fn refused(error: &ServerError) -> bool {
    error.code == "25006" || error.message.contains("recovery is") || error.message.contains("during recovery")
}

/// Runs a text on the standby in a session of its own making; the first error.
fn run(client: &mut RawClient, sql: &str) -> Option<ServerError> {
    client.query(sql);
    let messages = client.read_until_ready();
    let error = messages.iter().find(|message| message.tag == b'E').and_then(|message| message.error());
    if messages.last().is_some_and(|ready| ready.body != b"I") {
        client.run("ROLLBACK");
    }
    error
}

#[test]
fn what_is_no_write_runs_on_a_standby() {
    let primary = Cluster::start();
    primary.sql(SCHEMA);
    let standby = primary.replica();
    primary.wait_replayed(&standby);
    let mut client = standby.client("postgres");
    let mut failed = Vec::new();
    for sql in READS.iter().chain(LOCAL).chain(NEUTRAL) {
        // A server without libxml has no XML; nothing else may fail.
        match run(&mut client, sql) {
            // What the standby does not know (types and operators of the corpus) it refuses before it runs anything.
            Some(error) if matches!(error.code.as_str(), "42883" | "22P02") => {}
            Some(error) if error.code != "0A000" || !error.message.contains("XML") => {
                failed.push(format!("{sql}\n    {error}"));
            }
            _ => {}
        }
        client.run("RESET ALL");
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn functions_that_count_as_reads_run_on_a_standby() {
    let primary = Cluster::start();
    let standby = primary.replica();
    let functions = standby.sql(
        "SELECT DISTINCT proname FROM pg_proc
         WHERE pronamespace = 'pg_catalog'::regnamespace AND pronargs - pronargdefaults = 0 AND prokind = 'f'
           AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) ORDER BY 1",
    );
    let mut client = standby.client("postgres");
    let (mut ran, mut failed) = (0, Vec::new());
    for sql in functions.iter().map(|row| format!("SELECT * FROM \"{}\"()", row[0])) {
        if parse::facts(sql.as_bytes()).access() == Access::Write {
            continue;
        }
        ran += 1;
        if let Some(error) = run(&mut client, &sql).filter(refused) {
            failed.push(format!("{sql}: {error}"));
        }
    }
    assert!(ran > 100, "only {ran} functions were tried");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
