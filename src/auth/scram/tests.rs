use proptest::prelude::*;

use super::*;
use crate::auth::secret::{Mock, MockKind, Password};

/// RFC 7677, section 3.
const RFC_CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const RFC_SERVER_FIRST: &[u8] =
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const RFC_CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                  p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const RFC_SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
const RFC_SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const RFC_SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

/// What PostgreSQL 15 stored for `CREATE ROLE ... PASSWORD`, with the password.
const STORED: [(&[u8], &str); 4] = [
    (
        b"pencil",
        "SCRAM-SHA-256$4096:6snEYkv81brNtaj6VpuxvA==$neoVbd/MhcicasJ1rIeZxKzR20mJUFyFIQDmGZuEaoc=:\
         3nepLlGLw5VfIvNFz3RJWLSPfT3ASiWJbmQr0/MReIY=",
    ),
    // SASLprep maps: feminine ordinal to a, soft hyphen to nothing, Roman nine to IX, no-break space to a space.
    (
        "\u{aa}pass\u{ad}w\u{2168}rd\u{a0}x".as_bytes(),
        "SCRAM-SHA-256$4096:zeCyvh0iPstoJa1pHIsb9Q==$60YHsWERhrxOwfYP3ZfocE00GLEQib5H4t5KkZj94Fw=:\
         IS6NFxU8oVVzAPrIaFBnPCarVzDKTeNmcokIiMITgWA=",
    ),
    // SASLprep refuses a tab, and U+0221 which Unicode 3.2 does not have: both are taken as they are.
    (
        b"tab\there",
        "SCRAM-SHA-256$4096:o4WQHktQkUswKxANijS22Q==$2zIih2rksk2SHwzOM9njUqCZaN0b+4tv3cjFRFJ03FU=:\
         mjFVuJe5pICncv/s1c+paCo2dWk+y2ItWctpMfzpLhk=",
    ),
    (
        "\u{221}x".as_bytes(),
        "SCRAM-SHA-256$4096:YMb3Scvz5T+uzStDBjFwMw==$yHE0mltGKXt/B7ZgXNx7nD4q+dbCkm1mlpbHOVvZCQ8=:\
         QrZBpXPgvx+MoxksA7xHxjFJp7BT5BgODWRqKgTMsR8=",
    ),
];

fn rfc_secret() -> ScramSecret {
    ScramSecret::from_password(b"pencil", &BASE64.decode(RFC_SALT).unwrap(), 4096)
}

fn password(text: &[u8]) -> ClientSecret {
    ClientSecret::Password(Password::new(text))
}

/// The messages of one exchange, in their order; the first error ends it.
struct Exchange {
    mutate: usize,
    at: usize,
    flip: u8,
}

impl Exchange {
    const HONEST: Self = Self { mutate: usize::MAX, at: 0, flip: 0 };

    /// Runs it; message number `mutate` has one byte changed on its way.
    fn run(&self, server: ServerScram, secret: ClientSecret) -> Result<(ScramKeys, ScramKeys), ScramError> {
        let pass = |number: usize, mut message: Vec<u8>| {
            if number == self.mutate {
                let at = self.at % message.len();
                message[at] ^= self.flip;
            }
            message
        };
        let (client, message) = ClientScram::new(secret, "fyko+d2lbbFgONRv9qkxdawL").first();
        let (server, message) = server.client_first(&pass(0, message))?;
        let (client, message) = client.server_first(&pass(1, message))?;
        let proof = server.client_final(&pass(2, message))?;
        let keys = client.server_final(&pass(3, proof.message))?;
        Ok((proof.keys, keys))
    }
}

#[test]
fn rfc_7677_as_server() {
    let (second, message) = ServerScram::new(&rfc_secret(), RFC_SERVER_NONCE).client_first(RFC_CLIENT_FIRST).unwrap();
    assert_eq!(message, RFC_SERVER_FIRST);
    let proof = second.client_final(RFC_CLIENT_FINAL).unwrap();
    assert_eq!(proof.message, RFC_SERVER_FINAL);
    assert_eq!(proof.keys, ScramKeys::derive(b"pencil", &BASE64.decode(RFC_SALT).unwrap(), 4096));
}

