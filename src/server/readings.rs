//! Asking a server's catalog what reading relations amounts to: see [`crate::sql::readings`].
//!
//! On a connection of its own, as [`crate::server::catalog`].

use std::time::Duration;

use crate::error::{Error, SqlState};
use crate::id::WorkerId;
use crate::server::login::{self, LoginSettings};
use crate::server::{Connection, Target};
use crate::sql::catalog::Name;
use crate::sql::facts::Access;
use crate::sql::readings::{Found, Part};
use crate::sql::settings::{quote_identifier, quote_literal};

/// How long a server may take to be logged in to and to answer: a statement waits for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What reading each of `names` amounts to, in their order, and what the user's transactions are. What does not exist is a read: any
/// server says so.
///
/// # Errors
/// Those of the login, of the server, and no answer in time.
pub async fn ask(target: &Target, settings: &LoginSettings, worker: WorkerId, names: &[Name]) -> Result<Found, Error> {
    let broken = |why: &str| {
        let address = target.address();
        Error::server(SqlState::CONNECTION_FAILURE, format!("server {address} did not tell what relations are: {why}"))
    };
    let asked = async {
        let mut connection = login::login(target, settings, worker).await?;
        match exchange(&mut connection, names).await {
            Ok(answer) => answer,
            Err(error) => Err(broken(&error.to_string())),
        }
    };
    match tokio::time::timeout(settings.timeout.min(PATIENCE), asked).await {
        Ok(answer) => answer,
        Err(_) => Err(broken("no answer in time")),
    }
}

async fn exchange(connection: &mut Connection, names: &[Name]) -> std::io::Result<Result<Found, Error>> {
    let mut prepare = "SET client_encoding = 'UTF8'".to_owned();
    // All of one session: they have one search_path.
    if let Some(path) = names.iter().find_map(|n| n.search_path.as_deref()) {
        let path = quote_literal(path);
        prepare.push_str(&format!("; SELECT pg_catalog.set_config('search_path', {path}, false)"));
    }
    if let Err(error) = connection.run(&prepare).await? {
        return Ok(Err(error));
    }
    let mut found = Found { readings: vec![Access::Read; names.len()], serializable: false };
    let isolation = match connection.rows(ISOLATION).await? {
        Ok(rows) => rows,
        Err(error) => return Ok(Err(error)),
    };
    let level = isolation.first().and_then(|row| row.first()?.as_deref());
    found.serializable = level.is_some_and(|level| level.eq_ignore_ascii_case("serializable"));
    if names.is_empty() {
        return Ok(Ok(found));
    }
    Ok(connection.rows(&query(names)).await?.map(|rows| {
        rows.iter().for_each(|row| take(row, &mut found.readings));
        found
    }))
}

/// The role or the database may have one of its own.
const ISOLATION: &str = "SELECT pg_catalog.current_setting('default_transaction_isolation')";

fn take(row: &[Option<String>], answers: &mut [Access]) {
    let [Some(place), Some(what), Some(schema), Some(name), Some(kind)] = row else { return };
    let Some(access) = place.parse().ok().and_then(|n: usize| answers.get_mut(n)) else { return };
    let part = match what.as_str() {
        "r" => Part::Relation { schema, name, kind },
        _ => Part::Function { schema, name, volatile: kind == "v" },
    };
    *access = (*access).max(part.access());
}

