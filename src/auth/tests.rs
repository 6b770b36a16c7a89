//! The two login conversations, alone and against each other.

use std::sync::Arc;

use proptest::prelude::*;

use super::login::{Accepted, AuthRequest, Login, LoginRandom, MAX_PASSWORD, PassThrough, Step, wrong_password};
use super::md5::Md5Hash;
use super::scram::{ScramKeys, ScramSecret, nonce};
use super::secret::{Credential, Mock, MockKind, Password, Secret};
use super::server_login::{Answer, Reply, ServerCredential, ServerLogin};
use crate::config::AuthType;
use crate::error::{Error, Origin, Severity, SqlState};

const RANDOM: LoginRandom = LoginRandom { md5_salt: [1, 2, 3, 4], scram_nonce: [5; 18] };
const PASSWORD: &[u8] = b"pencil";

fn mock(kind: MockKind) -> Arc<Mock> {
    Arc::new(Mock::new([3; 32], kind, 2))
}

fn login(auth_type: AuthType, secret: Option<Secret>) -> Login {
    login_as(auth_type, secret, MockKind::Md5)
}

fn login_as(auth_type: AuthType, secret: Option<Secret>, kind: MockKind) -> Login {
    Login::new(auth_type, "ann", secret.map(|secret| Arc::new(Credential::new(secret, 2))), mock(kind), RANDOM)
}

fn clear() -> Secret {
    Secret::Clear(Password::new(PASSWORD))
}

fn md5() -> Secret {
    Secret::Md5(Md5Hash::of(PASSWORD, "ann"))
}

fn scram() -> Secret {
    Secret::Scram(ScramSecret::from_password(PASSWORD, b"salt", 2))
}

fn with_password(password: &[u8]) -> ServerCredential {
    ServerCredential::new(Some(&Secret::Clear(Password::new(password))), &PassThrough::Nothing)
}

/// Our server side against our client side. Gives the requests that the client saw, and how it ended.
fn converse(mut server: Login, credential: ServerCredential) -> (Vec<u32>, Result<PassThrough, Error>) {
    let mut client = ServerLogin::new("ann", credential, &nonce(&[6; 18]));
    let mut codes = Vec::new();
    let mut step = server.start();
    loop {
        let requests = match &step {
            Step::Check(password) => {
                step = server.checked(password.matches(PASSWORD));
                continue;
            }
            Step::Ask(request) => std::slice::from_ref(request),
            Step::Accepted(Accepted { send, .. }) => send.as_slice(),
            Step::Failed(error) => return (codes, Err(error.clone())),
        };
        let mut answer = None;
        for request in requests {
            let body = request.body();
            let (code, rest) = body.split_first_chunk::<4>().unwrap();
            codes.push(u32::from_be_bytes(*code));
            match client.request(u32::from_be_bytes(*code), rest) {
                Ok(Reply::Send(Answer(body))) => answer = Some(body),
                Ok(Reply::Wait) => {}
                Ok(Reply::Done) => assert_eq!(*request, AuthRequest::Ok),
                Err(error) => return (codes, Err(error)),
            }
        }
        if let Step::Accepted(accepted) = step {
            return (codes, Ok(accepted.pass_through));
        }
        step = server.answer(&answer.unwrap());
    }
}

const CLEARTEXT: &[u32] = &[3, 0];
const MD5: &[u32] = &[5, 0];
const SCRAM: &[u32] = &[10, 11, 12, 0];

