//! Asking a server's catalog what functions and relations are: see [`crate::sql::catalog`].
//!
//! On a connection of its own, opened for one question: the session that wants to know may be in a transaction, its pool may be
//! full, and names are asked rarely because answers are kept.

use crate::error::{Error, SqlState};
use crate::id::WorkerId;
use crate::server::login::{self, LoginSettings};
use crate::server::shadows::{self, FIRST_OWN};
use crate::server::{Connection, Target};
use crate::sql::catalog::{Answers, Function, Name, Questions, Relation, tables_by_text};
use crate::sql::shadows::Shadows;

/// Asks the server.
///
/// # Errors
/// Those of the login, of the server, and no answer within the time of a login.
pub async fn ask(
    target: &Target,
    settings: &LoginSettings,
    worker: WorkerId,
    questions: &Questions,
) -> Result<Answers, Error> {
    let broken = |why: &dyn std::fmt::Display| {
        Error::server(
            SqlState::CONNECTION_FAILURE,
            format!("server {} did not tell what the statement's functions and views are: {why}", target.address()),
        )
    };
    let mut connection = login::login(target, settings, worker).await?;
    match tokio::time::timeout(settings.timeout, exchange(&mut connection, questions)).await {
        Ok(Ok(Ok(answers))) => Ok(answers),
        Ok(Ok(Err(error))) => Err(broken(&error.message)),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(broken(&format_args!("no answer within {} s", settings.timeout.as_secs_f64()))),
    }
}

async fn exchange(connection: &mut Connection, questions: &Questions) -> std::io::Result<Result<Answers, Error>> {
    let mut answers = Answers {
        functions: vec![Function { exists: false, volatile: false, reads_unseen: false }; questions.functions.len()],
        relations: vec![Relation::default(); questions.relations.len()],
        shadows: None,
    };
    // All of one session: they have one search_path.
    let names = questions.functions.iter().chain(&questions.relations);
    let by_shadows = questions.shadows.as_ref().and_then(|question| question.search_path.as_deref());
    let search_path = names.filter_map(|n| n.search_path.as_deref()).next().or(by_shadows);
    let mut prepare = "SET client_encoding = 'UTF8'".to_owned();
    if let Some(path) = search_path {
        prepare.push_str(&format!("; SELECT pg_catalog.set_config('search_path', {}, false)", literal(path)));
    }
    if let Err(error) = connection.run(&prepare).await? {
        return Ok(Err(error));
    }
    if !questions.functions.is_empty() {
        match connection.rows(&functions_query(&questions.functions)).await? {
            Ok(rows) => rows.iter().for_each(|row| take_function(row, &mut answers)),
            Err(error) => return Ok(Err(error)),
        }
    }
    if !questions.relations.is_empty() {
        match connection.rows(&relations_query(&questions.relations)).await? {
            Ok(rows) => rows.iter().for_each(|row| take_relation(row, &mut answers)),
            Err(error) => return Ok(Err(error)),
        }
    }
    if let Some(question) = &questions.shadows {
        let mut found = Shadows::default();
        match connection.rows(&shadows::query(question)).await? {
            Ok(rows) => rows.iter().for_each(|row| shadows::take(row, &mut found)),
            Err(error) => return Ok(Err(error)),
        }
        answers.shadows = Some(found);
    }
    Ok(Ok(answers))
}

fn take_function(row: &[Option<String>], answers: &mut Answers) {
    let [Some(place), Some(volatile), Some(unseen)] = row else { return };
    let known = place.parse().ok().and_then(|n: usize| answers.functions.get_mut(n));
    if let Some(function) = known {
        *function = Function { exists: true, volatile: volatile == "t", reads_unseen: unseen == "t" };
    }
}

fn take_relation(row: &[Option<String>], answers: &mut Answers) {
    let [Some(kind), Some(place), schema, Some(name)] = row else { return };
    let known = place.parse().ok().and_then(|n: usize| answers.relations.get_mut(n));
    match (known, schema) {
        (Some(relation), Some(schema)) => {
            relation.is_view |= kind == "v" && relation.reaches.is_empty();
            if kind == "t" {
                relation.tables.push((schema.clone(), name.clone()));
            }
            relation.reaches.push((schema.clone(), name.clone()));
        }
        (Some(relation), None) if kind == "c" => relation.is_type = true,
        (Some(relation), None) => relation.reads_unseen = Some(format!("{name}()")),
        (None, _) => {}
    }
}

/// Extensions whose functions in C run no SQL and read no table that they get by name. Others in C may (dblink, crosstab, connectby,
/// `xpath_table`, the pgstattuple kind).
const HARMLESS: &[&str] = &[
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "fuzzystrmatch",
    "h3",
    "hll",
    "hstore",
    "intagg",
    "intarray",
    "ip4r",
    "isn",
    "lo",
    "ltree",
    "pg_hashids",
    "pg_stat_statements",
    "pg_trgm",
    "pg_uuidv7",
    "pgcrypto",
    "postgis",
    "postgis_raster",
    "postgis_sfcgal",
    "prefix",
    "roaringbitmap",
    "seg",
    "semver",
    "sslinfo",
    "tdigest",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "uuid-ossp",
    "vector",
];

