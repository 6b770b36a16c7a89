//! What the text of a function shows of what it leaves in the session.
//!
//! Nothing is proven by this but the absence of certain words. A text is read as tokens: every name in it counts as called and every
//! relation as written, wherever it stands; and statements begin with what is known to be harmless, or are not understood. In PL/pgSQL
//! the beginning of a statement is told by what stands before it.
//! See <https://www.postgresql.org/docs/current/plpgsql-structure.html>.

use std::collections::BTreeSet;

use super::Traces;
use crate::sql::facts::{PinReason, QueryFacts, SessionEffect};
use crate::sql::parse;

/// Longer texts are not read: they count as not understood.
const LONGEST: usize = 1 << 20;

/// Names have no more bytes than these.
const LONGEST_NAME: usize = 63;

/// What a text shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Body {
    /// What it does by itself.
    pub traces: Traces,
    /// All names in it, which may be those of functions and relations.
    pub names: BTreeSet<String>,
    /// Those that stand somewhere without `NEW.` or `OLD.` before them: other than as columns of the row that a trigger runs for.
    pub apart: BTreeSet<String>,
    /// Runs of characters of operators: what is an operator in it depends on which there are.
    pub operators: BTreeSet<String>,
}

/// A piece of a text. Words are in lower case, unless they were quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Quoted(String),
    Text(String),
    Number,
    Symbol(u8),
}

impl Token {
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(w) if w == word)
    }

    pub(super) fn is_symbol(&self, symbol: u8) -> bool {
        *self == Self::Symbol(symbol)
    }
}

/// Reads the body of a function in `language`.
#[must_use]
pub fn read(language: &str, text: &str) -> Body {
    let not_understood = || Body { traces: Traces::UNKNOWN, ..Body::default() };
    if text.len() > LONGEST {
        return not_understood();
    }
    match language {
        "sql" => sql(text),
        "plpgsql" => plpgsql(text),
        // Of those of C nobody asks: they have no text.
        _ => Body { traces: Traces::GLOBALS, ..Body::default() },
    }
}

fn sql(text: &str) -> Body {
    let tokens = tokens(text);
    let mut body = names(&tokens);
    let facts = parse::facts(text.as_bytes());
    body.traces |= statements(&facts);
    body
}

/// What the kinds of the statements show. The names in them are looked up by the caller.
fn statements(facts: &QueryFacts) -> Traces {
    const UNDERSTOOD: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"];
    let mut traces = Traces::default();
    if facts.unparsed.is_some() {
        return Traces::UNKNOWN;
    }
    for statement in &facts.statements {
        for effect in &statement.effects {
            traces |= match effect {
                // Asks for values of sequences; counted by its name.
                SessionEffect::Pin(PinReason::SequenceState) => Traces::default(),
                SessionEffect::Pin(reason) => Traces::of(*reason),
                SessionEffect::Set { .. }
                | SessionEffect::SetUnknown { .. }
                | SessionEffect::SetByParams { .. }
                | SessionEffect::Reset { .. }
                | SessionEffect::ResetAll => Traces::of(PinReason::Setting),
                SessionEffect::Local { .. }
                | SessionEffect::DiscardAll
                | SessionEffect::DeallocateAll
                | SessionEffect::Deallocate { .. } => Traces::UNKNOWN,
            };
        }
        if statement.why == "LISTEN" {
            traces |= Traces::of(PinReason::Listen);
            continue;
        }
        let query = UNDERSTOOD.contains(&statement.why) || statement.why.starts_with("calls ");
        let locks = statement.why.starts_with("FOR ") || statement.why.starts_with("asks for ");
        let plain = matches!(statement.why, "COPY FROM" | "COPY TO" | "NOTIFY" | "TRUNCATE" | "LOCK" | "SET");
        let pins = statement.effects.iter().any(|e| matches!(e, SessionEffect::Pin(_)));
        if statement.why == "SET" && statement.effects.is_empty() {
            traces |= Traces::SETS;
        }
        if statement.changes_code {
            traces |= Traces::CHANGES;
        }
        if let Some(block) = &statement.block {
            traces |= block.traces;
        }
        if statement.changes_catalog || !(query || locks || plain || pins) {
            traces |= Traces::UNKNOWN;
        }
    }
    traces
}

