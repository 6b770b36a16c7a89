//! Asks others whether a password is right: an LDAP server, or PAM (`auth_type = "ldap"` or `"pam"`, and the rules' methods).
//!
//! Either may take its time, so that is done on a thread apart. There are only so many of these at a time: when whoever is asked hangs,
//! the other work of such threads goes on. Whatever goes wrong lets nobody in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::auth::external::External;
use crate::auth::secret::Password;
use crate::error::{Error, SqlState};

/// Questions at a time, over all workers.
const AT_ONCE: usize = 64;

/// Whom `auth_type` says to ask, and how many may.
#[derive(Debug, Clone)]
pub struct Outside {
    /// For all clients; none: nobody, or as the rules say.
    pub asked: Option<External>,
    gate: Arc<Semaphore>,
}

impl Outside {
    /// `old`: what was there before, whose questions may not be answered yet.
    #[must_use]
    pub fn new(asked: Option<External>, old: Option<&Self>) -> Self {
        let gate = old.map_or_else(|| Arc::new(Semaphore::new(AT_ONCE)), |old| Arc::clone(&old.gate));
        Self { asked, gate }
    }

    /// Whether it is the password of `user`. A user who is not there has none, and is told apart by nothing.
    ///
    /// # Errors
    /// When nobody answers within `patience`, or the question cannot be asked. Why is in the log.
    pub(super) async fn is_right(
        &self,
        external: &External,
        user: &str,
        password: &Password,
        patience: Duration,
    ) -> Result<bool, Error> {
        let asked = tokio::time::timeout(patience, self.ask(external.clone(), user, password, patience)).await;
        let answer = asked.unwrap_or_else(|_| Err("there was no answer in time (server_connect_timeout)".to_owned()));
        answer.map_err(|error| {
            let by = match external {
                External::Ldap(_) => "ldap",
                External::Pam(_) => "pam",
            };
            tracing::warn!(user, by, error, "a login fails: the password cannot be checked");
            let message = format!("the password of user \"{user}\" cannot be checked at present");
            Error::us_fatal(SqlState::CANNOT_CONNECT, message).hint("See pgweir's log.")
        })
    }

    async fn ask(
        &self,
        external: External,
        user: &str,
        password: &Password,
        patience: Duration,
    ) -> Result<bool, String> {
        let permit = Arc::clone(&self.gate).acquire_owned().await.map_err(|why| why.to_string())?;
        let (user, password) = (user.to_owned(), password.clone());
        let answered = tokio::task::spawn_blocking(move || {
            // Until it is answered, also when nobody waits for that any more.
            let _permit = permit;
            // Other than here, no protocol knows bytes: what is no text is nobody's password.
            let Ok(password) = std::str::from_utf8(password.as_bytes()) else { return Ok(false) };
            match external {
                External::Ldap(settings) => ldap::is_right(&settings, &user, password, patience),
                External::Pam(service) => pam::is_right(&service, &user, password),
            }
        });
        answered.await.map_err(|why| why.to_string())?
    }
}

#[cfg(feature = "ldap")]
mod ldap {
    use std::time::Duration;

    use ldap3::{LdapConn, LdapConnSettings, LdapResult, SearchEntry};

    use crate::auth::ldap::{LdapSettings, Scope, Search, Who};

    pub(super) fn is_right(
        settings: &LdapSettings,
        user: &str,
        password: &str,
        patience: Duration,
    ) -> Result<bool, String> {
        let dn = match &settings.who {
            who @ Who::Named { .. } => who.dn(user),
            Who::Searched(search) => find(settings, search, user, patience)?,
        };
        // Who is not there is bound to as well: it takes as long.
        let nobody = || match &settings.who {
            Who::Named { prefix, suffix } => format!("{prefix}nobody{suffix}"),
            Who::Searched(search) => format!("cn=nobody,{}", search.base),
        };
        let mut connection = connect(settings, patience)?;
        let bound = connection.simple_bind(&dn.clone().unwrap_or_else(nobody), password).map_err(|e| e.to_string())?;
        drop(connection.unbind());
        match bound.rc {
            0 => Ok(dn.is_some()),
            // RFC 4511: busy, unavailable, other.
            51 | 52 | 80 => Err(told("the bind", &bound)),
            _ => {
                tracing::debug!(user, result = bound.rc, "LDAP refuses the user");
                Ok(false)
            }
        }
    }

