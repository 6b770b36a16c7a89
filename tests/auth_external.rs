//! Passwords that others know: LDAP, against OpenLDAP's slapd, and PAM. Each only where pgweir is built with the feature; what is
//! refused without it is tested without it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

#[cfg(any(feature = "ldap", feature = "pam"))]
use common::raw::{Login, LoginError};
use common::weir::Weir;
#[cfg(any(feature = "ldap", feature = "pam"))]
use common::wire::ServerError;

#[cfg(any(feature = "ldap", feature = "pam"))]
fn refusal(login: Login) -> ServerError {
    match login.connect() {
        Err(LoginError::Server(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[cfg(any(feature = "ldap", feature = "pam"))]
fn wrong_password(weir: &Weir, user: &str, password: &str) {
    let error = refusal(weir.login(user, "app").password(password));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28P01"), "{user} {password}: {error}");
    assert_eq!(error.message, format!("password authentication failed for user \"{user}\""));
    assert_eq!(error.fields.keys().collect::<String>(), "CMSV", "{user}: nothing more is told");
}

#[cfg(any(feature = "ldap", feature = "pam"))]
fn lets_in(weir: &Weir, user: &str, password: &str) {
    let login = weir.login(user, "app").password(password).connect();
    let mut client = login.unwrap_or_else(|error| panic!("{user}: {error:?}"));
    assert_eq!(client.value("SELECT current_user"), user);
}

#[cfg(not(feature = "ldap"))]
#[test]
fn without_the_feature_ldap_is_refused() {
    let general = "auth_type = \"ldap\"\nauth_ldap_options = \"ldapserver=h ldapprefix=x\"";
    let log = Weir::builder().general(general).try_start().err().unwrap();
    assert!(log.contains("auth_type = \"ldap\": this pgweir was built without it"), "{log}");
    assert!(log.contains("cargo build --features ldap"), "{log}");
}

#[cfg(not(feature = "pam"))]
#[test]
fn without_the_feature_pam_is_refused() {
    let log = Weir::builder().general("auth_type = \"pam\"").try_start().err().unwrap();
    assert!(log.contains("cargo build --features pam"), "{log}");
}

#[cfg(feature = "ldap")]
mod ldap {
    use std::net::TcpListener;
    use std::path::Path;
    use std::time::Duration;

    use super::common::certs::{self, Authority};
    use super::common::cluster::Cluster;
    use super::common::eventually;
    use super::common::install::{account, unprivileged};
    use super::common::ports::Port;
    use super::common::tools::Running;
    use super::common::weir::{Builder, Weir};
    use super::{lets_in, refusal, wrong_password};

    const SOON: Duration = Duration::from_secs(20);

    const PEOPLE: &str = "dn: dc=example,dc=net\nobjectClass: dcObject\nobjectClass: organization\no: example\ndc: example\n\n\
                          dn: ou=people,dc=example,dc=net\nobjectClass: organizationalUnit\nou: people\n\n\
                          dn: uid=ann,ou=people,dc=example,dc=net\nobjectClass: inetOrgPerson\nuid: ann\ncn: Ann\nsn: A\n\
                          mail: twin@example.net\nuserPassword: secret\n\n\
                          dn: uid=bob,ou=people,dc=example,dc=net\nobjectClass: inetOrgPerson\nuid: bob\ncn: Bob\nsn: B\n\
                          mail: twin@example.net\nuserPassword: secret\n\n\
                          dn: cn=looker,dc=example,dc=net\nobjectClass: applicationProcess\nobjectClass: simpleSecurityObject\n\
                          cn: looker\nuserPassword: look\n";

    /// A slapd with some people in it.
    struct Directory {
        dir: tempfile::TempDir,
        house: Authority,
        port: Port,
        tls_port: Port,
        running: Option<Running>,
    }

    impl Directory {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let house = Authority::new("the house");
            let (cert, key) = house.issue("localhost", &["localhost", "127.0.0.1"]).write(dir.path(), "slapd");
            let ca = certs::write(dir.path(), "ca.crt", house.cert());
            let path = |name: &str| dir.path().join(name);
            std::fs::create_dir(path("db")).unwrap();
            std::fs::write(path("people.ldif"), PEOPLE).unwrap();
            let text = format!(
                "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
                 include /etc/ldap/schema/inetorgperson.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
                 TLSCertificateFile {}\nTLSCertificateKeyFile {}\nTLSCACertificateFile {}\n\
                 access to attrs=userPassword by anonymous auth by * none\n\
                 access to * by dn.exact=\"cn=looker,dc=example,dc=net\" read by * none\n\
                 database mdb\nmaxsize 10485760\nsuffix \"dc=example,dc=net\"\ndirectory {}\n",
                cert.display(),
                key.display(),
                ca.display(),
                path("db").display()
            );
            std::fs::write(path("slapd.conf"), text).unwrap();
            if let Some(account) = account() {
                for file in ["", "db", "slapd.conf", "people.ldif"].map(path).iter().chain([&cert, &key, &ca]) {
                    std::os::unix::fs::chown(file, Some(account.uid), Some(account.gid)).unwrap();
                }
            }
            let mut add = unprivileged(slapd("slapadd"));
            let added = Running::start(add.arg("-f").arg(path("slapd.conf")).arg("-l").arg(path("people.ldif")));
            let added = added.wait(SOON);
            assert!(added.status.success(), "{added:?}");
            let mut directory = Self { dir, house, port: Port::claim(), tls_port: Port::claim(), running: None };
            directory.run();
            directory
        }

        fn run(&mut self) {
            let urls =
                format!("ldap://127.0.0.1:{}/ ldaps://127.0.0.1:{}/", self.port.number(), self.tls_port.number());
            let mut command = unprivileged(slapd("slapd"));
            let conf = self.dir.path().join("slapd.conf");
            self.running = Some(Running::start(command.arg("-f").arg(conf).args(["-h", &urls, "-d", "0"])));
            eventually("slapd listens", SOON, || std::net::TcpStream::connect(("127.0.0.1", self.port.number())).ok());
        }

        fn stop(&mut self) {
            self.running = None;
        }

        /// The options of a search.
        fn search(&self, more: &str) -> String {
            format!(
                "ldapserver=127.0.0.1 ldapport={} ldapbasedn=\\\"dc=example,dc=net\\\" \
                 ldapbinddn=\\\"cn=looker,dc=example,dc=net\\\" ldapbindpasswd=look {more}",
                self.port.number()
            )
        }
    }

    fn slapd(program: &str) -> std::path::PathBuf {
        let path = Path::new("/usr/sbin").join(program);
        assert!(path.exists(), "{} is missing: Debian's package slapd has it", path.display());
        path
    }

    fn cluster() -> Cluster {
        let cluster = Cluster::start();
        cluster.sql("CREATE USER ann PASSWORD 'secret'; CREATE USER bob PASSWORD 'secret'; CREATE USER twin");
        cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256\n");
        cluster
    }

    fn asking(cluster: &Cluster, options: &str) -> Builder {
        let general = format!("auth_type = \"ldap\"\nauth_ldap_options = \"{options}\"");
        Weir::builder().general(&general).cluster("app", cluster, &[])
    }

    #[test]
    fn who_is_in_the_directory_is_let_in() {
        let cluster = cluster();
        let mut directory = Directory::start();
        let named = format!(
            "ldapserver=127.0.0.1 ldapport={} ldapprefix=\\\"uid=\\\" ldapsuffix=\\\",ou=people,dc=example,dc=net\\\"",
            directory.port.number()
        );
        let url = format!(
            "ldapurl=\\\"ldap://127.0.0.1:{}/dc=example,dc=net?uid?sub\\\" ldapbinddn=\\\"cn=looker,dc=example,dc=net\\\" \
             ldapbindpasswd=look",
            directory.port.number()
        );
        let filter = directory.search("ldapsearchfilter=\\\"(&(objectClass=inetOrgPerson)(uid=$username))\\\"");
        // The first of them is not there.
        let second = directory.search("").replace("ldapserver=127.0.0.1", "ldapserver=\\\"127.0.0.1:1 127.0.0.1\\\"");
        assert!(second.contains("127.0.0.1:1"));
        for options in [named, directory.search(""), second, url, filter] {
            let weir = asking(&cluster, &options).start();
            // They are listed nowhere, and their password opens their connections to the server.
            lets_in(&weir, "ann", "secret");
            lets_in(&weir, "bob", "secret");
            for (user, password) in
                [("ann", "wrong"), ("ann", ""), ("nobody", "secret"), ("nobody", ""), ("*", "secret")]
            {
                wrong_password(&weir, user, password);
            }
            wrong_password(&weir, "ann,ou=people", "secret");
            wrong_password(&weir, "a*", "secret");
            wrong_password(&weir, "ann)(uid=*", "secret");
        }
        let twins =
            asking(&cluster, &directory.search("ldapsearchfilter=\\\"(mail=$username@example.net)\\\"")).start();
        wrong_password(&twins, "twin", "secret");
        twins.wait_log("finds more than one entry");

        // Without an answer nobody is let in, and nothing of the directory is told.
        let wrong = directory.search("").replace("ldapbindpasswd=look", "ldapbindpasswd=hunter2");
        let weir = asking(&cluster, &wrong).start();
        for user in ["ann", "nobody"] {
            let error = refusal(weir.login(user, "app").password("secret"));
            assert_eq!(error.code, "08001", "{error}");
            assert_eq!(error.message, format!("the password of user \"{user}\" cannot be checked at present"));
        }
        weir.wait_log("the bind of ldapbinddn fails with result 49");
        assert!(!weir.log_text().contains("hunter2"));
        let weir = asking(&cluster, &directory.search("")).start();
        lets_in(&weir, "ann", "secret");
        directory.stop();
        assert_eq!(refusal(weir.login("ann", "app").password("secret")).code, "08001");
        directory.run();
        lets_in(&weir, "ann", "secret");
    }

    #[test]
    fn rules_may_ask_the_directory_over_tls() {
        let cluster = cluster();
        let directory = Directory::start();
        let dir = tempfile::tempdir().unwrap();
        let people = "ldapprefix=\"uid=\" ldapsuffix=\",ou=people,dc=example,dc=net\"";
        let hba = dir.path().join("hba");
        std::fs::write(
            &hba,
            format!(
                "host all ann all ldap ldapserver=127.0.0.1 ldapport={} ldaptls=1 {people}\n\
                 host all bob all ldap ldapserver=127.0.0.1 ldapscheme=ldaps ldapport={} {people}\n\
                 host all admin all trust\nhost all all all reject\n",
                directory.port.number(),
                directory.tls_port.number()
            ),
        )
        .unwrap();
        let general = format!("auth_type = \"hba\"\nauth_hba_file = {hba:?}");
        let builder = || Weir::builder().general(&general).users("\"x\" \"\"").cluster("app", &cluster, &[]);
        let ca = certs::write(dir.path(), "ca.crt", directory.house.cert());
        let weir = builder().env("SSL_CERT_FILE", ca.to_str().unwrap()).start();
        for user in ["ann", "bob"] {
            lets_in(&weir, user, "secret");
            wrong_password(&weir, user, "wrong");
        }
        assert_eq!(refusal(weir.login("eve", "app").password("secret")).code, "28000");
        // A directory whose certificate is of nobody that the system knows is told nothing.
        let strange = builder().start();
        for user in ["ann", "bob"] {
            assert_eq!(refusal(strange.login(user, "app").password("secret")).code, "08001");
        }
    }

    #[test]
    fn a_directory_that_hangs_holds_up_nobody_else() {
        let cluster = cluster();
        // It takes connections, and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = format!("ldapserver=127.0.0.1 ldapport={} ldapprefix=x", silent.local_addr().unwrap().port());
        let dir = tempfile::tempdir().unwrap();
        let hba = dir.path().join("hba");
        std::fs::write(&hba, format!("host all ann all ldap {options}\nhost all all all scram-sha-256\n")).unwrap();
        let general =
            format!("auth_type = \"hba\"\nauth_hba_file = {hba:?}\nserver_connect_timeout = \"2s\"\nworkers = 1");
        let weir = Weir::builder()
            .general(&general)
            .users("\"bob\" \"secret\"\n\"admin\" \"a\"")
            .cluster("app", &cluster, &[])
            .start();
        std::thread::scope(|scope| {
            // More than may be asked at a time.
            let waiting: Vec<_> =
                (0..80).map(|_| scope.spawn(|| refusal(weir.login("ann", "app").password("secret")).code)).collect();
            let begin = pgweir::clock::now();
            for _ in 0..5 {
                lets_in(&weir, "bob", "secret");
            }
            assert!(pgweir::clock::now() - begin < Duration::from_millis(1500), "on the only worker");
            for one in waiting {
                assert_eq!(one.join().unwrap(), "08001");
            }
        });
        weir.wait_log("there was no answer in time");
    }

    #[test]
    fn an_unchanged_ini_asks_the_directory() {
        let cluster = cluster();
        let directory = Directory::start();
        let weir = Weir::builder()
            .ini(&format!(
                "[databases]\napp = host=127.0.0.1 port={} dbname=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = PORT\nunix_socket_dir =\nauth_type = ldap\n\
                 auth_ldap_options = ldapserver=127.0.0.1 ldapport={} ldapprefix=\"uid=\" ldapsuffix=\",ou=people,dc=example,dc=net\"\n",
                cluster.port(),
                directory.port.number()
            ))
            .start();
        lets_in(&weir, "ann", "secret");
        wrong_password(&weir, "ann", "wrong");
    }

    #[test]
    fn mistakes_are_told() {
        let log = Weir::builder().general("auth_type = \"ldap\"").try_start().err().unwrap();
        assert!(log.contains("auth_ldap_options: ldapbasedn, ldapprefix or ldapsuffix is missing"), "{log}");
        // The options may hold a password.
        let weir = Weir::builder().general("auth_ldap_options = \"ldapbindpasswd=hunter2\"").start();
        let shown = weir.admin("SHOW CONFIG").into_iter().find(|row| row[0] == "auth_ldap_options").unwrap();
        assert_eq!(shown[1], "********");
    }
}

#[cfg(feature = "pam")]
mod pam {
    use std::os::unix::fs::PermissionsExt;

    use super::common::cluster::Cluster;
    use super::common::weir::Weir;
    use super::{lets_in, refusal, wrong_password};

    /// Puts a service where PAM looks for it, which only root can. Removed again at the end.
    struct Service(std::path::PathBuf);

    impl Service {
        fn new(name: &str, text: &str) -> Option<Self> {
            if !nix::unistd::geteuid().is_root() {
                return None;
            }
            let path = std::path::Path::new("/etc/pam.d").join(name);
            std::fs::write(&path, text).unwrap();
            Some(Self(path))
        }
    }

    impl Drop for Service {
        fn drop(&mut self) {
            drop(std::fs::remove_file(&self.0));
        }
    }

    #[test]
    fn pam_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        // Gets the password at its standard input, with a zero byte behind it.
        let script = dir.path().join("check");
        let lines = "#!/bin/sh\n[ \"$(tr -d '\\000')\" = \"secret of $PAM_USER\" ] && [ \"$PAM_USER\" != nobody ]\n";
        std::fs::write(&script, lines).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let own = format!("pgweir-test-{}", std::process::id());
        let by_script = format!("auth required pam_exec.so expose_authtok quiet {}\n", script.display());
        let Some(_service) = Service::new(&own, &format!("{by_script}account required pam_permit.so\n")) else {
            return;
        };
        let closed = format!("{own}-closed");
        let _closed = Service::new(&closed, &format!("{by_script}account required pam_deny.so\n"));

        let cluster = Cluster::start();
        cluster.sql("CREATE USER ann PASSWORD 'secret of ann'");
        cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256\n");
        let general = format!("auth_type = \"pam\"\nauth_pam_service = {own:?}");
        let weir = Weir::builder().general(&general).cluster("app", &cluster, &[]).start();
        lets_in(&weir, "ann", "secret of ann");
        for (user, password) in [("ann", "secret"), ("ann", ""), ("nobody", "secret of nobody"), ("bob", "x")] {
            wrong_password(&weir, user, password);
        }
        // By rules, each with its service.
        let hba = dir.path().join("hba");
        let rules = format!(
            "host app ann all pam pamservice={own}\nhost all ann all pam pamservice={closed}\nhost all admin all trust\n"
        );
        std::fs::write(&hba, rules).unwrap();
        let general = format!("auth_type = \"hba\"\nauth_hba_file = {hba:?}");
        let weir = Weir::builder()
            .general(&general)
            .users("\"x\" \"\"")
            .cluster("app", &cluster, &[])
            .cluster("shut", &cluster, &[])
            .start();
        lets_in(&weir, "ann", "secret of ann");
        wrong_password(&weir, "ann", "secret");
        let error = refusal(weir.login("ann", "shut").password("secret of ann"));
        assert_eq!(error.code, "28P01", "the account is closed: {error}");
    }
}