/// Whether `NEW.` or `OLD.` stands before a name.
fn is_of_trigger_row(tokens: &[Token], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
    let is_row =
        |token: &Token| matches!(token, Token::Word(name) | Token::Quoted(name) if name == "new" || name == "old");
    before(1).is_some_and(|token| token.is_symbol(b'.')) && before(2).is_some_and(is_row)
}

/// All names, and what they show by themselves.
fn names(tokens: &[Token]) -> Body {
    let mut body = Body { operators: operators(tokens), ..Body::default() };
    for (at, token) in tokens.iter().enumerate() {
        let (Token::Word(name) | Token::Quoted(name)) = token else { continue };
        if name == "set_config" {
            let rest = tokens.get(at.saturating_add(1)..).unwrap_or_default();
            body.traces |= if sets_locally(rest) { Traces::SETS } else { Traces::of(PinReason::Setting) };
            if may_name_seed(rest) {
                body.traces |= Traces::of(PinReason::Seed);
            }
            continue;
        }
        body.traces |= Traces::of_builtin(name);
        if token.is_word("notify") && begins_statement(at.checked_sub(1).and_then(|before| tokens.get(before))) {
            body.traces |= Traces::NOTIFIES;
        }
        if !body.names.contains(name) {
            body.names.insert(name.clone());
        }
        if !body.apart.contains(name) && !is_of_trigger_row(tokens, at) {
            body.apart.insert(name.clone());
        }
    }
    body
}

/// Whether a statement may begin behind this token.
fn begins_statement(before: Option<&Token>) -> bool {
    before.is_none_or(|token| {
        let of_label = token.is_symbol(b'>');
        token.is_symbol(b';') || of_label || ["begin", "then", "else", "loop"].iter().any(|word| token.is_word(word))
    })
}

/// All runs of characters of operators. Blanks between them are not seen, so that some may be longer than they are.
pub(super) fn operators(tokens: &[Token]) -> BTreeSet<String> {
    let mut runs = BTreeSet::new();
    let mut run = String::new();
    for token in tokens.iter().chain([&Token::Number]) {
        match token {
            Token::Symbol(c) if b"~!@#^&|`?+-*/%<>=".contains(c) => run.push(char::from(*c)),
            _ if run.is_empty() => {}
            _ => drop(runs.insert(std::mem::take(&mut run))),
        }
    }
    runs
}

/// Whether what follows `set_config` is a list of arguments whose last is `true`.
fn sets_locally(rest: &[Token]) -> bool {
    if !rest.first().is_some_and(|t| t.is_symbol(b'(')) {
        return false;
    }
    let mut depth = 0_usize;
    for (at, token) in rest.iter().enumerate() {
        match token {
            Token::Symbol(b'(' | b'[') => depth = depth.saturating_add(1),
            Token::Symbol(b')' | b']') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    let last = at.checked_sub(1).and_then(|at| rest.get(at));
                    let before = at.checked_sub(2).and_then(|at| rest.get(at));
                    return last.is_some_and(|t| t.is_word("true")) && before.is_some_and(|t| t.is_symbol(b','));
                }
            }
            _ => {}
        }
    }
    false
}

/// The setting that is setseed() by another name: what it does no reset takes back.
const SEED: &str = "seed";

/// Whether the setting may be [`SEED`] that is named by the arguments which follow `set_config`, as far as a text tells that they begin with.
/// Where they begin with none it is not taken for it: helpers that set whatever they are told are common, and who seeds by one is not.
fn may_name_seed(rest: &[Token]) -> bool {
    let [paren, Token::Text(text), behind, ..] = rest else { return false };
    // Within a text that is run, where quotes are doubled.
    if let (true, Token::Word(name)) = (text.is_empty(), behind) {
        return name.eq_ignore_ascii_case(SEED);
    }
    let is = |at: usize, symbol: u8| rest.get(at).is_some_and(|token| token.is_symbol(symbol));
    let begins = |name: &str| name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text));
    // An escape may stand for any character.
    if !paren.is_symbol(b'(') || text.contains('\\') {
        return true;
    }
    let cast = is(2, b':') && is(3, b':') && matches!(rest.get(4), Some(Token::Word(_)));
    if behind.is_symbol(b',') || (cast && is(5, b',')) {
        return text.eq_ignore_ascii_case(SEED);
    }
    // What begins with another text stays that, whatever is joined to it; unless the operator is a longer one.
    let longer = matches!(rest.get(4), Some(Token::Symbol(c)) if b"~!@#^&|`?+-*/%<>=".contains(c));
    let joined = is(2, b'|') && is(3, b'|') && !longer;
    !(joined || cast) || begins(SEED)
}

