//! What is allowed but probably not meant, as the files that a configuration names show it.

use std::path::Path;

use crate::auth::secret::Secret;
use crate::auth::userlist::Userlist;
use crate::clock;
use crate::config::tls::SslMode;
use crate::config::{AuthType, Config};
use crate::net::tls;

const DAY: i64 = 24 * 60 * 60;
/// A certificate that has less left is told of: time enough to get another.
const SOON: i64 = 14 * DAY;
/// So many users are named in one warning.
const NAMED: usize = 5;

/// Adds the warnings.
pub(super) fn of(config: &Config, list: &Userlist, warnings: &mut Vec<String>) {
    let general = &config.general;
    let certificates = [("client_tls_cert_file", &general.client_tls), ("server_tls_cert_file", &general.server_tls)];
    let now = i64::try_from(clock::wall().as_secs()).unwrap_or(i64::MAX);
    // Without TLS nobody is shown one.
    for (setting, used) in certificates.into_iter().filter(|(_, used)| used.mode != SslMode::Disable) {
        let file = used.cert_file.as_deref();
        let left = file.and_then(|file| Some((file, tls::valid_until(file)?.saturating_sub(now))));
        warnings.extend(left.and_then(|(file, left)| age(setting, file, left)));
    }
    warnings.extend(useless_secrets(general.auth_type, list));
    warnings.extend(unknown_operators(config, list));
}

/// `left`: seconds until the certificate is over.
fn age(setting: &str, file: &Path, left: i64) -> Option<String> {
    let file = file.display();
    let days = |seconds: i64| match seconds.checked_div(DAY).unwrap_or_default() {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    match left {
        ..0 => Some(format!(
            "{setting} {file}: the certificate expired {} ago: others refuse it",
            days(left.saturating_neg())
        )),
        0..SOON => Some(format!("{setting} {file}: the certificate expires in {}", days(left))),
        _ => None,
    }
}

/// Users who are listed and can never log in.
fn useless_secrets(auth_type: AuthType, list: &Userlist) -> Option<String> {
    let is_md5 = |(_, secret): &(&str, &Secret)| matches!(secret, Secret::Md5(_));
    let users: Vec<&str> = list.iter().filter(is_md5).map(|(user, _)| user).collect();
    (auth_type == AuthType::ScramSha256 && !users.is_empty()).then(|| {
        format!(
            "only an md5 secret is known of {}, with which nobody can log in under auth_type scram-sha-256: list a \
             SCRAM verifier or the password, or set auth_type md5",
            names(&users)
        )
    })
}

/// Operators as whom nobody can log in by a password. The system user that runs the process gets in by the unix socket.
fn unknown_operators(config: &Config, list: &Userlist) -> Option<String> {
    let general = &config.general;
    let others_know = match general.auth_type {
        AuthType::Any | AuthType::Hba | AuthType::Ldap | AuthType::Pam => true,
        AuthType::Trust | AuthType::Cert | AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256 => {
            general.auth_user.is_some()
        }
    };
    // In `[users]` there may be one with settings and no password, which lets nobody in: the list has the others.
    let is_known = |user: &str| list.get(user).is_some();
    let operators = general.admin_users.iter().chain(&general.stats_users).map(String::as_str);
    let unknown: Vec<&str> = operators.filter(|user| !others_know && *user != "*" && !is_known(user)).collect();
    (!unknown.is_empty()).then(|| {
        format!("admin_users or stats_users name {}, and nobody can log in so: no such user is listed", names(&unknown))
    })
}

fn names(users: &[&str]) -> String {
    let some: Vec<String> = users.iter().take(NAMED).map(|user| format!("{user:?}")).collect();
    let more = users.len().saturating_sub(some.len());
    if more > 0 { format!("{} and {more} more", some.join(", ")) } else { some.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn doubts(text: &str, users: &str) -> Vec<String> {
        let config = parse(text, Path::new("t.toml")).unwrap();
        let mut warnings = Vec::new();
        of(&config, &Userlist::parse(users).unwrap(), &mut warnings);
        warnings
    }

    #[test]
    fn who_cannot_log_in_is_told() {
        let database = "[databases.a]\nhost = \"h\"\n";
        let md5 = "\"md\" \"md545f2603610af569b6155c45067268c6b\"\n\"boss\" \"x\"";
        let under = |auth: &str, more: &str| {
            doubts(&format!("[pgweir]\nauth_type = {auth:?}\nauth_file = \"f\"\n{more}{database}"), md5)
        };
        assert_eq!(under("md5", "admin_users = \"boss\"\n"), [""; 0]);
        let told = under("scram-sha-256", "");
        assert!(told.len() == 1 && told[0].starts_with("only an md5 secret is known of \"md\","), "{told:?}");
        let told = under("md5", "admin_users = \"bos\"\n");
        assert!(told.len() == 1 && told[0].contains("name \"bos\""), "{told:?}");
        let told = under("md5", "admin_users = \"bos\"\n[users.bos]\npool_size = 1\n");
        assert!(told.len() == 1 && told[0].contains("name \"bos\""), "{told:?}");
        assert_eq!(under("md5", "admin_users = \"bos\"\nauth_user = \"boss\"\n"), [""; 0]);
        let seven = ["a", "b", "c", "d", "e", "f", "g"];
        assert!(names(&seven).ends_with("\"e\" and 2 more"));
    }

    #[test]
    fn a_certificate_is_told_of_in_time() {
        let of = |left| age("client_tls_cert_file", Path::new("c.pem"), left);
        assert_eq!(of(SOON), None);
        assert!(of(SOON - 1).unwrap().ends_with("expires in 13 days"));
        assert!(of(5).unwrap().ends_with("expires in less than a day"));
        assert!(of(-DAY).unwrap().contains("expired 1 day ago"));
    }
}
