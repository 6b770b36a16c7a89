//! Which proof a client is asked for, under `auth_type = "hba"`.

use crate::auth::hba::{Caller, Method};
use crate::auth::login::Channel;
use crate::client::database::Live;
use crate::config::AuthType;
use crate::error::{Error, SqlState};
use crate::net::Stream;
use crate::wire::startup::{Replication, Startup};

/// The way in of the first rule that matches, and the channel as its map has it: a certificate that may stand for the user bears his
/// name. A peer that may be the user has proven enough and goes on as one who is trusted.
///
/// # Errors
/// No rule matches, the rule refuses, or the system user may not be this user: PostgreSQL's own errors.
pub(super) fn choose(
    live: &Live,
    startup: &Startup,
    stream: &Stream,
    channel: Channel,
) -> Result<(AuthType, Channel), Error> {
    let (user, database) = (startup.user.as_str(), startup.database.as_str());
    let address = stream.addresses().map(|(peer, _)| peer.ip().to_canonical());
    let physical_replication = startup.replication == Some(Replication::Physical);
    let caller = Caller { database, user, address, tls: stream.tls().is_some(), physical_replication };
    let who = || {
        let host = address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
        let encryption = if caller.tls { "SSL encryption" } else { "no encryption" };
        format!("host \"{host}\", user \"{user}\", database \"{database}\", {encryption}")
    };
    let refused = |message: String| Error::client_fatal(SqlState::INVALID_AUTHORIZATION, message);
    let auth_type = match live.rules.find(&caller) {
        None => return Err(refused(format!("no pg_hba.conf entry for {}", who()))),
        Some(Method::Reject) => return Err(refused(format!("pg_hba.conf rejects connection for {}", who()))),
        Some(Method::Trust) => AuthType::Trust,
        Some(Method::Md5) => AuthType::Md5,
        Some(Method::Scram) => AuthType::ScramSha256,
        Some(Method::Password) => AuthType::Plain,
        Some(Method::Cert(map)) => {
            let name = channel.peer_name.as_deref();
            let allowed = name.is_some_and(|name| live.maps.allows(map.as_deref(), name, user));
            return Ok((AuthType::Cert, Channel { peer_name: allowed.then(|| user.to_owned()), ..channel }));
        }
        Some(Method::Peer(map)) => {
            let name = stream.peer_uid().and_then(system_user);
            if !name.is_some_and(|name| live.maps.allows(map.as_deref(), &name, user)) {
                return Err(refused(format!("Peer authentication failed for user \"{user}\"")));
            }
            AuthType::Trust
        }
    };
    Ok((auth_type, channel))
}

/// The name of a user of the system.
fn system_user(uid: u32) -> Option<String> {
    match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)) {
        Ok(user) => user.map(|user| user.name),
        Err(error) => {
            tracing::warn!(uid, %error, "the name of a system user cannot be looked up");
            None
        }
    }
}