#[test]
fn every_auth_type_with_every_kind_of_secret() {
    for (auth_type, secret, expected) in [
        (AuthType::Plain, clear(), Some(CLEARTEXT)),
        (AuthType::Plain, md5(), Some(CLEARTEXT)),
        (AuthType::Plain, scram(), Some(CLEARTEXT)),
        (AuthType::Plain, Secret::Absent, None),
        (AuthType::Md5, clear(), Some(MD5)),
        (AuthType::Md5, md5(), Some(MD5)),
        (AuthType::Md5, scram(), Some(SCRAM)),
        (AuthType::Md5, Secret::Absent, None),
        (AuthType::ScramSha256, clear(), Some(SCRAM)),
        (AuthType::ScramSha256, md5(), None),
        (AuthType::ScramSha256, scram(), Some(SCRAM)),
        (AuthType::ScramSha256, Secret::Absent, None),
        (AuthType::Trust, Secret::Absent, Some(&[0])),
        (AuthType::Any, Secret::Absent, Some(&[0])),
    ] {
        let (codes, outcome) = converse(login(auth_type, Some(secret.clone())), with_password(PASSWORD));
        match expected {
            Some(expected) => {
                assert!(outcome.is_ok(), "{auth_type:?} {secret:?} {outcome:?}");
                assert_eq!(codes, expected, "{auth_type:?} {secret:?}");
            }
            None => assert_eq!(outcome, Err(wrong_password("ann")), "{auth_type:?} {secret:?}"),
        }
        let asks = !matches!(auth_type, AuthType::Trust | AuthType::Any);
        if asks {
            let (_, outcome) = converse(login(auth_type, Some(secret.clone())), with_password(b"wrong"));
            assert_eq!(outcome, Err(wrong_password("ann")), "{auth_type:?} {secret:?}");
        }
    }
}

#[test]
fn an_empty_password_never_gets_in() {
    for secret in [Secret::Md5(Md5Hash::of(b"", "ann")), Secret::Scram(ScramSecret::from_password(b"", b"salt", 2))] {
        let mut login = login(AuthType::Plain, Some(secret));
        login.start();
        assert_eq!(login.answer(b"\0"), Step::Failed(wrong_password("ann")));
    }
    // A stranger under md5 who answers for the empty password, which is what he is checked against.
    let (_, outcome) = converse(login(AuthType::Md5, None), with_password(b""));
    assert_eq!(outcome, Err(wrong_password("ann")));
}

#[test]
fn a_stranger_sees_what_a_user_with_a_wrong_password_sees() {
    for (auth_type, secret, kind) in [
        (AuthType::Plain, clear(), MockKind::Md5),
        (AuthType::Plain, scram(), MockKind::Scram),
        (AuthType::Md5, md5(), MockKind::Md5),
        (AuthType::Md5, scram(), MockKind::Scram),
        (AuthType::ScramSha256, clear(), MockKind::Md5),
        (AuthType::ScramSha256, scram(), MockKind::Scram),
    ] {
        let known = converse(login_as(auth_type, Some(secret), kind), with_password(b"wrong"));
        let stranger = converse(login_as(auth_type, None, kind), with_password(b"wrong"));
        assert_eq!(known, stranger, "{auth_type:?}");
        assert_eq!(stranger.1.unwrap_err().sqlstate, SqlState::INVALID_PASSWORD);
    }
}

#[test]
fn a_stranger_is_shown_the_same_salt_as_a_user_with_a_clear_password() {
    let first = |secret| {
        let mut login = login(AuthType::ScramSha256, secret);
        login.start();
        login.answer(&initial(b"SCRAM-SHA-256", 13, b"n,,n=,r=abcde"))
    };
    assert_eq!(first(Some(clear())), first(None));
    assert!(matches!(first(None), Step::Ask(AuthRequest::SaslContinue(_))));
}

#[test]
fn trust_needs_a_user_and_any_does_not() {
    let Step::Failed(error) = login(AuthType::Trust, None).start() else { panic!("a stranger was trusted") };
    assert_eq!((error.sqlstate, error.severity), (SqlState::INVALID_AUTHORIZATION, Severity::Fatal));
    assert!(matches!(login(AuthType::Any, None).start(), Step::Accepted(_)));
}

#[test]
fn what_a_login_teaches_lets_us_in_elsewhere() {
    let (_, outcome) = converse(login(AuthType::Plain, Some(scram())), with_password(PASSWORD));
    let pass_through = outcome.unwrap();
    assert_eq!(pass_through, PassThrough::Password(Password::new(PASSWORD)));
    let credential = ServerCredential::new(Some(&scram()), &pass_through);
    assert!(converse(login(AuthType::Md5, Some(md5())), credential).1.is_ok());

    let (_, outcome) = converse(login(AuthType::ScramSha256, Some(scram())), with_password(PASSWORD));
    let credential = ServerCredential::new(Some(&scram()), &outcome.unwrap());
    assert!(converse(login(AuthType::ScramSha256, Some(scram())), credential.clone()).1.is_ok());
    let other = Secret::Scram(ScramSecret::from_password(PASSWORD, b"pepper", 2));
    let error = converse(login(AuthType::ScramSha256, Some(other)), credential.clone()).1.unwrap_err();
    assert!(error.hint.unwrap().contains("pg_authid.rolpassword"));
    let error = converse(login(AuthType::Md5, Some(md5())), credential).1.unwrap_err();
    assert!(error.detail.unwrap().contains("only SCRAM keys are known"));
}

