//! The questions about shadows: see [`crate::sql::shadows`].

use crate::server::catalog::{identifier, literal, unseen};
use crate::sql::shadows::{ShadowQuestion, Shadows};

/// Objects below this OID come with PostgreSQL itself (`FirstNormalObjectId`).
pub(super) const FIRST_OWN: u32 = 16384;

/// The types of sharding keys, and those that stand for any: int8, int2, int4, text, varchar, uuid; anyelement, anynonarray,
/// anycompatible, anycompatiblenonarray.
const KEY_TYPES: &str = "(20, 21, 23, 25, 1043, 2950, 2283, 2776, 5077, 5079)";

/// One row a shadow: its kind, its name, and for relations the schema.
pub(super) fn query(question: &ShadowQuestion) -> String {
    let later: Vec<String> = ShadowQuestion::later_functions().iter().map(|name| literal(name)).collect();
    let (later, unseen) = (later.join(", "), unseen());
    let mut sql = format!(
        "WITH unseen (oid) AS MATERIALIZED ( \
           SELECT p.oid FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang \
           WHERE p.oid >= {FIRST_OWN} AND {unseen}), \
         own AS MATERIALIZED ( \
           SELECT f.* FROM pg_catalog.pg_proc AS f LEFT JOIN pg_catalog.pg_aggregate AS g \
             ON g.aggfnoid::pg_catalog.oid = f.oid \
           WHERE f.oid >= {FIRST_OWN} AND pg_catalog.pg_function_is_visible(f.oid) AND EXISTS ( \
             SELECT FROM unseen AS u WHERE u.oid IN (f.oid, g.aggtransfn::pg_catalog.oid, g.aggfinalfn::pg_catalog.oid, \
               g.aggmtransfn::pg_catalog.oid, g.aggmfinalfn::pg_catalog.oid, g.aggcombinefn::pg_catalog.oid))) \
         SELECT 'function', proname::pg_catalog.text, NULL FROM own \
           WHERE proname::pg_catalog.text IN ({later}) \
             OR EXISTS (SELECT FROM pg_catalog.pg_proc AS b WHERE b.proname = own.proname AND b.oid < {FIRST_OWN}) \
         UNION SELECT 'field', own.proname::pg_catalog.text, NULL FROM own \
           JOIN pg_catalog.pg_type AS t ON t.oid = own.proargtypes[0] \
           WHERE own.prokind = 'f' AND own.pronargs - own.pronargdefaults <= 1 AND t.typtype IN ('c', 'd', 'p') \
         UNION SELECT CASE WHEN pg_catalog.pg_operator_is_visible(o.oid) THEN 'operator' ELSE 'hidden' END, \
             o.oprname::pg_catalog.text, NULL \
           FROM pg_catalog.pg_operator AS o JOIN unseen AS u ON u.oid = o.oprcode::pg_catalog.oid \
           WHERE o.oid >= {FIRST_OWN} \
         UNION SELECT 'gatherer', f.proname::pg_catalog.text, NULL FROM pg_catalog.pg_proc AS f \
           WHERE f.oid >= {FIRST_OWN} AND (f.prokind IN ('a', 'w') OR f.proretset OR f.provolatile = 'v') \
             AND pg_catalog.pg_function_is_visible(f.oid) \
             AND EXISTS (SELECT FROM pg_catalog.pg_proc AS b WHERE b.proname = f.proname AND b.oid < {FIRST_OWN}) \
         UNION SELECT 'row', f.proname::pg_catalog.text, NULL FROM pg_catalog.pg_proc AS f \
           JOIN pg_catalog.pg_type AS t ON t.oid = f.proargtypes[0] \
           WHERE f.oid >= {FIRST_OWN} AND f.prokind = 'a' AND f.pronargs = 1 AND t.typtype IN ('c', 'd', 'p') \
             AND pg_catalog.pg_function_is_visible(f.oid) \
         UNION SELECT 'equality', '=', NULL FROM pg_catalog.pg_operator AS o \
           WHERE o.oid >= {FIRST_OWN} AND o.oprname = '=' AND o.oprleft IN {KEY_TYPES} AND o.oprright IN {KEY_TYPES} \
             AND pg_catalog.pg_operator_is_visible(o.oid) \
         UNION SELECT 'type', t.typname::pg_catalog.text, NULL FROM pg_catalog.pg_type AS t \
           WHERE t.oid >= {FIRST_OWN} AND pg_catalog.pg_type_is_visible(t.oid) \
             AND t.typname IN ('int2', 'int4', 'int8', 'text', 'varchar', 'uuid')"
    );
    if !question.listed.is_empty() {
        let rows: Vec<String> =
            question.listed.iter().map(|name| format!("({}, {})", literal(name), literal(&identifier(name)))).collect();
        let rows = rows.join(", ");
        sql.push_str(&format!(
            " UNION SELECT 'elsewhere', a.name, s.nspname::pg_catalog.text FROM (VALUES {rows}) AS a (name, quoted) \
                JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass(a.quoted)::pg_catalog.oid \
                JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace WHERE s.nspname <> 'public' \
              UNION SELECT 'role', a.name, s.nspname::pg_catalog.text FROM (VALUES {rows}) AS a (name, quoted) \
                JOIN pg_catalog.pg_class AS c ON c.relname::pg_catalog.text = a.name AND c.relkind NOT IN ('i', 'I', 't') \
                JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace AND s.nspname <> 'public' \
                JOIN pg_catalog.pg_roles AS r ON r.rolname = s.nspname"
        ));
    }
    sql
}

