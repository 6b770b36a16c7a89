//! Words, names and strings of a console command, by PostgreSQL's lexical rules.
//!
//! See <https://www.postgresql.org/docs/current/sql-syntax-lexical.html>.

use crate::error::{Error, Result, SqlState};

/// A piece of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword, an unquoted name or a number, as it was written.
    Word(String),
    /// `"a name"`, its content.
    Name(String),
    /// `'a string'` or `$$a string$$`, its content.
    Text(String),
    /// Any other character.
    Symbol(char),
}

impl Token {
    /// The word in lower case, if it is one.
    pub(super) fn keyword(&self) -> Option<String> {
        match self {
            Self::Word(word) => Some(word.to_ascii_lowercase()),
            Self::Name(_) | Self::Text(_) | Self::Symbol(_) => None,
        }
    }
}

/// Cuts a command into tokens. Comments and white space are dropped.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = skip_blank(rest)?;
        let Some(first) = rest.chars().next() else { return Ok(out) };
        let (token, after) = match first {
            '"' => quoted(rest, '"').map(|(s, r)| (Token::Name(s), r))?,
            '\'' => quoted(rest, '\'').map(|(s, r)| (Token::Text(s), r))?,
            '$' => match dollar_quoted(rest)? {
                Some((s, r)) => (Token::Text(s), r),
                None => (Token::Symbol('$'), skip(rest, 1)),
            },
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                // `pools--x` is a word and a comment.
                let end = rest.find("--").map_or(end, |comment| end.min(comment));
                let (word, r) = rest.split_at(end);
                (Token::Word(word.to_owned()), r)
            }
            c => (Token::Symbol(c), skip(rest, c.len_utf8())),
        };
        out.push(token);
        rest = after;
    }
}

/// Dots and hyphens are not part of SQL's words, but database names and setting values have them.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-')
}

fn skip(text: &str, bytes: usize) -> &str {
    text.get(bytes..).unwrap_or_default()
}

/// Skips white space, `-- comments` and nested `/* comments */`.
fn skip_blank(mut text: &str) -> Result<&str> {
    loop {
        text = text.trim_start();
        if let Some(comment) = text.strip_prefix("--") {
            text = comment.find('\n').map_or("", |end| skip(comment, end));
        } else if text.starts_with("/*") {
            text = skip_comment(text)?;
        } else {
            return Ok(text);
        }
    }
}

/// Skips a `/* comment */` that `text` starts with; such comments nest.
fn skip_comment(text: &str) -> Result<&str> {
    let mut depth = 0_usize;
    let mut rest = text;
    loop {
        if let Some(inner) = rest.strip_prefix("/*") {
            (depth, rest) = (depth + 1, inner);
        } else if let Some(outer) = rest.strip_prefix("*/") {
            (depth, rest) = (depth.saturating_sub(1), outer);
            if depth == 0 {
                return Ok(rest);
            }
        } else {
            let Some(c) = rest.chars().next() else { return Err(unterminated("/* comment")) };
            rest = skip(rest, c.len_utf8());
        }
    }
}

/// The content of the quoted piece that `text` starts with, and what follows. A doubled quote stands for one.
fn quoted(text: &str, quote: char) -> Result<(String, &str)> {
    let mut content = String::new();
    let mut chars = skip(text, quote.len_utf8()).chars();
    loop {
        match chars.next() {
            Some(c) if c == quote => match chars.as_str().strip_prefix(quote) {
                Some(more) => {
                    content.push(quote);
                    chars = more.chars();
                }
                None => return Ok((content, chars.as_str())),
            },
            Some(c) => content.push(c),
            None => return Err(unterminated(if quote == '"' { "quoted identifier" } else { "quoted string" })),
        }
    }
}

/// The content of the `$tag$...$tag$` that `text` starts with; none if the dollar sign starts no such tag.
fn dollar_quoted(text: &str) -> Result<Option<(String, &str)>> {
    let Some(tag_end) = skip(text, 1).find('$').map(|at| at + 2) else { return Ok(None) };
    let (tag, rest) = text.split_at(tag_end);
    let inner = tag.trim_matches('$');
    let is_tag =
        inner.chars().all(|c| c.is_alphanumeric() || c == '_') && !inner.starts_with(|c: char| c.is_ascii_digit());
    if !is_tag {
        return Ok(None);
    }
    match rest.split_once(tag) {
        Some((content, after)) => Ok(Some((content.to_owned(), after))),
        None => Err(unterminated("dollar-quoted string")),
    }
}

fn unterminated(what: &str) -> Error {
    Error::client(SqlState::SYNTAX_ERROR, format!("unterminated {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(s: &str) -> Token {
        Token::Word(s.to_owned())
    }

    #[test]
    fn words_names_strings_and_comments() {
        let text = "sHow /* a /* nested */ one */ \"my \"\"db\" -- to the end\n 'it''s' $$a'b$$ $t$x$$y$t$ a.b-1 = ;";
        let expected = [
            word("sHow"),
            Token::Name("my \"db".to_owned()),
            Token::Text("it's".to_owned()),
            Token::Text("a'b".to_owned()),
            Token::Text("x$$y".to_owned()),
            word("a.b-1"),
            Token::Symbol('='),
            Token::Symbol(';'),
        ];
        assert_eq!(tokens(text).unwrap(), expected);
        assert_eq!(tokens("-- only a comment").unwrap(), []);
        assert_eq!(tokens("pools--x").unwrap(), [word("pools")]);
    }

    #[test]
    fn what_is_not_closed_is_said() {
        for (text, what) in
            [("'a", "quoted string"), ("\"a", "quoted identifier"), ("/* /* */", "comment"), ("$$ a", "dollar-quoted")]
        {
            let error = tokens(text).unwrap_err();
            assert_eq!(error.sqlstate, SqlState::SYNTAX_ERROR);
            assert!(error.message.contains(what), "{text}: {error}");
        }
        assert_eq!(tokens("$1$").unwrap(), [Token::Symbol('$'), word("1"), Token::Symbol('$')]);
    }

    proptest! {
        #[test]
        fn any_text_is_cut_or_refused(text in any::<String>()) {
            if let Err(e) = tokens(&text) {
                prop_assert_eq!(e.sqlstate, SqlState::SYNTAX_ERROR);
            }
        }

        #[test]
        fn a_quoted_text_comes_back(text in any::<String>()) {
            let quoted = format!("'{}'", text.replace('\'', "''"));
            prop_assert_eq!(tokens(&quoted).unwrap(), vec![Token::Text(text.clone())]);
            let quoted = format!("\"{}\"", text.replace('"', "\"\""));
            prop_assert_eq!(tokens(&quoted).unwrap(), vec![Token::Name(text)]);
        }
    }
}