#[test]
fn rfc_7677_as_client() {
    // The RFC's client names its user; ours does not, so the bare message is put in its place.
    let first = ClientScramFirst {
        secret: password(b"pencil"),
        client_nonce: "rOprNGfwEbeRWgbNEkqO".to_owned(),
        bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned(),
        channel_binding: b"biws".to_vec(),
    };
    let (second, message) = first.server_first(RFC_SERVER_FIRST).unwrap();
    assert_eq!(message, RFC_CLIENT_FINAL);
    second.server_final(RFC_SERVER_FINAL).unwrap();
}

#[test]
fn the_client_first_message_is_libpqs() {
    let (_, message) = ClientScram::new(password(b"x"), "abc").first();
    assert_eq!(message, b"n,,n=,r=abc");
}

#[test]
fn verifiers_of_a_real_server() {
    for (password, stored) in STORED {
        let secret = ScramSecret::parse(stored).unwrap();
        assert_eq!(ScramSecret::from_password(password, secret.salt(), secret.iterations()), secret);
        assert_eq!(secret.to_secret_string(), stored);
        assert!(secret.verify_password(password));
        assert!(!secret.verify_password(b"other"));
    }
}

#[test]
fn a_password_of_which_saslprep_leaves_nothing_is_used_as_it_is() {
    let soft_hyphen = "\u{ad}".as_bytes();
    assert_ne!(salted_password(soft_hyphen, b"salt", 1), salted_password(b"", b"salt", 1));
    assert_ne!(salted_password(b"\xff\xfe", b"salt", 1), salted_password(b"", b"salt", 1));
}

