//! The kinds of state of the matrix: what makes each, what shows it, and what ends it.
//!
//! A statement is SQL, sent by the protocol of the cell, or begins with `@`: see [`Step`].

/// What is in the database of every session.
pub(crate) const WORLD: &str = "
    CREATE SCHEMA s1; GRANT USAGE ON SCHEMA s1 TO PUBLIC;
    CREATE TABLE place AS SELECT 'public'::text AS v; CREATE TABLE s1.place AS SELECT 's1'::text AS v;
    CREATE TABLE shade AS SELECT 'public'::text AS v;
    GRANT SELECT ON place, s1.place, shade TO PUBLIC;
    CREATE SEQUENCE seq; CREATE TABLE items (id serial, v text);
    SELECT lo_from_bytea(4242, 'abcdef');
    SELECT setseed(0.5); CREATE TABLE seeded AS SELECT random() AS v FROM generate_series(1, 50);
    CREATE FUNCTION sets(text) RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('app.tenant', $1, false); END$$;
    CREATE FUNCTION sets_and_raises() RETURNS void LANGUAGE plpgsql AS
        $$BEGIN PERFORM set_config('app.tenant', 'undone', false); RAISE EXCEPTION 'no'; END$$;
    CREATE FUNCTION makes_temp() RETURNS void LANGUAGE plpgsql AS $$BEGIN CREATE TEMP TABLE shade AS SELECT 'temp'::text AS v; END$$;
    CREATE FUNCTION makes_and_drops() RETURNS void LANGUAGE plpgsql AS
        $$BEGIN CREATE TEMP TABLE gone (i int); DROP TABLE gone; END$$;
    CREATE FUNCTION locks(int) RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_lock($1); END$$;
    CREATE FUNCTION locks_and_unlocks(int) RETURNS void LANGUAGE plpgsql AS
        $$BEGIN PERFORM pg_advisory_lock($1); PERFORM pg_advisory_unlock($1); END$$;
    CREATE FUNCTION listens() RETURNS void LANGUAGE plpgsql AS $$BEGIN LISTEN news; END$$;
    CREATE FUNCTION seeds() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM setseed(0.5); END$$;
    CREATE FUNCTION seeds_aside() RETURNS int LANGUAGE sql SET seed = 0.5 AS 'SELECT 1';
    CREATE FUNCTION unlocks(int) RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_unlock($1); END$$;
    CREATE PROCEDURE sets_by_call() LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('app.tenant', 'called', false); END$$;
    CREATE PROCEDURE commits_between() LANGUAGE plpgsql AS
        $$BEGIN PERFORM set_config('app.tenant', 'first', false); COMMIT; PERFORM set_config('app.tenant', 'second', false); ROLLBACK; END$$;
    CREATE FUNCTION sets_trigger() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM set_config('app.tenant', 'triggered', false); RETURN new; END$$;
    CREATE TABLE watched (v int); CREATE TRIGGER watch BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION sets_trigger()";

/// A kind of state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// What a failure is told by.
    pub(crate) name: &'static str,
    /// By itself, before anything else.
    pub(crate) before: &'static [&'static str],
    pub(crate) make: &'static [&'static str],
    pub(crate) look: &'static [&'static str],
    /// What another client asks, where that is not the same.
    pub(crate) others: &'static [&'static str],
    pub(crate) end: &'static [&'static str],
    /// No server tells whether it is over: it may be kept until its client leaves.
    pub(crate) stays: bool,
    /// Behind the transaction the answer to a look may be that nobody knows (55000): see README, "What is not there yet".
    pub(crate) may_be_unknown: bool,
}

const PLAIN: Kind =
    Kind { name: "", before: &[], make: &[], look: &[], others: &[], end: &[], stays: false, may_be_unknown: false };

