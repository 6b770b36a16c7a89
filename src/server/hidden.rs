//! Asking a server's catalog for all code that its statements may run: see [`crate::sql::hidden`].
//!
//! On a connection of its own, as [`crate::server::catalog`]; rights to the tables are not needed, everybody may read the catalog.

use crate::error::{Error, SqlState};
use crate::id::WorkerId;
use crate::server::catalog::literal;
use crate::server::login::{self, LoginSettings};
use crate::server::shadows::FIRST_OWN;
use crate::server::{Connection, Target};
use crate::sql::hidden::{Row, Runner, TAKES_VALUES, Traces, Volatility};
use crate::sql::settings::names_temp;

/// Asks the server.
///
/// # Errors
/// Those of the login, of the server, and no answer within the time of a login.
pub async fn ask(target: &Target, settings: &LoginSettings, worker: WorkerId) -> Result<Vec<Row>, Error> {
    let broken = |why: &dyn std::fmt::Display| {
        let address = target.address();
        Error::server(SqlState::CONNECTION_FAILURE, format!("server {address} did not tell its functions: {why}"))
    };
    let mut target = target.clone();
    target.parameters.retain(|(name, _)| name != "application_name");
    target.parameters.push(("application_name".to_owned(), "pgweir census".to_owned()));
    let mut connection = login::login(&target, settings, worker).await?;
    match tokio::time::timeout(settings.timeout, exchange(&mut connection)).await {
        Ok(Ok(Ok(rows))) => {
            let given = connection.state.settings.given("search_path").is_some_and(names_temp);
            let given = given.then_some(Row::TempInPath);
            Ok(rows.iter().filter_map(|row| take(row)).chain(given).collect())
        }
        Ok(Ok(Err(error))) => Err(broken(&error.message)),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(broken(&format_args!("no answer within {} s", settings.timeout.as_secs_f64()))),
    }
}

/// Which of these processes are still there.
///
/// # Errors
/// As for [`ask`].
pub async fn there(
    target: &Target,
    settings: &LoginSettings,
    worker: WorkerId,
    pids: &[u32],
) -> Result<Vec<u32>, Error> {
    let broken = |why: &dyn std::fmt::Display| {
        Error::server(
            SqlState::CONNECTION_FAILURE,
            format!("server {} did not tell its processes: {why}", target.address()),
        )
    };
    let mut connection = login::login(target, settings, worker).await?;
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let question = format!(
        "SELECT pid FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.int4[])",
        pids.join(",")
    );
    match tokio::time::timeout(settings.timeout, connection.rows(&question)).await {
        Ok(Ok(Ok(rows))) => Ok(rows.iter().filter_map(|row| row.first()?.as_deref()?.parse().ok()).collect()),
        Ok(Ok(Err(error))) => Err(broken(&error.message)),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(broken(&"no answer")),
    }
}

/// Cells, as text.
type Cells = Vec<Option<String>>;

async fn exchange(connection: &mut Connection) -> std::io::Result<Result<Vec<Cells>, Error>> {
    // Names and operators in the question are PostgreSQL's own, whatever a role's search_path is.
    let prepare =
        "SET client_encoding = 'UTF8'; SET search_path = pg_catalog; SET statement_timeout = 0; SET jit = off";
    if let Err(error) = connection.run(prepare).await? {
        return Ok(Err(error));
    }
    connection.rows(&query()).await
}

/// A row of the answer; what is not understood says nothing, and the question asks for no such thing.
fn take(row: &[Option<String>]) -> Option<Row> {
    let cell = |n: usize| row.get(n).and_then(Option::clone).unwrap_or_default();
    let (owner, other) = (cell(1), cell(2));
    Some(match cell(0).as_str() {
        "function" => {
            let volatility = match cell(3).as_str() {
                "i" => Volatility::Immutable,
                "s" => Volatility::Stable,
                _ => Volatility::Volatile,
            };
            Row::Function { name: owner, language: other, volatility, text: cell(4), extension: cell(5) }
        }
        "cascade" => Row::Cascades(owner, other),
        "runs f" => Row::Runs(Runner::Function(owner), other),
        "runs r" => Row::Runs(Runner::Read(owner), other),
        "runs w" => Row::Runs(Runner::Write(owner), other),
        "runs o" => Row::Runs(Runner::Operator(owner), other),
        "runs a" => Row::Runs(Runner::Anybody, other),
        "runs d" => Row::Runs(Runner::Ddl, other),
        "reaches f" => Row::Reaches(Runner::Function(owner), other),
        "reaches r" => Row::Reaches(Runner::Read(owner), other),
        "reaches w" => Row::Reaches(Runner::Write(owner), other),
        "field" => Row::Field(owner),
        "runs t" | "casts" => Row::Casts(row.get(1).and_then(Option::clone), other),
        "has" => Row::Has(owner, other),
        "makes" => Row::Makes(owner, other),
        "temporary" => Row::TempInPath,
        "language" => Row::Language,
        _ => return None,
    })
}

