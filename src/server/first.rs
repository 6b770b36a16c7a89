//! The first thing that a server connection runs: `connect_query`. What that sets is the connection's own from then on: whoever wants
//! nothing else of a setting finds it, whatever others have set or reset before.

use std::collections::BTreeSet;
use std::io;

use crate::error::{Error, SqlState};
use crate::server::{Connection, Target};
use crate::session::settings::{OWN_PREFIX, Values, from_hex, is_reported, quote};
use crate::sql::facts::{QueryFacts, SessionEffect};
use crate::sql::hidden::is_plain_text;
use crate::sql::parse;
use crate::sql::settings::is_of_transaction;

/// What has been set in the session, and what it is; in an encoding that needs no thought. Who the session is `pg_settings` does not list.
const QUESTION: &str = "SELECT name, \
    pg_catalog.encode(pg_catalog.convert_to(pg_catalog.current_setting(name, true), 'UTF8'), 'hex') \
    FROM (SELECT name::pg_catalog.text FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
    UNION ALL SELECT 'role' UNION ALL SELECT 'session_authorization'";

/// Runs `connect_query`, `sql`. What the server says against it is logged and forgotten, as in PgBouncer.
///
/// # Errors
/// Of the connection, which cannot be used any more.
pub(super) async fn run(connection: &mut Connection, target: &Target, sql: &str) -> Result<(), Error> {
    let lost = |error: io::Error| {
        let address = target.address();
        let message = format!("connection to server {address} failed during connect_query: {error}");
        Error::server(SqlState::CONNECTION_FAILURE, message)
    };
    let warn = |error: Error| {
        tracing::warn!(server = %target.address(), database = target.dbname, %error, "connect_query failed");
    };
    if let Err(error) = connection.run(sql).await.map_err(lost)? {
        warn(error);
    }
    let facts = parse::facts(sql.as_bytes());
    if !may_set(&facts) {
        return Ok(());
    }
    match connection.rows(&question(&facts)).await.map_err(lost)? {
        Ok(rows) => {
            connection.state.settings.begins_with(given(&rows, &target.user));
            let Connection { state, welcome, .. } = connection;
            for (name, value) in welcome {
                if let Some(reported) = state.settings.reported(&name.to_ascii_lowercase()) {
                    reported.clone_into(value);
                }
            }
        }
        Err(error) => warn(error),
    }
    Ok(())
}

/// [`QUESTION`], with the settings of an application's own that the text names: those `pg_settings` does not list either.
fn question(facts: &QueryFacts) -> String {
    let named = facts.statements.iter().flat_map(|statement| &statement.effects).filter_map(|effect| match effect {
        SessionEffect::Set { name, .. } | SessionEffect::SetUnknown { name } if name.contains('.') => Some(name),
        _ => None,
    });
    let named: BTreeSet<_> = named.collect();
    let named: String = named.into_iter().map(|name| format!(" UNION ALL SELECT {}", quote(name))).collect();
    format!("{QUESTION}{named}) AS s (name)")
}

/// Whether it may have set anything.
fn may_set(facts: &QueryFacts) -> bool {
    !is_plain_text(facts) || facts.statements.iter().any(|statement| !statement.effects.is_empty())
}

/// What it has set that is not reported, by the rows that answer [`QUESTION`]; `user`: who has logged in.
fn given(rows: &[Vec<Option<String>>], user: &str) -> Values {
    let setting = |row: &Vec<Option<String>>| {
        let (name, value) = (row.first()?.as_ref()?, from_hex(row.get(1)?.as_deref()?)?);
        let is_usual = match name.as_str() {
            "role" => value == "none",
            "session_authorization" => value == user,
            // It tells nobody what it is.
            "seed" => true,
            name => is_reported(&name.to_ascii_lowercase()) || is_of_transaction(name) || name.starts_with(OWN_PREFIX),
        };
        (!is_usual).then(|| (name.to_ascii_lowercase(), value))
    };
    rows.iter().filter_map(setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_told_from_what_is_always_so() {
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let row = |name: &str, value: &str| vec![Some(name.to_owned()), Some(hex(value))];
        let usual = [
            row("role", "none"),
            row("session_authorization", "app"),
            row("TimeZone", "Asia/Tokyo"),
            row("transaction_isolation", "serializable"),
            vec![Some("work_mem".to_owned()), None],
            vec![Some("work_mem".to_owned()), Some("no hex".to_owned())],
        ];
        assert_eq!(given(&usual, "app"), Values::new());
        let set = [row("role", "r"), row("session_authorization", "other"), row("app.who", "caf\u{e9}")];
        let expected = [("role", "r"), ("session_authorization", "other"), ("app.who", "caf\u{e9}")];
        let expected: Values = expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(given(&set, "app"), expected);
    }

    #[test]
    fn what_can_set_nothing_costs_no_question() {
        let may = |sql: &str| may_set(&parse::facts(sql.as_bytes()));
        assert!(!may("SELECT 1") && !may("VALUES (1), (2)"));
        for sql in [
            "SET ROLE r",
            "SET app.who = 1",
            "SELECT set_config('a.b', 'c', false)",
            "SELECT f()",
            "DO $$$$",
            "nonsense",
        ] {
            assert!(may(sql), "{sql}");
        }
    }
}