/// Functions of the harmless that do read by name.
const READS_BY_NAME: &[&str] = &[
    "_postgis_index_extent",
    "_postgis_join_selectivity",
    "_postgis_selectivity",
    "_postgis_stats",
    "st_estimatedextent",
];

/// The condition on `p` and its language `l` that the function may read tables which nobody named. PostgreSQL's own reads none
/// unless its name says so, nor does an IMMUTABLE one, which has promised it, nor the C code of extensions that are known.
/// See <https://www.postgresql.org/docs/current/xfunc-volatility.html>.
pub(super) fn unseen() -> String {
    let list = |names: &[&str]| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    format!(
        "(p.provolatile <> 'i' AND NOT (p.oid < {FIRST_OWN} AND l.lanname IN ('internal', 'c'))           AND NOT (l.lanname = 'c' AND p.proname::pg_catalog.text NOT IN ({}) AND EXISTS (             SELECT FROM pg_catalog.pg_depend AS e_d JOIN pg_catalog.pg_extension AS e_x ON e_x.oid = e_d.refobjid             WHERE e_d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND e_d.objid = p.oid AND e_d.deptype = 'e'               AND e_d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND e_x.extname IN ({}))))",
        list(READS_BY_NAME),
        list(HARMLESS)
    )
}

/// Of each name: whether any of its functions is volatile, and whether any may read tables unseen. An aggregate is what its
/// transition and final functions are.
fn functions_query(names: &[Name]) -> String {
    let rows: Vec<String> = (names.iter().enumerate())
        .map(|(n, name)| {
            let schema = name.schema.as_deref().map_or("NULL::pg_catalog.text".to_owned(), literal);
            format!("({n}, {schema}, {})", literal(&name.name))
        })
        .collect();
    format!(
        "SELECT a.n, pg_catalog.bool_or(p.provolatile = 'v'), pg_catalog.bool_or{} \
         FROM (VALUES {}) AS a (n, schema, name) \
         JOIN pg_catalog.pg_proc AS f ON f.proname::pg_catalog.text = a.name \
         JOIN pg_catalog.pg_namespace AS s ON s.oid = f.pronamespace \
         LEFT JOIN pg_catalog.pg_aggregate AS g ON g.aggfnoid::pg_catalog.oid = f.oid \
         JOIN pg_catalog.pg_proc AS p \
           ON p.oid IN (f.oid, g.aggtransfn::pg_catalog.oid, g.aggfinalfn::pg_catalog.oid, \
             g.aggmtransfn::pg_catalog.oid, g.aggmfinalfn::pg_catalog.oid, g.aggcombinefn::pg_catalog.oid) \
         JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang \
         WHERE CASE WHEN a.schema IS NULL THEN pg_catalog.pg_function_is_visible(f.oid) \
           ELSE s.nspname::pg_catalog.text = a.schema END \
         GROUP BY a.n",
        unseen(),
        rows.join(", ")
    )
}