/// All code of the database's that is not PostgreSQL's own, and who runs it.
///
/// What expressions of the catalog call is read from their trees, where functions and relations stand by number. (Names and strings in
/// it are written such that they cannot be taken for that.)
/// See <https://www.postgresql.org/docs/current/catalogs.html>.
fn query() -> String {
    let stateful: Vec<String> = Traces::stateful_builtins().map(literal).collect();
    let stateful = stateful.join(", ");
    format!(
        "WITH known (oid, name) AS MATERIALIZED ( \
           SELECT oid, proname::text FROM pg_proc \
             WHERE oid >= {FIRST_OWN} OR proname::text IN ({stateful})), \
         tree (kind, owner, code) AS ( \
           SELECT 'w', c.relname::text, d.adbin::text \
             FROM pg_attrdef AS d JOIN pg_class AS c ON c.oid = d.adrelid \
           UNION ALL SELECT CASE WHEN k.contypid = 0 THEN 'w' ELSE 'a' END, c.relname::text, k.conbin::text \
             FROM pg_constraint AS k LEFT JOIN pg_class AS c ON c.oid = k.conrelid \
             WHERE k.conbin IS NOT NULL AND k.oid >= {FIRST_OWN} \
           UNION ALL SELECT 't', y.typname::text, k.conbin::text \
             FROM pg_constraint AS k JOIN pg_type AS y ON y.oid = k.contypid \
             WHERE k.conbin IS NOT NULL AND k.oid >= {FIRST_OWN} \
           UNION ALL SELECT 'a', NULL, typdefaultbin::text FROM pg_type \
             WHERE typdefaultbin IS NOT NULL AND oid >= {FIRST_OWN} \
           UNION ALL SELECT 'w', c.relname::text, concat(i.indexprs::text, i.indpred::text) \
             FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid \
             WHERE (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND c.oid >= {FIRST_OWN} \
           UNION ALL SELECT 'w', c.relname::text, p.partexprs::text \
             FROM pg_partitioned_table AS p JOIN pg_class AS c ON c.oid = p.partrelid WHERE p.partexprs IS NOT NULL \
           UNION ALL SELECT 'w', c.relname::text, t.tgqual::text \
             FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid WHERE t.tgqual IS NOT NULL \
           UNION ALL SELECT CASE WHEN r.ev_type = '1' THEN 'r' ELSE 'w' END, c.relname::text, \
               concat(r.ev_qual::text, r.ev_action::text) \
             FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class WHERE c.oid >= {FIRST_OWN} \
           UNION ALL SELECT 'r', c.relname::text, concat(p.polqual::text, p.polwithcheck::text) \
             FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid \
           UNION ALL SELECT 'f', p.proname::text, concat(p.proargdefaults::text, to_jsonb(p) ->> 'prosqlbody') \
             FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang \
             WHERE p.oid >= {FIRST_OWN} AND (p.proargdefaults IS NOT NULL OR (p.prosrc = '' AND l.lanname = 'sql'))), \
         part (kind, owner, what, oid) AS MATERIALIZED ( \
           SELECT DISTINCT t.kind, t.owner, m.found[1], m.found[2]::oid FROM tree AS t CROSS JOIN LATERAL \
             regexp_matches(t.code, ' :(funcid|opfuncid|aggfnoid|winfnoid|relid|resulttype) ([0-9]+)', 'g') AS m (found)), \
         typed (oid) AS ( \
           SELECT castfunc FROM pg_cast \
           UNION SELECT unnest(ARRAY[typinput::oid, typoutput, typreceive, typsend, typmodin, typmodout, typanalyze]) \
             FROM pg_type \
           UNION SELECT amproc::oid FROM pg_amproc \
           UNION SELECT unnest(ARRAY[rngcanonical::oid, rngsubdiff]) FROM pg_range \
           UNION SELECT unnest(ARRAY[oprrest::oid, oprjoin]) FROM pg_operator \
           UNION SELECT conproc::oid FROM pg_conversion \
           UNION SELECT unnest(ARRAY[trffromsql::oid, trftosql]) FROM pg_transform) \
         SELECT 'function', p.proname::text, l.lanname::text, p.provolatile::text, \
             CASE WHEN l.lanname IN ('sql', 'plpgsql') THEN p.prosrc END, ( \
               SELECT x.extname::text FROM pg_depend AS d JOIN pg_extension AS x ON x.oid = d.refobjid \
               WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' \
                 AND d.refclassid = 'pg_extension'::regclass LIMIT 1) \
           FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang \
           WHERE p.oid >= {FIRST_OWN} AND p.prokind <> 'a' \
         UNION ALL SELECT 'runs ' || p.kind, p.owner, k.name, NULL, NULL, NULL \
           FROM part AS p JOIN known AS k ON k.oid = p.oid WHERE p.what NOT IN ('relid', 'resulttype') \
         UNION ALL SELECT 'reaches ' || p.kind, p.owner, c.relname::text, NULL, NULL, NULL \
           FROM part AS p JOIN pg_class AS c ON c.oid = p.oid \
           WHERE p.what = 'relid' AND p.kind NOT IN ('a', 't') AND c.oid >= {FIRST_OWN} AND c.relname::text <> p.owner \
         UNION ALL SELECT 'runs w', c.relname::text, k.name, NULL, NULL, NULL \
           FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN known AS k ON k.oid = t.tgfoid \
         UNION ALL SELECT 'runs r', c.relname::text, k.name, NULL, NULL, NULL \
           FROM pg_foreign_table AS f JOIN pg_class AS c ON c.oid = f.ftrelid \
           JOIN pg_foreign_server AS s ON s.oid = f.ftserver JOIN pg_foreign_data_wrapper AS w ON w.oid = s.srvfdw \
           JOIN known AS k ON k.oid IN (w.fdwhandler, w.fdwvalidator) \
         UNION ALL SELECT 'runs o', o.oprname::text, k.name, NULL, NULL, NULL \
           FROM pg_operator AS o JOIN known AS k ON k.oid = o.oprcode::oid WHERE o.oid >= {FIRST_OWN} \
         UNION ALL SELECT 'runs f', f.proname::text, k.name, NULL, NULL, NULL \
           FROM pg_aggregate AS a JOIN pg_proc AS f ON f.oid = a.aggfnoid::oid \
           JOIN known AS k ON k.oid IN (a.aggtransfn::oid, a.aggfinalfn::oid, a.aggcombinefn::oid, a.aggserialfn::oid, \
             a.aggdeserialfn::oid, a.aggmtransfn::oid, a.aggminvtransfn::oid, a.aggmfinalfn::oid) \
         UNION ALL SELECT 'runs a', NULL, k.name, NULL, NULL, NULL FROM known AS k JOIN typed AS t ON t.oid = k.oid \
         UNION ALL SELECT 'runs d', NULL, k.name, NULL, NULL, NULL \
           FROM pg_event_trigger AS e JOIN known AS k ON k.oid = e.evtfoid \
         UNION ALL SELECT 'cascade', a.relname::text, b.relname::text, NULL, NULL, NULL \
           FROM pg_constraint AS k JOIN pg_class AS a ON a.oid = k.confrelid JOIN pg_class AS b ON b.oid = k.conrelid \
           WHERE k.contype = 'f' AND (k.confdeltype NOT IN ('a', 'r') OR k.confupdtype NOT IN ('a', 'r')) \
         UNION ALL SELECT 'cascade', a.relname::text, b.relname::text, NULL, NULL, NULL \
           FROM pg_inherits AS i JOIN pg_class AS a ON a.oid = i.inhparent JOIN pg_class AS b ON b.oid = i.inhrelid \
         UNION ALL SELECT 'runs f', p.proname::text, 'setseed', NULL, NULL, NULL \
           FROM pg_proc AS p WHERE EXISTS (SELECT FROM unnest(p.proconfig) AS s (setting) WHERE lower(s.setting) LIKE 'seed=%') \
         UNION ALL SELECT DISTINCT 'runs ' || p.kind, p.owner, k.proname::text, NULL, NULL, NULL \
           FROM part AS p JOIN pg_proc AS k ON k.oid = p.oid \
           WHERE p.kind = 'r' AND p.what = 'funcid' AND k.oid < {FIRST_OWN} AND k.proname IN ({sequences}) \
         UNION ALL SELECT 'language', NULL, NULL, NULL, NULL, NULL \
           WHERE EXISTS (SELECT FROM pg_language WHERE lanispl AND lanname <> 'plpgsql') \
         {settings}{types}{path}",
        sequences = TAKES_VALUES.map(literal).join(", "),
        settings = of_settings(),
        path = of_path(),
        types = of_types()
    )
}

