//! EXPLAIN ROUTE: which database it means, and the form of its answer.

use super::parse::nearest;
use super::show::{Column, TEXT, Table};
use crate::error::{Error, Result, SqlState};

/// The database that an EXPLAIN ROUTE means: the one it names, or the only one there is.
///
/// # Errors
/// 3D000 for a name that is not configured, with the nearest; 42601 when none is named and there is not exactly one.
pub fn database<'a>(named: Option<&str>, mut configured: impl Iterator<Item = &'a str> + Clone) -> Result<&'a str> {
    let Some(name) = named else {
        return match (configured.next(), configured.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Error::us(SqlState::UNDEFINED_DATABASE, "no database is configured")),
            (Some(_), Some(_)) => Err(Error::client(SqlState::SYNTAX_ERROR, "several databases are configured")
                .hint("Name one: EXPLAIN ROUTE FOR database 'sql', SHOW SLOT FOR database 'table' 'key'.")),
        };
    };
    configured.clone().find(|d| *d == name).ok_or_else(|| {
        let error = Error::client(SqlState::UNDEFINED_DATABASE, format!("database \"{name}\" is not configured"));
        match nearest(name, configured) {
            Some(proposal) => error.hint(format!("Perhaps you meant \"{proposal}\".")),
            None => error.hint("SHOW DATABASES lists them."),
        }
    })
}

/// The answer: a line per item and what was found about it.
#[must_use]
pub fn table(lines: Vec<(&'static str, String)>) -> Table {
    Table {
        columns: vec![Column { name: "item", type_oid: TEXT }, Column { name: "value", type_oid: TEXT }],
        rows: lines.into_iter().map(|(item, value)| vec![Some(item.to_owned()), Some(value)]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_needed_unless_there_is_only_one() {
        let find = |named, configured: &[&'static str]| {
            database(named, configured.iter().copied()).map_err(|e| (e.sqlstate, e.hint.unwrap_or_default()))
        };
        assert_eq!(find(None, &["shop"]), Ok("shop"));
        assert_eq!(find(Some("logs"), &["shop", "logs"]), Ok("logs"));
        assert_eq!(find(None, &["shop", "logs"]).unwrap_err().0, SqlState::SYNTAX_ERROR);
        assert_eq!(find(None, &[]).unwrap_err().0, SqlState::UNDEFINED_DATABASE);
        let (state, hint) = find(Some("shpo"), &["logs", "shop"]).unwrap_err();
        assert_eq!((state, hint.as_str()), (SqlState::UNDEFINED_DATABASE, "Perhaps you meant \"shop\"."));
        assert_eq!(find(Some("SHOP"), &["shop"]).unwrap_err().0, SqlState::UNDEFINED_DATABASE);
    }

    #[test]
    fn the_answer_has_a_line_per_item() {
        let table = table(vec![("role", "primary".to_owned())]);
        assert_eq!(table.rows, [[Some("role".to_owned()), Some("primary".to_owned())]]);
        assert_eq!(table.columns.len(), 2);
    }
}