#[test]
fn a_stored_md5_hash_answers_md5_requests_alone() {
    let credential = ServerCredential::new(Some(&md5()), &PassThrough::Nothing);
    assert!(converse(login(AuthType::Md5, Some(clear())), credential.clone()).1.is_ok());
    for auth_type in [AuthType::Plain, AuthType::ScramSha256] {
        let error = converse(login(auth_type, Some(clear())), credential.clone()).1.unwrap_err();
        assert_eq!(error.origin, Origin::Us);
        assert!(error.detail.unwrap().contains("only an MD5 hash is known"));
    }
}

#[test]
fn a_stored_verifier_alone_cannot_log_in_and_says_so() {
    let credential = ServerCredential::new(Some(&scram()), &PassThrough::Nothing);
    let error = converse(login(AuthType::ScramSha256, Some(scram())), credential).1.unwrap_err();
    assert_eq!((error.origin, error.sqlstate), (Origin::Us, SqlState::CANNOT_CONNECT));
    assert!(error.detail.unwrap().contains("cannot be used to log in"));
    assert!(error.hint.unwrap().contains("clear text"));
    let error = converse(login(AuthType::Md5, Some(md5())), ServerCredential::default()).1.unwrap_err();
    assert!(error.detail.unwrap().contains("no password is known"));
}

#[test]
fn keys_of_an_earlier_login_save_the_derivation() {
    let mut client = ServerLogin::new("ann", with_password(PASSWORD), "cnonce");
    assert!(!client.next_is_costly());
    client.request(10, b"SCRAM-SHA-256\0\0").unwrap();
    assert!(client.next_is_costly());
    let mut server = login(AuthType::ScramSha256, Some(scram()));
    server.start();
    let Step::Ask(AuthRequest::SaslContinue(first)) = server.answer(&initial(b"SCRAM-SHA-256", 14, b"n,,n=,r=cnonce"))
    else {
        panic!("no answer")
    };
    let Reply::Send(Answer(last)) = client.request(11, &first).unwrap() else { panic!("no answer") };
    assert!(!client.next_is_costly());
    assert_eq!(client.keys(), None);
    let Step::Accepted(accepted) = server.answer(&last) else { panic!("refused") };
    let AuthRequest::SaslFinal(signature) = &accepted.send[0] else { panic!("no signature") };
    assert_eq!(client.request(12, signature), Ok(Reply::Wait));
    assert_eq!(client.request(0, b""), Ok(Reply::Done));
    let keys = client.keys().unwrap().clone();
    assert_eq!(accepted.pass_through, PassThrough::Keys(keys.clone()));

    let mut client = ServerLogin::new("ann", with_password(PASSWORD).with_keys(keys), "cnonce");
    client.request(10, b"SCRAM-SHA-256\0\0").unwrap();
    assert!(client.next_is_costly(), "they may not fit");
}