/// Of each name: the relation itself first, then all that it reaches by the rules of views, by inheritance either way, and as the index or
/// the sequence of a table; and the functions that may read tables unseen. Composite types are no relations, and are told apart.
fn relations_query(names: &[Name]) -> String {
    let rows: Vec<String> = (names.iter().enumerate())
        .map(|(n, name)| {
            let mut quoted = name.schema.as_deref().map(|s| format!("{}.", identifier(s))).unwrap_or_default();
            quoted.push_str(&identifier(&name.name));
            format!("({n}, {})", literal(&quoted))
        })
        .collect();
    // Views do not depend on PostgreSQL's own functions, but say their OIDs.
    let by_text: Vec<String> = tables_by_text().map(literal).collect();
    let by_text = by_text.join(", ");
    format!(
        "WITH RECURSIVE asked (n, oid) AS ( \
           SELECT v.n, pg_catalog.to_regclass(v.name)::pg_catalog.oid FROM (VALUES {}) AS v (n, name)), \
         reached (n, oid) AS ( \
           SELECT n, oid FROM asked WHERE oid IS NOT NULL \
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS q WHERE q.oid = asked.oid AND q.relkind = 'c') \
           UNION \
           SELECT r.n, x.oid FROM reached AS r CROSS JOIN LATERAL ( \
             SELECT d.refobjid FROM pg_catalog.pg_rewrite AS w \
               JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
                 AND d.objid = w.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
               WHERE w.ev_class = r.oid \
             UNION ALL SELECT indrelid FROM pg_catalog.pg_index WHERE indexrelid = r.oid \
             UNION ALL SELECT refobjid FROM pg_catalog.pg_depend \
               WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND objid = r.oid AND deptype IN ('a', 'i') \
                 AND refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                 AND EXISTS (SELECT FROM pg_catalog.pg_class AS q WHERE q.oid = r.oid AND q.relkind = 'S') \
             UNION ALL SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = r.oid \
             UNION ALL SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = r.oid) AS x (oid)), \
         found (kind, n, schema, name, place) AS ( \
           SELECT CASE WHEN c.relkind = 'v' AND r.oid <> a.oid AND NOT EXISTS ( \
                 SELECT FROM pg_catalog.pg_rewrite AS w \
                   JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
                     AND d.objid = w.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                   WHERE w.ev_class = c.oid AND d.refobjid <> c.oid) THEN 't' \
               WHEN c.relkind IN ('v', 'm') OR EXISTS ( \
                 SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS m ON m.oid = i.indrelid \
                 WHERE i.indexrelid = c.oid AND m.relkind = 'm') THEN 'v' \
               WHEN c.relkind IN ('r', 'p', 'f') \
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = c.oid) THEN 't' ELSE 'r' END, \
               r.n, s.nspname::pg_catalog.text, c.relname::pg_catalog.text, (r.oid <> a.oid)::pg_catalog.int4 \
             FROM reached AS r JOIN asked AS a ON a.n = r.n \
             JOIN pg_catalog.pg_class AS c ON c.oid = r.oid \
             JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace \
           UNION ALL \
           SELECT 'f', r.n, NULL, p.proname::pg_catalog.text, 2 \
             FROM reached AS r JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = r.oid \
             JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
               AND d.objid = w.oid \
             LEFT JOIN pg_catalog.pg_operator AS o ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass \
               AND o.oid = d.refobjid \
             JOIN pg_catalog.pg_proc AS p ON p.oid = o.oprcode::pg_catalog.oid \
               OR (d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = d.refobjid) \
             JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang \
             WHERE {} \
           UNION ALL \
           SELECT 'f', r.n, NULL, p.proname::pg_catalog.text, 2 \
             FROM reached AS r JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = r.oid \
             JOIN pg_catalog.pg_proc AS p ON p.oid < {FIRST_OWN} AND p.proname::pg_catalog.text IN ({by_text}) \
             WHERE pg_catalog.strpos(w.ev_action::pg_catalog.text, ' :funcid ' || p.oid || ' ') > 0 \
           UNION ALL \
           SELECT 'c', asked.n, NULL, q.relname::pg_catalog.text, 3 FROM asked \
             JOIN pg_catalog.pg_class AS q ON q.oid = asked.oid AND q.relkind = 'c') \
         SELECT kind, n, schema, name FROM found ORDER BY n, place",
        rows.join(", "),
        unseen(),
    )
}

/// A string constant that means the same whatever standard_conforming_strings is.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'::pg_catalog.text", text.replace('\\', "\\\\").replace('\'', "''"))
}

pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(literal(r"it's\n"), r"E'it''s\\n'::pg_catalog.text");
        assert_eq!(identifier(r#"a"b"#), r#""a""b""#);
        let name = Name { search_path: None, schema: Some("S\"x".to_owned()), name: "v'w".to_owned() };
        let query = relations_query(&[name]);
        assert!(query.contains(r#"(0, E'"S""x"."v''w"'::pg_catalog.text)"#), "{query}");
    }

    #[test]
    fn rows_that_are_none_are_passed_over() {
        let mut answers = Answers { relations: vec![Relation::default()], ..Answers::default() };
        let row = |cells: &[&str]| cells.iter().map(|c| Some((*c).to_owned())).collect::<Vec<_>>();
        take_function(&row(&["0", "t", "t"]), &mut answers);
        take_function(&row(&["x"]), &mut answers);
        take_relation(&row(&["r", "7", "s", "t"]), &mut answers);
        take_relation(&row(&["v", "0", "s", "v"]), &mut answers);
        take_relation(&row(&["t", "0", "s", "t"]), &mut answers);
        take_relation(&row(&["r", "0", "s", "t_i"]), &mut answers);
        take_relation(&[Some("f".to_owned()), Some("0".to_owned()), None, Some("g".to_owned())], &mut answers);
        take_relation(&[Some("c".to_owned()), Some("0".to_owned()), None, Some("v".to_owned())], &mut answers);
        let named = |names: &[&str]| names.iter().map(|name| ("s".to_owned(), (*name).to_owned())).collect();
        let expected = Relation {
            reaches: named(&["v", "t", "t_i"]),
            reads_unseen: Some("g()".to_owned()),
            is_view: true,
            tables: named(&["t"]),
            is_type: true,
        };
        assert_eq!(answers, Answers { relations: vec![expected], ..Answers::default() });
    }
}