const TENANT: &[&str] = &["SELECT coalesce(current_setting('app.tenant', true), '')"];
const WORK_MEM: &[&str] = &["SHOW work_mem", "SELECT current_setting('work_mem')"];
const WHO: &[&str] = &["SELECT current_user, session_user", "SHOW role", "SHOW is_superuser"];
const PLACE: &[&str] = &["SHOW search_path", "SELECT v FROM place", "SELECT current_schema()"];
const SHADE: &[&str] = &["SELECT v FROM shade", "SELECT to_regclass('pg_temp.shade') IS NULL"];
const SEEN_LOCKS: &[&str] =
    &["SELECT mode, granted FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1"];
const HELD: &[&str] = &["SELECT name, statement FROM pg_cursors WHERE is_holdable"];
const PREPARED: &[&str] = &["SELECT name, statement FROM pg_prepared_statements WHERE from_sql"];
const HEARD: &[&str] = &["SELECT * FROM pg_listening_channels()"];
const SEEDED: &[&str] = &["SELECT EXISTS (SELECT FROM seeded, (SELECT random() AS r OFFSET 0) AS one WHERE r = v)"];
/// How many snapshots the session has exported: each is a file that bears the number of its process.
const EXPORTED: &[&str] = &["SELECT count(*) FROM pg_ls_dir('pg_snapshots') AS file, pg_locks AS own \
    WHERE own.locktype = 'virtualxid' AND own.pid = pg_backend_pid() \
    AND file LIKE lpad(upper(to_hex(split_part(own.virtualxid, '/', 1)::int)), 8, '0') || '-%'"];
const ZONE: &[&str] = &["SHOW TimeZone", "SELECT '2024-01-01 12:00+00'::timestamptz"];

