//! Who may run which console command.
//!
//! Every command is asked on its own, in one match that names each of them: a command that is added does not compile
//! before somebody has decided.

use super::parse::{Command, Show};
use crate::config::{AuthType, General};
use crate::error::{Error, Result, SqlState};

/// What a console user may do; [`Right::Admin`] includes [`Right::Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Look (`stats_users`).
    Stats,
    /// Look and act (`admin_users`).
    Admin,
}

impl Right {
    /// The right of a user; none: the console is closed to him. With `auth_type = any` nobody proves anything, and everyone may look.
    /// `checked`: whether he came in otherwise. A name that was only claimed counts for nothing when `auth_type` has become another
    /// since.
    #[must_use]
    pub fn of(user: &str, checked: bool, general: &General) -> Option<Self> {
        Self::among((user, checked), general.auth_type, &general.admin_users, &general.stats_users)
    }

    fn among((user, checked): (&str, bool), auth_type: AuthType, admins: &[String], stats: &[String]) -> Option<Self> {
        let is_in = |list: &[String]| list.iter().any(|u| u == user);
        match auth_type {
            AuthType::Any => Some(Self::Stats),
            _ if !checked => None,
            _ if is_in(admins) => Some(Self::Admin),
            _ if is_in(stats) => Some(Self::Stats),
            _ => None,
        }
    }
}

impl Command {
    /// The right it takes.
    #[must_use]
    pub fn required_right(&self) -> Right {
        match self {
            Self::Empty
            | Self::NoOp { .. }
            | Self::ShowParameter(_)
            | Self::ShowSlot { .. }
            | Self::ExplainRoute { .. } => Right::Stats,
            Self::Show(show) => match show {
                Show::Help
                | Show::Config
                | Show::Databases
                | Show::Pools
                | Show::Clients
                | Show::Servers
                | Show::Sockets
                | Show::ActiveSockets
                | Show::Lists
                | Show::Users
                | Show::Version
                | Show::State
                | Show::Stats
                | Show::StatsTotals
                | Show::StatsAverages
                | Show::Totals
                | Show::Replicas
                | Show::Shards
                | Show::Tables
                | Show::Mem
                | Show::DnsHosts
                | Show::DnsZones
                | Show::Peers
                | Show::PeerPools => Right::Stats,
                // File descriptors give connections away; the texts of statements carry the clients' data.
                Show::Fds | Show::Pins | Show::Prepared | Show::Queries => Right::Admin,
            },
            Self::Reload
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Shutdown(_)
            | Self::Disable(_)
            | Self::Enable(_)
            | Self::Reconnect(_)
            | Self::Kill(_)
            | Self::KillClient(_)
            | Self::Suspend
            | Self::WaitClose(_)
            | Self::Set { .. } => Right::Admin,
        }
    }

    /// Checks that someone with this right may run it.
    ///
    /// # Errors
    /// 42501 if not.
    pub fn authorise(&self, granted: Right) -> Result<()> {
        if granted >= self.required_right() {
            return Ok(());
        }
        let what = match self {
            Self::Show(show) => format!("SHOW {}", show.name()),
            other => other.tag().to_owned(),
        };
        Err(Error::us(SqlState::INSUFFICIENT_PRIVILEGE, format!("permission denied for {what}"))
            .hint("Only the users in admin_users may run it."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_say_who_is_who() {
        let (admins, stats) = (["root".to_owned(), "both".to_owned()], ["eye".to_owned(), "both".to_owned()]);
        let of = |user, auth_type| Right::among((user, true), auth_type, &admins, &stats);
        assert_eq!(of("root", AuthType::ScramSha256), Some(Right::Admin));
        assert_eq!(of("both", AuthType::Md5), Some(Right::Admin));
        assert_eq!(of("eye", AuthType::Trust), Some(Right::Stats));
        assert_eq!(of("Root", AuthType::ScramSha256), None);
        assert_eq!(of("", AuthType::ScramSha256), None);
        assert_eq!(of("root", AuthType::Any), Some(Right::Stats), "whoever says root is not proven to be root");
        let claimed = |auth_type| Right::among(("root", false), auth_type, &admins, &stats);
        assert_eq!(claimed(AuthType::Any), Some(Right::Stats));
        assert_eq!(claimed(AuthType::ScramSha256), None, "a reload proves nothing either");
    }

    /// CVE class: a console command without a check of its own.
    #[test]
    fn those_who_may_look_may_only_look() {
        for text in [
            "",
            "BEGIN",
            "SHOW POOLS",
            "SHOW CONFIG",
            "SELECT version()",
            "EXPLAIN ROUTE 'x'",
            "SET application_name = 'x'",
        ] {
            assert_eq!(Command::parse(text).unwrap().authorise(Right::Stats), Ok(()), "{text}");
        }
        for text in [
            "RELOAD",
            "PAUSE",
            "PAUSE shop",
            "RESUME",
            "SHUTDOWN",
            "SHUTDOWN WAIT_FOR_CLIENTS",
            "DISABLE a",
            "ENABLE a",
            "RECONNECT",
            "KILL a",
            "KILL_CLIENT 1",
            "SUSPEND",
            "WAIT_CLOSE",
            "SET pool_mode = session",
            "SHOW FDS",
            "SHOW PINS",
            "SHOW PREPARED",
            "SHOW QUERIES",
        ] {
            let command = Command::parse(text).unwrap();
            let error = command.authorise(Right::Stats).unwrap_err();
            assert_eq!(error.sqlstate, SqlState::INSUFFICIENT_PRIVILEGE, "{text}");
            assert_eq!(command.authorise(Right::Admin), Ok(()), "{text}");
        }
    }
}
