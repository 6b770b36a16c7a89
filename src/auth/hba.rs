//! Which proof is asked of whom: the rules of `auth_hba_file`, in the form of PostgreSQL's pg_hba.conf, and the maps of
//! `auth_ident_file`. The first rule that matches decides, and whom none matches is refused.
//!
//! See <https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>. What is not known here is an error: a rule that was passed
//! over would let in whom it should have kept out.

use std::net::IpAddr;

use regex::Regex;

use super::userlist::LineError;

/// How someone proves who he is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// He is refused.
    Reject,
    /// MD5, or SCRAM where that is stored.
    Md5,
    /// SCRAM.
    Scram,
    /// His password in clear text.
    Password,
    /// A TLS certificate; with the name of a map.
    Cert(Option<String>),
    /// The system user at the other end of a unix socket; with the name of a map.
    Peer(Option<String>),
}

/// Who wants to come in, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The database it asks for.
    pub database: &'a str,
    /// The user it claims to be.
    pub user: &'a str,
    /// Its address; none: a unix socket.
    pub address: Option<IpAddr>,
    /// Whether it came by TLS.
    pub tls: bool,
    /// Whether it wants the WAL itself, of no one database: only the word `replication` is meant for it.
    pub physical_replication: bool,
}

/// What connections a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    All,
    /// The database that is called as the user is.
    SameUser,
    /// Those who want the WAL itself.
    Replication,
    Is(String),
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    All,
    V4(u32, u32),
    V6(u128, u128),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    kind: Kind,
    databases: Vec<Name>,
    users: Vec<Name>,
    range: Range,
    method: Method,
}

/// The rules of a file, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// A word, and whether it stood in quotes: then it has no special meaning.
#[derive(Debug, Clone)]
struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

impl Rules {
    /// Reads a file's text. `maps`: those of `auth_ident_file`, of which a rule may name one.
    ///
    /// # Errors
    /// Every line that is no rule, with what is wrong with it.
    pub fn parse(text: &str, maps: &Maps) -> Result<Self, Vec<LineError>> {
        let mut rules = Vec::new();
        let mut errors = Vec::new();
        for (line, text) in lines(text) {
            match fields(&text).and_then(|fields| rule(&fields, maps)) {
                Ok(rule) => rules.extend(rule),
                Err(message) => errors.push(LineError { line, message }),
            }
        }
        if errors.is_empty() { Ok(Self(rules)) } else { Err(errors) }
    }

    /// The method of the first rule that matches; none: nobody said that it may come in.
    #[must_use]
    pub fn find(&self, caller: &Caller<'_>) -> Option<&Method> {
        self.0.iter().find(|rule| rule.matches(caller)).map(|rule| &rule.method)
    }
}

impl Rule {
    fn matches(&self, caller: &Caller<'_>) -> bool {
        let kind = match (self.kind, caller.address) {
            (Kind::Local, address) => address.is_none(),
            (_, None) => false,
            (Kind::Host, _) => true,
            (Kind::HostSsl, _) => caller.tls,
            (Kind::HostNoSsl, _) => !caller.tls,
        };
        let range = caller.address.is_none_or(|address| self.range.holds(address));
        let any = |names: &[Name], name: &str| {
            names.iter().any(|one| match one {
                Name::All => true,
                Name::SameUser => name == caller.user,
                Name::Replication => false,
                Name::Is(text) => text == name,
            })
        };
        let database = if caller.physical_replication {
            self.databases.contains(&Name::Replication)
        } else {
            any(&self.databases, caller.database)
        };
        kind && range && database && any(&self.users, caller.user)
    }
}

impl Range {
    fn holds(&self, address: IpAddr) -> bool {
        match (self, address.to_canonical()) {
            (Self::All, _) => true,
            (Self::V4(net, mask), IpAddr::V4(address)) => address.to_bits() & mask == *net,
            (Self::V6(net, mask), IpAddr::V6(address)) => address.to_bits() & mask == *net,
            (Self::V4(..) | Self::V6(..), _) => false,
        }
    }

