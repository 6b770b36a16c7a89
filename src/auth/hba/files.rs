//! The lines of a file of rules or maps, with what it includes, as fields of words.
//!
//! See <https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>: `include`, `include_if_exists` and `include_dir` stand alone on a
//! line; `@file` stands for the words of another file; a name that is not absolute starts where the file is that names it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// How deep files may include each other; PostgreSQL's number.
const DEEPEST: usize = 10;

/// A mistake, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from one; 0: the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.message),
        }
    }
}

/// Where files are read from.
pub trait Files {
    /// The text of a file.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// What is in a directory, in any order.
    ///
    /// # Errors
    /// It cannot be read.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
}

/// A word, and whether it began with a quote: then it has no special meaning.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl Word {
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }

    /// The file that an `@` names.
    fn file(&self) -> Option<&str> {
        self.text.strip_prefix('@').filter(|name| !self.quoted && !name.is_empty())
    }
}

/// A line that is not blank: its fields, each a list of words.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) path: PathBuf,
    pub(super) number: usize,
    pub(super) fields: Vec<Vec<Word>>,
}

impl Line {
    pub(super) fn mistake(&self, message: String) -> Mistake {
        Mistake { path: self.path.clone(), line: self.number, message }
    }
}

/// Reads a file and all that it includes.
pub(super) fn read(path: &Path, files: &dyn Files, mistakes: &mut Vec<Mistake>) -> Vec<Line> {
    let mut reader = Reader { files, lines: Vec::new(), mistakes };
    match files.read(path) {
        Ok(text) => reader.text(path, &text, 0),
        Err(why) => {
            let message = format!("cannot read the file: {why}");
            reader.mistakes.push(Mistake { path: path.to_owned(), line: 0, message });
        }
    }
    reader.lines
}

struct Reader<'a> {
    files: &'a dyn Files,
    lines: Vec<Line>,
    mistakes: &'a mut Vec<Mistake>,
}

impl Reader<'_> {
    fn text(&mut self, path: &Path, text: &str, depth: usize) {
        for (number, text) in numbered(text) {
            let line = fields(&text).map(|fields| Line { path: path.to_owned(), number, fields });
            let done = line.and_then(|line| match line.fields.as_slice() {
                [] => Ok(()),
                [first, rest @ ..] => match include(first) {
                    Some(how) => self.include(&line, how, rest, depth),
                    None => self.expand(line),
                },
            });
            if let Err(message) = done {
                self.mistakes.push(Mistake { path: path.to_owned(), line: number, message });
            }
        }
    }

    fn include(&mut self, line: &Line, how: Include, rest: &[Vec<Word>], depth: usize) -> Result<(), String> {
        let [name] = rest else {
            return Err("one name of a file or directory must follow, and nothing else".to_owned());
        };
        let [name] = name.as_slice() else { return Err("the name cannot be a list".to_owned()) };
        if depth >= DEEPEST {
            return Err(format!("files are included more than {DEEPEST} levels deep"));
        }
        let target = beside(&line.path, &name.text);
        let unread = |what: &str, why: io::Error| format!("cannot read the {what} {}: {why}", target.display());
        let paths = match how {
            Include::Directory => {
                let mut found = self.files.list(&target).map_err(|why| unread("directory", why))?;
                found.retain(|path| {
                    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                    name.ends_with(".conf") && !name.starts_with('.')
                });
                found.sort_unstable();
                found
            }
            Include::File | Include::FileIfExists => vec![target.clone()],
        };
        for path in paths {
            match self.files.read(&path) {
                Ok(text) => self.text(&path, &text, depth + 1),
                Err(why) if how == Include::FileIfExists && why.kind() == io::ErrorKind::NotFound => {}
                Err(why) => return Err(format!("cannot read the file {}: {why}", path.display())),
            }
        }
        Ok(())
    }

    /// Takes a line, with the words of the files that an `@` names.
    fn expand(&mut self, mut line: Line) -> Result<(), String> {
        for field in &mut line.fields {
            if field.iter().any(|word| word.file().is_some()) {
                let mut words = Vec::new();
                for word in field.drain(..) {
                    self.word(word, &line.path, &mut words, 0)?;
                }
                if words.is_empty() {
                    return Err("the files named by @ hold no names".to_owned());
                }
                *field = words;
            }
        }
        self.lines.push(line);
        Ok(())
    }

    fn word(&self, word: Word, from: &Path, words: &mut Vec<Word>, depth: usize) -> Result<(), String> {
        let Some(name) = word.file() else {
            words.push(word);
            return Ok(());
        };
        if depth >= DEEPEST {
            return Err(format!("files are included more than {DEEPEST} levels deep"));
        }
        let path = beside(from, name);
        let text = self.files.read(&path).map_err(|why| format!("cannot read the file {}: {why}", path.display()))?;
        for (number, text) in numbered(&text) {
            let fields = fields(&text).map_err(|why| format!("{}:{number}: {why}", path.display()))?;
            for word in fields.into_iter().flatten() {
                self.word(word, &path, words, depth + 1)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    File,
    FileIfExists,
    Directory,
}

fn include(first: &[Word]) -> Option<Include> {
    let [word] = first else { return None };
    match word.text.as_str() {
        _ if word.quoted => None,
        "include" => Some(Include::File),
        "include_if_exists" => Some(Include::FileIfExists),
        "include_dir" => Some(Include::Directory),
        _ => None,
    }
}

/// A file by its name in another one.
fn beside(from: &Path, name: &str) -> PathBuf {
    from.parent().unwrap_or(Path::new("")).join(name)
}

/// Lines with their numbers; one that ends in a backslash goes on with the next.
fn numbered(text: &str) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()) {
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match all.last_mut() {
            Some((_, whole)) if goes_on => whole.push_str(part),
            _ => all.push((number, part.to_owned())),
        }
        goes_on = more;
    }
    all
}

/// A line's fields, each a list of words. Two quotes within quotes are one.
pub(super) fn fields(line: &str) -> Result<Vec<Vec<Word>>, String> {
    let mut fields: Vec<Vec<Word>> = Vec::new();
    let mut rest = line.trim_start();
    let mut listed = false;
    while !rest.is_empty() && !rest.starts_with('#') {
        let (mut text, mut inside, mut doubled) = (String::new(), false, false);
        let quoted = rest.starts_with('"');
        let mut end = rest.len();
        for (at, letter) in rest.char_indices() {
            match letter {
                '"' => {
                    if doubled {
                        text.push('"');
                    }
                    doubled = inside && !doubled;
                    inside = !inside;
                    continue;
                }
                ' ' | '\t' | '\r' | ',' | '#' if !inside => {
                    end = at;
                    break;
                }
                _ => text.push(letter),
            }
            doubled = false;
        }
        if inside {
            return Err("a quote is not closed".to_owned());
        }
        let word = Word { text, quoted };
        match fields.last_mut() {
            Some(field) if listed => field.push(word),
            _ => fields.push(vec![word]),
        }
        rest = rest.get(end..).unwrap_or_default();
        listed = rest.starts_with(',');
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Ok(fields)
}

/// The only word of a field.
pub(super) fn single<'w>(field: &'w [Word], what: &str) -> Result<&'w Word, String> {
    match field {
        [word] => Ok(word),
        _ => Err(format!("{what} cannot be a list")),
    }
}
