//! Reads COPY: FROM STDIN of a table, so that its rows can go each to its shard, and TO STDOUT of a table or a query.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::{Node, nodes};

use super::Unfit;
use super::expression::{self, Clause, Found};
use super::from::From;
use super::write;

/// FORMAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyFormat {
    /// text.
    #[default]
    Text,
    /// csv.
    Csv,
    /// binary.
    Binary,
}

/// A WHERE of COPY FROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Of a row it says the same on every shard.
    Same,
    /// It draws for each row.
    Draws,
}

/// A COPY FROM STDIN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyIn {
    /// The columns of the data; none: those of the table.
    pub columns: Option<Vec<String>>,
    /// How rows are written.
    pub format: CopyFormat,
    /// DELIMITER.
    pub delimiter: Option<u8>,
    /// NULL.
    pub null: Option<String>,
    /// QUOTE.
    pub quote: Option<u8>,
    /// ESCAPE.
    pub escape: Option<u8>,
    /// HEADER.
    pub header: bool,
    /// WHERE.
    pub condition: Option<Condition>,
}

/// Reads a text that is one COPY FROM STDIN.
///
/// # Errors
/// Why its rows cannot go to several shards.
pub fn copy_in(text: &str) -> Result<CopyIn, Unfit> {
    // As in `parse`: what the bindings believe of the tree may prove wrong.
    catch_unwind(AssertUnwindSafe(|| {
        let tree = pg_raw_parse::parse(text).map_err(|_| Unfit::new("syntax", "that cannot be parsed"))?;
        let mut statements = tree.stmts();
        match (statements.next(), statements.next()) {
            (Some(Node::CopyStmt(copy)), None) => read(copy),
            _ => Err(Unfit::new("statement", "that is not one plain COPY FROM STDIN")),
        }
    }))
    .unwrap_or_else(|_| Err(Unfit::new("syntax", "on which the parser failed")))
}

/// Reads a text that is one COPY TO STDOUT of a table. Only its columns, its format and whether there is a header line are
/// of interest.
///
/// # Errors
/// Why its rows cannot come of several shards.
pub fn copy_out(text: &str) -> Result<CopyIn, Unfit> {
    to_stdout(text, |copy| match copy.relation() {
        Some(_) => read_out(copy),
        None => Err(Unfit::new("statement", "that is a COPY, but not of a table TO STDOUT")),
    })
}

/// Reads a text that is one COPY TO STDOUT of a query: the same, and the query.
///
/// # Errors
/// It is not one, or the query cannot be written by itself.
pub fn copied_query(text: &str) -> Result<(CopyIn, String), Unfit> {
    to_stdout(text, |copy| match copy.query() {
        Node::None => Err(Unfit::new("statement", "that is a COPY, but not of a query TO STDOUT")),
        query => Ok((read_out(copy)?, write::statement(query)?)),
    })
}

/// The query of a statement of a text, counted from 0, that is a COPY, to STDOUT or to a file, or DECLARE CURSOR; none: it is a COPY of a table.
///
/// # Errors
/// It is neither, or the query cannot be written by itself.
pub fn inner_query(text: &str, at: usize) -> Result<Option<String>, Unfit> {
    nth_statement(text, at, |statement, _| match statement {
        Node::CopyStmt(copy) => match copy.query() {
            Node::None => Ok(None),
            query => write::statement(query).map(Some),
        },
        Node::DeclareCursorStmt(cursor) => write::statement(cursor.query()).map(Some),
        _ => Err(Unfit::new("statement", "that is neither a plain COPY nor DECLARE CURSOR")),
    })
}

fn to_stdout<T>(text: &str, read: impl FnOnce(&nodes::CopyStmt) -> Result<T, Unfit>) -> Result<T, Unfit> {
    sole_statement(text, |statement| {
        let Node::CopyStmt(copy) = statement else {
            return Err(Unfit::new("statement", "that is not one plain COPY TO STDOUT"));
        };
        if copy.is_from || copy.is_program || copy.filename().is_some() {
            return Err(Unfit::new("copy_file", "that is a COPY, but not TO STDOUT")
                .hint("Take the rows by COPY TO STDOUT and write the file in the client."));
        }
        read(copy)
    })
}

