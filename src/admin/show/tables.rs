//! SHOW TABLES: the tables of sharded databases, and on which shards they were found.

use super::{Field, TEXT, Table, table_of, text};
use crate::metrics::snapshot::{Snapshot, TableSnapshot};

pub(super) fn tables(s: &Snapshot) -> Table {
    let fields: [Field<TableSnapshot>; 9] = [
        ("database", TEXT, |r| text(&r.database)),
        ("schema", TEXT, |r| text(&r.schema)),
        ("table", TEXT, |r| text(&r.name)),
        ("kind", TEXT, |r| text(r.kind.as_str())),
        ("key", TEXT, |r| r.key.as_ref().map(|(name, _)| name.clone())),
        ("type", TEXT, |r| r.key.as_ref().map(|(_, key_type)| key_type.clone())),
        ("found_on", TEXT, |r| text(r.found_on.join(","))),
        ("missing_on", TEXT, |r| text(r.missing_on.join(","))),
        ("not_asked", TEXT, |r| text(r.not_asked.join(","))),
    ];
    table_of(&fields, &s.tables)
}
