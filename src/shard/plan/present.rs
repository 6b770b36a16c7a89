//! What shards are asked about columns and types where a text may mean the present (`now`, `today`), which each would take for itself.

pub use super::effects::FIRST_OWN_OID;
use super::write::literal;
use crate::sql::facts::TableRef;

/// Categories of types (`typcategory`) without times: strings, numbers, booleans, enums, bits, addresses, shapes, spans.
const TIMELESS: &str = "'S', 'N', 'B', 'E', 'V', 'I', 'G', 'T'";

/// Extensions whose types have no times either.
const EXTENSIONS: &str = "'cube', 'hstore', 'isn', 'ltree', 'postgis', 'seg', 'vector'";

/// Asks whether a text may mean the present as a value of the type of this number, which is SQL as well. Arrays are looked through, and domains.
fn may_be_present(oid: &str) -> String {
    format!(
        "(WITH RECURSIVE base (oid) AS (SELECT {oid} UNION ALL \
           SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END \
           FROM base AS b JOIN pg_catalog.pg_type AS t ON t.oid = b.oid \
           WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typelem <> 0)) \
         SELECT NOT EXISTS (SELECT FROM base AS b JOIN pg_catalog.pg_type AS t ON t.oid = b.oid \
           WHERE t.typtype <> 'd' AND (t.typcategory IN ({TIMELESS}) OR (t.typcategory = 'U' AND (t.oid < {FIRST_OWN_OID} OR EXISTS ( \
             SELECT FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid \
             WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid AND d.deptype = 'e' \
               AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND e.extname IN ({EXTENSIONS})))))))"
    )
}

/// Asks for the columns of a relation, which is SQL for its number, in three cells each: the name, `t` if a text may mean the present there, and
/// `t` if the column is computed.
fn of_relation(relation: &str) -> String {
    format!(
        "SELECT a.attname, {}, a.attgenerated <> '' FROM pg_catalog.pg_attribute AS a \
         WHERE a.attrelid = {relation} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        may_be_present("a.atttypid")
    )
}

/// Asks that of the relation that a statement means by this name: of none there are no columns.
#[must_use]
pub fn columns_sql(table: &TableRef) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let schema = table.schema.iter().map(|schema| format!("{}.", quoted(schema)));
    let name = schema.chain([quoted(&table.name)]).collect::<String>();
    of_relation(&format!("pg_catalog.to_regclass({})", literal(&name)))
}

/// The same of a table by its schema and name.
#[must_use]
pub fn columns_of_sql((schema, name): &(String, String)) -> String {
    of_relation(&format!(
        "(SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace \
         WHERE s.nspname = {} AND c.relname = {})",
        literal(schema),
        literal(name)
    ))
}

/// Asks for those of these types of which a text may mean the present: their numbers.
#[must_use]
pub fn types_sql(oids: &[u32]) -> String {
    let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
    format!(
        "SELECT o.oid FROM pg_catalog.unnest('{{{}}}'::pg_catalog.oid[]) AS o (oid) WHERE {}",
        oids.join(","),
        may_be_present("o.oid")
    )
}
