//! SET and RESET: what they leave in the session.
//!
//! See <https://www.postgresql.org/docs/current/sql-set.html>.

use pg_raw_parse::{ConstValue, Node, nodes, raw};

use super::facts::{ConfigArg, LocalSet, PinReason, SessionEffect};
use super::shape::cast_name;

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

/// Whether it is a setting of the transaction at hand: nothing of it outlives that.
#[must_use]
pub fn is_of_transaction(name: &str) -> bool {
    OF_TRANSACTION.contains(&name)
}

/// Whether an effect is that of a setting.
pub(super) fn is_setting(effect: &SessionEffect) -> bool {
    use SessionEffect as E;
    match effect {
        E::Set { .. } | E::SetUnknown { .. } | E::SetByParams { .. } | E::Reset { .. } | E::ResetAll => true,
        E::Pin(reason) => *reason == PinReason::Setting,
        E::DiscardAll | E::DeallocateAll | E::Deallocate { .. } | E::Local { .. } => false,
    }
}

/// The effects of a statement that may run, or not, or more than once.
#[must_use]
pub fn in_doubt(effects: Vec<SessionEffect>) -> Vec<SessionEffect> {
    let doubt = |effect| match effect {
        SessionEffect::Set { name, .. } | SessionEffect::Reset { name } => SessionEffect::SetUnknown { name },
        SessionEffect::SetByParams { name, .. } => unknown(&name),
        effect => effect,
    };
    effects.into_iter().map(doubt).collect()
}

/// Appends what a SET or RESET leaves behind when it succeeds.
pub(super) fn effects(stmt: &nodes::VariableSetStmt, effects: &mut Vec<SessionEffect>) {
    let name = canonical(stmt.name().unwrap_or_default());
    if stmt.is_local {
        if name == "seed" {
            effects.push(SessionEffect::Pin(PinReason::Seed));
        }
        return;
    }
    match stmt.kind {
        raw::VariableSetKind::VAR_RESET_ALL => effects.push(SessionEffect::ResetAll),
        _ if OF_TRANSACTION.contains(&name.as_str()) => {}
        raw::VariableSetKind::VAR_SET_DEFAULT | raw::VariableSetKind::VAR_RESET => {
            effects.push(SessionEffect::Reset { name });
        }
        raw::VariableSetKind::VAR_SET_VALUE => match value(stmt) {
            Some(value) => assign(name, value, effects),
            None => effects.push(SessionEffect::SetUnknown { name }),
        },
        raw::VariableSetKind::VAR_SET_MULTI if name == "session characteristics" => characteristics(stmt, effects),
        // SET TRANSACTION
        raw::VariableSetKind::VAR_SET_MULTI => {}
        _ => effects.push(SessionEffect::SetUnknown { name }),
    }
}

/// The name of a setting as it is kept: in lower case, and the present one for those that were renamed.
#[must_use]
pub fn canonical(name: &str) -> String {
    match name.to_ascii_lowercase() {
        name if name == "sort_mem" => "work_mem".to_owned(),
        name if name == "vacuum_mem" => "maintenance_work_mem".to_owned(),
        name => name,
    }
}