#[test]
fn costly_steps_announce_themselves() {
    let costly = |auth_type, secret, kind| {
        let mut login = login_as(auth_type, secret, kind);
        assert!(!login.next_is_costly());
        login.start();
        login.next_is_costly()
    };
    assert!(costly(AuthType::Plain, Some(scram()), MockKind::Md5));
    assert!(!costly(AuthType::Plain, Some(clear()), MockKind::Md5));
    assert!(costly(AuthType::Plain, None, MockKind::Scram));
    assert!(!costly(AuthType::Plain, None, MockKind::Md5));
    assert!(costly(AuthType::ScramSha256, Some(clear()), MockKind::Md5));
    assert!(!costly(AuthType::ScramSha256, Some(scram()), MockKind::Md5));
    assert!(!costly(AuthType::ScramSha256, None, MockKind::Scram));

    // Where verifiers are made at every login, a stranger's takes as long.
    let seen = clear().example(2);
    for (secret, expected) in [(None, true), (Some(Secret::Absent), true), (Some(clear()), true), (Some(scram()), true)]
    {
        let credential = secret.map(|secret| Arc::new(Credential::new(secret, 2)));
        let strange = Arc::new(mock(MockKind::Md5).like(seen));
        let mut login = Login::new(AuthType::ScramSha256, "ann", credential, strange, RANDOM);
        login.start();
        assert_eq!(login.next_is_costly(), expected);
        assert!(matches!(login.answer(&initial(b"SCRAM-SHA-256", 13, b"n,,n=,r=abcde")), Step::Ask(_)));
    }

    // As long as verifiers are being made for some, everybody takes as long as they.
    let (busy, known) = (mock(MockKind::Md5), Arc::new(Credential::new(clear(), 2)));
    known.scram("ann", &busy);
    let is_costly = |secret: Option<Arc<Credential>>| {
        let mut login = Login::new(AuthType::ScramSha256, "ann", secret, Arc::clone(&busy), RANDOM);
        login.start();
        login.next_is_costly()
    };
    for deriving in [true, false] {
        busy.set_deriving(deriving);
        for secret in [None, Some(Arc::clone(&known)), Some(Arc::new(Credential::new(scram(), 2)))] {
            assert_eq!(is_costly(secret), deriving);
        }
        assert!(is_costly(Some(Arc::new(Credential::new(clear(), 2)))));
    }

    // The second login of a user finds the verifier that the first derived.
    let credential = Arc::new(Credential::new(clear(), 4096));
    for expected in [true, false] {
        let mut login = Login::new(AuthType::ScramSha256, "ann", Some(credential.clone()), mock(MockKind::Md5), RANDOM);
        login.start();
        assert_eq!(login.next_is_costly(), expected);
        login.answer(&initial(b"SCRAM-SHA-256", 13, b"n,,n=,r=abcde"));
    }
}

fn initial(mechanism: &[u8], length: i32, data: &[u8]) -> Vec<u8> {
    [mechanism, &[0], &length.to_be_bytes(), data].concat()
}

#[test]
fn malformed_password_messages() {
    let long = [vec![b'x'; MAX_PASSWORD], vec![0]].concat();
    for auth_type in [AuthType::Plain, AuthType::Md5] {
        for body in [&b""[..], b"pencil", b"pencil\0\0", b"pen\0cil\0", b"pencil\0x", &long] {
            let mut login = login(auth_type, Some(clear()));
            login.start();
            let Step::Failed(error) = login.answer(body) else { panic!("accepted {}", body.len()) };
            assert_eq!((error.sqlstate, error.severity), (SqlState::PROTOCOL_VIOLATION, Severity::Fatal));
        }
    }
}

#[test]
fn malformed_sasl_initial_responses() {
    let first = b"n,,n=,r=abcde";
    for body in [
        initial(b"SCRAM-SHA-256", 12, first),
        initial(b"SCRAM-SHA-256", 14, first),
        initial(b"SCRAM-SHA-256", -1, first),
        initial(b"SCRAM-SHA-256", -2, first),
        initial(b"SCRAM-SHA-256", i32::MAX, first),
        initial(b"SCRAM-SHA-256-PLUS", 13, first),
        initial(b"scram-sha-256", 13, first),
        initial(b"", 13, first),
        initial(b"SCRAM-SHA-256", 0, b""),
        b"SCRAM-SHA-256".to_vec(),
        b"SCRAM-SHA-256\0\0\0\0".to_vec(),
        b"".to_vec(),
        vec![b'x'; 10_000],
    ] {
        let mut login = login(AuthType::ScramSha256, Some(scram()));
        login.start();
        let Step::Failed(error) = login.answer(&body) else { panic!("accepted {body:?}") };
        assert_eq!((error.sqlstate, error.severity), (SqlState::PROTOCOL_VIOLATION, Severity::Fatal));
    }
}

