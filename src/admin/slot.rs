//! SHOW SLOT: where the rows of a key lie, by the code that decides it for statements.

use super::parse::nearest;
use super::show::{Column, INT4, INT8, TEXT, Table};
use crate::error::{Error, Result, SqlState};
use crate::shard::hash;
use crate::shard::key::{Key, KeyError};
use crate::shard::map::{self, DEFAULT_SCHEMA, ShardMap};
use crate::shard::table_key::{KeyColumn, TableKey, slot_of_columns};

/// A relation that is not there.
const UNDEFINED_TABLE: SqlState = SqlState(*b"42P01");

/// The answer to `SHOW SLOT FOR database 'table' 'key' ...`, with a value for each column of the key. The hash is that of the column, of several
/// what `hash_combine64` makes of theirs. `utf8`: the servers' own encoding is UTF8, as far as is known.
///
/// # Errors
/// 0A000 for a database that is not sharded, 42P01 for a table that is not listed, with the nearest; 22023 for a reference table; what
/// PostgreSQL says of a key that is none of its type; 22023 for other numbers of values than the key has columns.
pub fn slot(database: &str, map: &ShardMap, table: &str, values: &[String], utf8: bool) -> Result<Table> {
    if !map.is_sharded() {
        let message = format!("database \"{database}\" is not sharded: all rows lie on its one shard");
        return Err(Error::client(SqlState::FEATURE_NOT_SUPPORTED, message)
            .hint("SHOW SHARDS shows the shards of all databases; name another one with SHOW SLOT FOR database 'table' 'key'."));
    }
    let key = key_of(map, table)?;
    if key.width() != values.len() {
        let columns = if key.width() == 1 { "column" } else { "columns" };
        let message = format!("the sharding key of \"{table}\" has {} {columns}, not {}", key.width(), values.len());
        return Err(Error::client(SqlState::INVALID_PARAMETER_VALUE, message)
            .hint(format!("Give a value each for \"{}\", in this order.", key.quoted())));
    }
    let read = |(value, column): (&String, &KeyColumn)| {
        let read = Key::from_text(value.as_bytes(), column.key_type, utf8);
        read.map(|key| key.hash()).map_err(|error| unreadable(error, table, &column.name))
    };
    let hashes = values.iter().zip(key.columns()).map(read).collect::<Result<Vec<u64>>>()?;
    let slot = slot_of_columns(hashes.iter().copied());
    let hash = match hashes.as_slice() {
        [hash] => *hash,
        several => several.iter().copied().fold(0, hash::combine),
    };
    let (names, types) = key.shown();
    let columns = [
        ("database", TEXT),
        ("table", TEXT),
        ("key", TEXT),
        ("type", TEXT),
        ("hash", INT8),
        ("slot", INT4),
        ("shard", TEXT),
    ];
    let row = [
        database.to_owned(),
        table.to_owned(),
        names,
        types,
        hash.cast_signed().to_string(),
        slot.to_string(),
        map.name(map.owner(slot)).to_owned(),
    ];
    Ok(Table {
        columns: columns.iter().map(|(name, type_oid)| Column { name, type_oid: *type_oid }).collect(),
        rows: vec![row.into_iter().map(Some).collect()],
    })
}

/// The key of a table.
fn key_of<'a>(map: &'a ShardMap, table: &str) -> Result<&'a TableKey> {
    let (schema, name) = table.split_once('.').map_or((None, table), |(schema, name)| (Some(schema), name));
    // A name may have a dot in it.
    let listed = map.table(None, table).or_else(|| map.table(schema, name));
    match listed {
        Some(map::Table::Sharded { key }) => Ok(key),
        Some(map::Table::Reference) => Err(Error::client(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("\"{table}\" is a reference table, of which every shard has all rows"),
        )
        .hint("SHOW TABLES shows which tables have a key.")),
        None => Err(unlisted(map, table)),
    }
}

fn unlisted(map: &ShardMap, table: &str) -> Error {
    let default = map.name(map.default_shard);
    let error = Error::client(UNDEFINED_TABLE, format!("table \"{table}\" is not listed as sharded"))
        .detail(format!("A table that is not listed lives on the default shard, \"{default}\"."));
    let names = map.tables.keys().map(|(schema, name)| shown(schema, name));
    let names: Vec<String> = names.collect();
    match nearest(table, names.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("Perhaps you meant '{near}'. SHOW TABLES lists them.")),
        None => error.hint("SHOW TABLES lists them."),
    }
}

/// A table's name as SHOW SLOT takes it.
fn shown(schema: &str, name: &str) -> String {
    if schema == DEFAULT_SCHEMA { name.to_owned() } else { format!("{schema}.{name}") }
}

