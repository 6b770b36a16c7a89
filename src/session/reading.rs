//! How the literals of a text are read: PostgreSQL reads them when it parses the text, by the settings of that moment.
//!
//! `'2024-01-01 12:00'::timestamptz` is another instant under another `TimeZone`, and a statement that is kept goes on meaning the one
//! that it was parsed with. Clients who would read a text differently must not share one.

use crate::session::settings::ClientSettings;

/// The settings by which quoted literals are read, of which clients may have others than their server's.
const READERS: [&str; 9] = [
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

/// What decides how a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Literals {
    /// Nothing: it has none that are quoted.
    None,
    /// The settings by which literals are read.
    Quoted,
    /// The encoding as well.
    BeyondAscii,
}

impl Literals {
    /// Those of a text. One that has none may be taken for one that has some: a `$` or a quote is enough.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        if !text.is_ascii() {
            return Self::BeyondAscii;
        }
        let dollar_quoted = || text.windows(2).any(|pair| matches!(pair, [b'$', next] if !next.is_ascii_digit()));
        let null_compared = || text.windows(4).any(|word| word.eq_ignore_ascii_case(b"null"));
        if text.contains(&b'\'') || dollar_quoted() || null_compared() { Self::Quoted } else { Self::None }
    }

    /// How a client reads such a text: equal for those who read it alike. Nothing where it has the settings of its servers.
    #[must_use]
    pub fn reading(self, settings: &ClientSettings) -> Box<[u8]> {
        let mut reading = Vec::new();
        let mut note = |name: &str| {
            if let Some(value) = settings.get(name) {
                for part in [name, "=", value, "\0"] {
                    reading.extend_from_slice(part.as_bytes());
                }
            }
        };
        if self >= Self::Quoted {
            READERS.iter().for_each(|name| note(name));
        }
        if self == Self::BeyondAscii {
            note("client_encoding");
        }
        reading.into()
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
        assert!(Literals::None.reading(&tokyo).is_empty());
        assert!(Literals::Quoted.reading(&plain).is_empty());
        assert_ne!(Literals::Quoted.reading(&tokyo), Literals::Quoted.reading(&plain));
        // '1,50'::money is another sum there.
        assert_ne!(Literals::Quoted.reading(&euro), Literals::Quoted.reading(&plain));
        assert_ne!(Literals::BeyondAscii.reading(&plain), Literals::Quoted.reading(&plain));
    }
}