#[test]
fn the_first_message_may_come_late() {
    let mut login = login(AuthType::ScramSha256, Some(scram()));
    login.start();
    let step = login.answer(&initial(b"SCRAM-SHA-256", -1, b""));
    assert_eq!(step, Step::Ask(AuthRequest::SaslContinue(Vec::new())));
    assert!(matches!(login.answer(b"n,,n=,r=abcde"), Step::Ask(AuthRequest::SaslContinue(first)) if !first.is_empty()));
}

#[test]
fn a_login_that_is_over_stays_over() {
    let mut early = login(AuthType::Plain, Some(clear()));
    assert!(matches!(early.answer(b"pencil\0"), Step::Failed(_)));
    let mut login = login(AuthType::Plain, Some(clear()));
    login.start();
    assert!(matches!(login.answer(b"wrong\0"), Step::Failed(_)));
    let Step::Failed(error) = login.answer(b"pencil\0") else { panic!("a second try was taken") };
    assert_eq!(error.sqlstate, SqlState::PROTOCOL_VIOLATION);
}

#[test]
fn request_bodies() {
    assert_eq!(AuthRequest::Ok.body(), [0, 0, 0, 0]);
    assert_eq!(AuthRequest::CleartextPassword.body(), [0, 0, 0, 3]);
    assert_eq!(AuthRequest::Md5 { salt: [9, 8, 7, 6] }.body(), [0, 0, 0, 5, 9, 8, 7, 6]);
    assert_eq!(AuthRequest::Sasl { mechanisms: &["A", "BC"] }.body(), b"\0\0\0\x0aA\0BC\0\0");
    assert_eq!(AuthRequest::SaslContinue(b"x".to_vec()).body(), b"\0\0\0\x0bx");
    assert_eq!(AuthRequest::SaslFinal(b"y".to_vec()).body(), b"\0\0\0\x0cy");
}