/// Of each name: what it is, and what the views and policies among it read and call, to the bottom; of a table also what it inherits to.
///
/// PostgreSQL records no dependency on what it ships itself, so a view's functions are read from its rule's tree, where they
/// stand by number. (Names and strings in it are written such that they cannot be taken for that.) A materialized view has a
/// rule too, which does not run when it is read. Tables that are like any other are not told of: there may be thousands of partitions.
/// See <https://www.postgresql.org/docs/current/catalog-pg-rewrite.html>.
fn query(names: &[Name]) -> String {
    let rows: Vec<String> = (names.iter().enumerate())
        .map(|(n, name)| {
            let schema = name.schema.as_deref().map(|s| format!("{}.", identifier(s))).unwrap_or_default();
            format!("({n}, {}::pg_catalog.text)", quote_literal(&format!("{schema}{}", identifier(&name.name))))
        })
        .collect();
    format!(
        "WITH RECURSIVE reached (n, oid) AS ( \
           SELECT v.n, pg_catalog.to_regclass(v.name)::pg_catalog.oid FROM (VALUES {}) AS v (n, name) \
           UNION \
           SELECT r.n, x.oid FROM reached AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.oid \
             CROSS JOIN LATERAL ( \
               SELECT d.refobjid FROM pg_catalog.pg_rewrite AS w \
                 JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
                   AND d.objid = w.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                 WHERE w.ev_class = c.oid AND w.ev_type = '1' AND c.relkind = 'v' \
               UNION ALL SELECT d.refobjid FROM pg_catalog.pg_policy AS p \
                 JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass \
                   AND d.objid = p.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                 WHERE p.polrelid = c.oid AND p.polcmd IN ('*', 'r') AND c.relrowsecurity \
               UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i \
                 WHERE i.inhparent = c.oid AND c.relkind IN ('r', 'p', 'f')) AS x (oid)), \
         tree (n, code) AS ( \
           SELECT r.n, w.ev_action::pg_catalog.text FROM reached AS r \
             JOIN pg_catalog.pg_class AS c ON c.oid = r.oid AND c.relkind = 'v' \
             JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = r.oid AND w.ev_type = '1' \
           UNION ALL SELECT r.n, p.polqual::pg_catalog.text FROM reached AS r \
             JOIN pg_catalog.pg_class AS c ON c.oid = r.oid AND c.relrowsecurity \
             JOIN pg_catalog.pg_policy AS p ON p.polrelid = r.oid AND p.polcmd IN ('*', 'r')), \
         named (n, what, oid) AS ( \
           SELECT DISTINCT t.n, m.found[1], m.found[2]::pg_catalog.oid FROM tree AS t \
             CROSS JOIN LATERAL pg_catalog.regexp_matches(t.code, \
               ' :(funcid|opfuncid|aggfnoid|winfnoid|relid) ([0-9]+)', 'g') AS m (found)) \
         SELECT r.n, 'r', s.nspname, c.relname, pg_catalog.concat(c.relkind, c.relpersistence) \
           FROM (SELECT n, oid FROM reached UNION SELECT n, oid FROM named WHERE what = 'relid') AS r \
           JOIN pg_catalog.pg_class AS c ON c.oid = r.oid \
           JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace \
           WHERE c.relkind NOT IN ('r', 'p', 'm') OR c.relpersistence <> 'p' OR c.oid < 16384 \
         UNION ALL \
         SELECT f.n, 'f', s.nspname, p.proname, p.provolatile::pg_catalog.text FROM named AS f \
           JOIN pg_catalog.pg_proc AS p ON p.oid = f.oid \
           JOIN pg_catalog.pg_namespace AS s ON s.oid = p.pronamespace \
           WHERE f.what <> 'relid'",
        rows.join(", ")
    )
}

/// In quotes in any case, because a keyword needs them.
fn identifier(name: &str) -> String {
    let quoted = quote_identifier(name);
    if quoted.starts_with('"') { quoted } else { format!("\"{quoted}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_weighed_by_place() {
        let row = |cells: [&str; 5]| cells.map(|c| Some(c.to_owned())).to_vec();
        let mut answers = vec![Access::Read; 3];
        for cells in [
            ["0", "r", "public", "t", "rp"],
            ["1", "r", "public", "v", "vp"],
            ["1", "f", "public", "f", "v"],
            ["1", "f", "public", "g", "s"],
            ["2", "r", "public", "s", "Sp"],
            ["9", "f", "public", "f", "v"],
            ["x", "f", "public", "f", "v"],
        ] {
            take(&row(cells), &mut answers);
        }
        take(&[None], &mut answers);
        assert_eq!(answers, [Access::Read, Access::Write, Access::Local]);
    }

    #[test]
    fn names_are_quoted() {
        let name = Name { search_path: None, schema: Some("S\"x".to_owned()), name: "user".to_owned() };
        assert!(query(&[name]).contains(r#"(0, '"S""x"."user"'::pg_catalog.text)"#));
    }
}
