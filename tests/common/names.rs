//! A name server for a test: A and SOA records by UDP, which can be changed and silenced.
//!
//! The messages are those of RFC 1035, section 4.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;
/// What the records say of how long they are good, in seconds.
const TTL: u32 = 3600;

/// What it answers.
#[derive(Debug, Default)]
struct Zone {
    hosts: BTreeMap<String, Vec<Ipv4Addr>>,
    /// Names that stand for another.
    aliases: BTreeMap<String, String>,
    serials: BTreeMap<String, u32>,
    mute: bool,
    no_ipv6: bool,
    failing: bool,
    /// Every question for addresses: names in lower case, without the dot at the end.
    asked: Vec<String>,
}

/// A name server on a port of its own; it ends with this value.
pub struct NameServer {
    zone: Arc<Mutex<Zone>>,
    port: u16,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Starts one that knows no name.
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let (zone, end) = (Arc::new(Mutex::new(Zone::default())), Arc::new(AtomicBool::new(false)));
        let (known, ends) = (Arc::clone(&zone), Arc::clone(&end));
        let thread = std::thread::spawn(move || serve(&socket, &known, &ends));
        Self { zone, port, end, thread: Some(thread) }
    }

    /// Writes a resolv.conf that names it, with more lines.
    pub fn resolv_conf(&self, dir: &Path, more: &str) -> PathBuf {
        let path = dir.join(format!("resolv.{}.conf", self.port));
        fs::write(&path, format!("nameserver 127.0.0.1:{}\n{more}\n", self.port)).unwrap();
        path
    }

    /// From now on the name has these addresses; none: there is no such name.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let addresses: Vec<Ipv4Addr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let mut zone = self.zone.lock();
        if addresses.is_empty() {
            zone.hosts.remove(name);
        } else {
            zone.hosts.insert(name.to_owned(), addresses);
        }
    }

    /// From now on the name stands for another.
    pub fn set_alias(&self, name: &str, other: &str) {
        self.zone.lock().aliases.insert(name.to_owned(), other.to_owned());
    }

    /// The serial number of a zone.
    pub fn set_serial(&self, zone: &str, serial: u32) {
        self.zone.lock().serials.insert(zone.to_owned(), serial);
    }

    /// It answers nothing, or again.
    pub fn set_mute(&self, mute: bool) {
        self.zone.lock().mute = mute;
    }

    /// It never answers questions for IPv6 addresses.
    pub fn ignore_ipv6(&self) {
        self.zone.lock().no_ipv6 = true;
    }

    /// It answers SERVFAIL, or again as it should.
    pub fn set_failing(&self, failing: bool) {
        self.zone.lock().failing = failing;
    }

    /// How often the IPv4 addresses of a name were asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.zone.lock().asked.iter().filter(|asked| *asked == name).count()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(socket: &UdpSocket, zone: &Mutex<Zone>, end: &AtomicBool) {
    let mut buffer = [0; 1500];
    while !end.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let Some((name, kind, question_end)) = question(&buffer[..length]) else { continue };
        if kind == A {
            zone.lock().asked.push(name.clone());
        }
        let ignored = {
            let zone = zone.lock();
            zone.mute || (zone.no_ipv6 && kind == AAAA)
        };
        if ignored {
            continue;
        }
        let answer = answer(&zone.lock(), &name, kind, &buffer[..question_end]);
        drop(socket.send_to(&answer, from));
    }
}

/// The one question of a query: its name, its type, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}

fn answer(zone: &Zone, name: &str, kind: u16, query: &[u8]) -> Vec<u8> {
    // Records of the answer and of the authority: where in the query the owner's name begins, type and data.
    let (mut answers, mut authority) = (Vec::new(), Vec::new());
    // A name below which there are others is a name, too.
    let below = |parent: &str, child: &str| child.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    let known = zone.serials.contains_key(name)
        || zone.aliases.contains_key(name)
        || zone.hosts.keys().any(|host| host == name || below(name, host));
    let code = match (zone.failing, known) {
        (true, _) => 2,
        (false, false) => 3,
        (false, true) => 0,
    };
    if code == 0 && kind == A {
        let addresses = zone.hosts.get(name).into_iter().flatten();
        answers.extend(addresses.map(|address| (12, A, address.octets().to_vec())));
    }
    if code == 0
        && matches!(kind, A | AAAA)
        && let Some(other) = zone.aliases.get(name)
    {
        answers.push((12, CNAME, encoded(other)));
        // The owner of these is the name in the record before, which begins behind its head.
        let at = query.len() + 12;
        let addresses = zone.hosts.get(other).into_iter().flatten().filter(|_| kind == A);
        answers.extend(addresses.map(|address| (at, A, address.octets().to_vec())));
    }
    if code == 0 && kind == SOA {
        match zone.serials.get(name) {
            Some(serial) => answers.push((12, SOA, soa(*serial))),
            None => authority.extend(
                zone.serials
                    .iter()
                    .filter(|(above, _)| below(above, name))
                    .map(|(above, serial)| (12 + name.len() - above.len(), SOA, soa(*serial))),
            ),
        }
    }
    let count = |records: &[_]| u16::try_from(records.len()).unwrap().to_be_bytes();
    let mut out = query[..2].to_vec();
    // An authoritative answer, as recursive as was asked for.
    out.extend([0x84 | (query[2] & 1), 0x80 | code]);
    out.extend([0, 1]);
    out.extend(count(&answers));
    out.extend(count(&authority));
    out.extend([0, 0]);
    out.extend(&query[12..]);
    for (owner, kind, data) in answers.iter().chain(&authority) {
        // A pointer to the name, which stands in the question.
        out.extend([0xc0, u8::try_from(*owner).unwrap()]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(TTL.to_be_bytes());
        out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend(data);
    }
    out
}

/// A name as it stands in messages.
fn encoded(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// Both names are the root; then serial, refresh, retry, expire, minimum.
fn soa(serial: u32) -> Vec<u8> {
    let numbers = [serial, 3600, 600, 86_400, 60];
    [0, 0].into_iter().chain(numbers.iter().flat_map(|n: &u32| n.to_be_bytes())).collect()
}