#[test]
fn answers_to_servers_have_the_layout_of_the_protocol() {
    let answer = |code, rest: &[u8]| match ServerLogin::new("ann", with_password(PASSWORD), "abc").request(code, rest) {
        Ok(Reply::Send(Answer(body))) => body,
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(3, b""), b"pencil\0");
    let md5 = answer(5, &[1, 2, 3, 4]);
    assert_eq!((md5.len(), &md5[..3], md5[35]), (36, &b"md5"[..], 0));
    assert_eq!(answer(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"), b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc");
}

#[test]
fn a_server_may_not_skip_or_repeat_steps() {
    // Each row: requests that are fine, then one that is not.
    let sasl = (10, &b"SCRAM-SHA-256\0\0"[..]);
    let first = (11, &b"r=abcd,s=QSXCR+Q6sek8bf92,i=1"[..]);
    for (fine, bad) in [
        (&[sasl][..], (0, &b""[..])),
        (&[sasl, first], (0, b"")),
        (&[sasl], (3, b"")),
        (&[sasl], (5, &[1, 2, 3, 4])),
        (&[sasl], sasl),
        (&[sasl], (12, b"v=AAAA")),
        (&[sasl, first], first),
        (&[sasl, first], (3, b"")),
        (&[(3, b"")], (3, b"")),
        (&[(3, b"")], (5, &[1, 2, 3, 4])),
        (&[(5, &[1, 2, 3, 4])], sasl),
        (&[(0, b"")], (0, b"")),
        (&[], first),
        (&[], (12, b"v=AAAA")),
        (&[], (0, b"x")),
        (&[], (3, b"x")),
        (&[], (5, b"abc")),
        (&[], (10, b"SCRAM-SHA-256\0")),
        (&[], (10, b"")),
    ] {
        let mut login = ServerLogin::new("ann", with_password(PASSWORD), "abc");
        for (code, rest) in fine {
            login.request(*code, rest).unwrap();
        }
        let error = login.request(bad.0, bad.1).unwrap_err();
        assert_eq!((error.origin, error.sqlstate), (Origin::Server, SqlState::PROTOCOL_VIOLATION), "{fine:?} {bad:?}");
        // And there is no way on from there.
        assert!(login.request(0, b"").is_err());
    }
}

#[test]
fn an_ok_before_the_servers_proof_is_named_as_what_it_is() {
    let mut login = ServerLogin::new("ann", with_password(PASSWORD), "abc");
    login.request(10, b"SCRAM-SHA-256\0\0").unwrap();
    login.request(11, b"r=abcd,s=QSXCR+Q6sek8bf92,i=1").unwrap();
    assert!(login.request(0, b"").unwrap_err().detail.unwrap().contains("impostor"));
}

#[test]
fn unsupported_requests_are_named() {
    for (code, name) in [(2, "Kerberos V5"), (6, "SCM"), (7, "GSSAPI"), (9, "SSPI"), (77, "77")] {
        let error = ServerLogin::new("ann", with_password(PASSWORD), "abc").request(code, b"").unwrap_err();
        assert!(error.message.contains(name), "{error}");
    }
    let error = ServerLogin::new("ann", with_password(PASSWORD), "abc").request(10, b"OAUTHBEARER\0\0").unwrap_err();
    assert!(error.hint.unwrap().contains("SCRAM-SHA-256"));
}

#[test]
fn conversations_print_no_secret() {
    let mut login = login(AuthType::ScramSha256, Some(clear()));
    login.start();
    login.answer(&initial(b"SCRAM-SHA-256", 13, b"n,,n=,r=abcde"));
    let mut client = ServerLogin::new("ann", with_password(PASSWORD), "abc");
    let reply = client.request(3, b"");
    let shown = format!("{login:?} {client:?} {reply:?} {:?}", PassThrough::Password(Password::new(PASSWORD)));
    assert!(!shown.contains("pencil") && !shown.contains("112, 101, 110"), "{shown}");
}

proptest! {
    #[test]
    fn both_conversations_agree(text in "[^\\x00]{1,16}", wrong in "[^\\x00]{1,16}") {
        let secret = || Secret::Clear(Password::new(text.as_bytes()));
        for auth_type in [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256] {
            prop_assert!(converse(login(auth_type, Some(secret())), with_password(text.as_bytes())).1.is_ok());
        }
        if wrong != text {
            for auth_type in [AuthType::Plain, AuthType::Md5] {
                prop_assert!(converse(login(auth_type, Some(secret())), with_password(wrong.as_bytes())).1.is_err());
            }
        }
    }

    #[test]
    fn no_answer_panics_or_gets_in(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..4)) {
        for (auth_type, secret) in [(AuthType::Plain, md5()), (AuthType::Md5, md5()), (AuthType::ScramSha256, scram())] {
            let mut login = login(auth_type, Some(secret));
            login.start();
            for body in &bodies {
                prop_assert!(!matches!(login.answer(body), Step::Accepted(_)));
            }
        }
    }

    #[test]
    fn no_request_panics(requests in prop::collection::vec((0..14u32, prop::collection::vec(any::<u8>(), 0..40)), 1..6)) {
        let mut login = ServerLogin::new("ann", with_password(PASSWORD), "abc");
        let mut done = 0;
        for (code, rest) in requests {
            done += usize::from(login.request(code, &rest) == Ok(Reply::Done));
        }
        prop_assert!(done <= 1);
    }
}

#[test]
fn the_better_mechanism_is_taken_where_there_is_tls() {
    let end_point: Arc<[u8]> = Arc::from([7; 32]);
    let credential = ServerCredential::new(Some(&Secret::Clear(Password::new(b"x"))), &PassThrough::Nothing);
    let chosen = |end_point: Option<&Arc<[u8]>>, offer: &[u8]| {
        let mut login = ServerLogin::new("u", credential.clone(), "nonce").over(end_point.cloned());
        let Ok(Reply::Send(answer)) = login.request(10, offer) else { panic!("an answer") };
        let name = answer.0.split(|b| *b == 0).next().unwrap().to_vec();
        let header = answer.0[name.len() + 5..].iter().copied().take_while(|b| *b != b',').collect();
        (String::from_utf8(name).unwrap(), String::from_utf8(header).unwrap())
    };
    let pair = |name: &str, header: &str| (name.to_owned(), header.to_owned());
    let both = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    assert_eq!(chosen(Some(&end_point), both), pair("SCRAM-SHA-256-PLUS", "p=tls-server-end-point"));
    assert_eq!(chosen(Some(&end_point), b"SCRAM-SHA-256\0\0"), pair("SCRAM-SHA-256", "y"));
    assert_eq!(chosen(None, both), pair("SCRAM-SHA-256", "n"));
}

