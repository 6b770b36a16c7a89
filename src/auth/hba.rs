//! Which proof is asked of whom: the rules of `auth_hba_file`, in the form of PostgreSQL's pg_hba.conf, and the maps of
//! `auth_ident_file`. The first rule that matches decides, and whom none matches is refused.
//!
//! See <https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>. What is not known here is an error: a rule that was passed
//! over would let in whom it should have kept out.

mod files;
mod maps;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use regex::Regex;

use super::external::{Built, External};
use super::ldap::LdapSettings;
use crate::config::expected;

pub use files::{Files, Mistake};
use files::{Word, single};
pub use maps::Maps;

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
    /// His password in clear text, which others check.
    External(External),
}

/// What a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The proof.
    pub method: Method,
    /// Whether the client's certificate must bear the user's name as well: `clientcert=verify-full`. That it has one of a known authority
    /// is seen to by TLS.
    pub named: bool,
}

/// The addresses of this machine, each with its mask.
pub type Interfaces = fn() -> Vec<(IpAddr, IpAddr)>;

/// Who wants to come in, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The database it asks for, by each of its names: the console has two. A rule that names one is for all.
    pub databases: &'a [&'a str],
    /// The user it claims to be.
    pub user: &'a str,
    /// Its address; none: a unix socket.
    pub address: Option<IpAddr>,
    /// Whether it came by TLS.
    pub tls: bool,
    /// Whether it wants the WAL itself, of no one database: only the word `replication` is meant for it.
    pub physical_replication: bool,
    /// For `samehost` and `samenet`.
    pub interfaces: Interfaces,
}

/// What connections a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

#[derive(Debug, Clone)]
enum Name {
    All,
    /// The database that is called as the user is.
    SameUser,
    /// Those who want the WAL itself.
    Replication,
    Is(String),
    /// What stood behind a slash.
    Like(Regex),
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    All,
    /// Our own addresses.
    SameHost,
    /// Whatever can be reached by one of our networks.
    SameNet,
    V4(u32, u32),
    V6(u128, u128),
}

#[derive(Debug, Clone)]
struct Rule {
    kind: Kind,
    databases: Vec<Name>,
    users: Vec<Name>,
    range: Range,
    way: Way,
}

/// The rules of a file, in its order.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Rule>);

/// Whether clients are asked for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificates {
    /// There is no TLS: no client comes by it.
    NoTls,
    /// They are not.
    Never,
    /// They are, and may have none.
    Optional,
    /// They are, and without one of a known authority they do not get as far as a rule.
    Required,
}

/// What rules refer to.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The maps of `auth_ident_file`, of which a rule may name one. None: there are mistakes in them, and any name is taken.
    pub maps: Option<&'a Maps>,
    /// Whether clients are asked for certificates.
    pub certificates: Certificates,
    /// Whom this program can ask.
    pub built: Built,
    /// The service of the method pam where a rule names none.
    pub pam_service: &'a str,
}

impl Rules {
    /// Reads a file and what it includes.
    ///
    /// # Errors
    /// Every line that is no rule, with what is wrong with it.
    pub fn read(path: &Path, files: &dyn Files, given: Given<'_>) -> Result<Self, Vec<Mistake>> {
        let (mut rules, mut mistakes) = (Vec::new(), Vec::new());
        for line in files::read(path, files, &mut mistakes) {
            match rule(&line.fields, given) {
                Ok(rule) => rules.push(rule),
                Err(message) => mistakes.push(line.mistake(message)),
            }
        }
        mistakes.sort_unstable();
        mistakes.dedup();
        if mistakes.is_empty() { Ok(Self(rules)) } else { Err(mistakes) }
    }

