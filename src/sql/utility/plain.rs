//! DDL behind which nothing runs that did not run before, as its text shows.
//!
//! What code a relation runs is counted by the census ([`crate::sql::hidden`]) while nobody changes it, so that a statement that may change it
//! has everybody wait who must know. An index on columns, for one, need not: beside expressions and conditions, of which it has none, it
//! runs the support functions of operator classes, and these count for everybody, whether there is an index or not.

use pg_raw_parse::{Node, nodes, raw};

/// The access methods that are PostgreSQL's own. See <https://www.postgresql.org/docs/current/indexes-types.html>.
const OWN_METHODS: [&str; 6] = ["btree", "hash", "gin", "gist", "spgist", "brin"];

/// Types of PostgreSQL's, of whose values no code is anybody's. (A domain has checks, and is named as a type is.) By the words that the grammar
/// makes of others, sorted. See <https://www.postgresql.org/docs/current/datatype.html>.
const OWN_TYPES: [&str; 46] = [
    "bit",
    "bool",
    "box",
    "bpchar",
    "bytea",
    "char",
    "cidr",
    "circle",
    "date",
    "daterange",
    "float4",
    "float8",
    "inet",
    "int2",
    "int4",
    "int4range",
    "int8",
    "int8range",
    "interval",
    "json",
    "jsonb",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "numrange",
    "oid",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsquery",
    "tsrange",
    "tstzrange",
    "tsvector",
    "uuid",
    "varbit",
    "varchar",
];

/// Whether a new table has nothing but columns of PostgreSQL's types, and keys.
pub(super) fn table(stmt: &nodes::CreateStmt) -> bool {
    stmt.inh_relations().is_empty()
        && stmt.table_elts().iter().all(|element| match element {
            Node::ColumnDef(definition) => column(definition),
            Node::Constraint(key) => constraint(key),
            _ => false,
        })
        && stmt.partbound().is_none()
        && stmt.of_typename().is_none()
}

/// Whether an index is of columns alone, by a method of PostgreSQL's, and its condition, if there is one, asks columns for no more than
/// whether they are NULL or true.
pub(super) fn index(stmt: &nodes::IndexStmt) -> bool {
    let where_clause = stmt.where_clause();
    stmt.access_method().is_none_or(|name| OWN_METHODS.contains(&name))
        && stmt.index_params().iter().all(|element| element.name().is_some())
        && stmt.exclude_op_names().is_empty()
        && (matches!(where_clause, Node::None) || condition(where_clause))
}

/// Whether all that ALTER TABLE does is to add columns and keys as those of a new table, to take something away, or to change how rows
/// are stored and counted. What computes anything of the rows that are there is no such thing: VALIDATE CONSTRAINT, or a rewrite, which
/// makes all indexes anew.
pub(super) fn alter(stmt: &nodes::AlterTableStmt) -> bool {
    use raw::AlterTableType as Type;
    stmt.cmds().iter().all(|command| {
        let Node::AlterTableCmd(command) = command else { return false };
        match command.subtype {
            Type::AT_AddColumn => matches!(command.def(), Node::ColumnDef(definition) if column(definition)),
            Type::AT_AddConstraint => matches!(command.def(), Node::Constraint(key) if constraint(key)),
            Type::AT_SetRelOptions | Type::AT_ResetRelOptions => {
                matches!(command.def(), Node::NodeList(all) if all.iter().all(storage))
            }
            Type::AT_SetNotNull
            | Type::AT_DropNotNull
            | Type::AT_DropColumn
            | Type::AT_DropConstraint
            | Type::AT_SetStatistics
            | Type::AT_SetOptions
            | Type::AT_ResetOptions
            | Type::AT_SetStorage
            | Type::AT_SetCompression
            | Type::AT_ClusterOn
            | Type::AT_DropCluster
            | Type::AT_ReplicaIdentity => true,
            _ => false,
        }
    })
}

/// Whether an option is about how rows are stored and cleaned up after. Those of views are not, which the grammar calls tables too.
/// See <https://www.postgresql.org/docs/current/sql-createtable.html#SQL-CREATETABLE-STORAGE-PARAMETERS>.
fn storage(option: Node<'_>) -> bool {
    const NAMES: [&str; 9] = [
        "autosummarize",
        "buffering",
        "deduplicate_items",
        "fastupdate",
        "fillfactor",
        "gin_pending_list_limit",
        "pages_per_range",
        "parallel_workers",
        "toast_tuple_target",
    ];
    let Node::DefElem(option) = option else { return false };
    option.defname().is_some_and(|name| NAMES.contains(&name) || name.contains("vacuum"))
}

/// Whether a column is of a type of PostgreSQL's and has nothing but keys.
fn column(definition: &nodes::ColumnDef) -> bool {
    definition.type_name().is_some_and(own_type)
        && definition.constraints().iter().all(|c| matches!(c, Node::Constraint(c) if constraint(c)))
}

