//! Where a line of COPY FROM ends, in text and csv.

use memchr::{memchr2, memchr3};

use super::{Layout, bad_data};
use crate::error::Result;

/// How lines end: the first one decides, as for the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Newline,
    Return,
    ReturnNewline,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A line of so many bytes, of which the last `ending` end it.
    Line { length: usize, ending: usize },
    /// `\.`: what follows does not count.
    End,
    /// More bytes are needed.
    Unfinished,
}

/// Finds the ends of lines. A line that is not whole is looked through once only, however it is cut into pieces.
#[derive(Debug)]
pub(super) struct Lines {
    /// csv: quote, and escape if it is another.
    quotes: Option<(u8, Option<u8>)>,
    ending: Option<Ending>,
    /// How far the line has been looked through.
    seen: usize,
    in_quote: bool,
    after_escape: bool,
}

impl Lines {
    pub(super) fn new(layout: &Layout) -> Self {
        let quotes = match layout {
            Layout::Csv { quote, escape, .. } => Some((*quote, (escape != quote).then_some(*escape))),
            Layout::Text { .. } | Layout::Binary => None,
        };
        Self { quotes, ending: None, seen: 0, in_quote: false, after_escape: false }
    }

    /// Looks for the end of the line that begins `bytes`. `last`: no more bytes come.
    pub(super) fn next(&mut self, bytes: &[u8], last: bool) -> Result<Found> {
        loop {
            self.skip_plain(bytes);
            let Some(byte) = bytes.get(self.seen).copied() else { break };
            let following = bytes.get(self.seen + 1).copied();
            if byte == b'\\' && (self.quotes.is_none() || self.seen == 0) {
                match following {
                    None if !last => return Ok(Found::Unfinished),
                    Some(b'.') => match self.marker(&bytes[self.seen..], last)? {
                        Some(found) => return Ok(found),
                        // In csv it is data.
                        None => self.seen += 1,
                    },
                    // In text the byte behind it stands for itself, also when it ends a line.
                    Some(_) if self.quotes.is_none() => self.seen += 2,
                    _ => self.quoted(byte),
                }
                continue;
            }
            match byte {
                b'\r' if !self.in_quote => match following {
                    None if !last => return Ok(Found::Unfinished),
                    Some(b'\n') if self.ending.is_none_or(|ending| ending == Ending::ReturnNewline) => {
                        return Ok(self.line(Ending::ReturnNewline, 2));
                    }
                    _ if self.ending.is_none_or(|ending| ending == Ending::Return) => {
                        return Ok(self.line(Ending::Return, 1));
                    }
                    _ => return Err(self.literal("carriage return")),
                },
                b'\n' if !self.in_quote => {
                    if self.ending.is_some_and(|ending| ending != Ending::Newline) {
                        return Err(self.literal("newline"));
                    }
                    return Ok(self.line(Ending::Newline, 1));
                }
                _ => self.quoted(byte),
            }
        }
        if !last || bytes.is_empty() {
            return Ok(Found::Unfinished);
        }
        if self.in_quote {
            return Err(bad_data("unterminated CSV quoted field"));
        }
        let length = bytes.len();
        self.reset();
        Ok(Found::Line { length, ending: 0 })
    }

    /// Passes over bytes that mean nothing where they stand: most of all.
    fn skip_plain(&mut self, bytes: &[u8]) {
        let Some(rest) = bytes.get(self.seen..) else { return };
        let found = match self.quotes {
            None => memchr3(b'\\', b'\n', b'\r', rest),
            // Behind an escape every byte counts, and so does a backslash that begins the line.
            Some(_) if self.after_escape || self.seen == 0 => return,
            Some((quote, escape)) if self.in_quote => memchr2(quote, escape.unwrap_or(quote), rest),
            // Outside of quotes an escape is a byte like any other.
            Some((quote, _)) => memchr3(quote, b'\n', b'\r', rest),
        };
        self.seen += found.unwrap_or(rest.len());
    }

    /// Follows the quotes past a byte.
    fn quoted(&mut self, byte: u8) {
        self.seen += 1;
        let Some((quote, escape)) = self.quotes else { return };
        if self.in_quote && escape == Some(byte) {
            self.after_escape = !self.after_escape;
        }
        if byte == quote && !self.after_escape {
            self.in_quote = !self.in_quote;
        }
        if escape != Some(byte) {
            self.after_escape = false;
        }
    }

    /// A backslash and a full stop: alone on a line it ends the data. None: it does not, in csv.
    fn marker(&self, bytes: &[u8], last: bool) -> Result<Option<Found>> {
        let following = bytes.get(2);
        if following.is_none() && !last {
            return Ok(Some(Found::Unfinished));
        }
        match (following, self.ending) {
            (Some(b'\n'), None | Some(Ending::Newline))
            | (Some(b'\r'), None | Some(Ending::Return | Ending::ReturnNewline))
                if self.seen == 0 =>
            {
                Ok(Some(Found::End))
            }
            (Some(b'\n' | b'\r'), _) if self.seen == 0 => {
                Err(bad_data("end-of-copy marker does not match previous newline style"))
            }
            _ if self.quotes.is_some() => Ok(None),
            _ => Err(bad_data("end-of-copy marker corrupt")),
        }
    }

    fn line(&mut self, ending: Ending, bytes: usize) -> Found {
        self.ending = Some(ending);
        let length = self.seen + bytes;
        self.reset();
        Found::Line { length, ending: bytes }
    }

    fn reset(&mut self) {
        (self.seen, self.in_quote, self.after_escape) = (0, false, false);
    }

    fn literal(&self, what: &str) -> crate::error::Error {
        let unquoted = if self.quotes.is_some() { "unquoted" } else { "literal" };
        let hint = match (what, self.quotes) {
            ("newline", Some(_)) => "Use quoted CSV field to represent newline.",
            (_, Some(_)) => "Use quoted CSV field to represent carriage return.",
            ("newline", None) => "Use \"\\n\" to represent newline.",
            (_, None) => "Use \"\\r\" to represent carriage return.",
        };
        bad_data(format!("{unquoted} {what} found in data")).hint(hint)
    }
}
