//! Asking for the addresses of a name: the hosts file, the name servers of resolv.conf, and where nsswitch.conf names more, the system.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;

use super::cache::Part;
use super::files::{self, ResolvConf};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// A look-up that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the second family of addresses is waited for when the first is there: some name servers never answer for IPv6.
const SECOND: Duration = Duration::from_secs(1);
/// Requests under way at one name server.
const REQUESTS: usize = 512;

/// Asks. Lives on one thread, whose runtime has the resolver's tasks.
#[derive(Debug, Default)]
pub(super) struct Asker {
    built: RefCell<Option<Built>>,
}

/// A resolver and the text of the resolv.conf that it was made from: when the file changes, another is made.
#[derive(Debug, Clone)]
struct Built {
    text: String,
    resolver: TokioResolver,
    search: Vec<String>,
    servers: String,
}

/// The files as they are now: they are read for every look-up, for they change while we run.
struct Files {
    resolv_conf: io::Result<String>,
    hosts: String,
    nsswitch: String,
}

impl Files {
    async fn read(resolv_conf: Option<PathBuf>) -> io::Result<Self> {
        let read = move || {
            let own = resolv_conf.is_some();
            let text = std::fs::read(resolv_conf.unwrap_or_else(|| PathBuf::from(RESOLV_CONF)));
            let resolv_conf = match text {
                Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
                // Without the system's, the name server is on this machine: resolv.conf(5).
                Err(why) if why.kind() == io::ErrorKind::NotFound && !own => Ok(String::new()),
                Err(why) => Err(why),
            };
            let lossy =
                |path| std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
            // Who asks other name servers than the system's does not want the system's other sources either.
            let nsswitch = if own { String::new() } else { lossy(NSSWITCH) };
            Self { resolv_conf, hosts: lossy(HOSTS), nsswitch }
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)
    }
}

impl Asker {
    /// The addresses of `name`: those of IPv4 and those of IPv6. `resolv_conf`: a file instead of the system's.
    pub(super) async fn addresses(&self, name: &str, resolv_conf: Option<PathBuf>) -> (Part, Part) {
        let both = |why: String| (Part::Trouble(why.clone()), Part::Trouble(why));
        match tokio::time::timeout(LIMIT, self.look_up(name, resolv_conf)).await {
            Ok(Ok(parts)) => parts,
            Ok(Err(why)) => both(why),
            Err(_) => both(format!("no answer within {} s", LIMIT.as_secs())),
        }
    }

    async fn look_up(&self, name: &str, resolv_conf: Option<PathBuf>) -> Result<(Part, Part), String> {
        let named = resolv_conf.as_ref().map_or_else(|| RESOLV_CONF.to_owned(), |path| path.display().to_string());
        let files = Files::read(resolv_conf).await.map_err(|why| why.to_string())?;
        let listed = files::hosts(&files.hosts, name);
        if !listed.is_empty() {
            return Ok(by_family(listed, "not in the hosts file"));
        }
        let text = files.resolv_conf.map_err(|why| format!("cannot read {named}: {why}"))?;
        let built = self.built(text).map_err(|why| format!("{named}: {why}"))?;
        let parts = built.search(name).await;
        let found = |part: &Part| matches!(part, Part::Found(..));
        if found(&parts.0) || found(&parts.1) || !files::has_other_sources(&files.nsswitch) {
            return Ok(parts);
        }
        let others = system(name).await;
        Ok(if found(&others.0) || found(&others.1) { others } else { parts })
    }

    /// The serial number of a zone; none: it could not be found out.
    pub(super) async fn serial(&self, zone: &str, resolv_conf: Option<PathBuf>) -> Option<u32> {
        let files = Files::read(resolv_conf).await.ok()?;
        let built = self.built(files.resolv_conf.ok()?).ok()?;
        for candidate in built.candidates(zone) {
            let Ok(name) = Name::from_str_relaxed(&candidate) else { continue };
            let asked = tokio::time::timeout(LIMIT, built.resolver.lookup(name, RecordType::SOA)).await.ok()?;
            let soa = match asked {
                Ok(answer) => answer.answers().iter().find_map(|record| match &record.data {
                    RData::SOA(soa) => Some(soa.serial),
                    _ => None,
                }),
                // A part of a zone that has none of its own: the zone's is told beside that.
                Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                    soa: Some(soa),
                    response_code: ResponseCode::NoError,
                    ..
                }))) => Some(soa.data.serial),
                Err(_) => None,
            };
            if soa.is_some() {
                return soa;
            }
        }
        None
    }

    fn built(&self, text: String) -> Result<Built, String> {
        if let Some(built) = self.built.borrow().as_ref().filter(|built| built.text == text) {
            return Ok(built.clone());
        }
        let built = build(text)?;
        tracing::debug!(servers = built.servers, search = built.search.join(" "), "name servers");
        *self.built.borrow_mut() = Some(built.clone());
        Ok(built)
    }
}