fn sole_statement<T>(text: &str, read: impl FnOnce(Node<'_>) -> Result<T, Unfit>) -> Result<T, Unfit> {
    nth_statement(text, 0, |statement, others| if others { Err(not_one()) } else { read(statement) })
}

fn not_one() -> Unfit {
    Unfit::new("statement", "that is not one plain statement")
}

/// Reads the statement of this number, counted from 0; `read` is told whether there are others.
fn nth_statement<T>(text: &str, at: usize, read: impl FnOnce(Node<'_>, bool) -> Result<T, Unfit>) -> Result<T, Unfit> {
    catch_unwind(AssertUnwindSafe(|| {
        let tree = pg_raw_parse::parse(text).map_err(|_| Unfit::new("syntax", "that cannot be parsed"))?;
        let others = tree.stmts().count() > 1;
        read(tree.stmts().nth(at).ok_or_else(not_one)?, others)
    }))
    .unwrap_or_else(|_| Err(Unfit::new("syntax", "on which the parser failed")))
}

fn read_out(copy: &nodes::CopyStmt) -> Result<CopyIn, Unfit> {
    let names: Vec<String> = copy.attlist().iter().filter_map(|name| name.as_str()).map(str::to_owned).collect();
    let mut read = CopyIn { columns: (!names.is_empty()).then_some(names), ..CopyIn::default() };
    for option in copy.options() {
        match (option.defname().unwrap_or_default(), option.arg().as_str()) {
            ("format", Some("csv")) => read.format = CopyFormat::Csv,
            ("format", Some("binary")) => read.format = CopyFormat::Binary,
            ("header", _) => read.header = header(option.arg())?,
            // They say how values are written, which the shards do.
            _ => {}
        }
    }
    Ok(read)
}

fn read(copy: &nodes::CopyStmt) -> Result<CopyIn, Unfit> {
    if !copy.is_from || copy.is_program || copy.filename().is_some() || copy.relation().is_none() {
        return Err(Unfit::new("copy_file", "that is a COPY, but not of a table FROM STDIN")
            .hint("Read the file in the client and send it by COPY FROM STDIN."));
    }
    let mut found = Found::default();
    expression::check(copy.where_clause(), Clause::Output, &From::default(), &mut found)?;
    let condition = match copy.where_clause() {
        Node::None => None,
        _ if found.draws => Some(Condition::Draws),
        _ => Some(Condition::Same),
    };
    let names: Vec<String> = copy.attlist().iter().filter_map(|name| name.as_str()).map(str::to_owned).collect();
    let mut read = CopyIn { columns: (!names.is_empty()).then_some(names), condition, ..CopyIn::default() };
    for option in copy.options() {
        let name = option.defname().unwrap_or_default();
        let text = option.arg().as_str();
        match (name, text) {
            ("format", Some("text")) => read.format = CopyFormat::Text,
            ("format", Some("csv")) => read.format = CopyFormat::Csv,
            ("format", Some("binary")) => read.format = CopyFormat::Binary,
            ("delimiter", Some(text)) => read.delimiter = Some(one_byte(name, text)?),
            ("quote", Some(text)) => read.quote = Some(one_byte(name, text)?),
            ("escape", Some(text)) => read.escape = Some(one_byte(name, text)?),
            ("null", Some(text)) => read.null = Some(text.to_owned()),
            ("encoding", Some(text)) if matches!(&*text.to_ascii_lowercase(), "utf8" | "utf-8" | "unicode") => {}
            ("header", _) => read.header = header(option.arg())?,
            ("log_verbosity", _) => {}
            _ => return Err(unknown(name)),
        }
    }
    Ok(read)
}

/// <https://www.postgresql.org/docs/current/sql-copy.html>: a boolean, or MATCH.
fn header(arg: Node<'_>) -> Result<bool, Unfit> {
    match arg {
        Node::None => Ok(true),
        Node::Boolean(value) => Ok(value.boolval),
        Node::Integer(value) if matches!(value.ival, 0 | 1) => Ok(value.ival == 1),
        other => match other.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "on" | "match") => Ok(true),
            Some("false" | "off") => Ok(false),
            _ => Err(unknown("header")),
        },
    }
}