/// Whether what follows `SET` is [`SEED`].
fn sets_seed(rest: &[Token]) -> bool {
    let scoped = rest.first().is_some_and(|token| token.is_word("local") || token.is_word("session"));
    let name = rest.get(usize::from(scoped));
    matches!(name, Some(Token::Word(name) | Token::Quoted(name)) if name.eq_ignore_ascii_case(SEED))
}

/// Words by which a statement of PL/pgSQL may begin that by itself leaves nothing in the session.
const HARMLESS: &[&str] = &[
    "assert",
    "begin",
    "call",
    "case",
    "close",
    "commit",
    "continue",
    "copy",
    "declare",
    "delete",
    "else",
    "elseif",
    "elsif",
    "end",
    "exception",
    "exit",
    "fetch",
    "for",
    "foreach",
    "get",
    "if",
    "insert",
    "lock",
    "loop",
    "merge",
    "move",
    "notify",
    "null",
    "open",
    "perform",
    "raise",
    "return",
    "rollback",
    "select",
    "truncate",
    "update",
    "values",
    "when",
    "while",
    "with",
];

fn plpgsql(text: &str) -> Body {
    let tokens = tokens(text);
    let mut body = names(&tokens);
    let (traces, defines) = commands(&tokens);
    body.traces |= traces;
    let is_code = |token: &Token| matches!(token, Token::Word(word) if CODE.binary_search(&word.as_str()).is_ok());
    if updates_settings(&tokens) {
        body.traces |= Traces::of(PinReason::Setting);
    }
    if tokens.iter().any(|t| t.is_word("execute")) {
        body.traces |= Traces::UNKNOWN;
        // What it runs is put together from texts, in which plain words may stand.
        for token in &tokens {
            if let Token::Text(text) = token {
                body.traces |= names(&self::tokens(text)).traces;
                body.traces |= loose_commands(&self::tokens(text));
                let text = self::tokens(text);
                if text.iter().any(|t| t.is_word("create") || t.is_word("alter")) && text.iter().any(is_code) {
                    body.traces |= Traces::CHANGES;
                }
            }
        }
    }
    if defines && tokens.iter().any(is_code) {
        body.traces |= Traces::CHANGES;
    }
    if body.traces.is_unknown() && names_language(&tokens) {
        body.traces |= Traces::GLOBALS;
    }
    body
}

/// Whether DO, or a function that is made, may name its language, in a text that is run as well.
fn names_language(tokens: &[Token]) -> bool {
    let here = |token: &Token| token.is_word("language");
    tokens.iter().any(|token| match token {
        Token::Text(text) => self::tokens(text).iter().any(here),
        token => here(token),
    })
}

/// What a CREATE or ALTER must name to change what code runs, and for whom: tables alone are made in many a trigger, for every month.
const CODE: &[&str] = &[
    "aggregate",
    "cast",
    "constraint",
    "domain",
    "extension",
    "function",
    "operator",
    "policy",
    "procedure",
    "routine",
    "rule",
    "trigger",
    "view",
];

/// Whether `pg_settings` is updated, whose rule calls set_config().
fn updates_settings(tokens: &[Token]) -> bool {
    let is = |token: Option<&Token>, name: &str| matches!(token, Some(Token::Word(n) | Token::Quoted(n)) if n == name);
    let target = |at: usize| {
        let rest = tokens.get(at.saturating_add(1)..).unwrap_or_default();
        let rest = rest.strip_prefix(&[Token::Word("only".to_owned())]).unwrap_or(rest);
        let qualified = is(rest.first(), "pg_catalog") && rest.get(1).is_some_and(|t| t.is_symbol(b'.'));
        is(rest.get(if qualified { 2 } else { 0 }), "pg_settings")
    };
    tokens.iter().enumerate().any(|(at, token)| token.is_word("update") && target(at))
}

/// Where the reader of a PL/pgSQL text is.
struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Declarations are read, which begin with names.
    declares: bool,
    /// `CASE` of an expression that are open: their THEN and ELSE begin no statement.
    cases: usize,
    /// There is a CREATE or ALTER for others.
    defines: bool,
    traces: Traces,
}

