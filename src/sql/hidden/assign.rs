//! Whether the text of a trigger's function gives the row that is to be written another value of a column.

use super::body::{Token, tokens};

/// Words behind which a statement of PL/pgSQL begins.
const BEFORE_STATEMENT: [&str; 5] = ["begin", "declare", "else", "loop", "then"];

/// Whether `field` of the new row, or the row as a whole, may be assigned by a text in PL/pgSQL, or another row returned than the one
/// that came: `NEW.k := x`, `SELECT ... INTO NEW`, `CALL p(NEW.k)`, `GET DIAGNOSTICS NEW.k = ROW_COUNT`, `FOR NEW IN`, `RETURN r`. Whatever
/// gives the row another name may: `r ALIAS FOR NEW`.
/// See <https://www.postgresql.org/docs/current/plpgsql-trigger.html> and
/// <https://www.postgresql.org/docs/current/plpgsql-declarations.html#PLPGSQL-DECLARATION-ALIAS>.
#[must_use]
pub fn may_assign(text: &str, field: &str) -> bool {
    let tokens = tokens(text);
    let at = |place: usize| tokens.get(place);
    let symbol = |place: usize, symbol: u8| at(place).is_some_and(|token| token.is_symbol(symbol));
    let mut statement = 0_usize;
    if escapes(&tokens) {
        return true;
    }
    for (place, token) in tokens.iter().enumerate() {
        let next = place.saturating_add(1);
        let begins = token.is_symbol(b';') || BEFORE_STATEMENT.iter().any(|word| token.is_word(word));
        if begins {
            statement = next;
        }
        if token.is_word("return") && !is_row_that_came(at(next), at(next.saturating_add(1))) {
            return true;
        }
        if !is_new(token) {
            continue;
        }
        let before = tokens.get(statement..place).unwrap_or_default();
        if before.ends_with(&[Token::Word("alias".to_owned()), Token::Word("for".to_owned())]) {
            return true;
        }
        let end = match (symbol(next, b'.'), at(next.saturating_add(1))) {
            (true, Some(Token::Word(name) | Token::Quoted(name))) if name == field => place.saturating_add(3),
            // Another column, or all of them by `.*`.
            (true, _) => continue,
            (false, _) => next,
        };
        // `block.NEW` is NEW as well.
        let is_first = match before {
            [] => true,
            [.., dot] if dot.is_symbol(b'.') => before.len() == 2,
            _ => false,
        };
        let assigned = symbol(end, b':') || (symbol(end, b'=') && is_first) || symbol(end, b'[');
        let gives = before.first().is_some_and(|first| first.is_word("call") || first.is_word("get"));
        let into = before.iter().rposition(|token| token.is_word("into"));
        let inserts = |into: usize| {
            let word = into.checked_sub(1).and_then(|at| before.get(at));
            word.is_some_and(|token| token.is_word("insert") || token.is_word("merge"))
        };
        if assigned || gives || is_loop_variable(before) || into.is_some_and(|into| !inserts(into)) {
            return true;
        }
    }
    false
}

/// Whether a name is that of the new row; it may be quoted.
fn is_new(token: &Token) -> bool {
    matches!(token, Token::Word(name) | Token::Quoted(name) if name == "new")
}

/// Whether a name is written by the numbers of its characters (`U&"\006B"`), so that it is not seen which.
fn escapes(tokens: &[Token]) -> bool {
    let is_escape = |three: &[Token]| match three {
        [letter, and, Token::Quoted(_)] => letter.is_word("u") && and.is_symbol(b'&'),
        _ => false,
    };
    tokens.windows(3).any(is_escape)
}

/// Whether what follows is among the variables of FOR or FOREACH, which end at IN or SLICE.
fn is_loop_variable(before: &[Token]) -> bool {
    let is_loop = |token: &Token| token.is_word("for") || token.is_word("foreach");
    let Some(start) = before.iter().position(is_loop) else { return false };
    let is_label = before.iter().take(start).all(|token| match token {
        Token::Word(_) | Token::Quoted(_) => true,
        token => token.is_symbol(b'<') || token.is_symbol(b'>'),
    });
    let behind = before.get(start..).unwrap_or_default();
    is_label && !behind.iter().any(|token| token.is_word("in") || token.is_word("slice"))
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
            ("DECLARE updated ALIAS FOR NEW; BEGIN updated.k := updated.k + 1; RETURN NEW; END", true),
            ("DECLARE updated alias for \"new\"; BEGIN RETURN NEW; END", true),
            ("DECLARE prior ALIAS FOR OLD; first ALIAS FOR $1; BEGIN NEW.n := prior.n; RETURN NEW; END", false),
            ("BEGIN \"new\".k := 5; RETURN NEW; END", true),
            ("BEGIN moves.new.k = 5; RETURN NEW; END", true),
            ("<<b>> BEGIN b.new.k := 5; RETURN NEW; END", true),
            ("BEGIN CALL fix(NEW.k); RETURN NEW; END", true),
            ("BEGIN CALL fix(NEW.n, NEW.k); RETURN NEW; END", true),
            ("BEGIN CALL fix(NEW); RETURN NEW; END", true),
            ("BEGIN CALL fix(NEW.n); RETURN NEW; END", false),
            ("BEGIN GET DIAGNOSTICS NEW.k = ROW_COUNT; RETURN NEW; END", true),
            ("BEGIN GET CURRENT DIAGNOSTICS n = ROW_COUNT, NEW.k = PG_ROUTINE_OID; RETURN NEW; END", true),
            ("BEGIN GET DIAGNOSTICS NEW.n = ROW_COUNT; RETURN NEW; END", false),
            ("BEGIN FOR NEW IN SELECT * FROM x LOOP END LOOP; RETURN NEW; END", true),
            ("BEGIN <<l>> FOR a, NEW.k IN SELECT 1, 2 LOOP END LOOP; RETURN NEW; END", true),
            ("BEGIN FOREACH NEW.k IN ARRAY a LOOP END LOOP; RETURN NEW; END", true),
            ("BEGIN FOR r IN SELECT * FROM x WHERE a = NEW.k LOOP NEW.n := r.n; END LOOP; RETURN NEW; END", false),
            ("BEGIN PERFORM 1 FROM x WHERE a = NEW.k FOR UPDATE; RETURN NEW; END", false),
            ("BEGIN INSERT INTO x VALUES (1) RETURNING a INTO NEW.k; RETURN NEW; END", true),
            ("BEGIN FETCH c INTO NEW; RETURN NEW; END", true),
            ("BEGIN NEW.U&\"\\006B\" := 5; RETURN NEW; END", true),
            ("BEGIN RETURN NEW #= h; END", true),
            ("BEGIN RETURN f(NEW); END", true),
        ] {
            assert_eq!(may_assign(text, "k"), expected, "{text}");
        }
    }
}
