//! Whatever bytes come, from a client, a server or the auth file: no panic, no hang, and nobody gets in by chance.
//!
//! The input is split at 0xFF bytes; the pieces are the messages of each conversation.
//!
//! CVE class: buffers of SCRAM.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pgweir::auth::login::{Login, LoginRandom, PassThrough, Step};
use pgweir::auth::md5::Md5Hash;
use pgweir::auth::scram::{ClientScram, ClientSecret, ScramKeys, ScramSecret, ServerScram};
use pgweir::auth::secret::{Credential, Mock, MockKind, Password, Secret};
use pgweir::auth::server_login::{Reply, ServerCredential, ServerLogin};
use pgweir::auth::userlist::Userlist;
use pgweir::config::AuthType;

// Long and random enough that no input contains a right answer.
const PASSWORD: &[u8] = b"7Vq0sJ4wKd1zXn8mPb5t";

fuzz_target!(|data: &[u8]| {
    let messages: Vec<&[u8]> = data.split(|byte| *byte == 0xff).collect();
    let message = |at: usize| messages.get(at).copied().unwrap_or_default();

    server_side(message(0), message(1));
    client_side(message(0), message(1));
    logins(&messages);
    server_login(&messages);
    if let Ok(text) = std::str::from_utf8(data) {
        stored(text);
    }
});

/// A hostile client against our server side.
fn server_side(first: &[u8], last: &[u8]) {
    let secret = ScramSecret::from_password(PASSWORD, b"salt", 1);
    if let Ok((second, reply)) = ServerScram::new(&secret, "server").client_first(first) {
        assert!(reply.starts_with(b"r="));
        assert!(second.client_final(last).is_err(), "a client got in by chance");
    }
    let (second, _) = ServerScram::new(&secret, "server").client_first(b"n,,n=,r=client").expect("a good message");
    assert!(second.client_final(last).is_err(), "a client got in by chance");
}

/// A hostile server against our client side. With keys alone nothing is derived, so a large count costs nothing.
fn client_side(first: &[u8], last: &[u8]) {
    let client = || ClientScram::new(ClientSecret::Keys(ScramKeys::derive(PASSWORD, b"salt", 1)), "client").first().0;
    if let Ok((second, reply)) = client().server_first(first) {
        assert!(reply.starts_with(b"c=biws,r=client"));
        assert!(second.server_final(last).is_err(), "a server was believed by chance");
    }
    let (second, _) = client().server_first(b"r=clientserver,s=c2FsdA==,i=1").expect("a good message");
    assert!(second.server_final(last).is_err(), "a server was believed by chance");
}

/// All kinds of login, with all kinds of secret.
fn logins(messages: &[&[u8]]) {
    let mock = Arc::new(Mock::new([7; 32], MockKind::Scram, 1));
    let random = LoginRandom { md5_salt: [1, 2, 3, 4], scram_nonce: [5; 18] };
    let secrets = [
        None,
        Some(Secret::Absent),
        Some(Secret::Clear(Password::new(PASSWORD))),
        Some(Secret::Md5(Md5Hash::of(PASSWORD, "ann"))),
        Some(Secret::Scram(ScramSecret::from_password(PASSWORD, b"salt", 1))),
    ];
    for auth_type in [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256] {
        for secret in &secrets {
            let credential = secret.clone().map(|secret| Arc::new(Credential::new(secret, 1)));
            let mut login = Login::new(auth_type, "ann", credential, mock.clone(), random);
            assert!(matches!(login.start(), Step::Ask(_)));
            for message in messages {
                assert!(!matches!(login.answer(message), Step::Accepted(_)), "a client got in by chance");
            }
        }
    }
}

/// The first byte of each message is the request's code.
fn server_login(messages: &[&[u8]]) {
    let keys = PassThrough::Keys(ScramKeys::derive(PASSWORD, b"salt", 1));
    let mut login = ServerLogin::new("ann", ServerCredential::new(None, &keys), "client");
    let mut done = false;
    for message in messages {
        let Some((code, rest)) = message.split_first() else { continue };
        let outcome = login.request(u32::from(*code), rest);
        assert!(!(done && outcome.is_ok()), "a login that was over went on");
        done |= outcome == Ok(Reply::Done);
        assert!(!matches!(outcome, Ok(Reply::Wait)), "a server was believed by chance");
    }
}

/// The auth file and what may stand in it.
fn stored(text: &str) {
    if let Ok(Secret::Scram(secret)) = Secret::parse(text) {
        let again = ScramSecret::parse(&secret.to_secret_string());
        assert_eq!(again.as_ref(), Ok(&secret));
    }
    match Userlist::parse(text) {
        Ok(list) => assert!(list.len() <= text.lines().count()),
        Err(errors) => assert!(!errors.is_empty()),
    }
}
