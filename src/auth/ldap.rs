//! What is asked of an LDAP server, by the options that PostgreSQL has for it in pg_hba.conf.
//!
//! Either the user's name makes the DN that is bound to, between a prefix and a suffix, or the DN is searched for and then bound to.
//! See <https://www.postgresql.org/docs/current/auth-ldap.html>.

use url::Url;

use super::hba;
use super::secret::Password;
use crate::config::{expected, percent_decode};

/// How passwords are checked by LDAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapSettings {
    /// URLs of the servers, as `ldap://host:389`; the first that can be reached is asked.
    pub servers: Vec<String>,
    /// Whether TLS is begun by the operation StartTLS (`ldaptls`).
    pub start_tls: bool,
    /// Who is bound to.
    pub who: Who,
}

/// How a user's DN is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// By its name between these.
    Named {
        /// `ldapprefix`.
        prefix: String,
        /// `ldapsuffix`.
        suffix: String,
    },
    /// By a search.
    Searched(Search),
}

/// A search for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Where it begins (`ldapbasedn`).
    pub base: String,
    /// How deep it goes.
    pub scope: Scope,
    /// Who searches (`ldapbinddn`); empty: nobody in particular.
    pub bind_dn: String,
    /// His password (`ldapbindpasswd`).
    pub bind_password: Password,
    /// The filter, where `$username` stands for the user.
    filter: String,
}

/// How deep a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The base alone.
    Base,
    /// What is right below it.
    One,
    /// All below it.
    Sub,
}

/// The options as they were given.
#[derive(Default)]
struct Given {
    server: String,
    port: Option<u16>,
    scheme: Option<String>,
    tls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    bind_dn: Option<String>,
    bind_password: Option<String>,
    attribute: Option<String>,
    filter: Option<String>,
    scope: Option<Scope>,
}

impl LdapSettings {
    /// Reads `auth_ldap_options`: the options of the method ldap, as a rule has them.
    ///
    /// # Errors
    /// What is wrong. Never holds the value of an option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let options = hba::options(text)?;
        Self::new(&options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>())
    }

    /// From options as names and values.
    ///
    /// # Errors
    /// What is wrong. Never holds the value of `ldapbindpasswd`.
    pub fn new(options: &[(&str, &str)]) -> Result<Self, String> {
        let mut given = Given::default();
        for (name, value) in options {
            given.take(name, value)?;
        }
        given.check()
    }
}

