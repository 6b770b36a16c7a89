use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::*;

const ALL: Built = Built { ldap: true, pam: true };

/// Files that are held in memory, under `etc/`.
struct Held<'a>(BTreeMap<PathBuf, &'a str>);

impl<'a> Held<'a> {
    fn new(files: &[(&str, &'a str)]) -> Self {
        Self(files.iter().map(|(name, text)| (Path::new("etc").join(name), *text)).collect())
    }
}

impl Files for Held<'_> {
    fn read(&self, path: &Path) -> io::Result<String> {
        self.0.get(path).map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let found: Vec<_> = self.0.keys().rev().filter(|file| file.parent() == Some(path)).cloned().collect();
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    }
}

fn parse(text: &str, maps: &Maps) -> Result<Rules, Vec<Mistake>> {
    let given = Given { maps: Some(maps), certificates: Certificates::Required, built: ALL, pam_service: "pgweir" };
    Rules::read(Path::new("etc/hba"), &Held::new(&[("hba", text)]), given)
}

fn read_maps(text: &str) -> Result<Maps, Vec<Mistake>> {
    Maps::read(Path::new("etc/ident"), &Held::new(&[("ident", text)]))
}

fn interfaces() -> Vec<(IpAddr, IpAddr)> {
    let pairs = [("192.168.7.9", "255.255.255.0"), ("fd00::1", "ffff:ffff:ffff:ffff::")];
    pairs.into_iter().map(|(address, mask)| (address.parse().unwrap(), mask.parse().unwrap())).collect()
}

fn method(rules: &Rules, database: &str, user: &str, address: Option<&str>, tls: bool) -> Option<Method> {
    let address = address.map(|text| text.parse().unwrap());
    let caller = Caller { databases: &[database], user, address, tls, physical_replication: false, interfaces };
    rules.find(&caller).map(|way| way.method.clone())
}

#[test]
fn the_first_rule_that_matches_decides() {
    let text = "# comment\n\nlocal all boss peer # end\nhostssl \"all\", app ann,\"bob, jr\" 10.0.0.0/8 scram-sha-256\n\
                hostnossl sameuser all 192.168.1.0 255.255.255.0 md5\nhost all eve all reject\n\
                host all \\\n all ::1/128 trust\nhost all all 10.1.2.3/32 password\n\
                host replication all 10.3.0.0/16 trust\nhost \"replication\" all 10.4.0.0/16 trust\n";
    let rules = parse(text, &Maps::default()).unwrap();
    let of = |database, user, address, tls| method(&rules, database, user, address, tls);
    assert_eq!(of("x", "boss", None, false), Some(Method::Peer(None)));
    assert_eq!(of("x", "ann", None, false), None);
    assert_eq!(of("app", "ann", Some("10.9.9.9"), true), Some(Method::Scram));
    assert_eq!(of("all", "bob, jr", Some("10.9.9.9"), true), Some(Method::Scram));
    assert_eq!(of("x", "ann", Some("10.9.9.9"), true), None, "\"all\" in quotes is a name");
    assert_eq!(of("app", "ann", Some("10.9.9.9"), false), None);
    assert_eq!(of("dan", "dan", Some("192.168.1.77"), false), Some(Method::Md5));
    assert_eq!(of("dan", "dan", Some("::ffff:192.168.1.77"), false), Some(Method::Md5));
    assert_eq!(of("app", "dan", Some("192.168.1.77"), false), None);
    assert_eq!(of("dan", "dan", Some("192.168.2.1"), false), None);
    assert_eq!(of("x", "eve", Some("::1"), false), Some(Method::Reject));
    assert_eq!(of("x", "dan", Some("::1"), false), Some(Method::Trust));
    assert_eq!(of("x", "dan", Some("10.1.2.3"), true), Some(Method::Password));
    assert_eq!(of("replication", "dan", Some("10.3.0.1"), false), None, "it is not the database of that name");
    assert_eq!(of("replication", "dan", Some("10.4.0.1"), false), Some(Method::Trust));
}

#[test]
fn a_certificate_is_asked_for_where_clients_can_show_one() {
    let read = |certificates, line: &str| {
        let given = Given { maps: None, certificates, built: ALL, pam_service: "pgweir" };
        Rules::read(Path::new("etc/hba"), &Held::new(&[("hba", line)]), given).map(drop)
    };
    let why = |certificates, line| read(certificates, line).unwrap_err()[0].to_string();
    let (cert, full) = ("hostssl all all all cert", "hostssl all all all md5 clientcert=verify-full");
    let any = "hostssl all all all md5 clientcert=verify-ca";
    for line in [cert, full, any] {
        assert_eq!(read(Certificates::Required, line), Ok(()), "{line}");
    }
    assert_eq!((read(Certificates::Optional, cert), read(Certificates::Optional, full)), (Ok(()), Ok(())));
    assert!(why(Certificates::Optional, any).contains("clientcert needs client_tls_sslmode"));
    assert!(why(Certificates::Never, cert).contains("the method cert needs client_tls_ca_file"));
    assert_eq!(read(Certificates::NoTls, cert), Ok(()), "nobody comes by TLS");
    assert!(why(Certificates::NoTls, full).contains("clientcert needs"));
}

#[test]
fn a_rule_for_one_name_is_for_the_other_too() {
    let rules = parse("host pgbouncer all all reject\nhost all all all trust\n", &Maps::default()).unwrap();
    let of = |databases: &[&str]| {
        let address = "10.0.0.1".parse().ok();
        let caller = Caller { databases, user: "u", address, tls: false, physical_replication: false, interfaces };
        rules.find(&caller).map(|way| way.method.clone())
    };
    assert_eq!(of(&["pgweir", "pgbouncer"]), Some(Method::Reject));
    assert_eq!(of(&["app"]), Some(Method::Trust));
}

#[test]
fn who_wants_the_wal_is_meant_by_one_word_only() {
    let text = "host all all 10.0.0.1/32 trust\nhost replication all all md5\nhost \"replication\" all all reject\n";
    let rules = parse(text, &Maps::default()).unwrap();
    let of = |address: &str, physical_replication| {
        let address = address.parse().ok();
        let caller =
            Caller { databases: &["replication"], user: "u", address, tls: false, physical_replication, interfaces };
        rules.find(&caller).map(|way| way.method.clone())
    };
    assert_eq!(of("10.0.0.1", true), Some(Method::Md5), "all is all databases");
    assert_eq!(of("10.0.0.1", false), Some(Method::Trust));
    assert_eq!(of("10.0.0.2", false), Some(Method::Reject), "in quotes it is a database");
}

#[test]
fn every_mistake_is_told_with_its_line() {
    let cases = [
        ("hosts all all all trust", "\"hosts\" is not known"),
        ("host", "the database is missing"),
        ("host all", "the user is missing"),
        ("host all all", "the address is missing"),
        ("host all all all", "the method is missing"),
        ("local all +admins trust", "the members of roles are not known"),
        ("local samerole all trust", "the members of roles are not known"),
        ("local @ all trust", "the name of a file must follow"),
        ("local @file all trust", "cannot read the file etc/file"),
        ("local /( all trust", "is not a regular expression"),
        ("local all \"x trust", "a quote is not closed"),
        ("host all all 10.0.0.0/33 trust", "is not an address"),
        ("host all all example.com trust", "host names are not supported"),
        ("host all all 10.0.0.0 255.0.255.0 trust", "is not a mask"),
        ("host all all 10.0.0.0", "the mask is missing"),
        ("host all all all gss", "\"gss\" is not supported"),
        ("host all all all peer", "is for local"),
        ("host all all all cert", "is for hostssl"),
        ("local all all peer map=x", "there is no map \"x\""),
        ("host all all all md5 clientcert=verify-ca", "clientcert is for hostssl"),
        ("hostssl all all all md5 clientcert=1", "expected \"verify-ca\" or \"verify-full\""),
        ("hostssl all all all cert clientcert=verify-ca", "is verify-full"),
        ("hostssl all all all cert clientname=DN", "clientname=CN"),
        ("host all all all md5 colour=red", "the option \"colour\" is not supported"),
        ("host all all all md5 really", "is not of the form NAME=VALUE"),
        ("hostgssenc all all all trust", "is not spoken here"),
        ("include", "one name"),
        ("include a b", "one name"),
        ("include nowhere", "cannot read the file etc/nowhere"),
        ("include_dir nowhere", "cannot read the directory etc/nowhere"),
    ];
    let text: String = cases.iter().map(|(line, _)| format!("{line}\n")).collect();
    let errors = parse(&text, &Maps::default()).unwrap_err();
    assert_eq!(errors.len(), cases.len(), "{errors:?}");
    for ((line, expected), (number, error)) in cases.iter().zip((1..).zip(&errors)) {
        assert!(error.line == number && error.message.contains(expected), "{line}: {error}");
    }
}

#[test]
fn maps_say_who_may_be_whom() {
    let maps =
        read_maps("m  root  postgres\nm /^(.*)@example\\.com$ \\1\nm /^boss$ all\nother root ann # not m\n").unwrap();
    for (system, user, allowed) in [
        ("root", "postgres", true),
        ("root", "root", false),
        ("root", "ann", false),
        ("ann@example.com", "ann", true),
        ("ann@example.com", "bob", false),
        ("ann@example.comx", "ann", false),
        ("boss", "anybody", true),
        ("\\1", "\\1", false),
    ] {
        assert_eq!(maps.allows(Some("m"), system, user), allowed, "{system} as {user}");
    }
    assert!(maps.allows(None, "root", "root") && !maps.allows(None, "root", "postgres"));
    assert!(parse("local all all peer map=m", &maps).is_ok());
    assert!(parse("local all all md5 map=m", &maps).is_err());
    for wrong in ["m a", "m a b c", "m /( b", "m root \\1", "m /^root$ \\1", "m root +b"] {
        assert_eq!(read_maps(wrong).unwrap_err().len(), 1, "{wrong}");
    }
}

#[test]
fn files_stand_in_their_place() {
    let files = Held::new(&[
        (
            "hba",
            "include sub/first\ninclude_if_exists missing\nhost @dbs @\"users of ann\",zoe all md5\ninclude_dir dir\n",
        ),
        ("sub/first", "# only this\nhost all @near all reject\n"),
        ("sub/near", "eve, \"@eve\"\n"),
        ("dbs", "app other # these\n\"all\"\n"),
        ("users of ann", "ann,@more\n"),
        ("more", "bob\n"),
        ("dir/2.conf", "host x all all password\n"),
        ("dir/1.conf", "host x all all trust\n"),
        ("dir/.hidden.conf", "nonsense\n"),
        ("dir/readme", "nonsense\n"),
    ]);
    let rules = Rules::read(
        Path::new("etc/hba"),
        &files,
        Given { maps: None, certificates: Certificates::Never, built: ALL, pam_service: "pgweir" },
    )
    .unwrap();
    let of = |database, user| method(&rules, database, user, Some("10.0.0.1"), false);
    assert_eq!(of("app", "eve"), Some(Method::Reject));
    assert_eq!(of("app", "@eve"), Some(Method::Reject), "in quotes it names no file");
    for user in ["ann", "bob", "zoe"] {
        assert_eq!(of("other", user), Some(Method::Md5), "{user}");
    }
    assert_eq!(of("all", "ann"), Some(Method::Md5));
    assert_eq!(of("more", "ann"), None, "in quotes \"all\" is a name, also there");
    assert_eq!(of("x", "ann"), Some(Method::Trust), "1.conf stands before 2.conf");

    let files = Held::new(&[
        ("hba", "host all all all nonsense\ninclude more\nhost @names all all md5\nhost @self all all md5\n"),
        ("more", "\ninclude hba\nhost all\n"),
        ("names", "a\n\"b\n"),
        ("self", "@self"),
    ]);
    let mistakes = Rules::read(
        Path::new("etc/hba"),
        &files,
        Given { maps: None, certificates: Certificates::Never, built: ALL, pam_service: "pgweir" },
    )
    .unwrap_err();
    let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    for expected in [
        "etc/hba:1: the method \"nonsense\" is not supported",
        "etc/hba:2: files are included more than 10 levels deep",
        "etc/more:3: the user is missing",
        "etc/hba:3: etc/names:2: a quote is not closed",
        "etc/hba:4: files are included more than 10 levels deep",
    ] {
        assert!(told.iter().any(|line| line.starts_with(expected)), "{expected}: {told:#?}");
    }
    let missing = Rules::read(
        Path::new("etc/none"),
        &files,
        Given { maps: None, certificates: Certificates::Never, built: ALL, pam_service: "pgweir" },
    )
    .unwrap_err();
    assert!(missing[0].to_string().starts_with("etc/none: cannot read the file"), "{missing:?}");
}

#[test]
fn names_in_quotes_and_patterns() {
    let text = "host \"a\"\"b\" sa\"m\"e all trust\nhost sam\"euser\" /^x\\d+$,\"/,\" all md5\n";
    let rules = parse(text, &Maps::default()).unwrap();
    let of = |database, user| method(&rules, database, user, Some("10.0.0.1"), false);
    assert_eq!(of("a\"b", "same"), Some(Method::Trust));
    assert_eq!(of("x12", "x12"), Some(Method::Md5), "a quote within a word changes nothing");
    assert_eq!(of("x12a", "x12a"), None);
    assert_eq!(of("y,", "y,"), Some(Method::Md5));
}

#[test]
fn our_own_addresses_and_networks() {
    let text = "host all all samehost trust\nhost all all samenet md5\n";
    let rules = parse(text, &Maps::default()).unwrap();
    let of = |address| method(&rules, "d", "u", Some(address), false);
    assert_eq!(of("192.168.7.9"), Some(Method::Trust));
    assert_eq!(of("::ffff:192.168.7.9"), Some(Method::Trust));
    assert_eq!(of("192.168.7.10"), Some(Method::Md5));
    assert_eq!(of("fd00::2"), Some(Method::Md5));
    assert_eq!(of("192.168.8.9"), None);
    assert_eq!(of("fd01::2"), None);
}

#[test]
fn a_certificate_may_be_asked_for_beside_a_password() {
    let text = "hostssl a all all md5 clientcert=verify-ca\nhostssl b all all md5 clientcert=verify-full\n\
                hostssl c all all cert clientcert=verify-full clientname=CN\n";
    let rules = parse(text, &Maps::default()).unwrap();
    let named = |database| {
        let address = Some([127, 0, 0, 1].into());
        let caller =
            Caller { databases: &[database], user: "u", address, tls: true, physical_replication: false, interfaces };
        rules.find(&caller).map(|way| way.named)
    };
    assert_eq!((named("a"), named("b"), named("c")), (Some(false), Some(true), Some(false)));
    let given = Given { maps: None, certificates: Certificates::Never, built: ALL, pam_service: "pgweir" };
    let mistakes = Rules::read(Path::new("etc/hba"), &Held::new(&[("hba", text)]), given).unwrap_err();
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    assert!(mistakes[0].message.starts_with("clientcert needs client_tls_sslmode"), "{mistakes:?}");
}

#[test]
fn on_a_unix_socket_ident_is_peer() {
    let rules = parse("local all all ident\n", &Maps::default()).unwrap();
    assert_eq!(method(&rules, "d", "u", None, false), Some(Method::Peer(None)));
    assert!(parse("host all all all ident\n", &Maps::default()).is_err());
}

#[test]
fn passwords_that_others_know() {
    let text = "host a all all ldap ldapserver=h ldapprefix=\"cn=\" ldapsuffix=\",dc=x\"\nhost b all all pam pamservice=db\n\
                host c all all pam\n";
    let rules = parse(text, &Maps::default()).unwrap();
    let of = |database| method(&rules, database, "u", Some("10.0.0.1"), false);
    let Some(Method::External(External::Ldap(settings))) = of("a") else { panic!("{:?}", of("a")) };
    assert_eq!(settings.who.dn("ann").as_deref(), Some("cn=ann,dc=x"));
    assert_eq!(of("b"), Some(Method::External(External::Pam("db".to_owned()))));
    assert_eq!(of("c"), Some(Method::External(External::Pam("pgweir".to_owned()))));
    for (wrong, why) in [
        ("host all all all ldap", "ldapbasedn, ldapprefix or ldapsuffix is missing"),
        ("host all all all ldap ldapserver=h ldapprefix=x colour=red", "\"colour\" is not one of the method ldap"),
        ("host all all all md5 ldapserver=h", "\"ldapserver\" is not supported"),
        ("host all all all pam ldapserver=h", "\"ldapserver\" is not supported"),
    ] {
        let errors = parse(wrong, &Maps::default()).unwrap_err();
        assert!(errors[0].message.contains(why), "{wrong}: {errors:?}");
    }
    let given = Given {
        maps: None,
        certificates: Certificates::Never,
        built: Built { ldap: false, pam: false },
        pam_service: "",
    };
    let errors = Rules::read(Path::new("etc/hba"), &Held::new(&[("hba", text)]), given).unwrap_err();
    for (error, feature) in errors.iter().zip(["ldap", "pam", "pam"]) {
        assert!(error.message.contains(&format!("cargo build --features {feature}")), "{error}");
    }
}
