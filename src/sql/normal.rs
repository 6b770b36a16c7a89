//! A text without the values written into it, so that texts which differ only in those are read once.
//!
//! The normal form is SQL itself: each whole number of up to nine digits is `0` in it, each string `'?'`. Its facts are those of the text
//! but for the values, as long as no fact hangs on a value; texts where one might have no normal form: see [`of`].

use std::ops::Range;

/// Words that may begin a text. No fact of the statements behind them hangs on a number, and on a string only through [`PEEKED`].
const VERBS: [&[u8]; 5] = [b"select", b"insert", b"update", b"delete", b"with"];

/// Names before literals that decide something: what `set_config` sets, and which of two types `float(n)` is.
const PEEKED: [&[u8]; 2] = [b"set_config", b"float"];

/// More digits may be more than an int4 holds, which is another kind of token.
const MAX_DIGITS: usize = 9;

/// Appends the normal form of `text` to `form`; whether there is one. If not, what was appended means nothing.
///
/// There is none for anything but a single SELECT, INSERT, UPDATE, DELETE or WITH, nor where this simple reading could go wrong or a fact may hang on
/// a value: comments (they may hold hints), backslashes, dollar quotes, strings with a prefix, numbers with a fraction's exponent or
/// letters behind them, `set_config` and `float`; nor when there is no literal in it. Texts are read with
/// `standard_conforming_strings` on, as [`super::parse`] does.
pub fn of(text: &[u8], form: &mut Vec<u8>) -> bool {
    of_with_numbers(text, form, &mut Vec::new())
}

/// The same; also where in `text` the whole numbers stand that became `0`, in order.
pub(super) fn of_with_numbers(text: &[u8], form: &mut Vec<u8>, numbers: &mut Vec<Range<usize>>) -> bool {
    numbers.clear();
    let start = text.iter().position(|c| !is_space(*c)).unwrap_or(text.len());
    let is_verb = |verb: &&[u8]| {
        let word = text.get(start..start + verb.len());
        word.is_some_and(|word| word.eq_ignore_ascii_case(verb))
            && text.get(start + verb.len()).is_some_and(|c| !is_word(*c))
    };
    if !VERBS.iter().any(is_verb) {
        return false;
    }
    form.reserve(text.len());
    let mut reader = Reader { text, at: 0, form, literals: 0, numbers };
    reader.read().is_some() && reader.literals > 0
}

/// Whether `text` differs from `known` in nothing but the values of those `numbers` (see [`of_with_numbers`]): then it has the same normal
/// form. Cheaper than to make that.
pub(super) fn is_alike(text: &[u8], known: &[u8], numbers: &[Range<usize>]) -> bool {
    let (mut rest, mut at) = (text, 0);
    for number in numbers {
        let Some(behind) = known.get(at..number.start).and_then(|same| rest.strip_prefix(same)) else { return false };
        let digits = behind.iter().position(|c| !c.is_ascii_digit()).unwrap_or(behind.len());
        // What follows is compared next. It ended the number that was there, so it ends this one.
        if digits == 0 || digits > MAX_DIGITS {
            return false;
        }
        rest = behind.get(digits..).unwrap_or_default();
        at = number.end;
    }
    known.get(at..) == Some(rest)
}

/// A normal form as it is shown: what stands for a value is a parameter there, numbered from behind the highest of the text's own, as
/// pg_stat_statements writes it.
#[must_use]
pub fn shown(form: &[u8]) -> Vec<u8> {
    let mut parts = Vec::new();
    let mut rest = form;
    while let Some(part) = part(rest) {
        rest = rest.get(part.len()..).unwrap_or_default();
        parts.push(part);
    }
    let own = |part: &&[u8]| std::str::from_utf8(part.strip_prefix(b"$")?).ok()?.parse::<u64>().ok();
    let mut number = parts.iter().filter_map(own).max().unwrap_or(0);
    let mut text = Vec::with_capacity(form.len() + 8);
    for (at, part) in parts.iter().enumerate() {
        // The `0` of `0.5` was never taken out.
        let has_fraction = || parts.get(at + 1).is_some_and(|next| next.starts_with(b"."));
        if *part == b"'?'" || (*part == b"0" && !has_fraction()) {
            number = number.saturating_add(1);
            text.extend_from_slice(format!("${number}").as_bytes());
        } else {
            text.extend_from_slice(part);
        }
    }
    text
}