    /// What the first rule that matches asks for; none: nobody said that it may come in.
    #[must_use]
    pub fn find(&self, caller: &Caller<'_>) -> Option<&Way> {
        self.0.iter().find(|rule| rule.matches(caller)).map(|rule| &rule.way)
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
        let range = caller.address.is_none_or(|address| self.range.holds(address, caller.interfaces));
        let any = |names: &[Name], name: &str| {
            names.iter().any(|one| match one {
                Name::All => true,
                Name::SameUser => name == caller.user,
                Name::Replication => false,
                Name::Is(text) => text == name,
                Name::Like(regex) => regex.is_match(name),
            })
        };
        let database = if caller.physical_replication {
            self.databases.iter().any(|one| matches!(one, Name::Replication))
        } else {
            caller.databases.iter().any(|name| any(&self.databases, name))
        };
        kind && range && database && any(&self.users, caller.user)
    }
}

impl Range {
    fn holds(&self, address: IpAddr, interfaces: Interfaces) -> bool {
        match (self, address.to_canonical()) {
            (Self::SameHost, own) => interfaces().into_iter().any(|(address, _)| address == own),
            (Self::SameNet, near) => {
                let nets = interfaces().into_iter().filter_map(|(address, mask)| Self::of(address, mask));
                nets.into_iter().any(|net| net.holds(near, interfaces))
            }
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

/// The words for connections.
const KINDS: [&str; 5] = ["local", "host", "hostssl", "hostnossl", "hostnogssenc"];

/// The words for proofs.
const METHODS: [&str; 9] = ["trust", "reject", "md5", "scram-sha-256", "password", "cert", "peer", "ldap", "pam"];

fn rule(fields: &[Vec<Word>], given: Given<'_>) -> Result<Rule, String> {
    let mut fields = fields.iter();
    let kind = fields.next().ok_or("the kind of connection is missing")?;
    let kind = match single(kind, "the kind of connection")? {
        word if word.is("local") => Kind::Local,
        word if word.is("host") => Kind::Host,
        word if word.is("hostssl") => Kind::HostSsl,
        word if word.is("hostnossl") => Kind::HostNoSsl,
        word if word.is("hostnogssenc") => Kind::Host,
        word if word.is("hostgssenc") => return Err("hostgssenc: encryption by GSSAPI is not spoken here".to_owned()),
        word => return Err(format!("{:?} is not known{}", word.text, expected(&word.text, KINDS))),
    };
    let databases = fields.next().ok_or("the database is missing")?;
    let databases = databases.iter().map(|word| name(word, true)).collect::<Result<_, _>>()?;
    let users = fields.next().ok_or("the user is missing")?;
    let users = users.iter().map(|word| name(word, false)).collect::<Result<_, _>>()?;
    let range = if kind == Kind::Local { Range::All } else { range(&mut fields)? };
    let method = single(fields.next().ok_or("the method is missing")?, "the method")?;
    let options = fields.map(|field| option(field)).collect::<Result<Vec<_>, _>>()?;
    let way = way(kind, &method.text, &options, given)?;
    Ok(Rule { kind, databases, users, range, way })
}

/// Options by themselves, as they stand at the end of a rule.
pub(super) fn options(line: &str) -> Result<Vec<(String, String)>, String> {
    let fields = files::fields(line)?;
    fields.iter().map(|field| option(field).map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
}

/// `name=value`. What is none may be a part of a password, and is not told.
fn option(field: &[Word]) -> Result<(&str, &str), String> {
    let wrong = "an option is not of the form NAME=VALUE; a value with blanks or commas must stand in double quotes";
    single(field, "an option")?.text.split_once('=').ok_or_else(|| wrong.to_owned())
}

fn way(kind: Kind, method: &str, options: &[(&str, &str)], given: Given<'_>) -> Result<Way, String> {
    let (mut map, mut named, mut service, mut ldap) = (None, false, None, Vec::new());
    for (name, value) in options {
        match *name {
            "map" if !matches!(method, "cert" | "peer" | "ident") => {
                return Err("map is for the methods cert and peer".to_owned());
            }
            "map" if given.maps.is_some_and(|maps| !maps.has(value)) => {
                return Err(format!("there is no map {value:?} in auth_ident_file"));
            }
            "map" => map = Some((*value).to_owned()),
            "clientcert" => named = client_certificate(kind, method, value, given)?,
            "clientname" if method == "cert" && *value == "CN" => {}
            "clientname" => return Err("clientname=CN for the method cert is all that is supported".to_owned()),
            "pamservice" if method == "pam" => service = Some((*value).to_owned()),
            _ if method == "ldap" => ldap.push((*name, *value)),
            _ => {
                let known = "map=NAME and clientcert=verify-ca or verify-full are";
                return Err(format!("the option {name:?} is not supported; {known}"));
            }
        }
    }
    if let Some(lack) = given.built.lacks(method) {
        return Err(format!("the method {method}: {lack}"));
    }
    let method = match method {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "md5" => Method::Md5,
        "scram-sha-256" => Method::Scram,
        "password" => Method::Password,
        // Without TLS nobody comes whom the rule could be for.
        "cert" if kind == Kind::HostSsl && given.certificates != Certificates::Never => Method::Cert(map),
        "cert" if kind == Kind::HostSsl => {
            return Err(
                "the method cert needs client_tls_ca_file: only then are clients asked for a certificate".to_owned()
            );
        }
        "cert" => return Err("the method cert is for hostssl".to_owned()),
        // As in PostgreSQL: on a unix socket, ident is peer.
        "peer" | "ident" if kind == Kind::Local => Method::Peer(map),
        "peer" | "ident" => return Err(format!("the method {method} is for local")),
        "ldap" => Method::External(External::Ldap(Arc::new(LdapSettings::new(&ldap)?))),
        "pam" => Method::External(External::Pam(service.unwrap_or_else(|| given.pam_service.to_owned()))),
        other => return Err(format!("the method {other:?} is not supported{}", expected(other, METHODS))),
    };
    Ok(Way { method, named })
}

/// Whether the certificate must bear the user's name.
fn client_certificate(kind: Kind, method: &str, value: &str, given: Given<'_>) -> Result<bool, String> {
    let named = match value {
        "verify-full" => true,
        "verify-ca" if method == "cert" => return Err("with the method cert, clientcert is verify-full".to_owned()),
        "verify-ca" => false,
        _ => {
            return Err(format!(
                "clientcert = {value:?} is not known{}",
                expected(value, ["verify-ca", "verify-full"])
            ));
        }
    };
    if kind != Kind::HostSsl {
        return Err("clientcert is for hostssl".to_owned());
    }
    let does = match given.certificates {
        Certificates::Required => true,
        Certificates::Optional => named,
        Certificates::Never | Certificates::NoTls => false,
    };
    if !does {
        let why =
            "clientcert needs client_tls_sslmode = \"verify-ca\" or \"verify-full\": only then has every client one";
        return Err(why.to_owned());
    }
    // The method asks for that itself, by its map.
    Ok(named && method != "cert")
}

fn name(word: &Word, of_database: bool) -> Result<Name, String> {
    if let Some(pattern) = word.text.strip_prefix('/') {
        return Regex::new(pattern).map(Name::Like).map_err(|_| format!("{pattern:?} is not a regular expression"));
    }
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
        "@" => refused("the name of a file must follow"),
        text => Ok(Name::Is(text.to_owned())),
    }
}

/// `all`, `address/bits`, or an address and a mask.
fn range<'f>(fields: &mut impl Iterator<Item = &'f Vec<Word>>) -> Result<Range, String> {
    let word = single(fields.next().ok_or("the address is missing")?, "the address")?;
    if word.is("all") {
        return Ok(Range::All);
    }
    if word.is("samehost") {
        return Ok(Range::SameHost);
    }
    if word.is("samenet") {
        return Ok(Range::SameNet);
    }
    let wrong = || {
        let text = &word.text;
        format!(
            "{text:?} is not an address: expected all, samehost, samenet, ADDRESS/BITS, or an address and a mask (host names are not \
             supported)"
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