/// Whether a type is PostgreSQL's own, or an array of such. (Whoever has search_path put a type of theirs before it is told of elsewhere:
/// [`crate::sql::shadows`].)
fn own_type(name: &nodes::TypeName) -> bool {
    let mut parts = name.names().iter().filter_map(|part| part.sval());
    let own = |name: &str| OWN_TYPES.binary_search(&name).is_ok();
    let named = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, None) | (Some("pg_catalog"), Some(name), None) => own(name),
        _ => false,
    };
    named && !name.setof && !name.pct_type
}

/// Whether a constraint is one of keys and of NULL.
fn constraint(key: &nodes::Constraint) -> bool {
    use raw::ConstrType as Type;
    matches!(key.contype, Type::CONSTR_NULL | Type::CONSTR_NOTNULL | Type::CONSTR_PRIMARY | Type::CONSTR_UNIQUE)
        && !key.without_overlaps
}

/// Whether a condition calls no function and uses no operator. `t.c` may be a call: see
/// <https://www.postgresql.org/docs/current/rowtypes.html#ROWTYPES-USAGE>.
fn condition(node: Node<'_>) -> bool {
    match node {
        Node::ColumnRef(column) => column.fields().len() == 1,
        Node::NullTest(test) => condition(test.arg()),
        Node::BooleanTest(test) => condition(test.arg()),
        Node::BoolExpr(parts) => parts.args().iter().all(condition),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse::facts;

    #[test]
    fn types_are_in_their_order() {
        assert!(OWN_TYPES.is_sorted());
    }

    #[test]
    fn what_adds_no_code_is_told_from_what_may() {
        for (text, changes) in [
            ("CREATE INDEX ON t (a, b DESC)", false),
            ("CREATE UNIQUE INDEX CONCURRENTLY i ON t USING btree (a text_pattern_ops) INCLUDE (b)", false),
            ("CREATE INDEX ON t USING gin (a)", false),
            ("CREATE INDEX ON t (a COLLATE \"C\") WHERE gone IS NULL AND NOT done", false),
            ("CREATE INDEX ON t (a) WHERE done IS TRUE", false),
            ("CREATE INDEX ON t (lower(a))", true),
            ("CREATE INDEX ON t ((a + 1))", true),
            ("CREATE INDEX ON t ((t.a))", true),
            ("CREATE INDEX ON t (a) WHERE b > 0", true),
            ("CREATE INDEX ON t (a) WHERE own(b)", true),
            ("CREATE INDEX ON t (a) WHERE t.b", true),
            ("CREATE INDEX ON t (a) WHERE b IN (1, 2)", true),
            ("CREATE INDEX ON t (a) WHERE (b::own) IS NULL", true),
            ("CREATE INDEX ON t USING own (a)", true),
            ("ALTER TABLE t ADD PRIMARY KEY (a)", false),
            ("ALTER TABLE t ADD CONSTRAINT u UNIQUE USING INDEX i, ALTER a SET NOT NULL", false),
            ("ALTER TABLE t ALTER a SET STATISTICS 1000, SET (fillfactor = 70)", false),
            ("ALTER TABLE t ADD a int4, DROP b", false),
            ("ALTER INDEX i SET (fillfactor = 70)", false),
            ("ALTER TABLE t ADD a numeric(12, 2), ADD b varchar(3)[], ADD c timestamp with time zone", false),
            ("CREATE TABLE t (a bigint PRIMARY KEY, b integer[], c double precision, d character(3))", false),
            ("CREATE TABLE t (a own)", true),
            ("CREATE TABLE t (a bigserial)", true),
            ("CREATE TABLE t (a public.text)", true),
            ("CREATE TABLE t (a u.b%TYPE)", true),
            ("ALTER TABLE t ADD a own", true),
            ("ALTER TABLE t ADD a int4 DEFAULT 1", true),
            ("ALTER TABLE t ADD CHECK (a > 0)", true),
            ("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u", true),
            ("ALTER TABLE t ADD EXCLUDE USING gist (a WITH &&)", true),
            ("ALTER TABLE t ADD PRIMARY KEY (a), ADD CHECK (own(a))", true),
            ("ALTER TABLE t VALIDATE CONSTRAINT c", true),
            ("ALTER TABLE t ALTER a TYPE int8", true),
            ("ALTER TABLE t ENABLE TRIGGER g", true),
            ("ALTER TABLE t ATTACH PARTITION p DEFAULT", true),
            ("ALTER TABLE t SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)", false),
            ("ALTER TABLE v SET (security_invoker = true)", true),
            ("ALTER VIEW v RESET (security_barrier)", true),
            ("ALTER VIEW v ALTER a SET DEFAULT 1", true),
            ("CREATE STATISTICS s ON a, b FROM t", false),
            ("REINDEX TABLE t", false),
            ("VACUUM t", false),
            ("CLUSTER t USING i", false),
            ("COMMENT ON TABLE t IS 'x'", false),
            ("DROP INDEX CONCURRENTLY i", false),
        ] {
            assert_eq!(facts(text.as_bytes()).changes_code(), changes, "{text}");
        }
    }
}