/// The settings by which PostgreSQL reads quoted literals as it parses a text, of which clients may have others than their server's.
pub const READERS: [&str; 9] = [
    "array_nulls",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "standard_conforming_strings",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// What names mean hangs on these.
pub const NAMERS: [&str; 3] = ["search_path", "session_authorization", "role"];

/// Whether what a text means hangs on this setting, its name in lower case: the reading of its literals, or what its names lead to.
#[must_use]
pub fn is_meant_by(name: &str) -> bool {
    is_read_by(name) || NAMERS.contains(&name)
}

/// What a SET LOCAL sets of that.
pub(super) fn local(stmt: &nodes::VariableSetStmt) -> Option<LocalSet> {
    let name = canonical(stmt.name().unwrap_or_default());
    is_meant_by(&name)
        .then(|| LocalSet { name: Some(ConfigArg::Literal(name)), value: value(stmt).map(ConfigArg::Literal) })
}

/// What a call of set_config() sets of that for the transaction, somewhere in a statement: nobody knows whether it runs.
pub(super) fn some_local(call: &nodes::FuncCall) -> Option<LocalSet> {
    let argument = |at| call.args().get(at).and_then(argument);
    let of_session = matches!(argument(2), Some(ConfigArg::Literal(word)) if boolean(&word) == Some("f"));
    of_call(argument(0), None).filter(|_| !of_session)
}

fn of_call(name: Option<ConfigArg>, value: Option<ConfigArg>) -> Option<LocalSet> {
    match name {
        Some(ConfigArg::Literal(name)) => {
            let name = canonical(&name);
            is_meant_by(&name).then_some(LocalSet { name: Some(ConfigArg::Literal(name)), value })
        }
        Some(ConfigArg::Null) => None,
        name => Some(LocalSet { name, value }),
    }
}

/// Whether the reading of texts hangs on this setting, its name in lower case.
#[must_use]
pub fn is_read_by(name: &str) -> bool {
    name == "client_encoding" || READERS.contains(&name)
}

/// The value that a SET gives, as one string. None where it gives the default, and for an interval (SET TIME ZONE INTERVAL '...'): its value is
/// what the server makes of it.
pub(super) fn value(stmt: &nodes::VariableSetStmt) -> Option<String> {
    if stmt.kind != raw::VariableSetKind::VAR_SET_VALUE {
        return None;
    }
    let quote = IDENTIFIER_LISTS.contains(&canonical(stmt.name().unwrap_or_default()).as_str());
    let items: Option<Vec<String>> = stmt.args().iter().map(|arg| item(arg, quote)).collect();
    Some(items?.join(", "))
}

/// Appends what giving a setting a value leaves behind. The name is a canonical one.
pub fn assign(name: String, value: String, effects: &mut Vec<SessionEffect>) {
    match name.as_str() {
        // `SET seed = 0.5` is setseed() by another name.
        "seed" => return effects.push(SessionEffect::Pin(PinReason::Seed)),
        // The server keeps what the name means now, by the search_path of now.
        "default_text_search_config" => return effects.push(SessionEffect::SetUnknown { name }),
        _ => {}
    }
    effects.push(SessionEffect::Set { name, value });
}

/// Whether the schema of temporary objects is named in a value of `search_path`.
#[must_use]
pub fn names_temp(path: &str) -> bool {
    path.split(',').any(|item| item.trim().trim_matches('"').eq_ignore_ascii_case("pg_temp"))
}

/// SET SESSION CHARACTERISTICS AS TRANSACTION ...: the defaults of three settings.
fn characteristics(stmt: &nodes::VariableSetStmt, effects: &mut Vec<SessionEffect>) {
    for option in stmt.args() {
        let (mut name, mut value) = (None, None);
        if let Node::DefElem(option) = option {
            name = option.defname().filter(|name| OF_TRANSACTION.contains(name));
            value = match option.arg() {
                Node::A_Const(constant) => match constant.val() {
                    Some(ConstValue::String(level)) => Some(level.to_owned()),
                    Some(ConstValue::Integer(on)) => Some(if on == 0 { "off" } else { "on" }.to_owned()),
                    Some(ConstValue::Boolean(on)) => Some(if on { "on" } else { "off" }.to_owned()),
                    _ => None,
                },
                _ => None,
            };
        }
        let Some(name) = name.map(|name| format!("default_{name}")) else {
            return effects.push(SessionEffect::Pin(PinReason::Setting));
        };
        effects.push(match value {
            Some(value) => SessionEffect::Set { name, value },
            None => SessionEffect::SetUnknown { name },
        });
    }
}

// set_config()

/// Whether a SET LOCAL gives `search_path` a value by which what is created may be temporary without saying so.
pub(super) fn puts_temp_in_path(stmt: &nodes::VariableSetStmt) -> bool {
    let named = |arg: Node<'_>| match arg {
        Node::A_Const(constant) => !matches!(constant.val(), Some(ConstValue::String(s)) if !names_temp(s)),
        _ => true,
    };
    match stmt.kind {
        raw::VariableSetKind::VAR_SET_VALUE => stmt.args().iter().any(named),
        raw::VariableSetKind::VAR_SET_DEFAULT | raw::VariableSetKind::VAR_RESET => false,
        // FROM CURRENT: that of the session, which is looked at as well.
        _ => false,
    }
}

