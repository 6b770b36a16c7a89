//! Which proof a client is asked for, under `auth_type = "hba"`.

use std::net::IpAddr;

use nix::sys::socket::SockaddrStorage;

use crate::auth::external::External;
use crate::auth::hba::{Caller, Method, Way};
use crate::auth::login::Channel;
use crate::client::console::DATABASES;
use crate::client::database::Live;
use crate::config::AuthType;
use crate::error::{Error, SqlState};
use crate::net::Stream;
use crate::wire::startup::{Replication, Startup};

/// The way in of the first rule that matches, who else is asked for it, and the channel as the rule's map has it: a certificate that may stand for the user bears his
/// name. A peer that may be the user has proven enough and goes on as one who is trusted.
///
/// # Errors
/// No rule matches, the rule refuses, or the system user may not be this user: PostgreSQL's own errors.
pub(super) fn choose(
    live: &Live,
    startup: &Startup,
    stream: &Stream,
    channel: Channel,
) -> Result<(AuthType, Channel, Option<External>), Error> {
    let (user, database) = (startup.user.as_str(), startup.database.as_str());
    let address = stream.addresses().map(|(peer, _)| peer.ip().to_canonical());
    let physical_replication = startup.replication == Some(Replication::Physical);
    let tls = stream.tls().is_some();
    // The console would be open by its other name where a rule shuts it by one.
    let databases = if DATABASES.contains(&database) { &DATABASES[..] } else { &[database][..] };
    let caller = Caller { databases, user, address, tls, physical_replication, interfaces };
    let who = || {
        let host = address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
        let encryption = if caller.tls { "SSL encryption" } else { "no encryption" };
        format!("host \"{host}\", user \"{user}\", database \"{database}\", {encryption}")
    };
    let refused = |message: String| Error::client_fatal(SqlState::INVALID_AUTHORIZATION, message);
    let Some(Way { method, named }) = live.rules.find(&caller) else {
        return Err(refused(format!("no pg_hba.conf entry for {}", who())));
    };
    if *named && channel.peer_name.as_deref() != Some(user) {
        return Err(refused(format!("certificate authentication failed for user \"{user}\"")));
    }
    let auth_type = match method {
        Method::Reject => return Err(refused(format!("pg_hba.conf rejects connection for {}", who()))),
        Method::Trust => AuthType::Trust,
        Method::Md5 => AuthType::Md5,
        Method::Scram => AuthType::ScramSha256,
        Method::Password => AuthType::Plain,
        Method::Cert(map) => {
            let name = channel.peer_name.as_deref();
            let allowed = name.is_some_and(|name| live.maps.allows(map.as_deref(), name, user));
            return Ok((AuthType::Cert, Channel { peer_name: allowed.then(|| user.to_owned()), ..channel }, None));
        }
        Method::External(external) => {
            let auth_type = match external {
                External::Ldap(_) => AuthType::Ldap,
                External::Pam(_) => AuthType::Pam,
            };
            return Ok((auth_type, channel, Some(external.clone())));
        }
        Method::Peer(map) => {
            let name = stream.peer_uid().and_then(system_user);
            if !name.is_some_and(|name| live.maps.allows(map.as_deref(), &name, user)) {
                return Err(refused(format!("Peer authentication failed for user \"{user}\"")));
            }
            AuthType::Trust
        }
    };
    Ok((auth_type, channel, None))
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

/// The addresses of this machine, each with its mask.
fn interfaces() -> Vec<(IpAddr, IpAddr)> {
    let found = match nix::ifaddrs::getifaddrs() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the addresses of this machine cannot be looked up: no rule for samehost or samenet matches");
            return Vec::new();
        }
    };
    found.filter_map(|one| Some((ip(one.address?)?, ip(one.netmask?)?))).collect()
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}