/// `{n}` is a number of the run's own.
pub(crate) const KINDS: &[Kind] = &[
    // Settings.
    Kind { name: "SET", make: &["SET work_mem = '7MB'"], look: WORK_MEM, end: &["RESET work_mem"], ..PLAIN },
    Kind {
        name: "SET twice",
        make: &["SET work_mem = '7MB'", "SET SESSION work_mem TO '8MB'"],
        look: WORK_MEM,
        ..PLAIN
    },
    Kind {
        name: "SET TO DEFAULT",
        before: &["SET work_mem = '7MB'"],
        make: &["SET work_mem TO DEFAULT"],
        look: WORK_MEM,
        ..PLAIN
    },
    Kind { name: "RESET", before: &["SET work_mem = '7MB'"], make: &["RESET work_mem"], look: WORK_MEM, ..PLAIN },
    Kind {
        name: "RESET ALL",
        before: &["SET work_mem = '7MB'", "SET app.tenant = 'before'", "SET TimeZone = 'Asia/Tokyo'"],
        make: &["RESET ALL"],
        look: &["SHOW work_mem", "SHOW TimeZone", TENANT[0]],
        ..PLAIN
    },
    Kind { name: "SET LOCAL", make: &["SET LOCAL work_mem = '7MB'"], look: WORK_MEM, ..PLAIN },
    Kind {
        name: "SET LOCAL over SET",
        before: &["SET work_mem = '6MB'"],
        make: &["SET LOCAL work_mem = '7MB'", "SET work_mem = '8MB'", "SET LOCAL work_mem = '9MB'"],
        look: WORK_MEM,
        ..PLAIN
    },
    Kind {
        name: "set_config",
        make: &["SELECT set_config('app.tenant', 'one', false)"],
        look: TENANT,
        end: &["RESET app.tenant"],
        ..PLAIN
    },
    Kind { name: "set_config local", make: &["SELECT set_config('app.tenant', 'one', true)"], look: TENANT, ..PLAIN },
    Kind {
        name: "set_config of an expression",
        make: &["SELECT set_config('app.tenant', 'of ' || v, false) FROM place"],
        look: TENANT,
        ..PLAIN
    },
    Kind {
        name: "custom setting",
        make: &["SET app.tenant = 'one''s'", "SET app.other TO 1, 2"],
        look: &[TENANT[0], "SHOW app.other"],
        others: TENANT,
        ..PLAIN
    },
    Kind {
        name: "UPDATE pg_settings",
        make: &["UPDATE pg_settings SET setting = '5000' WHERE name = 'work_mem'"],
        look: WORK_MEM,
        stays: true,
        ..PLAIN
    },
    Kind { name: "SET ROLE", make: &["SET ROLE worker"], look: WHO, end: &["RESET ROLE"], ..PLAIN },
    Kind { name: "SET ROLE NONE", before: &["SET ROLE worker"], make: &["SET ROLE NONE"], look: WHO, ..PLAIN },
    Kind { name: "SET LOCAL ROLE", make: &["SET LOCAL ROLE worker"], look: WHO, ..PLAIN },
    Kind {
        name: "SESSION AUTHORIZATION",
        make: &["SET SESSION AUTHORIZATION worker"],
        look: WHO,
        end: &["RESET SESSION AUTHORIZATION"],
        ..PLAIN
    },
    Kind {
        name: "SESSION AUTHORIZATION and ROLE",
        make: &["SET SESSION AUTHORIZATION worker", "SET ROLE member"],
        look: WHO,
        end: &["RESET ROLE", "SET SESSION AUTHORIZATION DEFAULT"],
        ..PLAIN
    },
    Kind {
        name: "SESSION CHARACTERISTICS",
        make: &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"],
        look: &["SHOW default_transaction_read_only", "SHOW transaction_read_only", "SHOW transaction_isolation"],
        end: &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"],
        ..PLAIN
    },
    Kind {
        name: "SET TRANSACTION",
        make: &["SET TRANSACTION READ ONLY"],
        look: &["SHOW transaction_read_only", "SHOW default_transaction_read_only"],
        ..PLAIN
    },
    Kind {
        name: "search_path",
        make: &["SET search_path = s1, public"],
        look: PLACE,
        end: &["RESET search_path"],
        ..PLAIN
    },
    Kind { name: "search_path local", make: &["SELECT set_config('search_path', 's1', true)"], look: PLACE, ..PLAIN },
    Kind { name: "search_path with pg_temp behind", make: &["SET search_path = s1, pg_temp"], look: PLACE, ..PLAIN },
    Kind { name: "SET SCHEMA", make: &["SET SCHEMA 's1'"], look: PLACE, ..PLAIN },
    Kind {
        name: "reported TimeZone",
        make: &["SET TimeZone = 'Asia/Tokyo'"],
        look: ZONE,
        end: &["RESET TimeZone"],
        ..PLAIN
    },
    Kind { name: "SET TIME ZONE", make: &["SET TIME ZONE -5"], look: ZONE, end: &["SET TIME ZONE LOCAL"], ..PLAIN },
    Kind {
        name: "SET TIME ZONE INTERVAL",
        make: &["SET TIME ZONE INTERVAL '+02:30' HOUR TO MINUTE"],
        look: ZONE,
        ..PLAIN
    },
    Kind {
        name: "reported DateStyle",
        make: &["SET DateStyle = 'German'"],
        look: &["SHOW DateStyle", "SELECT '2024-12-31'::date"],
        ..PLAIN
    },
    Kind {
        name: "reported local",
        make: &["SET LOCAL TimeZone = 'Asia/Tokyo'", "SET LOCAL DateStyle = 'SQL, DMY'"],
        look: ZONE,
        ..PLAIN
    },
    Kind {
        name: "reported application_name",
        make: &["SET application_name = 'matrix'"],
        look: &["SELECT current_setting('application_name') = 'matrix'"],
        ..PLAIN
    },
    Kind {
        name: "SET NAMES",
        make: &["SET NAMES 'LATIN1'"],
        look: &["SHOW client_encoding"],
        end: &["RESET client_encoding"],
        ..PLAIN
    },
    Kind {
        name: "timeouts",
        make: &["SET statement_timeout = '50s'", "SET lock_timeout = '40s'"],
        look: &["SHOW statement_timeout", "SHOW lock_timeout"],
        ..PLAIN
    },
    Kind { name: "a SET that fails", make: &["SET work_mem = 'nonsense'"], look: WORK_MEM, ..PLAIN },
    Kind {
        name: "DISCARD ALL",
        before: &["SET work_mem = '7MB'", "CREATE TEMP TABLE shade AS SELECT 'temp'::text AS v", "LISTEN news"],
        make: &["DISCARD ALL"],
        look: &["SHOW work_mem", SHADE[0], HEARD[0]],
        ..PLAIN
    },
    // Statements.
    Kind {
        name: "PREPARE",
        make: &["PREPARE p AS SELECT 41 + 1"],
        look: PREPARED,
        end: &["EXECUTE p", "DEALLOCATE p"],
        ..PLAIN
    },
    Kind {
        name: "DEALLOCATE",
        before: &["PREPARE p AS SELECT 41 + 1"],
        make: &["EXECUTE p", "DEALLOCATE p"],
        look: PREPARED,
        ..PLAIN
    },
    Kind {
        name: "PREPARE that sets",
        before: &["PREPARE p AS SELECT set_config('app.tenant', 'executed', false)"],
        make: &["EXECUTE p"],
        look: TENANT,
        end: &["DEALLOCATE ALL"],
        stays: true,
        ..PLAIN
    },
    Kind {
        name: "prepared by the protocol",
        make: &["@parse p SELECT 41 + 1"],
        look: &["SELECT 'nothing'"],
        end: &["@run p", "@close p"],
        ..PLAIN
    },
    Kind {
        name: "prepared by the protocol, deallocated",
        before: &["@parse p SELECT 41 + 1"],
        make: &["@run p", "DEALLOCATE p"],
        look: &["SELECT 'nothing'"],
        end: &["@run p"],
        ..PLAIN
    },
    Kind {
        name: "statements of both kinds",
        before: &["@parse one SELECT 1", "@parse three SELECT 3"],
        make: &["PREPARE two AS SELECT 2"],
        look: &[
            "SELECT name, statement, parameter_types, from_sql FROM pg_prepared_statements WHERE name <> '' ORDER BY 1",
            "SELECT count(*) FROM pg_catalog.pg_prepared_statements p WHERE p.name <> ''",
        ],
        end: &["@run one", "DEALLOCATE ALL", "@run three"],
        ..PLAIN
    },
    // Notifications.
    Kind {
        name: "LISTEN",
        make: &["LISTEN news"],
        look: &[HEARD[0], "NOTIFY news, 'mine'"],
        others: HEARD,
        end: &["UNLISTEN news"],
        ..PLAIN
    },
    Kind {
        name: "UNLISTEN",
        before: &["LISTEN news", "LISTEN more"],
        make: &["UNLISTEN news"],
        look: &["SELECT * FROM pg_listening_channels() ORDER BY 1", "NOTIFY news, 'mine'"],
        others: HEARD,
        end: &["UNLISTEN *"],
        ..PLAIN
    },
    Kind {
        name: "UNLISTEN *",
        before: &["LISTEN news"],
        make: &["UNLISTEN *"],
        look: &[HEARD[0], "NOTIFY news, 'mine'"],
        others: HEARD,
        ..PLAIN
    },
    Kind { name: "NOTIFY", before: &["LISTEN news"], make: &["NOTIFY news, 'made'"], look: HEARD, ..PLAIN },
    Kind {
        name: "pg_notify",
        before: &["LISTEN news"],
        make: &["SELECT pg_notify('news', 'made')"],
        look: HEARD,
        ..PLAIN
    },
    // Temporary objects.
    Kind {
        name: "temporary table",
        make: &["CREATE TEMP TABLE shade AS SELECT 'temp'::text AS v"],
        look: SHADE,
        end: &["DROP TABLE IF EXISTS pg_temp.shade"],
        ..PLAIN
    },
    Kind {
        name: "temporary table, dropped",
        before: &["CREATE TEMP TABLE shade AS SELECT 'temp'::text AS v"],
        make: &["DROP TABLE pg_temp.shade"],
        look: SHADE,
        end: &["DISCARD TEMP"],
        ..PLAIN
    },
    Kind {
        name: "temporary table ON COMMIT DROP",
        make: &["CREATE TEMP TABLE shade ON COMMIT DROP AS SELECT 'temp'::text AS v"],
        look: SHADE,
        ..PLAIN
    },
    Kind {
        name: "temporary table ON COMMIT DELETE ROWS",
        make: &["CREATE TEMP TABLE shade ON COMMIT DELETE ROWS AS SELECT 'temp'::text AS v"],
        look: &[SHADE[1], "SELECT count(*) FROM shade"],
        end: &["DISCARD ALL"],
        ..PLAIN
    },
    Kind {
        name: "temporary view",
        make: &["CREATE TEMP VIEW shade AS SELECT 'temp'::text AS v"],
        look: SHADE,
        end: &["DROP VIEW IF EXISTS pg_temp.shade"],
        ..PLAIN
    },
    Kind {
        name: "temporary sequence",
        make: &["CREATE TEMP SEQUENCE seq"],
        look: &["SELECT to_regclass('pg_temp.seq') IS NULL"],
        end: &["DROP SEQUENCE IF EXISTS pg_temp.seq"],
        ..PLAIN
    },
    Kind {
        name: "SELECT INTO TEMP",
        make: &["SELECT 'temp'::text AS v INTO TEMP shade"],
        look: SHADE,
        end: &["DISCARD TEMP"],
        ..PLAIN
    },
    Kind {
        name: "temporary by search_path",
        make: &[
            "SET LOCAL search_path = pg_temp, public",
            "CREATE TABLE IF NOT EXISTS shade AS SELECT 'temp'::text AS v",
        ],
        look: SHADE,
        end: &["DISCARD TEMP"],
        ..PLAIN
    },
    Kind {
        name: "temporary function",
        make: &["CREATE FUNCTION pg_temp.own() RETURNS int LANGUAGE sql AS 'SELECT 5'"],
        look: &["SELECT count(*) FROM pg_proc WHERE proname = 'own' AND pronamespace = pg_my_temp_schema()"],
        end: &["DROP FUNCTION IF EXISTS pg_temp.own()"],
        ..PLAIN
    },
    // Cursors.
    Kind {
        name: "cursor WITH HOLD",
        make: &["DECLARE c CURSOR WITH HOLD FOR SELECT 7"],
        look: HELD,
        end: &["FETCH ALL FROM c", "CLOSE c"],
        ..PLAIN
    },
    Kind {
        name: "cursor WITH HOLD, closed by the protocol",
        make: &["DECLARE c CURSOR WITH HOLD FOR SELECT 7"],
        look: HELD,
        end: &["@close-portal c"],
        ..PLAIN
    },
    Kind {
        name: "cursor WITH HOLD, closed",
        before: &["DECLARE c CURSOR WITH HOLD FOR SELECT 7"],
        make: &["FETCH c", "CLOSE c"],
        look: HELD,
        end: &["CLOSE ALL"],
        ..PLAIN
    },
    Kind {
        name: "cursor",
        make: &["DECLARE c CURSOR FOR SELECT 7"],
        look: &["SELECT name FROM pg_cursors WHERE name = 'c'"],
        ..PLAIN
    },
    // Advisory locks.
    Kind {
        name: "advisory lock",
        make: &["SELECT pg_advisory_lock({n})"],
        look: SEEN_LOCKS,
        end: &["SELECT pg_advisory_unlock({n})"],
        ..PLAIN
    },
    Kind {
        name: "advisory lock, shared",
        make: &["SELECT pg_advisory_lock_shared({n})"],
        look: SEEN_LOCKS,
        end: &["SELECT pg_advisory_unlock_shared({n})"],
        ..PLAIN
    },
    Kind {
        name: "advisory lock, twice",
        make: &["SELECT pg_advisory_lock(1, {n})", "SELECT pg_advisory_lock(1, {n})"],
        look: SEEN_LOCKS,
        end: &["SELECT pg_advisory_unlock(1, {n})", "SELECT pg_advisory_unlock(1, {n})"],
        ..PLAIN
    },
    Kind {
        name: "advisory lock, tried",
        make: &["SELECT pg_try_advisory_lock({n})"],
        look: SEEN_LOCKS,
        end: &["SELECT pg_advisory_unlock_all()"],
        ..PLAIN
    },
    Kind {
        name: "advisory lock, tried in vain",
        make: &["SELECT pg_try_advisory_lock(0)", "SELECT pg_try_advisory_lock_shared(0)"],
        look: SEEN_LOCKS,
        ..PLAIN
    },
    Kind {
        name: "advisory lock, given back",
        before: &["SELECT pg_advisory_lock({n})"],
        make: &["SELECT pg_advisory_unlock({n})"],
        look: SEEN_LOCKS,
        ..PLAIN
    },
    Kind {
        name: "advisory lock of the transaction",
        make: &["SELECT pg_advisory_xact_lock({n})"],
        look: SEEN_LOCKS,
        ..PLAIN
    },
    Kind {
        name: "advisory lock of a statement that fails",
        make: &["SELECT pg_advisory_lock({n}), 1 / (length(v) - length(v)) FROM place"],
        look: SEEN_LOCKS,
        end: &["SELECT pg_advisory_unlock({n})"],
        ..PLAIN
    },
    Kind {
        name: "advisory lock of a prepared statement",
        before: &["PREPARE p AS SELECT pg_advisory_lock({n})"],
        make: &["EXECUTE p", "DEALLOCATE p"],
        look: SEEN_LOCKS,
        end: &["SELECT pg_advisory_unlock({n})", "DEALLOCATE ALL"],
        ..PLAIN
    },
    // Between PREPARE and EXECUTE the server is asked for what is not there yet.
    Kind {
        name: "advisory lock of a statement prepared long ago",
        before: &["PREPARE p AS SELECT pg_advisory_lock({n})", "SELECT 'one'", "SELECT 'two'"],
        make: &["EXECUTE p", "DEALLOCATE p"],
        look: SEEN_LOCKS,
        end: &["SELECT pg_advisory_unlock({n})", "DEALLOCATE ALL"],
        ..PLAIN
    },
    Kind {
        name: "temporary table of a statement prepared long ago",
        before: &["PREPARE p AS SELECT makes_temp()", "SELECT 'one'", "SELECT 'two'"],
        make: &["EXECUTE p", "DEALLOCATE p"],
        look: SHADE,
        end: &["DROP TABLE IF EXISTS pg_temp.shade", "DEALLOCATE ALL"],
        ..PLAIN
    },
    Kind {
        name: "setting of a statement prepared long ago",
        before: &["BEGIN", "PREPARE p AS SELECT sets('one')", "ROLLBACK", "SELECT 'two'"],
        make: &["EXECUTE p", "DEALLOCATE p"],
        look: TENANT,
        end: &["DEALLOCATE ALL"],
        stays: true,
        ..PLAIN
    },
    // What no reset ends.
    Kind {
        name: "LOAD",
        make: &["LOAD 'auto_explain'"],
        look: &["SELECT count(*) FROM pg_settings WHERE name = 'auto_explain.log_timing'"],
        stays: true,
        ..PLAIN
    },
    Kind { name: "setseed", make: &["SELECT setseed(0.5)"], look: SEEDED, stays: true, ..PLAIN },
    Kind { name: "SET seed", make: &["SET seed = 0.5"], look: SEEDED, stays: true, ..PLAIN },
    // Sequences.
    Kind {
        name: "currval",
        before: &["DISCARD SEQUENCES"],
        make: &["SELECT nextval('seq') > 0"],
        look: &["SELECT currval('seq') > 0", "SELECT lastval() > 0"],
        may_be_unknown: true,
        ..PLAIN
    },
    Kind {
        name: "lastval",
        before: &["DISCARD SEQUENCES"],
        make: &["INSERT INTO items (v) VALUES ('x')"],
        look: &["SELECT lastval() > 0"],
        may_be_unknown: true,
        ..PLAIN
    },
    // Handles.
    Kind { name: "large object", make: &["SELECT lo_open(4242, 262144)"], look: &["SELECT loread(0, 2)"], ..PLAIN },
    Kind { name: "exported snapshot", make: &["SELECT pg_export_snapshot() <> ''"], look: EXPORTED, ..PLAIN },
    // What SQL does not show.
    Kind { name: "function that sets", make: &["SELECT sets('one')"], look: TENANT, stays: true, ..PLAIN },
    Kind { name: "function that sets and fails", make: &["SELECT sets_and_raises()"], look: TENANT, ..PLAIN },
    Kind {
        name: "function that makes a temporary table",
        make: &["SELECT makes_temp()"],
        look: SHADE,
        end: &["DROP TABLE IF EXISTS pg_temp.shade"],
        ..PLAIN
    },
    Kind { name: "function that makes and drops one", make: &["SELECT makes_and_drops()"], look: SHADE, ..PLAIN },
    Kind {
        name: "function that locks",
        make: &["SELECT locks({n})"],
        look: SEEN_LOCKS,
        end: &["SELECT pg_advisory_unlock({n})"],
        ..PLAIN
    },
    Kind {
        name: "function that locks and unlocks",
        make: &["SELECT locks_and_unlocks({n})"],
        look: SEEN_LOCKS,
        ..PLAIN
    },
    Kind {
        name: "function that listens",
        make: &["SELECT listens()"],
        look: &["SELECT count(*) FROM pg_listening_channels()"],
        end: &["UNLISTEN *"],
        ..PLAIN
    },
    Kind { name: "function that seeds", make: &["SELECT seeds()"], look: SEEDED, stays: true, ..PLAIN },
    Kind { name: "function whose clause seeds", make: &["SELECT seeds_aside()"], look: SEEDED, stays: true, ..PLAIN },
    Kind {
        name: "function that unlocks",
        make: &["SELECT pg_advisory_lock({n})"],
        look: SEEN_LOCKS,
        end: &["SELECT unlocks({n})"],
        ..PLAIN
    },
    Kind {
        name: "DO that sets",
        make: &["DO $$BEGIN PERFORM set_config('app.tenant', 'done', false); END$$"],
        look: TENANT,
        stays: true,
        ..PLAIN
    },
    Kind {
        name: "DO that locks and unlocks",
        make: &["DO $$BEGIN PERFORM pg_advisory_lock({n}); PERFORM pg_advisory_unlock({n}); END$$"],
        look: SEEN_LOCKS,
        ..PLAIN
    },
    Kind {
        name: "DO that makes and drops",
        make: &["DO $$BEGIN CREATE TEMP TABLE gone (i int); DROP TABLE gone; END$$"],
        look: SHADE,
        ..PLAIN
    },
    Kind { name: "CALL that sets", make: &["CALL sets_by_call()"], look: TENANT, stays: true, ..PLAIN },
    Kind { name: "CALL that commits between", make: &["CALL commits_between()"], look: TENANT, stays: true, ..PLAIN },
    Kind { name: "trigger that sets", make: &["INSERT INTO watched VALUES (1)"], look: TENANT, stays: true, ..PLAIN },
];

/// What a client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A text, by the protocol of the cell.
    Sql(String),
    /// `@parse NAME SQL`: Parse under a name.
    Parse(String, String),
    /// `@run NAME`: Bind and Execute of it.
    Run(String),
    /// `@close NAME`.
    Close(String),
    /// `@close-portal NAME`: the protocol's Close of a cursor.
    ClosePortal(String),
}

impl Step {
    /// Reads a statement of the table; `run` takes the place of `{n}`.
    pub(crate) fn of(text: &str, run: usize) -> Self {
        let text = text.replace("{n}", &run.to_string());
        let Some(rest) = text.strip_prefix('@') else { return Self::Sql(text) };
        let mut words = rest.splitn(3, ' ').map(str::to_owned);
        match (words.next().as_deref(), words.next(), words.next()) {
            (Some("parse"), Some(name), Some(sql)) => Self::Parse(name, sql),
            (Some("run"), Some(name), None) => Self::Run(name),
            (Some("close"), Some(name), None) => Self::Close(name),
            (Some("close-portal"), Some(name), None) => Self::ClosePortal(name),
            _ => panic!("no step: {text}"),
        }
    }
}