/// What writes `pg_settings`, whose rule sets what it is told: views over it, and the trees of SQL functions that update something.
fn of_settings() -> String {
    format!(
        "UNION ALL SELECT 'runs w', p.owner, 'set_config', NULL, NULL, NULL FROM part AS p \
           WHERE p.kind IN ('r', 'w') AND p.what = 'relid' AND p.oid = 'pg_settings'::regclass \
         UNION ALL SELECT 'runs f', p.proname::text, 'set_config', NULL, NULL, NULL \
           FROM pg_proc AS p CROSS JOIN LATERAL (SELECT to_jsonb(p) ->> 'prosqlbody') AS b (code) \
           WHERE p.oid >= {FIRST_OWN} AND p.prosrc = '' AND b.code LIKE '%:commandType 2 %' \
             AND b.code LIKE concat('%:relid ', 'pg_settings'::regclass::oid, ' %')"
    )
}

/// Whether anybody's `search_path` names the schema of temporary objects from the beginning. (That of a function is its own affair.)
fn of_path() -> &'static str {
    " UNION ALL SELECT 'temporary', NULL, NULL, NULL, NULL, NULL \
       WHERE (SELECT reset_val FROM pg_settings WHERE name = 'search_path') ILIKE '%pg\\_temp%' \
         OR EXISTS (SELECT FROM pg_db_role_setting AS r CROSS JOIN LATERAL unnest(r.setconfig) AS s (setting) \
           WHERE s.setting ILIKE 'search\\_path=%pg\\_temp%' \
             AND r.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())))"
}