/// Takes in a row of the answer.
pub(super) fn take(row: &[Option<String>], shadows: &mut Shadows) {
    let [Some(kind), Some(name), schema] = row else { return };
    let name = name.clone();
    match (kind.as_str(), schema) {
        ("function", _) => drop(shadows.functions.insert(name)),
        ("field", _) => drop(shadows.fields.insert(name)),
        ("operator", _) => drop(shadows.operators.insert(name)),
        ("hidden", _) => drop(shadows.hidden_operators.insert(name)),
        ("gatherer", _) => drop(shadows.gatherers.insert(name)),
        ("row", _) => drop(shadows.row_gatherers.insert(name)),
        ("type", _) => drop(shadows.types.insert(name)),
        ("equality", _) => shadows.equality = true,
        ("elsewhere", Some(schema)) => drop(shadows.elsewhere.insert(name, schema.clone())),
        ("role", Some(schema)) => drop(shadows.by_role.insert(name, schema.clone())),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_shadows() {
        let mut shadows = Shadows::default();
        for row in [
            ["function", "log", ""],
            ["field", "total", ""],
            ["operator", "=", ""],
            ["hidden", "=~", ""],
            ["gatherer", "concat", ""],
            ["row", "first", ""],
            ["equality", "=", ""],
            ["type", "text", ""],
            ["elsewhere", "t", "bob"],
            ["role", "u", "ann"],
            ["something", "else", ""],
        ] {
            let cell = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            take(&row.map(cell), &mut shadows);
        }
        take(&[Some("function".to_owned())], &mut shadows);
        let one = |name: &str| [name.to_owned()].into();
        let pair = |name: &str, schema: &str| [(name.to_owned(), schema.to_owned())].into();
        let expected = Shadows {
            functions: one("log"),
            fields: one("total"),
            operators: one("="),
            hidden_operators: one("=~"),
            gatherers: one("concat"),
            row_gatherers: one("first"),
            equality: true,
            types: one("text"),
            elsewhere: pair("t", "bob"),
            by_role: pair("u", "ann"),
        };
        assert_eq!(shadows, expected);
    }

    #[test]
    fn listed_names_are_quoted() {
        let question = ShadowQuestion { search_path: None, listed: vec!["it's \"T\"".to_owned()] };
        assert!(query(&question).contains(r#"(E'it''s "T"'::pg_catalog.text, E'"it''s ""T"""'::pg_catalog.text)"#));
        assert!(!query(&ShadowQuestion::default()).contains("elsewhere"));
    }
}