    fn of(address: IpAddr, mask: IpAddr) -> Option<Self> {
        match (address, mask) {
            (IpAddr::V4(net), IpAddr::V4(mask)) => {
                let mask = mask.to_bits();
                (mask.leading_ones() == mask.count_ones()).then_some(Self::V4(net.to_bits() & mask, mask))
            }
            (IpAddr::V6(net), IpAddr::V6(mask)) => {
                let mask = mask.to_bits();
                (mask.leading_ones() == mask.count_ones()).then_some(Self::V6(net.to_bits() & mask, mask))
            }
            _ => None,
        }
    }

    fn cidr(address: IpAddr, bits: &str) -> Option<Self> {
        let bits: u32 = bits.parse().ok()?;
        let mask = match address {
            IpAddr::V4(_) if bits <= 32 => {
                IpAddr::V4(u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0).into())
            }
            IpAddr::V6(_) if bits <= 128 => {
                IpAddr::V6(u128::MAX.checked_shl(128_u32.checked_sub(bits)?).unwrap_or(0).into())
            }
            _ => return None,
        };
        Self::of(address, mask)
    }
}

/// Lines with their numbers; one that ends in a backslash goes on with the next.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()) {
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match all.last_mut() {
            Some((_, whole)) if goes_on => whole.push_str(part),
            _ => all.push((number, part.to_owned())),
        }
        goes_on = more;
    }
    all
}

/// A line's fields, each a list of words.
fn fields(line: &str) -> Result<Vec<Vec<Word>>, String> {
    let mut fields: Vec<Vec<Word>> = Vec::new();
    let mut rest = line.trim_start();
    let mut listed = false;
    while !rest.is_empty() && !rest.starts_with('#') {
        let (mut text, mut quoted, mut inside) = (String::new(), false, false);
        let mut end = rest.len();
        for (at, letter) in rest.char_indices() {
            match letter {
                '"' => (quoted, inside) = (true, !inside),
                ' ' | '\t' | '\r' | ',' | '#' if !inside => {
                    end = at;
                    break;
                }
                _ => text.push(letter),
            }
        }
        if inside {
            return Err("a quote is not closed".to_owned());
        }
        let word = Word { text, quoted };
        match fields.last_mut() {
            Some(field) if listed => field.push(word),
            _ => fields.push(vec![word]),
        }
        rest = rest.get(end..).unwrap_or_default();
        listed = rest.starts_with(',');
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Ok(fields)
}

fn rule(fields: &[Vec<Word>], maps: &Maps) -> Result<Option<Rule>, String> {
    let mut fields = fields.iter();
    let Some(kind) = fields.next() else { return Ok(None) };
    let kind = match single(kind, "the kind of connection")? {
        word if word.is("local") => Kind::Local,
        word if word.is("host") => Kind::Host,
        word if word.is("hostssl") => Kind::HostSsl,
        word if word.is("hostnossl") => Kind::HostNoSsl,
        word => return Err(format!("{:?} is not known; expected local, host, hostssl or hostnossl", word.text)),
    };
    let databases = fields.next().ok_or("the database is missing")?;
    let databases = databases.iter().map(|word| name(word, true)).collect::<Result<_, _>>()?;
    let users = fields.next().ok_or("the user is missing")?;
    let users = users.iter().map(|word| name(word, false)).collect::<Result<_, _>>()?;
    let range = if kind == Kind::Local { Range::All } else { range(&mut fields)? };
    let method = single(fields.next().ok_or("the method is missing")?, "the method")?;
    let mut map = None;
    for option in fields {
        let option = single(option, "an option")?;
        match option.text.split_once('=') {
            Some(("map", name)) if maps.has(name) => map = Some(name.to_owned()),
            Some(("map", name)) => return Err(format!("there is no map {name:?} in auth_ident_file")),
            _ => return Err(format!("the option {:?} is not supported; only map=NAME is", option.text)),
        }
    }
    let with_map = matches!(method.text.as_str(), "cert" | "peer");
    if map.is_some() && !with_map {
        return Err("map is for the methods cert and peer".to_owned());
    }
    let method = match method.text.as_str() {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "md5" => Method::Md5,
        "scram-sha-256" => Method::Scram,
        "password" => Method::Password,
        "cert" if kind == Kind::HostSsl => Method::Cert(map),
        "cert" => return Err("the method cert is for hostssl".to_owned()),
        "peer" if kind == Kind::Local => Method::Peer(map),
        "peer" => return Err("the method peer is for local".to_owned()),
        other => {
            let known = "trust, reject, md5, scram-sha-256, password, cert or peer";
            return Err(format!("the method {other:?} is not supported; expected {known}"));
        }
    };
    Ok(Some(Rule { kind, databases, users, range, method }))
}

fn single<'w>(field: &'w [Word], what: &str) -> Result<&'w Word, String> {
    match field {
        [word] => Ok(word),
        _ => Err(format!("{what} cannot be a list")),
    }
}