impl Given {
    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let text = || Some(value.to_owned());
        match name {
            "ldapserver" => value.clone_into(&mut self.server),
            "ldapport" => {
                let port = value.parse().ok().filter(|port| *port > 0);
                self.port = Some(port.ok_or_else(|| format!("ldapport = {value:?} is not a port, 1 to 65535"))?);
            }
            "ldapscheme" => self.scheme = Some(scheme(value)?),
            "ldaptls" => {
                self.tls = match value {
                    "0" => false,
                    "1" => true,
                    _ => return Err(format!("ldaptls = {value:?} is neither 0 nor 1")),
                }
            }
            "ldapprefix" => self.prefix = text(),
            "ldapsuffix" => self.suffix = text(),
            "ldapbasedn" => self.base = text(),
            "ldapbinddn" => self.bind_dn = text(),
            "ldapbindpasswd" => self.bind_password = text(),
            "ldapsearchattribute" => self.attribute = text(),
            "ldapsearchfilter" => self.filter = text(),
            "ldapurl" => self.url(value)?,
            _ => return Err(format!("the option {name:?} is not one of the method ldap")),
        }
        Ok(())
    }

    /// RFC 4516: `ldap[s]://host[:port]/basedn[?[attribute][?[scope][?[filter]]]]`.
    fn url(&mut self, text: &str) -> Result<(), String> {
        let wrong = "is not of the form ldap://host[:port]/basedn[?attribute[?scope[?filter]]]";
        let url = Url::parse(text).map_err(|_| format!("ldapurl {wrong}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("ldapurl cannot hold a user: there are ldapbinddn and ldapbindpasswd".to_owned());
        }
        self.scheme = Some(scheme(url.scheme())?);
        self.server =
            url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| format!("ldapurl {wrong}"))?.to_owned();
        self.port = url.port();
        let part = |text: &str| percent_decode(text).map(|text| (!text.is_empty()).then_some(text));
        self.base = part(url.path().trim_start_matches('/'))?;
        let mut parts = url.query().unwrap_or_default().split('?');
        self.attribute = part(parts.next().unwrap_or_default())?;
        self.scope = match parts.next().unwrap_or_default() {
            "" => None,
            "base" => Some(Scope::Base),
            "one" => Some(Scope::One),
            "sub" => Some(Scope::Sub),
            other => {
                let why = expected(other, ["base", "one", "sub"]);
                return Err(format!("the scope {other:?} of ldapurl is not known{why}"));
            }
        };
        self.filter = part(parts.next().unwrap_or_default())?;
        if parts.next().is_some() {
            return Err("ldapurl has extensions, which are not supported".to_owned());
        }
        Ok(())
    }

    fn check(self) -> Result<LdapSettings, String> {
        let scheme = self.scheme.as_deref().unwrap_or("ldap");
        if scheme == "ldaps" && self.tls {
            return Err("ldaptls is for ldap, not for ldaps, which is TLS from the begin".to_owned());
        }
        let named = self.prefix.is_some() || self.suffix.is_some();
        let searched = self.base.is_some()
            || self.bind_dn.is_some()
            || self.bind_password.is_some()
            || self.attribute.is_some()
            || self.filter.is_some();
        let who = match (named, searched, self.base) {
            (true, true, _) => {
                return Err("ldapprefix and ldapsuffix do not go together with the options of a search".to_owned());
            }
            (true, false, _) => {
                Who::Named { prefix: self.prefix.unwrap_or_default(), suffix: self.suffix.unwrap_or_default() }
            }
            (false, _, None) => return Err("ldapbasedn, ldapprefix or ldapsuffix is missing".to_owned()),
            (false, _, Some(base)) => {
                let filter = match (self.attribute, self.filter) {
                    (Some(_), Some(_)) => {
                        return Err("ldapsearchattribute and ldapsearchfilter do not go together".to_owned());
                    }
                    (_, Some(filter)) if filter.starts_with('(') => filter,
                    (_, Some(filter)) => format!("({filter})"),
                    (attribute, None) => format!("({}=$username)", attribute.as_deref().unwrap_or("uid")),
                };
                Who::Searched(Search {
                    base,
                    scope: self.scope.unwrap_or(Scope::Sub),
                    bind_dn: self.bind_dn.unwrap_or_default(),
                    bind_password: Password::new(self.bind_password.unwrap_or_default()),
                    filter,
                })
            }
        };
        let port = self.port.unwrap_or(if scheme == "ldaps" { 636 } else { 389 });
        let servers: Vec<_> = self.server.split_whitespace().map(|host| address(scheme, host, port)).collect();
        if servers.is_empty() {
            return Err("ldapserver is missing".to_owned());
        }
        Ok(LdapSettings { servers, start_tls: self.tls, who })
    }
}

fn scheme(text: &str) -> Result<String, String> {
    if matches!(text, "ldap" | "ldaps") {
        return Ok(text.to_owned());
    }
    Err(format!("the scheme {text:?} is not known{}", expected(text, ["ldap", "ldaps"])))
}

fn address(scheme: &str, host: &str, port: u16) -> String {
    // A host may bring its port; an IPv6 address stands in brackets.
    match host.rsplit_once(':') {
        Some((name, own)) if !own.is_empty() && own.bytes().all(|b| b.is_ascii_digit()) && !name.contains(':') => {
            format!("{scheme}://{host}")
        }
        Some(_) if !host.starts_with('[') => format!("{scheme}://[{host}]:{port}"),
        _ => format!("{scheme}://{host}:{port}"),
    }
}

impl Who {
    /// The DN of a user by its name; none if that cannot be a part of one, or must be searched for.
    #[must_use]
    pub fn dn(&self, user: &str) -> Option<String> {
        let Self::Named { prefix, suffix } = self else { return None };
        // These would make another DN of it than the one that is meant.
        let plain = !user.contains(['\0', ',', '+', '"', '\\', '<', '>', ';', '=', '#']);
        plain.then(|| format!("{prefix}{user}{suffix}"))
    }
}

