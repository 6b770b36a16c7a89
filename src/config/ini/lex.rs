//! Lines of pgbouncer.ini: sections, `name = value`, comments, `%include`.
//!
//! As PgBouncer reads them (<https://www.pgbouncer.org/config.html>): a comment begins a line, a value goes to the end of its
//! line and is taken as it is, an included file is read in place, within the section that it is included in.

use std::path::{Path, PathBuf};

use super::super::Read;
use super::super::raw::Mistakes;

/// Files within files: PgBouncer's own limit, and what stops a file that includes itself.
const DEEPEST: usize = 10;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// `[name]`.
    Section(String),
    /// `name = value`.
    Pair(String, String),
}

/// All lines that say something, of the file and of those it includes.
pub(super) struct Lines<'a> {
    read: Read<'a>,
    /// The items with their places.
    pub(super) items: Vec<(usize, Item)>,
    /// What a place, counted from 1, is: a file and a line in it.
    places: Vec<(PathBuf, usize)>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(read: Read<'a>) -> Self {
        Self { read, items: Vec::new(), places: Vec::new() }
    }

    /// The file and line of a place; place 0 is none.
    pub(super) fn place(&self, place: usize) -> Option<&(PathBuf, usize)> {
        self.places.get(place.checked_sub(1)?)
    }

    /// Reads a file; relative names start at the working directory, as PgBouncer's do.
    pub(super) fn file(&mut self, path: &Path, mistakes: &mut Mistakes) {
        self.include(path, 0, 0, mistakes);
    }

    fn include(&mut self, path: &Path, from: usize, depth: usize, mistakes: &mut Mistakes) {
        let name = path.display();
        if depth >= DEEPEST {
            return mistakes.add(from, format!("%include {name}: files are included more than {DEEPEST} deep"));
        }
        let bytes = match (self.read)(path) {
            Ok(bytes) => bytes,
            Err(why) if from == 0 => return mistakes.add(0, format!("cannot read the file: {why}")),
            Err(why) => return mistakes.add(from, format!("%include {name}: cannot read the file: {why}")),
        };
        // A byte order mark is no part of the first line.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            self.places.push((path.to_owned(), number));
            let place = self.places.len();
            match std::str::from_utf8(line) {
                Ok(text) if !text.contains('\0') => self.line(text, place, depth, mistakes),
                _ => mistakes.add(place, "not valid UTF-8 text"),
            }
        }
    }

    fn line(&mut self, line: &str, place: usize, depth: usize, mistakes: &mut Mistakes) {
        let mut rest = line.trim();
        // More may follow a section's name on its line.
        while let Some(after) = rest.strip_prefix('[') {
            let Some((name, more)) = after.split_once(']') else {
                return mistakes.add(place, "the section's name is not closed: a \"]\" is missing");
            };
            self.items.push((place, Item::Section(name.to_owned())));
            rest = more.trim_start();
        }
        if rest.is_empty() || rest.starts_with(['#', ';']) {
            return;
        }
        if let Some(file) = rest.strip_prefix("%include").filter(|file| file.starts_with([' ', '\t'])) {
            return self.include(Path::new(file.trim()), place, depth.saturating_add(1), mistakes);
        }
        match pair(rest) {
            Ok(pair) => self.items.push((place, pair)),
            Err(why) => mistakes.add(place, why),
        }
    }
}

/// Reads `name = value`. A name of other characters than letters, digits and `_.-*` stands in double quotes.
fn pair(text: &str) -> Result<Item, String> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted).ok_or("the name's closing double quote is missing")?,
        None => {
            let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-*".contains(c))).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            (name.to_owned(), rest)
        }
    };
    let Some(value) = rest.trim_start().strip_prefix('=') else {
        // A "=" further on: it is the name that is wrong. Nothing of the line is quoted, it may hold a password.
        return Err(if text.starts_with('%') {
            "unknown directive; expected %include FILE".to_owned()
        } else if text.contains('=') && rest.starts_with([' ', '\t']) && !name.is_empty() {
            "the = behind the name is missing, or the name has a blank in it and must stand in double quotes".to_owned()
        } else if text.contains('=') && !text.starts_with('"') {
            "a name with other characters than letters, digits and _.-* must stand in double quotes".to_owned()
        } else {
            "expected NAME = VALUE, [SECTION], %include FILE or a comment".to_owned()
        });
    };
    if name.is_empty() {
        return Err("the name before the \"=\" is missing".to_owned());
    }
    Ok(Item::Pair(name, value.trim_start().to_owned()))
}

/// What stands up to the closing double quote, and what follows it. A double quote within is doubled.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}