/// What runs, unsaid, when a value becomes one of a type, and what is called as `row.name`.
///
/// What the planner alone asks (estimates) is left out: it writes nothing.
fn of_types() -> String {
    format!(
        " UNION ALL SELECT 'makes', p.owner, t.typname::text, NULL, NULL, NULL \
           FROM part AS p JOIN pg_type AS t ON t.oid = p.oid \
           WHERE p.kind = 'r' AND p.what = 'resulttype' AND t.oid >= {FIRST_OWN} AND t.typtype IN ('c', 'd') \
         UNION ALL SELECT 'casts', CASE WHEN c.castcontext <> 'i' AND t.oid >= {FIRST_OWN} THEN t.typname::text END, \
             k.name, NULL, NULL, NULL \
           FROM pg_cast AS c JOIN pg_type AS t ON t.oid = c.casttarget JOIN known AS k ON k.oid = c.castfunc \
           WHERE k.oid >= {FIRST_OWN} \
         UNION ALL SELECT 'casts', NULL, k.name, NULL, NULL, NULL FROM known AS k JOIN ( \
             SELECT unnest(ARRAY[typinput::oid, typoutput, typreceive, typsend, typmodin, typmodout]) FROM pg_type \
             UNION SELECT amproc::oid FROM pg_amproc \
             UNION SELECT unnest(ARRAY[rngcanonical::oid, rngsubdiff]) FROM pg_range) AS i (oid) ON i.oid = k.oid \
           WHERE k.oid >= {FIRST_OWN} \
         UNION ALL SELECT 'has', h.typname::text, b.typname::text, NULL, NULL, NULL FROM ( \
             SELECT oid, unnest(ARRAY[typbasetype, typelem]) FROM pg_type WHERE oid >= {FIRST_OWN} \
             UNION SELECT c.reltype, a.atttypid FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid \
               WHERE c.oid >= {FIRST_OWN} AND a.atttypid >= {FIRST_OWN} AND a.attnum > 0 AND NOT a.attisdropped \
             UNION SELECT rngtypid, rngsubtype FROM pg_range) AS x (owner, part) \
           JOIN pg_type AS h ON h.oid = x.owner JOIN pg_type AS b ON b.oid = x.part \
           WHERE b.oid >= {FIRST_OWN} AND b.typtype <> 'e' \
         UNION ALL SELECT 'field', p.proname::text, NULL, NULL, NULL, NULL \
           FROM pg_proc AS p JOIN pg_type AS t ON t.oid = p.proargtypes[0] \
           WHERE p.oid >= {FIRST_OWN} AND p.provolatile = 'v' AND p.prokind = 'f' \
             AND p.pronargs - p.pronargdefaults <= 1 AND t.typtype IN ('c', 'd', 'p')"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let row = |cells: &[&str]| cells.iter().map(|c| Some((*c).to_owned())).collect::<Cells>();
        assert_eq!(take(&row(&["runs w", "t", "f"])), Some(Row::Runs(Runner::Write("t".to_owned()), "f".to_owned())));
        assert_eq!(
            take(&[Some("runs a".to_owned()), None, Some("f".to_owned())]),
            Some(Row::Runs(Runner::Anybody, "f".to_owned()))
        );
        let cast = |to: Option<&str>| Row::Casts(to.map(str::to_owned), "f".to_owned());
        assert_eq!(take(&row(&["runs t", "dom", "f"])), Some(cast(Some("dom"))));
        assert_eq!(take(&[Some("casts".to_owned()), None, Some("f".to_owned())]), Some(cast(None)));
        assert_eq!(take(&row(&["of a later release"])), None);
        assert_eq!(take(&[]), None);
        assert!(query().contains("'set_config'"));
    }
}
