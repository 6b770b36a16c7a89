//! Utility statements that several shards run as they stand: how, and whether each does the same.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::raw::{AlterTableType, ConstrType, ObjectType};
use pg_raw_parse::{Node, nodes};

use super::Unfit;
use super::rows::same_everywhere;
use crate::sql::facts::TableRef;
use crate::sql::parse;
use crate::sql::utility::names_relation;
use crate::sql::walk::table_ref;

/// How a utility statement can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// In a transaction.
    InTransaction,
    /// Outside of transactions only.
    Alone,
    /// In a block that is there already, but where there is none better outside of transactions: of some relations it must.
    AloneOrInBlock,
}

/// Reads a text that is one utility statement; none if it is something else, or if nothing would tell afterwards where it was done.
#[must_use]
pub fn runs(text: &str) -> Option<Runs> {
    parse::read(text.as_bytes(), |statements| match (statements.next(), statements.next()) {
        (Some((_, node)), None) => how(node),
        _ => None,
    })
    .ok()
    .flatten()
}

/// A relation that a statement takes away from its name, or from what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parted {
    /// Its name of before, if it gets another one or another schema; none if it keeps that and belongs to nothing any more.
    pub was: Option<TableRef>,
    /// Its name afterwards.
    pub is: TableRef,
}

/// The relations that a text takes away from their names, or from what they belong to: by RENAME TO and SET SCHEMA, by DETACH PARTITION,
/// NO INHERIT and OWNED BY NONE.
#[must_use]
pub fn parted(text: &str) -> Vec<Parted> {
    parse::read(text.as_bytes(), |statements| statements.flat_map(|(_, node)| parts(node)).collect())
        .unwrap_or_default()
}

/// The schema, and its new name, of ALTER SCHEMA ... RENAME TO.
#[must_use]
pub fn renamed_schema(text: &str) -> Option<(String, String)> {
    let renamed = |node: Node<'_>| match node {
        Node::RenameStmt(stmt) if stmt.rename_type == ObjectType::OBJECT_SCHEMA => {
            Some((stmt.subname()?.to_owned(), stmt.newname()?.to_owned()))
        }
        _ => None,
    };
    parse::read(text.as_bytes(), |statements| statements.filter_map(|(_, node)| renamed(node)).next()).ok().flatten()
}