/// The same of a call of set_config(), wherever it stands.
pub(super) fn call_puts_temp_in_path(call: &nodes::FuncCall) -> bool {
    match call.args().get(1).and_then(argument) {
        Some(ConfigArg::Literal(path)) => names_temp(&path),
        Some(ConfigArg::Null) => false,
        Some(ConfigArg::Param(_)) | None => true,
    }
}

/// What a call of set_config() leaves behind, somewhere in a statement: nobody knows whether and how often it runs.
pub(super) fn of_some_call(call: &nodes::FuncCall) -> Option<SessionEffect> {
    let local = call.args().get(2).and_then(argument);
    if matches!(&local, Some(ConfigArg::Literal(word)) if boolean(word) == Some("t")) {
        let seeds = matches!(call.args().get(0).and_then(argument), Some(ConfigArg::Literal(name)) if is_seed(&name));
        return seeds.then_some(SessionEffect::Pin(PinReason::Seed));
    }
    Some(unknown(&call.args().get(0).and_then(argument).unwrap_or(ConfigArg::Param(0))))
}

fn is_seed(name: &str) -> bool {
    name.eq_ignore_ascii_case("seed")
}

/// The effect of setting what an argument names to an unknown value.
#[must_use]
pub fn unknown(name: &ConfigArg) -> SessionEffect {
    match name {
        ConfigArg::Literal(name) => match canonical(name) {
            name if name == "seed" => SessionEffect::Pin(PinReason::Seed),
            // It is not ours to follow: see the README.
            name if name.starts_with("pgweir.") => SessionEffect::Pin(PinReason::Setting),
            name => SessionEffect::SetUnknown { name },
        },
        ConfigArg::Null | ConfigArg::Param(_) => SessionEffect::Pin(PinReason::Setting),
    }
}

/// What a call leaves behind that is made once, with these arguments; those that are parameters are not bound yet.
#[must_use]
pub fn set_config(name: &ConfigArg, value: &ConfigArg, local: &ConfigArg) -> Vec<SessionEffect> {
    use ConfigArg::{Literal, Null};
    let mut effects = Vec::new();
    match (name, value, local) {
        // The random numbers to come are no part of the transaction.
        (Literal(name), Literal(_) | ConfigArg::Param(_), Literal(word))
            if boolean(word) == Some("t") && is_seed(name) =>
        {
            effects.push(SessionEffect::Pin(PinReason::Seed));
        }
        (_, _, Literal(word)) if boolean(word) == Some("t") => {}
        (_, _, Literal(word)) if boolean(word).is_none() => effects.push(unknown(name)),
        (Literal(name), Literal(_) | Null, Literal(_) | Null) if name.starts_with("pgweir.") => {
            effects.push(SessionEffect::Pin(PinReason::Setting));
        }
        (Literal(name), _, _) if OF_TRANSACTION.contains(&canonical(name).as_str()) => {}
        (Literal(name), Literal(value), Literal(_) | Null) => assign(canonical(name), value.clone(), &mut effects),
        (Literal(name), Null, Literal(_) | Null) => effects.push(SessionEffect::Reset { name: canonical(name) }),
        // It fails.
        (Null, _, _) => {}
        _ => {
            effects.push(SessionEffect::SetByParams { name: name.clone(), value: value.clone(), local: local.clone() })
        }
    }
    effects
}

