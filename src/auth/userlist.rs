//! PgBouncer's `userlist.txt`: one `"user" "secret"` per line.
//!
//! Quotes within a field are doubled, what follows the second field is ignored, and lines that begin with `;` are
//! comments, all as in PgBouncer (<https://www.pgbouncer.org/config.html#authentication-file-format>). Beyond it, `#`
//! begins a comment too, and all mistakes are reported at once.

use std::collections::BTreeMap;
use std::fmt;

use super::secret::{Mock, MockKind, Secret};

/// The users of an auth file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Userlist {
    users: BTreeMap<String, Secret>,
    /// What was accepted but is likely a mistake; never holds a secret.
    pub warnings: Vec<LineError>,
}

/// A mistake on a line of the file. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// The line, counted from one.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for LineError {}

impl Userlist {
    /// Reads a file's text.
    ///
    /// A name that comes twice has the secret of its last line, as in PgBouncer; that is a warning.
    ///
    /// # Errors
    /// Every line that is not blank, a comment, or two quoted fields with a valid secret.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        let mut list = Self::default();
        let mut errors = Vec::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (line, text) in (1..).zip(text.lines()) {
            match parse_line(text.trim()) {
                Ok(None) => {}
                Ok(Some((user, secret))) => {
                    if list.users.contains_key(&user) {
                        let message = format!("user \"{user}\" is listed again: this line counts");
                        list.warnings.push(LineError { line, message });
                    }
                    list.users.insert(user, secret);
                }
                Err(message) => errors.push(LineError { line, message }),
            }
        }
        if errors.is_empty() { Ok(list) } else { Err(errors) }
    }

    /// Adds a user from elsewhere, or replaces one.
    pub fn insert(&mut self, user: &str, secret: Secret) {
        self.users.insert(user.to_owned(), secret);
    }

    /// The secret of a user; none if he is not listed.
    #[must_use]
    pub fn get(&self, user: &str) -> Option<&Secret> {
        self.users.get(user)
    }

    /// All users by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.users.iter().map(|(user, secret)| (user.as_str(), secret))
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// What users who are not listed should be shown: the commonest kind of secret here, and the commonest iteration
    /// count of the verifiers, so that they do not stand out. `key`: see [`Mock::new`]; `iterations`: of the verifiers
    /// that are made of clear passwords.
    #[must_use]
    pub fn mock(&self, key: [u8; 32], iterations: u32) -> Mock {
        let mut counts = BTreeMap::<u32, usize>::new();
        let mut scram = 0_usize;
        for secret in self.users.values() {
            let shown = match secret {
                Secret::Scram(secret) => {
                    scram += 1;
                    secret.iterations()
                }
                Secret::Clear(_) => iterations,
                Secret::Absent | Secret::Md5(_) => continue,
            };
            *counts.entry(shown).or_default() += 1;
        }
        // Clear-text users count with MD5: under `md5` they are shown an MD5 challenge.
        let kind = if scram * 2 > self.users.len() { MockKind::Scram } else { MockKind::Md5 };
        let iterations = counts.into_iter().max_by_key(|(_, users)| *users).map_or(iterations, |(count, _)| count);
        Mock::new(key, kind, iterations)
    }
}

/// One trimmed line: none if it says nothing.
fn parse_line(line: &str) -> Result<Option<(String, Secret)>, String> {
    if line.is_empty() || line.starts_with([';', '#']) {
        return Ok(None);
    }
    let (user, rest) = quoted(line).ok_or_else(|| no_field("user name", line))?;
    if user.is_empty() {
        return Err("the user name is empty".to_owned());
    }
    if user.contains('\0') {
        return Err("the user name contains a NUL byte".to_owned());
    }
    let rest = rest.trim_start();
    let (secret, _) = quoted(rest).ok_or_else(|| no_field(&format!("secret of user \"{user}\""), rest))?;
    let secret = Secret::parse(&secret).map_err(|error| format!("user \"{user}\": {error}"))?;
    Ok(Some((user, secret)))
}

/// Why there is no quoted field. Nothing of the text is told: it may be a secret.
fn no_field(what: &str, text: &str) -> String {
    if text.starts_with('"') {
        format!("the {what} has no closing double quote")
    } else {
        let article = if what == "user name" { "a" } else { "the" };
        format!("expected {article} {what} in double quotes")
    }
}

