//! The files that say how names are resolved: resolv.conf, hosts, nsswitch.conf. Pure: text in, facts out.

use std::net::{IpAddr, SocketAddr};

/// The port of name servers.
const PORT: u16 = 53;

/// The name servers of a resolv.conf, and its other lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// In the order of the file; that of this machine if it names none, as in resolv.conf(5).
    pub servers: Vec<SocketAddr>,
    /// All else: search, domain, options.
    pub rest: String,
    /// Lines `nameserver` that name no address, by their number.
    pub mistakes: Vec<(usize, String)>,
}

impl ResolvConf {
    /// Reads a file in the form of resolv.conf(5). Beside an address, `nameserver` takes `ADDRESS:PORT` and `[ADDRESS]:PORT`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self { servers: Vec::new(), rest: String::new(), mistakes: Vec::new() };
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                conf.rest.push_str(line);
                conf.rest.push('\n');
                continue;
            }
            match words.next().map(|word| (word, server(word))) {
                Some((_, Some(server))) => conf.servers.push(server),
                Some((word, None)) => conf.mistakes.push((number, format!("{word:?} is no address of a name server"))),
                None => conf.mistakes.push((number, "nameserver needs an address".to_owned())),
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push(SocketAddr::from(([127, 0, 0, 1], PORT)));
        }
        conf
    }
}

fn server(word: &str) -> Option<SocketAddr> {
    word.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)).or_else(|_| word.parse()).ok()
}

/// The addresses of a name in a file in the form of hosts(5).
#[must_use]
pub fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    });
    addresses.collect()
}

/// Whether nsswitch.conf(5) names sources of host names beside those that we read ourselves: the hosts file, DNS, and systemd-resolved,
/// which is a name server as well.
#[must_use]
pub fn has_other_sources(text: &str) -> bool {
    let line = text.lines().find_map(|line| line.split('#').next().unwrap_or_default().trim().strip_prefix("hosts:"));
    // `[NOTFOUND=return]` and the like are no sources.
    let mut in_brackets = false;
    line.unwrap_or_default().replace('[', " [ ").replace(']', " ] ").split_whitespace().any(|word| {
        match word {
            "[" => in_brackets = true,
            "]" => in_brackets = false,
            _ if in_brackets => {}
            _ => return !matches!(word, "files" | "dns" | "resolve"),
        }
        false
    })
}

/// The full names to ask for, in this order: with the domains of the search list, and as it is; the latter first if it has at least
/// `ndots` dots. See resolv.conf(5).
#[must_use]
pub fn candidates(name: &str, search: &[String], ndots: usize) -> Vec<String> {
    let lower = name.to_ascii_lowercase();
    if name.ends_with('.') || lower == "localhost" || lower.ends_with(".localhost") {
        return vec![format!("{}.", name.strip_suffix('.').unwrap_or(name))];
    }
    let searched = search.iter().map(|domain| domain.trim_end_matches('.'));
    let searched =
        searched.map(|domain| if domain.is_empty() { format!("{name}.") } else { format!("{name}.{domain}.") });
    let own = format!("{name}.");
    let mut all: Vec<String> = searched.filter(|candidate| *candidate != own).collect();
    if name.matches('.').count() >= ndots {
        all.insert(0, own);
    } else {
        all.push(own);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let conf = ResolvConf::parse(
            "# one\n; two\nnameserver 10.0.0.1\nsearch a b\nnameserver\t127.0.0.1:5353 # odd\nnameserver [::1]:54\n\
             nameserver fd00::1\noptions ndots:2\nnameserver ns.example\nnameserver\n",
        );
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "127.0.0.1:5353", "[::1]:54", "[fd00::1]:53"]);
        assert_eq!(conf.rest, "# one\n; two\nsearch a b\noptions ndots:2\n");
        let mistakes: Vec<usize> = conf.mistakes.iter().map(|(line, _)| *line).collect();
        assert_eq!(mistakes, [9, 10]);
        assert_eq!(ResolvConf::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn hosts_file() {
        let text = "127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # no db\n\n10.0.0.7 db.example.com DB\n10.0.0.8 db\nx y\n";
        let found = |name: &str| hosts(text, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(found("db"), ["10.0.0.7", "10.0.0.8"]);
        assert_eq!(found("Db.Example.com."), ["10.0.0.7"]);
        assert!(found("y").is_empty() && found("no").is_empty());
    }

    #[test]
    fn nsswitch() {
        for (text, other) in [
            ("", false),
            ("passwd: files ldap\nhosts: files dns\n", false),
            ("hosts: files resolve [!UNAVAIL=return] dns # mdns\n", false),
            ("hosts: files mdns4_minimal [NOTFOUND=return] dns\n", true),
            ("hosts:files dns[success=return] ldap", true),
        ] {
            assert_eq!(has_other_sources(text), other, "{text}");
        }
    }

    #[test]
    fn search_list() {
        let search = ["a.org".to_owned(), "b.org.".to_owned()];
        let of = |name: &str, ndots| candidates(name, &search, ndots).join(" ");
        assert_eq!(of("db", 1), "db.a.org. db.b.org. db.");
        assert_eq!(of("db.x", 1), "db.x. db.x.a.org. db.x.b.org.");
        assert_eq!(of("db.x", 5), "db.x.a.org. db.x.b.org. db.x.");
        assert_eq!(of("db.x.", 5), "db.x.");
        assert_eq!(of("localhost", 5), "localhost.");
        assert_eq!(candidates("db", &[".".to_owned()], 1), ["db."]);
    }
}
