//! SET and RESET: what they leave in the session.
//!
//! See <https://www.postgresql.org/docs/current/sql-set.html>.

use pg_raw_parse::{ConstValue, Node, nodes, raw};

use super::facts::{PinReason, SessionEffect};

/// Settings whose value is a list of identifiers: SET quotes each item, so that `SET search_path = 'a,b'` names one schema.
/// (The settings that PostgreSQL marks GUC_LIST_QUOTE and that a session may set.)
const IDENTIFIER_LISTS: &[&str] =
    &["local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"];

/// Settings of the transaction at hand: nothing of them outlives it.
const OF_TRANSACTION: &[&str] = &["transaction_deferrable", "transaction_isolation", "transaction_read_only"];

/// Settings that speak of the session: pgweir brings them along to each server, or they are the same on all. Sorted by name.
/// Of all others (`transaction_read_only`, `in_hot_standby`, what configuration files say) each server has its own value.
const OF_SESSION: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "extra_float_digits",
    "integer_datetimes",
    "intervalstyle",
    "is_superuser",
    "lock_timeout",
    "role",
    "search_path",
    "server_encoding",
    "session_authorization",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction_deferrable",
    "transaction_isolation",
];

/// Whether a setting speaks of the session, so that any server will do to show it. Those with a dot are applications' own.
pub(super) fn is_the_sessions(name: &str) -> bool {
    name.contains('.') || OF_SESSION.binary_search(&&*name.to_lowercase()).is_ok()
}

/// Appends what a SET or RESET leaves behind when it succeeds.
pub(super) fn effects(stmt: &nodes::VariableSetStmt, effects: &mut Vec<SessionEffect>) {
    if stmt.is_local {
        return;
    }
    let name = stmt.name().unwrap_or_default().to_lowercase();
    match stmt.kind {
        raw::VariableSetKind::VAR_RESET_ALL => effects.push(SessionEffect::ResetAll),
        _ if OF_TRANSACTION.contains(&name.as_str()) => {}
        raw::VariableSetKind::VAR_SET_DEFAULT | raw::VariableSetKind::VAR_RESET => {
            effects.push(SessionEffect::Reset { name });
        }
        raw::VariableSetKind::VAR_SET_VALUE => set_value(name, stmt, effects),
        raw::VariableSetKind::VAR_SET_MULTI => match name.as_str() {
            "transaction" | "transaction snapshot" => {}
            _ => effects.push(SessionEffect::Pin(PinReason::Identity)),
        },
        _ => effects.push(SessionEffect::Pin(PinReason::Setting)),
    }
}

fn set_value(name: String, stmt: &nodes::VariableSetStmt, effects: &mut Vec<SessionEffect>) {
    match name.as_str() {
        "role" | "session_authorization" => return effects.push(SessionEffect::Pin(PinReason::Identity)),
        // `SET seed = 0.5` is setseed() by another name.
        "seed" => return effects.push(SessionEffect::Pin(PinReason::SequenceState)),
        _ => {}
    }
    let quote = IDENTIFIER_LISTS.contains(&name.as_str());
    let mut items = Vec::new();
    for arg in stmt.args() {
        let Some(item) = item(arg, quote) else {
            // An interval (SET TIME ZONE INTERVAL '...'): its value is what the server makes of it.
            return effects.push(SessionEffect::Pin(PinReason::Setting));
        };
        items.push(item);
    }
    if name == "search_path" && items.iter().any(|i| i == "pg_temp") {
        // What is created from here on may be temporary without saying so.
        effects.push(SessionEffect::Pin(PinReason::TempObject));
    }
    effects.push(SessionEffect::Set { name, value: items.join(", ") });
}

fn item(arg: Node<'_>, quote: bool) -> Option<String> {
    let Node::A_Const(constant) = arg else { return None };
    match constant.val()? {
        ConstValue::String(s) if quote => Some(quote_identifier(s)),
        value @ (ConstValue::String(_) | ConstValue::Integer(_) | ConstValue::Float(_)) => Some(value.to_string()),
        _ => None,
    }
}

/// `name` as an identifier in SQL: as it stands when it is lower-case letters, digits and underscores, else in double
/// quotes. Keywords are not quoted; inside a list of names, such as `search_path`, they need not be.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    let mut chars = name.bytes();
    let plain = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == b'_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// `text` as a string literal in SQL, right whatever `standard_conforming_strings` says.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let quotes = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", quotes.replace('\\', "\\\\")) } else { format!("'{quotes}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for (name, quoted) in [
            ("a", "a"),
            ("_a1", "_a1"),
            ("1a", "\"1a\""),
            ("", "\"\""),
            ("A", "\"A\""),
            ("$user", "\"$user\""),
            ("a\"b", "\"a\"\"b\""),
            ("é", "\"é\""),
        ] {
            assert_eq!(quote_identifier(name), quoted);
        }
    }

    #[test]
    fn settings_of_the_session() {
        assert!(OF_SESSION.is_sorted());
        for (name, is) in [("TimeZone", true), ("app.tenant", true), ("transaction_read_only", false), ("all", false)] {
            assert_eq!(is_the_sessions(name), is, "{name}");
        }
    }

    #[test]
    fn literals() {
        for (text, quoted) in [("", "''"), ("a", "'a'"), ("it's", "'it''s'"), ("a\\'b", " E'a\\\\''b'")] {
            assert_eq!(quote_literal(text), quoted);
        }
    }
}
