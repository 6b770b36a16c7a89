//! How a text is read: PostgreSQL reads its literals and finds out the types of its parameters when it parses the text, by the settings and
//! the tables of that moment.
//!
//! `'2024-01-01 12:00'::timestamptz` is another instant under another `TimeZone`, `k = $1` has a parameter of another type where
//! `search_path` leads to another table, and a statement that is kept goes on meaning what it was parsed with. Clients who would read a text
//! differently must not share one.

use crate::session::settings::ClientSettings;
use crate::sql::scan;
use crate::sql::settings::READERS;

/// What the names in a text mean to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// What they mean to whoever has set nothing.
    Usual,
    /// What they mean to all whose `search_path` and role are written so.
    Of(Box<[u8]>),
    /// What nobody else can know: it has temporary objects, or what it has set is not settled yet.
    Own,
}

/// A client as the reader of a text.
#[derive(Debug)]
pub struct Reader<'a> {
    /// What it has set.
    pub settings: &'a ClientSettings,
    /// What names mean to it.
    pub names: Names,
    /// How often the catalog has changed so far: the types of parameters are those of now.
    pub epoch: u32,
    /// Its transaction has changed the catalog, which nobody else sees yet.
    pub changed: bool,
}

impl<'a> Reader<'a> {
    /// One to whom names mean the usual.
    #[must_use]
    pub fn usual(settings: &'a ClientSettings) -> Self {
        Self { settings, names: Names::Usual, epoch: 0, changed: false }
    }

    /// How it reads a text with such literals: equal for those who read it alike. `epoch`: of its parameters' types, 0 if none is found out.
    #[must_use]
    pub(super) fn reading(&self, literals: Literals, epoch: u32) -> Box<[u8]> {
        let mut reading = Vec::new();
        if epoch > 0 {
            reading.extend_from_slice(&epoch.to_be_bytes());
        }
        if let Names::Of(names) = &self.names {
            reading.extend_from_slice(names);
        }
        literals.note(self.settings, &mut reading);
        reading.into()
    }
}

/// What decides how a text's literals are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Literals {
    /// Nothing: it has none that are quoted.
    #[default]
    None,
    /// The settings by which literals are read.
    Quoted,
    /// The encoding as well.
    BeyondAscii,
    /// The moment: `'now'`, `'today'`.
    OfTheMoment,
}

impl Literals {
    /// Those of a text. One that has none may be taken for one that has some: a `$` or a quote is enough.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        if speaks_of_the_moment(text) {
            return Self::OfTheMoment;
        }
        if !text.is_ascii() {
            return Self::BeyondAscii;
        }
        let null_compared = || text.windows(4).any(|word| word.eq_ignore_ascii_case(b"null"));
        if text.contains(&b'\'') || is_dollar_quoted(text) || null_compared() { Self::Quoted } else { Self::None }
    }

    /// Writes down how a client reads such a text: equal for those who read it alike. Nothing where it has the settings of its servers.
    fn note(self, settings: &ClientSettings, reading: &mut Vec<u8>) {
        let mut note = |name: &str| {
            if let Some(value) = settings.get(name) {
                write(reading, name, value);
            }
        };
        if self >= Self::Quoted {
            READERS.iter().for_each(|name| note(name));
        }
        if self >= Self::BeyondAscii {
            note("client_encoding");
        }
    }
}

/// Whether a literal is read as a time that is taken when it is read, or may be.
fn speaks_of_the_moment(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];
    // PostgreSQL tells the words of a time from its numbers without blanks between them.
    let is_one = |word: &[u8]| WORDS.iter().any(|of_time| word.eq_ignore_ascii_case(of_time));
    let has_one = |literal: &[u8]| literal.split(|byte| !byte.is_ascii_alphabetic()).any(is_one);
    // What is written by numbers may spell any word, in E'' and U&''; elsewhere a backslash is itself.
    let spells = |pair: &[u8]| matches!(pair, [b'\\', b'x' | b'u' | b'U' | b'0'..=b'9' | b'+']);
    let unicode = || text.windows(3).any(|three| three.eq_ignore_ascii_case(b"u&'"));
    let escapes =
        |literal: &[u8]| literal.windows(2).any(spells) && (matches!(literal, [b'e' | b'E', ..]) || unicode());
    let may = memchr::memchr(b'\'', text).is_some() || is_dollar_quoted(text);
    may && scan::any_string(text, |literal| has_one(literal) || escapes(literal))
}