fn name(word: &Word, of_database: bool) -> Result<Name, String> {
    if word.quoted {
        return Ok(Name::Is(word.text.clone()));
    }
    let refused = |why: &str| Err(format!("{:?} is not supported: {why}", word.text));
    match word.text.as_str() {
        "all" => Ok(Name::All),
        "sameuser" if of_database => Ok(Name::SameUser),
        "replication" if of_database => Ok(Name::Replication),
        "samerole" | "samegroup" if of_database => refused("the members of roles are not known here"),
        text if text.starts_with('+') => refused("the members of roles are not known here; list the users"),
        text if text.starts_with('@') => refused("list the names in this file"),
        text if text.starts_with('/') => refused("names cannot be regular expressions here"),
        text => Ok(Name::Is(text.to_owned())),
    }
}

/// `all`, `address/bits`, or an address and a mask.
fn range<'f>(fields: &mut impl Iterator<Item = &'f Vec<Word>>) -> Result<Range, String> {
    let word = single(fields.next().ok_or("the address is missing")?, "the address")?;
    if word.is("all") {
        return Ok(Range::All);
    }
    let wrong = || {
        let text = &word.text;
        format!(
            "{text:?} is not an address: expected all, ADDRESS/BITS, or an address and a mask (host names are not supported)"
        )
    };
    if let Some((address, bits)) = word.text.split_once('/') {
        return address.parse().ok().and_then(|address| Range::cidr(address, bits)).ok_or_else(wrong);
    }
    let address: IpAddr = word.text.parse().map_err(|_| wrong())?;
    let mask = single(fields.next().ok_or("the mask is missing")?, "the mask")?;
    let range = mask.text.parse().ok().and_then(|mask| Range::of(address, mask));
    range.ok_or_else(|| format!("{:?} is not a mask for {:?}", mask.text, word.text))
}

/// The maps of `auth_ident_file`: which users a system user, or the name of a certificate, may be.
///
/// See <https://www.postgresql.org/docs/current/auth-username-maps.html>.
#[derive(Debug, Clone, Default)]
pub struct Maps(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    map: String,
    system: System,
    user: Mapped,
}

#[derive(Debug, Clone)]
enum System {
    Is(String),
    Like(Regex),
}

#[derive(Debug, Clone)]
enum Mapped {
    /// Any user.
    All,
    /// This one; `\1` stands for what the regular expression's first group has matched.
    Is(String),
}

impl Maps {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Every line that is not blank, a comment, or a map's name, a system user and a user.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        let mut entries = Vec::new();
        let mut errors = Vec::new();
        for (line, text) in lines(text) {
            match fields(&text).and_then(|fields| entry(&fields)) {
                Ok(entry) => entries.extend(entry),
                Err(message) => errors.push(LineError { line, message }),
            }
        }
        if errors.is_empty() { Ok(Self(entries)) } else { Err(errors) }
    }

    fn has(&self, map: &str) -> bool {
        self.0.iter().any(|entry| entry.map == map)
    }

    /// Whether who is `system` outside may be `user`. Without a map the two must be the same.
    #[must_use]
    pub fn allows(&self, map: Option<&str>, system: &str, user: &str) -> bool {
        let Some(map) = map else { return system == user };
        self.0.iter().filter(|entry| entry.map == map).any(|entry| entry.allows(system, user))
    }
}

impl Entry {
    fn allows(&self, system: &str, user: &str) -> bool {
        let group = match &self.system {
            System::Is(name) if name == system => None,
            System::Is(_) => return false,
            System::Like(regex) => {
                let Some(found) = regex.captures(system) else { return false };
                Some(found.get(1).map_or("", |group| group.as_str()))
            }
        };
        match (&self.user, group) {
            (Mapped::All, _) => true,
            // PostgreSQL replaces the first one.
            (Mapped::Is(name), Some(group)) => name.replacen("\\1", group, 1) == user,
            (Mapped::Is(name), None) => name == user,
        }
    }
}

