//! `pg_terminate_backend` and `pg_cancel_backend` of a session that is a client's: who may do that is for the server to say, which knows
//! the roles, and what it is done to is ours. The call is written anew as an expression that is true where the server would allow it and
//! fails where it would not; when its statement has completed, the session is signalled.
//!
//! The rules are those of <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-SIGNAL>.

use crate::error::{Error, SqlState};
use crate::session::pipeline::Kind;
use crate::session::settings::quote;
use crate::sql::facts::{QueryFacts, SignalKind};
use crate::wire::message;

/// What the server is made to say where it does not allow it: no number, so that the statement fails.
const NOT_SUPERUSER: &str = "pgweir: not a superuser";
/// The same for roles that are none.
const NOT_MEMBER: &str = "pgweir: not a member";

/// An expression in the place of a call of `kind`, for a session whose server user is `role`. `params`: the call's parameters and their
/// types, which the statement goes on having.
#[must_use]
pub fn expression(kind: SignalKind, role: &str, params: &[(u16, String)]) -> String {
    let role = quote(role);
    // Every name is qualified: whoever asks could have others of the same names on the search_path.
    let fails = |why: &str| {
        let text = format!("pg_catalog.textcat({}::pg_catalog.text, current_user::pg_catalog.text)", quote(why));
        format!("({text}::pg_catalog.int4 IS NULL)")
    };
    let given: String = params.iter().map(|(n, cast)| format!(" AND ${n}::{cast} IS NOT NULL")).collect();
    format!(
        "(SELECT CASE WHEN (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) {role}::pg_catalog.name) \
         AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user::pg_catalog.name) THEN {} \
         WHEN NOT pg_catalog.pg_has_role({role}::pg_catalog.name, 'USAGE'::pg_catalog.text) \
         AND NOT pg_catalog.pg_has_role('pg_signal_backend'::pg_catalog.name, 'USAGE'::pg_catalog.text) THEN {} \
         ELSE true{given} END AS {})",
        fails(NOT_SUPERUSER),
        fails(NOT_MEMBER),
        kind.function(),
    )
}

/// PostgreSQL's error in the place of the one that the expression failed with.
pub(super) fn denial(kind: &Kind, body: &[u8]) -> Option<Error> {
    let (Kind::Query { facts, .. } | Kind::Execute(Some(facts))) = kind else { return None };
    let signal = first(facts)?;
    let text = String::from_utf8_lossy(message::error_field(body, b'M')?);
    let (process, ended) = match signal {
        SignalKind::Terminate => ("process", "terminate superuser process"),
        SignalKind::Cancel => ("query", "cancel superuser query"),
    };
    let done = if signal == SignalKind::Terminate { "terminated" } else { "canceled" };
    if text.contains(NOT_SUPERUSER) {
        return Some(Error::client(SqlState::INSUFFICIENT_PRIVILEGE, format!("must be a superuser to {ended}")));
    }
    text.contains(NOT_MEMBER).then(|| {
        let message =
            format!("must be a member of the role whose {process} is being {done} or member of pg_signal_backend");
        Error::client(SqlState::INSUFFICIENT_PRIVILEGE, message)
    })
}

fn first(facts: &QueryFacts) -> Option<SignalKind> {
    facts.signals.first().map(|signal| signal.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn the_expression_is_sql_whatever_the_role_is_called() {
        for role in ["app", "it's", "back\\slash", "pg_signal_backend\"--"] {
            for params in [vec![], vec![(1, "int4".to_owned()), (2, "int8".to_owned())]] {
                let sql = format!("SELECT {}", expression(SignalKind::Cancel, role, &params));
                let facts = parse::facts(sql.as_bytes());
                assert_eq!((facts.unparsed.as_ref(), facts.statements.len(), facts.pids), (None, 1, false), "{sql}");
            }
        }
    }
}