/// The first token of a normal form, or what is like one: a string, a name in quotes, a word, a number, a parameter, a fraction; or a
/// byte of anything else. None at the end.
fn part(form: &[u8]) -> Option<&[u8]> {
    let first = *form.first()?;
    let behind = form.get(1..).unwrap_or_default();
    let up_to_quote = |quote: u8| behind.iter().position(|c| *c == quote).map_or(behind.len(), |at| at + 1);
    let run = |belongs: fn(u8) -> bool| behind.iter().position(|c| !belongs(*c)).unwrap_or(behind.len());
    let more = match first {
        b'\'' | b'"' => up_to_quote(first),
        b'$' | b'.' => run(|c| c.is_ascii_digit()),
        c if c.is_ascii_digit() => run(|c| c.is_ascii_digit()),
        c if is_word_start(c) => run(is_word),
        _ => 0,
    };
    form.get(..=more)
}

fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

const fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || c == b'_' || c >= 0x80
}

/// By byte: whether it may be in a word behind its first letter. A table, for every byte of every text is asked.
static WORD: [bool; 256] = {
    let mut word = [false; 256];
    let mut c = 0_u8;
    loop {
        word[c as usize] = is_word_start(c) || c.is_ascii_digit() || c == b'$';
        if c == u8::MAX {
            break word;
        }
        c += 1;
    }
};

fn is_word(c: u8) -> bool {
    WORD.get(usize::from(c)).copied().unwrap_or_default()
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    form: &'a mut Vec<u8>,
    literals: usize,
    numbers: &'a mut Vec<Range<usize>>,
}