fn unreadable(error: KeyError, table: &str, column: &str) -> Error {
    let hint = format!("The key of \"{table}\" is \"{column}\".");
    match error {
        KeyError::Invalid(error) => error.hint(hint),
        KeyError::NotConstant(what) => {
            Error::client(SqlState::FEATURE_NOT_SUPPORTED, format!("the key is {what}")).hint(hint)
        }
        // A text is neither of these.
        KeyError::Null | KeyError::Default | KeyError::Unbound(_) | KeyError::Undecided(_) => {
            Error::us(SqlState::INTERNAL_ERROR, "the key cannot be read").hint(hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::id::ShardIndex;
    use crate::shard::map::KeyType;

    fn map() -> ShardMap {
        let listed = |schema: &str, name: &str, table| ((schema.to_owned(), name.to_owned()), table);
        let sharded = |key_type| map::Table::sharded("k", key_type);
        let tables = BTreeMap::from([
            listed("public", "orders", sharded(KeyType::Integer { width: 8 })),
            listed("crm", "notes", sharded(KeyType::Text)),
            listed("public", "devices", sharded(KeyType::Uuid)),
            listed("public", "countries", map::Table::Reference),
        ]);
        let ranges = vec![vec![(0, 8191)], vec![(8192, 16383)]];
        ShardMap::new(vec!["s0".to_owned(), "s1".to_owned()], ranges, tables, ShardIndex(0)).unwrap()
    }

    fn cells(table: &str, key: &str) -> Vec<String> {
        let answer = slot("shop", &map(), table, &[key.to_owned()], true).unwrap();
        answer.rows[0].iter().map(|cell| cell.clone().unwrap()).skip(3).collect()
    }

    /// The vectors of PostgreSQL 15 that [`crate::shard::hash`] is held to.
    #[test]
    fn keys_of_every_type_have_their_slot() {
        let hash = |hash: u64| hash.cast_signed().to_string();
        assert_eq!(cells("orders", "42"), ["bigint", &hash(0x6632_18bc_fb84_b17f), "6754", "s0"]);
        assert_eq!(cells("orders", " -1 "), ["bigint", &hash(0xba5f_c748_0956_06c2), "12197", "s1"]);
        assert_eq!(cells("crm.notes", "abc"), ["text", &hash(0x325c_02d1_6f43_e1c2), "2725", "s0"]);
        let uuid = "123e4567-e89b-12d3-a456-426614174000";
        assert_eq!(cells("devices", uuid), ["uuid", &hash(0xee9f_87f3_44f2_caa2), "13189", "s1"]);
    }

    #[test]
    fn a_key_of_several_columns_is_told_by_all_of_them() {
        let columns = [("a", KeyType::Integer { width: 8 }), ("b", KeyType::Text)]
            .map(|(name, key_type)| KeyColumn { name: name.to_owned(), key_type });
        let mut map = map();
        let pairs = map::Table::Sharded { key: TableKey::new(columns.to_vec()).unwrap() };
        map.tables.insert(("public".to_owned(), "pairs".to_owned()), pairs);
        let told = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            slot("shop", &map, "pairs", &values, true)
        };
        let row: Vec<String> = told(&["1", "a"]).unwrap().rows[0].iter().flatten().cloned().collect();
        assert_eq!(
            (row[2].as_str(), row[3].as_str(), row[5].as_str(), row[6].as_str()),
            ("a,b", "bigint,text", "11205", "s1")
        );
        for values in [&["1"] as &[_], &["1", "a", "b"]] {
            let error = told(values).unwrap_err();
            assert_eq!((error.sqlstate.to_string().as_str(), error.hint.is_some()), ("22023", true), "{values:?}");
        }
        assert_eq!(told(&["x", "a"]).unwrap_err().sqlstate.to_string(), "22P02");
    }

    #[test]
    fn what_has_no_slot_is_refused_with_what_to_do() {
        let error = |table: &str, key: &str| {
            let error = slot("shop", &map(), table, &[key.to_owned()], true).unwrap_err();
            (error.sqlstate.to_string(), error.hint.unwrap_or_default())
        };
        let (state, hint) = error("oders", "1");
        assert_eq!((state.as_str(), hint.as_str()), ("42P01", "Perhaps you meant 'orders'. SHOW TABLES lists them."));
        assert!(error("crm.note", "1").1.contains("'crm.notes'"));
        assert_eq!(error("notes", "1").0, "42P01", "another schema");
        assert_eq!(error("countries", "1").0, "22023");
        assert_eq!(error("orders", "one"), ("22P02".to_owned(), "The key of \"orders\" is \"k\".".to_owned()));
        assert_eq!(error("orders", "9223372036854775808").0, "22003");
        let beyond = slot("shop", &map(), "crm.notes", &["żółć".to_owned()], false).unwrap_err();
        assert_eq!(beyond.sqlstate, SqlState::FEATURE_NOT_SUPPORTED);
        let whole = slot("logs", &ShardMap::single(), "t", &["1".to_owned()], true).unwrap_err();
        assert_eq!(whole.sqlstate, SqlState::FEATURE_NOT_SUPPORTED);
    }
}