/// Whether it may have a literal between dollars.
fn is_dollar_quoted(text: &[u8]) -> bool {
    text.windows(2).any(|pair| matches!(pair, [b'$', next] if !next.is_ascii_digit()))
}

/// Appends a setting and its value.
pub(super) fn write(reading: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, "=", value, "\0"] {
        reading.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_reading_of_a_text_hangs_on() {
        for (text, literals) in [
            ("SELECT a FROM t WHERE k = $1 AND b = 42", Literals::None),
            ("SELECT '2024-01-01'::date", Literals::Quoted),
            ("SELECT $$2024-01-01$$::date", Literals::Quoted),
            ("SELECT $a$x$a$", Literals::Quoted),
            ("SELECT a = NULL FROM t", Literals::Quoted),
            ("SELECT a AS é FROM t", Literals::BeyondAscii),
            ("SELECT now(), 'x'", Literals::Quoted),
            ("SELECT 'x', now(), 'it''s', now()", Literals::Quoted),
            ("SELECT '2024-01-01', 'now'::timestamptz", Literals::OfTheMoment),
            ("SELECT ' Today 12:00'::timestamp", Literals::OfTheMoment),
            ("SELECT '{1,now}'::timestamptz[]", Literals::OfTheMoment),
            ("SELECT $$now$$::timestamptz", Literals::OfTheMoment),
            ("SELECT 1 -- it's\n, 'now'::timestamptz", Literals::OfTheMoment),
            ("SELECT E'it\\'s', 'now'::timestamptz", Literals::OfTheMoment),
            ("SELECT E'\\x6eow'::timestamptz", Literals::OfTheMoment),
            ("SELECT 'no'\n'w'::timestamptz", Literals::OfTheMoment),
            ("SELECT 'today12:00'::timestamp", Literals::OfTheMoment),
            ("SELECT \"id\" FROM \"now\" WHERE \"kind\" = 'x' AND valid_now > now() /*now='x'*/", Literals::Quoted),
            ("SELECT E'a\\nb', now()", Literals::Quoted),
            ("SELECT 'nowhere'", Literals::Quoted),
            (r"SELECT regexp_replace(a, '(x)', '\1\1'), '\xDEAD'::bytea, b ~ '^\+[0-9]+'", Literals::Quoted),
            (r"SELECT U&'\006eow'::timestamptz", Literals::OfTheMoment),
        ] {
            assert_eq!(Literals::of(text.as_bytes()), literals, "{text}");
        }
    }

    #[test]
    fn who_reads_alike_shares() {
        let settings = |pairs: &[(&str, &str)]| {
            let mut settings = ClientSettings::default();
            pairs.iter().for_each(|(name, value)| settings.set(name, value));
            settings
        };
        let plain = settings(&[("work_mem", "5MB"), ("client_encoding", "LATIN1")]);
        let tokyo = settings(&[("timezone", "Asia/Tokyo")]);
        let euro = settings(&[("lc_monetary", "de_DE.UTF-8")]);
        let reading = |literals, settings| Reader::usual(settings).reading(literals, 0);
        assert!(reading(Literals::None, &tokyo).is_empty());
        assert!(reading(Literals::Quoted, &plain).is_empty());
        assert_ne!(reading(Literals::Quoted, &tokyo), reading(Literals::Quoted, &plain));
        // '1,50'::money is another sum there.
        assert_ne!(reading(Literals::Quoted, &euro), reading(Literals::Quoted, &plain));
        assert_ne!(reading(Literals::BeyondAscii, &plain), reading(Literals::Quoted, &plain));
        let elsewhere =
            Reader { settings: &plain, names: Names::Of(b"search_path=a"[..].into()), ..Reader::usual(&plain) };
        assert_ne!(elsewhere.reading(Literals::None, 0), reading(Literals::None, &plain));
        assert_ne!(elsewhere.reading(Literals::None, 0), elsewhere.reading(Literals::None, 1));
    }
}
