//! `pg_prepared_statements` as its client is to see it: a server keeps what the protocol prepares for all clients, under names of pgweir's own.
//!
//! What PREPARE has made is the client's alone, for it keeps its server. What the protocol has prepared gets the client's name in the row of
//! the server's statement; a server that has not been sent it yet has no such row, and one is made.
//! See <https://www.postgresql.org/docs/current/view-pg-prepared-statements.html>.

use std::fmt::Write;
use std::sync::Arc;

use crate::session::prepared::Statement;
use crate::session::settings::quote;

/// How long the names, and the texts, may be all together, in bytes: what is longer than 1 MiB is not read as SQL.
const NAMES: usize = 400_000;
const TEXTS: usize = 400_000;

/// A query in brackets, with the columns that the server's own view has in its version. `is_utf8`: it may hold more than ASCII. Behind
/// [`NAMES`] statements are left out, behind [`TEXTS`] those which the server has not been sent.
pub(super) fn as_sql<'a>(prepared: impl Iterator<Item = (&'a [u8], &'a Arc<Statement>)>, is_utf8: bool) -> String {
    const VIEW: &str = "pg_catalog.pg_prepared_statements";
    let mut rows = String::new();
    let mut texts = 0_usize;
    for (name, statement) in prepared {
        if rows.len().saturating_sub(texts) > NAMES {
            break;
        }
        rows.push_str(if rows.is_empty() { "" } else { "," });
        let (name, text) = (literal(name, is_utf8), literal(&statement.sql, is_utf8));
        let fits = texts.saturating_add(text.len()) < TEXTS;
        let (text, types) = if fits { (text, types(statement)) } else { ("NULL".to_owned(), "NULL".to_owned()) };
        texts += if fits { text.len() + types.len() } else { 0 };
        let _infallible = write!(rows, "({name},'{}',{text},{types})", statement.server_name());
    }
    let of_sql = format!("SELECT * FROM {VIEW} WHERE from_sql");
    if rows.is_empty() {
        return format!("({of_sql})");
    }
    // The columns of later versions stay as they are. The types are those that were declared, where the server knows no others.
    format!(
        "(SELECT r.* FROM (VALUES {rows}) AS m(name,server,statement,types) \
         LEFT JOIN {VIEW} AS s ON s.name OPERATOR(pg_catalog.=) m.server, \
         LATERAL pg_catalog.jsonb_populate_record(s, CASE WHEN s.name IS NULL THEN pg_catalog.jsonb_build_object(\
         'name',m.name,'statement',m.statement,'prepare_time',pg_catalog.now(),\
         'parameter_types',m.types::pg_catalog.jsonb,'from_sql',false,'generic_plans',0,'custom_plans',0) \
         ELSE pg_catalog.jsonb_build_object('name',m.name) END) AS r \
         WHERE s.name IS NOT NULL OR m.statement IS NOT NULL UNION ALL {of_sql})"
    )
}

/// The types of its parameters, as they were declared, as a JSON array in a literal.
fn types(statement: &Statement) -> String {
    let numbers: Vec<String> = statement.oids().iter().map(|oid| format!("\"{oid}\"")).collect();
    format!("'[{}]'", numbers.join(","))
}

fn literal(bytes: &[u8], is_utf8: bool) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = if is_utf8 { text } else { text.replace(|c: char| !c.is_ascii(), "?").into() };
    quote(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::prepared::Registry;
    use crate::sql::parse;
    use crate::wire::message::Parse;

    fn statement(sql: &str) -> Arc<Statement> {
        Registry::default().unnamed(&Parse { name: b"", sql: sql.as_bytes(), types: &[0, 0] }, Arc::default())
    }

    #[test]
    fn it_is_sql_however_much_there_is() {
        let (small, large) = (statement("SELECT 'it''s \\ \u{e9}'"), statement(&"x".repeat(300_000)));
        let names: Vec<String> = (0..60_000).map(|n| format!("n'\\{n}\u{e9}")).collect();
        for (count, of) in [(0, &small), (1, &small), (5, &large), (60_000, &small)] {
            for is_utf8 in [true, false] {
                let all = names.iter().take(count).map(|name| (name.as_bytes(), of));
                let sql = format!("SELECT * FROM {} AS pg_prepared_statements", as_sql(all, is_utf8));
                assert_eq!(parse::facts(sql.as_bytes()).unparsed, None, "{count}");
                assert!(is_utf8 || sql.is_ascii());
            }
        }
    }
}