/// What the statements of a PL/pgSQL text are, told by their beginnings, and whether one of them creates or alters something for others.
fn commands(tokens: &[Token]) -> (Traces, bool) {
    let mut reader = Reader { tokens, at: 0, declares: false, cases: 0, defines: false, traces: Traces::default() };
    // `#variable_conflict use_column` and its like stand before everything.
    while reader.peek(0).is_some_and(|t| t.is_symbol(b'#')) {
        reader.at += 3;
    }
    reader.begin();
    while let Some(token) = reader.tokens.get(reader.at) {
        reader.at += 1;
        let Token::Word(word) = token else {
            if token.is_symbol(b';') {
                if std::mem::take(&mut reader.cases) != 0 {
                    // What was taken for one was something else, and what followed it was not looked at.
                    reader.traces |= Traces::UNKNOWN;
                }
                reader.begin();
            }
            continue;
        };
        if reader.peek_back(2).is_some_and(|t| t.is_symbol(b'.')) && word != "pg_temp" {
            // A field or a column, whatever it is called.
            continue;
        }
        match word.as_str() {
            "begin" => {
                reader.declares = false;
                reader.begin();
            }
            "case" => reader.cases += 1,
            "end" => reader.cases = reader.cases.saturating_sub(1),
            "then" | "else" | "loop" if reader.cases == 0 => reader.begin(),
            "temp" | "temporary" if reader.makes_temporary() => reader.traces |= Traces::of(PinReason::TempObject),
            "pg_temp" => reader.traces |= Traces::of(PinReason::TempObject),
            "hold" if reader.peek_back(2).is_some_and(|t| t.is_word("with")) => {
                reader.traces |= Traces::of(PinReason::HoldCursor);
            }
            _ => {}
        }
    }
    (reader.traces, reader.defines)
}

impl<'a> Reader<'a> {
    fn peek(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.at.saturating_add(ahead))
    }

    /// The token that stands so many before the next one.
    fn peek_back(&self, behind: usize) -> Option<&'a Token> {
        self.at.checked_sub(behind).and_then(|at| self.tokens.get(at))
    }

    fn word(&self, ahead: usize) -> &'a str {
        match self.peek(ahead) {
            Some(Token::Word(word)) => word,
            _ => "",
        }
    }

    /// Judges the statement that begins here. Words that open others are left to the loop.
    fn begin(&mut self) {
        while self.peek(0).is_some_and(|t| t.is_symbol(b'<')) && self.peek(1).is_some_and(|t| t.is_symbol(b'<')) {
            // A label.
            self.at += 5;
        }
        let Some(first) = self.peek(0) else { return };
        if self.declares {
            self.declares = !first.is_word("begin");
            return;
        }
        let assigns = matches!(self.peek(1), Some(Token::Symbol(b':' | b'=' | b'.' | b'[')));
        let Token::Word(word) = first else {
            let harmless = (matches!(first, Token::Quoted(_)) && assigns) || first.is_symbol(b';');
            self.traces |= if harmless { Traces::default() } else { Traces::UNKNOWN };
            return;
        };
        if assigns {
            return;
        }
        let traces = match word.as_str() {
            // A statement, not an expression.
            "case" => {
                self.at += 1;
                Traces::default()
            }
            "end" => {
                self.end();
                Traces::default()
            }
            "declare" => {
                self.declares = true;
                self.at += 1;
                Traces::default()
            }
            "set" if sets_seed(self.tokens.get(self.at.saturating_add(1)..).unwrap_or_default()) => {
                Traces::of(PinReason::Seed)
            }
            "set" => match self.word(1) {
                "local" | "constraints" | "transaction" => Traces::SETS,
                "role" => Traces::of(PinReason::Identity),
                "session" if matches!(self.word(2), "authorization" | "characteristics") => {
                    Traces::of(PinReason::Identity)
                }
                _ => Traces::of(PinReason::Setting),
            },
            "reset" => Traces::of(PinReason::Setting),
            "listen" => Traces::of(PinReason::Listen),
            "load" => Traces::of(PinReason::Load),
            "prepare" => Traces::of(PinReason::SqlPrepare),
            // What it makes is said by what follows, and what is not temporary changes what others run.
            "create" if self.is_temporary_table() => Traces::SETS,
            "create" | "alter" => {
                self.defines = true;
                Traces::UNKNOWN
            }
            "execute" => Traces::UNKNOWN,
            word if HARMLESS.contains(&word) => Traces::default(),
            _ => Traces::UNKNOWN,
        };
        self.traces |= traces;
    }

    /// Steps over `END`, `END IF`, `END LOOP`, `END CASE` and a label.
    fn end(&mut self) {
        self.at += 1;
        if matches!(self.word(0), "if" | "loop" | "case") {
            self.at += 1;
        }
    }

    fn is_temporary_table(&self) -> bool {
        let at = if matches!(self.word(1), "local" | "global") { 2 } else { 1 };
        matches!(self.word(at), "temp" | "temporary") && matches!(self.word(at + 1), "table" | "sequence" | "view")
    }

    /// Whether the word read last stands in a CREATE whose object outlives the transaction.
    fn makes_temporary(&self) -> bool {
        let before = self.peek_back(2);
        if !["create", "local", "global", "replace"].iter().any(|word| before.is_some_and(|t| t.is_word(word))) {
            return false;
        }
        let rest = self.tokens.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|t| t.is_symbol(b';')).unwrap_or(rest.len());
        let statement = rest.get(..end).unwrap_or_default();
        let drops = |w: &[Token]| w[0].is_word("on") && w[1].is_word("commit") && w[2].is_word("drop");
        !statement.windows(3).any(drops)
    }
}

