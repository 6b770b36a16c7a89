//! What is known of a client's password: what is listed, or what a server answers to `auth_query`.
//!
//! A server is asked at every login and nothing is kept, so that a changed password and a new role count at once. The connections
//! for it are a pool of their own, as `auth_user`: no client ever has one, so no setting of a client can change what the question
//! means. Whatever goes wrong lets nobody in.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::secret::{Credential, Mock, Secret};
use crate::client::WorkerContext;
use crate::client::database::{Live, LiveDatabase};
use crate::client::limits::Limits;
use crate::client::login::{any_server, in_time};
use crate::config::{self, AuthType, Database, WILDCARD};
use crate::error::{Error, SqlState};
use crate::pool::Verdict;

/// Longest name of a role in bytes; a server cuts longer ones off, and would answer for another role.
const LONGEST_NAME: usize = 63;

/// What a login is checked against.
pub(super) struct Verifier {
    /// What is stored of the user; none: there is no such user.
    pub(super) credential: Option<Arc<Credential>>,
    /// What a user who does not exist is shown.
    pub(super) mock: Arc<Mock>,
}

/// Whom to ask, as whom, and what.
struct Question<'l> {
    /// Databases, one after the other until one answers; none: nobody is asked.
    names: Vec<&'l str>,
    user: &'l str,
    query: &'l str,
    /// Whether it is for a database that only the wildcard knows.
    made: bool,
}

/// Finds what is stored of `user`, who wants to connect to `database` (none: to the console). Users who are listed are not asked for.
///
/// Whether the database exists on its server must not show before the user has proven who he is. So nothing is told that hangs on it:
/// where only the database itself could be asked and it is not there, the user is one who does not exist.
///
/// # Errors
/// When a server cannot be asked. Why is in the log; the client learns no more than that.
pub(super) async fn find(
    live: &Live,
    auth_type: AuthType,
    user: &str,
    database: Option<&str>,
    cx: &WorkerContext,
) -> Result<Verifier, Error> {
    let listed = live.users.get(user).cloned();
    if listed.is_some() || matches!(auth_type, AuthType::Any | AuthType::Ldap | AuthType::Pam) {
        return Ok(Verifier { credential: listed, mock: Arc::clone(&live.mock) });
    }
    let question = question(live, database);
    for (at, name) in question.names.iter().enumerate() {
        // Made from the wildcard only when it is its turn: a stranger may have named it.
        let Some(asked) = live.database_for_client(name) else { continue };
        let limit = Limits::of(&live.config, database.unwrap_or(name), user).most_wait();
        let error = match ask(live, &asked, &question, user, (limit, cx)).await {
            Ok(secret) => return Ok(verifier(live, &asked, question.made, secret)),
            Err(error) => error,
        };
        live.forget_failed(&asked);
        tracing::warn!(user, database = name, auth_user = question.user, %error, "auth_query cannot be answered");
        let hangs_on_name = question.made || (error.sqlstate == SqlState::UNDEFINED_DATABASE && database == Some(name));
        // `auth_user` may be let into others than that one, which nobody has named.
        let is_substitute = *name == MAINTENANCE && at + 1 < question.names.len();
        let ends = match error.sqlstate.class() {
            // The server is away, and so for every database.
            "08" | "57" => true,
            // It does not let `auth_user` in, or no more connections.
            "28" | "53" => !is_substitute,
            _ => false,
        };
        if !hangs_on_name || ends {
            return Err(unanswered(user));
        }
    }
    let seen = if question.made { live.made.seen.get() } else { None };
    let mock = if question.names.is_empty() { Arc::clone(&live.mock) } else { Arc::new(live.mock.like(seen.copied())) };
    Ok(Verifier { credential: None, mock })
}

/// What a login is checked against by the answer of `asked`. `made`: see [`Question`].
fn verifier(live: &Live, asked: &LiveDatabase, made: bool, secret: Option<Secret>) -> Verifier {
    let iterations = live.config.general.scram_iterations;
    // Those of the wildcard show the same, so that they cannot be told from those that do not exist.
    let seen = if made { &live.made.seen } else { &asked.seen };
    // The first one counts: what strangers are shown must not change from login to login.
    if let Some(example) = secret.as_ref().and_then(|secret| secret.example(iterations)) {
        seen.get_or_init(|| example);
    }
    let mock = Arc::new(live.mock.like(seen.get().copied()));
    let credential = secret.map(|secret| Arc::new(Credential::new(secret, iterations)));
    Verifier { credential, mock }
}

/// Says nothing of the server or its answer: whoever reads this has proven nothing yet.
fn unanswered(user: &str) -> Error {
    Error::us_fatal(SqlState::CANNOT_CONNECT, format!("the password of user \"{user}\" cannot be checked at present"))
        .hint("See pgweir's log: auth_query could not be answered.")
}

/// The database that is there on every server, unless somebody has dropped it.
const MAINTENANCE: &str = "postgres";

