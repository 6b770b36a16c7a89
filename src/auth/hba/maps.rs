//! Who may be whom: the maps of `auth_ident_file`, in the form of PostgreSQL's pg_ident.conf.

use std::path::Path;

use regex::Regex;

use super::files::{self, Files, Mistake, Word, single};

/// The maps of `auth_ident_file`: which users a system user, or the name of a certificate, may be.
///
/// See <https://www.postgresql.org/docs/current/auth-username-maps.html>.
#[derive(Debug, Clone, Default)]
pub struct Maps(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    map: String,
    system: System,
    user: Mapped,
}

#[derive(Debug, Clone)]
enum System {
    Is(String),
    Like(Regex),
}

#[derive(Debug, Clone)]
enum Mapped {
    /// Any user.
    All,
    /// This one; `\1` stands for what the regular expression's first group has matched.
    Is(String),
}

impl Maps {
    /// Reads a file and what it includes.
    ///
    /// # Errors
    /// Every line that is not blank, a comment, or a map's name, a system user and a user.
    pub fn read(path: &Path, files: &dyn Files) -> Result<Self, Vec<Mistake>> {
        let (mut entries, mut mistakes) = (Vec::new(), Vec::new());
        for line in files::read(path, files, &mut mistakes) {
            match entry(&line.fields) {
                Ok(entry) => entries.push(entry),
                Err(message) => mistakes.push(line.mistake(message)),
            }
        }
        mistakes.sort_unstable();
        mistakes.dedup();
        if mistakes.is_empty() { Ok(Self(entries)) } else { Err(mistakes) }
    }

    pub(super) fn has(&self, map: &str) -> bool {
        self.0.iter().any(|entry| entry.map == map)
    }

    /// Whether who is `system` outside may be `user`. Without a map the two must be the same.
    #[must_use]
    pub fn allows(&self, map: Option<&str>, system: &str, user: &str) -> bool {
        let Some(map) = map else { return system == user };
        self.0.iter().filter(|entry| entry.map == map).any(|entry| entry.allows(system, user))
    }
}

impl Entry {
    fn allows(&self, system: &str, user: &str) -> bool {
        let group = match &self.system {
            System::Is(name) if name == system => None,
            System::Is(_) => return false,
            System::Like(regex) => {
                let Some(found) = regex.captures(system) else { return false };
                Some(found.get(1).map_or("", |group| group.as_str()))
            }
        };
        match (&self.user, group) {
            (Mapped::All, _) => true,
            // PostgreSQL replaces the first one.
            (Mapped::Is(name), Some(group)) => name.replacen("\\1", group, 1) == user,
            (Mapped::Is(name), None) => name == user,
        }
    }
}

fn entry(fields: &[Vec<Word>]) -> Result<Entry, String> {
    let (map, system, user) = match fields {
        [map, system, user] => (single(map, "the map")?, single(system, "the system user")?, single(user, "the user")?),
        _ => return Err("expected the map's name, the system user and the user".to_owned()),
    };
    let system = match system.text.strip_prefix('/') {
        Some(pattern) => {
            System::Like(Regex::new(pattern).map_err(|_| format!("{pattern:?} is not a regular expression"))?)
        }
        None => System::Is(system.text.clone()),
    };
    if user.text.contains("\\1") && !matches!(&system, System::Like(regex) if regex.captures_len() > 1) {
        return Err("\\1 stands for a group (...) of the system user's regular expression, which has none".to_owned());
    }
    if !user.quoted && user.text.starts_with(['+', '/']) {
        return Err(format!("{:?} is not supported: list the users", user.text));
    }
    let user = if user.is("all") { Mapped::All } else { Mapped::Is(user.text.clone()) };
    Ok(Entry { map: map.text.clone(), system, user })
}