/// What a text shows that may be a part of a statement.
fn loose_commands(tokens: &[Token]) -> Traces {
    let mut traces = Traces::default();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        traces |= match word.as_str() {
            "listen" if at == 0 => Traces::of(PinReason::Listen),
            "load" if at == 0 => Traces::of(PinReason::Load),
            "prepare" if at == 0 => Traces::of(PinReason::SqlPrepare),
            "temp" | "temporary" if at > 0 && !tokens.iter().any(|t| t.is_word("drop")) => {
                Traces::of(PinReason::TempObject)
            }
            "set" if at == 0 && sets_seed(tokens.get(1..).unwrap_or_default()) => Traces::of(PinReason::Seed),
            "set" if at == 0 && !tokens.get(1).is_some_and(|t| t.is_word("local")) => Traces::of(PinReason::Setting),
            _ => Traces::default(),
        };
    }
    traces
}

/// Cuts a text into tokens. What it cannot read ends it; such a text is no function's.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&c) = bytes.get(at) {
        let next = bytes.get(at + 1).copied();
        let from = at;
        match (c, next) {
            (b'-', Some(b'-')) => at = line_end(bytes, at),
            (b'/', Some(b'*')) => at = comment_end(bytes, at),
            (b'\'', _) => {
                at = quoted_end(bytes, at, b'\'', false);
                tokens.push(Token::Text(content(text, from + 1, at)));
            }
            (b'e' | b'E', Some(b'\'')) => {
                at = quoted_end(bytes, at + 1, b'\'', true);
                tokens.push(Token::Text(content(text, from + 2, at)));
            }
            (b'"', _) => {
                at = quoted_end(bytes, at, b'"', false);
                tokens.push(Token::Quoted(identifier(content(text, from + 1, at).replace("\"\"", "\""))));
            }
            (b'$', _) => match dollar_quoted(text, at) {
                Some((inner, end)) => {
                    tokens.push(Token::Text(inner.to_owned()));
                    at = end;
                }
                None => at += 1,
            },
            _ if c.is_ascii_alphabetic() || c == b'_' || c >= 0x80 => {
                let rest = bytes.get(at..).unwrap_or_default();
                at += rest.iter().take_while(|c| is_word_part(**c)).count();
                tokens.push(Token::Word(identifier(text.get(from..at).unwrap_or_default().to_ascii_lowercase())));
            }
            _ if c.is_ascii_digit() => {
                let rest = bytes.get(at..).unwrap_or_default();
                at += rest.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == b'_').count();
                tokens.push(Token::Number);
            }
            _ => {
                at += 1;
                if !c.is_ascii_whitespace() {
                    tokens.push(Token::Symbol(c));
                }
            }
        }
    }
    tokens
}

