//! DDL that may give rows another sharding key than they lie by: what a text does to columns of tables that are there.

use pg_raw_parse::raw::{AlterTableType, ObjectType};
use pg_raw_parse::{Node, nodes};

use crate::sql::facts::TableRef;
use crate::sql::parse;
use crate::sql::shape::{cast_name, column};
use crate::sql::walk::table_ref;

/// What is done to a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Altered {
    /// Its values are cast to these types, one after the other: the types' names, as the grammar folds them.
    Cast(Vec<String>),
    /// It gets values that are computed, or are cut.
    Computed,
    /// It has another name afterwards, so that another may get this one.
    Renamed,
    /// It is no more, so that another may get its name.
    Dropped,
}

/// A column that ALTER TABLE changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its table.
    pub table: TableRef,
    /// Its name of before.
    pub name: String,
    /// What is done to it.
    pub altered: Altered,
}

/// The columns whose values or names a text changes by ALTER TABLE; none if it cannot be parsed.
#[must_use]
pub fn columns(text: &str) -> Vec<Column> {
    parse::read(text.as_bytes(), |statements| statements.flat_map(|(_, node)| of(node)).collect()).unwrap_or_default()
}

fn of(node: Node<'_>) -> Vec<Column> {
    match node {
        Node::AlterTableStmt(stmt) => {
            let Some(table) = stmt.relation().map(table_ref) else { return Vec::new() };
            let change = |command: Node<'_>| {
                let Node::AlterTableCmd(command) = command else { return None };
                let name = command.name()?.to_owned();
                let altered = match (command.subtype, command.def()) {
                    (AlterTableType::AT_DropColumn, _) => Altered::Dropped,
                    (AlterTableType::AT_AlterColumnType, Node::ColumnDef(column)) => cast(&name, column),
                    (AlterTableType::AT_AlterColumnType, _) => Altered::Computed,
                    _ => return None,
                };
                Some(Column { table: table.clone(), name, altered })
            };
            stmt.cmds().iter().filter_map(change).collect()
        }
        Node::RenameStmt(stmt) if stmt.rename_type == ObjectType::OBJECT_COLUMN => {
            let both = stmt.relation().map(table_ref).zip(stmt.subname());
            let renamed = |(table, name): (_, &str)| Column { table, name: name.to_owned(), altered: Altered::Renamed };
            both.map(renamed).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// ALTER COLUMN TYPE, with USING that is the column itself, perhaps under casts, or with another.
fn cast(name: &str, definition: &nodes::ColumnDef) -> Altered {
    let mut types = Vec::new();
    let mut value = definition.raw_default();
    while let Node::TypeCast(cast) = value {
        let Some(to) = cast.type_name().and_then(cast_name) else { return Altered::Computed };
        types.push(to);
        value = cast.arg();
    }
    let is_itself = match value {
        Node::None => true,
        value => column(value).is_some_and(|column| column.column == name),
    };
    match definition.type_name().and_then(cast_name) {
        Some(to) if is_itself => {
            types.reverse();
            types.push(to);
            Altered::Cast(types)
        }
        _ => Altered::Computed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_columns_is_known() {
        let cast = |types: &[&str]| Some(Altered::Cast(types.iter().map(|name| (*name).to_owned()).collect()));
        for (text, expected) in [
            ("ALTER TABLE t ALTER k TYPE bigint", cast(&["int8"])),
            ("ALTER TABLE t ALTER COLUMN k SET DATA TYPE text COLLATE \"C\"", cast(&["text"])),
            ("ALTER TABLE t ALTER k TYPE int8 USING k::int4::int8", cast(&["int4", "int8", "int8"])),
            ("ALTER TABLE t ALTER k TYPE int8 USING \"k\"", cast(&["int8"])),
            ("ALTER TABLE t ALTER k TYPE int8 USING k + 1000", Some(Altered::Computed)),
            ("ALTER TABLE t ALTER k TYPE int8 USING n", Some(Altered::Computed)),
            ("ALTER TABLE t ALTER k TYPE text USING lower(k)", Some(Altered::Computed)),
            ("ALTER TABLE t ALTER k TYPE varchar(3)", Some(Altered::Computed)),
            ("ALTER TABLE t ALTER k TYPE text USING k::varchar(3)", Some(Altered::Computed)),
            ("ALTER TABLE t ALTER k TYPE int8[] USING ARRAY[k]", Some(Altered::Computed)),
            ("ALTER TABLE t RENAME k TO old", Some(Altered::Renamed)),
            ("ALTER TABLE t RENAME COLUMN k TO old", Some(Altered::Renamed)),
            ("ALTER TABLE t DROP COLUMN IF EXISTS k CASCADE", Some(Altered::Dropped)),
            ("ALTER TABLE t RENAME TO k", None),
            ("ALTER TABLE t ADD COLUMN k int8, ALTER k SET NOT NULL, ALTER k SET DEFAULT 5", None),
            ("ALTER TABLE t DROP CONSTRAINT k", None),
        ] {
            let found = columns(text);
            assert!(found.iter().all(|column| column.name == "k" && column.table.name == "t"), "{text}: {found:?}");
            assert_eq!(found.into_iter().map(|column| column.altered).next(), expected, "{text}");
        }
        assert_eq!(columns("ALTER TABLE t ALTER n TYPE text, ALTER k TYPE text USING n").len(), 2);
    }
}