/// Puts what is known in the place of what was feared, if the statement is nothing but one row of calls: each is then made exactly once,
/// in this order. `calls` are all that the statement holds.
pub(super) fn known_calls(
    select: &nodes::SelectStmt,
    calls: &[&nodes::FuncCall],
    effects: &mut Vec<SessionEffect>,
    locals: &mut Vec<LocalSet>,
) {
    let feared = |effect: &SessionEffect| {
        matches!(effect, SessionEffect::SetUnknown { .. } | SessionEffect::Pin(PinReason::Setting | PinReason::Seed))
    };
    if (!effects.iter().any(feared) && locals.is_empty()) || !is_one_row(select) {
        return;
    }
    let (mut known, mut local_sets) = (Vec::new(), Vec::new());
    for target in select.target_list() {
        match target.val() {
            Node::A_Const(_) => {}
            Node::FuncCall(call) => {
                let arguments: Option<Vec<_>> = call.args().iter().map(argument).collect();
                let Some([name, value, local]) = arguments.as_deref() else { return };
                known.extend(set_config(name, value, local));
                match local {
                    ConfigArg::Literal(word) if boolean(word) == Some("f") => {}
                    ConfigArg::Null => {}
                    ConfigArg::Literal(word) if boolean(word) == Some("t") => {
                        local_sets.extend(of_call(Some(name.clone()), Some(value.clone())));
                    }
                    _ => local_sets.extend(of_call(Some(name.clone()), None)),
                }
            }
            _ => return,
        }
    }
    // Another function may give no row, and then nothing is called.
    let plain = |call: &&nodes::FuncCall| {
        call.funcname().iter().next_back().and_then(Node::as_str) == Some("set_config")
            && matches!(call.agg_filter(), Node::None)
            && call.over().is_none()
    };
    let direct = select.target_list().iter().filter(|target| matches!(target.val(), Node::FuncCall(_)));
    if calls.len() == direct.count() && calls.iter().all(plain) {
        effects.retain(|effect| !feared(effect));
        effects.extend(known);
        *locals = local_sets;
    }
}

/// Whether a SELECT is a list of values and nothing else.
fn is_one_row(select: &nodes::SelectStmt) -> bool {
    select.op == raw::SetOperation::SETOP_NONE
        && select.from_clause().is_empty()
        && matches!(select.where_clause(), Node::None)
        && select.group_clause().is_empty()
        && matches!(select.having_clause(), Node::None)
        && select.distinct_clause().is_empty()
        && matches!(select.limit_count(), Node::None)
        && matches!(select.limit_offset(), Node::None)
        && select.with_clause().is_none()
        && select.values_lists().is_empty()
        && select.locking_clause().is_empty()
        && select.into_clause().is_none()
}

/// An argument of set_config(), if it is a constant or a parameter, perhaps cast to what it is taken for.
fn argument(node: Node<'_>) -> Option<ConfigArg> {
    match node {
        Node::TypeCast(cast) => {
            let to = cast.type_name().and_then(cast_name)?;
            let inner = argument(cast.arg())?;
            match (&inner, to.as_str()) {
                (ConfigArg::Literal(word), "bool" | "boolean") => {
                    boolean(word).map(|b| ConfigArg::Literal(b.to_owned()))
                }
                (ConfigArg::Literal(word), "text" | "varchar") if is_boolean(cast.arg()) => {
                    let written = if boolean(word) == Some("t") { "true" } else { "false" };
                    Some(ConfigArg::Literal(written.to_owned()))
                }
                // Of the ways to write a boolean the server makes one.
                (ConfigArg::Param(_), "text" | "varchar") if is_boolean(cast.arg()) => None,
                (ConfigArg::Null | ConfigArg::Param(_), "bool" | "boolean") | (_, "text" | "varchar") => Some(inner),
                _ => None,
            }
        }
        Node::ParamRef(param) => u16::try_from(param.number).ok().filter(|n| *n > 0).map(ConfigArg::Param),
        Node::A_Const(constant) => match constant.val() {
            None => Some(ConfigArg::Null),
            Some(ConstValue::String(text)) => Some(ConfigArg::Literal(text.to_owned())),
            Some(ConstValue::Boolean(on)) => Some(ConfigArg::Literal(if on { "t" } else { "f" }.to_owned())),
            Some(value @ ConstValue::Integer(_)) => Some(ConfigArg::Literal(value.to_string())),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an argument that is a constant or a parameter is a boolean.
fn is_boolean(node: Node<'_>) -> bool {
    match node {
        Node::TypeCast(cast) => {
            cast.type_name().and_then(cast_name).is_some_and(|to| matches!(to.as_str(), "bool" | "boolean"))
        }
        Node::A_Const(constant) => matches!(constant.val(), Some(ConstValue::Boolean(_))),
        _ => false,
    }
}

/// A boolean as it is written, as far as it is a usual way.
#[must_use]
pub fn boolean(word: &str) -> Option<&'static str> {
    match word.trim().to_ascii_lowercase().as_str() {
        "t" | "true" | "on" | "yes" | "y" | "1" => Some("t"),
        "f" | "false" | "off" | "no" | "n" | "0" => Some("f"),
        _ => None,
    }
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
