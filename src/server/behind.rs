//! The questions about what is behind tables: see [`crate::shard::behind`].

use super::catalog::{literal, unseen};
use super::shadows::FIRST_OWN;
use crate::shard::map::ShardMap;

/// Tables and what can be read like them, but for PostgreSQL's own and partitions.
pub(super) const RELATIONS_SQL: &str = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class AS c \
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND NOT c.relispartition AND c.relpersistence <> 't' \
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";

/// Triggers that are on; those of a partitioned table stand for those of its partitions. Of their bits 1 is for each row and 2 is before.
pub(super) fn triggers_sql() -> String {
    format!(
        "SELECT n.nspname, c.relname, t.tgname, (t.tgtype & 3) = 3, p.proname, l.lanname, p.prosrc, \
           p.oid < {FIRST_OWN} \
         FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang \
         WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND NOT c.relispartition AND c.relpersistence <> 't' \
         ORDER BY n.nspname, c.relname, t.tgname"
    )
}

/// Functions that may read tables unseen, with their texts.
pub(super) fn functions_sql() -> String {
    format!(
        "SELECT p.proname, l.lanname, CASE WHEN p.prosrc <> '' THEN p.prosrc \
             ELSE pg_catalog.pg_get_functiondef(p.oid) END \
           FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang \
           WHERE p.oid >= {FIRST_OWN} AND p.prokind <> 'a' AND {}",
        unseen()
    )
}

/// Rules and policies of the listed tables; none for a map without tables.
pub(super) fn rules_sql(map: &ShardMap) -> Option<String> {
    let row = |(number, (schema, name)): (usize, &(String, String))| {
        format!("({number}, {}, {})", literal(schema), literal(name))
    };
    let rows: Vec<String> = map.tables.keys().enumerate().map(row).collect();
    (!rows.is_empty()).then(|| {
        format!(
            "WITH listed (n, oid, secured) AS ( \
               SELECT a.n, c.oid, c.relrowsecurity FROM (VALUES {}) AS a (n, schema, name) \
                 JOIN pg_catalog.pg_namespace AS s ON s.nspname::pg_catalog.text = a.schema \
                 JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.oid AND c.relname::pg_catalog.text = a.name), \
             named (n, policy, class, oid) AS ( \
               SELECT DISTINCT t.n, p.polname, d.refclassid, d.refobjid FROM listed AS t \
                 JOIN pg_catalog.pg_policy AS p ON p.polrelid = t.oid AND t.secured \
                 JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid \
                   AND d.refobjid <> t.oid) \
             SELECT 'rule', t.n, w.rulename::pg_catalog.text, NULL, NULL FROM listed AS t \
               JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = t.oid AND w.ev_type <> '1' AND w.ev_enabled <> 'D' \
             UNION ALL SELECT 'relation', t.n, t.policy, s.nspname::pg_catalog.text, c.relname::pg_catalog.text FROM named AS t \
               JOIN pg_catalog.pg_class AS c ON t.class = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = t.oid \
               JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace \
               WHERE s.nspname NOT IN ('pg_catalog', 'information_schema') \
             UNION ALL SELECT 'function', t.n, t.policy, NULL, p.proname::pg_catalog.text FROM named AS t \
               LEFT JOIN pg_catalog.pg_operator AS o ON t.class = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = t.oid \
               JOIN pg_catalog.pg_proc AS p ON p.oid = o.oprcode::pg_catalog.oid \
                 OR (t.class = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = t.oid) \
               JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang WHERE {} \
             ORDER BY 2, 3, 1, 5",
            rows.join(", "),
            unseen()
        )
    })
}