/// A quoted field at the text's begin, unquoted, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut field = String::new();
    loop {
        let (part, tail) = rest.split_once('"')?;
        field.push_str(part);
        let Some(more) = tail.strip_prefix('"') else { return Some((field, tail)) };
        field.push('"');
        rest = more;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::secret::Password;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:6snEYkv81brNtaj6VpuxvA==$neoVbd/MhcicasJ1rIeZxKzR20mJUFyFIQDmGZuEaoc=:\
                            3nepLlGLw5VfIvNFz3RJWLSPfT3ASiWJbmQr0/MReIY=";

    fn clear(text: &str) -> Secret {
        Secret::Clear(Password::new(text))
    }

    #[test]
    fn a_file_with_all_there_is() {
        let text = format!(
            "\u{feff}; comment\n# another\r\n\n  \"ann\" \"pencil\"\r\n\"md\"\t\"md545f2603610af569b6155c45067268c6b\" \"\" x\n\
             \"scr\" \"{VERIFIER}\"\n\"q\"\"uote\" \"pa\"\"ss;#\"\n\"nopw\" \"\"\n\"glued\"\"\"\"x\"\n\"tight\"\"\" \"y\""
        );
        // `"glued""""x"` is one field: its quotes are all doubled.
        let errors = Userlist::parse(&text).unwrap_err();
        assert_eq!(
            errors,
            [LineError { line: 9, message: "expected the secret of user \"glued\"\"x\" in double quotes".to_owned() }]
        );

        let list = Userlist::parse(&text.replace("\"glued\"\"\"\"x\"\n", "")).unwrap();
        assert_eq!(list.len(), 6);
        assert_eq!(list.get("ann"), Some(&clear("pencil")));
        assert!(matches!(list.get("md"), Some(Secret::Md5(_))));
        assert!(matches!(list.get("scr"), Some(Secret::Scram(_))));
        assert_eq!(list.get("q\"uote"), Some(&clear("pa\"ss;#")));
        assert_eq!(list.get("nopw"), Some(&Secret::Absent));
        assert_eq!(list.get("tight\""), Some(&clear("y")));
        assert_eq!(list.get("Ann"), None);
        assert!(list.warnings.is_empty());
    }

    #[test]
    fn all_mistakes_are_reported_with_their_lines_and_without_secrets() {
        let text = "ann pencil\n\"bob\"\n\"good\" \"x\"\n\"eve\" hunter2\n\"\" \"hunter2\"\n\"dan\" \"hunter2\n\
                    \"fay\" \"SCRAM-SHA-256$hunter2\"\n\"gus\" \"SCRAM-SHA-256$4096";
        let errors = Userlist::parse(text).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [1, 2, 4, 5, 6, 7, 8]);
        let shown: String = errors.iter().map(|error| format!("{error}\n")).collect();
        assert!(!shown.contains("hunter2") && !shown.contains("pencil"), "{shown}");
        assert!(shown.contains("line 7: user \"fay\": not a valid SCRAM secret"), "{shown}");
    }

    #[test]
    fn the_last_line_of_a_user_counts() {
        let list = Userlist::parse("\"ann\" \"one\"\n\"ann\" \"two\"\n").unwrap();
        assert_eq!(list.get("ann"), Some(&clear("two")));
        assert_eq!(
            list.warnings,
            [LineError { line: 2, message: "user \"ann\" is listed again: this line counts".to_owned() }]
        );
    }

    #[test]
    fn strangers_look_like_most_users() {
        assert_eq!(Userlist::default().mock([0; 32], 4096).kind(), MockKind::Md5);
        let text = format!("\"a\" \"{VERIFIER}\"\n\"b\" \"{VERIFIER}\"\n\"c\" \"x\"").replace("4096", "10000");
        let mock = Userlist::parse(&text).unwrap().mock([0; 32], 4096);
        assert_eq!(mock.kind(), MockKind::Scram);
        assert_eq!(mock.verifier("ghost").iterations(), 10000);
        // Most have the verifiers that are made here.
        let clear = format!("{text}\n\"d\" \"x\"\n\"e\" \"x\"");
        assert_eq!(Userlist::parse(&clear).unwrap().mock([0; 32], 600).verifier("ghost").iterations(), 600);
        assert_eq!(Userlist::default().mock([0; 32], 600).verifier("ghost").iterations(), 600);
    }

    proptest! {
        #[test]
        fn any_name_and_password_survive_quoting(user in "[^\\x00\\r\\n]{1,12}", password in "[^\\x00\\r\\n]{1,12}") {
            let line = format!("\"{}\" \"{}\"", user.replace('"', "\"\""), password.replace('"', "\"\""));
            let list = Userlist::parse(&line).unwrap();
            prop_assert_eq!(list.get(&user), Some(&clear(&password)));
        }

        #[test]
        fn no_text_panics(text in "[\"\\n md5#;a\u{e4}]{0,60}") {
            let lines = text.lines().count();
            if let Err(errors) = Userlist::parse(&text) {
                prop_assert!(errors.iter().all(|error| (1..=lines).contains(&error.line)));
            }
        }
    }
}