/// What to ask about users who are not listed.
///
/// What the usual question reads is the same in all databases of a server. So of those that only the wildcard knows it is asked in one that
/// surely exists: then neither the answer nor the time that it takes hangs on a database that a stranger has named.
fn question<'l>(live: &'l Live, database: Option<&'l str>) -> Question<'l> {
    let general = &live.config.general;
    let config = database.and_then(|name| live.config.databases.get(name).or(live.config.wildcard.as_ref()));
    let (user, query, dbname) = match config {
        Some(Database { auth_user, auth_query, auth_dbname, .. }) => (auth_user, auth_query, auth_dbname),
        None => (&general.auth_user, &general.auth_query, &general.auth_dbname),
    };
    // The console has no servers, nor has a database that does not exist.
    let name = dbname.as_deref().or(database.filter(|_| config.is_some()));
    let (Some(user), Some(name)) = (user, name) else {
        return Question { names: Vec::new(), user: "", query, made: false };
    };
    debug_assert_ne!(name, WILDCARD, "checked with the configuration");
    let is_listed = |name: &str| live.config.databases.contains_key(name);
    let made = dbname.is_none() && !is_listed(name);
    let mut names = vec![name];
    if made && name != MAINTENANCE && !is_listed(MAINTENANCE) {
        names.insert(usize::from(!config::is_usual_auth_query(query)), MAINTENANCE);
    }
    Question { names, user, query, made }
}

/// The answer: none if there is no such user, [`Secret::Absent`] if he has no password.
async fn ask(
    live: &Live,
    database: &LiveDatabase,
    question: &Question<'_>,
    user: &str,
    (limit, cx): (Duration, &WorkerContext),
) -> Result<Option<Secret>, Error> {
    if user.len() > LONGEST_NAME {
        return Ok(None);
    }
    let stored = live.users.get(question.user).map(|credential| credential.secret());
    let pools = database.auth_pools(question.user, stored);
    let mut checkout = any_server(database, &pools, limit, cx).await?;
    let Some(connection) = checkout.as_mut() else {
        return Err(Error::us(SqlState::INTERNAL_ERROR, "a connection was lent that is not there"));
    };
    let answered = in_time(live, connection.rows_for(question.query, user)).await;
    let rows =
        answered.map_err(|e| Error::server(SqlState::CONNECTION_FAILURE, format!("server connection lost: {e}")))??;
    // After an error it is closed instead: nobody knows what a function of the question's left behind.
    checkout.release(Verdict::Clean);
    read(user, &rows)
}

/// Reads the rows: nothing but one row of this user's name and his secret lets anybody in.
fn read(user: &str, rows: &[Vec<Option<String>>]) -> Result<Option<Secret>, Error> {
    let wrong = |what: &str| Err(Error::us(SqlState::INTERNAL_ERROR, format!("auth_query answers with {what}")));
    let row = match rows {
        [] => return Ok(None),
        [row] => row,
        [_, ..] => return wrong("more than one row"),
    };
    let [name, secret] = row.as_slice() else { return wrong("other than two columns, the user's name and the secret") };
    match (name, secret) {
        // A function with OUT parameters that has found nobody answers with a row all the same.
        (None, None) => Ok(None),
        (None, Some(_)) => wrong("no user name"),
        (Some(name), _) if name != user => wrong("another user's name"),
        (Some(_), None) => Ok(Some(Secret::Absent)),
        (Some(_), Some(text)) => match Secret::parse(text) {
            Ok(secret) => Ok(Some(secret)),
            Err(why) => wrong(&format!("what is no secret: {why}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_row_of_the_user_himself_counts() {
        let cell = |text: &str| Some(text.to_owned());
        let row = |cells: &[Option<&str>]| cells.iter().map(|c| c.map(str::to_owned)).collect::<Vec<_>>();
        assert_eq!(read("ann", &[]).unwrap(), None);
        assert_eq!(read("ann", &[vec![None, None]]).unwrap(), None);
        assert_eq!(read("ann", &[vec![cell("ann"), None]]).unwrap(), Some(Secret::Absent));
        assert_eq!(read("ann", &[vec![cell("ann"), cell("")]]).unwrap(), Some(Secret::Absent));
        assert!(matches!(read("ann", &[vec![cell("ann"), cell("pw")]]).unwrap(), Some(Secret::Clear(_))));
        let refused: [&[Vec<Option<String>>]; 7] = [
            &[row(&[Some("bob"), Some("hunter2")])],
            &[row(&[Some("Ann"), Some("hunter2")])],
            &[row(&[None, Some("hunter2")])],
            &[row(&[Some("ann")])],
            &[row(&[Some("ann"), Some("hunter2"), Some("x")])],
            &[row(&[Some("ann"), Some("hunter2")]), row(&[Some("ann"), Some("hunter2")])],
            &[row(&[Some("ann"), Some("SCRAM-SHA-256$hunter2")])],
        ];
        for rows in refused {
            let error = read("ann", rows).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
