//! Who a client is, and how we prove to a server who we are. Pure: nonces and salts come in as arguments.
//!
//! ```text
//!   client --'p'--> login ----+                     +---- server_login <--'R'-- server
//!                             |                     |
//!                     scram::server, md5     scram::client, md5
//!                             |                     |
//!      userlist --> secret ---+---- PassThrough ----+
//! ```
//!
//! [`login`] asks the client, [`server_login`] answers the server. Both take and give message bodies only;
//! `wire` frames them. What a login taught us about the client ([`login::PassThrough`]) is what the second may need
//! to log in as that client.
//!
//! Two rules hold everywhere in here:
//! - A user that does not exist takes the same road as one with a wrong password: [`secret::Mock`].
//! - No secret is ever printed: the types that hold one have their own `Debug`.
//!
//! Deriving SCRAM keys from a password costs milliseconds. The two conversations say before a call whether it will
//! ([`login::Login::next_is_costly`], [`server_login::ServerLogin::next_is_costly`]), so that the caller can move
//! the whole conversation to a blocking thread for that one call.

pub mod external;
pub mod hba;
pub mod ldap;
pub mod login;
pub mod md5;
pub mod scram;
pub mod secret;
pub mod server_login;
pub mod userlist;

#[cfg(test)]
mod tests;