impl Reader<'_> {
    fn next(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// The run of bytes from here on that `belongs`, which is passed over.
    fn run(&mut self, belongs: impl Fn(u8) -> bool) -> &[u8] {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|c| !belongs(*c)).unwrap_or(rest.len());
        self.at += len;
        rest.get(..len).unwrap_or_default()
    }

    fn copy(&mut self, belongs: impl Fn(u8) -> bool) {
        let start = self.at;
        self.run(belongs);
        self.form.extend_from_slice(self.text.get(start..self.at).unwrap_or_default());
    }

    /// `None`: there is no normal form.
    fn read(&mut self) -> Option<()> {
        while let Some(c) = self.next() {
            match c {
                b'\'' => self.string()?,
                b'"' => self.quoted_name()?,
                c if is_word_start(c) => self.word()?,
                c if c.is_ascii_digit() => self.number()?,
                b'.' => {
                    self.copy(|c| c == b'.');
                    // `.5`, and the `5` of `1..5`, are not weighed.
                    self.copy(|c| c.is_ascii_digit());
                    self.no_word()?;
                }
                b'$' => {
                    // A parameter, and no other use of it.
                    self.form.push(c);
                    self.at += 1;
                    if self.run(|c| c.is_ascii_digit()).is_empty() {
                        return None;
                    }
                    let digits = self.text.get(..self.at).unwrap_or_default();
                    let start = digits.iter().rposition(|c| *c == b'$').unwrap_or_default() + 1;
                    self.form.extend_from_slice(digits.get(start..).unwrap_or_default());
                    self.no_word()?;
                }
                b';' => {
                    self.copy(|c| c == b';' || is_space(c));
                    return self.next().is_none().then_some(());
                }
                b'-' | b'/' if self.begins_comment(c) => return None,
                b'\\' | 0 => return None,
                _ => {
                    self.form.push(c);
                    self.at += 1;
                }
            }
        }
        Some(())
    }

    fn begins_comment(&self, c: u8) -> bool {
        self.text.get(self.at + 1) == Some(if c == b'-' { &b'-' } else { &b'*' })
    }

    /// Nothing that would belong to the token just passed, or be read otherwise by another version.
    fn no_word(&self) -> Option<()> {
        self.next().is_none_or(|c| !is_word(c)).then_some(())
    }

    fn string(&mut self) -> Option<()> {
        loop {
            self.at += 1;
            self.run(|c| !matches!(c, b'\'' | b'\\' | 0));
            if self.next() != Some(b'\'') {
                return None;
            }
            self.at += 1;
            // Two quotes are one in the string.
            if self.next() != Some(b'\'') {
                break;
            }
        }
        self.literals += 1;
        self.form.extend_from_slice(b"'?'");
        Some(())
    }

    fn quoted_name(&mut self) -> Option<()> {
        self.form.push(b'"');
        self.at += 1;
        self.copy(|c| !matches!(c, b'"' | 0));
        if self.next() != Some(b'"') {
            return None;
        }
        self.form.push(b'"');
        self.at += 1;
        // Of a name with quotes in it this is the end, and then one refusal too many.
        let name = self.form.strip_suffix(b"\"").unwrap_or_default();
        (!PEEKED.iter().any(|peeked| name.ends_with(peeked))).then_some(())
    }

    fn word(&mut self) -> Option<()> {
        let start = self.at;
        self.copy(is_word);
        let word = self.text.get(start..self.at).unwrap_or_default();
        if PEEKED.iter().any(|peeked| word.eq_ignore_ascii_case(peeked)) {
            return None;
        }
        // E'', B'', X'', N'', and U& before a string or a name.
        (!matches!(self.next(), Some(b'\'' | b'&'))).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        let digits = self.run(|c| c.is_ascii_digit()).len();
        match self.next() {
            // A fraction: no key can be one, and it is not worth the care.
            Some(b'.') => {
                self.copy_from(start);
                return Some(());
            }
            Some(c) if is_word(c) => return None,
            _ => {}
        }
        if digits > MAX_DIGITS {
            self.copy_from(start);
        } else {
            self.literals += 1;
            self.numbers.push(start..self.at);
            self.form.push(b'0');
        }
        Some(())
    }

    fn copy_from(&mut self, start: usize) {
        self.form.extend_from_slice(self.text.get(start..self.at).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::facts::QueryFacts;
    use crate::sql::parse;
    use proptest::prelude::*;

    fn form(text: &str) -> Option<String> {
        let mut form = Vec::new();
        of(text.as_bytes(), &mut form).then(|| String::from_utf8(form).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_alike_has_the_same_form(text in "select [a-c0-9 .,;$'=<-]{0,24}", other in "select [a-c0-9 .,;$'=<-]{0,24}", n in 0_u64..20_000_000_000) {
            let (mut form, mut numbers) = (Vec::new(), Vec::new());
            if of_with_numbers(text.as_bytes(), &mut form, &mut numbers) {
                let mut changed = text.clone();
                if let Some(last) = numbers.last() {
                    changed.replace_range(last.clone(), &n.to_string());
                    prop_assert_eq!(is_alike(changed.as_bytes(), text.as_bytes(), &numbers), n < 1_000_000_000);
                }
                for other in [&text, &other, &changed] {
                    if is_alike(other.as_bytes(), text.as_bytes(), &numbers) {
                        let mut its = Vec::new();
                        prop_assert!(of(other.as_bytes(), &mut its));
                        prop_assert_eq!(&its, &form, "{} {}", text, other);
                    }
                }
            }
        }
    }

    #[test]
    fn values_are_taken_out() {
        for (text, expected) in [
            (
                "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
                "SELECT abalance FROM pgbench_accounts WHERE aid = 0;",
            ),
            (" select 'it''s', 'x' ; ", " select '?', '?' ; "),
            ("UPDATE t1 SET a2 = a2 + -17 WHERE k=$1", "UPDATE t1 SET a2 = a2 + -0 WHERE k=$1"),
            ("INSERT INTO \"T 1\" VALUES (1,2.5,.5,'a')", "INSERT INTO \"T 1\" VALUES (0,2.5,.5,'?')"),
            (
                "with x as (delete from t where a=1 returning *) select 1",
                "with x as (delete from t where a=0 returning *) select 0",
            ),
            ("SELECT 1234567890, 123456789", "SELECT 1234567890, 0"),
        ] {
            assert_eq!(form(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_was_taken_out_is_shown_as_parameters() {
        for (text, expected) in [
            ("SELECT a FROM t0 WHERE b = 17 AND c = 'x''y';", "SELECT a FROM t0 WHERE b = $1 AND c = $2;"),
            ("UPDATE t SET a = a + -5 WHERE k = $3 AND l = $1", "UPDATE t SET a = a + -$4 WHERE k = $3 AND l = $1"),
            ("SELECT 0.5, .5, 10.0, 1234567890, 0", "SELECT 0.5, .5, 10.0, 1234567890, $1"),
            ("SELECT \"0 '?'\", 3 FROM \"t\"\"0\"", "SELECT \"0 '?'\", $1 FROM \"t\"\"0\""),
            ("SELECT 1 FROM numeric(5,2) a", "SELECT $1 FROM numeric($2,$3) a"),
            ("SELECT $99999999999999999999, 1", "SELECT $99999999999999999999, $1"),
        ] {
            assert_eq!(String::from_utf8(shown(form(text).unwrap().as_bytes())).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_a_fact_may_hang_on_has_no_normal_form() {
        for text in [
            "",
            "SELECT",
            "SELECT x FROM t",
            "SELECT $1",
            "SELECTED 1",
            "SET work_mem = 5",
            "EXPLAIN SELECT 1",
            "BEGIN; SELECT 1",
            "SELECT 1; SET x = 2",
            "SELECT 1 -- pgweir: primary",
            "/* pgweir: replica */ SELECT 1",
            "SELECT /* 5 */ 1",
            "SELECT E'a', 1",
            "SELECT U&'a', 1",
            "SELECT U&\"set\\005fconfig\"('a', 'b', false)",
            "SELECT 'a\\'",
            "SELECT 'open",
            "SELECT \"open, 1",
            "SELECT $$a$$, 1",
            "SELECT $a$a$a$, 1",
            "SELECT 0x10, 1",
            "SELECT 1_000",
            "SELECT 1e5",
            "SELECT 1a",
            "SELECT pg_catalog.Set_Config('search_path', 'x', true)",
            "SELECT \"set_config\"('search_path', 'x', true)",
            "SELECT x::FLOAT(10) FROM t",
            "SELECT 1\0",
        ] {
            assert_eq!(form(text), None, "{text}");
        }
    }

    /// The facts without the values of keys.
    fn valueless(text: &str) -> QueryFacts {
        let mut facts = parse::facts(text.as_bytes());
        facts.drop_values();
        // The message may quote a value.
        facts.unparsed = facts.unparsed.map(|_| (String::new(), None));
        facts
    }

    proptest! {
        #[test]
        fn no_form_panics(form in "[a0-9'\"$.é ?-]{0,30}") {
            drop(shown(form.as_bytes()));
        }

        /// Texts that have the same normal form have the same facts but for the values.
        #[test]
        fn the_normal_form_says_the_same(text in texts()) {
            if let Some(normal) = form(&text) {
                prop_assert_eq!(valueless(&normal), valueless(&text), "{} / {}", normal, text);
                prop_assert_eq!(form(&normal), Some(normal), "it is its own");
            }
        }
    }

    /// Texts put together from pieces that meet in odd ways.
    fn texts() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "SELECT",
            "INSERT INTO t",
            "VALUES",
            "UPDATE t SET",
            "DELETE FROM t",
            "WITH x AS (SELECT 1)",
            " ",
            " ",
            " ",
            "\n",
            "(",
            ")",
            ",",
            "=",
            "-",
            "+",
            ".",
            "'",
            "''",
            "\"",
            "$1",
            "$",
            "$$",
            "--",
            "/*",
            "*/",
            "/",
            "\\",
            ";",
            "::",
            "int",
            "float",
            "float8",
            "numeric(5,2)",
            "interval",
            "set_config",
            "nextval",
            "pg_advisory_lock",
            "f",
            "FROM t",
            "WHERE",
            "a",
            "k",
            "AND",
            "LIMIT",
            "FOR UPDATE",
            "INTO u",
            "E",
            "U&",
            "b",
            "x",
            "n",
            "0",
            "1",
            "12",
            "1234567890",
            "1.5",
            ".5",
            "1e3",
            "0x1",
            "'a'",
            "'search_path'",
            "'it''s'",
            "true",
            "NULL",
            "é",
            "RETURNING",
            "*",
            "DEFAULT",
            "current_setting",
            "ORDER BY",
            "a = 5",
            "k = '7'",
            "(1, 'b')",
        ]);
        let whole = prop::sample::select(vec![
            "SELECT * FROM t WHERE k = 5 AND b = 'x' LIMIT 10",
            "INSERT INTO t (k, a) VALUES (1, 'x'), (2, NULL) ON CONFLICT (k) DO UPDATE SET a = 'y'",
            "UPDATE t SET a = 'b' WHERE k = -5",
            "DELETE FROM t USING u WHERE t.k = u.k AND t.k = 7::bigint",
            "SELECT nextval('s'), pg_advisory_lock(5), f(1) FROM t FOR UPDATE",
            "WITH x AS (UPDATE t SET a = 1 RETURNING *) SELECT * FROM x WHERE a = 2",
        ]);
        prop_oneof![
            prop::collection::vec(piece, 1..14).prop_map(|pieces| format!("SELECT {}", pieces.concat())),
            whole.prop_map(str::to_owned),
        ]
    }
}