fn build(text: String) -> Result<Built, String> {
    let conf = ResolvConf::parse(&text);
    for (line, mistake) in &conf.mistakes {
        tracing::warn!("resolv.conf, line {line}: {mistake}");
    }
    // It takes no ports, and nothing without a server.
    let (parsed, mut options) =
        parse_resolv_conf(format!("{}\nnameserver 127.0.0.1\n", conf.rest)).map_err(|why| why.to_string())?;
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        server.connections.iter_mut().for_each(|connection| connection.port = address.port());
        server
    };
    let (domain, search, _) = parsed.into_parts();
    // The domain of this machine's name counts where no list is given.
    let search = if search.is_empty() { domain.into_iter().collect() } else { search };
    // What is known, and the order of things, is our own business.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.num_concurrent_reqs = 1;
    options.max_active_requests = REQUESTS;
    let config = ResolverConfig::from_parts(None, Vec::new(), conf.servers.iter().map(server).collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    let resolver = builder.build().map_err(|why| why.to_string())?;
    let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
    Ok(Built { text, resolver, search: search.iter().map(ToString::to_string).collect(), servers: servers.join(", ") })
}

impl Built {
    fn candidates(&self, name: &str) -> Vec<String> {
        files::candidates(name, &self.search, self.resolver.options().ndots)
    }

    /// Goes through the search list. A name that could not be asked for makes the whole uncertain, unless another is found.
    async fn search(&self, name: &str) -> (Part, Part) {
        let mut trouble = None;
        let mut last = (Part::Nothing(String::new()), Part::Nothing(String::new()));
        for candidate in self.candidates(name) {
            last = self.both(&candidate).await;
            match &last {
                (Part::Found(..), _) | (_, Part::Found(..)) => return last,
                (Part::Trouble(_), _) | (_, Part::Trouble(_)) => {
                    trouble.get_or_insert_with(|| last.clone());
                }
                (Part::Nothing(_), Part::Nothing(_)) => {}
            }
        }
        trouble.unwrap_or(last)
    }

    async fn both(&self, name: &str) -> (Part, Part) {
        let (v4, v6) = (self.one(name, RecordType::A), self.one(name, RecordType::AAAA));
        tokio::pin!(v4, v6);
        let late = || Part::Trouble("no answer yet".to_owned());
        tokio::select! {
            v4 = &mut v4 => {
                let v6 = if matches!(v4, Part::Found(..)) { tokio::time::timeout(SECOND, v6).await.unwrap_or_else(|_| late()) } else { v6.await };
                (v4, v6)
            }
            v6 = &mut v6 => {
                let v4 = if matches!(v6, Part::Found(..)) { tokio::time::timeout(SECOND, v4).await.unwrap_or_else(|_| late()) } else { v4.await };
                (v4, v6)
            }
        }
    }

    async fn one(&self, name: &str, family: RecordType) -> Part {
        let parsed = match Name::from_str_relaxed(name) {
            Ok(name) => name,
            Err(why) => return Part::Nothing(format!("it is no name of a host: {why}")),
        };
        let answer = match self.resolver.lookup(parsed, family).await {
            Ok(answer) => answer,
            Err(why) => return self.failed(&why),
        };
        let addresses: Vec<IpAddr> = answer.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
        if addresses.is_empty() { Part::Nothing("it has no addresses".to_owned()) } else { Part::Found(addresses) }
    }

    fn failed(&self, why: &NetError) -> Part {
        let servers = &self.servers;
        match why {
            NetError::Dns(DnsError::NoRecordsFound(none)) => Part::Nothing(match none.response_code {
                ResponseCode::NXDomain => "there is no such name (NXDOMAIN)".to_owned(),
                _ => "it has no addresses".to_owned(),
            }),
            NetError::Dns(DnsError::ResponseCode(code)) => {
                Part::Trouble(format!("the name server ({servers}) answered: {code}"))
            }
            NetError::Timeout => Part::Trouble(format!("no answer from the name server ({servers})")),
            NetError::Io(why) => Part::Trouble(format!("the name server ({servers}) cannot be asked: {why}")),
            why => Part::Trouble(format!("the name server ({servers}) gave no answer: {why}")),
        }
    }
}

/// Asks the system, by all the ways that it knows.
async fn system(name: &str) -> (Part, Part) {
    match tokio::net::lookup_host((name, 0)).await {
        Ok(found) => by_family(found.map(|address| address.ip()).collect(), "the system knows none"),
        Err(why) => (Part::Nothing(why.to_string()), Part::Nothing(why.to_string())),
    }
}

/// Addresses of both families.
fn by_family(all: Vec<IpAddr>, otherwise: &str) -> (Part, Part) {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = all.into_iter().partition(IpAddr::is_ipv4);
    let part = |family: Vec<IpAddr>| {
        if family.is_empty() { Part::Nothing(otherwise.to_owned()) } else { Part::Found(family) }
    };
    (part(v4), part(v6))
}