/// A name as PostgreSQL keeps it: cut where it is too long. Beyond ASCII it folds nothing in UTF-8. See
/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>.
fn identifier(mut name: String) -> String {
    if name.len() > LONGEST_NAME {
        let end = (0..=LONGEST_NAME).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
        name.truncate(end);
    }
    name
}

fn is_word_part(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c == b'$' || c >= 0x80
}

fn content(text: &str, from: usize, end: usize) -> String {
    text.get(from..end.saturating_sub(1)).unwrap_or_default().to_owned()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|c| matches!(c, b'\n' | b'\r')).unwrap_or(rest.len())
}

fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    loop {
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'/'), Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (Some(b'*'), Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            (Some(_), _) => at += 1,
            (None, _) => return at,
        }
    }
}

/// Behind the quote that ends what begins at `at`. A doubled one belongs to it.
fn quoted_end(bytes: &[u8], mut at: usize, quote: u8, backslash: bool) -> usize {
    at += 1;
    while let Some(&c) = bytes.get(at) {
        at += 1;
        if c == quote {
            if bytes.get(at) != Some(&quote) {
                return at;
            }
            at += 1;
        } else if c == b'\\' && backslash {
            at += 1;
        }
    }
    at
}

/// The text between two equal tags, and where it ends with the second.
fn dollar_quoted(text: &str, at: usize) -> Option<(&str, usize)> {
    let rest = text.get(at + 1..)?;
    let tag_len = rest.bytes().take_while(|c| c.is_ascii_alphanumeric() || *c == b'_' || *c >= 0x80).count();
    let is_tag = rest.as_bytes().get(tag_len) == Some(&b'$') && !rest.starts_with(|c: char| c.is_ascii_digit());
    if !is_tag {
        return None;
    }
    let tag = text.get(at..at + tag_len + 2)?;
    let inner = text.get(at + tag.len()..)?;
    let end = inner.find(tag).unwrap_or(inner.len());
    Some((inner.get(..end)?, at.saturating_add(tag.len() * 2 + end).min(text.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use PinReason::{AdvisoryLock, HoldCursor, Identity, Listen, Load, Seed, Setting, SqlPrepare, TempObject};

    fn none() -> Traces {
        Traces::default()
    }

    #[test]
    fn plpgsql_bodies() {
        let of = Traces::of;
        let unknown = Traces::UNKNOWN;
        let cases = [
            ("BEGIN END", none()),
            ("BEGIN NEW.at := now(); RETURN NEW; END", none()),
            (
                "DECLARE r record; n int := 0; BEGIN n := n + 1; FOR r IN SELECT * FROM t LOOP n = r.a; END LOOP; END",
                none(),
            ),
            ("<<a>> BEGIN <<b>> WHILE true LOOP EXIT b; END LOOP; END", none()),
            ("#variable_conflict use_column\nBEGIN RETURN; END", none()),
            ("BEGIN UPDATE t SET a = CASE WHEN b THEN c ELSE d END, e = f WHERE g; RETURN; END", none()),
            ("BEGIN CASE x WHEN 1 THEN y := 2; ELSE y := 3; END CASE; UPDATE t SET a = 1; END", none()),
            ("BEGIN IF a THEN PERFORM f(); ELSIF b THEN NULL; ELSE RAISE NOTICE 'SET x'; END IF; END", none()),
            ("BEGIN INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 2; END", none()),
            ("BEGIN INSERT INTO t SELECT 1; EXCEPTION WHEN OTHERS THEN RAISE; END", none()),
            ("BEGIN SET LOCAL work_mem = '1MB'; END", Traces::SETS),
            ("BEGIN SET CONSTRAINTS ALL DEFERRED; END", Traces::SETS),
            ("BEGIN PERFORM set_config('a.b', f(1, 2), true); END", Traces::SETS),
            ("BEGIN /* EXECUTE */ NULL; -- SET x = 1;\nEND", none()),
            ("BEGIN CREATE TEMP TABLE x (a int) ON COMMIT DROP; INSERT INTO x VALUES (1); END", Traces::SETS),
            ("BEGIN temp := 1; SELECT a INTO temp FROM t; END", none()),
            ("BEGIN PERFORM pg_advisory_xact_lock(1); PERFORM nextval('s'); END", none()),
            ("BEGIN SET work_mem = '1MB'; END", of(Setting)),
            ("BEGIN IF a THEN SET work_mem = '1MB'; END IF; END", of(Setting)),
            ("BEGIN RESET work_mem; END", of(Setting)),
            ("BEGIN SET ROLE x; END", of(Identity)),
            ("BEGIN PERFORM set_config('a.b', 'c', false); END", of(Setting)),
            ("BEGIN PERFORM set_config('a.b', 'c', l); END", of(Setting)),
            ("BEGIN PERFORM pg_catalog.\"set_config\"('a', 'c', false); END", of(Setting)),
            ("BEGIN PERFORM pg_advisory_lock(1); END", of(AdvisoryLock)),
            ("BEGIN IF pg_try_advisory_lock_shared(1, 2) THEN NULL; END IF; END", of(AdvisoryLock)),
            ("BEGIN CREATE TEMP TABLE x (a int); END", of(TempObject) | Traces::SETS),
            ("BEGIN CREATE TEMPORARY TABLE x AS SELECT 1; END", of(TempObject) | Traces::SETS),
            ("BEGIN LISTEN x; END", of(Listen)),
            ("BEGIN LOAD 'x'; END", of(Load)),
            ("BEGIN PREPARE p AS SELECT 1; END", of(SqlPrepare)),
            ("BEGIN PERFORM setseed(0.5); END", of(Seed)),
            ("BEGIN SET seed = 0.5; END", of(Seed)),
            ("BEGIN SET LOCAL seed TO 0.5; END", of(Seed)),
            ("BEGIN IF a THEN SET SESSION \"SEED\" = 0.5; END IF; END", of(Seed)),
            ("BEGIN EXECUTE 'SET seed = ' || x; END", unknown | of(Seed)),
            ("BEGIN EXECUTE 'UPDATE games SET seed = ' || x; END", unknown),
            ("BEGIN PERFORM set_config('Seed', '0.5', false); END", of(Setting) | of(Seed)),
            ("BEGIN PERFORM set_config('seed'::text, '0.5', true); END", Traces::SETS | of(Seed)),
            ("BEGIN PERFORM set_config(n, '0.5', true); END", Traces::SETS),
            ("BEGIN EXECUTE 'SELECT set_config(''seed'', ''0.5'', false)'; END", unknown | of(Setting) | of(Seed)),
            ("BEGIN PERFORM set_config('app.' || n, v, false); END", of(Setting)),
            ("BEGIN PERFORM set_config('app.' || (c->>'k'), v, true); END", Traces::SETS),
            ("BEGIN PERFORM set_config('app.x'::varchar, v, true); END", Traces::SETS),
            ("BEGIN PERFORM set_config('se' || n, v, false); END", of(Setting) | of(Seed)),
            ("BEGIN PERFORM set_config(E's\\x65ed', v, false); END", of(Setting) | of(Seed)),
            ("BEGIN PERFORM set_config('a.b'::text, v, false); END", of(Setting)),
            ("BEGIN EXECUTE q; END", unknown),
            ("BEGIN RETURN QUERY EXECUTE format('SELECT %s', a); END", unknown),
            ("BEGIN EXECUTE 'CREATE TEMP TABLE ' || n || ' ()'; END", unknown | of(TempObject)),
            ("BEGIN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1'; END", unknown),
            ("BEGIN EXECUTE 'SELECT set_config(''a'', ''b'', false)'; END", unknown | of(Setting)),
            ("BEGIN EXECUTE $q$SET x = 1$q$; END", unknown | of(Setting)),
            ("BEGIN CREATE TABLE x (a int); END", unknown),
            ("BEGIN CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION f(); END", Traces::CHANGES),
            ("BEGIN EXECUTE 'CREATE TABLE ' || n; END", unknown),
            ("BEGIN EXECUTE 'CREATE TRIGGER ' || n; END", Traces::CHANGES),
            ("BEGIN DROP TABLE x; END", unknown),
            ("BEGIN DISCARD ALL; END", unknown),
            ("BEGIN UNLISTEN x; END", unknown),
            ("BEGIN SOMETHING NEW; END", unknown),
            ("BEGIN PERFORM query_to_xml('SELECT 1', true, true, ''); END", unknown),
            ("BEGIN RETURN lastval(); END", Traces::ASKS),
            ("BEGIN UPDATE pg_settings SET setting = 'x' WHERE name = 'app.tenant'; END", of(Setting)),
            ("BEGIN UPDATE ONLY pg_catalog.pg_settings SET setting = 'x'; END", of(Setting)),
            ("BEGIN UPDATE t SET a = (SELECT setting FROM pg_settings WHERE name = b); END", none()),
            ("BEGIN x := r.case; IF a THEN SET work_mem = '1MB'; END IF; END", of(Setting)),
            ("BEGIN x := r.end; x := CASE WHEN a THEN b END; END", none()),
            ("BEGIN x := y case; IF a THEN NULL; END IF; END", unknown),
            ("BEGIN -- a comment\rSET work_mem = '1MB'; END", of(Setting)),
        ];
        for (text, expected) in cases {
            assert_eq!(read("plpgsql", text).traces, expected, "{text}");
        }
        assert_eq!(read("plpgsql", "BEGIN OPEN c WITH HOLD; END").traces, of(HoldCursor));
    }

    #[test]
    fn sql_bodies() {
        let of = Traces::of;
        let cases = [
            ("SELECT 1", none()),
            ("SELECT f(a) FROM t WHERE b IN (SELECT c FROM u); INSERT INTO t SELECT $1 RETURNING a", none()),
            ("SELECT * FROM t FOR UPDATE; SELECT nextval('s'), pg_is_in_recovery()", none()),
            ("NOTIFY x", Traces::NOTIFIES),
            ("SELECT set_config('a.b', $1, true)", Traces::SETS),
            ("SELECT set_config('a.b', $1, false)", of(Setting)),
            ("SELECT pg_catalog.set_config('a.b', $1, false)", of(Setting)),
            ("SET work_mem = '1MB'; SELECT 1", of(Setting)),
            ("SET LOCAL work_mem = '1MB'; SELECT 1", Traces::SETS),
            ("SET seed = 0.5; SELECT 1", of(Seed)),
            ("SELECT set_config($1, $2, true)", Traces::SETS),
            ("SELECT pg_advisory_lock($1)", of(AdvisoryLock)),
            ("CREATE TEMP TABLE x ()", of(TempObject)),
            ("LISTEN x", of(Listen)),
            ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", Traces::CHANGES),
            ("DO 'BEGIN END'", Traces::CHANGES),
            ("SELECT FROM WHERE", Traces::UNKNOWN),
            ("SELECT currval('s')", Traces::ASKS),
        ];
        for (text, expected) in cases {
            assert_eq!(read("sql", text).traces, expected, "{text}");
        }
        assert_eq!(read("plpython3u", "pass").traces, Traces::GLOBALS);
        for text in ["DO LANGUAGE plperl ''", "EXECUTE 'DO LANGUAGE plperl $x$$x$'", "EXECUTE x || ' language plperl'"]
        {
            assert!(read("plpgsql", &format!("BEGIN {text}; END")).traces.keeps_globals(), "{text}");
        }
        assert_eq!(read("plpgsql", "BEGIN language := 1; END").traces, Traces::default());
        assert!(read("sql", "DO LANGUAGE plperl ''").traces.keeps_globals());
        assert_eq!(read("sql", &" ".repeat(LONGEST + 1)).traces, Traces::UNKNOWN);
    }

    #[test]
    fn names_are_collected() {
        let body = read("plpgsql", "BEGIN PERFORM App.F(\"B\"\"x\", 'no', $x$no$x$) /* no */; END");
        let names: Vec<_> = body.names.iter().map(String::as_str).collect();
        assert_eq!(names, ["B\"x", "app", "begin", "end", "f", "perform"]);
        let body = read("plpgsql", "BEGIN PERFORM NEW.a, \"old\" . b, NEW.c, x.d; PERFORM c; END");
        let apart: Vec<_> = body.apart.iter().map(String::as_str).collect();
        assert_eq!(apart, ["begin", "c", "d", "end", "new", "old", "perform", "x"]);
        let long = "é".repeat(40);
        let body = read("plpgsql", &format!("BEGIN PERFORM ÄF(); PERFORM x{long}; PERFORM \"{long}\"; END"));
        let cut = "é".repeat(31);
        let names: Vec<_> = body.names.iter().map(String::as_str).collect();
        assert_eq!(names, ["begin", "end", "perform", &format!("x{cut}"), "Äf", &cut]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[ -~é'\"$;/*]{0,60}") {
            drop((read("plpgsql", &text), read("sql", &text)));
        }
    }
}