impl Search {
    /// The filter for a user, whose name cannot change what is searched for.
    #[must_use]
    pub fn filter(&self, user: &str) -> String {
        let mut name = String::with_capacity(user.len());
        for letter in user.chars() {
            // RFC 4515.
            match letter {
                '*' | '(' | ')' | '\\' | '\0' => name.push_str(&format!("\\{:02x}", u32::from(letter))),
                _ => name.push(letter),
            }
        }
        self.filter.replace("$username", &name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(text: &str) -> (Vec<String>, Search) {
        match LdapSettings::parse(text).unwrap() {
            LdapSettings { servers, who: Who::Searched(search), .. } => (servers, search),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_read_as_postgresql_does() {
        let named =
            LdapSettings::parse("ldapserver=\"a b:3890 ::1\" ldapprefix=\"cn=\" ldapsuffix=\", dc=x\" ldaptls=1")
                .unwrap();
        assert_eq!(named.servers, ["ldap://a:389", "ldap://b:3890", "ldap://[::1]:389"]);
        assert!(named.start_tls);
        assert_eq!(named.who.dn("ann").as_deref(), Some("cn=ann, dc=x"));
        for user in ["ann,ou=admins", "a+b", "x=y", "a\\b", "a\0"] {
            assert_eq!(named.who.dn(user), None, "{user}");
        }

        let (servers, found) = search("ldapserver=h ldapport=3890 ldapbasedn=\"dc=x, dc=y\" ldapsearchattribute=mail");
        assert_eq!((servers.as_slice(), found.base.as_str()), (&["ldap://h:3890".to_owned()][..], "dc=x, dc=y"));
        assert_eq!(found.filter("a*(b)\\"), "(mail=a\\2a\\28b\\29\\5c)");
        let (_, found) = search("ldapserver=h ldapbasedn=b ldapsearchfilter=\"(|(uid=$username)(mail=$username@x))\"");
        assert_eq!(found.filter("ann"), "(|(uid=ann)(mail=ann@x))");
        assert_eq!((found.scope, found.filter("*")), (Scope::Sub, "(|(uid=\\2a)(mail=\\2a@x))".to_owned()));

        let (servers, found) =
            search("ldapurl=\"ldaps://h/dc=x,dc=y%20z?cn?one\" ldapbinddn=cn=root ldapbindpasswd=hunter2");
        assert_eq!(servers, ["ldaps://h:636"]);
        assert_eq!((found.base.as_str(), found.scope), ("dc=x,dc=y z", Scope::One));
        assert_eq!(found.filter("ann"), "(cn=ann)");
        assert_eq!((found.bind_dn.as_str(), found.bind_password.as_bytes()), ("cn=root", &b"hunter2"[..]));
        assert!(!format!("{found:?}").contains("hunter2"));
        let (_, found) = search("ldapurl=ldap://h:1/b??sub?(uid=$username)");
        assert_eq!(found.filter("ann"), "(uid=ann)");
    }

    #[test]
    fn mistakes_are_told_without_the_password() {
        for (text, expected) in [
            ("ldapserver=h", "ldapbasedn, ldapprefix or ldapsuffix is missing"),
            ("ldapprefix=x", "ldapserver is missing"),
            ("ldapserver=h ldapprefix=x ldapbasedn=y", "do not go together"),
            ("ldapserver=h ldapbasedn=y ldapsearchattribute=a ldapsearchfilter=b", "do not go together"),
            ("ldapserver=h ldapbasedn=y ldapport=0", "is not a port"),
            ("ldapserver=h ldapbasedn=y ldaptls=yes", "neither 0 nor 1"),
            ("ldapserver=h ldapbasedn=y ldapscheme=http", "expected \"ldap\" or \"ldaps\""),
            ("ldapserver=h ldapbasedn=y ldapscheme=ldaps ldaptls=1", "ldaptls is for ldap"),
            ("ldapurl=http://h/b", "expected \"ldap\" or \"ldaps\""),
            ("ldapurl=ldap:///b", "is not of the form"),
            ("ldapurl=ldap://h/b?a?deep", "\"deep\" of ldapurl is not known"),
            ("ldapurl=ldap://h/b?a?sub?(x=y)?e", "extensions"),
            ("ldapurl=ldap://u:hunter2@h/b", "cannot hold a user"),
            ("ldapbindpasswd=x hunter2", "not of the form NAME=VALUE"),
            ("ldapcolour=red", "is not one of the method ldap"),
            ("ldapbindpasswd=\"hunter2", "a quote is not closed"),
        ] {
            let error = LdapSettings::parse(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
