//! The corpus: what each kind of statement is, leaves behind, and shows to the shard planner.

use proptest::prelude::*;

use std::fmt::Write as _;

use super::facts::*;
use super::parse::facts;
use Access::{Local, Neutral, Read, Write};

fn one(text: &str) -> StatementFacts {
    let mut facts = facts(text.as_bytes());
    assert_eq!(facts.unparsed, None, "{text}");
    assert_eq!(facts.statements.len(), 1, "{text}");
    facts.statements.remove(0)
}

fn pin(reason: PinReason) -> Vec<SessionEffect> {
    vec![SessionEffect::Pin(reason)]
}

fn set(name: &str, value: &str) -> Vec<SessionEffect> {
    vec![SessionEffect::Set { name: name.to_owned(), value: value.to_owned() }]
}

fn unknown(name: &str) -> Vec<SessionEffect> {
    vec![SessionEffect::SetUnknown { name: name.to_owned() }]
}

fn reset(name: &str) -> Vec<SessionEffect> {
    vec![SessionEffect::Reset { name: name.to_owned() }]
}

/// Statements that leave nothing behind: only where they go.
#[rustfmt::skip]
const ACCESS: &[(Access, &str)] = &[
    (Read, "SELECT 1"),
    (Read, "SELECT"),
    (Read, "VALUES (1), (2)"),
    (Read, "TABLE t"),
    (Read, "SELECT * FROM t WHERE id = $1"),
    (Read, "SELECT lower(name), count(*) FILTER (WHERE x) FROM t GROUP BY 1 HAVING max(y) > 1 ORDER BY 2 LIMIT 3"),
    (Read, "SELECT row_number() OVER (PARTITION BY a ORDER BY b) FROM t WINDOW w AS (PARTITION BY z)"),
    (Read, "SELECT random(), clock_timestamp(), gen_random_uuid(), pg_sleep(0), timeofday()"),
    (Read, "SELECT pg_catalog.lower('A')"),
    (Read, "SELECT now(), current_timestamp, current_user, localtime(3), current_schema, session_user"),
    (Read, "SELECT extract(year FROM x), position('a' IN b), substring(a FROM 1 FOR 2), overlay(a PLACING b FROM 1), trim(BOTH 'x' FROM a) FROM t"),
    (Read, "SELECT a AT TIME ZONE 'UTC', a AT LOCAL, a COLLATE \"C\", a LIKE 'b' ESCAPE 'c', a SIMILAR TO 'x', (a, b) OVERLAPS (c, d) FROM t"),
    (Read, "SELECT normalize(a, NFC), a IS NFC NORMALIZED, COLLATION FOR (a), coalesce(a, b), greatest(a, b), nullif(a, b) FROM t"),
    (Read, "SELECT xmlelement(name a, xmlattributes(1 AS b)), xmlforest(1 AS x), xmlparse(DOCUMENT '<a/>'), xmlserialize(CONTENT x AS text), x IS DOCUMENT FROM t"),
    (Read, "SELECT json_object('a': 1), json_array(1, 2), json_arrayagg(x), json_objectagg(a: b), JSON_EXISTS(j, '$.a'), JSON_VALUE(j, '$' RETURNING int), JSON_QUERY(j, '$'), j IS JSON FROM t"),
    (Read, "SELECT * FROM JSON_TABLE('[]', '$[*]' COLUMNS (a int PATH '$', NESTED PATH '$.x' COLUMNS (b int))) AS jt"),
    (Read, "SELECT * FROM XMLTABLE('/a' PASSING x COLUMNS a int PATH 'b' DEFAULT 1)"),
    (Read, "SELECT * FROM generate_series(1, 2) WITH ORDINALITY AS g(a, b), ROWS FROM (unnest(ARRAY[1]), unnest(ARRAY[2])) AS r"),
    (Read, "SELECT * FROM t TABLESAMPLE system (10) REPEATABLE (1)"),
    (Read, "SELECT CASE WHEN a THEN b ELSE c END, (ARRAY[1, 2])[1], (ROW(1, 2)).f1, ARRAY(SELECT 1), x[1:2] FROM t"),
    (Read, "SELECT grouping(a) FROM t GROUP BY GROUPING SETS ((a), ROLLUP (a, b), CUBE (c))"),
    (Read, "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a), string_agg(DISTINCT a, ',' ORDER BY a) FROM t"),
    (Read, "SELECT DISTINCT ON (a) a, b FROM t ORDER BY a FETCH FIRST 3 ROWS WITH TIES"),
    (Read, "SELECT a FROM t UNION ALL SELECT b FROM u INTERSECT SELECT 1 EXCEPT VALUES (1)"),
    (Read, "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SEARCH DEPTH FIRST BY n SET o CYCLE n SET c USING p SELECT * FROM r"),
    (Read, "SELECT * FROM a NATURAL JOIN b CROSS JOIN c LEFT JOIN d USING (x), LATERAL (SELECT a.x) AS l"),
    (Read, "SELECT make_interval(days => 3)"),
    (Read, "SELECT format(VARIADIC ARRAY['%s', 'a'])"),
    (Read, "SELECT set_config('a.b', 'c', true)"),
    (Read, "SELECT set_config('a.b', $1, 't'::bool)"),
    (Read, "SELECT current_setting('a.b')"),
    (Read, "SELECT txid_current_if_assigned(), pg_current_snapshot(), inet_server_port()"),
    (Read, "SELECT * FROM pg_stats, pg_class, pg_statistic_ext, app.pg_locks"),
    (Local, "SELECT pg_is_in_recovery()"),
    (Local, "SELECT * FROM t WHERE pg_catalog.pg_last_wal_replay_lsn() > '0/0'"),
    (Local, "SELECT pg_backend_pid()"),
    (Local, "SELECT pg_stat_get_numscans(1)"),
    (Local, "SELECT count(*) FROM pg_stat_activity"),
    (Local, "WITH a AS (SELECT * FROM pg_catalog.pg_locks) SELECT * FROM a"),
    (Local, "SELECT * FROM public.pg_stat_statements"),
    (Local, "SELECT * FROM pg_sequences"),
    (Local, "SELECT * FROM t WHERE x IN (SELECT gid FROM pg_prepared_xacts)"),
    (Local, "SELECT setting FROM pg_settings WHERE name = 'port'"),
    (Local, "SELECT current_setting('transaction_read_only')"),
    (Local, "SELECT current_setting($1)"),
    (Local, "COPY (SELECT * FROM pg_statio_user_tables) TO STDOUT"),
    (Local, "SHOW transaction_read_only"),
    (Local, "SHOW in_hot_standby"),
    (Local, "SHOW default_transaction_read_only"),
    (Local, "SHOW ALL"),
    (Write, "SELECT nextval('s') FROM pg_locks"),
    (Neutral, "SHOW TRANSACTION ISOLATION LEVEL"),
    (Neutral, "SHOW TIME ZONE"),
    (Neutral, "SHOW app.tenant"),
    (Read, "SELECT 'nextval(''s'')'"),
    (Read, "SELECT \"nextval\" FROM t"),
    (Read, "EXPLAIN SELECT 1"),
    (Read, "EXPLAIN INSERT INTO t VALUES (1)"),
    (Read, "EXPLAIN (COSTS off, ANALYZE off) DELETE FROM t"),
    (Read, "EXPLAIN (ANALYZE false) DELETE FROM t"),
    (Read, "EXPLAIN (ANALYZE 0) DELETE FROM t"),
    (Read, "EXPLAIN SELECT nextval('s')"),
    (Read, "EXPLAIN SELECT pg_advisory_lock(1)"),
    (Read, "EXPLAIN ANALYZE SELECT 1"),
    (Read, "COPY t TO STDOUT"),
    (Read, "COPY t (a, b) TO STDOUT WITH (FORMAT csv)"),
    (Read, "COPY (SELECT 1) TO STDOUT"),
    (Read, "DECLARE c CURSOR FOR SELECT 1"),
    (Neutral, "SHOW search_path"),
    (Neutral, "SET LOCAL a.b = 'c'"),
    (Neutral, "SET LOCAL TIME ZONE 'UTC'"),
    (Neutral, "SET LOCAL ROLE x"),
    (Neutral, "SET CONSTRAINTS ALL DEFERRED"),
    (Neutral, "SET TRANSACTION READ ONLY"),
    (Neutral, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
    (Local, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
    (Local, "SET TRANSACTION READ WRITE"),
    (Local, "SET transaction_read_only = off"),
    (Local, "SET LOCAL transaction_isolation = 'serializable'"),
    (Neutral, "SET transaction_read_only = on"),
    (Neutral, "RESET transaction_isolation"),
    (Neutral, "FETCH 10 FROM c"),
    (Neutral, "MOVE c"),
    (Neutral, "CLOSE c"),
    (Neutral, "CLOSE ALL"),
    (Neutral, "DISCARD PLANS"),
    (Neutral, "DISCARD TEMP"),
    (Neutral, "DISCARD SEQUENCES"),
    (Write, "INSERT INTO t VALUES (1)"),
    (Write, "UPDATE t SET a = 1"),
    (Write, "DELETE FROM t"),
    (Write, "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (1)"),
    (Write, "INSERT INTO t SELECT 1 ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING *"),
    (Write, "SELECT * FROM t FOR UPDATE"),
    (Write, "SELECT * FROM t FOR NO KEY UPDATE NOWAIT"),
    (Write, "SELECT * FROM t FOR SHARE OF t SKIP LOCKED"),
    (Write, "SELECT * FROM t FOR KEY SHARE"),
    (Write, "SELECT * FROM (SELECT * FROM t FOR UPDATE) AS s"),
    (Write, "SELECT * INTO u FROM t"),
    (Write, "SELECT 1 INTO u UNION SELECT 2"),
    (Write, "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d"),
    (Write, "WITH a AS (SELECT 1), b AS (WITH c AS (INSERT INTO t VALUES (1) RETURNING 1) SELECT * FROM c) SELECT * FROM b"),
    (Write, "SELECT 1 UNION (WITH d AS (UPDATE t SET a = 1 RETURNING 1) SELECT * FROM d)"),
    (Write, "SELECT nextval('s')"),
    (Write, "SELECT pg_catalog.nextval('s')"),
    (Write, "SELECT postgres.pg_catalog.setval('s', 1)"),
    (Write, "SELECT 1 WHERE EXISTS (SELECT nextval('s'))"),
    (Write, "SELECT 1 ORDER BY nextval('s')"),
    (Write, "SELECT 1 LIMIT nextval('s')"),
    (Write, "SELECT 1 GROUP BY nextval('s')"),
    (Write, "SELECT count(*) FILTER (WHERE nextval('s') > 1)"),
    (Write, "SELECT sum(1) OVER (ORDER BY nextval('s'))"),
    (Write, "SELECT sum(1) OVER w WINDOW w AS (PARTITION BY nextval('s'))"),
    (Write, "SELECT CASE nextval('s') WHEN 1 THEN 2 END"),
    (Write, "SELECT CASE WHEN true THEN nextval('s') END"),
    (Write, "SELECT CASE WHEN true THEN 1 ELSE nextval('s') END"),
    (Write, "SELECT ARRAY[nextval('s')]"),
    (Write, "SELECT ROW(nextval('s'))"),
    (Write, "SELECT x[nextval('s')] FROM t"),
    (Write, "SELECT coalesce(1, nextval('s'))"),
    (Write, "SELECT greatest(1, nextval('s'))"),
    (Write, "SELECT nextval('s')::text COLLATE \"C\""),
    (Write, "SELECT nextval('s') IS NULL"),
    (Write, "SELECT (nextval('s') > 1) IS TRUE"),
    (Write, "SELECT 1 BETWEEN 0 AND nextval('s')"),
    (Write, "SELECT 1 IN (2, nextval('s'))"),
    (Write, "SELECT NOT nextval('s') > 1 AND true"),
    (Write, "SELECT 1 = ANY (ARRAY[nextval('s')])"),
    (Write, "SELECT nextval('s') IN (SELECT 1)"),
    (Write, "SELECT * FROM nextval('s')"),
    (Write, "SELECT * FROM ROWS FROM (generate_series(1, 2), nextval('s')) AS r"),
    (Write, "SELECT * FROM a JOIN b ON nextval('s') > 1"),
    (Write, "SELECT * FROM t TABLESAMPLE system (nextval('s'))"),
    (Write, "SELECT make_interval(days => nextval('s')::int)"),
    (Write, "SELECT json_object('a': nextval('s'))"),
    (Write, "SELECT json_array(nextval('s'))"),
    (Write, "SELECT json_array(SELECT nextval('s'))"),
    (Write, "SELECT json_arrayagg(nextval('s'))"),
    (Write, "SELECT JSON_VALUE(j, '$' PASSING nextval('s') AS x) FROM t"),
    (Write, "SELECT JSON_VALUE(j, '$' DEFAULT nextval('s') ON EMPTY) FROM t"),
    (Write, "SELECT xmlelement(name a, nextval('s'))"),
    (Write, "SELECT xmlelement(name a, xmlattributes(nextval('s') AS b))"),
    (Write, "SELECT xmlserialize(CONTENT xmlelement(name a, nextval('s')) AS text)"),
    (Write, "SELECT * FROM XMLTABLE('/a' PASSING x COLUMNS a int PATH 'b' DEFAULT nextval('s'))"),
    (Write, "SELECT * FROM JSON_TABLE(nextval('s')::text::json, '$[*]' COLUMNS (a int PATH '$'))"),
    (Write, "VALUES (1), (nextval('s'))"),
    (Write, "SELECT DISTINCT ON (nextval('s')) 1"),
    (Write, "SELECT string_agg('a', 'b' ORDER BY nextval('s'))"),
    (Write, "SELECT pg_advisory_xact_lock(1)"),
    (Write, "SELECT pg_try_advisory_xact_lock_shared(1, 2)"),
    (Write, "SELECT pg_advisory_unlock(1)"),
    (Write, "SELECT lo_unlink(1)"),
    (Write, "SELECT txid_current()"),
    (Write, "SELECT pg_current_xact_id()"),
    (Write, "SELECT pg_notify('a', 'b')"),
    (Write, "SELECT pg_switch_wal()"),
    (Write, "SELECT pg_terminate_backend(1), pg_cancel_backend(2)"),
    (Write, "SELECT pg_current_wal_lsn()"),
    (Write, "SELECT pg_reload_conf()"),
    (Write, "SELECT query_to_xml('DELETE FROM t', true, true, '')"),
    (Write, "SELECT dblink_exec('x', 'DELETE FROM t')"),
    (Write, "SELECT * FROM public.dblink('x', 'SELECT 1') AS t(a int)"),
    (Write, "SELECT my_function(1)"),
    (Write, "SELECT public.lower('A')"),
    (Write, "SELECT \"LOWER\"('A')"),
    (Write, "EXPLAIN ANALYZE INSERT INTO t VALUES (1)"),
    (Write, "EXPLAIN (ANALYZE) SELECT nextval('s')"),
    (Write, "EXPLAIN (ANALYZE on, BUFFERS) DELETE FROM t"),
    (Write, "EXPLAIN (ANALYZE 1) DELETE FROM t"),
    (Write, "EXPLAIN ANALYZE CREATE TABLE u AS SELECT 1"),
    (Write, "EXPLAIN EXECUTE p"),
    (Write, "EXECUTE p (1, 2)"),
    (Write, "COPY t FROM STDIN"),
    (Write, "COPY (INSERT INTO t VALUES (1) RETURNING *) TO STDOUT"),
    (Write, "COPY (SELECT nextval('s')) TO STDOUT"),
    (Write, "COPY t TO '/tmp/x'"),
    (Write, "COPY t TO PROGRAM 'cat'"),
    (Write, "DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE"),
    (Write, "CREATE TABLE t (a int DEFAULT nextval('s') PRIMARY KEY, CHECK (a > 0))"),
    (Write, "CREATE TEMP TABLE t (a int) ON COMMIT DROP"),
    (Write, "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1"),
    (Write, "CREATE TABLE t AS SELECT 1"),
    (Write, "CREATE MATERIALIZED VIEW m AS SELECT 1"),
    (Write, "REFRESH MATERIALIZED VIEW m"),
    (Write, "CREATE INDEX CONCURRENTLY ON t (lower(a)) WHERE b"),
    (Write, "CREATE VIEW v AS SELECT 1"),
    (Write, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    (Write, "CREATE FUNCTION f() RETURNS int RETURN 1"),
    (Write, "CREATE PROCEDURE p() BEGIN ATOMIC SELECT 1; END"),
    (Write, "CREATE TYPE e AS ENUM ('a')"),
    (Write, "CREATE TYPE c AS (a int)"),
    (Write, "CREATE TYPE r AS RANGE (subtype = int)"),
    (Write, "CREATE AGGREGATE a (int) (sfunc = int4pl, stype = int)"),
    (Write, "CREATE DOMAIN d AS int CHECK (value > 0)"),
    (Write, "CREATE SCHEMA s CREATE TABLE t (a int)"),
    (Write, "CREATE EXTENSION hstore"),
    (Write, "CREATE SEQUENCE s"),
    (Write, "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"),
    (Write, "CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING"),
    (Write, "CREATE POLICY p ON t USING (a = 1)"),
    (Write, "CREATE ROLE r LOGIN"),
    (Write, "CREATE DATABASE d"),
    (Write, "CREATE PUBLICATION p FOR TABLE t WHERE (a > 1)"),
    (Write, "CREATE STATISTICS st ON a, b FROM t"),
    (Write, "CREATE FOREIGN TABLE f (a int) SERVER s"),
    (Write, "ALTER TABLE t ADD COLUMN b int"),
    (Write, "ALTER TABLE t RENAME TO u"),
    (Write, "ALTER ROLE r SET search_path = a"),
    (Write, "ALTER SYSTEM SET work_mem = '1MB'"),
    (Write, "ALTER TYPE e ADD VALUE 'b'"),
    (Write, "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO r"),
    (Write, "DROP TABLE t, u"),
    (Write, "DROP FUNCTION f(int)"),
    (Write, "DROP OWNED BY r"),
    (Write, "COMMENT ON TABLE t IS 'x'"),
    (Write, "GRANT SELECT ON t TO r"),
    (Write, "GRANT EXECUTE ON FUNCTION f(int) TO r"),
    (Write, "REVOKE ALL ON ALL TABLES IN SCHEMA s FROM r"),
    (Write, "TRUNCATE t"),
    (Write, "VACUUM"),
    (Write, "VACUUM (FULL) t"),
    (Write, "ANALYZE t (a)"),
    (Write, "CLUSTER t"),
    (Write, "REINDEX TABLE t"),
    (Write, "CHECKPOINT"),
    (Write, "LOCK TABLE t IN ACCESS SHARE MODE"),
    (Write, "DO 'BEGIN END'"),
    (Write, "CALL p(1)"),
    (Write, "NOTIFY a, 'b'"),
    (Write, "UNLISTEN *"),
    (Write, "SET TRANSACTION SNAPSHOT 'x'"),
    (Write, "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO y"),
    (Write, "REASSIGN OWNED BY a TO b"),
    (Write, "SECURITY LABEL ON TABLE t IS 'x'"),
];

#[test]
fn access_by_statement() {
    let mut wrong = String::new();
    for (access, text) in ACCESS {
        let facts = one(text);
        if facts.access != *access || !facts.effects.is_empty() {
            let _ = writeln!(wrong, "{text}: {:?} ({}), {:?}", facts.access, facts.why, facts.effects);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn what_plainly_reads_calls_nothing_of_others() {
    let reads = |text: &str| facts(text.as_bytes()).plainly_reads();
    for text in [
        "SELECT a + 1, lower(b) || 'x' FROM t WHERE c = $1 AND d LIKE 'x%' AND e IN (1, 2) AND f NOT BETWEEN 1 AND 2",
        "SELECT pg_sleep(1); SHOW work_mem",
        "SELECT a OPERATOR(pg_catalog.+) 1 FROM t",
    ] {
        assert!(reads(text), "{text}");
    }
    for text in [
        "SELECT 1 @#@ 2",
        "SELECT 1 OPERATOR(public.+) 2",
        "SELECT lower(a), f(b) FROM t",
        "SELECT nextval('s')",
        "SELECT 1; SELECT f()",
        "INSERT INTO t VALUES (1)",
        "EXECUTE s",
        "no SQL",
    ] {
        assert!(!reads(text), "{text}");
    }
}

#[test]
fn effects_by_statement() {
    use ConfigArg::Param;
    use PinReason::*;
    use SessionEffect::{Deallocate, DeallocateAll, DiscardAll, ResetAll, SetByParams};
    let literal = |text: &str| ConfigArg::Literal(text.to_owned());
    #[rustfmt::skip]
    let cases: Vec<(&str, Access, Vec<SessionEffect>)> = vec![
        ("SET a.b = 'c d'", Neutral, set("a.b", "c d")),
        ("SET SESSION Work_Mem TO 64", Neutral, set("work_mem", "64")),
        ("SET work_mem = '64MB'", Neutral, set("work_mem", "64MB")),
        ("SET seq_page_cost = 1.5", Neutral, set("seq_page_cost", "1.5")),
        ("SET x.y = -5", Neutral, set("x.y", "-5")),
        ("SET enable_seqscan = off", Neutral, set("enable_seqscan", "off")),
        ("SET enable_seqscan = TRUE", Neutral, set("enable_seqscan", "true")),
        ("SET search_path = a, \"B\"", Neutral, set("search_path", "a, \"B\"")),
        ("SET search_path = 'a,b'", Neutral, set("search_path", "\"a,b\"")),
        ("SET search_path = ''", Neutral, set("search_path", "\"\"")),
        ("SET search_path TO \"$user\", public", Neutral, set("search_path", "\"$user\", public")),
        ("SET datestyle = ISO, DMY", Neutral, set("datestyle", "iso, dmy")),
        ("SET SCHEMA 'Foo'", Neutral, set("search_path", "\"Foo\"")),
        ("SET NAMES 'utf8'", Neutral, set("client_encoding", "utf8")),
        ("SET NAMES", Neutral, reset("client_encoding")),
        ("SET TIME ZONE 'Europe/Warsaw'", Neutral, set("timezone", "Europe/Warsaw")),
        ("SET TIME ZONE -7", Neutral, set("timezone", "-7")),
        ("SET TimeZone = 'UTC'", Neutral, set("timezone", "UTC")),
        ("SET TIME ZONE LOCAL", Neutral, reset("timezone")),
        ("SET TIME ZONE DEFAULT", Neutral, reset("timezone")),
        ("SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE", Neutral, unknown("timezone")),
        ("SET XML OPTION DOCUMENT", Neutral, set("xmloption", "DOCUMENT")),
        ("SET pgweir.route = 'primary'", Neutral, set("pgweir.route", "primary")),
        ("SET x.y FROM CURRENT", Neutral, unknown("x.y")),
        ("SET default_text_search_config = 'english'", Neutral, unknown("default_text_search_config")),
        ("SET sort_mem = 64", Neutral, set("work_mem", "64")),
        ("SET work_mem TO DEFAULT", Neutral, reset("work_mem")),
        ("RESET Work_Mem", Neutral, reset("work_mem")),
        ("RESET TIME ZONE", Neutral, reset("timezone")),
        ("RESET ROLE", Neutral, reset("role")),
        ("RESET SESSION AUTHORIZATION", Neutral, reset("session_authorization")),
        ("SET SESSION AUTHORIZATION DEFAULT", Neutral, reset("session_authorization")),
        ("RESET ALL", Neutral, vec![ResetAll]),
        ("SET ROLE r", Neutral, set("role", "r")),
        ("SET ROLE NONE", Neutral, set("role", "none")),
        ("SET role = 'R'", Neutral, set("role", "R")),
        ("SET SESSION AUTHORIZATION \"R s\"", Neutral, set("session_authorization", "R s")),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ, NOT DEFERRABLE", Neutral,
            [set("default_transaction_read_only", "on"), set("default_transaction_isolation", "repeatable read"),
             set("default_transaction_deferrable", "off")].concat()),
        ("SET seed = 0.5", Write, pin(Seed)),
        ("SET search_path = pg_temp, public", Neutral,
            set("search_path", "pg_temp, public")),
        ("SELECT set_config('A.b', 'c', false)", Read, set("a.b", "c")),
        ("SELECT set_config('a.b', 'c'::text, 'no'), 7, pg_catalog.set_config('d.e', NULL, NULL)", Read,
            [set("a.b", "c"), reset("d.e")].concat()),
        ("SELECT set_config('a.b', 'c', true), set_config('a.b', 'd', 'f'::bool)", Read, set("a.b", "d")),
        ("SELECT set_config('a.b', $1, $2)", Read, vec![SetByParams { name: literal("a.b"), value: Param(1), local: Param(2) }]),
        ("SELECT set_config($1::text, 'x', false)", Read, vec![SetByParams { name: Param(1), value: literal("x"), local: literal("f") }]),
        ("SELECT set_config('a.b', 'c', is_local => true)", Read, unknown("a.b")),
        ("SELECT set_config('a.b', $1::int::text, false)", Read, unknown("a.b")),
        ("SELECT set_config('a.b', 'c', false) WHERE false", Read, unknown("a.b")),
        ("SELECT set_config('a.b', 'c', false), generate_series(1, 0)", Read, unknown("a.b")),
        ("SELECT set_config('a.b', set_config('c.d', 'x', false), false)", Read, [unknown("a.b"), unknown("c.d")].concat()),
        ("SELECT pg_catalog.set_config('a.b', x, false) FROM t", Read, unknown("a.b")),
        ("SELECT set_config(x, 'c', false) FROM t", Write, pin(Setting)),
        ("SELECT set_config('pgweir.route', 'primary', false)", Write, pin(Setting)),
        ("SELECT set_config('a.b', true::text, false)", Read, set("a.b", "true")),
        ("SELECT set_config('a.b', 'off'::bool::varchar, 'no'::bool)", Read, set("a.b", "false")),
        ("SELECT set_config('a.b', $1::bool::text, false)", Read, unknown("a.b")),
        ("UPDATE pg_settings SET setting = 'x' WHERE name = 'a.b'", Write, pin(Setting)),
        ("EXPLAIN ANALYZE UPDATE pg_catalog.pg_settings s SET setting = 'x'", Write, pin(Setting)),
        ("UPDATE mine.pg_settings SET setting = 'x'", Write, vec![]),
        ("DECLARE c CURSOR FOR SELECT set_config('a.b', 'c', false)", Read, unknown("a.b")),
        ("PREPARE p AS SELECT set_config('a.b', 'c', false)", Write, [pin(SqlPrepare), pin(Setting)].concat()),
        ("SELECT set_config('search_path', 'pg_temp, public', false)", Read,
            set("search_path", "pg_temp, public")),
        ("SELECT set_config('seed', '0.5', false)", Write, pin(Seed)),
        ("SELECT set_config('seed', '0.5', true)", Write, pin(Seed)),
        ("SELECT set_config('seed', $1, true)", Write, pin(Seed)),
        ("SELECT pg_advisory_lock(1), pg_advisory_lock(2)", Write, pin(AdvisoryLock)),
        ("SELECT pg_try_advisory_lock_shared(1)", Write, pin(AdvisoryLock)),
        ("INSERT INTO t SELECT pg_try_advisory_lock(1)", Write, pin(AdvisoryLock)),
        ("EXPLAIN ANALYZE SELECT pg_advisory_lock(1)", Write, pin(AdvisoryLock)),
        ("CREATE TABLE t AS SELECT pg_advisory_lock(1)", Write, pin(AdvisoryLock)),
        ("EXECUTE p (pg_advisory_lock(1))", Write, pin(AdvisoryLock)),
        ("CALL p(pg_advisory_lock(1))", Write, pin(AdvisoryLock)),
        ("SELECT currval('s')", Write, pin(SequenceState)),
        ("SELECT lastval()", Write, pin(SequenceState)),
        ("SELECT setseed(0.1)", Write, pin(Seed)),
        ("SELECT lo_open(1, 2)", Write, Vec::new()),
        ("SELECT pg_export_snapshot()", Write, Vec::new()),
        ("SELECT pg_create_physical_replication_slot('a', false, true)", Write, pin(Handle)),
        ("SELECT dblink_connect('x', 'y')", Write, pin(Handle)),
        ("CREATE TEMP TABLE t (a int)", Write, pin(TempObject)),
        ("CREATE TEMPORARY TABLE t (a int) ON COMMIT DELETE ROWS", Write, pin(TempObject)),
        ("CREATE LOCAL TEMP TABLE t AS SELECT 1", Write, pin(TempObject)),
        ("CREATE TABLE pg_temp.t (a int)", Write, pin(TempObject)),
        ("CREATE TEMP VIEW v AS SELECT 1", Write, pin(TempObject)),
        ("CREATE TEMP SEQUENCE s", Write, pin(TempObject)),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", Write, pin(TempObject)),
        ("CREATE TYPE pg_temp.c AS (a int)", Write, pin(TempObject)),
        ("CREATE TYPE pg_temp.e AS ENUM ('a')", Write, pin(TempObject)),
        ("CREATE DOMAIN pg_temp.d AS int", Write, pin(TempObject)),
        ("CREATE STATISTICS pg_temp.s ON a, b FROM t", Write, pin(TempObject)),
        ("CREATE OPERATOR FAMILY pg_temp.o USING btree", Write, pin(TempObject)),
        ("SELECT * INTO TEMP u FROM t", Write, pin(TempObject)),
        ("SELECT * INTO pg_temp.u FROM t", Write, pin(TempObject)),
        ("SELECT * FROM pg_temp.t", Write, pin(TempObject)),
        ("COPY pg_temp_3.t FROM STDIN", Write, pin(TempObject)),
        ("PREPARE p AS SELECT 1", Write, pin(SqlPrepare)),
        ("PREPARE p AS SELECT pg_advisory_lock(1)", Write, [pin(SqlPrepare), pin(AdvisoryLock)].concat()),
        ("LISTEN a", Write, pin(Listen)),
        ("LOAD 'x'", Write, pin(Load)),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Write, pin(HoldCursor)),
        ("DISCARD ALL", Neutral, vec![DiscardAll]),
        ("DEALLOCATE ALL", Neutral, vec![DeallocateAll]),
        ("DEALLOCATE PREPARE Foo", Neutral, vec![Deallocate { name: "foo".to_owned() }]),
    ];
    let mut wrong = String::new();
    for (text, access, effects) in cases {
        let facts = one(text);
        if facts.access != access || facts.effects != effects {
            let _ = writeln!(wrong, "{text}: {:?} ({}), {:?}", facts.access, facts.why, facts.effects);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn transaction_control() {
    use TransactionEffect as T;
    for (text, access, effect) in [
        ("BEGIN", Neutral, T::Begin { read_only: false }),
        ("START TRANSACTION READ ONLY", Neutral, T::Begin { read_only: true }),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY, DEFERRABLE", Neutral, T::Begin { read_only: true }),
        ("BEGIN READ WRITE", Neutral, T::Begin { read_only: false }),
        ("COMMIT", Neutral, T::Commit { chain: false }),
        ("END", Neutral, T::Commit { chain: false }),
        ("COMMIT AND CHAIN", Neutral, T::Commit { chain: true }),
        ("ROLLBACK", Neutral, T::Rollback { chain: false }),
        ("ABORT AND CHAIN", Neutral, T::Rollback { chain: true }),
        ("SAVEPOINT a", Neutral, T::Savepoint),
        ("ROLLBACK TO a", Neutral, T::RollbackTo),
        ("RELEASE a", Neutral, T::Release),
        ("PREPARE TRANSACTION 'x'", Write, T::PrepareTransaction),
        ("COMMIT PREPARED 'x'", Write, T::FinishPrepared),
        ("ROLLBACK PREPARED 'x'", Write, T::FinishPrepared),
        ("SELECT 1", Read, T::None),
    ] {
        let facts = one(text);
        assert_eq!((facts.access, facts.transaction), (access, effect), "{text}");
        assert_eq!(facts.effects, [], "{text}");
        assert_eq!(facts.shape, ShardShape::NoTables, "{text}");
    }
}

#[test]
fn names_of_prepared_statements_are_seen() {
    for (text, name_use) in [
        ("PREPARE s AS SELECT 1", Some(NameUse::Prepare("s".to_owned()))),
        ("EXECUTE S (1, 'a')", Some(NameUse::Execute("s".to_owned()))),
        ("EXPLAIN EXECUTE \"S x\"", Some(NameUse::Execute("S x".to_owned()))),
        ("EXPLAIN (ANALYZE, COSTS off) EXECUTE s(2)", Some(NameUse::Execute("s".to_owned()))),
        ("CREATE TABLE t AS EXECUTE s", Some(NameUse::Execute("s".to_owned()))),
        ("DEALLOCATE PREPARE s", Some(NameUse::Deallocate("s".to_owned()))),
        ("DEALLOCATE ALL", None),
        ("SELECT 'EXECUTE s'", None),
    ] {
        assert_eq!(one(text).name_use, name_use, "{text}");
    }
}

#[test]
fn the_reason_is_named() {
    for (text, why) in [
        ("SELECT 1", "SELECT"),
        ("SELECT nextval('s'), setval('s', 1)", "calls nextval()"),
        ("SELECT f()", "calls a function that is not built in"),
        ("SELECT * FROM t FOR SHARE", "FOR SHARE"),
        ("WITH d AS (DELETE FROM t) SELECT 1", "DELETE"),
        ("INSERT INTO t VALUES (nextval('s'))", "INSERT"),
        ("SELECT set_config(x, y, false) FROM t", "changes a setting in a way that cannot be followed"),
        ("ALTER TABLE t ADD b int", "ALTER TABLE"),
    ] {
        assert_eq!(one(text).why, why, "{text}");
    }
}

#[test]
fn plans_that_can_be_kept() {
    for (text, plan) in [
        ("SELECT a FROM t WHERE k = $1", Plan::Rows),
        ("VALUES (1)", Plan::Rows),
        ("WITH d AS (DELETE FROM t RETURNING a) SELECT * FROM d", Plan::Rows),
        ("INSERT INTO t VALUES ($1)", Plan::Silent),
        ("INSERT INTO t VALUES ($1) RETURNING a", Plan::Rows),
        ("UPDATE t SET a = $1", Plan::Silent),
        ("UPDATE t SET a = $1 RETURNING *", Plan::Rows),
        ("DELETE FROM t USING u WHERE t.k = u.k", Plan::Silent),
        ("DELETE FROM t RETURNING a", Plan::Rows),
        ("MERGE INTO t USING u ON t.k = u.k WHEN MATCHED THEN DELETE", Plan::Silent),
        ("SELECT a INTO u FROM t", Plan::None),
        ("CREATE TABLE u AS SELECT a FROM t", Plan::None),
        ("EXPLAIN SELECT a FROM t", Plan::None),
        ("DECLARE c CURSOR FOR SELECT a FROM t", Plan::None),
        ("BEGIN", Plan::None),
        ("SHOW work_mem", Plan::None),
    ] {
        assert_eq!(one(text).plan, plan, "{text}");
    }
}

#[test]
fn several_statements_and_none() {
    let two = facts(b"BEGIN; INSERT INTO t VALUES (1); SELECT 1; COMMIT;");
    let access: Vec<_> = two.statements.iter().map(|s| s.access).collect();
    assert_eq!(access, [Neutral, Write, Read, Neutral]);
    assert_eq!(two.access(), Write);
    for text in ["", " ", ";", "-- nothing", "/* nothing */", ";;"] {
        let none = facts(text.as_bytes());
        assert_eq!((none.statements.len(), none.access(), &none.unparsed), (0, Neutral, &None), "{text:?}");
    }
}

#[test]
fn what_is_not_sql_is_a_write() {
    for (text, part) in [
        (&b"SELEC 1"[..], "syntax error at or near \"SELEC\""),
        (b"SELECT 'a", "unterminated quoted string"),
        (b"SELECT '\xff'", "not valid UTF-8"),
        (b"SELECT 1\0; DROP TABLE t", "NUL"),
        (b"SELECT E'\\xff'", "invalid byte sequence"),
        (b"SELECT U&'\\D800'", "surrogate"),
        (b"SELECT 1; SELECT (", "syntax error"),
    ] {
        let facts = facts(text);
        let (message, _) = facts.unparsed.clone().unwrap_or_default();
        assert!(message.contains(part), "{message}");
        assert_eq!((facts.statements.len(), facts.access()), (0, Write));
    }
    let hinted = facts(b"/* pgweir: replica */ SELEC 1");
    assert_eq!(hinted.hints.route, Some(RouteHint::Replica));
}

/// A table as `schema.name alias`.
fn show_table(table: &TableRef) -> String {
    let schema = table.schema.as_ref().map(|s| format!("{s}.")).unwrap_or_default();
    let alias = table.alias.as_ref().map(|a| format!(" {a}")).unwrap_or_default();
    format!("{schema}{}{alias}", table.name)
}

fn show_value(value: &KeyValue) -> String {
    let cast = |cast: &Option<String>| cast.as_ref().map(|c| format!("::{c}")).unwrap_or_default();
    match value {
        KeyValue::Literal { kind: LiteralKind::String, text, cast: c } => format!("'{text}'{}", cast(c)),
        KeyValue::Literal { kind: LiteralKind::Integer, text, cast: c } => format!("{text}{}", cast(c)),
        KeyValue::Literal { kind, text, cast: c } => format!("{kind:?} {text}{}", cast(c)),
        KeyValue::Param { number, cast: c } => format!("${number}{}", cast(c)),
        other => format!("{other:?}"),
    }
}

/// A shape on one line.
fn show(shape: &ShardShape) -> String {
    let list = |tables: &[TableRef]| tables.iter().map(show_table).collect::<Vec<_>>().join(", ");
    match shape {
        ShardShape::NoTables => "none".to_owned(),
        ShardShape::Other { tables, what } => format!("other {what} [{}]", list(tables)),
        ShardShape::Insert { tables, columns, rows, assigned } => {
            let columns = columns.as_ref().map_or("*".to_owned(), |c| c.join(", "));
            let rows = rows.iter().map(|r| r.iter().map(show_value).collect::<Vec<_>>().join(", "));
            let rows = rows.collect::<Vec<_>>().join(" | ");
            let assigned = if assigned.is_empty() { String::new() } else { format!(" set {}", assigned.join(", ")) };
            format!("insert [{}] ({columns}) ({rows}){assigned}", list(tables))
        }
        ShardShape::Filtered { verb, tables, top, equalities, assigned, nested } => {
            let equalities = equalities.iter().map(|(c, v)| {
                let qualifier = c.qualifier.iter().map(|q| format!("{q}.")).collect::<String>();
                format!("{qualifier}{}={}", c.column, show_value(v))
            });
            let equalities = equalities.collect::<Vec<_>>().join(", ");
            let mut line = format!("{verb:?} [{}]", list(top)).to_lowercase();
            if tables != top {
                line += &format!(" of [{}]", list(tables));
            }
            line += " where";
            if !equalities.is_empty() {
                line += &format!(" {equalities}");
            }
            if !assigned.is_empty() {
                line += &format!(" set {}", assigned.join(", "));
            }
            if let Some(nested) = nested {
                line += &format!(" nested {nested}");
            }
            line
        }
    }
}

#[rustfmt::skip]
const SHAPES: &[(&str, &str)] = &[
    ("SELECT 1", "none"),
    ("SELECT * FROM generate_series(1, 2)", "none"),
    ("SET a.b = 1", "none"),
    ("LISTEN a", "none"),
    ("SELECT * FROM t", "select [t] where"),
    ("SELECT * FROM S.\"T\" AS x WHERE x.id = 42", "select [s.t x] where x.id=42"),
    ("SELECT * FROM t WHERE id = 42 AND b = 'x' AND (c = $1 AND d = $2::bigint)", "select [t] where id=42, b='x', c=$1, d=$2::int8"),
    ("SELECT * FROM t WHERE 42 = t.id", "select [t] where t.id=42"),
    ("SELECT * FROM t WHERE s.t.id = 1", "select [t] where s.t.id=1"),
    ("SELECT * FROM t WHERE id = -42", "select [t] where id=-42"),
    ("SELECT * FROM t WHERE id = - 42", "select [t] where id=-42"),
    ("SELECT * FROM t WHERE id = -42::bigint", "select [t] where id=-42::int8"),
    ("SELECT * FROM t WHERE id = (-42)::bigint", "select [t] where id=-42::int8"),
    ("SELECT * FROM t WHERE id = +42", "select [t] where id=42"),
    ("SELECT * FROM t WHERE id = -(-42)", "select [t] where id=42"),
    ("SELECT * FROM t WHERE id = -'42'", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id = 9223372036854775807", "select [t] where id=9223372036854775807"),
    ("SELECT * FROM t WHERE id = -9223372036854775808", "select [t] where id=-9223372036854775808"),
    ("SELECT * FROM t WHERE id = 4.2", "select [t] where id=Float 4.2"),
    ("SELECT * FROM t WHERE id = 1e3", "select [t] where id=Float 1e3"),
    ("SELECT * FROM t WHERE id = 0x10", "select [t] where id=16"),
    ("SELECT * FROM t WHERE id = 0xFFFFFFFFFFF", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id = 1_000_000_000_000", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id = '5'::bigint", "select [t] where id='5'::int8"),
    ("SELECT * FROM t WHERE id = CAST('5' AS Int8)", "select [t] where id='5'::int8"),
    ("SELECT * FROM t WHERE id = bigint '5'", "select [t] where id='5'::int8"),
    ("SELECT * FROM t WHERE id = '5'::pg_catalog.int8", "select [t] where id='5'::int8"),
    ("SELECT * FROM t WHERE id = '5'::mine.int8", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id = 'abc'::varchar", "select [t] where id='abc'::varchar"),
    ("SELECT * FROM t WHERE id = 'abc'::\"VARCHAR\"", "select [t] where id='abc'::VARCHAR"),
    ("SELECT * FROM t WHERE id = '5'::\"bigint\"", "select [t] where id=Expression"),
    ("SELECT * FROM t JOIN u USING (id) WHERE id = 5 AND t.id = 6", "select [t, u] where t.id=6"),
    ("SELECT * FROM (VALUES (1)) v (id) JOIN t USING (id) WHERE id = 5", "select [t] where"),
    ("SELECT * FROM t NATURAL JOIN generate_series(1, 2) AS id WHERE 5 = id", "select [t] where"),
    ("DELETE FROM t USING a JOIN b USING (id) WHERE id = 5", "delete [t, a, b] where"),
    ("SELECT * FROM t JOIN u ON t.id = u.id WHERE id = 5", "select [t, u] where id=5"),
    ("SELECT * FROM t WHERE id = 'abc'::varchar(2)", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id = 'abc'::char", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id = '{1}'::int[]", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id = '5'::text::bigint", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id = 'x'::uuid", "select [t] where id='x'::uuid"),
    ("SELECT * FROM t WHERE id = E'a\\nb'", "select [t] where id='a\nb'"),
    ("SELECT * FROM t WHERE id = true", "select [t] where id=Other true"),
    ("SELECT * FROM t WHERE id = NULL", "select [t] where id=Null"),
    ("SELECT * FROM t WHERE id = 1 + 4", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id + 1 = 5", "select [t] where"),
    ("SELECT * FROM t WHERE id = 'a' COLLATE \"C\"", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id IN (5)", "select [t] where id=5"),
    ("SELECT * FROM t WHERE id IN (5, 6)", "select [t] where"),
    ("SELECT * FROM t WHERE id NOT IN (5)", "select [t] where"),
    ("SELECT * FROM t WHERE id = ANY ('{5}')", "select [t] where"),
    ("SELECT * FROM t WHERE id <> 5", "select [t] where"),
    ("SELECT * FROM t WHERE id OPERATOR(pg_catalog.=) 5", "select [t] where id=5"),
    ("SELECT * FROM t WHERE id OPERATOR(mine.=) 5", "select [t] where"),
    ("SELECT * FROM t WHERE id IS NOT DISTINCT FROM 5", "select [t] where"),
    ("SELECT * FROM t WHERE (id, b) = (5, 6)", "select [t] where id=5, b=6"),
    ("SELECT * FROM t WHERE id = 5 OR b = 6", "select [t] where"),
    ("SELECT * FROM t WHERE NOT id = 5", "select [t] where"),
    ("SELECT * FROM t WHERE (id = 5) = true", "select [t] where"),
    ("SELECT * FROM t WHERE (id = 5) IS TRUE", "select [t] where"),
    ("SELECT * FROM t WHERE (t).id = 5", "select [t] where"),
    ("SELECT * FROM t WHERE id[1] = 5", "select [t] where"),
    ("SELECT count(*) FILTER (WHERE id = 1) FROM t", "select [t] where"),
    ("SELECT CASE WHEN id = 1 THEN 2 END FROM t ORDER BY (id = 1)", "select [t] where"),
    ("SELECT 1 FROM t GROUP BY a HAVING id = 1", "select [t] where"),
    ("SELECT * FROM a, b WHERE a.id = 1 AND b.id = 2", "select [a, b] where a.id=1, b.id=2"),
    ("SELECT * FROM a JOIN b ON a.id = b.id AND b.x = 3 WHERE a.id = 1", "select [a, b] where a.id=1, b.x=3"),
    ("SELECT * FROM a JOIN b ON a.id = b.id JOIN c ON c.id = b.id WHERE c.id = $1", "select [a, b, c] where c.id=$1"),
    ("SELECT * FROM a AS x JOIN b USING (id) WHERE x.id = 1", "select [a x, b] where x.id=1"),
    ("SELECT * FROM a JOIN b USING (id) WHERE id = 1", "select [a, b] where"),
    ("SELECT * FROM a JOIN b ON a.id = b.id WHERE a.id = 1 + 1", "select [a, b] where a.id=Expression"),
    ("SELECT * FROM a LEFT JOIN b ON b.id = 5 WHERE a.id = 1", "select [] of [a, b] where a.id=1 nested outer join"),
    ("SELECT * FROM a LEFT JOIN b ON a.id = b.id WHERE a.id = 1", "select [] of [a, b] where a.id=1 nested outer join"),
    ("SELECT * FROM c JOIN (a FULL JOIN b ON a.id = 5) ON c.id = 7", "select [c] of [c, a, b] where c.id=7 nested outer join"),
    ("SELECT * FROM (a JOIN b ON a.id = 5) AS j (x, y) WHERE x = 3", "select [] of [a, b] where x=3 nested join alias"),
    ("SELECT * FROM t AS x (a, id) WHERE id = 5", "select [] of [t x] where id=5 nested column alias list"),
    ("SELECT * FROM t WHERE id = 1 AND EXISTS (SELECT 1 FROM u WHERE u.id = 2)", "select [t] of [t, u] where id=1 nested sub-query"),
    ("SELECT (SELECT count(*) FROM u) FROM t WHERE id = 1", "select [t] of [u, t] where id=1 nested sub-query"),
    ("SELECT * FROM (SELECT * FROM t WHERE id = 1) AS s", "select [] of [t] where nested sub-query"),
    ("SELECT * FROM t WHERE id = (SELECT 5)", "select [t] where id=Expression"),
    ("SELECT * FROM t WHERE id = 1 UNION SELECT * FROM u WHERE id = 1", "select [] of [t, u] where nested UNION"),
    ("SELECT * FROM t EXCEPT SELECT * FROM u", "select [] of [t, u] where nested EXCEPT"),
    ("SELECT * FROM t TABLESAMPLE system (1) WHERE id = 1", "select [t] where id=1"),
    ("SELECT * FROM t WHERE id = 1 FOR UPDATE OF t", "select [t] where id=1"),
    ("SELECT * INTO u FROM t WHERE id = 1", "other SELECT INTO [u, t]"),
    // Common table expressions: their names are not tables, where they are seen.
    ("WITH c AS (SELECT 1 AS id) SELECT * FROM c WHERE id = 1", "none"),
    ("WITH c AS (SELECT * FROM t WHERE id = 1) SELECT * FROM c", "select [] of [t] where nested common table expression"),
    ("WITH c AS (SELECT 1) SELECT * FROM c, public.c", "select [public.c] where"),
    ("WITH t AS (SELECT * FROM t) SELECT * FROM t", "select [] of [t] where nested common table expression"),
    ("WITH RECURSIVE t AS (SELECT * FROM t) SELECT * FROM t", "none"),
    ("WITH a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM a, b", "select [] of [b] where nested common table expression"),
    ("WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", "none"),
    ("SELECT * FROM c, (WITH c AS (SELECT 1) SELECT * FROM c) AS s", "select [c] where"),
    ("WITH c AS (SELECT 1) SELECT * FROM t WHERE id = 1 AND a IN (SELECT * FROM c)", "select [t] where id=1"),
    ("WITH t AS (SELECT 1) INSERT INTO t VALUES (1)", "insert [t] (*) (1)"),
    ("WITH t AS (SELECT 1) DELETE FROM t USING t AS x WHERE t.id = 1", "delete [t] where t.id=1"),
    ("WITH d AS (DELETE FROM t WHERE id = 1 RETURNING *) SELECT * FROM d", "select [] of [t] where nested common table expression"),
    // DML
    ("UPDATE t SET a = 1, (b, c) = (2, 3), d[1] = 4 WHERE id = 5", "update [t] where id=5 set a, b, c, d"),
    ("UPDATE t SET f = (id = 5)", "update [t] where set f"),
    ("UPDATE t AS x SET a = u.a FROM u JOIN v ON u.id = v.id WHERE x.id = u.id AND v.id = 1", "update [t x, u, v] where v.id=1 set a"),
    ("UPDATE t SET a = (SELECT max(a) FROM u) WHERE id = 5", "update [t] of [t, u] where id=5 set a nested sub-query"),
    ("UPDATE t SET a = 1 WHERE CURRENT OF c", "other WHERE CURRENT OF [t]"),
    ("DELETE FROM t USING u WHERE t.id = 1 AND u.id = 2", "delete [t, u] where t.id=1, u.id=2"),
    ("DELETE FROM ONLY t WHERE id = $1 RETURNING *", "delete [t] where id=$1"),
    ("INSERT INTO t VALUES (1, 'a', NULL), ($1, DEFAULT, now())", "insert [t] (*) (1, 'a', Null | $1, Default, Expression)"),
    ("INSERT INTO s.t AS x (id, a[1], b.c) VALUES (-1, $2::int8, '5'::bigint)", "insert [s.t x] (id, a, b) (-1, $2::int8, '5'::int8)"),
    ("INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1, id = 2 WHERE t.b = 1", "insert [t] (id) (1) set a, id"),
    ("INSERT INTO t (id) VALUES (1) ON CONFLICT DO NOTHING", "insert [t] (id) (1)"),
    ("INSERT INTO t VALUES ((SELECT 1 FROM u))", "insert [t, u] (*) (Expression)"),
    ("INSERT INTO t DEFAULT VALUES", "insert [t] () ()"),
    ("INSERT INTO t SELECT * FROM u", "other INSERT ... SELECT [t, u]"),
    ("INSERT INTO t VALUES (1), (2) LIMIT 1", "other INSERT ... SELECT [t]"),
    ("INSERT INTO t VALUES (1) UNION VALUES (2)", "other INSERT ... SELECT [t]"),
    ("MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE", "other MERGE [t, u]"),
    ("WITH t AS (SELECT 1) MERGE INTO t USING t AS x ON true WHEN MATCHED THEN DELETE", "other MERGE [t]"),
    // Around other statements.
    ("EXPLAIN SELECT * FROM t WHERE id = 1", "select [t] where id=1"),
    ("EXPLAIN ANALYZE DELETE FROM t WHERE id = 1", "delete [t] where id=1"),
    ("EXPLAIN CREATE TABLE u AS SELECT * FROM t", "other CREATE TABLE AS [u, t]"),
    ("DECLARE c CURSOR FOR SELECT * FROM t WHERE id = 1", "other DECLARE CURSOR [t]"),
    ("DECLARE c CURSOR FOR SELECT 1", "none"),
    ("PREPARE p AS SELECT * FROM t WHERE id = $1", "other PREPARE [t]"),
    ("EXECUTE p", "none"),
    ("COPY t FROM STDIN", "other COPY [t]"),
    ("COPY (SELECT * FROM t) TO STDOUT", "other COPY [t]"),
    ("CREATE TABLE t (a int REFERENCES u, LIKE v, FOREIGN KEY (a) REFERENCES w) INHERITS (x)", "other CREATE TABLE [t, x, u, v, w]"),
    ("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (2)", "other CREATE TABLE [p1, p]"),
    ("CREATE INDEX ON t (a)", "other CREATE INDEX [t]"),
    ("ALTER TABLE s.t ADD b int", "other ALTER TABLE [s.t]"),
    ("DROP TABLE a, s.b", "other DROP TABLE [a, s.b]"),
    ("DROP FUNCTION f(int)", "other DROP []"),
    ("TRUNCATE a, b", "other TRUNCATE [a, b]"),
    ("LOCK a, b", "other LOCK [a, b]"),
    ("VACUUM a, b (x)", "other VACUUM [a, b]"),
    ("ANALYZE", "other ANALYZE []"),
    ("GRANT SELECT ON a, b TO r", "other GRANT [a, b]"),
    ("GRANT USAGE ON SCHEMA s TO r", "other GRANT []"),
    ("DO 'x'", "other DO []"),
    ("CALL p((SELECT 1 FROM t))", "other CALL [t]"),
    ("CREATE EXTENSION hstore", "other CREATE EXTENSION []"),
];

#[test]
fn shapes() {
    let mut wrong = String::new();
    for (text, expected) in SHAPES {
        let shown = show(&one(text).shape);
        if shown != *expected {
            let _ = writeln!(wrong, "{text}\n   is {shown}\n  not {expected}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Runs on a stack as small as a worker's.
fn on_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work);
    thread.expect("a thread").join().expect("no panic and no overflow");
}

#[test]
fn depth_costs_no_stack() {
    on_small_stack(|| {
        const N: usize = 100_000;
        let deep = [
            format!("SELECT {}1{}", "(".repeat(N), ")".repeat(N)),
            format!("SELECT {}1", "NOT ".repeat(N)),
            format!("SELECT {}1", "- ".repeat(N)),
            format!("SELECT 1{}", " + 1".repeat(N)),
            format!("SELECT 1{}", "::int".repeat(N)),
            format!("SELECT a{}", "[1]".repeat(N)),
            format!("SELECT a{} FROM t", " IS NULL".repeat(N)),
            format!("SELECT * FROM t WHERE a = 1{}", " OR a = 1".repeat(N)),
            format!("SELECT * FROM t WHERE a = 1{}", " AND a = 1".repeat(N / 2)),
            format!("SELECT 1{}", " UNION SELECT 1".repeat(N / 2)),
            format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(N / 10), " END".repeat(N / 10)),
            format!("SELECT {}1{}", "ARRAY[".repeat(N), "]".repeat(N)),
            format!("SELECT {}1{}", "f(".repeat(N), ")".repeat(N)),
            format!("SELECT * FROM t{}", " CROSS JOIN t".repeat(N / 2)),
            format!("{}SELECT 1{}", "SELECT * FROM (".repeat(N / 10), ") x".repeat(N / 10)),
            format!("{}SELECT 1", "EXPLAIN ".repeat(N)),
            format!("WITH {}z AS (SELECT 1) SELECT 1", "a AS (SELECT 1), ".repeat(N / 2)),
            "/*".repeat(N),
            "SELECT 1;".repeat(N),
            "$a$".repeat(N + 1),
            "'".repeat(N + 1),
        ];
        for text in deep {
            let facts = facts(text.as_bytes());
            assert!(facts.unparsed.is_some() || !facts.statements.is_empty(), "{}", &text[..20]);
        }
        // Deep to the left and yet within the parser's bounds: seen to the bottom.
        let text = format!("SELECT nextval('s'){}", " + 1".repeat(N));
        assert_eq!(facts(text.as_bytes()).statements[0].why, "calls nextval()");
    });
}

#[test]
fn endless_names_give_up_as_a_write() {
    let n = 20_000;
    let names: Vec<_> = (0..n).map(|i| format!("c{i} AS (SELECT 1 FROM x)")).collect();
    let text = format!("WITH {} SELECT 1", names.join(","));
    let facts = facts(text.as_bytes());
    assert_eq!(facts.access(), Write);
    assert!(matches!(facts.statements[0].shape, ShardShape::Other { .. }));
}

#[test]
fn long_texts() {
    let literal = "x".repeat(2 << 20);
    let insert = facts(format!(" insert into t values ('{literal}')").as_bytes());
    assert!(insert.unparsed.is_none());
    assert!(matches!(&insert.statements[0].shape, ShardShape::Insert { .. }));
    let select = facts(format!("SELECT '{literal}'").as_bytes());
    assert_eq!(select.unparsed, Some(("longer than is parsed".to_owned(), None)));
    let many = facts(format!("INSERT INTO t VALUES {}(1)", "(1),".repeat(600_000)).as_bytes());
    assert_eq!(many.unparsed, Some(("more parts than are parsed".to_owned(), None)));
}

#[test]
fn long_names_are_cut_as_the_server_cuts_them() {
    let long = "é".repeat(60);
    let facts = one(&format!("SELECT * FROM {long}"));
    let ShardShape::Filtered { tables, .. } = facts.shape else { unreachable!() };
    assert_eq!(tables[0].name, "é".repeat(31));
}

fn corpus() -> Vec<&'static str> {
    ACCESS.iter().map(|c| c.1).chain(SHAPES.iter().map(|c| c.0)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let facts = facts(&bytes);
        prop_assert!(facts.unparsed.is_none() || facts.access() == Write);
    }

    #[test]
    fn no_mutation_panics(
        pick in proptest::sample::select(corpus()),
        other in proptest::sample::select(corpus()),
        at in 0.0..1.0_f64,
        from in 0.0..1.0_f64,
        glue in proptest::sample::select(vec!["", " ", "'", "\"", "(", ")", ";", ",", "$$", "/*", "*/", "--", "E'", "\\", "::", "1"]),
    ) {
        let cut = |text: &str, share: f64| (text.len() as f64 * share) as usize;
        let mut bytes = pick.as_bytes()[..cut(pick, at)].to_vec();
        bytes.extend(glue.as_bytes());
        bytes.extend(&other.as_bytes()[cut(other, from)..]);
        let facts = facts(&bytes);
        for statement in &facts.statements {
            let pins = statement.effects.iter().any(|e| matches!(e, SessionEffect::Pin(_)));
            prop_assert!(!pins || statement.access == Write);
        }
    }

    #[test]
    fn white_space_and_comments_change_nothing(pick in proptest::sample::select(corpus())) {
        let plain = facts(pick.as_bytes());
        let padded = facts(format!("/* c */ \n{pick} -- end\n ; ").as_bytes());
        prop_assert_eq!(plain.statements, padded.statements);
    }

    #[test]
    fn integers_come_out_as_they_went_in(key: i64) {
        let text = format!("SELECT * FROM t WHERE id = {key}");
        prop_assert_eq!(show(&one(&text).shape), format!("select [t] where id={key}"));
    }

    #[test]
    fn strings_come_out_as_they_went_in(key in "[^\0]{0,20}") {
        let text = format!("SELECT * FROM t WHERE id = {}", super::settings::quote_literal(&key));
        prop_assert_eq!(show(&one(&text).shape), format!("select [t] where id='{key}'"));
    }

    #[test]
    fn names_come_out_as_they_went_in(name in "[^\0]{1,12}") {
        let text = format!("DEALLOCATE {}", super::settings::quote_identifier(&name));
        if name.bytes().all(|c| c.is_ascii_lowercase()) {
            return Ok(()); // may be a keyword
        }
        prop_assert_eq!(one(&text).effects, vec![SessionEffect::Deallocate { name }]);
    }
}

#[test]
fn functions_and_what_changes_the_catalog() {
    let functions = |text: &str| {
        let facts = one(text);
        let names: Vec<_> =
            facts.functions.iter().map(|f| format!("{}{}", f.name, if f.runs_text { "!" } else { "" })).collect();
        (names.join(" "), facts.own_access, facts.access)
    };
    use Access::{Read, Write};
    assert_eq!(functions("SELECT lower('A'), count(*)"), (String::new(), Read, Read));
    assert_eq!(functions("SELECT f(g(1)), s.f(1), f(2)"), ("f g f".into(), Read, Write));
    assert_eq!(functions("SELECT f(1), nextval('s')"), ("f".into(), Write, Write));
    assert_eq!(functions("SELECT f(1) FOR UPDATE"), ("f".into(), Write, Write));
    assert_eq!(functions("INSERT INTO t VALUES (f(1))"), ("f".into(), Write, Write));
    assert_eq!(functions("SELECT query_to_xml('', true, true, '')"), ("query_to_xml!".into(), Write, Write));
    assert_eq!(functions("SELECT table_to_xml('t', true, true, '')"), ("table_to_xml!".into(), Read, Read));
    assert_eq!(functions("PREPARE p AS SELECT f(1)").0, "f");
    assert_eq!(functions("COPY (SELECT f(1)) TO STDOUT"), ("f".into(), Read, Write));
    for text in [
        "CREATE VIEW v AS SELECT 1",
        "DROP TABLE t",
        "ALTER TABLE t RENAME TO u",
        "DO 'x'",
        "CALL p()",
        "SELECT 1 INTO t",
        "CREATE TABLE t AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS '1'",
    ] {
        assert!(one(text).changes_catalog, "{text}");
    }
    for text in [
        "SELECT 1",
        "INSERT INTO t VALUES (1)",
        "TRUNCATE t",
        "VACUUM t",
        "CREATE TEMP TABLE t (a int)",
        "SET a.b = 1",
        "BEGIN",
        "SELECT 1 INTO TEMP t",
    ] {
        assert!(!one(text).changes_catalog, "{text}");
    }
}
