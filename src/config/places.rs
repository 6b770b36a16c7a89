//! Where settings stand, for mistakes that are found once the file is read: in the files that it names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::raw::{Entry, Node};

/// The places of settings of the process and of the passwords of users.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    file: PathBuf,
    settings: BTreeMap<String, (PathBuf, usize)>,
    passwords: BTreeMap<String, (PathBuf, usize)>,
}

impl Places {
    /// Those of a tree; `place` is what the number of a line in it stands for.
    pub(super) fn of(root: &[Entry], file: &Path, place: impl Fn(usize) -> (PathBuf, usize)) -> Self {
        let mut places = Self { file: file.to_owned(), ..Self::default() };
        let entries = |entry: Option<&Entry>| match entry.map(|entry| entry.value.node.clone()) {
            Some(Node::Table(entries)) => entries,
            _ => Vec::new(),
        };
        let section = |name: &str| entries(root.iter().find(|entry| entry.key == name));
        for entry in section("pgweir") {
            places.settings.insert(entry.key, place(entry.value.line));
        }
        for user in section("users") {
            if let Some(password) = entries(Some(&user)).iter().find(|entry| entry.key == "password") {
                places.passwords.insert(user.key, place(password.value.line));
            }
        }
        places
    }

    /// A mistake of a setting of the process. One that no file gives (SET does, or it is a default) is of the file as a whole.
    #[must_use]
    pub fn mistake(&self, setting: &str, message: impl Into<String>) -> ConfigError {
        self.at(self.settings.get(setting), message.into())
    }

    /// A mistake of the password of a user of `[users]`.
    #[must_use]
    pub fn mistake_of_password(&self, user: &str, message: impl Into<String>) -> ConfigError {
        self.at(self.passwords.get(user), message.into())
    }

    fn at(&self, place: Option<&(PathBuf, usize)>, message: String) -> ConfigError {
        let (path, line) = place.cloned().unwrap_or_else(|| (self.file.clone(), 0));
        ConfigError { path, line, message }
    }
}