fn parts(node: Node<'_>) -> Vec<Parted> {
    match node {
        Node::AlterTableStmt(stmt) => {
            let leaves = |command: Node<'_>| {
                let Node::AlterTableCmd(command) = command else { return None };
                match (command.subtype, command.def()) {
                    (AlterTableType::AT_DropInherit, _) => stmt.relation().map(leaving),
                    (
                        AlterTableType::AT_DetachPartition | AlterTableType::AT_DetachPartitionFinalize,
                        Node::PartitionCmd(partition),
                    ) => partition.name().map(leaving),
                    _ => None,
                }
            };
            stmt.cmds().iter().filter_map(leaves).collect()
        }
        Node::AlterSeqStmt(stmt) if stmt.options().iter().any(is_owned_by_none) => {
            stmt.sequence().map(leaving).into_iter().collect()
        }
        Node::RenameStmt(stmt) if names_relation(stmt.rename_type) => {
            let called = |was: TableRef, name: &str| Parted {
                is: TableRef { name: name.to_owned(), ..was.clone() },
                was: Some(was),
            };
            let both = stmt.relation().map(table_ref).zip(stmt.newname());
            both.map(|(was, name)| called(was, name)).into_iter().collect()
        }
        Node::AlterObjectSchemaStmt(stmt) => {
            let moved = |was: TableRef, schema: &str| Parted {
                is: TableRef { schema: Some(schema.to_owned()), ..was.clone() },
                was: Some(was),
            };
            let both = stmt.relation().map(table_ref).zip(stmt.newschema());
            both.map(|(was, schema)| moved(was, schema)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn leaving(var: &nodes::RangeVar) -> Parted {
    Parted { was: None, is: table_ref(var) }
}

/// Whether an option of ALTER SEQUENCE is OWNED BY NONE: a column has its table's name before it.
fn is_owned_by_none(option: Node<'_>) -> bool {
    let Node::DefElem(option) = option else { return false };
    option.defname() == Some("owned_by") && matches!(option.arg(), Node::NodeList(parts) if parts.len() == 1)
}

/// See <https://www.postgresql.org/docs/current/sql-commands.html>: what PostgreSQL refuses within a transaction block.
fn how(node: Node<'_>) -> Option<Runs> {
    let alone = match node {
        // CREATE FOREIGN TABLE, of which the parser's bindings show no name, and IMPORT FOREIGN SCHEMA, which shows none: by their names such
        // tables are the default shard's.
        Node::Invalid(_) | Node::ImportForeignSchemaStmt(_) => return None,
        // So are those that a schema is to begin with.
        Node::CreateSchemaStmt(stmt) if stmt.schema_elts().iter().next().is_some() => return None,
        Node::IndexStmt(stmt) => stmt.concurrent,
        Node::DropStmt(stmt) => stmt.concurrent,
        Node::VacuumStmt(_) | Node::AlterSystemStmt(_) => true,
        // It makes temporary tables, with which no transaction is prepared.
        Node::RefreshMatViewStmt(stmt) => stmt.concurrent,
        // Of a partitioned table it must, which only the catalog tells. They change no rows.
        Node::ClusterStmt(stmt) if stmt.relation().is_some() => return Some(Runs::AloneOrInBlock),
        Node::ReindexStmt(stmt) if stmt.relation().is_some() && !stmt.params().iter().any(is_concurrent) => {
            return Some(Runs::AloneOrInBlock);
        }
        Node::ClusterStmt(_) | Node::ReindexStmt(_) => true,
        Node::AlterTableStmt(stmt) => stmt.cmds().iter().any(detaches_concurrently),
        _ => false,
    };
    Some(if alone { Runs::Alone } else { Runs::InTransaction })
}

/// Whether an option of REINDEX is CONCURRENTLY, however it is written.
fn is_concurrent(option: &nodes::DefElem) -> bool {
    option.defname() == Some("concurrently")
}

fn detaches_concurrently(command: Node<'_>) -> bool {
    let Node::AlterTableCmd(command) = command else { return false };
    matches!(command.def(), Node::PartitionCmd(partition) if partition.concurrent)
}

/// Whether ALTER TABLE, which must write the same to the rows of a reference table on every shard, computes that there.
///
/// # Errors
/// It fills a column with what is another value on each shard.
pub fn keeps_copies(text: &str) -> Result<bool, Unfit> {
    read(text, |node| {
        let mut computes = false;
        let Node::AlterTableStmt(stmt) = node else { return Ok(false) };
        for command in stmt.cmds() {
            let Node::AlterTableCmd(command) = command else { continue };
            // ADD COLUMN, and ALTER COLUMN TYPE, whose USING is kept as a default.
            let Node::ColumnDef(column) = command.def() else { continue };
            let name =
                column.type_name().and_then(|name| name.names().iter().filter_map(|part| part.sval()).next_back());
            if name.is_some_and(|name| name.contains("serial")) {
                return Err(each_its_own());
            }
            if !matches!(column.raw_default(), Node::None) {
                computes |= !matches!(column.raw_default(), Node::A_Const(_));
                same_everywhere(column.raw_default())?;
            }
            for constraint in column.constraints() {
                let Node::Constraint(constraint) = constraint else { continue };
                match constraint.contype {
                    ConstrType::CONSTR_IDENTITY => return Err(each_its_own()),
                    ConstrType::CONSTR_DEFAULT => {
                        computes |= !matches!(constraint.raw_expr(), Node::A_Const(_));
                        same_everywhere(constraint.raw_expr())?;
                    }
                    ConstrType::CONSTR_GENERATED => computes = true,
                    _ => {}
                }
            }
        }
        Ok(computes)
    })
}

fn each_its_own() -> Unfit {
    Unfit::new("sequence", "with a sequence that numbers the rows of a reference table on each shard in another order")
        .hint("Add the column without a default, fill it with constants, and set the default after that.")
}

pub(super) fn other() -> Unfit {
    Unfit::new("statement", "that is not one plain INSERT of VALUES, UPDATE or DELETE")
}

/// Looks at a text that is one statement.
pub(super) fn read<T>(text: &str, look: impl FnOnce(Node<'_>) -> Result<T, Unfit>) -> Result<T, Unfit> {
    // As in `parse`: what the bindings believe of the tree may prove wrong.
    catch_unwind(AssertUnwindSafe(|| {
        let tree = pg_raw_parse::parse(text).map_err(|_| Unfit::new("syntax", "that cannot be parsed"))?;
        let mut statements = tree.stmts();
        match (statements.next(), statements.next()) {
            (Some(node), None) => look(node),
            _ => Err(other()),
        }
    }))
    .unwrap_or_else(|_| Err(Unfit::new("syntax", "on which the parser failed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_run_in_a_transaction_is_known() {
        for (text, expected) in [
            ("CREATE INDEX ON t (a)", Some(Runs::InTransaction)),
            ("CREATE INDEX CONCURRENTLY ON t (a)", Some(Runs::Alone)),
            ("DROP INDEX CONCURRENTLY i", Some(Runs::Alone)),
            ("REINDEX (CONCURRENTLY) TABLE t", Some(Runs::Alone)),
            ("REINDEX SCHEMA public", Some(Runs::Alone)),
            ("REINDEX INDEX i", Some(Runs::AloneOrInBlock)),
            ("REINDEX TABLE t", Some(Runs::AloneOrInBlock)),
            ("CLUSTER", Some(Runs::Alone)),
            ("CLUSTER t USING i", Some(Runs::AloneOrInBlock)),
            ("ALTER TABLE p DETACH PARTITION t CONCURRENTLY", Some(Runs::Alone)),
            ("ALTER TABLE p DETACH PARTITION t", Some(Runs::InTransaction)),
            ("CREATE FOREIGN TABLE t (a int) SERVER s", None),
            ("IMPORT FOREIGN SCHEMA a FROM SERVER s INTO b", None),
            ("CREATE SCHEMA s CREATE TABLE t (a int)", None),
            ("REFRESH MATERIALIZED VIEW m", Some(Runs::InTransaction)),
            ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", Some(Runs::Alone)),
            ("VACUUM t", Some(Runs::Alone)),
            ("TRUNCATE t", Some(Runs::InTransaction)),
            ("TRUNCATE t; TRUNCATE t", None),
            ("TRUNCAT t", None),
        ] {
            assert_eq!(runs(text), expected, "{text}");
        }
    }

    #[test]
    fn what_leaves_its_name_or_its_table_is_known() {
        for (text, expected) in [
            ("ALTER TABLE p DETACH PARTITION a.t", "a.t"),
            ("ALTER TABLE p DETACH PARTITION t CONCURRENTLY", "t"),
            ("ALTER TABLE p DETACH PARTITION t FINALIZE", "t"),
            ("ALTER TABLE p ATTACH PARTITION t DEFAULT", ""),
            ("ALTER TABLE t NO INHERIT p, ADD a int", "t"),
            ("ALTER TABLE t INHERIT p", ""),
            ("ALTER SEQUENCE s OWNED BY NONE", "s"),
            ("ALTER SEQUENCE s OWNED BY t.a RESTART", ""),
            ("ALTER TABLE a.t RENAME TO b", "a.t > a.b"),
            ("ALTER INDEX i RENAME TO b", "i > b"),
            ("ALTER TABLE t RENAME a TO b", ""),
            ("ALTER TABLE t RENAME CONSTRAINT a TO b", ""),
            ("ALTER TABLE t SET SCHEMA b", "t > b.t"),
            ("ALTER TYPE t SET SCHEMA b", ""),
        ] {
            let name = |table: &TableRef| match &table.schema {
                Some(schema) => format!("{schema}.{}", table.name),
                None => table.name.clone(),
            };
            let both = |parted: &Parted| match &parted.was {
                Some(was) => format!("{} > {}", name(was), name(&parted.is)),
                None => name(&parted.is),
            };
            assert_eq!(parted(text).iter().map(both).collect::<Vec<_>>().join(" "), expected, "{text}");
        }
    }

    #[test]
    fn new_columns_of_copies_are_alike() {
        for (text, expected) in [
            ("ALTER TABLE r ADD COLUMN n int DEFAULT 7, ADD m text NOT NULL DEFAULT 'a'", None),
            ("ALTER TABLE r ALTER n SET DEFAULT nextval('s'), DROP m", None),
            ("ALTER TABLE r ADD u uuid DEFAULT gen_random_uuid()", Some("random")),
            ("ALTER TABLE r ADD n int DEFAULT 7, ADD at timestamptz DEFAULT now()", Some("clock")),
            ("ALTER TABLE r ADD n bigserial", Some("sequence")),
            ("ALTER TABLE r ADD n int GENERATED ALWAYS AS IDENTITY", Some("sequence")),
            ("ALTER TABLE r ALTER n TYPE float8 USING random()", Some("random")),
            ("ALTER TABLE r ALTER n TYPE text USING upper(n)", None),
            ("TRUNCATE r", None),
        ] {
            assert_eq!(keeps_copies(text).is_ok_and(|computes| computes), text.contains("upper"), "{text}");
            assert_eq!(keeps_copies(text).err().map(|unfit| unfit.construct), expected, "{text}");
        }
    }
}
