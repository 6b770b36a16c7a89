//! A small lexer: it knows where comments, strings, quoted names and dollar quotes begin and end, and nothing else.
//!
//! It follows <https://www.postgresql.org/docs/current/sql-syntax-lexical.html>.

/// How much of PostgreSQL's own lexer's time a text may take beyond one step a byte; see [`Lexer::work`].
pub(super) const MAX_WORK: usize = 2_000_000;

/// Finds the block comments of a text by stepping over everything that may hide their marks.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the run of operator characters ends that was looked at last.
    run_end: usize,
    work: usize,
}

/// Whether any string constant of the text is one; those that continue each other over lines are taken together. Of a dollar-quoted one its marks are
/// looked at as well.
pub fn any_string(text: &[u8], mut is_one: impl FnMut(&[u8]) -> bool) -> bool {
    let mut lexer = Lexer::new(text);
    let mut last: Option<(Vec<u8>, usize)> = None;
    while let Some(&c) = text.get(lexer.at) {
        if lexer.begins_comment(c) {
            if lexer.block_comment().is_none() {
                return false;
            }
            continue;
        }
        let from = lexer.at;
        lexer.step(c);
        let piece = text.get(from..lexer.at).unwrap_or_default();
        let quoted = piece.first() == Some(&b'\'') || piece.get(1) == Some(&b'\'');
        let dollar_quoted = c == b'$' && piece.len() > 1;
        if !(quoted || dollar_quoted) {
            continue;
        }
        let continues = last.as_ref().is_some_and(|(_, end)| {
            quoted && text.get(*end..from).is_some_and(|between| between.iter().all(u8::is_ascii_whitespace))
        });
        let mut whole = if continues { last.take().map(|(whole, _)| whole).unwrap_or_default() } else { Vec::new() };
        if continues {
            // The quotes between the pieces are no part of it.
            whole.pop();
            whole.extend_from_slice(piece.get(1..).unwrap_or_default());
        } else {
            whole.extend_from_slice(piece);
        }
        if is_one(&whole) {
            return true;
        }
        last = Some((whole, lexer.at));
    }
    false
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, run_end: 0, work: 0 }
    }

    /// Reads the whole text; see [`Self::work`].
    pub(super) fn total_work(mut self) -> usize {
        while self.next_comment().is_some() && self.work <= MAX_WORK {}
        self.work
    }

    /// Counts a token that starts with an operator character. PostgreSQL's lexer first takes the whole run of such
    /// characters there, comment marks and all, and then puts back what is too much, so a long run costs the square of its
    /// length: 200 kB of `/*/*/*` are 40 s.
    fn count_token(&mut self) {
        if self.at >= self.run_end {
            let rest = self.text.get(self.at..).unwrap_or_default();
            self.run_end = self.at + rest.iter().take_while(|c| is_operator(**c)).count();
        }
        self.work = self.work.saturating_add(self.run_end - self.at);
    }

    /// The content of the next block comment that is closed.
    pub(super) fn next_comment(&mut self) -> Option<&'a [u8]> {
        while let Some(&c) = self.text.get(self.at) {
            if self.begins_comment(c) {
                return self.block_comment();
            }
            self.step(c);
        }
        None
    }

    /// Where the call ends whose function's name begins at `from`: behind the parenthesis that closes the first one.
    pub(super) fn end_of_call(text: &'a [u8], from: usize) -> Option<usize> {
        let mut lexer = Self { at: from, ..Self::new(text) };
        let mut open = 0_usize;
        while let Some(&c) = text.get(lexer.at) {
            if lexer.begins_comment(c) {
                lexer.block_comment()?;
                continue;
            }
            lexer.step(c);
            match c {
                b'(' => open += 1,
                b')' => open = open.checked_sub(1)?,
                _ => continue,
            }
            if open == 0 {
                return Some(lexer.at);
            }
        }
        None
    }

    /// Where the rows of the first VALUES stand that is not in parentheses; each from its parenthesis to the one that closes it.
    pub(super) fn rows(text: &'a [u8]) -> Option<Vec<std::ops::Range<usize>>> {
        let mut lexer = Self::new(text);
        let (mut depth, mut values, mut begun, mut rows) = (0_usize, false, 0, Vec::new());
        while let Some(&c) = text.get(lexer.at) {
            if lexer.begins_comment(c) {
                lexer.block_comment()?;
                continue;
            }
            let start = lexer.at;
            lexer.step(c);
            match c {
                b'-' if lexer.at > start + 1 => {}
                b'(' => {
                    if depth == 0 {
                        begun = start;
                    }
                    depth += 1;
                }
                b')' => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 && values {
                        rows.push(begun..lexer.at);
                    }
                }
                b',' => {}
                _ if c.is_ascii_whitespace() || c == 0x0b || depth > 0 => {}
                _ if values => break,
                _ => values = text.get(start..lexer.at).is_some_and(|word| word.eq_ignore_ascii_case(b"values")),
            }
        }
        (depth == 0 && !rows.is_empty()).then_some(rows)
    }

    /// The first word behind the blanks and comments from `from` on.
    pub(super) fn first_word(text: &'a [u8], from: usize) -> Option<std::ops::Range<usize>> {
        let mut lexer = Self { at: from, ..Self::new(text) };
        loop {
            let &c = text.get(lexer.at)?;
            if lexer.begins_comment(c) {
                lexer.block_comment()?;
            } else if c == b'-' || c.is_ascii_whitespace() || matches!(c, 0x0b | b';') {
                lexer.step(c);
            } else {
                let start = lexer.at;
                lexer.step(c);
                return Some(start..lexer.at);
            }
        }
    }

    fn begins_comment(&self, c: u8) -> bool {
        c == b'/' && self.text.get(self.at + 1) == Some(&b'*')
    }

    /// Steps over what begins with `c`, which is no block comment.
    fn step(&mut self, c: u8) {
        match (c, self.text.get(self.at + 1)) {
            (b'-', Some(b'-')) => self.line_comment(),
            (b'\'', _) => self.quoted(b'\'', false),
            (b'"', _) => self.quoted(b'"', false),
            (b'e' | b'E', Some(b'\'')) => {
                self.at += 1;
                self.escape_string();
            }
            (b'$', _) => self.dollar_quoted(),
            _ if is_identifier_start(c) => self.word(),
            // `1e'..'` and `$1` need no care: a number never swallows a quote.
            _ => {
                if is_operator(c) {
                    self.count_token();
                }
                self.at += 1;
            }
        }
    }

    fn block_comment(&mut self) -> Option<&'a [u8]> {
        self.count_token();
        self.at += 2;
        let from = self.at;
        let mut depth = 1;
        while self.at < self.text.len() {
            match self.text.get(self.at..self.at + 2) {
                Some(b"/*") => {
                    self.count_token();
                    depth += 1;
                    self.at += 2;
                }
                Some(b"*/") => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return self.text.get(from..self.at - 2);
                    }
                }
                _ => self.at += 1,
            }
        }
        None
    }

    fn line_comment(&mut self) {
        while !matches!(self.text.get(self.at), None | Some(b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// A literal or identifier in quotes; a doubled quote simply opens the next one.
    fn quoted(&mut self, quote: u8, backslash: bool) {
        self.at += 1;
        while let Some(&c) = self.text.get(self.at) {
            self.at += 1;
            if c == quote {
                return;
            }
            if c == b'\\' && backslash {
                self.at += 1;
            }
        }
    }

    /// `E'...'`, whose backslashes also count in the pieces that continue it: `''` at once, or `'` on a later line.
    fn escape_string(&mut self) {
        loop {
            self.quoted(b'\'', true);
            let end = self.at;
            let mut newline = false;
            loop {
                match self.text.get(self.at) {
                    Some(b'\n' | b'\r') => {
                        newline = true;
                        self.at += 1;
                    }
                    Some(b' ' | b'\t' | 0x0b | 0x0c) => self.at += 1,
                    Some(b'-') if self.text.get(self.at + 1) == Some(&b'-') => self.line_comment(),
                    _ => break,
                }
            }
            let continued = self.text.get(self.at) == Some(&b'\'') && (newline || self.at == end);
            if !continued {
                self.at = end;
                return;
            }
        }
    }

    /// `$tag$...$tag$`, or a parameter, or a lone dollar.
    fn dollar_quoted(&mut self) {
        let from = self.at;
        self.at += 1;
        while self.text.get(self.at).is_some_and(|&c| is_identifier_start(c) || c.is_ascii_digit()) {
            self.at += 1;
        }
        let is_tag = self.text.get(self.at) == Some(&b'$') && !self.text[from + 1].is_ascii_digit();
        if !is_tag {
            self.at = self.at.max(from + 1);
            return;
        }
        self.at += 1;
        let tag = &self.text[from..self.at];
        let rest = &self.text[self.at..];
        self.at += match rest.windows(tag.len()).position(|w| w == tag) {
            Some(end) => end + tag.len(),
            None => rest.len(),
        };
    }

    /// An unquoted identifier, whose dollars open nothing.
    fn word(&mut self) {
        while self.text.get(self.at).is_some_and(|&c| is_identifier_start(c) || c.is_ascii_digit() || c == b'$') {
            self.at += 1;
        }
    }
}

fn is_identifier_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || c == b'_' || c >= 0x80
}

/// The characters of operators: `op_chars` in PostgreSQL's lexer.
fn is_operator(c: u8) -> bool {
    matches!(
        c,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(text: &str) -> usize {
        Lexer::new(text.as_bytes()).total_work()
    }

    #[test]
    fn ordinary_texts_are_cheap() {
        let banner = format!("/*{}*/ SELECT 1 --{}\n", "*".repeat(5000), "-".repeat(5000));
        assert!(work(&banner) < 6000);
        assert!(work("SELECT a || b ->> 'c' <@ d, 1 + -2 * 3 FROM t WHERE x <> 4") < 50);
        assert_eq!(work(&format!("SELECT '{}'", "+".repeat(100_000))), 0);
        assert!(work(&format!("SELECT 1 {}", "+ 1 /* a */".repeat(10_000))) < 100_000);
    }

    #[test]
    fn long_runs_are_not() {
        for piece in ["+", "/*", "/**/", "+/**/", "=+", "/*/"] {
            assert!(work(&piece.repeat(100_000)) > MAX_WORK, "{piece}");
        }
    }
}
