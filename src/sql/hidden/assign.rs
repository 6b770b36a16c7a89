//! Whether the text of a trigger's function gives the row that is to be written another value of a column.

use super::body::{Token, tokens};

/// Words behind which a statement of PL/pgSQL begins.
const BEFORE_STATEMENT: [&str; 5] = ["begin", "declare", "else", "loop", "then"];

/// Whether `field` of the new row, or the row as a whole, may be assigned by a text in PL/pgSQL, or another row returned than the one
/// that came: `NEW.k := x`, `SELECT ... INTO NEW`, `RETURN r`.
/// See <https://www.postgresql.org/docs/current/plpgsql-trigger.html>.
#[must_use]
pub fn may_assign(text: &str, field: &str) -> bool {
    let tokens = tokens(text);
    let at = |place: usize| tokens.get(place);
    let symbol = |place: usize, symbol: u8| at(place).is_some_and(|token| token.is_symbol(symbol));
    let mut statement = 0_usize;
    for (place, token) in tokens.iter().enumerate() {
        let next = place.saturating_add(1);
        let begins = token.is_symbol(b';') || BEFORE_STATEMENT.iter().any(|word| token.is_word(word));
        if begins {
            statement = next;
        }
        if token.is_word("return") && !is_row_that_came(at(next), at(next.saturating_add(1))) {
            return true;
        }
        if !token.is_word("new") {
            continue;
        }
        let end = match (symbol(next, b'.'), at(next.saturating_add(1))) {
            (true, Some(Token::Word(name) | Token::Quoted(name))) if name == field => place.saturating_add(3),
            // Another column, or all of them by `.*`.
            (true, _) => continue,
            (false, _) => next,
        };
        let assigned = symbol(end, b':') || (symbol(end, b'=') && place == statement) || symbol(end, b'[');
        let before = tokens.get(statement..place).unwrap_or_default();
        let into = before.iter().rposition(|token| token.is_word("into"));
        let inserts = |into: usize| {
            let word = into.checked_sub(1).and_then(|at| before.get(at));
            word.is_some_and(|token| token.is_word("insert") || token.is_word("merge"))
        };
        if assigned || into.is_some_and(|into| !inserts(into)) {
            return true;
        }
    }
    false
}

/// Whether RETURN is followed by NEW, OLD or NULL alone.
fn is_row_that_came(first: Option<&Token>, second: Option<&Token>) -> bool {
    let known = first.is_some_and(|token| ["new", "old", "null"].iter().any(|word| token.is_word(word)));
    (known || first.is_some_and(|token| token.is_symbol(b';')))
        && second.is_none_or(|token| token.is_symbol(b';') || known_end(first))
}

/// `RETURN;` is followed by the next statement.
fn known_end(first: Option<&Token>) -> bool {
    first.is_some_and(|token| token.is_symbol(b';'))
}

#[cfg(test)]
mod tests {
    use super::may_assign;

    #[test]
    fn only_what_leaves_the_field_alone_is_believed() {
        for (text, expected) in [
            ("BEGIN RETURN NEW; END", false),
            ("BEGIN NEW.at := now(); NEW.n = 1; RETURN NEW; END", false),
            ("BEGIN IF NEW.k = 5 OR NEW.k IS NULL THEN RETURN NULL; END IF; RETURN OLD; END", false),
            ("BEGIN INSERT INTO x VALUES (NEW.k), (NEW.n); RETURN NEW; END", false),
            ("BEGIN INSERT INTO x SELECT NEW.*; RETURN NEW; END", false),
            ("BEGIN SELECT max(n) INTO v FROM x; RETURN NEW; END", false),
            ("BEGIN /* NEW.k := 1 */ RAISE NOTICE 'NEW.k := 1'; RETURN NEW; END", false),
            ("BEGIN NEW.k := 5; RETURN NEW; END", true),
            ("BEGIN NEW . \"k\" = 5; RETURN NEW; END", true),
            ("BEGIN IF true THEN NEW.k = 5; END IF; RETURN NEW; END", true),
            ("BEGIN new.k[1] := 5; RETURN NEW; END", true),
            ("BEGIN SELECT a, b INTO NEW.n, NEW.k FROM x; RETURN NEW; END", true),
            ("BEGIN SELECT NEW.n INTO v; SELECT * INTO NEW FROM x; RETURN NEW; END", true),
            ("BEGIN NEW := x; RETURN NEW; END", true),
            ("BEGIN NEW = x; RETURN NEW; END", true),
            ("BEGIN RETURN x; END", true),
            ("BEGIN RETURN NEW #= h; END", true),
            ("BEGIN RETURN f(NEW); END", true),
        ] {
            assert_eq!(may_assign(text, "k"), expected, "{text}");
        }
    }
}