/// A login that taught nothing is served by what another login of the same user taught; never the other way round, and never across secrets.
#[test]
fn a_credential_covers_what_knows_less() {
    let taught = |password: &[u8]| PassThrough::Password(Password::new(password));
    let stored = Some(scram());
    let credential = |secret: &Option<Secret>, taught: &PassThrough| ServerCredential::new(secret.as_ref(), taught);
    let (nothing, one, two) = (
        credential(&stored, &PassThrough::Nothing),
        credential(&stored, &taught(b"1")),
        credential(&stored, &taught(b"2")),
    );
    assert!(one.covers(&nothing) && one.covers(&one) && nothing.covers(&nothing));
    assert!(!nothing.covers(&one) && !one.covers(&two));
    let other = credential(&None, &PassThrough::Nothing);
    assert!(!one.covers(&other) && !other.covers(&nothing));
}

/// The frames of a client's login to us by SCRAM, and then of ours to a server that stores another verifier of the same password.
#[test]
fn keys_of_a_verifier_of_our_own_are_not_kept() {
    let (_, taught) = converse(login(AuthType::ScramSha256, Some(clear())), with_password(PASSWORD));
    let taught = taught.unwrap();
    assert!(matches!(taught, PassThrough::Keys(_)));
    let credential = ServerCredential::new(Some(&clear()), &taught);
    assert_eq!(credential, ServerCredential::new(Some(&clear()), &PassThrough::Nothing));
    let mut client = ServerLogin::new("ann", credential, "cnonce");
    client.request(10, b"SCRAM-SHA-256\0\0").unwrap();
    assert!(client.next_is_costly(), "the next step makes keys");
}

#[test]
fn logins_by_several_ways_know_together_what_each_taught() {
    let keys = |salt: &[u8]| PassThrough::Keys(ScramKeys::derive(PASSWORD, salt, 2));
    let password = PassThrough::Password(Password::new(PASSWORD));
    let of = |secret: &Secret, taught: &PassThrough| ServerCredential::new(Some(secret), taught);
    let (by_keys, by_password) = (of(&scram(), &keys(b"a")), of(&scram(), &password));
    assert!(!by_keys.covers(&by_password) && !by_password.covers(&by_keys));
    let both = by_keys.merged(&by_password).unwrap();
    assert!(both.covers(&by_keys) && both.covers(&by_password));
    assert_eq!(by_password.merged(&by_keys), Some(both));
    // What contradicts what is known takes its place.
    assert_eq!(by_keys.merged(&of(&scram(), &keys(b"b"))), None);
    let other = Secret::Scram(ScramSecret::from_password(b"new", b"salt", 2));
    assert_eq!(by_keys.merged(&of(&other, &password)), None, "another password is stored");
    let unknown = ServerCredential::new(None, &password);
    assert_eq!(unknown.merged(&by_keys), None);
}

#[test]
fn what_others_know_is_theirs_to_say() {
    for auth_type in [AuthType::Ldap, AuthType::Pam] {
        // What is stored, if anything, does not count.
        for secret in [None, Some(clear()), Some(Secret::Clear(Password::new("other")))] {
            let (codes, outcome) = converse(login(auth_type, secret.clone()), with_password(PASSWORD));
            assert_eq!(codes, [3, 0]);
            assert_eq!(outcome, Ok(PassThrough::Password(Password::new(PASSWORD))));
            let (codes, outcome) = converse(login(auth_type, secret), with_password(b"wrong"));
            assert_eq!((codes.as_slice(), outcome), (&[3][..], Err(wrong_password("ann"))));
        }
        // An empty password is nobody's: LDAP would take it.
        let mut empty = login(auth_type, None);
        empty.start();
        assert!(!empty.next_is_costly());
        assert_eq!(empty.answer(b"\0"), Step::Failed(wrong_password("ann")));
        // And nobody is let in whose password was not looked at.
        let mut early = login(auth_type, None);
        early.start();
        assert_eq!(early.checked(true), Step::Failed(wrong_password("ann")));
    }
}