#[test]
fn long_keys_are_hashed_as_rfc_4231_says() {
    // RFC 4231, test case 6: a key of 131 bytes.
    let mac = hmac(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - ", b"Hash Key First"]);
    assert_eq!(mac[..8], [0x60, 0xe4, 0x31, 0x59, 0x1e, 0xe0, 0xb6, 0x7f]);
    // Test case 2: a short key.
    let mac = hmac(b"Jefe", &[b"what do ya want for nothing?"]);
    assert_eq!(mac[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
}

#[test]
fn malformed_verifiers_are_refused() {
    let good = STORED[0].1;
    for (from, to) in [
        ("$4096:", "$:"),
        ("$4096:", "$+4096:"),
        ("$4096:", "$40 96:"),
        (":6snEYkv81brNtaj6VpuxvA==", ":"),
        (":6snEYkv81brNtaj6VpuxvA==", ":6snEYkv81brNtaj6VpuxvA"),
        ("neoVbd", "neo*bd"),
        ("neoVbd/M", ""),
        ("MReIY=", "MReIY=x"),
        ("$neoV", ":neoV"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert_eq!(ScramSecret::parse(&bad), Err(SecretError::MalformedScram), "{bad}");
    }
    for count in ["0", "16777217", "99999999999999999999"] {
        let bad = good.replacen("4096", count, 1);
        assert_eq!(ScramSecret::parse(&bad), Err(SecretError::Iterations), "{bad}");
    }
    assert!(ScramSecret::parse(&good.replacen("4096", "16777216", 1)).is_ok());
}

#[test]
fn gs2_headers() {
    let first = |message: &[u8]| ServerScram::new(&rfc_secret(), "s").client_first(message).map(|(_, reply)| reply);
    assert!(first(b"n,,n=,r=abc").is_ok());
    assert!(first(b"y,,n=,r=abc").is_ok());
    assert!(first(b"n,,n=,r=abc,x=extension,y=").is_ok());
    assert!(matches!(first(b"p=tls-server-end-point,,n=,r=abc"), Err(ScramError::Malformed(_))));
    assert!(matches!(first(b"n,a=other,n=,r=abc"), Err(ScramError::Unsupported(_))));
    assert!(matches!(first(b"n,,m=ext,n=,r=abc"), Err(ScramError::Unsupported(_))));
    for bad in [
        &b""[..],
        b"n",
        b"n,",
        b"n,,",
        b"n,,n=",
        b"n,,n=,",
        b"n,,r=abc",
        b"n,,n=,r=",
        b"n,,n=,r=a\x07",
        b"n,,n=,r=abc,",
        b"n,,n=,r=abc,1=x",
        b"n,,n=,r=abc,xx",
        b"x,,n=,r=abc",
        b"n,,n=,r=a\0",
        b"n,,n=,r=\xc3\xa4",
    ] {
        assert!(matches!(first(bad), Err(ScramError::Malformed(_))), "{:?}", String::from_utf8_lossy(bad));
    }
    let long = [&b"n,,n=,r="[..], &[b'a'; MAX_MESSAGE]].concat();
    assert!(matches!(first(&long), Err(ScramError::Malformed(_))));
}

#[test]
fn the_channel_binding_header_must_be_repeated() {
    let finish = |first: &[u8], last: &[u8]| {
        let (second, _) = ServerScram::new(&rfc_secret(), "s").client_first(first).unwrap();
        second.client_final(last).unwrap_err()
    };
    let proof = b",r=abcs,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let with = |header: &[u8]| [b"c=", header, proof].concat();
    assert_eq!(finish(b"n,,n=,r=abc", &with(b"biws")), ScramError::WrongProof);
    assert_eq!(finish(b"y,,n=,r=abc", &with(b"eSws")), ScramError::WrongProof);
    assert_eq!(finish(b"n,,n=,r=abc", &with(b"eSws")), ScramError::ChannelBinding);
    assert_eq!(finish(b"y,,n=,r=abc", &with(b"biws")), ScramError::ChannelBinding);
    assert_eq!(finish(b"n,,n=,r=abc", b"c=biws,r=abcx,p=AAAA"), ScramError::Nonce);
    assert!(matches!(finish(b"n,,n=,r=abc", b"c=biws,r=abcs"), ScramError::Malformed(_)));
    assert!(matches!(finish(b"n,,n=,r=abc", b"c=biws,r=abcs,p=AAAA"), ScramError::Malformed(_)));
    assert!(matches!(finish(b"n,,n=,r=abc", &[&with(b"biws"), &b",x=y"[..]].concat()), ScramError::Malformed(_)));
}

#[test]
fn a_hostile_server_is_refused() {
    let reply = |message: &[u8]| {
        let (first, _) = ClientScram::new(password(b"pencil"), "abc").first();
        first.server_first(message).map(|(_, reply)| reply).unwrap_err()
    };
    assert_eq!(reply(b"r=abcd,s=QSXCR+Q6sek8bf92,i=16777217"), ScramError::Iterations);
    assert_eq!(reply(b"r=abcd,s=QSXCR+Q6sek8bf92,i=99999999999999999999"), ScramError::Iterations);
    assert_eq!(reply(b"r=abcd,s=QSXCR+Q6sek8bf92,i=0"), ScramError::Iterations);
    assert_eq!(reply(b"r=abc,s=QSXCR+Q6sek8bf92,i=1"), ScramError::Nonce);
    assert_eq!(reply(b"r=xbcd,s=QSXCR+Q6sek8bf92,i=1"), ScramError::Nonce);
    assert!(matches!(reply(b"m=x,r=abcd,s=QSXCR+Q6sek8bf92,i=1"), ScramError::Unsupported(_)));
    for bad in [
        &b"r=abcd,s=QSXCR+Q6sek8bf92,i="[..],
        b"r=abcd,s=QSXCR+Q6sek8bf92,i=-1",
        b"r=abcd,s=QSXCR+Q6sek8bf92,i=01",
        b"r=abcd,s=QSXCR+Q6sek8bf92,i=1x",
        b"r=abcd,s=,i=1",
        b"r=abcd,s=***,i=1",
        b"r=abcd,s=QSXCR+Q6sek8bf92",
        b"r=abcd,s=QSXCR+Q6sek8bf92,i=1,x=y",
        b"",
        b"e=unknown-user",
    ] {
        assert!(matches!(reply(bad), ScramError::Malformed(_)), "{:?}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn an_impostor_without_the_keys_is_found_out() {
    let (first, _) = ClientScram::new(password(b"pencil"), "abc").first();
    let (second, _) = first.server_first(b"r=abcd,s=QSXCR+Q6sek8bf92,i=1").unwrap();
    assert_eq!(second.server_final(RFC_SERVER_FINAL), Err(ScramError::WrongSignature));
    let (first, _) = ClientScram::new(password(b"pencil"), "abc").first();
    let (second, _) = first.server_first(b"r=abcd,s=QSXCR+Q6sek8bf92,i=1").unwrap();
    assert_eq!(second.server_final(b"e=other-error"), Err(ScramError::Refused));
}

#[test]
fn a_mock_looks_the_same_and_fails_even_with_its_own_keys() {
    let mock = Mock::new([9; 32], MockKind::Scram, 4096);
    let first = |server: ServerScram| server.client_first(b"n,,n=,r=abc").unwrap();
    let (_, real) = first(ServerScram::new(&ScramSecret::from_password(b"x", &[7; SALT_LEN], 4096), "srv"));
    let (_, fake) = first(ServerScram::mock(&mock, "ghost", "srv"));
    let (_, again) = first(ServerScram::mock(&mock, "ghost", "srv"));
    let (_, other) = first(ServerScram::mock(&mock, "spook", "srv"));
    assert_eq!(real.len(), fake.len());
    assert_eq!(fake, again);
    assert_ne!(fake, other);

    // Even if someone held a password that fits the verifier, a mock must not let him in.
    let secret = ScramSecret::from_password(b"pencil", &[7; SALT_LEN], 2);
    let server = ServerScram {
        secret,
        standing: server::Standing::Mock,
        server_nonce: "srv".to_owned(),
        binding: Binding::Unavailable,
    };
    assert_eq!(Exchange::HONEST.run(server, password(b"pencil")), Err(ScramError::WrongProof));
}

#[test]
fn keys_pass_through_to_a_server_with_the_same_verifier_only() {
    let secret = ScramSecret::from_password(b"pencil", b"salt", 3);
    let (keys, _) = Exchange::HONEST.run(ServerScram::new(&secret, "srv"), password(b"pencil")).unwrap();
    let with_keys = |secret: &ScramSecret, client| Exchange::HONEST.run(ServerScram::new(secret, "srv2"), client);
    assert!(with_keys(&secret, ClientSecret::Keys(keys.clone())).is_ok());
    let other = ScramSecret::from_password(b"pencil", b"pepper", 3);
    assert_eq!(with_keys(&other, ClientSecret::Keys(keys.clone())), Err(ScramError::OtherVerifier));
    let both = ClientSecret::PasswordAndKeys(Password::new(*b"pencil"), keys);
    assert!(with_keys(&other, both.clone()).is_ok());
    assert!(with_keys(&secret, both).is_ok());
}

#[test]
fn errors_show_whose_fault_it_is() {
    let error = ScramError::Malformed("the message is empty").of_client("ann");
    assert_eq!(error.to_string(), "FATAL 08P01: malformed SCRAM message (The message is empty.)");
    let error = ScramError::WrongProof.of_client("ann");
    assert_eq!(error.to_string(), "FATAL 28P01: password authentication failed for user \"ann\"");
    let error = ScramError::OtherVerifier.of_server("ann");
    assert_eq!(error.origin, crate::error::Origin::Us);
    assert!(error.hint.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn both_sides_agree_on_any_password(bytes in any::<Vec<u8>>(), salt in prop::collection::vec(any::<u8>(), 1..40), count in 1..6u32) {
        let secret = ScramSecret::from_password(&bytes, &salt, count);
        prop_assert_eq!(&ScramSecret::parse(&secret.to_secret_string()).unwrap(), &secret);
        let (ours, theirs) = Exchange::HONEST.run(ServerScram::new(&secret, "srv"), password(&bytes)).unwrap();
        prop_assert_eq!(&ours, &theirs);
        prop_assert_eq!(ours, ScramKeys::derive(&bytes, &salt, count));
    }

    #[test]
    fn both_sides_agree_on_any_text(text in "\\PC{1,20}", wrong in "\\PC{1,20}") {
        let secret = ScramSecret::from_password(text.as_bytes(), b"salt", 2);
        prop_assert!(Exchange::HONEST.run(ServerScram::new(&secret, "srv"), password(text.as_bytes())).is_ok());
        prop_assert!(secret.verify_password(text.as_bytes()));
        if salted_password(wrong.as_bytes(), b"salt", 2) != salted_password(text.as_bytes(), b"salt", 2) {
            let outcome = Exchange::HONEST.run(ServerScram::new(&secret, "srv"), password(wrong.as_bytes()));
            prop_assert_eq!(outcome, Err(ScramError::WrongProof));
        }
    }

    #[test]
    fn any_changed_byte_fails(mutate in 0..4usize, at in 0..500usize, flip in 1..=255u8) {
        // One iteration, so that a changed count stays cheap: at most nine.
        let secret = ScramSecret::from_password(b"pencil", b"salt", 1);
        let exchange = Exchange { mutate, at, flip };
        prop_assert!(exchange.run(ServerScram::new(&secret, "srv"), password(b"pencil")).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(prop::sample::select(&b"nyp,=rscivaem0A+/\x00\xff"[..]), 0..40)) {
        let first = ServerScram::new(&cheap_secret(), "s").client_first(&bytes);
        prop_assert!(first.is_err() || bytes.starts_with(b"n,,n=") || bytes.starts_with(b"y,,n="));
        let (second, _) = ServerScram::new(&cheap_secret(), "s").client_first(b"n,,n=,r=c").unwrap();
        prop_assert!(second.client_final(&bytes).is_err());
        let keys = ScramKeys::derive(b"pencil", b"salt", 1);
        let (client, _) = ClientScram::new(ClientSecret::Keys(keys), "c").first();
        prop_assert!(client.server_first(&bytes).is_err());
    }
}

fn cheap_secret() -> ScramSecret {
    ScramSecret::from_password(b"pencil", b"salt", 1)
}

/// An exchange in which each side sees a certificate of its own: the outcome.
fn bound_exchange(client: Binding, server: Binding) -> Result<(), ScramError> {
    let (client, first) = ClientScram::new(password(b"pencil"), "cli").bind(client).first();
    let (server, reply) = ServerScram::new(&rfc_secret(), "srv").bind(server).client_first(&first)?;
    let (client, last) = client.server_first(&reply)?;
    client.server_final(&server.client_final(&last)?.message).map(drop)
}

#[test]
fn a_proof_is_bound_to_the_certificate() {
    let seen = |byte: u8| Binding::EndPoint(Arc::from([byte; 32]));
    assert_eq!(bound_exchange(seen(1), seen(1)), Ok(()));
    assert_eq!(bound_exchange(seen(1), seen(2)), Err(ScramError::ChannelBinding), "someone sits between");
    assert_eq!(bound_exchange(Binding::Unavailable, Binding::Unused), Ok(()), "a client that cannot bind");
    assert_eq!(bound_exchange(Binding::Unused, Binding::Unavailable), Ok(()), "a server that cannot");
    assert_eq!(bound_exchange(Binding::Unused, Binding::Unused), Err(ScramError::Downgraded), "the offer was removed");
    for (client, server) in [(Binding::Unavailable, seen(1)), (Binding::Unused, seen(1)), (seen(1), Binding::Unused)] {
        assert!(matches!(bound_exchange(client, server), Err(ScramError::Malformed(_))));
    }
    let other = ServerScram::new(&rfc_secret(), "srv").bind(seen(1));
    let refused = other.client_first(b"p=tls-unique,,n=,r=abc").map(drop);
    assert!(matches!(refused, Err(ScramError::Unsupported(_))));
}
