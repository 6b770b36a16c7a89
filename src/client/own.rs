//! pgweir's own settings: `SET pgweir.route`, `SET pgweir.sharding_key`, `SET pgweir.shard`, `SET pgweir.causal_token`.

use crate::client::token;
use crate::error::{Error, SqlState};
use crate::session::settings::{CHOICE, ClientSettings, OWN_PREFIX};
use crate::shard::map::ShardMap;
use crate::sql::facts::{QueryFacts, RouteHint, SessionEffect};

/// Names of the settings.
pub const NAMES: [&str; 5] = [token::NAME, PARTIAL_RESULTS, "pgweir.route", "pgweir.shard", "pgweir.sharding_key"];

/// Whether reads of several shards go without those that cannot be reached.
pub const PARTIAL_RESULTS: &str = "pgweir.partial_results";

/// Checks a value before anything believes it.
///
/// # Errors
/// 42704 for a name that there is not, 22023 for a value that it does not take.
pub fn check(name: &str, value: &str, map: &ShardMap) -> Result<(), Error> {
    match name {
        "pgweir.route" => route(value).map(|_| ()),
        "pgweir.shard" if value.is_empty() || map.shard_by_name(value).is_some() => Ok(()),
        "pgweir.shard" => Err(Error::us(SqlState::INVALID_PARAMETER_VALUE, format!("there is no shard \"{value}\""))
            .hint(format!("The shards are {}.", map.names.join(", ")))),
        "pgweir.sharding_key" => Ok(()),
        PARTIAL_RESULTS => switch(value).map(|_| ()),
        token::NAME => token::parse(value, map.names.len()).map(|_| ()),
        _ => Err(Error::us(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
            .hint(format!("pgweir's own settings are {}.", NAMES.join(", ")))),
    }
}

/// Reads a value of `pgweir.route`.
///
/// # Errors
/// 22023.
pub fn route(value: &str) -> Result<RouteHint, Error> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Ok(RouteHint::Auto),
        "primary" => Ok(RouteHint::Primary),
        "replica" => Ok(RouteHint::Replica),
        _ => Err(Error::us(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"pgweir.route\": \"{value}\""),
        )
        .hint("Available values: auto, primary, replica.")),
    }
}

/// Reads a value of `pgweir.partial_results`.
///
/// # Errors
/// 22023.
pub fn switch(value: &str) -> Result<bool, Error> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(Error::us(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"{PARTIAL_RESULTS}\": \"{value}\""),
        )
        .hint("Available values: on, off.")),
    }
}

/// Whether a session's reads of several shards go without those that cannot be reached; `default`: the database's setting.
#[must_use]
pub fn partial_results(settings: &ClientSettings, default: bool) -> bool {
    settings.get(PARTIAL_RESULTS).and_then(|value| switch(value).ok()).unwrap_or(default)
}

/// The value to show; `partial`: what the database says of `partial_results`.
#[must_use]
pub fn shown(name: &str, settings: &ClientSettings, partial: bool) -> String {
    if name == PARTIAL_RESULTS {
        return if partial_results(settings, partial) { "on" } else { "off" }.to_owned();
    }
    settings.get(name).unwrap_or(if name == "pgweir.route" { "auto" } else { "" }).to_owned()
}

/// A text that concerns pgweir alone: one SET or RESET of a setting of ours.
#[must_use]
pub fn sole_change(facts: &QueryFacts) -> Option<(&str, Option<&str>)> {
    let [statement] = facts.statements.as_slice() else { return None };
    match statement.effects.as_slice() {
        [SessionEffect::Set { name, value }] if name.starts_with(OWN_PREFIX) => Some((name, Some(value))),
        [SessionEffect::Reset { name }] if name.starts_with(OWN_PREFIX) => Some((name, None)),
        _ => None,
    }
}

/// `SHOW pgweir.x` alone in a text: the name.
#[must_use]
pub fn sole_show(text: &[u8]) -> Option<&'static str> {
    // Asked of every text: most are told by their first word.
    let (verb, rest) = text.trim_ascii_start().split_at_checked(4)?;
    if !verb.eq_ignore_ascii_case(b"show") || !rest.first().is_some_and(u8::is_ascii_whitespace) {
        return None;
    }
    let name = std::str::from_utf8(rest).ok()?.trim().trim_end_matches(';').trim();
    NAMES.into_iter().find(|n| n.eq_ignore_ascii_case(name))
}

/// Checks every SET of ours in a text.
///
/// # Errors
/// Those of [`check`].
pub fn check_all(facts: &QueryFacts, map: &ShardMap) -> Result<(), Error> {
    for effect in facts.statements.iter().flat_map(|s| &s.effects) {
        if let SessionEffect::Set { name, value } = effect
            && name.starts_with(OWN_PREFIX)
        {
            check(name, value, map)?;
        }
    }
    Ok(())
}

/// Refuses forms that would have no effect, or one that a ROLLBACK does not take back.
///
/// # Errors
/// 0A000.
pub fn check_forms(facts: &QueryFacts, in_block: bool) -> Result<(), Error> {
    if facts.statements.iter().any(|statement| statement.touch.sets_own) {
        return Err(unfollowed());
    }
    let chooses = |effect: &SessionEffect| match effect {
        SessionEffect::Set { name, .. } | SessionEffect::Reset { name } => CHOICE.contains(&name.as_str()),
        _ => false,
    };
    if in_block && facts.statements.iter().flat_map(|s| &s.effects).any(chooses) {
        return Err(form(
            "the shard cannot be chosen by SET within a transaction, for ROLLBACK would not take it back",
        ));
    }
    Ok(())
}

/// The same of the name that is bound as the first argument of `set_config()`.
///
/// # Errors
/// 0A000.
pub fn check_bound(name: Option<&[u8]>) -> Result<(), Error> {
    let start = name.and_then(|name| name.get(..OWN_PREFIX.len()));
    match start {
        Some(start) if start.eq_ignore_ascii_case(OWN_PREFIX.as_bytes()) => Err(unfollowed()),
        _ => Ok(()),
    }
}

fn unfollowed() -> Error {
    form("settings of pgweir's own cannot be made by SET LOCAL or set_config(): they would have no effect")
}

fn form(message: &str) -> Error {
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, message).hint(
        "SET the setting before the transaction begins, or write a hint into each statement, as in /* pgweir: shard=s1 */.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_of_ours_are_found() {
        assert_eq!(sole_show(b" show  PGWEIR.route ; "), Some("pgweir.route"));
        assert_eq!(sole_show(b"SHOW pgweir.nothing"), None);
        assert_eq!(sole_show(b"SHOW work_mem"), None);
        assert_eq!(sole_show(b"SHOWpgweir.route"), None);
        assert_eq!(sole_show(b"show"), None);
    }

    #[test]
    fn values_are_checked() {
        let map = ShardMap::single();
        assert!(check("pgweir.route", "replica", &map).is_ok());
        assert!(check(PARTIAL_RESULTS, "ON", &map).is_ok());
        assert_eq!(check(PARTIAL_RESULTS, "some", &map).unwrap_err().sqlstate, SqlState::INVALID_PARAMETER_VALUE);
        assert_eq!(check("pgweir.route", "master", &map).unwrap_err().sqlstate, SqlState::INVALID_PARAMETER_VALUE);
        assert_eq!(check("pgweir.shard", "s9", &map).unwrap_err().sqlstate, SqlState::INVALID_PARAMETER_VALUE);
        assert_eq!(check("pgweir.rout", "x", &map).unwrap_err().sqlstate, SqlState::UNDEFINED_OBJECT);
    }
}
