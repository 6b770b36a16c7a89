//! The values of a row as a text: `(1,"a b",)`, as PostgreSQL's `record_in` reads them.
//!
//! See <https://www.postgresql.org/docs/current/rowtypes.html#ROWTYPES-IO-SYNTAX>.

/// The values, NULL where nothing stands; none if the text is no row. A single quote must stand between double ones: whoever writes `(1,'a')`
/// does not mean it to be a part of the value, as it would be.
pub(in crate::shard) fn fields(text: &str) -> Option<Vec<Option<String>>> {
    let space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c');
    let inner = text.trim_matches(space).strip_prefix('(')?;
    let mut chars = inner.chars().peekable();
    let mut fields = Vec::new();
    loop {
        let (mut value, mut quoted, mut is_empty) = (String::new(), false, true);
        let end = loop {
            match chars.next()? {
                end @ (',' | ')') if !quoted => break end,
                '"' if quoted && chars.next_if_eq(&'"').is_some() => value.push('"'),
                '"' => quoted = !quoted,
                '\'' if !quoted => return None,
                '\\' => value.push(chars.next()?),
                c => value.push(c),
            }
            is_empty = false;
        };
        fields.push((!is_empty).then_some(value));
        if end == ')' {
            return chars.next().is_none().then_some(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_by_the_server() {
        let values = |list: &[&str]| Some(list.iter().map(|value| Some((*value).to_owned())).collect::<Vec<_>>());
        for (text, expected) in [
            ("(1,abc)", values(&["1", "abc"])),
            (" ( 1, a b ) ", values(&[" 1", " a b "])),
            ("(\"a,)\",\"b\"\"c\",d\\,e)", values(&["a,)", "b\"c", "d,e"])),
            ("(\"\",x)", values(&["", "x"])),
            ("(1,)", Some(vec![Some("1".to_owned()), None])),
            ("(1,2", None),
            ("1,2)", None),
            ("(1,'a')", None),
            ("(1,\"'a'\")", values(&["1", "'a'"])),
            ("(1,2) x", None),
            ("(\"1,2)", None),
            ("(1,2\\", None),
            ("", None),
            ("5", None),
        ] {
            assert_eq!(fields(text), expected, "{text}");
        }
    }
}