fn entry(fields: &[Vec<Word>]) -> Result<Option<Entry>, String> {
    let (map, system, user) = match fields {
        [] => return Ok(None),
        [map, system, user] => (single(map, "the map")?, single(system, "the system user")?, single(user, "the user")?),
        _ => return Err("expected the map's name, the system user and the user".to_owned()),
    };
    let system = match system.text.strip_prefix('/') {
        Some(pattern) => {
            System::Like(Regex::new(pattern).map_err(|_| format!("{pattern:?} is not a regular expression"))?)
        }
        None => System::Is(system.text.clone()),
    };
    if user.text.contains("\\1") && !matches!(&system, System::Like(regex) if regex.captures_len() > 1) {
        return Err("\\1 stands for a group (...) of the system user's regular expression, which has none".to_owned());
    }
    if !user.quoted && user.text.starts_with(['+', '/']) {
        return Err(format!("{:?} is not supported: list the users", user.text));
    }
    let user = if user.is("all") { Mapped::All } else { Mapped::Is(user.text.clone()) };
    Ok(Some(Entry { map: map.text.clone(), system, user }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(rules: &Rules, database: &str, user: &str, address: Option<&str>, tls: bool) -> Option<Method> {
        let address = address.map(|text| text.parse().unwrap());
        rules.find(&Caller { database, user, address, tls, physical_replication: false }).cloned()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let text = "# comment\n\nlocal all boss peer # end\nhostssl \"all\", app ann,\"bob, jr\" 10.0.0.0/8 scram-sha-256\n\
                    hostnossl sameuser all 192.168.1.0 255.255.255.0 md5\nhost all eve all reject\n\
                    host all \\\n all ::1/128 trust\nhost all all 10.1.2.3/32 password\n\
                    host replication all 10.3.0.0/16 trust\nhost \"replication\" all 10.4.0.0/16 trust\n";
        let rules = Rules::parse(text, &Maps::default()).unwrap();
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
    fn who_wants_the_wal_is_meant_by_one_word_only() {
        let text =
            "host all all 10.0.0.1/32 trust\nhost replication all all md5\nhost \"replication\" all all reject\n";
        let rules = Rules::parse(text, &Maps::default()).unwrap();
        let of = |address: &str, physical_replication| {
            let address = address.parse().ok();
            let caller = Caller { database: "replication", user: "u", address, tls: false, physical_replication };
            rules.find(&caller).cloned()
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
            ("local @file all trust", "list the names in this file"),
            ("local all \"x trust", "a quote is not closed"),
            ("host all all 10.0.0.0/33 trust", "is not an address"),
            ("host all all example.com trust", "host names are not supported"),
            ("host all all 10.0.0.0 255.0.255.0 trust", "is not a mask"),
            ("host all all 10.0.0.0", "the mask is missing"),
            ("host all all all ldap", "\"ldap\" is not supported"),
            ("host all all all peer", "is for local"),
            ("host all all all cert", "is for hostssl"),
            ("host all all all md5 map=x", "there is no map \"x\""),
            ("host all all all md5 clientcert=verify-ca", "is not supported"),
        ];
        let text: String = cases.iter().map(|(line, _)| format!("{line}\n")).collect();
        let errors = Rules::parse(&text, &Maps::default()).unwrap_err();
        assert_eq!(errors.len(), cases.len(), "{errors:?}");
        for ((line, expected), (number, error)) in cases.iter().zip((1..).zip(&errors)) {
            assert!(error.line == number && error.message.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn maps_say_who_may_be_whom() {
        let maps =
            Maps::parse("m  root  postgres\nm /^(.*)@example\\.com$ \\1\nm /^boss$ all\nother root ann # not m\n")
                .unwrap();
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
        assert!(Rules::parse("local all all peer map=m", &maps).is_ok());
        assert!(Rules::parse("local all all md5 map=m", &maps).is_err());
        for wrong in ["m a", "m a b c", "m /( b", "m root \\1", "m /^root$ \\1", "m root +b"] {
            assert_eq!(Maps::parse(wrong).unwrap_err().len(), 1, "{wrong}");
        }
    }
}
