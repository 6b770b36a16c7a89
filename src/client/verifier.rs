//! What is known of a client's password: what is listed, or what a server answers to `auth_query`.
//!
//! A server is asked at every login and nothing is kept, so that a changed password and a new role count at once. The connections
//! for it are a pool of their own, as `auth_user`: no client ever has one, so no setting of a client can change what the question
//! means. Whatever goes wrong lets nobody in.

use std::sync::Arc;

use crate::auth::secret::{Credential, Mock, Secret};
use crate::client::database::{Live, LiveDatabase};
use crate::client::login::any_server;
use crate::config::{AuthType, Database, WILDCARD};
use crate::error::{Error, SqlState};
use crate::id::WorkerId;
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
struct Source {
    database: Arc<LiveDatabase>,
    user: String,
    query: String,
}

/// Finds what is stored of `user`, who wants to connect to `database` (none: to the console). Users who are listed are not asked for.
///
/// # Errors
/// When a server cannot be asked. Why is in the log; the client learns no more than that, other than that its database does not exist.
pub(super) async fn find(
    live: &Live,
    auth_type: AuthType,
    user: &str,
    database: Option<&str>,
    worker: WorkerId,
) -> Result<Verifier, Error> {
    let listed = live.users.get(user).cloned();
    if listed.is_some() || matches!(auth_type, AuthType::Any | AuthType::Ldap | AuthType::Pam) {
        return Ok(Verifier { credential: listed, mock: Arc::clone(&live.mock) });
    }
    let Some(source) = source(live, database) else {
        return Ok(Verifier { credential: None, mock: Arc::clone(&live.mock) });
    };
    let iterations = live.config.general.scram_iterations;
    let answer = ask(live, &source, user, worker).await;
    let secret = match answer {
        Ok(secret) => secret,
        Err(error) => {
            live.forget_failed(&source.database);
            let asked = &source.database.config.name;
            tracing::warn!(user, database = asked, auth_user = source.user, %error, "a login fails: auth_query cannot be answered");
            let missing = error.sqlstate == SqlState::UNDEFINED_DATABASE && database == Some(asked);
            return Err(if missing { no_database(asked) } else { unanswered(user) });
        }
    };
    if let Some(secret) = &secret {
        source.database.see_secret(secret, iterations);
    }
    let mock = Arc::new(live.mock.like(source.database.seen_secret()));
    let credential = secret.map(|secret| Arc::new(Credential::new(secret, iterations)));
    Ok(Verifier { credential, mock })
}

fn no_database(name: &str) -> Error {
    Error::us_fatal(SqlState::UNDEFINED_DATABASE, format!("database \"{name}\" does not exist"))
}

/// Says nothing of the server or its answer: whoever reads this has proven nothing yet.
fn unanswered(user: &str) -> Error {
    Error::us_fatal(SqlState::CANNOT_CONNECT, format!("the password of user \"{user}\" cannot be checked at present"))
        .hint("See pgweir's log: auth_query could not be answered.")
}

/// Whom to ask about users who are not listed; none: nobody.
fn source(live: &Live, database: Option<&str>) -> Option<Source> {
    let general = &live.config.general;
    let config = database.and_then(|name| live.config.databases.get(name).or(live.config.wildcard.as_ref()));
    let (user, query, dbname) = match config {
        Some(Database { auth_user, auth_query, auth_dbname, .. }) => (auth_user, auth_query, auth_dbname),
        None => (&general.auth_user, &general.auth_query, &general.auth_dbname),
    };
    // The console has no servers, nor has a database that does not exist.
    let name = dbname.as_deref().or(database.filter(|_| config.is_some()))?;
    debug_assert_ne!(name, WILDCARD, "checked with the configuration");
    let database = live.database_for_client(name)?;
    Some(Source { database, user: user.clone()?, query: query.clone() })
}

/// The answer: none if there is no such user, [`Secret::Absent`] if he has no password.
async fn ask(live: &Live, source: &Source, user: &str, worker: WorkerId) -> Result<Option<Secret>, Error> {
    if user.len() > LONGEST_NAME {
        return Ok(None);
    }
    let stored = live.users.get(&source.user).map(|credential| credential.secret());
    let pools = source.database.auth_pools(&source.user, stored);
    let mut checkout = any_server(&source.database, &pools, worker).await?;
    let Some(connection) = checkout.as_mut() else {
        return Err(Error::us(SqlState::INTERNAL_ERROR, "a connection was lent that is not there"));
    };
    let answered = connection.rows_for(&source.query, user).await;
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