fn one_byte(name: &str, text: &str) -> Result<u8, Unfit> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Unfit {
    Unfit::new("copy_option", format!("with this {} of COPY", name.to_uppercase()))
        .hint("Use FORMAT, DELIMITER, NULL, QUOTE, ESCAPE and HEADER only, and ENCODING 'UTF8'.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_both_ways_of_writing() {
        let csv = CopyIn {
            columns: Some(vec!["b".into(), "k".into()]),
            format: CopyFormat::Csv,
            delimiter: Some(b';'),
            null: Some("-".into()),
            quote: Some(b'\''),
            escape: None,
            header: true,
            condition: None,
        };
        let new = "COPY t (b, k) FROM STDIN (FORMAT csv, DELIMITER ';', NULL '-', QUOTE '''', HEADER)";
        assert_eq!(copy_in(new).as_ref(), Ok(&csv));
        assert_eq!(copy_in("COPY t (b, k) FROM STDIN WITH CSV HEADER DELIMITER ';' NULL '-' QUOTE ''''"), Ok(csv));
        assert_eq!(copy_in("COPY s.t FROM STDIN"), Ok(CopyIn::default()));
        assert_eq!(copy_in("COPY t FROM STDIN WITH BINARY").unwrap().format, CopyFormat::Binary);
        assert!(!copy_in("COPY t FROM STDIN (FORMAT csv, HEADER off)").unwrap().header);
        assert!(copy_in("COPY t FROM STDIN (HEADER match)").unwrap().header);
        for (condition, expected) in [("k > 5", Condition::Same), ("k > 5 OR random() < 0.5", Condition::Draws)] {
            assert_eq!(copy_in(&format!("COPY t FROM STDIN WHERE {condition}")).unwrap().condition, Some(expected));
        }
    }

    #[test]
    fn queries_are_read_by_themselves() {
        let (copy, query) =
            copied_query("COPY (SELECT a, b FROM t WHERE k = 1) TO STDOUT (FORMAT csv, HEADER)").unwrap();
        assert!(copy.format == CopyFormat::Csv && copy.header);
        assert_eq!(query, "SELECT a, b FROM t WHERE k = 1");
        let written = "COPY (DELETE FROM t WHERE k = 1 RETURNING a) TO STDOUT BINARY";
        assert_eq!(copied_query(written).unwrap().1, "DELETE FROM t WHERE k = 1 RETURNING a");
        for text in ["COPY t TO STDOUT", "COPY (SELECT 1) TO '/tmp/x'", "COPY (SELECT 1) TO PROGRAM 'cat'", "SELECT 1"]
        {
            assert!(copied_query(text).is_err(), "{text}");
        }
        assert!(copy_out("COPY (SELECT 1) TO STDOUT").is_err());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, construct) in [
            ("COPY t TO STDOUT", "copy_file"),
            ("COPY t FROM '/tmp/x'", "copy_file"),
            ("COPY t FROM PROGRAM 'cat'", "copy_file"),
            ("COPY t FROM STDIN (FREEZE)", "copy_option"),
            ("COPY t FROM STDIN (ENCODING 'LATIN1')", "copy_option"),
            ("COPY t FROM STDIN (DELIMITER 'ab')", "copy_option"),
            ("COPY t FROM STDIN (FORMAT csv, FORCE_NULL (k))", "copy_option"),
            ("COPY t FROM STDIN (FORMAT csv, DEFAULT 'd')", "copy_option"),
            ("COPY t FROM STDIN (ON_ERROR ignore)", "copy_option"),
            ("COPY t FROM STDIN WHERE a < now()", "clock"),
            ("TRUNCATE t", "statement"),
        ] {
            assert_eq!(copy_in(text).unwrap_err().construct, construct, "{text}");
        }
    }
}