    /// The DN of the one entry that is found.
    fn find(
        settings: &LdapSettings,
        search: &Search,
        user: &str,
        patience: Duration,
    ) -> Result<Option<String>, String> {
        let mut connection = connect(settings, patience)?;
        if !search.bind_dn.is_empty() {
            let password = String::from_utf8_lossy(search.bind_password.as_bytes());
            let bound = connection.simple_bind(&search.bind_dn, &password).map_err(|e| e.to_string())?;
            if bound.rc != 0 {
                return Err(told("the bind of ldapbinddn", &bound));
            }
        }
        let scope = match search.scope {
            Scope::Base => ldap3::Scope::Base,
            Scope::One => ldap3::Scope::OneLevel,
            Scope::Sub => ldap3::Scope::Subtree,
        };
        // "1.1": no attributes.
        let found = connection
            .with_timeout(patience)
            .search(&search.base, scope, &search.filter(user), vec!["1.1"])
            .map_err(|e| format!("the search: {e}"))?;
        drop(connection.unbind());
        if found.1.rc != 0 {
            return Err(told("the search", &found.1));
        }
        let mut entries = found.0.into_iter().filter(|entry| !entry.is_ref() && !entry.is_intermediate());
        match (entries.next(), entries.next()) {
            (Some(entry), None) => Ok(Some(SearchEntry::construct(entry).dn)),
            (Some(_), Some(_)) => {
                tracing::warn!(
                    user,
                    "the search in LDAP finds more than one entry: the user is let in as none of them"
                );
                Ok(None)
            }
            (None, _) => Ok(None),
        }
    }

    fn connect(settings: &LdapSettings, patience: Duration) -> Result<LdapConn, String> {
        let mut last = "no server is configured".to_owned();
        for server in &settings.servers {
            let how = LdapConnSettings::new().set_conn_timeout(patience).set_starttls(settings.start_tls);
            match LdapConn::with_settings(how, server) {
                Ok(mut connection) => {
                    connection.with_timeout(patience);
                    return Ok(connection);
                }
                Err(why) => last = format!("{server}: {why}"),
            }
        }
        Err(last)
    }

    fn told(what: &str, result: &LdapResult) -> String {
        format!("{what} fails with result {}: {}", result.rc, result.text)
    }
}

#[cfg(not(feature = "ldap"))]
mod ldap {
    use std::time::Duration;

    use crate::auth::external::Built;
    use crate::auth::ldap::LdapSettings;

    pub(super) fn is_right(_: &LdapSettings, _: &str, _: &str, _: Duration) -> Result<bool, String> {
        Err(Built::HERE.lacks("ldap").unwrap_or_default())
    }
}

#[cfg(feature = "pam")]
mod pam {
    use std::ffi::{OsStr, OsString};

    use nonstick::{AuthnFlags, ConversationAdapter, ErrorCode, Result as PamResult, Transaction, TransactionBuilder};

    pub(super) fn is_right(service: &str, user: &str, password: &str) -> Result<bool, String> {
        let told = |what: &str, why: ErrorCode| format!("{what}: {why} (service {service})");
        let conversation = OnePassword(OsString::from(password)).into_conversation();
        let mut transaction = TransactionBuilder::new_with_service(service)
            .username(user)
            .build(conversation)
            .map_err(|why| told("PAM cannot be begun", why))?;
        let checked = transaction
            .authenticate(AuthnFlags::SILENT)
            .and_then(|()| transaction.account_management(AuthnFlags::SILENT));
        match checked {
            Ok(()) => Ok(true),
            Err(
                why @ (ErrorCode::AuthenticationError
                | ErrorCode::UserUnknown
                | ErrorCode::MaxTries
                | ErrorCode::AccountExpired
                | ErrorCode::CredentialsExpired
                | ErrorCode::CredentialsInsufficient
                | ErrorCode::NewAuthTokRequired
                | ErrorCode::PermissionDenied),
            ) => {
                tracing::debug!(user, %why, "PAM refuses the user");
                Ok(false)
            }
            // What pam_exec says when the program fails that it asks.
            Err(why @ ErrorCode::SystemError) => {
                tracing::warn!(user, service, %why, "PAM refuses the user");
                Ok(false)
            }
            Err(why) => Err(told("PAM", why)),
        }
    }

    /// Knows the password and nothing else.
    struct OnePassword(OsString);

    impl ConversationAdapter for OnePassword {
        fn prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
            Err(ErrorCode::ConversationError)
        }

        fn masked_prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
            Ok(self.0.clone())
        }

        fn error_msg(&self, _: impl AsRef<OsStr>) {}

        fn info_msg(&self, _: impl AsRef<OsStr>) {}
    }
}

#[cfg(not(feature = "pam"))]
mod pam {
    use crate::auth::external::Built;

    pub(super) fn is_right(_: &str, _: &str, _: &str) -> Result<bool, String> {
        Err(Built::HERE.lacks("pam").unwrap_or_default())
    }
}
