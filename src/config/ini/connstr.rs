//! Connection strings, as PgBouncer writes them in `[databases]`: `key=value` pairs, separated by spaces.
//!
//! A value with spaces stands in single quotes, in which a single quote is doubled. Nothing else is special.

/// Splits a connection string into its pairs.
///
/// # Errors
/// What is wrong; values are not quoted, for one may be a password.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start_matches(BLANK);
    while !rest.is_empty() {
        let end = rest.find(|c| c == '=' || BLANK.contains(&c)).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(after) = after.trim_start_matches(BLANK).strip_prefix('=') else {
            // A word without "=" may be the tail of a password with a space in it.
            return Err("expected key=value pairs; a value with spaces must stand in single quotes".to_owned());
        };
        if key.is_empty() {
            return Err("the name before a \"=\" is missing".to_owned());
        }
        let (value, after) = value(key, after.trim_start_matches(BLANK))?;
        if value.is_empty() {
            return Err(format!("{key} has no value; leave it out instead"));
        }
        pairs.push((key.to_owned(), value));
        rest = after.trim_start_matches(BLANK);
    }
    Ok(pairs)
}

const BLANK: [char; 2] = [' ', '\t'];

/// The value that a text begins with, and what follows it.
fn value<'t>(key: &str, text: &'t str) -> Result<(String, &'t str), String> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let end = text.find(BLANK).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Ok((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut rest = quoted;
    loop {
        let Some((part, after)) = rest.split_once('\'') else {
            return Err(format!("the closing single quote of {key} is missing"));
        };
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None if after.is_empty() || after.starts_with(BLANK) => return Ok((value, after)),
            None => return Err(format!("a space must follow the closing single quote of {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        pairs(text).unwrap()
    }

    #[test]
    fn pairs_are_read_with_their_quotes() {
        let expected = [("host", "127.0.0.1"), ("password", "it's a \\ \"secret\""), ("port", "1"), ("q", "a=b;#")];
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(read(" host=127.0.0.1  password='it''s a \\ \"secret\"' port = 1\tq=a=b;#  "), expected);
        assert_eq!(read(""), []);
    }

    #[test]
    fn mistakes_are_told_without_values() {
        for (text, expected) in [
            ("host=a secret", "expected key=value pairs; a value with spaces must stand in single quotes"),
            ("password='secret", "the closing single quote of password is missing"),
            ("password='secret''", "the closing single quote of password is missing"),
            ("password='secret'host=a", "a space must follow the closing single quote of password"),
            ("password=''", "password has no value; leave it out instead"),
            ("host=", "host has no value; leave it out instead"),
            ("=secret", "the name before a \"=\" is missing"),
        ] {
            assert_eq!(pairs(text).unwrap_err(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_value_survives_quoting(value in "[^\\x00\\r\\n]{1,20}") {
            let text = format!("a='{}' b=2", value.replace('\'', "''"));
            prop_assert_eq!(read(&text), vec![("a".to_owned(), value), ("b".to_owned(), "2".to_owned())]);
        }

        #[test]
        fn no_text_panics(text in "[ab='\\t \u{e4}]{0,30}") {
            drop(pairs(&text));
        }
    }
}
